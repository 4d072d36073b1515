//! By what a caller is known again: what keeps callers without a session on one version and one endpoint.

use crate::text;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Something of a request that stays the same from one to the next of a caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The value of this header.
    Header(String),
    /// The value of a cookie, which the gateway gives to whoever comes without one.
    Cookie(Cookie),
    /// The tenant: all of its callers stay together.
    Tenant,
    /// Who proved who they are (tenant and subject), or whom a token names.
    Principal,
    /// The client's address; behind a proxy that is trusted, the one that it names.
    Address,
}

/// A cookie that the gateway gives out (RFC 6265).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cookie {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// How long a client keeps it; without, until the client is closed.
    #[serde(
        default,
        with = "text::duration_option",
        skip_serializing_if = "Option::is_none"
    )]
    pub ttl: Option<Duration>,
    /// Below which path it is sent; the service's own unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Only over TLS.
    #[serde(default = "yes")]
    pub secure: bool,
    /// Out of the reach of scripts.
    #[serde(default = "yes")]
    pub http_only: bool,
    /// Whether other sites may make a browser send it.
    #[serde(default)]
    pub same_site: SameSite,
}

fn yes() -> bool {
    true
}

/// Whether other sites may make a browser send a cookie (RFC 6265bis, section 4.1.2.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SameSite {
    /// Never.
    Strict,
    /// When a person follows a link.
    #[default]
    Lax,
    /// Always; only together with `secure`.
    None,
}
