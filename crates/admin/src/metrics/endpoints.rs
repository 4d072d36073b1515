//! How endpoints do, and what was done that requests reach one that serves them.

use super::Page;
use prometheus_client::metrics::MetricType;
use serin_control::{Control, totals::Totals};
use serin_model::{
    observe::Detour,
    route::seats,
    snapshot::{EndpointRoute, ServiceRoute, VersionRoute},
};
use serin_route::standing::{Marks, Seat};
use std::fmt;

/// Most endpoints that have series of their own: each has eight. Those beyond it, in the order of services, versions and manifests, have
/// none; `serin status` shows them.
const ENDPOINTS_MAX: usize = 1000;

/// The name and the help of a gauge, and its value for an endpoint.
type Gauge<'a> = (
    &'static str,
    &'static str,
    &'a dyn Fn(&ServiceRoute, &Seat) -> f64,
);

/// Of each endpoint in the routing table: how it does now, and what has happened to it.
pub(super) fn of_each(page: &mut Page<'_>, control: &Control) -> fmt::Result {
    let (now, live) = (control.flags(), control.live());
    let live = &*live;
    let mut all: Vec<(&ServiceRoute, &VersionRoute, &EndpointRoute, Seat)> = Vec::new();
    for service in &now.snapshot.services {
        for version in own_versions(service) {
            let each = version.endpoints.iter().zip(seats(version, live));
            all.extend(each.map(|(endpoint, seat)| (&**service, version, endpoint, seat)));
        }
    }
    all.sort_by(|a, b| (&a.0.name, &a.1.name).cmp(&(&b.0.name, &b.1.name)));
    all.truncate(ENDPOINTS_MAX);
    let yes = |is: bool| f64::from(u8::from(is));
    let gauges: [Gauge<'_>; 6] = [
        (
            "serin_endpoint_healthy",
            "1 when the probes of the endpoint say that it is well",
            &|_, seat| yes(seat.is_healthy),
        ),
        (
            "serin_endpoint_in_flight",
            "Requests under way at the endpoint, open streams left out",
            &|_, seat| f64::from(seat.standing.in_flight),
        ),
        (
            "serin_endpoint_breaker_open",
            "1 while the breaker of the endpoint takes nothing",
            &|_, seat| yes(seat.standing.is_open),
        ),
        (
            "serin_endpoint_ejected",
            "1 while the endpoint is left alone because it fails too often",
            &|_, seat| yes(seat.standing.is_ejected),
        ),
        (
            "serin_endpoint_draining",
            "1 while the endpoint takes no new callers",
            &|_, seat| yes(seat.is_draining),
        ),
        (
            "serin_endpoint_weight",
            "How much the endpoint takes beside the version's others: less while it is back for a short time",
            &|service, seat| seat.weight_now(live.now_ms(), service.settings.slow_start),
        ),
    ];
    for (name, help, value) in gauges {
        page.family(name, help, MetricType::Gauge, |family| {
            for (service, version, endpoint, seat) in &all {
                family.gauge(&labels(service, version, endpoint), value(service, seat))?;
            }
            Ok(())
        })?;
    }
    for (name, help, count) in [
        (
            "serin_endpoint_breaker_openings",
            "Times that the breaker of the endpoint opened",
            (|marks| marks.openings) as fn(Marks) -> u64,
        ),
        (
            "serin_endpoint_ejections",
            "Times that the endpoint was ejected",
            |marks| marks.ejections,
        ),
    ] {
        page.family(name, help, MetricType::Counter, |family| {
            for (service, version, endpoint, _) in &all {
                let n = count(live.marks(endpoint.id));
                family.counter(&labels(service, version, endpoint), n)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn labels<'a>(
    service: &'a ServiceRoute,
    version: &'a VersionRoute,
    endpoint: &'a EndpointRoute,
) -> [(&'static str, &'a str); 3] {
    [
        ("service", service.name.as_str()),
        ("version", version.name.as_str()),
        ("endpoint", endpoint.url.as_str()),
    ]
}

/// The versions of a service but for the side of a flag under release, which has the endpoints of stable.
fn own_versions(service: &ServiceRoute) -> impl Iterator<Item = &VersionRoute> {
    let side = service.split.as_ref().filter(|split| split.flag.is_some());
    let side = side.map(|split| split.candidate);
    let versions = service.versions.iter().enumerate();
    versions.filter_map(move |(at, version)| (side != Some(at)).then_some(version))
}

/// Since the process began.
pub(super) fn counters(page: &mut Page<'_>, totals: &Totals) -> fmt::Result {
    for detour in Detour::ALL {
        let (name, help) = match detour {
            Detour::Retry => (
                "serin_retries",
                "Further attempts at requests that no endpoint had taken",
            ),
            Detour::Fallback => (
                "serin_fallbacks",
                "Requests that went to a version's fallback, because none of its endpoints could take them",
            ),
        };
        page.family(name, help, MetricType::Counter, |family| {
            for ((service, of), n) in &totals.detours {
                if *of == detour {
                    family.counter(&[("service", service.as_str())], *n)?;
                }
            }
            Ok(())
        })?;
    }
    page.family(
        "serin_rule_matches",
        "Requests that a rule was for",
        MetricType::Counter,
        |family| {
            for ((service, rule), n) in &totals.rules {
                family.counter(&[("service", service.as_str()), ("rule", rule)], *n)?;
            }
            Ok(())
        },
    )
}
