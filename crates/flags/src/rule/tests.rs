use super::*;
use crate::environment::Environment;
use jiff::Timestamp;
use serde_json::json;
use std::collections::BTreeMap;

/// What a rule answers to these attributes: a variant, `null`, `error` or `unsound`.
fn run(rule: Value, attributes: Value) -> String {
    let shares = BTreeMap::from([(Arc::from("auth.v2"), 60.0)]);
    let Value::Object(attributes) = attributes else {
        panic!("attributes are an object");
    };
    let facts = Facts {
        key: "flag",
        targeting_key: Some("user-1"),
        attributes: Some(&attributes),
        tenant: Some("acme"),
        environment: Environment::Staging,
        now: Timestamp::from_second(1_800_000_000).unwrap(),
        shares: &shares,
    };
    Rule::new(rule).run(Bucketing::V3, &facts, |answer| match answer {
        Answer::Unsound => "unsound".to_owned(),
        Answer::Failed => "error".to_owned(),
        Answer::Nothing => "null".to_owned(),
        Answer::Variant { name, .. } => name.to_owned(),
    })
}

/// Whether a condition holds.
fn holds(condition: &str, attributes: &str) -> bool {
    let condition: Value = serde_json::from_str(condition).unwrap();
    let attributes = serde_json::from_str(attributes).unwrap();
    match run(json!({"if": [condition, "yes", "no"]}), attributes).as_str() {
        "yes" => true,
        "no" => false,
        other => panic!("{condition}: {other}"),
    }
}

#[test]
fn conditions_mean_what_flagd_means() {
    for (condition, attributes, expected) in [
        (
            r#"{"==": [{"var": "color"}, "yellow"]}"#,
            r#"{"color": "yellow"}"#,
            true,
        ),
        (r#"{"==": [{"var": ["color"]}, "yellow"]}"#, r"{}", false),
        (
            r#"{"in": ["@faas.com", {"var": "email"}]}"#,
            r#"{"email": "a@faas.com"}"#,
            true,
        ),
        (r#"{"in": ["@faas.com", {"var": "email"}]}"#, r"{}", false),
        (
            r#"{"in": [{"var": "id"}, ["a", "b"]]}"#,
            r#"{"id": "b"}"#,
            true,
        ),
        (r#"{"<": [1, {"var": "n"}, 3]}"#, r#"{"n": 2}"#, true),
        (r#"{"<": [1, {"var": "n"}, 3]}"#, r#"{"n": 3}"#, false),
        // Mixed types are false, no error.
        (r#"{">": [{"var": "n"}, 5]}"#, r#"{"n": "many"}"#, false),
        (r#"{">": [{"var": "n"}, 5]}"#, r#"{"n": "6"}"#, true),
        (r#"{"==": [{"var": "n"}, []]}"#, r#"{"n": {}}"#, false),
        (
            r#"{"starts_with": [{"var": "id"}, "ab"]}"#,
            r#"{"id": "abc"}"#,
            true,
        ),
        (
            r#"{"ends_with": [{"var": "id"}, "ab"]}"#,
            r#"{"id": 1}"#,
            false,
        ),
        (
            r#"{"sem_ver": [{"var": "v"}, "^", "v3"]}"#,
            r#"{"v": "3.1.4+x"}"#,
            true,
        ),
        (
            r#"{"sem_ver": [{"var": "v"}, "=", "1.2.0"]}"#,
            r#"{"v": 1.2}"#,
            true,
        ),
        (
            r#"{"sem_ver": [{"var": "v"}, "=", "1.2.0"]}"#,
            r#"{"v": "a"}"#,
            false,
        ),
        (r#"{"missing": ["a", "b"]}"#, r#"{"a": 1, "b": 2}"#, false),
        (r#"{"missing": ["a", "b"]}"#, r#"{"a": 1, "b": ""}"#, true),
        (r#"{"missing_some": [1, ["a", "b"]]}"#, r#"{"a": 1}"#, false),
        (r#"{"missing_some": [2, ["a", "b"]]}"#, r#"{"a": 1}"#, true),
        (
            r#"{"some": [{"var": "roles"}, {"==": [{"var": ""}, "admin"]}]}"#,
            r#"{"roles": ["x", "admin"]}"#,
            true,
        ),
        (
            r#"{"all": [{"var": "roles"}, {"var": "on"}]}"#,
            r#"{"roles": [{"on": true}, {}]}"#,
            false,
        ),
        (
            r#"{"none": [{"var": "roles"}, {"var": "on"}]}"#,
            r"{}",
            true,
        ),
        (
            r#"{"==": [{"reduce": [{"var": "n"}, {"+": [{"var": "current"}, {"var": "accumulator"}]}, 0]}, 6]}"#,
            r#"{"n": [1, 2, 3]}"#,
            true,
        ),
        (
            r#"{"==": [{"var": "user.name"}, "ann"]}"#,
            r#"{"user": {"name": "ann"}}"#,
            true,
        ),
        (
            r#"{"==": [{"var": ["tier", "free"]}, "free"]}"#,
            r"{}",
            true,
        ),
        (
            r#"{"==": [{"var": "targetingKey"}, "user-1"]}"#,
            r#"{"targetingKey": "forged"}"#,
            true,
        ),
        (
            r#"{"==": [{"var": "$flagd.flagKey"}, "flag"]}"#,
            r#"{"$flagd": {"flagKey": "forged"}}"#,
            true,
        ),
        (
            r#"{">": [{"var": "$flagd.timestamp"}, 1799999999]}"#,
            r"{}",
            true,
        ),
        (
            r#"{">": [{"var": "$serin.share.auth.v2"}, 50]}"#,
            r"{}",
            true,
        ),
        (
            r#"{">": [{"var": "$serin.share.other"}, 50]}"#,
            r"{}",
            false,
        ),
        (
            r#"{"==": [{"var": "$serin.environment"}, "staging"]}"#,
            r"{}",
            true,
        ),
        (
            r#"{"==": [{"var": "$serin.tenant"}, "acme"]}"#,
            r#"{"$serin": {"tenant": "x"}}"#,
            true,
        ),
        (
            r#"{"==": [{"substr": ["jsonlogic", -5]}, "logic"]}"#,
            r"{}",
            true,
        ),
        (r#"{"==": [{"cat": ["a", 1, 1.50]}, "a11.5"]}"#, r"{}", true),
    ] {
        assert_eq!(
            holds(condition, attributes),
            expected,
            "{condition} of {attributes}"
        );
    }
}

#[test]
fn results_name_variants_as_flagd_names_them() {
    for (rule, expected) in [
        (json!({"if": [true, "a"]}), "a"),
        (json!({"==": [1, 1]}), "true"),
        (json!({"+": [1, 2]}), "3"),
        (json!({"/": [3, 2]}), "1.5"),
        (json!({"if": [true, null]}), "null"),
        (json!({"if": [false, "a"]}), "null"),
        (json!({"merge": [1]}), "error"),
        (json!({"/": [1, 0]}), "error"),
    ] {
        assert_eq!(run(rule.clone(), json!({})), expected, "{rule}");
    }
}

#[test]
fn work_is_bounded() {
    let many: Vec<_> = (0..1000).collect();
    let twice = json!({"if": [{"some": [{"var": "n"}, {"some": [[1, 2, 3, 4], {"==": [{"var": ""}, 0]}]}]}, "yes", "no"]});
    assert_eq!(run(twice.clone(), json!({"n": many})), "no");
    let many: Vec<_> = (0..2001).collect();
    assert_eq!(run(twice, json!({"n": many})), "error");
    let double = json!({"reduce": [{"var": "n"}, {"cat": [{"var": "accumulator"}, {"var": "accumulator"}]}, "x"]});
    assert_eq!(run(double.clone(), json!({"n": [1, 2]})), "xxxx");
    assert_eq!(run(double, json!({"n": many})), "error");
}

/// `depth` conditions within each other.
fn nested(depth: usize) -> Value {
    (0..depth).fold(json!("on"), |inner, _| json!({"!": inner}))
}

#[test]
fn what_cannot_run_is_kept_and_says_why() {
    for (rule, at, what) in [
        (
            json!({"if": [{"equals": [1, 2]}, "on"]}),
            "if[0]",
            "there is no operator `equals`",
        ),
        (
            json!({"if": [{"==": [1, 1], "!=": [1, 2]}, "on"]}),
            "if[0]",
            "an object with one operator was expected here",
        ),
        (json!([1]), "", "a rule is an object"),
        (
            json!({"$ref": "gone"}),
            "",
            "there is no evaluator `gone` to put here",
        ),
        (
            json!({"map": [[1]]}),
            "map",
            "`map` does not say what to do with each element",
        ),
        (
            json!({"in": ["x", vec![0; RULE_VALUES_MAX]]}),
            "in[1][19997]",
            "the rule has more than 20000 values",
        ),
        (
            nested(RULE_LEVELS_MAX + 1),
            &vec!["![0]"; RULE_LEVELS_MAX].join("."),
            "the rule is deeper than 64 levels",
        ),
    ] {
        let rule = Rule::new(rule);
        assert!(!rule.is_sound());
        let problem = rule.problems().last().unwrap();
        assert_eq!((problem.at.as_str(), problem.what.as_str()), (at, what));
        assert_eq!(run(rule.source().clone(), json!({})), "unsound");
    }
    assert!(Rule::new(nested(RULE_LEVELS_MAX)).is_sound());
}

#[test]
fn a_rule_of_a_thousand_levels_is_refused_without_filling_the_stack() {
    let deep = nested(1000);
    assert!(!Rule::new(deep.clone()).is_sound());
    let text = deep.to_string();
    let error = serde_json::from_str::<Rule>(&text).unwrap_err();
    assert!(error.to_string().contains("recursion limit"), "{error}");
}

#[test]
fn what_people_should_mend_is_said_although_it_runs() {
    for (rule, at, what) in [
        (
            json!({"fractional": [["a", 25.5], ["b", 1]]}),
            "fractional[0]",
            "25.5 is no weight",
        ),
        (
            json!({"fractional": [["a", -1], ["b", 1]]}),
            "fractional[0]",
            "-1 is no weight",
        ),
        (
            json!({"fractional": [["a", 0], ["b", 0]]}),
            "fractional",
            "the weights sum up to 0",
        ),
        (
            json!({"fractional": [["a", 2_147_483_647], ["b", 1]]}),
            "fractional",
            "the weights sum up to 2147483648, more than 2147483647",
        ),
        (
            json!({"fractional": [["a", 1, 2]]}),
            "fractional[0]",
            "a share has 3 parts",
        ),
        (
            json!({"fractional": ["key", ["a", 1]]}),
            "fractional[0]",
            "everybody has this key",
        ),
        (
            json!({"if": [{"var": "$flagd.key"}, "a"]}),
            "if[0].var",
            "there is no `$flagd.key`",
        ),
        (
            json!({"if": [{"var": "$serin.share."}, "a"]}),
            "if[0].var",
            "there is no `$serin.share.`",
        ),
        (
            json!({"if": [{"sem_ver": ["1", "==", "1"]}, "a"]}),
            "if[0].sem_ver[1]",
            "`==` does not compare versions",
        ),
        (
            json!({"if": [{"==": [1]}, "a"]}),
            "if[0].==",
            "`==` has 1 arguments",
        ),
    ] {
        let rule = Rule::new(rule);
        assert!(rule.is_sound(), "{rule:?}");
        let problem = &rule.problems()[0];
        assert_eq!((problem.at.as_str(), problem.what.as_str()), (at, what));
    }
    assert_eq!(
        Rule::new(json!({"if": [true, "a", {"fractional": [["b", 1]]}]})).problems(),
        []
    );
}

#[test]
fn rules_are_shared_between_threads_and_cheap_to_clone() {
    fn shared<T: Send + Sync + Clone>() {}
    shared::<Rule>();
    shared::<crate::Flag>();
    shared::<crate::Table>();
    assert_eq!(size_of::<Rule>(), size_of::<usize>());
}

#[test]
fn kills_never_reach_the_rule_engine() {
    let flag = json!({
        "state": "ENABLED",
        "variants": {"on": true, "off": false},
        "defaultVariant": "on",
        "targeting": {"if": [{"var": "x"}, "on"]},
        "serin": {"offVariant": "off"},
    });
    let flag: crate::Flag = serde_json::from_value(flag).unwrap();
    let table = crate::Table {
        flags: Arc::new([("f".parse().unwrap(), Arc::new(flag))].into()),
        ..crate::Table::default()
    };
    let context = crate::Context {
        targeting_key: None,
        tenant: Some("acme"),
        environment: Environment::Staging,
        attributes: None,
        now: Timestamp::UNIX_EPOCH,
    };
    let runs = |latch: &crate::Latch| {
        let before = engine::RUNS.get();
        table.evaluate(latch, "f", &context).unwrap();
        engine::RUNS.get() - before
    };
    assert_eq!(runs(&crate::Latch::default()), 1);
    for target in [
        "system",
        "environment:staging",
        "tenant:acme",
        "flags",
        "flag:f",
    ] {
        let mut kills = crate::Kills::default();
        kills.take(
            serde_json::from_value(json!({
                "target": target,
                "generation": 1,
                "position": "killed",
                "at": "2026-01-01T00:00:00Z",
                "actor": "test",
                "reason": "drill",
                "cause": "manual",
            }))
            .unwrap(),
        );
        assert_eq!(runs(&kills.latch()), 0, "{target}");
    }
}

#[test]
fn the_engines_own_operators_of_our_names_are_off() {
    let engine = datalogic_rs::Engine::new();
    let builtin: Vec<_> = engine.builtin_operator_names().collect();
    for name in ["fractional", "sem_ver", "starts_with", "ends_with"] {
        assert!(
            !builtin.contains(&name),
            "`{name}` of the engine would win over ours"
        );
    }
}

#[test]
fn what_a_rule_builds_has_an_end() {
    let twice = json!([{"var": ""}, {"var": ""}]);
    let doubled = (0..15).fold(json!([1]), |list, _| json!({"map": [list, twice]}));
    let list = |count: usize| json!(vec![0; count]);
    let deeper = json!([{"var": "accumulator"}]);
    for made in [
        // A level more with every element.
        json!({"reduce": [list(9_900), deeper, 0]}),
        json!({"reduce": [list(9_900), {"if": [true, deeper]}, 0]}),
        // Twice as much with every element, and with every list.
        json!({"reduce": [list(99), [{"var": "accumulator"}, {"var": "accumulator"}], 0]}),
        doubled,
    ] {
        let rule = json!({"if": [{"==": [made, "x"]}, "yes", "no"]});
        assert!(Rule::new(rule.clone()).is_sound());
        assert_eq!(run(rule, json!({})), "error");
    }
    let fine =
        json!({"reduce": [list(99), {"merge": [{"var": "accumulator"}, {"var": "current"}]}, []]});
    let rule = json!({"if": [{"in": [0, fine]}, "yes", "no"]});
    assert_eq!(run(rule, json!({})), "yes");
}

#[test]
fn one_list_many_times_over_is_not_written_out() {
    let many = json!(vec![json!({"var": "list"}); 15_000]);
    for rule in [
        json!({"cat": [many]}),
        json!({"==": [many, "x"]}),
        json!({"<": [many, "x"]}),
        json!({"in": [many, "x"]}),
        json!({"substr": [many, 0]}),
    ] {
        let rule = json!({"if": [rule, "yes", "no"]});
        assert_eq!(run(rule, json!({"list": vec![0; 10_000]})), "error");
    }
}

#[test]
fn lists_are_compared_within_bounds() {
    let users =
        |name: &str| -> Vec<_> { (0..9_000).map(|n| json!(format!("{name}-{n}"))).collect() };
    let rule = json!({"if": [{"some": [{"var": "teams"}, {"in": [{"var": ""}, users("user")]}]}, "yes", "no"]});
    assert_eq!(
        run(rule.clone(), json!({"teams": ["team-1", "user-8999"]})),
        "yes"
    );
    assert_eq!(run(rule, json!({"teams": users("team")})), "error");
    let same = json!({"if": [{"===": [vec![json!({"var": "list"}); 200], vec![json!({"var": "list"}); 200]]}, "yes", "no"]});
    assert_eq!(run(same, json!({"list": vec![0; 10_000]})), "error");
}
