//! The least MCP server that a benchmark needs: it answers both eras from prepared bytes, so that what is measured is the
//! proxy in front of it.
//!
//! One tool, `get_entry`. Its answer is fixed but for the JSON-RPC id; sessions are opened and never looked up.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{LEGACY_VERSION, MODERN_VERSION},
    serve::{Body, Server, answer},
};

/// The one tool on offer.
pub const TOOL: &str = "get_entry";
/// The largest request body, in bytes.
const BODY_BYTES_MAX: usize = 4 << 20;

/// An upstream that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Upstream(Server);

impl Upstream {
    /// Starts one on the current runtime; `version` is in each of its answers.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(listen: SocketAddr, version: &str) -> io::Result<Self> {
        let prepared = Arc::new(Prepared::new(version));
        let server = Server::start(
            listen,
            CancellationToken::new(),
            move |request, _connection| {
                let prepared = Arc::clone(&prepared);
                async move { prepared.answer(request).await }
            },
            async {},
        )
        .await?;
        Ok(Self(server))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// The URL of its MCP endpoint. Any other path does as well.
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address())
    }

    /// Ends it.
    pub async fn stop(self) {
        self.0.stop().await;
    }
}

/// The results, as JSON, of each method and era.
struct Prepared {
    call: Results,
    list: Results,
    initialize: String,
    discover: String,
    sessions: AtomicU64,
}

struct Results {
    legacy: String,
    modern: String,
}

impl Results {
    /// `modern_only` are the fields that the modern era adds.
    fn new(legacy: &serde_json::Value, modern_only: &serde_json::Value) -> Self {
        let mut modern = legacy.clone();
        for (field, value) in modern_only.as_object().into_iter().flatten() {
            modern[field] = value.clone();
        }
        Self {
            legacy: legacy.to_string(),
            modern: modern.to_string(),
        }
    }

    fn of(&self, modern: bool) -> &str {
        if modern { &self.modern } else { &self.legacy }
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(default)]
    method: Option<&'a str>,
}

impl Prepared {
    fn new(version: &str) -> Self {
        let capabilities = json!({ "tools": {} });
        let server_info = json!({ "name": "serin-upstream", "version": version });
        let lists = json!({ "resultType": "complete", "ttlMs": 60_000, "cacheScope": "private" });
        let complete = json!({ "resultType": "complete" });
        let initialize = json!({
            "protocolVersion": LEGACY_VERSION,
            "capabilities": capabilities,
            "serverInfo": server_info,
        });
        let discover = json!({
            "resultType": "complete",
            "supportedVersions": [LEGACY_VERSION, MODERN_VERSION],
            "capabilities": capabilities,
            "_meta": { "io.modelcontextprotocol/serverInfo": server_info },
            "ttlMs": 60_000,
            "cacheScope": "private",
        });
        let content = json!({ "version": version, "endpoint": "upstream", "answer": "entry 7" });
        Self {
            call: Results::new(
                &json!({
                    "content": [{ "type": "text", "text": content.to_string() }],
                    "structuredContent": content,
                    "isError": false,
                }),
                &complete,
            ),
            list: Results::new(
                &json!({ "tools": [{
                    "name": TOOL,
                    "description": "One entry of the knowledge base.",
                    "inputSchema": {
                        "type": "object",
                        "properties": { "id": { "type": "string" } },
                        "required": ["id"],
                    },
                }] }),
                &lists,
            ),
            initialize: initialize.to_string(),
            discover: discover.to_string(),
            sessions: AtomicU64::new(1),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match *request.method() {
            Method::POST => {}
            Method::DELETE => return plain(StatusCode::OK, ""),
            Method::GET if request.uri().path() == "/health" => {
                return plain(StatusCode::OK, "ok\n");
            }
            _ => return plain(StatusCode::METHOD_NOT_ALLOWED, "POST or DELETE\n"),
        }
        let modern = request
            .headers()
            .get("mcp-protocol-version")
            .is_some_and(|version| version == MODERN_VERSION);
        let Ok(body) = Limited::new(request.into_body(), BODY_BYTES_MAX)
            .collect()
            .await
        else {
            return plain(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the body is too large, or broke off\n",
            );
        };
        let body = body.to_bytes();
        let Ok(envelope) = serde_json::from_slice::<Envelope<'_>>(&body) else {
            return plain(StatusCode::BAD_REQUEST, "the body is no JSON-RPC message\n");
        };
        let Some(id) = envelope.id else {
            return plain(StatusCode::ACCEPTED, "");
        };
        let result = match envelope.method {
            Some("tools/call") => self.call.of(modern),
            Some("tools/list") => self.list.of(modern),
            Some("initialize") => {
                let mut response = respond(id, &self.initialize);
                let session = self.sessions.fetch_add(1, Ordering::Relaxed);
                if let Ok(session) = HeaderValue::try_from(format!("{session:032x}")) {
                    response.headers_mut().insert("mcp-session-id", session);
                }
                return response;
            }
            Some("server/discover") => &self.discover,
            Some("ping") => "{}",
            _ => {
                let status = if modern {
                    StatusCode::NOT_FOUND
                } else {
                    StatusCode::OK
                };
                let error = json!({
                    "jsonrpc": "2.0",
                    "id": id,
                    "error": { "code": -32601, "message": "Method not found" },
                });
                return answer(status, "application/json", error.to_string());
            }
        };
        respond(id, result)
    }
}

fn respond(id: &RawValue, result: &str) -> Response<Body> {
    let message = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, id.get());
    answer(StatusCode::OK, "application/json", message)
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    answer(status, "text/plain", text)
}
