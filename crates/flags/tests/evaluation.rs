//! The order of evaluation, percentages, and kills that never touch a rule.

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use serin_flags::{
    Context, Environment, ErrorCode, Evaluation, Flag, Kill, Kills, Latch, Reason, Release, Table,
    Target, Why,
    kill::{Cause, Position, Priority},
    table::{Forced, Overrides},
};
use std::sync::Arc;

const NOW: &str = "2026-06-01T00:00:00Z";

fn context() -> Context<'static> {
    Context {
        targeting_key: Some("user-1"),
        tenant: Some("acme"),
        environment: Environment::Production,
        attributes: None,
        now: NOW.parse().unwrap(),
    }
}

/// A boolean flag that is on by default, with more fields.
fn flag(more: &Value) -> Flag {
    let mut flag = json!({
        "state": "ENABLED",
        "variants": {"on": true, "off": false, "other": true},
        "defaultVariant": "on",
        "serin": {"offVariant": "off"},
    });
    for (field, value) in more.as_object().unwrap() {
        match value {
            Value::Object(inner) if field == "serin" => {
                for (name, value) in inner {
                    flag["serin"][name] = value.clone();
                }
            }
            value => flag[field] = value.clone(),
        }
    }
    serde_json::from_value(flag).unwrap()
}

fn table(more: &Value) -> Table {
    Table {
        flags: Arc::new([("f".parse().unwrap(), Arc::new(flag(more)))].into()),
        environment: Environment::Production,
        ..Table::default()
    }
}

fn overrides(tenant: &str, variant: &str) -> Arc<Overrides> {
    let own = [("f".parse().unwrap(), Arc::from(variant))].into();
    Arc::new([(tenant.parse().unwrap(), own)].into())
}

fn latch(targets: &[&str]) -> Latch {
    let mut kills = Kills::default();
    for (generation, target) in (1..).zip(targets) {
        kills.take(Kill {
            target: target.parse().unwrap(),
            generation,
            position: Position::Killed,
            at: Timestamp::UNIX_EPOCH,
            actor: "test".to_owned(),
            reason: "drill".to_owned(),
            cause: Cause::Manual,
            priority: Priority::Critical,
            grace_seconds: 0,
            attempts: 0,
        });
    }
    kills.latch()
}

fn short(answer: &Evaluation<'_>) -> (String, Reason, Why) {
    (answer.variant.to_owned(), answer.reason, answer.why)
}

/// Each step gives way to the one before: everything is set at once, and taken away from the first on.
#[test]
fn the_order_of_evaluation() {
    let everything = json!({
        "state": "DISABLED",
        "targeting": {"if": [true, "other"]},
        "serin": {
            "expires": "2026-01-01T00:00:00Z",
            "environments": {"production": "other"},
            "schedule": [{"from": "2026-01-01T00:00:00Z", "percentage": 0}],
        },
    });
    let mut table = table(&everything);
    table.overrides = overrides("acme", "on");
    table.file_overrides = overrides("acme", "other");
    table.releases = [(
        "f".parse().unwrap(),
        Release {
            percentage: 100.0,
            on: "other".into(),
        },
    )]
    .into();
    table.set_by_rollouts = [("f".parse().unwrap(), Arc::from("on"))].into();
    table.forced = Forced::parse("f:enabled").unwrap();
    let ask =
        |table: &Table, latch: &Latch| short(&table.evaluate(latch, "f", &context()).unwrap());
    let change = |table: &mut Table, field: &str, value: Value| {
        let key = "f".parse().unwrap();
        let mut json = serde_json::to_value(&*table.flags[&key]).unwrap();
        match json["serin"].as_object_mut().unwrap().remove(field) {
            Some(_) => {}
            None => json[field] = value,
        }
        let flag = serde_json::from_value(json).unwrap();
        table.flags = Arc::new([(key, Arc::new(flag))].into());
    };
    let open = Latch::default();
    let is = |found: (String, Reason, Why), variant: &str, reason, why| {
        assert_eq!(found, (variant.to_owned(), reason, why));
    };
    is(
        ask(&table, &latch(&["flags", "flag:f"])),
        "off",
        Reason::Disabled,
        Why::Latch,
    );
    is(
        ask(&table, &latch(&["flag:f"])),
        "off",
        Reason::Disabled,
        Why::Kill,
    );
    is(ask(&table, &open), "off", Reason::Disabled, Why::Expired);
    change(&mut table, "expires", Value::Null);
    is(
        ask(&table, &open),
        "on",
        Reason::TargetingMatch,
        Why::TenantOverride,
    );
    table.overrides = overrides("acme", "unknown");
    is(
        ask(&table, &open),
        "other",
        Reason::TargetingMatch,
        Why::TenantOverride,
    );
    table.file_overrides = overrides("someone", "other");
    is(
        ask(&table, &open),
        "other",
        Reason::TargetingMatch,
        Why::EnvironmentOverride,
    );
    change(&mut table, "environments", Value::Null);
    is(
        ask(&table, &open),
        "on",
        Reason::TargetingMatch,
        Why::EnvironmentOverride,
    );
    table.forced = Forced::default();
    is(ask(&table, &open), "other", Reason::Split, Why::Release);
    table.releases.clear();
    is(
        ask(&table, &open),
        "on",
        Reason::TargetingMatch,
        Why::Rollout,
    );
    table.set_by_rollouts.clear();
    is(ask(&table, &open), "off", Reason::Disabled, Why::State);
    change(&mut table, "state", json!("ENABLED"));
    is(ask(&table, &open), "off", Reason::Split, Why::Schedule);
    change(&mut table, "schedule", Value::Null);
    is(
        ask(&table, &open),
        "other",
        Reason::TargetingMatch,
        Why::Targeting,
    );
    change(&mut table, "targeting", json!({"if": [false, "other"]}));
    is(ask(&table, &open), "on", Reason::Default, Why::Default);
    change(&mut table, "targeting", json!({}));
    is(ask(&table, &open), "on", Reason::Static, Why::Default);
    assert!(table.evaluate(&open, "unknown", &context()).is_none());
}

/// Rules that cannot be compiled, or fail whenever they run.
const POISONED: [&str; 4] = [
    r#"{"no_such_operator": [1]}"#,
    r#"{"/": [1, 0]}"#,
    r#"{"if": [true, "no such variant"]}"#,
    "[1, 2]",
];

#[test]
fn kills_hold_with_the_rule_engine_poisoned() {
    let types = [
        ("boolean", json!({"on": true, "off": false}), json!(false)),
        ("number", json!({"on": 10, "off": 0}), json!(0)),
        ("text", json!({"on": "new", "off": "old"}), json!("old")),
        ("object", json!({"on": {"a": 1}, "off": {}}), json!({})),
    ];
    let scopes = [
        "system",
        "environment:production",
        "tenant:acme",
        "flags",
        "flag:f",
    ];
    for rule in POISONED {
        let rule: Value = serde_json::from_str(rule).unwrap();
        for (name, variants, off) in &types {
            let table = table(&json!({"variants": variants, "targeting": rule}));
            let before = table.flags.clone();
            let broken = table.evaluate(&Latch::default(), "f", &context()).unwrap();
            assert!(
                broken.error.is_some() && broken.variant == "on",
                "{name} {rule}"
            );
            for scope in scopes {
                let answer = table.evaluate(&latch(&[scope]), "f", &context()).unwrap();
                assert_eq!(
                    (answer.value, answer.reason, answer.error),
                    (off, Reason::Disabled, None),
                    "{scope} {name}"
                );
            }
            // Reviving restores exactly: nothing of the definition was touched.
            assert_eq!(table.flags, before);
            let again = table.evaluate(&Latch::default(), "f", &context()).unwrap();
            assert_eq!(again, broken);
        }
    }
    // A kill of something else stops nothing.
    let table = table(&json!({}));
    for scope in [
        "environment:staging",
        "tenant:other",
        "flag:g",
        "service:f",
        "tool:*/f",
    ] {
        assert!(
            table
                .evaluate(&latch(&[scope]), "f", &context())
                .unwrap()
                .is_on(),
            "{scope}"
        );
    }
}

#[test]
fn a_rule_that_cannot_run_answers_the_default() {
    for (rule, code) in [
        (json!({"no_such_operator": 1}), ErrorCode::ParseError),
        (json!({"/": [1, 0]}), ErrorCode::General),
        (json!({"if": [true, "unknown"]}), ErrorCode::General),
    ] {
        let table = table(&json!({"targeting": rule}));
        let answer = table.evaluate(&Latch::default(), "f", &context()).unwrap();
        assert_eq!(
            (answer.variant, answer.reason, answer.error),
            ("on", Reason::Error, Some(code))
        );
    }
}

#[test]
fn candidates_are_in_production_unless_something_says_otherwise() {
    let canary = Context {
        environment: Environment::Canary,
        ..context()
    };
    let open = Latch::default();
    for (environments, expected) in [
        (json!({"production": "off"}), "off"),
        (json!({"production": "off", "canary": "other"}), "other"),
        (json!({"staging": "off"}), "on"),
    ] {
        let table = table(&json!({"serin": {"environments": environments}}));
        assert_eq!(
            table.evaluate(&open, "f", &canary).unwrap().variant,
            expected
        );
    }
    let table = table(&json!({}));
    assert_eq!(
        table
            .evaluate(&latch(&["environment:production"]), "f", &canary)
            .unwrap()
            .why,
        Why::Latch
    );
    assert_eq!(
        table
            .evaluate(&latch(&["environment:canary"]), "f", &canary)
            .unwrap()
            .why,
        Why::Latch
    );
    assert!(
        table
            .evaluate(&latch(&["environment:canary"]), "f", &context())
            .unwrap()
            .is_on()
    );
}

#[test]
fn flags_from_the_environment() {
    let open = Latch::default();
    let with = |forced: &str, keys: &[&str]| Table {
        flags: Arc::new(
            keys.iter()
                .map(|key| (key.parse().unwrap(), Arc::new(flag(&json!({})))))
                .collect(),
        ),
        forced: Forced::parse(forced).unwrap(),
        ..Table::default()
    };
    let ask = |table: &Table, key: &str| {
        table
            .evaluate(&open, key, &context())
            .map(|answer| answer.is_on())
    };
    let table = with(
        "sampling:disabled,tasks:enabled",
        &["mcp_sampling", "other"],
    );
    assert_eq!(ask(&table, "mcp_sampling"), Some(false));
    assert_eq!(ask(&table, "sampling"), None);
    assert_eq!(ask(&table, "other"), Some(true));
    assert_eq!(ask(&table, "tasks"), Some(true));
    assert_eq!(
        table
            .keys()
            .map(serin_flags::FlagKey::as_str)
            .collect::<Vec<_>>(),
        ["mcp_sampling", "other", "tasks"]
    );
    let killed = table
        .evaluate(&latch(&["flag:tasks"]), "tasks", &context())
        .unwrap();
    assert_eq!((killed.is_on(), killed.why), (false, Why::Kill));
    let table = with("x:disabled", &["mcp_x", "x"]);
    assert_eq!(
        (ask(&table, "x"), ask(&table, "mcp_x")),
        (Some(false), Some(true))
    );
    // Two names of one feature.
    for named in ["sampling:disabled", "mcp_sampling:disabled"] {
        let table = with(named, &["mcp_sampling", "sampling"]);
        assert_eq!(
            (ask(&table, "sampling"), ask(&table, "mcp_sampling")),
            (Some(false), Some(false)),
            "{named}"
        );
    }
    let table = with("mcp_sampling:disabled,x:disabled", &["sampling", "mcp_x"]);
    assert_eq!(
        (ask(&table, "sampling"), ask(&table, "mcp_x")),
        (Some(false), Some(false))
    );
    let table = with("all_disabled, a:enabled", &["a", "b"]);
    assert_eq!(
        (ask(&table, "a"), ask(&table, "b"), ask(&table, "c")),
        (Some(true), Some(false), None)
    );
    for (text, expected) in [
        ("sampling", "`sampling` does not say of what"),
        (
            "sampling:on",
            "`sampling:on` is neither enabled nor disabled",
        ),
        ("a b:enabled", "`a b:enabled` has no flag's name before `:`"),
        (
            "a:enabled,a:disabled",
            "`a:disabled` names a flag a second time",
        ),
        (
            "all_enabled,all_disabled",
            "`all_disabled` comes after another",
        ),
    ] {
        let error = Forced::parse(text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
        assert!(error.ends_with("all_enabled or all_disabled"), "{error}");
    }
    assert_eq!(Forced::parse(" , "), Ok(Forced::default()));
}

#[test]
fn schedules_let_in_and_rules_choose() {
    let open = Latch::default();
    let more = json!({
        "defaultVariant": "off",
        "targeting": {"if": [{"==": [{"var": "tier"}, "free"]}, "off"]},
        "serin": {"schedule": [
            {"from": "2026-01-01T00:00:00Z", "percentage": 100, "variant": "on", "environments": ["staging"]},
            {"from": "2026-02-01T00:00:00Z", "percentage": 100, "variant": "on", "environments": ["production"]},
        ]},
    });
    let table = table(&more);
    let free = json!({"tier": "free"});
    for (at, environment, attributes, expected) in [
        (
            "2025-12-31T23:59:59Z",
            Environment::Staging,
            None,
            ("off", Why::Schedule),
        ),
        (
            "2026-01-01T00:00:00Z",
            Environment::Staging,
            None,
            ("on", Why::Schedule),
        ),
        (
            "2026-01-01T00:00:00Z",
            Environment::Staging,
            free.as_object(),
            ("off", Why::Targeting),
        ),
        (
            "2026-01-01T00:00:00Z",
            Environment::Canary,
            None,
            ("off", Why::Schedule),
        ),
        (
            "2026-02-01T00:00:00Z",
            Environment::Canary,
            None,
            ("on", Why::Schedule),
        ),
        (
            "2026-02-01T00:00:00Z",
            Environment::Staging,
            None,
            ("off", Why::Schedule),
        ),
    ] {
        let context = Context {
            now: at.parse().unwrap(),
            environment,
            attributes,
            ..context()
        };
        let answer = table.evaluate(&open, "f", &context).unwrap();
        assert_eq!((answer.variant, answer.why), expected, "{at} {environment}");
    }
}

#[test]
fn without_a_key_percentages_give_the_default() {
    let open = Latch::default();
    for key in [None, Some("")] {
        let context = Context {
            targeting_key: key,
            ..context()
        };
        let ask = |table: &Table| {
            table
                .evaluate(&open, "f", &context)
                .unwrap()
                .variant
                .to_owned()
        };
        let rule = json!({"defaultVariant": "other", "targeting": {"fractional": [["on", 50], ["off", 50]]}});
        assert_eq!(ask(&table(&rule)), "other");
        let stage = |default: &str, percentage| {
            json!({"defaultVariant": default,
            "serin": {"schedule": [{"from": "2026-01-01T00:00:00Z", "percentage": percentage, "variant": "on"}]}})
        };
        assert_eq!(ask(&table(&stage("other", 50))), "other");
        // The variant that only some are to have is for nobody of whom nothing is known.
        assert_eq!(ask(&table(&stage("on", 50))), "off");
        assert_eq!(ask(&table(&stage("other", 100))), "on");
        assert_eq!(ask(&table(&stage("other", 0))), "off");
    }
}

#[test]
fn ten_thousand_tenants_have_variants_of_their_own() {
    let mut table = table(&json!({}));
    let tenants = (0..10_000).map(|n| {
        let variant = if n % 2 == 0 { "off" } else { "other" };
        (
            format!("tenant-{n}").parse().unwrap(),
            [("f".parse().unwrap(), Arc::from(variant))].into(),
        )
    });
    table.overrides = Arc::new(tenants.collect());
    for (tenant, expected) in [
        ("tenant-0", "off"),
        ("tenant-9999", "other"),
        ("tenant-10000", "on"),
    ] {
        let context = Context {
            tenant: Some(tenant),
            ..context()
        };
        assert_eq!(
            table
                .evaluate(&Latch::default(), "f", &context)
                .unwrap()
                .variant,
            expected
        );
    }
}

fn variant(more: &Value, user: &str) -> String {
    let context = Context {
        targeting_key: Some(user),
        ..context()
    };
    table(more)
        .evaluate(&Latch::default(), "f", &context)
        .unwrap()
        .variant
        .to_owned()
}

fn scheduled(percentage: f64, bucketing: &str) -> Value {
    json!({"serin": {"bucketing": bucketing,
        "schedule": [{"from": "2026-01-01T00:00:00Z", "percentage": percentage, "variant": "on"}]}})
}

fn released(percentage: f64, bucketing: &str, user: &str) -> String {
    let mut table = table(&json!({"state": "DISABLED", "serin": {"bucketing": bucketing}}));
    table.releases = [(
        "f".parse().unwrap(),
        Release {
            percentage,
            on: "on".into(),
        },
    )]
    .into();
    let context = Context {
        targeting_key: Some(user),
        ..context()
    };
    table
        .evaluate(&Latch::default(), "f", &context)
        .unwrap()
        .variant
        .to_owned()
}

proptest! {
    /// A release, a schedule and a rule of the same percentage are the same users, for both ways to bucket.
    #[test]
    fn percentages_agree(percent in 0..=100_u8, users in prop::collection::vec("\\PC{1,20}", 1..20)) {
        for bucketing in ["v3", "v2"] {
            let rule = json!({
                "targeting": {"fractional": [["on", percent], ["off", 100 - percent]]},
                "serin": {"bucketing": bucketing},
            });
            for user in &users {
                let by_rule = variant(&rule, user);
                prop_assert_eq!(&variant(&scheduled(percent.into(), bucketing), user), &by_rule);
                prop_assert_eq!(&released(percent.into(), bucketing, user), &by_rule);
            }
        }
    }

    /// Raising a percentage only adds users, also by fractions of a percent.
    #[test]
    fn raising_only_adds(low in 0.0..100.0_f64, by in 0.0..100.0_f64, users in prop::collection::vec("\\PC{1,20}", 1..20)) {
        let high = (low + by).min(100.0);
        for user in &users {
            for bucketing in ["v3", "v2"] {
                if released(low, bucketing, user) == "on" {
                    prop_assert_eq!(released(high, bucketing, user), "on");
                    prop_assert_eq!(variant(&scheduled(high, bucketing), user), "on");
                }
            }
        }
    }

    /// Whoever has a variant keeps it when weight moves from the last variant to the first ones' ends.
    #[test]
    fn variants_stay_where_they_were(low in 0..=50_u8, by in 0..=50_u8, users in prop::collection::vec("\\PC{1,20}", 1..20)) {
        let rule = |on: u8| json!({"targeting": {"fractional": [["on", on], ["off", 100 - on]]}});
        for user in &users {
            let before = variant(&rule(low), user);
            let after = variant(&rule(low + by), user);
            prop_assert!(before == after || (before == "off" && after == "on"));
        }
    }

    /// About so many get it.
    #[test]
    fn percentages_are_about_right(percent in 0..=100_u8) {
        let users = (0..300).filter(|n| released(percent.into(), "v3", &format!("user-{n}")) == "on").count();
        let expected = usize::from(percent) * 3;
        prop_assert!(users.abs_diff(expected) < 45, "{} of 300, not {}", users, expected);
    }
}

/// Guards against a change of the algorithm, which would move every user.
#[test]
fn buckets_never_change() {
    let rule = json!({"targeting": {"fractional": [["on", 1], ["off", 1], ["other", 1]]}});
    let old = json!({"targeting": {"fractional": [["on", 1], ["off", 1], ["other", 1]]}, "serin": {"bucketing": "v2"}});
    let found: Vec<_> = (0..12)
        .map(|n| {
            let user = format!("user-{n}");
            [variant(&rule, &user), variant(&old, &user)]
                .map(|name| name[..2].to_owned())
                .join("/")
        })
        .collect();
    assert_eq!(
        found.join(" "),
        "on/of ot/on ot/on ot/ot ot/on of/ot ot/on ot/ot ot/of on/of ot/of of/of"
    );
}

#[test]
fn targets_that_are_no_flags_leave_flags_alone() {
    let latch = latch(&["service:f"]);
    assert!(!latch.is_open());
    assert!("flag:f".parse::<Target>().is_ok());
    assert!(
        table(&json!({}))
            .evaluate(&latch, "f", &context())
            .unwrap()
            .is_on()
    );
}
