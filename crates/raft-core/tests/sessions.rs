//! Exactly once: the session table as a function of the log (S2, S3, P5).
#![allow(clippy::unwrap_used)]

#[cfg(feature = "mutants")]
mod a_mutant;

use bytes::Bytes;
use proptest::prelude::*;
use raft_core::sessions::{
    Admission, AppliedKind, MAX_OUTCOME_BYTES, MAX_SESSIONS, Outcome, OutcomeKind, SESSION_WINDOW,
    SessionRefusal,
};
use raft_core::{Command, Entry, Index, Payload, SessionTable};

/// A table, and the index of the next entry.
#[derive(Clone, Default)]
struct Table {
    table: SessionTable,
    executed: Vec<(Index, u64)>,
    log_time_ms: u64,
}

impl Table {
    fn entry(&self, payload: Payload) -> Entry {
        Entry {
            index: self.table.applied_index() + 1,
            term: 1,
            log_time_ms: self.log_time_ms,
            payload,
        }
    }

    fn admit(&mut self, payload: Payload) -> Admission {
        let entry = self.entry(payload);
        assert!(!self.table.must_wait(&entry));
        self.table.admit(&entry)
    }

    fn register(&mut self) -> Index {
        match self.admit(Payload::RegisterSession) {
            Admission::Nothing(AppliedKind::Registered { session }) => session,
            other => panic!("{other:?}"),
        }
    }

    /// A command, executed at once when it is to be; its outcome names the index.
    fn run(&mut self, session: Index, sequence: u64, acked_below: u64) -> Admission {
        let admission = self.admit(command(session, sequence, acked_below));
        if matches!(admission, Admission::Execute(_)) {
            self.executed.push((session, sequence));
            let index = self.table.applied_index();
            self.table.record(index, session, sequence, outcome(index));
        }
        admission
    }
}

fn command(session: Index, sequence: u64, acked_below: u64) -> Payload {
    let bytes = Bytes::from_static(b"INCR");
    Payload::Command(Command {
        session,
        sequence,
        acked_below,
        bytes,
    })
}

fn outcome(index: Index) -> Outcome {
    Outcome {
        kind: OutcomeKind::Ok,
        data: Bytes::copy_from_slice(&index.to_be_bytes()),
    }
}

fn is_run(admission: &Admission) -> bool {
    matches!(admission, Admission::Execute(_))
}

const EXPIRED: Admission = Admission::Refused(SessionRefusal::Expired);
const STALE: Admission = Admission::Refused(SessionRefusal::Stale);

/// S2: a session is the index of its Register entry; no other id is one.
#[test]
fn s2_an_unknown_session_has_expired() {
    let mut table = Table::default();
    table.admit(Payload::Noop);
    assert_eq!(table.register(), 2);
    for unknown in [1, 3, u64::MAX] {
        assert_eq!(table.run(unknown, 1, 0), EXPIRED);
    }
    assert!(is_run(&table.run(2, 1, 0)));
    let kept = table.admit(Payload::KeepAlive {
        session: 9,
        acked_below: 0,
    });
    assert_eq!(kept, Admission::Nothing(AppliedKind::KeepAliveExpired));
}

/// S2: a retry is answered with the first outcome and not run, wherever it stands in the log.
#[test]
fn s2_a_retry_is_not_run_again() {
    let mut table = Table::default();
    let session = table.register();
    assert!(is_run(&table.run(session, 1, 0)));
    let first = table.table.applied_index();
    assert!(is_run(&table.run(session, 2, 0)));
    for _ in 0..3 {
        assert_eq!(
            table.run(session, 1, 0),
            Admission::Duplicate(outcome(first))
        );
    }
}

/// S2: 7 commits before 6; 6 is new, and is run.
#[test]
fn s2_sequences_may_commit_out_of_order() {
    let mut table = Table::default();
    let session = table.register();
    assert!(is_run(&table.run(session, 7, 6)));
    assert!(is_run(&table.run(session, 6, 6)));
    assert!(matches!(table.run(session, 7, 6), Admission::Duplicate(_)));
    assert!(matches!(table.run(session, 6, 6), Admission::Duplicate(_)));
}

/// S2: what the client has acknowledged is forgotten, and stale from then on.
#[test]
fn s2_what_is_acknowledged_is_stale() {
    let mut table = Table::default();
    let session = table.register();
    for sequence in 1..=5 {
        table.run(session, sequence, 0);
    }
    table.admit(Payload::KeepAlive {
        session,
        acked_below: 4,
    });
    assert_eq!(table.run(session, 3, 0), STALE);
    assert!(matches!(table.run(session, 4, 0), Admission::Duplicate(_)));
    assert!(is_run(&table.run(session, 6, 6)));
    assert_eq!(
        table.run(session, 5, 4),
        STALE,
        "an older acknowledgement takes nothing back"
    );
}

/// S2: the window is bounded; what falls out of it is stale, never new.
#[test]
fn s2_the_window_is_bounded() {
    let mut table = Table::default();
    let session = table.register();
    let window = SESSION_WINDOW as u64;
    for sequence in 1..=window + 10 {
        assert!(is_run(&table.run(session, sequence, 0)));
    }
    for sequence in 1..=10 {
        assert_eq!(table.run(session, sequence, 0), STALE);
    }
    for sequence in 11..=window + 10 {
        assert!(
            matches!(table.run(session, sequence, 0), Admission::Duplicate(_)),
            "{sequence}"
        );
    }
    // Sequences at the end of the range are no trouble.
    assert!(is_run(&table.run(session, u64::MAX, 0)));
    assert!(matches!(
        table.run(session, u64::MAX, 0),
        Admission::Duplicate(_)
    ));
    table.admit(Payload::KeepAlive {
        session,
        acked_below: u64::MAX,
    });
    assert!(matches!(
        table.run(session, u64::MAX, 0),
        Admission::Duplicate(_)
    ));
}

/// S2: outside any session everything is run, every time.
#[test]
fn s2_without_a_session_nothing_is_a_retry() {
    let mut table = Table::default();
    assert!(is_run(&table.run(0, 1, 0)) && is_run(&table.run(0, 1, 0)));
}

/// S2: a retry in the batch that is being executed waits for the outcome.
#[test]
fn s2_a_retry_in_the_same_batch_waits() {
    let mut table = Table::default();
    let session = table.register();
    assert!(is_run(&table.admit(command(session, 1, 0))));
    assert!(table.table.must_wait(&table.entry(command(session, 1, 0))));
    assert!(!table.table.must_wait(&table.entry(command(session, 2, 0))));
    table.table.record(2, session, 1, outcome(77));
    assert_eq!(table.run(session, 1, 0), Admission::Duplicate(outcome(77)));
}

/// S3: an expiry is void if the session was active after the leader looked; any use is activity.
#[test]
fn s3_an_expiry_is_void_after_newer_activity() {
    for use_it in [
        |table: &mut Table, session| drop(table.run(session, 1, 0)),
        |table: &mut Table, session| {
            table.admit(Payload::KeepAlive {
                session,
                acked_below: 0,
            });
        },
    ] {
        let mut table = Table::default();
        let session = table.register();
        let seen_activity = table.table.applied_index();
        use_it(&mut table, session);
        table.admit(Payload::ExpireSession {
            session,
            seen_activity,
        });
        assert!(is_run(&table.run(session, 2, 0)), "the expiry is void");
        let seen_activity = table.table.applied_index();
        table.admit(Payload::ExpireSession {
            session,
            seen_activity,
        });
        assert_eq!(table.run(session, 3, 0), EXPIRED);
    }
}

/// S3: by the log's own time, the idlest first, and with the activity that was seen.
#[test]
fn s3_those_who_were_idle_for_too_long_are_named() {
    let mut table = Table::default();
    let sessions: Vec<Index> = (0..4).map(|_| table.register()).collect();
    table.log_time_ms = 1_000;
    table.run(sessions[1], 1, 0);
    table.log_time_ms = 2_000;
    table.admit(Payload::KeepAlive {
        session: sessions[0],
        acked_below: 0,
    });
    assert_eq!(table.table.idle_before(0, 9), []);
    let idle = [(sessions[2], sessions[2]), (sessions[3], sessions[3])];
    assert_eq!(table.table.idle_before(1_000, 9), idle);
    let kept = SessionTable::decode(table.table.encode()).unwrap();
    assert_eq!(
        kept.idle_before(1_001, 9),
        [idle[0], idle[1], (sessions[1], 5)]
    );
    assert_eq!(kept.idle_before(u64::MAX, 1), [idle[0]]);
    assert_eq!(kept.idle_before(2_001, 9).len(), 4);
}

/// The bytes that are kept for retries are bounded. What goes is what the idlest could still be told; a
/// retry of theirs is no more run than before.
#[test]
fn outcomes_are_kept_up_to_a_limit_of_bytes() {
    let mut table = Table::default();
    let sessions: Vec<Index> = (0..10).map(|_| table.register()).collect();
    let large = Outcome {
        kind: OutcomeKind::Ok,
        data: vec![7; (MAX_OUTCOME_BYTES / 8) as usize].into(),
    };
    for session in &sessions[..8] {
        assert!(is_run(&table.admit(command(*session, 1, 0))));
        let index = table.table.applied_index();
        table.table.record(index, *session, 1, large.clone());
    }
    let told = |table: &mut Table, session| table.admit(command(session, 1, 0));
    for session in &sessions[..8] {
        assert_eq!(
            told(&mut table, *session),
            Admission::Duplicate(large.clone())
        );
    }
    assert!(is_run(&table.admit(command(sessions[8], 1, 0))));
    let index = table.table.applied_index();
    table.table.record(index, sessions[8], 1, large.clone());
    let encoded = table.table.encode();
    assert!(encoded.len() as u64 <= MAX_OUTCOME_BYTES / 2 + 1000);
    assert_eq!(SessionTable::decode(encoded).unwrap(), table.table);
    for (number, session) in sessions[..9].iter().enumerate() {
        let Admission::Duplicate(known) = told(&mut table, *session) else {
            panic!("it is run again");
        };
        let forgotten = known.kind == OutcomeKind::AlreadyApplied;
        assert_eq!(forgotten, number < 5, "session {number}");
    }
    // Whatever way they go, they are not counted any more.
    for session in &sessions[5..9] {
        table.admit(Payload::KeepAlive {
            session: *session,
            acked_below: 2,
        });
    }
    for session in &sessions {
        assert!(is_run(&table.admit(command(*session, 3, 0))));
        let index = table.table.applied_index();
        let eighth = large.data.slice(..large.data.len() / 2);
        let outcome = Outcome {
            kind: OutcomeKind::Ok,
            data: eighth,
        };
        table.table.record(index, *session, 3, outcome);
    }
    let Admission::Duplicate(known) = table.admit(command(sessions[0], 3, 0)) else {
        panic!("it is run again");
    };
    assert_eq!(
        known.kind,
        OutcomeKind::Ok,
        "five eighths are within the limit"
    );
}

/// P4: equal outcomes make equal chains; once they part, they stay apart; an outcome that is not known
/// ends the comparison.
#[test]
fn p4_the_chain_tells_where_outcomes_part() {
    let run = |outcomes: &[Outcome]| {
        let mut table = Table::default();
        for outcome in outcomes {
            table.admit(command(0, 0, 0));
            let index = table.table.applied_index();
            table.table.record(index, 0, 0, outcome.clone());
        }
        table.table.chain()
    };
    let same = [outcome(1), outcome(2), outcome(3)];
    assert_eq!(run(&same), run(&same));
    let other = [outcome(1), outcome(9), outcome(3)];
    assert_ne!(run(&same[..2]), run(&other[..2]));
    assert_ne!(run(&same), run(&other));
    let mut kind = same.clone();
    kind[2].kind = OutcomeKind::NotFound;
    assert_ne!(run(&same), run(&kind));
    assert!(!run(&same).is_broken);
    let mut unknown = same.clone();
    unknown[0].kind = OutcomeKind::AlreadyApplied;
    assert!(run(&unknown).is_broken);
    // The index is part of it: a gap is a difference.
    let mut table = Table::default();
    table.register();
    for outcome in &same {
        table.admit(command(0, 0, 0));
        let index = table.table.applied_index();
        table.table.record(index, 0, 0, outcome.clone());
    }
    assert_ne!(table.table.chain(), run(&same));
    let kept = SessionTable::decode(table.table.encode()).unwrap();
    assert_eq!(kept.chain(), table.table.chain());
}

/// S2: an expired session is not made again by a retry.
#[test]
fn s2_an_expired_session_stays_expired() {
    let mut table = Table::default();
    let session = table.register();
    table.run(session, 1, 0);
    let seen_activity = table.table.applied_index();
    table.admit(Payload::ExpireSession {
        session,
        seen_activity,
    });
    assert_eq!(table.run(session, 1, 0), EXPIRED);
    assert_eq!(table.run(session, 1, 0), EXPIRED);
    assert!(table.table.is_empty());
}

/// The number of sessions is bounded: the one that was idle for longest ends.
#[test]
fn the_idlest_session_ends_when_there_are_too_many() {
    let mut table = Table::default();
    let first = table.register();
    let second = table.register();
    for _ in 2..MAX_SESSIONS {
        table.register();
    }
    table.run(first, 1, 0);
    table.register();
    assert_eq!(table.table.len(), MAX_SESSIONS);
    assert_eq!(table.run(second, 1, 0), EXPIRED);
    assert!(is_run(&table.run(first, 2, 0)));
}

/// P5: an entry that an operator has skipped is not run, its client is told, and so is each retry: else
/// a retry would bring the poison back.
#[test]
fn p5_a_skipped_entry_is_not_run() {
    let mut table = Table::default();
    let session = table.register();
    let poison = table.table.applied_index() + 1;
    table.table.skip(poison);
    let first = table.run(session, 1, 0);
    let Admission::Duplicate(told) = &first else {
        panic!("{first:?}");
    };
    assert_eq!(told.kind, OutcomeKind::Rejected);
    assert_eq!(table.table.applied_index(), poison);
    assert_eq!(table.run(session, 1, 0), first, "a retry is told the same");
    assert!(is_run(&table.run(session, 2, 0)));
}

/// P5: outside of a session too; and only the entry that was named, only while it is to come.
#[test]
fn p5_only_what_is_named_is_skipped() {
    let mut table = Table::default();
    table.register();
    table.table.skip(1);
    table.table.skip(3);
    assert!(is_run(&table.run(0, 0, 0)), "entry 2");
    assert!(!is_run(&table.run(0, 0, 0)), "entry 3");
    assert!(is_run(&table.run(0, 0, 0)), "entry 4");
    let late = table.table.applied_index();
    table.admit(Payload::Skip { index: late });
    table.admit(Payload::Skip { index: late + 2 });
    assert!(
        is_run(&table.run(0, 0, 0)),
        "a Skip says nothing of what follows it"
    );
    // A session is opened whatever the operator thinks of it: nothing of it reaches a state machine.
    table.table.skip(table.table.applied_index() + 1);
    table.register();
}

/// S4: a table that went through a snapshot is the same table.
#[test]
fn a_table_survives_its_bytes() {
    let mut table = Table::default();
    let sessions: Vec<Index> = (0..5).map(|_| table.register()).collect();
    for (number, session) in sessions.iter().enumerate() {
        for sequence in 1..=number as u64 * 3 {
            table.run(*session, sequence, sequence / 2);
        }
    }
    let bytes = table.table.encode();
    let again = SessionTable::decode(bytes.clone()).unwrap();
    assert_eq!(again, table.table);
    assert_eq!(again.encode(), bytes);
    for length in 0..bytes.len() {
        assert!(
            SessionTable::decode(bytes.slice(..length)).is_err(),
            "{length}"
        );
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert!(SessionTable::decode(longer.into()).is_err());
    // Any byte may be any other: an error or another table, never a panic.
    for at in 0..bytes.len() {
        for change in [1, 0x80, 0xff] {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= change;
            if let Ok(other) = SessionTable::decode(damaged.into()) {
                assert!(other.len() <= MAX_SESSIONS);
            }
        }
    }
}

proptest! {
    /// S2: whatever the order and however often entries stand in the log, a sequence of a living
    /// session is run at most once; and two replicas that admit the same entries are equal, whatever
    /// the state machine's outcomes were in between.
    #[test]
    fn every_sequence_is_run_at_most_once(
        steps in prop::collection::vec((0..6_u8, 0..3_u64, 1..12_u64, 0..8_u64), 1..200),
    ) {
        let mut table = Table::default();
        let sessions: Vec<Index> = (0..3).map(|_| table.register()).collect();
        let mut replica = table.clone();
        for (kind, session, sequence, number) in steps {
            let session = sessions[session as usize];
            let payload = match kind {
                0 => Payload::KeepAlive { session, acked_below: number },
                1 if number == 0 => {
                    Payload::ExpireSession { session, seen_activity: table.table.applied_index() }
                }
                1 => Payload::ExpireSession { session, seen_activity: number },
                _ => {
                    let ours = table.run(session, sequence, sequence.saturating_sub(number));
                    let theirs = replica.run(session, sequence, sequence.saturating_sub(number));
                    prop_assert_eq!(ours, theirs);
                    continue;
                }
            };
            prop_assert_eq!(table.admit(payload.clone()), replica.admit(payload));
        }
        prop_assert_eq!(&table.table, &replica.table);
        let mut seen = std::collections::BTreeSet::new();
        for run in &table.executed {
            prop_assert!(seen.insert(*run), "{:?} was run twice", run);
        }
    }
}
