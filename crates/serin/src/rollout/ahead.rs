//! `serin rollout plan` and `serin rollout simulate`: what a plan can see, before anything depends on it.

mod characteristics;
mod forecast;

use crate::{
    cli::{Global, PlanArgs, SimulateArgs, TrafficArgs},
    client::configured,
    exit::Exit,
    problem::Problem,
    rollout::{is_file, print, to_json},
    screen,
};
use miette::Report;
use serde_json::json;
use serin_judge::{Limit, Metric};
use serin_model::plan::Plan;
use serin_simulate::{Degradation, Keys, Seed, Spread, Traffic};
use std::path::Path;

/// Calls of a session where nobody says how many there are.
const CALLS_A_SESSION: f64 = 20.0;

pub(super) fn plan(global: &Global, args: &PlanArgs) -> miette::Result<Exit> {
    let (name, plan) = find_plan(global, &args.plan)?;
    let traffic = traffic(&args.traffic);
    let mut phases = serin_simulate::forecast(&plan, &traffic);
    for phase in &mut phases {
        phase
            .detections
            .retain(|found| is_worse(found.what, &traffic));
    }
    print(&if args.json {
        to_json(&json!({ "plan": name, "traffic": traffic, "phases": phases }))?
    } else {
        forecast::text(&name, &plan, &traffic, &phases)
    })?;
    Ok(Exit::Done)
}

pub(super) fn simulate(global: &Global, args: &SimulateArgs) -> miette::Result<Exit> {
    let (name, plan) = find_plan(global, &args.plan)?;
    let traffic = traffic(&args.traffic);
    let seed = Seed::new(&args.seed.to_string(), &name);
    // A file that cannot be written is better known of before the runs than after.
    if let Some(path) = &args.svg {
        write(path, "")?;
    }
    if !args.json {
        print(&characteristics::head(&name, &traffic, args))?;
    }
    let asked = Degradation::worth_asking(traffic.tools).into_iter();
    let mut found = Vec::new();
    for what in asked.filter(|what| *what == Degradation::None || is_worse(*what, &traffic)) {
        let row = serin_simulate::simulate(&plan, &traffic, what, args.runs, &seed);
        // Row by row: it may take a while.
        if !args.json {
            print(&characteristics::row(&row))?;
        }
        found.push(row);
    }
    if args.json {
        print(&to_json(&json!({
            "plan": name, "traffic": traffic, "runs": args.runs, "seed": args.seed, "candidates": found
        }))?)?;
    } else {
        print(&characteristics::lessons(&plan, &traffic, &found))?;
    }
    if let Some(path) = &args.svg {
        write(path, &serin_simulate::chart(&found))?;
    }
    Ok(Exit::Done)
}

/// A plan by its name, built in or of the configuration, or from a file.
fn find_plan(global: &Global, text: &str) -> miette::Result<(String, Plan)> {
    if is_file(text) {
        let path = Path::new(text);
        let name = path.file_stem().unwrap_or(path.as_os_str());
        return Ok((
            name.to_string_lossy().into_owned(),
            crate::check::read_plan(path)?,
        ));
    }
    let mut plans = serin_config::builtin_plans();
    if let Some(config) = configured(global)? {
        plans.extend(config.manifest.plans);
    }
    let found = plans.remove(text);
    found.map(|plan| (text.to_owned(), plan)).ok_or_else(|| {
        let known: Vec<_> = plans.into_keys().collect();
        Report::new(Problem::new(
            format!("there is no plan `{text}`"),
            format!(
                "the plans are: {}; or name a file, such as `./mine.yaml`",
                known.join(", ")
            ),
        ))
    })
}

fn traffic(args: &TrafficArgs) -> Traffic {
    let keys = match (args.callers, args.sessions_per_minute) {
        (Some(callers), _) => Keys::Callers(callers),
        (None, sessions) => Keys::Sessions {
            per_second: sessions.map_or(args.calls_per_second / CALLS_A_SESSION, |minute| {
                minute / 60.0
            }),
            call_every_seconds: args.call_every.as_secs_f64(),
        },
    };
    Traffic {
        calls_per_second: args.calls_per_second,
        keys,
        tools: args.tools,
        error_rate: args.error_rate.ratio(),
        latency: Spread {
            median_seconds: args.latency.as_secs_f64(),
            ..Spread::default()
        },
    }
}

/// The traffic in a line.
fn in_words(traffic: &Traffic) -> String {
    let who = match traffic.keys {
        Keys::Callers(callers) => format!("of {callers} callers"),
        Keys::Sessions { per_second, .. } => {
            let calls = traffic.calls_per_second / per_second;
            format!(
                "in {} sessions a minute of {calls:.0} calls each",
                number(per_second * 60.0)
            )
        }
    };
    let tools = match traffic.tools {
        0 => String::new(),
        1 => ", 1 tool".to_owned(),
        tools => format!(", {tools} tools"),
    };
    format!(
        "{} calls a second {who}{tools}; {} of stable's calls fail, the middle one takes {}",
        number(traffic.calls_per_second),
        percent(traffic.error_rate),
        screen::seconds(Some(traffic.latency.median_seconds))
    )
}

/// Whether a candidate is worse than stable: one that fails less often is not, nor worth asking about.
fn is_worse(what: Degradation, traffic: &Traffic) -> bool {
    match what {
        Degradation::Errors(rate) | Degradation::OneTool(rate) => rate > traffic.error_rate,
        Degradation::Slower(_) => true,
        Degradation::None => false,
    }
}

/// What the plan lets pass, in figures of this traffic.
fn tolerated(plan: &Plan, traffic: &Traffic) -> String {
    let (warning, critical) = plan.latency_ratios();
    let tolerance = plan.judge_settings().errors;
    let mut text = format!(
        "The plan tolerates errors of {}: beside {} of stable's, {} of the candidate's. It tolerates calls {warning:.2} times as slow before it holds, and {critical:.2} times before the candidate is taken back.",
        plan.judge.errors,
        percent(traffic.error_rate),
        percent(tolerance.limit(traffic.error_rate)),
    );
    let thresholds = plan.thresholds(0).into_iter();
    let errors = thresholds.filter(|rule| rule.metric == Metric::ErrorRate);
    for rule in errors {
        if let Some(limit @ Limit::Percent(percent)) = rule.critical
            && percent / 100.0 <= traffic.error_rate
        {
            text += &format!(
                " But its threshold takes the candidate back at errors of {limit}, which stable reaches itself: expect false alarms."
            );
        }
    }
    text
}

/// Three digits, none of them an idle zero.
fn number(value: f64) -> String {
    let digits = if value < 10.0 {
        2
    } else {
        usize::from(value < 100.0)
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

fn percent(ratio: f64) -> String {
    format!("{} %", number(ratio * 100.0))
}

fn wrapped(text: &str) -> String {
    let text = text.replace(" %", "\u{a0}%");
    let lines = textwrap::wrap(&text, COLUMNS);
    lines.join("\n").replace('\u{a0}', " ") + "\n"
}

/// What fits a terminal, and mail.
const COLUMNS: usize = 100;

fn write(path: &Path, text: &str) -> miette::Result<()> {
    std::fs::write(path, text).map_err(|error| {
        Report::new(
            Problem::new(
                format!("{} cannot be written", path.display()),
                "name another file with `--svg FILE`",
            )
            .because(error),
        )
    })
}

#[cfg(test)]
mod tests;
