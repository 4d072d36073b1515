//! Fuzzes `rest`.
#![no_main]

#[path = "../targets/rest.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
