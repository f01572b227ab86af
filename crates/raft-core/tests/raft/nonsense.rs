//! No remote party can crash a daemon: whatever comes in, in whatever order, there is no panic, no
//! deadline that no step clears, and no queue without a limit.

use std::sync::Arc;
use std::time::Duration;

use crate::one::{
    One, PRE_VOTE, VOTE, ack, answer, append, ask, at, command, entry, heartbeat, node, refused,
    sent,
};
use crate::world::Dice;
use raft_core::message::{
    AppendEntries, AppendEntriesReply, AppendOutcome, Heartbeat, HeartbeatReply, RequestVote,
    RequestVoteReply,
};
use raft_core::{
    ClusterId, Command, Configuration, Effect, Entry, Event, Health, Input, MemberHint, Message,
    NodeId, Payload, Persisted, Position, Proposal, RoleName, SnapshotMeta, Time,
};

/// Small numbers that meet, with those at the ends of the range.
fn number(dice: &mut Dice) -> u64 {
    match dice.below(20) {
        0 => u64::MAX,
        1 => u64::MAX - 1,
        2 => u64::MAX / 2,
        3 => dice.next(),
        4 => 1 << 62,
        _ => dice.below(12),
    }
}

/// A term that is often the node's own, so that the message is looked at.
fn term(dice: &mut Dice, own: u64) -> u64 {
    match dice.below(10) {
        0..=6 => own,
        7 => own.saturating_add(1),
        8 if dice.chance(10) => number(dice),
        _ => dice.below(own.saturating_add(2).min(1000)),
    }
}

fn position(dice: &mut Dice, own: u64) -> Position {
    at(number(dice), term(dice, own))
}

fn any_node(dice: &mut Dice) -> NodeId {
    node(dice.below(8))
}

fn payload(dice: &mut Dice) -> Payload {
    let mut nodes = || (0..dice.below(4)).map(|_| any_node(dice)).collect();
    let some = Configuration {
        voters: nodes(),
        outgoing: nodes(),
        learners: nodes(),
        removed: nodes(),
        grown: true,
        reason: String::new(),
    };
    let bytes = bytes::Bytes::from_static(b"x");
    match dice.below(12) {
        0 => Payload::Noop,
        1 => Payload::Founding {
            cluster_id: ClusterId(u128::from(dice.next())),
            founder: any_node(dice),
            alone: dice.chance(50),
        },
        2 => Payload::Configuration(some.into()),
        3 => Payload::RegisterSession,
        4 => Payload::KeepAlive {
            session: number(dice),
            acked_below: number(dice),
        },
        5 => Payload::ExpireSession {
            session: number(dice),
            seen_activity: number(dice),
        },
        6 if dice.chance(20) => Payload::Dissolve,
        7 => Payload::Skip {
            index: number(dice),
        },
        _ => Payload::Command(Command {
            session: number(dice),
            sequence: number(dice),
            acked_below: number(dice),
            bytes,
        }),
    }
}

fn some_entries(dice: &mut Dice, previous: Position, own: u64) -> Vec<Entry> {
    let tidy = dice.chance(70);
    let terms: Vec<u64> = (0..dice.below(4)).map(|_| term(dice, own)).collect();
    let mut index = previous.index;
    terms
        .into_iter()
        .map(|term| {
            index = if tidy {
                index.saturating_add(1)
            } else {
                number(dice)
            };
            Entry {
                index,
                term,
                log_time_ms: number(dice),
                payload: payload(dice),
            }
        })
        .collect()
}

fn message(dice: &mut Dice, one: &One) -> Message {
    let own = one.raft.term();
    let term = term(dice, own);
    let near = |dice: &mut Dice| match dice.below(3) {
        0 => number(dice),
        _ => dice.below(one.raft.last().index + 2),
    };
    let known = |dice: &mut Dice| {
        let index = near(dice);
        at(
            index,
            one.raft.term_at(index).unwrap_or_else(|| number(dice)),
        )
    };
    match dice.below(15) {
        0 => Message::RequestVote(RequestVote {
            term,
            pre_vote: dice.chance(50),
            last: position(dice, own),
            transfer_token: dice.below(2) * number(dice),
        }),
        1 | 2 => Message::RequestVoteReply(RequestVoteReply {
            term,
            pre_vote: dice.chance(50),
            granted: dice.chance(80),
            request_term: if dice.chance(80) {
                term.saturating_add(dice.below(2))
            } else {
                number(dice)
            },
            hears_leader: dice.chance(20),
        }),
        3..=5 => {
            let previous = if dice.chance(70) {
                known(dice)
            } else {
                position(dice, own)
            };
            let entries = some_entries(dice, previous, own);
            Message::AppendEntries(AppendEntries {
                term,
                previous,
                entries,
                commit_index: near(dice),
            })
        }
        6 => {
            let outcome = if dice.chance(70) {
                AppendOutcome::Durable { index: near(dice) }
            } else {
                AppendOutcome::Conflict {
                    refused: near(dice),
                    hint: position(dice, own),
                }
            };
            Message::AppendEntriesReply(AppendEntriesReply { term, outcome })
        }
        7 => Message::Heartbeat(Heartbeat {
            term,
            boot: number(dice),
            commit_index: near(dice),
            round: number(dice),
            succession: (0..dice.below(5)).map(|_| any_node(dice)).collect(),
        }),
        8 => Message::HeartbeatReply(HeartbeatReply {
            term,
            round: number(dice),
            health: Health {
                disk_sick: dice.chance(20),
                state_machine_sick: dice.chance(20),
                stopping: dice.chance(5),
            },
        }),
        9 => Message::TimeoutNow {
            term,
            token: number(dice),
        },
        10 if dice.chance(50) => Message::ReadIndex {
            term,
            ask: number(dice),
        },
        10 => Message::ReadIndexReply {
            term,
            ask: number(dice),
            index: number(dice),
        },
        13 => Message::CommitNotice {
            term,
            commit_index: near(dice),
        },
        11 | 12 => Message::InstallSnapshot {
            term,
            position: position(dice, own),
        },
        _ => Message::HigherTerm { term },
    }
}

fn input(dice: &mut Dice, one: &One) -> Input {
    let own = one.raft.term();
    match dice.below(44) {
        0..=21 => Input::Message {
            from: any_node(dice),
            message: message(dice, one),
        },
        22 => Input::Tick,
        23 => Input::Persisted(Persisted {
            sequence: number(dice),
            generation: number(dice),
            last: position(dice, own),
        }),
        24..=26 => Input::PutEntries(
            (0..dice.below(3))
                .map(|_| Proposal {
                    request: dice.next(),
                    payload: command("x"),
                })
                .collect(),
        ),
        27 => Input::ReadIndex {
            request: dice.next(),
            deadline: Time(number(dice)),
        },
        28 => Input::ReadIndex {
            request: dice.next(),
            deadline: one.now + Duration::from_secs(1),
        },
        29 => {
            let from = number(dice);
            let previous = at(from.wrapping_sub(1), own);
            let entries = some_entries(dice, previous, own);
            Input::Fetched {
                peer: any_node(dice),
                from,
                entries,
            }
        }
        30 => Input::Connected {
            peer: any_node(dice),
        },
        31 => Input::Hello {
            peer: any_node(dice),
            boot: number(dice),
            term: term(dice, own),
            durable_index: number(dice),
            challenged: dice.chance(50).then(|| number(dice)),
        },
        32 => Input::StreamEnded {
            peer: any_node(dice),
        },
        33 => Input::Probed {
            peer: any_node(dice),
            boot: dice.below(2),
            term: term(dice, own),
            leads: dice.chance(30),
        },
        34 => Input::Applied {
            index: number(dice),
        },
        35 => Input::StateMachineHealth {
            sick: dice.chance(50),
        },
        36 => {
            let hint = |dice: &mut Dice| MemberHint {
                node: any_node(dice),
                joinable: dice.chance(70),
            };
            Input::Members((0..dice.below(6)).map(|_| hint(dice)).collect())
        }
        37 => Input::Leave {
            request: dice.next(),
            node: any_node(dice),
        },
        40 | 41 => Input::SnapshotReceived {
            snapshot: snapshot(dice, one),
        },
        42 => Input::SnapshotTaken {
            snapshot: snapshot(dice, one),
            keep_from: number(dice),
        },
        38 if dice.chance(10) => Input::GiveWay,
        38 => Input::Found {
            cluster_id: ClusterId(3),
            alone: dice.chance(50),
        },
        _ => Input::Transfer {
            to: dice.chance(50).then(|| any_node(dice)),
        },
    }
}

/// Of this log as it is, or of one that nobody has.
fn snapshot(dice: &mut Dice, one: &One) -> Arc<SnapshotMeta> {
    let index = dice.below(one.raft.last().index + 3);
    let own = one.raft.snapshot_meta(index, number(dice));
    let some = own.filter(|_| dice.chance(60));
    some.unwrap_or_else(|| {
        let nodes = |numbers: &[u64]| numbers.iter().copied().map(node).collect();
        let configuration = Configuration {
            voters: nodes(&[1, 2, 3]),
            grown: dice.chance(80),
            ..Configuration::default()
        };
        let position = position(dice, one.raft.term());
        let cluster_id = one.raft.cluster_id().filter(|_| dice.chance(90));
        SnapshotMeta {
            position,
            cluster_id: cluster_id.unwrap_or(ClusterId(dice.next().into())),
            log_time_ms: number(dice),
            configuration_index: number(dice).min(position.index),
            configuration: configuration.into(),
        }
    })
    .into()
}

/// Thousands of senseless inputs, with true reports of the disk among them, from many starts.
#[test]
fn no_input_makes_a_panic_or_a_deadline_that_stays() {
    let seeds = std::env::var("SEEDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(3_000);
    let mut roles = [0_usize; 4];
    for seed in 0..seeds {
        let result = std::panic::catch_unwind(|| senseless(seed));
        match result {
            Ok(seen) => roles
                .iter_mut()
                .zip(seen)
                .for_each(|(total, n)| *total += usize::from(n)),
            Err(cause) => {
                println!("seed {seed}");
                std::panic::resume_unwind(cause);
            }
        }
    }
    println!("{seeds} seeds; follower, pre-candidate, candidate, leader: {roles:?}");
    assert!(
        roles.iter().all(|seen| *seen > 0),
        "a role never occurred: {roles:?}"
    );
}

fn senseless(seed: u64) -> [bool; 4] {
    let mut dice = Dice(seed);
    let mut one = match seed % 4 {
        0 => One::new(1, &[1, 2, 3], &[1, 1, 2]),
        1 => One::leader(1, &[1, 2, 3], &[1, 1, 2]),
        2 => One::leader(1, &[1], &[1]),
        _ => One::new(1, &[], &[]),
    };
    let mut roles = [false; 4];
    for _ in 0..120 {
        let wait = [0, 1, 20, 400, 2_000, 30_000][dice.below(6) as usize];
        one.now = one.now + Duration::from_millis(dice.below(wait + 1));
        let input = input(&mut dice, &one);
        if let Input::SnapshotReceived { snapshot } | Input::SnapshotTaken { snapshot, .. } = &input
            && one
                .snapshot
                .as_ref()
                .is_none_or(|known| known.position.index < snapshot.position.index)
        {
            one.snapshot = Some(snapshot.clone());
        }
        one.step(input);
        // A lying disk was among the inputs: the true one may be out of step, but never panics.
        while !one.queue.is_empty() && dice.chance(60) {
            one.sync_one();
        }
        roles[match one.raft.role() {
            RoleName::Follower => 0,
            RoleName::PreCandidate => 1,
            RoleName::Candidate => 2,
            RoleName::Leader => 3,
        }] = true;
    }
    roles
}

fn nonsense(effects: &[Effect]) -> bool {
    effects
        .iter()
        .any(|effect| matches!(effect, Effect::Event(Event::Nonsense { .. })))
}

/// A term from which no election could go on is not adopted, whoever says it.
#[test]
fn an_absurd_term_is_not_adopted() {
    for term in [u64::MAX, u64::MAX - 1] {
        for message in [
            heartbeat(term, 0, &[]),
            append(term, at(1, 1), &[], 0),
            ask(term, VOTE, at(9, 9)),
            answer(term, VOTE, false),
            Message::HigherTerm { term },
        ] {
            let mut one = One::new(1, &[1, 2, 3], &[1]);
            one.hear(2, message.clone());
            assert_eq!(one.raft.term(), 1, "{message:?}");
            one.wait_for_campaign();
        }
    }
}

/// The arithmetic of a message is its sender's, and may not overflow here.
#[test]
fn absurd_indices_are_refused() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    let previous = at(u64::MAX, 1);
    let entries = vec![entry(1, 1), entry(0, 1)];
    let message = AppendEntries {
        term: 1,
        previous,
        entries,
        commit_index: u64::MAX,
    };
    assert!(nonsense(&one.hear(2, Message::AppendEntries(message))));
    let mut leader = One::leader(1, &[1, 2, 3], &[1]);
    let term = leader.raft.term();
    assert!(nonsense(&leader.hear(2, ack(term, u64::MAX))));
    let outcome = AppendOutcome::Conflict {
        refused: u64::MAX,
        hint: at(u64::MAX, u64::MAX),
    };
    leader.hear(
        2,
        Message::AppendEntriesReply(AppendEntriesReply { term, outcome }),
    );
}

/// A log time at the end of the range does not stop the leader that inherits it.
#[test]
fn an_absurd_log_time_is_survived() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    let absurd = Entry {
        log_time_ms: u64::MAX,
        ..entry(2, 1)
    };
    let message = AppendEntries {
        term: 1,
        previous: at(1, 1),
        entries: vec![absurd],
        commit_index: 0,
    };
    one.hear(2, Message::AppendEntries(message));
    one.elect();
    one.all_ack();
    one.now = one.now + Duration::from_millis(100);
    one.put("x");
    one.all_ack();
    assert_eq!(one.raft.commit_index(), one.raft.last().index);
}

/// What this leader said itself in this term it does not take back: a contradiction is dropped, and
/// the log stays as long as what was verified.
#[test]
fn a_leader_that_contradicts_itself_is_not_obeyed() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    one.hear(2, append(3, at(1, 1), &[3, 3], 0));
    assert!(nonsense(&one.hear(2, append(3, at(1, 1), &[2], 0))));
    assert_eq!(one.terms(), [1, 3, 3]);
    one.hear(2, heartbeat(3, 3, &[]));
    assert_eq!(one.raft.commit_index(), 3);
}

/// A node without its disk keeps no more words than a limit, however many it is made to say.
#[test]
fn what_waits_for_the_disk_is_bounded() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    one.hear_only(2, ask(2, VOTE, at(1, 1)));
    for _ in 0..200_000 {
        one.hear_only(2, ask(2, PRE_VOTE, at(1, 1)));
    }
    let words = sent(&one.sync()).len();
    assert!(words <= 20_000, "{words} messages were held");
}

/// Reads that ride on a lost ask count, like those that wait for the next one.
#[test]
fn waiting_reads_are_bounded_on_a_follower() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    one.hear(2, heartbeat(1, 0, &[]));
    let deadline = one.now + Duration::from_secs(3600);
    let mut waiting = 0_usize;
    for round in 0..3 {
        for request in 0..70_000 {
            let effects = one.step(Input::ReadIndex { request, deadline });
            let failed = effects
                .iter()
                .any(|e| matches!(e, Effect::ReadFailed { .. }));
            waiting += usize::from(!failed);
        }
        one.now = one.now + Duration::from_millis(250);
        one.hear(2, heartbeat(1, 0, &[]));
        assert!(
            waiting <= 2 * raft_core::reads::MAX_WAITING_READS,
            "round {round}: {waiting}"
        );
    }
}

/// One node that asks to leave again and again does not fill the leader's memory.
#[test]
fn leave_requests_are_bounded() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let limit = raft_core::Refusal::Overloaded;
    let mut overloaded = false;
    for request in 0..5_000 {
        let effects = one.step(Input::Leave {
            request,
            node: node(2),
        });
        overloaded |= refused(&effects) == Some(limit.clone());
    }
    assert!(overloaded, "5000 requests wait for one leaver");
}
