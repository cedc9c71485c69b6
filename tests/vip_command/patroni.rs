//! Patroni's REST API as the source of the right, and as the one who vouches when the DCS is silent.

use std::time::Duration;

use nix::sys::signal::Signal;
use pgvane::config::EtcdSpec;
use pgvane::decide::view::FRESH_FOR;
use pgvane::model::{Reason, VipClaim};
use pgvane::runtime::clock;
use pgvane::runtime::vip_alone::{Source, Voucher};

use crate::store::{Etcd, lease, put};
use crate::web::{Conduct, Web, endpoint, says};
use crate::{KEY, Listener, ME, PATIENCE, plan};

fn source(port: u16, every: u64) -> Source {
    let (path, value) = ("/leader".to_owned(), "200".to_owned());
    Source::Patroni { endpoint: endpoint(port), path, value, every: Duration::from_millis(every) }
}

#[tokio::test]
async fn the_status_of_the_page_is_the_value() {
    let web = Web::start(says(503, "{}")).await;
    let mut listener = Listener::to(&plan(source(web.port, 50), None));
    let right = listener.until_claim(VipClaim::NotOurs).await;
    assert_eq!(right.reason, Reason::RoleElsewhere);
    assert!(web.asked().starts_with("GET /leader HTTP/1.1\r\n"), "{}", web.asked());
    // A status counts without its body.
    web.becomes(says(200, "not JSON"));
    let right = listener.until_claim(VipClaim::Ours).await;
    assert_eq!((right.lease_end, right.mark), (None, None));
    web.becomes(says(404, ""));
    listener.until_claim(VipClaim::NotOurs).await;
    web.becomes(says(200, ""));
    listener.until_claim(VipClaim::Ours).await;
    // Nobody listens: Patroni has ended.
    let port = web.stop().await;
    listener.until_claim(VipClaim::NotOurs).await;
    let _back = Web::start_at(port, says(200, "")).await;
    listener.until_claim(VipClaim::Ours).await;
}

#[tokio::test]
async fn silence_says_nothing_new() {
    let web = Web::start(says(200, "")).await;
    let mut listener = Listener::to(&plan(source(web.port, 50), None));
    listener.until_claim(VipClaim::Ours).await;
    for silence in [Conduct::Hangs, Conduct::Resets] {
        web.becomes(silence);
        let since = clock::now();
        let before = web.count();
        while web.count() < before + 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert!(clock::now() < since + PATIENCE);
        }
        let right = listener.now();
        assert_eq!(right.claim, VipClaim::Ours);
        assert!(right.confirmed_at.unwrap() < since + Duration::from_secs(1), "no answer confirms it");
        web.becomes(says(200, ""));
        listener.until("an answer", |right| right.confirmed_at > Some(since + Duration::from_secs(1))).await;
    }
}

#[tokio::test]
async fn once_a_second_keeps_it_fresh() {
    let web = Web::start(says(200, "")).await;
    let mut listener = Listener::to(&plan(source(web.port, 1000), None));
    listener.until_claim(VipClaim::Ours).await;
    listener.stays_fresh(VipClaim::Ours, Duration::from_secs(4)).await;
    assert!(web.count() < 10);
}

fn voucher(web: &Web) -> Voucher {
    Voucher { endpoint: web.endpoint(), member: ME.to_owned(), key: KEY.to_owned() }
}

fn page(name: &str, scope: &str) -> String {
    format!(
        r#"{{"state":"running","role":"primary","patroni":{{"version":"4.0.5","scope":"{scope}","name":"{name}"}}}}"#
    )
}

/// Follows a real etcd that falls silent while the key names us.
async fn silent_etcd(web: &Web) -> (Etcd, Listener) {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    let lease = lease(&mut client, 60).await;
    put(&mut client, KEY, ME, lease).await;
    let spec = EtcdSpec { endpoints: vec![etcd.url()], ..EtcdSpec::default() };
    let source = Source::Etcd { etcd: spec, key: KEY.to_owned(), value: ME.to_owned(), mark_key: None };
    let mut listener = Listener::to(&plan(source, Some(voucher(web))));
    listener.until_claim(VipClaim::Ours).await;
    listener.stays_fresh(VipClaim::Ours, FRESH_FOR).await;
    etcd.signal(Signal::SIGSTOP);
    (etcd, listener)
}

#[tokio::test]
async fn the_local_patroni_vouches_while_the_dcs_is_silent() {
    let web = Web::start(says(200, &page(ME, "pgcluster"))).await;
    let (etcd, mut listener) = silent_etcd(&web).await;
    assert!(web.count() <= 1, "nobody asks Patroni while reads are answered");
    let first = listener.until("its word", |right| right.vouched_at.is_some()).await;
    assert_eq!(first.claim, VipClaim::Ours);
    assert!(first.vouched_at > first.confirmed_at);
    assert!(web.asked().starts_with("GET /primary HTTP/1.1\r\n"), "{}", web.asked());
    let stale = first.confirmed_at.unwrap() + FRESH_FOR;
    listener.until("its word beyond the last read", |right| right.vouched_at > Some(stale)).await;
    web.becomes(says(503, &page(ME, "pgcluster")));
    listener.until("its word taken back", |right| right.vouched_at.is_none()).await;
    web.becomes(says(200, &page(ME, "pgcluster")));
    listener.until("its word again", |right| right.vouched_at.is_some()).await;
    let asked = web.count();
    etcd.signal(Signal::SIGCONT);
    listener.until("a read", |right| right.confirmed_at > Some(stale)).await;
    listener.stays_fresh(VipClaim::Ours, FRESH_FOR).await;
    assert!(web.count() <= asked + 3, "it is not asked any more");
}

#[tokio::test]
async fn a_strangers_word_is_none() {
    for body in [page("n2", "pgcluster"), page(ME, "other"), "pgcluster".to_owned()] {
        let web = Web::start(says(200, &body)).await;
        let (etcd, listener) = silent_etcd(&web).await;
        let since = clock::now();
        while web.count() < 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert!(clock::now() < since + PATIENCE);
        }
        assert_eq!(listener.now().vouched_at, None, "{body}");
        etcd.signal(Signal::SIGCONT);
    }
    // Before Patroni told its name and scope there, it vouched all the same.
    let web = Web::start(says(200, r#"{"role":"master","patroni":{"version":"2.1.0","scope":"pgcluster"}}"#)).await;
    let (etcd, mut listener) = silent_etcd(&web).await;
    listener.until("its word", |right| right.vouched_at.is_some()).await;
    etcd.signal(Signal::SIGCONT);
}
