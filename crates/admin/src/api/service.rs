//! What there is: services and plans.

use super::fresh;
use crate::{
    App,
    extract::{Named, Service},
    problem::Problem,
};
use axum::{extract::State, response::Response};
use serin_model::name::ServiceName;

/// The services with their versions and rollouts.
#[utoipa::path(get, path = "/admin/v1/services", tag = "services", responses((status = OK, description = "The services", body = Vec<Object>)))]
pub(super) async fn services(State(app): State<App>) -> Response {
    fresh(&app.control.view().services)
}

/// A service with its versions and its rollout.
#[utoipa::path(
    get, path = "/admin/v1/services/{service}", tag = "services",
    params(("service" = String, Path, description = "The service")),
    responses((status = OK, description = "The service", body = Object), (status = NOT_FOUND, body = Problem, content_type = "application/problem+json")),
)]
pub(super) async fn service(
    State(app): State<App>,
    Service(name): Service,
) -> Result<Response, Problem> {
    let view = app.control.view();
    view.service(name.as_str())
        .map(fresh)
        .ok_or_else(|| no_service(&app, &name))
}

/// The plans that can be named.
#[utoipa::path(get, path = "/admin/v1/plans", tag = "plans", responses((status = OK, description = "The plans, by name", body = Object)))]
pub(super) async fn plans(State(app): State<App>) -> Result<Response, Problem> {
    Ok(fresh(&app.control.plans().await?))
}

/// A plan.
#[utoipa::path(
    get, path = "/admin/v1/plans/{name}", tag = "plans",
    params(("name" = String, Path, description = "The plan")),
    responses((status = OK, description = "The plan", body = Object), (status = NOT_FOUND, body = Problem, content_type = "application/problem+json")),
)]
pub(super) async fn plan(
    State(app): State<App>,
    Named(name): Named<String>,
) -> Result<Response, Problem> {
    let plans = app.control.plans().await?;
    plans.get(&name).map(fresh).ok_or_else(|| {
        let known: Vec<_> = plans.keys().map(String::as_str).collect();
        Problem::not_found(format!("there is no plan `{name}`"))
            .help(format!("the plans are: {}", known.join(", ")))
    })
}

pub(super) fn no_service(app: &App, name: &ServiceName) -> Problem {
    let view = app.control.view();
    let known: Vec<_> = view
        .services
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    let help = if known.is_empty() {
        "there are no services; describe them in a file and run `serin apply -f FILE`".to_owned()
    } else {
        format!("the services are: {}", known.join(", "))
    };
    Problem::not_found(format!("there is no service `{name}`")).help(help)
}
