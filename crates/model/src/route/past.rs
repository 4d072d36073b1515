//! Past what is killed.

use super::{Caller, Destination, Live, Nowhere, route_without};
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

/// Routes past what is killed: from a version that is callers go to stable, if that is another one, and from a fallback that is to the next
/// one; who is bound to one goes nowhere.
///
/// # Errors
/// Nothing can take the request.
pub fn route_past(
    service: &ServiceRoute,
    caller: Caller<'_>,
    is_killed: impl Fn(usize) -> bool,
    live: &(impl Live + ?Sized),
) -> Result<Destination, Stopped> {
    let (mut caller, mut closed) = (caller, Vec::new());
    loop {
        let to = route_without(service, caller, &closed, live).map_err(Stopped::Nowhere)?;
        let meant = to.instead_of.unwrap_or(to.version);
        caller = match caller {
            _ if !is_killed(meant) && !is_killed(to.version) => return Ok(to),
            _ if !is_killed(meant) => {
                closed.push(to.version);
                continue;
            }
            _ if meant == service.stable || is_killed(service.stable) => {
                return Err(Stopped::Killed);
            }
            Caller::Pinned(_) => return Err(Stopped::Bound),
            Caller::New { key, .. } => Caller::New {
                key,
                chosen: None,
                rule: None,
                stable_only: true,
            },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Unloaded,
        tests::{service, version},
    };
    use super::*;
    use serin_route::standing::OnFailure;

    #[test]
    fn killed_fallbacks_are_passed_over_and_a_killed_version_has_none() {
        let mut service = service(0.0);
        service.split = None;
        service.versions.push(version("v3", &[6]));
        service.versions[0].fallback = vec![1, 2];
        for endpoint in &mut service.versions[0].endpoints {
            endpoint.healthy = false;
        }
        let caller = Caller::New {
            key: Some(b"k"),
            chosen: None,
            rule: None,
            stable_only: false,
        };
        let past = |service: &ServiceRoute, killed: &[usize]| {
            route_past(service, caller, |at| killed.contains(&at), &Unloaded)
                .map(|to| (to.version, to.is_refused))
        };
        assert_eq!(past(&service, &[]), Ok((1, false)));
        assert_eq!(past(&service, &[1]), Ok((2, false)));
        assert_eq!(past(&service, &[1, 2]), Ok((0, false)), "it fails open");
        assert_eq!(past(&service, &[0]), Err(Stopped::Killed));
        service.settings.on_failure = OnFailure::FailClosed;
        assert_eq!(past(&service, &[1, 2]), Ok((0, true)));

        // From a killed version to stable, and on to what takes the place of that.
        service.stable = 1;
        service.versions[1].fallback = vec![0, 2];
        assert_eq!(past(&service, &[1]), Err(Stopped::Killed));
        service.stable = 0;
        let by_hand = Caller::New {
            key: Some(b"k"),
            chosen: Some(2),
            rule: None,
            stable_only: false,
        };
        let to = route_past(&service, by_hand, |at| at == 2, &Unloaded).unwrap();
        assert_eq!((to.version, to.instead_of), (1, Some(0)));
    }
}
