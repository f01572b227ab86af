//! Exactly once (§6.3 of the dissertation; rule S2): which entries reach the state machine.
//!
//! The table is a function of the log: every replica that has applied the same entries holds the same
//! table. It is asked once for every entry, in order of index, before the entry is handed to the state
//! machine; so a retry that stands in the log a second time is recognised, and gets the outcome of
//! the first.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::entry::{BadPayload, Command, Entry, Payload, take_u8, take_u32, take_u64};
use crate::ids::Index;

/// Sessions that are kept. When one more is registered, the one that was idle for the longest
/// stretch of the log ends. A constant, not a setting: replicas that differed in it would diverge.
pub const MAX_SESSIONS: usize = 16_384;

/// Outcomes that one session may have unacknowledged. Beyond, the oldest is forgotten, and its
/// sequence counts as acknowledged. A constant for the same reason.
pub const SESSION_WINDOW: usize = 256;

/// Bytes of outcomes that are kept for retries, of all sessions together. Beyond, those of the idlest sessions
/// go, down to half of it: a retry then hears that the entry was applied, and not what came of it. It
/// is never run again.
pub const MAX_OUTCOME_BYTES: u64 = 64 << 20;

/// The layout of [`SessionTable::encode`].
const TABLE_VERSION: u8 = 2;

/// These bytes are no session table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTable {
    /// They end too early, or go on too long.
    #[error("the session table has the wrong length")]
    Length,
    /// Another layout.
    #[error("the session table has layout {0}: was it written by a newer version?")]
    Version(u8),
    /// More sessions, or outcomes of one, than a table has.
    #[error("the session table has more sessions or outcomes than the limits allow")]
    TooMany,
    /// Two parts of it cannot both be true.
    #[error("the session table contradicts itself")]
    Contradiction,
}

impl From<BadPayload> for BadTable {
    fn from(_: BadPayload) -> BadTable {
        BadTable::Length
    }
}

/// What the state machine said of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// In a word.
    pub kind: OutcomeKind,
    /// The result, or a sentence.
    pub data: Bytes,
}

impl Outcome {
    /// Of an entry that is left out by an operator's order (P5).
    pub fn skipped(index: Index) -> Outcome {
        let sentence = format!("entry {index} was skipped by an operator: it was not applied");
        Outcome {
            kind: OutcomeKind::Rejected,
            data: Bytes::from(sentence),
        }
    }

    /// Applied, and not known any more what came of it.
    fn forgotten() -> Outcome {
        Outcome {
            kind: OutcomeKind::AlreadyApplied,
            data: Bytes::new(),
        }
    }
}

/// What an outcome adds to the bytes that are kept.
fn bytes_of(outcome: Option<&Outcome>) -> u64 {
    outcome.map_or(0, |outcome| outcome.data.len() as u64)
}

/// In a word: what the state machine said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutcomeKind {
    /// Applied; the data is the result.
    Ok,
    /// Refused, the state unchanged; the data is a sentence.
    Rejected,
    /// What was asked for is not there; the data is a sentence.
    NotFound,
    /// Applied before, and the outcome is no longer kept.
    AlreadyApplied,
}

impl OutcomeKind {
    fn code(self) -> u8 {
        match self {
            OutcomeKind::Ok => 1,
            OutcomeKind::Rejected => 2,
            OutcomeKind::NotFound => 3,
            OutcomeKind::AlreadyApplied => 4,
        }
    }

    fn from_code(code: u8) -> Option<OutcomeKind> {
        Some(match code {
            1 => OutcomeKind::Ok,
            2 => OutcomeKind::Rejected,
            3 => OutcomeKind::NotFound,
            4 => OutcomeKind::AlreadyApplied,
            _ => return None,
        })
    }
}

/// Why an entry is not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SessionRefusal {
    /// No such session: it has expired, or never was.
    #[error("the session has expired")]
    Expired,
    /// The client has acknowledged this sequence, so that it cannot be a retry that anyone waits for; or it
    /// lies before the last [`SESSION_WINDOW`].
    #[error("the sequence was acknowledged before")]
    Stale,
}

/// What to do with an entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Admission {
    /// Hand these bytes to the state machine, then [`SessionTable::record`] what it said.
    Execute(Bytes),
    /// It was executed at an earlier index, or skipped: this is what came of it.
    Duplicate(Outcome),
    /// It is not executed.
    Refused(SessionRefusal),
    /// Nothing for the state machine.
    Nothing(AppliedKind),
}

/// What a waiter of an entry that is not for the state machine is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AppliedKind {
    /// A session was opened; its id is the entry's index.
    Registered {
        /// The session.
        session: Index,
    },
    /// The session lives on.
    KeptAlive,
    /// The session that was to be kept alive is unknown.
    KeepAliveExpired,
    /// A no-op, a configuration, an expiry.
    Other,
}

/// All sessions, as of one index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SessionTable {
    sessions: BTreeMap<Index, Session>,
    /// (last activity, session), to find the idlest.
    by_activity: BTreeSet<(Index, Index)>,
    applied_index: Index,
    skipped: BTreeSet<Index>,
    outcome_bytes: u64,
    chain: Chain,
}

/// What came of every entry that was executed, in 64 bits: replicas that agree on it went the same way
/// (P4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Chain {
    /// Over the outcomes, in order of index.
    pub hash: u64,
    /// An outcome is not known any more: this chain says nothing, until a snapshot with another one
    /// takes the place of the log.
    pub is_broken: bool,
}

impl Chain {
    fn append(&mut self, index: Index, outcome: &Outcome) {
        self.is_broken |= outcome.kind == OutcomeKind::AlreadyApplied;
        let mut link = [0; 17];
        link[..8].copy_from_slice(&self.hash.to_be_bytes());
        link[8..16].copy_from_slice(&index.to_be_bytes());
        link[16] = outcome.kind.code();
        // Sentences are for people, and may be worded anew.
        let data: &[u8] = match outcome.kind {
            OutcomeKind::Ok => &outcome.data,
            _ => &[],
        };
        self.hash = xxh3_64_with_seed(data, xxh3_64(&link));
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Session {
    last_activity: Index,
    /// Log time of that entry (S3).
    last_active_ms: u64,
    acked_below: u64,
    /// Sequence to outcome. None: executing; its outcome is recorded before the next entry is
    /// answered from it.
    outcomes: BTreeMap<u64, Option<Outcome>>,
}

impl SessionTable {
    /// The table of a cluster that begins with the state of another as of `index`: every session has
    /// expired, and what came of entries is compared from here on (P5).
    pub fn empty_as_of(index: Index) -> SessionTable {
        SessionTable {
            applied_index: index,
            ..SessionTable::default()
        }
    }

    /// The entry up to which the table has been told everything.
    pub fn applied_index(&self) -> Index {
        self.applied_index
    }

    /// Sessions that are open.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether no session is open.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Whether the outcome that `entry` would be answered with is still to be recorded: the same
    /// command was admitted in the batch that is being executed. Execute that batch first.
    pub fn must_wait(&self, entry: &Entry) -> bool {
        let Payload::Command(command) = &entry.payload else {
            return false;
        };
        let session = self.sessions.get(&command.session);
        let executing =
            session.is_some_and(|session| session.outcomes.get(&command.sequence) == Some(&None));
        executing && !mutant!(S2SameBatchNotAwaited)
    }

    /// Decides about the next entry, and takes note of it. To be called once for every index, in
    /// order, and not while [`SessionTable::must_wait`] says so.
    pub fn admit(&mut self, entry: &Entry) -> Admission {
        assert_eq!(
            entry.index,
            self.applied_index + 1,
            "every entry is admitted once, in order"
        );
        self.applied_index = entry.index;
        match &entry.payload {
            Payload::Command(command) => {
                let skipped = self.skipped.remove(&entry.index) && !mutant!(P5SkippedRuns);
                self.admit_command(command, entry, skipped)
            }
            Payload::RegisterSession => {
                self.register(entry);
                Admission::Nothing(AppliedKind::Registered {
                    session: entry.index,
                })
            }
            Payload::KeepAlive {
                session,
                acked_below,
            } => {
                let kept = self.touch(*session, *acked_below, entry);
                let lives = AppliedKind::KeptAlive;
                Admission::Nothing(if kept {
                    lives
                } else {
                    AppliedKind::KeepAliveExpired
                })
            }
            Payload::ExpireSession {
                session,
                seen_activity,
            } => {
                // S3: void if the session was active after the leader looked.
                let idle = self.sessions.get(session);
                if idle.is_some_and(|session| session.last_activity <= *seen_activity)
                    || mutant!(S3ExpiresTheActive)
                {
                    self.end(*session);
                }
                Admission::Nothing(AppliedKind::Other)
            }
            // What it names was passed, or it would not have come to this one.
            Payload::Skip { .. }
            | Payload::Noop
            | Payload::Founding { .. }
            | Payload::Configuration(_)
            | Payload::Dissolve => Admission::Nothing(AppliedKind::Other),
        }
    }

    /// An operator's [`Payload::Skip`] for the entry at `index` is committed: when that entry is
    /// admitted it is not executed, and its outcome says so, to retries too (P5). To be told before:
    /// the Skip stands behind the entry on which every state machine fails, so whoever applies must
    /// look ahead for it. Nothing happens to an entry that was admitted, or that is no command.
    pub fn skip(&mut self, index: Index) {
        if index > self.applied_index {
            self.skipped.insert(index);
        }
    }

    fn admit_command(&mut self, command: &Command, entry: &Entry, skipped: bool) -> Admission {
        let outcome = skipped.then(|| Outcome::skipped(entry.index));
        let admission = match &outcome {
            Some(outcome) => Admission::Duplicate(outcome.clone()),
            None => Admission::Execute(command.bytes.clone()),
        };
        if command.session == 0 {
            return admission;
        }
        if !self.touch(command.session, command.acked_below, entry) {
            if mutant!(S2ExpiredRuns) {
                return admission;
            }
            return Admission::Refused(SessionRefusal::Expired);
        }
        let Some(session) = self.sessions.get_mut(&command.session) else {
            return Admission::Refused(SessionRefusal::Expired);
        };
        if command.sequence < session.acked_below && !mutant!(S2StaleRuns) {
            return Admission::Refused(SessionRefusal::Stale);
        }
        let last = session.outcomes.last_key_value();
        if mutant!(S2LastSequenceOnly) && last.is_some_and(|(last, _)| command.sequence < *last) {
            return Admission::Duplicate(Outcome::forgotten());
        }
        if let Some(known) = session.outcomes.get(&command.sequence)
            && !mutant!(S2RetryRuns)
        {
            return Admission::Duplicate(known.clone().unwrap_or_else(Outcome::forgotten));
        }
        self.outcome_bytes += bytes_of(outcome.as_ref());
        session.outcomes.insert(command.sequence, outcome);
        while session.outcomes.len() > SESSION_WINDOW {
            if let Some((oldest, outcome)) = session.outcomes.pop_first() {
                self.outcome_bytes -= bytes_of(outcome.as_ref());
                if !mutant!(S2WindowForgets) {
                    session.acked_below = session.acked_below.max(oldest + 1);
                }
            }
        }
        admission
    }

    /// Keeps what the state machine said of the entry at `index`, which was to be executed: in order of
    /// index, once for each. `session` is 0 for an entry without one.
    pub fn record(&mut self, index: Index, session: Index, sequence: u64, outcome: Outcome) {
        self.chain.append(index, &outcome);
        self.keep(session, sequence, outcome);
    }

    /// An operator's Skip came for an entry that was admitted, and on which the state machine failed: its
    /// outcome says so (P5).
    pub fn record_skipped(&mut self, index: Index, session: Index, sequence: u64) {
        self.keep(session, sequence, Outcome::skipped(index));
    }

    fn keep(&mut self, session: Index, sequence: u64, outcome: Outcome) {
        if let Some(session) = self.sessions.get_mut(&session)
            && let Some(kept) = session.outcomes.get_mut(&sequence)
        {
            self.outcome_bytes -= bytes_of(kept.as_ref());
            self.outcome_bytes += bytes_of(Some(&outcome));
            *kept = Some(outcome);
        }
        if self.outcome_bytes > MAX_OUTCOME_BYTES {
            self.forget_outcomes(MAX_OUTCOME_BYTES / 2);
        }
    }

    /// Lets go of what the idlest sessions may still be told, until no more than `most` bytes are left.
    /// This changes what a retry hears, and nothing else: replicas that do it at different moments, since
    /// their batches are others, stay of one state.
    fn forget_outcomes(&mut self, most: u64) {
        for (_, id) in &self.by_activity {
            let Some(session) = self.sessions.get_mut(id) else {
                continue;
            };
            for outcome in session.outcomes.values_mut().flatten() {
                if self.outcome_bytes <= most {
                    return;
                }
                if !outcome.data.is_empty() {
                    self.outcome_bytes -= outcome.data.len() as u64;
                    *outcome = Outcome::forgotten();
                }
            }
        }
    }

    /// What came of all entries up to [`SessionTable::applied_index`], once all of that is recorded.
    pub fn chain(&self) -> Chain {
        self.chain
    }

    /// Sessions that were active last before `log_time_ms`, the idlest first, at most `most` of them: the
    /// session, and the index of that activity. What a leader proposes to end (S3).
    pub fn idle_before(&self, log_time_ms: u64, most: usize) -> Vec<(Index, Index)> {
        let idle = |(_, id): &&(Index, Index)| {
            let session = self.sessions.get(id);
            session.is_some_and(|session| session.last_active_ms < log_time_ms)
        };
        let idlest = self.by_activity.iter().take_while(idle).take(most);
        idlest.map(|(activity, id)| (*id, *activity)).collect()
    }

    /// The table as bytes, for a snapshot (S4): equal tables give equal bytes. Everything that was
    /// admitted must be recorded; what is not counts as an outcome that is no longer known.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(TABLE_VERSION);
        out.put_u64(self.applied_index);
        out.put_u64(self.chain.hash);
        out.put_u8(u8::from(self.chain.is_broken));
        let none = mutant!(S4NoSessions);
        let kept = if none { 0 } else { self.sessions.len() };
        out.put_u32(u32::try_from(kept).unwrap_or(u32::MAX));
        for (id, session) in self.sessions.iter().take(kept) {
            out.put_u64(*id);
            out.put_u64(session.last_activity);
            out.put_u64(session.last_active_ms);
            out.put_u64(session.acked_below);
            out.put_u32(u32::try_from(session.outcomes.len()).unwrap_or(u32::MAX));
            for (sequence, outcome) in &session.outcomes {
                let (kind, data) = match outcome {
                    Some(outcome) => (outcome.kind, &*outcome.data),
                    None => (OutcomeKind::AlreadyApplied, &[][..]),
                };
                out.put_u64(*sequence);
                out.put_u8(kind.code());
                out.put_u32(u32::try_from(data.len()).unwrap_or(u32::MAX));
                out.put_slice(data);
            }
        }
        out.freeze()
    }

    /// Reads a table back.
    ///
    /// # Errors
    /// [`BadTable`] for anything that [`SessionTable::encode`] would not have written.
    pub fn decode(mut bytes: Bytes) -> Result<SessionTable, BadTable> {
        let bytes = &mut bytes;
        let version = take_u8(bytes)?;
        if version != TABLE_VERSION {
            return Err(BadTable::Version(version));
        }
        let mut table = SessionTable {
            applied_index: take_u64(bytes)?,
            chain: Chain {
                hash: take_u64(bytes)?,
                is_broken: match take_u8(bytes)? {
                    0 => false,
                    1 => true,
                    _ => return Err(BadTable::Contradiction),
                },
            },
            ..SessionTable::default()
        };
        let count = take_u32(bytes)?;
        if count as usize > MAX_SESSIONS {
            return Err(BadTable::TooMany);
        }
        for _ in 0..count {
            let id = take_u64(bytes)?;
            let mut session = Session {
                last_activity: take_u64(bytes)?,
                last_active_ms: take_u64(bytes)?,
                acked_below: take_u64(bytes)?,
                outcomes: BTreeMap::new(),
            };
            let known = (1..=table.applied_index).contains(&id);
            if !known || !(id..=table.applied_index).contains(&session.last_activity) {
                return Err(BadTable::Contradiction);
            }
            let outcomes = take_u32(bytes)?;
            if outcomes as usize > SESSION_WINDOW {
                return Err(BadTable::TooMany);
            }
            for _ in 0..outcomes {
                let sequence = take_u64(bytes)?;
                let kind =
                    OutcomeKind::from_code(take_u8(bytes)?).ok_or(BadTable::Contradiction)?;
                let length = take_u32(bytes)? as usize;
                if bytes.len() < length {
                    return Err(BadTable::Length);
                }
                // Copied: a slice would hold all of the snapshot's head in memory.
                let data = Bytes::copy_from_slice(&bytes.split_to(length));
                table.outcome_bytes += length as u64;
                let outcome = Outcome { kind, data };
                let last = session.outcomes.last_key_value();
                if last.is_some_and(|(last, _)| *last >= sequence) {
                    return Err(BadTable::Contradiction);
                }
                session.outcomes.insert(sequence, Some(outcome));
            }
            // In order, as they are written: equal tables have equal bytes.
            let last = table.sessions.last_key_value();
            if last.is_some_and(|(last, _)| *last >= id) {
                return Err(BadTable::Contradiction);
            }
            table.by_activity.insert((session.last_activity, id));
            table.sessions.insert(id, session);
        }
        if bytes.is_empty() {
            Ok(table)
        } else {
            Err(BadTable::Length)
        }
    }

    fn register(&mut self, entry: &Entry) {
        let index = entry.index;
        if self.sessions.len() >= MAX_SESSIONS
            && let Some((_, idlest)) = self.by_activity.first().copied()
        {
            self.end(idlest);
        }
        self.sessions.insert(
            index,
            Session {
                last_activity: index,
                last_active_ms: entry.log_time_ms,
                ..Session::default()
            },
        );
        self.by_activity.insert((index, index));
    }

    fn touch(&mut self, id: Index, acked_below: u64, entry: &Entry) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else {
            return false;
        };
        self.by_activity.remove(&(session.last_activity, id));
        session.last_activity = entry.index;
        session.last_active_ms = entry.log_time_ms;
        self.by_activity.insert((entry.index, id));
        if acked_below > session.acked_below {
            session.acked_below = acked_below;
            let wanted = session.outcomes.split_off(&acked_below);
            let acknowledged = std::mem::replace(&mut session.outcomes, wanted);
            let bytes = acknowledged.values().map(|known| bytes_of(known.as_ref()));
            self.outcome_bytes -= bytes.sum::<u64>();
        }
        true
    }

    fn end(&mut self, id: Index) {
        if let Some(session) = self.sessions.remove(&id) {
            let bytes = session
                .outcomes
                .values()
                .map(|known| bytes_of(known.as_ref()));
            self.outcome_bytes -= bytes.sum::<u64>();
            self.by_activity.remove(&(session.last_activity, id));
        }
    }
}
