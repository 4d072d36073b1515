//! What flagd's own evaluators for Python answered to generated rules and contexts, answered again by ours. `oracle/generate.py`
//! recorded it, with `openfeature-flagd-core` 2.0.0 for `fractional` v3 and 1.0.0 for v2.

use jiff::Timestamp;
use serde_json::{Value, json};
use serin_flags::{Context, Environment, Evaluation, Flag, Latch, Table};
use std::sync::Arc;

/// As in `oracle/generate.py`.
const NOW: i64 = 1_800_000_000;
const ASKED: usize = 10;
const PAIRS_MIN: usize = 20_000;

const RULES: &str = include_str!("../oracle/rules.jsonl");
const V3: &str = include_str!("../oracle/answers-v3.txt");
const V2: &str = include_str!("../oracle/answers-v2.txt");

/// `1 === true` and `1 in [true]` hold in Python alone.
const STRICT: &str = "Python takes 1 for true and 0 for false, also where types must be the same";
/// `true` as text is `True` in Python alone.
const TEXT: &str = "Python writes booleans as True and False";

/// Rules of the recording that Python answers otherwise for a reason of its own: see [`where_python_stands_alone`].
const EXCEPTIONS: [(usize, &str); 5] = [
    (219, STRICT),
    (1223, TEXT),
    (1426, STRICT),
    (1537, STRICT),
    (1852, STRICT),
];

/// A flag `flag-N` with a rule, alone in a table.
fn table(n: usize, rule: &Value, bucketing: &str) -> Table {
    let names = [
        "a", "b", "c", "d", "true", "false", "1", "0", "2.5", "default",
    ];
    let variants: serde_json::Map<_, _> = names
        .iter()
        .map(|name| ((*name).to_owned(), json!(name)))
        .collect();
    let flag: Flag = serde_json::from_value(json!({
        "state": "ENABLED",
        "variants": variants,
        "defaultVariant": "default",
        "targeting": rule,
        "serin": {"offVariant": "default", "bucketing": bucketing},
    }))
    .unwrap();
    Table {
        flags: Arc::new([(format!("flag-{n}").parse().unwrap(), Arc::new(flag))].into()),
        ..Table::default()
    }
}

fn ask<'t>(table: &'t Table, n: usize, context: &Value) -> Evaluation<'t> {
    let context = Context {
        targeting_key: context[0].as_str(),
        tenant: None,
        environment: Environment::Production,
        attributes: context[1].as_object(),
        now: Timestamp::from_second(NOW).unwrap(),
    };
    table
        .evaluate(&Latch::default(), &format!("flag-{n}"), &context)
        .unwrap()
}

/// As the recording writes answers.
fn letter(answer: &Evaluation<'_>) -> char {
    match (answer.error, answer.variant) {
        (Some(_), _) => '!',
        (None, "default") => '-',
        (None, "true") => 't',
        (None, "false") => 'f',
        (None, variant) => variant.chars().next().unwrap(),
    }
}

fn replay(answers: &str, bucketing: &str) {
    let mut lines = RULES.lines();
    let contexts: Vec<Value> = serde_json::from_str(lines.next().unwrap()).unwrap();
    let mut pairs = 0;
    let mut different = Vec::new();
    for (n, (rule, answers)) in lines.zip(answers.lines()).enumerate() {
        let table = table(n, &serde_json::from_str(rule).unwrap(), bucketing);
        for (k, expected) in answers.chars().enumerate() {
            let context = &contexts[(n * 7 + k * 23) % contexts.len()];
            let answer = letter(&ask(&table, n, context));
            pairs += 1;
            if answer != expected && !EXCEPTIONS.iter().any(|(rule, _)| *rule == n) {
                different.push(format!(
                    "rule {n}: {answer}, not {expected}: {rule} of {context}"
                ));
            }
        }
        assert_eq!(answers.len(), ASKED);
    }
    assert!(pairs >= PAIRS_MIN, "{pairs}");
    assert!(
        different.is_empty(),
        "{} differences, the first: {}",
        different.len(),
        different[0]
    );
}

#[test]
fn v3_answers_as_flagd_core_2() {
    replay(V3, "v3");
}

#[test]
fn v2_answers_as_flagd_core_1() {
    replay(V2, "v2");
}

/// What conditions are here, and were not in `openfeature-flagd-core` 2.0.0: there each of these is the opposite.
#[test]
fn where_python_stands_alone() {
    let context = json!(["u", {"empty": {}, "list": [7, 8], "word": "abc"}]);
    for (condition, holds, why) in [
        (json!({"===": [1, true]}), false, STRICT),
        (json!({"in": [0, [false]]}), false, STRICT),
        (json!({"in": [true, "true"]}), true, TEXT),
        (json!({"==": [{"cat": [true]}, "true"]}), true, TEXT),
        (
            json!({"==": [{"-": [5, {"var": "gone"}]}, 5]}),
            true,
            "null less than is a number, not a missing argument",
        ),
        (
            json!({"<": [1, 5, {"var": "gone"}]}),
            false,
            "an upper bound that is missing is 0, not absent",
        ),
        (
            json!({"==": [{"%": [-5, 3]}, -2]}),
            true,
            "the remainder has the sign of what is divided, as in JavaScript and Go",
        ),
        (
            json!({"!!": [{"var": "empty"}]}),
            false,
            "an empty object is as false as an empty list, as the rule engine has it",
        ),
        (
            json!({"!!": [{"var": "list.length"}]}),
            false,
            "lists and texts have no fields",
        ),
        (
            json!({"!!": [{"var": "word.0"}]}),
            false,
            "lists and texts have no fields",
        ),
        (
            json!({"==": [{"+": ["1_000"]}, 1000]}),
            false,
            "1_000 is a number in Python alone",
        ),
        (json!({">": ["infinity", 1]}), false, "JSON has no infinity"),
    ] {
        let rule = json!({"if": [condition, "true", "false"]});
        let table = table(0, &rule, "v3");
        assert_eq!(
            ask(&table, 0, &context).variant == "true",
            holds,
            "{rule}: {why}"
        );
    }
}
