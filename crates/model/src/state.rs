//! State, and the one way it changes: `apply` of one event after another.

use crate::{
    api::{ApiSpec, ApiVersion},
    drain::{Drain, Part, PartEndpoint},
    event::{Event, Recorded, Started},
    flags::FlagState,
    manifest::Manifest,
    name::{EndpointId, RolloutId, ServiceName, VersionName},
    plan::{Plan, RollbackStrategy},
    rollout::{Ended, Rollout, Status, elapsed},
    service::{Endpoint, Service, Version, VersionStage},
    share::Share,
    switch::KillSwitch,
    tenancy::Tenancy,
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serin_flags::{FlagKey, Kills};
use serin_judge::Assessment;
use std::{collections::BTreeMap, sync::Arc};

/// How many ended rollouts of a service stay in memory; the log keeps all.
pub const ENDED_ROLLOUTS_KEPT: usize = 50;

/// Everything Serin knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The last event that is in it.
    pub position: u64,
    /// The services.
    pub services: BTreeMap<ServiceName, Service>,
    /// The plans that manifests brought; the built-in ones are not among them.
    pub plans: BTreeMap<String, Plan>,
    /// The rollouts under way and the latest that ended, oldest first.
    pub rollouts: Vec<Rollout>,
    /// The id that the next endpoint gets.
    pub next_endpoint: u32,
    /// The manifest that the process was last started with.
    pub manifest_read: Option<Manifest>,
    /// The flags.
    #[serde(default)]
    pub flags: FlagState,
    /// The kills and revivals that were copied from the kill file.
    #[serde(default)]
    pub kills: Kills,
    /// The kill switches.
    #[serde(default)]
    pub kill_switches: BTreeMap<Arc<str>, KillSwitch>,
    /// Who may call.
    #[serde(default)]
    pub tenancy: Tenancy,
    /// The versions of the public API.
    #[serde(default)]
    pub api: BTreeMap<ApiVersion, ApiSpec>,
}

impl State {
    /// The rollout of a service that is under way.
    pub fn active(&self, service: &ServiceName) -> Option<&Rollout> {
        self.rollouts
            .iter()
            .rev()
            .find(|r| r.service == *service && !r.status.is_terminal())
    }

    /// The rollout under way of which a flag is the subject.
    pub fn releasing(&self, flag: &FlagKey) -> Option<&Rollout> {
        self.rollouts.iter().rev().find(|rollout| {
            !rollout.status.is_terminal() && rollout.flag.as_ref().is_some_and(|r| r.flag == *flag)
        })
    }

    /// The rollouts that are under way.
    pub(crate) fn under_way(&self) -> impl Iterator<Item = &Rollout> {
        let rollouts = self.rollouts.iter();
        rollouts.filter(|rollout| !rollout.status.is_terminal())
    }

    /// The share of callers that have what a rollout brings. A promotion gave it to all, unless it was taken back since: then
    /// another version is stable, or the flag is disabled.
    pub(crate) fn share_in_force(&self, rollout: &Rollout) -> Share {
        let holds = match &rollout.flag {
            _ if rollout.status != Status::Promoted => true,
            None => {
                let service = self.services.get(&rollout.service);
                service.is_some_and(|service| service.stable == rollout.to)
            }
            Some(release) => {
                let flag = self.flags.definitions.get(&release.flag);
                flag.is_some_and(|flag| flag.state == serin_flags::State::Enabled)
            }
        };
        if holds { rollout.share } else { Share::ZERO }
    }

    /// The rollout of a service that began last.
    pub fn latest(&self, service: &ServiceName) -> Option<&Rollout> {
        self.rollouts.iter().rev().find(|r| r.service == *service)
    }

    /// A rollout by its id.
    pub fn rollout(&self, id: RolloutId) -> Option<&Rollout> {
        self.rollouts.iter().rev().find(|r| r.id == id)
    }

    /// The state after one more event. Events are facts: they are not checked again.
    pub fn apply(&mut self, recorded: &Recorded) {
        self.position = recorded.position;
        match &recorded.event {
            Event::ManifestRead(manifest) => self.manifest_read = Some(manifest.as_ref().clone()),
            Event::ServiceCreated(service) | Event::ServiceChanged(service) => {
                self.set_service(service);
            }
            Event::ServiceRemoved { service } => {
                self.services.remove(service);
                self.rollouts.retain(|r| r.service != *service);
            }
            Event::DrainBegan {
                part,
                until,
                reason,
            } => self.begin_drain(part, *until, reason, recorded),
            Event::DrainEnded { part } => self.end_drain(part),
            Event::Undrained { part, .. } => self.undrain(part),
            Event::PlanSet { name, plan } => {
                self.plans.insert(name.clone(), plan.as_ref().clone());
            }
            Event::PlanRemoved { name } => {
                self.plans.remove(name);
            }
            Event::FlagChanged(change) => self.flags.change(change, recorded),
            Event::OverrideChanged(change) => self.flags.change_override(change, recorded),
            Event::OverridesRead { overrides } => {
                self.flags.file_overrides = Arc::clone(overrides);
                self.flags.revision = recorded.position;
            }
            Event::KillCopied(kill) => {
                self.kills.take(kill.as_ref().clone());
            }
            Event::KillSwitchSet { name, switch } => {
                self.kill_switches
                    .insert(name.clone(), switch.as_ref().clone());
            }
            Event::KillSwitchRemoved { name } => {
                self.kill_switches.remove(name);
            }
            Event::TierSet { name, tier } => self.tenancy.set_tier(name, Some(tier), recorded),
            Event::TierRemoved { name } => self.tenancy.set_tier(name, None, recorded),
            Event::ApiSet { version, spec } => {
                self.api.insert(*version, spec.as_ref().clone());
            }
            Event::ApiRemoved { version } => {
                self.api.remove(version);
            }
            Event::TenantSet { tenant, about, .. } => {
                self.tenancy.set_tenant(tenant, Some(about), recorded);
            }
            Event::TenantRemoved { tenant, .. } => {
                self.tenancy.set_tenant(tenant, None, recorded);
            }
            Event::KeySet { key, .. } => self.tenancy.set_key(key, recorded),
            Event::RolloutStarted(started) => self.start(started, recorded),
            Event::Reverted {
                service,
                from,
                to,
                strategy,
                ..
            } => {
                self.set_stage(service, from, left(*strategy), recorded);
                self.set_stage(service, to, VersionStage::Serving, recorded);
                if let Some(service) = self.services.get_mut(service) {
                    service.stable = to.clone();
                }
                self.open(service, to);
            }
            event => self.move_rollout(event, recorded),
        }
    }

    fn set_service(&mut self, service: &Service) {
        let ids = service
            .versions
            .values()
            .flat_map(|v| &v.endpoints)
            .map(|e| e.id.0);
        self.next_endpoint = ids.map(|id| id + 1).fold(self.next_endpoint, u32::max);
        self.services.insert(service.name.clone(), service.clone());
    }

    fn version(&mut self, service: &ServiceName, version: &VersionName) -> Option<&mut Version> {
        let service = self.services.get_mut(service)?;
        service.versions.get_mut(version)
    }

    /// Where it is written that a part is drained.
    fn drain_of(&mut self, part: &Part) -> Option<&mut Option<Drain>> {
        let version = self.version(&part.service, &part.version)?;
        let Some(endpoint) = &part.endpoint else {
            return Some(&mut version.drain);
        };
        let mut endpoints = version.endpoints.iter_mut();
        let endpoint = endpoints.find(|known| known.id == endpoint.id)?;
        Some(&mut endpoint.drain)
    }

    fn begin_drain(&mut self, part: &Part, until: Timestamp, reason: &str, recorded: &Recorded) {
        let Some(drain) = self.drain_of(part) else {
            return;
        };
        let before = drain.take();
        *drain = Some(Drain {
            since: before.as_ref().map_or(recorded.at, |drain| drain.since),
            until,
            reason: reason.to_owned(),
            is_leaving: before.is_some_and(|drain| drain.is_leaving),
            is_over: false,
        });
    }

    fn end_drain(&mut self, part: &Part) {
        let Some(Some(drain)) = self.drain_of(part) else {
            return;
        };
        drain.is_over = true;
        if !drain.is_leaving {
            return;
        }
        let Some(service) = self.services.get_mut(&part.service) else {
            return;
        };
        match (&part.endpoint, service.versions.get_mut(&part.version)) {
            (None, _) => {
                service.versions.remove(&part.version);
            }
            (Some(gone), Some(version)) => {
                version.endpoints.retain(|endpoint| endpoint.id != gone.id);
            }
            (Some(_), None) => {}
        }
    }

    fn undrain(&mut self, part: &Part) {
        let was_over = self.drain_of(part).and_then(Option::take);
        if !was_over.is_some_and(|drain| drain.is_over) {
            return;
        }
        let (mut next, of) = (self.next_endpoint, part.endpoint.as_ref().map(|of| of.id));
        if let Some(version) = self.version(&part.service, &part.version) {
            let mut endpoints = version.endpoints.iter_mut();
            for endpoint in endpoints
                .by_ref()
                .filter(|e| of.is_none_or(|id| id == e.id))
            {
                endpoint.id = EndpointId(next);
                next += 1;
            }
        }
        self.next_endpoint = next;
    }

    /// Whatever was drained of a version to which everybody returns: that waits for nobody. Its endpoints stay drained where there are
    /// others.
    fn open(&mut self, service: &ServiceName, version: &VersionName) {
        let whole = Part {
            service: service.clone(),
            version: version.clone(),
            endpoint: None,
        };
        self.undrain(&whole);
        let Some(known) = self.version(service, version) else {
            return;
        };
        if known.is_open() {
            return;
        }
        let endpoint = |endpoint: &Endpoint| PartEndpoint {
            id: endpoint.id,
            url: endpoint.url.clone(),
        };
        let all: Vec<_> = known.endpoints.iter().map(endpoint).collect();
        for endpoint in all {
            self.undrain(&Part {
                endpoint: Some(endpoint),
                ..whole.clone()
            });
        }
    }

    fn start(&mut self, started: &Started, recorded: &Recorded) {
        self.set_stage(
            &started.service,
            &started.to,
            VersionStage::Serving,
            recorded,
        );
        self.rollouts.push(Rollout {
            id: started.rollout,
            service: started.service.clone(),
            from: started.from.clone(),
            to: started.to.clone(),
            flag: started.flag.clone(),
            plan_name: started.plan_name.clone(),
            plan: started.plan.clone(),
            status: Status::Running,
            phase: 0,
            step: 0,
            share: Share::ZERO,
            share_by_hand: false,
            started_at: recorded.at,
            started_by: recorded.actor.clone(),
            step_started_at: recorded.at,
            paused_at: None,
            held: None,
            ready: false,
            extensions: 0,
            signals: BTreeMap::new(),
            set_aside: None,
            preflight: started.preflight.clone(),
            ended: None,
        });
        let ended = self
            .rollouts
            .iter()
            .filter(|r| r.service == started.service && r.status.is_terminal())
            .count();
        if ended > ENDED_ROLLOUTS_KEPT
            && let Some(oldest) = self
                .rollouts
                .iter()
                .position(|r| r.service == started.service)
        {
            self.rollouts.remove(oldest);
        }
    }

    fn move_rollout(&mut self, event: &Event, recorded: &Recorded) {
        let Some(id) = event.rollout() else { return };
        let Some(rollout) = self.rollouts.iter_mut().rev().find(|r| r.id == id) else {
            return;
        };
        let now = recorded.at;
        let set_share = |rollout: &mut Rollout, share: Share, by_hand: bool| {
            rollout.share = share;
            rollout.share_by_hand = by_hand;
            rollout.step += 1;
            rollout.step_started_at = now;
            rollout.paused_at = rollout.paused_at.map(|_| now);
            rollout.extensions = 0;
            rollout.ready = false;
            rollout.held = None;
            if rollout.status == Status::Inconclusive {
                rollout.status = Status::Running;
            }
        };
        let end =
            |rollout: &mut Rollout, status: Status, reason: &str, evidence: Option<&Assessment>| {
                rollout.status = status;
                rollout.paused_at = None;
                rollout.held = None;
                rollout.ready = false;
                rollout.share = if status == Status::Promoted {
                    Share::FULL
                } else {
                    Share::ZERO
                };
                rollout.ended = Some(Ended {
                    at: now,
                    by: recorded.actor.clone(),
                    reason: reason.to_owned(),
                    evidence: evidence.cloned(),
                });
            };
        // The stage that the candidate has afterwards.
        let mut candidate = None;
        match event {
            Event::PhaseEntered { phase, share, .. } => {
                rollout.phase = *phase;
                set_share(rollout, *share, false);
                candidate = Some(VersionStage::Serving);
            }
            Event::ShareSet { share, .. } => {
                set_share(rollout, *share, true);
                // None of the new callers and none of the old: the rollout is kept for inspection only.
                candidate = Some(if *share == Share::ZERO {
                    VersionStage::Withdrawn
                } else {
                    VersionStage::Serving
                });
            }
            Event::Held { reason, .. } => rollout.held = Some(reason.clone()),
            Event::Released { .. } => rollout.held = None,
            Event::SignalGiven { signal, .. } => {
                *rollout.signals.entry(signal.clone()).or_default() += 1;
            }
            Event::SignalsSettled { .. } => rollout.signals.clear(),
            Event::ComparisonSetAside { why, .. } => rollout.set_aside = Some(*why),
            Event::ComparisonResumed { .. } => rollout.set_aside = None,
            Event::PhaseReady { .. } => rollout.ready = true,
            Event::Paused { .. } => {
                rollout.status = Status::Paused;
                rollout.paused_at = Some(now);
            }
            Event::Resumed { .. } => {
                rollout.status = Status::Running;
                if let Some(paused_at) = rollout.paused_at.take() {
                    let pause =
                        SignedDuration::try_from(elapsed(paused_at, now)).unwrap_or_default();
                    rollout.step_started_at = rollout
                        .step_started_at
                        .checked_add(pause)
                        .unwrap_or(rollout.step_started_at);
                }
            }
            Event::Extended { .. } => rollout.extensions += 1,
            Event::Inconclusive { .. } => rollout.status = Status::Inconclusive,
            Event::Promoted {
                evidence,
                overridden,
                ..
            } => {
                let reason = overridden.as_deref().unwrap_or("every phase passed");
                end(rollout, Status::Promoted, reason, evidence.as_deref());
                if let Some(release) = rollout.flag.clone() {
                    self.flags.settle(&release.flag, &release.on, recorded);
                    self.keep_flags(id, recorded);
                    return;
                }
                let (service, from, to) = (
                    rollout.service.clone(),
                    rollout.from.clone(),
                    rollout.to.clone(),
                );
                self.set_stage(&service, &from, VersionStage::Draining, recorded);
                self.set_stage(&service, &to, VersionStage::Serving, recorded);
                if let Some(service) = self.services.get_mut(&service) {
                    service.stable = to;
                }
                self.keep_flags(id, recorded);
                return;
            }
            Event::RolledBack {
                strategy,
                reason,
                evidence,
                ..
            } => {
                end(rollout, Status::RolledBack, reason, evidence.as_deref());
                candidate = Some(left(*strategy));
            }
            Event::Aborted { reason, .. } => {
                end(rollout, Status::Aborted, reason, None);
                candidate = Some(VersionStage::Withdrawn);
            }
            _ => {}
        }
        let is_taken_back = matches!(rollout.status, Status::RolledBack | Status::Aborted);
        let (service, to) = (rollout.service.clone(), rollout.to.clone());
        let off: Vec<_> = if is_taken_back {
            rollout.flags_off().into_iter().cloned().collect()
        } else {
            Vec::new()
        };
        if let Some(stage) = candidate {
            self.set_stage(&service, &to, stage, recorded);
        }
        for flag in &off {
            self.flags.disable(flag, recorded);
        }
    }

    /// What a promoted rollout has set stays.
    fn keep_flags(&mut self, id: RolloutId, recorded: &Recorded) {
        let Some(rollout) = self.rollout(id) else {
            return;
        };
        for (flag, variant) in rollout.flags() {
            self.flags.settle(&flag, &variant, recorded);
        }
    }

    fn set_stage(
        &mut self,
        service: &ServiceName,
        version: &VersionName,
        stage: VersionStage,
        recorded: &Recorded,
    ) {
        let version = self
            .services
            .get_mut(service)
            .and_then(|service| service.versions.get_mut(version));
        if let Some(version) = version {
            version.stage = stage;
            if stage == VersionStage::Withdrawn {
                version.withdrawn_at = Some(recorded.at);
            }
        }
    }
}

/// The stage of a version that was taken back.
const fn left(strategy: RollbackStrategy) -> VersionStage {
    match strategy {
        RollbackStrategy::Immediate => VersionStage::Withdrawn,
        RollbackStrategy::Gradual => VersionStage::Draining,
    }
}
