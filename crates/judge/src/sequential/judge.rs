//! The judge itself: from blocks of trials to a verdict.

use super::{
    Culprit, Distrust, Line, Progress, Proof, Settings,
    comparison::{Pooled, Tool},
    weights::{Mean, Weights},
};
use crate::{
    Scope, Verdict, binomial,
    eprocess::{Budget, Counts, EProcess, Rules, Tolerance},
    exceedance::Exceedance,
    sample_ratio::SampleRatio,
    trial::{TrialBlock, Trials},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// How many tools are compared: as many as the gateway has labels for, and a few names of its own. What bounds the state.
pub const TOOLS_MAX: usize = 205;

/// How many lines of tools a proof holds: those that a reader would look at.
const TOOL_LINES_MAX: usize = 16;

/// The chance that a rollout in which keys are split as they should be is ever distrusted, and the same for the A/A sentinel.
/// Smaller than any alpha in use: to set the judge aside wrongly costs more than to notice late.
const DISTRUST_ALPHA: f64 = 0.001;

/// Stable has recovered once its rate of bad trials is below this part of what is too much: at the limit itself it would break and
/// recover with each block, and the log would say so each time.
const RECOVERED: f64 = 0.5;

/// How many blocks back it is decided whether stable is broken: five minutes of ten seconds each.
const STABLE_BLOCKS: usize = 30;

/// What a block leaves of the mean number of trials a block.
const PACE_KEPT: f64 = 0.9;

/// The judge of one rollout. Its state is a fold of the blocks it has taken: the same blocks give the same proof, to the bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judge {
    pub(super) settings: Settings,
    pub(super) budget: Budget,
    step: Option<u32>,
    /// Blocks of this step, and those of them that were compared.
    blocks: u64,
    pub(super) compared: u64,
    stable: Seen,
    pub(super) candidate: Seen,
    pub(super) pooled: Pooled,
    tools: BTreeMap<Arc<str>, Tool>,
    /// The most that were ever listed. It never falls, so no evidence of a tool ever gains weight.
    pub(super) tools_listed: usize,
    sample_ratio: SampleRatio,
    sample_ratio_wrong: bool,
    sentinel: Sentinel,
    sentinel_tripped: bool,
    /// Stable's trials, `(bad, all)`, in the last blocks that had any.
    stable_recent: VecDeque<(u64, u64)>,
    stable_broken: bool,
    /// What was found, for as long as it stands.
    pub(super) found: Verdict,
    /// The most evidence against the candidate so far, as a natural logarithm.
    ln_worse_max: f64,
}

impl Judge {
    /// At the start of a rollout.
    pub fn new(settings: Settings) -> Self {
        let budget = Budget::new(settings.horizon_blocks);
        Self {
            budget,
            step: None,
            blocks: 0,
            compared: 0,
            stable: Seen::default(),
            candidate: Seen::default(),
            pooled: Pooled::new(&settings, budget),
            tools: BTreeMap::new(),
            tools_listed: 0,
            sample_ratio: SampleRatio::default(),
            sample_ratio_wrong: false,
            sentinel: Sentinel::new(),
            sentinel_tripped: false,
            stable_recent: VecDeque::new(),
            stable_broken: false,
            found: Verdict::Continue,
            ln_worse_max: 0.0,
            settings,
        }
    }

    /// How it judges.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The step of the last block it took.
    pub const fn step(&self) -> Option<u32> {
        self.step
    }

    /// Takes a block. The first of another step begins that step: the same callers count again, so its trials are compared by
    /// themselves. What spoke against the candidate in the steps before stands as it was; all else begins anew.
    pub fn take(&mut self, block: &TrialBlock) {
        if self.step != Some(block.step) {
            self.begin_step(block);
        }
        self.budget.block();
        self.blocks += 1;
        self.count(block);
        self.check(block);
        if self.distrust().is_some() {
            return;
        }
        self.compare(block);
        let worse = self.ln_worse();
        self.ln_worse_max = self.ln_worse_max.max(worse);
        if Progress::new(worse, self.settings.alpha).reached() {
            self.found = Verdict::Regression;
        } else if self.found == Verdict::Continue && self.safe_progress().reached() {
            self.found = Verdict::Safe;
        }
    }

    /// What the trials prove so far.
    pub fn proof(&self) -> Proof {
        let lines = self.lines();
        Proof {
            worse: Progress::new(self.ln_worse(), self.settings.alpha),
            slower: Progress::new(self.ln_slower(), self.settings.alpha),
            safe: self.safe_progress(),
            regression: self.found == Verdict::Regression,
            p_value: (-self.ln_worse_max).exp(),
            culprit: (self.found == Verdict::Regression)
                .then(|| culprit(&lines))
                .flatten(),
            sample_ratio: Progress::new(self.sample_ratio.ln_e(), DISTRUST_ALPHA),
            sentinel: Progress::new(self.sentinel.ln_e(), DISTRUST_ALPHA),
            distrust: self.distrust(),
            trials: self.candidate.trials(),
            stable_trials: self.stable.trials(),
            blocks: self.blocks,
            lines,
        }
    }

    /// A regression stays one for the whole rollout. Safe stays so within its step, unless a regression shows after all or the
    /// comparison is not to be trusted.
    pub fn verdict(&self) -> Verdict {
        match self.found {
            Verdict::Safe if self.distrust().is_some() => Verdict::Continue,
            found => found,
        }
    }

    /// Whether the candidate is, as things stand, slower than it may be without a hold.
    pub fn is_slower(&self) -> bool {
        self.distrust().is_none() && Progress::new(self.ln_slower(), self.settings.alpha).reached()
    }

    fn begin_step(&mut self, block: &TrialBlock) {
        if self.step.is_some() {
            self.budget.step();
            self.pooled.begin_step(&self.settings);
            for tool in self.tools.values_mut() {
                tool.begin_step(&self.settings);
            }
        }
        self.step = Some(block.step);
        self.blocks = 0;
        self.compared = 0;
        self.stable = Seen::default();
        self.candidate = Seen::default();
        self.sample_ratio = SampleRatio::new(block.share);
        self.sample_ratio_wrong = false;
        if !self.sentinel_tripped {
            self.sentinel = Sentinel::new();
        }
        if self.found == Verdict::Safe {
            self.found = Verdict::Continue;
        }
    }

    /// Whether what is compared may be compared.
    fn check(&mut self, block: &TrialBlock) {
        if self.sample_ratio.share().to_bits() != block.share.to_bits() {
            self.sample_ratio = SampleRatio::new(block.share);
        }
        self.sample_ratio.take(block.keys.0, block.keys.1);
        let tripped = |ln: f64| Progress::new(ln, DISTRUST_ALPHA).reached();
        self.sample_ratio_wrong |= tripped(self.sample_ratio.ln_e());

        // By earlier blocks only: whether a block counts must not hang on what is in it.
        let (bad, all) = self
            .stable_recent
            .iter()
            .fold((0, 0), |sum, next| (sum.0 + next.0, sum.1 + next.1));
        let limit = self.settings.stable_bad_max;
        self.stable_broken = if self.stable_broken {
            bad as f64 > all as f64 * limit * RECOVERED
        } else {
            binomial::is_above(bad, all, limit)
        };
        let stable = &block.stable.pooled;
        if stable.trials > 0 {
            self.stable_recent.push_back((stable.bad, stable.trials));
            if self.stable_recent.len() > STABLE_BLOCKS {
                self.stable_recent.pop_front();
            }
        }
        if !self.stable_broken {
            self.sentinel.take(stable, &block.mirror);
            self.sentinel_tripped |= tripped(self.sentinel.ln_e());
        }
    }

    pub(super) fn distrust(&self) -> Option<Distrust> {
        if self.sentinel_tripped {
            Some(Distrust::Sentinel)
        } else if self.sample_ratio_wrong {
            Some(Distrust::SampleRatio)
        } else if self.stable_broken {
            Some(Distrust::StableBroken)
        } else {
            None
        }
    }

    /// Trials count even while nothing is compared: thresholds decide then, and a plan may ask for so many trials without a breach.
    fn count(&mut self, block: &TrialBlock) {
        let first = self.blocks == 1;
        let tools = |side: &BTreeMap<Arc<str>, Trials>| side.values().map(|t| t.trials).sum();
        for (seen, arm) in [
            (&mut self.stable, &block.stable),
            (&mut self.candidate, &block.candidate),
        ] {
            seen.take(arm.pooled.trials, tools(&arm.tools), first);
        }
    }

    fn compare(&mut self, block: &TrialBlock) {
        self.compared += 1;
        let (stable, candidate) = (&block.stable, &block.candidate);
        let (settings, budget) = (&self.settings, self.budget);
        self.pooled
            .take(settings, budget, &stable.pooled, &candidate.pooled);
        let none = Trials::default();
        let names = stable.tools.keys();
        let candidates_own = candidate.tools.keys();
        let candidates_own = candidates_own.filter(|name| !stable.tools.contains_key(*name));
        for name in names.chain(candidates_own) {
            if !self.tools.contains_key(name) {
                if self.tools.len() >= TOOLS_MAX {
                    continue;
                }
                let tool = Tool::new(settings, budget);
                self.tools.insert(Arc::clone(name), tool);
            }
            if let Some(tool) = self.tools.get_mut(name) {
                tool.take(
                    settings,
                    budget,
                    stable.tools.get(name).unwrap_or(&none),
                    candidate.tools.get(name).unwrap_or(&none),
                );
            }
        }
        let compared = self
            .tools
            .values()
            .filter(|tool| tool.is_compared())
            .count();
        let listed = usize::try_from(block.tools_listed).unwrap_or(usize::MAX);
        self.tools_listed = self.tools_listed.max(listed).max(compared);
    }

    pub(super) fn weights(&self) -> Weights {
        Weights::ALL.spread(&self.settings.aspects, self.tools_listed)
    }

    fn ln_worse(&self) -> f64 {
        self.mean(&self.weights(), Exceedance::ln_worse)
    }

    fn ln_slower(&self) -> f64 {
        let weights = Weights::SLOWER.spread(&self.settings.aspects, self.tools_listed);
        self.mean(&weights, Exceedance::ln_slower)
    }

    fn mean(&self, weights: &Weights, latency: impl Fn(&Exceedance) -> f64) -> f64 {
        let mut mean = self.pooled.mean(weights, &latency);
        self.add_tools(&mut mean, weights, &latency);
        mean.ln()
    }

    pub(super) fn add_tools(
        &self,
        mean: &mut Mean,
        weights: &Weights,
        latency: impl Fn(&Exceedance) -> f64,
    ) {
        let mut others = self.tools_listed;
        for tool in self.tools.values().filter(|tool| tool.is_compared()) {
            others = others.saturating_sub(1);
            tool.add_to(mean, weights, &latency);
        }
        // Those that have not been called by both say nothing so far.
        let weight = weights.tool_errors + weights.tool_last_byte;
        mean.add(weight * others as f64, 0.0);
    }

    fn safe_progress(&self) -> Progress {
        Progress::new(
            self.pooled.ln_safe(&self.settings.aspects),
            self.settings.beta,
        )
    }

    fn lines(&self) -> Vec<Line> {
        let weights = self.weights();
        let mut lines = self.pooled.lines(&self.settings, &weights);
        let mut tools: Vec<Line> = self
            .tools
            .iter()
            .filter(|(_, tool)| tool.is_compared())
            .flat_map(|(name, tool)| tool.lines(name, &self.settings, &weights))
            .collect();
        // Stable, so that what is equally suspicious stays in the order of names.
        tools.sort_by(|a, b| suspicion(b).total_cmp(&suspicion(a)));
        tools.truncate(TOOL_LINES_MAX);
        lines.extend(tools);
        lines
    }
}

/// Trials of one side in this step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) by_key: u64,
    by_key_and_tool: u64,
    /// Mean by key in the last blocks.
    pub(super) pace: f64,
}

impl Seen {
    fn take(&mut self, pooled: u64, tools: u64, first: bool) {
        self.by_key += pooled;
        self.by_key_and_tool += tools;
        let kept = if first { 0.0 } else { PACE_KEPT };
        self.pace = self.pace * kept + (1.0 - kept) * pooled as f64;
    }

    fn trials(self) -> u64 {
        if self.by_key_and_tool > 0 {
            self.by_key_and_tool
        } else {
            self.by_key
        }
    }
}

/// Two halves of stable, which are the same version: where they differ, the trials are not what they should be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sentinel {
    more: EProcess,
    fewer: EProcess,
}

impl Sentinel {
    const MORE: Rules = Rules {
        half_life_trials: f64::INFINITY,
        ..Rules::worse(Tolerance::NONE)
    };
    const FEWER: Rules = Rules::within(Tolerance::NONE);

    fn new() -> Self {
        Self {
            more: EProcess::plain(&Self::MORE),
            fewer: EProcess::plain(&Self::FEWER),
        }
    }

    fn take(&mut self, pooled: &Trials, mirror: &Trials) {
        let rest = (
            pooled.bad.saturating_sub(mirror.bad),
            pooled.trials.saturating_sub(mirror.trials),
        );
        let counts = Counts::new((mirror.bad, mirror.trials), rest);
        self.more.take(&Self::MORE, counts);
        self.fewer.take(&Self::FEWER, counts);
    }

    fn ln_e(&self) -> f64 {
        let mut mean = Mean::default();
        mean.add(0.5, self.more.ln_e());
        mean.add(0.5, self.fewer.ln_e());
        mean.ln()
    }
}

/// How near a line is to deciding by itself.
fn suspicion(line: &Line) -> f64 {
    line.worse.log10 - line.worse.needed
}

/// The tool with the most evidence against it, if there is any.
fn culprit(lines: &[Line]) -> Option<Culprit> {
    let suspect = |line: &&Line| line.scope != Scope::All && line.worse.log10 > 0.0;
    let line = lines.iter().find(suspect)?;
    let Scope::Tool(tool) = &line.scope else {
        return None;
    };
    Some(Culprit {
        tool: Arc::clone(tool),
        aspect: line.aspect,
        proven: line.worse.reached(),
    })
}
