//! The sequential judge of one rollout: it takes blocks of trials and says, at every moment and as often as one likes, what they
//! prove. Its error guarantee holds at all moments at once (judge.md).

mod comparison;
mod forecast;
mod judge;
mod weights;

pub use crate::eprocess::Tolerance;
pub use judge::{Judge, TOOLS_MAX};

use crate::{Scope, exceedance::Margins};
use serde::{Deserialize, Serialize};
use std::{f64::consts::LN_10, sync::Arc};

/// What the comparison is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aspect {
    /// Trials with a bad call.
    Errors,
    /// Trials with a call that its client gave up, or that was refused as the caller's own fault. Callers are to blame for either
    /// now and then, on both sides alike; a version that makes it more is worse.
    Unserved,
    /// Seconds to the first byte.
    FirstByte,
    /// Seconds to the last byte.
    LastByte,
}

/// How a rollout is judged. All of it comes from the plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The chance that a candidate that is within tolerance is ever called a regression.
    pub alpha: f64,
    /// The chance that a candidate that is beyond tolerance is ever called safe in a phase.
    pub beta: f64,
    /// How many more trials may fail, and be left by their clients.
    pub errors: Tolerance,
    /// How much slower it may be before the rollout holds, in steps of a histogram bucket: `2^(k/32)`.
    pub latency_warning: u16,
    /// How much slower it may be before it is taken back.
    pub latency_critical: u16,
    /// What is compared; the rest is for thresholds alone.
    pub aspects: Vec<Aspect>,
    /// How many blocks the rollout may take by its plan: over so many the restarts are spread.
    pub horizon_blocks: f64,
    /// Beyond this rate of bad trials stable is broken, and a comparison with it says nothing.
    pub stable_bad_max: f64,
}

impl Settings {
    fn margins(&self) -> Margins {
        Margins {
            warning: self.latency_warning,
            critical: self.latency_critical,
        }
    }
}

/// How far a side of a comparison is: it is decided at `needed`. Both are log10.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The evidence now.
    pub log10: f64,
    /// What it takes.
    pub needed: f64,
}

impl Progress {
    /// From the natural logarithm of the evidence; decided at `1/alpha`.
    fn new(ln: f64, alpha: f64) -> Self {
        // What is no number proves nothing, and must not get into a log that could not be read again.
        let ln = if ln.is_finite() { ln } else { 0.0 };
        Self {
            log10: ln / LN_10,
            needed: -alpha.clamp(f64::MIN_POSITIVE, 1.0).log10(),
        }
    }

    /// Whether it is there.
    pub fn reached(&self) -> bool {
        self.needed > 0.0 && self.log10 >= self.needed
    }
}

/// One comparison of the two sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// What it is about.
    pub aspect: Aspect,
    /// Whose trials.
    pub scope: Scope,
    /// That the candidate is worse than is ever allowed. `needed` is what it takes for this line to decide by itself.
    pub worse: Progress,
    /// That it is slower than is allowed without a hold. Latency only.
    pub slower: Option<Progress>,
    /// That it is within tolerance. Pooled lines only.
    pub safe: Option<Progress>,
    /// Stable's trials in this step, and the bad ones among them; for latency, those beyond [`percentile`](Self::percentile).
    pub stable: (u64, u64),
    /// The candidate's.
    pub candidate: (u64, u64),
    /// The percentile of stable's earlier times that the counts are of: the most telling of those compared. Latency only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percentile: Option<u8>,
}

/// Why the comparison does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distrust {
    /// The candidate gets another share of the keys than it should: something routes around the gateway's split.
    SampleRatio,
    /// Two halves of stable differ as if they were two versions: trials are not independent of each other here.
    Sentinel,
    /// Stable itself is broken.
    StableBroken,
}

/// The tool that a regression is attributed to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Culprit {
    /// The tool.
    pub tool: Arc<str>,
    /// What about it.
    pub aspect: Aspect,
    /// Whether its own evidence suffices, the many tools accounted for; otherwise it is merely the most suspicious.
    pub proven: bool,
}

/// What the trials prove so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// Every comparison, pooled ones first, then tools by falling suspicion; the most telling only.
    pub lines: Vec<Line>,
    /// That the candidate is a regression: the average over all lines.
    pub worse: Progress,
    /// That it is slower than is allowed without a hold: the average over latency lines.
    pub slower: Progress,
    /// That it is safe: the least of the pooled lines. It begins anew with each step.
    pub safe: Progress,
    /// Whether it was called a regression. That stands for good.
    pub regression: bool,
    /// Always-valid p-value of "within tolerance": the least of `1/E` so far.
    pub p_value: f64,
    /// Who is to blame, once it is a regression.
    pub culprit: Option<Culprit>,
    /// That the sample ratio is wrong.
    pub sample_ratio: Progress,
    /// That two halves of stable differ.
    pub sentinel: Progress,
    /// Why none of it counts, if so; thresholds alone decide then.
    pub distrust: Option<Distrust>,
    /// Trials of the candidate in this step: by key and tool, or by key where there are no tools.
    pub trials: u64,
    /// Stable's.
    pub stable_trials: u64,
    /// Blocks taken in this step.
    pub blocks: u64,
}

impl Proof {
    /// What is left of it when another step begins, before anything of that step is known: what speaks against the candidate.
    pub fn begin_step(&mut self) {
        (self.trials, self.stable_trials, self.blocks) = (0, 0, 0);
        self.safe.log10 = 0.0;
        for line in &mut self.lines {
            (line.stable, line.candidate) = ((0, 0), (0, 0));
            if let Some(safe) = &mut line.safe {
                safe.log10 = 0.0;
            }
        }
    }
}

impl Default for Proof {
    /// Nothing is known.
    fn default() -> Self {
        Self {
            lines: Vec::new(),
            worse: Progress::default(),
            slower: Progress::default(),
            safe: Progress::default(),
            regression: false,
            p_value: 1.0,
            culprit: None,
            sample_ratio: Progress::default(),
            sentinel: Progress::default(),
            distrust: None,
            trials: 0,
            stable_trials: 0,
            blocks: 0,
        }
    }
}

/// After how many more blocks like those of this step a verdict is to be expected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// Until it is safe; nothing when that is not in sight.
    pub safe_blocks: Option<u64>,
    /// Until it is a regression; nothing when that is not in sight.
    pub worse_blocks: Option<u64>,
}
