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
    loads::Room,
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
    observe::{CallEra, Detour, Outcome, Rejection},
    route::Live as _,
    snapshot::{EndpointRoute, ServiceRoute, VersionRoute},
};
use serin_route::{breaker::End, standing::OnFailure};
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
        let sending = target.send(request, settings.connect_timeout);
        let sending = tokio::time::timeout(deadline, sending);
        let Ok(sent) = leg.life.unless_cut(core, &leg.observation, sending).await else {
            leg.observation.void();
            return Err(Refusal::killed(&service.name));
        };
        match sent {
            Ok(Ok((response, lease))) => {
                if let Some(upload) = upload.filter(|upload| upload.get().is_on()) {
                    upload.set(Upload::Answered);
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
                    .is_some_and(|upload| upload.get() == Upload::Silent) =>
            {
                leg.observation.failed(Outcome::Cancelled);
                let text = format!(
                    "nothing of the body came for {} s",
                    core.options().body_silence.as_secs()
                );
                let refusal = leg.refuse(StatusCode::REQUEST_TIMEOUT, text);
                return Err(refusal.counted(Rejection::Body));
            }
            Ok(Err(SendError::Broken(error))) => {
                // With the body on it, it was the client that went away.
                if upload.is_none_or(|upload| upload.get() != Upload::Broken) {
                    passage.tell(End::Failed);
                }
                core.warnings.warn(|left_out| {
                    tracing::warn!(service = %service.name, version = %version.name, endpoint = %endpoint.id, %error,
                        left_out, "an endpoint broke the connection before it answered");
                });
                leg.observation.failed(Outcome::Transport);
                let text = format!(
                    "an endpoint of {names} broke the connection before it answered; it may have seen the call"
                );
                return Err(leg.refuse(StatusCode::BAD_GATEWAY, text));
            }
            // It has not the whole request yet, and its client is to blame for that.
            Err(_)
                if upload
                    .as_ref()
                    .is_some_and(|upload| upload.get() == Upload::Awaited) =>
            {
                leg.observation.failed(Outcome::Cancelled);
                let text = format!(
                    "the body was not there within the {} ms that {names} has to answer; send it faster, or raise the service's `response_timeout`",
                    deadline.as_millis()
                );
                let refusal = leg.refuse(StatusCode::REQUEST_TIMEOUT, text);
                return Err(refusal.counted(Rejection::Body));
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

/// Time for an endpoint to answer.
pub(crate) fn deadline(service: &ServiceRoute, endpoint: &EndpointRoute) -> Duration {
    let of_service = service.settings.response_timeout;
    endpoint.response_timeout.unwrap_or(of_service)
}

/// A request at one version: what counts it there.
struct Leg<'a> {
    version: &'a VersionRoute,
    observation: Observation,
    life: Life,
    header: HeaderValue,
    is_candidate: bool,
}

impl<'a> Leg<'a> {
    /// A request comes to a version, if there is room for it.
    fn begin(
        core: &Rc<Core>,
        outbound: &Outbound<'a>,
        at: usize,
        room: Option<Room>,
    ) -> Result<Self, Refusal> {
        let service = outbound.service;
        let version = version_of(service, at)?;
        let limit = version.in_flight_max.filter(|_| room.is_some());
        let place = match limit {
            None => None,
            Some(max) => {
                let served_by = version_of(service, route::served_by(service, at))?;
                let place = core
                    .shared
                    .loads
                    .room_at(&service.name, &served_by.name, max);
                Some(place.ok_or_else(|| {
                    let what = format!("version `{}` of service `{}`", version.name, service.name);
                    Refusal::overloaded(&service.name, &what)
                })?)
            }
        };
        let counters = core.counters.of(service, version);
        let mut unlisted = Vec::new();
        let calls = outbound.asks.label(|tool| {
            let label = core.counters.label(&counters, version, tool);
            if let Some(tool) = tool.filter(|tool| !label.is_named(tool)) {
                unlisted.push(tool.into());
            }
            label
        });
        let header = counters.header.clone();
        let mut observation =
            Observation::begin(core.counters.clone(), counters.clone(), calls, outbound.era);
        observation.holds([room, place]);
        outbound.trail.goes_to(&version.name);
        observation.recorded(outbound.trail.clone());
        if outbound.is_tester {
            observation.by_tester();
        }
        // Whom a version serves in the place of another is no trial of it, but of that one.
        let is_own = at == outbound.to.instead_of.unwrap_or(outbound.to.version);
        let trial = |key| Trial::of(service, at, key).filter(|_| is_own);
        if let Some(trial) = outbound.to.by_split.and_then(trial) {
            counters.assigned(trial);
        }
        if let Some(trial) = outbound.compared.and_then(trial) {
            observation.of_trial(trial);
        }
        if let Some(session) = outbound.session {
            observation.in_session(core.sessions().clone(), session);
        }
        Ok(Self {
            version,
            observation,
            life: Life {
                watch: kills::Watch::since(outbound.alarm),
                tenant: outbound.tenant.map(Into::into),
                unlisted,
            },
            header,
            is_candidate: is_candidate(service, at),
        })
    }

    /// Goes where the request is tried next; the endpoint, and whether it is used whatever its breaker says.
    async fn go(
        &mut self,
        core: &Rc<Core>,
        outbound: &Outbound<'a>,
        next: Next,
    ) -> Result<(usize, bool), Refusal> {
        match next {
            Next::At { endpoint, must } => Ok((endpoint, must)),
            Next::Again { endpoint, wait } => {
                let wait = tokio::time::sleep(wait);
                let waited = self.life.unless_cut(core, &self.observation, wait).await;
                if waited.is_err() {
                    self.observation.void();
                    return Err(Refusal::killed(&outbound.service.name));
                }
                let is_open = outbound.service.settings.on_failure == OnFailure::FailOpen;
                Ok((endpoint, is_open))
            }
            Next::Version { version, endpoint } => {
                let counters = &core.counters;
                counters.detoured(&outbound.service.name, Detour::Fallback);
                let [room, _] = self.observation.give_up();
                self.observation.void();
                let mut leg = Self::begin(core, outbound, version, room)?;
                leg.observation.goes_on(&self.observation);
                *self = leg;
                Ok((endpoint, false))
            }
            Next::Nowhere => Err(self.refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "there is no endpoint left".to_owned(),
            )),
        }
    }

    /// Another version takes its place, before anything was tried here.
    fn gone_by(mut self) {
        self.observation.passed_by();
        self.observation.void();
    }

    /// No endpoint may be used. Its caller is not served: the version has failed, as if none had been reached.
    fn unusable(&mut self) -> Refusal {
        self.observation.failed(Outcome::Transport);
        Refusal::unusable(self.observation.service(), self.version.name.as_str())
            .by_version(&self.header, self.is_candidate)
    }

    fn refuse(&self, status: StatusCode, text: String) -> Refusal {
        let refusal = Refusal::plain(status, text).of(self.observation.service());
        refusal.by_version(&self.header, self.is_candidate)
    }
}

/// Where a request was tried.
struct Tries {
    /// Further attempts that it may make.
    left: u32,
    /// Endpoints of the version that were tried, as often as they were.
    tried: Vec<usize>,
    /// The same, and those that took nothing when it came.
    avoid: Vec<usize>,
    /// Versions that took the place of the first one.
    versions: Vec<usize>,
    /// An endpoint did not even refuse: it will not answer in a moment.
    is_silent: bool,
}

/// Where a request is tried next.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// At another endpoint of the version.
    At {
        endpoint: usize,
        /// Whatever its breaker says.
        must: bool,
    },
    /// At one that was tried, after a while.
    Again {
        endpoint: usize,
        wait: Duration,
    },
    /// At another version.
    Version {
        version: usize,
        endpoint: usize,
    },
    Nowhere,
}

impl Tries {
    fn new(outbound: &Outbound<'_>) -> Self {
        Self {
            left: outbound.service.settings.retries.attempts,
            tried: Vec::new(),
            avoid: Vec::new(),
            versions: Vec::new(),
            is_silent: false,
        }
    }

    fn failed(&mut self, at: usize, error: &std::io::Error) {
        self.tried.push(at);
        self.avoid.push(at);
        self.is_silent |= error.kind() == std::io::ErrorKind::TimedOut;
    }

    /// Where it is tried next: in the order of what promises most. After an attempt that failed only within what may be tried again.
    fn next(&mut self, core: &Rc<Core>, outbound: &Outbound<'_>, leg: &Leg<'_>) -> Next {
        let next = self.find(core, outbound, leg);
        if matches!(next, Next::Nowhere) || self.tried.is_empty() && self.versions.is_empty() {
            return self.goes(next);
        }
        let retries = &outbound.service.settings.retries;
        if self.left == 0 || !leg.observation.may_try_again(retries) {
            return Next::Nowhere;
        }
        self.left -= 1;
        core.counters
            .detoured(&outbound.service.name, Detour::Retry);
        self.goes(next)
    }

    fn goes(&mut self, next: Next) -> Next {
        if let Next::Version { version, .. } = next {
            self.versions.push(version);
            self.tried.clear();
            self.avoid.clear();
        }
        next
    }

    fn find(&self, core: &Rc<Core>, outbound: &Outbound<'_>, leg: &Leg<'_>) -> Next {
        let Outbound {
            service, to, key, ..
        } = *outbound;
        let (version, live) = (leg.version, &*core.shared.loads);
        let fails_open = service.settings.on_failure == OnFailure::FailOpen;
        let same = to.pinned.then_some(to.endpoint);
        if same.is_none() {
            if let Some(endpoint) = route::choose(service, version, key, &self.avoid, live) {
                let must = false;
                return Next::At { endpoint, must };
            }
            if let Some((version, endpoint)) = self.fall_back(core, outbound) {
                return Next::Version { version, endpoint };
            }
        }
        if fails_open {
            let any = match same {
                Some(endpoint) => self.tried.is_empty().then_some(endpoint),
                None => route::choose_any(service, version, key, &self.tried, live),
            };
            if let Some(endpoint) = any {
                let must = true;
                return Next::At { endpoint, must };
            }
        }
        if self.tried.is_empty() || self.is_silent {
            return Next::Nowhere;
        }
        let again = same
            .or_else(|| route::choose(service, version, key, &[], live))
            .or_else(|| {
                let any = fails_open.then(|| route::choose_any(service, version, key, &[], live));
                any.flatten()
            });
        // One whose breaker is open by now will not be back in a moment.
        let is_open = |at: &usize| {
            let id = version.endpoints.get(*at).map(|endpoint| endpoint.id);
            id.is_none_or(|id| live.standing(id).is_open)
        };
        let Some(endpoint) = again.filter(|at| !is_open(at)) else {
            return Next::Nowhere;
        };
        let times = self.tried.iter().filter(|at| **at == endpoint).count();
        let times = u32::try_from(times).unwrap_or(u32::MAX);
        let jitter = getrandom::u32().unwrap_or_default().to_be_bytes();
        let jitter = u16::from_be_bytes([jitter[0], jitter[1]]);
        let wait = service.settings.retries.wait(times, jitter);
        Next::Again { endpoint, wait }
    }

    /// A version that takes the place of the one that was meant. Who asked for that one by hand is served by nobody else.
    fn fall_back(&self, core: &Rc<Core>, outbound: &Outbound<'_>) -> Option<(usize, usize)> {
        let Outbound {
            service,
            to,
            key,
            is_tester,
            ..
        } = *outbound;
        let meant = to.instead_of.unwrap_or(to.version);
        let meant = service.versions.get(meant).filter(|_| !is_tester)?;
        let mut tried = self.versions.clone();
        tried.push(to.version);
        let live = &*core.shared.loads;
        loop {
            let found = route::fall_back(service, meant, key, &tried, live)?;
            let latch = core.latch();
            let is_killed = |at: usize| {
                let name = service
                    .versions
                    .get(at)
                    .map(|version| version.name.as_str());
                let stop = name.zip(latch.as_deref()).map(|(name, latch)| {
                    latch.stops_version(service.name.as_str(), name).is_some()
                });
                stop.unwrap_or_default()
            };
            if !is_killed(found.0) && !is_killed(route::served_by(service, found.0)) {
                return Some(found);
            }
            tried.push(found.0);
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
        relay = relay.events_within(inbound.deadline, idle, inbound.begun);
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
