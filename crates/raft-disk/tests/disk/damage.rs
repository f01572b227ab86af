//! Bytes that change after they were stored.

use raft_disk::{Disk, OpenError, SimDisk};

use crate::model::{Model, Script, files, last_segment, nothing, open};

struct Built {
    disk: SimDisk,
    script: Script,
    /// The log after each group; the last two differ in the last group.
    states: Vec<Model>,
    /// Where the last group lies in the last segment.
    last_group: std::ops::Range<usize>,
}

/// A log of at least three segments whose last has at least three groups.
fn build(seed: u64) -> Built {
    let disk = SimDisk::new(seed);
    let mut script = Script::new(seed);
    let (mut store, _) = open(&disk).unwrap();
    let mut states = vec![Model::default()];
    let mut in_segment = 0;
    let mut before = files(&disk);
    loop {
        let segments = before.len();
        let old = before
            .last_key_value()
            .map(|(_, bytes)| bytes.clone())
            .unwrap_or_default();
        store.write(&script.group()).unwrap();
        let after = files(&disk);
        in_segment = if after.len() > segments {
            1
        } else {
            in_segment + 1
        };
        let Some(new) = after.get(&last_segment(&disk)) else {
            continue;
        };
        let first = old.iter().zip(new).position(|(a, b)| a != b);
        if states.last() != Some(&script.model) {
            states.push(script.model.clone());
        }
        if let Some(first) = first
            && after.len() >= 3
            && in_segment >= 3
            && states[states.len() - 2] != script.model
            && states.len() > 8
        {
            let end = new.iter().rposition(|byte| *byte != 0).unwrap() + 8;
            return Built {
                disk,
                script,
                states,
                last_group: first..end,
            };
        }
        before = after;
    }
}

/// D3: one bit, anywhere. It is noticed, or it changes nothing, or it lies in the very last group
/// and that group is gone, as if the power had been cut.
#[test]
fn a_flipped_bit_is_noticed_except_in_the_last_group() {
    let (mut refused, mut dropped, mut harmless) = (0, 0, 0);
    for seed in 0..4 {
        let built = build(seed);
        let last = last_segment(&built.disk);
        let without_last = &built.states[built.states.len() - 2];
        for (name, bytes) in files(&built.disk) {
            for offset in 0..bytes.len() {
                let bits = if offset % 16 == 0 { 0..8 } else { 3..4 };
                for bit in bits {
                    let disk = built.disk.fork();
                    disk.flip(&name, offset as u64, bit);
                    match open(&disk) {
                        Ok((store, recovered)) => {
                            let found = Model::of(&store, &recovered);
                            if found == built.script.model {
                                harmless += 1;
                            } else {
                                assert_eq!(name, last, "seed {seed}, offset {offset}");
                                assert!(built.last_group.contains(&offset), "offset {offset}");
                                assert_eq!(&found, without_last, "seed {seed}, offset {offset}");
                                dropped += 1;
                            }
                        }
                        Err(OpenError::Damaged { path, intact, .. }) => {
                            assert!(path.ends_with(&name), "{path} for {name}, {offset}");
                            assert!(intact.index <= built.script.model.last().index + 3);
                            refused += 1;
                        }
                        Err(OpenError::Unknown { path, .. }) => {
                            assert!(path.ends_with(&name), "{path}");
                            refused += 1;
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            }
        }
    }
    assert!(
        refused > 10_000 && dropped > 100 && harmless > 100,
        "{refused} {dropped} {harmless}"
    );
}

/// A segment has its name only when its first batch is durable: damage to that is never a torn tail.
#[test]
fn the_first_batch_of_a_segment_is_never_taken_for_a_torn_tail() {
    let disk = SimDisk::new(8);
    let mut script = Script::new(8);
    let (mut store, _) = open(&disk).unwrap();
    while files(&disk).len() < 3 {
        store.write(&script.group()).unwrap();
    }
    let name = last_segment(&disk);
    let bytes = disk.contents(&name).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    for offset in 0..=end {
        let disk = disk.fork();
        disk.flip(&name, offset as u64, 2);
        let error = open(&disk).unwrap_err();
        assert!(!matches!(error, OpenError::Disk(_)), "{offset}: {error}");
    }
}

/// After a mark, which costs no sync, the last group is as safe from being taken for a torn tail as
/// all others.
#[test]
fn a_marked_group_is_never_taken_for_a_torn_tail() {
    let built = build(6);
    let (mut store, _) = open(&built.disk).unwrap();
    store.mark();
    let length = built.disk.contents(&last_segment(&built.disk)).unwrap();
    store.mark();
    let name = last_segment(&built.disk);
    assert_eq!(
        built.disk.contents(&name).unwrap(),
        length,
        "one mark is enough"
    );
    for offset in built.last_group.start..built.last_group.end + 64 {
        let disk = built.disk.fork();
        disk.flip(&name, offset as u64, 5);
        match open(&disk) {
            Err(error) => {
                assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
                assert!(offset < built.last_group.end + 8, "{offset}");
            }
            Ok((store, recovered)) => {
                assert!(offset >= built.last_group.end - 8, "{offset}");
                assert_eq!(Model::of(&store, &recovered), built.script.model);
            }
        }
    }
}

/// A whole sector that was never written, or was written elsewhere.
#[test]
fn a_lost_sector_is_noticed_except_in_the_last_group() {
    let (mut opened, mut refused) = (0, 0);
    for seed in 10..30 {
        let built = build(seed);
        let last = last_segment(&built.disk);
        for (name, bytes) in files(&built.disk) {
            for (number, sector) in bytes.chunks(512).enumerate() {
                if sector.iter().all(|byte| *byte == 0) {
                    continue;
                }
                let mut damaged = bytes.clone();
                damaged[number * 512..][..sector.len()].fill(0);
                let disk = built.disk.fork();
                disk.put(&name, &damaged);
                if let Ok((store, recovered)) = open(&disk) {
                    let found = Model::of(&store, &recovered);
                    if found.entries == built.script.model.entries {
                        // What it held was not needed, or is said again behind it.
                        let term = built.script.model.hard_state.current_term;
                        assert_eq!(found.hard_state.current_term, term);
                        continue;
                    }
                    assert_eq!(name, last, "seed {seed}, sector {number}");
                    let sector = number * 512..number * 512 + 512;
                    // With the beginning of the last group its word for the end of the one before
                    // is lost, too.
                    assert!(
                        sector.end > built.last_group.start,
                        "seed {seed}, sector {number}"
                    );
                    assert!(
                        built.states.contains(&found),
                        "seed {seed}, sector {number}"
                    );
                    if sector.start >= built.last_group.start {
                        assert_eq!(found, built.states[built.states.len() - 2]);
                    }
                    opened += 1;
                } else {
                    refused += 1;
                }
            }
        }
    }
    assert!(opened > 10 && refused > 100, "{opened} {refused}");
}

/// The error says where, and how far the log is intact (D6); and looking at it changes nothing.
#[test]
fn damage_is_named_and_left_as_it_is() {
    let built = build(1);
    let first = built.disk.list().unwrap().remove(0);
    let disk = built.disk.fork();
    disk.flip(&first, 300, 2);
    let before = files(&disk);
    let error = open(&disk).unwrap_err();
    let sentence = error.to_string();
    let OpenError::Damaged {
        path,
        offset,
        intact,
        ..
    } = error
    else {
        panic!("{sentence}")
    };
    assert_eq!(path, format!("simulated:/{first}"));
    assert!(offset <= 300 && offset > 0);
    assert!(
        sentence.contains(&path) && sentence.contains(&offset.to_string()),
        "{sentence}"
    );
    let intact = intact.index as usize;
    let prefix = built
        .states
        .iter()
        .any(|state| state.last().index as usize == intact);
    assert!(prefix, "intact up to {intact}");
    assert_eq!(files(&disk), before);
}

/// A segment is missing, exchanged for another, or there twice.
#[test]
fn segments_must_be_complete_and_in_place() {
    let built = build(2);
    let files = files(&built.disk);
    let names: Vec<&String> = files.keys().collect();
    for missing in &names[..names.len() - 1] {
        let disk = SimDisk::new(0);
        files
            .iter()
            .filter(|(name, _)| name != missing)
            .for_each(|(n, bytes)| disk.put(n, bytes));
        let error = open(&disk).unwrap_err();
        // Without its beginning it looks like one that was compacted, and lacks the snapshot.
        if *missing == names[0] {
            assert!(
                matches!(error, OpenError::WithoutSnapshot { .. }),
                "{error}"
            );
            assert!(error.to_string().contains(names[1].as_str()), "{error}");
            continue;
        }
        assert!(matches!(error, OpenError::Missing { .. }), "{error}");
        assert!(error.to_string().contains(missing.as_str()), "{error}");
    }
    for (a, b) in [(0, 1), (1, 2), (0, 2)] {
        let disk = built.disk.fork();
        disk.put(names[a], &files[names[b]]);
        assert!(matches!(open(&disk), Err(OpenError::Damaged { .. })));
    }
    // The same segment of another log: the same number, length and content, and another life.
    let other = SimDisk::new(99);
    let mut script = Script::new(2);
    let (mut store, _) = open(&other).unwrap();
    while other.list().unwrap().len() < 2 {
        store.write(&script.group()).unwrap();
    }
    let disk = built.disk.fork();
    disk.put(names[0], &other.contents(names[0]).unwrap());
    let error = open(&disk).unwrap_err();
    assert!(
        error.to_string().contains("continues another end"),
        "{error}"
    );
}

/// Blocks that held another segment before, and hold it still behind the end of this one: the old
/// batches are intact, they lie at offsets where batches lie, and they are not ours.
#[test]
fn old_records_in_a_reused_segment_do_not_count() {
    for seed in 0..50 {
        let build = |disk_seed, groups| {
            let disk = SimDisk::new(disk_seed);
            // The same writes: the same offsets, the same indices.
            let mut script = Script::new(seed);
            let (mut store, _) = open(&disk).unwrap();
            while files(&disk).len() < 2 && script.sequence < groups {
                store.write(&[script.write()]).unwrap();
            }
            (disk, script)
        };
        let (old, _) = build(1, u64::MAX);
        let (disk, mut script) = build(2, 6);
        let name = disk.list().unwrap().remove(0);
        let mut bytes = disk.contents(&name).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let end = end.next_multiple_of(8);
        bytes[end..].copy_from_slice(&old.contents(&name).unwrap()[end..]);
        disk.put(&name, &bytes);
        let (mut store, recovered) = open(&disk).unwrap();
        let found = Model::of(&store, &recovered);
        assert_eq!(found, script.model, "seed {seed}");
        script.restart(found);
        store.write(&script.group()).unwrap();
        disk.crash_losing_all_unsynced();
        let (store, recovered) = open(&disk).unwrap();
        assert_eq!(Model::of(&store, &recovered), script.model, "seed {seed}");
    }
}

/// Somebody stores a piece of the log in the log. Torn, it is still no reason to believe that
/// something was promised there.
#[test]
fn an_entry_that_looks_like_a_batch_is_none() {
    use raft_core::{Command, Entry, Payload, Write};
    let disk = SimDisk::new(5);
    let (mut store, _) = open(&disk).unwrap();
    let command = |index, bytes: Vec<u8>| Entry {
        index,
        term: 1,
        log_time_ms: 0,
        payload: Payload::Command(Command {
            session: 0,
            sequence: 0,
            acked_below: 0,
            bytes: bytes.into(),
        }),
    };
    let write = |sequence, entries| Write {
        sequence,
        entries,
        ..nothing()
    };
    for n in 1..=4 {
        store
            .write(&[write(n, vec![command(n, vec![n as u8; 100])])])
            .unwrap();
    }
    let name = last_segment(&disk);
    let before = disk.contents(&name).unwrap();
    for shift in 0..8 {
        let disk = disk.fork();
        let (mut store, _) = open(&disk).unwrap();
        let mut copy = vec![0; shift];
        copy.extend_from_slice(&before[..900]);
        store.write(&[write(1, vec![command(5, copy)])]).unwrap();
        let mut torn = disk.contents(&name).unwrap();
        let start = before.iter().zip(&torn).position(|(a, b)| a != b).unwrap();
        torn[start + 20] ^= 1;
        disk.put(&name, &torn);
        let (store, recovered) = open(&disk).unwrap();
        assert_eq!(Model::of(&store, &recovered).last().index, 4);
    }
}

/// The header of the batch that begins at `offset`, changed and sound again.
fn forge(bytes: &mut [u8], offset: usize, change: impl FnOnce(&mut [u8])) {
    let header = &mut bytes[offset..offset + 96];
    change(header);
    let checksum = crc32c::crc32c(&header[..92]);
    header[92..].copy_from_slice(&checksum.to_be_bytes());
}

fn field(header: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(header[at..at + 8].try_into().unwrap())
}

const GENERATION: usize = 8;
const OFFSET: usize = 16;
const SYNCED: usize = 24;

/// Sound in itself, but of another generation, or written for another offset, or the successor of
/// another batch: no part of this log.
#[test]
fn a_sound_batch_in_the_wrong_place_is_none() {
    let built = build(3);
    let name = last_segment(&built.disk);
    let bytes = built.disk.contents(&name).unwrap();
    for (at, value) in [
        (GENERATION, 99),
        (OFFSET, 8),
        (SYNCED, u64::MAX),
        (32, 7 << 32),
    ] {
        let mut forged = bytes.clone();
        forge(&mut forged, built.last_group.start, |header| {
            // The last of these is the checksum of the batch before, and half as long.
            let length = if at == 32 { 4 } else { 8 };
            header[at..at + length].copy_from_slice(&u64::to_be_bytes(value)[..length]);
        });
        let disk = built.disk.fork();
        disk.put(&name, &forged);
        let (store, recovered) = open(&disk).unwrap();
        let found = Model::of(&store, &recovered);
        assert_eq!(found, built.states[built.states.len() - 2], "field at {at}");
    }
}

/// Behind a torn batch, only a header of this very generation and place is a witness.
#[test]
fn only_a_header_in_its_own_place_is_a_witness() {
    let built = build(4);
    let name = last_segment(&built.disk);
    let bytes = built.disk.contents(&name).unwrap();
    let start = built.last_group.start;
    let place = bytes.len() - 512;
    for (generation, offset, witness) in [(0, 0, true), (1, 0, false), (0, 8, false)] {
        let mut torn = bytes.clone();
        torn.copy_within(start..start + 96, place);
        forge(&mut torn, place, |header| {
            let generation = field(header, GENERATION) + generation;
            header[GENERATION..][..8].copy_from_slice(&generation.to_be_bytes());
            header[OFFSET..][..8].copy_from_slice(&(place as u64 + offset).to_be_bytes());
            header[SYNCED..][..8].copy_from_slice(&(start as u64 + 1).to_be_bytes());
        });
        torn[start + 100] ^= 1;
        let disk = built.disk.fork();
        disk.put(&name, &torn);
        assert_eq!(open(&disk).is_err(), witness, "{generation} {offset}");
    }
}

/// A mark is lost and the batch behind it is not, which no sync forbids. The batch is dropped, and
/// a new mark in the old place does not bring it back.
#[test]
fn what_was_dropped_stays_dropped() {
    let built = build(5);
    let (mut store, recovered) = open(&built.disk).unwrap();
    let before = Model::of(&store, &recovered);
    let mut script = built.script.clone();
    script.restart(before.clone());
    store.mark();
    let name = last_segment(&built.disk);
    while store.last() == before.last() {
        store.write(&script.group()).unwrap();
    }
    assert_eq!(last_segment(&built.disk), name, "another seed is needed");
    let mut bytes = built.disk.contents(&name).unwrap();
    let mark = built.last_group.end.next_multiple_of(8);
    let mark = (mark - 16..mark + 16)
        .step_by(8)
        .find(|at| bytes[*at] == 0xB7)
        .unwrap();
    bytes[mark..mark + 96].fill(0);
    built.disk.put(&name, &bytes);
    for _ in 0..3 {
        let (mut store, recovered) = open(&built.disk).unwrap();
        assert_eq!(Model::of(&store, &recovered), before);
        store.mark();
    }
}
