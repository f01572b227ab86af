//! A machine in memory, as a storage whose records are in memory too: everything starts at 0 with
//! each process, the outcomes included.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::engine::panic_message;
use crate::limits::MAX_VOLATILE_SNAPSHOT_BYTES;
use crate::{
    Durability, DurableStateMachine, Entry, Event, Filter, Finish, Outcome, Snapshot, SnapshotWork,
    StateMachine, StorageError, Transaction, TransactionWork, TransferError,
};

/// Makes a [`StateMachine`] fit to be served.
pub struct Volatile<M> {
    name: String,
    version: String,
    memory: RwLock<Memory<M>>,
}

struct Memory<M> {
    machine: M,
    records: BTreeMap<u64, Vec<u8>>,
    /// Set while a transaction is open, and for ever after one that was not committed: memory
    /// cannot be rolled back, so nothing may be answered from it any more.
    half_applied: bool,
}

impl<M: StateMachine> Volatile<M> {
    /// A machine in its first state, at index 0.
    pub fn new(machine: M) -> Self {
        Self {
            name: machine.name().to_owned(),
            version: machine.version().to_owned(),
            memory: RwLock::new(Memory {
                machine,
                records: BTreeMap::new(),
                half_applied: false,
            }),
        }
    }

    // A poisoned lock says that someone panicked; whether that did harm, `half_applied` knows.
    fn shared(&self) -> RwLockReadGuard<'_, Memory<M>> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn exclusive(&self) -> RwLockWriteGuard<'_, Memory<M>> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn half_applied() -> StorageError {
    StorageError::new(
        "a command was given up half-way and memory cannot be rolled back: the process must start \
         again, from an empty state",
    )
}

impl<M: StateMachine> DurableStateMachine for Volatile<M> {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn durable(&self) -> bool {
        false
    }

    fn transact(
        &self,
        _durability: Durability,
        work: &mut TransactionWork<'_>,
    ) -> Result<(), StorageError> {
        let mut memory = self.exclusive();
        if memory.half_applied {
            return Err(half_applied());
        }
        memory.half_applied = true;
        match work(&mut *memory)? {
            Finish::Commit => {
                memory.half_applied = false;
                Ok(())
            }
            Finish::RollBack => Err(half_applied()),
        }
    }

    fn read(&self, work: &mut SnapshotWork<'_>) -> Result<(), StorageError> {
        let memory = self.shared();
        if memory.half_applied {
            return Err(half_applied());
        }
        work(&*memory)
    }

    fn watch(&self, query: &[u8]) -> Option<Result<Filter, String>> {
        self.shared().machine.watch(query)
    }

    fn snapshot_formats(&self) -> &'static [&'static str] {
        self.shared().machine.snapshot_formats()
    }

    fn export(
        &self,
        work: &mut SnapshotWork<'_>,
        out: &mut dyn Write,
    ) -> Result<(), TransferError> {
        // The lock is free again before anything is written: the reader may be slow.
        let bytes = {
            let memory = self.shared();
            if memory.half_applied {
                return Err(half_applied().into());
            }
            work(&*memory)?;
            memory.machine.snapshot()
        };
        Ok(out.write_all(&bytes)?)
    }

    fn import(
        &self,
        format: &str,
        source: &mut dyn Read,
        work: &mut TransactionWork<'_>,
    ) -> Result<(), TransferError> {
        let mut bytes = Vec::new();
        source
            .take(MAX_VOLATILE_SNAPSHOT_BYTES)
            .read_to_end(&mut bytes)?;
        // Another machine is made, and no harm is done to the one there is, so a panic is no worse
        // than a refusal.
        let restore = AssertUnwindSafe(|| self.shared().machine.restore(format, &bytes));
        let machine = catch_unwind(restore).unwrap_or_else(|panic| {
            let message = panic_message(&*panic);
            Err(format!("the state machine's code panicked: {message}"))
        });
        let mut new = Memory {
            machine: machine.map_err(TransferError::Content)?,
            records: BTreeMap::new(),
            half_applied: false,
        };
        if work(&mut new)? == Finish::Commit {
            let mut memory = self.exclusive();
            if memory.half_applied {
                return Err(half_applied().into());
            }
            *memory = new;
        }
        Ok(())
    }
}

impl<M: StateMachine> Transaction for Memory<M> {
    fn execute(&mut self, entry: &Entry, command: &[u8]) -> Result<Outcome, StorageError> {
        Ok(self.machine.execute(entry, command))
    }

    fn take_events(&mut self) -> Vec<Event> {
        self.machine.take_events()
    }

    fn put_record(&mut self, key: u64, value: &[u8]) -> Result<(), StorageError> {
        self.records.insert(key, value.to_vec());
        Ok(())
    }

    fn remove_records(&mut self, first: u64, last: u64) -> Result<(), StorageError> {
        // Key by key: the map may be large, and what goes is a small part of it.
        while first <= last
            && let Some((&key, _)) = self.records.range(first..=last).next()
        {
            self.records.remove(&key);
        }
        Ok(())
    }
}

impl<M: StateMachine> Snapshot for Memory<M> {
    fn query(&self, query: &[u8]) -> Result<Outcome, StorageError> {
        Ok(self.machine.query(query))
    }

    fn record_from(&self, key: u64) -> Result<Option<(u64, Vec<u8>)>, StorageError> {
        let first = self.records.range(key..).next();
        Ok(first.map(|(key, record)| (*key, record.clone())))
    }
}
