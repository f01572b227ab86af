//! A snapshot whose file was changed.
#![no_main]

use std::sync::Arc;

use fuzz::{damage, good_snapshot, small_chunks};
use libfuzzer_sys::fuzz_target;
use raft_disk::{Disk, SimDisk, SnapshotStore};

/// Makes the checksum of the head right again, so that what is behind it is read.
fn mend(disk: &SimDisk) {
    for name in disk.list().unwrap_or_default() {
        let Some(mut bytes) = disk.contents(&name) else {
            continue;
        };
        let length = bytes.get(12..16).and_then(|four| four.try_into().ok());
        let length = u32::from_be_bytes(length.unwrap_or_default()) as usize;
        if length >= 4 && length <= bytes.len() {
            let checksum = crc32c::crc32c(&bytes[..length - 4]);
            bytes[length - 4..length].copy_from_slice(&checksum.to_be_bytes());
            disk.put(&name, &bytes);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let disk = damage(good_snapshot(), data);
    if data.len() % 2 == 0 {
        mend(&disk);
    }
    let Ok(store) = SnapshotStore::open(Arc::new(disk), small_chunks()) else {
        return;
    };
    if let Some(info) = store.newest()
        && let Ok(reader) = store.reader(info.meta.position)
    {
        let whole = reader.verify().is_ok();
        let read: u64 = reader
            .chunks()
            .flatten()
            .map(|chunk| chunk.len() as u64)
            .sum();
        assert!(!whole || read == info.application_bytes);
        let _ = reader.session_count();
    }
});
