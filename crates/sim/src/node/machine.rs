//! The state machine beside a node: the real key-value logic in the real engine of the SDK, on a storage
//! that forgets in a crash what it had not synced.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use raft_core::sessions::{Outcome, OutcomeKind};
use raft_core::walk::Sent;
use raft_core::{ClusterId, Index, NodeId, Position};
use state_machine::{key_value, snapshot};
use state_machine_sdk::engine::{self, Applied, Batch, BatchEntry, Binding, Chunk, Engine};
use state_machine_sdk::engine::{Handshake, PROTOCOL, Restore};
use state_machine_sdk::{
    Durability, DurableStateMachine, Entry, Finish, Limits, Snapshot, SnapshotWork, StorageError,
    Transaction, TransactionWork, TransferError,
};

/// Bytes of one chunk when a snapshot is handed back.
const CHUNK_BYTES: usize = 4096;

/// A command over which every state machine dies (P5).
pub const POISON: &[u8] = b"POISON";

/// A state machine's process, and the storage that outlives it.
pub struct Machine {
    storage: Arc<Storage>,
    engine: Option<Engine>,
    /// Drawn at each start: which instance this is.
    nonce: u64,
    /// The latest one that it has agreed to.
    epoch: u64,
    /// It survives what was poison to it.
    pub cured: bool,
}

/// See [`Machine::image`].
#[derive(Clone)]
pub struct Image(State);

/// How far a state machine has come.
#[derive(Clone, Copy, Debug)]
pub struct Hello {
    /// Which instance.
    pub nonce: u64,
    /// The last entry that it has applied.
    pub applied: Position,
}

impl Machine {
    /// One that has never started.
    pub fn new(durable: bool) -> Machine {
        Machine {
            storage: Arc::new(Storage {
                durable,
                memory: Mutex::default(),
            }),
            engine: None,
            nonce: 0,
            epoch: 0,
            cured: false,
        }
    }

    /// Whether it outlives its process.
    pub fn is_durable(&self) -> bool {
        self.storage.durable
    }

    /// A process begins.
    ///
    /// # Errors
    /// A sentence: the storage makes no sense.
    pub fn start(&mut self, nonce: u64) -> Result<(), String> {
        let engine = Engine::open(self.storage.clone(), Limits::default());
        self.engine = Some(engine.map_err(|error| error.to_string())?);
        self.nonce = nonce;
        self.epoch = 0;
        Ok(())
    }

    /// The process is gone. `and_power`: and with it what the system had not stored; a process that is
    /// killed loses no more than its storage promises to lose.
    pub fn crash(&mut self) {
        self.engine = None;
        self.storage.crash();
    }

    /// Its disk is empty: another node begins.
    pub fn wipe(&mut self) {
        self.engine = None;
        *self.storage.memory() = Memory::default();
    }

    /// Which instance runs; none: it does not.
    pub fn nonce(&self) -> Option<u64> {
        self.engine.is_some().then_some(self.nonce)
    }

    /// Opens an epoch.
    ///
    /// # Errors
    /// A sentence: it does not run, or refuses.
    pub fn handshake(
        &mut self,
        epoch: u64,
        cluster_id: ClusterId,
        node_id: NodeId,
    ) -> Result<Hello, String> {
        let nonce = self.nonce;
        let engine = self.running()?;
        let call = Handshake {
            protocol_min: PROTOCOL,
            protocol_max: PROTOCOL,
            binding: Binding {
                cluster_id: cluster_id.0,
                node_id: node_id.0,
            },
            epoch,
        };
        engine
            .handshake(&call)
            .map_err(|failure| format!("{failure:?}"))?;
        let header = engine.header();
        let applied = Position {
            index: header.applied_index,
            term: header.applied_term,
        };
        self.epoch = epoch;
        Ok(Hello { nonce, applied })
    }

    /// The epoch that it obeys.
    pub fn epoch(&self) -> Option<u64> {
        self.engine.is_some().then_some(self.epoch)
    }

    /// Applies a batch.
    ///
    /// # Errors
    /// A sentence: nothing of it was applied.
    pub fn execute(
        &mut self,
        epoch: u64,
        floor: Index,
        sent: &[Sent],
    ) -> Result<Vec<Outcome>, String> {
        let entries = sent.iter().map(|sent| BatchEntry {
            entry: Entry {
                index: sent.position.index,
                term: sent.position.term,
                log_time: Duration::from_millis(sent.log_time_ms),
            },
            command: sent.command.clone(),
        });
        let is_poison = |sent: &Sent| sent.command.as_deref() == Some(POISON);
        if self.engine.is_some() && !self.cured && sent.iter().any(is_poison) {
            self.crash();
            return Err("it died over the entry".to_owned());
        }
        let batch = Batch {
            epoch,
            results_floor: floor,
            entries: entries.collect(),
        };
        let applied = self.running()?.execute(&batch);
        let applied = applied.map_err(|failure| format!("{failure:?}"))?;
        Ok(applied.into_iter().map(outcome_of_applied).collect())
    }

    /// The last entry that it has applied.
    ///
    /// # Errors
    /// It does not run.
    pub fn applied(&mut self) -> Result<Index, String> {
        Ok(self.running()?.header().applied_index)
    }

    /// Answers a query, with the index that the answer is as of.
    ///
    /// # Errors
    /// A sentence: it does not run, or has failed.
    pub fn query(&mut self, query: &[u8]) -> Result<(Index, Outcome), String> {
        self.running()?;
        let answer = engine::query(&*self.storage, query);
        let (index, outcome) = answer.map_err(|failure| format!("{failure:?}"))?;
        Ok((index, outcome_of(outcome)))
    }

    /// The whole state as bytes, and the entry that it is as of.
    ///
    /// # Errors
    /// A sentence: it does not run, or has failed.
    pub fn snapshot(&mut self) -> Result<(Position, Vec<Bytes>), String> {
        self.running()?;
        let chunks = RefCell::new(Vec::new());
        let keep = |chunk: Chunk| {
            chunks.borrow_mut().push(chunk);
            Ok(())
        };
        engine::export(&*self.storage, &keep).map_err(|failure| format!("{failure:?}"))?;
        let chunks = chunks.into_inner();
        let first = chunks.first().ok_or("it sent nothing")?;
        let position = Position {
            index: first.index,
            term: first.term,
        };
        Ok((
            position,
            chunks.into_iter().map(|chunk| chunk.data).collect(),
        ))
    }

    /// Takes a state in.
    ///
    /// # Errors
    /// A sentence: it is as it was.
    pub fn restore(&mut self, epoch: u64, position: Position, bytes: &Bytes) -> Result<(), String> {
        let call = Restore {
            epoch,
            format: snapshot::FORMAT.to_owned(),
            index: position.index,
            term: position.term,
        };
        let count = bytes.len().div_ceil(CHUNK_BYTES).max(1);
        let mut number = 0;
        let mut next = move || {
            if number == count {
                return Ok(None);
            }
            let begin = number * CHUNK_BYTES;
            let data = bytes.slice(begin..bytes.len().min(begin + CHUNK_BYTES));
            let chunk = Chunk {
                index: position.index,
                term: position.term,
                number: number as u64,
                crc32c: crc32c::crc32c(&data),
                data,
                last: number + 1 == count,
            };
            number += 1;
            Ok(Some(chunk))
        };
        let restored = self.running()?.restore(&call, &mut next);
        restored.map_err(|failure| format!("{failure:?}"))
    }

    /// Stores what is not stored yet.
    pub fn sync(&mut self) {
        if let Some(engine) = &mut self.engine {
            // A storage in memory has nothing that could fail.
            let _ = engine.sync();
        }
    }

    /// All keys and values, for the checkers.
    pub fn pairs(&self) -> BTreeMap<Bytes, Bytes> {
        self.storage.memory().seen.pairs.clone()
    }

    /// What its storage holds for certain: an image of the machine.
    pub fn image(&self) -> Image {
        Image(self.storage.memory().stored.clone())
    }

    /// Its storage is as it was then. It must not run.
    pub fn restore_image(&mut self, image: &Image) {
        self.engine = None;
        let memory = &mut *self.storage.memory();
        memory.stored = image.0.clone();
        memory.seen = image.0.clone();
    }

    fn running(&mut self) -> Result<&mut Engine, String> {
        self.engine
            .as_mut()
            .ok_or_else(|| "it does not run".to_owned())
    }
}

fn outcome_of(outcome: state_machine_sdk::Outcome) -> Outcome {
    let (kind, data) = match outcome {
        state_machine_sdk::Outcome::Ok(data) => (OutcomeKind::Ok, data),
        state_machine_sdk::Outcome::Rejected(sentence) => (OutcomeKind::Rejected, sentence.into()),
        state_machine_sdk::Outcome::NotFound(sentence) => (OutcomeKind::NotFound, sentence.into()),
    };
    Outcome { kind, data }
}

fn outcome_of_applied(applied: Applied) -> Outcome {
    match applied {
        Applied::Outcome(outcome) => outcome_of(outcome),
        Applied::Already => Outcome {
            kind: OutcomeKind::AlreadyApplied,
            data: Bytes::new(),
        },
    }
}

/// Keys, values and the SDK's records, as a process sees them, and as they are stored.
struct Storage {
    durable: bool,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    seen: State,
    stored: State,
}

#[derive(Clone, Default)]
struct State {
    pairs: BTreeMap<Bytes, Bytes>,
    records: BTreeMap<u64, Vec<u8>>,
}

impl Storage {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn crash(&self) {
        let memory = &mut *self.memory();
        memory.seen = if self.durable {
            memory.stored.clone()
        } else {
            State::default()
        };
    }
}

impl DurableStateMachine for Storage {
    fn name(&self) -> &str {
        "simulated"
    }

    fn durable(&self) -> bool {
        self.durable
    }

    fn transact(
        &self,
        durability: Durability,
        work: &mut TransactionWork<'_>,
    ) -> Result<(), StorageError> {
        let memory = &mut *self.memory();
        if work(&mut memory.seen)? == Finish::RollBack {
            return Err(StorageError::new("this storage cannot roll back"));
        }
        if durability == Durability::Synced && self.durable {
            memory.stored = memory.seen.clone();
        }
        Ok(())
    }

    fn read(&self, work: &mut SnapshotWork<'_>) -> Result<(), StorageError> {
        work(&self.memory().seen)
    }

    fn snapshot_formats(&self) -> &'static [&'static str] {
        &[snapshot::FORMAT]
    }

    fn export(
        &self,
        work: &mut SnapshotWork<'_>,
        out: &mut dyn Write,
    ) -> Result<(), TransferError> {
        let seen = self.memory().seen.clone();
        work(&seen)?;
        let mut encoder = snapshot::Encoder::begin(out)?;
        for (key, value) in &seen.pairs {
            encoder.pair(key, value)?;
        }
        Ok(encoder.end()?)
    }

    fn import(
        &self,
        _format: &str,
        source: &mut dyn Read,
        work: &mut TransactionWork<'_>,
    ) -> Result<(), TransferError> {
        let mut next = State {
            records: self.memory().seen.records.clone(),
            ..State::default()
        };
        snapshot::decode(source, &mut |key, value| {
            next.pairs
                .insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            Ok(())
        })?;
        if work(&mut next)? == Finish::Commit {
            let memory = &mut *self.memory();
            memory.seen = next;
            if self.durable {
                memory.stored = memory.seen.clone();
            }
        }
        Ok(())
    }
}

impl Transaction for State {
    fn execute(
        &mut self,
        _entry: &Entry,
        command: &[u8],
    ) -> Result<state_machine_sdk::Outcome, StorageError> {
        key_value::execute(self, command)
    }

    fn put_record(&mut self, key: u64, value: &[u8]) -> Result<(), StorageError> {
        self.records.insert(key, value.to_vec());
        Ok(())
    }

    fn remove_records(&mut self, first: u64, last: u64) -> Result<(), StorageError> {
        if first <= last {
            self.records.retain(|key, _| !(first..=last).contains(key));
        }
        Ok(())
    }
}

impl Snapshot for State {
    fn query(&self, query: &[u8]) -> Result<state_machine_sdk::Outcome, StorageError> {
        key_value::query(self, query)
    }

    fn record_from(&self, key: u64) -> Result<Option<(u64, Vec<u8>)>, StorageError> {
        let first = self.records.range(key..).next();
        Ok(first.map(|(key, record)| (*key, record.clone())))
    }
}

impl key_value::Store for State {
    type Error = StorageError;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.pairs.get(key).cloned())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.pairs
            .insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<bool, StorageError> {
        Ok(self.pairs.remove(key).is_some())
    }
}

impl key_value::View for State {
    type Error = StorageError;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.pairs.get(key).cloned())
    }

    fn keys(
        &self,
        from: std::ops::Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), StorageError> {
        let range = self
            .pairs
            .range::<[u8], _>((from, std::ops::Bound::Unbounded));
        for (key, _) in range {
            if !visit(key) {
                break;
            }
        }
        Ok(())
    }
}
