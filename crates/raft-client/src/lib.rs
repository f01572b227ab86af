//! The client of Leeky Raft, as a library and as the command line `raft-client`.
//!
//! # One entry, from this side
//!
//! `raft-client PUT pizzatoppings peporoni` becomes the entry `PUT pizzatoppings peporoni`. Any node
//! takes it: a follower forwards it to the leader. [`Client::put_entry`] first opens a session, and
//! then sends the entry as number 1 of that session. If the connection breaks, if the leader dies,
//! if no answer comes, it sends the entry again, to another node perhaps, with the same session and
//! the same number, and the cluster applies it once all the same. That is why it may retry at all.
//!
//! # What is promised when it fails
//!
//! Either the entry was not written and never will be, and the [`ClientError`] says why not. Or it
//! may have been, and then the error is [`ClientError::OutcomeUnknown`] and no other: as soon as one
//! attempt may have reached a log, a later "there is no leader" says nothing of that attempt.
//!
//! # Finding a node
//!
//! Endpoints are hosts and ports, and a name may have many addresses. Each is tried for a moment
//! only, round after round until the time is up. The leader is preferred once it is known and
//! reachable; where it is not (a client outside of the containers' network) any node forwards.
//! Two clusters can never be mixed up: the first one that answers is pinned.
//!
//! # Watching
//!
//! [`Client::watch`] tells what the state machine changes, from any node, each change once and in the
//! order of the log. What it counts by is the index: when the node dies, it asks another one for what
//! comes after the last index that it was told.
//!
//! # Saving
//!
//! [`Client::save_snapshot`] brings a snapshot of any node into a file. The file, and how a new cluster
//! begins with it, are `raft-disk`'s: what looks at it and restores it asks no node.
//!
//! Requests are values ([`Request`]) and one function carries them, so that a stream can take the
//! place of single calls without anything else changing.

pub mod bench;
mod client;
mod connection;
mod endpoints;
mod error;
pub mod exit_codes;
mod failure;
mod request;
mod saving;
mod survey;
pub mod verbs;
mod watch;

pub use client::{Client, Notice, Options};
pub use endpoints::{Endpoint, RAFT_PORT, parse_endpoints};
pub use error::ClientError;
pub use request::{MESSAGE_BYTES_MAX, Reply, Request};
pub use saving::SavedParts;
pub use survey::{NodeRow, Survey};
pub use watch::{Changes, Watch};
