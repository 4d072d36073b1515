//! `serin run` in a folder of its own, for the checks that go through the gateway.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    Result,
    process::{self, Server},
};

/// The one service of the gateway.
const SERVICE: &str = "tools";

/// The metrics page answers at once or not at all.
const METRICS_SECONDS_MAX: u64 = 10;

/// A version and where it runs.
pub(crate) struct Version<'a> {
    name: &'a str,
    endpoints: &'a [&'a str],
}

impl<'a> Version<'a> {
    pub(crate) fn new(name: &'a str, endpoints: &'a [&'a str]) -> Self {
        Self { name, endpoints }
    }
}

/// A running gateway; it ends when dropped.
pub(crate) struct Gateway {
    /// Where clients connect.
    pub(crate) url: String,
    /// Where MCP clients connect, if the service is at `/mcp`.
    pub(crate) mcp_url: String,
    admin_url: String,
    program: PathBuf,
    folder: PathBuf,
    server: Server,
}

impl Gateway {
    /// Starts it in `folder` with one service at `/mcp`; the first of `versions` is stable.
    pub(crate) fn start(folder: &Path, versions: &[Version<'_>]) -> Result<Self> {
        Self::start_program(process::built("serin")?, folder, versions)
    }

    /// The same with another build of `serin`.
    pub(crate) fn start_program(
        program: PathBuf,
        folder: &Path,
        versions: &[Version<'_>],
    ) -> Result<Self> {
        Self::start_with(program, folder, versions, "")
    }

    /// The same with further settings.
    pub(crate) fn start_with(
        program: PathBuf,
        folder: &Path,
        versions: &[Version<'_>],
        settings: &str,
    ) -> Result<Self> {
        let config = format!("{}{settings}", config(versions));
        Self::start_config(program, folder, &config)
    }

    /// Starts it in `folder` with a configuration.
    pub(crate) fn start_config(program: PathBuf, folder: &Path, config: &str) -> Result<Self> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("serin.yaml"), config)?;
        let mut command = Command::new(&program);
        command
            .args(["run", "-c", "serin.yaml"])
            .current_dir(folder);
        let server = Server::start(&mut command, &folder.join("serin.log"))?;
        let gateway_url = server.wait_for("gateway listening on ")?;
        let admin_url = server.wait_for("admin listening on ")?;
        Ok(Self {
            mcp_url: format!("{gateway_url}/mcp"),
            url: gateway_url,
            admin_url,
            program,
            folder: folder.to_owned(),
            server,
        })
    }

    /// Where the admin API is.
    pub(crate) fn admin_url(&self) -> &str {
        &self.admin_url
    }

    /// The id of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Rolls out `candidate` by the plan in a file.
    pub(crate) fn start_rollout(&self, candidate: &str, plan: &Path) -> Result<()> {
        let plan = plan.to_str().ok_or("the plan's path is not UTF-8")?;
        self.serin(&[
            "rollout", "start", SERVICE, "--to", candidate, "--plan", plan,
        ])
    }

    /// Ends the rollout, so that another with a new id can begin.
    pub(crate) fn abort_rollout(&self) -> Result<()> {
        self.serin(&["rollout", "abort", SERVICE, "--reason", "conformance"])
    }

    /// Calls served so far by `v1` and `v2`.
    pub(crate) fn calls(&self) -> Result<[u64; 2]> {
        let page = get(&format!("{}/metrics", self.admin_url))?;
        Ok(["v1", "v2"].map(|version| served(&page, version)))
    }

    /// The version that a caller at this address gets who has no session and says nothing of itself.
    pub(crate) fn version_of_a_caller(&self) -> Result<String> {
        let body = r#"{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{}}"#;
        let head = format!(
            "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n\
             MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: server/discover\r\nContent-Length: {}\r\n",
            body.len()
        );
        let (head, _) = exchange("POST", &self.mcp_url, &head, body)?;
        let version = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("x-serin-version"));
        version
            .map(|(_, version)| version.trim().to_owned())
            .ok_or_else(|| "the gateway's answer has no X-Serin-Version".into())
    }

    /// A metric without labels that is a whole number.
    pub(crate) fn metric(&self, name: &str) -> Result<u64> {
        whole(&get(&format!("{}/metrics", self.admin_url))?, name)
    }

    /// What a command prints.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<String> {
        let mut serin = Command::new(&self.program);
        serin
            .args(arguments)
            .args(["--admin", &self.admin_url])
            .current_dir(&self.folder);
        process::output(&mut serin)
    }

    fn serin(&self, arguments: &[&str]) -> Result<()> {
        self.ask(arguments).map(drop)
    }
}

fn config(versions: &[Version<'_>]) -> String {
    let stable = versions.first().map_or("", |version| version.name);
    let mut config = format!(
        "environment: test
gateway: {{ listen: 127.0.0.1:0 }}
admin: {{ listen: 127.0.0.1:0 }}
store: sqlite:serin.db
services:
  {SERVICE}:
    protocol: mcp
    path: /mcp
    stable: {stable}
    versions:
"
    );
    config.extend(versions.iter().map(|Version { name, endpoints }| {
        format!(
            "      {name}: {{ endpoints: [{}] }}\n",
            endpoints.join(", ")
        )
    }));
    config
}

/// Sums `serin_requests_total` over the series of `version`.
fn served(page: &str, version: &str) -> u64 {
    let label = format!("version=\"{version}\"");
    page.lines()
        .filter(|line| line.starts_with("serin_requests_total{") && line.contains(&label))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum()
}

/// The metric `name` of a page, which writes gauges as `12.0`.
fn whole(page: &str, name: &str) -> Result<u64> {
    let mut lines = page.lines();
    let value = lines
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .ok_or_else(|| format!("the metrics lack {name}"))?;
    value
        .strip_suffix(".0")
        .unwrap_or(value)
        .parse()
        .map_err(|_| format!("{name} is {value}, no whole number").into())
}

/// A plain GET: the metrics page needs no more than this.
fn get(url: &str) -> Result<String> {
    let (head, body) = exchange("GET", url, "", "")?;
    if head.split_whitespace().nth(1) == Some("200") {
        Ok(body)
    } else {
        Err(format!("GET {url}: {}", head.lines().next().unwrap_or_default()).into())
    }
}

/// One request and its answer, head and body, on a connection of its own.
fn exchange(method: &str, url: &str, headers: &str, body: &str) -> Result<(String, String)> {
    let (address, path) = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .ok_or_else(|| format!("{url} is not an http URL with a path"))?;
    let failed = |error: std::io::Error| format!("{method} {url}: {error}");
    let mut stream = TcpStream::connect(address).map_err(failed)?;
    stream.set_read_timeout(Some(Duration::from_secs(METRICS_SECONDS_MAX)))?;
    write!(
        stream,
        "{method} /{path} HTTP/1.0\r\nHost: {address}\r\n{headers}\r\n{body}"
    )
    .map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| format!("{method} {url}: no HTTP answer"))?;
    Ok((head.to_owned(), body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{served, whole};

    #[test]
    fn calls_are_summed_over_tools_and_outcomes() {
        let page = "# TYPE serin_requests counter\n\
            serin_requests_total{service=\"tools\",version=\"v1\",tool=\"a\",outcome=\"ok\"} 3\n\
            serin_requests_total{service=\"tools\",version=\"v1\",tool=\"b\",outcome=\"ok\"} 4\n\
            serin_requests_total{service=\"tools\",version=\"v2\",tool=\"a\",outcome=\"ok\"} 5\n";
        assert_eq!(
            (served(page, "v1"), served(page, "v2"), served(page, "v3")),
            (7, 5, 0)
        );
    }

    #[test]
    fn a_whole_number_is_read_from_counters_and_gauges() {
        let page = "# TYPE rows counter\nrows_total 12\n# TYPE waiting gauge\nwaiting 0.0\nwaiting_long 3.5\n";
        assert_eq!(whole(page, "rows_total").unwrap(), 12);
        assert_eq!(whole(page, "waiting").unwrap(), 0);
        let why = |name| whole(page, name).unwrap_err().to_string();
        assert_eq!(why("rows"), "the metrics lack rows");
        assert_eq!(why("waiting_long"), "waiting_long is 3.5, no whole number");
    }
}
