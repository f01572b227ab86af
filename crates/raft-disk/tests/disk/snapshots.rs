//! Snapshots by themselves: taken, read, sent and received.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use raft_core::{ClusterId, Position, SnapshotMeta};
use raft_disk::sim::{Fault, Operation};
use raft_disk::{
    Disk, MAX_FORMAT_BYTES, MAX_SNAPSHOT_HEAD_BYTES, RealDisk, SimDisk, SnapshotError,
    SnapshotOffer, SnapshotOptions, SnapshotStore,
};

use crate::compaction_and_readers::{At, Gate};
use crate::lives::{application, check_newest, elsewhere, snapshot_options, snapshots, take};
use crate::model::{Dice, Model, Script, open};

pub const CLUSTER: ClusterId = ClusterId(0xC1);
pub const LIMIT: u64 = 1 << 20;

pub fn meta(index: u64) -> Arc<SnapshotMeta> {
    Arc::new(SnapshotMeta {
        position: Position { index, term: 3 },
        cluster_id: CLUSTER,
        log_time_ms: index * 10,
        configuration_index: 1,
        configuration: Arc::default(),
    })
}

pub fn file_of(meta: &SnapshotMeta) -> String {
    let Position { index, term } = meta.position;
    format!("snapshot-{index:016x}-{term:016x}")
}

pub fn half_made(disk: &SimDisk) -> Vec<String> {
    let names = disk.list().unwrap().into_iter();
    names.filter(|name| name.ends_with(".tmp")).collect()
}

/// Whoever receives takes it as it is.
pub fn accepted(_: &SnapshotMeta, _: &bytes::Bytes) -> Result<(), String> {
    Ok(())
}

/// Receives a whole file in one life.
pub fn receive(
    store: &SnapshotStore,
    offer: SnapshotOffer,
    bytes: &[u8],
) -> Result<(), SnapshotError> {
    let mut receiver = store.receive(offer, CLUSTER, LIMIT)?;
    for piece in bytes[receiver.offset() as usize..].chunks(64) {
        receiver.append(piece)?;
    }
    receiver.finish(accepted).map(|_| ())
}

/// A snapshot whose damage shows only when it is read counts as none from then on: the one before it takes
/// its place, and its file goes when there is a newer one, or is replaced by the very same, sound.
#[test]
fn what_was_given_up_is_none_any_more() {
    let disk = SimDisk::new(1);
    let store = snapshots(&disk);
    let (old, new) = (meta(5), meta(7));
    take(&store, &old, 300).unwrap();
    take(&store, &new, 300).unwrap();
    store.give_up(new.position, "chunk 3".to_owned());
    assert_eq!(check_newest(&store), Some(old.clone()));
    let damaged = store.damaged();
    assert_eq!((damaged.len(), damaged[0].position), (1, new.position));
    assert!(matches!(
        store.reader(new.position),
        Err(SnapshotError::Missing(_))
    ));
    store.retain(&[]).unwrap();
    assert!(
        disk.list().unwrap().contains(&file_of(&new)),
        "it may be looked at"
    );
    let (offer, bytes) = elsewhere(&new, 200);
    receive(&store, offer, &bytes).unwrap();
    assert_eq!(check_newest(&store), Some(new.clone()));
    assert!(store.damaged().is_empty());
    store.give_up(new.position, "chunk 3".to_owned());
    take(&store, &meta(9), 100).unwrap();
    store.retain(&[]).unwrap();
    assert!(store.damaged().is_empty());
    assert_eq!(disk.list().unwrap(), [file_of(&meta(9))]);
}

/// Whoever applies entries looks for the newest snapshot before every batch: never behind a disk that is
/// busy with another.
#[test]
fn nobody_waits_for_the_disk_to_know_the_newest() {
    let ((entered, entering), (leave, left)) = (channel(), channel());
    let gate = Arc::new(Gate {
        disk: SimDisk::new(1),
        at: At::SyncDirOrRemove,
        closed: AtomicBool::new(false),
        entered: Mutex::new(entered),
        left: Mutex::new(left),
    });
    let store = SnapshotStore::open(gate.clone(), snapshot_options()).unwrap();
    take(&store, &meta(5), 100).unwrap();
    for round in 0..2 {
        gate.closed.store(true, Ordering::SeqCst);
        let slow = store.clone();
        let work = std::thread::spawn(move || match round {
            0 => take(&slow, &meta(7), 100).map(drop).unwrap(),
            _ => slow.retain(&[]).unwrap(),
        });
        entering.recv_timeout(Duration::from_secs(20)).unwrap();
        let (asking, (tell, told)) = (store.clone(), channel());
        std::thread::spawn(move || {
            let newest = asking.newest().map(|info| info.meta.position.index);
            let old = asking.reader(meta(5).position).is_ok();
            tell.send((newest, old)).unwrap();
        });
        let answer = told.recv_timeout(Duration::from_secs(20)).unwrap();
        let expected = [(Some(5), true), (Some(7), false)][round];
        assert_eq!(answer, expected);
        leave.send(()).unwrap();
        work.join().unwrap();
    }
    assert_eq!(gate.disk.list().unwrap(), [file_of(&meta(7))]);
}

/// Any length, in pieces of any length; and from any thread.
#[test]
fn what_is_written_is_read() {
    fn for_any_thread<T: Send + Sync>() {}
    for_any_thread::<SnapshotStore>();
    for_any_thread::<raft_disk::SnapshotWriter>();
    for_any_thread::<raft_disk::SnapshotReader>();
    for_any_thread::<raft_disk::SnapshotReceiver>();

    let disk = SimDisk::new(1);
    let store = snapshots(&disk);
    assert_eq!(store.newest(), None);
    assert!(matches!(
        store.reader(meta(1).position),
        Err(SnapshotError::Missing(_))
    ));
    for length in (0..160).chain([1000, 10_000]) {
        let meta = meta(length + 1);
        let info = take(&store, &meta, length).unwrap();
        assert_eq!(store.newest().as_ref(), Some(&info));
        assert_eq!((info.application_bytes, &info.format[..]), (length, "test"));
        check_newest(&store).unwrap();
        let reader = store.reader(meta.position).unwrap();
        reader.verify().unwrap();
        let all = application(meta.position, length);
        assert_eq!(reader.chunk_count(), length.div_ceil(50));
        for n in (0..reader.chunk_count()).rev() {
            let start = n as usize * 50;
            let chunk = reader.read_chunk(n).unwrap().unwrap();
            assert_eq!(chunk, all[start..all.len().min(start + 50)]);
        }
        assert_eq!(reader.read_chunk(reader.chunk_count()).unwrap(), None);
        assert_eq!(reader.read_chunk(u64::MAX).unwrap(), None);
        let raw = disk.contents(&file_of(&meta)).unwrap();
        assert_eq!(raw.len() as u64, info.file_bytes);
        for (offset, max) in [(0, 7), (5, usize::MAX), (raw.len() - 1, 9), (raw.len(), 9)] {
            let end = raw.len().min(offset.saturating_add(max));
            assert_eq!(
                reader.read_raw(offset as u64, max).unwrap(),
                raw[offset..end]
            );
        }
        assert!(reader.read_raw(u64::MAX, 9).unwrap().is_empty());
        // Across a power cut.
        let crashed = disk.fork();
        crashed.crash_losing_all_unsynced();
        let again = snapshots(&crashed);
        assert_eq!(again.newest(), Some(info));
        check_newest(&again).unwrap();
    }
}

/// Chunks of the real size, on a real directory.
#[test]
fn a_snapshot_on_a_real_directory() {
    let directory = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let open = |path: &std::path::Path| {
        let disk = Arc::new(RealDisk::open(path).unwrap());
        SnapshotStore::open(disk, SnapshotOptions::default()).unwrap()
    };
    let store = open(directory.path());
    let all = Dice(1).bytes(3_500_000);
    let mut writer = store
        .begin(meta(9), "rows".to_owned(), "sessions".into())
        .unwrap();
    for piece in all.chunks(777_777) {
        writer.append(piece).unwrap();
    }
    let info = writer.finish().unwrap();
    let store = open(directory.path());
    assert_eq!(store.newest(), Some(info.clone()));
    assert_eq!(store.bytes_used(), info.file_bytes);
    let reader = store.reader(info.meta.position).unwrap();
    assert_eq!(reader.chunk_count(), 4);
    assert_eq!(
        reader
            .chunks()
            .map(Result::unwrap)
            .collect::<Vec<_>>()
            .concat(),
        all
    );
    // To another node, with a restart in the middle.
    let offer = info.offer();
    let mut offsets = Vec::new();
    for life in 0..2 {
        let store = open(other.path());
        let mut receiver = store.receive(offer, CLUSTER, 1 << 30).unwrap();
        offsets.push(receiver.offset());
        while receiver.offset() < [2_500_000, offer.file_bytes][life] {
            let bytes = reader.read_raw(receiver.offset(), 100_000).unwrap();
            receiver.append(&bytes).unwrap();
        }
        if life == 1 {
            assert_eq!(receiver.finish(accepted).unwrap(), info);
        }
    }
    // Two chunks of 1 MiB were there, and the head.
    assert!(offsets[0] == 0 && offsets[1] > 2 << 20, "{offsets:?}");
    let copy = open(other.path()).reader(info.meta.position).unwrap();
    copy.verify().unwrap();
    assert_eq!(copy.sessions(), "sessions".as_bytes());
}

/// One bit, anywhere: whoever reads or receives the snapshot notices.
#[test]
fn a_flipped_bit_is_noticed() {
    let meta = meta(7);
    let (offer, bytes) = elsewhere(&meta, 180);
    let (mut at_opening, mut at_reading) = (0, 0);
    for offset in 0..bytes.len() {
        let bits = if offset % 8 == 0 { 0..8 } else { 3..4 };
        for bit in bits {
            let mut damaged = bytes.clone();
            damaged[offset] ^= 1 << bit;
            let disk = SimDisk::new(1);
            disk.put(&file_of(&meta), &damaged);
            let store = snapshots(&disk);
            match store.newest() {
                None => {
                    let [found] = &store.damaged()[..] else {
                        panic!("offset {offset}")
                    };
                    assert_eq!(found.position, meta.position);
                    assert!(found.to_string().contains(&file_of(&meta)), "{found}");
                    at_opening += 1;
                }
                Some(_) => {
                    let reader = store.reader(meta.position).unwrap();
                    let error = reader.verify().unwrap_err();
                    assert!(matches!(error, SnapshotError::Damaged { .. }), "{error}");
                    assert!(error.to_string().contains(&file_of(&meta)), "{error}");
                    at_reading += 1;
                }
            }
            let disk = SimDisk::new(2);
            let store = snapshots(&disk);
            let error = receive(&store, offer, &damaged).unwrap_err();
            assert!(
                matches!(error, SnapshotError::NotAsOffered(_)),
                "{offset}: {error}"
            );
            assert!(disk.list().unwrap().is_empty(), "offset {offset}");
            // It is no obstacle to the right one.
            receive(&store, offer, &bytes).unwrap();
            check_newest(&store).unwrap();
        }
    }
    assert!(
        at_opening > 200 && at_reading > 200,
        "{at_opening} {at_reading}"
    );
}

/// Chunks that are sound in themselves, in each other's place, or from another snapshot.
#[test]
fn every_chunk_has_its_place() {
    let meta = meta(7);
    let (offer, bytes) = elsewhere(&meta, 200);
    // Of the same lengths throughout.
    let (_, others) = elsewhere(&self::meta(8), 200);
    let chunk = |n: usize| bytes.len() - 32 - (4 - n) * 58..bytes.len() - 32 - (3 - n) * 58;
    let mut exchanged = bytes.clone();
    exchanged[chunk(1)].copy_from_slice(&bytes[chunk(2)]);
    exchanged[chunk(2)].copy_from_slice(&bytes[chunk(1)]);
    let mut foreign = bytes.clone();
    foreign[chunk(1)].copy_from_slice(&others[chunk(1)]);
    for damaged in [exchanged, foreign] {
        let disk = SimDisk::new(1);
        disk.put(&file_of(&meta), &damaged);
        let store = snapshots(&disk);
        let reader = store.reader(meta.position).unwrap();
        reader.read_chunk(0).unwrap();
        let error = reader.read_chunk(1).unwrap_err();
        assert!(matches!(error, SnapshotError::Damaged { .. }), "{error}");
        let error = receive(&snapshots(&SimDisk::new(2)), offer, &damaged).unwrap_err();
        assert!(matches!(error, SnapshotError::NotAsOffered(_)), "{error}");
    }
}

/// Cut off, or with something behind it, or something else altogether.
#[test]
fn a_file_of_another_length_is_no_snapshot() {
    let meta = meta(7);
    let (_, bytes) = elsewhere(&meta, 180);
    let mut longer = bytes.clone();
    longer.extend_from_slice(&bytes);
    for length in (0..bytes.len()).chain([bytes.len() + 1, bytes.len() + 8, longer.len()]) {
        let disk = SimDisk::new(1);
        disk.put(&file_of(&meta), &longer[..length]);
        let store = snapshots(&disk);
        assert_eq!(store.newest(), None, "{length} bytes");
        assert_eq!(store.damaged().len(), 1);
        let zeros = vec![0; length];
        disk.put(&file_of(&meta), &zeros);
        assert_eq!(snapshots(&disk).damaged().len(), 1);
    }
    // Under another's name, it would stand for entries that it does not cover.
    let disk = SimDisk::new(1);
    disk.put("snapshot-0000000000000008-0000000000000003", &bytes);
    disk.put("snapshot-7-3", &bytes);
    let store = snapshots(&disk);
    assert_eq!((store.newest(), store.damaged().len()), (None, 1));
    assert!(store.damaged()[0].to_string().contains("another snapshot"));
}

/// A length that lies is found out before anything is allocated for it.
#[test]
fn lengths_are_not_believed() {
    let meta = meta(7);
    let (_, bytes) = elsewhere(&meta, 10);
    let disk = SimDisk::new(1);
    for length in [0u32, 83, 1 << 28, u32::MAX] {
        let mut lying = bytes.clone();
        lying[12..16].copy_from_slice(&length.to_be_bytes());
        disk.put(&file_of(&meta), &lying);
        assert_eq!(snapshots(&disk).damaged().len(), 1);
    }
}

/// No room, at any byte: an answer, and no harm, to the log least of all.
#[test]
fn a_full_disk_is_an_answer() {
    let meta = meta(7);
    let (offer, bytes) = elsewhere(&meta, 300);
    let disk = SimDisk::new(1);
    let mut script = Script::new(1);
    let (mut log, _) = open(&disk).unwrap();
    log.write(&script.group()).unwrap();
    let mut store = snapshots(&disk);
    for room in 0..bytes.len() as u64 {
        let used = disk.used();
        disk.set_capacity(Some(used + room));
        let error = take(&store, &meta, 300).unwrap_err();
        assert!(matches!(error, SnapshotError::Full(_)), "{error}");
        assert!(error.to_string().contains("Free some space"), "{error}");
        assert_eq!((disk.used(), store.newest()), (used, None));
        let mut receiver = store.receive(offer, CLUSTER, LIMIT).unwrap();
        let error = loop {
            let at = receiver.offset() as usize;
            if let Err(error) = receiver.append(&bytes[at..bytes.len().min(at + 40)]) {
                break error;
            }
        };
        assert!(matches!(error, SnapshotError::Full(_)), "{error}");
        if room % 2 == 0 {
            // Room is made, and the same receiver goes on.
            disk.set_capacity(None);
            receiver
                .append(&bytes[receiver.offset() as usize..])
                .unwrap();
            receiver.finish(accepted).unwrap();
            check_newest(&store).unwrap();
            disk.remove(&file_of(&meta)).unwrap();
        } else {
            receiver.discard().unwrap();
        }
        store = snapshots(&disk);
        assert_eq!((disk.used(), store.newest()), (used, None));
        if room % 50 == 0 {
            log.write(&script.group()).unwrap();
        }
    }
    disk.set_capacity(None);
    take(&store, &meta, 300).unwrap();
    disk.remove(&file_of(&meta)).unwrap();
    drop(log);
    let (log, recovered) = open(&disk).unwrap();
    assert_eq!(Model::of(&log, &recovered), script.model);
}

/// The disk refuses, at any operation: there is no snapshot, or (when only its name is in doubt) a
/// whole one, and nothing is left behind.
#[test]
fn a_failing_disk_leaves_nothing_half_made() {
    let meta = meta(7);
    let (offer, bytes) = elsewhere(&meta, 300);
    for operation in [
        Operation::Create,
        Operation::Write,
        Operation::Sync,
        Operation::Rename,
        Operation::SyncDir,
    ] {
        for after in 0..20 {
            for receives in [false, true] {
                let disk = SimDisk::new(1);
                let store = snapshots(&disk);
                let old = take(&store, &self::meta(3), 10).unwrap();
                disk.inject(Fault {
                    operation,
                    after,
                    error: ErrorKind::TimedOut,
                    written: 5,
                });
                let result = if receives {
                    receive(&store, offer, &bytes)
                } else {
                    take(&store, &meta, 300).map(|_| ())
                };
                disk.clear_faults();
                match &result {
                    Ok(()) => assert_eq!(check_newest(&store), Some(meta.clone())),
                    Err(error) => {
                        assert!(matches!(error, SnapshotError::Disk(_)), "{error}");
                        assert!(error.to_string().contains("timed out"), "{error}");
                        assert_eq!(store.newest().as_ref(), Some(&old));
                        assert!(receives || half_made(&disk).is_empty());
                    }
                }
                let crashed = disk.fork();
                crashed.crash(after);
                let after_cut = check_newest(&snapshots(&crashed)).unwrap();
                assert!(
                    after_cut == meta && (result.is_ok() || operation == Operation::SyncDir)
                        || after_cut == old.meta && result.is_err()
                );
                // It can be had after all.
                if result.is_err() {
                    receive(&store, offer, &bytes).unwrap();
                    assert_eq!(check_newest(&store), Some(meta.clone()));
                    assert!(half_made(&disk).is_empty());
                }
            }
        }
    }
}

/// Half-made ones go: when they are dropped, or else at the next opening.
#[test]
fn what_is_not_finished_goes() {
    let disk = SimDisk::new(1);
    let store = snapshots(&disk);
    let mut one = store.begin(meta(7), String::new(), "".into()).unwrap();
    let mut two = store.begin(meta(7), String::new(), "".into()).unwrap();
    one.append(&[1; 500]).unwrap();
    two.append(&[2; 500]).unwrap();
    assert_eq!(half_made(&disk).len(), 2);
    drop(one);
    assert_eq!(half_made(&disk).len(), 1);
    let crashed = disk.fork();
    crashed.kill();
    assert_eq!(half_made(&crashed).len(), 1);
    snapshots(&crashed);
    assert!(half_made(&crashed).is_empty());
    two.finish().unwrap();
    assert!(half_made(&disk).is_empty());
    // A writer that failed is of no more use.
    let mut writer = store.begin(meta(9), String::new(), "".into()).unwrap();
    disk.inject(Fault {
        operation: Operation::Write,
        after: 0,
        error: ErrorKind::Other,
        written: 3,
    });
    assert!(writer.append(&[1; 500]).is_err());
    assert!(matches!(writer.append(&[1]), Err(SnapshotError::GivenUp)));
    assert!(matches!(writer.finish(), Err(SnapshotError::GivenUp)));
    assert_eq!(store.newest().unwrap().meta, meta(7));
    assert!(half_made(&disk).is_empty());
}

#[test]
fn limits_of_the_head() {
    let store = snapshots(&SimDisk::new(1));
    let begin = |meta: SnapshotMeta, format: usize, sessions: u64| {
        let sessions = vec![0; sessions as usize];
        store.begin(Arc::new(meta), "x".repeat(format), sessions.into())
    };
    let sound = (*meta(7)).clone();
    drop(begin(sound.clone(), MAX_FORMAT_BYTES, 10).unwrap());
    for (format, sessions) in [(MAX_FORMAT_BYTES + 1, 0), (0, MAX_SNAPSHOT_HEAD_BYTES)] {
        let error = begin(sound.clone(), format, sessions).unwrap_err();
        assert!(matches!(error, SnapshotError::TooLarge { .. }), "{error}");
    }
    for (index, configuration_index) in [(0, 0), (7, 8), (u64::MAX, 0)] {
        let meta = SnapshotMeta {
            position: Position { index, term: 1 },
            configuration_index,
            ..sound.clone()
        };
        let error = begin(meta, 0, 0).unwrap_err();
        assert!(matches!(error, SnapshotError::Invalid(_)), "{error}");
    }
}

/// The newest stays, whatever is asked for; who reads one that goes is not disturbed.
#[test]
fn only_what_is_asked_for_is_kept() {
    let disk = SimDisk::new(1);
    let store = snapshots(&disk);
    let metas: Vec<_> = (1..=6).map(|n| meta(n * 10)).collect();
    for meta in &metas {
        take(&store, meta, 200).unwrap();
    }
    let reader = store.reader(metas[0].position).unwrap();
    disk.flip(&file_of(&metas[1]), 20, 1);
    let store = snapshots(&disk);
    assert_eq!(store.damaged().len(), 1);
    disk.inject(Fault {
        operation: Operation::Remove,
        after: 1,
        error: ErrorKind::PermissionDenied,
        written: 0,
    });
    let keep = [metas[3].position, Position { index: 1, term: 1 }];
    assert!(store.retain(&keep).is_err());
    store.retain(&keep).unwrap();
    assert_eq!(
        disk.list().unwrap(),
        [file_of(&metas[3]), file_of(&metas[5])]
    );
    assert!(store.damaged().is_empty());
    assert_eq!(store.bytes_used(), disk.used());
    reader.verify().unwrap();
    assert!(matches!(
        store.reader(metas[0].position),
        Err(SnapshotError::Missing(_))
    ));
    store.retain(&[]).unwrap();
    assert_eq!(disk.list().unwrap(), [file_of(&metas[5])]);
    // A damaged one that would be the newest is kept for whoever wants to look at it, and replaced
    // by a sound one of the same entries.
    disk.flip(&file_of(&metas[5]), 20, 1);
    take(&store, &metas[4], 20).unwrap();
    let store = snapshots(&disk);
    assert_eq!(
        (store.newest().unwrap().meta, store.damaged().len()),
        (metas[4].clone(), 1)
    );
    store.retain(&[]).unwrap();
    assert_eq!(disk.list().unwrap().len(), 2);
    take(&store, &metas[5], 20).unwrap();
    assert!(store.damaged().is_empty());
    store.retain(&[]).unwrap();
    assert_eq!(check_newest(&snapshots(&disk)), Some(metas[5].clone()));
    assert_eq!(disk.list().unwrap().len(), 1);
}

/// While a snapshot is written, the log waits behind a bounded number of bytes.
#[test]
fn a_snapshot_is_synced_as_it_grows() {
    let disk = SimDisk::new(1);
    let store = snapshots(&disk);
    let before = disk.syncs();
    take(&store, &meta(7), 5000).unwrap();
    let pieces = 5000 / snapshot_options().sync_bytes;
    assert!(disk.syncs() - before >= pieces / 2, "{}", disk.syncs());
    let (offer, bytes) = elsewhere(&meta(9), 5000);
    let before = disk.syncs();
    receive(&store, offer, &bytes).unwrap();
    assert!(disk.syncs() - before >= pieces / 2, "{}", disk.syncs());
}

/// A process died between a snapshot's rename and the sync of the directory. Who opens the directory
/// says that there is a snapshot; then there is one, whatever comes.
#[test]
fn what_an_opening_finds_is_durable() {
    for opens_log in [false, true] {
        for has_log in [false, true] {
            let disk = SimDisk::new(1);
            let mut meta = meta(7);
            if has_log {
                let (mut log, _) = open(&disk).unwrap();
                let mut script = Script::new(1);
                script.cluster_id = Some(CLUSTER);
                while script.model.entries.len() < 3 {
                    log.write(&script.group()).unwrap();
                }
                // In the log: there is nothing to be reset.
                meta = Arc::new(script.model.meta_at(2, CLUSTER));
            }
            let store = snapshots(&disk);
            disk.inject(Fault {
                operation: Operation::SyncDir,
                after: 0,
                error: ErrorKind::Other,
                written: 0,
            });
            take(&store, &meta, 100).unwrap_err();
            disk.kill();
            let found = if opens_log {
                open(&disk).unwrap().1.snapshot
            } else {
                snapshots(&disk).newest().map(|info| info.meta)
            };
            assert_eq!(found, Some(meta.clone()));
            disk.crash_losing_all_unsynced();
            assert_eq!(check_newest(&snapshots(&disk)), Some(meta));
        }
    }
}
