//! Flags in the shapes that people have before they have flagd's: compact flags, objects of booleans, bundles by tenant, tables of
//! weeks.

use crate::{
    document::{Document, DocumentError, fields, json},
    environment::Environment,
    flag::{Bucketing, Extension, FailMode, Flag, Metadata, Problem, Stage, State},
    key::{FlagKey, TenantId},
    rule::Rule,
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, sync::Arc};

/// What a document in any shape held.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imported {
    /// The flags.
    pub document: Document,
    /// `canary_percentage`, where it was among the flags: no flag, but another name for the share of a rollout.
    pub canary_percentage: Option<f64>,
}

impl Document {
    /// Reads text in whichever shape it is: flagd's, compact flags, an object of booleans, bundles `flags:global` and
    /// `flags:TENANT`, or tables of weeks. `start` is when the first week begins.
    pub fn from_any(text: &str, start: Option<Timestamp>) -> Result<Imported, DocumentError> {
        read(&json(text)?, start)
    }
}

/// The same of JSON.
pub fn read(value: &Value, start: Option<Timestamp>) -> Result<Imported, DocumentError> {
    let Some(object) = value.as_object() else {
        return Err(unknown_shape());
    };
    let all = |is_one: fn(&String, &Value) -> bool| {
        !object.is_empty() && object.iter().all(|(name, value)| is_one(name, value))
    };
    if object.contains_key("flags") {
        let document = Document::read(value)?;
        return Ok(Imported {
            document,
            canary_percentage: None,
        });
    }
    if all(|name, _| name.starts_with(BUNDLE)) {
        return bundles(object);
    }
    if all(|name, value| value.is_boolean() || name == CANARY_PERCENTAGE) {
        let mut problems = Vec::new();
        let imported = booleans(object, "", &mut problems);
        return finish(imported, problems);
    }
    if all(|_, value| value.as_object().is_some_and(is_table)) {
        return tables(object, start);
    }
    if all(|_, value| value.as_object().is_some_and(is_compact)) {
        return compacts(object);
    }
    Err(unknown_shape())
}

const CANARY_PERCENTAGE: &str = "canary_percentage";
const BUNDLE: &str = "flags:";
const GLOBAL: &str = "flags:global";
const WEEK: &str = "week_";
const SECONDS_A_WEEK: i64 = 7 * 24 * 3600;
/// The last week that a table may name: ten years.
const WEEKS_MAX: i64 = 520;

fn unknown_shape() -> DocumentError {
    Problem::new(
        "",
        "this is no shape of flags that is known",
        "write flagd's `{\"flags\": {...}}`, compact flags `{\"KEY\": {\"enabled\": true, \"rollout_percentage\": 25}}`, booleans `{\"KEY\": true}`, bundles `{\"flags:global\": {...}, \"flags:TENANT\": {...}}`, or tables of weeks `{\"KEY\": {\"week_1\": {\"enabled\": true, \"rollout_percentage\": 10}}}`",
    )
    .into()
}

fn finish(imported: Imported, problems: Vec<Problem>) -> Result<Imported, DocumentError> {
    if problems.is_empty() {
        // Limits are those of all documents.
        Document::read(&imported.document.to_json())?;
        return Ok(imported);
    }
    Err(DocumentError { problems })
}

fn key(name: &str, at: &str, problems: &mut Vec<Problem>) -> Option<FlagKey> {
    let parsed = name.parse().map_err(|error: crate::key::KeyError| {
        problems.push(Problem::new(at, error.to_string(), "rename it"));
    });
    parsed.ok()
}

fn place(at: &str, name: &str) -> String {
    if at.is_empty() {
        name.to_owned()
    } else {
        format!("{at}.{name}")
    }
}

fn booleans(object: &Map<String, Value>, at: &str, problems: &mut Vec<Problem>) -> Imported {
    let mut imported = Imported::default();
    for (name, value) in object {
        let at = place(at, name);
        if name == CANARY_PERCENTAGE {
            imported.canary_percentage = percentage(value, &at, problems);
            continue;
        }
        let Some(enabled) = value.as_bool() else {
            problems.push(Problem::new(
                at,
                "it is neither true nor false",
                "write one of them",
            ));
            continue;
        };
        if let Some(key) = key(name, &at, problems) {
            let compact = Compact {
                enabled,
                ..Compact::default()
            };
            imported
                .document
                .flags
                .insert(key, Arc::new(compact.flag(None)));
        }
    }
    imported
}

fn percentage(value: &Value, at: &str, problems: &mut Vec<Problem>) -> Option<f64> {
    let found = value
        .as_f64()
        .filter(|percent| (0.0..=100.0).contains(percent));
    if found.is_none() {
        problems.push(Problem::new(
            at,
            "it is no percentage",
            "write a number from 0 to 100",
        ));
    }
    found
}

/// `flags:global` defines the flags; what a tenant has of its own is merged flag by flag.
fn bundles(object: &Map<String, Value>) -> Result<Imported, DocumentError> {
    let mut problems = Vec::new();
    let mut opened = BTreeMap::new();
    for (name, value) in object {
        // Stores of keys and values hold the JSON as text.
        let inner = value.as_str().map(json).transpose();
        match inner.map(|inner| inner.unwrap_or_else(|| value.clone())) {
            Ok(Value::Object(flags)) => {
                opened.insert(name.as_str(), flags);
            }
            Ok(_) => problems.push(Problem::new(
                name,
                "it is no object",
                "write `{\"KEY\": true}`",
            )),
            Err(error) => {
                problems.extend(error.problems.iter().map(|problem| problem.within(name)));
            }
        }
    }
    let global = opened.remove(GLOBAL).unwrap_or_default();
    let mut imported = booleans(&global, GLOBAL, &mut problems);
    for (name, flags) in &opened {
        let Ok(tenant) = name[BUNDLE.len()..].parse::<TenantId>().map_err(|error| {
            problems.push(Problem::new(
                *name,
                error.to_string(),
                "mend the tenant's id",
            ));
        }) else {
            continue;
        };
        let own = tenants_own(flags, name, &mut imported.document, &mut problems);
        imported.document.overrides.insert(tenant, own);
    }
    finish(imported, problems)
}

fn tenants_own(
    flags: &Map<String, Value>,
    at: &str,
    document: &mut Document,
    problems: &mut Vec<Problem>,
) -> BTreeMap<FlagKey, Arc<str>> {
    let mut own = BTreeMap::new();
    for (name, value) in flags {
        let at = place(at, name);
        if name == CANARY_PERCENTAGE {
            let what = "a rollout has one share for all tenants";
            document
                .warnings
                .push(Problem::new(at, what, "it is left out"));
            continue;
        }
        let Some(on) = value.as_bool() else {
            problems.push(Problem::new(
                at,
                "it is neither true nor false",
                "write one of them",
            ));
            continue;
        };
        let Some(key) = key(name, &at, problems) else {
            continue;
        };
        // What nobody has globally is off for the others.
        let off = || {
            Arc::new(
                Compact {
                    enabled: false,
                    ..Compact::default()
                }
                .flag(None),
            )
        };
        document.flags.entry(key.clone()).or_insert_with(off);
        own.insert(key, if on { ON } else { OFF }.into());
    }
    own
}

fn is_compact(object: &Map<String, Value>) -> bool {
    let fields = [
        "enabled",
        "rollout_percentage",
        "environments",
        "conditions",
        "metadata",
    ];
    fields.iter().any(|field| object.contains_key(*field))
}

fn compacts(object: &Map<String, Value>) -> Result<Imported, DocumentError> {
    let mut problems = Vec::new();
    let mut imported = Imported::default();
    for (name, value) in object {
        let compact = Compact::read(value, name, &mut problems);
        if let (Some(key), Some(compact)) = (key(name, name, &mut problems), compact) {
            imported
                .document
                .flags
                .insert(key, Arc::new(compact.flag(None)));
        }
    }
    finish(imported, problems)
}

fn is_table(object: &Map<String, Value>) -> bool {
    !object.is_empty() && object.keys().all(|name| name.starts_with(WEEK))
}

/// `week_N` begins N - 1 weeks after the start. Each line holds until the next one, and says of all environments.
fn tables(
    object: &Map<String, Value>,
    start: Option<Timestamp>,
) -> Result<Imported, DocumentError> {
    let Some(start) = start else {
        return Err(Problem::new(
            "",
            "a table of weeks does not say when the first week begins",
            "say when: `serin flag import FILE --start 2026-11-30`, or `?start=2026-11-30T10:00:00Z` of the admin API",
        )
        .into());
    };
    let mut problems = Vec::new();
    let mut imported = Imported::default();
    for (name, weeks) in object {
        let mut schedule = Vec::new();
        for (week, line) in weeks.as_object().into_iter().flatten() {
            let at = format!("{name}.{week}");
            let from = week_begin(week, start).or_else(|| {
                problems.push(Problem::new(
                    &at,
                    "it is no week",
                    "write week_1 to week_520",
                ));
                None
            });
            if let (Some(from), Some(line)) = (from, Compact::read(line, &at, &mut problems)) {
                schedule.push(Stage {
                    from,
                    percentage: if line.enabled {
                        line.rollout_percentage
                    } else {
                        0.0
                    },
                    variant: Some(ON.into()),
                    environments: line.environments,
                });
            }
        }
        schedule.sort_by_key(|stage| stage.from);
        if let Some(key) = key(name, name, &mut problems) {
            let mut flag = Compact {
                rollout_percentage: 0.0,
                ..Compact::default()
            }
            .flag(None);
            flag.targeting = None;
            flag.serin.schedule = schedule;
            imported.document.flags.insert(key, Arc::new(flag));
        }
    }
    finish(imported, problems)
}

fn week_begin(week: &str, start: Timestamp) -> Option<Timestamp> {
    let number: i64 = week.strip_prefix(WEEK)?.parse().ok()?;
    let weeks = (1..=WEEKS_MAX).contains(&number).then_some(number - 1)?;
    start
        .checked_add(SignedDuration::from_secs(weeks * SECONDS_A_WEEK))
        .ok()
}

const ON: &str = "on";
const OFF: &str = "off";

/// A boolean flag in short: what a team has in its own table of flags.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compact {
    /// Whether it does anything.
    #[serde(default)]
    pub enabled: bool,
    /// How many of the callers it fits get it, in percent from 0 to 100, with at most two decimals.
    #[serde(default = "everybody")]
    pub rollout_percentage: f64,
    /// Where; everywhere when empty.
    #[serde(default)]
    pub environments: Vec<Environment>,
    /// For whom: all of them must hold.
    #[serde(default, deserialize_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// Notes.
    #[serde(default)]
    pub metadata: BTreeMap<Arc<str>, Metadata>,
}

const fn everybody() -> f64 {
    100.0
}

impl Default for Compact {
    fn default() -> Self {
        Self {
            enabled: true,
            rollout_percentage: everybody(),
            environments: Vec::new(),
            conditions: Vec::new(),
            metadata: BTreeMap::new(),
        }
    }
}

/// An attribute of a caller that has one of some values, such as `{"user_id": "ann"}` or `{"session_type": ["web", "cli"]}`.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The attribute.
    pub attribute: Arc<str>,
    /// Its values.
    pub values: OneOf,
}

/// One value or any of several.
#[derive(Clone, Debug, PartialEq)]
pub enum OneOf {
    /// This one.
    One(Value),
    /// Any of these.
    Any(Vec<Value>),
}

impl Serialize for Condition {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.values {
            OneOf::One(value) => serializer.collect_map([(&self.attribute, value)]),
            OneOf::Any(values) => serializer.collect_map([(&self.attribute, values)]),
        }
    }
}

/// Objects of attributes, or pairs of an attribute and its value, in a list or alone.
fn conditions<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Condition>, D::Error> {
    use serde::de::Error as _;
    const HELP: &str = "a condition is an attribute and its value or list of values, such as {\"user_id\": \"ann\"}";
    let found = match Value::deserialize(deserializer)? {
        Value::Array(items) => items,
        object @ Value::Object(_) => vec![object],
        _ => return Err(D::Error::custom(HELP)),
    };
    let mut conditions = Vec::new();
    for item in found {
        let pairs: Vec<(String, Value)> = match item {
            Value::Object(object) => object.into_iter().collect(),
            Value::Array(pair) => match <[Value; 2]>::try_from(pair) {
                Ok([Value::String(attribute), value]) => vec![(attribute, value)],
                _ => return Err(D::Error::custom(HELP)),
            },
            _ => return Err(D::Error::custom(HELP)),
        };
        for (attribute, value) in pairs {
            let is_plain =
                |value: &Value| value.is_string() || value.is_number() || value.is_boolean();
            let values = match value {
                Value::Array(values) if values.iter().all(is_plain) => OneOf::Any(values),
                value if is_plain(&value) => OneOf::One(value),
                _ => return Err(D::Error::custom(HELP)),
            };
            if attribute.is_empty() || attribute.starts_with('$') {
                return Err(D::Error::custom(HELP));
            }
            let attribute = attribute.into();
            conditions.push(Condition { attribute, values });
        }
    }
    Ok(conditions)
}

impl Compact {
    fn read(value: &Value, at: &str, problems: &mut Vec<Problem>) -> Option<Self> {
        let read = fields(value).map_err(|wrong| {
            problems.push(Problem::new(
                wrong.at(at),
                wrong.what,
                "a compact flag has enabled, rollout_percentage, environments, conditions and metadata (texts, numbers, booleans)",
            ));
        });
        let compact: Self = read.ok()?;
        problems.extend(compact.problem().map(|problem| problem.within(at)));
        Some(compact)
    }

    /// What is wrong with it, if something is.
    pub fn problem(&self) -> Option<Problem> {
        let hundredths = self.rollout_percentage * 100.0;
        let is_fine = (0.0..=10_000.0).contains(&hundredths)
            && (hundredths - hundredths.round()).abs() < 1e-6;
        (!is_fine).then(|| {
            Problem::new(
                "rollout_percentage",
                format!("{} is no percentage", self.rollout_percentage),
                "write a number from 0 to 100, with at most two decimals",
            )
        })
    }

    /// With the fields of a patch in place of its own: `{"rollout_percentage": 25}`.
    pub fn patched(&self, patch: &Map<String, Value>) -> Result<Self, DocumentError> {
        let mut problems = Vec::new();
        let mut whole = serde_json::to_value(self).unwrap_or_default();
        for (field, value) in patch {
            whole[field.as_str()] = value.clone();
        }
        let patched = Self::read(&whole, "", &mut problems);
        match patched {
            Some(patched) if problems.is_empty() => Ok(patched),
            _ => Err(DocumentError { problems }),
        }
    }

    /// As a flag. What a compact flag does not speak of (owner, expiry, how it is bucketed) stays as it was `before`.
    ///
    /// The percentage is a `fractional`, so that raising it only adds callers.
    pub fn flag(&self, before: Option<&Flag>) -> Flag {
        let split = self.split();
        let (targeting, default) = match (self.condition(), split) {
            (None, split) if split == ON => (None, ON),
            (None, split) => (Some(split), OFF),
            (Some(condition), split) => (Some(json!({"if": [condition, split, OFF]})), OFF),
        };
        Flag {
            state: if self.enabled {
                State::Enabled
            } else {
                State::Disabled
            },
            variants: BTreeMap::from([
                (ON.into(), Value::Bool(true)),
                (OFF.into(), Value::Bool(false)),
            ]),
            default_variant: default.into(),
            targeting: targeting.map(Rule::new),
            metadata: self.metadata.clone(),
            serin: match before {
                Some(before) => Extension {
                    off_variant: OFF.into(),
                    ..before.serin.clone()
                },
                None => Extension {
                    off_variant: OFF.into(),
                    environments: BTreeMap::new(),
                    expires: None,
                    owner: None,
                    fail_mode: FailMode::default(),
                    schedule: Vec::new(),
                    bucketing: Bucketing::default(),
                },
            },
        }
    }

    /// The compact form of a flag, if it has one: exactly the flags that [`Compact::flag`] makes, and plain booleans.
    pub fn of(flag: &Flag) -> Option<Self> {
        let is_boolean = flag.variants.len() == 2
            && flag.variants.get(ON) == Some(&Value::Bool(true))
            && flag.variants.get(OFF) == Some(&Value::Bool(false));
        let serin = &flag.serin;
        if !is_boolean || &*serin.off_variant != OFF {
            return None;
        }
        if !serin.schedule.is_empty() || !serin.environments.is_empty() {
            return None;
        }
        let mut compact = Self {
            enabled: flag.state == State::Enabled,
            metadata: flag.metadata.clone(),
            ..Self::default()
        };
        let rule = flag.targeting.as_ref().filter(|rule| !rule.is_empty());
        match rule {
            None => {
                compact.rollout_percentage = if &*flag.default_variant == ON {
                    100.0
                } else {
                    0.0
                }
            }
            Some(_) if &*flag.default_variant != OFF => return None,
            Some(rule) => compact.take_rule(rule.source())?,
        }
        Some(compact)
    }

    fn take_rule(&mut self, rule: &Value) -> Option<()> {
        if rule.get("fractional").is_some() {
            self.rollout_percentage = percent_of(rule)?;
            return Some(());
        }
        let [condition, split, off] = rule.get("if")?.as_array()?.as_slice() else {
            return None;
        };
        if off != OFF {
            return None;
        }
        self.rollout_percentage = percent_of(split)?;
        let all = condition.get("and").and_then(Value::as_array);
        for part in all.map_or(std::slice::from_ref(condition), Vec::as_slice) {
            self.take_condition(part)?;
        }
        Some(())
    }

    fn take_condition(&mut self, condition: &Value) -> Option<()> {
        let (operator, args) = condition.as_object()?.iter().next()?;
        let [variable, values] = args.as_array()?.as_slice() else {
            return None;
        };
        let attribute = variable.get("var")?.as_str()?;
        if attribute == ENVIRONMENT {
            let mut environments = Vec::<Environment>::deserialize(values).ok()?;
            // Candidates in production belong to it.
            if environments.contains(&Environment::Production) {
                environments.retain(|at| *at != Environment::Canary);
            }
            self.environments = environments;
            return Some(());
        }
        let values = match (operator.as_str(), values) {
            ("==", value) => OneOf::One(value.clone()),
            ("in", Value::Array(values)) => OneOf::Any(values.clone()),
            _ => return None,
        };
        self.conditions.push(Condition {
            attribute: attribute.into(),
            values,
        });
        Some(())
    }

    /// Who gets it of those whom it fits.
    fn split(&self) -> Value {
        let percent = self.rollout_percentage;
        if percent >= 100.0 {
            return ON.into();
        }
        let scale = if percent.fract() == 0.0 { 1.0 } else { 100.0 };
        let whole = |share: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "0 to 10000, rounded"
            )]
            let whole = (share * scale).round().clamp(0.0, 10_000.0) as u64;
            whole
        };
        let on = whole(percent);
        json!({"fractional": [[ON, on], [OFF, whole(100.0) - on]]})
    }

    /// Whom it fits; nothing: everybody.
    fn condition(&self) -> Option<Value> {
        let mut all = Vec::new();
        if !self.environments.is_empty() {
            let mut environments = self.environments.clone();
            if environments.contains(&Environment::Production)
                && !environments.contains(&Environment::Canary)
            {
                environments.push(Environment::Canary);
            }
            all.push(json!({"in": [{"var": ENVIRONMENT}, environments]}));
        }
        all.extend(self.conditions.iter().map(|condition| {
            let attribute = json!({"var": &*condition.attribute});
            match &condition.values {
                OneOf::One(value) => json!({"==": [attribute, value]}),
                OneOf::Any(values) => json!({"in": [attribute, values]}),
            }
        }));
        match all.len() {
            0 | 1 => all.pop(),
            _ => Some(json!({"and": all})),
        }
    }
}

const ENVIRONMENT: &str = "$serin.environment";

/// The percentage of a split that [`Compact::split`] made.
fn percent_of(split: &Value) -> Option<f64> {
    if split == ON {
        return Some(100.0);
    }
    let [on, off] = split.get("fractional")?.as_array()?.as_slice() else {
        return None;
    };
    let weight = |share: &Value, name: &str| match share.as_array()?.as_slice() {
        [variant, weight] if variant == name => weight.as_u64(),
        _ => None,
    };
    let (on, off) = (weight(on, ON)?, weight(off, OFF)?);
    match on.checked_add(off)? {
        100 => Some(on as f64),
        10_000 => Some(on as f64 / 100.0),
        _ => None,
    }
}
