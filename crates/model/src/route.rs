//! Route: which version and endpoint a request goes to. Pure: one function of the routing table, of what admission found, and of how
//! endpoints do.
//!
//! In this order: a live session or a value that an endpoint minted (nobody else could read it), a version chosen by hand, the rule
//! that fits, the split by affinity key. Within the version [`choose`] says which of its endpoints.

mod chosen;
mod endpoint;
pub mod explain;
mod past;
mod rules;

pub use self::{
    chosen::{Misfit, chosen_version},
    endpoint::{Live, Unloaded, among, choose, choose_any, choose_by_key, fall_back, pick, seats},
    past::{Stopped, route_past},
    rules::{METHOD_OVERRIDES, READINGS_MAX, RuleRoute, Ruled, Rules, sources},
};

use crate::{name::EndpointId, service::VersionStage, snapshot::ServiceRoute};
use serin_route::standing::OnFailure;

/// The hash of an affinity key, the same on every core and node.
pub fn key_hash(key: &[u8]) -> u64 {
    let mut head = [0; 8];
    head.copy_from_slice(&blake3::hash(key).as_bytes()[..8]);
    u64::from_be_bytes(head)
}

/// Who asks, as far as routing needs to know.
#[derive(Clone, Copy, Debug)]
pub enum Caller<'a> {
    /// One who must reach this endpoint.
    Pinned(EndpointId),
    /// One who may be assigned.
    New {
        /// What keeps the caller on one version; without one it gets stable.
        key: Option<&'a [u8]>,
        /// The version chosen by hand.
        chosen: Option<usize>,
        /// The rule that fits.
        rule: Option<Ruled<'a>>,
        /// Whether only stable speaks what this caller speaks.
        stable_only: bool,
    },
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Index in the service's versions.
    pub version: usize,
    /// Index in the version's endpoints.
    pub endpoint: usize,
    /// No other endpoint will do.
    pub pinned: bool,
    /// The split decided the version, or that in whose place it is, by a key of this hash: the caller counts as one of its keys.
    pub by_split: Option<u64>,
    /// Index of the version in whose place this one is: none of its endpoints may be used.
    pub instead_of: Option<usize>,
    /// None of the version's endpoints may be used, and the service refuses rather than try this one all the same.
    pub is_refused: bool,
}

impl Destination {
    /// Itself, where the service would not refuse.
    ///
    /// # Errors
    /// It would.
    pub fn usable(self) -> Result<Self, Nowhere> {
        let Self { version, .. } = self;
        (!self.is_refused)
            .then_some(self)
            .ok_or(Nowhere::Unusable { version })
    }
}

/// Why a caller who may be assigned gets a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Only stable speaks what the caller speaks.
    StableOnly,
    /// It was chosen by hand.
    Chosen,
    /// The rule that fits leads there.
    Rule,
    /// The split of a rollout says so, by an affinity key of this hash.
    Split(u64),
    /// Nothing says otherwise.
    Stable,
}

/// Why a request goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nowhere {
    /// The endpoint to which the caller is bound is gone.
    EndpointGone,
    /// The version has no endpoints.
    NoEndpoints {
        /// Index in the service's versions.
        version: usize,
    },
    /// None of its endpoints may be used, and the service refuses rather than try one all the same.
    Unusable {
        /// Index in the service's versions.
        version: usize,
    },
}

/// Decides. A destination that the service refuses is one all the same: what is refused there is held against its version.
///
/// # Errors
/// Nothing can take the request.
pub fn route(
    service: &ServiceRoute,
    caller: Caller<'_>,
    live: &(impl Live + ?Sized),
) -> Result<Destination, Nowhere> {
    route_without(service, caller, &[], live)
}

/// The same without the fallback versions of these indices.
fn route_without(
    service: &ServiceRoute,
    caller: Caller<'_>,
    closed: &[usize],
    live: &(impl Live + ?Sized),
) -> Result<Destination, Nowhere> {
    match caller {
        Caller::Pinned(id) => {
            let (version, endpoint) = locate(service, id).ok_or(Nowhere::EndpointGone)?;
            Ok(Destination {
                version,
                endpoint,
                pinned: true,
                by_split: None,
                instead_of: None,
                is_refused: false,
            })
        }
        Caller::New { key, .. } => {
            let (assigned, why) = assign(service, caller, live);
            let place = place(service, assigned, key, why != Why::Chosen, closed, live)?;
            let by_split = match why {
                Why::Split(key_hash) => Some(key_hash),
                _ => None,
            };
            Ok(Destination {
                version: place.version,
                endpoint: place.endpoint,
                pinned: false,
                by_split,
                instead_of: (place.version != assigned).then_some(assigned),
                is_refused: place.is_refused,
            })
        }
    }
}

/// A version, and one of its endpoints.
struct Place {
    version: usize,
    endpoint: usize,
    /// It may not be used, and the service says not to.
    is_refused: bool,
}

/// The version and endpoint for a caller who was given a version: one of its own endpoints that may be used, or that of a fallback
/// version, or any.
fn place(
    service: &ServiceRoute,
    assigned: usize,
    key: Option<&[u8]>,
    may_fall_back: bool,
    closed: &[usize],
    live: &(impl Live + ?Sized),
) -> Result<Place, Nowhere> {
    let at = |(version, endpoint)| Place {
        version,
        endpoint,
        is_refused: false,
    };
    let nowhere = Nowhere::NoEndpoints { version: assigned };
    let version = service.versions.get(assigned).ok_or(nowhere)?;
    if let Some(endpoint) = choose(service, version, key, &[], live) {
        return Ok(at((assigned, endpoint)));
    }
    let fallback = may_fall_back.then(|| fall_back(service, version, key, closed, live));
    if let Some(found) = fallback.flatten() {
        return Ok(at(found));
    }
    let any = choose_any(service, version, key, &[], live).ok_or(nowhere)?;
    Ok(Place {
        is_refused: service.settings.on_failure == OnFailure::FailClosed,
        ..at((assigned, any))
    })
}

/// The version of a caller, whatever its endpoints do, and why it is that one.
pub fn assign(
    service: &ServiceRoute,
    caller: Caller<'_>,
    live: &(impl Live + ?Sized),
) -> (usize, Why) {
    let Caller::New {
        key,
        chosen,
        rule,
        stable_only,
    } = caller
    else {
        return (service.stable, Why::Stable);
    };
    if stable_only {
        return (service.stable, Why::StableOnly);
    }
    if let Some(version) = chosen {
        return (version, Why::Chosen);
    }
    let ruled = rule.and_then(|ruled| ruled.rule.version(service, key, ruled.by, live));
    if let Some(version) = ruled {
        return (version, Why::Rule);
    }
    // The sides of a flag under release are told apart afterwards, by the flag.
    let is_split = (service.split.as_ref()).is_some_and(|split| split.flag.is_none());
    let why = match key.filter(|_| is_split) {
        Some(key) => Why::Split(key_hash(key)),
        None => Why::Stable,
    };
    (service.assign(key), why)
}

/// The version and endpoint that an id names, as indices.
pub fn locate(service: &ServiceRoute, id: EndpointId) -> Option<(usize, usize)> {
    service
        .versions
        .iter()
        .enumerate()
        .find_map(|(version, route)| {
            let endpoint = route.endpoints.iter().position(|e| e.id == id)?;
            Some((version, endpoint))
        })
}

/// The version whose servers a version's callers reach: the side of a flag under release with the flag on is served by stable.
pub fn served_by(service: &ServiceRoute, version: usize) -> usize {
    match &service.split {
        Some(split) if split.flag.is_some() && split.candidate == version => service.stable,
        Some(_) | None => version,
    }
}

/// Whether live sessions are moved off the version. Stable is where they go, so it is never one of these.
pub fn is_withdrawn(service: &ServiceRoute, version: usize) -> bool {
    let route = service.versions.get(version);
    version != service.stable
        && route.is_none_or(|version| version.stage == VersionStage::Withdrawn)
}

/// Whether a session that lives on a version since `since_ms` has to move: the version is withdrawn, or was in the meantime.
/// The session was moved then, and the server's own has stood still since, even if no one remembers where it was moved to.
pub fn has_to_move(service: &ServiceRoute, version: usize, since_ms: u64) -> bool {
    let withdrawn_at = service.versions.get(version).and_then(|v| v.withdrawn_at);
    is_withdrawn(service, version)
        || withdrawn_at.is_some_and(|at| {
            u64::try_from(at.as_millisecond()).is_ok_and(|at_ms| since_ms <= at_ms)
        })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::snapshot::{EndpointRoute, VersionRoute};
    use crate::{name::RolloutId, service::Protocol, share::Share, snapshot::Split};
    use proptest::prelude::*;
    use uuid::Uuid;

    pub(crate) fn version(name: &str, ids: &[u32]) -> VersionRoute {
        let endpoint =
            |id: &u32| EndpointRoute::new(EndpointId(*id), format!("http://127.0.0.1:{id}/mcp"));
        VersionRoute::new(name.parse().unwrap(), ids.iter().map(endpoint).collect())
    }

    pub(crate) fn service(share: f64) -> ServiceRoute {
        let versions = vec![version("v1", &[1, 2, 3]), version("v2", &[4, 5])];
        ServiceRoute {
            split: Some(Split::new(
                RolloutId(Uuid::from_u128(3)),
                1,
                Share::from_percent(share).unwrap(),
            )),
            ..ServiceRoute::new("tools".parse().unwrap(), Protocol::Mcp, "/mcp", versions)
        }
    }

    fn route(service: &ServiceRoute, caller: Caller<'_>) -> Result<Destination, Nowhere> {
        super::route(service, caller, &Unloaded).and_then(Destination::usable)
    }

    fn choose(version: &VersionRoute, key: Option<&[u8]>, tried: &[usize]) -> Option<usize> {
        super::choose(&service(0.0), version, key, tried, &Unloaded)
    }

    fn new(key: Option<&[u8]>) -> Caller<'_> {
        Caller::New {
            key,
            chosen: None,
            rule: None,
            stable_only: false,
        }
    }

    #[test]
    fn a_session_from_before_a_withdrawal_has_to_move_for_good() {
        let mut service = service(5.0);
        assert!(!has_to_move(&service, 1, 0));
        service.versions[1].withdrawn_at = Some("1970-01-01T00:00:01Z".parse().unwrap());
        for (since_ms, want) in [(0, true), (999, true), (1000, true), (1001, false)] {
            assert_eq!(has_to_move(&service, 1, since_ms), want, "{since_ms}");
            assert!(!has_to_move(&service, 0, since_ms), "another version");
        }
        service.versions[1].stage = VersionStage::Withdrawn;
        assert!(has_to_move(&service, 1, 1001));
        // Promoted later on, it still has nothing of what such a session did elsewhere.
        service.stable = 1;
        assert!(has_to_move(&service, 1, 1000));
        assert!(!has_to_move(&service, 1, 1001));
    }

    proptest! {
        #[test]
        fn callers_stick_and_raising_the_share_moves_them_one_way(key: Vec<u8>, low in 0..=100_u8, high in 0..=100_u8) {
            let (low, high) = (low.min(high), low.max(high));
            let at = |share: u8| route(&service(f64::from(share)), new(Some(&key))).unwrap();
            prop_assert_eq!(at(low), at(low));
            prop_assert!(at(low).version <= at(high).version);
            if at(low).version == at(high).version {
                prop_assert_eq!(at(low).endpoint, at(high).endpoint);
            }
        }

        #[test]
        fn the_pinned_reach_their_endpoint_whatever_the_share(id in 1..=5_u32, share in 0..=100_u8, healthy: bool) {
            let mut service = service(f64::from(share));
            for version in &mut service.versions {
                version.endpoints.iter_mut().for_each(|e| e.healthy = healthy);
            }
            let to = route(&service, Caller::Pinned(EndpointId(id))).unwrap();
            prop_assert_eq!(service.versions[to.version].endpoints[to.endpoint].id, EndpointId(id));
            prop_assert!(to.pinned && to.by_split.is_none());
        }

        #[test]
        fn a_lost_endpoint_moves_only_its_own_callers(key: Vec<u8>, lost in 0..3_usize) {
            let mut version = version("v1", &[1, 2, 3]);
            let before = choose(&version, Some(&key), &[]).unwrap();
            version.endpoints[lost].healthy = false;
            let after = choose(&version, Some(&key), &[]).unwrap();
            prop_assert!(after != lost);
            prop_assert!(before == lost || before == after);
        }

        #[test]
        fn every_endpoint_is_tried_once(key: Vec<u8>) {
            let version = version("v1", &[1, 2, 3]);
            let mut tried = vec![];
            while let Some(next) = choose(&version, Some(&key), &tried) {
                prop_assert!(!tried.contains(&next));
                tried.push(next);
            }
            prop_assert_eq!(tried.len(), 3);
        }
    }

    #[test]
    fn without_a_key_or_for_stable_alone_the_candidate_gets_nothing() {
        let service = service(100.0);
        assert_eq!(route(&service, new(None)).unwrap().version, 0);
        assert_eq!(route(&service, new(None)).unwrap().by_split, None);
        let old = Caller::New {
            key: Some(b"k"),
            chosen: Some(1),
            rule: None,
            stable_only: true,
        };
        assert_eq!(route(&service, old).unwrap().version, 0);
        assert_eq!(route(&service, new(Some(b"k"))).unwrap().version, 1);
    }

    #[test]
    fn a_version_chosen_by_hand_wins_over_the_split_and_is_no_key_of_it() {
        let chosen = Caller::New {
            key: Some(b"k"),
            chosen: Some(1),
            rule: None,
            stable_only: false,
        };
        let to = route(&service(0.0), chosen).unwrap();
        assert_eq!((to.version, to.by_split), (1, None));
    }

    #[test]
    fn what_is_gone_is_said() {
        let mut service = service(0.0);
        let gone = route(&service, Caller::Pinned(EndpointId(9)));
        assert_eq!(gone, Err(Nowhere::EndpointGone));
        service.versions[0].endpoints.clear();
        let none = route(&service, new(None));
        assert_eq!(none, Err(Nowhere::NoEndpoints { version: 0 }));
    }

    #[test]
    fn with_no_healthy_endpoint_any_is_used() {
        let mut service = service(0.0);
        let endpoints = &mut service.versions[0].endpoints;
        for endpoint in endpoints {
            endpoint.healthy = false;
        }
        assert!(route(&service, new(None)).is_ok());
        service.settings.on_failure = OnFailure::FailClosed;
        let refused = route(&service, new(None));
        assert_eq!(refused, Err(Nowhere::Unusable { version: 0 }));
    }
}
