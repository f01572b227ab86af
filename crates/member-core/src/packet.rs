//! The datagrams: what members say, and how it lies in at most [`MAX_PACKET_BYTES`].
//!
//! ```text
//! JOIN       joiner   -> anyone       "here I am"; any member answers
//! JOINREPLY  anyone   -> joiner       "welcome (back)", with the joiner's neighbours
//! LEAVE      leaver   -> neighbours   "goodbye"; answered by ACK
//! HEARTBEAT  member  <-> neighbours   every gossip interval, both ways
//! PING       member   -> anyone       answered by ACK
//! PINGREQ    watcher  -> relay        "ping this one for me"; PING and ACK then carry `origin`
//! RELAYED    relay    -> watcher      "it answered me"
//! DIGEST     member   -> member       hashes of 64 parts of the view
//! DELTA      member   -> member       updates only
//! ```
//!
//! Every packet carries, behind its body, as many updates as there are and fit; JOIN, to whom it may
//! concern, the joiner's own record only. A stamp is the
//! sender's own clock and means nothing to anybody else; who echoes it proves that it has received.
//!
//! Layout, all numbers big-endian: magic `LR`, version, type, CRC-32C over the rest of the packet
//! and these first four bytes; flags; sender, incarnation, boot nonce; cluster if bound; target if
//! known; view hash; body; count of updates; updates. Bytes behind the last update are ignored, so
//! that a later version may add some.
//!
//! Decoding is total: whatever the bytes, it answers with a packet or a reason, and never panics.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::identity::{ClusterId, Incarnation, NodeId};
use crate::record::{
    MAX_ACCUSERS, MAX_NAME_BYTES, Metadata, Record, State, Update, is_usable_address,
};

/// Largest payload of a datagram: below one MTU everywhere, so that nothing is fragmented.
pub const MAX_PACKET_BYTES: usize = 1200;

/// Parts of the ring that a digest hashes.
pub const BUCKETS: usize = 64;

/// One hash per part of the ring.
pub type Buckets = [u64; BUCKETS];

const MAGIC: [u8; 2] = *b"LR";
const VERSION: u8 = 1;
/// Magic, version, type and checksum.
const PREFIX_BYTES: usize = 8;

const FLAG_CLUSTER: u8 = 1;
const FLAG_TARGET: u8 = 2;

const RECORD_V6: u8 = 1;
const RECORD_CLUSTER: u8 = 2;
const RECORD_RAFT_ANNOUNCED: u8 = 4;

/// Who sends, to whom, and how its view hashes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Header {
    /// The sender.
    pub sender: NodeId,
    /// The sender's own incarnation.
    pub incarnation: Incarnation,
    /// Drawn at the sender's start.
    pub boot_nonce: u64,
    /// The cluster that the sender is bound to.
    pub cluster_id: Option<ClusterId>,
    /// Whom the sender means to reach; `None` when it knows an address only.
    pub target: Option<NodeId>,
    /// Hash of the part of the sender's view that the target may hold too.
    pub view_hash: u64,
}

/// On whose behalf a PING goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The watcher that asked.
    pub node_id: NodeId,
    /// The watcher's stamp.
    pub stamp: u64,
}

/// The kinds of packets. JOIN to HEARTBEAT have the seed's codes 0 to 3.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Body {
    /// "Here I am."
    Join {
        /// The joiner's clock.
        stamp: u64,
    },
    /// The answer to JOIN.
    JoinReply {
        /// The joiner's stamp.
        echo: u64,
        /// The joiner was known here from an earlier boot.
        rejoin: bool,
    },
    /// "Goodbye."
    Leave {
        /// The leaver's clock.
        stamp: u64,
    },
    /// Both ways between neighbours.
    Heartbeat {
        /// The sender's clock.
        stamp: u64,
        /// The target's newest stamp that the sender has received; 0: none.
        echo: u64,
    },
    /// "Do you hear me?"
    Ping {
        /// The sender's clock.
        stamp: u64,
        /// On whose behalf.
        origin: Option<Origin>,
    },
    /// "I hear you."
    Ack {
        /// The stamp of what is acknowledged.
        echo: u64,
        /// As in the PING.
        origin: Option<Origin>,
    },
    /// "Ping this one for me."
    PingReq {
        /// The asker's clock.
        stamp: u64,
        /// Whom to ping.
        subject: NodeId,
    },
    /// "It answered me."
    Relayed {
        /// The asker's stamp.
        echo: u64,
        /// Who answered.
        subject: NodeId,
    },
    /// Hashes of the sender's view.
    Digest {
        /// Sent in answer to a digest: not answered by another.
        reply: bool,
        /// One per part of the ring.
        buckets: Box<Buckets>,
    },
    /// Updates only.
    Delta,
}

/// A whole packet, decoded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Who, to whom.
    pub header: Header,
    /// What.
    pub body: Body,
    /// News of any members.
    pub updates: Vec<Update>,
}

/// Why bytes are not a packet. The sender gets no answer and the state does not change.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DecodeError {
    /// Too large for any packet.
    #[error("the datagram has {0} bytes, more than {MAX_PACKET_BYTES}")]
    TooLarge(usize),
    /// It ends in the middle of a field.
    #[error("the datagram ends before its last field")]
    TooShort,
    /// Some other protocol.
    #[error("the datagram is not of this protocol")]
    Magic,
    /// A version that this program does not speak.
    #[error("the datagram has version {0}, this program speaks version {VERSION}")]
    Version(u8),
    /// Damaged on its way.
    #[error("the datagram is damaged: its checksum does not match")]
    Checksum,
    /// A kind of packet that this program does not know.
    #[error("unknown packet type {0}")]
    UnknownType(u8),
    /// A value that no member sends.
    #[error("the datagram has an impossible {0}")]
    Impossible(&'static str),
}

impl Body {
    fn code(&self) -> u8 {
        match self {
            Self::Join { .. } => 0,
            Self::JoinReply { .. } => 1,
            Self::Leave { .. } => 2,
            Self::Heartbeat { .. } => 3,
            Self::Ping { .. } => 4,
            Self::Ack { .. } => 5,
            Self::PingReq { .. } => 6,
            Self::Relayed { .. } => 7,
            Self::Digest { .. } => 8,
            Self::Delta => 9,
        }
    }

    /// The name as it is logged.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Join { .. } => "JOIN",
            Self::JoinReply { .. } => "JOINREPLY",
            Self::Leave { .. } => "LEAVE",
            Self::Heartbeat { .. } => "HEARTBEAT",
            Self::Ping { .. } => "PING",
            Self::Ack { .. } => "ACK",
            Self::PingReq { .. } => "PINGREQ",
            Self::Relayed { .. } => "RELAYED",
            Self::Digest { .. } => "DIGEST",
            Self::Delta => "DELTA",
        }
    }
}

/// Writes one packet: header and body first, then updates while they fit.
pub(crate) struct PacketWriter {
    bytes: Vec<u8>,
    count_at: usize,
}

impl PacketWriter {
    pub(crate) fn new(header: &Header, body: &Body) -> Self {
        let mut bytes = Vec::with_capacity(MAX_PACKET_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[VERSION, body.code(), 0, 0, 0, 0]);
        let flags = u8::from(header.cluster_id.is_some()) * FLAG_CLUSTER
            + u8::from(header.target.is_some()) * FLAG_TARGET;
        bytes.push(flags);
        bytes.extend_from_slice(&header.sender.0.to_be_bytes());
        bytes.extend_from_slice(&header.incarnation.value().to_be_bytes());
        bytes.extend_from_slice(&header.boot_nonce.to_be_bytes());
        if let Some(cluster_id) = header.cluster_id {
            bytes.extend_from_slice(&cluster_id.0.to_be_bytes());
        }
        if let Some(target) = header.target {
            bytes.extend_from_slice(&target.0.to_be_bytes());
        }
        bytes.extend_from_slice(&header.view_hash.to_be_bytes());
        write_body(&mut bytes, body);
        let count_at = bytes.len();
        bytes.push(0);
        Self { bytes, count_at }
    }

    /// Adds an update; `false` when it does not fit any more.
    pub(crate) fn push(&mut self, record: &Record, accusers: &BTreeSet<NodeId>) -> bool {
        let length_before = self.bytes.len();
        write_record(&mut self.bytes, record);
        if record.state == State::Suspect {
            let accusers = accusers.iter().take(MAX_ACCUSERS);
            self.bytes.push(accusers.len() as u8);
            for accuser in accusers {
                self.bytes.extend_from_slice(&accuser.0.to_be_bytes());
            }
        }
        if self.bytes.len() > MAX_PACKET_BYTES || self.bytes[self.count_at] == u8::MAX {
            self.bytes.truncate(length_before);
            return false;
        }
        self.bytes[self.count_at] += 1;
        true
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        let checksum = checksum(&self.bytes);
        self.bytes[4..PREFIX_BYTES].copy_from_slice(&checksum.to_be_bytes());
        self.bytes
    }
}

/// Over everything but the checksum itself. `bytes` holds the whole prefix.
fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..4]), &bytes[PREFIX_BYTES..])
}

fn write_body(bytes: &mut Vec<u8>, body: &Body) {
    let number = |bytes: &mut Vec<u8>, value: u64| bytes.extend_from_slice(&value.to_be_bytes());
    match body {
        Body::Join { stamp } | Body::Leave { stamp } => number(bytes, *stamp),
        Body::JoinReply { echo, rejoin } => {
            number(bytes, *echo);
            bytes.push(u8::from(*rejoin));
        }
        Body::Heartbeat { stamp, echo } => {
            number(bytes, *stamp);
            number(bytes, *echo);
        }
        Body::Ping {
            stamp: value,
            origin,
        }
        | Body::Ack {
            echo: value,
            origin,
        } => {
            number(bytes, *value);
            bytes.push(u8::from(origin.is_some()));
            if let Some(origin) = origin {
                bytes.extend_from_slice(&origin.node_id.0.to_be_bytes());
                number(bytes, origin.stamp);
            }
        }
        Body::PingReq {
            stamp: value,
            subject,
        }
        | Body::Relayed {
            echo: value,
            subject,
        } => {
            number(bytes, *value);
            bytes.extend_from_slice(&subject.0.to_be_bytes());
        }
        Body::Digest { reply, buckets } => {
            bytes.push(u8::from(*reply));
            for bucket in buckets.iter() {
                number(bytes, *bucket);
            }
        }
        Body::Delta => {}
    }
}

/// A record as bytes. The hash of a view is made of these, so that equal hashes mean equal records.
pub(crate) fn write_record(bytes: &mut Vec<u8>, record: &Record) {
    let metadata = &record.metadata;
    bytes.extend_from_slice(&record.node_id.0.to_be_bytes());
    bytes.extend_from_slice(&record.incarnation.value().to_be_bytes());
    bytes.push(match record.state {
        State::Alive => 0,
        State::Suspect => 1,
        State::Dead => 2,
        State::Left => 3,
    });
    let flags = u8::from(metadata.address.is_ipv6()) * RECORD_V6
        + u8::from(metadata.cluster_id.is_some()) * RECORD_CLUSTER
        + u8::from(metadata.raft_announced) * RECORD_RAFT_ANNOUNCED;
    bytes.push(flags);
    bytes.extend_from_slice(&metadata.boot_nonce.to_be_bytes());
    match metadata.address.ip() {
        IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
    }
    bytes.extend_from_slice(&metadata.address.port().to_be_bytes());
    bytes.extend_from_slice(&metadata.raft_port.to_be_bytes());
    if let Some(cluster_id) = metadata.cluster_id {
        bytes.extend_from_slice(&cluster_id.0.to_be_bytes());
    }
    bytes.push(metadata.name.len().min(MAX_NAME_BYTES) as u8);
    bytes.extend_from_slice(&metadata.name.as_bytes()[..metadata.name.len().min(MAX_NAME_BYTES)]);
}

/// What is left to read.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self
            .bytes
            .split_at_checked(count)
            .ok_or(DecodeError::TooShort)?;
        self.bytes = tail;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self
            .bytes
            .split_first_chunk::<N>()
            .ok_or(DecodeError::TooShort)?;
        self.bytes = tail;
        Ok(*head)
    }
    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }
    fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }
    fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }
    fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array()?))
    }
    fn u128(&mut self) -> Result<u128, DecodeError> {
        Ok(u128::from_be_bytes(self.array()?))
    }
    fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Impossible("flag")),
        }
    }
    fn incarnation(&mut self) -> Result<Incarnation, DecodeError> {
        Incarnation::from_wire(self.u64()?).ok_or(DecodeError::Impossible("incarnation"))
    }

    fn origin(&mut self) -> Result<Option<Origin>, DecodeError> {
        if !self.flag()? {
            return Ok(None);
        }
        Ok(Some(Origin {
            node_id: NodeId(self.u128()?),
            stamp: self.u64()?,
        }))
    }

    fn header(&mut self) -> Result<Header, DecodeError> {
        let flags = self.u8()?;
        Ok(Header {
            sender: NodeId(self.u128()?),
            incarnation: self.incarnation()?,
            boot_nonce: self.u64()?,
            cluster_id: match flags & FLAG_CLUSTER {
                0 => None,
                _ => Some(ClusterId(self.u128()?)),
            },
            target: match flags & FLAG_TARGET {
                0 => None,
                _ => Some(NodeId(self.u128()?)),
            },
            view_hash: self.u64()?,
        })
    }

    fn body(&mut self, code: u8) -> Result<Body, DecodeError> {
        Ok(match code {
            0 => Body::Join { stamp: self.u64()? },
            1 => Body::JoinReply {
                echo: self.u64()?,
                rejoin: self.flag()?,
            },
            2 => Body::Leave { stamp: self.u64()? },
            3 => Body::Heartbeat {
                stamp: self.u64()?,
                echo: self.u64()?,
            },
            4 => Body::Ping {
                stamp: self.u64()?,
                origin: self.origin()?,
            },
            5 => Body::Ack {
                echo: self.u64()?,
                origin: self.origin()?,
            },
            6 => Body::PingReq {
                stamp: self.u64()?,
                subject: NodeId(self.u128()?),
            },
            7 => Body::Relayed {
                echo: self.u64()?,
                subject: NodeId(self.u128()?),
            },
            8 => {
                let reply = self.flag()?;
                let mut buckets = Box::new([0; BUCKETS]);
                for bucket in buckets.iter_mut() {
                    *bucket = self.u64()?;
                }
                Body::Digest { reply, buckets }
            }
            9 => Body::Delta,
            unknown => return Err(DecodeError::UnknownType(unknown)),
        })
    }

    fn record(&mut self) -> Result<Record, DecodeError> {
        let node_id = NodeId(self.u128()?);
        let incarnation = self.incarnation()?;
        let state = match self.u8()? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Dead,
            3 => State::Left,
            _ => return Err(DecodeError::Impossible("state of a member")),
        };
        let flags = self.u8()?;
        let boot_nonce = self.u64()?;
        let ip = match flags & RECORD_V6 {
            0 => IpAddr::V4(Ipv4Addr::from(self.array::<4>()?)),
            _ => IpAddr::V6(Ipv6Addr::from(self.array::<16>()?)),
        };
        let address = SocketAddr::new(ip, self.u16()?);
        if !is_usable_address(&address) {
            return Err(DecodeError::Impossible("address of a member"));
        }
        let raft_port = self.u16()?;
        let cluster_id = match flags & RECORD_CLUSTER {
            0 => None,
            _ => Some(ClusterId(self.u128()?)),
        };
        let name_length = usize::from(self.u8()?);
        if name_length > MAX_NAME_BYTES {
            return Err(DecodeError::Impossible("length of a name"));
        }
        let name = str::from_utf8(self.take(name_length)?)
            .ok()
            .filter(|name| !name.chars().any(char::is_control))
            .ok_or(DecodeError::Impossible("name of a member"))?
            .to_owned();
        let raft_announced = flags & RECORD_RAFT_ANNOUNCED != 0;
        let metadata = Metadata {
            boot_nonce,
            address,
            raft_port,
            raft_announced,
            name,
            cluster_id,
        };
        Ok(Record {
            node_id,
            incarnation,
            state,
            metadata,
        })
    }

    fn update(&mut self) -> Result<Update, DecodeError> {
        let record = self.record()?;
        let mut accusers = BTreeSet::new();
        if record.state == State::Suspect {
            let count = usize::from(self.u8()?);
            if count > MAX_ACCUSERS {
                return Err(DecodeError::Impossible("number of accusers"));
            }
            for _ in 0..count {
                accusers.insert(NodeId(self.u128()?));
            }
        }
        Ok(Update { record, accusers })
    }
}

impl Packet {
    /// Reads a datagram.
    ///
    /// # Errors
    /// [`DecodeError`] for everything that no member of this version sends.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_PACKET_BYTES {
            return Err(DecodeError::TooLarge(bytes.len()));
        }
        let mut reader = Reader { bytes };
        if reader.array()? != MAGIC {
            return Err(DecodeError::Magic);
        }
        let version = reader.u8()?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let code = reader.u8()?;
        if reader.u32()? != checksum(bytes) {
            return Err(DecodeError::Checksum);
        }
        let header = reader.header()?;
        let body = reader.body(code)?;
        let count = reader.u8()?;
        let updates = (0..count)
            .map(|_| reader.update())
            .collect::<Result<_, _>>()?;
        Ok(Self {
            header,
            body,
            updates,
        })
    }

    /// Writes the packet; `None` when it does not fit [`MAX_PACKET_BYTES`].
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut writer = PacketWriter::new(&self.header, &self.body);
        self.updates
            .iter()
            .all(|update| writer.push(&update.record, &update.accusers))
            .then(|| writer.finish())
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Any packets, for the tests of this crate.

    use proptest::prelude::*;

    use super::*;
    use crate::identity::MAX_BOOT_EPOCH;

    fn incarnation() -> impl Strategy<Value = Incarnation> {
        (1..=MAX_BOOT_EPOCH, any::<u32>()).prop_filter_map("in range", |(epoch, low)| {
            Incarnation::from_wire(u64::from(epoch) << 32 | u64::from(low))
        })
    }

    fn address() -> impl Strategy<Value = SocketAddr> {
        let v4 = any::<u32>().prop_map(|ip| IpAddr::V4(Ipv4Addr::from(ip)));
        let v6 = any::<u128>().prop_map(|ip| IpAddr::V6(Ipv6Addr::from(ip)));
        (prop_oneof![v4, v6], 1..=u16::MAX)
            .prop_map(|(ip, port)| SocketAddr::new(ip, port))
            .prop_filter("usable", is_usable_address)
    }

    fn metadata() -> impl Strategy<Value = Metadata> {
        let cluster_id = prop::option::of((0..3_u128).prop_map(ClusterId));
        let name = "\\PC{0,70}".prop_map(|name| crate::record::usable_name(&name));
        (
            any::<u64>(),
            address(),
            any::<u16>(),
            any::<bool>(),
            name,
            cluster_id,
        )
            .prop_map(
                |(boot_nonce, address, raft_port, raft_announced, name, cluster_id)| Metadata {
                    boot_nonce,
                    address,
                    raft_port,
                    raft_announced,
                    name,
                    cluster_id,
                },
            )
    }

    pub(crate) fn record() -> impl Strategy<Value = Record> {
        let state =
            prop::sample::select(vec![State::Alive, State::Suspect, State::Dead, State::Left]);
        (any::<u128>(), incarnation(), state, metadata()).prop_map(
            |(node_id, incarnation, state, metadata)| Record {
                node_id: NodeId(node_id),
                incarnation,
                state,
                metadata,
            },
        )
    }

    fn update() -> impl Strategy<Value = Update> {
        let accusers =
            prop::collection::btree_set(any::<u128>().prop_map(NodeId), 0..=MAX_ACCUSERS);
        (record(), accusers).prop_map(|(record, accusers)| Update {
            accusers: if record.state == State::Suspect {
                accusers
            } else {
                BTreeSet::new()
            },
            record,
        })
    }

    fn body() -> impl Strategy<Value = Body> {
        let origin =
            prop::option::of(
                (any::<u128>(), any::<u64>()).prop_map(|(id, stamp)| Origin {
                    node_id: NodeId(id),
                    stamp,
                }),
            );
        let numbers = (
            any::<u64>(),
            any::<u64>(),
            any::<u128>(),
            any::<bool>(),
            0..10,
        );
        (numbers, origin, any::<[u64; 2]>()).prop_map(
            |((stamp, echo, id, flag, kind), origin, seed)| match kind {
                0 => Body::Join { stamp },
                1 => Body::JoinReply { echo, rejoin: flag },
                2 => Body::Leave { stamp },
                3 => Body::Heartbeat { stamp, echo },
                4 => Body::Ping { stamp, origin },
                5 => Body::Ack { echo, origin },
                6 => Body::PingReq {
                    stamp,
                    subject: NodeId(id),
                },
                7 => Body::Relayed {
                    echo,
                    subject: NodeId(id),
                },
                8 => {
                    let mut buckets = Box::new([0; BUCKETS]);
                    for (i, bucket) in buckets.iter_mut().enumerate() {
                        *bucket = seed[i % 2].rotate_left(i as u32);
                    }
                    Body::Digest {
                        reply: flag,
                        buckets,
                    }
                }
                _ => Body::Delta,
            },
        )
    }

    fn header() -> impl Strategy<Value = Header> {
        let id = || any::<u128>().prop_map(NodeId);
        let cluster_id = prop::option::of((0..3_u128).prop_map(ClusterId));
        (
            id(),
            incarnation(),
            any::<u64>(),
            cluster_id,
            prop::option::of(id()),
            any::<u64>(),
        )
            .prop_map(
                |(sender, incarnation, boot_nonce, cluster_id, target, view_hash)| Header {
                    sender,
                    incarnation,
                    boot_nonce,
                    cluster_id,
                    target,
                    view_hash,
                },
            )
    }

    pub(crate) fn packet() -> impl Strategy<Value = Packet> {
        (header(), body(), prop::collection::vec(update(), 0..3)).prop_map(
            |(header, body, updates)| Packet {
                header,
                body,
                updates,
            },
        )
    }

    /// Makes the checksum of damaged bytes right again, so that what is behind it is tested.
    pub(crate) fn mend_checksum(bytes: &mut [u8]) {
        if bytes.len() >= PREFIX_BYTES {
            let checksum = checksum(bytes);
            bytes[4..PREFIX_BYTES].copy_from_slice(&checksum.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::testing::{mend_checksum, packet, record};
    use super::*;

    proptest! {
        #[test]
        fn a_packet_is_read_as_it_was_written(packet in packet()) {
            if let Some(bytes) = packet.encode() {
                prop_assert!(bytes.len() <= MAX_PACKET_BYTES);
                prop_assert_eq!(Packet::decode(&bytes), Ok(packet));
            }
        }

        #[test]
        fn decoding_any_bytes_ends_with_a_packet_or_a_reason(
            bytes in prop::collection::vec(any::<u8>(), 0..1300),
        ) {
            let mut bytes = bytes;
            let _ = Packet::decode(&bytes);
            // Past magic, version and checksum.
            for (place, byte) in bytes.iter_mut().zip([b'L', b'R', VERSION]) {
                *place = byte;
            }
            mend_checksum(&mut bytes);
            let _ = Packet::decode(&bytes);
        }

        #[test]
        fn decoding_damaged_packets_ends_with_a_packet_or_a_reason(
            packet in packet(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let Some(mut bytes) = packet.encode() else { return Ok(()) };
            let whole = bytes.clone();
            for (place, byte) in &damage {
                let place = place.index(bytes.len());
                bytes[place] = *byte;
            }
            if bytes != whole {
                prop_assert!(Packet::decode(&bytes).is_err(), "damage passed the checksum");
            }
            mend_checksum(&mut bytes);
            let _ = Packet::decode(&bytes);
            bytes.truncate(cut.index(bytes.len()));
            prop_assert!(Packet::decode(&bytes).is_err(), "a torn packet passed the checksum");
            mend_checksum(&mut bytes);
            let _ = Packet::decode(&bytes);
        }

        #[test]
        fn no_packet_is_larger_than_it_may_be(packet in packet(), records in prop::collection::vec(record(), 0..60)) {
            let accusers: BTreeSet<NodeId> = (0..9).map(NodeId).collect();
            let mut writer = PacketWriter::new(&packet.header, &packet.body);
            let mut written = 0;
            for record in &records {
                if !writer.push(record, &accusers) {
                    break;
                }
                written += 1;
            }
            prop_assert!(written > 0 || records.is_empty(), "one record always fits");
            let bytes = writer.finish();
            prop_assert!(bytes.len() <= MAX_PACKET_BYTES);
            prop_assert_eq!(Packet::decode(&bytes).unwrap().updates.len(), written);
        }
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        assert_eq!(Packet::decode(b""), Err(DecodeError::TooShort));
        assert_eq!(Packet::decode(b"9"), Err(DecodeError::TooShort));
        assert_eq!(Packet::decode(b"2//5//1"), Err(DecodeError::Magic));
        assert_eq!(Packet::decode(b"LR\x07"), Err(DecodeError::Version(7)));
        assert_eq!(Packet::decode(&[0; 1201]), Err(DecodeError::TooLarge(1201)));
        let header = Header {
            sender: NodeId(1),
            incarnation: Incarnation::first_of(1),
            boot_nonce: 1,
            cluster_id: None,
            target: None,
            view_hash: 0,
        };
        let packet = Packet {
            header,
            body: Body::Delta,
            updates: Vec::new(),
        };
        let mut bytes = packet.encode().unwrap();
        bytes[3] = 99;
        assert_eq!(Packet::decode(&bytes), Err(DecodeError::Checksum));
        mend_checksum(&mut bytes);
        assert_eq!(Packet::decode(&bytes), Err(DecodeError::UnknownType(99)));
    }
}
