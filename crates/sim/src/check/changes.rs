//! Changes of the configuration, by the rules: what is committed follows from what was committed before.

use std::collections::BTreeSet;
use std::sync::Arc;

use raft_core::{Configuration, Index, NodeId, Raft, RoleName};

use super::{Wrong, wrong};
use crate::world::Micros;

/// M1: voters do not become fewer again. No run has another limit.
const MIN_VOTERS: usize = 3;

/// M4: no run calls a voter dead earlier.
const DEAD_AT_THE_LEAST: Micros = 4_000_000;

/// `next`, committed at `index` behind `before`, is a step that the rules allow (§6; M1 to M5).
pub(super) fn follows(
    before: &Configuration,
    next: &Configuration,
    index: Index,
) -> Result<(), Wrong> {
    let ends = next.voters == before.voters
        && next.learners == before.learners
        && next.removed == before.removed;
    let replaced = next.reason.contains("replaced");
    let what = if next.voters.len().is_multiple_of(2) {
        "the number of voters is even (M2)"
    } else if before.is_joint() && (next.is_joint() || !ends) {
        "it does not end the joint one before it (M5)"
    } else if !before.is_joint() && next.voters != before.voters && next.outgoing != before.voters {
        "the voters change at once (§6)"
    } else if !before.removed.is_subset(&next.removed) {
        "it forgets who has left (M3)"
    } else if before.voters.len() >= MIN_VOTERS && next.voters.len() < MIN_VOTERS {
        "there are fewer voters than MinVoters (M1)"
    } else if replaced && next.removed != before.removed {
        "who is replaced for its silence is removed for good (M4)"
    } else {
        return Ok(());
    };
    wrong(
        "configuration",
        format!("{index}: {what}: {next:?} behind {before:?}"),
    )
}

/// The configuration in force is one of this node's log, who leads may lead by it, and who was about to end
/// (`ends`) and followed has not begun to campaign.
pub(super) fn fits(id: NodeId, raft: &Raft, ends: bool) -> Result<(), Wrong> {
    let (index, latest) = raft.configuration();
    let last = raft.last().index;
    let what = if index > last {
        format!("{id} goes by configuration {index}, and its log ends at {last}")
    } else if ends && raft.role() != RoleName::Follower {
        format!("{id} campaigns, and is about to end (M1)")
    } else if raft.role() == RoleName::Leader
        && index <= raft.commit_index()
        && !latest.is_voter(id)
    {
        format!("{id} leads, and is no voter of configuration {index} (M5)")
    } else {
        return Ok(());
    };
    wrong("configuration", what)
}

/// A leader appends a configuration when the one before it and an entry of its own term are committed (M5), and
/// makes voters of those who have acknowledged something to it (M6).
pub(super) fn may_begin(
    id: NodeId,
    raft: &Raft,
    (before, old): &(Index, Arc<Configuration>),
    (index, new): &(Index, Arc<Configuration>),
) -> Result<(), Wrong> {
    let commit_index = raft.commit_index();
    let peers = raft.peers();
    let unproven = |node: &&NodeId| {
        let peer = peers.get(node);
        **node != id && !old.is_voter(**node) && peer.is_none_or(|peer| peer.match_index == 0)
    };
    let what = if *index == 1 {
        return Ok(()); // The founding.
    } else if *before > commit_index {
        format!("while {before} is not committed (M5)")
    } else if raft.term_at(commit_index) != Some(raft.term()) {
        "before an entry of its term is committed (M5)".to_owned()
    } else if let Some(node) = new.voters.iter().find(unproven) {
        format!("and {node} is to vote, and has acknowledged nothing (M6)")
    } else {
        return Ok(());
    };
    wrong(
        "configuration",
        format!("{id} appends configuration {index}, {what}"),
    )
}

/// A change waits for a majority of the voters before and behind it, of those whom the leader was told of
/// (`hears`); and whoever is replaced has been silent for long (M4). `now` is what the leader's clock shows.
pub(super) fn may_count(
    (id, raft): (NodeId, &Raft),
    now: Micros,
    hears: impl Fn(NodeId) -> bool,
    old: &Configuration,
    (index, new): &(Index, Arc<Configuration>),
) -> Result<(), Wrong> {
    // The founder alone has nobody to ask, and a joint configuration is ended whoever answers.
    if *index == 1 || old.is_joint() {
        return Ok(());
    }
    let peers = raft.peers();
    let silence = |node: &NodeId| {
        let peer = peers.get(node);
        peer.map_or(Micros::MAX, |peer| now.saturating_sub(peer.last_contact.0))
    };
    let majority = |voters: &BTreeSet<NodeId>| {
        let heard = voters.iter().filter(|node| **node == id || hears(**node));
        heard.count() * 2 > voters.len()
    };
    let replaced = new.reason.contains("replaced");
    let hasty = old
        .voters
        .difference(&new.voters)
        .find(|node| replaced && silence(node) < DEAD_AT_THE_LEAST);
    let what = if !majority(&old.voters) || !majority(&new.voters) {
        "and no majority answers (M4)".to_owned()
    } else if let Some(node) = hasty {
        format!(
            "and {node} is replaced, silent for {} us (M4)",
            silence(node)
        )
    } else {
        return Ok(());
    };
    wrong(
        "configuration",
        format!("{id} appends configuration {index} behind {old:?}, {what}: {new:?}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(voters: &[u128]) -> Configuration {
        Configuration {
            voters: voters.iter().copied().map(NodeId).collect(),
            grown: true,
            ..Configuration::default()
        }
    }

    fn joint(old: &Configuration, new: &[u128]) -> Configuration {
        Configuration {
            outgoing: old.voters.clone(),
            ..of(new)
        }
    }

    #[test]
    fn a_change_by_the_rules_follows() {
        let three = of(&[1, 2, 3]);
        let five = joint(&three, &[1, 2, 3, 4, 5]);
        let steps = [
            (&three, &five),
            (&five, &of(&[1, 2, 3, 4, 5])),
            (&three, &three),
        ];
        for (before, next) in steps {
            assert!(follows(before, next, 9).is_ok(), "{before:?} {next:?}");
        }
    }

    #[test]
    fn every_other_change_is_noticed() {
        let three = of(&[1, 2, 3]);
        let five = joint(&three, &[1, 2, 3, 4, 5]);
        let left = Configuration {
            removed: BTreeSet::from([NodeId(9)]),
            ..three.clone()
        };
        let replaced = Configuration {
            removed: BTreeSet::from([NodeId(3)]),
            reason: "1 silent voter(s) replaced".to_owned(),
            ..joint(&three, &[1, 2, 4])
        };
        let steps = [
            (&three, &joint(&three, &[1, 2, 3, 4])),
            (&five, &joint(&three, &[1, 2, 3])),
            (&five, &of(&[1, 2, 3])),
            (&three, &of(&[1, 2, 3, 4, 5])),
            (&left, &three),
            (&three, &joint(&three, &[1])),
            (&three, &replaced),
        ];
        for (before, next) in steps {
            assert!(follows(before, next, 9).is_err(), "{before:?} {next:?}");
        }
    }

    #[test]
    fn a_change_waits_for_who_answers() {
        let (id, now) = (NodeId(1), raft_core::Time(1));
        let raft = Raft::new(id, 1, Default::default(), Default::default(), now, 1);
        let five = of(&[1, 2, 3, 4, 5]);
        let next = (9, Arc::new(joint(&five, &[1, 4, 5])));
        for (heard, held) in [([2, 3], false), ([2, 4], true), ([4, 9], false)] {
            let hears = |node| heard.map(NodeId).contains(&node);
            let begun = may_count((id, &raft), 1, hears, &five, &next);
            assert_eq!(begun.is_ok(), held, "{heard:?}");
        }
    }
}
