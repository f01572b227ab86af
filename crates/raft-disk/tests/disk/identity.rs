//! Who a node is, across crashes.

use std::io::ErrorKind;
use std::sync::Arc;

use raft_core::{ClusterId, NodeId};
use raft_disk::sim::{Fault, Operation};
use raft_disk::{Disk, IDENTITY_FILE, Identity, IdentityError, SimDisk};

use crate::model::{Dice, Script, open};

const NODE: NodeId = NodeId(0x1234_5678);
const CLUSTER: ClusterId = ClusterId(0xABCD);

fn identity(disk: &SimDisk) -> Result<Identity, IdentityError> {
    Identity::open_or_create(Arc::new(disk.clone()), Some(NODE))
}

fn with_log(disk: &SimDisk) {
    let (mut store, _) = open(disk).unwrap();
    let mut script = Script::new(1);
    while script.model.entries.is_empty() {
        store.write(&script.group()).unwrap();
    }
}

#[test]
fn it_is_made_once_and_kept() {
    let disk = SimDisk::new(0);
    let nobody = Identity::open_or_create(Arc::new(disk.clone()), None).unwrap_err();
    assert!(matches!(nobody, IdentityError::Unknown { .. }), "{nobody}");
    let mut mine = identity(&disk).unwrap();
    assert_eq!(
        (mine.node_id(), mine.cluster_id(), mine.boot()),
        (NODE, None, 0)
    );
    assert_eq!(mine.next_boot().unwrap(), 1);
    assert_eq!(mine.next_boot().unwrap(), 2);
    with_log(&disk);
    mine.bind(CLUSTER).unwrap();
    mine.bind(CLUSTER).unwrap();
    disk.crash_losing_all_unsynced();
    let mut mine = Identity::open_or_create(Arc::new(disk.clone()), None).unwrap();
    assert_eq!(
        (mine.node_id(), mine.cluster_id(), mine.boot()),
        (NODE, Some(CLUSTER), 2)
    );
    assert_eq!(Identity::node_id_on(&disk).unwrap(), Some(NODE));
    mine.settle(Some(CLUSTER)).unwrap();
    let other = mine.settle(Some(ClusterId(9))).unwrap_err();
    assert!(
        matches!(other, IdentityError::OtherCluster { .. }),
        "{other}"
    );
    let gone = mine.settle(None).unwrap_err();
    assert!(matches!(gone, IdentityError::WithoutLog { .. }), "{gone}");
}

#[test]
fn two_nodes_in_one_directory_are_both_named() {
    let disk = SimDisk::new(0);
    identity(&disk).unwrap();
    let error = Identity::open_or_create(Arc::new(disk), Some(NodeId(77))).unwrap_err();
    let sentence = error.to_string();
    assert!(sentence.contains(&NODE.to_string()), "{sentence}");
    assert!(sentence.contains(&NodeId(77).to_string()), "{sentence}");
}

/// D5.
#[test]
fn identity_and_log_belong_together() {
    // A log, and no identity.
    let disk = SimDisk::new(0);
    with_log(&disk);
    let error = identity(&disk).unwrap_err();
    assert!(
        matches!(error, IdentityError::LogWithoutIdentity { .. }),
        "{error}"
    );

    // An identity that was never bound, and no log: an empty node.
    let disk = SimDisk::new(0);
    identity(&disk).unwrap();
    let mut mine = identity(&disk).unwrap();
    mine.settle(None).unwrap();

    // A log that was founded, and a crash before the identity heard of it.
    with_log(&disk);
    let (store, _) = open(&disk).unwrap();
    let mut mine = identity(&disk).unwrap();
    assert_eq!(mine.cluster_id(), None);
    mine.settle(store.cluster_id()).unwrap();
    assert!(mine.cluster_id().is_some());

    // A bound identity, and no log.
    let segment = disk
        .list()
        .unwrap()
        .into_iter()
        .find(|name| name.starts_with("log-"))
        .unwrap();
    disk.remove(&segment).unwrap();
    let error = identity(&disk).unwrap_err();
    assert!(matches!(error, IdentityError::WithoutLog { .. }), "{error}");
    assert!(error.to_string().contains("its log is gone"), "{error}");
}

/// A crash at any operation, with any part of the bytes written: the old identity or the new one.
#[test]
fn a_crash_leaves_the_old_one_or_the_new_one() {
    let operations = [
        Operation::Create,
        Operation::Write,
        Operation::Sync,
        Operation::Rename,
        Operation::SyncDir,
    ];
    for seed in 0..1000 {
        let disk = SimDisk::new(seed);
        let mut dice = Dice(seed);
        with_log_of_nobody(&disk);
        let mut mine = identity(&disk).unwrap();
        let mut boot = mine.next_boot().unwrap();
        let mut bound = None;
        for _ in 0..6 {
            disk.inject(Fault {
                operation: operations[dice.below(5) as usize],
                after: dice.below(2),
                error: ErrorKind::Other,
                written: dice.below(130) as usize,
            });
            let result = if dice.below(2) == 0 {
                mine.bind(CLUSTER)
            } else {
                mine.next_boot().map(|_| ())
            };
            if result.is_ok() {
                (boot, bound) = (mine.boot(), mine.cluster_id());
            }
            disk.clear_faults();
            disk.crash(dice.roll());
            mine = identity(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let new = (mine.boot(), mine.cluster_id());
            assert!(new.0 == boot || new.0 == boot + 1, "seed {seed}: {new:?}");
            assert!(
                new.1 == bound || new.1 == Some(CLUSTER),
                "seed {seed}: {new:?}"
            );
            (boot, bound) = new;
        }
    }
}

/// An identity that may be bound at once.
fn with_log_of_nobody(disk: &SimDisk) {
    identity(disk).unwrap();
    with_log(disk);
    disk.sync_dir().unwrap();
}

#[test]
fn damage_at_any_byte_is_noticed() {
    let disk = SimDisk::new(0);
    with_log_of_nobody(&disk);
    let mut mine = identity(&disk).unwrap();
    mine.next_boot().unwrap();
    mine.bind(CLUSTER).unwrap();
    let bytes = disk.contents(IDENTITY_FILE).unwrap();
    for offset in 0..bytes.len() {
        for bit in 0..8 {
            let disk = disk.fork();
            disk.flip(IDENTITY_FILE, offset as u64, bit);
            let error = identity(&disk).unwrap_err();
            assert!(
                matches!(error, IdentityError::Damaged { .. }),
                "{offset} {bit}: {error}"
            );
        }
        let disk = disk.fork();
        disk.put(IDENTITY_FILE, &bytes[..offset]);
        let error = identity(&disk).unwrap_err();
        assert!(
            matches!(error, IdentityError::Damaged { .. }),
            "{offset}: {error}"
        );
        assert!(error.to_string().contains("identity is damaged"), "{error}");
    }
}
