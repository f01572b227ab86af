//! Machines for the tests. [`Counter`] lives in memory; [`Ledger`] is durable as far as a process
//! goes: it can be crashed back to its last synced commit, and its commits can be made to fail.

#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, RwLock};

use state_machine_sdk::{
    Durability, DurableStateMachine, Entry, Finish, Outcome, Snapshot, SnapshotWork, StateMachine,
    StorageError, Transaction, TransactionWork,
};

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
}

impl Transaction for Open {
    fn execute(&mut self, entry: &Entry, command: &[u8]) -> Result<Outcome, StorageError> {
        drop(self.gate.lock().unwrap());
        Ok(self.state.counter.execute(entry, command))
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

    fn record(&self, key: u64) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.records.get(&key).cloned())
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
}
