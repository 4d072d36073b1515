//! The population finds nothing where all is well, and finds each thing that can be wrong.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, Method, Response},
};
use serde_json::Value;
use serin_testbed::{
    client::Era,
    population::{Change, MismatchKind, Population, PopulationError, PopulationOptions, Report},
    sample::{Running, Sample, SampleOptions, ToolSet},
};

async fn sample(version: &str) -> Running {
    Sample::start(SampleOptions::new(
        version,
        format!("{version}-a"),
        ToolSet::V2,
    ))
    .await
    .expect("a free port on loopback")
}

/// A few clients that call without a pause, and end.
fn brief(url: &str) -> PopulationOptions {
    PopulationOptions {
        legacy: 4,
        modern: 4,
        calls_per_second: None,
        calls_per_session: 10,
        sessions_per_client: Some(2),
        ..PopulationOptions::new(url)
    }
}

async fn run(options: PopulationOptions) -> Report {
    Population::start(options)
        .expect("good options")
        .finished()
        .await
}

async fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited for ten seconds");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn nothing_is_wrong_with_a_server_that_is_right() {
    let server = sample("v1").await;
    let report = run(brief(&server.url())).await;
    assert_eq!(report.mismatches, []);
    assert_eq!(report.moves, []);
    assert_eq!(report.harms, []);
    assert_eq!(report.stats.calls, 8 * 2 * 10);
    assert_eq!(report.stats.lives, 8 * 2);
    assert_eq!(report.lives.len(), 8 * 2);
    let version = &report.stats.versions["v1"];
    assert_eq!(version.calls, report.stats.calls);
    assert!(version.last_sent_at.is_some() && version.first_harm_at.is_none());
    assert!(version.recent_p50 > Duration::ZERO && version.recent_p50 <= version.recent_p95);
}

#[tokio::test]
async fn a_paced_population_runs_until_it_is_stopped() {
    let server = sample("v1").await;
    let options = PopulationOptions {
        calls_per_second: Some(400.0),
        calls_per_session: 3,
        ..PopulationOptions::new(server.url())
    };
    let population = Population::start(options).unwrap();
    let book = population.book();
    until(|| book.stats().lives > 40).await;
    let report = population.stop().await;
    assert_eq!((report.mismatches, report.moves), (vec![], vec![]));
    assert_eq!(report.harms, []);
}

/// What a toy proxy in front of two samples does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    /// Each request goes to either server, whoever sent it.
    RoundRobin,
    /// The same, but a client's session has one upstream session on each server.
    TwoSessionsEach,
    /// All clients share one upstream session.
    OneSession,
    /// Every other answer's body is that of the answer before it.
    Mixed,
    /// `X-Serin-Version` is wrong.
    Header,
}

struct Toy {
    wrong: Wrong,
    upstreams: [String; 2],
    turn: AtomicUsize,
    http: reqwest::Client,
    sessions: Mutex<HashMap<String, [String; 2]>>,
    before: Mutex<Option<Bytes>>,
}

impl Toy {
    async fn start(wrong: Wrong, servers: [&Running; 2]) -> String {
        let toy = Toy {
            wrong,
            upstreams: servers.map(Running::url),
            turn: AtomicUsize::new(0),
            http: reqwest::Client::new(),
            sessions: Mutex::default(),
            before: Mutex::default(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let router = axum::Router::new()
            .fallback(Self::answer)
            .with_state(Arc::new(toy));
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    async fn forward(
        &self,
        server: usize,
        method: &Method,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> (http::StatusCode, HeaderMap, Bytes) {
        let mut headers = headers.clone();
        headers.remove("host");
        let response = self
            .http
            .request(method.clone(), &self.upstreams[server])
            .headers(headers)
            .body(body.clone())
            .send()
            .await
            .unwrap();
        let mut headers = response.headers().clone();
        headers.remove("transfer-encoding");
        (response.status(), headers, response.bytes().await.unwrap())
    }

    async fn answer(
        State(toy): State<Arc<Toy>>,
        method: Method,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Response<Body> {
        let message: Value = serde_json::from_slice(&body).unwrap_or_default();
        let opens = message["method"] == "initialize";
        let calls = message["method"] == "tools/call";
        // Mixed by a multiplication: clients in step would each meet the same server again and again.
        let turn = toy.turn.fetch_add(1, Ordering::Relaxed);
        let turn = (turn.wrapping_mul(0x9e37_79b9) >> 16) % 2;
        let mut server = match toy.wrong {
            Wrong::RoundRobin | Wrong::TwoSessionsEach => turn,
            _ => 0,
        };
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        let twins = headers
            .get("mcp-session-id")
            .and_then(|id| toy.sessions.lock().unwrap().get(&text(id)).cloned());
        if method == Method::DELETE && toy.wrong == Wrong::OneSession {
            return Response::new(Body::empty());
        }
        if let Some(twins) = &twins {
            if !calls {
                // Both must hear it; the first one answers.
                headers.insert("mcp-session-id", HeaderValue::try_from(&twins[1]).unwrap());
                toy.forward(1, &method, &headers, &body).await;
                server = 0;
            }
            headers.insert(
                "mcp-session-id",
                HeaderValue::try_from(&twins[server]).unwrap(),
            );
        }
        if opens && toy.wrong == Wrong::TwoSessionsEach {
            server = 0;
        }
        let (status, mut headers_back, mut body_back) =
            toy.forward(server, &method, &headers, &body).await;
        if opens && toy.wrong == Wrong::TwoSessionsEach {
            let (_, other, _) = toy.forward(1, &method, &headers, &body).await;
            let ids = [&headers_back, &other].map(|headers| text(&headers["mcp-session-id"]));
            toy.sessions.lock().unwrap().insert(ids[0].clone(), ids);
        }
        if opens && toy.wrong == Wrong::OneSession {
            let mut sessions = toy.sessions.lock().unwrap();
            let id = text(&headers_back["mcp-session-id"]);
            let shared = sessions
                .values()
                .next()
                .map_or(id.clone(), |ids| ids[0].clone());
            sessions.insert(id, [shared.clone(), shared]);
        }
        if calls && toy.wrong == Wrong::Mixed {
            let before = toy.before.lock().unwrap().replace(body_back.clone());
            if let Some(before) = before.filter(|_| turn == 0) {
                body_back = before;
                headers_back.remove("content-length");
            }
        }
        if toy.wrong == Wrong::Header {
            headers_back.insert("x-serin-version", HeaderValue::from_static("v9"));
        }
        let mut response = Response::new(Body::from(body_back));
        *response.status_mut() = status;
        *response.headers_mut() = headers_back;
        response
    }
}

/// Runs a population through the toy proxy; without lists and server requests, which the toy does not understand.
async fn through(wrong: Wrong) -> Report {
    let (one, two) = (sample("v1").await, sample("v2").await);
    let url = Toy::start(wrong, [&one, &two]).await;
    run(PopulationOptions {
        list_tools: false,
        tools: vec![("get_entry".into(), 1), ("find_similar".into(), 2)],
        sessions_per_client: Some(1),
        // Some of these make answers vanish.
        timeout: Duration::from_millis(500),
        ..brief(&url)
    })
    .await
}

fn kinds(report: &Report) -> Vec<MismatchKind> {
    let mut kinds: Vec<_> = report.mismatches.iter().map(|wrong| wrong.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

fn moved(report: &Report, era: Era) -> usize {
    let raised_once = [Change::Raised("v2".into())];
    report
        .unexplained_moves(&raised_once)
        .iter()
        .filter(|moved| moved.era == era)
        .count()
}

#[tokio::test]
async fn a_round_robin_loses_sessions_and_tosses_modern_callers_about() {
    let report = tokio::time::timeout(Duration::from_secs(20), async {
        let (one, two) = (sample("v1").await, sample("v2").await);
        let url = Toy::start(Wrong::RoundRobin, [&one, &two]).await;
        let options = PopulationOptions {
            list_tools: false,
            tools: vec![("get_entry".into(), 1)],
            sessions_per_client: Some(1),
            ..brief(&url)
        };
        let population = Population::start(options).unwrap();
        let book = population.book();
        // Legacy clients may never come to an end here.
        until(|| moved(&book.report(), Era::Modern) > 0 && book.stats().gone > 0).await;
        population.stop().await
    })
    .await
    .unwrap();
    assert!(moved(&report, Era::Modern) > 0);
    assert!(report.stats.gone > 0);
}

#[tokio::test]
async fn a_legacy_session_on_two_servers_is_found_out() {
    let report = through(Wrong::TwoSessionsEach).await;
    assert!(moved(&report, Era::Legacy) > 0, "{:?}", report.stats);
}

#[tokio::test]
async fn a_session_shared_by_two_clients_is_found_out() {
    let report = through(Wrong::OneSession).await;
    // Their request ids collide, too, so that some answers go astray.
    assert!(kinds(&report).contains(&MismatchKind::ForeignSession));
}

#[tokio::test]
async fn answers_that_are_mixed_up_are_found_out() {
    let report = through(Wrong::Mixed).await;
    assert!(kinds(&report).contains(&MismatchKind::Nonce), "{report:?}");
}

#[tokio::test]
async fn a_header_that_contradicts_the_answer_is_found_out() {
    let report = through(Wrong::Header).await;
    assert_eq!(kinds(&report), [MismatchKind::VersionHeader]);
    assert_eq!(report.stats.mismatches, report.stats.calls);
}

#[cfg(feature = "faults")]
mod faults {
    use super::*;
    use serin_testbed::{
        faults::{Fault, FaultKind},
        population::Outcome,
    };

    #[tokio::test]
    async fn harm_is_counted_from_the_injection_and_by_tool() {
        let server = sample("v2").await;
        let options = PopulationOptions {
            sessions_per_client: None,
            ..brief(&server.url())
        };
        let population = Population::start(options).unwrap();
        let book = population.book();
        until(|| book.stats().calls > 50).await;
        assert_eq!(book.stats().harmed, 0);
        let kind = FaultKind::ToolError {
            message: "the index is gone".into(),
        };
        let fault = Fault::new(kind).on_tool("search_knowledge");
        let injected_at = server.faults().set(fault).unwrap();
        until(|| book.harmed_since(injected_at) > 5).await;
        server.faults().clear();
        let report = population.stop().await;
        assert!(report.harms.iter().all(|harm| {
            harm.tool.as_deref() == Some("search_knowledge") && harm.outcome == Outcome::ToolError
        }));
        let version = &report.stats.versions["v2"];
        assert_eq!(version.tool_errors, report.stats.harmed);
        assert_eq!(version.harmed(), report.stats.harmed);
        assert!(version.first_harm_at <= version.last_sent_at);
        assert_eq!(report.mismatches, []);
    }

    #[tokio::test]
    async fn a_crash_harms_and_the_population_can_still_be_stopped() {
        let server = sample("v2").await;
        let options = PopulationOptions {
            sessions_per_client: None,
            ..brief(&server.url())
        };
        let population = Population::start(options).unwrap();
        let book = population.book();
        until(|| book.stats().calls > 50).await;
        server.crash();
        until(|| book.stats().versions["v2"].transport_errors > 5).await;
        let report = population.stop().await;
        let transport =
            |harm: &serin_testbed::population::Harm| matches!(harm.outcome, Outcome::Transport(_));
        assert!(report.harms.iter().all(transport));
    }

    #[tokio::test]
    async fn a_population_that_hangs_is_stopped_after_the_grace() {
        let server = sample("v2").await;
        server.faults().set(Fault::new(FaultKind::Hang)).unwrap();
        let population = Population::start(brief(&server.url())).unwrap();
        until(|| server.faults().strikes() >= 8).await;
        let report = tokio::time::timeout(Duration::from_secs(5), population.stop()).await;
        assert_eq!(report.unwrap().stats.calls, 0);
    }
}

#[tokio::test]
async fn options_that_make_no_sense_are_refused() {
    type Spoil = fn(&mut PopulationOptions);
    type Expected = fn(&PopulationError) -> bool;
    let table: [(Spoil, Expected); 7] = [
        (
            |options| (options.legacy, options.modern) = (0, 0),
            |error| matches!(error, PopulationError::Clients(0)),
        ),
        (
            |options| options.modern = 1_000_000,
            |error| matches!(error, PopulationError::Clients(_)),
        ),
        (
            |options| options.calls_per_second = Some(0.0),
            |error| matches!(error, PopulationError::Rate(_)),
        ),
        (
            |options| options.calls_per_session = 0,
            |error| matches!(error, PopulationError::NoCalls),
        ),
        (
            |options| options.tools.clear(),
            |error| matches!(error, PopulationError::NoTools),
        ),
        (
            |options| options.tools[0].0 = "no_such_tool".into(),
            |error| matches!(error, PopulationError::Tool(name) if name == "no_such_tool"),
        ),
        (
            |options| options.url = "https://example.invalid/mcp".into(),
            |error| matches!(error, PopulationError::Url(_)),
        ),
    ];
    for (spoil, expected) in table {
        let mut options = PopulationOptions::new("http://127.0.0.1:1/mcp");
        spoil(&mut options);
        let error = Population::start(options).unwrap_err();
        assert!(expected(&error), "{error}");
    }
}
