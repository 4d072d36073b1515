//! A text that should be an API key, and one that should be the id of one.

use serin_tenancy::key::{KEY_CHARS, KeyId, RANDOM_BYTES, SecretKey, parse};

/// Reads a key, makes one of these bytes, and changes one byte of it.
pub(crate) fn run(data: &[u8]) {
    if let Some((id, _)) = parse(data) {
        assert_eq!(data.len(), KEY_CHARS);
        assert!(data.is_ascii());
        assert_eq!(id.to_string().parse::<KeyId>().as_ref(), Ok(&id));
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(id) = text.parse::<KeyId>()
    {
        assert_eq!(id.to_string(), text);
    }
    let Some((random, rest)) = data.split_first_chunk::<RANDOM_BYTES>() else {
        return;
    };
    let key = SecretKey::new(random);
    assert!(key.parts().is_some());
    if let [at, change, ..] = rest {
        let mut other = key.expose().as_bytes().to_vec();
        other[usize::from(*at) % KEY_CHARS] ^= change;
        assert_eq!(parse(&other) == key.parts(), *change == 0);
    }
}
