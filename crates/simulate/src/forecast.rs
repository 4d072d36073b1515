//! What each phase of a plan can see at a traffic: no simulation, only what is expected of each block, fed to the judge's
//! processes until they would decide.
//!
//! Evidence grows by chance; with expected counts it grows as it does in the middle of many rollouts. The judge sums all its lines,
//! each with its weight, and so does this.

use crate::{Degradation, Keys, Latencies, Traffic, town::latencies};
use serde::{Deserialize, Serialize};
use serin_judge::{
    BUCKETS,
    eprocess::{Budget, Counts, EProcess, Rules, Tolerance},
    exceedance::QUANTILES,
    sequential::{Aspect, Settings},
};
use serin_model::plan::{Evidence, Plan};

/// Looks are so much further apart as a step grows older.
const LOOK_PART: f64 = 0.05;

/// Phases without a deadline are looked at for so long.
const LONGEST_SECONDS: f64 = 7.0 * 86400.0;

/// With fewer trials of the candidate than this in a phase, nothing short of a broken version can be proven: at an alpha of 1 %
/// it takes three bad trials at least, and with as few trials those of a fault of 20 % do not come.
const TRIALS_MIN: f64 = 15.0;

/// The alternatives of the latency process.
const SLOWER_GRID: &[f64] = &[1.25, 1.5, 2.0, 3.0, 5.0];

/// How many trials its prior is worth.
const LATENCY_PRIOR: f64 = 50.0;

/// What one phase can be expected to show.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseForecast {
    /// Its place in the plan, from 0.
    pub phase: usize,
    /// Its name, where it has one.
    pub name: Option<String>,
    /// The candidate's share of the keys, as a ratio.
    pub share: f64,
    /// The least time it takes.
    pub hold_seconds: f64,
    /// The most, if it is bounded, without extensions.
    pub deadline_seconds: Option<f64>,
    /// Trials of the candidate within the hold, by key and tool: what `evidence: trials N` counts.
    pub trials: f64,
    /// The same within the deadline.
    pub trials_by_deadline: f64,
    /// Trials by key alone within the hold: with fixed callers there are no more than callers.
    pub keys: f64,
    /// Calls of the candidate within the hold.
    pub calls: f64,
    /// What is found, and when.
    pub detections: Vec<Detection>,
    /// After how long an equal candidate is shown to be safe, if it is by the deadline.
    pub safe_seconds: Option<f64>,
    /// After how long the evidence is there that the plan asks for, if it is by the deadline. Regressions apart.
    pub evidence_seconds: Option<f64>,
    /// Nothing can be proven here: thresholds alone decide.
    pub thresholds_alone: bool,
    /// Not even the coarsest of the degradations is found within the hold, or the evidence is not there by the deadline.
    pub too_short: bool,
}

/// What becomes of a candidate with one degradation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// What is wrong with it.
    pub what: Degradation,
    /// Seconds until it is taken back, in the middle of many rollouts.
    pub rolled_back_seconds: Option<f64>,
    /// Seconds until the rollout is held for its latency.
    pub held_seconds: Option<f64>,
    /// Trials of the candidate by key until the first of both.
    pub keys: Option<f64>,
}

impl Detection {
    /// The first thing that happens.
    pub fn seconds(&self) -> Option<f64> {
        match (self.rolled_back_seconds, self.held_seconds) {
            (Some(back), Some(held)) => Some(back.min(held)),
            (back, held) => back.or(held),
        }
    }
}

/// What each phase of a plan can be expected to see: delays are right within a factor of two. The fault is there from the phase's
/// start, and the phases before it are healthy. By the judge alone: thresholds may be sooner, or be all there is.
pub fn forecast(plan: &Plan, traffic: &Traffic) -> Vec<PhaseForecast> {
    let settings = plan.judge_settings();
    let block_seconds = plan.judge.block.as_secs_f64().max(1e-3);
    let sights: Vec<_> = Degradation::worth_asking(traffic.tools)
        .into_iter()
        .map(|what| Sight::new(&settings, traffic, what, block_seconds))
        .collect();
    let Some(healthy) = sights.first() else {
        return Vec::new();
    };
    let mut before = Mind::new(&settings);
    let mut forecasts = Vec::new();
    for (at, phase) in plan.phases.iter().enumerate() {
        if at > 0 {
            before.budget.step();
        }
        before.begin_safe();
        let share = phase.share.ratio();
        let hold_seconds = phase.hold.as_secs_f64();
        let deadline_seconds = plan.deadline(at).map(|deadline| deadline.as_secs_f64());
        let longest = deadline_seconds.unwrap_or(LONGEST_SECONDS);
        let pace = Pace {
            traffic,
            share,
            block_seconds,
        };
        let mut detections = Vec::new();
        let mut safe_seconds = None;
        for sight in &sights {
            let mut mind = before.clone();
            let found = mind.watch(sight, &pace, longest);
            if sight.what == Degradation::None {
                safe_seconds = found.safe;
            } else {
                detections.push(found.detection(sight.what, &pace));
            }
        }
        // Half of all rollouts pass at the end of the hold.
        before.watch(healthy, &pace, hold_seconds);
        let trials = pace.trials(hold_seconds);
        let trials_by_deadline = pace.trials(longest);
        let evidence_seconds = match plan.evidence(at) {
            Evidence::Safe => safe_seconds,
            Evidence::Trials(needed) => {
                pace.when(longest, |seconds| pace.trials(seconds) >= needed as f64)
            }
            Evidence::Calls(needed) => {
                pace.when(longest, |seconds| pace.calls(seconds) >= needed as f64)
            }
        };
        let thresholds_alone =
            settings.aspects.is_empty() || share >= 1.0 || pace.keys(longest) < TRIALS_MIN;
        let sees = |detection: &Detection| {
            detection
                .seconds()
                .is_some_and(|s| s <= hold_seconds.max(block_seconds))
        };
        let is_mere = plan.is_mere_promotion(at);
        forecasts.push(PhaseForecast {
            phase: at,
            name: phase.name.clone(),
            share,
            hold_seconds,
            deadline_seconds,
            trials,
            trials_by_deadline,
            keys: pace.keys(hold_seconds),
            calls: pace.calls(hold_seconds),
            too_short: !is_mere
                && (evidence_seconds.is_none()
                    || (!thresholds_alone && !detections.iter().any(sees))),
            detections,
            safe_seconds,
            evidence_seconds,
            thresholds_alone,
        });
    }
    forecasts
}

/// How trials come in a phase.
struct Pace<'a> {
    traffic: &'a Traffic,
    share: f64,
    block_seconds: f64,
}

impl Pace<'_> {
    /// Both versions' keys that had their first block by then.
    fn all_keys(&self, seconds: f64) -> f64 {
        match self.traffic.keys {
            Keys::Callers(callers) => {
                let rate = self.traffic.calls_per_second_of_a_key();
                callers as f64 * -libm::expm1(-rate * seconds)
            }
            Keys::Sessions { per_second, .. } => per_second * seconds,
        }
    }

    /// Both versions' trials with one tool.
    fn all_of_a_tool(&self, seconds: f64) -> f64 {
        match self.traffic.keys {
            Keys::Callers(callers) => {
                let tools = f64::from(self.traffic.tools.max(1));
                let rate = self.traffic.calls_per_second_of_a_key() / tools;
                callers as f64 * -libm::expm1(-rate * seconds)
            }
            Keys::Sessions { per_second, .. } => {
                let first = self.traffic.first_block_has_tool(self.block_seconds);
                let whole = self.traffic.session_has_tool();
                let lasting = self.traffic.session_seconds().unwrap_or(0.0).max(1e-9);
                // The later tools come evenly over a session's life.
                let grown = if seconds < lasting {
                    seconds * seconds / (2.0 * lasting)
                } else {
                    seconds - lasting / 2.0
                };
                per_second * (first * seconds + (whole - first).max(0.0) * grown)
            }
        }
    }

    fn keys(&self, seconds: f64) -> f64 {
        self.share * self.all_keys(seconds)
    }

    /// By key and tool, or by key where there are no tools.
    fn trials(&self, seconds: f64) -> f64 {
        if self.traffic.tools == 0 {
            self.keys(seconds)
        } else {
            self.share * self.all_of_a_tool(seconds) * f64::from(self.traffic.tools)
        }
    }

    fn calls(&self, seconds: f64) -> f64 {
        self.share * self.traffic.calls_per_second * seconds
    }

    /// The first block after which something is so, by halving.
    fn when(&self, longest: f64, is_so: impl Fn(f64) -> bool) -> Option<f64> {
        if !is_so(longest) {
            return None;
        }
        let (mut low, mut high) = (0.0, longest);
        for _ in 0..50 {
            let middle = 0.5 * (low + high);
            if is_so(middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        Some((high / self.block_seconds).ceil() * self.block_seconds)
    }
}

/// The rates that the judge sees of one degradation: what part of the trials is bad on each line, `(candidate, stable)`.
struct Sight {
    what: Degradation,
    errors: (f64, f64),
    /// Of a faulty tool's trials, and how many such tools there are.
    tool_errors: (f64, f64),
    faulty_tools: f64,
    /// Beyond each quantile of stable, with the margin to hold and the one to take back; for a tool's own times the last.
    warning: [(f64, f64); 3],
    critical: [(f64, f64); 3],
    tool_critical: [(f64, f64); 3],
}

impl Sight {
    fn new(settings: &Settings, traffic: &Traffic, what: Degradation, block_seconds: f64) -> Self {
        let tools = traffic.tools.max(1) as usize;
        let further = traffic.further_calls(block_seconds);
        let mean = (0..tools)
            .map(|tool| what.error_rate(traffic.error_rate, tool))
            .sum::<f64>()
            / tools as f64;
        let within = |rate: f64, calls: f64| 1.0 - libm::pow(1.0 - rate.clamp(0.0, 1.0), calls);
        let of_a_tool =
            (1.0 + further) / (tools as f64 * traffic.first_block_has_tool(block_seconds));
        let faulty = what.error_rate(traffic.error_rate, 0);
        let stable = traffic.error_rate;
        let [slow, fast] = {
            let [fast, slow] = latencies(traffic, what);
            [slow, fast]
        };
        let beyond = |margin: u16, rate: f64| {
            QUANTILES.map(|q| exceeding(&slow, &fast, q, margin, rate, stable))
        };
        Self {
            what,
            errors: (within(mean, 1.0 + further), within(stable, 1.0 + further)),
            tool_errors: (within(faulty, of_a_tool), within(stable, of_a_tool)),
            faulty_tools: match what {
                Degradation::OneTool(_) => 1.0,
                _ => tools as f64,
            },
            warning: beyond(settings.latency_warning, mean),
            critical: beyond(settings.latency_critical, mean),
            tool_critical: beyond(settings.latency_critical, faulty),
        }
    }
}

/// The part of the candidate's trials beyond stable's quantile and the margin, and the part of stable's beyond the quantile.
/// Failed calls are beyond everything.
fn exceeding(
    slow: &Latencies,
    fast: &Latencies,
    quantile: f64,
    margin: u16,
    candidate: f64,
    stable: f64,
) -> (f64, f64) {
    let mut below = 0.0;
    let edge = fast.probabilities().iter().position(|probability| {
        below += probability;
        below >= quantile
    });
    let edge = edge.unwrap_or(BUCKETS - 1);
    let beyond =
        |of: &Latencies, edge: usize| of.probabilities().iter().skip(edge + 1).sum::<f64>();
    let fails = |rate: f64, slow: f64| rate + (1.0 - rate) * slow;
    (
        fails(candidate, beyond(slow, edge + usize::from(margin))),
        fails(stable, beyond(fast, edge)),
    )
}

/// What the judge would have in mind: one process a line that a degradation moves.
#[derive(Clone)]
struct Mind {
    budget: Budget,
    aspects: Vec<Aspect>,
    alpha: f64,
    beta: f64,
    errors: Line,
    tool_errors: Line,
    /// First and last byte are slowed alike, so one process stands for both.
    warning: [Line; 3],
    critical: [Line; 3],
    tool_critical: [Line; 3],
    safe: Vec<(Rules, EProcess)>,
    tolerance: Tolerance,
}

#[derive(Clone)]
struct Line {
    rules: Rules,
    evidence: EProcess,
}

impl Line {
    fn new(rules: Rules, budget: Budget) -> Self {
        Self {
            evidence: EProcess::restarting(&rules, budget),
            rules,
        }
    }

    fn take(&mut self, budget: Budget, counts: Counts) {
        self.evidence.restart(budget);
        self.evidence.take(&self.rules, counts);
    }

    fn e(&self) -> f64 {
        self.evidence.ln_e().exp()
    }
}

/// When a phase has shown what of one degradation, in seconds.
#[derive(Default)]
struct Found {
    rolled_back: Option<f64>,
    held: Option<f64>,
    safe: Option<f64>,
}

impl Found {
    fn detection(&self, what: Degradation, pace: &Pace<'_>) -> Detection {
        let mut detection = Detection {
            what,
            rolled_back_seconds: self.rolled_back,
            held_seconds: self.held,
            keys: None,
        };
        detection.keys = detection.seconds().map(|seconds| pace.keys(seconds));
        detection
    }
}

impl Mind {
    fn new(settings: &Settings) -> Self {
        let budget = Budget::new(settings.horizon_blocks);
        let errors = || Line::new(Rules::worse(settings.errors), budget);
        let slower = || {
            QUANTILES.map(|q| {
                Line::new(
                    latency_rules(Rules::worse(Tolerance::NONE), SLOWER_GRID, q),
                    budget,
                )
            })
        };
        Self {
            budget,
            aspects: settings.aspects.clone(),
            alpha: settings.alpha,
            beta: settings.beta,
            errors: errors(),
            tool_errors: errors(),
            warning: slower(),
            critical: slower(),
            tool_critical: slower(),
            safe: Vec::new(),
            tolerance: settings.errors,
        }
    }

    fn compares(&self, aspect: Aspect) -> bool {
        self.aspects.contains(&aspect)
    }

    /// What shows that the candidate is safe begins anew with each phase. The 99th percentile is no part of it.
    fn begin_safe(&mut self) {
        let mut rules = Vec::new();
        if self.compares(Aspect::Errors) {
            rules.push(Rules::within(self.tolerance));
        }
        if self.compares(Aspect::FirstByte) || self.compares(Aspect::LastByte) {
            let within = Rules::within(Tolerance::NONE);
            rules.extend([0, 1].map(|q| latency_rules(within, within.grid, QUANTILES[q])));
        }
        self.safe = rules
            .into_iter()
            .map(|rules| (rules, EProcess::plain(&rules)))
            .collect();
    }

    /// Watches a phase for so long, or until there is nothing more to find.
    fn watch(&mut self, sight: &Sight, pace: &Pace<'_>, longest: f64) -> Found {
        let mut found = Found::default();
        let (mut seconds, mut keys, mut of_a_tool) = (0.0, 0.0, 0.0);
        while seconds < longest {
            let blocks = ((seconds * LOOK_PART / pace.block_seconds).floor()).max(1.0);
            seconds += blocks * pace.block_seconds;
            for _ in 0..whole(blocks) {
                self.budget.block();
            }
            let (keys_now, tool_now) = (pace.all_keys(seconds), pace.all_of_a_tool(seconds));
            self.take(sight, pace.share, keys_now - keys, tool_now - of_a_tool);
            (keys, of_a_tool) = (keys_now, tool_now);
            let at = |when: &mut Option<f64>, reached: bool| {
                if reached && when.is_none() {
                    *when = Some(seconds);
                }
            };
            at(
                &mut found.rolled_back,
                self.worse(sight, pace.traffic) >= 1.0 / self.alpha,
            );
            at(
                &mut found.held,
                self.slower(pace.traffic) >= 1.0 / self.alpha,
            );
            at(&mut found.safe, self.is_safe());
            if found.rolled_back.is_some() {
                break;
            }
        }
        found
    }

    fn take(&mut self, sight: &Sight, share: f64, keys: f64, of_a_tool: f64) {
        let counts = |(candidate, stable): (f64, f64), trials: f64| {
            let (n_c, n_s) = (share * trials, (1.0 - share) * trials);
            Counts {
                bad_c: candidate * n_c,
                n_c,
                bad_s: stable * n_s,
                n_s,
            }
        };
        let budget = self.budget;
        self.errors.take(budget, counts(sight.errors, keys));
        self.tool_errors
            .take(budget, counts(sight.tool_errors, of_a_tool));
        for q in 0..QUANTILES.len() {
            self.warning[q].take(budget, counts(sight.warning[q], keys));
            self.critical[q].take(budget, counts(sight.critical[q], keys));
            self.tool_critical[q].take(budget, counts(sight.tool_critical[q], of_a_tool));
        }
        let mut rates = Vec::new();
        if self.compares(Aspect::Errors) {
            rates.push(sight.errors);
        }
        rates.extend_from_slice(&sight.warning[..2]);
        for ((rules, evidence), rates) in self.safe.iter_mut().zip(rates) {
            evidence.take(rules, counts(rates, keys));
        }
    }

    /// The judge's weights: a quarter for errors and one for those of single tools, an eighth for each of the others. What is not
    /// compared gives its weight to the rest.
    fn weight(&self, aspect: Aspect, of_tools: bool) -> f64 {
        match aspect {
            _ if !self.compares(aspect) => 0.0,
            Aspect::Errors => 0.25,
            Aspect::LastByte | Aspect::FirstByte | Aspect::Unserved if !of_tools => 0.125,
            Aspect::LastByte => 0.125,
            _ => 0.0,
        }
    }

    fn worse(&self, sight: &Sight, traffic: &Traffic) -> f64 {
        let tools = if traffic.tools == 0 { 0.0 } else { 1.0 };
        let of = |aspect| self.weight(aspect, false);
        let errors = of(Aspect::Errors);
        let latency = of(Aspect::FirstByte) + of(Aspect::LastByte);
        let tool_errors = tools * self.weight(Aspect::Errors, true);
        let tool_latency = tools * self.weight(Aspect::LastByte, true);
        let sum = errors + latency + of(Aspect::Unserved) + tool_errors + tool_latency;
        let faulty = sight.faulty_tools / f64::from(traffic.tools.max(1));
        (errors * self.errors.e()
            + latency * mean(&self.critical)
            + tool_errors * faulty * self.tool_errors.e()
            + tool_latency * faulty * mean(&self.tool_critical))
            / sum.max(f64::MIN_POSITIVE)
    }

    /// Of the lines on latency alone; those of single tools say no more than the pooled ones.
    fn slower(&self, traffic: &Traffic) -> f64 {
        let latency = self.weight(Aspect::FirstByte, false) + self.weight(Aspect::LastByte, false);
        let tools = if traffic.tools == 0 {
            0.0
        } else {
            self.weight(Aspect::LastByte, true)
        };
        latency * mean(&self.warning) / (latency + tools).max(f64::MIN_POSITIVE)
    }

    fn is_safe(&self) -> bool {
        let least = self.safe.iter().map(|(_, evidence)| evidence.ln_e());
        !self.safe.is_empty() && least.fold(f64::INFINITY, f64::min) >= -self.beta.ln()
    }
}

fn latency_rules(rules: Rules, grid: &'static [f64], quantile: f64) -> Rules {
    Rules {
        grid,
        prior: ((1.0 - quantile) * LATENCY_PRIOR, LATENCY_PRIOR),
        ..rules
    }
}

fn mean(lines: &[Line; 3]) -> f64 {
    lines.iter().map(Line::e).sum::<f64>() / 3.0
}

fn whole(blocks: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole and not negative"
    )]
    let blocks = blocks as u64;
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Spread;

    fn plan(json: &str) -> Plan {
        serde_json::from_str(json).unwrap()
    }

    fn traffic(keys: Keys) -> Traffic {
        Traffic {
            calls_per_second: 50.0,
            keys,
            tools: 4,
            error_rate: 0.005,
            latency: Spread::default(),
        }
    }

    const SESSIONS: Keys = Keys::Sessions {
        per_second: 5.0,
        call_every_seconds: 5.0,
    };

    const PLAN: &str = r#"{"phases": [{"share": "10 %", "hold": "30m"}, {"share": "50 %", "hold": "1h"}, {"share": "100 %"}],
        "evidence": "trials 500"}"#;

    fn seconds(forecast: &PhaseForecast, what: Degradation) -> f64 {
        let found = forecast.detections.iter().find(|d| d.what == what);
        found.and_then(Detection::seconds).unwrap_or(f64::INFINITY)
    }

    #[test]
    fn worse_faults_are_found_sooner() {
        for phase in &forecast(&plan(PLAN), &traffic(SESSIONS))[..2] {
            let errors =
                [0.2, 0.1, 0.05, 0.03].map(|rate| seconds(phase, Degradation::Errors(rate)));
            assert!(errors.is_sorted(), "{phase:?}");
            assert!(errors[0] < 300.0, "{phase:?}");
            let slower = [2.0, 1.5, 1.2].map(|factor| seconds(phase, Degradation::Slower(factor)));
            assert!(slower.is_sorted() && slower[0] < 600.0, "{phase:?}");
            assert!(
                phase.evidence_seconds.is_some() && !phase.too_short,
                "{phase:?}"
            );
        }
    }

    /// The middle of simulated rollouts lies within a factor of two of what is expected of one.
    #[test]
    fn what_is_expected_is_what_happens() {
        let plan = plan(PLAN);
        let expected = forecast(&plan, &traffic(SESSIONS));
        for what in [
            Degradation::Errors(0.05),
            Degradation::Errors(0.2),
            Degradation::OneTool(0.2),
        ] {
            let seed = crate::Seed::new("tests", "expected");
            let found = crate::simulate(&plan, &traffic(SESSIONS), what, 16, &seed);
            let ratio = found.seconds.unwrap().median / seconds(&expected[0], what);
            assert!((0.5..2.0).contains(&ratio), "{what}: {ratio}");
        }
    }

    #[test]
    fn few_keys_leave_thresholds_alone() {
        let few = forecast(&plan(PLAN), &traffic(Keys::Callers(20)));
        assert!(few[0].keys <= 2.0 && few[0].thresholds_alone, "{few:?}");
        assert!(few[0].too_short, "500 trials never come: {few:?}");
        let many = forecast(&plan(PLAN), &traffic(Keys::Callers(20_000)));
        assert!(
            !many[0].thresholds_alone && many[0].keys <= 2000.0,
            "{many:?}"
        );
    }

    #[test]
    fn safety_takes_thousands_of_trials() {
        let phases = forecast(&plan(PLAN), &traffic(SESSIONS));
        assert_eq!(
            phases[0].safe_seconds, None,
            "900 to 1,800 trials are too few"
        );
        let week = plan(
            r#"{"phases": [{"share": "50 %", "hold": "12h"}, {"share": "100 %"}], "evidence": "safe"}"#,
        );
        let phases = forecast(&week, &traffic(SESSIONS));
        let keys = phases[0].safe_seconds.unwrap() * 5.0 * 0.5;
        assert!((3000.0..30_000.0).contains(&keys), "{keys}");
        assert_eq!(phases[0].evidence_seconds, phases[0].safe_seconds);
    }
}
