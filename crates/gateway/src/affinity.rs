//! Affinity: what keeps a caller without a session on one version. What a request has of that says [`serin_route::source`]; here is whose
//! address it comes from, and the cookies that callers are given.

use crate::{connection::Connection, headers};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header};
use ipnet::IpNet;
use serin_model::snapshot::ServiceRoute;
use serin_route::source::{self, Cookie, Known, Source, Sources, Who};
use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
};
use uuid::Uuid;

/// Random bytes of a cookie: nobody guesses that of another.
const COOKIE_RANDOM_BYTES: usize = 16;
/// Most hops of `X-Forwarded-For` that are looked at, from the right.
const HOPS_MAX: usize = 32;

/// What the limits of a caller go by who did not prove who they are. Not what a token claims, as for the affinity key: who forges one
/// would use up what is another's. And no cookie: who leaves it out would begin anew.
pub(crate) fn limit_key(sources: Sources<'_>, who: &Who<'_>) -> Vec<u8> {
    let mut list = sources.list.iter();
    let known = match sources.header {
        Some(name) => source::header_value(who.headers, name).map(Known::Header),
        None => list.find_map(|source| match source {
            Source::Header(_) => source.of(who),
            Source::Cookie(_) | Source::Tenant | Source::Principal | Source::Address => None,
        }),
    };
    known
        .or_else(|| source::credential(who.headers))
        .unwrap_or(Known::Address(who.address))
        .key()
}

/// What keeps a caller in one bucket of a flag: the text behind the affinity key, so that who asks for flags by other ways with the
/// same text gets the same answers. A session comes before the address, which many may share, unless that is what is configured; and it
/// is there in each of its requests, which a cookie that was given is not.
pub(crate) fn targeting_key(
    sources: Sources<'_>,
    who: &Who<'_>,
    session: Option<Uuid>,
    gifts: &Gifts,
) -> String {
    let given = |cookie: &Cookie| {
        session
            .is_none()
            .then(|| gifts.given(&cookie.name))
            .flatten()
    };
    let known = sources.first(who, given);
    match (known.unwrap_or_else(|| source::unless_said(who)), session) {
        (Known::Address(_), Some(session)) if !sources.list.contains(&Source::Address) => {
            session.to_string()
        }
        (known, _) => known.text(),
    }
}

/// The cookies that a caller is given with the answer.
#[derive(Default)]
pub(crate) struct Gifts(RefCell<Vec<Gift>>);

struct Gift {
    name: Box<str>,
    value: Box<str>,
    header: HeaderValue,
}

impl Gifts {
    /// Gives a caller a cookie, the same one however often it is asked for; its value. `below` is the path unless the cookie says one.
    /// Nothing where the system has no randomness or the cookie cannot be written: the caller is then known by something else.
    pub(crate) fn give(&self, cookie: &Cookie, below: &str) -> Option<String> {
        if let Some(value) = self.given(&cookie.name) {
            return Some(value);
        }
        let mut random = [0; COOKIE_RANDOM_BYTES];
        getrandom::fill(&mut random).ok()?;
        let value = BASE64_URL_SAFE_NO_PAD.encode(random);
        let header = HeaderValue::from_str(&cookie.set(&value, below)).ok()?;
        self.0.borrow_mut().push(Gift {
            name: cookie.name.as_str().into(),
            value: value.as_str().into(),
            header,
        });
        Some(value)
    }

    /// The value of a cookie that was given.
    pub(crate) fn given(&self, name: &str) -> Option<String> {
        let gifts = self.0.borrow();
        let gift = gifts.iter().find(|gift| *gift.name == *name)?;
        Some(gift.value.as_ref().into())
    }

    /// Adds them to the headers of a request of our own on behalf of the caller, who has them by then.
    pub(crate) fn bring(&self, headers: &mut HeaderMap) {
        for gift in self.0.borrow().iter() {
            let pair = format!("{}={}", gift.name, gift.value);
            if let Ok(pair) = HeaderValue::try_from(pair) {
                headers.append(header::COOKIE, pair);
            }
        }
    }

    /// Says them in an answer that a version gave: what was routed nowhere has nothing to come back to. Whoever keeps answers must not
    /// give one caller's to others.
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        let gifts = self.0.into_inner();
        if gifts.is_empty() || !headers.contains_key(&headers::VERSION) {
            return;
        }
        for gift in gifts {
            headers.append(header::SET_COOKIE, gift.header);
        }
        let is_kept_apart = |value: &HeaderValue| {
            let directives = value.as_bytes().split(|byte| *byte == b',');
            let mut directives = directives.map(<[u8]>::trim_ascii);
            directives.any(|directive| {
                directive.eq_ignore_ascii_case(b"private")
                    || directive.eq_ignore_ascii_case(b"no-store")
            })
        };
        if !(headers.get_all(header::CACHE_CONTROL).iter()).any(is_kept_apart) {
            let private = HeaderValue::from_static("private");
            headers.append(header::CACHE_CONTROL, private);
        }
    }
}

/// Whether a cookie is one of those by which the gateway knows the callers of a service again.
fn is_ours(service: &ServiceRoute, name: &str) -> bool {
    let is_named =
        |source: &Source| matches!(source, Source::Cookie(cookie) if cookie.name == name);
    service.settings.affinity.iter().any(is_named)
        || service.rules.iter().any(|rule| {
            rule.source().is_some_and(is_named) || rule.rule.affinity.iter().any(is_named)
        })
}

/// Takes the gateway's own cookies out of a request: its endpoint gets all others, as they were sent.
pub(crate) fn remove_cookies(service: &ServiceRoute, headers: &mut HeaderMap) {
    // Not as text: others may have letters that are not ASCII in theirs.
    let is_ours = |pair: &[u8]| {
        let name = pair.iter().position(|byte| *byte == b'=');
        let name = name.and_then(|end| std::str::from_utf8(pair.get(..end)?).ok());
        name.is_some_and(|name| is_ours(service, name.trim()))
    };
    let is_end = |byte: &u8| *byte == b';';
    let has_ours = |value: &HeaderValue| value.as_bytes().split(is_end).any(is_ours);
    if !(headers.get_all(header::COOKIE).iter()).any(has_ours) {
        return;
    }
    let sent: Vec<HeaderValue> = headers.get_all(header::COOKIE).iter().cloned().collect();
    headers.remove(header::COOKIE);
    for value in sent {
        if !has_ours(&value) {
            headers.append(header::COOKIE, value);
            continue;
        }
        let pairs = value.as_bytes().split(is_end);
        let others: Vec<&[u8]> = pairs.filter(|pair| !is_ours(pair)).collect();
        let others = others.join(&b';');
        if let Ok(others) = HeaderValue::from_bytes(others.trim_ascii())
            && !others.is_empty()
        {
            headers.append(header::COOKIE, others);
        }
    }
}

/// Takes cookies out of an answer by which a server would choose who keeps coming to it.
pub(crate) fn remove_set_cookies(service: &ServiceRoute, headers: &mut HeaderMap) {
    let sets_ours = |value: &HeaderValue| {
        let name = value.as_bytes().split(|byte| *byte == b'=').next();
        let name = name.map(<[u8]>::trim_ascii).unwrap_or_default();
        std::str::from_utf8(name).is_ok_and(|name| is_ours(service, name))
    };
    if !(headers.get_all(header::SET_COOKIE).iter()).any(sets_ours) {
        return;
    }
    let sent: Vec<HeaderValue> = headers
        .get_all(header::SET_COOKIE)
        .iter()
        .cloned()
        .collect();
    headers.remove(header::SET_COOKIE);
    for value in sent.into_iter().filter(|value| !sets_ours(value)) {
        headers.append(header::SET_COOKIE, value);
    }
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
        let Some(hop) = hop_address(hop.trim()) else {
            break;
        };
        address = hop.to_canonical();
        if !is_trusted(address, trusted) {
            break;
        }
    }
    address
}

/// The address that a proxy names. Some add its port, and need brackets about IPv6 then.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let bare = || hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']'));
    let parsed = hop.parse().ok();
    parsed
        .or_else(|| Some(hop.parse::<SocketAddr>().ok()?.ip()))
        .or_else(|| Some(IpAddr::V6(bare()?.parse().ok()?)))
}

/// Whether an address is that of a trusted proxy. A listener on `[::]` sees IPv4 peers as `::ffff:a.b.c.d`.
pub(crate) fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|net| net.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serin_model::service::Protocol;

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

    #[test]
    fn our_cookies_are_taken_out_and_all_others_pass_as_they_were_sent() {
        let mut service =
            ServiceRoute::new("web".parse().unwrap(), Protocol::Http, "/web", Vec::new());
        service.settings.affinity =
            serde_json::from_str(r#"[{"cookie": {"name": "at"}}]"#).unwrap();
        for (sent, want) in [
            (&b"a=b; at=v ;c=d"[..], Some(&b"a=b;c=d"[..])),
            (b"at=v", None),
            (b"name=Ren\xe9; at=v", Some(b"name=Ren\xe9")),
            (b"at=v; name=\xff;x", Some(b"name=\xff;x")),
            (b"\xe9=1; bat=v", Some(b"\xe9=1; bat=v")),
        ] {
            let value = HeaderValue::from_bytes(sent).unwrap();
            let mut headers = HeaderMap::from_iter([(header::COOKIE, value)]);
            remove_cookies(&service, &mut headers);
            let left = headers.get(header::COOKIE).map(HeaderValue::as_bytes);
            assert_eq!(left, want);
        }
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
            ("203.0.113.9:1234", true, "203.0.113.9"),
            ("203.0.113.9:1234, 10.0.0.7:80", true, "203.0.113.9"),
            ("2001:db8::9", true, "2001:db8::9"),
            ("[2001:db8::9]:1234", true, "2001:db8::9"),
            ("[2001:db8::9], [::ffff:10.0.0.7]:80", true, "2001:db8::9"),
            ("[203.0.113.9]:80", true, "10.0.0.1"),
            ("203.0.113.9:70000", true, "10.0.0.1"),
            ("unknown, 10.0.0.7", true, "10.0.0.7"),
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
}
