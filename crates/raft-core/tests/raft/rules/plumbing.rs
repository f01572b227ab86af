//! W1 and W3, and the bounds of what waits.

use raft_core::message::*;
use raft_core::*;

use crate::one::*;

/// W1: the same index may come to hold another entry, so an acceptance names index and term.
#[test]
fn w1_an_acceptance_names_index_and_term() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let old = one.raft.term();
    let effects = one.put("lost");
    let accepted = effects.iter().find_map(|effect| match effect {
        Effect::Accepted { position, .. } => Some(*position),
        _ => None,
    });
    let accepted = accepted.unwrap();
    let before = at(accepted.index - 1, old);
    let effects = one.hear(2, append(old + 1, before, &[old + 1], accepted.index));
    assert!(
        effects.contains(&Effect::SteppedDown),
        "what waits is unknown from here on"
    );
    assert_eq!(committed(&effects), Some(accepted.index));
    assert_ne!(one.raft.term_at(accepted.index), Some(accepted.term));
}

/// W3: every word of a valid term refreshes the timer, a refused append too.
#[test]
fn w3_a_refused_append_refreshes_the_timer() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    one.hear(2, heartbeat(1, 0, &[]));
    for _ in 0..10 {
        let effects = one.wait(milliseconds(700));
        assert_eq!(vote_requests(&effects), []);
        let refused = outcome(&one.hear(2, append(1, at(50, 1), &[1], 0)));
        assert!(matches!(refused, Some(AppendOutcome::Conflict { .. })));
    }
}

/// W3: heartbeats do not ride on the bulk stream.
#[test]
fn w3_heartbeats_are_no_bulk() {
    assert!(append(1, at(1, 1), &[], 0).is_bulk());
    assert!(!heartbeat(1, 0, &[]).is_bulk());
    let message = Heartbeat {
        term: 1,
        boot: 1,
        commit_index: 0,
        round: 0,
        succession: Vec::new(),
    };
    assert_eq!(heartbeat(1, 0, &[]), Message::Heartbeat(message));
}

/// Bounds: entries that no majority confirms are refused at a limit, and taken again after it.
#[test]
fn too_many_uncommitted_entries_are_refused() {
    let options = Options {
        max_uncommitted_entries: 10,
        ..Options::default()
    };
    let mut one = One::with(1, configuration(&[1, 2, 3]), &[1], options);
    one.elect();
    one.all_ack();
    let taken = (0..20).filter(|_| refused(&one.put("x")).is_none()).count();
    assert_eq!(taken, 10);
    assert_eq!(refused(&one.put("x")), Some(Refusal::Overloaded));
    one.all_ack();
    one.settle(Input::Applied {
        index: one.raft.commit_index(),
    });
    assert_eq!(refused(&one.put("x")), None);
    let many = vec![(); 3].into_iter().map(|()| command("y"));
    let proposals = many
        .zip(1..)
        .map(|(payload, request)| Proposal { request, payload });
    let effects = one.settle(Input::PutEntries(proposals.collect()));
    let writes = effects
        .iter()
        .filter(|e| matches!(e, Effect::Persist(_)))
        .count();
    assert_eq!(
        (writes, appends(&effects).len()),
        (1, 2),
        "one batch: one write, one message each"
    );
    assert!(
        !effects
            .iter()
            .any(|e| matches!(e, Effect::Event(Event::Nonsense { .. })))
    );
}
