//! Gates that open nothing, or something else than was meant, are refused with their place.

use serin_config::Config;

fn file(protocol: &str, settings: &str) -> String {
    format!(
        "services:\n  tools:\n    protocol: {protocol}\n    path: /mcp\n    stable: v1\n    versions:\n      \
         v1: {{ endpoints: [http://127.0.0.1:9001/mcp] }}\n    settings: {settings}\n"
    )
}

#[test]
fn good_gates_are_taken() {
    for (protocol, settings) in [
        (
            "mcp",
            "{ gates: [{ flag: a, tools: [search, 'kb.*', '*'] }] }",
        ),
        (
            "mcp",
            "{ gates: [{ flag: a, feature: tasks }, { flag: b, feature: tasks }] }",
        ),
        (
            "mcp",
            "{ categories: { kb: [search] }, gates: [{ flag: a, category: kb }] }",
        ),
        (
            "http",
            "{ gates: [{ flag: a, path: /export/all, methods: [GET, POST] }, { flag: b, path: / }] }",
        ),
        ("http", "{ tenant_header: X-Tenant }"),
    ] {
        let read = Config::parse(&file(protocol, settings), "serin.yaml");
        read.unwrap_or_else(|error| panic!("{settings}: {error}"));
    }
}

#[test]
fn bad_gates_are_refused_with_place_and_help() {
    for (protocol, settings, field, message, help) in [
        (
            "mcp",
            "{ gates: [{ flag: a, tools: ['*.x'] }] }",
            "gates[0].tools[0]",
            "before its end",
            "write `*`",
        ),
        (
            "mcp",
            "{ gates: [{ flag: a, tools: ['a b'] }] }",
            "gates[0].tools[0]",
            "not the name of a tool",
            "such as `search`",
        ),
        (
            "mcp",
            "{ gates: [{ flag: a, tools: [x, x] }] }",
            "gates[0].tools[1]",
            "here twice",
            "remove one",
        ),
        (
            "mcp",
            "{ gates: [{ flag: a, tools: [x] }, { flag: a, tools: [x] }] }",
            "gates[1]",
            "here twice",
            "remove one",
        ),
        (
            "mcp",
            "{ categories: { publishing: [x] }, gates: [{ flag: a, category: publishin }] }",
            "gates[0].category",
            "no category `publishin`",
            "did you mean `publishing`?",
        ),
        (
            "mcp",
            "{ gates: [{ flag: a, category: kb }] }",
            "gates[0].category",
            "no category `kb`",
            "categories: { kb:",
        ),
        (
            "mcp",
            "{ categories: { kb: [] } }",
            "categories.kb",
            "no tool here",
            "write names",
        ),
        (
            "mcp",
            "{ gates: [{ flag: a, path: /x }] }",
            "gates[0].path",
            "opens nothing",
            "`tools`",
        ),
        (
            "http",
            "{ gates: [{ flag: a, tools: [x] }] }",
            "gates[0].tools",
            "opens nothing",
            "`path`",
        ),
        (
            "http",
            "{ gates: [{ flag: a, path: export }] }",
            "gates[0].path",
            "does not begin with `/`",
            "write `/export`",
        ),
        (
            "http",
            "{ gates: [{ flag: a, path: /a/../b }] }",
            "gates[0].path",
            "dotted part",
            "`/export`",
        ),
        (
            "http",
            "{ gates: [{ flag: a, path: '/a?b' }] }",
            "gates[0].path",
            "not a path",
            "`/export`",
        ),
        (
            "http",
            "{ gates: [{ flag: a, path: /x, methods: [get] }] }",
            "gates[0].methods[0]",
            "not a method",
            "in capitals",
        ),
        (
            "mcp",
            "{ tenant_header: 'a b' }",
            "tenant_header",
            "not a header name",
            "X-Tenant",
        ),
        (
            "mcp",
            "{ gates: [{ flag: a, tools: [x], feature: tasks }] }",
            "gates[0]",
            "opens one thing",
            "",
        ),
        (
            "mcp",
            "{ gates: [{ flag: a, feature: tasks, methods: [GET] }] }",
            "gates[0]",
            "belong to a gate with a `path`",
            "",
        ),
        (
            "mcp",
            "{ gates: [{ flag: 'a b', feature: tasks }] }",
            "gates[0].flag",
            "not a flag key",
            "",
        ),
    ] {
        let error = Config::parse(&file(protocol, settings), "serin.yaml").unwrap_err();
        let [found] = error.diagnostics.as_slice() else {
            panic!("{settings}: {error}")
        };
        let want = format!("services.tools.settings.{field}");
        assert_eq!(found.field, want, "{settings}");
        assert!(found.message.contains(message), "{settings}: {found:?}");
        assert!(found.help.contains(help), "{settings}: {found:?}");
        assert!(
            found.position.is_some_and(|at| at.line == 8),
            "{settings}: {found:?}"
        );
    }
}

#[test]
fn too_many_gates_and_tools_are_refused() {
    let many = |n: usize| {
        (0..n)
            .map(|i| format!("t{i}"))
            .collect::<Vec<_>>()
            .join(",")
    };
    let tools = format!("{{ gates: [{{ flag: a, tools: [{}] }}] }}", many(501));
    let gates: Vec<_> = (0..201)
        .map(|i| format!("{{ flag: f{i}, tools: [x] }}"))
        .collect();
    let gates = format!("{{ gates: [{}] }}", gates.join(","));
    for (settings, limit) in [(tools, "at most 500"), (gates, "at most 200")] {
        let error = Config::parse(&file("mcp", &settings), "serin.yaml").unwrap_err();
        assert!(error.to_string().contains(limit), "{error}");
    }
}
