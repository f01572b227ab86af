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

const KNOWN: &[(Mutant, &str)] = &[(
    Mutant::M4NoBudget,
    "an hour's budget that is used up would only make each end wait for the next hour: \
     m4_automatic_changes_have_a_budget, of the core, fails under it",
)];
