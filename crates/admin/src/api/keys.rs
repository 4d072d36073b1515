//! API keys: make them, look at them, replace them, end them.
//!
//! A key stands in full in one answer only, the one to the request that made it. Nobody makes a key that can do more than they.

use super::{fresh, pages::Page, rollout::Done};
use crate::{
    App,
    access::{Caller, forbidden},
    extract::{Asked, By, Input, Named},
    problem::Problem,
};
use axum::{
    extract::State,
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use jiff::{SignedDuration, Span, Timestamp, civil::Date, tz::TimeZone};
use serde::{Deserialize, Serialize};
use serin_flags::TenantId;
use serin_model::{decide::Command, event::Actor, snapshot::Snapshot, state::State as Known};
use serin_tenancy::{
    AdminAction, KeyId, KeyRecord, Role, Scope, Scopes, SecretKey, TenantState, TierName,
    key::{PREFIX, RANDOM_BYTES},
};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

/// How long a key lives unless said: a year, so that each is looked at now and then.
const LIFE_DEFAULT: SignedDuration = SignedDuration::from_hours(365 * 24);
/// For how long a key that is replaced still opens unless said: time to bring the other to everything that uses it.
const OVERLAP_DEFAULT: SignedDuration = SignedDuration::from_hours(24);
/// Longest text of a time, in bytes.
const TIME_BYTES_MAX: usize = 64;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show))
        .routes(routes!(rotate))
        .routes(routes!(revoke))
}

/// Whether a key opens anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum KeyState {
    /// It does.
    Active,
    /// It does until the overlap is over: another takes its place.
    Rotated,
    /// Its tenant is suspended.
    Suspended,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

impl KeyState {
    fn of(key: &KeyRecord, known: &Known, now: Timestamp) -> Self {
        let tenant = known.tenancy.tenants.get(&key.tenant);
        if key.revoked_at.is_some() {
            Self::Revoked
        } else if key.expires_at <= now {
            Self::Expired
        } else if tenant.is_none_or(|tenant| tenant.state == TenantState::Suspended) {
            Self::Suspended
        } else if key.replaced_by.is_some() {
            Self::Rotated
        } else {
            Self::Active
        }
    }
}

/// A key, without what opens.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Key)]
struct Shown {
    #[schema(value_type = String)]
    id: KeyId,
    /// How it begins: enough to find it in a configuration, and of no use to anybody.
    begins: String,
    #[schema(value_type = String)]
    tenant: TenantId,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    /// `admin`, `user` or `read_only`.
    #[schema(value_type = String)]
    role: Role,
    /// What it reaches; nothing here: every service, and of the admin API what its role says.
    #[schema(value_type = Vec<String>)]
    scopes: Scopes,
    /// Its own tier, in place of its tenant's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    tier: Option<TierName>,
    state: KeyState,
    #[schema(value_type = String)]
    created_at: Timestamp,
    #[schema(value_type = String)]
    expires_at: Timestamp,
    /// Whether it has a secret for signing requests.
    signs: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    revoked_at: Option<Timestamp>,
    /// The key that takes its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    replaced_by: Option<KeyId>,
    /// When it was last used, to the minute; not known where requests are not recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    last_used_at: Option<Timestamp>,
}

impl Shown {
    fn of(key: &KeyRecord, known: &Known, app: &App, now: Timestamp) -> Self {
        Self {
            id: key.id,
            begins: format!("{PREFIX}{}_", key.id),
            tenant: key.tenant.clone(),
            name: key.name.clone(),
            role: key.role,
            scopes: key.scopes.clone(),
            tier: key.tier.clone(),
            state: KeyState::of(key, known, now),
            created_at: key.created_at,
            expires_at: key.expires_at,
            signs: key.signs,
            revoked_at: key.revoked_at,
            replaced_by: key.replaced_by,
            last_used_at: app.control.last_used(key),
        }
    }
}

/// Which keys.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Those of a tenant.
    #[param(value_type = Option<String>)]
    tenant: Option<TenantId>,
    /// Those that are `active`, `rotated`, `suspended`, `expired` or `revoked`.
    #[param(value_type = Option<String>)]
    state: Option<KeyState>,
    /// Those after this id.
    #[param(value_type = Option<String>)]
    after: Option<KeyId>,
    /// So many at most, up to 10,000; 1000 unless given.
    limit: Option<usize>,
}

/// Keys in the order of their ids.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Keys)]
struct List {
    keys: Vec<Shown>,
    /// The id to ask after for more; none when these were the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    next: Option<KeyId>,
}

/// The keys, without what opens. Keys that are no operator's see those of their own tenant.
#[utoipa::path(get, path = "/admin/v1/keys", tag = "keys", params(Which), responses((status = OK, body = List)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Asked(which): Asked<Which>,
) -> Result<Response, Problem> {
    let known = app.control.state().await?;
    let now = Timestamp::now();
    let wanted = known.tenancy.keys.values().filter(|key| {
        caller.sees(&key.tenant)
            && which.tenant.as_ref().is_none_or(|id| *id == key.tenant)
            && which.after.is_none_or(|after| key.id > after)
            && which
                .state
                .is_none_or(|state| KeyState::of(key, &known, now) == state)
    });
    let page = Page::of(wanted, which.limit);
    Ok(fresh(&List {
        next: page
            .more
            .then(|| page.items.last())
            .flatten()
            .map(|key| key.id),
        keys: page
            .items
            .into_iter()
            .map(|key| Shown::of(key, &known, &app, now))
            .collect(),
    }))
}

/// A key, without what opens.
#[utoipa::path(
    get, path = "/admin/v1/keys/{name}", tag = "keys",
    params(("name" = String, Path, description = "Its id")),
    responses((status = OK, body = Shown), (status = NOT_FOUND, body = Problem, content_type = "application/problem+json")),
)]
async fn show(
    State(app): State<App>,
    Named(id): Named<KeyId>,
    caller: Caller,
) -> Result<Response, Problem> {
    let known = app.control.state().await?;
    let key = find(&known, &caller, id)?;
    Ok(fresh(&Shown::of(key, &known, &app, Timestamp::now())))
}

/// A key of a tenant that is not shown to the caller is one that is not there.
fn find<'a>(known: &'a Known, caller: &Caller, id: KeyId) -> Result<&'a Arc<KeyRecord>, Problem> {
    let key = known.tenancy.keys.get(&id);
    key.filter(|key| caller.sees(&key.tenant)).ok_or_else(|| {
        Problem::not_found(format!("there is no key {id}"))
            .help("`serin key list` shows those that there are")
    })
}

/// The wish for a key.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = CreateKeyBody)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    /// Whose it is to be.
    #[schema(value_type = String, example = "acme")]
    tenant: TenantId,
    /// What it is called, for people.
    #[serde(default)]
    name: String,
    /// `admin`, `user` (unless given) or `read_only`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    role: Option<Role>,
    /// What it reaches: `service:NAME`, `tool:SERVICE/TOOL`, `category:SERVICE/NAME`, `admin:ACTION`; a `*` at the end of a name stands
    /// for anything. None: every service, and of the admin API what its role says.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    scopes: Vec<Scope>,
    /// Its tier, in place of its tenant's.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    tier: Option<TierName>,
    /// Whether it gets a secret for signing requests, which is shown once, too.
    #[serde(default)]
    signing: bool,
    /// When it ends: a time, a date, or how long it lives; `365d` unless given.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "90d")]
    expires: Option<String>,
    /// Why.
    #[serde(default)]
    reason: String,
}

/// A key that was made.
#[derive(Serialize, ToSchema)]
#[schema(as = MadeKey)]
struct Made {
    /// The key in full. It is not kept: nobody can show it again.
    key: String,
    /// The secret by which its requests are signed, if it has one. It is not kept either.
    #[serde(skip_serializing_if = "Option::is_none")]
    signing_secret: Option<String>,
    #[serde(flatten)]
    about: Shown,
    /// The key in whose place it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<Shown>,
    /// What may not be meant so: names that nothing has here, and what it can do without being told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

/// Makes a key and shows it, once.
#[utoipa::path(
    post, path = "/admin/v1/keys", tag = "keys", request_body = CreateBody,
    responses(
        (status = CREATED, description = "It opens from now on", body = Made),
        (status = NOT_FOUND, description = "No such tenant or tier", body = Problem, content_type = "application/problem+json"),
        (status = FORBIDDEN, description = "It could do more than who makes it", body = Problem, content_type = "application/problem+json"),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn create(
    State(app): State<App>,
    caller: Caller,
    By(actor): By,
    Input(body): Input<CreateBody>,
) -> Result<Response, Problem> {
    let now = Timestamp::now();
    if !caller.sees(&body.tenant) {
        return Err(super::tenants::unknown(&body.tenant));
    }
    let expires_at = match &body.expires {
        Some(text) => moment(text, now)?,
        None => now.checked_add(LIFE_DEFAULT).unwrap_or(Timestamp::MAX),
    };
    let (secret, id, hash) = random()?;
    let key = KeyRecord {
        id,
        tenant: body.tenant,
        name: body.name,
        hash,
        role: body.role.unwrap_or(Role::User),
        scopes: Scopes::new(body.scopes),
        tier: body.tier,
        created_at: now,
        expires_at,
        revoked_at: None,
        replaced_by: None,
        signs: body.signing,
    };
    check_within(&caller, &key)?;
    if key.tier.is_some() {
        caller.check_operator("a tier of its own")?;
    }
    let command = Command::IssueKey {
        key: Box::new(key),
        reason: body.reason,
    };
    app.control.command(actor, command).await?;
    made(&app, &secret, id, None).await
}

async fn made(
    app: &App,
    secret: &SecretKey,
    id: KeyId,
    replaces: Option<KeyId>,
) -> Result<Response, Problem> {
    let known = app.control.state().await?;
    let now = Timestamp::now();
    let shown = |id| {
        let key = known.tenancy.keys.get(&id)?;
        Some(Shown::of(key, &known, app, now))
    };
    // Its tenant was deleted in between, and with it the key.
    let about = shown(id).ok_or_else(|| Problem::not_found(format!("key {id} is gone again")))?;
    let signs = (known.tenancy.keys.get(&id)).is_some_and(|key| key.signs);
    let signing = app.control.signing_secret(id).filter(|_| signs);
    let made = Made {
        key: secret.expose().to_owned(),
        signing_secret: signing.map(|secret| secret.expose().to_owned()),
        about,
        replaces: replaces.and_then(shown),
        notes: known
            .tenancy
            .keys
            .get(&id)
            .map(|key| notes(&known, &app.control.flags().snapshot, key))
            .unwrap_or_default(),
    };
    Ok((StatusCode::CREATED, fresh(&made)).into_response())
}

/// What of a key may not be meant so. It is made all the same: tools and categories may come later.
fn notes(known: &Known, snapshot: &Snapshot, key: &KeyRecord) -> Vec<String> {
    let mut notes = Vec::new();
    let tenant = known.tenancy.tenants.get(&key.tenant);
    if tenant.is_some_and(|tenant| tenant.state == TenantState::Suspended) {
        notes.push(format!(
            "tenant `{0}` is suspended: the key opens nothing until `serin tenant resume {0}`",
            key.tenant
        ));
    }
    let is_admin = |scope: &Scope| matches!(scope, Scope::Admin(_));
    if !key.scopes.is_empty() && key.scopes.iter().all(is_admin) {
        notes.push(
            "none of its scopes is for services, so that it reaches every one of them, too; with `service:NAME` among them it reaches that one alone"
                .to_owned(),
        );
    }
    for scope in key.scopes.iter() {
        let is_there = match scope {
            Scope::Tool(service, tool) => {
                let services = snapshot.services.iter();
                let services = services.filter(|known| service.fits(known.name.as_str()));
                let versions = services.flat_map(|known| &known.versions);
                let mut tools = versions.flat_map(|version| version.tools.iter()).peekable();
                // Nobody has listed any yet.
                tools.peek().is_none() || tools.any(|known| tool.fits(known))
            }
            Scope::Category(service, category) => known.services.values().any(|known| {
                service.fits(known.name.as_str())
                    && known.settings.categories.contains_key(&**category)
            }),
            Scope::Service(_) | Scope::Admin(_) => true,
        };
        if !is_there {
            notes.push(format!(
                "nothing that is known here is what `{scope}` names"
            ));
        }
    }
    notes
}

/// Refuses a key that could do more than who makes it.
fn check_within(caller: &Caller, key: &KeyRecord) -> Result<(), Problem> {
    let Caller::Key { principal, .. } = caller else {
        return Ok(());
    };
    let excess = AdminAction::ALL
        .into_iter()
        .find(|action| key.scopes.may(key.role, *action) && !caller.may(*action));
    let beyond = if key.role < principal.role {
        format!("have the role {}", key.role)
    } else if let Some(action) = excess {
        format!("do `admin:{action}`")
    } else if !principal.scopes.cover(&key.scopes) {
        "reach services and tools that this one does not".to_owned()
    } else {
        return Ok(());
    };
    Err(forbidden(format!(
        "the key could {beyond}, and key {} cannot",
        principal.subject
    ))
    .help("ask for less, or use a key that can do as much"))
}

fn random() -> Result<(SecretKey, KeyId, serin_tenancy::KeyHash), Problem> {
    let mut bytes = [0; RANDOM_BYTES];
    let made = getrandom::fill(&mut bytes).map_err(|error| error.to_string());
    let secret = SecretKey::new(&bytes);
    match (made, secret.parts()) {
        (Ok(()), Some((id, hash))) => Ok((secret, id, hash)),
        (made, _) => Err(Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            format!(
                "this machine gives no random bytes: {}",
                made.err().unwrap_or_default()
            ),
        )
        .help("look at its system log")),
    }
}

/// A time, a date, or how long from now on.
fn moment(text: &str, now: Timestamp) -> Result<Timestamp, Problem> {
    let short: String = text.chars().take(TIME_BYTES_MAX).collect();
    let read = |text: &str| {
        let date = || {
            let date: Date = text.parse().ok()?;
            Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp())
        };
        text.parse().ok().or_else(date).or_else(|| {
            let later = now.to_zoned(TimeZone::UTC).checked_add(span(text)?);
            Some(later.ok()?.timestamp())
        })
    };
    let found = (text.len() <= TIME_BYTES_MAX).then(|| read(text.trim()));
    found.flatten().ok_or_else(|| {
        unprocessable(format!("`{short}` is neither a time nor how long"))
            .help("write for example `90d`, `1y`, `2027-01-31` or `2027-01-31T12:00:00Z`")
    })
}

/// How long, from now on.
fn duration(text: &str, now: Timestamp) -> Result<SignedDuration, Problem> {
    let short: String = text.chars().take(TIME_BYTES_MAX).collect();
    let read = |text: &str| {
        let later = now.to_zoned(TimeZone::UTC).checked_add(span(text)?).ok()?;
        Some(later.timestamp().duration_since(now))
    };
    let found = (text.len() <= TIME_BYTES_MAX).then(|| read(text.trim()));
    found
        .flatten()
        .filter(|overlap| !overlap.is_negative())
        .ok_or_else(|| {
            unprocessable(format!("`{short}` is not a time span"))
                .help("write for example `0s`, `30m`, `24h` or `7d`")
        })
}

fn span(text: &str) -> Option<Span> {
    text.parse().ok()
}

fn unprocessable(what: String) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", what)
}

/// The wish that a key be replaced.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = RotateKeyBody)]
#[serde(deny_unknown_fields)]
struct RotateBody {
    /// For how long both open; `24h` unless given, `0s` ends the old one at once.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "24h")]
    overlap: Option<String>,
    /// When the new one ends: a time, a date, or how long it lives; unless given it lives as long as the old one was to.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    expires: Option<String>,
    /// Why.
    #[serde(default)]
    reason: String,
}

/// Makes a key that stands in the place of another and shows it, once. It can do what the other can, which ends with the overlap, or
/// with its own time, whichever is sooner.
#[utoipa::path(
    post, path = "/admin/v1/keys/{name}/rotate", tag = "keys", request_body = RotateBody,
    params(("name" = String, Path, description = "The id of the one to replace")),
    responses(
        (status = CREATED, description = "It opens from now on", body = Made),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json"),
        (status = CONFLICT, description = "It is over, or was replaced already", body = Problem, content_type = "application/problem+json"),
        (status = FORBIDDEN, description = "It could do more than who makes it", body = Problem, content_type = "application/problem+json"),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn rotate(
    State(app): State<App>,
    Named(id): Named<KeyId>,
    caller: Caller,
    By(actor): By,
    Input(body): Input<RotateBody>,
) -> Result<Response, Problem> {
    let known = app.control.state().await?;
    let old = find(&known, &caller, id)?;
    check_within(&caller, old)?;
    let now = Timestamp::now();
    let expires_at = match &body.expires {
        Some(text) => moment(text, now)?,
        None => now
            .checked_add(old.expires_at.duration_since(old.created_at))
            .unwrap_or(Timestamp::MAX),
    };
    let overlap = match &body.overlap {
        Some(text) => duration(text, now)?,
        None => OVERLAP_DEFAULT,
    };
    let (secret, new, hash) = random()?;
    let replacement = KeyRecord {
        id: new,
        hash,
        created_at: now,
        expires_at,
        replaced_by: None,
        ..old.as_ref().clone()
    };
    let command = Command::RotateKey {
        key: id,
        replacement: Box::new(replacement),
        overlap,
        reason: body.reason,
    };
    app.control.command(actor, command).await?;
    made(&app, &secret, new, Some(id)).await
}

/// Why.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = RevokeKeyBody)]
#[serde(deny_unknown_fields)]
struct RevokeBody {
    /// Why.
    #[serde(default)]
    reason: String,
}

/// Ends a key: it opens nothing more when this is answered. A key that is revoked stays so.
#[utoipa::path(
    post, path = "/admin/v1/keys/{name}/revoke", tag = "keys", request_body = RevokeBody,
    params(("name" = String, Path, description = "Its id")),
    responses(
        (status = OK, description = "It opens nothing", body = Done),
        (status = FORBIDDEN, description = "It can do more than who would end it", body = Problem, content_type = "application/problem+json"),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn revoke(
    State(app): State<App>,
    Named(id): Named<KeyId>,
    caller: Caller,
    By(actor): By,
    Input(body): Input<RevokeBody>,
) -> Result<Response, Problem> {
    let known = app.control.state().await?;
    let key = find(&known, &caller, id)?;
    // Its own a key may always end: it can do no more than itself.
    check_within(&caller, key)?;
    let done = end(&app, actor, id, body.reason).await?;
    Ok(fresh(&done))
}

async fn end(app: &App, actor: Actor, key: KeyId, reason: String) -> Result<Done, Problem> {
    let events = app
        .control
        .command(actor, Command::RevokeKey { key, reason })
        .await?;
    Ok(Done::of(&events))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        for (text, at) in [
            ("90d", "2027-02-19T12:00:00Z"),
            ("1y", "2027-11-21T12:00:00Z"),
            ("2w 1h", "2026-12-05T13:00:00Z"),
            ("PT10M", "2026-11-21T12:10:00Z"),
            ("2027-01-31", "2027-01-31T00:00:00Z"),
            ("2027-01-31T12:00:00+02:00", "2027-01-31T10:00:00Z"),
        ] {
            let at: Timestamp = at.parse().unwrap();
            assert_eq!(moment(text, now).unwrap(), at, "{text}");
        }
        for text in ["", "soon", "90", "1000000y", &"9".repeat(1000)] {
            let refused = moment(text, now).unwrap_err();
            assert!(refused.help.contains("`90d`"), "{refused:?}");
            assert!(refused.detail.len() < 200, "{refused:?}");
        }
        for (text, hours) in [
            ("0s", Some(0)),
            ("7d", Some(168)),
            ("-1h", None),
            ("1", None),
        ] {
            let read = duration(text, now).ok().map(|span| span.as_hours());
            assert_eq!(read, hours, "{text}");
        }
    }
}
