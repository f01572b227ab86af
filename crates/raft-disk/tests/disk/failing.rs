//! Disks that refuse: full, failing, read-only.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use raft_core::{HardState, Write};
use raft_disk::sim::{Fault, Operation};
use raft_disk::{
    Disk, DiskThread, IDLE_MARK, LogStore, OpenError, SimDisk, SubmitError, WriteError,
};

use crate::model::{Model, SEGMENT_BYTES, Script, files, nothing, open, options};

/// Grows a log on a disk with room for three segments until it is full; returns the group that did
/// not fit.
fn fill(disk: &SimDisk, script: &mut Script) -> (LogStore, Vec<Write>, Model) {
    disk.set_capacity(Some(3 * SEGMENT_BYTES));
    let (mut store, _) = open(disk).unwrap();
    loop {
        let known = script.model.clone();
        let group = script.group();
        match store.write(&group) {
            Ok(_) => {}
            Err(WriteError::Full(_)) => return (store, group, known),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_full_disk_is_an_answer() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let mut script = Script::new(seed);
        let (mut store, group, known) = fill(&disk, &mut script);
        let error = store.write(&group).unwrap_err();
        assert!(error.to_string().contains("the disk is full"), "{error}");
        assert!(matches!(error, WriteError::Full(_)));
        assert_eq!(store.last(), known.last());
        assert!(disk.used() <= 3 * SEGMENT_BYTES);

        // Nothing is lost by a restart now.
        let crashed = disk.fork();
        crashed.crash(seed);
        let (other, recovered) = open(&crashed).unwrap();
        assert_eq!(Model::of(&other, &recovered), known, "seed {seed}");

        // Somebody makes room.
        disk.set_capacity(None);
        store.write(&group).unwrap();
        store.write(&script.group()).unwrap();
        drop(store);
        disk.crash_losing_all_unsynced();
        let (store, recovered) = open(&disk).unwrap();
        assert_eq!(Model::of(&store, &recovered), script.model, "seed {seed}");
    }
}

/// A file system may have no room even for bytes of a file that is there already (copy on write).
/// Half a batch is left behind then, and the next one lies over it.
#[test]
fn no_room_inside_a_segment_is_an_answer_too() {
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let mut script = Script::new(seed);
        let (mut store, _) = open(&disk).unwrap();
        disk.inject(Fault {
            operation: Operation::Write,
            after: 2 + seed % 5,
            error: ErrorKind::StorageFull,
            written: (seed * 7 % 300) as usize,
        });
        let mut full = 0;
        for _ in 0..10 {
            let known = script.model.clone();
            let group = script.group();
            if let Err(error) = store.write(&group) {
                assert!(matches!(error, WriteError::Full(_)), "{error}");
                full += 1;
                let names = disk.list().unwrap();
                assert!(
                    names.iter().all(|name| !name.ends_with(".tmp")),
                    "{names:?}"
                );
                let crashed = disk.fork();
                crashed.crash(seed);
                let (other, recovered) = open(&crashed).unwrap();
                let found = Model::of(&other, &recovered);
                assert!(found == known || found == script.model, "seed {seed}");
                // The very same writes, or, after a restart, others: here a shorter one.
                store.write(&group[..1]).unwrap();
                if group.len() > 1 {
                    store.write(&group[1..]).unwrap();
                }
            }
        }
        assert_eq!(full, 1);
        drop(store);
        disk.crash(seed);
        let (store, recovered) = open(&disk).unwrap();
        assert_eq!(Model::of(&store, &recovered), script.model, "seed {seed}");
    }
}

/// Even when a truncation finds no room: its entries are gone for the core, so for readers, too.
#[test]
fn a_truncation_that_waits_for_room_is_in_force() {
    let disk = SimDisk::new(2);
    let mut script = Script::new(2);
    let (mut store, _) = open(&disk).unwrap();
    while script.model.entries.len() < 10 {
        store.write(&script.group()).unwrap();
    }
    let reader = store.reader();
    disk.inject(Fault {
        operation: Operation::Write,
        after: 0,
        error: ErrorKind::StorageFull,
        written: 20,
    });
    let mut write = script.write();
    let mut entry = script.entry(5);
    entry.term += 1;
    write.truncate_from = Some(5);
    write.entries = vec![entry.clone()];
    let writes = [write];
    assert!(matches!(store.write(&writes), Err(WriteError::Full(_))));
    assert_eq!(reader.read(1, 100, usize::MAX).unwrap().len(), 4);
    assert_eq!(store.write(&writes).unwrap().last, entry.position());
    assert_eq!(reader.read(5, 100, usize::MAX).unwrap(), [entry]);
}

/// D7: after a failed sync nothing is written, synced or reported any more.
#[test]
fn a_failed_sync_poisons_the_log() {
    for operation in [
        Operation::Write,
        Operation::Sync,
        Operation::Rename,
        Operation::SyncDir,
    ] {
        let disk = SimDisk::new(1);
        let mut script = Script::new(1);
        let (mut store, _) = open(&disk).unwrap();
        disk.inject(Fault {
            operation,
            after: 0,
            error: ErrorKind::TimedOut,
            written: 10,
        });
        let mut group = script.group();
        let first = loop {
            match store.write(&group) {
                Ok(_) => group = script.group(),
                Err(error) => break error,
            }
        };
        assert!(matches!(first, WriteError::Poisoned(_)), "{first}");
        assert!(first.to_string().contains("timed out"), "{first}");
        let counts = (disk.writes(), disk.syncs());
        let known = files(&disk);
        for _ in 0..3 {
            let again = store.write(&group).unwrap_err();
            assert_eq!(again.to_string(), first.to_string());
            let empty = store.write(&[]).unwrap_err();
            assert_eq!(empty.to_string(), first.to_string());
        }
        assert_eq!(counts, (disk.writes(), disk.syncs()));
        assert_eq!(known, files(&disk));
    }
}

#[test]
fn a_read_only_disk_is_named() {
    let disk = SimDisk::new(1);
    let (mut store, _) = open(&disk).unwrap();
    let mut script = Script::new(1);
    let group = script.group();
    disk.set_read_only(true);
    let sentence = store.write(&group).unwrap_err().to_string();
    assert!(sentence.contains("simulated:/log-"), "{sentence}");
    assert!(sentence.contains("read-only"), "{sentence}");

    disk.set_read_only(false);
    let (mut store, _) = open(&disk).unwrap();
    store.write(&group).unwrap();
    drop(store);
    disk.set_read_only(true);
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, OpenError::Disk(_)), "{error}");
    assert!(error.to_string().contains("simulated:/log-"), "{error}");
    assert!(error.to_string().contains("read-only"), "{error}");
}

#[test]
fn writes_that_do_not_fit_the_log_are_refused() {
    let disk = SimDisk::new(1);
    let (mut store, _) = open(&disk).unwrap();
    let mut script = Script::new(1);
    let mut entries = vec![script.entry(1), script.entry(2)];
    let good = Write {
        sequence: 1,
        entries: entries.clone(),
        ..nothing()
    };
    let refused = |store: &mut LogStore, write: Write| {
        let error = store.write(&[write]).unwrap_err();
        assert!(matches!(error, WriteError::Invalid(_)), "{error}");
    };
    entries.swap(0, 1);
    refused(
        &mut store,
        Write {
            entries,
            ..good.clone()
        },
    );
    refused(
        &mut store,
        Write {
            sequence: 2,
            ..good.clone()
        },
    );
    refused(
        &mut store,
        Write {
            truncate_from: Some(0),
            ..good.clone()
        },
    );
    refused(
        &mut store,
        Write {
            entries: vec![script.entry(2)],
            ..good.clone()
        },
    );
    assert!(disk.list().unwrap().is_empty());
    store.write(std::slice::from_ref(&good)).unwrap();
    refused(&mut store, good);
}

/// The thread reports a full disk once, tries again, and goes on where it stopped.
#[test]
fn the_thread_waits_for_room() {
    let disk = SimDisk::new(3);
    disk.set_capacity(Some(SEGMENT_BYTES));
    let (store, _) = open(&disk).unwrap();
    let (reports, reported) = channel();
    let thread = DiskThread::spawn(store, move |report| reports.send(report).unwrap()).unwrap();
    let mut script = Script::new(3);
    let mut sequence = 0;
    let mut submit = || {
        let write = script.write();
        sequence = write.sequence;
        thread.submit(write).unwrap();
    };
    loop {
        submit();
        match reported.recv_timeout(Duration::from_secs(20)).unwrap() {
            Ok(_) => {}
            Err(WriteError::Full(_)) => break,
            Err(other) => panic!("{other}"),
        }
    }
    submit();
    submit();
    disk.set_capacity(None);
    loop {
        let report = reported
            .recv_timeout(Duration::from_secs(20))
            .unwrap()
            .unwrap();
        if report.sequence == sequence {
            break;
        }
    }
    let store = thread.shutdown().unwrap();
    assert_eq!(store.last(), script.model.last());
}

/// On a disk that stays full, the end of the thread is not held up.
#[test]
fn a_full_disk_does_not_keep_the_thread_from_ending() {
    let disk = SimDisk::new(3);
    disk.set_capacity(Some(0));
    let (store, _) = open(&disk).unwrap();
    let (reports, reported) = channel();
    let thread = DiskThread::spawn(store, move |report| reports.send(report).unwrap()).unwrap();
    thread.submit(hard_state(1)).unwrap();
    assert!(matches!(reported.recv().unwrap(), Err(WriteError::Full(_))));
    thread.submit(hard_state(2)).unwrap();
    assert!(thread.shutdown().is_some());
    assert!(reported.recv().is_err(), "nothing else was reported");
}

/// A poisoned log ends the thread; whoever submits is told.
#[test]
fn a_failed_disk_ends_the_thread() {
    let disk = SimDisk::new(3);
    let (store, _) = open(&disk).unwrap();
    disk.inject(Fault {
        operation: Operation::Sync,
        after: 1,
        error: ErrorKind::Other,
        written: 0,
    });
    let (reports, reported) = channel();
    let thread = DiskThread::spawn(store, move |report| reports.send(report).unwrap()).unwrap();
    thread.submit(hard_state(1)).unwrap();
    assert_eq!(reported.recv().unwrap().unwrap().sequence, 1);
    thread.submit(hard_state(2)).unwrap();
    assert!(matches!(
        reported.recv().unwrap(),
        Err(WriteError::Poisoned(_))
    ));
    // The report's sender goes when the thread ends: then it is over for certain.
    assert!(reported.recv().is_err());
    assert!(
        matches!(thread.submit(hard_state(3)), Err(SubmitError::Stopped(w)) if w.sequence == 3)
    );
}

/// While the disk hangs, what waits is bounded, and the answer is immediate.
#[test]
fn the_queue_is_bounded() {
    let disk = SimDisk::new(3);
    let (store, _) = open(&disk).unwrap();
    let (enter, entered) = channel();
    let (leave, left) = channel::<()>();
    let thread = DiskThread::spawn(store, move |_| {
        enter.send(()).unwrap();
        let _ = left.recv();
    })
    .unwrap();
    thread.submit(hard_state(1)).unwrap();
    entered.recv().unwrap();
    // The first one is still being reported.
    let mut taken = 1;
    let refused = loop {
        match thread.submit(hard_state(taken + 1)) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, SubmitError::QueueFull(ref write) if write.sequence == taken + 1));
    assert_eq!(taken as usize, raft_disk::MAX_QUEUED_WRITES);
    drop(leave);
    assert!(thread.shutdown().is_some());
}

fn hard_state(sequence: u64) -> Write {
    let hard_state = HardState {
        current_term: sequence,
        ..HardState::default()
    };
    Write {
        sequence,
        hard_state: Some(hard_state),
        ..nothing()
    }
}

/// The next segment is laid out ahead by a thread; a disk that is then too full for it, or not, makes
/// no difference to what is stored.
#[test]
fn laying_out_ahead_changes_nothing_but_time() {
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let options = raft_disk::Options {
            lay_out_ahead: true,
            ..options()
        };
        let mut script = Script::new(seed).with_largest(6000);
        if seed % 2 == 0 {
            disk.inject(Fault {
                operation: Operation::Create,
                after: 0,
                error: ErrorKind::StorageFull,
                written: 0,
            });
        }
        let (mut store, _) = LogStore::open(Arc::new(disk.clone()), options).unwrap();
        for _ in 0..40 {
            let group = script.group();
            while let Err(error) = store.write(&group) {
                assert!(matches!(error, WriteError::Full(_)), "{error}");
            }
        }
        if seed % 4 < 2 {
            drop(store);
            let names = disk.list().unwrap();
            assert!(
                names.iter().all(|name| !name.ends_with(".tmp")),
                "{names:?}"
            );
        } else {
            // The power goes while the thread is at work.
            disk.crash(seed);
            drop(store);
        }
        let (store, recovered) = open(&disk).unwrap();
        assert_eq!(Model::of(&store, &recovered), script.model, "seed {seed}");
        let names = disk.list().unwrap();
        assert!(
            names.iter().all(|name| !name.ends_with(".tmp")),
            "{names:?}"
        );
    }
}

/// When there is nothing to do, and when it ends, the thread marks what it has stored: damage to the
/// last group is then no torn tail.
#[test]
fn the_thread_marks_the_last_group() {
    for idle in [false, true] {
        let disk = SimDisk::new(3);
        let (store, _) = open(&disk).unwrap();
        let (reports, reported) = channel();
        let thread = DiskThread::spawn(store, move |report| reports.send(report).unwrap()).unwrap();
        for sequence in 1..=3 {
            thread.submit(hard_state(sequence)).unwrap();
            reported.recv().unwrap().unwrap();
        }
        let mut store = None;
        if idle {
            let deadline = Instant::now() + 20 * IDLE_MARK;
            while disk.writes() < 4 && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
        } else {
            store = thread.shutdown();
            assert!(store.is_some());
        }
        assert!(disk.writes() > 3, "three groups, and no mark");
        assert_eq!(disk.syncs(), 3, "a mark waits for nothing");
        let name = disk.list().unwrap().remove(0);
        let bytes = disk.contents(&name).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64;
        let damaged = disk.fork();
        damaged.flip(&name, end - 110, 0);
        // It says what the damaged group had promised.
        let (_, recovered) = open(&damaged).unwrap();
        assert_eq!(recovered.hard_state.current_term, 3);
        drop(store);
    }
}
