//! Which of several equal targets gets this client.

use crate::model::Balance;

/// The index of the chosen one among `loads` (sessions per candidate); None when there are none.
/// `turn` grows by one with every choice.
pub fn choose(balance: Balance, loads: impl Iterator<Item = usize>, turn: usize) -> Option<usize> {
    let loads: Vec<usize> = loads.collect();
    let count = loads.len();
    let start = turn.checked_rem(count)?;
    match balance {
        Balance::RoundRobin => Some(start),
        // Ties go round, or an idle cluster would send every client to the first member.
        Balance::LeastConn => (0..count).map(|step| (start + step) % count).min_by_key(|&index| loads[index]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_to_choose_from() {
        assert_eq!(choose(Balance::LeastConn, [].into_iter(), 7), None);
    }

    #[test]
    fn leastconn_takes_the_least_loaded_and_rotates_ties() {
        assert_eq!(choose(Balance::LeastConn, [3, 1, 2].into_iter(), 0), Some(1));
        let picks: Vec<_> = (0..4).map(|turn| choose(Balance::LeastConn, [5, 5].into_iter(), turn)).collect();
        assert_eq!(picks, [Some(0), Some(1), Some(0), Some(1)]);
    }

    #[test]
    fn roundrobin_ignores_load() {
        let picks: Vec<_> = (0..3).map(|turn| choose(Balance::RoundRobin, [9, 0, 0].into_iter(), turn)).collect();
        assert_eq!(picks, [Some(0), Some(1), Some(2)]);
    }
}
