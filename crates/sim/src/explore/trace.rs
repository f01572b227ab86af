//! A way to a violation, for people to read.

use raft_core::message::AppendOutcome;
use raft_core::{Entry, Message, Payload, Position};

use super::node::{Node, log};
use super::search::Search;
use super::state::{Envelope, Step};

fn position(position: Position) -> String {
    format!("{}@{}", position.index, position.term)
}

fn entries(entries: &[Entry]) -> String {
    let entry = |entry: &Entry| {
        let what = match &entry.payload {
            Payload::Noop => "no-op".to_owned(),
            Payload::Command(command) => format!("put {:?}", command.bytes.as_ref()),
            Payload::Configuration(next) => {
                let names = |set: &std::collections::BTreeSet<raft_core::NodeId>| {
                    let names: Vec<_> = set.iter().map(|node| node.0.to_string()).collect();
                    format!("{{{}}}", names.join(","))
                };
                match next.is_joint() {
                    true => format!("joint {}+{}", names(&next.outgoing), names(&next.voters)),
                    false => format!("voters {}", names(&next.voters)),
                }
            }
            other => format!("{other:?}"),
        };
        format!("{} {what}", position(entry.position()))
    };
    let entries: Vec<_> = entries.iter().map(entry).collect();
    format!("[{}]", entries.join(", "))
}

/// A node in one line.
pub(super) fn node(node: &Node) -> String {
    let hard = &node.disk.hard_state;
    let voted = hard
        .voted_for
        .map_or("nobody".to_owned(), |voted| voted.0.to_string());
    let disk = format!(
        "on disk term {} voted for {voted} {}, {} writes wait",
        hard.current_term,
        entries(&node.disk.entries),
        node.disk.queue.len()
    );
    let raft = &node.raft;
    let process = format!(
        "{:?} of term {}, commit {}, {}",
        raft.role(),
        raft.term(),
        raft.commit_index(),
        entries(&log(node))
    );
    let retired = if node.retired { ", retired" } else { "" };
    format!("node {}: {process}{retired}; {disk}", node.id.0)
}

pub(super) fn envelope(envelope: &Envelope) -> String {
    format!("to {}: {}", envelope.to + 1, message(&envelope.message))
}

fn message(message: &Message) -> String {
    let term = message.term();
    let what = match message {
        Message::RequestVote(request) => {
            let kind = if request.pre_vote { "pre-vote" } else { "vote" };
            format!("RequestVote ({kind}), log ends {}", position(request.last))
        }
        Message::RequestVoteReply(reply) => format!(
            "RequestVoteReply ({}), {} for term {}",
            if reply.pre_vote { "pre-vote" } else { "vote" },
            if reply.granted { "granted" } else { "refused" },
            reply.request_term
        ),
        Message::AppendEntries(append) => format!(
            "AppendEntries behind {} {}, commit {}",
            position(append.previous),
            entries(&append.entries),
            append.commit_index
        ),
        Message::AppendEntriesReply(reply) => match reply.outcome {
            AppendOutcome::Durable { index } => format!("AppendEntriesReply, durable {index}"),
            AppendOutcome::Conflict { refused, hint } => {
                format!(
                    "AppendEntriesReply, conflict at {refused}, hint {}",
                    position(hint)
                )
            }
        },
        Message::Heartbeat(heartbeat) => format!(
            "Heartbeat, commit {}, round {}",
            heartbeat.commit_index, heartbeat.round
        ),
        Message::HeartbeatReply(reply) => format!("HeartbeatReply, round {}", reply.round),
        other => format!("{other:?}"),
    };
    format!("{what} (term {term})")
}

/// What happens, in words.
pub(super) fn step(at: usize, step: Step, search: &Search) -> String {
    let at = at + 1;
    match step {
        Step::Deliver {
            message: one,
            again,
        } => {
            let envelope = search.envelopes.get(one);
            let twice = if again { ", and will come again" } else { "" };
            format!(
                "node {at} hears from {}: {}{twice}",
                envelope.from + 1,
                message(&envelope.message)
            )
        }
        Step::Lose { message } | Step::Delay { message } => {
            let fate = match step {
                Step::Lose { .. } => "is lost",
                _ => "is delayed",
            };
            let told = envelope(search.envelopes.get(message));
            format!("{fate}, {told}")
        }
        Step::Hold => format!("node {at}'s write is delayed"),
        Step::Persist { all: false } => format!("node {at}'s oldest write is durable"),
        Step::Persist { all: true } => format!("all of node {at}'s writes are durable"),
        Step::Timeout => format!("node {at} has heard no leader in time"),
        Step::Heartbeat => format!("node {at}'s heartbeat is due"),
        Step::Silence => format!("node {at}, which leads, has heard of nobody for too long"),
        Step::Crash { parts } => {
            format!("node {at} crashes and starts again; {parts} parts of its writes are durable")
        }
        Step::Put => format!("node {at} is asked to put an entry"),
        Step::Leave { leaver } => format!("node {at} is asked to let node {} leave", leaver + 1),
        Step::Transfer => format!("node {at} is asked to hand over"),
        Step::Read => format!("node {at} is asked for a read"),
    }
}
