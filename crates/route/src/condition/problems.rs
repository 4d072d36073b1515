//! What is wrong with a condition, for whoever takes rules from people.

use super::{
    Condition, DEPTH_MAX, NAME_BYTES_MAX, NETS_MAX, PARTS_MAX, REGEX_BYTES_MAX, TEXT_BYTES_MAX,
    TEXTS_MAX, Test, check::regex,
};
use crate::text::network_problem;
use http::{HeaderName, Method};
use ipnet::IpNet;
use std::collections::BTreeSet;

/// Something wrong with a condition, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, as a path such as `when.all[2].header.name`.
    pub at: String,
    /// What.
    pub what: String,
    /// What to do.
    pub help: String,
}

/// What is wrong with a condition that stands at `at`. Nothing is found in one that [`Matcher`](super::Matcher) understands and that is
/// of a size that requests can be asked for.
pub fn problems(condition: &Condition, at: &str) -> Vec<Problem> {
    let mut found = Found::default();
    found.condition(condition, at, 1);
    if found.parts > PARTS_MAX {
        let what = format!("a condition of {} parts is too large", found.parts);
        let help = format!(
            "write at most {PARTS_MAX}; `one_of` takes many texts in one part, and rules of their own may say the rest"
        );
        found.add(at, what, help);
    }
    found.problems
}

#[derive(Default)]
struct Found {
    problems: Vec<Problem>,
    parts: usize,
}

/// What a test is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Header,
    Cookie,
    Query,
    Path,
    Method,
    Host,
    /// Something that is a plain text and may be missing.
    Text,
}

impl Found {
    fn add(&mut self, at: &str, what: impl Into<String>, help: impl Into<String>) {
        self.problems.push(Problem {
            at: at.to_owned(),
            what: what.into(),
            help: help.into(),
        });
    }

    fn condition(&mut self, condition: &Condition, at: &str, depth: usize) {
        self.parts += 1;
        if depth > DEPTH_MAX {
            let help = format!("write it with at most {DEPTH_MAX} levels, or as several rules");
            return self.add(at, "this is nested too deep", help);
        }
        match condition {
            Condition::All(parts) => self.several(parts, &format!("{at}.all"), depth),
            Condition::Any(parts) => self.several(parts, &format!("{at}.any"), depth),
            Condition::Not(part) => self.condition(part, &format!("{at}.not"), depth + 1),
            Condition::Header(test) => self.test(test, Of::Header, &format!("{at}.header")),
            Condition::Cookie(test) => self.test(test, Of::Cookie, &format!("{at}.cookie")),
            Condition::Query(test) => self.test(test, Of::Query, &format!("{at}.query")),
            Condition::Path(test) => self.test(test, Of::Path, &format!("{at}.path")),
            Condition::Method(test) => self.test(test, Of::Method, &format!("{at}.method")),
            Condition::Host(test) => self.test(test, Of::Host, &format!("{at}.host")),
            Condition::Tenant(test) => self.test(test, Of::Text, &format!("{at}.tenant")),
            Condition::Role(test) => self.test(test, Of::Text, &format!("{at}.role")),
            Condition::Tool(test) => self.test(test, Of::Text, &format!("{at}.tool")),
            Condition::Address { within } => self.nets(within, &format!("{at}.address.within")),
        }
    }

    fn several(&mut self, parts: &[Condition], at: &str, depth: usize) {
        if parts.is_empty() {
            self.add(
                at,
                "there is no condition here",
                "write what must be so, such as `[{ tenant: { equals: acme } }]`, or leave it out",
            );
        }
        for (index, part) in parts.iter().enumerate() {
            self.condition(part, &format!("{at}[{index}]"), depth + 1);
        }
    }

    fn nets(&mut self, nets: &[IpNet], at: &str) {
        if nets.is_empty() {
            self.add(
                at,
                "there is no range of addresses here",
                "write one, such as `[10.0.0.0/8]`",
            );
        }
        if nets.len() > NETS_MAX {
            self.add(
                at,
                format!("{} ranges are too many", nets.len()),
                format!("write at most {NETS_MAX}; neighbours can be written as one"),
            );
        }
        let mut seen = BTreeSet::new();
        for (index, net) in nets.iter().enumerate() {
            let at = format!("{at}[{index}]");
            if let Some((what, help)) = network_problem(net) {
                self.add(&at, what, help);
            } else if !seen.insert(net) {
                self.add(
                    &at,
                    format!("`{net}` is here twice"),
                    "remove one of the two",
                );
            }
        }
    }

    fn test(&mut self, test: &Test, of: Of, at: &str) {
        self.name(test, of, at);
        let operators = [
            ("equals", test.equals.is_some()),
            ("prefix", test.prefix.is_some()),
            ("suffix", test.suffix.is_some()),
            ("matches", test.matches.is_some()),
            ("one_of", !test.one_of.is_empty()),
            ("present", test.present.is_some()),
        ];
        let said: Vec<_> = operators
            .iter()
            .filter(|(_, is_said)| *is_said)
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        match said.as_slice() {
            [] => self.add(
                at,
                "nothing is asked here",
                "write one of `equals`, `prefix`, `suffix`, `matches`, `one_of` and `present`",
            ),
            [_] => {}
            several => {
                let what = format!("{} stand in one test", several.join(" and "));
                self.add(
                    at,
                    what,
                    "write one of them, and the others as parts of `all: [..]`",
                );
            }
        }
        self.texts(test, of, at);
        self.case(test, of, at);
    }

    fn name(&mut self, test: &Test, of: Of, at: &str) {
        let (what, example) = match of {
            Of::Header => ("a header", "name: X-Beta-User"),
            Of::Cookie => ("a cookie", "name: beta"),
            Of::Query => ("a parameter", "name: version"),
            Of::Path | Of::Method | Of::Host | Of::Text => {
                if test.name.is_some() {
                    self.add(
                        &format!("{at}.name"),
                        "only headers, cookies and parameters have names",
                        "remove `name`",
                    );
                }
                return;
            }
        };
        let Some(name) = &test.name else {
            return self.add(
                at,
                format!("{what} without a name"),
                format!("write `{example}`"),
            );
        };
        let is_token = HeaderName::try_from(name.as_str()).is_ok();
        let is_name =
            !name.is_empty() && name.len() <= NAME_BYTES_MAX && (is_token || of == Of::Query);
        if !is_name {
            let what = format!("`{}` is not the name of {what}", short(name));
            let help = format!(
                "write up to {NAME_BYTES_MAX} letters, digits and `-_`, such as `{example}`"
            );
            self.add(&format!("{at}.name"), what, help);
        }
    }

    fn texts(&mut self, test: &Test, of: Of, at: &str) {
        for (field, text) in [
            ("equals", &test.equals),
            ("prefix", &test.prefix),
            ("suffix", &test.suffix),
        ] {
            if let Some(text) = text {
                self.text(text, field, of, &format!("{at}.{field}"));
            }
        }
        let mut seen = BTreeSet::new();
        let list = format!("{at}.one_of");
        if test.one_of.len() > TEXTS_MAX {
            self.add(
                &list,
                format!("{} texts are too many", test.one_of.len()),
                format!("write at most {TEXTS_MAX}"),
            );
        }
        for (index, text) in test.one_of.iter().enumerate() {
            let at = format!("{list}[{index}]");
            self.text(text, "one_of", of, &at);
            if !seen.insert(text) {
                self.add(
                    &at,
                    format!("`{}` is here twice", short(text)),
                    "remove one of the two",
                );
            }
        }
        if let Some(text) = &test.matches {
            self.regex(text, test.ignore_case, &format!("{at}.matches"));
        }
        if test.present.is_some() && matches!(of, Of::Path | Of::Method | Of::Host) {
            self.add(
                &format!("{at}.present"),
                "every request has one",
                "ask what it is, with `equals` or `prefix`",
            );
        }
    }

    fn text(&mut self, text: &str, field: &str, of: Of, at: &str) {
        let shown = short(text);
        if text.len() > TEXT_BYTES_MAX {
            return self.add(
                at,
                "this text is too long",
                format!("write at most {TEXT_BYTES_MAX} bytes"),
            );
        }
        if text.is_empty() && matches!(field, "prefix" | "suffix") {
            let what = format!("every text has an empty `{field}`");
            return self.add(at, what, "write `present: true` if it only has to be there");
        }
        let is_beginning = matches!(field, "equals" | "one_of" | "prefix");
        match of {
            Of::Path if is_beginning && !text.is_empty() && !text.starts_with('/') => {
                self.add(
                    at,
                    format!("no path begins like `{shown}`"),
                    format!("write `/{shown}`: it is the path behind that of the service"),
                );
            }
            Of::Method
                if !text.bytes().all(|byte| byte.is_ascii_uppercase())
                    && text.parse::<Method>().is_ok() =>
            {
                let help = format!("write `{}`", text.to_ascii_uppercase());
                self.add(
                    at,
                    format!("`{shown}` is not the method that is meant"),
                    help,
                );
            }
            Of::Method if text.parse::<Method>().is_err() => {
                self.add(
                    at,
                    format!("`{shown}` is not a method"),
                    "write it in capitals, such as `POST`",
                );
            }
            Of::Host if text.contains("://") || text.contains('/') || has_port(text) => {
                let help = "write it without scheme, port and path, such as `mcp.example.com`";
                self.add(at, format!("`{shown}` is never a host"), help);
            }
            _ => {}
        }
    }

    fn regex(&mut self, text: &str, ignore_case: bool, at: &str) {
        if text.len() > TEXT_BYTES_MAX {
            return self.add(
                at,
                "this expression is too long",
                format!("write at most {TEXT_BYTES_MAX} bytes"),
            );
        }
        match regex(text, ignore_case) {
            Ok(_) => {}
            Err(regex::Error::CompiledTooBig(_)) => {
                let help = format!(
                    "repeat less: `{{1,1000}}` is a thousand copies, each of which takes memory (at most {} KiB)",
                    REGEX_BYTES_MAX / 1024
                );
                self.add(at, "this expression is too large once it is compiled", help);
            }
            Err(error) => {
                // The library draws the place over several lines; the last one says what is wrong.
                let said = error.to_string();
                let said = said
                    .lines()
                    .last()
                    .unwrap_or_default()
                    .trim_start_matches("error: ");
                let what = format!("this is not a regular expression: {said}");
                self.add(at, what, "mend it; a `\\` before a sign means the sign itself, and single quotes keep YAML from reading it");
            }
        }
    }

    fn case(&mut self, test: &Test, of: Of, at: &str) {
        let help = match of {
            Of::Method => "remove it: methods are what they are, in capitals",
            Of::Host => "remove it: the case of a host never counts",
            _ if test.present.is_some() => "remove it: nothing is compared here",
            _ => return,
        };
        if test.ignore_case {
            self.add(&format!("{at}.ignore_case"), "this changes nothing", help);
        }
    }
}

fn has_port(host: &str) -> bool {
    let behind = host.rsplit(']').next().unwrap_or_default();
    behind.contains(':') && (!host.starts_with('[') || behind.len() < host.len())
}

/// So much of a text as helps to find it.
fn short(text: &str) -> String {
    const CHARS: usize = 60;
    let mut short: String = text.chars().take(CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
