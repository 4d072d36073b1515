//! `cargo xtask ofrep`: real `OpenFeature` clients ask `serin run` for flags, and schemathesis tests it against the protocol's own
//! description.
//!
//! The scripts are in `xtask/ofrep`; each prints one line of JSON, which is judged here.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Result,
    process::{self, Server},
    root, tools,
};

/// A client needs a few seconds; one that hangs is a failure.
const CLIENT_SECONDS_MAX: u32 = 60;
/// Schemathesis needs a few seconds, too.
const FUZZ_SECONDS_MAX: u32 = 100;
/// Bodies that schemathesis makes up for each operation.
const EXAMPLES: u32 = 200;
/// How often a flag is flipped under the eyes of a client.
const FLIPS: usize = 200;
/// Milliseconds within which 99 of 100 flips are with the application: the client waits 50 of them for further events, and asks again.
const FLIP_MS_MAX: f64 = 250.0;

/// The protocol's JavaScript provider for servers; the later `ofrep-core` breaks it.
const SERVER: [&str; 4] = [
    "@openfeature/server-sdk@1.23.0",
    "@openfeature/core@1.12.0",
    "@openfeature/ofrep-provider@0.1.3",
    "@openfeature/ofrep-core@0.1.4",
];
/// The one for browsers, with what browsers have and Node has not.
const WEB: [&str; 3] = [
    "@openfeature/web-sdk@1.10.0",
    "@openfeature/ofrep-web-provider@0.4.3",
    "eventsource@4.1.1",
];
/// The one for Python.
const PYTHON: [&str; 2] = [
    "openfeature-sdk==0.10.0",
    "openfeature-provider-ofrep==0.3.0",
];
/// flagd's own evaluation, in process.
const FLAGD: [&str; 4] = [
    "openfeature-sdk==0.10.0",
    "openfeature-provider-flagd==0.6.1",
    "openfeature-flagd-core==2.0.0",
    "cbor2<6",
];
/// Makes up requests from a description.
const SCHEMATHESIS: [&str; 1] = ["schemathesis==4.32.5"];

/// What a client saw: value, variant, reason and error code of each flag.
#[derive(Debug, Deserialize)]
struct Seen {
    #[serde(default)]
    milliseconds: Vec<f64>,
    /// The same of a kill.
    kill_milliseconds: Option<f64>,
    /// Which of 200 users get the flag that every tenth has.
    tenth: Vec<u32>,
    metadata: Value,
    #[serde(flatten)]
    flags: Value,
}

/// Runs every client, then schemathesis; prints the table, fails if anything does.
pub(crate) fn run() -> Result<()> {
    process::build("serin")?;
    let node = tools::node()?;
    let server = tools::modules("ofrep-server", &SERVER)?;
    let web = tools::modules("ofrep-web", &WEB)?;
    let python = tools::environment("ofrep", &PYTHON)?;
    let flagd = tools::environment("flagd", &FLAGD)?;
    let schemathesis = tools::environment("schemathesis", &SCHEMATHESIS)?;

    let out = root().join("out/ofrep");
    let serin = Serin::start(&out)?;
    let effective = out.join("effective.json");
    let document = serin.cli(&["flag", "export", "--effective", "--tenant", "acme"])?;
    fs::write(&effective, document)?;

    let flips = FLIPS.to_string();
    let effective = effective.to_str().ok_or("the folder is not UTF-8")?;
    let (url, token) = (serin.url.as_str(), serin.token.as_str());
    let clients = [
        (
            "server-sdk, JavaScript",
            &node,
            &server,
            "server.mjs",
            vec![url, token],
        ),
        (
            "web-sdk, JavaScript",
            &node,
            &web,
            "web.mjs",
            vec![url, token, &serin.admin_token, &flips],
        ),
        (
            "sdk, Python",
            &python,
            &out,
            "provider.py",
            vec!["ofrep", url, token],
        ),
        (
            "flagd in process, Python",
            &flagd,
            &out,
            "provider.py",
            vec!["in-process", effective],
        ),
    ];
    println!();
    let mut failures = Vec::new();
    for (name, program, folder, script, arguments) in clients {
        let mut client = process::bounded(CLIENT_SECONDS_MAX, program);
        client
            .arg(scripts().join(script))
            .args(&arguments)
            .current_dir(folder);
        let in_process = arguments.first() == Some(&"in-process");
        let judged = see(&mut client).and_then(|seen| {
            seen.judge(in_process)?;
            Ok((seen.milliseconds, seen.kill_milliseconds))
        });
        match judged {
            Ok((flips, _)) if flips.is_empty() => println!("{name:<26}ok"),
            Ok((flips, kill)) => {
                let kill = kill.unwrap_or(f64::INFINITY);
                let (middle, p99) = (quantile(&flips, 0.5), quantile(&flips, 0.99));
                println!(
                    "{name:<26}ok    {} flips are with the application after {middle:.0} ms, p99 {p99:.0} ms; a kill after {kill:.0} ms",
                    flips.len()
                );
                if p99.max(kill) > FLIP_MS_MAX {
                    failures.push(format!(
                        "{name}: p99 of flips or the kill is above {FLIP_MS_MAX} ms"
                    ));
                }
            }
            Err(error) => {
                println!("{name:<26}FAILED");
                failures.push(format!("{name}: {error}"));
            }
        }
    }
    match fuzz(&schemathesis, &serin) {
        Ok(summary) => println!("{:<26}ok    {summary}", "schemathesis"),
        Err(error) => {
            println!("{:<26}FAILED", "schemathesis");
            failures.push(format!("schemathesis: {error}"));
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.join("\n").into())
    }
}

fn scripts() -> PathBuf {
    root().join("xtask/ofrep")
}

fn see(client: &mut Command) -> Result<Seen> {
    let printed = process::output(client)?;
    serde_json::from_str(printed.trim())
        .map_err(|error| format!("it printed something else: {error}: {printed}").into())
}

/// The value below which such a part lies.
fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in a list"
    )]
    let place = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(0.0)
}

impl Seen {
    /// Says what is wrong, if anything is. Within a process what was resolved for it is fixed, and the protocol has no word for a rule
    /// that fits nobody.
    fn judge(&self, in_process: bool) -> std::result::Result<(), String> {
        let (disabled, by_tenant, default) = if in_process {
            ("STATIC", "STATIC", "DEFAULT")
        } else {
            ("DISABLED", "TARGETING_MATCH", "UNKNOWN")
        };
        for (flag, expected) in [
            ("boolean", json!([true, "on", "STATIC", null])),
            ("text", json!(["alpha", "plain", default, null])),
            (
                "special",
                json!(["beta", "special", "TARGETING_MATCH", null]),
            ),
            ("integer", json!([3, "three", "STATIC", null])),
            ("float", json!([0.5, "half", "STATIC", null])),
            (
                "object",
                json!([{ "limit": 10, "list": ["a", "b"] }, "full", "STATIC", null]),
            ),
            ("disabled", json!([false, "off", disabled, null])),
            ("killed", json!([false, "off", disabled, null])),
            ("by_tenant", json!([true, "on", by_tenant, null])),
            // The application's own default, which is `true` here.
            ("unknown", json!([true, null, "ERROR", "FLAG_NOT_FOUND"])),
        ] {
            let seen = &self.flags[flag];
            if *seen != expected {
                return Err(format!("`{flag}` is {seen}, not {expected}"));
            }
        }
        for (note, expected) in [
            ("team", json!("search")),
            ("weight", json!(3)),
            ("beta", json!(true)),
        ] {
            if self.metadata[note] != expected {
                return Err(format!("the metadata is {}", self.metadata));
            }
        }
        if self.tenth != TENTH {
            return Err(format!("every tenth user is {:?}", self.tenth));
        }
        Ok(())
    }
}

/// The users who get a tenth, as flagd 2.0.0 has them: our own evaluation, every client and flagd in process must agree.
const TENTH: [u32; 24] = [
    5, 39, 40, 50, 60, 73, 79, 96, 98, 109, 111, 117, 130, 134, 137, 145, 146, 166, 173, 175, 189,
    193, 195, 198,
];

/// Requests made up from the published description, right and wrong ones; nothing may be found.
fn fuzz(python: &Path, serin: &Serin) -> Result<String> {
    let mut run = process::bounded(FUZZ_SECONDS_MAX, &python.with_file_name("schemathesis"));
    run.arg("run")
        .arg(scripts().join("openapi.yaml"))
        .args(["--url", &serin.url, "--seed", "1", "--no-color"])
        .args(["--max-examples", &EXAMPLES.to_string()])
        .args([
            "--header",
            &format!("Authorization: Bearer {}", serin.token),
        ])
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("PYTHONPATH", scripts())
        .current_dir(&serin.folder);
    let printed = process::output(&mut run)?;
    let summary = printed.lines().find(|line| line.contains(" generated"));
    Ok(summary.unwrap_or_default().trim().to_owned())
}

/// `serin run` with the flags of `xtask/ofrep/flags.json`, one of them killed.
struct Serin {
    folder: PathBuf,
    url: String,
    token: String,
    admin_token: String,
    _server: Server,
}

impl Serin {
    fn start(folder: &Path) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        let config = "gateway: { listen: 127.0.0.1:0 }\nadmin: { listen: 127.0.0.1:0 }\n";
        fs::write(folder.join("serin.yaml"), config)?;
        let mut command = Command::new(process::built("serin")?);
        command
            .args(["run", "-c", "serin.yaml"])
            .current_dir(folder);
        let server = Server::start(&mut command, &folder.join("serin.log"))?;
        let url = server.wait_for("admin listening on ")?;
        let token = |name: &str| -> Result<String> {
            Ok(fs::read_to_string(folder.join(name))?.trim().to_owned())
        };
        let serin = Self {
            folder: folder.to_owned(),
            url,
            token: token("serin.db.flags-token")?,
            admin_token: token("serin.db.token")?,
            _server: server,
        };
        let flags = scripts().join("flags.json");
        serin.cli(&[
            "flag",
            "import",
            flags.to_str().ok_or("the folder is not UTF-8")?,
        ])?;
        serin.cli(&[
            "kill",
            "flag:killed",
            "--reason",
            "to see that clients hear of it",
        ])?;
        Ok(serin)
    }

    fn cli(&self, arguments: &[&str]) -> Result<String> {
        let mut serin = Command::new(process::built("serin")?);
        serin
            .args(["--admin", &self.url])
            .args(arguments)
            .current_dir(&self.folder);
        process::output(&mut serin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        let seen = json!({
            "boolean": [true, "on", "STATIC", null], "text": ["alpha", "plain", "UNKNOWN", null],
            "special": ["beta", "special", "TARGETING_MATCH", null], "integer": [3, "three", "STATIC", null],
            "float": [0.5, "half", "STATIC", null], "object": [{ "limit": 10, "list": ["a", "b"] }, "full", "STATIC", null],
            "disabled": [false, "off", "DISABLED", null], "killed": [false, "off", "DISABLED", null],
            "by_tenant": [true, "on", "TARGETING_MATCH", null], "unknown": [true, null, "ERROR", "FLAG_NOT_FOUND"],
            "metadata": { "team": "search", "weight": 3, "beta": true }, "tenth": TENTH.to_vec(),
        });
        serde_json::from_value(seen).expect("what a script prints")
    }

    #[test]
    fn each_wrong_sight_is_named() {
        assert_eq!(seen().judge(false), Ok(()));
        let mut one = seen();
        one.flags["killed"] = json!([true, "on", "STATIC", null]);
        assert!(
            one.judge(false)
                .is_err_and(|wrong| wrong.contains("`killed`"))
        );
        let mut one = seen();
        one.tenth.pop();
        assert!(one.judge(false).is_err_and(|wrong| wrong.contains("tenth")));
        let mut one = seen();
        one.metadata = json!({});
        assert!(
            one.judge(false)
                .is_err_and(|wrong| wrong.contains("metadata"))
        );
    }

    #[test]
    fn quantiles_are_values_that_were_there() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert!((quantile(&values, 0.99) - 99.0).abs() < 1e-9);
        assert!((quantile(&values, 0.5) - 50.0).abs() < 1e-9);
        assert!(quantile(&[], 0.5).abs() < 1e-9);
    }
}
