//! Checks of what is said about endpoints: how much each takes, when one is left alone, and what becomes of requests that reach none.

use crate::{config::between, position::Path, read::Report};
use serin_model::service::{ServiceSettings, ServiceSpec};
use serin_route::{breaker, outlier};
use std::time::Duration;

/// Greatest weight of an endpoint: a thousandth of the traffic is too little to see anything by.
const WEIGHT_MAX: usize = 1000;
/// Most calls that a version may be said to take at a time: more than a process has sockets for.
const IN_FLIGHT_MAX: usize = 1_000_000;
/// Shortest of the times: a timer rounds below this.
const TIME_MIN: Duration = Duration::from_millis(1);
/// Longest time for an endpoint to answer, as for a service.
const RESPONSE_TIMEOUT_MAX: Duration = Duration::from_hours(31 * 24);
/// Longest time for which an endpoint is left alone: one that is not to be used at all is removed.
const PAUSE_MAX: Duration = Duration::from_hours(24);
/// Shortest window: a shorter one would see the order of a few requests.
const WINDOW_MIN: Duration = Duration::from_millis(100);
/// Longest window: what was an hour ago says nothing.
const WINDOW_MAX: Duration = Duration::from_hours(1);
/// Most probes of a breaker at a time: more would be the traffic that it keeps away.
const PROBES_MAX: usize = 100;
/// Most further attempts: a caller waits for them.
const ATTEMPTS_MAX: usize = 10;
/// Longest wait before an attempt; it is doubled each time.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Longest slow start.
const SLOW_START_MAX: Duration = Duration::from_hours(1);
/// The whole, in percent.
const WHOLE_PERCENT: usize = 100;

/// Checks the endpoints of all versions, and what is said about them together.
pub(crate) fn check_endpoints(spec: &ServiceSpec, at: &Path, report: &mut Report) {
    let versions = at.key("versions");
    for (name, version) in &spec.versions {
        let at = versions.key(name);
        for (index, endpoint) in version.endpoints.iter().enumerate() {
            let at = at.key("endpoints").index(index);
            check_weight(endpoint.weight, &at.key("weight"), report);
            if let Some(time) = endpoint.response_timeout {
                let at = at.key("response_timeout");
                between(time, TIME_MIN, RESPONSE_TIMEOUT_MAX, &at, report);
            }
        }
        if let Some(max) = version.in_flight_max {
            check_in_flight(max, &at.key("in_flight_max"), report);
        }
    }
    check_failures(&spec.settings, &at.key("settings"), report);
}

fn check_weight(weight: u32, at: &Path, report: &mut Report) {
    if weight == 0 {
        report.error(
            at,
            "an endpoint of weight 0 gets nothing",
            "write 1 or more, remove the endpoint, or drain it: `serin drain`",
        );
        return;
    }
    between(count(weight), 1, WEIGHT_MAX, at, report);
}

fn check_in_flight(max: u32, at: &Path, report: &mut Report) {
    if max == 0 {
        report.error(
            at,
            "a version that takes 0 calls at a time takes none",
            "write how many it takes, or nothing for as many as come",
        );
        return;
    }
    between(count(max), 1, IN_FLIGHT_MAX, at, report);
}

fn check_failures(settings: &ServiceSettings, at: &Path, report: &mut Report) {
    let mut counts = |value: u32, least, most, at: &Path| {
        between(count(value), least, most, at, report);
    };
    let (breaker, at_breaker) = (&settings.breaker, at.key("breaker"));
    let most = count(breaker::COUNT_MAX);
    counts(breaker.failures, 0, most, &at_breaker.key("failures"));
    counts(breaker.probes, 1, PROBES_MAX, &at_breaker.key("probes"));
    let (outliers, at_outliers) = (&settings.outliers, at.key("outliers"));
    let most = count(outlier::REQUESTS_MAX);
    counts(outliers.requests, 1, most, &at_outliers.key("requests"));
    let (retries, at_retries) = (&settings.retries, at.key("retries"));
    counts(
        retries.attempts,
        0,
        ATTEMPTS_MAX,
        &at_retries.key("attempts"),
    );
    for (percent, at) in [
        (
            outliers.failures_percent,
            at_outliers.key("failures_percent"),
        ),
        (
            outliers.eject_percent_max,
            at_outliers.key("eject_percent_max"),
        ),
        (retries.budget_percent, at_retries.key("budget_percent")),
        (settings.panic_below_percent, at.key("panic_below_percent")),
    ] {
        counts(percent.into(), 0, WHOLE_PERCENT, &at);
    }
    for (time, least, most, at) in [
        (breaker.open, TIME_MIN, PAUSE_MAX, at_breaker.key("open")),
        (
            outliers.window,
            WINDOW_MIN,
            WINDOW_MAX,
            at_outliers.key("window"),
        ),
        (
            outliers.eject,
            TIME_MIN,
            PAUSE_MAX,
            at_outliers.key("eject"),
        ),
        (
            retries.backoff,
            TIME_MIN,
            BACKOFF_MAX,
            at_retries.key("backoff"),
        ),
        (
            settings.slow_start,
            Duration::ZERO,
            SLOW_START_MAX,
            at.key("slow_start"),
        ),
    ] {
        between(time, least, most, &at, report);
    }
}

fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
