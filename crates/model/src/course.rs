//! The course of a rollout, as its blocks of counts tell it.
//!
//! What is known of a candidate is a fold of stored blocks and nothing else. The orchestrator folds them as they come, a restart
//! folds them again, and a replay folds them by another plan: the same blocks give the same assessment.

use crate::{plan::Plan, rollout::Rollout};
use serde::{Deserialize, Serialize};
use serin_judge::{
    Arm, Assessment, Basis, Monitor, Verdict,
    sequential::{Forecast, Judge},
    trial::TrialBlock,
};
use std::time::Duration;

/// Longest silence of a candidate whose phase may pass, however long the hold.
const SILENCE_MAX: Duration = Duration::from_mins(5);

/// The counts of one tick, as they are stored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// The step of the rollout.
    pub step: u32,
    /// When the tick was, in seconds since 1970.
    pub at_seconds: f64,
    /// Stable's calls: what thresholds look at.
    pub stable: Arm,
    /// The candidate's.
    pub candidate: Arm,
    /// The trials of the block of the judge that ended with this tick, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trials: Option<Box<TrialBlock>>,
}

impl Block {
    /// Its stored form.
    pub fn pack(&self) -> Vec<u8> {
        // Numbers, names and lists only: there is nothing in it that could fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// A block from its stored form; nothing when it is not one.
    pub fn unpack(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.stable.is_empty() && self.candidate.is_empty() && self.trials.is_none()
    }
}

/// A step of a rollout: one share, from one moment on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Counts up with each.
    pub number: u32,
    /// The phase of the plan whose rules are in force.
    pub phase: usize,
    /// When it began, in seconds since 1970.
    pub began_seconds: f64,
}

impl Step {
    /// The present step of a rollout, if it began at `began_seconds`.
    pub const fn of(rollout: &Rollout, began_seconds: f64) -> Self {
        Self {
            number: rollout.step,
            phase: rollout.phase,
            began_seconds,
        }
    }
}

/// What the blocks of a rollout have shown so far.
#[derive(Clone, Debug)]
pub struct Course {
    plan: Plan,
    step: Step,
    monitor: Monitor,
    /// Of the whole rollout: what speaks against a candidate is not forgotten between steps.
    judge: Judge,
    /// The whole step, tool by tool.
    whole: (Arm, Arm),
    /// When the candidate last had a call, in this step.
    last_call_seconds: Option<f64>,
    basis: Basis,
    digest: [u8; blake3::OUT_LEN],
    /// Blocks that it has taken and that are not on the disk.
    unstored: u64,
}

impl Course {
    /// The course of a rollout by a plan, at the beginning of a step.
    pub fn new(plan: Plan, step: Step) -> Self {
        Self {
            monitor: monitor(&plan, step),
            judge: Judge::new(plan.judge_settings()),
            plan,
            step,
            whole: Default::default(),
            last_call_seconds: None,
            basis: Basis::default(),
            digest: [0; blake3::OUT_LEN],
            unstored: 0,
        }
    }

    /// The present step.
    pub const fn step(&self) -> Step {
        self.step
    }

    /// Another step begins: thresholds start anew, because counts of one share are not mixed with those of another.
    pub fn begin(&mut self, step: Step) {
        self.step = step;
        self.monitor = monitor(&self.plan, step);
        self.whole = Default::default();
        self.last_call_seconds = None;
    }

    /// Takes a block that is on the disk, as it is stored there and by its place among all blocks.
    pub fn take(&mut self, sequence: u64, bytes: &[u8], block: &Block) {
        self.note_stored(sequence, bytes);
        self.look_at(block);
    }

    /// Takes a block that the disk has refused: protection goes before bookkeeping. It is in no basis, and no phase passes on it,
    /// until [`stored`](Self::stored).
    pub fn take_unstored(&mut self, block: &Block) {
        self.unstored += 1;
        self.look_at(block);
    }

    /// A block that was taken before is on the disk now, after all those before it.
    pub fn stored(&mut self, sequence: u64, bytes: &[u8]) {
        self.unstored = self.unstored.saturating_sub(1);
        self.note_stored(sequence, bytes);
    }

    fn note_stored(&mut self, sequence: u64, bytes: &[u8]) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.digest);
        hasher.update(bytes);
        self.digest = hasher.finalize().into();
        if self.basis.blocks == 0 {
            self.basis.first = sequence;
        }
        self.basis.last = sequence;
        self.basis.blocks += 1;
    }

    /// Takes a block for what it shows alone: one that nobody stores, as in a simulation.
    pub fn look_at(&mut self, block: &Block) {
        if let Some(trials) = &block.trials {
            self.judge.take(trials);
        }
        // Calls of earlier steps are not of this monitor.
        if block.step == self.step.number {
            if block.candidate.pooled.calls > 0 {
                self.last_call_seconds = Some(block.at_seconds);
            }
            self.monitor
                .add(block.at_seconds, &block.stable, &block.candidate);
            self.whole.0.merge(&block.stable);
            self.whole.1.merge(&block.candidate);
        }
    }

    /// How the candidate stands at a moment.
    pub fn assess(&mut self, now_seconds: f64) -> Assessment {
        let mut assessment = self.monitor.assess(now_seconds);
        let mut proof = self.judge.proof();
        let is_of_this_step = self.judge.step() == Some(self.step.number);
        if !is_of_this_step {
            // No block of this step has ended yet; what was counted in the one before is not of it.
            proof.begin_step();
        }
        if proof.distrust.is_none() {
            let judge = &self.plan.judge;
            assessment
                .findings
                .retain(|finding| judge.guards(finding.metric));
            assessment.verdict = assessment.verdict_of_rules();
        }
        assessment.trials = proof.trials;
        assessment.verdict = match (assessment.verdict, self.judge.verdict()) {
            (Verdict::Regression, _) | (_, Verdict::Regression) => Verdict::Regression,
            (_, Verdict::Safe) if is_of_this_step => Verdict::Safe,
            _ => Verdict::Continue,
        };
        let silent_since = self.last_call_seconds.map(|last| now_seconds - last);
        assessment.fresh =
            silent_since.is_some_and(|silent| silent.abs() <= self.silence_seconds_max());
        // Where thresholds alone decide, trials are counted and nothing is compared.
        let compares = !self.judge.settings().aspects.is_empty();
        assessment.proof = compares.then(|| Box::new(proof));
        assessment.unstored = self.unstored;
        assessment.basis = (self.basis.blocks > 0).then(|| Basis {
            digest: blake3::Hash::from_bytes(self.digest).to_hex().to_string(),
            ..self.basis.clone()
        });
        assessment
    }

    /// How long the candidate may be without a call before what was seen of it is old: a tenth of the hold, a block at least, some
    /// minutes at most. A phase whose traffic has stopped must not pass on what came before, however good it was.
    fn silence_seconds_max(&self) -> f64 {
        let hold = self
            .plan
            .phases
            .get(self.step.phase)
            .map(|phase| phase.hold);
        let tenth = hold.unwrap_or_default().as_secs_f64() / 10.0;
        tenth
            .min(SILENCE_MAX.as_secs_f64())
            .max(self.plan.judge.block.as_secs_f64())
    }

    /// When the judge is expected to decide, at the present traffic.
    pub fn forecast(&self) -> Option<Forecast> {
        self.judge.blocks_to_verdict()
    }

    /// Both sides over the present step.
    pub const fn whole(&self) -> (&Arm, &Arm) {
        (&self.whole.0, &self.whole.1)
    }
}

fn monitor(plan: &Plan, step: Step) -> Monitor {
    Monitor::new(
        plan.thresholds(step.phase),
        plan.criteria(step.phase),
        step.began_seconds,
    )
    .with_values(plan.value_thresholds())
}
