//! What an onlooker remembers, and the properties of figure 3, each as it is defined there.

use std::collections::BTreeMap;

use raft_core::{Configuration, Index, NodeId, RoleName, Term};

use super::bounds::MAX_NODES;
use super::node::{Node, number};

/// An entry's number.
pub(super) type EntryNumber = u32;

/// What a node is seen to be, with its logs as entries' numbers.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub retired: bool,
    pub role: RoleName,
    pub term: Term,
    pub durable_term: Term,
    /// So many entries of the log are known to be committed.
    pub committed: usize,
    pub log: Vec<EntryNumber>,
    pub disk: Vec<EntryNumber>,
    pub queued: usize,
    pub parts: usize,
}

impl Facts {
    pub fn of(node: &Node, log: Vec<EntryNumber>, disk: Vec<EntryNumber>) -> Facts {
        let base = node.disk.snapshot.position.index;
        let commit = node.raft.commit_index();
        Facts {
            retired: node.retired,
            role: node.raft.role(),
            term: node.raft.term(),
            durable_term: node.disk.hard_state.current_term,
            committed: usize::try_from(commit.saturating_sub(base)).unwrap_or(usize::MAX),
            log,
            disk,
            queued: node.disk.queue.len(),
            parts: node.disk.parts(),
        }
    }
}

/// What happened, as far as a property rests on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct History {
    /// Who led, in the terms in which somebody may lead yet.
    pub leaders: BTreeMap<Term, usize>,
    /// Every entry that any node took for committed, and the term in which it did. 0: before every
    /// term in which somebody may lead yet.
    pub committed: Vec<(EntryNumber, Term)>,
    /// Of a node's read: so many entries were committed when it was asked for.
    pub floors: [Option<usize>; MAX_NODES],
}

/// What is known of entries.
pub(super) trait Entries {
    fn term(&self, entry: EntryNumber) -> Term;
    fn configuration(&self, entry: EntryNumber) -> Option<&Configuration>;
    fn first_configuration(&self) -> &Configuration;
}

impl History {
    /// Looks at node `at` after a step.
    ///
    /// # Errors
    /// The property that does not hold any more.
    pub fn see(
        &mut self,
        at: usize,
        nodes: &[&Facts],
        entries: &impl Entries,
    ) -> Result<(), String> {
        let node = nodes[at];
        if node.role == RoleName::Leader {
            let leader = *self.leaders.entry(node.term).or_insert(at);
            if leader != at {
                let term = node.term;
                return Err(format!(
                    "election safety: nodes {} and {} both led term {term}",
                    leader + 1,
                    at + 1
                ));
            }
            for (place, (entry, term)) in self.committed.iter().enumerate() {
                if *term < node.term && node.log.get(place) != Some(entry) {
                    return Err(format!(
                        "leader completeness: node {} leads term {} without the entry {} that was committed in term {term}",
                        at + 1,
                        node.term,
                        place + 2
                    ));
                }
            }
        }
        for place in 0..node.committed {
            let Some(entry) = node.log.get(place).copied() else {
                return Err(format!("node {} takes for committed what it lacks", at + 1));
            };
            match self.committed.get(place) {
                Some((known, _)) if *known == entry => {}
                Some(_) => {
                    return Err(format!(
                        "state machine safety: node {} has another entry {} than was committed",
                        at + 1,
                        place + 2
                    ));
                }
                None => self.committed.push((entry, node.term)),
            }
        }
        self.is_durable(nodes, entries)?;
        let still = nodes.iter().filter(|node| !node.retired);
        let lowest = still.map(|node| node.durable_term).min().unwrap_or(0);
        self.leaders.retain(|term, _| *term >= lowest);
        for (_, term) in &mut self.committed {
            if *term < lowest {
                *term = 0;
            }
        }
        Ok(())
    }

    /// What is committed is on the disks of a majority of the voters, counted out, one by one: of both
    /// halves while the configuration is joint.
    fn is_durable(&self, nodes: &[&Facts], entries: &impl Entries) -> Result<(), String> {
        let mut newest = self.committed.iter().rev();
        let configuration = newest
            .find_map(|(entry, _)| entries.configuration(*entry))
            .unwrap_or_else(|| entries.first_configuration());
        for (place, (entry, _)) in self.committed.iter().enumerate() {
            let holds = |node: &NodeId| {
                nodes
                    .get(number(*node))
                    .is_some_and(|node| node.disk.get(place) == Some(entry))
            };
            for voters in [&configuration.voters, &configuration.outgoing] {
                let holders = voters.iter().filter(|voter| holds(voter)).count();
                if !voters.is_empty() && holders * 2 <= voters.len() {
                    return Err(format!(
                        "durability: the committed entry {} is on {holders} disks of {} voters",
                        place + 2,
                        voters.len()
                    ));
                }
            }
        }
        Ok(())
    }

    /// A read is asked for.
    pub fn ask(&mut self, at: usize) {
        self.floors[at] = Some(self.committed.len());
    }

    /// A node's read is answered, or is lost.
    ///
    /// # Errors
    /// It may miss what was acknowledged before it was asked for.
    pub fn answer(&mut self, at: usize, index: Option<Index>) -> Result<(), String> {
        let floor = self.floors[at].take().unwrap_or(0) as Index + 1;
        match index {
            Some(index) if index < floor => Err(format!(
                "linearizable reads: node {} reads as of {index}, and {floor} was committed when it was asked",
                at + 1
            )),
            _ => Ok(()),
        }
    }
}

/// Log matching (§5.3): where two logs hold an entry of the same index and term, they are the same up to
/// there.
///
/// # Errors
/// The property does not hold.
pub(super) fn logs_match(
    one: &[EntryNumber],
    other: &[EntryNumber],
    entries: &impl Entries,
) -> Result<(), String> {
    let mut both = one.iter().zip(other);
    let same_term = both.rposition(|(a, b)| entries.term(*a) == entries.term(*b));
    match same_term {
        Some(last) if one[..=last] != other[..=last] => Err(format!(
            "log matching: two logs agree in the term of entry {}, and not up to there",
            last + 2
        )),
        _ => Ok(()),
    }
}
