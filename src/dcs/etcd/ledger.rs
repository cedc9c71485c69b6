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
    /// Leases to ask for.
    pub leases: Vec<i64>,
}

impl<S: Fn(usize, DcsEvent)> Ledger<S> {
    pub fn new(subscriptions: Vec<Subscription>, sink: S) -> Ledger<S> {
        let account =
            |s: Subscription| Account { id: s.id, keys: KeySpace::new(s.prefix), debt: None, lease_wait: None };
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
        let start = |account: &mut Account| {
            account.debt = None;
            Start { prefix: account.keys.prefix().to_owned(), revision: account.keys.revision() + 1 }
        };
        self.accounts.iter_mut().map(start).collect()
    }

    pub fn tell_trouble(&self, endpoint: &str, problem: &str) {
        for account in &self.accounts {
            (self.sink)(account.id, DcsEvent::Trouble { endpoint: endpoint.to_owned(), problem: problem.to_owned() });
        }
    }

    /// `floor_at_send` is what [`Ledger::floor`] said before the reading was sent: an answer may be
    /// older than events that overtook it, never older than what was known before.
    pub fn take_reading(&mut self, reading: Reading, floor_at_send: i64, now: Instant) -> Outcome {
        let known = self.cluster_id != 0;
        let replaced = |c: &Chunk| known && (c.cluster_id != self.cluster_id || c.revision < floor_at_send);
        let etcd_replaced = reading.chunks.iter().any(replaced);
        if etcd_replaced {
            self.forget();
        }
        self.tell_waiting();
        self.asked.clear();
        let sent_at = reading.sent_at;
        for chunk in reading.chunks {
            self.cluster_id = chunk.cluster_id;
            self.floor = self.floor.max(chunk.revision);
            for (offset, content) in chunk.contents.into_iter().enumerate() {
                self.take_content(chunk.first + offset, chunk.revision, content, sent_at, now);
            }
        }
        self.grace_until = (!self.asked.is_empty()).then(|| now + LEASE_GRACE);
        let late = |a: &Account| a.debt.is_some_and(|(_, since)| now.saturating_duration_since(since) > WATCH_DEBT_MAX);
        let watch_silent = self.accounts.iter().any(late);
        Outcome { etcd_replaced, watch_silent, leases: self.asked.keys().copied().collect() }
    }

    fn forget(&mut self) {
        self.floor = 0;
        for account in &mut self.accounts {
            account.keys = KeySpace::new(account.keys.prefix());
            account.debt = None;
            account.lease_wait = None;
        }
    }

    fn take_content(&mut self, index: usize, revision: i64, content: Vec<RawKey>, sent_at: Instant, now: Instant) {
        let Some(account) = self.accounts.get_mut(index) else { return };
        let first = account.keys.revision() == 0;
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

    /// Events of one prefix in order of revision. Returns whether the leader key changed.
    pub fn take_events(&mut self, index: usize, events: Vec<(i64, Change)>) -> bool {
        let Some(account) = self.accounts.get(index) else { return false };
        let before = account.keys.leader().cloned();
        let mut events = events.into_iter().peekable();
        while let Some((revision, change)) = events.next() {
            let mut changes = vec![change];
            while let Some((_, change)) = events.next_if(|(other, _)| *other == revision) {
                changes.push(change);
            }
            self.take_revision(index, revision, changes);
        }
        self.accounts[index].keys.leader() != before.as_ref()
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
