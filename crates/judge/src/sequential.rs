//! The sequential judge of one rollout: it takes blocks of trials and says, at every moment and as often as one likes, what they
//! prove. Its error guarantee holds at all moments at once (judge.md).

use crate::{
    Scope, Verdict, binomial,
    eprocess::{Budget, Counts, EProcess, LnSum, Rules},
    exceedance::{Exceedance, Margins, Values},
    sample_ratio::SampleRatio,
    trial::{TrialBlock, Trials},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    f64::consts::LN_10,
    sync::Arc,
};

pub use crate::eprocess::Tolerance;

/// What the comparison is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aspect {
    /// Trials with a bad call.
    Errors,
    /// Trials with a call that its client gave up.
    Left,
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
    /// Stable's trials in this step, and the bad ones among them (for latency: those beyond stable's 95th percentile).
    pub stable: (u64, u64),
    /// The candidate's.
    pub candidate: (u64, u64),
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

/// How many tools are compared: as many as the gateway has labels for, and a few names of its own. What bounds the state.
pub const TOOLS_MAX: usize = 205;

/// How many lines of tools a proof holds: those that a reader would look at.
const TOOL_LINES_MAX: usize = 16;

/// The chance that a rollout in which keys are split as they should be is ever distrusted, and the same for the A/A sentinel.
/// Smaller than any alpha in use: to set the judge aside wrongly costs more than to notice late.
const DISTRUST_ALPHA: f64 = 0.001;

/// How many blocks back it is decided whether stable is broken: five minutes of ten seconds each.
const STABLE_BLOCKS: usize = 30;

/// A forecast ends here: nearly fourteen hours of blocks of ten seconds.
const FORECAST_BLOCKS_MAX: u64 = 5_000;

/// What a block leaves of the mean number of trials a block.
const PACE_KEPT: f64 = 0.9;

/// How much of the whole evidence each kind of line is, before those that are off give theirs to the rest.
struct Weights {
    errors: f64,
    left: f64,
    first_byte: f64,
    last_byte: f64,
    /// Each tool's.
    tool_errors: f64,
    tool_last_byte: f64,
}

impl Weights {
    /// Half to errors, for they are the plainest sign; half of that to single tools, as one faulty tool of many hides in the sum.
    const ALL: Self = Self {
        errors: 0.25,
        left: 0.125,
        first_byte: 0.125,
        last_byte: 0.125,
        tool_errors: 0.25,
        tool_last_byte: 0.125,
    };

    /// Latency lines only.
    const SLOWER: Self = Self {
        errors: 0.0,
        left: 0.0,
        tool_errors: 0.0,
        ..Self::ALL
    };

    /// Spread over the aspects that are compared and over so many tools.
    fn spread(self, aspects: &[Aspect], tools: usize) -> Self {
        let on = |aspect: Aspect, weight: f64| {
            if aspects.contains(&aspect) {
                weight
            } else {
                0.0
            }
        };
        let tool = |aspect: Aspect, weight: f64| if tools > 0 { on(aspect, weight) } else { 0.0 };
        let kept = Self {
            errors: on(Aspect::Errors, self.errors),
            left: on(Aspect::Left, self.left),
            first_byte: on(Aspect::FirstByte, self.first_byte),
            last_byte: on(Aspect::LastByte, self.last_byte),
            tool_errors: tool(Aspect::Errors, self.tool_errors),
            tool_last_byte: tool(Aspect::LastByte, self.tool_last_byte),
        };
        let pooled = kept.errors + kept.left + kept.first_byte + kept.last_byte;
        let sum = (pooled + kept.tool_errors + kept.tool_last_byte).max(f64::MIN_POSITIVE);
        let tools = tools.max(1) as f64;
        Self {
            errors: kept.errors / sum,
            left: kept.left / sum,
            first_byte: kept.first_byte / sum,
            last_byte: kept.last_byte / sum,
            tool_errors: kept.tool_errors / sum / tools,
            tool_last_byte: kept.tool_last_byte / sum / tools,
        }
    }
}

/// A weighted mean of evidence, from logarithms.
#[derive(Clone, Copy, Default)]
struct Mean(LnSum);

impl Mean {
    fn add(&mut self, weight: f64, ln: f64) {
        if weight > 0.0 {
            self.0.add(weight.ln() + ln);
        }
    }

    /// Adds what was weighed before.
    fn merge(&mut self, other: Self) {
        self.0.add(other.0.ln());
    }

    /// Of nothing: no evidence either way.
    fn ln(self) -> f64 {
        Some(self.0.ln()).filter(|ln| ln.is_finite()).unwrap_or(0.0)
    }
}

/// The comparison of how often something happens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Rate {
    worse: EProcess,
    /// Pooled lines only.
    safe: Option<EProcess>,
    /// In this step: `(bad, all)`.
    stable: (u64, u64),
    candidate: (u64, u64),
}

impl Rate {
    fn new(settings: &Settings, safe: bool, budget: Budget) -> Self {
        Self {
            worse: EProcess::restarting(&Rules::worse(settings.errors), budget),
            safe: safe.then(|| EProcess::plain(&Rules::within(settings.errors))),
            stable: (0, 0),
            candidate: (0, 0),
        }
    }

    fn begin_anew(&mut self) {
        self.safe.iter_mut().for_each(EProcess::begin_anew);
        self.stable = (0, 0);
        self.candidate = (0, 0);
    }

    fn take(
        &mut self,
        settings: &Settings,
        budget: Budget,
        stable: (u64, u64),
        candidate: (u64, u64),
    ) {
        if stable.1 == 0 && candidate.1 == 0 {
            return;
        }
        add(&mut self.stable, stable);
        add(&mut self.candidate, candidate);
        self.expect(settings, budget, Counts::new(candidate, stable));
    }

    /// Takes counts that need not be whole, and books none.
    fn expect(&mut self, settings: &Settings, budget: Budget, counts: Counts) {
        self.worse.restart(budget);
        self.worse.take(&Rules::worse(settings.errors), counts);
        if let Some(safe) = &mut self.safe {
            safe.take(&Rules::within(settings.errors), counts);
        }
    }

    fn counts(&self) -> Counts {
        Counts::new(self.candidate, self.stable)
    }
}

/// All callers together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Pooled {
    errors: Rate,
    left: Rate,
    first_byte: Exceedance,
    last_byte: Exceedance,
}

/// One tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Tool {
    errors: Rate,
    last_byte: Exceedance,
    /// Whether both versions have had a trial of it.
    compared: bool,
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

/// Trials of one side in this step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Seen {
    by_key: u64,
    by_key_and_tool: u64,
    /// Mean by key in the last blocks.
    pace: f64,
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

/// The judge of one rollout. Its state is a fold of the blocks it has taken: the same blocks give the same proof, to the bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judge {
    settings: Settings,
    budget: Budget,
    step: Option<u32>,
    /// Blocks of this step, and those of them that were compared.
    blocks: u64,
    compared: u64,
    stable: Seen,
    candidate: Seen,
    pooled: Pooled,
    tools: BTreeMap<Arc<str>, Tool>,
    /// The most that were ever listed. It never falls, so no evidence of a tool ever gains weight.
    tools_listed: usize,
    sample_ratio: SampleRatio,
    sample_ratio_wrong: bool,
    sentinel: Sentinel,
    sentinel_tripped: bool,
    /// Stable's trials, `(bad, all)`, in the last blocks that had any.
    stable_recent: VecDeque<(u64, u64)>,
    stable_broken: bool,
    /// What was found, for as long as it stands.
    found: Verdict,
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
            pooled: Pooled {
                errors: Rate::new(&settings, true, budget),
                left: Rate::new(&settings, true, budget),
                first_byte: Exceedance::new(true, budget),
                last_byte: Exceedance::new(true, budget),
            },
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

    /// Takes a block. The first of another step begins that step: what shows that the candidate is safe, its trials and the check
    /// of its share begin anew; what speaks against it carries on, and gets a start of its own.
    pub fn take(&mut self, block: &TrialBlock) {
        if self.step != Some(block.step) {
            self.begin_step(block);
        }
        self.budget.block();
        self.blocks += 1;
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

    fn begin_step(&mut self, block: &TrialBlock) {
        if self.step.is_some() {
            self.budget.step();
        }
        self.step = Some(block.step);
        self.blocks = 0;
        self.compared = 0;
        self.stable = Seen::default();
        self.candidate = Seen::default();
        self.sample_ratio = SampleRatio::new(block.share);
        self.sample_ratio_wrong = false;
        if self.found == Verdict::Safe {
            self.found = Verdict::Continue;
        }
        self.pooled.errors.begin_anew();
        self.pooled.left.begin_anew();
        self.pooled.first_byte.begin_anew();
        self.pooled.last_byte.begin_anew();
        for tool in self.tools.values_mut() {
            tool.errors.begin_anew();
            tool.last_byte.begin_anew();
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
        self.stable_broken = binomial::is_above(bad, all, self.settings.stable_bad_max);
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

    fn distrust(&self) -> Option<Distrust> {
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

    fn compare(&mut self, block: &TrialBlock) {
        self.compared += 1;
        let (stable, candidate) = (&block.stable, &block.candidate);
        let first = self.compared == 1;
        let tools = |side: &BTreeMap<Arc<str>, Trials>| side.values().map(|t| t.trials).sum();
        self.stable
            .take(stable.pooled.trials, tools(&stable.tools), first);
        self.candidate
            .take(candidate.pooled.trials, tools(&candidate.tools), first);

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
        let compared = self.tools.values().filter(|tool| tool.compared).count();
        let listed = usize::try_from(block.tools_listed).unwrap_or(usize::MAX);
        self.tools_listed = self.tools_listed.max(listed).max(compared);
    }

    fn weights(&self) -> Weights {
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

    fn add_tools(&self, mean: &mut Mean, weights: &Weights, latency: impl Fn(&Exceedance) -> f64) {
        let mut others = self.tools_listed;
        for tool in self.tools.values().filter(|tool| tool.compared) {
            others = others.saturating_sub(1);
            mean.add(weights.tool_errors, tool.errors.worse.ln_e());
            mean.add(weights.tool_last_byte, latency(&tool.last_byte));
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
            .filter(|(_, tool)| tool.compared)
            .flat_map(|(name, tool)| tool.lines(name, &self.settings, &weights))
            .collect();
        // Stable, so that what is equally suspicious stays in the order of names.
        tools.sort_by(|a, b| suspicion(b).total_cmp(&suspicion(a)));
        tools.truncate(TOOL_LINES_MAX);
        lines.extend(tools);
        lines
    }
}

impl Pooled {
    fn take(&mut self, settings: &Settings, budget: Budget, stable: &Trials, candidate: &Trials) {
        self.errors
            .take(settings, budget, errors(stable), errors(candidate));
        self.left
            .take(settings, budget, left(stable), left(candidate));
        let margins = settings.margins();
        self.first_byte
            .take(margins, budget, first_byte(stable), first_byte(candidate));
        self.last_byte
            .take(margins, budget, last_byte(stable), last_byte(candidate));
    }

    fn mean(&self, weights: &Weights, latency: impl Fn(&Exceedance) -> f64) -> Mean {
        let mut mean = Mean::default();
        mean.add(weights.errors, self.errors.worse.ln_e());
        mean.add(weights.left, self.left.worse.ln_e());
        mean.add(weights.first_byte, latency(&self.first_byte));
        mean.add(weights.last_byte, latency(&self.last_byte));
        mean
    }

    /// The least over what is compared: all of it must be within tolerance. No evidence where nothing is compared.
    fn ln_safe(&self, aspects: &[Aspect]) -> f64 {
        let of = |aspect: &Aspect| match aspect {
            Aspect::Errors => self.errors.safe.as_ref().map(EProcess::ln_e),
            Aspect::Left => self.left.safe.as_ref().map(EProcess::ln_e),
            Aspect::FirstByte => self.first_byte.ln_safe(),
            Aspect::LastByte => self.last_byte.ln_safe(),
        };
        aspects
            .iter()
            .filter_map(of)
            .reduce(f64::min)
            .unwrap_or(0.0)
    }

    fn lines(&self, settings: &Settings, weights: &Weights) -> Vec<Line> {
        let lines = [
            rate_line(
                Aspect::Errors,
                Scope::All,
                &self.errors,
                settings,
                weights.errors,
            ),
            rate_line(Aspect::Left, Scope::All, &self.left, settings, weights.left),
            latency_line(
                Aspect::FirstByte,
                Scope::All,
                &self.first_byte,
                settings,
                weights.first_byte,
            ),
            latency_line(
                Aspect::LastByte,
                Scope::All,
                &self.last_byte,
                settings,
                weights.last_byte,
            ),
        ];
        lines
            .into_iter()
            .filter(|line| settings.aspects.contains(&line.aspect))
            .collect()
    }
}

impl Tool {
    fn new(settings: &Settings, budget: Budget) -> Self {
        Self {
            errors: Rate::new(settings, false, budget),
            last_byte: Exceedance::new(false, budget),
            compared: false,
        }
    }

    fn take(&mut self, settings: &Settings, budget: Budget, stable: &Trials, candidate: &Trials) {
        self.errors
            .take(settings, budget, errors(stable), errors(candidate));
        self.last_byte.take(
            settings.margins(),
            budget,
            last_byte(stable),
            last_byte(candidate),
        );
        self.compared |= self.errors.stable.1 > 0 && self.errors.candidate.1 > 0;
    }

    fn lines(&self, name: &Arc<str>, settings: &Settings, weights: &Weights) -> Vec<Line> {
        let scope = || Scope::Tool(Arc::clone(name));
        let lines = [
            rate_line(
                Aspect::Errors,
                scope(),
                &self.errors,
                settings,
                weights.tool_errors,
            ),
            latency_line(
                Aspect::LastByte,
                scope(),
                &self.last_byte,
                settings,
                weights.tool_last_byte,
            ),
        ];
        lines
            .into_iter()
            .filter(|line| settings.aspects.contains(&line.aspect))
            .collect()
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
            (&mut self.pooled.left, &now.left),
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

    /// What is missing, as natural logarithms, until it is safe and until it is worse.
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

fn errors(side: &Trials) -> (u64, u64) {
    (side.bad, side.trials)
}

fn left(side: &Trials) -> (u64, u64) {
    (side.left, side.callers)
}

fn first_byte(side: &Trials) -> Values<'_> {
    Values {
        histogram: &side.first_byte,
        endless: side.endless,
    }
}

fn last_byte(side: &Trials) -> Values<'_> {
    Values {
        histogram: &side.last_byte,
        endless: side.endless,
    }
}

fn rate_line(aspect: Aspect, scope: Scope, rate: &Rate, settings: &Settings, weight: f64) -> Line {
    let safe = rate.safe.as_ref();
    Line {
        aspect,
        scope,
        worse: Progress::new(rate.worse.ln_e(), settings.alpha * weight),
        slower: None,
        safe: safe.map(|safe| Progress::new(safe.ln_e(), settings.beta)),
        stable: (rate.stable.1, rate.stable.0),
        candidate: (rate.candidate.1, rate.candidate.0),
    }
}

fn latency_line(
    aspect: Aspect,
    scope: Scope,
    latency: &Exceedance,
    settings: &Settings,
    weight: f64,
) -> Line {
    let (stable, candidate) = (latency.stable(), latency.candidate());
    let safe = latency.ln_safe();
    Line {
        aspect,
        scope,
        worse: Progress::new(latency.ln_worse(), settings.alpha * weight),
        slower: Some(Progress::new(latency.ln_slower(), settings.alpha)),
        safe: safe.map(|ln| Progress::new(ln, settings.beta)),
        stable: (stable.1, stable.0),
        candidate: (candidate.1, candidate.0),
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

fn add(sum: &mut (u64, u64), more: (u64, u64)) {
    sum.0 += more.0;
    sum.1 += more.1;
}
