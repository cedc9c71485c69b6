//! Which of several places a setting is taken from: a flag, else the environment, else the file; and what is
//! said of older names (vipconfig/config.go of vip-manager 4.2, `mapDeprecated`).

use std::collections::BTreeMap;

use crate::config::flat::{Entry, Flat, Value, nearest};
use crate::config::{At, Problem};

use super::arguments::Flags;
use super::settings::{self, Kind, Setting, variable};

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    Flag(String),
    Variable(String),
    File(String, At),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// One, unless the setting is a list.
    pub texts: Vec<String>,
    pub origin: Origin,
}

impl Found {
    pub fn text(&self) -> String {
        self.texts.join(",")
    }
}

/// Everything that may say what a setting is.
pub(super) struct Given<'a> {
    pub flags: &'a Flags,
    pub variables: &'a dyn Fn(&str) -> Option<String>,
    pub file: &'a Flat,
}

/// The settings under their present names, and what is to be said about how they were given.
#[derive(Debug, Default)]
pub(super) struct Merged {
    pub values: BTreeMap<&'static str, Found>,
    /// Harmless.
    pub notices: Vec<String>,
    /// Two names of one setting say different things.
    pub conflicts: bool,
    /// Keys of the file that nobody knows.
    pub strange: Vec<Problem>,
    /// Keys of the file whose values are of the wrong form.
    pub wrong: Vec<Problem>,
}

pub(super) fn merge(given: &Given<'_>) -> Merged {
    let mut merged = Merged { strange: strange(given.file), ..Merged::default() };
    for setting in settings::all() {
        let mut found = given.find(setting.name, setting, &mut merged.wrong);
        for old in setting.old {
            let Some(earlier) = given.find(old, setting, &mut merged.wrong) else { continue };
            merged.notices.push(deprecated(old, setting, &earlier));
            match &found {
                None => found = Some(earlier),
                Some(found) => merged.compare(old, setting, &earlier, found),
            }
        }
        if let Some(found) = found {
            merged.values.insert(setting.name, found);
        }
    }
    merged
}

impl Given<'_> {
    /// What is given under one name. Something empty is nothing, as a unit's `--ip="${VIP_IP}"` may be.
    fn find(&self, name: &str, setting: &Setting, wrong: &mut Vec<Problem>) -> Option<Found> {
        let is_new = name == setting.name;
        let flag = self.flags.values.get(name).map(|value| (value.clone(), Origin::Flag(name.to_owned())));
        // VIP_ETCD_USER is the variable of `etcd-user` and of `etcd_user`.
        let variable = variable(name);
        let shared = !is_new && variable == settings::variable(setting.name);
        let from_variable = || {
            let value = (self.variables)(&variable).filter(|_| !shared)?;
            Some((value, Origin::Variable(variable.clone())))
        };
        let given = flag.filter(|(value, _)| !value.is_empty()).or_else(from_variable);
        if let Some((value, origin)) = given.filter(|(value, _)| !value.is_empty()) {
            let texts = if setting.kind == Kind::List { split(&value) } else { vec![value] };
            return Some(Found { texts, origin });
        }
        let entry = self.file.entries.iter().find(|entry| entry.key == name)?;
        let texts = texts(entry, setting, wrong)?;
        Some(Found { texts, origin: Origin::File(entry.key.clone(), entry.value_at) })
    }
}

fn split(value: &str) -> Vec<String> {
    value.split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

fn texts(entry: &Entry, setting: &Setting, wrong: &mut Vec<Problem>) -> Option<Vec<String>> {
    let texts = match (&entry.value, setting.kind) {
        (Value::Nothing, _) => Vec::new(),
        (Value::Text(text), Kind::List) => split(text),
        (Value::Text(text), _) => vec![text.clone()],
        (Value::List(items), Kind::List) => items.iter().flat_map(|item| split(item)).collect(),
        (Value::List(_), _) => {
            let sentence = format!("`{}` is one text, not a list", entry.key);
            wrong.push(Problem { at: Some(entry.key_at), sentence });
            return None;
        }
    };
    texts.iter().any(|text| !text.is_empty()).then_some(texts)
}

fn deprecated(old: &str, setting: &Setting, found: &Found) -> String {
    let (old, new) = match &found.origin {
        Origin::Variable(written) => (written.clone(), variable(setting.name)),
        Origin::Flag(_) | Origin::File(..) => (old.to_owned(), setting.name.to_owned()),
    };
    format!("Parameter \"{old}\" has been deprecated, please use \"{new}\" instead")
}

impl Merged {
    fn compare(&mut self, old: &str, setting: &Setting, earlier: &Found, found: &Found) {
        let new = setting.name;
        let both = format!("{old} or {} and {new} or {}", variable(old), variable(new));
        let show = |found: &Found| if setting.kind == Kind::Secret { "*****".to_owned() } else { found.text() };
        let (earlier_shown, shown) = (show(earlier), show(found));
        if earlier.texts == found.texts {
            self.notices.push(format!(
                "Conflicting settings: {both} are both specified, but no conflicting values: {earlier_shown} and \
                 {shown} are equal, ignoring."
            ));
        } else {
            self.notices.push(format!(
                "Conflicting settings: {both} are both specified, conflicting values: {earlier_shown} and {shown}"
            ));
            self.conflicts = true;
        }
    }
}

fn strange(file: &Flat) -> Vec<Problem> {
    let names: Vec<&str> =
        settings::all().flat_map(|setting| [setting.name].into_iter().chain(setting.old.iter().copied())).collect();
    let unknown = file.entries.iter().filter(|entry| !names.contains(&entry.key.as_str()));
    let told = unknown.map(|entry| {
        let near = nearest(&entry.key, settings::all().map(|setting| setting.name));
        let meant = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        Problem { at: Some(entry.key_at), sentence: format!("`{}` is not a setting{meant}", entry.key) }
    });
    told.collect()
}
