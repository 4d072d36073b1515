//! How a candidate stands: what the fixed rules found and what the trials prove. Everything that decides reads this and nothing
//! else, and every decision carries it into the log.

use crate::{Limit, Metric, sequential::Proof};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How bad a breach is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Holds the rollout.
    Warning,
    /// Takes the candidate back.
    Critical,
}

/// What a check found. States are never conflated: silence is not health, and too little is not enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The candidate had no call.
    NoData,
    /// It had too few.
    Insufficient,
    /// Within the limit.
    Pass,
    /// Beyond the limit, not yet for long enough.
    Pending,
    /// Beyond the limit for long enough; for a criterion: not met.
    Fail,
}

/// Whose calls a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All calls.
    All,
    /// The calls of one tool.
    Tool(Arc<str>),
}

/// One rule, looked at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub metric: Metric,
    /// Whose calls.
    pub scope: Scope,
    /// The level of the rule; nothing for a criterion.
    pub level: Option<Level>,
    /// What was found.
    pub check: Check,
    /// The limit as the plan has it.
    pub limit: Limit,
    /// The candidate's value.
    pub candidate: Option<f64>,
    /// Stable's value.
    pub stable: Option<f64>,
    /// The candidate's calls in the window.
    pub samples: u64,
    /// Whether stable is beyond the limit too: such a warning says nothing about the candidate, and neither holds nor passes
    /// for evidence. A critical limit is a promise to the callers, and binds whatever stable does.
    pub stable_too: bool,
}

/// What all evidence says about the candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Worse than the plan allows.
    Regression,
    /// Shown to be within what the plan allows. Fixed rules never say so.
    Safe,
    /// Neither, so far.
    Continue,
}

/// How the candidate stands at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assessment {
    /// What all evidence says.
    pub verdict: Verdict,
    /// Every threshold that is breached or pending, worst first.
    pub findings: Vec<Finding>,
    /// Every criterion.
    pub criteria: Vec<Finding>,
    /// Trials of the candidate since the step began; calls, in events from before there were trials.
    pub trials: u64,
    /// Calls of the candidate since the step began.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub calls: u64,
    /// Calls of stable since the step began.
    pub stable_calls: u64,
    /// Whether the candidate had a call lately: time alone passes no phase.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub fresh: bool,
    /// Numbers inside the results of tools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<ValueFinding>,
    /// What the trials prove.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Box<Proof>>,
    /// Blocks that it rests on besides, because the disk has refused them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unstored: u64,
    /// The blocks it rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<Basis>,
}

/// A rule on a number inside a tool's results, looked at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValueFinding {
    /// What the plan calls it.
    pub name: Arc<str>,
    /// The tool.
    pub tool: Arc<str>,
    /// The level whose limit is breached; nothing when none is.
    pub level: Option<Level>,
    /// What was found.
    pub check: Check,
    /// The limit that is breached, or the warning (else the critical) one.
    pub limit: f64,
    /// The candidate's mean in the window.
    pub candidate: Option<f64>,
    /// Stable's.
    pub stable: Option<f64>,
    /// The candidate's results in the window that had the number.
    pub samples: u64,
}

/// The stored blocks that an assessment rests on: with them it can be made again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basis {
    /// The sequence of the first block of the rollout.
    pub first: u64,
    /// That of the last.
    pub last: u64,
    /// How many there are.
    pub blocks: u64,
    /// BLAKE3 over all of them, each hashed together with the digest of those before; hexadecimal.
    pub digest: String,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde gives a reference to the field"
)]
const fn is_zero(value: &u64) -> bool {
    *value == 0
}

const fn yes() -> bool {
    true
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde gives a reference to the field"
)]
const fn is_true(value: &bool) -> bool {
    *value
}

impl Assessment {
    /// What the fixed rules say: a breach of a critical limit, or nothing.
    pub fn verdict_of_rules(&self) -> Verdict {
        let worst_value = self.worst_value(Level::Critical);
        if self.worst(Level::Critical).is_some() || worst_value.is_some() {
            Verdict::Regression
        } else {
            Verdict::Continue
        }
    }

    /// The worst threshold that fails for good, if any.
    pub fn worst(&self, level: Level) -> Option<&Finding> {
        self.findings
            .iter()
            .find(|f| f.level == Some(level) && f.check == Check::Fail && !f.stable_too)
    }

    /// The worst threshold that is breached, be it for long enough or not yet: no phase passes meanwhile.
    pub fn breach(&self) -> Option<&Finding> {
        self.findings
            .iter()
            .find(|f| f.level.is_some() && !f.stable_too)
    }

    /// The worst rule on a value that is breached for good, if any.
    pub fn worst_value(&self, level: Level) -> Option<&ValueFinding> {
        self.values
            .iter()
            .find(|f| f.level == Some(level) && f.check == Check::Fail)
    }

    /// What is proven against the candidate, while the comparison counts.
    pub fn regression(&self) -> Option<&Proof> {
        let proof = self.proof.as_deref()?;
        (proof.regression && self.verdict == Verdict::Regression).then_some(proof)
    }

    /// What is proven of its times, beyond what passes without a hold.
    pub fn slower(&self) -> Option<&Proof> {
        let proof = self.proof.as_deref()?;
        (proof.distrust.is_none() && proof.slower.reached()).then_some(proof)
    }

    /// Whether every criterion is met.
    pub fn criteria_met(&self) -> bool {
        self.criteria.iter().all(|f| f.check == Check::Pass)
    }
}
