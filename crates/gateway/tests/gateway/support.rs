//! A gateway, servers that record, and a client, all in one process.

use ::http::{HeaderMap, Method, Request, Response, StatusCode};
use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http1::SendRequest,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serin_flags::Table;
use serin_gateway::{Gateway, Keyring, Options};
use serin_model::{
    api::{ApiSpec, ApiVersion},
    name::{EndpointId, RolloutId},
    observe::{CallEra, Counts, Outcome, Rejection, Sealed},
    service::{Protocol, VersionStage},
    share::Share,
    snapshot::{EndpointRoute, ServiceRoute, Snapshot, Split, VersionRoute},
};
use serin_tenancy::Directory;
use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use uuid::Uuid;

/// No wait in a test is longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for something that must happen.
pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("it did not happen in time")
}

// Servers.

/// A request as a server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(crate) fn rpc_method(&self) -> String {
        self.json()["method"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

/// What a server sends.
pub(crate) type Reply = Response<BoxBody<Bytes, std::io::Error>>;
type Replying = Pin<Box<dyn Future<Output = Reply> + Send>>;
type Handler = Arc<dyn Fn(Seen) -> Replying + Send + Sync>;

/// A whole answer.
pub(crate) fn reply(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    let body = Full::new(body.into()).map_err(|never: Infallible| match never {});
    response.body(body.boxed()).unwrap()
}

/// A JSON answer.
pub(crate) fn json(body: impl Into<Bytes>) -> Reply {
    reply(200, &[("content-type", "application/json")], body)
}

/// Hands out an answer piece by piece.
pub(crate) type Pieces = mpsc::UnboundedSender<Result<Frame<Bytes>, std::io::Error>>;

/// An answer whose pieces are sent later.
pub(crate) fn pieces(content_type: &str) -> (Pieces, Reply) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let stream = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
    let response = Response::builder().header("content-type", content_type);
    let body = StreamBody::new(stream).boxed();
    (sender, response.body(body).unwrap())
}

#[expect(clippy::unnecessary_wraps, reason = "what the channel takes")]
pub(crate) fn piece(text: &str) -> Result<Frame<Bytes>, std::io::Error> {
    Ok(Frame::data(Bytes::copy_from_slice(text.as_bytes())))
}

/// A server that records what it gets.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: Arc<tokio::task::JoinHandle<()>>,
}

impl Server {
    pub(crate) async fn start<F>(handler: impl Fn(Seen) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |seen| Box::pin(handler(seen)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = seen.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (handler, record) = (handler.clone(), record.clone());
                connections.spawn(serve(stream, handler, record));
            }
        });
        Self {
            address,
            seen,
            task: Arc::new(task),
        }
    }

    /// One that answers as its handler says, at once.
    pub(crate) async fn answering(
        handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start(move |seen| std::future::ready(handler(&seen))).await
    }

    /// An MCP server of both eras that says its name: sessions `NAME-1`, `NAME-2`, ... in legacy; it knows only those.
    pub(crate) async fn mcp(name: &'static str) -> Self {
        let sessions = Arc::new(Mutex::new(Vec::<String>::new()));
        Self::answering(move |seen| mcp_answer(name, &sessions, seen)).await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn last(&self) -> Seen {
        self.seen().pop().expect("it saw no request")
    }

    /// Those with a JSON-RPC method.
    pub(crate) fn count(&self, rpc_method: &str) -> usize {
        let is = |seen: &&Seen| seen.rpc_method() == rpc_method;
        self.seen().iter().filter(is).count()
    }

    /// Stops listening and closes all connections.
    pub(crate) fn stop(&self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, handler: Handler, record: Arc<Mutex<Vec<Seen>>>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (handler, record) = (handler.clone(), record.clone());
        async move {
            let (parts, body) = request.into_parts();
            let seen = Seen {
                method: parts.method,
                path: parts.uri.to_string(),
                headers: parts.headers,
                body: body
                    .collect()
                    .await
                    .map(http_body_util::Collected::to_bytes)
                    .unwrap_or_default(),
            };
            record.lock().unwrap().push(seen.clone());
            Ok::<_, Infallible>(handler(seen).await)
        }
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn mcp_answer(name: &str, sessions: &Mutex<Vec<String>>, seen: &Seen) -> Reply {
    let body = seen.json();
    let id = &body["id"];
    let result = |result: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
    if seen.rpc_method() == "initialize" {
        let mut sessions = sessions.lock().unwrap();
        let number = sessions.len() + 1;
        sessions.push(format!("{name}-{number}"));
        let version = &body["params"]["protocolVersion"];
        let text = result(&format!(
            r#"{{"protocolVersion":{version},"capabilities":{{}},"serverInfo":{{"name":"{name}","version":"1"}}}}"#
        ));
        let session = sessions.last().unwrap().as_str();
        let headers = [
            ("content-type", "application/json"),
            ("mcp-session-id", session),
        ];
        return reply(200, &headers, text);
    }
    let is_modern = seen.header("mcp-protocol-version") == Some("2026-07-28");
    let knows = |id: &str| sessions.lock().unwrap().iter().any(|session| session == id);
    if !is_modern && !seen.header("mcp-session-id").is_some_and(knows) {
        return reply(
            404,
            &[("content-type", "application/json")],
            r#"{"no":"session"}"#,
        );
    }
    if id.is_null() {
        return reply(202, &[], "");
    }
    let text = format!(r#"{{"content":[{{"type":"text","text":"{name}"}}]}}"#);
    json(result(&text))
}

// The gateway.

/// A version for [`service`].
#[derive(Clone)]
pub(crate) struct Build<'a> {
    pub(crate) name: &'a str,
    pub(crate) stage: VersionStage,
    pub(crate) withdrawn_at: Option<jiff::Timestamp>,
    pub(crate) urls: Vec<String>,
}

pub(crate) fn build<'a>(name: &'a str, servers: &[&Server]) -> Build<'a> {
    Build {
        name,
        stage: VersionStage::Serving,
        withdrawn_at: None,
        urls: servers.iter().map(|server| server.url()).collect(),
    }
}

/// A service `tools` at `/mcp` whose first version is stable, and whose second one is the candidate if there is a share.
/// Endpoints are numbered by version and place: 10, 11, ..., 20, 21, ...
pub(crate) fn service(builds: &[Build<'_>], share: Option<f64>) -> ServiceRoute {
    let endpoint = |at: usize, url: &String, number: usize| {
        let id = u32::try_from((at + 1) * 10 + number).unwrap();
        EndpointRoute::new(EndpointId(id), url)
    };
    let versions = builds.iter().enumerate().map(|(at, build)| VersionRoute {
        stage: build.stage,
        withdrawn_at: build.withdrawn_at,
        tools: ["add".into(), "greet".into()].into(),
        ..VersionRoute::new(
            build.name.parse().unwrap(),
            (build.urls.iter().enumerate())
                .map(|(number, url)| endpoint(at, url, number))
                .collect(),
        )
    });
    ServiceRoute {
        split: share.map(|share| {
            Split::new(
                RolloutId(Uuid::from_u128(1)),
                1,
                Share::from_percent(share).unwrap(),
            )
        }),
        ..ServiceRoute::new(
            "tools".parse().unwrap(),
            Protocol::Mcp,
            "/mcp",
            versions.collect(),
        )
    }
}

/// A running gateway with what it tells the control plane.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) gateway: Gateway,
    pub(crate) observed: Observed,
}

impl Running {
    pub(crate) fn start(services: Vec<ServiceRoute>) -> Self {
        Self::with(services, Keyring::ephemeral().unwrap(), |_| {})
    }

    pub(crate) fn with(
        services: Vec<ServiceRoute>,
        keys: Keyring,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut options = Options::for_listener(address);
        options.cores = 2;
        change(&mut options);
        let snapshot = Arc::new(ArcSwap::from_pointee(table(services)));
        let (sender, receiver) = mpsc::channel(1024);
        let gateway = Gateway::start(listener, options, keys, snapshot.clone(), sender).unwrap();
        Self {
            address,
            snapshot,
            gateway,
            observed: Observed {
                receiver,
                seen: vec![],
            },
        }
    }

    /// Swaps the routing table.
    pub(crate) fn swap(&self, services: Vec<ServiceRoute>) {
        self.snapshot.store(Arc::new(table(services)));
    }

    /// Swaps the routing table and the flags.
    pub(crate) fn swap_flags(&self, services: Vec<ServiceRoute>, flags: Table) {
        let flags_revision = self.snapshot.load().flags_revision + 1;
        self.snapshot.store(Arc::new(Snapshot {
            flags: Arc::new(flags),
            flags_revision,
            ..table(services)
        }));
    }

    /// Swaps the routing table and who may call.
    pub(crate) fn swap_callers(&self, services: Vec<ServiceRoute>, tenancy: Directory) {
        self.swap_all(services, Table::default(), tenancy);
    }

    /// Swaps the routing table, the flags and who may call.
    pub(crate) fn swap_all(&self, services: Vec<ServiceRoute>, flags: Table, tenancy: Directory) {
        let flags_revision = self.snapshot.load().flags_revision + 1;
        self.snapshot.store(Arc::new(Snapshot {
            flags: Arc::new(flags),
            flags_revision,
            tenancy: Arc::new(tenancy),
            ..table(services)
        }));
    }

    /// Swaps the routing table, who may call and the versions of the API.
    pub(crate) fn swap_callers_of(
        &self,
        services: Vec<ServiceRoute>,
        tenancy: Directory,
        api: &[(u16, ApiSpec)],
    ) {
        let api = api
            .iter()
            .map(|(version, spec)| (ApiVersion(*version), spec.clone()));
        self.snapshot.store(Arc::new(Snapshot {
            tenancy: Arc::new(tenancy),
            api: Arc::new(api.collect()),
            ..table(services)
        }));
    }

    /// Swaps the routing table and the versions of the API.
    pub(crate) fn swap_api(&self, services: Vec<ServiceRoute>, api: &[(u16, ApiSpec)]) {
        let api = api
            .iter()
            .map(|(version, spec)| (ApiVersion(*version), spec.clone()));
        self.snapshot.store(Arc::new(Snapshot {
            api: Arc::new(api.collect()),
            ..table(services)
        }));
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }
}

fn table(services: Vec<ServiceRoute>) -> Snapshot {
    static POSITION: AtomicU64 = AtomicU64::new(1);
    Snapshot {
        position: POSITION.fetch_add(1, Relaxed),
        services: services.into_iter().map(Arc::new).collect(),
        ..Snapshot::default()
    }
}

/// What the gateway said it saw.
pub(crate) struct Observed {
    receiver: mpsc::Receiver<Sealed>,
    pub(crate) seen: Vec<Sealed>,
}

impl Observed {
    /// Reads messages until what they say together satisfies.
    pub(crate) async fn until(&mut self, what: impl Fn(&[Sealed]) -> bool) {
        let reading = async {
            while !what(&self.seen) {
                self.seen.push(self.receiver.recv().await.unwrap());
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, reading).await.is_ok();
        assert!(in_time, "never said: {:#?}", self.counts());
    }

    /// All counts, by version, tool and era.
    pub(crate) fn counts(&self) -> HashMap<(String, String, CallEra), Counts> {
        sum(&self.seen)
    }

    /// Waits until a tool of a version has this outcome so often.
    pub(crate) async fn outcome(&mut self, version: &str, tool: &str, outcome: Outcome, n: u64) {
        self.until(|seen| {
            let of = |counts: &Counts| counts.of(outcome);
            let counts = sum(seen);
            let cells = counts
                .iter()
                .filter(|((v, t, _), _)| v == version && t == tool);
            cells.map(|(_, counts)| of(counts)).sum::<u64>() == n
        })
        .await;
    }

    pub(crate) async fn rejection(&mut self, why: Rejection, n: u64) {
        self.until(|seen| {
            let of = seen.iter().flat_map(|sealed| &sealed.rejections);
            of.filter(|(_, w, _)| *w == why)
                .map(|(_, _, n)| n)
                .sum::<u64>()
                == n
        })
        .await;
    }
}

fn sum(seen: &[Sealed]) -> HashMap<(String, String, CallEra), Counts> {
    let mut all = HashMap::<_, Counts>::new();
    for (key, counts) in seen.iter().flat_map(|sealed| &sealed.cells) {
        let key = (key.version.to_string(), key.tool.to_string(), key.era);
        all.entry(key).or_default().merge(counts);
    }
    all
}

// Clients.

/// An HTTP/1.1 client on one connection.
pub(crate) struct Client {
    sender: SendRequest<Full<Bytes>>,
    pub(crate) host: String,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(crate) fn version(&self) -> &str {
        self.header("x-serin-version").unwrap_or_default()
    }
}

pub(crate) type Pairs<'a> = &'a [(&'a str, &'a str)];

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self {
            sender,
            host: address.to_string(),
        }
    }

    /// Sends a request; its answer has begun.
    pub(crate) async fn begin(
        &mut self,
        method: &str,
        path: &str,
        headers: Pairs<'_>,
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", &self.host);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        soon(self.sender.ready()).await.unwrap();
        soon(self.sender.send_request(request)).await.unwrap()
    }

    pub(crate) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: Pairs<'_>,
        body: impl Into<Bytes>,
    ) -> Answer {
        let response = self.begin(method, path, headers, body).await;
        let (parts, body) = response.into_parts();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: soon(body.collect()).await.unwrap().to_bytes(),
        }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    /// A legacy message.
    pub(crate) async fn legacy(&mut self, session: &str, body: impl Into<Bytes>) -> Answer {
        let mut headers = vec![
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("mcp-protocol-version", "2025-11-25"),
        ];
        if !session.is_empty() {
            headers.push(("mcp-session-id", session));
        }
        self.ask("POST", "/mcp", &headers, body).await
    }

    /// Begins a legacy session.
    pub(crate) async fn initialize(&mut self) -> Answer {
        let headers = [("content-type", "application/json")];
        self.ask("POST", "/mcp", &headers, INITIALIZE).await
    }

    /// A modern message.
    pub(crate) async fn modern(
        &mut self,
        method: &str,
        name: Option<&str>,
        more: Pairs<'_>,
        params: &str,
    ) -> Answer {
        let mut headers = vec![
            ("content-type", "application/json"),
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", method),
        ];
        headers.extend(name.map(|name| ("mcp-name", name)));
        headers.extend(more);
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        self.ask("POST", "/mcp", &headers, body).await
    }
}

pub(crate) const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}"#;
pub(crate) const CALL: &str =
    r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"add","arguments":{}}}"#;

/// Sends bytes as they are and reads until the gateway closes, or `enough` was read.
pub(crate) async fn raw(address: SocketAddr, request: &str, enough: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let n = soon(stream.read(&mut buffer)).await.unwrap_or_default();
        read.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&read);
        if n == 0 || (!enough.is_empty() && text.contains(enough)) {
            return text.into_owned();
        }
    }
}

pub(crate) fn status(text: &str) -> StatusCode {
    let code = text.split(' ').nth(1).unwrap_or_default();
    code.parse()
        .unwrap_or_else(|_| panic!("no answer: {text:?}"))
}
