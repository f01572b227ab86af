//! Group commit: the log on a thread of its own.
//!
//! Whatever queued while the last sync ran is the next group. Nothing waits for company: a write
//! that finds the disk idle is stored at once.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use raft_core::{Persisted, Write};

use crate::format::write_len;
use crate::store::{LogStore, WriteError};

/// Writes that may wait. The core bounds what it leaves outstanding far below this.
pub const MAX_QUEUED_WRITES: usize = 65_536;

/// Bytes of writes that may wait; a single larger one is taken when nothing else waits.
pub const MAX_QUEUED_BYTES: usize = 256 << 20;

/// A group takes no further write once it has reached this: larger ones save no syncs worth having,
/// and delay the first report.
pub const MAX_GROUP_BYTES: usize = 8 << 20;

/// How long a full disk is left alone before the next attempt.
pub const FULL_RETRY: Duration = Duration::from_millis(500);

/// A disk that had nothing to do for this long notes that all is durable ([`LogStore::mark`]).
pub const IDLE_MARK: Duration = Duration::from_secs(1);

/// Why a write was not taken. It comes back to the caller.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// Too much waits already.
    #[error(
        "the disk is too far behind: {MAX_QUEUED_WRITES} writes or {MAX_QUEUED_BYTES} bytes wait"
    )]
    QueueFull(Box<Write>),
    /// The thread has ended: the report of its last error said why.
    #[error("the log takes no more writes")]
    Stopped(Box<Write>),
}

/// The log, writing on a thread of its own. Dropping it stores what waits and ends the thread.
#[derive(Debug)]
pub struct DiskThread {
    queue: Arc<Queue>,
    handle: Option<JoinHandle<LogStore>>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    writes: VecDeque<Write>,
    /// What waits or is being written.
    count: usize,
    bytes: usize,
    stopping: bool,
    stopped: bool,
}

impl DiskThread {
    /// Starts the thread. `report` is called on it, once for each group:
    ///
    /// * `Ok`: everything up to that sequence is durable;
    /// * [`WriteError::Full`]: once when the disk becomes full. The thread keeps the writes, tries
    ///   again every [`FULL_RETRY`], and the next `Ok` says that it went well;
    /// * any other error: the last report. The log must be opened anew.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn spawn(
        store: LogStore,
        report: impl Fn(Result<Persisted, WriteError>) + Send + 'static,
    ) -> io::Result<DiskThread> {
        let queue = Arc::new(Queue::default());
        let theirs = queue.clone();
        let handle = std::thread::Builder::new()
            .name("log-disk".to_owned())
            .spawn(move || run(store, &theirs, &report))?;
        Ok(DiskThread {
            queue,
            handle: Some(handle),
        })
    }

    /// Queues a write; never waits for the disk.
    ///
    /// # Errors
    /// [`SubmitError`], with the write.
    pub fn submit(&self, write: Write) -> Result<(), SubmitError> {
        let bytes = write_len(&write);
        let mut state = self.queue.lock();
        if state.stopped || state.stopping {
            return Err(SubmitError::Stopped(Box::new(write)));
        }
        let fits = state.bytes.saturating_add(bytes) <= MAX_QUEUED_BYTES || state.count == 0;
        if !fits || state.count >= MAX_QUEUED_WRITES {
            return Err(SubmitError::QueueFull(Box::new(write)));
        }
        state.bytes += bytes;
        state.count += 1;
        state.writes.push_back(write);
        drop(state);
        self.queue.changed.notify_one();
        Ok(())
    }

    /// Stores what waits, ends the thread, and gives the log back; `None` if the report panicked. On
    /// a full disk it ends without storing what waits.
    pub fn shutdown(mut self) -> Option<LogStore> {
        self.join()
    }

    fn join(&mut self) -> Option<LogStore> {
        self.queue.lock().stopping = true;
        self.queue.changed.notify_one();
        self.handle.take()?.join().ok()
    }
}

impl Drop for DiskThread {
    fn drop(&mut self) {
        self.join();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for writes and moves a group of them into `group`; calls `idle` once if it has to wait
    /// for long. False: there will be none.
    fn take(&self, group: &mut Vec<Write>, mut idle: impl FnMut()) -> bool {
        let waiting = |state: &mut State| state.writes.is_empty() && !state.stopping;
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), IDLE_MARK, waiting);
        let (mut state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            drop(state);
            idle();
            let waited = self.changed.wait_while(self.lock(), waiting);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        if state.writes.is_empty() {
            return false;
        }
        let mut bytes = 0usize;
        while bytes < MAX_GROUP_BYTES
            && let Some(write) = state.writes.pop_front()
        {
            bytes = bytes.saturating_add(write_len(&write));
            group.push(write);
        }
        true
    }

    fn release(&self, group: &mut Vec<Write>) {
        let bytes: usize = group.iter().map(write_len).sum();
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_sub(bytes);
        state.count = state.count.saturating_sub(group.len());
        drop(state);
        group.clear();
    }

    /// Waits for [`FULL_RETRY`]. False: the thread shall end.
    fn pause(&self) -> bool {
        let state = self.lock();
        let waited = self
            .changed
            .wait_timeout_while(state, FULL_RETRY, |state| !state.stopping);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !state.stopping
    }
}

/// Tells submitters that nobody stores their writes any more, however the thread ends.
struct Stopped<'a>(&'a Queue);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.stopped = true;
        state.writes.clear();
    }
}

fn run(
    mut store: LogStore,
    queue: &Queue,
    report: &dyn Fn(Result<Persisted, WriteError>),
) -> LogStore {
    let _stopped = Stopped(queue);
    let mut group = Vec::new();
    while queue.take(&mut group, || store.mark()) {
        if !store_group(&mut store, queue, &group, report) {
            return store;
        }
        queue.release(&mut group);
    }
    store.mark();
    store
}

/// Stores a group, in parts when the disk is almost full. False: the thread shall end.
fn store_group(
    store: &mut LogStore,
    queue: &Queue,
    group: &[Write],
    report: &dyn Fn(Result<Persisted, WriteError>),
) -> bool {
    let mut rest = group;
    let mut at_once = group.len();
    let mut told = false;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(at_once.min(rest.len()));
        match store.write(now) {
            Ok(persisted) => {
                report(Ok(persisted));
                rest = later;
                told = false;
            }
            // What is left of the segment may still take the first write alone: a vote, say.
            Err(WriteError::Full(_)) if now.len() > 1 => at_once = 1,
            Err(full @ WriteError::Full(_)) => {
                if !told {
                    report(Err(full));
                    told = true;
                }
                if !queue.pause() {
                    return false;
                }
            }
            Err(error) => {
                report(Err(error));
                return false;
            }
        }
    }
    true
}
