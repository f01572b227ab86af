//! The node: its state, the step function, and what guards the order of disk and network.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::canonical::Renamed;
use crate::configuration::Configuration;
use crate::dice::Dice;
use crate::durable::{HardState, Persisted, Recovered, SnapshotMeta, Write};
use crate::election::{Campaign, Following, Succession};
use crate::entry::{Entry, Payload};
use crate::ids::{Boot, ClusterId, Index, NodeId, Position, Term, Time};
use crate::io::{Effect, Event, Input, MemberHint, PeerView, RoleName};
use crate::leader::Leading;
use crate::log::Log;
use crate::message::{Health, Message};
use crate::options::Options;
use crate::reads::FollowerReads;

/// A peer's term, or its number of starts, lies no further ahead than this: it would take a century
/// of elections every second. Believed, a stranger's u64::MAX would leave no term to go on to, and
/// no start of that peer would ever count again.
const MAX_LEAP: u64 = 1 << 32;

/// Messages that may wait for the disk. One more, and the oldest is lost, as messages may be.
const MAX_HELD_MESSAGES: usize = 16_384;

/// One node of the cluster, as a value. See the crate's essay for the contract.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Raft {
    pub(crate) id: NodeId,
    pub(crate) boot: Boot,
    pub(crate) options: Options,
    pub(crate) dice: Dice,
    pub(crate) now: Time,
    hard: HardState,
    pub(crate) log: Log,
    pub(crate) role: Role,
    pub(crate) commit_index: Index,
    committed_told: Index,
    pub(crate) applied_index: Index,
    pub(crate) disk: DiskState,
    held: VecDeque<(u64, NodeId, Message)>,
    /// Peers that were asked again, and have not answered yet: they count for nothing meanwhile (D5).
    suspects: BTreeMap<NodeId, Suspect>,
    /// Questions asked of suspects so far.
    challenges: u64,
    pub(crate) following: Following,
    pub(crate) succession: Succession,
    pub(crate) follower_reads: FollowerReads,
    /// Since when the state machine does not answer.
    pub(crate) state_machine_silent: Option<Time>,
    /// This daemon is about to end (M1).
    pub(crate) stopping: bool,
    pub(crate) members: Vec<MemberHint>,
    pub(crate) retired: bool,
    effects: Vec<Effect>,
}

/// What a node is doing (figure 4). What only a leader has lives inside its variant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Follower,
    PreCandidate(Campaign),
    Candidate(Campaign),
    Leader(Box<Leading>),
}

/// The highest (boot, term) that a peer ever reported, and the index that it acknowledged to this
/// leader, with the leader's term.
type Reported = ((Boot, Term), (Term, Index));

/// A peer that reported less than it had before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Suspect {
    /// What it had reported when it was first asked.
    known: Reported,
    /// The first question: an answer to an earlier one is of an earlier doubt.
    first: u64,
    /// When it was last asked.
    asked: Time,
}

/// What is known of the disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DiskState {
    next_sequence: u64,
    persisted_sequence: u64,
    /// The write that holds the newest term and vote.
    hard_sequence: u64,
    generation: u64,
    /// The log is durable up to here.
    pub(crate) durable_index: Index,
    /// Writes under way, in order.
    outstanding: VecDeque<Outstanding>,
    /// When the oldest outstanding write began to be waited for: it moves on with every report.
    waiting_since: Time,
    pub(crate) sick: bool,
    pending: Option<Write>,
}

/// A write that the disk has not reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Outstanding {
    sequence: u64,
    /// When it was handed over.
    since: Time,
    /// What its entries cost.
    bytes: usize,
}

impl Raft {
    /// A node as its disk remembers it. `seed` decides its dice; `boot` is the number of this start.
    pub fn new(
        id: NodeId,
        boot: Boot,
        options: Options,
        recovered: Recovered,
        now: Time,
        seed: u64,
    ) -> Raft {
        let log = Log::new(&recovered);
        // A snapshot of a later term may have been completed and not yet taken up: terms never fall.
        let mut hard = recovered.hard_state;
        if log.last().term > hard.current_term {
            hard.current_term = log.last().term;
            hard.voted_for = None;
        }
        if mutant!(TermForgottenByCrash) {
            hard.current_term = log.last().term;
        }
        if mutant!(VoteForgottenByCrash) {
            hard.voted_for = None;
        }
        if mutant!(D5MarksForgotten) {
            hard.peers.clear();
        }
        // What a snapshot covers is committed (§7).
        let covered = log.snapshot().map_or(0, |snapshot| snapshot.position.index);
        let covered = covered.min(log.last().index);
        let mut raft = Raft {
            id,
            boot,
            options,
            dice: Dice::new(seed),
            now,
            hard,
            disk: DiskState {
                next_sequence: 1,
                persisted_sequence: 0,
                hard_sequence: 0,
                generation: 1,
                durable_index: log.last().index,
                outstanding: VecDeque::new(),
                waiting_since: now,
                sick: false,
                pending: None,
            },
            log,
            role: Role::Follower,
            commit_index: covered,
            committed_told: 0,
            applied_index: covered,
            held: VecDeque::new(),
            suspects: BTreeMap::new(),
            challenges: 0,
            following: Following::default(),
            succession: Succession::default(),
            follower_reads: FollowerReads::new(boot),
            state_machine_silent: None,
            stopping: false,
            members: Vec::new(),
            retired: false,
            effects: Vec::new(),
        };
        raft.arm_cold_start();
        raft
    }

    /// Takes one input at time `now` and returns what is to be done. Never panics on what a peer, a
    /// client or a disk says; a panic here is a broken invariant of this node itself.
    pub fn step(&mut self, now: Time, input: Input) -> Vec<Effect> {
        self.now = self.now.max(now);
        match input {
            Input::Tick => {}
            Input::Found { cluster_id, alone } => self.found(cluster_id, alone),
            Input::Message { from, message } => self.on_message(from, message),
            Input::Persisted(report) => self.on_persisted(report),
            Input::PutEntries(proposals) => self.put_entries(proposals),
            Input::ReadIndex { request, deadline } => self.read_index(request, deadline),
            Input::Fetched {
                peer,
                from,
                entries,
            } => self.on_fetched(peer, from, entries),
            Input::Connected { peer } => self.on_connected(peer),
            Input::Hello {
                peer,
                boot,
                term,
                durable_index,
                challenged,
            } => {
                self.on_hello(peer, (boot, term), durable_index, challenged);
            }
            Input::StreamEnded { peer } => self.on_stream_ended(peer),
            Input::Probed {
                peer,
                boot,
                term,
                leads,
            } => self.on_probed(peer, boot, term, leads),
            Input::SnapshotTaken {
                snapshot,
                keep_from,
            } => self.on_snapshot_taken(snapshot, keep_from),
            Input::SnapshotReceived { snapshot } => self.on_snapshot_received(snapshot),
            Input::Applied { index } => self.applied_index = self.applied_index.max(index),
            Input::StateMachineHealth { sick } => {
                let since = self.state_machine_silent.unwrap_or(self.now);
                self.state_machine_silent = sick.then_some(since);
            }
            Input::Stopping => self.stopping = true,
            Input::Members(members) => {
                self.members = members;
                if let Some(leading) = self.leading() {
                    leading.reconfiguring.look_again();
                }
            }
            Input::Leave { request, node } => self.leave(request, node),
            Input::Transfer { to } => self.transfer(to),
            Input::GiveWay => self.give_way(),
        }
        self.run_timers();
        self.finish()
    }

    /// When [`Input::Tick`] is due, if nothing else comes before.
    pub fn next_deadline(&self) -> Time {
        let role = match &self.role {
            Role::Leader(leading) => self.leader_deadline(leading),
            _ => self.election_deadline(),
        };
        role.min(self.disk_deadline())
            .min(self.follower_reads.next_deadline())
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// What it is doing.
    pub fn role(&self) -> RoleName {
        match self.role {
            Role::Follower => RoleName::Follower,
            Role::PreCandidate(_) => RoleName::PreCandidate,
            Role::Candidate(_) => RoleName::Candidate,
            Role::Leader(_) => RoleName::Leader,
        }
    }

    /// Latest term seen (§5.1).
    pub fn term(&self) -> Term {
        self.hard.current_term
    }

    /// What a Hello may claim of this disk (D5): the durable term, and where the durable log ends.
    /// None for the moment in which a new term or a snapshot is being written: a log that gave way to
    /// the new leader's must never be told under the old term, where it would look like a loss.
    pub fn durable_claim(&self) -> Option<(Term, Index)> {
        (self.hard_state_is_durable() && !self.is_installing())
            .then_some((self.hard.current_term, self.disk.durable_index))
    }

    /// The log has given way to a snapshot, and the disk has not yet: else it is durable up to its base.
    pub(crate) fn is_installing(&self) -> bool {
        self.disk.durable_index < self.log.base().index
    }

    pub(crate) fn hard_state_is_durable(&self) -> bool {
        self.disk.persisted_sequence >= self.disk.hard_sequence
    }

    /// Whether this peer was asked if its disk has lost promises, and has not answered. Until then
    /// neither its votes nor its acknowledgements count, and it is neither voted for nor made a leader
    /// (D5).
    pub(crate) fn is_suspect(&self, peer: NodeId) -> bool {
        self.suspects.contains_key(&peer) && !mutant!(D5SuspectCounts)
    }

    /// Whom this node takes for the leader of its term.
    pub fn leader(&self) -> Option<NodeId> {
        match self.role {
            Role::Leader(_) => Some(self.id),
            _ => self.following.leader(),
        }
    }

    /// Nobody sends this node anything any more, and it has no reason to speak itself: it may have been
    /// removed, which only the others can tell it. A driver asks them from time to time, by a Hello (M1, M3).
    pub fn is_left_alone(&self) -> bool {
        let configuration = self.configuration().1;
        let removed = configuration.has_left(self.id);
        let listens = self.leader().is_none() && !configuration.is_voter(self.id);
        self.log.last() != Position::ZERO && (removed || listens)
    }

    /// Known to be committed up to here.
    pub fn commit_index(&self) -> Index {
        self.commit_index
    }

    /// Durable in this node's own log up to here.
    pub fn durable_index(&self) -> Index {
        self.disk.durable_index
    }

    /// Just before the first entry of the log that is left: where a snapshot cut it off (§7).
    pub fn base(&self) -> Position {
        self.log.base()
    }

    /// The newest complete snapshot that this node's disk holds.
    pub fn snapshot(&self) -> Option<&Arc<SnapshotMeta>> {
        self.log.snapshot()
    }

    /// What a snapshot says whose last entry is the one at `index`, of that log time. None unless the
    /// entry is committed and in the log, or at its base.
    pub fn snapshot_meta(&self, index: Index, log_time_ms: u64) -> Option<SnapshotMeta> {
        // A cluster that has given way (F2) is about to be left: it must not be forgotten that it has.
        if index > self.commit_index || self.log.dissolved_at.is_some() {
            return None;
        }
        let term = if mutant!(SnapshotOfPresentTerm) {
            self.term()
        } else {
            self.log.term_at(index)?
        };
        let (configuration_index, configuration) = if mutant!(SnapshotOfLatestConfiguration) {
            (index, self.configuration().1)
        } else {
            self.log.configurations.as_of(index)
        };
        let configuration = if mutant!(M3SnapshotWithoutTombstones) {
            let removed = BTreeSet::new();
            let configuration = (*configuration).clone();
            Arc::new(Configuration {
                removed,
                ..configuration
            })
        } else {
            configuration
        };
        Some(SnapshotMeta {
            position: Position { index, term },
            cluster_id: self.log.cluster_id()?,
            log_time_ms,
            configuration_index,
            configuration,
        })
    }

    /// Log time at `now` (S3), if this node leads: no other's clock counts.
    pub fn log_time_ms(&self, now: Time) -> Option<u64> {
        match &self.role {
            Role::Leader(leading) => {
                Some(leading.log_time_ms(now).max(self.log.last_log_time_ms()))
            }
            _ => None,
        }
    }

    /// Operators' orders in the log, committed or not (P5): where each stands, and the entry that it
    /// names. Whoever applies must know of them before it comes to that entry.
    pub fn skips(&self) -> &BTreeMap<Index, Index> {
        self.log.skips()
    }

    /// Where the log ends, durable or not.
    pub fn last(&self) -> Position {
        self.log.last()
    }

    /// Term of the entry at `index`; none beyond the end.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.log.term_at(index)
    }

    /// The cluster, once its founding entry is in the log.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.log.cluster_id()
    }

    /// Whether anything beyond the founding and leaders' first entries is in the log (F2).
    pub fn has_entries(&self) -> bool {
        self.log.has_entries
    }

    /// The configuration in force: the latest in the log (§6).
    pub fn configuration(&self) -> (Index, Arc<Configuration>) {
        self.log.configurations.latest()
    }

    /// The latest configuration that is committed.
    pub fn committed_configuration(&self) -> (Index, Arc<Configuration>) {
        self.log.configurations.as_of(self.commit_index)
    }

    /// The configuration before the latest, while that is not known to be committed: then this one is (M5, one
    /// change at a time), though a crash have forgotten it.
    pub(crate) fn configuration_in_doubt(&self) -> Option<Arc<Configuration>> {
        let latest = self.configuration().0;
        (latest > self.commit_index).then(|| self.log.configurations.as_of(latest - 1).1)
    }

    /// What this node, as leader, knows of the others. Empty when it does not lead.
    pub fn peers(&self) -> BTreeMap<NodeId, PeerView> {
        match &self.role {
            Role::Leader(leading) => leading.peer_views(),
            _ => BTreeMap::new(),
        }
    }

    /// Entries from `from` to at most `to`, until `max_bytes` are reached, but at least one. None
    /// when `from` is no longer in memory: read it from the disk.
    pub fn entries(&self, from: Index, to: Index, max_bytes: usize) -> Option<Vec<Entry>> {
        self.log.slice(from, to, max_bytes, usize::MAX)
    }

    /// What this node promised (figure 2). It can be read, and is changed only together with a
    /// request to store it.
    pub fn hard_state(&self) -> &HardState {
        &self.hard
    }

    /// This node's own fitness to lead.
    pub fn health(&self) -> Health {
        Health {
            disk_sick: self.disk.sick,
            state_machine_sick: self.state_machine_silent.is_some(),
            stopping: self.stopping,
        }
    }

    // ---- what leaves the core ----

    pub(crate) fn event(&mut self, event: Event) {
        self.effects.push(Effect::Event(event));
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Sends now if the hard state is durable, else as soon as it is: no word in a term, and no vote,
    /// leaves before that (figure 2, "updated on stable storage before responding to RPCs").
    pub(crate) fn send(&mut self, to: NodeId, message: Message) {
        if self.hard_state_is_durable() || mutant!(SpeakBeforeDurable) {
            self.effects.push(Effect::Send { to, message });
        } else {
            if self.held.len() >= MAX_HELD_MESSAGES {
                self.held.pop_front();
            }
            self.held.push_back((self.disk.hard_sequence, to, message));
        }
    }

    // ---- what goes to the disk ----

    pub(crate) fn pending_write(&mut self) -> &mut Write {
        let disk = &mut self.disk;
        disk.pending.get_or_insert_with(|| {
            let sequence = disk.next_sequence;
            disk.next_sequence += 1;
            Write {
                sequence,
                generation: disk.generation,
                hard_state: None,
                install: None,
                truncate_from: None,
                entries: Vec::new(),
                compact_to: None,
            }
        })
    }

    /// Changes the hard state; the change is stored with the next write. What is said from here on
    /// rests on it if it is a promise; what is remembered of peers is none.
    pub(crate) fn change_hard_state(&mut self, change: impl FnOnce(&mut HardState)) {
        let promises = (self.hard.current_term, self.hard.voted_for);
        change(&mut self.hard);
        let hard = self.hard.clone();
        let promised = promises != (hard.current_term, hard.voted_for);
        let write = self.pending_write();
        write.hard_state = Some(hard);
        let sequence = write.sequence;
        if promised {
            self.disk.hard_sequence = sequence;
        }
    }

    /// Appends to the log, in memory now and on disk with the next write.
    pub(crate) fn append_to_log(&mut self, entry: Entry) {
        self.log.append(entry.clone());
        self.pending_write().entries.push(entry);
    }

    /// Drops uncommitted entries that are not the leader's (§5.3). Reports of writes that were asked
    /// for before say nothing of the log any more (D2).
    pub(crate) fn truncate_log(&mut self, from: Index) {
        assert!(
            from > self.commit_index,
            "committed entries are never truncated"
        );
        // One write truncates first and appends afterwards, so what was pending goes first.
        if self
            .disk
            .pending
            .as_ref()
            .is_some_and(|write| !write.entries.is_empty())
        {
            self.flush_write();
        }
        self.log.truncate_from(from);
        let write = self.begin_generation(from - 1);
        write.truncate_from = Some(
            write
                .truncate_from
                .map_or(from, |earlier| earlier.min(from)),
        );
    }

    /// The log gives way to a snapshot (W2): a new generation, in which nothing is durable until the
    /// disk says so (D2). Term and vote stay as they are.
    pub(crate) fn install_snapshot(&mut self, snapshot: Arc<SnapshotMeta>) {
        // One write installs first and appends afterwards, so what was pending goes first.
        self.flush_write();
        self.log.install(snapshot.clone());
        let write = self.begin_generation(0);
        write.install = Some(snapshot);
        if mutant!(W2VoteForgotten) {
            self.change_hard_state(|hard| hard.voted_for = None);
        }
    }

    /// The log is another one from the next write on, and durable no further than up to here: reports of
    /// writes that were asked for before say nothing of it any more (D2).
    fn begin_generation(&mut self, durable_index: Index) -> &mut Write {
        let disk = &mut self.disk;
        disk.generation += 1;
        if !mutant!(D2DurableNotLowered) {
            disk.durable_index = disk.durable_index.min(durable_index);
        }
        let generation = disk.generation;
        let write = self.pending_write();
        write.generation = generation;
        write
    }

    fn flush_write(&mut self) {
        if let Some(write) = self.disk.pending.take() {
            if self.disk.outstanding.is_empty() {
                self.disk.waiting_since = self.now;
            }
            self.disk.outstanding.push_back(Outstanding {
                sequence: write.sequence,
                since: self.now,
                bytes: write.entries.iter().map(Entry::cost_bytes).sum(),
            });
            self.effects.push(Effect::Persist(write));
        }
    }

    fn on_persisted(&mut self, report: Persisted) {
        if report.sequence >= self.disk.next_sequence {
            return; // Never handed over by this core: nothing can rest on it.
        }
        self.disk.persisted_sequence = self.disk.persisted_sequence.max(report.sequence);
        while self
            .disk
            .outstanding
            .front()
            .is_some_and(|write| write.sequence <= report.sequence)
        {
            if let Some(write) = self.disk.outstanding.pop_front()
                && self.now.since(write.since) < self.options.elect_timeout_min / 2
                && self.disk.sick
                && !mutant!(D4NeverHeals)
            {
                self.disk.sick = false;
                self.event(Event::DiskHealth { sick: false });
            }
        }
        self.disk.waiting_since = self.now;
        // D2: only a report of this generation, about an entry that is still the one in the log.
        let ours = report.generation == self.disk.generation && self.log.matches(report.last);
        if ours || mutant!(D2LateReportCounts) {
            let installing = self.is_installing();
            self.disk.durable_index = self.disk.durable_index.max(report.last.index);
            if installing && let Some(snapshot) = self.log.snapshot().cloned() {
                self.effect(Effect::SnapshotInstalled { snapshot });
            }
        }
        while let Some((sequence, _, _)) = self.held.front() {
            if *sequence > self.disk.persisted_sequence {
                break;
            }
            if let Some((_, to, message)) = self.held.pop_front() {
                self.effects.push(Effect::Send { to, message });
            }
        }
        match self.role {
            Role::Leader(_) => self.advance_commit_index(),
            Role::Candidate(_) => self.count_own_vote(),
            _ => self.acknowledge_durable(),
        }
    }

    /// A write has been outstanding for too long (D4). One that is larger than a batch may take its
    /// time: it says nothing of the disk.
    fn check_disk(&mut self) {
        if self.now >= self.disk_deadline() {
            self.disk.sick = true;
            self.event(Event::DiskHealth { sick: true });
            if !mutant!(D4SickLeads) {
                self.yield_leadership("its disk is sick");
            }
        }
    }

    /// When the disk counts as sick, if nothing is completed until then: a write of usual size has
    /// waited for so long, and for its turn no longer.
    fn disk_deadline(&self) -> Time {
        let usual = self.options.max_batch_bytes;
        let mut writes = self.disk.outstanding.iter();
        match writes.find(|write| write.bytes <= usual) {
            Some(write) if !self.disk.sick => {
                self.disk.waiting_since.max(write.since) + self.options.elect_timeout_max
            }
            _ => Time::NEVER,
        }
    }

    fn run_timers(&mut self) {
        self.check_disk();
        match self.role {
            Role::Leader(_) => self.run_leader_timers(),
            _ => self.run_election_timers(),
        }
        self.run_follower_reads();
    }

    fn finish(&mut self) -> Vec<Effect> {
        self.flush_write();
        // D1: committed and durable here, never one without the other.
        let ready = if mutant!(D1AppliedBeforeDurable) {
            self.commit_index
        } else {
            self.commit_index.min(self.disk.durable_index)
        };
        if ready > self.committed_told {
            self.committed_told = ready;
            self.effects.push(Effect::Committed { index: ready });
            self.check_retirement();
        }
        self.log
            .evict(self.options.log_cache_bytes, self.disk.durable_index);
        std::mem::take(&mut self.effects)
    }

    /// This node's id was removed for good, or its cluster is no more (M3, F2). While the change is
    /// joint its vote is still needed (M1).
    fn check_retirement(&mut self) {
        let configuration = self.committed_configuration().1;
        let removed = configuration.has_left(self.id);
        let dissolved = self
            .log
            .dissolved_at
            .is_some_and(|at| at <= self.committed_told);
        if (removed || dissolved) && !self.retired {
            self.retired = true;
            self.effects.push(Effect::Retired);
        }
    }

    /// Founds a cluster with this node as its only voter (F1). The founding entry gets a term of its
    /// own before any election, so that it is committed like every other entry: by a leader's no-op.
    fn found(&mut self, cluster_id: ClusterId, alone: bool) {
        if self.log.last() != Position::ZERO {
            return;
        }
        let id = self.id;
        let term = self.hard.current_term + 1;
        self.change_hard_state(|hard| {
            hard.current_term = term;
            hard.voted_for = Some(id);
        });
        self.append_to_log(Entry {
            index: 1,
            term,
            log_time_ms: 0,
            payload: Payload::Founding {
                cluster_id,
                founder: id,
                alone,
            },
        });
        self.campaign_now();
    }

    /// Follows the term of a message, or gives up a role within the term.
    pub(crate) fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        assert!(term >= self.hard.current_term, "terms never fall");
        if term > self.hard.current_term {
            self.change_hard_state(|hard| {
                hard.current_term = term;
                hard.voted_for = None;
            });
            self.following.new_term();
        } else if mutant!(VoteForgottenByStepDown) {
            self.change_hard_state(|hard| hard.voted_for = None);
        }
        let was = std::mem::replace(&mut self.role, Role::Follower);
        if let Role::Leader(leading) = was {
            self.effects.push(Effect::SteppedDown);
            self.fail_leader_requests(*leading);
            self.arm_election_timer();
        }
        if self.following.leader() != leader {
            self.event(Event::BecameFollower { term, leader });
        }
        self.following.set_leader(leader, term, self.now);
    }

    // ---- one value for all that behave alike ----

    pub(crate) fn for_each_time(&mut self, change: &mut dyn FnMut(&mut Time)) {
        for write in &mut self.disk.outstanding {
            change(&mut write.since);
        }
        change(&mut self.disk.waiting_since);
        for suspect in self.suspects.values_mut() {
            change(&mut suspect.asked);
        }
        if let Some(since) = &mut self.state_machine_silent {
            change(since);
        }
        self.following.for_each_time(change);
        self.succession.for_each_time(change);
        self.follower_reads.for_each_time(change);
        if let Role::Leader(leading) = &mut self.role {
            leading.for_each_time(change);
        }
    }

    /// Counts writes from the last one that is durable, and generations from the present one.
    pub(crate) fn rename_writes(&mut self) -> Renamed {
        let disk = &mut self.disk;
        let renamed = Renamed {
            sequences: disk.persisted_sequence,
            generation: disk.generation,
        };
        disk.persisted_sequence = 0;
        disk.generation = 1;
        disk.next_sequence -= renamed.sequences;
        disk.hard_sequence = disk.hard_sequence.saturating_sub(renamed.sequences);
        for write in &mut disk.outstanding {
            write.sequence -= renamed.sequences;
        }
        for (sequence, _, _) in &mut self.held {
            *sequence -= renamed.sequences;
        }
        renamed
    }

    pub(crate) fn majority_of(&self, has: impl Fn(NodeId) -> bool) -> bool {
        self.configuration().1.is_quorum(has)
    }

    /// Everyone else who receives the log.
    pub(crate) fn others(&self) -> BTreeSet<NodeId> {
        let mut members = self.configuration().1.members();
        members.remove(&self.id);
        members
    }

    /// Everyone else who votes.
    pub(crate) fn other_voters(&self) -> BTreeSet<NodeId> {
        let mut voters = self.configuration().1.all_voters();
        voters.remove(&self.id);
        voters
    }

    pub(crate) fn random_election_timeout(&mut self) -> Duration {
        let (min, max) = (
            self.options.elect_timeout_min,
            self.options.elect_timeout_max,
        );
        let timeout = self.dice.between(min, max);
        // D4: the sick stand last, never aside for ever. So does who is to go.
        if (self.disk.sick && !mutant!(D4SickInNoHurry)) || self.is_last_resort() {
            timeout * 4
        } else {
            timeout
        }
    }

    // ---- peers' words ----

    fn on_message(&mut self, from: NodeId, message: Message) {
        self.ask_again(from);
        if from == self.id {
            return self.event(Event::Nonsense {
                peer: from,
                what: "a message from itself",
            });
        }
        if message.term() > self.hard.current_term.saturating_add(MAX_LEAP) {
            return self.event(Event::Nonsense {
                peer: from,
                what: "a term that nobody can reach",
            });
        }
        // Elections have rules of their own for terms (E3).
        let message = match message {
            Message::RequestVote(request) => return self.on_request_vote(from, &request),
            Message::RequestVoteReply(reply) => return self.on_request_vote_reply(from, &reply),
            other => other,
        };
        let term = message.term();
        if term < self.hard.current_term && !mutant!(StaleTermObeyed) {
            return self.on_older_term(from, &message);
        }
        if term > self.hard.current_term {
            let leads = matches!(
                message,
                Message::AppendEntries(_)
                    | Message::InstallSnapshot { .. }
                    | Message::Heartbeat(_)
                    | Message::CommitNotice { .. }
            );
            // A leader's configuration is the latest: nobody outside it can depose it by a term.
            let stranger = matches!(self.role, Role::Leader(_)) && !self.others().contains(&from);
            let ignored = stranger && !leads && !mutant!(E3StrangerDeposes);
            if ignored || mutant!(HigherTermIgnored) {
                return;
            }
            let (theirs, ours) = (term, self.hard.current_term);
            self.event(Event::MismatchTerm {
                peer: from,
                theirs,
                ours,
            });
            if matches!(self.role, Role::Leader(_)) {
                self.event(Event::SteppedDown {
                    term: ours,
                    reason: "a higher term was seen",
                });
            }
            self.become_follower(term, None);
        }
        match message {
            Message::AppendEntries(append) => self.on_append_entries(from, append),
            Message::AppendEntriesReply(reply) => self.on_append_entries_reply(from, &reply),
            Message::InstallSnapshot { position, .. } => self.on_install_snapshot(from, position),
            Message::Heartbeat(heartbeat) => self.on_heartbeat(from, &heartbeat),
            Message::HeartbeatReply(reply) => self.on_heartbeat_reply(from, &reply),
            Message::CommitNotice { commit_index, .. } => self.on_commit_notice(from, commit_index),
            Message::TimeoutNow { token, .. } => self.on_timeout_now(from, token),
            Message::ReadIndex { ask, .. } => self.on_read_index(from, ask),
            Message::ReadIndexReply { ask, index, .. } => {
                self.on_read_index_reply(from, ask, index);
            }
            Message::HigherTerm { .. } | Message::RequestVote(_) | Message::RequestVoteReply(_) => {
            }
        }
    }

    /// Somebody is behind. A leader or a candidate is told so (E3); an answer to what this node said
    /// in an earlier term is of no use to anyone.
    fn on_older_term(&mut self, from: NodeId, message: &Message) {
        let asks = matches!(
            message,
            Message::AppendEntries(_)
                | Message::InstallSnapshot { .. }
                | Message::Heartbeat(_)
                | Message::CommitNotice { .. }
                | Message::ReadIndex { .. }
        );
        if asks && !mutant!(E3HigherTermNotTold) {
            let (theirs, ours) = (message.term(), self.hard.current_term);
            self.event(Event::MismatchTerm {
                peer: from,
                theirs,
                ours,
            });
            self.send(from, Message::HigherTerm { term: ours });
        }
    }

    /// A peer opens a stream and says how far its disk goes. Less than it said before means that its
    /// disk has forgotten promises, or that this word is older than what came on another stream
    /// meanwhile: only the answer to a question asked now tells the two apart (D5).
    fn on_hello(
        &mut self,
        peer: NodeId,
        (boot, term): (Boot, Term),
        durable_index: Index,
        challenged: Option<u64>,
    ) {
        let known = self.hard.peers.get(&peer).copied().unwrap_or_default();
        let leap = |from: u64, to: u64| to > from.saturating_add(MAX_LEAP);
        if leap(known.0, boot) || leap(self.hard.current_term, term) {
            let what = "a hello from a term or start that nobody can reach";
            return self.event(Event::Nonsense { peer, what });
        }
        let acked = match &self.role {
            Role::Leader(leading) => (self.hard.current_term, leading.match_index(peer)),
            _ => (0, 0),
        };
        let suspect = self.suspects.get(&peer).copied();
        let challenged = match (suspect, challenged) {
            (Some(suspect), Some(number)) => number >= suspect.first,
            _ => false,
        };
        // An answer is held against what was known when it was asked for: later acknowledgements
        // may have overtaken it.
        let (said, acked) = match suspect {
            Some(suspect) if challenged => suspect.known,
            _ => (known, acked),
        };
        // Who has acknowledged anything in a term has that term on its disk, whatever its Hello said before.
        let less_than_acked = acked.1 > 0 && (term, durable_index) < acked;
        let less = boot < said.0 || term < said.1 || less_than_acked;
        let less = less && !mutant!(D5RollbackUnnoticed);
        match suspect {
            // It stays a suspect: whatever it may still say counts for nothing.
            Some(_) if challenged && less => return self.effect(Effect::RolledBack { peer }),
            Some(_) if challenged => self.trust_again(peer),
            // An answer may be to an earlier challenge: it is held against the earliest knowledge.
            Some(_) => self.challenge(peer),
            None if less => {
                let suspect = Suspect {
                    known: (said, acked),
                    first: self.challenges + 1,
                    asked: self.now,
                };
                self.suspects.insert(peer, suspect);
                if mutant!(D5CondemnedUnasked) {
                    self.effect(Effect::RolledBack { peer });
                }
                return self.challenge(peer);
            }
            None => {}
        }
        let highest = (boot.max(known.0), term.max(known.1));
        if highest != known && !less && self.configuration().1.is_voter(peer) {
            self.change_hard_state(|hard| {
                hard.peers.insert(peer, highest);
            });
        }
    }

    /// The question or its answer may be lost, while other streams go on.
    fn ask_again(&mut self, peer: NodeId) {
        let (now, patience) = (self.now, self.options.elect_timeout_min);
        if let Some(suspect) = self.suspects.get_mut(&peer)
            && now.since(suspect.asked) >= patience
        {
            suspect.asked = now;
            self.challenge(peer);
        }
    }

    fn challenge(&mut self, peer: NodeId) {
        self.challenges += 1;
        let number = self.challenges;
        self.effect(Effect::Challenge { peer, number });
    }

    /// The peer's disk has all that it ever reported: what it said meanwhile counts.
    fn trust_again(&mut self, peer: NodeId) {
        self.suspects.remove(&peer);
        match self.role {
            Role::Leader(_) => {
                self.advance_commit_index();
                self.confirm_reads();
            }
            _ => self.decide_campaign(),
        }
    }
}
