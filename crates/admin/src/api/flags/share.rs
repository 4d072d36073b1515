//! How many get a flag now: after kills, dates, the environment and rollouts, which its rule knows nothing of.

use super::change;
use jiff::Timestamp;
use serin_control::flags::FlagsNow;
use serin_flags::{Compact, Context, Environment, ErrorCode, Flag, FlagKey, Why, flag::Stage};

/// Everybody, in percent.
const ALL: f64 = 100.0;

/// How many get something other than the off variant where this process runs, in percent; nothing where that cannot be said in one
/// number. Tenants with variants of their own are left out.
pub(super) fn now(now: &FlagsNow, key: &FlagKey, flag: &Flag, at: Timestamp) -> Option<f64> {
    let table = now.table();
    let context = Context {
        targeting_key: None,
        tenant: None,
        environment: table.environment,
        attributes: None,
        now: at,
    };
    let answer = table.evaluate(&now.latch, key.as_str(), &context)?;
    let all_get = |variant: &str| {
        Some(if *variant == *flag.serin.off_variant {
            0.0
        } else {
            ALL
        })
    };
    match answer.why {
        Why::Latch | Why::Kill | Why::Expired | Why::State => Some(0.0),
        Why::TenantOverride | Why::EnvironmentOverride | Why::Rollout => all_get(answer.variant),
        Why::Release => table.releases.get(key).map(|release| release.percentage),
        // Whoever is asked for, such a rule answers the same.
        _ if answer.error == Some(ErrorCode::ParseError) => all_get(answer.variant),
        Why::Schedule | Why::Targeting | Why::Default if flag.serin.schedule.is_empty() => {
            by_rule(flag, table.environment)
        }
        Why::Schedule | Why::Targeting | Why::Default => scheduled(flag, table.environment, at),
    }
}

/// Whether something that is for these environments is for a process that runs there; what is for none is for all.
fn is_for(environments: &[Environment], here: Environment) -> bool {
    environments.is_empty()
        || environments.contains(&here)
        || (here == Environment::Canary && environments.contains(&Environment::Production))
}

fn scheduled(flag: &Flag, here: Environment, at: Timestamp) -> Option<f64> {
    let begun = |stage: &&Stage| stage.from <= at;
    let stage = flag.serin.schedule.iter().rev().find(begun);
    let Some(stage) = stage.filter(|stage| is_for(&stage.environments, here)) else {
        return Some(0.0);
    };
    let on = stage.variant.as_ref().unwrap_or(&flag.default_variant);
    let has_rule = flag.targeting.as_ref().is_some_and(|rule| !rule.is_empty());
    if stage.percentage <= 0.0 {
        return Some(0.0);
    }
    (!has_rule).then_some(if *on == flag.serin.off_variant {
        0.0
    } else {
        stage.percentage
    })
}

fn by_rule(flag: &Flag, here: Environment) -> Option<f64> {
    let Some(compact) = Compact::of(flag) else {
        return change::percentage_of_all(flag);
    };
    if !is_for(&compact.environments, here) {
        return Some(0.0);
    }
    compact
        .conditions
        .is_empty()
        .then_some(compact.rollout_percentage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use serin_flags::{Document, Kills, Release, Table, Target, table::Forced};
    use serin_model::snapshot::Snapshot;
    use std::{collections::BTreeMap, sync::Arc};

    fn flags(definitions: &Value, extension: &Value, table: Table, killed: &[&str]) -> FlagsNow {
        let document = json!({"flags": definitions, "serin": {"flags": extension}});
        let document = Document::read(&document).unwrap();
        let mut kills = Kills::default();
        for target in killed {
            let wish = serin_flags::kill::Wish {
                target: target.parse::<Target>().unwrap(),
                actor: "kim".to_owned(),
                reason: "because".to_owned(),
                cause: serin_flags::kill::Cause::Manual,
                priority: serin_flags::kill::Priority::Medium,
                grace_seconds: 0,
            };
            let kill = kills.kill(wish, Timestamp::UNIX_EPOCH).unwrap().unwrap();
            kills.take(kill);
        }
        FlagsNow {
            snapshot: Arc::new(Snapshot {
                flags: Arc::new(Table {
                    flags: Arc::new(document.flags),
                    ..table
                }),
                ..Snapshot::default()
            }),
            latch: Arc::new(kills.latch()),
        }
    }

    #[test]
    fn what_is_shown_is_what_callers_get() {
        let at: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let in_production = json!({"in": [{"var": "$serin.environment"}, ["production"]]});
        let ten = json!({"fractional": [["on", 10], ["off", 90]]});
        let plain = |share: f64| (Table::default(), [""; 0].as_slice(), Some(share));
        let table = |table: Table, share: f64| (table, [""; 0].as_slice(), Some(share));
        let forced = |text: &str| Table {
            forced: Forced::parse(text).unwrap(),
            ..Table::default()
        };
        let begun = json!([{"from": "2026-01-01T00:00:00Z", "percentage": 40}]);
        let later = json!([{"from": "2027-01-01T00:00:00Z", "percentage": 40}]);
        let elsewhere = json!([{"from": "2026-01-01T00:00:00Z", "percentage": 40, "environments": ["staging"]}]);
        for (fields, extension, (table, killed, share)) in [
            (json!({}), json!({}), plain(100.0)),
            (json!({"defaultVariant": "off"}), json!({}), plain(0.0)),
            (json!({"targeting": ten}), json!({}), plain(10.0)),
            (json!({"state": "DISABLED"}), json!({}), plain(0.0)),
            (
                json!({}),
                json!({"expires": "2026-05-01T00:00:00Z"}),
                plain(0.0),
            ),
            (
                json!({}),
                json!({"environments": {"development": "off"}}),
                plain(0.0),
            ),
            (
                json!({}),
                json!({"environments": {"staging": "off"}}),
                plain(100.0),
            ),
            (
                json!({"defaultVariant": "off", "targeting": {"if": [in_production, "on", "off"]}}),
                json!({}),
                plain(0.0),
            ),
            (
                json!({"defaultVariant": "off", "targeting": {"if": [in_production, ten, "off"]}}),
                json!({}),
                table(
                    Table {
                        environment: Environment::Canary,
                        ..Table::default()
                    },
                    10.0,
                ),
            ),
            (
                json!({"defaultVariant": "off", "targeting": {"if": [{"==": [{"var": "plan"}, "pro"]}, "on", "off"]}}),
                json!({}),
                (Table::default(), &[], None),
            ),
            (json!({}), json!({"schedule": begun}), plain(40.0)),
            (json!({}), json!({"schedule": later}), plain(0.0)),
            (json!({}), json!({"schedule": elsewhere}), plain(0.0)),
            (
                json!({"targeting": ten}),
                json!({"schedule": begun}),
                (Table::default(), &[], None),
            ),
            (json!({"targeting": {"frob": [1]}}), json!({}), plain(100.0)),
            (
                json!({"state": "DISABLED"}),
                json!({}),
                table(forced("a:enabled"), 100.0),
            ),
            (json!({}), json!({}), table(forced("all_disabled"), 0.0)),
            (
                json!({"state": "DISABLED"}),
                json!({}),
                table(
                    Table {
                        releases: BTreeMap::from([(
                            "a".parse().unwrap(),
                            Release {
                                percentage: 25.0,
                                on: "on".into(),
                            },
                        )]),
                        ..Table::default()
                    },
                    25.0,
                ),
            ),
            (
                json!({}),
                json!({}),
                (Table::default(), &["flag:a"], Some(0.0)),
            ),
            (
                json!({}),
                json!({}),
                (Table::default(), &["flags"], Some(0.0)),
            ),
        ] {
            let mut flag = json!({"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "on"});
            for (field, value) in fields.as_object().unwrap() {
                flag[field] = value.clone();
            }
            let flags = flags(
                &json!({ "a": flag }),
                &json!({ "a": extension }),
                table,
                killed,
            );
            let key = "a".parse().unwrap();
            let definition = Arc::clone(&flags.table().flags[&key]);
            assert_eq!(
                now(&flags, &key, &definition, at),
                share,
                "{flag} {extension} {killed:?}"
            );
        }
    }
}
