//! When a verdict is to be expected.

use super::{
    Forecast, Judge, Progress,
    comparison::Pooled,
    weights::{Mean, Weights},
};
use crate::{Verdict, eprocess::Budget, exceedance::Exceedance};

/// A forecast ends here: nearly fourteen hours of blocks of ten seconds.
const FORECAST_BLOCKS_MAX: u64 = 5_000;

impl Judge {
    /// When a verdict is to be expected if trials go on as in this step, at the present pace. Tools by themselves are left out: a
    /// single one may decide earlier. Nothing when there is nothing to go by.
    pub fn blocks_to_verdict(&self) -> Option<Forecast> {
        let pace = self.candidate.pace / (self.candidate.by_key.max(1) as f64);
        if self.compared == 0 || self.distrust().is_some() || pace <= 0.0 {
            return None;
        }
        let decided = |reached: bool| reached.then_some(0);
        let mut forecast = Forecast {
            safe_blocks: decided(self.found == Verdict::Safe),
            worse_blocks: decided(self.found == Verdict::Regression),
        };
        let mut later = Later::new(self, pace);
        let mut before = later.missing();
        let mut blocks = 0;
        while blocks < FORECAST_BLOCKS_MAX
            && (forecast.safe_blocks.is_none() || forecast.worse_blocks.is_none())
        {
            let stride = (blocks / 4).clamp(1, FORECAST_BLOCKS_MAX - blocks);
            later.take(stride);
            let after = later.missing();
            let at = |found: &mut Option<u64>, before: f64, after: f64| {
                if found.is_none() && after <= 0.0 {
                    *found = Some(blocks + crossing(stride, before, after));
                }
            };
            at(&mut forecast.safe_blocks, before.0, after.0);
            at(&mut forecast.worse_blocks, before.1, after.1);
            blocks += stride;
            before = after;
        }
        Some(forecast)
    }
}

/// A copy of the pooled comparisons that is fed what is to be expected.
struct Later<'a> {
    judge: &'a Judge,
    pooled: Pooled,
    budget: Budget,
    /// What each block is of the whole step so far.
    pace: f64,
    weights: Weights,
    /// What the tools say against the candidate, which stays as it is.
    tools: Mean,
}

impl<'a> Later<'a> {
    fn new(judge: &'a Judge, pace: f64) -> Self {
        let weights = judge.weights();
        let mut tools = Mean::default();
        judge.add_tools(&mut tools, &weights, Exceedance::ln_worse);
        Self {
            judge,
            pooled: judge.pooled.clone(),
            budget: judge.budget,
            pace,
            weights,
            tools,
        }
    }

    fn take(&mut self, blocks: u64) {
        for _ in 0..blocks {
            self.budget.block();
        }
        let factor = self.pace * blocks as f64;
        let (now, settings) = (&self.judge.pooled, &self.judge.settings);
        let rates = [
            (&mut self.pooled.errors, &now.errors),
            (&mut self.pooled.unserved, &now.unserved),
        ];
        for (later, now) in rates {
            later.expect(settings, self.budget, now.counts().times(factor));
        }
        let latencies = [
            (&mut self.pooled.first_byte, &now.first_byte),
            (&mut self.pooled.last_byte, &now.last_byte),
        ];
        for (later, now) in latencies {
            later.expect(self.budget, factor, now.sums());
        }
    }

    /// What is missing, as log10, until it is safe and until it is worse.
    fn missing(&self) -> (f64, f64) {
        let settings = &self.judge.settings;
        let missing = |ln: f64, alpha: f64| {
            let progress = Progress::new(ln, alpha);
            progress.needed - progress.log10
        };
        let mut worse = self.pooled.mean(&self.weights, Exceedance::ln_worse);
        worse.merge(self.tools);
        (
            missing(self.pooled.ln_safe(&settings.aspects), settings.beta),
            missing(worse.ln(), settings.alpha),
        )
    }
}

/// After how many blocks of a stride, of which `before` was missing at its start, nothing is missing. Within a stride the
/// logarithm is taken as growing evenly.
fn crossing(stride: u64, before: f64, after: f64) -> u64 {
    let part = if before > after {
        before / (before - after)
    } else {
        1.0
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between nothing and the stride"
    )]
    let blocks = (part.clamp(0.0, 1.0) * stride as f64).ceil() as u64;
    blocks
}
