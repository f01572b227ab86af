//! Snapshots over gRPC: who may have one, for how long, and what ends it.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::{info, warn};
use wire::state_machine as proto;

use crate::chunks::Chunk;
use crate::engine::{self, Restore};
use crate::limits::{SNAPSHOT_TURN_WAIT, SNAPSHOT_WAITING_CHUNKS};
use crate::refusal::Refusal;
use crate::service::{Service, storage_panicked};

type SnapshotStream = ReceiverStream<Result<proto::SnapshotChunk, Status>>;

impl Service {
    /// Opens a view of the state and sends it on a thread of its own. The lock of the apply is held
    /// until the view is open, and no longer.
    pub(crate) async fn send_snapshot(
        &self,
        call: proto::SnapshotRequest,
    ) -> Result<SnapshotStream, Status> {
        self.usable()?;
        let formats = self.shared.machine.snapshot_formats();
        match formats.first() {
            None => return Err(Refusal::NoSnapshots.into()),
            Some(written) if *written == call.format => {}
            Some(written) => return Err(Refusal::format(&call.format, &[written]).into()),
        }
        let latest = self.shared.progress.borrow().epoch;
        if call.epoch != latest {
            let given = call.epoch;
            return Err(Refusal::StaleEpoch { given, latest }.into());
        }
        // Before the turn at the engine, so that nobody else waits for it.
        let sending = self.shared.sending.clone().acquire_owned();
        let Ok(Ok(sending)) = timeout(SNAPSHOT_TURN_WAIT, sending).await else {
            return Err(Refusal::SnapshotUnderWay.into());
        };
        let engine = self.turn().await?;
        engine.check_epoch(call.epoch)?;

        let (sender, receiver) = mpsc::channel(SNAPSHOT_WAITING_CHUNKS + 1);
        // A place of its own for the reason of a bad end, however many chunks wait.
        let Ok(last_word) = sender.clone().reserve_owned().await else {
            return Err(Refusal::HungUp.into());
        };
        let (service, handle, epoch) = (self.clone(), Handle::current(), call.epoch);
        spawn_blocking(move || {
            // Free again when this ends, however it does.
            let _sending = sending;
            let engine = RefCell::new(Some(engine));
            let send = |chunk: Chunk| {
                let sent = handle.block_on(service.send_chunk(epoch, &sender, chunk));
                // The view is open, and from here on commands may run beside it.
                drop(engine.borrow_mut().take());
                sent
            };
            let export = AssertUnwindSafe(|| {
                // What a crash leaves is then no older than the snapshot, so that a crash costs the
                // log behind it and not a restore. A disk without room puts that off; the snapshot is
                // as good.
                if let Some(engine) = engine.borrow_mut().as_mut() {
                    engine.sync()?;
                }
                engine::export(&*service.shared.machine, &send)
            });
            let exported =
                catch_unwind(export).unwrap_or_else(|panic| Err(storage_panicked(&*panic).into()));
            match exported {
                Ok(index) => info!("[STATEMACHINE] [SNAPSHOT] as of entry {index} was sent"),
                Err(failure) => {
                    let status = service.status(failure);
                    warn!("[STATEMACHINE] [SNAPSHOT-X] {}", status.message());
                    last_word.send(Err(status));
                }
            }
        });
        Ok(ReceiverStream::new(receiver))
    }

    async fn send_chunk(
        &self,
        epoch: u64,
        sender: &mpsc::Sender<Result<proto::SnapshotChunk, Status>>,
        chunk: Chunk,
    ) -> Result<(), Refusal> {
        let chunk = proto::SnapshotChunk {
            index: chunk.index,
            term: chunk.term,
            chunk: chunk.number,
            data: chunk.data,
            crc32c: chunk.crc32c,
            last: chunk.last,
        };
        let waited = self.shared.limits.chunk_wait;
        tokio::select! {
            biased;
            refusal = self.must_end(epoch) => Err(refusal),
            sent = timeout(waited, sender.send(Ok(chunk))) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(Refusal::HungUp),
                Err(_) => {
                    let what = "it took no chunk of the snapshot";
                    Err(Refusal::Slow { what, waited })
                }
            },
        }
    }

    /// Replaces the state by the one that the stream brings. The lock of the apply is held from the
    /// first chunk to the commit; a handshake that waits for it ends the restore.
    pub(crate) async fn take_snapshot(
        &self,
        mut stream: Streaming<proto::RestoreChunk>,
    ) -> Result<proto::RestoreReply, Status> {
        self.usable()?;
        let formats = self.shared.machine.snapshot_formats();
        if formats.is_empty() {
            return Err(Refusal::NoSnapshots.into());
        }
        let first = self.next_chunk(&mut stream).await?.ok_or_else(|| {
            Refusal::BadSnapshot("the stream ended before its first chunk".to_owned())
        })?;
        let call = restore(&first)?;
        let engine = self.turn().await?;
        let (service, handle) = (self.clone(), Handle::current());
        let work = move |engine: &mut engine::Engine| {
            let mut first = Some(first);
            let mut next = || {
                let chunk = match first.take() {
                    Some(first) => Some(first),
                    None => handle.block_on(async {
                        tokio::select! {
                            biased;
                            refusal = service.must_make_room(call.epoch) => Err(refusal),
                            chunk = service.next_chunk(&mut stream) => chunk,
                        }
                    })?,
                };
                chunk.map(|chunk| chunk_of(&call, chunk)).transpose()
            };
            engine.restore(&call, &mut next)?;
            let (index, term) = (engine.header().applied_index, engine.header().applied_term);
            info!("[STATEMACHINE] [RESTORE] the state is as of entry {index} in term {term}");
            Ok(index)
        };
        let applied_index = self.with_engine(engine, work).await?;
        Ok(proto::RestoreReply { applied_index })
    }

    async fn next_chunk(
        &self,
        stream: &mut Streaming<proto::RestoreChunk>,
    ) -> Result<Option<proto::RestoreChunk>, Refusal> {
        let waited = self.shared.limits.chunk_wait;
        match timeout(waited, stream.message()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(status)) => Err(Refusal::BadSnapshot(format!(
                "the stream broke: {}",
                status.message()
            ))),
            Err(_) => {
                let what = "no chunk of the snapshot came";
                Err(Refusal::Slow { what, waited })
            }
        }
    }

    /// Comes back when nothing more may be sent to this epoch.
    pub(crate) async fn must_end(&self, epoch: u64) -> Refusal {
        let mut progress = self.shared.progress.subscribe();
        tokio::select! {
            // An error would say that the sender is gone, which lives as long as `self`.
            Ok(now) = progress.wait_for(|now| now.epoch != epoch) => {
                Refusal::StaleEpoch { given: epoch, latest: now.epoch }
            }
            refusal = self.stops() => refusal,
        }
    }

    /// Comes back when a handshake waits for the lock that a restore of this epoch holds.
    async fn must_make_room(&self, epoch: u64) -> Refusal {
        let mut wanted = self.shared.wanted.subscribe();
        tokio::select! {
            Ok(wanted) = wanted.wait_for(|wanted| *wanted > epoch) => {
                Refusal::StaleEpoch { given: epoch, latest: *wanted }
            }
            refusal = self.stops() => refusal,
        }
    }

    async fn stops(&self) -> Refusal {
        let mut ending = self.shared.ending.subscribe();
        tokio::select! {
            _ = ending.wait_for(|ending| *ending) => {
                Refusal::Stopping("it was told to".to_owned())
            }
            error = self.failure() => Refusal::Stopping(error.to_string()),
        }
    }
}

/// Reads what a restore is about, and refuses what cannot be one.
fn restore(first: &proto::RestoreChunk) -> Result<Restore, Refusal> {
    if first.index == 0 || first.term == 0 {
        let sentence = "a snapshot has index or term 0: both begin at 1";
        return Err(Refusal::Malformed(sentence.to_owned()));
    }
    Ok(Restore {
        epoch: first.epoch,
        format: first.format.clone(),
        index: first.index,
        term: first.term,
    })
}

/// Epoch and format must be those of the first chunk wherever they are given; index and term are
/// compared by who puts the chunks together.
fn chunk_of(call: &Restore, chunk: proto::RestoreChunk) -> Result<Chunk, Refusal> {
    if chunk.epoch != call.epoch && chunk.epoch != 0 {
        let (given, latest) = (chunk.epoch, call.epoch);
        return Err(Refusal::StaleEpoch { given, latest });
    }
    let number = chunk.chunk;
    if chunk.format != call.format && !chunk.format.is_empty() {
        return Err(Refusal::BadSnapshot(format!(
            "chunk {number} is of another format than the first one"
        )));
    }
    let unsaid = chunk.index == 0 && chunk.term == 0;
    let (index, term) = if unsaid {
        (call.index, call.term)
    } else {
        (chunk.index, chunk.term)
    };
    Ok(Chunk {
        index,
        term,
        number,
        data: chunk.data,
        crc32c: chunk.crc32c,
        last: chunk.last,
    })
}
