//! Affinity in files: what callers may be known again by, and which cookies they can be given.

use serin_config::{Diagnostic, Severity, read_manifest};

/// A service with these settings, in its last line.
fn file(settings: &str) -> String {
    format!(
        "services:\n  tools:\n    protocol: mcp\n    path: /mcp\n    stable: v1\n    versions: {{ v1: {{ endpoints: [http://127.0.0.1:9001/mcp] }} }}\n    settings: {{ {settings} }}\n"
    )
}

/// What is said about a file with these settings.
fn said(settings: &str) -> Vec<String> {
    let text = file(settings);
    let said = match read_manifest(&text, "serin.yaml") {
        Ok(checked) => checked.warnings,
        Err(error) => error.diagnostics,
    };
    let line = |said: &Diagnostic| {
        let word = if said.severity == Severity::Error {
            ""
        } else {
            "warning "
        };
        format!("{word}{}: {} | {}", said.field, said.message, said.help)
    };
    said.iter().map(line).collect()
}

#[test]
fn what_cannot_be_is_refused_with_what_to_write() {
    let cookie = |fields: &str| format!("affinity: [ {{ cookie: {{ {fields} }} }} ]");
    let nine: Vec<_> = (0..9).map(|n| format!("{{ header: X-{n} }}")).collect();
    let at = "services.tools.settings.affinity";
    for (settings, field, message, help) in [
        (
            "affinity_header: X-User, affinity: [ address ]".into(),
            "_header",
            "both say",
            "[ { header: X-User } ]",
        ),
        (
            "affinity: [ { header: 'X User' } ]".into(),
            "[0].header",
            "`X User` is not a header name",
            "such as `X-User-Id`",
        ),
        (
            format!("affinity: [ {} ]", nine.join(", ")),
            "",
            "9 sources of affinity are too many",
            "at most 8",
        ),
        (
            "affinity: [ principal, principal ]".into(),
            "[1]",
            "here twice",
            "remove one",
        ),
        (
            "affinity: [ { header: X-User }, tenant ]".into(),
            "[1]",
            "does not know whose a request is",
            "`tenant_header: X-Tenant`",
        ),
        (
            cookie("ttl: 1h"),
            "[0].cookie.name",
            "no name",
            "`name: serin`",
        ),
        (
            cookie("name: ''"),
            "[0].cookie.name",
            "no name",
            "`name: serin`",
        ),
        (
            cookie("name: 'a b'"),
            "[0].cookie.name",
            "`a b` is not the name of a cookie",
            "such as `serin`",
        ),
        (
            cookie("name: 'a=b'"),
            "[0].cookie.name",
            "`a=b` is not the name of a cookie",
            "such as `serin`",
        ),
        (
            cookie("name: 'a;b'"),
            "[0].cookie.name",
            "`a;b` is not",
            "such as `serin`",
        ),
        (
            cookie("name: at, ttl: 0s"),
            "[0].cookie.ttl",
            "out of bounds",
            "from 1s to",
        ),
        (
            cookie("name: at, ttl: 500ms"),
            "[0].cookie.ttl",
            "out of bounds",
            "from 1s to",
        ),
        (
            cookie("name: at, ttl: 401d"),
            "[0].cookie.ttl",
            "401d is out of bounds",
            "from 1s to 400d",
        ),
        (
            cookie("name: at, path: mcp"),
            "[0].cookie.path",
            "`mcp` is not a path",
            "begin with `/`",
        ),
        (
            cookie("name: at, path: '/;Domain=x'"),
            "[0].cookie.path",
            "is not a path",
            "have no `;`",
        ),
        (
            cookie("name: at, same_site: none, secure: false"),
            "[0].cookie.same_site",
            "only together with `secure`",
            "`secure: true`",
        ),
        (
            cookie("name: __Secure-at, secure: false"),
            "[0].cookie.name",
            "only together with `secure`",
            "`secure: true`",
        ),
        (
            cookie("name: __Host-at"),
            "[0].cookie.name",
            "only for the path `/`",
            "`path: /`",
        ),
    ] {
        let said = said(&settings);
        let [said] = said.as_slice() else {
            panic!("{settings}: {said:?}");
        };
        assert!(said.starts_with(&format!("{at}{field}: ")), "{said}");
        assert!(said.contains(message) && said.contains(help), "{said}");
    }
}

#[test]
fn what_can_be_is_taken() {
    for settings in [
        "tenant_header: X-Tenant, affinity: [ { header: X-User-Id }, { cookie: { name: serin, ttl: 1h } }, tenant, principal, address ]",
        "affinity: [ { cookie: { name: at } } ]",
        "affinity: [ { cookie: { name: at, ttl: 9600h, path: /, secure: true, http_only: false, same_site: none } } ]",
        "affinity: [ { cookie: { name: __Host-at, path: / } } ]",
        "affinity: [ { cookie: { name: at, same_site: strict, secure: false } } ]",
        "affinity_header: X-User",
    ] {
        assert_eq!(said(settings), [""; 0], "{settings}");
    }
}

#[test]
fn the_example_of_the_docs_is_taken() {
    let docs = include_str!("../../../docs/routing.md");
    let (_, rest) = docs.split_once("```yaml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let checked = read_manifest(example, "routing.md").unwrap();
    assert!(checked.warnings.is_empty(), "{:?}", checked.warnings);
}

#[test]
fn cookies_that_do_not_come_back_are_warned_of() {
    for (path, comes_back) in [
        ("/", true),
        ("/mcp", true),
        ("/mc", false),
        ("/mcp/", false),
        ("/mcp/tools", false),
        ("/other", false),
    ] {
        let cookie = format!("affinity: [ {{ cookie: {{ name: serin, path: {path} }} }} ]");
        let said = said(&cookie);
        let at =
            "warning services.tools.settings.affinity[0].cookie.path: this cookie comes back only";
        assert_eq!(said.is_empty(), comes_back, "{path} {said:?}");
        assert!(comes_back || said[0].starts_with(at), "{said:?}");
    }
}

#[test]
fn what_stands_behind_the_address_is_warned_of() {
    let said = said("affinity: [ address, principal ]");
    assert_eq!(said.len(), 1);
    assert!(
        said[0].starts_with("warning services.tools.settings.affinity[1]: this is never asked"),
        "{said:?}"
    );
}
