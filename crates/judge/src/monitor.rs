//! The monitor of one phase: it takes blocks of counts and says how the candidate stands against the plan's rules.
//!
//! Fixed rules with sliding windows and minimum samples. The sequential judge adds its proof to the same [`Assessment`].

use crate::{
    Arm, Assessment, Check, Direction, Finding, Level, Limit, Metric, Resources, Scope, Tally,
    Verdict, binomial,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

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
    windows: BTreeMap<Duration, Window>,
    /// Since when each rule has been breached (thresholds) or met (criteria).
    since: BTreeMap<(Rule, Scope), f64>,
    began: f64,
    stable_total: Tally,
    candidate_total: Tally,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rule {
    Threshold(usize, Level),
    Criterion(usize),
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
            windows,
            since: BTreeMap::new(),
            began: now,
            stable_total: Tally::default(),
            candidate_total: Tally::default(),
        }
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
                    if finding.check == Check::Fail {
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
            values: Vec::new(),
            proof: None,
            basis: None,
        };
        if assessment.worst(Level::Critical).is_some() {
            assessment.verdict = Verdict::Regression;
        }
        assessment
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

/// One look at one metric.
struct Look {
    metric: Metric,
    limit: Limit,
    seconds: f64,
    min_samples: u64,
}

/// What is looked at on one side.
#[derive(Clone, Copy)]
struct Side<'a> {
    tally: &'a Tally,
    resources: Option<&'a Resources>,
}

impl<'a> Side<'a> {
    /// All of an arm.
    fn of(arm: &'a Arm) -> Self {
        Self {
            tally: &arm.pooled,
            resources: arm.resources.as_ref(),
        }
    }

    /// Some of its calls.
    fn calls(tally: &'a Tally) -> Self {
        Self {
            tally,
            resources: None,
        }
    }

    fn value(self, metric: Metric, seconds: f64) -> Option<f64> {
        if metric.is_resource() {
            return self.resources?.value(metric);
        }
        self.tally.value(metric, seconds)
    }

    fn samples(self, metric: Metric) -> u64 {
        if metric.is_resource() {
            return self.resources.map_or(0, |resources| resources.samples);
        }
        self.tally.calls
    }
}

/// Fewest answers of a version's own metrics that say something: processor time and restarts show between two of them.
const RESOURCE_SAMPLES_MIN: u64 = 2;

impl Look {
    /// How many samples it needs: calls as the plan says, answers of the version's own metrics as their nature says.
    fn needed(&self) -> u64 {
        if self.metric.is_resource() {
            RESOURCE_SAMPLES_MIN
        } else {
            self.min_samples
        }
    }

    /// As a threshold looks: a rate must be shown to be beyond its limit, not merely look so.
    fn at(&self, scope: Scope, stable: Option<Side<'_>>, candidate: Side<'_>) -> Finding {
        let stable_value = stable.and_then(|side| side.value(self.metric, self.seconds));
        let resolved = self.limit.resolve(self.metric, stable_value);
        let check = match resolved {
            _ if candidate.samples(self.metric) == 0 => Check::NoData,
            _ if candidate.samples(self.metric) < self.needed() => Check::Insufficient,
            // A tool or a traffic that stable does not have cannot be compared with stable's.
            None => Check::Insufficient,
            Some(limit) if self.breaches(candidate, limit) => Check::Fail,
            Some(_) => Check::Pass,
        };
        let absolute = !matches!(self.limit, Limit::AgainstStable { .. });
        let stable_too = absolute
            && check == Check::Fail
            && resolved.is_some_and(|limit| {
                stable.is_some_and(|stable| {
                    stable.samples(self.metric) >= self.needed() && self.breaches(stable, limit)
                })
            });
        Finding {
            stable_too,
            ..self.finding(scope, check, stable_value, candidate)
        }
    }

    /// As a criterion looks: the plain value, at or within the limit.
    fn plainly(&self, stable: Side<'_>, candidate: Side<'_>) -> Finding {
        let stable_value = stable.value(self.metric, self.seconds);
        let value = candidate.value(self.metric, self.seconds);
        let check = match (value, self.limit.resolve(self.metric, stable_value)) {
            _ if candidate.samples(self.metric) == 0 => Check::NoData,
            _ if candidate.samples(self.metric) < self.needed() => Check::Insufficient,
            (Some(value), Some(limit)) => {
                let met = match self.metric.direction() {
                    Direction::Max => value <= limit,
                    Direction::Min => value >= limit,
                };
                if met { Check::Pass } else { Check::Fail }
            }
            _ => Check::Insufficient,
        };
        self.finding(Scope::All, check, stable_value, candidate)
    }

    fn finding(
        &self,
        scope: Scope,
        check: Check,
        stable: Option<f64>,
        candidate: Side<'_>,
    ) -> Finding {
        Finding {
            metric: self.metric,
            scope,
            level: None,
            check,
            limit: self.limit,
            candidate: candidate.value(self.metric, self.seconds),
            stable,
            samples: candidate.samples(self.metric),
            stable_too: false,
        }
    }

    fn breaches(&self, side: Side<'_>, limit: f64) -> bool {
        if let Some((hits, trials)) = side.tally.rate(self.metric) {
            let limit = if self.metric.direction() == Direction::Min {
                1.0 - limit
            } else {
                limit
            };
            return binomial::is_above(hits, trials, limit);
        }
        // A quantile that is endless because calls failed is for the error rate to judge, which can tell a failure in twenty
        // calls from a rate.
        let value = side.value(self.metric, self.seconds);
        value
            .filter(|value| value.is_finite())
            .is_some_and(|value| match self.metric.direction() {
                Direction::Max => value > limit,
                Direction::Min => value < limit,
            })
    }
}

/// How many buckets a window has at most: the memory of a rule does not grow with its window, and what leaves the window leaves
/// it in steps of a six-hundredth.
const BUCKETS_MAX: f64 = 600.0;

/// A sliding window: the sum of the blocks that are not too old.
#[derive(Clone, Debug)]
struct Window {
    span_seconds: f64,
    buckets: VecDeque<Bucket>,
    stable: Arm,
    candidate: Arm,
}

/// Blocks that leave the window together.
#[derive(Clone, Debug)]
struct Bucket {
    first: f64,
    last: f64,
    stable: Arm,
    candidate: Arm,
}

impl Window {
    fn new(span: Duration) -> Self {
        let span_seconds = span.as_secs_f64();
        Self {
            span_seconds,
            buckets: VecDeque::new(),
            stable: Arm::default(),
            candidate: Arm::default(),
        }
    }

    fn push(&mut self, at: f64, stable: &Arm, candidate: &Arm) {
        self.stable.merge(stable);
        self.candidate.merge(candidate);
        match self.buckets.back_mut() {
            Some(bucket) if at - bucket.first < self.span_seconds / BUCKETS_MAX => {
                bucket.last = at;
                bucket.stable.merge(stable);
                bucket.candidate.merge(candidate);
            }
            _ => {
                let (stable, candidate) = (stable.clone(), candidate.clone());
                self.buckets.push_back(Bucket {
                    first: at,
                    last: at,
                    stable,
                    candidate,
                });
            }
        }
    }

    /// Forgets what is older than the span at `now`.
    fn slide(&mut self, now: f64) {
        let before = now - self.span_seconds;
        while let Some(bucket) = self.buckets.pop_front_if(|bucket| bucket.last <= before) {
            self.stable.unmerge(&bucket.stable);
            self.candidate.unmerge(&bucket.candidate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threshold(lasting_seconds: u64, min_samples: u64) -> Threshold {
        Threshold {
            metric: Metric::ErrorRate,
            warning: Some(Limit::Percent(5.0)),
            critical: Some(Limit::Percent(20.0)),
            lasting: Duration::from_secs(lasting_seconds),
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
    fn a_long_window_of_many_blocks_stays_small() {
        let mut window = Window::new(Duration::from_hours(24));
        for tick in 0..100_000_u32 {
            let at = f64::from(tick);
            window.push(at, &arm("echo", 1, 0), &arm("echo", 1, 0));
            window.slide(at);
        }
        assert!(window.buckets.len() <= 602, "{}", window.buckets.len());
        let kept = window.candidate.pooled.calls;
        assert!((86_400..86_400 + 2 * 144).contains(&kept), "{kept}");
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
            arm.add_resources(&Resources {
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
