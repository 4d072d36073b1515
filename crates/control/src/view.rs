//! What the control plane shows: one picture of everything, made anew each tick, read by the admin API, the command line and
//! the metrics.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serin_judge::sequential::Proof;
use serin_model::{
    drain::Drain,
    name::{EndpointId, RolloutId, ServiceName, VersionName},
    rollout::Status,
    service::{Protocol, VersionStage},
    share::Share,
};
use std::collections::BTreeMap;

/// Everything, at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// When.
    pub at: Timestamp,
    /// The last event that is in it.
    pub position: u64,
    /// Whether this process decides. It does not once another one has opened the same log.
    pub leader: bool,
    /// The services, by name.
    pub services: Vec<ServiceView>,
}

impl View {
    /// A service by its name.
    pub fn service(&self, name: &str) -> Option<&ServiceView> {
        self.services
            .iter()
            .find(|service| service.name.as_str() == name)
    }
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its name.
    pub name: ServiceName,
    /// What it speaks.
    pub protocol: Protocol,
    /// Where clients reach it.
    pub path: String,
    /// The version that serves everyone.
    pub stable: VersionName,
    /// Its versions, by name.
    pub versions: Vec<VersionView>,
    /// The rollout under way, or the last one.
    pub rollout: Option<RolloutView>,
}

/// A version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VersionView {
    /// Its name.
    pub name: VersionName,
    /// Where it is in its life.
    pub stage: VersionStage,
    /// It takes no new callers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// Where it runs.
    pub endpoints: Vec<EndpointView>,
    /// How many tools it lists, when that is known.
    pub tools: Option<usize>,
    /// Calls that are open now.
    pub open_calls: u64,
    /// Event streams that are open now.
    pub open_streams: u64,
}

impl VersionView {
    /// Its endpoints to which nothing goes any more: they are drained, by themselves or with all of it.
    pub fn drained(&self) -> impl Iterator<Item = &EndpointView> {
        let is_over = |drain: &Option<Drain>| drain.as_ref().is_some_and(|drain| drain.is_over);
        let all = is_over(&self.drain);
        let endpoints = self.endpoints.iter();
        endpoints.filter(move |endpoint| all || is_over(&endpoint.drain))
    }
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointView {
    /// Its id.
    pub id: EndpointId,
    /// Its URL.
    pub url: String,
    /// How much it takes beside the version's others.
    pub weight: u32,
    /// What its probes say.
    pub healthy: bool,
    /// It was added while the process ran, and has not answered a probe yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_new: bool,
    /// It takes no new callers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
}

/// A rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutView {
    /// Its id.
    pub id: RolloutId,
    /// The stable version when it began.
    pub from: VersionName,
    /// The candidate.
    pub to: VersionName,
    /// What its plan is called.
    pub plan: String,
    /// What its plan says of itself.
    pub plan_description: String,
    /// Where it is.
    pub status: Status,
    /// Which phase, from 0.
    pub phase: usize,
    /// The phases of its plan.
    pub phases: Vec<PhaseView>,
    /// When it began.
    pub started_at: Timestamp,
    /// By whom.
    pub started_by: String,
    /// Seconds in the present step, pauses not counted.
    pub step_seconds: f64,
    /// Seconds that the present phase holds for.
    pub hold_seconds: f64,
    /// Seconds after which it is inconclusive.
    pub deadline_seconds: Option<f64>,
    /// The share in force.
    pub share_wanted: Share,
    /// Whether it was set by hand.
    pub share_by_hand: bool,
    /// Affinity keys seen in the present step, by the version they got.
    pub keys: Arms<u64>,
    /// The warning that holds it.
    pub held: Option<String>,
    /// Whether it waits for a promotion by hand.
    pub ready: bool,
    /// What the phase must show.
    pub evidence_wanted: String,
    /// Trials of the candidate in the present step: callers' first blocks with a tool.
    pub trials: u64,
    /// What the trials prove so far; nothing where thresholds alone decide.
    pub proof: Option<Proof>,
    /// What is tolerated, as it is applied: a latency tolerance is taken down to an edge of the histogram.
    pub tolerances: Tolerances,
    /// Seconds until the candidate is shown to be safe, if trials go on like this.
    pub to_safe_seconds: Option<f64>,
    /// Seconds until it is shown to be worse.
    pub to_worse_seconds: Option<f64>,
    /// What keeps the flag of a flag's rollout off for everybody, if something is killed that does.
    #[serde(default)]
    pub killed: Option<String>,
    /// Why the comparison does not count at present, if so.
    pub set_aside: Option<String>,
    /// Signals given by hand, by kind.
    pub signals: BTreeMap<String, u32>,
    /// What is missing for the phase to pass, the hold apart.
    pub missing: Option<String>,
    /// Both sides, over the present step.
    pub arms: Arms<ArmView>,
    /// Tool by tool, over the present step.
    pub tools: Vec<ToolView>,
    /// The findings of the last look, in words, worst first.
    pub findings: Vec<String>,
    /// What happened, oldest first; the latest only.
    pub events: Vec<EventView>,
    /// Why it ended.
    pub ended_reason: Option<String>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// What became of live sessions when the candidate was taken back.
    pub sessions_rebound: u64,
    /// Those that got a 404.
    pub sessions_ended: u64,
}

impl RolloutView {
    /// The share of new keys that got the candidate, once there are any.
    pub fn share_realised(&self) -> Option<f64> {
        let all = self.keys.stable + self.keys.candidate;
        (all > 0).then(|| self.keys.candidate as f64 / all as f64)
    }
}

/// What a candidate may be worse by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tolerances {
    /// More errors, as the plan says it.
    pub errors: String,
    /// Slower, before it holds: a ratio such as 1.114.
    pub latency_ratio: f64,
    /// Slower, before it is taken back.
    pub latency_critical_ratio: f64,
}

/// A phase of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseView {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its share.
    pub share: Share,
    /// What it holds for.
    pub hold_seconds: f64,
}

/// The same thing on both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Arms<T> {
    /// Of the stable version.
    pub stable: T,
    /// Of the candidate.
    pub candidate: T,
}

/// The calls of one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ArmView {
    /// How many.
    pub calls: u64,
    /// For how many the version is to blame.
    pub bad: u64,
    /// Their ratio.
    pub error_rate: Option<f64>,
    /// Calls a second.
    pub calls_per_second: f64,
    /// Median seconds to the last byte. Nothing when there are none, or when so many calls failed that it is endless.
    pub latency_p50_seconds: Option<f64>,
    /// 95th percentile.
    pub latency_p95_seconds: Option<f64>,
    /// 99th percentile.
    pub latency_p99_seconds: Option<f64>,
    /// 95th percentile of seconds to the first byte.
    pub first_byte_p95_seconds: Option<f64>,
}

/// A tool on both sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolView {
    /// Its label.
    pub tool: String,
    /// Both sides.
    pub arms: Arms<ArmView>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventView {
    /// Its place in the log.
    pub position: u64,
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub actor: String,
    /// What, in words.
    pub text: String,
}
