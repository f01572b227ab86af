//! What a client asks of the key-value store.
#![no_main]

use libfuzzer_sys::fuzz_target;
use state_machine::key_value::{parse_command, parse_query, parse_watch};

fuzz_target!(|data: &[u8]| {
    let _ = parse_command(data);
    let _ = parse_query(data);
    let _ = parse_watch(data);
});
