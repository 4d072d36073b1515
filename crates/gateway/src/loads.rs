//! How the endpoints do: what is under way at each, whose breaker is open, which is ejected. Shared by the cores.

use serin_model::{
    name::EndpointId,
    route::{Live, Unloaded},
};
use serin_route::standing::Standing;

/// How the endpoints do.
#[derive(Debug, Default)]
pub(crate) struct Loads;

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
