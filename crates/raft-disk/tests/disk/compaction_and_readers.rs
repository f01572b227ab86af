//! Readers of a log whose beginning goes.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use raft_core::{Index, Write};
use raft_disk::{Disk, DiskFile, LogStore, Options, RealDisk, SimDisk, SnapshotStore, Space};

use crate::compaction::{CLUSTER, compact_to, grow, install, meta, script, segments, take_at};
use crate::lives::{snapshot_options, snapshots, take};
use crate::model::{Dice, nothing, open};

/// Readers on other threads while the log is compacted under them: what they get is right, or
/// nothing.
#[test]
fn readers_are_not_disturbed_by_compaction() {
    let directory = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(directory.path()).unwrap());
    let options = Options {
        segment_bytes: 1 << 14,
        tail_cache_bytes: 0,
        lay_out_ahead: true,
    };
    let snapshots = SnapshotStore::open(disk.clone(), snapshot_options()).unwrap();
    let (mut log, _) = LogStore::open(disk, options).unwrap();
    let known = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for seed in 0..2 {
        let (reader, known, done) = (log.reader(), known.clone(), done.clone());
        threads.push(std::thread::spawn(move || {
            let mut dice = Dice(seed);
            let (mut read, mut empty) = (0, 0);
            while !done.load(Ordering::SeqCst) || read == 0 {
                let last = known.load(Ordering::SeqCst);
                // Near the base, where it is dangerous.
                let from = (reader.first() + dice.below(60)).saturating_sub(30).max(1);
                if from > last {
                    continue;
                }
                let entries = reader.read(from, from + 40, usize::MAX).unwrap();
                if entries.is_empty() {
                    assert!(from < reader.first());
                    empty += 1;
                }
                for (index, entry) in (from..).zip(&entries) {
                    assert_eq!((entry.index, entry.log_time_ms), (index, index * 10));
                    read += 1;
                }
            }
            (read, empty)
        }));
    }
    let mut script = script(1);
    script.committed = Index::MAX - 1;
    for round in 0..1000 {
        script.sequence += 1;
        let next = script.model.last().index + 1;
        let entries = (next..next + 5).map(|index| script.entry(index)).collect();
        let mut write = Write {
            sequence: script.sequence,
            entries,
            ..nothing()
        };
        script.model.apply(&write);
        if round % 20 == 19 {
            let meta = Arc::new(script.model.meta_at(next - 1, CLUSTER));
            take(&snapshots, &meta, 100).unwrap();
            snapshots.retain(&[]).unwrap();
            write.compact_to = Some(next - 1);
        }
        log.write(&[write]).unwrap();
        known.store(next, Ordering::SeqCst);
    }
    done.store(true, Ordering::SeqCst);
    for thread in threads {
        let (read, empty) = thread.join().unwrap();
        assert!(read > 0, "{read} {empty}");
    }
    assert!(log.bytes_used() < 20 << 14, "{}", log.bytes_used());
    // Nobody keeps the room of what is removed.
    let held = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|fd| {
            let file = std::fs::read_link(fd.unwrap().path()).ok()?;
            let gone =
                file.starts_with(directory.path()) && file.to_string_lossy().ends_with("(deleted)");
            gone.then_some(file)
        });
    assert_eq!(held.collect::<Vec<_>>(), Vec::<std::path::PathBuf>::new());
}

/// Stops whoever opens a file, or removes one or syncs the directory, until it is told to go on.
#[derive(Debug)]
pub struct Gate {
    pub disk: SimDisk,
    pub at: At,
    pub closed: AtomicBool,
    pub entered: Mutex<Sender<()>>,
    pub left: Mutex<Receiver<()>>,
}

#[derive(Debug, PartialEq)]
pub enum At {
    Open,
    SyncDirOrRemove,
}

impl Gate {
    fn stop(&self, at: At) {
        if self.at == at && self.closed.swap(false, Ordering::SeqCst) {
            self.entered.lock().unwrap().send(()).unwrap();
            self.left.lock().unwrap().recv().unwrap();
        }
    }
}

impl Disk for Gate {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn create(&self, name: &str, bytes: u64, space: Space) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(name, bytes, space)
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.stop(At::Open);
        self.disk.open(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.stop(At::SyncDirOrRemove);
        self.disk.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.stop(At::SyncDirOrRemove);
        self.disk.sync_dir()
    }
    fn random(&self) -> io::Result<u64> {
        self.disk.random()
    }
    fn path(&self, name: &str) -> String {
        self.disk.path(name)
    }
}

/// A reader has found where an entry lies, and before it can open the file, the file is gone: that
/// is no error, and no damage.
#[test]
fn a_file_that_goes_under_a_reader_is_no_error() {
    for resets in [false, true] {
        let disk = SimDisk::new(1);
        let mut script = script(1);
        let (mut log, _) = open(&disk).unwrap();
        grow(&disk, &mut log, &mut script, 3);
        drop(log);
        let last = script.model.last().index;
        let meta = if resets {
            let meta = meta(last + 5, 99);
            take(&snapshots(&disk), &meta, 5).unwrap();
            meta
        } else {
            take_at(&disk, &mut script, last)
        };
        script.restart(script.model.clone());
        // The log that is opened knows nothing of the snapshot.
        let name = disk
            .list()
            .unwrap()
            .into_iter()
            .find(|name| name.starts_with("snapshot"));
        let bytes = disk.contents(name.as_ref().unwrap()).unwrap();
        disk.remove(name.as_ref().unwrap()).unwrap();
        let ((entered, entering), (leave, left)) = (channel(), channel());
        let gate = Arc::new(Gate {
            disk: disk.clone(),
            at: At::Open,
            closed: AtomicBool::new(false),
            entered: Mutex::new(entered),
            left: Mutex::new(left),
        });
        let options = Options {
            tail_cache_bytes: 0,
            ..crate::model::options()
        };
        let (mut log, _) = LogStore::open(gate.clone(), options).unwrap();
        disk.put(name.as_ref().unwrap(), &bytes);
        // Only the last entry was read.
        let reader = log.reader();
        gate.closed.store(true, Ordering::SeqCst);
        let reading = std::thread::spawn(move || reader.read(1, 1, 100));
        entering.recv_timeout(Duration::from_secs(20)).unwrap();
        let write = if resets {
            install(&mut script, &meta)
        } else {
            compact_to(&mut script, last)
        };
        log.write(&[write]).unwrap();
        assert_ne!(segments(&disk)[0], "log-0000000000000001");
        leave.send(()).unwrap();
        assert_eq!(reading.join().unwrap().unwrap(), []);
    }
}

/// One that is needed and gone is an error nevertheless.
#[test]
fn a_file_that_is_needed_is_missed() {
    let disk = SimDisk::new(1);
    let mut script = script(1);
    let (mut log, _) = open(&disk).unwrap();
    grow(&disk, &mut log, &mut script, 3);
    disk.remove(&segments(&disk)[0]).unwrap();
    let sentence = log.reader().read(1, 1, 100).unwrap_err().to_string();
    assert!(sentence.contains("log-0000000000000001"), "{sentence}");
}
