//! A closed-loop load generator: so many connections, each with one prepared `tools/call` in flight, over and over. Each has a caller of
//! its own, or all take the calls of many callers in turn, who may call as many services.
//!
//! It runs on one thread and does little per call, so that it is not what is measured.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::json;
use tokio::{net::TcpStream, task::JoinSet};

use crate::{
    client::{Client, ClientError, Era, LEGACY_VERSION, MODERN_VERSION},
    upstream::TOOL,
};

/// The most connections: more would measure the machine's descriptors.
pub const CONNECTIONS_MAX: usize = 10_000;
/// The most callers: each has its call prepared.
pub const CALLERS_MAX: usize = 10_000;
/// What stands for the number of a caller in the URL.
pub const NUMBER: &str = "{n}";
/// The size of the request's body, in bytes; with its headers the request has about 0.9 KB.
const BODY_BYTES: usize = 600;
/// How long after the end a last answer may come before its connection is given up.
const LAST_ANSWER: Duration = Duration::from_secs(5);
/// The longest latency that the histogram tells apart, in microseconds.
pub(crate) const LATENCY_US_MAX: u64 = 60_000_000;

/// What to send, and for how long.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The MCP endpoint. [`NUMBER`] in it is the number of a caller: each calls another one.
    pub url: String,
    /// Connections, each with one call in flight: 1 to [`CONNECTIONS_MAX`].
    pub connections: usize,
    /// Callers, each with a session (or a principal) of its own, whose calls all connections take in turn: 1 to [`CALLERS_MAX`].
    /// Without, each connection has one.
    pub callers: Option<usize>,
    /// The era of the calls.
    pub era: Era,
    /// Calls that end in this first part are not counted.
    pub warm_up: Duration,
    /// How long calls are counted.
    pub duration: Duration,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoadReport {
    /// Calls answered with HTTP 200 and a result that is no tool error.
    pub calls: u64,
    /// Calls that ended otherwise. A connection that breaks is made anew.
    pub errors: u64,
    /// How long calls were counted.
    pub seconds: f64,
    /// Good calls a second.
    pub calls_per_second: f64,
    /// Half of the good calls took at most so long, in microseconds.
    pub p50_us: u64,
    /// 99 of 100 took at most so long.
    pub p99_us: u64,
    /// The slowest.
    pub max_us: u64,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No connections, or too many.
    #[error("{0} connections: there must be 1 to {CONNECTIONS_MAX}")]
    Connections(usize),
    /// No callers, or too many.
    #[error("{0} callers: there must be 1 to {CALLERS_MAX}")]
    Callers(usize),
    /// No connection or session could be had.
    #[error("cannot open a session")]
    Open(#[source] ClientError),
    /// The histogram could not be made.
    #[error("cannot count latencies")]
    Histogram(#[source] hdrhistogram::CreationError),
}

struct Tally {
    latencies_us: Histogram<u64>,
    errors: u64,
}

/// Opens the sessions, calls for the time given, and says what came of it. `begins` hears when the counting does.
///
/// # Errors
/// When the options make no sense, or a session cannot be opened. Calls that fail are counted.
pub async fn run(options: &LoadOptions, begins: impl FnOnce()) -> Result<LoadReport, LoadError> {
    if !(1..=CONNECTIONS_MAX).contains(&options.connections) {
        return Err(LoadError::Connections(options.connections));
    }
    if let Some(callers) = options.callers.filter(|n| !(1..=CALLERS_MAX).contains(n)) {
        return Err(LoadError::Callers(callers));
    }
    let tally = Arc::new(Mutex::new(Tally {
        latencies_us: Histogram::new_with_max(LATENCY_US_MAX, 3).map_err(LoadError::Histogram)?,
        errors: 0,
    }));
    let callers = options.callers.unwrap_or(options.connections);
    let mut lanes = Vec::with_capacity(callers);
    for number in 0..callers {
        lanes.push(Lane::open(options, number).await.map_err(LoadError::Open)?);
    }
    let lanes: Arc<[Lane]> = lanes.into();
    let count_from = Instant::now() + options.warm_up;
    let end = count_from + options.duration;
    let mut running = JoinSet::new();
    for connection in 0..options.connections {
        let (lanes, tally) = (Arc::clone(&lanes), Arc::clone(&tally));
        // Those that share callers begin with different ones.
        let turns = match options.callers {
            None => connection..connection + 1,
            Some(callers) => {
                let first = connection * callers / options.connections;
                first..first + callers
            }
        };
        running.spawn(async move {
            let turns = turns
                .cycle()
                .filter_map(|turn| lanes.get(turn % lanes.len()));
            let calls = call_until(turns, count_from, end, &tally);
            let patience = (end + LAST_ANSWER).into();
            if tokio::time::timeout_at(patience, calls).await.is_err() {
                tally.lock().unwrap_or_else(PoisonError::into_inner).errors += 1;
            }
        });
    }
    tokio::time::sleep_until(count_from.into()).await;
    begins();
    while running.join_next().await.is_some() {}
    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    let seconds = options.duration.as_secs_f64();
    let latencies = &tally.latencies_us;
    Ok(LoadReport {
        calls: latencies.len(),
        errors: tally.errors,
        seconds,
        calls_per_second: latencies.len() as f64 / seconds,
        p50_us: latencies.value_at_quantile(0.5),
        p99_us: latencies.value_at_quantile(0.99),
        max_us: latencies.max(),
    })
}

/// A connection, if there is one that can be used.
pub(crate) type Connection = Option<http1::SendRequest<Full<Bytes>>>;

/// Makes the calls of `lanes` one after the other on one connection, until the end.
async fn call_until<'a>(
    lanes: impl Iterator<Item = &'a Lane>,
    count_from: Instant,
    end: Instant,
    tally: &Mutex<Tally>,
) {
    let mut connection = None;
    for lane in lanes {
        let sent_at = Instant::now();
        if sent_at >= end {
            return;
        }
        let good = lane.call(&mut connection).await;
        let now = Instant::now();
        if now < count_from || now > end {
            continue;
        }
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        if good {
            let micros = u64::try_from((now - sent_at).as_micros()).unwrap_or(u64::MAX);
            tally.latencies_us.saturating_record(micros);
        } else {
            tally.errors += 1;
        }
    }
}

/// Where to connect, and the request that is repeated there.
pub(crate) struct Lane {
    authority: String,
    target: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Lane {
    async fn open(options: &LoadOptions, number: usize) -> Result<Self, ClientError> {
        let bearer = format!("load-{number:05}");
        let url = options.url.replace(NUMBER, &number.to_string());
        let mut client = Client::new(&url, options.era, Some(&bearer))?;
        client.open().await?;
        Self::new(&url, options.era, &bearer, client.session())
    }

    /// One of the modern era, which needs no session.
    pub(crate) fn modern(url: &str, bearer: &str) -> Result<Self, ClientError> {
        Self::new(url, Era::Modern, bearer, None)
    }

    fn new(url: &str, era: Era, bearer: &str, session: Option<&str>) -> Result<Self, ClientError> {
        let wrong = || ClientError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?.to_string();
        let mut headers = HeaderMap::new();
        let mut set = |name: &'static str, value: &str| {
            let value = HeaderValue::try_from(value).map_err(|_| wrong())?;
            headers.insert(name, value);
            Ok(())
        };
        set(header::HOST.as_str(), &authority)?;
        set(header::CONTENT_TYPE.as_str(), "application/json")?;
        set(
            header::ACCEPT.as_str(),
            "application/json, text/event-stream",
        )?;
        set(header::AUTHORIZATION.as_str(), &format!("Bearer {bearer}"))?;
        let mut params = json!({ "name": TOOL, "arguments": { "id": "" } });
        match era {
            Era::Legacy => {
                set("mcp-protocol-version", LEGACY_VERSION)?;
                if let Some(session) = session {
                    set("mcp-session-id", session)?;
                }
            }
            Era::Modern => {
                set("mcp-protocol-version", MODERN_VERSION)?;
                set("mcp-method", "tools/call")?;
                set("mcp-name", TOOL)?;
                params["_meta"] = json!({
                    "io.modelcontextprotocol/protocolVersion": MODERN_VERSION,
                    "io.modelcontextprotocol/clientInfo": { "name": "load", "version": "1" },
                    "io.modelcontextprotocol/clientCapabilities": {},
                });
            }
        }
        let mut message =
            json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
        let padding = BODY_BYTES.saturating_sub(message.to_string().len());
        message["params"]["arguments"]["id"] = "x".repeat(padding).into();
        Ok(Self {
            target: uri
                .path_and_query()
                .map_or("/", |path| path.as_str())
                .parse()
                .map_err(|_| wrong())?,
            authority,
            headers,
            body: message.to_string().into(),
        })
    }

    /// Makes one call; `connection` is left empty when it cannot be used again.
    pub(crate) async fn call(&self, connection: &mut Connection) -> bool {
        let mut sender = match connection.take() {
            Some(sender) => sender,
            None => match self.connect().await {
                Some(sender) => sender,
                None => return false,
            },
        };
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.clone();
        *request.headers_mut() = self.headers.clone();
        if sender.ready().await.is_err() {
            return false;
        }
        let Ok(response) = sender.send_request(request).await else {
            return false;
        };
        let ok = response.status() == 200;
        let Ok(body) = response.into_body().collect().await else {
            return false;
        };
        *connection = Some(sender);
        let body = body.to_bytes();
        ok && holds(&body, b"\"result\":") && !holds(&body, b"\"isError\":true")
    }

    async fn connect(&self) -> Option<http1::SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(&self.authority).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        Some(sender)
    }
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}
