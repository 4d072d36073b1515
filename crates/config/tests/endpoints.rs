//! What is said about endpoints and cannot be meant: each case says where it is wrong and what to do.

use serin_config::{Config, Diagnostic};

/// A service in which everything is said about its endpoints, and nothing is wrong. Cases replace a part of it.
const GOOD: &str = "\
gateway: { requests_max: 5000 }
services:
  tools:
    protocol: mcp
    path: /mcp
    stable: v1
    versions:
      v1: { endpoints: [ http://127.0.0.1:9001/mcp, { url: http://127.0.0.1:9002/mcp, weight: 3, response_timeout: 30s } ], balance: least_requests, in_flight_max: 500 }
      v2: { endpoints: [ http://127.0.0.1:9003/mcp ], fallback: [v1, v3] }
      v3: { endpoints: [ http://127.0.0.1:9004/mcp ] }
    settings:
      breaker: { failures: 4, open: 20s, probes: 2 }
      outliers: { failures_percent: 40, requests: 30, window: 5s, eject: 15s, eject_percent_max: 60 }
      retries: { attempts: 2, budget_percent: 10, backoff: 50ms }
      slow_start: 10s
      panic_below_percent: 30
      on_failure: fail_closed
";

/// What is wrong instead of what, in which field, and a part of the message and of the help.
const CASES: &[(&str, &str, &str, &str, &str)] = &[
    (
        "weight: 3",
        "weight: 0",
        "services.tools.versions.v1.endpoints[1].weight",
        "weight 0 gets nothing",
        "drain it",
    ),
    (
        "weight: 3",
        "weight: 1001",
        "services.tools.versions.v1.endpoints[1].weight",
        "1001 is out of bounds",
        "from 1 to 1000",
    ),
    (
        "response_timeout: 30s",
        "response_timeout: 0s",
        "services.tools.versions.v1.endpoints[1].response_timeout",
        "out of bounds",
        "from 1ms",
    ),
    (
        "in_flight_max: 500",
        "in_flight_max: 0",
        "services.tools.versions.v1.in_flight_max",
        "takes none",
        "as many as come",
    ),
    (
        "in_flight_max: 500",
        "in_flight_max: 2000000",
        "services.tools.versions.v1.in_flight_max",
        "out of bounds",
        "to 1000000",
    ),
    (
        "failures: 4",
        "failures: 1024",
        "services.tools.settings.breaker.failures",
        "out of bounds",
        "from 0 to 1023",
    ),
    (
        "open: 20s",
        "open: 0s",
        "services.tools.settings.breaker.open",
        "out of bounds",
        "from 1ms to 24h",
    ),
    (
        "probes: 2",
        "probes: 0",
        "services.tools.settings.breaker.probes",
        "out of bounds",
        "from 1 to 100",
    ),
    (
        "failures_percent: 40",
        "failures_percent: 101",
        "services.tools.settings.outliers.failures_percent",
        "101 is out of bounds",
        "to 100",
    ),
    (
        "requests: 30",
        "requests: 0",
        "services.tools.settings.outliers.requests",
        "out of bounds",
        "from 1 to 1024",
    ),
    (
        "window: 5s",
        "window: 0s",
        "services.tools.settings.outliers.window",
        "out of bounds",
        "from 100ms to 1h",
    ),
    (
        "eject: 15s",
        "eject: 48h",
        "services.tools.settings.outliers.eject",
        "48h is out of bounds",
        "to 24h",
    ),
    (
        "eject_percent_max: 60",
        "eject_percent_max: 200",
        "services.tools.settings.outliers.eject_percent_max",
        "200 is out of bounds",
        "to 100",
    ),
    (
        "attempts: 2",
        "attempts: 11",
        "services.tools.settings.retries.attempts",
        "out of bounds",
        "from 0 to 10",
    ),
    (
        "budget_percent: 10",
        "budget_percent: 101",
        "services.tools.settings.retries.budget_percent",
        "out of bounds",
        "to 100",
    ),
    (
        "backoff: 50ms",
        "backoff: 1m",
        "services.tools.settings.retries.backoff",
        "out of bounds",
        "to 10s",
    ),
    (
        "slow_start: 10s",
        "slow_start: 2h",
        "services.tools.settings.slow_start",
        "2h is out of bounds",
        "to 1h",
    ),
    (
        "panic_below_percent: 30",
        "panic_below_percent: 130",
        "services.tools.settings.panic_below_percent",
        "130 is out of bounds",
        "to 100",
    ),
    (
        "requests_max: 5000",
        "requests_max: 0",
        "gateway.requests_max",
        "0 is out of bounds",
        "from 1 to",
    ),
];

fn wrong(text: &str) -> Vec<Diagnostic> {
    match Config::parse(text, "serin.yaml") {
        Ok(_) => Vec::new(),
        Err(error) => error.diagnostics,
    }
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_place_and_what_to_do() {
    assert!(wrong(GOOD).is_empty(), "{:#?}", wrong(GOOD));
    for (good, bad, field, message, help) in CASES {
        assert!(GOOD.contains(good), "{good}");
        let text = GOOD.replacen(good, bad, 1);
        let wrong = wrong(&text);
        let [only] = wrong.as_slice() else {
            panic!("{bad}: {wrong:#?}");
        };
        assert_eq!(only.field, *field, "{bad}");
        assert!(only.message.contains(message), "{bad}: {}", only.message);
        assert!(only.help.contains(help), "{bad}: {}", only.help);
        let position = only.position.expect("it has a place");
        let line = text.lines().nth(position.line - 1).unwrap_or_default();
        assert!(line.contains(bad), "{bad}: {line}");
    }
}
