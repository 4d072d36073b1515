//! Which endpoint of a version.

use super::{is_withdrawn, key_hash};
use crate::{
    name::EndpointId,
    snapshot::{ServiceRoute, VersionRoute},
};
use foldhash::quality::FixedState;
use serin_route::{
    standing::{Among, Count, Marks, OnFailure, Seat, Standing},
    weigh::{self, Balance},
};
use std::hash::BuildHasher as _;

/// What is known of endpoints while they serve.
pub trait Live {
    /// How an endpoint does.
    fn standing(&self, endpoint: EndpointId) -> Standing;
    /// What has happened to an endpoint; nothing where nobody counts.
    fn marks(&self, endpoint: EndpointId) -> Marks {
        let _ = endpoint;
        Marks::default()
    }
    /// The time of its clock, in milliseconds.
    fn now_ms(&self) -> u64;
    /// Whose turn it is in a cycle: the next number after the last that was given for the same `cycle`, a hash that names it. A count for
    /// all cycles together would give each of them a part that depends on the others.
    fn turn(&self, cycle: u64) -> u64;
    /// Whose turn it will be, without taking it; 0 where nobody counts.
    fn next_turn(&self, cycle: u64) -> u64 {
        let _ = cycle;
        0
    }
}

/// Nothing is known: all endpoints do well and are idle.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unloaded;

impl Live for Unloaded {
    fn standing(&self, _: EndpointId) -> Standing {
        Standing::default()
    }

    fn now_ms(&self) -> u64 {
        0
    }

    fn turn(&self, _: u64) -> u64 {
        0
    }
}

/// All that is known of the endpoints of a version, in their order.
pub fn seats<'a, L: Live + ?Sized>(
    version: &'a VersionRoute,
    live: &'a L,
) -> impl Iterator<Item = Seat> + Clone + 'a {
    version.endpoints.iter().map(|endpoint| Seat {
        weight: endpoint.weight,
        is_healthy: endpoint.healthy,
        is_draining: endpoint.is_draining,
        healthy_since_ms: endpoint
            .healthy_since
            .and_then(|since| u64::try_from(since.as_millisecond()).ok()),
        standing: live.standing(endpoint.id),
    })
}

/// From which of a version's endpoints one is chosen; none if none is usable.
pub fn among(
    service: &ServiceRoute,
    version: &VersionRoute,
    live: &(impl Live + ?Sized),
) -> Option<Among> {
    Count::of(seats(version, live)).among(service.settings.panic_below_percent)
}

/// The endpoint of a version for a key, other than those tried; none if none may be used, or all that may were tried.
pub fn choose(
    service: &ServiceRoute,
    version: &VersionRoute,
    key: Option<&[u8]>,
    tried: &[usize],
    live: &(impl Live + ?Sized),
) -> Option<usize> {
    if is_the_only_way(service, version) {
        return tried.is_empty().then_some(0);
    }
    let among = among(service, version, live)?;
    pick(service, version, among, key, tried, live)
}

/// An endpoint of a version of which none may be used: one whose breaker takes requests, if there is one; none if all drain or were
/// tried.
pub fn choose_any(
    service: &ServiceRoute,
    version: &VersionRoute,
    key: Option<&[u8]>,
    tried: &[usize],
    live: &(impl Live + ?Sized),
) -> Option<usize> {
    let pick = |among| pick(service, version, among, key, tried, live);
    pick(Among::Admitting).or_else(|| pick(Among::All))
}

/// The endpoint of a version for a key, however the version balances: where requests that are one to their server meet. None if all
/// drain.
pub fn choose_by_key(
    service: &ServiceRoute,
    version: &VersionRoute,
    key: &[u8],
    live: &(impl Live + ?Sized),
) -> Option<usize> {
    let pick = |among| pick_by(Balance::Hash, service, version, among, Some(key), &[], live);
    let usable = among(service, version, live).and_then(pick);
    usable
        .or_else(|| pick(Among::Admitting))
        .or_else(|| pick(Among::All))
}

/// Whether it has one endpoint, which is used whatever is known of it.
fn is_the_only_way(service: &ServiceRoute, version: &VersionRoute) -> bool {
    let is_one = matches!(version.endpoints.as_slice(), [endpoint] if !endpoint.is_draining);
    is_one && version.fallback.is_empty() && service.settings.on_failure == OnFailure::FailOpen
}

/// One of those of a version's endpoints that are chosen from and were not tried, as the version balances.
pub fn pick(
    service: &ServiceRoute,
    version: &VersionRoute,
    among: Among,
    key: Option<&[u8]>,
    tried: &[usize],
    live: &(impl Live + ?Sized),
) -> Option<usize> {
    let balance = version.balance;
    pick_by(balance, service, version, among, key, tried, live)
}

fn pick_by(
    balance: Balance,
    service: &ServiceRoute,
    version: &VersionRoute,
    among: Among,
    key: Option<&[u8]>,
    tried: &[usize],
    live: &(impl Live + ?Sized),
) -> Option<usize> {
    let (now_ms, slow_start) = (live.now_ms(), service.settings.slow_start);
    let places = || {
        let places = version.endpoints.iter().zip(seats(version, live));
        places.enumerate().map(move |(at, (endpoint, seat))| {
            let is_left = seat.is_among(among) && !tried.contains(&at);
            let weight = seat.weight_now(now_ms, slow_start);
            let weight = if is_left { weight } else { 0.0 };
            (u64::from(endpoint.id.0), seat, weight)
        })
    };
    let turn = || {
        // A rule may be called as the version is.
        let cycle = ("version", service.name.as_str(), version.name.as_str());
        live.turn(FixedState::default().hash_one(cycle))
    };
    match balance {
        Balance::Hash => {
            let key = key.map_or_else(turn, key_hash);
            weigh::by_key(key, places().map(|(id, _, weight)| (id, weight)))
        }
        Balance::RoundRobin => {
            let is_whole = |(_, seat, weight): (u64, Seat, f64)| {
                weight <= 0.0 || weight >= f64::from(seat.weight)
            };
            let parts = if places().all(is_whole) { 1.0 } else { PARTS };
            weigh::in_turn(
                turn(),
                places().map(|(_, _, weight)| in_parts(weight, parts)),
            )
        }
        Balance::LeastRequests => {
            let loads = places().map(|(id, seat, weight)| (id, seat.standing.in_flight, weight));
            weigh::least(turn(), loads)
        }
    }
}

/// Where a caller goes instead who was given a version of which no endpoint may be used: to the first of its fallback versions that has
/// one that may, and was not tried. Not to one that is withdrawn, and not to a candidate, whose share is the rollout's affair.
pub fn fall_back(
    service: &ServiceRoute,
    version: &VersionRoute,
    key: Option<&[u8]>,
    tried: &[usize],
    live: &(impl Live + ?Sized),
) -> Option<(usize, usize)> {
    let candidate = service.split.as_ref().map(|split| split.candidate);
    version.fallback.iter().find_map(|at| {
        let other = service.versions.get(*at)?;
        let may = Some(*at) != candidate && !is_withdrawn(service, *at) && !tried.contains(at);
        let count = may.then(|| Count::of(seats(other, live)))?;
        let among = count.among(service.settings.panic_below_percent)?;
        let endpoint = pick(service, other, among, key, &[], live)?;
        Some((*at, endpoint))
    })
}

/// Parts into which a weight of one is cut while an endpoint takes less than its weight.
const PARTS: f64 = 1000.0;

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "not negative, and what does not fit is the greatest number"
)]
fn in_parts(weight: f64, parts: f64) -> u32 {
    (weight * parts).round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        route::{
            Caller, Destination, Nowhere,
            tests::{service, version},
        },
        service::VersionStage,
    };
    use proptest::{collection::vec, prelude::*};
    use std::{cell::Cell, collections::BTreeMap, time::Duration};

    /// What a test says of endpoints.
    #[derive(Default)]
    struct Said {
        standings: BTreeMap<u32, Standing>,
        turns: Cell<u64>,
        now_ms: u64,
    }

    impl Live for Said {
        fn standing(&self, endpoint: EndpointId) -> Standing {
            self.standings.get(&endpoint.0).copied().unwrap_or_default()
        }

        fn now_ms(&self) -> u64 {
            self.now_ms
        }

        fn turn(&self, _: u64) -> u64 {
            self.turns.replace(self.turns.get() + 1)
        }
    }

    /// An endpoint: its weight, and whether it is healthy, draining, open, ejected.
    fn endpoint() -> impl Strategy<Value = (u32, [bool; 4])> {
        let mostly = |yes: u32| prop::bool::weighted(f64::from(yes) / 10.0);
        (1..6_u32, [mostly(8), mostly(2), mostly(2), mostly(2)])
    }

    fn world(endpoints: &[(u32, [bool; 4])], balance: Balance) -> (ServiceRoute, Said) {
        let mut service = service(0.0);
        let ids: Vec<u32> = (1..).take(endpoints.len()).collect();
        service.versions[0] = version("v1", &ids);
        service.versions[0].balance = balance;
        let mut said = Said::default();
        let routes = service.versions[0].endpoints.iter_mut();
        for (route, (weight, [healthy, draining, is_open, is_ejected])) in routes.zip(endpoints) {
            (route.weight, route.healthy, route.is_draining) = (*weight, *healthy, *draining);
            let standing = Standing {
                is_open: *is_open,
                is_ejected: *is_ejected,
                ..Standing::default()
            };
            said.standings.insert(route.id.0, standing);
        }
        (service, said)
    }

    fn route(
        service: &ServiceRoute,
        caller: Caller<'_>,
        live: &impl Live,
    ) -> Result<Destination, Nowhere> {
        crate::route::route(service, caller, live).and_then(Destination::usable)
    }

    fn new(key: &[u8]) -> Caller<'_> {
        Caller::New {
            key: Some(key),
            chosen: None,
            rule: None,
            stable_only: true,
        }
    }

    fn balances() -> impl Strategy<Value = Balance> {
        prop_oneof![
            Just(Balance::Hash),
            Just(Balance::RoundRobin),
            Just(Balance::LeastRequests)
        ]
    }

    proptest! {
        #[test]
        fn what_is_chosen_may_be_used(endpoints in vec(endpoint(), 0..7), balance in balances(), key: u64, closed: bool) {
            let (mut service, said) = world(&endpoints, balance);
            if closed {
                service.settings.on_failure = OnFailure::FailClosed;
            }
            let usable = |[healthy, draining, open, ejected]: [bool; 4]| healthy && !draining && !open && !ejected;
            let stays = endpoints.iter().filter(|(_, [_, draining, ..])| !draining);
            let good = endpoints.iter().filter(|(_, flags)| usable(*flags)).count();
            let panics = good * 2 < stays.clone().count();
            match route(&service, new(&key.to_be_bytes()), &said) {
                Ok(to) => {
                    let (_, [healthy, draining, open, ejected]) = endpoints[to.endpoint];
                    prop_assert!(!draining);
                    // An open one only where all are and nothing may be used.
                    let all_open = stays.clone().all(|(_, [_, _, open, _])| *open);
                    prop_assert!(!open || good == 0 && all_open && !closed);
                    prop_assert!(healthy && !ejected || panics);
                    prop_assert!(good > 0 || !closed);
                }
                Err(Nowhere::NoEndpoints { .. }) => prop_assert_eq!(stays.count(), 0),
                Err(Nowhere::Unusable { .. }) => prop_assert!(closed && good == 0),
                Err(Nowhere::EndpointGone) => prop_assert!(false),
            }
        }

        #[test]
        fn an_endpoint_that_goes_moves_only_its_own_callers(
            weights in vec(1..6_u32, 2..7),
            keys in vec(any::<u64>(), 1..50),
            lost in any::<prop::sample::Index>(),
            how in 0..4_usize,
        ) {
            let mut endpoints: Vec<_> = weights.into_iter().map(|weight| (weight, [true, false, false, false])).collect();
            let (mut service, said) = world(&endpoints, Balance::Hash);
            // Below it all callers move, to spare the few that are left.
            service.settings.panic_below_percent = 0;
            let lost = lost.index(endpoints.len());
            endpoints[lost].1[how] = how != 0;
            let (mut less, said_less) = world(&endpoints, Balance::Hash);
            less.settings.panic_below_percent = 0;
            for key in keys {
                let key = key.to_be_bytes();
                let before = route(&service, new(&key), &said).unwrap().endpoint;
                let after = route(&less, new(&key), &said_less).unwrap().endpoint;
                prop_assert!(after != lost && (before == lost || before == after));
            }
        }

        #[test]
        fn one_that_comes_back_wins_callers_slowly_and_moves_nobody_else(keys in vec(any::<u64>(), 200), early in 0..30_000_u64, more in 0..30_000_u64) {
            let (service, mut said) = world(&[(1, [true, false, false, false]); 3], Balance::Hash);
            said.standings.get_mut(&1).unwrap().back_since_ms = Some(1);
            let mut of = |now_ms| {
                said.now_ms = now_ms;
                let at = |key: &u64| route(&service, new(&key.to_be_bytes()), &said).unwrap().endpoint;
                keys.iter().map(at).collect::<Vec<_>>()
            };
            let (before, after) = (of(1 + early), of(1 + early + more));
            for (before, after) in before.iter().zip(after) {
                prop_assert!(*before == after || after == 0);
            }
        }

        #[test]
        fn turns_meet_the_weights(weights in vec(1..6_u32, 2..6)) {
            let endpoints: Vec<_> = weights.iter().map(|weight| (*weight, [true, false, false, false])).collect();
            let (service, said) = world(&endpoints, Balance::RoundRobin);
            let mut hits = vec![0; weights.len()];
            for _ in 0..weights.iter().sum::<u32>() {
                hits[route(&service, new(b"k"), &said).unwrap().endpoint] += 1;
            }
            prop_assert_eq!(hits, weights);
        }
    }

    #[test]
    fn the_least_busy_for_its_weight_is_chosen() {
        let (service, mut said) = world(
            &[
                (1, [true, false, false, false]),
                (3, [true, false, false, false]),
            ],
            Balance::LeastRequests,
        );
        for (loads, expected) in [([1, 0], 1), ([0, 3], 0), ([1, 2], 1), ([1, 6], 0)] {
            for (id, load) in [(1, loads[0]), (2, loads[1])] {
                said.standings.get_mut(&id).unwrap().in_flight = load;
            }
            let to = route(&service, new(b"k"), &said).unwrap();
            assert_eq!(to.endpoint, expected, "{loads:?}");
        }
    }

    #[test]
    fn one_that_comes_back_takes_its_part_of_turns() {
        let fine = (1, [true, false, false, false]);
        let (mut service, mut said) = world(&[fine; 2], Balance::RoundRobin);
        service.settings.slow_start = Duration::from_secs(10);
        service.versions[0].endpoints[0].healthy_since =
            Some("1970-01-01T00:01:00Z".parse().unwrap());
        let mut share = |now_ms| {
            said.now_ms = now_ms;
            let first = |_: &u32| route(&service, new(b"k"), &said).unwrap().endpoint == 0;
            (0..1100).filter(first).count()
        };
        // A tenth beside a whole, then half and a little, then all.
        for (now_ms, expected) in [(60_000, 100), (65_000, 390), (70_000, 550)] {
            let got = share(now_ms);
            assert!(got.abs_diff(expected) <= 3, "{now_ms}: {got}");
        }
    }

    #[test]
    fn callers_fall_back_where_nothing_may_be_used_and_not_to_a_candidate() {
        let dead = (1, [true, false, true, false]);
        let (mut service, mut said) = world(&[dead; 2], Balance::Hash);
        let mut v0 = version("v0", &[7, 8]);
        v0.endpoints[0].healthy = false;
        service.versions.push(v0);
        service.versions[0].fallback = vec![1, 2];
        let to = route(&service, new(b"k"), &said).unwrap();
        // Version 1 is the candidate of a rollout.
        assert_eq!((to.version, to.endpoint, to.instead_of), (2, 1, Some(0)));
        assert_eq!(to.by_split, None);

        service.versions[2].stage = VersionStage::Withdrawn;
        let to = route(&service, new(b"k"), &said).unwrap();
        assert_eq!((to.version, to.instead_of), (0, None), "it fails open");
        service.split = None;
        let to = route(&service, new(b"k"), &said).unwrap();
        assert_eq!((to.version, to.instead_of), (1, Some(0)));
        service.settings.on_failure = OnFailure::FailClosed;
        service.versions[0].fallback.clear();
        let refused = route(&service, new(b"k"), &said);
        assert_eq!(refused, Err(Nowhere::Unusable { version: 0 }));

        // Who chose the version by hand, and who is bound to an endpoint, asked for nothing else.
        service.versions[0].fallback = vec![1];
        let by_hand = Caller::New {
            key: Some(b"k"),
            chosen: Some(0),
            rule: None,
            stable_only: false,
        };
        let refused = route(&service, by_hand, &said);
        assert_eq!(refused, Err(Nowhere::Unusable { version: 0 }));
        let pinned = Caller::Pinned(EndpointId(2));
        let to = route(&service, pinned, &said).unwrap();
        assert_eq!((to.version, to.endpoint, to.pinned), (0, 1, true));

        said.standings.clear();
        let to = route(&service, new(b"k"), &said).unwrap();
        assert_eq!((to.version, to.instead_of), (0, None));
    }

    #[test]
    fn whom_nobody_knows_is_spread_over_all() {
        let (service, said) = world(&[(1, [true, false, false, false]); 3], Balance::Hash);
        let version = &service.versions[0];
        let mut seen: Vec<_> = (0..100)
            .map(|_| choose(&service, version, None, &[], &said))
            .collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [Some(0), Some(1), Some(2)]);
    }
}
