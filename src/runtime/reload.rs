//! From one configuration to the next: first everything that can fail, then everything else.
//!
//! A reload that fails has changed nothing. One that succeeds loses nothing: listeners, sessions, held
//! clients, checks and proofs of what stays are the same objects before and after.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use crate::admin::Lifecycle;
use crate::config::{self, Config, Problems};
use crate::proxy::{Crew, Plane, pipes};

use super::clusters::Clusters;
use super::diff::Diff;
use super::endpoints::{self, Bound, Endpoints};
use super::memories::Keeper;
use super::prepare::{Prospect, Step, prepare};
use super::{clock, log, state_file, vips};

/// A router at work, and the file that it is what it is by.
pub struct Station {
    path: PathBuf,
    config: Config,
    clusters: Clusters,
    endpoints: Endpoints,
    keeper: Keeper,
    lifecycle: Arc<Lifecycle>,
    crew: Crew,
}

impl Station {
    /// A start is a reload from nothing.
    ///
    /// # Errors
    /// A sentence for each thing that stands in the way.
    pub async fn start(path: PathBuf, config: Config, crew: Crew) -> Result<Station, Vec<String>> {
        redirect_log(&config);
        let lifecycle = Arc::new(Lifecycle::default());
        let remembered = recall(config.state_file.as_ref());
        let keeper = Keeper::start(config.state_file.clone(), remembered);
        let diff = Diff::new(None, &config);
        let step = Step { new: config.clone(), diff, planes: Vec::new(), crew: crew.clone() };
        let (prospect, bound) = make_ready(step).await?;
        let clusters = Clusters::new(lifecycle.clone());
        let endpoints = Endpoints::new(clusters.roster(), lifecycle.clone());
        let mut station = Station { path, config, clusters, endpoints, keeper, lifecycle, crew };
        station.become_as(prospect, bound).await;
        station.lifecycle.configured(clock::unix_seconds());
        Ok(station)
    }

    /// Reads the file again. Every problem is in the log afterwards. It may be dropped at any moment: up
    /// to the last wait nothing has changed, and at that wait everything has.
    pub async fn reload(&mut self) {
        tracing::info!(target: "pgvane::reload", file = %self.path.display(), "reading the configuration again");
        let outcome = self.try_reload().await;
        self.lifecycle.reloaded(outcome.is_ok(), clock::unix_seconds());
        match outcome {
            Ok(what) => tracing::info!(target: "pgvane::reload", "reloaded: {what}"),
            Err(problems) => {
                problems.iter().for_each(|problem| tracing::error!(target: "pgvane::reload", "{problem}"));
                let count = problems.len();
                tracing::error!(
                    target: "pgvane::reload", problems = count,
                    "not reloaded: everything goes on as it was before"
                );
            }
        }
    }

    async fn try_reload(&mut self) -> Result<String, Vec<String>> {
        let config = self.read().await?;
        let diff = Diff::new(Some(&self.config), &config);
        let what = diff.to_string();
        let step = Step { new: config, diff, planes: self.clusters.planes(), crew: self.crew.clone() };
        let (prospect, bound) = make_ready(step).await?;
        self.become_as(prospect, bound).await;
        Ok(what)
    }

    /// Files may lie on a disk that hangs: not on this thread.
    async fn read(&self) -> Result<Config, Vec<String>> {
        let path = self.path.clone();
        match spawn_blocking(move || config::load(&path)).await {
            Ok(Ok(config)) => Ok(config),
            Ok(Err(problems)) => Err(self.told(&problems)),
            Err(error) => Err(vec![error.to_string()]),
        }
    }

    /// One line for each, as `file:line:column: what is wrong`.
    fn told(&self, problems: &Problems) -> Vec<String> {
        let file = self.path.display();
        let line = |problem: &config::Problem| match problem.at {
            Some(at) => format!("{file}:{}:{}: {}", at.line, at.column, problem.sentence),
            None => format!("{file}: {}", problem.sentence),
        };
        problems.iter().map(line).collect()
    }

    /// All of it happens before the first wait.
    async fn become_as(&mut self, prospect: Prospect, bound: Bound) {
        let Prospect { step, clusters, hold_max, found, splice } = prospect;
        let Step { new, diff, .. } = step;
        if diff.log {
            redirect_log(&new);
        }
        if diff.state_file {
            self.keeper.move_to(new.state_file.clone(), found);
        }
        pipes::set(new.splice);
        if let Some(tried) = splice {
            tell_of_splice(tried);
        }
        let told = self.clusters.become_as(&new, &diff, clusters, hold_max, &self.keeper);
        self.endpoints.become_as(&diff, new.admin.as_ref(), bound);
        self.config = new;
        for done in told {
            // A driver that is gone has said so.
            let _answered = done.await;
        }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// Of all clusters that have clients.
    pub fn planes(&self) -> Vec<Arc<Plane>> {
        self.clusters.all_planes()
    }

    /// Lets virtual addresses go and writes down what is to be remembered.
    pub async fn finish(self) {
        self.clusters.finish().await;
        self.keeper.finish().await;
    }
}

fn redirect_log(config: &Config) {
    if let Err(error) = log::redirect(&config.log) {
        tracing::error!(target: "pgvane::run", %error, "log: syslog gets no lines");
    }
}

/// Without splice everything is served, for more CPU: no reason not to start.
fn tell_of_splice(tried: Result<(), String>) {
    let why = tried.as_ref().err().cloned();
    let was_usable = pipes::judge(tried);
    match why {
        Some(why) => tracing::warn!(
            target: "pgvane::run",
            "splice does not work on this machine: {why}; bulk data is copied, which is as safe and costs more CPU; \
             `splice: off` in the configuration does the same without this line"
        ),
        None if !was_usable => tracing::info!(target: "pgvane::run", "splice works on this machine now"),
        None => tracing::debug!(target: "pgvane::run", "splice works on this machine"),
    }
}

async fn make_ready(step: Step) -> Result<(Prospect, Bound), Vec<String>> {
    let bound = endpoints::bind(&step.diff.admin_added).await;
    let vips = vips::examine(&step.diff.vips_added).await;
    let prospect = spawn_blocking(move || prepare(step)).await.unwrap_or_else(|error| Err(vec![error.to_string()]));
    match (prospect, bound, vips) {
        (Ok(prospect), Ok(bound), Ok(())) => Ok((prospect, bound)),
        (prospect, bound, vips) => {
            Err([prospect.err(), bound.err(), vips.err()].into_iter().flatten().flatten().collect())
        }
    }
}

fn recall(path: Option<&PathBuf>) -> state_file::Memories {
    let Some(path) = path else { return state_file::Memories::new() };
    let (memories, problems) = state_file::load(path);
    for problem in problems {
        tracing::error!(target: "pgvane::run", "{problem}");
    }
    memories
}
