//! D6: a log that is damaged in its middle.

use raft_core::repair::{Answer, Known, Lost, Repair, Step};
use raft_core::*;

use crate::one::*;

/// A log of these terms that lacks the entries from `first` to `last`.
fn lost(terms: &[Term], first: Index, last: Index) -> Lost {
    let position = |index: Index| at(index, terms[index as usize - 1]);
    let mut runs: Vec<(Index, Term)> = Vec::new();
    for (index, term) in (1..first).zip(terms) {
        if runs.last().is_none_or(|(_, before)| before != term) {
            runs.push((index, *term));
        }
    }
    Lost {
        known: Known {
            base: Position::ZERO,
            terms: runs,
            last: first - 1,
        },
        last,
        anchor: position(last),
    }
}

/// What a node answers from memory, a few entries at a time.
fn answer_of(peer: &One, repair: &Repair) -> Answer {
    let question = repair.question();
    let from = question.previous.index + 1;
    let mut entries = peer
        .raft
        .entries(from, question.anchor.index, usize::MAX)
        .unwrap_or_default();
    entries.truncate(2);
    peer.raft.answer(&question, entries)
}

fn asked(lost: &Lost, peer: &One) -> Step {
    let mut repair = Repair::new(lost.clone());
    for _ in 0..50 {
        let answer = answer_of(peer, &repair);
        match repair.take(answer) {
            Step::Ask => {}
            done => return done,
        }
    }
    panic!("no end of questions")
}

fn terms_of(entries: &[Entry]) -> Vec<Term> {
    entries.iter().map(|entry| entry.term).collect()
}

/// The rule's schedule: 4 and 5 are committed on nodes 1 and 2, node 2's log is damaged there, node 1 is
/// gone, and node 3, which lacks them, asks for votes. What is left of node 2's log would vote for it. So
/// there is no node 2 until it has them back; node 3 cannot give them, and what node 1 gives refuses it.
#[test]
fn d6_a_shortened_log_never_votes() {
    let candidate = ask(2, VOTE, at(3, 1));
    let votes_for = |terms: &[Term]| {
        let mut voter = One::new(2, &[1, 2, 3], terms);
        voter.wait(Options::default().elect_timeout_min);
        let effects = voter.hear(3, candidate.clone());
        granted(&effects).unwrap()
    };
    assert!(votes_for(&[1, 1, 1]), "the danger is real");
    let damaged = lost(&[1, 1, 1, 1, 1], 4, 5);
    let third = One::new(3, &[1, 2, 3], &[1, 1, 1]);
    assert!(matches!(asked(&damaged, &third), Step::Useless(_)));
    let first = One::new(1, &[1, 2, 3], &[1, 1, 1, 1, 1, 1]);
    let Step::Mend { joint, entries } = asked(&damaged, &first) else {
        panic!("it holds the anchor")
    };
    assert_eq!((joint, terms_of(&entries)), (at(3, 1), vec![1, 1]));
    assert!(!votes_for(&[1, 1, 1, 1, 1]));
}

/// Only a log with the anchor in it is the same before it. One that has other entries there, of the same
/// place, gives none; nor does it count that it has them, as long as they are not committed.
#[test]
fn d6_only_entries_of_the_same_log_are_taken() {
    let damaged = lost(&[1, 1, 2, 2, 2], 3, 5);
    let others: [&[Term]; 3] = [&[1, 1, 1, 1, 1, 1], &[1, 1, 3, 3, 3, 3], &[1, 1, 2]];
    for terms in others {
        let other = One::new(1, &[1, 2, 3], terms);
        assert_eq!(other.raft.commit_index(), 0);
        let step = asked(&damaged, &other);
        assert!(matches!(step, Step::Useless(_)), "{terms:?}: {step:?}");
    }
}

/// Committed entries that cannot be in the damaged log show that what was lost never was committed. They
/// come with what is committed before them: it may be what this node had acknowledged.
#[test]
fn d6_what_was_never_committed_gives_way_to_what_was() {
    let damaged = lost(&[1, 1, 2, 2, 2], 3, 5);
    let mut leader = One::new(1, &[1, 2, 3], &[1, 1, 2]);
    leader.elect();
    leader.all_ack();
    assert_eq!(
        (leader.raft.commit_index(), leader.raft.last()),
        (4, at(4, 3))
    );
    let step = asked(&damaged, &leader);
    let Step::GiveUp { joint, entries } = step else {
        panic!("{step:?}")
    };
    assert_eq!((joint, terms_of(&entries)), (at(2, 1), vec![2, 3]));
    // As long as it is not committed, it says nothing.
    let mut leader = One::new(1, &[1, 2, 3], &[1, 1, 2]);
    leader.elect();
    let step = asked(&damaged, &leader);
    assert!(matches!(step, Step::Useless(_)), "{step:?}");
}

/// A truncation was lost as well: the intact beginning is stale at its end, and the peer says from where on.
#[test]
fn d6_a_stale_end_before_the_damage_is_found() {
    let mut damaged = lost(&[1, 1, 2, 2, 2, 3], 6, 6);
    damaged.last = 5;
    damaged.anchor = at(5, 4);
    let peer = One::new(1, &[1, 2, 3], &[1, 1, 4, 4, 4]);
    let Step::Mend { joint, entries } = asked(&damaged, &peer) else {
        panic!("it holds the anchor")
    };
    assert_eq!((joint, terms_of(&entries)), (at(2, 1), vec![4, 4, 4]));
}

/// A peer whose log begins behind a snapshot joins at its base, if that is known here; else it cannot help.
#[test]
fn d6_a_peer_that_has_cut_off_its_log_helps_as_far_as_it_goes() {
    let sound = Answer {
        base: at(2, 1),
        ..Answer::default()
    };
    // A truncation may have been lost, so it began to ask further back.
    let mut damaged = lost(&[1, 1, 2, 2, 2], 4, 5);
    damaged.known.terms = vec![(1, 1)];
    damaged.known.last = 1;
    assert!(matches!(
        Repair::new(damaged.clone()).take(sound.clone()),
        Step::Useless(_)
    ));
    damaged.known.base = at(2, 1);
    damaged.known.terms = vec![(3, 3)];
    damaged.known.last = 3;
    let mut repair = Repair::new(damaged);
    assert_eq!(repair.question().previous, at(3, 3));
    let refused = Answer {
        hint: at(2, 1),
        ..sound.clone()
    };
    assert_eq!(repair.take(refused), Step::Ask);
    assert_eq!(repair.question().previous, at(2, 1));
    let answer = Answer {
        holds_anchor: true,
        holds_previous: true,
        entries: entries(at(2, 1), &[2, 2, 2]),
        ..sound
    };
    let Step::Mend { joint, entries } = repair.take(answer) else {
        panic!("it holds what is missing")
    };
    assert_eq!((joint, terms_of(&entries)), (at(2, 1), vec![2, 2, 2]));
}

/// Whatever a peer says, it is an answer or it is useless.
#[test]
fn d6_nonsense_is_useless() {
    let damaged = lost(&[1, 1, 2, 2, 2], 3, 5);
    let sound = Answer {
        holds_anchor: true,
        holds_previous: true,
        entries: entries(at(2, 1), &[2, 2]),
        ..Answer::default()
    };
    let gaps = Answer {
        entries: entries(at(3, 2), &[2]),
        ..sound.clone()
    };
    let falling = Answer {
        entries: entries(at(2, 1), &[2, 1]),
        ..sound.clone()
    };
    let nothing = Answer {
        entries: Vec::new(),
        ..sound.clone()
    };
    let behind = Answer {
        base: at(Index::MAX, 9),
        ..sound.clone()
    };
    let contradiction = Answer {
        holds_previous: false,
        hint: at(Index::MAX, Term::MAX),
        ..sound.clone()
    };
    for answer in [gaps, falling, nothing, behind] {
        let mut repair = Repair::new(damaged.clone());
        let step = repair.take(answer.clone());
        assert!(matches!(step, Step::Useless(_)), "{answer:?}: {step:?}");
    }
    // It holds the anchor, it says, and others in its place.
    let not_there = Answer {
        entries: entries(at(2, 1), &[2, 2, 3]),
        ..sound.clone()
    };
    let step = Repair::new(damaged.clone()).take(not_there);
    assert!(matches!(step, Step::Useless(_)), "{step:?}");
    let mut stale = damaged.clone();
    (stale.known.terms, stale.known.last) = (vec![(1, 1)], 5);
    let step = Repair::new(stale).take(sound);
    assert!(matches!(step, Step::Useless(_)), "{step:?}");
    // It leads further and further back, and ends.
    let mut repair = Repair::new(damaged);
    let steps = (0..9).map(|_| repair.take(contradiction.clone()));
    assert!(
        steps
            .into_iter()
            .any(|step| matches!(step, Step::Useless(_)))
    );
}
