#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flumen_log::batch::fuzz_batch(bytes));
