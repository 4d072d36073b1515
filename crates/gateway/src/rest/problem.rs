//! Problem documents (RFC 9457), and how the errors of MCP become such.

use crate::refusal::{Form, Refusal};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serin_mcp::error::{GatewayError, INVALID_PARAMS, URL_ELICITATION_REQUIRED};
use std::borrow::Cow;

/// Longest text of a server that is repeated as the detail of a problem, in characters; all of it stands in `error`.
const DETAIL_CHARS_MAX: usize = 500;

/// What was wrong, where, and what to do.
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    help: String,
    /// The tool that was called.
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<String>,
    /// The error in its own words: that of JSON-RPC, or the result of the tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    supported_versions: Option<Vec<u16>>,
}

/// The tool that a problem is about.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct About<'a> {
    pub(crate) tool: Option<&'a str>,
    /// Whether the version that answered is known to list it.
    pub(crate) is_listed: Option<bool>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, kind: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:serin:problem:{kind}"),
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: detail.into(),
            help: String::new(),
            tool: None,
            error: None,
            supported_versions: None,
        }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }

    pub(crate) fn about(mut self, about: About<'_>) -> Self {
        self.tool = about.tool.map(str::to_owned);
        self
    }

    pub(crate) fn error(mut self, error: &impl Serialize) -> Self {
        self.error = to_raw_value(error).ok();
        self
    }

    pub(crate) fn supported(mut self, versions: Vec<u16>) -> Self {
        self.supported_versions = Some(versions);
        self
    }

    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_GATEWAY)
    }

    /// As it is sent.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Turns a request away with it.
    pub(crate) fn refuse(self) -> Refusal {
        let (status, text) = (self.status(), self.text());
        Refusal::plain(status, "").translated(|_, _, _| (status, text))
    }

    /// That of a refusal of the gateway's own.
    pub(crate) fn of_refusal(status: StatusCode, text: &str, form: Form, about: About<'_>) -> Self {
        if form == Form::Rpc
            && let Ok(Answer { error }) = serde_json::from_str(text)
        {
            // What the gateway itself finds wrong in a message, and a status of its own says.
            let keeps = status.is_client_error() && status != StatusCode::NOT_FOUND;
            return Self::of_rpc(error, about, keeps.then_some(status));
        }
        Self::new(status, kind_of(status), text).about(about)
    }

    /// That of a JSON-RPC error, with the status `own` where the gateway has chosen one.
    pub(crate) fn of_rpc(error: &RawValue, about: About<'_>, own: Option<StatusCode>) -> Self {
        let RpcError { code, message } = serde_json::from_str(error.get()).unwrap_or_default();
        let (status, kind) = match (own, code) {
            (Some(status), _) if code != INVALID_PARAMS => (status, kind_of(status)),
            (_, INVALID_PARAMS) if is_unknown(&message, about) => {
                (StatusCode::NOT_FOUND, "unknown_tool")
            }
            (_, INVALID_PARAMS) => (StatusCode::BAD_REQUEST, "invalid_arguments"),
            (_, URL_ELICITATION_REQUIRED) => return Self::needs_client(about).error(&error),
            _ => status_of(code).map_or((StatusCode::BAD_GATEWAY, "tool_failed"), |status| {
                (status, kind_of(status))
            }),
        };
        let detail = if message.is_empty() {
            "the server answered with an error".to_owned()
        } else {
            shortened(&message)
        };
        Self::new(status, kind, detail).about(about).error(&error)
    }

    /// That of a result that says that the tool failed. `called_badly`: by the fault of whoever called it.
    pub(crate) fn of_tool(result: &RawValue, called_badly: bool, about: About<'_>) -> Self {
        let Failed { content } = serde_json::from_str(result.get()).unwrap_or_default();
        let text = content.iter().find_map(|block| block.text.as_deref());
        let text = text.unwrap_or_default();
        let (status, kind) = if about.is_listed == Some(false) && says_unknown(text) {
            (StatusCode::NOT_FOUND, "unknown_tool")
        } else if called_badly {
            (StatusCode::UNPROCESSABLE_ENTITY, "called_badly")
        } else {
            (StatusCode::BAD_GATEWAY, "tool_failed")
        };
        let detail = if text.is_empty() {
            "the tool failed and did not say why".to_owned()
        } else {
            shortened(text)
        };
        Self::new(status, kind, detail).about(about).error(&result)
    }

    /// The tool asks its caller something, which only an MCP client can answer.
    pub(crate) fn needs_client(about: About<'_>) -> Self {
        let detail = "this tool asks its caller something before it goes on";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "needs_mcp_client", detail)
            .help(
                "this tool needs an MCP client: REST cannot answer sampling, elicitation or tasks",
            )
            .about(about)
    }

    /// The server's answer is none.
    pub(crate) fn no_answer(detail: &str, about: About<'_>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "bad_answer", detail).about(about)
    }

    /// That of an answer that is no success and no JSON-RPC error. Whose credentials are refused, or who asks too often, is told so;
    /// whatever else is wrong between gateway and server is not the caller's fault.
    pub(crate) fn of_status(status: StatusCode, said: &str, about: About<'_>) -> Self {
        let own = match status {
            StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => status,
            _ => StatusCode::BAD_GATEWAY,
        };
        let detail = match said.trim() {
            "" => format!("the server answered {status}"),
            said => shortened(said),
        };
        Self::new(own, kind_of(own), detail).about(about)
    }
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    error: &'a RawValue,
}

#[derive(Default, Deserialize)]
struct RpcError<'a> {
    #[serde(default)]
    code: i64,
    #[serde(borrow, default)]
    message: Cow<'a, str>,
}

/// The code of a JSON-RPC error.
pub(crate) fn code_of(error: &RawValue) -> i64 {
    let error: RpcError<'_> = serde_json::from_str(error.get()).unwrap_or_default();
    error.code
}

#[derive(Default, Deserialize)]
struct Failed<'a> {
    #[serde(borrow, default)]
    content: Vec<Block<'a>>,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
}

/// Whether an error means that there is no such tool. The version's list says it where it is known; otherwise the words do in which
/// common servers put it.
fn is_unknown(message: &str, about: About<'_>) -> bool {
    match about.is_listed {
        Some(is_listed) => !is_listed,
        None => says_unknown(message),
    }
}

fn says_unknown(message: &str) -> bool {
    let message = message.to_lowercase();
    message.contains("tool")
        && ["unknown", "not found", "no such", "does not exist"]
            .iter()
            .any(|words| message.contains(words))
}

/// The status of a code that is the gateway's own.
fn status_of(code: i64) -> Option<StatusCode> {
    let of = |error: GatewayError| error.code() == code;
    let known = [
        (GatewayError::Disabled, StatusCode::SERVICE_UNAVAILABLE),
        (GatewayError::Forbidden, StatusCode::FORBIDDEN),
        (GatewayError::RateLimited, StatusCode::TOO_MANY_REQUESTS),
        (GatewayError::UpstreamTimeout, StatusCode::GATEWAY_TIMEOUT),
    ];
    let found = known.into_iter().find(|(error, _)| of(*error));
    found.map(|(_, status)| status)
}

/// What kind of problem a status is.
fn kind_of(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "bad_request",
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not_found",
        405 => "method_not_allowed",
        408 | 504 => "timeout",
        413 => "too_large",
        415 => "unsupported_media_type",
        429 => "rate_limited",
        503 => "unavailable",
        _ => "bad_gateway",
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(DETAIL_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn errors_of_json_rpc_have_a_status() {
        let about = |is_listed| About {
            tool: Some("add"),
            is_listed,
        };
        for (error, is_listed, status) in [
            (
                r#"{"code":-32602,"message":"a is missing"}"#,
                Some(true),
                400,
            ),
            (
                r#"{"code":-32602,"message":"Unknown tool: x"}"#,
                Some(true),
                400,
            ),
            (r#"{"code":-32602,"message":"no"}"#, Some(false), 404),
            (r#"{"code":-32602,"message":"Unknown tool: x"}"#, None, 404),
            (r#"{"code":-32602,"message":"Tool x not found"}"#, None, 404),
            (r#"{"code":-32602,"message":"a is missing"}"#, None, 400),
            (r#"{"code":-32603,"message":"oh"}"#, None, 502),
            (r#"{"code":-32601,"message":"oh"}"#, None, 502),
            (r#"{"code":-32042,"message":"oh"}"#, None, 422),
            (r#"{"code":-31006,"message":"oh"}"#, None, 503),
            (r#"{"code":-31007,"message":"oh"}"#, None, 403),
            (r#"{"code":-31008,"message":"oh"}"#, None, 429),
            (r#"{"code":-31003,"message":"oh"}"#, None, 504),
            (r#"{"message":7}"#, None, 502),
            ("7", None, 502),
        ] {
            let problem = Problem::of_rpc(raw(error), about(is_listed), None);
            assert_eq!(problem.status, status, "{error}");
            let written: serde_json::Value = serde_json::from_str(&problem.text()).unwrap();
            assert_eq!(written["tool"], "add");
            let said: serde_json::Value = serde_json::from_str(error).unwrap();
            assert_eq!(written["error"], said);
        }
    }

    #[test]
    fn a_failed_tool_is_the_callers_fault_or_not() {
        let about = About::default();
        let failed =
            r#"{"content":[{"type":"image"},{"type":"text","text":"boom"}],"isError":true}"#;
        let broken = Problem::of_tool(raw(failed), false, about);
        assert_eq!((broken.status, &*broken.detail), (502, "boom"));
        let badly = Problem::of_tool(raw(failed), true, about);
        assert_eq!(badly.status, 422);
        let silent = Problem::of_tool(raw(r#"{"isError":true}"#), false, about);
        assert!(silent.detail.contains("did not say why"));
        let absent = About {
            tool: Some("x"),
            is_listed: Some(false),
        };
        assert_eq!(Problem::of_tool(raw(failed), true, absent).status, 422);
        let unknown = r#"{"content":[{"type":"text","text":"Tool x not found"}],"isError":true}"#;
        assert_eq!(Problem::of_tool(raw(unknown), true, absent).status, 404);
        assert_eq!(Problem::of_tool(raw(unknown), true, about).status, 422);
    }

    #[test]
    fn only_what_concerns_the_caller_keeps_its_status() {
        for (status, own) in [
            (400, 502),
            (401, 401),
            (403, 403),
            (404, 502),
            (413, 413),
            (429, 429),
            (500, 502),
            (503, 503),
            (504, 504),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let problem = Problem::of_status(status, "", About::default());
            assert_eq!(problem.status, own, "{status}");
        }
    }

    #[test]
    fn a_refusal_of_the_gateway_keeps_what_it_says() {
        let about = About::default();
        let plain = Problem::of_refusal(StatusCode::FORBIDDEN, "no", Form::Plain, about);
        assert_eq!((plain.status, &*plain.detail), (403, "no"));
        let body = serin_mcp::error::error_body(None, GatewayError::InvalidRequest, "deep", None);
        let rpc = Problem::of_refusal(StatusCode::BAD_REQUEST, &body, Form::Rpc, about);
        assert_eq!((rpc.status, &*rpc.detail), (400, "deep"));
        let body = serin_mcp::error::error_body(
            None,
            GatewayError::InvalidParams,
            "Unknown tool: x",
            None,
        );
        let hidden = Problem::of_refusal(StatusCode::OK, &body, Form::Rpc, about);
        assert_eq!(hidden.status, 404);
    }
}
