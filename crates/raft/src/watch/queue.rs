//! What waits for the client of one watch: bounded in bytes and in time, and bound to the watch's place
//! for as long as any of it is in memory.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use raft_core::Index;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;
use tokio_stream::Stream;
use wire::raft::WatchReply;

use crate::limits::{WATCH_EVENT_OVERHEAD, WATCH_RELAYED_BYTES};
use crate::shared::locked;

/// What the client is given next.
#[derive(Debug, PartialEq)]
pub enum Told {
    /// A change, or a mark.
    Reply(WatchReply),
    /// It is over; nothing follows.
    End {
        /// The reason.
        why: String,
        /// Everything before this index was given to the client.
        next: Index,
    },
}

/// Why a reply was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// Nobody reads any more.
    #[error("the client has gone")]
    Gone,
    /// There was no room for too long.
    #[error("its reader is too slow")]
    TooSlow,
}

struct State {
    /// Each with its share of the room.
    waiting: VecDeque<(WatchReply, OwnedSemaphorePermit)>,
    /// Everything before this index was given to the client.
    next: Index,
    over: Option<String>,
    /// Free again when neither end is in memory, or nothing waits that the place must answer for.
    place: OwnedSemaphorePermit,
    reader: Option<Waker>,
}

/// The end of who tells.
pub struct Sender {
    state: Arc<Mutex<State>>,
    room: Arc<Semaphore>,
    reads: oneshot::Sender<()>,
    patience: Duration,
}

/// The end of who reads.
pub struct Receiver {
    state: Arc<Mutex<State>>,
    _reads: oneshot::Receiver<()>,
}

/// An empty queue for what follows the index before `next`. A reply waits no longer than `patience` for
/// room.
pub fn queue(place: OwnedSemaphorePermit, next: Index, patience: Duration) -> (Sender, Receiver) {
    let state = Arc::new(Mutex::new(State {
        waiting: VecDeque::new(),
        next,
        over: None,
        place,
        reader: None,
    }));
    let (reads, reading) = oneshot::channel();
    let sender = Sender {
        state: state.clone(),
        room: Arc::new(Semaphore::new(WATCH_RELAYED_BYTES)),
        reads,
        patience,
    };
    let receiver = Receiver {
        state,
        _reads: reading,
    };
    (sender, receiver)
}

impl State {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Sender {
    /// Takes one reply, when there is room for it.
    ///
    /// # Errors
    /// Nobody reads, or not fast enough.
    pub async fn push(&mut self, reply: WatchReply) -> Result<(), NotTaken> {
        let bytes = |event: &bytes::Bytes| event.len().saturating_add(WATCH_EVENT_OVERHEAD);
        let bytes = reply.events.iter().map(bytes).sum::<usize>();
        // A reply that is larger than the room there is goes alone. A mark takes some, too.
        let share = bytes.clamp(WATCH_EVENT_OVERHEAD, WATCH_RELAYED_BYTES);
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        let room = timeout(self.patience, self.room.clone().acquire_many_owned(share));
        let room = tokio::select! {
            biased;
            () = self.reads.closed() => return Err(NotTaken::Gone),
            room = room => room.map_err(|_| NotTaken::TooSlow)?,
        };
        // Nobody closes it.
        let room = room.map_err(|_| NotTaken::Gone)?;
        let mut state = locked(&self.state);
        state.waiting.push_back((reply, room));
        state.wake();
        Ok(())
    }

    /// What waits is given to the client, and then this reason.
    pub fn end(&self, why: String) {
        let mut state = locked(&self.state);
        state.over = Some(why);
        state.wake();
    }

    /// Takes back what waits: the client hears of the end next, and of the index that it has got to. The
    /// place is free for others if one of the `stumps` is, for what the client left behind on its way.
    pub fn cut(&self, stumps: &Arc<Semaphore>) {
        let mut state = locked(&self.state);
        state.waiting.clear();
        if let Ok(stump) = stumps.clone().try_acquire_owned() {
            state.place = stump;
        }
        state.wake();
    }

    /// Comes back when nobody reads any more.
    pub async fn gone(&mut self) {
        self.reads.closed().await;
    }
}

impl Stream for Receiver {
    type Item = Told;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Told>> {
        let mut state = locked(&self.state);
        if let Some((reply, _room)) = state.waiting.pop_front() {
            state.next = reply.index.saturating_add(1);
            return Poll::Ready(Some(Told::Reply(reply)));
        }
        if let Some(why) = state.over.clone() {
            let next = state.next;
            return Poll::Ready(Some(Told::End { why, next }));
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        locked(&self.state).waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio_stream::StreamExt;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(50);

    fn reply(index: Index, bytes: usize) -> WatchReply {
        WatchReply {
            index,
            events: vec![vec![b'x'; bytes].into()],
            ..WatchReply::default()
        }
    }

    fn place(of: &Arc<Semaphore>) -> OwnedSemaphorePermit {
        of.clone().try_acquire_owned().unwrap()
    }

    async fn next(receiver: &mut Receiver) -> Told {
        let told = timeout(Duration::from_secs(20), receiver.next());
        told.await.unwrap().unwrap()
    }

    fn end(why: &str, next: Index) -> Told {
        let why = why.to_owned();
        Told::End { why, next }
    }

    #[tokio::test]
    async fn what_waits_is_bounded_in_bytes_and_one_large_reply_goes_alone() {
        let places = Arc::new(Semaphore::new(1));
        let (mut sender, mut receiver) = queue(place(&places), 5, PATIENCE);
        let large = 4 * WATCH_RELAYED_BYTES;
        sender.push(reply(5, large)).await.unwrap();
        assert_eq!(sender.push(reply(6, 1)).await, Err(NotTaken::TooSlow));
        assert_eq!(next(&mut receiver).await, Told::Reply(reply(5, large)));
        let quarter = WATCH_RELAYED_BYTES / 4;
        for index in 6..=8 {
            sender.push(reply(index, quarter)).await.unwrap();
        }
        // With what it takes beside its bytes, the fourth is too much.
        let fourth = sender.push(reply(9, quarter)).await;
        assert_eq!(fourth, Err(NotTaken::TooSlow));
        assert_eq!(next(&mut receiver).await, Told::Reply(reply(6, quarter)));
        sender.push(reply(9, quarter)).await.unwrap();
        // Marks are not free.
        let mut marks = 0;
        while sender
            .push(WatchReply {
                index: 10 + marks,
                ..WatchReply::default()
            })
            .await
            .is_ok()
        {
            marks += 1;
            assert!(marks < 1 << 20);
        }
    }

    #[tokio::test]
    async fn room_comes_with_what_is_read_and_in_time() {
        let places = Arc::new(Semaphore::new(1));
        let (mut sender, mut receiver) = queue(place(&places), 1, Duration::from_secs(20));
        let told = tokio::spawn(async move {
            for index in 1..=20 {
                sender.push(reply(index, WATCH_RELAYED_BYTES)).await?;
            }
            sender.end("that is all".to_owned());
            Ok::<_, NotTaken>(())
        });
        for index in 1..=20 {
            let expected = Told::Reply(reply(index, WATCH_RELAYED_BYTES));
            assert!(next(&mut receiver).await == expected, "{index}");
        }
        assert_eq!(next(&mut receiver).await, end("that is all", 21));
        told.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_place_is_taken_as_long_as_anything_waits() {
        let (places, stumps) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(1)));
        let (mut sender, mut receiver) = queue(place(&places), 1, PATIENCE);
        for index in 1..=3 {
            sender.push(reply(index, 9)).await.unwrap();
        }
        sender.end("over".to_owned());
        drop(sender);
        assert_eq!(places.available_permits(), 0, "the replies are still there");
        assert_eq!(next(&mut receiver).await, Told::Reply(reply(1, 9)));
        drop(receiver);
        assert_eq!(places.available_permits(), 1);
        assert_eq!(stumps.available_permits(), 1);
    }

    #[tokio::test]
    async fn what_is_cut_ends_behind_what_was_given_and_frees_the_place() {
        let (places, stumps) = (Arc::new(Semaphore::new(2)), Arc::new(Semaphore::new(1)));
        let (mut sender, mut receiver) = queue(place(&places), 4, PATIENCE);
        for index in [4, 7, 9] {
            sender.push(reply(index, 9)).await.unwrap();
        }
        assert_eq!(next(&mut receiver).await, Told::Reply(reply(4, 9)));
        sender.end("too slow".to_owned());
        sender.cut(&stumps);
        assert_eq!(sender.room.available_permits(), WATCH_RELAYED_BYTES);
        assert_eq!(places.available_permits(), 2);
        assert_eq!(stumps.available_permits(), 0);
        // There are only so many who may have gone so; the next one keeps its place.
        let (second, kept) = queue(place(&places), 1, PATIENCE);
        second.end("too slow".to_owned());
        second.cut(&stumps);
        assert_eq!(places.available_permits(), 1);
        drop((second, kept));
        assert_eq!(next(&mut receiver).await, end("too slow", 5));
        drop((sender, receiver));
        assert_eq!(places.available_permits(), 2);
        assert_eq!(stumps.available_permits(), 1);
    }

    #[tokio::test]
    async fn who_tells_learns_that_nobody_reads() {
        let places = Arc::new(Semaphore::new(1));
        let (mut sender, receiver) = queue(place(&places), 1, Duration::from_secs(20));
        let large = WATCH_RELAYED_BYTES;
        sender.push(reply(1, large)).await.unwrap();
        let gone = tokio::spawn(async move {
            let pushed = sender.push(reply(2, large)).await;
            sender.gone().await;
            pushed
        });
        drop(receiver);
        assert_eq!(gone.await.unwrap(), Err(NotTaken::Gone));
    }
}
