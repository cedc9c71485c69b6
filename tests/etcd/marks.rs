//! Hand-over keys: written, taken, deleted, refused; and what becomes of them when nobody keeps them.

use std::time::Duration;

use etcd_client::{Client, Permission};
use nix::sys::signal::Signal;
use pgvane::dcs::etcd::{CALL_MAX, EtcdAccess, MarkWriter, mark_value};
use pgvane::runtime::clock;

use crate::exact::{MARK, access, grant};
use crate::store::{Etcd, PATIENCE, free_port, loopback};

const TTL: Duration = Duration::from_secs(2);

async fn value(client: &mut Client) -> Option<(String, i64, i64)> {
    let answer = client.get(MARK, None).await.unwrap();
    let kv = answer.kvs().first()?;
    Some((kv.value_str().unwrap().to_owned(), kv.mod_revision(), kv.lease()))
}

async fn until_gone(client: &mut Client) {
    let limit = clock::now() + PATIENCE;
    while value(client).await.is_some() {
        assert!(clock::now() < limit, "the key never went");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_mark_is_written_over_and_only_its_writer_deletes_it() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    let (one, two) = (MarkWriter::new(access(&etcd, None)), MarkWriter::new(access(&etcd, None)));
    let first = one.write(MARK, &mark_value("n1", Duration::from_secs(5)), None).await.unwrap();
    assert_eq!(value(&mut client).await, Some((r#"{"holder":"n1","lease":5}"#.to_owned(), first, 0)));
    let second = two.write(MARK, &mark_value("n2", Duration::from_secs(5)), None).await.unwrap();
    assert!(second > first);
    one.delete(MARK, first).await.unwrap();
    assert_eq!(value(&mut client).await.unwrap().1, second, "it is another's by now");
    two.delete(MARK, second).await.unwrap();
    assert_eq!(value(&mut client).await, None);
    two.delete(MARK, second).await.unwrap();
}

#[tokio::test]
async fn a_taken_mark_is_one_holders_as_long_as_it_lives() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    let (one, two) = (MarkWriter::new(access(&etcd, None)), MarkWriter::new(access(&etcd, None)));
    let revision = one.write(MARK, "one", Some(TTL)).await.unwrap();
    let refused = two.write(MARK, "two", Some(TTL)).await.unwrap_err();
    assert_eq!(refused, format!("{MARK} is taken: one"));
    // Kept alive beyond its lease.
    tokio::time::sleep(TTL * 2).await;
    let (text, at, lease) = value(&mut client).await.expect("it is kept alive");
    assert_eq!((text.as_str(), at), ("one", revision));
    assert_ne!(lease, 0);
    one.delete(MARK, revision).await.unwrap();
    assert_eq!(value(&mut client).await, None);
    assert!(client.leases().await.unwrap().leases().is_empty(), "no lease is left behind");

    // Whoever took it ends without a word.
    two.write(MARK, "two", Some(TTL)).await.unwrap();
    drop(two);
    until_gone(&mut client).await;
    one.write(MARK, "one", Some(TTL)).await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_a_sentence_that_says_what_to_grant() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    let _root = grant(&etcd, &mut client, Permission::read(MARK)).await;
    let writer = MarkWriter::new(access(&etcd, Some("reader")));
    let began = clock::now();
    for take in [None, Some(TTL)] {
        let refused = writer.write(MARK, "n1", take).await.unwrap_err();
        assert!(refused.starts_with(&format!("etcd does not let this user write {MARK}: ")), "{refused}");
        assert!(refused.contains("grant readwrite on it"), "{refused}");
    }
    let refused = writer.delete(MARK, 1).await.unwrap_err();
    assert!(refused.starts_with(&format!("etcd does not let this user delete {MARK}: ")), "{refused}");
    assert!(clock::now() - began < PATIENCE, "a refusal is an answer, and nobody else is asked");
}

#[tokio::test]
async fn a_dead_a_hung_and_a_restarted_endpoint_are_passed() {
    let mut etcd = Etcd::start().await;
    let hung = Etcd::start().await;
    hung.signal(Signal::SIGSTOP);
    let dead = format!("http://{}:{}", loopback(), free_port());
    let endpoints = vec![dead.clone(), hung.url(), etcd.url()];
    let writer = MarkWriter::new(EtcdAccess { endpoints, ..EtcdAccess::default() });
    let revision = writer.write(MARK, "n1", None).await.unwrap();
    etcd.kill();
    etcd.launch();
    let mut client = etcd.client().await;
    writer.delete(MARK, revision).await.unwrap();
    assert_eq!(value(&mut client).await, None);

    let lonely = MarkWriter::new(EtcdAccess { endpoints: vec![dead, hung.url()], ..EtcdAccess::default() });
    let began = clock::now();
    let failed = lonely.write(MARK, "n1", None).await.unwrap_err();
    assert!(failed.starts_with(&format!("cannot write {MARK}: ")), "{failed}");
    assert!(clock::now() - began < CALL_MAX * 5);
    hung.signal(Signal::SIGCONT);
}
