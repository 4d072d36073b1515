//! Who calls, and what they may: tenants, keys, roles and scopes, rates and their buckets.
//!
//! **Invariant:** no clock, no I/O, no randomness. Time and random bytes are arguments; keys are kept as hashes.

pub mod claims;
mod directory;
pub mod key;
mod name;
mod rate;
mod role;
mod scope;
pub mod signature;
pub mod token;

pub use directory::{Denial, Directory, KeyRecord, Principal, Tenant, TenantState};
pub use key::{KeyHash, KeyId, SecretKey};
pub use name::{NameError, TierName};
pub use rate::{Limit, LimitRule, Per, Rate, Taken, Tier};
pub use role::{AdminAction, Role};
pub use scope::{Pattern, SCOPES_MAX, Scope, ScopeError, Scopes};
pub use serin_flags::TenantId;
