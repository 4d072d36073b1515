//! Manifests: what an operator wants to exist, as it stands in a file.

use crate::{
    api::{ApiSpec, ApiVersion},
    name::ServiceName,
    plan::Plan,
    service::ServiceSpec,
    state::State,
    switch::KillSwitch,
};
use serde::{Deserialize, Serialize};
use serin_tenancy::{Tier, TierName};
use std::{collections::BTreeMap, sync::Arc};

/// The resources of one file. Applying it twice changes nothing the second time; nothing is pruned unasked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Manifest {
    /// Services, by name.
    pub services: BTreeMap<ServiceName, ServiceSpec>,
    /// Plans, by name. One named like a built-in plan takes its place.
    pub plans: BTreeMap<String, Plan>,
    /// Kill switches, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub kill_switches: BTreeMap<Arc<str>, KillSwitch>,
    /// Tiers, by name: what tenants and keys can have bought.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tiers: BTreeMap<TierName, Tier>,
    /// Versions of the public API, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub api: BTreeMap<ApiVersion, ApiSpec>,
}

impl Manifest {
    /// What there is and it does not name, in words: applying it leaves that as it is, unless it is asked to prune.
    pub fn unnamed(&self, state: &State) -> Vec<String> {
        let mut unnamed = Vec::new();
        for (name, service) in &state.services {
            let Some(spec) = self.services.get(name) else {
                unnamed.push(format!("service `{name}`"));
                continue;
            };
            let versions = service.versions.keys();
            let versions = versions.filter(|version| !spec.versions.contains_key(*version));
            unnamed.extend(versions.map(|version| format!("version `{version}` of `{name}`")));
        }
        let plans = state.plans.keys();
        let plans = plans.filter(|name| !self.plans.contains_key(*name));
        unnamed.extend(plans.map(|name| format!("plan `{name}`")));
        let tiers = state.tenancy.tiers.keys();
        let tiers = tiers.filter(|name| !self.tiers.contains_key(*name));
        unnamed.extend(tiers.map(|name| format!("tier `{name}`")));
        let api = state.api.keys();
        let api = api.filter(|version| !self.api.contains_key(version));
        unnamed.extend(api.map(|version| format!("API {version}")));
        let switches = state.kill_switches.keys();
        let switches = switches.filter(|name| !self.kill_switches.contains_key(*name));
        unnamed.extend(switches.map(|name| format!("kill switch `{name}`")));
        unnamed
    }
}
