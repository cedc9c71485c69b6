//! A file that is read again: clusters that come and go, and another way to etcd.

use std::fs;
use std::net::SocketAddr;

use etcd_client::{Client as EtcdClient, GetOptions, Permission};
use tokio::net::TcpStream;

use crate::members::client::Client;
use crate::members::crowd::{Crowd, PATIENCE, open_sessions};
use crate::members::etcd::Etcd;
use crate::members::member::Member;
use crate::members::patroni::Patroni;
use crate::members::ports::Port;
use crate::members::router::{Router, Setup};
use crate::members::stage::{Stage, TIMELINE, members};
use crate::members::{ms, secs, until};

/// Two clusters behind one etcd and one router.
struct Two {
    etcd: Etcd,
    red: (Patroni, Vec<std::sync::Arc<Member>>),
    green: (Patroni, Vec<std::sync::Arc<Member>>),
    router: Router,
}

impl Two {
    async fn start() -> Two {
        let etcd = Etcd::start().await;
        let cluster = async |scope: &str| {
            let members = members(scope);
            (Patroni::start(&etcd, scope, members.clone()).await, members)
        };
        let (red, green) = (cluster("red").await, cluster("green").await);
        let router = Router::start(Setup::new(&etcd, &["red", "green"])).await;
        Two { etcd, red, green, router }
    }

    fn text(&self) -> String {
        self.router.setup.text()
    }

    fn red_alone(&self) -> String {
        let text = self.text();
        text[..text.find("  - name: green").expect("it is there")].to_owned()
    }

    async fn depose_green(&self) {
        let (patroni, members) = &self.green;
        patroni.move_leader("n2").await;
        members[1].promote(TIMELINE + 1);
    }
}

async fn refuses(at: SocketAddr) -> bool {
    TcpStream::connect(at).await.is_err()
}

async fn writes(clients: &mut [Client]) {
    for client in clients {
        client.write().await.unwrap_or_else(|failure| panic!("{failure}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_cluster_is_watched_over_until_its_last_session_ends() {
    let two = Two::start().await;
    let router = &two.router;
    let mut red = open_sessions(router.write_port(0), 2).await;
    let mut green = open_sessions(router.write_port(1), 2).await;
    router.reload(&two.red_alone()).await;
    until("green's port is closed", secs(20), || refuses(router.write_port(1))).await;
    writes(&mut red).await;
    writes(&mut green).await;
    assert!(router.metrics().await.contains("pgvane_clusters_leaving 1"));

    two.depose_green().await;
    for client in &mut green {
        client.closed().await;
    }
    let gone = || async { router.log().contains("has no sessions any more") };
    until("nothing of green goes on", secs(20), gone).await;
    writes(&mut red).await;
    assert_eq!(two.green.1[0].journal.writes_total(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_comes_back_works_beside_what_is_left_of_it() {
    let two = Two::start().await;
    let router = &two.router;
    let visitors = Crowd::of_visitors(router.write_port(0), 5, ms(5));
    let mut left = open_sessions(router.write_port(1), 2).await;
    router.reload(&two.red_alone()).await;
    until("green's port is closed", secs(20), || refuses(router.write_port(1))).await;
    router.reload(&two.text()).await;
    let mut back = open_sessions(router.write_port(1), 2).await;
    writes(&mut left).await;
    writes(&mut back).await;
    two.depose_green().await;
    for client in left.iter_mut().chain(&mut back) {
        client.closed().await;
    }
    let mut client =
        Client::connect(router.write_port(1), PATIENCE).await.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(client.who().await.ok().as_deref(), Some("n2"));
    let tally = visitors.go_home().await;
    tally.assert_no_errors();
    assert_eq!(two.red.1[0].journal.writes_total(), tally.writes);
    drop(two.etcd);
}

/// In one reload, and whoever came before stays where they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_goes_from_one_cluster_to_another() {
    let two = Two::start().await;
    let router = &two.router;
    let mut red = open_sessions(router.write_port(0), 1).await;
    let (port, other) = (router.write_port(0).port(), Port::reserve());
    let text = two.text().replace(&format!("127.0.0.1:{port},"), &format!("127.0.0.1:{},", other.number));
    router.reload(&format!("{text}      moved: {{ listen: 127.0.0.1:{port}, role: primary }}\n")).await;
    let mut green = open_sessions(router.write_port(0), 1).await;
    writes(&mut green).await;
    writes(&mut red).await;
    writes(&mut open_sessions(other.address(), 1).await).await;
    assert_eq!((two.red.1[0].journal.writes_total(), two.green.1[0].journal.writes_total()), (2, 1));
}

/// Its clients wait as at a start, until its leader has proven itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_an_added_cluster_wait_for_its_leader() {
    let two = Two::start().await;
    let router = &two.router;
    router.reload(&two.red_alone()).await;
    until("green's port is closed", secs(20), || refuses(router.write_port(1))).await;
    two.green.1[0].set(|facts| facts.in_recovery = true);
    router.reload(&two.text()).await;
    let waiting = tokio::spawn(Client::connect(router.write_port(1), PATIENCE));
    let held = |body: &str| {
        let status: serde_json::Value = serde_json::from_str(body).expect("the status is JSON");
        status["clusters"][1]["services"][0]["held"] == 1
    };
    until("a client is held", secs(20), || async {
        router.ask("/api/v1/status").await.is_some_and(|(_, body)| held(&body))
    })
    .await;
    two.green.1[0].promote(TIMELINE);
    let mut client = waiting.await.unwrap().unwrap_or_else(|failure| panic!("{failure}"));
    client.write().await.unwrap_or_else(|failure| panic!("{failure}"));
}

/// The view stays fresh from one session to the next, and the next one delivers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_endpoints_of_the_same_etcd_are_no_gap() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    let sessions = Crowd::of_sessions(router.write_port(0), 5, ms(10));
    let visitors = Crowd::of_visitors(router.write_port(0), 5, ms(5));
    until("clients write", secs(20), || async { stage.n1().journal.writes_total() > 50 }).await;
    let dead = Port::reserve();
    let endpoint = stage.etcd.endpoint();
    let text =
        router.setup.text().replace(&format!("[{endpoint}]"), &format!("[\"http://{}\", {endpoint}]", dead.address()));
    router.reload(&text).await;
    let troubled = |status: &serde_json::Value| {
        assert_eq!(status["dcs"]["state"], "fresh", "{status}");
        assert_eq!(status["leader"]["reason"], "leader_proven", "{status}");
        // Only the new session knows that address.
        status["dcs"]["last_trouble"]["endpoint"].as_str().is_some_and(|at| at.contains(&dead.address().to_string()))
    };
    router.until("the new session tries the dead endpoint", troubled).await;
    visitors.go_home().await.assert_no_errors();
    stage.fail_over_to_n2().await;
    assert_eq!(sessions.gone().await.errors.len(), 5, "all of them are cut");
    router.until_open("n2").await;
}

/// The text of the file is the same, and what it names is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_file_is_read_again_with_an_unchanged_configuration() {
    let stage = Stage::start().await;
    let setup = stage.setup();
    let password = setup.folder.path().join("etcd.password");
    fs::write(&password, "first\n").expect("a file");
    let mut etcd = stage.etcd.client().await;
    keep_keys(&stage, &mut etcd).await;
    require_password(&mut etcd, "first").await;
    let endpoints = format!("endpoints: [{}]", stage.etcd.endpoint());
    let with_user = format!("{endpoints}, username: pgvane, password_file: {}", password.display());
    let text = setup.text().replace(&endpoints, &with_user);
    let router = Router::start_with(setup, &text);
    router.until_ready().await;
    router.until_open("n1").await;
    let sessions = Crowd::of_sessions(router.write_port(0), 5, ms(10));

    let mut root = stage.etcd.client_as("root", "secret").await;
    root.user_change_password("pgvane", "second").await.expect("a live etcd");
    fs::write(&password, "second\n").expect("a file");
    router.until("the old password is of no use", |status| status["dcs"]["state"] == "lost").await;
    router.reload(&text).await;
    router.until("etcd is read again", |status| status["dcs"]["state"] == "fresh").await;
    router.until("and believed", |status| status["leader"]["reason"] == "leader_proven").await;
    sessions.go_home().await.assert_no_errors();
}

/// Patroni is not allowed in any more: its keys stay without it.
async fn keep_keys(stage: &Stage, etcd: &mut EtcdClient) {
    stage.patroni.sleep(true);
    let all = etcd.get("/service/", Some(GetOptions::new().with_prefix())).await.expect("a live etcd");
    for pair in all.kvs() {
        etcd.put(pair.key(), pair.value(), None).await.expect("a live etcd");
    }
}

/// From here on nobody is let in without one.
async fn require_password(etcd: &mut EtcdClient, password: &str) {
    let done = async {
        etcd.user_add("root", "secret", None).await?;
        etcd.role_add("root").await?;
        etcd.user_grant_role("root", "root").await?;
        etcd.role_add("reader").await?;
        etcd.role_grant_permission("reader", Permission::read("/service/").with_prefix()).await?;
        etcd.user_add("pgvane", password, None).await?;
        etcd.user_grant_role("pgvane", "reader").await?;
        etcd.auth_enable().await
    };
    done.await.expect("a live etcd");
}
