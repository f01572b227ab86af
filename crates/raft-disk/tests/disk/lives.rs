//! A node's life with snapshots, cut short at every operation of the disk.

use std::sync::Arc;

use raft_core::{ClusterId, HardState, Index, Position, SnapshotMeta, Write};
use raft_disk::{
    Disk, LogStore, SimDisk, SnapshotError, SnapshotInfo, SnapshotOffer, SnapshotOptions,
    SnapshotStore,
};

use crate::model::{Dice, Model, Script, nothing, open, options};
use crate::switch::Switch;

const CLUSTER: ClusterId = ClusterId(0xC1);

/// Small enough that a few hundred bytes are several chunks and syncs.
pub fn snapshot_options() -> SnapshotOptions {
    SnapshotOptions {
        chunk_bytes: 50,
        sync_bytes: 170,
    }
}

pub fn snapshots(disk: &SimDisk) -> SnapshotStore {
    SnapshotStore::open(Arc::new(disk.clone()), snapshot_options()).unwrap()
}

/// What the state machine's bytes of a snapshot are in these tests.
pub fn application(position: Position, length: u64) -> Vec<u8> {
    Dice(position.index * 31 + position.term).bytes(length)
}

/// Writes a snapshot in pieces of odd lengths.
pub fn take(
    store: &SnapshotStore,
    meta: &Arc<SnapshotMeta>,
    length: u64,
) -> Result<SnapshotInfo, SnapshotError> {
    let sessions = format!("sessions at {}", meta.position.index);
    let mut writer = store.begin(meta.clone(), "test".to_owned(), sessions.into())?;
    for piece in application(meta.position, length).chunks(37) {
        writer.append(piece)?;
    }
    writer.finish()
}

/// The same snapshot as another node made it: its offer and its bytes.
pub fn elsewhere(meta: &Arc<SnapshotMeta>, length: u64) -> (SnapshotOffer, Vec<u8>) {
    let store = snapshots(&SimDisk::new(0));
    let info = take(&store, meta, length).unwrap();
    let reader = store.reader(meta.position).unwrap();
    let bytes = reader.read_raw(0, usize::MAX).unwrap();
    assert_eq!(bytes.len() as u64, info.file_bytes);
    (info.offer(), bytes.to_vec())
}

/// Reads all of the newest snapshot, and compares it with what was written.
pub fn check_newest(store: &SnapshotStore) -> Option<Arc<SnapshotMeta>> {
    let info = store.newest()?;
    let reader = store.reader(info.meta.position).unwrap();
    assert_eq!(reader.meta(), &*info.meta);
    assert_eq!(reader.info(), &info);
    assert_eq!(reader.format(), "test");
    let sessions = format!("sessions at {}", info.meta.position.index);
    assert_eq!(reader.sessions(), sessions.as_bytes());
    let chunks: Vec<_> = reader.chunks().collect::<Result<_, _>>().unwrap();
    let bytes = chunks.concat();
    assert_eq!(bytes.len() as u64, info.application_bytes);
    assert_eq!(
        bytes,
        application(info.meta.position, info.application_bytes)
    );
    Some(info.meta)
}

/// What a life did, and was about to do when it ended.
#[derive(Clone, Debug)]
struct Life {
    script: Script,
    /// What was reported.
    known: Model,
    /// Snapshots that were finished, or begun, oldest first.
    finished: Vec<Arc<SnapshotMeta>>,
    begun: Vec<Arc<SnapshotMeta>>,
    /// Compaction was asked for up to here.
    covered: Index,
    /// Snapshots arrive from elsewhere, too.
    installs: bool,
}

impl Life {
    fn new(seed: u64) -> Life {
        let mut script = Script::new(seed);
        script.cluster_id = Some(CLUSTER);
        Life {
            script,
            known: Model::default(),
            finished: Vec::new(),
            begun: Vec::new(),
            covered: 0,
            installs: seed.is_multiple_of(3),
        }
    }

    /// A few rounds; `None` when the disk ended it.
    fn live(&mut self, disk: Arc<dyn Disk>, rounds: u64) -> Option<()> {
        let snapshots = SnapshotStore::open(disk.clone(), snapshot_options()).ok()?;
        let (mut log, recovered) = LogStore::open(disk, options()).ok()?;
        assert_eq!(log.base(), recovered.base);
        for _ in 0..rounds {
            let last = self.known.last().index;
            let newest = self.newest();
            let dice = &mut self.script.dice;
            match dice.below(12) {
                0..=1 if last > self.script.committed => {
                    self.script.committed += 1 + dice.below(last - self.script.committed);
                }
                2..=4 if self.script.committed > newest => {
                    let index = newest + 1 + dice.below(self.script.committed - newest);
                    let length = dice.below(300);
                    let meta = Arc::new(self.known.meta_at(index, CLUSTER));
                    self.begun.push(meta.clone());
                    take(&snapshots, &meta, length).ok()?;
                    self.finished.push(meta);
                }
                5 if newest > 0 => {
                    self.covered = self.covered.max(newest.saturating_sub(dice.below(3)));
                    let mut write = self.script.write();
                    write.compact_to = Some(self.covered);
                    self.store(&mut log, &[write])?;
                }
                6 if self.installs => self.install(&snapshots, &mut log)?,
                7 => snapshots.retain(&[]).ok()?,
                8 => log.mark(),
                _ => {
                    let group = self.script.group();
                    self.store(&mut log, &group)?;
                }
            }
        }
        Some(())
    }

    fn newest(&self) -> Index {
        self.begun.last().map_or(0, |meta| meta.position.index)
    }

    fn store(&mut self, log: &mut LogStore, group: &[Write]) -> Option<()> {
        let report = log.write(group).ok()?;
        assert_eq!(report.sequence, self.script.sequence);
        assert_eq!(report.last, self.script.model.last());
        self.known = self.script.model.clone();
        Some(())
    }

    /// A snapshot arrives, in two parts with a cut between them; then the log is reset behind it, in
    /// the middle of a group.
    fn install(&mut self, snapshots: &SnapshotStore, log: &mut LogStore) -> Option<()> {
        // Behind the log, or inside, where the log differs.
        let lowest = self.script.committed.max(self.newest()) + 1;
        let highest = lowest.max(self.known.last().index + 5);
        let dice = &mut self.script.dice;
        let index = lowest + dice.below(highest + 1 - lowest);
        let meta = Arc::new(SnapshotMeta {
            position: Position {
                index,
                term: self.script.term + 1,
            },
            cluster_id: CLUSTER,
            log_time_ms: index * 10,
            configuration_index: 1,
            configuration: Arc::default(),
        });
        let (offer, bytes) = elsewhere(&meta, dice.below(400));
        let cut = dice.below(bytes.len() as u64 + 1) as usize;
        self.script.term += 1;
        self.begun.push(meta.clone());
        let mut receiver = snapshots.receive(offer, CLUSTER, 10_000).ok()?;
        if receiver.offset() == 0 {
            receiver.append(&bytes[..cut]).ok()?;
            drop(receiver);
            receiver = snapshots.receive(offer, CLUSTER, 10_000).ok()?;
            assert_eq!(receiver.offset(), cut as u64);
        }
        for piece in bytes[receiver.offset() as usize..].chunks(90) {
            receiver.append(piece).ok()?;
        }
        receiver.finish(crate::snapshots::accepted).ok()?;
        self.finished.push(meta.clone());
        let mut group = vec![self.script.write()];
        let mut install = Write {
            sequence: self.script.sequence + 1,
            generation: 1,
            install: Some(meta.clone()),
            ..nothing()
        };
        if self.script.dice.below(2) == 0 {
            install.hard_state = Some(HardState {
                current_term: self.script.term,
                ..HardState::default()
            });
        }
        self.script.sequence += 1;
        self.script.model.apply(&install);
        self.script.committed = meta.position.index;
        group.push(install);
        if self.script.dice.below(2) == 0 {
            group.push(self.script.write());
        }
        self.store(log, &group)
    }

    /// What is found after the end must be what was known, or what was about to be.
    fn check(&mut self, disk: &SimDisk, what: &str) {
        let (log, recovered) = open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
        let found = Model::of(&log, &recovered);
        let store = snapshots(disk);
        assert!(store.damaged().is_empty(), "{what}");
        let newest = check_newest(&store);
        assert_eq!(newest, recovered.snapshot, "{what}");
        let finished = self.finished.last();
        match &newest {
            Some(newest) => assert!(
                self.finished.last() == Some(newest) || self.begun.last() == Some(newest),
                "{what}: {newest:?}"
            ),
            None => assert_eq!(finished, None, "{what}"),
        }
        let mut possible = [self.known.clone(), self.script.model.clone()];
        for model in &mut possible {
            if let Some(newest) = &newest
                && newest.position != model.base
                && model
                    .entry(newest.position.index)
                    .is_none_or(|entry| entry.position() != newest.position)
            {
                model.reset_behind(newest);
            }
        }
        let found_as = possible
            .iter()
            .position(|model| model.is_found_as(&found, self.covered));
        let Some(found_as) = found_as else {
            panic!(
                "{what}: {found:?}\nknown {possible:?}\ncovered {}",
                self.covered
            )
        };
        let names = disk.list().unwrap();
        assert!(
            names.iter().filter(|name| name.ends_with(".tmp")).count() <= 1,
            "{what}: {names:?}"
        );
        // Life goes on, from what it was.
        self.known = possible[found_as].clone();
        self.script.restart(self.known.clone());
        self.finished = newest.iter().cloned().collect();
        self.begun = self.finished.clone();
        let newest = self.newest();
        self.script.committed = self
            .script
            .committed
            .min(self.known.last().index)
            .max(newest);
    }
}

/// Every prefix of what a life does to the disk, and after each one several ways in which the power
/// can go: the next life finds what was known, or what was about to be, and goes on with it. Then
/// the opening itself is cut short.
#[test]
fn a_life_with_snapshots_ends_at_any_operation() {
    let (mut ends, mut resets, mut compactions, mut partials) = (0, 0, 0, 0);
    for seed in 0..40 {
        for changes in 0.. {
            let disk = SimDisk::new(seed);
            let mut life = Life::new(seed);
            let switch = Switch::after(changes, &disk);
            let whole = life.live(Arc::new(switch.clone()), 50).is_some() && !switch.is_off();
            for crash in 0..4 {
                let crashed = disk.fork();
                if crash == 0 {
                    crashed.kill();
                } else {
                    crashed.crash(seed * 1000 + changes * 10 + crash);
                }
                let what = format!("seed {seed}, {changes} changes, crash {crash}");
                if crash == 1 {
                    cut_openings(&crashed, &life, &what);
                }
                let mut life = life.clone();
                let names = crashed.list().unwrap();
                partials += usize::from(names.iter().any(|name| name.contains("receiving")));
                life.check(&crashed, &what);
                ends += 1;
                resets += usize::from(life.known.reset.is_some());
                compactions += usize::from(
                    !crashed
                        .list()
                        .unwrap()
                        .iter()
                        .any(|n| n == "log-0000000000000001"),
                );
                // And again.
                life.live(Arc::new(crashed.clone()), 6).unwrap();
                crashed.crash_losing_all_unsynced();
                life.check(&crashed, &format!("{what}, second life"));
            }
            if whole {
                break;
            }
        }
    }
    println!("{ends} ends, {resets} resets, {compactions} compactions, {partials} partials");
    assert!(ends > 5000 && resets > 500 && compactions > 500 && partials > 50);
}

fn cut_openings(crashed: &SimDisk, life: &Life, what: &str) {
    for changes in 0.. {
        let disk = crashed.fork();
        let switch = Switch::after(changes, &disk);
        let opened = LogStore::open(Arc::new(switch.clone()), options()).is_ok();
        let kept = SnapshotStore::open(Arc::new(switch.clone()), snapshot_options()).is_ok();
        disk.crash(changes);
        life.clone()
            .check(&disk, &format!("{what}, opening cut after {changes}"));
        if opened && kept && !switch.is_off() {
            return;
        }
    }
}
