//! The read port: replicas first, the primary when there is none, and roles as they are now. Cancels.

use serde_json::Value;

use crate::members::client::{Client, cancel};
use crate::members::crowd::open_sessions;
use crate::members::member::{Member, Postgres, Rest};
use crate::members::router::Router;
use crate::members::stage::Stage;
use crate::members::{secs, until};

async fn names(readers: &mut [Client]) -> Vec<String> {
    let mut names = Vec::new();
    for reader in readers {
        names.push(reader.who().await.unwrap_or_else(|failure| panic!("{failure}")));
    }
    names.sort();
    names
}

/// Waits until exactly these members take new readers.
async fn until_read_from(router: &Router, members: &[&str]) {
    let serving = |status: &Value| {
        let targets = status["services"][1]["targets"].as_array().cloned().unwrap_or_default();
        let in_use = targets.iter().filter(|target| target["state"] == "open");
        in_use.map(|target| target["member"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    router.until(&format!("reads go to {members:?}"), |status| serving(status) == members).await;
}

fn crash(member: &Member) {
    member.set(|facts| {
        facts.rest = Rest::Refused;
        facts.postgres = Postgres::Refused;
        facts.life += 1;
    });
}

fn come_back(member: &Member) {
    member.set(|facts| {
        facts.rest = Rest::Answers;
        facts.postgres = Postgres::Answers;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_follow_the_roles() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    until_read_from(&router, &["n2", "n3"]).await;
    let mut readers = open_sessions(router.read_port(0), 6).await;
    assert_eq!(names(&mut readers).await, ["n2", "n2", "n2", "n3", "n3", "n3"]);

    stage.n1().demote();
    stage.fail_over_to_n2().await;
    until_read_from(&router, &["n1", "n3"]).await;
    assert!(readers.iter_mut().all(Client::is_open), "a change of role cuts no reader");
    let mut newer = open_sessions(router.read_port(0), 4).await;
    assert!(!names(&mut newer).await.contains(&"n2".to_owned()), "the new primary is no preferred reader");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_is_the_readers_backup() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    until_read_from(&router, &["n2", "n3"]).await;
    crash(stage.n2());
    until_read_from(&router, &["n3"]).await;
    crash(stage.n3());
    until_read_from(&router, &["n1"]).await;
    let mut readers = open_sessions(router.read_port(0), 3).await;
    assert_eq!(names(&mut readers).await, ["n1", "n1", "n1"]);

    come_back(stage.n3());
    until_read_from(&router, &["n3"]).await;
    assert!(readers.iter_mut().all(Client::is_open), "readers on the backup stay");
    assert_eq!(names(&mut open_sessions(router.read_port(0), 2).await).await, ["n3", "n3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_reader_is_cut_by_a_tag() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    until_read_from(&router, &["n2", "n3"]).await;
    let mut readers = open_sessions(router.read_port(0), 2).await;
    stage.n2().set(|facts| facts.tags = serde_json::json!({ "noloadbalance": true }));
    stage.patroni.refresh_members().await;
    until_read_from(&router, &["n3"]).await;
    assert!(readers.iter_mut().all(Client::is_open));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancels_find_their_session() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    until_read_from(&router, &["n2", "n3"]).await;
    let cancels = |member: &Member| member.journal.cancels.lock().clone();
    let writer = open_sessions(router.write_port(0), 1).await.remove(0);
    cancel(router.write_port(0), writer.key).await.expect("the write port takes cancels");
    assert_eq!(cancels(stage.n1()), [writer.key]);

    let reader = open_sessions(router.read_port(0), 1).await.remove(0);
    cancel(router.read_port(0), reader.key).await.expect("the read port takes cancels");
    // To the member that gave out the key; one of another router's session goes to all of them.
    assert_eq!([cancels(stage.n2()), cancels(stage.n3())].concat(), [reader.key]);
    let strange = (7, 7);
    cancel(router.read_port(0), strange).await.expect("the read port takes cancels");
    for member in [stage.n2(), stage.n3()] {
        assert_eq!(cancels(member).last(), Some(&strange));
    }

    // A crashed primary: new clients wait, a cancel does not.
    crash(stage.n1());
    let waiting = tokio::spawn(Client::connect(router.write_port(0), secs(60)));
    router.until("one client is held", |status| status["services"][0]["held"] == 1).await;
    let cancelled = tokio::time::timeout(secs(30), cancel(router.write_port(0), writer.key)).await;
    assert!(cancelled.is_ok(), "a cancel was held");
    assert!(!waiting.is_finished());
    come_back(stage.n1());
    until("the held client is served", secs(30), || async { waiting.is_finished() }).await;
}
