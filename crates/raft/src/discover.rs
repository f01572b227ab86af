//! "What is on your disk?": the one call that a node without a cluster asks and answers (F4).

use std::net::SocketAddr;

use raft_core::{ClusterId, NodeId};

use crate::limits::DISCOVER_DEADLINE;
use crate::peers::connect_to;
use crate::shared::Shared;

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Whose disk.
    pub node: NodeId,
    /// The cluster whose founding entry is in its log. None: the disk is empty.
    pub cluster: Option<ClusterId>,
    /// Anything beyond the founding is in the log (F2).
    pub has_entries: bool,
}

/// Asks a node. None: no answer, or none that makes sense, or another node's.
pub async fn discover(shared: &Shared, node: NodeId) -> Option<Disk> {
    let address = shared.addresses.get(node)?.address;
    discover_at(shared, address)
        .await
        .filter(|disk| disk.node == node)
}

/// Asks whoever listens at `address`.
pub async fn discover_at(shared: &Shared, address: SocketAddr) -> Option<Disk> {
    let asked = async {
        let mut client = connect_to(shared, address, DISCOVER_DEADLINE).await.ok()?;
        let request = wire::raft::DiscoverRequest {
            from: wire::id_bytes(shared.id.0),
        };
        let reply = client.discover(request).await.ok()?.into_inner();
        let node = NodeId(wire::id_from_bytes("node_id", &reply.node_id).ok()?);
        let cluster = wire::optional_id_from_bytes("cluster_id", &reply.cluster_id).ok()?;
        Some(Disk {
            node,
            cluster: cluster.map(ClusterId),
            has_entries: reply.has_entries,
        })
    };
    tokio::time::timeout(DISCOVER_DEADLINE, asked).await.ok()?
}
