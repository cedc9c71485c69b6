//! The slots of each target under `maxconn`, and who is on the way to one.
//!
//! A session holds one pointer here, whatever its target is called. Counts change without a lock; they are
//! compared with a limit, and taken, under the lock of the line (see [`super::queue`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use super::CONNECTS_IN_FLIGHT_MAX;
use crate::decide::Target;
use crate::model::MemberName;
use crate::proxy::sessions::{Registry, Service};

/// What one service has going on at one member.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Slots {
    /// Sessions, and grants on their way to one.
    taken: AtomicUsize,
    connecting: AtomicUsize,
    line: OnceLock<LineOf>,
}

/// The line that a free slot is for. Weak: the line owns the slots.
#[derive(Debug)]
struct LineOf {
    registry: Weak<Registry>,
    service: Weak<Service>,
    waiting: Arc<AtomicUsize>,
}

impl Slots {
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    pub fn is_busy(&self) -> bool {
        self.connecting.load(Ordering::SeqCst) >= CONNECTS_IN_FLIGHT_MAX
    }

    /// With the line locked. `waiting` is how many stand in it.
    pub fn take(
        self: &Arc<Self>,
        registry: &Arc<Registry>,
        service: &Arc<Service>,
        waiting: &Arc<AtomicUsize>,
    ) -> (Permit, TargetSlot) {
        self.line.get_or_init(|| {
            let (registry, service) = (Arc::downgrade(registry), Arc::downgrade(service));
            LineOf { registry, service, waiting: waiting.clone() }
        });
        self.connecting.fetch_add(1, Ordering::SeqCst);
        self.taken.fetch_add(1, Ordering::SeqCst);
        (Permit(self.clone()), TargetSlot(self.clone()))
    }

    /// Lets the next client go; when nobody waits that costs one load.
    fn call_next(&self) {
        let Some(line) = self.line.get().filter(|line| line.waiting.load(Ordering::SeqCst) > 0) else { return };
        if let (Some(registry), Some(service)) = (line.registry.upgrade(), line.service.upgrade()) {
            registry.release(&service);
        }
    }
}

/// One connect under way, from the grant to the server's first answer. Its drop lets the next client go.
#[derive(Debug)]
pub struct Permit(Arc<Slots>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.connecting.fetch_sub(1, Ordering::SeqCst);
        self.0.call_next();
    }
}

/// One of the `maxconn` sessions that a target may have, from the grant to the session's end. Its drop lets
/// the next client go.
#[derive(Debug)]
pub struct TargetSlot(Arc<Slots>);

impl Drop for TargetSlot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::SeqCst);
        self.0.call_next();
    }
}

/// Everybody's slots of one service.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Book {
    members: HashMap<MemberName, Arc<Slots>>,
    /// Those of the targets, in their order, in the table of this edition.
    placed: Vec<Arc<Slots>>,
    edition: u64,
}

impl Book {
    /// The slots of each of `targets`, which are those of this service in the table of `edition`: one look-up by
    /// name for each table, and none for each client.
    pub fn of(&mut self, edition: u64, targets: &[Arc<Target>]) -> &[Arc<Slots>] {
        if self.edition != edition {
            let slots = |target: &Arc<Target>| self.members.entry(target.member.clone()).or_default().clone();
            self.placed = targets.iter().map(slots).collect();
            self.edition = edition;
            // Members come and go over the years; whoever has sessions keeps its count.
            self.members.retain(|_, slots| Arc::strong_count(slots) > 1);
        }
        &self.placed
    }

    pub fn taken(&self, member: &MemberName) -> usize {
        self.members.get(member).map_or(0, |slots| slots.taken())
    }

    pub fn is_busy(&self, member: &MemberName) -> bool {
        self.members.get(member).is_some_and(|slots| slots.is_busy())
    }

    pub fn busy_members(&self) -> Vec<MemberName> {
        let busy = self.members.iter().filter(|(_, slots)| slots.is_busy());
        busy.map(|(member, _)| member.clone()).collect()
    }

    /// Connects under way, by member, in order of names.
    pub fn connecting(&self) -> Vec<(MemberName, usize)> {
        let count = |slots: &Slots| slots.connecting.load(Ordering::SeqCst);
        let counts = self.members.iter().map(|(member, slots)| (member.clone(), count(slots)));
        let mut connecting: Vec<_> = counts.filter(|(_, count)| *count > 0).collect();
        connecting.sort();
        connecting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{HostPort, Role};

    fn targets(names: &[&str]) -> Vec<Arc<Target>> {
        let target = |name: &&str| Target {
            member: (*name).into(),
            address: HostPort::new(*name, 5432),
            role: Role::Replica,
            needs_confirmation: false,
            weight: 100,
            risen_at: None,
        };
        names.iter().map(|name| Arc::new(target(name))).collect()
    }

    #[test]
    fn members_that_come_and_go_do_not_pile_up_and_one_with_sessions_keeps_its_count() {
        let mut book = Book::default();
        let kept = book.of(1, &targets(&["a"]))[0].clone();
        kept.taken.fetch_add(7, Ordering::SeqCst);
        for edition in 2..100 {
            let name = format!("b{edition}");
            assert_eq!(book.of(edition, &targets(&[&name])).len(), 1);
            assert_eq!(book.members.len(), 2, "that one, and the target of now");
        }
        assert_eq!(book.of(100, &targets(&["b", "a"]))[1].taken(), 7);
        drop(kept);
        book.of(101, &targets(&["b"]));
        assert_eq!(book.members.len(), 1);
    }
}
