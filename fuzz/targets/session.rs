//! What a client brings back as its session id.

use serin_gateway::{Keyring, outside};
use std::sync::LazyLock;

static KEYS: LazyLock<Keyring> = LazyLock::new(|| Keyring::ephemeral().expect("randomness"));

/// Opens it.
pub(crate) fn run(data: &[u8]) {
    outside::session(&KEYS, data);
}
