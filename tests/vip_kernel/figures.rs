//! How long things take; the figures are printed, and bounded far beyond what they need.

use std::time::Duration;

use pgvane::runtime::clock;
use pgvane::vip::netlink::Change;

use super::bed::{BOTH, Bed, single};

const TRIALS: usize = 50;
/// Ten times the target.
const BOUND: Duration = Duration::from_millis(20);

fn quantiles(mut taken: Vec<Duration>) -> (Duration, Duration, Duration) {
    taken.sort();
    (taken[taken.len() / 2], taken[taken.len() * 95 / 100], taken[taken.len() - 1])
}

#[tokio::test]
async fn adding_and_announcing_takes_a_moment_and_so_does_learning_of_a_deletion() {
    let bed = Bed::new(&["a", "b"]);
    let mut node = bed.node("a").await;
    for ip in BOTH {
        let segment = bed.segment("a", &node, ip);
        let about = |change: &Change| *change == Change::Address { ip };
        let (mut claims, mut news) = (Vec::new(), Vec::new());
        for _ in 0..TRIALS {
            let began = clock::now();
            node.put(ip, Some(60)).await;
            segment.announce().unwrap();
            claims.push(began.elapsed());
            node.change(about).await;
            let entries = node.netlink.entries(ip).await.unwrap();
            let other = bed.at("a", || {
                std::process::Command::new("ip")
                    .args(["addr", "del", &single(ip).to_string(), "dev", "eth0"])
                    .output()
                    .unwrap()
            });
            assert!(other.status.success() && entries.len() == 1);
            node.change(about).await;
        }
        for _ in 0..TRIALS {
            node.put(ip, Some(60)).await;
            node.change(about).await;
            let entries = node.netlink.entries(ip).await.unwrap();
            let began = clock::now();
            let (deleted, ()) = tokio::join!(node.netlink.remove(&entries[0], ip), async {
                while node.changes.recv().await != Some(Change::Address { ip }) {}
                news.push(began.elapsed());
            });
            deleted.unwrap();
        }
        for (what, taken) in [("put and first announcement", claims), ("deleted, and told", news)] {
            let (p50, p95, max) = quantiles(taken);
            eprintln!("{ip}: {what}, {TRIALS} times: p50 {p50:.2?}, p95 {p95:.2?}, max {max:.2?}");
            assert!(p95 < BOUND, "{what}: {p95:?}");
        }
    }
}
