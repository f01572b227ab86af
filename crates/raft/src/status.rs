//! Status: what this node knows of itself and of the cluster. Works without a leader.

use std::collections::BTreeSet;
use std::time::Duration;

use raft_core::{NodeId, RoleName};
use tokio::sync::{mpsc, oneshot};
use wire::raft as pb;

use crate::ask::{Ask, Inspection};
use crate::membership::View;
use crate::shared::{Shared, locked};

/// A driver that does not answer within this has stopped: the rest of the status is told without it.
const INSPECTION_DEADLINE: Duration = Duration::from_millis(500);

/// Puts everything together.
pub async fn status(shared: &Shared, inbox: &mpsc::Sender<Ask>, view: &View) -> pb::StatusReply {
    let standing = shared.standing();
    let inspection = inspect(inbox).await;
    let configuration = shared.configurations().latest;
    let machine = shared.machine.borrow().clone();
    let mut everyone: BTreeSet<NodeId> = configuration.members();
    everyone.extend(
        view.nodes
            .keys()
            .copied()
            .filter(|node| !configuration.removed.contains(node)),
    );
    everyone.insert(shared.id);
    let nodes = everyone
        .into_iter()
        .map(|node| {
            let standing = match () {
                () if configuration.is_voter(node) => "voter",
                () if configuration.contains(node) => "learner",
                () => "none",
            };
            let peer = inspection
                .as_ref()
                .and_then(|i| Some((i.peers.get(&node)?, i.now)));
            pb::NodeStatus {
                node: Some(shared.reference(node)),
                standing: standing.to_owned(),
                health: view.health(node).to_owned(),
                match_index: peer.map_or(0, |(peer, _)| peer.match_index),
                contact_ms_ago: peer.map_or(0, |(peer, now)| {
                    u64::try_from(now.since(peer.last_contact).as_millis()).unwrap_or(u64::MAX)
                }),
            }
        })
        .collect();
    let mut alarms = shared.alarms();
    if view.member_is_silent() {
        alarms.push("the member daemon beside this node does not answer".to_owned());
    }
    pb::StatusReply {
        node: Some(shared.reference(shared.id)),
        cluster_id: shared.cluster_bytes(),
        role: role(standing.role).to_owned(),
        term: standing.term,
        leader: standing.leader.map(|leader| shared.reference(leader)),
        last_index: shared.progress.last(),
        durable_index: shared.progress.durable(),
        commit_index: shared.progress.commit(),
        applied_index: machine.applied,
        boot: shared.boot,
        nodes,
        joint: configuration.is_joint(),
        alarms,
        founding: locked(&shared.founding).clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state_machine: machine.title,
        first_index: shared.progress.first(),
        snapshot_index: shared.progress.snapshot(),
    }
}

pub(crate) async fn inspect(inbox: &mpsc::Sender<Ask>) -> Option<Inspection> {
    let (reply, answer) = oneshot::channel();
    let asked = async {
        inbox.send(Ask::Inspect { reply }).await.ok()?;
        answer.await.ok()
    };
    tokio::time::timeout(INSPECTION_DEADLINE, asked)
        .await
        .ok()?
}

fn role(role: RoleName) -> &'static str {
    match role {
        RoleName::Follower => "follower",
        RoleName::PreCandidate => "pre-candidate",
        RoleName::Candidate => "candidate",
        RoleName::Leader => "leader",
    }
}
