//! The power goes, the process dies, the disk fails: at any operation, by seed, again and again.

use std::io::ErrorKind;

use raft_disk::sim::{Fault, Operation};
use raft_disk::{SimDisk, WriteError};

use crate::model::{Dice, Model, Script, open};

const OPERATIONS: [Operation; 5] = [
    Operation::Create,
    Operation::Write,
    Operation::Sync,
    Operation::Rename,
    Operation::SyncDir,
];

/// Four lives of one log. Each ends with an operation that fails, half done, and a power cut or the
/// end of the process. What the next life finds is what was reported, plus perhaps the group that
/// was under way.
#[test]
fn nothing_reported_is_lost_and_nothing_else_is_invented() {
    let mut tail_kept = 0;
    let mut tail_lost = 0;
    for seed in 0..4000 {
        let disk = SimDisk::new(seed);
        let mut dice = Dice(seed ^ 0xC0FFEE);
        let mut script = Script::new(seed).with_largest(if seed % 3 == 0 { 9000 } else { 300 });
        let mut known = Model::default();
        for life in 0..4 {
            let (mut store, recovered) = open(&disk).unwrap_or_else(|error| {
                panic!("seed {seed}, life {life}: {error}");
            });
            let found = Model::of(&store, &recovered);
            if found == known {
                tail_lost += 1;
            } else {
                assert_eq!(found, script.model, "seed {seed}, life {life}");
                tail_kept += 1;
            }
            known = found.clone();
            script.restart(found);
            disk.inject(Fault {
                operation: OPERATIONS[dice.below(5) as usize],
                after: dice.below(12),
                error: ErrorKind::Other,
                written: dice.below(400) as usize,
            });
            for _ in 0..12 {
                if dice.below(3) == 0 {
                    store.mark();
                }
                match store.write(&script.group()) {
                    Ok(report) => {
                        assert_eq!(report.sequence, script.sequence);
                        assert_eq!(report.last, script.model.last());
                        known = script.model.clone();
                    }
                    Err(WriteError::Poisoned(_)) => break,
                    Err(other) => panic!("seed {seed}: {other}"),
                }
            }
            drop(store);
            disk.clear_faults();
            if dice.below(4) == 0 {
                disk.kill()
            } else {
                disk.crash(dice.roll())
            }
        }
    }
    assert!(
        tail_kept > 300 && tail_lost > 300,
        "{tail_kept} kept, {tail_lost} lost"
    );
}

/// The opening itself is cut short, at any of its operations, and begun again.
#[test]
fn an_opening_that_is_cut_short_harms_nothing() {
    for seed in 0..500 {
        let disk = SimDisk::new(seed);
        let mut dice = Dice(seed);
        let mut script = Script::new(seed);
        let (mut store, _) = open(&disk).unwrap();
        let mut known = Model::default();
        disk.inject(Fault {
            operation: Operation::Write,
            after: 3 + dice.below(8),
            error: ErrorKind::Other,
            written: dice.below(600) as usize,
        });
        while store.write(&script.group()).is_ok() {
            known = script.model.clone();
        }
        drop(store);
        disk.crash(dice.roll());
        for operation in [Operation::Write, Operation::Sync, Operation::SyncDir] {
            disk.inject(Fault {
                operation,
                after: 0,
                error: ErrorKind::Other,
                written: 100,
            });
            let _ = open(&disk);
            disk.clear_faults();
            disk.crash(dice.roll());
        }
        let (store, recovered) = open(&disk).unwrap();
        let found = Model::of(&store, &recovered);
        assert!(found == known || found == script.model, "seed {seed}");
    }
}

/// D7: a sync fails, the process ends, the machine lives. The next process sees the bytes in the
/// page cache, clean. What it then takes for durable must be so.
#[test]
fn what_an_opening_finds_is_durable_even_after_a_failed_sync() {
    let mut found_new = 0;
    for seed in 0..300 {
        let disk = SimDisk::new(seed);
        let mut script = Script::new(seed);
        let (mut store, _) = open(&disk).unwrap();
        disk.inject(Fault {
            operation: Operation::Sync,
            after: 2 + seed % 7,
            error: ErrorKind::Other,
            written: 0,
        });
        let mut known = Model::default();
        while store.write(&script.group()).is_ok() {
            known = script.model.clone();
        }
        drop(store);
        disk.kill();
        let (store, recovered) = open(&disk).unwrap();
        let found = Model::of(&store, &recovered);
        assert!(found == known || found == script.model, "seed {seed}");
        found_new += u32::from(found != known);
        drop(store);
        disk.crash_losing_all_unsynced();
        let (store, recovered) = open(&disk).unwrap();
        assert_eq!(Model::of(&store, &recovered), found, "seed {seed}");
    }
    assert!(
        found_new > 30,
        "the interesting case came {found_new} times"
    );
}
