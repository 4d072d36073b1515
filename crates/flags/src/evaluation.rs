//! What is asked of a flag, and what it answers.

use crate::environment::Environment;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Who asks, where and when.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// What keeps a caller in one bucket: a user, a session, a tenant. Without one, percentages give the default variant.
    pub targeting_key: Option<&'a str>,
    /// Whose caller it is.
    pub tenant: Option<&'a str>,
    /// Where it is asked.
    pub environment: Environment,
    /// Everything else that is known of the caller.
    pub attributes: Option<&'a Map<String, Value>>,
    /// When it is asked.
    pub now: Timestamp,
}

/// Why a flag answers what it answers, as `OpenFeature` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// It answers everybody so.
    Static,
    /// No rule fitted.
    Default,
    /// A rule fitted, or an override.
    TargetingMatch,
    /// A percentage decided.
    Split,
    /// It is disabled, killed or expired.
    Disabled,
    /// It cannot be evaluated.
    Error,
}

impl Reason {
    /// As `OpenFeature` writes it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Static => "STATIC",
            Self::Default => "DEFAULT",
            Self::TargetingMatch => "TARGETING_MATCH",
            Self::Split => "SPLIT",
            Self::Disabled => "DISABLED",
            Self::Error => "ERROR",
        }
    }
}

/// Which step of the order of evaluation decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// All flags are killed, or everything in this system, environment or tenant.
    Latch,
    /// The flag is killed.
    Kill,
    /// Its time is over.
    Expired,
    /// The tenant has a variant of its own.
    TenantOverride,
    /// The environment has, or the process's own environment variable.
    EnvironmentOverride,
    /// A rollout under way sets it.
    Rollout,
    /// A rollout of the flag itself splits its users.
    Release,
    /// It is disabled.
    State,
    /// Its schedule.
    Schedule,
    /// Its rule.
    Targeting,
    /// Its default.
    Default,
}

/// Why a flag could not be evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// Its rule is no rule.
    ParseError,
    /// Its rule gave something that is none of its variants.
    General,
}

/// What a flag answers. It always has a value: in an error, that of the default variant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation<'f> {
    /// Which variant.
    pub variant: &'f str,
    /// Its value.
    pub value: &'f Value,
    /// Why, as `OpenFeature` names it.
    pub reason: Reason,
    /// Why, as the order of evaluation names it.
    pub why: Why,
    /// What went wrong, if something did.
    pub error: Option<ErrorCode>,
}

impl Evaluation<'_> {
    /// Whether it opens a gate: the value `true`, and nothing else.
    pub fn is_on(&self) -> bool {
        self.value.as_bool() == Some(true)
    }
}
