//! How a service's callers prove who they are, and how the gateway proves itself to the endpoints.

use serde::{Deserialize, Serialize};
use serin_flags::FlagKey;
use serin_tenancy::claims::Expected;
use std::{fmt, sync::Arc};

/// Who may call a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// Everybody, as far as the gateway is concerned: credentials go to the endpoint as they came.
    #[default]
    Passthrough,
    /// Who has a key of ours, or a token of [`Jwt`]. Neither is ever forwarded.
    Serin,
}

/// Tokens of an identity provider that are taken beside keys: signed JWTs (RFC 9068, RFC 8725).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    /// The `iss` that tokens must have, and the authorization server that clients are sent to.
    pub issuer: String,
    /// The `aud` that tokens must have: this gateway, so that a token for another service opens nothing here.
    pub audience: String,
    /// Where the provider's keys are: an `http(s)://` URL, or `file:PATH`.
    pub jwks: String,
    /// The claim with the tenant.
    #[serde(default = "tenant_claim")]
    pub tenant_claim: String,
    /// The claim with the scopes: a list, or a text with blanks between them. Those that are none of ours are left out.
    #[serde(default = "scope_claim")]
    pub scope_claim: String,
    /// The claim with the role; without it, `user`.
    #[serde(default = "role_claim")]
    pub role_claim: String,
}

impl Jwt {
    /// What the claims must be, and where they stand.
    pub fn expected(&self) -> Expected<'_> {
        Expected {
            issuer: &self.issuer,
            audience: &self.audience,
            tenant: &self.tenant_claim,
            scope: &self.scope_claim,
            role: &self.role_claim,
        }
    }
}

fn tenant_claim() -> String {
    "tenant".to_owned()
}

fn scope_claim() -> String {
    "scope".to_owned()
}

fn role_claim() -> String {
    "role".to_owned()
}

/// Whether requests with a key must be signed (`docs/access.md`, "Signed requests").
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signing {
    /// They may be.
    #[default]
    Optional,
    /// They must be.
    Required,
    /// They must be unless this flag is off for the tenant (the Stage I seed's `request_signing`). One that is killed, is over or is not
    /// there says nothing, and then they must be.
    Flag(FlagKey),
}

/// How the gateway reaches the endpoints of a service and proves itself to them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    /// Where the value of [`Upstream::header`] is: `env:NAME` or `file:PATH`. Never the value itself, which would stand in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// The header that carries it; `Authorization` unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// A file of certificates (PEM) that endpoints at `https://` are checked by, in place of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// The name that their certificates must have, if it is not that of the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

impl Upstream {
    /// The header that carries the credential.
    pub fn header(&self) -> &str {
        self.header.as_deref().unwrap_or("authorization")
    }

    /// Whether nothing is said.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

/// A secret that was read from outside. It stands in no log and in no event.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// This text.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// By what the gateway proves itself to the endpoints of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// By a header.
    Known {
        /// Its name.
        header: Arc<str>,
        /// Its value.
        value: Secret,
    },
    /// It could not be read.
    Missing {
        /// Where it should have been: `env:NAME` or `file:PATH`.
        reference: Arc<str>,
    },
}
