//! A few cores on a bench, and the post between them in hand: a letter is delivered, lost, kept back
//! or doubled as the story wants it. Every node has a clock of its own, which stands still unless it is
//! moved; every disk is done at once. So a story is told step by step, and nothing happens between
//! its steps. Where time, loss and slow disks matter, there is the [world](crate::world).
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use raft_core::{Effect, Entry, Index, Input, Message, NodeId, Position, RoleName, Term, Time};

use crate::one::{One, node, sent};

/// More deliveries in a row than this are a quarrel that does not end.
const MAX_DELIVERIES: usize = 10_000;

#[derive(Clone, Debug)]
pub struct Letter {
    pub from: u64,
    pub to: u64,
    pub message: Message,
}

pub struct Few {
    pub nodes: BTreeMap<u64, One>,
    /// What is under way, oldest first.
    pub post: VecDeque<Letter>,
    /// All that the nodes did, in order.
    pub effects: Vec<(u64, Effect)>,
    cut: BTreeSet<(u64, u64)>,
}

fn number(id: NodeId) -> u64 {
    u64::try_from(id.0).unwrap()
}

impl Few {
    /// Nodes 1, 2, ... are the voters, with logs of these terms. The first entry is the configuration.
    pub fn new(logs: &[&[Term]]) -> Few {
        let numbers: Vec<u64> = (1..=logs.len() as u64).collect();
        let nodes = numbers.iter().zip(logs);
        Few::of(nodes.map(|(id, terms)| One::new(*id, &numbers, terms)))
    }

    pub fn of(ones: impl IntoIterator<Item = One>) -> Few {
        let nodes = ones.into_iter().map(|one| (number(one.raft.id()), one));
        Few {
            nodes: nodes.collect(),
            post: VecDeque::new(),
            effects: Vec::new(),
            cut: BTreeSet::new(),
        }
    }

    /// `count` voters with the same log of one entry, of which 1 leads; its no-op is committed.
    pub fn led_by_1(count: usize) -> Few {
        let mut few = Few::new(&vec![&[1][..]; count]);
        assert!(few.campaign(1));
        few.effects.clear();
        few
    }

    pub fn one(&mut self, id: u64) -> &mut One {
        self.nodes.get_mut(&id).unwrap()
    }

    // ---- what is done ----

    /// An input and what is written for it. Its letters are in the post then.
    pub fn input(&mut self, id: u64, input: Input) {
        let effects = self.one(id).settle(input);
        self.collect(id, effects);
    }

    pub fn collect(&mut self, id: u64, effects: Vec<Effect>) {
        for (to, message) in sent(&effects) {
            let (from, to) = (id, number(to));
            self.post.push_back(Letter { from, to, message });
        }
        self.effects
            .extend(effects.into_iter().map(|effect| (id, effect)));
    }

    /// The post is delivered, and what is written in answer to it, until nothing is under way.
    pub fn deliver(&mut self) {
        for _ in 0..MAX_DELIVERIES {
            let Some(letter) = self.post.pop_front() else {
                return;
            };
            self.hand_over(letter);
        }
        panic!("the post does not come to rest");
    }

    /// One letter reaches its node, unless the link is cut.
    pub fn hand_over(&mut self, Letter { from, to, message }: Letter) {
        if self.cut.contains(&(from, to)) || !self.nodes.contains_key(&to) {
            return;
        }
        let from = node(from);
        self.input(to, Input::Message { from, message });
    }

    /// Takes those letters out of the post.
    pub fn keep_back(&mut self, which: impl Fn(&Letter) -> bool) -> Vec<Letter> {
        let (kept, post): (Vec<_>, Vec<_>) = self.post.drain(..).partition(which);
        self.post = post.into();
        kept
    }

    /// A client's entry at `id`; it is on its way to the others, and not delivered.
    pub fn put(&mut self, id: u64, text: &str) -> Index {
        let effects = self.one(id).put(text);
        self.collect(id, effects);
        self.one(id).raft.last().index
    }

    /// A client's entry, and all that comes of it.
    pub fn put_and_deliver(&mut self, id: u64, text: &str) -> Index {
        let index = self.put(id, text);
        self.deliver();
        index
    }

    /// The clock of `id` runs until it campaigns. Nobody else hears a leader any more by then, and
    /// nobody else's time is up. Whether it leads when the post is delivered.
    pub fn campaign(&mut self, id: u64) -> bool {
        for (_, other) in self.nodes.iter_mut().filter(|(other, _)| **other != id) {
            let patience = other.now + other.options.elect_timeout_min;
            let in_time = Time(other.raft.next_deadline().0 - 1);
            other.now = other.now.max(patience.min(in_time));
        }
        let effects = self.one(id).wait_for_campaign();
        self.collect(id, effects);
        self.deliver();
        self.leads(id)
    }

    /// The next heartbeat of `id`, and all that comes of it.
    pub fn heartbeat(&mut self, id: u64) {
        let interval = self.one(id).options.heartbeat_interval;
        let effects = self.one(id).wait(interval);
        self.collect(id, effects);
        self.deliver();
    }

    // ---- faults ----

    pub fn cut(&mut self, a: u64, b: u64) {
        self.cut.extend([(a, b), (b, a)]);
    }

    /// Nothing passes between these and the others.
    pub fn part(&mut self, side: &[u64]) {
        let all: Vec<u64> = self.nodes.keys().copied().collect();
        for a in side {
            for b in all.iter().filter(|b| !side.contains(b)) {
                self.cut(*a, *b);
            }
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// Kill -9, and a start from what the disk has.
    pub fn crash(&mut self, id: u64) {
        let one = self.nodes.remove(&id).unwrap();
        self.nodes.insert(id, one.crash());
    }

    // ---- what is seen ----

    pub fn role(&self, id: u64) -> RoleName {
        self.nodes[&id].raft.role()
    }

    pub fn leads(&self, id: u64) -> bool {
        self.role(id) == RoleName::Leader
    }

    pub fn term(&self, id: u64) -> Term {
        self.nodes[&id].raft.term()
    }

    pub fn commit_index(&self, id: u64) -> Index {
        self.nodes[&id].raft.commit_index()
    }

    pub fn terms(&self, id: u64) -> Vec<Term> {
        self.nodes[&id].terms()
    }

    /// The log on its disk.
    pub fn log(&self, id: u64) -> &[Entry] {
        &self.nodes[&id].log
    }

    pub fn last(&self, id: u64) -> Position {
        self.nodes[&id].raft.last()
    }
}
