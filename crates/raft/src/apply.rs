//! **digest_commits**: committed entries go to the state machine, in order, in batches, one call in
//! flight; what comes back wakes whoever waits.
//!
//! Every index goes to the state machine. The session table decides what goes as a command; the rest
//! goes as an empty entry that only advances the applied index (P1). The table is a function of the
//! log and is asked about every entry once, in order. It is on disk as part of each snapshot: a daemon
//! that starts walks the log behind its newest snapshot again, and the state machine answers what it
//! has applied with the outcomes that it kept since (S1).
//!
//! An instance of the state machine that has applied less than this daemon saw applied (its memory
//! was all it had, or its last transactions were not synced) gets the missing entries as they were
//! sent the first time: which of them were commands is remembered, one bit per index. The table is
//! not touched, since its outcomes stand already. What is missing before the newest snapshot comes out
//! of that snapshot.
//!
//! | the state machine has applied | |
//! |---|---|
//! | less than the newest snapshot covers, or nothing | it is given the snapshot, and then the log |
//! | as much, or more, and it is committed here | it is given what follows |
//! | more than is known to be committed here | nothing, until that is known (P2) |
//! | more than this node's log holds, or another term there | nothing: an alarm, and another look later |
//!
//! An entry on which the state machine fails again and again is found by sending the entries of the
//! failed batch one by one. Nothing is ever left out but what an operator's Skip in the log names (P5).

use std::sync::Arc;

use raft_core::sessions::{Outcome, OutcomeKind};
use raft_core::walk::{Height, Sent, Walk};
use raft_core::{Entry, Index, Position};
use tokio::sync::{mpsc, oneshot};
use wire::state_machine as pb;

use crate::ask::Ask;
use crate::committed::Committed;
use crate::disk::Disk;
use crate::limits::{
    POISON_ATTEMPTS, QUARANTINE_INTERVAL, SKIP_INTERVAL, SNAPSHOT_BEGIN_DEADLINE,
    STATE_MACHINE_BACKOFF,
};
use crate::say;
use crate::sessions;
use crate::shared::Shared;
use crate::snapshots::{Snapshots, Taken};
use crate::state_machine::{self, Connection, NoEpoch};
use crate::waiters::Waiters;

/// Name of the alarm while the state machine cannot be used.
const ALARM: &str = "state-machine";

/// Name of the alarm while an entry cannot be applied.
const POISON_ALARM: &str = "poison";

/// See the module.
pub struct Apply {
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Ask>,
    committed: Arc<Committed>,
    disk: Disk,
    waiters: Arc<Waiters>,
    snapshots: Snapshots,
    walk: Walk,
    trouble: Trouble,
    epochs: u32,
    /// What the core was told.
    sick: bool,
}

/// What is known of entries on which the state machine failed.
#[derive(Default)]
struct Trouble {
    /// Entries up to here are sent one by one: a batch that held them failed.
    one_by_one: Index,
    /// The entry that failed alone, and how often in a row.
    failed: (Index, u32),
}

impl Apply {
    /// Nothing walked yet.
    pub fn new(
        shared: Arc<Shared>,
        inbox: mpsc::Sender<Ask>,
        committed: Arc<Committed>,
        disk: Disk,
        waiters: Arc<Waiters>,
        snapshots: Snapshots,
    ) -> Apply {
        Apply {
            shared,
            inbox,
            committed,
            disk,
            waiters,
            snapshots,
            walk: Walk::default(),
            trouble: Trouble::default(),
            epochs: 0,
            sick: false,
        }
    }

    /// Opens epoch after epoch, for as long as the daemon runs.
    pub async fn run(mut self) {
        let mut cluster = self.shared.cluster.subscribe();
        let Ok(cluster) = cluster
            .wait_for(Option::is_some)
            .await
            .map(|cluster| *cluster)
        else {
            return;
        };
        let Some(cluster) = cluster else { return };
        let mut failures = 0u32;
        loop {
            let quarantine = self.shared.quarantine.borrow().clone();
            if let Some(sentence) = quarantine {
                return self.quarantined(&sentence).await;
            }
            if let Err(reason) = self.go_beyond_snapshot().await {
                let sentence = format!("the newest snapshot cannot be used: {reason}");
                self.closed(&sentence).await;
                tokio::time::sleep(QUARANTINE_INTERVAL).await;
                continue;
            }
            self.epochs += 1;
            let epoch = state_machine::epoch_number(self.shared.boot, self.epochs);
            let opened = match state_machine::open(&self.shared, cluster, epoch).await {
                Ok(connection) => self.level(connection).await,
                Err(none) => Err(none),
            };
            let wait = match opened {
                Ok(connection) => {
                    let (moved_on, reason) = self.epoch(connection).await;
                    failures = if moved_on {
                        0
                    } else {
                        failures.saturating_add(1)
                    };
                    self.closed(&format!("the state machine's epoch ended: {reason}"))
                        .await;
                    backoff(failures)
                }
                Err(NoEpoch::Unreachable(reason)) => {
                    failures = failures.saturating_add(1);
                    let place = state_machine::place(&self.shared);
                    self.closed(&format!(
                        "the state machine at {place} does not answer: {reason}"
                    ))
                    .await;
                    backoff(failures)
                }
                Err(NoEpoch::Quarantine(reason)) => {
                    let sentence = format!("the state machine is not used: {reason}");
                    self.closed(&sentence).await;
                    QUARANTINE_INTERVAL
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// The state machine went another way than the others: it gets nothing and answers nothing any more
    /// (P4). A leader hands over, since nobody would hear what comes of an entry.
    async fn quarantined(&mut self, sentence: &str) {
        self.closed(sentence).await;
        if self.shared.leads() {
            let _ = self.inbox.send(Ask::Transfer { to: None }).await;
        }
    }

    /// Takes the walk up behind the newest snapshot, when that reaches beyond it: at the start, and when
    /// the log gave way to the leader's.
    async fn go_beyond_snapshot(&mut self) -> Result<(), String> {
        let recorded = self.walk.recorded;
        if let Some((walk, index)) = self.snapshots.walk_beyond(recorded).await? {
            self.walk = walk;
            self.waiters.passed(index);
            self.shared.progress.set_recorded(index);
        }
        // Before a state machine is looked at: the log may reach no further back than this.
        self.walk.forget_up_to(self.snapshots.floor());
        Ok(())
    }

    /// Brings a state machine to where the log can go on.
    async fn level(&mut self, mut connection: Connection) -> Result<Connection, NoEpoch> {
        self.compare(&connection).await?;
        let applied = connection.hello.applied_index;
        let (first, last) = (self.disk.first(), self.disk.last());
        if self.walk.height(applied, first, last) != Height::BeforeLog {
            return Ok(connection);
        }
        let base = self.walk.base().max(first.saturating_sub(1));
        // What the walk has forgotten must be in it.
        let newest = self.snapshots.newest();
        let usable = newest.filter(|newest| newest.meta.position.index >= base);
        let Some(newest) = usable else {
            self.snapshots.pull_another(base);
            return Err(NoEpoch::Unreachable(format!(
                "it has applied {applied}, the entries up to {base} are only in a snapshot, and this node's \
                 is damaged: another one is being fetched"
            )));
        };
        let format = &newest.format;
        if !connection.hello.snapshot_formats.contains(format) {
            return Err(NoEpoch::Quarantine(format!(
                "it has applied {applied} entries, the entries up to {base} are only in a snapshot of \
                 format {format:?}, and it reads {:?}. Start one that reads that format",
                connection.hello.snapshot_formats
            )));
        }
        let index = self
            .snapshots
            .restore(&mut connection)
            .await
            .map_err(|reason| NoEpoch::Unreachable(format!("it took no snapshot in: {reason}")))?;
        say!(
            info,
            "RESTORE",
            "the state machine had applied {applied}, and was given the snapshot as of {index}"
        );
        connection.hello.applied_index = index;
        connection.hello.applied_term = newest.meta.position.term;
        Ok(connection)
    }

    /// Whether the state fits the log (P2).
    async fn compare(&self, connection: &Connection) -> Result<(), NoEpoch> {
        let (applied, term) = (
            connection.hello.applied_index,
            connection.hello.applied_term,
        );
        if applied == 0 || applied < self.walk.base() {
            return Ok(()); // What it has does not matter: it is given a snapshot.
        }
        let last = self.disk.last();
        if self.walk.height(applied, self.disk.first(), last) == Height::BeyondLog {
            return Err(NoEpoch::Quarantine(format!(
                "it has applied entry {applied}, and this node's log ends at {last}: waiting for the \
                 log, which must have lost entries or is another node's"
            )));
        }
        let covered = self.snapshots.newest().map(|newest| newest.meta.position);
        let known = match covered.filter(|position| position.index == applied) {
            Some(position) => Some(position.term),
            None => {
                let read = self.disk.read(applied, applied, 1).await;
                read.unwrap_or_default().first().map(|entry| entry.term)
            }
        };
        match known {
            Some(known) if known == term => Ok(()),
            Some(known) => Err(NoEpoch::Quarantine(format!(
                "it has applied entry {applied} of term {term}, and this node's log has term {known} \
                 there: its state is of another history. Give it an empty data directory"
            ))),
            None => Err(NoEpoch::Unreachable(format!(
                "entry {applied} cannot be read to compare"
            ))),
        }
    }

    /// One epoch. Returns whether anything was applied in it, and why it ended.
    async fn epoch(&mut self, mut connection: Connection) -> (bool, String) {
        let hello = connection.hello.clone();
        let mut next = self.walk.next_after(hello.applied_index);
        self.opened(&connection).await;
        say!(
            info,
            "RESTORE",
            "{} {} has applied {}: going on at {next} (epoch {:x})",
            hello.name,
            hello.version,
            hello.applied_index,
            connection.epoch
        );
        let mut index = self.committed.index.subscribe();
        let mut moved_on = false;
        let mut at = hello.applied_index;
        let mut sweep = sessions::sweeps(&self.shared);
        let mut quarantine = self.shared.quarantine.subscribe();
        loop {
            let committed = tokio::select! {
                biased;
                _ = &mut connection.ended => return (moved_on, "the connection ended".to_owned()),
                _ = quarantine.wait_for(Option::is_some) => {
                    return (moved_on, "it is not used any more".to_owned());
                }
                _ = sweep.tick() => None,
                () = self.snapshots.may_be_due() => None,
                committed = index.wait_for(|index| *index >= next) => match committed {
                    Ok(committed) => Some(*committed),
                    Err(_) => return (moved_on, "the daemon stops".to_owned()),
                },
            };
            let Some(committed) = committed else {
                sessions::expire(&self.shared, &self.inbox, &self.walk.table).await;
                // One that is ahead of the walk would tell of another index.
                if at == next - 1 {
                    self.snapshot_if_due(&mut connection, at).await;
                }
                continue;
            };
            let floor = self.snapshots.floor();
            if floor >= next {
                return (
                    moved_on,
                    format!("a snapshot as of {floor} took the place of the log"),
                );
            }
            self.walk.forget_up_to(floor);
            if !self.heed_skip(next, committed).await {
                continue;
            }
            let Some(entries) = self.entries(next, committed, &hello).await else {
                tokio::time::sleep(STATE_MACHINE_BACKOFF.1).await;
                continue;
            };
            let (sent, left) = self.walk.admit(entries);
            self.committed.put_back(left);
            let positions: Vec<Position> = sent.iter().map(|entry| entry.position).collect();
            let sent: Vec<pb::Entry> = sent.into_iter().map(to_wire).collect();
            let count = sent.len();
            assert!(
                count > 0,
                "what a batch's first entry could wait for is recorded"
            );
            self.shared
                .metrics
                .digest_commits_batch
                .observe(count as f64);
            say!(
                debug,
                "DIGESTCOMMITS",
                "{count} entries from {next}, committed up to {committed}"
            );
            match connection.execute(sent, floor).await {
                Ok(reply) => {
                    at = reply.applied_index;
                    self.applied(&positions, reply);
                    self.warn_of_contradictions();
                }
                Err(failure) => {
                    let last = next + count as u64 - 1;
                    if failure.over_the_entries {
                        self.failed(next, last, &failure.reason);
                    }
                    let reason = failure.reason;
                    return (moved_on, format!("{reason} (entries {next} to {last})"));
                }
            }
            moved_on = true;
            next += count as u64;
            if self.trouble.failed.0 < next && self.shared.poison() != 0 {
                self.shared.set_poison(0);
                self.shared.alarm(POISON_ALARM, None);
            }
            if at == next - 1 {
                self.snapshot_if_due(&mut connection, at).await;
            }
        }
    }

    // ---- an entry that cannot be applied (P5) ----

    /// The state machine failed, or died, over these entries.
    fn failed(&mut self, first: Index, last: Index, reason: &str) {
        let trouble = &mut self.trouble;
        if last > first {
            trouble.one_by_one = trouble.one_by_one.max(last);
            return;
        }
        if trouble.failed.0 != first {
            trouble.failed = (first, 0);
        }
        trouble.failed.1 = trouble.failed.1.saturating_add(1);
        if trouble.failed.1 >= POISON_ATTEMPTS {
            let sentence = format!(
                "the state machine fails at entry {first}, and nothing behind it is applied: \
                 {reason}. Correct the program, or have the entry left out for good with \
                 `raft-client skip {first}`"
            );
            self.shared.alarm(POISON_ALARM, Some(sentence));
            self.shared.set_poison(first);
        }
    }

    /// Whether the entry at `next` may be decided about. An order that names it is in the log of this
    /// node, if it is in any committed one up to `committed`; one that is not committed yet is waited for,
    /// until it is, or has given way.
    async fn heed_skip(&mut self, next: Index, committed: Index) -> bool {
        match self.shared.skip_of(next) {
            Some(at) if at <= committed => {
                if next > self.walk.recorded {
                    say!(
                        warn,
                        "SKIP",
                        "entry {next} is left out: the order of an operator"
                    );
                    self.walk.skip(next);
                }
                true
            }
            Some(_) => {
                tokio::time::sleep(SKIP_INTERVAL).await;
                false
            }
            None => true,
        }
    }

    /// What was skipped elsewhere was applied here: a state that is not the others'.
    fn warn_of_contradictions(&mut self) {
        for index in std::mem::take(&mut self.walk.contradicted) {
            let sentence = format!(
                "entry {index} was skipped by an operator, and this node's state machine had applied \
                 it: its state differs from the others'. Give it an empty data directory"
            );
            self.shared
                .alarm(format!("contradiction-{index}"), Some(sentence));
        }
    }

    // ---- snapshots ----

    /// Asks the state machine for a snapshot of right now, if it is time for one. Only the first chunk is
    /// waited for: it says of which index the state is.
    async fn snapshot_if_due(&mut self, connection: &mut Connection, applied: Index) {
        let settled = self.walk.is_settled() && self.walk.recorded == applied;
        let Some(format) = connection.hello.snapshot_formats.first() else {
            return;
        };
        if !settled || !self.snapshots.is_due(applied) {
            return;
        }
        let format = format.clone();
        match self.begin_snapshot(connection, applied, format).await {
            Ok(taken) => self.snapshots.write(taken),
            Err(reason) => self.snapshots.not_taken(&reason),
        }
    }

    async fn begin_snapshot(
        &mut self,
        connection: &mut Connection,
        applied: Index,
        format: String,
    ) -> Result<Taken, String> {
        let (reply, told) = oneshot::channel();
        let asked = Ask::SnapshotMeta {
            index: applied,
            log_time_ms: self.walk.log_time_ms,
            reply,
        };
        self.inbox
            .send(asked)
            .await
            .map_err(|_| "the daemon stops".to_owned())?;
        let meta = told.await.ok().flatten();
        let meta = meta.ok_or_else(|| format!("entry {applied} is not in the log"))?;
        let request = pb::SnapshotRequest {
            epoch: connection.epoch,
            format: format.clone(),
        };
        let begun = async {
            let mut rest = connection.client.snapshot(request).await?.into_inner();
            let first = rest.message().await?;
            Ok::<_, tonic::Status>((first, rest))
        };
        let (first, rest) = tokio::time::timeout(SNAPSHOT_BEGIN_DEADLINE, begun)
            .await
            .map_err(|_| "the state machine did not begin in time".to_owned())?
            .map_err(|status| crate::net::status_line(&status))?;
        let first = first.ok_or("the state machine sent nothing")?;
        Ok(Taken {
            meta,
            format,
            sessions: self.walk.table.encode(),
            first,
            rest,
        })
    }

    /// The next batch: from memory, or from the disk.
    async fn entries(
        &self,
        next: Index,
        committed: Index,
        hello: &pb::HandshakeReply,
    ) -> Option<Vec<Entry>> {
        let config = &self.shared.config;
        let max_bytes = match usize::try_from(hello.max_batch_bytes) {
            Ok(theirs) if theirs > 0 => theirs.min(config.max_batch_bytes),
            _ => config.max_batch_bytes,
        };
        let max_entries = match hello.max_batch_entries {
            _ if next <= self.trouble.one_by_one => 1,
            0 => config.max_batch_entries,
            theirs => config.max_batch_entries.min(theirs as usize),
        };
        // An entry that is named by an order is decided about when it comes first.
        let max_entries = match self.shared.next_skipped(next + 1) {
            Some(skipped) => {
                usize::try_from(skipped - next).map_or(max_entries, |s| s.min(max_entries))
            }
            None => max_entries,
        };
        if let Some(entries) = self.committed.take(next, max_entries, max_bytes) {
            return Some(entries);
        }
        let first_in_memory = self.committed.first().filter(|first| *first > next);
        let to = first_in_memory.map_or(committed, |first| committed.min(first - 1));
        let to = to.min(next + max_entries as u64 - 1);
        let entries = self
            .disk
            .read(next, to, max_bytes)
            .await
            .unwrap_or_default();
        (!entries.is_empty()).then_some(entries)
    }

    /// Records outcomes and wakes whoever waits for them.
    fn applied(&mut self, positions: &[Position], reply: pb::ExecuteReply) {
        for (position, outcome) in positions.iter().zip(reply.outcomes) {
            let kind = match outcome.kind() {
                pb::OutcomeKind::Ok => OutcomeKind::Ok,
                pb::OutcomeKind::Rejected => OutcomeKind::Rejected,
                pb::OutcomeKind::NotFound => OutcomeKind::NotFound,
                pb::OutcomeKind::AlreadyApplied | pb::OutcomeKind::Unspecified => {
                    OutcomeKind::AlreadyApplied
                }
            };
            let outcome = Outcome {
                kind,
                data: outcome.data,
            };
            let recorded = self.walk.recorded;
            let answer = self.walk.record(*position, outcome);
            if self.walk.recorded > recorded {
                let chain = self.walk.table.chain();
                self.shared.chains.note(position.index, chain);
            }
            if let Some(answer) = answer {
                say!(
                    trace,
                    "APPLY",
                    "{} [TERM={}]: {answer:?}",
                    position.index,
                    position.term
                );
                self.waiters.wake(*position, || answer);
            }
        }
        self.shared.progress.set_recorded(self.walk.recorded);
        self.shared
            .machine
            .send_modify(|machine| machine.applied = reply.applied_index);
    }

    async fn opened(&mut self, connection: &Connection) {
        let hello = &connection.hello;
        self.shared.metrics.epochs.inc();
        self.shared.machine.send_modify(|machine| {
            machine.epoch = connection.epoch;
            machine.client = Some(connection.client.clone());
            machine.nonce = hello.nonce;
            machine.applied = hello.applied_index;
            machine.takes_snapshots = !hello.snapshot_formats.is_empty();
            machine.title = format!("{} {}", hello.name, hello.version)
                .trim()
                .to_owned();
        });
        self.shared.alarm(ALARM, None);
        self.health(false).await;
    }

    async fn closed(&mut self, sentence: &str) {
        self.shared
            .machine
            .send_modify(|machine| machine.client = None);
        if !*self.shared.stopping.borrow() {
            self.shared.alarm(ALARM, Some(sentence.to_owned()));
        }
        self.health(true).await;
    }

    async fn health(&mut self, sick: bool) {
        if self.sick != sick {
            self.sick = sick;
            let _ = self.inbox.send(Ask::StateMachineHealth { sick }).await;
        }
    }
}

fn to_wire(sent: Sent) -> pb::Entry {
    let payload = match sent.command {
        Some(command) => pb::entry::Payload::Command(command),
        None => pb::entry::Payload::Empty(pb::Empty {}),
    };
    pb::Entry {
        index: sent.position.index,
        term: sent.position.term,
        log_time_ms: sent.log_time_ms,
        payload: Some(payload),
    }
}

fn backoff(failures: u32) -> std::time::Duration {
    let (first, longest) = STATE_MACHINE_BACKOFF;
    first.saturating_mul(1 << failures.min(10)).min(longest)
}
