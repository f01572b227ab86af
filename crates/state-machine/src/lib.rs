//! The key-value store: the state machine that a cluster has when nobody brought another.
//!
//! [`key_value`] is its logic, which touches nothing but a [`key_value::Store`]; [`storage`] is
//! that store in one `redb` file, with the state, the outcomes and the applied index in the same
//! transaction. Everything that a state machine owes its daemon is `state-machine-sdk`'s.
//!
//! # What a crash leaves
//!
//! A batch is committed lazily: readers see it at once, and the disk within two seconds, or sooner
//! when much was written. A crash in between falls back to the last synced commit, which is the
//! state as of some earlier entry, whole, with the outcomes and the applied index of that entry.
//! The daemon learns the index at the next handshake and sends the rest again from its own log,
//! which is what an acknowledged write rests on.
//!
//! # Snapshots
//!
//! [`snapshot`] has their bytes. One is written from a view of the store as of one commit, while
//! batches go on, and read in one transaction, in which the old state goes as well: a crash before
//! its end leaves the old state, whole. Neither holds more of the state in memory than the storage's
//! cache does.
//!
//! # Watches
//!
//! Each change of a key is an event ([`key_value::put_event`], [`key_value::delete_event`]), and a WATCH
//! wants those of one prefix. Those of late are kept in memory by the SDK, from the start of the process
//! on, within its limits.
//!
//! # What is left out
//!
//! Leases.

pub mod directory;
pub mod key_value;
pub mod snapshot;
pub mod storage;
