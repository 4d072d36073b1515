//! An answer on its way from an endpoint to a client, frame by frame.

use super::{
    Reading,
    idle::{Idle, Limit, is_keep_alive},
};
use crate::{
    access::{Hidden, View},
    core::Core,
    forward::{Life, Refuser},
    pool::Lease,
    sieve::Sieve,
};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use serin_mcp::scan::Scanner;
use serin_model::observe::{Outcome, Rejection};
use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::time::Interval;

/// Why an answer ended early: the client's connection is cut, as the endpoint's was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RelayError {
    #[error("the endpoint broke the connection")]
    Broken(#[source] hyper::Error),
    #[error("the endpoint sent nothing for too long")]
    Idle,
    #[error("the client took nothing for too long")]
    Untaken,
    #[error("something of the call is killed")]
    Killed,
    #[error("the caller may not call any more")]
    Revoked,
    #[error("the endpoint sent an event that is too large")]
    TooLarge,
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
    /// them from one byte to the next; so too once the answer is there, when a server ought to end its stream.
    pub(crate) fn events_within(mut self, event: Duration, byte: Duration, since: Instant) -> Self {
        let limit = if self.reading.observation.may_hang() {
            Limit::Events { event, byte }
        } else {
            Limit::FirstEvent { event, byte }
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

    /// It is about to be dropped, and its version is not to blame.
    pub(super) fn excuse(&mut self) {
        self.reading.observation.excuse();
    }

    /// Whether all of it was given away.
    pub(super) fn is_at_end(&self) -> bool {
        self.ended && self.trailers.is_none()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        if self.keeps_length {
            self.upstream.size_hint()
        } else {
            SizeHint::default()
        }
    }

    pub(super) fn poll_frame(
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
        if let Some(at) = self.reading.observation.sent_behind() {
            // The endpoint may wait for it.
            idle.last_byte = idle.last_byte.max(at);
        }
        let is_answered = self.reading.has_answered();
        let Some(due) = idle.due(self.reading.scanner.as_ref(), is_answered) else {
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
        self.lease = None;
        if self.reading.has_answered() {
            // Only the stream's end is missing.
            let rest = self.end();
            return Poll::Ready((!rest.is_empty()).then(|| Ok(Frame::data(rest))));
        }
        self.reading.broke_off(Outcome::Timeout);
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
