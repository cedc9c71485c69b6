//! Virtual addresses as the endpoint tells of them, beside clusters and alone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use pgvane::decide::vip::{VipSnapshot, VipState};
use pgvane::model::{Mac, Reason, Role, VipAddress, VipOnDcsLoss, VipSpec};
use pgvane::runtime::clock;
use serde_json::{Value, json};

use super::bed::{Bed, report};

/// Not held, and nothing has ever happened to it.
fn released(ip: &str) -> VipSnapshot {
    let address = VipAddress::single(ip.parse::<IpAddr>().unwrap());
    VipSnapshot {
        spec: Arc::new(VipSpec::new(address, "eth0", "pg-test")),
        state: VipState::Released,
        reason: Reason::RoleElsewhere,
        since: clock::now() - Duration::from_secs(90),
        holder: None,
        lease_end: None,
        is_unfenced: false,
        announced_at: None,
        announcements: 0,
        claims: 0,
        releases: 0,
        repairs: 0,
        conflicts: 0,
        conflict_mac: None,
        mac: None,
        problem: None,
    }
}

/// Held against the rest of the world.
fn held() -> VipSnapshot {
    let now = clock::now();
    let address = VipAddress { ip: "fd00::100".parse().unwrap(), prefix: 64 };
    let spec = VipSpec {
        member: Some("n1".into()),
        role: Role::StandbyLeader,
        on_dcs_loss: VipOnDcsLoss::Hold,
        ..VipSpec::new(address, "bond0.7", "meta")
    };
    VipSnapshot {
        spec: Arc::new(spec),
        state: VipState::Held,
        reason: Reason::Unfenced,
        holder: Some("n1".into()),
        lease_end: Some(now + Duration::from_secs(3600)),
        is_unfenced: true,
        announced_at: Some(now - Duration::from_secs(60)),
        announcements: 11,
        claims: 2,
        releases: 1,
        repairs: 3,
        conflicts: 4,
        conflict_mac: Some(Mac([2, 0, 0, 0, 0, 0xab])),
        mac: Some(Mac([2, 0, 0, 0, 0, 1])),
        problem: Some("no route".to_owned()),
        ..released("::1")
    }
}

/// Takes a time out of an answer; it has to be near what it was when the answer was asked for.
fn take_seconds(vip: &mut Value, key: &str, seconds: f64) {
    let told = vip[key].as_f64().unwrap_or_else(|| panic!("{key} of {vip}"));
    assert!((told - seconds).abs() < 30.0, "{key} is {told}");
    vip.as_object_mut().unwrap().remove(key);
}

async fn status(bed: &Bed) -> Value {
    let (code, _, body) = bed.ask("GET", "/api/v1/status", &[]).await;
    assert_eq!(code, 200);
    serde_json::from_str(&body).unwrap()
}

/// Samples of `pgvane_vip_*` by name and labels.
async fn metrics(bed: &Bed) -> BTreeMap<String, f64> {
    let (code, _, body) = bed.ask("GET", "/metrics", &[]).await;
    assert_eq!(code, 200);
    let samples = body.lines().filter(|line| line.starts_with("pgvane_vip_"));
    samples.map(|line| line.rsplit_once(' ').unwrap()).map(|(name, v)| (name.to_owned(), v.parse().unwrap())).collect()
}

#[tokio::test]
async fn the_status_tells_everything_of_each_address() {
    let bed = Bed::with_vips(vec![report("pg-test", &["replica"])], vec![held(), released("10.0.2.123")]).await;
    let mut status = status(&bed).await;
    assert_eq!(status["clusters"][0]["name"], json!("pg-test"));
    let [held, released] = status["vips"].as_array_mut().unwrap().as_mut_slice() else { panic!("{status}") };
    take_seconds(held, "since_s", 90.0);
    take_seconds(held, "lease_left_s", 3600.0);
    take_seconds(held, "last_announcement_age_s", 60.0);
    take_seconds(released, "since_s", 90.0);
    let expected = json!({
        "address": "fd00::100/64", "interface": "bond0.7", "cluster": "meta", "member": "n1", "role": "standby_leader",
        "state": "held", "reason": "unfenced", "because": Reason::Unfenced.sentence(), "holder": "n1", "unfenced": true,
        "announcements": 11, "claims": 2, "releases": 1, "repairs": 3, "conflicts": 4,
        "conflict_mac": "02:00:00:00:00:ab", "mac": "02:00:00:00:00:01", "on_dcs_loss": "hold", "problem": "no route",
    });
    assert_eq!(*held, expected);
    let expected = json!({
        "address": "10.0.2.123/32", "interface": "eth0", "cluster": "pg-test", "member": null, "role": "primary",
        "state": "released", "reason": "role_elsewhere", "because": Reason::RoleElsewhere.sentence(), "holder": null,
        "lease_left_s": null, "unfenced": false, "last_announcement_age_s": null,
        "announcements": 0, "claims": 0, "releases": 0, "repairs": 0, "conflicts": 0,
        "conflict_mac": null, "mac": null, "on_dcs_loss": "keep_while_patroni_leads", "problem": null,
    });
    assert_eq!(*released, expected);
}

#[tokio::test]
async fn metrics_count_and_show_where_each_address_is() {
    let bed = Bed::with_vips(vec![report("pg-test", &["replica"])], vec![held(), released("10.0.2.123")]).await;
    let mut samples = metrics(&bed).await;
    let here = r#"address="fd00::100/64",interface="bond0.7",cluster="meta""#;
    let gone = r#"address="10.0.2.123/32",interface="eth0",cluster="pg-test""#;
    for (name, seconds) in [("lease_left", 3600.0), ("last_announcement_age", 60.0), ("state_age", 90.0)] {
        let told = samples.remove(&format!("pgvane_vip_{name}_seconds{{{here}}}")).unwrap();
        assert!((told - seconds).abs() < 30.0, "{name} is {told}");
    }
    assert!((samples.remove(&format!("pgvane_vip_state_age_seconds{{{gone}}}")).unwrap() - 90.0).abs() < 30.0);
    let mut expected = BTreeMap::new();
    for (labels, state, values) in
        [(here, VipState::Held, [1, 1, 11, 2, 1, 3, 4]), (gone, VipState::Released, [0, 0, 0, 0, 0, 0, 0])]
    {
        let names = ["held", "unfenced", "announcements_total", "claims_total", "releases_total", "repairs_total"];
        for (name, value) in names.into_iter().chain(["conflicts_total"]).zip(values) {
            expected.insert(format!("pgvane_vip_{name}{{{labels}}}"), f64::from(value));
        }
        for word in VipState::ALL {
            let is = f64::from(u8::from(word == state));
            expected.insert(format!("pgvane_vip_state{{{labels},state=\"{}\"}}", word.as_str()), is);
        }
    }
    // What is not on the interface has no lease, and was not announced.
    assert_eq!(samples, expected);
}

#[tokio::test]
async fn addresses_need_no_cluster_and_clusters_no_address() {
    let alone = Bed::with_vips(Vec::new(), vec![held()]).await;
    let told = status(&alone).await;
    assert_eq!((&told["clusters"], told["vips"].as_array().unwrap().len()), (&json!([]), 1));
    assert!(!metrics(&alone).await.is_empty());
    assert_eq!(alone.ask("GET", "/readyz", &[]).await.0, 200);
    let without = Bed::with_vips(vec![report("pg-test", &["replica"])], Vec::new()).await;
    assert_eq!(status(&without).await["vips"], json!([]));
    let (_, _, page) = without.ask("GET", "/metrics", &[]).await;
    assert!(!page.contains("pgvane_vip"));
}
