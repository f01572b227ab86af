//! The engine behind gRPC: fields are checked here, calls take turns here, and storage is only
//! touched from threads that may block.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::{Mutex, Notify, OwnedMutexGuard, Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};
use wire::state_machine as proto;
use wire::state_machine::state_machine_server::StateMachine;

use crate::engine::{self, Applied, Batch, BatchEntry, Engine, Failure, Handshake, PROTOCOL};
use crate::header::Binding;
use crate::history::History;
use crate::limits::{
    EXECUTE_WAIT, Limits, MAX_QUERIES, MAX_WAITING_QUERIES, MAX_WATCHES, QUERY_WAIT,
};
use crate::refusal::Refusal;
use crate::watches::Replies;
use crate::{DurableStateMachine, Entry, Outcome, StorageError};

/// What a call must know without waiting for the batch that is being applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    pub epoch: u64,
    pub applied_index: u64,
    binding: Option<Binding>,
}

impl Progress {
    fn of(engine: &Engine) -> Self {
        Self {
            epoch: engine.epoch(),
            applied_index: engine.header().applied_index,
            binding: engine.header().binding,
        }
    }
}

/// A machine that can be asked over gRPC. Cheap to clone; all clones are the same machine.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub machine: Arc<dyn DurableStateMachine>,
    pub limits: Limits,
    nonce: u64,
    engine: Arc<Mutex<Engine>>,
    pub progress: watch::Sender<Progress>,
    /// The largest epoch that a handshake waits to open: a restore makes room for it.
    pub wanted: watch::Sender<u64>,
    /// Set when the server is about to end: no snapshot goes on in either direction.
    pub ending: watch::Sender<bool>,
    /// One snapshot is sent at a time.
    pub sending: Arc<Semaphore>,
    /// Why the machine may not be used any more; once set it stays.
    failed: watch::Sender<Option<StorageError>>,
    /// Rung when a lazy commit is the first since all was synced.
    dirty: Notify,
    queries_running: Semaphore,
    queries_here: Semaphore,
    history: Arc<std::sync::Mutex<History>>,
    pub watchers: Arc<Semaphore>,
}

impl Shared {
    /// What was changed of late. The lock is held for a moment only.
    pub fn history(&self) -> std::sync::MutexGuard<'_, History> {
        engine::locked(&self.history)
    }
}

impl Service {
    /// Takes up a machine; reads its header from its storage.
    pub fn open(
        machine: Arc<dyn DurableStateMachine>,
        limits: Limits,
    ) -> Result<Self, StorageError> {
        let open = AssertUnwindSafe(|| Engine::open(machine.clone(), limits));
        let engine = catch_unwind(open).unwrap_or_else(|panic| Err(storage_panicked(&*panic)))?;
        let progress = Progress::of(&engine);
        let shared = Shared {
            machine,
            limits,
            nonce: rand::random(),
            history: engine.history(),
            watchers: Arc::new(Semaphore::new(MAX_WATCHES)),
            engine: Arc::new(Mutex::new(engine)),
            progress: watch::Sender::new(progress),
            wanted: watch::Sender::new(0),
            ending: watch::Sender::new(false),
            sending: Arc::new(Semaphore::new(1)),
            failed: watch::Sender::new(None),
            dirty: Notify::new(),
            queries_running: Semaphore::new(MAX_QUERIES),
            queries_here: Semaphore::new(MAX_WAITING_QUERIES),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    pub fn nonce(&self) -> u64 {
        self.shared.nonce
    }

    /// The applied index, and what of it is on disk.
    pub async fn indices(&self) -> (u64, u64) {
        let engine = self.shared.engine.lock().await;
        (engine.header().applied_index, engine.durable_index())
    }

    /// Ends the snapshots that are under way: whoever sends or awaits one is told.
    pub fn end_transfers(&self) {
        self.shared.ending.send_replace(true);
    }

    /// Why the machine has failed, if it has.
    pub fn failed(&self) -> Option<StorageError> {
        self.shared.failed.borrow().clone()
    }

    /// Comes back when the machine has failed, with the reason.
    pub async fn failure(&self) -> StorageError {
        let mut failed = self.shared.failed.subscribe();
        loop {
            if let Some(error) = failed.borrow_and_update().clone() {
                return error;
            }
            if failed.changed().await.is_err() {
                // The sender lives as long as `self`, so this is never reached.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Syncs some time after the first lazy commit since all was synced, for ever. Sleeps without
    /// a timer while nothing is to be done. A full disk is tried again after as long.
    pub async fn sync_when_dirty(self) {
        loop {
            self.shared.dirty.notified().await;
            loop {
                tokio::time::sleep(self.shared.limits.sync_after).await;
                match self.sync().await {
                    Ok(None) => break,
                    Ok(Some(_no_room)) => {}
                    Err(_) => return,
                }
            }
        }
    }

    /// Makes everything so far outlive a crash, unless the disk has no room for it now, about which
    /// a sentence comes back.
    pub async fn sync(&self) -> Result<Option<String>, Status> {
        let engine = self.shared.engine.clone().lock_owned().await;
        self.with_engine(engine, |engine| engine.sync().map_err(Failure::from))
            .await
    }

    pub(crate) fn usable(&self) -> Result<(), Refusal> {
        match &*self.shared.failed.borrow() {
            Some(error) => Err(Refusal::Stopping(error.to_string())),
            None => Ok(()),
        }
    }

    /// Waits for the turn of a call.
    pub(crate) async fn turn(&self) -> Result<OwnedMutexGuard<Engine>, Refusal> {
        self.usable()?;
        let turn = timeout(EXECUTE_WAIT, self.shared.engine.clone().lock_owned()).await;
        // The call before may have been the one that failed.
        self.usable()?;
        turn.map_err(|_| Refusal::Busy)
    }

    /// Tells a restore under way, which holds the lock for as long as its stream takes, that its
    /// epoch is about to end. A handshake that will be refused ends nothing.
    fn make_room_for(&self, call: &Handshake) {
        let now = *self.shared.progress.borrow();
        let ours = now.binding.is_none_or(|bound| bound == call.binding);
        if ours && call.epoch > now.epoch && call.speaks_our_protocol() {
            self.shared.wanted.send_if_modified(|wanted| {
                let larger = call.epoch > *wanted;
                *wanted = call.epoch.max(*wanted);
                larger
            });
        }
    }

    /// Runs `work` on a thread that may block. It runs to its end and keeps the lock until then,
    /// also when the caller has hung up: the next call then finds all of it done.
    pub(crate) async fn with_engine<T: Send + 'static>(
        &self,
        mut engine: OwnedMutexGuard<Engine>,
        work: impl FnOnce(&mut Engine) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Status> {
        let service = self.clone();
        let run = spawn_blocking(move || {
            let was_dirty = engine.dirty();
            let result = catch_unwind(AssertUnwindSafe(|| work(&mut engine)))
                .unwrap_or_else(|panic| Err(storage_panicked(&*panic).into()));
            if let Err(Failure::Storage(error)) = &result {
                // Before the lock is free, so that no call slips in between.
                service.fail(error.clone());
            }
            service.shared.progress.send_replace(Progress::of(&engine));
            if engine.dirty() && !was_dirty {
                service.shared.dirty.notify_one();
            }
            result
        });
        match run.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(failure)) => Err(self.status(failure)),
            Err(error) => Err(self.status(StorageError::new(error).into())),
        }
    }

    fn fail(&self, error: StorageError) {
        self.shared.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            failed.get_or_insert(error);
            first
        });
    }

    pub(crate) fn status(&self, failure: Failure) -> Status {
        match failure {
            Failure::Refused(refusal) => refusal.into(),
            Failure::Storage(error) => {
                self.fail(error.clone());
                Refusal::Stopping(error.to_string()).into()
            }
        }
    }

    async fn execute_batch(
        &self,
        call: proto::ExecuteRequest,
    ) -> Result<proto::ExecuteReply, Status> {
        let batch = match batch(call, &self.shared.limits) {
            Ok(batch) => batch,
            Err(refusal) => {
                warn!("[STATEMACHINE] [EXECUTE-X] {refusal}");
                return Err(refusal.into());
            }
        };
        let epoch = batch.epoch;
        let engine = self.turn().await?;
        let (outcomes, applied_index, durable_index) = self
            .with_engine(engine, move |engine| {
                let outcomes = engine.execute(&batch);
                log_execute(&batch, &outcomes);
                let indices = batch.entries.iter().map(|entry| entry.entry.index);
                let outcomes = indices.zip(outcomes?).collect::<Vec<_>>();
                Ok((
                    outcomes,
                    engine.header().applied_index,
                    engine.durable_index(),
                ))
            })
            .await?;
        let outcomes = outcomes
            .into_iter()
            .map(|(index, applied)| outcome(index, applied));
        Ok(proto::ExecuteReply {
            epoch,
            nonce: self.shared.nonce,
            outcomes: outcomes.collect(),
            applied_index,
            durable_index,
        })
    }

    /// Answers the batches of a stream, one after the other: the next is not read before the one before is
    /// answered. The stream ends with the first that fails, as the call would have, and between two
    /// batches when this process is about to end.
    fn batches(
        self,
        calls: Streaming<proto::ExecuteRequest>,
    ) -> BoxStream<'static, Result<proto::ExecuteReply, Status>> {
        let ending = self.shared.ending.subscribe();
        stream::try_unfold(
            (self, calls, ending),
            |(service, mut calls, mut ending)| async move {
                let call = tokio::select! {
                    call = calls.message() => call?,
                    _ = ending.wait_for(|ending| *ending) => None,
                };
                let Some(call) = call else { return Ok(None) };
                let reply = service.execute_batch(call).await?;
                Ok(Some((reply, (service, calls, ending))))
            },
        )
        .boxed()
    }

    async fn answer_query(&self, call: proto::QueryRequest) -> Result<proto::QueryReply, Status> {
        self.usable()?;
        let _here = self
            .shared
            .queries_here
            .try_acquire()
            .map_err(|_| Refusal::Overloaded(MAX_WAITING_QUERIES))?;
        self.reach(call.epoch, call.min_index, QUERY_WAIT).await?;
        let _running = self.shared.queries_running.acquire().await.ok();
        self.usable()?;
        let (machine, query) = (self.shared.machine.clone(), call.query);
        let read = spawn_blocking(move || {
            catch_unwind(AssertUnwindSafe(|| engine::query(&*machine, &query)))
                .unwrap_or_else(|panic| Err(storage_panicked(&*panic).into()))
        });
        let answer = read
            .await
            .unwrap_or_else(|error| Err(StorageError::new(error).into()));
        let (applied_index, outcome) = answer.map_err(|failure| self.status(failure))?;
        // An epoch that ended meanwhile gets no answer: its daemon has asked anew.
        let latest = self.shared.progress.borrow().epoch;
        if latest != call.epoch {
            return Err(Refusal::StaleEpoch {
                given: call.epoch,
                latest,
            }
            .into());
        }
        let (kind, data) = outcome_fields(outcome);
        let (epoch, nonce) = (call.epoch, self.shared.nonce);
        Ok(proto::QueryReply {
            epoch,
            nonce,
            applied_index,
            kind: kind.into(),
            data,
        })
    }

    /// Waits until `min_index` is applied, as long as `epoch` is the latest.
    async fn reach(&self, epoch: u64, min_index: u64, limit: Duration) -> Result<(), Refusal> {
        let mut progress = self.shared.progress.subscribe();
        let reached = timeout(
            limit,
            progress.wait_for(|now| now.epoch != epoch || now.applied_index >= min_index),
        )
        .await
        .is_ok();
        let now = *self.shared.progress.borrow();
        if now.epoch != epoch || epoch == 0 {
            return Err(Refusal::StaleEpoch {
                given: epoch,
                latest: now.epoch,
            });
        }
        if reached {
            return Ok(());
        }
        Err(Refusal::Behind {
            min_index,
            applied: now.applied_index,
        })
    }
}

#[tonic::async_trait]
impl StateMachine for Service {
    async fn handshake(
        &self,
        request: Request<proto::HandshakeRequest>,
    ) -> Result<Response<proto::HandshakeReply>, Status> {
        let call = handshake(&request.into_inner())?;
        self.make_room_for(&call);
        let engine = self.turn().await?;
        let header = self
            .with_engine(engine, move |engine| {
                let done = engine.handshake(&call).map(|()| *engine.header());
                if let Err(Failure::Refused(refusal)) = &done {
                    warn!("[STATEMACHINE] [HANDSHAKE-X] {refusal}");
                }
                done
            })
            .await?;
        info!(
            "[STATEMACHINE] [HANDSHAKE] epoch {} is open for node {:032x} of cluster {:032x}, at \
             index {}",
            call.epoch, call.binding.node_id, call.binding.cluster_id, header.applied_index
        );
        let Shared {
            machine,
            limits,
            nonce,
            ..
        } = &*self.shared;
        Ok(Response::new(proto::HandshakeReply {
            protocol: PROTOCOL,
            nonce: *nonce,
            applied_index: header.applied_index,
            applied_term: header.applied_term,
            durable: machine.durable(),
            cluster_id: wire::id_bytes(call.binding.cluster_id),
            name: machine.name().to_owned(),
            version: machine.version().to_owned(),
            snapshot_formats: machine
                .snapshot_formats()
                .iter()
                .map(ToString::to_string)
                .collect(),
            max_batch_bytes: limits.max_batch_bytes,
            max_batch_entries: limits.max_batch_entries,
            results_floor: header.results_floor,
            execute_stream: true,
        }))
    }

    async fn execute(
        &self,
        request: Request<proto::ExecuteRequest>,
    ) -> Result<Response<proto::ExecuteReply>, Status> {
        self.execute_batch(request.into_inner())
            .await
            .map(Response::new)
    }

    type ExecuteStreamStream = BoxStream<'static, Result<proto::ExecuteReply, Status>>;

    async fn execute_stream(
        &self,
        request: Request<Streaming<proto::ExecuteRequest>>,
    ) -> Result<Response<Self::ExecuteStreamStream>, Status> {
        Ok(Response::new(self.clone().batches(request.into_inner())))
    }

    async fn query(
        &self,
        request: Request<proto::QueryRequest>,
    ) -> Result<Response<proto::QueryReply>, Status> {
        self.answer_query(request.into_inner())
            .await
            .map(Response::new)
    }

    type SnapshotStream = ReceiverStream<Result<proto::SnapshotChunk, Status>>;

    async fn snapshot(
        &self,
        request: Request<proto::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let stream = self.send_snapshot(request.into_inner()).await;
        if let Err(status) = &stream {
            warn!("[STATEMACHINE] [SNAPSHOT-X] {}", status.message());
        }
        stream.map(Response::new)
    }

    async fn restore(
        &self,
        request: Request<Streaming<proto::RestoreChunk>>,
    ) -> Result<Response<proto::RestoreReply>, Status> {
        let restored = self.take_snapshot(request.into_inner()).await;
        if let Err(status) = &restored {
            warn!("[STATEMACHINE] [RESTORE-X] {}", status.message());
        }
        restored.map(Response::new)
    }

    type WatchStream = Replies;

    async fn watch(
        &self,
        request: Request<proto::WatchRequest>,
    ) -> Result<Response<Replies>, Status> {
        let replies = self.watch_from(request.into_inner()).await;
        replies.map(Response::new)
    }
}

pub(crate) fn storage_panicked(panic: &(dyn Any + Send)) -> StorageError {
    StorageError::new(format!(
        "the storage panicked: {}",
        engine::panic_message(panic)
    ))
}

fn log_execute<T>(batch: &Batch, result: &Result<T, Failure>) {
    let first = batch.entries.first().map_or(0, |entry| entry.entry.index);
    let last = batch.entries.last().map_or(0, |entry| entry.entry.index);
    match result {
        Ok(_) => debug!("[STATEMACHINE] [EXECUTE] entries {first} to {last}"),
        Err(Failure::Refused(refusal)) => {
            warn!("[STATEMACHINE] [EXECUTE-X] entries {first} to {last}: {refusal}");
        }
        Err(Failure::Storage(error)) => {
            warn!("[STATEMACHINE] [EXECUTE-X] entries {first} to {last}: {error}");
        }
    }
}

/// Reads a handshake and refuses what cannot be one.
fn handshake(call: &proto::HandshakeRequest) -> Result<Handshake, Refusal> {
    let id = |field, bytes: &[u8]| {
        let id = wire::id_from_bytes(field, bytes)
            .map_err(|error| Refusal::Malformed(error.to_string()))?;
        if id == 0 {
            let sentence = format!("{field} is zero: a handshake needs an identity that is bound");
            return Err(Refusal::Malformed(sentence));
        }
        Ok(id)
    };
    let binding = Binding {
        cluster_id: id("cluster_id", &call.cluster_id)?,
        node_id: id("node_id", &call.node_id)?,
    };
    let (protocol_min, protocol_max) = (call.protocol_min, call.protocol_max);
    Ok(Handshake {
        protocol_min,
        protocol_max,
        binding,
        epoch: call.epoch,
    })
}

/// Reads a batch and refuses what breaks the contract in its form.
fn batch(call: proto::ExecuteRequest, limits: &Limits) -> Result<Batch, Refusal> {
    let count = call.entries.len();
    if count > usize::try_from(limits.max_batch_entries).unwrap_or(usize::MAX) {
        let most = limits.max_batch_entries;
        return Err(Refusal::TooLarge(format!(
            "{count} entries in a batch of at most {most}"
        )));
    }
    let mut entries = Vec::<BatchEntry>::with_capacity(count);
    let mut bytes = 0_u64;
    for wire_entry in call.entries {
        let (index, term) = (wire_entry.index, wire_entry.term);
        let malformed = |what: &str| Refusal::Malformed(format!("entry {index} {what}"));
        if index == 0 || term == 0 {
            return Err(malformed("has index or term 0: both begin at 1"));
        }
        if let Some(BatchEntry { entry: before, .. }) = entries.last() {
            if Some(index) != before.index.checked_add(1) {
                return Err(malformed(&format!(
                    "comes after entry {} of its batch",
                    before.index
                )));
            }
            if term < before.term {
                return Err(malformed("has a lower term than the entry before it"));
            }
        }
        let command = match wire_entry.payload {
            Some(proto::entry::Payload::Command(command)) => Some(command),
            Some(proto::entry::Payload::Empty(_)) => None,
            None => return Err(malformed("has neither a command nor `empty`")),
        };
        let length = command.as_ref().map_or(0, Bytes::len);
        bytes = bytes.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        let log_time = Duration::from_millis(wire_entry.log_time_ms);
        entries.push(BatchEntry {
            entry: Entry {
                index,
                term,
                log_time,
            },
            command,
        });
    }
    if bytes > limits.max_batch_bytes {
        let most = limits.max_batch_bytes;
        return Err(Refusal::TooLarge(format!(
            "{bytes} bytes in a batch of at most {most}"
        )));
    }
    Ok(Batch {
        epoch: call.epoch,
        results_floor: call.results_floor,
        entries,
    })
}

fn outcome(index: u64, applied: Applied) -> proto::Outcome {
    let (kind, data) = match applied {
        Applied::Outcome(outcome) => outcome_fields(outcome),
        Applied::Already => (proto::OutcomeKind::AlreadyApplied, Bytes::new()),
    };
    proto::Outcome {
        index,
        kind: kind.into(),
        data,
    }
}

fn outcome_fields(outcome: Outcome) -> (proto::OutcomeKind, Bytes) {
    match outcome {
        Outcome::Ok(bytes) => (proto::OutcomeKind::Ok, bytes),
        Outcome::Rejected(sentence) => (proto::OutcomeKind::Rejected, sentence.into()),
        Outcome::NotFound(sentence) => (proto::OutcomeKind::NotFound, sentence.into()),
    }
}
