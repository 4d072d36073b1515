//! Documents of flags: flagd's own test documents, ours, and what is said of bad ones.

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use serin_flags::{
    Context, Document, Environment, ErrorCode, Latch, Table,
    flag::{Bucketing, FailMode},
    schema::Schema,
};
use std::{fs, path::Path, sync::Arc};

const LABELS: [(&str, Schema); 3] = [
    ("flags", Schema::Flags),
    ("flagd", Schema::Flagd),
    ("targeting", Schema::Targeting),
];

#[test]
fn flagds_documents_validate_and_fail_as_labelled() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/flagd-schemas");
    let mut seen = 0;
    for (folder, schema) in LABELS {
        for label in ["positive", "negative"] {
            let Ok(files) = fs::read_dir(vectors.join(folder).join(label)) else {
                continue;
            };
            for file in files {
                let path = file.unwrap().path();
                let document: Value =
                    serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
                // Some name another schema than their folder does.
                let named = document.get("$schema").and_then(Value::as_str);
                let schema = match named {
                    Some("../../../flagd.json") => Schema::Flagd,
                    _ => schema,
                };
                let problems = schema.problems(&document);
                assert_eq!(
                    problems.is_empty(),
                    label == "positive",
                    "{}: {problems:?}",
                    path.display()
                );
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 36);
}

#[test]
fn what_flagd_takes_is_read_but_for_what_we_need_beyond() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/flagd-schemas");
    for (name, missing) in [
        ("flagd/positive/with-array-flags.json", "offVariant"),
        ("flagd/positive/with-object-flags.json", "offVariant"),
        ("flags/positive/example.flagd.json", "offVariant"),
        ("flags/positive/example.flagdimport.map.json", "offVariant"),
        ("flags/positive/no-default-variant.json", "defaultVariant"),
        ("flags/positive/null-default-variant.json", "defaultVariant"),
        ("flags/positive/with-metadata.json", "offVariant"),
        ("flags/positive/with-valid-targeting.json", ""),
    ] {
        let text = fs::read_to_string(vectors.join(name)).unwrap();
        match Document::parse(&text) {
            Ok(document) => {
                assert_eq!(missing, "", "{name}");
                assert_eq!(document.warnings, [], "{name}");
            }
            Err(error) => {
                assert!(!missing.is_empty(), "{name}: {error}");
                assert!(
                    error
                        .problems
                        .iter()
                        .all(|problem| problem.at.ends_with(missing)),
                    "{name}: {error}"
                );
            }
        }
    }
}

fn flag() -> Value {
    json!({"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "on"})
}

fn with(mut flag: Value, field: &str, value: Value) -> Value {
    flag[field] = value;
    flag
}

#[test]
fn a_document_in_full() {
    let document = Document::read(&json!({
        "$schema": "https://flagd.dev/schema/v0/flags.json",
        "metadata": {"flagSetId": "shop", "version": "7"},
        "$evaluators": {
            "ours": {"ends_with": [{"var": "email"}, "@ours.com"]},
            "testers": {"or": [{"$ref": "ours"}, {"var": "tester"}]},
        },
        "flags": {
            "search": with(flag(), "targeting", json!({"if": [{"$ref": "testers"}, "on", "off"]})),
            "size": {"state": "DISABLED", "variants": {"small": 1, "large": 2}, "defaultVariant": "large"},
        },
        "serin": {
            "bucketing": "v2",
            "flags": {
                "size": {"offVariant": "small", "bucketing": "v3", "expires": "2027-01-01T00:00:00Z", "owner": "shop", "failMode": "default"},
                "search": {"environments": {"dev": "on"}, "schedule": [{"from": "2026-01-01T00:00:00Z", "percentage": 12.5}]},
            },
            "tenants": {"acme": {"search": "off"}},
        },
    }))
    .unwrap();
    assert_eq!(document.warnings, []);
    let search = &document.flags["search"];
    assert_eq!(&*search.serin.off_variant, "off");
    assert_eq!(search.serin.bucketing, Bucketing::V2);
    assert_eq!(&*search.serin.environments[&Environment::Development], "on");
    assert_eq!(
        search.targeting.as_ref().unwrap().source(),
        &json!({"if": [{"or": [{"ends_with": [{"var": "email"}, "@ours.com"]}, {"var": "tester"}]}, "on", "off"]})
    );
    let size = &document.flags["size"];
    assert_eq!(
        (size.serin.bucketing, size.serin.fail_mode),
        (Bucketing::V3, FailMode::Default)
    );
    assert_eq!(&*document.overrides["acme"]["search"], "off");
    let json = document.to_json();
    assert_eq!(Schema::Flags.problems(&json), []);
    assert_eq!(json["flags"]["size"].as_object().unwrap().len(), 3);
    assert_eq!(Document::read(&json).unwrap(), document);
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_all_at_once() {
    let error = Document::read(&json!({
        "flags": {
            "a b": flag(),
            "extra": with(flag(), "expires", json!("soon")),
            "late": flag(),
            "mixed": with(flag(), "variants", json!({"on": true, "off": 0})),
            "nodefault": {"state": "ENABLED", "variants": {"on": true, "off": false}},
            "nooff": {"state": "ENABLED", "variants": {"a": "x", "b": "y"}, "defaultVariant": "a"},
            "state": with(flag(), "state", json!("enabled")),
            "unknown": with(flag(), "defaultVariant", json!("yes")),
        },
        "serin": {
            "flags": {
                "late": {"schedule": [
                    {"from": "2026-02-01T00:00:00Z", "percentage": 101},
                    {"from": "2026-01-01T00:00:00Z", "percentage": 1, "variant": "none"},
                ]},
                "mixed": {"offvariant": "off"},
            },
            "tenants": {"a/b": {}, "acme": {"late": "maybe"}},
        },
    }))
    .unwrap_err();
    let mut places: Vec<_> = error
        .problems
        .iter()
        .map(|problem| problem.at.as_str())
        .collect();
    places.sort_unstable();
    assert_eq!(
        places,
        [
            "flags.a b",
            "flags.extra.expires",
            "flags.mixed.variants",
            "flags.nodefault.defaultVariant",
            "flags.state.state",
            "flags.unknown.defaultVariant",
            "serin.flags.late.schedule[0].percentage",
            "serin.flags.late.schedule[1].from",
            "serin.flags.late.schedule[1].variant",
            "serin.flags.mixed",
            "serin.flags.nooff.offVariant",
            "serin.tenants.a/b",
            "serin.tenants.acme.late",
        ]
    );
    assert!(
        error
            .problems
            .iter()
            .all(|problem| !problem.what.is_empty() && !problem.help.is_empty())
    );
}

#[test]
fn other_refusals() {
    for (document, at, what) in [
        (json!([]), "", "a document of flags is an object"),
        (json!({}), "flags", "it is no object"),
        (
            json!({"flags": {}, "serin": {"flag": {}}}),
            "serin",
            "unknown field `flag`",
        ),
        (
            json!({"flags": {"a": flag()}, "serin": {"flags": {"b": {}}}}),
            "serin.flags.b",
            "there is no such flag",
        ),
        (
            json!({"flags": [with(flag(), "key", json!("a")), with(flag(), "key", json!("a"))]}),
            "flags[1]",
            "there is another flag",
        ),
        (json!({"flags": [flag()]}), "flags[0]", "it has no key"),
        (
            json!({"flags": {}, "metadata": {"a": []}}),
            "metadata.a",
            "it is no text",
        ),
    ] {
        let error = Document::read(&document).unwrap_err();
        let problem = &error.problems[0];
        assert_eq!(problem.at, at);
        assert!(problem.what.starts_with(what), "{error}");
    }
    let error = Document::parse("{\"flags\":\n {\"a\": }}").unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 2, column 8: expected value: mend the JSON there"
    );
    let error = Document::parse("{\"flags\": {},\n \"flags\": {}}").unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 2, column 8: `flags` stands there twice: remove one of them"
    );
    let many: serde_json::Map<_, _> = (0..=500).map(|n| (format!("f{n}"), flag())).collect();
    let error = Document::read(&json!({"flags": many})).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("flags: there are 501, more than 500"),
        "{error}"
    );
}

#[test]
fn a_rule_of_a_thousand_levels_refuses_the_document() {
    let rule = format!("{}1{}", "{\"!\":".repeat(1000), "}".repeat(1000));
    let text = format!(
        r#"{{"flags": {{"a": {{"state": "ENABLED", "variants": {{"on": true}}, "targeting": {rule}}}}}}}"#
    );
    let error = Document::parse(&text).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("recursion limit exceeded: write rules with fewer levels"),
        "{error}"
    );
}

#[test]
fn a_field_that_cannot_be_read_is_named_without_names_of_types() {
    let line = json!({"from": "2026-01-01T00:00:00Z", "percentage": 10});
    for (extension, said) in [
        (
            json!({"schedule": [line, {"from": "2026-01-02T00:00:00Z", "percentage": "ten"}]}),
            "serin.flags.a.schedule[1].percentage: invalid type: string \"ten\", expected a number: write lines such as",
        ),
        (
            json!({"schedule": [{"from": "soon", "percentage": 10}]}),
            "serin.flags.a.schedule[0].from: it is no time: write one such as",
        ),
        (
            json!({"schedule": [{"percentage": 10}]}),
            "serin.flags.a.schedule[0]: missing field `from`: write lines such as",
        ),
        (
            json!({"schedule": {"week_1": line}}),
            "serin.flags.a.schedule: invalid type: object, expected a list: write lines such as",
        ),
        (
            json!({"expires": 1}),
            "serin.flags.a.expires: invalid type: integer `1`, expected",
        ),
        (
            json!({"environments": {"qa": "on"}}),
            "serin.flags.a.environments: `qa` is none of `dev`, `development`",
        ),
        (
            json!({"owners": "kim"}),
            "serin.flags.a: unknown field `owners`",
        ),
    ] {
        let document = json!({"flags": {"a": flag()}, "serin": {"flags": {"a": extension}}});
        let error = Document::read(&document).unwrap_err().to_string();
        assert!(error.starts_with(said), "{error}");
    }
}

#[test]
fn a_long_place_is_shown_by_its_beginning_and_its_end() {
    let mut rule = json!(true);
    for _ in 0..100 {
        rule = json!({ "!": [rule] });
    }
    let deep = with(flag(), "targeting", json!({"if": [rule, "on", "off"]}));
    let document = Document::read(&json!({"flags": {"a": deep}})).unwrap();
    for problem in document
        .warnings
        .iter()
        .chain(&document.flags["a"].problems())
    {
        let at = &problem.at;
        assert!(
            at.contains("targeting.if[0].![0]") && at.contains('…'),
            "{at}"
        );
        assert!(at.chars().count() <= 120, "{at}");
    }
    assert_eq!(document.warnings.len(), 1);
}

#[test]
fn one_bad_rule_is_a_warning_and_its_flag_answers_the_default() {
    let document = Document::read(&json!({
        "$evaluators": {"a": {"!": [{"$ref": "b"}]}, "b": {"!": [{"$ref": "a"}]}},
        "flags": {
            "good": with(flag(), "targeting", json!({"if": [true, "off"]})),
            "operator": with(flag(), "targeting", json!({"if": [{"equals": [1, 1]}, "off"]})),
            "reference": with(flag(), "targeting", json!({"if": [{"$ref": "gone"}, "off"]})),
            "circle": with(flag(), "targeting", json!({"if": [{"$ref": "a"}, "off"]})),
            "variant": with(flag(), "targeting", json!({"if": [true, "maybe"]})),
            "type": with(flag(), "targeting", json!("off")),
        },
    }))
    .unwrap();
    let places: Vec<_> = document
        .warnings
        .iter()
        .map(|warning| warning.at.as_str())
        .collect();
    assert_eq!(
        places,
        [
            "$evaluators.a",
            "flags.circle.targeting.if[0].![0].![0]",
            "flags.operator.targeting.if[0]",
            "flags.reference.targeting.if[0]",
            "flags.type.targeting",
            "flags.variant.targeting.if[1]",
        ]
    );
    let table = Table {
        flags: Arc::new(document.flags),
        ..Table::default()
    };
    let context = Context {
        targeting_key: None,
        tenant: None,
        environment: Environment::Test,
        attributes: None,
        now: Timestamp::UNIX_EPOCH,
    };
    for (key, variant, error) in [
        ("good", "off", None),
        ("operator", "on", Some(ErrorCode::ParseError)),
        ("reference", "on", Some(ErrorCode::ParseError)),
        ("circle", "on", Some(ErrorCode::ParseError)),
        ("type", "on", Some(ErrorCode::ParseError)),
        ("variant", "on", Some(ErrorCode::General)),
    ] {
        let answer = table.evaluate(&Latch::default(), key, &context).unwrap();
        assert_eq!((answer.variant, answer.error), (variant, error), "{key}");
    }
}

#[test]
fn references_that_multiply_are_bounded() {
    let mut evaluators = serde_json::Map::new();
    evaluators.insert("e0".to_owned(), json!({"!": 1}));
    for n in 1..40 {
        let inner = json!({"$ref": format!("e{}", n - 1)});
        evaluators.insert(format!("e{n}"), json!({"and": [inner, inner]}));
    }
    let document = Document::read(&json!({
        "$evaluators": evaluators,
        "flags": {"a": with(flag(), "targeting", json!({"if": [{"$ref": "e39"}, "on"]}))},
    }))
    .unwrap();
    assert!(!document.flags["a"].targeting.as_ref().unwrap().is_sound());
}

/// JSON of any shape, as deep as people write.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z$.]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        let name = prop_oneof![
            "[a-z$.]{0,6}",
            prop::sample::select(vec![
                "if",
                "fractional",
                "var",
                "in",
                "missing",
                "missing_some",
                "reduce",
                "map",
                "sem_ver",
                "substr",
                "cat",
                "<",
                "==",
                "+",
                "/",
                "%",
                "and",
                "!",
                "merge",
                "min",
                "starts_with",
                "$ref",
                "targeting",
                "flags",
                "variants",
            ])
            .prop_map(str::to_owned),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(name, inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_panics(rule in any_json(), attributes in any_json(), document in any_json()) {
        let _ = Document::read(&document);
        let _ = Schema::Targeting.problems(&document);
        let flags = json!({"flags": {"a": with(flag(), "targeting", rule)}});
        let document = Document::read(&flags).unwrap();
        let table = Table { flags: Arc::new(document.flags), ..Table::default() };
        let context = Context {
            targeting_key: Some("user"),
            tenant: None,
            environment: Environment::Test,
            attributes: attributes.as_object(),
            now: Timestamp::UNIX_EPOCH,
        };
        let answer = table.evaluate(&Latch::default(), "a", &context).unwrap();
        prop_assert!(answer.value.is_boolean());
    }
}

#[test]
fn what_is_wrong_with_a_flag() {
    let serin = |more: Value| {
        let mut serin = json!({"offVariant": "off"});
        for (field, value) in more.as_object().unwrap() {
            serin[field] = value.clone();
        }
        serin
    };
    let good = with(flag(), "serin", serin(json!({})));
    let problems = |field: &str, value: Value| {
        let flag: serin_flags::Flag =
            serde_json::from_value(with(good.clone(), field, value)).unwrap();
        let problems = flag.problems();
        problems
            .iter()
            .map(|problem| format!("{}: {}", problem.at, problem.what))
            .collect::<Vec<_>>()
    };
    assert_eq!(problems("state", json!("ENABLED")), Vec::<String>::new());
    for (field, value, expected) in [
        ("variants", json!({}), "variants: there are none"),
        (
            "variants",
            json!({"on": true, "off": "no"}),
            "variants.on: it is a boolean, but `off` is a text",
        ),
        (
            "variants",
            json!({"on": [], "off": {}}),
            "variants.on: null and lists are no values of a flag",
        ),
        (
            "defaultVariant",
            json!("maybe"),
            "defaultVariant: `maybe` is none of its variants",
        ),
        (
            "serin",
            serin(json!({"offVariant": "no"})),
            "serin.offVariant: `no` is none of its variants",
        ),
        (
            "serin",
            serin(json!({"environments": {"staging": "no"}})),
            "serin.environments.staging: `no` is none of its variants",
        ),
        (
            "serin",
            serin(json!({"schedule": [{"from": "2026-01-01T00:00:00Z", "percentage": -0.1}]})),
            "serin.schedule[0].percentage: -0.1 is not from 0 to 100",
        ),
        (
            "targeting",
            json!({"if": [true, "on", {"fractional": [["off", 1], ["maybe", 1]]}]}),
            "targeting.if[2].fractional[1][0]: `maybe` is none of its variants",
        ),
        (
            "targeting",
            json!({"if": [{"like": []}, "on"]}),
            "targeting.if[0]: there is no operator `like`",
        ),
        (
            "variants",
            json!({"on": "x".repeat(300_000), "off": ""}),
            ": it has 300100 bytes, more than 262144",
        ),
    ] {
        let found = problems(field, value);
        assert!(
            found.iter().any(|problem| problem == expected),
            "{expected}: {found:?}"
        );
    }
    // Nobody reads more than fifty.
    let many: serde_json::Map<_, _> = (0..60).map(|n| (format!("v{n}"), Value::Null)).collect();
    assert_eq!(problems("variants", Value::Object(many)).len(), 50);
}

#[test]
fn tenants_are_bounded() {
    let tenants: serde_json::Map<_, _> =
        (0..=100_000).map(|n| (n.to_string(), json!({}))).collect();
    let error = Document::read(&json!({"flags": {}, "serin": {"tenants": tenants}})).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("serin.tenants: there are 100001, more than 100000"),
        "{error}"
    );
}
