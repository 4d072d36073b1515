//! An open-loop load of many tenants: calls come when they are due, whether others are answered or not, each with the key of the next
//! tenant, as the Stage I seed's k6 script lets users come and go.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::load::{Connection, LATENCY_US_MAX, Lane, LoadError};

/// Time for one answer; beyond it counts as an error.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// Least rate, from which a ramp grows: from none there would be no next call.
const RATE_LEAST_PER_SECOND: f64 = 10.0;

/// A time in which the rate goes from one to another.
#[derive(Clone, Copy, Debug)]
pub struct Stage {
    /// As it is called.
    pub name: &'static str,
    /// How long it takes.
    pub duration: Duration,
    /// Calls a minute at its beginning.
    pub from_per_minute: f64,
    /// Calls a minute at its end.
    pub to_per_minute: f64,
}

/// What came of a stage.
#[derive(Clone, Debug, Serialize)]
pub struct StageReport {
    /// As it is called.
    pub name: &'static str,
    /// Good answers.
    pub calls: u64,
    /// Others.
    pub errors: u64,
    /// Calls that were due a minute, on average.
    pub per_minute: f64,
    /// Half of the good calls took at most so long, in microseconds.
    pub p50_us: u64,
    /// 95 of 100 took at most so long.
    pub p95_us: u64,
    /// 99 of 100 took at most so long.
    pub p99_us: u64,
    /// The slowest.
    pub max_us: u64,
}

/// The k6 script of the seed, where a user makes ten calls a minute: to 100 users in a minute, to 1,000 in three, down in one; in so
/// much less time. Then as many for a while, and ten times as many.
pub fn seed_stages(shorter: u32, hold: Duration) -> Vec<Stage> {
    let ramp = |name, minutes: u64, from_per_minute, to_per_minute| Stage {
        name,
        duration: Duration::from_mins(minutes) / shorter.max(1),
        from_per_minute,
        to_per_minute,
    };
    let level = |name, per_minute| Stage {
        name,
        duration: hold,
        from_per_minute: per_minute,
        to_per_minute: per_minute,
    };
    vec![
        ramp("to 100 users", 1, 0.0, 1_000.0),
        ramp("to 1,000 users", 3, 1_000.0, 10_000.0),
        ramp("to none", 1, 10_000.0, 0.0),
        level("10,000 a minute", 10_000.0),
        level("100,000 a minute", 100_000.0),
    ]
}

/// Makes tenants with a key each by the admin API.
///
/// # Errors
/// It refuses, or does not answer.
pub async fn make_keys(
    admin: &str,
    token: &str,
    tenants: usize,
    tier: &str,
) -> Result<Vec<String>, reqwest::Error> {
    let client = reqwest::Client::new();
    let post = async |path: &str, body: Value| -> Result<Value, reqwest::Error> {
        let request = client.post(format!("{admin}{path}")).bearer_auth(token);
        let answer = request.json(&body).send().await?.error_for_status()?;
        answer.json().await
    };
    let mut keys = Vec::with_capacity(tenants);
    for number in 0..tenants {
        let tenant = format!("tenant-{number:05}");
        post(
            "/admin/v1/tenants",
            json!({ "tenant": tenant, "tier": tier }),
        )
        .await?;
        let made = post("/admin/v1/keys", json!({ "tenant": tenant })).await?;
        keys.push(made["key"].as_str().unwrap_or_default().to_owned());
    }
    Ok(keys)
}

/// Runs the stages one after another, and says what came of each.
///
/// # Errors
/// The URL is none.
pub async fn run(
    url: &str,
    keys: &[String],
    stages: &[Stage],
) -> Result<Vec<StageReport>, LoadError> {
    let lanes: Result<Vec<_>, _> = keys.iter().map(|key| Lane::modern(url, key)).collect();
    let lanes: Vec<_> = (lanes.map_err(LoadError::Open)?.into_iter())
        .map(|lane| Arc::new((lane, tokio::sync::Mutex::new(None))))
        .collect();
    let mut turn = 0;
    let mut reports = Vec::with_capacity(stages.len());
    for stage in stages {
        reports.push(run_stage(&lanes, &mut turn, *stage).await?);
    }
    Ok(reports)
}

type Tenant = Arc<(Lane, tokio::sync::Mutex<Connection>)>;

async fn run_stage(
    lanes: &[Tenant],
    turn: &mut usize,
    stage: Stage,
) -> Result<StageReport, LoadError> {
    let latencies = Histogram::new_with_max(LATENCY_US_MAX, 3).map_err(LoadError::Histogram)?;
    let tally = Arc::new(Mutex::new((latencies, 0_u64)));
    let begun = Instant::now();
    let seconds = stage.duration.as_secs_f64();
    let (mut due, mut calls) = (0.0, 0_u64);
    let mut running = JoinSet::new();
    while due < seconds {
        tokio::time::sleep_until((begun + Duration::from_secs_f64(due)).into()).await;
        let tenant = Arc::clone(&lanes[*turn % lanes.len()]);
        *turn += 1;
        calls += 1;
        running.spawn(call(tenant, Arc::clone(&tally)));
        while running.try_join_next().is_some() {}
        let grown = stage.to_per_minute - stage.from_per_minute;
        let per_second = (stage.from_per_minute + grown * due / seconds) / 60.0;
        due += 1.0 / per_second.max(RATE_LEAST_PER_SECOND);
    }
    while running.join_next().await.is_some() {}
    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    let (latencies, errors) = &*tally;
    Ok(StageReport {
        name: stage.name,
        calls: latencies.len(),
        errors: *errors,
        per_minute: calls as f64 * 60.0 / seconds,
        p50_us: latencies.value_at_quantile(0.5),
        p95_us: latencies.value_at_quantile(0.95),
        p99_us: latencies.value_at_quantile(0.99),
        max_us: latencies.max(),
    })
}

async fn call(tenant: Tenant, tally: Arc<Mutex<(Histogram<u64>, u64)>>) {
    let due = Instant::now();
    let answered = async {
        let mut connection = tenant.1.lock().await;
        tenant.0.call(&mut connection).await
    };
    let good = tokio::time::timeout(ANSWER_TIME_MAX, answered).await;
    let micros = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    if good == Ok(true) {
        tally.0.saturating_record(micros);
    } else {
        tally.1 += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Upstream;

    #[tokio::test]
    async fn calls_come_when_they_are_due() {
        let server = Upstream::start(([127, 0, 0, 1], 0).into(), "v1")
            .await
            .unwrap();
        let keys = ["a", "b"].map(str::to_owned);
        let stage = |name, from_per_minute, to_per_minute| Stage {
            name,
            duration: Duration::from_millis(500),
            from_per_minute,
            to_per_minute,
        };
        let stages = [
            stage("level", 6_000.0, 6_000.0),
            stage("ramp", 0.0, 12_000.0),
        ];
        let [level, ramp] = run(&server.url(), &keys, &stages)
            .await
            .unwrap()
            .try_into()
            .unwrap();
        // 100 a second for half a second.
        assert!((49..=51).contains(&level.calls), "{level:?}");
        assert!(ramp.calls > 10 && ramp.calls < 60, "{ramp:?}");
        assert_eq!(level.errors + ramp.errors, 0);
        assert!(level.p50_us <= level.p95_us && level.p95_us <= level.max_us);
        server.stop().await;
    }
}
