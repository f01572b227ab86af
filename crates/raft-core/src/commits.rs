//! Committing (§5.3, §5.4.2), and what follows from it.

use crate::ids::Index;
use crate::io::Event;
use crate::message::Message;
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

    /// The commit index rides on AppendEntries. A peer that has acknowledged all there is would learn of
    /// it only with the next heartbeat; told at once, a read there need not wait for it, and its state
    /// machine does not fall behind. While something is under way to it nothing is said: the next entries
    /// say it, or its acknowledgement brings us here again.
    pub(crate) fn tell_commit_index(&mut self) {
        let (term, commit_index) = (self.term(), self.commit_index);
        let last = self.log.last().index;
        let configuration = self.configuration().1;
        let Some(leading) = self.leading() else {
            return;
        };
        let mut notices = Vec::new();
        for (id, peer) in &mut leading.progress {
            let committed = commit_index.min(peer.match_index);
            // Who leaves with this very commit is sent nothing any more (M5).
            let leaves = peer.next_index > last && !configuration.contains(*id);
            if peer.commit_told < committed && (peer.match_index == last || leaves) {
                peer.commit_told = committed;
                notices.push((*id, committed));
            }
        }
        for (peer, commit_index) in notices {
            self.send(peer, Message::CommitNotice { term, commit_index });
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
