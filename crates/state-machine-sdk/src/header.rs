//! The records that the crate keeps in a machine's storage: the header under key 0, and the outcomes
//! of entries ([`crate::outcomes`]) under the keys of their indices. No entry has index 0.

use crate::{DurableStateMachine, Snapshot, StorageError};

/// The key of the header; outcomes have the keys from 1, and are looked for from 1 on.
pub(crate) const HEADER_KEY: u64 = 0;

/// The layout of all records. A storage of another one is refused rather than guessed at. In layout 1
/// each outcome had a record of its own.
const FORMAT: u8 = 2;

const HEADER_BYTES: usize = 1 + 3 * 8 + 2 * 16;

/// How far the state has come and whom it belongs to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// Index of the last entry applied; 0 when there was none.
    pub applied_index: u64,
    /// Term of that entry.
    pub applied_term: u64,
    /// Outcomes at or below this index are not kept.
    pub results_floor: u64,
    /// The cluster and the node of the first handshake, which the state belongs to from then on.
    pub binding: Option<Binding>,
}

/// Whom a state belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// The cluster whose log the state comes from.
    pub cluster_id: u128,
    /// The node whose daemon drives it.
    pub node_id: u128,
}

impl Header {
    /// The header as a record. Zero stands for "no identity", which no handshake can bind.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.push(FORMAT);
        for number in [self.applied_index, self.applied_term, self.results_floor] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        let (cluster_id, node_id) = self
            .binding
            .map_or((0, 0), |binding| (binding.cluster_id, binding.node_id));
        bytes.extend_from_slice(&u128::to_be_bytes(cluster_id));
        bytes.extend_from_slice(&u128::to_be_bytes(node_id));
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// When the bytes are not one of this layout.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StorageError> {
        let damaged = || StorageError::new("the header record of the storage is damaged");
        let (format, rest) = bytes.split_first().ok_or_else(damaged)?;
        if *format != FORMAT {
            return Err(StorageError::new(format!(
                "the storage was written in format {format}, and this program knows only format \
                 {FORMAT}: use the program that wrote it, or start with an empty storage"
            )));
        }
        if rest.len() != HEADER_BYTES - 1 {
            return Err(damaged());
        }
        let (numbers, ids) = rest.split_at(3 * 8);
        let number = |at: usize| {
            numbers
                .get(at * 8..)
                .and_then(<[u8]>::first_chunk)
                .map(|b| u64::from_be_bytes(*b))
        };
        let id = |at: usize| {
            ids.get(at * 16..)
                .and_then(<[u8]>::first_chunk)
                .map(|b| u128::from_be_bytes(*b))
        };
        let cluster_id = id(0).ok_or_else(damaged)?;
        let node_id = id(1).ok_or_else(damaged)?;
        Ok(Self {
            applied_index: number(0).ok_or_else(damaged)?,
            applied_term: number(1).ok_or_else(damaged)?,
            results_floor: number(2).ok_or_else(damaged)?,
            binding: (cluster_id != 0).then_some(Binding {
                cluster_id,
                node_id,
            }),
        })
    }

    /// The header in a machine's storage; of an empty storage, the empty one.
    pub(crate) fn load(machine: &dyn DurableStateMachine) -> Result<Self, StorageError> {
        let mut header = Self::default();
        machine.read(&mut |snapshot| {
            header = Self::read(snapshot)?;
            Ok(())
        })?;
        Ok(header)
    }

    /// The header that stands beside the state of a snapshot.
    pub(crate) fn read(snapshot: &dyn Snapshot) -> Result<Self, StorageError> {
        match snapshot.record_from(HEADER_KEY)? {
            Some((HEADER_KEY, bytes)) => Self::decode(&bytes),
            // Outcomes without a header would be no reason to take one of them for it.
            _ => Ok(Self::default()),
        }
    }
}

/// The node that a machine's state belongs to, before it is served: a program looks here whether
/// its state is that of a node which was retired.
///
/// # Errors
/// When the storage fails or was written in a layout that is not known here.
pub fn bound_node_id(machine: &dyn DurableStateMachine) -> Result<Option<u128>, StorageError> {
    Ok(Header::load(machine)?
        .binding
        .map(|binding| binding.node_id))
}
