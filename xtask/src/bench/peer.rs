//! What is measured: the upstream itself, plain proxies, MCP gateways and Serin, each set up as its makers advise for speed.

use std::{
    fmt::Write as _,
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use super::Era;
use crate::{
    Result,
    gateway::{Gateway, Version},
    process::{self, Server},
    tools,
};

/// A server accepts connections within this time, or it is broken.
const READY_SECONDS_MAX: u64 = 30;

/// A server that was asked to end and has not after this time is killed.
const END_SECONDS_MAX: u64 = 3;

/// Where cargo puts what this command measures, beside what this command was built as.
const RELEASE: &str = "../release";

/// Half of the traffic to each version, for longer than any run.
const PLAN: &str = "phases:\n  - { share: 50 %, hold: 24h }\n  - { share: 100 % }\n";

/// Nothing is written down of a request.
const NO_AUDIT: &str = "audit: { mode: off }\n";

/// What can be measured, in the order of the table.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    Direct,
    Nginx,
    Haproxy,
    Envoy,
    McpProxy,
    /// It writes nothing down, as the plain proxies do.
    Serin,
    /// With a row of each request in its audit trail, as it runs unless told otherwise.
    Audited,
}

impl Kind {
    pub(crate) const ALL: [Self; 7] = [
        Self::Direct,
        Self::Nginx,
        Self::Haproxy,
        Self::Envoy,
        Self::McpProxy,
        Self::Serin,
        Self::Audited,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Envoy => "Envoy mcp_router",
            Self::McpProxy => "mcp-proxy",
            Self::Serin => "Serin, at 50 %",
            Self::Audited => "Serin, audited",
        }
    }

    /// The folder of its files.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::McpProxy => "mcp-proxy",
            Self::Serin => "serin",
            Self::Audited => "audited",
        }
    }

    /// Whether it speaks MCP, and so may hold sessions.
    pub(crate) fn is_gateway(self) -> bool {
        matches!(self, Self::Envoy | Self::McpProxy | Self::Serin)
    }

    /// Why calls of this era cannot be measured through it.
    pub(crate) fn unable(self, era: Era) -> Option<&'static str> {
        match (self, era) {
            (Self::Envoy, Era::Modern) => Some(
                "Envoy 1.40 forwards neither MCP-Protocol-Version nor Mcp-Method nor Mcp-Name: a modern server must refuse",
            ),
            _ => None,
        }
    }
}

/// Something that answers calls.
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    /// Where MCP clients connect.
    pub(crate) url: String,
    /// The name of the program and its version.
    pub(crate) program: String,
    running: Running,
}

enum Running {
    Upstream,
    Server(Server),
    Serin(Box<Gateway>),
}

impl Peer {
    /// Starts it in front of `upstreams`; all but Serin have the first only.
    pub(crate) fn start(kind: Kind, folder: &Path, upstreams: &[Upstream; 2]) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let upstream = upstreams[0].address;
        let listen = free_address()?;
        // mcp-proxy has its endpoint at the root; the plain proxies pass on any path.
        let path = if kind == Kind::McpProxy { "" } else { "mcp" };
        let url = format!("http://{listen}/{path}");
        let (mut command, program) = match kind {
            Kind::Direct => {
                return Ok(Self {
                    kind,
                    url: upstreams[0].url.clone(),
                    program: "the upstream itself".to_owned(),
                    running: Running::Upstream,
                });
            }
            Kind::Serin | Kind::Audited => return Self::serin(kind, folder, upstreams),
            Kind::Nginx => nginx(folder, listen, upstream, &Locations::one())?,
            Kind::Haproxy => haproxy(folder, listen, upstream)?,
            Kind::Envoy => envoy(folder, listen, upstream)?,
            Kind::McpProxy => mcp_proxy(folder, listen, upstream)?,
        };
        let server = Server::start(&mut command, &folder.join("log"))?;
        wait_for(listen, folder)?;
        Ok(Self {
            kind,
            url,
            program,
            running: Running::Server(server),
        })
    }

    /// nginx with these locations; its URL ends before the path.
    pub(crate) fn nginx(folder: &Path, upstream: &Upstream, locations: &Locations) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let listen = free_address()?;
        let (mut command, program) = nginx(folder, listen, upstream.address, locations)?;
        let server = Server::start(&mut command, &folder.join("log"))?;
        wait_for(listen, folder)?;
        Ok(Self {
            kind: Kind::Nginx,
            url: format!("http://{listen}"),
            program,
            running: Running::Server(server),
        })
    }

    fn serin(kind: Kind, folder: &Path, upstreams: &[Upstream; 2]) -> Result<Self> {
        // A log of an earlier run has an earlier rollout.
        fs::remove_dir_all(folder)?;
        let [stable, candidate] = upstreams.each_ref().map(|upstream| [upstream.url.as_str()]);
        let versions = [Version::new("v1", &stable), Version::new("v2", &candidate)];
        let settings = if kind == Kind::Audited { "" } else { NO_AUDIT };
        let gateway = Gateway::start_with(release("serin")?, folder, &versions, settings)?;
        let plan = folder.join("plan.yaml");
        fs::write(&plan, PLAN)?;
        gateway.start_rollout("v2", &plan)?;
        Ok(Self {
            kind,
            url: gateway.mcp_url.clone(),
            program: "serin run, release build, a rollout at 50 %".to_owned(),
            running: Running::Serin(Box::new(gateway)),
        })
    }

    /// The id of its process; the upstream is nobody's overhead.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &self.running {
            Running::Upstream => None,
            Running::Server(server) => Some(server.pid()),
            Running::Serin(gateway) => Some(gateway.pid()),
        }
    }

    /// Calls that stable and candidate have served, where there are both.
    pub(crate) fn calls_per_version(&self) -> Result<Option<[u64; 2]>> {
        match &self.running {
            Running::Serin(gateway) => gateway.calls().map(Some),
            _ => Ok(None),
        }
    }
}

impl Drop for Peer {
    /// nginx ends its workers when asked to end, not when killed.
    fn drop(&mut self) {
        let Running::Server(server) = &self.running else {
            return;
        };
        let pid = server.pid();
        let _ = Command::new("kill").arg(pid.to_string()).status();
        let deadline = Instant::now() + Duration::from_secs(END_SECONDS_MAX);
        // It is a zombie, without memory, until its owner has waited for it.
        while Instant::now() < deadline && super::machine::memory_bytes(pid) > 0 {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A server with prepared answers; it ends when dropped.
pub(crate) struct Upstream {
    pub(crate) url: String,
    address: SocketAddr,
    _server: Server,
}

impl Upstream {
    pub(crate) fn start(folder: &Path, version: &str) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let mut command = Command::new(release("serin-testbed")?);
        command.args(["upstream", "--release", version]);
        let log = folder.join(format!("upstream-{version}.log"));
        let server = Server::start(&mut command, &log)?;
        let url = server.wait_for("upstream listening on ")?;
        let address = url
            .strip_prefix("http://")
            .and_then(|rest| rest.split('/').next())
            .and_then(|address| address.parse().ok())
            .ok_or_else(|| format!("the upstream's URL is {url}"))?;
        Ok(Self {
            url,
            address,
            _server: server,
        })
    }
}

/// A program of this workspace in its release build.
pub(crate) fn release(name: &str) -> Result<PathBuf> {
    process::built(&format!("{RELEASE}/{name}"))
}

/// A command and the name and version of its program.
type Prepared = (Command, String);

/// What nginx passes on, and how.
pub(crate) struct Locations {
    /// Beginnings of paths: each has an upstream of its own, all at the same server.
    pub(crate) paths: Vec<String>,
    /// Idle connections that a worker keeps to each upstream.
    pub(crate) kept: u16,
    /// Whether each worker has a socket of its own to listen at. Else who is woken takes the connection, which may be one worker for all.
    pub(crate) is_shared_out: bool,
}

impl Locations {
    /// All at one upstream.
    fn one() -> Self {
        Self {
            paths: vec!["/".to_owned()],
            kept: 256,
            is_shared_out: false,
        }
    }
}

/// One worker a core, kept connections on both sides, nothing buffered, nothing logged.
fn nginx(
    folder: &Path,
    listen: SocketAddr,
    upstream: SocketAddr,
    to: &Locations,
) -> Result<Prepared> {
    let (mut upstreams, mut locations) = (String::new(), String::new());
    let kept = to.kept;
    for (n, path) in to.paths.iter().enumerate() {
        let _ = write!(
            upstreams,
            "    upstream mcp{n} {{
        server {upstream};
        keepalive {kept};
        keepalive_requests 1000000000;
    }}
"
        );
        let _ = writeln!(
            locations,
            "        location {path} {{ proxy_pass http://mcp{n}; }}"
        );
    }
    // An upstream of many has seldom more than one connection a worker.
    let connections = 4096 + 4 * to.paths.len();
    let shared_out = if to.is_shared_out { " reuseport" } else { "" };
    let config = format!(
        "daemon off;
worker_processes auto;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
{upstreams}    server {{
        listen {listen}{shared_out};
        keepalive_requests 1000000000;
        proxy_http_version 1.1;
        proxy_set_header Connection \"\";
        proxy_set_header Host $http_host;
        proxy_buffering off;
        proxy_request_buffering off;
{locations}    }}
}}
"
    );
    fs::write(folder.join("nginx.conf"), config)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder).args(["-c", "nginx.conf"]);
    // It says its version where others say what went wrong.
    let version = Command::new("nginx").arg("-v").output()?.stderr;
    let version = String::from_utf8_lossy(&version);
    let version = version.trim().trim_start_matches("nginx version: ");
    Ok((command, version.to_owned()))
}

/// One thread a core and shared idle connections.
fn haproxy(folder: &Path, listen: SocketAddr, upstream: SocketAddr) -> Result<Prepared> {
    let config = format!(
        "global
    maxconn 4096
defaults
    mode http
    http-reuse always
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend mcp
    bind {listen}
    default_backend upstream
backend upstream
    server upstream {upstream}
"
    );
    fs::write(folder.join("haproxy.cfg"), config)?;
    let mut command = Command::new("haproxy");
    command.args(["-db", "-f"]).arg(folder.join("haproxy.cfg"));
    let version = process::output(Command::new("haproxy").arg("-v"))?;
    let version: Vec<_> = version.split_whitespace().take(3).collect();
    Ok((command, version.join(" ")))
}

/// One worker a core; the MCP filter and its router, as their documentation has them.
fn envoy(folder: &Path, listen: SocketAddr, upstream: SocketAddr) -> Result<Prepared> {
    let address = |address: SocketAddr| {
        format!(
            "{{ socket_address: {{ address: {}, port_value: {} }} }}",
            address.ip(),
            address.port()
        )
    };
    let (listen, upstream) = (address(listen), address(upstream));
    let config = format!(
        "static_resources:
  listeners:
  - name: mcp
    address: {listen}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: mcp
          route_config:
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes: [{{ match: {{ prefix: / }}, route: {{ cluster: upstream }} }}]
          http_filters:
          - name: envoy.filters.http.mcp
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.mcp.v3.Mcp
          - name: envoy.filters.http.mcp_router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.mcp_router.v3.McpRouter
              servers:
              - name: tools
                mcp_cluster: {{ cluster: upstream, path: /mcp }}
  clusters:
  - name: upstream
    type: STATIC
    connect_timeout: 1s
    load_assignment:
      cluster_name: upstream
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {upstream} }} }}] }}]
"
    );
    fs::write(folder.join("envoy.yaml"), config)?;
    let mut command = Command::new(tools::envoy()?);
    command
        .arg("-c")
        .arg(folder.join("envoy.yaml"))
        .args(["--concurrency", &super::machine::cores().to_string()])
        .args(["--log-level", "warning", "--use-dynamic-base-id"]);
    Ok((command, format!("envoy {}", tools::version("envoy"))))
}

/// As it comes. It calls tools by the backend's name, a separator and the tool's name: with these two, the one call that
/// everyone is measured with has a name that it knows, and its bytes are the same for all.
fn mcp_proxy(folder: &Path, listen: SocketAddr, upstream: SocketAddr) -> Result<Prepared> {
    let config = format!(
        "[proxy]
name = \"bench\"
separator = \"_\"
[proxy.listen]
host = \"{}\"
port = {}
[[backends]]
name = \"get\"
transport = \"http\"
url = \"http://{upstream}/mcp\"
[observability]
log_level = \"warn\"
",
        listen.ip(),
        listen.port()
    );
    fs::write(folder.join("proxy.toml"), config)?;
    let mut command = Command::new(tools::mcp_proxy()?);
    command.arg("-c").arg(folder.join("proxy.toml"));
    Ok((
        command,
        format!("mcp-proxy {}", tools::version("mcp-proxy")),
    ))
}

/// An address that nobody listens on: most of these servers cannot be told to pick one.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn wait_for(address: SocketAddr, folder: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(READY_SECONDS_MAX);
    while TcpStream::connect(address).is_err() {
        if Instant::now() > deadline {
            let log = folder.join("log");
            let said = fs::read_to_string(&log).unwrap_or_default();
            return Err(format!(
                "nobody listens on {address}; {} says:\n{said}",
                log.display()
            )
            .into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
