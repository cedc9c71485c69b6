//! `conf/full.yml`: every option with its documentation and default, written from the table of options.

use super::options::{Kind, Opt, Section, Shown, TOP};
use super::quantity::show_duration;

/// The text of `conf/full.yml`.
pub fn full_yml() -> String {
    let mut page = Page { text: String::from(HEAD) };
    page.options(TOP.options(), 0, Style::Documented);
    page.text
}

const HEAD: &str = "\
# Every option of pgvane with its default. Lines that begin with #word are options that are off
# by default, with an example. `pgvane check -c FILE` reads a file and says what would run.
# Durations are written 250ms, 3s, 1.5m, 2h, 1d.
";

/// The other services of the default, beside the one that shows every option.
const OTHER_SERVICES: [&str; 3] = [
    "primary: { listen: \"*:5433\", role: primary }",
    "default: { listen: \"*:5436\", role: primary }",
    "offline: { listen: \"*:5438\", role: offline, backup: [replica] }",
];

#[derive(Clone, Copy, PartialEq)]
enum Style {
    Documented,
    /// Off by default, with its documentation.
    Example,
    /// Off by default, documented elsewhere.
    Brief,
}

struct Page {
    text: String,
}

impl Page {
    fn options<'a>(&mut self, options: impl Iterator<Item = &'a Opt>, indent: usize, style: Style) {
        for option in options {
            self.option(option, indent, style);
        }
    }

    fn option(&mut self, option: &Opt, indent: usize, style: Style) {
        let (value, style) = match option.shown {
            Shown::Set(value) => (value, style),
            Shown::Example(value) if style == Style::Documented => (value, Style::Example),
            Shown::Example(value) => (value, style),
        };
        self.doc(option, indent, style);
        let value_after = if value.is_empty() { String::new() } else { format!(" {value}") };
        match option.kind {
            Kind::Section(section) => {
                self.line(indent, style, &format!("{}:", option.key));
                self.options(section.own.iter(), indent + 2, style);
                // What an example has in common with others is documented there.
                let shared = if style == Style::Documented { style } else { Style::Brief };
                self.options(section.shared.iter(), indent + 2, shared);
            }
            Kind::List(section) => {
                self.line(indent, style, &format!("{}:", option.key));
                self.item(section, indent + 2, style);
            }
            Kind::Named(section) => {
                self.line(indent, style, &format!("{}:", option.key));
                self.line(indent + 2, style, &format!("{value}:"));
                self.named(section, indent + 4, style);
            }
            _ => self.line(indent, style, &format!("{}:{value_after}", option.key)),
        }
    }

    /// One item of a list of mappings: its first key carries the dash.
    fn item(&mut self, section: &Section, indent: usize, style: Style) {
        let mut options = section.options();
        if let Some(first) = options.next() {
            self.doc(first, indent, style);
            let (Shown::Set(value) | Shown::Example(value)) = first.shown;
            self.line(indent, style, &format!("- {}: {value}", first.key));
        }
        self.options(options, indent + 2, style);
    }

    fn named(&mut self, section: &Section, indent: usize, style: Style) {
        self.options(section.own.iter(), indent, style);
        if !section.shared.is_empty() {
            self.comment(indent, "And any key of `defaults`, for this service alone:");
            self.options(section.shared.iter(), indent, Style::Brief);
            OTHER_SERVICES.iter().for_each(|service| self.line(indent - 2, style, service));
        }
    }

    fn doc(&mut self, option: &Opt, indent: usize, style: Style) {
        if style == Style::Brief {
            return;
        }
        if indent == 0 {
            self.text.push('\n');
        }
        let limits = match option.kind {
            Kind::Duration { min, max } => format!(" From {} to {}.", show_duration(min), show_duration(max)),
            Kind::Count { min, max } => format!(" From {min} to {max}."),
            _ => String::new(),
        };
        for line in format!("{}{limits}", option.doc).lines() {
            self.comment(indent, line);
        }
    }

    fn comment(&mut self, indent: usize, line: &str) {
        self.text.push_str(&format!("{:indent$}# {line}\n", ""));
    }

    fn line(&mut self, indent: usize, style: Style, line: &str) {
        let off = if style == Style::Documented { "" } else { "#" };
        self.text.push_str(&format!("{:indent$}{off}{line}\n", ""));
    }
}
