//! Questions to a peer on a fresh connection, since the old one is what is in doubt. Each is a task of
//! its own, and its answer is an input of the driver.

use std::sync::Arc;

use raft_core::{Boot, NodeId, Term};
use tokio::sync::mpsc;
use wire::raft::{DiscoverReply, DiscoverRequest, ProbeReply, ProbeRequest};

use crate::ask::Ask;
use crate::limits::{DISCOVER_DEADLINE, PROBE_DEADLINE};
use crate::net::status_line;
use crate::peers::connect;
use crate::say;
use crate::shared::Shared;

/// "Do you lead this term?" (E2) No answer in time is a no.
pub fn probe(
    shared: &Arc<Shared>,
    inbox: &mpsc::Sender<Ask>,
    peer: NodeId,
    boot: Boot,
    term: Term,
) {
    let (shared, inbox) = (shared.clone(), inbox.clone());
    tokio::spawn(async move {
        let asked = tokio::time::timeout(PROBE_DEADLINE, ask_probe(&shared, peer, term)).await;
        let leads = match asked {
            Ok(Ok(reply)) => {
                reply.leads
                    && reply.boot == boot
                    && reply.node_id == wire::id_bytes(peer.0)
                    && reply.term == term
            }
            Ok(Err(reason)) => {
                say!(debug, "CONNERROR", "probe of {peer}: {reason}");
                false
            }
            Err(_) => false,
        };
        let _ = inbox
            .send(Ask::Probed {
                peer,
                boot,
                term,
                leads,
            })
            .await;
    });
}

/// What does the peer's disk hold now (D5)? Without an answer nothing is held against it: it is asked
/// again when it opens its next stream.
pub fn challenge(shared: &Arc<Shared>, inbox: &mpsc::Sender<Ask>, peer: NodeId, number: u64) {
    let (shared, inbox) = (shared.clone(), inbox.clone());
    tokio::spawn(async move {
        let asked = tokio::time::timeout(DISCOVER_DEADLINE, ask_disk(&shared, peer)).await;
        match asked {
            Ok(Ok(reply)) if reply.node_id == wire::id_bytes(peer.0) => {
                let hello = Ask::Hello {
                    peer,
                    boot: reply.boot,
                    term: reply.term,
                    durable_index: reply.durable_index,
                    challenged: Some(number),
                };
                let _ = inbox.send(hello).await;
            }
            Ok(Err(reason)) => say!(debug, "CONNERROR", "challenge to {peer}: {reason}"),
            _ => say!(debug, "CONNERROR", "challenge to {peer}: no answer"),
        }
    });
}

async fn ask_disk(shared: &Shared, peer: NodeId) -> Result<DiscoverReply, String> {
    let mut client = connect(shared, peer, DISCOVER_DEADLINE).await?;
    let request = DiscoverRequest {
        from: wire::id_bytes(shared.id.0),
    };
    let reply = client
        .discover(request)
        .await
        .map_err(|status| status_line(&status))?;
    Ok(reply.into_inner())
}

async fn ask_probe(shared: &Shared, peer: NodeId, term: Term) -> Result<ProbeReply, String> {
    let mut client = connect(shared, peer, PROBE_DEADLINE).await?;
    let request = ProbeRequest {
        cluster_id: shared.cluster_bytes(),
        node_id: wire::id_bytes(peer.0),
        term,
    };
    let reply = client
        .probe(request)
        .await
        .map_err(|status| status_line(&status))?;
    Ok(reply.into_inner())
}
