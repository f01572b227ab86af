//! A trait of a few functions becomes a conforming gRPC state machine.
//!
//! The `raft` daemon on the same node sends the entries of the log, in order, to a state machine:
//! a process of yours. What the process must promise in return is little, but exact, and easy to
//! get almost right (`proto/README.md` has the whole contract). This crate keeps the promises, so
//! that a state machine is only its own logic:
//!
//! - [`StateMachine`]: the state lives in memory and is rebuilt from the log after a restart.
//! - [`DurableStateMachine`]: the state lives in a storage with transactions, outlives the process,
//!   and only what came after the last synced transaction is sent again.
//!
//! A counter, complete. Start it, point a `raft` daemon at it, and it is replicated:
//!
//! ```no_run
//! use state_machine_sdk::{Entry, Listen, Outcome, StateMachine, Volatile, run};
//!
//! #[derive(Default)]
//! struct Counter(i64);
//!
//! impl StateMachine for Counter {
//!     fn name(&self) -> &str {
//!         "counter"
//!     }
//!     fn execute(&mut self, _entry: &Entry, command: &[u8]) -> Outcome {
//!         let Some(step) = std::str::from_utf8(command).ok().and_then(|text| text.parse().ok()) else {
//!             return Outcome::rejected("send a whole number: it is added to the counter");
//!         };
//!         self.0 = self.0.saturating_add(step);
//!         Outcome::ok(self.0.to_string())
//!     }
//!     fn query(&self, _query: &[u8]) -> Outcome {
//!         Outcome::ok(self.0.to_string())
//!     }
//! }
//!
//! fn main() -> Result<(), state_machine_sdk::ServeError> {
//!     run(Volatile::new(Counter::default()), Listen::from_environment()?)
//! }
//! ```
//!
//! # What the crate owns, so that the author need not
//!
//! - The *nonce*, drawn when the machine is put behind the service: another nonce is another
//!   instance, whose memory is empty.
//! - The *epoch*: a handshake opens one, larger than every one before it, and only calls of the
//!   latest epoch are answered. It is checked under the lock that the apply holds, so a call that a
//!   daemon has given up can never run after the call that replaced it.
//! - *Order*: entry `i` runs only when `i - 1` is applied. A duplicate is answered with the outcome
//!   it had the first time, or with "already applied" once that outcome may be forgotten. A gap is
//!   refused.
//! - *Atomicity*: state, outcomes, applied index, term and cluster are written in one transaction.
//! - *Panics*: a batch whose command panics leaves no trace in a durable machine, and the caller is
//!   told the index. Memory cannot be rolled back, so a volatile machine ends instead, and starts
//!   again at 0.
//! - *Failed storage*: never tried again on the same handle. [`serve`] returns the error, the
//!   process should exit, and whatever supervises it starts it again.
//!
//! # What remains the author's
//!
//! Determinism: the same commands must give the same outcomes on every replica, so no clock (use
//! [`Entry::log_time`]), no randomness, no address, no environment, no iteration order of a hash
//! map. And a command that cannot be understood is an [`Outcome`], not a panic.
//!
//! # Snapshots
//!
//! A machine that can write its state down, and read it back, spares its daemon the whole of the
//! log: [`StateMachine::snapshot_formats`] or [`DurableStateMachine::snapshot_formats`] names the
//! format, and two more functions write and read it. Without them the calls answer UNIMPLEMENTED,
//! no format is offered, and the daemon keeps its whole log. The author writes and reads plain
//! bytes; chunks, checksums, the index, epochs, and "all or nothing" are the crate's.
//!
//! # Watches
//!
//! A machine whose changes can be watched says two things: after each command what it changed
//! ([`StateMachine::take_events`]), and which of that a client means ([`StateMachine::watch`]). Without
//! them a Watch is answered UNIMPLEMENTED. The crate keeps the events of late in memory (those of a
//! batch from its commit on), tells them in order to whoever watches from an index, refuses an index
//! that is no longer kept, and ends a watch whose reader is too slow or whose epoch is over. Who
//! applies never waits for who watches.

// The machines of the tests are written against the crate's name, as an author's are.
#[cfg(test)]
extern crate self as state_machine_sdk;

/// The example in the author's guide compiles, or the documentation tests fail.
#[cfg(doctest)]
#[doc = include_str!("../../../proto/README.md")]
struct AuthorsGuide;

/// Whether the rule that the mutant takes out is out of force: never, without the feature `mutants`.
macro_rules! mutant {
    ($name:ident) => {{
        #[cfg(feature = "mutants")]
        let is_out = raft_core::mutant!($name);
        #[cfg(not(feature = "mutants"))]
        let is_out = false;
        is_out
    }};
}

#[cfg(all(test, feature = "mutants"))]
#[path = "../../raft-core/tests/a_mutant/mod.rs"]
mod a_mutant;
mod chunks;
pub mod engine;
#[cfg(test)]
mod engine_tests;
mod header;
mod history;
mod limits;
#[cfg(test)]
mod outcome_tests;
mod outcomes;
mod refusal;
mod serve;
mod service;
#[cfg(test)]
mod snapshot_tests;
mod snapshots;
mod volatile;
mod watches;

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::time::Duration;

use bytes::Bytes;

pub use limits::{
    EXECUTE_WAIT, Limits, MAX_BATCH_BYTES, MAX_BATCH_ENTRIES, MAX_OUTCOME_BYTES, MAX_QUERIES,
    MAX_STREAMS, MAX_VOLATILE_SNAPSHOT_BYTES, MAX_WAITING_QUERIES, MAX_WATCHES,
    MESSAGE_MARGIN_BYTES, OUTCOMES_RECORD_BYTES, QUERY_WAIT, RESTORE_ROOM_BYTES,
    SHUTDOWN_SYNC_WAIT, SHUTDOWN_WAIT, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_CHUNK_WAIT,
    SNAPSHOT_TURN_WAIT, SNAPSHOT_WAITING_CHUNKS, SYNC_AFTER, SYNC_AFTER_BYTES, SYNC_AFTER_ENTRIES,
    WATCH_HISTORY_BYTES, WATCH_HISTORY_EVENTS, WATCH_MARK_INTERVAL, WATCH_PIECE, WATCH_WAIT,
    WATCH_WAITING_BYTES, WATCH_WAITING_REPLIES,
};
pub use refusal::{INDEX_HEADER, REASON_HEADER, Refusal};
pub use serve::{Listen, ServeError, run, serve, termination};
pub use volatile::Volatile;

pub use header::{Header, bound_node_id};

/// Where an entry stands in the log: everything about it but its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the log, from 1; no two entries share one, and none is skipped.
    pub index: u64,
    /// The term of the leader that appended it.
    pub term: u64,
    /// The log's own clock, the same on every replica. Use it instead of the machine's.
    pub log_time: Duration,
}

/// What a command or a query came to. It is sent to the client and must be the same on every
/// replica, to the byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done; the bytes are the result.
    Ok(Bytes),
    /// Understood and refused, or not understood. The state is as it was; the sentence says why.
    Rejected(String),
    /// What was asked for is not there, which the sentence names.
    NotFound(String),
}

impl Outcome {
    /// Done, with this result.
    pub fn ok(result: impl Into<Bytes>) -> Self {
        Self::Ok(result.into())
    }

    /// Refused, and the state is as it was.
    pub fn rejected(sentence: impl Into<String>) -> Self {
        Self::Rejected(sentence.into())
    }

    /// What was asked for is not there.
    pub fn not_found(sentence: impl Into<String>) -> Self {
        Self::NotFound(sentence.into())
    }

    fn data(&self) -> &[u8] {
        match self {
            Self::Ok(bytes) => bytes,
            Self::Rejected(sentence) | Self::NotFound(sentence) => sentence.as_bytes(),
        }
    }
}

/// One thing that a command changed, for those who watch. The same on every replica, to the byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What a [`Filter`] chooses by, such as the key that was changed. It is not sent.
    pub topic: Bytes,
    /// What is sent. All that one command changed goes in one message, which may have 16 MiB.
    pub data: Bytes,
}

impl Event {
    /// An event.
    pub fn new(topic: impl Into<Bytes>, data: impl Into<Bytes>) -> Self {
        let (topic, data) = (topic.into(), data.into());
        Self { topic, data }
    }

    fn bytes(&self) -> usize {
        self.topic.len().saturating_add(self.data.len())
    }
}

/// Which events one watch wants. It is asked about each of them, by every watch, so it should be quick.
pub type Filter = Box<dyn Fn(&Event) -> bool + Send + Sync>;

/// A machine whose state lives in memory. Put it into a [`Volatile`] and [`run`] it.
pub trait StateMachine: Send + Sync + 'static {
    /// What it is called in `raft-client status` and in logs.
    fn name(&self) -> &str;

    /// Its version, for the same places.
    fn version(&self) -> &str {
        ""
    }

    /// Applies one command. Commands come one at a time, in the order of the log, each once.
    fn execute(&mut self, entry: &Entry, command: &[u8]) -> Outcome;

    /// Answers from the state and changes nothing. Queries run beside each other.
    fn query(&self, query: &[u8]) -> Outcome;

    /// What the last command changed, and from then on nothing: it is asked after each one. A command
    /// that was refused changed nothing.
    fn take_events(&mut self) -> Vec<Event> {
        Vec::new()
    }

    /// What a watch with this query wants to hear of, or a sentence: why nobody can know. None, as
    /// here: this machine has no watches.
    fn watch(&self, _query: &[u8]) -> Option<Result<Filter, String>> {
        None
    }

    /// The names of the snapshot formats that it knows: it writes the first and reads them all.
    /// None, as here: no snapshots, and the daemon keeps its whole log.
    fn snapshot_formats(&self) -> &'static [&'static str] {
        &[]
    }

    /// The whole state in the first of its formats. No command runs meanwhile, so a state that
    /// takes seconds to write down holds its clients up for as long.
    fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }

    /// A machine with the state that the bytes say. The one that is asked changes nothing: it goes
    /// on as it was if this fails, and is replaced by the new one if not.
    ///
    /// # Errors
    /// A sentence: why the bytes are no state in that format.
    fn restore(&self, _format: &str, _bytes: &[u8]) -> Result<Self, String>
    where
        Self: Sized,
    {
        Err("snapshots are not supported".to_owned())
    }
}

/// Why a state could not be written out or read in. An error of the stream needs no words of the
/// author's (`?` is enough): the crate knows why its own stream ended.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The storage failed, which ends the machine.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The bytes could not be written, or read on, or ended too early.
    #[error(transparent)]
    Stream(#[from] io::Error),
    /// The bytes are no state in their format, or the state cannot be written down. A sentence.
    #[error("{0}")]
    Content(String),
}

/// The storage failed, in its own words. It ends the machine: a handle whose commit failed may not
/// be used again, for nobody knows how much of it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StorageError(String);

impl StorageError {
    /// From whatever the storage said.
    pub fn new(reason: impl Display) -> Self {
        Self(reason.to_string())
    }
}

/// How far a commit must reach before [`DurableStateMachine::transact`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Visible to readers. A crash may lose it together with everything after it, never apart.
    Lazy,
    /// On disk, and with it everything committed before.
    Synced,
}

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Keep all of it.
    Commit,
    /// Keep none of it.
    RollBack,
}

/// One open transaction of a durable machine.
///
/// The crate keeps its own *records* beside the author's state: bytes under a number, found by their
/// order. One has up to [`OUTCOMES_RECORD_BYTES`], and more only when a single outcome has: then a few
/// bytes more than that. Storing them in the same transaction as the state is what makes a crash
/// harmless.
pub trait Transaction {
    /// Applies one command within this transaction, and sees what earlier ones in it wrote.
    ///
    /// # Errors
    /// When the storage fails. A bad command is an outcome, not an error.
    fn execute(&mut self, entry: &Entry, command: &[u8]) -> Result<Outcome, StorageError>;

    /// What the last command changed, and from then on nothing: it is asked after each one. A command
    /// that was refused changed nothing. They are told once the transaction is committed.
    fn take_events(&mut self) -> Vec<Event> {
        Vec::new()
    }

    /// Stores a record, over one of the same key.
    ///
    /// # Errors
    /// When the storage fails.
    fn put_record(&mut self, key: u64, value: &[u8]) -> Result<(), StorageError>;

    /// Removes the records from `first` to `last`, both included; there may be none.
    ///
    /// # Errors
    /// When the storage fails.
    fn remove_records(&mut self, first: u64, last: u64) -> Result<(), StorageError>;
}

/// The state as of one commit. It does not change while it is held.
pub trait Snapshot {
    /// Answers from this state.
    ///
    /// # Errors
    /// When the storage fails. A bad query is an outcome, not an error.
    fn query(&self, query: &[u8]) -> Result<Outcome, StorageError>;

    /// The first record at or after a key, with its own key, if there is one.
    ///
    /// # Errors
    /// When the storage fails.
    fn record_from(&self, key: u64) -> Result<Option<(u64, Vec<u8>)>, StorageError>;
}

/// What [`DurableStateMachine::transact`] runs inside a transaction.
pub type TransactionWork<'a> = dyn FnMut(&mut dyn Transaction) -> Result<Finish, StorageError> + 'a;

/// What [`DurableStateMachine::read`] runs on a snapshot.
pub type SnapshotWork<'a> = dyn FnMut(&dyn Snapshot) -> Result<(), StorageError> + 'a;

/// A machine whose state lives in a storage with transactions.
pub trait DurableStateMachine: Send + Sync + 'static {
    /// What it is called in `raft-client status` and in logs.
    fn name(&self) -> &str;

    /// Its version, for the same places.
    fn version(&self) -> &str {
        ""
    }

    /// The state and the records outlive the process. Only [`Volatile`] says otherwise.
    fn durable(&self) -> bool {
        true
    }

    /// Whether the disk has room for the outcomes and changes of so many entries, whose commands
    /// have so many bytes together. It is asked before each transaction: a storage that runs out of
    /// room in the middle of one ends the machine, and one that says no here only waits.
    ///
    /// # Errors
    /// A sentence: which disk is full.
    fn room_for(&self, _entries: u64, _bytes: u64) -> Result<(), String> {
        Ok(())
    }

    /// Opens a transaction, runs `work` once in it, and ends it as `work` says; an error of `work`
    /// rolls back and is passed on. One transaction is open at a time: the crate sees to it.
    ///
    /// # Errors
    /// When the storage fails, or cannot roll back. The machine is not used any more afterwards.
    fn transact(
        &self,
        durability: Durability,
        work: &mut TransactionWork<'_>,
    ) -> Result<(), StorageError>;

    /// Runs `work` once on the state as of the latest commit. Reads run beside each other and
    /// beside a transaction, of which they see nothing until it is committed.
    ///
    /// # Errors
    /// When the storage fails.
    fn read(&self, work: &mut SnapshotWork<'_>) -> Result<(), StorageError>;

    /// What a watch with this query wants to hear of, or a sentence: why nobody can know. None, as
    /// here: this machine has no watches.
    fn watch(&self, _query: &[u8]) -> Option<Result<Filter, String>> {
        None
    }

    /// The names of the snapshot formats that it knows: it writes the first and reads them all.
    /// None, as here: no snapshots, and the daemon keeps its whole log.
    fn snapshot_formats(&self) -> &'static [&'static str] {
        &[]
    }

    /// Runs `work` once, and first, on the state as of the latest commit, and then writes that very
    /// state, without the crate's records, to `out` in the first of its formats. Transactions go on
    /// meanwhile and change nothing of what is written. `out` may block for as long as its reader
    /// is slow, so no lock that a transaction needs is held while it is written to. It takes small
    /// writes well.
    ///
    /// # Errors
    /// Those of `work` and of `out` as they are, and when the storage fails.
    fn export(
        &self,
        _work: &mut SnapshotWork<'_>,
        _out: &mut dyn Write,
    ) -> Result<(), TransferError> {
        Err(TransferError::Content(
            "snapshots are not supported".to_owned(),
        ))
    }

    /// Replaces the whole state by the one that `source` has in `format`, in one transaction:
    /// removes the old state, reads the new one, runs `work` once in the transaction, and ends it
    /// as `work` says, synced to disk. An error, and a crash at any moment, leave the old state as
    /// it was. The crate's records are left to `work`. No other transaction is open meanwhile;
    /// reads go on, and see the old state until the commit. The state may be larger than memory,
    /// so what is read is not gathered there. What `source` has is a stranger's: it may be anything.
    ///
    /// # Errors
    /// Those of `work` and of `source` as they are, [`TransferError::Content`] when the bytes are
    /// no state in that format, and when the storage fails or cannot roll back.
    fn import(
        &self,
        _format: &str,
        _source: &mut dyn Read,
        _work: &mut TransactionWork<'_>,
    ) -> Result<(), TransferError> {
        Err(TransferError::Content(
            "snapshots are not supported".to_owned(),
        ))
    }
}
