//! Half a minute of one version, and the row of them that is kept.

use super::{EVALUATED_WINDOWS, WINDOW_SECONDS, WINDOWS_MAX, timestamp};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serin_judge::{Metric, Resources, Tally};
use serin_model::observe::{CallEra, CellKey, Counts, NO_TOOL, Outcome};
use std::collections::VecDeque;

/// One window of a version, as it is shown. A value is nothing where nothing was seen; a latency also where so many calls
/// failed that it is endless.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// When it began.
    pub at: Timestamp,
    /// How long it is; the running one, and the first of the process, are shorter.
    pub seconds: f64,
    /// Whether it still runs.
    pub running: bool,
    /// Calls that ended, the cancelled ones apart.
    pub calls: u64,
    /// Calls for which the version is to blame.
    pub bad: u64,
    /// Calls answered with a status from 400 to 499.
    pub client_errors: u64,
    /// Of these, 401 and 403.
    pub auth_failures: u64,
    /// Calls whose client went away first.
    pub cancelled: u64,
    /// Calls a second.
    pub calls_per_second: f64,
    /// Median seconds to the last byte.
    pub latency_p50_seconds: Option<f64>,
    /// 95th percentile.
    pub latency_p95_seconds: Option<f64>,
    /// 99th percentile.
    pub latency_p99_seconds: Option<f64>,
    /// 95th percentile of seconds to the first byte.
    pub first_byte_p95_seconds: Option<f64>,
    /// Processor time in cores, where the version's metrics are read.
    pub cpu_cores: Option<f64>,
    /// Memory held.
    pub memory_bytes: Option<f64>,
    /// How often its process began anew.
    pub restarts: Option<u64>,
}

/// What came in a period: everything that can be asked of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Period {
    pub(super) tally: Tally,
    pub(super) cancelled: u64,
    pub(super) resources: Option<Resources>,
}

impl Period {
    /// Adds calls. Those that use no tool of an MCP server, such as `initialize`, can fail, but how long they take is nobody's
    /// measure.
    pub(super) fn add(&mut self, key: &CellKey, counts: &Counts) {
        self.tally.calls += counts.calls();
        self.tally.bad += counts.bad();
        self.tally.client_errors += counts.of(Outcome::Http4xx);
        self.tally.auth_failures += counts.auth_failures;
        if &*key.tool != NO_TOOL || key.era == CallEra::None {
            self.tally.first_byte.merge(&counts.first_byte);
            self.tally.last_byte.merge(&counts.last_byte);
        }
        self.cancelled += counts.of(Outcome::Cancelled);
    }

    pub(super) fn add_resources(&mut self, resources: &Resources) {
        self.resources.get_or_insert_default().merge(resources);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.tally.merge(&other.tally);
        self.cancelled += other.cancelled;
        if let Some(resources) = &other.resources {
            self.add_resources(resources);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tally.calls == 0 && self.cancelled == 0 && self.resources.is_none()
    }

    /// The value of a metric over so many seconds; nothing where nothing was seen.
    pub(super) fn value(&self, metric: Metric, seconds: f64) -> Option<f64> {
        if metric.is_resource() {
            return self.resources?.value(metric);
        }
        self.tally.value(metric, seconds)
    }

    /// How many samples are behind a metric: calls, or answers of the version's own metrics.
    pub(super) fn samples(&self, metric: Metric) -> u64 {
        if metric.is_resource() {
            return self.resources.map_or(0, |resources| resources.samples);
        }
        self.tally.calls
    }
}

/// A window as it is kept: at most 88 bytes, so that a day of them takes a quarter of a megabyte.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    /// Which, counted in windows since 1970.
    pub(super) index: u32,
    calls: u32,
    bad: u32,
    client_errors: u32,
    auth_failures: u32,
    cancelled: u32,
    seconds: f32,
    restarts: Option<u32>,
    p50: Option<f32>,
    p95: Option<f32>,
    p99: Option<f32>,
    first_byte_p95: Option<f32>,
    cpu: Option<f32>,
    memory: f64,
}

impl Kept {
    fn of(index: u32, seconds: f64, period: &Period) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "seven digits are enough to look at"
        )]
        let value = |metric| {
            period
                .value(metric, seconds)
                .filter(|value| value.is_finite())
                .map(|value| value as f32)
        };
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        #[expect(clippy::cast_possible_truncation, reason = "at most half a minute")]
        let seconds = seconds as f32;
        Self {
            index,
            calls: small(period.tally.calls),
            bad: small(period.tally.bad),
            client_errors: small(period.tally.client_errors),
            auth_failures: small(period.tally.auth_failures),
            cancelled: small(period.cancelled),
            seconds,
            restarts: period.resources.map(|resources| small(resources.restarts)),
            p50: value(Metric::LatencyP50),
            p95: value(Metric::LatencyP95),
            p99: value(Metric::LatencyP99),
            first_byte_p95: value(Metric::FirstByteP95),
            cpu: value(Metric::Cpu),
            memory: period
                .value(Metric::Memory, f64::from(seconds))
                .unwrap_or(f64::NAN),
        }
    }

    /// The middle of it, in seconds since 1970.
    pub(super) fn middle(&self) -> f64 {
        (f64::from(self.index) + 0.5) * WINDOW_SECONDS
    }

    /// The value of a metric, for its trend.
    pub(super) fn value(&self, metric: Metric) -> Option<f64> {
        let ratio = |n: u32| (self.calls > 0).then(|| f64::from(n) / f64::from(self.calls));
        match metric {
            Metric::ErrorRate => ratio(self.bad),
            Metric::Availability => ratio(self.calls.saturating_sub(self.bad)),
            Metric::ClientErrors => ratio(self.client_errors),
            Metric::AuthFailures => ratio(self.auth_failures),
            Metric::LatencyP50 => self.p50.map(f64::from),
            Metric::LatencyP95 => self.p95.map(f64::from),
            Metric::LatencyP99 => self.p99.map(f64::from),
            Metric::FirstByteP95 => self.first_byte_p95.map(f64::from),
            Metric::FirstByteP50 | Metric::FirstByteP99 => None,
            Metric::Throughput => Some(f64::from(self.calls) / f64::from(self.seconds.max(0.1))),
            Metric::Cpu => self.cpu.map(f64::from),
            Metric::Memory => Some(self.memory).filter(|bytes| bytes.is_finite()),
            Metric::Restarts => self.restarts.map(f64::from),
        }
    }

    /// As it is shown.
    fn show(&self, running: bool) -> Window {
        Window {
            at: timestamp(f64::from(self.index) * WINDOW_SECONDS),
            seconds: f64::from(self.seconds),
            running,
            calls: self.calls.into(),
            bad: self.bad.into(),
            client_errors: self.client_errors.into(),
            auth_failures: self.auth_failures.into(),
            cancelled: self.cancelled.into(),
            calls_per_second: self.value(Metric::Throughput).unwrap_or_default(),
            latency_p50_seconds: self.value(Metric::LatencyP50),
            latency_p95_seconds: self.value(Metric::LatencyP95),
            latency_p99_seconds: self.value(Metric::LatencyP99),
            first_byte_p95_seconds: self.value(Metric::FirstByteP95),
            cpu_cores: self.cpu.map(f64::from),
            memory_bytes: self.value(Metric::Memory),
            restarts: self.restarts.map(u64::from),
        }
    }
}

/// A version's windows: the running one, the latest ones in full, and a day of them in figures.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    pub(super) running: Period,
    latest: VecDeque<(u32, Period)>,
    pub(super) kept: VecDeque<Kept>,
}

impl History {
    /// Ends the running window. One in which nothing came leaves no trace.
    pub(super) fn close(&mut self, index: u32, seconds: f64) {
        let period = std::mem::take(&mut self.running);
        if !period.is_empty() {
            self.kept.push_back(Kept::of(index, seconds, &period));
            self.latest.push_back((index, period));
        }
    }

    /// Forgets what is too old when the window `now` runs, and what lies after it, for when the clock was set back.
    pub(super) fn forget(&mut self, now: u32) {
        let kept = |index: u32, windows: u32| index < now && index + windows >= now;
        self.latest
            .retain(|(index, _)| kept(*index, EVALUATED_WINDOWS));
        self.kept.retain(|window| kept(window.index, WINDOWS_MAX));
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.kept.is_empty()
    }

    /// The last window in which anything came.
    pub(super) fn last(&self) -> Option<u32> {
        self.kept.back().map(|window| window.index)
    }

    /// The last so many windows before the window `now`, summed up.
    pub(super) fn latest(&self, now: u32, windows: u32) -> Period {
        let mut sum = Period::default();
        for (index, period) in &self.latest {
            if *index < now && index + windows >= now {
                sum.merge(period);
            }
        }
        sum
    }

    /// The windows from `first` on, and the running one.
    pub(super) fn show(&self, first: u32, now: u32, running_seconds: f64) -> Vec<Window> {
        let closed = self.kept.iter().filter(|window| window.index >= first);
        let mut windows: Vec<_> = closed.map(|window| window.show(false)).collect();
        if !self.running.is_empty() {
            windows.push(Kept::of(now, running_seconds, &self.running).show(true));
        }
        windows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_of_windows_is_small() {
        assert!(size_of::<Kept>() <= 88, "{}", size_of::<Kept>());
        assert!(size_of::<Kept>() * WINDOWS_MAX as usize <= 260_000);
    }
}
