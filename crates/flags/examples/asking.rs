//! What one question costs: of a flag, with 10,000 tenants that have variants of their own, and of the latch of kills.
//! `cargo run --release -p serin-flags --example asking`.

use jiff::Timestamp;
use serde_json::{Value, json};
use serin_flags::{Context, Environment, Flag, Flags, Kills, Latch, Table};
use std::{collections::BTreeMap, hint::black_box, sync::Arc, time::Instant};

const TENANTS: usize = 10_000;
const FLAGS: usize = 100;
const KILLS: usize = 1_000;
/// Different tenants and tools that are asked for.
const CALLERS: usize = 64;

/// Many short rounds: their median leaves out those that others spoiled.
const ROUNDS: usize = 51;
const ASKED: usize = 20_000;

fn main() {
    let table = table();
    let attributes = json!({"service": "tools", "tool": "search", "tier": "gold", "email": "ann@example.org", "session_type": "web"});
    let nobody: Vec<_> = (0..ASKED).map(|n| format!("user-{n}")).collect();
    let tenants: Vec<_> = (0..TENANTS).map(|n| format!("tenant-{n}")).collect();
    for (what, flag, has_own) in [
        ("a flag, the tenant has its own variant", "flag-0", true),
        ("a flag, the tenant has none, no rule", "flag-1", false),
        (
            "a flag, the tenant has none, a rule with a percentage",
            "flag-2",
            false,
        ),
        (
            "a flag, the tenant has none, a percentage alone",
            "flag-3",
            false,
        ),
    ] {
        let latch = Latch::default();
        let ns = median(|n| {
            let tenant = &tenants[(n * 7919) % TENANTS];
            let context = Context {
                targeting_key: Some(&nobody[n]),
                tenant: Some(if has_own { tenant } else { &nobody[n] }),
                environment: Environment::Production,
                attributes: attributes.as_object(),
                now: Timestamp::UNIX_EPOCH,
            };
            black_box(table.evaluate(&latch, black_box(flag), &context));
        });
        println!("{what}: {ns:.0} ns");
    }
    let callers: Vec<_> = (0..CALLERS).map(|n| format!("customer-{n}")).collect();
    let tools: Vec<_> = (0..CALLERS).map(|n| format!("search_{n}")).collect();
    for (what, latch) in [
        ("nothing killed", Latch::default()),
        ("1,000 kills of other things", killed()),
    ] {
        let ns = median(|n| {
            // Versions and tools of this very service are among the killed.
            let (service, version) = black_box(("tools", "v2.0.0"));
            let (tenant, tool) = (&callers[n % CALLERS], &tools[n % CALLERS]);
            black_box(latch.stops_service(Environment::Production, service, Some(tenant)));
            black_box(latch.stops_version(service, version));
            black_box(latch.stops_tool(service, tool));
        });
        println!("the latch, {what}: {ns:.1} ns");
    }
}

/// What a question costs in the median of all rounds, in nanoseconds.
fn median(mut ask: impl FnMut(usize)) -> f64 {
    let mut rounds: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            for n in 0..ASKED {
                ask(n);
            }
            begun.elapsed().as_secs_f64() * 1e9 / ASKED as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn table() -> Table {
    let rules = [
        Value::Null,
        Value::Null,
        json!({"if": [
            {"and": [{"in": [{"var": "tier"}, ["gold", "silver"]]}, {"ends_with": [{"var": "email"}, "@example.org"]}]},
            {"fractional": [["on", 25], ["off", 75]]},
            "off",
        ]}),
        json!({"fractional": [["on", 25], ["off", 75]]}),
    ];
    let flags: Flags = (0..FLAGS)
        .filter_map(|n| {
            let flag = json!({
                "state": "ENABLED",
                "variants": {"on": true, "off": false},
                "defaultVariant": "on",
                "targeting": rules[n % rules.len()],
                "serin": {"offVariant": "off"},
            });
            let flag: Flag = serde_json::from_value(flag).ok()?;
            Some((format!("flag-{n}").parse().ok()?, Arc::new(flag)))
        })
        .collect();
    let own: BTreeMap<_, _> = flags
        .keys()
        .step_by(10)
        .map(|key| (key.clone(), Arc::from("off")))
        .collect();
    let tenants =
        (0..TENANTS).filter_map(|n| Some((format!("tenant-{n}").parse().ok()?, own.clone())));
    Table {
        overrides: Arc::new(tenants.collect()),
        flags: Arc::new(flags),
        environment: Environment::Production,
        ..Table::default()
    }
}

fn killed() -> Latch {
    let mut kills = Kills::default();
    let kinds = [
        "service:service-",
        "version:tools/v1.0.",
        "tool:tools/tool-",
        "tool:*/tool-",
        "tenant:tenant-",
        "flag:flag-",
    ];
    for n in 0..KILLS {
        let kill = json!({
            "target": format!("{}{n}", kinds[n % kinds.len()]),
            "generation": n + 1,
            "position": "killed",
            "at": "2026-01-01T00:00:00Z",
            "actor": "bench",
            "reason": "measuring",
            "cause": "manual",
        });
        if let Ok(kill) = serde_json::from_value(kill) {
            kills.take(kill);
        }
    }
    kills.latch()
}
