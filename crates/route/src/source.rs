//! By what a caller is known again: what keeps callers without a session on one version and one endpoint.

use crate::text;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, header};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, net::IpAddr, time::Duration};

/// Most sources of a list: there are five kinds, and a second header or cookie takes the place of one that is being given up.
pub const SOURCES_MAX: usize = 8;
/// Longest value of a cookie that is taken for one of ours. Those that are given have 22 bytes; what is longer is somebody else's.
pub const COOKIE_BYTES_MAX: usize = 64;
/// Longest JWT payload that is looked into, in base64 characters.
const JWT_PAYLOAD_MAX: usize = 8 * 1024;

/// Something of a request that stays the same from one to the next of a caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The value of this header.
    Header(String),
    /// The value of a cookie, which the gateway gives to whoever comes without one.
    Cookie(Cookie),
    /// The tenant: all of its callers stay together.
    Tenant,
    /// Who proved who they are (tenant and subject), or whom a token names.
    Principal,
    /// The client's address; behind a proxy that is trusted, the one that it names.
    Address,
}

/// A cookie that the gateway gives out (RFC 6265).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cookie {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// How long a client keeps it; without, until the client is closed.
    #[serde(
        default,
        with = "text::duration_option",
        skip_serializing_if = "Option::is_none"
    )]
    pub ttl: Option<Duration>,
    /// Below which path it is sent; the service's own unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Only over TLS.
    #[serde(default = "yes")]
    pub secure: bool,
    /// Out of the reach of scripts.
    #[serde(default = "yes")]
    pub http_only: bool,
    /// Whether other sites may make a browser send it.
    #[serde(default)]
    pub same_site: SameSite,
}

fn yes() -> bool {
    true
}

/// Whether other sites may make a browser send a cookie (RFC 6265bis, section 4.1.2.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SameSite {
    /// Never.
    Strict,
    /// When a person follows a link.
    #[default]
    Lax,
    /// Always; only together with `secure`.
    None,
}

/// Who asks, as far as a caller can be known again.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// The headers of the request.
    pub headers: &'a HeaderMap,
    /// Whose it is: proven, or named by a header that is believed.
    pub tenant: Option<&'a str>,
    /// The tenant and the subject, where these were proven.
    pub principal: Option<(&'a str, &'a str)>,
    /// The client's address.
    pub address: IpAddr,
}

/// What a caller is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known<'a> {
    /// The value of a header.
    Header(&'a [u8]),
    /// The value of a cookie.
    Cookie(Cow<'a, str>),
    /// The tenant.
    Tenant(&'a str),
    /// Who it proved to be.
    Principal {
        /// Of whom.
        tenant: &'a str,
        /// Who.
        subject: &'a str,
    },
    /// Whom a token names that nobody has checked.
    Claimed {
        /// Who is said to have given it out.
        issuer: String,
        /// Who it is said to be.
        subject: String,
    },
    /// The hash of a credential that says nothing else.
    Credential([u8; 32]),
    /// The address.
    Address(IpAddr),
}

impl Known<'_> {
    /// The affinity key. Its first byte keeps one kind from passing for another.
    pub fn key(&self) -> Vec<u8> {
        match self {
            Self::Header(value) => tagged(b'h', &[value]),
            Self::Cookie(value) => tagged(b'c', &[value.as_bytes()]),
            Self::Tenant(tenant) => tagged(b't', &[tenant.as_bytes()]),
            // A tenant has no slash in its name.
            Self::Principal { tenant, subject } => {
                tagged(b'p', &[tenant.as_bytes(), b"/", subject.as_bytes()])
            }
            Self::Claimed { issuer, subject } => {
                tagged(b'j', &[issuer.as_bytes(), &[0], subject.as_bytes()])
            }
            Self::Credential(hash) => tagged(b'a', &[hash]),
            Self::Address(IpAddr::V4(address)) => tagged(b'i', &[&address.octets()]),
            Self::Address(IpAddr::V6(address)) => tagged(b'i', &[&address.octets()]),
        }
    }

    /// The same as text: who asks for flags by other ways with it gets the same answers.
    pub fn text(&self) -> String {
        match self {
            Self::Header(value) => String::from_utf8_lossy(value).into_owned(),
            Self::Cookie(value) => value.clone().into_owned(),
            Self::Tenant(tenant) => (*tenant).to_owned(),
            Self::Principal { tenant, subject } => format!("{tenant}/{subject}"),
            Self::Claimed { subject, .. } => subject.clone(),
            Self::Credential(hash) => blake3::Hash::from_bytes(*hash).to_hex().to_string(),
            Self::Address(address) => address.to_string(),
        }
    }
}

fn tagged(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut key = Vec::with_capacity(1 + length);
    key.push(tag);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

impl Source {
    /// What a request has of it. An empty value is none: all who send one would be one caller.
    pub fn of<'a>(&self, who: &Who<'a>) -> Option<Known<'a>> {
        match self {
            Self::Header(name) => header_value(who.headers, name).map(Known::Header),
            Self::Cookie(cookie) => {
                let value = cookie_value(who.headers, &cookie.name)?;
                Some(Known::Cookie(Cow::Borrowed(value)))
            }
            Self::Tenant => who.tenant.map(Known::Tenant),
            Self::Principal => proven(who).or_else(|| claimed(who.headers)),
            Self::Address => Some(Known::Address(who.address)),
        }
    }
}

/// By what callers are known again, as it is configured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sources<'s> {
    /// The short form of one header: where it is written, the list is not.
    pub header: Option<&'s str>,
    /// The sources, in their order.
    pub list: &'s [Source],
}

impl<'s> Sources<'s> {
    /// These.
    pub fn new(list: &'s [Source]) -> Self {
        Self { header: None, list }
    }

    /// The first that a request has; `give` is asked for a cookie where one is missing.
    pub fn first<'a>(
        self,
        who: &Who<'a>,
        give: impl FnMut(&Cookie) -> Option<String>,
    ) -> Option<Known<'a>> {
        match self.header {
            Some(name) => header_value(who.headers, name).map(Known::Header),
            None => first(self.list, who, give),
        }
    }
}

/// Makes a key another one in each period: the split and the judge then take the caller for a new one.
pub fn renew(key: &mut Vec<u8>, since_1970: Duration, period: Duration) {
    let number = since_1970.as_millis() / period.as_millis().max(1);
    key.push(b'p');
    key.extend_from_slice(&number.to_be_bytes());
}

/// The first of some sources that a request has. Who comes without a cookie of these is known by the one that `give` gives, if it does.
pub fn first<'a>(
    sources: &[Source],
    who: &Who<'a>,
    mut give: impl FnMut(&Cookie) -> Option<String>,
) -> Option<Known<'a>> {
    sources.iter().find_map(|source| {
        source.of(who).or_else(|| match source {
            Source::Cookie(cookie) => give(cookie).map(|value| Known::Cookie(Cow::Owned(value))),
            _ => None,
        })
    })
}

/// By what a caller is known where nothing is said, or nothing of it is there: who it proved to be, whom its token names, its
/// credential, its address.
pub fn unless_said<'a>(who: &Who<'a>) -> Known<'a> {
    proven(who)
        .or_else(|| claimed(who.headers))
        .or_else(|| credential(who.headers))
        .unwrap_or(Known::Address(who.address))
}

/// The value of a header; of several the first.
pub fn header_value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let value = headers.get(name)?.as_bytes();
    (!value.is_empty()).then_some(value)
}

/// The value of a cookie, if it may be one that was given; of several the first, which browsers send for the longest path (RFC 6265,
/// section 5.4).
pub fn cookie_value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let values = headers.get_all(header::COOKIE).iter();
    // Not as text: others may have letters that are not ASCII in theirs.
    let mut pairs = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    let value = pairs.find_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (of, value) = (pair.get(..at)?, pair.get(at + 1..)?);
        (of.trim_ascii() == name.as_bytes()).then(|| value.trim_ascii())
    })?;
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !b"\",;\\".contains(byte);
    let is_ours = (1..=COOKIE_BYTES_MAX).contains(&value.len()) && value.iter().all(is_plain);
    std::str::from_utf8(value).ok().filter(|_| is_ours)
}

fn proven<'a>(who: &Who<'a>) -> Option<Known<'a>> {
    let (tenant, subject) = who.principal?;
    Some(Known::Principal { tenant, subject })
}

/// A hash of whatever credential there is.
pub fn credential(headers: &HeaderMap) -> Option<Known<'static>> {
    let value = headers.get(header::AUTHORIZATION)?;
    Some(Known::Credential(
        *blake3::hash(value.as_bytes()).as_bytes(),
    ))
}

#[derive(Deserialize)]
struct Claims<'a> {
    #[serde(borrow, default)]
    iss: Cow<'a, str>,
    #[serde(borrow)]
    sub: Cow<'a, str>,
}

/// Issuer and subject of a bearer JWT. The signature is not checked: whoever forges a token chooses a version for
/// themselves, no more, and the server will refuse it.
fn claimed(headers: &HeaderMap) -> Option<Known<'static>> {
    let value = headers.get(header::AUTHORIZATION)?;
    let (scheme, token) = value.as_bytes().split_at_checked("bearer ".len())?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return None;
    }
    let mut parts = token.split(|byte| *byte == b'.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if payload.len() > JWT_PAYLOAD_MAX || parts.next().is_some() {
        return None;
    }
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims: Claims<'_> = serde_json::from_slice(&payload).ok()?;
    Some(Known::Claimed {
        issuer: claims.iss.into_owned(),
        subject: claims.sub.into_owned(),
    })
}

impl Cookie {
    /// The value of `Set-Cookie` by which a client is given it (RFC 6265, section 4.1); `below` is the path unless one is said.
    pub fn set(&self, value: &str, below: &str) -> String {
        let mut text = format!("{}={value}", self.name);
        if let Some(ttl) = self.ttl {
            text.push_str(&format!("; Max-Age={}", ttl.as_secs()));
        }
        text.push_str("; Path=");
        // Without a path browsers take that of the request.
        let path = self.path.as_deref().unwrap_or(below);
        text.push_str(if path.is_empty() { "/" } else { path });
        if self.secure {
            text.push_str("; Secure");
        }
        if self.http_only {
            text.push_str("; HttpOnly");
        }
        text.push_str(match self.same_site {
            SameSite::Strict => "; SameSite=Strict",
            SameSite::Lax => "; SameSite=Lax",
            SameSite::None => "; SameSite=None",
        });
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn with(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn who(headers: &HeaderMap) -> Who<'_> {
        Who {
            headers,
            tenant: Some("acme"),
            principal: None,
            address: [192, 0, 2, 1].into(),
        }
    }

    fn cookie(name: &str) -> Cookie {
        serde_json::from_value(serde_json::json!({ "name": name })).unwrap()
    }

    fn bearer(payload: &str, signature: &str) -> String {
        let payload = BASE64_URL_SAFE_NO_PAD.encode(payload);
        format!("Bearer eyJhbGciOiJub25lIn0.{payload}.{signature}")
    }

    #[test]
    fn a_renewed_key_is_another_one_in_each_period() {
        let at = |seconds| {
            let mut key = b"caller".to_vec();
            let period = Duration::from_mins(1);
            renew(&mut key, Duration::from_secs(seconds), period);
            key
        };
        assert_eq!(at(60), at(119));
        assert_ne!(at(60), at(120));
        assert_ne!(at(0), at(60));
    }

    fn default_key(pairs: &[(&'static str, &str)]) -> Vec<u8> {
        unless_said(&who(&with(pairs))).key()
    }

    #[test]
    fn the_first_source_that_is_there_decides() {
        let sources = [
            Source::Header("X-User".into()),
            Source::Cookie(cookie("at")),
            Source::Tenant,
            Source::Address,
        ];
        let key = |pairs: &[(&'static str, &str)], sources: &[Source]| {
            let headers = with(pairs);
            first(sources, &who(&headers), |_| None).map(|known| known.key())
        };
        let both = [("x-user", "u"), ("cookie", "a=b; at=v")];
        assert_eq!(key(&both, &sources).unwrap(), b"hu");
        assert_eq!(key(&both[1..], &sources).unwrap(), b"cv");
        assert_eq!(key(&[("x-user", "")], &sources).unwrap(), b"tacme");
        assert_eq!(key(&[], &sources[3..]).unwrap(), [b'i', 192, 0, 2, 1]);
        assert_eq!(key(&[], &sources[..1]), None);
        let headers = with(&[]);
        let given = first(&sources, &who(&headers), |_| Some("new".into()));
        assert_eq!(given.unwrap().key(), b"cnew");
    }

    #[test]
    fn unless_said_it_is_the_principal_then_the_token_then_the_address() {
        let jwt = bearer(r#"{"iss":"a","sub":"b"}"#, "x");
        assert_eq!(default_key(&[("authorization", &jwt)]), b"ja\0b");
        let opaque = default_key(&[("authorization", "Bearer opaque")]);
        assert_eq!(opaque.first(), Some(&b'a'));
        assert_eq!(default_key(&[]), [b'i', 192, 0, 2, 1]);
        let headers = with(&[("authorization", &jwt)]);
        let proven = Who {
            principal: Some(("acme", "eve")),
            ..who(&headers)
        };
        assert_eq!(unless_said(&proven).key(), b"pacme/eve");
        assert_eq!(unless_said(&proven).text(), "acme/eve");
    }

    #[test]
    fn a_refreshed_token_is_the_same_caller() {
        let key =
            |payload, signature| default_key(&[("authorization", &bearer(payload, signature))]);
        let first = key(r#"{"iss":"a","sub":"b","exp":1}"#, "x");
        assert_eq!(first, key(r#"{"iss":"a","sub":"b","exp":2}"#, "y"));
        assert_ne!(first, key(r#"{"iss":"a","sub":"c"}"#, "x"));
    }

    #[test]
    fn secrets_do_not_stand_in_keys() {
        let key = default_key(&[("authorization", "Basic c2VjcmV0")]);
        assert!(!key.windows(8).any(|part| part == b"c2VjcmV0"));
    }

    #[test]
    fn a_cookie_is_found_among_others_and_bounded() {
        let long = "x".repeat(COOKIE_BYTES_MAX);
        let longer = format!("at={long}x");
        let longest = format!("at={long}");
        for (sent, want) in [
            (&["at=v"][..], Some("v")),
            (&["a=b;at=v ; c=d"], Some("v")),
            (&["a=b", "at=v"], Some("v")),
            (&["at=1; at=2"], Some("1")),
            (&["at=v=w"], Some("v=w")),
            (&["At=v"], None),
            (&["bat=v"], None),
            (&["at="], None),
            (&["at"], None),
            (&["at=\"v\""], None),
            (&["name=Ren\u{e9}; at=v"], Some("v")),
            (&["at=\u{e9}"], None),
            (&[&longest], Some(&*long)),
            (&[&longer], None),
            (&[], None),
        ] {
            let pairs: Vec<_> = sent.iter().map(|value| ("cookie", *value)).collect();
            let headers = with(&pairs);
            assert_eq!(cookie_value(&headers, "at"), want, "{sent:?}");
        }
    }

    #[test]
    fn a_cookie_says_all_of_what_is_set() {
        let full: Cookie = serde_json::from_value(serde_json::json!({
            "name": "at", "ttl": "1h", "path": "/a", "secure": false, "http_only": false, "same_site": "strict",
        }))
        .unwrap();
        assert_eq!(
            full.set("v", "/mcp"),
            "at=v; Max-Age=3600; Path=/a; SameSite=Strict"
        );
        assert_eq!(
            cookie("at").set("v", "/mcp"),
            "at=v; Path=/mcp; Secure; HttpOnly; SameSite=Lax"
        );
        assert_eq!(
            cookie("at").set("v", ""),
            "at=v; Path=/; Secure; HttpOnly; SameSite=Lax",
            "a service at the root"
        );
    }

    proptest! {
        #[test]
        fn outside_credentials_and_cookies_never_panic(value: Vec<u8>) {
            for (name, value) in [
                (header::AUTHORIZATION, value.clone()),
                (header::AUTHORIZATION, [b"Bearer ", value.as_slice()].concat()),
                (header::COOKIE, [b"at=", value.as_slice()].concat()),
            ] {
                let Ok(value) = HeaderValue::from_bytes(&value) else {
                    continue;
                };
                let headers = HeaderMap::from_iter([(name, value)]);
                let _ = unless_said(&who(&headers)).key();
                let _ = cookie_value(&headers, "at");
            }
        }
    }
}
