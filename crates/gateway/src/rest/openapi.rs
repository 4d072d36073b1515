//! `OpenAPI` 3.1 of a version, made of the schemas of the tools that the caller may see. Both are JSON Schema 2020-12, so the schemas stand
//! in it as their servers wrote them, but for references to their own root, which now stands elsewhere.

use super::{list::name_of, place::Place};
use serde_json::{Map, Value, json, value::RawValue};
use std::collections::BTreeSet;

/// Deepest schema in which references are followed; deeper ones stay as they are.
const DEPTH_MAX: usize = 64;

/// Keywords whose value is a schema (JSON Schema 2020-12, "Core" 10 and 11, and those of earlier drafts that are still about).
const SCHEMA: [&str; 12] = [
    "items",
    "additionalItems",
    "contains",
    "additionalProperties",
    "unevaluatedItems",
    "unevaluatedProperties",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
    "contentSchema",
];
/// Those whose value is a list of schemas.
const SCHEMAS: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
/// Those whose value has schemas under names.
const NAMED_SCHEMAS: [&str; 5] = [
    "properties",
    "patternProperties",
    "dependentSchemas",
    "$defs",
    "definitions",
];

/// The description of a version with these tools.
pub(crate) fn document(place: &Place, needs_key: bool, tools: &[Box<RawValue>]) -> Value {
    let mut schemas = common();
    let (mut taken, mut calls, mut results) = (BTreeSet::new(), Vec::new(), Vec::new());
    let mut mapping = Map::new();
    for tool in tools {
        let Some(name) = name_of(tool) else { continue };
        let tool: Value = serde_json::from_str(tool.get()).unwrap_or_default();
        let plain = plain_name(&name, &mut taken);
        let args = format!("{plain}.args");
        add(&mut schemas, &args, tool.get("inputSchema"));
        let call = format!("{plain}.call");
        mapping.insert(name.to_string(), reference(&call));
        let mut described = json!({
            "type": "object",
            "properties": { "tool": { "const": name }, "args": { "$ref": reference(&args) } },
            "required": ["tool"],
            "additionalProperties": false,
        });
        for word in ["title", "description"] {
            if let Some(Value::String(text)) = tool.get(word) {
                described[word] = text.clone().into();
            }
        }
        schemas.insert(call.clone(), described);
        calls.push(json!({ "$ref": reference(&call) }));
        let mut result = json!({ "$ref": reference("CallToolResult") });
        if let Some(output) = tool.get("outputSchema") {
            let named = format!("{plain}.result");
            add(&mut schemas, &named, Some(output));
            let structured = json!({ "structuredContent": { "$ref": reference(&named) } });
            result = json!({ "allOf": [result, { "properties": structured }] });
        }
        results.push(json!({ "title": name, "type": "object", "properties": { "result": result }, "required": ["result"] }));
    }
    let mut document = json!({
        "openapi": "3.1.0",
        "info": { "title": "Tools", "version": place.version.to_string() },
        "servers": [{ "url": place.prefix }],
        "paths": paths(&calls, &mapping, &results),
        "components": { "schemas": schemas },
    });
    if needs_key {
        document["components"]["securitySchemes"] =
            json!({ "key": { "type": "http", "scheme": "bearer" } });
        document["security"] = json!([{ "key": [] }]);
    }
    document
}

fn reference(name: &str) -> Value {
    format!("#/components/schemas/{name}").into()
}

/// Adds a schema whose references to its own root lead to where it stands now.
fn add(schemas: &mut Map<String, Value>, name: &str, schema: Option<&Value>) {
    let mut schema = schema
        .cloned()
        .unwrap_or_else(|| json!({ "type": "object" }));
    // References are relative to the nearest `$id`, where there is one.
    if schema.get("$id").is_none() {
        move_references(&mut schema, &format!("#/components/schemas/{name}"), 0);
    }
    schemas.insert(name.to_owned(), schema);
}

fn move_references(schema: &mut Value, to: &str, depth: usize) {
    let Value::Object(members) = schema else {
        return;
    };
    if depth > DEPTH_MAX || (depth > 0 && members.contains_key("$id")) {
        return;
    }
    for (keyword, value) in members {
        let keyword = keyword.as_str();
        match value {
            Value::String(target) if keyword == "$ref" => {
                if let Some(rest) = target
                    .strip_prefix('#')
                    .filter(|rest| rest.is_empty() || rest.starts_with('/'))
                {
                    *target = format!("{to}{rest}");
                }
            }
            Value::Object(named) if NAMED_SCHEMAS.contains(&keyword) => {
                for schema in named.values_mut() {
                    move_references(schema, to, depth + 1);
                }
            }
            Value::Array(schemas) if SCHEMAS.contains(&keyword) || keyword == "items" => {
                for schema in schemas {
                    move_references(schema, to, depth + 1);
                }
            }
            Value::Object(_) if SCHEMA.contains(&keyword) => move_references(value, to, depth + 1),
            _ => {}
        }
    }
}

/// A name that components may have, and that no other tool has.
fn plain_name(name: &str, taken: &mut BTreeSet<String>) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let plain: String = name
        .chars()
        .map(|c| if is_plain(c) { c } else { '_' })
        .collect();
    let mut named = plain.clone();
    let mut number = 2;
    while !taken.insert(named.clone()) {
        named = format!("{plain}.{number}");
        number += 1;
    }
    named
}

fn common() -> Map<String, Value> {
    let schemas = json!({
        "CallToolResult": {
            "type": "object",
            "description": "What the tool returned, as MCP has it.",
            "properties": {
                "content": { "type": "array", "items": { "type": "object" } },
                "structuredContent": {},
                "isError": { "type": "boolean" },
            },
            "required": ["content"],
        },
        "Tool": {
            "type": "object",
            "properties": {
                "name": { "type": "string" },
                "title": { "type": "string" },
                "description": { "type": "string" },
                "inputSchema": { "type": "object" },
                "outputSchema": { "type": "object" },
            },
            "required": ["name", "inputSchema"],
        },
        "Problem": {
            "type": "object",
            "description": "What was wrong, where, and what to do (RFC 9457).",
            "properties": {
                "type": { "type": "string" },
                "title": { "type": "string" },
                "status": { "type": "integer" },
                "detail": { "type": "string" },
                "help": { "type": "string" },
                "tool": { "type": "string" },
                "error": {},
                "supported_versions": { "type": "array", "items": { "type": "integer" } },
            },
            "required": ["type", "title", "status", "detail"],
        },
    });
    match schemas {
        Value::Object(schemas) => schemas,
        _ => Map::new(),
    }
}

fn paths(calls: &[Value], mapping: &Map<String, Value>, results: &[Value]) -> Value {
    let answer = |description: &str, schema: Value| json!({ "description": description, "content": { "application/json": { "schema": schema } } });
    let problem = json!({
        "description": "What was wrong.",
        "content": { "application/problem+json": { "schema": { "$ref": reference("Problem") } } },
    });
    let tool = json!({ "$ref": reference("Tool") });
    let tools = json!({
        "type": "object",
        "properties": { "tools": { "type": "array", "items": tool } },
        "required": ["tools"],
    });
    let mut called = answer("The result.", one_of(results, json!({ "type": "object" })));
    called["content"]["text/event-stream"] = json!({ "schema": { "type": "string" } });
    let mut body = one_of(calls, json!(false));
    if !mapping.is_empty() {
        body["discriminator"] = json!({ "propertyName": "tool", "mapping": mapping });
    }
    json!({
        "/tools": { "get": {
            "operationId": "listTools",
            "summary": "The tools that there are for you.",
            "responses": { "200": answer("The tools.", tools), "default": problem },
        } },
        "/tools/{name}": { "get": {
            "operationId": "getTool",
            "summary": "One tool.",
            "parameters": [{ "name": "name", "in": "path", "required": true, "schema": { "type": "string" } }],
            "responses": { "200": answer("The tool.", tool), "default": problem },
        } },
        "/tool": { "post": {
            "operationId": "callTool",
            "summary": "Call a tool.",
            "requestBody": { "required": true, "content": { "application/json": { "schema": body } } },
            "responses": { "200": called, "default": problem },
        } },
    })
}

/// One of these; `other` where there are none.
fn one_of(schemas: &[Value], other: Value) -> Value {
    match schemas {
        [] if other == json!(false) => json!({ "not": {} }),
        [] => other,
        schemas => json!({ "anyOf": schemas }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_lead_to_where_the_schema_stands_now() {
        let mut schemas = Map::new();
        let schema = json!({
            "$defs": { "point": { "properties": { "next": { "$ref": "#/$defs/point" } } } },
            "properties": {
                "a": { "$ref": "#/$defs/point" },
                "$ref": { "type": "string" },
                "all": { "items": [{ "$ref": "#" }], "const": { "$ref": "#/not/one" } },
                "other": { "$ref": "https://example.com/x#/y" },
                "own": { "$id": "urn:own", "items": { "$ref": "#/z" } },
            },
            "anyOf": [{ "additionalProperties": { "$ref": "#/$defs/point" } }],
            "default": { "$ref": "#/not/one" },
        });
        add(&mut schemas, "t.args", Some(&schema));
        let to = "#/components/schemas/t.args";
        let want = json!({
            "$defs": { "point": { "properties": { "next": { "$ref": format!("{to}/$defs/point") } } } },
            "properties": {
                "a": { "$ref": format!("{to}/$defs/point") },
                "$ref": { "type": "string" },
                "all": { "items": [{ "$ref": to }], "const": { "$ref": "#/not/one" } },
                "other": { "$ref": "https://example.com/x#/y" },
                "own": { "$id": "urn:own", "items": { "$ref": "#/z" } },
            },
            "anyOf": [{ "additionalProperties": { "$ref": format!("{to}/$defs/point") } }],
            "default": { "$ref": "#/not/one" },
        });
        assert_eq!(schemas["t.args"], want);
    }

    #[test]
    fn every_tool_has_a_name_of_its_own() {
        let mut taken = BTreeSet::new();
        let names = ["a/b", "a b", "a_b", "ä", "a.b-c"].map(|name| plain_name(name, &mut taken));
        assert_eq!(names, ["a_b", "a_b.2", "a_b.3", "_", "a.b-c"]);
    }
}
