//! What handlers take from a request: bounded, and refused with a problem document.

use crate::{
    access::{self, Caller},
    problem::Problem,
};
use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request},
};
use futures_util::StreamExt as _;
use http::{StatusCode, request::Parts};
use serde::de::DeserializeOwned;
use serin_flags::document::in_plain_words;
use serin_model::{event::Actor, name::ServiceName};
use std::str::FromStr;

/// Largest body of a request, in bytes: as much as a file may hold that is applied.
const BODY_BYTES_MAX: usize = serin_config::FILE_BYTES_MAX;
/// Of a body that is too large, so much is read before the connection is closed over it.
const DISCARDED_BYTES_MAX: usize = 16 * BODY_BYTES_MAX;

/// Who acts.
pub(crate) struct By(pub(crate) Actor);

impl<S: Sync> FromRequestParts<S> for By {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, state).await?;
        Ok(Self(caller.actor().clone()))
    }
}

/// As [`access::guard`] has found them.
impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller
            .ok_or_else(|| access::forbidden("nobody asks").help("use the admin API's own router"))
    }
}

/// The service in the path.
pub(crate) struct Service(pub(crate) ServiceName);

impl<S: Send + Sync> FromRequestParts<S> for Service {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let name = path_parameter(parts, state, "service").await?;
        name.parse()
            .map(Self)
            .map_err(|error: serin_model::name::NameError| {
                Problem::bad_request(error.to_string())
                    .help("`GET /admin/v1/services` names those there are")
            })
    }
}

/// The last segment of the path: an id or a name.
pub(crate) struct Named<T>(pub(crate) T);

impl<S: Send + Sync, T: FromStr> FromRequestParts<S> for Named<T>
where
    T::Err: std::fmt::Display,
{
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = path_parameter(parts, state, "name").await?;
        let refuse = |error: T::Err| Problem::bad_request(format!("`{text}` in the path: {error}"));
        text.parse().map(Self).map_err(refuse)
    }
}

pub(crate) async fn path_parameter<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    key: &str,
) -> Result<String, Problem> {
    let all = RawPathParams::from_request_parts(parts, state)
        .await
        .map_err(|error| Problem::bad_request(format!("the path cannot be read: {error}")))?;
    let found = all.iter().find(|(name, _)| *name == key);
    found
        .map(|(_, value)| value.to_owned())
        .ok_or_else(|| Problem::not_found("the path lacks a part"))
}

/// The query.
pub(crate) struct Asked<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(error) => Err(Problem::bad_request(format!(
                "the query cannot be read: {}",
                error.body_text()
            ))
            .help("`GET /admin/v1/openapi.json` describes every route")),
        }
    }
}

/// A text in the body.
pub(crate) struct Text(pub(crate) String);

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = Problem;
    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let bytes = collect(request.into_body()).await?;
        String::from_utf8(bytes).map(Self).map_err(|error| {
            Problem::bad_request(format!(
                "the body is not UTF-8 text: {}",
                error.utf8_error()
            ))
            .help("send YAML or JSON in UTF-8")
        })
    }
}

/// JSON in the body, whatever the content type says: `curl -d` says something else. An empty body is an empty object.
pub(crate) struct Input<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Input<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Text(text) = Text::from_request(request, state).await?;
        let text = if text.trim().is_empty() { "{}" } else { &text };
        serde_json::from_str(text).map(Self).map_err(|error| {
            let what = in_plain_words(&error.to_string());
            Problem::bad_request(format!("the body cannot be read as JSON: {what}"))
                .help("`GET /admin/v1/openapi.json` describes every body")
        })
    }
}

/// The whole body. What is beyond the limit is read too, and thrown away: who is still sending when the connection is closed
/// does not get to read the answer.
async fn collect(body: Body) -> Result<Vec<u8>, Problem> {
    let mut kept = Vec::new();
    let mut seen = 0;
    let mut stream = body.into_data_stream();
    while let Some(piece) = stream.next().await {
        let piece =
            piece.map_err(|_| Problem::bad_request("the body broke off").help("send it again"))?;
        seen += piece.len();
        if seen <= BODY_BYTES_MAX {
            kept.extend_from_slice(&piece);
        } else if seen > DISCARDED_BYTES_MAX {
            break;
        }
    }
    if seen > BODY_BYTES_MAX {
        return Err(too_large());
    }
    Ok(kept)
}

fn too_large() -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_large",
        format!("the body has more than {BODY_BYTES_MAX} bytes (1 MiB)"),
    )
    .help("split the file and send its parts one by one")
}
