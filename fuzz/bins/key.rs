//! Fuzzes `key`.
#![no_main]

#[path = "../targets/key.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
