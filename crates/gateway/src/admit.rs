//! Admit: what a request is and whether it may pass. Its host and origin, its service, its era, the session or the minted
//! values it brings back, the version it asks for by hand.
mod checks;
mod legacy;
mod mcp;
mod modern;

use self::checks::{
    admits_host, check_head, check_origin, chosen_version, health, host, no_service,
};
use crate::{
    affinity,
    body::{ToClient, ToUpstream},
    connection::Connection,
    core::Core,
    forward::{self, Asks, Call, Outbound, Treatment},
    headers,
    refusal::Refusal,
    route::{self, Caller, Destination, Nowhere},
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serin_mcp::error::GatewayError;
use serin_model::{
    observe::{CallEra, Rejection},
    service::Protocol,
    snapshot::ServiceRoute,
};
use std::{
    cell::OnceCell,
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
    let (service, position) = core.with_snapshot(|snapshot| {
        let service = snapshot.find(Some(name), path);
        (service.cloned(), snapshot.position)
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
        headers: parts.headers,
        complete: Instant::now(),
    };
    match service.protocol {
        Protocol::Http => admitted.plain(body, CallEra::None).await,
        Protocol::Mcp => admitted.mcp(body).await,
    }
}

impl Admitted<'_> {
    pub(super) fn affinity_key(&self) -> Vec<u8> {
        let settings = &self.service.settings;
        let mut key = affinity::key(
            &self.headers,
            settings.affinity_header.as_deref(),
            self.connection,
            &self.core.options().trusted_proxies,
        );
        if let Some(renew) = self.service.split.as_ref().and_then(|split| split.renew) {
            let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            affinity::renew(&mut key, since_1970, renew);
        }
        key
    }

    /// Takes the service from the routing table as it is now: a body may take its time, and a version may be taken back
    /// meanwhile. One that is no longer where the caller asked for it stays as it was.
    pub(super) fn look_again(&mut self) -> Result<(), Refusal> {
        let before = self.service;
        let now = self.core.with_snapshot(|snapshot| {
            let is_same = |service: &&Arc<ServiceRoute>| {
                (&service.name, &service.path, service.protocol)
                    == (&before.name, &before.path, before.protocol)
            };
            let is_newer = snapshot.position != self.position;
            is_newer.then(|| snapshot.services.iter().find(is_same).cloned())
        });
        if let Some(now) = now.flatten() {
            self.service = self.newer.get_or_init(|| now);
            self.chosen = chosen_version(self.service, &self.headers)?;
        }
        Ok(())
    }

    /// Where a caller goes.
    pub(super) fn route(&self, caller: Caller<'_>) -> Result<Destination, Refusal> {
        let service = self.service;
        route::route(service, caller).map_err(|nowhere| match nowhere {
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
            complete: self.complete,
        }
    }

    /// Plain HTTP: assigned by affinity key, streamed both ways.
    pub(super) async fn plain(&mut self, body: Incoming, era: CallEra) -> Answered {
        let key = self.affinity_key();
        let to = self.route(Caller::New {
            key: Some(&key),
            chosen: self.chosen,
            stable_only: false,
        })?;
        let mut headers = std::mem::take(&mut self.headers);
        headers::for_endpoint(&mut headers, self.connection, self.host);
        let asks = match era {
            CallEra::None => Asks::Call(Call::default()),
            // A method that MCP does not know is no call.
            CallEra::Legacy | CallEra::Modern => Asks::Nothing,
        };
        let mut outbound = self.outbound(headers, to, ToUpstream::stream(body), era, asks);
        outbound.key = Some(&key);
        let inbound = forward::send(self.core, outbound).await?;
        Ok(forward::answer(self.core, self.service, inbound, Treatment::Plain).await)
    }
}
