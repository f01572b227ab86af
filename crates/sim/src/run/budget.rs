//! What may be lost in a run: of every configuration a majority keeps what it has promised.

use std::collections::BTreeSet;
use std::sync::Arc;

use raft_core::{Configuration, NodeId};

use super::{Image, Run};
use crate::world::Address;

impl Run<'_> {
    /// Every configuration that may be in force somewhere.
    fn configurations(&self) -> Vec<Arc<Configuration>> {
        let mut all: Vec<Arc<Configuration>> = self.last_configurations.values().cloned().collect();
        for at in self.begun.iter() {
            if let Some(raft) = self.raft(*at) {
                all.push(raft.configuration().1);
                all.push(raft.committed_configuration().1);
            }
        }
        let committed = self.checker.ledger.configuration_at(u64::MAX);
        all.extend(committed.map(|(_, configuration)| configuration));
        all.retain(|configuration| !configuration.voters.is_empty());
        all
    }

    /// Whether this node's promises may be lost: of every configuration a majority keeps its own. One node
    /// at a time may be about to lose them: it looks well, and may be made a voter meanwhile. So may a
    /// learner that is lost, before its leader notices: it counts as a voter, in the place of any other.
    pub fn may_lose(&self, at: Address) -> bool {
        let Some(lost) = self.id(at) else {
            return false;
        };
        if self.doomed.iter().any(|doomed| *doomed != lost) {
            return false;
        }
        // A leader whose clock stands still takes the dead for living, and may make them voters (M4).
        if self.begun.iter().any(|at| self.world.clock_stands(*at)) {
            return false;
        }
        let ids: BTreeSet<NodeId> = self.begun.iter().filter_map(|at| self.id(*at)).collect();
        let keeps = |id: NodeId| id != lost && ids.contains(&id) && !self.doomed.contains(&id);
        self.configurations().iter().all(|configuration| {
            let mut in_place_of = BTreeSet::from([lost]);
            if configuration.learners.contains(&lost) {
                in_place_of = configuration.all_voters();
            }
            let kept_without = |other| configuration.is_quorum(|id| id != other && keeps(id));
            in_place_of.into_iter().all(kept_without)
        })
    }

    /// Whether this node may be put back to that image though nobody might notice: what it has promised
    /// since is kept by others.
    pub fn may_roll_back(&self, at: Address, image: &Image) -> bool {
        let ledger = &self.checker.ledger;
        let Some(mirror) = self.id(at).and_then(|id| ledger.mirror_of(id)) else {
            return false;
        };
        if self.id(at) != Some(image.id) {
            return false;
        }
        let disk = image.disk.fork();
        disk.crash_losing_all_unsynced();
        let options = raft_disk::Options {
            segment_bytes: self.plan.tuning.segment_bytes,
            tail_cache_bytes: 0,
            lay_out_ahead: false,
        };
        let Ok((_, recovered)) = raft_disk::LogStore::open(Arc::new(disk), options) else {
            return false;
        };
        let (then, now) = (&recovered.hard_state, &mirror.hard_state);
        let same_promise = (then.current_term, then.voted_for) == (now.current_term, now.voted_for);
        let last = mirror.last();
        let kept = |id: NodeId| id != image.id && ledger.holds(id, last);
        same_promise && self.configurations().iter().all(|c| c.is_quorum(kept))
    }

    /// That node may lose what it promised at any moment.
    pub fn doom(&mut self, at: Address) {
        if let Some(id) = self.id(at) {
            self.doomed.insert(id);
            self.wounded.remove(&id);
            self.checker.excuse(id);
        }
    }
}
