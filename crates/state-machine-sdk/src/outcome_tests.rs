//! What is kept of outcomes, and how it is found again: however a log was cut into batches, and
//! whatever is asked for.

#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::engine::{Applied, Batch, Engine};
use crate::engine_tests::machines::{Counter, Ledger};
use crate::engine_tests::{batch, engine, hello, ok, refusal};
use crate::header::{HEADER_KEY, Header};
use crate::limits::OUTCOMES_RECORD_BYTES;
use crate::outcomes::{Gathered, Recall, Record};
use crate::{
    DurableStateMachine, Entry, Limits, Outcome, Refusal, Snapshot, StateMachine, StorageError,
    Transaction, Volatile,
};

/// Before the bytes of each outcome.
const PREFIX: usize = 13;

/// Five commands, and what they come to.
const COMMANDS: [&str; 5] = ["1", "what?", "", "10", "100"];

fn five() -> [Applied; 5] {
    let rejected = Applied::Outcome(Outcome::rejected("send a whole number"));
    [ok("1"), rejected, ok(""), ok("11"), ok("111")]
}

/// Every way to cut five entries: the lengths of the batches.
fn cuts() -> Vec<Vec<usize>> {
    let cut = |mask: u32| {
        let ends = (1..=5_usize).filter(|end| *end == 5 || mask & (1 << (end - 1)) != 0);
        let mut from = 0;
        ends.map(|end| end - std::mem::replace(&mut from, end))
            .collect()
    };
    (0..16).map(cut).collect()
}

fn execute_cut(engine: &mut Engine, lengths: &[usize]) {
    let mut from = 0;
    for length in lengths {
        let first = u64::try_from(from).unwrap() + 1;
        let commands = &COMMANDS[from..from + length];
        let outcomes = engine.execute(&batch(1, first, commands)).unwrap();
        assert_eq!(outcomes, five()[from..from + length]);
        from += length;
    }
}

/// Asks for each run of the five, alone and with the start of what is not applied yet.
fn assert_recalled(engine: &mut Engine, epoch: u64, lengths: &[usize]) {
    for from in 0..5 {
        for to in from + 1..=5 {
            let first = u64::try_from(from).unwrap() + 1;
            let again = engine.execute(&batch(epoch, first, &COMMANDS[from..to]));
            assert_eq!(again.unwrap(), five()[from..to], "{lengths:?} {from}..{to}");
        }
    }
}

#[test]
fn a_batch_is_recalled_however_it_was_cut() {
    assert_eq!(cuts().len(), 16);
    for lengths in cuts() {
        let ledger = Ledger::default();
        let mut durable = engine(ledger.clone());
        durable.handshake(&hello(1)).unwrap();
        execute_cut(&mut durable, &lengths);
        assert_recalled(&mut durable, 1, &lengths);
        let records = ledger.state().records.len();
        assert_eq!(records, lengths.len() + 1, "one for each, and the header");
        // In another process too.
        durable.sync().unwrap();
        ledger.crash();
        let mut durable = engine(ledger.clone());
        durable.handshake(&hello(7)).unwrap();
        assert_recalled(&mut durable, 7, &lengths);
        let both = durable.execute(&batch(7, 4, &["10", "100", "1000"]));
        assert_eq!(both.unwrap(), [ok("11"), ok("111"), ok("1111")]);
        assert_eq!(ledger.state().counter, Counter(1111), "none ran twice");

        let mut volatile = engine(Volatile::new(Counter::default()));
        volatile.handshake(&hello(1)).unwrap();
        execute_cut(&mut volatile, &lengths);
        // To another daemon too, but not in another process, where all begins anew.
        volatile.handshake(&hello(2)).unwrap();
        assert_recalled(&mut volatile, 2, &lengths);
        let both = volatile.execute(&batch(2, 4, &["10", "100", "1000"]));
        assert_eq!(both.unwrap(), [ok("11"), ok("111"), ok("1111")]);
    }
}

#[test]
fn what_a_floor_lets_go_is_forgotten_and_a_record_goes_with_its_last() {
    let already = Applied::Already;
    let five = five();
    for durable in [true, false] {
        let ledger = Ledger::default();
        let mut engine = if durable {
            engine(ledger.clone())
        } else {
            engine(Volatile::new(Counter::default()))
        };
        let keys = || ledger.state().records.into_keys().collect::<Vec<_>>();
        engine.handshake(&hello(1)).unwrap();
        engine.execute(&batch(1, 1, &COMMANDS[..2])).unwrap();
        engine.execute(&batch(1, 3, &COMMANDS[2..])).unwrap();
        let mut raise_and_ask = |floor, expected: &[Applied]| {
            let raise = Batch {
                results_floor: floor,
                ..batch(1, 6, &[])
            };
            engine.execute(&raise).unwrap();
            let asked = engine.execute(&batch(1, 1, &COMMANDS)).unwrap();
            assert_eq!(asked, expected, "floor {floor}");
        };
        // In the first record, between the two, in the second, and past it.
        let kept: [(u64, &[u64]); 4] = [(1, &[0, 2, 5]), (2, &[0, 5]), (4, &[0, 5]), (5, &[0])];
        for (floor, keys_then) in kept {
            let mut expected = five.clone();
            expected[..usize::try_from(floor).unwrap()].fill(already.clone());
            raise_and_ask(floor, &expected);
            assert!(!durable || keys() == keys_then, "{floor}: {:?}", keys());
        }
        // Of a batch that the floor is in the middle of, what is above it is kept.
        let floor = Batch {
            results_floor: 7,
            ..batch(1, 6, &["1", "1", "1", "1"])
        };
        let ran = engine.execute(&floor).unwrap();
        assert_eq!(ran, [ok("112"), ok("113"), ok("114"), ok("115")]);
        assert!(!durable || keys() == [0, 9], "{:?}", keys());
        assert_eq!(
            engine.execute(&floor).unwrap(),
            [already.clone(), already.clone(), ok("114"), ok("115")]
        );
    }
}

#[test]
fn the_term_of_each_entry_of_a_record_is_compared() {
    let terms = [1, 1, 2, 2, 5];
    let with_terms = |first: u64, terms: &[u64]| {
        let mut batch = batch(1, first, &vec!["1"; terms.len()]);
        for (entry, term) in batch.entries.iter_mut().zip(terms) {
            entry.entry.term = *term;
        }
        batch
    };
    for durable in [true, false] {
        let mut engine = if durable {
            engine(Ledger::default())
        } else {
            engine(Volatile::new(Counter::default()))
        };
        engine.handshake(&hello(1)).unwrap();
        let ran = engine.execute(&with_terms(1, &terms)).unwrap();
        assert_eq!(engine.execute(&with_terms(1, &terms)).unwrap(), ran);
        for at in 0..5 {
            let index = u64::try_from(at).unwrap() + 1;
            for given_term in [1, 2, 5, 9] {
                let mut other = terms;
                other[at] = given_term;
                // Alone and among others, of which the first that differs is named.
                for call in [with_terms(1, &other), with_terms(index, &other[at..=at])] {
                    let asked = engine.execute(&call);
                    if given_term == terms[at] {
                        assert!(asked.is_ok());
                        continue;
                    }
                    let expected = Refusal::OtherHistory {
                        index,
                        applied_term: terms[at],
                        given_term,
                    };
                    assert_eq!(refusal(asked), expected);
                }
            }
        }
    }
}

/// Its outcomes have as many bytes as the command says.
struct Wide;

impl StateMachine for Wide {
    fn name(&self) -> &str {
        "wide"
    }

    fn execute(&mut self, _: &Entry, command: &[u8]) -> Outcome {
        let length = std::str::from_utf8(command).unwrap().parse().unwrap();
        Outcome::ok(vec![b'w'; length])
    }

    fn query(&self, _: &[u8]) -> Outcome {
        Outcome::ok("")
    }
}

/// The keys of the records of outcomes, and their lengths.
fn records(machine: &dyn DurableStateMachine) -> Vec<(u64, usize)> {
    let mut records = Vec::new();
    machine
        .read(&mut |snapshot| {
            let mut from = HEADER_KEY + 1;
            while let Some((key, bytes)) = snapshot.record_from(from)? {
                records.push((key, bytes.len()));
                from = key + 1;
            }
            Ok(())
        })
        .unwrap();
    records
}

/// The lengths of outcomes, and the keys and lengths of the records that they are in.
type Case<'a> = (&'a [usize], &'a [(u64, usize)]);

#[test]
fn a_batch_of_large_outcomes_is_several_records() {
    const MAX: usize = OUTCOMES_RECORD_BYTES;
    let full = MAX - 2 * PREFIX;
    let cases: [Case<'_>; 6] = [
        (&[1, full - 1], &[(2, MAX)]),
        (&[1, full], &[(1, PREFIX + 1), (2, PREFIX + full)]),
        (&[0, full, 0], &[(2, MAX), (3, PREFIX)]),
        (
            &[7, 3 * MAX, 7, 7],
            &[(1, 20), (2, PREFIX + 3 * MAX), (4, 40)],
        ),
        (&[3 * MAX, MAX - PREFIX], &[(1, PREFIX + 3 * MAX), (2, MAX)]),
        (&[400_000; 5], &[(2, 800_026), (4, 800_026), (5, 400_013)]),
    ];
    for (lengths, expected) in cases {
        let machine = Arc::new(Volatile::new(Wide));
        let mut engine = Engine::open(machine.clone(), Limits::default()).unwrap();
        engine.handshake(&hello(1)).unwrap();
        let commands = lengths.iter().map(usize::to_string).collect::<Vec<_>>();
        let commands = commands.iter().map(String::as_str).collect::<Vec<_>>();
        let ran = engine.execute(&batch(1, 1, &commands)).unwrap();
        assert_eq!(records(&*machine), expected, "{lengths:?}");
        for from in 0..commands.len() {
            let first = u64::try_from(from).unwrap() + 1;
            let again = engine.execute(&batch(1, first, &commands[from..])).unwrap();
            assert!(again == ran[from..], "{lengths:?} from {first}");
        }
    }
}

/// Records, and how often one was looked for.
#[derive(Default)]
struct Records {
    records: BTreeMap<u64, Vec<u8>>,
    looks: Cell<u32>,
}

impl Transaction for Records {
    fn execute(&mut self, _: &Entry, _: &[u8]) -> Result<Outcome, StorageError> {
        Ok(Outcome::ok(""))
    }

    fn put_record(&mut self, key: u64, value: &[u8]) -> Result<(), StorageError> {
        self.records.insert(key, value.to_vec());
        Ok(())
    }

    fn remove_records(&mut self, _: u64, _: u64) -> Result<(), StorageError> {
        Ok(())
    }
}

impl Snapshot for Records {
    fn query(&self, _: &[u8]) -> Result<Outcome, StorageError> {
        Ok(Outcome::ok(""))
    }

    fn record_from(&self, key: u64) -> Result<Option<(u64, Vec<u8>)>, StorageError> {
        self.looks.set(self.looks.get() + 1);
        let first = self.records.range(key..).next();
        Ok(first.map(|(key, record)| (*key, record.clone())))
    }
}

/// Indices as records of their own lengths; the outcome of each is its index.
fn kept(lasts: &[u64], first: u64) -> Records {
    let mut records = Records::default();
    let mut from = first;
    for last in lasts {
        let mut gathered = Gathered::default();
        for index in from..=*last {
            let outcome = Outcome::ok(index.to_string());
            gathered.push((index, 3), &outcome, &mut records).unwrap();
        }
        gathered.store(&mut records).unwrap();
        from = last + 1;
    }
    records
}

#[test]
fn a_record_is_read_once_however_many_of_its_outcomes_are_asked_for() {
    let records = kept(&[1000, 1001, 3000], 1);
    let mut recall = Recall::new(&records);
    for index in 500..=2500_u64 {
        let expected = Some((3, Outcome::ok(index.to_string())));
        assert_eq!(recall.outcome(index), Ok(expected));
    }
    assert_eq!(records.looks.get(), 3);
}

#[test]
fn what_has_no_record_is_not_found_and_the_header_is_none() {
    let mut records = kept(&[12], 10);
    let header = Header {
        applied_index: 12,
        ..Header::default()
    };
    records.put_record(HEADER_KEY, &header.encode()).unwrap();
    let mut recall = Recall::new(&records);
    for index in [1, 9] {
        assert_eq!(recall.outcome(index), Ok(None), "before the first");
    }
    for index in [10, 12] {
        assert!(recall.outcome(index).unwrap().is_some());
    }
    for index in [13, u64::MAX] {
        assert_eq!(recall.outcome(index), Ok(None), "after the last");
    }
    assert_eq!(Header::read(&records), Ok(header));
    records.records.remove(&HEADER_KEY);
    assert_eq!(Header::read(&records), Ok(Header::default()));
}

#[test]
fn a_damaged_record_is_an_error() {
    let mut records = Records::default();
    let mut gathered = Gathered::default();
    let outcomes = [
        Outcome::ok(&b"\xff\0"[..]),
        Outcome::rejected("no"),
        Outcome::not_found(""),
    ];
    for (index, outcome) in (1..).zip(&outcomes) {
        gathered.push((index, 7), outcome, &mut records).unwrap();
    }
    gathered.store(&mut records).unwrap();
    let good = records.records[&3].clone();
    let ends = [PREFIX + 2, 2 * PREFIX + 4];
    assert!(Record::decode(3, good.clone()).is_ok());
    assert!(Record::decode(u64::MAX, good.clone()).is_ok());
    for length in (0..good.len()).filter(|length| !ends.contains(length)) {
        let cut = Record::decode(3, good[..length].to_vec());
        assert!(cut.is_err(), "cut at {length}");
    }
    let longer = [&good[..], b"\0"].concat();
    let mut other_kind = good.clone();
    other_kind[8] = 4;
    let mut no_text = good.clone();
    no_text[2 * PREFIX + 2] = 0xff;
    let mut too_long = good.clone();
    too_long[9..PREFIX].fill(0xff);
    for bad in [longer, other_kind, no_text, too_long] {
        let error = Record::decode(3, bad).unwrap_err();
        assert_eq!(error.to_string(), "the outcomes up to entry 3 are damaged");
    }
    // Three outcomes cannot be those of the entries up to the second.
    assert!(Record::decode(2, good).is_err());
}
