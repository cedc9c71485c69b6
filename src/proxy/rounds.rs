//! One timer for all sessions of a thread that are to be looked at some time later.
//!
//! Nobody minds a few milliseconds there, so whoever is to be woken within the same [`TICK`] is woken at once.
//! A place is 16 bytes for that time; a timer of the runtime is over 100, and every session that talks has one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::Waker;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::runtime::clock;

use super::timers::sleep_until;

/// Rounds are so far apart; whoever waits for one waits at most so much longer.
pub const TICK: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Rounds {
    begin: Instant,
    /// The last round that was made.
    made: AtomicU32,
    to_come: Mutex<ToCome>,
}

#[derive(Debug, Default)]
struct ToCome {
    rounds: BTreeMap<u32, Vec<Option<Waker>>>,
    /// Somebody makes them.
    is_attended: bool,
}

/// A place in one round. To be given back with [`Rounds::leave`], or what it would wake stays in memory until then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    round: u32,
    index: u32,
}

impl Rounds {
    pub fn new() -> Arc<Rounds> {
        Arc::new(Rounds { begin: clock::now(), made: AtomicU32::new(0), to_come: Mutex::default() })
    }

    /// `waker` is woken so much later, or up to a [`TICK`] after that. Must be called within the runtime.
    pub fn join(self: &Arc<Self>, later: Duration, waker: &Waker) -> Place {
        let since = clock::now().saturating_duration_since(self.begin) + later;
        let round = u32::try_from(since.as_millis() / TICK.as_millis() + 1).unwrap_or(u32::MAX);
        let mut to_come = self.to_come.lock();
        let places = to_come.rounds.entry(round).or_default();
        let index = u32::try_from(places.len()).unwrap_or(u32::MAX);
        places.push(Some(waker.clone()));
        if !std::mem::replace(&mut to_come.is_attended, true) {
            drop(tokio::spawn(self.clone().attend()));
        }
        Place { round, index }
    }

    /// Whether its round was made.
    pub fn is_over(&self, place: Place) -> bool {
        self.made.load(Relaxed) >= place.round
    }

    pub fn leave(&self, place: Place) {
        let mut to_come = self.to_come.lock();
        let places = to_come.rounds.get_mut(&place.round);
        if let Some(waker) = places.and_then(|places| places.get_mut(place.index as usize)) {
            *waker = None;
        }
    }

    /// Makes the rounds until there are none.
    async fn attend(self: Arc<Self>) {
        loop {
            let next = {
                let mut to_come = self.to_come.lock();
                let next = to_come.rounds.first_key_value().map(|(round, _)| *round);
                to_come.is_attended = next.is_some();
                next
            };
            let Some(round) = next else { return };
            sleep_until((self.begin + TICK * round).into()).await;
            let places = self.to_come.lock().rounds.remove(&round);
            self.made.fetch_max(round, Relaxed);
            places.into_iter().flatten().flatten().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[tokio::test]
    async fn those_of_a_round_are_woken_together_and_those_who_left_are_not() {
        let (rounds, woken) = (Rounds::new(), Arc::new(Woken::default()));
        let waker = Waker::from(woken.clone());
        let places: Vec<Place> = (0..3).map(|_| rounds.join(TICK, &waker)).collect();
        let later = rounds.join(TICK * 4, &waker);
        rounds.leave(places[1]);
        drop(waker);
        assert!(!rounds.is_over(later) && woken.0.load(Relaxed) == 0);
        while woken.0.load(Relaxed) < 3 {
            tokio::time::sleep(TICK / 10).await;
        }
        assert!(places.iter().all(|place| rounds.is_over(*place)) && rounds.is_over(later));
        // Nobody attends an empty list, and whoever comes next is not forgotten.
        while rounds.to_come.lock().is_attended {
            tokio::time::sleep(TICK / 10).await;
        }
        assert_eq!(Arc::strong_count(&woken), 1);
        let again = rounds.join(Duration::ZERO, &Waker::from(woken.clone()));
        while !rounds.is_over(again) {
            tokio::time::sleep(TICK / 10).await;
        }
    }
}
