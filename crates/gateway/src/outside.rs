//! Readers of what comes from outside, for fuzzing alone.

use crate::{framing::Framing, seal::Keyring, session::Token};

/// Opens a session id, and reads these bytes as one that is unsealed.
///
/// # Panics
/// Bytes that nobody sealed open, or what was read is not read again from what it is written as.
pub fn session(keys: &Keyring, bytes: &[u8]) {
    let bound = ("tools", None);
    assert!(
        Token::open(keys, bound, bytes, 0).is_none(),
        "nobody sealed it"
    );
    let Some(token) = Token::decode(bytes) else {
        return;
    };
    if let Some(sealed) = token.seal(keys, bound) {
        let opened = Token::open(keys, bound, sealed.as_bytes(), 0);
        let is_over = token.expires_seconds == 0;
        // What a client began with is left out where it is too long.
        let is_same = opened.is_some_and(|opened| {
            (opened.session, opened.endpoint, opened.expires_seconds)
                == (token.session, token.endpoint, token.expires_seconds)
        });
        assert!(is_over || is_same, "it is sealed as it is");
        assert!(Token::open(keys, ("other", None), sealed.as_bytes(), 0).is_none());
    }
}

/// Follows what an HTTP/1 client sends, in pieces of so many bytes; whether it has two readings.
pub fn framing(bytes: &[u8], piece_bytes: usize) -> bool {
    let mut framing = Framing::default();
    for piece in bytes.chunks(piece_bytes.max(1)) {
        framing.read(piece);
    }
    framing.conflicts()
}
