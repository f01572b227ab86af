//! The log lines of what happens, under the names by which people look for them.

use std::time::{Duration, Instant};

use member_core::{DecodeError, Event, Record};
use tracing::{debug, error, info, warn};

/// Lines about refused packets per [`REFUSAL_WINDOW`]; anybody can cause those, so they are counted
/// beyond that and not written.
const MAX_REFUSAL_LINES: u32 = 20;
const REFUSAL_WINDOW: Duration = Duration::from_secs(10);

/// Writes log lines.
pub(crate) struct EventLog {
    window_began: Instant,
    refusals: u32,
}

fn who(record: &Record) -> String {
    let metadata = &record.metadata;
    format!(
        "{} [PID={}] at {}",
        metadata.name,
        record.pid(),
        metadata.address
    )
}

impl EventLog {
    pub(crate) fn new() -> Self {
        Self {
            window_began: Instant::now(),
            refusals: 0,
        }
    }

    fn may_write_refusal(&mut self) -> bool {
        if self.window_began.elapsed() >= REFUSAL_WINDOW {
            if self.refusals > MAX_REFUSAL_LINES {
                let silenced = self.refusals - MAX_REFUSAL_LINES;
                warn!("[MEMBER] {silenced} more packets were refused without a line each");
            }
            self.window_began = Instant::now();
            self.refusals = 0;
        }
        self.refusals = self.refusals.saturating_add(1);
        self.refusals <= MAX_REFUSAL_LINES
    }

    pub(crate) fn write(&mut self, event: &Event) {
        match event {
            Event::JoinSent { addresses } => {
                debug!("[MEMBER] [JOIN] asked {addresses} addresses to let this node in");
            }
            Event::Join {
                record,
                from,
                rejoin,
            } => {
                info!(
                    "[MEMBER] [JOIN] {} asks to be let in from {from}",
                    who(record)
                );
                if *rejoin {
                    info!("[MEMBER] [JOIN] Identified as rejoin: {}", who(record));
                }
                info!("[MEMBER] [JOINREPLY] sent to {}", who(record));
            }
            Event::JoinReply {
                node_id,
                from,
                rejoin,
            } => {
                info!("[MEMBER] [JOINREPLY] received from node {node_id} at {from}");
                if *rejoin {
                    info!("[MEMBER] [REJOIN] this node was known there from an earlier boot");
                }
            }
            Event::Orphaned => {
                warn!("[MEMBER] [ORPHANED] no other member answers; asking to be let in again");
            }
            Event::Learned(record) => info!("[MEMBER] [ONLINE] {}", who(record)),
            Event::Changed(record) => {
                let incarnation = record.incarnation;
                info!(
                    "[MEMBER] [UPDATE] {} is now at incarnation {incarnation}",
                    who(record)
                );
            }
            Event::Heartbeat(node_id) => debug!("[MEMBER] [HEARTBEAT] from node {node_id}"),
            Event::Suspected { record, accuser } => {
                info!(
                    "[MEMBER] [SUSPECT] {} is suspected by node {accuser}",
                    who(record)
                );
            }
            Event::Revived(record) => info!("[MEMBER] [REVIVED] {}", who(record)),
            Event::Failure(record) => warn!("[MEMBER] [FAILURE] {} is dead", who(record)),
            Event::FailureClean(record) => {
                info!("[MEMBER] [FAILURECLEAN] {} is no longer shown", who(record));
            }
            Event::Forgotten(node_id) => debug!("[MEMBER] [FORGOTTEN] node {node_id}"),
            Event::Leave(record) => info!("[MEMBER] [LEAVE] {} left", who(record)),
            Event::LeaveDone { acknowledged } => {
                info!("[MEMBER] [LEAVE] this node left; {acknowledged} members acknowledged it");
            }
            Event::Refuted(incarnation) => {
                info!("[MEMBER] [REFUTED] this node was accused; it is now at {incarnation}");
            }
            Event::BootEpochRaised(epoch) => warn!(
                "[MEMBER] [REJOIN] the others remember a later boot of this node, as after a \
                 restored disk image; going on with boot epoch {epoch}"
            ),
            Event::Collision { .. } | Event::CollisionOver => Self::write_collision(event),
            Event::Full(node_id) => {
                if self.may_write_refusal() {
                    warn!("[MEMBER] node {node_id} was refused: too many members are known");
                }
            }
            Event::Paused { late_ms } => warn!(
                "[MEMBER] [PAUSED] this process stood still for {late_ms} ms; it accuses nobody \
                 for what it missed"
            ),
            refusal => {
                if self.may_write_refusal() {
                    Self::write_refusal(refusal);
                }
            }
        }
    }

    fn write_collision(event: &Event) {
        match event {
            Event::Collision {
                node_id,
                other,
                superseded: true,
            } => error!(
                "[MEMBER] [COLLISION] another process runs under this node's id {node_id} at \
                 {other}, with a later boot epoch; this one is silent until that one is gone. Stop \
                 one of them, and delete the data directory that was copied"
            ),
            Event::Collision {
                node_id,
                other,
                superseded: false,
            } => error!(
                "[MEMBER] [COLLISION] another process runs under this node's id {node_id} at \
                 {other}, with an earlier boot epoch; it is told to be silent. Stop one of them, \
                 and delete the data directory that was copied"
            ),
            _ => warn!("[MEMBER] [COLLISION] over: this node speaks again"),
        }
    }

    fn write_refusal(event: &Event) {
        match event {
            Event::Malformed {
                from,
                error: DecodeError::UnknownType(code),
            } => {
                info!("[MEMBER] [NOACTION] unknown packet type {code} from {from}");
            }
            Event::Malformed { from, error } => {
                info!("[MEMBER] [NOACTION] refused a datagram from {from}: {error}");
            }
            Event::OtherCluster { from, theirs, ours } => warn!(
                "[MEMBER] refused a packet from {from}: it is of cluster {theirs}, this node is of \
                 cluster {ours}"
            ),
            Event::OtherTarget { from, target } => {
                debug!("[MEMBER] refused a packet from {from}: it is meant for node {target}");
            }
            Event::StaleBoot { node_id, from } => info!(
                "[MEMBER] [COLLISION] refused a packet from {from}: of an earlier boot of node \
                 {node_id}, late or of a second process under its id"
            ),
            Event::EpochLeap { node_id, claimed } => warn!(
                "[MEMBER] refused a claim that node {node_id} is at incarnation {claimed}: that is \
                 too far above what is known of it to be true"
            ),
            other => debug!("[MEMBER] {other:?}"),
        }
    }
}
