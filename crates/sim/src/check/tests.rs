//! Each checker sees what it is there for.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use raft_core::message::{AppendEntriesReply, AppendOutcome, RequestVote, RequestVoteReply};
use raft_core::sessions::{Outcome as Said, OutcomeKind};
use raft_core::*;

use super::finally;
use super::ledger::Mirror;
use super::{Checker, Wrong};
use crate::client::StaleRead;
use crate::history::{Action, Answer, Operation, Outcome};

fn node(number: u128) -> NodeId {
    NodeId(number)
}

fn at(index: Index, term: Term) -> Position {
    Position { index, term }
}

fn caught(result: Result<(), Wrong>) -> &'static str {
    result.expect_err("nobody noticed").checker
}

fn entry(index: Index, term: Term, text: &str) -> Entry {
    let command = Command {
        session: 1,
        sequence: 1,
        acked_below: 0,
        bytes: Bytes::from(text.to_owned()),
    };
    Entry {
        index,
        term,
        log_time_ms: 0,
        payload: Payload::Command(command),
    }
}

fn write(entries: Vec<Entry>) -> Write {
    Write {
        sequence: 1,
        generation: 1,
        hard_state: None,
        install: None,
        truncate_from: None,
        entries,
        compact_to: None,
    }
}

fn said(text: &str) -> Said {
    Said {
        kind: OutcomeKind::Ok,
        data: Bytes::from(text.to_owned()),
    }
}

/// A core that founded a cluster of its own: it leads term 2, and has committed its own two entries.
fn founder(id: NodeId) -> Raft {
    let recovered = Recovered::default();
    let mut raft = Raft::new(id, 1, Options::default(), recovered, Time(1), 1);
    let found = Input::Found {
        cluster_id: ClusterId(1),
        alone: true,
    };
    let mut effects = raft.step(Time(1), found);
    let mut last = Position::ZERO;
    while let Some(Effect::Persist(write)) = effects
        .iter()
        .find(|effect| matches!(effect, Effect::Persist(_)))
        .cloned()
    {
        last = write.entries.last().map_or(last, Entry::position);
        let report = Persisted {
            sequence: write.sequence,
            generation: write.generation,
            last,
        };
        effects = raft.step(Time(1), Input::Persisted(report));
    }
    assert_eq!((raft.role(), raft.commit_index()), (RoleName::Leader, 2));
    raft
}

#[test]
fn two_leaders_in_one_term() {
    let mut checker = Checker::default();
    checker.look_at_core(node(1), &founder(node(1))).unwrap();
    let second = checker.look_at_core(node(2), &founder(node(2)));
    assert_eq!(caught(second), "election-safety");
}

#[test]
fn a_leader_that_lacks_what_was_committed() {
    let mut checker = Checker::default();
    let (first, second) = (entry(1, 1, "PUT a 1"), entry(2, 1, "PUT b 2"));
    checker.ledger.commit(node(9), 1, first).unwrap();
    checker.ledger.commit(node(9), 1, second).unwrap();
    let leads = checker.look_at_core(node(1), &founder(node(1)));
    assert_eq!(caught(leads), "leader-completeness");
}

#[test]
fn a_commit_that_nobody_has_on_disk_and_one_of_another_term() {
    let raft = founder(node(1));
    let configuration = raft.configuration().1;
    let in_force = [&configuration, &configuration];
    let mut checker = Checker::default();
    let undurable = checker.leader_commits(node(1), &raft, 2, in_force);
    assert_eq!(caught(undurable), "committed-is-durable");
    checker
        .ledger
        .stored(node(1), write(vec![entry(1, 1, "a"), entry(2, 2, "b")]))
        .unwrap();
    checker.leader_commits(node(1), &raft, 2, in_force).unwrap();
    let foreign = checker.leader_commits(node(1), &raft, 1, in_force);
    assert_eq!(caught(foreign), "leader-commits-own-term");
}

#[test]
fn what_goes_back_and_who_comes_back() {
    let raft = founder(node(1));
    let mut checker = Checker::default();
    checker.seen.entry(node(1)).or_default().commit_index = 99;
    assert_eq!(caught(checker.look_at_core(node(1), &raft)), "monotone");
    let mut checker = Checker::default();
    checker.removed.insert(node(1), 0);
    let back = checker.look_at_core(node(1), &raft);
    assert_eq!(caught(back), "removed-stays-removed");
    // Who has another entry in that place has not heard of it.
    for (term, knows) in [(1, true), (7, false)] {
        let mut checker = Checker::default();
        let committed = entry(1, term, "PUT a 1");
        checker.ledger.commit(node(9), term, committed).unwrap();
        assert_eq!(checker.is_in_log(&raft, 1), knows, "term {term}");
    }
}

#[test]
fn a_history_that_differs() {
    let mut checker = Checker::default();
    let ledger = &mut checker.ledger;
    ledger
        .stored(node(1), write(vec![entry(1, 1, "a"), entry(2, 3, "b")]))
        .unwrap();
    let other_content = ledger.stored(node(2), write(vec![entry(1, 1, "x")]));
    assert_eq!(caught(other_content), "log-matching");
    ledger
        .stored(node(3), write(vec![entry(1, 2, "y")]))
        .unwrap();
    let other_before = ledger.stored(node(3), write(vec![entry(2, 3, "b")]));
    assert_eq!(caught(other_before), "log-matching");
    ledger.commit(node(1), 3, entry(1, 1, "a")).unwrap();
    let changed = ledger.commit(node(2), 3, entry(1, 2, "y")).map(drop);
    assert_eq!(caught(changed), "state-machine-safety");
    let meta = SnapshotMeta {
        position: at(1, 2),
        cluster_id: ClusterId(1),
        log_time_ms: 0,
        configuration_index: 0,
        configuration: Arc::default(),
    };
    assert_eq!(
        caught(ledger.covered(node(1), &meta)),
        "state-machine-safety"
    );
}

#[test]
fn a_state_machine_that_goes_its_own_way() {
    let mut checker = Checker::default();
    let ledger = &mut checker.ledger;
    let command = Some(Bytes::from_static(b"PUT a 1"));
    let applied = ledger.applied(node(1), at(1, 1), command.clone(), said("done"));
    assert_eq!(caught(applied), "applied-is-committed");
    ledger.commit(node(2), 1, entry(1, 1, "PUT a 1")).unwrap();
    let applied = ledger.applied(node(1), at(1, 1), command.clone(), said("done"));
    assert_eq!(caught(applied), "applied-is-committed");
    for id in [1, 2] {
        ledger
            .stored(node(id), write(vec![entry(1, 1, "PUT a 1")]))
            .unwrap();
    }
    ledger
        .applied(node(1), at(1, 1), command.clone(), said("done"))
        .unwrap();
    let another = ledger.applied(node(2), at(1, 1), command.clone(), said("else"));
    assert_eq!(caught(another), "same-outcome");
    let skipped = ledger.applied(node(2), at(1, 1), None, said("done"));
    assert_eq!(caught(skipped), "same-outcome");
    // The same request of a session once more.
    ledger.commit(node(1), 1, entry(2, 1, "PUT a 1")).unwrap();
    ledger
        .stored(node(1), write(vec![entry(2, 1, "PUT a 1")]))
        .unwrap();
    ledger
        .applied(node(1), at(2, 1), command, said("done"))
        .unwrap();
    assert_eq!(caught(finally::once(&checker)), "exactly-once");
}

#[test]
fn a_promise_that_is_not_on_disk() {
    let mut checker = Checker::default();
    checker.ledger.mirror(node(1), Mirror::default());
    let grant = |request_term| {
        Message::RequestVoteReply(RequestVoteReply {
            term: request_term,
            pre_vote: false,
            granted: true,
            request_term,
            hears_leader: false,
        })
    };
    let undurable = checker.sent(node(1), node(2), &grant(1));
    assert_eq!(caught(undurable), "durable-promises");
    let request = Message::RequestVote(RequestVote {
        term: 1,
        pre_vote: false,
        last: Position::ZERO,
        transfer_token: 0,
    });
    assert_eq!(
        caught(checker.sent(node(1), node(2), &request)),
        "durable-promises"
    );
    let outcome = AppendOutcome::Durable { index: 1 };
    let ack = Message::AppendEntriesReply(AppendEntriesReply { term: 1, outcome });
    assert_eq!(
        caught(checker.sent(node(1), node(2), &ack)),
        "durable-promises"
    );
    // Twice in a term, with the disk changed in between.
    for voted_for in [node(2), node(3)] {
        let hard_state = HardState {
            current_term: 1,
            voted_for: Some(voted_for),
            ..HardState::default()
        };
        let mirror = Mirror {
            hard_state,
            ..Mirror::default()
        };
        checker.ledger.mirror(node(1), mirror);
        let voted = checker.sent(node(1), voted_for, &grant(1));
        if voted_for == node(2) {
            voted.unwrap();
        } else {
            assert_eq!(caught(voted), "durable-promises");
        }
    }
}

#[test]
fn a_read_of_what_never_was_and_a_write_that_is_gone() {
    let mut checker = Checker::default();
    let read = |index, answer| StaleRead {
        key: Bytes::from_static(b"a"),
        index,
        nonce: 1,
        answer,
    };
    let value = |text: &str| Answer::Value(Bytes::from(text.to_owned()));
    let states = |checker: &Checker, reads: &[StaleRead]| finally::states(checker, &[], &[reads]);
    checker
        .ledger
        .commit(node(1), 1, entry(1, 1, "PUT a 1"))
        .unwrap();
    checker
        .ledger
        .stored(node(1), write(vec![entry(1, 1, "PUT a 1")]))
        .unwrap();
    let command = Some(Bytes::from_static(b"PUT a 1"));
    checker
        .ledger
        .applied(node(1), at(1, 1), command, said("done"))
        .unwrap();
    states(&checker, &[read(0, Answer::NotFound), read(1, value("1"))]).unwrap();
    assert_eq!(caught(states(&checker, &[read(1, value("2"))])), "state");
    assert_eq!(caught(states(&checker, &[read(7, value("1"))])), "state");
    let back = states(&checker, &[read(1, value("1")), read(0, Answer::NotFound)]);
    assert_eq!(caught(back), "monotone");
    let put = |text: &str| Operation {
        client: 1,
        key: Bytes::from_static(b"a"),
        action: Action::Put(Bytes::from(text.to_owned())),
        invoked: 1,
        outcome: Outcome::Done {
            returned: 2,
            answer: Answer::Done,
            index: 1,
        },
    };
    finally::acknowledged(&checker, &[put("1")]).unwrap();
    let gone = finally::acknowledged(&checker, &[put("2")]);
    assert_eq!(caught(gone), "committed-is-durable");
}
