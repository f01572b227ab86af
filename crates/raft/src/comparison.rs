//! Whether the replicas' state machines go the same way (P4).
//!
//! Each node chains what came of every entry into a hash of 64 bits, as part of its session table, and
//! keeps the newest of them by index ([`Chains`]). The leader asks every voter and learner now and then for
//! the hash as of one index. If a majority of the voters agrees, a node with another one is told, looks at
//! its own once more, and is quarantined: its state machine gets no entries and answers no queries any
//! more, while the node goes on voting and replicating. Without a majority there is an alarm, and nothing
//! else: nobody can say who is right.
//!
//! A difference means a state machine whose outcomes depend on something other than the entries, or a
//! state that was damaged. It is found by what is answered, not by looking into the state.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use raft_core::sessions::Chain;
use raft_core::{Agreement, Index, NodeId};
use wire::raft as pb;

use crate::limits::{COMPARE_DEADLINE, COMPARE_DELAY, COMPARE_INTERVAL, COMPARED_INDICES};
use crate::net::status_line;
use crate::peers::connect;
use crate::say;
use crate::shared::{Shared, locked};

/// Name of the alarm when nobody can say who is right.
const ALARM: &str = "outcomes-differ";

/// The newest hashes, by index, without a gap.
#[derive(Default)]
pub struct Chains(Mutex<Ring>);

#[derive(Default)]
struct Ring {
    /// Index of the first hash.
    first: Index,
    hashes: VecDeque<u64>,
}

impl Chains {
    /// The chain as of `index`, behind those that were noted before. With a gap, or with a chain that says
    /// nothing, all of them go.
    pub fn note(&self, index: Index, chain: Chain) {
        let mut ring = locked(&self.0);
        if chain.is_broken {
            ring.hashes.clear();
            return;
        }
        if ring.first + ring.hashes.len() as Index != index {
            ring.hashes.clear();
        }
        if ring.hashes.is_empty() {
            ring.first = index;
        }
        ring.hashes.push_back(chain.hash);
        if ring.hashes.len() > COMPARED_INDICES {
            ring.hashes.pop_front();
            ring.first += 1;
        }
    }

    /// The hash as of `index`, if it is still known.
    pub fn at(&self, index: Index) -> Option<u64> {
        let ring = locked(&self.0);
        let place = usize::try_from(index.checked_sub(ring.first)?).ok()?;
        ring.hashes.get(place).copied()
    }

    /// The newest index.
    fn newest(&self) -> Option<Index> {
        let ring = locked(&self.0);
        let count = ring.hashes.len() as Index;
        (count > 0).then(|| ring.first + count - 1)
    }
}

/// A peer asks what came of the entries up to an index here, and may say what a majority came to.
pub fn answer(shared: &Shared, request: &pb::CompareOutcomesRequest) -> pb::CompareOutcomesReply {
    let hash = shared.chains.at(request.index);
    if let Some(agreed) = request.agreed {
        let standing = shared.standing();
        let leader = wire::id_from_bytes("from", &request.from).ok().map(NodeId);
        if leader.is_some() && leader == standing.leader && request.term == standing.term {
            judge(shared, request.index, agreed);
        }
    }
    pb::CompareOutcomesReply { hash }
}

/// Quarantines this node, if it came to another hash than the majority.
fn judge(shared: &Shared, index: Index, agreed: u64) {
    let Some(own) = shared.chains.at(index) else {
        return;
    };
    if own == agreed || shared.quarantine.borrow().is_some() {
        return;
    }
    let sentence = format!(
        "the state machine beside this node does not go the way of the others: up to entry {index} its \
         outcomes differ from those of a majority. It gets no entries and answers no queries until this \
         node is given an empty data directory; look for what it uses besides the entries, such as clock \
         or chance"
    );
    shared.quarantine.send_replace(Some(sentence));
}

/// Compares, whenever this node leads and something was applied.
pub async fn run(shared: Arc<Shared>) {
    let mut compared = 0;
    loop {
        tokio::time::sleep(COMPARE_INTERVAL).await;
        if !shared.leads() {
            shared.alarm(ALARM, None); // Whoever leads now says what it finds.
            continue;
        }
        let Some(index) = shared.chains.newest().filter(|index| *index != compared) else {
            continue;
        };
        // The others are a little behind.
        tokio::time::sleep(COMPARE_DELAY).await;
        compared = index;
        compare(&shared, index).await;
    }
}

async fn compare(shared: &Arc<Shared>, index: Index) {
    let Some(own) = shared.chains.at(index) else {
        return;
    };
    let configuration = shared.configurations().latest;
    let mut said = ask_others(shared, &configuration.members(), index, None).await;
    said.insert(shared.id, own);
    match Agreement::of(&configuration, &said) {
        Agreement::Agreed(agreed) => {
            shared.alarm(ALARM, None);
            let astray = said.iter().filter(|(_, hash)| **hash != agreed);
            let astray: BTreeSet<NodeId> = astray.map(|(node, _)| *node).collect();
            for node in &astray {
                let name = shared.name_of(*node);
                say!(
                    warn,
                    "COMPARE",
                    "{name}: other outcomes than a majority's, up to entry {index}"
                );
            }
            ask_others(shared, &astray, index, Some(agreed)).await;
            if astray.contains(&shared.id) {
                judge(shared, index, agreed);
            }
        }
        Agreement::Torn => {
            let sentence = format!(
                "the nodes' state machines came to different outcomes up to entry {index}, and none of \
                 them has a majority: nobody can say which is right"
            );
            shared.alarm(ALARM, Some(sentence));
        }
        Agreement::Open => {}
    }
}

/// What each of `nodes` but this one says, as far as it answers in time and knows.
async fn ask_others(
    shared: &Arc<Shared>,
    nodes: &BTreeSet<NodeId>,
    index: Index,
    agreed: Option<u64>,
) -> BTreeMap<NodeId, u64> {
    let mut asked = Vec::new();
    for node in nodes.iter().copied().filter(|node| *node != shared.id) {
        let shared = shared.clone();
        let question = async move { ask(&shared, node, index, agreed).await };
        let asking = tokio::spawn(tokio::time::timeout(COMPARE_DEADLINE, question));
        asked.push((node, asking));
    }
    let mut said = BTreeMap::new();
    for (node, asking) in asked {
        match asking.await {
            Ok(Ok(Ok(Some(hash)))) => {
                said.insert(node, hash);
            }
            Ok(Ok(Err(reason))) => say!(debug, "COMPARE", "{node}: {reason}"),
            _ => {}
        }
    }
    said
}

async fn ask(
    shared: &Shared,
    node: NodeId,
    index: Index,
    agreed: Option<u64>,
) -> Result<Option<u64>, String> {
    let mut client = connect(shared, node, COMPARE_DEADLINE).await?;
    let request = pb::CompareOutcomesRequest {
        cluster_id: shared.cluster_bytes(),
        node_id: wire::id_bytes(node.0),
        from: wire::id_bytes(shared.id.0),
        term: shared.standing().term,
        index,
        agreed,
    };
    let reply = client.compare_outcomes(request).await;
    let reply = reply.map_err(|status| status_line(&status))?;
    Ok(reply.into_inner().hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(hash: u64) -> Chain {
        Chain {
            hash,
            is_broken: false,
        }
    }

    #[test]
    fn hashes_are_kept_by_index_up_to_a_limit() {
        let chains = Chains::default();
        assert_eq!(
            (chains.at(0), chains.at(1), chains.newest()),
            (None, None, None)
        );
        let last = 10 + COMPARED_INDICES as Index;
        for index in 5..=last {
            chains.note(index, chain(index * 3));
        }
        assert_eq!(chains.newest(), Some(last));
        assert_eq!(chains.at(last), Some(last * 3));
        assert_eq!(chains.at(last + 1), None);
        let first = last + 1 - COMPARED_INDICES as Index;
        assert_eq!(
            (chains.at(first - 1), chains.at(first)),
            (None, Some(first * 3))
        );
        // A snapshot took the place of the log.
        chains.note(last + 10, chain(1));
        assert_eq!((chains.at(last), chains.at(last + 10)), (None, Some(1)));
        let unknown = Chain {
            hash: 2,
            is_broken: true,
        };
        chains.note(last + 11, unknown);
        assert_eq!((chains.at(last + 10), chains.newest()), (None, None));
        chains.note(last + 12, chain(4));
        assert_eq!(chains.at(last + 12), Some(4));
    }
}
