//! A second process takes the log over from a first that is still writing.

use crate::child::{self, BATCH, Said};
use serin_store::Log;

/// Far more than the first gets to do before the second is there.
const FIRST_APPENDS_MAX: u64 = 20_000;

#[test]
fn a_second_process_takes_over_and_the_first_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let (mut first, mut first_said) =
        child::start(child::command(&[], &path, 1, FIRST_APPENDS_MAX));
    let mut acknowledged = vec![first_said.next().unwrap()];
    let second = child::run(child::command(&[], &path, 2, 20));
    acknowledged.extend(first_said);
    assert!(first.wait().unwrap().success());

    assert_eq!(acknowledged.pop(), Some(Said::Fenced));
    assert_eq!(second.len(), 20);
    let head = acknowledged.len() as u64 * BATCH;
    let Some(Said::Acknowledged {
        head: first_last, ..
    }) = acknowledged.last()
    else {
        panic!("{acknowledged:?}");
    };
    assert_eq!(*first_last, head);

    let records = child::block_on(async {
        let log = Log::open(&path).await.unwrap();
        child::read_all(&log, 0).await
    });
    let (before, after) = records.split_at(usize::try_from(head).unwrap());
    assert!(child::are_batches(before, 1, 0..acknowledged.len() as u64));
    assert!(child::are_batches(after, 2, 0..20));
}
