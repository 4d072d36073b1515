//! Bodies on their way: a request's, collected or streamed, and an answer's, which passes through the scanner frame by frame.

mod collect;
mod idle;
mod reading;
mod relay;
mod untaken;
mod upload;

pub(crate) use self::{
    collect::{Pace, Uncollected, collect},
    reading::{Minter, Reading, purpose_of},
    relay::{Listener, Recheck, Relay, RelayError, joined},
    untaken::Answers,
    upload::{ToUpstream, Upload},
};

use self::untaken::Taken;
use crate::{audit::Trail, connection::Busy, core::Core, rest::Events};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

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
    Relay(Taken),
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

    pub(crate) fn relay(core: Rc<Core>, relay: Relay) -> Self {
        Self {
            kind: Kind::Relay(Taken::new(core, relay)),
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
            Kind::Relay(relay) => relay.is_at_end(),
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
