//! What a rule asks of a request, and the first rule that fits.
//!
//! [`Condition`] is as somebody wrote it; [`problems()`] says what is wrong with it; a [`Matcher`] is a list of them made ready, which finds
//! the first that holds, and tells which of them can never be reached.

mod check;
mod index;
mod logic;
mod matcher;
mod problems;
mod values;
mod visible;

#[cfg(test)]
mod tests;

pub use self::{
    logic::{Comparison, covers, may_overlap, never_holds},
    matcher::Matcher,
    problems::{Problem, problems},
    values::cookies,
    visible::{is_host_known, is_said_by_proxies, visible, without_port},
};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Deepest nesting of a condition: deeper ones are no longer read by people.
pub const DEPTH_MAX: usize = 8;
/// Most parts of a condition, tests and `all`, `any` and `not` together: each may be asked for a request.
pub const PARTS_MAX: usize = 64;
/// Longest text of a test, in bytes; longer values of headers are rare.
pub const TEXT_BYTES_MAX: usize = 1024;
/// Longest name of a header, cookie or parameter, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Most texts of a `one_of`: they are searched by halves, and compared with those of other rules when rules are taken.
pub const TEXTS_MAX: usize = 1000;
/// Most ranges of addresses of a test: they are gone through one by one.
pub const NETS_MAX: usize = 256;
/// Largest regular expression once it is compiled: some thousand states, each of which may have to be looked at for a byte of a text.
pub const REGEX_BYTES_MAX: usize = 128 * 1024;
/// Largest memory, for each core, of what a regular expression has found out about itself while it ran.
const DFA_BYTES_MAX: usize = 256 * 1024;

/// What must be so of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// All of these.
    All(Vec<Condition>),
    /// At least one of these.
    Any(Vec<Condition>),
    /// Not this.
    Not(Box<Condition>),
    /// A header: any of its values.
    Header(Test),
    /// A cookie: the first of its name.
    Cookie(Test),
    /// A parameter of the query, decoded: any of its values.
    Query(Test),
    /// The path, behind that of the service.
    Path(Test),
    /// The method.
    Method(Test),
    /// The host, lower case, without a port.
    Host(Test),
    /// The tenant.
    Tenant(Test),
    /// The role of the caller's key: `admin`, `user` or `read_only`.
    Role(Test),
    /// A tool that is called, in a batch any of them.
    Tool(Test),
    /// The client's address.
    Address {
        /// In one of these ranges.
        #[serde(deserialize_with = "crate::text::networks")]
        within: Vec<IpNet>,
    },
}

impl Condition {
    /// Shows every part of it that has no parts, and where it stands if the whole stands at `at`, as in `when.all[2].header`.
    pub fn each_test<'c>(&'c self, at: &str, show: &mut dyn FnMut(&'c Self, String)) {
        let name = match self {
            Self::All(parts) | Self::Any(parts) => {
                let name = if matches!(self, Self::All(_)) {
                    "all"
                } else {
                    "any"
                };
                for (index, part) in parts.iter().enumerate() {
                    part.each_test(&format!("{at}.{name}[{index}]"), show);
                }
                return;
            }
            Self::Not(part) => return part.each_test(&format!("{at}.not"), show),
            Self::Header(_) => "header",
            Self::Cookie(_) => "cookie",
            Self::Query(_) => "query",
            Self::Path(_) => "path",
            Self::Method(_) => "method",
            Self::Host(_) => "host",
            Self::Tenant(_) => "tenant",
            Self::Role(_) => "role",
            Self::Tool(_) => "tool",
            Self::Address { .. } => "address",
        };
        show(self, format!("{at}.{name}"));
    }

    /// Its test, unless it has parts or is of addresses.
    pub const fn test(&self) -> Option<&Test> {
        match self {
            Self::All(_) | Self::Any(_) | Self::Not(_) | Self::Address { .. } => None,
            Self::Header(test)
            | Self::Cookie(test)
            | Self::Query(test)
            | Self::Path(test)
            | Self::Method(test)
            | Self::Host(test)
            | Self::Tenant(test)
            | Self::Role(test)
            | Self::Tool(test) => Some(test),
        }
    }
}

/// What must be so of a text. Exactly one of `equals`, `prefix`, `suffix`, `matches`, `one_of` and `present` is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Test {
    /// Of which header, cookie or parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// It is this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub equals: Option<String>,
    /// It begins so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// It ends so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suffix: Option<String>,
    /// All of it is described by this regular expression (of the crate `regex`, which takes linear time), whose classes are those of
    /// ASCII; `(?u)` at its beginning makes them those of Unicode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matches: Option<String>,
    /// It is one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub one_of: Vec<String>,
    /// It is there, or (`false`) is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
    /// Upper and lower case of ASCII are the same. Of hosts they always are, of methods never.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ignore_case: bool,
}

/// What of a request conditions ask.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its headers, as the client sent them.
    pub headers: &'a HeaderMap,
    /// Its method.
    pub method: &'a str,
    /// Its host, without a port.
    pub host: &'a str,
    /// Its path behind that of the service.
    pub path: &'a str,
    /// Its query.
    pub query: Option<&'a str>,
    /// Whose it is.
    pub tenant: Option<&'a str>,
    /// The role of the caller's key.
    pub role: Option<&'a str>,
    /// The tools that it calls.
    pub tools: &'a [&'a str],
    /// The client's address.
    pub address: IpAddr,
}

/// Headers as servers read them that tell only letters and digits apart in names, as CGI and WSGI do; none if there is nothing to mistake.
pub fn with_lookalikes(headers: &HeaderMap) -> Option<HeaderMap> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let is_odd = |name: &HeaderName| !name.as_str().bytes().all(is_plain);
    if !headers.keys().any(is_odd) {
        return None;
    }
    let mut all = headers.clone();
    for (name, value) in headers.iter().filter(|(name, _)| is_odd(name)) {
        let plain = name.as_str().bytes();
        let plain: Vec<u8> = plain.map(|b| if is_plain(b) { b } else { b'-' }).collect();
        if let Ok(plain) = HeaderName::from_bytes(&plain) {
            // A map that is full has more than a server takes.
            let _ = all.try_append(plain, value.clone());
        }
    }
    Some(all)
}
