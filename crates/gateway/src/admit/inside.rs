//! Messages of the gateway's own, on behalf of a caller who was admitted: REST asks so. Each goes the way of any other message, through
//! the routing table, flags, kills and limits as they are by then; only who the caller is, is not asked again.

use super::{
    Admitted, Answered,
    checks::chosen_version,
    rules::{Outside, Ruling},
};
use crate::{
    access::Rules,
    affinity::{self, Gifts},
    audit::Trail,
    connection::Connection,
    core::Core,
    headers, limit,
    refusal::Refusal,
    seal::Owner,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serin_mcp::era::Era;
use serin_model::{
    api::ApiSpec,
    name::{EndpointId, RolloutId, ServiceName, VersionName},
    observe::Rejection,
    route::{self, explain::Glance},
    snapshot::ServiceRoute,
};
use serin_tenancy::Principal;
use std::{
    cell::{Cell, OnceCell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

/// What describes the request of REST, and not who sends it.
const OF_THE_REQUEST: [HeaderName; 12] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::EXPECT,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_UNMODIFIED_SINCE,
    header::RANGE,
    header::TRANSFER_ENCODING,
];

/// What may differ from one request of a caller to the next, beside [`OF_THE_REQUEST`]. Any other header may be that by which a server
/// knows its users.
const OF_NOBODY: [HeaderName; 14] = [
    header::CACHE_CONTROL,
    header::DATE,
    header::HOST,
    header::PRAGMA,
    header::USER_AGENT,
    HeaderName::from_static("b3"),
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("x-amzn-trace-id"),
    HeaderName::from_static("x-cloud-trace-context"),
    HeaderName::from_static("x-correlation-id"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("cf-ray"),
];

/// A caller who was admitted, in a form that may outlive the request.
pub(crate) struct Asker {
    connection: Rc<Connection>,
    service: ServiceName,
    host: Box<str>,
    headers: HeaderMap,
    principal: Option<Arc<Principal>>,
    tenant: Option<Box<str>>,
    /// The version of the API that was asked, where it has not all tools.
    only: Option<Arc<ApiSpec>>,
    /// What the rules of the service ask of the request, if there are any.
    outside: Option<Box<Outside>>,
    /// Tells callers apart who must not share a session.
    pub(crate) caller: [u8; 32],
}

/// What the messages of one request of REST are recorded as. They take nothing out of buckets: the request did.
#[derive(Default)]
pub(crate) struct Account {
    pub(crate) trail: Trail,
    standing: Cell<Option<limit::Standing>>,
    /// The caller has brought its cookies, if only by now.
    gifts: Gifts,
}

impl Account {
    pub(crate) fn new(trail: Trail) -> Self {
        Self {
            trail,
            ..Self::default()
        }
    }
}

/// A message.
pub(crate) struct Saying {
    pub(crate) era: Era,
    pub(crate) method: Method,
    pub(crate) session: Option<HeaderValue>,
    /// Where a rule leads its caller.
    pub(crate) led: Option<VersionName>,
    /// Those that the message needs, beside the types of its body and answer.
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// Where a caller goes.
pub(crate) struct Spot {
    pub(crate) service: ServiceName,
    pub(crate) version: VersionName,
    pub(crate) endpoint: EndpointId,
    /// The step of the rollout under way.
    pub(crate) step: Option<(RolloutId, u32)>,
    /// The version was chosen by hand.
    pub(crate) is_tester: bool,
    /// A rule led there.
    pub(crate) is_ruled: bool,
}

impl Admitted<'_> {
    /// The caller, for messages of our own.
    pub(super) fn asker(&self, connection: &Rc<Connection>, outside: Option<Outside>) -> Asker {
        let mut headers = self.headers.clone();
        headers::remove_hop_by_hop(&mut headers);
        for name in OF_THE_REQUEST {
            headers.remove(name);
        }
        let is_of_mcp = |name: &&HeaderName| name.as_str().starts_with("mcp-");
        let of_mcp: Vec<_> = headers.keys().filter(is_of_mcp).cloned().collect();
        for name in of_mcp {
            headers.remove(name);
        }
        headers.remove(&headers::LAST_EVENT_ID);
        // Whoever is given a cookie brings it in all messages of the request, the first one included.
        let _ = (self.affinity_key(), self.ruled_by());
        let mut told_apart = headers.clone();
        affinity::remove_cookies(self.service, &mut told_apart);
        let caller = self.caller(&told_apart);
        self.gifts.bring(&mut headers);
        Asker {
            connection: Rc::clone(connection),
            service: self.service.name.clone(),
            host: self.host.into(),
            headers,
            principal: self.principal.clone(),
            tenant: self.tenant.clone(),
            only: self.only.clone(),
            outside: outside.map(Box::new),
            caller,
        }
    }

    /// Tells callers apart. Who proved who they are is that; of others everything counts by which a server may know them.
    fn caller(&self, headers: &HeaderMap) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let mut add = |tag: u8, value: &[u8]| {
            hasher.update(&[tag]);
            hasher.update(&value.len().to_be_bytes());
            hasher.update(value);
        };
        if let Some(principal) = &self.principal {
            add(b'k', &[u8::from(principal.key.is_some())]);
            add(b't', principal.tenant.as_str().as_bytes());
            add(b's', principal.subject.as_bytes());
            return hasher.finalize().into();
        }
        add(b'a', &self.brought_key());
        add(b't', self.tenant.as_deref().unwrap_or_default().as_bytes());
        let mut names: Vec<_> = headers
            .keys()
            .filter(|name| !OF_NOBODY.contains(name))
            .collect();
        names.sort_unstable_by_key(|name| name.as_str());
        for name in names {
            add(b'n', name.as_str().as_bytes());
            for value in headers.get_all(name) {
                add(b'v', value.as_bytes());
            }
        }
        hasher.finalize().into()
    }
}

impl Asker {
    /// Whether the caller had to prove who they are.
    pub(crate) fn has_principal(&self) -> bool {
        self.principal.is_some()
    }

    fn service(&self, core: &Core) -> Result<(Arc<ServiceRoute>, u64), Refusal> {
        let found = core.with_snapshot(|snapshot| {
            let service = snapshot.service(&self.service);
            Some((service?.clone(), snapshot.position))
        });
        found.ok_or_else(|| {
            let text = format!("service `{}` is not there any more", self.service);
            Refusal::plain(StatusCode::SERVICE_UNAVAILABLE, text).counted(Rejection::Route)
        })
    }

    /// Whether a version is known to list a tool; nothing if its tools are not known.
    pub(crate) fn is_listed(&self, core: &Core, version: Option<&str>, tool: &str) -> Option<bool> {
        let (service, _) = self.service(core).ok()?;
        let mut versions = service.versions.iter();
        let version = versions.find(|known| Some(known.name.as_str()) == version)?;
        (!version.tools.is_empty()).then(|| version.tools.iter().any(|known| **known == *tool))
    }

    /// Where the caller's messages go.
    pub(crate) fn spot(&self, core: &Rc<Core>) -> Result<Spot, Refusal> {
        let (service, position) = self.service(core)?;
        let (newer, account) = (OnceCell::new(), Account::default());
        let mut headers = self.headers.clone();
        headers.remove(header::ACCEPT);
        let admitted = self.admit(core, (&service, position), &newer, &account, headers)?;
        let (key, by) = (admitted.affinity_key(), admitted.ruled_by());
        let (caller, live) = (
            admitted.new_caller(&key, by.as_deref()),
            &*core.shared.loads,
        );
        // The turn of an endpoint is for the message to take, which follows. That of a rule is taken here: the message is led.
        let to = admitted.route_by(caller, &Glance(live))?;
        if admitted.is_ruled() {
            route::assign(&service, caller, live);
        }
        let version = service.versions.get(to.version);
        let endpoint = version.and_then(|version| version.endpoints.get(to.endpoint));
        let (Some(version), Some(endpoint)) = (version, endpoint) else {
            let text = format!("service `{}` has no endpoint to serve it", service.name);
            return Err(Refusal::plain(StatusCode::SERVICE_UNAVAILABLE, text).of(&service.name));
        };
        let split = service.split.as_ref();
        Ok(Spot {
            service: service.name.clone(),
            version: version.name.clone(),
            endpoint: endpoint.id,
            step: split.map(|split| (split.rollout, split.step)),
            is_tester: admitted.chosen.is_some(),
            is_ruled: admitted.chosen.is_none() && admitted.is_ruled(),
        })
    }

    /// Sends a message. Without an account it is one of the gateway's own, which is not recorded.
    pub(crate) async fn say(
        &self,
        core: &Rc<Core>,
        saying: Saying,
        account: Option<&Account>,
    ) -> Answered {
        let (service, position) = self.service(core)?;
        let unrecorded = Account::default();
        let account = account.unwrap_or(&unrecorded);
        let mut headers = self.headers.clone();
        if saying.method == Method::POST {
            headers::post_message(&mut headers);
            headers.insert(header::CONTENT_LENGTH, saying.body.len().into());
        }
        headers.extend(saying.headers);
        let newer = OnceCell::new();
        let mut admitted = self.admit(core, (&service, position), &newer, account, headers)?;
        admitted.method = saying.method;
        admitted.led = saying.led.and_then(|led| {
            let mut versions = service.versions.iter();
            versions.position(|version| version.name == led)
        });
        admitted.check_stopped()?;
        match saying.session {
            Some(session) if admitted.method == Method::DELETE => {
                Box::pin(admitted.stream_or_end(session)).await
            }
            session => {
                let body = Bytes::from(saying.body);
                Box::pin(admitted.message(Some(saying.era), session, body)).await
            }
        }
    }

    fn admit<'a>(
        &'a self,
        core: &'a Rc<Core>,
        (service, position): (&'a ServiceRoute, u64),
        newer: &'a OnceCell<Arc<ServiceRoute>>,
        account: &'a Account,
        headers: HeaderMap,
    ) -> Result<Admitted<'a>, Refusal> {
        let (alarm, latch) = (core.alarm(), core.latch());
        let principal = self.principal.clone();
        let mut admitted = Admitted {
            core,
            connection: &self.connection,
            service,
            position,
            newer,
            method: Method::POST,
            rest: "",
            query: None,
            host: &self.host,
            chosen: chosen_version(service, &headers, principal.as_deref())?,
            owner: principal.as_deref().map(Owner::of),
            rules: Rules::of(
                core,
                service,
                latch,
                principal.as_deref(),
                self.only.as_deref(),
            ),
            ruling: Ruling::default(),
            led: None,
            gifts: &account.gifts,
            below: &service.path,
            principal,
            only: self.only.clone(),
            is_inside: true,
            signed: None,
            limits: limit::Plan::default(),
            standing: &account.standing,
            trail: &account.trail,
            is_counted: Cell::new(true),
            tenant: self.tenant.clone(),
            headers,
            alarm,
            passes: RefCell::default(),
            complete: Instant::now(),
        };
        if let Some(outside) = &self.outside {
            admitted.find_rule_inside(outside);
        }
        Ok(admitted)
    }
}
