//! Two real PostgreSQL servers, of which the key in a real etcd names one, and a router in front of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::driver::To;
use crate::members::etcd::Etcd;
use crate::members::member::Member;
use crate::members::patroni::Patroni;
use crate::members::ports::Port;
use crate::members::router::{Router, Setup, splice_line};
use crate::members::{secs, until};
use crate::servers::Postgres;

const SCOPE: &str = "drivers";
const CONDITION_MAX: Duration = Duration::from_secs(30);
/// What sessions in a transaction get, of an order and of SIGTERM.
pub const DRAIN: Duration = Duration::from_secs(3);
/// Every service is for the primary and has its own idea of waiting.
const SERVICES: [(&str, &str); 6] = [
    ("primary", "hold: { timeout: 30s }"),
    ("short", "hold: { timeout: 300ms }"),
    ("off", "hold: off"),
    ("full", "hold: { timeout: 30s, max: 1 }"),
    ("narrow", "hold: { timeout: 30s }, maxconn: 1, queue: { max: 0, timeout: 3s }"),
    ("noticed", "hold: { timeout: 30s, notice: 1ms }"),
];
/// A commit that takes its time.
const THINGS: &str = "CREATE TABLE slow (i int);
CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION sleep()";

#[derive(Debug)]
pub struct Stage {
    pub servers: [Postgres; 2],
    members: [Arc<Member>; 2],
    leader: usize,
    timeline: AtomicU32,
    patroni: Patroni,
    pub router: Router,
    ports: Vec<Port>,
    _etcd: Etcd,
}

impl Stage {
    pub async fn start() -> Stage {
        let (a, b, etcd) = tokio::join!(Postgres::trusting(""), Postgres::trusting(""), Etcd::start());
        let servers = [a, b];
        for server in &servers {
            server.run(THINGS).await;
        }
        let member = |name, number, server: &Postgres| {
            Arc::new(Member::in_front_of(name, SCOPE, number, server.address().port()))
        };
        let members = [member("a", 1, &servers[0]), member("b", 2, &servers[1])];
        members[0].promote(1);
        let patroni = Patroni::start(&etcd, SCOPE, members.to_vec()).await;
        let ports: Vec<Port> = SERVICES.iter().map(|_| Port::reserve()).collect();
        let setup = Setup::new(&etcd, &[SCOPE]);
        let text = configuration(&setup, &etcd, &ports);
        let router = Router::start_with(setup, &text);
        router.until_ready().await;
        router.until_open("a").await;
        Stage { servers, members, leader: 0, timeline: 1.into(), patroni, router, ports, _etcd: etcd }
    }

    /// Where clients of this service connect to.
    pub fn to(&self, service: &str) -> To {
        let index = SERVICES.iter().position(|(name, _)| *name == service).expect("a service");
        To::port(self.ports[index].number)
    }

    pub fn leader(&self) -> &Postgres {
        &self.servers[self.leader]
    }

    pub fn leader_name(&self) -> &str {
        &self.members[self.leader].name
    }

    fn other(&self) -> usize {
        1 - self.leader
    }

    /// The key names the other member; the old leader is left as it is.
    pub async fn move_leader(&mut self) {
        let old = self.leader;
        self.leader = self.other();
        let timeline = self.timeline.fetch_add(1, SeqCst) + 1;
        self.members[self.leader].promote(timeline);
        self.patroni.move_leader(self.leader_name()).await;
        self.members[old].demote();
        self.router.until_open(self.leader_name()).await;
    }

    /// The leader says that it replays, so that nobody is primary, or that it does not.
    pub async fn have_primary(&self, has: bool) {
        self.members[self.leader].set(|facts| facts.in_recovery = !has);
        let name = self.leader_name().to_owned();
        let what = if has { "there is a primary" } else { "there is no primary" };
        self.router.until(what, |status| (status["leader"]["open"] == name.as_str()) == has).await;
    }

    /// So many clients of this service wait.
    pub async fn until_held(&self, service: &str, count: usize) {
        let line = format!("pgvane_held{{cluster=\"{SCOPE}\",service=\"{service}\"}} {count}");
        until("clients are held", CONDITION_MAX, || async { self.router.metrics().await.contains(&line) }).await;
    }

    /// So many sessions sleep in the leader's server.
    pub async fn until_asleep(&self, count: usize) {
        let sql = format!("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' HAVING count(*) = {count}");
        until("sessions sleep", CONDITION_MAX, || self.leader().has(&sql)).await;
    }

    /// No session to there is idle in the leader's server any more: a drain has begun.
    pub async fn until_none_idle(&self, to: &To) {
        let idle = format!("FROM pg_stat_activity WHERE state = 'idle' AND application_name = '{}'", to.name());
        let sql = format!("SELECT 1 {idle} HAVING count(*) = 0");
        until("idle sessions end", CONDITION_MAX, || self.leader().has(&sql)).await;
    }

    /// Ends what still sleeps where nobody waits for it any more.
    pub async fn wake_sleepers(&self) {
        for server in &self.servers {
            server.run("DO $$ BEGIN PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'; END $$").await;
        }
    }

    /// The leader's postmaster is killed, and its backends with it.
    pub fn kill_leader(&mut self) {
        self.servers[self.leader].kill_postmaster();
    }

    /// The leader's server stops fast, and has said so to its clients.
    pub async fn stop_leader(&mut self) {
        self.servers[self.leader].stop_fast().await;
    }

    pub async fn restart_leader(&mut self) {
        self.servers[self.leader].restart().await;
        self.router.until_open(self.members[self.leader].name.as_str()).await;
    }

    /// An order about the leader, such as `maint`.
    pub async fn order(&self, verb: &str) {
        let path = format!("/api/v1/clusters/{SCOPE}/members/{}/{verb}", self.leader_name());
        let mut stream = TcpStream::connect(self.router.setup.admin_at()).await.expect("the admin endpoint");
        let request = format!("POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.contains(" 200 ") || answer.contains(" 202 "), "{path}: {answer}");
    }

    /// Both servers speak TLS from now on.
    pub async fn offer_tls(&self) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        for server in &self.servers {
            server.write("data/server.crt", &made.cert.pem());
            server.write("data/server.key", &made.signing_key.serialize_pem());
            server.run("ALTER SYSTEM SET ssl = on").await;
            server.run("SELECT pg_reload_conf()").await;
            until("TLS is on", secs(30), || server.has("SELECT 1 WHERE current_setting('ssl') = 'on'")).await;
        }
    }
}

fn configuration(setup: &Setup, etcd: &Etcd, ports: &[Port]) -> String {
    let check = "{ inter: 500ms, fastinter: 200ms, downinter: 500ms, rise: 2, fall: 2, timeout: 1s }";
    let mut text = format!(
        "shutdown: {{ delay: 0s, drain: {}s }}\nadmin: {{ listen: {} }}\ndefaults:\n  check: {check}\n  drain: {}s\n",
        DRAIN.as_secs(),
        setup.admin_at(),
        DRAIN.as_secs()
    );
    let dcs = format!("{{ etcd: {{ endpoints: [{}] }} }}", etcd.endpoint());
    text += &splice_line();
    text += &format!("clusters:\n  - name: {SCOPE}\n    dcs: {dcs}\n    services:\n");
    for ((name, own), port) in SERVICES.iter().zip(ports) {
        text += &format!("      {name}: {{ listen: 127.0.0.1:{}, role: primary, {own} }}\n", port.number);
    }
    text
}
