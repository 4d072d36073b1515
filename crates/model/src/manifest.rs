//! Manifests: what an operator wants to exist, as it stands in a file.

use crate::{name::ServiceName, plan::Plan, service::ServiceSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The resources of one file. Applying it twice changes nothing the second time; nothing is pruned unasked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Manifest {
    /// Services, by name.
    pub services: BTreeMap<ServiceName, ServiceSpec>,
    /// Plans, by name. One named like a built-in plan takes its place.
    pub plans: BTreeMap<String, Plan>,
}
