//! The daemon's driver: one input at a time to the core, and its effects carried out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use raft_core::waiters::Waiters;
use raft_core::{
    Effect, Entry, Index, Input, NodeId, Persisted, Position, Proposal, Raft, RequestId, RoleName,
};
use raft_disk::{Disk, Identity, LogReader, LogStore, SnapshotStore};

use super::applying::Applying;
use super::links::Links;
use super::message::{Claim, Wire};
use super::pulling::Pulling;
use super::serving::{Put, Reading, Serving};
use super::storing::Storing;
use super::{
    Ending, Note, Parts, Power, StartError, Task, Told, address_of, snapshot_options, time,
};
use crate::dice::Dice;
use crate::party::Party;
use crate::world::{Address, Event, Host, Lane};

/// Bytes of entries that go to the state machine from memory at once.
pub(super) const HANDED_OUT_BYTES: usize = 1 << 20;

/// Who waits for an entry.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    pub client: Address,
    pub number: u64,
    /// Where it stands, if it stands nowhere else: it is of no session.
    pub stands: Option<Position>,
}

/// A daemon's process.
pub(super) struct Process {
    pub raft: Raft,
    pub identity: Identity,
    pub store: LogStore,
    pub reader: LogReader,
    pub snapshots: SnapshotStore,
    pub power: Power,
    pub storing: Storing,
    pub applying: Applying,
    pub links: Links,
    pub pulling: Pulling,
    pub serving: Serving,
    pub waiters: Waiters<Asker>,
    /// Proposals in the core's hands.
    pub proposals: BTreeMap<RequestId, (bool, Address, u64)>,
    pub reads: BTreeMap<RequestId, Reading>,
    pub next_request: RequestId,
    /// What waits to become the next batch.
    pub puts: Vec<Put>,
    pub submitted: u64,
    pub reported: u64,
    handed_out: Index,
    applied_told: Index,
    claim: Claim,
    /// Whose disks have lost promises.
    pub rolled_back: BTreeSet<NodeId>,
    /// Leads, index of the latest configuration, of the committed one: as the links know it.
    published: (bool, Index, Index),
}

impl Process {
    /// Opens what the disk holds.
    pub fn open(parts: &mut Parts, host: &mut Host<'_, Party>) -> Result<Process, StartError> {
        let disk_error = |error: raft_disk::IdentityError| match error {
            raft_disk::IdentityError::Disk(failure) => StartError::Disk(failure.to_string()),
            other => StartError::Damaged(other.to_string()),
        };
        let power = Power::on(&parts.disk);
        let disk: Arc<dyn Disk> = Arc::new(power.clone());
        let mut identity =
            Identity::open_or_create(disk.clone(), Some(parts.id)).map_err(disk_error)?;
        let snapshots = SnapshotStore::open(disk.clone(), snapshot_options())
            .map_err(|failure| StartError::Disk(failure.to_string()))?;
        let options = raft_disk::Options {
            segment_bytes: parts.tuning.segment_bytes,
            tail_cache_bytes: parts.tuning.options.log_cache_bytes,
            lay_out_ahead: false,
        };
        let (store, recovered) = LogStore::open(disk, options)?;
        identity.settle(recovered.cluster_id).map_err(disk_error)?;
        let boot = identity.next_boot().map_err(disk_error)?;
        let note = Note::Began {
            recovered: Box::new(recovered.clone()),
            boot,
        };
        let seed = parts.dice.roll();
        let options = parts.tuning.options.clone();
        let raft = Raft::new(parts.id, boot, options, recovered, time(host), seed);
        parts.note(note);
        let (term, durable_index) = raft.durable_claim().unwrap_or_default();
        let claim = Claim {
            boot,
            term,
            durable_index,
        };
        host.after(500_000, Task::Sweep);
        host.after(1_000, Task::Connect(1));
        Ok(Process {
            reader: store.reader(),
            raft,
            identity,
            store,
            snapshots,
            power,
            storing: Storing::default(),
            applying: Applying::new(1),
            links: Links::default(),
            pulling: Pulling::default(),
            serving: Serving::default(),
            waiters: Waiters::default(),
            proposals: BTreeMap::new(),
            reads: BTreeMap::new(),
            next_request: 0,
            puts: Vec::new(),
            submitted: 0,
            reported: 0,
            handed_out: 0,
            applied_told: 0,
            claim,
            rolled_back: BTreeSet::new(),
            published: (false, Index::MAX, Index::MAX),
        })
    }

    /// The end: what the disk was doing is done, half done or not done.
    pub fn die(&mut self, parts: &mut Parts, dice: &mut Dice) {
        self.power.off_after(dice.below(8));
        self.write_snapshot_in_dying(parts);
        self.write_in_dying(parts);
        self.power.off_after(0);
    }

    pub fn recorded(&self) -> Index {
        self.applying.walk.recorded
    }

    pub fn waiting(&self) -> usize {
        self.waiters.len()
            + self.reads.len()
            + self.puts.len()
            + self.storing.queue.len()
            + self.serving.len()
    }

    pub fn claim(&self) -> Claim {
        self.claim
    }

    pub fn leads(&self) -> bool {
        self.raft.role() == RoleName::Leader
    }

    pub fn happen(
        &mut self,
        parts: &mut Parts,
        event: Event<Wire, Task>,
        host: &mut Host<'_, Party>,
    ) {
        match event {
            Event::Timer => self.step(parts, host, Input::Tick),
            Event::Task(task) => self.take_task(parts, host, task),
            Event::Received {
                from,
                lane,
                message,
            } => self.received(parts, host, from, lane, message),
            Event::Called { from, message } => self.called(parts, host, from, message),
            Event::Refused { message, .. } => self.refused(parts, host, message),
            Event::Opened { peer, lane } => self.opened(parts, host, peer, lane),
            Event::Closed { peer, lane } => self.closed(parts, host, peer, lane),
            Event::Ended { peer, lane } => self.ended(parts, host, peer, lane),
        }
        self.digest_entries(parts, host);
        self.digest_commits(parts, host);
        self.publish(parts, host);
    }

    fn take_task(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>, task: Task) {
        match task {
            Task::Stored => self.stored(parts, host),
            Task::Mark(written) => self.mark(written),
            Task::Fetched {
                peer,
                from,
                entries,
            } => {
                let input = Input::Fetched {
                    peer,
                    from,
                    entries,
                };
                self.step(parts, host, input);
            }
            Task::Connect(attempt) => self.connect(parts, host, attempt),
            Task::Execute { epoch, sent, floor } => {
                self.execute(parts, host, epoch, sent, floor);
            }
            Task::Executed {
                epoch,
                nonce,
                sent,
                outcomes,
            } => self.executed(parts, host, epoch, nonce, &sent, outcomes),
            Task::MachineGone(nonce) => self.machine_gone(parts, host, nonce),
            Task::Query(request) => self.query(parts, host, request),
            Task::WriteSnapshot(taken) => self.write_snapshot(parts, host, &taken),
            Task::PullLate(serial) => self.pull_late(parts, serial),
            Task::Reopen(peer, lane) => self.reopen(parts, host, peer, lane),
            Task::Sweep => self.sweep(parts, host),
            Task::AnswerLog {
                to,
                number,
                question,
                entries,
            } => self.answer_log(host, to, number, &question, entries),
            Task::Repair(_)
            | Task::MachineSync
            | Task::MachineStart
            | Task::Think(_)
            | Task::Late(_) => {}
        }
    }

    /// What comes round from time to time.
    fn sweep(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>) {
        host.after(500_000, Task::Sweep);
        self.expire_sessions(parts, host);
        self.watch_call(parts, host);
        self.pull_another(parts, host);
        if self.raft.is_left_alone() {
            for member in self.raft.configuration().1.members() {
                if member != parts.id {
                    self.knock(host, member);
                }
            }
        }
    }

    /// Hands one input to the core, and carries out what comes back.
    pub fn step(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>, input: Input) {
        let told = Told::of(&self.raft, &input);
        let now = host.now();
        parts.note(Note::Step { now, told });
        let effects = self.raft.step(time(host), input);
        // Before any acknowledgement leaves: a Hello that is composed later must not claim less (D5).
        if let Some((term, durable_index)) = self.raft.durable_claim() {
            self.claim.term = term;
            self.claim.durable_index = durable_index;
        }
        for effect in effects {
            self.carry_out(parts, host, effect);
        }
    }

    fn carry_out(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>, effect: Effect) {
        match effect {
            Effect::Persist(write) => {
                self.submitted = write.sequence;
                self.submit(parts, host, write);
            }
            Effect::Send { to, message } => {
                if is_promise(&message) {
                    let message = message.clone();
                    parts.note(Note::Sent { to, message });
                }
                self.send(parts, host, to, message);
            }
            Effect::Fetch {
                peer,
                from,
                to,
                max_bytes,
            } => {
                let entries = self.reader.read(from, to, max_bytes).unwrap_or_default();
                let wait = parts.draw(parts.tuning.sync);
                let task = Task::Fetched {
                    peer,
                    from,
                    entries,
                };
                host.after(wait, task);
            }
            Effect::PullSnapshot { from, position } => self.pull(parts, host, from, position),
            Effect::SnapshotInstalled { snapshot } => parts.note(Note::Snapshot {
                meta: snapshot,
                installed: true,
            }),
            Effect::Committed { index } => self.hand_out(parts, index),
            Effect::Accepted { request, position } => {
                if let Some((in_session, client, number)) = self.proposals.remove(&request) {
                    let asker = Asker {
                        client,
                        number,
                        stands: (!in_session).then_some(position),
                    };
                    self.waiters.wait(position, in_session, asker);
                }
            }
            Effect::Refused { request, reason } => {
                if let Some((_, client, number)) = self.proposals.remove(&request) {
                    parts.say(|| format!("refuses request {number} of {client}: {reason}"));
                    self.reply(host, client, number, super::message::Reply::NotDone);
                }
            }
            Effect::SteppedDown => {
                let unknown = self.waiters.stepped_down(self.raft.commit_index());
                for Asker { client, number, .. } in unknown {
                    self.reply(host, client, number, super::message::Reply::Unknown);
                }
            }
            Effect::ReadReady { request, index } => {
                let read = Note::Read {
                    request,
                    index: Some(index),
                };
                parts.note(read);
                self.read_ready(parts, host, request, index);
            }
            Effect::ReadFailed { request, .. } => {
                parts.note(Note::Read {
                    request,
                    index: None,
                });
                self.read_failed(host, request);
            }
            Effect::Probe { peer, boot, term } => {
                let of = (peer, boot, term);
                parts.note(Note::Probe { of });
                let message = Wire::Probe {
                    to: peer,
                    boot,
                    term,
                };
                host.call(address_of(peer), message);
            }
            Effect::LeaveDecided {
                request, removed, ..
            } => parts.note(Note::LeaveDecided { request, removed }),
            Effect::Challenge { peer, number } => {
                let asker = self.claim.boot;
                let question = Wire::Challenge {
                    to: peer,
                    number,
                    asker,
                };
                host.call(address_of(peer), question);
                parts.note(Note::Challenged(peer));
            }
            Effect::RolledBack { peer } => {
                self.rolled_back.insert(peer);
                parts.note(Note::RolledBack(peer));
                self.look_at_standings(host);
            }
            Effect::Retired => parts.end(Ending::Retired),
            Effect::Event(event) => parts.note(Note::Event(event)),
        }
    }

    /// Everything that waited becomes one batch, unless it would only wait behind a write.
    fn digest_entries(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>) {
        let waits = self.submitted > self.reported && self.leads() && !self.raft.health().disk_sick;
        if self.puts.is_empty() || waits {
            return;
        }
        let recorded = self.recorded();
        if recorded > self.applied_told {
            self.applied_told = recorded;
            self.step(parts, host, Input::Applied { index: recorded });
        }
        let mut batch = Vec::new();
        for put in std::mem::take(&mut self.puts) {
            self.next_request += 1;
            let request = self.next_request;
            let mark = (put.in_session, put.client, put.number);
            self.proposals.insert(request, mark);
            batch.push(Proposal {
                request,
                payload: put.payload,
            });
        }
        self.step(parts, host, Input::PutEntries(batch));
        for (_, client, number) in std::mem::take(&mut self.proposals).into_values() {
            parts.note(Note::Wrong(
                "a proposal was not answered at once".to_owned(),
            ));
            self.reply(host, client, number, super::message::Reply::Unknown);
        }
    }

    fn hand_out(&mut self, parts: &mut Parts, index: Index) {
        let from = self.handed_out + 1;
        let entries = self.entries(from.max(self.reader.first()), index);
        parts.note(Note::Committed { index, entries });
        self.handed_out = index;
        self.applying.committed = index;
    }

    /// Entries of the log, from memory or from the disk; perhaps fewer.
    pub fn entries(&self, from: Index, to: Index) -> Vec<Entry> {
        if from > to {
            return Vec::new();
        }
        match self.raft.entries(from, to, HANDED_OUT_BYTES) {
            Some(entries) => entries,
            None => {
                let read = self.reader.read(from, to, HANDED_OUT_BYTES);
                read.unwrap_or_default()
            }
        }
    }

    fn publish(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>) {
        let (index, latest) = self.raft.configuration();
        let now = (self.leads(), index, self.raft.committed_configuration().0);
        if now != self.published {
            self.published = now;
            parts.known.extend(latest.members());
            self.look_at_standings(host);
            let members = if now.0 {
                latest.members()
            } else {
                BTreeSet::new()
            };
            self.keep(host, members);
        }
        if self.identity.cluster_id().is_none()
            && self.raft.durable_index() >= 1
            && let Some(cluster) = self.raft.cluster_id()
        {
            // A failure shows at the next write.
            let _ = self.identity.bind(cluster);
        }
    }

    pub fn report(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>, report: Persisted) {
        self.reported = report.sequence;
        self.step(parts, host, Input::Persisted(report));
    }

    pub fn goodbye(&mut self, host: &mut Host<'_, Party>) {
        self.links.goodbye(host);
    }

    pub fn lane_of(message: &raft_core::Message) -> Lane {
        if message.is_bulk() {
            Lane::Bulk
        } else {
            Lane::Small
        }
    }
}

/// A message by which a node promises something.
fn is_promise(message: &raft_core::Message) -> bool {
    matches!(
        message,
        raft_core::Message::RequestVote(_)
            | raft_core::Message::RequestVoteReply(_)
            | raft_core::Message::AppendEntriesReply(_)
            | raft_core::Message::TimeoutNow { .. }
    )
}

/// A queue with the name that the module gives it.
pub(super) type Queue<T> = VecDeque<T>;
