//! Checks of what callers are known again by, and of the cookies that they are given.

use crate::{
    config::between,
    position::Path,
    read::{Report, short},
};
use serin_model::{
    auth::Auth,
    service::{ServiceSettings, ServiceSpec},
};
use serin_route::{
    source::{Cookie, SOURCES_MAX, SameSite, Source},
    weigh::Strategy,
};
use std::time::Duration;

/// Longest name of a cookie: it comes with every request.
const NAME_BYTES_MAX: usize = 64;
/// Longest path of a cookie.
const PATH_BYTES_MAX: usize = 255;
/// Shortest life of a cookie: `Max-Age` is in seconds.
const TTL_MIN: Duration = Duration::from_secs(1);
/// Longest life of a cookie: browsers keep none longer (RFC 6265bis, section 5.5).
const TTL_MAX: Duration = Duration::from_hours(400 * 24);

/// Checks what callers of a service are known again by.
pub(crate) fn check_affinity(settings: &ServiceSettings, at: &Path, report: &mut Report) {
    if let Some(header) = &settings.affinity_header {
        let at = at.key("affinity_header");
        check_header(header, &at, report);
        if !settings.affinity.is_empty() {
            report.error(
                &at,
                "`affinity_header` and `affinity` both say what callers are known again by",
                format!(
                    "keep one of them: `affinity: [ {{ header: {} }} ]` says what this does",
                    short(header)
                ),
            );
        }
    }
    check_sources(&settings.affinity, settings, &at.key("affinity"), report);
}

/// Checks a list of what callers are known again by, of a service with these settings.
pub(crate) fn check_sources(
    sources: &[Source],
    settings: &ServiceSettings,
    at: &Path,
    report: &mut Report,
) {
    if sources.len() > SOURCES_MAX {
        report.error(
            at,
            format!("{} sources of affinity are too many", sources.len()),
            format!("write at most {SOURCES_MAX}; the first that a request has decides"),
        );
    }
    let address = sources.iter().position(|source| *source == Source::Address);
    for (index, source) in sources.iter().enumerate() {
        let at = at.index(index);
        match source {
            Source::Header(name) => check_header(name, &at.key("header"), report),
            Source::Cookie(cookie) => check_cookie(cookie, &at.key("cookie"), report),
            Source::Tenant if !knows_tenants(settings) => report.error(
                &at,
                "this service does not know whose a request is",
                "write `auth: serin` or `tenant_header: X-Tenant` in its `settings`, or remove this source",
            ),
            Source::Tenant | Source::Principal | Source::Address => {}
        }
        if sources[..index].contains(source) {
            report.error(&at, "this source is here twice", "remove one of the two");
        } else if address.is_some_and(|address| address < index) {
            report.warning(
                &at,
                "this is never asked: every request has an address",
                "put `address` at the end of the list",
            );
        }
    }
}

/// Whether a request of a service can ever have a tenant.
fn knows_tenants(settings: &ServiceSettings) -> bool {
    settings.auth == Auth::Serin || settings.tenant_header.is_some()
}

/// Checks the name of a header.
pub(crate) fn check_header(name: &str, at: &Path, report: &mut Report) {
    if http::HeaderName::try_from(name).is_err() {
        report.error(
            at,
            format!("`{}` is not a header name", short(name)),
            "write letters, digits and `-`, such as `X-User-Id`",
        );
    }
}

/// Checks a cookie that callers are given.
pub(crate) fn check_cookie(cookie: &Cookie, at: &Path, report: &mut Report) {
    check_name(cookie, at, report);
    if let Some(ttl) = cookie.ttl {
        between(ttl, TTL_MIN, TTL_MAX, &at.key("ttl"), report);
    }
    if let Some(path) = &cookie.path
        && !is_path(path)
    {
        report.error(
            &at.key("path"),
            format!("`{}` is not a path of a cookie", short(path)),
            format!("write up to {PATH_BYTES_MAX} bytes that begin with `/` and have no `;`, such as `/`"),
        );
    }
    if cookie.same_site == SameSite::None && !cookie.secure {
        report.error(
            &at.key("same_site"),
            "browsers take `same_site: none` only together with `secure`",
            "write `secure: true`, or `same_site: lax`",
        );
    }
}

/// Warns of cookies that do not come back to the service.
pub(crate) fn check_cookie_paths(spec: &ServiceSpec, at: &Path, report: &mut Report) {
    let mut warn = |cookie: &Cookie, at: Path| {
        let path = cookie.path.as_deref().filter(|path| is_path(path));
        if let Some(path) = path.filter(|path| !path_matches(&spec.path, path)) {
            report.warning(
                &at.key("path"),
                format!(
                    "this cookie comes back only to requests below `{}`, and the service is at `{}`",
                    short(path),
                    short(&spec.path)
                ),
                "leave `path` out, or write one above that of the service, such as `/`",
            );
        }
    };
    let mut of_list = |sources: &[Source], at: &Path| {
        for (index, source) in sources.iter().enumerate() {
            if let Source::Cookie(cookie) = source {
                warn(cookie, at.index(index).key("cookie"));
            }
        }
    };
    let settings = at.key("settings");
    of_list(&spec.settings.affinity, &settings.key("affinity"));
    let rules = || spec.rules.iter().zip(0..);
    for (rule, index) in rules() {
        of_list(
            &rule.affinity,
            &at.key("rules").index(index).key("affinity"),
        );
    }
    for (rule, index) in rules() {
        if let Some(Strategy::Cookie(cookie)) = &rule.strategy {
            let at = at.key("rules").index(index);
            warn(cookie, at.key("strategy").key("cookie"));
        }
    }
}

/// RFC 6265, section 4.1.1.
fn is_path(path: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b';';
    path.starts_with('/') && path.len() <= PATH_BYTES_MAX && path.bytes().all(is_plain)
}

/// RFC 6265, section 5.1.4.
fn path_matches(path: &str, of_cookie: &str) -> bool {
    let below = path.strip_prefix(of_cookie);
    below.is_some_and(|rest| rest.is_empty() || of_cookie.ends_with('/') || rest.starts_with('/'))
}

/// RFC 6265, section 4.1.1, and section 4.1.3 of RFC 6265bis on the beginnings of names.
fn check_name(cookie: &Cookie, at: &Path, report: &mut Report) {
    let name = cookie.name.as_str();
    let at = &at.key("name");
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let begins = |with: &str| {
        name.get(..with.len())
            .is_some_and(|beginning| beginning.eq_ignore_ascii_case(with))
    };
    if name.is_empty() {
        report.error(at, "this cookie has no name", "write one: `name: serin`");
    } else if name.len() > NAME_BYTES_MAX || !name.bytes().all(is_token) {
        report.error(
            at,
            format!("`{}` is not the name of a cookie", short(name)),
            format!(
                "write up to {NAME_BYTES_MAX} letters, digits, `-`, `_` and `.`, such as `serin`"
            ),
        );
    } else if (begins("__Secure-") || begins("__Host-")) && !cookie.secure {
        report.error(
            at,
            format!(
                "browsers take `{}` only together with `secure`",
                short(name)
            ),
            "write `secure: true`, or another name",
        );
    } else if begins("__Host-") && cookie.path.as_deref() != Some("/") {
        report.error(
            at,
            format!("browsers take `{}` only for the path `/`", short(name)),
            "write `path: /`, or another name",
        );
    }
}
