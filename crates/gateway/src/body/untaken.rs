//! Answers that their clients do not take.
//!
//! Whoever reads nothing of a large answer would hold the endpoint that makes it, and the place of a call, for as long as it likes: what
//! is full is not asked for more, by HTTP/2 stream for stream. So a core knows the answers whose clients have something to take, and
//! gives up those that were not asked for more in time.

use super::{Relay, RelayError};
use crate::core::Core;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use slab::Slab;
use std::{
    cell::RefCell,
    rc::{Rc, Weak},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

/// Most bytes that are given at once. Nothing more is asked for until hyper has passed on what it has, and a large piece takes a slow
/// client longer than it may take nothing.
const PIECE_BYTES_MAX: usize = 16 * 1024;

/// A relay, as long as its client takes what it gives.
pub(super) struct Taken {
    core: Rc<Core>,
    state: Rc<RefCell<State>>,
}

struct State {
    /// Gone once it was given up.
    relay: Option<Relay>,
    /// What was read of it and not given yet.
    rest: Bytes,
    /// Since when the client has had a piece without asking for another one.
    given: Option<Instant>,
    /// Its place among those of its core. What passes in one piece never has one.
    place: Option<usize>,
}

impl State {
    fn is_at_end(&self) -> bool {
        self.rest.is_empty() && self.relay.as_ref().is_some_and(Relay::is_at_end)
    }
}

/// The answers of a core that pass in several pieces.
#[derive(Default)]
pub(crate) struct Answers(RefCell<Slab<Weak<RefCell<State>>>>);

impl Answers {
    /// Gives up those whose clients have asked for nothing for so long.
    pub(crate) fn sweep(&self, untaken_max: Duration) {
        let is_late = |state: &Rc<RefCell<State>>| {
            let given = state.borrow().given;
            given.is_some_and(|since| since.elapsed() > untaken_max)
        };
        let known = self.0.borrow();
        let states = known.iter().filter_map(|(_, state)| state.upgrade());
        let late: Vec<_> = states.filter(is_late).collect();
        drop(known);
        for state in late {
            let given_up = state.borrow_mut().relay.take();
            if let Some(mut relay) = given_up {
                // That says nothing about the version.
                relay.excuse();
            }
        }
    }
}

impl Taken {
    pub(super) fn new(core: Rc<Core>, relay: Relay) -> Self {
        let state = State {
            relay: Some(relay),
            rest: Bytes::new(),
            given: None,
            place: None,
        };
        Self {
            core,
            state: Rc::new(RefCell::new(state)),
        }
    }

    pub(super) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        let state = &mut *self.state.borrow_mut();
        state.given = None;
        let Some(relay) = &mut state.relay else {
            return Poll::Ready(Some(Err(RelayError::Untaken)));
        };
        let frame = if state.rest.is_empty() {
            match ready!(relay.poll_frame(context)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            }
        } else {
            Frame::data(std::mem::take(&mut state.rest))
        };
        let frame = match frame.into_data() {
            Ok(mut data) => {
                state.rest = data.split_off(data.len().min(PIECE_BYTES_MAX));
                Frame::data(data)
            }
            Err(trailers) => trailers,
        };
        if !state.is_at_end() {
            state.given = Some(Instant::now());
            state.place.get_or_insert_with(|| {
                let mut known = self.core.answers.0.borrow_mut();
                known.insert(Rc::downgrade(&self.state))
            });
        }
        Poll::Ready(Some(Ok(frame)))
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.state.borrow().is_at_end()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let state = self.state.borrow();
        state
            .relay
            .as_ref()
            .map_or_else(SizeHint::default, Relay::size_hint)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(place) = self.state.borrow().place {
            self.core.answers.0.borrow_mut().try_remove(place);
        }
    }
}
