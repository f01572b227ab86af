//! One value for all nodes that behave alike, as who explores schedules needs it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use raft_core::message::{Heartbeat, RequestVote};
use raft_core::{
    ClusterId, Configuration, Effect, HardState, Input, Message, NodeId, Options, Persisted,
    Position, Raft, Recovered, RoleName, SnapshotMeta, Time,
};

const NOW: Time = Time(1_000_000_000_000);

/// Node 1 of three voters, whose logs begin behind a snapshot.
fn voter(seed: u64, now: Time) -> Raft {
    let configuration = Arc::new(Configuration {
        voters: BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]),
        grown: true,
        ..Configuration::default()
    });
    let position = Position { index: 1, term: 1 };
    let snapshot = SnapshotMeta {
        position,
        cluster_id: ClusterId(1),
        log_time_ms: 0,
        configuration_index: 1,
        configuration: configuration.clone(),
    };
    let recovered = Recovered {
        hard_state: HardState {
            current_term: 1,
            ..HardState::default()
        },
        cluster_id: Some(ClusterId(1)),
        base: position,
        last: position,
        snapshot: Some(Arc::new(snapshot)),
        configurations: vec![(1, configuration)],
        ..Recovered::default()
    };
    Raft::new(NodeId(1), 1, Options::default(), recovered, now, seed)
}

fn heartbeat() -> Input {
    let message = Message::Heartbeat(Heartbeat {
        term: 2,
        boot: 1,
        commit_index: 1,
        round: 0,
        succession: vec![NodeId(3)],
    });
    let from = NodeId(2);
    Input::Message { from, message }
}

fn persist(raft: &mut Raft, now: Time, effects: &[Effect]) -> Vec<Effect> {
    let write = effects.iter().rev().find_map(|effect| match effect {
        Effect::Persist(write) => Some(write),
        _ => None,
    });
    let write = write.unwrap();
    let report = Persisted {
        sequence: write.sequence,
        generation: write.generation,
        last: raft.last(),
    };
    raft.step(now, Input::Persisted(report))
}

#[test]
fn what_differs_in_time_and_dice_alone_becomes_the_same() {
    let follower = |seed, began: u64, milliseconds: u64| {
        let mut now = Time(began);
        let mut raft = voter(seed, now);
        let effects = raft.step(now, heartbeat());
        persist(&mut raft, now, &effects);
        now = now + Duration::from_millis(milliseconds);
        raft.step(now, heartbeat());
        raft
    };
    let (mut one, mut other) = (follower(7, 1, 20), follower(8, 50_000, 300));
    assert_ne!(one, other);
    one.canonicalise(NOW);
    other.canonicalise(NOW);
    assert_eq!(one, other);
    let again = one.canonicalise(NOW);
    assert_eq!(one, other, "it is its own representative");
    assert_eq!((again.sequences, again.generation), (0, 1));
}

#[test]
fn what_is_fresh_stays_fresh_and_what_is_old_stays_old() {
    let refuses = |age: Duration| {
        let now = Time(5_000_000);
        let mut raft = voter(7, now);
        let effects = raft.step(now, heartbeat());
        persist(&mut raft, now, &effects);
        // The only input at that time: no timer has run.
        raft.step(now + age, Input::Applied { index: 1 });
        raft.canonicalise(NOW);
        let request = RequestVote {
            term: 3,
            pre_vote: true,
            last: Position { index: 9, term: 2 },
            transfer_token: 0,
        };
        let from = NodeId(3);
        let message = Message::RequestVote(request);
        let effects = raft.step(NOW, Input::Message { from, message });
        effects.iter().any(|effect| {
            matches!(effect, Effect::Send { message: Message::RequestVoteReply(reply), .. } if reply.hears_leader)
        })
    };
    assert!(refuses(Duration::from_millis(100)));
    assert!(!refuses(Duration::from_millis(1500)));
}

#[test]
fn a_write_under_way_is_known_by_its_new_name() {
    let mut now = Time(5_000_000);
    let mut raft = voter(7, now);
    let effects = raft.step(now, heartbeat());
    persist(&mut raft, now, &effects);
    raft.canonicalise(NOW);
    now = NOW;
    // It campaigns: the vote for itself waits for the disk.
    let grant = |from, request_term, pre_vote| Input::Message {
        from: NodeId(from),
        message: Message::RequestVoteReply(raft_core::message::RequestVoteReply {
            term: 2,
            pre_vote,
            granted: true,
            request_term,
            hears_leader: false,
        }),
    };
    now = now + Duration::from_millis(1500);
    raft.step(now, Input::Tick);
    assert_eq!(raft.role(), RoleName::PreCandidate);
    let effects = raft.step(now, grant(2, 3, true));
    assert_eq!(raft.role(), RoleName::Candidate);
    let write = effects.iter().find_map(|effect| match effect {
        Effect::Persist(write) => Some(write.clone()),
        _ => None,
    });
    let mut write = write.unwrap();
    let renamed = raft.canonicalise(NOW);
    write.sequence -= renamed.sequences;
    write.generation = u64::from(write.generation == renamed.generation);
    assert_eq!((write.sequence, write.generation), (1, 1));
    let report = Persisted {
        sequence: write.sequence,
        generation: write.generation,
        last: raft.last(),
    };
    let sent = raft.step(NOW, Input::Persisted(report));
    let asks = |effect: &&Effect| matches!(effect, Effect::Send { message: Message::RequestVote(request), .. } if request.term == 3);
    assert_eq!(sent.iter().filter(asks).count(), 2, "{sent:?}");
}
