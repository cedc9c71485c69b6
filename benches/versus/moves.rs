//! A move of the leader key while 9,000 sessions ask now and then: how long the old leader still hears of any,
//! and how long any stays open. Clients, router and servers are processes of their own; etcd is real.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::runtime::Runtime;

use super::arguments::Arguments;
use super::backend::ASK_STANDING;
use super::contestants::{Kind, role_process};
use super::load::{self, Opener};
use super::members::etcd::Etcd;
use super::members::member::Member;
use super::members::patroni::Patroni;
use super::members::router::{Router, Setup};
use super::poll::{self, IN, Poll, nanos};
use super::report::Table;
use super::rows::{Goal, Metric};
use super::usage::{Meter, Watched, family};
use super::wire;

const SCOPE: &str = "versus";
const TIMELINE: u32 = 5;
const AT_A_TIME: usize = 50;
/// Of all sessions together, each in its turn.
const QUERIES_A_MILLISECOND: usize = 3;
/// How long they ask before the key moves.
const BEFORE: Duration = Duration::from_millis(300);
/// Nothing takes so long unless something hangs.
const PATIENCE: Duration = Duration::from_secs(30);

pub const METRICS: [Metric; 4] = [
    Metric { name: "all fenced, ms", decimals: 1, goal: Some(Goal::Within(50.0)) },
    Metric { name: "all closed, ms", decimals: 1, goal: Some(Goal::Within(1000.0)) },
    Metric { name: "of which etcd's answer, ms", decimals: 1, goal: None },
    Metric { name: "router CPU ms", decimals: 0, goal: None },
];

pub fn title(sessions: usize) -> String {
    format!("a move of the leader key with {sessions} sessions")
}

/// What stays the same from one build of pgvane to the next.
struct Ground {
    etcd: Etcd,
    members: Vec<Arc<Member>>,
    patroni: Patroni,
    /// Of each member's server; one more, to ask how they stand.
    servers: Vec<SocketAddr>,
}

pub fn rounds(arguments: &Arguments, runtime: &Runtime, table: &mut Table) -> Result<()> {
    let (_backend, ports) = role_process(&["backend", "4"])?;
    let servers: Vec<_> = ports.into_iter().map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
    let ground = runtime.block_on(Ground::start(servers));
    for entry in &arguments.entries {
        let Kind::Pgvane(program) = &entry.kind else { continue };
        let router = runtime.block_on(ground.router(program));
        for round in 0..arguments.rounds {
            let values = ground.round(&router, arguments.move_sessions, runtime);
            let values = values.with_context(|| format!("a move with {}, round {}", entry.label, round + 1))?;
            table.add(&title(arguments.move_sessions), &METRICS, &entry.label, values);
            eprintln!("round {} of {}: {}", round + 1, arguments.rounds, title(arguments.move_sessions));
        }
    }
    Ok(())
}

impl Ground {
    async fn start(servers: Vec<SocketAddr>) -> Ground {
        let etcd = Etcd::start().await;
        let member = |(number, at): (u32, &SocketAddr)| {
            let member = Member::in_front_of(&format!("n{number}"), SCOPE, number, at.port());
            member.set(|facts| facts.timeline = TIMELINE);
            Arc::new(member)
        };
        let members: Vec<_> = (1..=3).zip(&servers).map(member).collect();
        members[0].promote(TIMELINE);
        let patroni = Patroni::start(&etcd, SCOPE, members.clone()).await;
        Ground { etcd, members, patroni, servers }
    }

    async fn router(&self, program: &Path) -> Router {
        let setup = Setup::new(&self.etcd, &[SCOPE]);
        let log = File::create(setup.folder.path().join("router.log")).expect("a log file");
        let mut command = Command::new(program);
        command.args(["run", "-c"]).arg(setup.config_path());
        command.stdout(log.try_clone().expect("a log file")).stderr(log);
        let text = setup.text();
        let router = Router::start_as(setup, &text, &mut command);
        router.until_ready().await;
        router
    }

    /// Opens the sessions, moves the key, and waits until all of them are closed.
    fn round(&self, router: &Router, sessions: usize, runtime: &Runtime) -> Result<Vec<f64>> {
        let open = runtime.block_on(router.status())["leader"]["open"].as_str().unwrap_or_default().to_owned();
        let from = self.members.iter().position(|member| member.name == open).unwrap_or(0);
        let to = (from + 1) % 2;
        runtime.block_on(router.until_open(&self.members[from].name));
        let streams = Opener::new(router.write_port(0), AT_A_TIME)?.stay(sessions)?;
        ensure!(self.standing(from)?.0 >= sessions, "{} sessions at the leader", self.standing(from)?.0);
        let watched = Watched { proxy: family(router.id())?, stand: Vec::new() };
        let meter = Meter::start(&watched)?;
        let (mut etcd, name) = runtime.block_on(async {
            let mut etcd = self.patroni.client().await;
            self.patroni.delete_leader(&mut etcd).await;
            (etcd, self.members[to].name.clone())
        });
        let began = nanos();
        let keyed = std::thread::scope(|scope| {
            let mover = scope.spawn(|| {
                std::thread::sleep(BEFORE);
                let asked = nanos();
                runtime.block_on(self.patroni.take_leader(&mut etcd, &name));
                (asked, nanos())
            });
            let closed = crowd(&streams);
            mover.join().map_err(|_| anyhow::anyhow!("the key could not be moved")).and_then(|at| Ok((at, closed?)))
        });
        let ((asked, moved), closed) = keyed?;
        let used = meter.stop()?;
        let last_byte = self.standing(from)?.1;
        ensure!(last_byte > began, "the old leader has heard nothing");
        self.members[to].promote(self.members[from].timeline() + 1);
        self.members[from].demote();
        runtime.block_on(router.until_open(&self.members[to].name));
        // The key had moved at some moment between the asking for it and etcd's answer.
        let since = |at: u64| at.saturating_sub(asked) as f64 / 1e6;
        Ok(vec![since(last_byte), since(closed), (moved - asked) as f64 / 1e6, used.cpu * 1e3])
    }

    /// Sessions of a server, and when it read the last byte of one.
    fn standing(&self, server: usize) -> Result<(usize, u64)> {
        let all = load::question(*self.servers.last().context("a server")?, ASK_STANDING)?;
        let one = all.split(',').nth(server).and_then(|one| one.split_once(' ')).context("no such server")?;
        Ok((one.0.parse()?, one.1.parse()?))
    }
}

/// Asks in session after session until all are closed: when the last of them was.
fn crowd(streams: &[TcpStream]) -> Result<u64> {
    let mut poll = Poll::new()?;
    for (token, stream) in streams.iter().enumerate() {
        poll.add(stream, token, IN)?;
    }
    let mut is_open = vec![true; streams.len()];
    let (mut open, mut next, mut asked_at) = (streams.len(), 0, nanos());
    let until = nanos() + u64::try_from(PATIENCE.as_nanos())?;
    let mut scratch = vec![0; 4096];
    let mut last = 0;
    while open > 0 {
        if nanos() > until {
            bail!("{open} of {} sessions are still open after {PATIENCE:?}", streams.len());
        }
        if nanos() - asked_at >= 1_000_000 {
            asked_at = nanos();
            for _ in 0..QUERIES_A_MILLISECOND {
                next = (next + 1) % streams.len();
                if is_open[next] {
                    // Whoever is closed just now is heard of below.
                    let _ = poll::write(&streams[next], &wire::ask(0));
                }
            }
        }
        for (token, _) in poll.wait(Some(1))? {
            let has_ended = match poll::read(&streams[token], &mut scratch) {
                Ok(count) => count == Some(0),
                Err(_reset) => true,
            };
            if has_ended && is_open[token] {
                is_open[token] = false;
                open -= 1;
                last = nanos();
                poll.remove(&streams[token])?;
            }
        }
    }
    Ok(last)
}
