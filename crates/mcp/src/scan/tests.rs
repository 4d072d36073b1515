//! The scanner from outside: bytes in, bytes and facts out.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Everything the scanner says about a body, and what came out.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    out: String,
    outcome: Option<Outcome>,
    answers: Vec<Answer>,
    server_requests: u64,
    task_created: bool,
    first_event: bool,
    malformed: bool,
    minted: Vec<(Minted, String)>,
}

/// Feeds `body` in pieces of the given sizes, cycled; replaces each minted value by `<value>`.
fn scan_bytes(kind: BodyKind, body: &[u8], cuts: &[usize]) -> (Vec<u8>, Seen) {
    let mut minted = Vec::new();
    let mut mint = |kind: Minted, value: &str| {
        minted.push((kind, value.to_owned()));
        Some(format!("<{value}>"))
    };
    let mut scanner = Scanner::new(kind);
    let mut out = Vec::new();
    let mut rest = body;
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let cut = cuts
            .next()
            .map_or(rest.len(), |cut| (*cut).clamp(1, rest.len()));
        let (piece, later) = rest.split_at(cut);
        rest = later;
        out.extend_from_slice(&scanner.feed(Bytes::copy_from_slice(piece), Some(&mut mint)));
    }
    out.extend_from_slice(&scanner.finish());
    let seen = Seen {
        out: String::from_utf8_lossy(&out).into_owned(),
        outcome: scanner.outcome(),
        answers: scanner.answers().to_vec(),
        server_requests: scanner.server_requests(),
        task_created: scanner.task_created(),
        first_event: scanner.first_event_seen(),
        malformed: scanner.is_malformed(),
        minted,
    };
    (out, seen)
}

/// Feeds a body whole and in many cuts, which must not matter.
fn scan(kind: BodyKind, body: &str) -> Seen {
    let (_, whole) = scan_bytes(kind, body.as_bytes(), &[]);
    for cut in 1..8 {
        let (_, seen) = scan_bytes(kind, body.as_bytes(), &[cut]);
        assert_eq!(seen, whole, "cut by {cut}");
    }
    whole
}

fn events(texts: &[&str]) -> String {
    texts
        .iter()
        .map(|text| format!("event: message\ndata: {text}\n\n"))
        .collect()
}

#[test]
fn content_types_are_told_apart() {
    for (value, kind) in [
        ("application/json", BodyKind::Json),
        ("Application/JSON; charset=utf-8", BodyKind::Json),
        (" text/event-stream;x=y", BodyKind::EventStream),
        ("text/html", BodyKind::Other),
        ("application/json-rpc", BodyKind::Other),
        ("", BodyKind::Other),
    ] {
        assert_eq!(BodyKind::of_content_type(value), kind, "{value}");
    }
}

#[test]
fn outcomes_are_classified() {
    let error = |text: &str| json!({"result": {"content": [{"type": "text", "text": text}], "isError": true}});
    let tool = |called_badly| Some(Outcome::ToolError { called_badly });
    let rpc = |code, called_badly| Some(Outcome::RpcError { code, called_badly });
    for (message, want) in [
        (json!({"result": {}}), Some(Outcome::Ok)),
        (json!({"result": null}), Some(Outcome::Ok)),
        (json!({"result": {"isError": false}}), Some(Outcome::Ok)),
        (
            json!({"result": {"resultType": "complete"}}),
            Some(Outcome::Ok),
        ),
        (
            json!({"result": {"resultType": "input_required"}}),
            Some(Outcome::InputRequired),
        ),
        (json!({"result": {"isError": true}}), tool(false)),
        (
            json!({"result": {"structuredContent": {"isError": true}}}),
            Some(Outcome::Ok),
        ),
        (
            json!({"result": {"content": [{"isError": true}]}}),
            Some(Outcome::Ok),
        ),
        (
            json!({"error": {"code": -32603, "message": "x"}}),
            rpc(-32603, false),
        ),
        (
            json!({"error": {"code": -32602, "message": "Unknown tool: x"}}),
            rpc(-32602, true),
        ),
        (
            json!({"error": {"code": -32602, "message": "Output validation error: x"}}),
            rpc(-32602, false),
        ),
        (json!({"error": {"message": "x"}}), rpc(0, false)),
        (json!({"error": null, "result": {}}), Some(Outcome::Ok)),
        (
            json!({"method": "notifications/progress", "params": {}}),
            None,
        ),
        (error("disk full"), tool(false)),
        (
            error("Input validation error: 'a' is a required property"),
            tool(true),
        ),
        (
            error("MCP error -32602: Input validation error: Invalid arguments for tool add"),
            tool(true),
        ),
        (error("MCP error -32602: Tool nope not found"), tool(true)),
        (
            error("MCP error -32602: Output validation error: bad"),
            tool(false),
        ),
        (error("MCP error -32603: broken"), tool(false)),
        (
            error("Invalid arguments for tool add: arguments contain"),
            tool(true),
        ),
        (error("Unknown tool: nope"), tool(true)),
        (
            error("failed to deserialize parameters: missing field `a`"),
            tool(true),
        ),
        (
            error("Error executing tool add: 2 validation errors for addArguments\na\n  Field"),
            tool(true),
        ),
        (
            error("Error executing tool add: 1 validation error for Weather\na"),
            tool(false),
        ),
        (error("Error executing tool add: disk full"), tool(false)),
        (error("Error executing tool add"), tool(false)),
        (
            error("1 validation error for call[add]\na\n  Field"),
            tool(true),
        ),
        (error("validation error for call[add]"), tool(false)),
        (
            error("Output validation error: outputSchema defined"),
            tool(false),
        ),
    ] {
        let mut message = message;
        message["jsonrpc"] = json!("2.0");
        let is_call = message.get("method").is_none();
        if is_call {
            message["id"] = json!(7);
        }
        let text = message.to_string();
        assert_eq!(scan(BodyKind::Json, &text).outcome, want, "{text}");
        assert_eq!(
            scan(BodyKind::EventStream, &events(&[&text])).outcome,
            want,
            "{text}"
        );
        // Another order of keys.
        let turned: Vec<_> = message
            .as_object()
            .unwrap()
            .iter()
            .rev()
            .map(|(key, value)| format!("{}:{value}", crate::json::quote(key)))
            .collect();
        let text = format!(" {{ {} }} ", turned.join(" , "));
        assert_eq!(scan(BodyKind::Json, &text).outcome, want, "{text}");
    }
}
