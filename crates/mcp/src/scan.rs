//! The push scanner every response passes through.
//!
//! Bytes go in piece by piece and come out unchanged, but for the values that the answering version
//! made and the client will bring back: those are replaced through a [`Mint`]. Nothing else is ever
//! held back, so a stream stays a stream. On the way the scanner learns what the gateway must
//! count: how each call ended, when the first real event came, what the server asked the client.
//!
//! - A body is `application/json` (one message, or a batch), `text/event-stream` (one JSON text an
//!   event), or something that is not read at all: [`BodyKind`].
//! - Keys may come in any order and with escapes. Minted values stand at `result.nextCursor`,
//!   `.requestState`, `.taskId`, `.task.taskId`, `.tasks[].taskId`, at `params.taskId` of
//!   notifications about tasks, at `params.notifications.taskIds[]` where a subscription is
//!   acknowledged, and in `_meta["io.modelcontextprotocol/related-task"].taskId` under either; never in `content`, `structuredContent` or arguments, which belong to users.
//! - Numbers inside `result.structuredContent` are found by JSON pointer where that is asked for: [`Scanner::watch`].
//! - A text that is not JSON passes as it is from the fault on and counts as
//!   [`Outcome::Malformed`]; in an event stream the next event is read afresh.
//!
//! From outside in: this file moves bytes, `text` reads one JSON text, `outcome` judges one message.

mod numbers;
mod outcome;
mod text;

use bytes::Bytes;
use std::sync::Arc;

pub use self::numbers::{POINTER_BYTES_MAX, Pointers};
pub use self::outcome::{Answer, Outcome, ResultType};
use self::text::Text;
use crate::{Minted, sse};

/// Longest minted literal, in bytes between its quotes, that is held back for minting. Cursors and task
/// ids are short; a `requestState` carries a server's state and may grow. A longer value passes as it
/// is ([`Scanner::unminted`]): when the client brings it back, only its affinity key leads to the version.
pub const MAX_MINTED_BYTES: usize = 256 * 1024;

/// Most [`Scanner::answers`] kept for one body: a batch has no more ([`crate::envelope::MAX_BATCH`]).
pub const MAX_ANSWERS: usize = crate::envelope::MAX_BATCH;

/// Puts the gateway's value in the place of a version's.
pub trait Mint {
    /// The value the client gets instead of `value`; `None` leaves it as it is.
    fn mint(&mut self, kind: Minted, value: &str) -> Option<String>;
}

impl<F: FnMut(Minted, &str) -> Option<String>> Mint for F {
    fn mint(&mut self, kind: Minted, value: &str) -> Option<String> {
        self(kind, value)
    }
}

/// How a body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BodyKind {
    /// One JSON text.
    Json,
    /// Server-sent events.
    EventStream,
    /// Anything else: passes unread.
    Other,
}

impl BodyKind {
    /// By the value of `Content-Type`; parameters do not matter.
    pub fn of_content_type(value: &str) -> Self {
        let essence = value.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/json") {
            BodyKind::Json
        } else if essence.eq_ignore_ascii_case("text/event-stream") {
            BodyKind::EventStream
        } else {
            BodyKind::Other
        }
    }
}

/// Reads one response body. See the module.
#[derive(Debug)]
pub struct Scanner {
    kind: BodyKind,
    events: sse::Parser,
    text: Text,
    output: Output,
    first_event_seen: bool,
}

impl Scanner {
    /// Before the first byte.
    pub fn new(kind: BodyKind) -> Self {
        Self {
            kind,
            events: sse::Parser::new(),
            text: Text::new(),
            output: Output::default(),
            first_event_seen: false,
        }
    }

    /// From now on looks for numbers in structured results: [`Answer::numbers`]. Unless asked, those are passed over unread.
    pub fn watch(&mut self, pointers: Arc<Pointers>) {
        self.text.watch(pointers);
    }

    /// Takes the next piece and gives the bytes to send on: the piece itself, not copied, unless a
    /// minted value stands in it. May be empty while a minted value is incomplete.
    ///
    /// Without a mint (a legacy session stays with its version anyway) nothing is replaced or held.
    pub fn feed(&mut self, piece: Bytes, mut mint: Option<&mut dyn Mint>) -> Bytes {
        match self.kind {
            BodyKind::Other => {
                self.first_event_seen |= !piece.is_empty();
                return piece;
            }
            BodyKind::Json => {
                self.first_event_seen |= !piece.is_empty();
                self.text
                    .read(&piece, 0..piece.len(), &mut self.output, &mut mint);
            }
            BodyKind::EventStream => {
                let mut pos = 0;
                while let Some(part) = self.events.next(&piece, &mut pos) {
                    match part {
                        sse::Part::Line { is_first: true } => {}
                        sse::Part::Line { is_first: false } => {
                            self.text.line_feed(&mut self.output);
                        }
                        sse::Part::Data(range) => {
                            self.first_event_seen = self.first_event_seen
                                || !is_blank(piece.get(range.clone()).unwrap_or_default());
                            self.text.read(&piece, range, &mut self.output, &mut mint);
                        }
                        sse::Part::End => self.text.end(&mut self.output),
                    }
                }
            }
        }
        self.output.take(&piece)
    }

    /// The body is over: gives what was still held back. An event that no blank line ended counts
    /// as malformed, because clients drop it.
    pub fn finish(&mut self) -> Bytes {
        match self.kind {
            BodyKind::Other => {}
            BodyKind::Json => self.text.end(&mut self.output),
            BodyKind::EventStream => self.text.cut_off(&mut self.output),
        }
        self.output.take(&Bytes::new())
    }

    /// The first event that is not priming (2025-11-25: an id with empty data) has begun; for other
    /// bodies the first byte has come. Flips in [`Scanner::feed`], for the caller to note the time.
    pub fn first_event_seen(&self) -> bool {
        self.first_event_seen
    }

    /// How the calls answered so far ended: the worst of them. An answer counts when its text is
    /// complete: at its event's blank line, or at [`Scanner::finish`]. `None`: no answer yet.
    pub fn outcome(&self) -> Option<Outcome> {
        self.text.outcome()
    }

    /// Each answer so far, up to [`MAX_ANSWERS`].
    pub fn answers(&self) -> &[Answer] {
        self.text.answers()
    }

    /// Requests of the server to its client (sampling, elicitation, roots; legacy only) so far. A
    /// call that waited for a person is no measure of latency.
    pub fn server_requests(&self) -> u64 {
        self.text.server_requests()
    }

    /// Some result created a task.
    pub fn task_created(&self) -> bool {
        self.text.task_created()
    }

    /// Some text of the body was not JSON or was cut off.
    pub fn is_malformed(&self) -> bool {
        self.text.is_malformed()
    }

    /// Minted values that were longer than [`MAX_MINTED_BYTES`] and passed as they are.
    pub fn unminted(&self) -> u64 {
        self.text.unminted()
    }
}

fn is_blank(data: &[u8]) -> bool {
    data.iter().all(|byte| matches!(byte, b' ' | b'\t'))
}

/// The bytes on their way out.
#[derive(Debug, Default)]
struct Output {
    /// Withheld bytes of earlier pieces.
    held: Vec<u8>,
    /// What this piece has become so far; empty while it is unchanged.
    made: Vec<u8>,
    /// Up to here this piece is in `made` or replaced.
    done: usize,
    /// From `done` on nothing goes out for now.
    is_holding: bool,
}

impl Output {
    /// Holds back what comes from `at` on.
    fn hold(&mut self, piece: &[u8], at: usize) {
        self.made
            .extend_from_slice(piece.get(self.done..at).unwrap_or_default());
        self.done = at;
        self.is_holding = true;
    }

    /// Sends `literal` instead of what is held back up to `end`.
    fn replace(&mut self, literal: &str, end: usize) {
        self.held.clear();
        self.made.extend_from_slice(literal.as_bytes());
        self.done = end;
        self.is_holding = false;
    }

    /// Sends what is held back as it was.
    fn release(&mut self) {
        self.made.append(&mut self.held);
        self.is_holding = false;
    }

    /// Ends a piece: what of it can go out.
    fn take(&mut self, piece: &Bytes) -> Bytes {
        let done = std::mem::take(&mut self.done).min(piece.len());
        if self.is_holding {
            self.held
                .extend_from_slice(piece.get(done..).unwrap_or_default());
        } else if self.made.is_empty() {
            return piece.slice(done..);
        } else {
            self.made
                .extend_from_slice(piece.get(done..).unwrap_or_default());
        }
        Bytes::from(std::mem::take(&mut self.made))
    }
}

#[cfg(test)]
mod tests;
