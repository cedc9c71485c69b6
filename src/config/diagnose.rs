//! What is wrong with the file, where, and what to write instead.

use std::cell::RefCell;
use std::fmt;

/// A place in the file: line and column from 1, in characters, and how many characters are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At {
    pub line: usize,
    pub column: usize,
    pub width: usize,
}

/// One thing wrong. Without a place it is about the file as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub at: Option<At>,
    pub sentence: String,
}

/// Everything wrong with one file, in the order of the file. Displays as
/// `file:line:column: sentence`, each followed by the line in question, without its secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    file: String,
    lines: Vec<String>,
    list: Vec<Problem>,
}

impl Problems {
    pub(super) fn new(file: &str, text: &str, mut list: Vec<Problem>) -> Problems {
        list.sort_by_key(|problem| problem.at.map(|at| (at.line, at.column)));
        list.dedup();
        list.iter_mut().for_each(|problem| problem.sentence = fit_for_a_terminal(&problem.sentence));
        Problems { file: file.to_string(), lines: without_secrets(text), list }
    }

    /// One problem with the file as a whole.
    pub(super) fn whole(file: &str, sentence: impl Into<String>) -> Problems {
        Problems::new(file, "", vec![Problem { at: None, sentence: sentence.into() }])
    }

    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    fn show_line(&self, at: At, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(line) = self.lines.get(at.line.saturating_sub(1)) else { return Ok(()) };
        if line.trim().is_empty() {
            return Ok(());
        }
        let number = at.line.to_string();
        let before = at.column.saturating_sub(1);
        let skipped = before.saturating_sub(WIDEST_LEFT);
        let shown: String = line.chars().skip(skipped).take(WIDEST).collect();
        let width = at.width.clamp(1, WIDEST - (before - skipped));
        writeln!(f, " {number} | {}", shown.trim_end())?;
        writeln!(f, " {:pad$} | {}{}", "", " ".repeat(before - skipped), "^".repeat(width), pad = number.len())
    }
}

/// Characters of a source line that are shown, and how many of them at most before the culprit.
const WIDEST: usize = 160;
const WIDEST_LEFT: usize = 100;

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.list {
            match problem.at {
                Some(at) => {
                    writeln!(f, "{}:{}:{}: {}", self.file, at.line, at.column, problem.sentence)?;
                    self.show_line(at, f)?;
                }
                None => writeln!(f, "{}: {}", self.file, problem.sentence)?,
            }
        }
        match self.list.len() {
            1 => write!(f, "1 problem"),
            n => write!(f, "{n} problems"),
        }
    }
}

impl std::error::Error for Problems {}

/// Where problems are put while the file is read; shared by all readers.
#[derive(Debug, Default)]
pub(super) struct Sink(RefCell<Vec<Problem>>);

impl Sink {
    pub(super) fn report(&self, at: At, sentence: impl Into<String>) {
        self.0.borrow_mut().push(Problem { at: Some(at), sentence: sentence.into() });
    }

    pub(super) fn into_list(self) -> Vec<Problem> {
        self.0.into_inner()
    }
}

/// What people write who come from Patroni, HAProxy or an older PostgreSQL, and what it is called here.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("scope", "name"),
    ("hosts", "endpoints"),
    ("host", "endpoints"),
    ("url", "endpoints"),
    ("bind", "listen"),
    ("user", "username"),
    ("cacert", "ca"),
    ("cafile", "ca"),
    ("ca_file", "ca"),
    ("certfile", "cert"),
    ("cert_file", "cert"),
    ("keyfile", "key"),
    ("key_file", "key"),
    ("interval", "inter"),
    ("on_marked_down", "close_on_down"),
    ("maxqueue", "queue"),
    ("slow_start", "slowstart"),
    ("rate_limit", "rate"),
    ("rate_limit sessions", "rate"),
    ("maxconnrate", "rate"),
    ("maxsessrate", "rate"),
    ("acl", "allow"),
    ("src", "allow"),
    ("tcp_request", "allow"),
    ("tcp_request connection", "allow"),
    ("tcp_request connection accept", "allow"),
    ("tcp_request connection reject", "allow"),
    ("allow_list", "allow"),
    ("allowlist", "allow"),
    ("whitelist", "allow"),
    ("networks", "allow"),
    ("sessions", "max"),
    ("per_client", "per_client_max"),
    ("per_address", "per_client_max"),
    ("per_ip", "per_client_max"),
    ("cancel", "cancels_max"),
    ("cancels", "cancels_max"),
    ("drain_timeout", "drain"),
    ("query_wait_notify", "notice"),
    ("httpchk", "path"),
    ("uri", "path"),
    ("status", "expect"),
    ("citus_group", "group"),
    ("rr", "roundrobin"),
    ("static_rr", "roundrobin"),
    ("asynchronous", "async"),
    ("synchronous", "sync"),
    ("health", "any"),
    ("all", "any"),
    ("local", "loopback"),
    ("localhost", "loopback"),
    ("none", "off"),
    ("everybody", "all"),
    ("everything", "all"),
    ("maximum_lag_on_failover", "max_lag"),
    ("lag", "max_lag"),
    ("master", "primary"),
    ("leader", "primary"),
    ("slave", "replica"),
    ("standby", "replica"),
    ("ip", "address"),
    ("vip", "address"),
    ("virtual_ip", "address"),
    ("iface", "interface"),
    ("dev", "interface"),
    ("device", "interface"),
    ("nic", "interface"),
    ("nodename", "member"),
    ("node", "member"),
    ("host", "member"),
    ("trigger_value", "member"),
    ("scope", "cluster"),
    ("keep", "keep_while_patroni_leads"),
    ("close", "release"),
    ("vip_addresses", "vips"),
    ("virtual_ipaddress", "vips"),
    ("nosplice", "splice"),
    ("splice_auto", "splice"),
    ("splice_response", "splice"),
    ("splice_request", "splice"),
    ("option splice_auto", "splice"),
    ("option splice_response", "splice"),
    ("option splice_request", "splice"),
    ("zero_copy", "splice"),
    ("on", "auto"),
    ("true", "auto"),
    ("yes", "auto"),
    ("false", "off"),
    ("no", "off"),
    ("never", "off"),
];

/// The word that was probably meant, if one of `words` is another name for `written` or near enough to it.
pub(crate) fn nearest<'a>(written: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let words: Vec<&str> = words.into_iter().collect();
    let written = plain(written);
    let far = (written.len() / 3).max(1);
    let known = OTHER_NAMES.iter().filter(|(other, _)| plain(other) == written).map(|(_, word)| *word);
    if let Some(word) = known.into_iter().find_map(|known| words.iter().find(|word| **word == known)) {
        return Some(*word);
    }
    words
        .into_iter()
        .map(|word| (distance(&written, &plain(word)), word))
        .filter(|(steps, _)| *steps <= far)
        .min_by_key(|(steps, _)| *steps)
        .map(|(_, word)| word)
}

/// `a, b or c`, each in backticks.
pub(super) fn any_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    joined(words, "or")
}

/// `a, b and c`, each in backticks.
pub(super) fn all_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    joined(words, "and")
}

fn joined<'a>(words: impl IntoIterator<Item = &'a str>, last_by: &str) -> String {
    let words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} {last_by} {last}", rest.join(", ")),
        None => String::new(),
    }
}

fn plain(word: &str) -> Vec<char> {
    word.chars().take(64).map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// What the keys of secrets begin and end with; `etcd-password` and `consul-token` are vip-manager's.
const SECRETS: [&str; 5] = ["password", "etcd-password", "etcd_password", "consul-token", "consul_token"];
const SECRET_ENDS: [&str; 2] = ["password", "token"];

/// The lines with the value of every `password` key and any `user:password@` of a URL blotted out.
/// It goes by the text, because a file that is not valid YAML is shown too.
fn without_secrets(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    // Deeper lines than this belong to a password; so does the next one where the value is yet to come.
    let mut secret_below = usize::MAX;
    let mut value_to_come = false;
    for line in text.lines() {
        let mut shown: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let blank = shown.trim().is_empty();
        let indent = shown.chars().take_while(|c| " -".contains(*c)).count();
        if !blank && (value_to_come || indent > secret_below) {
            lines.push("***".to_string());
            value_to_come = false;
            continue;
        }
        if !blank {
            secret_below = usize::MAX;
        }
        if let Some(start) = secret_value(&shown) {
            value_to_come = shown[start..].trim().is_empty();
            let first = shown.trim_start_matches([' ', '-', '"', '\'']);
            let begins_line = SECRETS.iter().any(|word| first.starts_with(word));
            secret_below = if begins_line { indent } else { usize::MAX };
            shown.truncate(start);
            shown.push_str(" ***");
        }
        lines.push(without_userinfo(&shown));
    }
    lines
}

/// On one line, of a length to be read, without control characters and passwords in URLs.
pub(crate) fn fit_for_a_terminal(sentence: &str) -> String {
    let mut shown: String =
        sentence.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(SENTENCE_MAX).collect();
    if sentence.chars().nth(SENTENCE_MAX).is_some() {
        shown.push('…');
    }
    without_userinfo(&shown)
}

const SENTENCE_MAX: usize = 600;

fn without_userinfo(text: &str) -> String {
    let mut shown = text.to_string();
    let mut from = 0;
    while let Some(scheme) = shown[from..].find("://") {
        let start = from + scheme + 3;
        let end = shown[start..].find(|c: char| c.is_whitespace() || "/,]}\"'".contains(c));
        let end = end.map_or(shown.len(), |offset| start + offset);
        if let Some(sign) = shown[start..end].rfind('@') {
            shown.replace_range(start..start + sign, "***");
        }
        from = start;
    }
    shown
}

/// Where the value after a `password:` key begins, in bytes, or after another one that ends so.
fn secret_value(line: &str) -> Option<usize> {
    let after = |(start, word): (usize, &str)| {
        let rest = &line[start + word.len()..];
        let trimmed = rest.trim_start_matches(['"', '\'', ' ']);
        trimmed.starts_with(':').then(|| line.len() - trimmed.len() + 1)
    };
    let lower = line.to_ascii_lowercase();
    SECRET_ENDS.iter().flat_map(|word| lower.match_indices(word).filter_map(after).collect::<Vec<_>>()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_near() {
        let words = ["inter", "fastinter", "downinter", "rise", "fall", "timeout"];
        assert_eq!(nearest("intr", words), Some("inter"));
        assert_eq!(nearest("Rise", words), Some("rise"));
        assert_eq!(nearest("fast-inter", words), Some("fastinter"));
        assert_eq!(nearest("itner", words), Some("inter"));
        assert_eq!(nearest("interval", words), Some("inter"));
        assert_eq!(nearest("standby", ["primary", "replica"]), Some("replica"));
        assert_eq!(nearest("standby", ["primary"]), None);
        assert_eq!(nearest("x", words), None);
        assert_eq!(nearest("", words), None);
    }

    #[test]
    fn secrets_are_blotted_out() {
        let shown = |text| without_secrets(text).join("\n");
        assert_eq!(shown("  password: hunter2\n  tls: {}"), "  password: ***\n  tls: {}");
        assert_eq!(shown("{ \"password\" : x, y: 1 }"), "{ \"password\" : ***");
        assert_eq!(
            shown("etcd-password:\n  hunter2\nconsul_token: 'x'\nip: 1"),
            "etcd-password: ***\n***\nconsul_token: ***\nip: 1"
        );
        assert_eq!(shown("password_file: f\n a"), "password_file: f\n a");
        assert_eq!(shown("password_file: f, password: y"), "password_file: f, password: ***");
        assert_eq!(shown("[http://u:p@h:1, https://v:q@w@i]"), "[http://***@h:1, https://***@i]");
        assert_eq!(shown("[http://h:1/a@b]"), "[http://h:1/a@b]");
        assert_eq!(shown("- password: |\n    x\n\n    y\n- z"), "- password: ***\n***\n\n***\n- z");
        assert_eq!(shown("{ password:\n x,\n y: 1 }"), "{ password: ***\n***\n y: 1 }");
        assert_eq!(fit_for_a_terminal("a\u{1b}[1mb\n"), "a\u{fffd}[1mb\u{fffd}");
    }

    #[test]
    fn problems_come_in_the_order_of_the_file() {
        let at = |line, column, width| Some(At { line, column, width });
        let list = vec![
            Problem { at: at(2, 4, 9), sentence: "second".into() },
            Problem { at: at(1, 1, 1), sentence: "first".into() },
            Problem { at: at(9, 1, 1), sentence: "past the end".into() },
        ];
        let shown = Problems::new("f.yml", "a: 1\n\tb: longer", list).to_string();
        let expected = "f.yml:1:1: first\n 1 | a: 1\n   | ^\nf.yml:2:4: second\n 2 |  b: longer\n   |    ^^^^^^^^^\n\
                        f.yml:9:1: past the end\n3 problems";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_very_long_line_is_shown_around_the_culprit() {
        let text = format!("{}X{}", "a".repeat(1000), "b".repeat(1000));
        let at = Some(At { line: 1, column: 1001, width: 5000 });
        let shown = Problems::new("f", &text, vec![Problem { at, sentence: "s".into() }]).to_string();
        assert!(shown.lines().all(|line| line.len() < 200), "{shown}");
        assert!(shown.contains('X'));
    }
}
