//! # Raft, as a value
//!
//! This crate is the consensus of Leeky Raft and nothing else. A [`Raft`] is a plain value: it can be
//! cloned, compared, hashed and printed. It knows no clock, socket, file, thread, or dice of its own.
//! Everything that happens comes in through [`Raft::step`] as an [`Input`], with the time; everything
//! that is to be done comes out as [`Effect`]s. The daemon and the simulator call the very same
//! function, so every fault of the protocol can be found, repeated and understood from a seed.
//!
//! ## The paper, and where its parts are
//!
//! "In Search of an Understandable Consensus Algorithm" (extended version) is cited by section, and
//! Ongaro's dissertation by section or chapter.
//!
//! | | |
//! |---|---|
//! | roles, terms, what is on disk (figure 2, §5.1) | `raft`, [`durable`] |
//! | election, pre-vote, succession (§5.2, §5.4.1; §9.6) | `election` |
//! | what a leader has, entries from clients | `leader` |
//! | replication (§5.3) | `replication`, `progress`, `log` |
//! | commit (§5.4.2) | `commits` |
//! | log compaction (§7) | `snapshots` |
//! | membership changes (§6; chapter 4) | [`configuration`], `reconfiguration`, [`reconciler`] |
//! | reads (§6.4) | [`reads`] |
//! | leadership transfer (§3.10) | `transfer` |
//! | sessions, exactly once (§6.3) | [`sessions`] |
//! | a log that is damaged in its middle (D6) | [`repair`] |
//! | how committed entries reach the state machine and who waits (digest_commits) | [`walk`], [`waiters`] |
//!
//! ## The path of one entry
//!
//! 1. [`Input::PutEntries`] brings every request that waited. `digest_entries` (`put_entries` in
//!    `leader`) appends them in one batch, asks for one disk write, and sends them to every peer at
//!    once, on top of whatever is still under way.
//! 2. A follower checks that the logs join, asks for a disk write, and acknowledges when, and only
//!    when, its disk has reported: `on_append_entries`, `acknowledge_durable`.
//! 3. The leader counts durable copies, its own included: `advance_commit_index`. The others hear of it with
//!    the next AppendEntries, or at once if there is none: `tell_commit_index`.
//! 4. [`Effect::Committed`] says up to where entries are committed *and* durable here: that is what
//!    the driver's `digest_commits` hands to the state machine, asking [`sessions::SessionTable`]
//!    first whether an entry is a retry.
//!
//! ## The duties of a driver
//!
//! 1. Hand in inputs one at a time, with a monotonic time; carry out the effects of one before the
//!    next. Call with [`Input::Tick`] at [`Raft::next_deadline`].
//! 2. Hand [`Effect::Persist`] to the disk in order, and report with [`Input::Persisted`]. A report
//!    may cover several writes. Never report what a crash could undo.
//! 3. Send [`Effect::Send`] at once. Messages may be lost, doubled and reordered; bulk must not delay
//!    the others (W3). `from` must be true.
//! 4. Wake whoever waits for an entry by index *and* term (W1).
//!
//! Nothing that rests on a disk write comes out before its report came in. A driver therefore cannot
//! break the order of disk and network; it could only lie about the disk.
//!
//! ## Invariants
//!
//! Figure 3 of the paper, and beside it: what a node promised (term, vote, acknowledgement) is on its
//! disk before anybody hears of it; a quorum is a majority of the voters of the latest configuration
//! in the log, of both halves while that is joint; an entry goes to the state machine only when it is
//! committed and durable here. Assertions check this node's own doing. What peers say is checked
//! too, but never by assertion: it is dropped and reported as [`Event::Nonsense`].
//!
//! ## What is left out
//!
//! Leases for reads (E4) and witnesses are not here yet.

/// Whether the rule that the mutant takes out is out of force (the module `mutants`, which only the feature
/// of that name compiles): never, in anything that is shipped.
#[cfg(feature = "mutants")]
#[macro_export]
macro_rules! mutant {
    ($name:ident) => {
        $crate::mutants::is_on($crate::mutants::Mutant::$name)
    };
}

/// Whether the rule that the mutant takes out is out of force: never, without the feature `mutants`.
#[cfg(not(feature = "mutants"))]
#[macro_export]
macro_rules! mutant {
    ($name:ident) => {
        $crate::never()
    };
}

/// Behind `mutant!`: a function, since a plain `false` would have conditions simplified that hold more
/// than one mutant.
#[cfg(not(feature = "mutants"))]
#[doc(hidden)]
#[inline(always)]
pub const fn never() -> bool {
    false
}

pub mod agreement;
pub mod configuration;
pub mod durable;
pub mod entry;
pub mod ids;
pub mod io;
pub mod message;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod options;
pub mod reads;
pub mod reconciler;
pub mod repair;
pub mod sessions;
pub mod waiters;
pub mod walk;

#[cfg(all(test, feature = "mutants"))]
extern crate self as raft_core;
#[cfg(all(test, feature = "mutants"))]
#[path = "../tests/a_mutant/mod.rs"]
mod a_mutant;
mod canonical;
mod commits;
mod dice;
mod election;
mod leader;
mod log;
mod progress;
mod raft;
mod reconfiguration;
mod replication;
mod snapshots;
mod transfer;

pub use agreement::Agreement;
pub use canonical::Renamed;
pub use configuration::Configuration;
pub use durable::{HardState, Persisted, Recovered, SnapshotMeta, Write};
pub use entry::{BadPayload, Command, Entry, Payload};
pub use ids::{Boot, ClusterId, Index, MAX_INDEX, NodeId, Position, Term, Time};
pub use io::{Effect, Event, Input, MemberHint, PeerView, Proposal, Refusal, RequestId, RoleName};
pub use message::{Health, Message};
pub use options::Options;
pub use raft::Raft;
pub use sessions::SessionTable;
