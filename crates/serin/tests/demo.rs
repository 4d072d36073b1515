//! The demo does what the README says, and leaves nothing behind however it ends.

mod support;

use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};
use support::{PATIENCE, command, processes};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

/// Twice what the README promises: how fast a machine is, is no matter for a test.
const DEMO_SECONDS_MAX: u64 = 120;

fn demo(folder: &Path) -> Command {
    let mut demo = command(folder);
    // Where its temporary folder is made.
    demo.arg("demo")
        .env("TMPDIR", folder)
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    demo
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_takes_back_the_bad_version_and_promotes_the_good_one() {
    let folder = TempDir::new().unwrap();
    let run = timeout(
        Duration::from_secs(DEMO_SECONDS_MAX),
        demo(folder.path()).output(),
    );
    let output = run.await.expect("it ends").unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{told}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for part in [
        "plan has wide tolerances",
        "rolled back (immediate): error_rate of tool search_knowledge is",
        "promoted: the candidate is stable",
        "answers from a wrong version, endpoint, session or call: 0",
        "callers moved without reason: 0",
    ] {
        assert!(told.contains(part), "no `{part}` in {told}");
    }
    let before = |what: &str| {
        let number = told
            .split(what)
            .next()
            .unwrap()
            .split_whitespace()
            .next_back()
            .unwrap();
        number
            .parse::<u64>()
            .unwrap_or_else(|_| panic!("`{number}` before `{what}`: {told}"))
    };
    println!("{} ms to act", before(" ms to act"));
    assert!(
        before(" calls harmed") > 0,
        "somebody must have met the fault: {told}"
    );
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        0,
        "no file is left"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_a_kill_and_a_panic_leave_nothing_behind() {
    for (signal, code) in [
        (Signal::INT, Some(130)),
        (Signal::TERM, Some(130)),
        (Signal::KILL, None),
        (Signal::USR2, Some(1)),
    ] {
        let folder = TempDir::new().unwrap();
        let mut command = demo(folder.path());
        if signal == Signal::USR2 {
            command.arg("--panic-on-usr2").stderr(Stdio::null());
        }
        let mut child = command.spawn().unwrap();
        let id = child.id().unwrap();
        until_the_rollout_began(&mut child).await;
        let ports = listening_ports(id);
        assert_eq!(
            ports.len(),
            5,
            "three samples, the gateway and the admin API: {ports:?}"
        );
        let pid = Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        let status = timeout(PATIENCE, child.wait())
            .await
            .expect("it ends")
            .unwrap();
        assert_eq!(status.code(), code, "{signal:?}");
        eventually(&format!("{signal:?}: the files are gone"), || {
            fs::read_dir(folder.path()).unwrap().count() == 0
        })
        .await;
        eventually(&format!("{signal:?}: the processes are gone"), || {
            processes(folder.path()).is_empty()
        })
        .await;
        let open: BTreeSet<_> = all_listening_ports()
            .intersection(&ports)
            .copied()
            .collect();
        assert!(open.is_empty(), "{signal:?}: still listening on {open:?}");
    }
}

async fn until_the_rollout_began(child: &mut Child) {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let wait = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("phase 1 at") {
                return true;
            }
        }
        false
    };
    assert!(
        timeout(PATIENCE, wait).await.expect("it goes on"),
        "the demo ended early"
    );
    // What it says from now on is read by nobody, which must not disturb it.
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    let mut look = tokio::time::interval(Duration::from_millis(10));
    while !holds() {
        assert!(Instant::now() < deadline, "never {what}");
        look.tick().await;
    }
}

/// Ports that a process listens on.
fn listening_ports(id: u32) -> BTreeSet<u16> {
    let links = fs::read_dir(format!("/proc/{id}/fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let sockets = links.filter_map(|link| {
        let name = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
        name.parse::<u64>().ok()
    });
    let sockets: BTreeSet<_> = sockets.collect();
    let ports = listening()
        .filter(|(_, inode)| sockets.contains(inode))
        .map(|(port, _)| port);
    ports.collect()
}

fn all_listening_ports() -> BTreeSet<u16> {
    listening().map(|(port, _)| port).collect()
}

/// Ports in state LISTEN with the inodes of their sockets (proc(5), `/proc/net/tcp`).
fn listening() -> impl Iterator<Item = (u16, u64)> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let rows: Vec<_> = table
        .lines()
        .skip(1)
        .filter_map(|row| {
            let fields: Vec<_> = row.split_whitespace().collect();
            let port = fields.get(1)?.rsplit(':').next()?;
            let port = u16::from_str_radix(port, 16).ok()?;
            (*fields.get(3)? == "0A").then_some((port, fields.get(9)?.parse().ok()?))
        })
        .collect();
    rows.into_iter()
}
