//! `pgvane vip` from the outside: the sources of the right, and the program with its exit codes and lines.

#[allow(dead_code, reason = "the tests of the etcd session stand on the same store")]
#[path = "etcd/store.rs"]
mod store;

#[path = "vip_command/consul.rs"]
mod consul;
#[path = "vip_command/etcd.rs"]
mod etcd;
#[path = "vip_command/patroni.rs"]
mod patroni;
#[path = "vip_command/program.rs"]
mod program;
#[path = "vip_command/web.rs"]
mod web;

use std::time::Duration;

use pgvane::decide::view::FRESH_FOR;
use pgvane::model::{VipAddress, VipClaim, VipRight, VipSpec};
use pgvane::runtime::clock;
use pgvane::runtime::vip_alone::{Following, Plan, Source, Voucher, follow};
use tokio::time::timeout;

pub const IP: &str = "10.0.0.9";
pub const KEY: &str = "/service/pgcluster/leader";
pub const ME: &str = "n1";
pub const PATIENCE: Duration = Duration::from_secs(15);

/// What `pgvane vip` would be told, of which the source matters.
pub fn plan(source: Source, patroni: Option<Voucher>) -> Plan {
    let address = VipAddress::single(IP.parse().unwrap());
    let spec = VipSpec::new(address, "eth0", "pgcluster").into();
    Plan { spec, me: ME.into(), source, patroni, tls: None, admin: None }
}

/// Rights as they come.
pub struct Listener {
    pub following: Following,
}

impl Listener {
    pub fn to(plan: &Plan) -> Listener {
        Listener { following: follow(plan).unwrap() }
    }

    pub fn now(&self) -> VipRight {
        self.following.rights.borrow().clone()
    }

    pub async fn until(&mut self, what: &str, wanted: impl Fn(&VipRight) -> bool) -> VipRight {
        let rights = &mut self.following.rights;
        let found = timeout(PATIENCE, rights.wait_for(|right| wanted(right))).await.map(|right| right.unwrap().clone());
        found.unwrap_or_else(|_| panic!("never came: {what}; last: {:?}", self.now()))
    }

    pub async fn until_claim(&mut self, claim: VipClaim) -> VipRight {
        self.until(&format!("{claim:?}"), |right| right.claim == claim).await
    }

    /// For so long it is confirmed all the time, and stays the same.
    pub async fn stays_fresh(&mut self, claim: VipClaim, during: Duration) {
        let end = clock::now() + during;
        while clock::now() < end {
            let right = self.now();
            assert_eq!(right.claim, claim, "{right:?}");
            let age = clock::now().saturating_duration_since(right.confirmed_at.unwrap());
            assert!(age < FRESH_FOR, "{age:?}");
            let _same_for_long = timeout(Duration::from_millis(100), self.following.rights.changed()).await;
        }
    }
}
