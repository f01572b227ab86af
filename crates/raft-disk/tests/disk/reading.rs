//! Reading while writing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use raft_core::{Command, Entry, Index, Payload, Term, Write};
use raft_disk::{LogStore, Options, ReadError, SimDisk};

use crate::model::{Dice, Script, files, last_segment, nothing, open};

/// Any range and any limit, after every group: what is read is the log.
#[test]
fn any_range_reads_as_the_log() {
    for seed in 0..60 {
        let disk = SimDisk::new(seed);
        let mut dice = Dice(seed);
        let mut script = Script::new(seed).with_largest(if seed % 4 == 0 { 70_000 } else { 200 });
        let (mut store, _) = open(&disk).unwrap();
        let reader = store.reader();
        for _ in 0..40 {
            store.write(&script.group()).unwrap();
            let entries = &script.model.entries;
            assert_eq!(reader.last(), entries.len() as Index);
            for _ in 0..4 {
                let from = dice.below(entries.len() as u64 + 3);
                let to = from + dice.below(20);
                let limit = dice.below(1000) as usize;
                let found = reader.read(from, to, limit).unwrap();
                let mut cost = 0;
                let expected: Vec<Entry> = entries
                    .iter()
                    .filter(|entry| (from.max(1)..=to).contains(&entry.index) && from > 0)
                    .enumerate()
                    .take_while(|(place, entry)| {
                        cost += entry.cost_bytes();
                        *place == 0 || cost <= limit
                    })
                    .map(|(_, entry)| entry.clone())
                    .collect();
                assert_eq!(found, expected, "seed {seed}, {from}..={to}, {limit} bytes");
            }
        }
    }
}

#[test]
fn a_damaged_entry_is_an_error_and_its_neighbours_are_not_harmed() {
    let disk = SimDisk::new(1);
    let mut script = Script::new(1);
    let (mut store, _) = open(&disk).unwrap();
    for _ in 0..60 {
        store.write(&script.group()).unwrap();
    }
    let first = files(&disk).into_keys().next().unwrap();
    disk.flip(&first, 400, 1);
    let reader = store.reader();
    let error = reader.read(1, Index::MAX, usize::MAX).unwrap_err();
    assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains(&first), "{error}");
    let last = store.last().index;
    assert_eq!(
        reader.read(last, last, 0).unwrap(),
        script.model.entries[last as usize - 1..]
    );
    assert_ne!(last_segment(&disk), first);
    store.write(&script.group()).unwrap();
}

/// A writer that appends and truncates, a reader on another thread. For each index, terms only
/// grow: a reader that knows of a truncation never sees what was before it.
#[test]
fn truncated_entries_are_never_read() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(raft_disk::RealDisk::open(directory.path()).unwrap());
    let options = Options {
        segment_bytes: 1 << 16,
        ..Options::default()
    };
    let (mut store, _) = LogStore::open(disk, options).unwrap();
    let reader = store.reader();
    // Entries above this index have this term or a later one.
    let known = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
    let done = Arc::new(AtomicBool::new(false));
    let read = {
        let (known, done) = (known.clone(), done.clone());
        move || {
            let mut dice = Dice(9);
            let mut seen = 0;
            while !done.load(Ordering::SeqCst) || seen == 0 {
                let term = known.1.load(Ordering::SeqCst);
                let above = known.0.load(Ordering::SeqCst);
                let from = 1 + dice.below(300);
                let entries = reader.read(from, from + 100, usize::MAX).unwrap();
                // The writer may have moved on between the two loads: then this round says nothing.
                if known.1.load(Ordering::SeqCst) != term {
                    continue;
                }
                for (index, entry) in (from..).zip(&entries) {
                    assert_eq!(entry.index, index);
                    assert!(
                        index <= above || entry.term >= term,
                        "{entry:?}, {above}, {term}"
                    );
                    seen += 1;
                }
                for pair in entries.windows(2) {
                    assert!(pair[0].term <= pair[1].term);
                }
            }
            seen
        }
    };
    let reading = std::thread::spawn(read);
    let mut dice = Dice(4);
    let mut last = 0;
    for term in 1..=300 as Term {
        let from = 1 + dice.below(last + 1).max(last.saturating_sub(60));
        let entries = (from..from + 50).map(|index| entry(index, term)).collect();
        let write = Write {
            sequence: term,
            truncate_from: Some(from),
            entries,
            ..nothing()
        };
        last = store.write(&[write]).unwrap().last.index;
        known.0.store(from - 1, Ordering::SeqCst);
        known.1.store(term, Ordering::SeqCst);
    }
    done.store(true, Ordering::SeqCst);
    assert!(reading.join().unwrap() > 0);
}

fn entry(index: Index, term: Term) -> Entry {
    let bytes = vec![index as u8; 40].into();
    let command = Command {
        session: 0,
        sequence: 0,
        acked_below: 0,
        bytes,
    };
    Entry {
        index,
        term,
        log_time_ms: 0,
        payload: Payload::Command(command),
    }
}
