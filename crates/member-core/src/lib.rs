//! Gossip, ring and suspicion as a value: who is a member, at which address, how healthy.
//!
//! [`Member`] is one member. Datagrams and time go in ([`Member::handle`], [`Member::tick`]),
//! datagrams and events come out ([`Member::poll_output`]). It knows nothing of sockets, clocks,
//! threads or the operating system's dice: the daemon and the tests drive the same code, and the
//! same inputs give the same outputs, byte for byte.
//!
//! # What is held of a member
//!
//! A [`Record`] per node id: incarnation, state, address and what the node says of itself. Records
//! of one node are totally ordered, and merging keeps the greater one, so views converge whatever
//! is lost, doubled or late. Only the owner raises its incarnation: a restart raises the durable
//! boot epoch, an answer to an accusation the lower half. Dead@7 therefore holds against Alive@7
//! for ever, and Alive@8, which only the member itself can say, holds against Dead@7. Who is gone
//! is shown for the cleanup timeout, remembered for a day, and after that an epitaph keeps old
//! news from bringing it back.
//!
//! # Who watches whom
//!
//! Members are ordered on a ring by (pid, node id), pid being a hash of the node id
//! ([`NodeId::pid`]). Each exchanges heartbeats with two predecessors and two successors. Silence
//! leads to direct and indirect probes, these to a suspicion, and that, unless it is refuted, to
//! death: see [`Options`] for the times and the bound that follows from them.
//!
//! # How news spreads
//!
//! News rides on every packet, and while there is some, three members are told of it every fifth
//! of an interval. Every packet carries a hash of its sender's view; views that differ are compared
//! by digests of 64 hashes, and only what differs is sent. There is no steady full exchange.
//!
//! # How partitions heal
//!
//! Nobody gives up on the dead: for a day they keep their address, and in each interval a few
//! members of the cluster contact one of them, or an introducer that nobody knows. Both sides then
//! learn that they count as dead, go above that, and the views merge. No operator is needed.
//!
//! # Fences
//!
//! Members that are bound to different clusters do not merge: the packet is refused and counted. A
//! member that is not bound yet talks to anyone, but what it passes on to a bound member is only
//! what that may hold. Whoever binds itself to another cluster has left, and is not dead. A packet
//! carries the id of the node that it means to reach; another node on the same address refuses it. A
//! second process under one node id raises an alarm on both, and the one with the lower boot epoch
//! is silent until the other is gone.
//!
//! # Lies
//!
//! One forged datagram may bring a member under suspicion, or to a higher boot epoch, but not to
//! where it cannot go on: nobody believes a claim of more than [`MAX_EPOCH_LEAP`] epochs above what
//! it knows, so that its subject can always go above what the others were told, and only an answer
//! that repeats what was asked silences a member as the earlier of two processes.
//!
//! # What is left out
//!
//! Encryption and authentication: whoever can send datagrams to the members, again and again, can
//! lie to them; and of a member that is unknown any epoch is believed. The gossip decides nothing
//! that safety rests on: voters are in the log's configuration alone. Zones, round-trip coordinates,
//! streams for bulk, and an adaptive local health are left out too.

mod event;
mod gossip;
mod identity;
mod join;
mod map;
mod member;
mod options;
mod packet;
mod receiving;
mod record;
mod ring;
mod sending;
mod twin;
mod view;
mod watch;

pub use event::{Counters, Event, Output};
pub use identity::{
    ClusterId, Incarnation, MAX_BOOT_EPOCH, MAX_EPOCH_LEAP, NodeId, Pid, RING_BITS,
};
pub use member::{Identity, Member};
pub use options::{
    FORGET_TIMEOUT, INDIRECT_PROBES, JOIN_FANOUT, JOIN_PAUSE_MAX, JOIN_PAUSE_MIN, LEAVE_ACKS,
    LEAVE_TIMEOUT, MAX_DELTA_PACKETS, MAX_EPITAPHS, MAX_JOIN_ADDRESSES, MAX_MEMBERS, Options,
    WATCHERS_PER_SIDE,
};
pub use packet::{BUCKETS, Body, Buckets, DecodeError, Header, MAX_PACKET_BYTES, Origin, Packet};
pub use record::{
    MAX_ACCUSERS, MAX_NAME_BYTES, Metadata, Record, State, Update, is_usable_address, usable_name,
};
pub use ring::{Finger, Ring};
pub use view::{View, ViewedMember, ViewedSuspicion};
