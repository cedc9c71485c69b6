//! What is known of every prefix, and what has been told about it.
//!
//! Three sources meet here: readings (all prefixes, consistent, late), watch events (one prefix, at
//! once) and lease answers. The ledger keeps them from contradicting each other: what is told never
//! goes back, except when etcd itself did.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dcs::DcsEvent;
use crate::dcs::patroni::{Change, KeySpace, RawKey};
use crate::decide::ViewSource;

use super::Subscription;
use super::link::{Chunk, Reading};
use super::watch::Start;

/// How long a reading that brings no news waits for the answer about the lease.
const LEASE_GRACE: Duration = Duration::from_millis(200);
/// How long a watch may owe a change that a reading has shown.
const WATCH_DEBT_MAX: Duration = Duration::from_secs(1);

pub(super) struct Ledger<S> {
    sink: S,
    cluster_id: u64,
    /// The highest revision seen; a reading sent later must not be below it.
    floor: i64,
    accounts: Vec<Account>,
    /// Accounts by the lease they wait for.
    asked: BTreeMap<i64, Vec<usize>>,
    grace_until: Option<Instant>,
}

struct Account {
    id: usize,
    keys: KeySpace,
    /// The revision that the watch has yet to deliver, and since when.
    debt: Option<(i64, Instant)>,
    lease_wait: Option<LeaseWait>,
    /// Not refused by the last reading; a watch of what is refused would end the watch of the others.
    readable: bool,
}

struct LeaseWait {
    sent_at: Instant,
    told: bool,
}

/// What a reading calls for.
pub(super) struct Outcome {
    /// etcd went back in time or is another one: watches must begin anew.
    pub etcd_replaced: bool,
    /// The watch lives and does not deliver.
    pub watch_silent: bool,
    /// A prefix can be read that could not be before, and is not watched yet.
    pub watch_incomplete: bool,
    /// Leases to ask for.
    pub leases: Vec<i64>,
}

impl<S: Fn(usize, DcsEvent)> Ledger<S> {
    pub fn new(subscriptions: Vec<Subscription>, sink: S) -> Ledger<S> {
        let account = |s: Subscription| {
            let keys = KeySpace::new(s.place);
            Account { id: s.id, keys, debt: None, lease_wait: None, readable: false }
        };
        Ledger {
            sink,
            cluster_id: 0,
            floor: 0,
            accounts: subscriptions.into_iter().map(account).collect(),
            asked: BTreeMap::new(),
            grace_until: None,
        }
    }

    pub fn floor(&self) -> i64 {
        self.floor
    }

    pub fn watch_starts(&mut self) -> Vec<Start> {
        let start = |(index, account): (usize, &mut Account)| {
            account.debt = None;
            let place = account.keys.place().clone();
            account.readable.then(|| Start { index, place, revision: account.keys.revision() + 1 })
        };
        self.accounts.iter_mut().enumerate().filter_map(start).collect()
    }

    /// Of all prefixes, or of one.
    pub fn tell_trouble(&self, prefix: Option<usize>, endpoint: &str, problem: &str) {
        let concerned = self.accounts.iter().enumerate().filter(|(index, _)| prefix.is_none_or(|only| only == *index));
        for (_, account) in concerned {
            (self.sink)(account.id, DcsEvent::Trouble { endpoint: endpoint.to_owned(), problem: problem.to_owned() });
        }
    }

    /// `floor_at_send` is what [`Ledger::floor`] said before the reading was sent: an answer may be
    /// older than events that overtook it, never older than what was known before.
    pub fn take_reading(&mut self, reading: Reading, floor_at_send: i64, now: Instant) -> Outcome {
        let known = self.cluster_id != 0;
        let replaced = |c: &Chunk| known && (c.cluster_id != self.cluster_id || c.revision < floor_at_send);
        let etcd_replaced = reading.answers.chunks.iter().any(replaced);
        if etcd_replaced {
            self.forget();
        }
        self.tell_waiting();
        self.asked.clear();
        let sent_at = reading.sent_at;
        let mut watch_incomplete = false;
        for (index, _) in reading.answers.denied {
            if let Some(account) = self.accounts.get_mut(index) {
                (account.readable, account.lease_wait) = (false, None);
            }
        }
        for chunk in reading.answers.chunks {
            self.cluster_id = chunk.cluster_id;
            self.floor = self.floor.max(chunk.revision);
            for (offset, content) in chunk.contents.into_iter().enumerate() {
                let index = chunk.first + offset;
                watch_incomplete |= self.accounts.get(index).is_some_and(|account| !account.readable);
                self.take_content(index, chunk.revision, content, sent_at, now);
            }
        }
        self.grace_until = (!self.asked.is_empty()).then(|| now + LEASE_GRACE);
        let late = |a: &Account| a.debt.is_some_and(|(_, since)| now.saturating_duration_since(since) > WATCH_DEBT_MAX);
        let watch_silent = self.accounts.iter().any(late);
        Outcome { etcd_replaced, watch_silent, watch_incomplete, leases: self.asked.keys().copied().collect() }
    }

    fn forget(&mut self) {
        self.floor = 0;
        for account in &mut self.accounts {
            account.keys = KeySpace::new(account.keys.place().clone());
            account.debt = None;
            account.lease_wait = None;
        }
    }

    fn take_content(&mut self, index: usize, revision: i64, content: Vec<RawKey>, sent_at: Instant, now: Instant) {
        let Some(account) = self.accounts.get_mut(index) else { return };
        let first = account.keys.revision() == 0;
        account.readable = true;
        let mut news = first;
        // Else events overtook the answer, and what is known contains it.
        if revision >= account.keys.revision()
            && let Some(missed) = account.keys.replace(revision, content)
        {
            news = true;
            if !first && account.debt.is_none() {
                account.debt = Some((missed, now));
            }
        }
        let lease = account.keys.leader().map_or(0, |leader| leader.lease);
        account.lease_wait = (lease != 0).then_some(LeaseWait { sent_at, told: news });
        if lease != 0 {
            self.asked.entry(lease).or_default().push(index);
        }
        if news || lease == 0 {
            self.tell(index, ViewSource::Read { sent_at, lease_left: None });
        }
    }

    pub fn grace_until(&self) -> Option<Instant> {
        self.grace_until
    }

    /// The lease answers are late: what was read is told without them.
    pub fn tell_waiting(&mut self) {
        self.grace_until = None;
        for index in 0..self.accounts.len() {
            let Some(wait) = self.accounts[index].lease_wait.as_mut().filter(|wait| !wait.told) else { continue };
            wait.told = true;
            let sent_at = wait.sent_at;
            self.tell(index, ViewSource::Read { sent_at, lease_left: None });
        }
    }

    pub fn take_lease(&mut self, lease: i64, left: Option<Duration>) {
        for index in self.asked.remove(&lease).unwrap_or_default() {
            let account = &mut self.accounts[index];
            let Some(wait) = account.lease_wait.take() else { continue };
            // The leader may have changed since the question.
            let still = account.keys.leader().is_some_and(|leader| leader.lease == lease);
            let lease_left = left.filter(|_| still);
            if lease_left.is_some() || !wait.told {
                self.tell(index, ViewSource::Read { sent_at: wait.sent_at, lease_left });
            }
        }
        if self.asked.is_empty() {
            self.grace_until = None;
        }
    }

    /// Events of one prefix in order of revision. Returns whether somebody waits for a read that agrees: the leader
    /// key changed, or a hand-over key.
    pub fn take_events(&mut self, index: usize, events: Vec<(i64, Change)>) -> bool {
        let Some(account) = self.accounts.get(index) else { return false };
        let before = (account.keys.leader().cloned(), account.keys.vip_revisions());
        let mut events = events.into_iter().peekable();
        while let Some((revision, change)) = events.next() {
            let mut changes = vec![change];
            while let Some((_, change)) = events.next_if(|(other, _)| *other == revision) {
                changes.push(change);
            }
            self.take_revision(index, revision, changes);
        }
        let keys = &self.accounts[index].keys;
        (keys.leader().cloned(), keys.vip_revisions()) != before
    }

    fn take_revision(&mut self, index: usize, revision: i64, changes: Vec<Change>) {
        self.floor = self.floor.max(revision);
        let account = &mut self.accounts[index];
        account.debt = account.debt.filter(|(owed, _)| *owed > revision);
        if account.keys.apply(revision, changes) {
            self.tell(index, ViewSource::Watch);
        }
    }

    fn tell(&self, index: usize, source: ViewSource) {
        let account = &self.accounts[index];
        let view = Arc::new(account.keys.view(self.cluster_id));
        (self.sink)(account.id, DcsEvent::View { view, source });
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::dcs::etcd::link::Answers;
    use crate::dcs::place::Place;
    use crate::runtime::clock;

    const PREFIX: &str = "/s/one/";

    /// What was told, as `source leader@revision`.
    type Told = Rc<RefCell<Vec<String>>>;

    fn ledger(prefixes: &[&str]) -> (Ledger<impl Fn(usize, DcsEvent) + use<>>, Told) {
        let told = Told::default();
        let log = Rc::clone(&told);
        let sink = move |id: usize, event: DcsEvent| {
            let DcsEvent::View { view, source } = event else { return };
            let source = match source {
                ViewSource::Watch => "watch".to_owned(),
                ViewSource::Read { lease_left: None, .. } => "read".to_owned(),
                ViewSource::Read { lease_left: Some(left), .. } => format!("read+{}s", left.as_secs()),
            };
            let leader = view.leader.as_ref().map_or("-", |leader| leader.name.as_str());
            log.borrow_mut().push(format!("{id} {source} {leader}@{}", view.revision));
        };
        let subscription = |(id, prefix): (usize, &&str)| Subscription { place: Place::below(*prefix), id };
        (Ledger::new(prefixes.iter().enumerate().map(subscription).collect(), sink), told)
    }

    fn leader(name: &str, revision: i64) -> RawKey {
        let key = format!("{PREFIX}leader").into_bytes();
        RawKey { key, value: name.into(), create_revision: revision, mod_revision: revision, lease: 100 + revision }
    }

    fn reading(cluster_id: u64, revision: i64, content: Vec<RawKey>) -> Reading {
        answer(vec![Chunk { cluster_id, revision, first: 0, contents: vec![content] }])
    }

    fn answer(chunks: Vec<Chunk>) -> Reading {
        Reading { sent_at: clock::now(), answers: Answers { chunks, denied: Vec::new() } }
    }

    fn drain(told: &Told) -> Vec<String> {
        told.borrow_mut().drain(..).collect()
    }

    #[test]
    fn a_reading_without_news_waits_for_its_lease_and_one_with_news_does_not() {
        let (mut ledger, told) = ledger(&[PREFIX]);
        let now = clock::now();
        let outcome = ledger.take_reading(reading(1, 10, vec![leader("n1", 5)]), 0, now);
        assert_eq!(outcome.leases, [105]);
        assert_eq!(drain(&told), ["0 read n1@10"]);
        ledger.take_lease(105, Some(Duration::from_secs(20)));
        assert_eq!(drain(&told), ["0 read+20s n1@10"]);

        ledger.take_reading(reading(1, 11, vec![leader("n1", 5)]), 10, now);
        assert_eq!(drain(&told), [""; 0]);
        assert_eq!(ledger.grace_until(), Some(now + LEASE_GRACE));
        ledger.tell_waiting();
        assert_eq!(drain(&told), ["0 read n1@11"]);
        ledger.take_lease(105, Some(Duration::from_secs(19)));
        assert_eq!(drain(&told), ["0 read+19s n1@11"]);

        ledger.take_reading(reading(1, 12, vec![leader("n1", 5)]), 11, now);
        ledger.take_lease(105, None);
        assert_eq!(drain(&told), ["0 read n1@12"], "the question failed");
        assert_eq!(ledger.grace_until(), None);
    }

    #[test]
    fn an_answer_that_events_overtook_refreshes_and_does_not_turn_back() {
        let (mut ledger, told) = ledger(&[PREFIX]);
        let now = clock::now();
        ledger.take_reading(reading(1, 10, vec![leader("n1", 5)]), 0, now);
        let floor = ledger.floor();
        assert!(ledger.take_events(0, vec![(12, Change::Put(leader("n2", 12)))]));
        drain(&told);
        let outcome = ledger.take_reading(reading(1, 11, vec![leader("n1", 5)]), floor, now);
        assert!(!outcome.etcd_replaced);
        assert_eq!(outcome.leases, [112]);
        ledger.take_lease(112, Some(Duration::from_secs(30)));
        assert_eq!(drain(&told), ["0 read+30s n2@12"]);
    }

    #[test]
    fn a_hand_over_key_that_comes_or_goes_is_worth_a_read() {
        let (mut ledger, _told) = ledger(&[PREFIX]);
        ledger.take_reading(reading(1, 10, vec![leader("n1", 5)]), 0, clock::now());
        let key = format!("{PREFIX}pgvane/vip/10.0.0.9").into_bytes();
        let mark = RawKey { key: key.clone(), ..leader(r#"{"holder":"n1"}"#, 11) };
        assert!(ledger.take_events(0, vec![(11, Change::Put(mark))]));
        assert!(!ledger.take_events(
            0,
            vec![(12, Change::Put(RawKey { key: format!("{PREFIX}history").into(), ..leader("", 12) }))]
        ));
        assert!(ledger.take_events(0, vec![(13, Change::Delete { key })]));
    }

    #[test]
    fn the_lease_of_a_leader_that_has_changed_is_not_the_new_ones() {
        let (mut ledger, told) = ledger(&[PREFIX]);
        let now = clock::now();
        ledger.take_reading(reading(1, 10, vec![leader("n1", 5)]), 0, now);
        ledger.take_reading(reading(1, 11, vec![leader("n1", 5)]), 10, now);
        drain(&told);
        ledger.take_events(0, vec![(12, Change::Put(leader("n2", 12)))]);
        ledger.take_lease(105, Some(Duration::from_secs(30)));
        assert_eq!(drain(&told), ["0 watch n2@12", "0 read n2@12"]);
    }

    #[test]
    fn an_etcd_that_went_back_or_is_another_is_told_as_read() {
        let (mut ledger, told) = ledger(&[PREFIX]);
        let now = clock::now();
        ledger.take_reading(reading(1, 50, vec![leader("n2", 40)]), 0, now);
        let outcome = ledger.take_reading(reading(1, 20, vec![leader("n1", 5)]), ledger.floor(), now);
        assert!(outcome.etcd_replaced);
        assert_eq!(ledger.watch_starts()[0].revision, 21);
        let outcome = ledger.take_reading(reading(2, 90, vec![]), ledger.floor(), now);
        assert!(outcome.etcd_replaced);
        assert_eq!(drain(&told), ["0 read n2@50", "0 read n1@20", "0 read -@90"]);
    }

    #[test]
    fn a_watch_that_owes_a_change_for_a_second_is_silent() {
        let (mut ledger, _told) = ledger(&[PREFIX]);
        let now = clock::now();
        let later = |ms| now + Duration::from_millis(ms);
        ledger.take_reading(reading(1, 10, vec![leader("n1", 5)]), 0, now);
        assert!(!ledger.take_reading(reading(1, 20, vec![leader("n2", 15)]), 10, later(1000)).watch_silent);
        ledger.take_events(0, vec![(15, Change::Put(leader("n2", 15)))]);
        assert!(!ledger.take_reading(reading(1, 20, vec![leader("n2", 15)]), 20, later(2100)).watch_silent, "it paid");
        assert!(!ledger.take_reading(reading(1, 30, vec![]), 20, later(3000)).watch_silent);
        assert!(ledger.take_reading(reading(1, 30, vec![]), 30, later(4100)).watch_silent);
        ledger.watch_starts();
        assert!(!ledger.take_reading(reading(1, 30, vec![]), 30, later(9000)).watch_silent, "a new watch owes nothing");
    }

    #[test]
    fn events_of_one_revision_are_one_view() {
        let (mut ledger, told) = ledger(&["/s/zero/", PREFIX]);
        let both = Chunk { cluster_id: 1, revision: 10, first: 0, contents: vec![vec![], vec![leader("n1", 5)]] };
        ledger.take_reading(answer(vec![both]), 0, clock::now());
        drain(&told);
        let member = RawKey { key: format!("{PREFIX}members/n2").into_bytes(), ..leader("{}", 11) };
        let gone = Change::Delete { key: format!("{PREFIX}leader").into_bytes() };
        let events = vec![
            (9, Change::Put(leader("old", 9))),
            (11, gone),
            (11, Change::Put(member)),
            (12, Change::Put(leader("n2", 12))),
        ];
        assert!(ledger.take_events(1, events));
        assert_eq!(drain(&told), ["1 watch -@11", "1 watch n2@12"]);
    }
}
