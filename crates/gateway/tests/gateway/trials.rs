//! What the gateway tells the judge: trials, and numbers in results.

use crate::support::*;
use http_body_util::BodyExt as _;
use serin_judge::{
    ValueSum, bucket_of,
    trial::{NewKey, Part, Time},
};
use serin_model::{
    name::RolloutId,
    observe::{CallEra, Outcome, Rejection, Sealed},
    service::{Overrides, Protocol},
    snapshot::{ServiceRoute, WatchedValue},
};
use serin_route::standing::OnFailure;
use std::{collections::BTreeMap, time::Duration};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use uuid::Uuid;

fn parts(seen: &[Sealed]) -> Vec<Part> {
    let trials = seen.iter().flat_map(|sealed| &sealed.trials);
    trials.flat_map(|t| t.report.parts.clone()).collect()
}

fn keys(seen: &[Sealed]) -> Vec<NewKey> {
    let trials = seen.iter().flat_map(|sealed| &sealed.trials);
    trials.flat_map(|t| t.report.keys.clone()).collect()
}

/// `v1` at one server and `v2`, which gets all new callers, at another, under a rollout that began just now.
fn split(stable: &Server, candidate: &Server) -> ServiceRoute {
    let builds = [build("v1", &[stable]), build("v2", &[candidate])];
    begun(service(&builds, Some(100.0)))
}

/// Under a rollout that began just now.
fn begun(mut tools: ServiceRoute) -> ServiceRoute {
    let split = tools.split.as_mut().unwrap();
    split.rollout = RolloutId(Uuid::now_v7());
    split.step_began = jiff::Timestamp::now();
    tools
}

async fn session(client: &mut Client) -> String {
    let answer = client.initialize().await;
    answer.header("mcp-session-id").unwrap().to_owned()
}

/// Waits for so many calls that ended in some way, over all tools and versions.
async fn ended(gateway: &mut Running, n: u64) {
    let of = |seen: &[Sealed]| {
        let cells = seen.iter().flat_map(|sealed| &sealed.cells);
        cells
            .map(|(_, counts)| counts.outcomes.iter().sum::<u64>())
            .sum::<u64>()
    };
    gateway.observed.until(|seen| of(seen) == n).await;
}

#[tokio::test]
async fn a_legacy_session_is_a_key() {
    let server = Server::mcp("one").await;
    let mut gateway = Running::start(vec![split(&server, &server)]);
    let mut client = gateway.client().await;
    let first = session(&mut client).await;
    for body in [
        CALL,
        &CALL.replace("add", "greet"),
        &CALL.replace("tools/call", "tools/list"),
    ] {
        assert_eq!(client.legacy(&first, body.to_owned()).await.status, 200);
    }
    // The session knows where it is on any connection and core.
    assert_eq!(
        gateway.client().await.legacy(&first, CALL).await.status,
        200
    );
    let second = session(&mut client).await;
    client.legacy(&second, CALL).await;
    ended(&mut gateway, 7).await;
    let keys = keys(&gateway.observed.seen);
    assert_eq!(keys.len(), 2);
    let mut by_key = BTreeMap::<_, Vec<_>>::new();
    for part in parts(&gateway.observed.seen) {
        assert!(
            part.is_candidate && part.seen.is_known && !part.seen.is_bad,
            "{part:?}"
        );
        assert!(
            matches!(part.seen.first, Some((_, Time::Took(_)))),
            "{part:?}"
        );
        let tools = by_key.entry(part.key).or_default();
        tools.push(
            part.tool
                .expect("lists and `initialize` are no trials")
                .to_string(),
        );
        tools.sort_unstable();
        tools.dedup();
    }
    assert_eq!(by_key[&keys[0].key], ["add", "greet"]);
    assert_eq!(by_key[&keys[1].key], ["add"]);
    assert!(keys.iter().all(|key| key.is_candidate));
    let of = &gateway
        .observed
        .seen
        .iter()
        .flat_map(|s| &s.trials)
        .next()
        .unwrap();
    assert_eq!(
        (of.service.as_str(), of.step, of.share.percent()),
        ("tools", 1, 100.0)
    );
}

#[tokio::test]
async fn sessions_of_a_caller_who_is_known_again_are_one_key() {
    let server = Server::mcp("one").await;
    let mut tools = split(&server, &server);
    tools.settings.affinity =
        serde_json::from_value(serde_json::json!([{ "header": "x-user" }])).unwrap();
    let mut gateway = Running::start(vec![tools]);
    let mut client = gateway.client().await;
    for user in ["ann", "bob", "ann"] {
        let headers = [("x-user", user), ("content-type", "application/json")];
        let begun = client.ask("POST", "/mcp", &headers, INITIALIZE).await;
        let id = begun.header("mcp-session-id").unwrap().to_owned();
        // Its later requests need not say who they are: their session knows.
        assert_eq!(client.legacy(&id, CALL).await.status, 200);
    }
    let own = session(&mut client).await;
    client.legacy(&own, CALL).await;
    ended(&mut gateway, 8).await;
    let keys = |of: Vec<u64>| of.into_iter().collect::<std::collections::BTreeSet<_>>();
    let assigned = keys(
        self::keys(&gateway.observed.seen)
            .iter()
            .map(|key| key.key)
            .collect(),
    );
    let compared = keys(
        parts(&gateway.observed.seen)
            .iter()
            .map(|part| part.key)
            .collect(),
    );
    assert_eq!((assigned.len(), &assigned), (3, &compared));
}

/// So many callers, each with one call of a tool.
async fn callers(gateway: &Running, n: usize) -> Vec<u16> {
    let mut client = gateway.client().await;
    let mut statuses = Vec::new();
    for caller in 0..n {
        let who = format!("Bearer {caller}");
        let who = [("authorization", &*who)];
        let call = client.modern("tools/call", Some("add"), &who, "{}");
        statuses.push(call.await.status);
    }
    statuses
}

/// What a side of the comparison has: keys, trials, and those that are bad.
fn side(gateway: &Running, of_candidate: bool) -> (usize, usize, usize) {
    let (keys, parts) = (keys(&gateway.observed.seen), parts(&gateway.observed.seen));
    let keys = keys.iter().filter(|key| key.is_candidate == of_candidate);
    let parts = || {
        let of_side = |part: &&Part| part.is_candidate == of_candidate;
        parts.iter().filter(of_side)
    };
    let bad = parts().filter(|part| part.seen.is_bad);
    (keys.count(), parts().count(), bad.count())
}

#[tokio::test]
async fn what_is_refused_for_want_of_an_endpoint_is_held_against_the_version() {
    let good = Server::mcp("good").await;
    let bad = Server::answering(|_| reply(503, &[], "")).await;
    let mut tools = split(&good, &bad);
    tools.settings.on_failure = OnFailure::FailClosed;
    let mut gateway = Running::start(vec![tools]);
    assert_eq!(callers(&gateway, 20).await, [503; 20]);
    let observed = &mut gateway.observed;
    observed.outcome("v2", "add", Outcome::Http5xx, 5).await;
    // Its breaker is open.
    observed.outcome("v2", "add", Outcome::Transport, 15).await;
    observed.rejection(Rejection::Unusable, 15).await;
    assert_eq!(bad.seen().len(), 5);
    let all = |seen: &[Sealed]| parts(seen).len() == 20;
    gateway.observed.until(all).await;
    assert_eq!(side(&gateway, true), (20, 20, 20));
    assert_eq!(side(&gateway, false), (0, 0, 0));
}

#[tokio::test]
async fn what_a_fallback_serves_is_held_against_stable_in_a_rollout() {
    let good = modern_server().await;
    let bad = Server::answering(|_| reply(503, &[], "")).await;
    let builds = [
        build("v1", &[&bad]),
        build("v2", &[&bad]),
        build("v3", &[&good]),
    ];
    let mut tools = begun(service(&builds, Some(0.0)));
    tools.versions[0].fallback = vec![2];
    let mut gateway = Running::start(vec![tools.clone()]);
    let statuses = callers(&gateway, 20).await;
    assert_eq!(
        (&statuses[..5], &statuses[5..]),
        (&[503; 5][..], &[200; 15][..])
    );
    let observed = &mut gateway.observed;
    observed.outcome("v1", "add", Outcome::Http5xx, 5).await;
    observed.outcome("v1", "add", Outcome::Transport, 15).await;
    observed.outcome("v3", "add", Outcome::Ok, 15).await;
    let all = |seen: &[Sealed]| parts(seen).len() == 20;
    gateway.observed.until(all).await;
    assert_eq!(side(&gateway, false), (20, 20, 20));

    // Without one nobody is compared, and the callers were served.
    tools.split = None;
    let mut gateway = Running::start(vec![tools]);
    callers(&gateway, 20).await;
    ended(&mut gateway, 20).await;
    let counts = gateway.observed.counts();
    let of_v1 = counts.iter().filter(|((version, ..), _)| version == "v1");
    let lost: u64 = of_v1.map(|(_, counts)| counts.of(Outcome::Transport)).sum();
    assert_eq!(lost, 0);
}

async fn modern_server() -> Server {
    Server::answering(|_| json(r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#)).await
}

#[tokio::test]
async fn modern_and_plain_callers_are_keys() {
    let server = Server::answering(|seen| match seen.header("x-want") {
        Some(_) => reply(500, &[], "oh"),
        None => json(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#),
    })
    .await;
    for protocol in [Protocol::Mcp, Protocol::Http] {
        let mut tools = split(&server, &server);
        tools.protocol = protocol;
        let mut gateway = Running::start(vec![tools]);
        let mut client = gateway.client().await;
        for (caller, want) in [("a", None), ("b", None), ("a", Some("500"))] {
            let token = format!("Bearer {caller}");
            let mut headers = vec![("authorization", &*token)];
            headers.extend(want.map(|want| ("x-want", want)));
            client
                .modern("tools/call", Some("add"), &headers, "{}")
                .await;
        }
        ended(&mut gateway, 3).await;
        let keys = keys(&gateway.observed.seen);
        assert_eq!(keys.len(), 2, "{protocol:?}");
        let tool = (protocol == Protocol::Mcp).then_some("add");
        let parts = parts(&gateway.observed.seen);
        assert!(
            parts.iter().all(|part| part.tool.as_deref() == tool),
            "{parts:?}"
        );
        let is_bad = |key: u64| parts.iter().any(|part| part.key == key && part.seen.is_bad);
        assert_eq!([is_bad(keys[0].key), is_bad(keys[1].key)], [true, false]);
    }
}

#[tokio::test]
async fn callers_whom_the_split_did_not_assign_are_no_keys() {
    let server = Server::mcp("one").await;
    let mut tools = split(&server, &server);
    tools.settings.overrides = Overrides {
        version: true,
        ..Overrides::default()
    };
    let mut gateway = Running::start(vec![tools]);
    let mut client = gateway.client().await;
    // Testers: modern, and in a session that one began.
    let chosen = [("x-serin-version", "v2")];
    client
        .modern("tools/call", Some("add"), &chosen, "{}")
        .await;
    let headers = [("content-type", "application/json"), chosen[0]];
    let answer = client.ask("POST", "/mcp", &headers, INITIALIZE).await;
    let of_tester = answer.header("mcp-session-id").unwrap().to_owned();
    client.legacy(&of_tester, CALL).await;
    // Stable only: the old transport's version.
    let old = INITIALIZE.replace("2025-11-25", "2024-11-05");
    let answer = client.ask("POST", "/mcp", &headers[..1], old).await;
    assert_eq!(answer.version(), "v1");
    let of_old = answer.header("mcp-session-id").unwrap().to_owned();
    client.legacy(&of_old, CALL).await;
    gateway.observed.outcome("v1", "add", Outcome::Ok, 1).await;
    // One who is.
    let token = [("authorization", "Bearer a")];
    client.modern("tools/call", Some("add"), &token, "{}").await;
    gateway.observed.outcome("v2", "add", Outcome::Ok, 1).await;
    gateway.observed.until(|seen| !parts(seen).is_empty()).await;
    let (keys, parts) = (keys(&gateway.observed.seen), parts(&gateway.observed.seen));
    assert_eq!((keys.len(), parts.len()), (1, 1));
    assert_eq!(keys[0].key, parts[0].key);
}

#[tokio::test]
async fn sessions_that_are_older_than_the_step_are_no_keys() {
    let server = Server::mcp("one").await;
    let before = service(&[build("v1", &[&server]), build("v2", &[&server])], None);
    let mut gateway = Running::start(vec![before]);
    let mut client = gateway.client().await;
    let without_rollout = session(&mut client).await;
    gateway.swap(vec![split(&server, &server)]);
    let of_earlier_step = session(&mut client).await;
    // Ids tell milliseconds.
    tokio::time::sleep(Duration::from_millis(2)).await;
    gateway.swap(vec![split(&server, &server)]);
    let of_this = session(&mut client).await;
    for session in [&without_rollout, &of_earlier_step, &of_this] {
        assert_eq!(client.legacy(session, CALL).await.status, 200);
    }
    ended(&mut gateway, 6).await;
    gateway.observed.until(|seen| !parts(seen).is_empty()).await;
    let parts = parts(&gateway.observed.seen);
    assert_eq!(parts.len(), 1);
    assert!(
        keys(&gateway.observed.seen)
            .iter()
            .any(|key| key.key == parts[0].key)
    );
}

#[tokio::test]
async fn each_step_counts_anew_and_a_call_of_the_last_one_says_nothing() {
    let server = Server::start(|seen| async move {
        if seen.header("x-slow").is_some() {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        json(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#)
    })
    .await;
    let tools = split(&server, &server);
    let keyring = serin_gateway::Keyring::ephemeral().unwrap();
    let mut gateway = Running::with(vec![tools.clone()], keyring, |options| options.cores = 1);
    let mut next = tools;
    next.split.as_mut().unwrap().step = 2;
    let mut slow = gateway.client().await;
    let slow = tokio::spawn(async move {
        slow.modern("tools/call", Some("add"), &[("x-slow", "1")], "{}")
            .await
    });
    let sent = async {
        while server.seen().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    soon(sent).await;
    gateway.swap(vec![next]);
    let mut client = gateway.client().await;
    client.modern("tools/call", Some("greet"), &[], "{}").await;
    soon(slow).await.unwrap();
    ended(&mut gateway, 2).await;
    let parts = parts(&gateway.observed.seen);
    assert_eq!(parts.len(), 1);
    assert_eq!(parts[0].tool.as_deref(), Some("greet"));
    let trials = gateway.observed.seen.iter().flat_map(|s| &s.trials);
    let steps = trials
        .filter(|t| !t.report.parts.is_empty())
        .map(|t| t.step);
    assert_eq!(steps.collect::<Vec<_>>(), [2]);
}

/// A modern call on a connection of its own, which ends with the stream.
async fn call(gateway: &Running, server: &Server) -> TcpStream {
    let before = server.count("tools/call");
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: {}\r\nmcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: add\r\ncontent-length: {}\r\n\r\n",
        gateway.address,
        CALL.len()
    );
    stream
        .write_all(format!("{head}{CALL}").as_bytes())
        .await
        .unwrap();
    let sent = async {
        while server.count("tools/call") == before {
            tokio::task::yield_now().await;
        }
    };
    soon(sent).await;
    stream
}

/// The bucket of the age at which a call was left, which was at least so long.
fn assert_left(part: &Part, at_least: Duration) {
    assert!(
        !part.seen.is_known && !part.seen.is_bad && part.seen.first.is_none(),
        "{part:?}"
    );
    let (age, _) = part.seen.left.expect("it was left");
    assert!(age >= bucket_of(at_least.as_secs_f64()), "{part:?}");
    assert!(age < bucket_of(PATIENCE.as_secs_f64()), "{part:?}");
}

#[tokio::test]
async fn a_hang_that_its_client_gives_up_has_an_age() {
    let silent = Server::start(|_| std::future::pending()).await;
    let waits = Duration::from_millis(100);
    // For thresholds it is cancelled or timed out by a fixed age; for trials the age itself decides.
    for (hung_after, outcome) in [
        (Duration::from_mins(1), Outcome::Cancelled),
        (waits / 2, Outcome::Timeout),
    ] {
        let keys = serin_gateway::Keyring::ephemeral().unwrap();
        let mut gateway = Running::with(vec![split(&silent, &silent)], keys, |options| {
            options.hung_after = hung_after;
        });
        let stream = call(&gateway, &silent).await;
        tokio::time::sleep(waits).await;
        drop(stream);
        gateway.observed.outcome("v2", "add", outcome, 1).await;
        let parts = parts(&gateway.observed.seen);
        assert_eq!(parts.len(), 1);
        assert_left(&parts[0], waits);
        let counts = gateway.observed.counts();
        let left = &counts[&("v2".to_owned(), "add".to_owned(), CallEra::Modern)].left;
        assert_eq!(left.count(), u64::from(outcome == Outcome::Cancelled));
    }
}

#[tokio::test]
async fn a_call_cancelled_by_a_notification_was_left_then_and_not_when_it_ended() {
    let server = Server::start(|seen| async move {
        match seen.rpc_method().as_str() {
            "initialize" => reply(200, &[("mcp-session-id", "up")], "{}"),
            "tools/call" => std::future::pending().await,
            _ => reply(202, &[], ""),
        }
    })
    .await;
    let mut tools = split(&server, &server);
    tools.settings.response_timeout = Duration::from_secs(2);
    let mut gateway = Running::start(vec![tools]);
    let mut client = gateway.client().await;
    let session = session(&mut client).await;
    let (mut other, of) = (gateway.client().await, session.clone());
    let call = tokio::spawn(async move { other.legacy(&of, CALL).await.status });
    let sent = async {
        while server.count("tools/call") == 0 {
            tokio::task::yield_now().await;
        }
    };
    soon(sent).await;
    let waits = Duration::from_millis(50);
    tokio::time::sleep(waits).await;
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#;
    client.legacy(&session, cancel).await;
    assert_eq!(soon(call).await.unwrap(), 504);
    gateway
        .observed
        .outcome("v2", "add", Outcome::Cancelled, 1)
        .await;
    let parts = parts(&gateway.observed.seen);
    assert_eq!(parts.len(), 1);
    assert_left(&parts[0], waits);
    let (age, _) = parts[0].seen.left.unwrap();
    assert!(age < bucket_of(1.9), "{age}");
}

#[tokio::test]
async fn calls_that_waited_for_a_person_have_no_time_and_may_be_left() {
    let asks =
        "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"elicitation/create\",\"params\":{}}\n\n";
    let result = "data: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\n\n";
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::answering(move |_| {
        let (pieces, reply) = pieces("text/event-stream");
        sender.send(pieces).unwrap();
        reply
    })
    .await;
    let mut gateway = Running::start(vec![split(&server, &server)]);
    let headers = [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "add"),
    ];
    for answers in [true, false] {
        let mut client = gateway.client().await;
        let mut response = client.begin("POST", "/mcp", &headers, CALL).await;
        let pieces = soon(receiver.recv()).await.unwrap();
        pieces.send(piece(asks)).unwrap();
        soon(response.body_mut().frame()).await.unwrap().unwrap();
        if answers {
            pieces.send(piece(result)).unwrap();
            drop(pieces);
            soon(response.into_body().collect()).await.unwrap();
        } else {
            drop((client, response));
            soon(pieces.closed()).await;
        }
    }
    ended(&mut gateway, 2).await;
    let parts = parts(&gateway.observed.seen);
    assert_eq!(parts.len(), 1, "one who leaves when asked says nothing");
    let seen = parts[0].seen;
    assert!(
        seen.is_known && seen.first.is_none() && seen.left.is_none(),
        "{seen:?}"
    );
}

#[tokio::test]
async fn what_the_gateway_cuts_is_no_trial() {
    let silent = Server::start(|_| std::future::pending()).await;
    let gateway = Running::start(vec![split(&silent, &silent)]);
    let _stream = call(&gateway, &silent).await;
    let Running {
        gateway,
        mut observed,
        ..
    } = gateway;
    assert_eq!(gateway.shutdown(Duration::ZERO).await.cut, 1);
    observed.outcome("v2", "add", Outcome::Cancelled, 1).await;
    assert_eq!(parts(&observed.seen), []);
    assert!(
        observed
            .counts()
            .values()
            .all(|counts| counts.left.is_empty())
    );
}

mod values {
    use super::*;

    fn watching(mut tools: ServiceRoute, values: &[(&str, &str, &str)]) -> ServiceRoute {
        let value = |(tool, pointer, name): &(&str, &str, &str)| WatchedValue {
            tool: (*tool).into(),
            pointer: (*pointer).into(),
            name: (*name).into(),
        };
        tools.split.as_mut().unwrap().values = values.iter().map(value).collect();
        tools
    }

    fn sums(seen: &[Sealed]) -> BTreeMap<(String, String), ValueSum> {
        let mut sums = BTreeMap::<_, ValueSum>::new();
        for (_, version, name, sum) in seen.iter().flat_map(|sealed| &sealed.values) {
            let key = (version.to_string(), name.to_string());
            sums.entry(key).or_default().merge(*sum);
        }
        sums
    }

    fn result(id: u32, structured: &str, is_error: bool) -> String {
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[],"structuredContent":{structured},"isError":{is_error}}}}}"#
        )
    }

    #[tokio::test]
    async fn numbers_are_summed_by_version_and_name() {
        let server = Server::answering(|seen| {
            json(match seen.header("x-want").unwrap_or_default() {
                "passed" => result(1, r#"{"guard":{"passed":true},"score":0.5}"#, false),
                "failed" => result(1, r#"{"guard":{"passed":false},"score":1.5}"#, false),
                "error" => result(1, r#"{"guard":{"passed":true}}"#, true),
                _ => result(1, "{}", false),
            })
        })
        .await;
        let values = [
            ("add", "/guard/passed", "guard"),
            ("add", "/score", "score"),
            ("greet", "/score", "other"),
        ];
        let mut gateway = Running::start(vec![watching(split(&server, &server), &values)]);
        let mut client = gateway.client().await;
        for want in ["passed", "failed", "passed", "error", "nothing"] {
            client
                .modern("tools/call", Some("add"), &[("x-want", want)], "{}")
                .await;
        }
        client
            .modern("tools/list", None, &[("x-want", "passed")], "{}")
            .await;
        ended(&mut gateway, 6).await;
        let sums = sums(&gateway.observed.seen);
        let of = |name: &str| sums.get(&("v2".to_owned(), name.to_owned())).copied();
        let sum = |count, sum| Some(ValueSum { count, sum });
        assert_eq!(of("guard"), sum(3, 2.0));
        assert_eq!(of("score"), sum(3, 2.5));
        assert_eq!(of("other"), None);
    }

    #[tokio::test]
    async fn a_batch_has_numbers_of_each_tool_and_testers_have_none() {
        let server = Server::answering(|seen| match seen.rpc_method().as_str() {
            "initialize" => reply(
                200,
                &[
                    ("mcp-session-id", "up"),
                    ("content-type", "application/json"),
                ],
                "{}",
            ),
            _ => json(format!(
                "[{},{}]",
                result(2, r#"{"n":20}"#, false),
                result(1, r#"{"n":10}"#, false)
            )),
        })
        .await;
        let mut tools = watching(
            split(&server, &server),
            &[("add", "/n", "of add"), ("greet", "/n", "of greet")],
        );
        tools.settings.overrides.version = true;
        let mut gateway = Running::start(vec![tools]);
        let mut client = gateway.client().await;
        let session = session(&mut client).await;
        let call = |id, tool| {
            format!(
                r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}"}}}}"#
            )
        };
        let batch = format!("[{},{}]", call(1, "add"), call(2, "greet"));
        client.legacy(&session, batch.clone()).await;
        let headers = [
            ("mcp-session-id", &*session),
            ("x-serin-version", "v2"),
            ("content-type", "application/json"),
        ];
        assert_eq!(
            client.ask("POST", "/mcp", &headers, batch).await.status,
            200
        );
        ended(&mut gateway, 3).await;
        let sums = sums(&gateway.observed.seen);
        let means: Vec<_> = sums
            .iter()
            .map(|((_, name), sum)| (name.as_str(), sum.count, sum.sum))
            .collect();
        assert_eq!(means, [("of add", 1, 10.0), ("of greet", 1, 20.0)]);
    }

    #[tokio::test]
    async fn nothing_is_looked_for_without_a_rollout() {
        let server = Server::answering(|_| json(result(1, r#"{"n":1}"#, false))).await;
        let with = watching(split(&server, &server), &[("add", "/n", "n")]);
        let mut without = with.clone();
        without.split = None;
        let keys = serin_gateway::Keyring::ephemeral().unwrap();
        let mut gateway = Running::with(vec![with], keys, |options| options.cores = 1);
        let mut client = gateway.client().await;
        client.modern("tools/call", Some("add"), &[], "{}").await;
        gateway.swap(vec![without]);
        client.modern("tools/call", Some("add"), &[], "{}").await;
        ended(&mut gateway, 2).await;
        let counts = sums(&gateway.observed.seen).into_iter();
        let counts: Vec<_> = counts
            .map(|((version, _), sum)| (version, sum.count))
            .collect();
        assert_eq!(counts, [("v2".to_owned(), 1)]);
    }
}
