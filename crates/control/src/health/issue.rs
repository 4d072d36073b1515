//! What is wrong now: rules with a warning and a critical limit, and how long each has been broken.

use super::{EVALUATED_WINDOWS, WINDOW_SECONDS, timestamp, window::Period};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serin_judge::{Direction, Level, Limit, Metric, Threshold, binomial};
use serin_model::{name::VersionName, service::Protocol};
use std::{collections::BTreeMap, fmt};

/// What an issue is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A metric that is beyond its limit.
    Metric(Metric),
    /// Memory that grows steadily.
    MemoryLeak,
    /// An endpoint that fails its probes.
    Endpoint(String),
    /// A version none of whose endpoints may be used.
    Unusable,
    /// Requests that are refused for want of room. It is of the whole service, and stands at stable.
    Overload,
    /// A page of metrics that cannot be read.
    MetricsPage,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Metric(metric) => f.pad(metric.name()),
            Self::MemoryLeak => f.pad("memory_leak"),
            Self::Endpoint(_) => f.pad("endpoint"),
            Self::Unusable => f.pad("unusable"),
            Self::Overload => f.pad("overload"),
            Self::MetricsPage => f.pad("metrics_page"),
        }
    }
}

/// Something that is wrong now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Issue {
    /// How bad it is.
    pub level: Level,
    /// What it is about.
    pub subject: Subject,
    /// Whose.
    pub version: VersionName,
    /// Since when.
    pub since: Timestamp,
    /// The value, in the metric's unit; bytes in ten minutes for a leak.
    pub value: Option<f64>,
    /// The limit that it is beyond.
    pub limit: Option<f64>,
    /// All of it in words.
    pub text: String,
}

/// A rule of the health monitor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rule {
    pub(super) metric: Metric,
    pub(super) warning: Option<Limit>,
    pub(super) critical: Option<Limit>,
    /// How many windows back it looks.
    pub(super) windows: u32,
    /// How many looks in a row must find it broken.
    pub(super) consecutive: u32,
    /// Fewer samples than this say nothing.
    pub(super) min_samples: u64,
}

/// Fewest calls from which a quantile is told, as plans have it.
const QUANTILE_SAMPLES_MIN: u64 = 50;

/// Fewest answers of a version's own metrics: processor time and restarts show between two of them.
const RESOURCE_SAMPLES_MIN: u64 = 2;

impl Rule {
    fn new(metric: Metric, [warning, critical]: [Option<Limit>; 2], consecutive: u32) -> Self {
        let min_samples = match metric {
            _ if metric.is_resource() => RESOURCE_SAMPLES_MIN,
            // For rates the interval says whether there are enough.
            Metric::ErrorRate
            | Metric::Availability
            | Metric::ClientErrors
            | Metric::AuthFailures => 1,
            _ => QUANTILE_SAMPLES_MIN,
        };
        Self {
            metric,
            warning,
            critical,
            windows: EVALUATED_WINDOWS,
            consecutive,
            min_samples,
        }
    }

    /// A threshold of a plan, as far back as the monitor looks.
    fn of(threshold: &Threshold) -> Self {
        let windows = |seconds: f64| {
            (1..EVALUATED_WINDOWS).find(|n| f64::from(*n) * WINDOW_SECONDS >= seconds)
        };
        let all = EVALUATED_WINDOWS;
        let mut rule = Self::new(threshold.metric, [threshold.warning, threshold.critical], 1);
        rule.windows = windows(threshold.window.as_secs_f64()).unwrap_or(all);
        // Broken at two looks that are so far apart.
        if !threshold.lasting.is_zero() {
            rule.consecutive += windows(threshold.lasting.as_secs_f64()).unwrap_or(all);
        }
        // So many windows of the plan's; here at so many looks in a row, which is the stricter.
        if let Some(of) = threshold.of {
            rule.consecutive = rule.consecutive.max(of.needed);
        }
        if !threshold.metric.is_resource() {
            rule.min_samples = threshold.min_samples.max(1);
        }
        rule
    }
}

/// The rules for a version: those of the plan that tries it, and defaults for what the plan says nothing about.
pub(super) fn rules(protocol: Protocol, plan: Option<&[Threshold]>) -> Vec<Rule> {
    let mut rules: Vec<_> = plan.into_iter().flatten().map(Rule::of).collect();
    for rule in defaults(protocol, plan.is_some()) {
        if rules.iter().all(|own| own.metric != rule.metric) {
            rules.push(rule);
        }
    }
    rules
}

/// The defaults of the seeds: Cortex's for errors, Stage I's for refusals, processor time and a candidate's latency, Mission
/// Control's for latency. Those last are of a plain HTTP service, and only for such: a tool may think for a while.
fn defaults(protocol: Protocol, is_candidate: bool) -> Vec<Rule> {
    let percent = |percent| Some(Limit::Percent(percent));
    let millis = |millis: f64| Some(Limit::Seconds(millis / 1000.0));
    let mut rules = vec![
        Rule::new(Metric::Availability, [percent(95.0), percent(90.0)], 2),
        Rule::new(Metric::ErrorRate, [percent(5.0), percent(10.0)], 3),
        Rule::new(Metric::AuthFailures, [percent(1.0), percent(5.0)], 2),
        Rule::new(Metric::Cpu, [percent(90.0), None], 2),
        Rule::new(
            Metric::Restarts,
            [Some(Limit::Count(0.0)), Some(Limit::Count(3.0))],
            1,
        ),
    ];
    if protocol == Protocol::Http {
        rules.extend([
            Rule::new(Metric::LatencyP50, [millis(50.0), millis(100.0)], 2),
            Rule::new(Metric::LatencyP95, [millis(500.0), millis(750.0)], 2),
            Rule::new(Metric::LatencyP99, [millis(1000.0), millis(1500.0)], 2),
        ]);
    } else if is_candidate {
        let slower = Limit::AgainstStable {
            percent: 50.0,
            points: 0.0,
        };
        rules.push(Rule::new(Metric::LatencyP95, [Some(slower), None], 2));
    }
    rules
}

/// How often in a row each limit was found broken, and since when.
#[derive(Clone, Debug, Default)]
pub(super) struct Streaks(BTreeMap<(VersionName, Metric, Level), (u32, f64)>);

impl Streaks {
    /// Forgets versions that are gone.
    pub(super) fn retain(&mut self, known: impl Fn(&VersionName) -> bool) {
        self.0.retain(|(version, ..), _| known(version));
    }

    /// One look at one rule: the issue, if it was broken often enough. `sum` gives so many of the latest windows of the version
    /// and of stable.
    pub(super) fn look(
        &mut self,
        now: f64,
        version: &VersionName,
        rule: &Rule,
        (candidate, stable): (&Period, Option<&Period>),
    ) -> Option<Issue> {
        let mut found = None;
        for (level, limit) in [
            (Level::Warning, rule.warning),
            (Level::Critical, rule.critical),
        ] {
            let Some(limit) = limit else { continue };
            let key = (version.clone(), rule.metric, level);
            let Some((value, limit)) = breach(rule, limit, candidate, stable) else {
                self.0.remove(&key);
                continue;
            };
            let (times, since) = self.0.entry(key).or_insert((0, now));
            *times = times.saturating_add(1);
            if *times >= rule.consecutive {
                found = Some(issue(version, rule, level, *since, (value, limit)));
            }
        }
        found
    }
}

/// The value and the limit, where the value is beyond it: a rate must be shown to be, not merely look so.
fn breach(
    rule: &Rule,
    limit: Limit,
    period: &Period,
    stable: Option<&Period>,
) -> Option<(f64, f64)> {
    let metric = rule.metric;
    if period.samples(metric) < rule.min_samples {
        return None;
    }
    let seconds = f64::from(rule.windows) * WINDOW_SECONDS;
    let stable = stable
        .filter(|stable| stable.samples(metric) >= rule.min_samples)
        .and_then(|stable| stable.value(metric, seconds));
    let limit = limit.resolve(metric, stable)?;
    let value = period.value(metric, seconds)?;
    let is_beyond = match (period.tally.rate(metric), metric.direction()) {
        (Some((hits, trials)), Direction::Max) => binomial::is_above(hits, trials, limit),
        (Some((hits, trials)), Direction::Min) => binomial::is_above(hits, trials, 1.0 - limit),
        // A quantile that is endless because calls failed is for the error rate to judge.
        (None, Direction::Max) => value.is_finite() && value > limit,
        (None, Direction::Min) => value.is_finite() && value < limit,
    };
    is_beyond.then_some((value, limit))
}

fn issue(
    version: &VersionName,
    rule: &Rule,
    level: Level,
    since: f64,
    (value, limit): (f64, f64),
) -> Issue {
    let metric = rule.metric;
    let side = match metric.direction() {
        Direction::Max => "above",
        Direction::Min => "below",
    };
    let text = format!(
        "{metric} of {version} is {} over {:.0} s, {side} the {} limit of {}",
        metric.show(value),
        f64::from(rule.windows) * WINDOW_SECONDS,
        label(level),
        metric.show(limit),
    );
    Issue {
        level,
        subject: Subject::Metric(metric),
        version: version.clone(),
        since: timestamp(since),
        value: Some(value),
        limit: Some(limit),
        text,
    }
}

/// A level in a text.
pub(super) const fn label(level: Level) -> &'static str {
    match level {
        Level::Warning => "warning",
        Level::Critical => "critical",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serin_judge::{LogHistogram, Resources, Tally};
    use std::time::Duration;

    fn period(calls: u64, bad: u64) -> Period {
        let tally = Tally {
            calls,
            bad,
            ..Tally::default()
        };
        Period {
            tally,
            ..Period::default()
        }
    }

    fn slow(calls: u64, seconds: f64) -> Period {
        let mut last_byte = LogHistogram::default();
        (0..calls).for_each(|_| last_byte.record(seconds));
        let mut period = period(calls, 0);
        period.tally.last_byte = last_byte;
        period
    }

    fn machine(cpu_millis: u64, restarts: u64) -> Period {
        let resources = Resources {
            samples: 20,
            cpu_millis,
            observed_millis: 1000,
            restarts,
            ..Resources::default()
        };
        Period {
            resources: Some(resources),
            ..Period::default()
        }
    }

    /// The level, after so many looks, of the issue about a metric by the default rules.
    fn found(
        protocol: Protocol,
        metric: Metric,
        looks: u32,
        candidate: &Period,
        stable: Option<&Period>,
    ) -> Option<Level> {
        let version = "v2".parse().unwrap();
        let plan = stable.map(|_| [].as_slice());
        let rules = rules(protocol, plan);
        let rule = rules.iter().find(|rule| rule.metric == metric)?;
        let mut streaks = Streaks::default();
        let mut issue = None;
        for look in 0..looks {
            issue = streaks.look(f64::from(look) * 30.0, &version, rule, (candidate, stable));
        }
        issue.map(|issue| issue.level)
    }

    #[test]
    fn the_defaults_are_those_of_the_seeds() {
        use Metric::{
            AuthFailures, Availability, Cpu, ErrorRate, LatencyP50, LatencyP95, LatencyP99,
            Restarts,
        };
        let (mcp, http) = (Protocol::Mcp, Protocol::Http);
        let (warning, critical) = (Some(Level::Warning), Some(Level::Critical));
        let mut refused = period(1000, 0);
        refused.tally.auth_failures = 100;
        for (protocol, metric, looks, period, level) in [
            (mcp, Availability, 2, period(1000, 80), warning),
            (mcp, Availability, 2, period(1000, 150), critical),
            (mcp, Availability, 1, period(1000, 150), None),
            (mcp, Availability, 5, period(1000, 50), None),
            (mcp, ErrorRate, 3, period(1000, 80), warning),
            (mcp, ErrorRate, 3, period(1000, 150), critical),
            (mcp, ErrorRate, 2, period(1000, 150), None),
            (mcp, ErrorRate, 9, period(3, 1), None),
            (mcp, ErrorRate, 9, Period::default(), None),
            (mcp, AuthFailures, 2, refused, critical),
            (mcp, LatencyP50, 9, slow(100, 5.0), None),
            (http, LatencyP50, 2, slow(100, 0.07), warning),
            (http, LatencyP50, 2, slow(100, 0.2), critical),
            (http, LatencyP50, 2, slow(49, 0.2), None),
            (http, LatencyP95, 2, slow(100, 0.6), warning),
            (http, LatencyP99, 2, slow(100, 1.6), critical),
            (http, LatencyP99, 2, slow(100, 0.9), None),
            (mcp, Cpu, 2, machine(950, 0), warning),
            (mcp, Cpu, 2, machine(850, 0), None),
            (mcp, Restarts, 1, machine(0, 1), warning),
            (mcp, Restarts, 1, machine(0, 4), critical),
        ] {
            assert_eq!(
                found(protocol, metric, looks, &period, None),
                level,
                "{metric} after {looks} looks at {period:?}"
            );
        }
    }

    #[test]
    fn a_candidate_that_is_slower_than_stable_is_an_issue() {
        let level = |candidate, stable| {
            found(
                Protocol::Mcp,
                Metric::LatencyP95,
                2,
                &slow(100, candidate),
                Some(&slow(100, stable)),
            )
        };
        assert_eq!(level(3.2, 2.0), Some(Level::Warning));
        assert_eq!(level(2.8, 2.0), None);
    }

    #[test]
    fn the_rules_of_a_plan_take_the_place_of_defaults() {
        let threshold = Threshold {
            metric: Metric::ErrorRate,
            warning: None,
            critical: Some(Limit::Percent(1.0)),
            lasting: Duration::from_secs(45),
            window: Duration::from_secs(50),
            min_samples: 200,
            per_tool: true,
            of: None,
        };
        let rules = rules(Protocol::Mcp, Some(&[threshold]));
        let own: Vec<_> = rules
            .iter()
            .filter(|rule| rule.metric == Metric::ErrorRate)
            .collect();
        assert_eq!(own.len(), 1);
        assert_eq!(
            (own[0].windows, own[0].consecutive, own[0].min_samples),
            (2, 3, 200)
        );
        assert!(
            rules.iter().any(|rule| rule.metric == Metric::Availability),
            "what the plan does not mention is still looked at"
        );
    }

    #[test]
    fn an_issue_says_since_when_and_how_much() {
        let version = "v2".parse().unwrap();
        let rule = &defaults(Protocol::Mcp, false)[1];
        let (mut streaks, bad) = (Streaks::default(), period(1000, 200));
        for look in 0..3 {
            let at = 1000.0 + 30.0 * f64::from(look);
            if let Some(issue) = streaks.look(at, &version, rule, (&bad, None)) {
                assert_eq!(look, 2);
                assert_eq!(issue.since, timestamp(1000.0));
                assert_eq!(
                    issue.text,
                    "error_rate of v2 is 20 % over 300 s, above the critical limit of 10 %"
                );
            }
        }
        assert_eq!(
            streaks.look(1100.0, &version, rule, (&period(1000, 0), None)),
            None
        );
        assert_eq!(
            streaks.look(1130.0, &version, rule, (&bad, None)),
            None,
            "it begins anew"
        );
    }
}
