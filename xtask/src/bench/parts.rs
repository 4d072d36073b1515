//! What single parts of Serin cost, by their own examples: judging, recording an outcome, asking flags and kills, looking at limits,
//! finding a service, and asking rules.

use std::process::Command;

use crate::{Result, process, root};

/// Blocks of the judge end every ten seconds; a tick, which asks for what is proven, comes every second.
const SECONDS_A_BLOCK: f64 = 10.0;

/// The most that judging 100 services of 100 tools may take of one core.
const JUDGING_MAX: f64 = 0.05;

/// The most that recording one outcome may take on average, in nanoseconds.
const RECORDING_NS_MAX: f64 = 150.0;

/// The most that evaluating a flag may take, with 10,000 tenants that have variants of their own, in nanoseconds.
const EVALUATION_NS_MAX: f64 = 2_000.0;

/// The most that asking the latch of kills may take for one call, in nanoseconds.
const LATCH_NS_MAX: f64 = 20.0;

/// The most that looking whether a caller is over three limits may take, with 10,000 keys, in nanoseconds.
const LIMITING_NS_MAX: f64 = 300.0;

/// The most that finding a service among 1,000 may take, beside finding the only one. A search through them would take hundreds of times as
/// long; what is left are nanoseconds, of caches that a larger table does not fit into.
const FINDING_TIMES_MAX: f64 = 3.0;

/// The most that 100 rules may take of a request that fits the last of them, in nanoseconds.
const RULING_NS_MAX: f64 = 2_000.0;

/// Measures the parts and prints what they cost; gives the bounds that do not hold.
pub(crate) fn measure(build: bool) -> Result<Vec<String>> {
    let judging = example("serin-judge", "cells", build)?;
    let recording = example("serin-gateway", "recording", build)?;
    let asking = example("serin-flags", "asking", build)?;
    let limiting = example("serin-gateway", "limiting", build)?;
    let finding = example("serin-model", "finding", build)?;
    let ruling = example("serin-model", "rules", build)?;
    print!("{judging}{recording}{asking}{limiting}{finding}{ruling}");
    let mut broken = Vec::new();

    let ms = |what: &str| number(&judging, what, " ms a pass");
    let second = (ms("take")? + ms("forecast")?) / SECONDS_A_BLOCK + ms("proof")?;
    let of_a_core = second / 1e3;
    println!(
        "judging 10,000 active cells takes {:.2} % of one core, at most {:.0} %",
        of_a_core * 100.0,
        JUDGING_MAX * 100.0
    );
    if of_a_core > JUDGING_MAX {
        broken.push(format!(
            "judging takes {:.1} % of one core",
            of_a_core * 100.0
        ));
    }

    let costs = ["200 callers", "ever new callers"].map(|callers| {
        number(
            &recording,
            &format!("{callers}, 8 tools: the outcome"),
            " ns",
        )
    });
    for cost in costs {
        let ns = cost?;
        if ns > RECORDING_NS_MAX {
            broken.push(format!("recording an outcome takes {ns} ns"));
        }
    }
    broken.extend(too_slow(&asking, "a flag, ", EVALUATION_NS_MAX)?);
    broken.extend(too_slow(&asking, "the latch, ", LATCH_NS_MAX)?);
    let ns = number(&limiting, "three limits, 10,000 keys: a check", " ns")?;
    if ns > LIMITING_NS_MAX {
        broken.push(format!("looking at three limits takes {ns} ns"));
    }
    for by in ["path", "host", "name"] {
        let times = number(&finding, &format!("a service by {by}"), " times")?;
        if times > FINDING_TIMES_MAX {
            broken.push(format!(
                "finding a service by {by} among 1,000 takes {times} times what finding the only one does, at most {FINDING_TIMES_MAX}"
            ));
        }
    }
    broken.extend(too_slow(&ruling, "100 ", RULING_NS_MAX)?);
    Ok(broken)
}

/// What takes longer than `max` nanoseconds among the lines that begin with `what`, of which there must be some.
fn too_slow(text: &str, what: &str, max: f64) -> Result<Vec<String>> {
    let mut slow = Vec::new();
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with(what)).collect();
    if lines.is_empty() {
        return Err(format!("no `{what}` in:\n{text}").into());
    }
    for line in lines {
        let ns = number(line, what, " ns")?;
        if ns > max {
            slow.push(format!("{line}, more than {max} ns"));
        }
    }
    Ok(slow)
}

/// What an example prints.
fn example(package: &str, name: &str, build: bool) -> Result<String> {
    let cargo = |verb: &str| {
        let mut cargo = Command::new("cargo");
        cargo
            .args([
                verb,
                "--quiet",
                "--release",
                "--package",
                package,
                "--example",
                name,
            ])
            .current_dir(root());
        cargo
    };
    if build {
        process::run(&mut cargo("build"))?;
    }
    process::output(&mut cargo("run"))
}

/// The last number before `unit` in the line that begins with `what`.
fn number(text: &str, what: &str, unit: &str) -> Result<f64> {
    let line = text.lines().find(|line| line.starts_with(what));
    let before = line.and_then(|line| line.split(unit).next());
    let number = before.and_then(|before| before.rsplit(' ').next()?.parse().ok());
    number.ok_or_else(|| format!("no `{what}` in:\n{text}").into())
}
