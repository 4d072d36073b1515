//! One look at one metric: is it within its limit, beyond it, or is there too little to say.

use crate::{Arm, Check, Direction, Finding, Limit, Metric, Resources, Scope, Tally, binomial};

/// One look at one metric.
pub(super) struct Look {
    pub(super) metric: Metric,
    pub(super) limit: Limit,
    pub(super) seconds: f64,
    pub(super) min_samples: u64,
}

/// What is looked at on one side.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    tally: &'a Tally,
    resources: Option<&'a Resources>,
}

impl<'a> Side<'a> {
    /// All of an arm.
    pub(super) fn of(arm: &'a Arm) -> Self {
        Self {
            tally: &arm.pooled,
            resources: arm.resources.as_ref(),
        }
    }

    /// Some of its calls.
    pub(super) fn calls(tally: &'a Tally) -> Self {
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
    pub(super) fn at(
        &self,
        scope: Scope,
        stable: Option<Side<'_>>,
        candidate: Side<'_>,
    ) -> Finding {
        let stable_value = stable.and_then(|side| side.value(self.metric, self.seconds));
        let resolved = self.limit.resolve(self.metric, stable_value);
        let check = match resolved {
            _ if candidate.samples(self.metric) == 0 => Check::NoData,
            _ if candidate.samples(self.metric) < self.needed() => Check::Insufficient,
            // A tool or a traffic that stable does not have, or hardly has, cannot be compared with stable's.
            None => Check::Insufficient,
            Some(_) if self.is_relative() && !self.knows(stable) => Check::Insufficient,
            Some(limit) if self.breaches(candidate, limit) => Check::Fail,
            Some(_) => Check::Pass,
        };
        // Whether stable merely looks beyond it too suffices: who doubts that does not blame the candidate alone.
        let stable_too = !self.is_relative()
            && check == Check::Fail
            && self.knows(stable)
            && resolved.zip(stable_value).is_some_and(|(limit, value)| {
                match self.metric.direction() {
                    Direction::Max => value > limit,
                    Direction::Min => value < limit,
                }
            });
        Finding {
            stable_too,
            ..self.finding(scope, check, stable_value, candidate)
        }
    }

    fn is_relative(&self) -> bool {
        matches!(self.limit, Limit::AgainstStable { .. })
    }

    /// Whether a side has enough samples to be compared with.
    fn knows(&self, side: Option<Side<'_>>) -> bool {
        side.is_some_and(|side| side.samples(self.metric) >= self.needed())
    }

    /// As a criterion looks: the plain value, at or within the limit.
    pub(super) fn plainly(&self, stable: Side<'_>, candidate: Side<'_>) -> Finding {
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
        // So must a quantile: of a hundred calls the 95th percentile is the fifth slowest, and chance alone moves it by half. Calls
        // that failed are for the error rate to judge.
        if let Some((longer, all, allowed)) = side.tally.longer_than(self.metric, limit) {
            return binomial::is_above(longer, all, allowed);
        }
        let value = side.value(self.metric, self.seconds);
        value
            .filter(|value| value.is_finite())
            .is_some_and(|value| match self.metric.direction() {
                Direction::Max => value > limit,
                Direction::Min => value < limit,
            })
    }
}
