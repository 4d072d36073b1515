//! `cargo xtask audit`: rows of the audit trail against the answers that clients received.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;

use crate::{
    Result,
    bench::peer::{Upstream, release},
    gateway::{Gateway, Version},
    process, root,
};

/// Connections of the load generator, each with one call in flight. A call that ends just after its time is not counted, so rows may be
/// more than answers by as many, for each run of it.
const CONNECTIONS: u64 = 32;
/// Time of one run of it, in seconds.
const RUN_SECONDS: f64 = 5.0;
/// The same, in milliseconds.
const RUN_MS: u64 = 5000;
/// What `kill -9` may cost, in milliseconds of calls: a flush is 10 ms, and a busy machine takes its time to begin one.
const LOST_MS_MAX: u64 = 30;
/// Time for what waits for the table, after the load.
const DRAIN_SECONDS_MAX: u64 = 300;
/// The tool that the load generator calls.
const TOOL: &str = "get_entry";

/// What to count.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Answers to count in the first part.
    #[arg(long, default_value_t = 1_000_000)]
    requests: u64,
    /// Take the programs as they were built last.
    #[arg(long)]
    no_build: bool,
}

#[derive(Deserialize)]
struct Load {
    calls: u64,
    errors: u64,
    calls_per_second: f64,
}

#[derive(Deserialize)]
struct Report {
    rows: Vec<Vec<serde_json::Value>>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if !args.no_build {
        process::build_release()?;
    }
    let folder = root().join("target/audit");
    let _ = fs::remove_dir_all(&folder);
    let upstream = Upstream::start(&folder, "v1")?;
    under_load(args, &folder.join("load"), &upstream)?;
    killed(&folder.join("killed"), &upstream)?;
    for mode in ["required", "best_effort"] {
        disk_full(&folder.join(mode), &upstream, mode)?;
    }
    Ok(())
}

fn start(program: PathBuf, folder: &Path, upstream: &Upstream, mode: &str) -> Result<Gateway> {
    let endpoints = [upstream.url.as_str()];
    let versions = [Version::new("v1", &endpoints)];
    let settings = format!("audit: {{ mode: {mode} }}\n");
    Gateway::start_with(program, folder, &versions, &settings)
}

fn under_load(args: &Args, folder: &Path, upstream: &Upstream) -> Result<()> {
    let gateway = start(release("serin")?, folder, upstream, "required")?;
    let began = Instant::now();
    let (mut answers, mut runs) = (0, 0);
    while answers < args.requests {
        let load = load(&gateway.mcp_url, RUN_SECONDS)?;
        if load.errors > 0 {
            return Err(format!("{} calls failed under load", load.errors).into());
        }
        answers += load.calls;
        runs += 1;
    }
    let loaded = began.elapsed().as_secs_f64();
    let spilled = gateway.metric("serin_audit_spilled_total")?;
    drained(&gateway)?;
    let took = began.elapsed().as_secs_f64();
    let rows = rows(&gateway)?;
    println!(
        "load: {answers} answers in {loaded:.1} s ({:.0} a second); {rows} rows, all in the table after {took:.1} s \
         ({:.0} a second); {spilled} waited in the file alone",
        answers as f64 / loaded,
        rows as f64 / took,
    );
    check("under load", rows, answers, answers + runs * CONNECTIONS)
}

fn killed(folder: &Path, upstream: &Upstream) -> Result<()> {
    let gateway = start(release("serin")?, folder, upstream, "required")?;
    let url = gateway.mcp_url.clone();
    let loading = thread::spawn(move || load(&url, RUN_SECONDS));
    thread::sleep(Duration::from_secs_f64(RUN_SECONDS / 2.0));
    // Dropped, it is killed.
    drop(gateway);
    let load = loading.join().map_err(|_| "the load generator broke")??;
    let rate = load.calls_per_second * 2.0;
    let gateway = start(release("serin")?, folder, upstream, "required")?;
    let spilled = gateway.metric("serin_audit_waiting")?;
    drained(&gateway)?;
    let rows = rows(&gateway)?;
    let lost = load.calls.saturating_sub(rows);
    println!(
        "kill -9: {} answers, {rows} rows after the restart ({spilled} still waited in the file then); {lost} lost, {:.1} ms of calls",
        load.calls,
        lost as f64 / rate * 1000.0,
    );
    // All its calls are of the first half of the time.
    let slack = load.calls * LOST_MS_MAX / (RUN_MS / 2);
    let least = load.calls.saturating_sub(slack);
    check("after kill -9", rows, least, load.calls + 2 * CONNECTIONS)
}

fn disk_full(folder: &Path, upstream: &Upstream, mode: &str) -> Result<()> {
    // Told of the limit by errors, as of a full disk, and not by a signal.
    fs::create_dir_all(folder)?;
    let wrapper = folder.join("serin.sh");
    let script = format!(
        "#!/bin/sh\ntrap '' XFSZ\nexec {} \"$@\"\n",
        release("serin")?.display()
    );
    fs::write(&wrapper, script)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    let gateway = start(wrapper, folder, upstream, mode)?;
    let url = gateway.mcp_url.clone();
    let loading = thread::spawn(move || load(&url, RUN_SECONDS));
    thread::sleep(Duration::from_secs_f64(RUN_SECONDS * 0.3));
    limit_files(&gateway, "1")?;
    thread::sleep(Duration::from_secs_f64(RUN_SECONDS * 0.4));
    limit_files(&gateway, "unlimited")?;
    let load = loading.join().map_err(|_| "the load generator broke")??;
    drained(&gateway)?;
    let (rows, lost) = (rows(&gateway)?, gateway.metric("serin_audit_lost_total")?);
    println!(
        "disk full, {mode}: {} answers, {} refused; {rows} rows, {lost} counted as lost",
        load.calls, load.errors
    );
    if (mode == "required") != (load.errors > 0) {
        return Err(format!("{mode}: {} calls were refused", load.errors).into());
    }
    if mode == "required" && lost > 0 {
        return Err(format!("{lost} rows were lost that had to be kept").into());
    }
    check(mode, rows + lost, load.calls, load.calls + 2 * CONNECTIONS)
}

fn check(what: &str, rows: u64, least: u64, most: u64) -> Result<()> {
    if (least..=most).contains(&rows) {
        return Ok(());
    }
    Err(format!("{what}: {rows} rows, where there should be {least} to {most}").into())
}

/// Lets files grow to so many bytes and no further.
fn limit_files(gateway: &Gateway, bytes: &str) -> Result<()> {
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--pid", &gateway.pid().to_string()]);
    prlimit.arg(format!("--fsize={bytes}:unlimited"));
    process::run(&mut prlimit)
}

fn load(url: &str, seconds: f64) -> Result<Load> {
    let mut command = Command::new(release("serin-testbed")?);
    command.args([
        "load",
        "--era",
        "modern",
        "--warm-up-seconds",
        "0",
        "--json",
        "--url",
        url,
    ]);
    command.args(["--connections", &CONNECTIONS.to_string()]);
    command.args(["--seconds", &seconds.to_string()]);
    Ok(serde_json::from_str(&process::output(&mut command)?)?)
}

/// Waits until the table has all there is.
fn drained(gateway: &Gateway) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(DRAIN_SECONDS_MAX);
    // What a core still holds comes within a flush.
    thread::sleep(Duration::from_millis(200));
    while gateway.metric("serin_audit_waiting")? > 0 {
        if Instant::now() > until {
            return Err(format!("rows still wait after {DRAIN_SECONDS_MAX} s").into());
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Rows of the calls that the load generator makes.
fn rows(gateway: &Gateway) -> Result<u64> {
    let text = gateway.ask(&["report", "tools", "--window", "24h", "--json"])?;
    let report: Report = serde_json::from_str(&text)?;
    // Calls whose client was killed with them are in no answer and in no report.
    let row = report
        .rows
        .iter()
        .find(|row| row.first().is_some_and(|tool| tool == TOOL));
    let count = row
        .and_then(|row| row.get(2))
        .and_then(serde_json::Value::as_u64);
    Ok(count.unwrap_or(0))
}
