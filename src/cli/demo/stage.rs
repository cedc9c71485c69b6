//! The cluster with the router in front of it and clients before that.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::clients::{ClientOptions, Clients, Counts, Operation, Work};
use super::cluster::{Cluster, ClusterOptions, Ports};
use super::fault::Broken;
use super::poller::Poller;
use super::report::{EventReport, Report, Tally, held_past, outage, seconds, writes_to_deposed};
use super::rest;
use crate::model::HostPort;
use crate::runtime::clock;

const LOOPBACK: &str = "127.0.0.1";
const ADMIN_PORT: u16 = 7000;
/// The router's name among the programs started in the directory.
const ROUTER: &str = "pgvane";
const ROUTER_READY_MAX: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const STATUS_MAX: Duration = Duration::from_millis(400);
/// For one operation of a client, connect and hold included.
const OPERATION_MAX: Duration = Duration::from_secs(120);
/// Looked back from an event for the last good write before it.
const BEFORE_EVENT: Duration = Duration::from_secs(2);
/// After which the figures of an event are no longer brought up to date on the page.
const EVENT_FRESH: Duration = Duration::from_secs(120);

/// Where the router listens.
#[derive(Debug, Clone)]
pub struct Doors {
    pub write: HostPort,
    pub read: HostPort,
    pub admin: HostPort,
}

impl Doors {
    /// The wanted ports, or free ones, with a sentence for each that was taken.
    pub fn find(write: u16, read: u16) -> Result<(Doors, Vec<String>)> {
        let (mut ports, mut remarks) = (Ports::default(), Vec::new());
        let mut find = |what: &str, wanted: u16| -> Result<HostPort> {
            let door = ports.claim_or_free(LOOPBACK, wanted)?;
            if door.port != wanted {
                remarks.push(format!("port {wanted} is taken here; {what} at {door} instead"));
            }
            Ok(door)
        };
        let doors = Doors {
            write: find("the write port is", write)?,
            read: find("the read port is", read)?,
            admin: find("the admin endpoint is", ADMIN_PORT)?,
        };
        Ok((doors, remarks))
    }
}

/// How the stage is set.
#[derive(Debug, Clone)]
pub struct StageOptions {
    pub cluster: ClusterOptions,
    /// The pgvane that routes.
    pub router: PathBuf,
    pub port_write: u16,
    pub port_read: u16,
    /// Clients in each of the four groups.
    pub clients: u32,
    pub pause: Duration,
}

/// Something done to the cluster.
#[derive(Debug, Clone)]
pub struct Happening {
    pub at: Instant,
    pub what: String,
    /// Faults get a paragraph in the report; repairs are only mentioned.
    pub is_fault: bool,
    /// What clients felt of it so far.
    pub felt: String,
}

#[derive(Debug)]
pub struct Stage {
    // Dropped in this order: clients first, the cluster with the router last.
    groups: [(&'static str, Clients); 4],
    poller: Poller,
    pub began: Instant,
    pub doors: Doors,
    pub(super) happenings: Mutex<Vec<Happening>>,
    pub(super) broken: Mutex<Broken>,
    /// Patroni's answer to the last switchover asked for, to be heard.
    pub(super) switchover: Mutex<Option<JoinHandle<Result<String>>>>,
    pub cluster: Cluster,
}

impl Stage {
    pub async fn set(options: &StageOptions, say: &(dyn Fn(String) + Sync)) -> Result<Stage> {
        let began = clock::now();
        say(format!("starting etcd and {} PostgreSQL under Patroni", options.cluster.members));
        let cluster = Cluster::start(options.cluster.clone()).await?;
        say(format!(
            "the cluster is ready after {}; everything is in {}",
            seconds(began.elapsed()),
            cluster.dir().display()
        ));
        let (doors, remarks) = Doors::find(options.port_write, options.port_read)?;
        remarks.into_iter().for_each(say);
        start_router(&cluster, &doors, &options.router)?;
        wait_router(&cluster, &doors).await?;
        say(format!("the router is ready; its log is {}", cluster.ground().log(ROUTER).display()));
        let group = |work, connect_each| {
            let at = if work == Work::Write { doors.write.clone() } else { doors.read.clone() };
            let (count, pause) = (options.clients, options.pause);
            Clients::start(ClientOptions { at, work, connect_each, count, pause, limit: OPERATION_MAX })
        };
        let groups = [
            ("writes, new connection each", group(Work::Write, true)),
            ("writes, kept connections", group(Work::Write, false)),
            ("reads, new connection each", group(Work::Read, true)),
            ("reads, kept connections", group(Work::Read, false)),
        ];
        let poller = Poller::start(cluster.members());
        let began = clock::now();
        let (happenings, broken, switchover) = Default::default();
        Ok(Stage { groups, poller, began, doors, happenings, broken, switchover, cluster })
    }

    /// The router's own view, null when it does not answer.
    pub async fn status(&self) -> Value {
        status(&self.doors.admin).await
    }

    /// An error with the end of its log when the router is gone.
    pub fn check_router(&self) -> Result<()> {
        if self.cluster.ground().is_running(ROUTER) {
            return Ok(());
        }
        bail!("the router ended{}", self.cluster.ground().tail(ROUTER))
    }

    pub fn counts(&self, work: Work) -> Counts {
        let groups = self.groups.iter().filter(|(_, clients)| clients.options.work == work);
        groups.map(|(_, clients)| clients.counts()).fold(Counts::default(), |sum, counts| Counts {
            good: sum.good + counts.good,
            bad: sum.bad + counts.bad,
            held_now: sum.held_now + counts.held_now,
        })
    }

    /// Whether writers of both kinds have written again since `moment`.
    pub fn writes_since(&self, moment: Instant) -> bool {
        self.writers().all(|clients| clients.has_good_since(moment))
    }

    fn writers(&self) -> impl Iterator<Item = &Clients> {
        self.groups.iter().map(|(_, clients)| clients).filter(|clients| clients.options.work == Work::Write)
    }

    pub(super) fn note(&self, what: String, is_fault: bool) {
        let happening = Happening { at: clock::now(), what, is_fault, felt: String::new() };
        self.happenings.lock().push(happening);
    }

    /// Notes a switchover that Patroni refused.
    pub async fn hear_patroni(&self) {
        let answer = {
            let mut switchover = self.switchover.lock();
            if !switchover.as_ref().is_some_and(JoinHandle::is_finished) {
                return;
            }
            switchover.take()
        };
        if let Some(answer) = answer
            && let Ok(Err(error)) = answer.await
        {
            self.note(format!("not done: {error:#}"), false);
        }
    }

    /// What happened so far, the figures of the last fault brought up to date.
    pub fn happenings(&self) -> Vec<Happening> {
        let now = clock::now();
        let mut happenings = self.happenings.lock();
        let last = happenings.iter_mut().rev().find(|happening| happening.is_fault);
        if let Some(last) = last.filter(|last| now.saturating_duration_since(last.at) < EVENT_FRESH) {
            let from = last.at.checked_sub(BEFORE_EVENT).unwrap_or(last.at);
            let mut operations: Vec<Operation> =
                self.writers().flat_map(|clients| clients.operations_since(from)).collect();
            operations.sort_by_key(|operation| operation.ended);
            last.felt = match outage(&operations, last.at, now).map(|gap| gap.length()) {
                None => String::new(),
                Some(None) => "no write has gone through since".to_owned(),
                Some(Some(length)) => format!("write outage {}", seconds(length)),
            };
        }
        happenings.clone()
    }

    pub fn report(&self) -> Report {
        let now = clock::now();
        let noted: Vec<Vec<Operation>> = self.groups.iter().map(|(_, clients)| clients.operations()).collect();
        let tally = |index: usize| Tally::of(&noted[index], self.began, now);
        let groups = self.groups.iter().enumerate().map(|(index, (name, _))| ((*name).to_owned(), tally(index)));
        let faults: Vec<Happening> = self.happenings.lock().iter().filter(|it| it.is_fault).cloned().collect();
        let ends = faults.iter().skip(1).map(|next| next.at).chain([now]);
        let events = faults.iter().zip(ends).map(|(fault, end)| self.event(fault, end, &noted)).collect();
        Report { lasted: now.saturating_duration_since(self.began), events, groups: groups.collect() }
    }

    fn event(&self, fault: &Happening, end: Instant, noted: &[Vec<Operation>]) -> EventReport {
        let of = |connect_each: bool| {
            let groups = self.groups.iter().zip(noted);
            groups.filter(move |((_, clients), _)| clients.options.connect_each == connect_each)
        };
        let tally = |connect_each| Tally::of(of(connect_each).flat_map(|(_, noted)| noted), fault.at, end);
        let writers = self.groups.iter().zip(noted).filter(|((_, clients), _)| clients.options.work == Work::Write);
        let writes: Vec<Operation> = writers.flat_map(|(_, noted)| noted.iter().cloned()).collect();
        let members_outage = self.poller.outage(fault.at, end);
        let in_window = writes.iter().filter(|write| write.started >= fault.at && write.started < end);
        EventReport {
            what: fault.what.clone(),
            at: fault.at.saturating_duration_since(self.began),
            outage: outage(&writes, fault.at, end),
            members_outage,
            held_past: members_outage.and_then(|gap| gap.until).and_then(|over| held_past(&writes, over)),
            to_deposed: writes_to_deposed(in_window, &self.poller.stretches(), |port| self.member_at(port)),
            connecting: tally(true),
            keeping: tally(false),
        }
    }

    fn member_at(&self, port: u16) -> Option<&str> {
        let member = self.cluster.members().iter().find(|member| member.pg.port == port);
        member.map(|member| member.name.as_str())
    }
}

async fn status(admin: &HostPort) -> Value {
    let answer = rest::ask(admin, "/api/v1/status", STATUS_MAX).await;
    answer.map(|answer| answer.json()).unwrap_or_default()
}

fn start_router(cluster: &Cluster, doors: &Doors, program: &Path) -> Result<()> {
    let file = cluster.ground().write("pgvane.yml", &router_config(cluster, doors))?;
    let mut command = Command::new(program);
    command.args(["run", "-c"]).arg(file);
    cluster.ground().start_own(ROUTER, command).context("starting the router")?;
    Ok(())
}

/// Such as an operator would write it.
fn router_config(cluster: &Cluster, doors: &Doors) -> String {
    let endpoints: Vec<String> = cluster.etcd_addresses().iter().map(|at| format!("\"http://{at}\"")).collect();
    format!(
        "state_file: \"{state}\"
admin: {{ listen: \"{admin}\" }}
clusters:
  - name: {name}
    namespace: /{namespace}
    dcs:
      etcd: {{ endpoints: [{endpoints}] }}
    services:
      primary: {{ listen: \"{write}\", role: primary }}
      replica: {{ listen: \"{read}\", role: replica, backup: [primary] }}
",
        state = cluster.dir().join("state.json").display(),
        admin = doors.admin,
        name = cluster.options().name,
        namespace = cluster.options().namespace.trim_matches('/'),
        endpoints = endpoints.join(", "),
        write = doors.write,
        read = doors.read,
    )
}

/// Waits until the router has opened its write service to a leader.
async fn wait_router(cluster: &Cluster, doors: &Doors) -> Result<()> {
    let deadline = clock::now() + ROUTER_READY_MAX;
    loop {
        let seen = status(&doors.admin).await;
        if seen["clusters"][0]["leader"]["open"].is_string() {
            return Ok(());
        }
        if !cluster.ground().is_running(ROUTER) {
            bail!("the router ended at once{}", cluster.ground().tail(ROUTER));
        }
        if clock::now() >= deadline {
            let said = if seen.is_null() { "its status does not answer".to_owned() } else { seen.to_string() };
            bail!("the router opened no leader within {ROUTER_READY_MAX:?}: {said}{}", cluster.ground().tail(ROUTER));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
