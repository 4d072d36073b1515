//! Child processes: commands that must succeed, and servers that say when they are ready and end with their owner.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use crate::{Result, root};

/// A server is ready within this time, on the slowest machine we know, or it is broken.
const READY_SECONDS_MAX: u64 = 30;

/// A command that ends after `seconds`, whatever `program` does.
pub(crate) fn bounded(seconds: u32, program: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.arg(seconds.to_string()).arg(program);
    command
}

/// Runs `command` with its output on our own, and fails unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .map_err(|error| format!("cannot start {}: {error}", shown(command)))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{} failed: {status}", shown(command)).into())
    }
}

/// Builds `serin` and the testbed in release.
pub(crate) fn build_release() -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--quiet"]);
    cargo.args(["--package", "serin", "--package", "serin-testbed"]);
    run(cargo.current_dir(root()))
}

/// Runs `command` quietly and gives its standard output; the error of a failure carries its standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .map_err(|error| format!("cannot start {}: {error}", shown(command)))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{} failed: {}\n{stdout}{stderr}",
        shown(command),
        output.status
    )
    .into())
}

/// Whether `program` is on the path.
pub(crate) fn exists(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    })
}

/// Builds the program `name`, which its package is named after.
pub(crate) fn build(name: &str) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--package", name, "--bin", name]);
    run(cargo.current_dir(root()))
}

/// A program of this workspace, which lies beside this one: `name` is relative to that folder.
pub(crate) fn built(name: &str) -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("").join(name);
    if program.is_file() {
        Ok(program)
    } else {
        Err(format!("{} was not built", program.display()).into())
    }
}

/// The command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// A child that serves until it is dropped.
pub(crate) struct Server {
    child: Child,
    lines: mpsc::Receiver<String>,
    name: String,
}

impl Server {
    /// Starts `command`; all it writes goes to `log` too.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let name = shown(command);
        let mut log = File::create(log)
            .map_err(|error| format!("cannot write {}: {error}", log.display()))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?)
            .spawn()
            .map_err(|error| format!("cannot start {name}: {error}"))?;
        let stdout = child
            .stdout
            .take()
            .ok_or("the child has no standard output")?;
        let (sender, lines) = mpsc::channel();
        // Reads to the end, so that the child never waits for a full pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout)
                .lines()
                .map_while(std::result::Result::ok)
            {
                let _ = writeln!(log, "{line}");
                let _ = sender.send(line);
            }
        });
        Ok(Self { child, lines, name })
    }

    /// The id of the process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that contains `mark` and gives what follows it, to the next space.
    pub(crate) fn wait_for(&self, mark: &str) -> Result<String> {
        let deadline = Instant::now() + Duration::from_secs(READY_SECONDS_MAX);
        loop {
            let line = self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
                .map_err(|_| {
                    format!(
                        "{} ended or did not print {mark:?} within {READY_SECONDS_MAX} s",
                        self.name
                    )
                })?;
            if let Some((_, rest)) = line.split_once(mark) {
                return Ok(rest
                    .split_whitespace()
                    .next()
                    .unwrap_or_default()
                    .to_owned());
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
