//! Flags: look, change, ask why.
//!
//! What is changed is in force before the answer. Changes may name the revision they have seen, as `If-Match` or in the body.

mod change;
mod exchange;
mod history;
mod limit;
mod seeds;
mod share;
mod stale;

pub(crate) use limit::Writes;

use super::fresh;
use crate::{
    App,
    access::{Caller, forbidden},
    extract::{Asked, By, Input, Named},
    ofrep::{self, Asker},
    problem::Problem,
};
use axum::{
    extract::State,
    response::{IntoResponse as _, Response},
};
use change::{Change, Patch};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use limit::Allowed;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use serin_control::{Control, flags::FlagsNow, totals::Answers};
use serin_flags::{Environment, Flag, FlagKey, TenantId};
use serin_model::{
    decide::{Command, Expects, Refusal, RefusalKind, SetFlag, SetOverride},
    event::{Actor, Recorded},
    flags::History,
    state::State as Known,
    words::event_in_words,
};
use std::{collections::BTreeMap, sync::Arc};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Where all flags are.
const FLAGS: &str = "/admin/v1/flags";

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get, put, post, patch, delete))
        .routes(routes!(set_override, clear_override))
        .routes(routes!(evaluate))
        .routes(routes!(history::history))
        .routes(routes!(exchange::import))
        .routes(routes!(exchange::export))
        .merge(seeds::routes())
}

/// A flag with all that is known of it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FlagShown)]
struct Shown {
    #[schema(value_type = String)]
    key: FlagKey,
    /// The definition: flagd's fields, and under `serin` what flagd lacks.
    #[schema(value_type = Object)]
    flag: Arc<Flag>,
    /// Name it when you change the flag, so that you do not undo what others did meanwhile.
    revision: u64,
    #[schema(value_type = Option<String>)]
    created_at: Option<Timestamp>,
    #[schema(value_type = Option<String>)]
    changed_at: Option<Timestamp>,
    #[schema(value_type = Option<String>)]
    changed_by: Option<Actor>,
    /// Whether it stands in the file of flags.
    in_file: bool,
    /// How many get it, in percent, where that can be said in one number: a rule or a schedule may say more.
    #[serde(skip_serializing_if = "Option::is_none")]
    rollout_percentage: Option<f64>,
    /// How many get it now where this process runs, in percent, where that can be said in one number: after kills, dates, the
    /// environment and rollouts.
    #[serde(skip_serializing_if = "Option::is_none")]
    share: Option<f64>,
    /// What `SERIN_FLAGS` of the process makes of it, in place of state and rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    forced: Option<bool>,
    /// Whether it is killed, alone or with all flags.
    killed: bool,
    /// The service on which a rollout of the flag is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    released_on: Option<String>,
    /// The variants of tenants, set by hand or in the file.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object)]
    overrides: BTreeMap<TenantId, Arc<str>>,
    /// How many tenants have one.
    tenants: usize,
    /// How often it was asked since the process began, by variant.
    #[schema(value_type = Object)]
    evaluations: BTreeMap<Arc<str>, u64>,
    #[schema(value_type = Option<String>)]
    last_evaluated_at: Option<Timestamp>,
    /// Why it may be deleted: `expired`, `rolled_out`, `off`, `never_evaluated`.
    stale: Vec<&'static str>,
}

/// Most tenants whose variants are shown with a flag; `tenants` says how many there are.
const OVERRIDES_SHOWN_MAX: usize = 100;

impl Shown {
    fn of(
        known: &Known,
        now: &FlagsNow,
        answers: Option<&Answers>,
        overrides: BTreeMap<TenantId, Arc<str>>,
        key: &FlagKey,
    ) -> Option<Self> {
        let flag = known.flags.definitions.get(key)?;
        let history = known.flags.histories.get(key);
        let mut evaluations = BTreeMap::new();
        for ((variant, _), count) in answers.iter().flat_map(|answers| &answers.counts) {
            *evaluations.entry(Arc::clone(variant)).or_default() += count;
        }
        Some(Self {
            key: key.clone(),
            flag: Arc::clone(flag),
            revision: revision(history),
            created_at: history.map(|history| history.created_at),
            changed_at: history.map(|history| history.changed_at),
            changed_by: history.map(|history| history.changed_by.clone()),
            in_file: history.is_some_and(|history| history.file.is_some()),
            rollout_percentage: change::percentage(flag),
            share: share::now(now, key, flag, Timestamp::now()),
            forced: forced(now, key, flag),
            killed: now.latch.stops_flag(key.as_str())
                || now.latch.stops_flags(None, now.table().environment),
            released_on: known
                .releasing(key)
                .map(|rollout| rollout.service.to_string()),
            tenants: overrides.len(),
            overrides: overrides.into_iter().take(OVERRIDES_SHOWN_MAX).collect(),
            evaluations,
            last_evaluated_at: answers.and_then(|answers| answers.last),
            stale: stale::marks(flag, history, answers, Timestamp::now()),
        })
    }
}

/// What `SERIN_FLAGS` makes of a flag, unless the flag has a variant for the environment, which goes before it.
fn forced(now: &FlagsNow, key: &FlagKey, flag: &Flag) -> Option<bool> {
    let table = now.table();
    let fixed = &flag.serin.environments;
    let is_fixed = fixed.contains_key(&table.environment)
        || (table.environment == Environment::Canary
            && fixed.contains_key(&Environment::Production));
    table.forced_to(key).filter(|_| !is_fixed)
}

fn revision(history: Option<&History>) -> u64 {
    history.map_or(0, |history| history.revision)
}

/// The variants of tenants by flag, of one flag or of all; those set by hand go before those of the file. One pass: there may be very
/// many tenants. Those of tenants that the caller does not see are left out.
fn overrides(
    known: &Known,
    only: Option<&FlagKey>,
    caller: &Caller,
) -> BTreeMap<FlagKey, BTreeMap<TenantId, Arc<str>>> {
    let mut all: BTreeMap<FlagKey, BTreeMap<_, _>> = BTreeMap::new();
    let layers = known.flags.file_overrides.iter();
    let seen = layers
        .chain(known.flags.overrides.iter())
        .filter(|(tenant, _)| caller.sees(tenant));
    for (tenant, variants) in seen {
        let wanted = variants
            .iter()
            .filter(|(key, _)| only.is_none_or(|only| only == *key));
        for (key, variant) in wanted {
            let of_flag = all.entry(key.clone()).or_default();
            of_flag.insert(tenant.clone(), variant.clone());
        }
    }
    all
}

/// Which flags.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Those that may be deleted: expired, or the same for everybody and unchanged for 30 days, or not asked since the process began.
    #[serde(default)]
    stale: bool,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Flags)]
struct List {
    flags: Vec<Shown>,
    /// What `SERIN_FLAGS` of the process says of names that no flag has.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object)]
    forced: BTreeMap<FlagKey, bool>,
    /// How the file of flags was when it was last looked at: where it is, when it was read, and why what it holds now is not in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    file: Option<serin_control::flags::FlagFileStatus>,
}

/// The flags.
#[utoipa::path(get, path = "/admin/v1/flags", tag = "flags", params(Which), responses((status = OK, body = List)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Asked(which): Asked<Which>,
) -> Result<Response, Problem> {
    let known = app.control.state().await?;
    let (now, totals) = (app.control.flags(), app.control.totals());
    let mut overrides = overrides(&known, None, &caller);
    let shown = known.flags.definitions.keys().filter_map(|key| {
        let overrides = overrides.remove(key).unwrap_or_default();
        let shown = Shown::of(&known, &now, totals.flags.get(key), overrides, key)?;
        (!which.stale || !shown.stale.is_empty()).then_some(shown)
    });
    Ok(fresh(&List {
        flags: shown.collect(),
        forced: now
            .table()
            .forced_alone_all()
            .map(|(key, on)| (key.clone(), on))
            .collect(),
        file: app.control.flag_file(),
    }))
}

/// A flag. Its `ETag` is its revision.
#[utoipa::path(
    get, path = "/admin/v1/flags/{name}", tag = "flags",
    params(("name" = String, Path, description = "The flag")),
    responses((status = OK, body = Shown), (status = NOT_FOUND, body = Problem, content_type = "application/problem+json")),
)]
async fn get(
    State(app): State<App>,
    Named(key): Named<FlagKey>,
    caller: Caller,
) -> Result<Response, Problem> {
    let known = app.control.state().await?;
    answer(&app.control, &known, &key, &caller)
}

fn answer(
    control: &Control,
    known: &Known,
    key: &FlagKey,
    caller: &Caller,
) -> Result<Response, Problem> {
    let totals = control.totals();
    let (now, answers) = (control.flags(), totals.flags.get(key));
    let overrides = overrides(known, Some(key), caller)
        .remove(key)
        .unwrap_or_default();
    let Some(shown) = Shown::of(known, &now, answers, overrides, key) else {
        return Err(unknown(known, key));
    };
    let mut response = fresh(&shown);
    if let Ok(etag) = HeaderValue::try_from(format!("\"{}\"", shown.revision)) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    Ok(response)
}

fn unknown(known: &Known, key: &FlagKey) -> Problem {
    let keys: Vec<_> = known.flags.definitions.keys().collect();
    let near: Vec<_> = keys
        .iter()
        .filter(|known| {
            known.as_str().contains(key.as_str()) || key.as_str().contains(known.as_str())
        })
        .map(ToString::to_string)
        .collect();
    let help = match (keys.len(), near.as_slice()) {
        (0, _) => format!("create it: `serin flag create {key}`"),
        (_, []) => "`serin flag list` shows those that there are".to_owned(),
        _ => format!("perhaps {}", near.join(" or ")),
    };
    Problem::not_found(format!("there is no flag `{key}`")).help(help)
}

/// What a change has done.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FlagDone)]
struct Done {
    /// What happened, in words; nothing when things were so already.
    done: Vec<String>,
    /// The place of the last event in the log: the flag's revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<u64>,
}

impl Done {
    fn of(events: &[Recorded]) -> Self {
        Self {
            done: events
                .iter()
                .map(|event| event_in_words(&event.event))
                .collect(),
            position: events.last().map(|event| event.position),
        }
    }
}

/// Creates a flag.
#[utoipa::path(
    post, path = "/admin/v1/flags/{name}", tag = "flags", request_body = Change,
    params(("name" = String, Path, description = "The flag")),
    responses(
        (status = CREATED, description = "It is in force", body = Done),
        (status = CONFLICT, description = "There is one already", body = Problem, content_type = "application/problem+json"),
        (status = UNPROCESSABLE_ENTITY, description = "It makes no sense", body = Problem, content_type = "application/problem+json"),
        (status = TOO_MANY_REQUESTS, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn post(
    State(app): State<App>,
    Named(key): Named<FlagKey>,
    By(actor): By,
    Allowed(Input(change)): Allowed<Input<Change>>,
) -> Result<Response, Problem> {
    let flag = change.definition(&key)?;
    let done = set(
        &app.control,
        actor,
        key,
        Some(flag),
        Expects::New,
        change.reason,
    )
    .await?;
    Ok((StatusCode::CREATED, fresh(&done)).into_response())
}

/// Sets a flag's definition; creates it if there is none.
#[utoipa::path(
    put, path = "/admin/v1/flags/{name}", tag = "flags", request_body = Change,
    params(("name" = String, Path, description = "The flag"), ("If-Match" = Option<String>, Header, description = "The revision that was seen")),
    responses(
        (status = OK, description = "It is in force", body = Done),
        (status = CONFLICT, description = "It was changed meanwhile", body = Problem, content_type = "application/problem+json"),
        (status = UNPROCESSABLE_ENTITY, description = "It makes no sense", body = Problem, content_type = "application/problem+json"),
        (status = TOO_MANY_REQUESTS, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn put(
    State(app): State<App>,
    Named(key): Named<FlagKey>,
    By(actor): By,
    headers: HeaderMap,
    Allowed(Input(change)): Allowed<Input<Change>>,
) -> Result<Response, Problem> {
    let expects = expects(&headers, change.revision, Expects::Anything)?;
    let flag = change.definition(&key)?;
    let done = set(&app.control, actor, key, Some(flag), expects, change.reason).await?;
    Ok(fresh(&done))
}

/// Changes what the body names, in the compact form.
#[utoipa::path(
    patch, path = "/admin/v1/flags/{name}", tag = "flags", request_body = Patch,
    params(("name" = String, Path, description = "The flag"), ("If-Match" = Option<String>, Header, description = "The revision that was seen")),
    responses(
        (status = OK, description = "It is in force", body = Done),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json"),
        (status = CONFLICT, description = "It was changed meanwhile", body = Problem, content_type = "application/problem+json"),
        (status = UNPROCESSABLE_ENTITY, description = "It makes no sense", body = Problem, content_type = "application/problem+json"),
        (status = TOO_MANY_REQUESTS, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn patch(
    State(app): State<App>,
    Named(key): Named<FlagKey>,
    By(actor): By,
    headers: HeaderMap,
    Allowed(Input(patch)): Allowed<Input<Patch>>,
) -> Result<Response, Problem> {
    let wanted = expects(&headers, patch.revision, Expects::Known)?;
    let reason = patch.reason.clone();
    let done = patched(&app.control, actor, &key, &patch, wanted, reason).await?;
    Ok(fresh(&done))
}

/// Tries again while others change the flag at the same time: what they set is kept.
async fn patched(
    control: &Control,
    actor: Actor,
    key: &FlagKey,
    patch: &Patch,
    wanted: Expects,
    reason: String,
) -> Result<Done, Problem> {
    /// More would mean that somebody changes it without end.
    const TRIES: u32 = 8;
    let mut tried = 0;
    loop {
        let known = control.state().await?;
        let Some(before) = known.flags.definitions.get(key) else {
            return Err(unknown(&known, key));
        };
        let after = patch.apply(key, before)?;
        let seen = Expects::Revision(revision(known.flags.histories.get(key)));
        let expects = match wanted {
            Expects::Revision(_) => wanted,
            _ => seen,
        };
        let outcome = set(
            control,
            actor.clone(),
            key.clone(),
            Some(after),
            expects,
            reason.clone(),
        );
        match outcome.await {
            Err(problem)
                if expects == seen && wanted != seen && is_conflict(&problem) && tried < TRIES =>
            {
                // Only where it was changed meanwhile: any other conflict would come again.
                let again = control.state().await?;
                if revision(again.flags.histories.get(key))
                    == revision(known.flags.histories.get(key))
                {
                    return Err(problem);
                }
                tried += 1;
            }
            outcome => return outcome,
        }
    }
}

fn is_conflict(problem: &Problem) -> bool {
    problem.status == StatusCode::CONFLICT.as_u16()
}

/// Why something is done, and to what.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Why {
    /// Why.
    #[serde(default)]
    reason: String,
    /// The revision that was seen; `If-Match` does the same.
    #[serde(default)]
    revision: Option<u64>,
}

/// Deletes a flag: it is off for everybody from then on.
#[utoipa::path(
    delete, path = "/admin/v1/flags/{name}", tag = "flags", request_body = Why,
    params(("name" = String, Path, description = "The flag"), ("If-Match" = Option<String>, Header, description = "The revision that was seen")),
    responses(
        (status = OK, description = "It is gone", body = Done),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json"),
        (status = CONFLICT, description = "It was changed meanwhile", body = Problem, content_type = "application/problem+json"),
        (status = TOO_MANY_REQUESTS, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn delete(
    State(app): State<App>,
    Named(key): Named<FlagKey>,
    By(actor): By,
    headers: HeaderMap,
    Allowed(Input(why)): Allowed<Input<Why>>,
) -> Result<Response, Problem> {
    let expects = expects(&headers, why.revision, Expects::Known)?;
    let done = set(&app.control, actor, key, None, expects, why.reason).await?;
    Ok(fresh(&done))
}

async fn set(
    control: &Control,
    actor: Actor,
    flag: FlagKey,
    definition: Option<Flag>,
    expects: Expects,
    reason: String,
) -> Result<Done, Problem> {
    let wish = SetFlag {
        flag,
        definition: definition.map(Box::new),
        expects,
        reason,
    };
    let events = control
        .command(actor, Command::SetFlag(Box::new(wish)))
        .await?;
    Ok(Done::of(&events))
}

/// What the caller has seen: `If-Match` or a field, which must agree; else what the verb takes for granted.
fn expects(
    headers: &HeaderMap,
    field: Option<u64>,
    otherwise: Expects,
) -> Result<Expects, Problem> {
    let header = match headers.get(header::IF_MATCH) {
        None => None,
        Some(value) if value.as_bytes() == b"*" => {
            return Ok(field.map_or(Expects::Known, Expects::Revision));
        }
        Some(value) => {
            let text = value.to_str().unwrap_or_default();
            let bare = text.trim().trim_start_matches("W/").trim_matches('"');
            let Ok(revision) = bare.parse() else {
                return Err(Problem::bad_request("`If-Match` is no revision")
                    .help("send the `ETag` of `GET /admin/v1/flags/KEY`, such as `\"12\"`"));
            };
            Some(revision)
        }
    };
    match (header, field) {
        (Some(header), Some(field)) if header != field => Err(Problem::bad_request(format!(
            "`If-Match` says revision {header}, the body says {field}"
        ))
        .help("send one of them")),
        (Some(revision), _) | (None, Some(revision)) => Ok(Expects::Revision(revision)),
        (None, None) => Ok(otherwise),
    }
}

/// The variant that a tenant is to have.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct OverrideBody {
    /// Its name; for a boolean flag `true` and `false` do too.
    #[schema(value_type = String)]
    variant: Value,
    /// Why.
    #[serde(default)]
    reason: String,
}

/// Gives a tenant a variant of its own.
#[utoipa::path(
    put, path = "/admin/v1/flags/{name}/overrides/{tenant}", tag = "flags", request_body = OverrideBody,
    params(("name" = String, Path, description = "The flag"), ("tenant" = String, Path, description = "The tenant")),
    responses(
        (status = OK, description = "It is in force", body = Done),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json"),
        (status = UNPROCESSABLE_ENTITY, description = "No such variant", body = Problem, content_type = "application/problem+json"),
        (status = TOO_MANY_REQUESTS, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn set_override(
    State(app): State<App>,
    Named(key): Named<FlagKey>,
    Tenant(tenant): Tenant,
    caller: Caller,
    By(actor): By,
    Allowed(Input(body)): Allowed<Input<OverrideBody>>,
) -> Result<Response, Problem> {
    caller.check_tenant(&tenant)?;
    let variant = match body.variant {
        Value::String(variant) => variant.into(),
        value => {
            let known = app.control.state().await?;
            let Some(flag) = known.flags.definitions.get(&key) else {
                return Err(unknown(&known, &key));
            };
            variant_of(&key, flag, &value)?
        }
    };
    give(&app.control, actor, key, tenant, Some(variant), body.reason).await
}

/// Takes a tenant's own variant away: it gets what everybody gets.
#[utoipa::path(
    delete, path = "/admin/v1/flags/{name}/overrides/{tenant}", tag = "flags", request_body = Why,
    params(("name" = String, Path, description = "The flag"), ("tenant" = String, Path, description = "The tenant")),
    responses(
        (status = OK, description = "It is in force", body = Done),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json"),
        (status = TOO_MANY_REQUESTS, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn clear_override(
    State(app): State<App>,
    Named(key): Named<FlagKey>,
    Tenant(tenant): Tenant,
    caller: Caller,
    By(actor): By,
    Allowed(Input(why)): Allowed<Input<Why>>,
) -> Result<Response, Problem> {
    caller.check_tenant(&tenant)?;
    give(&app.control, actor, key, tenant, None, why.reason).await
}

async fn give(
    control: &Control,
    actor: Actor,
    flag: FlagKey,
    tenant: TenantId,
    variant: Option<Arc<str>>,
    reason: String,
) -> Result<Response, Problem> {
    let wish = SetOverride {
        tenant,
        flag,
        variant,
        reason,
    };
    let events = control
        .command(actor, Command::SetOverride(Box::new(wish)))
        .await?;
    Ok(fresh(&Done::of(&events)))
}

/// The variant that has a value.
fn variant_of(key: &FlagKey, flag: &Flag, value: &Value) -> Result<Arc<str>, Problem> {
    let found = flag.variants.iter().find(|(_, of)| *of == value);
    found.map(|(variant, _)| variant.clone()).ok_or_else(|| {
        let names: Vec<_> = flag.variants.keys().map(AsRef::as_ref).collect();
        Problem::from(serin_control::ControlError::Refused(Refusal {
            kind: RefusalKind::Invalid,
            what: format!(
                "flag `{key}` has no variant with the value {}",
                brief(value)
            ),
            help: format!("the variants are: {}", names.join(", ")),
        }))
    })
}

/// As much of a value as a message carries.
fn brief(value: &Value) -> String {
    const CHARS_MAX: usize = 80;
    value.to_string().chars().take(CHARS_MAX).collect()
}

/// The tenant in the path.
struct Tenant(TenantId);

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for Tenant {
    type Rejection = Problem;
    async fn from_request_parts(
        parts: &mut http::request::Parts,
        state: &S,
    ) -> Result<Self, Problem> {
        let text = crate::extract::path_parameter(parts, state, "tenant").await?;
        text.parse()
            .map(Self)
            .map_err(|error: serin_flags::key::KeyError| Problem::bad_request(error.to_string()))
    }
}

/// For whom a flag is evaluated.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct For {
    /// As `OpenFeature` has it: `targetingKey`, `tenant`, `environment`, and any attribute.
    #[serde(default)]
    #[schema(value_type = Object)]
    context: Map<String, Value>,
}

/// What a flag answers, and why.
#[derive(Debug, Serialize, ToSchema)]
struct Explained {
    #[schema(value_type = String)]
    key: FlagKey,
    variant: String,
    #[schema(value_type = Object)]
    value: Value,
    /// As `OpenFeature` names it.
    reason: &'static str,
    /// The step of the order of evaluation that decided: `latch`, `kill`, `expired`, `tenant_override`, `environment_override`,
    /// `rollout`, `release`, `state`, `schedule`, `targeting`, `default`.
    why: &'static str,
    /// What is wrong with the flag's rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    error: Option<serin_flags::ErrorCode>,
}

/// What a flag answers somebody, and which step decided. It is not counted.
#[utoipa::path(
    post, path = "/admin/v1/flags/{name}/evaluate", tag = "flags", request_body = For,
    params(("name" = String, Path, description = "The flag")),
    responses((status = OK, body = Explained), (status = NOT_FOUND, body = Problem, content_type = "application/problem+json")),
)]
async fn evaluate(
    State(app): State<App>,
    Named(key): Named<FlagKey>,
    caller: Caller,
    Input(who): Input<For>,
) -> Result<Response, Problem> {
    let asker = Asker::new(who.context, Timestamp::now())
        .map_err(|failure| Problem::bad_request(failure.error_details))?;
    if let Some(tenant) = asker.tenant()
        && caller.only().is_some_and(|only| only.as_str() != tenant)
    {
        return Err(forbidden("what another tenant gets is not for this key")
            .help("name the tenant of the key, or take a key of role admin"));
    }
    let now = app.control.flags();
    let Some(evaluation) = ofrep::evaluate(&now, key.as_str(), &asker) else {
        let known = app.control.state().await?;
        return Err(unknown(&known, &key));
    };
    Ok(fresh(&Explained {
        variant: evaluation.variant.to_owned(),
        value: evaluation.value.clone(),
        reason: evaluation.reason.label(),
        why: ofrep::why(evaluation.why),
        error: evaluation.error,
        key,
    }))
}
