//! What happened to a flag: changes, variants of tenants, kills, and the rollouts that touched it.

use super::fresh;
use crate::{
    App,
    access::Caller,
    api::events::is_for,
    extract::{Asked, Named},
    problem::Problem,
};
use axum::{extract::State, response::Response};
use serde::{Deserialize, Serialize};
use serin_flags::{FlagKey, Target};
use serin_model::{
    event::{Event, Recorded},
    name::RolloutId,
    state::State as Known,
    words::event_in_words,
};
use std::collections::BTreeSet;
use utoipa::{IntoParams, ToSchema};

/// Events in an answer unless asked.
const LIMIT_DEFAULT: u32 = 100;
/// Most events in an answer.
const LIMIT_MAX: u32 = 1000;
/// Events read for one answer: a flag that changes seldom in a long log takes several requests.
const READ_MAX: u32 = 10_000;

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// Those after this position; 0 for all.
    #[serde(default)]
    after: u64,
    /// So many at most, up to 1000.
    limit: Option<u32>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FlagEvents)]
pub(super) struct Events {
    /// Oldest first, with what was before and after.
    #[schema(value_type = Vec<Object>)]
    events: Vec<Told>,
    /// The position to ask after for more; none when this was the end of the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Told {
    #[serde(flatten)]
    recorded: Recorded,
    /// What happened, in words.
    text: String,
}

/// What happened to a flag, oldest first: also kills and rollouts that touched it, and what it was before it was deleted.
#[utoipa::path(
    get, path = "/admin/v1/flags/{name}/history", tag = "flags",
    params(("name" = String, Path, description = "The flag"), Which),
    responses((status = OK, body = Events)),
)]
pub(super) async fn history(
    State(app): State<App>,
    Named(key): Named<FlagKey>,
    caller: Caller,
    Asked(which): Asked<Which>,
) -> Result<Response, Problem> {
    let limit = which.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX) as usize;
    let mut rollouts = touching(&*app.control.state().await?, &key);
    let mut events = Vec::new();
    let mut after = which.after;
    let mut left = READ_MAX;
    while left > 0 {
        let page = app.control.events(after, LIMIT_MAX.min(left)).await?;
        if page.is_empty() {
            return Ok(fresh(&Events { events, next: None }));
        }
        for recorded in page {
            if events.len() == limit {
                return Ok(fresh(&Events {
                    events,
                    next: Some(after),
                }));
            }
            after = recorded.position;
            left = left.saturating_sub(1);
            if touches(&recorded.event, &key, &mut rollouts) && is_for(&caller, &recorded.event) {
                let text = event_in_words(&recorded.event);
                events.push(Told { recorded, text });
            }
        }
    }
    Ok(fresh(&Events {
        events,
        next: Some(after),
    }))
}

/// The rollouts that are known and touch a flag: the page that is read may begin after their start.
fn touching(known: &Known, key: &FlagKey) -> BTreeSet<RolloutId> {
    let touching = known.rollouts.iter().filter(|rollout| {
        rollout
            .flag
            .as_ref()
            .is_some_and(|release| release.flag == *key)
            || sets(&rollout.plan, key)
    });
    touching.map(|rollout| rollout.id).collect()
}

fn sets(plan: &serin_model::plan::Plan, key: &FlagKey) -> bool {
    plan.flags_off.contains(key)
        || plan
            .phases
            .iter()
            .any(|phase| phase.flags.contains_key(key))
}

fn touches(event: &Event, key: &FlagKey, rollouts: &mut BTreeSet<RolloutId>) -> bool {
    match event {
        Event::FlagChanged(change) => change.flag == *key,
        Event::OverrideChanged(change) => change.flag == *key,
        Event::KillCopied(kill) => match &kill.target {
            Target::Flag(flag) => flag == key,
            Target::Flags | Target::System | Target::Environment(_) => true,
            _ => false,
        },
        Event::RolloutStarted(started) => {
            let of_it = started.flag.as_ref().is_some_and(|flag| flag.flag == *key);
            if of_it || sets(&started.plan, key) {
                rollouts.insert(started.rollout);
            }
            rollouts.contains(&started.rollout)
        }
        other => other
            .rollout()
            .is_some_and(|rollout| rollouts.contains(&rollout)),
    }
}
