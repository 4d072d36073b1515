//! Bodies on their way: a request's, collected or streamed, and an answer's, which passes through the scanner frame by frame.

use crate::{
    BODY_BYTES_PER_SECOND_MIN,
    access::{Hidden, View},
    audit::Trail,
    connection::Busy,
    core::Core,
    forward::{Life, Refuser},
    observe::Observation,
    pool::Lease,
    rest::Events,
    seal::{Keyring, Owner, Purpose},
    session::{self, Sessions, Token},
    sieve::Sieve,
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serin_mcp::{
    Minted,
    scan::{BodyKind, Mint, Scanner},
};
use serin_model::{
    name::{EndpointId, ServiceName},
    observe::{Outcome, Rejection},
};
use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::time::{Interval, Sleep};

/// A body that goes to an endpoint.
pub(crate) enum ToUpstream {
    /// All of it is here.
    Full(Option<Bytes>),
    /// It passes as the client sends it.
    Stream(Box<Streamed>),
}

/// A body that passes as the client sends it.
pub(crate) struct Streamed {
    body: Incoming,
    upload: Rc<Cell<Upload>>,
    /// How long the client may send nothing of it while nobody has answered.
    silence_max: Duration,
    silent: Option<Pin<Box<Sleep>>>,
}

/// Why a body did not reach its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("the client broke off")]
    Broken(#[source] hyper::Error),
    #[error("the client sent nothing for too long")]
    Silent,
}

/// How far a request's body is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upload {
    /// The client sends.
    Sending,
    /// The client sends, and what comes next is waited for.
    Awaited,
    /// The client sends, and the endpoint answers already: it may be a talk, in which who sends waits for what it hears.
    Answered,
    /// The endpoint has all of it since then.
    Sent(Instant),
    /// The client broke off.
    Broken,
    /// The client sent nothing for too long.
    Silent,
}

impl Upload {
    /// Whether the client sends, and nobody has answered.
    pub(crate) fn is_on(self) -> bool {
        matches!(self, Self::Sending | Self::Awaited)
    }
}

impl ToUpstream {
    pub(crate) fn full(bytes: Bytes) -> Self {
        Self::Full((!bytes.is_empty()).then_some(bytes))
    }

    pub(crate) fn stream(body: Incoming, silence_max: Duration) -> Self {
        let upload = if body.is_end_stream() {
            Upload::Sent(Instant::now())
        } else {
            Upload::Sending
        };
        Self::Stream(Box::new(Streamed {
            body,
            upload: Rc::new(Cell::new(upload)),
            silence_max,
            silent: None,
        }))
    }

    /// How far it is, from now on; nothing for what is here whole.
    pub(crate) fn upload(&self) -> Option<Rc<Cell<Upload>>> {
        match self {
            Self::Full(_) => None,
            Self::Stream(streamed) => Some(streamed.upload.clone()),
        }
    }

    /// Its length, as far as it is known.
    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.size_hint().lower()).unwrap_or(usize::MAX)
    }
}

impl Body for ToUpstream {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(streamed) => streamed.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Stream(streamed) => streamed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Stream(streamed) => streamed.body.size_hint(),
        }
    }
}

impl Streamed {
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            if self.upload.get() == Upload::Sending {
                self.upload.set(Upload::Awaited);
            }
            return self.poll_silence(context);
        };
        self.silent = None;
        if self.upload.get() == Upload::Awaited {
            self.upload.set(Upload::Sending);
        }
        match &frame {
            Some(Err(_)) => self.upload.set(Upload::Broken),
            Some(Ok(_)) if !self.body.is_end_stream() => {}
            Some(Ok(_)) | None => self.upload.set(Upload::Sent(Instant::now())),
        }
        Poll::Ready(frame.map(|frame| frame.map_err(UploadError::Broken)))
    }

    fn poll_silence(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let silent =
            (self.silent).get_or_insert_with(|| Box::pin(tokio::time::sleep(self.silence_max)));
        ready!(silent.as_mut().poll(context));
        if !self.upload.get().is_on() {
            // It was answered meanwhile. Nobody asks any more for how long it is silent.
            return Poll::Pending;
        }
        self.upload.set(Upload::Silent);
        Poll::Ready(Some(Err(UploadError::Silent)))
    }
}

/// Why a request's body could not be collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Uncollected {
    TooLarge,
    Broken,
    TooSlow,
}

/// How fast a body must come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Time for all of it.
    pub(crate) whole: Duration,
    /// Time without a byte.
    pub(crate) silence: Duration,
    /// Time from which on its rate counts.
    pub(crate) grace: Duration,
}

impl Pace {
    /// How long after its beginning a body has time for its next byte, when so many have come, the last after so long.
    fn time_for_next(&self, received_bytes: usize, last: Duration) -> Duration {
        let earned_ms = received_bytes.saturating_mul(1000) / BODY_BYTES_PER_SECOND_MIN;
        let earned = Duration::from_millis(earned_ms as u64);
        self.whole
            .min(last.saturating_add(self.silence))
            .min(self.grace.saturating_add(earned))
    }
}

/// Collects a request's body of at most `bytes_max`, as long as it keeps pace.
pub(crate) async fn collect(
    mut body: Incoming,
    bytes_max: usize,
    pace: Pace,
) -> Result<Bytes, Uncollected> {
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(Uncollected::TooLarge);
    }
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let begun = tokio::time::Instant::now();
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    let mut last = Duration::ZERO;
    loop {
        let until = begun + pace.time_for_next(first.len() + more.len(), last);
        let frame = tokio::time::timeout_at(until, body.frame()).await;
        let Some(frame) = frame.map_err(|_| Uncollected::TooSlow)? else {
            break;
        };
        last = begun.elapsed();
        let Ok(data) = frame.map_err(|_| Uncollected::Broken)?.into_data() else {
            continue;
        };
        if first.len() + more.len() + data.len() > bytes_max {
            return Err(Uncollected::TooLarge);
        }
        // Most bodies come in one piece, which then is not copied.
        if first.is_empty() && more.is_empty() {
            first = data;
            if body.is_end_stream() {
                break;
            }
        } else {
            if more.is_empty() {
                more.extend_from_slice(&std::mem::take(&mut first));
            }
            more.extend_from_slice(&data);
        }
    }
    Ok(if more.is_empty() {
        first
    } else {
        more.freeze()
    })
}

/// A body that goes to a client.
pub(crate) struct ToClient {
    kind: Kind,
    /// Keeps the connection from counting as idle.
    busy: Option<Busy>,
    /// The request is over when its answer is: behind the answer, which has its say about the end first.
    trail: Trail,
}

enum Kind {
    Full(Option<Bytes>),
    Relay(Box<Relay>),
    /// In the words of REST.
    Events(Box<Events>),
}

impl ToClient {
    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            kind: Kind::Full((!bytes.is_empty()).then_some(bytes)),
            busy: None,
            trail: Trail::default(),
        }
    }

    pub(crate) fn relay(relay: Relay) -> Self {
        Self {
            kind: Kind::Relay(Box::new(relay)),
            busy: None,
            trail: Trail::default(),
        }
    }

    pub(crate) fn events(events: Events) -> Self {
        Self {
            kind: Kind::Events(Box::new(events)),
            ..Self::full(Bytes::new())
        }
    }

    pub(crate) fn with(mut self, busy: Busy) -> Self {
        self.busy = Some(busy);
        self
    }

    pub(crate) fn recorded(mut self, trail: Trail) -> Self {
        self.trail = trail;
        self
    }
}

impl Body for ToClient {
    type Data = Bytes;
    type Error = RelayError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        match &mut self.get_mut().kind {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Relay(relay) => relay.poll_frame(context),
            Kind::Events(events) => events.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Relay(relay) => relay.ended && relay.trailers.is_none(),
            Kind::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Relay(relay) => relay.size_hint(),
            Kind::Events(_) => SizeHint::default(),
        }
    }
}

/// Why an answer ended early: the client's connection is cut, as the endpoint's was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RelayError {
    #[error("the endpoint broke the connection")]
    Broken(#[source] hyper::Error),
    #[error("the endpoint sent nothing for too long")]
    Idle,
    #[error("something of the call is killed")]
    Killed,
    #[error("the caller may not call any more")]
    Revoked,
    #[error("the endpoint sent an event that is too large")]
    TooLarge,
}

/// Seals what a version mints, on its way to the client.
pub(crate) struct Minter {
    pub(crate) keys: Arc<Keyring>,
    pub(crate) service: ServiceName,
    pub(crate) owner: Option<Owner>,
    pub(crate) endpoint: EndpointId,
}

impl Mint for Minter {
    fn mint(&mut self, kind: Minted, value: &str) -> Option<String> {
        let purpose = purpose_of(kind);
        let bound = (self.service.as_str(), self.owner);
        session::seal_minted(&self.keys, purpose, bound, self.endpoint, value)
    }
}

/// The purpose for which a kind of minted value is sealed.
pub(crate) const fn purpose_of(kind: Minted) -> Purpose {
    match kind {
        Minted::Cursor => Purpose::Cursor,
        Minted::TaskId => Purpose::Task,
        Minted::RequestState => Purpose::RequestState,
    }
}

/// What is learnt from an answer while it passes.
pub(crate) struct Reading {
    pub(crate) status: StatusCode,
    /// Nothing is read of an answer without one: it is plain HTTP, or its status says all.
    pub(crate) scanner: Option<Scanner>,
    pub(crate) minter: Option<Minter>,
    pub(crate) observation: Observation,
    /// A legacy stream that had an event with an id: what is missing at its end may come by another one.
    has_event_id: bool,
    /// The legacy session, to be marked when the answer shows that the server has made state for it.
    pub(crate) session: Option<(Arc<Sessions>, Rc<Token>)>,
}

impl Reading {
    pub(crate) fn new(
        status: StatusCode,
        kind: Option<BodyKind>,
        minter: Option<Minter>,
        observation: Observation,
    ) -> Self {
        let mut scanner = kind.map(Scanner::new);
        if let (Some(scanner), Some(pointers)) = (&mut scanner, observation.pointers()) {
            scanner.watch(pointers);
        }
        Self {
            status,
            scanner,
            minter,
            observation,
            has_event_id: false,
            session: None,
        }
    }

    pub(crate) fn feed(&mut self, data: Bytes) -> Bytes {
        self.observation.received(data.len());
        let Some(scanner) = &mut self.scanner else {
            self.observation.first_byte();
            return data;
        };
        if self.session.is_some() && !self.has_event_id {
            self.has_event_id =
                data.starts_with(b"id:") || memchr::memmem::find(&data, b"\nid:").is_some();
        }
        let minter = self.minter.as_mut().map(|minter| minter as &mut dyn Mint);
        let data = scanner.feed(data, minter);
        if scanner.first_event_seen() {
            self.observation.first_byte();
        }
        if (scanner.server_requests() > 0 || scanner.task_created())
            && let Some((sessions, token)) = &self.session
        {
            sessions.mark_stateful(token);
        }
        data
    }

    /// The stream ended before its time: that is the outcome, unless the answer was complete by then.
    pub(crate) fn broke_off(&mut self, outcome: Outcome) {
        match &self.scanner {
            Some(scanner) if scanner.outcome().is_some() => {
                self.observation.answered(self.status, Some(scanner), true);
            }
            scanner => {
                let was_asked = |scanner: &Scanner| scanner.server_requests() > 0;
                if self.has_event_id || scanner.as_ref().is_none_or(was_asked) {
                    self.observation.excuse();
                }
                self.observation.failed(outcome);
            }
        }
    }

    /// The answer is over: what was held back of it.
    pub(crate) fn finish(&mut self) -> Bytes {
        let rest = self.scanner.as_mut().map(Scanner::finish);
        self.observation
            .answered(self.status, self.scanner.as_ref(), self.has_event_id);
        rest.unwrap_or_default()
    }
}

impl Drop for Reading {
    /// A client that goes away with the answer in its hands has not cancelled the call.
    fn drop(&mut self) {
        self.broke_off(Outcome::Cancelled);
    }
}

/// Who hears when other tools are visible than before.
pub(crate) struct Listener {
    message: Bytes,
    /// Events that come before the first message.
    after: u64,
    /// What was hidden when it looked last.
    hidden: Hidden,
    /// A message waits until it may be put in.
    is_due: bool,
}

impl Listener {
    pub(crate) fn new(message: Bytes, after: u64) -> Self {
        Self {
            message,
            after,
            hidden: Hidden::default(),
            is_due: false,
        }
    }
}

/// A stream of events that agrees with what its caller may call.
struct Seen {
    sieve: Sieve,
    view: Rc<View>,
    listener: Option<Listener>,
    refuser: Option<Refuser>,
}

/// An answer that passes from an endpoint to a client.
pub(crate) struct Relay {
    core: Rc<Core>,
    life: Life,
    /// The core's alarm at which it looked whether to end or to announce.
    alarm: u64,
    seen: Option<Box<Seen>>,
    upstream: Incoming,
    reading: Reading,
    lease: Option<Lease>,
    /// A piece that was read before the relay began.
    ahead: Option<Bytes>,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// Whether the length is that of the upstream's answer.
    keeps_length: bool,
    idle: Option<Idle>,
    recheck: Option<Recheck>,
    /// It looked whether to end, and did not look yet whether to announce.
    has_looked: bool,
}

/// How long an answer may be silent.
struct Idle {
    limit: Limit,
    last_byte: Instant,
    last_event: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

/// What must come, and in which time.
#[derive(Clone, Copy)]
enum Limit {
    /// Bytes.
    Bytes(Duration),
    /// Events, until the answer is there or the client was asked something. Priming and comments are none: a server keeps its
    /// stream alive by them while its tool hangs. Between events there must be bytes too.
    Events { event: Duration, byte: Duration },
    /// A first event that is not priming; after it the stream may be silent.
    FirstEvent(Duration),
}

impl Idle {
    fn new(limit: Limit, since: Instant) -> Self {
        Self {
            limit,
            last_byte: since,
            last_event: since,
            timer: None,
        }
    }

    /// Until when something must come.
    fn due(&self, scanner: Option<&Scanner>) -> Option<Instant> {
        let has_begun = scanner.is_some_and(Scanner::first_event_seen);
        match self.limit {
            Limit::Bytes(max) => Some(self.last_byte + max),
            Limit::FirstEvent(max) | Limit::Events { event: max, .. } if !has_begun => {
                Some(self.last_event + max)
            }
            Limit::FirstEvent(_) => None,
            Limit::Events { event, byte } => scanner
                .is_some_and(|scanner| {
                    scanner.outcome().is_none() && scanner.server_requests() == 0
                })
                .then(|| (self.last_event + event).min(self.last_byte + byte)),
        }
    }
}

/// Whether a piece of an event stream holds nothing but comments.
fn is_keep_alive(piece: &[u8]) -> bool {
    let mut lines = piece.split(|byte| matches!(byte, b'\r' | b'\n'));
    lines.all(|line| line.is_empty() || line.starts_with(b":"))
}

/// Asks now and then whether an answer must end: because its caller may not call any more or, if it is a stream, has to move.
pub(crate) struct Recheck {
    pub(crate) every: Interval,
    pub(crate) is_over: Box<dyn Fn() -> bool>,
}

impl Relay {
    pub(crate) fn new(
        core: Rc<Core>,
        upstream: Incoming,
        reading: Reading,
        lease: Lease,
        life: Life,
    ) -> Self {
        let keeps_length = reading.minter.is_none();
        Self {
            alarm: core.alarm(),
            core,
            life,
            seen: None,
            upstream,
            reading,
            lease: Some(lease),
            ahead: None,
            trailers: None,
            ended: false,
            keeps_length,
            idle: None,
            recheck: None,
            has_looked: false,
        }
    }

    pub(crate) fn after(mut self, piece: Bytes) -> Self {
        self.ahead = Some(piece);
        self.keeps_length = false;
        self
    }

    pub(crate) fn idle_max(mut self, max: Duration) -> Self {
        self.idle = Some(Idle::new(Limit::Bytes(max), Instant::now()));
        self
    }

    /// Bounds the silence of an event stream that answers a call: time from one event to the next, from `since`, and between
    /// them from one byte to the next.
    pub(crate) fn events_within(mut self, event: Duration, byte: Duration, since: Instant) -> Self {
        let limit = if self.reading.observation.may_hang() {
            Limit::Events { event, byte }
        } else {
            Limit::FirstEvent(event)
        };
        self.idle = Some(Idle::new(limit, since));
        self
    }

    /// Takes it through a sieve.
    pub(crate) fn through(
        mut self,
        sieve: Sieve,
        view: Rc<View>,
        mut listener: Option<Listener>,
        refuser: Option<Refuser>,
    ) -> Self {
        if let Some(listener) = &mut listener {
            listener.hidden = view.hidden(&self.core);
        }
        self.keeps_length = false;
        self.seen = Some(Box::new(Seen {
            sieve,
            view,
            listener,
            refuser,
        }));
        self
    }

    pub(crate) fn recheck(mut self, recheck: Recheck) -> Self {
        self.recheck = Some(recheck);
        self
    }

    fn size_hint(&self) -> SizeHint {
        if self.keeps_length {
            self.upstream.size_hint()
        } else {
            SizeHint::default()
        }
    }

    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        if let Some(piece) = self.ahead.take() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if !self.ended && self.is_cut(context) {
            self.reading.observation.void();
            self.reading
                .observation
                .trail()
                .turned_away(Rejection::Kill);
            self.lease = None;
            self.ended = true;
            let is_stream = self.reading.observation.is_stream();
            return Poll::Ready((!is_stream).then_some(Err(RelayError::Killed)));
        }
        // Before anything is read: an endpoint may never be silent.
        if !self.ended && self.is_over(context) {
            self.ended = true;
            if self.reading.observation.is_stream() {
                return Poll::Ready(None);
            }
            self.reading.observation.void();
            let trail = self.reading.observation.trail();
            trail.turned_away(Rejection::Auth);
            self.lease = None;
            return Poll::Ready(Some(Err(RelayError::Revoked)));
        }
        loop {
            if self.ended {
                let trailers = self.trailers.take();
                return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
            }
            let Poll::Ready(frame) = Pin::new(&mut self.upstream).poll_frame(context) else {
                return self.poll_silence(context);
            };
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let is_keep_alive = is_keep_alive(&data);
                        let mut data = self.reading.feed(data);
                        self.heard(is_keep_alive);
                        if !self.sift(&mut data) {
                            self.reading.broke_off(Outcome::Transport);
                            self.lease = None;
                            return Poll::Ready(Some(Err(RelayError::TooLarge)));
                        }
                        // With a known length nobody asks for what comes after the last byte.
                        if self.upstream.is_end_stream() {
                            let rest = self.end();
                            data = joined(data, &rest);
                        }
                        if !data.is_empty() {
                            return Poll::Ready(Some(Ok(Frame::data(data))));
                        }
                    }
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                Some(Err(error)) => {
                    self.reading.broke_off(Outcome::Transport);
                    self.lease = None;
                    return Poll::Ready(Some(Err(RelayError::Broken(error))));
                }
                None => {
                    let rest = self.end();
                    if !rest.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(rest))));
                    }
                }
            }
        }
    }

    /// Something has come.
    fn heard(&mut self, is_keep_alive: bool) {
        let Some(idle) = &mut self.idle else { return };
        idle.last_byte = Instant::now();
        let scanner = self.reading.scanner.as_ref();
        if !is_keep_alive && scanner.is_some_and(Scanner::first_event_seen) {
            idle.last_event = idle.last_byte;
        }
    }

    /// The answer was read to its end: what was held back of it.
    fn end(&mut self) -> Bytes {
        self.ended = true;
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
        let mut rest = self.reading.finish();
        self.sift(&mut rest);
        match &mut self.seen {
            Some(seen) => joined(rest, &seen.sieve.finish()),
            None => rest,
        }
    }

    /// Whether something of the call is killed and its time is over.
    fn is_cut(&mut self, context: &mut Context<'_>) -> bool {
        let Life {
            watch,
            tenant,
            unlisted,
        } = &mut self.life;
        let (core, observation) = (&self.core, &self.reading.observation);
        watch.poll(core, context, |latch| {
            observation.ends(
                latch,
                core.options().environment,
                tenant.as_deref(),
                unlisted,
            )
        })
    }

    /// Whether it is time to look again, and it must end.
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        let Some(recheck) = &mut self.recheck else {
            return false;
        };
        let alarm = self.core.alarm();
        let mut looks = std::mem::replace(&mut self.alarm, alarm) != alarm;
        while recheck.every.poll_tick(context).is_ready() {
            looks = true;
        }
        self.has_looked |= looks;
        looks && (recheck.is_over)()
    }

    /// Takes a piece through the sieve, if there is one; false if an event is too large for it.
    fn sift(&mut self, data: &mut Bytes) -> bool {
        let Some(seen) = &mut self.seen else {
            return true;
        };
        let Ok(sifted) = seen.sieve.feed(data) else {
            return false;
        };
        *data = sifted;
        for answer in seen.sieve.take_refused() {
            if let Some(refuser) = &seen.refuser {
                refuser.send(answer);
            }
        }
        true
    }

    /// What the listener hears now, if anything. `looks`: whether other tools are visible is asked anew.
    fn announcement(&mut self, looks: bool) -> Option<Bytes> {
        let seen = self.seen.as_mut()?;
        let listener = seen.listener.as_mut()?;
        if looks {
            let hidden = seen.view.hidden(&self.core);
            listener.is_due |= hidden.differs(&listener.hidden);
            listener.hidden = hidden;
        }
        let is_time = listener.is_due && seen.sieve.is_between(listener.after);
        is_time.then(|| {
            listener.is_due = false;
            listener.message.clone()
        })
    }

    /// Nothing has come: is it too long ago, or time to end?
    fn poll_silence(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        let looks = std::mem::take(&mut self.has_looked);
        if self.recheck.is_some()
            && let Some(message) = self.announcement(looks)
        {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        let Some(idle) = &mut self.idle else {
            return Poll::Pending;
        };
        let Some(due) = idle.due(self.reading.scanner.as_ref()) else {
            return Poll::Pending;
        };
        let sleep = || Box::pin(tokio::time::sleep_until(due.into()));
        let timer = idle.timer.get_or_insert_with(sleep);
        // Setting it anew for every piece would cost more than to look again when it fires.
        if timer.deadline() > due.into() {
            timer.as_mut().reset(due.into());
        }
        ready!(timer.as_mut().poll(context));
        while due > Instant::now() {
            timer.as_mut().reset(due.into());
            ready!(timer.as_mut().poll(context));
        }
        self.reading.broke_off(Outcome::Timeout);
        self.lease = None;
        Poll::Ready(Some(Err(RelayError::Idle)))
    }
}

/// Two pieces as one; the second is nearly always empty.
pub(crate) fn joined(first: Bytes, second: &Bytes) -> Bytes {
    if second.is_empty() {
        return first;
    }
    let mut both = BytesMut::from(&*first);
    both.extend_from_slice(second);
    both.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_alone_keep_a_stream_alive() {
        for piece in ["", ":\n\n", ": ping\r\n\r\n: ping\r\n\r\n"] {
            assert!(is_keep_alive(piece.as_bytes()), "{piece:?}");
        }
        for piece in [
            "data: {}\n\n",
            ": ping\n\ndata",
            "event: message\n",
            "id: 1\n",
        ] {
            assert!(!is_keep_alive(piece.as_bytes()), "{piece:?}");
        }
    }
}
