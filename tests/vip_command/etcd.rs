//! A real etcd as the source of the right: the key as it is written, its lease, the hand-over key.

use std::time::Duration;

use etcd_client::Permission;
use pgvane::config::{EtcdSpec, Secret};
use pgvane::model::{Reason, VipClaim};
use pgvane::runtime::clock;
use pgvane::runtime::vip_alone::Source;

use crate::store::{Etcd, lease, put};
use crate::{IP, KEY, Listener, ME, plan};

const MARK: &str = "/service/pgcluster/pgvane/vip/10.0.0.9";

fn source(etcd: &Etcd, user: Option<&str>) -> Source {
    let password = user.map(|_| Secret::new("secret".to_owned()));
    let etcd = EtcdSpec { endpoints: vec![etcd.url()], username: user.map(str::to_owned), password, tls: None };
    Source::Etcd { etcd, key: KEY.to_owned(), value: ME.to_owned(), mark_key: Some(MARK.to_owned()) }
}

#[tokio::test]
async fn the_right_follows_the_key_and_holders_hand_over_by_the_mark() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    let mut listener = Listener::to(&plan(source(&etcd, None), None));
    assert_eq!(listener.now().claim, VipClaim::Unknown);
    assert_eq!(listener.until_claim(VipClaim::NotOurs).await.reason, Reason::RoleVacant);
    let (mine, other) = (lease(&mut client, 30).await, lease(&mut client, 30).await);
    put(&mut client, KEY, ME, mine).await;
    let right = listener.until("the lease", |right| {
        right.claim == VipClaim::Ours && right.lease_end > Some(clock::now() + Duration::from_secs(20))
    });
    assert!(right.await.lease_end.unwrap() <= clock::now() + Duration::from_secs(30));

    let ip = IP.parse().unwrap();
    let marks = listener.following.marks.clone();
    let revision = marks.write(ip, false).await.unwrap();
    let right = listener.until("the mark", |right| right.mark.is_some()).await;
    let mark = right.mark.unwrap();
    assert_eq!((&*mark.holder, mark.lease, mark.mod_revision), (ME, Some(Duration::from_secs(5)), revision));
    put(&mut client, KEY, "n2", other).await;
    assert_eq!(listener.until_claim(VipClaim::NotOurs).await.leader.unwrap().as_str(), "n2");
    marks.delete(ip, revision).await.unwrap();
    listener.until("no mark", |right| right.mark.is_none()).await;
    client.delete(KEY, None).await.unwrap();
    listener.until("no leader", |right| right.reason == Reason::RoleVacant).await;
}

#[tokio::test]
async fn the_right_to_read_the_trigger_key_is_all_that_is_needed() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    put(&mut client, KEY, ME, 0).await;
    put(&mut client, MARK, r#"{"holder":"n2","lease":5}"#, 0).await;
    client.user_add("root", "secret", None).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.role_add("reader").await.unwrap();
    client.role_grant_permission("reader", Permission::read(KEY)).await.unwrap();
    client.user_add("reader", "secret", None).await.unwrap();
    client.user_grant_role("reader", "reader").await.unwrap();
    client.auth_enable().await.unwrap();
    let mut root = etcd.client_as(Some(("root", "secret"))).await;

    let mut listener = Listener::to(&plan(source(&etcd, Some("reader")), None));
    listener.until_claim(VipClaim::Ours).await;
    listener.stays_fresh(VipClaim::Ours, Duration::from_secs(3)).await;
    assert_eq!(listener.now().mark, None, "a mark that cannot be read is none");
    let refused = listener.following.marks.write(IP.parse().unwrap(), false).await.unwrap_err();
    assert!(refused.contains("does not let this user write") && refused.contains(MARK), "{refused}");
    put(&mut root, KEY, "n2", 0).await;
    listener.until_claim(VipClaim::NotOurs).await;
    put(&mut root, KEY, ME, 0).await;
    listener.until_claim(VipClaim::Ours).await;
}
