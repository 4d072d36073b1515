//! Kill switches with the real binary and real calls: they trip, try again, come back or wait for a person, and tell people.

mod support;

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use support::{PATIENCE, Serin};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::sleep,
};

/// A plain HTTP server that fails when told, counts, and keeps what it is sent.
#[derive(Clone, Default)]
struct Upstream {
    fails: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    bodies: Arc<Mutex<Vec<Value>>>,
}

impl Upstream {
    async fn start() -> (Self, String) {
        let upstream = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let served = upstream.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let served = served.clone();
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    let mut buffer = [0; 4096];
                    while let Ok(n) = stream.read(&mut buffer).await
                        && n > 0
                    {
                        request.extend_from_slice(&buffer[..n]);
                        if is_whole(&request) {
                            break;
                        }
                    }
                    served.take(&request);
                    let status = if served.fails.load(Ordering::SeqCst) {
                        "500 Broken"
                    } else {
                        "200 OK"
                    };
                    let answer = format!(
                        "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                    );
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        (upstream, url)
    }

    fn take(&self, request: &[u8]) {
        let text = String::from_utf8_lossy(request);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        // Probes of its health do not count.
        if head.starts_with("GET ") && head.contains("/x ") {
            self.calls.fetch_add(1, Ordering::SeqCst);
        }
        if let Ok(body) = serde_json::from_str(body) {
            self.bodies.lock().unwrap().push(body);
        }
    }

    fn states(&self) -> Vec<String> {
        let bodies = self.bodies.lock().unwrap();
        let states = bodies.iter().filter_map(|body| body["state"].as_str());
        states.map(str::to_owned).collect()
    }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("content-length:")?
            .trim()
            .parse()
            .ok()
    });
    body.len() >= length.unwrap_or(0)
}

struct World {
    serin: Serin,
    shop: Upstream,
    hook: Upstream,
    client: Client,
    _folder: TempDir,
}

impl World {
    async fn begin(attempts: u32) -> Self {
        let (shop, url) = Upstream::start().await;
        let (hook, hook_url) = Upstream::start().await;
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("hook"), hook_url).unwrap();
        let hook_file = folder.path().join("hook").display().to_string();
        let services = format!(
            "services:\n  shop:\n    protocol: http\n    path: /shop\n    stable: v1\n    versions: {{ v1: {{ endpoints: [\"{url}\"] }} }}\n\
             kill_switches:\n  shop-errors:\n    target: service:shop\n    triggers: [{{ error_rate: 20 %, min_calls: 10 }}]\n    \
             window: 5s\n    priority: critical\n    recovery: {{ delay: 1s, attempts: {attempts}, probe: {{ one_in: 2, calls: 5 }} }}\n    \
             notify: [\"file:{hook_file}\"]\n"
        );
        Self {
            serin: Serin::start(folder.path(), &services).await,
            shop,
            hook,
            client: Client::new(),
            _folder: folder,
        }
    }

    async fn call(&self) -> StatusCode {
        self.client
            .get(self.serin.url("/shop/x"))
            .send()
            .await
            .unwrap()
            .status()
    }

    async fn book(&self) -> Value {
        serde_json::from_str(&self.serin.cli(&["kills", "--json"]).await).unwrap()
    }

    /// Calls until the switch is in a state.
    async fn until(&self, state: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for _ in 0..10 {
                self.call().await;
            }
            let book = self.book().await;
            if book["switches"][0]["state"] == state {
                return book;
            }
            assert!(
                Instant::now() < deadline,
                "not {state}: {book:#}\n{}",
                self.serin.log()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_killed_tried_and_comes_back() {
    let world = World::begin(3).await;
    let armed = world.until("armed").await;
    assert_eq!(world.call().await, StatusCode::OK);
    assert!(armed["kills"].as_array().unwrap().is_empty());

    world.shop.fails.store(true, Ordering::SeqCst);
    let killed = world.until("killed").await;
    let kill = &killed["kills"][0];
    assert_eq!(
        (&kill["target"], &kill["cause"], &kill["priority"]),
        (&json!("service:shop"), &json!("switch"), &json!("critical"))
    );
    assert!(
        kill["reason"]
            .as_str()
            .unwrap()
            .contains("calls failed, above 20 %"),
        "{kill}"
    );
    assert_eq!(kill["grace_seconds"], 30);

    // An attempt fails, and it is killed again.
    world.until("probing").await;
    world.until("killed").await;
    world.shop.fails.store(false, Ordering::SeqCst);
    world.until("armed").await;
    let calls = world.shop.calls.load(Ordering::SeqCst);
    for _ in 0..10 {
        assert_eq!(world.call().await, StatusCode::OK);
    }
    assert_eq!(world.shop.calls.load(Ordering::SeqCst), calls + 10);
    let deadline = Instant::now() + PATIENCE;
    while !world.hook.states().contains(&"revived".to_owned()) {
        assert!(
            Instant::now() < deadline,
            "{:?}\n{}",
            world.hook.states(),
            world.serin.log()
        );
        sleep(Duration::from_millis(20)).await;
    }
    let told = world.hook.states();
    assert!(
        told.iter().any(|state| state == "killed") && told.iter().any(|state| state == "probing"),
        "{told:?}"
    );
    assert_eq!(world.hook.bodies.lock().unwrap()[0]["severity"], "P0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_its_attempts_and_after_a_person_it_waits_for_one() {
    let world = World::begin(1).await;
    world.until("armed").await;
    world.shop.fails.store(true, Ordering::SeqCst);
    let book = world.until("waits_for_person").await;
    assert_eq!(book["kills"][0]["attempts"], 1, "{book:#}");
    let calls = world.shop.calls.load(Ordering::SeqCst);
    assert_eq!(world.call().await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        world.shop.calls.load(Ordering::SeqCst),
        calls,
        "nothing gets through"
    );

    world.shop.fails.store(false, Ordering::SeqCst);
    let revision = book["kills"][0]["revision"].to_string();
    world
        .serin
        .cli(&[
            "revive",
            "service:shop",
            "--revision",
            &revision,
            "--yes",
            "--reason",
            "mended",
        ])
        .await;
    assert_eq!(world.call().await, StatusCode::OK);
    world.until("armed").await;

    // Pulled by hand, it does not come back by itself.
    let said = world
        .serin
        .cli(&["kill", "--switch", "shop-errors", "--reason", "it lies"])
        .await;
    assert!(said.contains("killed service:shop"), "{said}");
    assert_eq!(world.call().await, StatusCode::SERVICE_UNAVAILABLE);
    let book = world.until("waits_for_person").await;
    assert_eq!(book["kills"][0]["cause"], "manual");
    let log = world.serin.log();
    assert!(!log.contains("a notification was not delivered"), "{log}");
}
