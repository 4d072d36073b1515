//! Everybody who may call, in the form in which they are looked up: in memory, so that a bad key costs nobody a question to a store.

use crate::{
    key::{self, KeyHash, KeyId},
    name::TierName,
    rate::Tier,
    role::Role,
    scope::Scopes,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serin_flags::TenantId;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// A customer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// What it is called, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// What it has bought; the tier of its keys unless they name one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<TierName>,
    /// Whether its keys open anything.
    pub state: TenantState,
    /// Since when.
    pub created_at: Timestamp,
}

/// Whether a tenant's keys open anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TenantState {
    /// They do.
    Active,
    /// They do not, for now.
    Suspended,
}

/// A key as it is kept. Who has this record cannot call with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Its public part.
    pub id: KeyId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What it is called, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The hash of all of it.
    pub hash: KeyHash,
    /// What it is for.
    pub role: Role,
    /// What it reaches.
    #[serde(default, skip_serializing_if = "Scopes::is_empty")]
    pub scopes: Scopes,
    /// Its tier; that of its tenant unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<TierName>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends. A rotated key ends with the overlap.
    pub expires_at: Timestamp,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
    /// The key that takes its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<KeyId>,
    /// Whether it has a secret for signing requests, which is never stored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub signs: bool,
}

impl KeyRecord {
    /// Whether it is neither revoked nor expired. It opens nothing all the same while its tenant is suspended.
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at > now
    }
}

/// Who a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The customer.
    pub tenant: TenantId,
    /// Who of it: the id of a key, or the subject of a token.
    pub subject: Arc<str>,
    /// The key, if it was one.
    pub key: Option<KeyId>,
    /// What it is for.
    pub role: Role,
    /// What it reaches.
    pub scopes: Arc<Scopes>,
    /// What it has bought.
    pub tier: Option<TierName>,
    /// When a token ends, leeway included. The end of a key stands in its record, which may change.
    pub until: Option<Timestamp>,
}

/// Why a key opens nothing. Who shows it is told no more than that it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Denial {
    /// There was none.
    Missing,
    /// It is none of ours, or was cut or mistyped.
    Unknown,
    /// Its time is over.
    Expired,
    /// It was revoked, or its tenant is suspended.
    Revoked,
    /// The request was not signed, or not by its holder, or not just now.
    Signature,
}

impl Denial {
    /// The value of the label `result` of `serin_auth_total`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Signature => "signature",
        }
    }
}

/// Everybody who may call.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    keys: HashMap<KeyId, Entry>,
    tenants: BTreeMap<TenantId, Arc<Tenant>>,
    tiers: BTreeMap<TierName, Arc<Tier>>,
}

#[derive(Clone, Debug)]
struct Entry {
    record: Arc<KeyRecord>,
    principal: Arc<Principal>,
    is_suspended: bool,
}

impl Directory {
    /// Of these tenants, keys and tiers. A key without a tenant opens nothing.
    pub fn new(
        tenants: &BTreeMap<TenantId, Arc<Tenant>>,
        keys: &BTreeMap<KeyId, Arc<KeyRecord>>,
        tiers: &BTreeMap<TierName, Arc<Tier>>,
    ) -> Self {
        let entry = |record: &Arc<KeyRecord>| {
            let tenant = tenants.get(&record.tenant);
            let tier = record.tier.clone();
            let principal = Principal {
                tenant: record.tenant.clone(),
                subject: record.id.to_string().into(),
                key: Some(record.id),
                role: record.role,
                scopes: Arc::new(record.scopes.clone()),
                tier: tier.or_else(|| tenant.and_then(|tenant| tenant.tier.clone())),
                until: None,
            };
            Entry {
                record: Arc::clone(record),
                principal: Arc::new(principal),
                is_suspended: tenant.is_none_or(|t| t.state == TenantState::Suspended),
            }
        };
        Self {
            keys: keys.iter().map(|(id, key)| (*id, entry(key))).collect(),
            tenants: tenants.clone(),
            tiers: tiers.clone(),
        }
    }

    /// Whose a key is. The cost of a wrong one is a hash.
    ///
    /// # Errors
    /// Why it opens nothing.
    pub fn find(&self, text: &[u8], now: Timestamp) -> Result<&Arc<Principal>, Denial> {
        self.entry(text).ok_or(Denial::Unknown)?.opens(now)
    }

    /// Whose a key is, whether it opens anything or no longer does.
    pub fn holder(&self, text: &[u8]) -> Option<&Arc<Principal>> {
        self.entry(text).map(|entry| &entry.principal)
    }

    fn entry(&self, text: &[u8]) -> Option<&Entry> {
        let (id, hash) = key::parse(text)?;
        // Constant time: `KeyHash` compares so.
        self.keys.get(&id).filter(|entry| entry.record.hash == hash)
    }

    /// Whose a key of this id is, for those who prove otherwise that they hold it.
    ///
    /// # Errors
    /// Why it opens nothing.
    pub fn find_id(&self, id: KeyId, now: Timestamp) -> Result<&Arc<Principal>, Denial> {
        self.keys.get(&id).ok_or(Denial::Unknown)?.opens(now)
    }

    /// A key's record.
    pub fn record(&self, id: KeyId) -> Option<&Arc<KeyRecord>> {
        self.keys.get(&id).map(|entry| &entry.record)
    }

    /// Whether it knows any tenant.
    pub fn has_tenants(&self) -> bool {
        !self.tenants.is_empty()
    }

    /// A tenant.
    pub fn tenant(&self, id: &str) -> Option<&Arc<Tenant>> {
        self.tenants.get(id)
    }

    /// A tenant whose callers may call.
    ///
    /// # Errors
    /// It is none of ours, or suspended.
    pub fn active_tenant(&self, id: &TenantId) -> Result<&Arc<Tenant>, Denial> {
        let tenant = self.tenants.get(id).ok_or(Denial::Unknown)?;
        match tenant.state {
            TenantState::Active => Ok(tenant),
            TenantState::Suspended => Err(Denial::Revoked),
        }
    }

    /// The limits of a tier.
    pub fn tier(&self, name: &str) -> Option<&Arc<Tier>> {
        self.tiers.get(name)
    }
}

impl Entry {
    fn opens(&self, now: Timestamp) -> Result<&Arc<Principal>, Denial> {
        if self.record.revoked_at.is_some() || self.is_suspended {
            return Err(Denial::Revoked);
        }
        if self.record.expires_at <= now {
            return Err(Denial::Expired);
        }
        Ok(&self.principal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{RANDOM_BYTES, SecretKey};

    fn key(byte: u8) -> SecretKey {
        SecretKey::new(&[byte; RANDOM_BYTES])
    }

    fn record(key: &SecretKey, tenant: &str) -> KeyRecord {
        let (id, hash) = key.parts().unwrap();
        KeyRecord {
            id,
            tenant: tenant.parse().unwrap(),
            name: String::new(),
            hash,
            role: Role::User,
            scopes: Scopes::default(),
            tier: None,
            created_at: Timestamp::UNIX_EPOCH,
            expires_at: Timestamp::from_second(100).unwrap(),
            revoked_at: None,
            replaced_by: None,
            signs: false,
        }
    }

    fn directory(records: &[KeyRecord], suspended: &[&str]) -> Directory {
        let tenant = |id: &str| {
            let state = if suspended.contains(&id) {
                TenantState::Suspended
            } else {
                TenantState::Active
            };
            let tenant = Tenant {
                title: String::new(),
                tier: Some("free".parse().unwrap()),
                state,
                created_at: Timestamp::UNIX_EPOCH,
            };
            (id.parse().unwrap(), Arc::new(tenant))
        };
        let keys = records.iter().map(|r| (r.id, Arc::new(r.clone())));
        Directory::new(
            &["acme", "globex"].into_iter().map(tenant).collect(),
            &keys.collect(),
            &BTreeMap::new(),
        )
    }

    #[test]
    fn only_a_key_in_force_opens() {
        let (good, other) = (key(1), key(2));
        let now = Timestamp::from_second(99).unwrap();
        let directory_of = |record: KeyRecord| directory(&[record], &["globex"]);
        let fine = directory_of(record(&good, "acme"));
        let found = fine.find(good.expose().as_bytes(), now).unwrap();
        assert_eq!(
            (found.tenant.as_str(), found.tier.as_ref().unwrap().as_str()),
            ("acme", "free")
        );
        let text = good.expose();
        // Of the same id, whole, and not the key.
        let mut forged = [1; RANDOM_BYTES];
        forged[RANDOM_BYTES - 1] = 2;
        let forged = SecretKey::new(&forged);
        for wrong in [
            "",
            "Bearer",
            &text[1..],
            &text[..90],
            other.expose(),
            forged.expose(),
        ] {
            assert_eq!(
                fine.find(wrong.as_bytes(), now).unwrap_err(),
                Denial::Unknown,
                "{wrong}"
            );
        }
        let end = Timestamp::from_second(100).unwrap();
        assert_eq!(
            fine.find(text.as_bytes(), end).unwrap_err(),
            Denial::Expired
        );
        let revoked = KeyRecord {
            revoked_at: Some(now),
            ..record(&good, "acme")
        };
        for denied in [revoked, record(&good, "globex"), record(&good, "nobody")] {
            let denied = directory_of(denied).find(text.as_bytes(), now).unwrap_err();
            assert_eq!(denied, Denial::Revoked);
        }
    }

    #[test]
    fn a_key_that_is_over_has_a_holder_and_one_that_is_made_up_has_none() {
        let (over, other) = (key(1), key(2));
        let directory = directory(&[record(&over, "globex")], &["globex"]);
        let holder = directory.holder(over.expose().as_bytes()).unwrap();
        let (id, _) = over.parts().unwrap();
        assert_eq!((holder.tenant.as_str(), holder.key), ("globex", Some(id)));
        // Its id is public, and proves nothing.
        let mut forged = [1; RANDOM_BYTES];
        forged[RANDOM_BYTES - 1] = 2;
        let forged = SecretKey::new(&forged);
        assert_eq!(forged.parts().unwrap().0, id);
        for wrong in [&forged, &other] {
            assert_eq!(directory.holder(wrong.expose().as_bytes()), None);
        }
    }
}
