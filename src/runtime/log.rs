//! One log line per transition, with its reason.

mod frame;
mod lines;
mod queue;
mod syslog;

use std::io::{self, IsTerminal};
use std::time::Duration;

use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::LogSpec;
use crate::decide::Transition;
use crate::model::{MemberName, Order};

/// For the last lines at the end of the process.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How log lines are written to stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Installs the log writer. `RUST_LOG` narrows or widens it; the default is `info`.
pub fn start(format: LogFormat) {
    start_at(format, "info");
}

/// The same with another default.
pub fn start_at(format: LogFormat, default: &str) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let writer = match queue::start(std::io::stderr()) {
        Ok(queue) => BoxMakeWriter::new(queue),
        // Without a thread for it, the slow way is better than none.
        Err(_) => BoxMakeWriter::new(std::io::stderr),
    };
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    // A second call, as in tests, keeps the first writer.
    let _already = match format {
        LogFormat::Text => {
            subscriber.with_ansi(std::io::stderr().is_terminal()).event_format(lines::Lines::default()).try_init()
        }
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
}

/// Where lines go from now on besides stderr. The writer must have been started before the configuration
/// could be read, because what is wrong with it is said, too; this is the rest, at the start and at
/// every reload that changes it.
///
/// # Errors
/// When there is no thread to be had for it; then everything stays as it was.
pub fn redirect(spec: &LogSpec) -> io::Result<()> {
    queue::to_syslog(spec.syslog.clone())
}

/// Waits until everything said so far is written, as far as whoever reads it lets us.
pub fn finish() {
    queue::flush(FLUSH_TIMEOUT);
}

fn named(member: Option<&MemberName>) -> &str {
    member.map_or("nobody", MemberName::as_str)
}

/// Writes the line for one transition.
pub fn transition(cluster: &str, transition: &Transition) {
    match transition {
        Transition::Lead { from, to, reason } => {
            let (from, to) = (named(from.as_ref()), named(to.as_ref()));
            tracing::info!(target: "pgvane::lead", cluster, from, to, %reason, "writes go to {to}: {}", reason.sentence());
        }
        Transition::LeaderKey { from, to, revision } => {
            let (from, to) = (named(from.as_ref()), named(to.as_ref()));
            tracing::info!(target: "pgvane::lead", cluster, from, to, revision, "the leader key names {to}");
        }
        Transition::Target { service, member, from, to, reason } => {
            tracing::info!(
                target: "pgvane::target", cluster, %service, %member, from, to, %reason,
                "{member} is {to} for {service}: {}", reason.sentence()
            );
        }
        Transition::Health { member, up: true, reason } => {
            tracing::info!(target: "pgvane::member", cluster, %member, %reason, "{member} is up");
        }
        Transition::Health { member, up: false, reason } => {
            tracing::warn!(target: "pgvane::member", cluster, %member, %reason, "{member} is down: {}", reason.sentence());
        }
        Transition::Dcs { fresh: true, .. } => {
            tracing::info!(target: "pgvane::dcs", cluster, "the view of the DCS is fresh");
        }
        Transition::Dcs { fresh: false, reason } => {
            tracing::warn!(target: "pgvane::dcs", cluster, %reason, "the DCS: {}", reason.sentence());
        }
        Transition::Check { member, path, up: true, reason } => {
            tracing::info!(target: "pgvane::member", cluster, %member, path = &**path, %reason, "{member} is up for {path}");
        }
        Transition::Check { member, path, up: false, reason } => {
            tracing::warn!(
                target: "pgvane::member", cluster, %member, path = &**path, %reason,
                "{member} is down for {path}: {}", reason.sentence()
            );
        }
        Transition::Order { member, order } => match order {
            Order::State(state) => {
                let state = state.as_str();
                tracing::warn!(target: "pgvane::member", cluster, %member, state, "an operator set {member} to {state}");
            }
            Order::Weight(weight) => {
                let weight = weight.map_or("as configured".to_owned(), |weight| weight.to_string());
                tracing::warn!(target: "pgvane::member", cluster, %member, weight, "an operator set the weight of {member}");
            }
        },
        Transition::TimelineMark { system_id, timeline } => {
            tracing::info!(target: "pgvane::lead", cluster, system_id, %timeline, "timeline mark");
        }
        Transition::Member { member, known } => {
            let word = if *known { "found" } else { "gone" };
            tracing::info!(target: "pgvane::member", cluster, %member, known, "{member} is {word}");
        }
        Transition::KeyProblem { key, problem } => {
            tracing::warn!(target: "pgvane::dcs", cluster, key, problem, "a key in the DCS cannot be understood");
        }
    }
}
