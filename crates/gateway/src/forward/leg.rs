//! A request at one version: what counts it there.

use super::{Life, Outbound, is_candidate, tries::Next, version_of};
use crate::{
    core::Core, kills, loads::Room, observe::Observation, refusal::Refusal, route, trials::Trial,
};
use http::{HeaderValue, StatusCode};
use serin_model::{
    observe::{Detour, Outcome},
    snapshot::VersionRoute,
};
use serin_route::standing::OnFailure;
use std::rc::Rc;

/// A request at one version: what counts it there.
pub(super) struct Leg<'a> {
    pub(super) version: &'a VersionRoute,
    pub(super) observation: Observation,
    pub(super) life: Life,
    pub(super) header: HeaderValue,
    pub(super) is_candidate: bool,
}

impl<'a> Leg<'a> {
    /// A request comes to a version, if there is room for it.
    pub(super) fn begin(
        core: &Rc<Core>,
        outbound: &Outbound<'a>,
        at: usize,
        room: Option<Room>,
    ) -> Result<Self, Refusal> {
        let service = outbound.service;
        let version = version_of(service, at)?;
        let limit = version.in_flight_max.filter(|_| room.is_some());
        let place = match limit {
            None => None,
            Some(max) => {
                let served_by = version_of(service, route::served_by(service, at))?;
                let place = core
                    .shared
                    .loads
                    .room_at(&service.name, &served_by.name, max);
                Some(place.ok_or_else(|| {
                    let what = format!("version `{}` of service `{}`", version.name, service.name);
                    Refusal::overloaded(&service.name, &what)
                })?)
            }
        };
        let counters = core.counters.of(service, version);
        let mut unlisted = Vec::new();
        let calls = outbound.asks.label(|tool| {
            let label = core.counters.label(&counters, version, tool);
            if let Some(tool) = tool.filter(|tool| !label.is_named(tool)) {
                unlisted.push(tool.into());
            }
            label
        });
        let header = counters.header.clone();
        let mut observation =
            Observation::begin(core.counters.clone(), counters.clone(), calls, outbound.era);
        observation.holds([room, place]);
        outbound.trail.goes_to(&version.name);
        observation.recorded(outbound.trail.clone());
        if outbound.is_tester {
            observation.by_tester();
        }
        // Whom a version serves in the place of another is no trial of it, but of that one.
        let is_own = at == outbound.to.instead_of.unwrap_or(outbound.to.version);
        let trial = |key| Trial::of(service, at, key).filter(|_| is_own);
        if let Some(trial) = outbound.to.by_split.and_then(trial) {
            counters.assigned(trial);
        }
        if let Some(trial) = outbound.compared.and_then(trial) {
            observation.of_trial(trial);
        }
        if let Some(session) = outbound.session {
            observation.in_session(core.sessions().clone(), session);
        }
        Ok(Self {
            version,
            observation,
            life: Life {
                watch: kills::Watch::since(outbound.alarm),
                tenant: outbound.tenant.map(Into::into),
                unlisted,
            },
            header,
            is_candidate: is_candidate(service, at),
        })
    }

    /// Goes where the request is tried next; the endpoint, and whether it is used whatever its breaker says.
    pub(super) async fn go(
        &mut self,
        core: &Rc<Core>,
        outbound: &Outbound<'a>,
        next: Next,
    ) -> Result<(usize, bool), Refusal> {
        match next {
            Next::At { endpoint, must } => Ok((endpoint, must)),
            Next::Again { endpoint, wait } => {
                let wait = tokio::time::sleep(wait);
                let waited = self.life.unless_cut(core, &self.observation, wait).await;
                if waited.is_err() {
                    self.observation.void();
                    return Err(Refusal::killed(&outbound.service.name));
                }
                let is_open = outbound.service.settings.on_failure == OnFailure::FailOpen;
                Ok((endpoint, is_open))
            }
            Next::Version { version, endpoint } => {
                let counters = &core.counters;
                counters.detoured(&outbound.service.name, Detour::Fallback);
                let [room, _] = self.observation.give_up();
                self.observation.void();
                let mut leg = Self::begin(core, outbound, version, room)?;
                leg.observation.goes_on(&self.observation);
                *self = leg;
                Ok((endpoint, false))
            }
            Next::Nowhere => Err(self.refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "there is no endpoint left".to_owned(),
            )),
        }
    }

    /// Another version takes its place, before anything was tried here.
    pub(super) fn gone_by(mut self) {
        self.observation.passed_by();
        self.observation.void();
    }

    /// No endpoint may be used. Its caller is not served: the version has failed, as if none had been reached.
    pub(super) fn unusable(&mut self) -> Refusal {
        self.observation.failed(Outcome::Transport);
        Refusal::unusable(self.observation.service(), self.version.name.as_str())
            .by_version(&self.header, self.is_candidate)
    }

    pub(super) fn refuse(&self, status: StatusCode, text: String) -> Refusal {
        let refusal = Refusal::plain(status, text).of(self.observation.service());
        refusal.by_version(&self.header, self.is_candidate)
    }
}
