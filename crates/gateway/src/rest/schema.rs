//! What the schema of a tool says about arguments: whether they can be what it asks for, and which of them go into headers too.

use http::{HeaderName, HeaderValue};
use serde_json::Value;
use serin_mcp::header::{PARAM_PREFIX, encode};

/// Most arguments that go into headers.
const HEADERS_MAX: usize = 50;

/// Whether arguments can be what a schema asks for, by a look at its surface: what is required, what is not known, and the types and
/// values of what is there. It is asked when a tool has failed, to tell whose fault that was; whatever it does not see is the tool's.
pub(crate) fn can_fit(schema: &Value, args: &Value) -> bool {
    let Some(args) = args.as_object() else {
        return true;
    };
    let required = schema.get("required").and_then(Value::as_array);
    let mut required = required.into_iter().flatten().filter_map(Value::as_str);
    if required.any(|name| !args.contains_key(name)) {
        return false;
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    let property = |name: &String| properties.and_then(|properties| properties.get(name));
    let is_closed = schema.get("additionalProperties") == Some(&Value::Bool(false))
        && schema.get("patternProperties").is_none();
    args.iter().all(|(name, value)| match property(name) {
        Some(property) => is_one(property, value),
        None => !is_closed,
    })
}

fn is_one(schema: &Value, value: &Value) -> bool {
    let is_of_type = match schema.get("type") {
        Some(Value::String(name)) => has_type(value, name),
        Some(Value::Array(names)) => names
            .iter()
            .filter_map(Value::as_str)
            .any(|name| has_type(value, name)),
        _ => true,
    };
    let values = schema.get("enum").and_then(Value::as_array);
    let constant = schema.get("const");
    is_of_type
        && values.is_none_or(|values| values.contains(value))
        && constant.is_none_or(|constant| constant == value)
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "string" => value.is_string(),
        "number" => value.is_number(),
        // 1.0 is one too (JSON Schema 2020-12, "Validation" 6.1.1).
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        _ => true,
    }
}

/// The headers that a schema asks for beside the body (2026-07-28, `x-mcp-header`).
pub(crate) fn headers(schema: &Value, args: &Value) -> Vec<(HeaderName, HeaderValue)> {
    let properties = schema.get("properties").and_then(Value::as_object);
    let header = |(property, schema): (&String, &Value)| {
        let name = schema.get("x-mcp-header")?.as_str()?;
        let text = match args.get(property)? {
            Value::String(text) => text.clone(),
            value @ (Value::Number(_) | Value::Bool(_)) => value.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => return None,
        };
        let name = HeaderName::try_from(format!("{PARAM_PREFIX}{}", name.to_lowercase())).ok()?;
        Some((name, HeaderValue::from_str(&encode(&text)).ok()?))
    };
    let named = properties.into_iter().flatten().filter_map(header);
    named.take(HEADERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_cannot_fit_is_seen_at_the_surface() {
        let schema = json!({
            "type": "object",
            "properties": {
                "id": { "type": "string" },
                "n": { "type": ["integer", "null"] },
                "mode": { "enum": ["a", "b"] },
                "one": { "const": 1 },
                "any": {},
            },
            "required": ["id"],
        });
        for (args, fits) in [
            (json!({}), false),
            (json!({ "id": 7 }), false),
            (json!({ "id": "x" }), true),
            (json!({ "id": "x", "n": 1.0 }), true),
            (json!({ "id": "x", "n": 1.5 }), false),
            (json!({ "id": "x", "n": null }), true),
            (json!({ "id": "x", "mode": "c" }), false),
            (json!({ "id": "x", "one": 1 }), true),
            (json!({ "id": "x", "one": 2 }), false),
            (json!({ "id": "x", "any": [], "other": 1 }), true),
        ] {
            assert_eq!(can_fit(&schema, &args), fits, "{args}");
        }
        let closed = json!({ "additionalProperties": false });
        assert!(!can_fit(&closed, &json!({ "x": 1 })));
        assert!(can_fit(&closed, &json!({})));
        for odd in [
            json!(true),
            json!({ "properties": 1, "required": {} }),
            json!(null),
        ] {
            assert!(can_fit(&odd, &json!({ "x": 1 })), "{odd}");
        }
    }

    #[test]
    fn arguments_go_into_headers_where_the_schema_says_so() {
        let schema = json!({ "properties": {
            "region": { "type": "string", "x-mcp-header": "Region" },
            "n": { "x-mcp-header": "Count" },
            "odd": { "x-mcp-header": "no name" },
            "list": { "x-mcp-header": "List" },
            "absent": { "x-mcp-header": "Absent" },
            "plain": {},
        } });
        let args = json!({ "region": "eu", "n": 7, "odd": "x", "list": [], "plain": "x" });
        let mut made = headers(&schema, &args);
        made.sort_by_key(|(name, _)| name.to_string());
        let made: Vec<_> = made
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(made, [("mcp-param-count", "7"), ("mcp-param-region", "eu")]);
    }
}
