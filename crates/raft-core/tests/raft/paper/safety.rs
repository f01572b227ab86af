//! What keeps committed entries safe: §5.4.

use raft_core::message::*;
use raft_core::*;

use crate::one::*;

/// §5.4.1: a vote only for a log that is at least as up-to-date: the later last term, then the
/// longer log. A pre-vote by the same rule.
#[test]
fn a_voter_compares_the_logs() {
    let cases: &[(&[Term], Position, bool)] = &[
        (&[1], at(1, 1), true),
        (&[1], at(2, 1), true),
        (&[1], at(1, 2), true),
        (&[1, 1], at(1, 1), false),
        (&[1, 1], at(1, 2), true),
        (&[1, 2], at(9, 1), false),
        (&[1, 2], at(2, 2), true),
        (&[1, 2, 2], at(2, 2), false),
        (&[1, 2, 2], at(2, 3), true),
    ];
    for (terms, last, expected) in cases {
        for kind in [PRE_VOTE, VOTE] {
            let mut one = One::new(1, &[1, 2, 3], terms);
            let answer = granted(&one.hear(2, ask(9, kind, *last)));
            assert_eq!(answer, Some(*expected), "{terms:?} asked with {last:?}");
        }
    }
}

/// §5.4.2: only entries of the leader's own term are committed by counting copies.
#[test]
fn only_the_present_term_is_committed_by_counting() {
    let mut one = One::new(1, &[1, 2, 3], &[1, 1, 2]);
    one.elect();
    let term = one.raft.term();
    for index in 1..=3 {
        one.hear(2, ack(term, index));
        one.hear(3, ack(term, index));
        assert_eq!(one.raft.commit_index(), 0);
    }
    one.hear(3, ack(term, 4));
    assert_eq!(one.raft.commit_index(), 4);
}

/// Figure 8: entry 2 of term 2 is on a majority in term 4 and still gets overwritten in (d); once
/// an entry of term 4 is, as in (e), S5 cannot win any more.
#[test]
fn figure_8() {
    let all = [1, 2, 3, 4, 5];
    // (c): S1 leads term 4 and copies entry 2 to S3; S2 has it since term 2.
    let mut s1 = One::new(1, &all, &[1, 2]);
    s1.hear(5, Message::HigherTerm { term: 3 });
    s1.elect();
    assert_eq!(s1.raft.term(), 4);
    s1.hear(2, ack(4, 2));
    s1.hear(3, ack(4, 2));
    assert_eq!(
        s1.raft.commit_index(),
        0,
        "on three of five, and not committed"
    );
    // (d): S3 votes for S5, whose last term is 3, and loses entry 2 to it.
    let mut s3 = One::new(3, &all, &[1, 2]);
    s3.hear(1, Message::HigherTerm { term: 4 });
    assert_eq!(granted(&s3.hear(5, ask(5, VOTE, at(2, 3)))), Some(true));
    s3.hear(5, append(5, at(1, 1), &[3], 0));
    assert_eq!(s3.terms(), [1, 3]);
    // (e): with S1's entry of term 4 on a majority, it is committed, and S5 gets no vote there.
    s1.hear(2, ack(4, 3));
    s1.hear(3, ack(4, 3));
    assert_eq!(s1.raft.commit_index(), 3);
    let mut s3 = One::new(3, &all, &[1, 2, 4]);
    assert_eq!(granted(&s3.hear(5, ask(5, VOTE, at(2, 3)))), Some(false));
}
