//! Two JSON Schemas: what one accepts and the other does not.
//!
//! Each keyword that differs makes the new schema *narrower* (it accepts less), *wider*, or just
//! different; the direction of the data says which of these hurts.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::{Note, Severity, keys, pointer};

/// Deepest nesting of schemas that is followed.
const MAX_DEPTH: usize = 32;

/// Most pairs of schemas compared for one tool: bounds `$ref` and `anyOf` that multiply.
const MAX_PAIRS: usize = 20_000;

/// Which way the data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// Arguments: accepting less hurts.
    Input,
    /// Results: promising less hurts.
    Output,
}

/// What the new schema is to the old one, in one keyword.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Narrower,
    Wider,
    /// Neither contains the other, or nobody can tell.
    Different,
    /// The same data, said to a model in another way.
    Reworded,
    /// Nobody who followed the old schema notices.
    Harmless,
}

impl Relation {
    fn severity(self, direction: Direction) -> Severity {
        match (self, direction) {
            (Relation::Narrower, Direction::Output)
            | (Relation::Wider, Direction::Input)
            | (Relation::Harmless, _) => Severity::Fine,
            (Relation::Reworded, _) => Severity::Risky,
            _ => Severity::Breaking,
        }
    }
}

struct Finding {
    pointer: String,
    relation: Relation,
    what: String,
}

pub(super) fn compare(
    direction: Direction,
    old: Option<&Value>,
    new: Option<&Value>,
    base: &str,
    note: &mut Note<'_>,
) {
    // No schema at all accepts anything.
    let anything = Value::Bool(true);
    let (old, new) = (old.unwrap_or(&anything), new.unwrap_or(&anything));
    let mut comparison = Comparison {
        direction,
        old_root: old,
        new_root: new,
        pairs: 0,
        open_refs: Vec::new(),
        is_cut: false,
        findings: Vec::new(),
    };
    comparison.schema(old, new, base, 0);
    // Definitions may be used where references are not followed.
    for key in ["$defs", "definitions"] {
        if comparison.findings.is_empty() && old.get(key) != new.get(key) {
            let what = format!("{key} changed");
            comparison.find(pointer(base, key), Relation::Reworded, what);
        }
    }
    for finding in comparison.findings {
        note(
            finding.pointer,
            finding.relation.severity(direction),
            finding.what,
        );
    }
    if comparison.is_cut {
        let what = "schema too large or too deep to be compared to its end".to_owned();
        note(base.to_owned(), Severity::Risky, what);
    }
}

struct Comparison<'v> {
    direction: Direction,
    old_root: &'v Value,
    new_root: &'v Value,
    pairs: usize,
    /// Pairs of references that are being compared: meeting one again closes a cycle.
    open_refs: Vec<(Option<&'v str>, Option<&'v str>)>,
    is_cut: bool,
    findings: Vec<Finding>,
}

impl<'v> Comparison<'v> {
    fn find(&mut self, pointer: String, relation: Relation, what: String) {
        self.findings.push(Finding {
            pointer,
            relation,
            what,
        });
    }

    fn schema(&mut self, old: &'v Value, new: &'v Value, at: &str, depth: usize) {
        self.pairs += 1;
        if depth > MAX_DEPTH || self.pairs > MAX_PAIRS {
            self.is_cut = true;
            return;
        }
        let refs = (reference(old), reference(new));
        if refs == (None, None) {
            return self.resolved(old, new, at, depth);
        }
        if self.open_refs.contains(&refs) {
            return;
        }
        match (resolve(self.old_root, old), resolve(self.new_root, new)) {
            (Some(old_target), Some(new_target)) => {
                self.open_refs.push(refs);
                self.schema(old_target, new_target, at, depth + 1);
                self.open_refs.pop();
                // Words beside a reference belong to this place.
                if let (Some(_), Some(_), Some(old), Some(new)) =
                    (refs.0, refs.1, fields(old), fields(new))
                {
                    self.words(old, new, at);
                }
            }
            _ if refs.0 == refs.1 => {}
            _ => {
                let what = "reference changed to or from one that cannot be followed".to_owned();
                self.find(pointer(at, "$ref"), Relation::Different, what);
            }
        }
    }

    fn resolved(&mut self, old: &'v Value, new: &'v Value, at: &str, depth: usize) {
        let (Some(old_fields), Some(new_fields)) = (fields(old), fields(new)) else {
            // `false` accepts nothing.
            match (old == &Value::Bool(false), new == &Value::Bool(false)) {
                (true, false) => {
                    self.find(at.to_owned(), Relation::Wider, "now allowed".to_owned());
                }
                (false, true) => {
                    self.find(
                        at.to_owned(),
                        Relation::Narrower,
                        "no longer allowed".to_owned(),
                    );
                }
                _ => {}
            }
            return;
        };
        if old_fields
            .get("anyOf")
            .or(old_fields.get("oneOf"))
            .is_some()
            || new_fields
                .get("anyOf")
                .or(new_fields.get("oneOf"))
                .is_some()
        {
            self.alternatives(old, new, at, depth);
            self.words(old_fields, new_fields, at);
            return;
        }
        self.types(old_fields, new_fields, at);
        self.values(old_fields, new_fields, at);
        self.bounds(old_fields, new_fields, at);
        self.object(old, new, at, depth);
        self.items(old_fields, new_fields, at, depth);
        self.rest(old, new, at);
        self.words(old_fields, new_fields, at);
    }

    /// `anyOf`, `oneOf`: each branch of one side must lie within some branch of the other.
    fn alternatives(&mut self, old: &'v Value, new: &'v Value, at: &str, depth: usize) {
        let (old, new) = (branches(old), branches(new));
        let old_within = old.iter().all(|old| {
            new.iter()
                .any(|new| self.relates(old, new, depth, Relation::Wider))
        });
        let new_within = new.iter().all(|new| {
            old.iter()
                .any(|old| self.relates(old, new, depth, Relation::Narrower))
        });
        let (relation, what) = match (old_within, new_within) {
            (true, true) => return,
            (true, false) => (Relation::Wider, "accepts further alternatives"),
            (false, true) => (Relation::Narrower, "accepts fewer alternatives"),
            (false, false) => (Relation::Different, "alternatives changed"),
        };
        self.find(at.to_owned(), relation, what.to_owned());
    }

    /// Whether `new` is the same as `old`, or differs in this one way only.
    fn relates(&mut self, old: &'v Value, new: &'v Value, depth: usize, way: Relation) -> bool {
        let outside = std::mem::take(&mut self.findings);
        self.schema(old, new, "", depth + 1);
        let found = std::mem::replace(&mut self.findings, outside);
        found.iter().all(|finding| {
            [way, Relation::Reworded, Relation::Harmless].contains(&finding.relation)
        })
    }

    fn types(&mut self, old: &Map<String, Value>, new: &Map<String, Value>, at: &str) {
        let (before, after) = (types(old), types(new));
        if before == after {
            return;
        }
        let relation = match (before & after == after, before & after == before) {
            (true, _) => Relation::Narrower,
            (_, true) => Relation::Wider,
            _ => Relation::Different,
        };
        let shown = |fields: &Map<String, Value>| match fields.get("type") {
            None => "any".to_owned(),
            Some(Value::String(one)) => one.clone(),
            Some(several) => several.to_string(),
        };
        let what = format!("type changed from {} to {}", shown(old), shown(new));
        self.find(pointer(at, "type"), relation, what);
    }

    /// `enum` and `const`.
    fn values(&mut self, old: &Map<String, Value>, new: &Map<String, Value>, at: &str) {
        let at = pointer(
            at,
            if old.contains_key("const") || new.contains_key("const") {
                "const"
            } else {
                "enum"
            },
        );
        match (values(old), values(new)) {
            (None, None) => {}
            (Some(_), None) => self.find(
                at,
                Relation::Wider,
                "no longer limited to given values".to_owned(),
            ),
            (None, Some(_)) => self.find(
                at,
                Relation::Narrower,
                "now limited to given values".to_owned(),
            ),
            (Some(old), Some(new)) => {
                for gone in old.difference(&new) {
                    self.find(
                        at.clone(),
                        Relation::Narrower,
                        format!("value {gone} removed"),
                    );
                }
                for added in new.difference(&old) {
                    self.find(at.clone(), Relation::Wider, format!("value {added} added"));
                }
            }
        }
    }

    /// Numbers that limit from below or above.
    fn bounds(&mut self, old: &Map<String, Value>, new: &Map<String, Value>, at: &str) {
        const LOWER: [&str; 6] = [
            "minimum",
            "exclusiveMinimum",
            "minLength",
            "minItems",
            "minProperties",
            "minContains",
        ];
        const UPPER: [&str; 6] = [
            "maximum",
            "exclusiveMaximum",
            "maxLength",
            "maxItems",
            "maxProperties",
            "maxContains",
        ];
        let limits = LOWER
            .map(|key| (key, true))
            .into_iter()
            .chain(UPPER.map(|key| (key, false)));
        for (key, is_lower) in limits {
            let get = |fields: &Map<String, Value>| fields.get(key).and_then(Value::as_f64);
            let (relation, what) = match (get(old), get(new)) {
                (None, Some(after)) => (Relation::Narrower, format!("{key} {after} added")),
                (Some(before), None) => (Relation::Wider, format!("{key} {before} removed")),
                (Some(before), Some(after)) if before.total_cmp(&after).is_ne() => {
                    let is_narrower = (after > before) == is_lower;
                    let relation = if is_narrower {
                        Relation::Narrower
                    } else {
                        Relation::Wider
                    };
                    (relation, format!("{key} changed from {before} to {after}"))
                }
                _ => continue,
            };
            self.find(pointer(at, key), relation, what);
        }
    }

    /// `properties`, `required`, `additionalProperties`.
    fn object(&mut self, old: &'v Value, new: &'v Value, at: &str, depth: usize) {
        let nothing = &Value::Null;
        let part = |schema: &'v Value, key: &str| schema.get(key).unwrap_or(nothing);
        let (old_properties, new_properties) = (part(old, "properties"), part(new, "properties"));
        let inside = pointer(at, "properties");
        let new_is_closed = part(new, "additionalProperties") == &Value::Bool(false);
        for key in keys(old_properties, new_properties) {
            let here = pointer(&inside, key);
            match (old_properties.get(key), new_properties.get(key)) {
                (Some(old), Some(new)) => self.schema(old, new, &here, depth + 1),
                (Some(_), None) if new_is_closed && self.direction == Direction::Input => {
                    self.find(
                        here,
                        Relation::Narrower,
                        format!("{key} removed and no longer accepted"),
                    );
                }
                // In a result a guaranteed field is in `required` as well and found there.
                (Some(_), None) => self.find(here, Relation::Reworded, format!("{key} removed")),
                _ => self.find(here, Relation::Harmless, format!("{key} added")),
            }
        }

        let required = pointer(at, "required");
        let (before, after) = (
            strings(part(old, "required")),
            strings(part(new, "required")),
        );
        for key in after.difference(&before) {
            self.find(
                required.clone(),
                Relation::Narrower,
                format!("{key} is now required"),
            );
        }
        for key in before.difference(&after) {
            self.find(
                required.clone(),
                Relation::Wider,
                format!("{key} is no longer required"),
            );
        }

        let here = pointer(at, "additionalProperties");
        let is_open = |value: &Value| {
            value.is_null() || value == &Value::Bool(true) || value == &Value::Object(Map::new())
        };
        let (before, after) = (
            part(old, "additionalProperties"),
            part(new, "additionalProperties"),
        );
        match (before, after) {
            _ if is_open(before) && is_open(after) => {}
            // Properties that nobody named were never promised a meaning: no more than risky.
            (_, Value::Bool(false)) if before != after => {
                self.find(
                    here,
                    Relation::Reworded,
                    "further properties are no longer accepted".to_owned(),
                );
            }
            (Value::Bool(false), _) if before != after => {
                let relation = match self.direction {
                    Direction::Input => Relation::Harmless,
                    Direction::Output => Relation::Reworded,
                };
                self.find(
                    here,
                    relation,
                    "further properties are now accepted".to_owned(),
                );
            }
            (Value::Object(_), Value::Object(_)) => self.schema(before, after, &here, depth + 1),
            _ if is_open(before) => self.find(
                here,
                Relation::Narrower,
                "further properties are now limited".to_owned(),
            ),
            _ if is_open(after) => self.find(
                here,
                Relation::Wider,
                "further properties are no longer limited".to_owned(),
            ),
            _ => {}
        }
    }

    fn items(
        &mut self,
        old: &'v Map<String, Value>,
        new: &'v Map<String, Value>,
        at: &str,
        depth: usize,
    ) {
        let here = pointer(at, "items");
        match (old.get("items"), new.get("items")) {
            (Some(old), Some(new)) => self.schema(old, new, &here, depth + 1),
            (Some(_), None) => self.find(
                here,
                Relation::Wider,
                "elements are no longer limited".to_owned(),
            ),
            (None, Some(_)) => self.find(
                here,
                Relation::Narrower,
                "elements are now limited".to_owned(),
            ),
            (None, None) => {}
        }
    }

    /// Keywords that limit and whose values cannot be ordered.
    fn rest(&mut self, old: &'v Value, new: &'v Value, at: &str) {
        const LIMITS: [&str; 17] = [
            "pattern",
            "multipleOf",
            "uniqueItems",
            "allOf",
            "not",
            "if",
            "then",
            "else",
            "prefixItems",
            "contains",
            "patternProperties",
            "propertyNames",
            "dependentRequired",
            "dependentSchemas",
            "unevaluatedProperties",
            "unevaluatedItems",
            "$dynamicRef",
        ];
        for key in LIMITS {
            // `uniqueItems: false` says nothing; elsewhere `false` is a schema that nothing fits.
            let says = |value: &&Value| key != "uniqueItems" || **value == Value::Bool(true);
            let get = |schema: &'v Value| schema.get(key).filter(says);
            let (relation, what) = match (get(old), get(new)) {
                (before, after) if before == after => continue,
                (None, _) => (Relation::Narrower, format!("{key} added")),
                (_, None) => (Relation::Wider, format!("{key} removed")),
                _ => (Relation::Different, format!("{key} changed")),
            };
            self.find(pointer(at, key), relation, what);
        }
    }

    /// Keywords that limit nothing and that a model or a form reads.
    fn words(&mut self, old: &Map<String, Value>, new: &Map<String, Value>, at: &str) {
        for (key, relation) in [
            ("description", Relation::Reworded),
            ("default", Relation::Reworded),
            ("format", Relation::Reworded),
            ("deprecated", Relation::Reworded),
            ("x-mcp-header", Relation::Reworded),
            ("title", Relation::Harmless),
            ("examples", Relation::Harmless),
        ] {
            if old.get(key) != new.get(key) {
                self.find(pointer(at, key), relation, format!("{key} changed"));
            }
        }
    }
}

/// The keywords of a schema; none of `true` and of what is no schema, and no map of `false`.
fn fields(schema: &Value) -> Option<&Map<String, Value>> {
    static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    match schema {
        Value::Object(fields) => Some(fields),
        Value::Bool(false) => None,
        _ => Some(&NONE),
    }
}

/// `$ref`, also as the only part of `allOf`, which is how some generators put words beside it.
fn reference(schema: &Value) -> Option<&str> {
    let holder = match schema
        .get("allOf")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
    {
        Some([only]) => only,
        _ => schema,
    };
    holder.get("$ref").and_then(Value::as_str)
}

/// The schema itself, or what its local `$ref` points at.
fn resolve<'v>(root: &'v Value, schema: &'v Value) -> Option<&'v Value> {
    match reference(schema) {
        None => Some(schema),
        Some(target) => root.pointer(target.strip_prefix('#')?),
    }
}

fn branches(schema: &Value) -> Vec<&Value> {
    let listed = schema.get("anyOf").or_else(|| schema.get("oneOf"));
    match listed.and_then(Value::as_array) {
        Some(listed) => listed.iter().collect(),
        None => vec![schema],
    }
}

/// The types as bits: a number is an integer or a fraction.
fn types(fields: &Map<String, Value>) -> u8 {
    let bit = |name: &Value| match name.as_str() {
        Some("null") => 1,
        Some("boolean") => 2,
        Some("integer") => 4,
        Some("number") => 4 | 8,
        Some("string") => 16,
        Some("array") => 32,
        Some("object") => 64,
        _ => 128,
    };
    match fields.get("type") {
        None => 127,
        Some(Value::Array(several)) => several.iter().map(bit).fold(0, |all, one| all | one),
        Some(one) => bit(one),
    }
}

/// The values that `const` or `enum` allow, as JSON texts.
fn values(fields: &Map<String, Value>) -> Option<BTreeSet<String>> {
    if let Some(only) = fields.get("const") {
        return Some(BTreeSet::from([only.to_string()]));
    }
    let listed = fields.get("enum")?.as_array()?;
    Some(listed.iter().map(Value::to_string).collect())
}

fn strings(list: &Value) -> BTreeSet<&str> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).collect()
}
