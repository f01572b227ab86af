//! digest_commits: committed entries go to the state machine, in order, in batches, one call in flight.
//! What is decided on the way is decided by [`raft_core::walk`].

use std::sync::Arc;

use bytes::Bytes;
use raft_core::sessions::{Outcome, OutcomeKind, SessionTable};
use raft_core::waiters::Answer;
use raft_core::walk::{Height, Sent, Walk};
use raft_core::{Index, Input, Payload, Position};
use raft_disk::{Disk, SnapshotError};
use state_machine::snapshot::FORMAT;

use super::machine::Hello;
use super::message::Reply;
use super::process::{Asker, Process};
use super::serving::Put;
use super::{Note, Parts, Taken, Task};
use crate::party::Party;
use crate::world::{Address, Host, Micros};

/// First and longest wait between two attempts to reach the state machine.
const BACKOFF: (Micros, Micros) = (20_000, 1_000_000);

/// A state machine that died over an entry is started again after so long.
const MACHINE_BACK: Micros = 50_000;

/// A call is answered within this, or its epoch ends.
const CALL_DEADLINE: Micros = 1_000_000;

/// Who proposes the end of a session waits for no answer.
pub(super) const NOBODY: Address = Address::MAX;

/// How far the log was applied, and the epoch.
pub(super) struct Applying {
    pub walk: Walk,
    /// Committed and durable here.
    pub committed: Index,
    pub epoch: Option<Epoch>,
    epochs: u32,
    failures: u32,
    /// A call of the state machine is in flight.
    calling: bool,
    /// Since when.
    called_at: Micros,
    /// Entries up to here go one by one: the state machine has failed over one of them (P5).
    one_by_one: Index,
    /// The attempt to connect that counts.
    attempt: u32,
    /// A snapshot is being written.
    pub taking: Option<Box<()>>,
    /// A peer waits for one as of this entry or later.
    wanted: Index,
    sick: bool,
}

/// One connection to a state machine.
#[derive(Clone, Copy)]
pub(super) struct Epoch {
    pub number: u64,
    pub nonce: u64,
    next: Index,
    /// What it has acknowledged in this epoch.
    pub at: Index,
}

impl Applying {
    pub fn new(attempt: u32) -> Applying {
        Applying {
            walk: Walk::default(),
            committed: 0,
            epoch: None,
            epochs: 0,
            failures: 0,
            calling: false,
            called_at: 0,
            one_by_one: 0,
            wanted: 0,
            attempt,
            taking: None,
            sick: false,
        }
    }
}

impl Process {
    /// An attempt to open an epoch comes after so long.
    pub fn reach_machine(&mut self, _parts: &mut Parts, host: &mut Host<'_, Party>, wait: Micros) {
        if self.applying.epoch.is_none() {
            self.applying.attempt += 1;
            host.after(wait, Task::Connect(self.applying.attempt));
        }
    }

    fn try_again(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>) {
        let (first, longest) = BACKOFF;
        let wait = (first << self.applying.failures.min(10)).min(longest);
        self.applying.failures = self.applying.failures.saturating_add(1);
        self.reach_machine(parts, host, wait);
    }

    fn health(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>, sick: bool) {
        if self.applying.sick != sick {
            self.applying.sick = sick;
            self.step(parts, host, Input::StateMachineHealth { sick });
        }
    }

    fn close_epoch(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>, reason: &str) {
        parts.say(|| format!("the epoch of the state machine ends: {reason}"));
        self.applying.epoch = None;
        self.applying.calling = false;
        self.health(parts, host, true);
        self.try_again(parts, host);
    }

    pub fn machine_gone(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>, nonce: u64) {
        if self
            .applying
            .epoch
            .is_some_and(|epoch| epoch.nonce == nonce)
        {
            self.close_epoch(parts, host, "it is gone");
        }
    }

    pub fn connect(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>, attempt: u32) {
        if attempt != self.applying.attempt || self.applying.epoch.is_some() {
            return;
        }
        match self.open_epoch(parts) {
            Ok((number, hello)) => {
                let applied = hello.applied.index;
                self.applying.epoch = Some(Epoch {
                    number,
                    nonce: hello.nonce,
                    next: self.applying.walk.next_after(applied),
                    at: applied,
                });
                self.applying.calling = false;
                self.health(parts, host, false);
            }
            Err(reason) => {
                parts.say(|| format!("no epoch: {reason}"));
                self.health(parts, host, true);
                self.try_again(parts, host);
            }
        }
    }

    fn open_epoch(&mut self, parts: &mut Parts) -> Result<(u64, Hello), String> {
        let cluster = self.identity.cluster_id().ok_or("no cluster yet")?;
        self.go_beyond_snapshot(parts)?;
        self.applying.epochs += 1;
        let number = (self.claim().boot << 32) | u64::from(self.applying.epochs);
        let mut hello = parts.machine.handshake(number, cluster, parts.id)?;
        self.compare(&hello)?;
        let (first, last) = (self.reader.first(), self.reader.last());
        let height = self.applying.walk.height(hello.applied.index, first, last);
        let mut restored = false;
        if height == Height::BeforeLog {
            let base = self.applying.walk.base().max(first.saturating_sub(1));
            hello.applied = self.restore(parts, number, base)?;
            restored = true;
        }
        parts.note(Note::Epoch {
            applied: hello.applied.index,
            restored,
        });
        Ok((number, hello))
    }

    /// Takes the walk up behind the newest snapshot, when that reaches beyond it.
    fn go_beyond_snapshot(&mut self, parts: &mut Parts) -> Result<(), String> {
        let newest = self.snapshots.newest().map(|newest| newest.meta.position);
        if let Some(position) = newest
            && position.index > self.applying.walk.recorded
        {
            let reader = self.snapshots.reader(position);
            let reader = reader.map_err(|error| self.unreadable(parts, position, &error))?;
            let table = SessionTable::decode(reader.sessions().clone())
                .map_err(|error| error.to_string())?;
            if table.applied_index() != position.index {
                return Err("its session table is of another index".to_owned());
            }
            self.applying.walk = Walk::behind(table, reader.meta().log_time_ms);
            for Asker { client, number, .. } in self.waiters.passed(position.index) {
                self.late_reply(client, number, Reply::Unknown);
            }
        }
        let floor = self.floor();
        self.applying.walk.forget_up_to(floor);
        Ok(())
    }

    /// Everything up to here is in a durable snapshot.
    fn floor(&self) -> Index {
        let newest = self.snapshots.newest();
        newest.map_or(0, |newest| newest.meta.position.index)
    }

    fn unreadable(
        &mut self,
        parts: &mut Parts,
        position: Position,
        error: &SnapshotError,
    ) -> String {
        let sentence = error.to_string();
        if let SnapshotError::Damaged { .. } | SnapshotError::Disk(_) = error {
            self.snapshots.give_up(position, sentence.clone());
            parts.say(|| format!("a snapshot is damaged: {sentence}"));
        }
        sentence
    }

    /// Whether the state fits the log (P2).
    fn compare(&mut self, hello: &Hello) -> Result<(), String> {
        let applied = hello.applied;
        let walk = &self.applying.walk;
        if applied.index == 0 || applied.index < walk.base() {
            return Ok(());
        }
        let (first, last) = (self.reader.first(), self.reader.last());
        if walk.height(applied.index, first, last) == Height::BeyondLog {
            return Err(format!(
                "it has {}, and the log ends at {last}",
                applied.index
            ));
        }
        let covered = self.snapshots.newest().map(|newest| newest.meta.position);
        let known = match covered.filter(|position| position.index == applied.index) {
            Some(position) => Some(position.term),
            None => {
                let read = self.reader.read(applied.index, applied.index, 1);
                read.unwrap_or_default().first().map(|entry| entry.term)
            }
        };
        match known {
            Some(term) if term == applied.term => Ok(()),
            Some(term) => Err(format!(
                "it has entry {} of term {}, and the log has term {term} there",
                applied.index, applied.term
            )),
            None => Err(format!("entry {} cannot be read to compare", applied.index)),
        }
    }

    fn restore(&mut self, parts: &mut Parts, epoch: u64, base: Index) -> Result<Position, String> {
        let newest = self.snapshots.newest();
        let usable = newest.filter(|newest| newest.meta.position.index >= base);
        let Some(position) = usable.map(|newest| newest.meta.position) else {
            self.pulling.wants_any(base);
            return Err("its snapshot is damaged: another one is being fetched".to_owned());
        };
        let reader = self.snapshots.reader(position);
        let reader = reader.map_err(|error| self.unreadable(parts, position, &error))?;
        let chunks: Result<Vec<Bytes>, _> = reader.chunks().collect();
        let chunks = chunks.map_err(|error| self.unreadable(parts, position, &error))?;
        let bytes = Bytes::from(chunks.concat());
        parts.machine.restore(epoch, position, &bytes)?;
        parts.say(|| {
            format!(
                "the state machine was given the snapshot as of {}",
                position.index
            )
        });
        Ok(position)
    }

    /// The next batch, if the state machine has time for one.
    pub fn digest_commits(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>) {
        let Some(epoch) = self.applying.epoch else {
            return;
        };
        if self.applying.calling || self.applying.committed < epoch.next {
            return;
        }
        let floor = self.floor();
        if floor >= epoch.next {
            return self.close_epoch(parts, host, "a snapshot took the place of the log");
        }
        self.applying.walk.forget_up_to(floor);
        if !self.heed_skip(parts, epoch.next) {
            return;
        }
        let most = match epoch.next <= self.applying.one_by_one {
            true => 1,
            false => parts.tuning.batch_entries as u64,
        };
        // An entry that is named by an order is decided about when it comes first.
        let skips = self.raft.skips().values();
        let named = skips.filter(|named| **named > epoch.next).min();
        let to = self.applying.committed.min(epoch.next + most - 1);
        let to = named.map_or(to, |named| to.min(named - 1));
        let entries = self.entries(epoch.next, to);
        if entries.is_empty() {
            // It is read again with the next event.
            return;
        }
        let (sent, _) = self.applying.walk.admit(entries);
        if sent.is_empty() {
            return parts.note(Note::Wrong("a batch waits for itself".to_owned()));
        }
        self.applying.calling = true;
        self.applying.called_at = host.now();
        let silent = parts.machine_hangs_until.saturating_sub(host.world_time());
        let wait = parts.draw(parts.tuning.execute) + silent;
        let epoch = epoch.number;
        host.after(wait, Task::Execute { epoch, sent, floor });
    }

    /// The batch is at the state machine.
    pub fn execute(
        &mut self,
        parts: &mut Parts,
        host: &mut Host<'_, Party>,
        epoch: u64,
        sent: Vec<Sent>,
        floor: Index,
    ) {
        let nonce = parts.machine.nonce().unwrap_or(0);
        parts.told_floor = parts.told_floor.max(floor);
        let outcomes = parts.machine.execute(epoch, floor, &sent);
        if nonce != 0 && parts.machine.nonce().is_none() {
            // It died over these entries.
            host.after(200, Task::MachineGone(nonce));
            host.after(MACHINE_BACK, Task::MachineStart);
        }
        if let Ok(outcomes) = &outcomes {
            if parts.machine.epoch().is_some_and(|latest| latest != epoch) {
                let what =
                    format!("the state machine obeys epoch {epoch}, which is not its latest");
                parts.note(Note::Wrong(what));
            }
            for (sent, outcome) in sent.iter().zip(outcomes) {
                let index = sent.position.index;
                let unknown = outcome.kind == OutcomeKind::AlreadyApplied;
                if unknown && sent.command.is_some() && index > parts.told_floor {
                    let floor = parts.told_floor;
                    let what =
                        format!("the outcome of {index} is lost, and the floor is {floor} (S1)");
                    parts.note(Note::Wrong(what));
                }
                parts.notes.push(Note::Applied {
                    position: sent.position,
                    command: sent.command.clone(),
                    outcome: outcome.clone(),
                });
            }
        }
        let wait = parts.draw(parts.tuning.execute);
        let task = Task::Executed {
            epoch,
            nonce,
            sent,
            outcomes,
        };
        host.after(wait, task);
    }

    /// Its answer is here.
    pub fn executed(
        &mut self,
        parts: &mut Parts,
        host: &mut Host<'_, Party>,
        number: u64,
        nonce: u64,
        sent: &[Sent],
        outcomes: Result<Vec<Outcome>, String>,
    ) {
        let Some(epoch) = self.applying.epoch.filter(|epoch| epoch.number == number) else {
            return;
        };
        if nonce != epoch.nonce || parts.machine.nonce() != Some(nonce) {
            return; // The connection has ended, and that is told too.
        }
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(reason) => {
                if let Some(last) = sent.last().filter(|_| sent.len() > 1) {
                    self.applying.one_by_one = self.applying.one_by_one.max(last.position.index);
                }
                return self.close_epoch(parts, host, &reason);
            }
        };
        self.applying.failures = 0;
        let mut told = Vec::new();
        for (sent, outcome) in sent.iter().zip(outcomes) {
            if let Some(answer) = self.applying.walk.record(sent.position, outcome) {
                if let Answer::Outcome(_, outcome) = &answer
                    && outcome.kind == OutcomeKind::AlreadyApplied
                {
                    parts.note(Note::Forgotten(sent.position));
                }
                let tell = |who, answer| told.push((who, answer));
                self.waiters.wake(sent.position, || answer, tell);
            }
        }
        for (asker, answer) in told {
            let Asker { client, number, .. } = asker;
            if let (Some(stands), Answer::Outcome(position, _)) = (asker.stands, &answer)
                && stands != *position
            {
                let what = format!("who waits for {stands:?} is answered for {position:?} (W1)");
                parts.note(Note::Wrong(what));
            }
            self.answer(host, client, number, answer);
        }
        if let Some(epoch) = &mut self.applying.epoch {
            epoch.next += sent.len() as u64;
            epoch.at = parts.machine.applied().unwrap_or(epoch.at);
        }
        self.applying.calling = false;
        self.serve_ready_reads(parts, host);
        self.snapshot_if_due(parts, host);
    }

    /// Whether the entry at `next` may be decided about: an operator's order that names it is heeded when it is
    /// committed, and waited for until then (P5). As the daemon does it.
    fn heed_skip(&mut self, parts: &mut Parts, next: Index) -> bool {
        let mut orders = self.raft.skips().iter();
        match orders.find(|(_, named)| **named == next).map(|(at, _)| *at) {
            Some(at) if at <= self.applying.committed => {
                if next > self.applying.walk.recorded {
                    parts.say(|| format!("{next} is left out: the order of an operator"));
                    self.applying.walk.skip(next);
                }
                true
            }
            Some(_) => false,
            None => true,
        }
    }

    /// A call that is not answered in time ends its epoch (P1).
    pub fn watch_call(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>) {
        let applying = &self.applying;
        if applying.calling
            && applying.epoch.is_some()
            && host.now() > applying.called_at + CALL_DEADLINE
        {
            self.close_epoch(parts, host, "no answer in time");
        }
    }

    // ---- snapshots ----

    /// A peer has no use for a snapshot as of an earlier entry.
    pub fn want_snapshot(
        &mut self,
        parts: &mut Parts,
        host: &mut Host<'_, Party>,
        at_least: Index,
    ) {
        if at_least <= self.applying.committed {
            self.applying.wanted = self.applying.wanted.max(at_least);
            self.snapshot_if_due(parts, host);
        }
    }

    fn snapshot_if_due(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>) {
        let walk = &self.applying.walk;
        let Some(epoch) = self.applying.epoch else {
            return;
        };
        let applied = epoch.at;
        let settled = walk.is_settled() && walk.recorded == applied && applied == epoch.next - 1;
        let covered = self.floor();
        let lost = covered + 1 < self.reader.first();
        let wanted = covered < self.applying.wanted && self.applying.wanted <= applied;
        let grown = applied >= covered + parts.tuning.snapshot_entries;
        let due = grown || wanted || (lost && applied > covered);
        if !settled || !due || self.applying.taking.is_some() {
            return;
        }
        let Some(meta) = self.raft.snapshot_meta(applied, walk.log_time_ms) else {
            return;
        };
        let sessions = walk.table.encode();
        match parts.machine.snapshot() {
            Ok((position, chunks)) if position == meta.position => {
                self.applying.taking = Some(Box::default());
                let taken = Taken {
                    meta,
                    sessions,
                    chunks,
                };
                let wait = parts.draw(parts.tuning.sync) * 2;
                host.after(wait, Task::WriteSnapshot(Box::new(taken)));
            }
            Ok((position, _)) => parts.note(Note::Wrong(format!(
                "the state machine is at {position:?}, and its snapshot was to be as of {:?}",
                meta.position
            ))),
            Err(reason) => parts.say(|| format!("no snapshot: {reason}")),
        }
    }

    pub fn write_snapshot(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>, taken: &Taken) {
        self.applying.taking = None;
        match self.store_snapshot(taken) {
            Ok(()) => {
                let meta = Arc::new(taken.meta.clone());
                self.look_at_taken(parts);
                parts.note(Note::Snapshot {
                    meta: meta.clone(),
                    installed: false,
                });
                let _ = self.snapshots.retain(&[]);
                let input = Input::SnapshotTaken {
                    snapshot: meta,
                    keep_from: self.reader.index_within(parts.tuning.kept_bytes),
                };
                self.step(parts, host, input);
            }
            Err(error) => parts.say(|| format!("a snapshot could not be taken: {error}")),
        }
    }

    /// A snapshot that counts as complete survives a power cut (S4).
    fn look_at_taken(&self, parts: &mut Parts) {
        let is_snapshot = |name: &&String| crate::faults::is_snapshot(name);
        let names = Disk::list(&parts.disk).unwrap_or_default();
        let newest = names.iter().filter(is_snapshot).max();
        if let Some(name) = newest.filter(|name| !parts.disk.is_durable(name)) {
            parts.note(Note::Wrong(format!(
                "{name} counts, and is not on the disk"
            )));
        }
    }

    fn store_snapshot(&mut self, taken: &Taken) -> Result<(), SnapshotError> {
        let meta = Arc::new(taken.meta.clone());
        let mut writer = self
            .snapshots
            .begin(meta, FORMAT.to_owned(), taken.sessions.clone())?;
        for chunk in &taken.chunks {
            writer.append(chunk)?;
        }
        writer.finish().map(drop)
    }

    /// The power is about to go, and perhaps a snapshot was being written.
    pub fn write_snapshot_in_dying(&mut self, parts: &mut Parts) {
        let walk = &self.applying.walk;
        if self.applying.taking.is_none() || !walk.is_settled() {
            return;
        }
        let meta = self.raft.snapshot_meta(walk.recorded, walk.log_time_ms);
        if let (Some(meta), Ok((position, chunks))) = (meta, parts.machine.snapshot())
            && position == meta.position
        {
            let sessions = walk.table.encode();
            let taken = Taken {
                meta,
                sessions,
                chunks,
            };
            let _ = self.store_snapshot(&taken);
        }
    }

    // ---- sessions ----

    /// Proposes to end the sessions that nobody uses, if this node leads (S3).
    pub fn expire_sessions(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>) {
        let now = self.raft.log_time_ms(super::time(host));
        let Some(now) = now.filter(|_| self.applying.epoch.is_some()) else {
            return;
        };
        let idle_since = now.saturating_sub(parts.tuning.session_timeout_ms);
        for (session, seen_activity) in self.applying.walk.table.idle_before(idle_since, 16) {
            self.puts.push(Put {
                payload: Payload::ExpireSession {
                    session,
                    seen_activity,
                },
                in_session: true,
                client: NOBODY,
                number: 0,
            });
        }
    }
}
