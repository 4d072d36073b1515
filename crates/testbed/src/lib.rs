//! What Serin is tried against: sample and fixture MCP servers, fault injection and a client population.
//!
//! For `serin demo`, the tests and the benchmarks only; nothing here serves anyone.
//!
//! - [`client`]: an MCP client of either era, close to the wire.
//! - [`sample`]: an MCP server in two versions whose answers say who gave them.
//! - [`faults`]: makes a sample server fail in a chosen way, from a chosen instant.
//! - [`record`]: what a server was sent, on the disk, so that nothing was sent twice can be shown.
//! - [`population`]: clients of both eras that check every answer on the wire.
//! - [`outage`]: endpoints that are killed and brought back while a population calls.
//! - [`load`] and [`upstream`]: the two ends of a benchmark.
//! - `valkey`: a real server that gateways share their limits by, with the feature of that name.
//! - [`fixture`]: the server that the public conformance suite expects.

pub mod agent;
pub mod client;
#[cfg(feature = "faults")]
pub mod faults;
pub mod fixture;
pub mod load;
pub mod outage;
pub mod population;
pub mod ramp;
pub mod record;
pub mod sample;
mod serve;
pub mod upstream;
#[cfg(feature = "valkey")]
pub mod valkey;
