//! Manifests: make what they describe, or say what that would change.

use super::{fresh, rollout::Done};
use crate::{
    App,
    access::Caller,
    extract::{Asked, By, Text},
    problem::Problem,
};
use axum::{extract::State, response::Response};
use serde::{Deserialize, Serialize};
use serin_config::{Diagnostic, read_manifest};
use serin_control::Removal;
use serin_model::{event::Event, words::event_in_words};
use utoipa::{IntoParams, ToSchema};

/// What the diagnostics call the body of a request.
const BODY_NAME: &str = "manifest";

/// How.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct How {
    /// Also remove what the manifest does not name.
    #[serde(default)]
    prune: bool,
    /// Versions and endpoints that are removed are gone at once; otherwise they take no new callers for an hour and are gone then.
    #[serde(default)]
    now: bool,
}

impl How {
    const fn removal(&self) -> Removal {
        Removal {
            prunes: self.prune,
            at_once: self.now,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Applied {
    #[serde(flatten)]
    done: Done,
    /// What is odd in the manifest.
    #[schema(value_type = Vec<Object>)]
    warnings: Vec<Diagnostic>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Drift {
    /// What applying it would change, in words; nothing when all is as described.
    changes: Vec<String>,
    /// The same as events.
    #[schema(value_type = Vec<Object>)]
    events: Vec<Event>,
    /// What is odd in the manifest.
    #[schema(value_type = Vec<Object>)]
    warnings: Vec<Diagnostic>,
}

/// Makes what a manifest describes. Doing so twice changes nothing the second time. It is for operators: a manifest has the tiers and the
/// services of all tenants.
#[utoipa::path(
    post, path = "/admin/v1/apply", tag = "manifests", params(How),
    request_body(content = String, description = "YAML or JSON", content_type = "application/yaml"),
    responses(
        (status = OK, body = Applied),
        (status = FORBIDDEN, body = Problem, content_type = "application/problem+json"),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn apply(
    State(app): State<App>,
    Asked(how): Asked<How>,
    caller: Caller,
    By(actor): By,
    Text(text): Text,
) -> Result<Response, Problem> {
    caller.check_operator("applying a manifest")?;
    let read = read_manifest(&text, BODY_NAME)?;
    let events = app.control.apply(actor, read.value, how.removal()).await?;
    Ok(fresh(&Applied {
        done: Done::of(&events),
        warnings: read.warnings,
    }))
}

/// Says what applying a manifest would change, and changes nothing.
#[utoipa::path(
    post, path = "/admin/v1/diff", tag = "manifests", params(How),
    request_body(content = String, description = "YAML or JSON", content_type = "application/yaml"),
    responses((status = OK, body = Drift), (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json")),
)]
pub(super) async fn diff(
    State(app): State<App>,
    Asked(how): Asked<How>,
    Text(text): Text,
) -> Result<Response, Problem> {
    let read = read_manifest(&text, BODY_NAME)?;
    let events = app.control.diff(read.value, how.removal()).await?;
    let changes = events.iter().map(event_in_words).collect();
    Ok(fresh(&Drift {
        changes,
        events,
        warnings: read.warnings,
    }))
}
