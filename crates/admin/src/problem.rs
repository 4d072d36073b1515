//! Refusals as RFC 9457 problem documents: what was wrong, where, and what to do.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serin_config::ConfigError;
use serin_control::{ControlError, chain, kills::SwitchboardError};
use serin_flags::kill::KillError;
use serin_model::decide::RefusalKind;
use std::num::NonZeroU16;
use utoipa::ToSchema;

/// The media type of a problem document.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// A problem document. `help` and `problems` are extensions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// What kind, as a stable identifier: `urn:serin:problem:conflict`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The HTTP status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What was wrong, and where.
    pub detail: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub help: String,
    /// What is wrong in a file, place by place.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub problems: Box<[serde_json::Value]>,
    /// Seconds after which to try again; goes into the header.
    #[serde(skip)]
    retry_after: Option<NonZeroU16>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, kind: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:serin:problem:{kind}"),
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            help: String::new(),
            problems: Box::default(),
            retry_after: None,
        }
    }

    pub(crate) fn problems(mut self, problems: Vec<serde_json::Value>) -> Self {
        self.problems = problems.into();
        self
    }

    pub(crate) fn retry_after(mut self, seconds: NonZeroU16) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // Text and numbers only: there is nothing in it that could not be written.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.get()));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"serin\""),
            );
        }
        response
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        let internal = |help: &str| {
            tracing::error!(error = %chain(&error), "an admin request failed");
            Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", chain(&error)).help(help)
        };
        match &error {
            ControlError::Refused(refusal) => {
                let (status, kind) = match refusal.kind {
                    RefusalKind::NotFound => (StatusCode::NOT_FOUND, "not_found"),
                    RefusalKind::Conflict => (StatusCode::CONFLICT, "conflict"),
                    RefusalKind::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
                };
                Self::new(status, kind, refusal.what.clone()).help(refusal.help.clone())
            }
            ControlError::Kill(SwitchboardError::Refused(refused)) => {
                let (status, kind) = match refused {
                    _ if refused.is_invalid() => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
                    KillError::NotKilled(_) => (StatusCode::NOT_FOUND, "not_found"),
                    _ => (StatusCode::CONFLICT, "conflict"),
                };
                Self::new(status, kind, refused.to_string()).help(refused.help())
            }
            // In force, or still killed: the safe side of it. What is missing is that it lasts.
            ControlError::Kill(_) => {
                tracing::error!(error = %chain(&error), "the kill file cannot be written");
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "not_saved", chain(&error)).help(
                    "make room on the disk; the file is tried again each second, and `serin kills` shows what is in force",
                )
            }
            ControlError::NotLeader => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "not_leader",
                error.to_string(),
            ),
            ControlError::Stopped => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "stopped",
                error.to_string(),
            ),
            ControlError::Store(_) => internal("look at the log of this process and at its disk"),
            ControlError::Decode(_) => {
                internal("run the release that wrote the log, or restore a backup")
            }
        }
    }
}

impl From<ConfigError> for Problem {
    fn from(error: ConfigError) -> Self {
        let help = error
            .diagnostics
            .first()
            .map(|first| first.help.clone())
            .unwrap_or_default();
        let detail = error.diagnostics.first().map_or_else(
            || "the manifest is refused".to_owned(),
            |first| format!("{}: {}", first.place(), first.message),
        );
        let problems = error
            .diagnostics
            .iter()
            .filter_map(|found| serde_json::to_value(found).ok())
            .collect();
        Self {
            problems,
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "manifest", detail).help(help)
        }
    }
}
