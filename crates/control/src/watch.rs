//! The watch over one rollout: it gathers what the cores send into blocks, and judges blocks that are on the disk.

use crate::view::{ArmView, Arms};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serin_judge::{Arm, Assessment, LogHistogram, Metric, Monitor, Tally};
use serin_model::{
    name::{ServiceName, VersionName},
    observe::{CellKey, Counts, NO_TOOL, Outcome, Sealed},
    rollout::Rollout,
    service::Protocol,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Most affinity keys told apart in a step: beyond it the realised share no longer changes, and neither would anybody's
/// opinion of it.
const KEYS_MAX: usize = 200_000;

/// Most tools a version told apart in a step, like the labels of the metrics.
const TOOLS_MAX: usize = serin_model::observe::TOOL_LABELS_MAX + 3;

/// The watch over one rollout.
pub(crate) struct Watch {
    service: ServiceName,
    from: VersionName,
    to: VersionName,
    /// Whether calls without a tool are judged: those of plain HTTP services are, `tools/list` and its like are not.
    judge_toolless: bool,
    /// The step that the monitor is of.
    step: u32,
    began: f64,
    monitor: Monitor,
    /// What came since the last block.
    pending: (Arm, Arm),
    /// The whole step, tool by tool.
    whole: (Arm, Arm),
    keys: HashMap<u64, bool>,
    /// Whether this process has seen a call of the candidate in this step.
    fresh: bool,
    /// The last look.
    pub(crate) assessment: Option<Assessment>,
}

/// A block as it is stored.
#[derive(Serialize, Deserialize)]
pub(crate) struct Block {
    step: u32,
    at_seconds: f64,
    stable: Arm,
    candidate: Arm,
}

impl Block {
    /// Its stored form.
    pub(crate) fn pack(&self) -> Vec<u8> {
        // Numbers, names and lists only: there is nothing in it that could fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// A block from its stored form; nothing when it is not one.
    pub(crate) fn unpack(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

impl Watch {
    /// A watch over a rollout as it is.
    pub(crate) fn new(rollout: &Rollout, protocol: Protocol) -> Self {
        let began = seconds(rollout.step_started_at);
        Self {
            service: rollout.service.clone(),
            from: rollout.from.clone(),
            to: rollout.to.clone(),
            judge_toolless: protocol == Protocol::Http,
            step: rollout.step,
            began,
            monitor: monitor(rollout, began),
            pending: Default::default(),
            whole: Default::default(),
            keys: HashMap::new(),
            fresh: false,
            assessment: None,
        }
    }

    /// Starts anew when the rollout has taken another step: counts of one share are not mixed with those of another.
    pub(crate) fn follow(&mut self, rollout: &Rollout, now: f64) {
        if self.step != rollout.step {
            self.step = rollout.step;
            self.began = now;
            self.monitor = monitor(rollout, now);
            self.pending = Default::default();
            self.whole = Default::default();
            self.keys.clear();
            self.fresh = false;
            self.assessment = None;
        }
    }

    /// Takes what a core sent.
    pub(crate) fn gather(&mut self, rollout: &Rollout, sealed: &Sealed) {
        let mine = |key: &CellKey| key.service == self.service;
        for (key, counts) in sealed.cells.iter().filter(|(key, _)| mine(key)) {
            let is_candidate = key.version == self.to;
            let arm = match is_candidate {
                true => &mut self.pending.1,
                false if key.version == self.from => &mut self.pending.0,
                false => continue,
            };
            let tally = tally(counts);
            if &*key.tool == NO_TOOL && !self.judge_toolless {
                // A version that fails its `initialize` or lists is broken too, but such calls are no trials, and how long they
                // take is nobody's measure.
                let errors = Tally {
                    first_byte: LogHistogram::default(),
                    last_byte: LogHistogram::default(),
                    ..tally
                };
                arm.add_apart(&key.tool, &errors);
            } else if arm.tools.len() < TOOLS_MAX || arm.tools.contains_key(&key.tool) {
                arm.add(&key.tool, &tally);
                self.fresh |= is_candidate && tally.calls > 0;
            }
        }
        for trials in sealed.trials.iter().filter(|t| t.rollout == rollout.id) {
            for new in &trials.report.keys {
                if self.keys.len() < KEYS_MAX || self.keys.contains_key(&new.key) {
                    self.keys.insert(new.key, new.is_candidate);
                }
            }
        }
    }

    /// The block that ends now, if anything came.
    pub(crate) fn seal(&mut self, now: f64) -> Option<Block> {
        let (stable, candidate) = std::mem::take(&mut self.pending);
        if stable.is_empty() && candidate.is_empty() {
            return None;
        }
        Some(Block {
            step: self.step,
            at_seconds: now,
            stable,
            candidate,
        })
    }

    /// Takes a block that is on the disk. Blocks of earlier steps are not of this monitor.
    pub(crate) fn take(&mut self, block: &Block) {
        if block.step == self.step {
            self.monitor
                .add(block.at_seconds, &block.stable, &block.candidate);
            self.whole.0.merge(&block.stable);
            self.whole.1.merge(&block.candidate);
        }
    }

    /// How the candidate stands.
    pub(crate) fn assess(&mut self, now: f64) -> Assessment {
        let mut assessment = self.monitor.assess(now);
        assessment.fresh = self.fresh;
        self.assessment = Some(assessment.clone());
        assessment
    }

    /// Affinity keys by the version they got.
    pub(crate) fn keys(&self) -> Arms<u64> {
        let candidate = self.keys.values().filter(|candidate| **candidate).count() as u64;
        Arms {
            stable: self.keys.len() as u64 - candidate,
            candidate,
        }
    }

    /// Both sides over the present step, all calls together.
    pub(crate) fn arms(&self, now: f64) -> Arms<ArmView> {
        Arms {
            stable: self.arm(&self.whole.0.pooled, now),
            candidate: self.arm(&self.whole.1.pooled, now),
        }
    }

    /// Both sides, tool by tool.
    pub(crate) fn tools(&self, now: f64) -> BTreeMap<Arc<str>, Arms<ArmView>> {
        let mut tools: BTreeMap<Arc<str>, Arms<ArmView>> = BTreeMap::new();
        for (tool, tally) in &self.whole.0.tools {
            tools.entry(Arc::clone(tool)).or_default().stable = self.arm(tally, now);
        }
        for (tool, tally) in &self.whole.1.tools {
            tools.entry(Arc::clone(tool)).or_default().candidate = self.arm(tally, now);
        }
        tools
    }

    fn arm(&self, tally: &Tally, now: f64) -> ArmView {
        let elapsed = (now - self.began).max(1e-3);
        let value = |metric| {
            tally
                .value(metric, elapsed)
                .filter(|value| value.is_finite())
        };
        ArmView {
            calls: tally.calls,
            bad: tally.bad,
            error_rate: value(Metric::ErrorRate),
            calls_per_second: tally.calls as f64 / elapsed,
            latency_p50_seconds: value(Metric::LatencyP50),
            latency_p95_seconds: value(Metric::LatencyP95),
            latency_p99_seconds: value(Metric::LatencyP99),
            first_byte_p95_seconds: value(Metric::FirstByteP95),
        }
    }
}

fn monitor(rollout: &Rollout, now: f64) -> Monitor {
    Monitor::new(
        rollout.plan.thresholds(rollout.phase),
        rollout.plan.criteria(rollout.phase),
        now,
    )
}

fn tally(counts: &Counts) -> Tally {
    Tally {
        calls: counts.calls(),
        bad: counts.bad(),
        client_errors: counts.of(Outcome::Http4xx),
        auth_failures: counts.auth_failures,
        first_byte: counts.first_byte.clone(),
        last_byte: counts.last_byte.clone(),
    }
}

/// Seconds since 1970.
pub(crate) fn seconds(at: Timestamp) -> f64 {
    at.as_nanosecond() as f64 / 1e9
}
