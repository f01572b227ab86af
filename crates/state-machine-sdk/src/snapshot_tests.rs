//! Each rule about snapshots, without network or threads.

#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::chunks::Chunk;
use crate::engine::{Applied, Batch, Engine, Failure, Restore, export, query};
use crate::engine_tests::machines::{Counter, FORMAT, LEDGER_FORMAT, Ledger, OLD_FORMAT};
use crate::engine_tests::{CLUSTER, Cramped, NODE, batch, engine, hello, ok, refusal};
use crate::header::bound_node_id;
use crate::{
    DurableStateMachine, Limits, Outcome, RESTORE_ROOM_BYTES, Refusal, SNAPSHOT_CHUNK_BYTES,
    Volatile,
};

/// A ledger that has applied these commands in epoch 1, and the engine that it is in.
fn ledger(commands: &[&str]) -> (Ledger, Engine) {
    let ledger = Ledger::default();
    let mut engine = engine(ledger.clone());
    engine.handshake(&hello(1)).unwrap();
    engine.execute(&batch(1, 1, commands)).unwrap();
    (ledger, engine)
}

fn exported(machine: &dyn DurableStateMachine) -> Vec<Chunk> {
    let chunks = RefCell::new(Vec::new());
    let send = |chunk| {
        chunks.borrow_mut().push(chunk);
        Ok(())
    };
    export(machine, &send).unwrap();
    chunks.into_inner()
}

fn chunk(number: u64, data: &[u8], last: bool) -> Chunk {
    Chunk {
        index: 9,
        term: 4,
        number,
        data: Bytes::copy_from_slice(data),
        crc32c: crc32c::crc32c(data),
        last,
    }
}

/// What [`chunk`]s are a snapshot of.
fn nine() -> Restore {
    Restore {
        epoch: 1,
        format: LEDGER_FORMAT.to_owned(),
        index: 9,
        term: 4,
    }
}

fn restore(engine: &mut Engine, call: &Restore, chunks: &[Chunk]) -> Result<(), Failure> {
    let mut chunks = chunks.iter().cloned();
    engine.restore(call, &mut || Ok(chunks.next()))
}

#[test]
fn a_snapshot_is_chunks_of_one_index_and_the_first_comes_before_the_state_is_read() {
    let (ledger, _) = ledger(&["1", "", "4"]);
    ledger
        .padding
        .store(2 * SNAPSHOT_CHUNK_BYTES, Ordering::Relaxed);
    let chunks = exported(&ledger);
    assert!(chunks[0].data.is_empty());
    let lengths = chunks.iter().map(|chunk| chunk.data.len());
    let expected = [0, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_CHUNK_BYTES, 2];
    assert_eq!(lengths.collect::<Vec<_>>(), expected);
    for (number, chunk) in (0..).zip(&chunks) {
        assert_eq!((chunk.index, chunk.term, chunk.number), (3, 1, number));
        assert_eq!(chunk.crc32c, crc32c::crc32c(&chunk.data));
        assert_eq!(chunk.last, number == 3);
    }
    assert_eq!(&chunks[1].data[..3], b"5\n.");
    // Of an empty state too.
    let chunks = exported(&Volatile::new(Counter::default()));
    let last = chunks.last().unwrap();
    assert_eq!(
        (last.index, last.term, last.last, &last.data[..]),
        (0, 0, true, &b"counter 0"[..])
    );
}

#[test]
fn commands_that_run_beside_a_snapshot_change_nothing_of_it() {
    let (ledger, engine) = ledger(&["1", "4"]);
    ledger
        .padding
        .store(SNAPSHOT_CHUNK_BYTES, Ordering::Relaxed);
    let engine = RefCell::new(engine);
    let chunks = RefCell::new(Vec::new());
    let send = |chunk: Chunk| {
        let mut engine = engine.borrow_mut();
        let next = engine.header().applied_index + 1;
        engine.execute(&batch(1, next, &["100"])).unwrap();
        chunks.borrow_mut().push(chunk);
        Ok(())
    };
    assert_eq!(export(&ledger, &send), Ok(2));
    let chunks = chunks.into_inner();
    assert_eq!(chunks.len(), 3);
    assert!(chunks.iter().all(|chunk| chunk.index == 2));
    assert!(chunks[1].data.starts_with(b"5\n"));
    assert_eq!(ledger.state().counter, Counter(305));
}

#[test]
fn a_snapshot_whose_reader_is_gone_ends_and_the_reason_is_the_reader_s() {
    let (ledger, _) = ledger(&["1"]);
    ledger
        .padding
        .store(9 * SNAPSHOT_CHUNK_BYTES, Ordering::Relaxed);
    for good in 0..4 {
        let sent = AtomicU64::new(0);
        let send = |_| match sent.fetch_add(1, Ordering::Relaxed) {
            sent if sent < good => Ok(()),
            sent => {
                assert_eq!(sent, good, "it was asked again after its refusal");
                Err(Refusal::HungUp)
            }
        };
        assert_eq!(refusal(export(&ledger, &send)), Refusal::HungUp);
        assert!(!ledger.exported.load(Ordering::Relaxed));
    }
}

#[test]
fn a_snapshot_that_panics_harms_nobody() {
    let machine = Arc::new(Volatile::new(Counter::default()));
    let mut engine = Engine::open(machine.clone(), Limits::default()).unwrap();
    engine.handshake(&hello(1)).unwrap();
    engine.execute(&batch(1, 1, &["13"])).unwrap();
    let refused = refusal(export(&*machine, &|_| Ok(())));
    assert_eq!(refused.reason(), "SNAPSHOT_FAILED");
    assert!(
        refused
            .to_string()
            .contains("a bug in the author's snapshot")
    );
    let reply = engine.execute(&batch(1, 2, &["1"])).unwrap();
    assert_eq!(reply, [ok("14")]);
    assert_eq!(exported(&*machine).len(), 2);
}

#[test]
fn a_restored_machine_is_at_the_snapshot_s_index_without_outcomes_and_goes_on_from_there() {
    let (source, _) = ledger(&["5", "", "2"]);
    let chunks = exported(&source);
    let (target, mut engine) = ledger(&["70", "1"]);
    let call = Restore {
        index: 3,
        term: 1,
        ..nine()
    };
    restore(&mut engine, &call, &chunks).unwrap();
    assert_eq!(target.state().counter, Counter(7));
    assert_eq!(exported(&target), chunks, "it is the same state");
    let header = *engine.header();
    assert_eq!(
        (
            header.applied_index,
            header.applied_term,
            header.results_floor
        ),
        (3, 1, 3)
    );
    let keys = target.state().records.keys().copied().collect::<Vec<_>>();
    assert_eq!(keys, [0], "outcomes of another state are gone");
    let binding = header.binding.unwrap();
    assert_eq!((binding.cluster_id, binding.node_id), (CLUSTER, NODE));
    // On disk, and so after a crash.
    assert_eq!((engine.durable_index(), engine.dirty()), (3, false));
    target.crash();
    assert_eq!(bound_node_id(&target), Ok(Some(NODE)));
    let mut engine = crate::engine_tests::engine(target.clone());
    assert_eq!(*engine.header(), header);
    engine.handshake(&hello(1)).unwrap();
    let reply = engine.execute(&batch(1, 2, &["1", "1", "3"])).unwrap();
    assert_eq!(reply, [Applied::Already, Applied::Already, ok("10")]);
    let mut other = batch(1, 4, &["3"]);
    other.entries[0].entry.term = 2;
    assert_eq!(refusal(engine.execute(&other)).reason(), "OTHER_HISTORY");
}

#[test]
fn a_floor_above_the_snapshot_s_index_stays() {
    let (_, mut engine) = ledger(&["1"]);
    let raise = Batch {
        results_floor: 50,
        ..batch(1, 2, &[])
    };
    engine.execute(&raise).unwrap();
    restore(&mut engine, &nine(), &[chunk(0, b"8\n", true)]).unwrap();
    assert_eq!(engine.header().results_floor, 50);
}

#[test]
fn a_machine_in_memory_is_restored_as_well_and_reads_its_old_format() {
    let machine = Arc::new(Volatile::new(Counter::default()));
    let mut engine = Engine::open(machine.clone(), Limits::default()).unwrap();
    engine.handshake(&hello(1)).unwrap();
    engine.execute(&batch(1, 1, &["3"])).unwrap();
    let new = Restore {
        format: FORMAT.to_owned(),
        ..nine()
    };
    for content in ["counter panic", "counter", "8"] {
        let refused = restore(&mut engine, &new, &[chunk(0, content.as_bytes(), true)]);
        assert_eq!(refusal(refused).reason(), "BAD_SNAPSHOT", "{content}");
        assert_eq!(query(&*machine, b""), Ok((1, Outcome::ok("3"))));
    }
    let reply = engine.execute(&batch(1, 1, &["3", "1"])).unwrap();
    assert_eq!(reply, [ok("3"), ok("4")], "outcomes are as they were");

    restore(&mut engine, &new, &[chunk(0, b"counter 8", true)]).unwrap();
    assert_eq!(query(&*machine, b""), Ok((9, Outcome::ok("8"))));
    assert_eq!((engine.durable_index(), engine.dirty()), (0, false));
    let old = Restore {
        format: OLD_FORMAT.to_owned(),
        index: 12,
        ..new
    };
    let mut chunks = [chunk(0, b"2", false), chunk(1, b"1", true)];
    chunks.iter_mut().for_each(|chunk| chunk.index = 12);
    restore(&mut engine, &old, &chunks).unwrap();
    let mut next = batch(1, 13, &["1"]);
    next.entries[0].entry.term = 4;
    assert_eq!(engine.execute(&next).unwrap(), [ok("22")]);
}

#[test]
fn a_restore_is_refused_whole_and_the_old_state_stands() {
    let (ledger, mut engine) = ledger(&["5", "2"]);
    let (state, header) = (ledger.state(), *engine.header());
    let large = vec![b'.'; SNAPSHOT_CHUNK_BYTES + 1];
    let with = |change: &dyn Fn(&mut Chunk)| {
        let mut changed = chunk(1, b"..", false);
        change(&mut changed);
        vec![chunk(0, b"8\n", false), changed, chunk(2, b".", true)]
    };
    let (first, last) = (chunk(0, b"8\n", false), chunk(1, b"..", true));
    let cases = [
        ("nothing at all", vec![]),
        ("no last one", vec![first.clone()]),
        ("the last one first", vec![last.clone(), first.clone()]),
        ("no first one", vec![last.clone()]),
        (
            "one doubled",
            vec![first.clone(), first.clone(), last.clone()],
        ),
        ("one missing", vec![first.clone(), chunk(2, b"..", true)]),
        (
            "a bit in the data",
            with(&|it| it.data = Bytes::from_static(b".,")),
        ),
        (
            "a byte less",
            with(&|it| it.data = Bytes::from_static(b".")),
        ),
        ("a bit in the checksum", with(&|it| it.crc32c ^= 1)),
        ("another index", with(&|it| it.index += 1)),
        ("another term", with(&|it| it.term += 1)),
        ("too large", vec![first.clone(), chunk(1, &large, true)]),
        ("no such state", vec![chunk(0, b"eight\n", true)]),
        ("an end in the middle", vec![chunk(0, b"8", true)]),
        ("empty", vec![chunk(0, b"", true)]),
        (
            "not all of it a state",
            vec![first.clone(), chunk(1, b".-.", true)],
        ),
    ];
    for (what, chunks) in cases {
        let refused = refusal(restore(&mut engine, &nine(), &chunks));
        let reason = refused.reason();
        let expected = ["BAD_SNAPSHOT", "TOO_LARGE"][usize::from(what == "too large")];
        assert_eq!(reason, expected, "{what}: {refused}");
        assert_eq!(ledger.state(), state, "{what}");
        assert_eq!(*engine.header(), header, "{what}");
    }
    // Nothing in the way of a good one, nor of the outcomes of before.
    let reply = engine.execute(&batch(1, 1, &["5", "2"])).unwrap();
    assert_eq!(reply, [ok("5"), ok("7")]);
    restore(&mut engine, &nine(), &[first, last]).unwrap();
    assert_eq!(ledger.state().counter, Counter(8));
}

#[test]
fn bytes_after_the_end_of_a_state_are_refused() {
    /// Reads one line of what it is given, and does not look for more.
    #[derive(Clone)]
    struct Short(Ledger);
    impl DurableStateMachine for Short {
        fn name(&self) -> &str {
            "short"
        }
        fn transact(
            &self,
            durability: crate::Durability,
            work: &mut crate::TransactionWork<'_>,
        ) -> Result<(), crate::StorageError> {
            self.0.transact(durability, work)
        }
        fn read(&self, work: &mut crate::SnapshotWork<'_>) -> Result<(), crate::StorageError> {
            self.0.read(work)
        }
        fn snapshot_formats(&self) -> &'static [&'static str] {
            self.0.snapshot_formats()
        }
        fn import(
            &self,
            format: &str,
            source: &mut dyn Read,
            work: &mut crate::TransactionWork<'_>,
        ) -> Result<(), crate::TransferError> {
            self.0.import(format, &mut source.take(2), work)
        }
    }
    let ledger = Ledger::default();
    let mut engine = engine(Short(ledger.clone()));
    engine.handshake(&hello(1)).unwrap();
    let state = ledger.state();
    for chunks in [
        vec![chunk(0, b"8\n.", true)],
        vec![chunk(0, b"8\n", false), chunk(1, b".", true)],
    ] {
        let refused = refusal(restore(&mut engine, &nine(), &chunks));
        assert!(refused.to_string().contains("after its end"), "{refused}");
        assert_eq!(ledger.state(), state);
    }
    // An end that has not come is no end, even when the state is complete.
    let refused = refusal(restore(&mut engine, &nine(), &[chunk(0, b"8\n", false)]));
    assert_eq!(refused.reason(), "BAD_SNAPSHOT");
    assert_eq!(ledger.state(), state);
    let empty_last = [chunk(0, b"8\n", false), chunk(1, b"", true)];
    restore(&mut engine, &nine(), &empty_last).unwrap();
    assert_eq!(ledger.state().counter, Counter(8));
}

#[test]
fn epoch_format_and_direction_are_checked_before_anything_is_read() {
    let (ledger, mut engine) = ledger(&["5", "2"]);
    let state = ledger.state();
    let unread = |engine: &mut Engine, call: &Restore| {
        engine.restore(call, &mut || panic!("the stream was read"))
    };
    for epoch in [0, 2] {
        let stale = refusal(unread(&mut engine, &Restore { epoch, ..nine() }));
        let (given, latest) = (epoch, 1);
        assert_eq!(stale, Refusal::StaleEpoch { given, latest });
    }
    let format = "ledger-\u{1F355}".repeat(20);
    let foreign = refusal(unread(&mut engine, &Restore { format, ..nine() }));
    assert_eq!(foreign.reason(), "FORMAT");
    assert!(foreign.to_string().contains(LEDGER_FORMAT), "{foreign}");
    assert!(foreign.to_string().len() < 300);
    let back = Restore { index: 1, ..nine() };
    let (index, applied) = (1, 2);
    assert_eq!(
        refusal(unread(&mut engine, &back)),
        Refusal::Ahead { index, applied }
    );
    let same = Restore { index: 2, ..nine() };
    let other = refusal(unread(&mut engine, &same));
    assert_eq!(other.reason(), "OTHER_HISTORY");
    unread(&mut engine, &Restore { term: 1, ..same }).unwrap();
    assert_eq!(ledger.state(), state);
    assert_eq!(engine.header().results_floor, 0, "the outcomes are kept");
}

#[test]
fn a_crash_at_any_chunk_leaves_the_old_state_and_one_after_the_end_the_new() {
    let chunks = [
        chunk(0, b"8", false),
        chunk(1, b"\n", false),
        chunk(2, b"...", true),
    ];
    for crash_at in 0..=chunks.len() {
        let (ledger, mut engine) = ledger(&["5", "2"]);
        assert_eq!(engine.sync().unwrap(), None);
        // Applied, and not synced: a crash takes it back, and nothing else.
        engine.execute(&batch(1, 3, &["100"])).unwrap();
        let mut given = chunks.iter().cloned().enumerate();
        let restored = engine.restore(&nine(), &mut || match given.next() {
            Some((number, chunk)) if number < crash_at => Ok(Some(chunk)),
            _ => Err(Refusal::HungUp),
        });
        ledger.crash();
        let after = crate::engine_tests::engine(ledger.clone());
        let found = (after.header().applied_index, ledger.state().counter.0);
        if crash_at == chunks.len() {
            restored.unwrap();
            assert_eq!(found, (9, 8));
        } else {
            assert_eq!(refusal(restored), Refusal::HungUp);
            assert_eq!(found, (2, 7));
            assert_eq!(ledger.state().records.len(), 2);
        }
    }
}

#[test]
fn a_commit_of_a_restore_that_fails_is_a_failed_storage() {
    let (ledger, mut engine) = ledger(&["5"]);
    let state = ledger.state();
    ledger.fail_next_commit();
    let failed = restore(&mut engine, &nine(), &[chunk(0, b"8\n", true)]);
    assert!(matches!(failed, Err(Failure::Storage(_))), "{failed:?}");
    assert_eq!(engine.header().applied_index, 1);
    assert_eq!(ledger.state(), state);
}

#[test]
fn a_restore_for_which_there_is_no_room_is_refused_before_the_disk_is_full() {
    let (ledger, room) = (Ledger::default(), Arc::new(AtomicU64::new(5)));
    let mut engine = engine(Cramped {
        ledger: ledger.clone(),
        room: room.clone(),
    });
    engine.handshake(&hello(1)).unwrap();
    let state = ledger.state();
    let chunks = [chunk(0, b"8\n", false), chunk(1, b"....", true)];
    let full = refusal(restore(&mut engine, &nine(), &chunks));
    assert_eq!(full.reason(), "NO_ROOM");
    assert_eq!(ledger.state(), state);
    room.store(6, Ordering::Relaxed);
    restore(&mut engine, &nine(), &chunks).unwrap();
    // What has come long ago is on the disk, and is not reckoned twice.
    room.store(RESTORE_ROOM_BYTES, Ordering::Relaxed);
    let piece = vec![b'.'; SNAPSHOT_CHUNK_BYTES];
    let many = 2 * RESTORE_ROOM_BYTES / SNAPSHOT_CHUNK_BYTES as u64;
    let mut chunks = vec![chunk(0, b"9\n", false)];
    chunks.extend((1..=many).map(|number| chunk(number, &piece, number == many)));
    chunks.iter_mut().for_each(|chunk| chunk.index = 10);
    let call = Restore {
        index: 10,
        ..nine()
    };
    restore(&mut engine, &call, &chunks).unwrap();
    assert_eq!(ledger.state().counter, Counter(9));
}

/// Whatever is done to the chunks of a snapshot: it is taken as it was written, or not at all.
#[test]
fn chunks_that_were_tampered_with_are_never_taken_for_another_state() {
    let (source, _) = ledger(&["5", "", "2"]);
    source
        .padding
        .store(3 * SNAPSHOT_CHUNK_BYTES, Ordering::Relaxed);
    let good = exported(&source);
    let call = Restore {
        index: 3,
        term: 1,
        ..nine()
    };
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |limit: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % limit as u64).unwrap()
    };
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..400 {
        let mut chunks = good.clone();
        for _ in 0..below(3) {
            let at = below(chunks.len().max(1));
            match below(8) {
                0 => drop(chunks.remove(at)),
                1 => chunks.insert(at, chunks[at].clone()),
                2 => {
                    let other = below(chunks.len());
                    chunks.swap(at, other);
                }
                3 => chunks[at].crc32c ^= 1 << below(32),
                4 => chunks[at].number ^= 1 << below(64),
                5 => chunks[at].index ^= 1 << below(64),
                6 => chunks.truncate(at.max(1)),
                _ => {
                    let mut data = chunks[at].data.to_vec();
                    if let Some(byte) = data.first_mut() {
                        *byte ^= 1 << below(8);
                    }
                    chunks[at].data = data.into();
                }
            }
        }
        let (target, mut engine) = ledger(&["70"]);
        let before = target.state();
        match restore(&mut engine, &call, &chunks) {
            Ok(()) => {
                taken += 1;
                assert_eq!(target.state().counter, Counter(7));
            }
            Err(Failure::Refused(refusal)) => {
                refused += 1;
                assert_eq!(refusal.reason(), "BAD_SNAPSHOT", "{refusal}");
                assert_eq!(target.state(), before);
            }
            Err(failure) => panic!("{failure:?}"),
        }
    }
    assert!(
        taken > 50 && refused > 50,
        "{taken} taken, {refused} refused"
    );
}
