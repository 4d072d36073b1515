//! Signed requests: an HMAC over what was asked and when, so that who reads a request on its way can neither change it nor send it again.
//!
//! What is signed, line by line and without one at its end:
//!
//! ```text
//! serin1
//! TIMESTAMP                 seconds since 1970
//! NONCE                     16 to 64 letters, digits, `-` and `_`
//! METHOD                    as in the request line
//! PATH?QUERY                as sent, without `?` where there is no query
//! HEX(SHA-256(BODY))        of the body as sent
//! ```
//!
//! The secret of a key is made of a master secret and the key's id, so nothing of it is stored.

use crate::key::{KeyId, hex};
use aws_lc_rs::{digest, hmac};
use std::fmt;

/// How far the clocks of a client and the gateway may be apart, and for how long a request can be sent, in seconds.
pub const WINDOW_SECONDS: i64 = 300;
/// Bytes of a master secret.
pub const MASTER_BYTES: usize = 32;
/// What every signing secret begins with.
pub const PREFIX: &str = "serinsig_";

/// First line of what is signed; another layout gets another one.
const FORMAT: &str = "serin1";
/// Shortest and longest nonce, in characters: 16 of base64 are 96 random bits.
const NONCE_CHARS: std::ops::RangeInclusive<usize> = 16..=64;
/// Characters of a signature.
const SIGNATURE_CHARS: usize = 64;

/// What all signing secrets are made of.
pub struct Master([u8; MASTER_BYTES]);

impl Master {
    /// Of these random bytes.
    pub const fn new(random: [u8; MASTER_BYTES]) -> Self {
        Self(random)
    }

    /// The signing secret of a key.
    pub fn secret(&self, key: KeyId) -> SigningSecret {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(b"serin 2026 request signing\0");
        hasher.update(key.to_string().as_bytes());
        SigningSecret(format!("{PREFIX}{}", hex(hasher.finalize().as_bytes())))
    }
}

impl fmt::Debug for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Master(..)")
    }
}

/// The secret by which requests with a key are signed. Its holder gets it once, with the key.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(String);

impl SigningSecret {
    /// As its holder gets it. These characters are the key of the HMAC.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Signs.
    pub fn sign(&self, request: &Signed<'_>) -> String {
        let tag = hmac::sign(&self.key(), request.text().as_bytes());
        hex(tag.as_ref())
    }

    /// Whether a signature is that of a request. It takes the same time wherever it is wrong.
    pub fn verify(&self, request: &Signed<'_>, signature: &[u8]) -> bool {
        let mut tag = [0; SIGNATURE_CHARS / 2];
        read_hex(signature, &mut tag)
            && hmac::verify(&self.key(), request.text().as_bytes(), &tag).is_ok()
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.0.as_bytes())
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(..)")
    }
}

/// What is signed of a request.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// When it was signed, as its header says.
    pub timestamp: &'a str,
    /// What tells it from others of the same second.
    pub nonce: &'a str,
    /// The HTTP method.
    pub method: &'a str,
    /// Path and query as sent.
    pub target: &'a str,
    /// The body as sent.
    pub body: &'a [u8],
}

impl Signed<'_> {
    /// The text that is signed.
    pub fn text(&self) -> String {
        let body = digest::digest(&digest::SHA256, self.body);
        format!(
            "{FORMAT}\n{}\n{}\n{}\n{}\n{}",
            self.timestamp,
            self.nonce,
            self.method,
            self.target,
            hex(body.as_ref())
        )
    }

    /// Whether it was signed just now, by a clock of seconds since 1970, and its nonce is one.
    pub fn is_timely(&self, now_seconds: i64) -> bool {
        let is_digits = self.timestamp.bytes().all(|byte| byte.is_ascii_digit());
        let at = self.timestamp.parse::<i64>().ok().filter(|_| is_digits);
        at.is_some_and(|at| at.abs_diff(now_seconds) <= WINDOW_SECONDS.unsigned_abs())
            && self.has_nonce()
    }

    /// Whether its nonce is one.
    pub fn has_nonce(&self) -> bool {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        NONCE_CHARS.contains(&self.nonce.len()) && self.nonce.bytes().all(is_plain)
    }
}

fn read_hex(text: &[u8], out: &mut [u8]) -> bool {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    if text.len() != 2 * out.len() {
        return false;
    }
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else {
            return false;
        };
        *byte = u8::try_from(high * 16 + low).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REQUEST: Signed<'static> = Signed {
        timestamp: "1790000000",
        nonce: "0123456789abcdef",
        method: "POST",
        target: "/mcp?a=1",
        body: b"{}",
    };

    fn secret() -> SigningSecret {
        Master::new([7; MASTER_BYTES]).secret("0123456789ab".parse().unwrap())
    }

    #[test]
    fn the_text_that_is_signed_is_as_documented() {
        let text = "serin1\n1790000000\n0123456789abcdef\nPOST\n/mcp?a=1\n44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        assert_eq!(REQUEST.text(), text);
    }

    #[test]
    fn the_signature_is_an_hmac_of_the_text_with_the_secret_as_shown() {
        // RFC 4231, test case 2.
        let secret = SigningSecret("Jefe".to_owned());
        let tag = hmac::sign(&secret.key(), b"what do ya want for nothing?");
        let want = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex(tag.as_ref()), want);
    }

    #[test]
    fn each_key_has_its_own_secret_and_shows_it_to_nobody() {
        let master = Master::new([7; MASTER_BYTES]);
        let other = master.secret("0123456789ac".parse().unwrap());
        assert_ne!(secret(), other);
        assert_eq!(secret(), master.secret("0123456789ab".parse().unwrap()));
        assert_eq!(
            format!("{:?} {master:?}", secret()),
            "SigningSecret(..) Master(..)"
        );
        assert_eq!(secret().expose().len(), PREFIX.len() + 64);
    }

    #[test]
    fn a_request_is_timely_for_five_minutes_either_way() {
        for (now, is_timely) in [
            (1_790_000_000, true),
            (1_790_000_300, true),
            (1_789_999_700, true),
            (1_790_000_301, false),
            (1_789_999_699, false),
            (i64::MIN, false),
        ] {
            assert_eq!(REQUEST.is_timely(now), is_timely, "{now}");
        }
        let now = 1_790_000_000;
        for timestamp in ["", "+1790000000", "-1", "1790000000.0", " 1790000000", "x"] {
            let request = Signed {
                timestamp,
                ..REQUEST
            };
            assert!(!request.is_timely(now), "{timestamp}");
        }
        let long = "a".repeat(65);
        for nonce in [
            "",
            "short",
            "with blanks in it",
            long.as_str(),
            "0123456789abcde\n",
        ] {
            let request = Signed { nonce, ..REQUEST };
            assert!(!request.is_timely(now), "{nonce}");
        }
    }

    proptest! {
        #[test]
        fn a_signature_is_good_for_one_request_only(
            body: Vec<u8>, other: Vec<u8>, target in "/[a-z]{0,9}", elsewhere in "/[a-z]{0,9}", at in 0..64_usize, digit in 0..16_u32,
        ) {
            let secret = secret();
            let request = Signed { body: &body, target: &target, ..REQUEST };
            let signature = secret.sign(&request);
            prop_assert!(secret.verify(&request, signature.as_bytes()));
            let changed = Signed { body: &other, target: &elsewhere, ..REQUEST };
            let is_same = body == other && target == elsewhere;
            prop_assert_eq!(secret.verify(&changed, signature.as_bytes()), is_same);
            let mut forged = signature.clone().into_bytes();
            forged[at] = u8::try_from(char::from_digit(digit, 16).unwrap()).unwrap();
            let is_same = forged == signature.as_bytes();
            prop_assert_eq!(secret.verify(&request, &forged), is_same);
            prop_assert!(!secret.verify(&request, &forged[..at]));
        }

        #[test]
        fn no_part_runs_over_into_the_next(
            nonce in "[a-z0-9]{16,20}", other in "[a-z0-9]{16,20}", method in "[A-Z]{1,5}", path in "/[a-z0-9]{0,8}",
        ) {
            let one = Signed { nonce: &nonce, method: &method, target: &path, ..REQUEST };
            let two = Signed { nonce: &other, method: &method, target: &path, ..REQUEST };
            prop_assert_eq!(one.text() == two.text(), nonce == other);
        }

        #[test]
        fn whatever_comes_is_checked_without_a_panic(signature: Vec<u8>, timestamp: String, nonce: String) {
            let request = Signed { timestamp: &timestamp, nonce: &nonce, ..REQUEST };
            let _ = request.is_timely(0);
            prop_assert!(!secret().verify(&request, &signature));
        }
    }
}
