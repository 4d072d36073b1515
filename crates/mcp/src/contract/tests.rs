//! The tool contract's difference by a table of cases.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use Severity::{Breaking, Fine, Risky};

fn list(tools: &[Value]) -> Value {
    json!({ "tools": tools })
}

fn tool(fields: &Value) -> Value {
    let mut tool = json!({"name": "t", "inputSchema": {"type": "object"}});
    for (key, value) in fields.as_object().unwrap() {
        tool[key] = value.clone();
    }
    tool
}

/// Pointer and severity of each change of one tool.
fn changes(old: &Value, new: &Value) -> Vec<(String, Severity)> {
    let diff = compare(&list(&[tool(old)]), &list(&[tool(new)])).unwrap();
    diff.changes
        .into_iter()
        .map(|change| (change.pointer, change.severity))
        .collect()
}

fn check(old: &Value, new: &Value, want: &[(&str, Severity)]) {
    let want: Vec<_> = want
        .iter()
        .map(|(pointer, severity)| ((*pointer).to_owned(), *severity))
        .collect();
    assert_eq!(changes(old, new), want, "{old} -> {new}");
    assert_eq!(changes(old, old), []);
    assert_eq!(changes(new, new), []);
}

/// A change of one parameter's schema, and the same change of a result's field.
fn check_both(old: &Value, new: &Value, input: Severity, output: Severity) {
    for (schema, want) in [("inputSchema", input), ("outputSchema", output)] {
        let wrap = |field: &Value| json!({schema: {"type": "object", "properties": {"a": field}}});
        let worst = changes(&wrap(old), &wrap(new))
            .into_iter()
            .map(|(_, severity)| severity)
            .max();
        assert_eq!(worst, Some(want), "{schema}: {old} -> {new}");
    }
}

#[test]
fn a_narrower_argument_and_a_wider_result_break() {
    for (narrow, wide) in [
        (
            json!({"type": "string"}),
            json!({"type": ["string", "null"]}),
        ),
        (json!({"type": "string"}), json!({})),
        (json!({"type": "string"}), json!(true)),
        (json!({"type": "integer"}), json!({"type": "number"})),
        (
            json!({"type": "string"}),
            json!({"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ),
        (
            json!({"anyOf": [{"type": "null"}]}),
            json!({"oneOf": [{"type": "string"}, {"type": "null"}]}),
        ),
        (json!({"enum": ["a"]}), json!({"enum": ["b", "a"]})),
        (json!({"const": "a"}), json!({"enum": ["a", "b"]})),
        (json!({"enum": ["a"]}), json!({})),
        (json!({"minimum": 2}), json!({"minimum": 1.5})),
        (json!({"maxLength": 2}), json!({"maxLength": 3})),
        (json!({"maxItems": 2}), json!({})),
        (json!({"pattern": "^a"}), json!({})),
        (json!({"uniqueItems": true}), json!({"uniqueItems": false})),
        (json!({"unevaluatedProperties": false}), json!({})),
        (
            json!({"items": {"type": "string"}}),
            json!({"items": {"type": ["string", "null"]}}),
        ),
        (json!({"items": {"type": "string"}}), json!({})),
        (
            json!({"properties": {"b": {"type": "string"}}}),
            json!({"properties": {"b": {}}}),
        ),
        (json!({"required": ["b", "c"]}), json!({"required": ["c"]})),
        (
            json!({"additionalProperties": {"type": "string"}}),
            json!({}),
        ),
        (
            json!({"additionalProperties": {"type": "string"}}),
            json!({"additionalProperties": {}}),
        ),
        (json!(false), json!({"type": "string"})),
    ] {
        check_both(&wide, &narrow, Breaking, Fine);
        check_both(&narrow, &wide, Fine, Breaking);
    }
}

#[test]
fn what_cannot_be_ordered_breaks_both_ways() {
    for (old, new) in [
        (json!({"type": "string"}), json!({"type": "integer"})),
        (json!({"pattern": "a"}), json!({"pattern": "b"})),
        (
            json!({"anyOf": [{"type": "string"}]}),
            json!({"anyOf": [{"type": "null"}]}),
        ),
        (json!({"enum": ["a", "b"]}), json!({"enum": ["b", "c"]})),
        (
            json!({"$ref": "https://example.com/a"}),
            json!({"$ref": "https://example.com/b"}),
        ),
        (
            json!({"not": {"type": "string"}}),
            json!({"not": {"type": "null"}}),
        ),
    ] {
        check_both(&old, &new, Breaking, Breaking);
        check_both(&new, &old, Breaking, Breaking);
    }
}

#[test]
fn words_are_risky_and_titles_are_not() {
    for (key, severity) in [
        ("description", Risky),
        ("default", Risky),
        ("format", Risky),
        ("title", Fine),
        ("examples", Fine),
    ] {
        check_both(
            &json!({"type": "string", key: "a"}),
            &json!({"type": "string", key: "b"}),
            severity,
            severity,
        );
    }
    // Beside alternatives and references too.
    check_both(
        &json!({"anyOf": [{}], "description": "a"}),
        &json!({"anyOf": [{}], "description": "b"}),
        Risky,
        Risky,
    );
}

#[test]
fn parameters_come_and_go() {
    let schema = |schema: Value| json!({ "inputSchema": schema });
    let two = schema(json!({"type": "object", "properties": {"a": {}, "b/~": {}}}));
    let one = schema(json!({"type": "object", "properties": {"a": {}}}));
    let one_closed =
        schema(json!({"type": "object", "properties": {"a": {}}, "additionalProperties": false}));
    let one_required =
        schema(json!({"type": "object", "properties": {"a": {}}, "required": ["a"]}));
    let none = schema(json!({"type": "object"}));
    check(&one, &two, &[("/inputSchema/properties/b~1~0", Fine)]);
    check(&two, &one, &[("/inputSchema/properties/b~1~0", Risky)]);
    check(
        &two,
        &one_closed,
        &[
            ("/inputSchema/properties/b~1~0", Breaking),
            ("/inputSchema/additionalProperties", Risky),
        ],
    );
    check(
        &one_closed,
        &one,
        &[("/inputSchema/additionalProperties", Fine)],
    );
    check(
        &none,
        &one_required,
        &[
            ("/inputSchema/properties/a", Fine),
            ("/inputSchema/required", Breaking),
        ],
    );
    check(&one_required, &one, &[("/inputSchema/required", Fine)]);
    // The order of lists says nothing.
    check(
        &schema(json!({"required": ["a", "b"], "properties": {"a": {"enum": [1, 2]}}})),
        &schema(json!({"required": ["b", "a"], "properties": {"a": {"enum": [2, 1]}}})),
        &[],
    );
}

#[test]
fn results_lose_what_they_guaranteed() {
    let schema = |schema: Value| json!({ "outputSchema": schema });
    let old = schema(json!({"properties": {"a": {}, "b": {}}, "required": ["a"]}));
    let lost = schema(json!({"properties": {"b": {}}}));
    check(
        &old,
        &lost,
        &[
            ("/outputSchema/properties/a", Risky),
            ("/outputSchema/required", Breaking),
        ],
    );
    check(&old, &json!({}), &[("/outputSchema", Breaking)]);
    check(&json!({}), &old, &[("/outputSchema", Fine)]);
}

#[test]
fn the_rest_of_a_tool() {
    let hint = |hint: &str, value: bool| json!({"annotations": {hint: value}});
    check(
        &hint("readOnlyHint", true),
        &json!({}),
        &[("/annotations/readOnlyHint", Risky)],
    );
    check(
        &hint("destructiveHint", false),
        &hint("destructiveHint", true),
        &[("/annotations/destructiveHint", Risky)],
    );
    check(&hint("destructiveHint", true), &json!({}), &[]);
    check(
        &json!({"annotations": {"title": "a"}}),
        &json!({"annotations": {"title": "b"}}),
        &[],
    );
    check(
        &json!({"title": "a"}),
        &json!({"title": "b"}),
        &[("/title", Fine)],
    );
    check(
        &json!({"description": "a"}),
        &json!({}),
        &[("/description", Risky)],
    );
    check(
        &json!({"strange": 1}),
        &json!({"strange": 2}),
        &[("/strange", Risky)],
    );
    let support = |support: &str| json!({"execution": {"taskSupport": support}});
    check(&json!({}), &support("forbidden"), &[]);
    check(
        &json!({}),
        &support("optional"),
        &[("/execution/taskSupport", Fine)],
    );
    check(
        &support("optional"),
        &support("required"),
        &[("/execution/taskSupport", Breaking)],
    );
    check(
        &support("optional"),
        &json!({}),
        &[("/execution/taskSupport", Breaking)],
    );
}

#[test]
fn references_are_followed() {
    let schema = |kind: &str, holder: Value| json!({"inputSchema": {"properties": {"a": holder}, "$defs": {"D": {"type": kind}}}});
    for holder in [
        json!({"$ref": "#/$defs/D"}),
        json!({"allOf": [{"$ref": "#/$defs/D"}]}),
    ] {
        let at = "/inputSchema/properties/a/type";
        check(
            &schema("integer", holder.clone()),
            &schema("number", holder.clone()),
            &[(at, Fine)],
        );
        check(
            &schema("number", holder.clone()),
            &schema("integer", holder.clone()),
            &[(at, Breaking)],
        );
        // Named or written out is the same.
        check(
            &schema("integer", holder),
            &schema("integer", json!({"type": "integer"})),
            &[],
        );
    }
    // Where they are not, the definitions count.
    let hidden = json!({"not": {"$ref": "#/$defs/D"}});
    check(
        &schema("integer", hidden.clone()),
        &schema("number", hidden),
        &[("/inputSchema/$defs", Risky)],
    );
}

#[test]
fn schemas_that_never_end_are_compared_to_an_end() {
    let tree = |kind: &str| {
        let node = json!({"properties": {"l": {"$ref": "#/$defs/N"}, "r": {"$ref": "#/$defs/N"}, "v": {"type": kind}}});
        json!({"inputSchema": {"$ref": "#/$defs/N", "$defs": {"N": node}}})
    };
    check(
        &tree("string"),
        &tree("integer"),
        &[("/inputSchema/properties/v/type", Breaking)],
    );
    // Alternatives of alternatives multiply.
    let deep = |kind: &str| {
        let mut schema = json!({"type": kind});
        for _ in 0..15 {
            schema = json!({"anyOf": [{"items": schema}]});
        }
        schema
    };
    let wrap = |schema: &Value| json!({"inputSchema": {"properties": {"a": schema}}});
    let found = changes(&wrap(&deep("string")), &wrap(&deep("integer")));
    assert!(
        found.contains(&("/inputSchema".to_owned(), Risky)),
        "{found:?}"
    );
    // Nesting beyond the limit says so.
    let mut nested = [json!({"type": "string"}), json!({"type": "integer"})];
    for schema in &mut nested {
        for _ in 0..100 {
            *schema = json!({"items": schema.take()});
        }
    }
    assert_eq!(
        changes(&wrap(&nested[0]), &wrap(&nested[1])),
        [("/inputSchema".to_owned(), Risky)]
    );
}

#[test]
fn lists_are_summed_up_in_a_line() {
    let named = |name: &str, kind: &str, title: &str| json!({"name": name, "title": title, "inputSchema": {"properties": {"a": {"type": kind}}}});
    let many: Vec<_> = (0..35)
        .map(|at| named(&format!("n{at}"), "string", ""))
        .collect();
    let a = || named("a", "string", "");
    let with_many = [vec![a()], many.clone()].concat();
    for (old, new, line, severity) in [
        (vec![a()], vec![a()], "no change", None),
        (vec![], vec![], "no change", None),
        (
            vec![a()],
            with_many.clone(),
            "35 tools added, none changed",
            Some(Fine),
        ),
        (
            with_many,
            vec![a()],
            "35 tools removed, none changed",
            Some(Breaking),
        ),
        (
            vec![a()],
            vec![named("b", "string", "")],
            "1 tool added, 1 tool removed, none changed",
            Some(Breaking),
        ),
        (
            vec![a()],
            vec![named("a", "string", "x")],
            "1 changed",
            Some(Fine),
        ),
        (
            vec![a(), named("b", "string", "")],
            vec![named("a", "integer", "x"), named("b", "string", "x")],
            "2 changed (1 breaking)",
            Some(Breaking),
        ),
        // The worst of a tool's changes is neither its first nor its last.
        (
            vec![a()],
            vec![
                json!({"name": "a", "description": "d", "inputSchema": {"required": ["a"], "properties": {"a": {"type": "string"}}}}),
            ],
            "1 changed (1 breaking)",
            Some(Breaking),
        ),
        (
            vec![a()],
            vec![
                json!({"name": "a", "title": "", "description": "d", "inputSchema": {"properties": {"a": {"type": "string"}}}}),
            ],
            "1 changed (1 risky)",
            Some(Risky),
        ),
    ] {
        let diff = compare(&list(&old), &json!(new)).unwrap();
        assert_eq!(diff.to_string(), line);
        assert_eq!(diff.severity, severity);
    }
    let diff = compare(&list(&[a()]), &list(&[])).unwrap();
    assert_eq!(
        serde_json::to_value(&diff).unwrap(),
        json!({
            "added": 0, "removed": 1, "changed": 0, "unchanged": 0, "omitted": 0, "severity": "breaking",
            "changes": [{"tool": "a", "pointer": "", "severity": "breaking", "what": "tool removed"}],
        })
    );
}

#[test]
fn lists_are_bounded() {
    let named = |count: usize| {
        list(
            &(0..count)
                .map(|at| json!({"name": at.to_string()}))
                .collect::<Vec<_>>(),
        )
    };
    let diff = compare(&list(&[]), &named(MAX_TOOLS)).unwrap();
    assert_eq!(
        (diff.added, diff.changes.len(), diff.omitted),
        (MAX_TOOLS, MAX_CHANGES, MAX_TOOLS - MAX_CHANGES)
    );
    let count = MAX_TOOLS + 1;
    assert_eq!(
        compare(&list(&[]), &named(count)),
        Err(ContractError::TooManyTools { list: "new", count })
    );
    assert_eq!(
        compare(&json!({}), &list(&[])),
        Err(ContractError::NotAList { list: "old" })
    );
    assert_eq!(
        compare(&list(&[]), &json!([{}])),
        Err(ContractError::NoName {
            list: "new",
            index: 0
        })
    );
    let twice = json!([{"name": "a"}, {"name": "a"}]);
    assert_eq!(
        compare(&twice, &twice),
        Err(ContractError::DuplicateTool {
            list: "old",
            name: "a".to_owned()
        })
    );
}

/// A schema of the keywords that are compared, with values that may not even fit them.
fn schemas() -> impl Strategy<Value = Value> {
    let keyword = prop::sample::select(vec![
        "type",
        "enum",
        "const",
        "required",
        "properties",
        "additionalProperties",
        "items",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "$defs",
        "minimum",
        "maxLength",
        "pattern",
        "description",
        "uniqueItems",
        "a",
    ]);
    let leaf = prop_oneof![
        Just(json!("string")),
        Just(json!("#")),
        Just(json!("#/properties/a")),
        Just(json!(true)),
        Just(json!(false)),
        Just(json!(3)),
        Just(json!(null)),
        Just(json!(["a", "string"])),
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            3 => prop::collection::btree_map(keyword.clone(), inner.clone(), 0..5).prop_map(|fields| json!(fields)),
            1 => prop::collection::vec(inner, 0..3).prop_map(Value::from),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_differs_from_itself(schema in schemas()) {
        let tool = json!({"inputSchema": schema, "outputSchema": schema, "annotations": schema});
        prop_assert_eq!(changes(&tool, &tool), []);
        // Nor when the comparison has to walk: only the title differs.
        let mut other = tool.clone();
        if let Some(schema) = other["inputSchema"].as_object_mut() {
            schema.insert("x-note".to_owned(), json!(1));
            let found = changes(&tool, &other);
            prop_assert!(found.iter().all(|(_, severity)| *severity != Breaking), "{:?}", found);
        }
    }

    #[test]
    fn any_two_schemas_are_compared(old in schemas(), new in schemas()) {
        let found = changes(&json!({"inputSchema": old, "outputSchema": old}), &json!({"inputSchema": new, "outputSchema": new}));
        prop_assert!(old != new || found.is_empty());
    }
}
