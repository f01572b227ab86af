//! F1, F2 and F4: how a cluster begins, and gives way.

use raft_core::message::*;
use raft_core::*;

use crate::one::*;

fn founder() -> One {
    let mut one = One::with(1, Configuration::default(), &[], Options::default());
    one.settle(Input::Found {
        cluster_id: ClusterId(7),
        alone: false,
    });
    assert_eq!(one.raft.role(), RoleName::Leader);
    one
}

/// F1: entries are taken from the moment that a second node has entered the configuration.
#[test]
fn f1_a_founder_alone_takes_no_entries() {
    let mut one = founder();
    assert_eq!(refused(&one.put("x")), Some(Refusal::Founding));
    one.settle(Input::Members(vec![MemberHint {
        node: node(2),
        joinable: true,
    }]));
    one.wait(milliseconds(400));
    assert_eq!(refused(&one.put("x")), None);
    let mut alone = One::with(1, Configuration::default(), &[], Options::default());
    alone.settle(Input::Found {
        cluster_id: ClusterId(7),
        alone: true,
    });
    assert_eq!(refused(&alone.put("x")), None);
}

/// F1: who has a log founds nothing.
#[test]
fn f1_founding_needs_an_empty_log() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    let effects = one.settle(Input::Found {
        cluster_id: ClusterId(7),
        alone: true,
    });
    assert_eq!((effects.len(), one.raft.cluster_id()), (0, None));
}

/// F2: giving way is a log entry, after which nothing is accepted, by no later leader either.
#[test]
fn f2_nothing_is_accepted_after_a_dissolve() {
    let mut one = founder();
    let effects = one.settle(Input::GiveWay);
    assert!(
        effects.contains(&Effect::Retired),
        "it is committed: {effects:?}"
    );
    assert_eq!(one.log.last().unwrap().payload, Payload::Dissolve);
    assert_eq!(refused(&one.put("x")), Some(Refusal::Dissolved));
    let before = one.raft.last();
    one.settle(Input::Members(vec![MemberHint {
        node: node(2),
        joinable: true,
    }]));
    one.wait(SECOND * 2);
    assert_eq!(one.raft.last(), before, "no membership either");
}

/// F2: it is legal only if no client or membership entry precedes it, committed or not.
#[test]
fn f2_a_cluster_with_content_does_not_give_way() {
    let mut one = founder();
    one.step(Input::Members(vec![MemberHint {
        node: node(2),
        joinable: true,
    }]));
    let before = one.raft.last();
    one.settle(Input::GiveWay);
    assert_eq!(one.raft.last(), before, "a membership entry");
    let mut alone = One::with(1, Configuration::default(), &[], Options::default());
    alone.settle(Input::Found {
        cluster_id: ClusterId(7),
        alone: true,
    });
    alone.step(put(1, "x"));
    let before = alone.raft.last();
    alone.settle(Input::GiveWay);
    assert_eq!(
        alone.raft.last(),
        before,
        "a client's entry, still being written"
    );
}

/// F4: a founding entry, once in the log, is never exchanged for another cluster's.
#[test]
fn f4_a_founding_entry_is_never_replaced() {
    let founding = |cluster| Payload::Founding {
        cluster_id: ClusterId(cluster),
        founder: node(2),
        alone: false,
    };
    let message = |term, payload| {
        let entries = vec![Entry {
            index: 1,
            term,
            log_time_ms: 0,
            payload,
        }];
        let previous = Position::ZERO;
        Message::AppendEntries(AppendEntries {
            term,
            previous,
            entries,
            commit_index: 0,
        })
    };
    let mut one = One::with(1, Configuration::default(), &[], Options::default());
    one.hear(2, message(1, founding(7)));
    assert_eq!(one.raft.cluster_id(), Some(ClusterId(7)));
    one.hear(3, message(5, founding(8)));
    assert_eq!(one.raft.cluster_id(), Some(ClusterId(7)));
}
