//! # The raft daemon
//!
//! One of a node's three processes. It owns the node's copy of the log: it elects, replicates,
//! commits, and hands what is committed to the state machine beside it. Consensus itself is
//! [`raft_core`], a value; this crate gives it a clock, a disk, peers, clients and a state machine.
//!
//! ## The path of one entry
//!
//! 1. [`client_service`]: `put_entry` takes the request on any node; a follower forwards it to the
//!    leader ([`forward`]). It waits with a oneshot for what becomes of it.
//! 2. [`driver`]: the one loop. All entries that wait become one batch (**digest_entries**), one step
//!    of the core. Its effects leave at once: AppendEntries to every peer ([`peers`]), one write to
//!    the disk's thread ([`disk`]). Neither waits for the other.
//! 3. At a follower: [`peer_service`] hears the AppendEntries, the driver steps, the disk reports,
//!    and the acknowledgement leaves on the small stream.
//! 4. The leader's core counts. What is committed *and* durable here goes to [`committed`].
//! 5. [`apply`], **digest_commits**: in order, in batches, through the session table, to `Execute`
//!    ([`state_machine`]): messages on one stream for each epoch, or calls, as the state machine has it.
//! 6. [`waiters`]: the outcome wakes the request by index and term, and the client is answered.
//!
//! Beside it: [`snapshots`] (taken, served, pulled, given back), [`sessions`] (the end of idle ones),
//! [`comparison`] (of what the replicas came to), [`reads`] (queries), [`watch`] (changes, as they are
//! applied), [`membership`]
//! and [`hints`] (the member map, as advice), [`founding`] (the lobby), [`http`] (health, metrics),
//! [`status`].
//!
//! ## Invariants
//!
//! - Nobody but the driver touches the core; the others see what it publishes ([`shared`]).
//! - The driver waits for nothing but its own input: it never awaits a peer, the disk, a client or
//!   the state machine.
//! - Every queue, wait and retry has a limit with a name ([`limits`], and the configuration);
//!   reaching it is an answer.
//! - Nothing that arrives can end the daemon. It ends when it is told to, when its disk fails (D7),
//!   or when its identity has left the cluster (M3).
//!
//! ## What is left out
//!
//! TLS.

pub mod accept;
pub mod addresses;
pub mod apply;
pub mod ask;
pub mod client_service;
pub mod committed;
pub mod comparison;
pub mod convert;
pub mod discover;
pub mod disk;
pub mod driver;
pub mod events;
pub mod forward;
pub mod founding;
pub mod hints;
pub mod http;
pub mod limits;
pub mod logging;
pub mod membership;
pub mod metrics;
pub mod net;
pub mod peer_service;
pub mod peers;
pub mod probes;
pub mod reads;
pub mod repair;
pub mod room;
pub mod server;
pub mod sessions;
pub mod shared;
pub mod snapshots;
pub mod state_machine;
pub mod status;
pub mod waiters;
pub mod watch;
