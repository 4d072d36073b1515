//! Rules that could not work: each case says where it is wrong and what to do, and doing that makes the problem go away.

mod support;

use serin_config::{Config, Diagnostic};
use serin_model::rule::{REGEXES_MAX, RULES_MAX};
use support::{Case, each_is_told_and_its_help_helps, refused};

/// A service with every kind of rule, in which nothing is wrong. Cases replace a part of it.
const GOOD: &str = "\
services:
  tools:
    protocol: mcp
    path: /mcp
    stable: v1
    versions:
      v1: { endpoints: [http://127.0.0.1:9001/mcp] }
      v2.0.0: { endpoints: [http://127.0.0.1:9002/mcp], fallback: [v1] }
    rules:
      - { name: beta, priority: 10, when: { header: { name: X-Beta-User, equals: \"true\", ignore_case: true } }, to: v2.0.0 }
      - { name: internal, priority: 9, when: { all: [ { tenant: { one_of: [acme, umbrella] } }, { not: { path: { prefix: /old } } } ] }, to: { v1: 90, v2.0.0: 10 }, strategy: percentage }
      - { name: scrapers, priority: 8, when: { address: { within: [10.0.0.0/8] } }, refuse: { status: 403, text: not from here } }
      - { name: tried, priority: 7, when: { cookie: { name: tried, present: true } }, to: { stable: 1, candidate: 3 }, strategy: { cookie: { name: tried } } }
      - { name: mail, priority: 6, when: { query: { name: user, matches: '[\\w.-]+@example\\.com' } }, to: { v1: 1, v2.0.0: 1 }, strategy: { header: X-User } }
      - { name: readers, priority: 5, when: { role: { equals: read_only } }, to: stable, affinity: [tenant, address] }
      - { name: spared, priority: 4, when: { tool: { prefix: admin_ } } }
      - { name: all, priority: 1, limit: { rate: 1000/s, burst: 100 } }
    settings: { auth: serin }
  pages:
    protocol: http
    path: /pages
    stable: v1
    versions:
      v1: { endpoints: [http://127.0.0.1:9003] }
    rules:
      - { name: posts, priority: 2, when: { method: { equals: POST } }, limit: { rate: 10/s } }
      - { name: reads, priority: 2, when: { method: { one_of: [GET, HEAD] } }, limit: { rate: 100/s } }
";

#[rustfmt::skip]
const CASES: &[Case] = &[
    // Order
    Case { good: "priority: 9, when", bad: "priority: 10, when", place: (11, 37), field: "services.tools.rules[1].priority", message: "rules `beta` and `internal` have the same priority",
        help: "give one of the two another priority", mended: "priority: 9, when" },
    Case { good: "{ one_of: [GET, HEAD] }", bad: "{ one_of: [GET, POST] }", place: (27, 34), field: "services.pages.rules[1].priority", message: "have the same priority",
        help: "another priority", mended: "{ one_of: [GET, PUT] }" },
    Case { good: "equals: \"true\", ignore_case: true", bad: "present: true } }, to: v1 }\n      - { name: beta2, priority: 3, when: { header: { name: x-beta-user, prefix: t", place: (11, 9), field: "services.tools.rules[1]",
        message: "no request ever gets to rule `beta2`", help: "or narrow the other one", mended: "present: false" },
    Case { good: "{ not: { path: { prefix: /old } } }", bad: "{ tenant: { equals: other } }", place: (11, 40), field: "services.tools.rules[1].when", message: "no request is ever like this",
        help: "remove the rule, or one of the parts", mended: "{ tenant: { equals: acme } }" },
    Case { good: "name: mail", bad: "name: beta", place: (14, 17), field: "services.tools.rules[4].name", message: "a rule `beta` is here twice",
        help: "another name", mended: "name: beta2" },
    Case { good: "name: mail", bad: "name: e mail", place: (14, 17), field: "services.tools.rules[4].name", message: "`e mail` is not the name of a rule",
        help: "use 1 to 63 letters", mended: "name: e-mail" },
    Case { good: "priority: 4", bad: "priority: 0", place: (16, 9), field: "services.tools.rules[6]", message: "no request ever gets to rule `spared`: rule `all` of priority 1 takes all of them",
        help: "above 1", mended: "priority: 2" },
    Case { good: "limit: { rate: 1000/s, burst: 100 }", bad: "enabled: true", place: (17, 9), field: "services.tools.rules[7]", message: "rule `all` does nothing",
        help: "write where its requests go (`to`)", mended: "to: stable" },
    // Conditions
    Case { good: "name: X-Beta-User, equals", bad: "equals", place: (10, 45), field: "services.tools.rules[0].when.header", message: "a header without a name",
        help: "`name: X-Beta-User`", mended: "name: X-Beta-User, equals" },
    Case { good: "name: X-Beta-User", bad: "name: X Beta", place: (10, 61), field: "services.tools.rules[0].when.header.name", message: "`X Beta` is not the name of a header",
        help: "letters, digits", mended: "name: X-Beta" },
    Case { good: "cookie: { name: tried, present: true }", bad: "cookie: { present: true }", place: (13, 45), field: "services.tools.rules[3].when.cookie", message: "a cookie without a name",
        help: "write `name: beta`", mended: "cookie: { name: tried, present: true }" },
    Case { good: "equals: \"true\", ignore_case: true", bad: "ignore_case: true", place: (10, 45), field: "services.tools.rules[0].when.header", message: "nothing is asked here",
        help: "write one of `equals`", mended: "present: true" },
    Case { good: "equals: \"true\"", bad: "equals: a, suffix: b", place: (10, 45), field: "services.tools.rules[0].when.header", message: "`equals` and `suffix` stand in one test",
        help: "`all: [..]`", mended: "equals: ab" },
    Case { good: "[\\w.-]+@", bad: "([\\w.-]+@", place: (14, 74), field: "services.tools.rules[4].when.query.matches", message: "this is not a regular expression: unclosed group",
        help: "mend it", mended: "[\\w.-]*@" },
    Case { good: "[\\w.-]+@", bad: "((a{1,100}){1,100}){1,100}@", place: (14, 74), field: "services.tools.rules[4].when.query.matches", message: "too large once it is compiled",
        help: "repeat less", mended: "a{1,100}@" },
    Case { good: "prefix: /old", bad: "prefix: old", place: (11, 122), field: "services.tools.rules[1].when.all[1].not.path.prefix", message: "no path begins like `old`",
        help: "write `/old`", mended: "prefix: /older" },
    Case { good: "within: [10.0.0.0/8]", bad: "within: []", place: (12, 59), field: "services.tools.rules[2].when.address.within", message: "there is no range of addresses here",
        help: "`[10.0.0.0/8]`", mended: "within: ['fd00::/8']" },
    Case { good: "equals: read_only", bad: "equals: read-only", place: (15, 63), field: "services.tools.rules[5].when.role.equals", message: "there is no role `read-only`",
        help: "did you mean `read_only`?", mended: "equals: user" },
    Case { good: "{ method: { equals: POST } }", bad: "{ all: [ { method: { equals: POST } }, { tool: { equals: search } } ] }", place: (26, 84), field: "services.pages.rules[0].when.all[1].tool", message: "a service of plain HTTP has no tools",
        help: "ask for a `path`", mended: "{ all: [ { method: { equals: POST } }, { path: { prefix: /a } } ] }" },
    Case { good: "{ method: { equals: POST } }", bad: "{ all: [ { method: { equals: POST } }, { tenant: { equals: acme } } ] }", place: (26, 84), field: "services.pages.rules[0].when.all[1].tenant", message: "does not know whose a request is",
        help: "`tenant_header: X-Tenant`", mended: "{ method: { equals: PUT } }" },
    Case { good: "{ method: { equals: POST } }", bad: "{ all: [ { method: { equals: POST } }, { role: { equals: user } } ] }", place: (26, 84), field: "services.pages.rules[0].when.all[1].role", message: "this service asks for none",
        help: "`auth: serin`", mended: "{ method: { equals: PUT } }" },
    Case { good: "{ equals: POST }", bad: "{ equals: post }", place: (26, 63), field: "services.pages.rules[0].when.method.equals", message: "`post` is not the method that is meant",
        help: "write `POST`", mended: "{ equals: PUT }" },
    Case { good: "when: { role:", bad: "when: { roles:", place: (15, 47), field: "services.tools.rules[5].when.roles", message: "`roles` is not known here",
        help: "did you mean `role`?", mended: "when: { role:" },
    Case { good: "within: [10.0.0.0/8]", bad: "within: [10.0.0.0/33]", place: (12, 68), field: "services.tools.rules[2].when.address.within[0]", message: "`10.0.0.0/33` is not a network",
        help: "write an address or a network such as `10.0.0.0/8`", mended: "within: [127.0.0.2, 'fd00::1']" },
    Case { good: "within: [10.0.0.0/8]", bad: "within: [10.0.0.1/8]", place: (12, 68), field: "services.tools.rules[2].when.address.within[0]", message: "`10.0.0.1/8` is an address within a range",
        help: "write `10.0.0.0/8` for the whole range, or `10.0.0.1`", mended: "within: [10.0.0.1]" },
    Case { good: "when: { tool: { prefix: admin_ } }", bad: "when: { tool: { prefix: admin_ }, path: { prefix: /a } }", place: (16, 72), field: "services.tools.rules[6].when.path", message: "several things stand here",
        help: "`all: [ { .. }, { .. } ]`", mended: "when: { all: [ { tool: { prefix: admin_ } }, { path: { prefix: /a } } ] }" },
    Case { good: "when: { tool: { prefix: admin_ } }", bad: "when: [ { tool: { prefix: admin_ } } ]", place: (16, 44), field: "services.tools.rules[6].when", message: "a list stands here",
        help: "`any: [ .. ]`", mended: "when: { any: [ { tool: { prefix: admin_ } } ] }" },
    Case { good: "{ not: { path: { prefix: /old } } }", bad: "{ not: [ { path: { prefix: /old } } ] }", place: (11, 104), field: "services.tools.rules[1].when.all[1].not", message: "a list stands here",
        help: "without the brackets", mended: "{ not: { path: { prefix: /old } } }" },
    Case { good: "name: X-Beta-User, equals", bad: "name: x-serin-version, equals", place: (10, 61), field: "services.tools.rules[0].when.header.name", message: "rules never see headers that begin with `X-Serin-`",
        help: "a header of another name", mended: "name: X-Beta, equals" },
    // Where it leads
    Case { good: "to: v2.0.0 }", bad: "to: v2.0.1 }", place: (10, 117), field: "services.tools.rules[0].to", message: "there is no version `v2.0.1`",
        help: "use one of `v1`, `v2.0.0`, `stable`, `candidate`", mended: "to: v2.0.0 }" },
    Case { good: "to: { v1: 90, v2.0.0: 10 }", bad: "to: { v1: 90, v2.1.0: 10 }", place: (11, 160), field: "services.tools.rules[1].to.v2.1.0", message: "there is no version `v2.1.0`",
        help: "use one of `v1`, `v2.0.0`, `stable`, `candidate`", mended: "to: { v1: 90, v2.0.0: 10 }" },
    Case { good: "to: { v1: 90, v2.0.0: 10 }", bad: "to: { v1: 90, v2.0.0: 20 }", place: (11, 138), field: "services.tools.rules[1].to", message: "these percentages make 110",
        help: "let them make 100", mended: "to: { v1: 80, v2.0.0: 20 }" },
    Case { good: "to: { v1: 90, v2.0.0: 10 }", bad: "to: { v1: 100, v2.0.0: 0 }", place: (11, 161), field: "services.tools.rules[1].to.v2.0.0", message: "with a weight of 0 nobody goes there",
        help: "remove it", mended: "to: { v1: 100 }" },
    Case { good: "{ stable: 1, candidate: 3 }", bad: "{ stable: 1, candidate: 3000 }", place: (13, 115), field: "services.tools.rules[3].to.candidate", message: "a weight of 3000 is too great",
        help: "write at most 1000", mended: "{ stable: 1, candidate: 1000 }" },
    Case { good: "{ stable: 1, candidate: 3 }", bad: "{}", place: (13, 87), field: "services.tools.rules[3].to", message: "there is no version here",
        help: "`{ v1: 90, v2: 10 }`", mended: "{ stable: 2, v1: 1 }" },
    Case { good: "{ stable: 1, candidate: 3 }", bad: "[stable]", place: (13, 87), field: "services.tools.rules[3].to", message: "several with weights",
        help: "write a version, or several with weights such as `{ v1: 90, v2: 10 }`", mended: "{ stable: 2, v1: 1 }" },
    Case { good: "to: v2.0.0 }", bad: "to: v2.0.0, strategy: round_robin }", place: (10, 135), field: "services.tools.rules[0].strategy", message: "there is nothing to choose from",
        help: "write several versions", mended: "to: { v1: 1, v2.0.0: 1 }, strategy: round_robin }" },
    Case { good: "strategy: { header: X-User }", bad: "strategy: { header: X User }", place: (14, 148), field: "services.tools.rules[4].strategy.header", message: "`X User` is not a header name",
        help: "letters, digits", mended: "strategy: { header: X-Name }" },
    Case { good: "{ cookie: { name: tried } }", bad: "{ cookie: { ttl: 1h } }", place: (13, 132), field: "services.tools.rules[3].strategy.cookie.name", message: "this cookie has no name",
        help: "write one", mended: "{ cookie: { name: t, ttl: 1h } }" },
    Case { good: "to: stable, affinity", bad: "to: { stable: 1, v1: 1 }, strategy: ip_hash, affinity", place: (15, 123), field: "services.tools.rules[5].affinity", message: "this strategy goes by something else",
        help: "remove one of the two", mended: "to: { stable: 1, v1: 1 }, affinity" },
    Case { good: "      v1: { endpoints: [http://127.0.0.1:9001/mcp] }", bad: "      v1: { endpoints: [http://127.0.0.1:9001/mcp] }\n      candidate: { endpoints: [http://127.0.0.1:9004/mcp] }", place: (8, 7),
        field: "services.tools.versions.candidate", message: "rule `tried` leads to `candidate`, which is also the name of a version", help: "give the version another name", mended: "      v1: { endpoints: [http://127.0.0.1:9001/mcp] }\n      next: { endpoints: [http://127.0.0.1:9004/mcp] }" },
    Case { good: "fallback: [v1]", bad: "fallback: [v2.0.0]", place: (8, 68), field: "services.tools.versions.v2.0.0.fallback[0]", message: "cannot take the place of itself",
        help: "name another version", mended: "fallback: [v1]" },
    Case { good: "fallback: [v1]", bad: "fallback: [v3]", place: (8, 68), field: "services.tools.versions.v2.0.0.fallback[0]", message: "there is no version `v3`",
        help: "use one of `v1`, `v2.0.0`", mended: "fallback: [v1]" },
    // Refusals and limits
    Case { good: "refuse: { status: 403, text: not from here }", bad: "refuse: { status: 200 }", place: (12, 103), field: "services.tools.rules[2].refuse.status", message: "200 is not the status of a refusal",
        help: "from 400 to 599", mended: "refuse: { status: 451 }" },
    Case { good: "refuse: { status: 403, text: not from here }", bad: "refuse: {}, to: v1", place: (12, 101), field: "services.tools.rules[2].to", message: "what is refused has no use for `to`",
        help: "remove `refuse` or `to`", mended: "refuse: {}" },
    Case { good: "burst: 100", bad: "burst: 0", place: (17, 65), field: "services.tools.rules[7].limit.burst", message: "with a burst of 0 every request is refused",
        help: "write at least 1", mended: "burst: 1" },
];

fn the_one(text: &str) -> Diagnostic {
    let found = refused(text).diagnostics;
    assert_eq!(found.len(), 1, "{found:?}\n{text}");
    found.into_iter().next().unwrap()
}

#[test]
fn nothing_is_wrong_with_rules_that_work() {
    let checked = Config::parse(GOOD, "serin.yaml").unwrap();
    assert!(checked.warnings.is_empty(), "{:?}", checked.warnings);
    // They are written as they are read.
    let manifest = serde_json::to_string(&checked.value.manifest).unwrap();
    let back = serin_config::read_manifest(&manifest, "body").unwrap();
    assert_eq!(back.value, checked.value.manifest);
}

#[test]
fn each_problem_has_its_place_and_its_help_and_the_help_helps() {
    for case in CASES {
        assert_eq!(GOOD.matches(case.good).count(), 1, "{:?}", case.good);
    }
    each_is_told_and_its_help_helps(GOOD, CASES);
}

/// A service whose rules are these lines.
fn with(rules: impl IntoIterator<Item = String>) -> String {
    let rules = rules.into_iter().fold(String::new(), |lines, rule| {
        lines + &format!("      - {rule}\n")
    });
    format!(
        "services:\n  tools:\n    protocol: http\n    path: /t\n    stable: v1\n    versions:\n      v1: {{ endpoints: [http://127.0.0.1:9001] }}\n    rules:\n{rules}"
    )
}

#[test]
fn rules_and_expressions_are_bounded() {
    let rule = |n: usize| {
        format!("{{ name: r{n}, priority: {n}, when: {{ path: {{ equals: /{n} }} }}, to: v1 }}")
    };
    assert!(Config::parse(&with((0..RULES_MAX).map(rule)), "serin.yaml").is_ok());
    let found = the_one(&with((0..=RULES_MAX).map(rule)));
    assert_eq!(found.field, "services.tools.rules");
    assert!(
        found.message.contains("201 rules are too many"),
        "{found:?}"
    );

    let rule = |n: usize| {
        format!(
            "{{ name: r{n}, priority: {n}, when: {{ path: {{ matches: '/{n}.*' }} }}, to: v1 }}"
        )
    };
    assert!(Config::parse(&with((0..REGEXES_MAX).map(rule)), "serin.yaml").is_ok());
    let found = the_one(&with((0..=REGEXES_MAX).map(rule)));
    assert!(
        found
            .message
            .contains("101 regular expressions are too many"),
        "{found:?}"
    );
}

#[test]
fn rules_that_are_off_hide_nothing() {
    let rule = |rest: &str| format!("{{ name: {rest}, to: v1 }}");
    let on = with([rule("a, priority: 2"), rule("b, priority: 1")]);
    assert!(
        the_one(&on)
            .message
            .contains("no request ever gets to rule `b`")
    );
    let off = with([
        rule("a, priority: 2, enabled: false"),
        rule("b, priority: 1"),
    ]);
    assert!(Config::parse(&off, "serin.yaml").is_ok());
}
