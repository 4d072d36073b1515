//! `cargo xtask bench faults`: a population calls through the gateway while endpoints are killed and brought back.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
};

use serde::Deserialize;

use super::peer::release;
use crate::{
    Result,
    gateway::{Gateway, Version},
    process, root,
};

/// A breaker that tries again soon, so that the endpoint that is back serves again before the next is killed; probes that find out while
/// it is dead.
const SETTINGS: &str = "    settings:
      breaker: { failures: 5, open: 1s }
      health: { interval: 1s, timeout: 500ms }
";

/// What to do to whom.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Endpoints of the one version.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=9))]
    endpoints: u8,
    /// How often one is killed.
    #[arg(long, default_value_t = 6)]
    kills: usize,
    /// How long one is down, and all are up in between, in seconds.
    #[arg(long, default_value_t = 4.0)]
    hold_seconds: f64,
    /// Calls a second.
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// Take the programs as they were built last.
    #[arg(long)]
    no_build: bool,
    /// Fail where a call fails that was not in flight on an endpoint that died, or a request was sent twice.
    #[arg(long)]
    check: bool,
}

/// What the load generator says.
#[derive(Deserialize)]
struct Report {
    calls: u64,
    sessions_gone: u64,
    failed_in_flight: u64,
    failed_otherwise: u64,
    causes: BTreeMap<String, u64>,
    others: Vec<String>,
    mismatches: u64,
    sent_twice: u64,
    requests: u64,
    deaths: Vec<Death>,
    phases: Vec<Phase>,
}

#[derive(Deserialize)]
struct Death {
    endpoint: String,
    failed: u64,
    last_failed_ms: Option<f64>,
    back_ms: Option<f64>,
}

#[derive(Deserialize)]
struct Phase {
    name: String,
    calls: u64,
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if !args.no_build {
        process::build_release()?;
    }
    let folder = root().join("target/faults");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let report = measure(args, &folder)?;
    print(&report);
    if args.check { check(&report) } else { Ok(()) }
}

/// Lets the load generator start the endpoints, the gateway run in front of them, and the load generator do the rest.
fn measure(args: &Args, folder: &std::path::Path) -> Result<Report> {
    let mut load = Load(
        Command::new(release("serin-testbed")?)
            .args(["outages", "--folder"])
            .arg(folder)
            .args(["--endpoints", &args.endpoints.to_string()])
            .args(["--kills", &args.kills.to_string()])
            .args(["--hold-seconds", &args.hold_seconds.to_string()])
            .args(["--rate", &args.rate.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let out = load.0.stdout.take().ok_or("the load has no output")?;
    let mut lines = BufReader::new(out).lines();
    let mut line = || -> Result<String> { Ok(lines.next().ok_or("the load ended early")??) };
    let urls = line()?;
    let urls = urls.strip_prefix("endpoints ").ok_or("no endpoints")?;
    let urls: Vec<_> = urls.split(',').collect();
    let versions = [Version::new("v1", &urls)];
    let gateway = Gateway::start_with(release("serin")?, folder, &versions, SETTINGS)?;
    let mut stdin = load.0.stdin.take().ok_or("the load has no input")?;
    writeln!(stdin, "{}", gateway.mcp_url)?;
    let report = serde_json::from_str(&line()?)?;
    load.0.wait()?;
    Ok(report)
}

/// The load generator; it ends when dropped, and its endpoints with it.
struct Load(Child);

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn print(report: &Report) {
    let failed = report.failed_in_flight + report.failed_otherwise;
    println!(
        "{} calls, {failed} failed: {} in flight on an endpoint that died, {} others",
        report.calls, report.failed_in_flight, report.failed_otherwise
    );
    for (cause, count) in &report.causes {
        println!("  {count} times {cause}");
    }
    for other in &report.others {
        println!("  not in flight: {other}");
    }
    println!(
        "{} requests came to the endpoints, {} of them twice; {} sessions were begun anew; {} answers were not the caller's own",
        report.requests, report.sent_twice, report.sessions_gone, report.mismatches
    );
    let ms = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0}"));
    println!(
        "{:<12}{:>22}{:>26}{:>24}",
        "killed", "failed in flight", "last failed, ms after", "serves again, ms after"
    );
    for death in &report.deaths {
        println!(
            "{:<12}{:>22}{:>26}{:>24}",
            death.endpoint,
            death.failed,
            ms(death.last_failed_ms),
            ms(death.back_ms)
        );
    }
    println!(
        "{:<24}{:>10}{:>10}{:>10}{:>10}",
        "latency", "calls", "p50 ms", "p99 ms", "max ms"
    );
    let ms = |us: u64| us as f64 / 1000.0;
    for phase in &report.phases {
        println!(
            "{:<24}{:>10}{:>10.2}{:>10.2}{:>10.2}",
            phase.name,
            phase.calls,
            ms(phase.p50_us),
            ms(phase.p99_us),
            ms(phase.max_us)
        );
    }
}

fn check(report: &Report) -> Result<()> {
    let broken: Vec<_> = [
        (
            report.failed_otherwise,
            "calls failed that were not in flight on an endpoint that died",
        ),
        (report.sent_twice, "requests were sent twice"),
        (report.mismatches, "answers were not the caller's own"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect();
    if !broken.is_empty() {
        return Err(broken.join("; ").into());
    }
    println!("only calls in flight on an endpoint that died failed, and nothing was sent twice");
    Ok(())
}
