//! An answer that passes: cut anywhere, it means the same, and nothing of it is lost.

use bytes::Bytes;
use serin_mcp::scan::{BodyKind, Outcome, Scanner};

/// Scans an answer. The first byte says how it is cut.
pub(crate) fn run(data: &[u8]) {
    let Some((cut, body)) = data.split_first() else {
        return;
    };
    let kind = if cut & 1 == 0 {
        BodyKind::EventStream
    } else {
        BodyKind::Json
    };
    let whole = scan(kind, body, body.len());
    let cut = scan(kind, body, usize::from(cut >> 1));
    assert_eq!(whole, cut);
    assert_eq!(whole.0, body);
}

fn scan(kind: BodyKind, body: &[u8], piece_bytes: usize) -> (Vec<u8>, Option<Outcome>, u64) {
    let mut scanner = Scanner::new(kind);
    let mut passed = Vec::new();
    for piece in body.chunks(piece_bytes.max(1)) {
        passed.extend_from_slice(&scanner.feed(Bytes::copy_from_slice(piece), None));
    }
    passed.extend_from_slice(&scanner.finish());
    (passed, scanner.outcome(), scanner.server_requests())
}
