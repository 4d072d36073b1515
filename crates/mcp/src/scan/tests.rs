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
    let events = texts
        .iter()
        .map(|text| ["event: message\ndata: ", text, "\n\n"]);
    events.flatten().collect()
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
            json!({"error": {"code": -32042, "message": "x"}}),
            Some(Outcome::InputRequired),
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

#[test]
fn the_first_text_of_an_error_speaks_for_it() {
    let text = r#"{"id":1,"result":{"isError":true,"content":[{"text":"disk full"},{"text":"Unknown tool: x"}]}}"#;
    assert_eq!(
        scan(BodyKind::Json, text).outcome,
        Some(Outcome::ToolError {
            called_badly: false
        })
    );
}

#[test]
fn a_key_too_long_to_compare_is_no_key_of_ours() {
    let text = format!(
        r#"{{"result":{{"nextCursor":1,"{}":"t"}}}}"#,
        "x".repeat(10_000)
    );
    let seen = scan(BodyKind::Json, &text);
    assert_eq!((seen.out, seen.minted), (text, vec![]));
}

#[test]
fn a_broken_event_takes_its_answers_along() {
    let broken = r#"[{"id":1,"error":{"code":1}},{"id":2,"result":{}}"#;
    let seen = scan(
        BodyKind::EventStream,
        &events(&[broken, r#"{"id":3,"result":{}}"#]),
    );
    let ids: Vec<_> = seen
        .answers
        .iter()
        .map(|answer| answer.id.as_deref())
        .collect();
    assert_eq!((ids, seen.outcome), (vec![Some("3")], Some(Outcome::Ok)));
}

#[test]
fn values_are_minted_where_they_are_the_servers_own() {
    const RELATED: &str = r#""_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t"}}"#;
    use Minted::{Cursor, RequestState, TaskId};
    let related_result = format!(r#"{{"id":1,"result":{{{RELATED}}}}}"#);
    let related_params = format!(r#"{{"method":"x","id":2,"params":{{{RELATED}}}}}"#);
    for (text, want) in [
        (
            r#"{"id":1,"result":{"tools":[],"nextCursor":"t"}}"#,
            vec![Cursor],
        ),
        (
            r#"{"result":{"next\u0043ursor":"t","tools":[]},"id":1}"#,
            vec![Cursor],
        ),
        (
            r#"{"result":{"requestState":"t","resultType":"input_required"}}"#,
            vec![RequestState],
        ),
        (
            r#"{"result":{"taskId":"t","resultType":"task"}}"#,
            vec![TaskId],
        ),
        (
            r#"{"result":{"task":{"taskId":"t","status":"working"}}}"#,
            vec![TaskId],
        ),
        (
            r#"{"result":{"tasks":[{"taskId":"t"},{"x":[1],"taskId":"t"}],"nextCursor":"t"}}"#,
            vec![TaskId, TaskId, Cursor],
        ),
        (
            r#"[{"result":{"nextCursor":"t"}},{"result":{"nextCursor":"t"}}]"#,
            vec![Cursor, Cursor],
        ),
        (
            r#"{"method":"notifications/tasks/status","params":{"taskId":"t"}}"#,
            vec![TaskId],
        ),
        (
            r#"{"method":"notifications/tasks","params":{"taskId":"t","result":{"taskId":"u"}}}"#,
            vec![TaskId],
        ),
        (
            r#"{"params":{"taskId":"t"},"method":"notifications/tasks/status"}"#,
            vec![TaskId],
        ),
        (
            r#"{"method":"notifications/subscriptions/acknowledged","params":{"notifications":{"x":["u"],"taskIds":["t","t"]}}}"#,
            vec![TaskId, TaskId],
        ),
        (
            r#"{"params":{"notifications":{"taskIds":[["t"],{"taskId":"t"},7]}}}"#,
            vec![],
        ),
        (
            r#"{"params":{"x":{"taskIds":["t"]},"notifications":["t"]}}"#,
            vec![],
        ),
        (related_result.as_str(), vec![TaskId]),
        (related_params.as_str(), vec![TaskId]),
        // The client's own task, asked for by the server.
        (
            r#"{"method":"tasks/get","id":1,"params":{"taskId":"t"}}"#,
            vec![],
        ),
        (
            r#"{"id":1,"params":{"taskId":"t"},"method":"tasks/get"}"#,
            vec![],
        ),
        (
            r#"{"method":"notifications/message","params":{"taskId":"t"}}"#,
            vec![],
        ),
        // User data.
        (
            r#"{"result":{"content":[{"nextCursor":"t","taskId":"t"}]}}"#,
            vec![],
        ),
        (
            r#"{"result":{"structuredContent":{"nextCursor":"t","task":{"taskId":"t"}}}}"#,
            vec![],
        ),
        (r#"{"result":{"contents":{"requestState":"t"}}}"#, vec![]),
        (
            r#"{"method":"sampling/createMessage","id":3,"params":{"arguments":{"taskId":"t"}}}"#,
            vec![],
        ),
        (r#"{"nextCursor":"t","taskId":"t"}"#, vec![]),
        (r#"{"error":{"data":{"taskId":"t"},"taskId":"t"}}"#, vec![]),
        // Not strings.
        (
            r#"{"result":{"nextCursor":null,"taskId":7,"task":["taskId","t"],"tasks":{"taskId":"t"}}}"#,
            vec![],
        ),
        // The value of a key that is not the last one read.
        (
            r#"{"result":{"x":"nextCursor","y":"t","nextCursor":{"nextCursor":"t"}}}"#,
            vec![],
        ),
    ] {
        let seen = scan(BodyKind::Json, text);
        let kinds: Vec<_> = seen.minted.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, want, "{text}");
        let expected = if want.is_empty() {
            text.to_owned()
        } else {
            text.replace(r#""t""#, r#""<t>""#)
        };
        assert_eq!(seen.out, expected);
        let stream = scan(BodyKind::EventStream, &events(&[text, "{}"]));
        assert_eq!(stream.out, events(&[&expected, "{}"]));
    }
}

#[test]
fn an_escaped_value_is_minted_by_what_it_means() {
    let text = "{\"result\":{\"nextCursor\":\"a\\\"\\u00e9\\ud83d\\ude00\u{e9}\"}}";
    let seen = scan(BodyKind::Json, text);
    assert_eq!(
        seen.minted,
        [(Minted::Cursor, "a\"\u{e9}\u{1f600}\u{e9}".to_owned())]
    );
    let back: Value = serde_json::from_str(&seen.out).unwrap();
    assert_eq!(back["result"]["nextCursor"], "<a\"\u{e9}\u{1f600}\u{e9}>");
}

#[test]
fn only_an_incomplete_minted_value_is_held_back() {
    let mut scanner = Scanner::new(BodyKind::Json);
    let mut mint = |_: Minted, value: &str| Some(value.to_uppercase());
    let mut feed = |text: &'static str| {
        let out = scanner.feed(Bytes::from_static(text.as_bytes()), Some(&mut mint));
        String::from_utf8(out.to_vec()).unwrap()
    };
    assert_eq!(
        feed(r#"{"result":{"nextCursor" : "#),
        r#"{"result":{"nextCursor" : "#
    );
    assert_eq!(feed(r#" "ab"#), " ");
    assert_eq!(feed(r"cd\"), "");
    assert_eq!(feed(r#"nef""#), r#""ABCD\nEF""#);
    assert_eq!(
        feed(r#","content":[{"text":"ab"#),
        r#","content":[{"text":"ab"#
    );
}

#[test]
fn an_untouched_piece_is_not_copied() {
    let piece = Bytes::from(r#"{"id":1,"result":{"content":[{"type":"text","text":"x"}]}}"#);
    let mut mint = |_: Minted, _: &str| None;
    let out = Scanner::new(BodyKind::Json).feed(piece.clone(), Some(&mut mint));
    assert_eq!(out.as_ptr(), piece.as_ptr());
    assert_eq!(out, piece);
}

#[test]
fn without_a_mint_nothing_is_held() {
    let mut scanner = Scanner::new(BodyKind::Json);
    let piece = Bytes::from_static(br#"{"result":{"nextCursor":"ab"#);
    assert_eq!(scanner.feed(piece.clone(), None), piece);
    scanner.feed(Bytes::from_static(br#""}}"#), None);
    scanner.finish();
    assert_eq!(scanner.outcome(), Some(Outcome::Ok));
}

#[test]
fn a_value_too_long_to_hold_passes_as_it_is() {
    for (extra, minted) in [(0, true), (1, false)] {
        let value = "x".repeat(MAX_MINTED_BYTES + extra);
        let body = format!(r#"{{"result":{{"requestState":"{value}","nextCursor":"c"}}}}"#);
        for cuts in [&[] as &[usize], &[1000], &[65_536]] {
            let (out, seen) = scan_bytes(BodyKind::Json, body.as_bytes(), cuts);
            let want = body.replace(r#""c""#, r#""<c>""#);
            let want = if minted {
                want.replace(&value, &format!("<{value}>"))
            } else {
                want
            };
            assert!(out == want.as_bytes(), "{extra} {cuts:?}");
            assert_eq!(seen.outcome, Some(Outcome::Ok));
        }
    }
    let mut scanner = Scanner::new(BodyKind::Json);
    let mut mint = |_: Minted, _: &str| None;
    let body = format!(
        r#"{{"result":{{"requestState":"{}"#,
        "x".repeat(MAX_MINTED_BYTES + 1)
    );
    assert_eq!(
        scanner
            .feed(Bytes::from(body.clone()), Some(&mut mint))
            .len(),
        body.len()
    );
    assert_eq!(scanner.unminted(), 1);
}

#[test]
fn broken_texts_pass_and_are_called_malformed() {
    for text in [
        "{",
        "[",
        "{]",
        "nul",
        "{\"result\":{}",
        "{\"result\":{}}}",
        "{\"result\":{}} x",
        "{\"a\" 1}",
        "{\"a\":1,}",
        "[1,]",
        "{\"a\":\"\n\"}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12g4\"}",
        "01",
        "-",
        "1.",
        "1e",
        "\u{feff}{}",
        "{\"result\":{\"nextCursor\":\"ab",
        "{\"result\":{\"nextCursor\":\"ab\\q\"}}",
        "{\"result\":{\"nextCursor\":\"ab\n\"}}",
        "<html>",
        "{a:1}",
        "'a'",
        "tru\"",
    ] {
        let seen = scan(BodyKind::Json, text);
        assert_eq!(seen.out, text);
        assert_eq!(seen.outcome, Some(Outcome::Malformed), "{text}");
        assert!(seen.answers.is_empty());
        if text.contains('\n') {
            continue;
        }
        // The next event is read afresh.
        let stream = scan(
            BodyKind::EventStream,
            &events(&[text, r#"{"result":{"nextCursor":"c"}}"#]),
        );
        assert_eq!(
            stream.out,
            events(&[text, r#"{"result":{"nextCursor":"<c>"}}"#])
        );
        assert_eq!(
            (stream.outcome, stream.malformed),
            (Some(Outcome::Ok), true),
            "{text}"
        );
    }
    assert_eq!(scan(BodyKind::Json, "").outcome, None);
    assert_eq!(scan(BodyKind::Json, " \r\n\t").outcome, None);
}

#[test]
fn depth_is_limited() {
    let nested = |depth: u32| {
        let depth = depth as usize;
        format!("{}{}", "[".repeat(depth), "]".repeat(depth))
    };
    assert!(!scan(BodyKind::Json, &nested(crate::MAX_DEPTH)).malformed);
    assert!(scan(BodyKind::Json, &nested(crate::MAX_DEPTH + 1)).malformed);
    assert!(scan(BodyKind::Json, &nested(100_000)).malformed);
}

#[test]
fn a_batch_gives_each_answer_and_the_worst() {
    let text = r#"[{"id":1,"result":{}},{"id":"b","error":{"code":-32603}},{"id":null,"error":{"code":-32602}},
        {"method":"notifications/message"},{"id":4,"result":{"isError":true}}]"#;
    let seen = scan(BodyKind::Json, text);
    let ids: Vec<_> = seen
        .answers
        .iter()
        .map(|answer| answer.id.as_deref())
        .collect();
    assert_eq!(ids, [Some("1"), Some("\"b\""), None, Some("4")]);
    assert_eq!(
        seen.outcome,
        Some(Outcome::RpcError {
            code: -32603,
            called_badly: false
        })
    );
    let many = format!(
        "[{}]",
        vec![r#"{"id":1,"result":{}}"#; MAX_ANSWERS].join(",")
    );
    let more = many
        .replacen('[', r#"[{"id":1,"result":{}},"#, 1)
        .replace("}}]", r#"}},{"error":{"code":1}}]"#);
    assert_eq!(scan(BodyKind::Json, &many).answers.len(), MAX_ANSWERS);
    let more = scan(BodyKind::Json, &more);
    assert_eq!(more.answers.len(), MAX_ANSWERS);
    assert_eq!(
        more.outcome,
        Some(Outcome::RpcError {
            code: 1,
            called_badly: false
        })
    );
}

#[test]
fn streams_tell_of_requests_tasks_and_the_first_real_event() {
    let priming = "\u{feff}: hello\r\nid: 1\r\nretry: 3000\r\ndata: \r\n\r\nid: 2\r\ndata\r\n\r\n";
    let request = r#"{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{}}"#;
    let note = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#;
    let seen = scan(BodyKind::EventStream, priming);
    assert_eq!(
        (seen.first_event, seen.malformed, seen.outcome),
        (false, false, None)
    );
    assert_eq!(seen.out, priming);
    let seen = scan(
        BodyKind::EventStream,
        &format!("{priming}{}", events(&[note, request, request])),
    );
    assert_eq!(
        (seen.first_event, seen.server_requests, seen.outcome),
        (true, 2, None)
    );
    let task = r#"{"id":1,"result":{"task":{"status":"working"}}}"#;
    assert!(scan(BodyKind::EventStream, &events(&[task])).task_created);
    assert!(
        !scan(
            BodyKind::Json,
            r#"{"id":1,"result":{"tasks":[{"taskId":"t"}]}}"#
        )
        .task_created
    );
    assert!(
        scan(
            BodyKind::Json,
            r#"{"id":1,"result":{"resultType":"task","taskId":"t"}}"#
        )
        .task_created
    );
}

#[test]
fn the_first_event_flips_with_its_first_byte() {
    let mut scanner = Scanner::new(BodyKind::EventStream);
    for (piece, want) in [
        ("id: 1\ndata: ", false),
        ("\n", false),
        ("\nda", false),
        ("ta: ", false),
        ("{", true),
    ] {
        scanner.feed(Bytes::from_static(piece.as_bytes()), None);
        assert_eq!(scanner.first_event_seen(), want, "{piece:?}");
    }
    let mut scanner = Scanner::new(BodyKind::Json);
    scanner.feed(Bytes::new(), None);
    assert!(!scanner.first_event_seen());
    scanner.feed(Bytes::from_static(b" "), None);
    assert!(scanner.first_event_seen());
}

#[test]
fn data_may_come_in_several_lines() {
    let stream = "data: {\"id\":1\rid: 9\r\ndata:,\"result\":\ndata: {\"nextCursor\":\ndata:  \"c\"\ndata: ,\"isError\":true}}\n\n";
    let seen = scan(BodyKind::EventStream, stream);
    assert_eq!(seen.out, stream.replace("\"c\"", "\"<c>\""));
    assert_eq!(
        seen.outcome,
        Some(Outcome::ToolError {
            called_badly: false
        })
    );
    assert_eq!(seen.answers[0].id.as_deref(), Some("1"));
    // A line feed inside a string is no JSON.
    let stream = "data: {\"result\":{\"nextCursor\":\"a\ndata: b\"}}\n\n";
    let seen = scan(BodyKind::EventStream, stream);
    assert_eq!(
        (seen.out.as_str(), seen.outcome),
        (stream, Some(Outcome::Malformed))
    );
}

#[test]
fn an_answer_counts_when_its_event_is_complete() {
    let mut scanner = Scanner::new(BodyKind::EventStream);
    scanner.feed(
        Bytes::from_static(b"data: {\"id\":1,\"result\":{}}\n"),
        None,
    );
    assert_eq!(scanner.outcome(), None);
    scanner.feed(Bytes::from_static(b"\n"), None);
    assert_eq!(scanner.outcome(), Some(Outcome::Ok));
    let seen = scan(BodyKind::EventStream, "data: {\"id\":1,\"result\":{}}\n");
    assert_eq!(
        (seen.outcome, seen.malformed),
        (Some(Outcome::Malformed), true)
    );
}

#[test]
fn other_bodies_pass_unread() {
    let seen = scan(BodyKind::Other, r#"{"result":{"nextCursor":"c"}}"#);
    assert_eq!(seen.out, r#"{"result":{"nextCursor":"c"}}"#);
    assert_eq!(
        (seen.outcome, seen.malformed, seen.first_event),
        (None, false, true)
    );
}

/// A JSON text made of the pieces that matter, mostly well formed, sometimes not.
fn texts() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just(r#""t""#.to_owned()),
        Just(r#""a\"\u00e9\\""#.to_owned()),
        Just("true".to_owned()),
        Just("-1.5e3".to_owned()),
        Just("-32602".to_owned()),
        Just("null".to_owned()),
        Just("\"\u{e9}\u{1f600}\"".to_owned()),
        Just("\"unterminated".to_owned()),
        Just(r#""tasks/get""#.to_owned()),
    ];
    let keys = prop::sample::select(vec![
        "id",
        "method",
        "params",
        "result",
        "error",
        "_meta",
        "io.modelcontextprotocol/related-task",
        "taskId",
        "task",
        "tasks",
        "taskIds",
        "notifications",
        "nextCursor",
        "requestState",
        "isError",
        "resultType",
        "content",
        "text",
        "code",
        "message",
        "structuredContent",
        "next\\u0043ursor",
        "x",
    ]);
    leaf.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            3 => prop::collection::vec((keys.clone(), inner.clone()), 0..6).prop_map(|fields| {
                let fields: Vec<_> = fields.iter().map(|(key, value)| format!("\"{key}\" :{value}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
            1 => prop::collection::vec(inner, 0..4).prop_map(|values| format!("[{}]", values.join(" ,"))),
        ]
    })
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1usize..4, 1usize..60], 1..10)
}

proptest! {
    #[test]
    fn cuts_do_not_matter(
        texts in prop::collection::vec(texts(), 1..4), cuts in cuts(), end in prop::sample::select(vec!["\n", "\r", "\r\n"]),
    ) {
        let text = &texts[0];
        prop_assert_eq!(scan_bytes(BodyKind::Json, text.as_bytes(), &cuts), scan_bytes(BodyKind::Json, text.as_bytes(), &[]));
        let stream = events(&texts.iter().map(String::as_str).collect::<Vec<_>>()).replace('\n', end);
        let whole = scan_bytes(BodyKind::EventStream, stream.as_bytes(), &[]);
        prop_assert_eq!(&scan_bytes(BodyKind::EventStream, stream.as_bytes(), &cuts), &whole);
        // A well-formed text comes out as one whose minted values differ and nothing else.
        if serde_json::from_str::<Value>(text).is_ok() {
            prop_assert!(!scan_bytes(BodyKind::Json, text.as_bytes(), &cuts).1.malformed);
        }
    }

    #[test]
    fn nothing_changes_when_the_mint_leaves_values(text in texts(), cuts in cuts()) {
        for kind in [BodyKind::Json, BodyKind::EventStream] {
            let body = if kind == BodyKind::Json { text.clone() } else { events(&[&text, &text]) };
            let mut scanner = Scanner::new(kind);
            let mut leave = |_: Minted, _: &str| None;
            let (mut out, mut rest) = (Vec::new(), body.as_bytes());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, later) = rest.split_at((*cut).min(rest.len()));
                rest = later;
                out.extend_from_slice(&scanner.feed(Bytes::copy_from_slice(piece), Some(&mut leave)));
            }
            out.extend_from_slice(&scanner.finish());
            prop_assert_eq!(out, body.into_bytes());
        }
    }

    #[test]
    fn any_bytes_pass_whole(bytes in prop::collection::vec(any::<u8>(), 0..200), cuts in cuts()) {
        for kind in [BodyKind::Json, BodyKind::EventStream, BodyKind::Other] {
            let (out, seen) = scan_bytes(kind, &bytes, &cuts);
            prop_assert_eq!(&(out.clone(), seen), &scan_bytes(kind, &bytes, &[]));
            prop_assert_eq!(&out, &bytes);
        }
    }

    #[test]
    fn the_grammar_is_serde_jsons(text in r#"[\[\]{}:,"a\\0-9eE.+\- truefalsn]{0,14}"#) {
        let judged = !scan_bytes(BodyKind::Json, text.as_bytes(), &[]).1.malformed;
        let blank = text.trim().is_empty();
        // `serde_json` also refuses numbers beyond f64, which the grammar allows.
        let want = match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
            Ok(_) => true,
            Err(error) => error.to_string().starts_with("number out of range"),
        };
        prop_assert_eq!(judged, want || blank, "{}", text);
    }
}

mod numbers {
    use super::*;

    /// The numbers of each answer when the body comes in pieces of `cut` bytes.
    fn found(kind: BodyKind, body: &str, pointers: &[&str], cut: usize) -> Vec<Vec<(u16, f64)>> {
        let mut scanner = Scanner::new(kind);
        scanner.watch(Arc::new(Pointers::new(pointers.iter().copied())));
        let mut out = Vec::new();
        for piece in body.as_bytes().chunks(cut) {
            out.extend_from_slice(&scanner.feed(Bytes::copy_from_slice(piece), None));
        }
        out.extend_from_slice(&scanner.finish());
        assert_eq!(out, body.as_bytes(), "watching changes nothing");
        let answers = scanner.answers().iter();
        answers
            .map(|answer| {
                let mut numbers = answer.numbers.clone();
                numbers.sort_by_key(|(pointer, _)| *pointer);
                numbers
            })
            .collect()
    }

    fn in_result(structured: &str, pointers: &[&str]) -> Vec<(u16, f64)> {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"result":{{"content":[{{"type":"text","text":"x"}}],"structuredContent":{structured},"isError":false}}}}"#
        );
        let whole = found(BodyKind::Json, &body, pointers, body.len());
        assert_eq!(found(BodyKind::Json, &body, pointers, 1), whole, "{body}");
        whole.concat()
    }

    #[test]
    fn a_pointer_leads_to_a_number() {
        for (structured, pointer, want) in [
            (r#"{"rate":0.75}"#, "/rate", Some(0.75)),
            (r#"{"rate":-1.5e2}"#, "/rate", Some(-150.0)),
            (r#"{"ok":true}"#, "/ok", Some(1.0)),
            (r#"{"ok":false}"#, "/ok", Some(0.0)),
            (r#"{"ok":null}"#, "/ok", None),
            (r#"{"ok":"1"}"#, "/ok", None),
            (r#"{"ok":{"x":1}}"#, "/ok", None),
            (r#"{"ok":[1]}"#, "/ok", None),
            (r#"{"a":{"b":{"c":3}}}"#, "/a/b/c", Some(3.0)),
            (r#"{"c":3,"a":{"c":4}}"#, "/a/b/c", None),
            (r#"{"a":[[1,2],{"x":5},7]}"#, "/a/0/1", Some(2.0)),
            (r#"{"a":[[1,2],{"x":5},7]}"#, "/a/1/x", Some(5.0)),
            (r#"{"a":[[1,2],{"x":5},"s",7]}"#, "/a/3", Some(7.0)),
            (r#"{"a":[1,2]}"#, "/a/2", None),
            (r#"{"a":[1,2]}"#, "/a/-", None),
            (r#"{"a":[1,2]}"#, "/a/01", None),
            (r#"{"a":[1,2]}"#, "/a/+1", None),
            (r#"{"a":{"0":8}}"#, "/a/0", Some(8.0)),
            (r#"{"a/b":1}"#, "/a~1b", Some(1.0)),
            (r#"{"m~n":2}"#, "/m~0n", Some(2.0)),
            (r#"{"~1":3}"#, "/~01", Some(3.0)),
            (r#"{"":4}"#, "/", Some(4.0)),
            (r#"{"":{"":5}}"#, "//", Some(5.0)),
            (r#"{"r\u0061te":6}"#, "/rate", Some(6.0)),
            (r#"{"\ud83d\ude00":7}"#, "/\u{1f600}", Some(7.0)),
            (r#"{"a":1,"a":2}"#, "/a", Some(2.0)),
            ("9", "", Some(9.0)),
            (r#"{"a":1}"#, "a", None),
            (r#"{"a~":1}"#, "/a~", None),
            (r#"{"a":1e999}"#, "/a", None),
        ] {
            let want: Vec<_> = want.map(|number| (0, number)).into_iter().collect();
            assert_eq!(
                in_result(structured, &[pointer]),
                want,
                "{pointer} in {structured}"
            );
        }
    }

    #[test]
    fn several_pointers_are_found_at_once() {
        let structured = r#"{"a":{"x":1,"y":[2,3]},"b":4}"#;
        let pointers = ["/b", "/a/y/1", "/a/x", "/a/y/0", "/a/x", "/none"];
        assert_eq!(
            in_result(structured, &pointers),
            [(0, 4.0), (1, 3.0), (2, 1.0), (3, 2.0), (4, 1.0)]
        );
    }

    #[test]
    fn only_structured_content_of_a_result_is_looked_at() {
        for body in [
            r#"{"id":1,"result":{"a":1,"content":[{"a":1}],"_meta":{"structuredContent":{"a":1}}}}"#,
            r#"{"id":1,"error":{"code":1,"structuredContent":{"a":1}}}"#,
            r#"{"id":1,"result":{"task":{"taskId":"t","structuredContent":{"a":1}}}}"#,
            r#"{"id":1,"result":[{"structuredContent":{"a":1}}]}"#,
            r#"{"id":1,"structuredContent":{"a":1},"result":{}}"#,
        ] {
            assert_eq!(
                found(BodyKind::Json, body, &["/a"], 3).concat(),
                [],
                "{body}"
            );
        }
    }

    #[test]
    fn each_answer_has_its_own() {
        let answer = |id: u32, a: u32| {
            format!(r#"{{"result":{{"structuredContent":{{"a":{a}}}}},"id":{id}}}"#)
        };
        let body = format!(
            "[{},{},{{\"id\":3,\"result\":{{}}}}]",
            answer(1, 10),
            answer(2, 20)
        );
        let want = vec![vec![(0, 10.0)], vec![(0, 20.0)], vec![]];
        for cut in 1..body.len() {
            assert_eq!(found(BodyKind::Json, &body, &["/a"], cut), want);
        }
        let stream = events(&[
            &answer(1, 10),
            r#"{"method":"notifications/x","params":{"structuredContent":{"a":1}}}"#,
            &answer(2, 20),
        ]);
        assert_eq!(found(BodyKind::EventStream, &stream, &["/a"], 1), want[..2]);
    }

    #[test]
    fn long_keys_and_numbers_are_no_way_to_fill_the_memory() {
        let long = "k".repeat(POINTER_BYTES_MAX);
        let structured = format!(
            r#"{{"{long}":1,"{}":2,"n":{}}}"#,
            "k".repeat(100_000),
            "1".repeat(2_000)
        );
        let pointer = format!("/{}", "k".repeat(POINTER_BYTES_MAX - 1));
        assert_eq!(
            in_result(&structured, &[&pointer, "/n", &format!("/{long}")]),
            []
        );
        let structured = format!(r#"{{"{}":1}}"#, "\\u006b".repeat(POINTER_BYTES_MAX - 1));
        assert_eq!(in_result(&structured, &[&pointer]), [(0, 1.0)]);
    }

    fn structured() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            (-1000..1000_i64).prop_map(Value::from),
            (-1e6..1e6_f64).prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            Just(Value::Null),
            "[a-z\"\\\\\u{e9}]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((keys(), inner), 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    fn keys() -> impl Strategy<Value = String> {
        prop::sample::select(vec![
            "",
            "a",
            "b",
            "0",
            "1",
            "01",
            "a/b",
            "~",
            "~1",
            "\"",
            "\u{e9}",
            "structuredContent",
        ])
        .prop_map(str::to_owned)
    }

    fn pointer() -> impl Strategy<Value = String> {
        prop::collection::vec(prop_oneof![keys(), "[0-4]"], 0..4).prop_map(|tokens| {
            let tokens = tokens
                .iter()
                .map(|token| token.replace('~', "~0").replace('/', "~1"));
            tokens.flat_map(|token| ["/".to_owned(), token]).collect()
        })
    }

    proptest! {
        #[test]
        fn pointers_lead_where_serde_json_says(
            structured in structured(), pointers in prop::collection::vec(pointer(), 1..6), cut in 1..30_usize,
        ) {
            let body = json!({"jsonrpc": "2.0", "id": 1, "result": {"structuredContent": structured}}).to_string();
            let pointers: Vec<&str> = pointers.iter().map(String::as_str).collect();
            let want = pointers.iter().zip(0..).filter_map(|(pointer, number): (_, u16)| {
                let value = structured.pointer(pointer)?;
                let value = value.as_f64().or(value.as_bool().map(|is| if is { 1.0 } else { 0.0 }))?;
                Some((number, value))
            });
            let want = vec![want.collect::<Vec<_>>()];
            for cut in [1, cut, body.len()] {
                prop_assert_eq!(&found(BodyKind::Json, &body, &pointers, cut), &want, "{}", body);
            }
        }

        #[test]
        fn watching_any_text_changes_nothing_else(text in texts(), cuts in cuts()) {
            let mut watching = Scanner::new(BodyKind::Json);
            watching.watch(Arc::new(Pointers::new(["", "/x", "/id", "/content/0/text", "/x/code"])));
            let mut plain = Scanner::new(BodyKind::Json);
            let mut rest = text.as_bytes();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, later) = rest.split_at((*cut).min(rest.len()));
                rest = later;
                let piece = Bytes::copy_from_slice(piece);
                prop_assert_eq!(watching.feed(piece.clone(), None), plain.feed(piece, None));
            }
            prop_assert_eq!(watching.finish(), plain.finish());
            let without = |scanner: &Scanner| {
                let answers = scanner.answers().iter().cloned();
                answers.map(|answer| Answer { numbers: vec![], ..answer }).collect::<Vec<_>>()
            };
            prop_assert_eq!(without(&watching), without(&plain));
            prop_assert_eq!(watching.outcome(), plain.outcome());
            prop_assert_eq!(watching.task_created(), plain.task_created());
        }
    }
}
