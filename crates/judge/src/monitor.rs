//! The monitor of one phase: it takes blocks of counts and says how the candidate stands against the plan's rules.
//!
//! Fixed rules with sliding windows and minimum samples. The sequential judge adds its proof to the same [`Assessment`].

mod look;
mod series;
mod value;
mod window;

pub use series::{Of, SERIES_MAX};
pub use value::ValueThreshold;

use crate::{
    Arm, Assessment, Check, Finding, Level, Limit, Metric, Scope, Tally, ValueFinding, Verdict,
};
use look::{Look, Side};
use serde::{Deserialize, Serialize};
use series::Series;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use window::Window;

/// A rule that takes the candidate back (critical) or holds the rollout (warning).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// What it looks at.
    pub metric: Metric,
    /// Beyond it, the rollout holds.
    pub warning: Option<Limit>,
    /// Beyond it, the candidate is taken back.
    pub critical: Option<Limit>,
    /// How long it must be so before it counts.
    pub lasting: Duration,
    /// In how many windows, one after the other, it must be so before it counts.
    pub of: Option<Of>,
    /// How far back it looks.
    pub window: Duration,
    /// Fewer calls than this in the window say nothing. Resources are not counted in calls: two answers suffice.
    pub min_samples: u64,
    /// Whether it also looks at each tool by itself.
    pub per_tool: bool,
}

/// A condition that must hold, for so long, before a phase may pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Criterion {
    /// What it looks at.
    pub metric: Metric,
    /// The candidate must be at or within it.
    pub limit: Limit,
    /// How long it must have held.
    pub lasting: Duration,
    /// How far back it looks.
    pub window: Duration,
    /// Fewer calls than this in the window say nothing.
    pub min_samples: u64,
}

/// The monitor of one phase of one rollout.
#[derive(Clone, Debug)]
pub struct Monitor {
    thresholds: Vec<Threshold>,
    criteria: Vec<Criterion>,
    values: Vec<ValueThreshold>,
    windows: BTreeMap<Duration, Window>,
    /// Since when each rule has been breached (thresholds) or met (criteria).
    since: BTreeMap<(Rule, Scope), f64>,
    series: BTreeMap<(Rule, Scope), Series>,
    began: f64,
    stable_total: Tally,
    candidate_total: Tally,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rule {
    Threshold(usize, Level),
    Criterion(usize),
    Value(usize),
}

impl Monitor {
    /// A monitor for a phase that begins at `now`.
    pub fn new(thresholds: Vec<Threshold>, criteria: Vec<Criterion>, now: f64) -> Self {
        let spans = thresholds
            .iter()
            .map(|t| t.window)
            .chain(criteria.iter().map(|c| c.window));
        let windows = spans.map(|span| (span, Window::new(span))).collect();
        Self {
            thresholds,
            criteria,
            values: Vec::new(),
            windows,
            since: BTreeMap::new(),
            series: BTreeMap::new(),
            began: now,
            stable_total: Tally::default(),
            candidate_total: Tally::default(),
        }
    }

    /// Also with rules on numbers inside results.
    #[must_use]
    pub fn with_values(mut self, values: Vec<ValueThreshold>) -> Self {
        for value in &values {
            let span = value.window;
            self.windows
                .entry(span)
                .or_insert_with(|| Window::new(span));
        }
        self.values = values;
        self
    }

    /// Takes the counts of the period that ends at `now`.
    pub fn add(&mut self, now: f64, stable: &Arm, candidate: &Arm) {
        self.stable_total.merge(&stable.pooled);
        self.candidate_total.merge(&candidate.pooled);
        for window in self.windows.values_mut() {
            window.push(now, stable, candidate);
            window.slide(now);
        }
    }

    /// All calls of stable and candidate since the phase began.
    pub fn totals(&self) -> (&Tally, &Tally) {
        (&self.stable_total, &self.candidate_total)
    }

    /// How the candidate stands at `now`.
    pub fn assess(&mut self, now: f64) -> Assessment {
        let mut findings = Vec::new();
        for (index, threshold) in self.thresholds.iter().enumerate() {
            let Some(window) = self.windows.get_mut(&threshold.window) else {
                continue;
            };
            window.slide(now);
            let seconds = threshold.window.as_secs_f64().min(now - self.began);
            let mut scopes = vec![(
                Scope::All,
                Some(Side::of(&window.stable)),
                Side::of(&window.candidate),
            )];
            if threshold.per_tool && !threshold.metric.is_resource() {
                let tools = window.candidate.tools.iter();
                scopes.extend(tools.map(|(tool, tally)| {
                    (
                        Scope::Tool(Arc::clone(tool)),
                        window.stable.tools.get(tool).map(Side::calls),
                        Side::calls(tally),
                    )
                }));
            }
            for (scope, stable, candidate) in scopes {
                for (level, limit) in [
                    (Level::Critical, threshold.critical),
                    (Level::Warning, threshold.warning),
                ] {
                    let Some(limit) = limit else { continue };
                    let look = Look {
                        metric: threshold.metric,
                        limit,
                        seconds,
                        min_samples: threshold.min_samples,
                    };
                    let mut finding = look.at(scope.clone(), stable, candidate);
                    finding.level = Some(level);
                    finding.stable_too &= level == Level::Warning;
                    let key = (Rule::Threshold(index, level), scope.clone());
                    let breached = finding.check == Check::Fail;
                    if let Some(of) = threshold.of {
                        let span_seconds = threshold.window.as_secs_f64();
                        let first = self.began + span_seconds;
                        let series = self.series.entry(key.clone());
                        let series = series.or_insert_with(|| Series::new(first));
                        if series.look(now, span_seconds, breached, of) {
                            finding.check = Check::Fail;
                        } else if breached {
                            finding.check = Check::Pending;
                        }
                    }
                    if matches!(finding.check, Check::Fail | Check::Pending) {
                        let since = *self.since.entry(key).or_insert(now);
                        if now - since < threshold.lasting.as_secs_f64() {
                            finding.check = Check::Pending;
                        }
                        findings.push(finding);
                    } else {
                        self.since.remove(&key);
                    }
                }
            }
        }
        findings.sort_by_key(|f| {
            (
                f.stable_too,
                f.check != Check::Fail,
                std::cmp::Reverse(f.level),
                f.scope.clone(),
            )
        });
        let criteria = self.criteria(now);
        let mut assessment = Assessment {
            verdict: Verdict::Continue,
            findings,
            criteria,
            trials: self.candidate_total.calls,
            calls: self.candidate_total.calls,
            stable_calls: self.stable_total.calls,
            fresh: true,
            values: self.values(now),
            proof: None,
            unstored: 0,
            basis: None,
        };
        assessment.verdict = assessment.verdict_of_rules();
        assessment
    }

    fn values(&mut self, now: f64) -> Vec<ValueFinding> {
        let mut found = Vec::new();
        for (index, rule) in self.values.iter().enumerate() {
            let Some(window) = self.windows.get_mut(&rule.window) else {
                continue;
            };
            window.slide(now);
            let mut finding = rule.look(window);
            let key = (Rule::Value(index), Scope::All);
            if finding.check == Check::Fail {
                let since = *self.since.entry(key).or_insert(now);
                if now - since < rule.lasting.as_secs_f64() {
                    finding.check = Check::Pending;
                }
            } else {
                self.since.remove(&key);
            }
            found.push(finding);
        }
        found
    }

    fn criteria(&mut self, now: f64) -> Vec<Finding> {
        let mut found = Vec::new();
        for (index, criterion) in self.criteria.iter().enumerate() {
            let Some(window) = self.windows.get_mut(&criterion.window) else {
                continue;
            };
            window.slide(now);
            let seconds = criterion.window.as_secs_f64().min(now - self.began);
            let look = Look {
                metric: criterion.metric,
                limit: criterion.limit,
                seconds,
                min_samples: criterion.min_samples.max(1),
            };
            let mut finding = look.plainly(Side::of(&window.stable), Side::of(&window.candidate));
            let key = (Rule::Criterion(index), Scope::All);
            if finding.check == Check::Pass {
                let since = *self.since.entry(key).or_insert(now);
                if now - since < criterion.lasting.as_secs_f64() {
                    finding.check = Check::Pending;
                }
            } else {
                self.since.remove(&key);
            }
            found.push(finding);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ValueSum;

    fn threshold(lasting_seconds: u64, min_samples: u64) -> Threshold {
        Threshold {
            metric: Metric::ErrorRate,
            warning: Some(Limit::Percent(5.0)),
            critical: Some(Limit::Percent(20.0)),
            lasting: Duration::from_secs(lasting_seconds),
            of: None,
            window: Duration::from_mins(1),
            min_samples,
            per_tool: true,
        }
    }

    fn arm(tool: &str, calls: u64, bad: u64) -> Arm {
        let mut arm = Arm::default();
        arm.add(
            &tool.into(),
            &Tally {
                calls,
                bad,
                ..Tally::default()
            },
        );
        arm
    }

    #[test]
    fn a_fault_in_one_tool_is_found_and_named() {
        let mut monitor = Monitor::new(vec![threshold(0, 10)], vec![], 0.0);
        let mut candidate = arm("search", 20, 20);
        candidate.merge(&arm("echo", 180, 0));
        monitor.add(1.0, &arm("search", 100, 0), &candidate);
        let assessment = monitor.assess(1.0);
        assert_eq!(assessment.verdict, Verdict::Regression);
        let worst = assessment.worst(Level::Critical).unwrap();
        assert_eq!(worst.scope, Scope::Tool("search".into()));
        assert_eq!((worst.samples, worst.candidate), (20, Some(1.0)));
    }

    #[test]
    fn too_few_calls_say_nothing() {
        let mut monitor = Monitor::new(vec![threshold(0, 50)], vec![], 0.0);
        monitor.add(1.0, &Arm::default(), &arm("search", 49, 49));
        assert_eq!(monitor.assess(1.0).verdict, Verdict::Continue);
        monitor.add(2.0, &Arm::default(), &arm("search", 1, 1));
        assert_eq!(monitor.assess(2.0).verdict, Verdict::Regression);
    }

    #[test]
    fn a_breach_in_some_of_the_last_windows_counts() {
        let rule = Threshold {
            of: Some("2 of 3".parse().unwrap()),
            ..threshold(0, 10)
        };
        let mut monitor = Monitor::new(vec![rule], vec![], 0.0);
        let mut verdicts = Vec::new();
        for minute in 1..=5_u32 {
            let bad = if minute == 1 || minute == 3 { 20 } else { 0 };
            let at = f64::from(minute) * 60.0;
            monitor.add(at, &Arm::default(), &arm("search", 20, bad));
            verdicts.push(monitor.assess(at).verdict == Verdict::Regression);
        }
        assert_eq!(verdicts, [false, false, true, false, false]);
    }

    #[test]
    fn a_number_inside_results_has_limits() {
        let rule = ValueThreshold {
            name: "guard".into(),
            tool: "generate".into(),
            higher_is_better: true,
            warning: Some(0.9),
            critical: Some(0.7),
            lasting: Duration::ZERO,
            window: Duration::from_mins(1),
            min_samples: 10,
        };
        let mut monitor = Monitor::new(vec![], vec![], 0.0).with_values(vec![rule]);
        let passed = |count, sum| {
            let mut arm = Arm::default();
            arm.add_value(&"guard".into(), ValueSum { count, sum });
            arm
        };
        let check = |monitor: &mut Monitor, at| {
            let found = monitor.assess(at).values.remove(0);
            (found.check, found.level)
        };
        assert_eq!(check(&mut monitor, 0.0), (Check::NoData, None));
        monitor.add(1.0, &passed(50, 49.0), &passed(5, 0.0));
        assert_eq!(check(&mut monitor, 1.0), (Check::Insufficient, None));
        monitor.add(2.0, &Arm::default(), &passed(95, 95.0));
        assert_eq!(check(&mut monitor, 2.0), (Check::Pass, None));
        monitor.add(3.0, &Arm::default(), &passed(20, 0.0));
        assert_eq!(
            check(&mut monitor, 3.0),
            (Check::Fail, Some(Level::Warning))
        );
        monitor.add(4.0, &Arm::default(), &passed(60, 0.0));
        assert_eq!(
            check(&mut monitor, 4.0),
            (Check::Fail, Some(Level::Critical))
        );
        assert_eq!(monitor.assess(4.0).verdict, Verdict::Regression);
        assert_eq!(check(&mut monitor, 100.0), (Check::NoData, None));
    }

    #[test]
    fn a_breach_must_last() {
        let mut monitor = Monitor::new(vec![threshold(5, 10)], vec![], 0.0);
        monitor.add(1.0, &Arm::default(), &arm("search", 20, 20));
        assert_eq!(monitor.assess(1.0).verdict, Verdict::Continue);
        let pending = monitor.assess(1.0);
        assert_eq!(pending.findings[0].check, Check::Pending);
        assert!(pending.breach().is_some(), "no phase passes meanwhile");
        assert_eq!(monitor.assess(5.9).verdict, Verdict::Continue);
        assert_eq!(monitor.assess(6.0).verdict, Verdict::Regression);
    }

    #[test]
    fn old_blocks_are_forgotten() {
        let mut monitor = Monitor::new(vec![threshold(0, 10)], vec![], 0.0);
        monitor.add(1.0, &Arm::default(), &arm("search", 20, 20));
        assert_eq!(monitor.assess(60.9).verdict, Verdict::Regression);
        assert_eq!(monitor.assess(61.0).verdict, Verdict::Continue);
        assert_eq!(
            monitor.totals().1.calls,
            20,
            "totals are of the whole phase"
        );
    }

    #[test]
    fn a_critical_limit_binds_whatever_stable_does() {
        let mut monitor = Monitor::new(vec![threshold(0, 10)], vec![], 0.0);
        monitor.add(1.0, &arm("search", 100, 60), &arm("search", 100, 100));
        assert_eq!(monitor.assess(1.0).verdict, Verdict::Regression);
    }

    #[test]
    fn a_warning_that_stable_breaks_too_says_nothing_about_the_candidate() {
        let warning = Threshold {
            critical: None,
            ..threshold(0, 10)
        };
        let mut monitor = Monitor::new(vec![warning], vec![], 0.0);
        monitor.add(1.0, &arm("search", 100, 60), &arm("search", 100, 60));
        let assessment = monitor.assess(1.0);
        assert_eq!(assessment.worst(Level::Warning), None);
        assert_eq!(assessment.breach(), None);
        assert!(
            assessment.findings.iter().all(|f| f.stable_too) && !assessment.findings.is_empty()
        );
    }

    #[test]
    fn failures_do_not_breach_latency_but_neither_do_they_pass_it() {
        let latency = |limit| (Metric::LatencyP95, Limit::Seconds(limit));
        let (metric, limit) = latency(1.0);
        let rule = Threshold {
            metric,
            critical: Some(limit),
            warning: None,
            ..threshold(0, 10)
        };
        let criterion = Criterion {
            metric,
            limit,
            lasting: Duration::ZERO,
            window: rule.window,
            min_samples: 10,
        };
        let mut tally = Tally {
            calls: 20,
            bad: 2,
            ..Tally::default()
        };
        for _ in 0..18 {
            tally.last_byte.record(0.01);
        }
        let mut candidate = Arm::default();
        candidate.add(&"search".into(), &tally);
        let mut monitor = Monitor::new(vec![rule], vec![criterion], 0.0);
        monitor.add(1.0, &Arm::default(), &candidate);
        let assessment = monitor.assess(1.0);
        assert_eq!(assessment.verdict, Verdict::Continue);
        assert!(!assessment.criteria_met());
    }

    #[test]
    fn resources_have_limits_too() {
        let rule = |metric, critical: &str| Threshold {
            metric,
            warning: None,
            critical: critical.parse().ok(),
            ..threshold(0, 50)
        };
        let sample = |cpu_millis, memory_bytes, restarts| {
            let mut arm = Arm::default();
            arm.add_resources(&crate::Resources {
                samples: 1,
                cpu_millis,
                observed_millis: 10_000,
                memory_bytes,
                memory_samples: 1,
                restarts,
            });
            arm
        };
        for (metric, limit, candidate, breached) in [
            (Metric::Cpu, "90 %", sample(9_100, 0, 0), true),
            (Metric::Cpu, "90 %", sample(9_000, 0, 0), false),
            (Metric::Memory, "512MB", sample(0, 600_000_000, 0), true),
            (Metric::Memory, "+50 %", sample(0, 149, 0), false),
            (Metric::Memory, "+50 %", sample(0, 151, 0), true),
            (Metric::Restarts, "1", sample(0, 0, 1), true),
        ] {
            let mut monitor = Monitor::new(vec![rule(metric, limit)], vec![], 0.0);
            let stable = sample(1_000, 100, 0);
            monitor.add(1.0, &stable, &candidate);
            assert!(
                monitor.assess(1.0).findings.is_empty(),
                "{metric}: one answer says nothing"
            );
            monitor.add(2.0, &stable, &candidate);
            let assessment = monitor.assess(2.0);
            assert_eq!(
                assessment.findings.len(),
                usize::from(breached),
                "{metric} {limit}"
            );
        }
    }

    #[test]
    fn one_great_number_leaves_no_trace() {
        let rule = ValueThreshold {
            name: "score".into(),
            tool: "search".into(),
            higher_is_better: true,
            warning: None,
            critical: Some(0.9),
            lasting: Duration::ZERO,
            window: Duration::from_mins(1),
            min_samples: 1,
        };
        let mut monitor = Monitor::new(vec![], vec![], 0.0).with_values(vec![rule]);
        let value = |sum| {
            let mut arm = Arm::default();
            arm.add_value(&"score".into(), ValueSum { count: 1, sum });
            arm
        };
        for second in 1..=90_u32 {
            let sum = if second == 5 { 1e15 } else { 0.95 };
            let at = f64::from(second);
            monitor.add(at, &Arm::default(), &value(sum));
            assert_eq!(monitor.assess(at).values[0].check, Check::Pass, "{second}");
        }
    }

    /// Calls of which so many take long.
    fn slow(calls: u64, slow: u64) -> Arm {
        let mut tally = Tally {
            calls,
            ..Tally::default()
        };
        for call in 0..calls {
            tally.last_byte.record(if call < slow { 0.2 } else { 0.1 });
        }
        let mut arm = Arm::default();
        arm.add(&"search".into(), &tally);
        arm
    }

    #[test]
    fn a_few_slow_calls_are_no_quantile() {
        let rule = Threshold {
            metric: Metric::LatencyP95,
            critical: Some("+50 %".parse().unwrap()),
            warning: None,
            ..threshold(0, 20)
        };
        let verdict = |stable: &Arm, candidate: &Arm| {
            let mut monitor = Monitor::new(vec![rule.clone()], vec![], 0.0);
            monitor.add(1.0, stable, candidate);
            monitor.assess(1.0).verdict
        };
        let stable = slow(1000, 0);
        assert_eq!(
            verdict(&stable, &slow(60, 4)),
            Verdict::Continue,
            "the 95th percentile of sixty is the fourth slowest, but one in twenty may be as slow as it likes"
        );
        assert_eq!(verdict(&stable, &slow(60, 20)), Verdict::Regression);
        assert_eq!(
            verdict(&slow(10, 0), &slow(60, 20)),
            Verdict::Continue,
            "too little is known of stable"
        );
    }

    #[test]
    fn criteria_need_data_and_time() {
        let criterion = Criterion {
            metric: Metric::Availability,
            limit: Limit::Percent(99.0),
            lasting: Duration::from_secs(10),
            window: Duration::from_mins(1),
            min_samples: 10,
        };
        let mut monitor = Monitor::new(vec![], vec![criterion], 0.0);
        assert_eq!(monitor.assess(1.0).criteria[0].check, Check::NoData);
        monitor.add(2.0, &Arm::default(), &arm("echo", 5, 0));
        assert_eq!(monitor.assess(2.0).criteria[0].check, Check::Insufficient);
        monitor.add(3.0, &Arm::default(), &arm("echo", 95, 1));
        assert_eq!(
            monitor.assess(3.0).criteria[0].check,
            Check::Pending,
            "99 % is met, inclusively, but not yet for long"
        );
        assert!(!monitor.assess(12.9).criteria_met());
        assert!(monitor.assess(13.0).criteria_met());
        monitor.add(14.0, &Arm::default(), &arm("echo", 10, 10));
        assert!(!monitor.assess(14.0).criteria_met());
    }
}
