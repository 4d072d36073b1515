//! What of a request conditions may see, whoever asks on its behalf.

use http::{HeaderMap, HeaderName, header};
use std::borrow::Cow;

/// Whether a header is for proxies to say.
pub fn is_said_by_proxies(name: &HeaderName) -> bool {
    let text = name.as_str();
    text.starts_with("x-forwarded-") || name == header::FORWARDED || text == "x-real-ip"
}

/// The headers without those that the gateway itself says (`X-Serin-*`), and without those that only a trusted proxy may say, unless one
/// has sent them.
pub fn visible(headers: &HeaderMap, is_by_trusted_proxy: bool) -> Cow<'_, HeaderMap> {
    let is_hidden = |name: &&HeaderName| {
        name.as_str().starts_with("x-serin-") || (!is_by_trusted_proxy && is_said_by_proxies(name))
    };
    let mut seen = Cow::Borrowed(headers);
    for name in headers.keys().filter(is_hidden) {
        seen.to_mut().remove(name);
    }
    seen
}

/// A host without its port; an IPv6 address stays in its brackets.
pub fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    }
}

/// Whether a host, which may have a port, is one of those of a service or of a gateway: against DNS rebinding, that is asked before anything
/// is routed. A service's are names; a gateway's may have a port, and `*` is any.
pub fn is_host_known(host: &str, of_service: &[String], of_gateway: &[String]) -> bool {
    let name = without_port(host);
    let is_name = |known: &String| known.eq_ignore_ascii_case(name);
    let is_any =
        |known: &String| known == "*" || is_name(known) || known.eq_ignore_ascii_case(host);
    of_service.iter().any(is_name) || of_gateway.iter().any(is_any)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_host_is_read_without_its_port() {
        for (host, want) in [
            ("a.example", "a.example"),
            ("a.example:8080", "a.example"),
            ("[::1]", "[::1]"),
            ("[::1]:80", "[::1]"),
            ("a:", "a"),
            ("", ""),
        ] {
            assert_eq!(without_port(host), want);
        }
    }

    #[test]
    fn hosts_are_known_by_name_and_a_gateways_by_port_too() {
        let [service, gateway, any] =
            ["a.example", "b.example:81", "*"].map(|host| vec![host.to_owned()]);
        for (host, want) in [
            ("A.example", true),
            ("a.example:8080", true),
            ("b.example:81", true),
            ("b.example", false),
            ("b.example:82", false),
            ("c.example", false),
            ("x@a.example", false),
        ] {
            assert_eq!(is_host_known(host, &service, &gateway), want, "{host}");
            assert!(is_host_known(host, &[], &any), "{host}");
        }
    }

    #[test]
    fn what_others_say_is_not_seen() {
        let names = [
            "x-beta",
            "x-canary",
            "x-serin-version",
            "x-forwarded-for",
            "forwarded",
            "x-real-ip",
        ];
        let value = HeaderValue::from_static("a");
        let pairs = names.map(|name| (HeaderName::from_static(name), value.clone()));
        let headers = HeaderMap::from_iter(pairs);
        for (is_by_trusted_proxy, want) in [
            (false, &["x-beta", "x-canary"][..]),
            (
                true,
                &[
                    "x-beta",
                    "x-canary",
                    "x-forwarded-for",
                    "forwarded",
                    "x-real-ip",
                ],
            ),
        ] {
            let seen = visible(&headers, is_by_trusted_proxy);
            let seen = names.into_iter().filter(|name| seen.contains_key(*name));
            assert_eq!(seen.collect::<Vec<_>>(), want);
        }
        let plain = HeaderMap::from_iter([(header::ACCEPT, value)]);
        assert!(matches!(visible(&plain, false), Cow::Borrowed(_)));
    }
}
