//! The two ends of a benchmark, against each other and against what they stand for.

use std::{
    cell::Cell,
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use serin_testbed::{
    client::{Client, Era},
    load::{self, LoadError, LoadOptions},
    sample::{Sample, SampleOptions, ToolSet},
    upstream::{TOOL, Upstream},
};
use tokio::net::{TcpListener, TcpStream};

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
        callers: None,
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
            let report = load::run(&options(url, era), || ()).await.unwrap();
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
        let report = load::run(&options(server.url(), Era::Modern), || ())
            .await
            .unwrap();
        assert_eq!(report.calls, 0, "{report:?}");
        assert!(report.errors > 0);
    }
}

#[tokio::test]
async fn all_connections_take_the_calls_of_many_callers_in_turn() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let server = tokio::spawn({
        let seen = Arc::clone(&seen);
        async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer_all(stream, Arc::clone(&seen)));
            }
        }
    });
    let begun = Cell::new(false);
    let options = LoadOptions {
        connections: 2,
        callers: Some(5),
        ..options(format!("http://{address}/service-{{n}}/mcp"), Era::Modern)
    };
    let report = load::run(&options, || begun.set(true)).await.unwrap();
    server.abort();
    assert!(begun.get());
    assert!(report.calls > 10, "{report:?}");
    assert_eq!(report.errors, 0);
    let wanted: BTreeSet<_> = (0..5)
        .map(|n| (format!("/service-{n}/mcp"), format!("Bearer load-{n:05}")))
        .collect();
    assert_eq!(*seen.lock().unwrap(), wanted);
}

/// Answers what comes on a connection, and remembers its path and caller.
async fn answer_all(stream: TcpStream, seen: Arc<Mutex<BTreeSet<(String, String)>>>) {
    let answer = service_fn(|request: Request<Incoming>| {
        let caller = request.headers()["authorization"].to_str().unwrap();
        let who = (request.uri().path().to_owned(), caller.to_owned());
        seen.lock().unwrap().insert(who);
        async {
            // What is not read would close the connection.
            request.into_body().collect().await?;
            Ok::<_, hyper::Error>(Response::new(r#"{"result":{}}"#.to_owned()))
        }
    });
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

#[tokio::test]
async fn what_cannot_be_measured_is_refused() {
    let gone = upstream().await;
    let url = gone.url();
    gone.stop().await;
    let refused = load::run(&options(url.clone(), Era::Legacy), || ()).await;
    assert!(matches!(refused, Err(LoadError::Open(_))), "{refused:?}");
    let none = LoadOptions {
        connections: 0,
        ..options(url.clone(), Era::Modern)
    };
    assert!(matches!(
        load::run(&none, || ()).await,
        Err(LoadError::Connections(0))
    ));
    let nobody = LoadOptions {
        callers: Some(0),
        ..options(url, Era::Modern)
    };
    assert!(matches!(
        load::run(&nobody, || ()).await,
        Err(LoadError::Callers(0))
    ));
}
