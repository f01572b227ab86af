//! Each rule of the contract, without network or threads.

#![allow(clippy::unwrap_used)]

#[path = "../tests/machines/mod.rs"]
pub(crate) mod machines;

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use machines::{Counter, Ledger};
use proptest::prelude::*;

use crate::engine::{Applied, Batch, BatchEntry, Engine, Failure, Handshake};
use crate::header::{Binding, Header, bound_node_id};
use crate::{
    Durability, DurableStateMachine, Entry, Limits, Outcome, Refusal, SnapshotWork, StorageError,
    TransactionWork, TransferError, Volatile,
};

pub(crate) const CLUSTER: u128 = 0xc1;
pub(crate) const NODE: u128 = 0xa1;

pub(crate) fn engine(machine: impl DurableStateMachine) -> Engine {
    Engine::open(Arc::new(machine), Limits::default()).unwrap()
}

pub(crate) fn hello(epoch: u64) -> Handshake {
    let binding = Binding {
        cluster_id: CLUSTER,
        node_id: NODE,
    };
    Handshake {
        protocol_min: 1,
        protocol_max: 1,
        binding,
        epoch,
    }
}

/// A batch in term 1 that begins at `first`; "" stands for an entry without a command.
pub(crate) fn batch(epoch: u64, first: u64, commands: &[&str]) -> Batch {
    let entries = (first..).zip(commands).map(|(index, command)| BatchEntry {
        entry: Entry {
            index,
            term: 1,
            log_time: Duration::from_millis(index * 10),
        },
        command: (!command.is_empty()).then(|| Bytes::copy_from_slice(command.as_bytes())),
    });
    Batch {
        epoch,
        results_floor: 0,
        entries: entries.collect(),
    }
}

pub(crate) fn ok(text: &str) -> Applied {
    Applied::Outcome(Outcome::ok(text.to_owned()))
}

pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T, Failure>) -> Refusal {
    match result {
        Err(Failure::Refused(refusal)) => refusal,
        other => panic!("expected a refusal, found {other:?}"),
    }
}

#[test]
fn a_duplicate_gets_the_outcome_of_the_first_time_and_is_not_run() {
    let ledger = Ledger::default();
    let mut engine = engine(ledger.clone());
    engine.handshake(&hello(1)).unwrap();
    let first = engine.execute(&batch(1, 1, &["5", "what?", "2"])).unwrap();
    let rejected = Applied::Outcome(Outcome::rejected("send a whole number"));
    assert_eq!(first, [ok("5"), rejected.clone(), ok("7")]);
    // The last two again, and one new.
    let again = engine.execute(&batch(1, 2, &["what?", "2", "3"])).unwrap();
    assert_eq!(again, [rejected, ok("7"), ok("10")]);
    assert_eq!(ledger.state().counter, Counter(10));
    assert_eq!(engine.header().applied_index, 4);
}

#[test]
fn a_gap_is_refused_whole() {
    let mut engine = engine(Ledger::default());
    engine.handshake(&hello(1)).unwrap();
    engine.execute(&batch(1, 1, &["1"])).unwrap();
    let gap = refusal(engine.execute(&batch(1, 3, &["1", "1"])));
    assert_eq!(
        gap,
        Refusal::OutOfOrder {
            given: 3,
            applied: 1
        }
    );
    assert!(gap.to_string().contains("OUT_OF_ORDER"));
    assert_eq!(engine.header().applied_index, 1);
}

#[test]
fn only_the_latest_epoch_is_answered_and_a_handshake_opens_a_larger_one() {
    let mut engine = engine(Ledger::default());
    let stale = refusal(engine.execute(&batch(0, 1, &["1"])));
    assert_eq!(
        stale,
        Refusal::StaleEpoch {
            given: 0,
            latest: 0
        }
    );
    engine.handshake(&hello(5)).unwrap();
    for given in [0, 4, 5] {
        let refused = refusal(engine.handshake(&hello(given)));
        assert_eq!(refused, Refusal::EpochNotLarger { given, latest: 5 });
    }
    engine.execute(&batch(5, 1, &["1"])).unwrap();
    engine.handshake(&hello(6)).unwrap();
    for given in [5, 7] {
        let stale = refusal(engine.execute(&batch(given, 2, &["1"])));
        assert_eq!(stale, Refusal::StaleEpoch { given, latest: 6 });
    }
    assert_eq!(engine.execute(&batch(6, 2, &["1"])).unwrap(), [ok("2")]);
}

#[test]
fn a_state_belongs_to_the_cluster_and_the_node_of_its_first_handshake() {
    let ledger = Ledger::default();
    assert_eq!(bound_node_id(&ledger), Ok(None));
    let mut first = engine(ledger.clone());
    first.handshake(&hello(1)).unwrap();
    // The binding outlives a crash that comes before anything else.
    ledger.crash();
    assert_eq!(bound_node_id(&ledger), Ok(Some(NODE)));
    let mut engine = engine(ledger);

    let mut foreign = hello(9);
    foreign.binding.cluster_id = 0xc2;
    let refused = refusal(engine.handshake(&foreign));
    assert_eq!(
        refused,
        Refusal::OtherCluster {
            bound: CLUSTER,
            given: 0xc2
        }
    );
    assert!(refused.to_string().contains(&format!("{CLUSTER:032x}")));
    assert!(refused.to_string().contains(&format!("{:032x}", 0xc2)));

    let mut foreign = hello(9);
    foreign.binding.node_id = 0xa2;
    let refused = refusal(engine.handshake(&foreign));
    assert_eq!(
        refused,
        Refusal::OtherNode {
            bound: NODE,
            given: 0xa2
        }
    );

    // A refused handshake has not opened its epoch.
    engine.handshake(&hello(1)).unwrap();
}

#[test]
fn a_daemon_of_another_protocol_is_refused() {
    let mut engine = engine(Ledger::default());
    for (protocol_min, protocol_max) in [(0, 0), (2, 3), (2, 1)] {
        let call = Handshake {
            protocol_min,
            protocol_max,
            ..hello(1)
        };
        let refused = refusal(engine.handshake(&call));
        assert_eq!(
            refused,
            Refusal::Protocol {
                min: protocol_min,
                max: protocol_max
            }
        );
    }
    engine
        .handshake(&Handshake {
            protocol_min: 0,
            protocol_max: 9,
            ..hello(1)
        })
        .unwrap();
}

#[test]
fn a_crash_falls_back_to_a_prefix_with_its_own_outcomes_and_index() {
    let ledger = Ledger::default();
    let mut before = engine(ledger.clone());
    before.handshake(&hello(1)).unwrap();
    before.execute(&batch(1, 1, &["5", "2"])).unwrap();
    assert_eq!(
        before.durable_index(),
        0,
        "nothing but the binding is synced yet"
    );
    assert!(before.dirty());
    before.sync().unwrap();
    assert_eq!(before.durable_index(), 2);
    assert!(!before.dirty());
    before.execute(&batch(1, 3, &["100"])).unwrap();
    assert_eq!(before.durable_index(), 2);

    ledger.crash();
    let mut after = engine(ledger.clone());
    assert_eq!(after.header().applied_index, 2);
    assert_eq!(after.durable_index(), 2);
    after.handshake(&hello(1)).unwrap();
    // The daemon may send again from anywhere before.
    let replay = after.execute(&batch(1, 1, &["5", "2", "100"])).unwrap();
    assert_eq!(replay, [ok("5"), ok("7"), ok("107")]);
    assert_eq!(ledger.state().counter, Counter(107));
}

#[test]
fn outcomes_at_or_below_the_floor_are_forgotten_and_the_floor_only_rises() {
    let ledger = Ledger::default();
    let mut engine = engine(ledger.clone());
    engine.handshake(&hello(1)).unwrap();
    engine.execute(&batch(1, 1, &["1", "1", "1"])).unwrap();
    let raise = Batch {
        results_floor: 2,
        ..batch(1, 4, &[])
    };
    assert_eq!(engine.execute(&raise).unwrap(), []);
    assert_eq!(
        ledger.state().records.keys().copied().collect::<Vec<_>>(),
        [0, 3]
    );
    let lower = Batch {
        results_floor: 1,
        ..batch(1, 1, &["1", "1", "1"])
    };
    let replay = engine.execute(&lower).unwrap();
    assert_eq!(replay, [Applied::Already, Applied::Already, ok("3")]);
    assert_eq!(engine.header().results_floor, 2);
    // A machine that starts anew gets the old floor with the first entries.
    let ahead = Batch {
        results_floor: 100,
        ..batch(1, 4, &["1"])
    };
    assert_eq!(engine.execute(&ahead).unwrap(), [ok("4")]);
    assert_eq!(
        engine.execute(&batch(1, 4, &["1"])).unwrap(),
        [Applied::Already]
    );
    assert_eq!(
        ledger.state().records.keys().copied().collect::<Vec<_>>(),
        [0]
    );
    let highest = Batch {
        results_floor: u64::MAX,
        ..batch(1, 5, &["1"])
    };
    assert_eq!(engine.execute(&highest).unwrap(), [ok("5")]);
    assert_eq!(engine.execute(&highest).unwrap(), [Applied::Already]);
}

#[test]
fn an_entry_without_a_command_only_moves_the_index() {
    let ledger = Ledger::default();
    let mut engine = engine(ledger.clone());
    engine.handshake(&hello(1)).unwrap();
    let outcomes = engine.execute(&batch(1, 1, &["", "4", ""])).unwrap();
    assert_eq!(outcomes, [ok(""), ok("4"), ok("")]);
    assert_eq!(engine.header().applied_index, 3);
    assert_eq!(ledger.state().counter, Counter(4));
    assert_eq!(
        engine.execute(&batch(1, 1, &["", "4", ""])).unwrap(),
        outcomes
    );
}

#[test]
fn the_entry_brings_the_log_s_time() {
    let mut engine = engine(Ledger::default());
    engine.handshake(&hello(1)).unwrap();
    assert_eq!(
        engine.execute(&batch(1, 1, &["0", "time"])).unwrap(),
        [ok("0"), ok("20")]
    );
}

#[test]
fn a_panic_leaves_no_trace_of_its_batch() {
    let ledger = Ledger::default();
    let mut engine = engine(ledger.clone());
    engine.handshake(&hello(1)).unwrap();
    engine.execute(&batch(1, 1, &["1"])).unwrap();
    let before = ledger.state();
    let refused = refusal(engine.execute(&batch(1, 2, &["1", "panic", "1"])));
    let message = "a bug in the author's code".to_owned();
    assert_eq!(refused, Refusal::Panicked { index: 3, message });
    assert_eq!(ledger.state(), before);
    assert_eq!(engine.header().applied_index, 1);
    assert_eq!(
        engine.execute(&batch(1, 2, &["1", "1"])).unwrap(),
        [ok("2"), ok("3")]
    );
}

#[test]
fn a_panic_ends_a_machine_in_memory_for_memory_cannot_be_rolled_back() {
    let machine = Arc::new(Volatile::new(Counter::default()));
    let mut engine = Engine::open(machine.clone(), Limits::default()).unwrap();
    engine.handshake(&hello(1)).unwrap();
    engine.execute(&batch(1, 1, &["1"])).unwrap();
    assert_eq!(engine.durable_index(), 0, "a crash would leave nothing");
    assert!(!engine.dirty());
    let Err(Failure::Storage(error)) = engine.execute(&batch(1, 2, &["panic"])) else {
        panic!("the machine went on");
    };
    assert!(error.to_string().contains("panicked at entry 2"), "{error}");
    assert!(matches!(
        engine.execute(&batch(1, 2, &["1"])),
        Err(Failure::Storage(_))
    ));
    assert!(matches!(
        crate::engine::query(&*machine, b""),
        Err(Failure::Storage(_))
    ));
}

#[test]
fn a_query_that_panics_harms_nobody() {
    let machine = Arc::new(Volatile::new(Counter::default()));
    let mut engine = Engine::open(machine.clone(), Limits::default()).unwrap();
    engine.handshake(&hello(1)).unwrap();
    engine.execute(&batch(1, 1, &["3"])).unwrap();
    assert!(matches!(
        crate::engine::query(&*machine, b"panic"),
        Err(Failure::Refused(Refusal::QueryPanicked(_)))
    ));
    assert_eq!(
        crate::engine::query(&*machine, b""),
        Ok((1, Outcome::ok("3")))
    );
}

#[test]
fn another_term_at_an_applied_index_is_another_history() {
    let mut engine = engine(Ledger::default());
    engine.handshake(&hello(1)).unwrap();
    engine.execute(&batch(1, 1, &["1", "1", "1"])).unwrap();
    for index in [2, 3] {
        let mut other = batch(1, index, &["1"]);
        other.entries[0].entry.term = 2;
        let refused = refusal(engine.execute(&other));
        assert_eq!(
            refused,
            Refusal::OtherHistory {
                index,
                applied_term: 1,
                given_term: 2
            }
        );
    }
    // At the applied index the term is known even when the outcome is not.
    engine
        .execute(&Batch {
            results_floor: 3,
            ..batch(1, 4, &[])
        })
        .unwrap();
    let mut other = batch(1, 3, &["1"]);
    other.entries[0].entry.term = 2;
    assert!(matches!(
        refusal(engine.execute(&other)),
        Refusal::OtherHistory { .. }
    ));
    let mut falling = batch(1, 4, &["1"]);
    falling.entries[0].entry.term = 0;
    assert!(matches!(
        refusal(engine.execute(&falling)),
        Refusal::Malformed(_)
    ));
}

#[test]
fn a_failed_commit_is_a_failed_storage_and_changes_nothing_here() {
    let ledger = Ledger::default();
    let mut engine = engine(ledger.clone());
    engine.handshake(&hello(1)).unwrap();
    ledger.fail_next_commit();
    assert!(matches!(
        engine.execute(&batch(1, 1, &["1"])),
        Err(Failure::Storage(_))
    ));
    assert_eq!(engine.header().applied_index, 0);
}

#[test]
fn much_work_is_synced_at_once() {
    let ledger = Ledger::default();
    let limits = Limits {
        sync_after_entries: 3,
        ..Limits::default()
    };
    let mut engine = Engine::open(Arc::new(ledger.clone()), limits).unwrap();
    engine.handshake(&hello(1)).unwrap();
    let binding = ledger.syncs();
    engine.execute(&batch(1, 1, &["1", "1"])).unwrap();
    assert_eq!((ledger.syncs(), engine.durable_index()), (binding, 0));
    engine.execute(&batch(1, 3, &["1"])).unwrap();
    assert_eq!((ledger.syncs(), engine.durable_index()), (binding + 1, 3));
    assert!(!engine.dirty());
    engine.sync().unwrap();
    assert_eq!(
        ledger.syncs(),
        binding + 1,
        "what is clean is not synced again"
    );
}

#[test]
fn a_header_that_is_damaged_or_of_another_format_is_an_error() {
    let header = Header {
        applied_index: 5,
        applied_term: 2,
        results_floor: 3,
        binding: Some(Binding {
            cluster_id: 1,
            node_id: u128::MAX,
        }),
    };
    let good = header.encode();
    assert_eq!(Header::decode(&good), Ok(header));
    // 1 had a record for each outcome.
    for format in [1, 3] {
        let mut other = good.clone();
        other[0] = format;
        let error = Header::decode(&other).unwrap_err().to_string();
        assert!(error.contains(&format!("format {format}, ")), "{error}");
        assert!(error.contains("only format 2"), "{error}");
    }
    for length in 0..good.len() {
        assert!(Header::decode(&good[..length]).is_err());
    }
    assert!(Header::decode(&[good, vec![0]].concat()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However a log is cut into batches, sent again, synced and crashed: the outcomes are those
    /// of one run from the beginning to the end, but for those that a floor has let go.
    #[test]
    fn neither_batches_nor_replays_nor_crashes_change_an_outcome(
        commands in prop::collection::vec(prop_oneof!["[1-9]", "x", ""], 1..40),
        cuts in prop::collection::vec((1_usize..8, 0_usize..6, 0_u8..4, 0_u64..12), 1..60),
    ) {
        let commands = commands.iter().map(String::as_str).collect::<Vec<_>>();
        let mut whole = engine(Ledger::default());
        whole.handshake(&hello(1)).unwrap();
        let expected = whole.execute(&batch(1, 1, &commands)).unwrap();

        let ledger = Ledger::default();
        let mut split = engine(ledger.clone());
        let mut epoch = 1;
        split.handshake(&hello(epoch)).unwrap();
        for (length, back, event, kept) in cuts {
            match event {
                0 => {
                    ledger.crash();
                    split = engine(ledger.clone());
                    epoch += 1;
                    split.handshake(&hello(epoch)).unwrap();
                }
                1 => assert_eq!(split.sync().unwrap(), None),
                _ => {}
            }
            let applied = usize::try_from(split.header().applied_index).unwrap();
            let from = applied.saturating_sub(back);
            let to = (applied + length).min(commands.len());
            let first = u64::try_from(from).unwrap() + 1;
            let forgotten = split.header().results_floor.min(split.header().applied_index);
            let call = Batch {
                // Also in the middle of this batch. 0: as it was.
                results_floor: (first + 6).saturating_sub(kept) * u64::from(event == 2),
                ..batch(epoch, first, &commands[from..to])
            };
            let outcomes = split.execute(&call).unwrap();
            for (index, (outcome, expected)) in (first..).zip(outcomes.iter().zip(&expected[from..to])) {
                let expected = if index <= forgotten { &Applied::Already } else { expected };
                prop_assert_eq!(outcome, expected, "entry {}", index);
            }
        }
    }
}

/// A ledger whose disk has room for so many bytes of commands.
#[derive(Clone)]
pub(crate) struct Cramped {
    pub ledger: Ledger,
    pub room: Arc<AtomicU64>,
}

impl DurableStateMachine for Cramped {
    fn name(&self) -> &str {
        self.ledger.name()
    }

    fn room_for(&self, _: u64, bytes: u64) -> Result<(), String> {
        if bytes <= self.room.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err("the pretended disk is full".to_owned())
    }

    fn transact(
        &self,
        durability: Durability,
        work: &mut TransactionWork<'_>,
    ) -> Result<(), StorageError> {
        self.ledger.transact(durability, work)
    }

    fn read(&self, work: &mut SnapshotWork<'_>) -> Result<(), StorageError> {
        self.ledger.read(work)
    }

    fn snapshot_formats(&self) -> &'static [&'static str] {
        self.ledger.snapshot_formats()
    }

    fn import(
        &self,
        format: &str,
        source: &mut dyn Read,
        work: &mut TransactionWork<'_>,
    ) -> Result<(), TransferError> {
        self.ledger.import(format, source, work)
    }
}

#[test]
fn a_full_disk_refuses_a_batch_and_the_machine_goes_on_when_there_is_room() {
    let (ledger, room) = (Ledger::default(), Arc::new(AtomicU64::new(4)));
    let cramped = Cramped {
        ledger: ledger.clone(),
        room: room.clone(),
    };
    let mut engine = engine(cramped);
    engine.handshake(&hello(1)).unwrap();
    engine.execute(&batch(1, 1, &["1", "2"])).unwrap();
    let syncs = ledger.syncs();
    // Together with what is not synced it is too much; synced first, it fits.
    engine.execute(&batch(1, 3, &["3", "4", "5"])).unwrap();
    assert_eq!(ledger.syncs(), syncs + 1);
    room.store(0, Ordering::Relaxed);
    let full = refusal(engine.execute(&batch(1, 6, &["6"])));
    assert_eq!(full.reason(), "NO_ROOM");
    assert!(full.to_string().contains("the pretended disk is full"));
    assert_eq!(engine.header().applied_index, 5);
    let waits = engine.sync().unwrap();
    assert_eq!(waits.as_deref(), Some("the pretended disk is full"));
    assert!(engine.dirty());
    room.store(100, Ordering::Relaxed);
    assert_eq!(
        engine.execute(&batch(1, 6, &["6"])).unwrap(),
        [ok("21")],
        "the same batch again"
    );
    assert_eq!(engine.sync().unwrap(), None);
    assert!(!engine.dirty());
}
