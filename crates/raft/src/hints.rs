//! Who could be taken in: the member map's advice, checked, for the core's reconciler.
//!
//! Gossip may be a moment behind: a node that it shows without a cluster may have just founded one.
//! So the leader asks each newcomer what is on its disk (F4) before it offers it to the core, and
//! nobody else offers anything: only a leader changes the configuration.

use std::collections::BTreeSet;
use std::sync::Arc;

use raft_core::{ClusterId, MemberHint, NodeId, RoleName};
use tokio::sync::{mpsc, watch};

use crate::ask::Ask;
use crate::discover::discover;
use crate::limits::{DISCOVER_INTERVAL, MAX_DISCOVERED};
use crate::membership::{Member, View};
use crate::shared::Shared;

/// Offers candidates to the driver for as long as the daemon runs.
pub async fn run(
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Ask>,
    mut view: watch::Receiver<Arc<View>>,
) {
    let mut standing = shared.standing.subscribe();
    let mut cluster = shared.cluster.subscribe();
    let mut empty = BTreeSet::new();
    let mut told = Vec::new();
    loop {
        let now = view.borrow_and_update().clone();
        let leads = standing.borrow_and_update().role == RoleName::Leader;
        let ours = *cluster.borrow_and_update();
        let mut unknown = BTreeSet::new();
        if leads && ours.is_some() {
            unknown = newcomers(&shared, &now, &mut empty);
            ask(&shared, &mut unknown, &mut empty).await;
            let hints = hints(&shared, &now, ours, &empty);
            if hints != told {
                told.clone_from(&hints);
                let _ = inbox.send(Ask::Members(hints)).await;
            }
        } else {
            empty.clear();
            told.clear();
        }
        // Whoever did not answer is asked again soon.
        let again = async {
            if unknown.is_empty() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(DISCOVER_INTERVAL).await;
        };
        let ended = tokio::select! {
            changed = view.changed() => changed.is_err(),
            changed = standing.changed() => changed.is_err(),
            changed = cluster.changed() => changed.is_err(),
            () = again => false,
        };
        if ended {
            return;
        }
    }
}

/// Nodes without a cluster that nobody has asked yet. One that was away is asked again.
fn newcomers(shared: &Shared, view: &View, empty: &mut BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let configuration = shared.configurations().latest;
    let candidates: BTreeSet<NodeId> = view
        .nodes
        .iter()
        .filter(|(node, member)| {
            **node != shared.id && is_candidate(member) && !configuration.contains(**node)
        })
        .map(|(node, _)| *node)
        .collect();
    empty.retain(|node| candidates.contains(node));
    candidates
        .difference(empty)
        .copied()
        .take(MAX_DISCOVERED)
        .collect()
}

fn is_candidate(member: &Member) -> bool {
    member.alive && member.announced && member.cluster.is_none()
}

/// Moves everyone whose disk is empty from `unknown` to `empty`.
async fn ask(shared: &Shared, unknown: &mut BTreeSet<NodeId>, empty: &mut BTreeSet<NodeId>) {
    let asked = unknown.iter().map(|node| discover(shared, *node));
    for disk in futures_util::future::join_all(asked)
        .await
        .into_iter()
        .flatten()
    {
        if disk.cluster.is_none() {
            unknown.remove(&disk.node);
            empty.insert(disk.node);
        }
    }
}

fn hints(
    shared: &Shared,
    view: &View,
    ours: Option<ClusterId>,
    empty: &BTreeSet<NodeId>,
) -> Vec<MemberHint> {
    let configuration = shared.configurations().latest;
    view.nodes
        .iter()
        .filter(|(node, _)| **node != shared.id)
        .map(|(node, member)| {
            let known = configuration.contains(*node) || empty.contains(node);
            let joinable = (is_candidate(member) && known)
                || (member.alive && member.announced && member.cluster == ours);
            MemberHint {
                node: *node,
                joinable,
            }
        })
        .collect()
}
