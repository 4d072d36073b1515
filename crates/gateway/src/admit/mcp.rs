//! What an MCP request is: of which era, and whether it begins a session or belongs to one.

use super::{Admitted, Answered, checks::era_of};
use crate::{
    BODY_BYTES_PER_SECOND_MIN,
    body::{self, Pace, ToUpstream, Uncollected},
    forward::{self, Asks, Call, TOOLS_CHANGED, Treatment},
    headers,
    refusal::Refusal,
    rest,
    route::{self, Caller, Destination},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serin_mcp::{
    envelope::{Envelope, EnvelopeError, Kind, Message},
    era::{Era, ProtocolVersion},
    error::GatewayError,
};
use serin_model::{
    observe::{CallEra, Rejection},
    service::Protocol,
};
use serin_route::source::{Source, unless_said};
use std::time::Instant;

impl Admitted<'_> {
    pub(super) async fn mcp(&mut self, body: Incoming) -> Answered {
        let era = era_of(&self.headers);
        if era == Some(Era::Modern) {
            // 2026-07-28 has no sessions; one of ours would mean nothing to the server.
            self.headers.remove(&headers::SESSION_ID);
        }
        let session = self.headers.get(&headers::SESSION_ID).cloned();
        self.check_transport(session.is_some())?;
        if self.is_limited() && !matches!(self.rest, "" | "/") {
            // What a server has below its path are no messages of MCP, by which scopes could be asked.
            return Err(self.route_beyond());
        }
        self.find_limits();
        if self.method != Method::POST {
            self.check_method()?;
            self.check_no_body()?;
            self.check_signature(&[])?;
            self.check_limits(None).await?;
        }
        match (&self.method, session) {
            (&Method::POST, session) => {
                let body = self.collect(body).await?;
                self.complete = Instant::now();
                let checked = self.look_again();
                let checked = checked.and_then(|()| self.check_rule_by_head(true));
                checked.map_err(|refusal| refusal.answering(&body))?;
                self.check_signature(&body)?;
                self.find_limits();
                self.message(era, session, body).await
            }
            (&Method::GET | &Method::DELETE, Some(session)) => {
                drop(body);
                self.stream_or_end(session).await
            }
            (&Method::GET, None) if era != Some(Era::Modern) => {
                // HTTP+SSE of 2024-11-05.
                drop(body);
                let key = self.meeting_key();
                let to = self.route(without_session(&key))?;
                let to = self.meeting(to, &key);
                let viewer = self.any_viewer(None, CallEra::Legacy);
                let viewer = viewer.on(self.service, to.version);
                let mut headers = self.take_headers()?;
                let to = self.steer(to, self.chosen, Some(&viewer), &mut headers);
                let empty = ToUpstream::Full(None);
                let mut outbound = self.outbound(headers, to, empty, CallEra::Legacy, Asks::Stream);
                outbound.key = Some(&key);
                let inbound = forward::send(self.core, outbound).await?;
                let treatment = Treatment::Plain;
                // It begins with an event that says where messages go to.
                let sight = Self::stream_sight(viewer, Some(TOOLS_CHANGED), 1);
                let sight = Some(sight);
                Ok(forward::answer(self.core, self.service, inbound, treatment, sight).await)
            }
            _ => {
                drop(body);
                let era = if era == Some(Era::Modern) {
                    CallEra::Modern
                } else {
                    CallEra::Legacy
                };
                self.plain(ToUpstream::Full(None), era).await
            }
        }
    }

    /// Refuses all but Streamable HTTP where callers prove who they are. HTTP+SSE of 2024-11-05 has sessions that are the server's own,
    /// and nothing would keep one caller out of those of another; other requests without a message and without a session of ours are
    /// nothing of MCP, and no scope would be asked about them.
    fn check_transport(&self, has_session: bool) -> Result<(), Refusal> {
        let is_streamable = match self.method {
            Method::POST => true,
            Method::GET | Method::DELETE => has_session,
            _ => false,
        };
        if self.principal.is_none() || (is_streamable && !names_session(self.query)) {
            return Ok(());
        }
        let text = "callers with a key are served Streamable HTTP, which begins with a POST and has GET and DELETE in a session; HTTP+SSE of 2024-11-05 is not served to them";
        let refusal = Refusal::plain(StatusCode::METHOD_NOT_ALLOWED, text);
        let refusal = refusal.allow("POST").counted(Rejection::Session);
        Err(refusal.of(&self.service.name))
    }

    /// The headers for an endpoint of an MCP service.
    pub(super) fn take_headers(&mut self) -> Result<HeaderMap, Refusal> {
        let mut headers = std::mem::take(&mut self.headers);
        self.for_endpoint(&mut headers)?;
        headers::ask_for_identity(&mut headers);
        Ok(headers)
    }

    /// The body of a request of REST, as far as it needs one.
    pub(super) async fn rest_body(
        &self,
        place: &rest::Place,
        body: Incoming,
    ) -> Result<Bytes, Refusal> {
        if self.service.protocol != Protocol::Mcp {
            return Err(place.no_tools());
        }
        if place.has_body() {
            self.collect(body).await
        } else {
            Ok(Bytes::new())
        }
    }

    pub(super) async fn collect(&self, body: Incoming) -> Result<Bytes, Refusal> {
        let max = self.service.settings.body_bytes_max;
        let pace = Pace::collected(self.core.options());
        body::collect(body, max, pace).await.map_err(|why| {
            let refusal = match why {
                Uncollected::TooLarge => {
                    let text = format!(
                        "the body is larger than {max} bytes, which is the most that service `{}` takes; send less or raise its `body_bytes_max`",
                        self.service.name
                    );
                    Refusal::plain(StatusCode::PAYLOAD_TOO_LARGE, text)
                }
                Uncollected::Broken => {
                    Refusal::plain(StatusCode::BAD_REQUEST, "the body broke off")
                }
                Uncollected::TooSlow => {
                    let text = format!(
                        "the body came too slowly; send all of it within {} s, at {BODY_BYTES_PER_SECOND_MIN} bytes a second or faster",
                        pace.whole.as_secs()
                    );
                    Refusal::plain(StatusCode::REQUEST_TIMEOUT, text)
                }
            };
            refusal.counted(Rejection::Body).of(&self.service.name)
        })
    }

    pub(super) fn read<'b>(&self, body: &'b [u8]) -> Result<Envelope<'b>, Refusal> {
        Envelope::read(body).map_err(|error| {
            let (status, code) = match &error {
                EnvelopeError::TooLarge { .. } => {
                    (StatusCode::PAYLOAD_TOO_LARGE, GatewayError::InvalidRequest)
                }
                EnvelopeError::NotJson { .. } => (StatusCode::BAD_REQUEST, GatewayError::Parse),
                _ => (StatusCode::BAD_REQUEST, GatewayError::InvalidRequest),
            };
            let refusal = Refusal::rpc(status, None, code, &error.to_string());
            refusal.counted(Rejection::Body).of(&self.service.name)
        })
    }

    /// A POST: which era it is of, and whether it begins a session or belongs to one.
    pub(super) async fn message(
        &mut self,
        era: Option<Era>,
        session: Option<HeaderValue>,
        body: Bytes,
    ) -> Answered {
        if era == Some(Era::Modern) {
            return self.modern(body).await;
        }
        let shared = body.clone();
        let envelope = self.read(&shared)?;
        self.trail.asks(&envelope);
        self.check_reading(&envelope)?;
        self.check_rule(Some(&envelope))?;
        self.check_limits(Some(&envelope)).await?;
        let is_modern = |message: &Message<'_>| {
            let version = message.meta_protocol_version.as_deref();
            version
                .and_then(|version| ProtocolVersion::parse(version).ok())
                .is_some_and(|version| version.era() == Era::Modern)
        };
        match (envelope.single(), session) {
            // Whatever session a client had before, it begins another one.
            (Some(message), _)
                if message.method() == "initialize" && !names_session(self.query) =>
            {
                let body = self.unsealed(&envelope, body)?;
                self.initialize(message, body).await
            }
            (_, Some(session)) => {
                let body = self.unsealed(&envelope, body)?;
                self.in_session(session, &envelope, body).await
            }
            (Some(message), None) if is_modern(message) => self.modern(body).await,
            _ => {
                let body = self.unsealed(&envelope, body)?;
                self.sessionless(&envelope, body).await
            }
        }
    }

    /// Legacy without a session of ours: HTTP+SSE of 2024-11-05, or a client that forgot; the server knows.
    async fn sessionless(&mut self, envelope: &Envelope<'_>, body: Bytes) -> Answered {
        let key = self.meeting_key();
        let to = self.route(without_session(&key))?;
        let to = self.meeting(to, &key);
        let viewer = self.viewer(None, CallEra::Legacy);
        let viewer = viewer.map(|viewer| viewer.on(self.service, to.version));
        let closed = self.check_messages(viewer.as_ref(), envelope, CallEra::Legacy)?;
        let sight = self.sight(viewer.as_ref(), Some(envelope), CallEra::Legacy, closed);
        let mut headers = self.take_headers()?;
        let to = self.steer(to, self.chosen, viewer.as_ref(), &mut headers);
        let asks = asks(envelope);
        let mut outbound =
            self.outbound(headers, to, ToUpstream::full(body), CallEra::Legacy, asks);
        outbound.key = Some(&key);
        let inbound = forward::send(self.core, outbound).await?;
        let treatment = Treatment::Legacy {
            session: None,
            announces_move: false,
        };
        Ok(forward::answer(self.core, self.service, inbound, treatment, sight).await)
    }
}

impl Admitted<'_> {
    /// What both requests have by which the stream of HTTP+SSE meets its messages: what the service goes by, whatever rule fits them, and
    /// no cookie, which their clients do not keep.
    fn meeting_key(&self) -> Vec<u8> {
        let (who, sources) = (self.who(), route::sources(&self.service.settings, None));
        let mut lasting = (sources.list.iter()).filter(|from| !matches!(from, Source::Cookie(_)));
        let known = match sources.header {
            Some(_) => sources.first(&who, |_| None),
            None => lasting.find_map(|source| source.of(&who)),
        };
        known.unwrap_or_else(|| unless_said(&who)).key()
    }

    /// The endpoint where both meet, however the version balances.
    fn meeting(&self, to: Destination, key: &[u8]) -> Destination {
        let live = &*self.core.shared.loads;
        let version = self.service.versions.get(to.version);
        let endpoint =
            version.and_then(|version| route::choose_by_key(self.service, version, key, live));
        Destination {
            endpoint: endpoint.unwrap_or(to.endpoint),
            ..to
        }
    }
}

/// Where legacy messages without a session of ours go. HTTP+SSE of 2024-11-05 has its stream in one request and its
/// messages in others, which must meet: at stable, which alone is asked to speak it, and at one endpoint of it.
pub(super) fn without_session(key: &[u8]) -> Caller<'_> {
    Caller::New {
        key: Some(key),
        chosen: None,
        rule: None,
        stable_only: true,
    }
}

/// Whether a query has a session in it. The stream of HTTP+SSE tells its client where to send messages, and every server we
/// know of puts its session there, as `sessionId` or `session_id`; the transports after it have a header instead.
fn names_session(query: Option<&str>) -> bool {
    query.is_some_and(|query| {
        let mut names = query
            .split(['&', ';'])
            .filter_map(|pair| pair.split('=').next())
            .map(|name| percent_decode_str(name).collect::<Vec<_>>());
        names.any(|name| {
            ["sessionid", "session_id"]
                .iter()
                .any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
        })
    })
}

/// What a legacy body asks for.
pub(super) fn asks<'a>(envelope: &'a Envelope<'_>) -> Asks<'a> {
    let call = |message: &'a Message<'_>| {
        (message.kind == Kind::Request).then(|| Call {
            tool: (message.method() == "tools/call")
                .then(|| message.name.as_deref().unwrap_or_default()),
            id: message.id,
        })
    };
    if let Some(message) = envelope.single() {
        return call(message).map_or(Asks::Nothing, Asks::Call);
    }
    let calls: Vec<_> = envelope.messages.iter().filter_map(call).collect();
    if calls.is_empty() {
        Asks::Nothing
    } else {
        Asks::Batch(calls)
    }
}
