//! How far the log has been walked, and what was decided about each entry: the part of digest_commits
//! that needs no I/O. The daemon and the simulator call the very same one.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::entry::{Entry, Payload};
use crate::ids::{Index, Position};
use crate::sessions::{Admission, AppliedKind, Outcome, OutcomeKind, SessionRefusal, SessionTable};
use crate::waiters::Answer;

/// An entry as it goes to the state machine: every index does, and what is not for it goes without a
/// command and only advances the applied index (P1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Where it stands.
    pub position: Position,
    /// Log time of the entry (S3).
    pub log_time_ms: u64,
    /// What the state machine is to run.
    pub command: Option<Bytes>,
}

/// What is to become of a state machine that says, in its handshake, how far it has come (P2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Height {
    /// The log goes on behind it, once the term there is found to be the log's.
    WithinLog,
    /// It lacks what is only in a snapshot, and is given one; what it has does not matter.
    BeforeLog,
    /// It has more than this node's log, which only ever held what it got (D1): nothing, until the log
    /// has caught up.
    BeyondLog,
}

/// How far the log has been walked: the part that needs no I/O.
#[derive(Default)]
pub struct Walk {
    /// The sessions, as of the last entry that was admitted.
    pub table: SessionTable,
    /// For each index that the table was asked about: whether it went as a command.
    commands: Bits,
    /// Nothing is known of what stands at or before this: a snapshot covers it.
    base: Index,
    /// Asked about, and not yet answered by the state machine.
    admitted: BTreeMap<Index, Admitted>,
    /// Everything up to here is answered, and its outcomes are in the table.
    pub recorded: Index,
    /// Entries that were executed here, and that an order behind them says to skip.
    pub contradicted: Vec<Index>,
    /// Log time of the last entry that was looked at (S3).
    pub log_time_ms: u64,
}

enum Admitted {
    /// Goes as a command; its outcome is recorded under the session, unless that is 0.
    Command { session: Index, sequence: u64 },
    /// Left out by an operator's order (P5), and sent as nothing. A state machine that ran it all the same,
    /// before the order came, says so by its outcome; unless that was an empty one.
    Skipped { session: Index, sequence: u64 },
    /// Settled without the state machine.
    Settled(Answer),
}

/// One bit per index, behind a base.
#[derive(Default)]
struct Bits {
    /// A multiple of 64: the first word begins behind it.
    base: Index,
    words: VecDeque<u64>,
}

impl Bits {
    fn after(index: Index) -> Bits {
        Bits {
            base: index / 64 * 64,
            words: VecDeque::new(),
        }
    }

    fn set(&mut self, index: Index, value: bool) {
        let Some((word, bit)) = self.place(index) else {
            return;
        };
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        if value {
            self.words[word] |= bit;
        } else {
            self.words[word] &= !bit;
        }
    }

    fn get(&self, index: Index) -> bool {
        self.place(index)
            .and_then(|(word, bit)| Some(self.words.get(word)? & bit != 0))
            .unwrap_or(false)
    }

    fn forget_up_to(&mut self, index: Index) {
        let base = (index + 1) / 64 * 64;
        let gone = usize::try_from(base.saturating_sub(self.base) / 64).unwrap_or(usize::MAX);
        self.words.drain(..gone.min(self.words.len()));
        self.base = self.base.max(base);
    }

    fn place(&self, index: Index) -> Option<(usize, u64)> {
        let offset = index.checked_sub(self.base)?;
        Some((usize::try_from(offset / 64).ok()?, 1 << (offset % 64)))
    }
}

impl Walk {
    /// Goes on behind a snapshot: its session table is as of its last entry.
    pub fn behind(table: SessionTable, log_time_ms: u64) -> Walk {
        let index = table.applied_index();
        Walk {
            commands: Bits::after(index + 1),
            base: index,
            recorded: index,
            log_time_ms,
            table,
            admitted: BTreeMap::new(),
            contradicted: Vec::new(),
        }
    }

    /// Where a state machine that has applied everything up to `applied` stands to a log whose first entry
    /// is `first` (it may begin behind a snapshot that this walk has not taken up) and whose last is `last`.
    pub fn height(&self, applied: Index, first: Index, last: Index) -> Height {
        if applied > last.max(self.base) && !mutant!(P2AheadIsTaken) {
            Height::BeyondLog
        } else if applied < self.base.max(first.saturating_sub(1)) && !mutant!(P2BehindIsTaken) {
            Height::BeforeLog
        } else {
            Height::WithinLog
        }
    }

    /// An instance that has applied less than this cannot be brought up to date from the log: what it
    /// lacks, or what was decided about it, is known no more.
    pub fn base(&self) -> Index {
        self.base
    }

    /// A snapshot covers everything up to `index`, which was recorded.
    pub fn forget_up_to(&mut self, index: Index) {
        if index > self.base && index <= self.recorded {
            self.commands.forget_up_to(index);
            self.base = index;
        }
    }

    /// Everything that was decided is recorded, so that the session table is as of `recorded`.
    pub fn is_settled(&self) -> bool {
        self.table.applied_index() == self.recorded
    }

    /// An operator's Skip for the entry at `index`, which no state machine gets past, is committed
    /// (P5). What was decided about it before is undone; nothing is, once its outcome is recorded.
    pub fn skip(&mut self, index: Index) {
        self.table.skip(index);
        let Some(admitted) = self.admitted.get_mut(&index) else {
            return;
        };
        if let Admitted::Command { session, sequence } = *admitted {
            self.commands.set(index, false);
            self.table.record_skipped(index, session, sequence);
            *admitted = Admitted::Skipped { session, sequence };
        }
    }

    /// Where an epoch begins whose instance has applied everything up to `applied`.
    pub fn next_after(&self, applied: Index) -> Index {
        if mutant!(P1LostNotSentAgain) {
            return self.recorded + 1;
        }
        applied.min(self.recorded) + 1
    }

    /// Turns entries into what is sent. Entries behind the first one that must wait for an outcome
    /// of this very batch are left over.
    pub fn admit(&mut self, mut entries: Vec<Entry>) -> (Vec<Sent>, Vec<Entry>) {
        let mut sent = Vec::with_capacity(entries.len());
        for entry in &entries {
            if entry.index > self.table.applied_index() {
                if self.table.must_wait(entry) {
                    break;
                }
                self.admit_new(entry);
            }
            let command = match &entry.payload {
                Payload::Command(command)
                    if self.commands.get(entry.index) || mutant!(P1RetryIsSent) =>
                {
                    Some(command.bytes.clone())
                }
                _ => None,
            };
            sent.push(Sent {
                position: entry.position(),
                log_time_ms: entry.log_time_ms,
                command,
            });
        }
        let left = entries.split_off(sent.len());
        (sent, left)
    }

    fn admit_new(&mut self, entry: &Entry) {
        let position = entry.position();
        self.log_time_ms = self.log_time_ms.max(entry.log_time_ms);
        if let Payload::Skip { index } = entry.payload
            && index > self.base
            && self.commands.get(index)
        {
            self.contradicted.push(index);
        }
        let (session, sequence) = match &entry.payload {
            Payload::Command(command) => (command.session, command.sequence),
            _ => (0, 0),
        };
        let admitted = match self.table.admit(entry) {
            Admission::Execute(_) => {
                self.commands.set(entry.index, true);
                Admitted::Command { session, sequence }
            }
            // Not a retry of what came of an earlier one, which the order leaves as it is.
            Admission::Duplicate(outcome) if outcome == Outcome::skipped(entry.index) => {
                Admitted::Skipped { session, sequence }
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
    pub fn record(&mut self, position: Position, outcome: Outcome) -> Option<Answer> {
        if position.index <= self.recorded {
            return None;
        }
        self.recorded = position.index;
        match self.admitted.remove(&position.index)? {
            Admitted::Settled(answer) => Some(answer),
            Admitted::Skipped { session, sequence } => {
                let nothing = outcome.kind == OutcomeKind::Ok && outcome.data.is_empty();
                if nothing || outcome.kind == OutcomeKind::AlreadyApplied {
                    let skipped = Outcome::skipped(position.index);
                    return Some(Answer::Outcome(position, skipped));
                }
                self.contradicted.push(position.index);
                self.table
                    .record(position.index, session, sequence, outcome.clone());
                Some(Answer::Outcome(position, outcome))
            }
            Admitted::Command { session, sequence } => {
                self.table
                    .record(position.index, session, sequence, outcome.clone());
                Some(Answer::Outcome(position, outcome))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::entry::Command;

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

    fn is_command(sent: &Sent) -> bool {
        sent.command.is_some()
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
        let (sent, left) = walk.admit(entries);
        assert_eq!(
            sent.iter().map(is_command).collect::<Vec<_>>(),
            [false, true]
        );
        assert_eq!(left.len(), 2);
        walk.record(sent[0].position, said("")).unwrap();
        walk.record(sent[1].position, said("done")).unwrap();
        let (sent, left) = walk.admit(left);
        assert_eq!(
            sent.iter().map(is_command).collect::<Vec<_>>(),
            [false, true]
        );
        assert!(left.is_empty());
        let answer = walk.record(sent[0].position, said("ignored")).unwrap();
        assert_eq!(answer, Answer::Outcome(sent[0].position, said("done")));
    }

    #[test]
    fn what_an_instance_lost_is_sent_as_it_was_and_the_table_is_not_asked_again() {
        let log = vec![register(1), command(2, 1, 1), command(3, 1, 1)];
        let mut walk = Walk::default();
        for entry in &log {
            let (sent, _) = walk.admit(vec![entry.clone()]);
            walk.record(sent[0].position, said("first")).unwrap();
        }
        assert_eq!(walk.next_after(0), 1, "an empty instance gets everything");
        assert_eq!(
            walk.next_after(9),
            4,
            "one that is ahead goes on where the walk is"
        );
        let (sent, left) = walk.admit(log);
        assert!(left.is_empty());
        assert_eq!(
            sent.iter().map(is_command).collect::<Vec<_>>(),
            [false, true, false]
        );
        for sent in sent {
            assert_eq!(walk.record(sent.position, said("second")), None);
        }
        let (sent, _) = walk.admit(vec![command(4, 1, 1)]);
        let answer = walk.record(sent[0].position, said("third")).unwrap();
        assert_eq!(answer, Answer::Outcome(sent[0].position, said("first")));
    }

    #[test]
    fn a_batch_whose_epoch_failed_is_sent_again_as_it_was() {
        let mut walk = Walk::default();
        let log = vec![register(1), command(2, 1, 1)];
        let (first, _) = walk.admit(log.clone());
        // The epoch ended here: nothing was recorded, and the instance may have applied both.
        let (sent, _) = walk.admit(log);
        assert_eq!(first, sent);
        assert_eq!(
            walk.record(sent[0].position, said("")),
            Some(Answer::Registered(sent[0].position))
        );
        let answer = walk.record(sent[1].position, said("kept")).unwrap();
        assert_eq!(answer, Answer::Outcome(sent[1].position, said("kept")));
    }

    #[test]
    fn a_walk_goes_on_behind_a_snapshot_as_if_nothing_had_happened() {
        let log: Vec<Entry> = (2..=200)
            .map(|index| command(index, 1, index / 2))
            .collect();
        let mut whole = Walk::default();
        let mut resumed = Walk::default();
        for entry in std::iter::once(register(1)).chain(log) {
            for walk in [&mut whole, &mut resumed] {
                let (sent, left) = walk.admit(vec![entry.clone()]);
                assert!(left.is_empty());
                walk.record(sent[0].position, said("done"));
            }
            if entry.index % 63 == 0 {
                assert!(resumed.is_settled());
                let table = SessionTable::decode(resumed.table.encode()).unwrap();
                assert_eq!(table, whole.table);
                resumed = Walk::behind(table, 0);
                assert_eq!(
                    (resumed.base(), resumed.recorded),
                    (entry.index, entry.index)
                );
            }
            if entry.index == 140 {
                whole.forget_up_to(130);
            }
        }
        assert_eq!(resumed.table, whole.table);
        let again: Vec<Entry> = (190..=200).map(|i| command(i, 1, i / 2)).collect();
        assert_eq!(resumed.admit(again.clone()).0, whole.admit(again).0);
        whole.forget_up_to(900);
        assert_eq!(whole.base(), 130, "what is not recorded is not forgotten");
    }

    #[test]
    fn bits_are_kept_behind_their_base() {
        for base in [0, 1, 62, 63, 64, 65, 127, 128, 1000] {
            let mut bits = Bits::after(base + 1);
            for index in base + 1..base + 300 {
                bits.set(index, index % 3 == 0);
            }
            bits.forget_up_to(base + 100);
            for index in base + 101..base + 300 {
                assert_eq!(bits.get(index), index % 3 == 0, "{index} behind {base}");
            }
            assert!(bits.words.len() <= 5);
            bits.forget_up_to(base + 10_000);
            bits.set(base + 10_001, true);
            assert!(bits.get(base + 10_001) && !bits.get(base + 5));
        }
    }

    #[test]
    fn an_entry_that_ran_before_the_order_came_counts_as_run() {
        let log = [register(1), command(2, 1, 1), command(3, 1, 1)];
        let walk = |skipped: bool, outcome: Outcome| {
            let mut walk = Walk::default();
            let (sent, _) = walk.admit(vec![log[0].clone()]);
            walk.record(sent[0].position, said(""));
            if skipped {
                walk.skip(2);
            }
            let (sent, _) = walk.admit(vec![log[1].clone()]);
            assert_eq!(is_command(&sent[0]), !skipped);
            let first = walk.record(sent[0].position, outcome).unwrap();
            let (sent, _) = walk.admit(vec![log[2].clone()]);
            let retry = walk.record(sent[0].position, said("")).unwrap();
            let told = |answer| match answer {
                Answer::Outcome(_, outcome) => outcome,
                other => panic!("{other:?}"),
            };
            (
                told(first),
                told(retry),
                walk.contradicted,
                walk.table.chain(),
            )
        };
        let ran = walk(false, said("done"));
        let known_too_late = walk(true, said("done"));
        assert_eq!((&known_too_late.0, &known_too_late.1), (&ran.0, &ran.1));
        assert_eq!((ran.2, known_too_late.2), (vec![], vec![2]));
        assert_eq!(known_too_late.3, ran.3, "its chain is that of its state");
        let never_ran = walk(true, said(""));
        assert_eq!(never_ran.0, Outcome::skipped(2));
        assert_eq!(never_ran.1, Outcome::skipped(2));
        assert!(never_ran.2.is_empty() && never_ran.3 != ran.3);
    }

    #[test]
    fn an_order_that_names_a_retry_changes_nothing_of_what_it_is_told() {
        let mut walk = Walk::default();
        let (sent, _) = walk.admit(vec![register(1), command(2, 1, 1)]);
        walk.record(sent[0].position, said(""));
        walk.record(sent[1].position, said("done"));
        walk.skip(3);
        let (sent, _) = walk.admit(vec![command(3, 1, 1)]);
        assert!(!is_command(&sent[0]));
        let retry = walk.record(sent[0].position, said(""));
        assert_eq!(retry, Some(Answer::Outcome(sent[0].position, said("done"))));
    }

    #[test]
    fn a_skipped_entry_is_sent_as_nothing_whether_it_was_tried_or_not() {
        for tried in [false, true] {
            let mut walk = Walk::default();
            let (sent, _) = walk.admit(vec![register(1)]);
            walk.record(sent[0].position, said(""));
            if tried {
                let (sent, _) = walk.admit(vec![command(2, 1, 1)]);
                assert!(is_command(&sent[0]));
            }
            walk.skip(2);
            let (sent, _) = walk.admit(vec![command(2, 1, 1)]);
            assert!(!is_command(&sent[0]));
            let Some(Answer::Outcome(_, told)) = walk.record(sent[0].position, said("")) else {
                panic!("nobody is told")
            };
            assert_eq!(told.kind, OutcomeKind::Rejected);
            // A retry is told the same, and not run either.
            let (sent, _) = walk.admit(vec![command(3, 1, 1)]);
            assert!(!is_command(&sent[0]));
            let again = walk.record(sent[0].position, said("")).unwrap();
            assert_eq!(again, Answer::Outcome(sent[0].position, told));
            walk.skip(3);
            assert_eq!(walk.recorded, 3, "what is recorded stays");
        }
    }
}
