//! Whether replicas that applied the same entries came to the same (P4).

use std::collections::BTreeMap;

use crate::configuration::Configuration;
use crate::ids::NodeId;

/// What the nodes' outcome chains as of one index come to ([`crate::sessions::Chain`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Agreement {
    /// A majority of the voters (of both configurations, while one gives way to another) has this hash. Who
    /// has another one went astray.
    Agreed(u64),
    /// Hashes differ, and none can have a majority whatever those who have not answered will say: nobody
    /// can be told to be wrong.
    Torn,
    /// Too few have said anything, or nobody differs yet.
    Open,
}

impl Agreement {
    /// `said`: by each node that knows its hash at that index.
    pub fn of(configuration: &Configuration, said: &BTreeMap<NodeId, u64>) -> Agreement {
        let halves = || {
            let halves = [&configuration.voters, &configuration.outgoing];
            halves.into_iter().filter(|half| !half.is_empty())
        };
        let count = |hash: Option<u64>| {
            halves()
                .map(|half| {
                    let said = half.iter().map(|voter| said.get(voter).copied());
                    (said.filter(|said| *said == hash).count(), half.len())
                })
                .collect::<Vec<_>>()
        };
        let silent = count(None);
        let mut possible = silent.iter().all(|(silent, voters)| silent * 2 > *voters);
        let mut hashes: Vec<u64> = said.values().copied().collect();
        hashes.sort_unstable();
        hashes.dedup();
        for hash in &hashes {
            let votes = count(Some(*hash));
            let decides = |votes: usize, voters| votes * 2 > voters || mutant!(P4MinorityDecides);
            if votes.iter().all(|(votes, voters)| decides(*votes, *voters)) {
                return Agreement::Agreed(*hash);
            }
            possible |= votes
                .iter()
                .zip(&silent)
                .all(|((votes, voters), (silent, _))| (votes + silent) * 2 > *voters);
        }
        if possible || hashes.len() < 2 {
            Agreement::Open
        } else {
            Agreement::Torn
        }
    }
}
