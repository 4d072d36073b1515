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
use serin_config::{Diagnostic, Settings, read_file};
use serin_control::Removal;
use serin_control::doubts::{self, Doubt};
use serin_flags::FlagKey;
use serin_model::{event::Event, manifest::Manifest, words::event_in_words};
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
    #[serde(flatten)]
    beyond: Beyond,
    /// What of it will not do: files and variables that it names and that this process cannot read, and flags that there are not.
    #[schema(value_type = Vec<Object>)]
    doubts: Vec<Doubt>,
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
    #[serde(flatten)]
    beyond: Beyond,
    /// What is odd in the manifest.
    #[schema(value_type = Vec<Object>)]
    warnings: Vec<Diagnostic>,
}

/// What applying a manifest leaves as it is.
#[derive(Debug, Serialize, ToSchema)]
struct Beyond {
    /// The static sections of the file that are not those that the process was started with, for operators: they take a restart.
    #[schema(value_type = Vec<String>)]
    restart: Vec<&'static str>,
    /// What there is and the manifest does not name, unless it was asked to prune.
    unnamed: Vec<String>,
}

impl Beyond {
    async fn of(
        app: &App,
        caller: &Caller,
        (settings, manifest): (&Settings, &Manifest),
        prunes: bool,
    ) -> Result<Self, Problem> {
        // Who may only ask could find out settings by comparing.
        let is_operator = caller.check_operator("comparing settings").is_ok();
        let restart = is_operator.then(|| app.settings.changed_in(settings));
        let unnamed = if prunes {
            Vec::new()
        } else {
            manifest.unnamed(&*app.control.state().await?)
        };
        Ok(Self {
            restart: restart.unwrap_or_default(),
            unnamed,
        })
    }
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
    let read = read_file(&text, BODY_NAME)?;
    let (settings, manifest) = read.value;
    let mut doubts = doubts::of_manifest(&manifest).await;
    let flags = app.control.flags();
    for (name, service) in &manifest.services {
        let is_flag = |key: &FlagKey| flags.table().keys().any(|known| known == key);
        doubts.extend(doubts::of_flags(name, &service.settings, is_flag));
    }
    let events = app
        .control
        .apply(actor, manifest.clone(), how.removal())
        .await?;
    for doubt in &doubts {
        tracing::warn!(help = doubt.help, "{}", doubt.what);
    }
    Ok(fresh(&Applied {
        done: Done::of(&events),
        beyond: Beyond::of(&app, &caller, (&settings, &manifest), how.prune).await?,
        doubts,
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
    caller: Caller,
    Text(text): Text,
) -> Result<Response, Problem> {
    let read = read_file(&text, BODY_NAME)?;
    let (settings, manifest) = read.value;
    let beyond = Beyond::of(&app, &caller, (&settings, &manifest), how.prune).await?;
    let events = app.control.diff(manifest, how.removal()).await?;
    let changes = events.iter().map(event_in_words).collect();
    Ok(fresh(&Drift {
        changes,
        events,
        beyond,
        warnings: read.warnings,
    }))
}
