//! What the rules of a service cost a request that fits the last of them. `cargo run --release -p serin-model --example rules`.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use serin_model::{
    name::EndpointId,
    route::{Rules, Unloaded},
    rule::Rule,
    service::Protocol,
    snapshot::{EndpointRoute, ServiceRoute, VersionRoute},
};
use serin_route::condition::Request;
use std::{error::Error, hint::black_box, time::Instant};

const RULES: usize = 100;
/// Many rounds, shorter than a turn of the scheduler: their median leaves out those that others spoiled.
const ROUNDS: usize = 501;
const ASKED: usize = 500;

/// The headers of a browser behind a proxy, with cookies.
const HEADERS: [(&str, &str); 14] = [
    ("host", "mcp.example.com"),
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    ),
    ("accept", "application/json, text/event-stream"),
    ("accept-language", "en-GB,en;q=0.8,de;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("content-type", "application/json"),
    ("content-length", "312"),
    (
        "authorization",
        "Bearer srn_0123456789abcdef0123456789abcdef",
    ),
    (
        "cookie",
        "theme=dark; _ga=GA1.1.1234567890.1700000000; cohort=c17; session=5f4dcc3b5aa765d61d8327deb882cf99",
    ),
    ("x-forwarded-for", "203.0.113.7"),
    ("x-forwarded-proto", "https"),
    ("x-request-id", "0198f3a2-5c1e-7d3b-9c55-1f2e3d4c5b6a"),
    ("x-user-id", "user-48211"),
    ("x-client", "desktop/4.17.2"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let kinds = [
        ("100 mixed rules, the last fits", (0..RULES - 1).map(mixed).collect()),
        ("one rule", vec![]),
        ("100 rules on as many headers", (0..RULES - 1).map(header).collect()),
        ("100 rules on one header", (0..RULES - 1).map(|n| json!({"header": {"name": "x-user-id", "equals": format!("user-{n}")}})).collect()),
        ("100 rules of 1,000 tenants each", (0..RULES - 1).map(tenants).collect()),
        ("100 rules with expressions", (0..RULES - 1).map(|n| json!({"header": {"name": "x-client", "matches": format!("(desktop|mobile)/{n}\\.[0-9]+")}})).collect::<Vec<_>>()),
    ];
    for (what, conditions) in kinds {
        println!("{what}: {:.0} ns", measure(&conditions)?);
    }
    Ok(())
}

/// What finding the rule and the version takes, in the median of all rounds, in nanoseconds.
fn measure(conditions: &[Value]) -> Result<f64, Box<dyn Error>> {
    let mut rules = Vec::new();
    for (n, when) in conditions.iter().enumerate() {
        let rule =
            json!({"name": format!("r{n}"), "priority": RULES - n, "when": when, "to": "v1"});
        rules.push(serde_json::from_value::<Rule>(rule)?);
    }
    let to = json!({"v1": 80, "v2": 15, "candidate": 5});
    let last = json!({"name": "last", "priority": 0, "to": to, "strategy": "percentage"});
    rules.push(serde_json::from_value(last)?);
    let versions = ["v1", "v2"].map(|name| {
        let endpoint = EndpointRoute::new(EndpointId(1), "http://127.0.0.1:9001/mcp");
        Ok::<_, Box<dyn Error>>(VersionRoute::new(name.parse()?, vec![endpoint]))
    });
    let versions = versions.into_iter().collect::<Result<_, _>>()?;
    let service = ServiceRoute {
        rules: Rules::compile(&rules),
        ..ServiceRoute::new("tools".parse()?, Protocol::Mcp, "/mcp", versions)
    };
    let mut headers = HeaderMap::new();
    for (name, value) in HEADERS {
        headers.append(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    let request = Request {
        headers: &headers,
        method: "POST",
        host: "mcp.example.com",
        path: "/reports/2026/11",
        query: Some("page=3&sort=name&filter=open%20only"),
        tenant: Some("umbrella"),
        role: Some("user"),
        tools: &["search"],
        address: [203, 0, 113, 7].into(),
    };
    let find = |request: &Request<'_>| {
        let rule = service.rules.find(request)?;
        let version = rule.version(&service, Some(b"user-48211"), None, &Unloaded);
        Some((&*rule.rule.name, version))
    };
    if find(&request).is_none_or(|(name, _)| name != "last") {
        return Err("another rule fits".into());
    }
    let mut rounds: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            for _ in 0..ASKED {
                black_box(find(black_box(&request)));
            }
            begun.elapsed().as_secs_f64() * 1e9 / ASKED as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[ROUNDS / 2])
}

fn header(n: usize) -> Value {
    json!({"header": {"name": format!("x-feature-{n}"), "equals": "on"}})
}

fn tenants(n: usize) -> Value {
    let tenants: Vec<_> = (0..1000)
        .map(|tenant| format!("tenant-{n}-{tenant}"))
        .collect();
    json!({"tenant": {"one_of": tenants}})
}

/// As a service has them that has grown for years: none of them fits.
fn mixed(n: usize) -> Value {
    let some = n / 10;
    match n % 10 {
        0 => {
            json!({"header": {"name": format!("x-feature-{some}"), "equals": "on", "ignore_case": true}})
        }
        1 => json!({"header": {"name": "x-client", "prefix": format!("mobile/{some}.")}}),
        2 => json!({"cookie": {"name": "cohort", "equals": format!("c{some}")}}),
        3 => json!({"cookie": {"name": format!("trial-{}", some % 5), "present": true}}),
        4 => {
            json!({"query": {"name": (["page", "sort", "version"][some % 3]), "equals": format!("v{some}")}})
        }
        5 => {
            json!({"all": [{"path": {"prefix": format!("/reports/19{some}")}}, {"method": {"one_of": ["POST", "PUT"]}}]})
        }
        6 => {
            json!({"tenant": {"one_of": (0..20).map(|tenant| format!("tenant-{some}-{tenant}")).collect::<Vec<_>>()}})
        }
        7 => {
            json!({"address": {"within": [format!("10.{some}.0.0/16"), format!("192.168.{some}.0/24"), format!("fd00:{some}::/32")]}})
        }
        8 if some.is_multiple_of(2) => {
            json!({"path": {"matches": format!("/reports/[0-9]+/q{some}(/.*)?")}})
        }
        8 => {
            json!({"header": {"name": "user-agent", "matches": format!(".*(bot|crawler|spider){some}.*"), "ignore_case": true}})
        }
        _ => json!({"any": [
            {"all": [{"role": {"equals": "admin"}}, {"tool": {"prefix": format!("admin_{some}")}}]},
            {"not": {"host": {"suffix": ".example.com"}}},
        ]}),
    }
}
