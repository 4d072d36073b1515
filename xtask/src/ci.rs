//! `cargo xtask ci`: every check a change must pass, one after another, all of them even when one fails.

use std::{
    process::{Command, ExitCode},
    time::Instant,
};

use crate::{Result, conformance, interop, ofrep, process, root, test};

/// A named check.
type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 7] = [
    ("format", || cargo(&["fmt", "--all", "--check"])),
    ("clippy", || {
        cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--all-features",
            "--",
            "-D",
            "warnings",
        ])
    }),
    ("test", || test::run(&[])),
    ("conformance", || {
        conformance::run(&conformance::Args::default())
    }),
    ("interop", || interop::run(&interop::Args::default())),
    ("ofrep", ofrep::run),
    ("docs", || {
        let mut doc = Command::new("cargo");
        doc.args(["doc", "--workspace", "--no-deps", "--all-features"])
            .env("RUSTDOCFLAGS", "-D warnings");
        process::run(doc.current_dir(root()))
    }),
];

/// Runs every step; the last line says how many passed.
pub(crate) fn run() -> ExitCode {
    let mut outcomes = Vec::new();
    for (name, step) in STEPS {
        println!("\n=== {name}");
        let start = Instant::now();
        let outcome = step();
        let seconds = start.elapsed().as_secs_f64();
        if let Err(error) = &outcome {
            println!("{name}: {error}");
        }
        outcomes.push((name, outcome.is_ok(), seconds));
    }
    println!();
    for (name, passed, seconds) in &outcomes {
        println!(
            "{name:<12} {} {seconds:>7.1} s",
            if *passed { "passed" } else { "FAILED" }
        );
    }
    let failed = outcomes.iter().filter(|(_, passed, _)| !passed).count();
    println!("{} passed, {failed} failed", outcomes.len() - failed);
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn cargo(arguments: &[&str]) -> Result<()> {
    process::run(Command::new("cargo").args(arguments).current_dir(root()))
}
