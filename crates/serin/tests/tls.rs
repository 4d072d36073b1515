//! TLS at both listeners and to endpoints, with peers that are not ours: curl and openssl.

mod support;

use serin_testbed::sample::ToolSet;
use serin_tls::{Acceptor, Certificate, Pair, Stream};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::{Duration, Instant},
};
use support::{PATIENCE, Serin, sample, stderr, stdout, two_versions};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    process::Command,
    time::timeout,
};

const SELF_SIGNED: &str = "127.0.0.1:0, tls: { self_signed: true }";
const SELF_SIGNED_ADMIN: &str = "listen: 127.0.0.1:0, tls: { self_signed: true }";
const MODERN: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}}"#;

async fn tool(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    timeout(PATIENCE, output).await.unwrap().unwrap()
}

/// curl with a file of certificates to trust.
async fn curl(ca: &Path, arguments: &[&str]) -> Output {
    let ca = ca.to_str().unwrap();
    let common = ["-sS", "--noproxy", "*", "--max-time", "20", "--cacert", ca];
    tool("curl", &[&common, arguments].concat()).await
}

fn list_tools(url: &str) -> [&str; 13] {
    [
        url,
        "-H",
        "Content-Type: application/json",
        "-H",
        "Accept: application/json, text/event-stream",
        "-H",
        "MCP-Protocol-Version: 2026-07-28",
        "-H",
        "Mcp-Method: tools/list",
        "-d",
        MODERN,
        "-w",
        "\n%{http_version}",
    ]
}

fn made(folder: &Path) -> PathBuf {
    folder.join("serin.db.tls-cert.pem")
}

#[tokio::test]
async fn both_listeners_speak_tls_to_who_trusts_them() {
    let folder = tempfile::tempdir().unwrap();
    let [v1, v2] = [
        sample("v1", ToolSet::V1).await,
        sample("v2", ToolSet::V1).await,
    ];
    let services = two_versions(&v1.url(), &v2.url());
    let serin = Serin::start_with(
        folder.path(),
        &services,
        SELF_SIGNED,
        SELF_SIGNED_ADMIN,
        &[],
    )
    .await
    .unwrap();
    assert!(serin.gateway.starts_with("https://127.0.0.1:"));
    assert!(serin.admin.starts_with("https://127.0.0.1:"));
    let ca = made(folder.path());
    let url = serin.url("/mcp");
    // By either protocol inside it.
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let output = curl(&ca, &[&list_tools(&url)[..], &[flag]].concat()).await;
        let said = stdout(&output);
        assert!(said.contains("\"tools\""), "{said}{}", stderr(&output));
        assert!(said.ends_with(&format!("\n{version}")), "{said}");
    }
    // Nobody trusts it unless told.
    let output = tool("curl", &["-sS", "--noproxy", "*", &url]).await;
    assert_eq!(output.status.code(), Some(60), "{}", stderr(&output));
    // Without TLS it says what it speaks.
    let plain = url.replace("https://", "http://");
    let said = stdout(&tool("curl", &["-sS", "--noproxy", "*", &plain]).await);
    assert!(said.contains("call it by https://"), "{said}");
    // The command line finds the certificate by the configuration, or is told.
    assert!(serin.cli(&["service", "list"]).await.contains("tools"));
    let elsewhere = tempfile::tempdir().unwrap();
    let token = folder.path().join("serin.db.token");
    let arguments = [
        "--admin",
        &serin.admin,
        "--token-file",
        token.to_str().unwrap(),
    ];
    let list = ["service", "list"];
    let refused = support::run(elsewhere.path(), &[&arguments[..], &list].concat()).await;
    assert_eq!(refused.status.code(), Some(1), "{}", stdout(&refused));
    let said = stderr(&refused);
    assert!(said.contains("`--ca FILE`"), "{said}");
    let plain = serin.admin.replace("https://", "http://");
    let plain = ["--admin", &plain, "service", "list"];
    let said = stderr(&support::run(folder.path(), &plain).await);
    assert!(said.contains("call it by https://"), "{said}");
    let told = ["--ca", ca.to_str().unwrap()];
    let output = support::run(elsewhere.path(), &[&arguments[..], &told, &list].concat()).await;
    assert!(stdout(&output).contains("tools"), "{}", stderr(&output));
    // What is logged is what openssl sees.
    let [address, key] = [
        serin.gateway.trim_start_matches("https://").to_owned(),
        folder
            .path()
            .join("serin.db.tls-key.pem")
            .display()
            .to_string(),
    ];
    let seen = tool(
        "openssl",
        &[
            "x509",
            "-in",
            ca.to_str().unwrap(),
            "-noout",
            "-fingerprint",
            "-sha256",
        ],
    )
    .await;
    let seen = stdout(&seen);
    let fingerprint = seen.trim().split_once('=').unwrap().1;
    assert!(serin.log().contains(fingerprint), "{}", serin.log());
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&key).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    // TLS 1.2 and 1.3, and nothing before.
    for (version, fine) in [("-tls1_3", true), ("-tls1_2", true), ("-tls1_1", false)] {
        let arguments = [
            "s_client",
            "-connect",
            &address,
            version,
            "-CAfile",
            ca.to_str().unwrap(),
        ];
        let output = tool("openssl", &arguments).await;
        let is_fine = !stdout(&output).contains("Cipher is (NONE)");
        assert_eq!(is_fine, fine, "{version} {}", stdout(&output));
    }
}

#[tokio::test]
async fn a_new_certificate_is_shown_without_a_restart_and_a_broken_one_never() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let make = |name: &str| {
        Pair::self_signed(&at(name), vec!["localhost".into(), "127.0.0.1".into()]).unwrap()
    };
    let (shown, next) = (make("a"), make("b"));
    let gateway = "127.0.0.1:0, tls: { cert: a.tls-cert.pem, key: a.tls-key.pem }";
    let serin = Serin::start_with(
        folder.path(),
        "services: {}",
        gateway,
        "listen: 127.0.0.1:0",
        &[],
    )
    .await
    .unwrap();
    let (old_ca, new_ca) = (at("old.pem"), at("new.pem"));
    fs::copy(&shown.cert, &old_ca).unwrap();
    fs::copy(&next.cert, &new_ca).unwrap();
    let health = serin.url("/health");
    let is_trusted_by = async |ca: &Path| {
        curl(ca, &["-o", "/dev/null", &health])
            .await
            .status
            .success()
    };
    assert!(is_trusted_by(&old_ca).await);
    fs::write(&shown.cert, "nothing").unwrap();
    until(|| async { serin.log().contains("cannot be used") }).await;
    assert!(is_trusted_by(&old_ca).await);
    fs::rename(&next.key, &shown.key).unwrap();
    fs::rename(&next.cert, &shown.cert).unwrap();
    until(|| is_trusted_by(&new_ca)).await;
    assert!(!is_trusted_by(&old_ca).await);
}

async fn until<F: Future<Output = bool>>(fine: impl Fn() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !fine().await {
        assert!(Instant::now() < deadline, "it did not happen in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_cannot_be_used_ends_the_start_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let pair = Pair::self_signed(&folder.path().join("a"), vec!["localhost".into()]).unwrap();
    let gateway = "127.0.0.1:0, tls: { cert: a.tls-cert.pem, key: a.tls-key.pem }";
    let start = async || {
        let started = Serin::start_with(
            folder.path(),
            "services: {}",
            gateway,
            "listen: 127.0.0.1:0",
            &[],
        );
        started.await.err().expect("it does not start")
    };
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(&pair.key, mode).unwrap();
    assert!(start().await.contains("chmod 600"));
    fs::remove_file(&pair.key).unwrap();
    let said = start().await;
    assert!(
        said.contains("cannot speak TLS") && said.contains("a.tls-key.pem"),
        "{said}"
    );
}

/// Speaks TLS in front of a server that does not.
async fn in_front_of(server: SocketAddr, pair: Pair) -> SocketAddr {
    let acceptor = Acceptor::new(&Certificate::open(pair).unwrap()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut inside) = acceptor.accept(stream).await else {
                    return;
                };
                assert!(matches!(inside, Stream::Tls(_)));
                let mut behind = TcpStream::connect(server).await.unwrap();
                // Whoever closes first ends it.
                let _ = tokio::io::copy_bidirectional(&mut inside, &mut behind).await;
                let _ = inside.shutdown().await;
            });
        }
    });
    address
}

#[tokio::test]
async fn endpoints_are_checked_by_their_certificate_and_name() {
    let folder = tempfile::tempdir().unwrap();
    let server = sample("v1", ToolSet::V1).await;
    // Neither the address nor `localhost` is in it.
    let pair = Pair::self_signed(&folder.path().join("up"), vec!["mcp.example".into()]).unwrap();
    let ca = pair.cert.display().to_string();
    let url: reqwest::Url = server.url().parse().unwrap();
    let behind = format!("127.0.0.1:{}", url.port().unwrap())
        .parse()
        .unwrap();
    let address = in_front_of(behind, pair).await;
    let service = |name: &str, upstream: &str| {
        format!(
            "  {name}:\n    protocol: mcp\n    path: /{name}\n    stable: v1\n    versions:\n      v1: {{ endpoints: [\"https://{address}{}\"] }}\n    \
             settings: {{ upstream: {{ {upstream} }}, health: {{ interval: 100ms }} }}\n",
            url.path()
        )
    };
    let services = format!(
        "services:\n{}{}{}",
        service("good", &format!("ca: '{ca}', server_name: mcp.example")),
        service("unnamed", &format!("ca: '{ca}'")),
        service("untrusted", "server_name: mcp.example"),
    );
    let serin = Serin::start(folder.path(), &services).await;
    let ask = async |name: &str| {
        let url = serin.url(&format!("/{name}"));
        let output = tool(
            "curl",
            &[&["-sS", "--noproxy", "*"][..], &list_tools(&url)].concat(),
        )
        .await;
        stdout(&output)
    };
    assert!(ask("good").await.contains("\"tools\""));
    for name in ["unnamed", "untrusted"] {
        let said = ask(name).await;
        assert!(said.contains("can be reached"), "{name}: {said}");
    }
    // The probes see the same.
    until(|| async {
        let said = serin.cli(&["service", "list", "--json"]).await;
        let services: serde_json::Value = serde_json::from_str(&said).unwrap();
        let text = services.to_string();
        text.contains("\"healthy\":false") || text.contains("unhealthy")
    })
    .await;
}
