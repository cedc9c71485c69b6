//! The reference clock of every outage: asks each member directly, every 20 ms, for a write.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_postgres::{Client, NoTls};

use super::member::Member;
use super::report::{Gap, longest_gap};
use crate::runtime::clock;

pub const POLL_EVERY: Duration = Duration::from_millis(20);
/// A member that needs longer for a connect or for a write does not accept writes at that moment.
const POLL_MAX: Duration = Duration::from_millis(250);
/// Answers further apart are two stretches: something was missed in between.
const STRETCH_PAUSE_MAX: Duration = Duration::from_millis(100);

/// From the first to the last write that a member accepted without a refusal in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    pub member: String,
    pub timeline: u32,
    pub first: Instant,
    pub last: Instant,
}

type Stretches = Arc<Mutex<Vec<Stretch>>>;

/// Runs until it is dropped.
#[derive(Debug)]
pub struct Poller {
    stretches: Stretches,
    _tasks: JoinSet<()>,
}

impl Poller {
    pub fn start(members: &[Member]) -> Poller {
        let stretches = Stretches::default();
        let mut tasks = JoinSet::new();
        for member in members {
            tasks.spawn(poll(member.clone(), Arc::clone(&stretches)));
        }
        Poller { stretches, _tasks: tasks }
    }

    /// When which member accepted writes, by the beginning of each stretch.
    pub fn stretches(&self) -> Vec<Stretch> {
        let mut stretches = self.stretches.lock().clone();
        stretches.sort_by_key(|stretch| stretch.first);
        stretches
    }

    /// The longest time in the window in which no member at all accepted a write.
    pub fn outage(&self, from: Instant, until: Instant) -> Option<Gap> {
        let stretches = self.stretches();
        longest_gap(stretches.iter().map(|stretch| (stretch.first, stretch.last)), from, until)
    }

    /// The first write that `member` accepted at or after `moment`.
    pub fn first_write(&self, member: &str, moment: Instant) -> Option<Instant> {
        let stretches = self.stretches();
        let of_member = stretches.iter().filter(|stretch| stretch.member == member && stretch.last >= moment);
        of_member.map(|stretch| stretch.first.max(moment)).min()
    }
}

async fn poll(member: Member, stretches: Stretches) {
    let mut ticks = interval(POLL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection: Option<(Client, JoinHandle<()>)> = None;
    let mut open: Option<usize> = None;
    loop {
        ticks.tick().await;
        if connection.is_none() {
            connection = timeout(POLL_MAX, connect(&member)).await.ok().flatten();
        }
        let answer = match &connection {
            Some((client, _)) => timeout(POLL_MAX, ask(client)).await.ok().flatten(),
            None => None,
        };
        let now = clock::now();
        match answer {
            Some(0) => open = None,
            Some(timeline) => open = Some(extend(&stretches, &member.name, timeline, open, now)),
            None => {
                open = None;
                if let Some((_, driver)) = connection.take() {
                    driver.abort();
                }
            }
        }
    }
}

fn extend(stretches: &Stretches, member: &str, timeline: u32, open: Option<usize>, now: Instant) -> usize {
    let mut stretches = stretches.lock();
    if let Some(index) = open
        && let Some(stretch) = stretches.get_mut(index)
        && stretch.timeline == timeline
        && now.saturating_duration_since(stretch.last) <= STRETCH_PAUSE_MAX
    {
        stretch.last = now;
        return index;
    }
    stretches.push(Stretch { member: member.to_owned(), timeline, first: now, last: now });
    stretches.len() - 1
}

async fn connect(member: &Member) -> Option<(Client, JoinHandle<()>)> {
    let mut settings = member.client_settings();
    settings.application_name("pgvane-poller").options("-c synchronous_commit=off");
    let (client, connection) = settings.connect(NoTls).await.ok()?;
    Some((client, tokio::spawn(async move { drop(connection.await) })))
}

/// The timeline written on, 0 in recovery; None when the connection is of no more use.
async fn ask(client: &Client) -> Option<u32> {
    let row = client.query_one("SELECT demo_write()", &[]).await.ok()?;
    row.try_get::<_, i32>(0).ok().map(|timeline| timeline as u32)
}
