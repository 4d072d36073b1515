//! Kills: stop something at once, see what is stopped, and let it go again.

use super::fresh;
use crate::{
    App,
    access::Caller,
    extract::{By, Input},
    problem::Problem,
};
use axum::{
    extract::State,
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serin_control::{flags::FlagsNow, kills::SwitchStatus};
use serin_flags::{
    Kill, Target, TenantId,
    kill::{Cause, Position, Priority, Revival, Wish},
};
use serin_model::text;
use std::{sync::Arc, time::Duration};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// What calls in flight are allowed unless said: Cortex's `gracePeriodMs`.
const GRACE_DEFAULT: Duration = Duration::from_secs(30);
/// Over how long all revivals are spread unless said.
const SPREAD_DEFAULT: Duration = Duration::from_secs(30);
/// What is repeated to revive everything.
const EVERYTHING: &str = "all";

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, kill))
        .routes(routes!(revive))
        .routes(routes!(revive_all))
        .routes(routes!(kill_all))
        .routes(routes!(disable_all))
}

/// The wish that something be killed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct KillBody {
    /// What: `system`, `environment:NAME`, `service:NAME`, `version:SERVICE/VERSION`, `tool:SERVICE/TOOL` (`tool:*/TOOL` for every
    /// service), `tenant:ID`, `flag:KEY` or `flags`.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "tool:tools/search")]
    target: Option<Target>,
    /// A kill switch, in place of a target: it is pulled by hand, with its grace and priority.
    #[serde(default)]
    switch: Option<String>,
    /// Why. Needed.
    #[serde(default)]
    reason: String,
    /// Calls in flight may go on for so long; 30 s unless given.
    #[serde(default, with = "text::duration_option")]
    #[schema(value_type = Option<String>, example = "30s")]
    grace: Option<Duration>,
    /// `critical` (P0), `high`, `medium` (unless given) or `low` (P3).
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    priority: Option<Priority>,
}

/// Why everything of a kind is killed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EverythingBody {
    /// Why. Needed.
    #[serde(default)]
    reason: String,
}

/// The wish that something be revived.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReviveBody {
    /// What.
    #[schema(value_type = String, example = "tool:tools/search")]
    target: Target,
    /// The revision of its kill that was seen.
    revision: u64,
    /// The target once more: revivals are not for slips.
    #[serde(default)]
    confirm: String,
    /// Why. Needed.
    #[serde(default)]
    reason: String,
}

/// The wish that everything be revived.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReviveAllBody {
    /// The revision of the book that was seen.
    revision: u64,
    /// `all`: revivals are not for slips.
    #[serde(default)]
    confirm: String,
    /// Why. Needed.
    #[serde(default)]
    reason: String,
    /// Over how long the revivals are spread; 30 s unless given, 10 minutes at most.
    #[serde(default, with = "text::duration_option")]
    #[schema(value_type = Option<String>, example = "30s")]
    over: Option<Duration>,
}

/// What is known of a target.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KillTarget)]
struct Shown {
    #[schema(value_type = String)]
    target: Target,
    /// `killed`, `probing` or `revived`.
    state: &'static str,
    /// While probing: one call in so many goes through.
    #[serde(skip_serializing_if = "Option::is_none")]
    one_in: Option<u32>,
    /// Name it to revive.
    revision: u64,
    #[schema(value_type = String)]
    at: Timestamp,
    actor: String,
    reason: String,
    /// `manual`, `break_glass` or `switch`.
    cause: &'static str,
    /// The kill switch, if one did it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    switch: Option<Arc<str>>,
    #[schema(value_type = String)]
    priority: Priority,
    grace_seconds: u32,
    /// Attempts of its kill switch to recover.
    attempts: u32,
    /// When its turn is, while it is revived with others.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    comes_back_at: Option<Timestamp>,
}

impl Shown {
    fn of(kill: &Kill) -> Self {
        let (state, one_in) = match kill.position {
            Position::Killed => ("killed", None),
            Position::Probing { one_in } => ("probing", Some(one_in)),
            Position::Revived => ("revived", None),
        };
        let (cause, switch) = match &kill.cause {
            Cause::Manual => ("manual", None),
            Cause::BreakGlass => ("break_glass", None),
            Cause::Switch(name) => ("switch", Some(name.clone())),
        };
        Self {
            target: kill.target.clone(),
            state,
            one_in,
            revision: kill.generation,
            at: kill.at,
            actor: kill.actor.clone(),
            reason: kill.reason.clone(),
            cause,
            switch,
            priority: kill.priority,
            grace_seconds: kill.grace_seconds,
            attempts: kill.attempts,
            comes_back_at: None,
        }
    }
}

/// The book of kills.
#[derive(Debug, Serialize, ToSchema)]
struct Book {
    /// Name it to revive everything.
    revision: u64,
    /// What is stopped now.
    kills: Vec<Shown>,
    /// What was, latest first.
    revived: Vec<Shown>,
    /// The kill switches, as they stood at the last tick.
    #[schema(value_type = Vec<Object>)]
    switches: Vec<SwitchStatus>,
}

/// What was changed.
#[derive(Debug, Serialize, ToSchema)]
struct Changed {
    /// Whether anything was.
    #[serde(rename = "changed")]
    any: bool,
    /// As it was.
    before: Option<Shown>,
    /// As it is.
    after: Option<Shown>,
    /// What looks like a slip: nothing of that name is known here. It is killed all the same, should it come.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// What will be revived.
#[derive(Debug, Serialize, ToSchema)]
struct Spread {
    /// How many targets.
    revivals: usize,
    /// Over so many seconds.
    over_seconds: f64,
}

/// Whether a target is shown: what is killed of other tenants is nobody's business but the operator's.
pub(crate) fn is_for(caller: &Caller, target: &Target) -> bool {
    match target {
        Target::Tenant(tenant) => caller.sees(tenant),
        _ => true,
    }
}

/// Refuses to kill or revive another tenant. What all share may be stopped by whoever has the scope for it.
fn check_target(caller: &Caller, target: &Target) -> Result<(), Problem> {
    match target {
        Target::Tenant(tenant) => caller.check_tenant(tenant),
        _ => Ok(()),
    }
}

/// What is killed, what was, and the kill switches. Keys that are no operator's see nothing of other tenants.
#[utoipa::path(get, path = "/admin/v1/kills", tag = "kills", responses((status = OK, body = Book)))]
async fn list(State(app): State<App>, caller: Caller) -> Response {
    let book = app.control.kills();
    let back = app.control.coming_back();
    let is_shown = |kill: &&Kill| is_for(&caller, &kill.target);
    let kills = book.active().filter(is_shown).map(|kill| Shown {
        comes_back_at: back.get(&kill.target).copied(),
        ..Shown::of(kill)
    });
    let over = book.iter().filter(|kill| !kill.is_active());
    let mut revived: Vec<_> = over.filter(is_shown).collect();
    revived.sort_by_key(|kill| std::cmp::Reverse(kill.generation));
    fresh(&Book {
        revision: book.generation(),
        kills: kills.collect(),
        revived: revived.into_iter().map(Shown::of).collect(),
        switches: app
            .control
            .kill_switches()
            .iter()
            .filter(|switch| is_for(&caller, &switch.switch.target))
            .cloned()
            .collect(),
    })
}

/// Kills: in force and on the disk before the answer. It waits neither for the log, which gets its copy later, nor for anything else.
#[utoipa::path(
    post, path = "/admin/v1/kills", tag = "kills", request_body = KillBody,
    responses(
        (status = OK, body = Changed),
        (status = FORBIDDEN, description = "It is another tenant", body = Problem, content_type = "application/problem+json"),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json"),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json"),
        (status = INSUFFICIENT_STORAGE, description = "It is in force, but not on the disk", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn kill(
    State(app): State<App>,
    caller: Caller,
    By(actor): By,
    Input(body): Input<KillBody>,
) -> Result<Response, Problem> {
    let (target, grace, priority) = match (body.target, body.switch) {
        (Some(target), None) => (target, GRACE_DEFAULT, Priority::default()),
        (None, Some(name)) => {
            let mut switches = app.control.kill_switches().to_vec();
            switches.retain(|known| is_for(&caller, &known.switch.target));
            let found = switches.iter().find(|known| *known.name == *name);
            let found = found.ok_or_else(|| no_switch(&name, &switches))?;
            (
                found.switch.target.clone(),
                found.switch.grace,
                found.switch.priority,
            )
        }
        _ => {
            return Err(
                Problem::bad_request("a kill needs one of `target` and `switch`")
                    .help("write `{\"target\": \"tool:SERVICE/TOOL\", \"reason\": \"...\"}`"),
            );
        }
    };
    check_target(&caller, &target)?;
    let grace = body.grace.unwrap_or(grace);
    let wish = Wish {
        target,
        actor: actor.as_str().to_owned(),
        reason: body.reason,
        cause: Cause::Manual,
        priority: body.priority.unwrap_or(priority),
        grace_seconds: u32::try_from(grace.as_secs()).unwrap_or(u32::MAX),
    };
    pull(&app, wish).await
}

fn no_switch(name: &str, switches: &[SwitchStatus]) -> Problem {
    let known: Vec<_> = switches.iter().map(|switch| &*switch.name).collect();
    let name: String = name.chars().take(80).collect();
    let help = if known.is_empty() {
        "there are no kill switches; describe them under `kill_switches` in a file and run `serin apply -f FILE`".to_owned()
    } else {
        format!("the kill switches are: {}", known.join(", "))
    };
    Problem::not_found(format!("there is no kill switch `{name}`")).help(help)
}

async fn pull(app: &App, wish: Wish) -> Result<Response, Problem> {
    let before = app.control.kills().get(&wish.target).map(Shown::of);
    let note = unknown(app, &wish.target);
    let killed = app.control.kill(wish).await?;
    Ok(fresh(&Changed {
        any: killed.is_some(),
        before,
        after: killed.as_ref().map(Shown::of),
        note,
    }))
}

/// Revives: in the log, on the disk and in force before the answer. Where the log cannot be written nothing is revived.
#[utoipa::path(
    post, path = "/admin/v1/kills/revive", tag = "kills", request_body = ReviveBody,
    responses(
        (status = OK, body = Changed),
        (status = NOT_FOUND, description = "It is not killed", body = Problem, content_type = "application/problem+json"),
        (status = CONFLICT, description = "It was changed since", body = Problem, content_type = "application/problem+json"),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn revive(
    State(app): State<App>,
    caller: Caller,
    By(actor): By,
    Input(body): Input<ReviveBody>,
) -> Result<Response, Problem> {
    check_target(&caller, &body.target)?;
    confirmed(&body.confirm, &body.target.to_string())?;
    let before = app.control.kills().get(&body.target).map(Shown::of);
    let wish = Revival {
        target: body.target,
        seen: body.revision,
        actor: actor.as_str().to_owned(),
        reason: body.reason,
        cause: Cause::Manual,
    };
    let revived = app.control.revive(wish).await?;
    Ok(fresh(&Changed {
        any: true,
        before,
        after: Some(Shown::of(&revived)),
        note: None,
    }))
}

/// Revives everything, one target after another with pauses that differ: what comes back at once may break at once.
#[utoipa::path(
    post, path = "/admin/v1/kills/revive-all", tag = "kills", request_body = ReviveAllBody,
    responses(
        (status = ACCEPTED, description = "It has begun", body = Spread),
        (status = CONFLICT, description = "Something was killed or revived since", body = Problem, content_type = "application/problem+json"),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn revive_all(
    State(app): State<App>,
    caller: Caller,
    By(actor): By,
    Input(body): Input<ReviveAllBody>,
) -> Result<Response, Problem> {
    // Tenants are among what comes back.
    caller.check_operator("reviving everything")?;
    confirmed(&body.confirm, EVERYTHING)?;
    let over = body.over.unwrap_or(SPREAD_DEFAULT);
    if over > serin_control::kills::SPREAD_MAX {
        return Err(
            unprocessable("revivals are not spread over so long").help(format!(
                "spread them over {} at most",
                text::format_duration(serin_control::kills::SPREAD_MAX)
            )),
        );
    }
    if body.reason.trim().is_empty() {
        return Err(unprocessable("a revival needs a reason").help("add `--reason \"...\"`"));
    }
    let revivals = app
        .control
        .revive_all((actor.as_str(), &body.reason), body.revision, over)?;
    let spread = Spread {
        revivals,
        over_seconds: over.as_secs_f64(),
    };
    Ok((StatusCode::ACCEPTED, fresh(&spread)).into_response())
}

/// Kills everything: target `system`.
#[utoipa::path(
    post, path = "/admin/v1/kills/kill-all", tag = "kills", request_body = EverythingBody,
    responses((status = OK, body = Changed), (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json")),
)]
async fn kill_all(
    State(app): State<App>,
    By(actor): By,
    Input(body): Input<EverythingBody>,
) -> Result<Response, Problem> {
    everything(&app, Target::System, actor.as_str(), body.reason).await
}

/// Turns all flags off: target `flags`.
#[utoipa::path(
    post, path = "/admin/v1/kills/disable-all", tag = "kills", request_body = EverythingBody,
    responses((status = OK, body = Changed), (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json")),
)]
async fn disable_all(
    State(app): State<App>,
    By(actor): By,
    Input(body): Input<EverythingBody>,
) -> Result<Response, Problem> {
    everything(&app, Target::Flags, actor.as_str(), body.reason).await
}

async fn everything(
    app: &App,
    target: Target,
    actor: &str,
    reason: String,
) -> Result<Response, Problem> {
    let wish = Wish {
        target,
        actor: actor.to_owned(),
        reason,
        cause: Cause::Manual,
        priority: Priority::Critical,
        grace_seconds: 0,
    };
    pull(app, wish).await
}

/// What of a target is not known here. Of tenants nothing is.
fn unknown(app: &App, target: &Target) -> Option<String> {
    let view = app.control.view();
    let now = app.control.flags();
    match target {
        Target::Service(service)
        | Target::Tool {
            service: Some(service),
            ..
        } if view.service(service).is_none() => {
            Some(format!("there is no service `{service}` here"))
        }
        Target::Tool { service, tool } => (!is_listed(&now, service.as_deref(), tool)).then(|| {
            let of = service.as_ref().map_or_else(
                || "any service".to_owned(),
                |service| format!("`{service}`"),
            );
            format!("no version of {of} is known to list a tool `{tool}`")
        }),
        Target::Version { service, version } => {
            let known = view.service(service).map(|service| &service.versions);
            let is_known =
                known.is_some_and(|all| all.iter().any(|one| one.name.as_str() == &**version));
            (!is_known)
                .then(|| format!("there is no version `{version}` of a service `{service}` here"))
        }
        Target::Flag(flag) if !now.table().flags.contains_key(flag) => {
            Some(format!("there is no flag `{flag}` here"))
        }
        Target::Tenant(tenant) if !may_be_tenant(&now, tenant) => {
            Some(format!("there is no tenant `{tenant}` here"))
        }
        Target::Environment(environment) if now.table().environment != *environment => {
            Some(format!(
                "this process runs in {}, so that nothing is stopped here",
                now.table().environment
            ))
        }
        _ => None,
    }
}

/// Whether a version lists a tool, or nobody knows yet what any of them lists.
fn is_listed(now: &FlagsNow, service: Option<&str>, tool: &str) -> bool {
    let services = now.snapshot.services.iter();
    let mut tools = services
        .filter(|known| service.is_none_or(|service| known.name.as_str() == service))
        .flat_map(|known| &known.versions)
        .flat_map(|version| version.tools.iter())
        .peekable();
    tools.peek().is_none() || tools.any(|known| **known == *tool)
}

/// Whether there may be such a tenant: all are known where any is, unless callers of a service name theirs in a header.
fn may_be_tenant(now: &FlagsNow, tenant: &TenantId) -> bool {
    let directory = &now.snapshot.tenancy;
    let mut services = now.snapshot.services.iter();
    directory.tenant(tenant.as_str()).is_some()
        || !directory.has_tenants()
        || services.any(|service| service.settings.tenant_header.is_some())
}

fn confirmed(confirm: &str, wanted: &str) -> Result<(), Problem> {
    if confirm == wanted {
        return Ok(());
    }
    Err(
        unprocessable(format!("a revival of {wanted} needs a confirmation")).help(format!(
            "add `\"confirm\": \"{wanted}\"`, or use `serin revive`"
        )),
    )
}

fn unprocessable(what: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", what)
}
