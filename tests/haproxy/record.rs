//! One checker lives through one timeline, and what was seen of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pgvane::runtime::clock;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::lag::{Lag, Late, watch_process};
use crate::members::client::{Client, Failure};
use crate::members::ms;
use crate::members::ports::Port;
use crate::script::{Change, MEMBERS, Timeline};
use crate::stand::PATIENCE;
use crate::stand::clients::visit;
use crate::stand::haproxy::{HaProxy, Listen};
use crate::stand::node::{Manner, Node, State, Zero, zero};
use crate::stand::pgvane::{Pgvane, cluster};

/// Of one batch; each of one, two and three divides it.
pub const CLIENTS: u32 = 6;
const CLIENT_MAX: Duration = Duration::from_secs(5);

/// Whose checks these are.
#[derive(Debug, Clone)]
pub enum Front {
    HaProxy(Arc<HaProxy>),
    Pgvane(Arc<Pgvane>, String),
}

impl Front {
    async fn order(&self, member: &str, state: &str) {
        match self {
            Front::HaProxy(haproxy) => haproxy.order("any", member, state).await,
            Front::Pgvane(pgvane, cluster) => pgvane.order(cluster, member, state).await,
        }
    }

    fn id(&self) -> u32 {
        match self {
            Front::HaProxy(haproxy) => haproxy.id(),
            Front::Pgvane(pgvane, _) => pgvane.id(),
        }
    }

    fn moves(&self) -> Vec<(Instant, String, bool)> {
        match self {
            Front::HaProxy(haproxy) => haproxy.moves(),
            Front::Pgvane(pgvane, cluster) => pgvane.moves(cluster, "/check"),
        }
    }
}

/// Three members of its own for one checker, and where its clients connect.
#[derive(Debug)]
pub struct Stage {
    pub nodes: Vec<Node>,
    zero: Zero,
    at: Port,
}

impl Stage {
    /// The members do already what they do first.
    pub fn new(timeline: &Timeline) -> Stage {
        let zero = zero();
        let nodes = Node::three(&zero);
        for (node, script) in nodes.iter().zip(&timeline.scripts) {
            node.rest.set_state(script.at(0));
        }
        Stage { nodes, zero, at: Port::reserve() }
    }

    /// The moment from which everything here is counted.
    pub async fn first_check(&self) -> Instant {
        let mut zero = self.zero.subscribe();
        let first = tokio::time::timeout(PATIENCE, zero.wait_for(Option::is_some)).await.expect("a first check");
        first.expect("the stage is there").expect("a first check")
    }

    pub async fn haproxy(&self, timeline: &Timeline) -> Front {
        let words = format!("{} on-marked-down shutdown-sessions", timeline.timing.words());
        let listen = Listen::new("any", self.at.address(), &self.nodes, words);
        Front::HaProxy(Arc::new(HaProxy::start(&format!("{}ms", timeline.timing.timeout), &listen.text()).await))
    }

    pub fn pgvane_cluster(&self, name: &str, timeline: &Timeline) -> String {
        let (at, check) = (self.at.address(), timeline.timing.yaml());
        let services = format!(
            "      any: {{ listen: \"{at}\", role: any, hold: off, balance: roundrobin, connect_timeout: 3s, retries: 3, \
             check: {{ {check} }}, close_on_down: true, session_log: off }}\n"
        );
        cluster(name, &self.nodes, &services)
    }
}

/// Milliseconds after the first check.
pub type Moment = f64;

#[derive(Debug)]
pub struct Record {
    pub is_haproxy: bool,
    /// Of each member: when a check came, and what it met.
    pub checks: Vec<Vec<(Moment, State)>>,
    /// Of each member: when it went up or down.
    pub moves: Vec<Vec<(Moment, bool)>>,
    pub batches: Vec<Batch>,
    /// How late this process and the checker ran.
    pub late: Late,
}

/// Some clients in a row.
#[derive(Debug, Default)]
pub struct Batch {
    pub from: Moment,
    pub to: Moment,
    /// How many each member served.
    pub served: BTreeMap<String, u32>,
    /// Turned away.
    pub nobody: u32,
    /// One session per member that stayed, and when it was closed.
    pub closed: BTreeMap<String, Option<Moment>>,
    pub strange: Vec<String>,
}

impl Batch {
    /// All of these served as many as the others.
    pub fn is_even(&self, usable: &BTreeSet<String>) -> bool {
        let share = CLIENTS.checked_div(usable.len() as u32).unwrap_or(0);
        usable.iter().all(|member| self.served.get(member) == Some(&share))
    }

    /// Nobody else served, and nobody was turned away while there was somebody.
    pub fn is_within(&self, usable: &BTreeSet<String>) -> bool {
        let turned_away = if usable.is_empty() { CLIENTS } else { 0 };
        self.served.keys().all(|member| usable.contains(member))
            && self.nobody == turned_away
            && self.strange.is_empty()
    }
}

impl Record {
    /// Whom clients may meet at this moment, by the transitions that were seen and by orders.
    pub fn usable(&self, timeline: &Timeline, at: Moment) -> BTreeSet<String> {
        let is_up = |member: usize| {
            let last = self.moves[member].iter().rev().find(|(moved, _)| *moved <= at);
            // Before the first check, HAProxy's servers are up.
            last.map_or(self.is_haproxy, |(_, up)| *up)
        };
        let is_ready = |member: usize| {
            let last = timeline.orders.iter().rev().find(|(ordered, who, _)| *who == member && *ordered as f64 <= at);
            last.is_none_or(|(_, _, order)| *order == "ready")
        };
        let usable = (0..self.moves.len()).filter(|member| is_up(*member) && is_ready(*member));
        usable.map(|member| format!("m{}", member + 1)).collect()
    }
}

/// A few lines for people.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (member, (checks, moves)) in self.checks.iter().zip(&self.moves).enumerate() {
            let checks: Vec<_> = checks.iter().map(|(at, met)| format!("{at:.0} {met:?}")).collect();
            let moves: Vec<_> =
                moves.iter().map(|(at, up)| format!("{at:.0} {}", if *up { "up" } else { "down" })).collect();
            writeln!(f, "  m{} checks: {}\n  m{0} moves: {}", member + 1, checks.join(", "), moves.join(", "))?;
        }
        for Batch { from, served, nobody, closed, .. } in &self.batches {
            let rounded: Vec<_> = closed.iter().map(|(who, at)| (who, at.map(|at| at.round()))).collect();
            writeln!(f, "  clients at {from:.0}: served {served:?}, {nobody} by nobody, closed {rounded:?}")?;
        }
        write!(f, "  late by at most {:.0} ms, together {:.0} ms", self.late.most, self.late.total)
    }
}

/// From the first check to the end of the timeline.
pub async fn conduct(stage: &Stage, front: Front, timeline: &Timeline, lag: &Lag) -> Record {
    let zero = stage.first_check().await;
    let mut acting = JoinSet::new();
    let firsts = timeline.timing.first_checks(MEMBERS as u64);
    for ((node, script), first) in stage.nodes.iter().zip(&timeline.scripts).zip(firsts) {
        let changes = script.changes(timeline.timing, first, timeline.end);
        acting.spawn(perform(node.rest.manner(), node.rest.came(), changes));
    }
    let orders = async {
        for (at, member, order) in &timeline.orders {
            sleep_until(zero + ms(*at)).await;
            front.order(&stage.nodes[*member].name, order).await;
        }
    };
    let program_late = Mutex::new(Late::default());
    let lived = async {
        let ((), batches) = tokio::join!(orders, clients(stage, timeline, zero));
        sleep_until(zero + ms(timeline.end)).await;
        batches
    };
    let batches = tokio::select! {
        batches = lived => batches,
        () = watch_process(front.id(), &program_late) => unreachable!("it never returns"),
    };
    let mut moves = vec![Vec::new(); stage.nodes.len()];
    for (at, who, up) in front.moves() {
        let member = stage.nodes.iter().position(|node| node.name == who).expect("a member");
        moves[member].push((moment(zero, at), up));
    }
    let checks = |node: &Node| node.rest.asked().iter().map(|asked| (moment(zero, asked.at), asked.state)).collect();
    let checks = stage.nodes.iter().map(checks).collect();
    let late = lag.within(zero, clock::now()).and(*program_late.lock());
    Record { is_haproxy: matches!(front, Front::HaProxy(_)), checks, moves, batches, late }
}

async fn perform(manner: watch::Sender<Manner>, mut came: watch::Receiver<Vec<Instant>>, changes: Vec<Change>) {
    for Change { check, after, state } in changes {
        let Ok(asked_at) = came.wait_for(|came| came.len() > check).await.map(|came| came[check]) else { return };
        sleep_until(asked_at + ms(after)).await;
        manner.send_modify(|manner| manner.state = state);
    }
}

async fn clients(stage: &Stage, timeline: &Timeline, zero: Instant) -> Vec<Batch> {
    let end = zero + ms(timeline.end);
    let mut staying = JoinSet::new();
    let mut batches = Vec::new();
    for at in &timeline.batches {
        sleep_until(zero + ms(*at)).await;
        let (batch, stayers) = batch(stage, zero).await;
        for (member, client) in stayers {
            let number = batches.len();
            staying.spawn(async move { (number, member, closing(client, end).await) });
        }
        batches.push(batch);
    }
    while let Some(ended) = staying.join_next().await {
        let (number, member, closed) = ended.expect("a client does not panic");
        batches[number].closed.insert(member, closed.map(|at| moment(zero, at)));
    }
    batches
}

/// One after the other, so that their order is theirs; the first of each member stays.
async fn batch(stage: &Stage, zero: Instant) -> (Batch, BTreeMap<String, Client>) {
    let mut batch = Batch { from: moment(zero, clock::now()), ..Batch::default() };
    let mut stayers = BTreeMap::new();
    for _ in 0..CLIENTS {
        match visit(stage.at.address(), CLIENT_MAX).await {
            Ok((who, client)) => {
                *batch.served.entry(who.clone()).or_default() += 1;
                stayers.entry(who).or_insert(client);
            }
            Err(Failure::Closed(_)) => batch.nobody += 1,
            Err(failure) => batch.strange.push(failure.to_string()),
        }
    }
    batch.to = moment(zero, clock::now());
    (batch, stayers)
}

/// When it was closed, if that was before the end.
async fn closing(mut client: Client, end: Instant) -> Option<Instant> {
    tokio::select! {
        _failure = client.closed() => Some(clock::now()),
        () = sleep_until(end) => None,
    }
}

async fn sleep_until(at: Instant) {
    tokio::time::sleep_until(at.into()).await;
}

fn moment(zero: Instant, at: Instant) -> Moment {
    let (after, before) = (at.saturating_duration_since(zero), zero.saturating_duration_since(at));
    (after.as_secs_f64() - before.as_secs_f64()) * 1000.0
}
