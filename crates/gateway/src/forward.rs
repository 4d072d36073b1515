//! Forward: a request to its endpoint, and the answer back, frame by frame.

use crate::{
    access::{View, Viewer},
    affinity,
    audit::Trail,
    auth,
    body::{Listener, Minter, Reading, Recheck, Relay, ToClient, ToUpstream, Upload, joined},
    core::Core,
    headers,
    kills::{self, Cut},
    lists,
    observe::{Calls, Observation, Tool},
    pool::{Lease, SendError, Target},
    refusal::Refusal,
    route::{self, Destination},
    seal::Owner,
    session::Token,
    sieve::Sieve,
    trials::Trial,
};
use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, response::Parts,
};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serin_flags::Latch;
use serin_mcp::scan::BodyKind;
use serin_model::{
    name::EndpointId,
    observe::{CallEra, Outcome, Rejection},
    snapshot::{ServiceRoute, VersionRoute},
};
use serin_tenancy::Principal;
use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// Largest list that is changed on its way: a page of tools with their schemas.
const LIST_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Tells the client of a moved session to ask for the tools again (2025-11-25, "List Changed Notification").
pub(crate) const TOOLS_CHANGED: Bytes = Bytes::from_static(
    b"data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\n",
);
/// Time from one look at an open answer to the next: whether it must end.
const RECHECK_EVERY: Duration = Duration::from_secs(1);

/// A request that is ready to go.
pub(crate) struct Outbound<'a> {
    pub(crate) service: &'a ServiceRoute,
    pub(crate) to: Destination,
    /// Keeps the choice of another endpoint, should the first not be reached.
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) method: Method,
    /// What the client wrote behind the service's path.
    pub(crate) rest: &'a str,
    pub(crate) query: Option<&'a str>,
    /// All of them but `Host`.
    pub(crate) headers: HeaderMap,
    pub(crate) body: ToUpstream,
    pub(crate) era: CallEra,
    pub(crate) asks: Asks<'a>,
    pub(crate) is_tester: bool,
    /// The hash of the caller's key, if the caller is one of those by whom the versions are compared.
    pub(crate) compared: Option<u64>,
    /// The legacy session, where its client may cancel calls by a notification.
    pub(crate) session: Option<Uuid>,
    /// Whose it is.
    pub(crate) tenant: Option<&'a str>,
    /// Who sent it, where that was proven.
    pub(crate) principal: Option<&'a Arc<Principal>>,
    /// The core's alarm when the kills were read.
    pub(crate) alarm: u64,
    /// Where it stands what becomes of it.
    pub(crate) trail: Trail,
    /// When the gateway had all of the request.
    pub(crate) complete: Instant,
}

/// What a request asks for, in the client's words.
pub(crate) enum Asks<'a> {
    /// Nothing that is answered: a notification, an answer to the server, the end of a session.
    Nothing,
    /// An open stream of events.
    Stream,
    /// One call.
    Call(Call<'a>),
    /// The calls of a batch, which have ids.
    Batch(Vec<Call<'a>>),
}

/// One call.
#[derive(Clone, Copy, Default)]
pub(crate) struct Call<'a> {
    /// The tool, where one is called.
    pub(crate) tool: Option<&'a str>,
    /// Its JSON-RPC id as it stands in the body.
    pub(crate) id: Option<&'a str>,
}

impl Asks<'_> {
    /// The same in the words of the counters.
    fn label(self, mut label: impl FnMut(Option<&str>) -> Rc<Tool>) -> Calls {
        match self {
            Self::Nothing => Calls::None,
            Self::Stream => Calls::Stream,
            Self::Call(call) => Calls::One(label(call.tool), call.id.map(Into::into)),
            Self::Batch(calls) => Calls::Batch(
                calls
                    .into_iter()
                    .filter_map(|call| Some((label(call.tool), call.id?.into())))
                    .collect(),
            ),
        }
    }
}

/// An answer that has begun.
pub(crate) struct Inbound {
    pub(crate) response: Response<Incoming>,
    /// The endpoint that gave it.
    pub(crate) endpoint: EndpointId,
    /// What was read of its body already.
    ahead: Bytes,
    lease: Lease,
    observation: Observation,
    pub(crate) life: Life,
    principal: Option<Arc<Principal>>,
    /// Answers requests of the server that its client must not get.
    refuser: Option<Refuser>,
    version: HeaderValue,
    is_candidate: bool,
    /// Time the gateway took before it sent the request.
    before: Duration,
    begun: Instant,
}

/// What of a call may be killed while it is under way.
pub(crate) struct Life {
    pub(crate) watch: kills::Watch,
    pub(crate) tenant: Option<Box<str>>,
    /// The tools that are called and have no label of their own.
    pub(crate) unlisted: Vec<Box<str>>,
}

/// How an answer is seen by its caller, where flags or kills have a say in it.
pub(crate) struct Sight {
    pub(crate) viewer: Viewer,
    /// A JSON answer may have to be changed too.
    pub(crate) edits_json: bool,
    /// What the caller of a stream hears when other tools are visible than before.
    pub(crate) announces: Option<Bytes>,
    /// Events that come before it.
    pub(crate) announces_after: u64,
}

/// Answers a server in a session in place of its client.
pub(crate) struct Refuser {
    target: Rc<Target>,
    headers: HeaderMap,
    connect_timeout: Duration,
}

impl Refuser {
    /// Sends an answer; should it be lost, the server waits as for a client that does not answer.
    pub(crate) fn send(&self, answer: String) {
        let Some(uri) = self.target.uri("", None) else {
            return;
        };
        let mut headers = self.headers.clone();
        headers.insert(header::CONTENT_LENGTH, answer.len().into());
        let mut request = Request::new(ToUpstream::full(answer.into()));
        *request.method_mut() = Method::POST;
        *request.headers_mut() = headers;
        *request.uri_mut() = uri;
        let (target, time) = (self.target.clone(), self.connect_timeout);
        tokio::task::spawn_local(async move {
            if let Ok((response, lease)) = target.send(request, time).await
                && response.body().is_end_stream()
            {
                lease.give_back();
            }
        });
    }
}

/// The headers by which a server can be answered in a session.
fn refusing_headers(sent: &HeaderMap, authority: &HeaderValue) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let names = [
        &headers::SESSION_ID,
        &headers::PROTOCOL_VERSION,
        &header::AUTHORIZATION,
    ];
    for name in names {
        if let Some(value) = sent.get(name) {
            headers.insert(name, value.clone());
        }
    }
    headers.insert(header::HOST, authority.clone());
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(
        header::ACCEPT,
        HeaderValue::from_static("application/json, text/event-stream"),
    );
    headers
}

/// Sends a request to its endpoint; where that cannot be reached and another will do, to that one.
pub(crate) async fn send(core: &Rc<Core>, outbound: Outbound<'_>) -> Result<Inbound, Refusal> {
    let Outbound { service, to, .. } = outbound;
    let version = version_of(service, to.version)?;
    let counters = core.counters.of(service, version);
    let mut unlisted = Vec::new();
    let calls = outbound.asks.label(|tool| {
        let label = core.counters.label(&counters, version, tool);
        if let Some(tool) = tool.filter(|tool| !label.is_named(tool)) {
            unlisted.push(tool.into());
        }
        label
    });
    let mut life = Life {
        watch: kills::Watch::since(outbound.alarm),
        tenant: outbound.tenant.map(Into::into),
        unlisted,
    };
    let mut observation =
        Observation::begin(core.counters.clone(), counters.clone(), calls, outbound.era);
    outbound.trail.goes_to(&version.name);
    observation.recorded(outbound.trail);
    if outbound.is_tester {
        observation.by_tester();
    }
    let trial = |key| Trial::of(service, to.version, key);
    if let Some(trial) = to.by_split.and_then(trial) {
        counters.assigned(trial);
    }
    if let Some(trial) = outbound.compared.and_then(trial) {
        observation.of_trial(trial);
    }
    if let Some(session) = outbound.session {
        observation.in_session(core.sessions().clone(), session);
    }
    let header = counters.header.clone();
    let is_candidate = is_candidate(service, to.version);
    let refuse = |status, text: String| {
        let refusal = Refusal::plain(status, text).of(&service.name);
        Err(refusal.by_version(&header, is_candidate))
    };
    let names = format_args!("version `{}` of service `{}`", version.name, service.name);
    observation.sending(&outbound.body);
    let upload = outbound.body.upload();
    let before = outbound.complete.elapsed();
    let mut request = Request::new(outbound.body);
    *request.method_mut() = outbound.method;
    *request.headers_mut() = outbound.headers;
    let mut at = to.endpoint;
    let mut tried = Vec::new();
    loop {
        let Some(endpoint) = version.endpoints.get(at) else {
            return refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{names} has no endpoint"),
            );
        };
        let target = core.pool.target(endpoint, &service.settings.upstream);
        let uri = target
            .as_ref()
            .ok()
            .and_then(|target| target.uri(outbound.rest, outbound.query));
        let (Ok(target), Some(uri)) = (target, uri) else {
            observation.failed(Outcome::Transport);
            let text = format!(
                "an endpoint of {names} has a URL that cannot be used; it must be `http://host:port/path` or `https://host:port/path`"
            );
            return refuse(StatusCode::BAD_GATEWAY, text);
        };
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(header::HOST, target.authority.clone());
        let settings = &service.settings;
        let may_refuse = outbound.era == CallEra::Legacy && service.gates.has_features();
        let refuser = may_refuse.then(|| Refuser {
            target: target.clone(),
            headers: refusing_headers(headers, &target.authority),
            connect_timeout: settings.connect_timeout,
        });
        let sending = target.send(request, settings.connect_timeout);
        let sending = tokio::time::timeout(settings.response_timeout, sending);
        let Life {
            watch,
            tenant,
            unlisted,
        } = &mut life;
        let (environment, tenant) = (core.options().environment, tenant.as_deref());
        let ends = |latch: &Latch| observation.ends(latch, environment, tenant, unlisted);
        let Ok(sent) = kills::unless_cut(core, watch, ends, sending).await else {
            observation.void();
            return Err(Refusal::killed(&service.name));
        };
        match sent {
            Ok(Ok((response, lease))) => {
                if let Some(upload) = upload.filter(|upload| upload.get() == Upload::Sending) {
                    upload.set(Upload::Answered);
                }
                return Ok(Inbound {
                    response,
                    endpoint: endpoint.id,
                    ahead: Bytes::new(),
                    lease,
                    observation,
                    life,
                    principal: outbound.principal.cloned(),
                    refuser,
                    version: header,
                    is_candidate,
                    before,
                    begun: Instant::now(),
                });
            }
            Ok(Err(SendError::Connect(unsent, error))) => {
                core.warnings.warn(|left_out| {
                    tracing::warn!(service = %service.name, version = %version.name, endpoint = %endpoint.id, %error,
                        left_out, "an endpoint cannot be reached");
                });
                tried.push(at);
                let next =
                    route::choose(service, version, outbound.key, &tried, &*core.shared.loads);
                if let Some(next) = next.filter(|_| !to.pinned) {
                    observation.attempt_failed();
                    request = *unsent;
                    at = next;
                    continue;
                }
                observation.failed(Outcome::Transport);
                let text = format!(
                    "no endpoint of {names} can be reached; nothing was sent, so the call may be repeated"
                );
                return refuse(StatusCode::BAD_GATEWAY, text);
            }
            Ok(Err(SendError::Broken(_)))
                if upload
                    .as_ref()
                    .is_some_and(|upload| upload.get() == Upload::Silent) =>
            {
                observation.failed(Outcome::Cancelled);
                let text = format!(
                    "nothing of the body came for {} s",
                    core.options().body_silence.as_secs()
                );
                let refusal = Refusal::plain(StatusCode::REQUEST_TIMEOUT, text).of(&service.name);
                let refusal = refusal.counted(Rejection::Body);
                return Err(refusal.by_version(&header, is_candidate));
            }
            Ok(Err(SendError::Broken(error))) => {
                core.warnings.warn(|left_out| {
                    tracing::warn!(service = %service.name, version = %version.name, endpoint = %endpoint.id, %error,
                        left_out, "an endpoint broke the connection before it answered");
                });
                observation.failed(Outcome::Transport);
                let text = format!(
                    "an endpoint of {names} broke the connection before it answered; it may have seen the call"
                );
                return refuse(StatusCode::BAD_GATEWAY, text);
            }
            Err(_) => {
                observation.failed(Outcome::Timeout);
                let text = format!(
                    "an endpoint of {names} did not answer within {} ms; raise the service's `response_timeout` if its tools take longer",
                    settings.response_timeout.as_millis()
                );
                return refuse(StatusCode::GATEWAY_TIMEOUT, text);
            }
        }
    }
}

/// What to do with an answer.
pub(crate) enum Treatment {
    /// Pass it on: it is plain HTTP.
    Plain,
    /// Read it.
    Legacy {
        /// The session it belongs to, with the client's id of it.
        session: Option<(Rc<Token>, HeaderValue)>,
        /// The session was moved: its client is told that the tools may be others now.
        announces_move: bool,
    },
    /// Read it and seal the values that its version mints.
    Modern {
        /// It is a list whose contents depend on the version, while two versions serve.
        restricts_list: bool,
    },
}

/// Passes an answer on.
pub(crate) async fn answer(
    core: &Rc<Core>,
    service: &ServiceRoute,
    inbound: Inbound,
    treatment: Treatment,
    sight: Option<Sight>,
) -> Response<ToClient> {
    let mut life = inbound.life;
    let (mut head, mut upstream) = inbound.response.into_parts();
    headers::remove_hop_by_hop(&mut head.headers);
    affinity::remove_set_cookies(service, &mut head.headers);
    headers::name_version(
        &mut head.headers,
        inbound.version.clone(),
        inbound.is_candidate,
    );
    let is_stream = inbound.observation.is_stream();
    let kind = head
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map_or(BodyKind::Other, BodyKind::of_content_type);
    let scans = !matches!(treatment, Treatment::Plain) && head.status.is_success();
    // A legacy session stays with its version, but what its version made must stay with its caller too.
    let mints = matches!(treatment, Treatment::Modern { .. }) || inbound.principal.is_some();
    let minter = (scans && mints).then(|| Minter {
        keys: core.shared.keys.clone(),
        service: service.name.clone(),
        owner: inbound.principal.as_deref().map(Owner::of),
        endpoint: inbound.endpoint,
    });
    let mut reading = Reading::new(
        head.status,
        scans.then_some(kind),
        minter,
        inbound.observation,
    );
    let overhead = inbound.before + inbound.begun.elapsed();
    reading.observation.overhead(overhead);
    let (mut recheck, mut announces, mut restricts) = (None, false, false);
    let session = match treatment {
        Treatment::Plain => None,
        Treatment::Legacy {
            session,
            announces_move,
        } => {
            announces = announces_move && scans && kind == BodyKind::EventStream;
            session
        }
        Treatment::Modern { restricts_list } => {
            restricts = restricts_list && scans && kind != BodyKind::Other;
            None
        }
    };
    if let Some((token, shown)) = session {
        if head.headers.contains_key(&headers::SESSION_ID) {
            head.headers.insert(&headers::SESSION_ID, shown);
        }
        reading.session = Some((core.sessions().clone(), token));
    }
    let is_seen = head.status.is_success() && kind != BodyKind::Other;
    let sight = sight.filter(|_| is_seen).map(|sight| {
        let view = View {
            viewer: sight.viewer,
            service: service.name.clone(),
            endpoint: inbound.endpoint,
        };
        let listener = sight
            .announces
            .filter(|_| is_stream)
            .map(|message| Listener::new(message, sight.announces_after));
        (Rc::new(view), sight.edits_json, listener)
    });
    let agrees = sight.as_ref().is_some_and(|(view, edits_json, _)| {
        (*edits_json || kind == BodyKind::EventStream) && view.is_guarded(core)
    });
    if agrees && headers::is_encoded(&head.headers) {
        reading.observation.failed(Outcome::Transport);
        let text =
            "the endpoint compressed an answer that has to be read, although it was asked not to";
        let refusal = Refusal::plain(StatusCode::BAD_GATEWAY, text);
        return refusal
            .by_version(&inbound.version, inbound.is_candidate)
            .into_response();
    }
    if is_stream || inbound.principal.is_some() {
        let session = reading.session.as_ref().map(|(_, token)| token.session);
        let stream = is_stream.then_some((session, inbound.endpoint));
        recheck = Some(recheck_of(core, service, stream, inbound.principal));
    }

    let ahead = if inbound.ahead.is_empty() {
        inbound.ahead
    } else {
        reading.feed(inbound.ahead)
    };
    if upstream.is_end_stream() {
        let rest = reading.finish();
        inbound.lease.give_back();
        return Response::from_parts(head, ToClient::full(joined(ahead, &rest)));
    }
    let idle = service.settings.idle_timeout;
    let edits = matches!(&sight, Some((_, true, _))) && kind == BodyKind::Json;
    if restricts || edits {
        let view = sight.map(|(view, ..)| view);
        let whole = Whole {
            kind,
            restricts,
            view,
            ahead,
            idle,
        };
        let list = edited(
            core,
            service,
            head,
            upstream,
            reading,
            inbound.lease,
            life,
            whole,
        );
        return Box::pin(list).await;
    }
    // A small JSON answer comes in one piece: no need to set up a relay for it.
    if scans && kind == BodyKind::Json {
        let frame = tokio::time::timeout(idle, upstream.frame());
        let observation = &reading.observation;
        let Ok(frame) = life.unless_cut(core, observation, frame).await else {
            reading.observation.void();
            return Refusal::killed(&service.name).into_response();
        };
        let Ok(frame) = frame else {
            reading.observation.failed(Outcome::Timeout);
            let text = "the endpoint began an answer and sent no more of it in time";
            let refusal = Refusal::plain(StatusCode::GATEWAY_TIMEOUT, text);
            return refusal
                .by_version(&inbound.version, inbound.is_candidate)
                .into_response();
        };
        let piece = match frame.map(|frame| frame.map(http_body::Frame::into_data)) {
            Some(Ok(Ok(piece))) => piece,
            Some(Ok(Err(_))) | None => Bytes::new(),
            Some(Err(_)) => {
                reading.observation.failed(Outcome::Transport);
                let text = "the endpoint broke the connection in the middle of its answer";
                let refusal = Refusal::plain(StatusCode::BAD_GATEWAY, text);
                return refusal
                    .by_version(&inbound.version, inbound.is_candidate)
                    .into_response();
            }
        };
        let piece = reading.feed(piece);
        if upstream.is_end_stream() {
            let rest = reading.finish();
            inbound.lease.give_back();
            let whole = joined(piece, &rest);
            if reading.minter.is_some() {
                head.headers.remove(header::CONTENT_LENGTH);
            }
            return Response::from_parts(head, ToClient::full(whole));
        }
        if reading.minter.is_some() {
            head.headers.remove(header::CONTENT_LENGTH);
        }
        let mut relay = Relay::new(core.clone(), upstream, reading, inbound.lease, life)
            .after(piece)
            .idle_max(idle);
        if let Some(recheck) = recheck {
            relay = relay.recheck(recheck);
        }
        return Response::from_parts(head, ToClient::relay(relay));
    }
    if reading.minter.is_some() {
        head.headers.remove(header::CONTENT_LENGTH);
    }
    let mut relay = Relay::new(core.clone(), upstream, reading, inbound.lease, life);
    if kind == BodyKind::EventStream
        && let Some((view, _, listener)) = sight
    {
        head.headers.remove(header::CONTENT_LENGTH);
        let sieve = Sieve::new(core.clone(), view.clone());
        relay = relay.through(sieve, view, listener, inbound.refuser);
    }
    if !ahead.is_empty() {
        relay = relay.after(ahead);
    }
    if kind != BodyKind::EventStream && !is_stream {
        relay = relay.idle_max(idle);
    } else if scans && !is_stream {
        relay = relay.events_within(service.settings.response_timeout, idle, inbound.begun);
    }
    if let Some(recheck) = recheck {
        relay = relay.recheck(recheck);
    }
    if announces {
        head.headers.remove(header::CONTENT_LENGTH);
        relay = relay.after(TOOLS_CHANGED);
    }
    Response::from_parts(head, ToClient::relay(relay))
}

impl Life {
    /// Waits for something on behalf of the call, unless it is cut before.
    pub(crate) async fn unless_cut<F: Future>(
        &mut self,
        core: &Core,
        observation: &Observation,
        future: F,
    ) -> Result<F::Output, Cut> {
        let Self {
            watch,
            tenant,
            unlisted,
        } = self;
        let (environment, tenant) = (core.options().environment, tenant.as_deref());
        let ends = |latch: &Latch| observation.ends(latch, environment, tenant, unlisted);
        kills::unless_cut(core, watch, ends, future).await
    }
}

/// An answer that is read whole before it is changed.
struct Whole {
    kind: BodyKind,
    /// It becomes private and short-lived.
    restricts: bool,
    /// It must agree with this.
    view: Option<Rc<View>>,
    ahead: Bytes,
    idle: Duration,
}

/// A list, read whole before it is changed: unlike the answer of a call it has an end that does not wait for anything.
#[expect(clippy::too_many_arguments, reason = "the parts of an answer")]
async fn edited(
    core: &Rc<Core>,
    service: &ServiceRoute,
    mut head: Parts,
    mut upstream: Incoming,
    mut reading: Reading,
    lease: Lease,
    mut life: Life,
    how: Whole,
) -> Response<ToClient> {
    let mut whole = BytesMut::from(&*how.ahead);
    while !upstream.is_end_stream() {
        let frame = tokio::time::timeout(how.idle, upstream.frame());
        let Ok(frame) = life.unless_cut(core, &reading.observation, frame).await else {
            reading.observation.void();
            return Refusal::killed(&service.name).into_response();
        };
        match frame {
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    whole.extend_from_slice(&reading.feed(data));
                }
            }
            Ok(None) => break,
            Ok(Some(Err(_))) | Err(_) => {
                reading.broke_off(Outcome::Transport);
                let text = "the endpoint broke off in the middle of a list";
                return Refusal::plain(StatusCode::BAD_GATEWAY, text).into_response();
            }
        }
        if whole.len() > LIST_BYTES_MAX {
            reading.broke_off(Outcome::Transport);
            let text = format!("the endpoint's list is larger than {LIST_BYTES_MAX} bytes");
            return Refusal::plain(StatusCode::BAD_GATEWAY, text).into_response();
        }
    }
    whole.extend_from_slice(&reading.finish());
    lease.give_back();
    head.headers.remove(header::CONTENT_LENGTH);
    let mut whole = whole.freeze();
    if let Some(view) = how.view {
        whole = match how.kind {
            BodyKind::EventStream => {
                let mut sieve = Sieve::new(core.clone(), view);
                let mut events = BytesMut::new();
                if let Ok(ready) = sieve.feed(&whole) {
                    events.extend_from_slice(&ready);
                }
                events.extend_from_slice(&sieve.finish());
                events.freeze()
            }
            BodyKind::Json | BodyKind::Other => match view.edit(core, &whole) {
                lists::Edit::Replace(other) => other.into(),
                lists::Edit::Keep | lists::Edit::Refuse(_) => whole,
            },
        };
    }
    if how.restricts {
        whole = match how.kind {
            BodyKind::EventStream => lists::restrict_events(&whole),
            BodyKind::Json | BodyKind::Other => lists::restrict(&whole),
        };
    }
    Response::from_parts(head, ToClient::full(whole))
}

impl Inbound {
    /// Reads an answer that is no success ahead, to its end or a little beyond `bytes_max`; it is passed on all the same. Nothing if
    /// it has not ended by then or within `time`.
    ///
    /// # Errors
    /// The endpoint broke the connection.
    pub(crate) async fn read_ahead(
        &mut self,
        bytes_max: usize,
        time: Duration,
    ) -> Result<Option<Bytes>, Refusal> {
        let body = self.response.body_mut();
        let mut read = BytesMut::new();
        let reading = async {
            while !body.is_end_stream() && read.len() <= bytes_max {
                match body.frame().await {
                    Some(frame) => {
                        if let Ok(data) = frame?.into_data() {
                            read.extend_from_slice(&data);
                        }
                    }
                    None => return Ok(true),
                }
            }
            Ok::<_, hyper::Error>(read.len() <= bytes_max)
        };
        let ended = tokio::time::timeout(time, reading).await;
        self.ahead = read.freeze();
        match ended {
            Ok(Ok(true)) => Ok(Some(self.ahead.clone())),
            Ok(Ok(false)) | Err(_) => Ok(None),
            Ok(Err(_)) => {
                self.observation.failed(Outcome::Transport);
                let text = "the endpoint broke the connection in the middle of its answer";
                let refusal = Refusal::plain(StatusCode::BAD_GATEWAY, text);
                Err(refusal.by_version(&self.version, self.is_candidate))
            }
        }
    }

    /// Gives up on the answer, to send another request instead.
    pub(crate) fn discard(mut self) {
        // It did answer: it is not the transport that failed.
        self.observation.void();
    }
}

/// The version at an index.
pub(crate) fn version_of(service: &ServiceRoute, version: usize) -> Result<&VersionRoute, Refusal> {
    service.versions.get(version).ok_or_else(|| {
        let text = format!("service `{}` has no version to serve it", service.name);
        Refusal::plain(StatusCode::SERVICE_UNAVAILABLE, text).of(&service.name)
    })
}

/// Whether a version is the candidate of a rollout.
pub(crate) fn is_candidate(service: &ServiceRoute, version: usize) -> bool {
    service
        .split
        .as_ref()
        .is_some_and(|split| split.candidate == version)
}

/// Ends any answer once its caller may not call any more; and a stream once its session has to move, or its version was taken back: its
/// client then comes back for another one.
fn recheck_of(
    core: &Rc<Core>,
    service: &ServiceRoute,
    stream: Option<(Option<Uuid>, EndpointId)>,
    principal: Option<Arc<Principal>>,
) -> Recheck {
    let (core, name) = (core.clone(), service.name.clone());
    let is_over = move || {
        let is_known = |principal: &Principal| {
            core.with_snapshot(|snapshot| auth::recheck(principal, &snapshot.tenancy).is_ok())
        };
        if !principal.as_deref().is_none_or(is_known) {
            return true;
        }
        let Some((session, endpoint)) = stream else {
            return false;
        };
        let lives_elsewhere = session
            .and_then(|session| core.sessions().moved(session))
            .is_some_and(|place| place.endpoint != endpoint);
        lives_elsewhere
            || core.with_snapshot(|snapshot| {
                let service = snapshot.service(&name);
                let at = service.and_then(|s| Some((s, route::locate(s, endpoint)?)));
                at.is_none_or(|(service, (version, _))| route::is_withdrawn(service, version))
            })
    };
    let mut every = tokio::time::interval(RECHECK_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    Recheck {
        every,
        is_over: Box::new(is_over),
    }
}
