//! A body from a client: an envelope, or a reason why not.

use serin_mcp::envelope::{Envelope, splice};

/// Reads a body.
pub(crate) fn run(body: &[u8]) {
    let Ok(envelope) = Envelope::read(body) else {
        return;
    };
    assert!(!envelope.messages.is_empty());
    assert!(serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok());
    for message in &envelope.messages {
        let _ = (message.method(), message.task_id());
    }
    assert_eq!(splice(body, &[]).as_deref(), Some(body));
}
