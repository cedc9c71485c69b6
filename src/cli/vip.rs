//! `pgvane vip`: the holder of one virtual address alone, in the place of any vip-manager.
//!
//! Called by the name `vip-manager` it is the same, with vip-manager's exit code for everything that is wrong.

mod arguments;
mod layers;
mod plan;
mod settings;
mod values;

#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::config::Problem;
use crate::config::flat::{self, Flat, fit_for_a_terminal};
use crate::runtime::log::{self, LogFormat};
use crate::runtime::vip_alone::{Process, Trouble};

use super::BAD_USAGE;
use super::check::BAD_CONFIGURATION;
use arguments::{Asked, Flags};
use layers::{Given, merge};
use plan::Effective;
use values::Reader;

/// By which name it was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Called {
    Subcommand,
    VipManager,
}

/// The program that this is a drop-in for.
const VIP_MANAGER: &str = "vip-manager";

impl Called {
    /// Whether the program's own name asks for this command.
    pub fn by(program: &OsStr) -> Option<Called> {
        (Path::new(program).file_name()? == VIP_MANAGER).then_some(Called::VipManager)
    }

    fn name(self) -> &'static str {
        match self {
            Called::Subcommand => "pgvane vip",
            Called::VipManager => VIP_MANAGER,
        }
    }

    /// vip-manager knows 1 alone, since 5.0 also for flags.
    fn code(self, ours: u8) -> ExitCode {
        ExitCode::from(if self == Called::Subcommand { ours } else { 1 })
    }
}

/// What settings come to.
enum Outcome {
    Good(Box<Effective>),
    /// What is wrong, for stderr.
    Bad(Vec<String>),
}

/// Holds the address until it is told to end. `words` are those behind the program's name and the command's.
pub fn main(called: Called, words: &[OsString], format: Option<LogFormat>) -> ExitCode {
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let flags = match arguments::read(&words) {
        // A closed stdout is nobody's loss.
        Ok(Asked::Help) => {
            let _ = write!(io::stdout(), "{}", settings::help(called.name()));
            return ExitCode::SUCCESS;
        }
        Ok(Asked::Version) => {
            let _ = writeln!(io::stdout(), "version: {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Ok(Asked::Run(flags)) => flags,
        Err(sentence) => {
            tell(&[sentence]);
            return called.code(BAD_USAGE);
        }
    };
    // Before anything that may take its time: an impatient signal must not be the end.
    let process = match Process::new() {
        Ok(process) => process,
        Err(error) => return super::finish(Err(error.into())),
    };
    let (notices, outcome) = settle(&flags, &|name| std::env::var(name).ok(), &hostname());
    match outcome {
        Outcome::Bad(sentences) => {
            tell(&notices);
            tell(&sentences);
            called.code(BAD_CONFIGURATION)
        }
        Outcome::Good(effective) => run(called, process, &effective, &notices, format),
    }
}

fn run(
    called: Called,
    process: Process,
    effective: &Effective,
    notices: &[String],
    format: Option<LogFormat>,
) -> ExitCode {
    let level = if effective.verbose { "info,pgvane=debug" } else { "info" };
    log::start_at(effective.log_format.or(format).unwrap_or_default(), level);
    for notice in notices {
        tracing::warn!(target: "pgvane::vip", "{notice}");
    }
    show(effective);
    let outcome = process.run(&effective.plan);
    let code = match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Trouble::Refused(sentences)) => {
            sentences.iter().for_each(|sentence| tracing::error!(target: "pgvane::vip", "{sentence}"));
            called.code(BAD_CONFIGURATION)
        }
        Err(Trouble::Unfit(sentences)) => {
            sentences.iter().for_each(|sentence| tracing::error!(target: "pgvane::vip", "{sentence}"));
            ExitCode::FAILURE
        }
        Err(Trouble::Failed(sentence)) => {
            tracing::error!(target: "pgvane::vip", "{sentence}");
            ExitCode::FAILURE
        }
    };
    log::finish();
    code
}

fn show(effective: &Effective) {
    let mut text = "This is the config that will be used:\n".to_owned();
    for (name, value) in &effective.shown {
        text += &format!("\t{name} : {value}\n");
    }
    // Nobody is left to tell when stdout is closed.
    let _ = write!(io::stdout(), "{text}");
}

fn tell(sentences: &[String]) {
    for sentence in sentences {
        let _ = writeln!(io::stderr(), "{sentence}");
    }
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// What flags, environment and file say together: notices, and what comes of it.
fn settle(flags: &Flags, variables: &dyn Fn(&str) -> Option<String>, hostname: &str) -> (Vec<String>, Outcome) {
    let path = flags.values.get("config").cloned().or_else(|| variables("VIP_CONFIG")).filter(|path| !path.is_empty());
    let file = match path.map(|path| flat::load(Path::new(&path))) {
        None => Flat::default(),
        Some(Ok(file)) => file,
        Some(Err(problems)) => return (Vec::new(), Outcome::Bad(vec![problems.to_string()])),
    };
    let mut merged = merge(&Given { flags, variables, file: &file });
    let mut notices = std::mem::take(&mut merged.notices);
    if merged.conflicts {
        return (notices, Outcome::Bad(vec!["Cannot continue due to conflicts.".to_owned()]));
    }
    let mut reader = Reader::new(&merged);
    let strict = reader.switch("strict");
    let strange = strays(flags).chain(merged.strange.iter().cloned());
    if strict {
        reader.problems.extend(strange);
    } else {
        notices.extend(strange.map(|problem| ignored(&file, &problem)));
    }
    let effective = plan::resolve(&mut reader, &merged, hostname);
    let Reader { problems, warnings, .. } = reader;
    notices.extend(warnings);
    match effective {
        Some(effective) if problems.is_empty() => (notices, Outcome::Good(Box::new(effective))),
        _ => (notices, Outcome::Bad(sentences(&file, problems))),
    }
}

/// Words that belong to no flag, which vip-manager passes over.
fn strays(flags: &Flags) -> impl Iterator<Item = Problem> {
    flags.strays.iter().map(|word| Problem { at: None, sentence: format!("\"{word}\" belongs to no flag") })
}

fn ignored(file: &Flat, problem: &Problem) -> String {
    let place = problem.at.map(|at| format!("{}:{}:{}: ", file.name(), at.line, at.column)).unwrap_or_default();
    format!("{place}{}; it is ignored", fit_for_a_terminal(&problem.sentence))
}

/// Those with a place in the file with its lines, the others as they are.
fn sentences(file: &Flat, problems: Vec<Problem>) -> Vec<String> {
    let (placed, bare): (Vec<_>, Vec<_>) = problems.into_iter().partition(|problem| problem.at.is_some());
    let mut all: Vec<String> = bare.iter().map(|problem| fit_for_a_terminal(&problem.sentence)).collect();
    all.dedup();
    if !placed.is_empty() {
        all.push(file.problems(placed).to_string());
    }
    all
}

/// The words of the command where pgvane's own flags come first.
#[derive(Debug, clap::Args)]
pub struct VipArguments {
    /// vip-manager's settings as flags; `pgvane vip --help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "SETTINGS")]
    pub words: Vec<OsString>,
}
