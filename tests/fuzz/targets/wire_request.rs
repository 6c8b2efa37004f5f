#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flumen_wire::fuzz::fuzz_request(bytes));
