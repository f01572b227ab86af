//! The core's events and the peers' messages as log lines, under the seed's names.

use raft_core::message::AppendOutcome;
use raft_core::{Event, Message, NodeId};

use crate::say;
use crate::shared::Shared;

/// Logs what the core says of itself.
pub fn log(shared: &Shared, event: &Event) {
    match event {
        Event::ElectTimeout { .. }
        | Event::Election { .. }
        | Event::Vote { .. }
        | Event::Tally { .. }
        | Event::ElectionLost { .. }
        | Event::LeaderLost { .. } => log_campaign(shared, event),
        Event::BecameLeader { .. }
        | Event::BecameFollower { .. }
        | Event::SteppedDown { .. }
        | Event::Transfer { .. } => log_leader(shared, event),
        _ => log_rest(shared, event),
    }
}

fn log_campaign(shared: &Shared, event: &Event) {
    let name = |node: NodeId| shared.name_of(node);
    match event {
        Event::ElectTimeout { term } => {
            say!(
                info,
                "ELECTTIMEOUT",
                "no leader was heard in time [TERM={term}]"
            );
        }
        Event::Election {
            term,
            pre_vote,
            hinted,
        } => {
            let what = if *pre_vote {
                "asking who would vote"
            } else {
                "Starting election"
            };
            let why = if *hinted { ", the leader is gone" } else { "" };
            say!(info, "ELECTION->", "{what}{why} [TERM={term}]");
        }
        Event::Vote {
            candidate,
            term,
            pre_vote,
            granted,
            reason,
        } => {
            let asked = if *pre_vote { "pre-vote" } else { "RequestVote" };
            let who = name(*candidate);
            if *granted {
                say!(
                    info,
                    "<-ELECTION",
                    "GRANTED {asked} for {who} [TERM={term}]"
                );
            } else {
                say!(
                    info,
                    "<-ELECTIONERR",
                    "refused {asked} for {who}: {reason} [TERM={term}]"
                );
            }
        }
        Event::Tally {
            term,
            pre_vote,
            from,
            granted,
            votes,
            needed,
        } => {
            let who = name(*from);
            let asked = if *pre_vote { "pre-vote" } else { "vote" };
            if !granted {
                say!(
                    info,
                    "REQUESTVOTES-X",
                    "{who} refused its {asked} [TERM={term}]"
                );
            }
            let quorum = if votes >= needed {
                "QUORUM received "
            } else {
                ""
            };
            say!(
                info,
                "CANDIDATE",
                "{quorum}({votes}/{needed}) {asked}s [TERM={term}]"
            );
        }
        Event::ElectionLost { term, reason } => {
            say!(info, "ELECTION-X", "{reason} [TERM={term}]");
            say!(debug, "ENDELECTION", "the campaign is over [TERM={term}]");
        }
        Event::LeaderLost { leader, place } => {
            let who = name(*leader);
            say!(
                info,
                "ELECTTIMEOUT",
                "{who} is gone; this node's place in the succession is {place}"
            );
        }
        _ => {}
    }
}

fn log_leader(shared: &Shared, event: &Event) {
    let name = |node: NodeId| shared.name_of(node);
    match event {
        Event::BecameLeader { term } => {
            shared.metrics.elections_won.inc();
            say!(info, "CANDIDATE->LEADER", "Becoming leader [TERM={term}]");
        }
        Event::BecameFollower { term, leader } => match leader {
            Some(leader) => {
                say!(
                    info,
                    "ENDELECTION",
                    "following {} ({leader}) [TERM={term}]",
                    name(*leader)
                );
            }
            None => say!(info, "ENDELECTION", "following nobody yet [TERM={term}]"),
        },
        Event::SteppedDown { term, reason } => {
            say!(warn, "ENDELECTION", "stepping down: {reason} [TERM={term}]");
        }
        Event::Transfer { to, outcome } => {
            say!(
                info,
                "ENDELECTION",
                "handing leadership to {}: {outcome}",
                name(*to)
            );
        }
        _ => {}
    }
}

fn log_rest(shared: &Shared, event: &Event) {
    let name = |node: NodeId| shared.name_of(node);
    match event {
        Event::EntryConflict { from, to } => {
            say!(
                info,
                "ENTRYCONFLICT",
                "entries {from} to {to} give way to the leader's"
            );
        }
        Event::RetryAppendEntries { peer, next_index } => {
            let who = name(*peer);
            say!(
                debug,
                "RETRYAPPENDENTRY",
                "the log of {who} parts before {next_index}: looking there"
            );
        }
        Event::MismatchTerm { peer, theirs, ours } => {
            let who = name(*peer);
            say!(
                debug,
                "MISMATCHTERM",
                "{who} is in term {theirs}, this node in {ours}"
            );
        }
        Event::SnapshotOffered { peer, index } => {
            say!(
                info,
                "SNAPSHOT",
                "{} is further behind than the log reaches: offering the snapshot as of {index}",
                name(*peer)
            );
        }
        Event::Compacted { index } => {
            say!(debug, "SNAPSHOT", "the log begins behind {index}");
        }
        Event::ConfigurationFull { nodes, tombstones } => {
            say!(
                warn,
                "SELF",
                "a change of the configuration is not made: {nodes} nodes and {tombstones} that left \
                 for good are more than a configuration names"
            );
        }
        Event::ConfigurationAppended {
            index,
            reason,
            joint,
            voters,
            learners,
        } => {
            let joint = if *joint { " (joint)" } else { "" };
            say!(
                info,
                "SELF",
                "configuration at {index}{joint}: {voters} voters, {learners} learners: {reason}"
            );
        }
        Event::ConfigurationCommitted { index, joint } => {
            let joint = if *joint { " (joint)" } else { "" };
            say!(info, "SELF", "configuration at {index}{joint} is committed");
        }
        Event::Nonsense { peer, what } => {
            shared.metrics.messages_refused.inc();
            say!(
                warn,
                "RPC",
                "{} ({peer}) said what no correct node says: {what}",
                name(*peer)
            );
        }
        Event::DiskHealth { sick } => {
            let sentence = sick.then(|| {
                "the disk has completed no write for ElectTimeoutMax: this node does not lead"
                    .into()
            });
            shared.alarm("disk-sick", sentence);
        }
        _ => {}
    }
}

/// Logs a message on its way out.
pub fn log_sent(shared: &Shared, to: NodeId, message: &Message) {
    match message {
        Message::AppendEntries(append) => say!(
            trace,
            "APPENDENTRIES",
            "{} entries after {} to {}",
            append.entries.len(),
            append.previous.index,
            shared.name_of(to)
        ),
        Message::Heartbeat(beat) => say!(
            trace,
            "HEARTBEAT->",
            "to {} [TERM={}] commit {}",
            shared.name_of(to),
            beat.term,
            beat.commit_index
        ),
        _ => {}
    }
}

/// Logs a message that arrived.
pub fn log_received(shared: &Shared, from: NodeId, message: &Message) {
    match message {
        Message::AppendEntries(append) => say!(
            trace,
            "<-APPENDENTRIES",
            "{} entries after {} from {}",
            append.entries.len(),
            append.previous.index,
            shared.name_of(from)
        ),
        Message::AppendEntriesReply(reply) => match reply.outcome {
            AppendOutcome::Durable { index } => {
                say!(
                    trace,
                    "APPENDENTRIES",
                    "{} has everything up to {index}",
                    shared.name_of(from)
                );
            }
            AppendOutcome::Conflict { refused, .. } => {
                say!(
                    debug,
                    "APPENDENTRIES",
                    "{} does not have {refused}",
                    shared.name_of(from)
                );
            }
        },
        Message::Heartbeat(beat) => {
            let who = shared.name_of(from);
            say!(
                trace,
                "<-HEARTBEAT",
                "from {who} [TERM={}] commit {}",
                beat.term,
                beat.commit_index
            );
        }
        Message::HigherTerm { term } => {
            say!(
                debug,
                "HEARTBEATERR",
                "{} is in term {term}",
                shared.name_of(from)
            );
        }
        _ => {}
    }
}
