//! What fuzzing has found worth keeping, replayed: `cargo xtask fuzz` grows it.

use std::{fs, path::Path};

#[path = "../../../fuzz/targets/key.rs"]
mod key;

/// Files that are there at least: an empty folder would test nothing.
const FILES_MIN: usize = 5;

fn replay(target: &str, run: fn(&[u8])) {
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

#[test]
fn key_stands_what_fuzzing_found() {
    replay("key", key::run);
}
