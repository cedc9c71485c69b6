//! One service, as written.

use super::policy::{Check, Policy, read_check, read_policy};
use super::{plain, read_listen};
use crate::config::diagnose::At;
use crate::config::fields::{Fields, Written, read_word};
use crate::config::listen;
use crate::model::{ListenAddress, Role};

pub(in crate::config) enum Services {
    /// No `services:`, so the default ones are meant.
    Default,
    Listed(At, Vec<Service>),
    /// Reported already.
    Broken,
}

pub(in crate::config) struct Service {
    pub name: Written<String>,
    /// Paths as they are written, perhaps relative.
    pub listen: Option<Vec<Written<ListenAddress>>>,
    pub role: Option<Role>,
    /// Whether the key is there, well written or not.
    pub role_given: bool,
    pub listen_given: bool,
    pub backup: Vec<Written<Role>>,
    pub backup_at: Option<At>,
    pub port: Option<u16>,
    pub criteria: Criteria,
    pub check: Check,
    pub policy: Policy,
}

/// `where:`
#[derive(Default)]
pub(in crate::config) struct Criteria {
    pub tags: Vec<(Written<String>, String)>,
    pub tags_at: Option<At>,
    pub members: Option<Vec<Written<String>>>,
    pub members_at: Option<At>,
    pub max_lag: Option<Written<u64>>,
    pub streaming: Option<Written<bool>>,
}

pub(super) fn read_services(cluster: &Fields<'_>) -> Services {
    match (cluster.key_at("services"), cluster.named("services")) {
        (None, _) => Services::Default,
        (Some(at), Some(services)) => {
            Services::Listed(at, services.iter().map(|(name, service)| read_service(*name, service)).collect())
        }
        (Some(_), None) => Services::Broken,
    }
}

fn read_service(name: Written<&str>, service: &Fields<'_>) -> Service {
    Service {
        name: name.map(str::to_string),
        listen: read_listen(service, listen::parse),
        listen_given: service.node("listen").is_some(),
        role: plain(service.word("role", &roles())),
        role_given: service.node("role").is_some(),
        backup: read_backup(service),
        backup_at: service.key_at("backup"),
        port: plain(service.port("port")),
        criteria: service.section("where").map(|criteria| read_criteria(&criteria)).unwrap_or_default(),
        check: service.section("check").map(|check| read_check(&check)).unwrap_or_default(),
        policy: read_policy(service),
    }
}

fn read_criteria(criteria: &Fields<'_>) -> Criteria {
    let tags = criteria.pairs("tags").unwrap_or_default();
    let members = criteria.texts("members");
    Criteria {
        tags: tags.into_iter().map(|(key, value)| (key.map(str::to_string), tag_value(value.value))).collect(),
        tags_at: criteria.key_at("tags"),
        members: members.map(|names| names.into_iter().map(|name| name.map(str::to_string)).collect()),
        members_at: criteria.key_at("members"),
        max_lag: criteria.size("max_lag"),
        streaming: criteria.switch("streaming"),
    }
}

/// Patroni's tags come as JSON, whose booleans are in lower case; YAML has three ways to write each.
fn tag_value(written: &str) -> String {
    match written {
        "True" | "TRUE" => "true".to_string(),
        "False" | "FALSE" => "false".to_string(),
        text => text.to_string(),
    }
}

fn roles() -> [(&'static str, Role); Role::ALL.len()] {
    Role::ALL.map(|role| (role.as_str(), role))
}

fn read_backup(service: &Fields<'_>) -> Vec<Written<Role>> {
    let mut read = Vec::new();
    for written in service.texts("backup").unwrap_or_default() {
        match read_word("backup", written.value, &roles()) {
            Ok(value) => read.push(Written { value, at: written.at }),
            Err(sentence) => service.sink().report(written.at, sentence),
        }
    }
    read
}
