//! What the members' Patronis write into etcd: the same keys, values and leases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{Client, Compare, CompareOp, Error, PutOptions, Txn, TxnOp};
use parking_lot::Mutex;
use pgvane::runtime::clock;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::etcd::{self, Etcd};
use super::member::Member;

const TTL: i64 = 30;
const RENEW_EVERY: Duration = Duration::from_millis(500);
const CALL_MAX: Duration = Duration::from_secs(2);

/// All Patronis of one scope.
#[derive(Debug)]
pub struct Patroni {
    shared: Arc<Shared>,
    renewing: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    endpoint: String,
    prefix: String,
    members: Vec<Arc<Member>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    leases: BTreeMap<String, i64>,
    /// Who takes the leader key when it is lost.
    leader: Option<String>,
    /// These let their leases run out.
    dead: Vec<String>,
    /// Nobody renews anything.
    asleep: bool,
}

impl Patroni {
    /// A healthy cluster of these members, led by the first, with its keys kept alive.
    pub async fn start(etcd: &Etcd, scope: &str, members: Vec<Arc<Member>>) -> Patroni {
        let prefix = format!("/service/{scope}/");
        let shared = Shared { endpoint: etcd.endpoint(), prefix, members, state: Mutex::default() };
        let shared = Arc::new(shared);
        shared.bootstrap(&mut etcd.client().await).await.expect("keys can be written");
        let renewing = tokio::spawn(shared.clone().renew_for_ever());
        Patroni { shared, renewing }
    }

    /// The leader key is deleted and created for `to`: a switchover's or a failover's last step.
    /// Returns the time when etcd had confirmed it.
    pub async fn move_leader(&self, to: &str) -> Instant {
        let mut client = self.client().await;
        self.delete_leader(&mut client).await;
        self.take_leader(&mut client, to).await
    }

    pub async fn delete_leader(&self, client: &mut Client) {
        self.shared.state.lock().leader = None;
        client.delete(self.shared.key("leader"), None).await.expect("a live etcd");
    }

    pub async fn take_leader(&self, client: &mut Client, to: &str) -> Instant {
        let taken = self.shared.create_leader(client, to).await.expect("a live etcd");
        let at = clock::now();
        assert!(taken, "somebody else has the leader key");
        self.shared.state.lock().leader = Some(to.to_owned());
        at
    }

    /// Every member key says what is true of its member now.
    pub async fn refresh_members(&self) {
        let mut client = self.client().await;
        for member in &self.shared.members {
            self.shared.put_member(&mut client, member).await.expect("a live etcd");
        }
    }

    /// This Patroni died: its lease ends, and its two keys vanish together.
    pub async fn expire(&self, member: &str) {
        let lease = {
            let mut state = self.shared.state.lock();
            state.dead.push(member.to_owned());
            state.leader = state.leader.take().filter(|leader| leader != member);
            state.leases.remove(member)
        };
        self.client().await.lease_revoke(lease.expect("it has a lease")).await.expect("a live etcd");
    }

    /// While asleep, nothing is renewed and nothing lost is written again.
    pub fn sleep(&self, asleep: bool) {
        self.shared.state.lock().asleep = asleep;
    }

    pub async fn put(&self, key: &str, value: &str) {
        self.client().await.put(self.shared.key(key), value, None).await.expect("a live etcd");
    }

    pub async fn client(&self) -> Client {
        etcd::connect(&self.shared.endpoint).await.expect("a live etcd")
    }
}

impl Drop for Patroni {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

impl Shared {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    async fn bootstrap(&self, client: &mut Client) -> Result<(), Error> {
        let config = json!({ "ttl": TTL, "loop_wait": 10, "retry_timeout": 10, "maximum_lag_on_failover": 1_048_576 });
        client.put(self.key("initialize"), "7302185120354763219", None).await?;
        client.put(self.key("config"), config.to_string(), None).await?;
        client.put(self.key("status"), json!({ "optime": 83_886_176 }).to_string(), None).await?;
        for member in &self.members {
            self.grant(client, &member.name).await?;
            self.put_member(client, member).await?;
        }
        let leader = self.state.lock().leader.clone().unwrap_or_else(|| self.members[0].name.clone());
        self.create_leader(client, &leader).await?;
        self.state.lock().leader = Some(leader);
        Ok(())
    }

    async fn grant(&self, client: &mut Client, member: &str) -> Result<(), Error> {
        let lease = client.lease_grant(TTL, None).await?.id();
        self.state.lock().leases.insert(member.to_owned(), lease);
        Ok(())
    }

    fn with_lease(&self, member: &str) -> Option<PutOptions> {
        self.state.lock().leases.get(member).map(|lease| PutOptions::new().with_lease(*lease))
    }

    async fn put_member(&self, client: &mut Client, member: &Member) -> Result<(), Error> {
        let Some(options) = self.with_lease(&member.name) else { return Ok(()) };
        let key = self.key(&format!("members/{}", member.name));
        client.put(key, member.key().to_string(), Some(options)).await?;
        Ok(())
    }

    /// Patroni's race: created only where there is none.
    async fn create_leader(&self, client: &mut Client, name: &str) -> Result<bool, Error> {
        let key = self.key("leader");
        let free = Compare::create_revision(key.as_str(), CompareOp::Equal, 0);
        let put = TxnOp::put(key, name, self.with_lease(name));
        Ok(client.txn(Txn::new().when([free]).and_then([put])).await?.succeeded())
    }

    /// The loop of every Patroni: leases are kept alive, and what was lost is written again.
    async fn renew_for_ever(self: Arc<Self>) {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            if self.state.lock().asleep {
                continue;
            }
            let renewed = async {
                let mut client = etcd::connect(&self.endpoint).await?;
                for member in &self.members {
                    self.renew(&mut client, member).await?;
                }
                Ok::<_, Error>(())
            };
            // Without etcd there is nothing to renew; the next turn tries again.
            let _ = timeout(CALL_MAX, renewed).await;
        }
    }

    async fn renew(&self, client: &mut Client, member: &Member) -> Result<(), Error> {
        let lease = {
            let state = self.state.lock();
            if state.dead.contains(&member.name) {
                return Ok(());
            }
            state.leases.get(&member.name).copied()
        };
        let alive = match lease {
            Some(lease) => self.keep_alive(client, lease).await?,
            None => false,
        };
        if !alive {
            self.grant(client, &member.name).await?;
            self.put_member(client, member).await?;
        }
        let leads = self.state.lock().leader.as_ref() == Some(&member.name);
        if leads && !alive {
            self.create_leader(client, &member.name).await?;
        }
        Ok(())
    }

    async fn keep_alive(&self, client: &mut Client, lease: i64) -> Result<bool, Error> {
        match client.lease_keep_alive(lease).await {
            Ok(_answered) => Ok(true),
            Err(Error::LeaseKeepAliveError(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
