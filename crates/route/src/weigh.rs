//! One of several, by key, in turn, or by load. Each takes what there is to choose from in any order, and gives a place in it.

use serde::{Deserialize, Serialize};

/// How one of the versions of a rule is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// By what the caller is known again by; the numbers are percentages and make 100. A version whose number grows only wins callers.
    Percentage,
    /// The same; the numbers are weights.
    #[default]
    Weighted,
    /// Each request in turn, as often as the weights say. Sessions stay where they began.
    RoundRobin,
    /// The one with the fewest requests under way for its weight.
    LeastRequests,
    /// By the value of this header; who has none, as `weighted`.
    Header(String),
    /// By the value of this cookie; who has none is given one.
    Cookie(crate::source::Cookie),
    /// By the client's address.
    IpHash,
}

/// How one of the endpoints of a version is chosen for callers who may be assigned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// By what the caller is known again by, consistently: an endpoint that comes or goes moves only its own callers.
    #[default]
    Hash,
    /// Each request in turn, as often as the weights say.
    RoundRobin,
    /// The one with the fewest requests under way for its weight.
    LeastRequests,
}

/// The one for a key, by weighted rendezvous (Thaler and Ravishankar 1998, with the weights of Schindelhauer and Schomaker 2005): each
/// of `among`, an id and a weight, draws a time that is the shorter the greater its weight, and the first wins. A weight that grows
/// only wins keys, and one that goes loses only its own. Weights of zero and less are left out. The same on every node and in every
/// release.
pub fn by_key(key: u64, among: impl IntoIterator<Item = (u64, f64)>) -> Option<usize> {
    let times = among.into_iter().enumerate();
    let times = times.filter(|(_, (_, weight))| *weight > 0.0);
    let times = times.map(|(at, (id, weight))| (at, drawn(key, id, weight)));
    times.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, _)| at)
}

/// The one whose turn it is, as often as its weight says: in so many turns as the weights make together, exactly so often, and spread
/// over them. Steps of the golden ratio round a circle of weights do that (the three-distance theorem), without remembering anything.
pub fn in_turn(turn: u64, among: impl IntoIterator<Item = u32> + Clone) -> Option<usize> {
    let whole: u64 = among.clone().into_iter().map(u64::from).sum();
    let place = u128::from(turn % whole.max(1)) * u128::from(stride(whole));
    let mut place = place % u128::from(whole.max(1));
    among.into_iter().position(|weight| {
        let is_here = place < u128::from(weight);
        place = place.saturating_sub(weight.into());
        is_here
    })
}

/// The one that has the least to do for its weight; each of `among` is an id, what is under way, and a weight. Among equals each turn
/// draws one by weight, so that weights hold also where one request at a time comes. Weights of zero and less are left out.
pub fn least(turn: u64, among: impl IntoIterator<Item = (u64, u32, f64)>) -> Option<usize> {
    let weighed = among.into_iter().enumerate();
    let weighed = weighed.filter(|(_, (_, _, weight))| *weight > 0.0);
    let weighed = weighed
        .map(|(at, (id, load, weight))| (at, f64::from(load) / weight, drawn(turn, id, weight)));
    let least = weighed.min_by(|a, b| a.1.total_cmp(&b.1).then(a.2.total_cmp(&b.2)));
    least.map(|(at, ..)| at)
}

/// How far each turn goes round a circle of so many: about the golden ratio of it, and never a step that would miss places.
fn stride(whole: u64) -> u64 {
    const GOLDEN: f64 = 0.618_033_988_749_894_8;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "less than `whole`, and any step will do"
    )]
    let golden = (whole as f64 * GOLDEN) as u64;
    (golden.max(1)..=whole)
        .find(|step| is_coprime(*step, whole))
        .unwrap_or(1)
}

const fn is_coprime(mut a: u64, mut b: u64) -> bool {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a == 1
}

/// The time that an id draws for a key: the shorter the greater its weight.
fn drawn(key: u64, id: u64, weight: f64) -> f64 {
    -unit(key, id).ln() / weight
}

/// A number between 0 and 1, neither of them, that follows from a key and an id.
fn unit(key: u64, id: u64) -> f64 {
    const BITS: u32 = 52;
    ((mix(key, id) >> (u64::BITS - BITS)) as f64 + 0.5) / (1_u64 << BITS) as f64
}

/// A number that follows from two, every bit from every bit: the finalizer of `SplitMix64` (Steele, Lea and Flood 2014), twice. Fixed for
/// ever: another one would move every caller.
const fn mix(key: u64, id: u64) -> u64 {
    const fn scatter(mut z: u64) -> u64 {
        z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    scatter(scatter(key) ^ id)
}

#[cfg(test)]
mod tests {
    use super::{by_key, in_turn, least, mix};
    use proptest::{prelude::*, strategy::Strategy};
    use std::collections::HashSet;

    /// Some to choose from, with ids that are near each other, as those of endpoints are.
    fn weights() -> impl Strategy<Value = Vec<u32>> {
        proptest::collection::vec(0..=20_u32, 1..8).prop_filter("one at least", |weights| {
            weights.iter().any(|weight| *weight > 0)
        })
    }

    fn keyed(key: u64, weights: &[u32]) -> Option<usize> {
        by_key(
            key,
            (1..).zip(weights.iter().map(|weight| f64::from(*weight))),
        )
    }

    /// What each gets, of how many.
    fn shares(weights: &[u32], count: u64, choose: impl Fn(u64) -> Option<usize>) -> Vec<f64> {
        let mut hits = vec![0_u32; weights.len()];
        for n in 0..count {
            hits[choose(n).unwrap()] += 1;
        }
        hits.into_iter()
            .map(|hits| f64::from(hits) / count as f64)
            .collect()
    }

    #[test]
    fn the_draw_is_fixed_for_ever() {
        // A change here would move every caller of every rule.
        let drawn = [(0, 0), (1, 0), (0, 1), (u64::MAX, 7)].map(|(key, id)| mix(key, id));
        assert_eq!(
            drawn,
            [
                0xa706_dd2f_4d19_7e6f,
                0x5e41_ab08_7439_611e,
                0x08b4_fda8_c892_b50e,
                0x19f2_0a9b_b461_50b6
            ]
        );
    }

    proptest! {
        #[test]
        fn weights_are_met_by_key(weights in weights(), seed: u64) {
            const KEYS: u64 = 4_000;
            let whole: u32 = weights.iter().sum();
            let shares = shares(&weights, KEYS, |n| keyed(seed.wrapping_add(n), &weights));
            for (weight, got) in weights.iter().zip(shares) {
                let want = f64::from(*weight) / f64::from(whole);
                // Seven standard deviations of a count, and ten for the tail of small ones: none in a trillion is farther off.
                let error = 7.0 * (want * (1.0 - want) / KEYS as f64).sqrt() + 10.0 / KEYS as f64;
                prop_assert!((got - want).abs() <= error, "{weights:?}: {want} {got}");
            }
        }

        #[test]
        fn a_weight_that_grows_only_wins_keys(weights in weights(), key: u64, at: prop::sample::Index, more in 1..20_u32) {
            let before = keyed(key, &weights);
            let (mut grown, at) = (weights.clone(), at.index(weights.len()));
            grown[at] += more;
            let after = keyed(key, &grown);
            prop_assert!(after == before || after == Some(at));
        }

        #[test]
        fn one_that_goes_loses_only_its_own_keys(weights in weights(), key: u64, at: prop::sample::Index) {
            let before = keyed(key, &weights);
            let (mut less, at) = (weights.clone(), at.index(weights.len()));
            less[at] = 0;
            let after = keyed(key, &less);
            prop_assert!(before == Some(at) || before == after);
            prop_assert!(after != Some(at));
        }

        #[test]
        fn a_cycle_meets_weights_exactly(weights in weights(), begin: u32) {
            let whole: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            let shares = shares(&weights, whole, |n| in_turn(u64::from(begin) + n, weights.iter().copied()));
            for (weight, got) in weights.iter().zip(shares) {
                prop_assert!((got - f64::from(*weight) / whole as f64).abs() < 1e-9, "{weights:?}");
            }
        }

        /// Nobody gets its turns in a row while others wait.
        #[test]
        fn a_cycle_is_spread(weights in weights(), begin: u32, length in 1..100_u64) {
            let whole: u32 = weights.iter().sum();
            let shares = shares(&weights, length, |n| in_turn(u64::from(begin) + n, weights.iter().copied()));
            for (weight, got) in weights.iter().zip(shares) {
                let want = f64::from(*weight) / f64::from(whole);
                let error = (got - want).abs() * length as f64;
                prop_assert!(error <= 4.0, "{weights:?}: {error} turns off after {length}");
            }
        }

        #[test]
        fn the_least_busy_is_chosen(loads in proptest::collection::vec((0..5_u32, 0..4_u32), 1..8), turn: u64) {
            let among = (1..).zip(&loads).map(|(id, (load, weight))| (id, *load, f64::from(*weight)));
            let chosen = least(turn, among);
            let busy = |at: usize| f64::from(loads[at].0) / f64::from(loads[at].1);
            match chosen {
                Some(at) => prop_assert!((0..loads.len()).all(|other| loads[other].1 == 0 || busy(at) <= busy(other))),
                None => prop_assert!(loads.iter().all(|(_, weight)| *weight == 0)),
            }
        }
    }

    #[test]
    fn the_idle_share_by_weight_what_stays_under_way() {
        let weights = [1_u32, 2, 5];
        let mut loads = [0_u32; 3];
        for turn in 0..800 {
            let among = (1..).zip(loads.iter().zip(weights));
            let among = among.map(|(id, (load, weight))| (id, *load, f64::from(weight)));
            loads[least(turn, among).unwrap()] += 1;
        }
        assert_eq!(loads, [100, 200, 500]);
    }

    #[test]
    fn weights_hold_where_one_request_at_a_time_comes() {
        const TURNS: u64 = 4_000;
        let among = [(1, 0, 1.0), (2, 0, 3.0)];
        let light = (0..TURNS).filter(|turn| least(*turn, among) == Some(0));
        let share = light.count() as f64 / TURNS as f64;
        // More than seven standard deviations.
        assert!((share - 0.25).abs() < 0.05, "{share}");
    }

    #[test]
    fn equals_are_not_always_the_same_one() {
        let chosen: HashSet<_> = (0..50)
            .map(|turn| least(turn, [(1, 0, 1.0), (2, 0, 1.0)]))
            .collect();
        assert_eq!(chosen.len(), 2);
    }

    #[test]
    fn of_none_there_is_none() {
        assert_eq!(by_key(1, []), None);
        assert_eq!(by_key(1, [(1, 0.0)]), None);
        assert_eq!(in_turn(1, []), None);
        assert_eq!(in_turn(1, [0, 0]), None);
        assert_eq!(least(1, [(1, 0, 0.0)]), None);
    }

    #[test]
    fn the_greatest_weights_and_turns_do_not_overflow() {
        assert!(in_turn(u64::MAX, [u32::MAX, u32::MAX]).is_some());
        assert!(by_key(u64::MAX, [(u64::MAX, f64::MAX)]).is_some());
        assert!(least(u64::MAX, [(1, u32::MAX, f64::MIN_POSITIVE)]).is_some());
    }
}
