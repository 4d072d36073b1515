//! The flags in the state: definitions, who changed them last, and overrides.

use crate::event::{Actor, Recorded};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serin_flags::{Flag, FlagKey, Flags, Overrides, State, TenantId};
use std::{collections::BTreeMap, sync::Arc};

/// The flags, as the log has made them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlagState {
    /// The definitions.
    pub definitions: Arc<Flags>,
    /// Where each definition comes from, also of those that were deleted by hand while the file still has them.
    pub histories: Arc<BTreeMap<FlagKey, History>>,
    /// Variants of tenants, set by hand.
    pub overrides: Arc<Overrides>,
    /// Variants of tenants, from the file of flags.
    pub file_overrides: Arc<Overrides>,
    /// The position of the last event that changed one of them.
    pub revision: u64,
}

impl FlagState {
    /// The variants that a tenant has, set by hand or by the file.
    pub fn override_of(&self, tenant: &TenantId, flag: &FlagKey) -> Option<&Arc<str>> {
        self.overrides
            .get(tenant)
            .and_then(|flags| flags.get(flag))
            .or_else(|| self.file_overrides.get(tenant)?.get(flag))
    }

    pub(crate) fn change(&mut self, change: &FlagChange, recorded: &Recorded) {
        let before = self.histories.get(&change.flag);
        let read = change.after.as_deref().map(Digest::of);
        let file = match change.origin {
            Origin::Hand => before.and_then(|history| history.file),
            Origin::File => read,
        };
        let created_at = before.map_or(recorded.at, |history| history.created_at);
        self.set(&change.flag, change.after.clone(), recorded);
        let histories = Arc::make_mut(&mut self.histories);
        if change.after.is_none() && file.is_none() {
            histories.remove(&change.flag);
            return;
        }
        let history = History {
            created_at,
            changed_at: recorded.at,
            changed_by: recorded.actor.clone(),
            revision: recorded.position,
            file,
        };
        histories.insert(change.flag.clone(), history);
    }

    fn set(&mut self, key: &FlagKey, flag: Option<Arc<Flag>>, recorded: &Recorded) {
        self.revision = recorded.position;
        let definitions = Arc::make_mut(&mut self.definitions);
        match flag {
            Some(flag) => {
                definitions.insert(key.clone(), flag);
            }
            None => {
                definitions.remove(key);
            }
        }
        if let Some(history) = Arc::make_mut(&mut self.histories).get_mut(key) {
            history.changed_at = recorded.at;
            history.changed_by = recorded.actor.clone();
            history.revision = recorded.position;
        }
    }

    pub(crate) fn change_override(&mut self, change: &OverrideChange, recorded: &Recorded) {
        self.revision = recorded.position;
        let overrides = Arc::make_mut(&mut self.overrides);
        let of_tenant = overrides.entry(change.tenant.clone()).or_default();
        match &change.after {
            Some(variant) => {
                of_tenant.insert(change.flag.clone(), variant.clone());
            }
            None => {
                of_tenant.remove(&change.flag);
            }
        }
        if of_tenant.is_empty() {
            overrides.remove(&change.tenant);
        }
    }

    /// A rollout has ended well: from now on the variant is everybody's.
    pub(crate) fn settle(&mut self, key: &FlagKey, variant: &Arc<str>, recorded: &Recorded) {
        let Some(flag) = self.definitions.get(key) else {
            return;
        };
        let mut flag = flag.as_ref().clone();
        flag.state = State::Enabled;
        flag.default_variant = variant.clone();
        flag.targeting = None;
        flag.serin.schedule.clear();
        self.set(key, Some(Arc::new(flag)), recorded);
    }

    /// A rollout was taken back, and its flag with it.
    pub(crate) fn disable(&mut self, key: &FlagKey, recorded: &Recorded) {
        let Some(flag) = self.definitions.get(key) else {
            return;
        };
        let mut flag = flag.as_ref().clone();
        flag.state = State::Disabled;
        self.set(key, Some(Arc::new(flag)), recorded);
    }
}

/// Where a definition comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub changed_at: Timestamp,
    /// By whom.
    pub changed_by: Actor,
    /// The position of that event: the revision that whoever changes it may name.
    pub revision: u64,
    /// The digest of what the file of flags had for it when it was last read; what differs from it was changed by the file's author.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<Digest>,
}

/// The digest of a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest([u8; 16]);

impl Digest {
    /// Of a definition, whatever the order of its fields.
    pub fn of(flag: &Flag) -> Self {
        // Maps with text keys: there is nothing in it that could fail.
        let bytes = serde_json::to_vec(flag).unwrap_or_default();
        let mut digest = [0; 16];
        digest.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
        Self(digest)
    }
}

/// Who changes a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Somebody through the admin API.
    Hand,
    /// The author of the file of flags.
    File,
}

/// A flag was created, changed or deleted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlagChange {
    /// Its key.
    pub flag: FlagKey,
    /// What it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Arc<Flag>>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Arc<Flag>>,
    /// Who changed it.
    pub origin: Origin,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A tenant got a variant of its own, or lost it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OverrideChange {
    /// The tenant.
    pub tenant: TenantId,
    /// The flag.
    pub flag: FlagKey,
    /// What it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Arc<str>>,
    /// What it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Arc<str>>,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}
