//! Sources that are asked again and again over HTTP: Patroni's REST API, Consul, and the local Patroni that
//! vouches for its member.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::sleep_until;

use crate::config::Secret;
use crate::decide::trigger::{Answer, Word};
use crate::model::MemberName;
use crate::probe::page::{Page, PageOutcome, page};
use crate::runtime::clock;

use super::desk::{Desk, say_leader};
use super::{Endpoint, Tls, Voucher};

/// As long as vip-manager waits for Patroni (checker/patroni_leader_checker.go).
const PATRONI_MAX: Duration = Duration::from_secs(1);
/// A word of Patroni's counts for 1 s from the moment it was asked for.
const WORD_EVERY: Duration = Duration::from_millis(400);
const WORD_MAX: Duration = Duration::from_millis(750);
/// How long Consul keeps a question for a change. It may take a sixteenth longer. With the time-out it stays
/// below the 2 s for which an answer is believed, also when one of several servers hangs.
const CONSUL_WAIT: Duration = Duration::from_millis(500);
const CONSUL_MAX: Duration = Duration::from_millis(1200);
/// Consul answers at once while other keys of its store change.
const CONSUL_GAP_MIN: Duration = Duration::from_millis(100);
const CONSUL_BACKOFF: Duration = Duration::from_millis(500);

/// The same line is said once until another one takes its place.
#[derive(Default)]
struct Said(Option<String>);

impl Said {
    fn is_new(&mut self, line: &str) -> bool {
        let is_new = self.0.as_deref() != Some(line);
        self.0 = Some(line.to_owned());
        is_new
    }

    fn warn(&mut self, line: &str) {
        if self.is_new(line) {
            tracing::warn!(target: "pgvane::dcs", "{line}");
        }
    }
}

fn words(outcome: &PageOutcome) -> String {
    match outcome {
        PageOutcome::Page(page) => format!("status {}", page.status),
        PageOutcome::Refused => "connection refused".to_owned(),
        PageOutcome::TimedOut => "no answer in time".to_owned(),
        PageOutcome::Failed(problem) => problem.clone(),
        PageOutcome::CheckerLate => "this process was kept from running".to_owned(),
    }
}

/// The status of one page is the value. Silence is none: the address's lease is what bounds it.
pub(super) async fn patroni(desk: Arc<Desk>, endpoint: Endpoint, path: String, every: Duration, tls: Tls) {
    let (url, expected) = (format!("{endpoint}{path}"), desk.value());
    let asked = format!("{}{path}", endpoint.path);
    let mut said = Said::default();
    loop {
        let sent_at = clock::now();
        let outcome = page(&endpoint.api, &asked, &[], tls.as_ref(), PATRONI_MAX).await;
        match &outcome {
            PageOutcome::Page(page) => {
                let matches = page.status.to_string() == *expected;
                let line = format!("REST API returned status code {} for {url} (expected {expected})", page.status);
                if said.is_new(&line) {
                    tracing::info!(target: "pgvane::dcs", "{line}");
                }
                desk.answer(Answer::Value { matches, leader: None }, sent_at);
            }
            other => {
                said.warn(&format!("REST API error connecting to {url}: {}", words(other)));
                if *other == PageOutcome::Refused {
                    desk.answer(Answer::Nothing, sent_at);
                }
            }
        }
        sleep_until((sent_at + every).into()).await;
    }
}

/// One key of Consul's store, from one of its servers at a time.
pub(super) struct Consul {
    endpoints: Vec<Endpoint>,
    path: String,
    token: Option<Secret>,
    tls: Tls,
    /// The server in use: the rest of the division by their number.
    current: usize,
    /// Where the store stood at the last answer.
    index: Option<u64>,
    failures: usize,
    said: Said,
    leader: Option<Option<MemberName>>,
}

impl Consul {
    pub fn new(endpoints: Vec<Endpoint>, key: &str, token: Option<Secret>, tls: Tls) -> Consul {
        // github.com/hashicorp/consul/api, kv.go: one slash in front is not part of the key.
        let path = format!("/v1/kv/{}", encoded(key.strip_prefix('/').unwrap_or(key)));
        let said = Said::default();
        Consul { endpoints, path, token, tls, current: 0, index: None, failures: 0, said, leader: None }
    }

    pub async fn follow(mut self, desk: Arc<Desk>) {
        let expected = desk.value();
        loop {
            let sent_at = clock::now();
            let before = self.index;
            let outcome = self.ask().await;
            let next = match self.judge(&outcome, &expected) {
                Some(answer) => {
                    self.failures = 0;
                    self.say(&answer);
                    desk.answer(answer, sent_at);
                    self.next_after(before, sent_at)
                }
                None => self.next_after_failure(&outcome),
            };
            sleep_until(next.into()).await;
        }
    }

    async fn ask(&self) -> PageOutcome {
        let Some(endpoint) = self.endpoints.get(self.current % self.endpoints.len().max(1)) else {
            return PageOutcome::Failed("no endpoints are configured".into());
        };
        let wait = self.index.map(|index| format!("&index={index}&wait={}ms", CONSUL_WAIT.as_millis()));
        let path = format!("{}{}?raw&consistent{}", endpoint.path, self.path, wait.unwrap_or_default());
        let token = self.token.as_ref().map(|token| ("X-Consul-Token", token.reveal()));
        page(&endpoint.api, &path, token.as_slice(), self.tls.as_ref(), CONSUL_MAX).await
    }

    /// What an answer says of the key. None: it is no answer of Consul's about a key.
    fn judge(&mut self, outcome: &PageOutcome, expected: &str) -> Option<Answer> {
        let PageOutcome::Page(page) = outcome else { return None };
        let index = index(page);
        let answer = match (page.status, &page.body) {
            (200, Some(body)) => {
                let value = String::from_utf8_lossy(body);
                let leader = (!value.is_empty()).then(|| MemberName::from(value.as_ref()));
                Answer::Value { matches: body.as_slice() == expected.as_bytes(), leader }
            }
            // Any web server says 404; Consul says with it where its store stands.
            (404, _) if index.is_some() => Answer::Nothing,
            _ => return None,
        };
        // An index that goes back is to be forgotten (Consul's documentation of blocking queries).
        self.index = index.filter(|new| *new > 0 && self.index.is_none_or(|known| known <= *new));
        Some(answer)
    }

    fn next_after(&self, before: Option<u64>, sent_at: Instant) -> Instant {
        match self.index {
            None => sent_at + CONSUL_WAIT,
            index if index == before || before.is_none() => sent_at,
            _ => sent_at + CONSUL_GAP_MIN,
        }
    }

    fn next_after_failure(&mut self, outcome: &PageOutcome) -> Instant {
        let now = clock::now();
        let asked = self.endpoints.get(self.current % self.endpoints.len().max(1));
        let url = asked.map(Endpoint::to_string).unwrap_or_default();
        self.said.warn(&format!("consul error: {url}: {}", words(outcome)));
        self.index = None;
        self.current = self.current.wrapping_add(1);
        self.failures += 1;
        // At once elsewhere; when all have failed, after a pause.
        if self.failures.is_multiple_of(self.endpoints.len().max(1)) { now + CONSUL_BACKOFF } else { now }
    }

    fn say(&mut self, answer: &Answer) {
        self.said = Said::default();
        let leader = match answer {
            Answer::Value { leader, .. } => leader.clone(),
            Answer::Nothing => None,
        };
        if self.leader.as_ref() != Some(&leader) {
            say_leader(leader.as_ref());
            self.leader = Some(leader);
        }
    }
}

fn index(page: &Page) -> Option<u64> {
    page.header("x-consul-index")?.trim().parse().ok()
}

/// A key as part of a path: what is not plain is written by its bytes (RFC 3986, 2.1).
fn encoded(key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    key.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Asks the local Patroni whenever its word may be needed, and only then.
pub(super) async fn vouch(desk: Arc<Desk>, voucher: Voucher, tls: Tls) {
    let mut rights = desk.rights();
    let path = format!("{}/primary", voucher.endpoint.path);
    let mut said = Said::default();
    loop {
        let Some(from) = desk.needs_word_from() else {
            if rights.changed().await.is_err() {
                return;
            }
            continue;
        };
        if clock::now() < from {
            sleep_until(from.into()).await;
            continue;
        }
        let sent_at = clock::now();
        let outcome = page(&voucher.endpoint.api, &path, &[], tls.as_ref(), WORD_MAX).await;
        match judge(&outcome, &voucher) {
            Ok(word) => desk.word(word, sent_at),
            Err(problem) => said.warn(&format!("{}{path}: {problem}", voucher.endpoint.api)),
        }
        sleep_until((sent_at + WORD_EVERY).into()).await;
    }
}

/// Patroni's word about our member of our cluster. A stranger's word is no word, and neither is silence.
fn judge(outcome: &PageOutcome, voucher: &Voucher) -> Result<Word, String> {
    let PageOutcome::Page(page) = outcome else { return Err(words(outcome)) };
    if page.status != 200 {
        return Ok(Word::DoesNotLead);
    }
    let body = page.body.as_deref().and_then(|body| serde_json::from_slice::<Value>(body).ok());
    let body = body.ok_or("200 without Patroni's JSON")?;
    let named = |key: &str| body.get("patroni")?.get(key)?.as_str();
    match (named("name"), named("scope")) {
        (Some(name), _) if name != voucher.member => {
            Err(format!("it is the Patroni of {name}, which cannot vouch for {}", voucher.member))
        }
        (_, Some(scope)) if !voucher.key.split('/').any(|word| word == scope) => {
            Err(format!("it is a Patroni of the cluster {scope}, which is not in {}", voucher.key))
        }
        _ => Ok(Word::Leads),
    }
}
