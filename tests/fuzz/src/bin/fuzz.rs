//! The coverage-guided fuzzer of one target, named by `FUMEHOOD_FUZZ_TARGET`. `tests/fuzz/run` starts it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fumehood_fuzz::chosen()(bytes);
});
