//! What fuzzing has found worth keeping, replayed: `cargo xtask fuzz` grows it.

#[path = "../../../fuzz/targets/framing.rs"]
mod framing;
#[path = "../../../fuzz/replay.rs"]
mod replay;
#[path = "../../../fuzz/targets/rest.rs"]
mod rest;
#[path = "../../../fuzz/targets/session.rs"]
mod session;

#[test]
fn session_stands_what_fuzzing_found() {
    replay::corpus("session", session::run);
}

#[test]
fn framing_stands_what_fuzzing_found() {
    replay::corpus("framing", framing::run);
}

#[test]
fn rest_stands_what_fuzzing_found() {
    replay::corpus("rest", rest::run);
}
