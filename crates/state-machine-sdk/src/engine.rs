//! The contract as plain code: epochs, order, duplicates and one transaction for everything. It
//! knows nothing of gRPC or tasks, and is called by one caller at a time (`&mut self` is the lock).
//!
//! An author has no use for it: [`crate::run`] serves it. It is open for simulations, which drive it
//! without a network.

mod transfer;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::header::{HEADER_KEY, Header};
use crate::history::{Change, History};
use crate::limits::{MAX_OUTCOME_BYTES, SYNC_AFTER_BYTES};
use crate::outcomes::{Gathered, Recall};
use crate::refusal::Refusal;
use crate::{Durability, DurableStateMachine, Entry, Finish, Limits, Outcome, StorageError};

pub use crate::chunks::{Chunk, Next, Send as SendChunk};
pub use crate::header::Binding;
pub use transfer::{Restore, export};

/// The version of the protocol that is spoken here.
pub const PROTOCOL: u32 = 1;

/// A handshake whose fields were found to be in form.
#[derive(Debug, Clone, Copy)]
pub struct Handshake {
    /// The lowest version of the protocol that the daemon speaks.
    pub protocol_min: u32,
    /// The highest.
    pub protocol_max: u32,
    /// Cluster and node of the daemon.
    pub binding: Binding,
    /// Larger than any before it (P1).
    pub epoch: u64,
}

impl Handshake {
    /// Whether both sides have a version of the protocol in common.
    pub fn speaks_our_protocol(&self) -> bool {
        (self.protocol_min..=self.protocol_max).contains(&PROTOCOL)
    }
}

/// One entry of a batch; without a command only the applied index advances.
#[derive(Debug, Clone)]
pub struct BatchEntry {
    /// Where it stands.
    pub entry: Entry,
    /// What is to be run.
    pub command: Option<Bytes>,
}

/// A batch whose fields were found to be in form: its indices are consecutive, from 1 up, and its
/// terms do not fall.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The epoch that it belongs to.
    pub epoch: u64,
    /// Outcomes up to here need not be kept (S1).
    pub results_floor: u64,
    /// The entries, in order.
    pub entries: Vec<BatchEntry>,
}

/// What became of one entry of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// Run now or before, with this outcome.
    Outcome(Outcome),
    /// Run before, and its outcome is no longer kept.
    Already,
}

/// Either the call is refused and all is well, or the storage failed and nothing is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// This call alone.
    Refused(Refusal),
    /// The machine is not used any more.
    Storage(StorageError),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

/// A machine, and how far it has come.
pub struct Engine {
    machine: Arc<dyn DurableStateMachine>,
    limits: Limits,
    header: Header,
    /// What was changed of late. It is no part of the state.
    history: Arc<Mutex<History>>,
    /// The latest epoch; 0 before the first handshake of this process.
    epoch: u64,
    durable_index: u64,
    lazy_entries: u64,
    lazy_bytes: u64,
    dirty: bool,
}

impl Engine {
    /// Takes a machine up where its storage left it.
    ///
    /// # Errors
    /// When the storage fails, or holds what this version does not know.
    pub fn open(
        machine: Arc<dyn DurableStateMachine>,
        limits: Limits,
    ) -> Result<Self, StorageError> {
        let header = Header::load(&*machine)?;
        // What a storage shows after it was opened is what it would show after a crash.
        let durable_index = if machine.durable() {
            header.applied_index
        } else {
            0
        };
        let history = History::new(&limits, header.applied_index);
        Ok(Self {
            machine,
            limits,
            header,
            history: Arc::new(Mutex::new(history)),
            epoch: 0,
            durable_index,
            lazy_entries: 0,
            lazy_bytes: 0,
            dirty: false,
        })
    }

    /// How far the state has come, and whom it belongs to.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The latest epoch of this process; 0 before the first handshake.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What was changed of late.
    pub(crate) fn history(&self) -> Arc<Mutex<History>> {
        self.history.clone()
    }

    /// What a crash would leave: 0 for a machine in memory.
    pub fn durable_index(&self) -> u64 {
        self.durable_index
    }

    /// There are commits that a crash would lose.
    pub fn dirty(&self) -> bool {
        self.dirty
    }

    /// Opens an epoch, and binds an empty state to its cluster and node.
    ///
    /// # Errors
    /// The epoch is not larger than any before it, or the state belongs to another cluster or node.
    pub fn handshake(&mut self, call: &Handshake) -> Result<(), Failure> {
        if call.epoch <= self.epoch {
            return Err(Refusal::EpochNotLarger {
                given: call.epoch,
                latest: self.epoch,
            }
            .into());
        }
        if !call.speaks_our_protocol() {
            let (min, max) = (call.protocol_min, call.protocol_max);
            return Err(Refusal::Protocol { min, max }.into());
        }
        match self.header.binding {
            Some(bound) if bound.cluster_id != call.binding.cluster_id => {
                let (bound, given) = (bound.cluster_id, call.binding.cluster_id);
                return Err(Refusal::OtherCluster { bound, given }.into());
            }
            Some(bound) if bound.node_id != call.binding.node_id => {
                let (bound, given) = (bound.node_id, call.binding.node_id);
                return Err(Refusal::OtherNode { bound, given }.into());
            }
            Some(_) => {}
            None => {
                self.check_room(0, 0)?;
                let header = Header {
                    binding: Some(call.binding),
                    ..self.header
                };
                // Synced: a binding that a crash takes back would let a second cluster in.
                self.machine
                    .transact(Durability::Synced, &mut |transaction| {
                        transaction.put_record(HEADER_KEY, &header.encode())?;
                        Ok(Finish::Commit)
                    })?;
                self.header = header;
                self.all_is_synced();
            }
        }
        self.epoch = call.epoch;
        Ok(())
    }

    /// Applies what is new in a batch and recalls what is not: all of it, or nothing.
    ///
    /// # Errors
    /// It is of an older epoch, leaves a gap, or is of another history; or the machine failed.
    pub fn execute(&mut self, batch: &Batch) -> Result<Vec<Applied>, Failure> {
        self.check_epoch(batch.epoch)?;
        let applied = self.header.applied_index;
        if let Some(first) = batch.entries.first()
            && first.entry.index.saturating_sub(1) > applied
            && !mutant!(P1AnyOrder)
        {
            return Err(Refusal::OutOfOrder {
                given: first.entry.index,
                applied,
            }
            .into());
        }
        // The indices are consecutive, so those applied before are a prefix.
        let known = batch
            .entries
            .partition_point(|entry| entry.entry.index <= applied && !mutant!(P1RunsAgain));
        let (old, new) = batch.entries.split_at(known);
        self.refuse_falling_term(new)?;
        let mut outcomes = self.recall(old)?;
        let header = self.header_after(batch.results_floor, new);
        if header != self.header {
            outcomes.extend(self.apply(header, new)?);
        }
        Ok(outcomes)
    }

    /// Makes everything so far outlive a crash, unless the disk has no room for it now: then the
    /// storage's sentence about that comes back.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn sync(&mut self) -> Result<Option<String>, StorageError> {
        if self.dirty {
            // Each batch was let in with more room than a sync may take, so that a sync is only held
            // back when somebody else has filled the disk since.
            let least = self.lazy_bytes - self.lazy_bytes / 4;
            if let Err(no_room) = self.machine.room_for(0, least) {
                return Ok(Some(no_room));
            }
            self.machine
                .transact(Durability::Synced, &mut |_| Ok(Finish::Commit))?;
            self.all_is_synced();
        }
        Ok(None)
    }

    /// Whether the disk has room for what is not synced yet and for so much more.
    fn check_room(&self, entries: u64, bytes: u64) -> Result<(), Refusal> {
        let entries = self.lazy_entries.saturating_add(entries);
        let bytes = self.lazy_bytes.saturating_add(bytes);
        let room = self.machine.room_for(entries, bytes);
        room.map_err(Refusal::NoRoom)
    }

    fn refuse_falling_term(&self, new: &[BatchEntry]) -> Result<(), Refusal> {
        match new.first() {
            Some(first) if first.entry.term < self.header.applied_term => {
                Err(Refusal::Malformed(format!(
                    "entry {} has term {}, and the entry before it has term {}: terms never fall",
                    first.entry.index, first.entry.term, self.header.applied_term
                )))
            }
            _ => Ok(()),
        }
    }

    fn header_after(&self, results_floor: u64, new: &[BatchEntry]) -> Header {
        let mut header = self.header;
        // A floor only rises: what was forgotten does not come back.
        header.results_floor = header.results_floor.max(results_floor);
        if let Some(last) = new.last() {
            header.applied_index = last.entry.index;
            header.applied_term = last.entry.term;
        }
        header
    }

    /// The outcomes of entries that were applied before.
    fn recall(&self, old: &[BatchEntry]) -> Result<Vec<Applied>, Failure> {
        let mut outcomes = Vec::with_capacity(old.len());
        let mut refusal = None;
        if !old.is_empty() {
            self.machine.read(&mut |snapshot| {
                let mut recall = Recall::new(snapshot);
                for BatchEntry { entry, .. } in old {
                    match self.recall_one(&mut recall, entry)? {
                        Ok(applied) => outcomes.push(applied),
                        Err(other) => refusal = refusal.take().or(Some(other)),
                    }
                }
                Ok(())
            })?;
        }
        match refusal {
            Some(refusal) => Err(refusal.into()),
            None => Ok(outcomes),
        }
    }

    fn recall_one(
        &self,
        recall: &mut Recall<'_>,
        entry: &Entry,
    ) -> Result<Result<Applied, Refusal>, StorageError> {
        let other_history = |applied_term| Refusal::OtherHistory {
            index: entry.index,
            applied_term,
            given_term: entry.term,
        };
        if entry.index == self.header.applied_index && entry.term != self.header.applied_term {
            return Ok(Err(other_history(self.header.applied_term)));
        }
        if entry.index <= self.header.results_floor {
            return Ok(Ok(Applied::Already));
        }
        let Some((term, outcome)) = recall.outcome(entry.index)? else {
            return Ok(Ok(Applied::Already));
        };
        Ok(if term == entry.term {
            Ok(Applied::Outcome(outcome))
        } else {
            Err(other_history(term))
        })
    }

    /// Runs entries, keeps their outcomes above the floor, and moves the header, in one
    /// transaction. A panic of the author's code ends at this function: the transaction is rolled
    /// back and the storage never sees the unwinding.
    fn apply(&mut self, header: Header, new: &[BatchEntry]) -> Result<Vec<Applied>, Failure> {
        let lengths = new
            .iter()
            .filter_map(|entry| entry.command.as_ref())
            .map(Bytes::len);
        let bytes = u64::try_from(lengths.sum::<usize>()).unwrap_or(u64::MAX);
        let entries = u64::try_from(new.len()).unwrap_or(u64::MAX);
        if self.check_room(entries, bytes).is_err() {
            // What is not synced is reckoned at its most; once it is, the disk itself tells.
            self.sync()?;
            self.check_room(entries, bytes)?;
        }
        let lazy_entries = self.lazy_entries.saturating_add(entries);
        let lazy_bytes = self.lazy_bytes.saturating_add(bytes);
        let much = lazy_entries >= self.limits.sync_after_entries || lazy_bytes >= SYNC_AFTER_BYTES;
        let durability = if much {
            Durability::Synced
        } else {
            Durability::Lazy
        };

        let old_floor = self.header.results_floor;
        let mut outcomes = Vec::with_capacity(new.len());
        let mut changes = Vec::new();
        let mut panicked = None;
        self.machine
            .transact(durability, &mut |transaction| {
                let mut gathered = Gathered::default();
                for BatchEntry { entry, command } in new {
                    let outcome = match command {
                        None => Outcome::Ok(Bytes::new()),
                        Some(command) => {
                            let run = AssertUnwindSafe(|| {
                                let outcome = transaction.execute(entry, command)?;
                                Ok::<_, StorageError>((outcome, transaction.take_events()))
                            });
                            match catch_unwind(run) {
                                Ok(done) => {
                                    let (outcome, events) = done?;
                                    if !events.is_empty() {
                                        let index = entry.index;
                                        changes.push(Change { index, events });
                                    }
                                    bounded(outcome)
                                }
                                Err(panic) => {
                                    let message = panic_message(&*panic);
                                    panicked = Some(Refusal::Panicked {
                                        index: entry.index,
                                        message,
                                    });
                                    return Ok(Finish::RollBack);
                                }
                            }
                        }
                    };
                    if entry.index > header.results_floor && !mutant!(S1OutcomesNotKept) {
                        gathered.push((entry.index, entry.term), &outcome, transaction)?;
                    }
                    outcomes.push(Applied::Outcome(outcome));
                }
                gathered.store(transaction)?;
                if header.results_floor > old_floor {
                    // By the key, which is the last index in a record: one that is partly above the
                    // floor stays whole.
                    transaction
                        .remove_records(old_floor.saturating_add(1), header.results_floor)?;
                }
                if !mutant!(S1IndexNotWithState) {
                    transaction.put_record(HEADER_KEY, &header.encode())?;
                }
                Ok(Finish::Commit)
            })
            .map_err(|error| match &panicked {
                // Of the two the panic is the cause, and the one that a person can do something about.
                Some(panic) => Failure::Storage(StorageError::new(format!("{panic} ({error})"))),
                None => Failure::Storage(error),
            })?;
        if let Some(refusal) = panicked {
            return Err(refusal.into());
        }

        self.header = header;
        locked(&self.history).push(changes, header.applied_index);
        if much {
            self.all_is_synced();
        } else {
            (self.lazy_entries, self.lazy_bytes) = (lazy_entries, lazy_bytes);
            self.dirty = self.machine.durable();
        }
        Ok(outcomes)
    }

    fn all_is_synced(&mut self) {
        (self.lazy_entries, self.lazy_bytes, self.dirty) = (0, 0, false);
        if self.machine.durable() {
            self.durable_index = self.header.applied_index;
        }
    }
}

/// Answers a query from one snapshot, together with the index that the snapshot is at.
///
/// # Errors
/// When the machine fails.
pub fn query(machine: &dyn DurableStateMachine, query: &[u8]) -> Result<(u64, Outcome), Failure> {
    let mut answer = None;
    machine.read(&mut |snapshot| {
        let header = Header::read(snapshot)?;
        answer = Some(
            match catch_unwind(AssertUnwindSafe(|| snapshot.query(query))) {
                Ok(outcome) => Ok((header.applied_index, bounded(outcome?))),
                Err(panic) => Err(Refusal::QueryPanicked(panic_message(&*panic))),
            },
        );
        Ok(())
    })?;
    let unread = || StorageError::new("the storage did not run the read that it was given");
    Ok(answer.ok_or_else(unread)??)
}

/// A lock whose holder panicked is taken all the same: nothing that is done under this one panics.
pub(crate) fn locked(history: &Mutex<History>) -> MutexGuard<'_, History> {
    history.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bounded(outcome: Outcome) -> Outcome {
    let length = outcome.data().len();
    if length <= MAX_OUTCOME_BYTES {
        return outcome;
    }
    let sentence = format!(
        "the result has {length} bytes, which is more than the {MAX_OUTCOME_BYTES} that can be \
         passed on, and was dropped"
    );
    match outcome {
        Outcome::Ok(_) => Outcome::ok(sentence),
        Outcome::Rejected(_) => Outcome::Rejected(sentence),
        Outcome::NotFound(_) => Outcome::NotFound(sentence),
    }
}

pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let message = panic.downcast_ref::<&str>().copied();
    let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    message.unwrap_or("without a message").to_owned()
}
