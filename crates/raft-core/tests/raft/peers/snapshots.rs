//! Snapshots, as the tests of other implementations tell them.

use std::sync::Arc;

use raft_core::*;

use crate::one::*;
use crate::snapshots::{CLUSTER, leader, no_trail, offers, received};
use crate::world::World;

fn meta(position: Position, configuration: Configuration) -> Arc<SnapshotMeta> {
    Arc::new(SnapshotMeta {
        position,
        cluster_id: CLUSTER,
        log_time_ms: 77,
        configuration_index: 1,
        configuration: configuration.into(),
    })
}

/// A snapshot brings its configuration: learners, both halves of a joint one, and what this node itself is.
/// From the moment that it is installed it decides who campaigns, whatever the node was before.
#[test]
fn a_snapshot_brings_its_configuration() {
    let voter = configuration(&[1, 2, 3]);
    let learner = Configuration {
        learners: voters(&[1]),
        ..configuration(&[2, 3])
    };
    let outgoing = Configuration {
        outgoing: voters(&[1, 2, 3]),
        ..configuration(&[2, 3, 4])
    };
    let stranger = configuration(&[2, 3]);
    let others = Configuration {
        learners: voters(&[4, 5]),
        ..configuration(&[1, 2, 3])
    };
    for (before, after, campaigns) in [
        (&voter, &others, true),
        (&voter, &outgoing, true),
        (&learner, &learner, false),
        (&voter, &learner, false),
        (&learner, &voter, true),
        (&voter, &stranger, false),
        (&stranger, &voter, true),
    ] {
        let mut one = One::with(1, before.clone(), &[1], Options::default());
        one.hear(2, heartbeat(2, 0, &[]));
        let effects = received(&mut one, &meta(at(9, 2), after.clone()));
        assert_eq!(committed(&effects), None, "the disk has not followed");
        let effects = one.sync();
        assert_eq!(outcome(&effects), durable(9), "a learner acknowledges too");
        assert_eq!(*one.raft.configuration().1, *after);
        assert_eq!(*one.raft.committed_configuration().1, *after);
        let asked = !vote_requests(&one.wait(SECOND * 3)).is_empty();
        assert_eq!(asked, campaigns, "{before:?} then {after:?}");
    }
}

/// A configuration that stands in the log at a higher index than the snapshot, and belongs to another history,
/// goes with that history: the snapshot's is in force, also after a crash.
#[test]
fn a_stale_configuration_above_the_snapshot_goes() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    let payload = Payload::Configuration(configuration(&[1, 8, 9]).into());
    let stale = Entry {
        payload,
        ..entry(7, 1)
    };
    let mut entries = entries(at(1, 1), &[1; 5]);
    entries.push(stale);
    let append = message::AppendEntries {
        term: 1,
        previous: at(1, 1),
        entries,
        commit_index: 1,
    };
    one.hear(2, Message::AppendEntries(append));
    assert_eq!(*one.raft.configuration().1, configuration(&[1, 8, 9]));
    one.hear(3, heartbeat(2, 0, &[]));
    received(&mut one, &meta(at(5, 2), configuration(&[1, 2, 3])));
    one.sync();
    for crashes in [false, true] {
        if crashes {
            one = one.crash();
        }
        assert_eq!(one.raft.last(), at(5, 2), "the whole log went");
        assert_eq!(*one.raft.configuration().1, configuration(&[1, 2, 3]));
    }
    assert_eq!(vote_requests(&one.wait_for_campaign()).len(), 2);
}

/// A leader whose log is cut off to its very end: a newcomer gets the snapshot and has everything; the next
/// entry follows right behind it. A restart from such a disk leads as before.
#[test]
fn a_log_that_is_cut_off_whole() {
    let mut one = leader(no_trail(), 10);
    let last = one.raft.last();
    one.snapshot_at(last.index, Index::MAX);
    assert_eq!((one.raft.base(), one.log.len()), (last, 0));
    let mut one = one.crash();
    one.elect();
    let (term, noop) = (one.raft.term(), one.raft.last().index);
    assert_eq!(noop, last.index + 1);
    one.hear(2, ack(term, noop));
    assert_eq!(one.raft.commit_index(), noop);
    let effects = one.hear(3, conflict(term, last.index, Position::ZERO));
    assert_eq!(offers(&effects), [(node(3), last)]);
    let effects = one.hear(3, ack(term, last.index));
    let first = &appends(&effects)[0].1;
    assert_eq!((first.previous, first.entries.len()), (last, 1));
}

/// A peer that was offered a snapshot acknowledges less than that covers, from an older one: it is offered
/// the snapshot again, as long as the log does not reach it, and gets entries as soon as the log does.
#[test]
fn an_acknowledgement_below_the_snapshot_is_answered_by_another_offer() {
    let mut one = leader(no_trail(), 10);
    let last = one.raft.last();
    one.snapshot_at(last.index - 2, Index::MAX);
    let base = one.raft.base();
    let mut one = one.crash();
    one.elect();
    let term = one.raft.term();
    one.hear(2, ack(term, one.raft.last().index));
    let effects = one.hear(3, conflict(term, last.index, Position::ZERO));
    assert_eq!(offers(&effects), [(node(3), base)]);
    let effects = one.hear(3, ack(term, base.index - 3));
    assert_eq!(offers(&effects), [(node(3), base)], "still too little");
    assert_eq!(appends(&effects).len(), 0);
    // It need not be the snapshot that brings it there.
    let effects = one.hear(3, ack(term, base.index + 1));
    let first = &appends(&effects)[0].1;
    assert_eq!(first.previous.index, base.index + 1);
}

/// A node that slept through everything is brought back by a snapshot, counts again, and elects.
#[test]
fn a_slow_node_is_restored_and_counts() {
    for seed in 0..20 {
        let options = Options {
            snapshot_trailing_entries: 0,
            ..Options::default()
        };
        let mut world = World::cluster_with(seed, 3, options);
        let leader = world.leader().unwrap();
        let [slow, other] = world.others(leader)[..] else {
            panic!("three nodes");
        };
        world.kill(slow);
        for number in 0..50 {
            world.write(&format!("{number}"));
        }
        world.run_for(SECOND * 2);
        world.take_snapshot(leader, 0);
        world.take_snapshot(other, 0);
        world.start(slow);
        assert!(world.run_until(SECOND * 5, World::agree), "seed {seed}");
        assert!(world.installed > 0, "seed {seed}: by the log");
        world.run_for(SECOND * 2);
        world.kill(other);
        world.write("with the slow one");
    }
}
