//! A population of MCP clients of both eras that keeps sessions, calls tools and checks every answer.
//!
//! Each call carries a nonce that must come back. The answers of the sample server say which version, endpoint and upstream
//! session gave them, so a client can tell when it was answered by the wrong one; see [`MismatchKind`]. Where a client is
//! moved to another version, that is a [`Move`]: right or wrong depending on what was done to the routing, which only the
//! operator knows; see [`Report::unexplained_moves`].
//!
//! All times are by the clients' clock.

mod ledger;
mod report;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde_json::json;
use tokio::{task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{Client, ClientError, Era},
    sample::{ELICITING_TOOL, PROGRESS_TOOL, ToolSet},
};
use ledger::{Call, Ledger};

pub use ledger::RECORDS_MAX;
pub use report::{
    Change, Harm, Life, LifeRecord, Mismatch, MismatchKind, Move, Outcome, Place, Report, Stats,
    VersionStats,
};

/// The most clients that one population may have: each has a connection or two.
pub const CLIENTS_MAX: usize = 5_000;
/// How long calls in flight may take after [`Population::stop`].
const STOP_GRACE: Duration = Duration::from_secs(1);
/// After a session could not be opened, an unpaced client takes a breath.
const REOPEN_PAUSE: Duration = Duration::from_millis(20);
/// A list that has more pages than this goes round in circles.
const PAGES_MAX: usize = 100;

/// How to start a [`Population`].
#[derive(Clone, Debug)]
pub struct PopulationOptions {
    /// The MCP endpoint, `http://host:port/path`.
    pub url: String,
    /// Clients of the legacy era.
    pub legacy: usize,
    /// Clients of the modern era.
    pub modern: usize,
    /// Calls a second of the whole population; `None`: each client calls as soon as it was answered.
    ///
    /// A client waits for its answer before it calls again, so slow answers lower the rate.
    pub calls_per_second: Option<f64>,
    /// Calls of one session, or of one modern principal; then the client begins anew, with a new affinity key.
    pub calls_per_session: u32,
    /// After so many sessions a client is done; `None`: never.
    pub sessions_per_client: Option<u32>,
    /// Whether each life begins with reading all pages of `tools/list`, as real clients do.
    pub list_tools: bool,
    /// The tools to call, each as often as its weight says. They must be of [`ToolSet::V2`].
    pub tools: Vec<(String, u32)>,
    /// How long a client waits for an answer.
    pub timeout: Duration,
    /// Picks tools, arguments and principals.
    pub seed: u64,
    /// Whether requests are marked, for the records of servers; see [`record`](crate::record).
    pub marks: bool,
}

impl PopulationOptions {
    /// Ten clients of each era, 100 calls a second, 20 calls a session, on the tools that both versions of the sample have.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            legacy: 10,
            modern: 10,
            calls_per_second: Some(100.0),
            calls_per_session: 20,
            sessions_per_client: None,
            list_tools: true,
            tools: ToolSet::V1
                .names()
                // The two that take a second round trip or a stream are rarer in real traffic, too.
                .map(|name| {
                    let weight = if [ELICITING_TOOL, PROGRESS_TOOL].contains(&name) {
                        1
                    } else {
                        5
                    };
                    (name.to_owned(), weight)
                })
                .collect(),
            timeout: Duration::from_secs(10),
            seed: 1,
            marks: false,
        }
    }

    fn check(&self) -> Result<(), PopulationError> {
        let clients = self.legacy + self.modern;
        if !(1..=CLIENTS_MAX).contains(&clients) {
            return Err(PopulationError::Clients(clients));
        }
        if let Some(rate) = self.calls_per_second
            && !(rate.is_finite() && rate > 0.0)
        {
            return Err(PopulationError::Rate(rate));
        }
        if self.calls_per_session == 0 {
            return Err(PopulationError::NoCalls);
        }
        if self.tools.iter().all(|(_, weight)| *weight == 0) {
            return Err(PopulationError::NoTools);
        }
        match self
            .tools
            .iter()
            .find(|(name, _)| ToolSet::V2.example(name, 0).is_none())
        {
            Some((name, _)) => Err(PopulationError::Tool(name.clone())),
            None => Client::new(&self.url, Era::Modern, None)
                .map(drop)
                .map_err(PopulationError::Url),
        }
    }
}

/// Why a population could not be started.
#[derive(Debug, thiserror::Error)]
pub enum PopulationError {
    /// No clients, or too many.
    #[error("{0} clients: there must be 1 to {CLIENTS_MAX}")]
    Clients(usize),
    /// The rate is no rate.
    #[error("{0} calls a second: it must be more than 0; leave it out to call without a pause")]
    Rate(f64),
    /// Sessions without calls.
    #[error("0 calls a session: there must be at least 1")]
    NoCalls,
    /// All weights are 0, or the list is empty.
    #[error("no tool has a weight above 0: name at least one")]
    NoTools,
    /// The tool is not one of the sample's.
    #[error("the sample server has no tool `{0}`")]
    Tool(String),
    /// The URL cannot be used.
    #[error("the population needs the URL of an MCP endpoint")]
    Url(#[source] ClientError),
}

/// Clients that run until they are stopped, or have had their sessions. Dropping it ends them at once.
#[derive(Debug)]
pub struct Population {
    book: Book,
    stop: CancellationToken,
    cut_off: CancellationToken,
    clients: JoinSet<()>,
}

/// A handle to the counts of a population, to be kept where the population itself cannot be.
#[derive(Clone)]
pub struct Book(Arc<Mutex<Ledger>>);

impl std::fmt::Debug for Book {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Book").field(&self.stats()).finish()
    }
}

impl Book {
    fn open(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counts so far.
    pub fn stats(&self) -> Stats {
        self.open().stats()
    }

    /// All that was seen so far.
    pub fn report(&self) -> Report {
        self.open().report()
    }

    /// The latencies, in microseconds, of the calls that went well since this was asked last; nothing when it is asked first.
    pub fn take_latencies(&self) -> Option<Histogram<u64>> {
        self.open().take_latencies()
    }

    /// How many calls sent at or after `instant` have harmed their callers so far.
    pub fn harmed_since(&self, instant: Instant) -> usize {
        self.open().harmed_since(instant)
    }
}

impl Population {
    /// Starts the clients on the current runtime.
    ///
    /// # Errors
    /// When the options make no sense. Whether the server answers is for the clients to find out and the report to say.
    pub fn start(options: PopulationOptions) -> Result<Self, PopulationError> {
        options.check()?;
        let options = Arc::new(options);
        let book = Book(Arc::default());
        let (stop, cut_off) = (CancellationToken::new(), CancellationToken::new());
        let mut clients = JoinSet::new();
        for number in 0..options.legacy + options.modern {
            let caller = Caller {
                options: Arc::clone(&options),
                book: book.clone(),
                number,
                era: if number < options.legacy {
                    Era::Legacy
                } else {
                    Era::Modern
                },
                stop: stop.clone(),
                random: Random::new(options.seed, number),
                life: Life {
                    client: number,
                    ordinal: 0,
                },
            };
            let cut_off = cut_off.clone();
            clients.spawn(async move {
                cut_off.run_until_cancelled(caller.run()).await;
            });
        }
        Ok(Self {
            book,
            stop,
            cut_off,
            clients,
        })
    }

    /// The counts so far.
    pub fn stats(&self) -> Stats {
        self.book.stats()
    }

    /// A handle to the counts.
    pub fn book(&self) -> Book {
        self.book.clone()
    }

    /// Waits until each client has had its [`sessions_per_client`](PopulationOptions::sessions_per_client).
    pub async fn finished(mut self) -> Report {
        while self.clients.join_next().await.is_some() {}
        self.book.report()
    }

    /// Lets each client finish its call, for a second at most, and end its session.
    pub async fn stop(mut self) -> Report {
        self.stop.cancel();
        let all = async { while self.clients.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_GRACE, all).await.is_err() {
            self.cut_off.cancel();
            while self.clients.join_next().await.is_some() {}
        }
        self.book.report()
    }
}

/// One client's life after life.
struct Caller {
    options: Arc<PopulationOptions>,
    book: Book,
    number: usize,
    era: Era,
    stop: CancellationToken,
    random: Random,
    life: Life,
}

impl Caller {
    async fn run(mut self) {
        let mut pace = self.pace();
        let mut sessions = 0;
        while self
            .options
            .sessions_per_client
            .is_none_or(|most| sessions < most)
        {
            let mut calls = 0;
            while calls < self.options.calls_per_session {
                if !self.tick(&mut pace).await {
                    return;
                }
                let Some(mut client) = self.begin().await else {
                    continue;
                };
                // A session that is gone is followed by another that makes the calls still due.
                let mut gone = false;
                let mut due = true;
                while !gone && calls < self.options.calls_per_session {
                    if !due && !self.tick(&mut pace).await {
                        self.end(client).await;
                        return;
                    }
                    due = false;
                    gone = self.call(&mut client).await == Outcome::SessionGone;
                    calls += u32::from(!gone);
                }
                if gone {
                    client.forget();
                }
                self.end(client).await;
            }
            sessions += 1;
        }
    }

    /// Clients take turns, evenly spread over their common interval.
    fn pace(&self) -> Option<tokio::time::Interval> {
        let clients = (self.options.legacy + self.options.modern) as f64;
        let rate = self.options.calls_per_second?;
        let interval = Duration::from_secs_f64(clients / rate).max(Duration::from_micros(1));
        let offset = interval.mul_f64(self.number as f64 / clients);
        let mut pace = tokio::time::interval_at(tokio::time::Instant::now() + offset, interval);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Some(pace)
    }

    /// Waits for the client's turn; `false` when there is none any more.
    async fn tick(&self, pace: &mut Option<tokio::time::Interval>) -> bool {
        match pace {
            None => !self.stop.is_cancelled(),
            Some(pace) => self.stop.run_until_cancelled(pace.tick()).await.is_some(),
        }
    }

    /// Begins a life: a session, or a principal, and the list of tools.
    async fn begin(&mut self) -> Option<Client> {
        self.life.ordinal += 1;
        self.book.open().begin();
        // Each life has a principal of its own, so that each has an affinity key of its own.
        let principal = format!("{:016x}-{}", self.random.next(), self.number);
        let mut client = Client::new(&self.options.url, self.era, Some(&principal)).ok()?;
        client.set_timeout(self.options.timeout);
        if self.options.marks {
            client.mark(principal);
        }
        let sent_at = Instant::now();
        let opened = match client.open().await {
            Ok(()) if self.options.list_tools => read_lists(&mut client).await,
            opened => opened.map_err(|error| failure(&error)),
        };
        match opened {
            Ok(()) => Some(client),
            Err(outcome) => {
                let mark = client.last_mark();
                self.book
                    .open()
                    .failed_aside(self.life, sent_at, mark, outcome);
                tokio::time::sleep(REOPEN_PAUSE).await;
                None
            }
        }
    }

    async fn call(&mut self, client: &mut Client) -> Outcome {
        let tool = self.pick_tool().to_owned();
        let draw = self.random.next();
        let nonce = format!("{:016x}-{}-{}", draw, self.number, self.life.ordinal);
        let mut arguments = ToolSet::V2.example(&tool, draw % 1000).unwrap_or_default();
        arguments["nonce"] = json!(nonce);
        let sent_at = Instant::now();
        let answer = client.call(&tool, arguments).await;
        self.book.open().book(&Call {
            life: self.life,
            era: self.era,
            tool: &tool,
            nonce: &nonce,
            sent_at,
            mark: client.last_mark(),
            answer: &answer,
        })
    }

    async fn end(&mut self, mut client: Client) {
        self.book.open().end(self.life);
        // A server that cannot be told has ended the session, or will.
        let _ = client.close().await;
    }

    fn pick_tool(&mut self) -> &str {
        let tools = &self.options.tools;
        let total: u64 = tools.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut left = self.random.next() % total.max(1);
        for (tool, weight) in tools {
            let weight = u64::from(*weight);
            if left < weight {
                return tool;
            }
            left -= weight;
        }
        ""
    }
}

/// Reads all pages of `tools/list`.
async fn read_lists(client: &mut Client) -> Result<(), Outcome> {
    let mut params = json!({});
    for _ in 0..PAGES_MAX {
        let answer = client
            .request("tools/list", params)
            .await
            .map_err(|error| failure(&error))?;
        if !answer.status.is_success() {
            return Err(Outcome::HttpError(answer.status.as_u16()));
        }
        if let Some(error) = answer.error() {
            let code = error["code"].as_i64().unwrap_or_default();
            return Err(Outcome::RpcError(code));
        }
        match answer.result().and_then(|list| list["nextCursor"].as_str()) {
            None => return Ok(()),
            Some(cursor) => params = json!({ "cursor": cursor }),
        }
    }
    Err(Outcome::Malformed("tools/list has no end".into()))
}

fn failure(error: &ClientError) -> Outcome {
    match error {
        ClientError::Refused(status) => Outcome::HttpError(status.as_u16()),
        ClientError::NotJson(_) | ClientError::TooLong => Outcome::Malformed(error.to_string()),
        _ => Outcome::Transport(error.to_string()),
    }
}

/// `SplitMix64` (Steele, Lea, Flood 2014): all that picking tools asks of a generator, and the same everywhere.
struct Random(u64);

impl Random {
    fn new(seed: u64, client: usize) -> Self {
        Self(seed ^ (client as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
