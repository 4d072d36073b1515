//! The health monitor: what each version of each service did in the last day, what is wrong now, and where it is going.
//!
//! It looks on. Nothing here holds or takes back a rollout: that is the judge's, which counts anew for each step, and compares.
//! The monitor looks at every version at all times, in windows of half a minute, as the Cortex and Mission Control guides ask:
//! at all calls together, since which tool is to blame is for the judge too.
//!
//! **Invariant:** no clock and no I/O in here: counts and the time are given to it, outside the path of requests.
//!
//! It is in memory only. After a restart it begins anew: blocks are stored for rollouts, not for the rest of the time.

mod alert;
mod compare;
mod issue;
mod window;

pub use alert::{Alert, Alerts};
pub use compare::{Comparison, Row, Standing};
pub use issue::{Issue, Subject};
pub use window::Window;

use alert::Board;
use issue::Streaks;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serin_judge::{
    Level, Metric, Resources,
    trend::{Direction, Trend, trend},
};
use serin_model::{
    name::{EndpointId, ServiceName, VersionName},
    observe::{Rejection, Sealed},
    route::{Live, Unloaded},
    service::{Endpoint, Service, Version, VersionStage},
    snapshot::Observed,
    state::State,
};
use serin_route::standing::{Count, OnFailure, Seat};
use std::{collections::BTreeMap, fmt, rc::Rc, sync::Arc};
use window::{History, Kept, Period};

/// How long a window is: Cortex's `checkIntervalMs`.
pub const WINDOW_SECONDS: f64 = 30.0;

/// How many windows are kept: a day of them, Cortex's `metricsRetentionHours`.
pub const WINDOWS_MAX: u32 = 24 * 60 * 2;

/// How many windows a rule looks at, and a comparison: five minutes, Cortex's `evaluationWindowMs`.
pub const EVALUATED_WINDOWS: u32 = 10;

/// How many windows a trend looks at: an hour.
pub const TREND_WINDOWS: u32 = 120;

/// Most versions whose windows are kept. Each takes up to 0.3 MB, so all of them 77 MB; the one that was silent the longest goes.
pub const HISTORIES_MAX: usize = 256;

/// How sure a trend must be. High, because a dozen of them are looked at together.
const TREND_CONFIDENCE: f64 = 0.99;

/// Memory that grows by more in ten minutes is a leak, or soon one (Stage I's "Memory Usage Increasing").
const LEAK_BYTES_IN_TEN_MINUTES: f64 = 1024.0 * 1024.0;

/// Fewest seconds over which memory must have grown, in both halves of them: what a process fills at its start is no leak.
const LEAK_SECONDS_MIN: f64 = 1200.0;

/// Readings of a page of metrics that must fail in a row, as probes of an endpoint must.
const UNREADABLE_AFTER: u32 = 3;

/// How long after the latest request that was refused for want of room it is an issue.
const SHED_SECONDS: f64 = 60.0;

/// What has a trend.
const TRENDS: [Metric; 9] = [
    Metric::ErrorRate,
    Metric::ClientErrors,
    Metric::LatencyP50,
    Metric::LatencyP95,
    Metric::LatencyP99,
    Metric::FirstByteP95,
    Metric::Throughput,
    Metric::Cpu,
    Metric::Memory,
];

/// The windows of a version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VersionWindows {
    /// The version.
    pub version: VersionName,
    /// Oldest first; those in which nothing came are left out.
    pub windows: Vec<Window>,
}

/// Where the metrics of a version are going.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VersionTrends {
    /// The version.
    pub version: VersionName,
    /// Metric by metric; those of which nothing is known are left out.
    pub trends: Vec<MetricTrend>,
}

/// Where a metric is going.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricTrend {
    /// Which.
    pub metric: Metric,
    /// The line through it, in the metric's unit and seconds.
    #[serde(flatten)]
    pub trend: Trend,
}

/// The health monitor.
#[derive(Debug)]
pub struct Health {
    /// When it began, in seconds since 1970.
    began: f64,
    /// The window that runs, counted since 1970.
    index: u32,
    histories: BTreeMap<(ServiceName, VersionName), History>,
    services: BTreeMap<ServiceName, Watched>,
    unreadable: BTreeMap<(ServiceName, VersionName), Unreadable>,
    unhealthy_since: BTreeMap<EndpointId, f64>,
    unusable_since: BTreeMap<(ServiceName, VersionName), f64>,
    shed: BTreeMap<ServiceName, Shed>,
    seen: Seen,
}

/// How the endpoints do, as the data plane sees it.
struct Seen(Arc<dyn Live + Send + Sync>);

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seen")
    }
}

/// What is known of a service beside its windows.
#[derive(Debug, Default)]
struct Watched {
    streaks: Streaks,
    /// What the windows say.
    broken: Vec<Issue>,
    /// What probes and readings say.
    down: Vec<Issue>,
    board: Board,
}

/// Requests of a service that were refused for want of room.
#[derive(Debug, Default)]
struct Shed {
    /// Those that nobody has looked at yet.
    fresh: u64,
    /// Those since this began, and when the latest came.
    requests: u64,
    since: f64,
    latest: f64,
}

#[derive(Debug)]
struct Unreadable {
    times: u32,
    since: Option<f64>,
    why: String,
}

impl Health {
    /// A monitor that begins at `now`, in seconds since 1970.
    pub fn new(now: f64) -> Self {
        Self {
            began: now,
            index: index_of(now),
            histories: BTreeMap::new(),
            services: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            unhealthy_since: BTreeMap::new(),
            unusable_since: BTreeMap::new(),
            shed: BTreeMap::new(),
            seen: Seen(Arc::new(Unloaded)),
        }
    }

    /// Takes how the endpoints do from the data plane from now on.
    pub fn look_at(&mut self, live: Arc<dyn Live + Send + Sync>) {
        self.seen = Seen(live);
    }

    /// Adds what a core counted to the window that runs.
    pub fn add(&mut self, sealed: &Sealed) {
        for (key, counts) in &sealed.cells {
            self.history(&key.service, &key.version)
                .running
                .add(key, counts);
        }
        for (service, why, n) in &sealed.rejections {
            if let (Some(service), Rejection::Overload) = (service, why) {
                self.shed.entry(service.clone()).or_default().fresh += n;
            }
        }
    }

    /// Adds what a version took of its machine; else why its metrics cannot be read.
    pub fn add_resources(
        &mut self,
        service: &ServiceName,
        version: &VersionName,
        sample: &Result<Resources, String>,
    ) {
        let key = (service.clone(), version.clone());
        match sample {
            Ok(resources) => {
                self.unreadable.remove(&key);
                self.history(service, version)
                    .running
                    .add_resources(resources);
            }
            Err(why) => {
                let failing = self.unreadable.entry(key).or_insert_with(|| Unreadable {
                    times: 0,
                    since: None,
                    why: String::new(),
                });
                failing.times = failing.times.saturating_add(1);
                failing.why.clone_from(why);
            }
        }
    }

    /// Ends windows that are over at `now`, and looks at what is wrong. Cheap when none is over.
    pub fn close(&mut self, now: f64, state: &State, observed: &Observed) {
        self.follow(state);
        let index = index_of(now);
        let (is_due, was) = (index > self.index, self.index);
        if is_due {
            let began = (f64::from(was) * WINDOW_SECONDS).max(self.began);
            let seconds =
                ((f64::from(was) + 1.0) * WINDOW_SECONDS - began).clamp(0.1, WINDOW_SECONDS);
            for history in self.histories.values_mut() {
                history.close(was, seconds);
            }
        }
        self.index = index;
        if index != was {
            for history in self.histories.values_mut() {
                history.forget(index);
            }
            self.histories.retain(|_, history| !history.is_empty());
        }
        for service in state.services.values() {
            let broken = is_due.then(|| self.broken(now, service, state));
            let mut down = self.down(now, service, observed);
            down.extend(self.sheds(now, service));
            let watched = self.services.entry(service.name.clone()).or_default();
            watched.down = down;
            if let Some(broken) = broken {
                watched.broken = broken;
            }
            let issues = watched.broken.iter().chain(&watched.down);
            watched.board.look(now, issues);
        }
        self.unusable_since.retain(|(service, version), _| {
            let service = state.services.get(service);
            service.is_some_and(|service| service.versions.contains_key(version))
        });
        self.unhealthy_since
            .retain(|endpoint, _| observed.unhealthy.contains(endpoint));
    }

    /// The windows of a service that began in the last so many minutes, by version.
    pub fn metrics(&self, service: &ServiceName, minutes: u32, now: f64) -> Vec<VersionWindows> {
        let first = index_of(now - f64::from(minutes) * 60.0);
        let began = (f64::from(self.index) * WINDOW_SECONDS).max(self.began);
        let running_seconds = (now - began).clamp(0.1, WINDOW_SECONDS);
        self.versions(service)
            .map(|(version, history)| VersionWindows {
                version: version.clone(),
                windows: history.show(first, self.index, running_seconds),
            })
            .collect()
    }

    /// What is wrong with a service now, worst first.
    pub fn issues(&self, service: &ServiceName) -> Vec<Issue> {
        let Some(watched) = self.services.get(service) else {
            return Vec::new();
        };
        let mut issues: Vec<_> = watched
            .broken
            .iter()
            .chain(&watched.down)
            .cloned()
            .collect();
        issues.sort_by_key(|issue| (std::cmp::Reverse(issue.level), issue.since));
        issues
    }

    /// The alerts of a service.
    pub fn alerts(&self, service: &ServiceName) -> Alerts {
        let watched = self.services.get(service);
        watched
            .map(|watched| watched.board.show())
            .unwrap_or_default()
    }

    /// Where the metrics of a service were going in the last hour, by version.
    pub fn trends(&self, service: &ServiceName) -> Vec<VersionTrends> {
        self.versions(service)
            .map(|(version, history)| VersionTrends {
                version: version.clone(),
                trends: TRENDS
                    .into_iter()
                    .map(|metric| MetricTrend {
                        metric,
                        trend: trend(last_hour(history, self.index, metric), TREND_CONFIDENCE),
                    })
                    .filter(|of| of.trend.points > 0)
                    .collect(),
            })
            .collect()
    }

    /// Stable beside a candidate over the last five minutes.
    pub fn comparison(
        &self,
        service: &ServiceName,
        stable: &VersionName,
        candidate: Option<&VersionName>,
        now: f64,
    ) -> Comparison {
        let sum = |version: &VersionName| {
            let history = self.histories.get(&(service.clone(), version.clone()));
            let mut sum = history
                .map(|history| history.latest(self.index, EVALUATED_WINDOWS - 1))
                .unwrap_or_default();
            if let Some(history) = history {
                sum.merge(&history.running);
            }
            sum
        };
        let first = f64::from(self.index.saturating_sub(EVALUATED_WINDOWS - 1)) * WINDOW_SECONDS;
        let seconds = (now - first.max(self.began)).max(0.1);
        let periods = (sum(stable), candidate.map(sum));
        compare::compare(stable.clone(), candidate.cloned(), &periods, seconds)
    }

    fn versions(&self, service: &ServiceName) -> impl Iterator<Item = (&VersionName, &History)> {
        self.histories
            .iter()
            .filter(move |((of, _), _)| of == service)
            .map(|((_, version), history)| (version, history))
    }

    fn history(&mut self, service: &ServiceName, version: &VersionName) -> &mut History {
        let key = (service.clone(), version.clone());
        if self.histories.len() >= HISTORIES_MAX && !self.histories.contains_key(&key) {
            let oldest = self
                .histories
                .iter()
                .min_by_key(|(_, history)| history.last());
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.histories.remove(&oldest);
            }
        }
        self.histories.entry(key).or_default()
    }

    /// Forgets services that are gone, and pages of metrics that nobody asks for any more.
    fn follow(&mut self, state: &State) {
        self.services
            .retain(|name, _| state.services.contains_key(name));
        self.shed
            .retain(|name, _| state.services.contains_key(name));
        self.unreadable.retain(|(service, version), _| {
            let service = state.services.get(service);
            let version = service.and_then(|service| service.versions.get(version));
            version.is_some_and(|version| version.metrics.is_some())
        });
    }

    /// What the windows of a service say is wrong.
    fn broken(&mut self, now: f64, service: &Service, state: &State) -> Vec<Issue> {
        let rollout = state.active(&service.name);
        let thresholds = rollout.map(|rollout| rollout.plan.thresholds(rollout.phase));
        let mut streaks = self
            .services
            .get_mut(&service.name)
            .map(|watched| std::mem::take(&mut watched.streaks))
            .unwrap_or_default();
        let released = rollout.filter(|rollout| rollout.flag.is_some());
        let versions: Vec<_> = service
            .versions
            .keys()
            .chain(released.map(|rollout| &rollout.to))
            .collect();
        streaks.retain(|version| versions.contains(&version));
        let mut issues = Vec::new();
        let mut sums = Sums::new(self, &service.name);
        for version in versions {
            let plan = thresholds
                .as_deref()
                .filter(|_| rollout.is_some_and(|rollout| rollout.to == *version));
            for rule in issue::rules(service.protocol, plan) {
                let own = sums.of(version, rule.windows);
                let stable = plan.map(|_| sums.of(&service.stable, rule.windows));
                issues.extend(streaks.look(now, version, &rule, (&own, stable.as_deref())));
            }
            let key = (service.name.clone(), version.clone());
            let history = self.histories.get(&key);
            issues.extend(history.and_then(|history| leak(version, history, self.index)));
        }
        if let Some(watched) = self.services.get_mut(&service.name) {
            watched.streaks = streaks;
        }
        issues
    }

    /// What probes and readings of a service say is wrong. Versions without callers may be off.
    fn down(&mut self, now: f64, service: &Service, observed: &Observed) -> Vec<Issue> {
        let mut issues = Vec::new();
        for (name, version) in &service.versions {
            let is_down = |id: &EndpointId| observed.unhealthy.contains(id);
            let serves = matches!(
                version.stage,
                VersionStage::Serving | VersionStage::Draining
            );
            let takes = |endpoint: &&Endpoint| version.takes_callers(endpoint);
            // What drains serves no new callers; of what drains altogether, what is left serves those who are there.
            let drains = !version.reachable().any(|endpoint| takes(&endpoint));
            let mut others = version.reachable().filter(|e| drains || takes(e));
            let all = others.all(|endpoint| is_down(&endpoint.id));
            let is_left = version.reachable().any(|endpoint| !is_down(&endpoint.id));
            for endpoint in version.reachable().filter(|e| serves && is_down(&e.id)) {
                let since = *self.unhealthy_since.entry(endpoint.id).or_insert(now);
                let (level, rest) = match (all, is_left) {
                    (true, false) => (Level::Critical, "and no other is left"),
                    (true, true) => (
                        Level::Critical,
                        "and those that are left are draining and take no new callers",
                    ),
                    (false, _) => (Level::Warning, "others serve"),
                };
                issues.push(Issue {
                    level,
                    subject: Subject::Endpoint(endpoint.url.clone()),
                    version: name.clone(),
                    since: timestamp(since),
                    value: None,
                    limit: None,
                    text: format!("{} of {name} fails its probes, {rest}", endpoint.url),
                });
            }
            let key = (service.name.clone(), name.clone());
            if serves && !all && self.is_unusable(service, version, observed) {
                let since = *self.unusable_since.entry(key.clone()).or_insert(now);
                issues.push(unusable(service, name, since));
            } else {
                self.unusable_since.remove(&key);
            }
            if let Some(failing) = self
                .unreadable
                .get_mut(&key)
                .filter(|failing| failing.times >= UNREADABLE_AFTER)
            {
                issues.push(Issue {
                    level: Level::Warning,
                    subject: Subject::MetricsPage,
                    version: name.clone(),
                    since: timestamp(*failing.since.get_or_insert(now)),
                    value: None,
                    limit: None,
                    text: format!("the metrics of {name} cannot be read: {}", failing.why),
                });
            }
        }
        issues
    }

    /// Whether requests of a service are refused for want of room.
    fn sheds(&mut self, now: f64, service: &Service) -> Option<Issue> {
        let shed = self.shed.get_mut(&service.name)?;
        let fresh = std::mem::take(&mut shed.fresh);
        if fresh == 0 && now - shed.latest >= SHED_SECONDS {
            self.shed.remove(&service.name);
            return None;
        }
        if shed.requests == 0 {
            shed.since = now;
        }
        if fresh > 0 {
            shed.latest = now;
        }
        shed.requests += fresh;
        let limited = service
            .versions
            .iter()
            .filter_map(|(name, version)| Some((name, version.in_flight_max?)));
        let mut limits: Vec<_> = limited
            .map(|(name, most)| format!("`in_flight_max: {most}` of {name}"))
            .collect();
        limits.push("`gateway.requests_max`".to_owned());
        Some(Issue {
            level: Level::Warning,
            subject: Subject::Overload,
            version: service.stable.clone(),
            since: timestamp(shed.since),
            value: Some(shed.requests as f64),
            limit: None,
            text: format!(
                "{} requests got 503 because as many were under way as may be: {}",
                shed.requests,
                limits.join(", or ")
            ),
        })
    }

    /// Whether a version has endpoints for new callers, none of which the gateway may use.
    fn is_unusable(&self, service: &Service, version: &Version, observed: &Observed) -> bool {
        let takers = version
            .endpoints
            .iter()
            .filter(|e| version.takes_callers(e));
        let seats = takers.map(|endpoint| Seat {
            weight: endpoint.weight,
            is_healthy: !observed.unhealthy.contains(&endpoint.id),
            is_draining: false,
            healthy_since_ms: None,
            standing: self.seen.0.standing(endpoint.id),
        });
        let mut seats = seats.peekable();
        let panic_below_percent = service.settings.panic_below_percent;
        seats.peek().is_some() && Count::of(seats).among(panic_below_percent).is_none()
    }
}

fn unusable(service: &Service, version: &VersionName, since: f64) -> Issue {
    let rest = match service.settings.on_failure {
        OnFailure::FailClosed => {
            "callers for whom it has no fallback get 503 (`on_failure: fail_closed`)"
        }
        OnFailure::FailOpen => {
            "callers for whom it has no fallback are sent there all the same (`on_failure: fail_open`)"
        }
    };
    Issue {
        level: Level::Critical,
        subject: Subject::Unusable,
        version: version.clone(),
        since: timestamp(since),
        value: None,
        limit: None,
        text: format!(
            "no endpoint of {version} may be used: breakers are open, or they are ejected or fail their probes; {rest}"
        ),
    }
}

/// Sums of a service's latest windows, each made once: most rules look as far back as the others.
struct Sums<'a> {
    health: &'a Health,
    service: &'a ServiceName,
    made: BTreeMap<(VersionName, u32), Rc<Period>>,
}

impl<'a> Sums<'a> {
    const fn new(health: &'a Health, service: &'a ServiceName) -> Self {
        Self {
            health,
            service,
            made: BTreeMap::new(),
        }
    }

    /// So many windows of a version.
    fn of(&mut self, version: &VersionName, windows: u32) -> Rc<Period> {
        let sum = || {
            let key = (self.service.clone(), version.clone());
            let history = self.health.histories.get(&key);
            let sum = history.map(|history| history.latest(self.health.index, windows));
            Rc::new(sum.unwrap_or_default())
        };
        let made = self.made.entry((version.clone(), windows));
        Rc::clone(made.or_insert_with(sum))
    }
}

/// The values of a metric in the last hour.
fn last_hour(
    history: &History,
    now: u32,
    metric: Metric,
) -> impl DoubleEndedIterator<Item = (f64, f64)> {
    let is_recent = move |window: &&Kept| window.index + TREND_WINDOWS >= now;
    let windows = history.kept.iter().filter(is_recent);
    windows.filter_map(move |window| Some((window.middle(), window.value(metric)?)))
}

/// Whether the memory of a version grows steadily: in the whole time that is looked at, and in both halves of it.
fn leak(version: &VersionName, history: &History, now: u32) -> Option<Issue> {
    let points: Vec<_> = last_hour(history, now, Metric::Memory).collect();
    let (first, last) = (points.first()?.0, points.last()?.0);
    if last - first < LEAK_SECONDS_MIN {
        return None;
    }
    let rises = |points: &[(f64, f64)]| {
        let trend = trend(points.iter().copied(), TREND_CONFIDENCE);
        trend.slope.filter(|_| trend.direction == Direction::Rising)
    };
    let (early, late) = points.split_at(points.len() / 2);
    let slope = rises(&points)?;
    rises(early)?;
    rises(late)?;
    let grown = slope.value * 600.0;
    if slope.low * 600.0 <= LEAK_BYTES_IN_TEN_MINUTES {
        return None;
    }
    Some(Issue {
        level: Level::Warning,
        subject: Subject::MemoryLeak,
        version: version.clone(),
        since: timestamp(first),
        value: Some(grown),
        limit: Some(LEAK_BYTES_IN_TEN_MINUTES),
        text: format!(
            "leak suspected: memory of {version} has grown by {} in ten minutes for {:.0} min, and is {} now",
            Metric::Memory.show(grown),
            (last - first) / 60.0,
            Metric::Memory.show(points.last()?.1),
        ),
    })
}

/// The window in which a moment lies, counted since 1970.
fn index_of(now: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast from float to integer saturates"
    )]
    let index = (now / WINDOW_SECONDS).floor() as u32;
    index
}

/// A moment as it is shown.
fn timestamp(seconds: f64) -> Timestamp {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a cast from float to integer saturates"
    )]
    let millis = (seconds * 1000.0).round() as i64;
    Timestamp::from_millisecond(millis).unwrap_or_default()
}

#[cfg(test)]
mod tests;
