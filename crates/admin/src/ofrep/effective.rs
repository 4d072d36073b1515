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
use serin_flags::{Environment, Evaluation, Flag, FlagKey, TenantId, Why, flag::Metadata};
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
            match stage(flag, place.here, place.at) {
                Stage::None => (&flag.default_variant, rule),
                Stage::NotHere => (&flag.serin.off_variant, None),
                Stage::All(on) => (on, rule),
                Stage::Some(on, percentage) => {
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

/// The rule, without variables of ours. One that cannot be evaluated gives everybody the default, as it does here.
fn sound_rule(now: &FlagsNow, flag: &Flag, place: &Place<'_>) -> Option<Value> {
    let rule = flag.targeting.as_ref()?;
    let is_empty = rule.source().as_object().is_some_and(Map::is_empty);
    if is_empty || !rule.problems().is_empty() {
        return None;
    }
    let mut rule = rule.source().clone();
    resolve(&mut rule, now, place);
    Some(rule)
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
