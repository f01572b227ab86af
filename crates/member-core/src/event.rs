//! What the core tells its caller, besides the packets to send.

use std::net::SocketAddr;

use crate::identity::{ClusterId, Incarnation, NodeId};
use crate::packet::DecodeError;
use crate::record::Record;

/// What the caller has to do or may want to log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Output {
    /// Send these bytes as one datagram. Losing it is allowed.
    Send {
        /// Where to.
        to: SocketAddr,
        /// At most [`crate::MAX_PACKET_BYTES`].
        bytes: Vec<u8>,
    },
    /// Something happened.
    Event(Event),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// A round of JOIN went out.
    JoinSent {
        /// How many addresses it went to.
        addresses: usize,
    },
    /// Somebody asked to be let in, and was answered.
    Join {
        /// The joiner.
        record: Record,
        /// Where the JOIN came from.
        from: SocketAddr,
        /// Known here from an earlier boot.
        rejoin: bool,
    },
    /// We were let in.
    JoinReply {
        /// Who answered.
        node_id: NodeId,
        /// Where from.
        from: SocketAddr,
        /// We were known there from an earlier boot.
        rejoin: bool,
    },
    /// Nobody answers any more: JOIN goes out again.
    Orphaned,
    /// A member that was unknown here.
    Learned(Record),
    /// A member restarted, moved or says something else of itself.
    Changed(Record),
    /// A heartbeat came in.
    Heartbeat(NodeId),
    /// A member is under suspicion.
    Suspected {
        /// The record that says so.
        record: Record,
        /// Who accuses.
        accuser: NodeId,
    },
    /// A suspected or dead member lives.
    Revived(Record),
    /// A member is dead.
    Failure(Record),
    /// A dead or departed member is no longer shown.
    FailureClean(Record),
    /// A member that was gone for a day, or the longest when there is no more room, is forgotten.
    Forgotten(NodeId),
    /// A member left.
    Leave(Record),
    /// Our own LEAVE is over.
    LeaveDone {
        /// How many acknowledged it.
        acknowledged: usize,
    },
    /// We were accused and answered with a higher incarnation.
    Refuted(Incarnation),
    /// Our own boot epoch was raised above one that the others know: it should be made durable.
    BootEpochRaised(u32),
    /// ALARM: two living processes run under our node id.
    Collision {
        /// The id of both.
        node_id: NodeId,
        /// Where the other one is.
        other: SocketAddr,
        /// The other one has the higher boot epoch: we are silent until it is gone.
        superseded: bool,
    },
    /// The process that superseded us is gone; we speak again.
    CollisionOver,
    /// A packet of an earlier boot of a member: late, or of a second process under its id.
    StaleBoot {
        /// The id of both.
        node_id: NodeId,
        /// Where the packet came from.
        from: SocketAddr,
    },
    /// A claim was refused: its boot epoch is so far above what is known that no member can have
    /// reached it.
    EpochLeap {
        /// Of whom it was claimed.
        node_id: NodeId,
        /// What was claimed.
        claimed: Incarnation,
    },
    /// A packet of another cluster was refused.
    OtherCluster {
        /// Where it came from.
        from: SocketAddr,
        /// The sender's cluster.
        theirs: ClusterId,
        /// Our cluster.
        ours: ClusterId,
    },
    /// A packet meant for another node was refused.
    OtherTarget {
        /// Where it came from.
        from: SocketAddr,
        /// Whom it meant.
        target: NodeId,
    },
    /// Bytes that are no packet were refused.
    Malformed {
        /// Where they came from.
        from: SocketAddr,
        /// What is wrong with them.
        error: DecodeError,
    },
    /// A member was refused since [`crate::MAX_MEMBERS`] are known.
    Full(NodeId),
    /// This process stood still; nobody is accused for a while.
    Paused {
        /// How late it was, in milliseconds.
        late_ms: u64,
    },
}

/// What was counted since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Counters {
    /// Datagrams that were handed in.
    pub packets_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Datagrams that were put out.
    pub packets_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Datagrams refused: no packet of this protocol and version.
    pub refused_malformed: u64,
    /// Datagrams refused: unknown packet type.
    pub refused_unknown_type: u64,
    /// Packets refused: the sender is bound to another cluster.
    pub refused_other_cluster: u64,
    /// Packets refused: meant for another node.
    pub refused_other_target: u64,
    /// Packets refused: of an earlier boot of their sender.
    pub refused_stale_boot: u64,
    /// Updates refused: about a member of another cluster.
    pub refused_foreign_records: u64,
    /// Claims refused: a boot epoch so far above what is known that no member can have reached it.
    pub refused_leaps: u64,
    /// Updates refused: there is no room for another member.
    pub refused_full: u64,
    /// Suspicions that this member raised or confirmed.
    pub accusations: u64,
    /// Members that turned Dead in this view.
    pub failures: u64,
    /// Accusations of this member that it answered.
    pub refutations: u64,
    /// Digests that differing views caused.
    pub digests_sent: u64,
    /// Pauses of this process that were noticed.
    pub pauses: u64,
    /// Second processes under this node id that were noticed.
    pub collisions: u64,
}
