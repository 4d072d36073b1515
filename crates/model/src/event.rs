//! Events: everything that has changed, in order. State is a fold over them.

use crate::{
    api::{ApiSpec, ApiVersion},
    drain::Part,
    flags::{FlagChange, OverrideChange},
    manifest::Manifest,
    name::{RolloutId, ServiceName, VersionName},
    plan::{Plan, RollbackStrategy},
    service::Service,
    share::Share,
    switch::KillSwitch,
    tenancy::KeyChange,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serin_flags::{FlagKey, Kill, Overrides};
use serin_judge::{Assessment, sequential::Distrust};
use serin_tenancy::{KeyRecord, Tenant, TenantId, Tier, TierName};
use std::sync::Arc;

/// One change. Boxed where it is large, so that a list of events stays small.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum Event {
    /// The manifest that the process was started with, kept to see what its author changes the next time.
    ManifestRead(Box<Manifest>),
    /// A service that was not there before.
    ServiceCreated(Box<Service>),
    /// A service described anew; which version is stable is as before.
    ServiceChanged(Box<Service>),
    /// A service that is no more.
    ServiceRemoved {
        /// Its name.
        service: ServiceName,
    },
    /// A version or endpoint takes no new callers from now on; said again, it is the cap that changes.
    DrainBegan {
        /// What.
        part: Part,
        /// The cap.
        until: Timestamp,
        /// Why.
        reason: String,
    },
    /// A drain is over: nothing goes there any more. What has left the manifest is gone.
    DrainEnded {
        /// Of what.
        part: Part,
    },
    /// A version or endpoint takes callers again.
    Undrained {
        /// What.
        part: Part,
        /// Why.
        reason: String,
    },
    /// A plan, new or replaced.
    PlanSet {
        /// Its name.
        name: String,
        /// The recipe.
        plan: Box<Plan>,
    },
    /// A plan that is no more.
    PlanRemoved {
        /// Its name.
        name: String,
    },
    /// A flag was created, changed or deleted.
    FlagChanged(Box<FlagChange>),
    /// A tenant got a variant of its own, or lost it.
    OverrideChanged(Box<OverrideChange>),
    /// The variants of tenants that the file of flags has now.
    OverridesRead {
        /// All of them.
        overrides: Arc<Overrides>,
    },
    /// A kill or revival that the kill file has, copied to the log.
    KillCopied(Box<Kill>),
    /// A kill switch, new or replaced.
    KillSwitchSet {
        /// Its name.
        name: Arc<str>,
        /// What it does.
        switch: Box<KillSwitch>,
    },
    /// A kill switch that is no more.
    KillSwitchRemoved {
        /// Its name.
        name: Arc<str>,
    },
    /// A tier, new or replaced.
    TierSet {
        /// Its name.
        name: TierName,
        /// Its limits.
        tier: Tier,
    },
    /// A tier that is no more.
    TierRemoved {
        /// Its name.
        name: TierName,
    },
    /// A version of the public API, new or replaced.
    ApiSet {
        /// Its name.
        version: ApiVersion,
        /// What it has.
        spec: Box<ApiSpec>,
    },
    /// A version of the public API that is no more.
    ApiRemoved {
        /// Its name.
        version: ApiVersion,
    },
    /// A tenant, new or changed.
    TenantSet {
        /// Its id.
        tenant: TenantId,
        /// What is known of it.
        about: Tenant,
        /// Why.
        reason: String,
    },
    /// A tenant that is no more, and with it its keys.
    TenantRemoved {
        /// Its id.
        tenant: TenantId,
        /// Why.
        reason: String,
    },
    /// A key was made, rotated or revoked.
    KeySet {
        /// How it is now.
        key: Box<KeyRecord>,
        /// What happened to it.
        change: KeyChange,
        /// Why.
        reason: String,
    },
    /// An attempt to replace stable.
    RolloutStarted(Box<Started>),
    /// A phase began: its share is in force.
    PhaseEntered {
        /// The rollout.
        rollout: RolloutId,
        /// Which phase of its plan, from 0.
        phase: usize,
        /// The share that the plan has for it.
        share: Share,
        /// What the phase before has shown, if one was passed.
        evidence: Option<Box<Assessment>>,
        /// Why it was entered without that, if it was.
        overridden: Option<String>,
    },
    /// A share set by hand.
    ShareSet {
        /// The rollout.
        rollout: RolloutId,
        /// The share.
        share: Share,
        /// Why.
        reason: String,
    },
    /// A warning holds the rollout where it is.
    Held {
        /// The rollout.
        rollout: RolloutId,
        /// Why.
        reason: String,
        /// The numbers behind it.
        evidence: Box<Assessment>,
    },
    /// The warning is over.
    Released {
        /// The rollout.
        rollout: RolloutId,
    },
    /// Somebody has seen something that no counter sees.
    SignalGiven {
        /// The rollout.
        rollout: RolloutId,
        /// What kind, as the plan names it.
        signal: String,
        /// What was seen.
        reason: String,
    },
    /// What was signalled has been dealt with: it counts no longer.
    SignalsSettled {
        /// The rollout.
        rollout: RolloutId,
    },
    /// The comparison of the two versions does not count for now; thresholds alone decide.
    ComparisonSetAside {
        /// The rollout.
        rollout: RolloutId,
        /// Why.
        why: Distrust,
        /// The numbers behind it.
        evidence: Box<Assessment>,
    },
    /// The comparison counts again.
    ComparisonResumed {
        /// The rollout.
        rollout: RolloutId,
    },
    /// The phase has shown what it must, but the plan leaves the promotion to a person.
    PhaseReady {
        /// The rollout.
        rollout: RolloutId,
        /// The numbers behind it.
        evidence: Box<Assessment>,
    },
    /// Stopped by hand; critical breaches still take the candidate back.
    Paused {
        /// The rollout.
        rollout: RolloutId,
        /// Why.
        reason: String,
    },
    /// Goes on. The time of the pause does not count.
    Resumed {
        /// The rollout.
        rollout: RolloutId,
    },
    /// The phase ran out of time and got it again.
    Extended {
        /// The rollout.
        rollout: RolloutId,
        /// Why.
        reason: String,
    },
    /// The phase ran out of time; a person must decide.
    Inconclusive {
        /// The rollout.
        rollout: RolloutId,
        /// Why.
        reason: String,
        /// The numbers behind it.
        evidence: Box<Assessment>,
    },
    /// The candidate is the new stable.
    Promoted {
        /// The rollout.
        rollout: RolloutId,
        /// What the last phase has shown.
        evidence: Option<Box<Assessment>>,
        /// Why it was promoted without that, if it was.
        overridden: Option<String>,
    },
    /// The candidate was taken back.
    RolledBack {
        /// The rollout.
        rollout: RolloutId,
        /// How live sessions leave it.
        strategy: RollbackStrategy,
        /// Why.
        reason: String,
        /// The numbers behind it, where it was not by hand.
        evidence: Option<Box<Assessment>>,
    },
    /// Ended by hand: the desired version is stable.
    Aborted {
        /// The rollout.
        rollout: RolloutId,
        /// Why.
        reason: String,
    },
    /// After a promotion, the version before was made stable again.
    Reverted {
        /// The service.
        service: ServiceName,
        /// The version that was stable.
        from: VersionName,
        /// The version that is stable again.
        to: VersionName,
        /// How live sessions leave `from`.
        strategy: RollbackStrategy,
        /// Why.
        reason: String,
    },
}

/// The beginning of a rollout. The plan is copied: later changes to it do not touch a rollout under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// Its id; part of the hash that assigns callers.
    pub rollout: RolloutId,
    /// The service.
    pub service: ServiceName,
    /// The stable version.
    pub from: VersionName,
    /// The candidate.
    pub to: VersionName,
    /// The flag, if not another version but the flag's variant is the candidate: `to` is then a name for stable with the flag on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flag: Option<FlagRelease>,
    /// What the plan is called.
    pub plan_name: String,
    /// The plan.
    pub plan: Plan,
    /// Why.
    pub reason: String,
    /// What was checked before.
    pub preflight: Preflight,
}

/// A flag that is the subject of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlagRelease {
    /// The flag.
    pub flag: FlagKey,
    /// The variant that is rolled out.
    pub on: Arc<str>,
}

/// What was found before a rollout began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preflight {
    /// The checks, in order.
    pub checks: Vec<PreflightCheck>,
    /// Whether the tool contracts of the two versions differ.
    pub contract_differs: bool,
}

/// One check before a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreflightCheck {
    /// What was checked: `health`, `eras`, `contract`.
    pub name: String,
    /// What was found.
    pub result: PreflightResult,
    /// In words.
    pub detail: String,
}

/// What a check before a rollout found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PreflightResult {
    /// Nothing wrong.
    Passed,
    /// Worth knowing.
    Risky,
    /// Clients will notice; needs to be accepted by hand.
    Breaking,
    /// The rollout cannot begin.
    Failed,
}

/// Who caused a change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Actor(String);

/// Longest name of an actor, in characters.
const ACTOR_CHARS_MAX: usize = 100;

impl Actor {
    /// Serin itself.
    pub fn serin() -> Self {
        Self("serin".to_owned())
    }

    /// A person or program by its name; cut to 100 characters, control characters dropped.
    pub fn named(name: &str) -> Self {
        Self(
            name.chars()
                .filter(|c| !c.is_control())
                .take(ACTOR_CHARS_MAX)
                .collect(),
        )
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An event with its place in the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// Its place, from 1.
    pub position: u64,
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub actor: Actor,
    /// Under which writer.
    pub epoch: u64,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// The version in which events are written now. Older ones are upcast in [`Event::decode`].
pub const EVENT_VERSION: u16 = 1;

/// Why a stored event cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written by a later release.
    #[error(
        "an event `{kind}` of version {version} was written by a later release of Serin; run that release, or a newer one"
    )]
    Newer {
        /// Its kind.
        kind: String,
        /// Its version.
        version: u16,
    },
    /// Not what its kind promises.
    #[error("an event `{kind}` cannot be read; the log is damaged: restore it from a backup")]
    Body {
        /// Its kind.
        kind: String,
        /// What serde says.
        #[source]
        source: serde_json::Error,
    },
}

impl Event {
    /// What it is called in the log.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ManifestRead(_) => "manifest_read",
            Self::ServiceCreated(_) => "service_created",
            Self::ServiceChanged(_) => "service_changed",
            Self::ServiceRemoved { .. } => "service_removed",
            Self::DrainBegan { .. } => "drain_began",
            Self::DrainEnded { .. } => "drain_ended",
            Self::Undrained { .. } => "undrained",
            Self::PlanSet { .. } => "plan_set",
            Self::PlanRemoved { .. } => "plan_removed",
            Self::FlagChanged(_) => "flag_changed",
            Self::OverrideChanged(_) => "override_changed",
            Self::OverridesRead { .. } => "overrides_read",
            Self::KillCopied(_) => "kill_copied",
            Self::KillSwitchSet { .. } => "kill_switch_set",
            Self::KillSwitchRemoved { .. } => "kill_switch_removed",
            Self::TierSet { .. } => "tier_set",
            Self::TierRemoved { .. } => "tier_removed",
            Self::ApiSet { .. } => "api_set",
            Self::ApiRemoved { .. } => "api_removed",
            Self::TenantSet { .. } => "tenant_set",
            Self::TenantRemoved { .. } => "tenant_removed",
            Self::KeySet { .. } => "key_set",
            Self::RolloutStarted(_) => "rollout_started",
            Self::PhaseEntered { .. } => "phase_entered",
            Self::ShareSet { .. } => "share_set",
            Self::Held { .. } => "held",
            Self::Released { .. } => "released",
            Self::SignalGiven { .. } => "signal_given",
            Self::SignalsSettled { .. } => "signals_settled",
            Self::ComparisonSetAside { .. } => "comparison_set_aside",
            Self::ComparisonResumed { .. } => "comparison_resumed",
            Self::PhaseReady { .. } => "phase_ready",
            Self::Paused { .. } => "paused",
            Self::Resumed { .. } => "resumed",
            Self::Extended { .. } => "extended",
            Self::Inconclusive { .. } => "inconclusive",
            Self::Promoted { .. } => "promoted",
            Self::RolledBack { .. } => "rolled_back",
            Self::Aborted { .. } => "aborted",
            Self::Reverted { .. } => "reverted",
        }
    }

    /// Its body as it is stored beside its kind.
    pub fn encode_body(&self) -> Result<String, serde_json::Error> {
        let mut value = serde_json::to_value(self)?;
        Ok(value
            .get_mut("body")
            .map(serde_json::Value::take)
            .unwrap_or_default()
            .to_string())
    }

    /// Reads an event as it was stored.
    pub fn decode(kind: &str, version: u16, body: &str) -> Result<Self, DecodeError> {
        if version > EVENT_VERSION {
            return Err(DecodeError::Newer {
                kind: kind.to_owned(),
                version,
            });
        }
        let failed = |source| DecodeError::Body {
            kind: kind.to_owned(),
            source,
        };
        let body: serde_json::Value = serde_json::from_str(body).map_err(failed)?;
        serde_json::from_value(serde_json::json!({ "kind": kind, "body": body })).map_err(failed)
    }

    /// The service of which it may add or remove versions and endpoints.
    pub fn changes_service(&self) -> Option<&ServiceName> {
        match self {
            Self::ServiceCreated(service) | Self::ServiceChanged(service) => Some(&service.name),
            Self::DrainBegan { part, .. }
            | Self::DrainEnded { part }
            | Self::Undrained { part, .. } => Some(&part.service),
            Self::ServiceRemoved { service } | Self::Reverted { service, .. } => Some(service),
            _ => None,
        }
    }

    /// The rollout it is about, if it is about one.
    pub fn rollout(&self) -> Option<RolloutId> {
        match self {
            Self::RolloutStarted(started) => Some(started.rollout),
            Self::PhaseEntered { rollout, .. }
            | Self::ShareSet { rollout, .. }
            | Self::Held { rollout, .. }
            | Self::Released { rollout }
            | Self::SignalGiven { rollout, .. }
            | Self::SignalsSettled { rollout }
            | Self::ComparisonSetAside { rollout, .. }
            | Self::ComparisonResumed { rollout }
            | Self::PhaseReady { rollout, .. }
            | Self::Paused { rollout, .. }
            | Self::Resumed { rollout }
            | Self::Extended { rollout, .. }
            | Self::Inconclusive { rollout, .. }
            | Self::Promoted { rollout, .. }
            | Self::RolledBack { rollout, .. }
            | Self::Aborted { rollout, .. } => Some(*rollout),
            _ => None,
        }
    }
}
