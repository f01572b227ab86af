//! One core on a bench: inputs by hand, effects to look at, and a disk that syncs when it is told to.
#![allow(dead_code)]

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_core::message::{
    AppendEntries, AppendEntriesReply, AppendOutcome, Heartbeat, HeartbeatReply, RequestVote,
    RequestVoteReply,
};
use raft_core::{
    Command, Configuration, Effect, Entry, HardState, Health, Index, Input, Message, NodeId,
    Options, Payload, Persisted, Position, Proposal, Raft, Refusal, RoleName, SnapshotMeta, Term,
    Time, Write,
};

use crate::recovered::recovered;

pub const PRE_VOTE: bool = true;
pub const VOTE: bool = false;

pub const SECOND: Duration = Duration::from_secs(1);

pub fn node(number: u64) -> NodeId {
    NodeId(u128::from(number))
}

pub fn milliseconds(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub fn at(index: Index, term: Term) -> Position {
    Position { index, term }
}

pub fn voters(numbers: &[u64]) -> BTreeSet<NodeId> {
    numbers.iter().copied().map(node).collect()
}

/// A grown configuration of these voters.
pub fn configuration(numbers: &[u64]) -> Configuration {
    Configuration {
        voters: voters(numbers),
        grown: true,
        ..Configuration::default()
    }
}

pub fn command(text: &str) -> Payload {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    Payload::Command(Command {
        session: 0,
        sequence: 0,
        acked_below: 0,
        bytes,
    })
}

pub fn entry(index: Index, term: Term) -> Entry {
    let payload = command(&format!("{index}@{term}"));
    Entry {
        index,
        term,
        log_time_ms: 0,
        payload,
    }
}

/// Entries of these terms, right behind `previous`.
pub fn entries(previous: Position, terms: &[Term]) -> Vec<Entry> {
    (previous.index + 1..)
        .zip(terms)
        .map(|(index, term)| entry(index, *term))
        .collect()
}

pub fn append(term: Term, previous: Position, terms: &[Term], commit_index: Index) -> Message {
    let entries = entries(previous, terms);
    Message::AppendEntries(AppendEntries {
        term,
        previous,
        entries,
        commit_index,
    })
}

pub fn heartbeat(term: Term, commit_index: Index, succession: &[u64]) -> Message {
    let succession = succession.iter().copied().map(node).collect();
    Message::Heartbeat(Heartbeat {
        term,
        boot: 1,
        commit_index,
        round: 0,
        succession,
    })
}

pub fn notice(term: Term, commit_index: Index) -> Message {
    Message::CommitNotice { term, commit_index }
}

pub fn higher_term(term: Term) -> Message {
    Message::HigherTerm { term }
}

pub fn heartbeat_reply(term: Term, round: u64) -> Message {
    Message::HeartbeatReply(HeartbeatReply {
        term,
        round,
        health: Health::default(),
    })
}

/// Outside of any round of reads.
pub fn health_reply(term: Term, health: Health) -> Message {
    let round = 0;
    Message::HeartbeatReply(HeartbeatReply {
        term,
        round,
        health,
    })
}

/// It is about to end.
pub fn stopping_reply(term: Term) -> Message {
    let health = Health {
        stopping: true,
        ..Health::default()
    };
    health_reply(term, health)
}

/// Who was told to take over, and the token that it may show.
pub fn told(effects: &[Effect]) -> Vec<(NodeId, u64)> {
    let mut found = Vec::new();
    for (to, message) in sent(effects) {
        if let Message::TimeoutNow { token, .. } = message {
            found.push((to, token));
        }
    }
    found
}

/// Who was told to take over.
pub fn heirs(effects: &[Effect]) -> Vec<NodeId> {
    told(effects).into_iter().map(|(to, _)| to).collect()
}

pub fn ask(term: Term, pre_vote: bool, last: Position) -> Message {
    Message::RequestVote(RequestVote {
        term,
        pre_vote,
        last,
        transfer_token: 0,
    })
}

/// A voter's answer in the election of `request_term`.
pub fn answer(request_term: Term, pre_vote: bool, granted: bool) -> Message {
    let term = request_term - Term::from(pre_vote);
    let hears_leader = false;
    Message::RequestVoteReply(RequestVoteReply {
        term,
        pre_vote,
        granted,
        request_term,
        hears_leader,
    })
}

pub fn ack(term: Term, index: Index) -> Message {
    let outcome = AppendOutcome::Durable { index };
    Message::AppendEntriesReply(AppendEntriesReply { term, outcome })
}

/// The follower lacks, or has otherwise, what stands at `refused`.
pub fn conflict(term: Term, refused: Index, hint: Position) -> Message {
    let outcome = AppendOutcome::Conflict { refused, hint };
    Message::AppendEntriesReply(AppendEntriesReply { term, outcome })
}

/// A peer opens a stream, or answers the newest challenge, and says how far its disk goes (D5).
pub fn hello(peer: u64, boot: u64, term: Term, durable_index: Index, challenged: bool) -> Input {
    let challenged = challenged.then_some(u64::MAX);
    Input::Hello {
        peer: node(peer),
        boot,
        term,
        durable_index,
        challenged,
    }
}

pub struct One {
    pub raft: Raft,
    pub now: Time,
    /// What is on the disk, and survives.
    pub hard_state: HardState,
    pub log: Vec<Entry>,
    /// Where the log on the disk begins, and the snapshot that is there.
    pub cut: Position,
    pub snapshot: Option<Arc<SnapshotMeta>>,
    /// What the disk was asked for and has not done.
    pub queue: VecDeque<Write>,
    pub options: Options,
    done: (u64, u64),
    boot: u64,
    base: Configuration,
}

impl One {
    /// Node `id` of these voters, with a log of these terms; the first entry is the configuration.
    pub fn new(id: u64, numbers: &[u64], terms: &[Term]) -> One {
        One::with(id, configuration(numbers), terms, Options::default())
    }

    pub fn with(id: u64, base: Configuration, terms: &[Term], options: Options) -> One {
        let mut log = entries(Position::ZERO, terms);
        if let Some(first) = log.first_mut() {
            first.payload = Payload::Configuration(base.clone().into());
        }
        let hard_state = HardState {
            current_term: terms.last().copied().unwrap_or(0),
            ..HardState::default()
        };
        let disk = (log, Position::ZERO, None);
        One::from_disk(
            node(id),
            hard_state,
            disk,
            options,
            base,
            1,
            Time(1_000_000),
        )
    }

    fn from_disk(
        id: NodeId,
        hard_state: HardState,
        (log, cut, snapshot): (Vec<Entry>, Position, Option<Arc<SnapshotMeta>>),
        options: Options,
        base: Configuration,
        boot: u64,
        now: Time,
    ) -> One {
        let recovered = recovered(hard_state.clone(), cut, snapshot.clone(), &log);
        let raft = Raft::new(id, boot, options.clone(), recovered, now, 7 + boot);
        let (queue, done) = (VecDeque::new(), (0, 1));
        One {
            raft,
            now,
            hard_state,
            log,
            cut,
            snapshot,
            queue,
            options,
            done,
            boot,
            base,
        }
    }

    /// Kill -9, and a start from what the disk has.
    pub fn crash(self) -> One {
        let (id, boot) = (self.raft.id(), self.boot + 1);
        One::from_disk(
            id,
            self.hard_state,
            (self.log, self.cut, self.snapshot),
            self.options,
            self.base,
            boot,
            self.now,
        )
    }

    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// One input. The disk stays behind.
    pub fn step(&mut self, input: Input) -> Vec<Effect> {
        let effects = self.raft.step(self.now, input);
        for effect in &effects {
            if let Effect::Persist(write) = effect {
                self.queue.push_back(write.clone());
            }
        }
        assert!(
            self.raft.next_deadline() > self.now,
            "a deadline that no step clears"
        );
        effects
    }

    /// The disk does the next write, and reports.
    pub fn sync_one(&mut self) -> Vec<Effect> {
        let report = self.write_one();
        self.step(Input::Persisted(report))
    }

    /// The disk does the next write. The report is for the caller to hand in, or not.
    pub fn write_one(&mut self) -> Persisted {
        let write = self.queue.pop_front().unwrap();
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(snapshot) = write.install {
            self.cut = snapshot.position;
            self.log.clear();
        }
        if let Some(from) = write.truncate_from {
            self.log.retain(|entry| entry.index < from);
        }
        for entry in write.entries {
            let last = self.log.last().map_or(self.cut, Entry::position);
            assert_eq!(entry.index, last.index + 1, "the disk's log has no gaps");
            self.log.push(entry);
        }
        if let Some(to) = write.compact_to {
            let covered = self.snapshot.as_ref().map_or(0, |s| s.position.index);
            assert!(to <= covered, "S4: cut off beyond the snapshot");
            self.cut = self.log.iter().find(|e| e.index == to).unwrap().position();
            self.log.retain(|entry| entry.index > to);
        }
        self.done = (write.sequence, write.generation);
        let last = self.log.last().map_or(self.cut, Entry::position);
        Persisted {
            sequence: self.done.0,
            generation: self.done.1,
            last,
        }
    }

    pub fn sync(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        while !self.queue.is_empty() {
            effects.extend(self.sync_one());
        }
        effects
    }

    /// Its own snapshot, complete and durable, as of `index`.
    pub fn snapshot_at(&mut self, index: Index, keep_from: Index) -> Vec<Effect> {
        let snapshot = Arc::new(self.raft.snapshot_meta(index, 0).unwrap());
        self.snapshot = Some(snapshot.clone());
        self.settle(Input::SnapshotTaken {
            snapshot,
            keep_from,
        })
    }

    /// An input, and every write that comes of it.
    pub fn settle(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = self.step(input);
        effects.extend(self.sync());
        effects
    }

    /// A message, the disk still behind.
    pub fn hear_only(&mut self, from: u64, message: Message) -> Vec<Effect> {
        self.step(Input::Message {
            from: node(from),
            message,
        })
    }

    /// A message, and every write that comes of it.
    pub fn hear(&mut self, from: u64, message: Message) -> Vec<Effect> {
        self.settle(Input::Message {
            from: node(from),
            message,
        })
    }

    /// Time passes; every deadline on the way is kept.
    pub fn wait(&mut self, duration: Duration) -> Vec<Effect> {
        let end = self.now + duration;
        let mut effects = Vec::new();
        while self.raft.next_deadline() <= end {
            self.now = self.raft.next_deadline();
            effects.extend(self.settle(Input::Tick));
        }
        self.now = end;
        effects
    }

    /// Until the next campaign of its own: it is a pre-candidate then.
    pub fn wait_for_campaign(&mut self) -> Vec<Effect> {
        for _ in 0..100 {
            let effects = self.wait(milliseconds(1).max(self.raft.next_deadline() - self.now));
            if self.raft.role() != RoleName::Follower {
                return effects;
            }
        }
        panic!("it never campaigns");
    }

    /// Everyone else is for it: pre-vote, vote, and it leads. Returns what it did as a leader.
    pub fn elect(&mut self) -> Vec<Effect> {
        let mut effects = self.wait_for_campaign();
        for pre_vote in [PRE_VOTE, VOTE] {
            let term = self.raft.term() + Term::from(pre_vote);
            for voter in self.raft.configuration().1.all_voters() {
                if self.raft.role() != RoleName::Leader && voter != self.raft.id() {
                    let message = answer(term, pre_vote, true);
                    effects = self.settle(Input::Message {
                        from: voter,
                        message,
                    });
                }
            }
        }
        assert_eq!(self.raft.role(), RoleName::Leader);
        effects
    }

    /// A leader of these voters whose no-op is committed by everyone.
    pub fn leader(id: u64, numbers: &[u64], terms: &[Term]) -> One {
        let mut one = One::new(id, numbers, terms);
        one.elect();
        one.all_ack();
        one
    }

    /// Every peer acknowledges the whole log.
    pub fn all_ack(&mut self) -> Vec<Effect> {
        let (term, last) = (self.raft.term(), self.raft.last().index);
        let mut effects = Vec::new();
        for peer in self.raft.peers().keys().copied().collect::<Vec<_>>() {
            effects.extend(self.settle(Input::Message {
                from: peer,
                message: ack(term, last),
            }));
        }
        effects
    }

    pub fn put(&mut self, text: &str) -> Vec<Effect> {
        self.settle(put(1, text))
    }

    /// The terms of its log, in memory.
    pub fn terms(&self) -> Vec<Term> {
        (1..=self.raft.last().index)
            .map(|index| self.raft.term_at(index).unwrap())
            .collect()
    }
}

pub fn put(request: u64, text: &str) -> Input {
    Input::PutEntries(vec![Proposal {
        request,
        payload: command(text),
    }])
}

/// All messages among the effects.
pub fn sent(effects: &[Effect]) -> Vec<(NodeId, Message)> {
    let mut messages = Vec::new();
    for effect in effects {
        if let Effect::Send { to, message } = effect {
            messages.push((*to, message.clone()));
        }
    }
    messages
}

/// Whether a vote was given: none, if nothing was answered.
pub fn granted(effects: &[Effect]) -> Option<bool> {
    sent(effects)
        .into_iter()
        .find_map(|(_, message)| match message {
            Message::RequestVoteReply(reply) => Some(reply.granted),
            _ => None,
        })
}

/// The last answer to an AppendEntries.
pub fn outcome(effects: &[Effect]) -> Option<AppendOutcome> {
    sent(effects)
        .into_iter()
        .rev()
        .find_map(|(_, message)| match message {
            Message::AppendEntriesReply(reply) => Some(reply.outcome),
            _ => None,
        })
}

pub fn durable(index: Index) -> Option<AppendOutcome> {
    Some(AppendOutcome::Durable { index })
}

/// Up to where entries were handed out, the last time that this was said.
pub fn committed(effects: &[Effect]) -> Option<Index> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Committed { index } => Some(*index),
        _ => None,
    })
}

pub fn refused(effects: &[Effect]) -> Option<Refusal> {
    effects.iter().find_map(|effect| match effect {
        Effect::Refused { reason, .. } => Some(reason.clone()),
        _ => None,
    })
}

/// Who was asked for votes, and for what term.
pub fn vote_requests(effects: &[Effect]) -> Vec<(NodeId, RequestVote)> {
    let mut requests = Vec::new();
    for (to, message) in sent(effects) {
        if let Message::RequestVote(request) = message {
            requests.push((to, request));
        }
    }
    requests
}

pub fn appends(effects: &[Effect]) -> Vec<(NodeId, AppendEntries)> {
    let mut found = Vec::new();
    for (to, message) in sent(effects) {
        if let Message::AppendEntries(append) = message {
            found.push((to, append));
        }
    }
    found
}

pub fn heartbeats(effects: &[Effect]) -> Vec<(NodeId, Heartbeat)> {
    let mut found = Vec::new();
    for (to, message) in sent(effects) {
        if let Message::Heartbeat(heartbeat) = message {
            found.push((to, heartbeat));
        }
    }
    found
}

/// Who was told on its own what is committed: peer, term, commit index.
pub fn notices(effects: &[Effect]) -> Vec<(NodeId, Term, Index)> {
    let mut found = Vec::new();
    for (to, message) in sent(effects) {
        if let Message::CommitNotice { term, commit_index } = message {
            found.push((to, term, commit_index));
        }
    }
    found
}

/// The read that was answered, and at which index.
pub fn read_ready(effects: &[Effect]) -> Option<(u64, Index)> {
    effects.iter().find_map(|effect| match effect {
        Effect::ReadReady { request, index } => Some((*request, *index)),
        _ => None,
    })
}

/// How often a peer was asked whether its disk has lost promises (D5).
pub fn challenges(effects: &[Effect]) -> usize {
    effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Challenge { .. }))
        .count()
}

/// The number of the last of these questions.
pub fn challenge_number(effects: &[Effect]) -> Option<u64> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Challenge { number, .. } => Some(*number),
        _ => None,
    })
}

/// Whether a peer's disk was found to have lost promises (D5).
pub fn rolled_back(effects: &[Effect]) -> bool {
    effects
        .iter()
        .any(|effect| matches!(effect, Effect::RolledBack { .. }))
}
