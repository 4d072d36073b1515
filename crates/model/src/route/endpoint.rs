//! Which endpoint of a version.

use crate::{
    name::EndpointId,
    snapshot::{EndpointRoute, VersionRoute},
};
use foldhash::quality::FixedState;
use serin_route::standing::Standing;
use std::hash::BuildHasher as _;

/// What is known of endpoints while they serve.
pub trait Live {
    /// How an endpoint does.
    fn standing(&self, endpoint: EndpointId) -> Standing;
    /// The time of its clock, in milliseconds.
    fn now_ms(&self) -> u64;
    /// Whose turn it is in a cycle: the next number after the last that was given for the same `cycle`, a hash that names it. A count for
    /// all cycles together would give each of them a part that depends on the others.
    fn turn(&self, cycle: u64) -> u64;
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

/// The endpoint of a version for a key, other than those tried: a healthy one if there is one, else any.
pub fn choose(
    version: &VersionRoute,
    key: Option<&[u8]>,
    tried: &[usize],
    _live: &(impl Live + ?Sized),
) -> Option<usize> {
    if let ([_], []) = (version.endpoints.as_slice(), tried) {
        return Some(0);
    }
    let weigh = |endpoint: &EndpointRoute| {
        FixedState::with_seed(u64::from(endpoint.id.0)).hash_one(key.unwrap_or_default())
    };
    let left = version
        .endpoints
        .iter()
        .enumerate()
        .filter(|(at, _)| !tried.contains(at));
    left.max_by_key(|(_, endpoint)| (endpoint.healthy, weigh(endpoint)))
        .map(|(at, _)| at)
}
