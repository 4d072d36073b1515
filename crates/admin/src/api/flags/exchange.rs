//! Whole sets of flags, in and out: any shape that is known comes in, a flagd document goes out.

use super::{Allowed, FLAGS, change::Patch, fresh, seeds};
use crate::{
    App,
    access::Caller,
    extract::{Asked, By, Text},
    ofrep,
    problem::Problem,
};
use axum::{extract::State, response::Response};
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use serin_flags::{
    Document, DocumentError, Environment, Flag, FlagKey, Flags, Overrides, TenantId,
    document::in_plain_words,
};
use serin_model::{
    decide::{Command, Expects, SetFlag, SetOverride, decide},
    event::Event,
    state::State as Known,
    words::event_in_words,
};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Most changes of one import: it is one append to the log.
const CHANGES_MAX: usize = 1000;

/// Fields by which the compact form is known.
const COMPACT: [&str; 2] = ["enabled", "rollout_percentage"];

/// What a text holds.
struct Read {
    flags: Flags,
    overrides: Overrides,
    /// What could not be taken over as it is.
    warnings: Vec<String>,
}

/// Reads a set of flags in any shape that is known; `start` is when the first week of a table of weeks begins.
fn read(text: &str, start: Option<Timestamp>) -> Result<Read, Problem> {
    let imported = Document::from_any(text, start).map_err(refused)?;
    let document = imported.document;
    let mut warnings: Vec<_> = document.warnings.iter().map(ToString::to_string).collect();
    if let Some(share) = imported.canary_percentage {
        warnings.push(format!(
            "`canary_percentage` is no flag but the share of a rollout: `serin rollout share SERVICE {share} --reason \"...\"`"
        ));
    }
    Ok(Read {
        flags: document.flags,
        overrides: document.overrides,
        warnings,
    })
}

/// Reads one definition: as we show it, or in any shape that is known.
pub(super) fn one(key: &FlagKey, definition: &Value) -> Result<Flag, Problem> {
    let is_compact = COMPACT.iter().any(|field| definition.get(field).is_some());
    if is_compact && definition.get("serin").is_none() {
        let patch = Patch::deserialize(definition).map_err(|error| {
            let what = in_plain_words(&error.to_string());
            Problem::bad_request(format!("`flag` is no definition in the compact form: {what}"))
                .help("write such as `{\"enabled\": true, \"rollout_percentage\": 25, \"environments\": [\"test\"]}`")
        })?;
        return patch.apply(key, &seeds::switched(key, false)?);
    }
    // As we show it, what is ours stands inside; in a document it stands beside.
    let mut pure = definition.clone();
    let ours = pure.as_object_mut().and_then(|pure| pure.remove("serin"));
    let mut document = json!({ "flags": { key.as_str(): pure } });
    if let Some(ours) = ours {
        document["serin"] = json!({ "flags": { key.as_str(): ours } });
    }
    let mut read = Document::read(&document).map_err(refused)?;
    let flag = read.flags.remove(key);
    flag.map(Arc::unwrap_or_clone).ok_or_else(|| {
        Problem::bad_request(format!("`flag` is no definition of `{key}`"))
            .help(format!("`GET {FLAGS}/KEY` shows one"))
    })
}

pub(super) fn refused(error: DocumentError) -> Problem {
    let all = error
        .problems
        .iter()
        .map(|problem| json!({ "at": problem.at, "message": problem.what, "help": problem.help }));
    let problems: Vec<_> = all.collect();
    let first = error.problems.into_iter().next();
    let (detail, help) = first.map_or_else(
        || ("the document is refused".to_owned(), String::new()),
        |first| {
            let at = if first.at.is_empty() {
                String::new()
            } else {
                format!("{}: ", first.at)
            };
            (format!("{at}{}", first.what), first.help)
        },
    );
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "flags", detail)
        .help(help)
        .problems(problems)
}

/// How.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct How {
    /// Only say what it would change.
    #[serde(default)]
    dry_run: bool,
    /// Why.
    #[serde(default)]
    reason: String,
    /// When the first week of a table of weeks begins.
    #[param(value_type = Option<String>)]
    start: Option<Timestamp>,
}

/// What an import has changed, or would.
#[derive(Debug, Serialize, ToSchema)]
struct Imported {
    /// Whether it has.
    applied: bool,
    /// What changes, in words; nothing when all is so already.
    done: Vec<String>,
    /// The same as events, with what was before and after.
    #[schema(value_type = Vec<Object>)]
    events: Vec<Event>,
    /// How many flags stay as they are.
    unchanged: usize,
    /// What could not be taken over as it is.
    warnings: Vec<String>,
}

/// Takes over a set of flags: all of it or nothing. Flags that it does not name stay. Known shapes: flagd documents (with our
/// extension), the compact form (`enabled`, `rollout_percentage`, ...), objects of booleans, alone or by tenant, and tables of weeks.
#[utoipa::path(
    post, path = "/admin/v1/import/flags", tag = "flags", params(How),
    request_body(content = String, description = "JSON", content_type = "application/json"),
    responses(
        (status = OK, description = "It is in force", body = Imported),
        (status = BAD_REQUEST, description = "No shape that is known", body = Problem, content_type = "application/problem+json"),
        (status = UNPROCESSABLE_ENTITY, description = "A flag makes no sense", body = Problem, content_type = "application/problem+json"),
        (status = TOO_MANY_REQUESTS, body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn import(
    State(app): State<App>,
    Asked(how): Asked<How>,
    caller: Caller,
    By(actor): By,
    Allowed(Text(text)): Allowed<Text>,
) -> Result<Response, Problem> {
    let read = read(&text, how.start)?;
    for tenant in read.overrides.keys() {
        caller.check_tenant(tenant)?;
    }
    let flags = read.flags.len();
    let known = app.control.state().await?;
    let command = Command::All(commands(&read, &known, &how.reason)?);
    let would =
        decide(&known, &command, Timestamp::now()).map_err(serin_control::ControlError::from)?;
    let events = if how.dry_run {
        would
    } else {
        let recorded = app.control.command(actor, command).await?;
        recorded
            .into_iter()
            .map(|recorded| recorded.event)
            .collect()
    };
    let changed: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::FlagChanged(change) => Some(&change.flag),
            _ => None,
        })
        .collect();
    let mut warnings = read.warnings;
    warnings.extend(changed.iter().filter_map(|key| gates_feature(key)));
    Ok(fresh(&Imported {
        applied: !how.dry_run,
        done: events.iter().map(event_in_words).collect(),
        unchanged: flags - changed.len(),
        events,
        warnings,
    }))
}

/// A flag with the name of a feature of the protocol gates it without a word in any configuration, which may surprise.
fn gates_feature(key: &FlagKey) -> Option<String> {
    let feature = serin_flags::table::feature_of(key.as_str())?;
    Some(format!(
        "flag `{key}` opens and closes `{feature}` for every MCP service that has no gate of its own for it"
    ))
}

fn commands(read: &Read, known: &Known, reason: &str) -> Result<Vec<Command>, Problem> {
    let flags = read.flags.iter().map(|(key, flag)| {
        Command::SetFlag(Box::new(SetFlag {
            flag: key.clone(),
            definition: Some(Box::new(flag.as_ref().clone())),
            expects: Expects::Anything,
            reason: reason.to_owned(),
        }))
    });
    // What a tenant has by the file already is not set by hand as well: the file's author could not change it any more.
    let has = |tenant: &TenantId, flag: &FlagKey, variant: &Arc<str>| {
        let of = |all: &Overrides| all.get(tenant).and_then(|own| own.get(flag)).cloned();
        let by_hand = of(&known.flags.overrides);
        by_hand.or_else(|| of(&known.flags.file_overrides)).as_ref() == Some(variant)
    };
    let overrides = read.overrides.iter().flat_map(|(tenant, flags)| {
        let new = flags
            .iter()
            .filter(move |(flag, variant)| !has(tenant, flag, variant));
        new.map(move |(flag, variant)| {
            Command::SetOverride(Box::new(SetOverride {
                tenant: tenant.clone(),
                flag: flag.clone(),
                variant: Some(variant.clone()),
                reason: reason.to_owned(),
            }))
        })
    });
    let commands: Vec<_> = flags.chain(overrides).collect();
    if commands.len() > CHANGES_MAX {
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
            format!(
                "{} flags and variants of tenants are more than one import takes",
                commands.len()
            ),
        )
        .help(format!(
            "import at most {CHANGES_MAX} at a time, or put them into the file of flags (`flags.file` in the configuration)"
        )));
    }
    Ok(commands)
}

/// Which set.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// As it is in force now, without anything that flagd does not know, in place of the definitions.
    #[serde(default)]
    effective: bool,
    /// The effective set of this tenant.
    #[param(value_type = Option<String>)]
    tenant: Option<TenantId>,
    /// The effective set in this environment.
    #[param(value_type = Option<String>)]
    environment: Option<Environment>,
}

/// All definitions as a flagd document, with what flagd lacks under `serin` at its root; importing it changes nothing.
#[utoipa::path(
    get, path = "/admin/v1/export/flags", tag = "flags", params(Which),
    responses((status = OK, description = "A flagd document", body = Object)),
)]
pub(super) async fn export(
    State(app): State<App>,
    caller: Caller,
    Asked(which): Asked<Which>,
) -> Result<Response, Problem> {
    if let Some(tenant) = &which.tenant {
        caller.check_tenant(tenant)?;
    }
    if which.effective || which.tenant.is_some() || which.environment.is_some() {
        let now = app.control.flags();
        let at = Timestamp::now();
        return Ok(fresh(&ofrep::document(
            &now,
            which.tenant.as_ref(),
            which.environment,
            at,
        )));
    }
    let known = app.control.state().await?;
    // What was set by hand goes before what the file says.
    let mut overrides = known.flags.file_overrides.as_ref().clone();
    for (tenant, flags) in known.flags.overrides.iter() {
        let of_tenant = overrides.entry(tenant.clone()).or_default();
        of_tenant.extend(
            flags
                .iter()
                .map(|(flag, variant)| (flag.clone(), variant.clone())),
        );
    }
    overrides.retain(|tenant, _| caller.sees(tenant));
    let document = Document {
        flags: known.flags.definitions.as_ref().clone(),
        overrides,
        ..Document::default()
    };
    Ok(fresh(&document.to_json()))
}
