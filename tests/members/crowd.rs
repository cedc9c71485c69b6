//! Many clients at once, and what they lived through.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pgvane::runtime::clock;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::client::{Client, Failure};
use super::secs;

/// For one connect or answer; longer than any hold here.
pub const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
pub struct Tally {
    /// Answered writes.
    pub writes: usize,
    pub connects: usize,
    pub errors: Vec<String>,
    /// When each of the answered connects was asked for and answered.
    pub waits: Vec<(Instant, Instant)>,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.writes += other.writes;
        self.connects += other.connects;
        self.errors.extend(other.errors);
        self.waits.extend(other.waits);
    }

    pub fn assert_no_errors(&self) {
        assert!(self.errors.is_empty(), "{} errors, such as {}", self.errors.len(), self.errors[0]);
    }

    pub fn longest_wait(&self) -> Duration {
        let wait = |(asked, got): &(Instant, Instant)| got.saturating_duration_since(*asked);
        self.waits.iter().map(wait).max().unwrap_or_default()
    }
}

#[derive(Debug)]
pub struct Crowd {
    stop: CancellationToken,
    tasks: JoinSet<Tally>,
}

impl Crowd {
    /// Clients that keep their session and write in it; the first failure of each is its last.
    pub fn of_sessions(at: SocketAddr, count: usize, every: Duration) -> Crowd {
        Crowd::of(count, |stop| hold_session(at, every, stop))
    }

    /// The same, but they come again when their session ends.
    pub fn of_returning_sessions(at: SocketAddr, count: usize, every: Duration) -> Crowd {
        Crowd::of(count, move |stop| async move {
            let mut all = Tally::default();
            while !stop.is_cancelled() {
                all.add(hold_session(at, every, stop.clone()).await);
            }
            all
        })
    }

    /// Clients that come, write once and leave, again and again.
    pub fn of_visitors(at: SocketAddr, count: usize, every: Duration) -> Crowd {
        Crowd::of(count, |stop| visit_again(at, every, stop))
    }

    fn of<F: Future<Output = Tally> + Send + 'static>(count: usize, make: impl Fn(CancellationToken) -> F) -> Crowd {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            tasks.spawn(make(stop.clone()));
        }
        Crowd { stop, tasks }
    }

    /// Everybody finishes what they are at and goes home.
    pub async fn go_home(self) -> Tally {
        self.stop.cancel();
        self.gone().await
    }

    /// Waits until everybody has left of their own accord, which sessions do at their first failure.
    pub async fn gone(mut self) -> Tally {
        let mut all = Tally::default();
        while let Some(tally) = self.tasks.join_next().await {
            all.add(tally.expect("a client does not panic"));
        }
        all
    }
}

/// False when it is time to go home.
async fn pause(every: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = stop.cancelled() => false,
        () = tokio::time::sleep(every) => true,
    }
}

async fn hold_session(at: SocketAddr, every: Duration, stop: CancellationToken) -> Tally {
    let mut tally = Tally::default();
    let Some(mut client) = connect(at, &mut tally).await else { return tally };
    loop {
        match client.write().await {
            Ok(()) => tally.writes += 1,
            Err(failure) => {
                tally.errors.push(format!("a write in a session: {failure}"));
                return tally;
            }
        }
        if !pause(every, &stop).await {
            return tally;
        }
    }
}

async fn visit_again(at: SocketAddr, every: Duration, stop: CancellationToken) -> Tally {
    let mut tally = Tally::default();
    loop {
        if let Some(mut client) = connect(at, &mut tally).await {
            match client.write().await {
                Ok(()) => tally.writes += 1,
                Err(failure) => tally.errors.push(format!("a visitor's write: {failure}")),
            }
        }
        if !pause(every, &stop).await {
            return tally;
        }
    }
}

async fn connect(at: SocketAddr, tally: &mut Tally) -> Option<Client> {
    let asked = clock::now();
    match Client::connect(at, PATIENCE).await {
        Ok(client) => {
            tally.connects += 1;
            tally.waits.push((asked, clock::now()));
            Some(client)
        }
        Err(failure) => {
            tally.errors.push(format!("a connect: {failure}"));
            None
        }
    }
}

/// Opens so many sessions, every one of which must succeed.
pub async fn open_sessions(at: SocketAddr, count: usize) -> Vec<Client> {
    let mut opening = JoinSet::new();
    for _ in 0..count {
        opening.spawn(Client::connect(at, secs(30)));
    }
    let opened: Vec<Result<Client, Failure>> = opening.join_all().await;
    opened.into_iter().map(|client| client.unwrap_or_else(|failure| panic!("a connect: {failure}"))).collect()
}
