//! API keys: `serin_ID_SECRET`, where `ID` (12 hex digits) is public and names the key in lists, logs and the audit table, and `SECRET` is
//! 256 random bits and a checksum. The checksum tells a key that was cut or mistyped from an unknown one without looking anything up, and
//! gives secret scanners something to be sure by.

use serde::{Deserialize, Serialize, de::Error as _};
use std::{fmt, str::FromStr};

/// What every key begins with.
pub const PREFIX: &str = "serin_";
/// Random bytes that a key is made of: six for its id, the others for its secret.
pub const RANDOM_BYTES: usize = ID_BYTES + SECRET_BYTES;
/// Length of a key, in characters.
pub const KEY_CHARS: usize = PREFIX.len() + 2 * ID_BYTES + 1 + 2 * SECRET_BYTES + 2 * CHECK_BYTES;

const ID_BYTES: usize = 6;
const SECRET_BYTES: usize = 32;
const CHECK_BYTES: usize = 4;

/// The public part of a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; ID_BYTES]);

/// A text is not the id of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the id of a key: it has 12 hex digits, as `serin key list` shows them")]
pub struct KeyIdError(String);

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        bytes(text.as_bytes())
            .map(Self)
            .ok_or_else(|| KeyIdError(text.chars().take(40).collect()))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl Serialize for KeyId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

/// What is kept of a key: its BLAKE3 hash. The secret has 256 random bits, so no slow hash is needed. Equality takes constant time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyHash(blake3::Hash);

impl KeyHash {
    /// As hex, for the table `api_keys`.
    pub fn to_hex(&self) -> String {
        self.0.to_hex().to_string()
    }
}

/// Never the hash itself: a log is no place for it.
impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(..)")
    }
}

impl Serialize for KeyHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_hex())
    }
}

impl<'de> Deserialize<'de> for KeyHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        blake3::Hash::from_hex(&text)
            .map(Self)
            .map_err(D::Error::custom)
    }
}

/// A key in full, shown once when it is made.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(String);

impl SecretKey {
    /// The key of these random bytes.
    pub fn new(random: &[u8; RANDOM_BYTES]) -> Self {
        let (id, secret) = random.split_at(ID_BYTES);
        let text = format!("{PREFIX}{}_{}", hex(id), hex(secret));
        let check = checksum(text.as_bytes());
        Self(text + &check)
    }

    /// As its holder gets it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub fn parts(&self) -> Option<(KeyId, KeyHash)> {
        parse(self.0.as_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

/// What a key in full says: its id and its hash. Nothing: it is none, was cut or mistyped.
pub fn parse(text: &[u8]) -> Option<(KeyId, KeyHash)> {
    if text.len() != KEY_CHARS {
        return None;
    }
    let (body, check) = text.split_at(KEY_CHARS - 2 * CHECK_BYTES);
    let (id, secret) = body
        .strip_prefix(PREFIX.as_bytes())?
        .split_at_checked(2 * ID_BYTES)?;
    let id = bytes(id).map(KeyId)?;
    bytes::<SECRET_BYTES>(secret.strip_prefix(b"_")?)?;
    (checksum(body).as_bytes() == check).then(|| (id, KeyHash(blake3::hash(text))))
}

/// Of no secret: it says only that the text is whole.
fn checksum(text: &[u8]) -> String {
    hex(&blake3::hash(text).as_bytes()[..CHECK_BYTES])
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits = b"0123456789abcdef";
    let pair =
        |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from(digits[usize::from(digit)]));
    bytes.iter().flat_map(pair).collect()
}

/// Lower-case hex of just so many bytes.
fn bytes<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn random() -> impl Strategy<Value = [u8; RANDOM_BYTES]> {
        proptest::array::uniform32(any::<u8>())
            .prop_flat_map(|secret| (Just(secret), proptest::array::uniform6(any::<u8>())))
            .prop_map(|(secret, id)| {
                let mut all = [0; RANDOM_BYTES];
                all[..ID_BYTES].copy_from_slice(&id);
                all[ID_BYTES..].copy_from_slice(&secret);
                all
            })
    }

    proptest! {
        #[test]
        fn a_key_names_itself_and_shows_itself_once(random in random()) {
            let key = SecretKey::new(&random);
            let (id, hash) = key.parts().unwrap();
            prop_assert_eq!(key.expose().len(), KEY_CHARS);
            let beginning = format!("serin_{id}_");
            prop_assert!(key.expose().starts_with(&beginning));
            prop_assert_eq!(id.to_string().parse::<KeyId>().unwrap(), id);
            let kept = serde_json::to_string(&(id, hash)).unwrap();
            prop_assert_eq!(serde_json::from_str::<(KeyId, KeyHash)>(&kept).unwrap(), (id, hash));
            let shown = format!("{key:?} {hash:?}");
            prop_assert!(!shown.contains(&key.expose()[19..]) && !shown.contains(&hash.to_hex()));
        }

        #[test]
        fn a_key_with_one_other_character_is_none(random in random(), at in 0..KEY_CHARS, byte: u8) {
            let key = SecretKey::new(&random);
            let mut other = key.expose().as_bytes().to_vec();
            other[at] = byte;
            prop_assert_eq!(parse(&other).is_some(), other == key.expose().as_bytes());
            prop_assert_eq!(parse(&other[..at]), None);
        }

        #[test]
        fn whatever_comes_is_read_without_a_panic(text: Vec<u8>) {
            prop_assert_eq!(parse(&text), None);
            let _ = String::from_utf8_lossy(&text).parse::<KeyId>();
        }
    }
}
