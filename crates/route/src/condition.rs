//! What a rule asks of a request, and the first rule that fits.

use http::HeaderMap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

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
    /// A cookie.
    Cookie(Test),
    /// A parameter of the query.
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
        within: Vec<IpNet>,
    },
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
    /// All of it is described by this regular expression (of the crate `regex`, which takes linear time).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matches: Option<String>,
    /// It is one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub one_of: Vec<String>,
    /// It is there, or (`false`) is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
    /// Upper and lower case are the same. Of hosts and methods of HTTP they always, respectively never, are.
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
