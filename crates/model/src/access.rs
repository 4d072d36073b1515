//! Access: what of a service a caller may see and call. One function answers it for calls, lists, routes and features, so that they
//! agree.

use crate::{
    gate::{Feature, Gated},
    service::ServiceSettings,
};
use serde_json::{Map, Value};
use serin_flags::{Context, Evaluation, FlagKey, Latch, Reason, Table, kill::Stop};
use std::sync::Arc;

/// The gates of a service, in the form in which they are asked. Made when the routing table is built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gates {
    tools: Vec<(FlagKey, Vec<Pattern>)>,
    features: Vec<(FlagKey, Feature)>,
    routes: Vec<RouteGate>,
}

/// Names of tools.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    /// This one.
    Name(Arc<str>),
    /// All that begin so.
    Beginning(Arc<str>),
}

impl Pattern {
    fn new(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(beginning) => Self::Beginning(beginning.into()),
            None => Self::Name(text.into()),
        }
    }

    fn fits(&self, tool: &str) -> bool {
        match self {
            Self::Name(name) => **name == *tool,
            Self::Beginning(beginning) => tool.starts_with(&**beginning),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct RouteGate {
    flag: FlagKey,
    /// Plain segments, lower case.
    path: Vec<String>,
    /// Upper case; empty means all.
    methods: Vec<String>,
}

impl Gates {
    /// The gates of a service. A feature without one is gated by the flag `mcp_FEATURE` or `FEATURE` where there is such a flag.
    pub fn new(settings: &ServiceSettings, flags: &Table) -> Self {
        let mut gates = Self::default();
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
                    path: segments(path),
                    methods: methods.iter().map(|m| m.to_ascii_uppercase()).collect(),
                }),
            }
        }
        for feature in Feature::ALL {
            if gates.features.iter().all(|(_, gated)| *gated != feature) {
                let named = [format!("mcp_{feature}"), feature.to_string()];
                let named = named.iter().filter_map(|name| known(flags, name));
                gates.features.extend(named.map(|flag| (flag, feature)));
            }
        }
        gates
    }

    fn gate_tools(&mut self, flag: FlagKey, tools: &[String]) {
        let patterns = tools.iter().map(|tool| Pattern::new(tool)).collect();
        self.tools.push((flag, patterns));
    }

    /// Whether tools are gated.
    pub fn has_tools(&self) -> bool {
        !self.tools.is_empty()
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

/// The flag of this name, if it is defined or named by the process's environment.
fn known(flags: &Table, name: &str) -> Option<FlagKey> {
    let defined = flags.flags.get_key_value(name).map(|(key, _)| key);
    let forced = || flags.forced.flags.get_key_value(name).map(|(key, _)| key);
    defined.or_else(forced).cloned()
}

/// What a path says to a server that reads it generously: unescaped once, empty and dotted segments and what stands behind a `;`
/// left out, in lower case. A gate that is read more narrowly than the server reads would be no gate.
fn segments(path: &str) -> Vec<String> {
    let plain = unescaped(path).replace('\\', "/").to_lowercase();
    let mut segments = Vec::new();
    for segment in plain.split('/') {
        match segment.split(';').next().unwrap_or_default().trim() {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment.to_owned()),
        }
    }
    segments
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
    /// The caller. For tools, `tool` is added to the attributes.
    pub context: Context<'a>,
}

impl<'a> Access<'a> {
    /// Whether the caller may see and call what is asked for. All of its gates must be open, and then it must not be killed: whoever
    /// may not see it is not told that it is killed.
    ///
    /// # Errors
    /// Why it is not there.
    pub fn decide(&self, asked: Asked<'_>, answers: &mut Answers<'a>) -> Result<(), Denied<'a>> {
        let gates = self.gates;
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
        };
        if !is_open {
            return Err(Denied::Hidden);
        }
        match asked {
            Asked::Tool(tool) => match self.latch.stops_tool(self.service, tool) {
                Some(stop) => Err(Denied::Killed(stop)),
                None => Ok(()),
            },
            Asked::Feature(_) | Asked::Route { .. } => Ok(()),
        }
    }

    fn is_open(&self, path: &str, method: &str, answers: &mut Answers<'a>) -> bool {
        let path = segments(path);
        // HEAD is GET without the body (RFC 9110 section 9.3.2).
        let is_of = |gate: &&RouteGate| {
            gate.methods.is_empty()
                || gate
                    .methods
                    .iter()
                    .any(|m| m == method || (m == "GET" && method == "HEAD"))
        };
        self.gates
            .routes
            .iter()
            .filter(|gate| path.starts_with(&gate.path))
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
