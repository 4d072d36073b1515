//! Checks of gates: what of a service flags open and close.

use crate::{
    name::{closest, suggestion},
    position::Path,
    read::{Report, short},
};
use serin_model::{
    gate::{Categories, GATES_MAX, Gate, Gated, PATTERNS_MAX},
    service::{Protocol, ServiceSpec},
};
use std::collections::BTreeSet;

/// Longest pattern of tools, in bytes: names of tools are shorter (MCP 2025-11-25, "Tool Names": 128 characters).
const PATTERN_BYTES_MAX: usize = 256;
/// Longest path of a gate, in bytes.
const PATH_BYTES_MAX: usize = 255;
/// The registered methods (IANA, "Hypertext Transfer Protocol (HTTP) Method Registry") and that of caches: any other is a slip of the pen.
const METHODS: [&str; 40] = [
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "CONNECT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "OPTIONS",
    "ORDERPATCH",
    "PATCH",
    "POST",
    "PROPFIND",
    "PROPPATCH",
    "PUT",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "TRACE",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
    "PURGE",
];

/// Checks the gates and categories of a service.
pub(crate) fn check_gates(spec: &ServiceSpec, at: &Path, report: &mut Report) {
    let settings = &spec.settings;
    if let Some(header) = &settings.tenant_header
        && http::HeaderName::try_from(header.as_str()).is_err()
    {
        report.error(
            &at.key("tenant_header"),
            format!("`{}` is not a header name", short(header)),
            "write letters, digits and `-`, such as `X-Tenant`",
        );
    }
    let categories = at.key("categories");
    for (name, tools) in &settings.categories {
        check_patterns(tools, &categories.key(name), report);
    }
    let at = at.key("gates");
    if settings.gates.len() > GATES_MAX {
        report.error(
            &at,
            format!("{} gates are too many", settings.gates.len()),
            format!("write at most {GATES_MAX}; one gate may name many tools"),
        );
    }
    let mut seen: Vec<&Gate> = Vec::new();
    for (index, gate) in settings.gates.iter().enumerate() {
        let at = at.index(index);
        if seen.contains(&gate) {
            report.error(&at, "this gate is here twice", "remove one of the two");
        }
        seen.push(gate);
        check_gate(gate, spec.protocol, &settings.categories, &at, report);
    }
}

fn check_gate(
    gate: &Gate,
    protocol: Protocol,
    categories: &Categories,
    at: &Path,
    report: &mut Report,
) {
    let (field, is_for) = match &gate.gated {
        Gated::Tools(tools) => {
            check_patterns(tools, &at.key("tools"), report);
            ("tools", Protocol::Mcp)
        }
        Gated::Category(name) => {
            if !categories.contains_key(name) {
                let help = if categories.is_empty() {
                    format!("add it: `categories: {{ {}: [search] }}`", short(name))
                } else {
                    suggestion(name, categories.keys().map(String::as_str))
                };
                let message = format!("there is no category `{}`", short(name));
                report.error(&at.key("category"), message, help);
            }
            ("category", Protocol::Mcp)
        }
        Gated::Feature(_) => ("feature", Protocol::Mcp),
        Gated::Route { path, methods } => {
            check_path(path, &at.key("path"), report);
            check_methods(methods, &at.key("methods"), report);
            ("path", Protocol::Http)
        }
    };
    if is_for != protocol {
        let help = match is_for {
            Protocol::Mcp => "write a gate with a `path`, or `protocol: mcp`",
            Protocol::Http => {
                "write a gate with `tools`, a `category` or a `feature`, or `protocol: http`"
            }
        };
        let message = format!("a gate with `{field}` opens nothing of a service of this protocol");
        report.error(&at.key(field), message, help);
    }
}

pub(crate) fn check_patterns(patterns: &[String], at: &Path, report: &mut Report) {
    if patterns.is_empty() {
        let help = "write names of tools, such as `[search, admin.*]`";
        report.error(at, "there is no tool here", help);
    }
    if patterns.len() > PATTERNS_MAX {
        report.error(
            at,
            format!("{} patterns are too many", patterns.len()),
            format!("write at most {PATTERNS_MAX}; a `*` at the end stands for any rest"),
        );
    }
    let mut seen = BTreeSet::new();
    for (index, pattern) in patterns.iter().enumerate() {
        let at = at.index(index);
        let shown = short(pattern);
        let plain = |c: char| !c.is_whitespace() && !c.is_control();
        if pattern.is_empty() || pattern.len() > PATTERN_BYTES_MAX || !pattern.chars().all(plain) {
            report.error(
                &at,
                format!("`{shown}` is not the name of a tool"),
                format!("write up to {PATTERN_BYTES_MAX} bytes without spaces, such as `search`"),
            );
        } else if let Some((before, _)) = pattern.split_once('*')
            && before.len() + 1 != pattern.len()
        {
            report.error(
                &at,
                format!("`{shown}` has a `*` before its end"),
                format!("a `*` stands for any rest: write `{}*`", short(before)),
            );
        } else if !seen.insert(pattern) {
            report.error(
                &at,
                format!("`{shown}` is here twice"),
                "remove one of the two",
            );
        }
    }
}

pub(crate) fn check_path(path: &str, at: &Path, report: &mut Report) {
    let shown = short(path);
    let plain = |b: u8| b.is_ascii_graphic() && !b"?#%;\\\"<>^`{|}*".contains(&b);
    if path.len() > PATH_BYTES_MAX || !path.bytes().all(plain) {
        report.error(
            at,
            format!("`{shown}` is not a path below a service"),
            format!("write up to {PATH_BYTES_MAX} letters, digits and `/-._~`, such as `/export`; all below it is meant too"),
        );
    } else if !path.starts_with('/') {
        report.error(
            at,
            format!("the path `{shown}` does not begin with `/`"),
            format!("write `/{shown}`"),
        );
    } else if path != "/"
        && path
            .split('/')
            .skip(1)
            .any(|part| matches!(part, "" | "." | ".."))
    {
        report.error(
            at,
            format!("the path `{shown}` has an empty or dotted part"),
            "write it without `//`, `.`, `..` and a `/` at its end, such as `/export`",
        );
    }
}

pub(crate) fn check_methods(methods: &[String], at: &Path, report: &mut Report) {
    let mut seen = BTreeSet::new();
    for (index, method) in methods.iter().enumerate() {
        let at = at.index(index);
        let shown = short(method);
        if method.is_empty() || !method.bytes().all(|b| b.is_ascii_uppercase()) {
            report.error(
                &at,
                format!("`{shown}` is not a method"),
                "write it in capitals, such as `POST`",
            );
        } else if !METHODS.contains(&method.as_str()) {
            report.error(
                &at,
                format!("there is no method `{shown}`"),
                closest(method, METHODS).map_or_else(
                    || "write one that is registered, such as `POST`".to_owned(),
                    |method| format!("did you mean `{method}`?"),
                ),
            );
        } else if !seen.insert(method) {
            report.error(
                &at,
                format!("`{shown}` is here twice"),
                "remove one of the two",
            );
        }
    }
}
