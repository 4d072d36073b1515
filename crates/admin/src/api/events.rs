//! The log: what happened, by whom and why.

use super::{fresh, kills};
use crate::{App, access::Caller, extract::Asked, problem::Problem};
use axum::{extract::State, response::Response};
use serde::{Deserialize, Serialize};
use serin_model::{
    event::{Event, Recorded},
    name::RolloutId,
    words::event_in_words,
};
use utoipa::{IntoParams, ToSchema};

/// Events in an answer unless asked.
const LIMIT_DEFAULT: u32 = 100;
/// Most events in an answer.
const LIMIT_MAX: u32 = 1000;
/// Events read for one answer: a rare rollout in a long log takes several requests, none of which holds up the others.
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
    /// Those of one rollout.
    #[param(value_type = Option<String>)]
    rollout: Option<RolloutId>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Events {
    /// Oldest first.
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

/// Whether an event is shown: what happened to other tenants is nobody's business but the operator's.
pub(crate) fn is_for(caller: &Caller, event: &Event) -> bool {
    match event {
        Event::TenantSet { tenant, .. } | Event::TenantRemoved { tenant, .. } => {
            caller.sees(tenant)
        }
        Event::KeySet { key, .. } => caller.sees(&key.tenant),
        Event::OverrideChanged(change) => caller.sees(&change.tenant),
        // It names the tenants of a whole file.
        Event::OverridesRead { .. } => caller.only().is_none(),
        Event::KillCopied(kill) => kills::is_for(caller, &kill.target),
        _ => true,
    }
}

/// What happened, oldest first. Keys that are no operator's see nothing of other tenants.
#[utoipa::path(get, path = "/admin/v1/events", tag = "events", params(Which), responses((status = OK, body = Events)))]
pub(super) async fn events(
    State(app): State<App>,
    caller: Caller,
    Asked(which): Asked<Which>,
) -> Result<Response, Problem> {
    let limit = which.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX) as usize;
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
            let is_asked = which.rollout.is_none() || recorded.event.rollout() == which.rollout;
            if is_asked && is_for(&caller, &recorded.event) {
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
