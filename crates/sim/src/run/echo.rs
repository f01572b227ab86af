//! Mischief with messages: what was said once is heard again, long after, and at the worst moment.

use raft_core::RoleName;

use super::Run;
use crate::world::Address;

impl Run<'_> {
    /// A network without order brings back what it brought before, when it is least wanted: old votes to who
    /// campaigns anew, the answer to an earlier probe to who has just asked (E2).
    pub(super) fn echo(&mut self, at: Address) {
        let Some(raft) = self.raft(at) else {
            return;
        };
        let (id, term) = (raft.id(), raft.term());
        let asks_anew = raft.role() == RoleName::Candidate
            && self
                .echoed
                .insert(id, term)
                .is_none_or(|before| before < term);
        let mut words = Vec::new();
        if asks_anew {
            words.extend(self.checker.votes_before(id, term));
        }
        words.extend(self.checker.late_answer(id));
        for input in words {
            self.input(at, input);
        }
    }
}
