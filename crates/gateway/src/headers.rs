//! Header fields: names, and what must not pass a gateway (RFC 9110 section 7.6.1).

use crate::{auth::sign, connection::Connection};
use http::{HeaderMap, HeaderName, HeaderValue, header};
pub(crate) use serin_model::route::METHOD_OVERRIDES;
use serin_route::condition::is_said_by_proxies;
use serin_tenancy::key::PREFIX;
use std::fmt::Write as _;

pub(crate) static CANARY: HeaderName = HeaderName::from_static("x-canary");
pub(crate) static VERSION: HeaderName = HeaderName::from_static("x-serin-version");
/// The variant of a flag under release that a call has, as `KEY=VARIANT`.
pub(crate) static FLAGS: HeaderName = HeaderName::from_static("x-serin-flags");
pub(crate) static SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
pub(crate) static PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
pub(crate) static METHOD: HeaderName = HeaderName::from_static("mcp-method");
pub(crate) static NAME: HeaderName = HeaderName::from_static("mcp-name");
pub(crate) static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
pub(crate) static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) static FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

pub(crate) static TRUE: HeaderValue = HeaderValue::from_static("true");
pub(crate) static FALSE: HeaderValue = HeaderValue::from_static("false");
static IDENTITY: HeaderValue = HeaderValue::from_static("identity");
static TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
static TE: HeaderValue = HeaderValue::from_static("te");
static HTTP: HeaderValue = HeaderValue::from_static("http");
static HTTPS: HeaderValue = HeaderValue::from_static("https");

/// The value of a header as text, if there is exactly one.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// Takes out what belongs to one connection only.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            // What frames the message, names its target or says something to us is no option of the connection, whatever the sender says.
            if name != header::HOST && !is_ours(name.as_str()) {
                headers.remove(name);
            }
        }
        headers.remove(header::CONNECTION);
    }
    headers.remove(&KEEP_ALIVE);
    headers.remove(&PROXY_CONNECTION);
    headers.remove(header::TE);
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(header::UPGRADE);
}

/// Makes a client's headers those of a request to an endpoint. `Host` is set when the endpoint is known; `host` is the one
/// that was checked, which need not be in the headers: HTTP/2 has it in `:authority`, and an absolute target overrides it.
pub(crate) fn for_endpoint(headers: &mut HeaderMap, connection: &Connection, host: &str) {
    let takes_trailers = headers
        .get_all(header::TE)
        .iter()
        .any(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    remove_hop_by_hop(headers);
    if takes_trailers {
        // Trailers pass, so the endpoint may be told that they are welcome (RFC 9110 section 10.1.4).
        headers.insert(header::TE, TRAILERS.clone());
        headers.insert(header::CONNECTION, TE.clone());
    }
    headers.remove(header::EXPECT);
    headers.remove(header::PROXY_AUTHORIZATION);
    remove_our_keys(headers);
    headers.remove(&CANARY);
    headers.remove(&VERSION);
    headers.remove(&FLAGS);
    sign::remove(headers);
    remove_lookalikes(headers);
    if connection.is_trusted {
        headers.append(&FORWARDED_FOR, connection.address_header.clone());
    } else {
        remove_what_proxies_say(headers);
        headers.insert(&FORWARDED_FOR, connection.address_header.clone());
    }
    if !headers.contains_key(&FORWARDED_PROTO) {
        let scheme = if connection.is_tls { &HTTPS } else { &HTTP };
        headers.insert(&FORWARDED_PROTO, scheme.clone());
    }
    if !headers.contains_key(&FORWARDED_HOST)
        && let Ok(host) = HeaderValue::from_str(host)
    {
        headers.insert(&FORWARDED_HOST, host);
    }
}

/// Takes out a key of ours, which opens other services than the one whose callers nobody asks for it.
fn remove_our_keys(headers: &mut HeaderMap) {
    let is_between = |byte: &u8| byte.is_ascii_whitespace() || b",;=\"".contains(byte);
    let holds_key = |value: &HeaderValue| {
        let mut words = value.as_bytes().split(is_between);
        words.any(|word| word.starts_with(PREFIX.as_bytes()))
    };
    if (headers.get_all(header::AUTHORIZATION).iter()).any(holds_key) {
        headers.remove(header::AUTHORIZATION);
    }
}

/// Takes out what only a trusted proxy may say, of which servers believe all: `X-Forwarded-Prefix` and `-Port` as well.
fn remove_what_proxies_say(headers: &mut HeaderMap) {
    let said: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_said_by_proxies(name))
        .cloned()
        .collect();
    for name in said {
        headers.remove(name);
    }
}

/// Takes out what a server takes for a header that the gateway sets, checks or takes out: CGI and WSGI map `-` and `_` to one character,
/// some servers whatever is no letter or digit.
fn remove_lookalikes(headers: &mut HeaderMap) {
    let is_one = |name: &&HeaderName| plain(name).is_some_and(|plain| is_ours(&plain));
    let lookalikes: Vec<HeaderName> = headers.keys().filter(is_one).cloned().collect();
    for name in lookalikes {
        headers.remove(name);
    }
}

/// Sets a header that callers may not say, in any spelling.
pub(crate) fn set_alone(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    let is_like = |other: &&HeaderName| is_lookalike(other, name.as_str());
    let lookalikes: Vec<HeaderName> = headers.keys().filter(is_like).cloned().collect();
    for lookalike in lookalikes {
        headers.remove(lookalike);
    }
    headers.insert(name, value);
}

/// Whether a server may take a header for another one that has this name.
pub(crate) fn is_lookalike(name: &HeaderName, of: &str) -> bool {
    let name = name.as_str();
    let is_same = |(a, b): (u8, u8)| {
        a.eq_ignore_ascii_case(&b) || !(a.is_ascii_alphanumeric() || b.is_ascii_alphanumeric())
    };
    !name.eq_ignore_ascii_case(of)
        && name.len() == of.len()
        && name.bytes().zip(of.bytes()).all(is_same)
}

/// A name as such servers read it; nothing if they read it as it is.
fn plain(name: &HeaderName) -> Option<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let name = name.as_str();
    (!name.chars().all(is_plain)).then(|| name.replace(|c| !is_plain(c), "-"))
}

fn is_ours(name: &str) -> bool {
    ["x-serin-", "x-forwarded-", "mcp-"]
        .iter()
        .any(|beginning| name.starts_with(beginning))
        || METHOD_OVERRIDES.contains(&name)
        || matches!(
            name,
            "x-canary"
                | "x-real-ip"
                | "last-event-id"
                | "accept-encoding"
                | "content-length"
                | "keep-alive"
                | "proxy-authorization"
                | "proxy-connection"
                | "transfer-encoding"
        )
}

/// The value of [`FLAGS`]: `KEY=VARIANT`, where whatever could be read as something else is percent-encoded (RFC 3986 section 2.1).
pub(crate) fn flag_value(flag: &str, variant: &str) -> Option<HeaderValue> {
    // A token without the percent sign (RFC 9110 section 5.6.2).
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    let mut value = format!("{flag}=");
    for byte in variant.bytes() {
        if is_plain(byte) {
            value.push(char::from(byte));
        } else {
            write!(value, "%{byte:02X}").ok()?;
        }
    }
    HeaderValue::from_str(&value).ok()
}

/// Says which version answered.
pub(crate) fn name_version(headers: &mut HeaderMap, version: HeaderValue, is_candidate: bool) {
    headers.insert(&VERSION, version);
    let canary = if is_candidate { &TRUE } else { &FALSE };
    headers.insert(&CANARY, canary.clone());
}

/// Whether a body is encoded all the same.
pub(crate) fn is_encoded(headers: &HeaderMap) -> bool {
    let encodings = headers.get_all(header::CONTENT_ENCODING);
    (encodings.iter()).any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Those of a message that the gateway posts itself (MCP 2025-11-25, "Sending Messages to the Server").
pub(crate) fn post_message(headers: &mut HeaderMap) {
    let json = HeaderValue::from_static("application/json");
    let both = HeaderValue::from_static("application/json, text/event-stream");
    headers.insert(header::CONTENT_TYPE, json);
    headers.insert(header::ACCEPT, both);
}

/// Asks for an answer that can be read.
pub(crate) fn ask_for_identity(headers: &mut HeaderMap) {
    headers.insert(header::ACCEPT_ENCODING, IDENTITY.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_connection_names_goes_with_it() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Secret"),
            ("connection", "content-length, host"),
            ("connection", "Mcp-Protocol-Version"),
            ("mcp-protocol-version", "2026-07-28"),
            ("x-secret", "1"),
            ("content-length", "3"),
            ("host", "a"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("proxy-connection", "close"),
            ("x-else", "1"),
        ] {
            headers.append(
                name.parse::<HeaderName>().unwrap(),
                HeaderValue::from_static(value),
            );
        }
        remove_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(
            left,
            ["content-length", "host", "mcp-protocol-version", "x-else"]
        );
    }

    #[test]
    fn a_flags_value_can_be_read_in_one_way_only() {
        for (variant, want) in [
            ("on", "f=on"),
            ("v1.2_x-y~", "f=v1.2_x-y~"),
            ("a,b=c;d e", "f=a%2Cb%3Dc%3Bd%20e"),
            ("100%", "f=100%25"),
            ("gr\u{f6}\u{df}er\r\n", "f=gr%C3%B6%C3%9Fer%0D%0A"),
            ("", "f="),
        ] {
            assert_eq!(flag_value("f", variant).unwrap(), want);
        }
    }

    #[test]
    fn a_header_sent_twice_has_no_value() {
        let mut headers = HeaderMap::new();
        headers.append(&SESSION_ID, HeaderValue::from_static("a"));
        assert_eq!(text(&headers, &SESSION_ID), Some("a"));
        headers.append(&SESSION_ID, HeaderValue::from_static("b"));
        assert_eq!(text(&headers, &SESSION_ID), None);
    }
}
