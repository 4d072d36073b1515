//! Legacy MCP (to 2025-11-25): sessions, behind tokens of ours.

use super::{
    Admitted, Answered,
    mcp::{asks, without_session},
};
use crate::{
    access::Closed,
    body::ToUpstream,
    forward::{self, Asks, Call, Inbound, TOOLS_CHANGED, Treatment},
    headers, lists,
    rebind::{self, Because},
    refusal::Refusal,
    route::{self, Caller, Destination},
    session::{self, Place, Side, Token},
    trials::began_in,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::Value;
use serin_mcp::{
    envelope::{Envelope, Kind, Message},
    era::ProtocolVersion,
    error::GatewayError,
};
use serin_model::observe::{CallEra, Rejection};
use serin_route::source::Sources;
use std::{borrow::Cow, rc::Rc};
use uuid::Uuid;

/// Largest 404 that is read to see whether it answers the call. Those that say that a session is unknown are shorter; a
/// larger one is passed on.
const NOT_FOUND_BYTES_MAX: usize = 64 * 1024;

/// What a 404 of a server's says that is not known to answer the call. Its answer has it among its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotFound {
    /// It does not know the session, and did not take the call.
    Session,
    /// It may say either.
    Unclear,
}

impl Admitted<'_> {
    /// Legacy `initialize`: a new session, which is its own affinity key.
    pub(super) async fn initialize(&mut self, message: &Message<'_>, body: Bytes) -> Answered {
        let session = Uuid::new_v4();
        let version = message.protocol_version.as_deref();
        let version = version.and_then(|version| ProtocolVersion::parse(version).ok());
        let (known, by) = (self.session_key(), self.ruled_by());
        let key = known.as_deref().unwrap_or(session.as_bytes());
        let caller = match version {
            Some(ProtocolVersion::V2024_11_05) => without_session(key),
            _ => self.new_caller(key, by.as_deref()),
        };
        let to = self.route(caller)?;
        let viewer = self.viewer(Some(session), CallEra::Legacy);
        let viewer = viewer.map(|viewer| viewer.on(self.service, to.version));
        let closed = match (&viewer, &self.rules) {
            (Some(viewer), Some(rules)) => viewer.closed(self.core, self.service, rules),
            _ => Closed::default(),
        };
        let params = message.params.map(|params| {
            let fewer = closed
                .any()
                .then(|| lists::initialize_params(params, closed));
            fewer.flatten().map_or(Cow::Borrowed(params), Cow::Owned)
        });
        let body = match &params {
            Some(Cow::Owned(params)) => lists::with_params(&body, params).map_or(body, Bytes::from),
            _ => body,
        };
        let is_edited = matches!(params, Some(Cow::Owned(_)));
        let sight = self.sight(viewer.as_ref(), None, CallEra::Legacy, closed);
        // A version that is withdrawn while it answers is left again.
        let issued_ms = session::now_ms();
        let mut headers = self.take_headers()?;
        if is_edited {
            headers.insert(header::CONTENT_LENGTH, body.len().into());
        }
        let to = self.steer(to, self.chosen, viewer.as_ref(), &mut headers);
        let asks = Asks::Call(Call {
            tool: None,
            id: message.id,
        });
        let mut outbound =
            self.outbound(headers, to, ToUpstream::full(body), CallEra::Legacy, asks);
        outbound.key = Some(key);
        let mut inbound = forward::send(self.core, outbound).await?;
        let head = inbound.response.headers_mut();
        let upstream = head.remove(&headers::SESSION_ID);
        if inbound.response.status().is_success() {
            let token = Token {
                session,
                endpoint: inbound.endpoint,
                incarnation: self.core.sessions().incarnation,
                issued_ms,
                expires_seconds: session::now_seconds()
                    .saturating_add(self.service.settings.session_ttl.as_secs()),
                is_tester: self.chosen.is_some(),
                by_split: to.by_split.is_some(),
                key: (known.as_deref())
                    .filter(|_| to.by_split.is_some())
                    .map(route::key_hash),
                side: self.side_of_tester(to.version),
                upstream: match &upstream {
                    Some(id) => Some(id.to_str().map_err(|_| self.bad_session_id())?.into()),
                    None => None,
                },
                init: params.map(Into::into),
            };
            let sealed = token
                .seal(&self.core.shared.keys, self.bound())
                .and_then(|text| HeaderValue::from_str(&text).ok())
                .ok_or_else(|| self.bad_session_id())?;
            let head = inbound.response.headers_mut();
            head.insert(&headers::SESSION_ID, sealed);
        }
        let treatment = Treatment::Legacy {
            session: None,
            announces_move: false,
        };
        Ok(forward::answer(self.core, self.service, inbound, treatment, sight).await)
    }

    /// A legacy message in a session: to where the session lives, byte for byte.
    pub(super) async fn in_session(
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
        if !moves && self.is_killed_at(&place) {
            // Nobody else knows the call that it is about.
            return Ok(Refusal::plain(StatusCode::ACCEPTED, "").into_response());
        }
        let to = self
            .destination(Caller::Pinned(place.endpoint))
            .map_err(|_| self.gone())?;
        let viewer = self.viewer(Some(token.session), CallEra::Legacy);
        let viewer = viewer.map(|viewer| viewer.on(self.service, to.version));
        let closed = self.check_messages(viewer.as_ref(), envelope, CallEra::Legacy)?;
        let sight = self.sight(viewer.as_ref(), Some(envelope), CallEra::Legacy, closed);
        let mut headers = self.take_headers()?;
        let to = self.steer(to, self.chosen_in(&token), viewer.as_ref(), &mut headers);
        let is_flag = (self.service.split.as_ref()).is_some_and(|split| split.flag.is_some());
        let compared = self.compared(&token);
        // Of a flag the caller's key decides, in all of its sessions.
        let compared = if is_flag {
            compared.and(to.by_split)
        } else {
            compared
        };
        let mut to = Destination {
            by_split: None,
            ..to
        };
        let outbound = |place: &Place, to| {
            let mut headers = headers.clone();
            set_session(&mut headers, place);
            let body = ToUpstream::full(body.clone());
            let mut outbound = self.outbound(headers, to, body, CallEra::Legacy, asks(envelope));
            outbound.is_tester |= token.is_tester;
            outbound.compared = compared;
            outbound.session = Some(token.session);
            outbound
        };
        let mut inbound = match forward::send(self.core, outbound(&place, to)).await {
            Err(refusal) if refusal.is_unreached && moves => {
                (place, to) = self.leave(&token, &place, to, &headers, refusal).await?;
                forward::send(self.core, outbound(&place, to)).await?
            }
            sent => sent?,
        };
        // The server may have forgotten the session: it was started anew.
        let mut not_found = self.not_found(&place, &mut inbound, envelope).await?;
        if not_found == Some(NotFound::Session)
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
            not_found = self.not_found(&place, &mut inbound, envelope).await?;
        }
        let treatment = Treatment::Legacy {
            session: Some((token, session)),
            announces_move: false,
        };
        let answer = forward::answer(self.core, self.service, inbound, treatment, sight);
        let mut answer = answer.await;
        if let Some(not_found) = not_found {
            answer.extensions_mut().insert(not_found);
        }
        Ok(answer)
    }

    /// What a 404 says, if it is one of a session and no answer to the call.
    async fn not_found(
        &self,
        place: &Place,
        inbound: &mut Inbound,
        asked: &Envelope<'_>,
    ) -> Result<Option<NotFound>, Refusal> {
        if inbound.response.status() != StatusCode::NOT_FOUND || place.upstream.is_none() {
            return Ok(None);
        }
        let time = self.service.settings.response_timeout;
        Ok(match inbound.read_ahead(NOT_FOUND_BYTES_MAX, time).await? {
            Some(said) if answers(&said, asked) => None,
            Some(_) => Some(NotFound::Session),
            None => Some(NotFound::Unclear),
        })
    }

    /// GET: the stream of a session. DELETE: its end.
    pub(super) async fn stream_or_end(&mut self, session: HeaderValue) -> Answered {
        let token = self.token(&session)?;
        let is_end = self.method == Method::DELETE;
        let mut place = self.place(&token, !is_end).await?;
        let to = self
            .destination(Caller::Pinned(place.endpoint))
            .map_err(|_| self.gone())?;
        let viewer = self.any_viewer(Some(token.session), CallEra::Legacy);
        let viewer = viewer.on(self.service, to.version);
        let mut headers = self.take_headers()?;
        let to = self.steer(to, self.chosen_in(&token), Some(&viewer), &mut headers);
        let mut to = Destination {
            by_split: None,
            ..to
        };
        let is_moved = || self.core.sessions().moved(token.session).is_some();
        let outbound = |place: &Place, to| {
            let mut headers = headers.clone();
            set_session(&mut headers, place);
            if is_moved() {
                // It may name an event of the server where the session lived before.
                headers.remove(&headers::LAST_EVENT_ID);
            }
            let asks = if is_end { Asks::Nothing } else { Asks::Stream };
            let empty = ToUpstream::Full(None);
            self.outbound(headers, to, empty, CallEra::Legacy, asks)
        };
        let inbound = match forward::send(self.core, outbound(&place, to)).await {
            Err(refusal) if refusal.is_unreached && !is_end => {
                (place, to) = self.leave(&token, &place, to, &headers, refusal).await?;
                forward::send(self.core, outbound(&place, to)).await?
            }
            sent => sent?,
        };
        let is_moved = is_moved();
        if is_end && inbound.response.status().is_success() {
            self.core.sessions().end(token.session);
        }
        let treatment = Treatment::Legacy {
            session: Some((token, session)),
            announces_move: is_moved && !is_end,
        };
        let sight = Self::stream_sight(viewer, Some(TOOLS_CHANGED), 0);
        let sight = Some(sight).filter(|_| !is_end);
        Ok(forward::answer(self.core, self.service, inbound, treatment, sight).await)
    }

    /// What a session id says.
    fn token(&self, session: &HeaderValue) -> Result<Rc<Token>, Refusal> {
        let (service, now) = (&self.service.name, session::now_seconds());
        let bound = (service, self.owner);
        if let Some(token) = self.connection.recall(bound, session, now) {
            return Ok(token);
        }
        let keys = &self.core.shared.keys;
        let token = Token::open(keys, self.bound(), session.as_bytes(), now).ok_or_else(|| {
            let text =
                "the session id is not one of this service, or its time is over; initialize again";
            self.no_session(text)
        })?;
        let token = Rc::new(token);
        self.connection.remember(bound, session, &token);
        Ok(token)
    }

    /// The hash of a session that is one of the keys of the step under way: the split decided when it began, in this step.
    fn compared(&self, token: &Token) -> Option<u64> {
        let split = self.service.split.as_ref()?;
        (token.by_split && began_in(split, token.issued_ms))
            .then(|| (token.key).unwrap_or_else(|| route::key_hash(token.session.as_bytes())))
    }

    /// The affinity key of a session that begins, if it is not its own: what is there of what is configured. Only where nothing is there,
    /// its caller is given a cookie: the session itself is what keeps it in one place. Whoever calls REST has one version, in the sessions
    /// that we open for them too.
    fn session_key(&self) -> Option<Vec<u8>> {
        if self.is_inside {
            return Some(self.affinity_key());
        }
        let list = Sources::new(self.sources().list);
        let who = self.who();
        let known = list
            .first(&who, |_| None)
            .or_else(|| list.first(&who, |cookie| self.gifts.give(cookie, self.below)))?;
        Some(self.renewed(known.key()))
    }

    /// The side of the flag under release to which a tester's choice led.
    fn side_of_tester(&self, version: usize) -> Option<Side> {
        let split = self.service.split.as_ref()?;
        (split.flag.is_some() && self.chosen.is_some()).then_some(Side {
            rollout: split.rollout,
            is_on: version == split.candidate,
        })
    }

    /// The version chosen by hand for a call in a session: the side with which the session began, else what the call itself says.
    fn chosen_in(&self, token: &Token) -> Option<usize> {
        let split = self.service.split.as_ref();
        let split = split.filter(|split| split.flag.is_some());
        let side = token.side.zip(split);
        let side = side.filter(|(side, split)| side.rollout == split.rollout);
        let version = side.map(|(side, split)| {
            if side.is_on {
                split.candidate
            } else {
                self.service.stable
            }
        });
        version.or(self.chosen)
    }

    fn no_session(&self, text: &str) -> Refusal {
        let status = StatusCode::NOT_FOUND;
        Refusal::rpc(status, None, GatewayError::UnknownSession, text)
            .counted(Rejection::Session)
            .of(&self.service.name)
    }

    /// The version of a session was taken back, and the session cannot go on with another.
    fn gone(&self) -> Refusal {
        self.core
            .counters
            .moved(&self.service.name, |moved| moved.ended += 1);
        self.no_session("the version that kept this session was taken back; initialize again")
    }

    fn bad_session_id(&self) -> Refusal {
        let text = format!(
            "the server gave a session id that is not visible ASCII of at most {} bytes",
            session::UPSTREAM_BYTES_MAX
        );
        Refusal::plain(StatusCode::BAD_GATEWAY, text).of(&self.service.name)
    }

    /// Where a session lives, after it was moved if it has to and may.
    async fn place(&self, token: &Rc<Token>, moves: bool) -> Result<Place, Refusal> {
        let sessions = self.core.sessions();
        let place = sessions.moved(token.session).unwrap_or_else(|| Place {
            endpoint: token.endpoint,
            since_ms: token.issued_ms,
            upstream: token.upstream.clone(),
        });
        let at = route::locate(self.service, place.endpoint);
        let must_move = at.is_none_or(|(version, _)| {
            route::has_to_move(self.service, version, place.since_ms) || self.is_killed(version)
        });
        if !must_move || !moves {
            return Ok(place);
        }
        let to = self.route(Caller::New {
            key: Some(token.session.as_bytes()),
            chosen: None,
            rule: None,
            stable_only: true,
        })?;
        let to = to.usable().map_err(|nowhere| self.nowhere(nowhere))?;
        let because = Because::Withdrawn;
        let mut headers = self.headers.clone();
        self.for_endpoint(&mut headers)?;
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
        .ok_or_else(|| self.gone())
    }

    /// Where a session goes on whose endpoint cannot be reached: at another of its version that may be used, if that is safe. Without
    /// another it stays, and its client gets this refusal; so it does where its endpoint may only not be used for now.
    async fn leave(
        &self,
        token: &Rc<Token>,
        place: &Place,
        from: Destination,
        headers: &HeaderMap,
        refusal: Refusal,
    ) -> Result<(Place, Destination), Refusal> {
        let version = forward::version_of(self.service, from.version)?;
        let (key, lost) = (Some(token.session.as_bytes().as_slice()), [from.endpoint]);
        let live = &*self.core.shared.loads;
        let Some(endpoint) = route::choose(self.service, version, key, &lost, live) else {
            return Err(refusal);
        };
        let to = Destination { endpoint, ..from };
        let moved = rebind::rebind(
            self.core,
            self.service,
            token,
            place,
            to,
            headers,
            Because::Lost,
        );
        let lost = "the endpoint that kept this session cannot be reached; initialize again";
        match moved.await {
            Some(place) => Ok((place, to)),
            // It may be used again soon, with all that it keeps.
            None if refusal.counted == Some(Rejection::Unusable) => Err(refusal),
            None => Err(self.no_session(lost)),
        }
    }

    /// Whether the version where a session lives is killed.
    fn is_killed_at(&self, place: &Place) -> bool {
        let at = route::locate(self.service, place.endpoint);
        at.is_some_and(|(version, _)| self.is_killed(version))
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
                sessions.cancel(token.session, id, self.service.settings.response_timeout);
            }
        }
    }
}

/// Whether a 404 answers one of the requests after all: then the server has seen them, and they must not be sent twice.
fn answers(said: &[u8], asked: &Envelope<'_>) -> bool {
    let ids: Vec<Value> = (asked.messages.iter())
        .filter(|message| message.kind == Kind::Request)
        .filter_map(|message| serde_json::from_str(message.id?).ok())
        .collect();
    let is_answer = |said: &Value| {
        (said.get("result").is_some() || said.get("error").is_some())
            && said.get("id").is_some_and(|id| ids.contains(id))
    };
    let has_answer = |text: &[u8]| match serde_json::from_slice(text) {
        Ok(Value::Array(batch)) => batch.iter().any(is_answer),
        Ok(said) => is_answer(&said),
        Err(_) => false,
    };
    let lines = said.split(|byte| matches!(byte, b'\r' | b'\n'));
    let mut events = lines.filter_map(|line| line.strip_prefix(b"data:"));
    has_answer(said) || events.any(has_answer)
}

fn set_session(headers: &mut HeaderMap, place: &Place) {
    let id = place.upstream.as_deref();
    match id.and_then(|id| HeaderValue::from_str(id).ok()) {
        Some(id) => headers.insert(&headers::SESSION_ID, id),
        None => headers.remove(&headers::SESSION_ID),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_404_answers_if_it_names_a_request() {
        let one = br#"{"jsonrpc":"2.0","id":"a","method":"tools/call"}"#;
        let two = br#"[{"jsonrpc":"2.0","id":1,"method":"a"},{"jsonrpc":"2.0","id":2,"method":"b"},{"jsonrpc":"2.0","method":"c"}]"#;
        for (asked, said, want) in [
            (&one[..], r#"{"jsonrpc":"2.0","id":"a","error":{}}"#, true),
            (one, r#" {"error":{},"id":"\u0061"} "#, true),
            (
                one,
                "event: message\r\ndata: {\"id\":\"a\",\"result\":1}\r\n\r\n",
                true,
            ),
            (one, r#"{"jsonrpc":"2.0","id":"b","error":{}}"#, false),
            (
                one,
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32001}}"#,
                false,
            ),
            (
                one,
                r#"{"jsonrpc":"2.0","id":"server-error","error":{}}"#,
                false,
            ),
            (one, r#"{"id":"a"}"#, false),
            (one, "Session not found", false),
            (one, "", false),
            (
                &two[..],
                r#"[{"id":7,"error":{}},{"id":2,"error":{}}]"#,
                true,
            ),
            (two, r#"{"id":1,"error":{}}"#, true),
            (two, r#"{"id":null,"error":{}}"#, false),
        ] {
            let asked = Envelope::read(asked).unwrap();
            assert_eq!(answers(said.as_bytes(), &asked), want, "{said}");
        }
    }
}
