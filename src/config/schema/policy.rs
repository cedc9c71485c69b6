//! Keys that `defaults` and every service have, as written.

use std::time::Duration;

use super::allow::{self, Allow};
use super::{owned, plain};
use crate::config::diagnose::{At, nearest};
use crate::config::fields::{Fields, Written};
use crate::config::quantity;
use crate::config::yaml::Data;
use crate::model::service::SessionLog;
use crate::model::{Balance, Expect, OnError};

/// `check:`, of `defaults` or of one service.
#[derive(Default, Clone)]
pub(in crate::config) struct Check {
    /// Services only.
    pub path: Option<Written<String>>,
    pub inter: Option<Written<Duration>>,
    pub fastinter: Option<Written<Duration>>,
    pub downinter: Option<Duration>,
    pub rise: Option<u32>,
    pub fall: Option<u32>,
    pub timeout: Option<Duration>,
    pub port: Option<u16>,
    pub expect: Option<Expect>,
    pub observe: Option<Observing>,
    /// Every key that is there, well written or not.
    pub keys: Vec<(&'static str, At)>,
}

#[derive(Clone, Copy)]
pub(in crate::config) enum Observing {
    Off,
    On { error_limit: Option<u32>, on_error: Option<OnError> },
}

#[derive(Default)]
pub(in crate::config) struct Policy {
    pub hold: Option<Hold>,
    pub balance: Option<Balance>,
    pub connect_timeout: Option<Duration>,
    pub retries: Option<u32>,
    pub maxconn: Option<u32>,
    pub queue_timeout: Option<Duration>,
    pub queue_max: Option<u32>,
    pub slowstart: Option<Written<Duration>>,
    pub clients_max: Option<u32>,
    pub close_on_down: Option<Close>,
    pub drain: Option<Duration>,
    pub allow: Option<Allow>,
    pub rate: Option<Rate>,
    pub startup_timeout: Option<Duration>,
    pub freebind: Option<bool>,
    pub session_log: Option<SessionLog>,
    pub keepalive_idle: Option<Duration>,
    pub keepalive_interval: Option<Duration>,
    pub keepalive_count: Option<u32>,
    pub user_timeout: Option<Duration>,
}

pub(in crate::config) enum Hold {
    Off,
    On { timeout: Option<HoldTimeout>, max: Option<u32>, notice: Option<HoldNotice> },
}

#[derive(Clone, Copy)]
pub(in crate::config) enum HoldTimeout {
    Auto,
    After(Duration),
}

#[derive(Clone, Copy)]
pub(in crate::config) enum HoldNotice {
    Never,
    After(Duration),
}

/// `rate:`; `off` is three zeros.
#[derive(Clone, Copy)]
pub(in crate::config) struct Rate {
    pub max: Option<u32>,
    pub per_client_max: Option<u32>,
    pub cancels_max: Option<u32>,
}

#[derive(Clone, Copy)]
pub(in crate::config) enum Close {
    Never,
    AtOnce,
    After(Written<Duration>),
}

pub(super) fn read_check(check: &Fields<'_>) -> Check {
    Check {
        path: read_path(check),
        inter: check.duration("inter"),
        fastinter: check.duration("fastinter"),
        downinter: plain(check.duration("downinter")),
        rise: plain(check.count("rise")),
        fall: plain(check.count("fall")),
        timeout: plain(check.duration("timeout")),
        port: plain(check.port("port")),
        expect: read_expect(check),
        observe: read_observe(check),
        keys: check.keys().collect(),
    }
}

/// Longer than any path and query of Patroni's REST API.
const PATH_BYTES_MAX: usize = 1024;

fn read_path(check: &Fields<'_>) -> Option<Written<String>> {
    let written = check.text("path")?;
    let plain =
        written.value.bytes().all(|b| b.is_ascii_graphic() && b != b'#') && written.value.len() <= PATH_BYTES_MAX;
    if plain && written.value.starts_with('/') {
        return owned(Some(written));
    }
    let sentence = format!("`path` is a path of Patroni's REST API such as /replica?lag=16MB, not `{}`", written.value);
    check.sink().report(written.at, sentence);
    None
}

fn read_expect(check: &Fields<'_>) -> Option<Expect> {
    let node = check.node("expect")?;
    if matches!(node.data, Data::Map(_)) {
        check.sink().report(node.at, "`expect` is a status, a range, or a list of both: 200, 200-399 or [200, 206]");
        return None;
    }
    let written = check.texts("expect")?;
    if written.is_empty() {
        check.sink().report(node.at, "`expect` names no status, so that no check would ever pass; write 200");
    }
    let mut ranges = Vec::new();
    for text in &written {
        match quantity::statuses(text.value) {
            Ok(read) => ranges.extend(read),
            Err(sentence) => check.sink().report(text.at, format!("`expect`: {sentence}")),
        }
    }
    (!ranges.is_empty()).then_some(Expect(ranges))
}

fn read_observe(check: &Fields<'_>) -> Option<Observing> {
    let node = check.node("observe")?;
    match &node.data {
        Data::Null => return None,
        Data::Scalar(word) if is_off(word) => return Some(Observing::Off),
        Data::Scalar(word) => {
            let sentence = format!(
                "`observe` is `off` or a mapping such as {{ error_limit: 10, on_error: fail_check }}, not `{word}`"
            );
            check.sink().report(node.at, sentence);
            return None;
        }
        _ => {}
    }
    let observe = check.section("observe")?;
    let on_error = observe.word("on_error", &OnError::ALL.map(|on_error| (on_error.as_str(), on_error)));
    Some(Observing::On { error_limit: plain(observe.count("error_limit")), on_error: plain(on_error) })
}

pub(super) fn is_off(word: &str) -> bool {
    matches!(word, "off" | "false" | "no")
}

pub(super) fn read_policy(fields: &Fields<'_>) -> Policy {
    let tcp = fields.section("tcp");
    let keepalive = tcp.as_ref().and_then(|tcp| tcp.section("keepalive"));
    let seconds = |key| keepalive.as_ref().and_then(|keepalive| plain(whole_seconds(keepalive, key)));
    let queue = fields.section("queue");
    Policy {
        hold: read_hold(fields),
        balance: plain(fields.word("balance", &Balance::ALL.map(|balance| (balance.as_str(), balance)))),
        connect_timeout: plain(fields.duration("connect_timeout")),
        retries: plain(fields.count("retries")),
        maxconn: plain(fields.count("maxconn")),
        queue_timeout: queue.as_ref().and_then(|queue| plain(queue.duration("timeout"))),
        queue_max: queue.as_ref().and_then(|queue| plain(queue.count("max"))),
        slowstart: fields.duration("slowstart"),
        clients_max: plain(fields.count("clients_max")),
        close_on_down: read_close_on_down(fields),
        drain: read_drain(fields),
        allow: allow::read(fields),
        rate: read_rate(fields),
        startup_timeout: plain(fields.duration("startup_timeout")),
        freebind: plain(fields.switch("freebind")),
        session_log: plain(fields.word("session_log", &SessionLog::ALL.map(|log| (log.as_str(), log)))),
        keepalive_idle: seconds("idle"),
        keepalive_interval: seconds("interval"),
        keepalive_count: keepalive.as_ref().and_then(|keepalive| plain(keepalive.count("count"))),
        user_timeout: tcp.as_ref().and_then(|tcp| plain(tcp.duration("user_timeout"))),
    }
}

/// The kernel counts these in seconds.
pub(super) fn whole_seconds(fields: &Fields<'_>, key: &str) -> Option<Written<Duration>> {
    let written = fields.duration(key)?;
    if written.value.subsec_nanos() != 0 {
        fields.sink().report(written.at, format!("`{key}` is in whole seconds: the kernel knows no others"));
        return None;
    }
    Some(written)
}

fn read_hold(fields: &Fields<'_>) -> Option<Hold> {
    let node = fields.node("hold")?;
    match &node.data {
        // Everything below it commented out: not a wish to undo `hold: off` of the defaults.
        Data::Null => return None,
        Data::Scalar(word) if is_off(word) => return Some(Hold::Off),
        Data::Scalar(word) => {
            let sentence =
                format!("`hold` is `off` or a mapping such as {{ timeout: auto, max: 10000 }}, not `{word}`");
            fields.sink().report(node.at, sentence);
            return None;
        }
        _ => {}
    }
    let hold = fields.section("hold")?;
    let timeout = read_hold_timeout(&hold);
    Some(Hold::On { timeout, max: plain(hold.count("max")), notice: read_hold_notice(&hold, timeout) })
}

fn read_hold_notice(hold: &Fields<'_>, timeout: Option<HoldTimeout>) -> Option<HoldNotice> {
    let node = hold.node("notice")?;
    match &node.data {
        Data::Scalar(word) if is_off(word) => return Some(HoldNotice::Never),
        Data::Scalar(word) if !word.starts_with(|c: char| c.is_ascii_digit()) && !word.trim().is_empty() => {
            let sentence = format!("`notice` is `off` or a duration such as 5s, not `{word}`");
            hold.sink().report(node.at, sentence);
            return None;
        }
        _ => {}
    }
    let after = hold.duration("notice")?;
    if let Some(HoldTimeout::After(limit)) = timeout
        && after.value >= limit
    {
        let (notice, limit) = (quantity::show_duration(after.value), quantity::show_duration(limit));
        let sentence = format!("nobody waits for {notice} with a `timeout` of {limit}: write less, or `notice: off`");
        hold.sink().report(after.at, sentence);
    }
    Some(HoldNotice::After(after.value))
}

fn read_drain(fields: &Fields<'_>) -> Option<Duration> {
    let node = fields.node("drain")?;
    if matches!(&node.data, Data::Scalar(word) if is_off(word)) {
        fields.sink().report(node.at, "to cut transactions at once, write `drain: 0s`");
        return None;
    }
    plain(fields.duration("drain"))
}

fn read_rate(fields: &Fields<'_>) -> Option<Rate> {
    let node = fields.node("rate")?;
    match &node.data {
        Data::Null => return None,
        Data::Scalar(word) if is_off(word) => {
            return Some(Rate { max: Some(0), per_client_max: Some(0), cancels_max: Some(0) });
        }
        Data::Scalar(word) => {
            let sentence = format!(
                "`rate` is `off` or a mapping such as {{ max: 200, per_client_max: 20, cancels_max: 100 }}, not `{word}`"
            );
            fields.sink().report(node.at, sentence);
            return None;
        }
        _ => {}
    }
    let rate = fields.section("rate")?;
    let count = |key| plain(rate.count(key));
    Some(Rate { max: count("max"), per_client_max: count("per_client_max"), cancels_max: count("cancels_max") })
}

fn read_hold_timeout(hold: &Fields<'_>) -> Option<HoldTimeout> {
    let node = hold.node("timeout")?;
    match &node.data {
        Data::Scalar(word) if word == "auto" => Some(HoldTimeout::Auto),
        Data::Scalar(word) if matches!(word.as_str(), "off" | "0" | "0s" | "0ms") => {
            hold.sink().report(node.at, "to refuse clients at once, write `hold: off`");
            None
        }
        Data::Scalar(word) if !word.starts_with(|c: char| c.is_ascii_digit()) => {
            let meant = nearest(word, ["auto"]).map(|_| "; did you mean `auto`?").unwrap_or_default();
            hold.sink().report(node.at, format!("`timeout` is `auto` or a duration such as 45s, not `{word}`{meant}"));
            None
        }
        _ => hold.duration("timeout").map(|limit| HoldTimeout::After(limit.value)),
    }
}

fn read_close_on_down(fields: &Fields<'_>) -> Option<Close> {
    let node = fields.node("close_on_down")?;
    if !matches!(node.data, Data::Map(_)) {
        let yes = plain(fields.switch("close_on_down"))?;
        return Some(if yes { Close::AtOnce } else { Close::Never });
    }
    let close = fields.section("close_on_down")?;
    if close.node("grace").is_none() && close.is_clean() {
        close.sink().report(node.at, "`close_on_down` is true, false or { grace: 30s }");
    }
    close.duration("grace").map(Close::After)
}
