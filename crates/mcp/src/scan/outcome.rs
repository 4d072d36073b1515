//! What one answer says about the call.

use crate::error::{INVALID_PARAMS, URL_ELICITATION_REQUIRED};

/// How a call ended, as far as its response's body says, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// A result.
    Ok,
    /// The server wants input before it goes on: neutral. 2026-07-28 says so by
    /// `resultType: "input_required"`, 2025-11-25 by the error -32042 (URL elicitation required).
    InputRequired,
    /// A result with `isError: true`.
    ToolError {
        /// The error says that the arguments were wrong: the model's fault, not the tool's.
        called_badly: bool,
    },
    /// A JSON-RPC error.
    RpcError {
        /// Its code; 0 where it has none.
        code: i64,
        /// Invalid params (-32602), which MCP also uses for an unknown tool. A version that lost a
        /// tool answers so as well: the tool contract's difference tells the two apart.
        called_badly: bool,
    },
    /// The body is not JSON, or was cut off.
    Malformed,
}

impl Outcome {
    fn rank(self) -> u8 {
        match self {
            Outcome::Ok => 0,
            Outcome::InputRequired => 1,
            Outcome::ToolError { called_badly: true } => 2,
            Outcome::RpcError {
                called_badly: true, ..
            } => 3,
            Outcome::ToolError {
                called_badly: false,
            } => 4,
            Outcome::RpcError {
                called_badly: false,
                ..
            } => 5,
            Outcome::Malformed => 6,
        }
    }

    /// The worse of two; the first where they are as bad.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        if other.rank() > self.rank() {
            other
        } else {
            self
        }
    }
}

/// `result.resultType` (2026-07-28).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResultType {
    /// `complete`.
    Complete,
    /// `input_required`.
    InputRequired,
    /// `task`.
    Task,
    /// Another one.
    Other,
}

impl ResultType {
    pub(super) fn of(text: &str) -> Self {
        match text {
            "complete" => ResultType::Complete,
            "input_required" => ResultType::InputRequired,
            "task" => ResultType::Task,
            _ => ResultType::Other,
        }
    }
}

/// One answer in a body.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The id as it stands in the body (JSON text), to find the request of a batch; `None` where it is
    /// missing, `null`, or longer than any real id.
    pub id: Option<Box<str>>,
    /// How the call ended.
    pub outcome: Outcome,
    /// `result.resultType`, where there is one.
    pub result_type: Option<ResultType>,
    /// The numbers that were watched for and found: the place of the pointer among those watched, and the number. Where a key
    /// stands twice it is the last one.
    pub numbers: Vec<(u16, f64)>,
}

/// What is known of a message before its end.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) has_id: bool,
    pub(super) id: Option<Box<str>>,
    /// There is a method, and it is a notification about tasks.
    pub(super) about_tasks: Option<bool>,
    pub(super) has_result: bool,
    /// The code of the error, if there is one; 0 until it is read.
    pub(super) error_code: Option<i64>,
    pub(super) is_error: bool,
    pub(super) result_type: Option<ResultType>,
    pub(super) blame: Blame,
    /// Elements of `content` so far.
    pub(super) blocks: u32,
    pub(super) numbers: Vec<(u16, f64)>,
}

impl Draft {
    /// A number was found where a pointer leads.
    pub(super) fn found(&mut self, pointer: u16, number: f64) {
        match self.numbers.iter_mut().find(|(known, _)| *known == pointer) {
            Some((_, known)) => *known = number,
            None => self.numbers.push((pointer, number)),
        }
    }

    pub(super) fn is_server_request(&self) -> bool {
        self.has_id && self.about_tasks.is_some()
    }

    /// The answer that this message is, if it is one.
    pub(super) fn answer(&mut self) -> Option<Answer> {
        if self.about_tasks.is_some() || !(self.has_result || self.error_code.is_some()) {
            return None;
        }
        let outcome = if self.error_code == Some(URL_ELICITATION_REQUIRED) {
            Outcome::InputRequired
        } else if let Some(code) = self.error_code {
            Outcome::RpcError {
                code,
                called_badly: code == INVALID_PARAMS && self.blame != Blame::Tool,
            }
        } else if self.is_error {
            Outcome::ToolError {
                called_badly: self.blame == Blame::Caller,
            }
        } else if self.result_type == Some(ResultType::InputRequired) {
            Outcome::InputRequired
        } else {
            Outcome::Ok
        };
        Some(Answer {
            id: self.id.take(),
            outcome,
            result_type: self.result_type,
            numbers: std::mem::take(&mut self.numbers),
        })
    }
}

/// Whom the text of an error blames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Blame {
    /// It does not say.
    #[default]
    Nobody,
    /// The arguments.
    Caller,
    /// The tool, though the code blames the arguments.
    Tool,
}

/// How much of an error's text is looked at, in bytes: a prefix of an SDK, a tool's name (up to 128)
/// and the start of a message.
pub(super) const BLAME_BYTES: usize = 320;

/// What a TypeScript `McpError` puts before its message; a tool's result carries it too.
const TS_INVALID_PARAMS: &str = "MCP error -32602: ";

/// What Python's `mcp` puts before what a tool raised, followed by the tool's name, a colon and a blank.
const PY_EXECUTING: &str = "Error executing tool ";

/// Starts of error texts by which SDKs say that the arguments were wrong. MCP has no structured field
/// for it (2025-11-25 and 2026-07-28, "Error Handling"), so this is all there is.
const BLAMES_CALLER: [&str; 5] = [
    // Python mcp 1.x low-level server; TypeScript sdk 1.x and server 2.x, behind TS_INVALID_PARAMS or bare.
    "Input validation error",
    // TypeScript: more argument elements than allowed.
    "Invalid arguments for tool ",
    // Python mcp 1.x and fastmcp.
    "Unknown tool: ",
    // rmcp 3.x.
    "failed to deserialize parameters:",
    // rmcp 3.x with an unknown tool, where a server turns it into a result.
    "tool not found",
];

/// Starts of texts by which the same SDKs say that the tool's own output is wrong.
const BLAMES_TOOL: [&str; 1] = [
    // Python mcp 1.x; TypeScript, behind TS_INVALID_PARAMS though it is no fault of the caller.
    "Output validation error",
];

/// Judges an error's text by its raw JSON start (the table holds nothing that JSON escapes).
pub(super) fn blame(raw: &[u8]) -> Blame {
    let text = String::from_utf8_lossy(raw);
    let (text, invalid_params) = match text.strip_prefix(TS_INVALID_PARAMS) {
        Some(rest) => (rest, true),
        None => (&*text, false),
    };
    let text = text
        .strip_prefix(PY_EXECUTING)
        .and_then(|rest| rest.split_once(": "))
        .map_or(text, |(_, rest)| rest);
    if BLAMES_TOOL.iter().any(|start| text.starts_with(start)) {
        Blame::Tool
    } else if invalid_params
        || BLAMES_CALLER.iter().any(|start| text.starts_with(start))
        || is_pydantic_arguments(text)
    {
        Blame::Caller
    } else {
        Blame::Nobody
    }
}

/// `2 validation errors for addArguments` (Python `mcp`) or `1 validation error for call[add]`
/// (fastmcp). A model of another name was validated by the tool itself.
fn is_pydantic_arguments(text: &str) -> bool {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let Some(rest) = text.get(digits..) else {
        return false;
    };
    let model = rest
        .strip_prefix(" validation error for ")
        .or_else(|| rest.strip_prefix(" validation errors for "));
    let Some(model) = model.filter(|_| digits > 0) else {
        return false;
    };
    // A line feed is `\n` in raw JSON.
    let model = model.split('\\').next().unwrap_or_default();
    model.ends_with("Arguments") || (model.starts_with("call[") && model.ends_with(']'))
}
