//! D1, D2, D4 and D5: what rests on the disk.

use raft_core::message::*;
use raft_core::*;

use crate::one::*;

/// D1: what others have committed goes to the state machine when it is durable here too.
#[test]
fn d1_nothing_is_handed_out_before_it_is_durable_here() {
    let mut leader = One::leader(1, &[1, 2, 3], &[1]);
    let index = leader.raft.last().index + 1;
    leader.step(put(1, "x"));
    let mut effects = Vec::new();
    for peer in [2, 3] {
        effects.extend(leader.hear_only(peer, ack(leader.raft.term(), index)));
    }
    assert_eq!(
        (leader.raft.commit_index(), committed(&effects)),
        (index, None)
    );
    assert_eq!(committed(&leader.sync()), Some(index));
    let mut follower = One::new(1, &[1, 2, 3], &[1]);
    let effects = follower.hear_only(2, append(1, at(1, 1), &[1], 2));
    assert_eq!(committed(&effects), Some(1));
    assert_eq!(committed(&follower.sync()), Some(2));
}

/// D2: 3@2 is being written; a new leader truncates and queues 3@3; the late report of the first
/// write does not acknowledge the second.
#[test]
fn d2_a_report_of_an_older_generation_counts_for_nothing() {
    let mut one = One::new(1, &[1, 2, 3], &[1, 1]);
    one.hear(2, heartbeat(2, 0, &[]));
    one.hear_only(2, append(2, at(2, 1), &[2, 2], 0));
    let late = one.write_one();
    one.hear_only(3, append(3, at(2, 1), &[3, 3], 0));
    let effects = one.step(Input::Persisted(late));
    assert_eq!((outcome(&effects), one.raft.durable_index()), (None, 2));
    // Not even a report that names the new entries under the old generation.
    let lie = Persisted {
        last: at(4, 3),
        ..late
    };
    assert_eq!(outcome(&one.step(Input::Persisted(lie))), None);
    assert_eq!(outcome(&one.sync()), durable(4));
}

/// D2: truncation lowers the durable index, so that what replaces a durable entry is not counted.
#[test]
fn d2_truncation_lowers_the_durable_index() {
    let mut one = One::new(1, &[1, 2, 3], &[1, 1, 1]);
    one.hear_only(2, append(2, at(1, 1), &[2, 2], 0));
    assert_eq!(one.raft.durable_index(), 1);
    one.sync();
    assert_eq!(one.raft.durable_index(), 3);
    assert_eq!(
        one.log.iter().map(|e| e.term).collect::<Vec<_>>(),
        [1, 2, 2]
    );
}

/// D4: no write completed for ElectTimeoutMax: the leader hands over, else it steps down; one quick
/// sync heals.
#[test]
fn d4_a_sick_leader_hands_over_or_steps_down() {
    let keep_alive = |one: &mut One, ms: u64| {
        let mut effects = Vec::new();
        for _ in 0..ms / 100 {
            one.now = one.now + milliseconds(100);
            effects.extend(one.step(Input::Tick));
            for peer in [2, 3] {
                effects.extend(one.hear_only(peer, heartbeat_reply(one.raft.term(), 0)));
            }
        }
        effects
    };
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    one.step(put(1, "x"));
    let effects = keep_alive(&mut one, 1_400);
    assert!(!one.raft.health().disk_sick, "{effects:?}");
    let (term, last) = (one.raft.term(), one.raft.last().index);
    one.hear_only(2, ack(term, last));
    let effects = keep_alive(&mut one, 200);
    assert!(one.raft.health().disk_sick);
    assert!(
        sent(&effects)
            .iter()
            .any(|(_, m)| matches!(m, Message::TimeoutNow { .. }))
    );
    keep_alive(&mut one, 1_000);
    // An order to hand over to another one gives it no more time.
    let effects = one.step(Input::Transfer { to: Some(node(3)) });
    let begun = |effect: &Effect| matches!(effect, Effect::Event(Event::Transfer { to, outcome: "begun" }) if *to == node(3));
    assert!(effects.iter().any(begun), "{effects:?}");
    keep_alive(&mut one, 600);
    assert_eq!(one.raft.role(), RoleName::Follower, "nobody took over");
    one.sync();
    one.hear_only(2, heartbeat(term + 1, 0, &[]));
    one.now = one.now + milliseconds(10);
    one.sync();
    assert!(!one.raft.health().disk_sick, "one quick sync heals");
}

/// D4: the sick wait four times longer, and not for ever.
#[test]
fn d4_the_sick_campaign_late() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    one.hear(2, heartbeat(1, 0, &[]));
    one.step(Input::Message {
        from: node(2),
        message: append(1, at(1, 1), &[1], 0),
    });
    for _ in 0..20 {
        one.now = one.now + milliseconds(100);
        one.hear_only(2, heartbeat(1, 0, &[]));
    }
    assert!(one.raft.health().disk_sick);
    let wait = one.raft.next_deadline() - one.now;
    assert!(
        wait >= milliseconds(3_000) && wait <= milliseconds(6_000),
        "{wait:?}"
    );
    one.now = one.raft.next_deadline();
    let asked = vote_requests(&one.step(Input::Tick));
    assert_eq!(asked.len(), 2, "late, and not never");
}

/// D4: only the slow node has the full log, the other two are behind: it stands last, not aside, and is elected.
#[test]
fn d4_the_sick_lead_when_nobody_else_can() {
    let mut one = One::new(1, &[1, 2, 3], &[1, 1]);
    one.hear(2, heartbeat(1, 0, &[]));
    one.hear_only(2, append(1, at(2, 1), &[1], 0));
    while !one.raft.health().disk_sick {
        one.now = one.now + milliseconds(100);
        one.step(Input::Tick);
    }
    // The others ask first, and cannot win here.
    for kind in [PRE_VOTE, VOTE] {
        let effects = one.hear_only(3, ask(2, kind, at(1, 1)));
        assert_ne!(granted(&effects), Some(true));
    }
    let begun = one.now;
    while one.raft.role() == RoleName::Follower {
        assert!(one.now - begun < SECOND * 7, "it stands aside for ever");
        one.now = one.raft.next_deadline();
        one.step(Input::Tick);
    }
    let term = one.raft.term();
    one.hear_only(3, answer(term + 1, PRE_VOTE, true));
    one.sync();
    one.hear_only(3, answer(term + 1, VOTE, true));
    assert_eq!(one.raft.role(), RoleName::Leader);
}

/// D4: what a peer says of its boot is written down, but no promise rests on that: heartbeats of a
/// leader whose disk hangs, and its word to the heir, still leave.
#[test]
fn d4_a_greeting_holds_nothing_back() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let term = one.raft.term();
    one.step(hello(3, 2, term, 9, false));
    assert_eq!(one.queue.len(), 1, "it is written down");
    one.now = one.now + milliseconds(375);
    assert_eq!(heartbeats(&one.step(Input::Tick)).len(), 2);
}

/// D5: a voter that reports a lower boot or term than before, across this node's own crash too, or
/// less than it acknowledged in this term, is asked again on a fresh connection; if it says so again,
/// it has lost promises.
#[test]
fn d5_a_peer_that_reports_less_is_noticed() {
    let start = || {
        let mut one = One::new(1, &[1, 2, 3], &[1, 5]);
        one.settle(hello(2, 7, 5, 2, false));
        one.crash()
    };
    let lead = || One::leader(1, &[1, 2, 3], &[1]);
    let (term, last) = (lead().raft.term(), lead().raft.last().index);
    for (mut one, boot, term, index) in [
        (start(), 6, 5, 2),
        (start(), 8, 4, 2),
        (lead(), 8, term, last - 1),
    ] {
        let effects = one.settle(hello(2, boot, term, index, false));
        assert_eq!((challenges(&effects), rolled_back(&effects)), (1, false));
        assert!(rolled_back(&one.settle(hello(2, boot, term, index, true))));
    }
    for (mut one, boot, term, index) in [(start(), 8, 5, 0), (lead(), 8, term, last)] {
        let effects = one.settle(hello(2, boot, term, index, false));
        assert_eq!((challenges(&effects), rolled_back(&effects)), (0, false));
    }
}

/// D5: compared when a stream opens, never on a late packet. A Hello that was overtaken by what the
/// same process said on its other stream is no lost promise, and neither is an answer that was
/// overtaken by acknowledgements: it is compared with what was known when it was asked for.
#[test]
fn d5_an_overtaken_hello_is_no_rollback() {
    let mut leader = One::leader(1, &[1, 2, 3], &[1]);
    let (term, last) = (leader.raft.term(), leader.raft.last().index);
    leader.put("x");
    leader.hear(2, ack(term, last + 1));
    // Written on the second stream before the acknowledgement left on the first.
    let effects = leader.settle(hello(2, 1, term, last, false));
    assert_eq!((challenges(&effects), rolled_back(&effects)), (1, false));
    leader.put("y");
    leader.hear(2, ack(term, last + 2));
    assert!(!rolled_back(&leader.settle(hello(
        2,
        1,
        term,
        last + 1,
        true
    ))));
}
