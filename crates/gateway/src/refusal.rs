//! The gateway's own answers when it does not forward a request: what was wrong, where, and what to do.

use crate::{body::ToClient, headers};
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serin_mcp::{
    envelope::{Envelope, Kind},
    error::{GatewayError, error_body, with_id},
};
use serin_model::{name::ServiceName, observe::Rejection};
use std::borrow::Cow;

/// When a client may ask again whether something killed is back. People revive it, which takes longer; a client that waits for more
/// than half a minute is taken for broken.
const RETRY_AFTER_SECONDS: u32 = 30;
/// When a client may ask again whether requests can be recorded: somebody has to free a disk first.
const UNRECORDED_RETRY_SECONDS: u32 = 10;
/// When a client may ask again whether an endpoint may be used: after two of the health checks that make one healthy.
const UNUSABLE_RETRY_SECONDS: u32 = 10;
/// When a client may ask again whether there is room: calls end all the time.
const OVERLOADED_RETRY_SECONDS: u32 = 1;

/// How a refusal is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// In plain text.
    Plain,
    /// As an answer of JSON-RPC.
    Rpc,
    /// As a problem document (RFC 9457).
    Problem,
}

/// A request turned away.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    text: String,
    form: Form,
    /// What it says beside its text.
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The version that failed, and whether it is the candidate.
    version: Option<Box<(HeaderValue, bool)>>,
    /// What its caller is not told, and whoever runs the gateway is.
    why: Option<Box<str>>,
    /// The endpoint could not be reached, or not be used: nothing was sent.
    pub(crate) is_unreached: bool,
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
            form: Form::Plain,
            headers: Vec::new(),
            version: None,
            why: None,
            is_unreached: false,
            counted: None,
            service: None,
        }
    }

    /// Nothing was sent, since the endpoint could not be reached, or not be used.
    pub(crate) fn unreached(mut self) -> Self {
        self.is_unreached = true;
        self
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
            form: Form::Rpc,
            ..Self::plain(status, error_body(id, error, text, None))
        }
    }

    /// Whether it is an answer of JSON-RPC, for which a client looks by the id of its request.
    pub(crate) fn is_rpc(&self) -> bool {
        self.form == Form::Rpc
    }

    /// An answer of JSON-RPC made before the body was there, as that to the request in the body.
    pub(crate) fn answering(mut self, body: &[u8]) -> Self {
        let envelope = self.is_rpc().then(|| Envelope::read(body).ok()).flatten();
        let message = envelope.as_ref().and_then(Envelope::single);
        let request = message.filter(|message| message.kind == Kind::Request);
        if let Some(id) = request.and_then(|request| request.id) {
            self.text = with_id(self.text, id);
        }
        self
    }

    /// Says in the records why, where its caller must not learn that.
    pub(crate) fn because(mut self, why: &str) -> Self {
        self.why = Some(why.into());
        self
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
        self.version = Some(Box::new((header.clone(), is_candidate)));
        self
    }

    /// Says something in a header.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Says which methods there are; an empty text that there is none.
    pub(crate) fn allow(self, methods: &str) -> Self {
        match HeaderValue::from_str(methods) {
            Ok(methods) => self.header(header::ALLOW, methods),
            Err(_) => self,
        }
    }

    /// A whole JSON answer, made elsewhere.
    pub(crate) fn json(status: StatusCode, text: String) -> Self {
        Self {
            form: Form::Rpc,
            ..Self::plain(status, text)
        }
    }

    /// The same in the words of the REST side: `translate` makes a problem document, with its status, of status, text and form.
    pub(crate) fn translated(
        mut self,
        translate: impl FnOnce(StatusCode, &str, Form) -> (StatusCode, String),
    ) -> Self {
        if self.form != Form::Problem {
            (self.status, self.text) = translate(self.status, &self.text, self.form);
            self.form = Form::Problem;
        }
        self
    }

    /// Its status.
    #[cfg(test)]
    pub(crate) fn status(&self) -> StatusCode {
        self.status
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

    /// It could not be recorded, and must be.
    pub(crate) fn unrecorded() -> Self {
        let text =
            "requests cannot be recorded for now, and none is served that is not; try again later";
        Self::plain(StatusCode::SERVICE_UNAVAILABLE, text)
            .retry_after(UNRECORDED_RETRY_SECONDS)
            .counted(Rejection::Audit)
    }

    /// No endpoint of a version may be used, and the service says not to try one all the same.
    pub(crate) fn unusable(service: &ServiceName, version: &str) -> Self {
        let text = format!(
            "no endpoint of version `{version}` of service `{service}` can be used for now; nothing was sent, try again later"
        );
        Self::plain(StatusCode::SERVICE_UNAVAILABLE, text)
            .retry_after(UNUSABLE_RETRY_SECONDS)
            .counted(Rejection::Unusable)
            .of(service)
            .unreached()
    }

    /// So much is under way already that there is no room for one more.
    pub(crate) fn overloaded(service: &ServiceName, what: &str) -> Self {
        let text = format!(
            "{what} has as many calls under way as it takes; nothing was sent, try again later"
        );
        Self::plain(StatusCode::SERVICE_UNAVAILABLE, text)
            .retry_after(OVERLOADED_RETRY_SECONDS)
            .counted(Rejection::Overload)
            .of(service)
    }

    /// What is recorded of it, for people: why it is, else what it says, of a JSON-RPC error its message, of a problem document its detail.
    pub(crate) fn words(&self) -> Cow<'_, str> {
        if let Some(why) = &self.why {
            return Cow::Borrowed(why);
        }
        let field = |document: &serde_json::Value, at| {
            document
                .pointer(at)
                .and_then(serde_json::Value::as_str)
                .map(str::to_owned)
        };
        let words = || {
            let document = serde_json::from_str(&self.text).ok()?;
            ["/error/message", "/detail", "/title"]
                .into_iter()
                .find_map(|at| field(&document, at))
        };
        words().map_or(Cow::Borrowed(self.text.as_str()), Cow::Owned)
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
        if self.form == Form::Plain && !text.is_empty() {
            text.push('\n');
        }
        let mut response = Response::new(ToClient::full(text));
        *response.status_mut() = self.status;
        let kind = match self.form {
            Form::Plain => "text/plain; charset=utf-8",
            Form::Rpc => "application/json",
            Form::Problem => "application/problem+json",
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Some(version) = self.version {
            let (version, is_candidate) = *version;
            headers::name_version(headers, version, is_candidate);
        }
        headers.extend(self.headers);
        response
    }
}
