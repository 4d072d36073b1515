//! `serin health`: what each version did, what is wrong, and where it is going.

use crate::{
    cli::{Global, Health, HealthArgs},
    client::{Client, block_on},
    exit::Exit,
    rollout::{print, to_json},
};
use jiff::{Timestamp, tz::TimeZone};
use serde::{Serialize, de::DeserializeOwned};
use serin_control::health::{
    Alert, Alerts, Comparison, Issue, MetricTrend, Row, Standing, VersionTrends, VersionWindows,
    Window,
};
use serin_judge::{Level, Metric, trend::Direction};

pub(crate) fn dispatch(global: &Global, command: &Health) -> miette::Result<Exit> {
    let mut client = Client::find(global)?;
    block_on(async {
        match command {
            Health::Metrics { args, minutes } => {
                let what = format!("metrics?minutes={minutes}");
                show(&mut client, args, &what, metrics).await
            }
            Health::Issues(args) => show(&mut client, args, "issues", issues).await,
            Health::Trends(args) => show(&mut client, args, "trends", trends).await,
            Health::Alerts(args) => show(&mut client, args, "alerts", alerts).await,
            Health::Compare(args) => show(&mut client, args, "comparison", comparison).await,
        }
    })
}

async fn show<T: DeserializeOwned + Serialize>(
    client: &mut Client,
    args: &HealthArgs,
    what: &str,
    table: impl FnOnce(&T) -> String,
) -> miette::Result<Exit> {
    let path = format!("/admin/v1/services/{}/health/{what}", args.service);
    let answer: T = client.get(&path).await?;
    print(&if args.json {
        to_json(&answer)?
    } else {
        table(&answer)
    })?;
    Ok(Exit::Done)
}

fn metrics(versions: &Vec<VersionWindows>) -> String {
    if versions.iter().all(|version| version.windows.is_empty()) {
        return "no calls in this time\n".to_owned();
    }
    let mut out = format!(
        "{:<9} {:<14} {:>8} {:>7} {:>6} {:>6} {:>6} {:>6} {:>9} {:>9} {:>9} {:>9} {:>7} {:>9} {:>8}\n",
        "TIME",
        "VERSION",
        "CALLS/S",
        "CALLS",
        "BAD",
        "4XX",
        "AUTH",
        "LEFT",
        "P50",
        "P95",
        "P99",
        "FIRST P95",
        "CPU",
        "MEMORY",
        "RESTARTS"
    );
    for version in versions {
        for window in &version.windows {
            out += &line(version.version.as_str(), window);
        }
    }
    out
}

fn line(version: &str, window: &Window) -> String {
    let running = if window.running { " running" } else { "" };
    format!(
        "{:<9} {version:<14} {:>8.1} {:>7} {:>6} {:>6} {:>6} {:>6} {:>9} {:>9} {:>9} {:>9} {:>7} {:>9} {:>8}{running}\n",
        time(window.at),
        window.calls_per_second,
        window.calls,
        window.bad,
        window.client_errors,
        window.auth_failures,
        window.cancelled,
        value(Metric::LatencyP50, window.latency_p50_seconds),
        value(Metric::LatencyP95, window.latency_p95_seconds),
        value(Metric::LatencyP99, window.latency_p99_seconds),
        value(Metric::FirstByteP95, window.first_byte_p95_seconds),
        value(Metric::Cpu, window.cpu_cores),
        value(Metric::Memory, window.memory_bytes),
        window
            .restarts
            .map_or_else(|| "-".to_owned(), |n| n.to_string()),
    )
}

fn issues(issues: &Vec<Issue>) -> String {
    if issues.is_empty() {
        return "nothing is wrong\n".to_owned();
    }
    let mut out = format!("{:<9} {:<9} {}\n", "LEVEL", "SINCE", "WHAT");
    for issue in issues {
        out += &format!(
            "{:<9} {:<9} {}\n",
            level(issue.level),
            time(issue.since),
            issue.text
        );
    }
    out
}

fn alerts(alerts: &Alerts) -> String {
    if alerts.active.is_empty() && alerts.resolved.is_empty() {
        return "no alerts\n".to_owned();
    }
    let mut out = format!(
        "{:<9} {:<9} {:<9} {:<9} {:>5}  {}\n",
        "LEVEL", "FIRST", "LAST", "OVER", "TIMES", "WHAT"
    );
    for Alert {
        level: of,
        text,
        first_seen,
        last_seen,
        times,
        resolved_at,
        ..
    } in alerts.active.iter().chain(&alerts.resolved)
    {
        out += &format!(
            "{:<9} {:<9} {:<9} {:<9} {times:>5}  {text}\n",
            level(*of),
            time(*first_seen),
            time(*last_seen),
            resolved_at.map_or_else(|| "-".to_owned(), time),
        );
    }
    out
}

fn trends(versions: &Vec<VersionTrends>) -> String {
    let mut out = format!(
        "{:<14} {:<16} {:<8} {:>10} {:>12}  {:<24} {:>6}\n",
        "VERSION", "METRIC", "TREND", "MEAN", "AN HOUR", "SURELY BETWEEN", "POINTS"
    );
    let mut any = false;
    for version in versions {
        for MetricTrend { metric, trend } in &version.trends {
            any = true;
            let (slope, interval) = trend.slope.map_or_else(
                || ("-".to_owned(), "-".to_owned()),
                |slope| {
                    let hourly = |slope: f64| signed(*metric, slope * 3600.0);
                    let interval = format!("{} and {}", hourly(slope.low), hourly(slope.high));
                    (hourly(slope.value), interval)
                },
            );
            out += &format!(
                "{:<14} {metric:<16} {:<8} {:>10} {slope:>12}  {interval:<24} {:>6}\n",
                version.version,
                direction(trend.direction),
                value(*metric, trend.mean),
                trend.points,
            );
        }
    }
    if any {
        out
    } else {
        "no window has ended yet; a trend needs 8 of them, which are 30 s each\n".to_owned()
    }
}

fn comparison(comparison: &Comparison) -> String {
    let candidate = comparison.candidate.as_ref();
    let mut out = format!(
        "{:<16} {:>12} {:>12} {:>12} {:<8} {}\n",
        "METRIC", "STABLE", "CANDIDATE", "DIFFERENCE", "", "CANDIDATE SURELY BETWEEN"
    );
    for row in &comparison.rows {
        out += &format!(
            "{:<16} {:>12} {:>12} {:>12} {:<8} {}\n",
            row.metric,
            value(row.metric, row.stable),
            value(row.metric, row.candidate),
            row.difference
                .map_or_else(|| "-".to_owned(), |by| signed(row.metric, by)),
            standing(row.standing),
            between(row),
        );
    }
    out += &format!(
        "stable {} with {} calls, {} in the last {:.0} s\n",
        comparison.stable,
        comparison.stable_calls,
        candidate.map_or_else(
            || "no rollout under way".to_owned(),
            |name| format!("candidate {name} with {} calls", comparison.candidate_calls)
        ),
        comparison.seconds,
    );
    out
}

fn between(row: &Row) -> String {
    row.candidate_interval
        .map_or_else(String::new, |(low, high)| {
            let metric = row.metric;
            format!("{} and {}", metric.show(low), metric.show(high))
        })
}

fn value(metric: Metric, value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| metric.show(value))
}

/// A difference, with its sign where there is one to see.
fn signed(metric: Metric, value: f64) -> String {
    let shown = metric.show(value.abs());
    let is_nothing = shown.starts_with('0') && !shown.contains(|c| matches!(c, '1'..='9'));
    match value {
        _ if is_nothing => shown,
        value if value < 0.0 => format!("-{shown}"),
        _ => format!("+{shown}"),
    }
}

fn time(at: Timestamp) -> String {
    let at = at.to_zoned(TimeZone::system());
    at.strftime("%H:%M:%S").to_string()
}

const fn level(level: Level) -> &'static str {
    match level {
        Level::Warning => "warning",
        Level::Critical => "critical",
    }
}

const fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Rising => "rising",
        Direction::Falling => "falling",
        Direction::Flat => "flat",
        Direction::Unknown => "unknown",
    }
}

const fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Better => "better",
        Standing::Same => "same",
        Standing::Worse => "worse",
        Standing::Unknown => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_have_a_sign_where_there_is_one() {
        for (metric, value, expected) in [
            (Metric::ErrorRate, 0.05, "+5 %"),
            (Metric::ErrorRate, -0.05, "-5 %"),
            (Metric::Cpu, -0.000_01, "0 %"),
            (Metric::Memory, -250e6, "-250 MB"),
            (Metric::LatencyP95, f64::INFINITY, "+endless"),
        ] {
            assert_eq!(signed(metric, value), expected);
        }
    }
}
