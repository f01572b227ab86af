//! How far an exploration goes, and what it found.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use raft_core::Term;

/// Most nodes of an exploration.
pub const MAX_NODES: usize = 4;

/// Most messages that may be delayed at once.
pub const MAX_IN_FLIGHT: usize = 4;

/// Who votes at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Every node.
    AllVote,
    /// Node 1 alone; the others learn, and are promoted in pairs as soon as they have kept up.
    OneVotes,
}

/// How far to go. What the budgets allow is tried in every order and at every moment.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// For people.
    pub name: &'static str,
    /// Nodes, at most [`MAX_NODES`].
    pub nodes: usize,
    /// Who votes at first.
    pub start: Start,
    /// Nobody goes beyond this term. All begin in term 1, in which nobody ever led.
    pub terms: Term,
    /// How often anyone misses its leader, in all.
    pub campaigns: u8,
    /// How often a leader has heard of nobody for too long, in all.
    pub silences: u8,
    /// Entries that clients bring, in all.
    pub entries: u8,
    /// Crashes, in all; after each of them any part of what was being written is on the disk.
    pub crashes: u8,
    /// Messages that arrive a second time, in all.
    pub duplicates: u8,
    /// Messages that may be delayed at once, at most [`MAX_IN_FLIGHT`]. The others arrive in the order in
    /// which they were sent, or are lost.
    pub in_flight: usize,
    /// Nodes that ask to leave for good, in all.
    pub leaves: u8,
    /// Hand-overs of leadership, in all.
    pub transfers: u8,
    /// Linearizable reads, in all; on any node.
    pub reads: u8,
    /// Pre-votes are asked for and answered. Otherwise everyone grants them without being asked, so
    /// that whoever misses its leader campaigns: more than can happen.
    pub pre_votes: bool,
    /// Heartbeats and their answers arrive. Otherwise all of them are lost: less than can happen.
    pub heartbeats: bool,
    /// Disks complete every write at once: less than can happen.
    pub disks_at_once: bool,
    /// Stops at so many distinct states.
    pub states: usize,
}

impl Bounds {
    /// Elections as they are: pre-votes, votes, what candidates and voters write, and a crash in the
    /// middle of it.
    pub fn elections() -> Bounds {
        Bounds {
            name: "elections",
            nodes: 3,
            start: Start::AllVote,
            terms: 3,
            campaigns: 2,
            silences: 0,
            entries: 0,
            crashes: 1,
            duplicates: 0,
            in_flight: 0,
            leaves: 0,
            transfers: 0,
            reads: 0,
            pre_votes: true,
            heartbeats: false,
            disks_at_once: false,
            states: usize::MAX,
        }
    }

    /// Leaders that follow each other, each with an entry of its own that it may or may not get to the
    /// others: the paper's figure 8.
    pub fn figure_8() -> Bounds {
        Bounds {
            name: "figure-8",
            terms: 5,
            campaigns: 4,
            silences: 2,
            crashes: 0,
            pre_votes: false,
            disks_at_once: true,
            ..Bounds::elections()
        }
    }

    /// Messages that come late, in another order, and twice.
    pub fn delays() -> Bounds {
        Bounds {
            name: "delays",
            silences: 0,
            terms: 3,
            campaigns: 2,
            duplicates: 1,
            in_flight: 2,
            ..Bounds::figure_8()
        }
    }

    /// An entry from a client, slow disks, and a crash in the middle of a write.
    pub fn replication() -> Bounds {
        Bounds {
            name: "replication",
            entries: 1,
            pre_votes: false,
            ..Bounds::elections()
        }
    }

    /// Three voters, one of which asks to leave: by a joint change one of the others becomes a learner
    /// as well, so that one node decides alone where two did.
    pub fn shrinking() -> Bounds {
        Bounds {
            name: "shrinking",
            silences: 0,
            terms: 3,
            leaves: 1,
            ..Bounds::figure_8()
        }
    }

    /// One voter and two learners, who become voters by a joint change.
    pub fn growing() -> Bounds {
        Bounds {
            name: "growing",
            silences: 1,
            start: Start::OneVotes,
            terms: 3,
            campaigns: 2,
            heartbeats: true,
            ..Bounds::figure_8()
        }
    }

    /// A read, on any node, beside changing leaders.
    pub fn reading() -> Bounds {
        Bounds {
            name: "reading",
            reads: 1,
            ..Bounds::growing().with_start(Start::AllVote)
        }
    }

    /// A leader that hands over, and messages that come late.
    pub fn handing_over() -> Bounds {
        Bounds {
            name: "handing-over",
            transfers: 1,
            duplicates: 0,
            in_flight: 1,
            ..Bounds::delays()
        }
    }

    /// All of them.
    pub fn all() -> Vec<Bounds> {
        vec![
            Bounds::elections(),
            Bounds::figure_8(),
            Bounds::delays(),
            Bounds::replication(),
            Bounds::shrinking(),
            Bounds::growing(),
            Bounds::reading(),
            Bounds::handing_over(),
        ]
    }

    fn with_start(self, start: Start) -> Bounds {
        Bounds { start, ..self }
    }

    /// The same, but for one of the numbers, by its name.
    ///
    /// # Errors
    /// A sentence: there is no such name, or it is no such number.
    pub fn with(mut self, name: &str, value: &str) -> Result<Bounds, String> {
        let number: usize = value
            .parse()
            .map_err(|_| format!("{name} takes a number, and {value:?} is none"))?;
        let small = u8::try_from(number).map_err(|_| format!("{name} goes to {}", u8::MAX))?;
        match name {
            "nodes" if (1..=MAX_NODES).contains(&number) => self.nodes = number,
            "terms" => self.terms = small.into(),
            "campaigns" => self.campaigns = small,
            "silences" => self.silences = small,
            "entries" => self.entries = small,
            "crashes" => self.crashes = small,
            "duplicates" => self.duplicates = small,
            "in-flight" if number <= MAX_IN_FLIGHT => self.in_flight = number,
            "leaves" => self.leaves = small,
            "transfers" => self.transfers = small,
            "reads" => self.reads = small,
            "pre-votes" => self.pre_votes = number > 0,
            "heartbeats" => self.heartbeats = number > 0,
            "disks-at-once" => self.disks_at_once = number > 0,
            _ => return Err(format!("{name}={value} is no bound")),
        }
        Ok(self)
    }

    /// The same, but for the number of states.
    pub fn with_states(self, states: usize) -> Bounds {
        Bounds { states, ..self }
    }
}

/// What an exploration found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Where it was to stop.
    pub bounds: Bounds,
    /// Distinct states of the cluster.
    pub states: usize,
    /// Distinct states of one node with its disk.
    pub node_states: usize,
    /// Steps from a state to another, or to one that was known.
    pub transitions: u64,
    /// Steps of the longest shortest way to a state.
    pub depth: usize,
    /// There is no state within the bounds that was not seen.
    pub exhausted: bool,
    /// Steps that led beyond the last term, and were not taken.
    pub beyond: u64,
    /// Messages that were lost because more were new at once than there is room for.
    pub overflowed: u64,
    /// How often what was done.
    pub actions: BTreeMap<&'static str, u64>,
    /// What was reached, and how often: a bound in which nothing happens proves nothing.
    pub reached: BTreeMap<&'static str, u64>,
    /// What broke, if anything did.
    pub violation: Option<Violation>,
    /// How long it took.
    pub took: Duration,
}

/// A property that did not hold, and the shortest way there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which property.
    pub property: String,
    /// Every step, for people to read; the last one breaks the property.
    pub trace: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bounds = &self.bounds;
        let seconds = self.took.as_secs_f64();
        #[allow(clippy::cast_precision_loss)]
        let speed = self.states as f64 / seconds.max(1e-9);
        let end = if self.exhausted {
            "the space is exhausted"
        } else if self.violation.is_some() {
            "a property is broken"
        } else {
            "there are more"
        };
        writeln!(
            f,
            "{}: {} states ({end}), depth {}, {} transitions, {} states of one node; {seconds:.1} s, {speed:.0} states/s",
            bounds.name, self.states, self.depth, self.transitions, self.node_states
        )?;
        writeln!(
            f,
            "  bounds: {} nodes, {:?}, terms to {}, {} campaigns, {} silences, {} in flight; entries {}, crashes {}, duplicates {}, leaves {}, hand-overs {}, reads {}; {} steps beyond the last term, {} messages too many",
            bounds.nodes,
            bounds.start,
            bounds.terms,
            bounds.campaigns,
            bounds.silences,
            bounds.in_flight,
            bounds.entries,
            bounds.crashes,
            bounds.duplicates,
            bounds.leaves,
            bounds.transfers,
            bounds.reads,
            self.beyond,
            self.overflowed
        )?;
        for (what, counts) in [("actions", &self.actions), ("reached", &self.reached)] {
            let counts: Vec<_> = counts
                .iter()
                .map(|(name, n)| format!("{name} {n}"))
                .collect();
            writeln!(f, "  {what}: {}", counts.join(", "))?;
        }
        if let Some(violation) = &self.violation {
            writeln!(f, "  BROKEN: {}", violation.property)?;
            for (number, step) in (1..).zip(&violation.trace) {
                writeln!(f, "  {number:3}. {step}")?;
            }
        }
        Ok(())
    }
}
