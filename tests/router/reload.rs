//! A file that is read again: what is new serves, what is gone ends, and nobody is dropped for it.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use crate::members::client::{Client, Failure};
use crate::members::crowd::{Crowd, PATIENCE, open_sessions};
use crate::members::ports::Port;
use crate::members::router::Router;
use crate::members::stage::{Stage, TIMELINE};
use crate::members::{ms, secs, until};

/// One more service of the last cluster.
fn with_service(text: &str, name: &str, port: u16, role: &str) -> String {
    format!("{text}      {name}: {{ listen: 127.0.0.1:{port}, role: {role} }}\n")
}

/// Without the services of this name.
fn without_service(text: &str, name: &str) -> String {
    let others = text.lines().filter(|line| !line.trim_start().starts_with(&format!("{name}:")));
    others.map(|line| format!("{line}\n")).collect()
}

async fn refuses(at: SocketAddr) -> bool {
    TcpStream::connect(at).await.is_err()
}

/// Sessions that write and visitors that come and go, from before a change until after it.
struct Clients {
    sessions: Crowd,
    visitors: Crowd,
}

impl Clients {
    async fn arrive(stage: &Stage, router: &Router) -> Clients {
        let sessions = Crowd::of_sessions(router.write_port(0), 10, ms(10));
        let visitors = Crowd::of_visitors(router.write_port(0), 5, ms(2));
        let before = stage.n1().journal.writes_total();
        until("clients write", secs(20), || async { stage.n1().journal.writes_total() > before + 100 }).await;
        Clients { sessions, visitors }
    }

    async fn leave_unharmed(self, stage: &Stage) {
        let before = stage.n1().journal.writes_total();
        until("clients go on", secs(20), || async { stage.n1().journal.writes_total() > before + 100 }).await;
        self.sessions.go_home().await.assert_no_errors();
        self.visitors.go_home().await.assert_no_errors();
        assert_eq!(stage.refused_writes(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_added_service_serves_and_nobody_else_notices() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    let clients = Clients::arrive(&stage, &router).await;
    let port = Port::reserve();
    router.reload(&with_service(&router.setup.text(), "reports", port.number, "replica")).await;
    let mut reader = Client::connect(port.address(), PATIENCE).await.unwrap_or_else(|failure| panic!("{failure}"));
    let who = reader.who().await.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(["n2", "n3"].contains(&who.as_str()), "{who}");
    clients.leave_unharmed(&stage).await;
    let status = router.status().await;
    assert_eq!(status["services"].as_array().map(Vec::len), Some(3), "{status}");
}

/// What HAProxy loses with every reload: whoever came before it is no longer watched over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_from_before_a_reload_are_cut_from_a_deposed_leader() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    let port = Port::reserve();
    let mut kept = open_sessions(router.write_port(0), 3).await;
    router.reload(&with_service(&router.setup.text(), "second", port.number, "primary")).await;
    let mut orphans = open_sessions(port.address(), 3).await;
    router.reload(&router.setup.text()).await;
    until("the removed service's port is closed", secs(20), || refuses(port.address())).await;
    for client in kept.iter_mut().chain(&mut orphans) {
        client.write().await.unwrap_or_else(|failure| panic!("{failure}"));
    }
    stage.fail_over_to_n2().await;
    for client in kept.iter_mut().chain(&mut orphans) {
        client.closed().await;
    }
    until("none of them reaches the old leader", secs(20), || async { stage.n1().journal.open() == 0 }).await;
    let mut client = open_sessions(router.write_port(0), 1).await.remove(0);
    assert_eq!(client.who().await.ok().as_deref(), Some("n2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_hold_is_the_hold_of_those_who_come_then() {
    let stage = Stage::start().await;
    stage.n1().set(|facts| facts.in_recovery = true);
    let router = Router::start(stage.setup()).await;
    let text = router.setup.text();
    let port = router.write_port(0);
    router.reload(&text.replace("hold: { timeout: auto }", "hold: off")).await;
    let failure = Client::connect(port, PATIENCE).await.expect_err("nobody is writable");
    assert_eq!(failure.code(), Some("57P03"), "{failure}");

    router.reload(&text).await;
    let waiting = tokio::spawn(Client::connect(port, PATIENCE));
    router.until("one client is held", |status| status["services"][0]["held"] == 1).await;
    let other = Port::reserve();
    router.reload(&with_service(&text, "reports", other.number, "replica")).await;
    assert_eq!(router.status().await["services"][0]["held"], 1, "a reload is nothing that the held hear of");
    stage.n1().promote(TIMELINE);
    let mut client = waiting.await.unwrap().unwrap_or_else(|failure| panic!("{failure}"));
    client.write().await.unwrap_or_else(|failure| panic!("{failure}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_file_changes_nothing_and_is_told_by_line_and_column() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    let clients = Clients::arrive(&stage, &router).await;
    let port = Port::reserve();
    let good = with_service(&router.setup.text(), "reports", port.number, "replica");
    let said = router.refuse(&good.replace("role: replica }", "rol: replica, holt: off }")).await;
    let line = 1 + good.lines().position(|line| line.contains("reports:")).expect("it is there");
    for word in ["rol", "holt"] {
        let place = |said: &&str| said.contains(&format!("pgvane.yml:{line}:")) && said.contains(&format!("`{word}`"));
        let lines: Vec<&str> = said.lines().filter(place).collect();
        assert!(lines.len() == 1 && lines[0].contains("ERROR pgvane::reload"), "{word}: {said}");
    }
    assert!(refuses(port.address()).await);
    let metrics = router.metrics().await;
    assert!(metrics.contains("pgvane_config_reloads_total{result=\"refused\"} 1"), "{metrics}");
    assert!(metrics.contains("pgvane_config_reload_success 0"), "{metrics}");
    router.reload(&good).await;
    let metrics = router.metrics().await;
    assert!(metrics.contains("pgvane_config_reloads_total{result=\"ok\"} 1"), "{metrics}");
    assert!(metrics.contains("pgvane_config_reload_success 1"), "{metrics}");
    clients.leave_unharmed(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_changes_nothing_at_all() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    let clients = Clients::arrive(&stage, &router).await;
    let (taken, free, admin) = (Port::reserve(), Port::reserve(), Port::reserve());
    let _listener = taken.listen();
    let text = with_service(&router.setup.text(), "first", free.number, "replica");
    let text = with_service(&without_service(&text, "replica"), "second", taken.number, "replica");
    let listen = |port: u16| format!("admin: {{ listen: 127.0.0.1:{port} }}");
    let text = text.replace(&listen(router.setup.admin_at().port()), &listen(admin.number));
    let said = router.refuse(&text).await;
    assert!(said.contains(&taken.address().to_string()) && said.contains("another process listens there"), "{said}");
    assert!(refuses(free.address()).await, "a service of the refused file listens");
    assert!(refuses(admin.address()).await, "the admin endpoint of the refused file listens");
    let mut reader = open_sessions(router.read_port(0), 1).await.remove(0);
    assert!(reader.who().await.is_ok(), "the service that the refused file does not have");
    clients.leave_unharmed(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_endpoint_moves() {
    let stage = Stage::start().await;
    let mut router = stage.router(|_| {}).await;
    let old = router.setup.admin_at();
    let moved = Port::reserve();
    let text = router.setup.text().replace(&format!("127.0.0.1:{}", old.port()), &moved.address().to_string());
    router.reread(&text);
    until("the old address is closed", secs(20), || refuses(old)).await;
    router.setup.move_admin(moved);
    assert_eq!(router.reloads().await, (1, 0));
    assert_eq!(router.readyz().await, Some(200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_reloads_under_connecting_clients_refuse_nobody() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    let clients = Clients::arrive(&stage, &router).await;
    let port = Port::reserve();
    for turn in 0..20 {
        let text = router.setup.text().replace("timeout: auto", &format!("timeout: {}s", 60 + turn));
        let text = if turn % 2 == 0 { with_service(&text, "reports", port.number, "replica") } else { text };
        router.reload(&text).await;
        let open = turn % 2 == 0;
        until("the port is as configured", secs(20), || async { refuses(port.address()).await != open }).await;
    }
    clients.leave_unharmed(&stage).await;
    assert_eq!(router.reloads().await, (20, 0));
}

/// Impatient automation: signals that come while a reload is under way are one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_signals_ends_with_the_last_file() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    let port = Port::reserve();
    let text = router.setup.text();
    for turn in 0..50 {
        let service = with_service(&text, "reports", port.number, "replica");
        router.reread(if turn == 49 { &service } else { &text });
    }
    until("the last file holds", secs(20), || async { !refuses(port.address()).await }).await;
    let (done, _) = router.reloads().await;
    assert!((1..=50).contains(&done), "{done}");
    let mut client = open_sessions(router.write_port(0), 1).await.remove(0);
    client.write().await.unwrap_or_else(|failure| panic!("{failure}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_during_the_end_is_ignored() {
    let stage = Stage::start().await;
    let mut router = stage.router(|setup| setup.shutdown = "{ delay: 300s, drain: 300s }").await;
    router.reload(&router.setup.text()).await;
    let _session = open_sessions(router.write_port(0), 1).await.remove(0);
    router.terminate();
    until("not ready", secs(10), || async { router.readyz().await == Some(503) }).await;
    router.reread(&router.setup.text());
    until("it is said", secs(10), || async { router.log().contains("SIGHUP is ignored") }).await;
    assert_eq!(router.reloads().await, (1, 0));
    router.terminate();
    assert_eq!(router.exit(secs(20)).await.and_then(|status| status.code()), Some(0));
}

/// The end asks for what the file said last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_is_as_configured_last() {
    let stage = Stage::start().await;
    let mut router = stage.router(|setup| setup.shutdown = "{ delay: 300s, drain: 300s }").await;
    router.reload(&router.setup.text().replace("delay: 300s, drain: 300s", "delay: 0s, drain: 1s")).await;
    let mut session = open_sessions(router.write_port(0), 1).await.remove(0);
    router.terminate();
    assert!(matches!(session.closed().await, Failure::Closed(_)));
    assert_eq!(router.exit(secs(20)).await.and_then(|status| status.code()), Some(0));
}

/// The way of bulk data is the process's, not a cluster's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_way_for_bulk_data_holds_at_once_and_a_wrong_word_does_not() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    let plain: String = router
        .setup
        .text()
        .lines()
        .filter(|line| !line.starts_with("splice:"))
        .fold(String::new(), |text, line| text + line + "\n");
    let state = async |state: &str| router.metrics().await.contains(&format!("pgvane_splice{{state=\"{state}\"}} 1"));
    let mut session = open_sessions(router.write_port(0), 1).await.remove(0);
    router.reload(&plain).await;
    for mode in ["off", "always", "auto"] {
        router.reload(&format!("splice: {mode}\n{plain}")).await;
        assert!(state(mode).await, "{mode}");
        session.write().await.unwrap_or_else(|failure| panic!("{failure}"));
    }
    until("all is told", secs(20), || async { router.log().matches("reloaded: splice changed").count() >= 3 }).await;
    let said = router.refuse(&format!("splice: on\n{plain}")).await;
    assert!(
        said.contains("pgvane.yml:1:9: `splice` is `auto`, `always` or `off`, not `on`; did you mean `auto`?"),
        "{said}"
    );
    assert!(state("auto").await);
    assert!(!router.log().contains("splice does not work"), "{}", router.log());
}
