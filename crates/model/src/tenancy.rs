//! The tenants, keys and tiers in the state.

use crate::event::Recorded;
use serde::{Deserialize, Serialize};
use serin_tenancy::{Directory, KeyId, KeyRecord, Tenant, TenantId, Tier, TierName};
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

/// Who may call, as the log has made it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tenancy {
    /// The customers.
    pub tenants: Arc<BTreeMap<TenantId, Arc<Tenant>>>,
    /// Their keys, also those that are over.
    pub keys: Arc<BTreeMap<KeyId, Arc<KeyRecord>>>,
    /// What can be bought.
    pub tiers: BTreeMap<TierName, Arc<Tier>>,
    /// The position of the last event that changed one of them.
    pub revision: u64,
    /// Made when it is first asked for after a change.
    #[serde(skip)]
    directory: OnceLock<Arc<Directory>>,
}

impl PartialEq for Tenancy {
    fn eq(&self, other: &Self) -> bool {
        (&self.tenants, &self.keys, &self.tiers, self.revision)
            == (&other.tenants, &other.keys, &other.tiers, other.revision)
    }
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyChange {
    /// It was made.
    Created,
    /// Another takes its place; it ends with the overlap.
    Rotated,
    /// It opens nothing any more.
    Revoked,
}

impl Tenancy {
    /// In the form in which callers are looked up.
    pub fn directory(&self) -> &Arc<Directory> {
        self.directory
            .get_or_init(|| Arc::new(Directory::new(&self.tenants, &self.keys, &self.tiers)))
    }

    pub(crate) fn set_tenant(&mut self, id: &TenantId, tenant: Option<&Tenant>, at: &Recorded) {
        let tenants = Arc::make_mut(&mut self.tenants);
        if let Some(tenant) = tenant {
            tenants.insert(id.clone(), Arc::new(tenant.clone()));
        } else {
            tenants.remove(id);
            Arc::make_mut(&mut self.keys).retain(|_, key| key.tenant != *id);
        }
        self.changed(at);
    }

    pub(crate) fn set_key(&mut self, key: &KeyRecord, at: &Recorded) {
        Arc::make_mut(&mut self.keys).insert(key.id, Arc::new(key.clone()));
        self.changed(at);
    }

    pub(crate) fn set_tier(&mut self, name: &TierName, tier: Option<&Tier>, at: &Recorded) {
        match tier {
            Some(tier) => {
                self.tiers.insert(name.clone(), Arc::new(tier.clone()));
            }
            None => {
                self.tiers.remove(name);
            }
        }
        self.changed(at);
    }

    fn changed(&mut self, at: &Recorded) {
        self.revision = at.position;
        self.directory = OnceLock::new();
    }
}
