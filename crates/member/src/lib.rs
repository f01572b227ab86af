//! The membership daemon: who is there, at which address, how healthy.
//!
//! All decisions are in [`member_core`]. This crate gives it what it does not have: a UDP socket
//! (6000), a clock, dice, the folder `<data>/member`, names to resolve; and it shows what the core
//! knows, by gRPC (6002) to the node's `raft` and by HTTP (6001) to whoever looks after the node.
//!
//! # Layout
//!
//! - [`Daemon`]: start, leave, stop. `main` parses, logs, starts and waits.
//! - `driver`: the one loop that owns the core. No lock; everything else asks it.
//! - `home`: identity, boot epoch, lock, members known last.
//! - `introducers`: names resolved again and again, and the own address.
//! - `service`, `convert`: gRPC. `http`: metrics, liveness, log level. `events`: log lines.
//!
//! # What it promises
//!
//! The boot epoch is durable before the first packet. Nothing that arrives, on whatever port, ends
//! the process; only a request of this node's own processes (`Leave`), a signal, or a failure of
//! the program itself does. SIGTERM without `LeaveOnTerminate` ends it at once and in silence.

mod convert;
mod daemon;
mod driver;
mod events;
mod home;
mod http;
mod introducers;
pub mod logging;
mod service;

pub use daemon::Daemon;
