//! etcd is stopped for a while, with Patroni's failsafe mode on: the primary rightly stays.

use std::time::Duration;

use anyhow::{Result, bail};
use pgvane::runtime::clock;

use super::clients::Path;
use super::stage::Stage;
use super::tally::{self, Fared, millis};
use super::{failsafe, until};

const FAILSAFE_MAX: Duration = Duration::from_secs(60);
const BACK_MAX: Duration = Duration::from_secs(120);

#[derive(Debug, Clone)]
pub struct Stop {
    pub lasted: Duration,
    pub until_key: Duration,
    pub pgvane: (Fared, Option<f64>),
    pub haproxy: Option<(Fared, Option<f64>)>,
}

/// Watches for `after` more when the leader key is back: healing may do something to clients too.
pub async fn measure(stage: &Stage, lasting: Duration, after: Duration) -> Result<Stop> {
    let leader = stage.calm().await?;
    failsafe::turn_on(&stage.cluster, FAILSAFE_MAX).await?;
    tokio::time::sleep(stage.cluster.options().loop_wait).await;
    eprintln!("failsafe mode is on; etcd is stopped for {lasting:?}");
    let began = clock::now();
    stage.cluster.stop_etcd()?;
    tokio::time::sleep(lasting).await;
    stage.cluster.start_etcd()?;
    let started = clock::now();
    stage.cluster.wait_etcd(BACK_MAX).await?;
    let back = until(BACK_MAX, async || stage.keys.named_since(started, &leader.name));
    if !back.await {
        bail!("the leader key does not name {} again within {BACK_MAX:?}{}", leader.name, stage.tails());
    }
    let until_key = clock::now().saturating_duration_since(began);
    tokio::time::sleep(after).await;
    let ended = clock::now();
    let felt = |path: &Path| {
        let noted = path.since(began);
        let longest = tally::outage(&noted, began, ended).and_then(|gap| gap.length());
        (Fared::of(&noted), longest.map(millis))
    };
    Ok(Stop { lasted: lasting, until_key, pgvane: felt(&stage.pgvane), haproxy: stage.haproxy.as_ref().map(felt) })
}
