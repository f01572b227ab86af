//! A small deterministic world for whole clusters of cores: a clock, a lossy network, disks that
//! lose what was not synced, and the checks that hold after every single step.
//!
//! One seed decides everything. A failing test prints it, and the same seed fails again.
#![allow(dead_code)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_core::{
    ClusterId, Command, Effect, Entry, Event, HardState, Index, Input, MemberHint, Message, NodeId,
    Options, Payload, Persisted, Position, Proposal, Raft, Recovered, Refusal, RoleName,
    SnapshotMeta, Term, Time, Write,
};

use crate::recovered::recovered;

pub const CLUSTER: ClusterId = ClusterId(0xc1);

/// SplitMix64, so that the world needs nothing from outside.
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What survives a crash, and what was handed over and is not synced yet.
#[derive(Clone, Default)]
pub struct Disk {
    hard_state: HardState,
    /// Contiguous behind the base.
    entries: Vec<Entry>,
    base: Position,
    pub snapshot: Option<Arc<SnapshotMeta>>,
    last: (u64, u64),
    queue: VecDeque<Write>,
    pub stalled: bool,
}

impl Disk {
    fn apply(&mut self, write: Write) {
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(snapshot) = write.install {
            let held = self.snapshot.as_ref().map(|held| held.position.index);
            assert!(
                held >= Some(snapshot.position.index),
                "it holds no such snapshot"
            );
            self.reset(snapshot.position);
        }
        if let Some(from) = write.truncate_from {
            assert!(from > self.base.index, "a truncation below the base");
            self.entries.retain(|entry| entry.index < from);
        }
        for entry in write.entries {
            assert_eq!(
                entry.index,
                self.position().index + 1,
                "the disk's log has no gaps"
            );
            self.entries.push(entry);
        }
        if let Some(to) = write.compact_to {
            let held = self.snapshot.as_ref().map(|held| held.position.index);
            // S4: only up to a complete snapshot that this node holds.
            assert!(held >= Some(to), "the log is cut off beyond its snapshot");
            if let Some(entry) = self.entry(to) {
                self.base = entry.position();
                self.entries.retain(|entry| entry.index > to);
            }
        }
        self.last = (write.sequence, write.generation);
    }

    fn reset(&mut self, base: Position) {
        self.base = base;
        self.entries.clear();
    }

    fn entry(&self, index: Index) -> Option<&Entry> {
        let at = index.checked_sub(self.base.index + 1)?;
        self.entries.get(usize::try_from(at).unwrap())
    }

    fn position(&self) -> Position {
        self.entries.last().map_or(self.base, Entry::position)
    }

    /// What a start finds. A snapshot that the log does not reach, or contradicts, was received just
    /// before the crash: the log gives way to it.
    fn recover(&mut self) -> Recovered {
        if let Some(position) = self.snapshot.as_ref().map(|snapshot| snapshot.position) {
            let held = self.entry(position.index).map(Entry::position);
            if self.base != position && self.base.index <= position.index && held != Some(position)
            {
                self.reset(position);
            }
            assert!(
                self.base.index <= position.index,
                "the log begins beyond its snapshot"
            );
        }
        let snapshot = self.snapshot.clone();
        let mut recovered = recovered(self.hard_state.clone(), self.base, snapshot, &self.entries);
        recovered.tail = self.entries.iter().rev().take(20).rev().cloned().collect();
        recovered
    }
}

pub struct Node {
    pub raft: Option<Raft>,
    pub disk: Disk,
    pub boot: u64,
    pub paused: bool,
    pub committed: Index,
    pub applied: Vec<Entry>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Deliver {
        from: NodeId,
        to: NodeId,
        key: u64,
    },
    DiskDone {
        node: NodeId,
        boot: u64,
    },
    Ended {
        at: NodeId,
        peer: NodeId,
    },
    Connected {
        at: NodeId,
        peer: NodeId,
        boot: u64,
    },
    Probed {
        at: NodeId,
        peer: NodeId,
        boot: u64,
        term: Term,
    },
    Pulled {
        at: NodeId,
        boot: u64,
        from: NodeId,
        index: Index,
    },
}

#[derive(Clone, Debug, Default)]
pub struct Answers {
    pub accepted: BTreeMap<u64, Position>,
    pub refused: BTreeMap<u64, Refusal>,
    /// Acknowledged: committed and applied at the accepted position on the node that took it.
    pub acknowledged: BTreeMap<u64, Position>,
    pub reads: BTreeMap<u64, Index>,
    pub reads_failed: BTreeMap<u64, Refusal>,
    pub leaves: BTreeMap<u64, (bool, String)>,
}

pub struct World {
    pub now: Time,
    pub dice: Dice,
    pub nodes: BTreeMap<NodeId, Node>,
    pub options: Options,
    pub cut: BTreeSet<(NodeId, NodeId)>,
    pub loss_percent: u64,
    pub duplicate_percent: u64,
    pub delay_us: (u64, u64),
    pub sync_us: (u64, u64),
    pub answers: Answers,
    pub events: Vec<(Time, NodeId, Event)>,
    pub rolled_back: Vec<(NodeId, NodeId)>,
    pub retired: BTreeSet<NodeId>,
    /// Snapshots that a log gave way to, and that were complete though nobody wanted them any more.
    pub installed: usize,
    pub received: usize,
    /// Messages that were sent, and the bytes of entries in them.
    pub sent: usize,
    pub sent_bytes: usize,
    /// What a message needs on top of the usual time.
    pub detour: fn(NodeId, NodeId, &Message) -> Duration,
    queue: BinaryHeap<Reverse<(Time, u64, What)>>,
    messages: BTreeMap<u64, Message>,
    next: u64,
    next_request: u64,
    /// Who waits: (node, request) for an accepted proposal.
    waiting: BTreeMap<u64, NodeId>,
    // ---- memory of the checks ----
    leaders: BTreeMap<Term, NodeId>,
    votes: BTreeMap<(NodeId, Term), NodeId>,
    pub committed: BTreeMap<Index, Entry>,
    /// For each read: the highest index acknowledged before it began.
    read_floor: BTreeMap<u64, Index>,
}

pub fn node(number: u64) -> NodeId {
    NodeId(u128::from(number))
}

impl World {
    pub fn new(seed: u64, count: u64) -> World {
        World::with_options(seed, count, Options::default())
    }

    pub fn with_options(seed: u64, count: u64, options: Options) -> World {
        let mut world = World {
            now: Time(1_000_000),
            dice: Dice(seed),
            nodes: BTreeMap::new(),
            options,
            cut: BTreeSet::new(),
            loss_percent: 0,
            duplicate_percent: 0,
            delay_us: (50, 500),
            sync_us: (100, 800),
            answers: Answers::default(),
            events: Vec::new(),
            rolled_back: Vec::new(),
            retired: BTreeSet::new(),
            installed: 0,
            received: 0,
            sent: 0,
            sent_bytes: 0,
            detour: |_, _, _| Duration::ZERO,
            queue: BinaryHeap::new(),
            messages: BTreeMap::new(),
            next: 0,
            next_request: 0,
            waiting: BTreeMap::new(),
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            committed: BTreeMap::new(),
            read_floor: BTreeMap::new(),
        };
        for number in 1..=count {
            world.add(node(number));
        }
        world
    }

    pub fn add(&mut self, id: NodeId) {
        let fresh = Node {
            raft: None,
            disk: Disk::default(),
            boot: 0,
            paused: false,
            committed: 0,
            applied: Vec::new(),
        };
        self.nodes.insert(id, fresh);
        self.start(id);
    }

    /// A cluster of `count` voters (odd), founded by node 1, with a leader.
    pub fn cluster(seed: u64, count: u64) -> World {
        World::cluster_with(seed, count, Options::default())
    }

    pub fn cluster_with(seed: u64, count: u64, options: Options) -> World {
        let mut world = World::with_options(seed, count, options);
        world.found(node(1));
        world.tell_members();
        let voters = ((count - 1 + count % 2) as usize).min(world.options.voters);
        assert!(
            world.run_until(Duration::from_secs(20), |w| w.leader().is_some_and(
                |leader| {
                    let configuration = w.raft(leader).committed_configuration().1;
                    configuration.voters.len() == voters && !configuration.is_joint()
                }
            )),
            "seed {seed}: {count} nodes did not become {voters} voters"
        );
        world
    }

    pub fn found(&mut self, id: NodeId) {
        self.input(
            id,
            Input::Found {
                cluster_id: CLUSTER,
                alone: false,
            },
        );
    }

    pub fn tell_members(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in &ids {
            let hint = |n: &NodeId| MemberHint {
                node: *n,
                joinable: self.nodes[n].raft.is_some() && !self.retired.contains(n),
            };
            let hints = ids.iter().map(hint).collect();
            self.input(*id, Input::Members(hints));
        }
    }

    pub fn raft(&self, id: NodeId) -> &Raft {
        self.nodes[&id].raft.as_ref().unwrap()
    }

    /// The leader of the highest term among those that run.
    pub fn leader(&self) -> Option<NodeId> {
        self.nodes
            .iter()
            .filter(|(_, n)| !n.paused)
            .filter_map(|(id, n)| n.raft.as_ref().map(|raft| (raft, *id)))
            .filter(|(raft, _)| raft.role() == RoleName::Leader)
            .max_by_key(|(raft, _)| raft.term())
            .map(|(_, id)| id)
    }

    // ---- clients ----

    pub fn put(&mut self, id: NodeId, text: &str) -> u64 {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        self.put_payload(
            id,
            Payload::Command(Command {
                session: 0,
                sequence: 0,
                acked_below: 0,
                bytes,
            }),
        )
    }

    /// Somebody leads, takes this, and it is acknowledged: where it stands.
    pub fn write(&mut self, text: &str) -> Position {
        for _ in 0..100 {
            let leads = self.run_until(Duration::from_secs(10), |w| w.leader().is_some());
            assert!(leads, "nobody leads");
            let request = self.put(self.leader().unwrap(), text);
            let patience = Duration::from_millis(500);
            if self.run_until(patience, |w| w.answers.acknowledged.contains_key(&request)) {
                return self.answers.acknowledged[&request];
            }
        }
        panic!("{text} is not acknowledged");
    }

    pub fn put_payload(&mut self, id: NodeId, payload: Payload) -> u64 {
        self.next_request += 1;
        let request = self.next_request;
        self.waiting.insert(request, id);
        self.input(id, Input::PutEntries(vec![Proposal { request, payload }]));
        request
    }

    pub fn read(&mut self, id: NodeId, patience: Duration) -> u64 {
        self.next_request += 1;
        let request = self.next_request;
        let floor = self
            .answers
            .acknowledged
            .values()
            .map(|p| p.index)
            .max()
            .unwrap_or(0);
        self.read_floor.insert(request, floor);
        let deadline = self.now + patience;
        self.input(id, Input::ReadIndex { request, deadline });
        request
    }

    pub fn leave(&mut self, leader: NodeId, leaver: NodeId) -> u64 {
        self.next_request += 1;
        let request = self.next_request;
        self.input(
            leader,
            Input::Leave {
                request,
                node: leaver,
            },
        );
        request
    }

    // ---- snapshots ----

    /// The node's snapshot as of what it has applied, complete and durable; the log may keep `kept`
    /// entries behind it.
    pub fn take_snapshot(&mut self, id: NodeId, kept: u64) {
        let n = self.nodes.get_mut(&id).unwrap();
        let Some(raft) = &n.raft else { return };
        let known = n
            .disk
            .snapshot
            .as_ref()
            .map_or(0, |known| known.position.index);
        let index = n.committed;
        if index <= known {
            return;
        }
        let log_time_ms = n.disk.entry(index).map_or(0, |entry| entry.log_time_ms);
        let snapshot = Arc::new(raft.snapshot_meta(index, log_time_ms).unwrap());
        n.disk.snapshot = Some(snapshot.clone());
        let keep_from = (index + 1).saturating_sub(kept);
        self.input(
            id,
            Input::SnapshotTaken {
                snapshot,
                keep_from,
            },
        );
    }

    fn pulled(&mut self, at: NodeId, boot: u64, from: NodeId, index: Index) {
        if self.cut.contains(&(from, at)) || self.cut.contains(&(at, from)) {
            return;
        }
        let Some(snapshot) = self.nodes[&from].disk.snapshot.clone() else {
            return;
        };
        let gone = snapshot.position.index != index || self.nodes[&from].raft.is_none();
        let n = self.nodes.get_mut(&at).unwrap();
        if gone || n.boot != boot || n.raft.is_none() {
            return;
        }
        let known = n
            .disk
            .snapshot
            .as_ref()
            .map_or(0, |known| known.position.index);
        if snapshot.position.index > known {
            n.disk.snapshot = Some(snapshot.clone());
        }
        self.received += 1;
        self.input(at, Input::SnapshotReceived { snapshot });
    }

    // ---- faults ----

    /// kill -9: the process is gone, and with it all that was not synced. A whole prefix of the
    /// queued writes may have reached the disk without anyone having been told.
    pub fn kill(&mut self, id: NodeId) {
        let reached = self.dice.below(3);
        let n = self.nodes.get_mut(&id).unwrap();
        n.raft = None;
        n.paused = false;
        for _ in 0..reached {
            if let Some(write) = n.disk.queue.pop_front() {
                n.disk.apply(write);
            }
        }
        n.disk.queue.clear();
        let others: Vec<NodeId> = self.nodes.keys().copied().filter(|o| *o != id).collect();
        for at in others {
            if !self.cut.contains(&(id, at)) {
                let when = self.now + Duration::from_micros(200 + self.dice.below(800));
                self.schedule(when, What::Ended { at, peer: id });
            }
        }
    }

    pub fn start(&mut self, id: NodeId) {
        let seed = self.dice.next();
        let (now, options) = (self.now, self.options.clone());
        let n = self.nodes.get_mut(&id).unwrap();
        n.boot += 1;
        n.committed = 0;
        n.applied.clear();
        n.disk.last = (0, 0);
        // What is not applied above the snapshot comes from the log; below, from the snapshot.
        n.committed = n
            .disk
            .snapshot
            .as_ref()
            .map_or(0, |snapshot| snapshot.position.index);
        n.raft = Some(Raft::new(id, n.boot, options, n.disk.recover(), now, seed));
        let boot = n.boot;
        let others: Vec<NodeId> = self.nodes.keys().copied().filter(|o| *o != id).collect();
        for other in others {
            let when = self.now + Duration::from_micros(500 + self.dice.below(2_000));
            self.schedule(
                when,
                What::Connected {
                    at: other,
                    peer: id,
                    boot,
                },
            );
            let when = self.now + Duration::from_micros(500 + self.dice.below(2_000));
            self.schedule(
                when,
                What::Connected {
                    at: id,
                    peer: other,
                    boot,
                },
            );
        }
    }

    pub fn restart(&mut self, id: NodeId) {
        self.kill(id);
        self.start(id);
    }

    /// The disk is exchanged for an older copy of itself.
    pub fn roll_back(&mut self, id: NodeId, copy: Disk) {
        self.kill(id);
        self.nodes.get_mut(&id).unwrap().disk = copy;
    }

    /// Cuts every link between the two sides.
    pub fn partition(&mut self, side: &[NodeId]) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for a in &ids {
            for b in &ids {
                if side.contains(a) != side.contains(b) {
                    self.cut.insert((*a, *b));
                }
            }
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    // ---- time ----

    fn schedule(&mut self, at: Time, what: What) {
        self.next += 1;
        self.queue.push(Reverse((at, self.next, what)));
    }

    pub fn run_for(&mut self, duration: Duration) {
        self.run_until(duration, |_| false);
    }

    /// Runs until the condition holds, or the duration is over. Whether it held.
    pub fn run_until(&mut self, patience: Duration, done: impl Fn(&World) -> bool) -> bool {
        let end = self.now + patience;
        loop {
            if done(self) {
                return true;
            }
            let timer = self
                .nodes
                .iter()
                .filter(|(_, n)| !n.paused)
                .filter_map(|(id, n)| n.raft.as_ref().map(|raft| (raft.next_deadline(), *id)))
                .min();
            let event = self.queue.peek().map(|Reverse((at, _, _))| *at);
            let next_timer = timer.map_or(Time::NEVER, |(at, _)| at);
            let next = event.unwrap_or(Time::NEVER).min(next_timer);
            if next > end {
                self.now = end;
                return done(self);
            }
            self.now = self.now.max(next);
            if event.is_some_and(|at| at <= next_timer) {
                let Reverse((_, _, what)) = self.queue.pop().unwrap();
                self.happen(what);
            } else if let Some((_, id)) = timer {
                self.input(id, Input::Tick);
            }
        }
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Deliver { from, to, key } => {
                let message = self.messages.remove(&key).unwrap();
                let deaf = self.nodes.get(&to).is_none_or(|n| n.paused);
                if !self.cut.contains(&(from, to)) && !deaf {
                    self.input(to, Input::Message { from, message });
                }
            }
            What::DiskDone { node, boot } => self.disk_done(node, boot),
            What::Pulled {
                at,
                boot,
                from,
                index,
            } => self.pulled(at, boot, from, index),
            What::Ended { at, peer } => self.input(at, Input::StreamEnded { peer }),
            What::Connected { at, peer, boot } => self.connected(at, peer, boot),
            What::Probed {
                at,
                peer,
                boot,
                term,
            } => {
                if self.cut.contains(&(at, peer)) || self.nodes[&peer].paused {
                    return;
                }
                let leads = self.nodes[&peer].boot == boot
                    && self.nodes[&peer]
                        .raft
                        .as_ref()
                        .is_some_and(|raft| raft.role() == RoleName::Leader && raft.term() == term);
                self.input(
                    at,
                    Input::Probed {
                        peer,
                        boot,
                        term,
                        leads,
                    },
                );
            }
        }
    }

    /// `at` opens its stream to `peer`: the peer hears its Hello.
    fn connected(&mut self, at: NodeId, peer: NodeId, boot: u64) {
        if self.cut.contains(&(at, peer)) || self.nodes[&peer].raft.is_none() {
            return;
        }
        let Some(raft) = &self.nodes[&at].raft else {
            return;
        };
        let Some((term, durable_index)) = raft.durable_claim() else {
            let later = self.now + Duration::from_millis(1);
            return self.schedule(later, What::Connected { at, peer, boot });
        };
        let own_boot = self.nodes[&at].boot;
        self.input(
            peer,
            Input::Hello {
                peer: at,
                boot: own_boot,
                term,
                durable_index,
                challenged: None,
            },
        );
        self.input(at, Input::Connected { peer });
    }

    fn disk_done(&mut self, id: NodeId, boot: u64) {
        let n = self.nodes.get_mut(&id).unwrap();
        if n.boot != boot || n.raft.is_none() || n.disk.queue.is_empty() {
            return;
        }
        if n.disk.stalled {
            let later = self.now + Duration::from_millis(5);
            return self.schedule(later, What::DiskDone { node: id, boot });
        }
        // Group commit: whatever is queued goes with one sync.
        while let Some(write) = n.disk.queue.pop_front() {
            n.disk.apply(write);
        }
        let (sequence, generation) = n.disk.last;
        let report = Persisted {
            sequence,
            generation,
            last: n.disk.position(),
        };
        self.input(id, Input::Persisted(report));
    }

    pub fn input(&mut self, id: NodeId, input: Input) {
        let now = self.now;
        let n = self.nodes.get_mut(&id).unwrap();
        let Some(raft) = &mut n.raft else { return };
        let effects = raft.step(now, input);
        self.check_leader(id);
        for effect in effects {
            self.carry_out(id, effect);
        }
    }

    fn carry_out(&mut self, id: NodeId, effect: Effect) {
        match effect {
            Effect::Persist(write) => {
                let n = self.nodes.get_mut(&id).unwrap();
                let boot = n.boot;
                n.disk.queue.push_back(write);
                let (min, spread) = self.sync_us;
                let when = self.now + Duration::from_micros(min + self.dice.below(spread));
                self.schedule(when, What::DiskDone { node: id, boot });
            }
            Effect::Send { to, message } => self.transmit(id, to, message),
            Effect::Fetch {
                peer,
                from,
                to,
                max_bytes: _,
            } => {
                let disk = &self.nodes[&id].disk;
                let entries = disk
                    .entries
                    .iter()
                    .filter(|e| e.index >= from && e.index <= to);
                let entries = entries.take(50).cloned().collect();
                self.input(
                    id,
                    Input::Fetched {
                        peer,
                        from,
                        entries,
                    },
                );
            }
            Effect::Committed { index } => self.commit(id, index),
            Effect::PullSnapshot { from, position } => {
                let when = self.now + Duration::from_micros(500 + self.dice.below(50_000));
                let (boot, index) = (self.nodes[&id].boot, position.index);
                self.schedule(
                    when,
                    What::Pulled {
                        at: id,
                        boot,
                        from,
                        index,
                    },
                );
            }
            Effect::SnapshotInstalled { snapshot } => {
                // §7: a snapshot covers only what is committed.
                let known = &self.committed[&snapshot.position.index];
                assert_eq!(
                    known.position(),
                    snapshot.position,
                    "a snapshot of another history"
                );
                let n = self.nodes.get_mut(&id).unwrap();
                assert_eq!(
                    n.disk.base, snapshot.position,
                    "installed, and not on the disk"
                );
                n.committed = n.committed.max(snapshot.position.index);
                n.applied.clear();
                self.installed += 1;
            }
            Effect::Accepted { request, position } => {
                self.answers.accepted.insert(request, position);
            }
            Effect::Refused { request, reason } => {
                self.answers.refused.insert(request, reason);
            }
            Effect::SteppedDown => {}
            Effect::ReadReady { request, index } => {
                let floor = self.read_floor[&request];
                assert!(
                    index >= floor,
                    "a read at {index} misses the acknowledged entry {floor}"
                );
                self.answers.reads.insert(request, index);
            }
            Effect::ReadFailed { request, reason } => {
                self.answers.reads_failed.insert(request, reason);
            }
            Effect::Probe { peer, boot, term } => {
                let when = self.now + Duration::from_micros(300);
                self.schedule(
                    when,
                    What::Probed {
                        at: id,
                        peer,
                        boot,
                        term,
                    },
                );
            }
            Effect::LeaveDecided {
                request,
                removed,
                sentence,
            } => {
                self.answers.leaves.insert(request, (removed, sentence));
            }
            Effect::Challenge { peer, number } => {
                let Some(raft) = &self.nodes[&peer].raft else {
                    return;
                };
                if self.cut.contains(&(id, peer)) {
                    return;
                }
                let Some((term, durable_index)) = raft.durable_claim() else {
                    return;
                };
                let boot = self.nodes[&peer].boot;
                let hello = Input::Hello {
                    peer,
                    boot,
                    term,
                    durable_index,
                    challenged: Some(number),
                };
                self.input(id, hello);
            }
            Effect::RolledBack { peer } => self.rolled_back.push((id, peer)),
            Effect::Retired => {
                self.retired.insert(id);
            }
            Effect::Event(event) => self.events.push((self.now, id, event)),
        }
    }

    fn transmit(&mut self, from: NodeId, to: NodeId, message: Message) {
        self.check_vote(from, to, &message);
        self.sent += 1;
        if let Message::AppendEntries(append) = &message {
            self.sent_bytes += append.entries.iter().map(Entry::cost_bytes).sum::<usize>();
        }
        if !self.nodes.contains_key(&to) || self.cut.contains(&(from, to)) {
            return;
        }
        let copies = u64::from(!self.dice.chance(self.loss_percent))
            + u64::from(self.dice.chance(self.duplicate_percent));
        for _ in 0..copies {
            let (min, spread) = self.delay_us;
            let usual = Duration::from_micros(min + self.dice.below(spread));
            let when = self.now + usual + (self.detour)(from, to, &message);
            self.next += 1;
            let key = self.next;
            self.messages.insert(key, message.clone());
            self.schedule(when, What::Deliver { from, to, key });
        }
    }

    // ---- checks ----

    /// Election Safety (§5.2): at most one leader per term.
    fn check_leader(&mut self, id: NodeId) {
        let raft = self.raft(id);
        if raft.role() == RoleName::Leader {
            let term = raft.term();
            let known = *self.leaders.entry(term).or_insert(id);
            assert_eq!(known, id, "two leaders in term {term}");
        }
    }

    /// One vote per term, across all crashes (figure 2): and no vote leaves before it is durable.
    fn check_vote(&mut self, from: NodeId, to: NodeId, message: &Message) {
        let disk = &self.nodes[&from].disk;
        match message {
            Message::RequestVoteReply(reply) if reply.granted && !reply.pre_vote => {
                let known = *self.votes.entry((from, reply.request_term)).or_insert(to);
                assert_eq!(
                    known, to,
                    "{from} voted twice in term {}",
                    reply.request_term
                );
                let durable = &disk.hard_state;
                assert!(
                    durable.current_term >= reply.request_term,
                    "a vote left undurable"
                );
            }
            Message::RequestVote(request) if !request.pre_vote => {
                let known = *self.votes.entry((from, request.term)).or_insert(from);
                assert_eq!(known, from, "{from} voted twice in term {}", request.term);
                assert!(
                    disk.hard_state.current_term >= request.term,
                    "a candidacy undurable"
                );
            }
            Message::AppendEntriesReply(reply) => {
                if let raft_core::message::AppendOutcome::Durable { index } = reply.outcome {
                    assert!(
                        index <= disk.position().index,
                        "an undurable acknowledgement"
                    );
                }
            }
            _ => {}
        }
    }

    /// State Machine Safety (§5.4.3) and D1: every node hands out the same entries, in order, and only
    /// what is durable in its own log.
    fn commit(&mut self, id: NodeId, index: Index) {
        let n = self.nodes.get_mut(&id).unwrap();
        assert!(
            index <= n.disk.position().index,
            "committed, and not durable in its own log"
        );
        for at in n.committed + 1..=index {
            let entry = n
                .disk
                .entry(at)
                .expect("neither in the log nor covered")
                .clone();
            let known = self.committed.entry(at).or_insert_with(|| entry.clone());
            assert_eq!(*known, entry, "two different entries are committed at {at}");
            n.applied.push(entry);
        }
        n.committed = n.committed.max(index);
        for (request, at) in &self.waiting {
            if *at == id
                && let Some(position) = self.answers.accepted.get(request)
                && position.index <= index
                && n.raft
                    .as_ref()
                    .and_then(|raft| raft.term_at(position.index))
                    == Some(position.term)
            {
                self.answers
                    .acknowledged
                    .entry(*request)
                    .or_insert(*position);
            }
        }
        self.waiting
            .retain(|request, _| !self.answers.acknowledged.contains_key(request));
        self.input(id, Input::Applied { index });
    }

    /// Every acknowledged entry is in the log of a majority of the voters, and every running node
    /// agrees with what was ever committed.
    pub fn check_durable(&self) {
        for (request, position) in &self.answers.acknowledged {
            let entry = &self.committed[&position.index];
            assert_eq!(entry.term, position.term, "request {request} was lost");
        }
    }

    /// All running nodes have applied the same entries.
    pub fn agree(&self) -> bool {
        let running = || {
            self.nodes
                .values()
                .filter(|n| n.raft.is_some() && !n.paused)
        };
        let most = running().map(|n| n.committed).max().unwrap_or(0);
        running().all(|n| n.committed == most)
    }

    /// Everyone but this one.
    pub fn others(&self, id: NodeId) -> Vec<NodeId> {
        self.nodes.keys().copied().filter(|n| *n != id).collect()
    }

    pub fn saw(&self, matching: impl Fn(&Event) -> bool) -> usize {
        self.events
            .iter()
            .filter(|(_, _, event)| matching(event))
            .count()
    }

    pub fn disk(&self, id: NodeId) -> Disk {
        let mut disk = self.nodes[&id].disk.clone();
        disk.queue.clear();
        disk
    }
}
