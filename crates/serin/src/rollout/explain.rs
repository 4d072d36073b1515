//! `serin rollout explain`: why a rollout is where it is, in words and figures.

use crate::{
    cli::LookArgs,
    client::Client,
    exit::Exit,
    rollout::{print, rollout_of, to_json},
    screen,
};
use serde::Deserialize;
use serde_json::json;
use serin_control::view::{RolloutView, ServiceView};
use serin_judge::{Assessment, Check};
use serin_model::{
    event::{Event, PreflightResult, Recorded},
    rollout::{Rollout, Status},
    words::{event_in_words, finding_in_words},
};

/// Events asked for at a time.
const PAGE: u32 = 1000;
/// Most events of one rollout that are told: far more than phases and extensions make.
const EVENTS_MAX: usize = 5000;

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
        if let Some(evidence) = evidence(&recorded.event) {
            out += &figures(evidence);
        }
    }
    out += "\nWhere it is\n";
    out += &place(view, rollout);
    out
}

/// The numbers that an event rests on.
fn evidence(event: &Event) -> Option<&Assessment> {
    match event {
        Event::PhaseEntered { evidence, .. }
        | Event::Promoted { evidence, .. }
        | Event::RolledBack { evidence, .. } => evidence.as_deref(),
        Event::Held { evidence, .. }
        | Event::PhaseReady { evidence, .. }
        | Event::Inconclusive { evidence, .. } => Some(evidence),
        _ => None,
    }
}

fn figures(evidence: &Assessment) -> String {
    let mut out = format!(
        "            from {} calls of the candidate and {} of stable\n",
        evidence.trials, evidence.stable_calls
    );
    for finding in &evidence.findings {
        let note = if finding.stable_too {
            "; stable is beyond it too, so it says nothing of the candidate"
        } else {
            ""
        };
        out += &format!(
            "            {}: {}{note}\n",
            word(finding.check),
            finding_in_words(finding)
        );
    }
    for criterion in &evidence.criteria {
        out += &format!(
            "            criterion {}: {}\n",
            word(criterion.check),
            finding_in_words(criterion)
        );
    }
    out
}

const fn word(check: Check) -> &'static str {
    match check {
        Check::NoData => "no calls",
        Check::Insufficient => "too few calls",
        Check::Pass => "met",
        Check::Pending => "beyond the limit, not yet for long enough",
        Check::Fail => "beyond the limit",
    }
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
        "\n  it wants {}, and has seen {} calls of the candidate\n",
        view.evidence_wanted, view.trials
    );
    for finding in &view.findings {
        out += &format!("  now: {finding}\n");
    }
    out += &sides(view);
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
