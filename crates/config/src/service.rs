//! Checks of services and plans that go beyond the shape of their data.

use crate::{
    config::between,
    gate::check_gates,
    name::closest,
    position::Path,
    read::{Report, short},
};
use serin_model::{
    manifest::Manifest,
    name::{NAME_BYTES_MAX, ServiceName, VersionName},
    plan::Plan,
    service::{HealthCheck, ServiceSettings, ServiceSpec},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    time::Duration,
};
use url::Url;

/// Least `body_bytes_max`: an `initialize` with its capabilities must fit.
pub const BODY_BYTES_LEAST: usize = 1024;
/// Most `body_bytes_max`: a body is held in memory while it is read, one for every call in flight.
pub const BODY_BYTES_MOST: usize = 64 * 1024 * 1024;
/// Shortest of the time limits: a timer rounds below this.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// Longest of the time limits; a session or a tool that takes longer than a month is a mistake in the unit.
const TIMEOUT_MAX: Duration = Duration::from_hours(31 * 24);
/// Shortest time between probes: more would be a load of its own.
const PROBE_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Longest path of a service.
const PATH_BYTES_MAX: usize = 255;
/// Longest host name (RFC 1035, section 2.3.4).
const HOST_BYTES_MAX: usize = 253;
/// The statuses that HTTP has (RFC 9110, section 15).
const STATUSES: RangeInclusive<u16> = 100..=599;
/// Paths at which the gateway itself answers.
const PATHS_RESERVED: [&str; 3] = ["/health", "/ready", "/api/health"];

/// Checks every service and plan of a manifest, and the services against each other.
pub(crate) fn check_manifest(manifest: &Manifest, report: &mut Report) {
    let services = Path::default().key("services");
    let mut places = BTreeMap::new();
    for (name, spec) in &manifest.services {
        let at = services.key(name);
        check_service(spec, &at, report);
        let any = [String::new()];
        let hosts = if spec.hosts.is_empty() {
            any.as_slice()
        } else {
            &spec.hosts
        };
        for host in hosts {
            let place = (spec.path.as_str(), host.to_ascii_lowercase());
            if let Some(other) = places.insert(place, name).filter(|other| *other != name) {
                report.error(
                    &at.key("path"),
                    format!("service `{other}` is reached at the same path and host"),
                    "give one of the two another `path`, or `hosts` of its own",
                );
            }
        }
    }
    let plans = Path::default().key("plans");
    for (name, plan) in &manifest.plans {
        check_plan(name, plan, &plans.key(name), report);
    }
    crate::switch::check_switches(manifest, report);
    crate::tenancy::check_tenancy(manifest, report);
    crate::api::check_api(manifest, jiff::Timestamp::now(), report);
}

fn check_plan(name: &str, plan: &Plan, at: &Path, report: &mut Report) {
    if name.parse::<ServiceName>().is_err() {
        report.error(
            at,
            format!("`{}` is not a plan name", short(name)),
            format!(
                "use 1 to {NAME_BYTES_MAX} letters, digits, `.`, `_`, `-` or `+`, and begin with a letter or digit"
            ),
        );
    }
    check_phases(plan, at, report);
}

/// Checks a plan, whatever it is called.
pub(crate) fn check_phases(plan: &Plan, at: &Path, report: &mut Report) {
    for problem in plan.problems() {
        let at = at.below(&problem.at);
        if problem.fatal {
            report.error(&at, problem.what, problem.help);
        } else {
            report.warning(&at, problem.what, problem.help);
        }
    }
}

fn check_service(spec: &ServiceSpec, at: &Path, report: &mut Report) {
    check_path(&spec.path, &at.key("path"), report);
    for (index, host) in spec.hosts.iter().enumerate() {
        check_host(host, &at.key("hosts").index(index), report);
    }
    check_stable(spec, at, report);
    let mut seen = BTreeMap::new();
    for (name, version) in &spec.versions {
        let at = at.key("versions").key(name);
        if let Some(url) = &version.metrics {
            check_metrics(url, &at.key("metrics"), report);
        }
        let at = at.key("endpoints");
        if version.endpoints.is_empty() {
            report.error(
                &at,
                format!("version `{name}` has no endpoint"),
                "write where it runs: `endpoints: [http://127.0.0.1:9001/mcp]`",
            );
        }
        for (index, endpoint) in version.endpoints.iter().enumerate() {
            let (at, url) = (at.index(index), endpoint.url.as_str());
            check_endpoint(url, &at, report);
            if let Some(other) = seen.insert(url, name) {
                let message = if other == name {
                    "this endpoint is here twice".to_owned()
                } else {
                    format!(
                        "version `{other}` runs at the same endpoint, so the two cannot be told apart"
                    )
                };
                report.warning(&at, message, "give each its own URL");
            }
        }
    }
    check_settings(&spec.settings, &at.key("settings"), report);
    crate::auth::check_auth(&spec.settings, &at.key("settings"), report);
    crate::tls::check_upstream(spec, &at.key("settings"), report);
    check_gates(spec, &at.key("settings"), report);
    crate::endpoints::check_endpoints(spec, at, report);
    crate::rules::check_rules(spec, at, report);
    crate::affinity::check_cookie_paths(spec, at, report);
}

fn check_stable(spec: &ServiceSpec, at: &Path, report: &mut Report) {
    if spec.versions.contains_key(&spec.stable) {
        return;
    }
    let known: Vec<_> = spec.versions.keys().map(VersionName::as_str).collect();
    let help = match (
        closest(spec.stable.as_str(), known.iter().copied()),
        known.first(),
    ) {
        (Some(name), _) => format!(
            "did you mean `stable: {name}`? Or add `{}` to `versions`",
            spec.stable
        ),
        (None, Some(name)) => format!(
            "write `stable: {name}`, or add `{}` to `versions`",
            spec.stable
        ),
        (None, None) => format!(
            "add it: `versions: {{ {}: {{ endpoints: [http://127.0.0.1:9001/mcp] }} }}`",
            spec.stable
        ),
    };
    report.error(
        &at.key("stable"),
        format!("there is no version `{}`", spec.stable),
        help,
    );
}

fn check_path(path: &str, at: &Path, report: &mut Report) {
    let shown = short(path);
    let plain = |b: u8| b.is_ascii_graphic() && !b"?#%\\\"<>^`{|}".contains(&b);
    let reserved = |taken: &&&str| {
        path.strip_prefix(**taken)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if path.is_empty() || path.len() > PATH_BYTES_MAX || !path.bytes().all(plain) {
        report.error(
            at,
            format!("`{shown}` is not a path"),
            format!("write up to {PATH_BYTES_MAX} letters, digits and `/-._~`, such as `/mcp`"),
        );
    } else if !path.starts_with('/') {
        report.error(
            at,
            format!("the path `{shown}` does not begin with `/`"),
            format!("write `/{shown}`"),
        );
    } else if path != "/"
        && path
            .split('/')
            .skip(1)
            .any(|part| matches!(part, "" | "." | ".."))
    {
        report.error(
            at,
            format!("the path `{shown}` has an empty or dotted part"),
            "write it without `//`, `.`, `..` and a `/` at its end, such as `/mcp`",
        );
    } else if let Some(taken) = PATHS_RESERVED.iter().find(reserved) {
        report.error(
            at,
            format!("the gateway itself answers at `{taken}`"),
            "choose another path, such as `/mcp`",
        );
    }
}

/// Refuses what is not a host name or address without a port.
pub(crate) fn check_host(host: &str, at: &Path, report: &mut Report) {
    let name = |host: &str| {
        host.len() <= HOST_BYTES_MAX
            && host.split('.').all(|part| {
                !part.is_empty()
                    && part
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            })
    };
    let address = |host: &str| {
        let inner = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
    };
    if !name(host) && !address(host) {
        report.error(
            at,
            format!("`{}` is not a host", short(host)),
            "write a name or address without scheme and port, such as `mcp.example.com`",
        );
    }
}

fn check_endpoint(text: &str, at: &Path, report: &mut Report) {
    let example = "write for example `http://127.0.0.1:9001/mcp`";
    let Some(url) = check_url(text, example, at, report) else {
        return;
    };
    if url.query().is_some() || url.fragment().is_some() {
        report.error(
            at,
            "an endpoint has a query or a fragment",
            "remove everything from the `?` or `#` on: the query of each call is sent instead",
        );
    }
}

fn check_metrics(text: &str, at: &Path, report: &mut Report) {
    let example = "write for example `http://127.0.0.1:9001/metrics`";
    let Some(url) = check_url(text, example, at, report) else {
        return;
    };
    if url.fragment().is_some() {
        report.error(
            at,
            "a fragment is never sent",
            "remove everything from the `#` on",
        );
    }
}

/// A URL that Serin itself may call; nothing when what is wrong with it has been said.
fn check_url(text: &str, example: &str, at: &Path, report: &mut Report) -> Option<Url> {
    let shown = short(text);
    let url = match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => url,
        Ok(_) | Err(_) if !text.contains("://") => {
            report.error(
                at,
                format!("`{shown}` is not a URL"),
                format!("write `http://{shown}`"),
            );
            return None;
        }
        Ok(url) => {
            report.error(
                at,
                format!("endpoints speak http, not `{}`", short(url.scheme())),
                example,
            );
            return None;
        }
        Err(error) => {
            report.error(at, format!("`{shown}` is not a URL: {error}"), example);
            return None;
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        report.error(
            at,
            "credentials in a URL end up in logs",
            "remove what stands before the `@`",
        );
    } else if url.port() == Some(0) {
        report.error(at, "nothing listens at port 0", example);
    } else {
        return Some(url);
    }
    None
}

/// Whether a path leads to nothing but a path of the host: `//other` is another host, and so are its like.
fn stays_at_host(path: &str) -> bool {
    let host = "http://endpoint/";
    let joined = Url::parse(host).and_then(|url| url.join(path));
    path.starts_with('/') && joined.is_ok_and(|url| url.as_str().starts_with(host))
}

fn check_settings(settings: &ServiceSettings, at: &Path, report: &mut Report) {
    for (name, time) in [
        ("connect_timeout", settings.connect_timeout),
        ("response_timeout", settings.response_timeout),
        ("idle_timeout", settings.idle_timeout),
        ("session_ttl", settings.session_ttl),
    ] {
        between(time, TIMEOUT_MIN, TIMEOUT_MAX, &at.key(name), report);
    }
    between(
        settings.body_bytes_max,
        BODY_BYTES_LEAST,
        BODY_BYTES_MOST,
        &at.key("body_bytes_max"),
        report,
    );
    crate::affinity::check_affinity(settings, at, report);
    let (health, at) = (&settings.health, at.key("health"));
    if let Some(path) = &health.path
        && (path.parse::<http::uri::PathAndQuery>().is_err() || !stays_at_host(path))
    {
        report.error(
            &at.key("path"),
            format!("`{}` is not a path", short(path)),
            "write a path on the endpoint's host, such as `/health`",
        );
    }
    check_expected(health, &at, report);
    between(
        health.interval,
        PROBE_INTERVAL_MIN,
        TIMEOUT_MAX,
        &at.key("interval"),
        report,
    );
    between(
        health.timeout,
        TIMEOUT_MIN,
        TIMEOUT_MAX,
        &at.key("timeout"),
        report,
    );
    for (name, count) in [
        ("healthy_after", health.healthy_after),
        ("unhealthy_after", health.unhealthy_after),
    ] {
        if count == 0 {
            report.error(&at.key(name), "0 probes decide nothing", "write at least 1");
        }
    }
}

/// The statuses at which a health path is fine.
fn check_expected(health: &HealthCheck, at: &Path, report: &mut Report) {
    let at = at.key("expected");
    if !health.expected.is_empty() && health.path.is_none() {
        report.error(
            &at,
            "statuses are expected of a path, and there is none",
            "add `path: /health`, or leave `expected` away",
        );
    }
    let mut seen = BTreeSet::new();
    for (index, status) in health.expected.iter().enumerate() {
        let at = at.index(index);
        if !STATUSES.contains(status) {
            report.error(
                &at,
                format!("{status} is not an HTTP status"),
                "write a number from 100 to 599, such as `expected: [200, 204]`",
            );
        } else if !seen.insert(status) {
            report.error(
                &at,
                format!("{status} is here twice"),
                "remove one of the two",
            );
        }
    }
}
