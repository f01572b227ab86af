//! What is said of one member, and which of two sayings holds.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::identity::{ClusterId, Incarnation, NodeId, Pid};

/// Longest name of a node, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// Most accusers that are kept of one suspicion: a member has no more watchers.
pub const MAX_ACCUSERS: usize = 4;

/// What the others hold of a member. The order is the rank: within one incarnation a later state
/// always holds against an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// It answers, or nobody has missed it.
    Alive,
    /// A watcher misses it; it can still refute.
    Suspect,
    /// Nobody could reach it for the time of suspicion.
    Dead,
    /// It said goodbye.
    Left,
}

impl State {
    /// Alive or suspect: still on the ring.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

/// What a member says of itself. A change of it is a new incarnation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Metadata {
    /// Drawn anew at each start: tells two processes apart that run under one node id.
    pub boot_nonce: u64,
    /// Where the other members reach its gossip.
    pub address: SocketAddr,
    /// Port of the node's `raft`; 0 until that has announced itself.
    pub raft_port: u16,
    /// The node's `raft` has announced itself, so that no `cluster_id` means an empty disk.
    pub raft_announced: bool,
    /// At most [`MAX_NAME_BYTES`], no control characters.
    pub name: String,
    /// The cluster whose founding entry is durable in that node's log.
    pub cluster_id: Option<ClusterId>,
}

/// What is known of one member.
///
/// Records of one node are totally ordered by (incarnation, state, metadata), and the greater one
/// holds: merging is the maximum, so it is commutative, associative and idempotent, and the order
/// in which news arrive does not matter. Metadata only decide when two processes run under one id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Record {
    /// Whose record it is.
    pub node_id: NodeId,
    /// Raised by the owner alone.
    pub incarnation: Incarnation,
    /// What is held of it.
    pub state: State,
    /// What it says of itself.
    pub metadata: Metadata,
}

impl Record {
    /// The member's place on the ring.
    pub fn pid(&self) -> Pid {
        self.node_id.pid()
    }

    /// Whether a member of `cluster` may hold this record: its own cluster's and the unbound.
    pub fn belongs_with(&self, cluster: Option<ClusterId>) -> bool {
        match (self.metadata.cluster_id, cluster) {
            (Some(theirs), Some(ours)) => theirs == ours,
            _ => true,
        }
    }
}

/// A record as it travels, with those who accuse when it is a suspicion.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Update {
    /// The record itself.
    pub record: Record,
    /// At most [`MAX_ACCUSERS`]; only with [`State::Suspect`].
    pub accusers: BTreeSet<NodeId>,
}

/// Whether a member can live at this address at all. Packets that say otherwise are refused.
pub fn is_usable_address(address: &SocketAddr) -> bool {
    let ip_is_usable = match address.ip() {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
    };
    ip_is_usable && address.port() != 0
}

/// A name that packets can carry: control characters replaced, cut at [`MAX_NAME_BYTES`].
pub fn usable_name(name: &str) -> String {
    let mut usable = String::new();
    for c in name.chars().map(|c| if c.is_control() { '?' } else { c }) {
        if usable.len() + c.len_utf8() > MAX_NAME_BYTES {
            break;
        }
        usable.push(c);
    }
    usable
}
