//! One of several, by key, in turn, or by load.

use serde::{Deserialize, Serialize};

/// How one of the versions of a rule is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// By what the caller is known again by; the numbers are percentages and make 100. A version whose number grows only wins callers.
    Percentage,
    /// The same; the numbers are weights.
    #[default]
    Weighted,
    /// Each request in turn, as often as the weights say. Sessions stay where they began.
    RoundRobin,
    /// The one with the fewest requests under way for its weight.
    LeastRequests,
    /// By the value of this header; who has none, as `weighted`.
    Header(String),
    /// By the value of this cookie; who has none is given one.
    Cookie(crate::source::Cookie),
    /// By the client's address.
    IpHash,
}

/// How one of the endpoints of a version is chosen for callers who may be assigned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// By what the caller is known again by, consistently: an endpoint that comes or goes moves only its own callers.
    #[default]
    Hash,
    /// Each request in turn, as often as the weights say.
    RoundRobin,
    /// The one with the fewest requests under way for its weight.
    LeastRequests,
}
