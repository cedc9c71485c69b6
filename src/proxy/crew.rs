//! The threads that serve clients.
//!
//! Each is a runtime of its own with one thread. A client stays on the thread that it came to: nothing is
//! stolen, so its wake-ups cross no thread, and no lock is shared between cores for a query. What is lost by
//! it, evenness, is looked after when a client comes: it goes where the fewest are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::runtime::Handle;

use super::rounds::Rounds;

/// At least one thread. Cheap to clone, and one pointer: every client has one.
#[derive(Debug, Clone)]
pub struct Crew(Arc<Vec<Hand>>);

#[derive(Debug)]
struct Hand {
    runtime: Handle,
    clients: AtomicUsize,
    rounds: Arc<Rounds>,
}

impl Hand {
    fn new(runtime: Handle) -> Hand {
        Hand { runtime, clients: AtomicUsize::new(0), rounds: Rounds::new() }
    }
}

impl Crew {
    /// None without a thread.
    pub fn new(runtimes: impl IntoIterator<Item = Handle>) -> Option<Crew> {
        let hands: Vec<Hand> = runtimes.into_iter().map(Hand::new).collect();
        (!hands.is_empty()).then(|| Crew(Arc::new(hands)))
    }

    /// The runtime that this is called in, alone.
    pub fn here() -> Crew {
        Crew(Arc::new(vec![Hand::new(Handle::current())]))
    }

    /// The runtime of a thread; beyond the last one it begins anew.
    pub fn runtime(&self, number: usize) -> &Handle {
        &self.0[number % self.0.len()].runtime
    }

    /// A place for one more client on the thread with the fewest; among equals on `own`, which needs no wake-up
    /// of another thread.
    pub(super) fn seat(&self, own: usize) -> Seat {
        let count = self.0.len();
        let places = (0..count).map(|step| (own + step) % count);
        let number = places.min_by_key(|&number| self.0[number].clients.load(Relaxed)).unwrap_or(own % count);
        self.0[number].clients.fetch_add(1, Relaxed);
        Seat { crew: self.clone(), number: u32::try_from(number).unwrap_or(0) }
    }
}

/// One client's place on a thread. Its drop gives it back.
#[derive(Debug)]
pub(super) struct Seat {
    crew: Crew,
    number: u32,
}

impl Seat {
    pub fn runtime(&self) -> &Handle {
        self.crew.runtime(self.number as usize)
    }

    /// Of that thread.
    pub fn rounds(&self) -> &Arc<Rounds> {
        &self.crew.0[self.number as usize % self.crew.0.len()].rounds
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(hand) = self.crew.0.get(self.number as usize) {
            hand.clients.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clients_go_where_the_fewest_are_and_among_equals_nowhere() {
        let crew = Crew::new([Handle::current(), Handle::current(), Handle::current()]).unwrap();
        let first = crew.seat(1);
        assert_eq!(first.number, 1);
        let (second, third) = (crew.seat(1), crew.seat(1));
        assert_eq!((second.number, third.number), (2, 0));
        drop(second);
        assert_eq!(crew.seat(0).number, 2);
        drop((first, third));
        assert!(crew.0.iter().all(|hand| hand.clients.load(Relaxed) == 0));
    }

    #[test]
    fn nobody_is_no_crew() {
        assert!(Crew::new([]).is_none());
    }
}
