//! How long an answer may be silent.

use serin_mcp::scan::Scanner;
use std::{
    pin::Pin,
    time::{Duration, Instant},
};
use tokio::time::Sleep;

/// How long an answer may be silent.
pub(super) struct Idle {
    limit: Limit,
    pub(super) last_byte: Instant,
    pub(super) last_event: Instant,
    pub(super) timer: Option<Pin<Box<Sleep>>>,
}

/// What must come, and in which time.
#[derive(Clone, Copy)]
pub(super) enum Limit {
    /// Bytes.
    Bytes(Duration),
    /// Events, until the answer is there or the client was asked something. Priming and comments are none: a server keeps its
    /// stream alive by them while its tool hangs. Between events there must be bytes too.
    Events { event: Duration, byte: Duration },
    /// A first event that is not priming; after it the stream may be silent until the answer is there.
    FirstEvent { event: Duration, byte: Duration },
}

impl Idle {
    pub(super) fn new(limit: Limit, since: Instant) -> Self {
        Self {
            limit,
            last_byte: since,
            last_event: since,
            timer: None,
        }
    }

    /// Until when something must come. `is_answered`: all is there but the stream's end.
    pub(super) fn due(&self, scanner: Option<&Scanner>, is_answered: bool) -> Option<Instant> {
        let has_begun = scanner.is_some_and(Scanner::first_event_seen);
        let was_asked = scanner.is_none_or(|scanner| scanner.server_requests() > 0);
        match self.limit {
            Limit::Bytes(byte) => Some(self.last_byte + byte),
            Limit::FirstEvent { event, .. } | Limit::Events { event, .. } if !has_begun => {
                Some(self.last_event + event)
            }
            Limit::FirstEvent { byte, .. } | Limit::Events { byte, .. } if is_answered => {
                Some(self.last_byte + byte)
            }
            Limit::Events { event, byte } if !was_asked => {
                Some((self.last_event + event).min(self.last_byte + byte))
            }
            Limit::FirstEvent { .. } | Limit::Events { .. } => None,
        }
    }
}

/// Whether a piece of an event stream holds nothing but comments.
pub(super) fn is_keep_alive(piece: &[u8]) -> bool {
    let mut lines = piece.split(|byte| matches!(byte, b'\r' | b'\n'));
    lines.all(|line| line.is_empty() || line.starts_with(b":"))
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
