//! The loop of one session: it alone owns the ledger, and every RPC runs in a task of its own.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::Client;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{sleep_until, timeout};

use super::ledger::Ledger;
use super::link::{self, Reading};
use super::rounds::{Ask, Backoff, Rounds};
use super::watch::watch;
use super::{EtcdAccess, Message, Subscription};
use crate::dcs::place::Place;
use crate::dcs::{DcsEvent, bounded};
use crate::runtime::clock;

/// From connecting to the last byte of the answer.
const READ_MAX: Duration = Duration::from_secs(2);
const LEASE_MAX: Duration = Duration::from_secs(1);
const LEASES_AT_ONCE_MAX: usize = 32;
const INBOX_MAX: usize = 256;
/// A watch that lived this long is replaced at once, a shorter one after a pause.
const WATCH_SETTLED: Duration = Duration::from_secs(2);
/// One endpoint's trouble is told at most this often, the same trouble at most that often.
const TROUBLE_GAP: Duration = Duration::from_secs(1);
const SAME_TROUBLE_GAP: Duration = Duration::from_secs(10);
const URL_CHARS_MAX: usize = 200;
const IDLE: Duration = Duration::from_secs(3600);

pub(super) struct Session<S> {
    access: Arc<EtcdAccess>,
    places: Arc<[Place]>,
    endpoints: Vec<Endpoint>,
    rounds: Rounds,
    ledger: Ledger<S>,
    reads: JoinSet<ReadDone>,
    watches: JoinSet<String>,
    watch: Option<Watch>,
    watch_backoff: Backoff,
    /// Where a watch ended early, and until when not to try it there again.
    watch_pause: Option<(usize, Instant)>,
    leases: JoinSet<()>,
    /// Which reading the lease answers must belong to: an older answer would promise too much.
    lease_serial: u64,
    serial: u64,
    inbox: mpsc::Receiver<Message>,
    outbox: mpsc::Sender<Message>,
    wanted: Arc<Notify>,
    /// By endpoint, and by place where only one is concerned.
    troubles: BTreeMap<(usize, Option<usize>), (String, Instant)>,
}

struct Endpoint {
    url: String,
    /// Not here while a read uses it; gone for good when that read fails, so that a hung connection
    /// is never used twice.
    client: Option<Client>,
}

struct Watch {
    endpoint: usize,
    serial: u64,
    started: Instant,
    task: AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct ReadDone {
    endpoint: usize,
    serial: u64,
    /// Over a connection of its own, which nothing else uses yet.
    fresh: bool,
    floor: i64,
    result: Result<(Client, Reading), String>,
}

impl<S: Fn(usize, DcsEvent) + Send + Sync + 'static> Session<S> {
    pub fn new(access: EtcdAccess, subscriptions: Vec<Subscription>, sink: S, wanted: Arc<Notify>) -> Session<S> {
        let endpoints: Vec<_> = access.urls().into_iter().map(|url| Endpoint { url, client: None }).collect();
        let (outbox, inbox) = mpsc::channel(INBOX_MAX);
        Session {
            access: Arc::new(access),
            places: subscriptions.iter().map(|s| s.place.clone()).collect(),
            rounds: Rounds::new(endpoints.len(), subscriptions.len(), clock::now()),
            endpoints,
            ledger: Ledger::new(subscriptions, sink),
            reads: JoinSet::new(),
            watches: JoinSet::new(),
            watch: None,
            watch_backoff: Backoff::default(),
            watch_pause: None,
            leases: JoinSet::new(),
            lease_serial: 0,
            serial: 0,
            inbox,
            outbox,
            wanted,
            troubles: BTreeMap::new(),
        }
    }

    pub async fn run(mut self) {
        if self.endpoints.is_empty() {
            self.ledger.tell_trouble(None, "", "no etcd endpoints are configured");
        }
        if self.places.is_empty() {
            return;
        }
        loop {
            let now = clock::now();
            while let Some(ask) = self.rounds.ask(now) {
                self.send_read(&ask);
            }
            if self.ledger.grace_until().is_some_and(|until| now >= until) {
                self.ledger.tell_waiting();
            }
            let wake = [self.rounds.wake_at(), self.ledger.grace_until()].into_iter().flatten().min();
            tokio::select! {
                biased;
                Some(message) = self.inbox.recv() => self.on_message(message),
                Some(done) = self.reads.join_next() => self.on_read(done),
                Some(ended) = self.watches.join_next() => self.on_watch_ended(ended),
                Some(_finished) = self.leases.join_next() => {}
                () = self.wanted.notified() => self.rounds.hurry(clock::now()),
                () = sleep_until(wake.unwrap_or(now + IDLE).into()) => {}
            }
        }
    }

    fn send_read(&mut self, ask: &Ask) {
        let endpoint = &mut self.endpoints[ask.endpoint];
        let (url, client) = (endpoint.url.clone(), endpoint.client.take());
        let (access, places) = (Arc::clone(&self.access), Arc::clone(&self.places));
        let (index, serial, fresh, floor) = (ask.endpoint, ask.serial, client.is_none(), self.ledger.floor());
        self.reads.spawn(async move {
            // The client library panics over an answer with a part missing; that is this endpoint's failure.
            let read = AssertUnwindSafe(connect_and_read(&url, client, &access, &places)).catch_unwind();
            let result = match timeout(READ_MAX, read).await {
                Ok(Ok(result)) => result,
                Ok(Err(_panic)) => Err("an answer that no etcd gives".into()),
                Err(_elapsed) => Err(format!("no answer within {} s", READ_MAX.as_secs())),
            };
            ReadDone { endpoint: index, serial, fresh, floor, result }
        });
    }

    fn on_read(&mut self, done: Result<ReadDone, JoinError>) {
        let now = clock::now();
        match done {
            Ok(done) if !self.rounds.is_open(done.serial) => {
                // Too late to count; its connection is as good as before.
                self.endpoints[done.endpoint].client = done.result.ok().map(|(client, _)| client);
            }
            Ok(ReadDone { endpoint, fresh, floor, result: Ok((client, reading)), .. }) => {
                self.endpoints[endpoint].client = Some(client.clone());
                // A watch elsewhere, or on the connection before this one, is not to be relied on.
                if self.watch.take_if(|watch| fresh || watch.endpoint != endpoint).is_some() {
                    self.watch_pause = None;
                }
                self.take_reading(endpoint, client, reading, floor, now);
            }
            Ok(ReadDone { endpoint, result: Err(problem), .. }) => {
                self.trouble(endpoint, problem, now);
                self.drop_watch_at(endpoint);
                self.rounds.failed(endpoint, now);
            }
            Err(_aborted) => {}
        }
    }

    fn take_reading(&mut self, endpoint: usize, client: Client, reading: Reading, floor: i64, now: Instant) {
        self.reads.abort_all();
        self.rounds.answered(endpoint, now);
        self.serial += 1;
        self.lease_serial = self.serial;
        self.leases.abort_all();
        for (prefix, problem) in &reading.answers.denied {
            self.trouble_with(endpoint, Some(*prefix), problem.clone(), now);
        }
        let outcome = self.ledger.take_reading(reading, floor, now);
        if outcome.etcd_replaced {
            self.trouble(endpoint, "etcd went back in time or is another one: reading everything anew".into(), now);
        }
        if outcome.watch_silent {
            self.trouble(endpoint, "the watch lives and does not deliver: replaced".into(), now);
        }
        if outcome.etcd_replaced || outcome.watch_silent || outcome.watch_incomplete {
            self.watch = None;
            self.watch_pause = None;
        }
        if !outcome.leases.is_empty() {
            self.leases.spawn(ask_leases(client.clone(), outcome.leases, self.serial, self.outbox.clone()));
        }
        if self.watch.is_none() {
            match self.watch_pause {
                Some((place, until)) if place == endpoint && now < until => self.rounds.hurry(until),
                _ => self.start_watch(endpoint, client, now),
            }
        }
    }

    fn start_watch(&mut self, endpoint: usize, client: Client, now: Instant) {
        self.serial += 1;
        let serial = self.serial;
        let task = self.watches.spawn(watch(client, self.ledger.watch_starts(), serial, self.outbox.clone()));
        self.watch = Some(Watch { endpoint, serial, started: now, task });
    }

    fn on_watch_ended(&mut self, ended: Result<String, JoinError>) {
        let Some(watch) = self.watch.take_if(|watch| watch.task.is_finished()) else { return };
        let now = clock::now();
        let problem = ended.unwrap_or_else(|error| error.to_string());
        self.trouble(watch.endpoint, problem, now);
        if now.saturating_duration_since(watch.started) >= WATCH_SETTLED {
            self.watch_backoff.reset();
            self.watch_pause = None;
        } else {
            // Perhaps the connection, perhaps its token: the next one starts from nothing.
            self.endpoints[watch.endpoint].client = None;
            self.watch_pause = Some((watch.endpoint, now + self.watch_backoff.next()));
        }
        self.rounds.hurry(now);
    }

    fn drop_watch_at(&mut self, endpoint: usize) {
        if self.watch.take_if(|watch| watch.endpoint == endpoint).is_some() {
            self.watch_pause = None;
        }
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::Events { serial, index, events } => {
                let ours = self.watch.as_ref().is_some_and(|watch| watch.serial == serial);
                if ours && self.ledger.take_events(index, events) {
                    // Its lease is not known yet.
                    self.rounds.hurry(clock::now());
                }
            }
            Message::Lease { serial, lease, left } if serial == self.lease_serial => {
                self.ledger.take_lease(lease, left);
            }
            Message::Lease { .. } => {}
        }
    }

    fn trouble(&mut self, endpoint: usize, problem: String, now: Instant) {
        self.trouble_with(endpoint, None, problem, now);
    }

    fn trouble_with(&mut self, endpoint: usize, prefix: Option<usize>, problem: String, now: Instant) {
        let said = self.troubles.get(&(endpoint, prefix));
        let quiet = said.is_some_and(|(last, at)| {
            let gap = if *last == problem { SAME_TROUBLE_GAP } else { TROUBLE_GAP };
            now.saturating_duration_since(*at) < gap
        });
        if !quiet {
            self.ledger.tell_trouble(prefix, &bounded(&self.endpoints[endpoint].url, URL_CHARS_MAX), &problem);
            self.troubles.insert((endpoint, prefix), (problem, now));
        }
    }
}

async fn connect_and_read(
    url: &str,
    client: Option<Client>,
    access: &EtcdAccess,
    places: &[Place],
) -> Result<(Client, Reading), String> {
    let client = match client {
        Some(client) => client,
        None => link::connect(url, access).await?,
    };
    let reading = link::read(&client, places).await?;
    Ok((client, reading))
}

/// Tells each answer as it comes. What has not come within `LEASE_MAX` is told by nobody: the
/// reading went out without it long before.
async fn ask_leases(client: Client, leases: Vec<i64>, serial: u64, out: mpsc::Sender<Message>) {
    let ask = |lease: i64| {
        let client = client.clone();
        async move { (lease, link::lease_left(&client, lease).await) }
    };
    let told = stream::iter(leases).map(ask).buffer_unordered(LEASES_AT_ONCE_MAX).for_each(|(lease, left)| {
        let out = out.clone();
        async move {
            // A session that has ended wants no answers.
            let _ = out.send(Message::Lease { serial, lease, left }).await;
        }
    });
    let _ = timeout(LEASE_MAX, told).await;
}
