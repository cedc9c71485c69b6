//! Which views to believe, and for how long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::ClusterView;

use super::ViewSource;

/// A view is fresh while a linearizable read sent at most this long ago was answered.
pub const FRESH_FOR: Duration = Duration::from_secs(2);
/// Reads come once a second; one that is this late is a reason to ask the members themselves.
pub const LATE_AFTER: Duration = Duration::from_millis(1250);
/// So many reads below the known revision mean that the DCS itself went back in time.
const LOWER_READS_MAX: u32 = 2;

/// What became of an offered view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Newer: use it.
    Accepted,
    /// Nothing new, but it proves that what is known is still so.
    Refreshed,
    /// Older than what is known, or not to be believed yet.
    Ignored,
    /// Another etcd, or one that went back in time: use it, and believe no proof from before.
    Replaced,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// No view was ever accepted.
    Never,
    Fresh {
        until: Instant,
    },
    Lost {
        since: Instant,
    },
}

/// Holds the last accepted view of one Patroni cluster.
#[derive(Debug, Clone, Default)]
pub struct ViewKeeper {
    current: Option<Arc<ClusterView>>,
    /// When `current`'s revision became known.
    known_at: Option<Instant>,
    /// Send time of the last linearizable read that agreed with what is known.
    confirmed_at: Option<Instant>,
    lease_end: Option<Instant>,
    lower_reads: u32,
}

impl ViewKeeper {
    pub fn current(&self) -> Option<&Arc<ClusterView>> {
        self.current.as_ref()
    }

    pub fn confirmed_at(&self) -> Option<Instant> {
        self.confirmed_at
    }

    /// When the leader's lease, as last seen by a linearizable read, runs out. Without an answer
    /// about the lease: when the view stops being fresh.
    pub fn lease_end(&self) -> Option<Instant> {
        self.lease_end.or(self.confirmed_at.map(|at| at + FRESH_FOR))
    }

    /// False: [`ViewKeeper::lease_end`] is the careful guess.
    pub fn is_lease_known(&self) -> bool {
        self.lease_end.is_some()
    }

    pub fn freshness(&self, now: Instant) -> Freshness {
        match self.confirmed_at {
            None => Freshness::Never,
            Some(at) if now < at + FRESH_FOR => Freshness::Fresh { until: at + FRESH_FOR },
            Some(at) => Freshness::Lost { since: at + FRESH_FOR },
        }
    }

    /// Judges a view that arrived at `now`.
    pub fn offer(&mut self, view: Arc<ClusterView>, source: &ViewSource, now: Instant) -> Verdict {
        match source {
            ViewSource::Watch => self.offer_watched(view, now),
            ViewSource::Read { sent_at, lease_left } => self.offer_read(view, *sent_at, *lease_left, now),
        }
    }

    fn offer_watched(&mut self, view: Arc<ClusterView>, now: Instant) -> Verdict {
        match &self.current {
            Some(current) if current.cluster_id == view.cluster_id && view.revision > current.revision => {
                if lease_of(current) != lease_of(&view) {
                    self.lease_end = None;
                }
                self.current = Some(view);
                self.known_at = Some(now);
                Verdict::Accepted
            }
            _ => Verdict::Ignored,
        }
    }

    fn offer_read(
        &mut self,
        view: Arc<ClusterView>,
        sent_at: Instant,
        lease_left: Option<Duration>,
        now: Instant,
    ) -> Verdict {
        let Some(current) = self.current.clone() else {
            self.take(view, sent_at, lease_left, now);
            return Verdict::Accepted;
        };
        if view.cluster_id != current.cluster_id {
            self.take(view, sent_at, lease_left, now);
            return Verdict::Replaced;
        }
        if view.revision < current.revision {
            return self.offer_lower(view, sent_at, lease_left, now);
        }
        let verdict = if *view == *current { Verdict::Refreshed } else { Verdict::Accepted };
        self.take(view, sent_at, lease_left, now);
        verdict
    }

    /// A read that was already under way when a watch event told something newer is no sign of
    /// trouble: nothing was missed when it was sent. One sent later must know at least as much.
    fn offer_lower(
        &mut self,
        view: Arc<ClusterView>,
        sent_at: Instant,
        lease_left: Option<Duration>,
        now: Instant,
    ) -> Verdict {
        if self.known_at.is_some_and(|known| sent_at <= known) {
            self.confirmed_at = self.confirmed_at.max(Some(sent_at));
            return Verdict::Refreshed;
        }
        self.lower_reads += 1;
        if self.lower_reads < LOWER_READS_MAX {
            return Verdict::Ignored;
        }
        self.take(view, sent_at, lease_left, now);
        Verdict::Replaced
    }

    fn take(&mut self, view: Arc<ClusterView>, sent_at: Instant, lease_left: Option<Duration>, now: Instant) {
        let known = self.current.as_ref();
        let same_lease = known.is_some_and(|current| lease_of(current) == lease_of(&view));
        let newer = known.is_none_or(|current| current.revision != view.revision);
        match lease_left {
            Some(left) => self.lease_end = Some(sent_at + left),
            None if same_lease => {}
            None => self.lease_end = None,
        }
        if newer {
            self.known_at = Some(now);
        }
        // The same read is told twice when the answer about the lease comes late.
        let replaced = known.is_some_and(|current| current.cluster_id != view.cluster_id) || self.lower_reads > 0;
        self.confirmed_at = if replaced { Some(sent_at) } else { self.confirmed_at.max(Some(sent_at)) };
        self.lower_reads = 0;
        self.current = Some(view);
    }
}

fn lease_of(view: &ClusterView) -> Option<(&str, i64)> {
    view.leader.as_ref().map(|l| (l.name.as_str(), l.lease))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LeaderKey;
    use crate::runtime::clock;

    fn view(cluster_id: u64, revision: i64, leader: &str) -> Arc<ClusterView> {
        let leader = LeaderKey { name: leader.into(), create_revision: 1, lease: 7 };
        Arc::new(ClusterView { cluster_id, revision, leader: Some(leader), ..ClusterView::default() })
    }

    fn read(sent_at: Instant) -> ViewSource {
        ViewSource::Read { sent_at, lease_left: Some(Duration::from_secs(20)) }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_reads_keep_a_view_fresh() {
        let start = clock::now();
        let mut keeper = ViewKeeper::default();
        assert_eq!(keeper.freshness(start), Freshness::Never);
        assert_eq!(keeper.offer(view(1, 5, "a"), &ViewSource::Watch, start), Verdict::Ignored);
        assert_eq!(keeper.offer(view(1, 5, "a"), &read(start), start), Verdict::Accepted);
        assert_eq!(keeper.offer(view(1, 6, "b"), &ViewSource::Watch, start + SECOND), Verdict::Accepted);
        assert_eq!(keeper.freshness(start + 2 * SECOND), Freshness::Lost { since: start + 2 * SECOND });
        assert_eq!(keeper.current().unwrap().leader.as_ref().unwrap().name.as_str(), "b");
    }

    #[test]
    fn an_equal_read_refreshes_and_moves_the_lease() {
        let start = clock::now();
        let mut keeper = ViewKeeper::default();
        keeper.offer(view(1, 5, "a"), &read(start), start);
        assert_eq!(keeper.offer(view(1, 5, "a"), &read(start + SECOND), start + SECOND), Verdict::Refreshed);
        assert_eq!(keeper.freshness(start + 2 * SECOND), Freshness::Fresh { until: start + 3 * SECOND });
        assert_eq!(keeper.lease_end(), Some(start + 21 * SECOND));
    }

    #[test]
    fn a_read_overtaken_by_the_watch_is_not_a_step_back() {
        let start = clock::now();
        let mut keeper = ViewKeeper::default();
        keeper.offer(view(1, 5, "a"), &read(start), start);
        for round in 1..4 {
            let sent = start + round * SECOND;
            let told = sent + SECOND / 100;
            keeper.offer(view(1, 5 + i64::from(round), "a"), &ViewSource::Watch, told);
            let verdict = keeper.offer(view(1, 4 + i64::from(round), "a"), &read(sent), told + SECOND / 100);
            assert_eq!(verdict, Verdict::Refreshed);
        }
    }

    #[test]
    fn two_reads_from_the_past_mean_a_replaced_dcs() {
        let start = clock::now();
        let mut keeper = ViewKeeper::default();
        keeper.offer(view(1, 50, "a"), &read(start), start);
        let verdicts: Vec<_> =
            (1..3).map(|n| keeper.offer(view(1, 20, "b"), &read(start + n * SECOND), start + n * SECOND)).collect();
        assert_eq!(verdicts, [Verdict::Ignored, Verdict::Replaced]);
        assert_eq!(keeper.current().unwrap().revision, 20);
    }

    #[test]
    fn another_cluster_id_means_a_replaced_dcs() {
        let start = clock::now();
        let mut keeper = ViewKeeper::default();
        keeper.offer(view(1, 50, "a"), &read(start), start);
        assert_eq!(keeper.offer(view(2, 90, "a"), &ViewSource::Watch, start), Verdict::Ignored);
        assert_eq!(keeper.offer(view(2, 3, "a"), &read(start + SECOND), start + SECOND), Verdict::Replaced);
    }

    #[test]
    fn a_new_leader_does_not_inherit_the_old_lease() {
        let start = clock::now();
        let mut keeper = ViewKeeper::default();
        keeper.offer(view(1, 5, "a"), &read(start), start);
        keeper.offer(view(1, 6, "b"), &ViewSource::Watch, start);
        assert_eq!(keeper.lease_end(), Some(start + FRESH_FOR));
    }
}
