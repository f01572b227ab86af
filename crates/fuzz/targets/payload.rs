//! What an entry says.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use raft_core::Payload;

fuzz_target!(|data: &[u8]| {
    if let Ok(payload) = Payload::decode(Bytes::copy_from_slice(data)) {
        let again = payload.to_bytes();
        assert_eq!(again.len(), payload.encoded_len());
        assert_eq!(Payload::decode(again), Ok(payload));
    }
});
