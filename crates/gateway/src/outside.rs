//! Readers of what comes from outside, for fuzzing alone.

use crate::{
    framing::Framing,
    rest::Wanted,
    seal::Keyring,
    session::{INIT_BYTES_MAX, Token, UPSTREAM_BYTES_BESIDE_INIT_MAX, UPSTREAM_BYTES_MAX},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use serin_mcp::envelope::Envelope;
use std::borrow::Cow;

/// Opens a session id, and reads these bytes as one that is unsealed.
///
/// # Panics
/// Bytes that nobody sealed open, or a field of what was read is not read again from what it is written as.
pub fn session(keys: &Keyring, bytes: &[u8]) {
    let bound = ("tools", None);
    assert!(
        Token::open(keys, bound, bytes, 0).is_none(),
        "nobody sealed it"
    );
    let Some(token) = Token::decode(bytes) else {
        return;
    };
    let upstream_bytes = token.upstream.as_ref().map_or(0, |id| id.len());
    let Some(sealed) = token.seal(keys, bound) else {
        assert!(upstream_bytes > UPSTREAM_BYTES_MAX, "it can be sealed");
        return;
    };
    let opened = Token::open(keys, bound, sealed.as_bytes(), 0);
    let mut kept = token;
    // What a client began with is left out where it is long, or beside a long id of a server; nothing else ever is.
    kept.init.take_if(|init| {
        init.len() > INIT_BYTES_MAX || upstream_bytes > UPSTREAM_BYTES_BESIDE_INIT_MAX
    });
    let is_over = kept.expires_seconds == 0;
    assert_eq!(
        opened,
        (!is_over).then_some(kept),
        "what is sealed is what opens"
    );
    assert!(Token::open(keys, ("other", None), sealed.as_bytes(), 0).is_none());
}

/// Reads the body of a call of REST, which becomes a message of MCP.
///
/// # Panics
/// The message is none, or calls another tool, or with other arguments.
pub fn rest(body: &[u8]) {
    let Ok(wanted) = Wanted::read(body) else {
        return;
    };
    let message = wanted.message();
    let envelope = Envelope::read(message.as_bytes()).expect("a message is read");
    let call = envelope.single().expect("there is one");
    assert_eq!(call.method(), "tools/call");
    assert_eq!(call.name.as_deref(), Some(&*wanted.tool));
    let params = call.params.expect("it has params");
    let params: Params<'_> = serde_json::from_str(params).expect("they are as we made them");
    assert_eq!(params.name, wanted.tool);
    assert_eq!(params.arguments.get(), wanted.args);
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    arguments: &'a RawValue,
}

/// Follows what an HTTP/1 client sends, in pieces of so many bytes; whether it has two readings.
pub fn framing(bytes: &[u8], piece_bytes: usize) -> bool {
    let mut framing = Framing::default();
    for piece in bytes.chunks(piece_bytes.max(1)) {
        framing.read(piece);
    }
    framing.conflicts()
}
