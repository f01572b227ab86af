//! Who a member is: 128 random bits, its place on the ring, and how often it had to say "I live".

use std::fmt;

/// The identity of a node: 128 random bits, made once, kept for as long as its data directory lives.
/// Addresses may change with every restart; this does not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u128);

/// The identity of a cluster, which founding mints.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

/// A place on the ring of 2^64: a hash of the node id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(pub u64);

/// How many bits a [`Pid`] has; the seed calls it m.
pub const RING_BITS: u32 = 64;

impl NodeId {
    /// The place of this node on the ring.
    ///
    /// The hash is two rounds of the SplitMix64 finaliser, first over the upper half, then over
    /// that and the lower half. It is part of the protocol: every member must order the ring alike,
    /// so it never changes. Node ids are random already; the hash only has to be stable and to use
    /// all bits. Two nodes may share a pid, which is why the ring orders by (pid, node id).
    pub fn pid(self) -> Pid {
        let upper = (self.0 >> 64) as u64;
        let lower = self.0 as u64;
        Pid(mix(mix(upper).wrapping_add(lower)))
    }
}

/// The SplitMix64 finaliser (Steele, Lea, Flood 2014): a bijection in which every bit of the input
/// moves every bit of the output.
pub(crate) fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// How often a member had to raise its voice: (boot epoch << 32) + refutations.
///
/// Only the owner of a record raises it, by a restart (the epoch, durable) or by an answer to an
/// accusation or a change of what it says of itself (the lower half, in memory).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(u64);

/// Boot epochs above this are refused in packets: no node starts that often, and the owner must
/// always be able to go one higher.
pub const MAX_BOOT_EPOCH: u32 = 1 << 31;

/// A claim of more boot epochs than this above what is known of a member is not believed. No
/// process starts that often while it is remembered elsewhere or sleeps in a disk image; a forged
/// packet, though, may name any epoch, and its owner must always be able to go above.
pub const MAX_EPOCH_LEAP: u32 = 1 << 20;

impl Incarnation {
    /// The first incarnation of a boot.
    pub fn first_of(boot_epoch: u32) -> Self {
        Self(u64::from(boot_epoch) << 32)
    }

    /// As a packet carries it; `None` when no member can have it.
    pub fn from_wire(value: u64) -> Option<Self> {
        let epoch = value >> 32;
        (1..=u64::from(MAX_BOOT_EPOCH))
            .contains(&epoch)
            .then_some(Self(value))
    }

    /// As one number, for packets and for people.
    pub fn value(self) -> u64 {
        self.0
    }

    /// The start of the owner that this incarnation belongs to, from 1.
    pub fn boot_epoch(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The next higher one. When the lower half is used up the epoch moves, as a restart would; at
    /// the very end it stays, for nobody would read a higher one.
    pub(crate) fn next(self) -> Self {
        Self::from_wire(self.0 + 1).unwrap_or(self)
    }

    /// How many boot epochs this is above another; 0 when it is not.
    pub(crate) fn epochs_above(self, known: Self) -> u32 {
        self.boot_epoch().saturating_sub(known.boot_epoch())
    }
}

/// A small seeded source of numbers (SplitMix64): the core owns its dice, so that the same inputs
/// give the same outputs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(crate) fn next(&mut self) -> u64 {
        let value = mix(self.state);
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        value
    }

    /// A number below `limit`; 0 when `limit` is 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 { 0 } else { self.next() % limit }
    }

    /// An index into something of this length; 0 when it is empty.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// Up to `count` of `items`, without repetition, in random order.
    pub(crate) fn pick<T: Copy>(&mut self, items: &[T], count: usize) -> Vec<T> {
        let mut items = items.to_vec();
        let count = count.min(items.len());
        for i in 0..count {
            let j = i + self.index(items.len() - i);
            items.swap(i, j);
        }
        items.truncate(count);
        items
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {self}")
    }
}
impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cluster {self}")
    }
}
impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
impl fmt::Debug for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {self}")
    }
}
impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.boot_epoch(), self.0 as u32)
    }
}
impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "incarnation {self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_hash_never_changes() {
        // Members of different versions must order the ring alike.
        assert_eq!(
            mix(0),
            0xe220_a839_7b1d_cdaf,
            "the first output of SplitMix64 from seed 0"
        );
        assert_eq!(NodeId(0).pid(), Pid(mix(mix(0))));
        assert_ne!(NodeId(1).pid(), NodeId(1 << 64).pid());
    }

    #[test]
    fn a_restart_is_above_every_refutation_of_the_boot_before() {
        let mut before = Incarnation::first_of(3);
        for _ in 0..1000 {
            before = before.next();
        }
        assert!(Incarnation::first_of(4) > before);
        assert_eq!(before.boot_epoch(), 3);
        assert_eq!(Incarnation::from_wire(0), None);
        assert_eq!(Incarnation::from_wire(u64::MAX), None);
    }

    #[test]
    fn the_last_incarnation_is_one_that_packets_can_carry() {
        let last = u64::from(MAX_BOOT_EPOCH) << 32 | u64::from(u32::MAX);
        let last = Incarnation::from_wire(last);
        assert_eq!(last.map(Incarnation::next), last);
        assert_eq!(
            Incarnation(1 << 32 | u64::from(u32::MAX)).next(),
            Incarnation::first_of(2)
        );
    }
}
