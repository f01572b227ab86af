//! # Strangers' bytes
//!
//! Whatever comes from a disk, a network, a client or a file is a value or a reason: never a panic, and
//! never more memory than what came. The crates say so in their property tests, with bytes by
//! chance; here a fuzzer looks for those that lead anywhere new. Each target is one decoder.
//!
//! ```text
//! cargo fuzz run --fuzz-dir crates/fuzz packet
//! cargo fuzz run --fuzz-dir crates/fuzz --features daemons peer_message
//! ```
//!
//! `cargo fuzz` is installed by name. With a stable compiler it wants `RUSTC_BOOTSTRAP=1`. What it finds
//! becomes a test beside the decoder.

#![forbid(unsafe_code)]

use std::sync::{Arc, OnceLock};

use raft_core::{
    ClusterId, Command, Entry, HardState, NodeId, Payload, Position, SnapshotMeta, Write,
};
use raft_disk::{Disk, LogStore, Options, SimDisk, SnapshotOptions, SnapshotStore};

/// Changes bytes of a file: the first byte of each five says which file and how, then the place, then
/// what is put there.
pub fn damage(disk: &SimDisk, data: &[u8]) -> SimDisk {
    let disk = disk.fork();
    let names = disk.list().unwrap_or_default();
    for change in data.chunks_exact(5) {
        let name = &names[usize::from(change[0]) % names.len()];
        let Some(mut bytes) = disk.contents(name) else {
            continue;
        };
        let place = u32::from_be_bytes([0, change[1], change[2], change[3]]) as usize;
        let place = place % bytes.len().max(1);
        match change[0] / 64 {
            0 => bytes.truncate(place),
            1 => bytes.resize(bytes.len() + place % 64, change[4]),
            _ if place < bytes.len() => bytes[place] = change[4],
            _ => {}
        }
        disk.put(name, &bytes);
    }
    disk
}

fn entry(index: u64) -> Entry {
    let payload = match index {
        1 => Payload::Founding {
            cluster_id: ClusterId(1),
            founder: NodeId(1),
            alone: true,
        },
        2 => Payload::Noop,
        _ => Payload::Command(Command {
            session: 0,
            sequence: 0,
            acked_below: 0,
            bytes: vec![index as u8; 30].into(),
        }),
    };
    Entry {
        index,
        term: 1 + index / 4,
        log_time_ms: index,
        payload,
    }
}

/// A log of two segments.
pub fn good_log() -> &'static SimDisk {
    static DISK: OnceLock<SimDisk> = OnceLock::new();
    DISK.get_or_init(|| {
        let disk = SimDisk::new(1);
        let (mut store, _) =
            LogStore::open(Arc::new(disk.clone()), small_segments()).expect("open");
        for sequence in 1..=40 {
            let write = Write {
                sequence,
                generation: 1,
                hard_state: (sequence % 3 == 1).then(|| HardState {
                    current_term: 1 + sequence / 4,
                    ..HardState::default()
                }),
                install: None,
                truncate_from: None,
                entries: vec![entry(sequence)],
                compact_to: None,
            };
            store.write(&[write]).expect("write");
        }
        disk
    })
}

/// Segments as small as they may be.
pub fn small_segments() -> Options {
    Options {
        segment_bytes: 4096,
        lay_out_ahead: false,
        ..Options::default()
    }
}

/// Chunks of a few bytes.
pub fn small_chunks() -> SnapshotOptions {
    SnapshotOptions {
        chunk_bytes: 16,
        ..SnapshotOptions::default()
    }
}

/// A snapshot of some chunks.
pub fn good_snapshot() -> &'static SimDisk {
    static DISK: OnceLock<SimDisk> = OnceLock::new();
    DISK.get_or_init(|| {
        let disk = SimDisk::new(1);
        let store = SnapshotStore::open(Arc::new(disk.clone()), small_chunks()).expect("open");
        let meta = Arc::new(SnapshotMeta {
            position: Position { index: 7, term: 3 },
            cluster_id: ClusterId(1),
            log_time_ms: 9,
            configuration_index: 1,
            configuration: Arc::default(),
        });
        let sessions = raft_core::SessionTable::default().encode();
        let mut writer = store
            .begin(meta, "text".to_owned(), sessions)
            .expect("begin");
        writer.append(&[7; 100]).expect("append");
        writer.finish().expect("finish");
        disk
    })
}
