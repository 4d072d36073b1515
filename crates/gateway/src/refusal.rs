//! The gateway's own answers when it does not forward a request: what was wrong, where, and what to do.

use crate::{body::ToClient, headers};
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serin_mcp::error::{GatewayError, error_body};
use serin_model::{name::ServiceName, observe::Rejection};

/// When a client may ask again whether something killed is back. People revive it, which takes longer; a client that waits for more
/// than half a minute is taken for broken.
const RETRY_AFTER_SECONDS: u32 = 30;

/// A request turned away.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    text: String,
    json: bool,
    /// What it says beside its text.
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The version that failed, and whether it is the candidate.
    version: Option<(HeaderValue, bool)>,
    /// How it is counted; a failure of an endpoint is counted with its calls instead.
    pub(crate) counted: Option<Rejection>,
    /// The service, where one was found.
    pub(crate) service: Option<ServiceName>,
}

impl Refusal {
    /// In plain text.
    pub(crate) fn plain(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            json: false,
            headers: Vec::new(),
            version: None,
            counted: None,
            service: None,
        }
    }

    /// As a JSON-RPC error, which an MCP client takes for an answer of its server: a plain 400 or 404 would make a client of
    /// both eras believe that the server is legacy.
    pub(crate) fn rpc(
        status: StatusCode,
        id: Option<&str>,
        error: GatewayError,
        text: &str,
    ) -> Self {
        Self {
            json: true,
            ..Self::plain(status, error_body(id, error, text, None))
        }
    }

    pub(crate) fn counted(mut self, why: Rejection) -> Self {
        self.counted = Some(why);
        self
    }

    pub(crate) fn of(mut self, service: &ServiceName) -> Self {
        self.service = Some(service.clone());
        self
    }

    pub(crate) fn by_version(mut self, header: &HeaderValue, is_candidate: bool) -> Self {
        self.version = Some((header.clone(), is_candidate));
        self
    }

    /// Says something in a header.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn allow(self, methods: &'static str) -> Self {
        self.header(header::ALLOW, HeaderValue::from_static(methods))
    }

    /// A whole JSON answer, made elsewhere.
    pub(crate) fn json(status: StatusCode, text: String) -> Self {
        Self {
            json: true,
            ..Self::plain(status, text)
        }
    }

    /// Something of a service is killed: its version, or whatever a call under way needs.
    pub(crate) fn killed(service: &ServiceName) -> Self {
        Self::switched_off(
            service,
            &format!("what this call needs of service `{service}`"),
        )
    }

    /// A whole service is killed for a caller, by a target of this kind. The caller is told what it can know: that it is its own
    /// tenant, or that others have the same trouble.
    pub(crate) fn killed_by(scope: &str, service: &ServiceName) -> Self {
        match scope {
            "tenant" => Self::switched_off(service, "your tenant"),
            "system" | "environment" => Self::switched_off(service, "everything here"),
            _ => Self::switched_off(service, &format!("service `{service}`")),
        }
    }

    /// Plain, also to MCP: the client's error then says so, whatever it asked.
    fn switched_off(service: &ServiceName, what: &str) -> Self {
        let text = format!("{what} is switched off for now; try again later");
        Self::plain(StatusCode::SERVICE_UNAVAILABLE, text)
            .retry_after(RETRY_AFTER_SECONDS)
            .counted(Rejection::Kill)
            .of(service)
    }

    /// Says what a client has to show (RFC 9110, section 11.6.1).
    pub(crate) fn challenge(self, challenge: HeaderValue) -> Self {
        self.header(header::WWW_AUTHENTICATE, challenge)
    }

    /// When to come back.
    pub(crate) fn retry_after(self, seconds: u32) -> Self {
        self.header(header::RETRY_AFTER, seconds.into())
    }

    pub(crate) fn into_response(self) -> Response<ToClient> {
        let mut text = self.text;
        if !self.json && !text.is_empty() {
            text.push('\n');
        }
        let mut response = Response::new(ToClient::full(text));
        *response.status_mut() = self.status;
        let kind = if self.json {
            "application/json"
        } else {
            "text/plain; charset=utf-8"
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Some((version, is_candidate)) = self.version {
            headers::name_version(headers, version, is_candidate);
        }
        headers.extend(self.headers);
        response
    }
}
