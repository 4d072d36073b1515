//! The two ends of a benchmark, against each other and against what they stand for.

use std::{net::SocketAddr, time::Duration};

use serde_json::json;
use serin_testbed::{
    client::{Client, Era},
    load::{self, LoadError, LoadOptions},
    sample::{Sample, SampleOptions, ToolSet},
    upstream::{TOOL, Upstream},
};

const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];

async fn upstream() -> Upstream {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    Upstream::start(listen, "v1")
        .await
        .expect("a free port on loopback")
}

fn options(url: String, era: Era) -> LoadOptions {
    LoadOptions {
        url,
        connections: 3,
        era,
        warm_up: Duration::ZERO,
        duration: Duration::from_millis(150),
    }
}

#[tokio::test]
async fn the_upstream_speaks_both_eras() {
    let server = upstream().await;
    for era in ERAS {
        let mut client = Client::new(&server.url(), era, None).unwrap();
        client.open().await.unwrap();
        assert_eq!(client.session().is_some(), era == Era::Legacy);
        let list = client.request("tools/list", json!({})).await.unwrap();
        assert_eq!(list.result().unwrap()["tools"][0]["name"], TOOL);
        let answer = client.call(TOOL, json!({ "id": "7" })).await.unwrap();
        assert!(answer.is_own() && !answer.is_tool_error());
        let result = answer.result().unwrap();
        assert_eq!(result["structuredContent"]["version"], "v1");
        assert_eq!(result.get("resultType").is_some(), era == Era::Modern);
        let unknown = client.request("no/such", json!({})).await.unwrap();
        assert_eq!(unknown.error().unwrap()["code"], -32601);
    }
}

#[tokio::test]
async fn good_calls_are_counted() {
    let (prepared, real) = (
        upstream().await,
        Sample::start(SampleOptions::new("v1", "a", ToolSet::V1))
            .await
            .unwrap(),
    );
    for era in ERAS {
        for url in [prepared.url(), real.url()] {
            let report = load::run(&options(url, era)).await.unwrap();
            assert!(report.calls > 0, "{report:?}");
            assert_eq!(report.errors, 0);
            assert!(report.p50_us > 0 && report.p50_us <= report.p99_us);
            assert!(report.p99_us <= report.max_us);
        }
    }
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn bad_calls_are_errors_and_not_calls() {
    use serin_testbed::faults::{Fault, FaultKind};
    let server = Sample::start(SampleOptions::new("v1", "a", ToolSet::V1))
        .await
        .unwrap();
    for kind in [
        FaultKind::HttpStatus { status: 503 },
        FaultKind::ToolError {
            message: "no".into(),
        },
        FaultKind::JsonRpcError {
            code: 1,
            message: "no".into(),
        },
        FaultKind::DropStream { after_bytes: 3 },
    ] {
        server.faults().set(Fault::new(kind)).unwrap();
        let report = load::run(&options(server.url(), Era::Modern))
            .await
            .unwrap();
        assert_eq!(report.calls, 0, "{report:?}");
        assert!(report.errors > 0);
    }
}

#[tokio::test]
async fn what_cannot_be_measured_is_refused() {
    let gone = upstream().await;
    let url = gone.url();
    gone.stop().await;
    let refused = load::run(&options(url.clone(), Era::Legacy)).await;
    assert!(matches!(refused, Err(LoadError::Open(_))), "{refused:?}");
    let none = LoadOptions {
        connections: 0,
        ..options(url, Era::Modern)
    };
    assert!(matches!(
        load::run(&none).await,
        Err(LoadError::Connections(0))
    ));
}
