//! Requests of one session in any order, more than once, late, and more than the window holds (S2, S3).

use raft_core::sessions::SESSION_WINDOW;
use raft_core::{Index, Payload};

use super::{Run, SETTLES, in_session};
use crate::check::Wrong;

/// Of a thousand so many fill the window.
const FILLED: u64 = 300;

/// Entries of one batch: fewer than may wait to be committed.
const AT_ONCE: u64 = 7;

impl Run<'_> {
    pub(super) fn try_sessions(&mut self) -> Result<(), Wrong> {
        self.order(vec![Payload::RegisterSession])?;
        let registers = |payload: &Payload| matches!(payload, Payload::RegisterSession);
        let Some(session) = self.last_committed(registers) else {
            return Ok(());
        };
        self.coverage.event("session tried");
        let ask = |sequence: u64, acked_below: u64| {
            in_session(
                session,
                sequence,
                acked_below,
                format!("INCR course {sequence}"),
            )
        };
        // 7 commits before 6, and both are asked for again before they are answered.
        self.order(vec![ask(7, 1), ask(6, 1), ask(7, 1), ask(6, 1)])?;
        self.order(vec![ask(8, 8)])?;
        // Acknowledged, and asked for again.
        self.order(vec![ask(6, 1)])?;
        // It was active since.
        let expire = |seen_activity: Index| Payload::ExpireSession {
            session,
            seen_activity,
        };
        self.order(vec![expire(session), ask(9, 8)])?;
        if self.dice.per_mille(FILLED) {
            let last = 10 + SESSION_WINDOW as u64;
            for first in (10..=last).step_by(AT_ONCE as usize) {
                let batch = first..(first + AT_ONCE).min(last + 1);
                self.order(batch.map(|sequence| ask(sequence, 8)).collect())?;
            }
            self.order(vec![ask(9, 8), ask(10, 8), ask(11, 8)])?;
        }
        // Nobody uses it any more, and a late retry comes.
        self.order(vec![expire(Index::MAX), ask(9, 8), ask(1_000, 8)])
    }

    fn order(&mut self, payloads: Vec<Payload>) -> Result<(), Wrong> {
        if let Some(leader) = self.leader() {
            self.propose(leader, payloads);
        }
        self.pass(SETTLES)
    }
}
