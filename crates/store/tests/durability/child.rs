//! The process that the tests trace, kill and starve: this test binary again,
//! told by its environment to append to a log and to say what happened.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use jiff::Timestamp;
use serin_store::{AppendError, Log, NewRecord, Record};

const PATH: &str = "SERIN_STORE_TEST_PATH";
const RUN: &str = "SERIN_STORE_TEST_RUN";
const APPENDS: &str = "SERIN_STORE_TEST_APPENDS";

/// Records of one append of a child.
pub(crate) const BATCH: u64 = 3;

/// The system-call tracer.
pub(crate) const STRACE: &str = "strace";

/// A line that the child says, each in one write to its standard error.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Batch `batch` is acknowledged with this head.
    Acknowledged { batch: u64, head: u64 },
    /// Batch `batch` failed for this reason.
    Failed { batch: u64, why: String },
    /// Another writer took over.
    Fenced,
}

impl Said {
    fn line(&self) -> String {
        match self {
            Self::Acknowledged { batch, head } => format!("ack {batch} {head}\n"),
            Self::Failed { batch, why } => format!("failed {batch} {why}\n"),
            Self::Fenced => "fenced\n".into(),
        }
    }

    /// Reads a whole line; half of one, or anything else, is nothing said.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let line = line.strip_suffix('\n')?;
        let mut words = line.splitn(3, ' ');
        match words.next()? {
            "ack" => Some(Self::Acknowledged {
                batch: words.next()?.parse().ok()?,
                head: words.next()?.parse().ok()?,
            }),
            "failed" => Some(Self::Failed {
                batch: words.next()?.parse().ok()?,
                why: words.next()?.into(),
            }),
            "fenced" => Some(Self::Fenced),
            _ => None,
        }
    }
}

/// The command that runs a child on the log at `path`, behind `wrapper` when
/// that is not empty. `run` marks its records.
pub(crate) fn command(wrapper: &[&str], path: &Path, run: u64, appends: u64) -> Command {
    let me = std::env::current_exe().unwrap();
    let mut command = match wrapper {
        [] => Command::new(me),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(me);
            command
        }
    };
    command
        .args(["--exact", "child::child", "--nocapture"])
        .env(PATH, path)
        .env(RUN, run.to_string())
        .env(APPENDS, appends.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Starts a child and its wrapper.
pub(crate) fn start(mut command: Command) -> (Child, impl Iterator<Item = Said>) {
    let program = command.get_program().display().to_string();
    let mut child = command.spawn().unwrap_or_else(|error| {
        panic!("cannot start {program}: {error}; `cargo xtask test` installs what is missing")
    });
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let said = std::iter::from_fn(move || {
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if let Some(said) = Said::parse(&line) {
                return Some(said);
            }
            // Not ours: shown when the test fails.
            eprint!("{line}");
        }
    });
    (child, said)
}

/// Runs a child to its end and returns what it said.
pub(crate) fn run(command: Command) -> Vec<Said> {
    let (mut child, said) = start(command);
    let said: Vec<_> = said.collect();
    let status = child.wait().unwrap();
    assert!(status.success(), "ended with {status}, after {said:?}");
    said
}

/// Runs a future as a test of these would.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// All records after `after`.
pub(crate) async fn read_all(log: &Log, mut after: u64) -> Vec<Record> {
    let mut all = Vec::new();
    loop {
        let page = log.read(after, 1000).await.unwrap();
        let Some(last) = page.last() else { return all };
        after = last.position;
        all.extend(page);
    }
}

/// What batch `batch` of run `run` consists of. Sizes vary so that some
/// batches fit a page and some need several.
pub(crate) fn batch(run: u64, batch: u64) -> Vec<NewRecord> {
    let record = |n| NewRecord {
        at: Timestamp::UNIX_EPOCH,
        actor: format!("run {run}"),
        kind: "test".into(),
        version: 1,
        body: {
            let padding = "x".repeat(usize::try_from(run * 31 + batch * 577 + n).unwrap() % 2500);
            format!(r#"{{"batch":{batch},"n":{n},"padding":"{padding}"}}"#)
        },
    };
    (0..BATCH).map(record).collect()
}

/// Whether these stored records are exactly these batches of a run, in order.
pub(crate) fn are_batches(stored: &[Record], run: u64, batches: impl Iterator<Item = u64>) -> bool {
    let expected = batches.flat_map(|number| batch(run, number));
    stored.iter().map(|r| (&*r.actor, &*r.body)).eq(expected
        .collect::<Vec<_>>()
        .iter()
        .map(|r| (&*r.actor, &*r.body)))
}

/// The child itself; without its environment there is nothing to do.
#[test]
fn child() {
    let Some(path) = std::env::var_os(PATH) else {
        return;
    };
    let number = |name| std::env::var(name).unwrap().parse::<u64>().unwrap();
    block_on(append(Path::new(&path), number(RUN), number(APPENDS)));
}

/// Takes over the log and appends batch after batch, until fenced.
async fn append(path: &Path, run: u64, appends: u64) {
    let log = Log::open(path).await.unwrap();
    let epoch = log.claim_epoch().await.unwrap();
    let mut head = log.head().await.unwrap();
    for number in 0..appends {
        let said = match log.append(head, epoch, &batch(run, number)).await {
            Ok(new_head) => {
                head = new_head;
                Said::Acknowledged {
                    batch: number,
                    head,
                }
            }
            Err(AppendError::Fenced { .. }) => Said::Fenced,
            Err(error) => {
                // As a writer must: the batch may be there after all.
                head = log.head().await.unwrap();
                let why = match error {
                    AppendError::Store(error) => format!("{:?}", error.problem),
                    other => other.to_string(),
                };
                Said::Failed { batch: number, why }
            }
        };
        // One write, so that no half line counts; it fails when nobody listens.
        if io::stderr().write_all(said.line().as_bytes()).is_err() || said == Said::Fenced {
            break;
        }
    }
    log.close().await;
}

#[test]
fn a_relative_path_is_a_file_whatever_it_means_to_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    for name in [":memory:", "file:log?mode=memory", ""] {
        let mut command = command(&[], Path::new(name), 1, 1);
        command.current_dir(&folder);
        if name.is_empty() {
            let (mut child, _) = start(command);
            assert!(!child.wait().unwrap().success(), "no name, no file");
        } else {
            assert_eq!(
                run(command),
                [Said::Acknowledged {
                    batch: 0,
                    head: BATCH
                }]
            );
            assert!(folder.path().join(name).is_file(), "{name}");
        }
    }
}
