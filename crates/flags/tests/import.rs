//! Flags in other shapes than flagd's.

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use serin_flags::{
    Compact, Context, Document, Environment, Flag, Latch, Reason, State, Table,
    import::{Condition, OneOf},
};
use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

const SEED: &str = r#"{
  "mcp_sampling": {
    "enabled": true, "rollout_percentage": 100, "environments": ["dev", "test", "staging", "production"], "conditions": [],
    "metadata": {"phase": 1, "description": "MCP 2025-11-25 sampling support", "tracking_issue": "https://github.com/org/erlmcp/issues/100"}
  },
  "mcp_tasks": {
    "enabled": false, "rollout_percentage": 0, "environments": ["dev", "test"], "conditions": [],
    "metadata": {"phase": 2, "description": "Experimental Tasks API"}
  },
  "for_ann": {"enabled": true, "conditions": [{"user_id": "ann"}, ["session_type", ["web", "cli"]]]}
}"#;

fn table(document: Document) -> Table {
    Table {
        flags: Arc::new(document.flags),
        file_overrides: Arc::new(document.overrides),
        ..Table::default()
    }
}

fn is_on(
    table: &Table,
    key: &str,
    environment: Environment,
    user: &str,
    attributes: &Value,
) -> bool {
    let context = Context {
        targeting_key: Some(user),
        tenant: attributes.get("tenant").and_then(Value::as_str),
        environment,
        attributes: attributes.as_object(),
        now: Timestamp::UNIX_EPOCH,
    };
    table
        .evaluate(&Latch::default(), key, &context)
        .is_some_and(|answer| answer.is_on())
}

#[test]
fn compact_flags_become_flags() {
    let imported = Document::from_any(SEED, None).unwrap();
    assert_eq!(imported.canary_percentage, None);
    let table = table(imported.document);
    for (key, environment, attributes, on) in [
        ("mcp_sampling", Environment::Development, json!({}), true),
        ("mcp_sampling", Environment::Production, json!({}), true),
        // Candidates in production are in production.
        ("mcp_sampling", Environment::Canary, json!({}), true),
        ("mcp_tasks", Environment::Development, json!({}), false),
        (
            "for_ann",
            Environment::Test,
            json!({"user_id": "ann", "session_type": "cli"}),
            true,
        ),
        (
            "for_ann",
            Environment::Test,
            json!({"user_id": "ann", "session_type": "tv"}),
            false,
        ),
        (
            "for_ann",
            Environment::Test,
            json!({"user_id": "bob", "session_type": "cli"}),
            false,
        ),
        ("gone", Environment::Test, json!({}), false),
    ] {
        assert_eq!(
            is_on(&table, key, environment, "u", &attributes),
            on,
            "{key} {environment} {attributes}"
        );
    }
}

#[test]
fn a_patch_changes_what_it_names() {
    let document = Document::from_any(SEED, None).unwrap().document;
    let tasks = &document.flags["mcp_tasks"];
    let compact = Compact::of(tasks).unwrap();
    let patch = json!({"enabled": true, "rollout_percentage": 25});
    let patched = compact.patched(patch.as_object().unwrap()).unwrap();
    assert_eq!((patched.enabled, patched.rollout_percentage), (true, 25.0));
    assert_eq!(
        patched.environments,
        [Environment::Development, Environment::Test]
    );
    let mut before = Flag::clone(tasks);
    before.serin.owner = Some("team".into());
    let flag = patched.flag(Some(&before));
    assert_eq!(flag.serin.owner.as_deref(), Some("team"));
    assert_eq!(flag.metadata, tasks.metadata);
    assert_eq!(flag.problems(), []);
    for (patch, expected) in [
        (
            json!({"rollout_percentage": 101}),
            "rollout_percentage: 101 is no percentage",
        ),
        (
            json!({"rollout_percentage": 1.001}),
            "rollout_percentage: 1.001 is no percentage",
        ),
        (json!({"rollout": 1}), "unknown field `rollout`"),
        (
            json!({"enabled": 1}),
            "enabled: invalid type: integer `1`, expected a boolean",
        ),
        (
            json!({"conditions": [1]}),
            "conditions: a condition is an attribute",
        ),
    ] {
        let error = compact
            .patched(patch.as_object().unwrap())
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn an_object_of_booleans() {
    let imported = Document::from_any(
        r#"{"rest_api_enabled": true, "knowledge_base_tools": false, "canary_percentage": 5}"#,
        None,
    )
    .unwrap();
    assert_eq!(imported.canary_percentage, Some(5.0));
    let flags = &imported.document.flags;
    assert_eq!(flags.len(), 2);
    assert_eq!(flags["knowledge_base_tools"].state, State::Disabled);
    let table = table(imported.document);
    assert!(is_on(
        &table,
        "rest_api_enabled",
        Environment::Test,
        "u",
        &json!({})
    ));
    assert!(!is_on(
        &table,
        "knowledge_base_tools",
        Environment::Test,
        "u",
        &json!({})
    ));
    let alone = Document::from_any(r#"{"canary_percentage": 25}"#, None).unwrap();
    assert_eq!(alone.canary_percentage, Some(25.0));
    assert!(alone.document.flags.is_empty());
}

#[test]
fn bundles_merge_flag_by_flag() {
    let imported = Document::from_any(
        r#"{
            "flags:global": "{\"search\": true, \"publish\": false, \"canary_percentage\": 10}",
            "flags:acme": {"publish": true},
            "flags:small": {"search": false, "own": true, "canary_percentage": 50}
        }"#,
        None,
    )
    .unwrap();
    assert_eq!(imported.canary_percentage, Some(10.0));
    assert_eq!(imported.document.warnings.len(), 1);
    let table = table(imported.document);
    for (tenant, key, on) in [
        ("acme", "search", true),
        ("acme", "publish", true),
        ("acme", "own", false),
        ("small", "search", false),
        ("small", "publish", false),
        ("small", "own", true),
        ("other", "search", true),
    ] {
        let attributes = json!({"tenant": tenant});
        assert_eq!(
            is_on(&table, key, Environment::Test, "u", &attributes),
            on,
            "{tenant} {key}"
        );
    }
}

#[test]
fn weeks_become_a_schedule() {
    let weeks = r#"{"mcp_sampling": {
        "week_10": {"enabled": true, "rollout_percentage": 100, "environments": ["production"]},
        "week_1": {"enabled": true, "rollout_percentage": 10, "environments": ["dev"]},
        "week_2": {"enabled": true, "rollout_percentage": 25, "environments": ["dev"]}
    }}"#;
    let start: Timestamp = "2026-11-30T10:00:00Z".parse().unwrap();
    let document = Document::from_any(weeks, Some(start)).unwrap().document;
    let flag = &document.flags["mcp_sampling"];
    let stages: Vec<_> = flag
        .serin
        .schedule
        .iter()
        .map(|s| (s.from.to_string(), s.percentage))
        .collect();
    assert_eq!(
        stages,
        [
            ("2026-11-30T10:00:00Z".to_owned(), 10.0),
            ("2026-12-07T10:00:00Z".to_owned(), 25.0),
            ("2027-02-01T10:00:00Z".to_owned(), 100.0),
        ]
    );
    assert_eq!(flag.problems(), []);
    for week in ["week_0", "week_521", "week_x"] {
        let text = weeks.replace("week_10", week);
        let error = Document::from_any(&text, Some(start))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(&format!("mcp_sampling.{week}: it is no week")),
            "{error}"
        );
    }
    let error = Document::from_any(weeks, None).unwrap_err().to_string();
    assert!(
        error.starts_with("a table of weeks does not say when"),
        "{error}"
    );
}

#[test]
fn what_cannot_be_imported_says_why() {
    for (text, expected) in [
        ("[]", "this is no shape of flags"),
        ("{}", "this is no shape of flags"),
        (r#"{"a": 1}"#, "this is no shape of flags"),
        (
            r#"{"a": {"enabled": true}, "b": true}"#,
            "this is no shape of flags",
        ),
        (
            r#"{"a": {"enabled": true, "rollout": 5}}"#,
            "a: unknown field `rollout`",
        ),
        (
            r#"{"a": {"enabled": true, "rollout_percentage": -1}}"#,
            "a.rollout_percentage: -1 is no percentage",
        ),
        (
            r#"{"a": {"enabled": true, "environments": ["moon"]}}"#,
            "a.environments: `moon` is none of `dev`",
        ),
        (r#"{"a b": true}"#, "a b: `a b` is not a flag key"),
        (
            r#"{"canary_percentage": 101}"#,
            "canary_percentage: it is no percentage",
        ),
        (
            r#"{"flags:a": {"x": 1}}"#,
            "flags:a.x: it is neither true nor false",
        ),
        (
            r#"{"flags:a/b": {"x": true}}"#,
            "flags:a/b: `a/b` is not a tenant id",
        ),
        (
            r#"{"flags:a": "{"}"#,
            "flags:a.line 1, column 1: EOF while parsing",
        ),
        ("{", "line 1, column 1: EOF while parsing an object"),
    ] {
        let error = Document::from_any(text, None).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
}

#[test]
fn shipped_documents_have_no_problems() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../flags");
    for (name, flags) in [("stage-i.json", 12), ("erlmcp.json", 5)] {
        let text = fs::read_to_string(folder.join(name)).unwrap();
        let document = Document::parse(&text).unwrap();
        assert_eq!(document.warnings, [], "{name}");
        assert_eq!(document.flags.len(), flags, "{name}");
        assert_eq!(
            serin_flags::schema::Schema::Flags.problems(&serde_json::from_str(&text).unwrap()),
            []
        );
        assert_eq!(Document::read(&document.to_json()).unwrap(), document);
    }
}

#[test]
fn what_the_shipped_flags_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../flags");
    let read =
        |name: &str| Document::parse(&fs::read_to_string(folder.join(name)).unwrap()).unwrap();
    let mut stage_i = table(read("stage-i.json"));
    let on: Vec<_> = stage_i
        .flags
        .keys()
        .filter(|key| {
            is_on(
                &stage_i,
                key.as_str(),
                Environment::Production,
                "u",
                &json!({}),
            )
        })
        .map(|key| key.as_str().to_owned())
        .collect();
    assert_eq!(on, ["rate_limiting_v2", "rest_api_enabled"]);
    let context = Context {
        targeting_key: None,
        tenant: None,
        environment: Environment::Production,
        attributes: None,
        now: Timestamp::UNIX_EPOCH,
    };
    for (share, expected) in [
        (None, 0),
        (Some(5.0), 5),
        (Some(30.0), 25),
        (Some(100.0), 100),
    ] {
        stage_i.shares = share
            .map(|share| (Arc::from("gateway"), share))
            .into_iter()
            .collect();
        let answer = stage_i
            .evaluate(&Latch::default(), "canary_percentage", &context)
            .unwrap();
        assert_eq!(
            (answer.value, answer.reason),
            (&json!(expected), Reason::TargetingMatch)
        );
    }
    let erlmcp = table(read("erlmcp.json"));
    for (at, environment, on) in [
        ("2026-11-30T09:59:59Z", Environment::Development, 0),
        ("2026-11-30T10:00:00Z", Environment::Development, 10),
        ("2026-12-07T10:00:00Z", Environment::Development, 25),
        ("2026-12-21T10:00:00Z", Environment::Test, 100),
        ("2027-01-18T10:00:00Z", Environment::Staging, 50),
        ("2027-02-01T10:00:00Z", Environment::Production, 100),
        ("2027-02-01T10:00:00Z", Environment::Canary, 100),
    ] {
        let users = (0..400).filter(|user| {
            let user = format!("user-{user}");
            let context = Context {
                targeting_key: Some(&user),
                environment,
                now: at.parse().unwrap(),
                ..context
            };
            erlmcp
                .evaluate(&Latch::default(), "mcp_sampling", &context)
                .unwrap()
                .is_on()
        });
        let percent = i64::try_from(users.count()).unwrap() / 4;
        assert!(
            (percent - on).abs() <= 5,
            "{at} {environment}: {percent}, not {on}"
        );
    }
}

fn any_compact() -> impl Strategy<Value = Compact> {
    let percent = prop_oneof![
        (0..=100_u8).prop_map(f64::from),
        (0..=10_000_u16).prop_map(|hundredths| f64::from(hundredths) / 100.0),
    ];
    let environments = prop::sample::subsequence(
        vec![
            Environment::Development,
            Environment::Test,
            Environment::Staging,
            Environment::Production,
        ],
        0..=4,
    );
    let value = prop_oneof![
        "[a-z]{1,4}".prop_map(Value::from),
        any::<i32>().prop_map(Value::from)
    ];
    let values = prop_oneof![
        value.clone().prop_map(OneOf::One),
        prop::collection::vec(value, 0..3).prop_map(OneOf::Any),
    ];
    let condition = ("[a-z_]{1,8}", values).prop_map(|(attribute, values)| Condition {
        attribute: attribute.into(),
        values,
    });
    let conditions = prop::collection::vec(condition, 0..3);
    (any::<bool>(), percent, environments, conditions).prop_map(
        |(enabled, rollout_percentage, environments, conditions)| Compact {
            enabled,
            rollout_percentage,
            environments,
            conditions,
            metadata: BTreeMap::new(),
        },
    )
}

proptest! {
    #[test]
    fn compact_flags_come_back(compact in any_compact()) {
        let flag = compact.flag(None);
        prop_assert_eq!(flag.problems(), []);
        prop_assert_eq!(Compact::of(&flag), Some(compact.clone()));
        let json = serde_json::to_value(&compact).unwrap();
        prop_assert_eq!(compact.patched(&Map::new()).unwrap(), serde_json::from_value(json).unwrap());
    }

    #[test]
    fn raising_a_percentage_keeps_its_users(mut compact in any_compact(), more in 0.0..100.0_f64) {
        compact.enabled = true;
        compact.conditions.clear();
        let more = (compact.rollout_percentage + more).min(100.0).round();
        prop_assume!(more >= compact.rollout_percentage);
        let raised = Compact { rollout_percentage: more, ..compact.clone() };
        let table = |compact: &Compact| Table {
            flags: Arc::new([("flag".parse().unwrap(), Arc::new(compact.flag(None)))].into()),
            ..Table::default()
        };
        let (before, after) = (table(&compact), table(&raised));
        for user in 0..50 {
            let user = format!("user-{user}");
            let on = |table: &Table| is_on(table, "flag", Environment::Production, &user, &json!({}));
            prop_assert!(!on(&before) || on(&after));
        }
    }
}
