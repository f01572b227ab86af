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

const KNOWN: &[(Mutant, &str)] = &[];
