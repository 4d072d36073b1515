//! What is wrong with the rules and fallbacks of a service, whoever wants to have them.

use super::{Place, Rule, Target};
use crate::{
    auth::Auth,
    name::{NAME_BYTES_MAX, ServiceName, VersionName},
    plan::Problem,
    service::{Protocol, ServiceSpec, WEIGHT_MAX},
};
use serin_route::{
    condition::{self, Comparison, Condition, Matcher, Test},
    weigh::Strategy,
};
use serin_tenancy::Role;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

/// Most rules of a service: each may be asked for a request.
pub const RULES_MAX: usize = 200;
/// Most regular expressions in the rules of a service: each may take as much memory as one may
/// ([`REGEX_BYTES_MAX`](serin_route::condition::REGEX_BYTES_MAX)).
pub const REGEXES_MAX: usize = 100;
/// Statuses of refusals: those by which a client knows that it was refused (RFC 9110, section 15).
const STATUSES: RangeInclusive<u16> = 400..=599;
/// Longest text of a refusal, in bytes.
const TEXT_BYTES_MAX: usize = 1024;
/// Most of a burst: beyond it nothing is limited.
const BURST_MAX: u32 = 10_000_000;

/// Makes of a name that is not known, and of those that are, what to do about it.
pub type Meant<'m> = &'m dyn Fn(&str, &[&str]) -> String;

/// What is wrong with the rules of a service and the fallbacks of its versions: places are paths below the service.
pub fn problems(spec: &ServiceSpec, meant: Meant<'_>) -> Vec<Problem> {
    let mut found = Found {
        spec,
        meant,
        problems: Vec::new(),
    };
    found.fallbacks();
    if spec.rules.len() > RULES_MAX {
        let what = format!("{} rules are too many", spec.rules.len());
        let help = format!(
            "write at most {RULES_MAX}; one rule may name many tenants, paths or addresses with `one_of` and `within`"
        );
        found.add("rules", what, help);
        return found.problems;
    }
    found.names();
    for (index, rule) in spec.rules.iter().enumerate() {
        found.rule(rule, &format!("rules[{index}]"));
    }
    found.regexes();
    found.words();
    found.order();
    found.problems
}

struct Found<'a> {
    spec: &'a ServiceSpec,
    meant: Meant<'a>,
    problems: Vec<Problem>,
}

impl Found<'_> {
    fn add(&mut self, at: impl Into<String>, what: impl Into<String>, help: impl Into<String>) {
        self.problems.push(Problem {
            at: at.into(),
            what: what.into(),
            help: help.into(),
            fatal: true,
        });
    }

    fn fallbacks(&mut self) {
        let versions: Vec<_> = self.spec.versions.keys().map(VersionName::as_str).collect();
        for (name, version) in &self.spec.versions {
            for (index, other) in version.fallback.iter().enumerate() {
                let at = format!("versions{}.fallback[{index}]", key(name.as_str()));
                if other == name {
                    self.add(
                        at,
                        format!("version `{name}` cannot take the place of itself"),
                        "name another version, or leave it out",
                    );
                } else if !self.spec.versions.contains_key(other) {
                    let help = (self.meant)(other.as_str(), &versions);
                    self.add(at, format!("there is no version `{other}`"), help);
                } else if version.fallback[..index].contains(other) {
                    self.add(
                        at,
                        format!("version `{other}` is here twice"),
                        "remove one of the two",
                    );
                }
            }
        }
    }

    fn names(&mut self) {
        let mut seen = BTreeSet::new();
        for (index, rule) in self.spec.rules.iter().enumerate() {
            let at = format!("rules[{index}].name");
            if rule.name.parse::<ServiceName>().is_err() {
                let name: String = rule.name.chars().take(80).collect();
                let help = format!(
                    "use 1 to {NAME_BYTES_MAX} letters, digits, `.`, `_`, `-` or `+`, and begin with a letter or digit"
                );
                self.add(at, format!("`{name}` is not the name of a rule"), help);
            } else if !seen.insert(&rule.name) {
                self.add(
                    at,
                    format!("a rule `{}` is here twice", rule.name),
                    "give one of the two another name: counts and explanations say which it was",
                );
            }
        }
    }

    fn rule(&mut self, rule: &Rule, at: &str) {
        if let Some(when) = &rule.when {
            self.condition(when, &format!("{at}.when"));
        }
        match &rule.to {
            Some(Target::One(place)) => self.place(place, &format!("{at}.to")),
            Some(Target::Weighted(places)) => self.weights(places, rule, &format!("{at}.to")),
            None => {}
        }
        self.strategy(rule, at);
        self.refusal(rule, at);
        if let Some(limit) = &rule.limit {
            let at = format!("{at}.limit.burst");
            match limit.burst {
                Some(0) => self.add(
                    at,
                    "with a burst of 0 every request is refused",
                    "write at least 1; to close something, write `refuse: { status: 403 }`",
                ),
                Some(burst) if burst > BURST_MAX => {
                    self.add(
                        at,
                        format!("a burst of {burst} limits nothing"),
                        format!("write at most {BURST_MAX}"),
                    );
                }
                _ => {}
            }
        }
    }

    fn condition(&mut self, when: &Condition, at: &str) {
        let wrong = condition::problems(when, at).into_iter();
        self.problems.extend(wrong.map(|problem| Problem {
            at: problem.at,
            what: problem.what,
            help: problem.help,
            fatal: true,
        }));
        let settings = &self.spec.settings;
        let (has_keys, is_http) = (
            settings.auth == Auth::Serin,
            self.spec.protocol == Protocol::Http,
        );
        let has_tenants = has_keys || settings.tenant_header.is_some();
        when.each_test(at, &mut |test, at| match test {
            Condition::Role(_) if !has_keys => {
                self.add(
                    at,
                    "roles are those of keys, and this service asks for none",
                    "write `auth: serin` in its `settings`, or ask for something else",
                );
            }
            Condition::Role(test) => self.roles(test, &at),
            Condition::Tenant(_) if !has_tenants => {
                self.add(
                    at,
                    "this service does not know whose a request is",
                    "write `auth: serin` or `tenant_header: X-Tenant` in its `settings`",
                );
            }
            Condition::Header(test) if is_ours(test) => {
                self.add(
                    format!("{at}.name"),
                    "rules never see headers that begin with `X-Serin-`: they are for the gateway to say",
                    "ask for a header of another name; a version chosen by hand comes before all rules",
                );
            }
            Condition::Tool(_) if is_http => {
                self.add(
                    at,
                    "a service of plain HTTP has no tools",
                    "ask for a `path`, or write `protocol: mcp`",
                );
            }
            _ => {}
        });
    }

    fn roles(&mut self, test: &Test, at: &str) {
        let roles = Role::ALL.map(Role::label);
        let one = test
            .equals
            .iter()
            .map(|role| (format!("{at}.equals"), role));
        let list = test.one_of.iter().enumerate();
        let list = list.map(|(index, role)| (format!("{at}.one_of[{index}]"), role));
        for (at, role) in one.chain(list) {
            let is_role = |known: &&str| {
                *known == role || (test.ignore_case && known.eq_ignore_ascii_case(role))
            };
            if !roles.iter().any(is_role) {
                let shown: String = role.chars().take(60).collect();
                let help = (self.meant)(role, &roles);
                self.add(at, format!("there is no role `{shown}`"), help);
            }
        }
    }

    fn place(&mut self, place: &Place, at: &str) {
        let Place::Version(name) = place else { return };
        if !self.spec.versions.contains_key(name) {
            let versions = self.spec.versions.keys().map(VersionName::as_str);
            let places: Vec<_> = versions.chain([Place::STABLE, Place::CANDIDATE]).collect();
            let help = (self.meant)(name.as_str(), &places);
            self.add(at, format!("there is no version `{name}`"), help);
        }
    }

    fn weights(&mut self, places: &BTreeMap<Place, u32>, rule: &Rule, at: &str) {
        if places.is_empty() {
            self.add(
                at,
                "there is no version here",
                "write where requests go, such as `{ v1: 90, v2: 10 }`, or leave `to` out",
            );
        }
        for (place, weight) in places {
            let at = format!("{at}{}", key(&place.to_string()));
            self.place(place, &at);
            if *weight == 0 {
                self.add(
                    at,
                    "with a weight of 0 nobody goes there",
                    "remove it, or write at least 1",
                );
            } else if *weight > WEIGHT_MAX {
                self.add(at, format!("a weight of {weight} is too great"), format!("write at most {WEIGHT_MAX}: only the parts that they make of each other count"));
            }
        }
        let sum: u64 = places.values().map(|weight| u64::from(*weight)).sum();
        if rule.strategy == Some(Strategy::Percentage) && sum != 100 && !places.is_empty() {
            self.add(
                at,
                format!("these percentages make {sum}"),
                "let them make 100, or write `strategy: weighted`",
            );
        }
    }

    fn strategy(&mut self, rule: &Rule, at: &str) {
        if rule.strategy.is_some() && !matches!(rule.to, Some(Target::Weighted(_))) {
            self.add(
                format!("{at}.strategy"),
                "there is nothing to choose from",
                "write several versions, such as `to: { v1: 90, v2: 10 }`, or remove `strategy`",
            );
        }
        let goes_by_key = matches!(
            rule.strategy,
            None | Some(Strategy::Percentage | Strategy::Weighted)
        );
        if !rule.affinity.is_empty() && rule.to.is_some() && !goes_by_key {
            self.add(
                format!("{at}.affinity"),
                "this strategy goes by something else",
                "remove one of the two",
            );
        }
    }

    fn refusal(&mut self, rule: &Rule, at: &str) {
        let Some(refuse) = &rule.refuse else { return };
        if !STATUSES.contains(&refuse.status) {
            let what = format!("{} is not the status of a refusal", refuse.status);
            let help = format!(
                "write one from {} to {}, such as 403",
                STATUSES.start(),
                STATUSES.end()
            );
            self.add(format!("{at}.refuse.status"), what, help);
        }
        if refuse
            .text
            .as_ref()
            .is_some_and(|text| text.len() > TEXT_BYTES_MAX)
        {
            let help = format!("write at most {TEXT_BYTES_MAX} bytes");
            self.add(format!("{at}.refuse.text"), "this text is too long", help);
        }
        for (field, is_said) in [
            ("to", rule.to.is_some()),
            ("limit", rule.limit.is_some()),
            ("affinity", !rule.affinity.is_empty()),
        ] {
            if is_said {
                let what = format!("what is refused has no use for `{field}`");
                self.add(
                    format!("{at}.{field}"),
                    what,
                    format!("remove `refuse` or `{field}`"),
                );
            }
        }
    }

    fn regexes(&mut self) {
        let mut count = 0;
        for when in self.spec.rules.iter().filter_map(|rule| rule.when.as_ref()) {
            when.each_test("", &mut |test, _| {
                count += usize::from(test.test().is_some_and(|test| test.matches.is_some()));
            });
        }
        if count > REGEXES_MAX {
            let help = format!(
                "write at most {REGEXES_MAX}; `prefix`, `suffix` and `one_of` say most of it, and are faster"
            );
            self.add(
                "rules",
                format!("{count} regular expressions are too many"),
                help,
            );
        }
    }

    /// A version whose name is a word that rules use could be meant by it.
    fn words(&mut self) {
        for (word, place) in [
            (Place::STABLE, Place::Stable),
            (Place::CANDIDATE, Place::Candidate),
        ] {
            let leads = |rule: &&Rule| match &rule.to {
                Some(Target::One(one)) => *one == place,
                Some(Target::Weighted(places)) => places.contains_key(&place),
                None => false,
            };
            let rule = self.spec.rules.iter().find(leads);
            let version = self.spec.versions.keys().find(|name| name.as_str() == word);
            if let (Some(rule), Some(version)) = (rule, version) {
                let what = format!(
                    "rule `{}` leads to `{word}`, which is also the name of a version",
                    rule.name
                );
                self.add(format!("versions{}", key(version.as_str())), what, format!("give the version another name: in rules `{word}` is whichever version is {word} now"));
            }
        }
    }

    /// What rules say about each other, and which of them can never apply.
    fn order(&mut self) {
        let mut rules: Vec<_> = self.spec.rules.iter().enumerate().collect();
        rules.retain(|(_, rule)| rule.enabled);
        rules.sort_by_key(|(_, rule)| Reverse(rule.priority));
        let matcher = Matcher::compile(rules.iter().map(|(_, rule)| rule.when.as_ref()));
        let mut compared = matcher.compare();
        let wrong = (0..rules.len()).filter_map(|at| among(&rules, at, &mut compared));
        self.problems.extend(wrong);
    }
}

/// What is wrong with a rule among those that are on, the highest priority first, each with its place in the list.
fn among(rules: &[(usize, &Rule)], at: usize, compared: &mut Comparison<'_>) -> Option<Problem> {
    let (index, rule) = rules.get(at)?;
    let problem = |field: &str, what: String, help: String| {
        let at = format!("rules[{index}]{field}");
        Some(Problem {
            at,
            what,
            help,
            fatal: true,
        })
    };
    if compared.never_holds(at) {
        let what = "no request is ever like this: parts of it contradict each other";
        return problem(
            ".when",
            what.to_owned(),
            "remove the rule, or one of the parts".to_owned(),
        );
    }
    for (before, (_, other)) in rules[..at].iter().enumerate() {
        if other.priority > rule.priority {
            if compared.covers(before, at) {
                let what = format!(
                    "no request ever gets to rule `{}`: rule `{}` of priority {} takes all of them",
                    rule.name, other.name, other.priority
                );
                let help = format!(
                    "give it a priority above {}, or narrow the other one",
                    other.priority
                );
                return problem("", what, help);
            }
        } else if compared.may_overlap(before, at) {
            let what = format!(
                "rules `{}` and `{}` have the same priority, and a request may fit both",
                other.name, rule.name
            );
            let help = "give one of the two another priority: the greater comes first";
            return problem(".priority", what, help.to_owned());
        }
    }
    if rule.does_nothing() && !(at + 1..rules.len()).any(|below| compared.may_overlap(at, below)) {
        let help = "write where its requests go (`to`), that they are refused (`refuse`) or limited (`limit`)";
        return problem(
            "",
            format!("rule `{}` does nothing", rule.name),
            help.to_owned(),
        );
    }
    None
}

/// Whether a test is of a header that only the gateway sets.
fn is_ours(test: &Test) -> bool {
    const OURS: &str = "x-serin-";
    let begins = test.name.as_deref().and_then(|name| name.get(..OURS.len()));
    begins.is_some_and(|begins| begins.eq_ignore_ascii_case(OURS))
}

/// A key as part of a path: names of versions have dots.
fn key(name: &str) -> String {
    if name.contains('.') {
        format!("[\"{name}\"]")
    } else {
        format!(".{name}")
    }
}

impl Rule {
    /// Whether all that it can do is to keep its requests from rules below it.
    fn does_nothing(&self) -> bool {
        self.to.is_none()
            && self.refuse.is_none()
            && self.limit.is_none()
            && self.affinity.is_empty()
    }
}
