//! Where heads and bodies are in what an HTTP/1 client sends: the same wherever it is cut.

use serin_gateway::outside::framing;

/// Follows it. The first byte says how it is cut.
pub(crate) fn run(data: &[u8]) {
    let Some((cut, sent)) = data.split_first() else {
        return;
    };
    assert_eq!(framing(sent, sent.len()), framing(sent, usize::from(*cut)));
}
