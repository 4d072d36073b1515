//! Watches the system calls: between what an append writes to the write-ahead
//! log and its acknowledgement lies a sync that returned 0.

use std::collections::HashMap;
use std::fs;

use crate::child::{self, STRACE, Said};

const APPENDS: u64 = 30;

#[test]
fn every_acknowledgement_follows_a_sync_of_what_it_acknowledges() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    // A string limit that keeps whole lines of ours; -y names the files.
    let strace = [
        STRACE,
        "-f",
        "-y",
        "-s",
        "200",
        "-e",
        "trace=fsync,fdatasync,write,pwrite64",
        "-e",
        "signal=none",
        "-o",
        trace.to_str().unwrap(),
    ];
    let said = child::run(child::command(
        &strace,
        &folder.path().join("log"),
        1,
        APPENDS,
    ));
    let acknowledged = |said: &Said| matches!(said, Said::Acknowledged { .. });
    assert!(said.iter().all(acknowledged), "{said:?}");

    let trace = fs::read_to_string(trace).unwrap();
    let checked = check(&trace).unwrap_or_else(|complaint| panic!("{complaint}\n{trace}"));
    assert_eq!(checked, APPENDS);
}

/// The number of acknowledgements in a trace, or what is wrong with one.
fn check(trace: &str) -> Result<u64, String> {
    // Writes to the write-ahead log so far, and how many of them are synced.
    let (mut written, mut synced) = (0, 0);
    let mut written_at_last = 0;
    let mut acknowledged = 0;
    // Calls that another thread's line interrupts: thread -> writes before it.
    let mut syncs_begun: HashMap<&str, u64> = HashMap::new();

    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        let on_log = call.contains("-wal>");
        if call.starts_with("pwrite64(") && on_log {
            written += 1;
        } else if (call.starts_with("fdatasync(") || call.starts_with("fsync(")) && on_log {
            if call.ends_with("<unfinished ...>") {
                syncs_begun.insert(thread, written);
            } else if call.ends_with("= 0") {
                synced = written;
            }
        } else if call.starts_with("<... fdatasync resumed>")
            || call.starts_with("<... fsync resumed>")
        {
            // A sync of another file was not remembered above.
            if let Some(covered) = syncs_begun.remove(thread)
                && call.ends_with("= 0")
            {
                synced = synced.max(covered);
            }
        } else if call.starts_with("write(") && call.contains("\"ack ") {
            acknowledged += 1;
            if written == written_at_last {
                return Err(format!("nothing was written before: {line}"));
            }
            if synced < written {
                return Err(format!("not synced before: {line}"));
            }
            written_at_last = written;
        }
    }
    Ok(acknowledged)
}

#[test]
fn the_check_sees_a_missing_a_failed_and_a_late_sync() {
    const WRITE: &str = "7 pwrite64(9</d/log-wal>, \"...\", 4096, 56) = 4096\n";
    const SYNC: &str = "7 fdatasync(9</d/log-wal>)     = 0\n";
    const ACK: &str = "6 write(2<pipe:[1]>, \"ack 0 3\\n\", 8) = 8\n";
    const BEGUN: &str = "7 fdatasync(9</d/log-wal> <unfinished ...>\n";
    const ENDED: &str = "7 <... fdatasync resumed>)      = 0\n";
    let failed = SYNC.replace("= 0", "= -1 EIO (Input/output error)");
    let ended_badly = ENDED.replace("= 0", "= -1 EIO (Input/output error)");
    let elsewhere = SYNC.replace("-wal", "");
    let table: [(&[&str], Option<u64>); 12] = [
        (&[WRITE, SYNC, ACK], Some(1)),
        (&[WRITE, WRITE, SYNC, ACK, WRITE, SYNC, ACK], Some(2)),
        (&[WRITE, BEGUN, ENDED, ACK], Some(1)),
        (&[WRITE, ACK], None),
        (&[ACK], None),
        (&[WRITE, SYNC, ACK, ACK], None),
        (&[WRITE, SYNC, WRITE, ACK], None),
        (&[WRITE, ACK, SYNC], None),
        (&[WRITE, &failed, ACK], None),
        (&[WRITE, &elsewhere, ACK], None),
        (&[WRITE, BEGUN, ACK, ENDED], None),
        (&[WRITE, BEGUN, &ended_badly, ACK], None),
    ];
    for (lines, expected) in table {
        assert_eq!(check(&lines.concat()).ok(), expected, "{lines:?}");
    }
    assert!(check(&[WRITE, BEGUN, WRITE, ENDED, ACK].concat()).is_err());
}
