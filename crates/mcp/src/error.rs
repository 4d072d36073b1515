//! JSON-RPC error bodies that the gateway itself answers with, and their codes.

use serde_json::value::RawValue;
use serde_json::{Value, json};

/// JSON-RPC: the body is not JSON.
pub const PARSE_ERROR: i64 = -32700;
/// JSON-RPC: the body is not a request object.
pub const INVALID_REQUEST: i64 = -32600;
/// JSON-RPC: the method does not exist.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// JSON-RPC: the parameters do not fit the method; in MCP also an unknown tool.
pub const INVALID_PARAMS: i64 = -32602;
/// JSON-RPC: the server failed.
pub const INTERNAL_ERROR: i64 = -32603;

/// MCP 2025-11-25: the client must first send its user to a URL (`URLElicitationRequiredError`).
pub const URL_ELICITATION_REQUIRED: i64 = -32042;

/// Why the gateway answers a request itself.
///
/// Its own codes lie above -32000: JSON-RPC reserves -32768..=-32000, and within it MCP reserves
/// -32020..=-32099, so ours cannot be taken for a server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GatewayError {
    /// -32700: the body is not JSON.
    Parse,
    /// -32600: the body is not a message, or not one that this version allows.
    InvalidRequest,
    /// -32601: no such method at the gateway.
    MethodNotFound,
    /// -32602: a parameter is wrong.
    InvalidParams,
    /// -32603: the gateway failed; a defect.
    Internal,
    /// -32020: header and body disagree. MCP's own code: the gateway says what the server would have to.
    HeaderMismatch,
    /// -31001: no endpoint of the version could be reached; nothing was sent to it.
    UpstreamUnavailable,
    /// -31002: the upstream accepted the call and then broke the connection or its framing.
    UpstreamBroken,
    /// -31003: the upstream did not answer in time.
    UpstreamTimeout,
    /// -31004: the session or minted value is not one of ours, or expired.
    UnknownSession,
    /// -31005: the version that made a value is gone, and nobody else can read it.
    VersionGone,
    /// -31006: the tool or service is switched off.
    Disabled,
    /// -31007: the caller may not do this.
    Forbidden,
    /// -31008: too many calls.
    RateLimited,
}

impl GatewayError {
    /// All of them, for documentation and tests.
    pub const ALL: [Self; 14] = [
        Self::Parse,
        Self::InvalidRequest,
        Self::MethodNotFound,
        Self::InvalidParams,
        Self::Internal,
        Self::HeaderMismatch,
        Self::UpstreamUnavailable,
        Self::UpstreamBroken,
        Self::UpstreamTimeout,
        Self::UnknownSession,
        Self::VersionGone,
        Self::Disabled,
        Self::Forbidden,
        Self::RateLimited,
    ];

    /// The JSON-RPC code.
    pub fn code(self) -> i64 {
        match self {
            Self::Parse => PARSE_ERROR,
            Self::InvalidRequest => INVALID_REQUEST,
            Self::MethodNotFound => METHOD_NOT_FOUND,
            Self::InvalidParams => INVALID_PARAMS,
            Self::Internal => INTERNAL_ERROR,
            Self::HeaderMismatch => crate::header::MISMATCH_CODE,
            Self::UpstreamUnavailable => -31001,
            Self::UpstreamBroken => -31002,
            Self::UpstreamTimeout => -31003,
            Self::UnknownSession => -31004,
            Self::VersionGone => -31005,
            Self::Disabled => -31006,
            Self::Forbidden => -31007,
            Self::RateLimited => -31008,
        }
    }

    /// A stable name for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::InvalidRequest => "invalid_request",
            Self::MethodNotFound => "method_not_found",
            Self::InvalidParams => "invalid_params",
            Self::Internal => "internal",
            Self::HeaderMismatch => "header_mismatch",
            Self::UpstreamUnavailable => "upstream_unavailable",
            Self::UpstreamBroken => "upstream_broken",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UnknownSession => "unknown_session",
            Self::VersionGone => "version_gone",
            Self::Disabled => "disabled",
            Self::Forbidden => "forbidden",
            Self::RateLimited => "rate_limited",
        }
    }
}

/// The body of a JSON-RPC error response.
///
/// `id` is the request's id as it stands in its body ([`crate::envelope::Message::id`]); `None`, or a
/// text that is not JSON, gives `null`, as JSON-RPC asks where the id is unknown.
pub fn error_body(
    id: Option<&str>,
    error: GatewayError,
    message: &str,
    data: Option<&Value>,
) -> String {
    let id = id
        .and_then(|id| serde_json::from_str::<&RawValue>(id).ok())
        .map_or("null", RawValue::get);
    let mut error = json!({ "code": error.code(), "message": message });
    if let (Some(fields), Some(data)) = (error.as_object_mut(), data) {
        fields.insert("data".to_owned(), data.clone());
    }
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
}

/// A body of [`error_body`] without an id, with the id of the request that it turned out to answer. Others stay as they are, and so
/// does it where the id is not JSON.
pub fn with_id(body: String, id: &str) -> String {
    let rest = body.strip_prefix(r#"{"jsonrpc":"2.0","id":null,"#);
    match (rest, serde_json::from_str::<&RawValue>(id)) {
        (Some(rest), Ok(id)) => format!(r#"{{"jsonrpc":"2.0","id":{id},{rest}"#),
        _ => body,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_body_without_an_id_is_given_one() {
        let body = |id| error_body(id, GatewayError::Forbidden, "no", None);
        for (before, id, after) in [
            (None, "7", Some("7")),
            (None, r#""a\"b""#, Some(r#""a\"b""#)),
            (None, r#"1,"x":2"#, None),
            (Some("8"), "7", Some("8")),
        ] {
            assert_eq!(with_id(body(before), id), body(after), "{before:?} {id}");
        }
        assert_eq!(with_id("[]".to_owned(), "7"), "[]");
    }

    #[test]
    fn a_body_carries_the_id_as_it_was() {
        for (id, want) in [
            (None, "null"),
            (Some("7"), "7"),
            (Some(r#""a\"b""#), r#""a\"b""#),
            (Some("1.50"), "1.50"),
            (Some(r#"1,"x":2"#), "null"),
            (Some(""), "null"),
        ] {
            let body = error_body(id, GatewayError::UpstreamTimeout, "a \"quote\"\n", None);
            assert!(
                body.starts_with(&format!(r#"{{"jsonrpc":"2.0","id":{want},"#)),
                "{body}"
            );
            let value: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(
                value["error"],
                json!({"code": -31003, "message": "a \"quote\"\n"})
            );
        }
    }

    #[test]
    fn data_is_carried() {
        let data = json!({"supported": ["2025-11-25"]});
        let body = error_body(Some("1"), GatewayError::InvalidParams, "no", Some(&data));
        let value: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(value["error"]["data"], data);
    }

    #[test]
    fn own_codes_stay_out_of_the_reserved_range_and_are_distinct() {
        let own = [
            PARSE_ERROR,
            INVALID_REQUEST,
            METHOD_NOT_FOUND,
            INVALID_PARAMS,
            INTERNAL_ERROR,
            crate::header::MISMATCH_CODE,
        ];
        for error in GatewayError::ALL {
            let code = error.code();
            assert!(
                own.contains(&code) || !(-32768..=-32000).contains(&code),
                "{error:?}"
            );
        }
        let codes: HashSet<_> = GatewayError::ALL.map(GatewayError::code).into();
        let names: HashSet<_> = GatewayError::ALL.map(GatewayError::name).into();
        assert_eq!((codes.len(), names.len()), (14, 14));
    }
}
