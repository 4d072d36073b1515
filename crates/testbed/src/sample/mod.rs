//! The sample MCP server: two sets of tools, both eras on one endpoint, and answers that say who gave them.
//!
//! Every tool answers with `structuredContent` of `version`, `endpoint`, `session` (drawn when a legacy session was
//! initialized, absent in modern requests), `nonce` (the request's argument of that name) and `answer`, so that a client can
//! tell that an answer is its own and came from where it should. Three tools exercise what a proxy may break: an elicitation
//! ([`ELICITING_TOOL`]), progress notifications ([`PROGRESS_TOOL`]) and a task ([`TASK_TOOL`]). `tools/list` has pages.
//!
//! MCP is on `/mcp`, a health check on `/health`.

mod handler;
mod tools;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use rmcp::transport::{
    StreamableHttpServerConfig, StreamableHttpService,
    streamable_http_server::session::local::LocalSessionManager,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

#[cfg(feature = "faults")]
use crate::faults::{Fault, FaultSwitch};
use crate::{
    record::Record,
    serve::{Body, Connection, Server, answer},
};

pub use handler::{LIST_TTL_MS, PAGE_TOOLS};
pub use tools::{ELICITING_TOOL, PROGRESS_TOOL, TASK_TOOL, ToolSet};

use handler::{Handler, Shared};

/// The largest request body, in bytes; the size that rmcp allows, too.
const BODY_BYTES_MAX: usize = 4 << 20;

/// The first version without sessions. Versions are dates: they sort as text.
const FIRST_MODERN: &[u8] = b"2026-07-28";

/// How to start a [`Sample`].
#[derive(Clone, Debug)]
pub struct SampleOptions {
    /// The version's name, as in `v1.5.0`. It is in every answer, cursor and request state.
    pub version: String,
    /// The endpoint's name. It is in every answer.
    pub endpoint: String,
    /// The tools on offer.
    pub tools: ToolSet,
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Whether it refuses what comes in the modern era, as a server of before 2026-07-28 does.
    pub is_legacy: bool,
    /// The file into which it writes the marks of the requests that it gets.
    pub record: Option<PathBuf>,
    /// Whether callers on loopback may turn the fault switch over HTTP: `GET`, `POST` (a [`Fault`] as JSON) and `DELETE`
    /// on `/faults`.
    #[cfg(feature = "faults")]
    pub control: bool,
}

impl SampleOptions {
    /// A sample on a free loopback port.
    pub fn new(version: impl Into<String>, endpoint: impl Into<String>, tools: ToolSet) -> Self {
        Self {
            version: version.into(),
            endpoint: endpoint.into(),
            tools,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            is_legacy: false,
            record: None,
            #[cfg(feature = "faults")]
            control: false,
        }
    }
}

/// The sample server; see [`Sample::start`].
#[derive(Debug)]
pub struct Sample;

impl Sample {
    /// Starts a sample server on the current runtime.
    ///
    /// # Errors
    /// When the address cannot be listened on, or the record cannot be written.
    pub async fn start(options: SampleOptions) -> io::Result<Running> {
        let shared = Arc::new(Shared::new(
            options.version,
            options.endpoint,
            options.tools,
        ));
        let ended = CancellationToken::new();
        let sessions = Arc::new(LocalSessionManager::default());
        let mcp = StreamableHttpService::new(
            {
                let shared = Arc::clone(&shared);
                move || Ok(Handler::new(Arc::clone(&shared)))
            },
            Arc::clone(&sessions),
            StreamableHttpServerConfig::default().with_cancellation_token(ended.clone()),
        );
        let kill = CancellationToken::new();
        let record = options.record.as_deref().map(Record::open).transpose()?;
        let site = Site {
            record: record.map(Arc::new),
            mcp,
            shared: Arc::clone(&shared),
            is_legacy: options.is_legacy,
            #[cfg(feature = "faults")]
            faults: FaultSwitch::default(),
            #[cfg(feature = "faults")]
            control: options.control,
            #[cfg(feature = "faults")]
            kill: kill.clone(),
        };
        #[cfg(feature = "faults")]
        let faults = site.faults.clone();
        let server = Server::start(
            options.listen,
            kill,
            move |request, connection| {
                let site = site.clone();
                async move { site.answer(request, connection).await }
            },
            async move {
                ended.cancel();
                // Workers end when their sessions are let go of.
                sessions.sessions.write().await.clear();
                shared.shutdown();
            },
        )
        .await?;
        Ok(Running {
            server,
            #[cfg(feature = "faults")]
            faults,
        })
    }
}

/// A sample server that runs. Dropping it ends it at once.
#[derive(Debug)]
pub struct Running {
    server: Server,
    #[cfg(feature = "faults")]
    faults: FaultSwitch,
}

impl Running {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The URL of its MCP endpoint.
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address())
    }

    /// The switch of its faults.
    #[cfg(feature = "faults")]
    pub fn faults(&self) -> &FaultSwitch {
        &self.faults
    }

    /// Dies as a killed process does: the listener and every connection are gone.
    pub fn crash(&self) {
        self.server.kill();
    }

    /// Completes when the server has crashed, by [`Running::crash`] or by a fault.
    pub async fn crashed(&self) {
        self.server.killed().await;
    }

    /// Takes no new connections, gives calls in flight half a second, and ends.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

/// What is behind the listener.
#[derive(Clone)]
struct Site {
    mcp: StreamableHttpService<Handler, LocalSessionManager>,
    shared: Arc<Shared>,
    is_legacy: bool,
    record: Option<Arc<Record>>,
    #[cfg(feature = "faults")]
    faults: FaultSwitch,
    #[cfg(feature = "faults")]
    control: bool,
    #[cfg(feature = "faults")]
    kill: CancellationToken,
}

impl Site {
    async fn answer(&self, request: Request<Incoming>, connection: Connection) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
            let message =
                format!("the body could not be read, or has more than {BODY_BYTES_MAX} bytes\n");
            return answer(StatusCode::PAYLOAD_TOO_LARGE, "text/plain", message);
        };
        let body = body.to_bytes();
        if let Some(record) = &self.record {
            record.note(&parts.method, &parts.headers, &body);
        }
        #[cfg(feature = "faults")]
        if self.control && parts.uri.path() == "/faults" {
            return self.turn_switch(&parts, &body, &connection);
        }
        let request = Request::from_parts(parts, Full::new(body.clone()));
        #[cfg(feature = "faults")]
        return crate::faults::inject(
            &self.faults,
            &self.kill,
            &connection,
            request,
            &body,
            |request| self.route(request),
        )
        .await;
        #[cfg(not(feature = "faults"))]
        {
            let _ = connection;
            self.route(request).await
        }
    }

    async fn route(&self, request: Request<Full<Bytes>>) -> Response<Body> {
        let version = request.headers().get("mcp-protocol-version");
        let is_modern = version.is_some_and(|version| version.as_bytes() >= FIRST_MODERN);
        match request.uri().path() {
            "/mcp" if self.is_legacy && is_modern => answer(
                StatusCode::BAD_REQUEST,
                "text/plain",
                "Bad Request: Unsupported protocol version\n",
            ),
            "/mcp" => self
                .mcp
                .handle(request)
                .await
                .map(|body| body.map_err(|never| match never {}).boxed()),
            "/health" => {
                let health = json!({
                    "status": "ok",
                    "version": self.shared.version,
                    "endpoint": self.shared.endpoint,
                });
                answer(StatusCode::OK, "application/json", health.to_string())
            }
            path => answer(
                StatusCode::NOT_FOUND,
                "text/plain",
                format!("nothing at {path}: MCP is on /mcp, health on /health\n"),
            ),
        }
    }

    #[cfg(feature = "faults")]
    fn turn_switch(
        &self,
        parts: &http::request::Parts,
        body: &[u8],
        connection: &Connection,
    ) -> Response<Body> {
        let refuse = |status, message: String| answer(status, "text/plain", message + "\n");
        if !connection.peer.ip().is_loopback() {
            return refuse(
                StatusCode::FORBIDDEN,
                "faults are set from loopback only".into(),
            );
        }
        match parts.method.as_str() {
            "GET" => {}
            "DELETE" => self.faults.clear(),
            "POST" => match serde_json::from_slice::<Fault>(body) {
                Err(error) => {
                    let message = format!("the body is no fault: {error}");
                    return refuse(StatusCode::BAD_REQUEST, message);
                }
                Ok(fault) => {
                    if let Err(error) = self.faults.set(fault) {
                        return refuse(StatusCode::BAD_REQUEST, error.to_string());
                    }
                }
            },
            method => {
                let message = format!("{method}: use GET, POST or DELETE");
                return refuse(StatusCode::METHOD_NOT_ALLOWED, message);
            }
        }
        let state = json!({ "fault": self.faults.fault(), "strikes": self.faults.strikes() });
        answer(StatusCode::OK, "application/json", state.to_string())
    }
}
