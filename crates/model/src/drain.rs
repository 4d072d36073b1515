//! Draining: a version or endpoint takes no new callers, what is there finishes, and at the cap it is over.

use crate::name::{EndpointId, NameError, ServiceName, VersionName};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{fmt, str::FromStr, time::Duration};

/// The cap unless one is said: longer than calls, tasks and most sessions last, short enough that a machine can be had within a shift.
pub const DRAIN_DEFAULT: Duration = Duration::from_hours(1);
/// Longest cap; more is a mistake in the unit. Sessions themselves end after a day unless the service says otherwise.
pub const DRAIN_MAX: Duration = Duration::from_hours(31 * 24);

/// The reason of a drain that nobody has asked for by itself.
pub(crate) const REMOVED: &str = "removed from the manifest";

/// Of a version or endpoint that takes no new callers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Since when it takes none.
    pub since: Timestamp,
    /// Until when sessions, tasks, streams and continuations that are there may go on.
    pub until: Timestamp,
    /// Why.
    pub reason: String,
    /// It was taken out of the manifest: when the drain is over it is gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_leaving: bool,
    /// Nothing goes there any more. What comes back to service later comes back under another id, so that nobody finds a session there
    /// that was told to begin elsewhere.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_over: bool,
}

impl Drain {
    /// Of what was taken out of the manifest: as what was said of it before, else with this cap.
    pub(crate) fn leaving(before: Option<&Self>, cap: Duration, now: Timestamp) -> Self {
        let drain = before.cloned().unwrap_or_else(|| Self {
            since: now,
            until: later(now, cap),
            reason: REMOVED.to_owned(),
            is_leaving: true,
            is_over: false,
        });
        Self {
            is_leaving: true,
            ..drain
        }
    }

    /// Whether it ends now: at the cap; or before, if it leaves and nobody answers there who could finish anything.
    pub(crate) fn ends(&self, now: Timestamp, is_unhealthy: impl FnOnce() -> bool) -> bool {
        !self.is_over && (now >= self.until || (self.is_leaving && is_unhealthy()))
    }
}

/// So much later.
pub(crate) fn later(now: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    now.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// A version of a service, or one of the version's endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The service.
    pub service: ServiceName,
    /// The version.
    pub version: VersionName,
    /// The endpoint; without one, the whole version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<PartEndpoint>,
}

/// An endpoint as events name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartEndpoint {
    /// Its id.
    pub id: EndpointId,
    /// Its URL.
    pub url: String,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            service, version, ..
        } = self;
        match &self.endpoint {
            Some(endpoint) => write!(
                f,
                "endpoint {} of version {version} of service {service}",
                endpoint.url
            ),
            None => write!(f, "version {version} of service {service}"),
        }
    }
}

/// What somebody wants to drain: a version by its name, or an endpoint by its URL, in every version that has it. Versions that it leaves
/// count only if there are no others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drained {
    /// A version.
    Version(VersionName),
    /// An endpoint.
    Endpoint(String),
}

impl FromStr for Drained {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.contains("://") {
            return Ok(Self::Endpoint(text.to_owned()));
        }
        text.parse().map(Self::Version)
    }
}

impl fmt::Display for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Version(name) => name.as_str(),
            Self::Endpoint(url) => url,
        })
    }
}

impl Serialize for Drained {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Drained {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}
