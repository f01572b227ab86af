//! What is left of promises behind damage in a log, and how the log goes on (D6).

use std::sync::Arc;

use raft_core::repair::Known;
use raft_core::{Entry, HardState, NodeId, Payload, Position, Write};
use raft_disk::sim::{Fault, Operation};
use raft_disk::{Disk, OpenError, RepairError, SimDisk, Wound};

use crate::model::{Model, files, last_segment, nothing, open};

fn entry(index: u64, term: u64) -> Entry {
    Entry {
        index,
        term,
        log_time_ms: 0,
        payload: Payload::Noop,
    }
}

fn vote(term: u64, voted_for: u128) -> HardState {
    HardState {
        current_term: term,
        voted_for: Some(NodeId(voted_for)),
        ..HardState::default()
    }
}

/// A log of these groups, and where each begins in the only segment.
fn log_of(groups: &[Write]) -> (SimDisk, Vec<u64>) {
    let disk = SimDisk::new(3);
    let (mut store, _) = open(&disk).unwrap();
    let mut starts = Vec::new();
    let mut before: Vec<u8> = Vec::new();
    for (sequence, group) in (1..).zip(groups) {
        let write = Write {
            sequence,
            ..group.clone()
        };
        store.write(&[write]).unwrap();
        let after = disk.contents(&last_segment(&disk)).unwrap();
        let start = match before.is_empty() {
            // Behind the head of the segment.
            true => u64::from(u32::from_be_bytes(after[12..16].try_into().unwrap())),
            false => before.iter().zip(&after).position(|(a, b)| a != b).unwrap() as u64,
        };
        starts.push(start);
        before = after;
    }
    (disk, starts)
}

fn put(index: u64, term: u64) -> Write {
    Write {
        entries: vec![entry(index, term)],
        ..nothing()
    }
}

fn wound(disk: &SimDisk) -> Wound {
    match open(disk) {
        Err(OpenError::Damaged {
            wound: Some(wound), ..
        }) => *wound,
        other => panic!("{other:?}"),
    }
}

/// A group with a vote in it, and no entry, is damaged: what comes behind it says for whom it was, and
/// nothing is asked of anybody.
#[test]
fn a_vote_outlives_the_damage_to_its_record() {
    let voted = Write {
        hard_state: Some(vote(7, 9)),
        ..nothing()
    };
    let (disk, starts) = log_of(&[put(1, 1), voted, put(2, 1), put(3, 1)]);
    disk.flip(&last_segment(&disk), starts[1] + 100, 3);
    let (store, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.hard_state, vote(7, 9));
    assert_eq!(Model::of(&store, &recovered).entries.len(), 3);
}

/// The same when an entry is lost with it: the vote is there when the entry is.
#[test]
fn a_vote_outlives_the_repair() {
    let voted = Write {
        hard_state: Some(vote(7, 9)),
        ..put(2, 7)
    };
    let (disk, starts) = log_of(&[put(1, 1), voted, put(3, 7), put(4, 7)]);
    disk.flip(&last_segment(&disk), starts[1] + 100, 3);
    let wound = wound(&disk);
    let lost = wound.lost();
    assert_eq!(
        (lost.last, lost.anchor),
        (2, Position { index: 2, term: 7 })
    );
    let known = Known {
        base: Position::ZERO,
        terms: vec![(1, 1)],
        last: 1,
    };
    assert_eq!(lost.known, known);
    let joint = Position { index: 1, term: 1 };
    for wrong in [vec![], vec![entry(3, 7)], vec![entry(2, 7), entry(3, 7)]] {
        let refused = wound.mend(&disk, joint, &wrong);
        assert!(matches!(refused, Err(RepairError::Invalid(_))));
    }
    wound.mend(&disk, joint, &[entry(2, 7)]).unwrap();
    disk.crash_losing_all_unsynced();
    let (store, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.hard_state, vote(7, 9));
    let found = Model::of(&store, &recovered).entries;
    assert_eq!(found, [entry(1, 1), entry(2, 7), entry(3, 7), entry(4, 7)]);
}

/// The mark behind the damage alone still knows of the vote, and is in memory when the repair begins:
/// since its sync failed (D7), or was never called for. The power goes behind the repair, or in the middle
/// of it, and there is no mended batch without the vote.
#[test]
fn a_vote_outlives_a_power_cut_during_the_repair() {
    let voted = Write {
        hard_state: Some(vote(7, 9)),
        ..put(2, 7)
    };
    let joint = Position { index: 1, term: 1 };
    let broken = |operation, after| Fault {
        operation,
        after,
        error: std::io::ErrorKind::TimedOut,
        written: 500,
    };
    let damaged = |sync_fails: bool| {
        let (disk, starts) = log_of(&[put(1, 1), voted.clone()]);
        let name = last_segment(&disk);
        let (mut store, _) = open(&disk).unwrap();
        store.mark();
        drop(store);
        if sync_fails {
            disk.inject(broken(Operation::Sync, 0));
            disk.open(&name).unwrap().sync().unwrap_err();
        }
        disk.kill();
        disk.flip(&name, starts[1] + 100, 3);
        disk
    };
    let is_whole = |disk: &SimDisk, what: &str| match open(disk) {
        Ok((store, recovered)) if store.last().index == 2 => {
            assert_eq!(recovered.hard_state, vote(7, 9), "{what}");
            true
        }
        // Damage to the very last batch cannot be told from a torn tail.
        _ => false,
    };
    let disk = damaged(true);
    wound(&disk).mend(&disk, joint, &[entry(2, 7)]).unwrap();
    disk.crash_losing_all_unsynced();
    assert!(is_whole(&disk, "afterwards"));
    let mut whole = 0;
    for (writes, seed) in (0..3).flat_map(|writes| (0..100).map(move |seed| (writes, seed))) {
        let disk = damaged(false);
        let wound = wound(&disk);
        disk.inject(broken(Operation::Write, writes));
        let _ = wound.mend(&disk, joint, &[entry(2, 7)]);
        disk.clear_faults();
        disk.crash(seed);
        whole += u32::from(is_whole(&disk, &format!("write {writes}, seed {seed}")));
    }
    assert!(whole > 0);
}

/// What was lost was never committed: the log is truncated before it, and goes on with what was, at
/// once. The power goes at every byte of it.
#[test]
fn what_was_never_committed_gives_way() {
    let groups: Vec<_> = (1..=6).map(|index| put(index, 1)).collect();
    let (disk, starts) = log_of(&groups);
    let name = last_segment(&disk);
    disk.flip(&name, starts[3] + 30, 3);
    let wound = wound(&disk);
    let joint = Position { index: 3, term: 1 };
    let instead = vec![entry(4, 2), entry(5, 2)];
    let before = files(&disk).remove(&name).unwrap();
    let shared: Arc<SimDisk> = Arc::new(disk.clone());
    wound.give_up(shared, joint, instead.clone()).unwrap();
    disk.crash_losing_all_unsynced();
    let whole = |disk: &SimDisk| {
        let (store, recovered) = open(disk).unwrap();
        let found = Model::of(&store, &recovered).entries;
        let first = (1..=3).map(|index| entry(index, 1));
        assert_eq!(found, first.chain(instead.clone()).collect::<Vec<_>>());
    };
    whole(&disk);
    let after = files(&disk).remove(&name).unwrap();
    let end = after.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let start = before.iter().zip(&after).position(|(a, b)| a != b).unwrap();
    for cut in start..end {
        let torn = disk.fork();
        let mut bytes = after.clone();
        bytes[cut..].fill(0);
        torn.put(&name, &bytes);
        assert_eq!(self::wound(&torn).lost(), wound.lost(), "cut at {cut}");
    }
    // It went on before the damage only: elsewhere it does not fit.
    let elsewhere = Position { index: 3, term: 9 };
    let refused = wound.give_up(Arc::new(disk.clone()), elsewhere, vec![entry(4, 9)]);
    assert!(matches!(refused, Err(RepairError::Invalid(_))));
}
