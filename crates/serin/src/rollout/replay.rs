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
    out += "  (judged on the calls on record, at the shares that were in force then)\n";
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

#[cfg(test)]
mod tests {
    use super::*;
    use serin_model::replay::Verified;
    use uuid::Uuid;

    #[test]
    fn a_verdict_that_comes_out_otherwise_stands_out() {
        let id = RolloutId(Uuid::from_u128(1));
        let rollout = Listed {
            id,
            service: "tools".parse().unwrap(),
            from: "v1".to_owned(),
            to: "v2".to_owned(),
            plan: "stage-i".to_owned(),
            status: "rolled_back".to_owned(),
        };
        let verified = |position, basis_found, proof_same| Verified {
            position,
            basis_found,
            proof_same,
        };
        let replay = Replay {
            rollout: id,
            plan_name: "mine".to_owned(),
            blocks: 87,
            moments: Vec::new(),
            verified: vec![verified(5, true, true), verified(9, true, false)],
            end: "the record ends".to_owned(),
        };
        assert!(!replay.is_verified());
        assert_eq!(
            story(&rollout, &replay),
            "tools: v1 -> v2 by plan stage-i, rolled back; judged again by plan mine from 87 blocks

What would have happened
  (judged on the calls on record, at the shares that were in force then)
  nothing
  in the end: the record ends

The verdicts on record
  event 5: the same blocks prove the same
  event 9: DIFFERENT: the blocks are there and prove something else; was it judged by another release?
"
        );
    }
}
