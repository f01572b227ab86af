//! Log compaction (§7): a snapshot takes the place of the entries that it covers, here and at a peer
//! that is further behind than the log reaches.
//!
//! The core knows only what a snapshot says of the log ([`SnapshotMeta`]). Its bytes are taken from the
//! state machine, kept, offered and pulled by the driver; the core is told of them when they are
//! complete, verified and durable, never earlier (S4). So a crash at any byte leaves a node with its
//! log as it was, and perhaps a snapshot more than it needs.

use std::sync::Arc;

use crate::durable::SnapshotMeta;
use crate::ids::{Index, MAX_INDEX, NodeId, Position};
use crate::io::{Effect, Event};
use crate::raft::{Raft, Role};

impl Raft {
    /// This node's own snapshot is complete: what it covers may go.
    pub(crate) fn on_snapshot_taken(&mut self, snapshot: Arc<SnapshotMeta>, keep_from: Index) {
        let position = snapshot.position;
        let known = self.log.snapshot().map_or(0, |known| known.position.index);
        // The log may have given way to a newer one while this was being written.
        let ours = position.index <= self.commit_index && self.log.matches(position);
        if position.index <= known || !ours {
            return;
        }
        self.log.set_snapshot(snapshot);
        self.compact(keep_from);
    }

    /// Cuts the log off behind its snapshot, but for some entries that a peer may want soon.
    fn compact(&mut self, keep_from: Index) {
        let Some(snapshot) = self.log.snapshot() else {
            return;
        };
        let covered = snapshot.position.index;
        let trailing = self.options.snapshot_trailing_entries;
        let wanted = covered.saturating_sub(trailing).min(self.least_needed());
        let most = keep_from.saturating_sub(1).min(covered);
        let most = if mutant!(S4CutBeyondSnapshot) {
            self.commit_index
        } else {
            most
        };
        let index = wanted.max(most).min(self.disk.durable_index);
        if index <= self.log.base().index {
            return;
        }
        self.log.compact(index);
        self.pending_write().compact_to = Some(index);
        self.event(Event::Compacted { index });
    }

    /// No peer that is in contact needs what is at or before this index: neither those that are fed
    /// from the log, nor those that will go on behind the snapshot that they are pulling.
    fn least_needed(&self) -> Index {
        let Role::Leader(leading) = &self.role else {
            return Index::MAX;
        };
        let fresh = self.options.elect_timeout_max;
        leading
            .progress
            .values()
            .filter(|peer| self.now.since(peer.last_contact) < fresh)
            .map(|peer| peer.match_index.max(peer.pulling.unwrap_or(0)))
            .min()
            .unwrap_or(Index::MAX)
    }

    /// The leader's log does not reach back to what this node lacks.
    pub(crate) fn on_install_snapshot(&mut self, from: NodeId, position: Position) {
        if self.is_rival(from) {
            return;
        }
        self.hear_leader(from, None);
        let impossible = position.index == 0 || position.index > MAX_INDEX;
        if impossible || position.term > self.term() {
            let what = "a snapshot of an impossible term or index";
            return self.event(Event::Nonsense { peer: from, what });
        }
        // What a snapshot covers is committed: a log that holds its last entry holds all of it (§5.3).
        if position.index <= self.commit_index || self.log.matches(position) {
            return self.confirm_covered(position.index);
        }
        // The disk still has to take up the last one, for which it needs that file: one after the other.
        if !self.is_installing() {
            self.effect(Effect::PullSnapshot { from, position });
        }
    }

    /// Everything up to `index` is the same here and in the leader's log.
    fn confirm_covered(&mut self, index: Index) {
        self.following.verified_index = self.following.verified_index.max(index);
        self.following.owes_acknowledgement = true;
        self.acknowledge_durable();
    }

    /// A snapshot was pulled, and is durable here. Older than what is committed here, it is ignored
    /// (W2); if the log holds its last entry, the log stays (§7); else the log gives way to it.
    pub(crate) fn on_snapshot_received(&mut self, snapshot: Arc<SnapshotMeta>) {
        let foreign = self
            .cluster_id()
            .is_some_and(|cluster| cluster != snapshot.cluster_id);
        let position = snapshot.position;
        let impossible = foreign || position.term > self.term() || position.index > MAX_INDEX;
        let older = position.index <= self.commit_index && !mutant!(W2OlderInstalled);
        if impossible || matches!(self.role, Role::Leader(_)) || older {
            return;
        }
        let stays = mutant!(W2ConflictingLogStays) && position.index <= self.log.last().index;
        if self.log.matches(position) || stays {
            self.log.set_snapshot(snapshot);
        } else if position.index <= self.following.verified_index {
            // This log is the leader's up to there, and the leader's log holds what is committed.
            let peer = self.leader().unwrap_or(self.id);
            let what = "a snapshot that contradicts what is settled";
            return self.event(Event::Nonsense { peer, what });
        } else {
            self.install_snapshot(snapshot);
        }
        self.set_commit_index(position.index);
        if self.leader().is_some() {
            self.confirm_covered(position.index);
        }
    }
}
