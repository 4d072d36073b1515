//! Lists during a rollout that changes the tool contract: each version's list is true for its own callers only, and not for
//! long, so no cache may share it and none may keep it (2026-07-28, "Caching": `cacheScope` and `ttlMs` of a result).

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use std::fmt;

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
}
