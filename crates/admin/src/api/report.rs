//! Questions to the audit trail.

use super::fresh;
use crate::{
    App,
    access::{Caller, forbidden},
    extract::{Asked, Named},
    problem::Problem,
};
use axum::{extract::State, response::Response};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serin_control::audit::{
    Answer, Cell,
    questions::{FIGURES, Figure, QUESTIONS, Question},
    sql_time,
};
use serin_flags::TenantId;
use serin_model::text::parse_duration;
use std::time::Duration;
use utoipa::IntoParams;

/// How far back unless asked: as the seed's questions.
const WINDOW: Duration = Duration::from_hours(1);
/// How far back unless asked, for one figure: as the seed's scripts.
const FIGURE_WINDOW: Duration = Duration::from_mins(5);
/// Longest window. Who needs more asks the file itself.
const WINDOW_MAX: Duration = Duration::from_hours(31 * 24);

/// Of when, and of whom.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Of {
    /// How far back: 1h unless asked, 31d at most.
    window: Option<String>,
    /// Of one tenant alone.
    tenant: Option<String>,
}

/// Which figure, of when, and of whom.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FigureOf {
    /// `error_rate`, `p95_latency`, `p99_latency`, `availability`, `throughput` or `auth_success_rate`.
    metric: Option<String>,
    /// How far back: 5m unless asked, 31d at most.
    window: Option<String>,
    /// Of one tenant alone.
    tenant: Option<String>,
}

/// A report.
#[derive(Serialize)]
struct Report {
    #[serde(rename = "report")]
    name: &'static str,
    about: &'static str,
    window_seconds: u64,
    /// Whether requests are recorded now.
    recording: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    columns: Vec<String>,
    rows: Vec<Vec<serde_json::Value>>,
    /// To ask the same by hand.
    sql: String,
}

/// A figure.
#[derive(Serialize)]
struct Shown {
    metric: &'static str,
    /// Nothing where there was no request.
    value: serde_json::Value,
    unit: &'static str,
    requests: serde_json::Value,
    window_seconds: u64,
}

/// What the audit trail says about the last hour, or another window. Keys that are no operator's are told of their own tenant alone.
#[utoipa::path(
    get, path = "/admin/v1/report/{name}", tag = "audit",
    params(("name" = String, Path, description = "errors, latency, auth, tools, uploads, search, generation, guards, publishing, oauth or analytics"), Of),
    responses((status = OK, description = "Columns and rows, and the SQL that gives them", body = Object), (status = NOT_FOUND, body = Problem, content_type = "application/problem+json")),
)]
pub(super) async fn report(
    State(app): State<App>,
    caller: Caller,
    Named(name): Named<String>,
    Asked(of): Asked<Of>,
) -> Result<Response, Problem> {
    let Some(question) = Question::find(&name) else {
        let known: Vec<_> = QUESTIONS.iter().map(|question| question.name).collect();
        return Err(Problem::not_found(format!("there is no report `{name}`"))
            .help(format!("the reports are: {}", known.join(", "))));
    };
    let window = window(of.window.as_deref(), WINDOW)?;
    let tenant = tenant(&caller, of.tenant)?;
    let answer = ask(
        &app,
        &question.query(tenant.is_some()),
        window,
        tenant.as_deref(),
    )
    .await?;
    let rows = answer.rows.into_iter();
    Ok(fresh(&Report {
        name: question.name,
        about: question.about,
        window_seconds: window.as_secs(),
        recording: app.control.books().is_recording(),
        columns: answer.columns,
        rows: rows
            .map(|row| row.into_iter().map(json).collect())
            .collect(),
        sql: question.text(window, tenant.as_deref()),
        tenant,
    }))
}

/// One figure about the last five minutes, or another window, for scripts: `value`.
#[utoipa::path(
    get, path = "/admin/metrics", tag = "audit", params(FigureOf),
    responses((status = OK, description = "The figure", body = Object), (status = BAD_REQUEST, body = Problem, content_type = "application/problem+json")),
)]
pub(super) async fn figure(
    State(app): State<App>,
    caller: Caller,
    Asked(of): Asked<FigureOf>,
) -> Result<Response, Problem> {
    let asked = of.metric.unwrap_or_default();
    let Some(figure) = Figure::find(&asked) else {
        let known: Vec<_> = FIGURES.iter().map(|figure| figure.name).collect();
        let asked: String = asked.chars().take(80).collect();
        return Err(
            Problem::bad_request(format!("there is no metric `{asked}`"))
                .help(format!("write `?metric=` and one of: {}", known.join(", "))),
        );
    };
    let window = window(of.window.as_deref(), FIGURE_WINDOW)?;
    let tenant = tenant(&caller, of.tenant)?;
    let sql = figure.query(window, tenant.is_some());
    let answer = ask(&app, &sql, window, tenant.as_deref()).await?;
    let mut row = answer
        .rows
        .into_iter()
        .next()
        .unwrap_or_default()
        .into_iter();
    let requests = row.next().map_or(serde_json::Value::Null, json);
    Ok(fresh(&Shown {
        metric: figure.name,
        value: row.next().map_or(serde_json::Value::Null, json),
        unit: figure.unit,
        requests,
        window_seconds: window.as_secs(),
    }))
}

fn window(asked: Option<&str>, default: Duration) -> Result<Duration, Problem> {
    let Some(asked) = asked else {
        return Ok(default);
    };
    let window = parse_duration(asked).map_err(Problem::bad_request)?;
    if (Duration::from_secs(1)..=WINDOW_MAX).contains(&window) {
        return Ok(window);
    }
    Err(
        Problem::bad_request(format!("the window `{asked}` is out of bounds"))
            .help("ask for 1s to 31d; for more, ask the file `STORE.audit.db` itself"),
    )
}

/// The tenant that is asked for, if the caller may see it, or the one that alone they may see.
fn tenant(caller: &Caller, asked: Option<String>) -> Result<Option<String>, Problem> {
    let Some(asked) = asked else {
        return Ok(caller.only().map(|only| only.as_str().to_owned()));
    };
    let tenant: TenantId = asked
        .parse()
        .map_err(|_| Problem::bad_request("`tenant` is no name of a tenant"))?;
    if caller.sees(&tenant) {
        return Ok(Some(asked));
    }
    Err(forbidden("this is about another tenant").help("leave `tenant` out"))
}

async fn ask(
    app: &App,
    sql: &str,
    window: Duration,
    tenant: Option<&str>,
) -> Result<Answer, Problem> {
    let back = SignedDuration::try_from(window).unwrap_or(SignedDuration::MAX);
    let since = Timestamp::now().checked_sub(back).unwrap_or(Timestamp::MIN);
    let mut values = vec![Cell::Text(sql_time(since))];
    values.extend(tenant.map(|tenant| Cell::Text(tenant.to_owned())));
    match app.control.books().ask(sql, &values).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no_audit",
            "this process has no audit tables",
        )),
        Err(error) => {
            tracing::error!(%error, "a question to the audit tables failed");
            Err(Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "audit",
                error.problem.to_string(),
            ))
        }
    }
}

fn json(cell: Cell) -> serde_json::Value {
    match cell {
        Cell::Null => serde_json::Value::Null,
        Cell::Integer(number) => number.into(),
        Cell::Real(number) => number.into(),
        Cell::Text(text) => text.into(),
    }
}
