//! flagd's own schemas (`flags.json`, `flagd.json`, `targeting.json`, version 0) as code. Our reading of documents
//! ([`document`](crate::document)) is stricter about flags and milder about rules.

use crate::flag::Problem;
use serde_json::{Map, Value};

/// Deepest document that is looked into, in objects and lists within each other: as deep as the JSON parser goes.
const LEVELS_MAX: usize = 128;
/// After so many problems nobody reads on.
const PROBLEMS_MAX: usize = 50;

/// One of flagd's schemas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// Flags for providers: a map.
    Flags,
    /// Flags for the daemon: a map or a list.
    Flagd,
    /// One rule.
    Targeting,
}

impl Schema {
    /// What does not fit; nothing where all does.
    pub fn problems(self, document: &Value) -> Vec<Problem> {
        let mut found = self.check(document);
        found.problems.append(&mut found.of_rules);
        found.problems
    }

    /// The same, in two parts.
    pub(crate) fn check(self, document: &Value) -> Check {
        let mut check = Check::default();
        match self {
            Self::Targeting => check.targeting(document, ""),
            Self::Flags | Self::Flagd => check.document(document, self == Self::Flagd),
        }
        check
    }
}

/// What does not fit.
#[derive(Default)]
pub(crate) struct Check {
    /// In the document around the rules.
    pub(crate) problems: Vec<Problem>,
    /// In rules.
    pub(crate) of_rules: Vec<Problem>,
    in_rule: bool,
}

impl Check {
    fn problem(&mut self, at: &str, what: impl Into<String>, help: &str) {
        let problems = if self.in_rule {
            &mut self.of_rules
        } else {
            &mut self.problems
        };
        if problems.len() < PROBLEMS_MAX {
            problems.push(Problem::new(at, what, help));
        }
    }

    fn document(&mut self, document: &Value, lists: bool) {
        let Some(root) = document.as_object() else {
            self.problem(
                "",
                "a document of flags is an object",
                "write `{\"flags\": {...}}`",
            );
            return;
        };
        match root.get("flags") {
            Some(Value::Object(flags)) => {
                for (key, flag) in flags {
                    self.flag(flag, &format!("flags.{key}"));
                }
            }
            Some(Value::Array(flags)) if lists => {
                for (n, flag) in flags.iter().enumerate() {
                    let at = format!("flags[{n}]");
                    if flag
                        .get("key")
                        .and_then(Value::as_str)
                        .is_none_or(str::is_empty)
                    {
                        self.problem(&at, "it has no key", "write `\"key\": \"...\"`");
                    }
                    self.flag(flag, &at);
                }
            }
            _ => self.problem(
                "flags",
                "it is no object",
                "write `\"flags\": {\"KEY\": {...}}`",
            ),
        }
        if let Some(metadata) = root.get("metadata") {
            self.metadata(metadata, "metadata");
            for name in ["flagSetId", "version"] {
                if metadata.get(name).is_some_and(|value| !value.is_string()) {
                    self.problem(
                        &format!("metadata.{name}"),
                        "it is no text",
                        "put it in quotes",
                    );
                }
            }
        }
        match root.get("$evaluators") {
            None => {}
            Some(Value::Object(evaluators)) => {
                for (name, rule) in evaluators {
                    self.targeting(rule, &format!("$evaluators.{name}"));
                }
            }
            Some(_) => self.problem(
                "$evaluators",
                "it is no object",
                "write `{\"NAME\": {rule}}`",
            ),
        }
    }

    fn flag(&mut self, flag: &Value, at: &str) {
        let Some(flag) = flag.as_object() else {
            self.problem(
                at,
                "a flag is an object",
                "write `{\"state\": \"ENABLED\", \"variants\": {...}}`",
            );
            return;
        };
        if !matches!(
            flag.get("state").and_then(Value::as_str),
            Some("ENABLED" | "DISABLED")
        ) {
            self.problem(
                &format!("{at}.state"),
                "it is neither ENABLED nor DISABLED",
                "write one of them",
            );
        }
        if flag
            .get("defaultVariant")
            .is_some_and(|name| !name.is_string() && !name.is_null())
        {
            self.problem(
                &format!("{at}.defaultVariant"),
                "it is no text",
                "name one of `variants`",
            );
        }
        match flag.get("variants") {
            Some(Value::Object(variants)) if !variants.is_empty() => self.variants(variants, at),
            _ => self.problem(
                &format!("{at}.variants"),
                "there are none",
                "write at least one, such as {\"on\": true, \"off\": false}",
            ),
        }
        if let Some(metadata) = flag.get("metadata") {
            self.metadata(metadata, &format!("{at}.metadata"));
        }
        if let Some(rule) = flag.get("targeting") {
            self.targeting(rule, &format!("{at}.targeting"));
        }
    }

    fn variants(&mut self, variants: &Map<String, Value>, at: &str) {
        let of_type: [fn(&Value) -> bool; 4] = [
            Value::is_boolean,
            Value::is_number,
            Value::is_string,
            Value::is_object,
        ];
        if !of_type.iter().any(|is_type| variants.values().all(is_type)) {
            self.problem(
                &format!("{at}.variants"),
                "their values are not of one type",
                "give all of them booleans, numbers, texts or objects",
            );
        }
        if variants.contains_key("") {
            self.problem(
                &format!("{at}.variants"),
                "a variant has no name",
                "name it",
            );
        }
    }

    fn metadata(&mut self, metadata: &Value, at: &str) {
        let Some(metadata) = metadata.as_object() else {
            self.problem(at, "it is no object", "write `{\"name\": \"value\"}`");
            return;
        };
        for (name, value) in metadata {
            if !value.is_string() && !value.is_number() && !value.is_boolean() {
                self.problem(
                    &format!("{at}.{name}"),
                    "it is no text, number or boolean",
                    "flagd allows no others in metadata",
                );
            }
        }
    }

    fn targeting(&mut self, rule: &Value, at: &str) {
        self.in_rule = true;
        match rule.as_object() {
            Some(map) if map.is_empty() => {}
            Some(map) => self.rule(map, at, 1),
            None => self.problem(at, "a rule is an object", "write `{\"if\": [...]}`"),
        }
        self.in_rule = false;
    }

    fn rule(&mut self, rule: &Map<String, Value>, at: &str, level: usize) {
        if level > LEVELS_MAX {
            return self.problem(at, "it is too deep", "write it with fewer levels");
        }
        let mut names = rule.iter();
        let (Some((name, args)), None) = (names.next(), names.next()) else {
            return self.problem(
                at,
                "it has not one operator",
                "write `{\"operator\": [arguments]}`",
            );
        };
        let at = if at.is_empty() {
            name.clone()
        } else {
            format!("{at}.{name}")
        };
        let level = level + 1;
        match name.as_str() {
            "var" => self.variable(args, &at),
            "missing" => self.names(args, &at),
            "missing_some" => match args.as_array().map(Vec::as_slice) {
                Some([Value::Number(_), names]) => self.names(names, &format!("{at}[1]")),
                _ => self.problem(
                    &at,
                    "it takes a number and a list of names",
                    "write `[1, [\"a\", \"b\"]]`",
                ),
            },
            "!" | "!!" => match args {
                Value::Array(_) => self.list(args, &at, 1, 1, level),
                arg => self.argument(arg, &at, level),
            },
            "==" | "===" | "!=" | "!==" | ">" | ">=" | "%" | "/" | "map" | "filter" | "all"
            | "none" | "some" | "in" => self.list(args, &at, 2, 2, level),
            "substr" | "<" | "<=" => self.list(args, &at, 2, 3, level),
            "reduce" => self.list(args, &at, 3, 3, level),
            "*" => self.list(args, &at, 2, usize::MAX, level),
            "if" | "or" | "and" | "+" | "-" | "max" | "min" | "merge" | "cat" => {
                self.list(args, &at, 1, usize::MAX, level);
            }
            "starts_with" | "ends_with" => self.texts(args, &at, level),
            "sem_ver" => self.versions(args, &at),
            "fractional" => self.shares(args, &at, level),
            _ => self.problem(
                &at,
                "flagd has no such operator",
                "see https://flagd.dev/reference/custom-operations",
            ),
        }
    }

    fn variable(&mut self, args: &Value, at: &str) {
        if args.as_str().is_some_and(|name| {
            name.starts_with("$flagd.") && !["$flagd.timestamp", "$flagd.flagKey"].contains(&name)
        }) {
            self.problem(
                at,
                "flagd has no such property",
                "there are $flagd.timestamp and $flagd.flagKey",
            );
        }
        if let Value::Array(args) = args
            && !args.first().is_some_and(Value::is_string)
        {
            self.problem(at, "it names nothing", "write `[\"name\", default]`");
        }
    }

    fn names(&mut self, names: &Value, at: &str) {
        if !names
            .as_array()
            .is_some_and(|names| names.iter().all(Value::is_string))
        {
            self.problem(at, "it is no list of names", "write `[\"a\", \"b\"]`");
        }
    }

    fn list(&mut self, args: &Value, at: &str, min: usize, max: usize, level: usize) {
        let Some(args) = args.as_array() else {
            return self.problem(at, "its arguments are no list", "put them in brackets");
        };
        if !(min..=max).contains(&args.len()) {
            self.problem(
                at,
                format!("it has {} arguments", args.len()),
                "see https://jsonlogic.com/operations.html",
            );
        }
        for (n, arg) in args.iter().enumerate() {
            self.argument(arg, &format!("{at}[{n}]"), level);
        }
    }

    /// A rule, a reference, or anything that is no object.
    fn argument(&mut self, arg: &Value, at: &str, level: usize) {
        if let Value::Object(map) = arg
            && !is_reference(map)
        {
            self.rule(map, at, level);
        }
    }

    fn texts(&mut self, args: &Value, at: &str, level: usize) {
        self.list(args, at, 2, 2, level);
        for (n, arg) in args.as_array().into_iter().flatten().enumerate() {
            if !arg.is_string() && !arg.is_object() {
                self.problem(&format!("{at}[{n}]"), "it is no text", "put it in quotes");
            }
        }
    }

    fn versions(&mut self, args: &Value, at: &str) {
        let Some([left, comparison, right]) = args.as_array().map(Vec::as_slice) else {
            return self.problem(
                at,
                "it takes three arguments",
                "write `[{\"var\": \"version\"}, \">=\", \"1.2.0\"]`",
            );
        };
        for (n, version) in [(0, left), (2, right)] {
            let is_version = match version {
                Value::String(version) => version.parse::<semver::Version>().is_ok(),
                Value::Object(map) => map.len() == 1 && map.contains_key("var"),
                _ => false,
            };
            if !is_version {
                self.problem(
                    &format!("{at}[{n}]"),
                    "it is no version",
                    "write `1.2.0` or `{\"var\": \"version\"}`",
                );
            }
        }
        let known = ["=", "!=", ">", "<", ">=", "<=", "~", "^"];
        if !comparison
            .as_str()
            .is_some_and(|comparison| known.contains(&comparison))
        {
            self.problem(
                &format!("{at}[1]"),
                "it does not compare versions",
                "write one of = != > < >= <= ~ ^",
            );
        }
    }

    fn shares(&mut self, args: &Value, at: &str, level: usize) {
        let Some(args) = args.as_array().filter(|args| !args.is_empty()) else {
            return self.problem(
                at,
                "it has no shares",
                "write `[[\"on\", 10], [\"off\", 90]]`",
            );
        };
        for (n, arg) in args.iter().enumerate() {
            let at = format!("{at}[{n}]");
            match arg {
                Value::Object(rule) if n == 0 => self.rule(rule, &at, level),
                Value::Array(share) => self.share(share, &at, level),
                _ => self.problem(&at, "it is no share", "write `[\"variant\", 50]`"),
            }
        }
    }

    fn share(&mut self, share: &[Value], at: &str, level: usize) {
        match share {
            [variant] | [variant, _] => self.argument(variant, &format!("{at}[0]"), level),
            _ => {
                return self.problem(
                    at,
                    "a share has a variant and a weight",
                    "write `[\"variant\", 50]`",
                );
            }
        }
        match share.get(1) {
            None => {}
            Some(Value::Object(rule)) => self.rule(rule, &format!("{at}[1]"), level),
            Some(weight) if weight.as_u64().is_some() => {}
            Some(_) => self.problem(
                &format!("{at}[1]"),
                "it is no weight",
                "weights are whole numbers from 0",
            ),
        }
    }
}

fn is_reference(map: &Map<String, Value>) -> bool {
    map.len() == 1 && map.get("$ref").is_some_and(Value::is_string)
}
