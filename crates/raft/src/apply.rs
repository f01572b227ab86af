//! **digest_commits**: committed entries go to the state machine, in order, in batches, one call in
//! flight; what comes back wakes whoever waits.
//!
//! Every index goes to the state machine. The session table decides what goes as a command; the rest
//! goes as an empty entry that only advances the applied index (P1). The table is a function of the
//! log and is asked about every entry once, in order. While nothing of it is on disk, a daemon that
//! starts walks the whole log again: the state machine answers what it has applied with the outcomes
//! that it kept (S1).
//!
//! An instance of the state machine that has applied less than this daemon saw applied (its memory
//! was all it had, or its last transactions were not synced) gets the missing entries as they were
//! sent the first time: which of them were commands is remembered, one bit per index. The table is
//! not touched, since its outcomes stand already.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::sessions::{Admission, AppliedKind, Outcome, OutcomeKind, SessionRefusal};
use raft_core::{Entry, Index, Payload, Position, SessionTable};
use tokio::sync::mpsc;
use wire::state_machine as pb;

use crate::ask::Ask;
use crate::committed::Committed;
use crate::disk::Disk;
use crate::limits::{QUARANTINE_INTERVAL, STATE_MACHINE_BACKOFF};
use crate::say;
use crate::shared::Shared;
use crate::state_machine::{self, Connection, NoEpoch};
use crate::waiters::{Answer, Waiters};

/// Name of the alarm while the state machine cannot be used.
const ALARM: &str = "state-machine";

/// See the module.
pub struct Apply {
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Ask>,
    committed: Arc<Committed>,
    disk: Disk,
    waiters: Arc<Waiters>,
    walk: Walk,
    epochs: u32,
    /// What the core was told.
    sick: bool,
}

/// How far the log has been walked: the part that needs no I/O.
#[derive(Default)]
struct Walk {
    table: SessionTable,
    /// For each index that the table was asked about: whether it went as a command.
    commands: Bits,
    /// Asked about, and not yet answered by the state machine.
    admitted: BTreeMap<Index, Admitted>,
    /// Everything up to here is answered, and its outcomes are in the table.
    recorded: Index,
}

enum Admitted {
    /// Goes as a command; its outcome is recorded under the session, unless that is 0.
    Command { session: Index, sequence: u64 },
    /// Settled without the state machine.
    Settled(Answer),
}

/// One bit per index, from 1.
#[derive(Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn set(&mut self, index: Index) {
        let (word, bit) = Bits::place(index);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= bit;
    }

    fn get(&self, index: Index) -> bool {
        let (word, bit) = Bits::place(index);
        self.0.get(word).is_some_and(|bits| bits & bit != 0)
    }

    fn place(index: Index) -> (usize, u64) {
        (
            usize::try_from(index / 64).unwrap_or(usize::MAX),
            1 << (index % 64),
        )
    }
}

impl Walk {
    /// Where an epoch begins whose instance has applied everything up to `applied`.
    fn next_after(&self, applied: Index) -> Index {
        applied.min(self.recorded) + 1
    }

    /// Turns entries into what is sent. Entries behind the first one that must wait for an outcome
    /// of this very batch are left over.
    fn admit(&mut self, mut entries: Vec<Entry>) -> (Vec<pb::Entry>, Vec<Position>, Vec<Entry>) {
        let mut sent = Vec::with_capacity(entries.len());
        let mut positions = Vec::with_capacity(entries.len());
        let mut used = 0;
        for entry in &entries {
            if entry.index > self.table.applied_index() {
                if self.table.must_wait(entry) {
                    break;
                }
                self.admit_new(entry);
            }
            let command = match &entry.payload {
                Payload::Command(command) if self.commands.get(entry.index) => {
                    pb::entry::Payload::Command(command.bytes.clone())
                }
                _ => pb::entry::Payload::Empty(pb::Empty {}),
            };
            sent.push(pb::Entry {
                index: entry.index,
                term: entry.term,
                log_time_ms: entry.log_time_ms,
                payload: Some(command),
            });
            positions.push(entry.position());
            used += 1;
        }
        let left = entries.split_off(used);
        (sent, positions, left)
    }

    fn admit_new(&mut self, entry: &Entry) {
        let position = entry.position();
        let admitted = match self.table.admit(entry) {
            Admission::Execute(_) => {
                self.commands.set(entry.index);
                match &entry.payload {
                    Payload::Command(command) => Admitted::Command {
                        session: command.session,
                        sequence: command.sequence,
                    },
                    _ => Admitted::Command {
                        session: 0,
                        sequence: 0,
                    },
                }
            }
            Admission::Duplicate(outcome) => Admitted::Settled(Answer::Outcome(position, outcome)),
            Admission::Refused(SessionRefusal::Expired) => {
                Admitted::Settled(Answer::SessionExpired)
            }
            Admission::Refused(SessionRefusal::Stale) => Admitted::Settled(Answer::Stale),
            Admission::Nothing(kind) => Admitted::Settled(match kind {
                AppliedKind::Registered { .. } => Answer::Registered(position),
                AppliedKind::KeptAlive => Answer::KeptAlive(position),
                AppliedKind::KeepAliveExpired => Answer::SessionExpired,
                AppliedKind::Other => {
                    let outcome = Outcome {
                        kind: OutcomeKind::Ok,
                        data: Bytes::new(),
                    };
                    Answer::Outcome(position, outcome)
                }
            }),
        };
        self.admitted.insert(entry.index, admitted);
    }

    /// Takes note of an outcome. None: it was recorded before.
    fn record(&mut self, position: Position, outcome: Outcome) -> Option<Answer> {
        if position.index <= self.recorded {
            return None;
        }
        self.recorded = position.index;
        match self.admitted.remove(&position.index)? {
            Admitted::Settled(answer) => Some(answer),
            Admitted::Command { session, sequence } => {
                if session != 0 {
                    self.table.record(session, sequence, outcome.clone());
                }
                Some(Answer::Outcome(position, outcome))
            }
        }
    }
}

impl Apply {
    /// Nothing walked yet.
    pub fn new(
        shared: Arc<Shared>,
        inbox: mpsc::Sender<Ask>,
        committed: Arc<Committed>,
        disk: Disk,
        waiters: Arc<Waiters>,
    ) -> Apply {
        Apply {
            shared,
            inbox,
            committed,
            disk,
            waiters,
            walk: Walk::default(),
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
            self.epochs += 1;
            let epoch = state_machine::epoch_number(self.shared.boot, self.epochs);
            let opened = match state_machine::open(&self.shared, cluster, epoch).await {
                Ok(connection) => self.compare(&connection).await.map(|()| connection),
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

    /// Whether the state fits the log (P2).
    async fn compare(&self, connection: &Connection) -> Result<(), NoEpoch> {
        let (applied, term) = (
            connection.hello.applied_index,
            connection.hello.applied_term,
        );
        if applied == 0 {
            return Ok(());
        }
        // D1: this node's state machine only ever got what was durable in this node's log.
        let last = self.disk.last();
        if applied > last {
            return Err(NoEpoch::Quarantine(format!(
                "it has applied entry {applied}, and this node's log ends at {last}: waiting for the \
                 log, which must have lost entries or is another node's"
            )));
        }
        let entries = self
            .disk
            .read(applied, applied, 1)
            .await
            .unwrap_or_default();
        match entries.first() {
            Some(entry) if entry.term == term => Ok(()),
            Some(entry) => Err(NoEpoch::Quarantine(format!(
                "it has applied entry {applied} of term {term}, and this node's log has term {} \
                 there: its state is of another history. Give it an empty data directory",
                entry.term
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
        loop {
            let committed = tokio::select! {
                biased;
                _ = &mut connection.ended => return (moved_on, "the connection ended".to_owned()),
                committed = index.wait_for(|index| *index >= next) => match committed {
                    Ok(committed) => *committed,
                    Err(_) => return (moved_on, "the daemon stops".to_owned()),
                },
            };
            let Some(entries) = self.entries(next, committed, &hello).await else {
                tokio::time::sleep(STATE_MACHINE_BACKOFF.1).await;
                continue;
            };
            let (sent, positions, left) = self.walk.admit(entries);
            self.committed.put_back(left);
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
            match connection.execute(sent).await {
                Ok(reply) => self.applied(&positions, reply),
                Err(reason) => {
                    return (
                        moved_on,
                        format!("{reason} (entries {next} to {})", next + count as u64 - 1),
                    );
                }
            }
            moved_on = true;
            next += count as u64;
        }
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
            0 => config.max_batch_entries,
            theirs => config.max_batch_entries.min(theirs as usize),
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
            if let Some(answer) = self.walk.record(*position, outcome) {
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

fn backoff(failures: u32) -> std::time::Duration {
    let (first, longest) = STATE_MACHINE_BACKOFF;
    first.saturating_mul(1 << failures.min(10)).min(longest)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use raft_core::Command;

    fn command(index: Index, session: Index, sequence: u64) -> Entry {
        let bytes = Bytes::from(format!("command {index}"));
        let command = Command {
            session,
            sequence,
            acked_below: 0,
            bytes,
        };
        Entry {
            index,
            term: 1,
            log_time_ms: 0,
            payload: Payload::Command(command),
        }
    }

    fn register(index: Index) -> Entry {
        Entry {
            index,
            term: 1,
            log_time_ms: 0,
            payload: Payload::RegisterSession,
        }
    }

    fn said(text: &str) -> Outcome {
        Outcome {
            kind: OutcomeKind::Ok,
            data: Bytes::from(text.to_owned()),
        }
    }

    fn is_command(entry: &pb::Entry) -> bool {
        matches!(entry.payload, Some(pb::entry::Payload::Command(_)))
    }

    #[test]
    fn a_retry_in_the_same_batch_waits_for_the_outcome_and_is_answered_with_it() {
        let mut walk = Walk::default();
        let entries = vec![
            register(1),
            command(2, 1, 1),
            command(3, 1, 1),
            command(4, 0, 0),
        ];
        let (sent, positions, left) = walk.admit(entries);
        assert_eq!(
            sent.iter().map(is_command).collect::<Vec<_>>(),
            [false, true]
        );
        assert_eq!(left.len(), 2);
        walk.record(positions[0], said("")).unwrap();
        walk.record(positions[1], said("done")).unwrap();
        let (sent, positions, left) = walk.admit(left);
        assert_eq!(
            sent.iter().map(is_command).collect::<Vec<_>>(),
            [false, true]
        );
        assert!(left.is_empty());
        let answer = walk.record(positions[0], said("ignored")).unwrap();
        assert_eq!(answer, Answer::Outcome(positions[0], said("done")));
    }

    #[test]
    fn what_an_instance_lost_is_sent_as_it_was_and_the_table_is_not_asked_again() {
        let log = vec![register(1), command(2, 1, 1), command(3, 1, 1)];
        let mut walk = Walk::default();
        for entry in &log {
            let (_, positions, _) = walk.admit(vec![entry.clone()]);
            walk.record(positions[0], said("first")).unwrap();
        }
        assert_eq!(walk.next_after(0), 1, "an empty instance gets everything");
        assert_eq!(
            walk.next_after(9),
            4,
            "one that is ahead goes on where the walk is"
        );
        let (sent, positions, left) = walk.admit(log);
        assert!(left.is_empty());
        assert_eq!(
            sent.iter().map(is_command).collect::<Vec<_>>(),
            [false, true, false]
        );
        for position in positions {
            assert_eq!(walk.record(position, said("second")), None);
        }
        let (_, positions, _) = walk.admit(vec![command(4, 1, 1)]);
        let answer = walk.record(positions[0], said("third")).unwrap();
        assert_eq!(answer, Answer::Outcome(positions[0], said("first")));
    }

    #[test]
    fn a_batch_whose_epoch_failed_is_sent_again_as_it_was() {
        let mut walk = Walk::default();
        let log = vec![register(1), command(2, 1, 1)];
        let (first, _, _) = walk.admit(log.clone());
        // The epoch ended here: nothing was recorded, and the instance may have applied both.
        let (again, positions, _) = walk.admit(log);
        assert_eq!(first, again);
        assert_eq!(
            walk.record(positions[0], said("")),
            Some(Answer::Registered(positions[0]))
        );
        let answer = walk.record(positions[1], said("kept")).unwrap();
        assert_eq!(answer, Answer::Outcome(positions[1], said("kept")));
    }
}
