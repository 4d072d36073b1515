//! Replays what fuzzing has found worth keeping, in the tests of the crates.

use std::{fs, path::Path};

/// Files that are there at least: an empty folder would test nothing.
const FILES_MIN: usize = 5;

/// Runs a target on every file of its corpus. Compiled into tests of `crates/NAME`, from where the path is.
pub(crate) fn corpus(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    assert!(files.len() >= FILES_MIN);
    for file in files {
        run(&fs::read(file).unwrap());
    }
}
