//! Admit: what a request is and whether it may pass. Its host and origin, its service, its era, the session or the minted
//! values it brings back, the version it asks for by hand.
pub(crate) mod checks;
mod guard;
mod inside;
mod legacy;
mod limits;
mod mcp;
mod modern;
mod rules;

pub(crate) use self::{
    inside::{Account, Asker, Saying, Spot},
    legacy::NotFound,
};

use self::{
    checks::{
        admits_host, check_head, check_origin, check_recorded, chosen_version, health, host,
        no_service,
    },
    rules::Ruling,
};
use crate::{
    access::Rules,
    affinity::{self, Gifts},
    audit::Trail,
    auth,
    body::{Pace, ToClient, ToUpstream},
    connection::Connection,
    core::Core,
    forward::{self, Asks, Call, Outbound, Treatment},
    headers, limit,
    refusal::Refusal,
    rest,
    route::{self, Caller, Destination, Live, Nowhere, Stopped},
    seal::{Bound, Owner},
};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, request::Parts, uri::Authority};
use hyper::body::Incoming;
use jiff::Timestamp;
use serin_mcp::error::GatewayError;
use serin_model::{
    api::ApiSpec,
    observe::{CallEra, Detour, Rejection},
    service::Protocol,
    snapshot::ServiceRoute,
};
use serin_route::source::{renew, unless_said};
use serin_tenancy::{Directory, Principal};
use std::{
    cell::{Cell, OnceCell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Instant, SystemTime},
};

type Answered = Result<Response<ToClient>, Refusal>;

/// Answers one request.
pub(crate) async fn serve(
    core: Rc<Core>,
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Response<ToClient> {
    let busy = connection.begin();
    let (standing, gifts) = (Cell::default(), Gifts::default());
    let (parts, body) = request.into_parts();
    let trail = trail(&core, &connection, &parts);
    let request = Request::from_parts(parts, body);
    let mut response = match handle(&core, &connection, request, (&standing, &gifts), &trail).await
    {
        Ok(response) => response,
        Err(refusal) => {
            if let Some(why) = refusal.counted {
                core.counters.reject(refusal.service.as_ref(), why);
            }
            trail.refused(&refusal);
            refusal.into_response()
        }
    };
    trail.answered(response.status());
    if let Some(standing) = standing.get() {
        standing.write(response.headers_mut());
    }
    gifts.write(response.headers_mut());
    response.map(|body| body.with(busy).recorded(trail))
}

/// Where it stands what becomes of a request, if that is recorded.
fn trail(core: &Core, connection: &Connection, parts: &Parts) -> Trail {
    let trusted = &core.options().trusted_proxies;
    let sink = core.audit.as_ref();
    sink.map_or_else(Trail::default, |sink| {
        sink.begin(connection, trusted, parts)
    })
}

/// A request whose service is known.
struct Admitted<'a> {
    core: &'a Rc<Core>,
    connection: &'a Connection,
    service: &'a ServiceRoute,
    /// The routing table in which it was found, and its service in a newer one.
    position: u64,
    newer: &'a OnceCell<Arc<ServiceRoute>>,
    method: Method,
    /// What stands behind the service's path.
    rest: &'a str,
    query: Option<&'a str>,
    headers: HeaderMap,
    host: &'a str,
    /// The version asked for by hand.
    chosen: Option<usize>,
    /// Who proved that it is theirs, where the service asks for that.
    principal: Option<Arc<Principal>>,
    /// The version of the API by which it came, where that has not all tools of its service.
    only: Option<Arc<ApiSpec>>,
    /// It is a message of our own, on behalf of a caller of REST.
    is_inside: bool,
    /// Path and query as they were sent, if a signature is looked at.
    signed: Option<&'a str>,
    /// To whom its sessions and what is minted for it are bound.
    owner: Option<Owner>,
    /// The limits of its caller, and what the caller is told about them.
    limits: limit::Plan,
    standing: &'a Cell<Option<limit::Standing>>,
    trail: &'a Trail,
    /// Whether it was taken out of its caller's buckets: that is done once, whichever way it goes.
    is_counted: Cell<bool>,
    /// Whose it is: the tenant that was proven, else the one that a header names.
    tenant: Option<Box<str>>,
    /// The flags and kills, where they have a say.
    rules: Option<Rules>,
    /// What the rules of the service say to it.
    ruling: Ruling<'a>,
    /// Where a rule led the request of REST on whose behalf it is.
    led: Option<usize>,
    /// The cookies that its caller is given, and below which path.
    gifts: &'a Gifts,
    below: &'a str,
    /// The core's alarm when the kills were read.
    alarm: u64,
    /// What stops that let some calls through said to this one.
    passes: RefCell<Vec<(Timestamp, &'static str, bool)>>,
    /// When all of it was there.
    complete: Instant,
}

async fn handle(
    core: &Rc<Core>,
    connection: &Rc<Connection>,
    request: Request<Incoming>,
    (standing, gifts): (&Cell<Option<limit::Standing>>, &Gifts),
    trail: &Trail,
) -> Answered {
    let (parts, body) = request.into_parts();
    check_head(core, connection, &parts)?;
    if let Some(health) = health(core, &parts) {
        trail.forget();
        return Ok(health);
    }
    check_recorded(core, &parts).inspect_err(|_| trail.forget())?;
    let host = host(&parts)?;
    let path = parts.uri.path();
    if let Some(path) = auth::metadata::resource_path(path) {
        let asked = auth::metadata::serve(core, connection, &parts, &host, path);
        if let Some(answered) = asked.await {
            return answered;
        }
    }
    let (found, place) = core.with_snapshot(|snapshot| {
        let service = snapshot.find(Some(host.host()), path);
        let place = rest::Place::find(snapshot, service.map(|service| &**service), path);
        let service = match &place {
            Some(place) => place.service(snapshot, host.host()),
            None => service,
        };
        let directory = service.filter(|service| auth::is_asked(service));
        let directory = directory.map(|_| snapshot.tenancy.clone());
        let found = Found {
            service: service.cloned(),
            position: snapshot.position,
            directory,
            host,
            standing,
            gifts,
            trail,
        };
        (found, place)
    });
    let answered = admit(core, connection, found, place.as_ref(), parts, body).await;
    match &place {
        Some(place) => rest::finish(place, answered),
        None => answered,
    }
}

/// What the routing table has for a request.
struct Found<'a> {
    service: Option<Arc<ServiceRoute>>,
    position: u64,
    directory: Option<Arc<Directory>>,
    host: Authority,
    standing: &'a Cell<Option<limit::Standing>>,
    gifts: &'a Gifts,
    trail: &'a Trail,
}

async fn admit(
    core: &Rc<Core>,
    connection: &Rc<Connection>,
    found: Found<'_>,
    place: Option<&rest::Place>,
    mut parts: Parts,
    body: Incoming,
) -> Answered {
    let Found {
        service,
        position,
        directory,
        host,
        standing,
        gifts,
        trail,
    } = found;
    let (alarm, latch) = (core.alarm(), core.latch());
    if !admits_host(core, service.as_deref(), &host) {
        let text = format!(
            "host `{host}` is not served here; add it to `gateway.hosts`, or to the `hosts` of a service"
        );
        let refusal = Refusal::plain(StatusCode::FORBIDDEN, text);
        return Err(refusal.counted(Rejection::Host));
    }
    if let Some(place) = place {
        rest::check(place, &parts.method, &mut parts.headers)?;
    }
    let Some(service) = service else {
        return Err(no_service(core, &parts));
    };
    let service_route = &service;
    let service = &**service_route;
    trail.of_service(&service.name);
    if service.protocol == Protocol::Mcp {
        check_origin(core, service, &parts.headers, &host)?;
    }
    let principal = match &directory {
        Some(directory) => {
            let headers = &mut parts.headers;
            Some(auth::authenticate(
                core,
                connection,
                service_route,
                directory,
                headers,
                &host,
                trail,
            )?)
        }
        None => None,
    };
    let tenant = match &principal {
        Some(principal) => Some(principal.tenant.as_str().into()),
        None => guard::tenant(service, &parts.headers)?,
    };
    trail.of_tenant(tenant.as_deref());
    let newer = OnceCell::new();
    let challenged = auth::metadata::Challenged::new(connection, service, &parts.headers, &host);
    let only = place.and_then(rest::Place::only);
    let mut admitted = Admitted {
        core,
        connection,
        service,
        position,
        newer: &newer,
        rest: match place {
            Some(_) => "",
            None => (parts.uri.path().get(service.path.len()..)).unwrap_or_default(),
        },
        query: parts.uri.query(),
        host: host.as_str(),
        chosen: None,
        method: parts.method,
        owner: principal.as_deref().map(Owner::of),
        rules: Rules::of(core, service, latch, principal.as_deref(), only.as_deref()),
        ruling: Ruling::default(),
        led: None,
        gifts,
        below: place.map_or(&service.path, |place| &place.prefix),
        principal,
        only,
        is_inside: false,
        signed: None,
        limits: limit::Plan::default(),
        standing,
        trail,
        is_counted: Cell::default(),
        tenant,
        headers: parts.headers,
        alarm,
        passes: RefCell::default(),
        complete: Instant::now(),
    };
    let is_rest = place.is_some_and(rest::Place::is_rest);
    let has_message =
        service.protocol == Protocol::Mcp && (admitted.method == Method::POST || is_rest);
    if let Err(refusal) = admitted.check_by_head(has_message) {
        // Whoever waits for the answer to a request looks for its id.
        let is_looked_for = has_message && !is_rest && refusal.is_rpc();
        return Err(
            if is_looked_for && let Ok(body) = admitted.collect(body).await {
                refusal.answering(&body)
            } else {
                refusal
            },
        );
    }
    admitted.signed = admitted.signed(&parts.uri);
    if let Some(place) = place.filter(|place| place.is_rest()) {
        let body = admitted.rest_body(place, body).await?;
        admitted.look_again()?;
        admitted.check_signature(&body)?;
        let outside = admitted.count_rest(place, &body).await?;
        let asker = admitted.asker(connection, outside);
        let headers = &admitted.headers;
        return rest::serve(core, place, asker, headers, &body, trail).await;
    }
    match service.protocol {
        Protocol::Http => {
            admitted.find_limits();
            admitted.check_limits(None).await?;
            let body = if admitted.signed.is_some() {
                let body = admitted.collect(body).await?;
                admitted.look_again()?;
                admitted.check_rule(None)?;
                admitted.check_signature(&body)?;
                ToUpstream::full(body)
            } else {
                ToUpstream::stream(body, Pace::streamed(core.options()))
            };
            admitted.plain(body, CallEra::None).await
        }
        Protocol::Mcp => {
            let mut answered = admitted.mcp(body).await;
            if let (Ok(response), Some(challenged)) = (&mut answered, challenged) {
                challenged.redirect(response);
            }
            answered
        }
    }
}

impl Admitted<'_> {
    /// What keeps the caller on one version, until callers are assigned anew.
    pub(super) fn affinity_key(&self) -> Vec<u8> {
        let who = self.who();
        let said = self
            .sources()
            .first(&who, |cookie| self.gifts.give(cookie, self.below));
        self.renewed(said.unwrap_or_else(|| unless_said(&who)).key())
    }

    /// The same by what the caller has brought: a cookie that was given just now would tell it from itself in each request, where it keeps
    /// none.
    pub(super) fn brought_key(&self) -> Vec<u8> {
        let who = self.who();
        let said = self.sources().first(&who, |_| None);
        said.unwrap_or_else(|| unless_said(&who)).key()
    }

    /// A key, until callers are assigned anew.
    pub(super) fn renewed(&self, mut key: Vec<u8>) -> Vec<u8> {
        if let Some(period) = self.service.split.as_ref().and_then(|split| split.renew) {
            let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            renew(&mut key, since_1970, period);
        }
        key
    }

    /// What can be said before the body is there.
    fn check_by_head(&mut self, has_message: bool) -> Result<(), Refusal> {
        let principal = self.principal.as_deref();
        self.chosen = chosen_version(self.service, &self.headers, principal)?;
        self.check_stopped()?;
        self.check_rule_by_head(has_message)
    }

    /// Takes the service from the routing table as it is now: a body may take its time, and a version may be taken back
    /// meanwhile. One that is no longer where the caller asked for it stays as it was.
    pub(super) fn look_again(&mut self) -> Result<(), Refusal> {
        let (before, core) = (self.service, self.core);
        self.alarm = core.alarm();
        let latch = core.latch();
        let now = core.with_snapshot(|snapshot| {
            let is_same = |service: &&Arc<ServiceRoute>| {
                (&service.path, service.protocol) == (&before.path, before.protocol)
            };
            let is_newer = snapshot.position != self.position;
            let now = is_newer.then(|| snapshot.service(&before.name));
            now.flatten().filter(is_same).cloned()
        });
        if let Some(now) = now {
            self.service = self.newer.get_or_init(|| now);
            self.ruling = Ruling::default();
            let principal = self.principal.as_deref();
            auth::look_again(core, self.service, principal)?;
            self.chosen = chosen_version(self.service, &self.headers, principal)?;
        }
        self.rules = Rules::of(
            core,
            self.service,
            latch,
            self.principal.as_deref(),
            self.only.as_deref(),
        );
        self.check_stopped()
    }

    /// Makes a client's headers those of a request to an endpoint, with the proven tenant and the credential for it.
    pub(super) fn for_endpoint(&self, headers: &mut HeaderMap) -> Result<(), Refusal> {
        headers::for_endpoint(headers, self.connection, self.host);
        affinity::remove_cookies(self.service, headers);
        if self.service.protocol == Protocol::Mcp {
            // Ours; that of the server takes its place.
            headers.remove(&headers::SESSION_ID);
        }
        if let Some(principal) = &self.principal {
            auth::name_tenant(self.service, principal, headers);
        }
        auth::prove(self.service, headers)
    }

    fn signed<'u>(&self, uri: &'u Uri) -> Option<&'u str> {
        let principal = self.principal.as_deref()?;
        auth::sign::is_asked(self.core, self.service, principal, &self.headers)
            .then(|| uri.path_and_query().map_or("/", |target| target.as_str()))
    }

    /// Refuses a request whose signature is asked for and is not that of its holder.
    pub(super) fn check_signature(&self, body: &[u8]) -> Result<(), Refusal> {
        let (Some(principal), Some(target)) = (self.principal.as_deref(), self.signed) else {
            return Ok(());
        };
        let request = auth::sign::Request {
            method: &self.method,
            target,
            body,
        };
        auth::sign::check(self.core, self.service, principal, &self.headers, &request)
    }

    /// To what the values are bound that clients hold for us.
    pub(super) fn bound(&self) -> Bound<'_> {
        (self.service.name.as_str(), self.owner)
    }

    /// Where a caller goes. From a version that is killed callers go to stable, if that is another one; what a killed version made
    /// nobody else can read.
    pub(super) fn route(&self, caller: Caller<'_>) -> Result<Destination, Refusal> {
        let to = self.route_by(caller, &*self.core.shared.loads)?;
        if to.instead_of.is_some() {
            let service = &self.service.name;
            self.core.counters.detoured(service, Detour::Fallback);
        }
        Ok(to)
    }

    /// The same by another look at how endpoints do, and not counted.
    fn route_by(&self, caller: Caller<'_>, live: &impl Live) -> Result<Destination, Refusal> {
        let service = self.service;
        let is_killed = |version| self.is_killed(version);
        let to = route::route_past(service, caller, is_killed, live);
        to.map_err(|stopped| match stopped {
            Stopped::Killed => Refusal::killed(&service.name),
            Stopped::Bound => self.version_gone(Rejection::Kill),
            Stopped::Nowhere(nowhere) => self.nowhere(nowhere),
        })
    }

    fn version_gone(&self, why: Rejection) -> Refusal {
        let text = "the version that made this value is gone; start again without it";
        let status = StatusCode::BAD_REQUEST;
        Refusal::rpc(status, None, GatewayError::VersionGone, text)
            .counted(why)
            .of(&self.service.name)
    }

    fn destination(&self, caller: Caller<'_>) -> Result<Destination, Refusal> {
        let to = route::route(self.service, caller, &*self.core.shared.loads);
        to.map_err(|nowhere| self.nowhere(nowhere))
    }

    fn nowhere(&self, nowhere: Nowhere) -> Refusal {
        let service = self.service;
        match nowhere {
            Nowhere::EndpointGone => self.version_gone(Rejection::Session),
            Nowhere::NoEndpoints { version } => {
                let version = service.versions.get(version).map(|v| v.name.as_str());
                let text = format!(
                    "version `{}` of service `{}` has no endpoint to serve it",
                    version.unwrap_or_default(),
                    service.name
                );
                Refusal::plain(StatusCode::SERVICE_UNAVAILABLE, text).of(&service.name)
            }
            Nowhere::Unusable { version } => {
                let version = service.versions.get(version).map(|v| v.name.as_str());
                Refusal::unusable(&service.name, version.unwrap_or_default())
            }
        }
    }

    /// The request as it goes to the endpoint.
    pub(super) fn outbound<'o>(
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
            compared: to.by_split,
            session: None,
            tenant: self.tenant.as_deref(),
            principal: self.principal.as_ref(),
            alarm: self.alarm,
            trail: self.trail.clone(),
            complete: self.complete,
        }
    }

    /// Plain HTTP: assigned by affinity key, streamed both ways. So are requests of MCP that have no message.
    pub(super) async fn plain(&mut self, body: ToUpstream, era: CallEra) -> Answered {
        let (key, by) = (self.affinity_key(), self.ruled_by());
        let to = self.route(self.new_caller(&key, by.as_deref()))?;
        let is_mcp = era != CallEra::None;
        let viewer = if is_mcp {
            Some(self.any_viewer(None, era))
        } else {
            self.viewer(None, era)
        };
        let viewer = viewer.map(|viewer| viewer.on(self.service, to.version));
        if !is_mcp {
            self.check_route(viewer.as_ref())?;
        }
        let mut headers = std::mem::take(&mut self.headers);
        self.for_endpoint(&mut headers)?;
        let to = self.steer(to, self.chosen, viewer.as_ref(), &mut headers);
        // A server that takes it for the beginning of a stream may say on it what messages ask elsewhere.
        let sight = viewer.filter(|_| is_mcp);
        let sight = sight.map(|viewer| Self::stream_sight(viewer, None, 0));
        let asks = match era {
            CallEra::None => Asks::Call(Call::default()),
            // A method that MCP does not know is no call.
            CallEra::Legacy | CallEra::Modern => Asks::Nothing,
        };
        let mut outbound = self.outbound(headers, to, body, era, asks);
        outbound.key = Some(&key);
        let inbound = forward::send(self.core, outbound).await?;
        Ok(forward::answer(self.core, self.service, inbound, Treatment::Plain, sight).await)
    }
}
