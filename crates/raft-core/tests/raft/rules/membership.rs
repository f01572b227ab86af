//! M1 to M6: who is in the configuration.

use std::collections::BTreeSet;

use raft_core::message::*;
use raft_core::*;

use crate::one::*;
use crate::world::World;

/// M1: leadership is not handed to a node that leaves, nor is it named an heir.
#[test]
fn m1_a_leaver_is_no_heir() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    one.step(Input::Leave {
        request: 1,
        node: node(2),
    });
    let effects = one.step(Input::Transfer { to: Some(node(2)) });
    assert!(
        sent(&effects)
            .iter()
            .all(|(_, m)| !matches!(m, Message::TimeoutNow { .. }))
    );
    let heartbeat = heartbeats(&one.wait(milliseconds(375)));
    assert!(
        heartbeat
            .iter()
            .all(|(_, h)| !h.succession.contains(&node(2))),
        "{heartbeat:?}"
    );
}

/// M1: an heir that begins to leave before it was told is an heir no more.
#[test]
fn m1_an_heir_that_begins_to_leave_is_not_told() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    one.put("x");
    let mut effects = one.settle(Input::Transfer { to: Some(node(2)) });
    effects.extend(one.settle(Input::Leave {
        request: 1,
        node: node(2),
    }));
    effects.extend(one.all_ack());
    let told = |(_, message): &(NodeId, Message)| matches!(message, Message::TimeoutNow { .. });
    assert!(!sent(&effects).iter().any(told), "{effects:?}");
    let given_up = |effect: &Effect| matches!(effect, Effect::Event(Event::Transfer { outcome, .. }) if outcome.contains("about to go"));
    assert!(effects.iter().any(given_up), "{effects:?}");
    assert_eq!(refused(&one.put("y")), None, "entries are taken again");
}

/// M1: no heir was named, and the first in the order begins to stop before it was told: the next one takes over,
/// in what is left of the time. A leader whose disk is sick needs that most (D4).
#[test]
fn m1_an_heir_that_stops_gives_way_to_the_next() {
    for sick in [false, true] {
        let mut one = One::leader(1, &[1, 2, 3], &[1]);
        let term = one.raft.term();
        one.step(put(1, "x"));
        while sick && !one.raft.health().disk_sick {
            one.now = one.now + milliseconds(100);
            one.step(Input::Tick);
            for peer in [2, 3] {
                one.hear_only(peer, heartbeat_reply(term, 0));
            }
        }
        if !sick {
            one.settle(Input::Transfer { to: None });
        }
        let begun = one.now;
        assert_eq!(heirs(&one.hear_only(2, stopping_reply(term))), []);
        let last = one.raft.last().index;
        assert_eq!(heirs(&one.hear_only(2, ack(term, last))), []);
        assert_eq!(
            heirs(&one.hear_only(3, ack(term, last))),
            [node(3)],
            "sick: {sick}"
        );
        assert_eq!(one.raft.role(), RoleName::Leader);
        // The time is that of the first.
        one.now = begun + one.options.elect_timeout_max;
        let effects = one.hear_only(2, heartbeat_reply(term, 0));
        let end = match one.raft.role() {
            RoleName::Leader => refused(&one.step(put(1, "y"))).is_none(),
            _ => sick,
        };
        assert!(end, "sick: {sick}, {effects:?}");
    }
}

/// M1: the last heir begins to stop: a sound leader leads on, and takes entries.
#[test]
fn m1_without_any_heir_left_the_sound_lead_on() {
    let mut one = One::leader(1, &[1, 2], &[1]);
    let term = one.raft.term();
    one.put("x");
    one.settle(Input::Transfer { to: None });
    assert_eq!(refused(&one.put("y")), Some(Refusal::Transferring));
    one.hear(2, stopping_reply(term));
    assert_eq!(refused(&one.put("y")), None);
}

/// M1: leaves that come within 300 ms become one change, and MinVoters binds them.
#[test]
fn m1_leaves_are_gathered() {
    let mut one = One::leader(1, &[1, 2, 3, 4, 5], &[1]);
    let before = one.raft.last().index;
    for (request, leaver) in [(1, 2), (2, 3), (3, 4), (4, 5)] {
        one.settle(Input::Leave {
            request,
            node: node(leaver),
        });
        one.wait(milliseconds(60));
        one.all_ack();
        assert_eq!(one.raft.last().index, before, "too soon");
    }
    one.wait(milliseconds(500));
    let next = one.raft.configuration().1;
    assert!(next.is_joint());
    assert_eq!((next.voters.len(), next.removed.len()), (3, 2));
}

/// M1 and M5: a leaver stays up until the final configuration is committed. While the joint one is
/// in force its vote is still needed.
#[test]
fn m1_a_leaver_retires_when_the_final_configuration_is_committed() {
    let mut one = One::new(5, &[1, 2, 3, 4, 5], &[1]);
    let next = Configuration {
        removed: voters(&[4, 5]),
        ..configuration(&[1, 2, 3])
    };
    let joint = Configuration {
        outgoing: voters(&[1, 2, 3, 4, 5]),
        ..next.clone()
    };
    let change = |index: u64, next: &Configuration| {
        let payload = Payload::Configuration(next.clone().into());
        let entries = vec![Entry {
            index,
            term: 1,
            log_time_ms: 0,
            payload,
        }];
        let previous = at(index - 1, 1);
        Message::AppendEntries(AppendEntries {
            term: 1,
            previous,
            entries,
            commit_index: index,
        })
    };
    let effects = one.hear(1, change(2, &joint));
    assert_eq!(committed(&effects), Some(2));
    assert!(
        !effects.contains(&Effect::Retired),
        "it still votes in C_old"
    );
    assert!(!joint.has_left(node(5)) && next.has_left(node(5)));
    assert!(one.hear(1, change(3, &next)).contains(&Effect::Retired));
}

/// M5, and §4.2.2 of the dissertation: C_new stands in the logs of two that go with it, and nowhere else;
/// one of those that stay is dead. Nobody else can win C_old, since these two have the longer log, so one
/// of them campaigns, for a majority of C_new, which it is no part of.
#[test]
fn m5_a_leaver_campaigns_while_c_old_may_need_it() {
    let joint = Configuration {
        outgoing: voters(&[1, 2, 3, 4, 5]),
        removed: voters(&[4, 5]),
        ..configuration(&[1, 2, 3])
    };
    let mut one = One::with(5, joint.clone(), &[1], Options::default());
    let next = Payload::Configuration(joint.leave_joint().into());
    let entry = Entry {
        index: 2,
        term: 1,
        log_time_ms: 0,
        payload: next,
    };
    one.hear(
        4,
        Message::AppendEntries(AppendEntries {
            term: 1,
            previous: at(1, 1),
            entries: vec![entry],
            commit_index: 1,
        }),
    );
    assert!(!one.raft.configuration().1.is_voter(node(5)));
    let asked = vote_requests(&one.wait_for_campaign());
    assert_eq!(asked.len(), 3, "{asked:?}");
    one.hear(2, answer(2, PRE_VOTE, true));
    assert_eq!(one.raft.term(), 1, "its own vote does not count");
    one.hear(3, answer(2, PRE_VOTE, true));
    one.hear(2, answer(2, VOTE, true));
    one.hear(3, answer(2, VOTE, true));
    assert_eq!(one.raft.role(), RoleName::Leader);
    // What is committed does not need it any more.
    one.wait(milliseconds(375));
    let effects = one.all_ack();
    assert!(effects.contains(&Effect::Retired), "{effects:?}");
    assert_ne!(one.raft.role(), RoleName::Leader);
    assert_eq!(vote_requests(&one.wait(SECOND * 20)), []);
}

/// M5: what is known to be committed is forgotten by a crash, and C_old may need it no less after one.
#[test]
fn m5_a_leaver_that_was_killed_campaigns_too() {
    let joint = Configuration {
        outgoing: voters(&[1, 2, 3, 4, 5]),
        removed: voters(&[4, 5]),
        ..configuration(&[1, 2, 3])
    };
    let mut one = One::with(5, joint.clone(), &[1], Options::default());
    one.hear(4, change(2, &joint.leave_joint(), 1));
    let mut one = one.crash();
    assert_eq!((one.raft.commit_index(), one.raft.last()), (0, at(2, 1)));
    let patience = one.options.elect_timeout_max;
    assert_eq!(vote_requests(&one.wait(patience)), [], "the others first");
    assert_eq!(vote_requests(&one.wait_for_campaign()).len(), 3);
    // Whom a change that followed says nothing of has lost its vote for good: that one is committed.
    let demoted = Configuration {
        learners: voters(&[5]),
        ..configuration(&[1, 2, 3])
    };
    let joint = Configuration {
        outgoing: voters(&[1, 2, 3, 4, 5]),
        ..demoted.clone()
    };
    let later = Configuration {
        learners: voters(&[5, 6]),
        ..demoted.clone()
    };
    let mut one = One::with(5, joint, &[1], Options::default());
    one.hear(1, change(2, &demoted, 1));
    one.hear(1, change(3, &later, 1));
    assert_eq!(vote_requests(&one.wait(SECOND * 20)), []);
    let mut one = one.crash();
    assert_eq!(vote_requests(&one.wait(SECOND * 20)), []);
}

/// M5: and a successor that was killed meanwhile feeds those whom it drops, so that they hear of it.
#[test]
fn m5_a_successor_that_was_killed_feeds_who_leaves() {
    let joint = Configuration {
        outgoing: voters(&[1, 2, 3, 4, 5]),
        removed: voters(&[4, 5]),
        ..configuration(&[1, 2, 3])
    };
    let mut one = One::with(2, joint.clone(), &[1], Options::default());
    one.hear(4, change(2, &joint.leave_joint(), 1));
    let mut one = one.crash();
    let fed: BTreeSet<_> = heartbeats(&one.elect())
        .into_iter()
        .map(|(to, _)| to)
        .collect();
    assert_eq!(fed, voters(&[1, 3, 4, 5]));
}

/// The leader of term 1 appends this configuration.
fn change(index: Index, next: &Configuration, commit_index: Index) -> Message {
    let payload = Payload::Configuration(next.clone().into());
    let entries = vec![Entry {
        index,
        term: 1,
        log_time_ms: 0,
        payload,
    }];
    Message::AppendEntries(AppendEntries {
        term: 1,
        previous: at(index - 1, 1),
        entries,
        commit_index,
    })
}

/// M1 and M3: a learner that was cut off while it was removed hears nothing of it, and has no reason to
/// speak: it has to ask. So has who knows that it may be removed.
#[test]
fn m3_who_is_left_alone_asks() {
    let base = Configuration {
        learners: voters(&[1]),
        ..configuration(&[2, 3, 4])
    };
    let mut learner = One::with(1, base, &[1], Options::default());
    learner.hear(2, heartbeat(1, 1, &[]));
    assert!(!learner.raft.is_left_alone(), "it has a leader");
    learner.wait(SECOND * 3);
    assert!(learner.raft.is_left_alone());
    let mut voter = One::new(2, &[2, 3, 4], &[1]);
    voter.wait(SECOND * 3);
    assert!(!voter.raft.is_left_alone(), "it campaigns, and so is told");
}

/// M5 and section 6: who leaves hears of the configuration without it, so that it neither campaigns
/// nor waits for ever.
#[test]
fn m5_a_leaver_hears_of_the_final_configuration() {
    let mut world = World::cluster(21, 5);
    world.run_for(SECOND * 2);
    let leader = world.leader().unwrap();
    let leaver = world.nodes.keys().copied().find(|n| *n != leader).unwrap();
    let request = world.leave(leader, leaver);
    assert!(world.run_until(SECOND * 3, |w| w.answers.leaves.contains_key(&request)));
    assert!(world.run_until(SECOND, |w| w.retired.contains(&leaver)));
}

/// M2: one voter more than an odd number stays a learner.
#[test]
fn m2_the_odd_node_out_is_a_learner() {
    let mut world = World::cluster(22, 4);
    world.run_for(SECOND * 5);
    let configuration = world
        .raft(world.leader().unwrap())
        .committed_configuration()
        .1;
    assert_eq!(
        (configuration.voters.len(), configuration.learners.len()),
        (3, 1)
    );
}

/// M3: a removed id is remembered by every configuration after it, and never joins again.
#[test]
fn m3_a_removed_id_never_joins_again() {
    let base = Configuration {
        removed: voters(&[4]),
        ..configuration(&[1, 2, 3])
    };
    let mut one = One::with(1, base, &[1], Options::default());
    one.elect();
    one.all_ack();
    let hint = |number| MemberHint {
        node: node(number),
        joinable: true,
    };
    one.settle(Input::Members(vec![hint(4), hint(5)]));
    let next = one.raft.configuration().1;
    assert_eq!(
        (&next.learners, &next.removed),
        (&voters(&[5]), &voters(&[4]))
    );
}

/// M4: a leader that has just been elected has not heard yet who is dead. Those that it has not heard do not
/// become the majority by the leave of others.
#[test]
fn m4_a_new_leader_counts_on_those_that_it_has_heard() {
    let mut one = One::new(1, &[1, 2, 3, 4, 5], &[1]);
    one.elect();
    let (term, last) = (one.raft.term(), one.raft.last().index);
    for peer in [2, 3] {
        one.hear(peer, ack(term, last));
    }
    for (request, leaver) in [(1, 2), (2, 3)] {
        one.settle(Input::Leave {
            request,
            node: node(leaver),
        });
    }
    one.wait(milliseconds(700));
    assert_eq!(
        one.raft.configuration().1.voters.len(),
        5,
        "4 and 5 are unheard of"
    );
    one.all_ack();
    one.wait(milliseconds(100));
    assert_eq!(one.raft.configuration().1.voters, voters(&[1, 4, 5]));
}

/// M4: dead means no contact with the leader itself for 10 s, and not less.
#[test]
fn m4_dead_is_ten_seconds_without_contact() {
    let base = Configuration {
        learners: voters(&[4]),
        ..configuration(&[1, 2, 3])
    };
    let mut one = One::with(1, base, &[1], Options::default());
    one.elect();
    one.all_ack();
    let (term, before) = (one.raft.term(), one.raft.configuration().0);
    let contact = one.raft.peers()[&node(3)].last_contact;
    while one.raft.configuration().0 == before {
        one.wait(milliseconds(375));
        for peer in [2, 4] {
            one.hear(peer, ack(term, one.raft.last().index));
            one.hear(peer, heartbeat_reply(term, 0));
        }
        assert!(one.now - contact < SECOND * 12, "nothing is done");
    }
    assert!(one.now - contact >= SECOND * 10, "{:?}", one.now - contact);
    let next = one.raft.configuration().1;
    assert_eq!(next.voters, voters(&[1, 2, 4]));
    assert!(next.learners.contains(&node(3)) && next.removed.is_empty());
}

/// M4: two healthy voters of five are cut off for 15 s. Spares take their places; nobody is removed, and both
/// are learners when they are back, and up to date at once.
#[test]
fn m4_a_partition_of_15_seconds_removes_nobody() {
    for seed in 0..10 {
        let mut world = World::cluster(seed, 7);
        world.run_for(SECOND * 2);
        let leader = world.leader().unwrap();
        let before = world.raft(leader).committed_configuration().1;
        let others = before.voters.iter().copied().filter(|v| *v != leader);
        let away: Vec<_> = others.take(2).collect();
        world.partition(&away);
        world.run_for(SECOND * 15);
        world.heal();
        world.run_for(SECOND * 3);
        let after = world.raft(leader).committed_configuration().1;
        assert_eq!(after.voters.len(), 5, "seed {seed}");
        assert_eq!(after.removed, BTreeSet::new(), "seed {seed}");
        assert!(away.iter().all(|node| after.learners.contains(node)));
        assert!(world.run_until(SECOND, World::agree), "seed {seed}");
    }
}

/// M5: a leader that inherited a joint configuration ends it, once that and an entry of its own term
/// are committed, and not before.
#[test]
fn m5_an_inherited_joint_configuration_is_ended() {
    let base = Configuration {
        outgoing: voters(&[1, 2, 3]),
        ..configuration(&[1, 4, 5])
    };
    let mut one = One::with(1, base, &[1], Options::default());
    one.elect();
    one.wait(milliseconds(375));
    assert!(one.raft.configuration().1.is_joint());
    for peer in [2, 4] {
        one.hear(peer, ack(one.raft.term(), 2));
    }
    one.wait(milliseconds(375));
    assert_eq!(
        one.raft.configuration(),
        (3, configuration(&[1, 4, 5]).into())
    );
}

/// M5: votes are given by term and log, whatever the voter's own configuration says; only a voter in
/// its own latest configuration campaigns, by no clock and no order.
#[test]
fn m5_who_votes_and_who_campaigns() {
    let base = Configuration {
        learners: voters(&[1]),
        ..configuration(&[2, 3, 4])
    };
    let mut learner = One::with(1, base, &[1], Options::default());
    assert_eq!(
        granted(&learner.hear(77, ask(2, VOTE, at(1, 1)))),
        Some(true)
    );
    learner.hear(2, heartbeat(2, 0, &[1]));
    assert_eq!(
        vote_requests(&learner.hear(2, Message::TimeoutNow { term: 2, token: 3 })),
        []
    );
    assert_eq!(vote_requests(&learner.wait(SECOND * 20)), []);
    assert_eq!(learner.raft.role(), RoleName::Follower);
}

/// M6: a learner is promoted on what it acknowledged to this leader in this term.
#[test]
fn m6_no_promotion_without_own_acknowledgements() {
    let base = Configuration {
        learners: voters(&[4, 5]),
        ..configuration(&[1, 2, 3])
    };
    let mut one = One::with(1, base, &[1], Options::default());
    one.elect();
    let (term, last) = (one.raft.term(), one.raft.last().index);
    for _ in 0..8 {
        one.wait(milliseconds(375));
        for peer in [2, 3] {
            one.hear(peer, ack(term, last));
        }
        for peer in [2, 3, 4, 5] {
            one.hear(peer, heartbeat_reply(term, 0));
        }
        for peer in [4, 5] {
            one.hear(peer, ack(term - 1, last));
        }
    }
    assert_eq!(
        one.raft.configuration().1.voters.len(),
        3,
        "they never acknowledged"
    );
    for _ in 0..4 {
        one.wait(milliseconds(375));
        for peer in [2, 3, 4, 5] {
            one.hear(peer, ack(term, last));
            one.hear(peer, heartbeat_reply(term, 0));
        }
    }
    assert_eq!(one.raft.configuration().1.voters.len(), 5);
}

/// M6: who has fallen silent is no spare any more once the log has gone on without it, however short its
/// silence seems to the leader: a clock that stands still shows none.
#[test]
fn m6_who_lacks_more_than_a_batch_is_no_spare() {
    let base = Configuration {
        learners: voters(&[4, 5]),
        ..configuration(&[1, 2, 3])
    };
    let options = Options {
        max_batch_entries: 4,
        voters: 3,
        ..Options::default()
    };
    for entries in [4, 5] {
        let mut one = One::with(1, base.clone(), &[1], options.clone());
        one.elect();
        let term = one.raft.term();
        for _ in 0..60 {
            one.wait(milliseconds(375));
            one.all_ack();
            for peer in [2, 3, 4, 5] {
                one.hear(peer, heartbeat_reply(term, 0));
            }
        }
        one.settle(Input::Leave {
            request: 1,
            node: node(2),
        });
        // 4 says nothing more.
        for entry in 0..entries {
            one.put(&format!("{entry}"));
            let last = one.raft.last().index;
            for peer in [2, 3, 5] {
                one.hear(peer, ack(term, last));
            }
        }
        one.wait(milliseconds(500));
        let (_, next) = one.raft.configuration();
        let heir = if entries > 4 { 5 } else { 4 };
        assert_eq!(next.voters, voters(&[1, 3, heir]), "after {entries}");
    }
}

/// M4: automation makes no more than so many changes in an hour, and goes on after it.
#[test]
fn m4_automatic_changes_have_a_budget() {
    let options = Options {
        automatic_changes_per_hour: 1,
        ..Options::default()
    };
    let mut one = One::with(1, configuration(&[1, 2, 3]), &[1], options);
    one.elect();
    one.all_ack();
    let term = one.raft.term();
    let hint = |number| MemberHint {
        node: node(number),
        joinable: true,
    };
    let mut members = vec![hint(4)];
    let begun = one.now;
    for (joiner, until) in [(4, SECOND), (5, SECOND * 3_590)] {
        members.push(hint(joiner));
        one.settle(Input::Members(members.clone()));
        while one.now - begun < until {
            one.wait(milliseconds(375));
            one.all_ack();
            for peer in [2, 3] {
                one.hear(peer, heartbeat_reply(term, 0));
            }
        }
        assert_eq!(
            one.raft.configuration().1.learners,
            voters(&[4]),
            "{joiner}"
        );
    }
    while one.now - begun < SECOND * 3_610 {
        one.wait(milliseconds(375));
        one.all_ack();
    }
    assert_eq!(one.raft.configuration().1.learners, voters(&[4, 5]));
}
