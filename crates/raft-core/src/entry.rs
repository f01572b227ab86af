//! Entries of the log, and how they are written as bytes.
//!
//! The bytes are the same on the wire and on the disk, so that an entry is encoded once. Decoding is
//! total: every sequence of bytes is either a payload or a [`BadPayload`].

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::configuration::Configuration;
use crate::ids::{ClusterId, Index, NodeId, Position, Term};

/// One entry of the replicated log (§5.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Place in the log, from 1.
    pub index: Index,
    /// Term of the leader that appended it.
    pub term: Term,
    /// Milliseconds of log time: the last log time plus the leader's monotonic time since its
    /// election (S3). The same on every replica; never a wall clock.
    pub log_time_ms: u64,
    /// What it says.
    pub payload: Payload,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Payload {
    /// A new leader's first entry: it lets the entries of earlier terms commit (§5.4.2, §8).
    Noop,
    /// Entry 1 of every log: the cluster's birth, with its founder as the only voter.
    Founding {
        /// The cluster's name from now on.
        cluster_id: ClusterId,
        /// The only voter of the first configuration.
        founder: NodeId,
        /// Founded for use as a single node: takes client entries at once (F1, `FoundAlone`).
        alone: bool,
    },
    /// A change of the configuration, effective on append (§6). Shared, not copied.
    Configuration(Arc<Configuration>),
    /// A client's entry for the state machine.
    Command(Command),
    /// Opens a session; its id is this entry's index (S2).
    RegisterSession,
    /// Proves that a session is in use, and lets old results go.
    KeepAlive {
        /// The session.
        session: Index,
        /// Results below this sequence have reached the client.
        acked_below: u64,
    },
    /// Ends a session, unless it was active after `seen_activity` (S3).
    ExpireSession {
        /// The session.
        session: Index,
        /// The last activity that the leader had seen when it proposed this.
        seen_activity: Index,
    },
    /// The cluster gives way to another; nothing is accepted after it (F2).
    Dissolve,
    /// An operator's order not to run the entry at `index` (P5).
    Skip {
        /// The entry that is not run.
        index: Index,
    },
}

/// A client's entry, with what makes it happen once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Command {
    /// Index of the session's Register entry; 0: outside any session.
    pub session: Index,
    /// Place in the session, from 1; the same for every retry.
    pub sequence: u64,
    /// Results below this sequence have reached the client.
    pub acked_below: u64,
    /// For the state machine alone; Raft does not look inside.
    pub bytes: Bytes,
}

/// These bytes are no payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPayload {
    /// They end too early, or go on too long.
    #[error("the payload of an entry has the wrong length")]
    Length,
    /// The first byte names no kind that this version knows.
    #[error("an entry of unknown kind {0}: was it written by a newer version?")]
    Kind(u8),
    /// More nodes than any configuration may name.
    #[error("a configuration names {0} nodes")]
    TooManyNodes(u32),
}

/// Bytes that an entry takes beside its payload, when limits are counted.
pub const ENTRY_OVERHEAD_BYTES: usize = 48;

impl Entry {
    /// Where the entry stands.
    pub fn position(&self) -> Position {
        Position {
            index: self.index,
            term: self.term,
        }
    }

    /// What the entry counts for in limits of memory and packets.
    pub fn cost_bytes(&self) -> usize {
        ENTRY_OVERHEAD_BYTES
            + match &self.payload {
                Payload::Command(command) => command.bytes.len(),
                Payload::Configuration(configuration) => configuration.encoded_len(),
                _ => 0,
            }
    }
}

const NOOP: u8 = 0;
const FOUNDING: u8 = 1;
const CONFIGURATION: u8 = 2;
const COMMAND: u8 = 3;
const REGISTER_SESSION: u8 = 4;
const KEEP_ALIVE: u8 = 5;
const EXPIRE_SESSION: u8 = 6;
const DISSOLVE: u8 = 7;
const SKIP: u8 = 8;

impl Payload {
    /// Length of [`Payload::encode`]'s bytes.
    pub fn encoded_len(&self) -> usize {
        match self {
            Payload::Noop | Payload::RegisterSession | Payload::Dissolve => 1,
            Payload::Founding { .. } => 34,
            Payload::Configuration(configuration) => 1 + configuration.encoded_len(),
            Payload::Command(command) => 25 + command.bytes.len(),
            Payload::KeepAlive { .. } | Payload::ExpireSession { .. } => 17,
            Payload::Skip { .. } => 9,
        }
    }

    /// Appends the payload's bytes: a byte for the kind, then its fields, numbers big-endian.
    pub fn encode(&self, out: &mut impl BufMut) {
        match self {
            Payload::Noop => out.put_u8(NOOP),
            Payload::Founding {
                cluster_id,
                founder,
                alone,
            } => {
                out.put_u8(FOUNDING);
                out.put_u128(cluster_id.0);
                out.put_u128(founder.0);
                out.put_u8(u8::from(*alone));
            }
            Payload::Configuration(configuration) => {
                out.put_u8(CONFIGURATION);
                configuration.encode(out);
            }
            Payload::Command(command) => {
                out.put_u8(COMMAND);
                out.put_u64(command.session);
                out.put_u64(command.sequence);
                out.put_u64(command.acked_below);
                out.put_slice(&command.bytes);
            }
            Payload::RegisterSession => out.put_u8(REGISTER_SESSION),
            Payload::KeepAlive {
                session,
                acked_below,
            } => {
                out.put_u8(KEEP_ALIVE);
                out.put_u64(*session);
                out.put_u64(*acked_below);
            }
            Payload::ExpireSession {
                session,
                seen_activity,
            } => {
                out.put_u8(EXPIRE_SESSION);
                out.put_u64(*session);
                out.put_u64(*seen_activity);
            }
            Payload::Dissolve => out.put_u8(DISSOLVE),
            Payload::Skip { index } => {
                out.put_u8(SKIP);
                out.put_u64(*index);
            }
        }
    }

    /// The payload's bytes.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_len());
        self.encode(&mut out);
        out.freeze()
    }

    /// Reads a payload back. A command's bytes are a slice of `bytes`, not a copy.
    ///
    /// # Errors
    /// [`BadPayload`] for anything that [`Payload::encode`] would not have written.
    pub fn decode(mut bytes: Bytes) -> Result<Payload, BadPayload> {
        let kind = take_u8(&mut bytes)?;
        let payload = match kind {
            NOOP => Payload::Noop,
            FOUNDING => Payload::Founding {
                cluster_id: ClusterId(take_u128(&mut bytes)?),
                founder: NodeId(take_u128(&mut bytes)?),
                alone: take_u8(&mut bytes)? != 0,
            },
            CONFIGURATION => Payload::Configuration(Arc::new(Configuration::decode(&mut bytes)?)),
            COMMAND => Payload::Command(Command {
                session: take_u64(&mut bytes)?,
                sequence: take_u64(&mut bytes)?,
                acked_below: take_u64(&mut bytes)?,
                bytes: std::mem::take(&mut bytes),
            }),
            REGISTER_SESSION => Payload::RegisterSession,
            KEEP_ALIVE => Payload::KeepAlive {
                session: take_u64(&mut bytes)?,
                acked_below: take_u64(&mut bytes)?,
            },
            EXPIRE_SESSION => Payload::ExpireSession {
                session: take_u64(&mut bytes)?,
                seen_activity: take_u64(&mut bytes)?,
            },
            DISSOLVE => Payload::Dissolve,
            SKIP => Payload::Skip {
                index: take_u64(&mut bytes)?,
            },
            unknown => return Err(BadPayload::Kind(unknown)),
        };
        if bytes.is_empty() {
            Ok(payload)
        } else {
            Err(BadPayload::Length)
        }
    }
}

pub(crate) fn take_u8(bytes: &mut Bytes) -> Result<u8, BadPayload> {
    bytes.try_get_u8().map_err(|_| BadPayload::Length)
}

pub(crate) fn take_u32(bytes: &mut Bytes) -> Result<u32, BadPayload> {
    bytes.try_get_u32().map_err(|_| BadPayload::Length)
}

pub(crate) fn take_u64(bytes: &mut Bytes) -> Result<u64, BadPayload> {
    bytes.try_get_u64().map_err(|_| BadPayload::Length)
}

pub(crate) fn take_u128(bytes: &mut Bytes) -> Result<u128, BadPayload> {
    bytes.try_get_u128().map_err(|_| BadPayload::Length)
}
