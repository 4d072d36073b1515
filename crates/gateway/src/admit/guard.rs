//! What flags and kills say to a request: whether its service, version, tool or route is there for its caller.

use super::{Admitted, checks::era_of};
use crate::{
    access::{Closed, Rules, Viewer},
    affinity,
    auth::{self, Beyond},
    forward::Sight,
    headers, lists,
    refusal::Refusal,
    route::{self, Destination},
};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use serin_flags::{Reason, kill::Stop};
use serin_mcp::{
    envelope::{Envelope, Kind, Message},
    era::Era,
    error::{GatewayError, error_body},
    header::ModernHeaders,
};
use serin_model::{
    access::{Asked, Denied},
    gate::Feature,
    observe::{CallEra, Rejection},
    reach::is_limited,
    snapshot::ServiceRoute,
};
use uuid::Uuid;

/// Longest name of a tool that a refusal repeats, in characters.
const SHOWN_CHARS_MAX: usize = 100;

/// The tenant that a request names, where the service has a header for it.
pub(super) fn tenant(
    service: &ServiceRoute,
    headers: &HeaderMap,
) -> Result<Option<Box<str>>, Refusal> {
    let Some(name) = &service.settings.tenant_header else {
        return Ok(None);
    };
    let mut values = headers.get_all(name.as_str()).iter();
    let is_alone = !(headers.keys()).any(|other| headers::is_lookalike(other, name));
    match (values.next(), values.next()) {
        (None, _) if is_alone => Ok(None),
        (Some(value), None) if is_alone && let Ok(tenant) = value.to_str() => {
            Ok(Some(tenant.into()))
        }
        // Whoever names two tenants would be neither, and stopped with neither.
        _ => {
            let text = format!(
                "header `{name}` must be there once, be plain text and be written with these characters"
            );
            let refusal = Refusal::plain(StatusCode::BAD_REQUEST, text);
            Err(refusal.counted(Rejection::Body).of(&service.name))
        }
    }
}

/// Why a message is refused.
enum Why<'m> {
    HiddenTool(&'m str),
    KilledTool(&'m str),
    /// The scopes or the role of the caller do not reach a tool, or else a method.
    Beyond(Beyond<'m>),
    ClosedTasks,
    TaskWanted,
}

impl Why<'_> {
    fn counted(&self) -> Rejection {
        match self {
            Self::KilledTool(_) => Rejection::Kill,
            Self::Beyond(_) => Rejection::Scope,
            Self::HiddenTool(_) | Self::ClosedTasks | Self::TaskWanted => Rejection::Flag,
        }
    }

    /// In words, for who has shown this kind of `credential`.
    fn error(&self, credential: &str) -> (GatewayError, String) {
        let shown = |tool: &str| tool.chars().take(SHOWN_CHARS_MAX).collect::<String>();
        match self {
            // In the words in which servers say it of tools that they do not have.
            Self::HiddenTool(tool) => (
                GatewayError::InvalidParams,
                format!("Unknown tool: {}", shown(tool)),
            ),
            Self::KilledTool(tool) => (
                GatewayError::Disabled,
                format!(
                    "tool `{}` is switched off for now; use another one",
                    shown(tool)
                ),
            ),
            Self::Beyond(Beyond { tool, by_role }) => {
                let what = tool.map_or_else(
                    || "this method".to_owned(),
                    |tool| format!("tool `{}`", shown(tool)),
                );
                let text = match (by_role, tool) {
                    (false, _) => format!("the scopes of this {credential} do not reach {what}"),
                    (true, None) => format!(
                        "the role of this {credential}, `read_only`, does not reach {what}; one of role `user` does"
                    ),
                    (true, Some(_)) => format!(
                        "the role of this {credential}, `read_only`, calls tools alone that are known to only read (`readOnlyHint`), and not {what}; one of role `user` does"
                    ),
                };
                (GatewayError::InvalidRequest, text)
            }
            Self::ClosedTasks => (GatewayError::MethodNotFound, "Method not found".to_owned()),
            Self::TaskWanted => (
                GatewayError::InvalidParams,
                "there are no tasks here; call without `task`".to_owned(),
            ),
        }
    }

    /// As servers answer it (2026-07-28): an unknown method is a 404, other errors of a call come with a 200.
    fn status(&self, era: CallEra) -> StatusCode {
        match (self, era) {
            (Self::ClosedTasks, CallEra::Modern) => StatusCode::NOT_FOUND,
            (Self::Beyond(_), _) => StatusCode::FORBIDDEN,
            _ => StatusCode::OK,
        }
    }
}

/// A call of a tool that is tried again: its place in the batch, its stop, its tool.
type Probing<'m> = (usize, &'m Stop, &'m str);

/// The stops at which these calls are tried, each once: all calls of a tool take one turn.
fn distinct<'m>(probing: &[Probing<'m>]) -> Vec<&'m Stop> {
    let mut stops: Vec<&Stop> = Vec::new();
    for (_, stop, _) in probing {
        if stops.iter().all(|other| other.at != stop.at) {
            stops.push(stop);
        }
    }
    stops
}

impl Admitted<'_> {
    /// Whether the service is there at all, for this tenant and in this environment.
    pub(super) fn check_stopped(&self) -> Result<(), Refusal> {
        let Some(rules) = &self.rules else {
            return Ok(());
        };
        let environment = self.core.options().environment;
        let (name, tenant) = (&self.service.name, self.tenant.as_deref());
        match rules
            .latch
            .stops_service(environment, name.as_str(), tenant)
        {
            Some(stop) if !self.passes(stop, "service") => {
                Err(Refusal::killed_by(stop.scope, name))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether a stop lets this request through; asked twice, it says the same.
    fn passes(&self, stop: &Stop, scope: &'static str) -> bool {
        let mut passes = self.passes.borrow_mut();
        let known = passes
            .iter()
            .find(|(at, of, _)| (*at, *of) == (stop.at, scope));
        if let Some((.., passes)) = known {
            return *passes;
        }
        let is_let = self.core.probes(stop, scope);
        passes.push((stop.at, scope, is_let));
        is_let
    }

    /// Whether a version is killed for this request. The side of a flag is, where stable is, whose servers it has.
    pub(super) fn is_killed(&self, version: usize) -> bool {
        let Some(rules) = &self.rules else {
            return false;
        };
        let service = self.service;
        let is_stopped = |version: usize| {
            let version = service.versions.get(version).map(|v| v.name.as_str());
            let stop = version.and_then(|v| rules.latch.stops_version(service.name.as_str(), v));
            stop.is_some_and(|stop| !self.passes(stop, "version"))
        };
        is_stopped(version) || is_stopped(route::served_by(service, version))
    }

    /// Whether tools or features of the service may not be there: then bodies are looked into.
    pub(super) fn is_guarded(&self) -> bool {
        let (service, gates) = (self.service.name.as_str(), &self.service.gates);
        self.is_limited()
            || self.only.is_some()
            || self.rules.as_ref().is_some_and(|rules| {
                gates.has_tools() || gates.has_features() || rules.latch.stops_tools_of(service)
            })
    }

    /// Whether the scopes or the role of the caller leave less than all of the service.
    pub(super) fn is_limited(&self) -> bool {
        let principal = self.principal.as_deref();
        principal.is_some_and(|principal| is_limited(principal, self.service.name.as_str()))
    }

    /// Whether messages are looked at one by one, for that or because there are tasks and cursors of others.
    fn is_checked(&self) -> bool {
        self.is_guarded() || self.principal.is_some()
    }

    /// Whether bodies are looked into, for that or because limits or rules ask which tools are called.
    pub(super) fn is_read(&self) -> bool {
        self.is_checked() || self.limits.by_tool() || self.service.rules.ask_for_tools()
    }

    /// The caller in the words of flags, if they are asked.
    pub(super) fn viewer(&self, session: Option<Uuid>, era: CallEra) -> Option<Viewer> {
        let split = self.service.split.as_ref();
        let is_asked = self.is_checked()
            || self.service.gates.has_routes()
            || split.is_some_and(|split| split.flag.is_some());
        is_asked.then(|| self.any_viewer(session, era))
    }

    /// The same, whether they are asked now or may be later.
    pub(super) fn any_viewer(&self, session: Option<Uuid>, era: CallEra) -> Viewer {
        let sources = route::sources(&self.service.settings, None);
        let targeting_key = affinity::targeting_key(sources, &self.who(), session, self.gifts);
        let session = session.map(|session| session.to_string());
        Viewer::new(
            self.service,
            targeting_key,
            self.tenant.as_deref(),
            self.principal.as_ref(),
            session.as_deref(),
            era,
            self.core.options().environment,
        )
        .through(self.only.as_ref())
    }

    /// Refuses a body that a server could read differently than the gateway does, where tools are refused by name.
    pub(super) fn check_reading(&self, envelope: &Envelope<'_>) -> Result<(), Refusal> {
        if !self.is_read() {
            return Ok(());
        }
        for message in &envelope.messages {
            let method = message.method();
            if method != "tools/call" && method.trim().eq_ignore_ascii_case("tools/call") {
                let text = "the method is written `tools/call`";
                return Err(self.unreadable(GatewayError::MethodNotFound, message.id, text));
            }
            if let Some(like) = message.lookalike {
                let text = format!(
                    "a key differs from `{like}` in capitals only; send `{like}`, and only once"
                );
                return Err(self.unreadable(GatewayError::InvalidRequest, message.id, &text));
            }
            let is_odd = |name: &str| name != name.trim() || name.chars().any(char::is_control);
            if message.method() == "tools/call" && message.name.as_deref().is_some_and(is_odd) {
                let text = "the name of the tool has blanks around it or a control character in it; send it without";
                return Err(self.unreadable(GatewayError::InvalidParams, message.id, text));
            }
        }
        Ok(())
    }

    /// Refuses a modern request whose headers say something else than its body (2026-07-28, "Standard Request Headers").
    pub(super) fn check_headers(&self, envelope: &Envelope<'_>) -> Result<(), Refusal> {
        let Some(message) = envelope.single() else {
            let text = "a body holds one message since 2025-06-18; send them one by one";
            return Err(self.unreadable(GatewayError::InvalidRequest, None, text));
        };
        let text = |name| headers::text(&self.headers, name);
        let sent = ModernHeaders {
            protocol_version: text(&headers::PROTOCOL_VERSION),
            method: text(&headers::METHOD),
            name: text(&headers::NAME),
        };
        sent.agree_with(message).map_err(|error| {
            self.unreadable(GatewayError::HeaderMismatch, message.id, &error.to_string())
        })
    }

    fn unreadable(&self, error: GatewayError, id: Option<&str>, text: &str) -> Refusal {
        Refusal::rpc(StatusCode::BAD_REQUEST, id, error, text)
            .counted(Rejection::Body)
            .of(&self.service.name)
    }

    /// Refuses what is not there for the caller on a version; returns the features that are closed.
    pub(super) fn check_messages(
        &self,
        viewer: Option<&Viewer>,
        envelope: &Envelope<'_>,
        era: CallEra,
    ) -> Result<Closed, Refusal> {
        let (Some(rules), Some(viewer), true) = (&self.rules, viewer, self.is_checked()) else {
            return Ok(Closed::default());
        };
        let closed = viewer.closed(self.core, self.service, rules);
        let mut probing = Vec::new();
        let mut refused: Vec<_> = (envelope.messages.iter())
            .enumerate()
            .map(|(at, message)| {
                let mut tried = |stop, tool| probing.push((at, stop, tool));
                self.check_message(message, viewer, rules, closed, &mut tried)
            })
            .collect();
        // Only what passes whole takes its turn at what is tried again.
        if refused.iter().all(Option::is_none) && !self.core.probe_all(&distinct(&probing), "tool")
        {
            for (at, _, tool) in &probing {
                if let Some(why) = refused.get_mut(*at) {
                    *why = Some(Why::KilledTool(tool));
                }
            }
        }
        let Some(first) = refused.iter().flatten().next() else {
            return Ok(closed);
        };
        let beyond = refused.iter().flatten().find_map(|why| match why {
            Why::Beyond(beyond) => Some(*beyond),
            _ => None,
        });
        let credential = auth::shown(self.principal.as_deref());
        let (status, counted) = (first.status(era), first.counted());
        let of_batch = if beyond.is_some() {
            StatusCode::FORBIDDEN
        } else {
            StatusCode::OK
        };
        let mut answers = Vec::new();
        for (message, why) in envelope.messages.iter().zip(&refused) {
            let (error, text) = match why {
                Some(why) => why.error(credential),
                None => (
                    GatewayError::InvalidRequest,
                    "not run, because another message of the batch was refused; send it again without that one".to_owned(),
                ),
            };
            if message.kind == Kind::Request {
                answers.push(error_body(message.id, error, &text, None));
            }
        }
        let refusal = match answers.as_slice() {
            [] => Refusal::plain(StatusCode::ACCEPTED, ""),
            [answer] if !envelope.is_batch => Refusal::json(status, answer.clone()),
            answers => Refusal::json(of_batch, format!("[{}]", answers.join(","))),
        };
        let refusal = refusal.counted(counted).of(&self.service.name);
        Err(match beyond {
            Some(beyond) => auth::beyond(refusal, self.service, beyond, &self.origin()),
            None => refusal,
        })
    }

    /// The gateway's address, as the caller sees it.
    fn origin(&self) -> String {
        let host = self.host.parse();
        host.map_or_else(
            |_| String::new(),
            |host| auth::metadata::origin(self.connection, &self.headers, &host),
        )
    }

    /// Refuses what is no tool and no method, to a caller who reaches less than all of the service.
    pub(super) fn route_beyond(&self) -> Refusal {
        let (service, principal) = (self.service, self.principal.as_deref());
        // Else it is the role that leaves it out.
        let by_role = principal.is_some_and(|p| p.scopes.reach_all_of(service.name.as_str()));
        auth::route_beyond(service, principal, by_role, &self.origin())
    }

    /// Why a message is refused; `tried` hears of the call of a tool that is tried again.
    fn check_message<'m>(
        &self,
        message: &'m Message<'m>,
        viewer: &'m Viewer,
        rules: &'m Rules,
        closed: Closed,
        tried: &mut dyn FnMut(&'m Stop, &'m str),
    ) -> Option<Why<'m>>
    where
        Self: 'm,
    {
        let asked = Asked::Method(message.method());
        if message.kind != Kind::Response
            && let Err(denied) = viewer.may(self.core, self.service, rules, asked)
        {
            return Some(Why::Beyond(Beyond {
                tool: None,
                by_role: denied == Denied::Role,
            }));
        }
        match message.method() {
            "tools/call" => {
                if closed.tasks && message.wants_task {
                    return Some(Why::TaskWanted);
                }
                let tool = message.name.as_deref()?;
                match viewer.may(self.core, self.service, rules, Asked::Tool(tool)) {
                    Ok(()) => None,
                    Err(Denied::Hidden) => Some(Why::HiddenTool(tool)),
                    Err(denied @ (Denied::Beyond | Denied::Role)) => Some(Why::Beyond(Beyond {
                        tool: Some(tool),
                        by_role: denied == Denied::Role,
                    })),
                    Err(Denied::Killed(stop)) if stop.one_in.is_some() => {
                        tried(stop, tool);
                        None
                    }
                    Err(Denied::Killed(_)) => Some(Why::KilledTool(tool)),
                }
            }
            method if closed.tasks && method.starts_with("tasks/") => Some(Why::ClosedTasks),
            // It would list those of everybody.
            "tasks/list" if self.principal.is_some() => Some(Why::ClosedTasks),
            _ => None,
        }
    }

    /// Refuses a route of a plain HTTP service that a flag closes, as if it were not there.
    pub(super) fn check_route(&self, viewer: Option<&Viewer>) -> Result<(), Refusal> {
        let (Some(rules), Some(viewer)) = (&self.rules, viewer) else {
            return Ok(());
        };
        if !self.service.gates.has_routes() && !self.is_limited() {
            return Ok(());
        }
        // Some servers take another method from a header.
        let others = headers::METHOD_OVERRIDES.into_iter();
        let others = others.flat_map(|name| self.headers.get_all(name));
        let others = others.filter_map(|method| Some(method.to_str().ok()?.trim()));
        let mut methods = std::iter::once(self.method.as_str()).chain(others);
        let is_open = |method: &str| {
            let path = self.rest;
            let asked = Asked::Route { path, method };
            viewer.may(self.core, self.service, rules, asked)
        };
        match methods.find_map(|method| is_open(method).err()) {
            None => return Ok(()),
            Some(Denied::Beyond | Denied::Role) => return Err(self.route_beyond()),
            Some(Denied::Hidden | Denied::Killed(_)) => {}
        }
        let refusal = Refusal::plain(StatusCode::NOT_FOUND, "not found");
        Err(refusal.counted(Rejection::Flag).of(&self.service.name))
    }

    /// Refuses methods other than those of MCP where bodies must be looked into: a server that takes them for a POST would be a way
    /// around.
    pub(super) fn check_method(&self) -> Result<(), Refusal> {
        let is_known = matches!(
            self.method,
            Method::GET | Method::HEAD | Method::OPTIONS | Method::DELETE
        );
        if is_known || !self.is_read() {
            return Ok(());
        }
        let text = "MCP is spoken with POST, GET and DELETE";
        let refusal = Refusal::plain(StatusCode::METHOD_NOT_ALLOWED, text);
        let refusal = refusal.allow("GET, POST, DELETE").counted(Rejection::Body);
        Err(refusal.of(&self.service.name))
    }

    /// Refuses a body that belongs to no message: what is looked into are the bodies of POST, and a server that reads others would be a
    /// way around.
    pub(super) fn check_no_body(&self) -> Result<(), Refusal> {
        let length = self.headers.get(header::CONTENT_LENGTH);
        let has_body = length.is_some_and(|length| length.as_bytes() != b"0")
            || self.headers.contains_key(header::TRANSFER_ENCODING);
        if !has_body {
            return Ok(());
        }
        let text = "MCP has bodies with POST only; send this request without `Content-Length` and `Transfer-Encoding`";
        let status = StatusCode::BAD_REQUEST;
        let refusal = match era_of(&self.headers) {
            Some(Era::Modern) => Refusal::rpc(status, None, GatewayError::InvalidRequest, text),
            _ => Refusal::plain(status, text),
        };
        Err(refusal.counted(Rejection::Body).of(&self.service.name))
    }

    /// Gives a caller its side of a flag under release, and tells the server which variant that is. Sides change within a session
    /// too: both have the same endpoints.
    pub(super) fn steer(
        &self,
        mut to: Destination,
        chosen: Option<usize>,
        viewer: Option<&Viewer>,
        headers: &mut HeaderMap,
    ) -> Destination {
        let (Some(split), Some(rules), Some(viewer)) = (&self.service.split, &self.rules, viewer)
        else {
            return to;
        };
        let Some(release) = &split.flag else {
            return to;
        };
        let sides = [self.service.stable, split.candidate];
        if !sides.contains(&to.version) {
            return to;
        }
        let flag = release.flag.as_str();
        let evaluation = viewer.evaluate(rules, flag);
        let by_hand = chosen.filter(|version| sides.contains(version));
        let mut variant = evaluation.map(|evaluation| evaluation.variant);
        let mut is_on = if let Some(version) = by_hand {
            // What is killed or has expired is off for everybody.
            version == split.candidate && evaluation.is_some_and(|e| e.reason != Reason::Disabled)
        } else {
            if let Some(evaluation) = &evaluation {
                let counters = &self.core.counters;
                counters.evaluated(&release.flag, evaluation.variant, evaluation.reason);
            }
            let by_split = evaluation.filter(|e| e.reason == Reason::Split);
            to.by_split = by_split.map(|_| route::key_hash(viewer.targeting_key.as_bytes()));
            by_split.is_some_and(|e| *e.variant == *release.on)
        };
        let is_killed = is_on && self.is_killed(split.candidate);
        if is_killed {
            (is_on, to.by_split) = (false, None);
        }
        if is_on {
            variant = Some(&release.on);
        } else if by_hand.is_some() || is_killed {
            let known = rules.flags.flags.get(flag);
            variant = known.map(|flag| &*flag.serin.off_variant);
        }
        to.version = if is_on {
            split.candidate
        } else {
            self.service.stable
        };
        if let Some(said) = variant.and_then(|variant| headers::flag_value(flag, variant)) {
            headers.insert(&headers::FLAGS, said);
        }
        to
    }

    /// How the answer to a message is seen by its caller, where flags or kills may have a say in it: lists, capabilities, and what a
    /// server may ask. Other answers pass unread.
    pub(super) fn sight(
        &self,
        viewer: Option<&Viewer>,
        envelope: Option<&Envelope<'_>>,
        era: CallEra,
        closed: Closed,
    ) -> Option<Sight> {
        let viewer = viewer.filter(|_| self.is_checked())?;
        let gates = &self.service.gates;
        let may_differ = |message: &Message<'_>| {
            matches!(
                message.method(),
                "tools/list" | "initialize" | "server/discover"
            )
        };
        let differs = envelope
            .is_none_or(|envelope| envelope.is_batch || envelope.messages.iter().any(may_differ));
        let asks = match era {
            // Its server may ask in the middle of an answer, and the feature be closed by then.
            CallEra::Legacy => gates.has(Feature::Sampling) || gates.has(Feature::Elicitation),
            CallEra::Modern => closed.sampling || closed.elicitation,
            CallEra::None => false,
        };
        (differs || asks).then(|| Sight {
            viewer: viewer.clone(),
            edits_json: differs || era == CallEra::Modern,
            announces: None,
            announces_after: 0,
        })
    }

    /// How a stream is seen by its caller, who hears `announces` when other tools are visible than before.
    pub(super) fn stream_sight(
        viewer: Viewer,
        announces: Option<Bytes>,
        announces_after: u64,
    ) -> Sight {
        Sight {
            viewer,
            edits_json: false,
            announces,
            announces_after,
        }
    }

    /// A modern request of a client that cannot do what is closed; as it was if it could not anyway.
    pub(super) fn without_closed(body: Bytes, closed: Closed) -> Bytes {
        if !closed.any() {
            return body;
        }
        lists::modern_request(&body, closed).map_or(body, Bytes::from)
    }
}
