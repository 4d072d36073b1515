//! Tenants: make them, look at them, change, suspend and delete them.

use super::{fresh, pages::Page, rollout::Done};
use crate::{
    App,
    access::Caller,
    extract::{Asked, By, Input, Named},
    problem::Problem,
};
use axum::{
    extract::State,
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serin_flags::TenantId;
use serin_model::{
    decide::{Command, SetTenant},
    event::Actor,
    state::State as Known,
};
use serin_tenancy::{Tenant, TenantState, TierName};
use std::collections::BTreeMap;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, set, delete))
        .routes(routes!(suspend))
        .routes(routes!(resume))
}

/// A tenant.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tenant)]
struct Shown {
    #[schema(value_type = String)]
    tenant: TenantId,
    #[serde(skip_serializing_if = "String::is_empty")]
    title: String,
    /// What it has bought.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    tier: Option<TierName>,
    /// `active` or `suspended`.
    #[schema(value_type = String)]
    state: TenantState,
    #[schema(value_type = String)]
    created_at: Timestamp,
    /// How many keys it has that are neither revoked nor expired.
    keys: usize,
}

impl Shown {
    fn of(id: &TenantId, tenant: &Tenant, keys: usize) -> Self {
        Self {
            tenant: id.clone(),
            title: tenant.title.clone(),
            tier: tenant.tier.clone(),
            state: tenant.state,
            created_at: tenant.created_at,
            keys,
        }
    }
}

/// How many keys in force each tenant has.
fn keys(known: &Known) -> BTreeMap<&TenantId, usize> {
    let now = Timestamp::now();
    let mut counts = BTreeMap::new();
    for key in known.tenancy.keys.values() {
        if key.is_in_force(now) {
            *counts.entry(&key.tenant).or_default() += 1;
        }
    }
    counts
}

/// Which tenants.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Those that are `active` or `suspended`.
    #[param(value_type = Option<String>)]
    state: Option<TenantState>,
    /// Those after this id.
    #[param(value_type = Option<String>)]
    after: Option<TenantId>,
    /// So many at most, up to 10,000; 1000 unless given.
    limit: Option<usize>,
}

/// Tenants in the order of their ids.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tenants)]
struct List {
    tenants: Vec<Shown>,
    /// The id to ask after for more; none when these were the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    next: Option<TenantId>,
}

/// The tenants. Keys that are no operator's see their own.
#[utoipa::path(get, path = "/admin/v1/tenants", tag = "tenants", params(Which), responses((status = OK, body = List)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Asked(which): Asked<Which>,
) -> Result<Response, Problem> {
    let known = app.control.state().await?;
    let counts = keys(&known);
    let wanted = known.tenancy.tenants.iter().filter(|(id, tenant)| {
        caller.sees(id)
            && which.after.as_ref().is_none_or(|after| *id > after)
            && which.state.is_none_or(|state| tenant.state == state)
    });
    let page = Page::of(wanted, which.limit);
    let last = page.items.last().map(|(id, _)| (*id).clone());
    Ok(fresh(&List {
        next: last.filter(|_| page.more),
        tenants: page
            .items
            .into_iter()
            .map(|(id, tenant)| Shown::of(id, tenant, counts.get(id).copied().unwrap_or(0)))
            .collect(),
    }))
}

/// A tenant.
#[utoipa::path(
    get, path = "/admin/v1/tenants/{name}", tag = "tenants",
    params(("name" = String, Path, description = "Its id")),
    responses((status = OK, body = Shown), (status = NOT_FOUND, body = Problem, content_type = "application/problem+json")),
)]
async fn show(
    State(app): State<App>,
    Named(id): Named<TenantId>,
    caller: Caller,
) -> Result<Response, Problem> {
    let known = app.control.state().await?;
    let tenant = known.tenancy.tenants.get(&id);
    let tenant = tenant
        .filter(|_| caller.sees(&id))
        .ok_or_else(|| unknown(&id))?;
    let count = keys(&known).get(&id).copied().unwrap_or(0);
    Ok(fresh(&Shown::of(&id, tenant, count)))
}

/// As if it were not there: whoever may not see a tenant is not told whether it exists.
pub(super) fn unknown(id: &TenantId) -> Problem {
    Problem::not_found(format!("there is no tenant `{id}`")).help(format!(
        "create it with `serin tenant create {id}`; `serin tenant list` shows those that there are"
    ))
}

/// The wish for a tenant.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = CreateTenantBody)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    /// Its id: letters, digits and `.`, `_`, `-`, `@`, `:`, `+`.
    #[schema(value_type = String, example = "acme")]
    tenant: TenantId,
    /// What it is called, for people.
    #[serde(default)]
    title: Option<String>,
    /// What it has bought: a tier of a manifest.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    tier: Option<TierName>,
    /// Why.
    #[serde(default)]
    reason: String,
}

/// Creates a tenant.
#[utoipa::path(
    post, path = "/admin/v1/tenants", tag = "tenants", request_body = CreateBody,
    responses(
        (status = CREATED, body = Done),
        (status = NOT_FOUND, description = "No such tier", body = Problem, content_type = "application/problem+json"),
        (status = CONFLICT, description = "There is one already", body = Problem, content_type = "application/problem+json"),
        (status = FORBIDDEN, description = "The caller is no operator", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn create(
    State(app): State<App>,
    caller: Caller,
    By(actor): By,
    Input(body): Input<CreateBody>,
) -> Result<Response, Problem> {
    let wish = SetTenant {
        tenant: body.tenant,
        is_new: true,
        title: body.title,
        tier: body.tier.map(Some),
        state: None,
        reason: body.reason,
    };
    let done = put(&app, &caller, actor, wish).await?;
    Ok((StatusCode::CREATED, fresh(&done)).into_response())
}

/// What of a tenant is to be otherwise.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = SetTenantBody)]
#[serde(deny_unknown_fields)]
struct SetBody {
    /// What it is called, for people.
    #[serde(default)]
    title: Option<String>,
    /// What it has bought: a tier of a manifest, or `null` for none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    #[expect(clippy::option_option, reason = "null is not the same as nothing")]
    tier: Option<Option<TierName>>,
    /// Why.
    #[serde(default)]
    reason: String,
}

/// Tells what is `null` from what is not there.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// Changes what the body names.
#[utoipa::path(
    patch, path = "/admin/v1/tenants/{name}", tag = "tenants", request_body = SetBody,
    params(("name" = String, Path, description = "Its id")),
    responses(
        (status = OK, body = Done),
        (status = NOT_FOUND, description = "No such tenant or tier", body = Problem, content_type = "application/problem+json"),
        (status = FORBIDDEN, description = "The caller is no operator", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn set(
    State(app): State<App>,
    Named(tenant): Named<TenantId>,
    caller: Caller,
    By(actor): By,
    Input(body): Input<SetBody>,
) -> Result<Response, Problem> {
    let wish = SetTenant {
        tenant,
        is_new: false,
        title: body.title,
        tier: body.tier,
        state: None,
        reason: body.reason,
    };
    Ok(fresh(&put(&app, &caller, actor, wish).await?))
}

async fn put(app: &App, caller: &Caller, actor: Actor, wish: SetTenant) -> Result<Done, Problem> {
    caller.check_operator("making and changing tenants")?;
    let command = Command::SetTenant(Box::new(wish));
    let events = app.control.command(actor, command).await?;
    Ok(Done::of(&events))
}

/// Why.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = WhyTenantBody)]
#[serde(deny_unknown_fields)]
struct WhyBody {
    /// Why.
    #[serde(default)]
    reason: String,
}

/// Suspends a tenant: none of its keys opens anything until it is resumed.
#[utoipa::path(
    post, path = "/admin/v1/tenants/{name}/suspend", tag = "tenants", request_body = WhyBody,
    params(("name" = String, Path, description = "Its id")),
    responses(
        (status = OK, body = Done),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json"),
        (status = FORBIDDEN, description = "The caller is no operator", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn suspend(
    State(app): State<App>,
    Named(tenant): Named<TenantId>,
    caller: Caller,
    By(actor): By,
    Input(why): Input<WhyBody>,
) -> Result<Response, Problem> {
    let wish = turned(tenant, TenantState::Suspended, why.reason);
    Ok(fresh(&put(&app, &caller, actor, wish).await?))
}

/// Resumes a tenant: its keys open again what they did.
#[utoipa::path(
    post, path = "/admin/v1/tenants/{name}/resume", tag = "tenants", request_body = WhyBody,
    params(("name" = String, Path, description = "Its id")),
    responses(
        (status = OK, body = Done),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json"),
        (status = FORBIDDEN, description = "The caller is no operator", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn resume(
    State(app): State<App>,
    Named(tenant): Named<TenantId>,
    caller: Caller,
    By(actor): By,
    Input(why): Input<WhyBody>,
) -> Result<Response, Problem> {
    let wish = turned(tenant, TenantState::Active, why.reason);
    Ok(fresh(&put(&app, &caller, actor, wish).await?))
}

fn turned(tenant: TenantId, state: TenantState, reason: String) -> SetTenant {
    SetTenant {
        tenant,
        is_new: false,
        title: None,
        tier: None,
        state: Some(state),
        reason,
    }
}

/// Deletes a tenant whose keys are all over, and these with it.
#[utoipa::path(
    delete, path = "/admin/v1/tenants/{name}", tag = "tenants", request_body = WhyBody,
    params(("name" = String, Path, description = "Its id")),
    responses(
        (status = OK, description = "It is gone", body = Done),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json"),
        (status = CONFLICT, description = "It has keys in force", body = Problem, content_type = "application/problem+json"),
        (status = FORBIDDEN, description = "The caller is no operator", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn delete(
    State(app): State<App>,
    Named(tenant): Named<TenantId>,
    caller: Caller,
    By(actor): By,
    Input(why): Input<WhyBody>,
) -> Result<Response, Problem> {
    caller.check_operator("deleting tenants")?;
    let command = Command::RemoveTenant {
        tenant,
        reason: why.reason,
    };
    let events = app.control.command(actor, command).await?;
    Ok(fresh(&Done::of(&events)))
}
