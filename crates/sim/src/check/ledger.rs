//! What was stored, committed and applied, as seen from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use raft_core::sessions::{Outcome, OutcomeKind};
use raft_core::{
    Boot, Configuration, Entry, HardState, Index, NodeId, Payload, Position, Raft, Recovered,
    SnapshotMeta, Term, Write,
};

use super::{Wrong, kept, wrong};

/// What a node's disk holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mirror {
    pub hard_state: HardState,
    pub base: Position,
    /// Of the entries behind the base.
    pub terms: Vec<Term>,
}

impl Mirror {
    pub fn of(recovered: &Recovered) -> Mirror {
        let mut terms = Vec::new();
        let starts = recovered.terms.iter().map(|(first, _)| *first).skip(1);
        let ends = starts.chain([recovered.last.index + 1]);
        for ((first, term), end) in recovered.terms.iter().zip(ends) {
            terms.extend((*first..end).map(|_| *term));
        }
        Mirror {
            hard_state: recovered.hard_state.clone(),
            base: recovered.base,
            terms,
        }
    }

    pub fn last(&self) -> Position {
        let index = self.base.index + self.terms.len() as u64;
        let term = self.terms.last().copied().unwrap_or(self.base.term);
        Position { index, term }
    }

    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        let at = index.checked_sub(self.base.index + 1)?;
        self.terms.get(usize::try_from(at).ok()?).copied()
    }

    fn truncate(&mut self, from: Index) {
        let kept = from.saturating_sub(self.base.index + 1);
        self.terms.truncate(usize::try_from(kept).unwrap_or(0));
    }

    fn reset(&mut self, base: Position) {
        self.base = base;
        self.terms.clear();
    }
}

/// An entry that was committed, and the term in which that was first seen.
struct Committed {
    entry: Entry,
    seen_in: Term,
}

/// What an entry came to.
pub(crate) struct Applied {
    pub command: Option<Bytes>,
    pub outcome: Outcome,
}

/// What was done to a disk since its node ran last.
#[derive(Clone, Copy)]
pub(crate) struct Standing {
    /// It may have lost anything.
    pub excused: bool,
    /// A bit of its log was flipped.
    pub damaged: bool,
    /// Its log was repaired.
    pub repaired: bool,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Those of lost disks stay: what was acknowledged from them may still be on its way.
    mirrors: BTreeMap<NodeId, Mirror>,
    /// A write of theirs failed, or was under way when the power went: it may have happened.
    doubtful: BTreeSet<NodeId>,
    boots: BTreeMap<NodeId, Boot>,
    /// Every entry that was ever stored, and the term of the one before it.
    entries: BTreeMap<(Index, Term), (Term, Entry)>,
    committed: Vec<Committed>,
    pub applied: BTreeMap<Index, Applied>,
}

impl Ledger {
    /// A node starts with what its disk holds.
    pub fn begins(
        &mut self,
        id: NodeId,
        recovered: &Recovered,
        boot: Boot,
        standing: Standing,
    ) -> Result<(), Wrong> {
        let now = Mirror::of(recovered);
        let doubtful = self.doubtful.remove(&id);
        let before = self.mirrors.insert(id, now.clone());
        let boots = self.boots.insert(id, boot);
        if standing.excused {
            return Ok(());
        }
        if boots.is_some_and(|last| boot <= last) {
            return wrong(
                "promises-are-kept",
                format!("{id} starts again as boot {boot}"),
            );
        }
        let Some(mut before) = before else {
            return Ok(());
        };
        if standing.damaged || standing.repaired {
            before.hard_state.peers.clear();
        }
        if standing.repaired {
            self.is_one_log(id, &now)?;
            return kept::through_repair(id, &before, &now, self.committed_entries());
        }
        kept::on_disk(id, &before, &now, doubtful)
    }

    /// Log matching: an entry of that index and term stands behind one other, wherever it was stored (§5.3).
    fn is_one_log(&self, id: NodeId, log: &Mirror) -> Result<(), Wrong> {
        let mut before = log.base;
        for (index, term) in (log.base.index + 1..).zip(&log.terms) {
            if let Some((known, _)) = self.entries.get(&(index, *term))
                && *known != before.term
            {
                let what = format!(
                    "{id} has {index} of term {term} behind {before:?}, and elsewhere it stands behind \
                     term {known}"
                );
                return wrong("repair", what);
            }
            before = Position { index, term: *term };
        }
        Ok(())
    }

    /// What that node's disk holds.
    #[cfg(test)]
    pub fn mirror(&mut self, id: NodeId, mirror: Mirror) {
        self.mirrors.insert(id, mirror);
    }

    /// A write of that node failed, or was under way when the power went.
    pub fn doubt(&mut self, id: NodeId) {
        self.doubtful.insert(id);
    }

    pub fn mirror_of(&self, id: NodeId) -> Option<&Mirror> {
        self.mirrors.get(&id)
    }

    /// Whether that node's disk has that entry, or a snapshot in its place.
    pub fn holds(&self, id: NodeId, position: Position) -> bool {
        self.mirrors.get(&id).is_some_and(|mirror| {
            position.index < mirror.base.index
                || mirror.term_at(position.index) == Some(position.term)
        })
    }

    /// Whether both disks have an entry there, and not the same.
    pub fn differ(&self, one: NodeId, other: NodeId, index: Index) -> bool {
        let term = |id| {
            self.mirrors
                .get(&id)
                .and_then(|mirror| mirror.term_at(index))
        };
        term(one).is_some_and(|one| term(other).is_some_and(|other| one != other))
    }

    /// A configuration in force that is not known to be committed is that of its entry (§6).
    pub fn is_in_log(
        &self,
        id: NodeId,
        raft: &Raft,
        (index, configuration): &(Index, Arc<Configuration>),
    ) -> Result<(), Wrong> {
        let uncommitted = *index > raft.commit_index();
        let term = raft.term_at(*index).filter(|_| uncommitted);
        let stored = term.and_then(|term| self.entries.get(&(*index, term)));
        match stored.map(|(_, entry)| &entry.payload) {
            None | Some(Payload::Founding { .. }) => Ok(()),
            Some(Payload::Configuration(said)) if said == configuration => Ok(()),
            Some(other) => {
                let what = format!("{id} goes by {configuration:?}, and at {index} is {other:?}");
                wrong("configuration", what)
            }
        }
    }

    pub fn len(&self) -> Index {
        self.committed.len() as Index
    }

    /// What stands committed at an index.
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        let at = usize::try_from(index.checked_sub(1)?).ok()?;
        self.committed.get(at).map(|committed| &committed.entry)
    }

    /// All that was committed, in order.
    pub fn committed_entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.committed.iter().map(|committed| &committed.entry)
    }

    /// What was committed in terms before that one.
    pub fn committed_before(&self, term: Term) -> impl Iterator<Item = (Index, &Entry)> {
        let earlier = move |committed: &&Committed| committed.seen_in < term;
        let committed = self.committed.iter().filter(earlier);
        committed.map(|committed| (committed.entry.index, &committed.entry))
    }

    pub fn stored(&mut self, id: NodeId, write: Write) -> Result<(), Wrong> {
        let mirror = self.mirrors.entry(id).or_default();
        if let Some(hard_state) = write.hard_state {
            if hard_state.current_term < mirror.hard_state.current_term {
                return wrong("monotone", format!("{id} stores a lower term"));
            }
            let before = &mirror.hard_state;
            if hard_state.current_term == before.current_term
                && before.voted_for.is_some()
                && hard_state.voted_for != before.voted_for
            {
                let what = format!("{id} stored {before:?}, and stores {hard_state:?}");
                return wrong("durable-promises", what);
            }
            mirror.hard_state = hard_state;
        }
        if let Some(snapshot) = write.install {
            mirror.reset(snapshot.position);
        }
        if let Some(from) = write.truncate_from {
            mirror.truncate(from);
        }
        for entry in write.entries {
            let before = mirror.last();
            if entry.index != before.index + 1 {
                let what = format!("{id} stores {} behind {}", entry.index, before.index);
                return wrong("log-matching", what);
            }
            mirror.terms.push(entry.term);
            let key = (entry.index, entry.term);
            if let Some((known_before, known)) = self.entries.get(&key) {
                if *known_before != before.term || *known != entry {
                    let what = format!(
                        "{id} stores {entry:?} behind term {}; elsewhere {known:?} stands behind term \
                         {known_before}",
                        before.term
                    );
                    return wrong("log-matching", what);
                }
            } else {
                self.entries.insert(key, (before.term, entry));
            }
        }
        Ok(())
    }

    /// Takes note that an entry is committed. Returns the configuration that it says, if it is new.
    pub fn commit(
        &mut self,
        id: NodeId,
        term: Term,
        entry: Entry,
    ) -> Result<Option<(Index, Arc<Configuration>)>, Wrong> {
        if let Some(known) = self.entry(entry.index) {
            if *known != entry {
                let what = format!("{id} has {entry:?} committed, and {known:?} was");
                return wrong("state-machine-safety", what);
            }
            return Ok(None);
        }
        if entry.index != self.len() + 1 {
            let what = format!("{id} commits {} behind {}", entry.index, self.len());
            return wrong("state-machine-safety", what);
        }
        let log_time = self.committed.last().map(|last| last.entry.log_time_ms);
        if log_time.is_some_and(|before| entry.log_time_ms < before) {
            let what = format!(
                "log time goes back to {} ms at {}",
                entry.log_time_ms, entry.index
            );
            return wrong("monotone", what);
        }
        let configuration = match &entry.payload {
            Payload::Configuration(configuration) => Some((entry.index, configuration.clone())),
            _ => None,
        };
        let seen_in = term;
        self.committed.push(Committed { entry, seen_in });
        Ok(configuration)
    }

    /// The configuration that was in force as of an entry.
    pub fn configuration_at(&self, index: Index) -> Option<(Index, Arc<Configuration>)> {
        let until = usize::try_from(index).unwrap_or(usize::MAX);
        let entries = self.committed_entries().take(until);
        let configurations = entries.filter_map(|entry| match &entry.payload {
            Payload::Configuration(configuration) => Some((entry.index, configuration.clone())),
            Payload::Founding { founder, alone, .. } => {
                let founding = Configuration::founding(*founder, *alone);
                Some((entry.index, Arc::new(founding)))
            }
            _ => None,
        });
        configurations.last()
    }

    /// A snapshot covers only what is committed (§7), and says what was so there.
    pub fn covered(&self, id: NodeId, meta: &SnapshotMeta) -> Result<(), Wrong> {
        let index = meta.position.index;
        let position = self.entry(index).map(Entry::position);
        let configuration = self.configuration_at(index);
        let said = (meta.configuration_index, meta.configuration.clone());
        if position != Some(meta.position) || configuration.as_ref() != Some(&said) {
            let what = format!(
                "{id} has a snapshot that says {meta:?}, and committed were {position:?} and \
                 {configuration:?}"
            );
            return wrong("state-machine-safety", what);
        }
        Ok(())
    }

    pub fn applied(
        &mut self,
        id: NodeId,
        position: Position,
        command: Option<Bytes>,
        outcome: Outcome,
    ) -> Result<(), Wrong> {
        let index = position.index;
        let committed = self.entry(index).map(Entry::position);
        if committed != Some(position) {
            let what = format!("{id} applies {position:?}, and {committed:?} is committed");
            return wrong("applied-is-committed", what);
        }
        if !self.holds(id, position) {
            let what = format!("{id} applies {position:?}, which is not in its own log");
            return wrong("applied-is-committed", what);
        }
        if outcome.kind == OutcomeKind::AlreadyApplied {
            return Ok(());
        }
        match self.applied.get(&index) {
            Some(known) if known.command != command || known.outcome != outcome => {
                let what = format!(
                    "{id} applies {index} as {command:?} with {outcome:?}; elsewhere it went as {:?} \
                     with {:?}",
                    known.command, known.outcome
                );
                wrong("same-outcome", what)
            }
            Some(_) => Ok(()),
            None => {
                self.applied.insert(index, Applied { command, outcome });
                Ok(())
            }
        }
    }
}
