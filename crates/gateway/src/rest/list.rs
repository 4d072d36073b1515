//! The tools of a version: all pages of `tools/list`, in which admission leaves what belongs to it and is there for the caller.

use super::{
    answer::problem_of,
    ask::{Client, Question},
    problem::{About, Problem},
};
use crate::refusal::Refusal;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use std::borrow::Cow;

/// Most pages of a list. A server that has more of them turns in a circle.
const PAGES_MAX: usize = 100;
/// Most tools.
const TOOLS_MAX: usize = serin_mcp::contract::MAX_TOOLS;
/// Largest list, in bytes.
const LIST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The tools that a caller has of a version.
pub(crate) struct Listed {
    pub(crate) headers: HeaderMap,
    /// Each as its server describes it.
    pub(crate) tools: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page<'a> {
    #[serde(borrow)]
    tools: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    next_cursor: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

/// The name of a tool.
pub(crate) fn name_of(tool: &RawValue) -> Option<Cow<'_, str>> {
    let named: Named<'_> = serde_json::from_str(tool.get()).ok()?;
    Some(named.name)
}

/// Asks for all of them.
pub(crate) async fn tools(client: &Client) -> Result<Listed, Refusal> {
    let mut tools = Vec::new();
    let (mut params, mut bytes) = (String::new(), 0);
    for _ in 0..PAGES_MAX {
        let question = Question {
            method: "tools/list",
            name: None,
            params: &params,
            progress: false,
            mirrored: &[],
        };
        let started = client.ask(&question).await?;
        let about = About::default();
        let (headers, answer) = started.answer(about, &mut |_| {}).await?;
        let page = problem_of(answer, about).map_err(|problem| problem.refuse())?;
        bytes += page.get().len();
        let page: Page<'_> = serde_json::from_str(page.get())
            .map_err(|error| unlike(&format!("the server's list of tools is none: {error}")))?;
        tools.extend(page.tools.into_iter().map(ToOwned::to_owned));
        if tools.len() > TOOLS_MAX || bytes > LIST_BYTES_MAX {
            break;
        }
        let Some(cursor) = page.next_cursor else {
            return Ok(Listed { headers, tools });
        };
        params = match serde_json::to_string(&cursor) {
            Ok(cursor) => format!("\"cursor\":{cursor},"),
            Err(error) => return Err(unlike(&error.to_string())),
        };
    }
    Err(unlike(&format!(
        "the server's list of tools has more than {PAGES_MAX} pages, {TOOLS_MAX} tools or {LIST_BYTES_MAX} bytes"
    )))
}

/// What a tool wants for arguments, as its server says.
pub(crate) async fn input_schema(client: &Client, tool: &str) -> Option<Value> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Described {
        input_schema: Value,
    }
    let listed = tools(&client.aside()).await.ok()?;
    let mut tools = listed.tools.iter();
    let found = tools.find(|known| name_of(known).as_deref() == Some(tool))?;
    let described: Described = serde_json::from_str(found.get()).ok()?;
    Some(described.input_schema)
}

fn unlike(detail: &str) -> Refusal {
    Problem::new(StatusCode::BAD_GATEWAY, "bad_answer", detail).refuse()
}
