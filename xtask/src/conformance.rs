//! `cargo xtask conformance`: the public MCP conformance suite, directly and through the gateway.
//!
//! Totals hide a lost check behind a new one, so every run is compared with the direct one per check id and status.

mod checks;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use crate::{
    Result,
    gateway::{Gateway, Version},
    process::{self, Server},
    root, tools,
};
use checks::Checks;

/// The revisions, and how many checks the fixture passes in each. Fewer means that the fixture broke, not the gateway.
const REVISIONS: [(&str, usize); 2] = [("2025-11-25", 83), ("2026-07-28", 197)];

/// Each version must have served at least this share of the calls before the comparison means something.
const SHARE_MIN: f64 = 0.3;

/// Without sessions the whole suite is one caller and goes to one version, which each rollout draws anew. A fair coin that
/// shows the same side this often in a row (1 in 10^9) is not fair.
const ROLLOUTS_MAX: u32 = 30;

/// Directly it takes a quarter of a minute; a gateway that makes scenarios wait for their time-outs takes longer.
const SUITE_SECONDS_MAX: u32 = 300;

/// One step at 50 % that outlasts every run; nothing in it can end the rollout.
const PLAN: &str = "phases:\n  - { share: 50 %, hold: 24h }\n  - { share: 100 % }\n";

/// What to run.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only against the fixture itself
    #[arg(long)]
    direct: bool,
    /// Only this revision
    #[arg(long, value_parser = REVISIONS.map(|(revision, _)| revision))]
    revision: Option<String>,
}

/// A row of the table.
struct Run {
    setup: String,
    checks: Checks,
    /// Calls served by stable and candidate, where there are both.
    calls: Option<[u64; 2]>,
    /// Check ids that were better directly.
    worse: Vec<String>,
}

/// Runs both revisions side by side, prints the table, fails if any check changed for the worse.
pub(crate) fn run(args: &Args) -> Result<()> {
    tools::npm()?;
    build(args)?;
    let revisions = REVISIONS
        .into_iter()
        .filter(|(name, _)| args.revision.as_deref().is_none_or(|only| only == *name));
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = revisions
            .map(|(revision, expected)| {
                (
                    revision,
                    scope.spawn(move || run_revision(revision, expected, args.direct)),
                )
            })
            .collect();
        threads
            .into_iter()
            .map(|(revision, thread)| (revision, thread.join()))
            .collect()
    });

    println!(
        "\n{:<12}{:<34}{:>8}{:>8}{:>9}{:>9}  calls v1 / v2",
        "revision", "setup", "success", "failure", "warning", "skipped"
    );
    let mut worse = Vec::new();
    let mut errors = Vec::new();
    for (revision, result) in results {
        let (runs, error) = result.map_err(|_| format!("the run of {revision} panicked"))?;
        for run in runs {
            println!(
                "{revision:<12}{:<34}{}  {}",
                run.setup,
                run.checks,
                share(run.calls)
            );
            worse.extend(
                run.worse
                    .iter()
                    .map(|line| format!("{revision}, {}: {line}", run.setup)),
            );
        }
        errors.extend(error.map(|error| format!("{revision}: {error}")));
    }
    if !worse.is_empty() {
        println!("\nchanged for the worse:\n  {}", worse.join("\n  "));
        errors.push(format!(
            "{} check(s) changed for the worse; the answers are in out/conformance",
            worse.len()
        ));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors.join("\n").into())
    }
}

/// Everything for one revision, with servers of its own: subscribers of one run must not hear another's changes.
fn run_revision(
    revision: &str,
    expected: usize,
    direct_only: bool,
) -> (Vec<Run>, Option<crate::Error>) {
    let mut runs = Vec::new();
    let done = fill(&mut runs, revision, expected, direct_only);
    (runs, done.err())
}

fn fill(runs: &mut Vec<Run>, revision: &str, expected: usize, direct_only: bool) -> Result<()> {
    let out = root().join("out/conformance").join(revision);
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    fs::create_dir_all(&out)?;

    let (_first, first) = fixture(&out, "v1", 1)?;
    let direct = suite(revision, &first, &out.join("direct"))?;
    let passed = direct.success();
    let baseline = direct.clone();
    runs.push(Run {
        setup: "direct".into(),
        checks: direct,
        calls: None,
        worse: vec![],
    });
    if passed != expected || baseline.failure() > 0 {
        return Err(format!(
            "the fixture passes {passed} checks, not {expected}; see {}",
            out.display()
        )
        .into());
    }
    if direct_only {
        return Ok(());
    }

    let (_second, second) = fixture(&out, "v1", 2)?;
    let gateway = Gateway::start(
        &out.join("replicas"),
        &[Version::new("v1", &[&first, &second])],
    )?;
    let checks = suite(revision, &gateway.mcp_url, &out.join("replicas/results"))?;
    let worse = checks.worse_than(&baseline);
    runs.push(Run {
        setup: "two endpoints".into(),
        checks,
        calls: None,
        worse,
    });
    drop(gateway);

    let (_candidate, candidate) = fixture(&out, "v2", 3)?;
    let folder = out.join("split");
    let gateway = Gateway::start(
        &folder,
        &[
            Version::new("v1", &[&first]),
            Version::new("v2", &[&candidate]),
        ],
    )?;
    let plan = folder.join("half.yaml");
    fs::write(&plan, PLAN)?;
    let mut before = gateway.calls()?;
    for rollout in 1..=ROLLOUTS_MAX {
        gateway.start_rollout("v2", &plan)?;
        // A run on the version that has served more already would teach nothing new: draw again.
        let fuller = usize::from(before[1] > before[0]);
        if before[fuller] > 0 && gateway.version_of_a_caller()? == ["v1", "v2"][fuller] {
            gateway.abort_rollout()?;
            continue;
        }
        let checks = suite(
            revision,
            &gateway.mcp_url,
            &folder.join(format!("results-{rollout}")),
        )?;
        gateway.abort_rollout()?;
        let total = gateway.calls()?;
        let worse = checks.worse_than(&baseline);
        let calls = Some([total[0] - before[0], total[1] - before[1]]);
        runs.push(Run {
            setup: format!("50 % candidate, rollout {rollout}"),
            checks,
            calls,
            worse,
        });
        before = total;
        let sum = (total[0] + total[1]).max(1) as f64;
        if total.iter().all(|calls| *calls as f64 / sum >= SHARE_MIN) {
            return Ok(());
        }
    }
    Err(
        format!("after {ROLLOUTS_MAX} rollouts one version has served less than 30 % of the calls")
            .into(),
    )
}

/// Builds the programs that a run starts.
fn build(args: &Args) -> Result<()> {
    process::build("serin-testbed")?;
    if args.direct {
        Ok(())
    } else {
        process::build("serin")
    }
}

/// A fixture process and its URL.
fn fixture(out: &Path, version: &str, number: u32) -> Result<(Server, String)> {
    let mut command = Command::new(process::built("serin-testbed")?);
    command.args(["fixture", "--release", version]);
    let server = Server::start(&mut command, &out.join(format!("fixture-{number}.log")))?;
    let url = server.wait_for("fixture listening on ")?;
    Ok((server, url))
}

/// Runs the suite against `url` and reads what it found.
fn suite(revision: &str, url: &str, out: &Path) -> Result<Checks> {
    let mut suite = process::bounded(SUITE_SECONDS_MAX, &tools::node()?);
    let program: PathBuf =
        tools::npm()?.join("node_modules/@modelcontextprotocol/conformance/dist/index.js");
    suite
        .arg(program)
        .args(["server", "--url", url, "--requirements", revision, "-o"])
        .arg(out);
    // It exits with an error when a check fails; the checks themselves say more.
    let printed = suite
        .output()
        .map_err(|error| format!("cannot start {}: {error}", process::shown(&suite)))?;
    if !out.is_dir() {
        let stderr = String::from_utf8_lossy(&printed.stderr);
        return Err(format!("{} wrote no results: {stderr}", process::shown(&suite)).into());
    }
    fs::write(out.join("stdout.txt"), &printed.stdout)?;
    Checks::read(out)
}

fn share(calls: Option<[u64; 2]>) -> String {
    let Some([stable, candidate]) = calls else {
        return String::new();
    };
    let percent = |calls: u64| 100.0 * calls as f64 / (stable + candidate).max(1) as f64;
    format!("{:.0} % / {:.0} %", percent(stable), percent(candidate))
}
