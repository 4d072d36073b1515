//! The routes, and their description: one list makes both.

mod apply;
mod describe;
mod drain;
mod events;
pub(crate) mod flags;
mod health;
mod keys;
mod kills;
mod pages;
mod report;
mod rollout;
pub mod routes;
mod service;
pub mod status;
mod tenants;

use crate::{App, access, metrics, ofrep, problem::Problem};
use axum::{
    Extension, Json, Router,
    extract::State,
    http::{Method, Uri, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use http::StatusCode;
use std::sync::Arc;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Everything under `/admin/v1` but the description itself.
fn routes() -> OpenApiRouter<App> {
    let mut routes = OpenApiRouter::with_openapi(Described::openapi())
        .routes(routes!(status::status))
        .routes(routes!(routes::explain_query, routes::explain_body))
        .routes(routes!(service::services))
        .routes(routes!(service::service))
        .routes(routes!(rollout::show, rollout::start))
        .routes(routes!(rollout::watch))
        .routes(routes!(rollout::share))
        .routes(routes!(rollout::promote))
        .routes(routes!(rollout::pause))
        .routes(routes!(rollout::resume))
        .routes(routes!(rollout::abort))
        .routes(routes!(rollout::roll_back))
        .routes(routes!(rollout::signal))
        .routes(routes!(rollout::list))
        .routes(routes!(rollout::by_id))
        .routes(routes!(rollout::replay))
        .routes(routes!(events::events))
        .routes(routes!(health::metrics))
        .routes(routes!(health::issues))
        .routes(routes!(health::trends))
        .routes(routes!(health::alerts))
        .routes(routes!(health::comparison))
        .routes(routes!(report::report))
        .routes(routes!(report::figure))
        .routes(routes!(service::plans))
        .routes(routes!(service::plan))
        .routes(routes!(apply::apply))
        .routes(routes!(apply::diff))
        .routes(routes!(drain::drain, drain::undrain))
        .routes(routes!(description))
        .merge(flags::routes())
        .merge(kills::routes())
        .merge(keys::routes())
        .merge(tenants::routes())
        .merge(ofrep::routes());
    describe::complete(routes.get_openapi_mut());
    routes
}

pub(crate) fn router(app: App) -> Router {
    let (routes, description) = routes().split_for_parts();
    routes
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics::scrape))
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(Extension(Arc::new(description)))
        .layer(middleware::from_fn_with_state(app.clone(), access::guard))
        .with_state(app)
}

/// The description of the API, as `GET /admin/v1/openapi.json` gives it.
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes().into_openapi()
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Serin admin API",
        description = "What `serin rollout`, `serin apply` and the others call. Whatever is refused is an RFC 9457 problem document.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(Problem)),
    modifiers(&LocalToken),
    security(("local_token" = []))
)]
struct Described;

struct LocalToken;

impl Modify for LocalToken {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "The token in the file beside the store. A Unix socket needs none.",
            ))
            .build();
        openapi
            .components
            .get_or_insert_default()
            .add_security_scheme("local_token", SecurityScheme::Http(scheme));
    }
}

/// This description.
#[utoipa::path(get, path = "/admin/v1/openapi.json", tag = "api", responses((status = OK, description = "OpenAPI", body = Object)))]
async fn description(Extension(description): Extension<Arc<utoipa::openapi::OpenApi>>) -> Response {
    Json(description.as_ref()).into_response()
}

/// The process lives.
async fn health() -> &'static str {
    "ok\n"
}

/// The process decides. One that no longer does goes on routing, but should get no commands.
async fn ready(State(app): State<App>) -> Response {
    if app.control.view().leader {
        return "ready\n".into_response();
    }
    Problem::from(serin_control::ControlError::NotLeader).into_response()
}

async fn nothing_here(uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(200).collect();
    Problem::not_found(format!("there is nothing at {path}"))
        .help("`GET /admin/v1/openapi.json` describes every route")
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    let path: String = uri.path().chars().take(200).collect();
    let problem = Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method",
        format!("{path} does not take {method}"),
    )
    .help("the `Allow` header names what it takes");
    problem.into_response()
}

/// Never kept by a cache: it is about now.
pub(crate) fn fresh<T: serde::Serialize>(value: &T) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(value)).into_response()
}
