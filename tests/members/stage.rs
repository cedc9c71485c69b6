//! One etcd, three members led by the first, and room for a router in front of them.

use std::sync::Arc;
use std::time::Instant;

use super::etcd::Etcd;
use super::member::Member;
use super::patroni::Patroni;
use super::router::{Router, Setup};

pub const SCOPE: &str = "demo";
/// Of the first leader.
pub const TIMELINE: u32 = 5;

#[derive(Debug)]
pub struct Stage {
    pub etcd: Etcd,
    pub members: Vec<Arc<Member>>,
    pub patroni: Patroni,
}

/// Three replicas of one scope, the first of them promoted.
pub fn members(scope: &str) -> Vec<Arc<Member>> {
    let names = [(1, "n1"), (2, "n2"), (3, "n3")];
    let members: Vec<_> = names.map(|(number, name)| Arc::new(Member::start(name, scope, number))).into();
    members.iter().for_each(|member| member.set(|facts| facts.timeline = TIMELINE));
    members[0].promote(TIMELINE);
    members
}

impl Stage {
    pub async fn start() -> Stage {
        let etcd = Etcd::start().await;
        let members = members(SCOPE);
        let patroni = Patroni::start(&etcd, SCOPE, members.clone()).await;
        Stage { etcd, members, patroni }
    }

    pub fn setup(&self) -> Setup {
        Setup::new(&self.etcd, &[SCOPE])
    }

    /// A router that sends writes to the first member.
    pub async fn router(&self, change: impl FnOnce(&mut Setup)) -> Router {
        let mut setup = self.setup();
        change(&mut setup);
        let router = Router::start(setup).await;
        router.until_open("n1").await;
        router
    }

    pub fn n1(&self) -> &Member {
        &self.members[0]
    }

    pub fn n2(&self) -> &Member {
        &self.members[1]
    }

    pub fn n3(&self) -> &Member {
        &self.members[2]
    }

    /// The key moves to `n2`, which becomes writable at once; `n1` is left as it is: a zombie when
    /// it was writable. Returns when etcd had confirmed the key.
    pub async fn fail_over_to_n2(&self) -> Instant {
        let at = self.patroni.move_leader("n2").await;
        self.n2().promote(TIMELINE + 1);
        at
    }

    /// Every write that any member refused because it was in recovery.
    pub fn refused_writes(&self) -> usize {
        self.members.iter().map(|member| member.journal.refused()).sum()
    }
}
