//! Plans: the recipe of a rollout, as it stands in YAML. A plan is copied into the rollout that starts with it.

mod judge;
mod value;

pub use judge::{BLOCK_MAX, BLOCK_MIN, JudgeRule, Mode, Subject};
pub use value::{Better, Number, POINTER_BYTES_MAX, SignalRule, VALUES_MAX, ValueRule};

use crate::{share::Share, text};
use serde::{Deserialize, Serialize, de::Error as _};
use serin_flags::FlagKey;
use serin_judge::{Criterion, Limit, Metric, Of, Threshold, ValueThreshold};
use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc, time::Duration};

/// Most phases of a plan: more is a mistake in a generator, not a schedule.
pub const PHASES_MAX: usize = 50;

/// A recipe: phases with rising shares, and what must hold meanwhile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What it is for, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The steps, in order.
    pub phases: Vec<Phase>,
    /// Rules that hold the rollout or take the candidate back, by metric; those of a phase replace them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub thresholds: BTreeMap<Metric, ThresholdRule>,
    /// Conditions for passing a phase, by metric; those of a phase replace them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub criteria: BTreeMap<Metric, CriterionRule>,
    /// Rules on numbers inside the results of tools, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<Arc<str>, ValueRule>,
    /// How many signals given by hand count for what, by kind: `critical_bug`, `complaint`, or whatever people agree on.
    #[serde(
        default = "value::signals",
        skip_serializing_if = "value::are_default_signals"
    )]
    pub signals: BTreeMap<String, SignalRule>,
    /// How it is compared with stable.
    #[serde(default, skip_serializing_if = "JudgeRule::is_default")]
    pub judge: JudgeRule,
    /// How callers without a session are assigned.
    #[serde(default, skip_serializing_if = "Affinity::is_default")]
    pub affinity: Affinity,
    /// What takes the candidate back without statistics.
    #[serde(default)]
    pub guard: Guard,
    /// What a phase must show before it passes.
    #[serde(default)]
    pub evidence: Evidence,
    /// What happens when a phase runs out of time without it.
    #[serde(default)]
    pub inconclusive: Inconclusive,
    /// Whether passed phases lead to the next by themselves.
    #[serde(default = "yes")]
    pub auto_promote: bool,
    /// Whether a critical breach takes the candidate back by itself.
    #[serde(default = "yes")]
    pub auto_rollback: bool,
    /// How live sessions leave the candidate on a rollback by itself.
    #[serde(default)]
    pub rollback: RollbackStrategy,
    /// Flags that are disabled when the candidate is taken back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags_off: Vec<FlagKey>,
    /// Longest time of the whole rollout; then it is taken back.
    #[serde(
        default,
        with = "text::duration_option",
        skip_serializing_if = "Option::is_none"
    )]
    pub longest: Option<Duration>,
}

/// One step: a share of traffic for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// What it is called, where a number is not enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Share of new affinity keys that get the candidate.
    pub share: Share,
    /// Least time in this phase.
    #[serde(default, with = "text::duration")]
    pub hold: Duration,
    /// Most time in this phase, then [`Plan::inconclusive`] applies; twice the hold unless set, none without a hold.
    #[serde(
        default,
        with = "text::duration_option",
        skip_serializing_if = "Option::is_none"
    )]
    pub deadline: Option<Duration>,
    /// What this phase must show, where it differs from the plan's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// Rules of this phase, in place of the plan's for the same metric.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub thresholds: BTreeMap<Metric, ThresholdRule>,
    /// Conditions of this phase, in place of the plan's for the same metric.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub criteria: BTreeMap<Metric, CriterionRule>,
    /// Variants that flags have from this phase on; for good after a promotion, as before after a rollback.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub flags: BTreeMap<FlagKey, Arc<str>>,
}

/// A threshold as it stands in a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThresholdRule {
    /// Beyond it, the rollout holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<Limit>,
    /// Beyond it, the candidate is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub critical: Option<Limit>,
    /// How long it must be so before it counts.
    #[serde(default, rename = "for", with = "text::duration")]
    pub lasting: Duration,
    /// In how many windows, one after the other, it must be so before it counts: `3 of 5`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Of>,
    /// How far back it looks.
    #[serde(default = "window", with = "text::duration")]
    pub window: Duration,
    /// Fewer calls than this in the window say nothing.
    #[serde(default = "min_samples")]
    pub min_samples: u64,
    /// Whether it also looks at each tool by itself.
    #[serde(default = "yes")]
    pub per_tool: bool,
}

/// A criterion as it stands in a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CriterionRule {
    /// The candidate must be at or within it.
    pub limit: Limit,
    /// How long it must have held.
    #[serde(default, rename = "for", with = "text::duration")]
    pub lasting: Duration,
    /// How far back it looks.
    #[serde(default = "window", with = "text::duration")]
    pub window: Duration,
    /// Fewer calls than this in the window say nothing.
    #[serde(default = "min_samples")]
    pub min_samples: u64,
}

/// How callers without a session are assigned to a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Affinity {
    /// Draws their assignment anew each period. That makes new, independent trials where callers are few, at the price of callers
    /// changing version; refused when the tools of the two versions differ.
    #[serde(
        with = "text::duration_option",
        skip_serializing_if = "Option::is_none"
    )]
    pub renew: Option<Duration>,
}

impl Affinity {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Shortest period after which callers are assigned anew: below it a conversation of calls would fall apart.
pub const RENEW_MIN: Duration = Duration::from_mins(1);

/// The catastrophic guard: signs for which nobody needs statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guard {
    /// So many calls in a row, on one core of the gateway, that found no answering candidate; 0 turns it off.
    pub transport_failures: u32,
    /// Every endpoint of the candidate has failed its probes.
    pub readiness: bool,
}

/// What a phase must show before it passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// No regression after so many trials of the candidate: first blocks of callers, by tool.
    Trials(u64),
    /// No regression after so many calls of the candidate, whoever made them: for services with a handful of callers, who make few
    /// trials. Thresholds alone decide there.
    Calls(u64),
    /// The candidate is shown to be within tolerance.
    Safe,
}

/// What happens when a phase runs out of time without its evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Inconclusive {
    /// It stays where it is until somebody decides.
    Hold,
    /// It gets its time again, at most twice, and then holds.
    #[default]
    Extend,
    /// The candidate is taken back.
    Rollback,
}

/// How often a phase is extended.
pub const EXTENSIONS_MAX: u32 = 2;

/// How live sessions leave the candidate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RollbackStrategy {
    /// At once: idle sessions are re-bound or ended.
    #[default]
    Immediate,
    /// New callers go to stable; live sessions finish where they are.
    Gradual,
}

impl RollbackStrategy {
    /// As it stands in labels and on the screen.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Immediate => "immediate",
            Self::Gradual => "gradual",
        }
    }
}

/// Trials of the candidate that a phase needs unless the plan says otherwise: enough that a rate of three percent would have shown.
const TRIALS_DEFAULT: u64 = 500;

const fn yes() -> bool {
    true
}

const fn window() -> Duration {
    Duration::from_mins(5)
}

const fn min_samples() -> u64 {
    50
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            transport_failures: 10,
            readiness: true,
        }
    }
}

impl Default for Evidence {
    fn default() -> Self {
        Self::Trials(TRIALS_DEFAULT)
    }
}

impl Plan {
    /// The thresholds in force in a phase.
    pub fn thresholds(&self, phase: usize) -> Vec<Threshold> {
        let own = self.phases.get(phase).map(|phase| &phase.thresholds);
        merged(&self.thresholds, own)
            .map(|(metric, rule)| rule.resolve(metric))
            .collect()
    }

    /// The criteria in force in a phase.
    pub fn criteria(&self, phase: usize) -> Vec<Criterion> {
        let own = self.phases.get(phase).map(|phase| &phase.criteria);
        merged(&self.criteria, own)
            .map(|(metric, rule)| rule.resolve(metric))
            .collect()
    }

    /// The rules on numbers inside results.
    pub fn value_thresholds(&self) -> Vec<ValueThreshold> {
        let rules = self.values.iter();
        rules.map(|(name, rule)| rule.resolve(name)).collect()
    }

    /// The evidence that a phase needs.
    pub fn evidence(&self, phase: usize) -> Evidence {
        self.phases
            .get(phase)
            .and_then(|phase| phase.evidence)
            .unwrap_or(self.evidence)
    }

    /// The time after which a phase is inconclusive, extensions not counted.
    pub fn deadline(&self, phase: usize) -> Option<Duration> {
        let phase = self.phases.get(phase)?;
        phase
            .deadline
            .or_else(|| (phase.hold > Duration::ZERO).then(|| phase.hold * 2))
    }

    /// Whether a phase is the last and asks for nothing: entering it is the promotion itself.
    pub fn is_mere_promotion(&self, phase: usize) -> bool {
        let asks_nothing = |phase: &Phase| {
            phase.hold.is_zero() && phase.evidence.is_none() && phase.criteria.is_empty()
        };
        phase + 1 == self.phases.len() && self.phases.get(phase).is_some_and(asks_nothing)
    }

    /// What is wrong with it, and what is merely odd.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut error = |at: String, what: String, help: &str| {
            problems.push(Problem {
                at,
                what,
                help: help.to_owned(),
                fatal: true,
            });
        };
        if self.phases.is_empty() {
            error(
                "phases".into(),
                "a plan needs at least one phase".into(),
                "add `phases: [{ share: 100 % }]`",
            );
        }
        if self.phases.len() > PHASES_MAX {
            error(
                "phases".into(),
                format!("more than {PHASES_MAX} phases"),
                "merge steps whose shares hardly differ",
            );
        }
        for (index, pair) in self.phases.windows(2).enumerate() {
            if pair[1].share <= pair[0].share {
                error(
                    format!("phases[{}].share", index + 1),
                    format!(
                        "the share falls or stays: {} after {}",
                        pair[1].share, pair[0].share
                    ),
                    "let the shares of a plan rise from phase to phase; to lower a share while a rollout runs, use `serin rollout share`",
                );
            }
        }
        if let Some((index, last)) = self.phases.iter().enumerate().next_back()
            && last.share != Share::FULL
        {
            error(
                format!("phases[{index}].share"),
                format!("the last phase ends at {}", last.share),
                "end the plan with `{ share: 100 % }`: a rollout is over when the candidate serves everyone",
            );
        }
        if self
            .phases
            .first()
            .is_some_and(|phase| phase.share == Share::ZERO)
        {
            error(
                "phases[0].share".into(),
                "a share of 0 % shows nothing".into(),
                "begin with at least 0.01 %",
            );
        }
        for (index, phase) in self.phases.iter().enumerate() {
            if phase.deadline.is_some_and(|deadline| deadline < phase.hold) {
                error(
                    format!("phases[{index}].deadline"),
                    format!(
                        "the deadline is before the end of the hold, {}",
                        text::format_duration(phase.hold)
                    ),
                    "give the phase more time, or a shorter `hold:`",
                );
            }
        }
        self.rule_problems(&mut problems);
        let wants_safe = (0..self.phases.len()).any(|phase| self.evidence(phase) == Evidence::Safe);
        problems.extend(self.judge.problems(wants_safe));
        self.sign_problems(&mut problems);
        problems
    }

    /// What is wrong with the rules on values and signals.
    fn sign_problems(&self, problems: &mut Vec<Problem>) {
        for (name, rule) in &self.values {
            rule.problems(&format!("values.{name}"), problems);
        }
        if self.values.len() > VALUES_MAX {
            problems.push(Problem {
                at: "values".into(),
                what: format!("more than {VALUES_MAX} values"),
                help: "watch those that decide".into(),
                fatal: true,
            });
        }
        if let Some(renew) = self.affinity.renew.filter(|renew| *renew < RENEW_MIN) {
            problems.push(Problem {
                at: "affinity.renew".into(),
                what: format!(
                    "callers would change version every {}",
                    text::format_duration(renew)
                ),
                help: format!(
                    "write a time from `{}` on, such as `1h`",
                    text::format_duration(RENEW_MIN)
                ),
                fatal: true,
            });
        }
        let signals = self.signals.iter();
        problems
            .extend(signals.filter_map(|(kind, rule)| rule.problem(&format!("signals.{kind}"))));
    }

    fn rule_problems(&self, problems: &mut Vec<Problem>) {
        let places = std::iter::once((
            String::new(),
            &self.thresholds,
            &self.criteria,
            Some(self.evidence),
        ))
        .chain(self.phases.iter().enumerate().map(|(i, phase)| {
            (
                format!("phases[{i}]."),
                &phase.thresholds,
                &phase.criteria,
                phase.evidence,
            )
        }));
        for (place, thresholds, criteria, evidence) in places {
            for (metric, rule) in thresholds {
                let at = format!("{place}thresholds.{metric}");
                for (level, limit) in [("warning", rule.warning), ("critical", rule.critical)] {
                    if let Some(limit) = limit.filter(|limit| !limit.fits(*metric)) {
                        problems.push(unit_problem(format!("{at}.{level}"), *metric, limit));
                    }
                }
                problems.extend(window_problem(&at, rule.window));
                if rule.warning.is_none() && rule.critical.is_none() {
                    problems.push(Problem {
                        at,
                        what: "a threshold without a limit does nothing".into(),
                        help: "give it `warning:`, `critical:` or both".into(),
                        fatal: true,
                    });
                }
            }
            for (metric, rule) in criteria {
                problems.extend(window_problem(
                    &format!("{place}criteria.{metric}"),
                    rule.window,
                ));
                let at = format!("{place}criteria.{metric}.limit");
                if !rule.limit.fits(*metric) {
                    problems.push(unit_problem(at, *metric, rule.limit));
                } else if matches!(
                    (metric, rule.limit),
                    (Metric::ErrorRate, Limit::Percent(0.0))
                ) || matches!(
                    (metric, rule.limit),
                    (Metric::Availability, Limit::Percent(100.0))
                ) {
                    problems.push(Problem {
                        at,
                        what: format!(
                            "one failed call in {} keeps the phase from passing",
                            text::format_duration(rule.window)
                        ),
                        help: "leave a little room, for example 99.9 % availability".into(),
                        fatal: false,
                    });
                }
            }
            if matches!(evidence, Some(Evidence::Trials(0) | Evidence::Calls(0))) {
                problems.push(Problem {
                    at: format!("{place}evidence"),
                    what: "a phase that needs no call would promote a version nobody has used"
                        .into(),
                    help: "write at least `trials 1`".into(),
                    fatal: true,
                });
            }
        }
    }
}

/// Longest window of a rule. What it holds is in memory, block by block.
pub const WINDOW_MAX: Duration = Duration::from_hours(24);

fn window_problem(at: &str, window: Duration) -> Option<Problem> {
    let fine = window > Duration::ZERO && window <= WINDOW_MAX;
    (!fine).then(|| Problem {
        at: format!("{at}.window"),
        what: format!(
            "a window of {} cannot be looked at",
            text::format_duration(window)
        ),
        help: format!(
            "write a time up to {}, for example `5m`",
            text::format_duration(WINDOW_MAX)
        ),
        fatal: true,
    })
}

fn unit_problem(at: String, metric: Metric, limit: Limit) -> Problem {
    let help = match metric.unit() {
        serin_judge::Unit::Ratio => {
            "write a percentage up to 100 %, or a difference such as `+10 %` or `+0.2pp`"
        }
        serin_judge::Unit::Seconds => {
            "write a time such as `500ms`, or a difference such as `+10 %`"
        }
        serin_judge::Unit::PerSecond => {
            "write a rate such as `1000/s`, or a difference such as `+10 %`"
        }
        serin_judge::Unit::Cores => {
            "write percent of one processor core such as `90 %`, or a difference such as `+50 %`"
        }
        serin_judge::Unit::Bytes => "write a size such as `512MB`, or a difference such as `+50 %`",
        serin_judge::Unit::Count => "write a number such as `3`",
    };
    Problem {
        at,
        what: format!("`{limit}` does not fit {metric}"),
        help: help.to_owned(),
        fatal: true,
    }
}

/// Something wrong or odd in a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Where, as a path such as `phases[2].share`.
    pub at: String,
    /// What.
    pub what: String,
    /// What to do.
    pub help: String,
    /// Whether the plan is refused for it.
    pub fatal: bool,
}

fn merged<'a, R>(
    all: &'a BTreeMap<Metric, R>,
    own: Option<&'a BTreeMap<Metric, R>>,
) -> impl Iterator<Item = (Metric, &'a R)> {
    let kept = all
        .iter()
        .filter(move |(metric, _)| own.is_none_or(|own| !own.contains_key(metric)));
    kept.chain(own.into_iter().flatten())
        .map(|(metric, rule)| (*metric, rule))
}

impl ThresholdRule {
    fn resolve(&self, metric: Metric) -> Threshold {
        Threshold {
            metric,
            warning: self.warning,
            critical: self.critical,
            lasting: self.lasting,
            of: self.of,
            window: self.window,
            min_samples: self.min_samples,
            per_tool: self.per_tool,
        }
    }
}

impl CriterionRule {
    fn resolve(&self, metric: Metric) -> Criterion {
        Criterion {
            metric,
            limit: self.limit,
            lasting: self.lasting,
            window: self.window,
            min_samples: self.min_samples,
        }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trials(n) => write!(f, "trials {n}"),
            Self::Calls(n) => write!(f, "calls {n}"),
            Self::Safe => f.write_str("safe"),
        }
    }
}

impl FromStr for Evidence {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let refuse =
            || format!("`{text}` is not evidence; write `safe`, `trials 2000` or `calls 2000`");
        let number = |text: &str| text.trim().replace('_', "").parse().map_err(|_| refuse());
        match text.trim().split_once(' ') {
            None if text.trim() == "safe" => Ok(Self::Safe),
            Some(("trials", count)) => number(count).map(Self::Trials),
            Some(("calls", count)) => number(count).map(Self::Calls),
            _ => Err(refuse()),
        }
    }
}

impl Serialize for Evidence {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Evidence {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Plan {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_phase_replaces_the_plans_rule_for_the_same_metric() {
        let plan = plan(
            r#"{"phases": [{"share": "5 %", "thresholds": {"error_rate": {"critical": "3 %"}}}, {"share": "100 %"}],
                "thresholds": {"error_rate": {"critical": "1 %"}, "latency_p95": {"critical": "+50 %"}}}"#,
        );
        assert!(plan.problems().is_empty(), "{:?}", plan.problems());
        let limit = |phase: usize| {
            plan.thresholds(phase)
                .iter()
                .find(|t| t.metric == Metric::ErrorRate)
                .and_then(|t| t.critical)
        };
        assert_eq!(
            (limit(0), limit(1)),
            (Some(Limit::Percent(3.0)), Some(Limit::Percent(1.0)))
        );
        assert_eq!(plan.thresholds(0).len(), 2);
    }

    #[test]
    fn problems_name_their_place() {
        for (json, at, fatal) in [
            (r#"{"phases": []}"#, "phases", true),
            (
                r#"{"phases": [{"share": "50 %"}, {"share": "25 %"}, {"share": "100 %"}]}"#,
                "phases[1].share",
                true,
            ),
            (
                r#"{"phases": [{"share": "50 %"}]}"#,
                "phases[0].share",
                true,
            ),
            (
                r#"{"phases": [{"share": "0 %"}, {"share": "100 %"}]}"#,
                "phases[0].share",
                true,
            ),
            (
                r#"{"phases": [{"share": "100 %"}], "thresholds": {"latency_p95": {"critical": "5 %"}}}"#,
                "thresholds.latency_p95.critical",
                true,
            ),
            (
                r#"{"phases": [{"share": "100 %"}], "thresholds": {"error_rate": {}}}"#,
                "thresholds.error_rate",
                true,
            ),
            (
                r#"{"phases": [{"share": "100 %"}], "evidence": "calls 0"}"#,
                "evidence",
                true,
            ),
            (
                r#"{"phases": [{"share": "100 %"}], "affinity": {"renew": "1s"}}"#,
                "affinity.renew",
                true,
            ),
            (
                r#"{"phases": [{"share": "100 %"}], "signals": {"complaint": {}}}"#,
                "signals.complaint",
                true,
            ),
            (
                r#"{"phases": [{"share": "100 %", "evidence": "trials 0"}]}"#,
                "phases[0].evidence",
                true,
            ),
            (
                r#"{"phases": [{"share": "100 %"}], "criteria": {"availability": {"limit": "100 %"}}}"#,
                "criteria.availability.limit",
                false,
            ),
        ] {
            let problems = plan(json).problems();
            assert_eq!(
                problems
                    .iter()
                    .map(|p| (p.at.as_str(), p.fatal))
                    .collect::<Vec<_>>(),
                [(at, fatal)],
                "{json}"
            );
        }
    }

    #[test]
    fn a_plan_reads_back_as_written() {
        let plan = plan(
            r#"{"phases": [{"share": "5 %", "hold": "2h"}, {"share": "100 %"}], "evidence": "trials 2000",
                "inconclusive": "rollback", "longest": "4h", "auto_promote": false}"#,
        );
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan, "{text}");
        assert_eq!(
            plan.deadline(0),
            Some(Duration::from_hours(4)),
            "twice the hold"
        );
        assert_eq!(plan.deadline(1), None);
    }
}
