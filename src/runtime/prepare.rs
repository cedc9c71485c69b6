//! Everything of a start or a reload that can fail, done before anything changes.
//!
//! It reads files, looks up names and opens sockets, so it runs where it may block. What it has opened
//! closes again when its result is dropped.

use std::path::Path;
use std::sync::Arc;

use crate::config::{Cluster, Config};
use crate::model::Splice;
use crate::proxy::listener::ListenError;
use crate::proxy::{Crew, Plane, Prepared, pipes};

use super::clusters::{Ready, reports};
use super::diff::{Diff, Origin};
use super::material;
use super::state_file::{self, Memories};

/// Descriptors kept for listeners, checks, the DCS and the admin endpoint.
const DESCRIPTORS_RESERVE: usize = 256;
/// Where the kernel does not tell.
const DESCRIPTORS_FALLBACK: usize = 1024;

/// From what to what.
pub struct Step {
    pub new: Config,
    pub diff: Diff,
    /// Of the old clusters, in their order.
    pub planes: Vec<Arc<Plane>>,
    /// Where planes do their work.
    pub crew: Crew,
}

/// Nothing left that can fail.
pub struct Prospect {
    pub step: Step,
    pub clusters: Vec<Ready>,
    pub hold_max: usize,
    /// What a new state file knew already.
    pub found: Memories,
    /// What came of splice when it was tried out; None where it is not wanted.
    pub splice: Option<Result<(), String>>,
}

/// # Errors
/// A sentence for each thing that stands in the way; then nothing was changed.
pub fn prepare(step: Step) -> Result<Prospect, Vec<String>> {
    let mut problems = Vec::new();
    let hold_max = hold_max(&step.new);
    let mut clusters = Vec::new();
    for (index, cluster) in step.new.clusters.iter().enumerate() {
        match ready(&step, index, cluster, hold_max) {
            Ok(ready) => clusters.push(ready),
            Err(more) => {
                problems.extend(more.into_iter().map(|problem| format!("clusters/{}: {problem}", cluster.spec.name)));
            }
        }
    }
    let found = match step.new.state_file.as_ref().filter(|_| step.diff.state_file) {
        Some(path) => look_at(path).map_err(|problem| problems.push(format!("state_file: {problem}"))).ok(),
        None => None,
    };
    if problems.is_empty() {
        let splice = (step.new.splice != Splice::Off).then(pipes::try_out);
        Ok(Prospect { step, clusters, hold_max, found: found.unwrap_or_default(), splice })
    } else {
        Err(problems)
    }
}

fn ready(step: &Step, index: usize, cluster: &Cluster, hold_max: usize) -> Result<Ready, Vec<String>> {
    let mut problems = Vec::new();
    let note = |what: &'static str| move |problem: String| (what, problem);
    let access = cluster.etcd.as_ref().map(material::etcd_access).transpose().map_err(note("dcs.etcd"));
    let api_tls = material::api_tls(cluster.patroni_tls.as_ref()).map_err(note("patroni.tls"));
    let plane = match open(step, index, cluster, hold_max) {
        Ok(opened) => Some(opened),
        Err(errors) => {
            problems.extend(errors.iter().map(ToString::to_string));
            None
        }
    };
    match (access, api_tls, plane) {
        (Ok(access), Ok(api_tls), Some((plane, reports, prepared))) => {
            Ok(Ready { cluster: cluster.clone(), plane, reports, prepared, access, api_tls })
        }
        (access, api_tls, _) => {
            let wrong = [access.err(), api_tls.err()].into_iter().flatten();
            problems.extend(wrong.map(|(what, problem)| format!("{what}: {problem}")));
            Err(problems)
        }
    }
}

type Opened = (Arc<Plane>, Option<tokio::sync::mpsc::Receiver<crate::decide::Report>>, Prepared);

fn open(step: &Step, index: usize, cluster: &Cluster, hold_max: usize) -> Result<Opened, Vec<ListenError>> {
    let old = match step.diff.clusters.get(index) {
        Some(Origin::Kept { old, .. }) => step.planes.get(*old),
        _ => None,
    };
    let spec = &cluster.spec;
    let (plane, reports) = match old {
        Some(plane) => (plane.clone(), None),
        None => {
            let (reporter, reports) = reports();
            // Without services: a listener that accepts has clients, and this may still come to nothing.
            (Arc::new(Plane::start(step.crew.clone(), spec.name.clone(), &[], reporter, hold_max)?), Some(reports))
        }
    };
    let prepared = plane.prepare(&spec.services)?;
    Ok((plane, reports, prepared))
}

fn look_at(path: &Path) -> Result<Memories, String> {
    let (found, problems) = state_file::peek(path)?;
    state_file::try_folder(path)?;
    for problem in problems {
        tracing::error!(target: "pgvane::reload", "{problem}");
    }
    Ok(found)
}

/// Held clients use a descriptor each, and one more for the server when they are let go.
fn hold_max(config: &Config) -> usize {
    let listeners: usize = config.clusters.iter().flat_map(|c| &c.spec.services).map(|s| s.listen.len()).sum();
    (descriptors().saturating_sub(DESCRIPTORS_RESERVE + listeners) / 2).max(1)
}

/// As many descriptors as this process may have: the soft limit is raised to the hard one.
fn descriptors() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return DESCRIPTORS_FALLBACK };
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    usize::try_from(if raised { hard } else { soft }).unwrap_or(usize::MAX)
}
