//! Committing (§5.3, §5.4.2), and what follows from it.

use crate::ids::Index;
use crate::io::Event;
use crate::raft::{Raft, Role};

impl Raft {
    /// The highest entry that a majority of the voters in the log's configuration has made durable is
    /// committed, if it is of the present term; and with it all before it (§5.4.2, figure 8). The
    /// leader's own copy counts once its own disk has it, like everyone's.
    pub(crate) fn advance_commit_index(&mut self) {
        let Role::Leader(leading) = &self.role else {
            return;
        };
        let own = if mutant!(OwnCopyBeforeDurable) {
            self.log.last().index
        } else {
            self.disk.durable_index
        };
        let configuration = self.configuration().1;
        let index = configuration.quorum_index(|voter| {
            if voter == self.id {
                own
            } else if self.is_suspect(voter) {
                0
            } else {
                leading.match_index(voter)
            }
        });
        let of_this_term = self.log.term_at(index) == Some(self.term());
        if index <= self.commit_index || !(of_this_term || mutant!(CommitOfEarlierTerm)) {
            return;
        }
        self.set_commit_index(index);
        if let Some(leading) = self.leading() {
            leading.committed_up_to(index);
        }
        self.start_read_round();
        self.tell_commit_index();
        self.on_configuration_committed();
    }

    /// Peers to which nothing more is to be sent would learn of the commit only with the next
    /// heartbeat; told at once, a read there need not wait for it.
    pub(crate) fn tell_commit_index(&mut self) {
        let commit_index = self.commit_index;
        let last = self.log.last().index;
        let Role::Leader(leading) = &self.role else {
            return;
        };
        let untold: Vec<_> = leading
            .progress
            .iter()
            .filter(|(_, peer)| {
                peer.next_index > last && peer.commit_told < commit_index.min(peer.match_index)
            })
            .map(|(peer, _)| *peer)
            .collect();
        if untold.is_empty() {
            return;
        }
        let succession = self.order_of_succession();
        for peer in untold {
            self.send_heartbeat(peer, succession.clone());
        }
    }

    /// A follower takes the leader's word for what is committed, as far as its own log is known to
    /// be the leader's.
    pub(crate) fn follow_commit_index(&mut self, leaders: Index) {
        let index = if mutant!(CommitUnverified) {
            leaders.min(self.log.last().index)
        } else {
            leaders.min(self.following.verified_index)
        };
        if index > self.commit_index {
            self.set_commit_index(index);
        }
    }

    pub(crate) fn set_commit_index(&mut self, index: Index) {
        assert!(
            index <= self.log.last().index,
            "nothing beyond the log is committed"
        );
        let before = self.committed_configuration().0;
        self.commit_index = index;
        let (at, configuration) = self.committed_configuration();
        if at > before {
            let joint = configuration.is_joint();
            self.event(Event::ConfigurationCommitted { index: at, joint });
        }
    }
}
