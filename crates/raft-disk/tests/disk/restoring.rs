//! Snapshots outside of nodes, and nodes that begin with one.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::sessions::{Outcome, OutcomeKind};
use raft_core::{
    ClusterId, Configuration, Entry, HardState, NodeId, Payload, Position, Recovered, SessionTable,
    SnapshotMeta, Write,
};
use raft_disk::restore::{self, RESTORE_FILE, Restore, RestoreError};
use raft_disk::{
    DirectoryLock, Disk, Identity, IdentityError, LogStore, PART_SUFFIX, RealDisk, SaveError,
    Saving, SimDisk, SnapshotError, SnapshotReader,
};
use tempfile::TempDir;

use crate::lives::{application, snapshot_options, snapshots};
use crate::model::{nothing, options};
use crate::switch::Switch;

const OLD: ClusterId = ClusterId(0xC1);
const NODE: NodeId = NodeId(0x1234);
const AT: Position = Position { index: 40, term: 7 };

/// The old cluster in the middle of a change, with somebody gone for good.
fn old_meta(position: Position) -> SnapshotMeta {
    let nodes = |ids: &[u128]| ids.iter().copied().map(NodeId).collect();
    SnapshotMeta {
        position,
        cluster_id: OLD,
        log_time_ms: 123_456,
        configuration_index: position.index.min(30),
        configuration: Arc::new(Configuration {
            voters: nodes(&[1, 2, 3]),
            outgoing: nodes(&[1, 2, 4]),
            learners: nodes(&[5]),
            removed: nodes(&[6, 7]),
            grown: true,
            reason: "a change".to_owned(),
        }),
    }
}

/// A table with a session in it, and an outcome.
fn old_sessions() -> Bytes {
    let mut table = SessionTable::default();
    for index in 1..=AT.index {
        let payload = match index {
            2 => Payload::RegisterSession,
            9 => Payload::Command(raft_core::Command {
                session: 2,
                sequence: 1,
                acked_below: 1,
                bytes: "INCR n".into(),
            }),
            _ => Payload::Noop,
        };
        table.admit(&Entry {
            index,
            term: 1,
            log_time_ms: index,
            payload,
        });
    }
    let outcome = Outcome {
        kind: OutcomeKind::Ok,
        data: "1".into(),
    };
    table.record(9, 2, 1, outcome);
    assert_eq!(table.len(), 1);
    table.encode()
}

/// A snapshot of the old cluster as a file.
fn old_file(meta: SnapshotMeta, bytes: u64) -> Vec<u8> {
    let store = snapshots(&SimDisk::new(0));
    let position = meta.position;
    let mut writer = store
        .begin(Arc::new(meta), "test".to_owned(), old_sessions())
        .unwrap();
    writer.append(&application(AT, bytes)).unwrap();
    writer.finish().unwrap();
    let reader = store.reader(position).unwrap();
    reader.read_raw(0, usize::MAX).unwrap().to_vec()
}

fn old() -> Vec<u8> {
    old_file(old_meta(AT), 310)
}

/// A start of the daemon, as far as the disk goes: data directory and folder are one disk here, so that one
/// crash is one crash.
fn start(disk: Arc<dyn Disk>, cluster: ClusterId) -> Result<(Identity, Recovered), String> {
    fn told(error: impl std::fmt::Display) -> String {
        error.to_string()
    }
    let mut identity = Identity::open_or_create(disk.clone(), Some(NODE)).map_err(told)?;
    let waiting = Restore::waiting(disk.clone()).map_err(told)?;
    if let Some(waiting) = &waiting {
        waiting
            .begin_anew(&identity, disk.clone(), snapshot_options(), cluster)
            .map_err(told)?;
    }
    let (_, recovered) = LogStore::open(disk, options()).map_err(told)?;
    identity.settle(recovered.cluster_id).map_err(told)?;
    if let Some(waiting) = waiting {
        waiting.finish(&recovered).map_err(told)?;
    }
    identity.next_boot().map_err(told)?;
    Ok((identity, recovered))
}

/// What the node is once it is all done.
fn check_restored(disk: &SimDisk, clusters: &[ClusterId]) -> ClusterId {
    let again = ClusterId(0xFFFF);
    let (identity, recovered) = start(Arc::new(disk.clone()), again).unwrap();
    let cluster = identity.cluster_id().unwrap();
    assert!(clusters.contains(&cluster), "{cluster}");
    assert_eq!(identity.node_id(), NODE);
    assert_eq!(disk.contents(RESTORE_FILE), None);
    assert_eq!(recovered.cluster_id, Some(cluster));
    assert_eq!((recovered.base, recovered.last), (AT, AT));
    assert_eq!(recovered.last_log_time_ms, 123_456);
    let configuration = Configuration {
        voters: [NODE].into(),
        grown: true,
        reason: format!("restored from a snapshot of cluster {OLD} as of entry 40"),
        ..Configuration::default()
    };
    let [(at, now)] = &recovered.configurations[..] else {
        panic!("{:?}", recovered.configurations);
    };
    assert_eq!((*at, &**now), (AT.index, &configuration));
    let store = snapshots(disk);
    let newest = store.newest().unwrap();
    assert_eq!(newest.meta.position, AT);
    assert_eq!(newest.meta.cluster_id, cluster);
    let reader = store.reader(AT).unwrap();
    assert_eq!(reader.format(), "test");
    let bytes: Vec<_> = reader.chunks().collect::<Result<_, _>>().unwrap();
    assert_eq!(bytes.concat(), application(AT, 310));
    let sessions = SessionTable::decode(reader.sessions().clone()).unwrap();
    assert!(sessions.is_empty(), "all sessions have expired");
    assert_eq!(sessions.applied_index(), AT.index);
    cluster
}

fn append(disk: &SimDisk, sequence: u64) {
    let (mut store, recovered) = LogStore::open(Arc::new(disk.clone()), options()).unwrap();
    let entry = Entry {
        index: recovered.last.index + 1,
        term: AT.term + 1,
        log_time_ms: 123_457,
        payload: Payload::Noop,
    };
    store
        .write(&[Write {
            sequence,
            hard_state: Some(HardState {
                current_term: AT.term + 1,
                ..HardState::default()
            }),
            entries: vec![entry],
            ..nothing()
        }])
        .unwrap();
}

/// P5: the power goes at every change of the disk; then the node starts again, and begins the one
/// cluster or another, whole, and with nothing of the old one but its state.
#[test]
fn a_restore_cut_anywhere_is_repeated_or_has_happened() {
    let file = old();
    let mut seen = [0, 0];
    for changes in 0.. {
        let mut done = false;
        for seed in 0..6 {
            let disk = SimDisk::new(seed);
            disk.put(RESTORE_FILE, &file);
            let switch = Switch::after(changes, &disk);
            let (first, second) = (ClusterId(0xA), ClusterId(0xB));
            let begun = start(Arc::new(switch.clone()), first);
            done = begun.is_ok();
            assert_eq!(done, !switch.is_off(), "{:?}", begun.err());
            disk.crash(seed);
            // A crash of the second start, too.
            let again = Switch::after(changes / 2, &disk);
            let _ = start(Arc::new(again.clone()), second);
            disk.crash(seed + 1);
            let third = ClusterId(0xC);
            let (identity, _) = start(Arc::new(disk.clone()), third).unwrap();
            let cluster = check_restored(&disk, &[first, second, third]);
            assert_eq!(identity.cluster_id(), Some(cluster), "it is bound for good");
            seen[usize::from(cluster == first)] += 1;
            append(&disk, 1);
            disk.crash_losing_all_unsynced();
            let (identity, recovered) = start(Arc::new(disk.clone()), third).unwrap();
            assert_eq!(identity.cluster_id(), Some(cluster));
            assert_eq!(recovered.last.index, AT.index + 1);
        }
        if done {
            assert!(changes > 20, "only {changes} changes");
            break;
        }
    }
    assert!(seen.iter().all(|times| *times > 10), "{seen:?}");
}

/// The file waits beside a node that is something already: its log is not touched, and it does not start.
#[test]
fn a_restore_beside_a_node_that_is_not_empty_is_refused() {
    let disk = SimDisk::new(1);
    disk.put(RESTORE_FILE, &old());
    let (identity, _) = start(Arc::new(disk.clone()), ClusterId(0xA)).unwrap();
    append(&disk, 1);
    let log = |disk: &SimDisk| LogStore::open(Arc::new(disk.clone()), options()).unwrap().1;
    let before = log(&disk);
    // Another one, and the very same.
    let other = Position { index: 99, term: 9 };
    for file in [old_file(old_meta(other), 5), old()] {
        disk.put(RESTORE_FILE, &file);
        let refused = start(Arc::new(disk.clone()), ClusterId(0xB)).unwrap_err();
        assert!(refused.contains(RESTORE_FILE), "{refused}");
        assert!(refused.contains("is not empty"), "{refused}");
        assert_eq!(disk.contents(RESTORE_FILE), Some(file));
        assert_eq!(log(&disk), before);
    }
    disk.remove(RESTORE_FILE).unwrap();
    let (after, _) = start(Arc::new(disk.clone()), ClusterId(0xB)).unwrap();
    assert_eq!(after.cluster_id(), identity.cluster_id());
    // A snapshot of its own cluster never was one to begin anew with.
    let own = SimDisk::new(2);
    let mut meta = old_meta(AT);
    meta.cluster_id = ClusterId(0xA);
    own.put(RESTORE_FILE, &old_file(meta, 5));
    assert!(start(Arc::new(own), ClusterId(0xA)).is_err());
}

#[test]
fn a_damaged_file_is_not_restored() {
    let file = old();
    for place in [0, 90, file.len() / 2, file.len() - 1] {
        let disk = SimDisk::new(1);
        disk.put(RESTORE_FILE, &file);
        disk.flip(RESTORE_FILE, place as u64, 3);
        let refused = start(Arc::new(disk.clone()), ClusterId(0xA)).unwrap_err();
        assert!(refused.contains("damaged at byte"), "{refused}");
        // Once it is mended, the node begins with it.
        disk.flip(RESTORE_FILE, place as u64, 3);
        start(Arc::new(disk.clone()), ClusterId(0xB)).unwrap();
        check_restored(&disk, &[ClusterId(0xB)]);
    }
}

#[test]
fn what_no_log_can_go_on_behind_is_not_restored() {
    let most = u64::MAX - 1;
    for (index, term, time) in [(most, 1, 1), (1, most, 1), (1, 1, most)] {
        let disk = SimDisk::new(1);
        let mut meta = old_meta(Position { index, term });
        meta.configuration_index = 1;
        meta.log_time_ms = time;
        disk.put(RESTORE_FILE, &old_file(meta, 5));
        let refused = start(Arc::new(disk.clone()), ClusterId(0xA)).unwrap_err();
        assert!(refused.contains("cannot be restored"), "{refused}");
    }
}

// ---- on a real disk: saved by a client, put where the daemon finds it ----

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The offer that is saved.
fn offer_of(file: &[u8]) -> raft_disk::SnapshotOffer {
    let folder = folder();
    let path = folder.path().join("s");
    fs::write(&path, file).unwrap();
    SnapshotReader::of_file(&path).unwrap().info().offer()
}

#[test]
fn a_saved_file_is_there_whole_or_not_at_all() {
    let (folder, file) = (folder(), old());
    let offer = offer_of(&file);
    let path = folder.path().join("saved");
    let part = folder.path().join(format!("saved{PART_SUFFIX}"));
    let mut saving = Saving::begin(&path, false).unwrap();
    saving.append(&file[..100]).unwrap();
    let cut = saving.finish(&offer, OLD).unwrap_err();
    assert!(
        matches!(
            cut,
            SaveError::Snapshot(SnapshotError::Incomplete { received: 100, .. })
        ),
        "{cut}"
    );
    // Nobody else writes to it meanwhile, and what it has is not in the way of the next one.
    let busy = Saving::begin(&path, true).unwrap_err();
    assert!(matches!(busy, SaveError::Busy { .. }), "{busy}");
    saving.begin_again().unwrap();
    let mut damaged = file.clone();
    damaged[300] ^= 1;
    saving.append(&damaged).unwrap();
    let bad = saving.finish(&offer, OLD).unwrap_err();
    assert!(
        matches!(bad, SaveError::Snapshot(SnapshotError::NotAsOffered(_))),
        "{bad}"
    );
    saving.begin_again().unwrap();
    saving.append(&file).unwrap();
    let foreign = saving.finish(&offer, ClusterId(9)).unwrap_err();
    assert!(
        matches!(foreign, SaveError::Snapshot(SnapshotError::NotAsOffered(_))),
        "{foreign}"
    );
    assert_eq!(names(folder.path()), ["saved.part"]);
    drop(saving);
    assert!(names(folder.path()).is_empty(), "nothing is left behind");
    // A process that was killed leaves this.
    fs::write(&part, vec![7; 5000]).unwrap();
    let mut saving = Saving::begin(&path, false).unwrap();
    saving.append(&file).unwrap();
    let info = saving.finish(&offer, OLD).unwrap();
    assert_eq!(info.meta.position, AT);
    drop(saving);
    assert_eq!(names(folder.path()), ["saved"]);
    assert_eq!(fs::read(&path).unwrap(), file);
}

#[test]
fn what_is_there_gives_way_only_when_that_was_said() {
    let (folder, file) = (folder(), old());
    let path = folder.path().join("saved");
    fs::write(&path, "mine").unwrap();
    let there = Saving::begin(&path, false).unwrap_err();
    assert!(matches!(there, SaveError::Exists { .. }), "{there}");
    drop(Saving::begin(&path, true).unwrap());
    assert_eq!(fs::read(&path).unwrap(), b"mine", "it was not finished");
    fs::remove_file(&path).unwrap();
    let mut saving = Saving::begin(&path, false).unwrap();
    saving.append(&file).unwrap();
    fs::write(&path, "meanwhile").unwrap();
    let there = saving.finish(&offer_of(&file), OLD).unwrap_err();
    assert!(matches!(there, SaveError::Exists { .. }), "{there}");
    drop(saving);
    assert_eq!(fs::read(&path).unwrap(), b"meanwhile");
    let mut saving = Saving::begin(&path, true).unwrap();
    saving.append(&file).unwrap();
    saving.finish(&offer_of(&file), OLD).unwrap();
    assert_eq!(fs::read(&path).unwrap(), file);
}

#[test]
fn a_snapshot_is_placed_where_no_node_ever_ran() {
    let (folder, file) = (folder(), old());
    let saved = folder.path().join("saved");
    fs::write(&saved, &file).unwrap();
    let data = folder.path().join("deep/data");
    let info = restore::place(&saved, &data).unwrap();
    assert_eq!(info.meta.position, AT);
    assert_eq!(names(&data), [RESTORE_FILE]);
    assert_eq!(fs::read(data.join(RESTORE_FILE)).unwrap(), file);
    assert_eq!(fs::read(&saved).unwrap(), file);
    let waiting = Restore::waiting(Arc::new(RealDisk::open(&data).unwrap())).unwrap();
    assert_eq!(waiting.unwrap().info(), &info);
    // One waits there already.
    let twice = restore::place(&saved, &data).unwrap_err();
    assert!(twice.to_string().contains(RESTORE_FILE), "{twice}");
    assert_eq!(names(&data), [RESTORE_FILE]);
}

#[test]
fn whatever_a_node_has_left_is_in_the_way() {
    let (folder, file) = (folder(), old());
    let saved = folder.path().join("saved");
    fs::write(&saved, &file).unwrap();
    for (number, remains) in [
        "member/identity.json",
        "raft/identity",
        "raft/log-0000000000000001",
        "state-machine/state.redb",
    ]
    .into_iter()
    .enumerate()
    {
        let data = folder.path().join(format!("data-{number}"));
        let inside = data.join(remains);
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        // A lock says nothing: it is left by whoever looked in.
        fs::write(inside.with_file_name("lock"), "").unwrap();
        fs::write(&inside, "x").unwrap();
        let refused = restore::place(&saved, &data).unwrap_err();
        let RestoreError::InTheWay { path } = &refused else {
            panic!("{refused}");
        };
        assert_eq!(*path, inside.display().to_string());
        assert!(!data.join(RESTORE_FILE).exists());
        fs::remove_file(&inside).unwrap();
        restore::place(&saved, &data).unwrap();
    }
    // A daemon that runs, and waits to learn who it is.
    let data = folder.path().join("running");
    fs::create_dir_all(data.join("raft")).unwrap();
    let lock = DirectoryLock::acquire(&data.join("raft")).unwrap();
    let refused = restore::place(&saved, &data).unwrap_err();
    assert!(refused.to_string().contains("is in use by"), "{refused}");
    drop(lock);
    restore::place(&saved, &data).unwrap();
}

#[test]
fn what_is_damaged_is_placed_nowhere() {
    let (folder, file) = (folder(), old());
    let (saved, data) = (folder.path().join("saved"), folder.path().join("data"));
    for place in [20, 400, file.len() - 3] {
        let mut damaged = file.clone();
        damaged[place] ^= 0x10;
        fs::write(&saved, &damaged).unwrap();
        let refused = restore::place(&saved, &data).unwrap_err();
        let named = matches!(
            &refused,
            RestoreError::Snapshot(SnapshotError::Damaged { path, .. }) if path.ends_with("saved")
        );
        assert!(named, "{refused}");
        assert!(!data.exists());
    }
    fs::write(&saved, "a letter").unwrap();
    assert!(restore::place(&saved, &data).is_err());
    let missing = restore::place(&folder.path().join("none"), &data).unwrap_err();
    assert!(missing.to_string().contains("none"), "{missing}");
    assert!(!data.exists());
}

#[test]
fn an_empty_node_is_known() {
    let disk = SimDisk::new(1);
    assert!(Identity::is_empty_on(&disk).unwrap());
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    Identity::open_or_create(shared.clone(), Some(NODE)).unwrap();
    assert!(Identity::is_empty_on(&disk).unwrap());
    disk.put(RESTORE_FILE, &old());
    start(shared, ClusterId(0xA)).unwrap();
    assert!(!Identity::is_empty_on(&disk).unwrap());
    disk.put("identity", b"nonsense");
    let damaged = Identity::is_empty_on(&disk).unwrap_err();
    assert!(matches!(damaged, IdentityError::Damaged { .. }));
}
