//! Admit: what a request is and whether it may pass. Its host and origin, its service, its era, the session or the minted
//! values it brings back, the version it asks for by hand.
mod checks;
mod guard;
mod legacy;
mod limits;
mod mcp;
mod modern;

use self::checks::{
    admits_host, check_head, check_origin, chosen_version, health, host, no_service,
};
use crate::{
    access::Rules,
    affinity, auth,
    body::{ToClient, ToUpstream},
    connection::Connection,
    core::Core,
    forward::{self, Asks, Call, Outbound, Treatment},
    headers, limit,
    refusal::Refusal,
    route::{self, Caller, Destination, Nowhere},
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use jiff::Timestamp;
use serin_mcp::error::GatewayError;
use serin_model::{
    observe::{CallEra, Rejection},
    service::Protocol,
    snapshot::ServiceRoute,
};
use serin_tenancy::Principal;
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
    let standing = Cell::default();
    let mut response = match handle(&core, &connection, request, &standing).await {
        Ok(response) => response,
        Err(refusal) => {
            if let Some(why) = refusal.counted {
                core.counters.reject(refusal.service.as_ref(), why);
            }
            refusal.into_response()
        }
    };
    if let Some(standing) = standing.get() {
        standing.write(response.headers_mut());
    }
    response.map(|body| body.with(busy))
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
    /// The limits of its caller, and what the caller is told about them.
    limits: limit::Plan,
    standing: &'a Cell<Option<limit::Standing>>,
    /// Whether it was taken out of its caller's buckets: that is done once, whichever way it goes.
    is_counted: Cell<bool>,
    /// Whose it is: the tenant that was proven, else the one that a header names.
    tenant: Option<Box<str>>,
    /// The flags and kills, where they have a say.
    rules: Option<Rules>,
    /// The core's alarm when the kills were read.
    alarm: u64,
    /// What stops that let some calls through said to this one.
    passes: RefCell<Vec<(Timestamp, &'static str, bool)>>,
    /// When all of it was there.
    complete: Instant,
}

async fn handle(
    core: &Rc<Core>,
    connection: &Connection,
    request: Request<Incoming>,
    standing: &Cell<Option<limit::Standing>>,
) -> Answered {
    let (mut parts, body) = request.into_parts();
    check_head(core, connection, &parts)?;
    if let Some(health) = health(core, &parts) {
        return Ok(health);
    }
    let host = host(&parts)?;
    let path = parts.uri.path();
    let name = host.host();
    let (alarm, latch) = (core.alarm(), core.latch());
    let (service, position, flags, directory) = core.with_snapshot(|snapshot| {
        let service = snapshot.find(Some(name), path);
        let flags = service.filter(|service| Rules::concern(service, latch.as_deref()));
        let flags = flags.map(|_| snapshot.flags.clone());
        let directory = service.filter(|service| auth::is_asked(service));
        let directory = directory.map(|_| snapshot.tenancy.clone());
        (service.cloned(), snapshot.position, flags, directory)
    });
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
    let principal = match &directory {
        Some(directory) => {
            let headers = &mut parts.headers;
            Some(auth::authenticate(
                core, connection, service, directory, headers,
            )?)
        }
        None => None,
    };
    let tenant = match &principal {
        Some(principal) => Some(principal.tenant.as_str().into()),
        None => guard::tenant(service, &parts.headers)?,
    };
    let newer = OnceCell::new();
    let mut admitted = Admitted {
        core,
        connection,
        service,
        position,
        newer: &newer,
        rest: path.get(service.path.len()..).unwrap_or_default(),
        query: parts.uri.query(),
        host: host.as_str(),
        chosen: chosen_version(service, &parts.headers)?,
        method: parts.method,
        principal,
        limits: limit::Plan::default(),
        standing,
        is_counted: Cell::default(),
        tenant,
        headers: parts.headers,
        rules: flags.map(|flags| Rules::new(flags, latch)),
        alarm,
        passes: RefCell::default(),
        complete: Instant::now(),
    };
    admitted.check_stopped()?;
    match service.protocol {
        Protocol::Http => {
            admitted.find_limits();
            admitted.check_limits(None).await?;
            let body = ToUpstream::stream(body);
            admitted.plain(body, CallEra::None).await
        }
        Protocol::Mcp => admitted.mcp(body).await,
    }
}

impl Admitted<'_> {
    /// What keeps the caller on one version, but for the times at which callers are assigned anew.
    pub(super) fn lasting_key(&self) -> Vec<u8> {
        let settings = &self.service.settings;
        affinity::key(
            &self.headers,
            settings.affinity_header.as_deref(),
            self.connection,
            &self.core.options().trusted_proxies,
        )
    }

    pub(super) fn affinity_key(&self) -> Vec<u8> {
        let mut key = self.lasting_key();
        if let Some(renew) = self.service.split.as_ref().and_then(|split| split.renew) {
            let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            affinity::renew(&mut key, since_1970, renew);
        }
        key
    }

    /// Takes the service from the routing table as it is now: a body may take its time, and a version may be taken back
    /// meanwhile. One that is no longer where the caller asked for it stays as it was.
    pub(super) fn look_again(&mut self) -> Result<(), Refusal> {
        let (before, core) = (self.service, self.core);
        self.alarm = core.alarm();
        let latch = core.latch();
        let (now, flags) = core.with_snapshot(|snapshot| {
            let is_same = |service: &&Arc<ServiceRoute>| {
                (&service.name, &service.path, service.protocol)
                    == (&before.name, &before.path, before.protocol)
            };
            let is_newer = snapshot.position != self.position;
            let now = is_newer.then(|| snapshot.services.iter().find(is_same));
            let now = now.flatten();
            let concern = Rules::concern(now.map_or(before, |now| &**now), latch.as_deref());
            (now.cloned(), concern.then(|| snapshot.flags.clone()))
        });
        if let Some(now) = now {
            self.service = self.newer.get_or_init(|| now);
            self.chosen = chosen_version(self.service, &self.headers)?;
        }
        self.rules = flags.map(|flags| Rules::new(flags, latch));
        self.check_stopped()
    }

    /// Where a caller goes. From a version that is killed callers go to stable, if that is another one; what a killed version made
    /// nobody else can read.
    pub(super) fn route(&self, caller: Caller<'_>) -> Result<Destination, Refusal> {
        let service = self.service;
        let to = self.destination(caller)?;
        if !self.is_killed(to.version) {
            return Ok(to);
        }
        match caller {
            _ if to.version == service.stable || self.is_killed(service.stable) => {
                Err(Refusal::killed(&service.name))
            }
            Caller::Pinned(_) => Err(self.version_gone(Rejection::Kill)),
            Caller::New { key, .. } => self.destination(Caller::New {
                key,
                chosen: Some(service.stable),
                stable_only: false,
            }),
        }
    }

    fn version_gone(&self, why: Rejection) -> Refusal {
        let text = "the version that made this value is gone; start again without it";
        let status = StatusCode::BAD_REQUEST;
        Refusal::rpc(status, None, GatewayError::VersionGone, text)
            .counted(why)
            .of(&self.service.name)
    }

    fn destination(&self, caller: Caller<'_>) -> Result<Destination, Refusal> {
        let service = self.service;
        route::route(service, caller).map_err(|nowhere| match nowhere {
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
        })
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
            alarm: self.alarm,
            complete: self.complete,
        }
    }

    /// Plain HTTP: assigned by affinity key, streamed both ways. So are requests of MCP that have no message.
    pub(super) async fn plain(&mut self, body: ToUpstream, era: CallEra) -> Answered {
        let key = self.affinity_key();
        let to = self.route(Caller::New {
            key: Some(&key),
            chosen: self.chosen,
            stable_only: false,
        })?;
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
        headers::for_endpoint(&mut headers, self.connection, self.host);
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
