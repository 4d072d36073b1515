//! What clients get while endpoints fail, as real processes do: the table of docs/routing.md, and that nothing is sent twice.

mod endpoint;
#[path = "../support/mod.rs"]
mod support;

use endpoint::Endpoint;
use futures_util::future::join_all;
use reqwest::{RequestBuilder, Response, header::HeaderMap};
use serde_json::{Value, json};
use serin_testbed::{
    client::{LEGACY_VERSION, MODERN_VERSION},
    faults::{FORGED, Fault, FaultKind, Target},
    record::MARK,
};
use std::{
    fmt::Write as _,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};
use support::{PATIENCE, Serin};
use tempfile::TempDir;

/// What keeps a caller on one endpoint, in all eras.
const USER: &str = "x-user-id";
/// Each endpoint's deadline, where one is waited for.
const DEADLINE: &str = "1500ms";
const STREAMS: usize = 500;

/// `serin run` in front of two endpoints, as an MCP service at `/mcp` and as plain HTTP at `/web`.
struct World {
    serin: Serin,
    a: Endpoint,
    b: Endpoint,
    /// Users whom the hash gives these endpoints.
    at_a: String,
    at_b: String,
    marks: AtomicU64,
    http: reqwest::Client,
    _folder: TempDir,
}

/// How a client asks.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// In a session of 2025-11-25.
    Legacy,
    /// By 2026-07-28.
    Modern,
    /// Plain HTTP.
    Plain,
}

/// What a client got.
#[derive(Debug)]
struct Got {
    status: u16,
    headers: HeaderMap,
    body: String,
    /// The body broke off.
    is_broken: bool,
}

impl World {
    /// `settings` are those of both services; each endpoint answers by `deadline`.
    async fn start(settings: &str, deadline: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let a = Endpoint::start(folder.path(), "a").await;
        let b = Endpoint::start(folder.path(), "b").await;
        let service = |name: &str, protocol: &str, path: &str| {
            let endpoints = [&a, &b].map(|endpoint| {
                let url = endpoint.url(path);
                format!("{{ url: \"{url}\", response_timeout: {deadline} }}")
            });
            format!(
                "  {name}:\n    protocol: {protocol}\n    path: /{name}\n    stable: v1\n    versions: {{ v1: {{ endpoints: [{}] }} }}\n    \
                 settings: {{ affinity: [{{ header: {USER} }}], slow_start: 0s, {settings} }}\n",
                endpoints.join(", ")
            )
        };
        let services = [
            "services:\n",
            &service("mcp", "mcp", "/mcp"),
            &service("web", "http", ""),
        ];
        let serin = Serin::start(folder.path(), &services.concat()).await;
        let mut world = Self {
            serin,
            a,
            b,
            at_a: String::new(),
            at_b: String::new(),
            marks: AtomicU64::new(0),
            http: reqwest::Client::new(),
            _folder: folder,
        };
        for n in 0.. {
            let user = format!("user-{n}");
            match world.endpoint_of(&user).await.as_str() {
                "a" => world.at_a = user,
                _ => world.at_b = user,
            }
            if !world.at_a.is_empty() && !world.at_b.is_empty() {
                break;
            }
        }
        world
    }

    /// Who answers a new call of a user.
    async fn endpoint_of(&self, user: &str) -> String {
        self.ask(Way::Modern, user, None).await.endpoint()
    }

    fn mark(&self) -> String {
        format!("call-{}", self.marks.fetch_add(1, Relaxed))
    }

    fn request(
        &self,
        way: Way,
        user: &str,
        session: Option<&str>,
        message: &Value,
    ) -> RequestBuilder {
        let request = if way == Way::Plain {
            self.http.get(self.serin.url("/web/health"))
        } else {
            self.http
                .post(self.serin.url("/mcp"))
                .header("accept", "application/json, text/event-stream")
                .json(message)
        };
        let request = match way {
            Way::Legacy => request.header("mcp-protocol-version", LEGACY_VERSION),
            Way::Modern => request
                .header("mcp-protocol-version", MODERN_VERSION)
                .header("mcp-method", "tools/call")
                .header("mcp-name", "get_entry"),
            Way::Plain => request,
        };
        let request = match session {
            Some(session) => request.header("mcp-session-id", session),
            None => request,
        };
        request.header(USER, user).timeout(PATIENCE)
    }

    /// One call, which no server may be sent twice.
    async fn ask(&self, way: Way, user: &str, session: Option<&str>) -> Got {
        let mut params = json!({ "name": "get_entry", "arguments": { "id": "7" } });
        if way == Way::Modern {
            params["_meta"] = json!({
                "io.modelcontextprotocol/protocolVersion": MODERN_VERSION,
                "io.modelcontextprotocol/clientInfo": { "name": "faults", "version": "1" },
                "io.modelcontextprotocol/clientCapabilities": {},
            });
        }
        let message =
            json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
        let mark = self.mark();
        let request = self.request(way, user, session, &message);
        let got = Got::read(request.header(MARK, &mark).send().await.unwrap()).await;
        let times = self.a.times(&mark) + self.b.times(&mark);
        assert!(times <= 1, "{mark} was sent {times} times: {got:?}");
        got
    }

    /// Begins a session for a user.
    async fn session(&self, user: &str) -> String {
        let params = json!({
            "protocolVersion": LEGACY_VERSION,
            "capabilities": {},
            "clientInfo": { "name": "faults", "version": "1" },
        });
        let message =
            json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
        let answer = self
            .request(Way::Legacy, user, None, &message)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        let session = answer.headers()["mcp-session-id"]
            .to_str()
            .unwrap()
            .to_owned();
        answer.bytes().await.unwrap();
        let message = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        let request = self.request(Way::Legacy, user, Some(&session), &message);
        assert_eq!(request.send().await.unwrap().status(), 202);
        session
    }

    /// Asks in each way for somebody at `a`: two lines of the table, or as many as there are different answers.
    async fn outcomes(&self, session: &str) -> String {
        let ways = [
            ("session", Way::Legacy, Some(session)),
            ("call", Way::Modern, None),
            ("http", Way::Plain, None),
        ];
        let got = ways.map(async |(name, way, session)| {
            let got = self.ask(way, &self.at_a, session).await;
            (name, got)
        });
        let mut lines = String::new();
        for (name, got) in join_all(got).await {
            assert!(!got.body.contains(FORGED), "{got:?}");
            writeln!(lines, "  {name}: {}", got.in_words()).unwrap();
        }
        lines
    }

    /// Whoever is at the other endpoint notices nothing.
    async fn others_are_served(&self) {
        let session = self.session(&self.at_b).await;
        for (way, session) in [
            (Way::Legacy, Some(session.as_str())),
            (Way::Modern, None),
            (Way::Plain, None),
        ] {
            let got = self.ask(way, &self.at_b, session).await;
            assert_eq!((got.status, got.endpoint().as_str()), (200, "b"), "{got:?}");
        }
    }

    /// Waits until a new call of a user is answered by this endpoint. Meanwhile each is answered, or is a probe that fails.
    async fn until_answered_by(&self, user: &str, endpoint: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let got = self.ask(Way::Modern, user, None).await;
            if got.status == 200 && got.endpoint() == endpoint {
                return;
            }
            assert!(Instant::now() < deadline, "{got:?}\n{}", self.serin.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Got {
    async fn read(mut response: Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let (mut body, mut is_broken) = (Vec::new(), false);
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(_) => {
                    is_broken = true;
                    break;
                }
            }
        }
        Self {
            status,
            headers,
            body: String::from_utf8_lossy(&body).into_owned(),
            is_broken,
        }
    }

    /// The message or the document in it.
    fn json(&self) -> Option<Value> {
        let data = |line: &str| serde_json::from_str(line.strip_prefix("data:")?).ok();
        let event = || self.body.lines().find_map(data);
        serde_json::from_str(&self.body).ok().or_else(event)
    }

    /// Who answered; empty if nobody says so.
    fn endpoint(&self) -> String {
        let json = self.json().unwrap_or_default();
        let content = json.pointer("/result/structuredContent").unwrap_or(&json);
        content["endpoint"].as_str().unwrap_or_default().to_owned()
    }

    /// As a line of the table.
    fn in_words(&self) -> String {
        let header = |name| self.headers.get(name).and_then(|value| value.to_str().ok());
        let mut words = self.status.to_string();
        if let Some(seconds) = header("retry-after") {
            write!(words, ", Retry-After {seconds}").unwrap();
        }
        let endpoint = self.endpoint();
        let json = self.json().unwrap_or_default();
        if self.is_broken {
            words += ", broken off";
        } else if !endpoint.is_empty() {
            write!(words, ", by {endpoint}").unwrap();
        } else if let Some(error) = json.get("error") {
            write!(words, ", JSON-RPC {}: {}", error["code"], error["message"]).unwrap();
        } else if json.get("result").is_some() {
            words += ", an answer";
        } else if header("content-type").is_some_and(|kind| kind.starts_with("text/plain")) {
            write!(words, ", {}", self.body.trim()).unwrap();
        } else {
            words += ", what the endpoint sent";
        }
        words
    }
}

/// A fault that strikes whatever is asked.
fn fault(kind: FaultKind) -> Fault {
    Fault::new(kind).on(Target::Everything)
}

/// Breakers and probes stay out of it: they have tests of their own.
const CALM: &str = "breaker: { failures: 100 }, health: { interval: 10m }";

#[tokio::test]
async fn what_a_client_gets() {
    let world = World::start(CALM, "30s").await;
    let session = world.session(&world.at_a).await;
    let mut table = String::new();
    for (what, kind) in [
        ("answers late", FaultKind::Latency { add_ms: 50 }),
        ("refuses by HTTP", FaultKind::HttpStatus { status: 503 }),
        ("resets before an answer", FaultKind::Reset),
        (
            "resets within the answer",
            FaultKind::DropStream { after_bytes: 5 },
        ),
        ("is no HTTP", FaultKind::NotHttp),
        ("is no JSON", FaultKind::Garbage),
        ("is no event", FaultKind::BrokenEvents),
        ("says less than announced", FaultKind::ShortBody),
        ("says more than announced", FaultKind::LongBody),
    ] {
        world.a.fault(Some(fault(kind))).await;
        writeln!(
            table,
            "{what}\n{}",
            world.outcomes(&session).await.trim_end()
        )
        .unwrap();
        world.others_are_served().await;
        world.a.fault(None).await;
    }
    insta::assert_snapshot!(table, @r"
    answers late
      session: 200, by a
      call: 200, by a
      http: 200, by a
    refuses by HTTP
      session: 503, injected fault
      call: 503, injected fault
      http: 503, injected fault
    resets before an answer
      session: 502, an endpoint of version `v1` of service `mcp` broke the connection before it answered; it may have seen the call
      call: 502, an endpoint of version `v1` of service `mcp` broke the connection before it answered; it may have seen the call
      http: 502, an endpoint of version `v1` of service `web` broke the connection before it answered; it may have seen the call
    resets within the answer
      session: 200, broken off
      call: 200, broken off
      http: 200, broken off
    is no HTTP
      session: 502, an endpoint of version `v1` of service `mcp` broke the connection before it answered; it may have seen the call
      call: 502, an endpoint of version `v1` of service `mcp` broke the connection before it answered; it may have seen the call
      http: 502, an endpoint of version `v1` of service `web` broke the connection before it answered; it may have seen the call
    is no JSON
      session: 200, what the endpoint sent
      call: 200, what the endpoint sent
      http: 200, what the endpoint sent
    is no event
      session: 200, what the endpoint sent
      call: 200, what the endpoint sent
      http: 200, what the endpoint sent
    says less than announced
      session: 200, broken off
      call: 200, broken off
      http: 200, broken off
    says more than announced
      session: 200, an answer
      call: 200, an answer
      http: 200, an answer
    ");
}

#[tokio::test]
async fn who_never_answers() {
    let world = World::start(CALM, DEADLINE).await;
    let session = world.session(&world.at_a).await;
    let mut table = String::new();
    world.a.fault(Some(fault(FaultKind::Hang))).await;
    let (hangs, ()) = tokio::join!(world.outcomes(&session), world.others_are_served());
    writeln!(table, "hangs\n{}", hangs.trim_end()).unwrap();
    world.a.fault(None).await;
    world.a.freeze();
    let (frozen, ()) = tokio::join!(world.outcomes(&session), world.others_are_served());
    world.a.thaw();
    writeln!(table, "stands still\n{}", frozen.trim_end()).unwrap();
    insta::assert_snapshot!(table, @r"
    hangs
      session: 504, an endpoint of version `v1` of service `mcp` did not answer within 1500 ms; raise the service's `response_timeout`, or that of the endpoint, if its tools take longer
      call: 504, an endpoint of version `v1` of service `mcp` did not answer within 1500 ms; raise the service's `response_timeout`, or that of the endpoint, if its tools take longer
      http: 504, an endpoint of version `v1` of service `web` did not answer within 1500 ms; raise the service's `response_timeout`, or that of the endpoint, if its tools take longer
    stands still
      session: 504, an endpoint of version `v1` of service `mcp` did not answer within 1500 ms; raise the service's `response_timeout`, or that of the endpoint, if its tools take longer
      call: 504, an endpoint of version `v1` of service `mcp` did not answer within 1500 ms; raise the service's `response_timeout`, or that of the endpoint, if its tools take longer
      http: 504, an endpoint of version `v1` of service `web` did not answer within 1500 ms; raise the service's `response_timeout`, or that of the endpoint, if its tools take longer
    ");
}

#[tokio::test]
async fn who_is_dead() {
    let mut world = World::start(CALM, "30s").await;
    let session = world.session(&world.at_a).await;
    // In flight when it dies.
    world.a.fault(Some(fault(FaultKind::Hang))).await;
    let in_flight = world.ask(Way::Modern, &world.at_a, None);
    let waits = Instant::now() + PATIENCE;
    let before = world.a.calls().len();
    let dies = async {
        while world.a.calls().len() == before {
            assert!(Instant::now() < waits, "the call does not come");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        world.a.stop().await;
    };
    let (got, ()) = tokio::join!(in_flight, dies);
    let mut table = format!("is killed while it works\n  call: {}\n", got.in_words());
    writeln!(
        table,
        "is dead\n{}",
        world.outcomes(&session).await.trim_end()
    )
    .unwrap();
    world.others_are_served().await;
    world.a.start_again().await;
    writeln!(
        table,
        "is back\n{}",
        world.outcomes(&session).await.trim_end()
    )
    .unwrap();
    insta::assert_snapshot!(table, @r"
    is killed while it works
      call: 502, an endpoint of version `v1` of service `mcp` broke the connection before it answered; it may have seen the call
    is dead
      session: 200, by b
      call: 200, by b
      http: 200, by b
    is back
      session: 200, by b
      call: 200, by a
      http: 200, by a
    ");
}

#[tokio::test]
async fn a_breaker_opens_and_closes_again() {
    let settings = "breaker: { failures: 3, open: 1s }, health: { interval: 10m }";
    let world = World::start(settings, "30s").await;
    world.a.fault(Some(fault(FaultKind::Reset))).await;
    let mut failed = 0;
    let before = world.a.calls().len();
    loop {
        let got = world.ask(Way::Modern, &world.at_a, None).await;
        if got.status == 200 {
            assert_eq!(got.endpoint(), "b");
            break;
        }
        failed += 1;
        assert_eq!((got.status, failed <= 3), (502, true), "{got:?}");
    }
    assert_eq!((failed, world.a.calls().len() - before), (3, 3));
    world.a.fault(None).await;
    world.until_answered_by(&world.at_a, "a").await;
}

/// Each change of a flapping endpoint costs the calls in flight, and nobody else's.
#[tokio::test]
async fn an_endpoint_that_comes_and_goes() {
    let settings = "breaker: { failures: 3, open: 1s }, health: { interval: 10m }";
    let mut world = World::start(settings, "30s").await;
    for _ in 0..2 {
        world.a.kill().await;
        for _ in 0..10 {
            for user in [&world.at_a, &world.at_b] {
                let got = world.ask(Way::Modern, user, None).await;
                assert_eq!((got.status, got.endpoint().as_str()), (200, "b"), "{got:?}");
            }
        }
        world.a.start_again().await;
        world.until_answered_by(&world.at_a, "a").await;
    }
}

#[tokio::test]
async fn open_streams_die_with_their_endpoint_alone() {
    let mut world = World::start(CALM, "30s").await;
    let open = |user: String| {
        let world = &world;
        async move {
            let session = world.session(&user).await;
            let stream = (world.http)
                .get(world.serin.url("/mcp"))
                .header("accept", "text/event-stream")
                .header("mcp-protocol-version", LEGACY_VERSION)
                .header("mcp-session-id", session)
                .header(USER, user);
            let stream = stream.send().await.unwrap();
            assert_eq!(stream.status(), 200);
            stream
        }
    };
    let bystander = open(world.at_b.clone()).await;
    let mut streams = Vec::new();
    while streams.len() < STREAMS {
        streams.extend(join_all((0..50).map(|_| open(world.at_a.clone()))).await);
    }
    let is_over = AtomicBool::new(false);
    let deaths = join_all(streams.into_iter().map(Got::read));
    let world_b = async {
        let mut calls = 0;
        while !is_over.load(Relaxed) || calls < 20 {
            let got = world.ask(Way::Modern, &world.at_b, None).await;
            assert_eq!((got.status, got.endpoint().as_str()), (200, "b"), "{got:?}");
            calls += 1;
        }
    };
    let dies = async {
        world.a.stop().await;
        for got in tokio::time::timeout(PATIENCE, deaths)
            .await
            .expect("all streams end")
        {
            assert!(got.is_broken, "{got:?}");
        }
        is_over.store(true, Relaxed);
    };
    tokio::join!(world_b, dies);
    // The stream at the other endpoint is still open.
    let mut bystander = bystander;
    let quiet = tokio::time::timeout(Duration::from_millis(100), bystander.chunk()).await;
    assert!(!matches!(quiet, Ok(Ok(None) | Err(_))), "{quiet:?}");
    world.a.start_again().await;
    world.until_answered_by(&world.at_a, "a").await;
}
