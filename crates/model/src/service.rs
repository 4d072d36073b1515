//! A service as the operator describes it: where clients reach it, its versions, and how the gateway treats its calls.

use crate::{
    auth::{Auth, Jwt, Signing, Upstream},
    gate::{Categories, Gate},
    name::{EndpointId, ServiceName, VersionName},
    text,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serin_tenancy::LimitRule;
use std::{collections::BTreeMap, time::Duration};

/// What a service speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// MCP over streamable HTTP, both eras.
    Mcp,
    /// Any other HTTP.
    Http,
}

/// A service as it stands in a manifest: the wish. `stable` is read only when the service is created; rollouts own it
/// afterwards, so that a restart does not undo a promotion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// What it speaks.
    pub protocol: Protocol,
    /// The path below which it is reached, such as `/mcp`.
    pub path: String,
    /// The hosts under which it is reached; empty means any that the gateway admits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// The version that serves everyone when the service is created.
    pub stable: VersionName,
    /// The released builds, by name.
    pub versions: BTreeMap<VersionName, VersionSpec>,
    /// How its calls are treated.
    #[serde(default)]
    pub settings: ServiceSettings,
}

/// A version as it stands in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionSpec {
    /// The URLs where it runs, `http://host:port/path`.
    pub endpoints: Vec<String>,
    /// Where its own metrics stand in the Prometheus text format, `http://host:port/metrics`: its processor time, memory and
    /// restarts are read from them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
}

/// How the gateway treats the calls of a service. Every limit has a default that suits a tool server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceSettings {
    /// Time for a connection to an endpoint.
    #[serde(with = "text::duration")]
    pub connect_timeout: Duration,
    /// Time to the first byte of an answer; in a stream of events, also from one event to the next until the answer is there
    /// or the client was asked something. Comments are no events. Tools may think for a while.
    #[serde(with = "text::duration")]
    pub response_timeout: Duration,
    /// Time without a byte after which an answer that has begun counts as hung. Streams of events are exempt once the answer
    /// is there.
    #[serde(with = "text::duration")]
    pub idle_timeout: Duration,
    /// Largest body of an MCP request.
    pub body_bytes_max: usize,
    /// Life of a session's token from its `initialize`.
    #[serde(with = "text::duration")]
    pub session_ttl: Duration,
    /// A header whose value is the affinity key of callers without a session.
    pub affinity_header: Option<String>,
    /// Which request headers may choose a version by hand. None by default; they are stripped where not allowed.
    pub overrides: Overrides,
    /// What becomes of idle sessions of a version that was rolled back.
    pub rebind: Rebind,
    /// How endpoints are probed.
    pub health: HealthCheck,
    /// A header that names the tenant of a request. Whoever can set it is believed: a proxy in front must, and clients must not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_header: Option<String>,
    /// Who may call.
    #[serde(skip_serializing_if = "is_default")]
    pub auth: Auth,
    /// Tokens that are taken beside keys, with `auth: serin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<Jwt>,
    /// Whether requests with a key must be signed.
    #[serde(skip_serializing_if = "is_default")]
    pub signing: Signing,
    /// How the gateway proves itself to the endpoints.
    #[serde(skip_serializing_if = "Upstream::is_plain")]
    pub upstream: Upstream,
    /// How many requests are taken, beside what the callers' tiers say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitRule>,
    /// What of the service is there only where a flag says so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
    /// Named sets of tools, for gates.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub categories: Categories,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Which request headers may choose a version by hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Overrides {
    /// `X-Canary: true` or `false`.
    pub canary: bool,
    /// `X-Serin-Version: v2.0.0`.
    pub version: bool,
}

/// What becomes of idle sessions of a version that was rolled back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rebind {
    /// A session for which the server has made no state that the gateway could see goes on with stable: it is initialised there
    /// anew behind the client's back. The others get a 404, at which clients start again.
    #[default]
    Stateless,
    /// Every session gets a 404.
    Never,
}

/// How endpoints are probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthCheck {
    /// A path to GET on the endpoint's host, healthy at 2xx. Without one an MCP endpoint is asked an MCP question and a
    /// plain one its own URL.
    pub path: Option<String>,
    /// Time from one probe to the next.
    #[serde(with = "text::duration")]
    pub interval: Duration,
    /// Time for one probe.
    #[serde(with = "text::duration")]
    pub timeout: Duration,
    /// Probes in a row that make an unhealthy endpoint healthy.
    pub healthy_after: u32,
    /// Probes in a row that make a healthy endpoint unhealthy.
    pub unhealthy_after: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        // Faster than the Cortex seed's 30 s (its other figures are kept): a rollout must not wait half a minute to see
        // that its candidate is gone.
        Self {
            path: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
            healthy_after: 2,
            unhealthy_after: 3,
        }
    }
}

/// Largest body of an MCP request unless set: it is held in memory while it is read.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

impl Default for ServiceSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_mins(5),
            idle_timeout: Duration::from_mins(5),
            body_bytes_max: BODY_BYTES_MAX,
            session_ttl: Duration::from_hours(24),
            affinity_header: None,
            overrides: Overrides::default(),
            rebind: Rebind::default(),
            health: HealthCheck::default(),
            tenant_header: None,
            auth: Auth::default(),
            jwt: None,
            signing: Signing::default(),
            upstream: Upstream::default(),
            limits: Vec::new(),
            gates: Vec::new(),
            categories: Categories::new(),
        }
    }
}

/// A service as it is: what the log has made of the wish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// What it speaks.
    pub protocol: Protocol,
    /// The path below which it is reached.
    pub path: String,
    /// The hosts under which it is reached.
    pub hosts: Vec<String>,
    /// The version that serves everyone.
    pub stable: VersionName,
    /// The released builds.
    pub versions: BTreeMap<VersionName, Version>,
    /// How its calls are treated.
    pub settings: ServiceSettings,
}

/// A version as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Where it runs.
    pub endpoints: Vec<Endpoint>,
    /// Where its own metrics are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    /// Where it is in its life.
    pub stage: VersionStage,
    /// When it was last withdrawn: sessions that are older do not come back to it, even if it serves again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn_at: Option<Timestamp>,
}

/// Where a version is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionStage {
    /// Known, without traffic.
    Registered,
    /// Stable, or the candidate of a rollout.
    Serving,
    /// No new callers; live sessions finish.
    Draining,
    /// No new callers; live sessions are moved off it.
    Withdrawn,
}

/// One URL where a version runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Assigned by the log.
    pub id: EndpointId,
    /// `http://host:port/path`.
    pub url: String,
}
