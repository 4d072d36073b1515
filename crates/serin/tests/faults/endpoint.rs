//! A sample server as a process of its own, which can be killed: this test binary again, told by its environment what to be.

use super::support::PATIENCE;
use rustix::process::{Pid, Signal, kill_process};
use serin_testbed::{
    faults::Fault,
    record,
    sample::{Sample, SampleOptions, ToolSet},
};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::timeout,
};

const NAME: &str = "SERIN_TEST_ENDPOINT_NAME";
const LISTEN: &str = "SERIN_TEST_ENDPOINT_LISTEN";
const RECORD: &str = "SERIN_TEST_ENDPOINT_RECORD";
const LISTENING: &str = "endpoint listens on ";

/// A sample server of `v1`, as a process.
pub(crate) struct Endpoint {
    name: String,
    address: SocketAddr,
    record: PathBuf,
    process: Child,
    http: reqwest::Client,
}

/// What the process does; of the tests that are run it is none.
#[tokio::test]
async fn process() {
    let Ok(name) = std::env::var(NAME) else {
        return;
    };
    let variable = |name| std::env::var(name).unwrap();
    let options = SampleOptions {
        listen: variable(LISTEN).parse().unwrap(),
        record: Some(variable(RECORD).into()),
        control: true,
        ..SampleOptions::new("v1", name, ToolSet::V1)
    };
    let server = Sample::start(options).await.unwrap();
    println!("\n{LISTENING}{}", server.address());
    std::future::pending::<()>().await;
}

impl Endpoint {
    /// Starts one on a free port.
    pub(crate) async fn start(folder: &Path, name: &str) -> Self {
        let record = folder.join(format!("{name}.record"));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (process, address) = spawn(name, any, &record).await;
        Self {
            name: name.to_owned(),
            address,
            record,
            process,
            http: reqwest::Client::new(),
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Turns a fault on, or off.
    pub(crate) async fn fault(&self, fault: Option<Fault>) {
        let request = match fault {
            Some(fault) => self.http.post(self.url("/faults")).json(&fault),
            None => self.http.delete(self.url("/faults")),
        };
        assert_eq!(request.send().await.unwrap().status(), 200);
    }

    /// `kill -9`; it is dead, and its sockets closed, when this returns.
    pub(crate) async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    /// The same for who has only borrowed it: it is dead when its port refuses.
    pub(crate) async fn stop(&self) {
        self.signal(Signal::KILL);
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).await.is_ok() {
            assert!(Instant::now() < deadline, "it does not die");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Starts again on the same port.
    pub(crate) async fn start_again(&mut self) {
        (self.process, _) = spawn(&self.name, self.address, &self.record).await;
    }

    /// Stands still: the kernel takes connections for it, and nobody answers.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// All calls that it was ever sent, by their marks.
    pub(crate) fn calls(&self) -> Vec<String> {
        let lines = record::read(&self.record).unwrap();
        let call = |line: &String| {
            let (mark, asked) = line.split_once(' ')?;
            ["tools/call", "GET"]
                .contains(&asked)
                .then(|| mark.to_owned())
        };
        lines.iter().filter_map(call).collect()
    }

    /// How often it was sent the call with this mark.
    pub(crate) fn times(&self, mark: &str) -> usize {
        self.calls().iter().filter(|known| *known == mark).count()
    }

    fn signal(&self, signal: Signal) {
        let pid = self.process.id().expect("it runs").try_into().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }
}

async fn spawn(name: &str, listen: SocketAddr, record: &Path) -> (Child, SocketAddr) {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "endpoint::process", "--nocapture"])
        .env(NAME, name)
        .env(LISTEN, listen.to_string())
        .env(RECORD, record)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let address = async {
        loop {
            let line = lines.next_line().await.unwrap().expect("it says where");
            if let Some(address) = line.strip_prefix(LISTENING) {
                return address.parse().unwrap();
            }
        }
    };
    let address = timeout(PATIENCE, address).await.expect("it listens");
    (process, address)
}
