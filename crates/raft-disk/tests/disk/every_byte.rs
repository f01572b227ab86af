//! Whole logs with everything that belongs to one, changed at every byte of every file: cut off there,
//! empty from there on, or with a bit that flipped.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use raft_core::repair::{Answer, Question, Repair, Step};
use raft_core::{Entry, Index, Position, Write};
use raft_disk::{LogStore, MIN_SEGMENT_BYTES, OpenError, Options, SimDisk, SnapshotError, Wound};

use crate::compaction::{compact_to, install, meta, script, segments, take_at};
use crate::lives::{application, elsewhere, snapshots};
use crate::model::{Dice, Model, Script, files, last_segment, options};
use crate::snapshots::receive;

/// What a log has gone through before it is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Past {
    /// Groups with entries, truncations and hard states, in several segments.
    Plain,
    /// Its beginning was given up for a snapshot.
    Compacted,
    /// The crash came before the segments were removed that the snapshot covers.
    LeftOver,
    /// It gave way to a snapshot from elsewhere, and went on.
    Reset,
    /// The crash came before the segments were removed that the reset had dropped.
    ResetLeftOver,
}

/// A log as its disk holds it.
struct Built {
    disk: SimDisk,
    script: Script,
    /// Where each group ends, and the log up to there; of segments that are still there.
    groups: Vec<(String, usize, Model)>,
    /// A snapshot covers entries up to here.
    covered: Index,
}

/// Where the batches of a segment lie.
fn batches(segment: &[u8]) -> Vec<Range<usize>> {
    let number = |at: usize| u32::from_be_bytes(segment[at..at + 4].try_into().unwrap()) as usize;
    let mut at = number(12);
    let mut found = Vec::new();
    while segment.get(at..at + 4) == Some(&[0xB7, b'b', b'a', b't']) {
        let end = at + HEADER + number(at + 4);
        found.push(at..end);
        at = end;
    }
    found
}

/// Length of a batch's header.
const HEADER: usize = 96;

impl Built {
    /// Each `segment_bytes` large, and several of them.
    fn new(past: Past, seed: u64, segment_bytes: u64, largest: u64) -> Built {
        let disk = SimDisk::new(seed);
        let store = open_with(&disk, segment_bytes).unwrap();
        let mut built = Built {
            disk,
            script: script(seed).with_largest(largest),
            groups: Vec::new(),
            covered: 0,
        };
        built.grow(store, past);
        // Settled: nothing that is still to be synced would come or go with a crash.
        let settled = SimDisk::new(seed);
        for (name, bytes) in files(&built.disk) {
            assert!(!name.contains("tmp"), "{name}");
            settled.put(&name, &bytes);
        }
        built.disk = settled;
        built
    }

    fn grow(&mut self, mut store: LogStore, past: Past) {
        self.write_until(&mut store, 4);
        let before = files(&self.disk);
        match past {
            Past::Plain => {}
            Past::Compacted | Past::LeftOver => {
                let index = self.script.model.last().index - 1;
                take_at(&self.disk, &mut self.script, index);
                self.covered = index;
                let write = compact_to(&mut self.script, index);
                self.write(&mut store, &[write]);
            }
            Past::Reset | Past::ResetLeftOver => {
                let last = self.script.model.last();
                let meta = meta(last.index + 3, last.term);
                let (offer, bytes) = elsewhere(&meta, 150);
                receive(&snapshots(&self.disk), offer, &bytes).unwrap();
                self.covered = meta.position.index;
                let write = install(&mut self.script, &meta);
                self.write(&mut store, &[write]);
            }
        }
        let first = segments(&self.disk).remove(0);
        if matches!(past, Past::LeftOver | Past::ResetLeftOver) {
            let gone: Vec<_> = before.keys().filter(|name| **name < first).collect();
            assert!(!gone.is_empty());
            for name in gone {
                self.disk.put(name, &before[name]);
            }
        } else {
            self.groups.retain(|(name, ..)| *name >= first);
        }
        self.write_until(&mut store, segments(&self.disk).len() + 1);
        // Some groups behind each other in the last segment.
        let in_one = |groups: &[(String, usize, Model)]| {
            let mut last = groups.iter().rev().take(4).map(|(name, ..)| name);
            let name = last.next();
            last.all(|other| Some(other) == name)
        };
        while !in_one(&self.groups) {
            let group = self.script.group();
            self.write(&mut store, &group);
        }
    }

    fn write_until(&mut self, store: &mut LogStore, count: usize) {
        while segments(&self.disk).len() < count {
            let group = self.script.group();
            self.write(store, &group);
        }
    }

    fn write(&mut self, store: &mut LogStore, group: &[Write]) {
        let before = files(&self.disk);
        store.write(group).unwrap();
        let name = last_segment(&self.disk);
        let after = self.disk.contents(&name).unwrap();
        if before.get(&name) != Some(&after) {
            let end = batches(&after).pop().unwrap().end;
            self.groups.push((name, end, self.script.model.clone()));
        }
    }

    /// What must be found when the last segment has nothing from `offset` on; none: it is refused.
    fn up_to(&self, offset: usize) -> Option<&Model> {
        let last = &self.groups.last().unwrap().0;
        let whole = |(name, end, _): &&(String, usize, Model)| name == last && *end <= offset;
        self.groups.iter().rev().find(whole).map(|group| &group.2)
    }

    /// Up to where something of the file is needed.
    fn end_of(&self, name: &str, bytes: &[u8]) -> usize {
        match name.starts_with("log-") {
            true => batches(bytes).pop().unwrap().end,
            false => bytes.len(),
        }
    }

    /// Every byte up to there, and some of the zeros behind it, which are all the same.
    fn places(&self, name: &str, bytes: &[u8]) -> impl Iterator<Item = usize> + use<> {
        let (end, length) = (self.end_of(name, bytes) + 1, bytes.len());
        (0..length.min(end)).chain((end..length).step_by(64))
    }

    /// The very last group, which nothing vouches for.
    fn last_group(&self) -> (Range<usize>, &Model) {
        let [.., (before_in, start, before), (name, end, _)] = &self.groups[..] else {
            panic!("two groups at least")
        };
        assert_eq!(before_in, name);
        (*start..*end, before)
    }

    /// That it is this log, perhaps without its beginning, and that it can be written to.
    fn check(&self, disk: &SimDisk, found: &Model, expected: &Model, what: &str) {
        assert!(
            expected.is_found_as(found, self.covered),
            "{what}: {found:?} for {expected:?}"
        );
        let mut script = self.script.clone();
        script.restart(found.clone());
        let mut store = open_with(disk, 4096).unwrap();
        store.write(&[script.write()]).unwrap();
        drop(store);
        disk.crash_losing_all_unsynced();
        let found = found_on(disk).unwrap_or_else(|error| panic!("{what}, later: {error}"));
        assert!(script.model.is_found_as(&found, self.covered), "{what}");
    }
}

fn open_with(disk: &SimDisk, segment_bytes: u64) -> Result<LogStore, OpenError> {
    let options = Options {
        segment_bytes,
        ..options()
    };
    LogStore::open(Arc::new(disk.clone()), options).map(|(store, _)| store)
}

/// What the log on the disk is read as, after it was compared with itself in every way.
fn found_on(disk: &SimDisk) -> Result<Model, OpenError> {
    let (store, recovered) = LogStore::open(Arc::new(disk.clone()), options())?;
    Ok(Model::of(&store, &recovered))
}

/// Whatever there is of snapshots is what was put there, or is said to be damaged.
fn snapshots_are_sound_or_say_so(disk: &SimDisk, what: &str) {
    let store = snapshots(disk);
    let Some(newest) = store.newest() else {
        return;
    };
    let reader = match store.reader(newest.meta.position) {
        Ok(reader) => reader,
        Err(SnapshotError::Damaged { .. }) => return,
        Err(other) => panic!("{what}: {other}"),
    };
    assert_eq!(reader.format(), "test", "{what}");
    match reader.chunks().collect::<Result<Vec<_>, _>>() {
        Ok(chunks) => {
            let bytes = chunks.concat();
            let expected = application(newest.meta.position, bytes.len() as u64);
            assert_eq!(bytes, expected, "{what}");
        }
        Err(SnapshotError::Damaged { .. }) => {}
        Err(other) => panic!("{what}: {other}"),
    }
}

/// How often what came out.
#[derive(Debug, Default)]
struct Tally {
    harmless: u32,
    shorter: u32,
    mended: u32,
    refused: u32,
}

/// A peer whose log is this one, and who knows nothing of it as committed.
fn answer(model: &Model, question: &Question) -> Answer {
    let holds = |position: Position| {
        position == model.base || model.entry(position.index).map(Entry::position) == Some(position)
    };
    let previous = question.previous;
    let behind = model.entries.iter().rev();
    let mut behind = behind.map(Entry::position).chain([model.base]);
    let possible = |at: &Position| at.index <= previous.index && at.term <= previous.term;
    let wanted = (previous.index + 1)..=question.anchor.index;
    let entries = model.entries.iter().filter(|e| wanted.contains(&e.index));
    Answer {
        holds_anchor: holds(question.anchor),
        holds_previous: holds(previous),
        hint: behind.find(possible).unwrap_or(Position::ZERO),
        // Not all at once.
        entries: entries.take(3).cloned().collect(),
        commit_index: 0,
        base: model.base,
    }
}

/// Asks a peer for what the wound lacks: what stands before it, and the entries.
fn asked(model: &Model, wound: &Wound, what: &str) -> (Position, Vec<Entry>) {
    let mut repair = Repair::new(wound.lost().clone());
    for _ in 0..100 {
        match repair.take(answer(model, &repair.question())) {
            Step::Ask => {}
            Step::Mend { joint, entries } => return (joint, entries),
            other => panic!("{what}: {other:?} for {:?}", wound.lost()),
        }
    }
    panic!("{what}: no end of questions")
}

impl Built {
    /// Whether `found` is the whole log: what was damaged was not needed, or was put back. What a node
    /// remembers of its peers may be older.
    fn is_whole(&self, found: &Model) -> bool {
        let mut expected = self.script.model.clone();
        let peers = &found.hard_state.peers;
        let known = |(.., model): &(String, usize, Model)| model.hard_state.peers == *peers;
        if peers.is_empty() || self.groups.iter().any(known) {
            expected.hard_state.peers.clone_from(peers);
        }
        expected.is_found_as(found, self.covered)
    }

    /// Repairs what the opening says is lost, again and again, until the log opens. None: it cannot be.
    /// `torn`: the power goes at every byte of it, too.
    fn mend(&self, disk: &SimDisk, mut error: OpenError, torn: bool, what: &str) -> Option<u32> {
        for round in 0..5 {
            let OpenError::Damaged {
                wound: Some(wound), ..
            } = &error
            else {
                return None;
            };
            let (joint, entries) = asked(&self.script.model, wound, what);
            let before = disk.fork();
            let mended = wound.mend(disk, joint, &entries);
            mended.unwrap_or_else(|error| panic!("{what}: {error}, {wound:?}"));
            disk.crash_losing_all_unsynced();
            if torn {
                self.mend_torn(&before, disk, wound, what);
            }
            match found_on(disk) {
                Ok(found) => {
                    assert!(self.is_whole(&found), "{what}: {found:?}");
                    return Some(round + 1);
                }
                Err(next) => error = next,
            }
        }
        panic!("{what}: no end of wounds")
    }

    /// Half of what mends is the same wound again.
    fn mend_torn(&self, before: &SimDisk, after: &SimDisk, wound: &Wound, what: &str) {
        let (old, new) = (files(before), files(after));
        let changed = old.iter().find(|(name, bytes)| new[*name] != **bytes);
        let (name, bytes) = changed.unwrap();
        let differs = |at: &usize| bytes[*at] != new[name][*at];
        let first = (0..bytes.len()).find(differs).unwrap();
        let last = (0..bytes.len()).rfind(differs).unwrap();
        for cut in first + 1..=last {
            let mut torn = bytes.clone();
            torn[first..cut].copy_from_slice(&new[name][first..cut]);
            let disk = before.fork();
            disk.put(name, &torn);
            let error = match found_on(&disk) {
                // What was written so far made good what had flipped.
                Ok(found) if self.is_whole(&found) => continue,
                Ok(found) => panic!("{what}, mend torn at {cut}: {found:?}"),
                Err(error) => error,
            };
            let OpenError::Damaged {
                wound: Some(again), ..
            } = error
            else {
                panic!("{what}, mend torn at {cut}: {error}");
            };
            assert_eq!(again.lost(), wound.lost(), "{what}, mend torn at {cut}");
        }
    }
}

/// The refusal names the file that was changed, or the snapshot that the log lacks; and it leaves
/// everything as it is.
fn refused_soundly(error: &OpenError, name: &str, disk: &SimDisk, damaged: &[u8], what: &str) {
    match error {
        OpenError::Damaged { path, .. } | OpenError::Unknown { path, .. } => {
            assert!(path.ends_with(name), "{what}: {error}");
        }
        OpenError::WithoutSnapshot { .. } => {
            assert!(name.starts_with("snapshot-"), "{what}: {error}");
        }
        other => panic!("{what}: {other}"),
    }
    assert_eq!(disk.contents(name).unwrap(), damaged, "{what}");
}

const PASTS: [Past; 5] = [
    Past::Plain,
    Past::Compacted,
    Past::LeftOver,
    Past::Reset,
    Past::ResetLeftOver,
];

/// A file ends at any byte, or holds zeros from there on. In the last segment what was durable before
/// remains, exactly; anything else is refused, or was not needed.
#[test]
fn a_cut_at_any_byte_leaves_the_durable_prefix_or_is_refused() {
    let mut tally = Tally::default();
    for (seed, past) in (40..).zip(PASTS) {
        let built = Built::new(past, seed, MIN_SEGMENT_BYTES, 120);
        for (name, bytes) in files(&built.disk) {
            for cut in built.places(&name, &bytes) {
                cut_at(&built, (&name, &bytes), cut, past, &mut tally);
            }
        }
    }
    println!("{tally:?}");
    assert!(tally.harmless > 1000 && tally.shorter > 500 && tally.refused > 5000);
}

fn cut_at(built: &Built, (name, bytes): (&str, &[u8]), cut: usize, past: Past, tally: &mut Tally) {
    let mut zeroed = bytes.to_vec();
    zeroed[cut..].fill(0);
    // Zeros that were there already are no loss, unless the file ends before them.
    let zeros = bytes[cut..].iter().take_while(|byte| **byte == 0).count();
    for (damaged, kept) in [(&bytes[..cut], cut), (&zeroed[..], cut + zeros)] {
        let what = format!("{past:?}, {name} cut at {cut}, {} bytes", damaged.len());
        let disk = built.disk.fork();
        disk.put(name, damaged);
        let expected = if *name == last_segment(&built.disk) {
            built.up_to(kept)
        } else if kept >= built.end_of(name, bytes) {
            Some(&built.script.model)
        } else {
            None
        };
        match (found_on(&disk), expected) {
            (Ok(found), Some(expected)) => {
                match expected == &built.script.model {
                    true => tally.harmless += 1,
                    false => tally.shorter += 1,
                }
                built.check(&disk, &found, expected, &what);
            }
            // A snapshot, or what one covers, is no part of the log.
            (Ok(found), None) => {
                assert!(built.is_whole(&found), "{what}: {found:?}");
                tally.harmless += 1;
            }
            (Err(error), Some(_)) => panic!("{what}: {error}"),
            (Err(error), None) => {
                refused_soundly(&error, name, &disk, damaged, &what);
                match built.mend(&disk, error, false, &what) {
                    Some(_) => tally.mended += 1,
                    None => tally.refused += 1,
                }
            }
        }
        snapshots_are_sound_or_say_so(&disk, &what);
    }
}

/// One bit of any byte. It is noticed, or nobody reads it, or it lies in the very last group, which is
/// then gone as if the power had been cut. What is noticed in a batch is put back by a peer: the log is
/// then what it was. In the head of a file it is refused.
#[test]
fn a_bit_flipped_in_any_byte_is_noticed_and_mended_or_harmless() {
    let mut tally = Tally::default();
    for (seed, past) in (60..).zip(PASTS) {
        let built = Built::new(past, seed, MIN_SEGMENT_BYTES, 120);
        for (name, bytes) in files(&built.disk) {
            for offset in built.places(&name, &bytes) {
                let bit = (offset * 5 + 3) % 8;
                flip(&built, &name, (offset, bit as u8), past, &mut tally);
            }
        }
    }
    println!("{tally:?}");
    assert!(tally.harmless > 1000 && tally.shorter > 100 && tally.mended > 5000);
}

/// The same in logs of usual entries and some larger ones, at places that a seed chooses.
#[test]
fn bits_flipped_in_larger_logs_are_noticed_and_mended_or_harmless() {
    let mut tally = Tally::default();
    for (seed, past) in (80..).zip(PASTS) {
        let built = Built::new(past, seed, 16 << 10, 9000);
        let files: BTreeMap<_, _> = files(&built.disk);
        let names: Vec<_> = files.keys().collect();
        let mut dice = Dice(seed);
        for _ in 0..600 {
            let name = names[dice.below(names.len() as u64) as usize];
            let offset = dice.below(files[name].len() as u64) as usize;
            let place = (offset, dice.below(8) as u8);
            flip(&built, name, place, past, &mut tally);
        }
    }
    println!("{tally:?}");
    assert!(tally.harmless > 100 && tally.mended > 1000);
}

fn flip(built: &Built, name: &str, (offset, bit): (usize, u8), past: Past, tally: &mut Tally) {
    let what = format!("{past:?}, {name}, bit {bit} of byte {offset}");
    let disk = built.disk.fork();
    disk.flip(name, offset as u64, bit);
    let damaged = disk.contents(name).unwrap();
    let bytes = built.disk.contents(name).unwrap();
    let (last_group, before) = built.last_group();
    match found_on(&disk) {
        Ok(found) if built.is_whole(&found) => tally.harmless += 1,
        Ok(found) => {
            assert_eq!(name, last_segment(&built.disk), "{what}");
            assert!(last_group.contains(&offset), "{what}");
            built.check(&disk, &found, before, &what);
            tally.shorter += 1;
        }
        Err(error) => {
            refused_soundly(&error, name, &disk, &damaged, &what);
            // Not each of them: there are many thousands.
            let torn = offset % 61 == 7;
            match built.mend(&disk, error, torn, &what) {
                Some(_) => tally.mended += 1,
                None => {
                    // Only heads have nobody to say what they were.
                    let head = u32::from_be_bytes(bytes[12..16].try_into().unwrap());
                    let in_head = offset < head as usize;
                    assert!(in_head || name.starts_with("snapshot-"), "{what}");
                    tally.refused += 1;
                }
            }
        }
    }
    snapshots_are_sound_or_say_so(&disk, &what);
}
