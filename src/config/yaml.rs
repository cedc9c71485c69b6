//! YAML text as a tree in which every key and value knows its place.
//!
//! Only the plain part of YAML is taken: mappings, lists and scalars. What makes a value mean
//! something that does not stand where it is used (anchors, aliases, merge keys, tags) is refused.

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::diagnose::{At, Sink};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub at: At,
    pub data: Data,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Data {
    /// Nothing, `~` or `null`.
    Null,
    /// Any scalar as its text: what it means is for the option to say, so `name: 0123` stays `0123`.
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
    /// Reported already; nothing more is to be said about it.
    Broken,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Key {
    pub at: At,
    pub text: String,
}

/// Deeper nesting than any configuration needs.
const DEPTH_MAX: usize = 32;

/// Reads the one document of a file. None when it is not YAML at all or holds nothing, which is then reported.
pub(super) fn read(text: &str, sink: &Sink) -> Option<Node> {
    let root = document(text, sink)?.filter(|root| root.data != Data::Null);
    if root.is_none() {
        sink.report(At { line: 1, column: 1, width: 1 }, "the file is empty: at least `clusters:` is needed");
    }
    root
}

/// The same where nothing is as good as anything. None when it is not YAML at all, which is then reported.
pub(super) fn document(text: &str, sink: &Sink) -> Option<Option<Node>> {
    let mut tree = Tree { open: Vec::new(), root: None, documents: 0, sink };
    let mut parser = Parser::new_from_str(text);
    loop {
        match parser.next_event() {
            None | Some(Ok((Event::StreamEnd, _))) => break,
            Some(Ok((event, span))) => tree.take(event, span)?,
            Some(Err(error)) => {
                report_syntax(text, &error, sink);
                return None;
            }
        }
    }
    Some(tree.root)
}

/// A mapping or list whose end has not come yet.
enum Open {
    List(At, Vec<Node>),
    Map {
        at: At,
        pairs: Vec<(Key, Node)>,
        /// The line of each key so far.
        seen: HashMap<String, usize>,
        key: Option<Key>,
    },
}

struct Tree<'a> {
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
    sink: &'a Sink,
}

impl Tree<'_> {
    /// None when nothing after this event is worth reading; the reason is reported.
    fn take(&mut self, event: Event<'_>, span: Span) -> Option<()> {
        let at = place(span);
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.sink.report(at, "a second document starts here; a file is one configuration");
                    return None;
                }
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse(anchor, tag, at);
                self.descend(Open::List(at, Vec::new()), at)?;
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse(anchor, tag, at);
                self.descend(Open::Map { at, pairs: Vec::new(), seen: HashMap::new(), key: None }, at)?;
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List(at, items)) => self.add(Node { at, data: Data::List(items) }),
                Some(Open::Map { at, pairs, .. }) => self.add(Node { at, data: Data::Map(pairs) }),
                None => {}
            },
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse(anchor, tag, at);
                let null = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                self.add(Node { at, data: if null { Data::Null } else { Data::Scalar(text.into_owned()) } });
            }
            Event::Alias(_) => {
                self.sink.report(at, "YAML aliases (`*name`) are not supported; write the value out here");
                self.add(Node { at, data: Data::Broken });
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Some(())
    }

    fn refuse(&self, anchor: usize, tag: Option<Cow<'_, Tag>>, at: At) {
        if anchor > 0 {
            let sentence = "YAML anchors (`&name`) are not supported; write the value out where it is needed";
            self.sink.report(at, sentence);
        }
        if tag.is_some() {
            self.sink.report(at, "YAML tags (`!name`) are not supported; write the value alone");
        }
    }

    fn descend(&mut self, open: Open, at: At) -> Option<()> {
        if self.open.len() >= DEPTH_MAX {
            self.sink.report(at, format!("nested deeper than {DEPTH_MAX} levels"));
            return None;
        }
        self.open.push(open);
        Some(())
    }

    /// Puts a finished node where it belongs: list item, key, value of the pending key, or root.
    fn add(&mut self, node: Node) {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map { pairs, seen, key, .. }) => match key.take() {
                None => *key = Some(as_key(node, self.sink)),
                Some(key) => add_pair(pairs, seen, key, node, self.sink),
            },
        }
    }
}

fn as_key(node: Node, sink: &Sink) -> Key {
    let text = match node.data {
        Data::Scalar(text) => text,
        Data::Null => "null".to_string(),
        Data::List(_) | Data::Map(_) => {
            sink.report(node.at, "a mapping or list cannot be a key; was `: ` or a quote forgotten?");
            BROKEN_KEY.to_string()
        }
        Data::Broken => BROKEN_KEY.to_string(),
    };
    Key { at: node.at, text }
}

/// Cannot be written by anyone: YAML allows no NUL.
const BROKEN_KEY: &str = "\0";

fn add_pair(pairs: &mut Vec<(Key, Node)>, seen: &mut HashMap<String, usize>, key: Key, mut node: Node, sink: &Sink) {
    if key.text == BROKEN_KEY {
        return;
    }
    if key.text == "<<" {
        sink.report(key.at, "YAML merge keys (`<<`) are not supported; write the keys out here");
        return;
    }
    if let Some(line) = seen.get(&key.text) {
        let sentence = format!("`{}` is given twice; the first one is at line {line}", key.text);
        return sink.report(key.at, sentence);
    }
    seen.insert(key.text.clone(), key.at.line);
    // The parser places a value that is not there at the next thing that is.
    if node.data == Data::Null && node.at.width <= 1 {
        node.at = key.at;
    }
    pairs.push((key, node));
}

fn place(span: Span) -> At {
    let (start, end) = (span.start, span.end);
    let width = if start.line() == end.line() { end.col().saturating_sub(start.col()) } else { 1 };
    At { line: start.line().max(1), column: start.col() + 1, width: width.max(1) }
}

fn report_syntax(text: &str, error: &ScanError, sink: &Sink) {
    let mark = error.marker();
    let line = mark.line().max(1);
    // The parser may still be in the line before.
    if let Some(at) = first_tab(text, line + 1) {
        return sink.report(at, "a tab in the indentation; YAML wants spaces there");
    }
    let at = At { line, column: mark.col() + 1, width: 1 };
    let mut sentence = format!("not valid YAML: {}", error.info());
    if let Some(advice) = advice(error.info()) {
        sentence.push_str("; ");
        sentence.push_str(advice);
    }
    sink.report(at, sentence);
}

/// The first line up to `last` with a tab before its first word.
fn first_tab(text: &str, last: usize) -> Option<At> {
    text.lines().take(last).enumerate().find_map(|(index, line)| {
        let indent = line.chars().take_while(|c| c.is_whitespace());
        let column = indent.clone().position(|c| c == '\t')?;
        (indent.count() < line.chars().count()).then_some(At { line: index + 1, column: column + 1, width: 1 })
    })
}

/// What usually lies behind the parser's words.
fn advice(info: &str) -> Option<&'static str> {
    let known = [
        ("mapping values are not allowed", "quote a value that holds `: `, and check the indentation"),
        ("unknown anchor", "quote a value that begins with `*`, such as \"*:5433\""),
        ("while scanning an anchor or alias", "quote a value that begins with `*` or `&`, such as \"*:5433\""),
        ("did not find expected key", "check the indentation, and quotes that are not closed"),
        ("expected ','", "a `[` or `{` is not closed, or a comma is missing"),
        ("expected '-' indicator", "items of a list, and the keys of an item, begin in the same column"),
        ("simple key expected ':'", "a key is followed by `: ` (with the space)"),
        ("could not find expected ':'", "a key is followed by `: ` (with the space)"),
        ("quoted scalar", "a quote is not closed, or a backslash in double quotes is not doubled"),
        ("recursion limit", "the file is nested deeper than any configuration"),
        ("invalid indentation", "lines of one mapping begin in the same column"),
    ];
    known.iter().find(|(part, _)| info.contains(part)).map(|(_, advice)| *advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentences(text: &str) -> Vec<String> {
        let sink = Sink::default();
        read(text, &sink);
        let place = |at: Option<At>| at.map_or(String::new(), |at| format!("{}:{}", at.line, at.column));
        sink.into_list().into_iter().map(|p| format!("{} {}", place(p.at), p.sentence)).collect()
    }

    #[test]
    fn what_is_not_plain_yaml_is_refused_in_its_place() {
        let said = sentences("a: &x 1\nb: *x\nc:\n  <<: {}\nd: !t 1\na: 2\n? [q]\n: 1\n");
        let starts =
            ["1:4 YAML anchors", "2:4 YAML aliases", "4:3 YAML merge", "5:4 YAML tags", "6:1 `a` is given twice"];
        for (said, start) in said.iter().zip(starts) {
            assert!(said.starts_with(start), "{said} / {start}");
        }
        assert_eq!(said.len(), 6, "{said:#?}");
    }

    #[test]
    fn nothing_is_reported_as_nothing() {
        for text in ["", "\n# only a comment\n", "---\n", "~"] {
            assert_eq!(sentences(text), ["1:1 the file is empty: at least `clusters:` is needed"], "{text:?}");
        }
        assert_eq!(sentences("a: 1\n---\nb: 2\n"), ["2:1 a second document starts here; a file is one configuration"]);
    }

    #[test]
    fn nesting_has_an_end() {
        assert!(sentences(&"[".repeat(40))[0].contains("nested deeper"));
        assert!(sentences(&"[".repeat(5000))[0].contains("recursion limit"));
        assert!(sentences(&"- ".repeat(5000))[0].contains("nested deeper"));
    }

    #[test]
    fn a_tab_is_called_a_tab() {
        assert_eq!(sentences("a:\n\tb: 1\n"), ["2:1 a tab in the indentation; YAML wants spaces there"]);
    }
}
