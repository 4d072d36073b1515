//! Access: what of a service a caller may see and call. One function answers it for calls, lists, routes and features, so that they
//! agree.

use crate::{
    api::ApiSpec,
    gate::{Feature, Gated, ToolPattern},
    reach::Reach,
    service::ServiceSettings,
};
use serde_json::{Map, Value};
use serin_flags::{Context, Evaluation, FlagKey, Latch, Reason, Table, kill::Stop};
use serin_tenancy::Principal;
use std::sync::Arc;

/// The gates of a service, in the form in which they are asked. Made when the routing table is built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gates {
    tools: Vec<(FlagKey, Vec<ToolPattern>)>,
    features: Vec<(FlagKey, Feature)>,
    routes: Vec<RouteGate>,
    /// The categories of its tools, of which scopes speak too.
    categories: Vec<(Arc<str>, Vec<ToolPattern>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct RouteGate {
    flag: FlagKey,
    route: Route,
}

/// Requests below a path, with some methods, whichever way a server may read them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Plain segments, lower case.
    path: Vec<String>,
    /// Empty means all.
    methods: Vec<String>,
}

impl Route {
    /// Those below `path`, with one of `methods`; without methods, with any.
    pub fn new(path: &str, methods: &[String]) -> Self {
        Self {
            path: Reading::of(&unescaped(path)).segments,
            methods: methods.to_vec(),
        }
    }

    /// Whether a request may be one of them. `path` is what stands behind the service's, as it was sent.
    pub fn may_have(&self, path: &str, method: &str) -> bool {
        self.is_for(method)
            && (self.path.is_empty() || self.may_have_path(readings(path).as_deref()))
    }

    fn may_have_path(&self, readings: Option<&[Reading]>) -> bool {
        // One that can be read in ever more ways may be any.
        readings.is_none_or(|readings| {
            (readings.iter()).any(|reading| reading.may_be_below(&self.path))
        })
    }

    /// Whether a method is one of them. Servers that read methods in any case are as common as those that do not, and HEAD is GET without
    /// the body (RFC 9110 section 9.3.2).
    fn is_for(&self, method: &str) -> bool {
        let is_head = method.eq_ignore_ascii_case("HEAD");
        let is = |named: &String| {
            named.eq_ignore_ascii_case(method) || (is_head && named.eq_ignore_ascii_case("GET"))
        };
        self.methods.is_empty() || self.methods.iter().any(is)
    }
}

impl Gates {
    /// The gates of a service. A feature without one is gated by the flag `mcp_FEATURE` or `FEATURE` where there is such a flag.
    pub fn new(settings: &ServiceSettings, flags: &Table) -> Self {
        let mut gates = Self::default();
        for (name, tools) in &settings.categories {
            let patterns = tools.iter().map(|tool| ToolPattern::new(tool)).collect();
            gates.categories.push((name.as_str().into(), patterns));
        }
        for gate in &settings.gates {
            let flag = gate.flag.clone();
            match &gate.gated {
                Gated::Tools(tools) => gates.gate_tools(flag, tools),
                // One that is not there names no tool; files that say so are refused.
                Gated::Category(name) => {
                    let tools = settings.categories.get(name);
                    gates.gate_tools(flag, tools.map(Vec::as_slice).unwrap_or_default());
                }
                Gated::Feature(feature) => gates.features.push((flag, *feature)),
                Gated::Route { path, methods } => gates.routes.push(RouteGate {
                    flag,
                    route: Route::new(path, methods),
                }),
            }
        }
        for feature in Feature::ALL {
            if gates.features.iter().all(|(_, gated)| *gated != feature) {
                let flags = of_feature(flags, feature).into_iter();
                gates.features.extend(flags.map(|flag| (flag, feature)));
            }
        }
        gates
    }

    fn gate_tools(&mut self, flag: FlagKey, tools: &[String]) {
        let patterns = tools.iter().map(|tool| ToolPattern::new(tool)).collect();
        self.tools.push((flag, patterns));
    }

    /// Whether a tool belongs to a category.
    fn is_in(&self, category: &str, tool: &str) -> bool {
        self.categories.iter().any(|(name, patterns)| {
            **name == *category && patterns.iter().any(|pattern| pattern.fits(tool))
        })
    }

    /// Whether tools are gated.
    pub fn has_tools(&self) -> bool {
        !self.tools.is_empty()
    }

    /// The flags of the gates of tools.
    pub fn tool_flags(&self) -> impl Iterator<Item = &FlagKey> {
        self.tools.iter().map(|(flag, _)| flag)
    }

    /// Whether features are gated.
    pub fn has_features(&self) -> bool {
        !self.features.is_empty()
    }

    /// Whether a feature is gated.
    pub fn has(&self, feature: Feature) -> bool {
        self.features.iter().any(|(_, gated)| *gated == feature)
    }

    /// Whether routes are gated.
    pub fn has_routes(&self) -> bool {
        !self.routes.is_empty()
    }
}

/// The flags that gate a feature which has no gate: those that are defined under one of its two names, of which `SERIN_FLAGS` says
/// the same under either; else those that only `SERIN_FLAGS` knows.
fn of_feature(flags: &Table, feature: Feature) -> Vec<FlagKey> {
    let names = feature.flags();
    let found = |known: &dyn Fn(&str) -> Option<FlagKey>| -> Vec<FlagKey> {
        names.iter().filter_map(|name| known(name)).collect()
    };
    let defined = found(&|name| Some(flags.flags.get_key_value(name)?.0.clone()));
    if defined.is_empty() {
        return found(&|name| Some(flags.forced.flags.get_key_value(name)?.0.clone()));
    }
    defined
}

/// Most times that a server is thought to take percent-encoding off a path.
const UNESCAPED_MAX: usize = 4;

/// A path as a generous server may read it: unescaped, `\\` for `/`, without empty segments, parameters, blanks and dots at the end of a
/// segment, in lower case. A gate that is read more narrowly than the server reads would be no gate.
#[derive(Debug, Default)]
struct Reading {
    segments: Vec<String>,
    /// Something may stand for `..`, which some servers follow and others take for a name.
    leads_up: bool,
}

impl Reading {
    /// Of what is left when percent-encoding was taken off.
    fn of(plain: &str) -> Self {
        Self::in_its_case(&plain.to_lowercase())
    }

    /// The same with capitals as they are.
    fn in_its_case(plain: &str) -> Self {
        let mut reading = Self::default();
        for segment in plain.replace('\\', "/").split('/') {
            match bare(segment) {
                ".." => reading.leads_up = true,
                segment => match segment.trim_end_matches(is_blank_or_dot) {
                    "" => {}
                    segment => reading.segments.push(segment.to_owned()),
                },
            }
        }
        reading
    }

    /// Whether the path may be one below `gate`. Whatever a server makes of a `..`, no more than some segments are missing then.
    fn may_be_below(&self, gate: &[String]) -> bool {
        if self.leads_up {
            let mut left = self.segments.iter();
            return gate.iter().all(|segment| left.any(|s| s == segment));
        }
        self.segments.starts_with(gate)
    }
}

/// A segment of a path without blanks around it, and without what a server may take for its end.
fn bare(segment: &str) -> &str {
    let is_end = |c: char| c.is_control() || matches!(c, ';' | '?' | '#');
    let segment = segment.trim_matches(is_blank);
    segment.split(is_end).next().unwrap_or_default().trim_end()
}

fn is_blank(c: char) -> bool {
    c.is_whitespace() || c.is_control()
}

fn is_blank_or_dot(c: char) -> bool {
    is_blank(c) || c == '.'
}

/// A path by how often percent-encoding is taken off; nothing if there is no end to it.
fn decoded(path: &str) -> Option<Vec<String>> {
    let mut plains = Vec::new();
    let mut text = path.to_owned();
    for _ in 0..UNESCAPED_MAX {
        let plain = unescaped(&text);
        let is_last = plain == text;
        if !is_last || plains.is_empty() {
            plains.push(plain.clone());
        }
        if is_last {
            return Some(plains);
        }
        text = plain;
    }
    None
}

/// All readings of a path; nothing if there is no end to them.
fn readings(path: &str) -> Option<Vec<Reading>> {
    Some(
        decoded(path)?
            .iter()
            .map(|plain| Reading::of(plain))
            .collect(),
    )
}

/// Whether a server may read a path as one that leads upwards, out of what is shown of it.
pub fn leads_up(path: &str) -> bool {
    // One without dots and escapes has nothing to read.
    (path.contains("..") || path.contains('%'))
        && readings(path).is_none_or(|readings| readings.iter().any(|reading| reading.leads_up))
}

/// How else than as it is written a server may read a path: each decoded form as it is, and without what servers leave out. Capitals and a
/// last slash stay: who asks for `/Api/` is not asking for `/api`. What can be read in ever more ways leads up.
pub fn other_readings(path: &str) -> Vec<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_/".contains(&byte);
    if path.bytes().all(is_plain) && !path.contains("//") {
        return Vec::new();
    }
    let mut others: Vec<String> = Vec::new();
    for plain in decoded(path).unwrap_or_default() {
        let segments = Reading::in_its_case(&plain).segments;
        let is_open = plain.ends_with(['/', '\\']) && !segments.is_empty();
        let end = if is_open { "/" } else { "" };
        let bare = format!("/{}{end}", segments.join("/"));
        for other in [plain, bare] {
            if other != path && !others.contains(&other) {
                others.push(other);
            }
        }
    }
    others
}

/// Percent-encoding taken off; what is not UTF-8 then is not what any gate names.
fn unescaped(path: &str) -> String {
    let hex = |byte: u8| char::from(byte).to_digit(16);
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        let (byte, used) = match escaped.map(|(high, low)| u8::try_from(high * 16 + low)) {
            Some(Ok(byte)) => (byte, 3),
            Some(Err(_)) | None => (first, 1),
        };
        plain.push(byte);
        rest = rest.get(used..).unwrap_or_default();
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    /// A tool.
    Tool(&'a str),
    /// A method of MCP.
    Method(&'a str),
    /// A feature of the protocol.
    Feature(Feature),
    /// A route of a plain HTTP service.
    Route {
        /// What stands behind the service's path, as it was sent.
        path: &'a str,
        /// The method.
        method: &'a str,
    },
}

/// Why it is not there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Denied<'a> {
    /// The scopes of the caller do not reach it.
    Beyond,
    /// They do, but the caller's role is to read, and this may do more.
    Role,
    /// A flag closes it: to this caller it does not exist.
    Hidden,
    /// It is killed.
    Killed(&'a Stop),
}

/// What flags answered on the way, each answer once.
pub type Answers<'a> = Vec<(&'a FlagKey, &'a str, Reason)>;

/// Who asks, and what the answer depends on.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// The service.
    pub service: &'a str,
    /// Its gates.
    pub gates: &'a Gates,
    /// The flags.
    pub flags: &'a Table,
    /// The kills.
    pub latch: &'a Latch,
    /// Who asks, where that was proven.
    pub principal: Option<&'a Principal>,
    /// The version of the API by which they ask, where they ask by one.
    pub only: Option<&'a ApiSpec>,
    /// The tools that say of themselves that they only read.
    pub read_only_tools: &'a [Arc<str>],
    /// The caller. For tools, `tool` is added to the attributes.
    pub context: Context<'a>,
}

impl<'a> Access<'a> {
    /// Whether the caller may see and call what is asked for. All of its gates must be open, and then it must not be killed: whoever
    /// may not see it is not told that it is killed. What is beyond the caller's scopes is so whether it is there or not.
    ///
    /// # Errors
    /// Why it is not there.
    pub fn decide(&self, asked: Asked<'_>, answers: &mut Answers<'a>) -> Result<(), Denied<'a>> {
        let gates = self.gates;
        if let Some(principal) = self.principal {
            let reach = Reach {
                principal,
                service: self.service,
                read_only_tools: self.read_only_tools,
            };
            reach.check(asked, |category, tool| gates.is_in(category, tool))?;
        }
        if let Asked::Tool(tool) = asked
            && self.only.is_some_and(|only| !only.has(tool))
        {
            return Err(Denied::Hidden);
        }
        let is_open = match asked {
            Asked::Tool(tool) => gates
                .tools
                .iter()
                .filter(|(_, patterns)| patterns.iter().any(|pattern| pattern.fits(tool)))
                .all(|(flag, _)| self.is_on(flag, Some(tool), answers)),
            Asked::Feature(feature) => gates
                .features
                .iter()
                .filter(|(_, gated)| *gated == feature)
                .all(|(flag, _)| self.is_on(flag, None, answers)),
            Asked::Route { path, method } => self.is_open(path, method, answers),
            Asked::Method(_) => true,
        };
        if !is_open {
            return Err(Denied::Hidden);
        }
        match asked {
            Asked::Tool(tool) => match self.latch.stops_tool(self.service, tool) {
                Some(stop) => Err(Denied::Killed(stop)),
                None => Ok(()),
            },
            Asked::Method(_) | Asked::Feature(_) | Asked::Route { .. } => Ok(()),
        }
    }

    fn is_open(&self, path: &str, method: &str, answers: &mut Answers<'a>) -> bool {
        let readings = readings(path);
        let is_of = |gate: &&RouteGate| {
            gate.route.is_for(method) && gate.route.may_have_path(readings.as_deref())
        };
        self.gates
            .routes
            .iter()
            .filter(is_of)
            .all(|gate| self.is_on(&gate.flag, None, answers))
    }

    fn is_on(&self, key: &'a FlagKey, tool: Option<&str>, answers: &mut Answers<'a>) -> bool {
        let Some(evaluation) = self.evaluate(key, tool) else {
            return false;
        };
        let answer = (key, evaluation.variant, evaluation.reason);
        if !answers.contains(&answer) {
            answers.push(answer);
        }
        evaluation.is_on()
    }

    fn evaluate(&self, key: &FlagKey, tool: Option<&str>) -> Option<Evaluation<'a>> {
        let key = key.as_str();
        let mut context = self.context;
        let mut with_tool;
        let has_rule = (self.flags.flags.get(key)).is_some_and(|flag| flag.targeting.is_some());
        if let Some(tool) = tool.filter(|_| has_rule) {
            with_tool = self.context.attributes.cloned().unwrap_or_else(Map::new);
            with_tool.insert("tool".to_owned(), Value::from(tool));
            context = Context {
                attributes: Some(&with_tool),
                ..context
            };
        }
        self.flags.evaluate(self.latch, key, &context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use proptest::prelude::*;
    use serde_json::json;
    use serin_flags::{
        Environment, Flag, Kill, Kills,
        kill::{Cause, Position, Priority},
    };
    use serin_tenancy::{Role, Scopes};

    fn flag(default: &str, targeting: Option<&Value>) -> Arc<Flag> {
        let flag = json!({
            "state": "ENABLED", "variants": { "on": true, "off": false }, "defaultVariant": default,
            "targeting": targeting, "serin": { "offVariant": "off" },
        });
        Arc::new(serde_json::from_value(flag).unwrap())
    }

    fn table(flags: &[(&str, Arc<Flag>)]) -> Table {
        let flags = flags
            .iter()
            .map(|(key, flag)| (key.parse().unwrap(), flag.clone()));
        Table {
            flags: Arc::new(flags.collect()),
            ..Table::default()
        }
    }

    fn settings(settings: Value) -> ServiceSettings {
        serde_json::from_value(settings).unwrap()
    }

    fn latch(targets: &[&str]) -> Latch {
        latch_at(targets.iter().map(|target| (*target, Position::Killed)))
    }

    fn latch_at<'a>(targets: impl IntoIterator<Item = (&'a str, Position)>) -> Latch {
        let mut kills = Kills::default();
        for (generation, (target, position)) in (1..).zip(targets) {
            kills.take(Kill {
                target: target.parse().unwrap(),
                generation,
                position,
                at: Timestamp::UNIX_EPOCH,
                actor: "t".into(),
                reason: "t".into(),
                cause: Cause::Manual,
                priority: Priority::default(),
                grace_seconds: 0,
                attempts: 0,
            });
        }
        kills.latch()
    }

    fn decide<'a>(
        gates: &'a Gates,
        flags: &'a Table,
        latch: &'a Latch,
        asked: Asked<'_>,
    ) -> Result<(), Denied<'a>> {
        access(gates, flags, latch).decide(asked, &mut Answers::new())
    }

    fn access<'a>(gates: &'a Gates, flags: &'a Table, latch: &'a Latch) -> Access<'a> {
        let context = Context {
            targeting_key: Some("k"),
            tenant: None,
            environment: Environment::default(),
            attributes: None,
            now: Timestamp::UNIX_EPOCH,
        };
        Access {
            service: "tools",
            gates,
            flags,
            latch,
            principal: None,
            only: None,
            read_only_tools: &[],
            context,
        }
    }

    #[test]
    fn all_gates_of_a_tool_must_be_open() {
        let flags = table(&[("a", flag("on", None)), ("b", flag("off", None))]);
        let settings = settings(json!({
            "categories": { "kb": ["kb.*", "search"] },
            "gates": [
                { "flag": "a", "category": "kb" },
                { "flag": "b", "tools": ["kb.drop"] },
                { "flag": "unknown", "tools": ["mystery*"] },
            ],
        }));
        let (gates, open) = (Gates::new(&settings, &flags), Latch::default());
        for (tool, is_there) in [
            ("kb.read", true),
            ("search", true),
            ("kb.drop", false),
            ("mystery", false),
            ("mystery.2", false),
            ("other", true),
            ("KB.drop", true),
        ] {
            let decided = decide(&gates, &flags, &open, Asked::Tool(tool));
            assert_eq!(decided.is_ok(), is_there, "{tool}");
        }
    }

    #[test]
    fn who_may_not_see_a_tool_is_not_told_that_it_is_killed() {
        let flags = table(&[("a", flag("off", None))]);
        let settings = settings(json!({ "gates": [{ "flag": "a", "tools": ["hidden"] }] }));
        let gates = Gates::new(&settings, &flags);
        let killed = latch(&["tool:tools/hidden", "tool:*/shown"]);
        let hidden = decide(&gates, &flags, &killed, Asked::Tool("hidden"));
        assert_eq!(hidden, Err(Denied::Hidden));
        let shown = decide(&gates, &flags, &killed, Asked::Tool("shown"));
        assert!(matches!(shown, Err(Denied::Killed(_))));
        // A kill of the flag closes its gates.
        let flags = table(&[("a", flag("on", None))]);
        let off = latch(&["flag:a"]);
        assert_eq!(
            decide(&gates, &flags, &off, Asked::Tool("hidden")),
            Err(Denied::Hidden)
        );
    }

    #[test]
    fn rules_read_the_name_of_the_tool() {
        let rule = json!({ "if": [{ "==": [{ "var": "tool" }, "one"] }, "on", "off"] });
        let flags = table(&[("a", flag("off", Some(&rule)))]);
        let settings = settings(json!({ "gates": [{ "flag": "a", "tools": ["*"] }] }));
        let (gates, open) = (Gates::new(&settings, &flags), Latch::default());
        assert!(decide(&gates, &flags, &open, Asked::Tool("one")).is_ok());
        assert!(decide(&gates, &flags, &open, Asked::Tool("two")).is_err());
    }

    #[test]
    fn features_are_gated_where_a_flag_has_their_name() {
        let closed = |flags: &Table, written: Value| {
            let gates = Gates::new(&settings(written), flags);
            let open = Latch::default();
            Feature::ALL.map(|f| decide(&gates, flags, &open, Asked::Feature(f)).is_err())
        };
        let none = table(&[]);
        assert_eq!(closed(&none, json!({})), [false, false, false]);
        let flags = table(&[
            ("mcp_sampling", flag("off", None)),
            ("tasks", flag("on", None)),
        ]);
        assert_eq!(closed(&flags, json!({})), [true, false, false]);
        let gate = json!({ "gates": [{ "flag": "none", "feature": "elicitation" }] });
        assert_eq!(closed(&flags, gate), [true, true, false]);
        let mut forced = table(&[]);
        forced.forced.flags.insert("tasks".parse().unwrap(), false);
        assert_eq!(closed(&forced, json!({})), [false, false, true]);
    }

    #[test]
    fn what_the_process_says_of_a_feature_goes_before_its_flags_whichever_name_it_uses() {
        for defined in [
            &["mcp_sampling"][..],
            &["sampling"],
            &["mcp_sampling", "sampling"],
        ] {
            for forced in ["mcp_sampling", "sampling"] {
                for on in [true, false] {
                    let flags = defined
                        .iter()
                        .map(|name| (*name, flag(if on { "off" } else { "on" }, None)));
                    let mut flags = table(&flags.collect::<Vec<_>>());
                    flags.forced.flags.insert(forced.parse().unwrap(), on);
                    let gates = Gates::new(&settings(json!({})), &flags);
                    let sampling = Asked::Feature(Feature::Sampling);
                    let is_open =
                        |kills: &[&str]| decide(&gates, &flags, &latch(kills), sampling).is_ok();
                    assert_eq!(is_open(&[]), on, "{defined:?} {forced}");
                    // A kill goes before that, of any of its flags.
                    for name in defined {
                        assert!(!is_open(&[&format!("flag:{name}")]), "{name}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_path_that_can_be_read_in_two_ways_is_closed_by_either() {
        let flags = table(&[("a", flag("off", None))]);
        let gates = json!({ "gates": [{ "flag": "a", "path": "/a/export" }, { "flag": "a", "path": "/post", "methods": ["POST"] }] });
        let (gates, open) = (Gates::new(&settings(gates), &flags), Latch::default());
        let is_closed =
            |path, method| decide(&gates, &flags, &open, Asked::Route { path, method }).is_err();
        for path in [
            "/a/export/..;/",
            "/a/export/..;",
            "/a/export/..%20/x",
            "/a/export/%20..",
            "/a/export/..%09",
            "/a/export/..%00",
            "/a/export/%2e%2e;x/",
            "/a/export/%252e%252e/",
            "/a/export%5c..;",
            "/a/x/..;/export",
            "/x/..%2f;/a/export",
            "/a%252fexport",
            "/%2561/%25%36%35xport",
            "/a/export%00.html",
            "/a/export%3fx",
            "/a/export.",
            "/a/export%20.%20/x",
            "/a/%2525252525252565xport",
        ] {
            assert!(is_closed(path, "GET"), "{path}");
        }
        for path in [
            "/a",
            "/a/exports",
            "/a/100%25",
            "/a/.../b",
            "/x/a/export",
            "/b/..;/export",
        ] {
            assert!(!is_closed(path, "GET"), "{path}");
        }
        for (method, is_gated) in [("POST", true), ("post", true), ("GET", false)] {
            assert_eq!(is_closed("/post", method), is_gated, "{method}");
        }
    }

    #[test]
    fn paths_that_lead_upwards_are_found() {
        for (path, up) in [
            ("/mcp/../admin", true),
            ("/mcp/%2e%2E/admin", true),
            ("/mcp/.%2e", true),
            ("/mcp/a%2f..%2fb", true),
            ("/mcp\\..\\b", true),
            ("/mcp/..;x/admin", true),
            ("/mcp/..%20/admin", true),
            ("/mcp/%252e%252e/admin", true),
            ("/mcp/%2525252525252e", true),
            ("/mcp/..a/b..", false),
            ("/mcp/a...b/%2e/x", false),
            ("/mcp/100%25", false),
            ("/mcp", false),
        ] {
            assert_eq!(leads_up(path), up, "{path}");
        }
    }

    const TOOLS: [&str; 5] = ["add", "admin.drop", "kb.read", "kb.write", "search"];
    const SCOPES: [&str; 11] = [
        "service:tools",
        "service:to*",
        "service:other",
        "tool:tools/add",
        "tool:tools/kb.*",
        "tool:*/search",
        "tool:other/add",
        "category:tools/danger",
        "category:t*/kb",
        "category:tools/unknown",
        "admin:read",
    ];
    const DANGER: [&str; 2] = ["admin.*", "kb.write"];
    const KB: [&str; 1] = ["kb.*"];
    const FLAGS: [&str; 3] = ["a", "b", "unknown"];

    /// What there is to say about a caller and a service.
    #[derive(Clone, Debug)]
    struct World {
        role: Role,
        scopes: Vec<&'static str>,
        read_only: Vec<&'static str>,
        /// Whether the flags are on; the last one is not defined.
        on: [bool; 2],
        /// Which flag gates which tools.
        gates: Vec<(usize, Vec<&'static str>)>,
        kills: Vec<(String, Position)>,
    }

    fn worlds() -> impl Strategy<Value = World> {
        let some_of =
            |from: &[&'static str], most| prop::sample::subsequence(from.to_vec(), 0..=most);
        let patterns = [
            "add", "admin.*", "kb.*", "kb.read", "search", "*", "nothing",
        ];
        let gate = (0..FLAGS.len(), some_of(&patterns, 2));
        let tool = prop::sample::select(TOOLS.to_vec());
        let target = prop_oneof![
            4 => tool.clone().prop_map(|tool| format!("tool:tools/{tool}")),
            2 => tool.clone().prop_map(|tool| format!("tool:*/{tool}")),
            1 => tool.prop_map(|tool| format!("tool:other/{tool}")),
            1 => prop::sample::select(vec!["flag:a", "flag:b", "flags"]).prop_map(str::to_owned),
        ];
        let position = prop_oneof![
            2 => Just(Position::Killed),
            1 => Just(Position::Probing { one_in: 3 }),
        ];
        (
            prop::sample::select(vec![Role::Admin, Role::User, Role::ReadOnly]),
            some_of(&SCOPES, 3),
            some_of(&TOOLS, TOOLS.len()),
            any::<[bool; 2]>(),
            prop::collection::vec(gate, 0..3),
            prop::collection::vec((target, position), 0..3),
        )
            .prop_map(|(role, scopes, read_only, on, gates, kills)| World {
                role,
                scopes,
                read_only,
                on,
                gates,
                kills,
            })
    }

    fn fits(pattern: &str, name: &str) -> bool {
        match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => pattern == name,
        }
    }

    fn any_fits(patterns: &[&str], name: &str) -> bool {
        patterns.iter().any(|pattern| fits(pattern, name))
    }

    impl World {
        /// Whether scopes and role reach a tool, as docs/access.md says it.
        fn reaches(&self, tool: &str) -> bool {
            let names = |scope: &&str| {
                let (kind, name) = scope.split_once(':').unwrap();
                let (service, rest) = name.split_once('/').unwrap_or((name, ""));
                fits(service, "tools")
                    && match (kind, rest) {
                        ("service", _) => true,
                        ("tool", rest) => fits(rest, tool),
                        ("category", "danger") => any_fits(&DANGER, tool),
                        ("category", "kb") => any_fits(&KB, tool),
                        _ => false,
                    }
            };
            let mut of_services = self
                .scopes
                .iter()
                .filter(|scope| !scope.starts_with("admin:"));
            (of_services.clone().next().is_none() || of_services.any(names))
                && (self.role != Role::ReadOnly || self.read_only.contains(&tool))
        }

        /// Whether the flags of all its gates are on. A flag that is tried again is what it is.
        fn is_open(&self, tool: &str) -> bool {
            let is_off = |flag: &str| self.position(flag) == Some(Position::Killed);
            let is_on = |flag: usize| {
                self.on.get(flag) == Some(&true)
                    && !is_off("flags")
                    && !is_off(&format!("flag:{}", FLAGS[flag]))
            };
            let mut gates = self.gates.iter();
            gates.all(|(flag, tools)| is_on(*flag) || !any_fits(tools, tool))
        }

        /// What was said last of a target.
        fn position(&self, target: &str) -> Option<Position> {
            let last = self.kills.iter().rfind(|(killed, _)| killed == target);
            last.map(|(_, position)| *position)
        }

        /// Whether it is killed, and if so whether some calls are let through.
        fn killed(&self, tool: &str) -> Option<bool> {
            let of = ["tools", "*"].map(|service| self.position(&format!("tool:{service}/{tool}")));
            let mut of = of.into_iter().flatten().peekable();
            of.peek()?;
            Some(of.all(|position| position != Position::Killed))
        }
    }

    proptest! {
        /// Lists show and calls are let through by this one answer: it must be what scopes, role, gates and kills say together.
        #[test]
        fn a_tool_is_there_if_all_that_has_a_say_lets_it_through(world in worlds()) {
            let defined = FLAGS.iter().zip(world.on);
            let defined = defined.map(|(key, on)| (*key, flag(if on { "on" } else { "off" }, None)));
            let flags = table(&defined.collect::<Vec<_>>());
            let gated = world.gates.iter().filter(|(_, tools)| !tools.is_empty());
            let gated: Vec<_> = gated
                .map(|(flag, tools)| json!({ "flag": FLAGS[*flag], "tools": tools }))
                .collect();
            let settings = settings(json!({
                "categories": { "danger": DANGER, "kb": KB }, "gates": gated,
            }));
            let gates = Gates::new(&settings, &flags);
            let kills = world.kills.iter().map(|(target, position)| (target.as_str(), *position));
            let latch = latch_at(kills);
            let principal = Principal {
                tenant: "acme".parse().unwrap(),
                subject: "k".into(),
                key: None,
                role: world.role,
                scopes: Arc::new(Scopes::new(world.scopes.iter().map(|scope| scope.parse().unwrap()))),
                tier: None,
                until: None,
            };
            let read_only: Vec<Arc<str>> = world.read_only.iter().map(|&tool| tool.into()).collect();
            let access = Access {
                principal: Some(&principal),
                read_only_tools: &read_only,
                ..access(&gates, &flags, &latch)
            };
            for tool in TOOLS {
                let decided = access.decide(Asked::Tool(tool), &mut Answers::new());
                let said = match decided {
                    Ok(()) => Ok(()),
                    Err(Denied::Beyond | Denied::Role) => Err("beyond"),
                    Err(Denied::Hidden) => Err("hidden"),
                    Err(Denied::Killed(stop)) if stop.one_in.is_some() => Err("tried"),
                    Err(Denied::Killed(_)) => Err("killed"),
                };
                let want = if !world.reaches(tool) {
                    Err("beyond")
                } else if !world.is_open(tool) {
                    Err("hidden")
                } else {
                    match world.killed(tool) {
                        None => Ok(()),
                        Some(true) => Err("tried"),
                        Some(false) => Err("killed"),
                    }
                };
                prop_assert_eq!(said, want, "{}", tool);
            }
        }

        #[test]
        fn a_closed_route_stays_closed_however_it_is_written(
            escaped in prop::collection::vec(any::<bool>(), 7),
            capital in prop::collection::vec(any::<bool>(), 7),
            between in "(/|//|/[.]/|%2f)",
            after in "(|/|/x|;v=1|//y%20z)",
        ) {
            let flags = table(&[("a", flag("off", None))]);
            let settings = settings(json!({ "gates": [{ "flag": "a", "path": "/a/export" }] }));
            let (gates, open) = (Gates::new(&settings, &flags), Latch::default());
            let written = "aexport".bytes().zip(escaped.iter().zip(&capital)).map(|(byte, (escaped, capital))| {
                let byte = if *capital { byte.to_ascii_uppercase() } else { byte };
                if *escaped { format!("%{byte:02x}") } else { char::from(byte).to_string() }
            });
            let written: Vec<_> = written.collect();
            let path = format!("/{}{between}{}{after}", written[0], written[1..].concat());
            let asked = Asked::Route { path: &path, method: "GET" };
            prop_assert_eq!(decide(&gates, &flags, &open, asked), Err(Denied::Hidden), "{}", path);
        }

        #[test]
        fn a_path_has_few_other_readings_and_the_decoded_one_is_among_them(path in "/[A-Za-z/]{0,8}", escaped: u16, any: String) {
            let sent: String = path.bytes().enumerate().map(|(at, byte)| match escaped >> at & 1 {
                0 => char::from(byte).to_string(),
                _ => format!("%{byte:02X}"),
            }).collect();
            let others = other_readings(&sent);
            prop_assert!(sent == path || others.contains(&path), "{:?}", others);
            prop_assert!(other_readings(&any).len() <= 2 * UNESCAPED_MAX);
        }

        #[test]
        fn any_path_and_tool_is_decided(path: String, tool: String) {
            let flags = table(&[("a", flag("off", None))]);
            let settings = settings(json!({ "gates": [{ "flag": "a", "path": "/%" }, { "flag": "a", "tools": ["x*"] }] }));
            let (gates, open) = (Gates::new(&settings, &flags), Latch::default());
            let _ = decide(&gates, &flags, &open, Asked::Route { path: &path, method: "GET" });
            let decided = decide(&gates, &flags, &open, Asked::Tool(&tool));
            prop_assert_eq!(decided.is_ok(), !tool.starts_with('x'));
        }
    }
}
