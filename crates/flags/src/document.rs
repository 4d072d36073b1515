//! Documents of flags: flagd's JSON, with what flagd lacks in a root object `serin` of its own, so that flagd's readers take the same
//! document.
//!
//! ```json
//! {
//!   "$schema": "https://flagd.dev/schema/v0/flags.json",
//!   "flags": {"new_search": {"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "on"}},
//!   "serin": {
//!     "bucketing": "v3",
//!     "flags": {"new_search": {"offVariant": "off", "owner": "search"}},
//!     "tenants": {"acme": {"new_search": "off"}}
//!   }
//! }
//! ```
//!
//! A document is read whole or not at all, with one exception: a rule that is wrong is kept, and its flag answers its default variant.

use crate::{
    environment::Environment,
    flag::{Bucketing, Extension, FailMode, Flag, Metadata, Problem, Stage, State},
    key::{FlagKey, TenantId},
    rule::{RULE_VALUES_MAX, Rule},
    schema::Schema,
    table::{FLAGS_MAX, Flags, Overrides, TENANTS_MAX},
};
use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// After so many problems nobody reads on.
const PROBLEMS_MAX: usize = 50;
/// Deepest rule while references are put in place; what is deeper is refused anyway.
const REFERENCE_LEVELS_MAX: usize = 128;
/// Where flagd keeps the schema of such documents.
const SCHEMA: &str = "https://flagd.dev/schema/v0/flags.json";

/// A document of flags.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// The definitions.
    pub flags: Flags,
    /// The variants that tenants have of their own.
    pub overrides: Overrides,
    /// Notes on the document as a whole, which go out with every answer.
    pub metadata: BTreeMap<Arc<str>, Metadata>,
    /// What is wrong with rules: their flags answer as far as the rules can run, and their default variants otherwise.
    pub warnings: Vec<Problem>,
}

/// Why a document is not read. Nothing of it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentError {
    /// Everything that was found, at least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            if n > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for DocumentError {}

impl From<Problem> for DocumentError {
    fn from(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
        }
    }
}

impl Document {
    /// Reads a document from text.
    pub fn parse(text: &str) -> Result<Self, DocumentError> {
        Self::read(&json(text)?)
    }

    /// Reads a document.
    pub fn read(document: &Value) -> Result<Self, DocumentError> {
        Reader::default().document(document)
    }

    /// As a document again: pure flagd, and ours under `serin`. Reading it gives the same flags; references are not put back.
    pub fn to_json(&self) -> Value {
        let flags = self.flags.iter();
        let flags: BTreeMap<_, _> = flags.map(|(key, flag)| (key, Pure::of(flag))).collect();
        let extensions: BTreeMap<_, _> = self
            .flags
            .iter()
            .map(|(key, flag)| (key, &flag.serin))
            .collect();
        let written = Written {
            schema: SCHEMA,
            flags,
            metadata: &self.metadata,
            serin: WrittenExtension {
                flags: extensions,
                tenants: &self.overrides,
            },
        };
        // Nothing in it can fail to be JSON: names are texts, and numbers came from JSON.
        serde_json::to_value(&written).unwrap_or_default()
    }
}

/// Text as JSON; the error says where. A name that stands twice in one object is an error: the reader of the file would not know
/// which of them holds.
pub(crate) fn json(text: &str) -> Result<Value, DocumentError> {
    let parsed: Result<Strict, _> = serde_json::from_str(text);
    parsed.map(|strict| strict.0).map_err(|error| {
        let at = format!("line {}, column {}", error.line(), error.column());
        let what = error.to_string();
        let what = what.split(" at line ").next().unwrap_or("it is no JSON");
        let help = if what.contains("recursion limit") {
            "write rules with fewer levels: else-branches one after the other"
        } else if what.ends_with(TWICE) {
            "remove one of them"
        } else {
            "mend the JSON there"
        };
        Problem::new(at, what, help).into()
    })
}

/// What is wrong in an object, and in which of its fields, where that can be said.
pub(crate) struct Wrong {
    pub(crate) field: Option<String>,
    pub(crate) what: String,
}

impl Wrong {
    /// Where it is, in an object that stands somewhere.
    pub(crate) fn at(&self, object: &str) -> String {
        match &self.field {
            Some(field) if object.is_empty() => field.clone(),
            Some(field) => format!("{object}.{field}"),
            None => object.to_owned(),
        }
    }
}

/// Reads an object; the error names the field that is wrong.
pub(crate) fn fields<T: DeserializeOwned>(object: &Value) -> Result<T, Wrong> {
    T::deserialize(object).map_err(|error| {
        // The reader does not say which field it was at, so each is tried alone, where others may then be missing.
        let needs_some = T::deserialize(&Value::Object(Map::new())).is_err();
        let is_wrong = |(name, value): (&String, &Value)| {
            let alone = Value::Object(Map::from_iter([(name.clone(), value.clone())]));
            let what = T::deserialize(&alone).err()?.to_string();
            let is_whole = (needs_some && what.starts_with("missing field"))
                || what.starts_with(&format!("unknown field `{name}`"));
            (!is_whole).then(|| Wrong {
                field: Some(name.chars().take(80).collect()),
                what: in_plain_words(&what),
            })
        };
        let mut names = object.as_object().into_iter().flatten();
        names.find_map(is_wrong).unwrap_or_else(|| Wrong {
            field: None,
            what: in_plain_words(&error.to_string()),
        })
    })
}

/// What a reader of JSON says, without the names that types have in this program.
pub fn in_plain_words(what: &str) -> String {
    if what.starts_with("data did not match any variant of untagged enum") {
        return "it is not of a kind that can stand here".to_owned();
    }
    if what.starts_with("failed to parse") {
        return "it is no time: write one such as 2027-01-04T00:00:00Z".to_owned();
    }
    if let Some((given, known)) = what
        .strip_prefix("unknown variant ")
        .and_then(|rest| rest.split_once(", expected "))
    {
        let known = known.strip_prefix("one of ").unwrap_or(known);
        return format!("{given} is none of {known}");
    }
    let words = what.split(' ').collect::<Vec<_>>();
    let mut plain = Vec::new();
    let mut n = 0;
    while let Some(word) = words.get(n) {
        let next = words.get(n + 1).copied().unwrap_or_default();
        let (bare, rest) = match word.strip_suffix(',') {
            Some(bare) => (bare, ","),
            None => (*word, ""),
        };
        let is_type = matches!(bare, "struct" | "enum") && next.starts_with(char::is_uppercase);
        let said = match bare {
            "struct" if is_type => "an object",
            "enum" if is_type => "a text",
            "f64" | "f32" => "a number",
            "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0",
            "i8" | "i16" | "i32" | "i64" => "a whole number",
            "sequence" => "list",
            "map" => "object",
            "floating" if next == "point" => "number",
            bare => bare,
        };
        // `a map` is an object.
        if said == "object" && plain.last().is_some_and(|last| last == "a") {
            plain.pop();
            plain.push("an".to_owned());
        }
        n += if is_type || (said == "number" && bare == "floating") {
            2
        } else {
            1
        };
        plain.push(format!("{said}{rest}"));
    }
    plain.join(" ")
}

const TWICE: &str = "stands there twice";

/// JSON without names that stand twice in one object.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, bool: bool) -> Result<Value, E> {
        Ok(bool.into())
    }

    fn visit_i64<E>(self, integer: i64) -> Result<Value, E> {
        Ok(integer.into())
    }

    fn visit_u64<E>(self, integer: u64) -> Result<Value, E> {
        Ok(integer.into())
    }

    fn visit_f64<E>(self, float: f64) -> Result<Value, E> {
        Ok(float.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut found = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            found.push(item);
        }
        Ok(Value::Array(found))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut found = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            if found.contains_key(&name) {
                let name: String = name.chars().take(80).collect();
                return Err(A::Error::custom(format!("`{name}` {TWICE}")));
            }
            let Strict(value) = fields.next_value()?;
            found.insert(name, value);
        }
        Ok(Value::Object(found))
    }
}

#[derive(Serialize)]
struct Written<'d> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    flags: BTreeMap<&'d FlagKey, Pure<'d>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: &'d BTreeMap<Arc<str>, Metadata>,
    serin: WrittenExtension<'d>,
}

#[derive(Serialize)]
struct WrittenExtension<'d> {
    flags: BTreeMap<&'d FlagKey, &'d Extension>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tenants: &'d Overrides,
}

/// A flag as flagd knows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pure<'d> {
    state: State,
    variants: &'d BTreeMap<Arc<str>, Value>,
    default_variant: &'d Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    targeting: Option<&'d Rule>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: &'d BTreeMap<Arc<str>, Metadata>,
}

impl<'d> Pure<'d> {
    fn of(flag: &'d Flag) -> Self {
        Self {
            state: flag.state,
            variants: &flag.variants,
            default_variant: &flag.default_variant,
            targeting: flag.targeting.as_ref(),
            metadata: &flag.metadata,
        }
    }
}

/// The root object `serin`, apart from the flags in it.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Root {
    bucketing: Bucketing,
    flags: BTreeMap<String, Value>,
    tenants: BTreeMap<String, BTreeMap<String, Arc<str>>>,
}

/// What a document may say of a flag; the rest is derived.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Partial {
    off_variant: Option<Arc<str>>,
    environments: BTreeMap<Environment, Arc<str>>,
    expires: Option<Timestamp>,
    owner: Option<Arc<str>>,
    fail_mode: FailMode,
    schedule: Vec<Stage>,
    bucketing: Option<Bucketing>,
}

#[derive(Default)]
struct Reader {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Reader {
    fn problem(&mut self, at: impl Into<String>, what: impl Into<String>, help: &str) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem::new(at, what, help));
        }
    }

    fn document(mut self, document: &Value) -> Result<Document, DocumentError> {
        // What is wrong with rules by the schema is only worth a warning.
        let schema = Schema::Flagd.check(document);
        let of_rules = schema.of_rules;
        self.problems.extend(schema.problems);
        let root = self.root(document);
        let none = Map::new();
        let evaluators = document
            .get("$evaluators")
            .and_then(Value::as_object)
            .unwrap_or(&none);
        let mut flags = Flags::new();
        for (at, key, flag) in definitions(document) {
            self.definition(&at, key, flag, &root, evaluators, &mut flags);
        }
        for key in root
            .flags
            .keys()
            .filter(|key| !flags.contains_key(key.as_str()))
        {
            if self.problems.is_empty() {
                self.problem(
                    format!("serin.flags.{key}"),
                    "there is no such flag under `flags`",
                    "mend the key, or define the flag",
                );
            }
        }
        if flags.len() > FLAGS_MAX {
            self.problem(
                "flags",
                format!("there are {}, more than {FLAGS_MAX}", flags.len()),
                "remove flags that nobody needs any more",
            );
        }
        let overrides = self.overrides(&root, &flags);
        if !self.problems.is_empty() {
            let problems = self.problems.into_iter().take(PROBLEMS_MAX);
            return Err(DocumentError {
                problems: problems.map(Problem::brief).collect(),
            });
        }
        for problem in of_rules {
            let is_said = |said: &Problem| {
                said.at.starts_with(&problem.at) || problem.at.starts_with(&said.at)
            };
            if !self.warnings.iter().any(is_said) {
                self.warnings.push(problem);
            }
        }
        let warnings = self.warnings.into_iter().take(PROBLEMS_MAX);
        Ok(Document {
            flags,
            overrides,
            metadata: metadata(document),
            warnings: warnings.map(Problem::brief).collect(),
        })
    }

    fn root(&mut self, document: &Value) -> Root {
        let Some(serin) = document.get("serin") else {
            return Root::default();
        };
        fields(serin).unwrap_or_else(|wrong: Wrong| {
            self.problem(
                wrong.at("serin"),
                wrong.what,
                "it may hold `bucketing` (v2 or v3), `flags` and `tenants`",
            );
            Root::default()
        })
    }

    fn definition(
        &mut self,
        at: &str,
        key: &str,
        flag: &Value,
        root: &Root,
        evaluators: &Map<String, Value>,
        flags: &mut Flags,
    ) {
        let parsed: FlagKey = match key.parse() {
            Ok(parsed) => parsed,
            Err(error) => {
                let error: crate::key::KeyError = error;
                return self.problem(at, error.to_string(), "rename it");
            }
        };
        let Some(flag) = self.flag(at, key, flag, root, evaluators) else {
            return;
        };
        if flags.insert(parsed, Arc::new(flag)).is_some() {
            self.problem(
                at,
                "there is another flag of this key",
                "remove one of them",
            );
        }
    }

    fn flag(
        &mut self,
        at: &str,
        key: &str,
        flag: &Value,
        root: &Root,
        evaluators: &Map<String, Value>,
    ) -> Option<Flag> {
        let problems = self.problems.len();
        self.unknown_fields(at, flag);
        let partial = self.partial(key, root);
        let default = flag.get("defaultVariant").and_then(Value::as_str);
        if default.is_none() {
            self.problem(
                format!("{at}.defaultVariant"),
                "it is missing",
                "name the variant that everybody gets where no rule says otherwise",
            );
        }
        let variants: BTreeMap<Arc<str>, Value> = variants(flag);
        let off = partial
            .off_variant
            .clone()
            .or_else(|| derived_off(&variants).cloned());
        if off.is_none() && !variants.is_empty() {
            self.problem(
                format!("serin.flags.{key}.offVariant"),
                "it is missing, and no variant is `false` or named off, false or disabled",
                "name the variant that everybody gets when the flag is disabled or killed",
            );
        }
        let state = match flag.get("state").and_then(Value::as_str) {
            Some("DISABLED") => State::Disabled,
            _ => State::Enabled,
        };
        let (Some(default), Some(off)) = (default, off) else {
            return None;
        };
        let targeting = flag.get("targeting").filter(|rule| !rule.is_null());
        let targeting = targeting.map(|rule| {
            let mut references = References::of(evaluators);
            let rule = Rule::new(references.resolve(rule, 0));
            let cycles = references.cycles.into_iter();
            self.warnings.extend(cycles.map(|name| {
                Problem::new(
                    format!("$evaluators.{name}"),
                    "it refers to itself",
                    "write out what it stands for",
                )
            }));
            rule
        });
        let flag = Flag {
            state,
            variants,
            default_variant: default.into(),
            targeting,
            metadata: metadata(flag),
            serin: Extension {
                off_variant: off,
                environments: partial.environments,
                expires: partial.expires,
                owner: partial.owner,
                fail_mode: partial.fail_mode,
                schedule: partial.schedule,
                bucketing: partial.bucketing.unwrap_or(root.bucketing),
            },
        };
        if self.problems.len() == problems {
            self.sort_out(at, key, &flag);
        }
        Some(flag)
    }

    /// What is wrong with a rule is a warning, all else a problem; what the flag has under `serin` stands elsewhere in the document.
    fn sort_out(&mut self, at: &str, key: &str, flag: &Flag) {
        for problem in flag.problems_in_full() {
            if problem.at.starts_with("targeting") {
                self.warnings.push(problem.within(at));
            } else if let Some(field) = problem.at.strip_prefix("serin.") {
                let at = format!("serin.flags.{key}.{field}");
                self.problem(at, problem.what, &problem.help);
            } else {
                let problem = problem.within(at);
                // Said by the schema already, perhaps.
                if !self
                    .problems
                    .iter()
                    .any(|said| problem.at.starts_with(&said.at))
                {
                    self.problem(problem.at, problem.what, &problem.help);
                }
            }
        }
    }

    fn unknown_fields(&mut self, at: &str, flag: &Value) {
        // `source` and `selector` are put in by flagd itself.
        const KNOWN: [&str; 8] = [
            "key",
            "state",
            "variants",
            "defaultVariant",
            "targeting",
            "metadata",
            "source",
            "selector",
        ];
        for name in flag.as_object().into_iter().flat_map(Map::keys) {
            if !KNOWN.contains(&name.as_str()) {
                let shown: String = name.chars().take(80).collect();
                self.problem(
                    format!("{at}.{shown}"),
                    "flagd has no such field",
                    "put notes into `metadata`, and what Serin adds into `serin.flags.KEY` at the root",
                );
            }
        }
    }

    fn partial(&mut self, key: &str, root: &Root) -> Partial {
        let Some(partial) = root.flags.get(key) else {
            return Partial::default();
        };
        fields(partial).unwrap_or_else(|wrong: Wrong| {
            let at = wrong.at(&format!("serin.flags.{key}"));
            match wrong.field.as_deref() {
                Some("schedule") => self.schedule(&at, &partial["schedule"], wrong.what),
                Some("expires") => {
                    self.problem(at, wrong.what, "write a time such as 2027-06-01T00:00:00Z");
                }
                Some("environments") => self.problem(
                    at,
                    wrong.what,
                    "write environments and their variants, such as {\"production\": \"off\"}",
                ),
                _ => self.problem(
                    at,
                    wrong.what,
                    "it may hold offVariant, environments, expires, owner, failMode (last, default or off), schedule and bucketing (v2 or v3)",
                ),
            }
            Partial::default()
        })
    }

    /// Which line of a schedule is wrong, and which field of it.
    fn schedule(&mut self, at: &str, schedule: &Value, what: String) {
        let lines = schedule.as_array().into_iter().flatten().enumerate();
        let mut wrong = lines.filter_map(|(n, line)| Some((n, fields::<Stage>(line).err()?)));
        let (at, what) = match wrong.next() {
            Some((n, wrong)) => (wrong.at(&format!("{at}[{n}]")), wrong.what),
            None => (at.to_owned(), what),
        };
        self.problem(
            at,
            what,
            "write lines such as {\"from\": \"2027-01-04T00:00:00Z\", \"percentage\": 25, \"variant\": \"on\", \"environments\": [\"production\"]}",
        );
    }

    fn overrides(&mut self, root: &Root, flags: &Flags) -> Overrides {
        let mut overrides = Overrides::new();
        if root.tenants.len() > TENANTS_MAX {
            self.problem(
                "serin.tenants",
                format!("there are {}, more than {TENANTS_MAX}", root.tenants.len()),
                "write rules for groups of tenants instead",
            );
            return overrides;
        }
        for (tenant, own) in &root.tenants {
            let at = format!("serin.tenants.{tenant}");
            let Ok(tenant) = tenant.parse::<TenantId>().map_err(|error| {
                self.problem(&at, error.to_string(), "mend the tenant's id");
            }) else {
                continue;
            };
            let mut found = BTreeMap::new();
            for (key, variant) in own {
                let at = format!("{at}.{key}");
                let Ok(key) = key.parse::<FlagKey>().map_err(|error| {
                    self.problem(&at, error.to_string(), "mend the flag's key");
                }) else {
                    continue;
                };
                if flags
                    .get(&key)
                    .is_some_and(|flag| !flag.variants.contains_key(variant))
                {
                    self.problem(
                        at,
                        format!("`{variant}` is none of its variants"),
                        "name one of the flag's `variants`",
                    );
                }
                found.insert(key, Arc::clone(variant));
            }
            overrides.insert(tenant, found);
        }
        overrides
    }
}

/// The flags of a document, with where they stand and their keys.
fn definitions(document: &Value) -> Vec<(String, &str, &Value)> {
    match document.get("flags") {
        Some(Value::Object(flags)) => flags
            .iter()
            .map(|(key, flag)| (format!("flags.{key}"), key.as_str(), flag))
            .collect(),
        Some(Value::Array(flags)) => {
            let keyed = flags.iter().enumerate().filter_map(|(n, flag)| {
                let key = flag.get("key")?.as_str()?;
                Some((format!("flags[{n}]"), key, flag))
            });
            keyed.collect()
        }
        _ => Vec::new(),
    }
}

fn variants(flag: &Value) -> BTreeMap<Arc<str>, Value> {
    let variants = flag.get("variants").and_then(Value::as_object);
    let variants = variants.into_iter().flatten();
    variants
        .map(|(name, value)| (name.as_str().into(), value.clone()))
        .collect()
}

/// The variant that means off where nobody says so.
pub(crate) fn derived_off(variants: &BTreeMap<Arc<str>, Value>) -> Option<&Arc<str>> {
    let is_false = |value: &Value| value.as_bool() == Some(false);
    let of_value = variants
        .iter()
        .find(|(_, value)| is_false(value))
        .map(|(name, _)| name);
    of_value.or_else(|| {
        let named = ["off", "false", "disabled"].iter();
        named
            .filter_map(|name| variants.get_key_value(*name))
            .map(|(name, _)| name)
            .next()
    })
}

fn metadata(of: &Value) -> BTreeMap<Arc<str>, Metadata> {
    let metadata = of.get("metadata").and_then(Value::as_object);
    let known = metadata.into_iter().flatten().filter_map(|(name, value)| {
        Some((name.as_str().into(), Metadata::deserialize(value).ok()?))
    });
    known.collect()
}

/// Puts shared rules in the places that refer to them. A reference that leads nowhere or to itself stays, and makes its rule wrong.
struct References<'d> {
    evaluators: &'d Map<String, Value>,
    under_way: Vec<&'d str>,
    cycles: Vec<&'d str>,
    values: usize,
}

impl<'d> References<'d> {
    const fn of(evaluators: &'d Map<String, Value>) -> Self {
        Self {
            evaluators,
            under_way: Vec::new(),
            cycles: Vec::new(),
            values: 0,
        }
    }

    fn resolve(&mut self, value: &Value, level: usize) -> Value {
        self.values += 1;
        if self.values > RULE_VALUES_MAX || level > REFERENCE_LEVELS_MAX {
            // Large or deep enough to be refused.
            return value.clone();
        }
        match value {
            Value::Array(items) => items
                .iter()
                .map(|item| self.resolve(item, level + 1))
                .collect(),
            Value::Object(map) => {
                if let Some((name, rule)) = self.target(map) {
                    self.under_way.push(name);
                    let resolved = self.resolve(rule, level + 1);
                    self.under_way.pop();
                    return resolved;
                }
                let mut resolve = |(name, value): (&String, &Value)| {
                    (name.clone(), self.resolve(value, level + 1))
                };
                Value::Object(map.iter().map(&mut resolve).collect())
            }
            other => other.clone(),
        }
    }

    fn target(&mut self, map: &Map<String, Value>) -> Option<(&'d str, &'d Value)> {
        let name = map.get("$ref").filter(|_| map.len() == 1)?.as_str()?;
        let (name, rule) = self.evaluators.get_key_value(name)?;
        if self.under_way.contains(&name.as_str()) {
            if !self.cycles.contains(&name.as_str()) {
                self.cycles.push(name);
            }
            return None;
        }
        Some((name, rule))
    }
}
