//! Watches over gRPC: each is a task of its own that reads the history from where it stands, so that
//! nobody who applies ever waits for somebody who watches.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::Stream;
use tonic::Status;
use tracing::debug;
use wire::state_machine as proto;

use crate::Filter;
use crate::engine::panic_message;
use crate::history::{Change, Compacted, Piece};
use crate::limits::{MAX_WATCHES, WATCH_PIECE, WATCH_WAITING_BYTES, WATCH_WAITING_REPLIES};
use crate::refusal::Refusal;
use crate::service::Service;

/// A reply that waits for its reader, and its share of [`WATCH_WAITING_BYTES`].
type Waiting = (
    Result<proto::WatchReply, Status>,
    Option<OwnedSemaphorePermit>,
);

/// The replies of one watch. Who drops them ends it.
pub(crate) struct Replies(mpsc::Receiver<Waiting>);

impl Stream for Replies {
    type Item = Result<proto::WatchReply, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let taken = ready!(self.0.poll_recv(cx));
        Poll::Ready(taken.map(|(reply, _room)| reply))
    }
}

/// One watch, and how far it has told.
struct Watcher {
    service: Service,
    epoch: u64,
    filter: Filter,
    /// Of the history that it reads.
    restores: u64,
    /// The next index to look at.
    next: u64,
    /// The last index that the reader has heard of.
    told: u64,
    mark_due: Instant,
    sender: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
}

impl Service {
    /// Opens a watch: its first reply is there when this returns.
    pub(crate) async fn watch_from(&self, call: proto::WatchRequest) -> Result<Replies, Status> {
        self.usable()?;
        let epoch = call.epoch;
        self.check_latest(epoch)?;
        let place = self.shared.watchers.clone().try_acquire_owned();
        let place = place.map_err(|_| Refusal::TooManyWatches(MAX_WATCHES))?;
        let filter = self.filter(call.query).await?;

        let (from, restores) = {
            let history = self.shared.history();
            let from = match call.from_index {
                0 => history.applied().saturating_add(1),
                from => from,
            };
            let read = history.read(from, 0);
            read.map_err(|Compacted(first)| Refusal::Compacted { from, first })?;
            (from, history.restores())
        };
        // One more place, so that the reason of the end never waits for a reader.
        let (sender, receiver) = mpsc::channel(WATCH_WAITING_REPLIES + 1);
        let Ok(last_word) = sender.clone().try_reserve_owned() else {
            return Err(Refusal::HungUp.into());
        };
        let mut watcher = Watcher {
            service: self.clone(),
            epoch,
            filter,
            restores,
            next: from,
            told: from.saturating_sub(1),
            mark_due: Instant::now() + self.shared.limits.watch_mark_interval,
            sender,
            room: Arc::new(Semaphore::new(WATCH_WAITING_BYTES)),
        };
        let mark = proto::WatchReply {
            index: watcher.told,
            events: Vec::new(),
            nonce: self.nonce(),
        };
        // The channel is new and has room.
        let _ = watcher.sender.try_send((Ok(mark), None));
        tokio::spawn(async move {
            let _place = place;
            let refusal = watcher.run().await;
            debug!("[STATEMACHINE] [WATCH-X] {refusal}");
            last_word.send((Err(refusal.into()), None));
        });
        Ok(Replies(receiver))
    }

    fn check_latest(&self, given: u64) -> Result<(), Refusal> {
        let latest = self.shared.progress.borrow().epoch;
        if given == latest && given != 0 {
            return Ok(());
        }
        Err(Refusal::StaleEpoch { given, latest })
    }

    /// What the author makes of the query. A machine in memory may be busy with a batch just now, so
    /// it is asked on a thread that may block.
    async fn filter(&self, query: Bytes) -> Result<Filter, Refusal> {
        let machine = self.shared.machine.clone();
        let asked = spawn_blocking(move || {
            catch_unwind(AssertUnwindSafe(|| machine.watch(&query)))
                .map_err(|panic| Refusal::QueryPanicked(panic_message(&*panic)))
        });
        let asked = asked.await;
        match asked.map_err(|error| Refusal::QueryPanicked(error.to_string()))?? {
            None => Err(Refusal::NoWatches),
            Some(Err(sentence)) => Err(Refusal::BadWatch(sentence)),
            Some(Ok(filter)) => Ok(filter),
        }
    }
}

impl Watcher {
    /// Tells until something ends it, which is returned. No reader may be there to hear of it.
    async fn run(&mut self) -> Refusal {
        let mut progress = self.service.shared.progress.subscribe();
        let why = loop {
            let (piece, restores) = {
                let history = self.service.shared.history();
                (history.read(self.next, WATCH_PIECE), history.restores())
            };
            let piece = match piece {
                Ok(piece) => piece,
                Err(Compacted(first)) if restores != self.restores => {
                    return Refusal::WatchEnded {
                        resume: self.next,
                        why: format!(
                            "the state was replaced by a snapshot, and what changed before index \
                             {first} is not known here"
                        ),
                    };
                }
                Err(Compacted(first)) => {
                    let (resume, kept_from) = (self.next, Some(first));
                    return Refusal::SlowWatcher { resume, kept_from };
                }
            };
            self.restores = restores;
            let up_to = piece.up_to;
            if let Err(refusal) = self.tell(piece).await {
                break refusal;
            }
            self.next = self.next.max(up_to.saturating_add(1));
            let (next, service, epoch) = (self.next, self.service.clone(), self.epoch);
            let behind = self.told.saturating_add(1) < next;
            let mark = tokio::select! {
                biased;
                refusal = service.must_end(epoch) => break refusal,
                () = self.sender.closed() => break Refusal::HungUp,
                // The sender of progress lives as long as the service.
                _ = progress.wait_for(|now| now.applied_index >= next) => false,
                () = sleep_until(self.mark_due), if behind => true,
            };
            if mark && let Err(refusal) = self.send(next.saturating_sub(1), Vec::new()).await {
                break refusal;
            }
            // A long way through what does not match is no reason to keep a thread from others.
            tokio::task::yield_now().await;
        };
        match why {
            slow @ Refusal::SlowWatcher { .. } => slow,
            why => Refusal::WatchEnded {
                resume: self.told.saturating_add(1),
                why: why.to_string(),
            },
        }
    }

    async fn tell(&mut self, piece: Piece) -> Result<(), Refusal> {
        for change in &piece.changes {
            let events = self.wanted(change)?;
            if !events.is_empty() {
                self.send(change.index, events).await?;
            }
            self.next = change.index.saturating_add(1);
        }
        Ok(())
    }

    fn wanted(&self, change: &Change) -> Result<Vec<Bytes>, Refusal> {
        let filter = AssertUnwindSafe(|| {
            let wanted = change.events.iter().filter(|event| (self.filter)(event));
            wanted.map(|event| event.data.clone()).collect()
        });
        catch_unwind(filter).map_err(|panic| Refusal::QueryPanicked(panic_message(&*panic)))
    }

    /// Sends one reply, when there is room for it.
    async fn send(&mut self, index: u64, events: Vec<Bytes>) -> Result<(), Refusal> {
        let bytes = events.iter().map(Bytes::len).sum::<usize>();
        let reply = proto::WatchReply {
            index,
            events,
            nonce: 0,
        };
        // A reply that is larger than the room there is goes alone.
        let share = u32::try_from(bytes.min(WATCH_WAITING_BYTES)).unwrap_or(u32::MAX);
        let sent = async {
            let room = self.room.clone().acquire_many_owned(share).await.ok();
            self.sender.send((Ok(reply), room)).await
        };
        let limits = &self.service.shared.limits;
        tokio::select! {
            biased;
            refusal = self.service.must_end(self.epoch) => return Err(refusal),
            () = self.sender.closed() => return Err(Refusal::HungUp),
            sent = timeout(limits.watch_wait, sent) => match sent {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Refusal::HungUp),
                Err(_) => {
                    let (resume, kept_from) = (self.told.saturating_add(1), None);
                    return Err(Refusal::SlowWatcher { resume, kept_from });
                }
            },
        }
        self.told = index;
        self.mark_due = Instant::now() + limits.watch_mark_interval;
        Ok(())
    }
}
