//! The real `serin` in a temporary folder, on ports of its own.

#![allow(dead_code, reason = "each test file uses its part")]

use rustix::process::{Pid, Signal, kill_process};
use serin_testbed::sample::{Running, Sample, SampleOptions, ToolSet};
use std::{
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// No condition of a test takes so long on any machine; who waits longer waits for what never comes.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A running `serin run`.
pub(crate) struct Serin {
    child: Child,
    folder: PathBuf,
    services: String,
    /// `http://127.0.0.1:PORT`.
    pub(crate) gateway: String,
    /// `http://127.0.0.1:PORT` or `unix:PATH`.
    pub(crate) admin: String,
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Serin {
    /// Starts on free ports with these services (YAML, from `services:` on).
    pub(crate) async fn start(folder: &Path, services: &str) -> Self {
        Self::start_with(folder, services, "127.0.0.1:0", "listen: 127.0.0.1:0", &[])
            .await
            .expect("serin starts")
    }

    /// Starts as [`Self::start`] does, with these variables in its environment.
    pub(crate) async fn start_in(
        folder: &Path,
        services: &str,
        variables: &[(&str, &str)],
    ) -> Self {
        let mut command = command(folder);
        command.envs(variables.iter().copied());
        let listen = "listen: 127.0.0.1:0";
        Self::start_by(command, folder, services, "127.0.0.1:0", listen, &[])
            .await
            .expect("serin starts")
    }

    /// Starts one that is told of a limit of its files' size by errors, as of a full disk, and not by a signal.
    pub(crate) async fn start_deaf_to_limits(folder: &Path, services: &str) -> Self {
        let serin = command(folder);
        let mut command = Command::new("sh");
        let script = "trap '' XFSZ; exec \"$0\" \"$@\"";
        command
            .args(["-c", script])
            .arg(serin.as_std().get_program());
        command.current_dir(folder).env("NO_COLOR", "1");
        let listen = "listen: 127.0.0.1:0";
        Self::start_by(command, folder, services, "127.0.0.1:0", listen, &[])
            .await
            .expect("serin starts")
    }

    /// Starts with an address for the gateway, a setting for the admin API, and further arguments; the error is what it said
    /// before it ended.
    pub(crate) async fn start_with(
        folder: &Path,
        services: &str,
        gateway: &str,
        admin: &str,
        arguments: &[&str],
    ) -> Result<Self, String> {
        Self::start_by(command(folder), folder, services, gateway, admin, arguments).await
    }

    async fn start_by(
        mut command: Command,
        folder: &Path,
        services: &str,
        gateway: &str,
        admin: &str,
        arguments: &[&str],
    ) -> Result<Self, String> {
        let text = format!(
            "gateway: {{ listen: {gateway}, drain: 2s }}\nadmin: {{ {admin} }}\ncontrol: {{ tick: 100ms }}\n{services}"
        );
        std::fs::write(folder.join("serin.yaml"), text).unwrap();
        let mut child = command
            .arg("run")
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(log(folder))
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = Vec::new();
        for prefix in ["gateway listening on ", "admin listening on "] {
            let line = timeout(PATIENCE, lines.next_line())
                .await
                .expect("serin says where it listens")
                .unwrap();
            let place = line.as_deref().and_then(|line| line.strip_prefix(prefix));
            let Some(place) = place else {
                child.wait().await.unwrap();
                return Err(std::fs::read_to_string(folder.join("serin.log")).unwrap());
            };
            said.push(place.to_owned());
        }
        let [gateway, admin] = said.try_into().unwrap();
        Ok(Self {
            child,
            folder: folder.to_owned(),
            services: services.to_owned(),
            gateway,
            admin,
            _stdout: lines,
        })
    }

    /// A URL of the gateway.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.gateway)
    }

    /// The token of the admin API.
    pub(crate) fn token(&self) -> String {
        std::fs::read_to_string(self.folder.join("serin.db.token"))
            .unwrap()
            .trim()
            .to_owned()
    }

    /// The process id.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().expect("it runs").try_into().unwrap()
    }

    /// Runs a command that must not fail, and returns what it printed. Codes that say where a rollout is are no failure.
    pub(crate) async fn cli(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let fine = matches!(output.status.code(), Some(0 | 10..=12));
        assert!(
            fine,
            "serin {arguments:?}: {}\n{}",
            output.status,
            stderr(&output)
        );
        stdout(&output)
    }

    /// Runs a command.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        run(
            &self.folder,
            &[&["--admin", &self.admin], arguments].concat(),
        )
        .await
    }

    /// Runs a command that must fail, and returns what it said.
    pub(crate) async fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert_eq!(
            output.status.code(),
            Some(1),
            "serin {arguments:?}: {}\n{}",
            stdout(&output),
            stderr(&output)
        );
        stderr(&output)
    }

    /// The rollout of the service `tools`.
    pub(crate) async fn rollout(&self) -> serde_json::Value {
        serde_json::from_str(&self.cli(&["rollout", "status", "tools", "--json"]).await).unwrap()
    }

    /// Waits until the rollout of `tools` is as it should be.
    pub(crate) async fn until(
        &self,
        what: &str,
        fine: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rollout = self.rollout().await;
            if fine(&rollout) {
                return rollout;
            }
            assert!(
                Instant::now() < deadline,
                "not {what}: {rollout:#}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("serin.log")).unwrap()
    }

    /// Sends a signal and waits for the end.
    pub(crate) async fn end_by(mut self, signal: Signal) -> ExitStatus {
        kill_process(Pid::from_raw(self.pid()).unwrap(), signal).unwrap();
        timeout(PATIENCE, self.child.wait())
            .await
            .expect("it ends")
            .unwrap()
    }

    /// As after a power cut, on the same ports.
    pub(crate) async fn kill_and_restart(self, folder: &Path) -> Self {
        let gateway = self.gateway.trim_start_matches("http://").to_owned();
        let admin = format!("listen: {}", self.admin.trim_start_matches("http://"));
        let services = self.services.clone();
        self.end_by(Signal::KILL).await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            // In between, somebody else's connection may have been given the port.
            match Self::start_with(folder, &services, &gateway, &admin, &[]).await {
                Ok(serin) => return serin,
                Err(said) => assert!(Instant::now() < deadline, "{said}"),
            }
        }
    }
}

/// Runs `serin` in a folder.
pub(crate) async fn run(folder: &Path, arguments: &[&str]) -> Output {
    let output = command(folder)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    timeout(PATIENCE, output)
        .await
        .expect("the command ends")
        .unwrap()
}

/// `serin` in a folder, with nothing of the caller's environment that it would listen to.
pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_serin"));
    command
        .current_dir(folder)
        .env("NO_COLOR", "1")
        .env("USER", "tester");
    for name in [
        "SERIN_ADMIN",
        "SERIN_TOKEN",
        "SERIN_TOKEN_FILE",
        "SERIN_CONFIG",
        "RUST_LOG",
    ] {
        command.env_remove(name);
    }
    command
}

fn log(folder: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("serin.log"))
        .unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Every process whose working folder is this one.
pub(crate) fn processes(folder: &Path) -> Vec<PathBuf> {
    let here = folder.canonicalize().unwrap();
    let all = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(Result::ok)
        .map(|entry| entry.path());
    all.filter(|process| process.join("cwd").read_link().is_ok_and(|cwd| cwd == here))
        .collect()
}

/// A sample server of a version.
pub(crate) async fn sample(version: &str, tools: ToolSet) -> Running {
    Sample::start(SampleOptions::new(version, version, tools))
        .await
        .unwrap()
}

/// The service `tools` with the versions `v1` (stable) and `v2`, a URL each.
pub(crate) fn two_versions(v1: &str, v2: &str) -> String {
    format!(
        "services:\n  tools:\n    protocol: mcp\n    path: /mcp\n    stable: v1\n    versions:\n      \
         v1: {{ endpoints: [\"{v1}\"] }}\n      v2: {{ endpoints: [\"{v2}\"] }}\n"
    )
}
