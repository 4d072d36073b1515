//! What fuzzing has found worth keeping, replayed: `cargo xtask fuzz` grows it.

#[path = "../../../fuzz/targets/key.rs"]
mod key;
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[test]
fn key_stands_what_fuzzing_found() {
    replay::corpus("key", key::run);
}
