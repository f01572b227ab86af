//! One node with its disk, and all that can happen to it. What it does depends on nothing else, so that
//! every step is computed once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_core::message::{AppendOutcome, RequestVoteReply};
use raft_core::{
    Boot, ClusterId, Command, Configuration, Effect, Entry, Event, Index, Input, MemberHint,
    Message, NodeId, Options, Payload, Position, Proposal, Raft, RoleName, SnapshotMeta, Time,
};

use super::bounds::{Bounds, Start};
use super::disk::Disk;

/// Where every clock stands between two steps.
const NOW: Time = Time(1_000_000_000_000);
/// Far beyond whatever happens here.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// A node: what its process holds, and its disk. A process that is gone does nothing until it starts
/// again, and so does one that gets no turn: it starts again at once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Node {
    pub id: NodeId,
    pub boot: Boot,
    pub raft: Box<Raft>,
    pub disk: Disk,
    /// It has left for good: the process ends, and takes a new name when it starts again (M3).
    pub retired: bool,
}

/// What can happen to a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Act {
    Deliver {
        from: NodeId,
        message: Message,
    },
    /// The oldest writes become durable, and are reported.
    Persist {
        writes: usize,
    },
    /// No leader was heard in time.
    Timeout,
    /// The leader's next heartbeat is due.
    Heartbeat,
    /// The leader has heard of nobody for too long.
    Silence,
    /// The process dies, and starts again; so many parts of what was being written are on the disk.
    Crash {
        parts: usize,
    },
    Put,
    /// This node is asked for a change by which node `leaver` leaves.
    Leave {
        leaver: NodeId,
    },
    Transfer,
    Read,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub node: Node,
    pub sent: Vec<(NodeId, Message)>,
    /// A read may be served at this index; none: it never will be.
    pub read: Option<Option<Index>>,
}

pub(super) fn node_id(number: usize) -> NodeId {
    NodeId(number as u128 + 1)
}

/// A node's number, from 0.
pub(super) fn number(id: NodeId) -> usize {
    usize::try_from(id.0).map_or(usize::MAX, |id| id.wrapping_sub(1))
}

fn options() -> Options {
    Options {
        // Refusing candidates while a leader is heard (E3) spares a cluster needless elections, and
        // safety may not rest on it: here nobody ever refuses for that reason.
        elect_timeout_min: Duration::ZERO,
        voters: 3,
        min_voters: 1,
        dead_server_timeout: NEVER,
        remove_server_timeout: NEVER,
        server_stabilization_time: Duration::ZERO,
        leave_gathering_time: Duration::ZERO,
        automatic_changes_per_hour: 1,
        // Whatever may be cut between two entries is.
        max_batch_entries: 1,
        ..Options::default()
    }
}

/// What all logs begin behind: entry 1 of term 1, and a configuration that took no election.
fn beginning(bounds: &Bounds) -> SnapshotMeta {
    let ids = (0..bounds.nodes).map(node_id);
    let (voters, learners) = match bounds.start {
        Start::AllVote => (ids.collect(), Default::default()),
        Start::OneVotes => ids.partition(|id| *id == node_id(0)),
    };
    SnapshotMeta {
        position: Position { index: 1, term: 1 },
        cluster_id: ClusterId(1),
        log_time_ms: 0,
        configuration_index: 1,
        configuration: Arc::new(Configuration {
            voters,
            learners,
            grown: true,
            ..Configuration::default()
        }),
    }
}

impl Node {
    pub fn first(bounds: &Bounds) -> Vec<Node> {
        let disk = Disk::new(Arc::new(beginning(bounds)));
        let node = |number| Node {
            id: node_id(number),
            boot: 1,
            raft: start(node_id(number), 1, &disk),
            disk: disk.clone(),
            retired: false,
        };
        (0..bounds.nodes).map(node).collect()
    }

    /// Does it.
    ///
    /// # Errors
    /// Which rule it broke that one node can break alone.
    pub fn act(&self, act: &Act, bounds: &Bounds) -> Result<Outcome, String> {
        let mut outcome = Outcome {
            node: self.clone(),
            sent: Vec::new(),
            read: None,
        };
        if let Act::Crash { parts } = act {
            let node = &mut outcome.node;
            node.disk.crash(*parts);
            // The number of a start matters to reads alone (R2).
            node.boot += Boot::from(bounds.reads > 0);
            node.raft = start(node.id, node.boot, &node.disk);
        } else {
            let (now, input) = outcome.node.input(act);
            outcome.step(now, input)?;
            if matches!(act, Act::Timeout) && !bounds.pre_votes {
                outcome.campaign()?;
            }
        }
        if bounds.disks_at_once {
            while let Some(report) = outcome.node.disk.persist(usize::MAX) {
                outcome.step(NOW, Input::Persisted(report))?;
            }
        }
        outcome.sent.retain(|(_, message)| match message {
            Message::RequestVote(request) => bounds.pre_votes || !request.pre_vote,
            Message::RequestVoteReply(reply) => bounds.pre_votes || !reply.pre_vote,
            Message::Heartbeat(_) | Message::HeartbeatReply(_) => bounds.heartbeats,
            _ => true,
        });
        let node = &mut outcome.node;
        promises_are_kept(self, node, act)?;
        let renamed = node.raft.canonicalise(NOW);
        for write in &mut node.disk.queue {
            write.sequence -= renamed.sequences;
            write.generation = u64::from(write.generation == renamed.generation);
        }
        Ok(outcome)
    }

    fn input(&mut self, act: &Act) -> (Time, Input) {
        let patience = options().elect_timeout_max;
        let input = match act {
            Act::Deliver { from, message } => Input::Message {
                from: *from,
                message: message.clone(),
            },
            Act::Persist { writes } => match self.disk.persist(*writes) {
                Some(report) => Input::Persisted(report),
                None => Input::Tick,
            },
            Act::Timeout => return (NOW + (patience - Duration::from_micros(1)), Input::Tick),
            Act::Heartbeat => return (NOW + options().heartbeat_interval, Input::Tick),
            Act::Silence => return (NOW + patience, Input::Tick),
            Act::Crash { .. } => Input::Tick,
            Act::Put => Input::PutEntries(vec![Proposal {
                request: 1,
                payload: Payload::Command(Command {
                    session: 0,
                    sequence: 0,
                    acked_below: 0,
                    bytes: Bytes::copy_from_slice(&self.id.0.to_be_bytes()[15..]),
                }),
            }]),
            Act::Leave { leaver } => Input::Leave {
                request: 2,
                node: *leaver,
            },
            Act::Transfer => Input::Transfer { to: None },
            Act::Read => Input::ReadIndex {
                request: 3,
                deadline: Time::NEVER,
            },
        };
        (NOW, input)
    }
}

fn start(id: NodeId, boot: Boot, disk: &Disk) -> Box<Raft> {
    let mut raft = Raft::new(id, boot, options(), disk.recover(), NOW, 0);
    let hints = disk.snapshot.configuration.members();
    let hints = hints.into_iter().map(|node| MemberHint {
        node,
        joinable: true,
    });
    raft.step(NOW, Input::Members(hints.collect()));
    raft.canonicalise(NOW);
    Box::new(raft)
}

impl Outcome {
    fn step(&mut self, now: Time, input: Input) -> Result<(), String> {
        let raft = &mut self.node.raft;
        let step = catch_unwind(AssertUnwindSafe(|| raft.step(now, input)));
        let effects = step.map_err(|panic| format!("the core panics: {}", said(&panic)))?;
        self.carry_out(effects)
    }

    /// Pre-votes are granted by all, without being asked for.
    fn campaign(&mut self) -> Result<(), String> {
        let id = self.node.id;
        let voters = self.node.raft.configuration().1.all_voters();
        for from in voters.into_iter().filter(|voter| *voter != id) {
            let raft = &self.node.raft;
            if raft.role() == RoleName::PreCandidate {
                let message = Message::RequestVoteReply(RequestVoteReply {
                    term: raft.term(),
                    pre_vote: true,
                    granted: true,
                    request_term: raft.term() + 1,
                    hears_leader: false,
                });
                self.step(NOW, Input::Message { from, message })?;
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, effects: Vec<Effect>) -> Result<(), String> {
        let node = &mut self.node;
        for effect in effects {
            match effect {
                Effect::Persist(write) => node.disk.queue.push_back(write),
                Effect::Send { to, message } => {
                    rests_on_the_disk(&node.disk, to, &message)?;
                    self.sent.push((to, message));
                }
                // D1.
                Effect::Committed { index } if index > node.disk.last().index => {
                    return Err(format!(
                        "{index} goes to the state machine and is not durable"
                    ));
                }
                Effect::ReadReady { index, .. } => self.read = Some(Some(index)),
                Effect::ReadFailed { .. } => self.read = Some(None),
                Effect::Retired => node.retired = true,
                // All nodes are correct ones here.
                Effect::Event(Event::Nonsense { peer, what }) if !is_late(what) => {
                    return Err(format!(
                        "{} takes node {}'s word for nonsense: {what}",
                        node.id.0, peer.0
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn said(panic: &Box<dyn std::any::Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "it does not say why".to_owned())
}

/// A refusal that was overtaken by an acknowledgement looks the same as one from a disk that went back.
fn is_late(what: &str) -> bool {
    what.starts_with("it denies an entry that it acknowledged")
}

/// Nothing is promised before it is durable (figure 2).
fn rests_on_the_disk(disk: &Disk, to: NodeId, message: &Message) -> Result<(), String> {
    let hard = &disk.hard_state;
    let (kept, what) = match message {
        Message::RequestVoteReply(reply) if reply.granted && !reply.pre_vote => {
            let voted = hard.current_term == reply.request_term && hard.voted_for == Some(to);
            (voted || hard.current_term > reply.request_term, "a vote")
        }
        Message::RequestVote(request) if !request.pre_vote => {
            (hard.current_term >= request.term, "a candidacy")
        }
        Message::AppendEntriesReply(reply) => {
            let durable = match reply.outcome {
                AppendOutcome::Durable { index } => index <= disk.last().index,
                AppendOutcome::Conflict { .. } => true,
            };
            (
                durable && hard.current_term >= reply.term,
                "an acknowledgement",
            )
        }
        other => (
            matches!(other, Message::RequestVote(_)) || hard.current_term >= other.term(),
            "a word of a term",
        ),
    };
    if kept {
        Ok(())
    } else {
        Err(format!("{what} leaves before it is durable"))
    }
}

/// One vote in each term (§5.2); terms never fall; what is committed stays so while the process lives.
fn promises_are_kept(before: &Node, after: &Node, act: &Act) -> Result<(), String> {
    let (old, new) = (&before.disk.hard_state, &after.disk.hard_state);
    let revoked = old.current_term == new.current_term
        && old.voted_for.is_some()
        && old.voted_for != new.voted_for;
    if revoked {
        return Err(format!("a second vote in term {}", new.current_term));
    }
    if new.current_term < old.current_term {
        return Err("the durable term falls".to_owned());
    }
    if after.raft.term() < new.current_term {
        return Err("the term is behind the disk's".to_owned());
    }
    if matches!(act, Act::Crash { .. }) {
        return Ok(());
    }
    if after.raft.term() < before.raft.term() {
        return Err("the term falls".to_owned());
    }
    if after.raft.commit_index() < before.raft.commit_index() {
        return Err("the commit index falls".to_owned());
    }
    Ok(())
}

/// The log in memory, behind the snapshot.
pub(super) fn log(node: &Node) -> Vec<Entry> {
    let (raft, base) = (&node.raft, node.disk.snapshot.position.index);
    let log = raft.entries(base + 1, raft.last().index, usize::MAX);
    log.unwrap_or_default()
}
