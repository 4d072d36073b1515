//! What fuzzing has found worth keeping, replayed: `cargo xtask fuzz` grows it.

#[path = "../../../fuzz/targets/envelope.rs"]
mod envelope;
#[path = "../../../fuzz/targets/events.rs"]
mod events;
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[test]
fn envelope_stands_what_fuzzing_found() {
    replay::corpus("envelope", envelope::run);
}

#[test]
fn events_stands_what_fuzzing_found() {
    replay::corpus("events", events::run);
}
