//! Manifests: what an operator wants to exist, as it stands in a file.

use crate::{
    api::{ApiSpec, ApiVersion},
    name::ServiceName,
    plan::Plan,
    service::ServiceSpec,
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
