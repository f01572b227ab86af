//! Linearizable reads without writing to the log (§6.4 of the dissertation; rules R1-R3).
//!
//! A leader that wants to answer a read must know that it still leads: it records its commit index,
//! asks everyone in a *round* of heartbeats, and a majority's answers confirm it. A read uses only a
//! round that began after the read arrived (R2): reads that come while a round is under way wait
//! for the next one, and share it. A follower asks its leader, by the same rule.

use std::collections::VecDeque;
use std::time::Duration;

use crate::ids::{Boot, Index, NodeId, Time};
use crate::io::{Effect, Event, Refusal, RequestId};
use crate::leader::Leading;
use crate::message::Message;
use crate::progress::Progress;
use crate::raft::{Raft, Role};

/// Reads that may wait on one node. One more is told OVERLOADED.
pub const MAX_WAITING_READS: usize = 65_536;

/// A follower asks again, under a new name, when the leader has not answered for this long: the
/// question or the answer may be lost.
const ASK_PATIENCE: Duration = Duration::from_millis(200);

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reader {
    Local(RequestId),
    Follower(NodeId, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Read {
    reader: Reader,
    deadline: Time,
}

/// A leader's reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct LeaderReads {
    waiting: VecDeque<Read>,
    round: Option<Round>,
    rounds: u64,
    /// No deadline is earlier.
    earliest: Earliest,
}

/// A bound below all deadlines that wait: thousands of reads may wait, and every step asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Earliest(Option<Time>);

impl Earliest {
    fn note(&mut self, deadline: Time) {
        self.0 = Some(self.0.map_or(deadline, |earliest| earliest.min(deadline)));
    }

    /// Whether this deadline is still ahead; it is noted then.
    fn keeps(&mut self, deadline: Time, now: Time) -> bool {
        let ahead = now < deadline;
        if ahead {
            self.note(deadline);
        }
        ahead
    }

    fn time(self) -> Time {
        self.0.unwrap_or(Time::NEVER)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Round {
    number: u64,
    index: Index,
    reads: Vec<Read>,
}

impl LeaderReads {
    /// Rounds that were ever begun in this term.
    pub(crate) fn rounds(&self) -> u64 {
        self.rounds
    }

    pub(crate) fn round_in_flight(&self) -> u64 {
        self.round.as_ref().map_or(0, |round| round.number)
    }

    pub(crate) fn next_deadline(&self) -> Time {
        self.earliest.time()
    }

    pub(crate) fn for_each_time(&mut self, change: &mut dyn FnMut(&mut Time)) {
        let riding = self.round.iter_mut().flat_map(|round| &mut round.reads);
        for read in self.waiting.iter_mut().chain(riding) {
            change(&mut read.deadline);
        }
        if let Some(earliest) = &mut self.earliest.0 {
            change(earliest);
        }
    }

    fn push(&mut self, read: Read) {
        self.earliest.note(read.deadline);
        self.waiting.push_back(read);
    }

    fn len(&self) -> usize {
        self.waiting.len() + self.round.as_ref().map_or(0, |round| round.reads.len())
    }

    fn take_expired(&mut self, now: Time) -> Vec<Read> {
        let mut expired = Vec::new();
        if now < self.earliest.time() {
            return expired;
        }
        let mut earliest = Earliest::default();
        let mut keep = |read: &Read| {
            let kept = earliest.keeps(read.deadline, now);
            if !kept {
                expired.push(*read);
            }
            kept
        };
        self.waiting.retain(&mut keep);
        if let Some(round) = &mut self.round {
            round.reads.retain(&mut keep);
        }
        self.earliest = earliest;
        expired
    }
}

/// A follower's reads: those that wait, and those that ride on an ask that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FollowerReads {
    waiting: VecDeque<(RequestId, Time)>,
    asked: Option<Ask>,
    /// No deadline is earlier.
    earliest: Earliest,
    /// Never reused, not even by a later boot (R2).
    next_ask: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Ask {
    number: u64,
    leader: NodeId,
    sent: Time,
    reads: Vec<(RequestId, Time)>,
}

impl FollowerReads {
    pub(crate) fn new(boot: Boot) -> FollowerReads {
        FollowerReads {
            waiting: VecDeque::new(),
            asked: None,
            earliest: Earliest::default(),
            next_ask: (boot << 40) + 1,
        }
    }

    pub(crate) fn for_each_time(&mut self, change: &mut dyn FnMut(&mut Time)) {
        for (_, deadline) in &mut self.waiting {
            change(deadline);
        }
        if let Some(ask) = &mut self.asked {
            change(&mut ask.sent);
            for (_, deadline) in &mut ask.reads {
                change(deadline);
            }
        }
        if let Some(earliest) = &mut self.earliest.0 {
            change(earliest);
        }
    }

    fn len(&self) -> usize {
        self.waiting.len() + self.asked.as_ref().map_or(0, |ask| ask.reads.len())
    }

    fn take_expired(&mut self, now: Time) -> Vec<RequestId> {
        let mut expired = Vec::new();
        if now < self.earliest.time() {
            return expired;
        }
        let mut earliest = Earliest::default();
        let mut keep = |(request, deadline): &(RequestId, Time)| {
            let kept = earliest.keeps(*deadline, now);
            if !kept {
                expired.push(*request);
            }
            kept
        };
        self.waiting.retain(&mut keep);
        if let Some(ask) = &mut self.asked {
            ask.reads.retain(&mut keep);
        }
        self.earliest = earliest;
        expired
    }

    pub(crate) fn next_deadline(&self) -> Time {
        let again = self
            .asked
            .as_ref()
            .map_or(Time::NEVER, |ask| ask.sent + ASK_PATIENCE);
        self.earliest.time().min(again)
    }
}

impl Raft {
    /// A linearizable read was asked for on this node.
    pub(crate) fn read_index(&mut self, request: RequestId, deadline: Time) {
        let waiting = match &self.role {
            Role::Leader(leading) => leading.reads.len(),
            _ => self.follower_reads.len(),
        };
        if waiting >= MAX_WAITING_READS {
            return self.effect(Effect::ReadFailed {
                request,
                reason: Refusal::Overloaded,
            });
        }
        if let Some(leading) = self.leading() {
            leading.reads.push(Read {
                reader: Reader::Local(request),
                deadline,
            });
            self.start_read_round();
        } else {
            self.follower_reads.earliest.note(deadline);
            match &mut self.follower_reads.asked {
                Some(asked) if mutant!(R2JoinsAsk) => asked.reads.push((request, deadline)),
                _ => self.follower_reads.waiting.push_back((request, deadline)),
            }
            self.ask_for_reads();
        }
    }

    // ---- leader ----

    /// A follower asks.
    pub(crate) fn on_read_index(&mut self, from: NodeId, ask: u64) {
        let deadline = self.now + self.options.elect_timeout_max;
        let Some(leading) = self.leading() else {
            return;
        };
        if leading.reads.len() < MAX_WAITING_READS {
            let reader = Reader::Follower(from, ask);
            leading.reads.push(Read { reader, deadline });
            self.start_read_round();
        }
    }

    /// Begins a round for the reads that wait, unless one is under way, or this leader does not know
    /// yet what is committed (R1).
    pub(crate) fn start_read_round(&mut self) {
        let commit_index = self.commit_index;
        let Some(leading) = self.leading() else {
            return;
        };
        let LeaderReads { round, waiting, .. } = &mut leading.reads;
        if mutant!(R2JoinsRound)
            && let Some(round) = round
        {
            round.reads.extend(waiting.drain(..));
        }
        let idle = round.is_none() && !waiting.is_empty();
        if !idle || (commit_index < leading.noop_index && !mutant!(R1BeforeOwnTerm)) {
            return;
        }
        leading.reads.rounds += 1;
        leading.reads.round = Some(Round {
            number: leading.reads.rounds,
            index: commit_index,
            reads: leading.reads.waiting.drain(..).collect(),
        });
        let succession = self.order_of_succession();
        for voter in self.other_voters() {
            self.send_heartbeat(voter, succession.clone());
        }
        self.confirm_reads();
    }

    /// Serves the round when a majority of the voters of the latest configuration (of both, when it
    /// is joint) has answered it; learners never count (R2).
    pub(crate) fn confirm_reads(&mut self) {
        let Role::Leader(leading) = &self.role else {
            return;
        };
        let Some(round) = &leading.reads.round else {
            return;
        };
        let number = round.number;
        let confirmed = self.majority_of(|voter| {
            let answered = |progress: &Progress| progress.round >= number;
            voter == self.id
                || (!self.is_suspect(voter) && leading.progress.get(&voter).is_some_and(answered))
        });
        if !confirmed && !mutant!(R2NoRound) {
            return;
        }
        let Some(round) = self
            .leading()
            .and_then(|leading| leading.reads.round.take())
        else {
            return;
        };
        let (term, index) = (self.term(), round.index);
        for read in round.reads {
            match read.reader {
                Reader::Local(request) => self.effect(Effect::ReadReady { request, index }),
                Reader::Follower(node, ask) => {
                    self.send(node, Message::ReadIndexReply { term, ask, index });
                }
            }
        }
        self.start_read_round();
    }

    pub(crate) fn expire_leader_reads(&mut self) {
        let now = self.now;
        let Some(leading) = self.leading() else {
            return;
        };
        for read in leading.reads.take_expired(now) {
            self.fail_read(read, Refusal::Deadline);
        }
    }

    fn fail_read(&mut self, read: Read, reason: Refusal) {
        // A follower's ask needs no answer: it asks again, or its own deadline passes.
        if let Reader::Local(request) = read.reader {
            self.effect(Effect::ReadFailed { request, reason });
        }
    }

    /// This node leads no more: what rested on it is off.
    pub(crate) fn fail_leader_requests(&mut self, leading: Leading) {
        let in_round = leading
            .reads
            .round
            .into_iter()
            .flat_map(|round| round.reads);
        for read in leading.reads.waiting.into_iter().chain(in_round) {
            self.fail_read(read, Refusal::LeaderChanged);
        }
        if let Some(transfer) = &leading.transfer {
            let to = transfer.to();
            self.event(Event::Transfer {
                to,
                outcome: "this node leads no more",
            });
        }
        for request in leading.reconfiguring.waiting_requests() {
            let reason = Refusal::LeaderChanged;
            self.effect(Effect::Refused { request, reason });
        }
    }

    // ---- follower ----

    /// Sends one ask for all reads that wait. None is added to an ask that has left already.
    pub(crate) fn ask_for_reads(&mut self) {
        if self.follower_reads.asked.is_some() || self.follower_reads.waiting.is_empty() {
            return;
        }
        let Some(leader) = self.leader().filter(|leader| *leader != self.id) else {
            return;
        };
        let (term, now) = (self.term(), self.now);
        let reads = &mut self.follower_reads;
        let number = reads.next_ask;
        reads.next_ask += u64::from(!mutant!(R2AsksReused));
        let riding = reads.waiting.drain(..).collect();
        reads.asked = Some(Ask {
            number,
            leader,
            sent: now,
            reads: riding,
        });
        self.send(leader, Message::ReadIndex { term, ask: number });
    }

    pub(crate) fn on_read_index_reply(&mut self, from: NodeId, ask: u64, index: Index) {
        let Some(asked) = &self.follower_reads.asked else {
            return;
        };
        let other = asked.number != ask && !mutant!(R2AnyAnswer);
        if other || asked.leader != from {
            return;
        }
        let reads = self
            .follower_reads
            .asked
            .take()
            .map(|ask| ask.reads)
            .unwrap_or_default();
        self.follow_commit_index(index);
        for (request, _) in reads {
            self.effect(Effect::ReadReady { request, index });
        }
        self.ask_for_reads();
    }

    /// An ask dies with its leader, and with time; its reads ask again under a new name.
    pub(crate) fn run_follower_reads(&mut self) {
        let (now, leader) = (self.now, self.leader());
        let reads = &mut self.follower_reads;
        if let Some(ask) = &reads.asked
            && (leader != Some(ask.leader) || now.since(ask.sent) >= ASK_PATIENCE)
        {
            let riding = reads.asked.take().map(|ask| ask.reads).unwrap_or_default();
            reads.waiting.extend(riding);
        }
        for request in reads.take_expired(now) {
            self.effect(Effect::ReadFailed {
                request,
                reason: Refusal::Deadline,
            });
        }
        self.ask_for_reads();
    }

    /// Reads that waited for a leader: it is this node now.
    pub(crate) fn take_over_reads(&mut self) {
        let asked = self.follower_reads.asked.take();
        let riding = asked.into_iter().flat_map(|ask| ask.reads);
        let waiting: Vec<_> = self
            .follower_reads
            .waiting
            .drain(..)
            .chain(riding)
            .collect();
        for (request, deadline) in waiting {
            self.read_index(request, deadline);
        }
    }
}
