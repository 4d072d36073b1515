//! Checks of tiers and limits: rules that limit nothing, or everything.

use crate::{
    gate::{check_methods, check_path, check_patterns},
    position::Path,
    read::Report,
};
use serin_model::{manifest::Manifest, service::Protocol};
use serin_tenancy::LimitRule;

/// Most limits of a tier or service: each that applies costs every request a look at a bucket.
const LIMITS_MAX: usize = 20;
/// Most tiers: who sells more of them has a price for each customer, and can give keys tiers of their own.
const TIERS_MAX: usize = 1000;
/// Largest burst: beyond it nothing is limited.
const BURST_MAX: u32 = 10_000_000;

/// Checks the tiers, and the limits of services.
pub(crate) fn check_tenancy(manifest: &Manifest, report: &mut Report) {
    let at = Path::default().key("tiers");
    if manifest.tiers.len() > TIERS_MAX {
        report.error(
            &at,
            format!("{} tiers are too many", manifest.tiers.len()),
            format!("write at most {TIERS_MAX}"),
        );
    }
    for (name, tier) in &manifest.tiers {
        let at = at.key(name).key("limits");
        if tier.limits.is_empty() {
            report.warning(
                &at,
                format!("tier `{name}` limits nothing"),
                "add for example `{ rate: 100/hour }`, if it is to",
            );
        }
        check_limits(&tier.limits, None, &at, report);
    }
    let services = Path::default().key("services");
    for (name, service) in &manifest.services {
        let at = services.key(name).key("settings").key("limits");
        let limits = &service.settings.limits;
        check_limits(limits, Some(service.protocol), &at, report);
        warn_of_paths(limits, &service.path, &at, report);
    }
}

/// The path of a limit begins behind that of its service. One that begins with it again most likely limits nothing.
fn warn_of_paths(limits: &[LimitRule], service: &str, at: &Path, report: &mut Report) {
    let service = service.trim_end_matches('/');
    for (index, limit) in limits.iter().enumerate() {
        let behind = limit.path.as_deref().and_then(|path| {
            let behind = path.strip_prefix(service)?;
            (!service.is_empty() && (behind.is_empty() || behind.starts_with('/')))
                .then_some(behind)
        });
        if let (Some(behind), Some(path)) = (behind, &limit.path) {
            let behind = if behind.is_empty() { "/" } else { behind };
            report.warning(
                &at.index(index).key("path"),
                format!("this limits `{service}{path}`: the path of a limit begins behind that of the service"),
                format!("write `{behind}`, unless that is meant"),
            );
        }
    }
}

fn check_limits(limits: &[LimitRule], protocol: Option<Protocol>, at: &Path, report: &mut Report) {
    if limits.len() > LIMITS_MAX {
        report.error(
            at,
            format!("{} limits are too many", limits.len()),
            format!("write at most {LIMITS_MAX}; one limit may name many tools"),
        );
    }
    for (index, limit) in limits.iter().enumerate() {
        let at = at.index(index);
        let same = limits
            .iter()
            .take(index)
            .position(|before| is_same(before, limit));
        if let Some(before) = same {
            let help = if limits[before] == *limit {
                "remove one of the two"
            } else {
                "keep the one that is meant, or give it another time, such as `10/s` beside `1000/hour`"
            };
            report.error(&at, "this limit is here twice", help);
        }
        check_limit(limit, protocol, &at, report);
    }
}

/// Whether two limits count the same requests, over the same time.
fn is_same(one: &LimitRule, other: &LimitRule) -> bool {
    let counted = |limit: &LimitRule| {
        let sorted = |texts: &[String]| {
            let mut texts = texts.to_vec();
            texts.sort();
            texts
        };
        (
            limit.per,
            limit.rate.period,
            sorted(&limit.tools),
            limit.path.clone(),
            sorted(&limit.methods),
        )
    };
    counted(one) == counted(other)
}

fn check_limit(limit: &LimitRule, protocol: Option<Protocol>, at: &Path, report: &mut Report) {
    match limit.burst {
        Some(0) => report.error(
            &at.key("burst"),
            "with a burst of 0 every request is refused",
            "write at least 1; to close something, use `serin kill` or a gate",
        ),
        Some(burst) if burst > BURST_MAX => report.error(
            &at.key("burst"),
            format!("a burst of {burst} limits nothing"),
            format!("write at most {BURST_MAX}"),
        ),
        _ => {}
    }
    if !limit.tools.is_empty() {
        check_patterns(&limit.tools, &at.key("tools"), report);
    }
    if let Some(path) = &limit.path {
        check_path(path, &at.key("path"), report);
    }
    check_methods(&limit.methods, &at.key("methods"), report);
    let (of_tools, of_routes) = (
        !limit.tools.is_empty(),
        limit.path.is_some() || !limit.methods.is_empty(),
    );
    if of_tools && of_routes {
        report.error(
            at,
            "a limit counts calls of tools or requests of a path, not both",
            "write two limits",
        );
    } else if of_tools && protocol == Some(Protocol::Http) {
        report.error(
            &at.key("tools"),
            "a service of plain HTTP has no tools",
            "write a limit with a `path`, or `protocol: mcp`",
        );
    } else if of_routes && protocol == Some(Protocol::Mcp) {
        let field = if limit.path.is_some() {
            "path"
        } else {
            "methods"
        };
        report.error(
            &at.key(field),
            "an MCP service has one path for everything",
            "write a limit with `tools`, or without both",
        );
    }
}
