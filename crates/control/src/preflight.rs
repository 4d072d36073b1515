//! What is checked before a rollout begins: is the candidate there, does it speak what stable speaks, and what changes for those
//! who call its tools.

use crate::{ask, asker::Asker, probe, resources};
use reqwest::Client;
use serde_json::json;
use serin_judge::{Limit, Metric};
use serin_mcp::contract;
use serin_model::{
    event::{Preflight, PreflightCheck, PreflightResult},
    name::VersionName,
    plan::Plan,
    service::{Protocol, Service, Version},
};

/// Changes of the tool contract that are named one by one.
const CHANGES_NAMED: usize = 3;

/// Checks a candidate against stable.
pub(crate) async fn check(
    client: &Client,
    service: &Service,
    candidate_name: &VersionName,
    plan: &Plan,
) -> Preflight {
    let mut preflight = Preflight::default();
    let (Some(stable), Some(candidate)) = (
        service.versions.get(&service.stable),
        service.versions.get(candidate_name),
    ) else {
        return preflight;
    };
    let asker = &Asker::new(client.clone(), &service.settings.upstream);
    preflight
        .checks
        .push(health(asker, service, candidate).await);
    if service.protocol == Protocol::Mcp
        && preflight
            .checks
            .iter()
            .all(|c| c.result == PreflightResult::Passed)
    {
        preflight.checks.push(eras(asker, stable, candidate).await);
        let (check, differs) = tools(asker, stable, candidate).await;
        preflight.checks.push(check);
        preflight.contract_differs = differs;
    }
    let versions = [(&service.stable, stable), (candidate_name, candidate)];
    let check = metrics(client, &resource_limits(plan), versions).await;
    preflight.checks.extend(check);
    preflight
}

/// The limits of a plan on what a version takes of its machine.
fn resource_limits(plan: &Plan) -> Vec<(Metric, Limit)> {
    let phases = 0..plan.phases.len();
    let limits = phases.flat_map(|phase| {
        let thresholds = plan.thresholds(phase).into_iter();
        let criteria = plan.criteria(phase).into_iter();
        thresholds
            .flat_map(|rule| [rule.warning, rule.critical].map(|limit| Some((rule.metric, limit?))))
            .flatten()
            .chain(criteria.map(|rule| (rule.metric, rule.limit)))
    });
    limits.filter(|(metric, _)| metric.is_resource()).collect()
}

/// Whether the pages can be read that such limits need; nothing when there are none. A limit that looks at nothing guards nothing, and nobody would see it.
async fn metrics(
    client: &Client,
    limits: &[(Metric, Limit)],
    [(stable_name, stable), (candidate_name, candidate)]: [(&VersionName, &Version); 2],
) -> Option<PreflightCheck> {
    let compares = |(_, limit): &(Metric, Limit)| matches!(limit, Limit::AgainstStable { .. });
    let mut needed = vec![(candidate_name, candidate, limits.first()?.0)];
    if let Some((metric, _)) = limits.iter().find(|limit| compares(limit)) {
        needed.push((stable_name, stable, *metric));
    }
    for (name, version, metric) in needed {
        let why = match &version.metrics {
            None => format!(
                "the plan limits {metric}, but {name} does not say where its metrics are: add `metrics: URL` beside its `endpoints`"
            ),
            Some(url) => match resources::once(client, url).await {
                Ok(_) => continue,
                Err(why) => format!("the plan limits {metric}, but {why}"),
            },
        };
        return Some(found("metrics", PreflightResult::Risky, why));
    }
    Some(found(
        "metrics",
        PreflightResult::Passed,
        "they can be read",
    ))
}

fn found(name: &str, result: PreflightResult, detail: impl Into<String>) -> PreflightCheck {
    PreflightCheck {
        name: name.to_owned(),
        result,
        detail: detail.into(),
    }
}

async fn health(client: &Asker, service: &Service, candidate: &Version) -> PreflightCheck {
    for endpoint in candidate.reachable() {
        if let Err(why) = probe::once(client, service, &endpoint.url).await {
            return found("health", PreflightResult::Failed, why);
        }
    }
    found(
        "health",
        PreflightResult::Passed,
        format!("{} endpoints answer", candidate.reachable().count()),
    )
}

/// Every endpoint behind one URL must speak the same eras: clients remember what they found there.
async fn eras(client: &Asker, stable: &Version, candidate: &Version) -> PreflightCheck {
    let mut first = None;
    for endpoint in stable.reachable().chain(candidate.reachable()) {
        let eras = match ask::eras(client, &endpoint.url).await {
            Ok(eras) => eras,
            Err(error) => return found("eras", PreflightResult::Failed, error.to_string()),
        };
        if !eras.legacy && !eras.modern {
            return found(
                "eras",
                PreflightResult::Failed,
                format!("{} speaks no MCP that Serin knows", endpoint.url),
            );
        }
        let (url, expected) = first.get_or_insert((endpoint.url.clone(), eras));
        if *expected != eras {
            let detail = format!(
                "{} speaks {eras}, but {url} speaks {expected}",
                endpoint.url
            );
            return found("eras", PreflightResult::Failed, detail);
        }
    }
    found(
        "eras",
        PreflightResult::Passed,
        first.map_or_else(String::new, |(_, eras)| eras.to_string()),
    )
}

async fn tools(client: &Asker, stable: &Version, candidate: &Version) -> (PreflightCheck, bool) {
    let mut lists = Vec::new();
    for version in [stable, candidate] {
        let Some(endpoint) = version.reachable().next() else {
            continue;
        };
        match ask::tools(client, &endpoint.url).await {
            Ok(tools) => lists.push(json!({ "tools": tools })),
            Err(error) => {
                return (
                    found("contract", PreflightResult::Failed, error.to_string()),
                    false,
                );
            }
        }
    }
    let [before, after] = lists.as_slice() else {
        return (
            found(
                "contract",
                PreflightResult::Failed,
                "a version has no endpoint",
            ),
            false,
        );
    };
    match contract::compare(before, after) {
        Ok(difference) => {
            let result = match difference.severity {
                Some(contract::Severity::Breaking) => PreflightResult::Breaking,
                Some(contract::Severity::Risky) => PreflightResult::Risky,
                _ => PreflightResult::Passed,
            };
            let worst = difference
                .changes
                .iter()
                .filter(|c| c.severity > contract::Severity::Fine);
            let worst: Vec<_> = worst
                .take(CHANGES_NAMED)
                .map(|c| format!("{} {}: {}", c.tool, c.pointer, c.what))
                .collect();
            let detail = match worst.as_slice() {
                [] => difference.to_string(),
                worst => format!("{difference}: {}", worst.join("; ")),
            };
            (found("contract", result, detail), !difference.is_empty())
        }
        Err(error) => (
            found("contract", PreflightResult::Failed, error.to_string()),
            false,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_limit_that_looks_at_nothing_is_told() {
        let version = |metrics: Option<&str>| Version {
            endpoints: vec![],
            balance: serin_route::weigh::Balance::default(),
            in_flight_max: None,
            fallback: vec![],
            metrics: metrics.map(str::to_owned),
            stage: serin_model::service::VersionStage::Serving,
            withdrawn_at: None,
            drain: None,
        };
        let (v1, v2) = ("v1".parse().unwrap(), "v2".parse().unwrap());
        for (rules, candidate, expected) in [
            (r#""error_rate": {"critical": "1 %"}"#, None, None),
            (
                r#""cpu": {"critical": "90 %"}"#,
                None,
                Some("limits cpu, but v2 does not say"),
            ),
            (
                r#""cpu": {"critical": "90 %"}"#,
                Some("http://127.0.0.1:1/"),
                Some("does not answer"),
            ),
        ] {
            let plan = format!(
                r#"{{"phases": [{{"share": "100 %"}}], "evidence": "trials 1", "thresholds": {{{rules}}}}}"#
            );
            let limits = resource_limits(&serde_json::from_str(&plan).unwrap());
            let versions = [(&v1, &version(None)), (&v2, &version(candidate))];
            let check = metrics(&ask::client(), &limits, versions).await;
            assert_eq!(check.is_some(), expected.is_some(), "{rules}");
            if let (Some(check), Some(expected)) = (check, expected) {
                assert_eq!(check.result, PreflightResult::Risky);
                assert!(check.detail.contains(expected), "{}", check.detail);
            }
        }
    }
}
