//! Snapshots of the state machine: taken, kept, served to peers, pulled from the leader, given back to a
//! state machine that lacks what is in the log no more (§7; rules S4, W2, P3).
//!
//! A snapshot is one index: the state machine's bytes, the session table, the configuration, the log's
//! time, all as of it. It is taken at the border of two batches of digest_commits, which goes on as soon
//! as the state machine has said of which index its bytes will be; the bytes follow beside it. The core
//! hears of a snapshot when it is complete and durable, and only then lets the log go.
//!
//! Bulk never stands in the way: a peer pulls over a connection of its own, disk and checksums are
//! worked on by threads that may block, and what is under way is bounded in number and bytes.

use std::fmt::Display;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use raft_core::{Index, NodeId, Position, SessionTable, SnapshotMeta};
use raft_disk::{SnapshotError, SnapshotInfo, SnapshotOffer, SnapshotStore};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use wire::raft as pb;
use wire::state_machine as machine;

use crate::ask::Ask;
use crate::convert;
use crate::disk::Disk;
use crate::limits::{
    CONNECT_DEADLINE, DISCOVER_DEADLINE, KEPT_FOR_OTHERS, MAX_SNAPSHOT_BYTES, MAX_SNAPSHOT_STREAMS,
    RESTORE_DEADLINE, SNAPSHOT_BACKOFF, SNAPSHOT_PART_BYTES, SNAPSHOT_PART_DEADLINE,
    SNAPSHOT_PARTS, SNAPSHOT_SERVED,
};
use crate::net::status_line;
use crate::peer_service::Streams;
use crate::peers::connect;
use crate::say;
use crate::shared::{Shared, locked};
use crate::state_machine::Connection;
use crate::walk::Walk;

/// Names of alarms.
const TAKE_ALARM: &str = "snapshot";
const PULL_ALARM: &str = "snapshot-pull";

/// See the module. A clone is another handle.
#[derive(Clone)]
pub struct Snapshots {
    store: SnapshotStore,
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Ask>,
    disk: Disk,
    /// Who speaks to this node, and of which cluster.
    streams: Arc<Streams>,
    state: Arc<State>,
}

struct State {
    /// One is taken at a time.
    taking: Arc<Semaphore>,
    /// After a failure: not before this.
    not_before: Mutex<Option<Instant>>,
    /// One is pulled at a time.
    pulling: Arc<Semaphore>,
    /// What a peer pulled last, and when: it may come back for the rest.
    served: Mutex<Option<(Position, Instant)>>,
    /// So many are sent at a time.
    sending: Arc<Semaphore>,
}

/// What is to be written as one snapshot.
pub struct Taken {
    /// What it says to Raft.
    pub meta: SnapshotMeta,
    /// The form of the state machine's bytes, in its own words.
    pub format: String,
    /// The session table as of the same index.
    pub sessions: Bytes,
    /// The first chunk, which has told the index.
    pub first: machine::SnapshotChunk,
    /// All others.
    pub rest: Streaming<machine::SnapshotChunk>,
}

impl Snapshots {
    /// The snapshots of `store`, which is in the same directory as the log of `disk`.
    pub fn new(
        store: SnapshotStore,
        shared: Arc<Shared>,
        inbox: mpsc::Sender<Ask>,
        disk: Disk,
        streams: Arc<Streams>,
    ) -> Snapshots {
        for damaged in store.damaged() {
            shared.alarm("snapshot-damaged", Some(damaged.to_string()));
        }
        let state = State {
            taking: Arc::new(Semaphore::new(1)),
            not_before: Mutex::default(),
            pulling: Arc::new(Semaphore::new(1)),
            served: Mutex::default(),
            sending: Arc::new(Semaphore::new(MAX_SNAPSHOT_STREAMS)),
        };
        Snapshots {
            store,
            shared,
            inbox,
            disk,
            streams,
            state: Arc::new(state),
        }
    }

    /// The newest complete one.
    pub fn newest(&self) -> Option<SnapshotInfo> {
        self.store.newest()
    }

    /// Everything up to here is in a durable snapshot, sessions and their outcomes included: what a state
    /// machine may forget the outcomes of (S1). 0: there is none.
    pub fn floor(&self) -> Index {
        self.store
            .newest()
            .map_or(0, |newest| newest.meta.position.index)
    }

    /// The walk that goes on behind the newest snapshot, if that reaches beyond `recorded`.
    ///
    /// # Errors
    /// The snapshot cannot be read, or says something that cannot be.
    pub async fn walk_beyond(&self, recorded: Index) -> Result<Option<(Walk, Index)>, String> {
        let Some(newest) = self.newest() else {
            return Ok(None);
        };
        let position = newest.meta.position;
        if position.index <= recorded {
            return Ok(None);
        }
        let store = self.store.clone();
        let read = spawn_blocking(move || {
            let reader = store.reader(position).map_err(|error| error.to_string())?;
            let table = SessionTable::decode(reader.sessions().clone())
                .map_err(|error| error.to_string())?;
            if table.applied_index() != position.index {
                return Err("its session table is of another index".to_owned());
            }
            Ok(Walk::behind(table, reader.meta().log_time_ms))
        });
        Ok(Some((joined(read).await?, position.index)))
    }

    // ---- taking ----

    /// Whether it is time for another snapshot, now that everything up to `applied` is applied: when the
    /// log has grown by `SnapshotBytes` and by as much as a snapshot takes, so that no more is written
    /// for snapshots than for entries; or by `SnapshotEntries`, which a start would have to walk through.
    pub fn is_due(&self, applied: Index) -> bool {
        if self.state.taking.available_permits() == 0 {
            return false;
        }
        let config = &self.shared.config;
        let (covered, bytes) = self.store.newest().map_or((0, 0), |newest| {
            (newest.meta.position.index, newest.file_bytes)
        });
        let entries = applied.saturating_sub(covered);
        if entries == 0 {
            return false;
        }
        let grown = self.disk.bytes_from(covered + 1);
        let due = grown >= config.snapshot_bytes.max(bytes)
            || (entries >= config.snapshot_entries && grown >= bytes / 4);
        due && locked(&self.state.not_before).is_none_or(|at| Instant::now() >= at)
    }

    /// Writes a snapshot that the state machine has begun to tell, beside everything else.
    pub fn write(&self, taken: Taken) {
        let Ok(under_way) = self.state.taking.clone().try_acquire_owned() else {
            return;
        };
        let snapshots = self.clone();
        tokio::spawn(async move {
            let position = taken.meta.position;
            let began = Instant::now();
            match snapshots.write_all(taken).await {
                Ok(info) => {
                    say!(
                        info,
                        "SNAPSHOT",
                        "taken as of {} [TERM={}]: {} bytes in {} ms",
                        position.index,
                        position.term,
                        info.file_bytes,
                        began.elapsed().as_millis()
                    );
                    snapshots.shared.alarm(TAKE_ALARM, None);
                    snapshots.complete(info.meta).await;
                }
                Err(reason) => snapshots.not_taken(&reason),
            }
            drop(under_way);
        });
    }

    /// A snapshot could not be taken: the log stays, and it is tried again later.
    pub fn not_taken(&self, reason: &str) {
        *locked(&self.state.not_before) = Some(Instant::now() + SNAPSHOT_BACKOFF);
        let sentence = format!("no snapshot could be taken, so the log grows on: {reason}");
        self.shared.alarm(TAKE_ALARM, Some(sentence));
    }

    async fn complete(&self, snapshot: Arc<SnapshotMeta>) {
        let keep: Vec<Position> = locked(&self.state.served)
            .filter(|(_, at)| at.elapsed() < SNAPSHOT_SERVED)
            .map(|(position, _)| position)
            .into_iter()
            .collect();
        let store = self.store.clone();
        let removed = spawn_blocking(move || store.retain(&keep)).await;
        if let Ok(Err(failure)) = removed {
            say!(warn, "SNAPSHOT-X", "an old snapshot stays: {failure}");
        }
        let room = self.shared.config.snapshot_bytes * KEPT_FOR_OTHERS;
        let keep_from = self.disk.index_within(room);
        let taken = Ask::SnapshotTaken {
            snapshot,
            keep_from,
        };
        let _ = self.inbox.send(taken).await;
    }

    async fn write_all(&self, taken: Taken) -> Result<SnapshotInfo, String> {
        let Taken {
            meta,
            format,
            sessions,
            first,
            mut rest,
        } = taken;
        let position = meta.position;
        let store = self.store.clone();
        let (sender, mut chunks) = mpsc::channel::<Bytes>(SNAPSHOT_PARTS);
        let writing = spawn_blocking(move || {
            let mut writer = store.begin(Arc::new(meta), format, sessions)?;
            while let Some(chunk) = chunks.blocking_recv() {
                writer.append(&chunk)?;
            }
            Ok::<_, SnapshotError>(writer)
        });
        let mut chunk = first;
        let mut number = 0;
        let told = loop {
            if let Err(reason) = check_chunk(&chunk, position, number) {
                break Err(reason);
            }
            let last = chunk.last;
            if sender.send(chunk.data).await.is_err() {
                break Ok(()); // The writer has failed, and says why.
            }
            if last {
                break Ok(());
            }
            number += 1;
            chunk = match tokio::time::timeout(SNAPSHOT_PART_DEADLINE, rest.message()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => {
                    break Err("the state machine ended before its last chunk".to_owned());
                }
                Ok(Err(status)) => break Err(status_line(&status)),
                Err(_) => break Err("the state machine took too long over a chunk".to_owned()),
            };
        };
        drop(sender);
        let writer = joined(writing).await;
        // Dropping the writer removes what there is.
        told?;
        let writer = writer?;
        joined(spawn_blocking(move || writer.finish())).await
    }

    // ---- giving it back ----

    /// Gives the newest snapshot to a state machine that lacks what is in the log no more. Returns the
    /// index that it is at afterwards.
    ///
    /// # Errors
    /// A sentence; the state machine is as it was.
    pub async fn restore(&self, connection: &mut Connection) -> Result<Index, String> {
        let newest = self.newest().ok_or("there is no snapshot any more")?;
        let position = newest.meta.position;
        let (epoch, format) = (connection.epoch, newest.format.clone());
        let (sender, chunks) = mpsc::channel(SNAPSHOT_PARTS);
        let store = self.store.clone();
        let reading = spawn_blocking(move || {
            let reader = store.reader(position)?;
            let count = reader.chunk_count();
            // An empty state is one empty chunk.
            for number in 0..count.max(1) {
                let data = reader.read_chunk(number)?.unwrap_or_default();
                let chunk = machine::RestoreChunk {
                    epoch,
                    format: format.clone(),
                    index: position.index,
                    term: position.term,
                    chunk: number,
                    crc32c: crc32c::crc32c(&data),
                    data,
                    last: number + 1 >= count,
                };
                if sender.blocking_send(chunk).is_err() {
                    break; // The call has ended, and says why.
                }
            }
            Ok::<_, SnapshotError>(())
        });
        let call = connection.client.restore(ReceiverStream::new(chunks));
        let called = tokio::time::timeout(RESTORE_DEADLINE, call).await;
        joined(reading).await?;
        let reply = called
            .map_err(|_| format!("it took longer than {} s", RESTORE_DEADLINE.as_secs()))?
            .map_err(|status| status_line(&status))?
            .into_inner();
        if reply.applied_index != position.index {
            return Err(format!(
                "the state machine says that it is at entry {} after a snapshot as of {}",
                reply.applied_index, position.index
            ));
        }
        Ok(position.index)
    }

    // ---- pulling ----

    /// Fetches the snapshot that the leader offers. One at a time; what was cut is gone on with when the
    /// leader offers it again, which it does until it is acknowledged.
    pub fn pull(&self, from: NodeId, position: Position) {
        let Ok(under_way) = self.state.pulling.clone().try_acquire_owned() else {
            return;
        };
        let snapshots = self.clone();
        tokio::spawn(async move {
            match snapshots.pull_all(from, position).await {
                Ok(info) => {
                    say!(
                        info,
                        "SNAPSHOT",
                        "received from {from} as of {} [TERM={}]: {} bytes",
                        info.meta.position.index,
                        info.meta.position.term,
                        info.file_bytes
                    );
                    snapshots.shared.alarm(PULL_ALARM, None);
                    let snapshot = info.meta;
                    let received = Ask::SnapshotReceived { snapshot };
                    let _ = snapshots.inbox.send(received).await;
                }
                Err(reason) => {
                    say!(info, "SNAPSHOT-X", "from {from}: {reason}");
                    let sentence =
                        format!("the leader's snapshot could not be fetched so far: {reason}");
                    snapshots.shared.alarm(PULL_ALARM, Some(sentence));
                }
            }
            drop(under_way);
        });
    }

    async fn pull_all(&self, from: NodeId, position: Position) -> Result<SnapshotInfo, String> {
        // What was completed before may not have reached the core: its Ask is lost with a crash only.
        if let Some(newest) = self
            .newest()
            .filter(|newest| newest.meta.position == position)
        {
            return Ok(newest);
        }
        let cluster = self
            .shared
            .cluster_id()
            .or_else(|| self.streams.cluster_heard())
            .ok_or("this node has heard no cluster")?;
        let mut client = connect(&self.shared, from, CONNECT_DEADLINE).await?;
        let mut request = pb::SnapshotRequest {
            cluster_id: wire::id_bytes(cluster.0),
            node_id: wire::id_bytes(from.0),
            position: convert::position(position),
            checksum: 0,
            offset: 0,
        };
        let asked = client.offer_snapshot(request.clone());
        let offer = tokio::time::timeout(DISCOVER_DEADLINE, asked)
            .await
            .map_err(|_| "no answer".to_owned())?
            .map_err(|status| status_line(&status))?
            .into_inner();
        let at = offer.position.ok_or("an offer without a position")?;
        let offered = SnapshotOffer {
            position: convert::from_position(at),
            file_bytes: offer.file_bytes,
            checksum: offer.checksum,
        };
        let store = self.store.clone();
        let receive = move || store.receive(offered, cluster, MAX_SNAPSHOT_BYTES);
        let mut receiver = joined(spawn_blocking(receive)).await?;
        request.position = offer.position;
        request.checksum = offer.checksum;
        request.offset = receiver.offset();
        say!(
            info,
            "SNAPSHOT",
            "fetching {} bytes from {from}, as of {}, from byte {}",
            offered.file_bytes,
            at.index,
            request.offset
        );
        let (sender, mut parts) = mpsc::channel::<Bytes>(SNAPSHOT_PARTS);
        let writing = spawn_blocking(move || {
            while let Some(part) = parts.blocking_recv() {
                receiver.append(&part)?;
            }
            Ok::<_, SnapshotError>(receiver)
        });
        let told = self.receive_parts(&mut client, request, sender).await;
        let receiver = joined(writing).await?;
        // What has arrived is kept, and gone on with the next time.
        told?;
        joined(spawn_blocking(move || receiver.finish())).await
    }

    async fn receive_parts(
        &self,
        client: &mut pb::peer_client::PeerClient<tonic::transport::Channel>,
        request: pb::SnapshotRequest,
        sender: mpsc::Sender<Bytes>,
    ) -> Result<(), String> {
        let mut offset = request.offset;
        let call = tokio::time::timeout(SNAPSHOT_PART_DEADLINE, client.pull_snapshot(request));
        let mut stream = call
            .await
            .map_err(|_| "no answer".to_owned())?
            .map_err(|status| status_line(&status))?
            .into_inner();
        loop {
            let part = tokio::time::timeout(SNAPSHOT_PART_DEADLINE, stream.message());
            match part.await {
                Ok(Ok(Some(part))) if part.offset == offset => {
                    offset += part.data.len() as u64;
                    if sender.send(part.data).await.is_err() {
                        return Ok(()); // The disk has refused, and says why.
                    }
                }
                Ok(Ok(Some(_))) => return Err("a part of another place".to_owned()),
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(status)) => return Err(status_line(&status)),
                Err(_) => return Err("the next part took too long".to_owned()),
            }
        }
    }

    // ---- serving ----

    /// The snapshot at `position`, or the newest one.
    pub fn offer(&self, position: Option<Position>) -> Option<SnapshotOffer> {
        let newest = self.newest()?;
        let asked = position
            .filter(|position| *position != newest.meta.position)
            .and_then(|position| self.store.reader(position).ok())
            .map(|reader| reader.info().offer());
        Some(asked.unwrap_or_else(|| newest.offer()))
    }

    /// The parts of the file of `position` from `offset` on, while its checksum is the one that was
    /// offered. It is kept as long as a peer may come back for the rest.
    ///
    /// # Errors
    /// A sentence: it is not there any more, or too many peers pull at the same time.
    pub fn parts(
        &self,
        position: Position,
        checksum: u32,
        offset: u64,
    ) -> Result<ReceiverStream<Result<pb::SnapshotPart, tonic::Status>>, tonic::Status> {
        let permit = self
            .state
            .sending
            .clone()
            .try_acquire_owned()
            .map_err(|_| {
                tonic::Status::resource_exhausted(
                    "too many snapshots are being sent: come back shortly",
                )
            })?;
        let gone = || {
            tonic::Status::not_found(format!(
                "there is no snapshot as of entry {} of term {} here any more: ask for the newest",
                position.index, position.term
            ))
        };
        let (sender, receiver) = mpsc::channel(SNAPSHOT_PARTS);
        let reader = self.store.reader(position).map_err(|_| gone())?;
        if reader.info().checksum != checksum {
            return Err(gone());
        }
        *locked(&self.state.served) = Some((position, Instant::now()));
        let state = self.state.clone();
        spawn_blocking(move || {
            send_parts(&reader, offset, &sender, &permit);
            *locked(&state.served) = Some((position, Instant::now()));
        });
        Ok(ReceiverStream::new(receiver))
    }
}

/// What a thread that may block came to, or a sentence.
async fn joined<T, E: Display>(work: JoinHandle<Result<T, E>>) -> Result<T, String> {
    let done = work.await.map_err(|error| error.to_string())?;
    done.map_err(|error| error.to_string())
}

fn send_parts(
    reader: &raft_disk::SnapshotReader,
    mut offset: u64,
    sender: &mpsc::Sender<Result<pb::SnapshotPart, tonic::Status>>,
    _permit: &OwnedSemaphorePermit,
) {
    while offset < reader.info().file_bytes {
        let part = match reader.read_raw(offset, SNAPSHOT_PART_BYTES) {
            Ok(data) if data.is_empty() => return,
            Ok(data) => Ok(pb::SnapshotPart { offset, data }),
            Err(error) => Err(tonic::Status::data_loss(error.to_string())),
        };
        let length = part.as_ref().map_or(0, |part| part.data.len() as u64);
        let failed = part.is_err();
        // The receiver's pace is ours, through the window of its stream.
        if sender.blocking_send(part).is_err() || failed {
            return;
        }
        offset += length;
    }
}

/// Whether a chunk is the one that comes next, and intact.
fn check_chunk(
    chunk: &machine::SnapshotChunk,
    position: Position,
    number: u64,
) -> Result<(), String> {
    if (chunk.index, chunk.term) != (position.index, position.term) {
        return Err("the state machine's chunks are of different states".to_owned());
    }
    if chunk.chunk != number {
        return Err("the state machine's chunks are out of order".to_owned());
    }
    if crc32c::crc32c(&chunk.data) != chunk.crc32c {
        return Err("a chunk of the state machine fails its checksum".to_owned());
    }
    Ok(())
}
