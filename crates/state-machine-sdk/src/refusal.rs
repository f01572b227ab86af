//! Everything that a call can be refused for, and the gRPC status of each.

use tonic::{Code, Status};

/// Metadata of a refused call: one word for a program to branch on. The sentence is for people.
pub const REASON_HEADER: &str = "leeky-reason";

/// Metadata of a refused or ended watch: an index in decimal digits. With COMPACTED it is the first that
/// can be watched, otherwise the one to go on from.
pub const INDEX_HEADER: &str = "leeky-index";

/// Why a call was not done. Except where it says otherwise, nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A call of an epoch that a later handshake has ended, or before any handshake.
    #[error(
        "epoch {given} is not the latest one, which is {latest} (0: no handshake yet): this \
         connection must begin with a handshake of a larger epoch"
    )]
    StaleEpoch {
        /// The epoch of the call.
        given: u64,
        /// The latest epoch.
        latest: u64,
    },
    /// A handshake that does not open a larger epoch.
    #[error(
        "epoch {given} cannot be opened, for it is not larger than the latest one, {latest}: each \
         handshake opens a larger epoch than all before it"
    )]
    EpochNotLarger {
        /// The epoch of the handshake.
        given: u64,
        /// The latest epoch.
        latest: u64,
    },
    /// Entries are missing before the one given.
    #[error(
        "OUT_OF_ORDER: entry {given} cannot be applied after entry {applied}: the next one must be \
         {}",
        applied.saturating_add(1)
    )]
    OutOfOrder {
        /// The index of the first entry of the call.
        given: u64,
        /// The applied index.
        applied: u64,
    },
    /// The state comes from another cluster's log.
    #[error(
        "this state belongs to cluster {bound:032x}, and the daemon belongs to cluster \
         {given:032x}: point the daemon at its own state machine, or start this one with an empty \
         data directory"
    )]
    OtherCluster {
        /// The cluster of the state.
        bound: u128,
        /// The cluster of the daemon.
        given: u128,
    },
    /// The state is driven by another node's daemon. What a daemon has forgotten together with its
    /// old id (results of clients that may still retry) is no longer here either, so the state of
    /// another node is no start for a new one.
    #[error(
        "this state belongs to node {bound:032x}, and the daemon is node {given:032x}: each node \
         has a state machine of its own; if that node was given up, move the state machine's data \
         aside, and it is built anew from the log"
    )]
    OtherNode {
        /// The node of the state.
        bound: u128,
        /// The node of the daemon.
        given: u128,
    },
    /// The entry was applied with another term: the state and the log are of two histories.
    #[error(
        "entry {index} was applied with term {applied_term}, and comes now with term \
         {given_term}: the state is of another history than the log"
    )]
    OtherHistory {
        /// The index of both.
        index: u64,
        /// The term that was applied.
        applied_term: u64,
        /// The term that the daemon sends.
        given_term: u64,
    },
    /// No version of the protocol is spoken by both.
    #[error(
        "the daemon speaks versions {min} to {max} of the protocol, and this state machine speaks \
         version {}: upgrade the older of the two",
        crate::engine::PROTOCOL
    )]
    Protocol {
        /// The lowest version that the daemon speaks.
        min: u32,
        /// The highest.
        max: u32,
    },
    /// The call breaks the contract in its form.
    #[error("malformed call: {0}")]
    Malformed(String),
    /// The call is larger than what was agreed on at the handshake.
    #[error("too large: {0}")]
    TooLarge(String),
    /// A query asks for an index that was not applied in time.
    #[error(
        "entry {min_index} is not applied yet, {applied} is: ask again after Execute has answered"
    )]
    Behind {
        /// The index asked for.
        min_index: u64,
        /// The applied index.
        applied: u64,
    },
    /// The batch or the handshake before this call has not ended in time.
    #[error("still busy with the call before this one: try again later with a new handshake")]
    Busy,
    /// More queries are here than may wait.
    #[error("{0} queries are waiting: try again later")]
    Overloaded(usize),
    /// The disk has no room for the batch. Nothing of it was applied.
    #[error("{0}. Free some space; nothing of this call was applied, and it may be sent again")]
    NoRoom(String),
    /// The author's code panicked. Nothing of the whole batch was applied.
    #[error(
        "the state machine's code panicked at entry {index}: {message}. Nothing of this batch was \
         applied. The same entry will do it again until the code is corrected or an operator has \
         the entry skipped"
    )]
    Panicked {
        /// The entry it happened at.
        index: u64,
        /// What the panic said.
        message: String,
    },
    /// The author's code panicked while it answered a query.
    #[error("the state machine's code panicked while it answered a query: {0}")]
    QueryPanicked(String),
    /// The machine has ended, or is about to. Whether the call was applied will be known after the
    /// handshake with its successor.
    #[error("the state machine is stopping: {0}")]
    Stopping(String),
    /// A call that this machine does not offer.
    #[error(
        "this state machine has no snapshots: its handshake offers no snapshot format, and the \
         daemon keeps its whole log"
    )]
    NoSnapshots,
    /// A snapshot is asked for, or comes, in a format that this machine does not write, or read.
    #[error(
        "the snapshot format {given:?} is unknown here; this state machine knows {known}: upgrade \
         the older of the two"
    )]
    Format {
        /// The format of the call.
        given: String,
        /// Those of the machine.
        known: String,
    },
    /// Another snapshot of the same machine is on its way.
    #[error("a snapshot is being sent already, and one is sent at a time: take that, or end it")]
    SnapshotUnderWay,
    /// The other side of a stream has not moved for as long as a chunk may wait.
    #[error("the other side has not moved for {} s, so the stream was ended: {what}", waited.as_secs_f32())]
    Slow {
        /// What was waited for.
        what: &'static str,
        /// How long.
        waited: std::time::Duration,
    },
    /// The other side of a stream is gone; nobody reads this.
    #[error("the other side hung up")]
    HungUp,
    /// A snapshot that is not whole, is damaged, or is not understood. The old state stands.
    #[error("the snapshot cannot be taken, and the state is as it was: {0}")]
    BadSnapshot(String),
    /// A snapshot of an earlier index than the state: a state never goes back.
    #[error(
        "the state is as of entry {applied} already, and a snapshot of entry {index} would take it \
         back: go on with the entries after {applied}"
    )]
    Ahead {
        /// The index of the snapshot.
        index: u64,
        /// The applied index.
        applied: u64,
    },
    /// The author's code could not write a snapshot. The state is as it was.
    #[error("the state machine could not write its snapshot: {0}")]
    SnapshotFailed(String),
    /// This machine has no watches.
    #[error("this state machine has no watches: ask it with a query instead")]
    NoWatches,
    /// What is to be watched is not understood; the author's sentence.
    #[error("{0}")]
    BadWatch(String),
    /// More watches are open than may be.
    #[error("{0} watches are open: try again later, or at another node")]
    TooManyWatches(usize),
    /// A watch asks for changes that are no longer kept.
    #[error(
        "the changes from index {from} on are no longer kept here: the first index that can be \
         watched is {first}. Read the state as it is, and watch from there"
    )]
    Compacted {
        /// The index asked for.
        from: u64,
        /// The first that is kept.
        first: u64,
    },
    /// A watch was given up, since its reader does not keep up. The index to go on from is in
    /// [`INDEX_HEADER`]; who passes it on has words of its own for that.
    #[error(
        "the watch was ended, for its reader is too slow{}",
        kept_from.map(|first| format!(", and the changes before index {first} are no longer kept"))
            .unwrap_or_default()
    )]
    SlowWatcher {
        /// The index to go on from.
        resume: u64,
        /// What is kept begins here, when that is later.
        kept_from: Option<u64>,
    },
    /// A watch was ended, and not by its reader.
    #[error("the watch was ended: {why}")]
    WatchEnded {
        /// The index to go on from.
        resume: u64,
        /// What ended it.
        why: String,
    },
}

/// How much of a stranger's format name is shown back to it, in characters.
const SHOWN_FORMAT_CHARACTERS: usize = 40;

impl Refusal {
    pub(crate) fn format(given: &str, known: &[&str]) -> Self {
        Self::Format {
            given: given.chars().take(SHOWN_FORMAT_CHARACTERS).collect(),
            known: known.join(", "),
        }
    }

    /// The word of [`REASON_HEADER`].
    pub fn reason(&self) -> &'static str {
        match self {
            Self::StaleEpoch { .. } => "STALE_EPOCH",
            Self::EpochNotLarger { .. } => "EPOCH_NOT_LARGER",
            Self::OutOfOrder { .. } => "OUT_OF_ORDER",
            Self::OtherCluster { .. } => "OTHER_CLUSTER",
            Self::OtherNode { .. } => "OTHER_NODE",
            Self::OtherHistory { .. } => "OTHER_HISTORY",
            Self::Protocol { .. } => "PROTOCOL",
            Self::Malformed(_) => "MALFORMED",
            Self::TooLarge(_) => "TOO_LARGE",
            Self::Behind { .. } => "BEHIND",
            Self::Busy => "BUSY",
            Self::Overloaded(_) => "OVERLOADED",
            Self::NoRoom(_) => "NO_ROOM",
            Self::Panicked { .. } | Self::QueryPanicked(_) => "PANICKED",
            Self::Stopping(_) => "STOPPING",
            Self::NoSnapshots => "NO_SNAPSHOTS",
            Self::Format { .. } => "FORMAT",
            Self::SnapshotUnderWay => "SNAPSHOT_UNDER_WAY",
            Self::Slow { .. } => "SLOW",
            Self::HungUp => "HUNG_UP",
            Self::BadSnapshot(_) => "BAD_SNAPSHOT",
            Self::Ahead { .. } => "AHEAD",
            Self::SnapshotFailed(_) => "SNAPSHOT_FAILED",
            Self::NoWatches => "NO_WATCHES",
            Self::BadWatch(_) => "BAD_WATCH",
            Self::TooManyWatches(_) => "OVERLOADED",
            Self::Compacted { .. } => "COMPACTED",
            Self::SlowWatcher { .. } => "SLOW_WATCHER",
            Self::WatchEnded { .. } => "WATCH_ENDED",
        }
    }

    /// The number of [`INDEX_HEADER`].
    pub fn index(&self) -> Option<u64> {
        match self {
            Self::Compacted { first, .. } => Some(*first),
            Self::SlowWatcher { resume, .. } | Self::WatchEnded { resume, .. } => Some(*resume),
            _ => None,
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::StaleEpoch { .. } | Self::EpochNotLarger { .. } => Code::Aborted,
            Self::OutOfOrder { .. }
            | Self::OtherCluster { .. }
            | Self::OtherNode { .. }
            | Self::OtherHistory { .. }
            | Self::Protocol { .. }
            | Self::Format { .. }
            | Self::Ahead { .. } => Code::FailedPrecondition,
            Self::Malformed(_) | Self::BadWatch(_) => Code::InvalidArgument,
            Self::TooLarge(_)
            | Self::Overloaded(_)
            | Self::NoRoom(_)
            | Self::TooManyWatches(_)
            | Self::SlowWatcher { .. } => Code::ResourceExhausted,
            Self::Behind { .. }
            | Self::Busy
            | Self::Stopping(_)
            | Self::SnapshotUnderWay
            | Self::WatchEnded { .. } => Code::Unavailable,
            Self::Compacted { .. } => Code::OutOfRange,
            Self::Panicked { .. } | Self::QueryPanicked(_) | Self::SnapshotFailed(_) => {
                Code::Internal
            }
            Self::Slow { .. } => Code::DeadlineExceeded,
            Self::HungUp => Code::Cancelled,
            Self::BadSnapshot(_) => Code::DataLoss,
            Self::NoSnapshots | Self::NoWatches => Code::Unimplemented,
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let mut status = Self::new(refusal.code(), refusal.to_string());
        let reason = tonic::metadata::MetadataValue::from_static(refusal.reason());
        status.metadata_mut().insert(REASON_HEADER, reason);
        if let Some(index) = refusal.index() {
            status.metadata_mut().insert(INDEX_HEADER, index.into());
        }
        status
    }
}
