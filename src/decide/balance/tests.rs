//! Shares, smoothness and stability of the choices.

use super::*;
use proptest::prelude::*;

// A change of these moves every client of `source` at the next update, and splits routers of two releases.
const GOLDEN_V4: u64 = 0xE7A7_7091_5E3A_6BB4;
const GOLDEN_V6: u64 = 0x1AF7_B85A_5EEF_58E4;
/// For 10.0.0.0 to 10.0.0.23.
const GOLDEN_CHOICES: [usize; 24] = [0, 0, 1, 1, 1, 1, 0, 1, 0, 1, 1, 1, 2, 1, 0, 1, 1, 1, 1, 2, 0, 0, 1, 1];

/// Names live as long as the tests.
fn candidate(name: &str, weight: u32, load: usize) -> Candidate<'static> {
    Candidate { place: 0, member: Box::leak(Box::new(name.into())), weight, load }
}

fn weighted(weights: &[u32]) -> Vec<Candidate<'static>> {
    weights.iter().enumerate().map(|(index, weight)| candidate(&format!("pg-test-{index}"), *weight, 0)).collect()
}

fn weights() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(1..=256u32, 1..7)
}

/// Numbers that look random, from 0, 1, 2 ...
fn scattered(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(|n| mix(n.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
}

fn tally(count: usize, chosen: impl Iterator<Item = usize>) -> Vec<u64> {
    let mut tally = vec![0; count];
    chosen.for_each(|index| tally[index] += 1);
    tally
}

/// Each within `parts` thousandths of all from its share by weight.
fn assert_shares(candidates: &[Candidate<'_>], tally: &[u64], parts: f64) {
    let total: f64 = candidates.iter().map(|c| f64::from(c.weight)).sum();
    let all: u64 = tally.iter().sum();
    for (candidate, got) in candidates.iter().zip(tally) {
        let wanted = f64::from(candidate.weight) / total;
        let got = *got as f64 / all as f64;
        assert!((got - wanted).abs() * 1000.0 <= parts, "{candidate:?} got {got:.4}, wanted {wanted:.4}");
    }
}

#[test]
fn addresses_hash_the_same_in_every_release() {
    assert_eq!(client_hash(&[10, 0, 0, 1]), GOLDEN_V4);
    assert_eq!(client_hash(&std::net::Ipv6Addr::LOCALHOST.octets()), GOLDEN_V6);
    let mapped = std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped();
    assert_eq!(client_hash(&mapped.octets()), GOLDEN_V4, "a listener on * sees mapped addresses");
}

#[test]
fn source_is_the_same_choice_in_every_release() {
    let candidates = weighted(&[100, 100, 50]);
    let choose = |last: u8| of_source(&candidates, client_hash(&[10, 0, 0, last])).unwrap();
    assert_eq!((0..24).map(choose).collect::<Vec<_>>(), GOLDEN_CHOICES);
    let mut reversed = candidates.clone();
    reversed.reverse();
    for last in 0..=255 {
        let same = of_source(&reversed, client_hash(&[10, 0, 0, last])).unwrap();
        assert_eq!(reversed[same].member, candidates[choose(last)].member, "the order does not matter");
    }
}

#[test]
fn rarity_is_the_negative_logarithm() {
    for hash in scattered(1000).skip(1).chain([1, 2, 3, u64::MAX, 1 << 63, (1 << 63) - 1]) {
        let exact = 64.0 - (hash as f64).log2();
        let got = rarity(hash) as f64 / f64::from(RARITY_DIGITS).exp2();
        assert!((got - exact).abs() < 1e-6, "{hash}: {got} for {exact}");
    }
    assert_eq!(rarity(0), rarity(1), "zero has no logarithm");
    assert!(rarity(u64::MAX) > 0);
}

#[test]
fn nobody_to_choose_from() {
    for balance in Balance::ALL {
        assert_eq!(Balancer::default().choose(balance, &[], 1, 1), None);
        assert_eq!(Balancer::default().choose(balance, &weighted(&[7]), 1, 1), Some(0));
    }
}

#[test]
fn ties_of_leastconn_go_round() {
    let candidates = [candidate("a", 100, 3), candidate("b", 100, 2), candidate("c", 100, 2), candidate("d", 50, 0)];
    let mut balancer = Balancer::default();
    let mut choose = |which: &[Candidate<'_>]| balancer.choose(Balance::LeastConn, which, 0, 0).unwrap();
    assert_eq!(choose(&candidates), 3, "an idle one first, whatever its weight");
    let busy: Vec<usize> = (0..6).map(|_| choose(&candidates[..3])).collect();
    assert!(busy.iter().all(|index| *index != 0) && busy.contains(&1) && busy.contains(&2), "{busy:?}");
}

#[test]
fn random_is_decided_by_its_draw_and_prefers_the_idle() {
    let candidates = [candidate("a", 1, 9), candidate("b", 1, 0)];
    let chosen = |draw| lighter_of_two(&candidates, draw).unwrap();
    let count = tally(2, scattered(10_000).map(chosen));
    // The busy one only when it is drawn twice.
    assert!((2300..2700).contains(&count[0]), "{count:?}");
    assert!(scattered(100).all(|draw| chosen(draw) == chosen(draw)));
}

#[test]
fn a_newcomer_gets_no_burst() {
    let (heavy, light) = (candidate("heavy", 256, 0), [candidate("a", 1, 0), candidate("b", 1, 0)]);
    let mut balancer = Balancer::default();
    // The light one has just had its turn beside a heavy one, and has a debt of 256 turns when that leaves.
    while balancer.choose(Balance::RoundRobin, &[light[0], heavy], 0, 0) != Some(0) {}
    balancer.keep_only(|member| member == light[0].member);
    let after: Vec<_> = (0..6).map(|_| balancer.choose(Balance::RoundRobin, &light, 0, 0).unwrap()).collect();
    assert_eq!(tally(2, after.iter().copied()), [3, 3], "{after:?}");
}

#[test]
fn who_is_full_for_a_moment_keeps_its_turn_and_who_vanished_is_forgotten() {
    let all = weighted(&[1, 1, 1]);
    let mut balancer = Balancer::default();
    balancer.choose(Balance::RoundRobin, &all, 0, 0);
    balancer.choose(Balance::RoundRobin, &all[..2], 0, 0);
    assert_eq!(balancer.owed.len(), 3);
    balancer.keep_only(|member| member == all[0].member);
    assert_eq!(balancer.owed.keys().collect::<Vec<_>>(), [all[0].member]);
}

proptest! {
    #[test]
    fn leastconn_picks_a_least_key(given in prop::collection::vec((1..=256u32, 0..50usize), 1..7), turns in 0..9) {
        let candidates: Vec<Candidate<'_>> =
            given.iter().enumerate().map(|(n, (weight, load))| candidate(&n.to_string(), *weight, *load)).collect();
        let mut balancer = Balancer::default();
        for _ in 0..=turns {
            let chosen = balancer.choose(Balance::LeastConn, &candidates, 0, 0).unwrap();
            let key = |(weight, load): (u32, usize)| if load == 0 { 0 } else { (load as u64 + 1) * 4096 / u64::from(weight) };
            prop_assert_eq!(Some(key(given[chosen])), given.iter().map(|g| key(*g)).min());
        }
    }

    #[test]
    fn leastconn_fills_by_weight(weights in weights()) {
        let mut candidates = weighted(&weights);
        let mut balancer = Balancer::default();
        for _ in 0..2000 {
            let chosen = balancer.choose(Balance::LeastConn, &candidates, 0, 0).unwrap();
            candidates[chosen].load += 1;
        }
        let loads: Vec<u64> = candidates.iter().map(|c| c.load as u64).collect();
        assert_shares(&candidates, &loads, 10.0);
    }

    #[test]
    fn roundrobin_is_exact_and_smooth(weights in weights()) {
        let candidates = weighted(&weights);
        let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let mut balancer = Balancer::default();
        let mut count = vec![0u64; weights.len()];
        for turn in 1..=total {
            count[balancer.choose(Balance::RoundRobin, &candidates, 0, 0).unwrap()] += 1;
            for (weight, got) in weights.iter().zip(&count) {
                let due = (turn * u64::from(*weight)) as f64 / total as f64;
                prop_assert!((*got as f64) < due + 1.0, "never more than one ahead");
                prop_assert!(*got as f64 > due - weights.len() as f64, "nor far behind");
            }
        }
        prop_assert_eq!(count, weights.iter().map(|w| u64::from(*w)).collect::<Vec<_>>());
    }

    #[test]
    fn random_draws_by_weight(weights in weights()) {
        // All equally idle: then the first draw decides.
        let candidates = weighted(&weights);
        let chosen = scattered(20_000).map(|draw| lighter_of_two(&candidates, draw).unwrap());
        assert_shares(&candidates, &tally(weights.len(), chosen), 15.0);
    }

    #[test]
    fn source_shares_by_weight_and_moves_only_the_clients_of_who_went(weights in weights(), gone in any::<prop::sample::Index>()) {
        let candidates = weighted(&weights);
        let before: Vec<usize> = scattered(20_000).map(|client| of_source(&candidates, client).unwrap()).collect();
        assert_shares(&candidates, &tally(weights.len(), before.iter().copied()), 15.0);
        let gone = gone.index(weights.len());
        let mut others = candidates.clone();
        others.remove(gone);
        for (client, was) in scattered(2000).zip(before).filter(|(_, was)| *was != gone) {
            let now = of_source(&others, client).unwrap();
            prop_assert_eq!(&others[now].member, &candidates[was].member);
        }
    }

    #[test]
    fn addresses_next_to_each_other_are_spread(network in any::<[u8; 3]>()) {
        let candidates = weighted(&[100, 100]);
        let chosen = (0..=255).map(|last| {
            let [a, b, c] = network;
            of_source(&candidates, client_hash(&[a, b, c, last])).unwrap()
        });
        // 128 and 8 standard deviations to each side.
        let count = tally(2, chosen);
        prop_assert!(count.iter().all(|n| (64..=192).contains(n)), "{:?}", count);
    }
}
