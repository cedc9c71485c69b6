//! A file of plain keys and values, as vip-manager reads it: one mapping, whose keys are of any case.

use std::path::Path;

use super::diagnose::{At, Problem, Problems, Sink};
use super::text_of;
use super::yaml::{self, Data};

pub(crate) use super::diagnose::{fit_for_a_terminal, nearest};
pub(crate) use super::quantity::{duration, show_duration};

/// What stands behind a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Nothing,
    Text(String),
    List(Vec<String>),
}

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// In lower case.
    pub key: String,
    pub key_at: At,
    pub value: Value,
    pub value_at: At,
}

/// A file as it is, with what is needed to say what is wrong with it.
#[derive(Debug, Clone, Default)]
pub struct Flat {
    name: String,
    text: String,
    pub entries: Vec<Entry>,
}

/// Reads a file of plain keys. An empty one is one without keys.
///
/// # Errors
/// Everything that is no plain key with its value.
pub fn load(path: &Path) -> Result<Flat, Problems> {
    let (name, text) = text_of(path)?;
    read(name, text.strip_prefix('\u{feff}').unwrap_or(&text))
}

fn read(name: String, text: &str) -> Result<Flat, Problems> {
    let sink = Sink::default();
    let entries = match yaml::document(text, &sink).flatten() {
        None => Vec::new(),
        Some(root) => entries(root, &sink),
    };
    let flat = Flat { name, text: text.to_owned(), entries };
    let problems = sink.into_list();
    if problems.is_empty() { Ok(flat) } else { Err(flat.problems(problems)) }
}

impl Flat {
    /// The file's name, as problems begin with it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is wrong with it, with the lines in question.
    pub fn problems(&self, list: Vec<Problem>) -> Problems {
        Problems::new(&self.name, &self.text, list)
    }
}

fn entries(root: yaml::Node, sink: &Sink) -> Vec<Entry> {
    let pairs = match root.data {
        Data::Map(pairs) => pairs,
        Data::Null | Data::Broken => return Vec::new(),
        Data::Scalar(_) | Data::List(_) => {
            sink.report(root.at, "the file is a mapping: one `key: value` on each line");
            return Vec::new();
        }
    };
    let mut entries: Vec<Entry> = Vec::new();
    for (key, node) in pairs {
        let name = key.text.to_lowercase();
        if let Some(first) = entries.iter().find(|entry| entry.key == name) {
            let line = first.key_at.line;
            sink.report(key.at, format!("`{}` is given twice; the first one is at line {line}", key.text));
        } else if let Some(value) = value(&key.text, key.at, node.data, sink) {
            entries.push(Entry { key: name, key_at: key.at, value, value_at: node.at });
        }
    }
    entries
}

/// None: reported, here or before.
fn value(key: &str, key_at: At, data: Data, sink: &Sink) -> Option<Value> {
    match data {
        Data::Null => Some(Value::Nothing),
        Data::Scalar(text) => Some(Value::Text(text)),
        Data::Broken => None,
        // What stands in the place of a password is not shown.
        Data::Map(_) => {
            sink.report(key_at, format!("`{key}` is a text or a list of them, not a mapping"));
            None
        }
        Data::List(items) => {
            let text = |node: yaml::Node| match node.data {
                Data::Scalar(text) => Some(text),
                _ => {
                    sink.report(node.at, format!("each item of `{key}` is a text"));
                    None
                }
            };
            Some(Value::List(items.into_iter().filter_map(text).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(text: &str) -> Flat {
        read("vip.yml".into(), text).unwrap_or_else(|problems| panic!("{problems}"))
    }

    #[test]
    fn keys_are_of_any_case_and_nothing_is_as_good_as_a_comment() {
        assert_eq!(flat("# nothing\n").entries, []);
        let file = flat("IP: 10.0.0.9\nDcs-Endpoints:\n  - http://a:1\n  - http://b:1\netcd-user:\n");
        let known: Vec<_> = file.entries.iter().map(|entry| (entry.key.as_str(), entry.value.clone())).collect();
        let endpoints = Value::List(vec!["http://a:1".into(), "http://b:1".into()]);
        let expected =
            [("ip", Value::Text("10.0.0.9".into())), ("dcs-endpoints", endpoints), ("etcd-user", Value::Nothing)];
        assert_eq!(known, expected);
    }

    #[test]
    fn what_is_not_plain_is_refused_in_its_place() {
        let said = read("vip.yml".into(), "ip: {a: 1}\nIp: 1\nmask: [[1]]\nmask: 2\n").unwrap_err().to_string();
        for sentence in [
            "vip.yml:1:1: `ip` is a text or a list of them, not a mapping",
            "vip.yml:3:8: each item of `mask` is a text",
            "vip.yml:4:1: `mask` is given twice; the first one is at line 3",
        ] {
            assert!(said.contains(sentence), "{said}");
        }
        let said = read("vip.yml".into(), "key: 1\nKEY: 2\n").unwrap_err().to_string();
        assert!(said.contains("vip.yml:2:1: `KEY` is given twice; the first one is at line 1"), "{said}");
        assert!(read("vip.yml".into(), "- a\n").is_err());
        assert!(read("vip.yml".into(), "a: [\n").is_err());
    }
}
