//! What is learnt from an answer while it passes.

use crate::{
    observe::Observation,
    seal::{Keyring, Owner, Purpose},
    session::{self, Sessions, Token},
};
use bytes::Bytes;
use http::StatusCode;
use serin_mcp::{
    Minted,
    scan::{BodyKind, Mint, Scanner},
};
use serin_model::{
    name::{EndpointId, ServiceName},
    observe::Outcome,
};
use std::{rc::Rc, sync::Arc};

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
        if self.has_answered() {
            self.observation.served();
        }
        data
    }

    /// Whether all is there that was asked for; more than an end of the stream need not come.
    pub(crate) fn has_answered(&self) -> bool {
        let asked = self.observation.asked();
        let is_all = |scanner: &Scanner| scanner.answers().len() >= asked;
        !self.observation.is_stream() && self.scanner.as_ref().is_some_and(is_all)
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
