//! Nobody is ever answered by the wrong version, endpoint, session or call: sessions and callers of 40 calls each, while shares
//! are raised, lowered and rolled back and the process is killed and started again.
//!
//! Every answer of the sample server carries version, endpoint, session nonce and request nonce, and the clients check them.

mod support;

use serin_testbed::{
    client::Era,
    population::{Change, LifeRecord, Population, PopulationOptions, Report},
    sample::{Running, Sample, SampleOptions, ToolSet},
};
use std::time::{Duration, Instant};
use support::Serin;
use tempfile::TempDir;

/// Clients of each era that call at a time; each lives twice, which makes 200 sessions and 200 callers.
const CLIENTS: usize = 100;
const CALLS_PER_SESSION: u32 = 40;
/// Fast enough that the sessions span every change, slow enough for a debug build on a busy machine.
const CALLS_PER_SECOND: f64 = 900.0;

/// Phases that only a person moves on: the test sets the shares.
const PLAN: &str = "phases: [{ share: 1 %, hold: 10h }, { share: 100 % }]\nevidence: trials 1000000\nauto_promote: false\n";

struct World {
    folder: TempDir,
    serin: Option<Serin>,
    _samples: Vec<Running>,
}

impl World {
    async fn begin() -> Self {
        let mut samples = Vec::new();
        for (version, endpoint) in [("v1", "a"), ("v1", "b"), ("v2", "c"), ("v2", "d")] {
            let options = SampleOptions::new(version, endpoint, ToolSet::V1);
            samples.push(Sample::start(options).await.unwrap());
        }
        let folder = TempDir::new().unwrap();
        let urls: Vec<_> = samples.iter().map(Running::url).collect();
        let services = format!(
            "services:\n  tools:\n    protocol: mcp\n    path: /mcp\n    stable: v1\n    versions:\n\
             \x20     v1: {{ endpoints: [\"{}\", \"{}\"] }}\n      v2: {{ endpoints: [\"{}\", \"{}\"] }}\n",
            urls[0], urls[1], urls[2], urls[3]
        );
        std::fs::write(folder.path().join("plan.yaml"), PLAN).unwrap();
        let serin = Serin::start(folder.path(), &services).await;
        serin
            .cli(&[
                "rollout",
                "start",
                "tools",
                "--to",
                "v2",
                "--plan",
                "plan.yaml",
            ])
            .await;
        Self {
            folder,
            serin: Some(serin),
            _samples: samples,
        }
    }

    fn serin(&self) -> &Serin {
        self.serin.as_ref().unwrap()
    }

    async fn share(&self, percent: &str) {
        self.serin()
            .cli(&["rollout", "share", "tools", percent, "--reason", "test"])
            .await;
    }

    fn population(&self, sessions_per_client: u32, calls_per_session: u32) -> Population {
        Population::start(PopulationOptions {
            legacy: CLIENTS,
            modern: CLIENTS,
            calls_per_second: Some(CALLS_PER_SECOND),
            calls_per_session,
            sessions_per_client: Some(sessions_per_client),
            ..PopulationOptions::new(self.serin().url("/mcp"))
        })
        .unwrap()
    }

    /// As after a power cut, on the same ports.
    async fn kill_and_restart(&mut self) {
        let restarted = self
            .serin
            .take()
            .unwrap()
            .kill_and_restart(self.folder.path())
            .await;
        self.serin = Some(restarted);
    }
}

/// Waits until the population has made so many calls.
async fn calls(population: &Population, many: u64) {
    let deadline = Instant::now() + Duration::from_mins(1);
    let mut look = tokio::time::interval(Duration::from_millis(10));
    while population.stats().calls < many {
        assert!(
            Instant::now() < deadline,
            "the population has come to a halt: {:?}",
            population.stats()
        );
        look.tick().await;
    }
}

fn not_one_wrong(report: &Report, changes: &[Change]) {
    assert_eq!(
        report.stats.mismatches,
        0,
        "{:#?}",
        report.mismatches.iter().take(5).collect::<Vec<_>>()
    );
    let unexplained = report.unexplained_moves(changes);
    assert!(
        unexplained.is_empty(),
        "{} moves without a reason: {:#?}",
        unexplained.len(),
        unexplained.first()
    );
}

/// New keys got the candidate as often as wanted, within 4.5 standard deviations: one false alarm in 150,000 runs.
fn share_is_realised(lives: &[LifeRecord], wanted: f64) {
    for era in [Era::Legacy, Era::Modern] {
        let all: Vec<_> = lives.iter().filter(|life| life.era == era).collect();
        let hits = all.iter().filter(|life| life.first.version == "v2").count() as f64;
        let expected = all.len() as f64 * wanted;
        let slack = 4.5 * (expected * (1.0 - wanted)).sqrt();
        assert!(
            (hits - expected).abs() <= slack,
            "{era:?}: {hits} of {} new keys at {wanted}",
            all.len()
        );
    }
}

async fn split(wanted: &str, ratio: f64, raised: &str, lowered: &str) {
    let mut world = World::begin().await;
    world.share(wanted).await;

    // Everybody begins at one share.
    let short = world.population(4, 3).finished().await;
    not_one_wrong(&short, &[]);
    assert_eq!(
        (short.stats.gone, short.stats.harmed),
        (0, 0),
        "{:?}",
        short.stats
    );
    share_is_realised(&short.lives, ratio);

    let all = 2 * 2 * CLIENTS as u64 * u64::from(CALLS_PER_SESSION);
    let population = world.population(2, CALLS_PER_SESSION);
    calls(&population, all / 8).await;
    world.share(raised).await;
    calls(&population, all * 2 / 8).await;
    world.share(lowered).await;
    calls(&population, all * 3 / 8).await;
    world.kill_and_restart().await;
    calls(&population, all * 5 / 8).await;
    let gone_before = population.stats().gone;
    world
        .serin()
        .cli(&["rollout", "rollback", "tools", "--reason", "test"])
        .await;
    let rolled_back = Instant::now();
    let report = population.finished().await;

    let v2 = "v2".to_owned();
    not_one_wrong(
        &report,
        &[
            Change::Raised(v2.clone()),
            Change::Lowered(v2.clone()),
            Change::RolledBack(v2),
        ],
    );
    assert_eq!(gone_before, 0, "a restart ends no session");
    let late: Vec<_> = report
        .moves
        .iter()
        .filter(|m| m.sent_at > rolled_back && m.to.version == "v2")
        .collect();
    assert!(
        late.is_empty(),
        "moved to a version that was taken back: {late:?}"
    );
    let status = world
        .serin()
        .cli(&["rollout", "status", "tools", "--json"])
        .await;
    assert!(status.contains("rolled_back"), "{status}");
    println!(
        "split {wanted}: {} calls, {} sessions and callers, {} moves, {} sessions got a 404 and began again, {} calls failed at the kill",
        report.stats.calls,
        report.stats.lives,
        report.stats.moves,
        report.stats.gone,
        report.stats.harmed
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_90_to_10_not_one_answer_is_wrong() {
    split("10 %", 0.1, "40 %", "20 %").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_50_to_50_not_one_answer_is_wrong() {
    split("50 %", 0.5, "80 %", "30 %").await;
}
