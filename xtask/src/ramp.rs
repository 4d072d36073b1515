//! `cargo xtask ramp`: the load test of the Stage I seed (section 4.3), with a key for each of a thousand tenants.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use serde::Deserialize;

use crate::{
    Result,
    bench::{
        machine,
        peer::{Upstream, release},
    },
    gateway::{Gateway, Version},
    process, root,
};

/// The seed's bound on the 95th percentile, in microseconds.
const P95_US_MAX: u64 = 500_000;
/// The level that the seed asks for.
const LEVEL: &str = "10,000 a minute";
/// Keys must be looked up, limits counted and rows written; no limit must be met.
const SETTINGS: &str = "    settings:
      auth: serin
      limits: [{ per: tenant, rate: 1000000/minute }]
tiers: { large: { limits: [{ rate: 100000/minute }] } }
audit: { mode: best_effort }
";

/// How much to load.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Tenants, with a key each.
    #[arg(long, default_value_t = 1000)]
    tenants: u32,
    /// How much shorter the ramp is than the seed's five minutes.
    #[arg(long, default_value_t = 10)]
    shorter: u32,
    /// Take the programs as they were built last.
    #[arg(long)]
    no_build: bool,
    /// Fail where a call fails, or where the seed's bound is not kept at 10,000 calls a minute.
    #[arg(long)]
    check: bool,
}

#[derive(Deserialize)]
struct Stage {
    name: String,
    calls: u64,
    errors: u64,
    per_minute: f64,
    p50_us: u64,
    p95_us: u64,
    p99_us: u64,
    max_us: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if !args.no_build {
        process::build_release()?;
    }
    let folder = root().join("target/ramp");
    let _ = fs::remove_dir_all(&folder);
    let upstream = Upstream::start(&folder, "v1")?;
    let endpoints = [upstream.url.as_str()];
    let versions = [Version::new("v1", &endpoints)];
    let gateway = Gateway::start_with(release("serin")?, &folder, &versions, SETTINGS)?;
    let (stages, cpu) = load(args, &gateway, &folder.join("serin.db.token"))?;
    println!(
        "{:<20}{:>10}{:>8}{:>12}{:>10}{:>10}{:>10}{:>10}",
        "stage", "calls", "errors", "a minute", "p50 ms", "p95 ms", "p99 ms", "max ms"
    );
    let ms = |us: u64| us as f64 / 1000.0;
    for stage in &stages {
        println!(
            "{:<20}{:>10}{:>8}{:>12.0}{:>10.2}{:>10.2}{:>10.2}{:>10.2}",
            stage.name,
            stage.calls,
            stage.errors,
            stage.per_minute,
            ms(stage.p50_us),
            ms(stage.p95_us),
            ms(stage.p99_us),
            ms(stage.max_us),
        );
    }
    let calls: u64 = stages.iter().map(|stage| stage.calls).sum();
    println!(
        "{} tenants; {:.0} us of processor time a call, on all cores",
        args.tenants,
        cpu * 1e6 / calls.max(1) as f64
    );
    if args.check { check(&stages) } else { Ok(()) }
}

/// Runs the load generator; its stages, and the processor time that the gateway took for them, in seconds.
fn load(args: &Args, gateway: &Gateway, token: &std::path::Path) -> Result<(Vec<Stage>, f64)> {
    let mut command = Command::new(release("serin-testbed")?);
    command
        .args(["ramp", "--url", &gateway.mcp_url, "--tier", "large"])
        .args(["--admin", gateway.admin_url(), "--token-file"])
        .arg(token)
        .args(["--tenants", &args.tenants.to_string()])
        .args(["--shorter", &args.shorter.to_string()])
        .stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let out = child
        .stdout
        .take()
        .ok_or("the load generator has no output")?;
    let mut before = machine::cpu(gateway.pid());
    let mut stages = Vec::new();
    for line in BufReader::new(out).lines() {
        let line = line?;
        if line == "ramp begins" {
            before = machine::cpu(gateway.pid());
        } else {
            stages.push(serde_json::from_str(&line)?);
        }
    }
    let used = machine::cpu(gateway.pid()).since(before).total();
    if child.wait()?.success() {
        Ok((stages, used))
    } else {
        Err("the load generator failed".into())
    }
}

fn check(stages: &[Stage]) -> Result<()> {
    if let Some(stage) = stages.iter().find(|stage| stage.errors > 0) {
        return Err(format!("{} calls failed in `{}`", stage.errors, stage.name).into());
    }
    let level = stages.iter().find(|stage| stage.name == LEVEL);
    let level = level.ok_or("the load generator reports no such level")?;
    if level.p95_us > P95_US_MAX {
        let p95 = level.p95_us / 1000;
        return Err(format!(
            "p95 is {p95} ms at {LEVEL}, more than {} ms",
            P95_US_MAX / 1000
        )
        .into());
    }
    println!(
        "no call failed, and p95 at {LEVEL} is within {} ms",
        P95_US_MAX / 1000
    );
    Ok(())
}
