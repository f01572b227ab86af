//! Linearizable reads, as the tests of other implementations tell them.

use raft_core::*;

use crate::few::{Few, Letter};
use crate::one::*;
use crate::world::World;

/// A learner serves reads as any follower does: it asks, the leader confirms with its voters, and answers.
#[test]
fn a_learner_asks_for_reads_too() {
    let base = Configuration {
        learners: voters(&[4]),
        ..configuration(&[1, 2, 3])
    };
    let ones = [1, 2, 3, 4].map(|id| One::with(id, base.clone(), &[1], Options::default()));
    let mut few = Few::of(ones);
    assert!(few.campaign(1));
    let index = few.put_and_deliver(1, "x");
    let deadline = few.one(4).now + SECOND;
    few.effects.clear();
    few.input(
        4,
        Input::ReadIndex {
            request: 5,
            deadline,
        },
    );
    few.deliver();
    let ready = |few: &Few| {
        let mut ready = few.effects.iter().filter_map(|(id, effect)| match effect {
            Effect::ReadReady { request, index } => Some((*id, *request, *index)),
            _ => None,
        });
        ready.next()
    };
    assert_eq!(ready(&few), Some((4, 5, index)));
    // Alone with its learner the leader confirms nothing.
    few.effects.clear();
    few.part(&[1, 4]);
    few.input(
        4,
        Input::ReadIndex {
            request: 6,
            deadline,
        },
    );
    few.deliver();
    assert_eq!(ready(&few), None);
}

/// The same ask may arrive twice, and its answer too: each read is served once, and none that came after it.
#[test]
fn an_ask_that_is_doubled_serves_its_reads_once() {
    let mut few = Few::led_by_1(3);
    let deadline = few.one(2).now + SECOND * 10;
    few.input(
        2,
        Input::ReadIndex {
            request: 5,
            deadline,
        },
    );
    let ask = few.keep_back(|_| true).remove(0);
    few.hand_over(ask.clone());
    few.hand_over(ask);
    few.input(
        2,
        Input::ReadIndex {
            request: 6,
            deadline,
        },
    );
    let is_ask = |letter: &Letter| matches!(letter.message, Message::ReadIndex { .. });
    assert!(
        few.keep_back(is_ask).is_empty(),
        "6 waits for an ask of its own"
    );
    let mut second = Vec::new();
    while let Some(letter) = few.post.pop_front() {
        few.hand_over(letter);
        second.extend(few.keep_back(is_ask));
    }
    let served = |few: &Few| {
        let served = few.effects.iter().filter_map(|(_, effect)| match effect {
            Effect::ReadReady { request, .. } => Some(*request),
            _ => None,
        });
        served.collect::<Vec<_>>()
    };
    assert_eq!(served(&few), [5], "the second answer is to the same ask");
    few.post.extend(second);
    few.deliver();
    assert_eq!(served(&few), [5, 6]);
}

/// What is answered leaves nothing behind: ever so many reads, one after another, and none is refused for
/// want of room.
#[test]
fn answered_reads_leave_nothing_behind() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let (term, deadline) = (one.raft.term(), one.now + SECOND * 100);
    for request in 0..2 * reads::MAX_WAITING_READS as u64 {
        let effects = one.step(Input::ReadIndex { request, deadline });
        let round = heartbeats(&effects)[0].1.round;
        let effects = one.hear_only(2, heartbeat_reply(term, round));
        assert!(matches!(read_ready(&effects), Some((served, _)) if served == request));
    }
}

/// A leader sleeps, another is elected and writes; the sleeper wakes and is asked. The world checks each read
/// against what was acknowledged before it began.
#[test]
fn a_leader_that_slept_serves_nothing_old() {
    for seed in 0..60 {
        let mut world = World::cluster(seed, 3);
        world.run_for(SECOND);
        let old = world.leader().unwrap();
        world.write("before");
        // It falls asleep with a round under way, or without.
        let asked = (seed % 2 == 0).then(|| world.read(old, SECOND * 20));
        world.nodes.get_mut(&old).unwrap().paused = true;
        assert!(world.run_until(SECOND * 10, |w| w.leader().is_some()));
        let new = world.leader().unwrap();
        assert_ne!(old, new);
        world.write("after");
        world.nodes.get_mut(&old).unwrap().paused = false;
        let late = world.read(old, SECOND * 20);
        assert!(!world.answers.reads.contains_key(&late));
        world.run_for(SECOND * 5);
        let read = |request: &u64| world.answers.reads.get(request);
        let failed = |request: &u64| world.answers.reads_failed.contains_key(request);
        assert!(read(&late).is_some() || failed(&late), "seed {seed}");
        if let Some(asked) = asked {
            assert!(read(&asked).is_some() || failed(&asked), "seed {seed}");
        }
        // Asked again, it sends on to the new leader and answers.
        let again = world.read(old, SECOND * 5);
        world.run_for(SECOND);
        assert!(world.answers.reads.contains_key(&again), "seed {seed}");
    }
}

/// A leader that is the only voter is its own majority: it answers at once, and no learner is asked.
#[test]
fn a_leader_alone_confirms_itself() {
    let base = Configuration {
        learners: voters(&[2]),
        ..configuration(&[1])
    };
    let mut one = One::with(1, base, &[1], Options::default());
    one.elect();
    let deadline = one.now + SECOND;
    let effects = one.step(Input::ReadIndex {
        request: 5,
        deadline,
    });
    assert_eq!(read_ready(&effects), Some((5, 2)));
}
