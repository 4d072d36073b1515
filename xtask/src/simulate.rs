//! `cargo xtask simulate`: what the judge can see and how often it is wrong, by simulation, beside what judge.md asks for.
//!
//! It fails when a figure breaks its bound. Seeds come from the commit, so that nobody can pick them.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use serin_simulate::tables::{
    self, Scope, Table,
    paired::{Answer, Asked, Recorded},
};

use crate::{Result, process, root, tools};

/// Runs and looks of each question that is put to the reference.
const PAIRED: (u64, u32) = (200, 120);
const QUICK_PAIRED: (u64, u32) = (20, 60);

/// What is kept in the repository for the tests.
const RECORDED: (u64, u32) = (4, 60);

/// A table by its name, and what makes it.
type Maker = (&'static str, fn(&Scope) -> Table);

const TABLES: [Maker; 7] = [
    ("alarms", tables::alarms::table),
    ("delays", tables::delays::errors),
    ("delays", tables::delays::latency),
    ("delays", tables::delays::safe),
    ("floor", tables::floor::table),
    ("late", tables::late::table),
    ("counting", tables::counting::table),
];

/// What to simulate.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Fewer runs: a glance, not a measurement
    #[arg(long)]
    quick: bool,
    /// Only these tables: alarms, delays, paired, floor, late, counting
    #[arg(long)]
    only: Vec<String>,
    /// Write the reference's answers that the tests compare with
    #[arg(long)]
    record: bool,
}

/// Prints the tables, and fails unless every figure keeps its bound.
pub(crate) fn run(args: &Args) -> Result<()> {
    if cfg!(debug_assertions) {
        return run_optimised();
    }
    if args.record {
        return record();
    }
    let commit = process::output(
        Command::new("git")
            .args(["rev-parse", "HEAD"])
            .current_dir(root()),
    )?;
    let seeds = commit.trim();
    let scope = if args.quick {
        Scope::quick(seeds)
    } else {
        Scope::full(seeds)
    };
    println!("seeds from {seeds}\n");
    let chosen = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    let started = Instant::now();
    let mut failures = Vec::new();
    let mut show = |table: Table| {
        println!("{table}");
        failures.extend(table.failures);
    };
    if chosen("paired") {
        show(paired(&scope, args.quick)?);
    }
    for (_, make) in TABLES.iter().filter(|(name, _)| chosen(name)) {
        show(make(&scope));
    }
    println!("{:.0} s", started.elapsed().as_secs_f64());
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.join("\n").into())
    }
}

/// The same command in a release build: millions of looks take minutes there, and an hour here.
fn run_optimised() -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["run", "--quiet", "--release", "--package", "xtask", "--"])
        .args(std::env::args_os().skip(1))
        .current_dir(root());
    process::run(&mut cargo)
}

/// The comparison with the reference, live where Python and numpy can be had, otherwise with its recorded answers.
fn paired(scope: &Scope, quick: bool) -> Result<Table> {
    let (runs, looks) = if quick { QUICK_PAIRED } else { PAIRED };
    match tools::python("numpy") {
        Ok(python) => {
            let live = ask_all(&python, tables::paired::questions(scope, runs, looks))?;
            Ok(tables::paired::table(&live, "run now"))
        }
        Err(error) => {
            println!("no numpy ({error}); the reference's recorded answers are used\n");
            let recorded: Vec<Recorded> = serde_json::from_str(tables::paired::RECORDED)?;
            Ok(tables::paired::table(&recorded, "recorded"))
        }
    }
}

/// Writes what the tests know of the reference.
fn record() -> Result<()> {
    let (runs, looks) = RECORDED;
    let questions = tables::paired::questions(&Scope::quick("recorded"), runs, looks);
    let recorded = ask_all(&tools::python("numpy")?, questions)?;
    let file = oracle().join("paired.json");
    let lines: Vec<_> = recorded
        .iter()
        .map(serde_json::to_string)
        .collect::<std::result::Result<_, _>>()?;
    fs::write(&file, format!("[\n{}\n]\n", lines.join(",\n")))?;
    println!("written: {}", file.display());
    Ok(())
}

fn oracle() -> PathBuf {
    root().join("crates/simulate/oracle")
}

fn ask_all(python: &PathBuf, questions: Vec<(String, Asked)>) -> Result<Vec<Recorded>> {
    questions
        .into_iter()
        .map(|(name, asked)| {
            let answer = ask(python, &asked)?;
            Ok(Recorded {
                name,
                asked,
                answer,
            })
        })
        .collect()
}

/// What the reference answers.
fn ask(python: &PathBuf, asked: &Asked) -> Result<Answer> {
    let mut child = Command::new(python)
        .arg("driver.py")
        .current_dir(oracle())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().ok_or("the reference takes no input")?;
    stdin.write_all(&serde_json::to_vec(asked)?)?;
    // It reads to the end before it answers.
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(format!("the reference failed: {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
