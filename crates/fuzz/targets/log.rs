//! A log whose files were changed.
#![no_main]

use std::sync::Arc;

use fuzz::{damage, good_log, small_segments};
use libfuzzer_sys::fuzz_target;
use raft_disk::LogStore;

fuzz_target!(|data: &[u8]| {
    let disk = Arc::new(damage(good_log(), data));
    match LogStore::open(disk.clone(), small_segments()) {
        Ok((store, recovered)) => {
            assert_eq!(store.last(), recovered.last);
            drop(store);
            // What was found is there to stay.
            let again = LogStore::open(disk, small_segments()).map(|(_, again)| again);
            assert_eq!(again.ok(), Some(recovered));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
