//! Fault injection for the sample server: it fails in a chosen way, for chosen requests, from a chosen instant.
//!
//! A [`FaultSwitch`] is a handle that any thread may turn while the server runs; one fault is active at a time. The instant of
//! injection is kept, so that a client can say how long it took until its calls were out of harm's way.

use std::{
    error::Error,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header::CONTENT_LENGTH};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use tokio_util::sync::CancellationToken;

use crate::serve::{Body, Connection, answer};

/// The longest delay that a fault may add, and the longest time of a [`Flap`]: longer is a [`FaultKind::Hang`].
pub const LATENCY_MS_MAX: u64 = 600_000;

/// What goes wrong, for whom, and how often.
///
/// As JSON, for the control endpoint: `{"kind": {"latency": {"add_ms": 200}}, "target": {"tool": "get_entry"}, "ratio": 0.1}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// Which requests it strikes; tool calls where nothing is said.
    #[serde(default)]
    pub target: Target,
    /// The part of the target that is struck, 0 to 1, spread evenly: at 0.25 each fourth request, the first one not
    /// before the fourth. 1 where nothing is said.
    #[serde(default = "every_time")]
    pub ratio: f64,
    /// Strikes only requests whose `X-Serin-Flags` has this, such as `new_search=on`: a fault of a feature and not of the version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_flag: Option<String>,
    /// Strikes by this schedule; all the time where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flap: Option<Flap>,
}

/// A fault that comes and goes: so long there, from the instant it was injected, then so long gone, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flap {
    /// Milliseconds for which it strikes, 1 to [`LATENCY_MS_MAX`].
    pub down_ms: u64,
    /// Milliseconds for which it does not, 1 to [`LATENCY_MS_MAX`].
    pub up_ms: u64,
}

impl Flap {
    fn is_down(self, since: Duration) -> bool {
        since.as_millis() % u128::from(self.down_ms + self.up_ms) < u128::from(self.down_ms)
    }
}

/// The header by which the gateway says which variant of a released flag a caller has.
const FLAGS_HEADER: &str = "x-serin-flags";

fn every_time() -> f64 {
    1.0
}

impl Fault {
    /// A fault that strikes every tool call.
    pub fn new(kind: FaultKind) -> Self {
        Self {
            kind,
            target: Target::default(),
            ratio: every_time(),
            with_flag: None,
            flap: None,
        }
    }

    /// Comes and goes.
    #[must_use]
    pub fn flapping(mut self, flap: Flap) -> Self {
        self.flap = Some(flap);
        self
    }

    /// Strikes `target` instead.
    #[must_use]
    pub fn on(mut self, target: Target) -> Self {
        self.target = target;
        self
    }

    /// Strikes the calls of one tool only.
    #[must_use]
    pub fn on_tool(self, tool: impl Into<String>) -> Self {
        self.on(Target::Tool(tool.into()))
    }

    /// Strikes this part of the target only.
    #[must_use]
    pub fn with_ratio(mut self, ratio: f64) -> Self {
        self.ratio = ratio;
        self
    }

    /// Strikes only requests of callers with a variant of a flag, such as `new_search=on`.
    #[must_use]
    pub fn with_flag(mut self, variant: impl Into<String>) -> Self {
        self.with_flag = Some(variant.into());
        self
    }

    fn check(&self) -> Result<(), FaultError> {
        if !(0.0..=1.0).contains(&self.ratio) {
            return Err(FaultError::Ratio(self.ratio));
        }
        if let Some(Flap { down_ms, up_ms }) = self.flap
            && [down_ms, up_ms]
                .iter()
                .any(|ms| !(1..=LATENCY_MS_MAX).contains(ms))
        {
            return Err(FaultError::Flap { down_ms, up_ms });
        }
        match self.kind {
            FaultKind::Latency { add_ms } if add_ms > LATENCY_MS_MAX => {
                Err(FaultError::Latency(add_ms))
            }
            FaultKind::HttpStatus { status } if !(400..=599).contains(&status) => {
                Err(FaultError::Status(status))
            }
            _ => Ok(()),
        }
    }
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultKind {
    /// The request waits this long before it is worked on.
    Latency {
        /// Milliseconds added, at most [`LATENCY_MS_MAX`].
        add_ms: u64,
    },
    /// A plain HTTP error instead of an answer.
    HttpStatus {
        /// 400 to 599.
        status: u16,
    },
    /// A JSON-RPC error inside HTTP 200.
    JsonRpcError {
        /// The error's code.
        code: i64,
        /// The error's message.
        message: String,
    },
    /// The tool answers with `isError: true` inside HTTP 200. It strikes tool calls only, whatever the target.
    ToolError {
        /// The text of the answer.
        message: String,
    },
    /// The server dies on the request, with everything in flight: the listener and all connections are gone.
    Crash,
    /// The request is never answered, and its connection stays open.
    Hang,
    /// The answer is cut by a connection reset after this many bytes of its body, or before its end if it is shorter.
    DropStream {
        /// Bytes of the body that still arrive.
        after_bytes: usize,
    },
    /// HTTP 200, said to be JSON, and is not.
    Garbage,
    /// The connection is reset when the request has been read, before a byte of an answer.
    Reset,
    /// The answer is no HTTP.
    NotHttp,
    /// HTTP 200 with a stream of events, of which the first is no JSON. The stream ends in good order.
    BrokenEvents,
    /// HTTP 200 with a `Content-Length` greater than the body, and an orderly end of the connection.
    ShortBody,
    /// HTTP 200 with a `Content-Length` less than what is sent. What is beyond it looks like the answer to a later request of the
    /// connection, which stays open; it has [`FORGED`] in it.
    LongBody,
}

/// What [`FaultKind::LongBody`] would have a later request answered with.
pub const FORGED: &str = "an answer to nobody";

/// Which requests a fault strikes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Every request, the health check too.
    Everything,
    /// Every `tools/call`.
    #[default]
    Calls,
    /// The calls of the tool of this name.
    Tool(String),
}

/// Why a fault was refused.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum FaultError {
    /// The ratio is no part of a whole.
    #[error("ratio {0}: it must lie between 0 and 1")]
    Ratio(f64),
    /// The delay is longer than [`LATENCY_MS_MAX`].
    #[error(
        "latency of {0} ms: at most {LATENCY_MS_MAX}; use `hang` for requests that are never answered"
    )]
    Latency(u64),
    /// A part of the schedule has no length, or one of more than [`LATENCY_MS_MAX`].
    #[error("{down_ms} ms down and {up_ms} ms up: each must be 1 to {LATENCY_MS_MAX}")]
    Flap {
        /// For how long it strikes.
        down_ms: u64,
        /// For how long it does not.
        up_ms: u64,
    },
    /// The status is not an error.
    #[error("HTTP status {0}: it must be an error, 400 to 599")]
    Status(u16),
}

/// The handle that turns faults on and off while the server runs. Clones turn the same switch.
#[derive(Clone, Debug, Default)]
pub struct FaultSwitch {
    active: Arc<ArcSwapOption<Active>>,
}

#[derive(Debug)]
struct Active {
    fault: Fault,
    injected_at: Instant,
    matched: AtomicU64,
    struck: AtomicU64,
}

impl FaultSwitch {
    /// Turns `fault` on in place of whatever was on, and says when.
    ///
    /// # Errors
    /// When the fault's numbers make no sense; the switch is then left as it was.
    pub fn set(&self, fault: Fault) -> Result<Instant, FaultError> {
        fault.check()?;
        let injected_at = Instant::now();
        self.active.store(Some(Arc::new(Active {
            fault,
            injected_at,
            matched: AtomicU64::new(0),
            struck: AtomicU64::new(0),
        })));
        Ok(injected_at)
    }

    /// Turns the fault off.
    pub fn clear(&self) {
        self.active.store(None);
    }

    /// The fault that is on.
    pub fn fault(&self) -> Option<Fault> {
        self.active
            .load()
            .as_ref()
            .map(|active| active.fault.clone())
    }

    /// When the fault that is on was turned on.
    pub fn injected_at(&self) -> Option<Instant> {
        self.active.load().as_ref().map(|active| active.injected_at)
    }

    /// How many requests the fault that is on has struck.
    pub fn strikes(&self) -> u64 {
        self.active
            .load()
            .as_ref()
            .map_or(0, |active| active.struck.load(Ordering::Relaxed))
    }

    fn strike(&self, called: &Called<'_>) -> Option<FaultKind> {
        let active = self.active.load_full()?;
        let Fault {
            kind,
            target,
            ratio,
            with_flag,
            flap,
        } = &active.fault;
        let since = active.injected_at.elapsed();
        if flap.is_some_and(|flap| !flap.is_down(since)) {
            return None;
        }
        let has_flag =
            |variant: &String| called.flags.split(',').any(|flag| flag.trim() == variant);
        if !with_flag.as_ref().is_none_or(has_flag) {
            return None;
        }
        let hit = match target {
            Target::Everything => true,
            Target::Calls => called.tool.is_some(),
            Target::Tool(name) => called.tool.as_deref() == Some(name),
        };
        if !hit || (matches!(kind, FaultKind::ToolError { .. }) && called.tool.is_none()) {
            return None;
        }
        let nth = active.matched.fetch_add(1, Ordering::Relaxed);
        // Evenly spread: struck whenever the running total passes a whole number.
        let total = |n: u64| (n as f64 * ratio).floor();
        if total(nth + 1) <= total(nth) {
            return None;
        }
        active.struck.fetch_add(1, Ordering::Relaxed);
        Some(kind.clone())
    }
}

/// Left in a request's extensions for the tool itself to obey: only it knows how to answer in this era's words.
#[derive(Clone, Debug)]
pub(crate) struct FailTool(pub(crate) String);

/// What a fault's target is matched against.
struct Called<'a> {
    tool: Option<std::borrow::Cow<'a, str>>,
    id: Option<&'a RawValue>,
    /// What `X-Serin-Flags` says.
    flags: String,
}

impl<'a> Called<'a> {
    fn read(body: &'a [u8], headers: &HeaderMap) -> Self {
        #[derive(Deserialize)]
        struct Envelope<'a> {
            #[serde(borrow, default)]
            id: Option<&'a RawValue>,
            #[serde(default)]
            method: Option<String>,
            #[serde(borrow, default)]
            params: Option<Params<'a>>,
        }
        #[derive(Deserialize)]
        struct Params<'a> {
            #[serde(borrow, default)]
            name: Option<std::borrow::Cow<'a, str>>,
        }
        let flags = headers
            .get(FLAGS_HEADER)
            .and_then(|flags| flags.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        // What cannot be read is no tool call; the server itself will complain about it.
        match serde_json::from_slice::<Envelope<'a>>(body) {
            Ok(envelope) => Self {
                tool: (envelope.method.as_deref() == Some("tools/call"))
                    .then(|| envelope.params.and_then(|params| params.name))
                    .flatten(),
                id: envelope.id,
                flags,
            },
            Err(_) => Self {
                tool: None,
                id: None,
                flags,
            },
        }
    }
}

/// Answers `request` through `next`, or as the switch demands. `kill` is what a crash cancels.
pub(crate) async fn inject<F>(
    switch: &FaultSwitch,
    kill: &CancellationToken,
    connection: &Connection,
    mut request: Request<Full<Bytes>>,
    body: &Bytes,
    next: impl FnOnce(Request<Full<Bytes>>) -> F,
) -> Response<Body>
where
    F: Future<Output = Response<Body>>,
{
    let called = Called::read(body, request.headers());
    match switch.strike(&called) {
        None => next(request).await,
        Some(FaultKind::Latency { add_ms }) => {
            tokio::time::sleep(Duration::from_millis(add_ms)).await;
            next(request).await
        }
        Some(FaultKind::HttpStatus { status }) => answer(
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            "text/plain",
            "injected fault\n",
        ),
        Some(FaultKind::JsonRpcError { code, message }) => {
            let error = json!({
                "jsonrpc": "2.0",
                "id": called.id,
                "error": { "code": code, "message": message },
            });
            answer(StatusCode::OK, "application/json", error.to_string())
        }
        Some(FaultKind::ToolError { message }) => {
            request.extensions_mut().insert(FailTool(message));
            next(request).await
        }
        Some(FaultKind::Crash) => {
            kill.cancel();
            std::future::pending().await
        }
        Some(FaultKind::Hang) => std::future::pending().await,
        Some(FaultKind::DropStream { after_bytes }) => {
            connection.reset_on_close();
            let mut response = next(request).await;
            response.headers_mut().remove(CONTENT_LENGTH);
            response.map(|body| Cut::new(body, after_bytes).boxed())
        }
        Some(FaultKind::Garbage) => answer(StatusCode::OK, "application/json", GARBAGE),
        Some(FaultKind::BrokenEvents) => {
            let events = [b"event: message\ndata: ", GARBAGE, b"\n\n"].concat();
            answer(StatusCode::OK, "text/event-stream", events)
        }
        Some(raw) => {
            match raw {
                FaultKind::NotHttp => connection.say_instead(GARBAGE),
                FaultKind::ShortBody => connection.say_instead(said_to_have(1000, "{\"jsonrpc\":")),
                FaultKind::LongBody => connection.say_and_stay(two_answers(called.id)),
                _ => {
                    connection.reset_on_close();
                    connection.say_instead("");
                }
            }
            // Something must be said for the connection to say something else.
            answer(StatusCode::OK, "text/plain", "fault")
        }
    }
}

/// Neither JSON nor HTTP nor an event.
const GARBAGE: &[u8] = b"\x00\xff{\"jsonrpc\": \"2.0\", \"result\": <<garbage>>";

/// An answer that says that its body has so many bytes.
fn said_to_have(bytes: usize, body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {bytes}\r\n\r\n{body}"
    )
}

/// A whole answer, and behind it another that nobody asked for.
fn two_answers(id: Option<&RawValue>) -> String {
    let message = |id: Option<&RawValue>, text: &str| {
        let content = json!([{ "type": "text", "text": text }]);
        let result = json!({ "content": content, "isError": false, "resultType": "complete" });
        json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string()
    };
    let (first, second) = (message(id, "the answer"), message(None, FORGED));
    said_to_have(first.len(), &first) + &said_to_have(second.len(), &second)
}

/// A body that breaks after some bytes.
struct Cut {
    body: Body,
    left_bytes: usize,
    flushed: bool,
}

impl Cut {
    fn new(body: Body, after_bytes: usize) -> Self {
        Self {
            body,
            left_bytes: after_bytes,
            flushed: false,
        }
    }

    /// The server must have written what it has before the connection breaks, so the first time says "not yet".
    fn broken<T>(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<T, Box<dyn Error + Send + Sync>>>> {
        if !self.flushed {
            self.flushed = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err("injected fault: stream dropped".into())))
    }
}

impl http_body::Body for Cut {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left_bytes == 0 {
            return self.broken(context);
        }
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    let part = data.slice(..data.len().min(self.left_bytes));
                    self.left_bytes -= part.len();
                    // An answer that is shorter is cut before its end.
                    if self.body.is_end_stream() {
                        self.left_bytes = 0;
                    }
                    Poll::Ready(Some(Ok(Frame::data(part))))
                }
                Err(_trailers) => self.broken(context),
            },
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
            Poll::Ready(None) => {
                self.left_bytes = 0;
                self.broken(context)
            }
            Poll::Pending => Poll::Pending,
        }
    }
}
