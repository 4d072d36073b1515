//! Who may ask for flags: holders of a token, pages of known origins, and whoever was given the address of the event stream.

use crate::{
    App,
    access::{Access, Token},
};
use axum::{
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use jiff::Timestamp;

/// Where the event stream is.
pub(crate) const STREAM_PATH: &str = "/ofrep/v1/events";
/// The header that carries the token where `Authorization` is taken.
const API_KEY: &str = "x-api-key";
/// How long an address of the stream opens it at least, in seconds: a page that is open for days can still come back.
const ADDRESS_SECONDS: i64 = 7 * 24 * 3600;
/// Addresses end at multiples of this, in seconds: it is part of what clients compare, so it changes seldom.
const ADDRESS_STEP_SECONDS: i64 = 24 * 3600;
/// For what the proof in an address is; it can be used for nothing else.
const PURPOSE: &str = "serin 2026-11 address of the event stream of flags";
/// What pages may send, and for how long a browser may remember that.
const CORS: [(header::HeaderName, &str); 4] = [
    (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
    (
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        "authorization, x-api-key, content-type, if-none-match, cache-control, last-event-id",
    ),
    (header::ACCESS_CONTROL_EXPOSE_HEADERS, "etag"),
    (header::ACCESS_CONTROL_MAX_AGE, "600"),
];

/// Lets a request through, or answers it with an empty body: clients look at the status alone.
pub(crate) async fn guard(app: &App, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    let Some(host) = app.access.host(headers, authority) else {
        return StatusCode::FORBIDDEN.into_response();
    };
    let page = match app.access.page(headers, host) {
        Page::None => None,
        Page::Known(origin) => Some(origin.clone()),
        Page::Unknown => return StatusCode::FORBIDDEN.into_response(),
    };
    let is_preflight = request.method() == Method::OPTIONS
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if page.is_some() && is_preflight {
        StatusCode::NO_CONTENT.into_response()
    } else if app.access.opens_flags(headers)
        || (request.uri().path() == STREAM_PATH
            && app
                .access
                .opens_stream(request.uri().query().unwrap_or_default(), Timestamp::now()))
    {
        next.run(request).await
    } else {
        let mut response = StatusCode::UNAUTHORIZED.into_response();
        response.headers_mut().insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"serin flags\""),
        );
        response
    };
    if let Some(origin) = page {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        for (name, value) in CORS {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    response
}

/// Which page asks.
enum Page<'a> {
    /// None, or one of our own.
    None,
    /// One that the configuration names.
    Known(&'a HeaderValue),
    /// Any other.
    Unknown,
}

impl Access {
    fn page<'a>(&self, headers: &'a HeaderMap, host: &str) -> Page<'a> {
        let Some(origin) = headers.get(header::ORIGIN) else {
            return Page::None;
        };
        match origin.to_str() {
            Ok(text) if text.strip_prefix("http://") == Some(host) => Page::None,
            Ok(text) if self.flag_origins.iter().any(|known| known == text) => Page::Known(origin),
            _ => Page::Unknown,
        }
    }

    /// Whether a request carries one of the tokens, or needs none.
    fn opens_flags(&self, headers: &HeaderMap) -> bool {
        let tokens = [self.token.as_ref(), self.flags_token.as_ref()];
        if self.token.is_none() {
            return true;
        }
        // Where there is a key, it counts: the other header may be for somebody on the way.
        let given = match headers.get(API_KEY) {
            Some(key) => Some(key.as_bytes()),
            None => crate::access::bearer(headers),
        };
        let Some(given) = given else {
            return false;
        };
        // Compared with each, so that the time does not tell which one it was.
        let tokens = tokens.into_iter().flatten();
        tokens.fold(false, |opens, token| opens | token.is(given))
    }

    /// The address of the event stream, path and query, for clients that cannot send headers. It is the same for a day.
    pub(super) fn stream_uri(&self, now: Timestamp) -> String {
        let Some(token) = &self.flags_token else {
            return STREAM_PATH.to_owned();
        };
        let steps = (now.as_second() + ADDRESS_SECONDS) / ADDRESS_STEP_SECONDS + 1;
        let until = steps * ADDRESS_STEP_SECONDS;
        format!(
            "{STREAM_PATH}?until={until}&proof={}",
            proof(token, until).to_hex()
        )
    }

    fn opens_stream(&self, query: &str, now: Timestamp) -> bool {
        let value = |name: &str| {
            query
                .split('&')
                .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        };
        let given = (|| {
            let until: i64 = value("until")?.parse().ok()?;
            let given = blake3::Hash::from_hex(value("proof")?).ok()?;
            Some((until, given))
        })();
        match (given, &self.flags_token) {
            // `blake3::Hash` compares in constant time.
            (Some((until, given)), Some(token)) => {
                given == proof(token, until) && now.as_second() < until
            }
            _ => false,
        }
    }
}

fn proof(token: &Token, until: i64) -> blake3::Hash {
    let key = blake3::derive_key(PURPOSE, token.as_str().as_bytes());
    blake3::keyed_hash(&key, &until.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        Access {
            token: Some(Token::random().unwrap()),
            hosts: vec![],
            flags_token: Some(Token::random().unwrap()),
            flag_origins: vec!["https://app.example.com".into()],
        }
    }

    #[test]
    fn an_address_opens_the_stream_for_its_time() {
        let access = access();
        let now: Timestamp = "2026-11-21T12:34:56Z".parse().unwrap();
        let uri = access.stream_uri(now);
        let query = uri.split_once('?').unwrap().1;
        let after = |seconds: i64| now + jiff::SignedDuration::from_secs(seconds);
        assert!(access.opens_stream(query, now));
        assert!(access.opens_stream(query, after(ADDRESS_SECONDS)));
        assert!(!access.opens_stream(query, after(ADDRESS_SECONDS + ADDRESS_STEP_SECONDS + 1)));
        assert_eq!(uri, access.stream_uri(after(3600)), "the same for a day");
        assert!(!self::access().opens_stream(query, now), "another token");
        let later = query.replacen("until=1", "until=2", 1);
        assert_ne!(later, query);
        for wrong in ["", "until=1", "until=x&proof=y", later.as_str()] {
            assert!(!access.opens_stream(wrong, now), "{wrong}");
        }
    }

    #[test]
    fn both_tokens_open_flags_in_both_headers() {
        let access = access();
        for token in [&access.token, &access.flags_token] {
            let token = token.as_ref().unwrap().as_str();
            for (name, value) in [
                ("authorization", format!("Bearer {token}")),
                ("x-api-key", token.to_owned()),
            ] {
                let mut headers = HeaderMap::new();
                headers.insert(name, value.parse().unwrap());
                assert!(access.opens_flags(&headers), "{name}");
                headers.insert(name, format!("{value}x").parse().unwrap());
                assert!(!access.opens_flags(&headers), "{name}");
            }
        }
        assert!(!access.opens_flags(&HeaderMap::new()));
        let token = access.token.as_ref().unwrap().as_str();
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "Bearer of-a-proxy".parse().unwrap());
        headers.insert("x-api-key", token.parse().unwrap());
        assert!(access.opens_flags(&headers), "the key counts");
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        headers.insert("x-api-key", "wrong".parse().unwrap());
        assert!(!access.opens_flags(&headers), "the key counts");
    }
}
