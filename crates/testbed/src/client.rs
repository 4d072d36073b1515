//! A plain MCP client of either era, close to the wire: what arrives is handed on as it came, and nothing is retried but an
//! idle connection that the server had closed. It shares no code with what it tests.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST},
};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::record::MARK;

/// The protocol version that legacy clients ask for.
pub const LEGACY_VERSION: &str = "2025-11-25";
/// The protocol version of modern requests.
pub const MODERN_VERSION: &str = "2026-07-28";

/// The longest answer, in bytes, that a client reads. Test servers answer in a few hundred.
pub const ANSWER_BYTES_MAX: usize = 16 << 20;
/// How often a client answers `input_required` before it gives up on a call.
const ROUNDS_MAX: usize = 4;
/// How long a client waits for an answer where nothing else is said.
const TIMEOUT: Duration = Duration::from_secs(10);

const SESSION: &str = "mcp-session-id";
const VERSION: &str = "mcp-protocol-version";

/// Which protocol a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Era {
    /// 2025-11-25: `initialize` and a session.
    Legacy,
    /// 2026-07-28: each request stands alone.
    Modern,
}

/// Why no answer could be had. An answer that says "error" is an [`Answer`].
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL is not `http://host:port/path`.
    #[error("`{0}` is no URL of the form http://host:port/path")]
    Url(String),
    /// No connection.
    #[error("cannot connect to {0}")]
    Connect(String, #[source] std::io::Error),
    /// The connection broke before the answer was whole.
    #[error("the connection broke")]
    Broken(#[source] hyper::Error),
    /// The answer has more than [`ANSWER_BYTES_MAX`] bytes.
    #[error("the answer has more than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
    /// The answer, or an event of it, is not JSON.
    #[error("the answer is not JSON")]
    NotJson(#[source] serde_json::Error),
    /// No whole answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The session could not be opened.
    #[error("initialize was answered with HTTP {0}")]
    Refused(StatusCode),
}

/// What came back for one request.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The HTTP headers.
    pub headers: HeaderMap,
    /// The id that the request had.
    pub id: u64,
    /// The JSON-RPC response, if there was one.
    pub message: Option<Value>,
    /// The notifications that came before it.
    pub notifications: Vec<Value>,
    /// When the request was sent; for a call that took several rounds, the first.
    pub sent_at: Instant,
    /// From sending to the first byte of the headers.
    pub first_byte: Duration,
    /// From sending to the end of the answer.
    pub total: Duration,
    /// How many times the client was asked for input.
    pub rounds: usize,
}

impl Answer {
    /// The result of the JSON-RPC response.
    pub fn result(&self) -> Option<&Value> {
        self.message.as_ref()?.get("result")
    }

    /// The error of the JSON-RPC response.
    pub fn error(&self) -> Option<&Value> {
        self.message.as_ref()?.get("error")
    }

    /// Whether the response carries the id of the request.
    pub fn is_own(&self) -> bool {
        self.message
            .as_ref()
            .is_some_and(|message| message["id"] == self.id)
    }

    /// Whether the tool said that it failed.
    pub fn is_tool_error(&self) -> bool {
        self.result()
            .is_some_and(|result| result["isError"] == true)
    }

    /// A header's value, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// What tells a client's requests apart, in the records of servers.
#[derive(Debug)]
struct Marks {
    client: String,
    given: u64,
}

/// A client with one connection for its calls, opened when needed and kept.
#[derive(Debug)]
pub struct Client {
    era: Era,
    bearer: Option<HeaderValue>,
    /// The session's id, in the legacy era, once it is open.
    session: Option<HeaderValue>,
    next_id: u64,
    marks: Option<Marks>,
    timeout: Duration,
    calls: Connection,
    /// For what must be said while an answer is still being read.
    aside: Connection,
}

impl Client {
    /// A client of `url`; `bearer` is what it sends as its `Authorization`.
    ///
    /// # Errors
    /// When the URL has no host and port, or the bearer cannot stand in a header.
    pub fn new(url: &str, era: Era, bearer: Option<&str>) -> Result<Self, ClientError> {
        let wrong = || ClientError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let connection = Connection::new(&uri).ok_or_else(wrong)?;
        let bearer = bearer
            .map(|bearer| HeaderValue::try_from(format!("Bearer {bearer}")))
            .transpose()
            .map_err(|_| wrong())?;
        Ok(Self {
            era,
            bearer,
            session: None,
            next_id: 1,
            marks: None,
            timeout: TIMEOUT,
            aside: connection.another(),
            calls: connection,
        })
    }

    /// Gives up on an answer after this long.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Marks each request from now on: `client`, which no other client may have, and a number, with a dot between them.
    pub fn mark(&mut self, client: impl Into<String>) {
        let client = client.into();
        self.marks = Some(Marks { client, given: 0 });
    }

    /// The mark of the request that was sent last.
    pub fn last_mark(&self) -> Option<String> {
        let marks = self.marks.as_ref()?;
        Some(format!("{}.{}", marks.client, marks.given))
    }

    /// The era that the client speaks.
    pub fn era(&self) -> Era {
        self.era
    }

    /// The id of the open session.
    pub fn session(&self) -> Option<&str> {
        self.session.as_ref()?.to_str().ok()
    }

    /// Opens a session in the legacy era: `initialize` and `notifications/initialized`. A modern client has nothing to open.
    ///
    /// # Errors
    /// When the server does not answer, or refuses.
    pub async fn open(&mut self) -> Result<(), ClientError> {
        if self.era == Era::Modern {
            return Ok(());
        }
        self.session = None;
        let params = json!({
            "protocolVersion": LEGACY_VERSION,
            "capabilities": { "elicitation": {} },
            "clientInfo": { "name": "serin-testbed", "version": env!("CARGO_PKG_VERSION") },
        });
        let answer = self.request("initialize", params).await?;
        if answer.result().is_none() {
            return Err(ClientError::Refused(answer.status));
        }
        // A server may do without sessions.
        self.session = answer.headers.get(SESSION).cloned();
        self.tell(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))
            .await
    }

    /// Ends the legacy session with DELETE; says how that was answered.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn close(&mut self) -> Result<Option<StatusCode>, ClientError> {
        if self.session.is_none() {
            return Ok(None);
        }
        let mut request = self.http(Method::DELETE, Bytes::new());
        request.headers_mut().remove(CONTENT_TYPE);
        self.session = None;
        let timeout = self.timeout;
        let sent = async {
            let response = self.calls.send(request).await?;
            let status = response.status();
            drain(response).await?;
            Ok(Some(status))
        };
        bounded(timeout, sent).await
    }

    /// Forgets the session without a word, as a client does that was told 404.
    pub fn forget(&mut self) {
        self.session = None;
    }

    /// Calls a tool, and accepts whatever it asks on the way.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub async fn call(&mut self, tool: &str, arguments: Value) -> Result<Answer, ClientError> {
        let mut params = json!({
            "name": tool,
            "arguments": arguments,
            // As the usual clients do, whether they look at progress or not.
            "_meta": { "progressToken": format!("call-{}", self.next_id) },
        });
        let mut answer = self.request("tools/call", params.clone()).await?;
        let sent_at = answer.sent_at;
        for round in 1..=ROUNDS_MAX {
            let Some(result) = answer
                .result()
                .filter(|result| result["resultType"] == "input_required")
            else {
                break;
            };
            let questions = result["inputRequests"].as_object();
            params["inputResponses"] = questions
                .into_iter()
                .flatten()
                .map(|(key, _)| (key.clone(), accepted()))
                .collect::<serde_json::Map<_, _>>()
                .into();
            if let Some(state) = result.get("requestState") {
                params["requestState"] = state.clone();
            }
            answer = self.request("tools/call", params.clone()).await?;
            answer.rounds = round;
        }
        answer.sent_at = sent_at;
        answer.total = sent_at.elapsed();
        Ok(answer)
    }

    /// Sends one request and reads its answer to the end. Server requests on the way are answered with "accept".
    ///
    /// # Errors
    /// When there is no whole answer.
    pub async fn request(&mut self, method: &str, params: Value) -> Result<Answer, ClientError> {
        let timeout = self.timeout;
        let answer = bounded(timeout, self.request_unbounded(method, params)).await;
        if answer.is_err() {
            // Whatever comes late on this connection belongs to no one.
            self.calls.close();
        }
        answer
    }

    async fn request_unbounded(
        &mut self,
        method: &str,
        mut params: Value,
    ) -> Result<Answer, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        if self.era == Era::Modern {
            add_modern_meta(&mut params);
        }
        let body = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let mut request = self.http(Method::POST, body.to_string().into());
        if self.era == Era::Modern {
            let headers = request.headers_mut();
            if let Ok(method) = HeaderValue::try_from(method) {
                headers.insert("mcp-method", method);
            }
            let name = ["name", "uri", "taskId"]
                .iter()
                .find_map(|field| params[field].as_str());
            if let Some(Ok(name)) = name.map(HeaderValue::try_from) {
                headers.insert("mcp-name", name);
            }
        }
        let sent_at = Instant::now();
        let response = self.calls.send(request).await?;
        let first_byte = sent_at.elapsed();
        let (parts, body) = response.into_parts();
        let mut messages = Messages::new(&parts.headers, parts.status, body);
        let mut answer = Answer {
            status: parts.status,
            headers: parts.headers,
            id,
            message: None,
            notifications: Vec::new(),
            sent_at,
            first_byte,
            total: first_byte,
            rounds: 0,
        };
        // To the end of the stream, so that the connection can be used again.
        while let Some(message) = messages.next().await? {
            match (message.get("method").is_some(), message.get("id")) {
                (true, Some(question)) => {
                    answer.rounds += 1;
                    let reply = json!({ "jsonrpc": "2.0", "id": question, "result": accepted() });
                    self.tell(&reply).await?;
                }
                (true, None) => answer.notifications.push(message),
                (false, _) => answer.message = Some(message),
            }
        }
        answer.total = sent_at.elapsed();
        Ok(answer)
    }

    /// Sends what has no answer: a notification, or an answer to the server.
    async fn tell(&mut self, message: &Value) -> Result<(), ClientError> {
        let request = self.http(Method::POST, message.to_string().into());
        drain(self.aside.send(request).await?).await
    }

    fn http(&mut self, method: Method, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        let headers = request.headers_mut();
        if let Some(marks) = &mut self.marks {
            marks.given += 1;
        }
        if let Some(Ok(mark)) = self.last_mark().map(HeaderValue::try_from) {
            headers.insert(MARK, mark);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            ACCEPT,
            HeaderValue::from_static("application/json, text/event-stream"),
        );
        if let Some(bearer) = &self.bearer {
            headers.insert(AUTHORIZATION, bearer.clone());
        }
        match (self.era, &self.session) {
            (Era::Modern, _) => {
                headers.insert(VERSION, HeaderValue::from_static(MODERN_VERSION));
            }
            (Era::Legacy, Some(session)) => {
                headers.insert(SESSION, session.clone());
                headers.insert(VERSION, HeaderValue::from_static(LEGACY_VERSION));
            }
            (Era::Legacy, None) => {}
        }
        request
    }
}

fn accepted() -> Value {
    json!({ "action": "accept", "content": { "sure": true } })
}

/// Adds what each modern request says about itself.
fn add_modern_meta(params: &mut Value) {
    let meta = &mut params["_meta"];
    meta["io.modelcontextprotocol/protocolVersion"] = MODERN_VERSION.into();
    meta["io.modelcontextprotocol/clientInfo"] =
        json!({ "name": "serin-testbed", "version": env!("CARGO_PKG_VERSION") });
    if meta["io.modelcontextprotocol/clientCapabilities"].is_null() {
        meta["io.modelcontextprotocol/clientCapabilities"] = json!({ "elicitation": {} });
    }
}

async fn bounded<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    tokio::time::timeout(timeout, work)
        .await
        .unwrap_or(Err(ClientError::Timeout(timeout)))
}

async fn drain(response: Response<Incoming>) -> Result<(), ClientError> {
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        frame.map_err(ClientError::Broken)?;
    }
    Ok(())
}

/// One HTTP/1.1 connection, made when it is needed.
#[derive(Debug)]
struct Connection {
    authority: String,
    target: Uri,
    sender: Option<http1::SendRequest<Full<Bytes>>>,
}

impl Connection {
    fn new(uri: &Uri) -> Option<Self> {
        let authority = uri.authority()?;
        let plain = uri.scheme_str() == Some("http");
        let target = uri.path_and_query()?.as_str().parse().ok()?;
        plain.then(|| Self {
            authority: match authority.port() {
                Some(_) => authority.to_string(),
                None => format!("{authority}:80"),
            },
            target,
            sender: None,
        })
    }

    fn another(&self) -> Self {
        Self {
            authority: self.authority.clone(),
            target: self.target.clone(),
            sender: None,
        }
    }

    fn close(&mut self) {
        self.sender = None;
    }

    async fn send(
        &mut self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, ClientError> {
        *request.uri_mut() = self.target.clone();
        if let Ok(host) = HeaderValue::try_from(&self.authority) {
            request.headers_mut().insert(HOST, host);
        }
        // A kept connection may have been closed meanwhile; that says nothing about the server, so one new one is tried.
        if let Some(mut sender) = self.sender.take()
            && sender.ready().await.is_ok()
        {
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.sender = Some(sender);
                    return Ok(response);
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(ClientError::Broken(error.into_error())),
                },
            }
        }
        let mut sender = self.connect().await?;
        let response = sender
            .send_request(request)
            .await
            .map_err(ClientError::Broken)?;
        self.sender = Some(sender);
        Ok(response)
    }

    async fn connect(&self) -> Result<http1::SendRequest<Full<Bytes>>, ClientError> {
        let failed = |error| ClientError::Connect(self.authority.clone(), error);
        let stream = TcpStream::connect(&self.authority).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(ClientError::Broken)?;
        // Its errors reach the sender, too.
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// The JSON-RPC messages of an answer, one by one, be it JSON or a stream of events.
struct Messages {
    body: Incoming,
    kind: Kind,
    buffer: BytesMut,
    read_bytes: usize,
    ready: VecDeque<Value>,
    ended: bool,
}

#[derive(PartialEq)]
enum Kind {
    Json,
    Events,
    /// Read to its end and not looked at: an error page, an empty acknowledgement.
    Other,
}

impl Messages {
    fn new(headers: &HeaderMap, status: StatusCode, body: Incoming) -> Self {
        let content_type = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("");
        let kind = if content_type.starts_with("text/event-stream") {
            Kind::Events
        } else if content_type.starts_with("application/json") && status != StatusCode::ACCEPTED {
            Kind::Json
        } else {
            Kind::Other
        };
        Self {
            body,
            kind,
            buffer: BytesMut::new(),
            read_bytes: 0,
            ready: VecDeque::new(),
            ended: false,
        }
    }

    async fn next(&mut self) -> Result<Option<Value>, ClientError> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            if self.ended {
                return Ok(None);
            }
            let Some(frame) = self.body.frame().await else {
                self.ended = true;
                if self.kind == Kind::Json {
                    let body = self.buffer.split();
                    self.take(&body)?;
                }
                continue;
            };
            let Ok(data) = frame.map_err(ClientError::Broken)?.into_data() else {
                continue;
            };
            self.read_bytes += data.len();
            if self.read_bytes > ANSWER_BYTES_MAX {
                return Err(ClientError::TooLong);
            }
            if self.kind != Kind::Other {
                self.buffer.extend_from_slice(&data);
            }
            if self.kind == Kind::Events {
                self.take_events()?;
            }
        }
    }

    /// Takes whole events out of the buffer. An event without data (a priming event, a comment) is no message.
    fn take_events(&mut self) -> Result<(), ClientError> {
        while let Some((end, next)) = event_end(&self.buffer) {
            let event = self.buffer.split_to(next).freeze();
            let data: Vec<&[u8]> = event[..end]
                .split(|byte| *byte == b'\n')
                .filter_map(|line| {
                    line.strip_suffix(b"\r")
                        .unwrap_or(line)
                        .strip_prefix(b"data:")
                })
                .map(|data| data.strip_prefix(b" ").unwrap_or(data))
                .collect();
            let data = data.join(&b'\n');
            if !data.is_empty() {
                self.take(&data)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, data: &[u8]) -> Result<(), ClientError> {
        let message = serde_json::from_slice(data).map_err(ClientError::NotJson)?;
        self.ready.push_back(message);
        Ok(())
    }
}

/// Where the first whole event ends, and where the next begins.
fn event_end(buffer: &[u8]) -> Option<(usize, usize)> {
    let mut line_start = 0;
    for (index, byte) in buffer.iter().enumerate() {
        if *byte == b'\n' {
            let line = &buffer[line_start..index];
            if line.is_empty() || line == b"\r" {
                return Some((line_start, index + 1));
            }
            line_start = index + 1;
        }
    }
    None
}
