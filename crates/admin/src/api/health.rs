//! The health monitor: what each version did, what is wrong, and where it is going.

use super::{fresh, service::no_service};
use crate::{
    App,
    extract::{Asked, Service},
    problem::Problem,
};
use axum::{extract::State, response::Response};
use serde::Deserialize;
use serin_control::{health::Health, view::ServiceView};
use serin_model::name::ServiceName;
use utoipa::IntoParams;

/// Minutes of windows in an answer unless asked.
const MINUTES_DEFAULT: u32 = 10;
/// Most minutes: no window is older.
const MINUTES_MAX: u32 = 24 * 60;

/// How far back.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Back {
    /// Windows that began in the last so many minutes: 10 unless asked, 1440 at most.
    minutes: Option<u32>,
}

/// What each version did, in windows of 30 seconds, oldest first; the last may still run. Windows without calls are left out.
/// They are in memory: after a restart they begin anew.
#[utoipa::path(
    get, path = "/admin/v1/services/{service}/health/metrics", tag = "health",
    params(("service" = String, Path, description = "The service"), Back),
    responses((status = OK, description = "Windows, by version", body = Vec<Object>), (status = NOT_FOUND, body = Problem, content_type = "application/problem+json")),
)]
pub(super) async fn metrics(
    State(app): State<App>,
    Service(service): Service,
    Asked(back): Asked<Back>,
) -> Result<Response, Problem> {
    let minutes = back.minutes.unwrap_or(MINUTES_DEFAULT);
    if !(1..=MINUTES_MAX).contains(&minutes) {
        return Err(
            Problem::bad_request(format!("there is no history of {minutes} minutes"))
                .help(format!("ask for 1 to {MINUTES_MAX}")),
        );
    }
    answer(&app, &service, |health, now, _| {
        health.metrics(&service, minutes, now)
    })
}

/// What is wrong now, worst first: metrics beyond their limits, memory that leaks, endpoints that fail their probes. The limits
/// are those of the rollout's plan for its candidate, and defaults otherwise.
#[utoipa::path(
    get, path = "/admin/v1/services/{service}/health/issues", tag = "health",
    params(("service" = String, Path, description = "The service")),
    responses((status = OK, description = "Issues", body = Vec<Object>), (status = NOT_FOUND, body = Problem, content_type = "application/problem+json")),
)]
pub(super) async fn issues(
    State(app): State<App>,
    Service(service): Service,
) -> Result<Response, Problem> {
    answer(&app, &service, |health, _, _| health.issues(&service))
}

/// Where the metrics of each version went in the last hour: a line through each, with the interval of its slope at 99 %.
#[utoipa::path(
    get, path = "/admin/v1/services/{service}/health/trends", tag = "health",
    params(("service" = String, Path, description = "The service")),
    responses((status = OK, description = "Trends, by version", body = Vec<Object>), (status = NOT_FOUND, body = Problem, content_type = "application/problem+json")),
)]
pub(super) async fn trends(
    State(app): State<App>,
    Service(service): Service,
) -> Result<Response, Problem> {
    answer(&app, &service, |health, _, _| health.trends(&service))
}

/// Issues over their whole time: those that go on, and the latest that are over. One that comes back within five minutes is the
/// same alert.
#[utoipa::path(
    get, path = "/admin/v1/services/{service}/health/alerts", tag = "health",
    params(("service" = String, Path, description = "The service")),
    responses((status = OK, description = "Alerts", body = Object), (status = NOT_FOUND, body = Problem, content_type = "application/problem+json")),
)]
pub(super) async fn alerts(
    State(app): State<App>,
    Service(service): Service,
) -> Result<Response, Problem> {
    answer(&app, &service, |health, _, _| health.alerts(&service))
}

/// Stable beside the candidate of the rollout under way, over the last five minutes. It is for people to look at; whether the
/// candidate may go on is for the judge to say.
#[utoipa::path(
    get, path = "/admin/v1/services/{service}/health/comparison", tag = "health",
    params(("service" = String, Path, description = "The service")),
    responses((status = OK, description = "Both sides, metric by metric", body = Object), (status = NOT_FOUND, body = Problem, content_type = "application/problem+json")),
)]
pub(super) async fn comparison(
    State(app): State<App>,
    Service(service): Service,
) -> Result<Response, Problem> {
    answer(&app, &service, |health, now, view| {
        let rollout = view.rollout.as_ref();
        let candidate = rollout
            .filter(|rollout| !rollout.status.is_terminal())
            .map(|rollout| &rollout.to);
        health.comparison(&service, &view.stable, candidate, now)
    })
}

fn answer<T: serde::Serialize>(
    app: &App,
    service: &ServiceName,
    ask: impl FnOnce(&Health, f64, &ServiceView) -> T,
) -> Result<Response, Problem> {
    let view = app.control.view();
    let Some(shown) = view.service(service.as_str()) else {
        return Err(no_service(app, service));
    };
    Ok(fresh(
        &app.control.health(|health, now| ask(health, now, shown)),
    ))
}
