//! An answer passed on: read, changed where the caller may not see all of it, and relayed.

use super::{Inbound, Life, Sight, TOOLS_CHANGED};
use crate::{
    access::View,
    affinity, auth,
    body::{Listener, Minter, Reading, Recheck, Relay, ToClient, joined},
    core::Core,
    headers, lists,
    pool::Lease,
    refusal::Refusal,
    route,
    seal::Owner,
    session::Token,
    sieve::Sieve,
};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header, response::Parts};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serin_mcp::scan::BodyKind;
use serin_model::{name::EndpointId, observe::Outcome, snapshot::ServiceRoute};
use serin_tenancy::Principal;
use std::{rc::Rc, sync::Arc, time::Duration};
use uuid::Uuid;

/// Largest list that is changed on its way: a page of tools with their schemas.
const LIST_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Time from one look at an open answer to the next: whether it must end.
const RECHECK_EVERY: Duration = Duration::from_secs(1);

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
        return Response::from_parts(head, ToClient::relay(core.clone(), relay));
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
    Response::from_parts(head, ToClient::relay(core.clone(), relay))
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
