//! Forward: a request to its endpoint, and the answer back, frame by frame.

mod answer;
mod leg;
mod tries;

pub(crate) use self::answer::{Treatment, answer};

use self::{
    leg::Leg,
    tries::{Next, Tries},
};
use crate::{
    BODY_BYTES_PER_SECOND_MIN,
    access::Viewer,
    audit::Trail,
    body::{ToUpstream, Upload},
    core::Core,
    headers,
    kills::{self, Cut},
    loads::Passage,
    observe::{Calls, Observation, Tool},
    pool::{Lease, SendError, Target},
    refusal::Refusal,
    route::Destination,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use hyper::body::Incoming;
use serin_flags::Latch;
use serin_model::{
    name::EndpointId,
    observe::{CallEra, Outcome, Rejection},
    snapshot::{EndpointRoute, ServiceRoute, VersionRoute},
};
use serin_route::breaker::End;
use serin_tenancy::Principal;
use std::{
    cell::Cell,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::error::Elapsed;
use uuid::Uuid;

/// Tells the client of a moved session to ask for the tools again (2025-11-25, "List Changed Notification").
pub(crate) const TOOLS_CHANGED: Bytes = Bytes::from_static(
    b"data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\n",
);

/// Time for which others wait for a probe whose client still sends it.
const PROBE_UPLOAD_MAX: Duration = Duration::from_secs(1);

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
    fn label(&self, mut label: impl FnMut(Option<&str>) -> Rc<Tool>) -> Calls {
        match self {
            Self::Nothing => Calls::None,
            Self::Stream => Calls::Stream,
            Self::Call(call) => Calls::One(label(call.tool), call.id.map(Into::into)),
            Self::Batch(calls) => Calls::Batch(
                calls
                    .iter()
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
    /// The time that it had.
    deadline: Duration,
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
    headers::post_message(&mut headers);
    headers
}

/// Sends a request to its endpoint; where that cannot be reached and another will do, to that one. Nothing is sent twice that a server may
/// have seen: only where no connection could be made is there a further attempt.
pub(crate) async fn send(core: &Rc<Core>, mut outbound: Outbound<'_>) -> Result<Inbound, Refusal> {
    let service = outbound.service;
    let settings = &service.settings;
    let is_stream = matches!(outbound.asks, Asks::Stream);
    let room = if is_stream {
        None
    } else {
        let room = core.shared.loads.room(core.options().requests_max);
        Some(room.ok_or_else(|| Refusal::overloaded(&service.name, "the gateway"))?)
    };
    let body = std::mem::replace(&mut outbound.body, ToUpstream::full(Bytes::new()));
    if let Some(meant) = outbound
        .to
        .instead_of
        .filter(|_| outbound.compared.is_some())
    {
        Leg::begin(core, &outbound, meant, None)?.gone_by();
    }
    let mut leg = Leg::begin(core, &outbound, outbound.to.version, room)?;
    if outbound.to.is_refused {
        return Err(leg.unusable());
    }
    leg.observation.sending(&body);
    let upload = body.upload();
    let before = outbound.complete.elapsed();
    let mut request = Request::new(body);
    *request.method_mut() = std::mem::take(&mut outbound.method);
    *request.headers_mut() = std::mem::take(&mut outbound.headers);
    let mut tries = Tries::new(&outbound);
    let (mut at, mut must) = (outbound.to.endpoint, false);
    loop {
        let version = leg.version;
        let names = format_args!("version `{}` of service `{}`", version.name, service.name);
        let Some(endpoint) = version.endpoints.get(at) else {
            let text = format!("{names} has no endpoint");
            return Err(leg.refuse(StatusCode::SERVICE_UNAVAILABLE, text));
        };
        let target = core.pool.target(endpoint, &settings.upstream);
        let uri = target
            .as_ref()
            .ok()
            .and_then(|target| target.uri(outbound.rest, outbound.query));
        let (Ok(target), Some(uri)) = (target, uri) else {
            leg.observation.failed(Outcome::Transport);
            let text = format!(
                "an endpoint of {names} has a URL that cannot be used; it must be `http://host:port/path` or `https://host:port/path`"
            );
            return Err(leg.refuse(StatusCode::BAD_GATEWAY, text));
        };
        let loads = &core.shared.loads;
        let begin = || loads.begin(endpoint.id, version, settings, is_stream);
        // Who is bound to it stays, though it is ejected by this very request.
        let begun = begin().or_else(|| outbound.to.pinned.then(begin)?);
        let mut passage = match begun {
            Some(passage) => passage,
            None if must => loads.begin_anyway(endpoint.id, settings, is_stream),
            None => {
                tries.avoid.push(at);
                let next = tries.next(core, &outbound, &leg);
                match next {
                    Next::Nowhere => return Err(leg.unusable()),
                    next => {
                        if matches!(next, Next::Version { .. }) {
                            leg.observation.passed_by();
                        }
                        (at, must) = leg.go(core, &outbound, next).await?;
                    }
                }
                continue;
            }
        };
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(header::HOST, target.authority.clone());
        let may_refuse = outbound.era == CallEra::Legacy && service.gates.has_features();
        let refuser = may_refuse.then(|| Refuser {
            target: target.clone(),
            headers: refusing_headers(headers, &target.authority),
            connect_timeout: settings.connect_timeout,
        });
        let deadline = deadline(service, endpoint);
        let sending = pin!(target.send(request, settings.connect_timeout));
        let sending = within(deadline, upload.as_deref(), &mut passage, sending);
        let Ok(sent) = leg.life.unless_cut(core, &leg.observation, sending).await else {
            leg.observation.void();
            return Err(Refusal::killed(&service.name));
        };
        match sent {
            Ok(Ok((response, lease))) => {
                if let Some(upload) = upload.filter(|upload| upload.get().is_on()) {
                    upload.set(Upload::Answered(Instant::now()));
                }
                leg.observation.headed(passage, response.status());
                return Ok(Inbound {
                    response,
                    endpoint: endpoint.id,
                    deadline,
                    ahead: Bytes::new(),
                    lease,
                    observation: leg.observation,
                    life: leg.life,
                    principal: outbound.principal.cloned(),
                    refuser,
                    version: leg.header,
                    is_candidate: leg.is_candidate,
                    before,
                    begun: Instant::now(),
                });
            }
            Ok(Err(SendError::Connect(unsent, error))) => {
                passage.tell(End::Failed);
                drop(passage);
                core.warnings.warn(|left_out| {
                    tracing::warn!(service = %service.name, version = %version.name, endpoint = %endpoint.id, %error,
                        left_out, "an endpoint cannot be reached");
                });
                tries.failed(at, &error);
                match tries.next(core, &outbound, &leg) {
                    Next::Nowhere => {
                        leg.observation.failed(Outcome::Transport);
                        let text = format!(
                            "no endpoint of {names} can be reached; nothing was sent, so the call may be repeated"
                        );
                        return Err(leg.refuse(StatusCode::BAD_GATEWAY, text).unreached());
                    }
                    next => {
                        leg.observation.attempt_failed();
                        request = *unsent;
                        (at, must) = leg.go(core, &outbound, next).await?;
                    }
                }
            }
            Ok(Err(SendError::Broken(_)))
                if upload
                    .as_ref()
                    .is_some_and(|upload| upload.get() == Upload::Late) =>
            {
                leg.observation.failed(Outcome::Cancelled);
                let text = format!(
                    "the body came too slowly: nothing for {} s, or less than {BODY_BYTES_PER_SECOND_MIN} bytes a second",
                    core.options().body_silence.as_secs()
                );
                let refusal = leg.refuse(StatusCode::REQUEST_TIMEOUT, text);
                return Err(refusal.counted(Rejection::Body));
            }
            Ok(Err(SendError::Broken(error))) => {
                // With the body on it, it was the client that went away.
                if upload.is_none_or(|upload| upload.get() != Upload::Broken) {
                    passage.tell(End::Failed);
                    core.warnings.warn(|left_out| {
                        tracing::warn!(service = %service.name, version = %version.name, endpoint = %endpoint.id, %error,
                            left_out, "an endpoint broke the connection before it answered");
                    });
                }
                leg.observation.failed(Outcome::Transport);
                let text = format!(
                    "an endpoint of {names} broke the connection before it answered; it may have seen the call"
                );
                return Err(leg.refuse(StatusCode::BAD_GATEWAY, text));
            }
            Err(_) => {
                passage.tell(End::Failed);
                leg.observation.failed(Outcome::Timeout);
                let text = format!(
                    "an endpoint of {names} did not answer within {} ms; raise the service's `response_timeout`, or that of the endpoint, if its tools take longer",
                    deadline.as_millis()
                );
                return Err(leg.refuse(StatusCode::GATEWAY_TIMEOUT, text));
            }
        }
    }
}

/// Waits for an answer for so long since the endpoint was sent what there is of the request. While its client is waited for, it is the
/// upload that is bounded, and others do not wait for long for what a probe shows.
async fn within<F: Future>(
    time: Duration,
    upload: Option<&Cell<Upload>>,
    passage: &mut Passage,
    mut answer: Pin<&mut F>,
) -> Result<F::Output, Elapsed> {
    let begun = Instant::now();
    let mut due = begun + time;
    let mut aside = (upload.is_some() && passage.is_probe()).then_some(begun + PROBE_UPLOAD_MAX);
    loop {
        let until = aside.map_or(due, |at| due.min(at));
        let late = match tokio::time::timeout_at(until.into(), answer.as_mut()).await {
            Ok(answer) => return Ok(answer),
            Err(late) => late,
        };
        let upload = upload.map(Cell::get);
        if aside.take().is_some() && upload.is_some_and(Upload::is_on) {
            passage.step_aside();
        }
        let now = Instant::now();
        if due <= now {
            due = match upload {
                Some(Upload::Awaited) => now + time,
                Some(Upload::Sending(at) | Upload::Sent(at)) => at + time,
                Some(Upload::Answered(_) | Upload::Broken | Upload::Late) | None => {
                    return Err(late);
                }
            };
            if due <= now {
                return Err(late);
            }
        }
    }
}

/// Time for an endpoint to answer.
pub(crate) fn deadline(service: &ServiceRoute, endpoint: &EndpointRoute) -> Duration {
    let of_service = service.settings.response_timeout;
    endpoint.response_timeout.unwrap_or(of_service)
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
