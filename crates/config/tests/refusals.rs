//! Bad input: each case says where it is wrong and what to do, and doing that makes the problem go away.

mod support;

use proptest::prelude::*;
use serin_config::{Config, FILE_BYTES_MAX, Severity, read_manifest};
use support::{Case, each_is_told_and_its_help_helps, refused};

/// A file in which nothing is wrong. Cases replace a part of it.
const GOOD: &str = "\
environment: production
gateway: { listen: 127.0.0.1:80, cores: 2, hosts: [mcp.example.com], drain: 10s }
admin: { listen: 127.0.0.1:9090 }
store: sqlite:serin.db
control: { tick: 1s }
services:
  tools:
    protocol: mcp
    path: /mcp
    stable: v1.5.0
    versions:
      v1.5.0: { endpoints: [http://127.0.0.1:9001/mcp] }
      v2.0.0: { endpoints: [http://127.0.0.1:9002/mcp] }
    settings: { connect_timeout: 2s, affinity_header: X-User, health: { interval: 5s } }
  pages:
    protocol: http
    path: /pages
    stable: v1
    versions:
      v1: { endpoints: [http://localhost:9003] }
plans:
  mine:
    phases:
      - { share: 5 %, hold: 1h }
      - { share: 25 %, hold: 1h }
      - { share: 100 % }
    thresholds:
      error_rate: { warning: 0.1 %, critical: 1 % }
    evidence: trials 500
";

#[rustfmt::skip]
const CASES: &[Case] = &[
    // Broken YAML
    Case { good: "control: { tick: 1s }", bad: "control: { tick: 1s", place: (6, 9), field: "", message: "did not find expected ',' or '}'",
        help: "brackets", mended: "control: { tick: 1s }" },
    Case { good: "store: sqlite:serin.db", bad: "store: 'sqlite:serin.db", place: (5, 1), field: "", message: "quoted scalar",
        help: "quotes", mended: "store: 'sqlite:serin.db'" },
    Case { good: "plans:\n", bad: "control: {}\nplans:\n", place: (21, 1), field: "", message: "`control` is here twice",
        help: "remove or rename one of the two", mended: "plans:\n" },
    Case { good: "plans:\n", bad: "---\nplans:\n", place: (21, 1), field: "", message: "more than one document",
        help: "remove the `---` lines", mended: "plans:\n" },
    Case { good: "store: sqlite:serin.db", bad: "store: *here", place: (4, 8), field: "", message: "this alias stands for nothing",
        help: "put quotes around", mended: "store: 'sqlite:*here'" },
    // The wrong kind of thing
    Case { good: "environment:", bad: "enviroment:", place: (1, 1), field: "enviroment", message: "there is no field `enviroment` here",
        help: "did you mean `environment`?", mended: "environment:" },
    Case { good: "v2.0.0: { endpoints:", bad: "v2.0.0: { endpoint:", place: (13, 17), field: "services.tools.versions.v2.0.0.endpoint",
        message: "there is no field `endpoint` here", help: "did you mean `endpoints`?", mended: "v2.0.0: { endpoints:" },
    Case { good: "hosts: [mcp.example.com]", bad: "colour: red", place: (2, 44), field: "gateway.colour", message: "there is no field `colour` here",
        help: "use one of `listen`, `cores`, `hosts`", mended: "hosts: []" },
    Case { good: "environment: production", bad: "environment: prodution", place: (1, 14), field: "environment", message: "`prodution` is not known here",
        help: "did you mean `production`?", mended: "environment: production" },
    Case { good: "protocol: mcp", bad: "protocol: mpc", place: (8, 15), field: "services.tools.protocol", message: "`mpc` is not known here",
        help: "did you mean `mcp`?", mended: "protocol: mcp" },
    Case { good: "    path: /mcp\n", bad: "", place: (13, 5), field: "services.tools.settings", message: "the field `path` is missing",
        help: "add `path:` to this block", mended: "    path: /mcp\n" },
    Case { good: "endpoints: [http://localhost:9003]", bad: "endpoints: http://localhost:9003", place: (20, 24), field: "services.pages.versions.v1.endpoints",
        message: "a list belongs here", help: "write `[first, second]`", mended: "endpoints: [http://localhost:9003]" },
    Case { good: "admin: { listen: 127.0.0.1:9090 }", bad: "admin: 127.0.0.1:9090", place: (3, 8), field: "admin", message: "a block of fields belongs here",
        help: "`name: value`", mended: "admin:\n  listen: 127.0.0.1:9090" },
    Case { good: "store: sqlite:serin.db", bad: "store: [sqlite]", place: (4, 8), field: "store", message: "a single value belongs here",
        help: "without brackets", mended: "store: sqlite:a.db" },
    Case { good: "drain: 10s", bad: "connections_max: 10k", place: (2, 87), field: "gateway.connections_max", message: "not a whole number",
        help: "digits only", mended: "connections_max: 10000" },
    Case { good: "admin: { listen: 127.0.0.1:9090 }", bad: "admin: { expose: perhaps }", place: (3, 18), field: "admin.expose", message: "neither true nor false",
        help: "write `true` or `false`", mended: "admin: { expose: false }" },
    Case { good: "  pages:", bad: "  my pages:", place: (15, 3), field: "services.my pages", message: "`my pages` is not a service name",
        help: "use 1 to 63 letters", mended: "  my-pages:" },
    Case { good: "tick: 1s", bad: "tick: soon", place: (5, 18), field: "control.tick", message: "`soon` is not a duration",
        help: "write for example 500ms", mended: "tick: 500ms" },
    Case { good: "share: 25 %", bad: "share: 125 %", place: (25, 18), field: "plans.mine.phases[1].share", message: "`125 %` is not a share",
        help: "a percentage from 0 to 100", mended: "share: 12.5 %" },
    Case { good: "critical: 1 %", bad: "critical: few", place: (28, 47), field: "plans.mine.thresholds.error_rate.critical", message: "`few` is not a limit",
        help: "write `1 %`", mended: "critical: 1 %" },
    Case { good: "evidence: trials 500", bad: "evidence: much", place: (29, 15), field: "plans.mine.evidence", message: "`much` is not evidence",
        help: "`trials 2000`", mended: "evidence: trials 2000" },
    Case { good: "error_rate:", bad: "eror_rate:", place: (28, 7), field: "plans.mine.thresholds.eror_rate", message: "`eror_rate` is not known here",
        help: "did you mean `error_rate`?", mended: "error_rate:" },
    // Static settings
    Case { good: "listen: 127.0.0.1:80", bad: "listen: 8080", place: (2, 20), field: "gateway.listen", message: "`8080` is not an address and port",
        help: "`listen: 127.0.0.1:8080`", mended: "listen: 127.0.0.1:8080" },
    Case { good: "cores: 2", bad: "cores: all", place: (2, 41), field: "gateway.cores", message: "`all` is not a number of cores",
        help: "write `auto`", mended: "cores: auto" },
    Case { good: "hosts: [mcp.example.com]", bad: "hosts: [\"https://mcp.example.com\"]", place: (2, 52), field: "gateway.hosts[0]", message: "is not a host",
        help: "such as `mcp.example.com`", mended: "hosts: [mcp.example.com]" },
    Case { good: "hosts: [mcp.example.com]", bad: "origins: [app.example.com]", place: (2, 54), field: "gateway.origins[0]", message: "is not an origin",
        help: "such as `https://app.example.com`", mended: "origins: [https://app.example.com]" },
    Case { good: "hosts: [mcp.example.com]", bad: "trusted_proxies: [10.0.0.0/33]", place: (2, 62), field: "gateway.trusted_proxies[0]", message: "is not a network",
        help: "`10.0.0.0/8`", mended: "trusted_proxies: [10.0.0.0/8]" },
    Case { good: "hosts: [mcp.example.com]", bad: "trusted_proxies: [10.0.0.1/8]", place: (2, 62), field: "gateway.trusted_proxies[0]", message: "is an address within a range",
        help: "or `10.0.0.1` for the one address", mended: "trusted_proxies: [10.0.0.1]" },
    Case { good: "hosts: [mcp.example.com]", bad: "trusted_proxies: [\"::ffff:10.0.0.0/104\"]", place: (2, 62), field: "gateway.trusted_proxies[0]", message: "addresses of IPv4 are looked at as such",
        help: "write `10.0.0.0/8`", mended: "trusted_proxies: [10.0.0.0/8]" },
    Case { good: "drain: 10s", bad: "connections_max: 0", place: (2, 87), field: "gateway.connections_max", message: "0 is out of bounds",
        help: "from 1 to", mended: "connections_max: 1" },
    Case { good: "drain: 10s", bad: "header_bytes_max: 100", place: (2, 88), field: "gateway.header_bytes_max", message: "100 is out of bounds",
        help: "from 8192 to", mended: "header_bytes_max: 8192" },
    Case { good: "drain: 10s", bad: "drain: 1000h", place: (2, 77), field: "gateway.drain", message: "1000h is out of bounds",
        help: "to 1h", mended: "drain: 1h" },
    Case { good: "listen: 127.0.0.1:9090", bad: "listen: 0.0.0.0:9090", place: (3, 18), field: "admin.listen", message: "reachable from other machines",
        help: "add `expose: true` beside it", mended: "listen: 0.0.0.0:9090, expose: true" },
    Case { good: "listen: 127.0.0.1:9090", bad: "listen: 0.0.0.0:9090", place: (3, 18), field: "admin.listen", message: "reachable from other machines",
        help: "write `listen: 127.0.0.1:9090`", mended: "listen: 127.0.0.1:9090" },
    Case { good: "admin: { listen: 127.0.0.1:9090 }", bad: "admin: { listen: '127.0.0.1:9090', socket: s }", place: (3, 44), field: "admin.socket",
        message: "both a port and a socket", help: "remove `listen` or `socket`", mended: "admin: { socket: s }" },
    Case { good: "store: sqlite:serin.db", bad: "store: postgres://db/serin", place: (4, 8), field: "store", message: "PostgreSQL is not in this release",
        help: "`store: sqlite:serin.db`", mended: "store: sqlite:serin.db" },
    Case { good: "store: sqlite:serin.db", bad: "store: 'sqlite::memory:'", place: (4, 8), field: "store", message: "the log needs a file",
        help: "`store: sqlite:serin.db`", mended: "store: sqlite:serin.db" },
    Case { good: "store: sqlite:serin.db", bad: "store: serin.db", place: (4, 8), field: "store", message: "`serin.db` is not a store",
        help: "`store: sqlite:serin.db`", mended: "store: sqlite:serin.db" },
    Case { good: "tick: 1s", bad: "tick: 99ms", place: (5, 18), field: "control.tick", message: "99ms is out of bounds",
        help: "from 100ms to 1m", mended: "tick: 100ms" },
    // Services
    Case { good: "stable: v1.5.0", bad: "stable: v1.5", place: (10, 13), field: "services.tools.stable", message: "there is no version `v1.5`",
        help: "did you mean `stable: v1.5.0`?", mended: "stable: v1.5.0" },
    Case { good: "stable: v1\n", bad: "stable: production\n", place: (18, 13), field: "services.pages.stable", message: "there is no version `production`",
        help: "write `stable: v1`", mended: "stable: v1\n" },
    Case { good: "path: /pages", bad: "path: pages", place: (17, 11), field: "services.pages.path", message: "does not begin with `/`",
        help: "write `/pages`", mended: "path: /pages" },
    Case { good: "path: /pages", bad: "path: /a/../b", place: (17, 11), field: "services.pages.path", message: "empty or dotted part",
        help: "without `//`, `.`, `..`", mended: "path: /b" },
    Case { good: "path: /pages", bad: "path: /pages/", place: (17, 11), field: "services.pages.path", message: "empty or dotted part",
        help: "a `/` at its end", mended: "path: /pages" },
    Case { good: "path: /pages", bad: "path: /pages?x=1", place: (17, 11), field: "services.pages.path", message: "is not a path",
        help: "letters, digits", mended: "path: /pages" },
    Case { good: "path: /pages", bad: "path: /api/health", place: (17, 11), field: "services.pages.path", message: "the gateway itself answers at `/api/health`",
        help: "choose another path", mended: "path: /api/healthy" },
    Case { good: "path: /pages", bad: "path: /mcp", place: (9, 11), field: "services.tools.path", message: "service `pages` is reached at the same path and host",
        help: "`hosts` of its own", mended: "path: /mcp\n    hosts: [pages.example.com]" },
    Case { good: "path: /pages", bad: "path: /pages\n    hosts: ['a:80']", place: (18, 13), field: "services.pages.hosts[0]", message: "`a:80` is not a host",
        help: "without scheme and port", mended: "path: /pages\n    hosts: ['a']" },
    Case { good: "endpoints: [http://localhost:9003]", bad: "endpoints: []", place: (20, 13), field: "services.pages.versions.v1.endpoints", message: "version `v1` has no endpoint",
        help: "endpoints: [http://127.0.0.1:9001/mcp]", mended: "endpoints: [http://127.0.0.1:9004/mcp]" },
    Case { good: "drain: 10s }", bad: "drain: 10s, tls: { cert: a.pem } }", place: (2, 95), field: "gateway.tls.cert", message: "without `key`",
        help: "add `key: FILE`", mended: "drain: 10s, tls: { cert: a.pem, key: b.pem } }" },
    Case { good: "[http://localhost:9003]", bad: "[localhost:9003]", place: (20, 25), field: "services.pages.versions.v1.endpoints[0]", message: "`localhost:9003` is not a URL",
        help: "write `http://localhost:9003`", mended: "[http://localhost:9003]" },
    Case { good: "[http://localhost:9003]", bad: "[ftp://localhost]", place: (20, 25), field: "services.pages.versions.v1.endpoints[0]", message: "speak http, not `ftp`",
        help: "`http://", mended: "[http://localhost]" },
    Case { good: "[http://localhost:9003]", bad: "['http://[::1/']", place: (20, 25), field: "services.pages.versions.v1.endpoints[0]", message: "is not a URL: ",
        help: "`http://", mended: "['http://[::1]/']" },
    Case { good: "[http://localhost:9003]", bad: "[http://me:pw@localhost]", place: (20, 25), field: "services.pages.versions.v1.endpoints[0]", message: "credentials in a URL",
        help: "before the `@`", mended: "[http://localhost]" },
    Case { good: "[http://localhost:9003]", bad: "[http://localhost?a=b]", place: (20, 25), field: "services.pages.versions.v1.endpoints[0]", message: "query or a fragment",
        help: "remove everything from the `?`", mended: "[http://localhost]" },
    Case { good: "[http://localhost:9003]", bad: "[http://localhost:9003], metrics: ftp://localhost", place: (20, 58), field: "services.pages.versions.v1.metrics", message: "endpoints speak http, not `ftp`",
        help: "`http://127.0.0.1:9001/metrics`", mended: "[http://localhost:9003], metrics: http://localhost:9003/metrics?all=1" },
    Case { good: "[http://localhost:9003]", bad: "[http://localhost:9003], metrics: localhost:9003/metrics", place: (20, 58), field: "services.pages.versions.v1.metrics", message: "is not a URL",
        help: "`http://localhost:9003/metrics`", mended: "[http://localhost:9003], metrics: http://localhost:9003/metrics" },
    Case { good: "[http://localhost:9003]", bad: "[http://localhost:9003], metrics: http://localhost#x", place: (20, 58), field: "services.pages.versions.v1.metrics", message: "a fragment is never sent",
        help: "remove everything from the `#` on", mended: "[http://localhost:9003], metrics: http://localhost/x" },
    Case { good: "critical: 1 %", bad: "critical: 3", place: (28, 47), field: "plans.mine.thresholds.error_rate.critical", message: "`3` does not fit error_rate",
        help: "write a percentage", mended: "critical: 3 %" },
    Case { good: "error_rate: { warning: 0.1 %, critical: 1 % }", bad: "memory: { critical: 1 % }", place: (28, 27), field: "plans.mine.thresholds.memory.critical", message: "`1 %` does not fit memory",
        help: "write a size such as `512MB`", mended: "memory: { warning: +50 %, critical: 512MB }\n      cpu: { critical: 90 % }\n      restarts: { critical: 3 }" },
    Case { good: "[http://localhost:9003]", bad: "[http://localhost:0]", place: (20, 25), field: "services.pages.versions.v1.endpoints[0]", message: "nothing listens at port 0",
        help: "`http://", mended: "[http://localhost:1]" },
    Case { good: "connect_timeout: 2s", bad: "connect_timeout: 0s", place: (14, 34), field: "services.tools.settings.connect_timeout", message: "0s is out of bounds",
        help: "from 1ms to", mended: "connect_timeout: 1ms" },
    Case { good: "connect_timeout: 2s", bad: "body_bytes_max: 10", place: (14, 33), field: "services.tools.settings.body_bytes_max", message: "10 is out of bounds",
        help: "from 1024 to 67108864", mended: "body_bytes_max: 67108864" },
    Case { good: "affinity_header: X-User", bad: "affinity_header: 'X User'", place: (14, 55), field: "services.tools.settings.affinity_header", message: "`X User` is not a header name",
        help: "letters, digits and `-`", mended: "affinity_header: X-User" },
    Case { good: "interval: 5s", bad: "interval: 1ms", place: (14, 83), field: "services.tools.settings.health.interval", message: "1ms is out of bounds",
        help: "from 100ms to", mended: "interval: 100ms" },
    Case { good: "interval: 5s", bad: "path: health", place: (14, 79), field: "services.tools.settings.health.path", message: "`health` is not a path",
        help: "such as `/health`", mended: "path: /health" },
    Case { good: "interval: 5s", bad: "path: //other/x", place: (14, 79), field: "services.tools.settings.health.path", message: "`//other/x` is not a path",
        help: "on the endpoint's host", mended: "path: /other/x" },
    Case { good: "interval: 5s", bad: r"path: /\other/x", place: (14, 79), field: "services.tools.settings.health.path", message: "is not a path",
        help: "on the endpoint's host", mended: "path: /other/x" },
    Case { good: "interval: 5s", bad: "healthy_after: 0", place: (14, 88), field: "services.tools.settings.health.healthy_after", message: "0 probes decide nothing",
        help: "at least 1", mended: "healthy_after: 1" },
    Case { good: "interval: 5s", bad: "expected: [200]", place: (14, 73), field: "services.tools.settings.health.expected", message: "statuses are expected of a path, and there is none",
        help: "add `path: /health`", mended: "path: /health, expected: [200]" },
    Case { good: "interval: 5s", bad: "path: /health, expected: [200, 99]", place: (14, 104), field: "services.tools.settings.health.expected[1]", message: "99 is not an HTTP status",
        help: "from 100 to 599", mended: "path: /health, expected: [200, 599]" },
    Case { good: "interval: 5s", bad: "path: /health, expected: [200, 200]", place: (14, 104), field: "services.tools.settings.health.expected[1]", message: "200 is here twice",
        help: "remove one", mended: "path: /health, expected: [200]" },
    // Plans
    Case { good: "  mine:", bad: "  my plan:", place: (22, 3), field: "plans.my plan", message: "`my plan` is not a plan name",
        help: "use 1 to 63 letters", mended: "  my-plan:" },
    Case { good: "share: 25 %", bad: "share: 4 %", place: (25, 18), field: "plans.mine.phases[1].share", message: "the share falls or stays: 4 % after 5 %",
        help: "rise from phase to phase", mended: "share: 40 %" },
    Case { good: "share: 100 %", bad: "share: 90 %", place: (26, 18), field: "plans.mine.phases[2].share", message: "the last phase ends at 90 %",
        help: "`{ share: 100 % }`", mended: "share: 100 %" },
    Case { good: "critical: 1 %", bad: "critical: 500ms", place: (28, 47), field: "plans.mine.thresholds.error_rate.critical", message: "`500ms` does not fit error_rate",
        help: "write a percentage", mended: "critical: 2 %" },
    Case { good: "evidence: trials 500", bad: "judge: { alpha: 2 }", place: (29, 21), field: "plans.mine.judge.alpha", message: "no chance of error",
        help: "0.01", mended: "judge: { alpha: 0.05 }" },
    Case { good: "evidence: trials 500", bad: "judge: { errors: 5 % }", place: (29, 22), field: "plans.mine.judge.errors", message: "`5 %` is no tolerance",
        help: "`+20 % +0.2pp`", mended: "judge: { errors: +50 % }" },
    Case { good: "evidence: trials 500", bad: "signals: { complaint: { } }", place: (29, 16), field: "plans.mine.signals.complaint", message: "without a number does nothing",
        help: "`{ warning: 1, critical: 3 }`", mended: "signals: { complaint: { warning: 2 } }" },
    Case { good: "evidence: trials 500", bad: "values: { passed: { tool: t, pointer: passed, warning: 90 % } }", place: (29, 43), field: "plans.mine.values.passed.pointer", message: "`passed` is no JSON pointer",
        help: "`/guard/passed`", mended: "values: { passed: { tool: t, pointer: /passed, warning: 90 % } }" },
];

#[test]
fn every_refusal_names_the_place_and_its_help_helps() {
    each_is_told_and_its_help_helps(GOOD, CASES);
}

#[test]
fn several_problems_are_reported_at_once_in_the_order_of_the_file() {
    let text = GOOD
        .replace("share: 25 %", "share: 4 %")
        .replace("tick: 1s", "tick: 1ms")
        .replace("stable: v1.5.0", "stable: v9");
    let error = refused(&text);
    let fields: Vec<_> = error
        .diagnostics
        .iter()
        .map(|found| found.field.as_str())
        .collect();
    assert_eq!(
        fields,
        [
            "control.tick",
            "services.tools.stable",
            "plans.mine.phases[1].share"
        ]
    );
    assert_eq!(error.to_string().lines().count(), 3);
    assert!(
        error
            .to_string()
            .starts_with("serin.yaml:5:18: 1ms is out of bounds; write"),
        "{error}"
    );
}

#[test]
fn overrides_that_are_no_block_are_told_how_they_are_written() {
    let text = GOOD.replace("connect_timeout: 2s", "overrides: true");
    let error = refused(&text);
    assert!(
        error.diagnostics[0]
            .help
            .contains("canary: true, version: true"),
        "{error}"
    );
}

#[test]
fn what_is_merely_odd_is_a_warning() {
    let text = GOOD.replace(":9002/", ":9001/");
    let checked = Config::parse(&text, "serin.yaml").unwrap();
    let [warning] = checked.warnings.as_slice() else {
        panic!("{:?}", checked.warnings)
    };
    assert_eq!(warning.severity, Severity::Warning);
    assert_eq!(warning.field, "services.tools.versions.v2.0.0.endpoints[0]");
    assert!(
        Config::parse(GOOD, "serin.yaml")
            .unwrap()
            .warnings
            .is_empty()
    );
}

#[test]
fn a_manifest_passes_the_same_checks_in_yaml_and_json() {
    let json =
        r#"{"plans": {"p": {"phases": [{"share": "50 %"}, {"share": 25}, {"share": "100 %"}]}}}"#;
    let error = read_manifest(json, "body").unwrap_err();
    assert_eq!(error.diagnostics[0].field, "plans.p.phases[1].share");
    assert_eq!(error.diagnostics[0].place(), "body:1:58");
    let manifest = read_manifest(&json.replace("25}", "75}"), "body")
        .unwrap()
        .value;
    assert_eq!(manifest.plans["p"].phases.len(), 3);

    // What the admin API sends is what it takes.
    let json =
        serde_json::to_string_pretty(&read_manifest(GOOD, "serin.yaml").unwrap().value).unwrap();
    let back = read_manifest(&json, "body").unwrap_or_else(|error| panic!("{error}\n{json}"));
    assert_eq!(
        back.value,
        Config::parse(GOOD, "serin.yaml").unwrap().value.manifest
    );

    // Static settings are somebody else's when a whole file is applied.
    let elsewhere = GOOD.replace("listen: 127.0.0.1:9090", "listen: 0.0.0.0:9090");
    assert!(read_manifest(&elsewhere, "serin.yaml").is_ok());
    assert!(read_manifest(&GOOD.replace("store:", "stor:"), "serin.yaml").is_err());
}

#[test]
fn alias_bombs_and_deep_nests_are_refused_quickly() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = format!("*a{}, ", level - 1).repeat(10);
        bomb += &format!("a{level}: &a{level} [{}]\n", before.trim_end_matches(", "));
    }
    let nest = "[".repeat(FILE_BYTES_MAX / 2);
    let block = (0..1000).fold(String::new(), |text, depth| {
        text + &" ".repeat(depth) + "a:\n"
    });
    let list = "- x\n".repeat(FILE_BYTES_MAX / 4);
    let documents = "---\n".repeat(FILE_BYTES_MAX / 4);
    for (text, message) in [
        (bomb, "too large once its aliases are expanded"),
        (nest, "recursion limit"),
        (block, "nested too deep"),
        (list, "too large"),
        (documents, "more than one document"),
    ] {
        let begun = processor_seconds();
        let error = refused(&text);
        // Far above what it takes, far below what an expansion would. Time of the processor: others may have the machine.
        let taken = processor_seconds() - begun;
        assert!(taken < 5, "{taken} s");
        assert!(error.to_string().contains(message), "{error}");
    }
}

/// What this thread has used of a processor.
fn processor_seconds() -> i64 {
    rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).tv_sec
}

#[test]
fn a_file_may_be_as_large_as_the_limit() {
    let padding = FILE_BYTES_MAX - GOOD.len();
    let text = format!("{GOOD}#{}", "x".repeat(padding - 1));
    assert!(Config::parse(&text, "serin.yaml").is_ok());
    let error = refused(&(text + "x"));
    assert_eq!(
        error.to_string(),
        "serin.yaml: the file is larger than 1024 KiB; split it and `serin apply` the parts one by one"
    );
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        drop(Config::parse(&text, "serin.yaml"));
    }

    /// Nearly valid files reach further than noise: any run of bytes replaced by any text.
    #[test]
    fn damaged_files_never_panic_and_point_inside_the_file(at in 0..GOOD.len(), length in 0..40_usize, noise in "[ -~\n\tä*&!{}\\[\\]:,#%0-9]{0,20}") {
        let end = (at + length).min(GOOD.len());
        let text = format!("{}{noise}{}", &GOOD[..at], &GOOD[end..]);
        if let Err(error) = Config::parse(&text, "serin.yaml") {
            prop_assert!(!error.diagnostics.is_empty());
            for found in error.diagnostics {
                prop_assert!(!found.message.is_empty() && !found.help.is_empty());
                let at = found.position.unwrap();
                prop_assert!(at.offset + at.length <= text.len(), "{found:?}");
                prop_assert!(text.is_char_boundary(at.offset), "{found:?}");
            }
        }
    }
}
