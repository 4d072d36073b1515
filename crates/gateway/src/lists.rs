//! Lists that are true for some callers only. During a rollout that changes the tool contract each version's list is true for its own
//! callers, and where flags open and close tools each caller's for itself; not for long, so no cache may share it and none may keep
//! it (2026-07-28, "Caching": `cacheScope` and `ttlMs` of a result). Tools that a caller may not call are not in its list, and features
//! that are closed not in the capabilities that a server offers.

use crate::access::Closed;
use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use serin_mcp::error::{GatewayError, error_body};
use std::{borrow::Cow, fmt};

/// The name of the tasks extension (2026-07-28).
const TASKS_EXTENSION: &str = "io.modelcontextprotocol/tasks";
/// Where a modern request says what its client can do.
const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// How long a client may keep a list meanwhile: a caller that moves when the share is raised sees the other list soon.
pub(crate) const LIST_TTL_MS_MAX: u64 = 5_000;

/// Whether a method's result is a list that differs with the contract.
pub(crate) fn is_list(method: &str) -> bool {
    matches!(
        method,
        "tools/list" | "prompts/list" | "resources/list" | "resources/templates/list"
    )
}

/// A JSON answer, private and short-lived; as it was if it is no result.
pub(crate) fn restrict(body: &Bytes) -> Bytes {
    restricted(body).map_or_else(|| body.clone(), Bytes::from)
}

/// The same for events, each of which holds its message on one line.
pub(crate) fn restrict_events(body: &Bytes) -> Bytes {
    let mut out = Vec::with_capacity(body.len() + 64);
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        let data = line.strip_prefix(b"data:");
        match data.and_then(|data| Some((data, restricted(data)?))) {
            Some((data, message)) => {
                out.extend_from_slice(b"data: ");
                out.extend_from_slice(&message);
                let end = data.iter().rposition(|byte| !byte.is_ascii_whitespace());
                out.extend_from_slice(data.get(end.map_or(0, |end| end + 1)..).unwrap_or_default());
            }
            None => out.extend_from_slice(line),
        }
    }
    out.into()
}

fn restricted(message: &[u8]) -> Option<Vec<u8>> {
    let Fields(message) = serde_json::from_slice(message).ok()?;
    let (_, result) = message.iter().find(|(key, _)| key == "result")?;
    let Fields(result) = serde_json::from_str(result.get()).ok()?;
    let ttl = result.iter().find(|(key, _)| key == "ttlMs");
    let ttl = ttl.and_then(|(_, ttl)| ttl.get().parse::<f64>().ok());
    let ttl = ttl.unwrap_or(0.0).clamp(0.0, LIST_TTL_MS_MAX as f64);
    let kept = result
        .iter()
        .filter(|(key, _)| key != "ttlMs" && key != "cacheScope")
        .map(|(key, value)| (key.as_str(), value.get()));
    let (ttl, scope) = (ttl.to_string(), "\"private\"");
    let result = object(kept.chain([("ttlMs", ttl.as_str()), ("cacheScope", scope)]));
    let fields = message.iter().map(|(key, value)| match key.as_str() {
        "result" => ("result", result.as_str()),
        key => (key, value.get()),
    });
    Some(object(fields).into_bytes())
}

fn object<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let fields = fields.map(|(key, value)| format!("{}:{value}", serde_json::Value::from(key)));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

/// What becomes of a server's message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    /// It passes as it is.
    Keep,
    /// This one passes in its place.
    Replace(Vec<u8>),
    /// It is a request of the server that its client must not get: this is the answer to it.
    Refuse(String),
}

/// Makes a server's message agree with what the caller may call: lists without the other tools, capabilities without closed features,
/// and no questions by way of closed features.
pub(crate) fn edit(
    message: &[u8],
    closed: Closed,
    mut is_visible: impl FnMut(&str) -> bool,
) -> Edit {
    if let Ok(batch) = serde_json::from_slice::<Vec<&RawValue>>(message) {
        let edited = |message: &&RawValue| {
            let text = message.get();
            match edit_one(text.as_bytes(), closed, &mut is_visible) {
                Edit::Keep => (false, Some(text.to_owned())),
                Edit::Replace(other) => (true, String::from_utf8(other).ok()),
                // Batches with requests of the server are gone since 2025-06-18; this one stays unanswered.
                Edit::Refuse(_) => (true, None),
            }
        };
        let (is_edited, messages): (Vec<_>, Vec<_>) = batch.iter().map(edited).unzip();
        if !is_edited.contains(&true) {
            return Edit::Keep;
        }
        let messages: Vec<_> = messages.into_iter().flatten().collect();
        return Edit::Replace(format!("[{}]", messages.join(",")).into_bytes());
    }
    edit_one(message, closed, &mut is_visible)
}

fn edit_one(message: &[u8], closed: Closed, is_visible: &mut dyn FnMut(&str) -> bool) -> Edit {
    let Ok(Fields(fields)) = serde_json::from_slice(message) else {
        return Edit::Keep;
    };
    let field = |name: &str| {
        fields
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, v)| v.get())
    };
    let id = field("id");
    let text = |raw: &str| serde_json::from_str::<String>(raw).unwrap_or_default();
    if let Some(method) = field("method").map(text) {
        return match closed.asked_by(&method) {
            Some(feature) if id.is_some() => {
                let text = format!("{feature} is switched off here; go on without it");
                Edit::Refuse(error_body(id, GatewayError::MethodNotFound, &text, None))
            }
            Some(_) | None => Edit::Keep,
        };
    }
    let Some(result) = field("result") else {
        return Edit::Keep;
    };
    if let Some(method) = asks_by(result, closed) {
        let text = format!("the server asks for `{method}`, which is switched off here");
        let error = error_body(id, GatewayError::Disabled, &text, None);
        return Edit::Replace(error.into_bytes());
    }
    let mut of_result = |key: &str, value: &str| match key {
        "tools" => visible(value, is_visible),
        "capabilities" if closed.tasks => without_tasks(value),
        _ => None,
    };
    let of_message = |key: &str, value: &str| match key {
        "result" => changed(value, &mut of_result),
        _ => None,
    };
    let text = std::str::from_utf8(message).unwrap_or_default();
    changed(text, of_message).map_or(Edit::Keep, |other| Edit::Replace(other.into_bytes()))
}

/// The method by which an `input_required` result asks for something closed (2026-07-28, `inputRequests`).
fn asks_by(result: &str, closed: Closed) -> Option<String> {
    #[derive(Deserialize)]
    struct Asking<'a> {
        #[serde(borrow)]
        method: Cow<'a, str>,
    }
    if !closed.sampling && !closed.elicitation {
        return None;
    }
    let Fields(result) = serde_json::from_str(result).ok()?;
    let (_, requests) = result.iter().find(|(key, _)| key == "inputRequests")?;
    let Fields(requests) = serde_json::from_str(requests.get()).ok()?;
    let asked = requests
        .iter()
        .filter_map(|(_, request)| serde_json::from_str::<Asking<'_>>(request.get()).ok());
    let mut methods = asked.map(|asking| asking.method.into_owned());
    methods.find(|method| closed.asked_by(method).is_some())
}

/// A list of tools without those that are not visible; nothing if all are.
fn visible(tools: &str, is_visible: &mut dyn FnMut(&str) -> bool) -> Option<String> {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        name: Cow<'a, str>,
    }
    let tools: Vec<&RawValue> = serde_json::from_str(tools).ok()?;
    let mut shows = |tool: &&&RawValue| {
        let named = serde_json::from_str::<Named<'_>>(tool.get());
        named.is_ok_and(|named| is_visible(&named.name))
    };
    let kept: Vec<_> = tools
        .iter()
        .filter(&mut shows)
        .map(|tool| tool.get())
        .collect();
    (kept.len() != tools.len()).then(|| format!("[{}]", kept.join(",")))
}

/// Capabilities without tasks; nothing if there were none.
fn without_tasks(capabilities: &str) -> Option<String> {
    let kept = without(capabilities, &["tasks"]);
    let capabilities = kept.as_deref().unwrap_or(capabilities);
    let fewer = |key: &str, value: &str| match key {
        "extensions" => without(value, &[TASKS_EXTENSION]),
        _ => None,
    };
    changed(capabilities, fewer).or(kept)
}

/// What a client says that it can do, without what is closed; nothing if it said nothing of it.
fn without_closed(capabilities: &str, closed: Closed) -> Option<String> {
    let mut names = Vec::new();
    if closed.sampling {
        names.push("sampling");
    }
    if closed.elicitation {
        names.push("elicitation");
    }
    let kept = without(capabilities, &names);
    if !closed.tasks {
        return kept;
    }
    let capabilities = kept.as_deref().unwrap_or(capabilities);
    without_tasks(capabilities).or(kept)
}

/// The `params` of `initialize`, of a client that cannot do what is closed; nothing if they are so already.
pub(crate) fn initialize_params(params: &str, closed: Closed) -> Option<String> {
    changed(params, |key, value| match key {
        "capabilities" => without_closed(value, closed),
        _ => None,
    })
}

/// A legacy `initialize` with other `params`.
pub(crate) fn with_params(body: &[u8], params: &str) -> Option<Vec<u8>> {
    let body = std::str::from_utf8(body).ok()?;
    let other = |key: &str, _: &str| (key == "params").then(|| params.to_owned());
    changed(body, other).map(String::into_bytes)
}

/// A modern request, of a client that cannot do what is closed; nothing if it is so already.
pub(crate) fn modern_request(body: &[u8], closed: Closed) -> Option<Vec<u8>> {
    let body = std::str::from_utf8(body).ok()?;
    let of_meta = |key: &str, value: &str| match key {
        CLIENT_CAPABILITIES => without_closed(value, closed),
        _ => None,
    };
    let of_params = |key: &str, value: &str| match key {
        "_meta" => changed(value, of_meta),
        _ => None,
    };
    let of_body = |key: &str, value: &str| match key {
        "params" => changed(value, of_params),
        _ => None,
    };
    changed(body, of_body).map(String::into_bytes)
}

/// An object with some of its values changed; nothing if none is.
fn changed(text: &str, mut change: impl FnMut(&str, &str) -> Option<String>) -> Option<String> {
    let Fields(fields) = serde_json::from_str(text).ok()?;
    let values: Vec<_> = fields
        .iter()
        .map(|(key, value)| change(key, value.get()))
        .collect();
    if values.iter().all(Option::is_none) {
        return None;
    }
    let fields = fields
        .iter()
        .zip(&values)
        .map(|((key, before), value)| (key.as_str(), value.as_deref().unwrap_or(before.get())));
    Some(object(fields))
}

/// An object without some of its fields; nothing if it has none of them.
fn without(text: &str, names: &[&str]) -> Option<String> {
    let Fields(fields) = serde_json::from_str(text).ok()?;
    let is_kept = |key: &str| !names.contains(&key);
    if fields.iter().all(|(key, _)| is_kept(key)) {
        return None;
    }
    let kept = fields.iter().filter(|(key, _)| is_kept(key));
    Some(object(kept.map(|(key, value)| (key.as_str(), value.get()))))
}

/// The fields of an object in their order, values as they stand there.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    fields.push(entry);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_list_becomes_private_and_short_lived_and_keeps_the_rest() {
        for (body, want) in [
            (
                r#"{ "jsonrpc":"2.0","id":1.0, "result":{"ttlMs":3600000,"tools":[{"x":1.50}],"cacheScope":"public"}}"#,
                r#"{"jsonrpc":"2.0","id":1.0,"result":{"tools":[{"x":1.50}],"ttlMs":5000,"cacheScope":"private"}}"#,
            ),
            (
                r#"{"result":{"ttlMs":20,"\u0061":1}}"#,
                r#"{"result":{"a":1,"ttlMs":20,"cacheScope":"private"}}"#,
            ),
            (
                r#"{"result":{}}"#,
                r#"{"result":{"ttlMs":0,"cacheScope":"private"}}"#,
            ),
            (r#"{"error": {}}"#, r#"{"error": {}}"#),
            ("[1, 2", "[1, 2"),
        ] {
            assert_eq!(restrict(&Bytes::from(body)), want);
        }
    }

    #[test]
    fn so_it_does_in_events() {
        let body =
            "id: 1\r\ndata: {\"result\":{}}\r\n\r\n: note\ndata:\n\ndata: {\"method\":\"x\"}\n\n";
        let want = "id: 1\r\ndata: {\"result\":{\"ttlMs\":0,\"cacheScope\":\"private\"}}\r\n\r\n: note\ndata:\n\ndata: {\"method\":\"x\"}\n\n";
        assert_eq!(restrict_events(&Bytes::from(body)), want);
    }

    const ALL: Closed = Closed {
        sampling: true,
        elicitation: true,
        tasks: true,
    };

    fn edited(message: &str, closed: Closed) -> Option<String> {
        match edit(message.as_bytes(), closed, |tool| tool != "gone") {
            Edit::Keep => None,
            Edit::Replace(other) => Some(String::from_utf8(other).unwrap()),
            Edit::Refuse(answer) => Some(format!("refused {answer}")),
        }
    }

    #[test]
    fn only_what_must_change_changes() {
        for (message, want) in [
            (
                r#"{"id":1, "result":{"tools":[{"name":"a", "x":1.50}]}}"#,
                None,
            ),
            (
                r#"{"id":1.0,"result":{"tools":[{"name":"gone"},{"name":"a", "x":1.50}],"nextCursor":"n"}}"#,
                Some(r#"{"id":1.0,"result":{"tools":[{"name":"a", "x":1.50}],"nextCursor":"n"}}"#),
            ),
            (
                r#"{"result":{"tools":[{"n\u0061me":"g\u006fne"}]}}"#,
                Some(r#"{"result":{"tools":[]}}"#),
            ),
            // A tool without a name is none that anybody could call.
            (
                r#"{"result":{"tools":[{"title":"x"}]}}"#,
                Some(r#"{"result":{"tools":[]}}"#),
            ),
            // Of a key that is there twice each reader takes another one.
            (
                r#"{"result":{"tools":[{"name":"a"}],"tools":[{"name":"gone"}]}}"#,
                Some(r#"{"result":{"tools":[{"name":"a"}],"tools":[]}}"#),
            ),
            (
                r#"{"result":{},"result":{"tools":[{"name":"gone"}]}}"#,
                Some(r#"{"result":{},"result":{"tools":[]}}"#),
            ),
            (r#"{"result":{"content":[{"name":"gone"}]}}"#, None),
            (r#"{"error":{"tools":[{"name":"gone"}]}}"#, None),
            (
                r#"[{"id":1,"result":{"tools":[{"name":"gone"}]}},{"id":2, "result":{}}]"#,
                Some(r#"[{"id":1,"result":{"tools":[]}},{"id":2, "result":{}}]"#),
            ),
            ("[1", None),
            ("", None),
        ] {
            assert_eq!(
                edited(message, Closed::default()).as_deref(),
                want,
                "{message}"
            );
        }
    }

    #[test]
    fn closed_features_are_neither_offered_nor_used() {
        for (message, want) in [
            (
                r#"{"result":{"capabilities":{"tools":{},"tasks":{},"extensions":{"io.modelcontextprotocol/tasks":{},"x":{}}}}}"#,
                r#"{"result":{"capabilities":{"tools":{},"extensions":{"x":{}}}}}"#,
            ),
            (
                r#"{"id":"q","method":"sampling/createMessage","params":{}}"#,
                r#"refused {"jsonrpc":"2.0","id":"q","error":{"code":-32601,"message":"sampling is switched off here; go on without it"}}"#,
            ),
            (
                r#"{"id":5,"result":{"resultType":"input_required","inputRequests":{"a":{"method":"roots/list"},"b":{"method":"elicitation/create"}}}}"#,
                r#"{"jsonrpc":"2.0","id":5,"error":{"code":-31006,"message":"the server asks for `elicitation/create`, which is switched off here"}}"#,
            ),
        ] {
            assert_eq!(edited(message, ALL).as_deref(), Some(want));
            assert_eq!(edited(message, Closed::default()), None, "{message}");
        }
        // A notification asks for nothing.
        assert_eq!(edited(r#"{"method":"elicitation/create"}"#, ALL), None);
    }

    proptest! {
        #[test]
        fn outside_messages_never_panic(message: Vec<u8>, text in r#"[\[\]{}:,"a-z]{0,60}"#) {
            let _ = edit(&message, ALL, |_| false);
            let _ = edit(text.as_bytes(), ALL, |_| false);
            let _ = modern_request(&message, ALL);
        }

        #[test]
        fn no_hidden_tool_stays_in_a_list(names in prop::collection::vec("(gone|[a-c]{1,2})", 0..8)) {
            let tools: Vec<_> = names.iter().map(|name| serde_json::json!({ "name": name })).collect();
            let message = serde_json::json!({ "id": 1, "result": { "tools": tools } }).to_string();
            let after = edited(&message, Closed::default()).unwrap_or(message);
            let after: serde_json::Value = serde_json::from_str(&after).unwrap();
            let left = after["result"]["tools"].as_array().unwrap().iter();
            let left: Vec<_> = left.map(|tool| tool["name"].as_str().unwrap()).collect();
            let want: Vec<_> = names.iter().filter(|name| *name != "gone").collect();
            prop_assert_eq!(left, want);
        }
    }
}
