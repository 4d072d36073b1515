//! Each kind of fault, as a client meets it.
#![cfg(feature = "faults")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use serin_testbed::{
    client::{Answer, Client, ClientError, Era},
    faults::{FORGED, Fault, FaultKind, FaultSwitch, Flap, Target},
    record,
    sample::{Running, Sample, SampleOptions, ToolSet},
};

const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];
/// Long enough for a slow machine where an answer is due, and never waited out there.
const PATIENCE: Duration = Duration::from_secs(10);

async fn sample() -> Running {
    Sample::start(SampleOptions::new("v2", "a", ToolSet::V2))
        .await
        .expect("a free port on loopback")
}

async fn client(server: &Running, era: Era) -> Client {
    let mut client = Client::new(&server.url(), era, None).expect("a good URL");
    client.set_timeout(PATIENCE);
    client.open().await.expect("a server that answers");
    client
}

async fn call(client: &mut Client, tool: &str) -> Result<Answer, ClientError> {
    let arguments = ToolSet::V2.example(tool, 1).expect("a tool of the set");
    client.call(tool, arguments).await
}

/// A fault strikes its target, leaves other tools alone, and is gone when it is cleared.
async fn strikes(kind: FaultKind, seen: fn(Result<Answer, ClientError>)) {
    let server = sample().await;
    for era in ERAS {
        let mut client = client(&server, era).await;
        let fault = Fault::new(kind.clone()).on_tool("get_entry");
        server.faults().set(fault).unwrap();
        assert_well(call(&mut client, "find_similar").await);
        seen(call(&mut client, "get_entry").await);
        assert_eq!(server.faults().strikes(), 1);
        server.faults().clear();
        assert_well(call(&mut client, "get_entry").await);
    }
}

fn assert_well(answer: Result<Answer, ClientError>) {
    let answer = answer.expect("an answer");
    assert!(
        answer.result().is_some() && !answer.is_tool_error(),
        "{answer:?}"
    );
}

#[tokio::test]
async fn latency() {
    strikes(FaultKind::Latency { add_ms: 60 }, |answer| {
        let answer = answer.unwrap();
        assert!(answer.first_byte >= Duration::from_millis(60));
        assert_well(Ok(answer));
    })
    .await;
}

#[tokio::test]
async fn http_status() {
    strikes(FaultKind::HttpStatus { status: 503 }, |answer| {
        let answer = answer.unwrap();
        assert_eq!(answer.status, 503);
        assert!(answer.message.is_none());
    })
    .await;
}

#[tokio::test]
async fn json_rpc_error_inside_http_200() {
    let kind = FaultKind::JsonRpcError {
        code: -32603,
        message: "broken".into(),
    };
    strikes(kind, |answer| {
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.is_own());
        assert_eq!(answer.error().unwrap()["code"], -32603);
    })
    .await;
}

#[tokio::test]
async fn tool_error_inside_http_200() {
    let kind = FaultKind::ToolError {
        message: "the index is gone".into(),
    };
    strikes(kind, |answer| {
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.is_own() && answer.is_tool_error());
        let result = answer.result().unwrap();
        assert_eq!(result["content"][0]["text"], "the index is gone");
        assert_eq!(result["structuredContent"]["version"], "v2");
    })
    .await;
}

#[tokio::test]
async fn garbage_inside_http_200() {
    strikes(FaultKind::Garbage, |answer| {
        assert!(matches!(answer, Err(ClientError::NotJson(_))), "{answer:?}");
    })
    .await;
}

#[tokio::test]
async fn broken_events_inside_http_200() {
    strikes(FaultKind::BrokenEvents, |answer| {
        assert!(matches!(answer, Err(ClientError::NotJson(_))), "{answer:?}");
    })
    .await;
}

#[tokio::test]
async fn answers_that_break_the_connection() {
    for kind in [FaultKind::Reset, FaultKind::NotHttp, FaultKind::ShortBody] {
        strikes(kind, |answer| {
            assert!(matches!(answer, Err(ClientError::Broken(_))), "{answer:?}");
        })
        .await;
    }
}

/// The client takes its answer, and what follows it for nobody's.
#[tokio::test]
async fn a_body_that_is_longer_than_said() {
    strikes(FaultKind::LongBody, |answer| {
        assert!(!format!("{answer:?}").contains(FORGED), "{answer:?}");
        assert_well(answer);
    })
    .await;
}

#[tokio::test]
async fn a_fault_that_flaps_comes_and_goes() {
    let server = sample().await;
    let flap = Flap {
        down_ms: 40,
        up_ms: 40,
    };
    let fault = Fault::new(FaultKind::HttpStatus { status: 503 }).flapping(flap);
    server.faults().set(fault).unwrap();
    let mut client = client(&server, Era::Modern).await;
    let mut turns = Vec::new();
    while turns.len() < 4 {
        let status = call(&mut client, "get_entry").await.unwrap().status;
        if turns.last() != Some(&status) {
            turns.push(status);
        }
    }
    assert_ne!(turns[0], turns[1]);
    assert_eq!(turns[..2], turns[2..]);
}

/// What came is on the disk, also of a request that was never answered.
#[tokio::test]
async fn marked_requests_are_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("record");
    assert_eq!(record::read(&path).unwrap(), Vec::<String>::new());
    let options = SampleOptions {
        record: Some(path.clone()),
        ..SampleOptions::new("v2", "a", ToolSet::V2)
    };
    let server = Sample::start(options).await.unwrap();
    let mut client = client(&server, Era::Modern).await;
    assert_well(call(&mut client, "get_entry").await);
    client.mark("ann");
    assert_well(call(&mut client, "get_entry").await);
    assert_eq!(client.last_mark().as_deref(), Some("ann.1"));
    server.faults().set(Fault::new(FaultKind::Reset)).unwrap();
    call(&mut client, "get_entry").await.unwrap_err();
    let lines = ["ann.1 tools/call", "ann.2 tools/call"];
    assert_eq!(record::read(&path).unwrap(), lines);
}

#[tokio::test]
async fn dropped_stream() {
    for after_bytes in [0, 20, 1_000_000] {
        strikes(FaultKind::DropStream { after_bytes }, |answer| {
            assert!(matches!(answer, Err(ClientError::Broken(_))), "{answer:?}");
        })
        .await;
    }
}

/// The bytes before the cut arrive, and not one more; then comes a reset, not an orderly end.
#[tokio::test]
async fn a_dropped_stream_is_cut_where_it_was_said() {
    let server = sample().await;
    let fault = Fault::new(FaultKind::DropStream { after_bytes: 5 }).on(Target::Everything);
    server.faults().set(fault).unwrap();
    let mut response = reqwest::get(format!("http://{}/health", server.address()))
        .await
        .unwrap();
    assert_eq!(
        response.chunk().await.unwrap().unwrap().as_ref(),
        &br#"{"end"#[..]
    );
    let cut = response.chunk().await.unwrap_err();
    let mut cause: Option<&dyn std::error::Error> = Some(&cut);
    let mut reset = false;
    while let Some(error) = cause {
        reset |= error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        cause = error.source();
    }
    assert!(reset, "{cut:?}");
}

#[tokio::test]
async fn hang() {
    let server = sample().await;
    for era in ERAS {
        let mut client = client(&server, era).await;
        client.set_timeout(Duration::from_millis(100));
        server.faults().set(Fault::new(FaultKind::Hang)).unwrap();
        let answer = call(&mut client, "get_entry").await;
        assert!(matches!(answer, Err(ClientError::Timeout(_))), "{answer:?}");
        server.faults().clear();
        client.set_timeout(PATIENCE);
        assert_well(call(&mut client, "get_entry").await);
    }
}

#[tokio::test]
async fn crash() {
    let server = sample().await;
    let mut doomed = client(&server, Era::Modern).await;
    let mut bystander = client(&server, Era::Legacy).await;
    let fault = Fault::new(FaultKind::Crash).on_tool("get_entry");
    server.faults().set(fault).unwrap();
    let answer = call(&mut doomed, "get_entry").await;
    assert!(matches!(answer, Err(ClientError::Broken(_))), "{answer:?}");
    server.crashed().await;
    let answer = call(&mut bystander, "find_similar").await;
    assert!(
        matches!(
            answer,
            Err(ClientError::Connect(..) | ClientError::Broken(_))
        ),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_ratio_is_spread_evenly() {
    let server = sample().await;
    let fault = Fault::new(FaultKind::HttpStatus { status: 500 }).with_ratio(0.25);
    server.faults().set(fault).unwrap();
    let mut client = client(&server, Era::Modern).await;
    let mut statuses = Vec::new();
    for _ in 0..12 {
        let answer = call(&mut client, "get_entry").await.unwrap();
        statuses.push(answer.status.as_u16());
    }
    let expected = [200, 200, 200, 500].repeat(3);
    assert_eq!(statuses, expected);
}

#[tokio::test]
async fn calls_are_the_target_where_nothing_is_said() {
    let server = sample().await;
    let kind = FaultKind::HttpStatus { status: 500 };
    server.faults().set(Fault::new(kind.clone())).unwrap();
    let mut client = client(&server, Era::Legacy).await;
    let list = client.request("tools/list", json!({})).await.unwrap();
    assert_eq!(list.status, 200);
    server
        .faults()
        .set(Fault::new(kind).on(Target::Everything))
        .unwrap();
    let list = client.request("tools/list", json!({})).await.unwrap();
    assert_eq!(list.status, 500);
}

#[test]
fn nonsense_is_refused_and_changes_nothing() {
    let switch = FaultSwitch::default();
    let before = Instant::now();
    let injected_at = switch.set(Fault::new(FaultKind::Garbage)).unwrap();
    assert!(injected_at >= before);
    for fault in [
        Fault::new(FaultKind::Hang).with_ratio(1.5),
        Fault::new(FaultKind::Hang).with_ratio(f64::NAN),
        Fault::new(FaultKind::HttpStatus { status: 200 }),
        Fault::new(FaultKind::Latency { add_ms: 3_600_000 }),
        Fault::new(FaultKind::Hang).flapping(Flap {
            down_ms: 0,
            up_ms: 1,
        }),
    ] {
        switch.set(fault).unwrap_err();
    }
    assert_eq!(switch.fault(), Some(Fault::new(FaultKind::Garbage)));
    assert_eq!(switch.injected_at(), Some(injected_at));
}

#[tokio::test]
async fn the_control_endpoint_turns_the_switch_where_it_is_allowed() {
    let options = SampleOptions {
        control: true,
        ..SampleOptions::new("v2", "a", ToolSet::V2)
    };
    let open = Sample::start(options).await.unwrap();
    let shut = sample().await;
    let http = reqwest::Client::new();
    let url = |server: &Running| format!("http://{}/faults", server.address());
    let fault = r#"{"kind": {"tool_error": {"message": "no"}}, "target": {"tool": "get_entry"}}"#;

    let answer = http.post(url(&shut)).body(fault).send().await.unwrap();
    assert_eq!(answer.status(), 404);

    let answer = http.post(url(&open)).body(fault).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let set = open.faults().fault().expect("a fault");
    assert_eq!(set.target, Target::Tool("get_entry".into()));

    let wrong = r#"{"kind": {"latency": {"add": 5}}}"#;
    let answer = http.post(url(&open)).body(wrong).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    assert!(answer.text().await.unwrap().contains("add_ms"));

    let answer = http.delete(url(&open)).send().await.unwrap();
    let state: Value = answer.json().await.unwrap();
    assert_eq!(state, json!({ "fault": null, "strikes": 0 }));
    assert_eq!(open.faults().fault(), None);
}
