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
        list.iter_mut().for_each(|problem| problem.sentence = without_userinfo(&problem.sentence));
        Problems { file: file.to_string(), lines: text.lines().map(without_secrets).collect(), list }
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

/// The word that was probably meant, if one of `words` is near enough to `written`.
pub(super) fn nearest<'a>(written: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = plain(written);
    let far = (written.len() / 3).max(1);
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

/// The line with the value of a `password` key and any `user:password@` of a URL blotted out.
/// It goes by the text, because a file that is not valid YAML is shown too.
fn without_secrets(line: &str) -> String {
    let mut shown = line.replace('\t', " ");
    if let Some(start) = password_value(&shown) {
        shown.truncate(start);
        shown.push_str(" ***");
    }
    without_userinfo(&shown)
}

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

/// Where the value after a `password:` key begins, in bytes.
fn password_value(line: &str) -> Option<usize> {
    line.match_indices("password").find_map(|(start, word)| {
        let rest = &line[start + word.len()..];
        let trimmed = rest.trim_start_matches(['"', '\'', ' ']);
        trimmed.starts_with(':').then(|| line.len() - trimmed.len() + 1)
    })
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
        assert_eq!(nearest("interval", words), None);
        assert_eq!(nearest("x", words), None);
        assert_eq!(nearest("", words), None);
    }

    #[test]
    fn secrets_are_blotted_out() {
        assert_eq!(without_secrets("  password: hunter2"), "  password: ***");
        assert_eq!(without_secrets("{ \"password\" : x, y: 1 }"), "{ \"password\" : ***");
        assert_eq!(without_secrets("password_file: f"), "password_file: f");
        assert_eq!(without_secrets("password_file: f, password: y"), "password_file: f, password: ***");
        assert_eq!(without_secrets("[http://u:p@h:1, https://v:q@w@i]"), "[http://***@h:1, https://***@i]");
        assert_eq!(without_secrets("[http://h:1/a@b]"), "[http://h:1/a@b]");
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
