//! What is checked before a rollout begins: is the candidate there, does it speak what stable speaks, and what changes for those
//! who call its tools.

use crate::{ask, probe};
use reqwest::Client;
use serde_json::json;
use serin_mcp::contract;
use serin_model::{
    event::{Preflight, PreflightCheck, PreflightResult},
    name::VersionName,
    service::{Protocol, Service, Version},
};

/// Changes of the tool contract that are named one by one.
const CHANGES_NAMED: usize = 3;

/// Checks a candidate against stable.
pub(crate) async fn check(
    client: &Client,
    service: &Service,
    candidate: &VersionName,
) -> Preflight {
    let mut preflight = Preflight::default();
    let (Some(stable), Some(candidate)) = (
        service.versions.get(&service.stable),
        service.versions.get(candidate),
    ) else {
        return preflight;
    };
    preflight
        .checks
        .push(health(client, service, candidate).await);
    if service.protocol == Protocol::Mcp
        && preflight
            .checks
            .iter()
            .all(|c| c.result == PreflightResult::Passed)
    {
        preflight.checks.push(eras(client, stable, candidate).await);
        let (check, differs) = tools(client, stable, candidate).await;
        preflight.checks.push(check);
        preflight.contract_differs = differs;
    }
    preflight
}

fn found(name: &str, result: PreflightResult, detail: impl Into<String>) -> PreflightCheck {
    PreflightCheck {
        name: name.to_owned(),
        result,
        detail: detail.into(),
    }
}

async fn health(client: &Client, service: &Service, candidate: &Version) -> PreflightCheck {
    for endpoint in &candidate.endpoints {
        if let Err(why) = probe::once(client, service, &endpoint.url).await {
            return found("health", PreflightResult::Failed, why);
        }
    }
    found(
        "health",
        PreflightResult::Passed,
        format!("{} endpoints answer", candidate.endpoints.len()),
    )
}

/// Every endpoint behind one URL must speak the same eras: clients remember what they found there.
async fn eras(client: &Client, stable: &Version, candidate: &Version) -> PreflightCheck {
    let mut first = None;
    for endpoint in stable.endpoints.iter().chain(&candidate.endpoints) {
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

async fn tools(client: &Client, stable: &Version, candidate: &Version) -> (PreflightCheck, bool) {
    let mut lists = Vec::new();
    for version in [stable, candidate] {
        let Some(endpoint) = version.endpoints.first() else {
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
