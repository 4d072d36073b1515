//! `cargo xtask fuzz`: coverage-guided fuzzing of what reads bytes from outside, for a bounded time, with libFuzzer.
//!
//! The stable compiler instruments it; no sanitizer is needed, since nothing of ours is unsafe. What is found goes into
//! `fuzz/corpus`, made small, which the tests of the crates replay.

use crate::{Result, process, root};
use clap::builder::PossibleValuesParser;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What is fuzzed: a file of `fuzz/targets` each.
const TARGETS: [&str; 6] = ["envelope", "events", "framing", "key", "rest", "session"];
/// What cargo is told, so that only what is fuzzed is instrumented and not what builds it.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// Counts each edge, and shows libFuzzer what is compared.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Longest input: heads and messages that matter are shorter.
const INPUT_BYTES_MAX: usize = 4096;
/// Time for one input; more is a fault.
const INPUT_SECONDS_MAX: u32 = 5;
/// Memory of a run; more is a fault.
const MEMORY_MB_MAX: u32 = 1024;

/// What to fuzz.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Time for each target, in seconds
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Only this target; may be given several times
    #[arg(long, value_parser = PossibleValuesParser::new(TARGETS))]
    only: Vec<String>,
    /// Add what was found to `fuzz/corpus`, made small
    #[arg(long)]
    keep: bool,
}

/// Fuzzes each target, and fails at the first input that breaks one.
pub(crate) fn run(args: &Args) -> Result<()> {
    let wanted = |target: &&str| args.only.is_empty() || args.only.iter().any(|o| o == target);
    let targets: Vec<&str> = TARGETS.into_iter().filter(wanted).collect();
    let folder = root().join("fuzz");
    let built = build(&folder, &targets)?;
    println!(
        "{:<10} {:>12} {:>8} {:>8} {:>8}",
        "target", "executions", "edges", "features", "inputs"
    );
    for target in targets {
        fuzz(&folder, &built.join(target), target, args)?;
    }
    Ok(())
}

fn build(folder: &Path, targets: &[&str]) -> Result<PathBuf> {
    let to = root().join("target/fuzz");
    let mut cargo = Command::new("cargo");
    cargo.args([
        "build",
        "--quiet",
        "--release",
        "--target",
        TRIPLE,
        "--target-dir",
    ]);
    cargo
        .arg(&to)
        .args(targets.iter().flat_map(|target| ["--bin", target]));
    process::run(cargo.current_dir(folder).env("RUSTFLAGS", FLAGS))?;
    Ok(to.join(TRIPLE).join("release"))
}

fn fuzz(folder: &Path, program: &Path, target: &str, args: &Args) -> Result<()> {
    let corpus = folder.join("corpus").join(target);
    // What is found goes here first, so that the corpus stays small.
    let found = root().join("target/fuzz/found").join(target);
    fs::create_dir_all(&found)?;
    let mut command = Command::new(program);
    command
        .arg(format!("-max_total_time={}", args.seconds))
        .arg(format!("-max_len={INPUT_BYTES_MAX}"))
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
        .arg(format!("-rss_limit_mb={MEMORY_MB_MAX}"))
        // It names what it writes there `crash-HASH`, `timeout-HASH` or `oom-HASH`.
        .arg(format!("-artifact_prefix={}/", found.display()))
        .arg("-print_final_stats=1")
        .arg(&found)
        .arg(&corpus);
    let ran = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&ran.stderr);
    if !ran.status.success() {
        return Err(format!("{target} broke:\n{said}").into());
    }
    let last = said.lines().rev().find(|line| line.contains(" cov: "));
    let after = |name: &str| {
        let words = last
            .and_then(|line| line.split_once(name))
            .map(|(_, rest)| rest);
        words
            .and_then(|rest| rest.split_whitespace().next())
            .unwrap_or("?")
            .to_owned()
    };
    let executed = said
        .lines()
        .find_map(|l| l.strip_prefix("stat::number_of_executed_units:"));
    let inputs = after(" corp: ");
    println!(
        "{target:<10} {:>12} {:>8} {:>8} {:>8}",
        executed.unwrap_or("?").trim(),
        after(" cov: "),
        after(" ft: "),
        inputs.split('/').next().unwrap_or("?"),
    );
    if args.keep {
        let mut merge = Command::new(program);
        merge
            .args(["-merge=1", "-max_len=1024"])
            .arg(&corpus)
            .arg(&found);
        process::output(&mut merge)?;
    }
    Ok(())
}
