//! The value of each of Patroni's keys: bytes in, facts and at most one complaint out.
//!
//! Lenient where Patroni is lenient (numbers as text, legacy forms), because one odd member must not
//! hide the others. What cannot be read is left out and named.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::model::member::tags_as_text;
use crate::model::{
    ApiAddress, ClusterSettings, FailoverRequest, HostPort, Lsn, MemberFacts, MemberName, Timeline, VipMark,
};

use super::bounded;

const PROBLEM_CHARS_MAX: usize = 160;
const QUOTED_CHARS_MAX: usize = 60;
const POSTGRES_PORT: u16 = 5432;
/// Longer than anyone's `ttl`; beyond it the number is a mistake.
const SETTING_SECONDS_MAX: f64 = 10_000_000.0;
/// Nobody waits longer than that for an address to be let go.
const VIP_LEASE_SECONDS_MAX: u64 = 3600;

/// Complaints about one key, kept as one bounded line.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, problem: impl Into<String>) {
        self.0.push(problem.into());
    }

    pub(super) fn into_line(self) -> Option<String> {
        (!self.0.is_empty()).then(|| bounded(&self.0.join("; "), PROBLEM_CHARS_MAX))
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", bounded(text, QUOTED_CHARS_MAX))
}

fn text<'a>(bytes: &'a [u8], problems: &mut Problems) -> Option<&'a str> {
    let text = std::str::from_utf8(bytes);
    if text.is_err() {
        problems.add("is not UTF-8 text");
    }
    text.ok()
}

fn json(bytes: &[u8], problems: &mut Problems) -> Option<Value> {
    serde_json::from_slice(bytes).map_err(|error| problems.add(format!("is not JSON: {error}"))).ok()
}

fn object(bytes: &[u8], problems: &mut Problems) -> Option<Map<String, Value>> {
    match json(bytes, problems)? {
        Value::Object(map) => Some(map),
        other => {
            problems.add(format!("is {}, not an object", kind(&other)));
            None
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A whole number, also written as text or as a float without a fraction.
fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64().or_else(|| number.as_f64().and_then(whole_float)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn whole_float(float: f64) -> Option<u64> {
    // 2^53: beyond it a float no longer holds every whole number.
    (float.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&float)).then_some(float as u64)
}

/// Reads fields of one JSON object and remembers which of them are odd.
struct Fields<'a> {
    map: &'a Map<String, Value>,
    problems: &'a mut Problems,
}

impl Fields<'_> {
    /// The field unless absent or null; `read` says None when the value is odd.
    fn read<T>(&mut self, name: &str, wanted: &str, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let value = self.map.get(name).filter(|value| !value.is_null())?;
        let found = read(value);
        if found.is_none() {
            self.problems.add(format!("{name} is {}, not {wanted}", quoted(&plain(value))));
        }
        found
    }

    fn text(&mut self, name: &str) -> Option<String> {
        self.read(name, "text", |value| value.as_str().map(str::to_owned))
    }

    fn name(&mut self, name: &str) -> Option<MemberName> {
        self.text(name).filter(|text| !text.is_empty()).map(MemberName::from)
    }

    fn lsn(&mut self, name: &str) -> Option<Lsn> {
        self.read(name, "a WAL position", whole).map(Lsn)
    }
}

/// A JSON value as a person would write it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `leader`: the plain name.
pub(super) fn leader(bytes: &[u8], problems: &mut Problems) -> Option<MemberName> {
    let name = text(bytes, problems)?;
    if name.is_empty() {
        problems.add("is empty");
        return None;
    }
    Some(MemberName::from(name))
}

/// `members/<name>`: JSON, or the connection URL alone as very old agents wrote it.
pub(super) fn member(bytes: &[u8], problems: &mut Problems) -> MemberFacts {
    if bytes.starts_with(b"postgres") {
        return legacy_member(bytes, problems);
    }
    let Some(map) = object(bytes, problems) else { return MemberFacts::default() };
    let mut fields = Fields { map: &map, problems };
    let conn_url = fields.text("conn_url");
    let api_url = fields.text("api_url");
    let timeline = |value: &Value| whole(value).and_then(|n| u32::try_from(n).ok());
    let mut facts = MemberFacts {
        conn: None,
        api: None,
        state: fields.text("state"),
        role: fields.text("role"),
        timeline: fields.read("timeline", "a timeline", timeline).filter(|&t| t != 0).map(Timeline),
        xlog_location: fields.lsn("xlog_location"),
        replay_lsn: fields.lsn("replay_lsn"),
        receive_lsn: fields.lsn("receive_lsn"),
        replication_state: fields.text("replication_state"),
        tags: fields.read("tags", "an object", |value| value.as_object().map(tags_as_text)).unwrap_or_default(),
    };
    facts.conn = conn_url.and_then(|url| conn_address(&url, problems));
    facts.api = api_url.and_then(|url| api_address(&url, problems));
    facts
}

fn legacy_member(bytes: &[u8], problems: &mut Problems) -> MemberFacts {
    let Some(url) = text(bytes, problems) else { return MemberFacts::default() };
    let api = url.split_once("application_name=").map(|(_, rest)| rest.split('&').next().unwrap_or(rest));
    MemberFacts {
        conn: conn_address(url, problems),
        api: api.and_then(|url| api_address(&url.replace("%3A", ":").replace("%2F", "/"), problems)),
        ..MemberFacts::default()
    }
}

/// `postgres://user:password@host:port/db?options`, of which host and port are wanted.
fn conn_address(url: &str, problems: &mut Problems) -> Option<HostPort> {
    let Some((scheme, rest)) = url.split_once("://") else {
        problems.add("conn_url is not a URL");
        return None;
    };
    if !matches!(scheme, "postgres" | "postgresql") {
        problems.add(format!("conn_url has the scheme {}, not postgres", quoted(scheme)));
        return None;
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let hosts = authority.rsplit_once('@').map_or(authority, |(_credentials, hosts)| hosts);
    let (first, more) = hosts.split_once(',').map_or((hosts, false), |(first, _)| (first, true));
    if more {
        problems.add("conn_url names several hosts; the first is used");
    }
    let address = HostPort::parse(first.strip_suffix(':').unwrap_or(first), Some(POSTGRES_PORT))
        .filter(|address| address.port != 0 && !address.host.contains('%'));
    if address.is_none() {
        problems.add(format!("conn_url has no usable host and port: {}", quoted(first)));
    }
    address
}

fn api_address(url: &str, problems: &mut Problems) -> Option<ApiAddress> {
    let address = ApiAddress::parse(url).filter(|address| address.at.port != 0);
    if address.is_none() {
        problems.add(format!("api_url is {}, not http(s)://host:port", quoted(url)));
    }
    address
}

/// `status`: JSON, or the bare number of old agents. Zero means that nothing is known.
pub(super) fn status(bytes: &[u8], problems: &mut Problems) -> Option<Lsn> {
    let optime = match json(bytes, problems)? {
        Value::Object(map) => Fields { map: &map, problems }.lsn("optime"),
        other => {
            let found = whole(&other).map(Lsn);
            if found.is_none() {
                problems.add(format!("is {}, not an object", kind(&other)));
            }
            found
        }
    };
    optime.filter(|lsn| lsn.0 != 0)
}

/// `optime/leader` of agents before 2.1: a number as text.
pub(super) fn old_optime(bytes: &[u8], problems: &mut Problems) -> Option<Lsn> {
    let found = text(bytes, problems)?.trim().parse().ok().map(Lsn);
    if found.is_none() {
        problems.add("is not a WAL position");
    }
    found.filter(|lsn| lsn.0 != 0)
}

/// `sync`: the names that Patroni last knew as synchronous.
pub(super) fn sync(bytes: &[u8], problems: &mut Problems) -> Vec<MemberName> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let Some(map) = object(bytes, problems) else { return Vec::new() };
    let list = Fields { map: &map, problems }.text("sync_standby").unwrap_or_default();
    list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(MemberName::from).collect()
}

/// `config`: only what matters here, with Patroni's defaults for what is absent or odd.
pub(super) fn config(bytes: &[u8], problems: &mut Problems) -> ClusterSettings {
    let defaults = ClusterSettings::default();
    let Some(map) = object(bytes, problems) else { return defaults };
    let mut fields = Fields { map: &map, problems };
    let mut time = |name: &str, default: Duration| fields.read(name, "a number of seconds", seconds).unwrap_or(default);
    let ttl = time("ttl", defaults.ttl);
    let loop_wait = time("loop_wait", defaults.loop_wait);
    let retry_timeout = time("retry_timeout", defaults.retry_timeout);
    let mut flag = |name: &str| fields.read(name, "true or false", boolean).unwrap_or(false);
    ClusterSettings { ttl, loop_wait, retry_timeout, pause: flag("pause"), failsafe_mode: flag("failsafe_mode") }
}

fn seconds(value: &Value) -> Option<Duration> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse::<f64>().ok(),
        _ => None,
    }?;
    let sane = number > 0.0 && number <= SETTING_SECONDS_MAX;
    sane.then(|| Duration::try_from_secs_f64(number).ok()).flatten()
}

/// Patroni's parse_bool.
fn boolean(value: &Value) -> Option<bool> {
    match plain(value).to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// `failover`: JSON, where `{}` is no request, or the legacy `leader:candidate`.
pub(super) fn failover(bytes: &[u8], problems: &mut Problems) -> Option<FailoverRequest> {
    let plain = text(bytes, problems)?.trim();
    if plain.is_empty() {
        return None;
    }
    let legacy = !plain.starts_with(['{', '[', '"']) && serde_json::from_str::<Value>(plain).is_err();
    let request = if legacy {
        let mut names = plain.split(':').map(str::trim).map(|name| (!name.is_empty()).then(|| MemberName::from(name)));
        FailoverRequest { leader: names.next().flatten(), candidate: names.next().flatten(), scheduled_at: None }
    } else {
        let map = object(bytes, problems)?;
        let mut fields = Fields { map: &map, problems };
        let scheduled_at = fields.text("scheduled_at").filter(|at| !at.is_empty());
        FailoverRequest { leader: fields.name("leader"), candidate: fields.name("member"), scheduled_at }
    };
    (request.leader.is_some() || request.candidate.is_some()).then_some(request)
}

/// `failsafe`: names and REST addresses.
pub(super) fn failsafe(bytes: &[u8], problems: &mut Problems) -> BTreeMap<MemberName, String> {
    if bytes.is_empty() || bytes == b"null" {
        return BTreeMap::new();
    }
    let Some(map) = object(bytes, problems) else { return BTreeMap::new() };
    let mut fields = Fields { map: &map, problems };
    let url = |name: &String| Some((MemberName::from(name.as_str()), fields.text(name)?));
    map.keys().filter_map(url).collect()
}

/// `initialize`: empty while the first member is still bootstrapping.
pub(super) fn initialize(bytes: &[u8], problems: &mut Problems) -> Option<String> {
    let id = text(bytes, problems)?.trim();
    (!id.is_empty()).then(|| id.to_owned())
}
/// `{"holder": "pg-test-1", "lease": 5}`; a mark that nobody can read still says that there is a holder.
pub(super) fn vip_mark(bytes: &[u8], problems: &mut Problems) -> Option<VipMark> {
    let map = object(bytes, problems).unwrap_or_default();
    let holder = map.get("holder").and_then(Value::as_str).unwrap_or("?");
    let lease = map.get("lease").and_then(whole).filter(|seconds| *seconds <= VIP_LEASE_SECONDS_MAX);
    Some(VipMark {
        holder: bounded(holder, QUOTED_CHARS_MAX).into(),
        lease: lease.map(Duration::from_secs),
        mod_revision: 0,
    })
}
