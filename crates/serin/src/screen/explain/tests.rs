//! What an explanation looks like.

use super::draw;
use anstream::adapter::strip_str;
use serde_json::json;
use serin_admin::routes::Explained;

fn shown(explained: &Explained, columns: usize) -> String {
    let lines = draw(explained, columns);
    let lines = lines.iter().map(|line| strip_str(line).to_string());
    lines.collect::<Vec<_>>().join("\n")
}

fn endpoint(id: u32, version: &str, chosen: bool) -> serde_json::Value {
    json!({
        "id": id, "url": format!("http://10.0.0.1:900{id}/mcp"), "version": version, "chosen": chosen, "considered": true,
        "healthy": true, "breaker_open": false, "ejected": false, "draining": false, "in_flight": 3, "weight": 1, "weight_now": 1.0,
    })
}

fn explained() -> Explained {
    let mut broken = endpoint(2, "v1", false);
    for (field, value) in [
        ("healthy", json!(false)),
        ("breaker_open", json!(true)),
        ("considered", json!(false)),
        ("in_flight", json!(0)),
    ] {
        broken[field] = value;
    }
    let mut back = endpoint(3, "v1", false);
    back["weight"] = json!(3);
    back["weight_now"] = json!(1.2);
    let explained = json!({
        "service": "tools",
        "rules": [
            {"name": "beta", "priority": 10, "fits": false, "why": "not so: header `X-Beta-User` is `true`, whatever its case"},
            {"name": "internal", "priority": 9, "fits": true, "why": "(the tenant is one of `acme`, `umbrella` and not the path begins with `/old`)"},
        ],
        "rules_not_asked": 2,
        "refusal": null,
        "limit": "1000/second of all together, 100 at once",
        "key": {"source": "header `X-User-Id`", "value": "kim", "hash": "00c0ffee00c0ffee"},
        "bucket": {"rollout": "00000000-0000-0000-0000-000000000007", "bucket": 7310, "below": 2500, "share": "25 %"},
        "version": "v1",
        "version_why": "bucket 7310 is not below 2500 (25 %), so stable, `v1`, takes it",
        "endpoints": [broken, endpoint(1, "v1", true), back],
        "endpoint": "http://10.0.0.1:9001/mcp",
        "endpoint_why": "by the affinity key, so that a caller stays at its own",
        "notes": ["taken for the beginning of a session; with header `MCP-Protocol-Version: 2026-07-28` it is a stateless call"],
    });
    serde_json::from_value(explained).unwrap()
}

#[test]
fn a_request_of_one_caller() {
    insta::assert_snapshot!(shown(&explained(), 80));
}

#[test]
fn a_session_that_is_drawn() {
    let mut drawn = explained();
    let said = &mut drawn.explanation;
    said.rules.clear();
    said.rules_not_asked = 0;
    said.limit = None;
    said.key.source = "the session that begins".to_owned();
    said.key.value = None;
    said.bucket = None;
    said.version = None;
    said.endpoint = None;
    said.version_why = "drawn for each new caller".to_owned();
    said.endpoint_why = "drawn for each new caller".to_owned();
    said.chances = serde_json::from_value(json!([
        {"version": "v1", "endpoint": "http://10.0.0.1:9001/mcp", "percent": 74.6},
        {"version": "v2", "endpoint": "http://10.0.0.1:9004/mcp", "percent": 25.4},
    ]))
    .unwrap();
    insta::assert_snapshot!(shown(&drawn, 80));
}

#[test]
fn one_that_is_refused() {
    let mut refused = explained();
    let said = &mut refused.explanation;
    said.refusal = serde_json::from_value(json!({"status": 403, "text": "not from here"})).unwrap();
    said.version = None;
    said.version_why = "rule `scrapers` refuses it with 403".to_owned();
    said.endpoints.clear();
    said.endpoint = None;
    refused.notes.clear();
    insta::assert_snapshot!(shown(&refused, 80));
}

#[test]
fn it_stays_in_its_room() {
    let mut odd = explained();
    odd.explanation.rules[0].why = "tab\there\nand \x1b[31mred 規則 ".repeat(10);
    for columns in [1, 20, 40, 79, 80, 200] {
        for line in shown(&odd, columns).lines() {
            assert!(
                textwrap::core::display_width(line) <= columns,
                "{line:?} on {columns}"
            );
            assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
        }
    }
}
