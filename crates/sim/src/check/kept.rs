//! What a node had stored before a crash is there after it (figure 2, D7).

use raft_core::{Entry, HardState, NodeId, Raft};

use super::ledger::Mirror;
use super::{Wrong, wrong};

/// The disk holds `now` at a start, and held `before` at last. In doubt, a truncation that nobody heard of may
/// have happened: then only term and vote are compared.
pub(super) fn on_disk(
    id: NodeId,
    before: &Mirror,
    now: &Mirror,
    in_doubt: bool,
) -> Result<(), Wrong> {
    remembers(id, &before.hard_state, &now.hard_state)?;
    let last = before.last();
    let kept = last.index <= now.base.index || now.term_at(last.index) == Some(last.term);
    // A snapshot may be whole and in its place though the disk failed behind it: the log that it contradicts
    // gives way when the node starts (W2).
    let replaced = now.base.index > before.base.index
        && before
            .term_at(now.base.index)
            .is_some_and(|term| term < now.base.term);
    if !kept && !replaced && !in_doubt {
        let what = format!(
            "{id} had stored {last:?}, and its log ends at {:?}",
            now.last()
        );
        return wrong("promises-are-kept", what);
    }
    Ok(())
}

/// The log that held `before` was damaged, and was repaired (D6). Term and vote stand behind the damage as well.
/// Entries may have given way, but none that is
/// committed.
pub(super) fn through_repair<'a>(
    id: NodeId,
    before: &Mirror,
    now: &Mirror,
    committed: impl Iterator<Item = &'a Entry>,
) -> Result<(), Wrong> {
    remembers(id, &before.hard_state, &now.hard_state)?;
    for entry in committed {
        let had = before.term_at(entry.index) == Some(entry.term);
        let has = entry.index <= now.base.index || now.term_at(entry.index) == Some(entry.term);
        if had && !has {
            let what = format!(
                "{id} had {:?}, which is committed, and lost it",
                entry.position()
            );
            return wrong("repair", what);
        }
    }
    Ok(())
}

/// The node that has started goes by what its disk holds.
pub(super) fn in_mind(id: NodeId, raft: &Raft, disk: &HardState) -> Result<(), Wrong> {
    remembers(id, disk, raft.hard_state())
}

fn remembers(id: NodeId, before: &HardState, now: &HardState) -> Result<(), Wrong> {
    let same_term = before.current_term == now.current_term;
    let forgets_vote = same_term && before.voted_for.is_some() && now.voted_for != before.voted_for;
    let forgets_peer = before.peers.iter().any(|(peer, (boot, term))| {
        now.peers
            .get(peer)
            .is_none_or(|known| known.0 < *boot || known.1 < *term)
    });
    if before.current_term > now.current_term || forgets_vote || forgets_peer {
        let what = format!("{id} had stored {before:?}, and starts with {now:?}");
        return wrong("promises-are-kept", what);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use raft_core::Position;

    use super::*;

    fn mirror(current_term: u64, voted_for: Option<NodeId>, terms: &[u64]) -> Mirror {
        Mirror {
            hard_state: HardState {
                current_term,
                voted_for,
                ..HardState::default()
            },
            base: Position { index: 2, term: 1 },
            terms: terms.to_vec(),
        }
    }

    #[test]
    fn what_is_lost_is_noticed() {
        let id = NodeId(1);
        let before = mirror(5, Some(id), &[1, 4]);
        let kept = [
            mirror(5, Some(id), &[1, 4]),
            mirror(5, Some(id), &[1, 4, 5]),
            mirror(6, None, &[1, 4]),
        ];
        for now in kept {
            assert!(on_disk(id, &before, &now, false).is_ok(), "{now:?}");
        }
        let lost = [
            mirror(4, Some(id), &[1, 4]),
            mirror(5, None, &[1, 4]),
            mirror(5, Some(NodeId(2)), &[1, 4]),
            mirror(5, Some(id), &[1]),
            mirror(5, Some(id), &[1, 5]),
        ];
        for now in lost {
            assert!(on_disk(id, &before, &now, false).is_err(), "{now:?}");
        }
        let snapshot = |term| Mirror {
            base: Position { index: 3, term },
            ..mirror(5, Some(id), &[])
        };
        assert!(on_disk(id, &before, &snapshot(2), false).is_ok());
        assert!(on_disk(id, &before, &snapshot(1), false).is_err());
        assert!(on_disk(id, &before, &mirror(5, Some(id), &[1]), true).is_ok());
        assert!(on_disk(id, &before, &mirror(5, None, &[1, 4]), true).is_err());
    }
}
