//! `serin rollout explain`: why a rollout is where it is, in words and figures.

use crate::{
    cli::LookArgs,
    client::Client,
    exit::Exit,
    rollout::{figures, print, rollout_of, to_json},
    screen,
};
use serde::Deserialize;
use serde_json::json;
use serin_control::view::{RolloutView, ServiceView};
use serin_model::{
    event::{PreflightResult, Recorded},
    replay,
    rollout::{Rollout, Status},
    words::event_in_words,
};

/// Events asked for at a time.
const PAGE: u32 = 1000;
/// Most events of one rollout that are told: far more than phases and extensions make.
const EVENTS_MAX: usize = 5000;

/// For whoever meets such figures for the first time.
const HOW_TO_READ: &str = "
How to read it
  A trial is a caller's first block with a tool, and in the rows of all callers a caller's first block with any. `21/142` are 21 bad ones of 142; for latency, those beyond the
  percentile of stable's that tells most. E says how many times better the trials are explained by a candidate that is worse than is tolerated
  than by one that is not; E' says so of one that is within tolerance. They may be looked at at any moment.
  `964 of 100` has decided, `3 of 100` has not. Tools have to reach more, as there are many of them.
";

#[derive(Debug, Deserialize)]
struct Page {
    events: Vec<Recorded>,
    next: Option<u64>,
}

pub(super) async fn explain(client: &mut Client, args: &LookArgs) -> miette::Result<Exit> {
    let service: ServiceView = client
        .get(&format!("/admin/v1/services/{}", args.service))
        .await?;
    let view = rollout_of(&service)?;
    let rollout: Rollout = client
        .get(&format!("/admin/v1/rollouts/{}", view.id))
        .await?;
    let mut events = Vec::new();
    let mut after = Some(0);
    while let Some(position) = after
        && events.len() < EVENTS_MAX
    {
        let query = format!(
            "/admin/v1/events?after={position}&limit={PAGE}&rollout={}",
            view.id
        );
        let page: Page = client.get(&query).await?;
        events.extend(page.events);
        after = page.next;
    }
    if args.json {
        print(&to_json(
            &json!({ "rollout": rollout, "now": view, "events": events }),
        )?)?;
    } else {
        print(&story(&service, view, &rollout, &events))?;
    }
    Ok(Exit::of(view.status))
}

fn story(
    service: &ServiceView,
    view: &RolloutView,
    rollout: &Rollout,
    events: &[Recorded],
) -> String {
    let mut out = format!(
        "{}: {} -> {} by plan {}, started {} by {}\n",
        service.name,
        rollout.from,
        rollout.to,
        rollout.plan_name,
        screen::clock(rollout.started_at),
        rollout.started_by.as_str()
    );
    if !rollout.plan.description.is_empty() {
        out += &format!("  the plan: {}\n", rollout.plan.description);
    }
    for check in &rollout.preflight.checks {
        let found = match check.result {
            PreflightResult::Passed => "passed",
            PreflightResult::Risky => "risky",
            PreflightResult::Breaking => "breaking, accepted",
            PreflightResult::Failed => "failed",
        };
        out += &format!(
            "  before it began, {}: {found}; {}\n",
            check.name, check.detail
        );
    }
    out += "\nWhat happened\n";
    let mut before = None;
    for recorded in events {
        let by = recorded.actor.as_str();
        let by = if by == "serin" {
            String::new()
        } else {
            format!(" ({by})")
        };
        out += &format!(
            "  {}  {}{by}\n",
            screen::clock(recorded.at),
            event_in_words(&recorded.event)
        );
        if let Some(evidence) = replay::evidence(&recorded.event) {
            out += &figures::figures_after(before.replace(evidence), evidence);
        }
    }
    out += "\nWhere it is\n";
    out += &place(view, rollout);
    let has_proof = |recorded: &Recorded| {
        replay::evidence(&recorded.event).is_some_and(|evidence| evidence.proof.is_some())
    };
    if view.proof.is_some() || events.iter().any(has_proof) {
        out += HOW_TO_READ;
    }
    out
}

fn place(view: &RolloutView, rollout: &Rollout) -> String {
    let mut out = String::new();
    let phases = rollout.plan.phases.len();
    if let (Some(ended), true) = (&rollout.ended, view.status.is_terminal()) {
        out += &format!(
            "  {} in phase {} of {phases}, by {}: {}\n",
            view.status.label().replace('_', " "),
            view.phase + 1,
            ended.by.as_str(),
            ended.reason
        );
        out += &sides(view);
        return out;
    }
    out += &format!(
        "  phase {} of {phases}, {} wanted",
        view.phase + 1,
        view.share_wanted
    );
    if view.share_by_hand {
        out += " (set by hand)";
    }
    out += &view.share_realised().map_or_else(String::new, |share| {
        format!(", {:.1} % of the new keys realised", share * 100.0)
    });
    out += &format!(
        "\n  for {}; it holds for {} at least",
        screen::span(view.step_seconds),
        screen::span(view.hold_seconds)
    );
    out += &view.deadline_seconds.map_or_else(String::new, |deadline| {
        format!(", and is inconclusive after {}", screen::span(deadline))
    });
    out += &format!(
        "\n  it wants {}, and has seen {} trials and {} calls of the candidate\n",
        view.evidence_wanted, view.trials, view.arms.candidate.calls
    );
    for finding in &view.findings {
        out += &format!("  now: {finding}\n");
    }
    out += &signals(view, rollout);
    out += &sides(view);
    out += &evidence(view);
    let next = match (view.status, &view.held, &view.missing) {
        (Status::Paused, ..) => format!(
            "paused by hand: go on with `serin rollout resume {}`",
            rollout.service
        ),
        (Status::Inconclusive, ..) => {
            "out of time: somebody must decide with `serin rollout promote`, `abort` or `rollback`"
                .to_owned()
        }
        (_, Some(held), _) => format!("held by a warning: {held}"),
        (_, None, Some(missing)) => format!("missing: {missing}"),
        (_, None, None) if view.ready => format!(
            "passed; waits for `serin rollout promote {}`",
            rollout.service
        ),
        _ => "nothing is missing but the hold".to_owned(),
    };
    out + &format!("  {next}\n")
}

/// What the trials prove at present, and when a verdict is to be expected.
fn evidence(view: &RolloutView) -> String {
    let Some(proof) = &view.proof else {
        return "  the versions are not compared: thresholds alone decide\n".to_owned();
    };
    let mut out = figures::proven(proof);
    if let Some(why) = &view.set_aside {
        return out + &format!("  the comparison does not count at present: {why}\n");
    }
    let expected = |what: &str, reached: bool, seconds: Option<f64>| match seconds {
        _ if reached => format!("  {what} is proven\n"),
        Some(seconds) => format!(
            "  at the present traffic it is proven to be {what} in {}, if trials go on like this\n",
            screen::about(seconds)
        ),
        None => format!("  that it is {what} is not in sight at the present traffic\n"),
    };
    out += &expected("safe", proof.safe.reached(), view.to_safe_seconds);
    out += &expected("worse", proof.regression, view.to_worse_seconds);
    out
}

/// Signals given by hand, with what the plan makes of them.
fn signals(view: &RolloutView, rollout: &Rollout) -> String {
    let rules = &rollout.plan.signals;
    let told = view.signals.iter().map(|(kind, count)| {
        let rule = rules.get(kind);
        let limit = |what: &str, limit: Option<u32>| {
            limit.map_or_else(String::new, |limit| format!("; {what} at {limit}"))
        };
        let warning = limit("the rollout holds", rule.and_then(|rule| rule.warning));
        let critical = limit("it is taken back", rule.and_then(|rule| rule.critical));
        format!("  signal {kind}: given {count} times{warning}{critical}\n")
    });
    told.collect()
}

fn sides(view: &RolloutView) -> String {
    let side = |name: &str, arm: &serin_control::view::ArmView| {
        format!(
            "  {name}: {} calls in this step, errors {}, p95 {}, first byte p95 {}\n",
            arm.calls,
            screen::ratio(arm.error_rate),
            screen::seconds(arm.latency_p95_seconds),
            screen::seconds(arm.first_byte_p95_seconds)
        )
    };
    side("stable", &view.arms.stable) + &side("candidate", &view.arms.candidate)
}
