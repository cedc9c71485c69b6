//! Which DCS session serves which clusters, and how one takes over from another.
//!
//! Clusters with equal access (addresses, secrets and certificates by their content) share a session.
//! One whose access and clusters stay the same is kept; any other is replaced by a session that begins
//! before the old one ends.
//!
//! **Nothing of a dropped session is acted upon after something of its successor.** Each cluster has an
//! [`Ear`] that takes views from the newest session it ever heard a view from and from no older one, so
//! what an old session still had to say ends with the successor's first view. What stands in the
//! machine's mailbox before that view is harmless: of the same etcd it is judged by its revision, and a
//! read proves freshness from the moment it was sent, no longer; of another etcd it is what the machine
//! believed anyway, and the successor's first view replaces it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use crate::dcs::DcsEvent;
use crate::dcs::etcd::{self, EtcdAccess, Handle, Subscription};
use crate::dcs::place::Place;
use crate::decide::Event;

use super::clock;

/// How long an old session goes on while its successor cannot read: long enough for an election of
/// etcd, short enough that an address that is wrong shows as one.
const HANDOVER_MAX: Duration = Duration::from_secs(10);

/// When something went wrong with the DCS, at which endpoint, what.
pub type Trouble = (Instant, String, String);

/// Where one cluster hears of its DCS.
#[derive(Debug)]
pub struct Ear {
    sender: mpsc::Sender<Event>,
    trouble: Mutex<Option<Trouble>>,
    /// The newest session that told a view.
    heard: AtomicU64,
    first_view: Notify,
}

impl Ear {
    pub fn new(sender: mpsc::Sender<Event>) -> Ear {
        Ear { sender, trouble: Mutex::default(), heard: AtomicU64::new(0), first_view: Notify::new() }
    }

    pub fn trouble(&self) -> Option<Trouble> {
        self.trouble.lock().clone()
    }

    fn hear(&self, session: u64, event: DcsEvent) {
        if self.heard.load(Relaxed) > session {
            return;
        }
        match event {
            DcsEvent::View { view, source } => {
                if self.heard.swap(session, Relaxed) < session {
                    self.first_view.notify_waiters();
                }
                if self.sender.try_send(Event::View { view, source }).is_err() {
                    // The next read, within a second, tells all of it again.
                    tracing::warn!(target: "pgvane::dcs", "the driver's mailbox is full; a view was dropped");
                }
            }
            DcsEvent::Trouble { endpoint, problem } => {
                tracing::warn!(target: "pgvane::dcs", endpoint, problem, "etcd");
                *self.trouble.lock() = Some((clock::now(), endpoint, problem));
            }
        }
    }

    /// Hears of no session that there was before this call.
    fn close_to(&self, session: u64) {
        self.heard.fetch_max(session, Relaxed);
    }

    async fn until_heard(&self, session: u64) {
        loop {
            let view = self.first_view.notified();
            if self.heard.load(Relaxed) >= session {
                return;
            }
            view.await;
        }
    }
}

/// One cluster that is to be followed.
pub struct Wanted {
    /// The running cluster's own number.
    pub cluster: u64,
    pub prefix: String,
    /// None: it has no DCS.
    pub access: Option<EtcdAccess>,
    pub ear: Arc<Ear>,
}

struct Session {
    number: u64,
    access: EtcdAccess,
    clusters: BTreeSet<u64>,
    handle: Arc<Handle>,
}

/// The sessions of all clusters that are configured now. Those of removed clusters live by the handles
/// that their drivers hold.
#[derive(Default)]
pub struct Sessions {
    current: Vec<Session>,
    last_number: u64,
}

impl Sessions {
    /// Sees to it that these clusters are followed and no others. Returns whom each of them asks to read
    /// at once.
    pub fn arrange(&mut self, wanted: Vec<Wanted>) -> BTreeMap<u64, Arc<Handle>> {
        let mut before = std::mem::take(&mut self.current);
        let mut successors = Vec::new();
        for (access, clusters) in shared(wanted, self.last_number + 1) {
            let ids: BTreeSet<u64> = clusters.iter().map(|wanted| wanted.cluster).collect();
            let same = before.iter().position(|session| session.access == access && session.clusters == ids);
            let session = match same {
                Some(at) => before.swap_remove(at),
                None => {
                    self.last_number += 1;
                    let number = self.last_number;
                    successors.extend(clusters.iter().map(|wanted| (wanted.ear.clone(), number)));
                    Session { number, clusters: ids, handle: Arc::new(start(number, &access, clusters)), access }
                }
            };
            self.current.push(session);
        }
        tokio::spawn(hand_over(before, successors));
        let handles = |session: &Session| {
            let handle = session.handle.clone();
            session.clusters.iter().map(move |cluster| (*cluster, handle.clone())).collect::<Vec<_>>()
        };
        self.current.iter().flat_map(handles).collect()
    }
}

/// Clusters by their access; those without one turn deaf to everything before session `next`.
fn shared(wanted: Vec<Wanted>, next: u64) -> Vec<(EtcdAccess, Vec<Wanted>)> {
    let mut shared: Vec<(EtcdAccess, Vec<Wanted>)> = Vec::new();
    for one in wanted {
        let Some(access) = one.access.clone() else {
            one.ear.close_to(next);
            continue;
        };
        match shared.iter_mut().find(|(other, _)| *other == access) {
            Some((_, clusters)) => clusters.push(one),
            None => shared.push((access, vec![one])),
        }
    }
    shared
}

fn start(number: u64, access: &EtcdAccess, clusters: Vec<Wanted>) -> Handle {
    let subscription = |(id, wanted): (usize, &Wanted)| Subscription { place: Place::below(&wanted.prefix), id };
    let subscriptions = clusters.iter().enumerate().map(subscription).collect();
    let ears: Vec<Arc<Ear>> = clusters.into_iter().map(|wanted| wanted.ear).collect();
    etcd::spawn(access.clone(), subscriptions, move |id, event| {
        if let Some(ear) = ears.get(id) {
            ear.hear(number, event);
        }
    })
}

/// Keeps the old sessions until the new ones were heard everywhere.
async fn hand_over(old: Vec<Session>, successors: Vec<(Arc<Ear>, u64)>) {
    if old.is_empty() {
        return;
    }
    let heard = async {
        for (ear, session) in &successors {
            ear.until_heard(*session).await;
        }
    };
    if tokio::time::timeout(HANDOVER_MAX, heard).await.is_err() {
        let endpoints: Vec<&str> = old.iter().flat_map(|old| &old.access.endpoints).map(String::as_str).collect();
        tracing::warn!(
            target: "pgvane::reload", old = endpoints.join(","), seconds = HANDOVER_MAX.as_secs(),
            "etcd as configured now could not be read for all clusters; the old session ends all the same"
        );
    }
    for session in old {
        tracing::debug!(target: "pgvane::reload", session = session.number, "a DCS session ends");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::ViewSource;
    use crate::model::ClusterView;

    fn view(revision: i64) -> DcsEvent {
        let view = ClusterView { revision, ..ClusterView::default() };
        DcsEvent::View { view: Arc::new(view), source: ViewSource::Watch }
    }

    fn revisions(mailbox: &mut mpsc::Receiver<Event>) -> Vec<i64> {
        let mut all = Vec::new();
        while let Ok(Event::View { view, .. }) = mailbox.try_recv() {
            all.push(view.revision);
        }
        all
    }

    fn access(host: &str) -> EtcdAccess {
        EtcdAccess { endpoints: vec![format!("http://{host}:1")], ..EtcdAccess::default() }
    }

    fn wanted(cluster: u64, access: Option<EtcdAccess>) -> Wanted {
        let (sender, _) = mpsc::channel(8);
        Wanted { cluster, prefix: format!("/service/{cluster}/"), access, ear: Arc::new(Ear::new(sender)) }
    }

    #[test]
    fn an_old_session_is_heard_until_its_successor_speaks() {
        let (sender, mut mailbox) = mpsc::channel(8);
        let ear = Ear::new(sender);
        ear.hear(1, view(10));
        let trouble = DcsEvent::Trouble { endpoint: "e2".to_owned(), problem: "not yet".to_owned() };
        ear.hear(2, trouble);
        ear.hear(1, view(11));
        ear.hear(2, view(12));
        ear.hear(1, view(13));
        ear.hear(2, view(14));
        assert_eq!(revisions(&mut mailbox), [10, 11, 12, 14]);
        assert!(ear.trouble().is_some());
    }

    #[tokio::test]
    async fn a_session_is_kept_only_with_the_same_access_and_the_same_clusters() {
        let mut sessions = Sessions::default();
        let one = |sessions: &mut Sessions, all: Vec<Wanted>| sessions.arrange(all).remove(&1).unwrap();
        let first = one(&mut sessions, vec![wanted(1, Some(access("e"))), wanted(2, Some(access("e")))]);
        let again = one(&mut sessions, vec![wanted(2, Some(access("e"))), wanted(1, Some(access("e")))]);
        assert!(Arc::ptr_eq(&first, &again));
        let fewer = one(&mut sessions, vec![wanted(1, Some(access("e")))]);
        assert!(!Arc::ptr_eq(&first, &fewer));
        let secret = EtcdAccess { username: Some("u".to_owned()), password: Some("p".to_owned()), ..access("e") };
        let other = one(&mut sessions, vec![wanted(1, Some(secret))]);
        assert!(!Arc::ptr_eq(&fewer, &other));
        assert_eq!(sessions.current.len(), 1);
    }

    #[tokio::test]
    async fn an_old_session_ends_when_its_successor_was_heard_and_not_before() {
        let (sender, mut mailbox) = mpsc::channel(8);
        let ear = Arc::new(Ear::new(sender));
        let mut sessions = Sessions::default();
        let wanted =
            |host: &str| Wanted { cluster: 1, prefix: "/a/".to_owned(), access: Some(access(host)), ear: ear.clone() };
        let old = Arc::downgrade(&sessions.arrange(vec![wanted("old")]).remove(&1).unwrap());
        sessions.arrange(vec![wanted("new")]);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(old.upgrade().is_some());
        ear.hear(sessions.current[0].number, view(1));
        while old.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
        assert_eq!(revisions(&mut mailbox), [1]);
    }

    #[tokio::test]
    async fn a_cluster_without_a_dcs_hears_nothing_more_of_it() {
        let (sender, mut mailbox) = mpsc::channel(8);
        let ear = Arc::new(Ear::new(sender));
        let mut sessions = Sessions::default();
        let wanted = |access| Wanted { cluster: 1, prefix: "/a/".to_owned(), access, ear: ear.clone() };
        assert_eq!(sessions.arrange(vec![wanted(Some(access("e")))]).len(), 1);
        let first = sessions.current[0].number;
        assert!(sessions.arrange(vec![wanted(None)]).is_empty());
        ear.hear(first, view(10));
        assert!(revisions(&mut mailbox).is_empty());
        // With a DCS again, it does.
        sessions.arrange(vec![wanted(Some(access("e")))]);
        ear.hear(sessions.current[0].number, view(11));
        assert_eq!(revisions(&mut mailbox), [11]);
    }
}
