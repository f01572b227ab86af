//! Ordinary life, on a real directory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;

use raft_core::{Command, Entry, HardState, NodeId, Payload, Recovered, Write};
use raft_disk::{DirectoryLock, Disk, DiskThread, LogStore, Options, RealDisk, SimDisk, retired};

use crate::model::{Model, Script, nothing, open};

fn real(directory: &std::path::Path) -> Arc<RealDisk> {
    Arc::new(RealDisk::open(directory).unwrap())
}

#[test]
fn an_empty_disk_is_an_empty_log() {
    let disk = SimDisk::new(0);
    let (store, recovered) = open(&disk).unwrap();
    assert_eq!(recovered, Recovered::default());
    assert_eq!(store.bytes_used(), 0);
    assert!(store.reader().read(1, 10, 1000).unwrap().is_empty());
}

/// Segments, the thread that lays them out, and the way back, on a real file system.
#[test]
fn a_log_on_a_real_directory() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 8192,
        tail_cache_bytes: 3000,
        lay_out_ahead: true,
    };
    let mut script = Script::new(77).with_largest(20_000);
    for _ in 0..4 {
        let (mut store, recovered) = LogStore::open(real(directory.path()), options).unwrap();
        assert_eq!(Model::of(&store, &recovered), script.model);
        script.restart(script.model.clone());
        for _ in 0..60 {
            store.write(&script.group()).unwrap();
        }
        let usage = store.usage();
        drop(store);
        let mut files = std::fs::read_dir(directory.path()).unwrap();
        let lengths = files
            .by_ref()
            .map(|file| file.unwrap().metadata().unwrap().len());
        assert_eq!(lengths.sum::<u64>(), usage.load(Ordering::Relaxed));
    }
}

/// One group, one write, one sync; nothing to store, neither.
#[test]
fn a_group_takes_one_sync() {
    let disk = SimDisk::new(1);
    let options = Options {
        lay_out_ahead: false,
        ..Options::default()
    };
    let (mut store, _) = LogStore::open(Arc::new(disk.clone()), options).unwrap();
    let mut script = Script::new(1);
    store.write(&script.group()).unwrap();
    let mut groups = 0;
    let before = (disk.writes(), disk.syncs());
    for _ in 0..50 {
        let group: Vec<Write> = (0..10).map(|_| script.write()).collect();
        store.write(&group).unwrap();
        groups += 1;
    }
    assert_eq!(
        (disk.writes(), disk.syncs()),
        (before.0 + groups, before.1 + groups)
    );
    let empty = Write {
        sequence: script.sequence + 1,
        generation: 9,
        ..nothing()
    };
    let report = store.write(&[empty]).unwrap();
    assert_eq!(
        (report.sequence, report.generation),
        (script.sequence + 1, 9)
    );
    assert_eq!(report.last, script.model.last());
    assert_eq!(
        (disk.writes(), disk.syncs()),
        (before.0 + groups, before.1 + groups)
    );
}

/// What queued while a group was reported is the next group.
#[test]
fn the_thread_commits_in_groups() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = LogStore::open(real(directory.path()), Options::default()).unwrap();
    let (report, reports) = channel();
    let (go_on, wait) = channel::<()>();
    let thread = DiskThread::spawn(store, move |persisted| {
        report.send(persisted).unwrap();
        let _ = wait.recv();
    })
    .unwrap();
    let write = |sequence: u64| Write {
        sequence,
        generation: 3,
        hard_state: Some(HardState {
            current_term: sequence,
            ..HardState::default()
        }),
        entries: vec![Entry {
            index: sequence,
            term: 1,
            log_time_ms: 0,
            payload: Payload::Command(Command {
                session: 0,
                sequence: 0,
                acked_below: 0,
                bytes: vec![1; 100].into(),
            }),
        }],
        ..nothing()
    };
    thread.submit(write(1)).unwrap();
    assert_eq!(reports.recv().unwrap().unwrap().sequence, 1);
    for sequence in 2..=100 {
        thread.submit(write(sequence)).unwrap();
    }
    go_on.send(()).unwrap();
    let report = reports.recv().unwrap().unwrap();
    assert_eq!(
        (report.sequence, report.generation, report.last.index),
        (100, 3, 100)
    );
    // What waits when it ends is stored, too.
    thread.submit(write(101)).unwrap();
    drop(go_on);
    let store = thread.shutdown().unwrap();
    assert_eq!(reports.recv().unwrap().unwrap().sequence, 101);
    assert_eq!(store.last().index, 101);
    drop(store);
    let (_, recovered) = LogStore::open(real(directory.path()), Options::default()).unwrap();
    assert_eq!(recovered.last.index, 101);
    assert_eq!(recovered.hard_state.current_term, 101);
}

#[test]
fn a_second_daemon_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let lock = DirectoryLock::acquire(directory.path()).unwrap();
    let sentence = DirectoryLock::acquire(directory.path())
        .unwrap_err()
        .to_string();
    assert!(
        sentence.contains(&directory.path().display().to_string()),
        "{sentence}"
    );
    assert!(
        sentence.contains(&format!("process {}", std::process::id())),
        "{sentence}"
    );
    drop(lock);
    DirectoryLock::acquire(directory.path()).unwrap();
    let missing = directory.path().join("nowhere");
    let sentence = DirectoryLock::acquire(&missing).unwrap_err().to_string();
    assert!(sentence.contains("nowhere"), "{sentence}");
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let sentence = RealDisk::open(file.join("raft")).unwrap_err().to_string();
    assert!(sentence.contains("cannot use the directory"), "{sentence}");
    assert!(sentence.contains("file/raft"), "{sentence}");
}

#[test]
fn a_real_disk_does_what_the_trait_says() {
    let directory = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(directory.path().join("a/b")).unwrap();
    for space in [raft_disk::Space::Written, raft_disk::Space::Reserved] {
        let file = disk.create("x", 2 << 20, space).unwrap();
        assert!(disk.create("x", 1, space).is_err());
        assert_eq!(file.len().unwrap(), 2 << 20);
        file.write_at((2 << 20) - 2, b"ab").unwrap();
        let mut end = [9; 8];
        assert_eq!(file.read_at((2 << 20) - 4, &mut end).unwrap(), 4);
        assert_eq!(end, [0, 0, b'a', b'b', 9, 9, 9, 9]);
        file.set_len(3).unwrap();
        file.sync().unwrap();
        disk.rename("x", "y").unwrap();
        disk.sync_dir().unwrap();
        assert_eq!(disk.list().unwrap(), ["y"]);
        assert_eq!(disk.open("y").unwrap().len().unwrap(), 3);
        disk.remove("y").unwrap();
        assert_ne!(disk.random().unwrap(), disk.random().unwrap());
    }
}

#[test]
fn a_retired_node_moves_its_folder_aside_once() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let id = NodeId(0xABC);
    assert_eq!(retired::read(data).unwrap(), None);
    retired::write(data, id).unwrap();
    retired::write(data, id).unwrap();
    assert_eq!(retired::read(data).unwrap(), Some(id));
    assert_eq!(retired::move_aside(data, "raft", id).unwrap(), None);
    for round in 1..=2 {
        std::fs::create_dir(data.join("raft")).unwrap();
        std::fs::write(data.join("raft/x"), round.to_string()).unwrap();
        let to = retired::move_aside(data, "raft", id).unwrap().unwrap();
        assert_eq!(
            std::fs::read_to_string(to.join("x")).unwrap(),
            round.to_string()
        );
        assert!(!data.join("raft").exists());
    }
    std::fs::write(data.join("retired"), "nobody").unwrap();
    let sentence = retired::read(data).unwrap_err().to_string();
    assert!(
        sentence.contains("retired") && sentence.contains("32 hexadecimal"),
        "{sentence}"
    );
}
