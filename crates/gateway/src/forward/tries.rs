//! Where a request is tried next, when an endpoint takes nothing.

use super::{Outbound, leg::Leg};
use crate::{core::Core, route};
use serin_model::{observe::Detour, route::Live as _};
use serin_route::standing::OnFailure;
use std::{rc::Rc, time::Duration};

/// Where a request was tried.
pub(super) struct Tries {
    /// Further attempts that it may make.
    left: u32,
    /// Endpoints of the version that were tried, as often as they were.
    tried: Vec<usize>,
    /// The same, and those that took nothing when it came.
    pub(super) avoid: Vec<usize>,
    /// Versions that took the place of the first one.
    versions: Vec<usize>,
    /// An endpoint did not even refuse: it will not answer in a moment.
    is_silent: bool,
}

/// Where a request is tried next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Next {
    /// At another endpoint of the version.
    At {
        endpoint: usize,
        /// Whatever its breaker says.
        must: bool,
    },
    /// At one that was tried, after a while.
    Again {
        endpoint: usize,
        wait: Duration,
    },
    /// At another version.
    Version {
        version: usize,
        endpoint: usize,
    },
    Nowhere,
}

impl Tries {
    pub(super) fn new(outbound: &Outbound<'_>) -> Self {
        Self {
            left: outbound.service.settings.retries.attempts,
            tried: Vec::new(),
            avoid: Vec::new(),
            versions: Vec::new(),
            is_silent: false,
        }
    }

    pub(super) fn failed(&mut self, at: usize, error: &std::io::Error) {
        self.tried.push(at);
        self.avoid.push(at);
        self.is_silent |= error.kind() == std::io::ErrorKind::TimedOut;
    }

    /// Where it is tried next: in the order of what promises most. After an attempt that failed only within what may be tried again.
    pub(super) fn next(&mut self, core: &Rc<Core>, outbound: &Outbound<'_>, leg: &Leg<'_>) -> Next {
        let next = self.find(core, outbound, leg);
        if matches!(next, Next::Nowhere) || self.tried.is_empty() && self.versions.is_empty() {
            return self.goes(next);
        }
        let retries = &outbound.service.settings.retries;
        if self.left == 0 || !leg.observation.may_try_again(retries) {
            return Next::Nowhere;
        }
        self.left -= 1;
        core.counters
            .detoured(&outbound.service.name, Detour::Retry);
        self.goes(next)
    }

    fn goes(&mut self, next: Next) -> Next {
        if let Next::Version { version, .. } = next {
            self.versions.push(version);
            self.tried.clear();
            self.avoid.clear();
        }
        next
    }

    fn find(&self, core: &Rc<Core>, outbound: &Outbound<'_>, leg: &Leg<'_>) -> Next {
        let Outbound {
            service, to, key, ..
        } = *outbound;
        let (version, live) = (leg.version, &*core.shared.loads);
        let fails_open = service.settings.on_failure == OnFailure::FailOpen;
        let same = to.pinned.then_some(to.endpoint);
        if same.is_none() {
            if let Some(endpoint) = route::choose(service, version, key, &self.avoid, live) {
                let must = false;
                return Next::At { endpoint, must };
            }
            if let Some((version, endpoint)) = self.fall_back(core, outbound) {
                return Next::Version { version, endpoint };
            }
        }
        if fails_open {
            let any = match same {
                Some(endpoint) => self.tried.is_empty().then_some(endpoint),
                None => route::choose_any(service, version, key, &self.tried, live),
            };
            if let Some(endpoint) = any {
                let must = true;
                return Next::At { endpoint, must };
            }
        }
        if self.tried.is_empty() || self.is_silent {
            return Next::Nowhere;
        }
        let again = same
            .or_else(|| route::choose(service, version, key, &[], live))
            .or_else(|| {
                let any = fails_open.then(|| route::choose_any(service, version, key, &[], live));
                any.flatten()
            });
        // One whose breaker is open by now will not be back in a moment.
        let is_open = |at: &usize| {
            let id = version.endpoints.get(*at).map(|endpoint| endpoint.id);
            id.is_none_or(|id| live.standing(id).is_open)
        };
        let Some(endpoint) = again.filter(|at| !is_open(at)) else {
            return Next::Nowhere;
        };
        let times = self.tried.iter().filter(|at| **at == endpoint).count();
        let times = u32::try_from(times).unwrap_or(u32::MAX);
        let jitter = getrandom::u32().unwrap_or_default().to_be_bytes();
        let jitter = u16::from_be_bytes([jitter[0], jitter[1]]);
        let wait = service.settings.retries.wait(times, jitter);
        Next::Again { endpoint, wait }
    }

    /// A version that takes the place of the one that was meant. Who asked for that one by hand is served by nobody else.
    fn fall_back(&self, core: &Rc<Core>, outbound: &Outbound<'_>) -> Option<(usize, usize)> {
        let Outbound {
            service,
            to,
            key,
            is_tester,
            ..
        } = *outbound;
        let meant = to.instead_of.unwrap_or(to.version);
        let meant = service.versions.get(meant).filter(|_| !is_tester)?;
        let mut tried = self.versions.clone();
        tried.push(to.version);
        let live = &*core.shared.loads;
        loop {
            let found = route::fall_back(service, meant, key, &tried, live)?;
            let latch = core.latch();
            let is_killed = |at: usize| {
                let name = service
                    .versions
                    .get(at)
                    .map(|version| version.name.as_str());
                let stop = name.zip(latch.as_deref()).map(|(name, latch)| {
                    latch.stops_version(service.name.as_str(), name).is_some()
                });
                stop.unwrap_or_default()
            };
            if !is_killed(found.0) && !is_killed(route::served_by(service, found.0)) {
                return Some(found);
            }
            tried.push(found.0);
        }
    }
}
