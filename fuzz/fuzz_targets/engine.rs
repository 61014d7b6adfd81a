//! The engine under arbitrary operations; `src/engine/proof/fuzz.rs` reads them from the bytes and checks everything.
#![no_main]

use ringfence::engine::proof::fuzz::drive;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drive(bytes));
