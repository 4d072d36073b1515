//! What is wrong with a rule, and the rule as the engine takes it: with our own operators in place of the engine's.

use super::{engine::Reads, fractional::WEIGHTS_MAX, operators, version};
use crate::flag::Problem;
use datalogic_rs::datavalue::OwnedDataValue;
use serde_json::{Map, Value};

/// Deepest rule, in objects and lists within each other: far from the end of any stack, and below the limit of the JSON parser,
/// whose refusal would not say where.
pub const RULE_LEVELS_MAX: usize = 64;
/// Largest rule, in values: a list of 10,000 users fits.
pub const RULE_VALUES_MAX: usize = 20_000;
/// After so many problems nobody reads on.
const PROBLEMS_MAX: usize = 20;

/// The operators that rules may use, with the fewest and the most arguments of each.
pub(crate) const OPERATORS: &[(&str, usize, usize)] = &[
    ("!", 1, 1),
    ("!!", 1, 1),
    ("!=", 2, 2),
    ("!==", 2, 2),
    ("%", 2, 2),
    ("*", 2, MANY),
    ("+", 1, MANY),
    ("-", 1, 2),
    ("/", 2, 2),
    ("<", 2, 3),
    ("<=", 2, 3),
    ("==", 2, 2),
    ("===", 2, 2),
    (">", 2, 3),
    (">=", 2, 3),
    ("?:", 1, MANY),
    ("all", 2, 2),
    ("and", 1, MANY),
    ("cat", 1, MANY),
    ("ends_with", 2, 2),
    ("filter", 2, 2),
    ("fractional", 1, MANY),
    ("if", 1, MANY),
    ("in", 2, 2),
    ("map", 2, 2),
    ("max", 1, MANY),
    ("merge", 1, MANY),
    ("min", 1, MANY),
    ("missing", 0, MANY),
    ("missing_some", 2, 2),
    ("none", 2, 2),
    ("or", 1, MANY),
    ("reduce", 2, 3),
    ("sem_ver", 3, 3),
    ("some", 2, 2),
    ("starts_with", 2, 2),
    ("substr", 2, 3),
    ("var", 0, 2),
];
const MANY: usize = usize::MAX;

/// Those that the engine runs itself.
const NATIVE: [&str; 14] = [
    "!", "!!", "?:", "all", "and", "filter", "if", "map", "missing", "none", "or", "reduce",
    "some", "var",
];
/// Those that go through a list.
const ITERATING: [&str; 6] = ["all", "filter", "map", "none", "reduce", "some"];
/// Ours, under the name that rules use.
const NAMED: [&str; 4] = ["ends_with", "fractional", "sem_ver", "starts_with"];

/// A variant that a rule names in so many words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Branch {
    /// Where in the rule.
    pub(crate) at: String,
    /// The variant.
    pub(crate) variant: String,
}

/// What became of a rule.
pub(super) struct Checked {
    /// For the engine; nothing where the rule cannot run.
    pub(super) compiled: Option<(OwnedDataValue, Reads)>,
    pub(super) problems: Vec<Problem>,
    pub(super) branches: Vec<Branch>,
}

pub(super) fn check(rule: &Value) -> Checked {
    let mut check = Check::default();
    if !rule.is_object() {
        check.refuse(
            "a rule is an object",
            "write `{\"if\": [...]}`, or leave `targeting` out",
        );
    }
    let logic = check.value(rule, 1);
    if !check.is_refused {
        check.branch(rule);
    }
    Checked {
        compiled: (!check.is_refused).then_some((logic, check.reads)),
        problems: check.problems,
        branches: check.branches,
    }
}

#[derive(Default)]
struct Check {
    at: Vec<Step>,
    values: usize,
    /// Lists that are gone through around here: variables are those of an element then.
    loops: usize,
    reads: Reads,
    problems: Vec<Problem>,
    branches: Vec<Branch>,
    /// It cannot run.
    is_refused: bool,
}

enum Step {
    Name(String),
    Index(usize),
}

impl Check {
    fn position(&self) -> String {
        let mut text = String::new();
        for step in &self.at {
            match step {
                Step::Name(name) if text.is_empty() => text.push_str(name),
                Step::Name(name) => text.push_str(&format!(".{name}")),
                Step::Index(index) => text.push_str(&format!("[{index}]")),
            }
        }
        text
    }

    /// Notes what people should mend although the rule can run.
    fn warn(&mut self, what: impl Into<String>, help: impl Into<String>) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem {
                at: self.position(),
                what: what.into(),
                help: help.into(),
            });
        }
    }

    /// Notes what the rule cannot run with.
    fn refuse(&mut self, what: impl Into<String>, help: impl Into<String>) {
        self.warn(what, help);
        self.is_refused = true;
    }

    fn within<R>(&mut self, step: Step, inner: impl FnOnce(&mut Self) -> R) -> R {
        self.at.push(step);
        let result = inner(self);
        self.at.pop();
        result
    }

    /// A value as the engine takes it.
    fn value(&mut self, value: &Value, level: usize) -> OwnedDataValue {
        self.values += 1;
        if self.values > RULE_VALUES_MAX {
            if self.values == RULE_VALUES_MAX + 1 {
                self.refuse(
                    format!("the rule has more than {RULE_VALUES_MAX} values"),
                    "compare an attribute of the callers instead of listing them all",
                );
            }
            return OwnedDataValue::Null;
        }
        if level > RULE_LEVELS_MAX && (value.is_array() || value.is_object()) {
            self.refuse(
                format!("the rule is deeper than {RULE_LEVELS_MAX} levels"),
                "write else-branches one after the other: `{\"if\": [a, x, b, y, z]}`",
            );
            return OwnedDataValue::Null;
        }
        match value {
            Value::Null => OwnedDataValue::Null,
            Value::Bool(bool) => OwnedDataValue::Bool(*bool),
            Value::Number(number) => OwnedDataValue::Number(super::engine::number_value(number)),
            Value::String(text) => OwnedDataValue::String(text.clone()),
            Value::Array(items) => OwnedDataValue::Array(self.items(items, level)),
            Value::Object(map) => self.operation(map, level),
        }
    }

    fn items(&mut self, items: &[Value], level: usize) -> Vec<OwnedDataValue> {
        let item = |(n, item)| self.within(Step::Index(n), |check| check.value(item, level + 1));
        items.iter().enumerate().map(item).collect()
    }

    fn operation(&mut self, map: &Map<String, Value>, level: usize) -> OwnedDataValue {
        let mut names = map.iter();
        let (Some((name, args)), None) = (names.next(), names.next()) else {
            if map.is_empty() && level == 1 {
                return OwnedDataValue::Null;
            }
            self.refuse(
                "an object with one operator was expected here",
                "write `{\"operator\": [arguments]}`; objects are no values in a rule",
            );
            return OwnedDataValue::Null;
        };
        let Some((name, min, max)) = OPERATORS.iter().find(|(known, ..)| known == name).copied()
        else {
            let brief = |name: &str| name.chars().take(80).collect::<String>();
            if name == "$ref" {
                let missing = brief(args.as_str().unwrap_or(name));
                self.refuse(
                    format!("there is no evaluator `{missing}` to put here"),
                    "define it under `$evaluators` of the document, and not by itself",
                );
                return OwnedDataValue::Null;
            }
            let names: Vec<_> = OPERATORS.iter().map(|(name, ..)| *name).collect();
            self.refuse(
                format!("there is no operator `{}`", brief(name)),
                format!("the operators are {}", names.join(", ")),
            );
            return OwnedDataValue::Null;
        };
        self.within(Step::Name(name.to_owned()), |check| {
            let (args, level) = match args {
                Value::Array(args) => (args.as_slice(), level + 1),
                arg => (std::slice::from_ref(arg), level),
            };
            if !(min..=max).contains(&args.len()) {
                check.warn(
                    format!("`{name}` has {} arguments", args.len()),
                    arguments_help(name, min, max),
                );
            }
            check.arguments(name, args, level)
        })
    }

    fn arguments(&mut self, name: &str, args: &[Value], level: usize) -> OwnedDataValue {
        match name {
            "var" => return self.variable(args, level),
            "missing" => {
                if let Some(names) = literal_names(args) {
                    return call(operators::MISSING, self.named_values(names));
                }
                self.reads.everything = true;
            }
            "missing_some" => return self.missing_some(args, level),
            "fractional" => self.shares(args),
            "sem_ver" => self.comparison(args),
            _ => {}
        }
        if ITERATING.contains(&name) {
            return self.iteration(name, args, level);
        }
        let args = self.items(args, level);
        if NATIVE.contains(&name) || NAMED.contains(&name) {
            return call(name, args);
        }
        call(&format!("{}{name}", operators::OURS), args)
    }

    /// The list is counted before it is gone through.
    fn iteration(&mut self, name: &str, args: &[Value], level: usize) -> OwnedDataValue {
        let Some((list, rest)) = args.split_first() else {
            self.refuse(
                format!("`{name}` has no list"),
                "write the list first, then what to do with each element",
            );
            return OwnedDataValue::Null;
        };
        if rest.is_empty() {
            self.refuse(
                format!("`{name}` does not say what to do with each element"),
                "write it as the second argument; `{\"var\": \"\"}` is the element",
            );
            return OwnedDataValue::Null;
        }
        let list = self.within(Step::Index(0), |check| check.value(list, level + 1));
        let mut all = vec![call(operators::LIST, vec![list])];
        for (n, arg) in rest.iter().enumerate() {
            // What `reduce` starts with is not of an element.
            let is_inner = n == 0;
            self.loops += usize::from(is_inner);
            let value = self.within(Step::Index(n + 1), |check| check.value(arg, level + 1));
            let is_kept = is_inner && ["map", "reduce"].contains(&name);
            all.push(if is_kept {
                call(operators::MADE, vec![value])
            } else {
                value
            });
            self.loops -= usize::from(is_inner);
        }
        call(name, all)
    }

    fn variable(&mut self, args: &[Value], level: usize) -> OwnedDataValue {
        let args = match args {
            // As if the inner list were the arguments.
            [Value::Array(inner)] => inner.as_slice(),
            args => args,
        };
        let name = args.first();
        let variable = match name {
            None | Some(Value::Null) => self.named_value(""),
            Some(Value::String(name)) => self.named_value(name),
            Some(Value::Number(index)) => self.named_value(&index.to_string()),
            Some(computed) => {
                self.reads.everything = true;
                let computed =
                    self.within(Step::Index(0), |check| check.value(computed, level + 1));
                call("var", vec![computed])
            }
        };
        match args.get(1) {
            None => variable,
            Some(default) => {
                let default = self.within(Step::Index(1), |check| check.value(default, level + 1));
                call(operators::DEFAULT, vec![variable, default])
            }
        }
    }

    fn named_value(&mut self, name: &str) -> OwnedDataValue {
        if self.loops == 0 {
            self.read(name);
        }
        match name.strip_prefix("$serin.share.") {
            // The names of services may hold dots.
            Some(service) => call("val", ["$serin", "share", service].map(text).to_vec()),
            None => call("var", vec![text(name)]),
        }
    }

    fn read(&mut self, name: &str) {
        let first = name.split('.').next().unwrap_or_default();
        if name.is_empty() {
            self.reads.everything = true;
        } else {
            self.reads.names.insert(first.into());
        }
        let known = match first {
            "$flagd" => ["$flagd.timestamp", "$flagd.flagKey"].contains(&name),
            "$serin" => {
                name.strip_prefix("$serin.share.")
                    .is_some_and(|service| !service.is_empty())
                    || ["$serin.environment", "$serin.tenant"].contains(&name)
            }
            _ => return,
        };
        if !known {
            self.warn(
                format!("there is no `{name}`"),
                "there are $flagd.timestamp, $flagd.flagKey, $serin.environment, $serin.tenant and $serin.share.SERVICE",
            );
        }
    }

    fn named_values<'v>(
        &mut self,
        names: impl IntoIterator<Item = &'v str>,
    ) -> Vec<OwnedDataValue> {
        let pair = |name| [text(name), self.named_value(name)];
        names.into_iter().flat_map(pair).collect()
    }

    fn missing_some(&mut self, args: &[Value], level: usize) -> OwnedDataValue {
        let names = match args {
            [_, Value::Array(names)] => literal_names(names),
            _ => None,
        };
        let Some(names) = names else {
            self.refuse(
                "`missing_some` needs a number and a list of names",
                "write `{\"missing_some\": [1, [\"a\", \"b\"]]}`",
            );
            return OwnedDataValue::Null;
        };
        let need = self.within(Step::Index(0), |check| check.value(&args[0], level + 1));
        let mut all = vec![need];
        all.extend(self.named_values(names));
        call(operators::MISSING_SOME, all)
    }

    /// The weights of `fractional`, as far as they are written.
    fn shares(&mut self, args: &[Value]) {
        let mut sum = 0_u64;
        let mut is_written = true;
        for (n, share) in args.iter().enumerate() {
            self.at.push(Step::Index(n));
            match share {
                Value::Array(share) => match self.weight(share) {
                    Some(weight) => sum = sum.saturating_add(weight),
                    None => is_written = false,
                },
                Value::Object(_) => is_written &= n == 0,
                _ if n == 0 => self.warn(
                    "everybody has this key",
                    "begin with what tells callers apart, such as {\"var\": \"targetingKey\"}, or leave it out",
                ),
                _ => {
                    is_written = false;
                    self.warn("a share is a list", "write `[\"variant\", 50]`");
                }
            }
            self.at.pop();
        }
        if sum > WEIGHTS_MAX {
            self.warn(
                format!("the weights sum up to {sum}, more than {WEIGHTS_MAX}"),
                "use smaller weights: only their ratios matter",
            );
        } else if is_written && sum == 0 {
            self.warn(
                "the weights sum up to 0",
                "give at least one variant a weight",
            );
        }
    }

    /// The weight of a share; nothing where it is computed or none.
    fn weight(&mut self, share: &[Value]) -> Option<u64> {
        const HELP: &str = "weights are whole numbers from 0; write `[\"variant\", 50]`";
        match share {
            [_] => Some(1),
            [_, Value::Object(_)] => None,
            [_, weight] => {
                if weight.as_u64().is_none() {
                    let weight: String = weight.to_string().chars().take(80).collect();
                    self.warn(format!("{weight} is no weight"), HELP);
                }
                weight.as_u64()
            }
            _ => {
                self.warn(format!("a share has {} parts", share.len()), HELP);
                None
            }
        }
    }

    /// How `sem_ver` compares, where it is written.
    fn comparison(&mut self, args: &[Value]) {
        if let Some(Value::String(comparison)) = args.get(1)
            && !version::COMPARISONS.contains(&comparison.as_str())
        {
            let shown: String = comparison.chars().take(80).collect();
            self.at.push(Step::Index(1));
            self.warn(
                format!("`{shown}` does not compare versions"),
                format!("use one of {}", version::COMPARISONS.join(" ")),
            );
            self.at.pop();
        }
    }

    /// Collects the variants that a rule may answer and that are written out. Called for rules that can run only, whose depth is
    /// bounded therefore.
    fn branch(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.found(text.clone()),
            Value::Bool(bool) => self.found(bool.to_string()),
            Value::Number(number) => {
                self.found(super::number::variant(super::engine::number_value(number)));
            }
            Value::Object(map) => {
                for (name, args) in map {
                    let args = match args {
                        Value::Array(args) => args.as_slice(),
                        arg => std::slice::from_ref(arg),
                    };
                    self.within(Step::Name(name.clone()), |check| {
                        check.branches_of(name, args);
                    });
                }
            }
            Value::Null | Value::Array(_) => {}
        }
    }

    fn branches_of(&mut self, name: &str, args: &[Value]) {
        let last = args.len().saturating_sub(1);
        for (n, arg) in args.iter().enumerate() {
            let is_answer = match name {
                // With one argument it answers a condition.
                "if" | "?:" => last > 0 && (n % 2 == 1 || n == last),
                "fractional" => {
                    if let Some(variant) = arg.as_array().and_then(|share| share.first()) {
                        self.within(Step::Index(n), |check| {
                            check.within(Step::Index(0), |check| check.branch(variant));
                        });
                    }
                    false
                }
                "and" | "or" => n == last,
                _ => false,
            };
            if is_answer {
                self.within(Step::Index(n), |check| check.branch(arg));
            }
        }
    }

    fn found(&mut self, variant: String) {
        let at = self.position();
        self.branches.push(Branch { at, variant });
    }
}

fn arguments_help(name: &str, min: usize, max: usize) -> String {
    let count = match (min, max) {
        (min, MANY) => format!("at least {min}"),
        (min, max) if min == max => min.to_string(),
        (min, max) => format!("{min} to {max}"),
    };
    format!("`{name}` takes {count}")
}

/// Names that are written out: as arguments, or as one list of them.
fn literal_names(args: &[Value]) -> Option<Vec<&str>> {
    let names = match args {
        [Value::Array(names)] => names.as_slice(),
        names => names,
    };
    names.iter().map(Value::as_str).collect()
}

fn text(text: &str) -> OwnedDataValue {
    OwnedDataValue::String(text.to_owned())
}

fn call(name: &str, args: Vec<OwnedDataValue>) -> OwnedDataValue {
    OwnedDataValue::Object(vec![(name.to_owned(), OwnedDataValue::Array(args))])
}
