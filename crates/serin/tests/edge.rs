//! What comes from outside and means no good: requests that two servers would read differently, headers that lie about who sends
//! them, heads and bodies that are too large, too deep or too slow, pages of other origins. By raw sockets, against the real
//! program.

mod support;

use serin_testbed::sample::{Running, ToolSet};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use support::{Serin, sample};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// A server that keeps the bytes that it got.
struct Recorder {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Recorder {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, record.clone()));
            }
        });
        Self { address, seen }
    }

    /// What it got since it was asked last, without the questions of probes.
    fn take(&self) -> Vec<String> {
        let mut seen = std::mem::take(&mut *self.seen.lock().unwrap());
        seen.retain(|request| !request.starts_with("GET /alive"));
        seen
    }
}

/// Answers one request on a connection. What it takes for the whole request is all that comes until the sender waits.
async fn answer(mut stream: TcpStream, record: Arc<Mutex<Vec<String>>>) {
    let mut read = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let text = String::from_utf8_lossy(&read).to_lowercase();
        let is_whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length: "));
            match length.and_then(|length| length.parse::<usize>().ok()) {
                Some(length) => body.len() >= length,
                None => !head.contains("transfer-encoding") || body.ends_with("0\r\n\r\n"),
            }
        });
        if is_whole {
            break;
        }
        match stream.read(&mut buffer).await {
            Ok(n) if n > 0 => read.extend_from_slice(&buffer[..n]),
            _ => break,
        }
    }
    record
        .lock()
        .unwrap()
        .push(String::from_utf8_lossy(&read).into_owned());
    let _ = stream
        .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        .await;
}

struct World {
    folder: TempDir,
    recorder: Recorder,
    _tools: Running,
    serin: Serin,
}

/// Shorter than any time after which a connection is closed by itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// `/web` leads to a server that records, `/mcp` to an MCP server.
async fn world(gateway: &str) -> World {
    let folder = tempfile::tempdir().unwrap();
    let recorder = Recorder::start().await;
    let tools = sample("v1", ToolSet::V1).await;
    let services = format!(
        "services:\n  \
           web: {{ protocol: http, path: /web, stable: v1, versions: {{ v1: {{ endpoints: ['http://{}'] }} }}, settings: {{ health: {{ path: /alive }} }} }}\n  \
           tools: {{ protocol: mcp, path: /mcp, stable: v1, versions: {{ v1: {{ endpoints: ['{}'] }} }}, settings: {{ body_bytes_max: 20000 }} }}\n",
        recorder.address,
        tools.url(),
    );
    let gateway = format!("127.0.0.1:0{gateway}");
    let serin = Serin::start_with(
        folder.path(),
        &services,
        &gateway,
        "listen: 127.0.0.1:0",
        &[],
    )
    .await
    .unwrap();
    World {
        folder,
        recorder,
        _tools: tools,
        serin,
    }
}

fn address(url: &str) -> &str {
    url.trim_start_matches("http://")
}

/// Sends bytes and reads until the connection closes, or an answer is there whose length is told.
async fn send(url: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address(url)).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut read = Vec::new();
    // A reset behind the answer is an end too.
    let reading = async {
        let mut buffer = [0; 8192];
        while let Ok(n) = stream.read(&mut buffer).await
            && n > 0
        {
            read.extend_from_slice(&buffer[..n]);
        }
    };
    let closed = timeout(PATIENCE, reading).await;
    let read = String::from_utf8_lossy(&read).into_owned();
    let sent = String::from_utf8_lossy(bytes);
    assert!(closed.is_ok(), "it does not close: {sent:?} {read:?}");
    read
}

fn status(answer: &str) -> u16 {
    let code = answer
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| answer.strip_prefix("HTTP/1.0 "));
    code.and_then(|rest| rest.get(..3)?.parse().ok())
        .unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

#[tokio::test]
async fn what_two_servers_would_read_differently_goes_no_further() {
    let world = world("").await;
    let here = address(&world.serin.gateway).to_owned();
    // Behind each stands another request, which must never be taken for one of its own.
    let smuggled = "GET /web/smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let post = |headers: &str, body: &str| {
        format!("POST /web/a HTTP/1.1\r\nHost: {here}\r\n{headers}\r\n{body}{smuggled}")
    };
    let chunked = "0\r\n\r\n";
    for (what, request) in [
        (
            "both lengths",
            post(
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                chunked,
            ),
        ),
        (
            "both lengths, the other way round",
            post(
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                chunked,
            ),
        ),
        (
            "chunked twice",
            post(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                chunked,
            ),
        ),
        (
            "chunked twice in one line",
            post("Transfer-Encoding: chunked, chunked\r\n", chunked),
        ),
        (
            "another coding",
            post("Transfer-Encoding: gzip, chunked\r\n", chunked),
        ),
        (
            "no coding",
            post("Transfer-Encoding: identity\r\n", chunked),
        ),
        (
            "chunked before another",
            post("Transfer-Encoding: chunked, identity\r\n", chunked),
        ),
        (
            "a coding that is nearly chunked",
            post("Transfer-Encoding: xchunked\r\n", chunked),
        ),
        (
            "a coding behind a vertical tab",
            post("Transfer-Encoding: \u{b}chunked\r\n", chunked),
        ),
        (
            "a coding of HTTP/1.0",
            post("Transfer-Encoding: chunked\r\n", chunked)
                .replace("HTTP/1.1\r\nHost: 1", "HTTP/1.0\r\nHost: 1"),
        ),
        (
            "two lengths",
            post("Content-Length: 3\r\nContent-Length: 4\r\n", "abc"),
        ),
        ("a list of lengths", post("Content-Length: 3, 4\r\n", "abc")),
        (
            "a length with a sign",
            post("Content-Length: +3\r\n", "abc"),
        ),
        ("a negative length", post("Content-Length: -3\r\n", "abc")),
        (
            "a length in hexadecimal",
            post("Content-Length: 0x3\r\n", "abc"),
        ),
        (
            "a length beyond all",
            post("Content-Length: 99999999999999999999\r\n", "abc"),
        ),
        ("a name with a space", post("Content-Length : 3\r\n", "abc")),
        (
            "a folded line",
            post("X-A: 1\r\n Transfer-Encoding: chunked\r\n", ""),
        ),
        (
            "a line that begins folded",
            format!("GET /web/a HTTP/1.1\r\n Host: {here}\r\n\r\n{smuggled}"),
        ),
        ("a zero byte in a value", post("X-A: 1\x002\r\n", "")),
        ("a zero byte in a name", post("X-\0A: 1\r\n", "")),
        (
            "a lone carriage return",
            post("X-A: 1\rTransfer-Encoding: chunked\r\n", ""),
        ),
        (
            "two hosts",
            format!("GET /web/a HTTP/1.1\r\nHost: {here}\r\nHost: evil.example\r\n\r\n{smuggled}"),
        ),
        (
            "the same host twice",
            format!("GET /web/a HTTP/1.1\r\nHost: {here}\r\nHost: {here}\r\n\r\n{smuggled}"),
        ),
        (
            "two hosts and a whole URL",
            format!(
                "GET http://{here}/web/a HTTP/1.1\r\nHost: {here}\r\nHost: evil.example\r\n\r\n{smuggled}"
            ),
        ),
        ("no host", format!("GET /web/a HTTP/1.1\r\n\r\n{smuggled}")),
        (
            "a name before the host",
            format!("GET http://user@{here}/web/a HTTP/1.1\r\nHost: {here}\r\n\r\n{smuggled}"),
        ),
        (
            "a zero byte in the target",
            format!("GET /web/\0a HTTP/1.1\r\nHost: {here}\r\n\r\n{smuggled}"),
        ),
        (
            "a target with a space",
            format!("GET /web/ a HTTP/1.1\r\nHost: {here}\r\n\r\n{smuggled}"),
        ),
        (
            "another HTTP",
            format!("GET /web/a HTTP/3.0\r\nHost: {here}\r\n\r\n{smuggled}"),
        ),
        ("no HTTP", "hello\r\n\r\n".to_owned()),
    ] {
        let answer = send(&world.serin.gateway, request.as_bytes()).await;
        assert!(matches!(status(&answer), 400 | 505), "{what}: {answer}");
        assert_eq!(
            answer.matches("HTTP/1.1 ").count(),
            1,
            "{what}: one answer and no more: {answer}"
        );
        assert_eq!(world.recorder.take(), [""; 0], "{what}");
    }
}

#[tokio::test]
async fn what_is_odd_in_a_body_never_becomes_another_request() {
    let world = world("").await;
    let here = address(&world.serin.gateway).to_owned();
    let head =
        format!("POST /web/a HTTP/1.1\r\nHost: {here}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let behind = "GET /web/smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    for (what, body) in [
        ("a size that is none", "zz\r\nabc\r\n0\r\n\r\n"),
        ("a size beyond all", "fffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
        ("a size with a sign", "-3\r\nabc\r\n0\r\n\r\n"),
        (
            "a piece that is longer than it says",
            "3\r\nabcdef\r\n0\r\n\r\n",
        ),
        (
            "a size that ends in a lone line feed",
            "3\nabc\r\n0\r\n\r\n",
        ),
    ] {
        let request = format!("{head}{body}{behind}");
        let answer = send(&world.serin.gateway, request.as_bytes()).await;
        assert!(!answer.contains("200 OK"), "{what}: {answer}");
        let seen = world.recorder.take();
        assert!(
            seen.iter()
                .all(|request| !request.contains("GET /web/smuggled HTTP")),
            "{what}: {seen:?}"
        );
    }
}

#[tokio::test]
async fn what_has_one_meaning_is_passed_on_in_plain_words() {
    let world = world("").await;
    let here = address(&world.serin.gateway).to_owned();
    let ok = async |request: String| {
        let answer = send(&world.serin.gateway, request.as_bytes()).await;
        assert_eq!(status(&answer), 200, "{answer}");
        let [request] = world.recorder.take().try_into().unwrap();
        request.to_lowercase()
    };
    // RFC 9112 section 2.2: a lone line feed may end a line. It goes on as a whole one.
    let seen = ok(format!(
        "GET /web/a HTTP/1.1\nHost: {here}\nConnection: close\n\n"
    ))
    .await;
    assert!(!seen.replace("\r\n", "").contains('\n'), "{seen}");
    // Section 3.2.2: a whole URL overrides `Host`, which then goes no further.
    let seen = ok(format!(
        "GET http://{here}/web/a HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    ))
    .await;
    assert!(
        seen.contains(&format!("x-forwarded-host: {here}")),
        "{seen}"
    );
    assert!(!seen.contains("evil"), "{seen}");
    let request =
        "GET http://evil.example/web/a HTTP/1.1\r\nHost: {here}\r\nConnection: close\r\n\r\n";
    let answer = send(&world.serin.gateway, request.as_bytes()).await;
    assert_eq!(status(&answer), 403, "{answer}");
    // What `Connection` names stays here, but not what frames the message.
    let seen = ok(format!("POST /web/a HTTP/1.1\r\nHost: {here}\r\nConnection: close, X-Hop, Content-Length\r\nX-Hop: 1\r\nContent-Length: 3\r\n\r\nabc")).await;
    assert!(
        !seen.contains("x-hop") && seen.contains("content-length: 3") && seen.ends_with("abc"),
        "{seen}"
    );
}

/// What only a proxy may say.
const SAID: &str = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: gopher\r\nX-Forwarded-Port: 666\r\n\
    X-Forwarded-Prefix: /evil\r\nForwarded: for=6.6.6.6;host=evil.example\r\nX-Real-IP: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\n";

#[tokio::test]
async fn only_a_trusted_proxy_may_say_for_whom_it_speaks() {
    for (gateway, is_trusted) in [("", false), (", trusted_proxies: [127.0.0.0/8]", true)] {
        let world = world(gateway).await;
        let here = address(&world.serin.gateway).to_owned();
        let request =
            format!("GET /web/a HTTP/1.1\r\nHost: {here}\r\nConnection: close\r\n{SAID}\r\n");
        assert_eq!(
            status(&send(&world.serin.gateway, request.as_bytes()).await),
            200
        );
        let [seen] = <[String; 1]>::try_from(world.recorder.take()).unwrap();
        let seen = seen.to_lowercase();
        assert_eq!(seen.contains("6.6.6.6"), is_trusted, "{seen}");
        assert_eq!(seen.contains("evil"), is_trusted, "{seen}");
        assert!(!seen.contains("x_forwarded"), "{seen}");
        if !is_trusted {
            assert!(seen.contains("x-forwarded-for: 127.0.0.1\r\n"), "{seen}");
            assert!(seen.contains("x-forwarded-proto: http\r\n"), "{seen}");
        }
    }
}

#[tokio::test]
async fn heads_and_bodies_have_their_bounds() {
    let world = world(", header_bytes_max: 8192").await;
    let here = address(&world.serin.gateway).to_owned();
    let get = |path: &str, headers: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: {here}\r\nConnection: close\r\n{headers}\r\n")
    };
    let post = |body: &str| {
        format!(
            "POST /mcp HTTP/1.1\r\nHost: {here}\r\nConnection: close\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let call = |arguments: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"x","arguments":{arguments}}}}}"#
        )
    };
    let nested = |depth: usize| call(&format!("{}{}", "[".repeat(depth), "]".repeat(depth)));
    let many: Vec<_> = (0..120).map(|n| format!("X-{n}: 1\r\n")).collect();
    let many = many.concat();
    for (what, request, want) in [
        (
            "a long value",
            get("/web/a", &format!("X: {}\r\n", "a".repeat(9000))),
            431,
        ),
        ("many headers", get("/web/a", &many), 431),
        (
            "a long path",
            get(&format!("/web/{}", "a".repeat(8200)), ""),
            414,
        ),
        (
            "a body beyond the limit",
            post(&call(&format!("\"{}\"", "a".repeat(20_000)))),
            413,
        ),
        ("a body that is deep", post(&nested(5_000)), 400),
        (
            "a body that is deep and broken",
            post(&"[".repeat(19_000)),
            400,
        ),
        ("a body that is no JSON", post("\u{feff}hello"), 400),
        ("a path that leads up", get("/web/../admin", ""), 400),
    ] {
        let answer = send(&world.serin.gateway, request.as_bytes()).await;
        // A head beyond all bounds is refused in either way, by who stops reading first.
        let said = status(&answer);
        assert!(
            said == want || (want == 414 && said == 431),
            "{what}: {answer}"
        );
        assert_eq!(world.recorder.take(), [""; 0], "{what}");
    }
    let answer = send(&world.serin.gateway, get("/web/a", "").as_bytes()).await;
    assert_eq!(status(&answer), 200, "and what is inside them passes");
}

#[tokio::test]
async fn no_page_and_no_name_of_others_opens_the_admin_api() {
    let world = world("").await;
    let here = address(&world.serin.admin).to_owned();
    let token = std::fs::read_to_string(world.folder.path().join("serin.db.token")).unwrap();
    let get = |host: &str, more: &str| {
        format!(
            "GET /admin/v1/services HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAuthorization: Bearer {}\r\n{more}\r\n",
            token.trim()
        )
    };
    for (what, request, want) in [
        ("the command line", get(&here, ""), 200),
        (
            "a page of another origin",
            get(&here, "Origin: https://evil.example\r\n"),
            403,
        ),
        ("a page of nowhere", get(&here, "Origin: null\r\n"), 403),
        (
            "a page at another port",
            get(&here, "Origin: http://127.0.0.1:1\r\n"),
            403,
        ),
        (
            "a name that was bent to this address",
            get("evil.example", ""),
            403,
        ),
        (
            "the same with the port",
            get(
                &format!("evil.example:{}", here.rsplit(':').next().unwrap()),
                "",
            ),
            403,
        ),
        ("two names", get(&here, "Host: evil.example\r\n"), 403),
        (
            "no name",
            get(&here, "").replace(&format!("Host: {here}\r\n"), ""),
            403,
        ),
        ("nobody", get(&here, "").replace("Bearer ", "Bearer x"), 401),
    ] {
        let answer = send(&world.serin.admin, request.as_bytes()).await;
        assert_eq!(status(&answer), want, "{what}: {answer}");
    }
    // What a browser may ask without leave changes nothing: it cannot send the token, nor JSON.
    let simple = format!(
        "POST /admin/v1/kills HTTP/1.1\r\nHost: {here}\r\nConnection: close\r\nOrigin: https://evil.example\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{{}}"
    );
    assert_eq!(
        status(&send(&world.serin.admin, simple.as_bytes()).await),
        403
    );
}
