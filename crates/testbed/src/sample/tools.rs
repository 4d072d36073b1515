//! The sample's tools: their contract as data, their work as pure functions.
//!
//! The names are those of the Stage I expansion: nine tools in the first set, three more in the second, the nine unchanged, and in the
//! third the four that write content in steps.

use std::sync::Arc;

use rmcp::model::{JsonObject, Tool};
use serde_json::{Value, json};

/// Which tools a sample offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ToolSet {
    /// Nine tools.
    #[default]
    V1,
    /// The same nine and three more.
    V2,
    /// The same twelve and those of the content pipeline.
    V3,
}

/// Asks the user for a confirmation: an elicitation, in the words of the caller's era.
pub const ELICITING_TOOL: &str = "update_brand_voice";
/// Reports progress while it works.
pub const PROGRESS_TOOL: &str = "upload_documents";
/// Becomes a task where the caller knows tasks.
pub const TASK_TOOL: &str = "generate_embeddings";

/// How many tools of the table the first set has.
const V1_TOOLS: usize = 9;
/// How many the second has.
const V2_TOOLS: usize = 12;

impl ToolSet {
    /// The names of the tools, in the order of `tools/list`.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        self.specs().iter().map(|spec| spec.name)
    }

    /// Arguments that the tool accepts, of a variety that `seed` picks from; optional ones are left out. `None` where the
    /// set has no such tool.
    pub fn example(self, tool: &str, seed: u64) -> Option<Value> {
        let arguments = self.find(tool)?.arguments;
        let example = arguments
            .iter()
            .filter(|argument| argument.required)
            .map(|argument| {
                let value = match argument.kind {
                    "string" => json!(format!("{} {seed}", argument.name)),
                    "array" => json!([format!("first {seed}"), format!("second {seed}")]),
                    "object" => json!({ "topic": format!("topic {seed}") }),
                    _ => json!(seed),
                };
                (argument.name.to_owned(), value)
            });
        Some(Value::Object(example.collect()))
    }

    pub(super) fn specs(self) -> &'static [Spec] {
        match self {
            Self::V1 => &TOOLS[..V1_TOOLS],
            Self::V2 => &TOOLS[..V2_TOOLS],
            Self::V3 => TOOLS,
        }
    }

    pub(super) fn find(self, name: &str) -> Option<&'static Spec> {
        self.specs().iter().find(|spec| spec.name == name)
    }
}

/// One tool.
pub(super) struct Spec {
    pub(super) name: &'static str,
    title: &'static str,
    description: &'static str,
    arguments: &'static [Argument],
    run: fn(&JsonObject) -> Value,
}

struct Argument {
    name: &'static str,
    kind: &'static str,
    required: bool,
}

const fn needs(name: &'static str, kind: &'static str) -> Argument {
    Argument {
        name,
        kind,
        required: true,
    }
}

const fn takes(name: &'static str, kind: &'static str) -> Argument {
    Argument {
        name,
        kind,
        required: false,
    }
}

static TOOLS: &[Spec] = &[
    Spec {
        name: "generate_content",
        title: "Generate content",
        description: "Writes a post about a topic.",
        arguments: &[needs("topic", "string"), takes("tone", "string")],
        run: |arguments| {
            let (topic, tone) = (text(arguments, "topic"), text(arguments, "tone"));
            let tone = if tone.is_empty() { "plain" } else { tone };
            json!(format!("{topic}, in a {tone} tone"))
        },
    },
    Spec {
        name: "search_knowledge",
        title: "Search the knowledge base",
        description: "Hybrid search, vectors and full text.",
        arguments: &[needs("query", "string"), takes("limit", "integer")],
        run: |arguments| {
            let limit = integer(arguments, "limit").clamp(1, 20);
            let found = digest(text(arguments, "query"));
            json!(
                (0..limit)
                    .map(|rank| format!("entry-{}", found.wrapping_add(rank) % 1000))
                    .collect::<Vec<_>>()
            )
        },
    },
    Spec {
        name: "get_entry",
        title: "Get an entry",
        description: "One entry of the knowledge base.",
        arguments: &[needs("id", "string")],
        run: |arguments| {
            let id = text(arguments, "id");
            json!({ "id": id, "title": format!("Entry {id}"), "words": digest(id) % 900 })
        },
    },
    Spec {
        name: "find_similar",
        title: "Find similar entries",
        description: "The entries nearest to one.",
        arguments: &[needs("id", "string")],
        run: |arguments| {
            let near = digest(text(arguments, "id"));
            json!([
                format!("entry-{}", near % 1000),
                format!("entry-{}", near / 7 % 1000)
            ])
        },
    },
    Spec {
        name: "get_brand_voice",
        title: "Get the brand voice",
        description: "The brand's profile.",
        arguments: &[],
        run: |_| json!({ "tone": "friendly", "avoid": ["jargon"] }),
    },
    Spec {
        name: ELICITING_TOOL,
        title: "Change the brand voice",
        description: "Changes the brand's tone after the user has confirmed it.",
        arguments: &[needs("tone", "string")],
        run: |arguments| json!({ "tone": text(arguments, "tone"), "avoid": ["jargon"] }),
    },
    Spec {
        name: PROGRESS_TOOL,
        title: "Upload documents",
        description: "Parses documents and reports progress for each.",
        arguments: &[needs("documents", "array"), takes("step_ms", "integer")],
        run: |arguments| json!({ "parsed": documents(arguments) }),
    },
    Spec {
        name: TASK_TOOL,
        title: "Generate embeddings",
        description: "Embeds a text; a task where the client knows tasks.",
        arguments: &[needs("text", "string"), takes("step_ms", "integer")],
        run: |arguments| {
            let seed = digest(text(arguments, "text"));
            json!([seed % 97, seed / 97 % 97, seed / 9409 % 97])
        },
    },
    Spec {
        name: "calculate_roi",
        title: "Calculate the return",
        description: "Return on investment in percent.",
        arguments: &[needs("spend", "number"), needs("revenue", "number")],
        run: |arguments| {
            let (spend, revenue) = (number(arguments, "spend"), number(arguments, "revenue"));
            if spend > 0.0 {
                json!(100.0 * (revenue - spend) / spend)
            } else {
                Value::Null
            }
        },
    },
    Spec {
        name: "categorize_entries",
        title: "Categorize entries",
        description: "Sorts an entry into a category.",
        arguments: &[needs("id", "string")],
        run: |arguments| {
            let id = digest(text(arguments, "id"));
            json!(if id.is_multiple_of(2) {
                "guide"
            } else {
                "news"
            })
        },
    },
    Spec {
        name: "detect_gaps",
        title: "Detect gaps",
        description: "What the knowledge base does not cover.",
        arguments: &[takes("topic", "string")],
        run: |arguments| json!([format!("pricing of {}", text(arguments, "topic"))]),
    },
    Spec {
        name: "rerank_candidates",
        title: "Rerank candidates",
        description: "Sorts candidates by score.",
        arguments: &[needs("candidates", "array")],
        run: |arguments| {
            let mut candidates: Vec<String> = arguments
                .get("candidates")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .map(Value::to_string)
                .collect();
            candidates.sort_by_key(|candidate| digest(candidate));
            json!(candidates)
        },
    },
    Spec {
        name: "parse_intent",
        title: "Parse the intent",
        description: "What a message asks for: a channel and a topic.",
        arguments: &[
            needs("user_message", "string"),
            takes("session_id", "string"),
        ],
        run: |arguments| {
            let message = text(arguments, "user_message");
            let (order, topic) = message.split_once(" about ").unwrap_or(("", message));
            let channel = if order.contains("LinkedIn") {
                "linkedin"
            } else {
                "web"
            };
            json!({ "channel": channel, "topic": topic })
        },
    },
    Spec {
        name: "retrieve_skills",
        title: "Retrieve skills",
        description: "The skills that fit an intent best.",
        arguments: &[needs("intent_spec", "object"), takes("top_k", "integer")],
        run: |arguments| {
            let most = integer(arguments, "top_k").clamp(1, 10);
            let skills = (1..=most).map(|rank| json!({ "id": format!("skill-{rank}") }));
            json!({ "skills": skills.collect::<Vec<_>>() })
        },
    },
    Spec {
        name: "generate_multi_candidate",
        title: "Generate candidates",
        description: "Writes a text for each skill.",
        arguments: &[
            needs("intent_spec", "object"),
            needs("skills", "array"),
            takes("brand_voice", "object"),
        ],
        run: |arguments| {
            let skills = arguments.get("skills").and_then(Value::as_array);
            let topic = &arguments["intent_spec"]["topic"];
            let topic = topic.as_str().unwrap_or("nothing");
            let write = |skill: &Value| json!({ "text": format!("{topic}, by {}", skill["id"]) });
            let candidates = skills.into_iter().flatten().map(write);
            json!({ "candidates": candidates.collect::<Vec<_>>() })
        },
    },
    Spec {
        name: "run_guards",
        title: "Run the guards",
        description: "Checks a candidate against the intent and the brand.",
        arguments: &[
            needs("candidate", "object"),
            needs("intent_spec", "object"),
            takes("brand_profile", "object"),
        ],
        run: |arguments| {
            let written = arguments["candidate"]["text"].as_str().unwrap_or("");
            let topic = arguments["intent_spec"]["topic"].as_str().unwrap_or("");
            json!({ "pass": written.contains(topic), "guards": ["topic"] })
        },
    },
];

impl Spec {
    /// The tool as `tools/list` shows it.
    pub(super) fn tool(&self) -> Tool {
        let mut properties = JsonObject::new();
        for argument in self.arguments {
            properties.insert(argument.name.into(), json!({ "type": argument.kind }));
        }
        properties.insert(
            "nonce".into(),
            json!({ "type": "string", "description": "Comes back in the answer." }),
        );
        let required: Vec<_> = self
            .arguments
            .iter()
            .filter(|argument| argument.required)
            .map(|argument| argument.name)
            .collect();
        Tool::new(
            self.name,
            self.description,
            object(json!({ "type": "object", "properties": properties, "required": required })),
        )
        .with_title(self.title)
        .with_raw_output_schema(object(json!({
            "type": "object",
            "properties": {
                "version": { "type": "string" },
                "endpoint": { "type": "string" },
                "session": { "type": "string" },
                "nonce": { "type": "string" },
                "answer": {},
            },
            "required": ["version", "endpoint", "answer"],
        })))
    }

    /// The first required argument that is missing or of the wrong type.
    pub(super) fn missing(&self, arguments: &JsonObject) -> Option<&'static str> {
        self.arguments
            .iter()
            .find(|argument| match arguments.get(argument.name) {
                None => argument.required,
                Some(value) => !match argument.kind {
                    "string" => value.is_string(),
                    "integer" => value.is_u64(),
                    "number" => value.is_number(),
                    "object" => value.is_object(),
                    _ => value.is_array(),
                },
            })
            .map(|argument| argument.name)
    }

    /// The tool's answer to arguments in which nothing is missing.
    pub(super) fn run(&self, arguments: &JsonObject) -> Value {
        (self.run)(arguments)
    }
}

/// How many documents an upload has.
pub(super) fn documents(arguments: &JsonObject) -> usize {
    arguments
        .get("documents")
        .and_then(Value::as_array)
        .map_or(0, Vec::len)
}

pub(super) fn text<'a>(arguments: &'a JsonObject, name: &str) -> &'a str {
    arguments.get(name).and_then(Value::as_str).unwrap_or("")
}

pub(super) fn integer(arguments: &JsonObject, name: &str) -> u64 {
    arguments.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn number(arguments: &JsonObject, name: &str) -> f64 {
    arguments.get(name).and_then(Value::as_f64).unwrap_or(0.0)
}

/// FNV-1a: all that the tools need to look as if they worked on their input.
fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn object(value: Value) -> Arc<JsonObject> {
    match value {
        Value::Object(object) => Arc::new(object),
        _ => Arc::default(),
    }
}
