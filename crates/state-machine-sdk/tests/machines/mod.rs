//! Machines for the tests. [`Counter`] lives in memory; [`Ledger`] is durable as far as a process
//! goes: it can be crashed back to its last synced commit, and its commits can be made to fail.
//! [`Plain`] has no snapshots.

#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use state_machine_sdk::{
    Durability, DurableStateMachine, Entry, Event, Filter, Finish, Outcome, Snapshot, SnapshotWork,
    StateMachine, StorageError, Transaction, TransactionWork, TransferError,
};

/// What a counter writes.
pub const FORMAT: &str = "counter-2";
/// What a counter reads beside that: the number, and nothing else.
pub const OLD_FORMAT: &str = "counter-1";
/// What a ledger knows.
pub const LEDGER_FORMAT: &str = "ledger-1";

/// A machine that leaves out all that may be left out.
pub struct Plain;

impl StateMachine for Plain {
    fn name(&self) -> &str {
        "plain"
    }

    fn execute(&mut self, _: &Entry, _: &[u8]) -> Outcome {
        Outcome::ok("")
    }

    fn query(&self, _: &[u8]) -> Outcome {
        Outcome::ok("")
    }
}

/// Adds numbers. "panic" panics after it has changed the state, which is the worst moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counter(pub i64);

impl StateMachine for Counter {
    fn name(&self) -> &str {
        "counter"
    }

    fn version(&self) -> &str {
        "7"
    }

    fn execute(&mut self, entry: &Entry, command: &[u8]) -> Outcome {
        if command == b"panic" {
            self.0 = -1;
            panic!("a bug in the author's code");
        }
        if command == b"time" {
            return Outcome::ok(entry.log_time.as_millis().to_string());
        }
        if let Some(number) = command.strip_prefix(b"set ") {
            self.0 = String::from_utf8_lossy(number).parse().unwrap();
            return Outcome::ok("");
        }
        let Some(step) = std::str::from_utf8(command)
            .ok()
            .and_then(|text| text.parse().ok())
        else {
            return Outcome::rejected("send a whole number");
        };
        self.0 = self.0.saturating_add(step);
        Outcome::ok(self.0.to_string())
    }

    fn query(&self, query: &[u8]) -> Outcome {
        match query {
            b"panic" => panic!("a bug in the author's query"),
            b"nothing" => Outcome::not_found("nothing was not found"),
            _ => Outcome::ok(self.0.to_string()),
        }
    }

    fn snapshot_formats(&self) -> &'static [&'static str] {
        &[FORMAT, OLD_FORMAT]
    }

    /// One number cannot be written down.
    fn snapshot(&self) -> Vec<u8> {
        assert_ne!(self.0, 13, "a bug in the author's snapshot");
        format!("counter {}", self.0).into_bytes()
    }

    fn restore(&self, format: &str, bytes: &[u8]) -> Result<Self, String> {
        assert_ne!(bytes, b"counter panic", "a bug in the author's restore");
        let text = std::str::from_utf8(bytes).map_err(|_| "no text".to_owned())?;
        let number = match format {
            FORMAT => text.strip_prefix("counter ").ok_or("no counter")?,
            _ => text,
        };
        let number = number.parse().map_err(|_| "no number".to_owned())?;
        Ok(Self(number))
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    pub counter: Counter,
    pub records: BTreeMap<u64, Vec<u8>>,
}

#[derive(Default)]
struct Disk {
    synced: State,
    fail_next_commit: bool,
    syncs: u32,
}

/// A counter on a pretended disk. Clones are handles of the same one.
#[derive(Clone, Default)]
pub struct Ledger {
    committed: Arc<RwLock<State>>,
    disk: Arc<Mutex<Disk>>,
    /// While a test holds this, commands block inside the transaction.
    pub gate: Arc<Mutex<()>>,
    /// While a test holds this, a snapshot does not begin to write, though its view is open.
    pub export_gate: Arc<Mutex<()>>,
    /// So many bytes are written into a snapshot after the number.
    pub padding: Arc<AtomicUsize>,
    /// Set when a snapshot of so many bytes could be written to its end.
    pub exported: Arc<AtomicBool>,
}

impl Ledger {
    /// The process dies: what was not synced is gone.
    pub fn crash(&self) {
        *self.committed.write().unwrap() = self.disk.lock().unwrap().synced.clone();
    }

    pub fn state(&self) -> State {
        self.committed.read().unwrap().clone()
    }

    pub fn syncs(&self) -> u32 {
        self.disk.lock().unwrap().syncs
    }

    pub fn fail_next_commit(&self) {
        self.disk.lock().unwrap().fail_next_commit = true;
    }
}

struct Open {
    state: State,
    gate: Arc<Mutex<()>>,
    events: Vec<Event>,
}

impl Transaction for Open {
    fn execute(&mut self, entry: &Entry, command: &[u8]) -> Result<Outcome, StorageError> {
        drop(self.gate.lock().unwrap());
        let outcome = self.state.counter.execute(entry, command);
        if let Outcome::Ok(sum) = &outcome {
            self.events.push(Event::new("sum", sum.clone()));
        }
        Ok(outcome)
    }

    fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn put_record(&mut self, key: u64, value: &[u8]) -> Result<(), StorageError> {
        self.state.records.insert(key, value.to_vec());
        Ok(())
    }

    fn remove_records(&mut self, first: u64, last: u64) -> Result<(), StorageError> {
        self.state
            .records
            .retain(|key, _| !(first..=last).contains(key));
        Ok(())
    }
}

impl Snapshot for State {
    fn query(&self, query: &[u8]) -> Result<Outcome, StorageError> {
        Ok(self.counter.query(query))
    }

    fn record_from(&self, key: u64) -> Result<Option<(u64, Vec<u8>)>, StorageError> {
        let first = self.records.range(key..).next();
        Ok(first.map(|(key, record)| (*key, record.clone())))
    }
}

impl DurableStateMachine for Ledger {
    fn name(&self) -> &str {
        "ledger"
    }

    fn transact(
        &self,
        durability: Durability,
        work: &mut TransactionWork<'_>,
    ) -> Result<(), StorageError> {
        let mut open = Open {
            state: self.state(),
            gate: self.gate.clone(),
            events: Vec::new(),
        };
        if work(&mut open)? == Finish::RollBack {
            return Ok(());
        }
        let mut disk = self.disk.lock().unwrap();
        if std::mem::take(&mut disk.fail_next_commit) {
            return Err(StorageError::new("no space left on the pretended disk"));
        }
        if durability == Durability::Synced {
            disk.synced = open.state.clone();
            disk.syncs += 1;
        }
        *self.committed.write().unwrap() = open.state;
        Ok(())
    }

    fn read(&self, work: &mut SnapshotWork<'_>) -> Result<(), StorageError> {
        work(&self.state())
    }

    fn watch(&self, _: &[u8]) -> Option<Result<Filter, String>> {
        Some(Ok(Box::new(|_| true)))
    }

    fn snapshot_formats(&self) -> &'static [&'static str] {
        &[LEDGER_FORMAT]
    }

    fn export(
        &self,
        work: &mut SnapshotWork<'_>,
        out: &mut dyn Write,
    ) -> Result<(), TransferError> {
        let state = self.state();
        work(&state)?;
        drop(self.export_gate.lock().unwrap());
        writeln!(out, "{}", state.counter.0)?;
        let padding = vec![b'.'; self.padding.load(Ordering::Relaxed)];
        out.write_all(&padding)?;
        self.exported.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn import(
        &self,
        format: &str,
        source: &mut dyn Read,
        work: &mut TransactionWork<'_>,
    ) -> Result<(), TransferError> {
        assert_eq!(format, LEDGER_FORMAT, "nobody asks for another one");
        let mut source = BufReader::new(source);
        let mut line = String::new();
        source.by_ref().take(40).read_line(&mut line)?;
        let number = line.strip_suffix('\n').map(str::parse::<i64>);
        let number = number
            .and_then(Result::ok)
            .ok_or_else(|| TransferError::Content("no number".to_owned()))?;
        let mut dots = [0; 4096];
        loop {
            let length = source.read(&mut dots)?;
            if length == 0 {
                break;
            }
            if dots[..length].iter().any(|byte| *byte != b'.') {
                return Err(TransferError::Content("no padding".to_owned()));
            }
        }
        self.transact(Durability::Synced, &mut |transaction| {
            // Through a command, for a transaction is all that there is to change the state with.
            let entry = Entry {
                index: 0,
                term: 0,
                log_time: std::time::Duration::ZERO,
            };
            transaction.execute(&entry, format!("set {number}").as_bytes())?;
            work(transaction)
        })?;
        Ok(())
    }
}
