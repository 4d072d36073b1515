//! `cargo xtask interop`: real MCP clients call the sample server, directly and through the gateway.
//!
//! The scripts are in `xtask/interop`; each prints one line of JSON, which is judged here.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use serde::Deserialize;

use crate::{
    Result,
    gateway::{Gateway, Version},
    process::{self, Server},
    root, tools,
};

/// A client needs a few seconds; one that hangs is a failure.
const CLIENT_SECONDS_MAX: u32 = 60;

/// The version that the sample server says it is.
const VERSION: &str = "v1";

/// What the sample's first version offers, in order. It is more than a page: a client that lists it all followed the pages.
const TOOLS: [&str; 9] = [
    "generate_content",
    "search_knowledge",
    "get_entry",
    "find_similar",
    "get_brand_voice",
    "update_brand_voice",
    "upload_documents",
    "generate_embeddings",
    "calculate_roi",
];

/// What to run.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only against the sample server itself
    #[arg(long)]
    direct: bool,
}

/// What runs a script.
enum Runtime {
    Node,
    /// Python of this virtual environment.
    Python(&'static str),
}
use Runtime::{Node, Python};

/// A real client.
struct Client {
    name: &'static str,
    /// The npm package or virtual environment with its version.
    package: &'static str,
    runtime: Runtime,
    script: &'static str,
    mode: &'static str,
    /// Whether it ends up in the modern era with a server of both.
    modern: bool,
}

const fn client(
    name: &'static str,
    package: &'static str,
    runtime: Runtime,
    script: &'static str,
    mode: &'static str,
) -> Client {
    Client {
        name,
        package,
        runtime,
        script,
        mode,
        modern: !matches!(mode.as_bytes(), b"legacy"),
    }
}

const CLIENTS: [Client; 11] = [
    client(
        "MCP Inspector",
        "@modelcontextprotocol/inspector",
        Node,
        "inspector.mjs",
        "legacy",
    ),
    client(
        "MCP Inspector",
        "@modelcontextprotocol/inspector",
        Node,
        "inspector.mjs",
        "auto",
    ),
    client(
        "MCP Inspector",
        "@modelcontextprotocol/inspector",
        Node,
        "inspector.mjs",
        "modern",
    ),
    client(
        "TypeScript sdk",
        "@modelcontextprotocol/sdk",
        Node,
        "typescript_v1.mjs",
        "legacy",
    ),
    client(
        "TypeScript client",
        "@modelcontextprotocol/client",
        Node,
        "typescript_v2.mjs",
        "legacy",
    ),
    client(
        "TypeScript client",
        "@modelcontextprotocol/client",
        Node,
        "typescript_v2.mjs",
        "auto",
    ),
    client("Python mcp", "mcp1", Python("mcp1"), "mcp_v1.py", "legacy"),
    client("Python mcp", "mcp2", Python("mcp2"), "mcp_v2.py", "legacy"),
    client("Python mcp", "mcp2", Python("mcp2"), "mcp_v2.py", "auto"),
    client(
        "fastmcp",
        "fastmcp",
        Python("fastmcp"),
        "fastmcp_v4.py",
        "legacy",
    ),
    client(
        "fastmcp",
        "fastmcp",
        Python("fastmcp"),
        "fastmcp_v4.py",
        "auto",
    ),
];

/// What a script prints.
#[derive(Deserialize)]
struct Seen {
    tools: Vec<String>,
    answer: Answer,
    error: bool,
}

/// The structured content of a call.
#[derive(Deserialize)]
struct Answer {
    version: String,
    #[serde(rename = "answer")]
    text: String,
    nonce: String,
    session: Option<String>,
}

/// Runs every client against every setup, prints the table, fails if any client does.
pub(crate) fn run(args: &Args) -> Result<()> {
    tools::install_all()?;
    process::build("serin-testbed")?;
    let out = root().join("out/interop");
    fs::create_dir_all(&out)?;

    let (_sample, sample) = sample(&out)?;
    let mut setups = vec![("direct", sample.clone())];
    let gateway = if args.direct {
        None
    } else {
        process::build("serin")?;
        Some(Gateway::start(
            &out.join("gateway"),
            &[Version::new(VERSION, &[&sample])],
        )?)
    };
    setups.extend(
        gateway
            .iter()
            .map(|gateway| ("gateway", gateway.mcp_url.clone())),
    );

    let results: Vec<Vec<Result<()>>> = thread::scope(|scope| {
        let threads: Vec<_> = setups
            .iter()
            .map(|(_, url)| {
                scope.spawn(move || CLIENTS.iter().map(|client| client.check(url)).collect())
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_default())
            .collect()
    });

    print!("\n{:<20}{:<10}{:<8}", "client", "version", "mode");
    println!(
        "{}",
        setups
            .iter()
            .map(|(setup, _)| format!("{setup:<10}"))
            .collect::<Vec<_>>()
            .concat()
    );
    let mut failures = Vec::new();
    for (row, client) in CLIENTS.iter().enumerate() {
        print!(
            "{:<20}{:<10}{:<8}",
            client.name,
            tools::version(client.package),
            client.mode
        );
        for ((setup, _), results) in setups.iter().zip(&results) {
            let failure = match results.get(row) {
                Some(Ok(())) => None,
                Some(Err(error)) => Some(error.to_string()),
                None => Some("did not run".to_owned()),
            };
            print!("{:<10}", if failure.is_none() { "ok" } else { "FAILED" });
            failures.extend(
                failure.map(|why| format!("{} {}, {setup}: {why}", client.name, client.mode)),
            );
        }
        println!();
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.join("\n").into())
    }
}

impl Client {
    fn check(&self, url: &str) -> Result<()> {
        let printed = process::output(self.command()?.args([url, self.mode]))?;
        let seen: Seen = serde_json::from_str(printed.trim()).map_err(|error| {
            format!("{} printed something else: {error}: {printed}", self.script)
        })?;
        seen.judge(self.modern).map_err(Into::into)
    }

    fn command(&self) -> Result<Command> {
        let program: PathBuf = match self.runtime {
            Node => tools::node()?,
            Python(venv) => tools::python(venv)?,
        };
        let mut command = process::bounded(CLIENT_SECONDS_MAX, &program);
        command
            .arg(root().join("xtask/interop").join(self.script))
            .current_dir(tools::npm()?);
        Ok(command)
    }
}

impl Seen {
    /// Says what is wrong, if anything is.
    fn judge(&self, modern: bool) -> std::result::Result<(), String> {
        let Self {
            tools,
            answer,
            error,
        } = self;
        if *tools != TOOLS {
            return Err(format!(
                "it lists {}, not {}",
                tools.join(" "),
                TOOLS.join(" ")
            ));
        }
        let said = (
            answer.version.as_str(),
            answer.text.as_str(),
            answer.nonce.as_str(),
        );
        let expected = (VERSION, "tea, in a dry tone", "n-1");
        if said != expected {
            return Err(format!("the answer is {said:?}, not {expected:?}"));
        }
        if answer.session.is_some() == modern {
            return Err(format!(
                "it spoke the {} era",
                if modern { "legacy" } else { "modern" }
            ));
        }
        if *error {
            Ok(())
        } else {
            Err("it does not show a tool error as an error".to_owned())
        }
    }
}

/// A sample server and its URL.
fn sample(out: &Path) -> Result<(Server, String)> {
    let mut command = Command::new(process::built("serin-testbed")?);
    command.args(["sample", "--release", VERSION]);
    let server = Server::start(&mut command, &out.join("sample.log"))?;
    let url = server.wait_for("sample listening on ")?;
    Ok((server, url))
}

#[cfg(test)]
mod tests {
    use super::{Answer, Seen, TOOLS, VERSION};

    fn seen() -> Seen {
        Seen {
            tools: TOOLS.map(str::to_owned).to_vec(),
            answer: Answer {
                version: VERSION.to_owned(),
                text: "tea, in a dry tone".to_owned(),
                nonce: "n-1".to_owned(),
                session: None,
            },
            error: true,
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Seen), modern: bool, expected: Option<&str>) {
        let mut seen = seen();
        change(&mut seen);
        let wrong = seen.judge(modern).err();
        match expected {
            None => assert_eq!(wrong, None),
            Some(part) => assert!(
                wrong.as_deref().is_some_and(|wrong| wrong.contains(part)),
                "{wrong:?}"
            ),
        }
    }

    #[test]
    fn each_wrong_sight_is_named() {
        check(|_| {}, true, None);
        check(
            |seen| seen.answer.session = Some("s".to_owned()),
            false,
            None,
        );
        check(|_| {}, false, Some("spoke the modern era"));
        check(|seen| seen.tools.truncate(5), true, Some("it lists"));
        check(
            |seen| seen.answer.version = "v2".to_owned(),
            true,
            Some("the answer is"),
        );
        check(|seen| seen.error = false, true, Some("as an error"));
    }
}
