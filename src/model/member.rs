//! One PostgreSQL instance, named by the DCS.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{ApiAddress, HostPort, Lsn, Timeline};

/// A member's name as Patroni knows it; cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberName(Arc<str>);

impl MemberName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for MemberName {
    fn from(name: &str) -> Self {
        MemberName(Arc::from(name))
    }
}

impl From<String> for MemberName {
    fn from(name: String) -> Self {
        MemberName(Arc::from(name))
    }
}

impl Borrow<str> for MemberName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Patroni tags, every value as text the way Patroni compares them (booleans in lower case).
pub type Tags = BTreeMap<String, String>;

/// Every value as text the way Patroni compares them: `str(value).lower()` unless it is text already.
pub fn tags_as_text(map: &serde_json::Map<String, serde_json::Value>) -> Tags {
    use serde_json::Value;
    let as_text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string().to_lowercase()),
    };
    map.iter().filter_map(|(name, value)| Some((name.clone(), as_text(value)?))).collect()
}

/// Whether a tag is set to something that means yes (Patroni accepts `true`, `yes`, `on`, `1`).
pub fn tag_is_true(tags: &Tags, name: &str) -> bool {
    tags.get(name).is_some_and(|v| matches!(v.to_ascii_lowercase().as_str(), "true" | "yes" | "on" | "1"))
}

/// Whether tags mark a member for the `offline` service: `offline`, `pg_offline_query`, or `pg_role: offline`.
pub fn tags_say_offline(tags: &Tags) -> bool {
    tag_is_true(tags, "offline")
        || tag_is_true(tags, "pg_offline_query")
        || tags.get("pg_role").is_some_and(|v| v == "offline")
}

/// What a `members/<name>` key says. Addresses, tags and positions are used; `state` and `role`
/// are display only (they are wrong for seconds around every failover).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberFacts {
    /// From `conn_url`.
    pub conn: Option<HostPort>,
    /// From `api_url`.
    pub api: Option<ApiAddress>,
    pub state: Option<String>,
    pub role: Option<String>,
    pub timeline: Option<Timeline>,
    /// Current position on a primary, the greater of received and replayed on a standby.
    pub xlog_location: Option<Lsn>,
    pub replay_lsn: Option<Lsn>,
    pub receive_lsn: Option<Lsn>,
    /// `streaming`, `in archive recovery`, or absent.
    pub replication_state: Option<String>,
    pub tags: Tags,
}
