//! How a plan wants its candidate compared with stable: the settings of the sequential judge, as they stand in YAML.

use super::{Plan, Problem};
use crate::text;
use serde::{Deserialize, Serialize};
use serin_judge::{
    Limit, Metric, Unit, ratio_of_steps,
    sequential::{Aspect, Settings, Tolerance},
    steps_of_ratio,
};
use std::{collections::BTreeMap, time::Duration};

/// Shortest block: below it a caller's first calls would fall apart into trials of one call each.
pub const BLOCK_MIN: Duration = Duration::from_secs(1);

/// Longest block: nothing is judged before the first one ends.
pub const BLOCK_MAX: Duration = Duration::from_mins(10);

/// Most that a tolerance of errors may add, in percent of stable's rate: a hundred times as many are worse by any measure.
const ERRORS_PERCENT_MAX: f64 = 10_000.0;

/// How long a rollout is taken to last when its plan does not say: over so long the judge's restarts are spread.
const HORIZON_DEFAULT: Duration = Duration::from_hours(24);

/// How the candidate is compared with stable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JudgeRule {
    /// Who decides.
    pub mode: Mode,
    /// Who decides about one thing, where it differs: `errors`, `unserved`, `latency`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub modes: BTreeMap<Subject, Mode>,
    /// The chance that a candidate within tolerance is ever taken back for a regression, over the whole rollout.
    pub alpha: f64,
    /// The chance that a candidate beyond tolerance is ever called safe, in each phase.
    pub beta: f64,
    /// How much more often its trials may fail.
    pub errors: Limit,
    /// How much slower it may be before the rollout holds. Taken down to a bucket's edge: `+10 %` is 9.1 %, `+11 %` is 11.4 %.
    pub latency: Limit,
    /// How much slower it may be before it is taken back.
    pub latency_critical: Limit,
    /// Length of a block: a caller's first block with a tool is one trial.
    #[serde(with = "text::duration")]
    pub block: Duration,
    /// Beyond this rate of bad trials stable itself is broken: the comparison is set aside and thresholds decide.
    pub stable_max: Limit,
}

/// Who decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The sequential judge, with thresholds as guards.
    #[default]
    Both,
    /// The sequential judge alone.
    Sequential,
    /// Thresholds alone.
    Threshold,
}

/// What is decided about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// Calls for which the version is to blame.
    Errors,
    /// Calls that their clients gave up, or that were refused as their own fault. No threshold looks at the former.
    Unserved,
    /// Times to the first and the last byte.
    Latency,
}

impl Default for JudgeRule {
    fn default() -> Self {
        let slower = |percent| Limit::AgainstStable {
            percent,
            points: 0.0,
        };
        Self {
            mode: Mode::default(),
            modes: BTreeMap::new(),
            alpha: 0.01,
            beta: 0.05,
            errors: Limit::AgainstStable {
                percent: 20.0,
                points: 0.2,
            },
            // k = 5 and k = 19, as judge.md names them.
            latency: slower(11.0),
            latency_critical: slower(51.0),
            block: Duration::from_secs(10),
            stable_max: Limit::Percent(20.0),
        }
    }
}

impl JudgeRule {
    /// Whether it is what a plan gets that says nothing.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Who decides about a thing.
    pub fn mode_of(&self, subject: Subject) -> Mode {
        self.modes.get(&subject).copied().unwrap_or(self.mode)
    }

    /// Whether thresholds on a metric are heard while the two versions are compared. While the comparison is set aside all are.
    pub fn guards(&self, metric: Metric) -> bool {
        let subject = match metric {
            Metric::ErrorRate | Metric::Availability => Subject::Errors,
            metric if metric.unit() == Unit::Seconds => Subject::Latency,
            _ => return true,
        };
        self.mode_of(subject) != Mode::Sequential
    }

    /// What the sequential judge compares.
    fn aspects(&self) -> Vec<Aspect> {
        let subjects = [
            (Subject::Errors, &[Aspect::Errors][..]),
            (Subject::Unserved, &[Aspect::Unserved]),
            (Subject::Latency, &[Aspect::FirstByte, Aspect::LastByte]),
        ];
        subjects
            .into_iter()
            .filter(|(subject, _)| self.mode_of(*subject) != Mode::Threshold)
            .flat_map(|(_, aspects)| aspects)
            .copied()
            .collect()
    }

    /// Whether it compares what a verdict of safe is about.
    fn can_say_safe(&self) -> bool {
        let compared = |subject| self.mode_of(subject) != Mode::Threshold;
        compared(Subject::Errors) || compared(Subject::Latency)
    }

    pub(super) fn problems(&self, wants_safe: bool) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut error = |at: &str, what: String, help: &str| {
            problems.push(Problem {
                at: format!("judge.{at}"),
                what,
                help: help.to_owned(),
                fatal: true,
            });
        };
        for (at, chance) in [("alpha", self.alpha), ("beta", self.beta)] {
            if !(1e-9..=0.5).contains(&chance) {
                error(
                    at,
                    format!("{chance} is no chance of error to decide by"),
                    "write a number such as 0.01, at most 0.5",
                );
            }
        }
        let is_tolerance = matches!(self.errors, Limit::AgainstStable { percent, points }
            if percent <= ERRORS_PERCENT_MAX && points < 100.0);
        if !is_tolerance {
            error(
                "errors",
                format!("`{}` is no tolerance", self.errors),
                "write how much worse than stable is still fine, such as `+20 % +0.2pp`; for an absolute limit use `thresholds:`, and to compare no errors `modes: { errors: threshold }`",
            );
        }
        for (at, limit) in [
            ("latency", self.latency),
            ("latency_critical", self.latency_critical),
        ] {
            if steps(limit).is_none() {
                error(
                    at,
                    format!("`{limit}` is no tolerance for times"),
                    "write how much slower than stable is still fine, such as `+11 %`, at least `+2.2 %`; for an absolute limit use `thresholds:`",
                );
            }
        }
        if steps(self.latency)
            .zip(steps(self.latency_critical))
            .is_some_and(|(warning, critical)| critical < warning)
        {
            error(
                "latency_critical",
                format!("it lies below `latency: {}`", self.latency),
                "let what takes the candidate back lie above what holds the rollout",
            );
        }
        if !(BLOCK_MIN..=BLOCK_MAX).contains(&self.block) {
            error(
                "block",
                format!(
                    "a block of {} cannot be judged",
                    text::format_duration(self.block)
                ),
                "write a time from `1s` to `10m`; `10s` suits most",
            );
        }
        if !matches!(self.stable_max, Limit::Percent(percent) if percent > 0.0 && percent <= 100.0)
        {
            error(
                "stable_max",
                format!("`{}` is no rate", self.stable_max),
                "write a percentage such as `20 %`",
            );
        }
        if wants_safe && !self.can_say_safe() {
            error(
                "mode",
                "`evidence: safe` needs the sequential judge, which is off".to_owned(),
                "write `mode: both`, or `evidence: calls 2000`",
            );
        }
        problems
    }
}

/// A tolerance in steps of a bucket, rounded down; nothing when it is none. Half a percent is allowed, so that the edges can be
/// written as people say them: `+11 %` for 11.44 %.
fn steps(limit: Limit) -> Option<u16> {
    match limit {
        Limit::AgainstStable {
            percent,
            points: 0.0,
        } => Some(steps_of_ratio(1.0 + (percent + 0.5) / 100.0)).filter(|steps| *steps > 0),
        _ => None,
    }
}

impl Plan {
    /// How a rollout by this plan is judged.
    pub fn judge_settings(&self) -> Settings {
        let rule = &self.judge;
        let errors = match rule.errors {
            Limit::AgainstStable { percent, points } => Tolerance {
                relative: percent / 100.0,
                absolute: points / 100.0,
            },
            _ => Tolerance {
                relative: 0.0,
                absolute: 0.0,
            },
        };
        let stable_bad_max = match rule.stable_max {
            Limit::Percent(percent) => percent / 100.0,
            _ => 1.0,
        };
        Settings {
            alpha: rule.alpha,
            beta: rule.beta,
            errors,
            latency_warning: steps(rule.latency).unwrap_or(1),
            latency_critical: steps(rule.latency_critical).unwrap_or(1),
            aspects: rule.aspects(),
            horizon_blocks: (self.horizon().as_secs_f64() / rule.block.as_secs_f64().max(1e-3))
                .max(1.0),
            stable_bad_max,
        }
    }

    /// The latency tolerances as they are applied, after rounding down: to hold, and to take back. As ratios, such as 1.114.
    pub fn latency_ratios(&self) -> (f64, f64) {
        let settings = self.judge_settings();
        (
            ratio_of_steps(settings.latency_warning),
            ratio_of_steps(settings.latency_critical),
        )
    }

    /// How long a rollout may take, extensions not counted.
    fn horizon(&self) -> Duration {
        let phases: Duration = (0..self.phases.len())
            .filter_map(|phase| self.deadline(phase))
            .sum();
        if phases.is_zero() {
            HORIZON_DEFAULT
        } else {
            phases
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(judge: &str) -> Plan {
        serde_json::from_str(&format!(
            r#"{{"phases": [{{"share": "5 %", "hold": "2h"}}, {{"share": "100 %"}}], "judge": {judge}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn a_plan_that_says_nothing_is_judged_all_the_same() {
        let settings = plan("{}").judge_settings();
        assert_eq!(
            (settings.latency_warning, settings.latency_critical),
            (5, 19)
        );
        assert_eq!(settings.aspects.len(), 4);
        assert!(
            (settings.horizon_blocks - 4.0 * 360.0).abs() < 1e-9,
            "four hours of ten seconds"
        );
        assert!(plan("{}").problems().is_empty());
    }

    #[test]
    fn margins_are_rounded_down_to_an_edge() {
        let plan = plan(r#"{"latency": "+11 %", "latency_critical": "+51 %"}"#);
        let (warning, critical) = plan.latency_ratios();
        assert!((warning - 1.1144).abs() < 1e-4, "{warning}");
        assert!((critical - 1.5092).abs() < 1e-4, "{critical}");
    }

    #[test]
    fn modes_say_who_decides_about_what() {
        let plan = plan(r#"{"mode": "sequential", "modes": {"latency": "threshold"}}"#);
        assert_eq!(
            plan.judge_settings().aspects,
            [Aspect::Errors, Aspect::Unserved]
        );
        assert!(!plan.judge.guards(Metric::ErrorRate));
        assert!(plan.judge.guards(Metric::LatencyP95));
        assert!(plan.judge.guards(Metric::Throughput));
    }

    #[test]
    fn problems_name_their_place() {
        for (judge, at) in [
            (r#"{"alpha": 0}"#, "judge.alpha"),
            (r#"{"beta": 0.9}"#, "judge.beta"),
            (r#"{"errors": "5 %"}"#, "judge.errors"),
            (r#"{"errors": "+100pp"}"#, "judge.errors"),
            (r#"{"errors": "+20000 %"}"#, "judge.errors"),
            (r#"{"latency": "500ms"}"#, "judge.latency"),
            (r#"{"latency": "+1 %"}"#, "judge.latency"),
            (r#"{"latency_critical": "+5 %"}"#, "judge.latency_critical"),
            (r#"{"block": "100ms"}"#, "judge.block"),
            (r#"{"stable_max": "+5 %"}"#, "judge.stable_max"),
        ] {
            let problems = plan(judge).problems();
            assert_eq!(
                problems.iter().map(|p| p.at.as_str()).collect::<Vec<_>>(),
                [at],
                "{judge}"
            );
        }
        let mut safe = plan(r#"{"mode": "threshold"}"#);
        safe.evidence = super::super::Evidence::Safe;
        assert_eq!(safe.problems()[0].at, "judge.mode");
    }
}
