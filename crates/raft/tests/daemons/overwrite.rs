//! A state of some megabytes is overwritten again and again: what a node keeps on its disk is bounded by
//! the state and `SnapshotBytes`, not by what was written. In the middle one node loses its disk and
//! comes back by snapshot, whose transfer is cut and gone on with.
//!
//! `scripts/measure overwrite` does the same with gigabytes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Process};
use crate::cluster_more::overwriters::{Overwriters, Plan};

const NODES: usize = 3;
const MIB: u64 = 1 << 20;

const VALUE_BYTES: u64 = 64 << 10;
const PLAN: Plan = Plan {
    keys: 128,
    value_bytes: VALUE_BYTES,
    writes: 200 * MIB / VALUE_BYTES,
    writers: 8,
};
const STATE_BYTES: u64 = PLAN.keys * VALUE_BYTES;
const TOTAL_BYTES: u64 = PLAN.writes * VALUE_BYTES;
const SNAPSHOT_BYTES: u64 = 4 * MIB;

/// What a node's disk holds is bounded by multiples of this.
const UNIT: u64 = STATE_BYTES + SNAPSHOT_BYTES;

/// Log and snapshots: a snapshot that is kept, one that a peer pulls and one that is being written; the
/// log since the last one, and twice `SnapshotBytes` for those who are behind.
const RAFT_RATIO: u64 = 6;

/// All of it: with the store, which has outcomes beside its state, and pages that are not free yet.
const ALL_RATIO: u64 = 14;

/// Otherwise a log that is never cut would pass.
const _: () = assert!(ALL_RATIO * UNIT < TOTAL_BYTES);

const PATIENCE: Duration = Duration::from_secs(60);

/// How often the disks are looked at.
const SAMPLE: Duration = Duration::from_millis(50);

/// The transfer is cut when so much of it has arrived.
const SOME_BYTES: u64 = 4 * MIB;

/// A transfer that was over before it could be cut is tried again, so often.
const CUTS: usize = 5;

#[test]
fn what_is_kept_is_bounded_by_the_state_and_a_cut_transfer_goes_on() {
    let mut cluster = Cluster::new(NODES);
    for (key, value) in [
        ("LEEKY_SNAPSHOT_BYTES", SNAPSHOT_BYTES),
        ("LEEKY_SEGMENT_BYTES", MIB),
        ("LEEKY_LOG_CACHE_BYTES", MIB),
    ] {
        cluster.set(key, &value.to_string());
    }
    cluster.start_all();
    let leader = cluster.wait_for_voters(NODES, PATIENCE);
    let folders: Vec<PathBuf> = cluster
        .numbers()
        .map(|n| cluster.node(n).data.clone())
        .collect();
    let (peaks, stop) = (
        [(); NODES].map(|()| Peaks::default()),
        AtomicBool::new(false),
    );
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                for (folder, peak) in folders.iter().zip(&peaks) {
                    peak.raft.fetch_max(disk_use(&folder.join("raft")), SeqCst);
                    peak.all.fetch_max(disk_use(folder), SeqCst);
                }
                std::thread::sleep(SAMPLE);
            }
        });
        overwrite(&mut cluster, leader);
    });
    for (node, peak) in cluster.numbers().zip(&peaks) {
        for (what, peak, ratio) in [
            ("raft", &peak.raft, RAFT_RATIO),
            ("all", &peak.all, ALL_RATIO),
        ] {
            let peak = peak.load(SeqCst);
            println!(
                "node {node}, {what}: at most {} MiB on the disk, {:.1} times the state and SnapshotBytes",
                peak / MIB,
                peak as f64 / UNIT as f64
            );
            assert!(peak <= ratio * UNIT, "node {node}: {peak} bytes of {what}");
        }
    }
}

/// The most that a node had on its disk, in bytes.
#[derive(Default)]
struct Peaks {
    /// Log and snapshots.
    raft: AtomicU64,
    /// Everything.
    all: AtomicU64,
}

/// Ends the samples also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// What a folder takes on the disk, in bytes.
fn disk_use(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let of = |path: &Path| match fs::symlink_metadata(path) {
        Ok(data) if data.is_dir() => disk_use(path),
        Ok(data) => data.blocks() * 512,
        // It was removed meanwhile.
        Err(_) => 0,
    };
    entries.flatten().map(|entry| of(&entry.path())).sum()
}

fn overwrite(cluster: &mut Cluster, leader: usize) {
    let writers = Overwriters::start(PLAN, cluster.address(leader));
    cluster.eventually("half of it is written", PATIENCE, |_| {
        (writers.bytes() >= TOTAL_BYTES / 2).then_some(())
    });
    // Writes go on meanwhile: newer snapshots are taken, and the one that was begun is gone on with.
    // Not the introducer, which would first look for somebody who tells it that there is a cluster.
    let mut others = cluster.numbers().rev();
    let victim = others.find(|node| *node != leader).unwrap();
    loses_its_disk_and_comes_back(cluster, victim, leader);
    cluster.eventually("all of it is written", PATIENCE, |_| {
        (writers.bytes() >= TOTAL_BYTES).then_some(())
    });
    let all: Vec<usize> = cluster.numbers().collect();
    let index = cluster.status(leader).unwrap().commit_index;
    cluster.wait_for_applied(&all, index, PATIENCE);
    for node in all {
        for write in PLAN.last() {
            let query = format!("GET {}", PLAN.key(write));
            let reply = cluster.query(node, &query, true).unwrap();
            assert!(reply.data == PLAN.value(write), "node {node}: {query}");
        }
    }
}

/// Empties the disk of node `victim`, which comes back by the leader's snapshot. In the middle of the
/// transfer its `raft` is killed; the next one goes on where that was.
fn loses_its_disk_and_comes_back(cluster: &mut Cluster, victim: usize, leader: usize) {
    for _ in 0..CUTS {
        cluster.kill(victim);
        let data = cluster.node(victim).data.clone();
        fs::remove_dir_all(&data).unwrap();
        fs::create_dir(&data).unwrap();
        let logged = cluster.log(victim, Process::Raft).len();
        cluster.start(victim);
        if !cut_in_the_middle(cluster, victim, logged) {
            continue;
        }
        let cut = cluster.log(victim, Process::Raft).len();
        cluster.start_process(victim, Process::Raft);
        let (bytes, from) = cluster.eventually("it fetches the rest", PATIENCE, |cluster| {
            fetching(&cluster.log(victim, Process::Raft)[cut..])
        });
        println!("a transfer of {bytes} bytes was cut, and went on from byte {from}");
        // What has arrived is gone on with from the last whole chunk.
        assert!(from >= SOME_BYTES - MIB, "it began again");
        let index = cluster.status(leader).unwrap().commit_index;
        cluster.wait_for_applied(&[victim], index, PATIENCE);
        let log = cluster.log(victim, Process::Raft);
        assert!(log[cut..].contains("received from"), "{log}");
        return;
    }
    panic!("{CUTS} transfers were over before they could be cut");
}

/// Kills the node's `raft` when it has fetched a part of the snapshot, but not all of it.
fn cut_in_the_middle(cluster: &mut Cluster, node: usize, logged: usize) -> bool {
    let folder = cluster.node(node).data.join("raft");
    let deadline = Instant::now() + PATIENCE;
    // No pause between two looks: the whole transfer takes some hundredths of a second.
    while received(&folder) < SOME_BYTES {
        assert!(Instant::now() < deadline, "no snapshot is fetched");
        if cluster.log(node, Process::Raft)[logged..].contains("received from") {
            break;
        }
    }
    cluster.kill_process(node, Process::Raft);
    !cluster.log(node, Process::Raft)[logged..].contains("received from")
}

/// Bytes of the snapshot that is being fetched into that folder.
fn received(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let partial = entries
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().contains("receiving"));
    partial
        .and_then(|entry| entry.metadata().ok())
        .map_or(0, |data| data.len())
}

/// The length of the snapshot that is being fetched by the word of that log, and from which byte on.
fn fetching(log: &str) -> Option<(u64, u64)> {
    let (_, line) = log.split_once("fetching ")?;
    let (bytes, rest) = line.split_once(" bytes from ")?;
    let (_, from) = rest.split_once("from byte ")?;
    let from = from.split_whitespace().next()?;
    Some((bytes.parse().ok()?, from.parse().ok()?))
}
