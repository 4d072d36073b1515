//! Questions to an MCP server, one at a time and bounded: which eras it speaks, which tools it lists. Control side only; no
//! client's call ever comes this way.

use crate::asker::{self, Asker};
use futures_util::StreamExt;
use reqwest::{Client, ClientBuilder, Response, StatusCode, header};
use serde_json::{Value, json};
use serin_tls::ClientConfig;
use std::time::Duration;

/// The version in which modern questions are asked.
const MODERN: &str = "2026-07-28";
/// The version in which legacy questions are asked.
const LEGACY: &str = "2025-11-25";
/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most pages of a list that are turned.
const PAGES_MAX: usize = 100;

/// Time for one question, unless a service's health check says otherwise.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

/// The client for questions to everybody whose certificate the system trusts.
pub(crate) fn client() -> Client {
    // It cannot fail: what is set is ours.
    client_with(asker::system_trust(), |builder| builder).unwrap_or_default()
}

/// A client for questions: it trusts those only, follows no redirects, knows no proxies, and waits no longer than [`TIMEOUT`] unless
/// a question says otherwise. All clients of the control side are made here.
pub(crate) fn client_with(
    trust: ClientConfig,
    more: impl FnOnce(ClientBuilder) -> ClientBuilder,
) -> reqwest::Result<Client> {
    let builder = Client::builder()
        .tls_backend_preconfigured(trust)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(TIMEOUT)
        .timeout(TIMEOUT);
    more(builder).build()
}

/// Which eras an endpoint speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Eras {
    pub(crate) legacy: bool,
    pub(crate) modern: bool,
}

impl std::fmt::Display for Eras {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match (self.legacy, self.modern) {
            (true, true) => "legacy and modern",
            (true, false) => "legacy",
            (false, true) => "modern",
            (false, false) => "neither era",
        })
    }
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("{url} does not answer: {}", root(source))]
    Transport { url: String, source: reqwest::Error },
    #[error("{url} answers with status {status}")]
    Status { url: String, status: StatusCode },
    #[error("{url} answers with something that is not MCP")]
    NotMcp { url: String },
}

/// The last cause of an error, which is the one that says something.
fn root(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// A question without an answer, with the address that was asked.
pub(crate) fn no_answer(url: &str, source: reqwest::Error) -> AskError {
    AskError::Transport {
        url: url.to_owned(),
        source,
    }
}

/// Asks a server who it is, within so much time.
pub(crate) async fn discover(
    client: &Asker,
    url: &str,
    timeout: Duration,
) -> Result<Value, AskError> {
    modern(client, url, "server/discover", json!({}), timeout).await
}

/// Which eras an endpoint speaks.
pub(crate) async fn eras(client: &Asker, url: &str) -> Result<Eras, AskError> {
    let modern = match discover(client, url, TIMEOUT).await {
        Ok(_) => true,
        Err(AskError::Transport { url, source }) => {
            return Err(AskError::Transport { url, source });
        }
        Err(_) => false,
    };
    let legacy = match Session::open(client, url).await {
        Ok(session) => {
            session.close().await;
            true
        }
        Err(AskError::Transport { url, source }) => {
            return Err(AskError::Transport { url, source });
        }
        Err(_) => false,
    };
    Ok(Eras { legacy, modern })
}

/// The tools that an endpoint lists, all pages.
pub(crate) async fn tools(client: &Asker, url: &str) -> Result<Vec<Value>, AskError> {
    match modern_tools(client, url).await {
        Err(AskError::Status { .. } | AskError::NotMcp { .. }) => {
            let session = Session::open(client, url).await?;
            let tools = session.tools().await;
            session.close().await;
            tools
        }
        other => other,
    }
}

async fn modern_tools(client: &Asker, url: &str) -> Result<Vec<Value>, AskError> {
    let mut tools = Vec::new();
    let mut params = json!({});
    for _ in 0..PAGES_MAX {
        let mut result = modern(client, url, "tools/list", params, TIMEOUT).await?;
        match turn(&mut result, &mut tools) {
            Some(cursor) => params = json!({ "cursor": cursor }),
            None => break,
        }
    }
    Ok(tools)
}

/// Takes the tools off a page and returns the cursor of the next.
fn turn(page: &mut Value, tools: &mut Vec<Value>) -> Option<Value> {
    if let Some(Value::Array(found)) = page.get_mut("tools").map(Value::take) {
        tools.extend(found);
    }
    page.get_mut("nextCursor")
        .map(Value::take)
        .filter(Value::is_string)
}

async fn modern(
    client: &Asker,
    url: &str,
    method: &str,
    mut params: Value,
    timeout: Duration,
) -> Result<Value, AskError> {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": who(),
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let request = client
        .post(url)
        .header("mcp-protocol-version", MODERN)
        .header("mcp-method", method)
        .header(header::ACCEPT, "application/json, text/event-stream")
        .timeout(timeout)
        .json(&json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }));
    answer(url, request.send().await).await
}

fn who() -> Value {
    json!({ "name": "serin", "version": env!("CARGO_PKG_VERSION") })
}

/// A legacy session of our own.
struct Session<'a> {
    client: &'a Asker,
    url: &'a str,
    id: Option<header::HeaderValue>,
}

impl<'a> Session<'a> {
    async fn open(client: &'a Asker, url: &'a str) -> Result<Self, AskError> {
        let params = json!({ "protocolVersion": LEGACY, "capabilities": {}, "clientInfo": who() });
        let bare = Session {
            client,
            url,
            id: None,
        };
        let response = bare.post("initialize", Some(1), params).await;
        let id = response
            .as_ref()
            .ok()
            .and_then(|r| r.headers().get("mcp-session-id").cloned());
        answer(url, response).await?;
        let session = Session { client, url, id };
        session
            .post("notifications/initialized", None, json!({}))
            .await
            .map_err(|source| no_answer(url, source))?;
        Ok(session)
    }

    async fn tools(&self) -> Result<Vec<Value>, AskError> {
        let mut tools = Vec::new();
        let mut params = json!({});
        for _ in 0..PAGES_MAX {
            let mut result =
                answer(self.url, self.post("tools/list", Some(2), params).await).await?;
            match turn(&mut result, &mut tools) {
                Some(cursor) => params = json!({ "cursor": cursor }),
                None => break,
            }
        }
        Ok(tools)
    }

    async fn post(
        &self,
        method: &str,
        id: Option<u64>,
        params: Value,
    ) -> Result<Response, reqwest::Error> {
        let mut message = json!({ "jsonrpc": "2.0", "method": method, "params": params });
        if let Some(id) = id {
            message["id"] = id.into();
        }
        let mut request = self
            .client
            .post(self.url)
            .header("mcp-protocol-version", LEGACY)
            .header(header::ACCEPT, "application/json, text/event-stream")
            .timeout(TIMEOUT)
            .json(&message);
        if let Some(id) = &self.id {
            request = request.header("mcp-session-id", id);
        }
        request.send().await
    }

    /// Says good-bye; a server that does not listen forgets the session by itself.
    async fn close(self) {
        if let Some(id) = &self.id {
            let request = self
                .client
                .delete(self.url)
                .header("mcp-session-id", id)
                .timeout(TIMEOUT);
            let _ = request.header("mcp-protocol-version", LEGACY).send().await;
        }
    }
}

/// The result in an answer, be it JSON or a stream of events.
async fn answer(url: &str, response: Result<Response, reqwest::Error>) -> Result<Value, AskError> {
    let failed = |source| no_answer(url, source);
    let response = response.map_err(failed)?;
    if !response.status().is_success() {
        return Err(AskError::Status {
            url: url.to_owned(),
            status: response.status(),
        });
    }
    let is_stream = response
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("text/event-stream"));
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(piece) = stream.next().await {
        body.extend_from_slice(&piece.map_err(failed)?);
        if body.len() > ANSWER_BYTES_MAX {
            break;
        }
        if is_stream && let Some(result) = result_in_events(&body) {
            return Ok(result);
        }
    }
    let result = if is_stream {
        result_in_events(&body)
    } else {
        result_in(&body)
    };
    result.ok_or_else(|| AskError::NotMcp {
        url: url.to_owned(),
    })
}

/// The result in the first complete event that has one. The servers we ask write each message on one `data` line.
fn result_in_events(body: &[u8]) -> Option<Value> {
    let complete = &body[..=body.iter().rposition(|b| *b == b'\n')?];
    complete
        .split(|b| *b == b'\n')
        .filter_map(|line| line.strip_prefix(b"data:"))
        .find_map(result_in)
}

fn result_in(text: &[u8]) -> Option<Value> {
    let mut message: Value = serde_json::from_slice(text).ok()?;
    message
        .get_mut("result")
        .map(Value::take)
        .filter(Value::is_object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_found_in_a_stream_of_events() {
        let body = b": hello\r\nid: 1\r\ndata:\r\n\r\nevent: message\r\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"x\"}\r\n\r\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[]}}\r\n\r\n";
        assert_eq!(result_in_events(body), Some(json!({ "tools": [] })));
        for cut in 0..body.len() - 4 {
            assert_eq!(result_in_events(&body[..cut]), None, "{cut}");
        }
    }
}
