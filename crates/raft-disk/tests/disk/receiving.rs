//! Snapshots of other nodes, with everything that may happen on the way.

use std::io::ErrorKind;

use raft_core::{ClusterId, Position};
use raft_disk::sim::{Fault, Operation};
use raft_disk::{Disk, SimDisk, SnapshotError, SnapshotOffer};

use crate::lives::{check_newest, elsewhere, snapshots};
use crate::model::Dice;
use crate::snapshots::{CLUSTER, LIMIT, accepted, half_made, meta, receive};

/// Any cut of the connection, with the process going on, dying, or losing its power: what is there is
/// gone on with, and what comes out is whole and durable.
#[test]
fn receiving_goes_on_where_it_was_cut() {
    let meta = meta(7);
    let (offer, bytes) = elsewhere(&meta, 600);
    let (mut resumed, mut torn) = (0, 0);
    for cut in 0..=bytes.len() {
        for end in 0..6u64 {
            let disk = SimDisk::new(cut as u64);
            let store = snapshots(&disk);
            let mut receiver = store.receive(offer, CLUSTER, LIMIT).unwrap();
            for piece in bytes[..cut].chunks(33) {
                receiver.append(piece).unwrap();
            }
            assert_eq!(receiver.offset(), cut as u64);
            drop(receiver);
            let mut store = store;
            match end {
                0 => {}
                1 => {
                    disk.kill();
                    store = snapshots(&disk);
                }
                _ => {
                    disk.crash(cut as u64 * 7 + end);
                    store = snapshots(&disk);
                }
            }
            // A power cut may take the file as well: nobody had synced its name.
            let begun = store.begun().unwrap();
            assert!(begun.is_some() || end > 1);
            assert!(begun.is_none_or(|(begun, kept)| begun == offer && kept <= cut as u64));
            let receiver = store.receive(offer, CLUSTER, LIMIT).unwrap();
            let offset = receiver.offset();
            assert!(offset <= cut as u64);
            match end {
                0 => assert_eq!(offset, cut as u64),
                // Whole chunks, and all of them, are found again.
                1 => assert!(offset + 58 > cut as u64 || cut < 150, "{offset} of {cut}"),
                _ => torn += u64::from(offset + 58 < cut as u64),
            }
            resumed += u64::from(offset > 0);
            drop(receiver);
            assert_eq!(half_made(&disk).len(), 1);
            receive(&store, offer, &bytes).unwrap();
            assert!(half_made(&disk).is_empty());
            assert_eq!(store.begun().unwrap(), None);
            disk.crash_losing_all_unsynced();
            let store = snapshots(&disk);
            assert_eq!(check_newest(&store), Some(meta.clone()));
        }
    }
    assert!(resumed > 1000 && torn > 100, "{resumed} {torn}");
}

/// D7: a sync fails, and the file cannot even be removed. What the next life finds in memory counts
/// as clean; it must be written again, not only synced.
#[test]
fn what_a_failed_sync_left_is_not_trusted() {
    let meta = meta(7);
    let (offer, bytes) = elsewhere(&meta, 600);
    for removed in [false, true] {
        for after in 0..4 {
            let disk = SimDisk::new(1);
            let store = snapshots(&disk);
            for operation in [Operation::Sync, Operation::Remove] {
                if operation == Operation::Sync || !removed {
                    disk.inject(Fault {
                        operation,
                        after: if operation == Operation::Sync {
                            after
                        } else {
                            0
                        },
                        error: ErrorKind::Other,
                        written: 0,
                    });
                }
            }
            let error = receive(&store, offer, &bytes).unwrap_err();
            assert!(matches!(error, SnapshotError::Disk(_)), "{error}");
            assert_eq!(half_made(&disk).len(), usize::from(!removed));
            disk.clear_faults();
            let store = if after % 2 == 0 {
                store
            } else {
                disk.kill();
                snapshots(&disk)
            };
            let receiver = store.receive(offer, CLUSTER, LIMIT).unwrap();
            assert_eq!(receiver.offset() > 0, !removed);
            receive(&store, offer, &bytes).unwrap();
            disk.crash_losing_all_unsynced();
            assert_eq!(check_newest(&snapshots(&disk)), Some(meta.clone()));
        }
    }
}

/// What its receiver cannot use never becomes one of the store's snapshots, not even for a start after it,
/// and is not kept to be gone on with.
#[test]
fn what_is_not_accepted_is_gone() {
    let meta = meta(7);
    let (offer, bytes) = elsewhere(&meta, 600);
    let disk = SimDisk::new(1);
    let store = snapshots(&disk);
    let mut receiver = store.receive(offer, CLUSTER, LIMIT).unwrap();
    receiver.append(&bytes).unwrap();
    let mut seen = None;
    let refused = receiver.finish(|meta, sessions| {
        seen = Some((meta.position, sessions.clone()));
        Err("of a term that is to come".to_owned())
    });
    assert_eq!(seen, Some((meta.position, "sessions at 7".into())));
    let error = refused.unwrap_err();
    assert!(matches!(error, SnapshotError::Unusable(_)), "{error}");
    assert!(error.to_string().contains("of a term that is to come"));
    assert_eq!(store.newest(), None);
    assert_eq!(disk.list().unwrap(), Vec::<String>::new());
    receive(&store, offer, &bytes).unwrap();
    assert_eq!(check_newest(&store), Some(meta));
}

/// At most one partial file; the receiver that came last has it.
#[test]
fn another_offer_takes_the_place_of_the_first() {
    let disk = SimDisk::new(1);
    let store = snapshots(&disk);
    let (first, bytes) = elsewhere(&meta(7), 600);
    let (second, others) = elsewhere(&meta(9), 500);
    let mut one = store.receive(first, CLUSTER, LIMIT).unwrap();
    one.append(&bytes[..300]).unwrap();
    let mut two = store.receive(second, CLUSTER, LIMIT).unwrap();
    assert_eq!((two.offset(), half_made(&disk).len()), (0, 1));
    assert!(matches!(
        one.append(&bytes[300..]),
        Err(SnapshotError::GivenUp)
    ));
    assert!(matches!(one.finish(accepted), Err(SnapshotError::GivenUp)));
    two.append(&others[..300]).unwrap();
    // The same offer, from another peer: it goes on, and the one before is out.
    let mut three = store.receive(second, CLUSTER, LIMIT).unwrap();
    assert_eq!(three.offset(), 300);
    assert!(matches!(
        two.append(&others[300..]),
        Err(SnapshotError::GivenUp)
    ));
    three.append(&others[300..]).unwrap();
    three.finish(accepted).unwrap();
    check_newest(&store).unwrap();
    // Other bytes of the same entries are another offer.
    let other = SnapshotOffer {
        checksum: first.checksum ^ 1,
        ..first
    };
    let mut one = store.receive(first, CLUSTER, LIMIT).unwrap();
    one.append(&bytes[..300]).unwrap();
    assert_eq!(store.receive(other, CLUSTER, LIMIT).unwrap().offset(), 0);
    // It is older than the newest: of no use after a restart.
    assert_eq!(half_made(&disk).len(), 1);
    snapshots(&disk);
    assert!(half_made(&disk).is_empty());
    let three = store.receive(second, CLUSTER, LIMIT).unwrap();
    three.discard().unwrap();
    assert!(half_made(&disk).is_empty());
}

#[test]
fn what_was_not_offered_is_refused() {
    let disk = SimDisk::new(1);
    let store = snapshots(&disk);
    let (offer, bytes) = elsewhere(&meta(7), 600);
    let begin = |offer| store.receive(offer, CLUSTER, LIMIT);
    let with = |file_bytes, index| SnapshotOffer {
        file_bytes,
        position: Position { index, term: 3 },
        ..offer
    };
    let error = begin(with(LIMIT + 1, 7)).unwrap_err();
    assert!(matches!(error, SnapshotError::TooLarge { .. }), "{error}");
    for (file_bytes, index) in [(115, 7), (0, 7), (1000, 0), (1000, u64::MAX)] {
        let error = begin(with(file_bytes, index)).unwrap_err();
        assert!(matches!(error, SnapshotError::Invalid(_)), "{error}");
    }
    assert!(disk.list().unwrap().is_empty());
    // Too few bytes: they are kept.
    let mut receiver = begin(offer).unwrap();
    receiver.append(&bytes[..400]).unwrap();
    let error = receiver.finish(accepted).unwrap_err();
    assert!(
        matches!(error, SnapshotError::Incomplete { received: 400, .. }),
        "{error}"
    );
    // Too many: they are gone.
    let mut receiver = begin(offer).unwrap();
    assert_eq!(receiver.offset(), 400);
    let error = receiver.append(&bytes).unwrap_err();
    assert!(matches!(error, SnapshotError::NotAsOffered(_)), "{error}");
    assert!(matches!(receiver.append(&[1]), Err(SnapshotError::GivenUp)));
    assert!(disk.list().unwrap().is_empty());
    // A sound one, which is another than was offered, or of another cluster.
    for offer in [
        with(offer.file_bytes, 8),
        SnapshotOffer {
            checksum: 1,
            ..offer
        },
    ] {
        let error = receive(&store, offer, &bytes).unwrap_err();
        assert!(matches!(error, SnapshotError::NotAsOffered(_)), "{error}");
    }
    let mut receiver = store.receive(offer, ClusterId(5), LIMIT).unwrap();
    receiver.append(&bytes).unwrap();
    let sentence = receiver.finish(accepted).unwrap_err().to_string();
    assert!(sentence.contains("of cluster 000000"), "{sentence}");
    assert!(disk.list().unwrap().is_empty());
    // Any bytes at all.
    for seed in 0..300 {
        let mut bytes = bytes.clone();
        let at = Dice(seed).below(bytes.len() as u64) as usize;
        let rest = bytes.len() - at;
        bytes[at..].copy_from_slice(&Dice(seed).bytes(rest as u64));
        assert!(receive(&store, offer, &bytes).is_err());
        // Across a restart, too.
        let mut receiver = begin(offer).unwrap();
        receiver.append(&bytes[..bytes.len() - 9]).unwrap();
        drop(receiver);
        disk.kill();
        assert!(receive(&snapshots(&disk), offer, &bytes).is_err());
        let store = snapshots(&disk);
        assert!(disk.list().unwrap().is_empty() && store.newest().is_none());
        disk.kill();
    }
}

/// A partial file that holds more than was offered, whatever that is.
#[test]
fn what_lies_behind_the_intact_part_is_cut_off() {
    let meta = meta(7);
    let (offer, bytes) = elsewhere(&meta, 600);
    let disk = SimDisk::new(1);
    let mut receiver = snapshots(&disk).receive(offer, CLUSTER, LIMIT).unwrap();
    receiver.append(&bytes[..400]).unwrap();
    drop(receiver);
    let name = half_made(&disk).remove(0);
    let mut longer = bytes.clone();
    longer[450..].fill(7);
    longer.extend_from_slice(&[7; 999]);
    disk.put(&name, &longer);
    let store = snapshots(&disk);
    let offset = store.receive(offer, CLUSTER, LIMIT).unwrap().offset();
    assert!((300..450).contains(&offset), "{offset}");
    assert_eq!(disk.used(), offset);
    receive(&store, offer, &bytes).unwrap();
    assert_eq!(check_newest(&store), Some(meta));
}
