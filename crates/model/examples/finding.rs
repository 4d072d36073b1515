//! What it costs to find a request's service among 1 and 1,000: by its path, by its host where all share a path, and by its name.
//! `cargo run --release -p serin-model --example finding`.

use serin_model::{
    name::ServiceName,
    service::Protocol,
    snapshot::{ServiceRoute, Services},
};
use std::{hint::black_box, sync::Arc, time::Instant};

const MANY: usize = 1_000;

/// Many short rounds: their median leaves out those that others spoiled.
const ROUNDS: usize = 101;
const ASKED: usize = 10_000;

fn main() {
    let counts = [1, MANY].map(|count| {
        let all = services(count);
        // Others at each time, in an order that no cache foresees.
        let asked: Vec<_> = (0..ASKED).map(|n| n * 7919 % count).collect();
        let paths: Vec<_> = asked.iter().map(|n| path_below(*n)).collect();
        let hosts: Vec<_> = asked.iter().map(|n| host(*n)).collect();
        let names: Vec<_> = asked.iter().map(|n| name(*n)).collect();
        [
            median(|n| black_box(all.by_path.find(Some("any.test"), &paths[n])).is_some()),
            median(|n| black_box(all.by_host.find(Some(&hosts[n]), "/mcp")).is_some()),
            median(|n| black_box(all.by_path.named(&names[n])).is_some()),
        ]
    });
    let [one, many] = counts;
    for (at, what) in ["path", "host", "name"].into_iter().enumerate() {
        println!(
            "a service by {what}: {:.0} ns of 1, {:.0} ns of {MANY}, {:.2} times as long",
            one[at],
            many[at],
            many[at] / one[at]
        );
    }
}

struct All {
    by_path: Services,
    by_host: Services,
}

fn services(count: usize) -> All {
    let service = |n: usize, path: String, hosts: Vec<String>| {
        let service = ServiceRoute::new(name(n), Protocol::Mcp, path, vec![]);
        Arc::new(ServiceRoute { hosts, ..service })
    };
    All {
        by_path: (0..count).map(|n| service(n, path(n), vec![])).collect(),
        by_host: (0..count)
            .map(|n| service(n, "/mcp".into(), vec![host(n)]))
            .collect(),
    }
}

fn path(n: usize) -> String {
    format!("/teams/{:02}/service-{n:03}/mcp", n % 40)
}

/// What a client asks for: a little more than the service's own path.
fn path_below(n: usize) -> String {
    format!("{}/messages", path(n))
}

fn name(n: usize) -> ServiceName {
    format!("service-{n}").parse().expect("a name")
}

fn host(n: usize) -> String {
    format!("service-{n:03}.example.org")
}

/// The median of the rounds' nanoseconds a question. Whatever is asked is there.
fn median(ask: impl Fn(usize) -> bool) -> f64 {
    let round = || {
        let begun = Instant::now();
        assert!((0..ASKED).all(&ask), "a service is not found");
        begun.elapsed().as_secs_f64() * 1e9 / ASKED as f64
    };
    let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}
