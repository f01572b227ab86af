//! A log that gives up its beginning for a snapshot.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use raft_core::{ClusterId, Entry, HardState, Index, Payload, Position, SnapshotMeta, Write};
use raft_disk::sim::{Fault, Operation};
use raft_disk::{Disk, LogStore, OpenError, Options, SimDisk, WriteError};

use crate::lives::{snapshots, take};
use crate::model::{Model, SEGMENT_BYTES, Script, files, nothing, open};

pub const CLUSTER: ClusterId = ClusterId(0xC1);

pub fn script(seed: u64) -> Script {
    let mut script = Script::new(seed);
    script.cluster_id = Some(CLUSTER);
    script
}

pub fn segments(disk: &SimDisk) -> Vec<String> {
    let names = disk.list().unwrap().into_iter();
    names.filter(|name| name.starts_with("log-0")).collect()
}

/// Writes until there are so many segments.
pub fn grow(disk: &SimDisk, log: &mut LogStore, script: &mut Script, count: usize) {
    while segments(disk).len() < count {
        log.write(&script.group()).unwrap();
    }
}

pub fn compact_to(script: &mut Script, index: Index) -> Write {
    Write {
        compact_to: Some(index),
        ..script.write()
    }
}

pub fn install(script: &mut Script, meta: &Arc<SnapshotMeta>) -> Write {
    script.sequence += 1;
    let write = Write {
        sequence: script.sequence,
        install: Some(meta.clone()),
        ..nothing()
    };
    script.model.apply(&write);
    script.committed = meta.position.index;
    write
}

pub fn meta(index: Index, term: u64) -> Arc<SnapshotMeta> {
    Arc::new(SnapshotMeta {
        position: Position { index, term },
        cluster_id: CLUSTER,
        log_time_ms: index.saturating_mul(10),
        configuration_index: 1,
        configuration: Arc::default(),
    })
}

/// Takes a snapshot of the script's log.
pub fn take_at(disk: &SimDisk, script: &mut Script, index: Index) -> Arc<SnapshotMeta> {
    let meta = Arc::new(script.model.meta_at(index, CLUSTER));
    take(&snapshots(disk), &meta, 100).unwrap();
    script.committed = script.committed.max(index);
    meta
}

/// Segments are removed in their order, so a crash leaves any end of the row. Each is sound, the
/// ones included whose first segment takes back entries that lay in a segment before it.
#[test]
fn whatever_part_of_the_row_is_gone_the_rest_is_sound() {
    let (mut ends, mut vague) = (0, 0);
    for seed in 0..300 {
        let disk = SimDisk::new(seed);
        let mut script = script(seed);
        let (mut log, _) = open(&disk).unwrap();
        grow(&disk, &mut log, &mut script, 4);
        let last = script.model.last().index;
        if last < 3 {
            continue;
        }
        let index = last - script.dice.below(3);
        take_at(&disk, &mut script, index);
        let before = disk.fork();
        let write = compact_to(&mut script, index);
        log.write(&[write]).unwrap();
        let names = segments(&before);
        let gone = names.len() - segments(&disk).len();
        let base = log.base();
        drop(log);
        for count in 0..=gone {
            // With the last write in it, which may be in a segment of its own.
            let end = disk.fork();
            for name in &names[count..gone] {
                end.put(name, &before.contents(name).unwrap());
            }
            let (log, recovered) = open(&end).unwrap();
            let found = Model::of(&log, &recovered);
            assert!(
                script.model.is_found_as(&found, index),
                "seed {seed}: {found:?}"
            );
            // Where the base was vague, an entry that is there took its place.
            vague += u64::from(count == gone && found.base.index > base.index);
            ends += 1;
        }
    }
    assert!(ends > 500 && vague > 3, "{ends} ends, {vague} vague");
}

/// However long a node runs: what its log takes is what lies behind the last snapshot, and a segment
/// or two.
#[test]
fn what_the_log_takes_is_bounded() {
    let disk = SimDisk::new(1);
    let store = snapshots(&disk);
    let mut script = script(1);
    let (mut log, _) = open(&disk).unwrap();
    let (usage, reader) = (log.usage(), log.reader());
    let mut most = 0;
    for round in 1..5000 {
        let write = script.write();
        log.write(&[write]).unwrap();
        let last = script.model.last().index;
        if round % 50 == 0 && last > script.committed {
            let meta = Arc::new(script.model.meta_at(last, CLUSTER));
            script.committed = last;
            take(&store, &meta, 500).unwrap();
            store.retain(&[]).unwrap();
            let write = compact_to(&mut script, last);
            log.write(&[write]).unwrap();
        }
        most = most.max(log.bytes_used());
        assert_eq!(usage.load(Ordering::Relaxed), log.bytes_used());
        assert_eq!(
            log.bytes_used(),
            segments(&disk).len() as u64 * SEGMENT_BYTES
        );
    }
    assert!(
        script.model.entries.len() > 3000 && segments(&disk)[0].as_str() > "log-0000000000000020"
    );
    assert!(most <= 8 * SEGMENT_BYTES, "{most} bytes");
    assert_eq!(reader.surplus(), None);
    assert!(reader.first() > 3000);
    assert!(disk.used() < 12 * SEGMENT_BYTES);
    drop(log);
    disk.crash(1);
    let (log, recovered) = open(&disk).unwrap();
    let found = Model::of(&log, &recovered);
    assert!(script.model.is_found_as(&found, script.committed));
}

/// How much log lies behind an entry, and from where on it is so much.
#[test]
fn the_log_is_measured() {
    let disk = SimDisk::new(1);
    let options = Options {
        segment_bytes: 1 << 20,
        tail_cache_bytes: 0,
        lay_out_ahead: false,
    };
    let (mut log, _) = LogStore::open(Arc::new(disk.clone()), options).unwrap();
    let reader = log.reader();
    assert_eq!(
        (reader.bytes_from(0), reader.index_within(9), reader.first()),
        (0, 1, 1)
    );
    let mut script = script(1).with_largest(9000);
    while log.bytes_used() < 3 << 20 {
        log.write(&script.group()).unwrap();
    }
    let last = log.last().index;
    let all = reader.bytes_from(1);
    assert!(((3 << 19)..=(3 << 20)).contains(&all), "{all}");
    assert_eq!(reader.index_within(all), 1);
    assert_eq!(reader.bytes_from(last + 1), 0);
    let half = reader.index_within(all / 2);
    assert!(half > 1 && half < last);
    let bytes = reader.bytes_from(half);
    assert!(
        bytes <= all / 2 && bytes + (140 << 10) > all / 2,
        "{bytes} of {all}"
    );
}

/// A file that cannot be removed is told, harms nothing, and goes with the next compaction. Those
/// behind it wait for it.
#[test]
fn a_segment_that_cannot_be_removed_waits() {
    let disk = SimDisk::new(2);
    let mut script = script(2);
    let (mut log, _) = open(&disk).unwrap();
    grow(&disk, &mut log, &mut script, 5);
    let last = script.model.last().index;
    take_at(&disk, &mut script, last);
    let used = log.bytes_used();
    for after in [0, 1] {
        disk.inject(Fault {
            operation: Operation::Remove,
            after,
            error: ErrorKind::PermissionDenied,
            written: 0,
        });
        let write = compact_to(&mut script, last);
        log.write(&[write]).unwrap();
        let names = segments(&disk);
        assert_eq!(names[0], format!("log-{:016x}", 1 + after));
        let why = log.reader().surplus().unwrap();
        assert!(
            why.contains(&names[0]) && why.contains("cannot remove"),
            "{why}"
        );
        assert_eq!(log.bytes_used(), used - after * SEGMENT_BYTES);
        assert!(log.base().index > 0);
        let crashed = disk.fork();
        crashed.crash(after);
        let (other, recovered) = open(&crashed).unwrap();
        let found = Model::of(&other, &recovered);
        assert!(script.model.is_found_as(&found, last));
    }
    let write = compact_to(&mut script, last);
    log.write(&[write]).unwrap();
    assert_eq!(log.reader().surplus(), None);
    assert_eq!(
        log.bytes_used(),
        segments(&disk).len() as u64 * SEGMENT_BYTES
    );
    assert!(segments(&disk).len() <= 2);
    log.write(&script.group()).unwrap();
}

/// The same after a reset: the next opening removes what the reset has dropped.
#[test]
fn what_a_reset_dropped_goes_at_the_opening() {
    let disk = SimDisk::new(3);
    let mut script = script(3);
    let (mut log, _) = open(&disk).unwrap();
    grow(&disk, &mut log, &mut script, 3);
    let meta = meta(script.model.last().index + 50, 99);
    take(&snapshots(&disk), &meta, 10).unwrap();
    disk.inject(Fault {
        operation: Operation::Remove,
        after: 0,
        error: ErrorKind::PermissionDenied,
        written: 0,
    });
    let hard_state = script.model.hard_state.clone();
    let write = install(&mut script, &meta);
    let report = log.write(&[write]).unwrap();
    assert_eq!((report.last, log.base()), (meta.position, meta.position));
    assert!(log.reader().surplus().is_some());
    assert_eq!(segments(&disk).len(), 4);
    for disk in [disk.fork(), disk] {
        let (log, recovered) = open(&disk).unwrap();
        assert_eq!(recovered.hard_state, hard_state);
        assert_eq!(segments(&disk).len(), 1);
        assert_eq!(log.bytes_used(), SEGMENT_BYTES);
        assert_eq!(log.reader().surplus(), None);
        assert_eq!(Model::of(&log, &recovered).base, meta.position);
        assert_eq!(log.reader().last(), meta.position.index);
    }
}

/// S4: without a file that covers it nothing is removed, whatever is asked for.
#[test]
fn nothing_goes_that_no_snapshot_covers() {
    let disk = SimDisk::new(4);
    let mut script = script(4);
    let (mut log, _) = open(&disk).unwrap();
    grow(&disk, &mut log, &mut script, 4);
    let last = script.model.last().index;
    let write = compact_to(&mut script, last);
    log.write(&[write]).unwrap();
    assert_eq!((segments(&disk).len(), log.base()), (4, Position::ZERO));
    // One that covers a part of it lets a part of it go.
    let early = take_at(&disk, &mut script, last / 2);
    let write = compact_to(&mut script, last);
    log.write(&[write]).unwrap();
    assert!(segments(&disk).len() >= 2 && log.base().index <= early.position.index);
    assert!(log.base().index > 0);

    let invalid = |log: &mut LogStore, write: Write, what: &str| {
        let before = files(&disk);
        let error = log.write(&[write]).unwrap_err();
        assert!(matches!(error, WriteError::Invalid(_)), "{error}");
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(files(&disk), before);
    };
    let sequence = script.sequence + 1;
    let base = log.base();
    let truncation = Write {
        sequence,
        truncate_from: Some(base.index),
        ..nothing()
    };
    invalid(&mut log, truncation, "behind a base");
    let installs = [
        (meta(last + 9, 99), "there is no simulated:/snapshot-"),
        (meta(base.index, base.term), "begins behind"),
        (meta(Index::MAX, 99), "begins behind"),
    ];
    for (meta, what) in installs {
        let write = Write {
            sequence,
            install: Some(meta),
            ..nothing()
        };
        invalid(&mut log, write, what);
    }
    let mut other = (*meta(last + 9, 99)).clone();
    other.cluster_id = ClusterId(7);
    let write = Write {
        sequence,
        install: Some(Arc::new(other)),
        ..nothing()
    };
    invalid(&mut log, write, "of cluster");
    log.write(&script.group()).unwrap();
}

/// A compacted log with another snapshot than it needs, or none, is refused, and left as it is.
#[test]
fn a_log_without_its_snapshot_is_refused() {
    let disk = SimDisk::new(5);
    let mut script = script(5);
    let (mut log, _) = open(&disk).unwrap();
    grow(&disk, &mut log, &mut script, 3);
    let first = take_at(&disk, &mut script, 2);
    grow(&disk, &mut log, &mut script, 6);
    let last = script.model.last().index;
    let second = take_at(&disk, &mut script, last);
    let write = compact_to(&mut script, last);
    log.write(&[write]).unwrap();
    drop(log);
    let name = |meta: &SnapshotMeta| {
        let Position { index, term } = meta.position;
        format!("snapshot-{index:016x}-{term:016x}")
    };
    open(&disk.fork()).unwrap();
    let refused = |disk: &SimDisk, what: &[&str]| {
        let before = files(disk);
        let error = open(disk).unwrap_err();
        let OpenError::WithoutSnapshot { base, path, .. } = &error else {
            panic!("{error}")
        };
        assert!(*base > 2 && *base <= last);
        assert!(path.ends_with(&segments(disk)[0]));
        for what in what {
            assert!(error.to_string().contains(what), "{error}");
        }
        assert_eq!(files(disk), before);
    };
    disk.remove(&name(&first)).unwrap();
    let damaged = disk.fork();
    damaged.flip(&name(&second), 40, 1);
    refused(
        &damaged,
        &["damaged", &name(&second), "there is no intact one"],
    );
    disk.remove(&name(&second)).unwrap();
    refused(&disk, &["there is no intact one", "Restore"]);
    take(&snapshots(&disk), &first, 5).unwrap();
    refused(&disk, &["the newest intact one ends with entry 2"]);
    // A newer one than it had is good enough: the log is reset behind it.
    let third = meta(last + 100, 99);
    take(&snapshots(&disk), &third, 5).unwrap();
    let (log, recovered) = open(&disk).unwrap();
    assert_eq!(
        (log.base(), recovered.snapshot),
        (third.position, Some(third))
    );
}

#[test]
fn snapshots_of_another_cluster_are_refused() {
    for (position, founding) in [(5, true), (1000, true), (1000, false)] {
        let disk = SimDisk::new(6);
        let mut script = script(6);
        let (mut log, _) = open(&disk).unwrap();
        if founding {
            grow(&disk, &mut log, &mut script, 2);
        } else {
            // Nothing but another snapshot says what cluster it is.
            take(&snapshots(&disk), &meta(10, 1), 5).unwrap();
        }
        drop(log);
        let mut other = (*meta(position, 99)).clone();
        other.cluster_id = ClusterId(7);
        take(&snapshots(&disk), &Arc::new(other), 5).unwrap();
        let before = files(&disk);
        let error = open(&disk).unwrap_err();
        assert!(matches!(error, OpenError::OtherCluster { .. }), "{error}");
        assert!(error.to_string().contains("snapshot-"), "{error}");
        assert_eq!(files(&disk), before);
    }
}

/// W2: whatever the group says before the install, it is one switch; term and vote are kept.
#[test]
fn an_install_in_the_middle_of_a_group_is_one_switch() {
    for seed in 0..30 {
        let disk = SimDisk::new(seed);
        let mut script = script(seed);
        let (mut log, _) = open(&disk).unwrap();
        for _ in 0..5 {
            log.write(&script.group()).unwrap();
        }
        let reader = log.reader();
        let meta = meta(script.model.last().index + seed % 7 + 1, 99);
        take(&snapshots(&disk), &meta, 10).unwrap();
        let before = script.model.hard_state.clone();
        let mut group = script.group();
        group.push(install(&mut script, &meta));
        let hard_state = script.model.hard_state.clone();
        if seed % 2 == 0 {
            script.term = 100;
            group.extend(script.group());
        }
        let (writes, syncs) = (disk.writes(), disk.syncs());
        let report = log.write(&group).unwrap();
        assert_eq!(report.sequence, script.sequence);
        assert_eq!(report.last, script.model.last());
        assert_eq!((disk.writes(), disk.syncs()), (writes + 1, syncs + 1));
        assert_eq!(segments(&disk).len(), 1);
        assert_eq!(reader.first(), meta.position.index + 1);
        assert_eq!(
            reader.read(reader.first(), Index::MAX, usize::MAX).unwrap(),
            script.model.entries
        );
        assert!(before != hard_state || seed > 0);
        disk.crash_losing_all_unsynced();
        let (mut log, recovered) = open(&disk).unwrap();
        assert_eq!(recovered.hard_state, script.model.hard_state);
        let found = Model::of(&log, &recovered);
        assert!(
            script.model.is_found_as(&found, 0),
            "seed {seed}: {found:?}"
        );
        script.restart(script.model.clone());
        log.write(&script.group()).unwrap();
    }
}

/// An install that finds no room is in force for readers, and is made when there is room; if the
/// process ends before, by the next opening.
#[test]
fn an_install_waits_for_room() {
    let disk = SimDisk::new(8);
    let mut script = script(8);
    let (mut log, _) = open(&disk).unwrap();
    grow(&disk, &mut log, &mut script, 2);
    let reader = log.reader();
    let meta = meta(script.model.last().index + 5, 99);
    take(&snapshots(&disk), &meta, 10).unwrap();
    disk.set_capacity(Some(disk.used()));
    let group = [script.write(), install(&mut script, &meta)];
    for _ in 0..2 {
        assert!(matches!(log.write(&group), Err(WriteError::Full(_))));
    }
    assert_eq!(reader.read(1, Index::MAX, usize::MAX).unwrap(), []);
    let crashed = disk.fork();
    crashed.crash_losing_all_unsynced();
    let error = open(&crashed).unwrap_err();
    assert!(matches!(error, OpenError::Disk(_)), "{error}");
    assert!(error.to_string().contains("log-0"), "{error}");
    crashed.set_capacity(None);
    let (other, recovered) = open(&crashed).unwrap();
    assert_eq!(other.base(), meta.position);
    assert_eq!(recovered.cluster_id, Some(CLUSTER));
    disk.set_capacity(None);
    assert_eq!(log.write(&group).unwrap().last, meta.position);
    assert_eq!(segments(&disk).len(), 1);
}

/// F2, S3: what a node must know of entries that it may not hold any more.
#[test]
fn dissolution_and_log_time_are_found() {
    let disk = SimDisk::new(9);
    let mut script = script(9);
    let (mut log, _) = open(&disk).unwrap();
    grow(&disk, &mut log, &mut script, 2);
    let last = script.model.last().index;
    let dissolve = |script: &mut Script, log: &mut LogStore, from: Index| {
        script.sequence += 1;
        let entry = Entry {
            index: from,
            term: script.term,
            log_time_ms: 77_777,
            payload: Payload::Dissolve,
        };
        let write = Write {
            sequence: script.sequence,
            truncate_from: Some(from),
            entries: vec![entry],
            ..nothing()
        };
        script.model.apply(&write);
        log.write(&[write]).unwrap();
    };
    dissolve(&mut script, &mut log, last + 1);
    let (_, recovered) = open(&disk.fork()).unwrap();
    assert_eq!(recovered.dissolved_at, Some(last + 1));
    assert_eq!(recovered.last_log_time_ms, 77_777);
    let mut small = crate::model::options();
    small.tail_cache_bytes = 0;
    let (_, recovered) = LogStore::open(Arc::new(disk.fork()), small).unwrap();
    assert_eq!(
        (recovered.tail.len(), recovered.last_log_time_ms),
        (0, 77_777)
    );
    // Taken back by a truncation, and by a reset.
    let other = disk.fork();
    let meta = meta(last + 20, 99);
    take(&snapshots(&other), &meta, 10).unwrap();
    let (_, recovered) = open(&other).unwrap();
    assert_eq!(recovered.dissolved_at, None);
    assert_eq!(recovered.last_log_time_ms, meta.log_time_ms);
    script.sequence += 1;
    let write = Write {
        sequence: script.sequence,
        truncate_from: Some(last + 1),
        ..nothing()
    };
    log.write(&[write]).unwrap();
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.dissolved_at, None);
    assert_eq!(recovered.last_log_time_ms, last * 10);
}

/// A node that has nothing but a snapshot.
#[test]
fn a_snapshot_without_a_log_is_a_beginning() {
    let disk = SimDisk::new(1);
    let meta = meta(40, 3);
    take(&snapshots(&disk), &meta, 10).unwrap();
    for _ in 0..2 {
        let (log, recovered) = open(&disk).unwrap();
        assert_eq!(recovered.hard_state, HardState::default());
        assert_eq!(
            (recovered.base, recovered.last),
            (meta.position, meta.position)
        );
        assert_eq!(recovered.snapshot.as_ref(), Some(&meta));
        assert_eq!(recovered.cluster_id, Some(CLUSTER));
        assert_eq!(log.last(), meta.position);
        disk.crash_losing_all_unsynced();
    }
}
