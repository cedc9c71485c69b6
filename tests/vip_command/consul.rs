//! Consul as the source of the right: what its HTTP interface answers, and what an answer is not.

use std::time::Duration;

use pgvane::config::Secret;
use pgvane::model::{Reason, VipClaim};
use pgvane::runtime::clock;
use pgvane::runtime::vip_alone::Source;

use crate::web::{Conduct, Web, endpoint, says};
use crate::{KEY, Listener, ME, PATIENCE, plan};

/// As Consul says it with `?raw`: the value alone, and where the store stands.
fn value(text: &str, index: u64) -> Conduct {
    Conduct::Says(200, format!("X-Consul-Index: {index}\r\nX-Consul-Knownleader: true\r\n"), text.to_owned())
}

fn missing(index: u64) -> Conduct {
    Conduct::Says(404, format!("X-Consul-Index: {index}\r\n"), String::new())
}

fn source(ports: &[u16], key: &str) -> Source {
    let endpoints = ports.iter().map(|port| endpoint(*port)).collect();
    let token = Some(Secret::new("s3cret".to_owned()));
    Source::Consul { endpoints, key: key.to_owned(), value: ME.to_owned(), token }
}

#[tokio::test]
async fn a_question_waits_for_the_change_and_is_asked_consistently() {
    let web = Web::start(value(ME, 7)).await;
    *web.shared.wait.lock() = Duration::from_millis(500);
    let mut listener = Listener::to(&plan(source(&[web.port], "/service/pg cluster/leader"), None));
    let right = listener.until_claim(VipClaim::Ours).await;
    assert_eq!((right.leader.unwrap().as_str(), right.lease_end), (ME, None));
    listener.stays_fresh(VipClaim::Ours, Duration::from_secs(3)).await;
    let asked = web.asked();
    let line = "GET /v1/kv/service/pg%20cluster/leader?raw&consistent&index=7&wait=500ms HTTP/1.1\r\n";
    assert!(asked.starts_with(line), "{asked}");
    assert!(asked.to_lowercase().contains("x-consul-token: s3cret\r\n"), "{asked}");
    assert!(web.count() < 20, "it does not ask again and again");

    let changed = clock::now();
    web.becomes(value("n2", 8));
    let right = listener.until_claim(VipClaim::NotOurs).await;
    assert_eq!((right.reason, right.leader.unwrap().as_str()), (Reason::RoleElsewhere, "n2"));
    assert!(right.confirmed_at.unwrap() < changed, "what was asked before the change proves no later moment");
    web.becomes(missing(9));
    assert_eq!(listener.until("no key", |right| right.leader.is_none()).await.reason, Reason::RoleVacant);
    // A store that went back, as after a restore.
    web.becomes(value(ME, 3));
    listener.until_claim(VipClaim::Ours).await;
}

#[tokio::test]
async fn an_error_says_nothing_new_and_another_server_is_asked() {
    let (first, second) = (Web::start(value(ME, 7)).await, Web::start(says(500, "No cluster leader")).await);
    let mut listener = Listener::to(&plan(source(&[first.port, second.port], KEY), None));
    listener.until_claim(VipClaim::Ours).await;
    let errors = [
        says(500, "No cluster leader"),
        says(403, "ACL not found"),
        says(404, "no such page"),
        Conduct::Resets,
        Conduct::Hangs,
    ];
    for error in errors {
        first.becomes(error.clone());
        let (since, before) = (clock::now(), second.count());
        while second.count() < before + 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert!(clock::now() < since + PATIENCE);
        }
        assert_eq!(listener.now().claim, VipClaim::Ours, "{error:?}");
        // The other one serves meanwhile.
        second.becomes(value("n2", 8));
        listener.until_claim(VipClaim::NotOurs).await;
        second.becomes(says(500, "No cluster leader"));
        first.becomes(value(ME, 9));
        listener.until_claim(VipClaim::Ours).await;
    }
    let port = first.stop().await;
    second.becomes(value("n2", 10));
    listener.until_claim(VipClaim::NotOurs).await;
    assert_ne!(port, second.port);
}
