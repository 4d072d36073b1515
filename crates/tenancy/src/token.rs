//! Tokens of an identity provider: JWTs, verified by the keys that the provider publishes (RFC 7515, 7517, 7519, 8725).

use crate::{
    claims::{self, Claimed, Expected},
    directory::{Denial, Directory, Principal},
};
use jiff::Timestamp;
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse},
};
use serde_json::{Map, Value};
use std::{fmt, sync::Arc};

/// Longest token, in bytes. Those with many claims have some 2 KB; servers take no header of more than 8 KB.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Most keys of a provider.
pub const KEYS_MAX: usize = 100;

/// The keys of a provider; without any, no token opens anything.
#[derive(Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

struct Key {
    id: Option<Box<str>>,
    algorithms: &'static [Algorithm],
    verifying: DecodingKey,
}

/// A document is no set of keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// It is not what RFC 7517 describes.
    #[error("it is no JWK set: {0}")]
    Malformed(String),
    /// None of the keys can verify.
    #[error("it has no key that can verify: RSA, EC with P-256 or Ed25519, for signatures")]
    Empty,
    /// There are too many.
    #[error("it has more than {KEYS_MAX} keys")]
    TooMany,
}

/// A token opens nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// As it is counted.
    pub denial: Denial,
    /// Why, for whoever runs the gateway. Who shows it is not told.
    pub why: &'static str,
    /// Whose it is all the same, where the provider has signed that.
    pub whose: Option<Arc<Principal>>,
    /// The set has no key with its id: there may be a newer set.
    pub is_key_unknown: bool,
}

/// It is none that the provider made for us.
const fn unknown(why: &'static str) -> Refused {
    Refused {
        denial: Denial::Unknown,
        why,
        whose: None,
        is_key_unknown: false,
    }
}

impl KeySet {
    /// Reads a JWK set. Keys that verify nothing here are left out, as are those of algorithms that are not taken: never `none`, and
    /// none whose key both sides share.
    ///
    /// # Errors
    /// It is none, or has no key of use.
    pub fn parse(json: &[u8]) -> Result<Self, KeySetError> {
        let set: JwkSet = serde_json::from_slice(json)
            .map_err(|error| KeySetError::Malformed(error.to_string()))?;
        if set.keys.len() > KEYS_MAX {
            return Err(KeySetError::TooMany);
        }
        let keys: Vec<_> = set.keys.iter().filter_map(Key::read).collect();
        if keys.is_empty() {
            return Err(KeySetError::Empty);
        }
        Ok(Self { keys })
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none, which [`KeySet::parse`] refuses.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whose a token is, and until when, leeway included.
    ///
    /// # Errors
    /// Why it opens nothing.
    pub fn find(
        &self,
        token: &[u8],
        expected: &Expected<'_>,
        directory: &Directory,
        now: Timestamp,
    ) -> Result<(Arc<Principal>, Timestamp), Refused> {
        let claims = self.verify(token)?;
        let claimed = match claims::read(&claims, expected, now) {
            Ok(claimed) => claimed,
            Err(unfit) => {
                let whose = unfit.claimed.map(|claimed| principal(*claimed, directory));
                return Err(Refused {
                    denial: unfit.denial,
                    whose,
                    ..unknown(unfit.why)
                });
            }
        };
        let (until, tenant) = (claimed.until, claimed.tenant.clone());
        let principal = principal(claimed, directory);
        match directory.active_tenant(&tenant) {
            Ok(_) => Ok((principal, until)),
            Err(denial) => {
                let why = match denial {
                    Denial::Revoked => "the tenant is suspended",
                    _ => "there is no such tenant (`serin tenant create`)",
                };
                Err(Refused {
                    denial,
                    whose: Some(principal),
                    ..unknown(why)
                })
            }
        }
    }

    /// The claims of a token whose signature is good. Nothing is said yet about what they claim.
    fn verify(&self, token: &[u8]) -> Result<Map<String, Value>, Refused> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(unknown("the token is too long"));
        }
        let header = decode_header(token).map_err(|_| unknown("the head cannot be read"))?;
        // What must be understood and is not (RFC 7515, section 4.1.11), and what is another kind of token (RFC 8725, section 3.11).
        if header.crit.is_some() {
            return Err(unknown("the head has `crit`"));
        }
        if !header.typ.as_deref().is_none_or(is_access_token) {
            return Err(unknown("`typ` is that of another kind of token"));
        }
        let key = match &header.kid {
            Some(id) => {
                let mut of_id = self.keys.iter().filter(|key| key.id.as_deref() == Some(id));
                of_id.next().ok_or(Refused {
                    is_key_unknown: true,
                    ..unknown("`jwt.jwks` has no key with its `kid`")
                })?
            }
            // Without an id it must be clear which.
            None => match self.keys.as_slice() {
                [key] => key,
                _ => return Err(unknown("it has no `kid`, and `jwt.jwks` more than one key")),
            },
        };
        if !key.algorithms.contains(&header.alg) {
            return Err(unknown("its key is for another `alg`"));
        }
        let mut validation = Validation::new(header.alg);
        // The claims are looked at apart, with a clock that is handed in.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let token = decode::<Map<String, Value>>(token, &key.verifying, &validation);
        let token = token.map_err(|_| unknown("the signature is not that of its key"))?;
        Ok(token.claims)
    }
}

/// Who claims name.
fn principal(claimed: Claimed, directory: &Directory) -> Arc<Principal> {
    let tenant = directory.tenant(claimed.tenant.as_str());
    Arc::new(Principal {
        tier: tenant.and_then(|tenant| tenant.tier.clone()),
        tenant: claimed.tenant,
        subject: claimed.subject,
        key: None,
        role: claimed.role,
        scopes: Arc::new(claimed.scopes),
        until: Some(claimed.until),
    })
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.keys.iter().map(|key| &key.id))
            .finish()
    }
}

impl Key {
    fn read(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        let is_for_signatures =
            matches!(common.public_key_use, None | Some(PublicKeyUse::Signature));
        let algorithms: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => &[Algorithm::RS256, Algorithm::PS256],
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                &[Algorithm::ES256]
            }
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                &[Algorithm::EdDSA]
            }
            _ => return None,
        };
        // A key that names its algorithm is for no other (RFC 7517, section 4.4).
        let algorithms = match &common.key_algorithm {
            None => algorithms,
            Some(named) => {
                let named: Algorithm = named.to_string().parse().ok()?;
                let at = algorithms
                    .iter()
                    .position(|algorithm| *algorithm == named)?;
                algorithms.get(at..=at)?
            }
        };
        Some(Self {
            id: common.key_id.as_deref().map(Into::into),
            algorithms,
            verifying: DecodingKey::from_jwk(jwk)
                .ok()
                .filter(|_| is_for_signatures)?,
        })
    }
}

/// RFC 9068 names access tokens; most providers call any token a JWT.
fn is_access_token(kind: &str) -> bool {
    let kind = kind.to_ascii_lowercase();
    matches!(kind.trim_start_matches("application/"), "jwt" | "at+jwt")
}

/// Whether a credential has the form of a token, and not of a key of ours.
pub fn is_token(credential: &[u8]) -> bool {
    !credential.starts_with(crate::key::PREFIX.as_bytes())
        && credential.split(|byte| *byte == b'.').count() == 3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::{Tenant, TenantState};
    use aws_lc_rs::{
        encoding::{AsDer as _, Pkcs8V1Der},
        rsa,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
    };
    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
    use jsonwebtoken::{EncodingKey, Header, encode};
    use proptest::prelude::*;
    use serde_json::json;
    use std::{collections::BTreeMap, sync::LazyLock};

    const EXPECTED: Expected<'static> = Expected {
        issuer: "i",
        audience: "a",
        tenant: "tenant",
        scope: "scope",
        role: "role",
    };

    /// A provider's key, with the form in which it is published.
    struct Pair {
        secret: EncodingKey,
        public: Value,
    }

    static ED: LazyLock<Pair> = LazyLock::new(|| {
        let pair = Ed25519KeyPair::generate().unwrap();
        let public = BASE64_URL_SAFE_NO_PAD.encode(pair.public_key());
        Pair {
            secret: EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref()),
            public: json!({ "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": public }),
        }
    });
    static EC: LazyLock<Pair> = LazyLock::new(|| {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..]].map(|half| BASE64_URL_SAFE_NO_PAD.encode(half));
        Pair {
            secret: EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref()),
            public: json!({ "kty": "EC", "crv": "P-256", "kid": "ec", "x": x, "y": y }),
        }
    });
    static RSA: LazyLock<Pair> = LazyLock::new(|| {
        let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let [n, e] = [
            pair.public_key()
                .modulus()
                .big_endian_without_leading_zero(),
            pair.public_key()
                .exponent()
                .big_endian_without_leading_zero(),
        ]
        .map(|number| BASE64_URL_SAFE_NO_PAD.encode(number));
        let pkcs8: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        // What stands inside PKCS #8 behind the 26 bytes that name the algorithm.
        Pair {
            secret: EncodingKey::from_rsa_der(&pkcs8.as_ref()[26..]),
            public: json!({ "kty": "RSA", "kid": "rsa", "n": n, "e": e }),
        }
    });

    fn set(keys: &[&Value]) -> Result<KeySet, KeySetError> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    fn header(algorithm: Algorithm, kid: Option<&str>) -> Header {
        Header {
            kid: kid.map(Into::into),
            ..Header::new(algorithm)
        }
    }

    fn claims() -> Value {
        json!({ "iss": "i", "aud": "a", "sub": "ann", "tenant": "acme", "exp": 1000 })
    }

    fn token(pair: &Pair, header: &Header) -> String {
        encode(header, &claims(), &pair.secret).unwrap()
    }

    fn directory(state: TenantState) -> Directory {
        let tenant = Tenant {
            title: String::new(),
            tier: Some("free".parse().unwrap()),
            state,
            created_at: Timestamp::UNIX_EPOCH,
        };
        let tenants = BTreeMap::from([("acme".parse().unwrap(), Arc::new(tenant))]);
        Directory::new(&tenants, &BTreeMap::new(), &BTreeMap::new())
    }

    fn find(set: &KeySet, token: &str) -> Result<Arc<Principal>, Refused> {
        let directory = directory(TenantState::Active);
        let found = set.find(
            token.as_bytes(),
            &EXPECTED,
            &directory,
            Timestamp::UNIX_EPOCH,
        );
        Ok(found?.0)
    }

    /// Why a token is none of the provider's.
    fn refused(set: &KeySet, token: &str) -> &'static str {
        let refused = find(set, token).unwrap_err();
        assert_eq!((refused.denial, &refused.whose), (Denial::Unknown, &None));
        assert_eq!(
            refused.is_key_unknown,
            refused.why.contains("no key with its `kid`")
        );
        refused.why
    }

    #[test]
    fn tokens_of_all_four_algorithms_are_taken() {
        let set = set(&[&ED.public, &EC.public, &RSA.public]).unwrap();
        for (pair, algorithm, kid) in [
            (&ED, Algorithm::EdDSA, "ed"),
            (&EC, Algorithm::ES256, "ec"),
            (&RSA, Algorithm::RS256, "rsa"),
            (&RSA, Algorithm::PS256, "rsa"),
        ] {
            let principal = find(&set, &token(pair, &header(algorithm, Some(kid)))).unwrap();
            assert_eq!(
                (principal.tenant.as_str(), &*principal.subject),
                ("acme", "ann")
            );
            assert_eq!(principal.tier.as_ref().unwrap().as_str(), "free");
        }
    }

    #[test]
    fn no_other_algorithm_is_taken() {
        const OTHER: &str = "its key is for another `alg`";
        let set = set(&[&RSA.public, &EC.public]).unwrap();
        // None at all.
        for algorithm in ["none", "None", "nOnE"] {
            let header = json!({ "alg": algorithm, "kid": "rsa" });
            let [header, claims] =
                [header, claims()].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string()));
            for signature in ["", "AA"] {
                let token = format!("{header}.{claims}.{signature}");
                assert_eq!(refused(&set, &token), "the head cannot be read");
            }
        }
        // One by which the public key, which everybody has, would be the secret.
        let public = RSA.public["n"].as_str().unwrap();
        for secret in [
            EncodingKey::from_secret(public.as_bytes()),
            EncodingKey::from_base64_secret(&public.replace('-', "+").replace('_', "/"))
                .unwrap_or(EncodingKey::from_secret(b"x")),
        ] {
            let header = header(Algorithm::HS256, Some("rsa"));
            let token = encode(&header, &claims(), &secret).unwrap();
            assert_eq!(refused(&set, &token), OTHER);
        }
        // One that the key is not for.
        let longer = token(&RSA, &header(Algorithm::RS512, Some("rsa")));
        assert_eq!(refused(&set, &longer), OTHER);
        let crossed = token(&RSA, &header(Algorithm::RS256, Some("ec")));
        assert_eq!(refused(&set, &crossed), OTHER);
    }

    #[test]
    fn the_key_must_be_clear() {
        let both = set(&[&ED.public, &EC.public]).unwrap();
        let one = set(&[&ED.public]).unwrap();
        let without = token(&ED, &header(Algorithm::EdDSA, None));
        assert!(find(&one, &without).is_ok());
        assert!(refused(&both, &without).contains("it has no `kid`"));
        let newer = token(&ED, &header(Algorithm::EdDSA, Some("newer")));
        assert!(refused(&one, &newer).contains("no key with its `kid`"));
    }

    #[test]
    fn other_kinds_of_tokens_are_none() {
        let set = set(&[&ED.public]).unwrap();
        let of = |typ: Option<&str>, crit: Option<Vec<String>>| Header {
            typ: typ.map(Into::into),
            crit,
            ..header(Algorithm::EdDSA, Some("ed"))
        };
        for taken in [None, Some("at+jwt"), Some("application/at+jwt")] {
            assert!(find(&set, &token(&ED, &of(taken, None))).is_ok());
        }
        for (header, part) in [
            (of(Some("logout+jwt"), None), "`typ`"),
            (of(Some("dpop+jwt"), None), "`typ`"),
            (of(Some("JWT"), Some(vec!["exp".into()])), "`crit`"),
        ] {
            let why = refused(&set, &token(&ED, &header));
            assert!(why.contains(part), "{header:?}: {why}");
        }
    }

    #[test]
    fn a_token_that_is_over_or_of_no_active_tenant_opens_nothing_and_is_its_holders() {
        let set = set(&[&ED.public]).unwrap();
        let token = token(&ED, &header(Algorithm::EdDSA, Some("ed")));
        let late = Timestamp::from_second(2000).unwrap();
        let now = Timestamp::UNIX_EPOCH;
        for (directory, now, denial, why) in [
            (
                directory(TenantState::Suspended),
                now,
                Denial::Revoked,
                "suspended",
            ),
            (Directory::default(), now, Denial::Unknown, "no such tenant"),
            (
                directory(TenantState::Active),
                late,
                Denial::Expired,
                "`exp`",
            ),
        ] {
            let refused = set.find(token.as_bytes(), &EXPECTED, &directory, now);
            let refused = refused.unwrap_err();
            assert_eq!(refused.denial, denial);
            assert!(refused.why.contains(why), "{}", refused.why);
            // The provider says whose it is.
            let whose = refused.whose.unwrap();
            assert_eq!((whose.tenant.as_str(), &*whose.subject), ("acme", "ann"));
        }
    }

    #[test]
    fn a_set_without_a_key_of_use_is_refused() {
        let shared = json!({ "kty": "oct", "kid": "s", "k": "c2VjcmV0" });
        let mut locked = ED.public.clone();
        locked["use"] = json!("enc");
        let mut other = RSA.public.clone();
        other["alg"] = json!("RS512");
        for keys in [&[][..], &[&shared], &[&locked], &[&other]] {
            assert_eq!(set(keys).unwrap_err(), KeySetError::Empty);
        }
        assert!(matches!(
            KeySet::parse(b"<html>"),
            Err(KeySetError::Malformed(_))
        ));
        let many = vec![&shared; KEYS_MAX + 1];
        assert_eq!(set(&many).unwrap_err(), KeySetError::TooMany);
        let mut named = RSA.public.clone();
        named["alg"] = json!("PS256");
        let named = set(&[&named]).unwrap();
        assert!(find(&named, &token(&RSA, &header(Algorithm::PS256, Some("rsa")))).is_ok());
        assert!(find(&named, &token(&RSA, &header(Algorithm::RS256, Some("rsa")))).is_err());
    }

    proptest! {
        #[test]
        fn a_changed_token_opens_nothing(at in 0..200_usize, byte in "[A-Za-z0-9_.-]") {
            let set = set(&[&ED.public]).unwrap();
            let good = token(&ED, &header(Algorithm::EdDSA, Some("ed")));
            let at = at % good.len();
            let mut changed = good.clone();
            changed.replace_range(at..=at, &byte);
            let payload = |token: &str| token.split('.').nth(1).map(str::to_owned);
            if find(&set, &changed).is_ok() {
                // The last character of a signature has bits to spare.
                prop_assert_eq!(payload(&changed), payload(&good));
            } else {
                prop_assert_ne!(&changed, &good);
            }
            prop_assert!(find(&set, &good[..at]).is_err());
        }

        #[test]
        fn whatever_comes_is_read_without_a_panic(token: Vec<u8>, json: Vec<u8>) {
            let _ = KeySet::parse(&json);
            prop_assert!(set(&[&ED.public]).unwrap().verify(&token).is_err());
            let _ = is_token(&token);
        }
    }
}
