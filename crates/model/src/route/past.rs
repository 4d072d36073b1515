//! Past what is killed.

use super::{Caller, Destination, Live, Nowhere, route};
use crate::snapshot::ServiceRoute;

/// Why nothing takes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The version and stable are killed.
    Killed,
    /// The version to which the caller is bound is killed.
    Bound,
    /// No endpoint can take it.
    Nowhere(Nowhere),
}

/// Routes past what is killed: from a version that is callers go to stable, if that is another one; who is bound to one goes nowhere.
///
/// # Errors
/// Nothing can take the request.
pub fn route_past(
    service: &ServiceRoute,
    caller: Caller<'_>,
    is_killed: impl Fn(usize) -> bool,
    live: &(impl Live + ?Sized),
) -> Result<Destination, Stopped> {
    let to = route(service, caller, live).map_err(Stopped::Nowhere)?;
    if !is_killed(to.version) {
        return Ok(to);
    }
    match caller {
        _ if to.version == service.stable || is_killed(service.stable) => Err(Stopped::Killed),
        Caller::Pinned(_) => Err(Stopped::Bound),
        Caller::New { key, .. } => {
            let caller = Caller::New {
                key,
                chosen: Some(service.stable),
                rule: None,
                stable_only: false,
            };
            route(service, caller, live).map_err(Stopped::Nowhere)
        }
    }
}
