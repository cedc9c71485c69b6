//! Passwords and certificates.

use std::process::Command;
use std::time::Duration;

use etcd_client::Permission;
use pgvane::dcs::DcsEvent;
use pgvane::dcs::etcd::{EtcdAccess, EtcdTls};
use pgvane::runtime::clock;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::store::{Etcd, Listener, PREFIX, Told, loopback, put, seed};

#[tokio::test]
async fn a_token_is_renewed_when_etcd_forgot_it() {
    let mut etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    seed(&mut client, "n1").await;
    client.user_add("root", "secret", None).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.auth_enable().await.unwrap();
    let access = |password: &str| EtcdAccess {
        endpoints: vec![etcd.url()],
        username: Some("root".into()),
        password: Some(password.into()),
        tls: None,
    };
    let mut wrong = Listener::with(access("wrong"), &[PREFIX]);
    let trouble = wrong.next().await;
    assert!(matches!(&trouble.event, DcsEvent::Trouble { problem, .. } if problem.contains("authentication failed")));
    drop(wrong);

    let mut listener = Listener::with(access("secret"), &[PREFIX]);
    listener.until("the lease", |told| told.lease_left().is_some()).await;
    etcd.kill();
    etcd.launch();
    let mut client = etcd.client_as(Some(("root", "secret"))).await;
    let up = clock::now();
    listener.until("a read", |told| told.sent_at().is_some_and(|at| at > up)).await;
    put(&mut client, "leader", "n2", 0).await;
    let seen = listener.until("the move", |told| told.leader() == Some("n2")).await;
    assert!(seen.is_watch());
}

/// One cluster without a grant must not be the outage of the others.
#[tokio::test]
async fn a_prefix_that_may_not_be_read_spares_the_others() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    seed(&mut client, "n1").await;
    client.user_add("root", "secret", None).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.role_add("reader").await.unwrap();
    client.role_grant_permission("reader", Permission::read(PREFIX).with_prefix()).await.unwrap();
    client.user_add("reader", "secret", None).await.unwrap();
    client.user_grant_role("reader", "reader").await.unwrap();
    client.auth_enable().await.unwrap();
    let mut root = etcd.client_as(Some(("root", "secret"))).await;
    let access = EtcdAccess {
        endpoints: vec![etcd.url()],
        username: Some("reader".into()),
        password: Some("secret".into()),
        tls: None,
    };
    let mut listener = Listener::with(access, &["/secret/", PREFIX]);
    let denied = |told: &Told| matches!(&told.event, DcsEvent::Trouble { problem, .. } if told.id == 0 && problem.contains("permission denied"));
    listener.until("the refusal", denied).await;
    listener.until("the lease", |told| told.lease_left().is_some()).await;
    put(&mut root, "leader", "n2", 0).await;
    assert!(listener.until("the move", |told| told.leader() == Some("n2")).await.is_watch());
    assert!(listener.history.iter().all(|told| told.id == 1 || told.view().is_none()));
    assert!(!listener.history.iter().any(|told| told.id == 1 && told.view().is_none()));

    // Granted later, it is read and watched too.
    root.role_grant_permission("reader", Permission::read("/secret/").with_prefix()).await.unwrap();
    listener.until("a view", |told| told.id == 0 && told.view().is_some()).await;
    put(&mut root, "/secret/leader", "x1", 0).await;
    assert!(listener.until("its watch", |told| told.id == 0 && told.leader() == Some("x1")).await.is_watch());
}

#[tokio::test]
async fn a_password_that_etcd_does_not_want_is_left_out() {
    let etcd = Etcd::start().await;
    seed(&mut etcd.client().await, "n1").await;
    let access = EtcdAccess {
        endpoints: vec![etcd.url()],
        username: Some("root".into()),
        password: Some("secret".into()),
        tls: None,
    };
    let mut listener = Listener::with(access, &[PREFIX]);
    listener.until("the leader", |told| told.leader() == Some("n1")).await;
}

struct Issued {
    cert: String,
    key: String,
}

fn issue(issuer: &Issuer<'_, KeyPair>, name: &str, ip: &str) -> Issued {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![ip.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Issued { cert: params.signed_by(&key, issuer).unwrap().pem(), key: key.serialize_pem() }
}

#[tokio::test]
async fn a_client_certificate_opens_etcd_on_an_ip_address() {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca_params = CertificateParams::new(Vec::new()).unwrap();
    ca_params.distinguished_name.push(DnType::CommonName, "test authority");
    ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = ca_params.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca_params, ca_key);
    let (server, client) = (issue(&issuer, "etcd", &loopback()), issue(&issuer, "pgvane", &loopback()));

    let dir = TempDir::new().unwrap();
    let files =
        [("ca", &ca), ("cert", &server.cert), ("key", &server.key), ("my.cert", &client.cert), ("my.key", &client.key)];
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for (name, text) in files {
        std::fs::write(path(name), text).unwrap();
    }
    let server_args = ["--client-cert-auth".into(), "--trusted-ca-file".into(), path("ca")];
    let own_args = ["--cert-file".into(), path("cert"), "--key-file".into(), path("key")];
    let ctl_args =
        ["--cacert".to_owned(), path("ca"), "--cert".into(), path("my.cert"), "--key".into(), path("my.key")];
    let etcd = Etcd::start_tls(server_args.into_iter().chain(own_args).collect(), dir);

    let tls = EtcdTls { ca: Some(ca.clone().into()), cert: Some(client.cert.into()), key: Some(client.key.into()) };
    let access = EtcdAccess { endpoints: vec![etcd.url()], tls: Some(tls), ..EtcdAccess::default() };
    let mut listener = Listener::with(access.clone(), &[PREFIX]);
    listener.until("an empty view", |told| told.view().is_some()).await;
    let key = format!("{PREFIX}leader");
    let put =
        Command::new("etcdctl").args(["--endpoints", &etcd.url()]).args(ctl_args).args(["put", &key, "n1"]).status();
    assert!(put.unwrap().success());
    let limit = clock::now() + Duration::from_secs(5);
    let seen = listener.until("the leader", |told| told.leader() == Some("n1")).await;
    assert!(seen.is_watch() && clock::now() < limit);

    let bare = EtcdAccess { tls: Some(EtcdTls { ca: Some(ca.into()), ..EtcdTls::default() }), ..access };
    let mut stranger = Listener::with(bare, &[PREFIX]);
    let told = stranger.next().await;
    assert!(matches!(&told.event, DcsEvent::Trouble { .. }), "{told:?}");
    println!("without a certificate: {told:?}");
    assert!(!stranger.history.iter().any(|told: &Told| told.view().is_some()));
}
