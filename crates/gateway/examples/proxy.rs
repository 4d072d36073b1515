//! The gateway alone, with a routing table that does not change: for conformance runs and measurements without the rest.
//!
//! `proxy LISTEN SHARE STABLE[,STABLE...] [CANDIDATE[,CANDIDATE...]]`, for example
//! `proxy 127.0.0.1:8080 50 http://127.0.0.1:9001/mcp http://127.0.0.1:9002/mcp`. `ROLLOUT` and `CORES` may be set.

use arc_swap::ArcSwap;
use serin_gateway::{Gateway, Keyring, Options};
use serin_model::{
    name::{EndpointId, RolloutId},
    observe::Outcome,
    service::Protocol,
    share::Share,
    snapshot::{EndpointRoute, ServiceRoute, Snapshot, Split, VersionRoute},
};
use std::{collections::BTreeMap, error::Error, sync::Arc};
use tokio::sync::mpsc;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| args.next().ok_or_else(|| format!("{what} is missing"));
    let listener = std::net::TcpListener::bind(next("the address to listen on")?)?;
    let share: Share = next("the share")?.parse()?;
    let stable = version("v1", 10, &next("stable's URL")?)?;
    let candidate = next("the candidate's URL").ok();
    let candidate = candidate.map(|urls| version("v2", 20, &urls));
    let rollout = std::env::var("ROLLOUT").unwrap_or_else(|_| uuid::Uuid::nil().to_string());
    let rollout: RolloutId = rollout.parse()?;
    let has_candidate = candidate.is_some();
    let versions = [Ok(stable)].into_iter().chain(candidate);
    let versions = versions.collect::<Result<_, _>>()?;
    let service = ServiceRoute {
        split: has_candidate.then_some(Split::new(rollout, 1, share)),
        ..ServiceRoute::new("tools".parse()?, Protocol::Mcp, "/mcp", versions)
    };
    let snapshot = Snapshot {
        position: 1,
        services: [Arc::new(service)].into_iter().collect(),
        ..Snapshot::default()
    };
    let mut options = Options::for_listener(listener.local_addr()?);
    if let Ok(cores) = std::env::var("CORES") {
        options.cores = cores.parse()?;
    }
    let (sender, receiver) = mpsc::channel(1024);
    let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
    let _gateway = Gateway::start(listener, options, Keyring::ephemeral()?, snapshot, sender)?;
    report(receiver);
    Ok(())
}

fn version(name: &str, first: u32, urls: &str) -> Result<VersionRoute, Box<dyn Error>> {
    let endpoints = (first..)
        .zip(urls.split(','))
        .map(|(id, url)| EndpointRoute::new(EndpointId(id), url));
    Ok(VersionRoute::new(name.parse()?, endpoints.collect()))
}

/// Prints how many calls ended how, by version, whenever that has changed.
fn report(mut observed: mpsc::Receiver<serin_model::observe::Sealed>) {
    let mut ended = BTreeMap::<(String, &str), u64>::new();
    while let Some(sealed) = observed.blocking_recv() {
        for (key, counts) in &sealed.cells {
            for outcome in Outcome::ALL {
                let key = (key.version.to_string(), outcome.label());
                *ended.entry(key).or_default() += counts.of(outcome);
            }
        }
        if !sealed.cells.is_empty() && std::env::var_os("QUIET").is_none() {
            let shown = ended.iter().filter(|(_, n)| **n > 0);
            println!("{:?}", shown.collect::<Vec<_>>());
        }
    }
}
