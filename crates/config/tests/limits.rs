//! Tiers and limits that limit nothing, or everything, are refused with their place.

use serin_config::Config;

fn file(protocol: &str, limits: &str) -> String {
    format!(
        "services:\n  tools:\n    protocol: {protocol}\n    path: /mcp\n    stable: v1\n    versions:\n      \
         v1: {{ endpoints: [http://127.0.0.1:9001/mcp] }}\n    settings: {{ limits: {limits} }}\n"
    )
}

fn tier(limits: &str) -> String {
    format!("tiers:\n  free: {{ limits: {limits} }}\n")
}

#[test]
fn good_limits_are_taken() {
    for text in [
        tier("[{ rate: 100/hour }]"),
        tier("[{ rate: 100/hour }, { rate: 10/s, burst: 20 }, { per: tenant, rate: 100/hour }]"),
        tier("[{ rate: 5/m, tools: [search, 'kb.*'] }, { rate: 5/m, path: /export }]"),
        file("mcp", "[{ per: service, rate: 10000/minute }]"),
        file("mcp", "[{ rate: 1/s, tools: ['*'] }]"),
        file(
            "http",
            "[{ rate: 1/s, path: /export, methods: [POST] }, { rate: 1/s, path: / }]",
        ),
    ] {
        let read = Config::parse(&text, "serin.yaml");
        let read = read.unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(read.warnings.is_empty(), "{text}: {:?}", read.warnings);
    }
}

#[test]
fn bad_limits_are_refused_with_place_and_help() {
    let limits = "services.tools.settings.limits";
    let many = format!("[{}]", "{ rate: 1/s }, ".repeat(21));
    for (text, field, message, help) in [
        (
            tier("[{ rate: 100/hour, burst: 0 }]"),
            "tiers.free.limits[0].burst",
            "every request is refused",
            "at least 1",
        ),
        (
            tier("[{ rate: 100/hour, burst: 10000001 }]"),
            "tiers.free.limits[0].burst",
            "limits nothing",
            "at most",
        ),
        (
            tier("[{ rate: 1/s }, { rate: 1/s }]"),
            "tiers.free.limits[1]",
            "here twice",
            "remove one",
        ),
        (
            tier("[{ rate: 1/s, tools: [a, b] }, { rate: 2/s, tools: [b, a] }]"),
            "tiers.free.limits[1]",
            "here twice",
            "another time",
        ),
        (
            tier("[{ rate: 1/s, tools: ['*.x'] }]"),
            "tiers.free.limits[0].tools[0]",
            "before its end",
            "write `*`",
        ),
        (
            tier("[{ rate: 1/s, tools: [x], path: /a }]"),
            "tiers.free.limits[0]",
            "not both",
            "two limits",
        ),
        (
            tier("[{ rate: often }]"),
            "tiers.free.limits[0].rate",
            "`often` is not a rate",
            "`100/hour`",
        ),
        (
            tier("[{ rate: 0/hour }]"),
            "tiers.free.limits[0].rate",
            "`0/hour` is not a rate",
            "1 to",
        ),
        (
            "tiers:\n  'a b': { limits: [{ rate: 1/s }] }\n".to_owned(),
            "tiers",
            "`a b` is not a tier name",
            "letters",
        ),
        (
            tier(&many),
            "tiers.free.limits",
            "21 limits are too many",
            "at most 20",
        ),
        (
            file("http", "[{ rate: 1/s, tools: [x] }]"),
            &format!("{limits}[0].tools"),
            "has no tools",
            "`path`",
        ),
        (
            file("mcp", "[{ rate: 1/s, path: /a }]"),
            &format!("{limits}[0].path"),
            "one path",
            "`tools`",
        ),
        (
            file("http", "[{ rate: 1/s, path: a }]"),
            &format!("{limits}[0].path"),
            "does not begin",
            "write `/a`",
        ),
        (
            file("http", "[{ rate: 1/s, methods: [get] }]"),
            &format!("{limits}[0].methods[0]"),
            "not a method",
            "`POST`",
        ),
        (
            file("http", "[{ rate: 1/s, methods: [POSTT] }]"),
            &format!("{limits}[0].methods[0]"),
            "no method `POSTT`",
            "`POST`",
        ),
        (
            file("mcp", "[{ rate: 1/s, tools: [] }]"),
            &format!("{limits}[0].tools"),
            "nothing in this list",
            "remove the field",
        ),
        (
            file("http", "[{ rate: 1/s, methods: [] }]"),
            &format!("{limits}[0].methods"),
            "nothing in this list",
            "remove the field",
        ),
    ] {
        let refused = Config::parse(&text, "serin.yaml").unwrap_err();
        let found = &refused.diagnostics;
        let fits = found.iter().any(|found| {
            found.field.starts_with(field)
                && found.message.contains(message)
                && found.help.contains(help)
                && found.position.is_some()
        });
        assert!(fits, "{text}: {found:#?}");
    }
    let odd = Config::parse("tiers:\n  free: { limits: [] }\n", "serin.yaml").unwrap();
    assert!(odd.warnings[0].message.contains("limits nothing"));
}

#[test]
fn a_path_that_begins_with_that_of_the_service_is_doubted() {
    for (path, meant) in [
        ("/mcp/export", Some("write `/export`")),
        ("/mcp", Some("write `/`")),
        ("/mcpx", None),
        ("/export/mcp", None),
    ] {
        let text = file("http", &format!("[{{ rate: 1/s, path: {path} }}]"));
        let warnings = Config::parse(&text, "serin.yaml").unwrap().warnings;
        assert_eq!(warnings.len(), usize::from(meant.is_some()), "{path}");
        if let Some(meant) = meant {
            assert!(warnings[0].help.contains(meant), "{warnings:?}");
            assert!(
                warnings[0].message.contains(&format!("`/mcp{path}`")),
                "{warnings:?}"
            );
        }
    }
}
