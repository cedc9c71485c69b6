//! How long one side is waited for, once the other has ended.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use crate::proxy::rounds::{Place, Rounds};

#[derive(Debug, Clone, Copy)]
enum State {
    /// Nobody is waited for.
    Idle,
    /// The session is woken then anyway, and the wait begins: nearly always the end comes before.
    Later(Place),
    Until(Place),
}

#[derive(Debug)]
pub(super) struct Patience<'a> {
    rounds: &'a Arc<Rounds>,
    state: State,
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        if let State::Until(place) = self.state {
            self.rounds.leave(place);
        }
    }
}

impl<'a> Patience<'a> {
    pub fn new(rounds: &'a Arc<Rounds>) -> Patience<'a> {
        Patience { rounds, state: State::Idle }
    }

    /// Whether it is over. `limit` is how long to wait, if there is somebody to wait for, from the first call with it on
    /// or from `look` on, a round that wakes the session. To be called whenever it has nothing to do.
    pub fn is_over(&mut self, limit: Option<Duration>, look: Option<Place>, waker: &Waker) -> bool {
        self.state = match (self.state, limit) {
            (State::Until(place), _) => return self.rounds.is_over(place),
            (State::Later(place), Some(_)) if !self.rounds.is_over(place) => return false,
            (_, None) => State::Idle,
            (State::Idle, Some(_)) if look.is_some() => look.map_or(State::Idle, State::Later),
            (_, Some(limit)) => State::Until(self.rounds.join(limit, waker)),
        };
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::rounds::TICK;

    #[tokio::test]
    async fn it_ends_after_its_time_and_begins_no_earlier_than_asked() {
        let (rounds, waker) = (Rounds::new(), Waker::noop());
        let mut nobody = Patience::new(&rounds);
        assert!(!nobody.is_over(None, None, waker));
        assert!(matches!(nobody.state, State::Idle));
        let look = rounds.join(TICK, waker);
        let mut later = Patience::new(&rounds);
        assert!(!later.is_over(Some(TICK), Some(look), waker));
        assert!(matches!(later.state, State::Later(_)));
        while !rounds.is_over(look) {
            tokio::time::sleep(TICK / 10).await;
        }
        // Another look does not put it off.
        let next = rounds.join(TICK * 1000, waker);
        assert!(!later.is_over(Some(TICK), Some(next), waker));
        assert!(matches!(later.state, State::Until(_)));
        while !later.is_over(Some(TICK), Some(next), waker) {
            tokio::time::sleep(TICK / 10).await;
        }
        rounds.leave(next);
    }
}
