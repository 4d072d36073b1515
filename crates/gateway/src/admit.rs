//! Admit: what a request is and whether it may pass. Its host and origin, its service, its era, the session or the minted
//! values it brings back, the version it asks for by hand.

use crate::{
    affinity,
    body::{self, ToClient, ToUpstream, Uncollected, purpose_of},
    connection::Connection,
    core::Core,
    forward::{self, Asks, Call, Outbound, Treatment},
    headers, lists,
    rebind::{self, Because},
    refusal::Refusal,
    route::{self, Caller, Destination, Nowhere},
    session::{self, Place, Token},
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts,
    uri::Authority,
};
use hyper::body::Incoming;
use serin_mcp::{
    envelope::{Envelope, EnvelopeError, Kind, Message, splice},
    era::{Era, ProtocolVersion},
    error::GatewayError,
    header::{decode, encode},
};
use serin_model::{
    name::EndpointId,
    observe::{CallEra, Rejection},
    service::Protocol,
    snapshot::ServiceRoute,
};
use std::{borrow::Cow, rc::Rc, time::Instant};
use uuid::Uuid;

/// Most names that a refusal lists.
const LISTED_MAX: usize = 10;

type Answered = Result<Response<ToClient>, Refusal>;

/// Answers one request.
pub(crate) async fn serve(
    core: Rc<Core>,
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Response<ToClient> {
    let busy = connection.begin();
    let response = match handle(&core, &connection, request).await {
        Ok(response) => response,
        Err(refusal) => {
            if let Some(why) = refusal.counted {
                core.counters.reject(refusal.service.as_ref(), why);
            }
            refusal.into_response()
        }
    };
    response.map(|body| body.with(busy))
}

/// A request whose service is known.
struct Admitted<'a> {
    core: &'a Rc<Core>,
    connection: &'a Connection,
    service: &'a ServiceRoute,
    method: Method,
    /// What stands behind the service's path.
    rest: &'a str,
    query: Option<&'a str>,
    headers: HeaderMap,
    host: &'a str,
    /// The version asked for by hand.
    chosen: Option<usize>,
    /// When all of it was there.
    complete: Instant,
}

async fn handle(core: &Rc<Core>, connection: &Connection, request: Request<Incoming>) -> Answered {
    let (parts, body) = request.into_parts();
    check_head(core, connection, &parts)?;
    if let Some(health) = health(core, &parts) {
        return Ok(health);
    }
    let host = host(&parts)?;
    let path = parts.uri.path();
    let name = host.host();
    let service = core.with_snapshot(|snapshot| snapshot.find(Some(name), path).cloned());
    if !admits_host(core, service.as_deref(), &host) {
        let text = format!(
            "host `{host}` is not served here; add it to `gateway.hosts`, or to the `hosts` of a service"
        );
        let refusal = Refusal::plain(StatusCode::FORBIDDEN, text);
        return Err(refusal.counted(Rejection::Host));
    }
    let Some(service) = service else {
        return Err(no_service(core, &parts));
    };
    let service = &*service;
    if service.protocol == Protocol::Mcp {
        check_origin(core, service, &parts.headers, &host)?;
    }
    let mut admitted = Admitted {
        core,
        connection,
        service,
        rest: path.get(service.path.len()..).unwrap_or_default(),
        query: parts.uri.query(),
        host: host.as_str(),
        chosen: chosen_version(service, &parts.headers)?,
        method: parts.method,
        headers: parts.headers,
        complete: Instant::now(),
    };
    match service.protocol {
        Protocol::Http => admitted.plain(body, CallEra::None).await,
        Protocol::Mcp => admitted.mcp(body).await,
    }
}

// What every request is asked.

fn check_head(core: &Core, connection: &Connection, parts: &Parts) -> Result<(), Refusal> {
    let options = core.options();
    let length = parts
        .uri
        .path_and_query()
        .map_or(0, |path| path.as_str().len());
    if length > options.uri_bytes_max {
        let text = format!(
            "the path and query have {length} bytes; the gateway takes at most {}",
            options.uri_bytes_max
        );
        return Err(Refusal::plain(StatusCode::URI_TOO_LONG, text));
    }
    // HTTP/1 was counted while it was read.
    if parts.headers.len() > options.headers_max {
        let text = format!("the gateway takes at most {} headers", options.headers_max);
        return Err(Refusal::plain(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            text,
        ));
    }
    if has_parent_segment(parts.uri.path()) {
        let text = "the path has a `..` in it; send it resolved";
        return Err(Refusal::plain(StatusCode::BAD_REQUEST, text).counted(Rejection::Route));
    }
    if parts.version < Version::HTTP_2
        && parts.headers.contains_key(header::TRANSFER_ENCODING)
        && connection.has_conflicting_lengths()
    {
        let text =
            "the request has both `Transfer-Encoding` and `Content-Length`; send one of them";
        return Err(Refusal::plain(StatusCode::BAD_REQUEST, text).counted(Rejection::Body));
    }
    Ok(())
}

/// Whether a path leads upwards, which a server might follow out of what the service shows of it.
fn has_parent_segment(path: &str) -> bool {
    if !path.contains("..") && !path.contains('%') {
        return false;
    }
    path.split(['/', '\\']).any(|segment| {
        let dots = segment.to_ascii_lowercase().replace("%2e", ".");
        let dots = dots.split("%5c").flat_map(|part| part.split("%2f"));
        dots.into_iter().any(|part| part == "..")
    })
}

/// The answer to a health check: on any host, since probes call addresses.
fn health(core: &Core, parts: &Parts) -> Option<Response<ToClient>> {
    let is_ready = match parts.uri.path() {
        "/health" | "/api/health" => true,
        "/ready" => {
            !core.is_stopping()
                && core.with_snapshot(|snapshot| {
                    snapshot.position > 0 || !snapshot.services.is_empty()
                })
        }
        _ => return None,
    };
    let (status, text) = if is_ready {
        (StatusCode::OK, "{\"status\":\"ok\"}\n")
    } else if core.is_stopping() {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "{\"status\":\"stopping\"}\n",
        )
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "{\"status\":\"starting\"}\n",
        )
    };
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        let text = "health is asked with GET";
        let refusal = Refusal::plain(StatusCode::METHOD_NOT_ALLOWED, text);
        return Some(refusal.allow("GET, HEAD").into_response());
    }
    let mut response = Response::new(ToClient::full(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(&headers::CANARY, headers::FALSE.clone());
    Some(response)
}

fn host(parts: &Parts) -> Result<Authority, Refusal> {
    if let Some(authority) = parts.uri.authority() {
        return Ok(authority.clone());
    }
    headers::text(&parts.headers, &header::HOST)
        .and_then(|host| host.parse().ok())
        .ok_or_else(|| {
            let text = "the request needs exactly one `Host` header, such as `127.0.0.1:8080`";
            Refusal::plain(StatusCode::BAD_REQUEST, text).counted(Rejection::Host)
        })
}

fn admits_host(core: &Core, service: Option<&ServiceRoute>, host: &Authority) -> bool {
    let name = host.host();
    let is_of_service =
        service.is_some_and(|service| service.hosts.iter().any(|h| h.eq_ignore_ascii_case(name)));
    is_of_service
        || core.options().hosts.iter().any(|admitted| {
            admitted == "*"
                || admitted.eq_ignore_ascii_case(name)
                || admitted.eq_ignore_ascii_case(host.as_str())
        })
}

/// MCP, "Security Warning" of the transports: a server must check `Origin`, and refuse with 403.
fn check_origin(
    core: &Core,
    service: &ServiceRoute,
    headers: &HeaderMap,
    host: &Authority,
) -> Result<(), Refusal> {
    if !headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    let origin = headers::text(headers, &header::ORIGIN).unwrap_or_default();
    let options = core.options();
    let authority = origin
        .split_once("://")
        .and_then(|(_, authority)| authority.parse::<Authority>().ok());
    let is_admitted = options
        .origins
        .iter()
        .any(|o| o.eq_ignore_ascii_case(origin))
        || authority.is_some_and(|authority| {
            let name = authority.host();
            name.eq_ignore_ascii_case(host.host())
                || name.eq_ignore_ascii_case("localhost")
                || name
                    .trim_matches(['[', ']'])
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|address| address.is_loopback())
                || (admits_host(core, Some(service), &authority)
                    && !options.hosts.iter().any(|host| host == "*"))
        });
    if is_admitted {
        return Ok(());
    }
    let shown: String = origin.chars().take(100).collect();
    let text = format!(
        "origin `{shown}` may not call service `{}`; add it to `gateway.origins`",
        service.name
    );
    let refusal = Refusal::plain(StatusCode::FORBIDDEN, text);
    Err(refusal.counted(Rejection::Origin).of(&service.name))
}

fn no_service(core: &Core, parts: &Parts) -> Refusal {
    let path: String = parts.uri.path().chars().take(200).collect();
    let served = core.with_snapshot(|snapshot| {
        let paths = snapshot.services.iter().take(LISTED_MAX);
        let paths: Vec<_> = paths.map(|s| format!("`{}`", shown(&s.path))).collect();
        paths.join(", ")
    });
    let text = if served.is_empty() {
        format!(
            "no service is served at `{path}`, nor anywhere yet; add one with `serin apply -f FILE`"
        )
    } else {
        format!("no service is served at `{path}`; served are {served}")
    };
    let refusal = match era_of(&parts.headers) {
        Some(Era::Modern) => Refusal::rpc(
            StatusCode::NOT_FOUND,
            None,
            GatewayError::InvalidRequest,
            &text,
        ),
        _ => Refusal::plain(StatusCode::NOT_FOUND, text),
    };
    refusal.counted(Rejection::Route)
}

fn shown(path: &str) -> &str {
    if path.is_empty() { "/" } else { path }
}

/// The version that the request asks for by hand, where the service allows it.
fn chosen_version(service: &ServiceRoute, headers: &HeaderMap) -> Result<Option<usize>, Refusal> {
    let overrides = service.settings.overrides;
    let refuse = |text: String| {
        let refusal = match era_of(headers) {
            Some(Era::Modern) => Refusal::rpc(
                StatusCode::BAD_REQUEST,
                None,
                GatewayError::InvalidRequest,
                &text,
            ),
            _ => Refusal::plain(StatusCode::BAD_REQUEST, text),
        };
        Err(refusal.counted(Rejection::Version).of(&service.name))
    };
    if overrides.version
        && let Some(value) = headers.get(&headers::VERSION)
    {
        let wanted = value.to_str().unwrap_or_default();
        let found = service
            .versions
            .iter()
            .position(|v| v.name.as_str() == wanted);
        if found.is_some() {
            return Ok(found);
        }
        let names = service.versions.iter().take(LISTED_MAX);
        let names: Vec<_> = names.map(|v| format!("`{}`", v.name)).collect();
        let wanted: String = wanted.chars().take(100).collect();
        return refuse(format!(
            "service `{}` has no version `{wanted}`; `X-Serin-Version` may be {}",
            service.name,
            names.join(", ")
        ));
    }
    if overrides.canary
        && let Some(value) = headers.get(&headers::CANARY)
    {
        return match value.as_bytes() {
            b"true" => Ok(service.split.as_ref().map(|split| split.candidate)),
            b"false" => Ok(Some(service.stable)),
            _ => refuse("`X-Canary` must be `true` or `false`".to_owned()),
        };
    }
    Ok(None)
}

fn era_of(headers: &HeaderMap) -> Option<Era> {
    let version = headers::text(headers, &headers::PROTOCOL_VERSION)?;
    Some(ProtocolVersion::parse(version).ok()?.era())
}

// What each kind of request is.

impl Admitted<'_> {
    fn affinity_key(&self) -> Vec<u8> {
        let settings = &self.service.settings;
        affinity::key(
            &self.headers,
            settings.affinity_header.as_deref(),
            self.connection,
            &self.core.options().trusted_proxies,
        )
    }

    /// Where a caller goes; notes the key if the split decided it.
    fn route(&self, caller: Caller<'_>) -> Result<Destination, Refusal> {
        let service = self.service;
        let to = route::route(service, caller).map_err(|nowhere| match nowhere {
            Nowhere::EndpointGone => {
                let text = "the version that made this value is gone; start again without it";
                let status = StatusCode::BAD_REQUEST;
                Refusal::rpc(status, None, GatewayError::VersionGone, text)
                    .counted(Rejection::Session)
                    .of(&service.name)
            }
            Nowhere::NoEndpoints { version } => {
                let version = service.versions.get(version).map(|v| v.name.as_str());
                let text = format!(
                    "version `{}` of service `{}` has no endpoint to serve it",
                    version.unwrap_or_default(),
                    service.name
                );
                Refusal::plain(StatusCode::SERVICE_UNAVAILABLE, text).of(&service.name)
            }
        })?;
        if let (true, Caller::New { key: Some(key), .. }) = (to.by_split, caller)
            && let Some(version) = service.versions.get(to.version)
        {
            self.core.counters.key_assigned(service, version, key);
        }
        Ok(to)
    }

    /// The request as it goes to the endpoint.
    fn outbound<'o>(
        &'o self,
        headers: HeaderMap,
        to: Destination,
        body: ToUpstream,
        era: CallEra,
        asks: Asks<'o>,
    ) -> Outbound<'o> {
        Outbound {
            service: self.service,
            to,
            key: None,
            method: self.method.clone(),
            rest: self.rest,
            query: self.query,
            headers,
            body,
            era,
            asks,
            is_tester: self.chosen.is_some(),
            complete: self.complete,
        }
    }

    /// Plain HTTP: assigned by affinity key, streamed both ways.
    async fn plain(&mut self, body: Incoming, era: CallEra) -> Answered {
        let key = self.affinity_key();
        let to = self.route(Caller::New {
            key: Some(&key),
            chosen: self.chosen,
            stable_only: false,
        })?;
        let mut headers = std::mem::take(&mut self.headers);
        headers::for_endpoint(&mut headers, self.connection, Some(self.host));
        let asks = match era {
            CallEra::None => Asks::Call(Call::default()),
            // A method that MCP does not know is no call.
            CallEra::Legacy | CallEra::Modern => Asks::Nothing,
        };
        let mut outbound = self.outbound(headers, to, ToUpstream::Stream(body), era, asks);
        outbound.key = Some(&key);
        let inbound = forward::send(self.core, outbound).await?;
        Ok(forward::answer(self.core, self.service, inbound, Treatment::Plain).await)
    }

    async fn mcp(&mut self, body: Incoming) -> Answered {
        let era = era_of(&self.headers);
        if era == Some(Era::Modern) {
            // 2026-07-28 has no sessions; one of ours would mean nothing to the server.
            self.headers.remove(&headers::SESSION_ID);
        }
        let session = self.headers.remove(&headers::SESSION_ID);
        match (&self.method, session) {
            (&Method::POST, session) => {
                let body = self.collect(body).await?;
                self.complete = Instant::now();
                self.message(era, session, body).await
            }
            (&Method::GET | &Method::DELETE, Some(session)) => {
                // Neither has a body.
                drop(body);
                self.stream_or_end(session).await
            }
            (&Method::GET, None) if era != Some(Era::Modern) => {
                // HTTP+SSE of 2024-11-05, which only stable is asked to speak.
                drop(body);
                let to = self.route(Caller::New {
                    key: None,
                    chosen: None,
                    stable_only: true,
                })?;
                let headers = self.take_headers();
                let empty = ToUpstream::Full(None);
                let outbound = self.outbound(headers, to, empty, CallEra::Legacy, Asks::Stream);
                let inbound = forward::send(self.core, outbound).await?;
                let treatment = Treatment::Plain;
                Ok(forward::answer(self.core, self.service, inbound, treatment).await)
            }
            _ => {
                let era = if era == Some(Era::Modern) {
                    CallEra::Modern
                } else {
                    CallEra::Legacy
                };
                self.plain(body, era).await
            }
        }
    }

    /// The headers for an endpoint of an MCP service.
    fn take_headers(&mut self) -> HeaderMap {
        let mut headers = std::mem::take(&mut self.headers);
        headers::for_endpoint(&mut headers, self.connection, Some(self.host));
        headers::ask_for_identity(&mut headers);
        headers
    }

    async fn collect(&self, body: Incoming) -> Result<Bytes, Refusal> {
        let max = self.service.settings.body_bytes_max;
        let time = self.core.options().body_timeout;
        body::collect(body, max, time).await.map_err(|why| {
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
                    let text = format!("the body did not come within {} s", time.as_secs());
                    Refusal::plain(StatusCode::REQUEST_TIMEOUT, text)
                }
            };
            refusal.counted(Rejection::Body).of(&self.service.name)
        })
    }

    fn read<'b>(&self, body: &'b [u8]) -> Result<Envelope<'b>, Refusal> {
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
    async fn message(
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
        let is_modern = |message: &Message<'_>| {
            let version = message.meta_protocol_version.as_deref();
            version
                .and_then(|version| ProtocolVersion::parse(version).ok())
                .is_some_and(|version| version.era() == Era::Modern)
        };
        match (envelope.single(), session) {
            // Whatever session a client had before, it begins another one.
            (Some(message), _) if message.method() == "initialize" => {
                self.initialize(message, body).await
            }
            (_, Some(session)) => self.in_session(session, &envelope, body).await,
            (Some(message), None) if is_modern(message) => self.modern(body).await,
            _ => self.sessionless(&envelope, body).await,
        }
    }

    /// Modern: stateless, assigned by affinity key unless a minted value leads to an endpoint.
    async fn modern(&mut self, body: Bytes) -> Answered {
        let method = self.header_text(&headers::METHOD);
        let name = self.header_text(&headers::NAME);
        let mut sent = body.clone();
        let mut pinned = None;
        let envelope = if method.is_none() || may_hold_minted(&body) {
            Some(self.read(&body)?)
        } else {
            None
        };
        if let Some(envelope) = &envelope {
            let unsealed = self.unseal(envelope)?;
            pinned = unsealed.endpoint;
            if !unsealed.edits.is_empty() {
                let edits: Vec<_> = unsealed
                    .edits
                    .iter()
                    .map(|(span, value)| (span.clone(), value.as_str()))
                    .collect();
                if let Some(spliced) = splice(&body, &edits) {
                    sent = spliced.into();
                }
            }
        }
        let message = envelope.as_ref().and_then(Envelope::single);
        let method =
            method.or_else(|| message.and_then(|message| message.method.as_deref().map(Cow::from)));
        let method = method.as_deref().unwrap_or_default();
        let key = self.affinity_key();
        let mut headers = self.take_headers();
        if sent.len() != body.len() {
            headers.insert(header::CONTENT_LENGTH, sent.len().into());
        }
        if method.starts_with("tasks/")
            && let Some(name) = &name
            && let Some((endpoint, value)) = self.open(serin_mcp::Minted::TaskId, name)
        {
            pinned = Some(agreed(pinned, endpoint).map_err(|()| self.torn())?);
            if let Ok(value) = HeaderValue::from_str(&encode(&value)) {
                headers.insert(&headers::NAME, value);
            }
        }
        let caller = match pinned {
            Some(endpoint) => Caller::Pinned(endpoint),
            None => Caller::New {
                key: Some(&key),
                chosen: self.chosen,
                stable_only: false,
            },
        };
        let to = self.route(caller)?;
        let tool = name
            .as_deref()
            .or_else(|| message.and_then(|message| message.name.as_deref()));
        let asks = match method {
            "subscriptions/listen" => Asks::Stream,
            "tools/call" => Asks::Call(Call {
                tool: Some(tool.unwrap_or_default()),
                id: None,
            }),
            method if method.starts_with("notifications/") => Asks::Nothing,
            _ => Asks::Call(Call::default()),
        };
        let mut outbound =
            self.outbound(headers, to, ToUpstream::full(sent), CallEra::Modern, asks);
        outbound.key = Some(&key);
        let inbound = forward::send(self.core, outbound).await?;
        let treatment = Treatment::Modern {
            restricts_list: lists::is_list(method)
                && (self.service.split.as_ref()).is_some_and(|split| split.contract_differs),
        };
        Ok(forward::answer(self.core, self.service, inbound, treatment).await)
    }

    fn header_text(&self, name: &http::HeaderName) -> Option<Cow<'static, str>> {
        let text = headers::text(&self.headers, name)?;
        Some(Cow::Owned(decode(text).ok()?.into_owned()))
    }

    /// Legacy `initialize`: a new session, which is its own affinity key.
    async fn initialize(&mut self, message: &Message<'_>, body: Bytes) -> Answered {
        let session = Uuid::new_v4();
        let version = message.protocol_version.as_deref();
        let version = version.and_then(|version| ProtocolVersion::parse(version).ok());
        let to = self.route(Caller::New {
            key: Some(session.as_bytes()),
            chosen: self.chosen,
            stable_only: version == Some(ProtocolVersion::V2024_11_05),
        })?;
        let headers = self.take_headers();
        let asks = Asks::Call(Call {
            tool: None,
            id: message.id,
        });
        let mut outbound =
            self.outbound(headers, to, ToUpstream::full(body), CallEra::Legacy, asks);
        outbound.key = Some(session.as_bytes());
        let mut inbound = forward::send(self.core, outbound).await?;
        let head = inbound.response.headers_mut();
        let upstream = head.remove(&headers::SESSION_ID);
        if inbound.response.status().is_success() {
            let token = Token {
                session,
                endpoint: inbound.endpoint,
                incarnation: self.core.sessions().incarnation,
                expires_seconds: session::now_seconds()
                    .saturating_add(self.service.settings.session_ttl.as_secs()),
                is_tester: self.chosen.is_some(),
                tenant: "".into(),
                upstream: match &upstream {
                    Some(id) => Some(id.to_str().map_err(|_| self.bad_session_id())?.into()),
                    None => None,
                },
                init: message.params.map(Into::into),
            };
            let sealed = token
                .seal(&self.core.shared.keys, self.service.name.as_str())
                .and_then(|text| HeaderValue::from_str(&text).ok())
                .ok_or_else(|| self.bad_session_id())?;
            let head = inbound.response.headers_mut();
            head.insert(&headers::SESSION_ID, sealed);
        }
        let treatment = Treatment::Legacy {
            session: None,
            announces_move: false,
        };
        Ok(forward::answer(self.core, self.service, inbound, treatment).await)
    }

    fn bad_session_id(&self) -> Refusal {
        let text = format!(
            "the server gave a session id that is not visible ASCII of at most {} bytes",
            session::UPSTREAM_BYTES_MAX
        );
        Refusal::plain(StatusCode::BAD_GATEWAY, text).of(&self.service.name)
    }

    /// Legacy without a session: a server that keeps none, or a client that forgot; the server knows.
    async fn sessionless(&mut self, envelope: &Envelope<'_>, body: Bytes) -> Answered {
        let key = self.affinity_key();
        let to = self.route(Caller::New {
            key: Some(&key),
            chosen: self.chosen,
            stable_only: false,
        })?;
        let headers = self.take_headers();
        let asks = asks(envelope);
        let mut outbound =
            self.outbound(headers, to, ToUpstream::full(body), CallEra::Legacy, asks);
        outbound.key = Some(&key);
        let inbound = forward::send(self.core, outbound).await?;
        let treatment = Treatment::Legacy {
            session: None,
            announces_move: false,
        };
        Ok(forward::answer(self.core, self.service, inbound, treatment).await)
    }

    /// A legacy message in a session: to where the session lives, byte for byte.
    async fn in_session(
        &mut self,
        session: HeaderValue,
        envelope: &Envelope<'_>,
        body: Bytes,
    ) -> Answered {
        let token = self.token(&session)?;
        self.note(&token, envelope);
        // Answers to the server, and notifications about its calls, belong to where the calls are.
        let moves = envelope
            .messages
            .iter()
            .any(|message| message.kind == Kind::Request);
        let mut place = self.place(&token, moves).await?;
        let to = self
            .route(Caller::Pinned(place.endpoint))
            .map_err(|_| self.gone(&token))?;
        let headers = self.take_headers();
        let outbound = |place: &Place, to| {
            let mut headers = headers.clone();
            set_session(&mut headers, place);
            let body = ToUpstream::full(body.clone());
            let mut outbound = self.outbound(headers, to, body, CallEra::Legacy, asks(envelope));
            outbound.is_tester |= token.is_tester;
            outbound
        };
        let mut inbound = forward::send(self.core, outbound(&place, to)).await?;
        // The server has forgotten the session: it was started anew.
        if inbound.response.status() == StatusCode::NOT_FOUND
            && place.upstream.is_some()
            && let Some(again) = rebind::rebind(
                self.core,
                self.service,
                &token,
                &place,
                to,
                &headers,
                Because::Forgotten,
            )
            .await
        {
            inbound.discard();
            place = again;
            inbound = forward::send(self.core, outbound(&place, to)).await?;
        }
        let treatment = Treatment::Legacy {
            session: Some((token, session)),
            announces_move: false,
        };
        Ok(forward::answer(self.core, self.service, inbound, treatment).await)
    }

    /// GET: the stream of a session. DELETE: its end.
    async fn stream_or_end(&mut self, session: HeaderValue) -> Answered {
        let token = self.token(&session)?;
        let is_end = self.method == Method::DELETE;
        let place = self.place(&token, !is_end).await?;
        let to = self
            .route(Caller::Pinned(place.endpoint))
            .map_err(|_| self.gone(&token))?;
        let mut headers = self.take_headers();
        set_session(&mut headers, &place);
        let is_moved = self.core.sessions().moved(token.session).is_some();
        if is_moved {
            // It may name an event of the server where the session lived before.
            headers.remove(&headers::LAST_EVENT_ID);
        }
        let asks = if is_end { Asks::Nothing } else { Asks::Stream };
        let empty = ToUpstream::Full(None);
        let outbound = self.outbound(headers, to, empty, CallEra::Legacy, asks);
        let inbound = forward::send(self.core, outbound).await?;
        if is_end && inbound.response.status().is_success() {
            self.core.sessions().end(token.session);
        }
        let treatment = Treatment::Legacy {
            session: Some((token, session)),
            announces_move: is_moved && !is_end,
        };
        Ok(forward::answer(self.core, self.service, inbound, treatment).await)
    }

    /// What a session id says.
    fn token(&self, session: &HeaderValue) -> Result<Rc<Token>, Refusal> {
        let (keys, service) = (&self.core.shared.keys, self.service.name.as_str());
        Token::open(keys, service, session.as_bytes(), session::now_seconds())
            .map(Rc::new)
            .ok_or_else(|| {
                let text = "the session id is not one of this service, or its time is over; initialize again";
                self.no_session(text)
            })
    }

    fn no_session(&self, text: &str) -> Refusal {
        let status = StatusCode::NOT_FOUND;
        Refusal::rpc(status, None, GatewayError::UnknownSession, text)
            .counted(Rejection::Session)
            .of(&self.service.name)
    }

    /// The version of a session was taken back, and the session cannot go on with another.
    fn gone(&self, _: &Token) -> Refusal {
        self.core
            .counters
            .moved(&self.service.name, |moved| moved.ended += 1);
        self.no_session("the version that kept this session was taken back; initialize again")
    }

    /// Where a session lives, after it was moved if it has to and may.
    async fn place(&self, token: &Rc<Token>, moves: bool) -> Result<Place, Refusal> {
        let sessions = self.core.sessions();
        let place = sessions.moved(token.session).unwrap_or_else(|| Place {
            endpoint: token.endpoint,
            upstream: token.upstream.clone(),
        });
        let at = route::locate(self.service, place.endpoint);
        let must_move = at.is_none_or(|(version, _)| route::is_withdrawn(self.service, version));
        if !must_move || !moves {
            return Ok(place);
        }
        let to = self.route(Caller::New {
            key: Some(token.session.as_bytes()),
            chosen: None,
            stable_only: true,
        })?;
        let because = Because::Withdrawn;
        let mut headers = self.headers.clone();
        headers::for_endpoint(&mut headers, self.connection, Some(self.host));
        rebind::rebind(
            self.core,
            self.service,
            token,
            &place,
            to,
            &headers,
            because,
        )
        .await
        .ok_or_else(|| self.gone(token))
    }

    /// Notes what a message does to its session.
    fn note(&self, token: &Token, envelope: &Envelope<'_>) {
        let sessions = self.core.sessions();
        for message in &envelope.messages {
            let makes_state = match message.kind {
                // Sampling, elicitation, roots: the server waits for it.
                Kind::Response => true,
                Kind::Request | Kind::Notification => {
                    let method = message.method();
                    matches!(method, "resources/subscribe" | "logging/setLevel")
                        || method.starts_with("tasks/")
                }
            };
            if makes_state {
                sessions.mark_stateful(token);
            }
            if let ("notifications/cancelled", Some(id)) = (message.method(), message.request_id) {
                sessions.cancel(token.session, id);
            }
        }
    }

    // Minted values.

    fn open(&self, kind: serin_mcp::Minted, text: &str) -> Option<(EndpointId, String)> {
        let (keys, service) = (&self.core.shared.keys, self.service.name.as_str());
        session::open_minted(keys, purpose_of(kind), service, text)
    }

    fn unseal(&self, envelope: &Envelope<'_>) -> Result<Unsealed, Refusal> {
        let mut unsealed = Unsealed::default();
        for message in &envelope.messages {
            for minted in &message.minted {
                // What is not ours goes on as it is: the server refuses it in its own words, as it would without us.
                let Some((endpoint, value)) = self.open(minted.kind, &minted.value) else {
                    continue;
                };
                let agreed = agreed(unsealed.endpoint, endpoint).map_err(|()| self.torn())?;
                unsealed.endpoint = Some(agreed);
                unsealed.edits.push((minted.span.clone(), value));
            }
        }
        Ok(unsealed)
    }

    fn torn(&self) -> Refusal {
        let text = "the values come from two versions; start again without them";
        let status = StatusCode::BAD_REQUEST;
        Refusal::rpc(status, None, GatewayError::InvalidParams, text)
            .counted(Rejection::Session)
            .of(&self.service.name)
    }
}

/// What a request's minted values say.
#[derive(Default)]
struct Unsealed {
    endpoint: Option<EndpointId>,
    edits: Vec<(std::ops::Range<usize>, String)>,
}

fn agreed(before: Option<EndpointId>, now: EndpointId) -> Result<EndpointId, ()> {
    match before {
        Some(before) if before != now => Err(()),
        _ => Ok(now),
    }
}

/// Whether a body can hold a value that a version minted. A backslash may hide a key.
fn may_hold_minted(body: &[u8]) -> bool {
    use memchr::memmem::find;
    memchr::memchr(b'\\', body).is_some()
        || find(body, b"requestState").is_some()
        || find(body, b"taskId").is_some()
        || find(body, b"cursor").is_some()
}

fn set_session(headers: &mut HeaderMap, place: &Place) {
    let id = place.upstream.as_deref();
    match id.and_then(|id| HeaderValue::from_str(id).ok()) {
        Some(id) => headers.insert(&headers::SESSION_ID, id),
        None => headers.remove(&headers::SESSION_ID),
    };
}

/// What a legacy body asks for.
fn asks<'a>(envelope: &'a Envelope<'_>) -> Asks<'a> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_upwards_are_found() {
        for (path, up) in [
            ("/mcp/../admin", true),
            ("/mcp/%2e%2E/admin", true),
            ("/mcp/.%2e", true),
            ("/mcp/a%2f..%2fb", true),
            ("/mcp\\..\\b", true),
            ("/mcp/..a/b..", false),
            ("/mcp/a...b/%2e/x", false),
            ("/mcp", false),
        ] {
            assert_eq!(has_parent_segment(path), up, "{path}");
        }
    }

    #[test]
    fn a_body_that_may_hide_a_minted_value_is_read() {
        for body in [
            "{\"cursor\":1}",
            "{\"requestState\":1}",
            "{\"taskId\":1}",
            "{\"curs\\u006fr\":1}",
        ] {
            assert!(may_hold_minted(body.as_bytes()), "{body}");
        }
        assert!(!may_hold_minted(b"{\"name\":\"add\"}"));
    }
}
