//! Rollouts: begin, look, steer.

use super::{fresh, service::no_service};
use crate::{
    App,
    access::Caller,
    extract::{By, Input, Named, Service},
    problem::Problem,
};
use axum::{
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{Event as Sent, KeepAlive, Sse},
    },
};
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serin_control::{Control, PlanChoice, StartRequest, view::ServiceView};
use serin_flags::FlagKey;
use serin_model::{
    decide::{Candidate, Command},
    event::{Actor, Recorded},
    name::{RolloutId, ServiceName, VersionName},
    plan::{Plan, RollbackStrategy},
    share::Share,
    words::event_in_words,
};
use std::sync::Arc;
use utoipa::ToSchema;

/// The plan of a rollout for which none is named: the most careful one that ends within a day.
const PLAN_DEFAULT: &str = "standard";

/// What a plan is called that came in full and without a name.
const PLAN_UNNAMED: &str = "custom";

/// The wish for a rollout.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StartBody {
    /// The candidate, if it is a version.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "v2.0.0")]
    to: Option<VersionName>,
    /// The flag that is rolled out, if it is none.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "new_search")]
    flag: Option<FlagKey>,
    /// The variant of the flag that is rolled out; its default, or the only one that is not off, unless given.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "on")]
    variant: Option<Arc<str>>,
    /// The name of a plan, or a plan in full; `standard` unless given.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    plan: Option<serde_json::Value>,
    /// What a plan given in full is called.
    #[serde(default)]
    plan_name: Option<String>,
    /// Why.
    #[serde(default)]
    reason: String,
    /// Whether a change that clients will notice is accepted.
    #[serde(default)]
    accept_breaking: bool,
}

/// A share set by hand.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ShareBody {
    /// In percent, such as `12.5 %`.
    #[schema(value_type = String, example = "12.5 %")]
    share: Share,
    /// Why. Needed.
    #[serde(default)]
    reason: String,
}

/// A promotion by hand.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PromoteBody {
    /// To the end at once, not to the next phase.
    #[serde(default)]
    full: bool,
    /// Also without the evidence that the plan asks for; needs a reason.
    #[serde(default, rename = "override")]
    overridden: bool,
    /// Why.
    #[serde(default)]
    reason: String,
}

/// Why something is done.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReasonBody {
    /// Why.
    #[serde(default)]
    reason: String,
}

/// A rollback by hand.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RollbackBody {
    /// Why.
    #[serde(default)]
    reason: String,
    /// How live sessions leave: `immediate` (unless given) or `gradual`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    strategy: RollbackStrategy,
}

/// Something that somebody has seen and no counter sees.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SignalBody {
    /// What kind, as the plan names it.
    #[schema(example = "critical_bug")]
    signal: String,
    /// What was seen.
    #[serde(default)]
    reason: String,
}

/// By what a recorded rollout is judged again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplayBody {
    /// The name of a plan, or a plan in full; the rollout's own unless given.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    plan: Option<serde_json::Value>,
    /// What a plan given in full is called.
    #[serde(default)]
    plan_name: Option<String>,
}

/// What a command has done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Done {
    /// What happened, in words; nothing when things were so already.
    #[serde(rename = "done")]
    lines: Vec<String>,
    /// The rollout it was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    rollout: Option<RolloutId>,
    /// The place of the last event in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<u64>,
}

impl Done {
    pub(super) fn of(events: &[Recorded]) -> Self {
        Self {
            lines: events
                .iter()
                .map(|recorded| event_in_words(&recorded.event))
                .collect(),
            rollout: events.iter().find_map(|recorded| recorded.event.rollout()),
            position: events.last().map(|recorded| recorded.position),
        }
    }
}

/// The rollout of a service: the one under way, or the last one.
#[utoipa::path(
    get, path = "/admin/v1/services/{service}/rollout", tag = "rollouts",
    params(("service" = String, Path, description = "The service")),
    responses((status = OK, description = "The rollout", body = Object), (status = NOT_FOUND, body = Problem, content_type = "application/problem+json")),
)]
pub(super) async fn show(
    State(app): State<App>,
    Service(name): Service,
) -> Result<Response, Problem> {
    let view = app.control.view();
    let service = view
        .service(name.as_str())
        .ok_or_else(|| no_service(&app, &name))?;
    let rollout = service.rollout.as_ref().ok_or_else(|| {
        Problem::not_found(format!("service `{name}` has had no rollout")).help(format!(
            "begin one with `serin rollout start {name} --to VERSION`"
        ))
    })?;
    Ok(fresh(rollout))
}

/// Begins a rollout, after the candidate was checked.
#[utoipa::path(
    post, path = "/admin/v1/services/{service}/rollout", tag = "rollouts", request_body = StartBody,
    params(("service" = String, Path, description = "The service")),
    responses(
        (status = CREATED, description = "It has begun", body = Done),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json"),
        (status = CONFLICT, body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn start(
    State(app): State<App>,
    Service(service): Service,
    By(actor): By,
    Input(body): Input<StartBody>,
) -> Result<Response, Problem> {
    let plan = choose(body.plan, body.plan_name)?;
    let request = StartRequest {
        service,
        candidate: candidate(body.to, body.flag, body.variant)?,
        plan,
        reason: body.reason,
        accept_breaking: body.accept_breaking,
    };
    let events = app.control.start_rollout(actor, request).await?;
    Ok((StatusCode::CREATED, axum::Json(Done::of(&events))).into_response())
}

fn candidate(
    to: Option<VersionName>,
    flag: Option<FlagKey>,
    variant: Option<Arc<str>>,
) -> Result<Candidate, Problem> {
    match (to, flag, variant) {
        (Some(version), None, None) => Ok(Candidate::Version(version)),
        (None, Some(flag), on) => Ok(Candidate::Flag { flag, on }),
        _ => Err(Problem::bad_request(
            "a rollout needs one candidate: `to` or `flag`, and `variant` only beside `flag`",
        )
        .help("write `{\"to\": \"VERSION\"}` or `{\"flag\": \"KEY\"}`")),
    }
}

fn choose(plan: Option<serde_json::Value>, name: Option<String>) -> Result<PlanChoice, Problem> {
    match plan {
        None => Ok(PlanChoice::Named(PLAN_DEFAULT.to_owned())),
        Some(serde_json::Value::String(name)) => Ok(PlanChoice::Named(name)),
        Some(plan) => {
            let plan: Plan = serde_json::from_value(plan).map_err(|error| {
                Problem::bad_request(format!("`plan` cannot be read as a plan: {error}"))
                    .help("give the name of a plan, or one in full; `serin check --plan FILE` says where a file is wrong")
            })?;
            Ok(PlanChoice::Given {
                name: name.unwrap_or_else(|| PLAN_UNNAMED.to_owned()),
                plan: Box::new(plan),
            })
        }
    }
}

/// The service as it changes, as server-sent events: one `service` at once and one a change, until the client goes.
#[utoipa::path(
    get, path = "/admin/v1/services/{service}/rollout/watch", tag = "rollouts",
    params(("service" = String, Path, description = "The service")),
    responses((status = OK, description = "Events named `service`", body = String, content_type = "text/event-stream"), (status = NOT_FOUND, body = Problem, content_type = "application/problem+json")),
)]
pub(super) async fn watch(
    State(app): State<App>,
    Service(name): Service,
    caller: Caller,
) -> Result<Response, Problem> {
    if app.control.view().service(name.as_str()).is_none() {
        return Err(no_service(&app, &name));
    }
    let mut views = app.control.subscribe();
    views.mark_changed();
    let control = app.control.clone();
    let changes = stream::unfold((views, name), move |(mut views, name)| {
        let (control, caller) = (control.clone(), caller.clone());
        async move {
            // The sender is gone when the control plane has stopped; the service when it was pruned. Both end the stream, and so does
            // the end of the key that asked for it.
            views.changed().await.ok()?;
            let keys = &control.flags().snapshot.tenancy;
            if !caller.still_opens(keys, Timestamp::now()) {
                return None;
            }
            let sent = sent(views.borrow_and_update().service(name.as_str())?);
            Some((sent, (views, name)))
        }
    });
    let changes = changes.take_until(app.stop.clone().cancelled_owned());
    Ok(Sse::new(changes)
        .keep_alive(KeepAlive::default())
        .into_response())
}

fn sent(service: &ServiceView) -> Result<Sent, axum::Error> {
    Sent::default().event("service").json_data(service)
}

/// Sets the share by hand.
#[utoipa::path(
    post, path = "/admin/v1/services/{service}/rollout/share", tag = "rollouts", request_body = ShareBody,
    params(("service" = String, Path, description = "The service")),
    responses((status = OK, body = Done), (status = CONFLICT, body = Problem, content_type = "application/problem+json")),
)]
pub(super) async fn share(
    State(app): State<App>,
    Service(service): Service,
    By(actor): By,
    Input(body): Input<ShareBody>,
) -> Result<Response, Problem> {
    command(
        &app.control,
        actor,
        Command::SetShare {
            service,
            share: body.share,
            reason: body.reason,
        },
    )
    .await
}

/// Goes on to the next phase, or to the end.
#[utoipa::path(
    post, path = "/admin/v1/services/{service}/rollout/promote", tag = "rollouts", request_body = PromoteBody,
    params(("service" = String, Path, description = "The service")),
    responses((status = OK, body = Done), (status = CONFLICT, body = Problem, content_type = "application/problem+json")),
)]
pub(super) async fn promote(
    State(app): State<App>,
    Service(service): Service,
    By(actor): By,
    Input(body): Input<PromoteBody>,
) -> Result<Response, Problem> {
    if body.overridden && body.reason.trim().is_empty() {
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
            "a promotion without evidence needs a reason",
        )
        .help("add `--reason \"...\"`"));
    }
    let overridden = body.overridden.then_some(body.reason);
    // The control plane adds how the candidate stands.
    command(
        &app.control,
        actor,
        Command::Promote {
            service,
            full: body.full,
            overridden,
            assessment: None,
        },
    )
    .await
}

/// Stops it where it is. A critical breach still takes the candidate back.
#[utoipa::path(
    post, path = "/admin/v1/services/{service}/rollout/pause", tag = "rollouts", request_body = ReasonBody,
    params(("service" = String, Path, description = "The service")),
    responses((status = OK, body = Done), (status = CONFLICT, body = Problem, content_type = "application/problem+json")),
)]
pub(super) async fn pause(
    State(app): State<App>,
    Service(service): Service,
    By(actor): By,
    Input(body): Input<ReasonBody>,
) -> Result<Response, Problem> {
    command(
        &app.control,
        actor,
        Command::Pause {
            service,
            reason: body.reason,
        },
    )
    .await
}

/// Lets it go on.
#[utoipa::path(
    post, path = "/admin/v1/services/{service}/rollout/resume", tag = "rollouts",
    params(("service" = String, Path, description = "The service")),
    responses((status = OK, body = Done), (status = CONFLICT, body = Problem, content_type = "application/problem+json")),
)]
pub(super) async fn resume(
    State(app): State<App>,
    Service(service): Service,
    By(actor): By,
) -> Result<Response, Problem> {
    command(&app.control, actor, Command::Resume { service }).await
}

/// Ends it: the desired version is stable. Doing so twice is fine.
#[utoipa::path(
    post, path = "/admin/v1/services/{service}/rollout/abort", tag = "rollouts", request_body = ReasonBody,
    params(("service" = String, Path, description = "The service")),
    responses((status = OK, body = Done), (status = CONFLICT, body = Problem, content_type = "application/problem+json")),
)]
pub(super) async fn abort(
    State(app): State<App>,
    Service(service): Service,
    By(actor): By,
    Input(body): Input<ReasonBody>,
) -> Result<Response, Problem> {
    command(
        &app.control,
        actor,
        Command::Abort {
            service,
            reason: body.reason,
        },
    )
    .await
}

/// Takes the candidate back; after a promotion, makes the version before stable again.
#[utoipa::path(
    post, path = "/admin/v1/services/{service}/rollout/rollback", tag = "rollouts", request_body = RollbackBody,
    params(("service" = String, Path, description = "The service")),
    responses((status = OK, body = Done), (status = CONFLICT, body = Problem, content_type = "application/problem+json")),
)]
pub(super) async fn roll_back(
    State(app): State<App>,
    Service(service): Service,
    By(actor): By,
    Input(body): Input<RollbackBody>,
) -> Result<Response, Problem> {
    command(
        &app.control,
        actor,
        Command::Rollback {
            service,
            strategy: body.strategy,
            reason: body.reason,
        },
    )
    .await
}

/// Says that something was seen which no counter sees. By the plan it holds the rollout, or takes the candidate back.
#[utoipa::path(
    post, path = "/admin/v1/services/{service}/rollout/signal", tag = "rollouts", request_body = SignalBody,
    params(("service" = String, Path, description = "The service")),
    responses(
        (status = OK, body = Done),
        (status = CONFLICT, body = Problem, content_type = "application/problem+json"),
        (status = UNPROCESSABLE_ENTITY, description = "The plan knows no such signal", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn signal(
    State(app): State<App>,
    Service(service): Service,
    By(actor): By,
    Input(body): Input<SignalBody>,
) -> Result<Response, Problem> {
    command(
        &app.control,
        actor,
        Command::Signal {
            service,
            signal: body.signal,
            reason: body.reason,
        },
    )
    .await
}

async fn command(control: &Control, actor: Actor, command: Command) -> Result<Response, Problem> {
    Ok(fresh(&Done::of(&control.command(actor, command).await?)))
}

/// A rollout in a list.
#[derive(Debug, Serialize, ToSchema)]
struct Listed {
    #[schema(value_type = String)]
    id: RolloutId,
    #[schema(value_type = String)]
    service: ServiceName,
    #[schema(value_type = String)]
    from: VersionName,
    #[schema(value_type = String)]
    to: VersionName,
    plan: String,
    status: &'static str,
    #[schema(value_type = String)]
    share: Share,
    #[schema(value_type = String)]
    started_at: jiff::Timestamp,
    #[schema(value_type = String)]
    started_by: Actor,
    #[schema(value_type = Option<String>)]
    ended_at: Option<jiff::Timestamp>,
    ended_reason: Option<String>,
}

/// The rollouts, newest first.
#[utoipa::path(get, path = "/admin/v1/rollouts", tag = "rollouts", responses((status = OK, description = "The rollouts", body = Vec<Listed>)))]
pub(super) async fn list(State(app): State<App>) -> Result<Response, Problem> {
    let rollouts = app.control.rollouts().await?;
    let listed: Vec<_> = rollouts
        .into_iter()
        .rev()
        .map(|rollout| Listed {
            id: rollout.id,
            service: rollout.service,
            from: rollout.from,
            to: rollout.to,
            plan: rollout.plan_name,
            status: rollout.status.label(),
            share: rollout.share,
            started_at: rollout.started_at,
            started_by: rollout.started_by,
            ended_at: rollout.ended.as_ref().map(|ended| ended.at),
            ended_reason: rollout.ended.map(|ended| ended.reason),
        })
        .collect();
    Ok(fresh(&listed))
}

/// A rollout with its plan and what was checked before it began.
#[utoipa::path(
    get, path = "/admin/v1/rollouts/{name}", tag = "rollouts",
    params(("name" = String, Path, description = "Its id")),
    responses((status = OK, description = "The rollout", body = Object), (status = NOT_FOUND, body = Problem, content_type = "application/problem+json")),
)]
pub(super) async fn by_id(
    State(app): State<App>,
    Named(id): Named<RolloutId>,
) -> Result<Response, Problem> {
    let rollouts = app.control.rollouts().await?;
    let found = rollouts.iter().find(|rollout| rollout.id == id);
    found.map(fresh).ok_or_else(|| {
        Problem::not_found(format!("there is no rollout {id}"))
            .help("`serin rollout list` shows those there are")
    })
}

/// Judges a recorded rollout again, from the log and the stored blocks: by its own plan, or by another to see what would have
/// happened when. Changes nothing.
#[utoipa::path(
    post, path = "/admin/v1/rollouts/{name}/replay", tag = "rollouts", request_body = ReplayBody,
    params(("name" = String, Path, description = "Its id")),
    responses(
        (status = OK, description = "What would have been decided, and whether the verdicts on record came out the same", body = Object),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json"),
        (status = UNPROCESSABLE_ENTITY, description = "The plan cannot be used", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn replay(
    State(app): State<App>,
    Named(id): Named<RolloutId>,
    Input(body): Input<ReplayBody>,
) -> Result<Response, Problem> {
    let plan = match body.plan {
        None => None,
        plan => Some(named(&app.control, choose(plan, body.plan_name)?).await?),
    };
    Ok(fresh(&app.control.replay(id, plan).await?))
}

/// A plan that can be used, with its name.
async fn named(control: &Control, choice: PlanChoice) -> Result<(String, Plan), Problem> {
    let (name, plan) = match choice {
        PlanChoice::Given { name, plan } => (name, *plan),
        PlanChoice::Named(name) => {
            let mut plans = control.plans().await?;
            let Some(plan) = plans.remove(&name) else {
                let known: Vec<_> = plans.into_keys().collect();
                return Err(Problem::not_found(format!("there is no plan `{name}`"))
                    .help(format!("the plans are: {}", known.join(", "))));
            };
            (name, plan)
        }
    };
    match plan.problems().into_iter().find(|problem| problem.fatal) {
        None => Ok((name, plan)),
        Some(problem) => Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
            format!("plan `{name}`, {}: {}", problem.at, problem.what),
        )
        .help(problem.help)),
    }
}
