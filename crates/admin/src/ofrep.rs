//! The `OpenFeature` Remote Evaluation Protocol, 0.3.0: any `OpenFeature` client can ask this process for flags.
//!
//! <https://github.com/open-feature/protocol>, and what real clients need beyond it: every answer carries key, value, variant,
//! reason and metadata, and an evaluation is never answered with 429, because clients then pause all of them.
//!
//! [`door`] says who gets in: holders of the flags' own token, which opens nothing else, or of the admin token.

mod answer;
mod asked;
pub(crate) mod door;
mod effective;
mod events;

pub(crate) use answer::{evaluate, why};
pub(crate) use asked::Asker;
pub(crate) use effective::document;
pub(crate) use events::places;

use crate::App;
use answer::{Answer, Failure};
use axum::{
    body::Body,
    extract::{Path, RawQuery, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use serin_control::flags::FlagsNow;
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeMap, fmt::Write as _};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Where everything about flags is that clients ask.
pub(crate) const PREFIX: &str = "/ofrep/";
/// Seconds after which a client that nobody looks at closes its stream.
const INACTIVITY_SECONDS: u32 = 120;

/// The routes below [`PREFIX`].
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(evaluate_one))
        .routes(routes!(evaluate_all))
        .routes(routes!(events::events))
        .routes(routes!(effective::effective))
}

/// What a flag answers.
#[utoipa::path(
    post, path = "/ofrep/v1/evaluate/flags/{key}", tag = "ofrep",
    params(("key" = String, Path, description = "The flag")),
    request_body(content = Object, description = "`{\"context\": {\"targetingKey\": ..., ...}}`"),
    responses(
        (status = OK, description = "Key, value, variant, reason and metadata", body = Object),
        (status = BAD_REQUEST, description = "The context cannot be read", body = Object),
        (status = UNAUTHORIZED, description = "No token, or another one"),
        (status = FORBIDDEN, description = "A page that is not in `flags.origins`"),
        (status = NOT_FOUND, description = "There is no such flag", body = Object),
    ),
)]
async fn evaluate_one(State(app): State<App>, Path(key): Path<String>, body: Body) -> Response {
    let asker = match Asker::read(body).await {
        Ok(asker) => asker,
        Err(failure) => return failure.of(&key).into_response(),
    };
    let now = app.control.flags();
    let Some(answer) = Answer::of(&now, &key, &asker) else {
        return Failure::unknown(&key).into_response();
    };
    app.control.count_evaluations([answer.counted()]);
    fresh(&answer)
}

/// What all flags answer. Ask again with the `ETag` in `If-None-Match`, whenever the event stream says so.
#[utoipa::path(
    post, path = "/ofrep/v1/evaluate/flags", tag = "ofrep",
    request_body(content = Object, description = "`{\"context\": {\"targetingKey\": ..., ...}}`"),
    params(
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of an answer before"),
        ("flagConfigEtag" = Option<String>, Query, description = "The `etag` of an event"),
        ("flagConfigLastModified" = Option<String>, Query, description = "The `lastModified` of an event"),
    ),
    responses(
        (status = OK, description = "The flags, and where changes are told", body = Object),
        (status = NOT_MODIFIED, description = "They answer as before"),
        (status = BAD_REQUEST, description = "The context cannot be read", body = Object),
        (status = UNAUTHORIZED, description = "No token, or another one"),
        (status = FORBIDDEN, description = "A page that is not in `flags.origins`"),
    ),
)]
async fn evaluate_all(
    State(app): State<App>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
    body: Body,
) -> Response {
    if let Err(failure) = asked::check_query(query.as_deref().unwrap_or_default()) {
        return failure.into_response();
    }
    let asker = match Asker::read(body).await {
        Ok(asker) => asker,
        Err(failure) => return failure.into_response(),
    };
    let now = app.control.flags();
    let all: Vec<_> = answer::keys(&now)
        .into_iter()
        .filter_map(|key| Answer::of(&now, key.as_str(), &asker))
        .collect();
    let counted: Vec<_> = all.iter().map(Answer::counted).collect();
    let answer = Bulk {
        flags: all,
        event_streams: [EventStream {
            kind: "sse",
            endpoint: Endpoint {
                request_uri: app.access.stream_uri(jiff::Timestamp::now()),
            },
            inactivity_delay_sec: INACTIVITY_SECONDS,
        }],
        metadata: metadata(&now),
    };
    let (response, is_news) = tagged(&answer, &headers);
    if is_news {
        app.control.count_evaluations(counted);
    }
    response
}

/// About the set as a whole.
fn metadata(now: &FlagsNow) -> BTreeMap<&'static str, String> {
    BTreeMap::from([("environment", now.table().environment.label().to_owned())])
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Bulk<'a> {
    flags: Vec<Answer<'a>>,
    event_streams: [EventStream; 1],
    metadata: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventStream {
    #[serde(rename = "type")]
    kind: &'static str,
    endpoint: Endpoint,
    inactivity_delay_sec: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    request_uri: String,
}

/// JSON that no cache keeps.
fn fresh<T: Serialize>(value: &T) -> Response {
    crate::api::fresh(value)
}

/// JSON with its digest as `ETag`, or 304 where the client has it already; and which of them it is.
fn tagged<T: Serialize>(value: &T, headers: &HeaderMap) -> (Response, bool) {
    // Maps with text keys, numbers and texts: there is nothing in it that could fail.
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut etag = String::with_capacity(66);
    etag.push('"');
    for byte in Sha256::digest(&body) {
        // Writing into memory does not fail.
        let _ = write!(etag, "{byte:02x}");
    }
    etag.push('"');
    let is_news = !knows(headers, &etag);
    let mut response = if is_news {
        let mut response = Response::new(Body::from(body));
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        response
    } else {
        StatusCode::NOT_MODIFIED.into_response()
    };
    let headers = response.headers_mut();
    if let Ok(etag) = HeaderValue::try_from(etag) {
        headers.insert(header::ETAG, etag);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    (response, is_news)
}

/// Whether `If-None-Match` names what would be answered: as RFC 9110 has it, a list, weak ones and `*`; and without quotes, as some
/// clients send it.
fn knows(headers: &HeaderMap, etag: &str) -> bool {
    let bare = |text: &str| -> String {
        let text = text.trim();
        let text = text.strip_prefix("W/").unwrap_or(text);
        text.trim_matches('"').to_owned()
    };
    let wanted = bare(etag);
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(bare)
        .any(|one| one == wanted || one == "*")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_known_etag_is_understood() {
        for (given, known) in [
            (r#""abc""#, true),
            (r#"W/"abc""#, true),
            ("abc", true),
            ("*", true),
            (r#""x", W/"abc""#, true),
            (r#""x", abc"#, true),
            (r#""abcd""#, false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, given.parse().unwrap());
            assert_eq!(knows(&headers, r#""abc""#), known, "{given}");
        }
        assert!(!knows(&HeaderMap::new(), r#""abc""#));
    }
}
