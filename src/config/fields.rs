//! Reading one mapping by the table of options: unknown keys, wrong types and values out of range are
//! reported here, so that the schema only has to name its keys.

use std::time::Duration;

use super::diagnose::{At, Sink, all_of, any_of, nearest};
use super::options::{Kind, Opt, Section, TOP, home_of, is_policy};
use super::quantity::{self, show_duration};
use super::yaml::{Data, Key, Node};

/// A value and its place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Written<T> {
    pub value: T,
    pub at: At,
}

impl<T> Written<T> {
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Written<U> {
        Written { value: f(self.value), at: self.at }
    }
}

/// The known keys of one mapping. Reading a key that is not there gives None; reading one that is
/// wrong gives None too, after reporting it.
pub(super) struct Fields<'a> {
    /// Where the mapping begins.
    pub at: At,
    found: Vec<Field<'a>>,
    clean: bool,
    sink: &'a Sink,
}

struct Field<'a> {
    option: &'static Opt,
    key_at: At,
    node: &'a Node,
}

impl<'a> Fields<'a> {
    /// Reads `node` as `section`. An empty value is an empty mapping. None when it is no mapping.
    pub fn open(node: &'a Node, section: &'static Section, sink: &'a Sink) -> Option<Fields<'a>> {
        let pairs: &[(Key, Node)] = match &node.data {
            Data::Map(pairs) => pairs,
            Data::Null => &[],
            Data::Broken => return None,
            Data::Scalar(_) | Data::List(_) => {
                let sentence = format!("{} is a mapping, not {}; {}", title(section), what(node), keys_of(section));
                sink.report(node.at, sentence);
                return None;
            }
        };
        let mut fields = Fields { at: node.at, found: Vec::new(), clean: true, sink };
        for (key, node) in pairs {
            match section.options().find(|option| option.key == key.text) {
                Some(option) => fields.found.push(Field { option, key_at: key.at, node }),
                None => {
                    fields.clean = false;
                    sink.report(key.at, unknown(&key.text, section));
                }
            }
        }
        Some(fields)
    }

    /// Whether every key was known.
    pub fn is_clean(&self) -> bool {
        self.clean
    }

    pub fn sink(&self) -> &'a Sink {
        self.sink
    }

    /// Where a key itself stands.
    pub fn key_at(&self, key: &str) -> Option<At> {
        self.find(key).map(|field| field.key_at)
    }

    /// The known keys that are written, in the order of the file, with their places.
    pub fn keys(&self) -> impl Iterator<Item = (&'static str, At)> + use<'_, 'a> {
        self.found.iter().map(|field| (field.option.key, field.key_at))
    }

    /// The value as it stands in the tree.
    pub fn node(&self, key: &str) -> Option<&'a Node> {
        self.find(key).map(|field| field.node)
    }

    pub fn text(&self, key: &str) -> Option<Written<&'a str>> {
        let field = self.find(key)?;
        self.scalar(field, "a text")
    }

    pub fn duration(&self, key: &str) -> Option<Written<Duration>> {
        let field = self.find(key)?;
        let written = self.scalar(field, "a duration such as 3s")?;
        let read = match (quantity::duration(written.value), &field.option.kind) {
            (Ok(read), Kind::Duration { min, max }) if read < *min || read > *max => {
                let (min, max) = (show_duration(*min), show_duration(*max));
                Err(format!("`{key}` is from {min} to {max}, not {}", written.value))
            }
            (Err(sentence), _) => Err(format!("`{key}`: {sentence}")),
            (read, _) => read,
        };
        self.accept(read, written.at)
    }

    pub fn count(&self, key: &str) -> Option<Written<u32>> {
        let field = self.find(key)?;
        let written = self.scalar(field, "a number")?;
        let Kind::Count { min, max } = field.option.kind else { return None };
        let digits = written.value.bytes().all(|b| b.is_ascii_digit());
        let read = written.value.parse::<u32>().ok().filter(|n| digits && (min..=max).contains(&u64::from(*n)));
        let refused = || format!("`{key}` is a whole number from {min} to {max}, not `{}`", written.value);
        self.accept(read.ok_or_else(refused), written.at)
    }

    pub fn port(&self, key: &str) -> Option<Written<u16>> {
        let written = self.count(key)?;
        u16::try_from(written.value).ok().map(|value| Written { value, at: written.at })
    }

    /// Bytes.
    pub fn size(&self, key: &str) -> Option<Written<u64>> {
        let written = self.scalar(self.find(key)?, "a size such as 16MB")?;
        let read = quantity::size(written.value).map_err(|sentence| format!("`{key}`: {sentence}"));
        self.accept(read, written.at)
    }

    pub fn switch(&self, key: &str) -> Option<Written<bool>> {
        let written = self.scalar(self.find(key)?, "true or false")?;
        let read = match written.value.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => Ok(true),
            "false" | "no" | "off" => Ok(false),
            _ => Err(format!("`{key}` is true or false, not `{}`", written.value)),
        };
        self.accept(read, written.at)
    }

    pub fn word<T: Copy>(&self, key: &str, words: &[(&'static str, T)]) -> Option<Written<T>> {
        let field = self.find(key)?;
        let written = self.scalar(field, &any_of(words.iter().map(|(word, _)| *word)))?;
        let read = read_word(key, written.value, words);
        self.accept(read, written.at)
    }

    /// A list of texts, or a single one.
    pub fn texts(&self, key: &str) -> Option<Vec<Written<&'a str>>> {
        let field = self.find(key)?;
        let Data::List(items) = &field.node.data else {
            return self.scalar(field, "a text or a list of them").map(|one| vec![one]);
        };
        let each = items.iter().filter_map(|node| match &node.data {
            Data::Scalar(text) => Some(Written { value: text.as_str(), at: node.at }),
            Data::Broken => None,
            _ => {
                self.sink.report(node.at, format!("each item of `{key}` is a text, not {}", what(node)));
                None
            }
        });
        Some(each.collect())
    }

    pub fn section(&self, key: &str) -> Option<Fields<'a>> {
        let field = self.find(key)?;
        let (Kind::Section(section) | Kind::SwitchOr(section) | Kind::WordOr(section)) = field.option.kind else {
            return None;
        };
        Fields::open(field.node, section, self.sink)
    }

    /// Texts under names of the operator's choice, in the order of the file.
    pub fn pairs(&self, key: &str) -> Option<Vec<(Written<&'a str>, Written<&'a str>)>> {
        let field = self.find(key)?;
        let pairs: &[(Key, Node)] = match &field.node.data {
            Data::Map(pairs) => pairs,
            Data::Null => &[],
            Data::Broken => return None,
            Data::Scalar(_) | Data::List(_) => {
                let sentence = format!("`{key}` is a mapping such as {{ zone: east }}, not {}", what(field.node));
                self.sink.report(field.node.at, sentence);
                return None;
            }
        };
        let text = |(name, node): &'a (Key, Node)| match &node.data {
            Data::Scalar(text) => {
                let name = Written { value: name.text.as_str(), at: name.at };
                Some((name, Written { value: text.as_str(), at: node.at }))
            }
            Data::Broken => None,
            _ => {
                let sentence = format!("`{}` in `{key}` is a text, not {}", name.text, what(node));
                self.sink.report(node.at, sentence);
                None
            }
        };
        Some(pairs.iter().filter_map(text).collect())
    }

    /// The mappings of a list.
    pub fn items(&self, key: &str) -> Option<Vec<Fields<'a>>> {
        let field = self.find(key)?;
        let Kind::List(section) = field.option.kind else { return None };
        match &field.node.data {
            Data::List(items) => Some(items.iter().filter_map(|node| Fields::open(node, section, self.sink)).collect()),
            Data::Broken => None,
            Data::Null => Some(Vec::new()),
            _ => {
                let sentence = format!("`{key}` is a list: begin each item with `- `, not {}", what(field.node));
                self.sink.report(field.node.at, sentence);
                None
            }
        }
    }

    /// The mappings under names of the operator's choice, in the order of the file.
    pub fn named(&self, key: &str) -> Option<Vec<(Written<&'a str>, Fields<'a>)>> {
        let field = self.find(key)?;
        let Kind::Named(section) = field.option.kind else { return None };
        match &field.node.data {
            Data::Map(pairs) => {
                let open = |(key, node): &'a (Key, Node)| {
                    let name = Written { value: key.text.as_str(), at: key.at };
                    Fields::open(node, section, self.sink).map(|fields| (name, fields))
                };
                Some(pairs.iter().filter_map(open).collect())
            }
            Data::Null => Some(Vec::new()),
            Data::Broken => None,
            Data::Scalar(_) | Data::List(_) => {
                let sentence =
                    format!("`{key}` is a mapping from names to {}s, not {}", &section.name[2..], what(field.node));
                self.sink.report(field.node.at, sentence);
                None
            }
        }
    }

    fn find(&self, key: &str) -> Option<&Field<'a>> {
        self.found.iter().find(|field| field.option.key == key)
    }

    fn scalar(&self, field: &Field<'a>, wanted: &str) -> Option<Written<&'a str>> {
        let key = field.option.key;
        match &field.node.data {
            Data::Scalar(text) if !text.trim().is_empty() => {
                return Some(Written { value: text.as_str(), at: field.node.at });
            }
            Data::Scalar(_) | Data::Null => {
                self.sink.report(field.key_at, format!("`{key}` has no value: write {wanted}, or leave the key out"));
            }
            Data::Broken => {}
            Data::List(_) | Data::Map(_) => {
                // What stands in the place of a password is not shown.
                let at = if key == "password" { field.key_at } else { field.node.at };
                self.sink.report(at, format!("`{key}` is {wanted}, not {}", what(field.node)));
            }
        }
        None
    }

    fn accept<T>(&self, read: Result<T, String>, at: At) -> Option<Written<T>> {
        match read {
            Ok(value) => Some(Written { value, at }),
            Err(sentence) => {
                self.sink.report(at, sentence);
                None
            }
        }
    }
}

/// One of `words`, or a sentence that names the nearest.
pub(super) fn read_word<T: Copy>(key: &str, written: &str, words: &[(&'static str, T)]) -> Result<T, String> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == written) {
        return Ok(*value);
    }
    let known = any_of(words.iter().map(|(word, _)| *word));
    Err(match nearest(written, words.iter().map(|(word, _)| *word)) {
        Some(word) => format!("`{key}` is {known}, not `{written}`; did you mean `{word}`?"),
        None => format!("`{key}` is {known}, not `{written}`"),
    })
}

fn unknown(key: &str, section: &'static Section) -> String {
    let place = title(section);
    if let Some(later) = section.later.iter().find(|later| later.key == key) {
        return format!("`{key}` is not in this version: {}", later.instead);
    }
    let keys = || section.options().map(|option| option.key);
    if let Some(word) = nearest(key, keys()) {
        return format!("`{key}` is not a key of {place}; did you mean `{word}`?");
    }
    if let Some(later) = nearest(key, section.later.iter().map(|later| later.key)) {
        return format!("`{key}` is not a key of {place}, and `{later}` is not in this version");
    }
    if is_policy(key) {
        return format!("`{key}` is not a key of {place}; it belongs in `defaults` or a service");
    }
    match home_of(key) {
        Some(home) if std::ptr::eq(home, &TOP) => {
            format!("`{key}` is not a key of {place}; it belongs at the beginning of a line, beside `clusters`")
        }
        Some(home) => format!("`{key}` is not a key of {place}; it belongs in {}", title(home)),
        None => format!("`{key}` is not a key of {place}; {}", keys_of(section)),
    }
}

fn keys_of(section: &'static Section) -> String {
    let keys = all_of(section.options().map(|option| option.key));
    format!("its {} {keys}", if section.options().count() == 1 { "key is" } else { "keys are" })
}

/// A section in a sentence: `check` in backticks, "a cluster" without.
fn title(section: &Section) -> String {
    if section.name.contains(' ') { section.name.to_string() } else { format!("`{}`", section.name) }
}

fn what(node: &Node) -> String {
    match &node.data {
        Data::Null | Data::Broken => "nothing".to_string(),
        Data::Scalar(text) if text.chars().count() > 40 => "a long text".to_string(),
        Data::Scalar(text) => format!("`{text}`"),
        Data::List(_) => "a list".to_string(),
        Data::Map(_) => "a mapping".to_string(),
    }
}
