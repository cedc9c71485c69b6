//! Which of several equal targets gets this client.
//!
//! The rules are HAProxy's (src/lb_fwlc.c, lb_fwrr.c, lb_chash.c, lb_fas.c) with two differences: `roundrobin`
//! spreads as nginx does, and `source` is rendezvous hashing, so that a member that goes moves nobody
//! but its own clients.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::model::{Balance, MemberName};

/// HAProxy's weight range in the steps of `slowstart`: 256 times 16 (src/lb_fwlc.c, `fwlc_get_key`).
const LEASTCONN_SCALE: u64 = 4096;
/// Binary digits after the point of [`rarity`].
const RARITY_DIGITS: u32 = 32;

/// One target that may be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Among the targets of its service.
    pub place: usize,
    pub member: &'a MemberName,
    /// Above 0; only its ratio to the others' counts.
    pub weight: u32,
    /// Sessions, those on their way included.
    pub load: usize,
}

/// What one service remembers from choice to choice.
#[derive(Debug, Default, Clone)]
pub struct Balancer {
    turn: usize,
    /// `roundrobin`: what each member is owed, in units of weight; the highest is next.
    owed: BTreeMap<MemberName, i64>,
}

impl Balancer {
    /// The index of the chosen one; None when there are none. `client` is [`client_hash`] of the client's
    /// address, `draw` a random number.
    ///
    /// Whoever may not be chosen now is left out of `candidates`. `roundrobin` and the ties of `leastconn`
    /// move on with every choice.
    pub fn choose(&mut self, balance: Balance, candidates: &[Candidate<'_>], client: u64, draw: u64) -> Option<usize> {
        match balance {
            Balance::LeastConn => self.least_loaded(candidates),
            Balance::RoundRobin => self.most_owed(candidates),
            Balance::Random => lighter_of_two(candidates, draw),
            Balance::First => (!candidates.is_empty()).then_some(0),
            Balance::Source => of_source(candidates, client),
        }
    }

    /// How many members `roundrobin` owes something.
    pub fn remembers(&self) -> usize {
        self.owed.len()
    }

    /// Forgets what `roundrobin` owes to members that are targets no more. A candidate that is missing for
    /// one choice only, because it is full or has just failed, keeps its turn.
    pub fn keep_only(&mut self, is_target: impl Fn(&MemberName) -> bool) {
        self.owed.retain(|member, _| is_target(member));
    }

    fn least_loaded(&mut self, candidates: &[Candidate<'_>]) -> Option<usize> {
        let count = candidates.len();
        let start = self.turn.checked_rem(count)?;
        self.turn = self.turn.wrapping_add(1);
        // Ties go round, or an idle cluster would send every client to the first member.
        (0..count).map(|step| (start + step) % count).min_by_key(|&index| leastconn_key(&candidates[index]))
    }

    /// Smooth weighted round robin (nginx, `ngx_http_upstream_get_peer`): everybody earns its weight, and the
    /// one that is owed most pays for all.
    fn most_owed(&mut self, candidates: &[Candidate<'_>]) -> Option<usize> {
        let total: i64 = candidates.iter().map(|candidate| i64::from(candidate.weight)).sum();
        // A newcomer is owed what the others are on average; at zero it could be far ahead of them, for
        // whoever left may have left them in debt.
        let known = candidates.iter().filter_map(|candidate| self.owed.get(candidate.member));
        let (sum, count) = known.fold((0i64, 0), |(sum, count), owed| (sum + owed, count + 1));
        let average = sum.checked_div_euclid(count).unwrap_or(0);
        let mut best: Option<(usize, i64)> = None;
        for (index, candidate) in candidates.iter().enumerate() {
            let owed = match self.owed.get_mut(candidate.member) {
                Some(owed) => owed,
                None => self.owed.entry(candidate.member.clone()).or_insert(average),
            };
            *owed += i64::from(candidate.weight);
            if best.is_none_or(|(_, most)| *owed > most) {
                best = Some((index, *owed));
            }
        }
        let (index, _) = best?;
        *self.owed.get_mut(candidates.get(index)?.member)? -= total;
        Some(index)
    }
}

/// The one with the smallest key is chosen.
fn leastconn_key(candidate: &Candidate<'_>) -> u64 {
    let load = candidate.load as u64;
    if load == 0 { 0 } else { (load + 1) * LEASTCONN_SCALE / u64::from(candidate.weight.max(1)) }
}

/// Draws two by weight, perhaps the same one twice; of equals the first.
fn lighter_of_two(candidates: &[Candidate<'_>], draw: u64) -> Option<usize> {
    let total: u64 = candidates.iter().map(|candidate| u64::from(candidate.weight)).sum();
    let drawn = |bits: u64| {
        let mut left = ((u128::from(bits) * u128::from(total)) >> u32::BITS) as u64;
        candidates.iter().position(|candidate| {
            let weight = u64::from(candidate.weight);
            let here = left < weight;
            left = left.saturating_sub(weight);
            here
        })
    };
    let (first, second) = (drawn(draw >> u32::BITS)?, drawn(draw & u64::from(u32::MAX))?);
    let busier = |a: &Candidate<'_>, b: &Candidate<'_>| {
        a.load as u128 * u128::from(b.weight.max(1)) > b.load as u128 * u128::from(a.weight.max(1))
    };
    Some(if busier(&candidates[first], &candidates[second]) { second } else { first })
}

/// Weighted rendezvous hashing: every member draws a number from the client's address and its own name,
/// exponentially distributed with its weight as the rate, and the lowest wins. No member's number depends on
/// another member. Integers only, because a logarithm in floating point differs from machine to machine.
fn of_source(candidates: &[Candidate<'_>], client: u64) -> Option<usize> {
    let number = |candidate: &Candidate<'_>| {
        let hash = mix(client ^ mix(fnv1a(candidate.member.as_str().as_bytes())));
        (u128::from(rarity(hash)), u128::from(candidate.weight.max(1)))
    };
    let lower = |a: &(usize, (u128, u128)), b: &(usize, (u128, u128))| -> Ordering {
        let ((a_index, (a, a_weight)), (b_index, (b, b_weight))) = (a, b);
        let by_name = || candidates[*a_index].member.cmp(candidates[*b_index].member);
        (a * b_weight).cmp(&(b * a_weight)).then_with(by_name)
    };
    candidates.iter().map(number).enumerate().min_by(lower).map(|(index, _)| index)
}

/// A number made from an address (4 or 16 bytes) alone: equal in every router and every release, and equal
/// for an IPv4 address and the same one mapped into IPv6 (`::ffff:a.b.c.d`), which is what a listener on `*`
/// sees. FNV-1a, finished as splitmix64 does. The port has no part in it.
pub fn client_hash(address: &[u8]) -> u64 {
    const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    mix(fnv1a(address.strip_prefix(&MAPPED).filter(|v4| v4.len() == 4).unwrap_or(address)))
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3))
}

/// Splitmix64's last step: a bijection that lets every bit count.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The negative binary logarithm of `hash` / 2^64, with [`RARITY_DIGITS`] binary digits after the point; above 0.
fn rarity(hash: u64) -> u64 {
    let whole = hash.max(1).leading_zeros();
    let mut mantissa = hash.max(1) << whole;
    let mut fraction = 0;
    for _ in 0..RARITY_DIGITS {
        // The mantissa is in [1, 2), with 63 binary digits after the point; its square says the next digit.
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        let digit = square >> 64;
        mantissa = (square >> digit) as u64;
        fraction = fraction << 1 | digit as u64;
    }
    (u64::from(whole + 1) << RARITY_DIGITS) - fraction
}

#[cfg(test)]
mod tests;
