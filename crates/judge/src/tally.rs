//! Counts of one arm, stable or candidate: all calls together and tool by tool.

use crate::{LogHistogram, Metric, bucket_of};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// Counts of calls. Cancelled calls are in none of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Calls that ended.
    pub calls: u64,
    /// Calls for which the version is to blame.
    pub bad: u64,
    /// Calls answered with a status from 400 to 499.
    pub client_errors: u64,
    /// Of these, 401 and 403.
    pub auth_failures: u64,
    /// Seconds to the first byte, of calls that did not fail.
    pub first_byte: LogHistogram,
    /// Seconds to the last byte, of calls that did not fail.
    pub last_byte: LogHistogram,
}

impl Tally {
    /// Adds another tally.
    pub fn merge(&mut self, other: &Self) {
        self.calls += other.calls;
        self.bad += other.bad;
        self.client_errors += other.client_errors;
        self.auth_failures += other.auth_failures;
        self.first_byte.merge(&other.first_byte);
        self.last_byte.merge(&other.last_byte);
    }

    /// Takes out a tally that was added before.
    pub fn unmerge(&mut self, other: &Self) {
        self.calls = self.calls.saturating_sub(other.calls);
        self.bad = self.bad.saturating_sub(other.bad);
        self.client_errors = self.client_errors.saturating_sub(other.client_errors);
        self.auth_failures = self.auth_failures.saturating_sub(other.auth_failures);
        self.first_byte.unmerge(&other.first_byte);
        self.last_byte.unmerge(&other.last_byte);
    }

    /// The value of a metric over so many seconds, and how many samples are behind it; nothing without samples.
    ///
    /// Failed calls count as endless in the latency quantiles, so that failing fast never looks like an improvement
    /// (judge.md section 2).
    pub fn value(&self, metric: Metric, seconds: f64) -> Option<f64> {
        if let Some((hits, trials)) = self.rate(metric) {
            let ratio = (trials > 0).then(|| hits as f64 / trials as f64)?;
            return Some(if metric == Metric::Availability {
                1.0 - ratio
            } else {
                ratio
            });
        }
        match metric {
            Metric::Throughput => (seconds > 0.0).then(|| self.calls as f64 / seconds),
            // Of the whole version, not of its calls: they stand in [`Resources`].
            Metric::Cpu | Metric::Memory | Metric::Restarts => None,
            _ => self.quantile(metric),
        }
    }

    /// The hits and trials behind a metric that is a rate. For availability the hits are the failures.
    pub fn rate(&self, metric: Metric) -> Option<(u64, u64)> {
        match metric {
            Metric::ErrorRate | Metric::Availability => Some((self.bad, self.calls)),
            Metric::ClientErrors => Some((self.client_errors, self.calls)),
            Metric::AuthFailures => Some((self.auth_failures, self.calls)),
            _ => None,
        }
    }

    /// The times behind a metric that is a quantile of them, and which quantile.
    fn times(&self, metric: Metric) -> Option<(&LogHistogram, f64)> {
        Some(match metric {
            Metric::LatencyP50 => (&self.last_byte, 0.50),
            Metric::LatencyP95 => (&self.last_byte, 0.95),
            Metric::LatencyP99 => (&self.last_byte, 0.99),
            Metric::FirstByteP50 => (&self.first_byte, 0.50),
            Metric::FirstByteP95 => (&self.first_byte, 0.95),
            Metric::FirstByteP99 => (&self.first_byte, 0.99),
            _ => return None,
        })
    }

    /// For a metric that is a quantile: the calls that went well and took longer than a limit, all that went well, and the part of
    /// them that may. Calls in the limit's own bucket are not longer.
    pub(crate) fn longer_than(&self, metric: Metric, limit: f64) -> Option<(u64, u64, f64)> {
        let (histogram, q) = self.times(metric)?;
        // The upper edge of a bucket belongs to it.
        let bucket = bucket_of(limit * (1.0 - 1e-9));
        let longer = histogram.buckets().iter().filter(|(b, _)| *b > bucket);
        Some((longer.map(|(_, n)| n).sum(), histogram.count(), 1.0 - q))
    }

    fn quantile(&self, metric: Metric) -> Option<f64> {
        let (histogram, q) = self.times(metric)?;
        let good = histogram.count();
        if good == 0 {
            return None;
        }
        // The quantile among all, where the failed ones lie above every other.
        let of_good = q * (good + self.bad) as f64 / good as f64;
        if of_good > 1.0 {
            Some(f64::INFINITY)
        } else {
            histogram.quantile_seconds(of_good)
        }
    }
}

/// What a version took of its machine in one period, from its own metrics. Sums only, so that periods can be added and taken
/// out again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// How often it was asked, and answered.
    pub samples: u64,
    /// Milliseconds of processor time it used between two answers.
    pub cpu_millis: u64,
    /// Milliseconds over which that was seen.
    pub observed_millis: u64,
    /// The bytes it held at each answer that says so, summed up.
    pub memory_bytes: u64,
    /// How many answers said so.
    pub memory_samples: u64,
    /// How often its process began anew.
    pub restarts: u64,
}

impl Resources {
    /// Adds another period.
    pub fn merge(&mut self, other: &Self) {
        self.each(other, u64::saturating_add);
    }

    /// Takes out a period that was added before.
    pub fn unmerge(&mut self, other: &Self) {
        self.each(other, u64::saturating_sub);
    }

    fn each(&mut self, other: &Self, with: fn(u64, u64) -> u64) {
        for (mine, theirs) in [
            (&mut self.samples, other.samples),
            (&mut self.cpu_millis, other.cpu_millis),
            (&mut self.observed_millis, other.observed_millis),
            (&mut self.memory_bytes, other.memory_bytes),
            (&mut self.memory_samples, other.memory_samples),
            (&mut self.restarts, other.restarts),
        ] {
            *mine = with(*mine, theirs);
        }
    }

    /// The value of a metric: mean cores, mean bytes, or the restarts; nothing when nothing said so, or for another metric.
    pub fn value(&self, metric: Metric) -> Option<f64> {
        let mean = |sum: u64, n: u64| (n > 0).then(|| sum as f64 / n as f64);
        match metric {
            Metric::Cpu => mean(self.cpu_millis, self.observed_millis),
            Metric::Memory => mean(self.memory_bytes, self.memory_samples),
            Metric::Restarts => (self.samples > 0).then_some(self.restarts as f64),
            _ => None,
        }
    }
}

/// A number inside the results of a tool, over one period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ValueSum {
    /// Results that had it.
    pub count: u64,
    /// Their sum. True and false are 1 and 0.
    pub sum: f64,
}

impl ValueSum {
    /// Adds a result, or another period.
    pub fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.sum += other.sum;
    }

    /// The mean; nothing without results.
    pub fn mean(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// One arm in one period.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// All calls.
    pub pooled: Tally,
    /// The calls of each tool.
    pub tools: BTreeMap<Arc<str>, Tally>,
    /// What it took of its machine, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Numbers inside the results of tools, by what the plan calls them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<Arc<str>, ValueSum>,
}

impl Arm {
    /// Adds a tally of one tool's calls.
    pub fn add(&mut self, tool: &Arc<str>, tally: &Tally) {
        self.pooled.merge(tally);
        self.tools.entry(Arc::clone(tool)).or_default().merge(tally);
    }

    /// Adds a tally that is looked at by itself only, such as that of calls which use no tool.
    pub fn add_apart(&mut self, label: &Arc<str>, tally: &Tally) {
        self.tools
            .entry(Arc::clone(label))
            .or_default()
            .merge(tally);
    }

    /// Adds what it took of its machine.
    pub fn add_resources(&mut self, resources: &Resources) {
        self.resources.get_or_insert_default().merge(resources);
    }

    /// Adds what the results of a tool held.
    pub fn add_value(&mut self, name: &Arc<str>, value: ValueSum) {
        self.values
            .entry(Arc::clone(name))
            .or_default()
            .merge(value);
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.pooled.calls == 0
            && self.resources.is_none()
            && self.values.is_empty()
            && self.tools.values().all(|tally| tally.calls == 0)
    }

    /// Adds another period.
    pub fn merge(&mut self, other: &Self) {
        self.pooled.merge(&other.pooled);
        for (tool, tally) in &other.tools {
            self.tools.entry(Arc::clone(tool)).or_default().merge(tally);
        }
        if let Some(resources) = &other.resources {
            self.add_resources(resources);
        }
        for (name, value) in &other.values {
            self.add_value(name, *value);
        }
    }

    /// Takes out a period that was added before, all but the numbers inside results, which are no whole numbers.
    pub fn unmerge(&mut self, other: &Self) {
        self.pooled.unmerge(&other.pooled);
        for (tool, tally) in &other.tools {
            if let Some(mine) = self.tools.get_mut(tool) {
                mine.unmerge(tally);
            }
        }
        self.tools.retain(|_, tally| tally.calls > 0);
        if let (Some(mine), Some(theirs)) = (&mut self.resources, &other.resources) {
            mine.unmerge(theirs);
        }
        self.resources = self.resources.filter(|resources| resources.samples > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failing_fast_does_not_look_fast() {
        let mut tally = Tally {
            calls: 100,
            bad: 10,
            ..Tally::default()
        };
        for _ in 0..90 {
            tally.last_byte.record(0.010);
        }
        assert!(
            tally
                .value(Metric::LatencyP50, 1.0)
                .is_some_and(|v| v < 0.011)
        );
        assert_eq!(tally.value(Metric::LatencyP95, 1.0), Some(f64::INFINITY));
    }

    #[test]
    fn no_samples_is_no_value() {
        let tally = Tally::default();
        assert_eq!(tally.value(Metric::ErrorRate, 1.0), None);
        assert_eq!(tally.value(Metric::LatencyP95, 1.0), None);
        assert_eq!(tally.value(Metric::Throughput, 2.0), Some(0.0));
    }

    #[test]
    fn resources_are_means_and_can_be_taken_out_again() {
        let at = |cpu_millis, memory_bytes, restarts| Resources {
            samples: 1,
            cpu_millis,
            observed_millis: 15_000,
            memory_bytes,
            memory_samples: 1,
            restarts,
        };
        let mut arm = Arm::default();
        let mut first = Arm::default();
        first.add_resources(&at(3_000, 100, 1));
        let mut second = Arm::default();
        second.add_resources(&at(12_000, 300, 0));
        arm.merge(&first);
        arm.merge(&second);
        let value = |arm: &Arm, metric| arm.resources.and_then(|r| r.value(metric));
        assert_eq!(value(&arm, Metric::Cpu), Some(0.5));
        assert_eq!(value(&arm, Metric::Memory), Some(200.0));
        assert_eq!(value(&arm, Metric::Restarts), Some(1.0));
        assert_eq!(value(&arm, Metric::ErrorRate), None);
        arm.unmerge(&first);
        assert_eq!(arm, second);
        arm.unmerge(&second);
        assert!(arm.is_empty());
    }

    #[test]
    fn blocks_from_before_there_were_resources_are_read() {
        let old = r#"{"pooled":{"calls":1,"bad":0,"client_errors":0,"auth_failures":0,"first_byte":{"buckets":[]},"last_byte":{"buckets":[]}},"tools":{}}"#;
        let arm: Arm = serde_json::from_str(old).unwrap();
        assert_eq!(arm.resources, None);
        assert_eq!(serde_json::to_string(&arm).unwrap(), old);
    }

    #[test]
    fn availability_is_the_rest_of_errors() {
        let tally = Tally {
            calls: 200,
            bad: 1,
            ..Tally::default()
        };
        assert_eq!(tally.value(Metric::Availability, 1.0), Some(0.995));
    }
}
