//! Conditions in words, and which of them a request does not fulfil.

use serin_route::condition::{Condition, Test};

/// Most texts of a list in words.
const LISTED_MAX: usize = 5;

/// What must be so, in words.
pub(super) fn condition_in_words(condition: &Condition) -> String {
    let several = |all: &[Condition], word: &str| match all {
        [one] => condition_in_words(one),
        all => {
            let parts: Vec<_> = all.iter().map(condition_in_words).collect();
            format!("({})", parts.join(word))
        }
    };
    match condition {
        Condition::All(all) => several(all, " and "),
        Condition::Any(any) => several(any, " or "),
        Condition::Not(not) => format!("not {}", condition_in_words(not)),
        Condition::Header(test) => test_in_words("header", test),
        Condition::Cookie(test) => test_in_words("cookie", test),
        Condition::Query(test) => test_in_words("query parameter", test),
        Condition::Path(test) => test_in_words("the path", test),
        Condition::Method(test) => test_in_words("the method", test),
        Condition::Host(test) => test_in_words("the host", test),
        Condition::Tenant(test) => test_in_words("the tenant", test),
        Condition::Role(test) => test_in_words("the role", test),
        Condition::Tool(test) => test_in_words("a tool called", test),
        Condition::Address { within } => {
            let ranges: Vec<_> = within.iter().map(ToString::to_string).collect();
            format!("the address is in {}", listed(&ranges))
        }
    }
}

fn test_in_words(what: &str, test: &Test) -> String {
    let subject = match &test.name {
        Some(name) => format!("{what} `{name}`"),
        None => what.to_owned(),
    };
    let case = if test.ignore_case {
        ", whatever its case"
    } else {
        ""
    };
    let says = [
        (&test.equals, "is"),
        (&test.prefix, "begins with"),
        (&test.suffix, "ends with"),
        (&test.matches, "matches"),
    ];
    let said = says.iter().find_map(|(text, verb)| {
        let text = text.as_ref()?;
        Some(format!("{subject} {verb} `{text}`{case}"))
    });
    match (said, test.present) {
        (Some(said), _) => said,
        (None, Some(true)) => format!("{subject} is there"),
        (None, Some(false)) => format!("{subject} is not there"),
        (None, None) => {
            let texts: Vec<_> = test.one_of.iter().map(|text| format!("`{text}`")).collect();
            format!("{subject} is one of {}{case}", listed(&texts))
        }
    }
}

fn listed(texts: &[String]) -> String {
    let mut list = texts[..texts.len().min(LISTED_MAX)].join(", ");
    if texts.len() > LISTED_MAX {
        list += &format!(" and {} more", texts.len() - LISTED_MAX);
    }
    list
}

/// The part of a condition that does not hold, in words; `holds` says whether one does.
pub(super) fn what_fails(condition: &Condition, holds: &dyn Fn(&Condition) -> bool) -> String {
    match condition {
        Condition::All(all) => {
            let failing = all.iter().find(|part| !holds(part));
            failing.map_or_else(String::new, |part| what_fails(part, holds))
        }
        Condition::Not(not) => format!("{} after all", condition_in_words(not)),
        Condition::Any(any) if any.len() > 1 => {
            format!("none of: {}", condition_in_words(condition))
        }
        Condition::Any(any) => any.iter().map(|part| what_fails(part, holds)).collect(),
        _ => format!("not so: {}", condition_in_words(condition)),
    }
}
