//! A service as the operator describes it: where clients reach it, its versions, and how the gateway treats its calls.

use crate::{
    auth::{Auth, Jwt, Signing, Upstream},
    drain::Drain,
    gate::{Categories, Gate},
    name::{EndpointId, ServiceName, VersionName},
    rule::{Rule, RuleList},
    text,
};
use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serin_route::{breaker, budget, outlier, source::Source, standing::OnFailure, weigh::Balance};
use serin_tenancy::LimitRule;
use std::{collections::BTreeMap, fmt, time::Duration};

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
    /// Where requests go by what they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// How its calls are treated.
    #[serde(default)]
    pub settings: ServiceSettings,
}

/// A version as it stands in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionSpec {
    /// Where it runs.
    pub endpoints: Vec<EndpointSpec>,
    /// How one of its endpoints is chosen.
    #[serde(default, skip_serializing_if = "is_default")]
    pub balance: Balance,
    /// Most of its calls that may be under way at a time, open streams left out; beyond it callers are told to come again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight_max: Option<u32>,
    /// The versions that take its new callers, in this order, when none of its endpoints can. A candidate's are not used: what it fails
    /// at has to be seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallback: Vec<VersionName>,
    /// Where its own metrics stand in the Prometheus text format, `http://host:port/metrics`: its processor time, memory and
    /// restarts are read from them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
}

/// Greatest weight of an endpoint, and of a version in a rule.
pub const WEIGHT_MAX: u32 = 1000;

/// An endpoint as it stands in a manifest: a URL, or a URL with more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// `http://host:port/path`.
    pub url: String,
    /// How much it takes beside the version's other endpoints, 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// Its deadline, instead of the service's `response_timeout`.
    pub response_timeout: Option<Duration>,
}

/// The same with its fields by name.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointFields {
    url: String,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    weight: u32,
    #[serde(
        default,
        with = "text::duration_option",
        skip_serializing_if = "Option::is_none"
    )]
    response_timeout: Option<Duration>,
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_one(weight: &u32) -> bool {
    *weight == 1
}

impl From<&str> for EndpointSpec {
    fn from(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            weight: 1,
            response_timeout: None,
        }
    }
}

impl Serialize for EndpointSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if *self == self.url.as_str().into() {
            return serializer.serialize_str(&self.url);
        }
        let fields = EndpointFields {
            url: self.url.clone(),
            weight: self.weight,
            response_timeout: self.response_timeout,
        };
        fields.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for EndpointSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = EndpointSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a URL, or `{ url: .., weight: .. }`")
            }

            fn visit_str<E: serde::de::Error>(self, url: &str) -> Result<Self::Value, E> {
                Ok(url.into())
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let fields = EndpointFields::deserialize(MapAccessDeserializer::new(map))?;
                Ok(EndpointSpec {
                    url: fields.url,
                    weight: fields.weight,
                    response_timeout: fields.response_timeout,
                })
            }
        }
        deserializer.deserialize_any(Either)
    }
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
    /// By what callers without a session are known again, in this order. Unless said: who they proved to be, what their token or
    /// `Authorization` says, their address. A session that begins is its own key unless something of this list is there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub affinity: Vec<Source>,
    /// When an endpoint that fails is left alone.
    #[serde(skip_serializing_if = "is_default")]
    pub breaker: breaker::Settings,
    /// When an endpoint that fails too often is ejected.
    #[serde(skip_serializing_if = "is_default")]
    pub outliers: outlier::Settings,
    /// How often a request is tried that no endpoint can have taken.
    #[serde(skip_serializing_if = "is_default")]
    pub retries: budget::Settings,
    /// For how long an endpoint that is back takes less than its part, growing from a tenth. 0: it takes all at once.
    #[serde(with = "text::duration", skip_serializing_if = "is_slow_start")]
    pub slow_start: Duration,
    /// Below this share of usable endpoints of a version, in percent, all of them are used: those that are left would be overrun.
    #[serde(skip_serializing_if = "is_panic_below")]
    pub panic_below_percent: u8,
    /// What becomes of a request when no endpoint may be used.
    #[serde(skip_serializing_if = "is_default")]
    pub on_failure: OnFailure,
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

/// Half a minute: long enough for pools and caches to warm up, short enough not to matter otherwise.
const SLOW_START: Duration = Duration::from_secs(30);
/// As Envoy has it.
const PANIC_BELOW_PERCENT: u8 = 50;

fn is_slow_start(value: &Duration) -> bool {
    *value == SLOW_START
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_panic_below(value: &u8) -> bool {
    *value == PANIC_BELOW_PERCENT
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
    /// The statuses at which the path is healthy, instead of 2xx.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expected: Vec<u16>,
    /// Time from one probe to the next; five seconds, if that is shorter, for the candidate of a rollout, an endpoint that fails, and
    /// one that is new.
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
        // The Cortex seed's figures. Where something hangs on the answer, it is asked for every five seconds.
        Self {
            path: None,
            expected: Vec::new(),
            interval: Duration::from_secs(30),
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
            affinity: Vec::new(),
            breaker: breaker::Settings::default(),
            outliers: outlier::Settings::default(),
            retries: budget::Settings::default(),
            slow_start: SLOW_START,
            panic_below_percent: PANIC_BELOW_PERCENT,
            on_failure: OnFailure::default(),
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
    /// Where requests go by what they are.
    #[serde(default, skip_serializing_if = "RuleList::is_empty")]
    pub rules: RuleList,
    /// How its calls are treated.
    pub settings: ServiceSettings,
}

/// A version as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Where it runs.
    pub endpoints: Vec<Endpoint>,
    /// How one of its endpoints is chosen.
    #[serde(default, skip_serializing_if = "is_default")]
    pub balance: Balance,
    /// Most of its calls that may be under way at a time, open streams left out; beyond it callers are told to come again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight_max: Option<u32>,
    /// The versions that take its new callers, in this order, when none of its endpoints can. A candidate's are not used: what it fails
    /// at has to be seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallback: Vec<VersionName>,
    /// Where its own metrics are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    /// Where it is in its life.
    pub stage: VersionStage,
    /// When it was last withdrawn: sessions that are older do not come back to it, even if it serves again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn_at: Option<Timestamp>,
    /// It takes no new callers by hand, or because it is leaving; what is there finishes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
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
    /// How much it takes beside the version's other endpoints.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u32,
    /// Its deadline, instead of the service's `response_timeout`.
    #[serde(
        default,
        with = "text::duration_option",
        skip_serializing_if = "Option::is_none"
    )]
    pub response_timeout: Option<Duration>,
    /// It takes no new callers; what is there finishes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
}

impl Version {
    /// The endpoints that can be reached: those that are not drained to the end.
    pub fn reachable(&self) -> impl Iterator<Item = &Endpoint> {
        let is_over = |drain: &Option<Drain>| drain.as_ref().is_some_and(|drain| drain.is_over);
        let is_over = move |endpoint: &&Endpoint| is_over(&self.drain) || is_over(&endpoint.drain);
        self.endpoints
            .iter()
            .filter(move |endpoint| !is_over(endpoint))
    }

    /// Whether an endpoint of it takes new callers.
    pub fn takes_callers(&self, endpoint: &Endpoint) -> bool {
        self.drain.is_none() && endpoint.drain.is_none()
    }

    /// Whether any of its endpoints takes new callers.
    pub fn is_open(&self) -> bool {
        let mut endpoints = self.endpoints.iter();
        endpoints.any(|endpoint| self.takes_callers(endpoint))
    }
}
