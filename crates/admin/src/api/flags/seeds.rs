//! The routes of the guides that Serin takes the place of: one object of booleans (`/admin/feature-flags`), and flags in the compact
//! form (`/admin/feature_flags`). Behind them are the same commands.

use super::{Allowed, Done, change, change::Patch, exchange, patched, set, variant_of};
use crate::{
    App,
    access::Caller,
    api::fresh,
    extract::{Asked, By, Input, Named},
    ofrep::{self, Asker},
    problem::Problem,
};
use axum::{extract::State, response::Response};
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use serin_control::flags::FlagsNow;
use serin_flags::{
    Compact, Environment, Flag, FlagKey, Kill, Target, TenantId,
    flag::{Metadata, State as FlagState},
    kill::{Cause, Priority, Wish},
};
use serin_model::{
    decide::{Command, Expects, SetFlag, SetOverride},
    name::ServiceName,
    rollout::Rollout,
    share::Share,
    state::State as Known,
};
use serin_tenancy::AdminAction;
use std::{collections::BTreeMap, sync::Arc};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

/// The field that stands for the share of the rollout under way.
const CANARY: &str = "canary_percentage";
/// The field that names the flags that were not there before.
const CREATED: &str = "created";
/// Why, where a body cannot say it.
const REASON: &str = "through /admin/feature-flags";
/// Most fields of the object.
const FIELDS_MAX: usize = serin_flags::table::FLAGS_MAX + 1;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(object, set_object))
        .routes(routes!(compact))
        .routes(routes!(set_compact))
        .routes(routes!(disable_all))
}

/// Whose flags.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Whose {
    /// Of this tenant; its own variants go before everybody's, flag by flag.
    #[param(value_type = Option<String>)]
    tenant: Option<TenantId>,
}

impl Whose {
    fn check(&self, caller: &Caller) -> Result<(), Problem> {
        self.tenant
            .as_ref()
            .map_or(Ok(()), |tenant| caller.check_tenant(tenant))
    }
}

/// The boolean flags with their values now, and the share of the rollout under way as `canary_percentage`.
#[utoipa::path(
    get, path = "/admin/feature-flags", tag = "guides", params(Whose),
    responses((status = OK, description = "`{\"rest_api_enabled\": true, ..., \"canary_percentage\": 5}`", body = Object)),
)]
async fn object(
    State(app): State<App>,
    caller: Caller,
    Asked(whose): Asked<Whose>,
) -> Result<Response, Problem> {
    whose.check(&caller)?;
    let known = app.control.state().await?;
    Ok(fresh(&values(
        &app.control.flags(),
        &known,
        whose.tenant.as_ref(),
    )?))
}

fn values(
    now: &FlagsNow,
    known: &Known,
    tenant: Option<&TenantId>,
) -> Result<Map<String, Value>, Problem> {
    let mut context = Map::new();
    if let Some(tenant) = tenant {
        context.insert("tenant".to_owned(), json!(tenant));
        context.insert("targetingKey".to_owned(), json!(tenant));
    }
    let asker = Asker::new(context, Timestamp::now())
        .map_err(|failure| Problem::bad_request(failure.error_details))?;
    let mut object = Map::new();
    for key in now.table().keys() {
        if let Some(evaluation) = ofrep::evaluate(now, key.as_str(), &asker)
            && evaluation.value.is_boolean()
        {
            object.insert(key.to_string(), evaluation.value.clone());
        }
    }
    let share = match under_way(known).as_slice() {
        [one] => one.share.percent(),
        _ => 0.0,
    };
    object.insert(CANARY.to_owned(), json!(share));
    Ok(object)
}

fn under_way(known: &Known) -> Vec<&Rollout> {
    let rollouts = known.rollouts.iter();
    rollouts
        .filter(|rollout| !rollout.status.is_terminal())
        .collect()
}

/// Sets the flags that the body names, for everybody or for a tenant, all of them or none. `true` enables a flag, `false` disables it;
/// one that is not there is created, which the answer says in `created`. `canary_percentage` sets the share of the one rollout under
/// way. The body is read as JSON whatever its content type says.
#[utoipa::path(
    post, path = "/admin/feature-flags", tag = "guides", params(Whose),
    request_body(content = Object, description = "`{\"rest_api_enabled\": true, \"canary_percentage\": 5}`"),
    responses(
        (status = OK, description = "The object after it", body = Object),
        (status = CONFLICT, description = "No rollout is under way, or several", body = Problem, content_type = "application/problem+json"),
        (status = UNPROCESSABLE_ENTITY, description = "A value that is none of the flag's", body = Problem, content_type = "application/problem+json"),
        (status = TOO_MANY_REQUESTS, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn set_object(
    State(app): State<App>,
    Asked(whose): Asked<Whose>,
    caller: Caller,
    By(actor): By,
    Allowed(Input(body)): Allowed<Input<Map<String, Value>>>,
) -> Result<Response, Problem> {
    whose.check(&caller)?;
    if body.contains_key(CANARY) {
        // Steering a rollout is more than setting flags.
        caller.check(AdminAction::Rollout)?;
    }
    if body.len() > FIELDS_MAX {
        return Err(
            Problem::bad_request(format!("the body has {} fields", body.len()))
                .help(format!("send at most {FIELDS_MAX}")),
        );
    }
    let known = app.control.state().await?;
    let mut commands = Vec::new();
    for (name, value) in &body {
        commands.extend(if name == CANARY {
            vec![share(&known, whose.tenant.as_ref(), value)?]
        } else {
            let key: FlagKey = name.parse().map_err(|error: serin_flags::key::KeyError| {
                Problem::bad_request(error.to_string())
            })?;
            one(&known, whose.tenant.as_ref(), key, value)?
        });
    }
    let is_new =
        |name: &&String| *name != CANARY && !known.flags.definitions.contains_key(name.as_str());
    let created: Vec<_> = body.keys().filter(is_new).collect();
    app.control.command(actor, Command::All(commands)).await?;
    let known = app.control.state().await?;
    let mut after = values(&app.control.flags(), &known, whose.tenant.as_ref())?;
    // A slip of a hand makes a flag that nobody asks. Beside a flag of that name there is no place to say so.
    if !created.is_empty() && !after.contains_key(CREATED) {
        after.insert(CREATED.to_owned(), json!(created));
    }
    Ok(fresh(&after))
}

/// What sets the share of the one rollout under way.
fn share(known: &Known, tenant: Option<&TenantId>, value: &Value) -> Result<Command, Problem> {
    if tenant.is_some() {
        return Err(
            Problem::bad_request("the share of a rollout is the same for all tenants")
                .help("send `canary_percentage` without `?tenant=`"),
        );
    }
    let share = value
        .as_f64()
        .and_then(|percent| Share::from_percent(percent).ok());
    let Some(share) = share else {
        return Err(Problem::bad_request("`canary_percentage` is no percentage")
            .help("send a number from 0 to 100, such as 5"));
    };
    let service: ServiceName = match under_way(known).as_slice() {
        [one] => one.service.clone(),
        [] => {
            return Err(Problem::new(
                StatusCode::CONFLICT,
                "conflict",
                "no rollout is under way whose share could be set",
            )
            .help("begin one with `serin rollout start SERVICE --to VERSION`; its share is then set by `canary_percentage` too"));
        }
        many => {
            let services: Vec<_> = many.iter().map(|one| one.service.as_str()).collect();
            return Err(Problem::new(
                StatusCode::CONFLICT,
                "conflict",
                format!("rollouts are under way on {}", services.join(" and ")),
            )
            .help("say which one: `serin rollout share SERVICE PERCENT --reason \"...\"`"));
        }
    };
    Ok(Command::SetShare {
        service,
        share,
        reason: REASON.to_owned(),
    })
}

/// What sets one flag, for everybody or for a tenant.
fn one(
    known: &Known,
    tenant: Option<&TenantId>,
    key: FlagKey,
    value: &Value,
) -> Result<Vec<Command>, Problem> {
    let before = known.flags.definitions.get(&key);
    let Some(on) = value.as_bool() else {
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
            format!("`{key}` is neither true nor false"),
        )
        .help(format!(
            "flags that are not boolean are set with `serin flag set {key}`"
        )));
    };
    let mut commands = Vec::new();
    let set = |flag: Flag| {
        Command::SetFlag(Box::new(SetFlag {
            flag: key.clone(),
            definition: Some(Box::new(flag)),
            expects: before.map_or(Expects::New, |_| Expects::Known),
            reason: REASON.to_owned(),
        }))
    };
    if let Some(tenant) = tenant {
        let flag = if let Some(flag) = before {
            flag.as_ref().clone()
        } else {
            let flag = switched(&key, false)?;
            commands.push(set(flag.clone()));
            flag
        };
        commands.push(Command::SetOverride(Box::new(SetOverride {
            tenant: tenant.clone(),
            variant: Some(variant_of(&key, &flag, value)?),
            flag: key,
            reason: REASON.to_owned(),
        })));
        return Ok(commands);
    }
    let flag = match before {
        None => switched(&key, on)?,
        Some(before) => {
            let on_variant = variant_of(&key, before, &Value::Bool(true))?;
            let mut flag = before.as_ref().clone();
            flag.state = if on {
                FlagState::Enabled
            } else {
                FlagState::Disabled
            };
            // Without a rule, enabled means on; a rule says itself for whom.
            if on && flag.targeting.is_none() && flag.serin.schedule.is_empty() {
                flag.default_variant = on_variant;
            }
            flag
        }
    };
    commands.push(set(flag));
    Ok(commands)
}

/// A new boolean flag.
pub(super) fn switched(key: &FlagKey, on: bool) -> Result<Flag, Problem> {
    let state = if on { "ENABLED" } else { "DISABLED" };
    exchange::one(
        key,
        &json!({ "state": state, "variants": { "on": true, "off": false }, "defaultVariant": "on", "serin": { "offVariant": "off" } }),
    )
}

/// A flag as far as the compact form can say it.
#[derive(Debug, Serialize)]
struct Partly {
    enabled: bool,
    /// None where a rule or a schedule says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    rollout_percentage: Option<f64>,
    environments: Vec<Environment>,
    metadata: BTreeMap<Arc<str>, Metadata>,
}

/// A flag in the compact form.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Brief {
    Whole(Compact),
    Partly(Partly),
}

impl Brief {
    fn of(flag: &Flag) -> Self {
        if let Some(compact) = Compact::of(flag) {
            return Self::Whole(compact);
        }
        Self::Partly(Partly {
            enabled: flag.state == FlagState::Enabled,
            rollout_percentage: change::percentage(flag),
            environments: change::environments(flag),
            metadata: flag.metadata.clone(),
        })
    }
}

/// The flags in the compact form.
#[utoipa::path(
    get, path = "/admin/feature_flags", tag = "guides",
    responses((status = OK, description = "`{\"mcp_sampling\": {\"enabled\": true, \"rollout_percentage\": 100, ...}}`", body = Object)),
)]
async fn compact(State(app): State<App>) -> Result<Response, Problem> {
    let known = app.control.state().await?;
    let flags = known.flags.definitions.iter();
    let all: BTreeMap<_, _> = flags.map(|(key, flag)| (key, Brief::of(flag))).collect();
    Ok(fresh(&all))
}

/// Changes a flag in the compact form; one that is not there is created, disabled unless the body enables it. The body is read as JSON
/// whatever its content type says.
#[utoipa::path(
    put, path = "/admin/feature_flags/{name}", tag = "guides", request_body = Patch,
    params(("name" = String, Path, description = "The flag")),
    responses(
        (status = OK, description = "It is in force", body = Done),
        (status = UNPROCESSABLE_ENTITY, description = "It makes no sense", body = Problem, content_type = "application/problem+json"),
        (status = TOO_MANY_REQUESTS, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn set_compact(
    State(app): State<App>,
    Named(key): Named<FlagKey>,
    By(actor): By,
    Allowed(Input(patch)): Allowed<Input<Patch>>,
) -> Result<Response, Problem> {
    let known = app.control.state().await?;
    let expects = patch.revision.map_or(Expects::Known, Expects::Revision);
    let reason = patch.reason.clone();
    if known.flags.definitions.contains_key(&key) {
        return Ok(fresh(
            &patched(&app.control, actor, &key, &patch, expects, reason).await?,
        ));
    }
    let flag = patch.apply(&key, &switched(&key, false)?)?;
    let done = set(&app.control, actor, key, Some(flag), Expects::New, reason).await?;
    Ok(fresh(&done))
}

/// Why all flags are stopped.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WhyBody {
    /// Why; the guides give none.
    #[serde(default)]
    reason: String,
}

/// Stops all flags at once: each answers its off variant until `serin revive flags`. The definitions stay as they are. It is never held up
/// by the limit on changes, and does not wait for the log.
#[utoipa::path(
    post, path = "/admin/feature_flags/disable_all", tag = "guides", request_body = WhyBody,
    responses((status = OK, description = "It is in force, and on the disk", body = Object)),
)]
async fn disable_all(
    State(app): State<App>,
    By(actor): By,
    Input(why): Input<WhyBody>,
) -> Result<Response, Problem> {
    let reason = if why.reason.trim().is_empty() {
        "disable_all, without a reason".to_owned()
    } else {
        why.reason
    };
    let wish = Wish {
        target: Target::Flags,
        actor: actor.as_str().to_owned(),
        reason,
        cause: Cause::Manual,
        priority: Priority::Critical,
        grace_seconds: 0,
    };
    let kill: Option<Kill> = app.control.kill(wish).await?;
    Ok(fresh(&kill))
}
