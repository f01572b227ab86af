//! What a member shows of its map.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::identity::NodeId;
use crate::member::Member;
use crate::record::Record;
use crate::ring::Finger;

/// One member as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ViewedMember {
    /// What is known of it.
    pub record: Record,
    /// When it was last heard of, on the caller's clock; for the member itself: now.
    pub heard_at: Duration,
}

/// One suspicion as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ViewedSuspicion {
    /// Who is suspected.
    pub node_id: NodeId,
    /// Since when, on the caller's clock.
    pub since: Duration,
    /// Who accuses.
    pub accusers: BTreeSet<NodeId>,
}

/// Everything that a member knows, at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct View {
    /// Grows with every change of what follows, `heard_at` excepted.
    pub version: u64,
    /// The member itself.
    pub me: Record,
    /// All members that are shown, in ring order, the member itself included.
    pub members: Vec<ViewedMember>,
    /// Chord's finger table on this map.
    pub fingers: Vec<Finger>,
    /// Members under suspicion.
    pub suspicions: Vec<ViewedSuspicion>,
    /// Another live member answered since the start.
    pub joined: bool,
    /// The member that let this one in knew it from an earlier boot.
    pub rejoin: bool,
    /// Another process with a higher boot epoch runs under this node id.
    pub superseded: bool,
}

impl Member {
    /// Everything that this member knows, as of `now`.
    pub fn view(&self, now: Duration) -> View {
        let mut members: Vec<ViewedMember> = self
            .map
            .iter()
            .filter(|entry| !entry.hidden)
            .map(|entry| ViewedMember {
                heard_at: if entry.record.node_id == self.me.node_id {
                    now
                } else {
                    entry.heard_at
                },
                record: entry.record.clone(),
            })
            .collect();
        members.sort_by_key(|member| (member.record.pid(), member.record.node_id));
        let suspicions = self
            .suspicions
            .iter()
            .map(|(node_id, suspicion)| ViewedSuspicion {
                node_id: *node_id,
                since: suspicion.since,
                accusers: suspicion.accusers.clone(),
            });
        View {
            version: self.version,
            me: self.me.clone(),
            members,
            fingers: self.map.ring().finger_table(self.me.pid()),
            suspicions: suspicions.collect(),
            joined: self.joined,
            rejoin: self.rejoin,
            superseded: self.is_superseded(),
        }
    }

    /// Grows with every change of [`Member::view`], `heard_at` excepted.
    pub fn view_version(&self) -> u64 {
        self.version
    }

    /// One hash of all live records that this member holds: equal hashes, equal views.
    pub fn view_hash(&self) -> u64 {
        self.map.view_hash(None)
    }

    /// How many members count as alive here, this one included.
    pub fn alive_count(&self) -> usize {
        self.others_alive().count() + 1
    }

    /// What was counted since the start.
    pub fn counters(&self) -> &crate::event::Counters {
        &self.counters
    }

    /// The member's own record.
    pub fn me(&self) -> &Record {
        &self.me
    }
}
