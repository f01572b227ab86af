//! What the simulator is known not to notice, and why. Each line is an open defect of the simulator, or
//! says which other check holds the rule.

use raft_core::mutants::Mutant;

/// Why this mutant survives, if that is known.
pub fn why(mutant: Mutant) -> Option<&'static str> {
    KNOWN
        .iter()
        .find(|(known, _)| *known == mutant)
        .map(|(_, why)| *why)
}

const KNOWN: &[(Mutant, &str)] = &[
    (
        Mutant::M4NoBudget,
        "an hour's budget that is used up would only make each end wait for the next hour: \
         m4_automatic_changes_have_a_budget, of the core, fails under it",
    ),
    (
        Mutant::F4BoundAnew,
        "no simulated node is asked to bind a second cluster, since none would let it in: \
         it_is_made_once_and_kept, of raft-disk, fails under it",
    ),
    (
        Mutant::D3AnySegment,
        "the simulated disk never hands out blocks that were used before: \
         old_records_in_a_reused_segment_do_not_count and a_sound_batch_in_the_wrong_place_is_none, of \
         raft-disk, fail under it",
    ),
    (
        Mutant::D3TailKept,
        "it takes a second cut at the very place of the first: what_was_dropped_stays_dropped, of raft-disk, \
         fails under it",
    ),
    (
        Mutant::D6VoteForgotten,
        "noticed by too few seeds to count on: a_vote_outlives_the_repair and a_vote_outlives_the_damage_to_its_record, of raft-disk, fail under it",
    ),
    (
        Mutant::P1AnyOrder,
        "the node never leaves a gap in what it sends: a_gap_is_refused_whole, of the state machine's kit, \
         fails under it",
    ),
    (
        Mutant::P2AheadIsTaken,
        "the node compares the terms at that height too, and finds none in its log: \
         p2_a_state_beyond_the_log_is_not_taken, of the core, fails under it",
    ),
    (
        Mutant::P4MinorityDecides,
        "no simulated state machine goes another way than the others: p4_a_majority_of_the_voters_decides, \
         of the core, fails under it",
    ),
];
