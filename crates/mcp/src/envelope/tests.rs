//! The envelope against a naive reader, and its refusals.

use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn one(body: &str) -> Message<'_> {
    let envelope = Envelope::read(body.as_bytes()).unwrap();
    assert!(!envelope.is_batch);
    envelope.single().unwrap().clone()
}

fn refused(body: &str) -> EnvelopeError {
    Envelope::read(body.as_bytes()).unwrap_err()
}

#[test]
fn a_modern_call_is_read() {
    let body = r#"{"jsonrpc":"2.0","id":"a\"1","method":"tools/call","params":{"name":"add","arguments":{"name":"x",
        "cursor":[1,{"taskId":"no"}]},"requestState":"s","_meta":{"progressToken":1,
        "io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let message = one(body);
    assert_eq!(message.kind, Kind::Request);
    assert_eq!(message.id, Some(r#""a\"1""#));
    assert_eq!(message.method(), "tools/call");
    assert_eq!(message.name.as_deref(), Some("add"));
    assert_eq!(message.meta_protocol_version.as_deref(), Some("2026-07-28"));
    assert_eq!(message.minted.len(), 1);
    assert_eq!(message.minted(Minted::RequestState).unwrap().value, "s");
    let params: Value = serde_json::from_str(message.params.unwrap()).unwrap();
    assert_eq!(
        params,
        serde_json::from_str::<Value>(body).unwrap()["params"]
    );
}

#[test]
fn other_messages_are_read() {
    let message = one(
        r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#,
    );
    assert_eq!(message.protocol_version.as_deref(), Some("2025-11-25"));
    assert_eq!(message.params, Some(r#"{"protocolVersion":"2025-11-25"}"#));

    let message =
        one(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":12}}"#);
    assert_eq!(
        (message.kind, message.request_id),
        (Kind::Notification, Some("12"))
    );

    let message = one(r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":null}"#);
    assert_eq!((message.kind, message.params), (Kind::Request, None));

    let message = one(r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}"#);
    assert_eq!(
        (message.kind, message.id, message.method()),
        (Kind::Response, Some("null"), "")
    );

    let message = one(
        r#"{"id":-1.5e3,"result":{"taskId":"no","_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t"}}},"jsonrpc":"2.0"}"#,
    );
    assert_eq!((message.kind, message.id), (Kind::Response, Some("-1.5e3")));
    let related = message.minted(Minted::TaskId).unwrap();
    assert_eq!(
        (&*related.value, related.in_params, message.task_id()),
        ("t", false, None)
    );

    let message = one(
        r#"{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"r"}},"taskId":"t"}}"#,
    );
    assert_eq!((message.task_id(), message.minted.len()), (Some("t"), 2));
}

#[test]
fn a_subscription_names_tasks() {
    let body = |notifications: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{{"notifications":{notifications}}}}}"#
        )
    };
    let text = body(r#"{"toolsListChanged":true,"task\u0049ds":[ "a" ,"\u0062"],"x":[{}]}"#);
    let message = one(&text);
    let named: Vec<_> = message.minted.iter().map(|minted| &*minted.value).collect();
    assert_eq!((named, message.task_id()), (vec!["a", "b"], None));
    let spans = message
        .minted
        .iter()
        .map(|minted| &text[minted.span.clone()]);
    assert_eq!(spans.collect::<Vec<_>>(), [r#""a""#, r#""\u0062""#]);
    for (nothing, like) in [
        (r#"{"taskIds":[]}"#, None),
        (r#"{"taskIds":null}"#, None),
        ("true", None),
        (r#"[{"taskIds":["a"]}]"#, None),
        (r#"{"TaskIds":["a"]}"#, Some("taskIds")),
    ] {
        let text = body(nothing);
        let message = one(&text);
        assert_eq!(
            (message.minted.len(), message.lookalike),
            (0, like),
            "{nothing}"
        );
    }
    for other in [
        r#""a""#,
        r#"{"a":"b"}"#,
        "[1]",
        r#"["a",["b"]]"#,
        r#"["a",null]"#,
        "7",
    ] {
        let error = refused(&body(&format!(r#"{{"taskIds":{other}}}"#)));
        let is_wrong =
            matches!(error, EnvelopeError::WrongType { field, .. } if field.ends_with("taskIds"));
        assert!(is_wrong, "{other}: {error}");
    }
    let twice = refused(&body(r#"{"taskIds":["a"],"taskIds":["b"]}"#));
    assert!(
        matches!(twice, EnvelopeError::DuplicateKey { .. }),
        "{twice}"
    );
    let many = |count| format!("{{\"taskIds\":[{}]}}", vec![r#""t""#; count].join(","));
    assert_eq!(one(&body(&many(MAX_TASK_IDS))).minted.len(), MAX_TASK_IDS);
    assert_eq!(
        refused(&body(&many(MAX_TASK_IDS + 1))),
        EnvelopeError::TooManyTaskIds
    );
}

#[test]
fn escaped_keys_and_values_mean_what_they_mean() {
    let body = r#"{"\u006asonrpc":"2\u002e0","id":1,"\u006dethod":"tools\/call","params":{"n\u0061me":"a\u0064d\ud83d\ude00","c\u0075rsor":"\"\n"}}"#;
    let message = one(body);
    assert_eq!(message.method(), "tools/call");
    assert_eq!(message.name.as_deref(), Some("add\u{1f600}"));
    let cursor = message.minted(Minted::Cursor).unwrap();
    assert_eq!(cursor.value, "\"\n");
    assert_eq!(body.get(cursor.span.clone()), Some(r#""\"\n""#));
}

#[test]
fn batches_are_bounded() {
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let batch = |count: usize| format!("[{}]", vec![ping; count].join(","));
    for count in [1, 2, MAX_BATCH] {
        let body = batch(count);
        let envelope = Envelope::read(body.as_bytes()).unwrap();
        assert!(envelope.is_batch && envelope.single().is_none());
        assert_eq!(envelope.messages.len(), count);
    }
    assert_eq!(refused(&batch(MAX_BATCH + 1)), EnvelopeError::BatchTooLong);
    assert_eq!(refused("[]"), EnvelopeError::EmptyBatch);
}

#[test]
fn what_is_not_json_is_a_parse_error() {
    for (body, what, at) in [
        ("", Syntax::Truncated, 0),
        (" ", Syntax::Truncated, 1),
        ("{", Syntax::Truncated, 1),
        ("{\"jsonrpc\":\"2.0\"", Syntax::Truncated, 16),
        ("{} x", Syntax::UnexpectedByte, 3),
        ("[1,]", Syntax::UnexpectedByte, 3),
        ("{\"a\":01}", Syntax::UnexpectedByte, 6),
        ("{\"a\":\"\t\"}", Syntax::ControlCharacter, 6),
        ("{\"a\":\"\\v\"}", Syntax::BadEscape, 7),
        ("{\"method\":\"\\ud800\"}", Syntax::BadEscape, 11),
        ("\u{feff}{}", Syntax::UnexpectedByte, 0),
    ] {
        let error = refused(body);
        assert_eq!(error, EnvelopeError::NotJson { what, at }, "{body}");
        assert_eq!(error.code(), -32700);
    }
    let error = Envelope::read(b"{\"a\":\"\xff\"}").unwrap_err();
    assert_eq!(
        error,
        EnvelopeError::NotJson {
            what: Syntax::NotUtf8,
            at: 6
        }
    );
}

#[test]
fn what_is_not_a_message_is_an_invalid_request() {
    let call = |fields: &str| format!(r#"{{"jsonrpc":"2.0",{fields}}}"#);
    for (body, shown) in [
        ("1".to_owned(), "a message must be an object"),
        ("[1]".to_owned(), "a message must be an object"),
        ("{}".to_owned(), "\"jsonrpc\" must be \"2.0\""),
        (
            r#"{"jsonrpc":"1.0","method":"x"}"#.to_owned(),
            "\"jsonrpc\" must be \"2.0\"",
        ),
        (
            r#"{"jsonrpc":2.0,"method":"x"}"#.to_owned(),
            "jsonrpc must be a string",
        ),
        (call(r#""id":1"#), "send \"method\""),
        (call(r#""id":1,"result":{},"error":{}"#), "send \"method\""),
        (
            call(r#""id":1,"method":"x","result":{}"#),
            "send \"method\"",
        ),
        (call(r#""result":{}"#), "send \"method\""),
        (
            call(r#""id":null,"method":"x""#),
            "the id of a request must be",
        ),
        (
            call(r#""id":true,"method":"x""#),
            "id must be a string or a number",
        ),
        (
            call(r#""id":{},"method":"x""#),
            "id must be a string or a number",
        ),
        (call(r#""id":1,"method":7"#), "method must be a string"),
        (
            call(r#""id":1,"method":"x","params":[]"#),
            "params must be an object",
        ),
        (
            call(r#""id":1,"method":"x","params":{"name":["add"]}"#),
            "params.name must be a string",
        ),
        (
            call(r#""id":1,"method":"x","params":{"cursor":{}}"#),
            "params.cursor must be a string",
        ),
        (
            call(r#""id":1,"method":"x","params":{"_meta":1}"#),
            "params._meta must be an object",
        ),
    ] {
        let error = refused(&body);
        assert!(error.to_string().contains(shown), "{body}: {error}");
        assert_eq!(error.code(), -32600, "{body}");
    }
}

#[test]
fn duplicate_keys_are_refused_where_they_are_read() {
    for (body, object, key) in [
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}"#,
            "the message",
            "method",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"a","\u006dethod":"b"}"#,
            "the message",
            "method",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"x":1,"method":"a","x":2}"#,
            "the message",
            "x",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"name":"a","n\u0061me":"b"}}"#,
            "params",
            "name",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"_meta":{"x":1,"x":1}}}"#,
            "params._meta",
            "x",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"result":{"_meta":{},"_meta":{}}}"#,
            "result",
            "_meta",
        ),
    ] {
        let key = key.to_owned();
        assert_eq!(
            refused(body),
            EnvelopeError::DuplicateKey { object, key },
            "{body}"
        );
    }
    // Also behind many others.
    let many: Vec<_> = (0..40)
        .chain([30])
        .map(|at| format!("\"k{at}\":0"))
        .collect();
    let body = format!(
        r#"{{"jsonrpc":"2.0","method":"x","params":{{{}}}}}"#,
        many.join(",")
    );
    let (object, key) = ("params", "k30".to_owned());
    assert_eq!(refused(&body), EnvelopeError::DuplicateKey { object, key });
    // In what belongs to the tool they are the tool's business.
    one(
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":1,"x":2}}}"#,
    );
}

#[test]
fn sizes_are_limited() {
    let with_keys = |count: usize| {
        let keys: Vec<_> = (0..count).map(|at| format!("\"k{at}\":0")).collect();
        format!(
            r#"{{"jsonrpc":"2.0","method":"x","params":{{{}}}}}"#,
            keys.join(",")
        )
    };
    one(&with_keys(MAX_KEYS));
    assert_eq!(
        refused(&with_keys(MAX_KEYS + 1)),
        EnvelopeError::TooManyKeys { object: "params" }
    );

    let nested = |depth: usize| {
        let value = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"jsonrpc":"2.0","method":"x","params":{{"arguments":{value}}}}}"#)
    };
    let inside = crate::MAX_DEPTH as usize - 2;
    one(&nested(inside));
    for depth in [inside + 1, 1_000_000] {
        let error = refused(&nested(depth));
        assert!(
            matches!(
                error,
                EnvelopeError::NotJson {
                    what: Syntax::TooDeep,
                    ..
                }
            ),
            "{error}"
        );
    }

    let large = " ".repeat(MAX_BODY_BYTES + 1);
    assert_eq!(
        refused(&large),
        EnvelopeError::TooLarge {
            bytes: MAX_BODY_BYTES + 1
        }
    );
}

#[test]
fn splicing_changes_the_named_bytes_only() {
    let body = "{\"jsonrpc\":\"2.0\",\"method\":\"x\",\"params\": {\"cursor\" : \"a\\u0062\" , \"\u{e9}\":1,\"taskId\":\"t\"} }";
    let message = one(body);
    let edits: Vec<_> = message
        .minted
        .iter()
        .map(|value| {
            (
                value.span.clone(),
                if value.kind == Minted::Cursor {
                    "c\"\\"
                } else {
                    ""
                },
            )
        })
        .collect();
    let want = body
        .replace("\"a\\u0062\"", "\"c\\\"\\\\\"")
        .replace("\"t\"", "\"\"");
    assert_eq!(splice(body.as_bytes(), &edits).unwrap(), want.into_bytes());
    assert_eq!(splice(b"abc", &[]).unwrap(), b"abc");
    let backwards = std::ops::Range { start: 2, end: 1 };
    for bad in [
        vec![(backwards, "x")],
        vec![(0..4, "x")],
        vec![(0..2, "x"), (1..3, "y")],
        vec![(2..3, "x"), (0..1, "y")],
    ] {
        assert_eq!(splice(b"abc", &bad), None, "{bad:?}");
    }
}

/// A value by way of a tree.
fn text_at<'v>(value: &'v Value, pointer: &str) -> Option<&'v str> {
    value.pointer(pointer).and_then(Value::as_str)
}

fn strings() -> impl Strategy<Value = String> {
    "[a-c\"\\\\/\n\u{e9}\u{1f600} ]{0,6}"
}

/// A message with some of the fields that are read and some that are not.
fn messages() -> impl Strategy<Value = Value> {
    let field = prop::sample::select(vec![
        "name",
        "uri",
        "taskId",
        "cursor",
        "requestState",
        "protocolVersion",
        "other",
    ]);
    let params = prop::collection::btree_map(field, strings(), 0..5);
    let filler = prop_oneof![
        Just(json!({"name": [1, {"cursor": "no"}]})),
        Just(json!([])),
        Just(json!(1.5)),
        Just(json!(null))
    ];
    let version = prop::option::of(strings());
    (
        params,
        filler,
        version,
        strings(),
        prop::option::of(0..9_u8),
    )
        .prop_map(|(fields, filler, version, method, id)| {
            let mut params = json!(fields);
            params["arguments"] = filler;
            if let Some(version) = version {
                params["_meta"] = json!({"x": {}, (crate::META_PROTOCOL_VERSION): version});
            }
            let mut message = json!({"method": method, "params": params, "jsonrpc": "2.0"});
            if let Some(id) = id {
                message["id"] = json!(id);
            }
            message
        })
}

/// Writes JSON with escapes that need not be, white space, and keys in another order.
fn write(value: &Value, seed: &mut u64) -> String {
    let mut dice = |sides: u64| {
        *seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) % sides
    };
    match value {
        Value::String(text) => {
            let mut out = String::from("\"");
            for unit in text.encode_utf16() {
                match char::from_u32(u32::from(unit)) {
                    Some(plain) if plain.is_ascii_lowercase() && dice(3) > 0 => out.push(plain),
                    _ => write!(out, "\\u{unit:04x}").unwrap(),
                }
            }
            out + "\""
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            if dice(2) == 0 {
                fields.reverse();
            }
            let fields: Vec<_> = fields
                .into_iter()
                .map(|(key, value)| format!("{} :{}", write(&json!(key), seed), write(value, seed)))
                .collect();
            format!("{{ {}}}", fields.join(" ,"))
        }
        other => other.to_string(),
    }
}

proptest! {
    #[test]
    fn it_agrees_with_a_tree(value in messages(), mut seed in any::<u64>()) {
        let body = write(&value, &mut seed);
        let message = one(&body);
        prop_assert_eq!(message.method(), text_at(&value, "/method").unwrap());
        prop_assert_eq!(message.kind == Kind::Request, value.get("id").is_some());
        prop_assert_eq!(message.name.as_deref(), text_at(&value, "/params/name"));
        prop_assert_eq!(message.uri.as_deref(), text_at(&value, "/params/uri"));
        prop_assert_eq!(message.protocol_version.as_deref(), text_at(&value, "/params/protocolVersion"));
        prop_assert_eq!(message.task_id(), text_at(&value, "/params/taskId"));
        for (kind, pointer) in [(Minted::Cursor, "/params/cursor"), (Minted::RequestState, "/params/requestState")] {
            prop_assert_eq!(message.minted(kind).map(|minted| &*minted.value), text_at(&value, pointer));
        }
        let version = value["params"].get("_meta").and_then(|meta| text_at(meta, "/io.modelcontextprotocol~1protocolVersion"));
        prop_assert_eq!(message.meta_protocol_version.as_deref(), version);
    }

    #[test]
    fn a_key_said_twice_is_refused(value in messages(), mut seed in any::<u64>(), at in any::<prop::sample::Index>()) {
        let fields = value["params"].as_object().unwrap();
        let (key, _) = fields.iter().nth(at.index(fields.len())).unwrap();
        let twice = format!("{{{}:null,", write(&json!(key), &mut seed));
        let params = value["params"].to_string().replacen('{', &twice, 1);
        let body = format!(r#"{{"jsonrpc":"2.0","method":"x","params":{params}}}"#);
        let is_duplicate = matches!(refused(&body), EnvelopeError::DuplicateKey { .. });
        prop_assert!(is_duplicate, "{}", body);
    }

    #[test]
    fn minted_values_come_back_by_their_spans(value in messages(), mut seed in any::<u64>(), ours in strings()) {
        let body = write(&value, &mut seed);
        let message = one(&body);
        let edits: Vec<_> = message.minted.iter().map(|minted| (minted.span.clone(), ours.as_str())).collect();
        let sealed = String::from_utf8(splice(body.as_bytes(), &edits).unwrap()).unwrap();
        let mut want = value.clone();
        for field in ["taskId", "cursor", "requestState"] {
            if let Some(old) = want["params"].get_mut(field) {
                *old = json!(ours);
            }
        }
        prop_assert_eq!(serde_json::from_str::<Value>(&sealed).unwrap(), want);
        // And back: the upstream reads what it once made.
        let message = one(&sealed);
        let theirs: Vec<_> = Envelope::read(body.as_bytes()).unwrap().messages.remove(0).minted
            .iter().map(|minted| minted.value.clone().into_owned()).collect();
        let edits: Vec<_> = message.minted.iter().zip(&theirs).map(|(minted, old)| (minted.span.clone(), old.as_str())).collect();
        let back = splice(sealed.as_bytes(), &edits).unwrap();
        prop_assert_eq!(serde_json::from_slice::<Value>(&back).unwrap(), value);
    }

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..100), text in r#"[\[\]{}:,"a\\ 0-9tn]{0,30}"#) {
        let _ = Envelope::read(&bytes);
        let _ = Envelope::read(text.as_bytes());
    }

    #[test]
    fn a_body_cut_short_is_no_json(value in messages(), mut seed in any::<u64>(), at in any::<prop::sample::Index>()) {
        let body = write(&value, &mut seed);
        let cut = body.as_bytes().get(..at.index(body.len())).unwrap();
        prop_assert_eq!(Envelope::read(cut).unwrap_err().code(), -32700);
    }
}

#[test]
fn keys_that_a_lax_reader_takes_for_others_are_noted() {
    for (body, want) in [
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}"#,
            None,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"Name":"a"}}"#,
            Some("name"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","NAME":"b"}}"#,
            Some("name"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","na\u004de":"b"}}"#,
            Some("name"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"x","Method":"tools/call"}"#,
            Some("method"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"x","param\u017f":{}}"#,
            Some("params"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"tas\u212a":{}}}"#,
            Some("task"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"arguments":{"Name":1},"capabilities":{}}}"#,
            None,
        ),
    ] {
        let envelope = Envelope::read(body.as_bytes()).unwrap();
        assert_eq!(envelope.single().unwrap().lookalike, want, "{body}");
    }
}

#[test]
fn keys_that_look_like_those_of_minted_values_are_told_wherever_these_stand() {
    let related =
        |meta: &str| format!(r#"{{"io.modelcontextprotocol/related-task":{{{meta}:"t"}}}}"#);
    let key = |key: &str| format!("\"{key}\"");
    for name in ["cursor", "taskId", "requestState"] {
        let params = |key: &str| {
            let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{{key}:"t"}}}}"#);
            Envelope::read(body.as_bytes()).unwrap().messages[0].lookalike
        };
        assert_eq!(params(&key(name)), None, "{name}");
        let mut like = vec![name.to_uppercase(), name.to_lowercase()];
        like.push(name.replacen('s', "\u{17f}", 1));
        like.push(name.replacen('s', "\\u017f", 1));
        like.push(name.replacen('k', "\u{212a}", 1));
        like.push(name[..1].to_uppercase() + &name[1..]);
        for like in like.iter().filter(|like| *like != name) {
            assert_eq!(params(&key(like)), Some(name), "{like}");
        }
        assert_eq!(params(&key(&format!("{name}s"))), None, "{name}");
    }
    for (part, want) in [
        (
            format!(r#""params":{{"_meta":{}}}"#, related(&key("taskId"))),
            None,
        ),
        (
            format!(r#""params":{{"_meta":{}}}"#, related(&key("TaskID"))),
            Some("taskId"),
        ),
        (
            format!(r#""params":{{"_meta":{}}}"#, related(&key("ta\u{17f}kId"))),
            Some("taskId"),
        ),
        (
            format!(r#""params":{{"_Meta":{}}}"#, related(&key("taskId"))),
            Some("_meta"),
        ),
        (
            format!(
                r#""params":{{"_meta":{}}}"#,
                related(&key("taskId")).replace("related", "Related")
            ),
            Some("io.modelcontextprotocol/related-task"),
        ),
        (
            format!(
                r#""params":{{"arguments":{{"_meta":{}}}}}"#,
                related(&key("TaskId"))
            ),
            None,
        ),
    ] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x",{part}}}"#);
        let envelope = Envelope::read(body.as_bytes()).unwrap();
        assert_eq!(envelope.messages[0].lookalike, want, "{body}");
    }
    for (part, want) in [
        (
            format!(r#""result":{{"_meta":{}}}"#, related(&key("TaskId"))),
            Some("taskId"),
        ),
        (
            format!(r#""result":{{"_META":{}}}"#, related(&key("taskId"))),
            Some("_meta"),
        ),
        (
            r#""error":{"code":1},"Result":{}"#.to_owned(),
            Some("result"),
        ),
        (
            r#""result":{"TaskId":"t","content":[{"_Meta":{}}]}"#.to_owned(),
            None,
        ),
    ] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,{part}}}"#);
        let envelope = Envelope::read(body.as_bytes()).unwrap();
        assert_eq!(envelope.messages[0].lookalike, want, "{body}");
    }
}

#[test]
fn a_call_that_wants_to_be_a_task_says_so() {
    for (params, want) in [
        (r#"{"name":"a","task":{"ttl":1}}"#, true),
        (r#"{"name":"a","t\u0061sk":{}}"#, true),
        (r#"{"name":"a","task":null}"#, false),
        (r#"{"name":"a","arguments":{"task":{}}}"#, false),
    ] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        let envelope = Envelope::read(body.as_bytes()).unwrap();
        assert_eq!(envelope.single().unwrap().wants_task, want, "{params}");
    }
}
