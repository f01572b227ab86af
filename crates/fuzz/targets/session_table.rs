//! The sessions in a snapshot.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use raft_core::SessionTable;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(table) = SessionTable::decode(bytes.clone()) {
        assert_eq!(table.encode(), bytes);
    }
});
