//! Who votes (§6, and chapter 4 of the dissertation).
//!
//! Every change goes through joint consensus, so any number of voters may change at once. The value
//! is effective from the moment that it is appended, and is rolled back when its entry is truncated.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes};

use crate::entry::{BadPayload, take_u8, take_u32, take_u128};
use crate::ids::{Index, NodeId};

/// More nodes than this in one configuration are refused: a bound for packets and memory.
pub const MAX_CONFIGURATION_NODES: u32 = 100_000;

/// Longest [`Configuration::reason`], in bytes.
pub const MAX_REASON_BYTES: usize = 200;

/// Who votes and who listens, as one entry of the log says it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Configuration {
    /// The voters; in a joint configuration, those of C_new.
    pub voters: BTreeSet<NodeId>,
    /// The voters of C_old while the change is joint; empty otherwise.
    pub outgoing: BTreeSet<NodeId>,
    /// Nodes that receive the log and never count: spares, and voters to be.
    pub learners: BTreeSet<NodeId>,
    /// Ids that left for good: they never vote and are never added again (M3).
    pub removed: BTreeSet<NodeId>,
    /// A second node has entered a configuration at some time, for good: from then on the cluster
    /// takes client entries (F1).
    pub grown: bool,
    /// Why the change was made, for people.
    pub reason: String,
}

impl Configuration {
    /// The first configuration: the founder is the only voter. `alone`: founded for use as a single
    /// node, so it takes client entries at once (F1).
    pub fn founding(founder: NodeId, alone: bool) -> Configuration {
        Configuration {
            voters: BTreeSet::from([founder]),
            grown: alone,
            reason: "the cluster was founded".to_owned(),
            ..Configuration::default()
        }
    }

    /// Whether two majorities are needed, one of each half.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `node` votes, in either half.
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.outgoing.contains(&node)
    }

    /// Whether `node` receives the log.
    pub fn contains(&self, node: NodeId) -> bool {
        self.is_voter(node) || self.learners.contains(&node)
    }

    /// Whether `node` has left for good. While a change is joint, whoever goes with it has not: C_old may
    /// need its vote until C_new is committed (M1).
    pub fn has_left(&self, node: NodeId) -> bool {
        self.removed.contains(&node) && !self.contains(node)
    }

    /// Everyone who receives the log, each once, in order.
    pub fn members(&self) -> BTreeSet<NodeId> {
        self.voters
            .iter()
            .chain(&self.outgoing)
            .chain(&self.learners)
            .copied()
            .collect()
    }

    /// Everyone who votes in either half, each once, in order.
    pub fn all_voters(&self) -> BTreeSet<NodeId> {
        self.voters.union(&self.outgoing).copied().collect()
    }

    /// Whether the nodes for which `has` is true are a majority; of both halves when joint.
    pub fn is_quorum(&self, has: impl Fn(NodeId) -> bool) -> bool {
        let majority = |voters: &BTreeSet<NodeId>| {
            let counted = voters.iter().chain(self.counted_learners());
            counted.filter(|voter| has(**voter)).count() >= majority_of(voters.len())
        };
        if mutant!(JointOldHalfOnly) && self.is_joint() {
            return majority(&self.outgoing);
        }
        let old_half = || self.outgoing.is_empty() || mutant!(JointNewHalfOnly);
        majority(&self.voters) && (old_half() || majority(&self.outgoing))
    }

    /// The highest index that a majority has reached (both majorities when joint), given what each
    /// voter has. This is the definition itself: sort, and take the middle (§5.3).
    pub fn quorum_index(&self, reached: impl Fn(NodeId) -> Index) -> Index {
        let middle = |voters: &BTreeSet<NodeId>| {
            let counted = voters.iter().chain(self.counted_learners());
            let mut indices: Vec<Index> = counted.map(|voter| reached(*voter)).collect();
            indices.sort_unstable_by(|a, b| b.cmp(a));
            let middle = majority_of(voters.len()) - 1;
            indices.get(middle).copied().unwrap_or(0)
        };
        if mutant!(JointOldHalfOnly) && self.is_joint() {
            return middle(&self.outgoing);
        }
        let new = middle(&self.voters);
        if self.outgoing.is_empty() || mutant!(JointNewHalfOnly) {
            new
        } else {
            new.min(middle(&self.outgoing))
        }
    }

    /// Learners whose copies count: none.
    fn counted_learners(&self) -> impl Iterator<Item = &NodeId> {
        let count = if mutant!(LearnersCount) {
            usize::MAX
        } else {
            0
        };
        self.learners.iter().take(count)
    }

    /// The configuration that ends a joint one (C_new): the outgoing voters that are neither voters
    /// nor learners any more are gone.
    pub fn leave_joint(&self) -> Configuration {
        let mut next = self.clone();
        next.outgoing.clear();
        next
    }

    /// Length of [`Configuration::encode`]'s bytes.
    pub fn encoded_len(&self) -> usize {
        let nodes =
            self.voters.len() + self.outgoing.len() + self.learners.len() + self.removed.len();
        4 * 5 + 16 * nodes + 1 + self.reason.len()
    }

    /// Appends the configuration's bytes, as in an entry and in a snapshot.
    pub fn encode(&self, out: &mut impl BufMut) {
        for set in [&self.voters, &self.outgoing, &self.learners, &self.removed] {
            out.put_u32(u32::try_from(set.len()).unwrap_or(u32::MAX));
            for node in set {
                out.put_u128(node.0);
            }
        }
        out.put_u8(u8::from(self.grown));
        out.put_u32(u32::try_from(self.reason.len()).unwrap_or(u32::MAX));
        out.put_slice(self.reason.as_bytes());
    }

    /// Reads a configuration back and takes its bytes off the front.
    ///
    /// # Errors
    /// [`BadPayload`]: the bytes end too early, or name too many nodes.
    pub fn decode(bytes: &mut Bytes) -> Result<Configuration, BadPayload> {
        let voters = take_nodes(bytes)?;
        let outgoing = take_nodes(bytes)?;
        let learners = take_nodes(bytes)?;
        let removed = take_nodes(bytes)?;
        let grown = take_u8(bytes)? != 0;
        let length = take_u32(bytes)? as usize;
        if bytes.remaining() < length {
            return Err(BadPayload::Length);
        }
        let reason = String::from_utf8_lossy(&bytes.split_to(length)).into_owned();
        Ok(Configuration {
            voters,
            outgoing,
            learners,
            removed,
            grown,
            reason,
        })
    }
}

/// How many are a majority of so many voters.
fn majority_of(voters: usize) -> usize {
    if mutant!(QuorumOfHalf) {
        (voters / 2).max(1)
    } else {
        voters / 2 + 1
    }
}

fn take_nodes(bytes: &mut Bytes) -> Result<BTreeSet<NodeId>, BadPayload> {
    let count = take_u32(bytes)?;
    if count > MAX_CONFIGURATION_NODES {
        return Err(BadPayload::TooManyNodes(count));
    }
    (0..count).map(|_| take_u128(bytes).map(NodeId)).collect()
}

/// The configurations of a log, oldest first, so that a truncation can go back to the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Configurations {
    by_index: BTreeMap<Index, std::sync::Arc<Configuration>>,
}

impl Configurations {
    /// Takes over the configuration that the entry at `index` says.
    pub fn append(&mut self, index: Index, configuration: std::sync::Arc<Configuration>) {
        self.by_index.insert(index, configuration);
    }

    /// Forgets every configuration from `index` on: its entry is gone.
    pub fn truncate_from(&mut self, index: Index) {
        self.by_index.split_off(&index);
    }

    /// Forgets those that were replaced at or before `index`.
    pub fn forget_before(&mut self, index: Index) {
        let (at, _) = self.as_of(index);
        self.by_index = self.by_index.split_off(&at);
    }

    /// The one in force: the latest in the log, committed or not (§6). Empty before the founding.
    pub fn latest(&self) -> (Index, std::sync::Arc<Configuration>) {
        self.as_of(Index::MAX)
    }

    /// The latest at or below `index`.
    pub fn as_of(&self, index: Index) -> (Index, std::sync::Arc<Configuration>) {
        self.by_index
            .range(..=index)
            .next_back()
            .map_or_else(|| (0, std::sync::Arc::default()), |(i, c)| (*i, c.clone()))
    }
}
