//! `serin rollout replay`: a recorded rollout judged again, by its own plan or by another.

use crate::{
    cli::ReplayArgs,
    client::Client,
    exit::Exit,
    problem::Problem,
    rollout::{figures, plan, print, to_json},
    screen,
};
use miette::Report;
use serde::Deserialize;
use serde_json::json;
use serin_model::{
    name::{RolloutId, ServiceName},
    replay::Replay,
};

/// What the list of rollouts says of one.
#[derive(Debug, Deserialize)]
struct Listed {
    id: RolloutId,
    service: ServiceName,
    from: String,
    to: String,
    plan: String,
    status: String,
}

pub(super) async fn replay(client: &mut Client, args: &ReplayArgs) -> miette::Result<Exit> {
    let rollout = find(client, args).await?;
    let body = match &args.plan {
        None => json!({}),
        Some(text) => {
            let (plan, plan_name) = plan(text)?;
            json!({ "plan": plan, "plan_name": plan_name })
        }
    };
    let path = format!("/admin/v1/rollouts/{}/replay", rollout.id);
    let replay: Replay = client.post(&path, &body).await?;
    print(&if args.json {
        to_json(&replay)?
    } else {
        story(&rollout, &replay)
    })?;
    Ok(if replay.is_verified() {
        Exit::Done
    } else {
        Exit::Error
    })
}

/// The rollout that is named, or the latest one of the service.
async fn find(client: &mut Client, args: &ReplayArgs) -> miette::Result<Listed> {
    let rollouts: Vec<Listed> = client.get("/admin/v1/rollouts").await?;
    let mut of_service = rollouts
        .into_iter()
        .filter(|listed| listed.service == args.service);
    let found = match args.rollout {
        Some(id) => of_service.find(|listed| listed.id == id),
        None => of_service.next(),
    };
    found.ok_or_else(|| {
        let what = args.rollout.map_or_else(
            || format!("service `{}` has had no rollout", args.service),
            |id| format!("service `{}` has had no rollout {id}", args.service),
        );
        Report::new(Problem::new(
            what,
            "`serin rollout list --json` shows those that there are",
        ))
    })
}

fn story(rollout: &Listed, replay: &Replay) -> String {
    let mut out = format!(
        "{}: {} -> {} by plan {}, {}; judged again by plan {} from {} blocks\n",
        rollout.service,
        rollout.from,
        rollout.to,
        rollout.plan,
        rollout.status.replace('_', " "),
        replay.plan_name,
        replay.blocks
    );
    out += "\nWhat would have happened\n";
    if replay.moments.is_empty() {
        out += "  nothing\n";
    }
    let mut before = None;
    for moment in &replay.moments {
        out += &format!("  {}  {}\n", screen::clock(moment.at), moment.text);
        let assessment = &moment.assessment;
        out += &figures::figures_after(before.replace(assessment), assessment);
    }
    out += &format!("  in the end: {}\n", replay.end);
    out += "\nThe verdicts on record\n";
    if replay.verified.is_empty() {
        out += "  none of them names the blocks that it rests on\n";
    }
    for verified in &replay.verified {
        let found = match (verified.basis_found, verified.proof_same) {
            (true, true) => "the same blocks prove the same",
            (true, false) => {
                "DIFFERENT: the blocks are there and prove something else; was it judged by another release?"
            }
            (false, true) => "DIFFERENT: it proves the same, from other blocks than it names",
            (false, false) => "DIFFERENT: the blocks that it names are not there, or are others",
        };
        out += &format!("  event {}: {found}\n", verified.position);
    }
    out
}
