//! Ends sessions that nobody uses any more (S3).
//!
//! Only a leader looks, by the log's own time, and all it does is to propose: the end of a session is an
//! entry, which names the activity that was seen, and is void if the session was used since.

use std::sync::Arc;
use std::time::Duration;

use raft_core::{Payload, SessionTable};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior};

use crate::ask::Ask;
use crate::limits::{EXPIRED_AT_ONCE, SESSION_SWEEP_INTERVAL, SESSION_SWEEPS};
use crate::say;
use crate::shared::Shared;
use crate::status::inspect;

/// When to look.
pub fn sweeps(shared: &Shared) -> Interval {
    let timeout = shared.config.session_timeout;
    let mut sweeps = tokio::time::interval(interval(timeout));
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    sweeps
}

fn interval(timeout: Duration) -> Duration {
    (timeout / SESSION_SWEEPS).max(SESSION_SWEEP_INTERVAL)
}

/// Proposes to end the sessions of `table` that were idle for longer than `SessionTimeout`, if this node
/// leads. `table` may be behind the log: what it does not know yet makes the end void.
pub async fn expire(shared: &Arc<Shared>, inbox: &mpsc::Sender<Ask>, table: &SessionTable) {
    if table.is_empty() || !shared.leads() {
        return;
    }
    let Some(now) = inspect(inbox).await.and_then(|core| core.log_time_ms) else {
        return;
    };
    let timeout = shared.config.session_timeout.as_millis();
    let timeout = u64::try_from(timeout).unwrap_or(u64::MAX);
    let idle = table.idle_before(now.saturating_sub(timeout), EXPIRED_AT_ONCE);
    if idle.is_empty() {
        return;
    }
    say!(info, "SESSION", "{} idle sessions are to end", idle.len());
    let mut answers = Vec::with_capacity(idle.len());
    for (session, seen_activity) in idle {
        let payload = Payload::ExpireSession {
            session,
            seen_activity,
        };
        let (reply, answer) = oneshot::channel();
        if inbox.try_send(Ask::Put { payload, reply }).is_err() {
            break; // There is more to do than this; the next look finds them again.
        }
        answers.push(answer);
    }
    // A proposal that nobody waits for is not made. What comes of it shows at the next look.
    let patience = interval(shared.config.session_timeout);
    tokio::spawn(tokio::time::timeout(patience, async move {
        for answer in answers {
            let _ = answer.await;
        }
    }));
}
