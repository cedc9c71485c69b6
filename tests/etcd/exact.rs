//! One key and no other: as it is written, and with the right to nothing else.

use etcd_client::{Client, Permission};
use pgvane::dcs::DcsEvent;
use pgvane::dcs::etcd::EtcdAccess;
use pgvane::dcs::place::Place;

use crate::store::{Etcd, Listener, Told, lease, put};

pub const VIP: &str = "10.0.0.9";
pub const MARK: &str = "/vips/10.0.0.9";

pub fn access(etcd: &Etcd, user: Option<&str>) -> EtcdAccess {
    EtcdAccess {
        endpoints: vec![etcd.url()],
        username: user.map(str::to_owned),
        password: user.map(|_| "secret".to_owned()),
        tls: None,
    }
}

/// A root, and `reader` who may do this and nothing else. Returns a client of the root's.
pub async fn grant(etcd: &Etcd, client: &mut Client, permission: Permission) -> Client {
    client.user_add("root", "secret", None).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.role_add("reader").await.unwrap();
    client.role_grant_permission("reader", permission).await.unwrap();
    client.user_add("reader", "secret", None).await.unwrap();
    client.user_grant_role("reader", "reader").await.unwrap();
    client.auth_enable().await.unwrap();
    etcd.client_as(Some(("root", "secret"))).await
}

fn places(key: &str) -> Vec<Place> {
    vec![Place::leader(key), Place::mark(MARK, VIP.parse().unwrap())]
}

fn mark(told: &Told) -> Option<String> {
    let vips = &told.view().filter(|_| told.id == 1)?.vips;
    Some(vips.get(&VIP.parse().unwrap()).map_or(String::new(), |mark| mark.holder.to_string()))
}

#[tokio::test]
async fn a_key_is_read_and_watched_as_it_is_written_and_its_neighbours_are_not() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    // Without the slash in front, as vip-manager's own tests have it.
    let key = "service/pgcluster/leader";
    let (first, second) = (lease(&mut client, 20).await, lease(&mut client, 30).await);
    client.put(key, "n1", Some(etcd_client::PutOptions::new().with_lease(first))).await.unwrap();
    for neighbour in ["/service/pgcluster/leader", "service/pgcluster/leader2", "service/pgcluster/leader/"] {
        client.put(neighbour, "stranger", None).await.unwrap();
    }
    let mut listener = Listener::at(access(&etcd, None), places(key));
    let told = listener.until("the lease", |told| told.lease_left().is_some()).await;
    assert_eq!((told.id, told.leader()), (0, Some("n1")));
    client.put("service/pgcluster/leader2", "n9", None).await.unwrap();
    client.put(key, "n2", Some(etcd_client::PutOptions::new().with_lease(second))).await.unwrap();
    assert!(listener.until("the move", |told| told.leader() == Some("n2")).await.is_watch());
    let told = listener.until("its lease", |told| told.lease_left().is_some()).await;
    assert!(told.lease_left().unwrap().as_secs() > 20);

    put(&mut client, MARK, r#"{"holder":"n2","lease":5}"#, 0).await;
    assert!(listener.until("the mark", |told| mark(told).as_deref() == Some("n2")).await.is_watch());
    client.delete(MARK, None).await.unwrap();
    assert!(listener.until("no mark", |told| told.is_watch() && mark(told).as_deref() == Some("")).await.is_watch());
    client.delete(key, None).await.unwrap();
    let gone = |told: &Told| told.id == 0 && told.is_watch() && told.leader().is_none();
    listener.until("no leader", gone).await;
    assert!(listener.history.iter().all(|told| told.leader().is_none_or(|name| ["n1", "n2"].contains(&name))));
}

#[tokio::test]
async fn the_right_to_the_trigger_key_alone_is_enough() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    let key = "/service/one/leader";
    put(&mut client, key, "n1", 0).await;
    put(&mut client, MARK, r#"{"holder":"n1","lease":5}"#, 0).await;
    let mut root = grant(&etcd, &mut client, Permission::read(key)).await;
    let mut listener = Listener::at(access(&etcd, Some("reader")), places(key));
    let denied = |told: &Told| matches!(&told.event, DcsEvent::Trouble { problem, .. } if told.id == 1 && problem.contains("permission denied"));
    listener.until("the refusal of the mark", denied).await;
    listener.until("the leader", |told| told.leader() == Some("n1")).await;
    put(&mut root, key, "n2", 0).await;
    assert!(listener.until("the move", |told| told.leader() == Some("n2")).await.is_watch());
    let of_mark = |told: &&Told| told.id == 1 && told.view().is_some();
    assert_eq!(listener.history.iter().filter(of_mark).count(), 0);
    let of_key = |told: &&Told| told.id == 0 && told.view().is_none();
    assert_eq!(listener.history.iter().filter(of_key).count(), 0, "nobody complains about the key itself");
}
