//! Affinity: what keeps a caller without a session on one version. The order is that of `decisions.md`: a configured
//! header, who proved who they are, the principal of a JWT, a hash of `Authorization`, the client's address.

use crate::{connection::Connection, headers};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, header};
use ipnet::IpNet;
use serde::Deserialize;
use serin_tenancy::Principal;
use std::{borrow::Cow, net::IpAddr, time::Duration};
use uuid::Uuid;

/// Longest JWT payload that is looked into, in base64 characters.
const JWT_PAYLOAD_MAX: usize = 8 * 1024;
/// Most hops of `X-Forwarded-For` that are looked at, from the right.
const HOPS_MAX: usize = 32;

/// The affinity key of a caller.
pub(crate) fn key(
    headers: &HeaderMap,
    affinity_header: Option<&str>,
    principal: Option<&Principal>,
    connection: &Connection,
    trusted: &[IpNet],
) -> Vec<u8> {
    let tagged = |tag: u8, value: &[u8]| {
        let mut key = Vec::with_capacity(1 + value.len());
        key.push(tag);
        key.extend_from_slice(value);
        key
    };
    if let Some(value) = affinity_header.and_then(|name| headers.get(name)) {
        return tagged(b'h', value.as_bytes());
    }
    if let Some(principal) = principal {
        return tagged(b'p', of_principal(principal).as_bytes());
    }
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        return match claimed(value.as_bytes()) {
            Some((issuer, subject)) => {
                let mut key = tagged(b'j', issuer.as_bytes());
                key.push(0);
                key.extend_from_slice(subject.as_bytes());
                key
            }
            None => tagged(b'a', blake3::hash(value.as_bytes()).as_bytes()),
        };
    }
    match client_address(headers, connection, trusted) {
        IpAddr::V4(address) => tagged(b'i', &address.octets()),
        IpAddr::V6(address) => tagged(b'i', &address.octets()),
    }
}

/// What the limits of a caller go by who did not prove who they are. Not what a token claims, as for the affinity key: who forges one
/// would use up what is another's.
pub(crate) fn limit_key(
    headers: &HeaderMap,
    affinity_header: Option<&str>,
    connection: &Connection,
    trusted: &[IpNet],
) -> Vec<u8> {
    let has_header = affinity_header.is_some_and(|name| headers.contains_key(name));
    match headers.get(header::AUTHORIZATION) {
        Some(value) if !has_header => {
            [b"a", &blake3::hash(value.as_bytes()).as_bytes()[..]].concat()
        }
        _ => key(headers, affinity_header, None, connection, trusted),
    }
}

/// What keeps a caller in one bucket of a flag: the text behind the affinity key, so that who asks for flags by other ways with the
/// same text gets the same answers. A session comes before the address, which many may share.
pub(crate) fn targeting_key(
    headers: &HeaderMap,
    affinity_header: Option<&str>,
    principal: Option<&Principal>,
    session: Option<Uuid>,
    connection: &Connection,
    trusted: &[IpNet],
) -> String {
    if let Some(value) = affinity_header.and_then(|name| headers.get(name)) {
        return String::from_utf8_lossy(value.as_bytes()).into_owned();
    }
    if let Some(principal) = principal {
        return of_principal(principal);
    }
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        return match claimed(value.as_bytes()) {
            Some((_, subject)) => subject,
            None => blake3::hash(value.as_bytes()).to_hex().to_string(),
        };
    }
    match session {
        Some(session) => session.to_string(),
        None => client_address(headers, connection, trusted).to_string(),
    }
}

/// Who it is, of whom. A tenant has no slash in its name.
fn of_principal(principal: &Principal) -> String {
    format!("{}/{}", principal.tenant, principal.subject)
}

/// Makes a key another one in each period: the split and the judge then take the caller for a new one.
pub(crate) fn renew(key: &mut Vec<u8>, since_1970: Duration, period: Duration) {
    let number = since_1970.as_millis() / period.as_millis().max(1);
    key.push(b'p');
    key.extend_from_slice(&number.to_be_bytes());
}

/// The client's address: the peer's, or, behind trusted proxies, the right-most of `X-Forwarded-For` that is none of them.
pub(crate) fn client_address(
    headers: &HeaderMap,
    connection: &Connection,
    trusted: &[IpNet],
) -> IpAddr {
    let mut address = connection.address;
    if !connection.is_trusted {
        return address;
    }
    let hops = headers
        .get_all(&headers::FORWARDED_FOR)
        .iter()
        .rev()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.rsplit(','));
    for hop in hops.take(HOPS_MAX) {
        let Ok(hop) = hop.trim().parse::<IpAddr>() else {
            break;
        };
        address = hop.to_canonical();
        if !is_trusted(address, trusted) {
            break;
        }
    }
    address
}

/// Whether an address is that of a trusted proxy. A listener on `[::]` sees IPv4 peers as `::ffff:a.b.c.d`.
pub(crate) fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|net| net.contains(&address))
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
fn claimed(authorization: &[u8]) -> Option<(String, String)> {
    let (scheme, token) = authorization.split_at_checked("bearer ".len())?;
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
    Some((claims.iss.into_owned(), claims.sub.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn peer(address: &str, is_trusted: bool) -> Connection {
        Connection::new(
            format!("{address}:1").parse().unwrap(),
            is_trusted,
            std::rc::Rc::default(),
        )
    }

    fn with(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn bearer(payload: &str, signature: &str) -> String {
        let payload = BASE64_URL_SAFE_NO_PAD.encode(payload);
        format!("Bearer eyJhbGciOiJub25lIn0.{payload}.{signature}")
    }

    fn key_of(pairs: &[(&'static str, &str)]) -> Vec<u8> {
        key(
            &with(pairs),
            Some("x-tenant"),
            None,
            &peer("192.0.2.1", false),
            &[],
        )
    }

    #[test]
    fn the_order_is_header_principal_authorization_address() {
        let jwt = bearer(r#"{"iss":"a","sub":"b"}"#, "x");
        let all = [("x-tenant", "t"), ("authorization", &*jwt)];
        assert_eq!(key_of(&all), b"ht");
        assert_eq!(key_of(&all[1..]), b"ja\0b");
        assert_eq!(
            key_of(&[("authorization", "Bearer opaque")]).first(),
            Some(&b'a')
        );
        assert_eq!(key_of(&[]), [b'i', 192, 0, 2, 1]);
    }

    #[test]
    fn a_refreshed_token_is_the_same_caller() {
        let first = bearer(r#"{"iss":"a","sub":"b","exp":1}"#, "x");
        let later = bearer(r#"{"iss":"a","sub":"b","exp":2}"#, "y");
        assert_eq!(
            key_of(&[("authorization", &first)]),
            key_of(&[("authorization", &later)])
        );
        let other = bearer(r#"{"iss":"a","sub":"c"}"#, "x");
        assert_ne!(
            key_of(&[("authorization", &first)]),
            key_of(&[("authorization", &other)])
        );
    }

    #[test]
    fn secrets_do_not_stand_in_keys() {
        let key = key_of(&[("authorization", "Basic c2VjcmV0")]);
        assert!(memchr::memmem::find(&key, b"c2VjcmV0").is_none());
    }

    #[test]
    fn only_trusted_proxies_speak_for_a_client() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        for (sent, trust, want) in [
            ("203.0.113.9", false, "10.0.0.1"),
            ("203.0.113.9", true, "203.0.113.9"),
            ("198.51.100.1, 203.0.113.9, 10.0.0.7", true, "203.0.113.9"),
            ("10.0.0.8, 10.0.0.7", true, "10.0.0.8"),
            ("junk, 10.0.0.7", true, "10.0.0.7"),
            ("junk", true, "10.0.0.1"),
        ] {
            let headers = with(&[("x-forwarded-for", sent)]);
            let got = client_address(&headers, &peer("10.0.0.1", trust), &trusted);
            assert_eq!(got.to_string(), want, "{sent}");
        }
    }

    #[test]
    fn a_proxy_is_trusted_on_a_listener_for_both_families() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        for (address, want) in [
            ("10.0.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("fd00::1", true),
            ("::ffff:11.0.0.1", false),
            ("fe80::1", false),
        ] {
            assert_eq!(
                is_trusted(address.parse().unwrap(), &trusted),
                want,
                "{address}"
            );
        }
    }

    #[test]
    fn a_renewed_key_is_another_one_in_each_period() {
        let at = |seconds| {
            let mut key = b"caller".to_vec();
            renew(
                &mut key,
                Duration::from_secs(seconds),
                Duration::from_mins(1),
            );
            key
        };
        assert_eq!(at(60), at(119));
        assert_ne!(at(60), at(120));
        assert_ne!(at(0), at(60));
    }

    proptest! {
        #[test]
        fn outside_credentials_never_panic(value: Vec<u8>) {
            let _ = claimed(&value);
            let _ = claimed(&[b"Bearer ", value.as_slice()].concat());
        }
    }
}
