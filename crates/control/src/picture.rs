//! Draws the [`View`] from everything the orchestrator knows.

use crate::{
    totals::Totals,
    view::{
        ArmView, Arms, EndpointView, EventView, PhaseView, RolloutView, ServiceView, Tolerances,
        ToolView, VersionView, View,
    },
    watch::{Watch, seconds},
};
use jiff::Timestamp;
use serin_flags::{Kills, Target};
use serin_model::{
    event::Recorded,
    name::{RolloutId, ServiceName},
    observe::Moved,
    rollout::Rollout,
    service::Service,
    snapshot::Observed,
    state::State,
    words::{distrust_in_words, event_in_words, finding_in_words, value_in_words},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
};

/// How many of a service's events are on show.
const EVENTS_SHOWN: usize = 20;

/// Most findings on show: one a rule and tool would fill the screen.
const FINDINGS_SHOWN: usize = 5;

/// The latest events of each service.
#[derive(Default)]
pub(crate) struct Recent(BTreeMap<ServiceName, VecDeque<EventView>>);

impl Recent {
    /// Remembers an event of a service.
    pub(crate) fn push(&mut self, recorded: &Recorded, rollout_of: Option<&ServiceName>) {
        let service = recorded.event.changes_service().or(rollout_of);
        let Some(service) = service else { return };
        let events = self.0.entry(service.clone()).or_default();
        events.push_back(EventView {
            position: recorded.position,
            at: recorded.at,
            actor: recorded.actor.as_str().to_owned(),
            text: event_in_words(&recorded.event),
        });
        if events.len() > EVENTS_SHOWN {
            events.pop_front();
        }
    }
}

/// What the picture is drawn from.
pub(crate) struct Sources<'a> {
    pub(crate) state: &'a State,
    pub(crate) observed: &'a Observed,
    pub(crate) watches: &'a BTreeMap<RolloutId, Watch>,
    pub(crate) recent: &'a Recent,
    pub(crate) moved: &'a BTreeMap<ServiceName, Moved>,
    pub(crate) totals: &'a Totals,
    pub(crate) kills: &'a Kills,
    pub(crate) leader: bool,
}

impl Sources<'_> {
    /// The picture as of `now`.
    pub(crate) fn draw(&self, now: Timestamp) -> View {
        let services = self
            .state
            .services
            .values()
            .map(|service| self.service(service, now))
            .collect();
        View {
            at: now,
            position: self.state.position,
            leader: self.leader,
            services,
        }
    }

    fn service(&self, service: &Service, now: Timestamp) -> ServiceView {
        let versions = service.versions.iter().map(|(name, version)| {
            let open = self.totals.open(&service.name, name);
            let tools = self
                .observed
                .tools
                .get(&(service.name.clone(), name.clone()));
            let endpoints = version.endpoints.iter().map(|endpoint| EndpointView {
                id: endpoint.id,
                url: endpoint.url.clone(),
                weight: endpoint.weight,
                healthy: !self.observed.unhealthy.contains(&endpoint.id),
                is_new: self.observed.unproven.contains(&endpoint.id),
                drain: endpoint.drain.clone(),
            });
            VersionView {
                name: name.clone(),
                stage: version.stage,
                drain: version.drain.clone(),
                endpoints: endpoints.collect(),
                tools: tools.map(|tools| tools.len()),
                open_calls: open.calls,
                open_streams: open.streams,
            }
        });
        ServiceView {
            name: service.name.clone(),
            protocol: service.protocol,
            path: service.path.clone(),
            stable: service.stable.clone(),
            versions: versions.collect(),
            rollout: self
                .state
                .latest(&service.name)
                .map(|rollout| self.rollout(rollout, now)),
        }
    }

    /// What keeps the flag of a rollout under way off for everybody.
    fn killed(&self, rollout: &Rollout) -> Option<String> {
        let flag = &rollout.flag.as_ref()?.flag;
        if rollout.status.is_terminal() {
            return None;
        }
        let stops = |target: &Target| match target {
            Target::System | Target::Flags => true,
            Target::Environment(environment) => *environment == self.observed.environment,
            Target::Flag(killed) => killed == flag,
            _ => false,
        };
        let kill = self.kills.active().find(|kill| stops(&kill.target))?;
        Some(format!(
            "{} is killed ({}), and nobody gets {flag}",
            kill.target, kill.reason
        ))
    }

    fn rollout(&self, rollout: &Rollout, now: Timestamp) -> RolloutView {
        let watch = self.watches.get(&rollout.id);
        let until = rollout.ended.as_ref().map_or(now, |ended| ended.at);
        let assessment = watch.and_then(|watch| watch.assessment.as_ref());
        let moved = self
            .moved
            .get(&rollout.service)
            .copied()
            .unwrap_or_default();
        let phases = rollout.plan.phases.iter().map(|phase| PhaseView {
            name: phase.name.clone(),
            share: phase.share,
            hold_seconds: phase.hold.as_secs_f64(),
        });
        let findings = assessment.map(|a| {
            let values = a.values.iter().filter(|f| f.level.is_some());
            let findings = a.findings.iter().map(finding_in_words);
            findings
                .chain(values.map(value_in_words))
                .take(FINDINGS_SHOWN)
                .collect()
        });
        let proof = assessment.and_then(|a| a.proof.as_deref());
        let culprit = proof.and_then(|proof| proof.culprit.as_ref());
        let culprit = culprit.map(|culprit| &*culprit.tool);
        let (to_safe_seconds, to_worse_seconds) =
            watch.map(Watch::to_verdict_seconds).unwrap_or_default();
        let (latency_ratio, latency_critical_ratio) = rollout.plan.latency_ratios();
        let events = self.recent.0.get(&rollout.service);
        RolloutView {
            id: rollout.id,
            from: rollout.from.clone(),
            to: rollout.to.clone(),
            plan: rollout.plan_name.clone(),
            plan_description: rollout.plan.description.clone(),
            status: rollout.status,
            phase: rollout.phase,
            phases: phases.collect(),
            started_at: rollout.started_at,
            started_by: rollout.started_by.as_str().to_owned(),
            step_seconds: rollout.step_elapsed(until).as_secs_f64(),
            hold_seconds: rollout.hold().as_secs_f64(),
            deadline_seconds: rollout.deadline().map(|deadline| deadline.as_secs_f64()),
            share_wanted: rollout.share,
            share_by_hand: rollout.share_by_hand,
            keys: watch.map(Watch::keys).unwrap_or_default(),
            held: rollout.held.clone(),
            ready: rollout.ready,
            evidence_wanted: rollout.plan.evidence(rollout.phase).to_string(),
            trials: assessment.map_or(0, |assessment| assessment.trials),
            proof: proof.cloned(),
            tolerances: Tolerances {
                errors: rollout.plan.judge.errors.to_string(),
                latency_ratio,
                latency_critical_ratio,
            },
            to_safe_seconds,
            to_worse_seconds,
            killed: self.killed(rollout),
            set_aside: rollout
                .set_aside
                .map(|why| distrust_in_words(why).to_owned()),
            signals: rollout.signals.clone(),
            missing: assessment.and_then(|assessment| rollout.evidence_missing(assessment)),
            arms: watch
                .map(|watch| watch.arms(seconds(until)))
                .unwrap_or_default(),
            tools: watch
                .map(|watch| tools(watch, culprit, seconds(until)))
                .unwrap_or_default(),
            findings: findings.unwrap_or_default(),
            events: events
                .into_iter()
                .flatten()
                .filter(|event| event.at >= rollout.started_at)
                .cloned()
                .collect(),
            ended_reason: rollout.ended.as_ref().map(|ended| ended.reason.clone()),
            ended_at: rollout.ended.as_ref().map(|ended| ended.at),
            sessions_rebound: moved.rebound,
            sessions_ended: moved.ended,
        }
    }
}

/// The tools: the one to blame first, then those with the highest error rate of the candidate.
fn tools(watch: &Watch, culprit: Option<&str>, now: f64) -> Vec<ToolView> {
    let mut tools: Vec<_> = watch
        .tools(now)
        .into_iter()
        .map(|(tool, arms)| ToolView {
            tool: tool.to_string(),
            arms,
        })
        .collect();
    let permille = |arm: &ArmView| arm.bad * 1000 / arm.calls.max(1);
    tools.sort_by_key(|tool: &ToolView| {
        let Arms { stable, candidate } = &tool.arms;
        (
            culprit != Some(tool.tool.as_str()),
            Reverse(permille(candidate)),
            Reverse(permille(stable)),
            Reverse(candidate.calls),
            tool.tool.clone(),
        )
    });
    tools
}
