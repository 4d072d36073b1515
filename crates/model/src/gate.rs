//! Gates: what of a service a flag opens and closes.

use serde::{Deserialize, Serialize};
use serin_flags::FlagKey;
use std::{collections::BTreeMap, fmt, sync::Arc};

/// Most gates of a service.
pub const GATES_MAX: usize = 200;
/// Most patterns of one gate or category.
pub const PATTERNS_MAX: usize = 500;

/// Named sets of tools, by patterns as in [`Gated::Tools`].
pub type Categories = BTreeMap<String, Vec<String>>;

/// Something of a service that is there only where a flag answers `true`. A flag that does not exist closes its gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Gate {
    /// The flag.
    pub flag: FlagKey,
    /// What it opens.
    pub gated: Gated,
}

/// What a gate opens and closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gated {
    /// Tools by name; a `*` at the end stands for any rest.
    Tools(Vec<String>),
    /// The tools of a category of the service.
    Category(String),
    /// A feature of the protocol.
    Feature(Feature),
    /// A part of a plain HTTP service.
    Route {
        /// Its path below the service's, whole segments, such as `/export`.
        path: String,
        /// The methods; empty means all.
        methods: Vec<String>,
    },
}

/// Names of tools, as gates, categories and limits write them: one, or with a `*` at its end all that begin so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolPattern {
    /// This one.
    Name(Arc<str>),
    /// All that begin so.
    Beginning(Arc<str>),
}

impl ToolPattern {
    /// What a text says.
    pub fn new(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(beginning) => Self::Beginning(beginning.into()),
            None => Self::Name(text.into()),
        }
    }

    /// Whether a tool is one of them.
    pub fn fits(&self, tool: &str) -> bool {
        match self {
            Self::Name(name) => **name == *tool,
            Self::Beginning(beginning) => tool.starts_with(&**beginning),
        }
    }
}

/// Features of MCP that can be hidden from both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Feature {
    /// The server asks the client's model.
    Sampling,
    /// The server asks the client's user.
    Elicitation,
    /// Calls that go on behind an id.
    Tasks,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sampling, Self::Elicitation, Self::Tasks];

    /// As it is written, and as capabilities call it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Sampling => "sampling",
            Self::Elicitation => "elicitation",
            Self::Tasks => "tasks",
        }
    }

    /// The names of the flags that gate it where no gate does.
    pub const fn flags(self) -> [&'static str; 2] {
        match self {
            Self::Sampling => ["mcp_sampling", "sampling"],
            Self::Elicitation => ["mcp_elicitation", "elicitation"],
            Self::Tasks => ["mcp_tasks", "tasks"],
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

/// A gate as it stands in a file: one of its last four fields says what it opens.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    flag: FlagKey,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tools: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    category: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    feature: Option<Feature>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    methods: Vec<String>,
}

impl TryFrom<Written> for Gate {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let has_methods = !written.methods.is_empty();
        let tools = (!written.tools.is_empty()).then_some(written.tools);
        let gated = match (tools, written.category, written.feature, written.path) {
            (Some(tools), None, None, None) => Gated::Tools(tools),
            (None, Some(category), None, None) => Gated::Category(category),
            (None, None, Some(feature), None) => Gated::Feature(feature),
            (None, None, None, Some(path)) => Gated::Route {
                path,
                methods: written.methods,
            },
            _ => {
                return Err(
                    "a gate opens one thing: write `tools`, `category`, `feature` or `path`, and only one of them"
                        .to_owned(),
                );
            }
        };
        if has_methods && !matches!(gated, Gated::Route { .. }) {
            return Err("`methods` belong to a gate with a `path`".to_owned());
        }
        Ok(Self {
            flag: written.flag,
            gated,
        })
    }
}

impl From<Gate> for Written {
    fn from(gate: Gate) -> Self {
        let mut written = Self {
            flag: gate.flag,
            tools: Vec::new(),
            category: None,
            feature: None,
            path: None,
            methods: Vec::new(),
        };
        match gate.gated {
            Gated::Tools(tools) => written.tools = tools,
            Gated::Category(category) => written.category = Some(category),
            Gated::Feature(feature) => written.feature = Some(feature),
            Gated::Route { path, methods } => {
                written.path = Some(path);
                written.methods = methods;
            }
        }
        written
    }
}
