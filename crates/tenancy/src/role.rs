//! Roles, and what may be done with the admin API.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Calls tools and uses the admin API.
    Admin,
    /// Calls tools.
    User,
    /// Lists and reads, and calls tools that say of themselves that they only read (`readOnlyHint`).
    ReadOnly,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Admin, Self::User, Self::ReadOnly];

    /// As in the table `api_keys`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::User => "user",
            Self::ReadOnly => "read_only",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

/// Something that is done with the admin API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminAction {
    /// Look at anything but secrets.
    Read,
    /// Start a rollout, set its share, pause and resume it.
    Rollout,
    /// Promote: by hand, to the end, or without evidence.
    Approve,
    /// Abort a rollout or roll it back.
    Rollback,
    /// Kill and revive.
    Kill,
    /// Change flags and overrides.
    Flags,
    /// Make, rotate and revoke keys; create and suspend tenants.
    Keys,
    /// Apply manifests.
    Apply,
}

impl AdminAction {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Read,
        Self::Rollout,
        Self::Approve,
        Self::Rollback,
        Self::Kill,
        Self::Flags,
        Self::Keys,
        Self::Apply,
    ];

    /// As in a scope.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Rollout => "rollout",
            Self::Approve => "approve",
            Self::Rollback => "rollback",
            Self::Kill => "kill",
            Self::Flags => "flags",
            Self::Keys => "keys",
            Self::Apply => "apply",
        }
    }
}

impl fmt::Display for AdminAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}
