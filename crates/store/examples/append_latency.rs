//! How long an append takes, sync included, on the disk of a given folder:
//! `cargo run --release --example append_latency -- FOLDER` (`.` by default).

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serin_store::{Log, NewRecord};

const APPENDS: usize = 5000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let parent = std::env::args_os()
        .nth(1)
        .map_or(PathBuf::from("."), PathBuf::from);
    let folder = tempfile::tempdir_in(parent)?;
    let path = folder.path().join("log");

    for records in [1, 10] {
        let log = Log::open(&path).await?;
        let epoch = log.claim_epoch().await?;
        let record = NewRecord {
            at: Timestamp::now(),
            actor: "key ops-3f".into(),
            kind: "phase_entered".into(),
            version: 1,
            body: format!(r#"{{"evidence":"{}"}}"#, "x".repeat(400)),
        };
        let batch = vec![record; records];
        let mut head = log.head().await?;
        let mut took = Vec::with_capacity(APPENDS);
        for _ in 0..APPENDS {
            let start = Instant::now();
            head = log.append(head, epoch, &batch).await?;
            took.push(start.elapsed());
        }
        log.close().await;

        took.sort_unstable();
        let at = |thousandth: usize| took[(APPENDS - 1) * thousandth / 1000].as_micros();
        let total: Duration = took.iter().sum();
        println!(
            "{records:>3} records an append: p50 {} us, p99 {} us, p99.9 {} us, max {} us, {:.0} appends/s",
            at(500),
            at(990),
            at(999),
            at(1000),
            APPENDS as f64 / total.as_secs_f64(),
        );
    }

    let start = Instant::now();
    let log = Log::open(&path).await?;
    println!(
        "open after {} records: {} us",
        log.head().await?,
        start.elapsed().as_micros()
    );
    log.close().await;
    Ok(())
}
