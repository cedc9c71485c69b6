//! The sessions of one service to each of its members: their common fence, and what was counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use crate::decide::Target;
use crate::decide::status::TargetSnapshot;
use crate::model::MemberName;

use super::fence::Fence;
use super::guard::Shared;
use super::service::Service;

/// Members of one service whose counters are kept. Targets and members with sessions always are; of
/// the others those go first that were used longest ago.
pub const MEMBERS_MAX: usize = 256;

/// What one service counted of one member.
#[derive(Debug, Default)]
pub struct TargetCounters {
    open: AtomicUsize,
    most: AtomicUsize,
    pub(super) sessions_total: AtomicU64,
    pub(super) bytes_to_server: AtomicU64,
    pub(super) bytes_to_client: AtomicU64,
    pub(super) connects_failed: AtomicU64,
}

impl TargetCounters {
    /// Open sessions.
    pub fn open(&self) -> usize {
        self.open.load(Acquire)
    }

    pub(super) fn enter(&self) {
        let open = self.open.fetch_add(1, Relaxed) + 1;
        self.most.fetch_max(open, Relaxed);
    }

    pub(super) fn leave(&self) {
        self.open.fetch_sub(1, Release);
    }

    fn snapshot(&self, member: &MemberName) -> TargetSnapshot {
        TargetSnapshot {
            member: member.clone(),
            sessions: self.open(),
            sessions_most: self.most.load(Relaxed),
            sessions_total: self.sessions_total.load(Relaxed),
            bytes_to_server: self.bytes_to_server.load(Relaxed),
            bytes_to_client: self.bytes_to_client.load(Relaxed),
            connects_failed: self.connects_failed.load(Relaxed),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Group {
    /// Of sessions that open now.
    pub fence: Arc<Fence>,
    /// Of those that were asked to end and have not: never more than there are open sessions.
    draining: Vec<Arc<Fence>>,
    pub counters: Arc<TargetCounters>,
    /// Of the session that opened last.
    shared: Option<Arc<Shared>>,
    last_used: u64,
}

impl Group {
    /// For a session that opens now: the same as for the one before, unless something of it has changed since.
    pub fn shared(
        &mut self,
        service: &Arc<Service>,
        target: &Arc<Target>,
        make: impl FnOnce(Arc<Fence>, Arc<TargetCounters>) -> Shared,
    ) -> Arc<Shared> {
        let is_same = |of: &&Arc<Shared>| {
            Arc::ptr_eq(&of.fence, &self.fence)
                && Arc::ptr_eq(&of.service, service)
                && (Arc::ptr_eq(&of.target, target) || of.target.is_same_as(target))
        };
        if let Some(shared) = self.shared.as_ref().filter(is_same) {
            return shared.clone();
        }
        let shared = Arc::new(make(self.fence.clone(), self.counters.clone()));
        self.shared = Some(shared.clone());
        shared
    }

    /// Every fence that a session looks at. Sessions that open from now on get another.
    pub fn take_fences(&mut self) -> Vec<Arc<Fence>> {
        self.shared = None;
        let mut fences = std::mem::take(&mut self.draining);
        fences.push(std::mem::take(&mut self.fence));
        fences
    }

    /// The same, and they stay.
    pub fn fences(&self) -> Vec<Arc<Fence>> {
        self.draining.iter().chain([&self.fence]).cloned().collect()
    }

    /// The fence of those who are asked to end; later closes find it. Sessions that open from now on get
    /// another.
    pub fn drain_fence(&mut self) -> Arc<Fence> {
        self.shared = None;
        // Nobody gets hold of a fence in this list any more, so one that nobody holds stays so.
        self.draining.retain(|fence| Arc::strong_count(fence) > 1);
        let fence = std::mem::take(&mut self.fence);
        self.draining.push(fence.clone());
        fence
    }
}

/// All members of one service.
#[derive(Debug, Default)]
pub(super) struct Groups {
    members: HashMap<MemberName, Group>,
    uses: u64,
}

impl Groups {
    pub fn of(&mut self, member: &MemberName) -> &mut Group {
        self.uses += 1;
        let group = self.members.entry(member.clone()).or_default();
        group.last_used = self.uses;
        group
    }

    pub fn open_to(&self, member: &str) -> usize {
        self.members.get(member).map_or(0, |group| group.counters.open())
    }

    pub fn open(&self) -> usize {
        self.members.values().map(|group| group.counters.open()).sum()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&MemberName, &mut Group)> {
        self.members.iter_mut()
    }

    /// In order of names.
    pub fn snapshot(&self) -> Vec<TargetSnapshot> {
        let mut targets: Vec<_> = self.members.iter().map(|(member, group)| group.counters.snapshot(member)).collect();
        targets.sort_by(|a, b| a.member.cmp(&b.member));
        targets
    }

    /// Forgets members beyond [`MEMBERS_MAX`], and returns their bytes to the server and to the
    /// client: a sum must not shrink.
    pub fn forget(&mut self, is_target: impl Fn(&MemberName) -> bool) -> (u64, u64) {
        let mut forgotten = (0, 0);
        if self.members.len() <= MEMBERS_MAX {
            return forgotten;
        }
        let is_idle = |(member, group): &(&MemberName, &Group)| group.counters.open() == 0 && !is_target(member);
        let idle = self.members.iter().filter(is_idle);
        let mut idle: Vec<_> = idle.map(|(member, group)| (group.last_used, member.clone())).collect();
        idle.sort();
        for (_, member) in idle.into_iter().take(self.members.len() - MEMBERS_MAX) {
            if let Some(Group { counters, .. }) = self.members.remove(&member) {
                forgotten.0 += counters.bytes_to_server.load(Relaxed);
                forgotten.1 += counters.bytes_to_client.load(Relaxed);
            }
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drained_fences_are_known_until_nobody_looks_at_them() {
        let mut group = Group::default();
        let slow = group.fence.clone();
        for _ in 0..100 {
            group.drain_fence();
        }
        assert_eq!(group.draining.len(), 2, "the slow one's, and the last");
        let fences = group.take_fences();
        assert!(fences.iter().any(|fence| Arc::ptr_eq(fence, &slow)));
        assert_eq!((fences.len(), group.draining.len()), (3, 0));
    }

    #[test]
    fn members_that_come_and_go_for_years_do_not_pile_up_and_no_byte_is_lost() {
        let mut groups = Groups::default();
        let name = |number: usize| MemberName::from(format!("m{number}").as_str());
        for number in 0..MEMBERS_MAX + 10 {
            let group = groups.of(&name(number));
            group.counters.bytes_to_client.fetch_add(1, Relaxed);
        }
        groups.of(&name(0)).counters.enter();
        // Neither the one with a session, nor the target, nor those used last.
        assert_eq!(groups.forget(|member| *member == name(1)), (0, 10));
        let kept: Vec<_> = groups.snapshot().into_iter().map(|target| target.member).collect();
        assert_eq!(kept.len(), MEMBERS_MAX);
        let gone = (0..MEMBERS_MAX + 10).filter(|number| !kept.contains(&name(*number)));
        assert_eq!(gone.collect::<Vec<_>>(), (2..12).collect::<Vec<_>>());
    }
}
