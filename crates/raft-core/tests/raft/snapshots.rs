//! Log compaction (§7): rules S4 and W2, and how a peer that is too far behind catches up.

use std::sync::Arc;

use crate::one::*;
use raft_core::message::AppendOutcome;
use raft_core::{
    ClusterId, Configuration, Effect, Entry, Event, Index, Input, Message, NodeId, Options,
    Payload, Position, RoleName, SnapshotMeta, Term,
};

pub fn no_trail() -> Options {
    Options {
        snapshot_trailing_entries: 0,
        ..Options::default()
    }
}

/// The bench's logs have no founding entry; a snapshot must name a cluster.
pub const CLUSTER: ClusterId = ClusterId(0xc1);

/// A leader of nodes 1, 2, 3 that founded the cluster, with `entries` entries that all have.
pub fn leader(options: Options, entries: usize) -> One {
    let mut one = One::with(1, Configuration::default(), &[], options);
    one.settle(Input::Found {
        cluster_id: CLUSTER,
        alone: true,
    });
    one.sync();
    let hints = [2, 3].map(|number| raft_core::MemberHint {
        node: node(number),
        joinable: true,
    });
    one.settle(Input::Members(hints.to_vec()));
    for _ in 0..30 {
        one.wait(milliseconds(100));
        let (term, last) = (one.raft.term(), one.raft.last().index);
        for peer in [2, 3] {
            one.hear(peer, heartbeat_reply(term, 0));
            one.hear(peer, ack(term, last));
        }
    }
    assert_eq!(one.raft.configuration().1.voters, voters(&[1, 2, 3]));
    for number in 0..entries {
        one.put(&format!("entry {number}"));
    }
    one.all_ack();
    one
}

fn meta(position: Position, numbers: &[u64]) -> Arc<SnapshotMeta> {
    Arc::new(SnapshotMeta {
        position,
        cluster_id: CLUSTER,
        log_time_ms: 77,
        configuration_index: 1,
        configuration: configuration(numbers).into(),
    })
}

pub fn received(one: &mut One, snapshot: &Arc<SnapshotMeta>) -> Vec<Effect> {
    one.snapshot = Some(snapshot.clone());
    one.step(Input::SnapshotReceived {
        snapshot: snapshot.clone(),
    })
}

pub fn offers(effects: &[Effect]) -> Vec<(NodeId, Position)> {
    let mut found = Vec::new();
    for (to, message) in sent(effects) {
        if let Message::InstallSnapshot { position, .. } = message {
            found.push((to, position));
        }
    }
    found
}

fn pulls(effects: &[Effect]) -> Vec<(NodeId, Position)> {
    let mut found = Vec::new();
    for effect in effects {
        if let Effect::PullSnapshot { from, position } = effect {
            found.push((*from, *position));
        }
    }
    found
}

fn installed(effects: &[Effect]) -> bool {
    let is = |effect: &Effect| matches!(effect, Effect::SnapshotInstalled { .. });
    effects.iter().any(is)
}

fn offer(term: Term, position: Position) -> Message {
    Message::InstallSnapshot { term, position }
}

/// S4: the log is cut off up to a complete snapshot, never beyond it, and a leader goes on as before.
#[test]
fn s4_the_log_is_cut_off_behind_a_snapshot() {
    let mut one = leader(no_trail(), 10);
    let last = one.raft.last();
    let before = one.raft.term_at(last.index - 3);
    // The disk would like more to go than the snapshot covers.
    one.snapshot_at(last.index - 3, last.index + 1);
    assert_eq!(one.raft.base(), at(last.index - 3, before.unwrap()));
    assert_eq!(one.log.len(), 3, "and on the disk");
    assert_eq!(
        (one.raft.last(), one.raft.term_at(last.index - 4)),
        (last, None)
    );
    one.put("one more");
    one.all_ack();
    assert_eq!(one.raft.commit_index(), last.index + 1);
}

/// §7: what is not committed here is in no snapshot; one of another history is none of this log's.
#[test]
fn s4_a_snapshot_of_something_else_cuts_nothing() {
    let mut one = leader(no_trail(), 3);
    let commit = one.raft.commit_index();
    one.settle(put(1, "not committed"));
    assert_eq!(one.raft.snapshot_meta(commit + 1, 0), None);
    let term = one.raft.term();
    for position in [
        at(commit + 1, term),
        at(commit, term + 1),
        at(commit + 9, term),
    ] {
        let snapshot = meta(position, &[1, 2, 3]);
        one.settle(Input::SnapshotTaken {
            snapshot,
            keep_from: Index::MAX,
        });
        assert_eq!(one.raft.base(), Position::ZERO, "{position:?}");
    }
}

/// M3 and S4: the ids that left for good are part of a snapshot, and so of the log that goes on behind it.
#[test]
fn m3_a_snapshot_remembers_who_was_removed() {
    let mut one = leader(no_trail(), 1);
    one.settle(Input::Members(vec![raft_core::MemberHint {
        node: node(4),
        joinable: true,
    }]));
    one.all_ack();
    one.settle(Input::Leave {
        request: 9,
        node: node(4),
    });
    for _ in 0..5 {
        one.wait(milliseconds(100));
        one.all_ack();
    }
    let snapshot = one.raft.snapshot_meta(one.raft.commit_index(), 0).unwrap();
    assert_eq!(snapshot.configuration.removed, voters(&[4]));

    let mut behind = One::new(2, &[1, 2, 3], &[]);
    behind.hear(1, heartbeat(one.raft.term(), 0, &[]));
    received(&mut behind, &snapshot.into());
    assert_eq!(behind.raft.configuration().1.removed, voters(&[4]));
}

/// W2: an install keeps term and vote. Else this node would vote for another in the same term.
#[test]
fn w2_an_install_keeps_the_vote() {
    let mut one = One::new(2, &[1, 2, 3], &[1]);
    assert_eq!(granted(&one.hear(1, ask(5, VOTE, at(1, 1)))), Some(true));
    one.hear(1, heartbeat(5, 0, &[]));
    let snapshot = meta(at(9, 4), &[1, 2, 3]);
    received(&mut one, &snapshot);
    assert!(installed(&one.sync()));
    assert_eq!(one.hard_state.current_term, 5);
    assert_eq!(one.hard_state.voted_for, Some(node(1)));
    let mut one = one.crash();
    let rival = ask(5, VOTE, at(9, 9));
    assert_eq!(granted(&one.hear(3, rival)), Some(false));
}

/// Entries behind a snapshot are kept for peers that are a little behind, as far as there is room; a
/// peer in contact holds the log for itself, one that is silent does not.
#[test]
fn a_peer_that_is_a_little_behind_needs_no_snapshot() {
    for (contact, keep_from, base) in [
        (true, 0, Some(4)),
        (false, 0, None),
        (true, 9, Some(8)),
        (true, 7, Some(6)),
    ] {
        let mut one = leader(no_trail(), 0);
        let first = one.raft.last().index;
        for number in 0..20 {
            one.put(&format!("{number}"));
        }
        let (term, last) = (one.raft.term(), one.raft.last().index);
        one.hear(2, ack(term, last));
        one.hear(3, ack(term, first + 4));
        if !contact {
            for _ in 0..5 {
                one.wait(milliseconds(400));
                one.hear(2, heartbeat_reply(term, 0));
            }
        }
        let keep_from = if keep_from == 0 { 0 } else { first + keep_from };
        one.snapshot_at(last, keep_from);
        let expected = base.map_or(last, |behind| first + behind);
        assert_eq!(
            one.raft.base().index,
            expected,
            "contact {contact}, {keep_from}"
        );
    }
    let mut one = leader(
        Options {
            snapshot_trailing_entries: 5,
            ..Options::default()
        },
        20,
    );
    let last = one.raft.last().index;
    one.snapshot_at(last, 0);
    assert_eq!(one.raft.base().index, last - 5);
}

/// §7: a peer that lacks what the log has no more is offered the snapshot, again when it is silent about
/// it, and goes on behind it.
#[test]
fn a_peer_behind_the_base_is_offered_the_snapshot() {
    let mut one = leader(no_trail(), 10);
    let (term, last) = (one.raft.term(), one.raft.last());
    one.snapshot_at(last.index, 0);
    // Peer 3 lost its stream, and then everything.
    one.settle(Input::Connected { peer: node(3) });
    let reply = conflict(term, last.index, Position::ZERO);
    // It denies what it acknowledged; a newcomer with an empty log is what is meant here.
    let mut one = {
        let hints = [2, 3, 4].map(|number| raft_core::MemberHint {
            node: node(number),
            joinable: true,
        });
        one.settle(Input::Members(hints.to_vec()));
        for _ in 0..8 {
            one.wait(milliseconds(100));
            for peer in [2, 3] {
                one.hear(peer, heartbeat_reply(term, 0));
                let last = one.raft.last().index;
                one.hear(peer, ack(term, last));
            }
        }
        one
    };
    assert!(
        one.raft.peers().contains_key(&node(4)),
        "the newcomer is a learner"
    );
    let position = one.raft.snapshot().unwrap().position;
    let effects = one.hear(4, reply);
    assert_eq!(offers(&effects), [(node(4), position)]);
    assert!(appends(&effects).iter().all(|(to, _)| *to != node(4)));
    // Silent about it for two heartbeats: the offer may be lost.
    one.wait(milliseconds(800));
    let effects = one.hear(4, heartbeat_reply(term, 0));
    assert_eq!(offers(&effects), [(node(4), position)]);
    let effects = one.hear(4, heartbeat_reply(term, 0));
    assert!(offers(&effects).is_empty(), "once in a while is enough");
    // It has it: entries go on right behind.
    let effects = one.hear(4, ack(term, position.index));
    let appends = appends(&effects);
    assert_eq!(appends[0].0, node(4));
    assert_eq!(appends[0].1.previous, position);
    assert!(!appends[0].1.entries.is_empty());
}

/// While a peer pulls a snapshot, what stands behind it is kept for it, as far as there is room: else it
/// would be behind again when it is done, for ever.
#[test]
fn what_stands_behind_a_snapshot_under_way_is_kept() {
    let mut one = leader(no_trail(), 10);
    let term = one.raft.term();
    let first = one.raft.last().index;
    one.snapshot_at(first, 0);
    let hint = raft_core::MemberHint {
        node: node(4),
        joinable: true,
    };
    one.settle(Input::Members(vec![hint]));
    for _ in 0..8 {
        one.wait(milliseconds(100));
        for peer in [2, 3] {
            one.hear(peer, heartbeat_reply(term, 0));
            let last = one.raft.last().index;
            one.hear(peer, ack(term, last));
        }
        one.hear(4, heartbeat_reply(term, 0));
    }
    let reply = conflict(term, first, Position::ZERO);
    assert_eq!(offers(&one.hear(4, reply)).len(), 1);
    for number in 0..20 {
        one.put(&format!("{number}"));
    }
    let last = one.raft.last().index;
    one.hear(2, ack(term, last));
    one.hear(3, ack(term, last));
    one.hear(4, heartbeat_reply(term, 0));
    one.snapshot_at(last, 0);
    assert_eq!(one.raft.base().index, first, "kept for the one that pulls");
    let effects = one.hear(4, ack(term, first));
    assert_eq!(appends(&effects)[0].1.previous.index, first);
}

/// A follower that holds all that a snapshot covers says so, and pulls nothing.
#[test]
fn an_offer_of_what_is_here_is_acknowledged() {
    let mut one = One::new(2, &[1, 2, 3], &[1, 1, 1, 1]);
    let effects = one.hear(1, offer(1, at(3, 1)));
    assert!(pulls(&effects).is_empty());
    assert_eq!(outcome(&effects), durable(3));
    assert_eq!(one.raft.leader(), Some(node(1)), "it is a leader's word");
    let effects = one.hear(1, offer(1, at(9, 1)));
    assert_eq!(pulls(&effects), [(node(1), at(9, 1))]);
    assert_eq!(outcome(&effects), None);
}

/// W2: the log gives way whole, term and vote stay, nothing counts before the disk has followed, and
/// reports of what was under way are void.
#[test]
fn w2_an_install_is_one_switch() {
    let mut one = One::new(2, &[1, 2, 3], &[1, 1, 1]);
    one.hear(3, ask(4, VOTE, at(9, 3)));
    one.hear(1, append(5, at(3, 1), &[], 0));
    let hard = one.hard_state.clone();
    // An entry of its own is being written when the snapshot comes.
    one.hear_only(1, append(5, at(3, 1), &[5], 0));
    let late = one.write_one();
    let snapshot = meta(at(20, 5), &[1, 2, 3, 4]);
    let effects = received(&mut one, &snapshot);
    assert_eq!(one.raft.last(), at(20, 5));
    assert_eq!(
        (one.raft.durable_index(), one.raft.durable_claim()),
        (0, None)
    );
    assert_eq!(outcome(&effects), None, "nothing is durable yet");
    assert!(!installed(&effects) && committed(&effects).is_none());
    let effects = one.step(Input::Persisted(late));
    assert_eq!(
        one.raft.durable_index(),
        0,
        "a report of before says nothing"
    );
    assert!(!installed(&effects) && outcome(&effects).is_none());
    let effects = one.sync();
    assert_eq!(outcome(&effects), durable(20));
    assert!(installed(&effects));
    assert_eq!(committed(&effects), Some(20));
    assert_eq!(one.raft.durable_claim(), Some((5, 20)));
    assert_eq!(one.hard_state, hard, "term and vote are as they were");
    assert_eq!(one.raft.hard_state(), &hard);
    assert_eq!(one.raft.configuration().1.voters, voters(&[1, 2, 3, 4]));
    assert_eq!(one.raft.cluster_id(), Some(CLUSTER));
    assert!(one.log.is_empty());
    // And goes on behind it.
    let effects = one.hear(1, append(5, at(20, 5), &[5, 5], 22));
    assert_eq!(outcome(&effects), durable(22));
    assert_eq!(committed(&effects), Some(22));
}

/// W2: a conflicting log is dropped, one that holds the snapshot's last entry stays.
#[test]
fn w2_a_log_that_holds_the_last_entry_stays() {
    let mut one = One::new(2, &[1, 2, 3], &[1, 1, 1, 1, 1]);
    one.hear(1, heartbeat(1, 0, &[]));
    let snapshot = meta(at(3, 1), &[1, 2, 3]);
    let effects = received(&mut one, &snapshot);
    assert_eq!(one.raft.last(), at(5, 1));
    assert_eq!(one.raft.commit_index(), 3);
    assert_eq!(outcome(&effects), durable(3));
    assert!(!installed(&one.sync()));

    let mut one = One::new(2, &[1, 2, 3], &[1, 1, 1, 1, 1]);
    one.hear(1, heartbeat(2, 0, &[]));
    let snapshot = meta(at(3, 2), &[1, 2, 3]);
    received(&mut one, &snapshot);
    assert!(installed(&one.sync()));
    assert_eq!(one.raft.last(), at(3, 2));
}

/// W2: one that is older than what is committed here is ignored; so is one of another cluster, of a term
/// that nobody here has seen, and any that reaches a leader.
#[test]
fn w2_stale_and_foreign_snapshots_are_ignored() {
    let mut one = leader(no_trail(), 5);
    let (before, commit) = (one.raft.last(), one.raft.commit_index());
    let snapshot = meta(at(commit + 50, one.raft.term()), &[9]);
    received(&mut one, &snapshot);
    assert_eq!(
        (one.raft.last(), one.raft.role()),
        (before, RoleName::Leader)
    );
    one.hear(2, heartbeat(before.term + 1, 0, &[]));
    let term = one.raft.term();
    let foreign = Arc::new(SnapshotMeta {
        cluster_id: ClusterId(0xbad),
        ..(*meta(at(commit + 50, term), &[9])).clone()
    });
    for snapshot in [
        meta(at(commit, before.term), &[9]),
        meta(at(commit - 2, before.term), &[9]),
        meta(at(commit + 50, term + 1), &[9]),
        foreign,
    ] {
        let effects = received(&mut one, &snapshot);
        assert!(!effects.iter().any(|e| matches!(e, Effect::Persist(_))));
        assert_eq!(one.raft.last(), before, "{snapshot:?}");
    }
}

/// A follower whose log is cut off hears an AppendEntries that begins before the cut: what the snapshot
/// covers is the same in the leader's log; what contradicts it is no leader's.
#[test]
fn an_append_that_begins_before_the_base() {
    let mut one = One::new(2, &[1, 2, 3], &[1]);
    one.hear(1, heartbeat(3, 0, &[]));
    let snapshot = meta(at(10, 2), &[1, 2, 3]);
    received(&mut one, &snapshot);
    one.sync();
    let effects = one.hear(1, append(3, at(8, 2), &[2, 2, 3, 3], 12));
    assert_eq!(outcome(&effects), durable(12));
    assert_eq!(committed(&effects), Some(12));
    assert_eq!(one.raft.last(), at(12, 3));
    let effects = one.hear(1, append(3, at(4, 1), &[1, 2], 12));
    assert!(matches!(outcome(&effects), Some(AppendOutcome::Durable { index }) if index >= 6));
    let effects = one.hear(1, append(3, at(8, 2), &[2, 3, 3], 12));
    let nonsense = |e: &Effect| matches!(e, Effect::Event(Event::Nonsense { .. }));
    assert!(
        effects.iter().any(nonsense),
        "term 3 at the base, where 2 is committed"
    );
    assert_eq!(one.raft.last(), at(12, 3));
}

/// A start from a disk that holds a snapshot: what it covers is committed, and handed out once.
#[test]
fn a_start_from_a_snapshot() {
    let mut one = leader(no_trail(), 10);
    let last = one.raft.last();
    one.snapshot_at(last.index - 2, 0);
    one.put("not committed");
    let (base, configurations) = (one.raft.base(), one.raft.configuration());
    let mut again = one.crash();
    assert_eq!(again.raft.base(), base);
    assert_eq!(again.raft.commit_index(), base.index);
    assert_eq!(again.raft.configuration(), configurations);
    assert_eq!(again.raft.cluster_id(), Some(CLUSTER));
    assert_eq!(committed(&again.step(Input::Tick)), Some(base.index));
    assert!(again.raft.has_entries());
    again.elect();
    again.all_ack();
    assert_eq!(again.raft.commit_index(), again.raft.last().index);
}

/// §6: a configuration that is behind the snapshot rolls back on truncation to the one that the snapshot
/// holds.
#[test]
fn a_configuration_rolls_back_to_the_snapshot_s() {
    let mut one = One::new(2, &[1, 2, 3], &[1]);
    one.hear(1, heartbeat(2, 0, &[]));
    let snapshot = meta(at(10, 2), &[1, 2, 3]);
    received(&mut one, &snapshot);
    one.sync();
    let entry = Entry {
        index: 11,
        term: 2,
        log_time_ms: 0,
        payload: Payload::Configuration(configuration(&[1, 2, 3, 4, 5]).into()),
    };
    let joint = raft_core::message::AppendEntries {
        term: 2,
        previous: at(10, 2),
        entries: vec![entry],
        commit_index: 10,
    };
    one.hear(1, Message::AppendEntries(joint));
    assert_eq!(one.raft.configuration().1.voters.len(), 5);
    one.hear(3, append(3, at(10, 2), &[3], 10));
    assert_eq!(one.raft.configuration().1.voters, voters(&[1, 2, 3]));
    assert_eq!(one.raft.last(), at(11, 3));
}

/// W2: the disk takes up one snapshot after the other. A newer one that is fetched meanwhile would take the
/// place of the file that the write under way still needs.
#[test]
fn w2_no_other_snapshot_is_fetched_while_one_is_installed() {
    let mut one = One::new(2, &[1, 2, 3], &[1, 1, 1]);
    one.hear(1, offer(1, at(9, 1)));
    received(&mut one, &meta(at(9, 1), &[1, 2, 3]));
    let effects = one.hear_only(1, offer(1, at(20, 1)));
    assert_eq!(pulls(&effects), []);
    one.sync();
    let effects = one.hear(1, offer(1, at(20, 1)));
    assert_eq!(pulls(&effects), [(node(1), at(20, 1))]);
}

/// W2: whoever offers one thing and hands over another is not obeyed: what stands here up to where it is
/// known to be the leader's stays, and nothing that is said later trips over it.
#[test]
fn w2_a_snapshot_that_contradicts_what_is_settled() {
    let mut one = One::new(2, &[1, 2, 3], &[1; 5]);
    one.hear(1, append(2, at(5, 1), &[2; 5], 0));
    assert_eq!(pulls(&one.hear(1, offer(2, at(7, 1)))).len(), 1);
    let snapshot = meta(at(7, 1), &[1, 2, 3]);
    received(&mut one, &snapshot);
    one.sync();
    assert_eq!(one.raft.last(), at(10, 2));
    one.hear(1, heartbeat(2, 9, &[]));
    assert_eq!(one.raft.commit_index(), 9);
}

/// §5.1: a snapshot of a later term may be complete when the process ends. Terms never fall.
#[test]
fn a_start_from_a_snapshot_of_a_later_term() {
    let mut one = One::new(2, &[1, 2, 3], &[1, 1]);
    one.snapshot = Some(meta(at(9, 5), &[1, 2, 3]));
    one.cut = at(9, 5);
    one.log.clear();
    let mut again = one.crash();
    assert_eq!(again.raft.term(), 5);
    again.elect();
    assert_eq!(again.raft.last(), at(10, 6));
}
