//! The flags as they are in force now, as a pure flagd document: for providers that evaluate in their own process.
//!
//! What flagd does not know is worked into it: kills, expiry, overrides, environments, releases, schedules and shares. It holds for
//! one tenant and one environment, until the event stream says that something has changed.

use super::{answer::keys, asked::Asker, tagged};
use crate::{App, extract::Asked, problem::Problem};
use axum::{extract::State, response::Response};
use http::HeaderMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use serin_control::flags::FlagsNow;
use serin_flags::{
    Environment, Evaluation, Flag, FlagKey, TenantId, Why,
    flag::{FailMode, Metadata},
};
use std::{collections::BTreeMap, sync::Arc};
use utoipa::IntoParams;

/// Where flagd's own schema of such a document is.
const SCHEMA: &str = "https://flagd.dev/schema/v0/flags.json";
/// The share of everybody in `fractional`, where whole numbers are the finest division that every provider reads.
const WHOLE: f64 = 100_000.0;

/// For whom.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct For {
    /// With the variants of this tenant.
    #[param(value_type = Option<String>)]
    tenant: Option<TenantId>,
    /// As in this environment; that of the process unless given.
    #[param(value_type = Option<String>)]
    environment: Option<Environment>,
}

/// The flags as they are in force now, as a flagd document for providers that evaluate in their own process.
#[utoipa::path(
    get, path = "/ofrep/v1/flags", tag = "ofrep", params(For, ("If-None-Match" = Option<String>, Header, description = "The `ETag` of an answer before")),
    responses(
        (status = OK, description = "A flagd document", body = Object),
        (status = NOT_MODIFIED, description = "It is as before"),
        (status = UNAUTHORIZED, description = "No token, or another one"),
    ),
)]
pub(super) async fn effective(
    State(app): State<App>,
    headers: HeaderMap,
    Asked(who): Asked<For>,
) -> Result<Response, Problem> {
    let now = app.control.flags();
    let document = document(&now, who.tenant.as_ref(), who.environment, Timestamp::now());
    Ok(tagged(&document, &headers).0)
}

/// A flagd document.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    flags: BTreeMap<&'a FlagKey, Effective<'a>>,
}

/// A flag in it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Effective<'a> {
    state: &'static str,
    variants: BTreeMap<&'a str, &'a Value>,
    default_variant: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    targeting: Option<Value>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<&'a str, &'a Metadata>,
}

/// The document for a tenant and an environment.
pub(crate) fn document<'a>(
    now: &'a FlagsNow,
    tenant: Option<&TenantId>,
    environment: Option<Environment>,
    at: Timestamp,
) -> Document<'a> {
    let mut context = Map::new();
    if let Some(tenant) = tenant {
        context.insert("tenant".to_owned(), Value::from(tenant.as_str()));
    }
    if let Some(environment) = environment {
        context.insert("environment".to_owned(), Value::from(environment.label()));
    }
    let place = Place {
        tenant,
        here: environment.unwrap_or(now.table().environment),
        at,
    };
    let flags = match Asker::new(context, at) {
        Ok(asker) => keys(now)
            .into_iter()
            .filter_map(|key| Some((key, one(now, key, &asker, &place)?)))
            .collect(),
        // A context of two texts is fine.
        Err(_) => BTreeMap::new(),
    };
    Document {
        schema: SCHEMA,
        flags,
    }
}

/// For whom, where and when.
struct Place<'a> {
    tenant: Option<&'a TenantId>,
    here: Environment,
    at: Timestamp,
}

fn one<'a>(
    now: &'a FlagsNow,
    key: &'a FlagKey,
    asker: &Asker,
    place: &Place<'_>,
) -> Option<Effective<'a>> {
    let nobody = super::answer::evaluate(now, key.as_str(), asker)?;
    let Some(flag) = now.table().flags.get(key) else {
        return Some(Effective {
            state: "ENABLED",
            variants: BTreeMap::from([(nobody.variant, nobody.value)]),
            default_variant: nobody.variant,
            targeting: None,
            metadata: BTreeMap::new(),
        });
    };
    let (default_variant, targeting) = course(now, key, flag, &nobody, place);
    let variants = flag
        .variants
        .iter()
        .map(|(name, value)| (name.as_ref(), value));
    let metadata = flag
        .metadata
        .iter()
        .map(|(name, note)| (name.as_ref(), note));
    Some(Effective {
        state: "ENABLED",
        variants: variants.collect(),
        default_variant,
        targeting,
        metadata: metadata.collect(),
    })
}

/// The default variant and the rule that a provider needs to answer as we do; `nobody` is what we answer somebody of whom nothing
/// but tenant and environment is known.
fn course<'a>(
    now: &'a FlagsNow,
    key: &FlagKey,
    flag: &'a Arc<Flag>,
    nobody: &Evaluation<'a>,
    place: &Place<'_>,
) -> (&'a str, Option<Value>) {
    match nobody.why {
        Why::Latch
        | Why::Kill
        | Why::Expired
        | Why::TenantOverride
        | Why::EnvironmentOverride
        | Why::Rollout
        | Why::State => (nobody.variant, None),
        Why::Release => match now.table().releases.get(key) {
            Some(release) => (
                nobody.variant,
                Some(split(
                    &release.on,
                    &flag.serin.off_variant,
                    release.percentage,
                )),
            ),
            None => (nobody.variant, None),
        },
        Why::Schedule | Why::Targeting | Why::Default => {
            let rule = sound_rule(now, flag, place);
            let broken = instead_of_rule(flag);
            match stage(flag, place.here, place.at) {
                Stage::None => (broken.unwrap_or(&flag.default_variant), rule),
                Stage::NotHere => (&flag.serin.off_variant, None),
                Stage::All(on) => (broken.unwrap_or(on), rule),
                Stage::Some(on, percentage) => {
                    let on = broken.unwrap_or(on);
                    // Without a key to bucket by, nobody is in: not the default, which is for those who are.
                    let is_in = json!({ "==": [split("in", "out", percentage), "in"] });
                    let rule = rule.unwrap_or_else(|| Value::from(on));
                    let off = flag.serin.off_variant.as_ref();
                    (on, Some(json!({ "if": [is_in, rule, off] })))
                }
            }
        }
    }
}

/// The rule, without variables of ours, if it can run. What people should mend in it all the same is no reason to leave it out.
fn sound_rule(now: &FlagsNow, flag: &Flag, place: &Place<'_>) -> Option<Value> {
    let rule = flag.targeting.as_ref()?;
    if rule.is_empty() || !rule.is_sound() {
        return None;
    }
    let mut rule = rule.source().clone();
    resolve(&mut rule, now, place);
    Some(rule)
}

/// What everybody gets whom a rule would be asked for that cannot run.
fn instead_of_rule(flag: &Flag) -> Option<&str> {
    flag.targeting.as_ref().filter(|rule| !rule.is_sound())?;
    Some(match flag.serin.fail_mode {
        FailMode::Last | FailMode::Default => &flag.default_variant,
        FailMode::Off => &flag.serin.off_variant,
    })
}

/// Whom a schedule lets in.
enum Stage<'a> {
    /// There is none.
    None,
    /// Nobody: it has not begun, or is for other environments.
    NotHere,
    /// Everybody.
    All(&'a str),
    /// So many percent.
    Some(&'a str, f64),
}

fn stage(flag: &Flag, here: Environment, at: Timestamp) -> Stage<'_> {
    let stages = &flag.serin.schedule;
    if stages.is_empty() {
        return Stage::None;
    }
    let begun = stages.iter().rev().find(|stage| stage.from <= at);
    // What is for production is for candidates there, too.
    let is_canary = here == Environment::Canary;
    let found = begun.filter(|stage| {
        let places = &stage.environments;
        places.is_empty()
            || places.contains(&here)
            || (is_canary && places.contains(&Environment::Production))
    });
    match found {
        None => Stage::NotHere,
        Some(stage) => {
            let on = stage.variant.as_ref().unwrap_or(&flag.default_variant);
            if stage.percentage >= 100.0 {
                Stage::All(on)
            } else {
                Stage::Some(on, stage.percentage)
            }
        }
    }
}

/// So many get `on`, the others `off`: the same bucket as our own.
fn split(on: &str, off: &str, percentage: f64) -> Value {
    // From 0 to the whole, which fits.
    #[expect(clippy::cast_possible_truncation, reason = "it is rounded on purpose")]
    let in_it = (percentage.clamp(0.0, 100.0) / 100.0 * WHOLE).round() as i64;
    #[expect(clippy::cast_possible_truncation, reason = "a whole number")]
    let whole = WHOLE as i64;
    json!({ "fractional": [[on, in_it], [off, whole - in_it]] })
}

/// Other providers do not know our own variables: they get what these are.
fn resolve(rule: &mut Value, now: &FlagsNow, place: &Place<'_>) {
    let own = match &*rule {
        Value::Object(operation) if operation.len() == 1 => operation
            .get("var")
            .and_then(|name| match name {
                Value::Array(names) => names.first()?.as_str(),
                name => name.as_str(),
            })
            .and_then(|name| name.strip_prefix("$serin.")),
        _ => None,
    };
    if let Some(own) = own {
        *rule = match (own, own.strip_prefix("share.")) {
            (_, Some(service)) => json!(now.table().shares.get(service).copied().unwrap_or(0.0)),
            ("environment", _) => json!(place.here),
            ("tenant", _) => json!(place.tenant),
            _ => Value::Null,
        };
        return;
    }
    // As deep as a rule that was read.
    match rule {
        Value::Array(items) => items.iter_mut().for_each(|item| resolve(item, now, place)),
        Value::Object(fields) => fields
            .values_mut()
            .for_each(|field| resolve(field, now, place)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serin_flags::{
        Context, Flags, Latch, Release, Table,
        kill::{Cause, Kills, Priority, Wish},
    };
    use serin_model::snapshot::Snapshot;

    fn document_of_everything() -> serin_flags::Document {
        let flag = |changes: Value| {
            let mut flag = json!({"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "on"});
            for (field, value) in changes.as_object().unwrap() {
                flag[field] = value.clone();
            }
            flag
        };
        let pro = json!({"==": [{"var": "plan"}, "pro"]});
        let document = json!({
            "flags": {
                "plain": flag(json!({})),
                "disabled": flag(json!({"state": "DISABLED"})),
                "killed": flag(json!({})),
                "expired": flag(json!({})),
                "tenants": flag(json!({"defaultVariant": "off"})),
                "places": flag(json!({})),
                "set": flag(json!({"defaultVariant": "off"})),
                "released": flag(json!({"state": "DISABLED"})),
                "scheduled": flag(json!({})),
                "scheduled_rule": flag(json!({"targeting": {"if": [pro, "on", "off"]}})),
                "scheduled_elsewhere": flag(json!({})),
                "later": flag(json!({})),
                "rule": flag(json!({"defaultVariant": "off", "targeting": {"if": [pro, {"fractional": [["on", 30], ["off", 70]]}]}})),
                "share": flag(json!({"targeting": {"if": [{">": [{"var": "$serin.share.auth"}, 50]}, "on", "off"]}})),
                "environment": flag(json!({"targeting": {"if": [{"in": [{"var": "$serin.environment"}, ["canary"]]}, "on", "off"]}})),
                "tenant": flag(json!({"targeting": {"if": [{"==": [{"var": "$serin.tenant"}, "acme"]}, "on", "off"]}})),
                // Rules that can run, and that people should mend all the same.
                "careless": flag(json!({"defaultVariant": "off", "targeting": {"if": [pro, "on", {"fractional": ["same", ["off", 50], ["off", 50]]}]}})),
                "negative": flag(json!({"targeting": {"fractional": [["off", 50], ["on", 40], ["off", -3], ["off", 10]]}})),
                "stranger": flag(json!({"targeting": {"if": [pro, "off", "nobody's"]}})),
                // Rules that cannot.
                "broken": flag(json!({"targeting": {"frob": [1]}})),
                "broken_off": flag(json!({"targeting": {"frob": [1]}})),
                "scheduled_broken_off": flag(json!({"targeting": {"frob": [1]}})),
            },
            "serin": {
                "flags": {
                    "expired": {"expires": "2026-01-01T00:00:00Z"},
                    "places": {"environments": {"production": "off"}},
                    "scheduled": {"schedule": [{"from": "2026-01-01T00:00:00Z", "percentage": 40}]},
                    "scheduled_rule": {"schedule": [{"from": "2026-01-01T00:00:00Z", "percentage": 60}]},
                    "scheduled_elsewhere": {"schedule": [{"from": "2026-01-01T00:00:00Z", "percentage": 100, "environments": ["production"]}]},
                    "broken_off": {"failMode": "off"},
                    "scheduled_broken_off": {"failMode": "off", "schedule": [{"from": "2026-01-01T00:00:00Z", "percentage": 60}]},
                    "later": {"schedule": [{"from": "2027-01-01T00:00:00Z", "percentage": 100}]},
                },
                "tenants": {"acme": {"tenants": "on", "plain": "off"}},
            },
        });
        serin_flags::Document::read(&document).unwrap()
    }

    fn now() -> FlagsNow {
        let read = document_of_everything();
        let release = Release {
            percentage: 12.5,
            on: "on".into(),
        };
        let table = Table {
            flags: Arc::new(read.flags),
            overrides: Arc::new(read.overrides),
            releases: BTreeMap::from([("released".parse().unwrap(), release)]),
            set_by_rollouts: BTreeMap::from([("set".parse().unwrap(), "on".into())]),
            shares: BTreeMap::from([("auth".into(), 60.0)]),
            environment: Environment::Staging,
            ..Table::default()
        };
        let mut book = Kills::default();
        let wish = Wish {
            target: "flag:killed".parse().unwrap(),
            actor: "kim".into(),
            reason: "broken".into(),
            cause: Cause::Manual,
            priority: Priority::Medium,
            grace_seconds: 0,
        };
        let kill = book.kill(wish, Timestamp::UNIX_EPOCH).unwrap().unwrap();
        book.take(kill);
        FlagsNow {
            snapshot: Arc::new(Snapshot {
                flags: Arc::new(table),
                ..Snapshot::default()
            }),
            latch: Arc::new(book.latch()),
        }
    }

    /// Pure flagd that was read again, and nothing else, must answer as we do.
    #[test]
    fn the_document_alone_answers_as_everything_does() {
        let now = now();
        let at: Timestamp = "2026-11-21T00:00:00Z".parse().unwrap();
        let latch = Latch::default();
        let mut compared = 0;
        for environment in Environment::ALL {
            for tenant in [None, Some("acme"), Some("other")] {
                let of: Option<TenantId> = tenant.map(|tenant| tenant.parse().unwrap());
                let written = document(&now, of.as_ref(), Some(environment), at);
                let written = serde_json::to_value(&written).unwrap();
                // Ours would be refused by flagd's readers.
                assert!(written.get("serin").is_none() && !written.to_string().contains("$serin"));
                let flags: Flags = serin_flags::Document::read(&written).unwrap().flags;
                let alone = Table {
                    flags: Arc::new(flags),
                    ..Table::default()
                };
                for user in 0..=60 {
                    let user = (user > 0).then(|| format!("user-{user}"));
                    for plan in ["pro", "free"] {
                        let mut attributes = Map::new();
                        attributes.insert("plan".to_owned(), json!(plan));
                        let context = |tenant, environment| Context {
                            targeting_key: user.as_deref(),
                            tenant,
                            environment,
                            attributes: Some(&attributes),
                            now: at,
                        };
                        for key in now.table().flags.keys() {
                            let whole = now.table().evaluate(
                                &now.latch,
                                key.as_str(),
                                &context(tenant, environment),
                            );
                            let theirs = alone.evaluate(
                                &latch,
                                key.as_str(),
                                &context(None, Environment::Test),
                            );
                            assert_eq!(
                                whole.map(|whole| whole.variant),
                                theirs.map(|theirs| theirs.variant),
                                "{key} {user:?} {plan} {tenant:?} {environment}"
                            );
                            compared += 1;
                        }
                    }
                }
            }
        }
        assert_eq!(compared, 5 * 3 * 61 * 2 * 22);
    }
}
