//! Draining: a version or endpoint takes no new callers, and what is there finishes.

use super::{fresh, rollout::Done};
use crate::{
    App,
    extract::{By, Input, Service},
    problem::Problem,
};
use axum::{extract::State, response::Response};
use serde::Deserialize;
use serin_model::{
    decide::{Command, DrainWish},
    drain::{DRAIN_DEFAULT, Drained},
    text,
};
use std::{collections::BTreeSet, time::Duration};
use utoipa::ToSchema;

/// The wish for a drain.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DrainBody {
    /// A version by its name, or an endpoint by its URL.
    #[schema(value_type = String, example = "v1.5.0")]
    what: Drained,
    /// What is there may go on for so long; an hour unless given.
    #[serde(default, rename = "for", with = "text::duration_option")]
    #[schema(value_type = Option<String>, example = "1h")]
    cap: Option<Duration>,
    /// Why. Needed.
    #[serde(default)]
    reason: String,
}

/// The end of one by hand.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UndrainBody {
    /// A version by its name, or an endpoint by its URL.
    #[schema(value_type = String, example = "v1.5.0")]
    what: Drained,
    /// Why.
    #[serde(default)]
    reason: String,
}

/// Lets a version or endpoint take no new callers. Sessions, tasks, streams and continuations that are there finish, or end when the time
/// is over. Said again, it is the time that changes.
#[utoipa::path(
    put, path = "/admin/v1/services/{service}/drain", tag = "services", request_body = DrainBody,
    params(("service" = String, Path, description = "The service")),
    responses(
        (status = OK, description = "It is in force", body = Done),
        (status = NOT_FOUND, description = "No such service, version or endpoint", body = Problem, content_type = "application/problem+json"),
        (status = CONFLICT, description = "Callers would have nowhere to go", body = Problem, content_type = "application/problem+json"),
        (status = UNPROCESSABLE_ENTITY, description = "No reason, or too much time", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn drain(
    State(app): State<App>,
    Service(service): Service,
    By(actor): By,
    Input(body): Input<DrainBody>,
) -> Result<Response, Problem> {
    let wish = DrainWish {
        service,
        what: body.what,
        cap: body.cap.unwrap_or(DRAIN_DEFAULT),
        reason: body.reason,
        // The orchestrator knows.
        silent: BTreeSet::new(),
    };
    let events = app
        .control
        .command(actor, Command::Drain(Box::new(wish)))
        .await?;
    Ok(fresh(&Done::of(&events)))
}

/// Lets a version or endpoint take callers again. Doing so twice is fine.
#[utoipa::path(
    delete, path = "/admin/v1/services/{service}/drain", tag = "services", request_body = UndrainBody,
    params(("service" = String, Path, description = "The service")),
    responses(
        (status = OK, description = "It is in force", body = Done),
        (status = NOT_FOUND, description = "No such service, version or endpoint", body = Problem, content_type = "application/problem+json"),
        (status = CONFLICT, description = "It was removed from the manifest", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn undrain(
    State(app): State<App>,
    Service(service): Service,
    By(actor): By,
    Input(body): Input<UndrainBody>,
) -> Result<Response, Problem> {
    let command = Command::Undrain {
        service,
        what: body.what,
        reason: body.reason,
    };
    let events = app.control.command(actor, command).await?;
    Ok(fresh(&Done::of(&events)))
}
