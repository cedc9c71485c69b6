//! What a new configuration changes, as a value. Nothing is done here.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::config::{Cluster, Config};
use crate::model::{HostPort, VipSpec};

/// Where a cluster of the new configuration comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Added,
    /// It is number `old` of the old configuration; `changed` when it is written differently there.
    Kept {
        old: usize,
        changed: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Diff {
    /// Of each new cluster, in the order of the new configuration.
    pub clusters: Vec<Origin>,
    /// Old clusters that the new configuration does not have.
    pub removed: Vec<usize>,
    pub admin_added: Vec<HostPort>,
    pub admin_removed: Vec<HostPort>,
    /// Virtual addresses that were not there, or on another interface.
    pub vips_added: Vec<Arc<VipSpec>>,
    pub vips_changed: usize,
    pub vips_removed: usize,
    /// Whose orders are taken.
    pub orders: bool,
    pub log: bool,
    pub shutdown: bool,
    pub state_file: bool,
    pub splice: bool,
}

impl Diff {
    /// Without an old configuration everything is new.
    pub fn new(old: Option<&Config>, new: &Config) -> Diff {
        let before = old.map_or(&[][..], |config| &config.clusters);
        let origins = origins(before, &new.clusters);
        let kept: BTreeSet<usize> = origins.iter().flatten().copied().collect();
        let origin = |(index, old): (usize, &Option<usize>)| match *old {
            Some(old) => Origin::Kept { old, changed: before[old] != new.clusters[index] },
            None => Origin::Added,
        };
        let listened = |config: &Config| config.admin.as_ref().map_or_else(Vec::new, |admin| admin.listen.clone());
        let (was, is) = (old.map_or_else(Vec::new, listened), listened(new));
        let without = |all: &[HostPort], others: &[HostPort]| -> Vec<HostPort> {
            all.iter().filter(|at| !others.contains(at)).cloned().collect()
        };
        let vips = old.map_or(&[][..], |config| &config.vips);
        let before_of = |new: &VipSpec| vips.iter().find(|old| is_same_vip(old, new));
        let orders = |config: &Config| config.admin.as_ref().map(|admin| admin.orders);
        Diff {
            clusters: origins.iter().enumerate().map(origin).collect(),
            removed: (0..before.len()).filter(|index| !kept.contains(index)).collect(),
            admin_added: without(&is, &was),
            admin_removed: without(&was, &is),
            vips_added: new.vips.iter().filter(|vip| before_of(vip).is_none()).cloned().collect(),
            vips_changed: new.vips.iter().filter(|vip| before_of(vip).is_some_and(|old| old != *vip)).count(),
            vips_removed: vips.iter().filter(|old| !new.vips.iter().any(|new| is_same_vip(old, new))).count(),
            orders: old.is_some_and(|old| orders(old) != orders(new)),
            log: old.is_some_and(|old| old.log != new.log),
            shutdown: old.is_some_and(|old| old.shutdown != new.shutdown),
            state_file: old.is_some_and(|old| old.state_file != new.state_file),
            splice: old.is_some_and(|old| old.splice != new.splice),
        }
    }
}

/// For people, without what stayed the same.
impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |wanted: fn(&Origin) -> bool| self.clusters.iter().filter(|origin| wanted(origin)).count();
        let counted = [
            (count(|origin| *origin == Origin::Added), "clusters added"),
            (count(|origin| matches!(origin, Origin::Kept { changed: true, .. })), "clusters changed"),
            (self.removed.len(), "clusters removed"),
            (self.admin_added.len(), "admin listeners added"),
            (self.admin_removed.len(), "admin listeners removed"),
            (self.vips_added.len(), "virtual addresses added"),
            (self.vips_changed, "virtual addresses changed"),
            (self.vips_removed, "virtual addresses removed"),
        ];
        let named = [
            (self.orders, "admin.orders changed"),
            (self.log, "log changed"),
            (self.shutdown, "shutdown changed"),
            (self.state_file, "state_file changed"),
            (self.splice, "splice changed"),
        ];
        let counted = counted.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{what}: {n}"));
        let words: Vec<String> =
            counted.chain(named.iter().filter(|(is, _)| *is).map(|(_, what)| (*what).to_owned())).collect();
        if words.is_empty() { f.write_str("nothing changed") } else { f.write_str(&words.join(", ")) }
    }
}

/// The same address in the same place.
fn is_same_vip(old: &VipSpec, new: &VipSpec) -> bool {
    old.address.ip == new.address.ip && old.interface == new.interface
}

/// Which old cluster each new one is. A cluster is its prefix in the DCS, not its name: a new `alias`
/// costs nobody a session. Where several have one prefix, the best likeness wins; with one prefix and
/// other endpoints it is still the same cluster, whose etcd moved: its machine finds out by itself
/// whether that is another etcd, and then holds and proves anew.
fn origins(old: &[Cluster], new: &[Cluster]) -> Vec<Option<usize>> {
    const LIKENESSES: [fn(&Cluster, &Cluster) -> bool; 5] = [
        |a, b| endpoints(a) == endpoints(b) && a.spec.name == b.spec.name,
        |a, b| endpoints(a) == endpoints(b),
        |a, b| endpoints(a).intersection(&endpoints(b)).next().is_some(),
        |a, b| a.spec.name == b.spec.name,
        // The only ones left over.
        |_, _| true,
    ];
    let mut found: Vec<Option<usize>> = vec![None; new.len()];
    for (step, alike) in LIKENESSES.iter().enumerate() {
        for index in 0..new.len() {
            if found[index].is_some() {
                continue;
            }
            let prefix = new[index].spec.prefix();
            let fits = |at: &usize| old[*at].spec.prefix() == prefix && !found.contains(&Some(*at));
            let left: Vec<usize> = (0..old.len()).filter(fits).collect();
            let rivals = (0..new.len()).filter(|at| found[*at].is_none() && new[*at].spec.prefix() == prefix).count();
            let last = step + 1 == LIKENESSES.len();
            if last && (!is_alone(old, &prefix) || !is_alone(new, &prefix) || left.len() != 1 || rivals != 1) {
                continue;
            }
            found[index] = left.into_iter().find(|at| alike(&old[*at], &new[index]));
        }
    }
    found
}

fn is_alone(clusters: &[Cluster], prefix: &str) -> bool {
    clusters.iter().filter(|cluster| cluster.spec.prefix() == prefix).count() == 1
}

fn endpoints(cluster: &Cluster) -> BTreeSet<&str> {
    cluster.etcd.iter().flat_map(|etcd| &etcd.endpoints).map(String::as_str).collect()
}

/// Under which name the state file knows a cluster: its prefix, and where several have the same prefix
/// its etcd's endpoints, too (its name where it has no etcd), because nobody may be served by what
/// another cluster left behind.
pub fn memory_key(cluster: &Cluster, all: &[Cluster]) -> String {
    let prefix = cluster.spec.prefix();
    if is_alone(all, &prefix) {
        return prefix;
    }
    match &cluster.etcd {
        Some(etcd) => format!("{prefix} {}", etcd.endpoints.join(",")),
        None => format!("{prefix} {}", cluster.spec.name),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{Admin, EtcdSpec, LogSpec, OrdersFrom, Shutdown, TlsFiles};
    use crate::model::service::CheckTiming;
    use crate::model::{ClusterSpec, OnDcsLoss, Splice, Trust};

    /// `name=scope@etcd1,etcd2`; without an etcd it is one of `trust: rest`.
    fn cluster(text: &str) -> Cluster {
        let (name, rest) = text.split_once('=').unwrap_or((text, text));
        let (scope, etcd) = rest.split_once('@').map_or((rest, None), |(scope, etcd)| (scope, Some(etcd)));
        let scope = if name == rest { scope.split('@').next().unwrap() } else { scope };
        let name = name.split('@').next().unwrap();
        let spec = ClusterSpec {
            name: name.into(),
            scope: scope.into(),
            namespace: "service".to_owned(),
            group: None,
            trust: if etcd.is_some() { Trust::Confirm } else { Trust::Rest },
            on_dcs_loss: OnDcsLoss::Keep,
            check: CheckTiming::default(),
            members: Default::default(),
            services: Vec::new(),
        };
        let endpoints = |etcd: &str| etcd.split(',').map(|host| format!("http://{host}:2379")).collect();
        let etcd = etcd.map(|etcd| EtcdSpec { endpoints: endpoints(etcd), ..EtcdSpec::default() });
        Cluster { spec: Arc::new(spec), etcd, patroni_tls: None }
    }

    fn config(clusters: &[&str]) -> Config {
        Config {
            state_file: None,
            log: LogSpec::default(),
            shutdown: Shutdown::default(),
            admin: None,
            splice: Splice::Auto,
            clusters: clusters.iter().map(|text| cluster(text)).collect(),
            vips: Vec::new(),
        }
    }

    fn old_ones(old: &[&str], new: &[&str]) -> Vec<Option<usize>> {
        origins(&config(old).clusters, &config(new).clusters)
    }

    #[test]
    fn an_equal_file_changes_nothing() {
        let config = config(&["a@e1", "b@e1", "c"]);
        let diff = Diff::new(Some(&config), &config);
        assert!(diff.clusters.iter().all(|origin| matches!(origin, Origin::Kept { changed: false, .. })));
        assert_eq!(diff.to_string(), "nothing changed");
    }

    #[test]
    fn at_the_start_everything_is_new() {
        let mut new = config(&["a@e1"]);
        new.admin = Some(Admin { listen: vec![HostPort::new("*", 7000)], orders: OrdersFrom::Nobody });
        let diff = Diff::new(None, &new);
        assert_eq!((diff.clusters, diff.removed.len()), (vec![Origin::Added], 0));
        assert_eq!(diff.admin_added, [HostPort::new("*", 7000)]);
    }

    #[test]
    fn clusters_come_and_go_in_any_order() {
        let diff = Diff::new(Some(&config(&["a@e1", "b@e1", "c@e1"])), &config(&["c@e1", "d@e1", "a@e2"]));
        assert_eq!(
            diff.clusters,
            [Origin::Kept { old: 2, changed: false }, Origin::Added, Origin::Kept { old: 0, changed: true }]
        );
        assert_eq!(diff.removed, [1]);
        assert_eq!(diff.to_string(), "clusters added: 1, clusters changed: 1, clusters removed: 1");
    }

    #[test]
    fn a_new_alias_is_the_same_cluster() {
        assert_eq!(old_ones(&["a=x@e1"], &["b=x@e1"]), [Some(0)]);
        assert_eq!(old_ones(&["a=x@e1", "b=x@e2"], &["c=x@e2", "d=x@e1"]), [Some(1), Some(0)]);
    }

    #[test]
    fn clusters_of_one_prefix_are_told_apart_by_their_etcds() {
        assert_eq!(
            old_ones(&["a=x@e1", "b=x@e2"], &["b=x@e1", "a=x@e2"]),
            [Some(0), Some(1)],
            "the names changed places"
        );
        assert_eq!(old_ones(&["a=x@e1,e2", "b=x@e4"], &["b=x@e4,e5", "a=x@e2,e3"]), [Some(1), Some(0)]);
        assert_eq!(old_ones(&["a=x@e1", "b=x@e2"], &["a=x@e9"]), [Some(0)], "by name");
        assert_eq!(old_ones(&["a=x@e1"], &["b=x@e2", "a=x@e1"]), [None, Some(0)]);
        assert_eq!(old_ones(&["a=x@e1", "b=x@e2"], &["c=x@e9"]), [None], "nothing tells which one it was");
    }

    #[test]
    fn an_etcd_that_moved_is_no_other_cluster() {
        assert_eq!(old_ones(&["a@e1"], &["a@e7,e8"]), [Some(0)]);
        assert_eq!(old_ones(&["a=x@e1"], &["b=x@e7"]), [Some(0)]);
    }

    #[test]
    fn another_trust_is_no_other_cluster() {
        assert_eq!(old_ones(&["a@e1"], &["a"]), [Some(0)]);
        assert_eq!(old_ones(&["a=x", "b=x"], &["b=x", "a=x"]), [Some(1), Some(0)]);
    }

    #[test]
    fn what_is_around_the_clusters_is_compared_piece_by_piece() {
        let (mut old, mut new) = (config(&["a@e1"]), config(&["a@e1"]));
        let admin = |ports: &[u16], orders| {
            Some(Admin { listen: ports.iter().map(|port| HostPort::new("*", *port)).collect(), orders })
        };
        old.admin = admin(&[7000, 7001], OrdersFrom::Nobody);
        new.admin = admin(&[7001, 7002], OrdersFrom::Loopback);
        new.state_file = Some("/var/lib/pgvane/state.json".into());
        new.shutdown.drain *= 2;
        new.clusters[0].patroni_tls = Some(TlsFiles::default());
        let diff = Diff::new(Some(&old), &new);
        assert_eq!(diff.clusters, [Origin::Kept { old: 0, changed: true }]);
        assert_eq!(
            (diff.admin_added, diff.admin_removed),
            (vec![HostPort::new("*", 7002)], vec![HostPort::new("*", 7000)])
        );
        assert!(diff.orders && diff.shutdown && diff.state_file && !diff.log);
    }

    #[test]
    fn another_way_for_bulk_data_is_told_by_its_key() {
        let (old, mut new) = (config(&["a@e1"]), config(&["a@e1"]));
        new.splice = Splice::Off;
        assert_eq!(Diff::new(Some(&old), &new).to_string(), "splice changed");
        assert!(!Diff::new(None, &new).splice);
    }

    #[test]
    fn clusters_of_one_prefix_do_not_share_a_memory() {
        let keys = |texts: &[&str]| -> BTreeSet<String> {
            let config = config(texts);
            config.clusters.iter().map(|cluster| memory_key(cluster, &config.clusters)).collect()
        };
        assert_eq!(keys(&["a=x@e1", "b=x@e2"]).len(), 2);
        assert_eq!(keys(&["a=x", "b=x", "c=x@e1"]).len(), 3);
        assert_eq!(keys(&["a@e1", "b"]), ["/service/a/", "/service/b/"].map(str::to_owned).into());
    }
}
