//! The operating system fails in the middle of an append: no acknowledgement
//! comes of it, nothing acknowledged is lost, and the log works again.

use std::path::Path;

use serin_store::Log;

use crate::child::{self, BATCH, STRACE, Said};

const APPENDS: u64 = 12;

#[test]
fn a_full_disk_is_reported_and_changes_nothing() {
    let batches = with_fault("pwrite64", "ENOSPC", "15..17", "Full");
    assert!(
        batches.failed_are_absent,
        "the error says that nothing was stored"
    );
}

#[test]
fn a_failed_write_is_reported() {
    with_fault("pwrite64", "EIO", "15..17", "Io");
}

#[test]
fn a_failed_sync_is_never_acknowledged() {
    with_fault("fsync,fdatasync", "EIO", "5", "Io");
}

struct Outcome {
    failed_are_absent: bool,
}

/// Runs a child for which some calls of `call` on the write-ahead log fail:
/// those numbered `when` of each thread, and each connection has its thread.
fn with_fault(call: &str, errno: &str, when: &str, problem: &str) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    child::block_on(async {
        // Made before, so that the calls counted below are those of appends.
        Log::open(&path).await.unwrap().close().await;
    });
    let log_path = format!("{}-wal", path.display());
    let inject = format!("inject={call}:error={errno}:when={when}");
    let strace = [
        STRACE,
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-P",
        &log_path,
        "-e",
        &format!("trace={call}"),
        "-e",
        &inject,
    ];
    let said = child::run(child::command(&strace, &path, 1, APPENDS));
    check(&path, &said, problem)
}

fn check(path: &Path, said: &[Said], problem: &str) -> Outcome {
    let mut failed = Vec::new();
    let mut acknowledged = Vec::new();
    for said in said {
        match said {
            Said::Acknowledged { batch, head } => acknowledged.push((*batch, *head)),
            Said::Failed { batch, why } => {
                assert_eq!(why, problem);
                failed.push(*batch);
            }
            Said::Fenced => panic!("{said:?}"),
        }
    }
    assert!(!failed.is_empty(), "the fault was met: {said:?}");
    assert_eq!(
        failed.len() + acknowledged.len(),
        usize::try_from(APPENDS).unwrap()
    );
    assert!(
        acknowledged.last().unwrap().0 > *failed.last().unwrap(),
        "it went on: {said:?}"
    );

    let records = child::block_on(async {
        let log = Log::open(path).await.unwrap();
        child::read_all(&log, 0).await
    });
    for (batch, head) in &acknowledged {
        let end = usize::try_from(*head).unwrap();
        let start = end - usize::try_from(BATCH).unwrap();
        assert!(child::are_batches(&records[start..end], 1, *batch..=*batch));
    }
    let failed_are_absent = records.len() as u64 == acknowledged.len() as u64 * BATCH;
    Outcome { failed_are_absent }
}
