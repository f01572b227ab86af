//! Breadth first through every state, so that the first way found to a violation is a shortest one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::time::Instant;

use raft_core::{Configuration, Entry, Message, Payload, RoleName, Term};

use super::bounds::{Bounds, MAX_IN_FLIGHT, MAX_NODES, Report, Start, Violation};
use super::history::{Entries, EntryNumber, Facts, History, logs_match};
use super::intern::{Folding, Interner};
use super::node::{Act, Node, log, node_id, number};
use super::state::{Envelope, Left, MAX_FRESH, NONE, State, Step, WRITE, fixed, of};
use super::trace;

/// How a state was first reached.
#[derive(Clone, Copy)]
struct Origin {
    parent: u32,
    at: u8,
    step: Step,
}

/// What a step comes to, in numbers.
struct Local {
    node: u32,
    sent: Vec<u32>,
    read: Option<Option<u64>>,
}

/// A step of a node, or the rule that it breaks alone.
type Computed = Result<Arc<Local>, String>;

pub(super) struct Search {
    bounds: Bounds,
    pub nodes: Interner<Node>,
    facts: Vec<Facts>,
    pub envelopes: Interner<Envelope>,
    entries: Interner<Entry>,
    histories: Interner<History>,
    first_configuration: Arc<Configuration>,
    locals: HashMap<(u32, Step), Computed, BuildHasherDefault<Folding>>,
    matched: HashSet<(u32, u32), BuildHasherDefault<Folding>>,
    states: HashSet<State, BuildHasherDefault<Folding>>,
    origins: Vec<Origin>,
    report: Report,
}

/// Goes through everything within the bounds.
pub(super) fn search(bounds: &Bounds) -> Report {
    let began = Instant::now();
    let mut search = Search::new(bounds.clone());
    let violation = search.run();
    search.report.violation = violation;
    search.report.states = search.states.len();
    search.report.node_states = search.nodes.len();
    search.report.took = began.elapsed();
    search.report
}

impl Search {
    fn new(bounds: Bounds) -> Search {
        assert!(bounds.nodes <= MAX_NODES && bounds.in_flight <= MAX_IN_FLIGHT);
        let report = Report {
            bounds: bounds.clone(),
            states: 0,
            node_states: 0,
            transitions: 0,
            depth: 0,
            exhausted: false,
            beyond: 0,
            overflowed: 0,
            actions: BTreeMap::new(),
            reached: BTreeMap::new(),
            violation: None,
            took: std::time::Duration::ZERO,
        };
        Search {
            first_configuration: Node::first(&bounds)[0].disk.snapshot.configuration.clone(),
            bounds,
            nodes: Interner::new(),
            facts: Vec::new(),
            envelopes: Interner::new(),
            entries: Interner::new(),
            histories: Interner::new(),
            locals: HashMap::default(),
            matched: HashSet::default(),
            states: HashSet::default(),
            origins: Vec::new(),
            report,
        }
    }

    fn first(&mut self) -> State {
        let mut nodes = [NONE; MAX_NODES];
        for (at, node) in Node::first(&self.bounds).into_iter().enumerate() {
            nodes[at] = self.number_node(node);
        }
        let bounds = &self.bounds;
        State {
            nodes,
            fresh: [NONE; MAX_FRESH],
            delayed: [NONE; MAX_IN_FLIGHT],
            history: self.histories.number(History::default()).0,
            left: Left {
                campaigns: bounds.campaigns,
                silences: bounds.silences,
                entries: bounds.entries,
                crashes: bounds.crashes,
                duplicates: bounds.duplicates,
                leaves: bounds.leaves,
                transfers: bounds.transfers,
                reads: bounds.reads,
            },
        }
    }

    fn run(&mut self) -> Option<Violation> {
        let first = self.first();
        let root = Origin {
            parent: 0,
            at: 0,
            step: Step::Timeout,
        };
        self.states.insert(first);
        self.origins.push(root);
        let mut level = vec![(first, 0)];
        while !level.is_empty() {
            let mut next = Vec::new();
            for (state, number) in level {
                for (at, step) in self.steps(&state) {
                    // Where all vote, whoever is the first to do anything may be called node 1.
                    if number == 0 && at > 0 && self.bounds.start == Start::AllVote {
                        continue;
                    }
                    let origin = Origin {
                        parent: number,
                        at: u8::try_from(at).unwrap_or(u8::MAX),
                        step,
                    };
                    if let Err(property) = self.take(&state, origin, &mut next) {
                        return Some(self.violation(property, origin));
                    }
                }
                if self.states.len() >= self.bounds.states {
                    return None;
                }
            }
            self.report.depth += usize::from(!next.is_empty());
            level = next;
        }
        self.report.exhausted = true;
        None
    }

    /// All that can happen in a state.
    fn steps(&self, state: &State) -> Vec<(usize, Step)> {
        let left = &state.left;
        if state.fresh[0] != NONE {
            return self.fates(state);
        }
        let mut steps = Vec::new();
        for at in 0..self.bounds.nodes {
            let facts = &self.facts[state.nodes[at] as usize];
            if facts.retired {
                continue;
            }
            if facts.queued > 0 {
                steps.push((at, Step::Persist { all: false }));
            }
            if facts.queued > 1 {
                steps.push((at, Step::Persist { all: true }));
            }
            if facts.role == RoleName::Leader {
                if self.bounds.heartbeats {
                    steps.push((at, Step::Heartbeat));
                }
                // A disk that does not answer for so long is sick, which is another story (D4).
                if left.silences > 0 && facts.queued == 0 {
                    steps.push((at, Step::Silence));
                }
                if left.entries > 0 {
                    steps.push((at, Step::Put));
                }
                if left.leaves > 0 {
                    let leavers = 0..u8::try_from(self.bounds.nodes).unwrap_or(u8::MAX);
                    steps.extend(leavers.map(|leaver| (at, Step::Leave { leaver })));
                }
                if left.transfers > 0 {
                    steps.push((at, Step::Transfer));
                }
            } else if facts.term < self.bounds.terms && left.campaigns > 0 {
                steps.push((at, Step::Timeout));
            }
            if left.reads > 0 {
                steps.push((at, Step::Read));
            }
            if left.crashes > 0 {
                let parts = 0..=u8::try_from(facts.parts).unwrap_or(u8::MAX);
                steps.extend(parts.map(|parts| (at, Step::Crash { parts })));
            }
        }
        for message in of(&state.delayed) {
            let to = self.envelopes.get(message).to;
            let again = false;
            steps.push((to, Step::Deliver { message, again }));
        }
        steps
    }

    /// What may become of the first of what is new.
    fn fates(&self, state: &State) -> Vec<(usize, Step)> {
        let first = state.fresh[0];
        if first > WRITE - MAX_NODES as u32 {
            let at = (WRITE - first) as usize;
            return vec![(at, Step::Persist { all: true }), (at, Step::Hold)];
        }
        let message = first;
        let to = self.envelopes.get(message).to;
        let mut steps = vec![
            Step::Deliver {
                message,
                again: false,
            },
            Step::Lose { message },
        ];
        let waiting = of(&state.delayed).count();
        if waiting < self.bounds.in_flight && of(&state.delayed).all(|one| one != message) {
            steps.push(Step::Delay { message });
            if state.left.duplicates > 0 {
                steps.push(Step::Deliver {
                    message,
                    again: true,
                });
            }
        }
        steps.into_iter().map(|step| (to, step)).collect()
    }

    /// Takes a step, and notes every state that it may lead to.
    fn take(
        &mut self,
        state: &State,
        origin: Origin,
        next: &mut Vec<(State, u32)>,
    ) -> Result<(), String> {
        let (at, step) = (origin.at as usize, origin.step);
        let (after, sent) = match self.after(state, at, step)? {
            Some(after) => after,
            None => {
                self.report.beyond += 1;
                return Ok(());
            }
        };
        *self.report.actions.entry(step.name()).or_default() += 1;
        let reached = self.with_messages(state, after, step, &sent);
        self.report.transitions += 1;
        if self.states.insert(reached) {
            next.push((
                reached,
                u32::try_from(self.origins.len()).unwrap_or(u32::MAX),
            ));
            self.origins.push(origin);
            self.note(state, &reached);
        }
        Ok(())
    }

    /// The cluster after a step, but for messages, and what was sent. None: beyond the last term.
    fn after(
        &mut self,
        state: &State,
        at: usize,
        step: Step,
    ) -> Result<Option<(State, Arc<Local>)>, String> {
        if matches!(step, Step::Lose { .. } | Step::Delay { .. } | Step::Hold) {
            let nothing = Local {
                node: state.nodes[at],
                sent: Vec::new(),
                read: None,
            };
            return Ok(Some((*state, Arc::new(nothing))));
        }
        let local = self.local(state.nodes[at], step)?;
        let mut after = *state;
        after.nodes[at] = local.node;
        if self.facts[local.node as usize].term > self.bounds.terms {
            return Ok(None);
        }
        let left = &mut after.left;
        match step {
            Step::Deliver { again: true, .. } => left.duplicates -= 1,
            Step::Crash { .. } => left.crashes -= 1,
            Step::Timeout => left.campaigns -= 1,
            Step::Silence => left.silences -= 1,
            Step::Put => left.entries -= 1,
            Step::Leave { .. } => left.leaves -= 1,
            Step::Transfer => left.transfers -= 1,
            Step::Read => left.reads -= 1,
            _ => {}
        }
        let known = self.histories.get(state.history);
        let mut history = History::clone(known);
        if step == Step::Read {
            history.ask(at);
        }
        if let Some(index) = local.read {
            history.answer(at, index)?;
        }
        if matches!(step, Step::Crash { .. }) {
            history.floors[at] = None;
        }
        let facts: Vec<&Facts> = after.nodes[..self.bounds.nodes]
            .iter()
            .map(|node| &self.facts[*node as usize])
            .collect();
        let book = Book {
            entries: &self.entries,
            first: &self.first_configuration,
        };
        history.see(at, &facts, &book)?;
        for (other, node) in after.nodes[..self.bounds.nodes].iter().enumerate() {
            let pair = (local.node.min(*node), local.node.max(*node));
            if other != at && !self.matched.contains(&pair) {
                let (one, other) = (facts[at], facts[other]);
                for one in [&one.log, &one.disk] {
                    logs_match(one, &other.log, &book)?;
                    logs_match(one, &other.disk, &book)?;
                }
                self.matched.insert(pair);
            }
        }
        if history != **known {
            after.history = self.histories.number(history).0;
        }
        Ok(Some((after, local)))
    }

    /// What a node does depends on nothing but itself.
    fn local(&mut self, node: u32, step: Step) -> Computed {
        // Arriving again is arriving.
        let key = match step {
            Step::Deliver { message, .. } => Step::Deliver {
                message,
                again: false,
            },
            other => other,
        };
        if let Some(known) = self.locals.get(&(node, key)) {
            return known.clone();
        }
        let act = self.act(step);
        let result = self
            .nodes
            .get(node)
            .clone()
            .act(&act, &self.bounds)
            .map(|outcome| {
                let from = number(outcome.node.id);
                let sent = outcome.sent.into_iter();
                let sent = sent.map(|(to, message)| {
                    let to = number(to);
                    let envelope = Envelope { from, to, message };
                    self.envelopes.number(envelope).0
                });
                let sent = sent.collect();
                Arc::new(Local {
                    node: self.number_node(outcome.node),
                    sent,
                    read: outcome.read,
                })
            });
        self.locals.insert((node, key), result.clone());
        result
    }

    pub fn act(&self, step: Step) -> Act {
        match step {
            Step::Deliver { message, .. } | Step::Lose { message } | Step::Delay { message } => {
                let envelope = self.envelopes.get(message);
                Act::Deliver {
                    from: node_id(envelope.from),
                    message: envelope.message.clone(),
                }
            }
            Step::Hold => Act::Persist { writes: 0 },
            Step::Persist { all: false } => Act::Persist { writes: 1 },
            Step::Persist { all: true } => Act::Persist { writes: usize::MAX },
            Step::Timeout => Act::Timeout,
            Step::Heartbeat => Act::Heartbeat,
            Step::Silence => Act::Silence,
            Step::Crash { parts } => Act::Crash {
                parts: parts.into(),
            },
            Step::Put => Act::Put,
            Step::Leave { leaver } => Act::Leave {
                leaver: node_id(leaver.into()),
            },
            Step::Transfer => Act::Transfer,
            Step::Read => Act::Read,
        }
    }

    fn number_node(&mut self, node: Node) -> u32 {
        let entries = &mut self.entries;
        let mut numbers = |log: &[Entry]| -> Vec<EntryNumber> {
            log.iter()
                .map(|entry| entries.number(entry.clone()).0)
                .collect()
        };
        let facts = Facts::of(&node, numbers(&log(&node)), numbers(&node.disk.entries));
        let (number, new) = self.nodes.number(node);
        if new {
            self.facts.push(facts);
        }
        number
    }

    /// The messages and writes under way after a step, without those that matter no more.
    fn with_messages(
        &mut self,
        before: &State,
        mut after: State,
        step: Step,
        local: &Local,
    ) -> State {
        let resolves_first = before.fresh[0] != NONE;
        let mut fresh: Vec<u32> = of(&before.fresh).skip(resolves_first.into()).collect();
        let mut delayed: Vec<u32> = of(&before.delayed).collect();
        match step {
            Step::Delay { message }
            | Step::Deliver {
                message,
                again: true,
            } => {
                delayed.push(message);
            }
            Step::Deliver { message, .. } if !resolves_first => {
                delayed.retain(|one| *one != message);
            }
            _ => {}
        }
        for message in &local.sent {
            if !fresh.contains(message) {
                fresh.push(*message);
            }
        }
        for at in 0..self.bounds.nodes {
            let queued = |state: &State| self.facts[state.nodes[at] as usize].queued;
            let write = WRITE - at as u32;
            if queued(&after) > queued(before) && !fresh.contains(&write) {
                fresh.push(write);
            } else if queued(&after) == 0 {
                fresh.retain(|one| *one != write);
            }
        }
        fresh.retain(|one| *one > WRITE - MAX_NODES as u32 || self.may_matter(&after, *one));
        delayed.retain(|one| self.may_matter(&after, *one));
        delayed.sort_unstable();
        self.report.overflowed += fresh.len().saturating_sub(MAX_FRESH) as u64;
        after.fresh = fixed(&fresh);
        after.delayed = fixed(&delayed);
        after
    }

    /// Whether a message can still change anything but tell its sender of a later term. What is decided
    /// in a term on disk is decided: an answer to one who asks no more is not heard.
    fn may_matter(&self, state: &State, message: u32) -> bool {
        let envelope = self.envelopes.get(message);
        let Some(receiver) = state.nodes[..self.bounds.nodes].get(envelope.to) else {
            return false;
        };
        let receiver = &self.facts[*receiver as usize];
        if receiver.retired {
            return false;
        }
        let (term, role) = (receiver.durable_term, receiver.role);
        let said = envelope.message.term();
        match &envelope.message {
            Message::RequestVote(request) if request.pre_vote => said > term,
            Message::RequestVoteReply(reply) if reply.pre_vote => {
                reply.term > term || reply.request_term > term
            }
            Message::RequestVoteReply(reply) => {
                let asks = role == RoleName::Candidate || receiver.term > term;
                reply.term > term || (reply.request_term == term && asks)
            }
            Message::AppendEntriesReply(_) | Message::HeartbeatReply(_) => {
                said > term || (said == term && role == RoleName::Leader)
            }
            Message::HigherTerm { .. } => said > term,
            _ => said >= term,
        }
    }

    /// Counts what a new state has and its parent has not.
    fn note(&mut self, before: &State, after: &State) {
        let mut count = |what: &'static str| *self.report.reached.entry(what).or_default() += 1;
        let pairs = before.nodes.iter().zip(&after.nodes);
        for (old, new) in pairs
            .take(self.bounds.nodes)
            .filter(|(old, new)| old != new)
        {
            let (old, new) = (&self.facts[*old as usize], &self.facts[*new as usize]);
            if old.role != RoleName::Leader && new.role == RoleName::Leader {
                count("elections won");
            }
            if !new.disk.starts_with(&old.disk) {
                count("truncations");
            }
            if new.retired {
                count("nodes retired");
            }
        }
        if before.history == after.history {
            return;
        }
        let old = self.histories.get(before.history);
        let new = self.histories.get(after.history);
        for (entry, _) in new.committed.iter().skip(old.committed.len()) {
            count("commits");
            match &self.entries.get(*entry).payload {
                Payload::Configuration(next) if next.is_joint() => count("joint ones committed"),
                Payload::Configuration(_) => count("configurations committed"),
                _ => {}
            }
        }
        let answered = old.floors.iter().zip(&new.floors);
        if answered
            .into_iter()
            .any(|(old, new)| old.is_some() && new.is_none())
        {
            count("reads answered or lost");
        }
    }

    // ---- the way to a state ----

    fn violation(&mut self, property: String, last: Origin) -> Violation {
        let mut way = vec![last];
        let mut number = last.parent;
        while number != 0 {
            let origin = self.origins[number as usize];
            way.push(origin);
            number = origin.parent;
        }
        let mut trace = Vec::new();
        let mut state = self.first();
        for origin in way.into_iter().rev() {
            let (line, reached) = self.tell(&state, origin);
            trace.push(line);
            state = reached;
        }
        Violation { property, trace }
    }

    /// A step of a trace in words, and where it leads.
    fn tell(&mut self, state: &State, origin: Origin) -> (String, State) {
        let (at, step) = (origin.at as usize, origin.step);
        let told = trace::step(at, step, self);
        let after = self.after(state, at, step);
        let Ok(Some((mut after, local))) = after else {
            return (told, *state);
        };
        after = self.with_messages(state, after, step, &local);
        let sent: Vec<String> = local
            .sent
            .iter()
            .map(|message| trace::envelope(self.envelopes.get(*message)))
            .collect();
        let mut line = told;
        if state.nodes != after.nodes {
            let node = trace::node(self.nodes.get(local.node));
            line.push_str(&format!("\n       {node}"));
        }
        if !sent.is_empty() {
            line.push_str(&format!("\n       sends {}", sent.join("; ")));
        }
        (line, after)
    }
}

/// Entries, and what stands before them.
struct Book<'a> {
    entries: &'a Interner<Entry>,
    first: &'a Configuration,
}

impl Entries for Book<'_> {
    fn term(&self, entry: EntryNumber) -> Term {
        self.entries.get(entry).term
    }
    fn configuration(&self, entry: EntryNumber) -> Option<&Configuration> {
        match &self.entries.get(entry).payload {
            Payload::Configuration(configuration) => Some(configuration),
            _ => None,
        }
    }
    fn first_configuration(&self) -> &Configuration {
        self.first
    }
}
