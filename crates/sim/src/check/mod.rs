//! What must hold, with bookkeeping of its own: the checkers look at nodes from outside, remember what was
//! stored, sent, committed and applied, and count by the definitions.
//!
//! | checker | says |
//! |---|---|
//! | `election-safety` | at most one leader in a term (§5.2) |
//! | `log-matching` | an entry of one index and term is one entry, behind one other (§5.3) |
//! | `leader-completeness` | a new leader has all that was committed in earlier terms (§5.4) |
//! | `state-machine-safety` | what was committed at an index stays what it is (§5.4.3) |
//! | `leader-commits-own-term` | a leader counts only entries of its own term (§5.4.2) |
//! | `committed-is-durable` | when a leader commits, a majority of the voters, counted by hand, holds it on disk |
//! | `durable-promises` | votes and acknowledgements rest on what is on disk; one vote in a term |
//! | `applied-is-committed` | a state machine gets what is committed, and durable in its own log (D1) |
//! | `same-outcome` | an entry comes to the same everywhere, and is run everywhere or nowhere |
//! | `exactly-once` | a request of a session is run once |
//! | `monotone` | term, commit index, what stale reads show |
//! | `configuration` | each change follows from the one before by the rules, and is in the log; who leads votes (§6, M1 to M5) |
//! | `promises-are-kept` | what a disk had stored is there at the next start, and the node goes by it (figure 2, D7) |
//! | `manners`, `reads`, `hand-over` | who campaigns, refuses, loses a leader, reads, leaves or hands over does so when and as it may (E1 to E5, R2, D4, M1, W3, §3.10) |
//! | `calm` | what must not depose a leader does not, and who is alone leads no more (E2, E3) |
//! | `removed-stays-removed` | an id that has left never comes back (M3) |
//! | `founding` | no entry before a second node, none behind a Dissolve, no Dissolve behind content (F1, F2, F4) |
//! | `sessions` | what is run is what a plain session table says (S2, S3, P5) |
//! | `rollback` | whose disk went back is found out, who lost nothing is not, and a suspect counts for nothing (D5) |
//! | `repair` | what is put into a damaged log is what was there, or what was committed instead (D6) |
//! | `linearizability` | one correct store could have answered so ([`crate::history`]) |
//! | `state` | the keys are what the committed entries make of them |
//! | `liveness` | without faults, everything converges |
//! | `limits` | queues stay bounded |

mod changes;
mod finally;
mod founding;
mod kept;
mod ledger;
mod manners;
mod model;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use raft_core::message::{AppendOutcome, RequestVoteReply};
use raft_core::sessions::OutcomeKind;
use raft_core::{
    Configuration, Entry, Event as CoreEvent, Index, Input, Message, NodeId, Position, Raft,
    RoleName, Term, Write,
};

use crate::coverage::Coverage;
use crate::node::{Note, Server};
pub use finally::at_end;
use founding::Founding;
use ledger::{Ledger, Standing};
use manners::Manners;
pub(crate) use manners::PROBE_PATIENCE;

/// What may wait at one node.
const MAX_WAITING: usize = 4_000;

/// Something that must not be.
#[derive(Clone, Debug)]
pub struct Wrong {
    /// Which checker says so.
    pub checker: &'static str,
    /// What.
    pub sentence: String,
}

pub(crate) fn wrong<T>(checker: &'static str, sentence: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong {
        checker,
        sentence: sentence.into(),
    })
}

/// The memory of all checkers.
#[derive(Default)]
pub struct Checker {
    pub(crate) ledger: Ledger,
    /// Who led which term.
    leaders: BTreeMap<Term, NodeId>,
    /// Who voted for whom.
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// By node, of the process that runs.
    seen: BTreeMap<NodeId, Seen>,
    /// Ids that have left, and the entry that says so.
    removed: BTreeMap<NodeId, Index>,
    /// Their disks were damaged, or put back in time.
    excused: BTreeSet<NodeId>,
    manners: Manners,
    /// Campaigns that were begun, by anyone.
    pub(crate) campaigns: u64,
    /// In whose name a course has spoken, and in which term.
    imagined: Option<(Term, NodeId)>,
    founding: Founding,
    /// A bit of their logs was flipped since they were opened.
    damaged: BTreeSet<NodeId>,
    /// Their logs were repaired, and are about to be opened.
    repaired: BTreeSet<NodeId>,
    /// A state machine has said, of some entry, that its outcome is not kept any more.
    forgotten: bool,
}

#[derive(Clone, Default)]
struct Seen {
    term: Term,
    commit_index: Index,
    /// The last term that it led.
    led: Term,
    configuration: (Index, Arc<Configuration>),
    /// It followed, and was about to end.
    ends: bool,
    /// Whom it has asked whether their disks have lost promises.
    suspects: BTreeSet<NodeId>,
}

impl Checker {
    /// That node's disk was damaged, or put back in time: it may have lost what it had stored.
    pub fn excuse(&mut self, id: NodeId) {
        self.excused.insert(id);
    }

    /// The votes that were given to that node before that term, as they were sent.
    pub(crate) fn votes_before(&self, id: NodeId, term: Term) -> Vec<Input> {
        let given = self.votes.iter().filter(|((voter, given_in), candidate)| {
            **candidate == id && *voter != id && *given_in < term
        });
        let as_sent = |(voter, given_in): (NodeId, Term)| Input::Message {
            from: voter,
            message: Message::RequestVoteReply(RequestVoteReply {
                term: given_in,
                pre_vote: false,
                granted: true,
                request_term: given_in,
                hears_leader: false,
            }),
        };
        given.map(|(vote, _)| as_sent(*vote)).collect()
    }

    /// The "no" that this process was told last, if it has just asked another question (E2).
    pub(crate) fn late_answer(&mut self, id: NodeId) -> Option<Input> {
        self.manners.late_answer(id)
    }

    /// A bit of that node's log was flipped. Term, vote and entries must be found again. What it knew of its peers'
    /// disks may be gone: a batch that held nothing else is dropped unnoticed, which D5 would have otherwise.
    pub fn damage(&mut self, id: NodeId) {
        self.damaged.insert(id);
    }

    /// A course speaks as if that node led that term.
    pub fn imagine(&mut self, term: Term, leader: NodeId) {
        self.imagined = Some((term, leader));
    }

    /// Looks at a node that has just taken a step.
    ///
    /// # Errors
    /// Something is wrong.
    pub fn after_step(
        &mut self,
        server: &mut Server,
        coverage: &mut Coverage,
        trace: &mut dyn FnMut(String),
    ) -> Result<(), Wrong> {
        let id = server.parts.id;
        let mut notes = std::mem::take(&mut server.parts.notes);
        for note in notes.drain(..) {
            self.note(id, server, note, coverage, trace)?;
        }
        server.parts.notes = notes;
        if let Some(raft) = server.raft() {
            self.look_at_core(id, raft)?;
        }
        if server.waiting() > MAX_WAITING {
            let what = format!("{} things wait at {id}", server.waiting());
            return wrong("limits", what);
        }
        Ok(())
    }

    fn look_at_core(&mut self, id: NodeId, raft: &Raft) -> Result<(), Wrong> {
        let seen = self.seen.entry(id).or_default();
        let (term, commit_index) = (raft.term(), raft.commit_index());
        if term < seen.term || commit_index < seen.commit_index {
            let what = format!(
                "{id} was at term {} and commit index {}, and is at {term} and {commit_index}",
                seen.term, seen.commit_index
            );
            return wrong("monotone", what);
        }
        let leads = raft.role() == RoleName::Leader;
        let follows = raft.role() == RoleName::Follower;
        let ends = std::mem::replace(&mut seen.ends, follows && raft.health().stopping);
        let begins = leads && seen.led != term;
        let commits = leads && !begins && commit_index > seen.commit_index;
        let configuration = raft.configuration();
        let is_new = configuration.0 != seen.configuration.0;
        (seen.term, seen.commit_index) = (term, commit_index);
        seen.led = if leads { term } else { seen.led };
        let before = if is_new {
            std::mem::replace(&mut seen.configuration, configuration.clone())
        } else {
            configuration.clone()
        };
        if begins {
            self.new_leader(id, raft)?;
        }
        if let Some(leader) = raft.leader()
            && self.leaders.get(&term) != Some(&leader)
            && self.imagined != Some((term, leader))
        {
            let known = self.leaders.get(&term);
            let what = format!("{id} follows {leader} in term {term}, which {known:?} leads");
            return wrong("election-safety", what);
        }
        let is_voter = configuration.1.is_voter(id);
        self.manners.look(id, raft, is_voter)?;
        changes::fits(id, raft, ends)?;
        if commits {
            // Whatever it has appended since, in the same step, was not in force when it counted.
            self.leader_commits(id, raft, commit_index, [&before.1, &configuration.1])?;
        }
        self.ledger.is_in_log(id, raft, &configuration)?;
        if is_new && leads {
            changes::may_begin(id, raft, &before, &configuration)?;
            let now = self.manners.clock(id);
            let hears = |from| self.manners.hears(id, from);
            changes::may_count((id, raft), now, hears, &before.1, &configuration)?;
        }
        if is_new {
            for member in configuration.1.members() {
                let left = self.removed.get(&member);
                // A leader that is cut off has not heard of it, and its entry will never count.
                if left.is_some_and(|at| *at < configuration.0 && self.is_in_log(raft, *at)) {
                    let what =
                        format!("{member} has left for good, and {} has it", configuration.0);
                    return wrong("removed-stays-removed", what);
                }
            }
        }
        Ok(())
    }

    /// Whether that log holds what was committed at this index, or a snapshot in its place.
    fn is_in_log(&self, raft: &Raft, at: Index) -> bool {
        let committed = self.ledger.entry(at).map(|entry| entry.term);
        at <= raft.base().index || raft.term_at(at) == committed
    }

    fn new_leader(&mut self, id: NodeId, raft: &Raft) -> Result<(), Wrong> {
        let term = raft.term();
        let known = *self.leaders.entry(term).or_insert(id);
        if known != id {
            let what = format!("{known} and {id} lead term {term}");
            return wrong("election-safety", what);
        }
        let voted = |voter: NodeId| {
            let own = voter == id && raft.hard_state().voted_for == Some(id);
            own || self.votes.get(&(voter, term)) == Some(&id)
        };
        let configuration = raft.configuration().1;
        if !configuration.is_quorum(voted) {
            let voters = configuration.all_voters();
            let gave: Vec<&NodeId> = voters.iter().filter(|voter| voted(**voter)).collect();
            let what =
                format!("{id} leads term {term}, and of {voters:?} only {gave:?} voted for it");
            return wrong("election-safety", what);
        }
        for (index, committed) in self.ledger.committed_before(term) {
            let has = raft.term_at(index);
            if index > raft.base().index && has != Some(committed.term) {
                let what = format!(
                    "{id} leads term {term}, and at index {index} it has term {has:?}, where term {} \
                     was committed",
                    committed.term
                );
                return wrong("leader-completeness", what);
            }
        }
        Ok(())
    }

    /// A leader has raised its commit index: by the definition, a majority must have it.
    fn leader_commits(
        &mut self,
        id: NodeId,
        raft: &Raft,
        commit_index: Index,
        in_force: [&Arc<Configuration>; 2],
    ) -> Result<(), Wrong> {
        let (term, at) = (raft.term(), raft.term_at(commit_index));
        if at != Some(term) {
            let what = format!("{id} leads term {term} and commits {commit_index} of term {at:?}");
            return wrong("leader-commits-own-term", what);
        }
        let position = Position {
            index: commit_index,
            term,
        };
        let seen = self.seen.get(&id);
        let majority = |voters: &BTreeSet<NodeId>| {
            let suspect = |voter: &NodeId| seen.is_some_and(|seen| seen.suspects.contains(voter));
            let holds = |voter: &&NodeId| self.ledger.holds(**voter, position) && !suspect(voter);
            voters.is_empty() || voters.iter().filter(holds).count() * 2 > voters.len()
        };
        let enough = |c: &&Arc<Configuration>| majority(&c.voters) && majority(&c.outgoing);
        if !in_force.iter().any(enough) {
            let what = format!(
                "{id} commits entry {commit_index} of term {term}, and no majority of {:?} has it on disk",
                in_force[0]
            );
            return wrong("committed-is-durable", what);
        }
        Ok(())
    }

    fn note(
        &mut self,
        id: NodeId,
        server: &Server,
        note: Note,
        coverage: &mut Coverage,
        trace: &mut dyn FnMut(String),
    ) -> Result<(), Wrong> {
        match note {
            Note::Began { recovered, boot } => {
                trace(format!("starts, boot {boot}, last {:?}", recovered.last));
                self.manners.begins(id);
                let excused = self.excused.contains(&id);
                let standing = Standing {
                    excused,
                    damaged: self.damaged.remove(&id),
                    repaired: self.repaired.remove(&id),
                };
                self.ledger.begins(id, &recovered, boot, standing)?;
                if let Some(raft) = server.raft() {
                    kept::in_mind(id, raft, &recovered.hard_state)?;
                }
                let led = self.seen.get(&id).map_or(0, |seen| seen.led);
                let seen = Seen {
                    term: recovered.hard_state.current_term,
                    led,
                    ..Seen::default()
                };
                self.seen.insert(id, seen);
            }
            Note::Step { now, told } => {
                let committed = self.ledger.len();
                self.manners.told(id, now, told, committed);
            }
            Note::Probe { of } => self.manners.probes(id, of),
            Note::Read { request, index } => self.manners.reads(id, request, index)?,
            Note::Repaired => {
                coverage.event("log repaired");
                self.repaired.insert(id);
            }
            Note::Challenged(peer) => {
                coverage.event("suspect");
                self.seen.entry(id).or_default().suspects.insert(peer);
            }
            Note::Trusted(peer) => {
                self.seen.entry(id).or_default().suspects.remove(&peer);
            }
            Note::Forgotten(position) if !self.forgotten => {
                let what = format!("{id} answers {position:?} with an outcome that is not known");
                return wrong("sessions", what);
            }
            Note::Forgotten(_) => {}
            Note::Doubtful => self.ledger.doubt(id),
            Note::Stored(writes) => self.stored(id, writes, coverage)?,
            Note::Sent { to, message } => {
                if let Some(raft) = server.raft() {
                    // In a later term it may have given up what it acknowledged to this leader.
                    let heir = self.ledger.mirror_of(to);
                    let moved_on =
                        heir.is_some_and(|heir| heir.hard_state.current_term > raft.term());
                    let known = !self.excused.contains(&to) && !moved_on;
                    self.manners
                        .says((id, raft), to, &message, known, &self.ledger)?;
                }
                self.sent(id, to, &message)?;
            }
            Note::Committed { index, entries } => self.committed(id, server, index, entries)?,
            Note::Snapshot { meta, installed } => {
                let what = if installed {
                    "snapshot install"
                } else {
                    "snapshot"
                };
                coverage.event(what);
                trace(format!("{what} as of {:?}", meta.position));
                self.ledger.covered(id, &meta)?;
            }
            Note::Applied {
                position,
                command,
                outcome,
            } => {
                self.forgotten |= command.is_some() && outcome.kind == OutcomeKind::AlreadyApplied;
                self.ledger.applied(id, position, command, outcome)?;
            }
            Note::Epoch { applied, restored } => {
                coverage.event("state machine epoch");
                if restored {
                    coverage.event("state machine restored");
                }
                if applied > server.recorded().unwrap_or(0) {
                    coverage.event("state machine ahead");
                }
                trace(format!("epoch: applied {applied}, restored {restored}"));
            }
            Note::Event(event) => {
                coverage.core(&event);
                trace(format!("{event:?}"));
                self.campaigns += u64::from(matches!(event, CoreEvent::Election { .. }));
                self.manners.event(id, server.raft(), &event)?;
            }
            Note::RolledBack(peer) => {
                coverage.event("rollback detected");
                trace(format!("{peer} was rolled back"));
                if !self.excused.contains(&peer) {
                    let what = format!("{id} condemns {peer}, whose disk has lost nothing (D5)");
                    return wrong("rollback", what);
                }
            }
            Note::LeaveDecided { request, removed } => {
                self.manners.leave_decided(id, request);
                coverage.event(if removed { "leave" } else { "leave declined" });
            }
            Note::Wrong(sentence) => return wrong("node", format!("{id}: {sentence}")),
            Note::Say(sentence) => trace(sentence),
        }
        Ok(())
    }

    fn stored(
        &mut self,
        id: NodeId,
        writes: Vec<Write>,
        coverage: &mut Coverage,
    ) -> Result<(), Wrong> {
        for write in writes {
            if write.truncate_from.is_some() {
                coverage.event("truncation");
            }
            if write.compact_to.is_some() {
                coverage.event("compaction");
            }
            if let Some(mirror) = self.ledger.mirror_of(id) {
                self.founding.stores(id, mirror, &write)?;
            }
            self.ledger.stored(id, write)?;
        }
        Ok(())
    }

    fn sent(&mut self, id: NodeId, to: NodeId, message: &Message) -> Result<(), Wrong> {
        let Some(mirror) = self.ledger.mirror_of(id) else {
            return Ok(());
        };
        let hard = &mirror.hard_state;
        match message {
            Message::RequestVoteReply(reply) if reply.granted && !reply.pre_vote => {
                let term = reply.request_term;
                let forgotten = hard.current_term < term
                    || (hard.current_term == term && hard.voted_for != Some(to));
                if forgotten {
                    let disk = (hard.current_term, hard.voted_for);
                    let what = format!("{id} votes for {to} in {term}, and its disk says {disk:?}");
                    return wrong("durable-promises", what);
                }
                self.vote(id, term, to)
            }
            Message::RequestVote(request) if !request.pre_vote => {
                if hard.current_term < request.term {
                    let what = format!("{id} asks for votes in term {} undurably", request.term);
                    return wrong("durable-promises", what);
                }
                self.vote(id, request.term, id)
            }
            Message::AppendEntriesReply(reply) => match reply.outcome {
                AppendOutcome::Durable { index } if index > mirror.last().index => {
                    let last = mirror.last().index;
                    let what = format!("{id} acknowledges {index}, and its disk ends at {last}");
                    wrong("durable-promises", what)
                }
                AppendOutcome::Durable { index }
                    if self.leaders.get(&reply.term) == Some(&to)
                        && self.is_in_term(to, reply.term)
                        && self.ledger.differ(id, to, index) =>
                {
                    let what =
                        format!("{id} acknowledges {index} to {to}, which has another entry");
                    wrong("durable-promises", what)
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Who led that term may be in a later one already, with another log.
    fn is_in_term(&self, id: NodeId, term: Term) -> bool {
        let mirror = self.ledger.mirror_of(id);
        mirror.is_some_and(|mirror| mirror.hard_state.current_term == term)
    }

    fn vote(&mut self, id: NodeId, term: Term, candidate: NodeId) -> Result<(), Wrong> {
        let known = *self.votes.entry((id, term)).or_insert(candidate);
        if known != candidate {
            let what = format!("{id} votes for {known} and for {candidate} in term {term}");
            return wrong("durable-promises", what);
        }
        Ok(())
    }

    fn committed(
        &mut self,
        id: NodeId,
        server: &Server,
        index: Index,
        entries: Vec<Entry>,
    ) -> Result<(), Wrong> {
        let term = server.term().unwrap_or(0);
        let mirror = self.ledger.mirror_of(id);
        let durable = mirror.map_or(0, |mirror| mirror.last().index);
        if index > durable {
            let what = format!("{id} hands out {index}, and its disk ends at {durable}");
            return wrong("applied-is-committed", what);
        }
        for entry in entries {
            if let Some(configuration) = self.ledger.commit(id, term, entry)? {
                let before = self.ledger.configuration_at(configuration.0 - 1);
                if let Some((_, before)) = before {
                    changes::follows(&before, &configuration.1, configuration.0)?;
                }
                for id in &configuration.1.removed {
                    self.removed.entry(*id).or_insert(configuration.0);
                }
            }
        }
        Ok(())
    }
}
