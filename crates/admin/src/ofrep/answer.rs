//! What clients get for a flag, and for what cannot be answered.

use super::asked::Asker;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use serin_control::flags::FlagsNow;
use serin_flags::{
    ErrorCode, Evaluation, FlagKey, Reason, Why, evaluation::Context, flag::Metadata,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Longest key that is repeated in an answer, in characters.
const KEY_CHARS_MAX: usize = 128;

/// What a flag answers. All fields are always there: some clients break without.
#[derive(Debug, Serialize)]
pub(crate) struct Answer<'a> {
    key: FlagKey,
    value: &'a Value,
    variant: &'a str,
    reason: &'static str,
    metadata: BTreeMap<&'a str, Note<'a>>,
    #[serde(skip)]
    counted: Reason,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Note<'a> {
    Own(&'a Metadata),
    Text(&'static str),
}

impl<'a> Answer<'a> {
    /// What a flag answers somebody; nothing if there is none of this key.
    pub(super) fn of(now: &'a FlagsNow, key: &str, asker: &Asker) -> Option<Self> {
        let key: FlagKey = key.parse().ok()?;
        let evaluation = evaluate(now, key.as_str(), asker)?;
        let flag = now.table().flags.get(&key);
        let own = flag.into_iter().flat_map(|flag| &flag.metadata);
        let mut metadata: BTreeMap<_, _> = own
            .map(|(name, note)| (name.as_ref(), Note::Own(note)))
            .collect();
        metadata.insert("serin.why", Note::Text(why(evaluation.why)));
        if let Some(error) = evaluation.error {
            metadata.insert("serin.error", Note::Text(error_code(error)));
        }
        Some(Self {
            key,
            value: evaluation.value,
            variant: evaluation.variant,
            reason: reason(evaluation.reason),
            metadata,
            counted: evaluation.reason,
        })
    }

    /// As it is counted.
    pub(super) fn counted(&self) -> (FlagKey, Arc<str>, Reason) {
        (self.key.clone(), self.variant.into(), self.counted)
    }
}

/// Every flag that answers something: those with a definition, and those that only the process's environment names.
pub(crate) fn keys(now: &FlagsNow) -> BTreeSet<&FlagKey> {
    now.table().keys().collect()
}

/// Evaluates a flag for somebody. A kill where the process runs cannot be evaded by naming another environment.
pub(crate) fn evaluate<'a>(now: &'a FlagsNow, key: &str, asker: &Asker) -> Option<Evaluation<'a>> {
    let table = now.table();
    let asked = asker.context(table.environment);
    let context = if now.latch.stops_flags(asked.tenant, table.environment) {
        Context {
            environment: table.environment,
            ..asked
        }
    } else {
        asked
    };
    table.evaluate(&now.latch, key, &context)
}

/// The protocol knows neither `DEFAULT` nor `ERROR`. A flag whose rule cannot be evaluated has a value all the same, so that all
/// clients get the same one.
const fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Static => "STATIC",
        Reason::TargetingMatch => "TARGETING_MATCH",
        Reason::Split => "SPLIT",
        Reason::Disabled => "DISABLED",
        Reason::Default | Reason::Error => "UNKNOWN",
    }
}

/// The step of the order of evaluation that decided, as it is written.
pub(crate) const fn why(why: Why) -> &'static str {
    match why {
        Why::Latch => "latch",
        Why::Kill => "kill",
        Why::Expired => "expired",
        Why::TenantOverride => "tenant_override",
        Why::EnvironmentOverride => "environment_override",
        Why::Rollout => "rollout",
        Why::Release => "release",
        Why::State => "state",
        Why::Schedule => "schedule",
        Why::Targeting => "targeting",
        Why::Default => "default",
    }
}

const fn error_code(error: ErrorCode) -> &'static str {
    match error {
        ErrorCode::ParseError => "PARSE_ERROR",
        ErrorCode::General => "GENERAL",
    }
}

/// What went wrong, as the protocol names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Code {
    ParseError,
    InvalidContext,
    FlagNotFound,
    General,
}

/// Why there is no answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Failure {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    error_code: Code,
    pub(crate) error_details: String,
}

impl Failure {
    pub(super) fn new(code: Code, details: impl Into<String>) -> Self {
        Self {
            key: None,
            error_code: code,
            error_details: details.into(),
        }
    }

    pub(super) fn unknown(key: &str) -> Self {
        let shown: String = key.chars().take(KEY_CHARS_MAX).collect();
        Self::new(
            Code::FlagNotFound,
            format!("there is no flag `{shown}`: it is off"),
        )
        .of(key)
    }

    /// About a flag.
    pub(super) fn of(mut self, key: &str) -> Self {
        self.key = Some(key.chars().take(KEY_CHARS_MAX).collect());
        self
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.error_code {
            Code::FlagNotFound => StatusCode::NOT_FOUND,
            Code::ParseError | Code::InvalidContext | Code::General => StatusCode::BAD_REQUEST,
        };
        let mut response = super::fresh(&self);
        *response.status_mut() = status;
        response
    }
}
