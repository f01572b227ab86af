//! Fetching a snapshot that this node lacks.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use raft_core::{Index, MAX_INDEX, NodeId, Position};
use raft_disk::{SnapshotInfo, SnapshotOffer};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use wire::raft as pb;

use super::{PULL_ALARM, Snapshots, joined, sessions_of};
use crate::ask::Ask;
use crate::convert;
use crate::limits::{
    CONNECT_DEADLINE, DISCOVER_DEADLINE, MAX_SNAPSHOT_BYTES, SNAPSHOT_PART_DEADLINE,
    SNAPSHOT_PARTS, SNAPSHOT_REFUSED_PAUSE,
};
use crate::net::status_line;
use crate::peers::connect;
use crate::say;

impl Snapshots {
    /// Fetches the snapshot that the leader offers. One at a time; what was cut is gone on with when the
    /// leader offers it again, which it does until it is acknowledged.
    pub fn pull(&self, from: NodeId, position: Position) {
        self.pull_from_one_of(vec![from], position, 0);
    }

    /// Fetches a snapshot as of `at_least` or later from whoever has one, since the state machine needs one
    /// and this node's own is damaged. What any node's snapshot covers is committed, so any will do; who has
    /// none takes one, and is asked again when the state machine is looked at next.
    pub fn pull_another(&self, at_least: Index) {
        let mut voters = self.shared.configurations().latest.all_voters();
        voters.remove(&self.shared.id);
        self.pull_from_one_of(voters, Position::ZERO, at_least);
    }

    fn pull_from_one_of(
        &self,
        peers: impl IntoIterator<Item = NodeId, IntoIter: Send> + Send + 'static,
        position: Position,
        at_least: Index,
    ) {
        let Ok(under_way) = self.state.pulling.clone().try_acquire_owned() else {
            return;
        };
        let snapshots = self.clone();
        tokio::spawn(async move {
            for peer in peers {
                match snapshots.pull_all(peer, position, at_least).await {
                    Ok(info) => {
                        snapshots.pulled(peer, info).await;
                        break;
                    }
                    Err(reason) => snapshots.not_pulled(peer, &reason),
                }
            }
            drop(under_way);
        });
    }

    async fn pulled(&self, from: NodeId, info: SnapshotInfo) {
        let Position { index, term } = info.meta.position;
        let bytes = info.file_bytes;
        say!(
            info,
            "SNAPSHOT",
            "received from {from} as of {index} [TERM={term}]: {bytes} bytes"
        );
        self.forget_failed_pull();
        self.forget_damage();
        self.retain().await;
        self.state.attempts.send_replace(None);
        let snapshot = info.meta;
        // An offer that waits in front of it must not fetch a newer one yet: this file would be let go before
        // the disk has put the log behind it.
        let (taken, core_has_it) = oneshot::channel();
        let received = Ask::SnapshotReceived { snapshot, taken };
        if self.inbox.send(received).await.is_ok() {
            let _ = core_has_it.await;
        }
    }

    fn not_pulled(&self, from: NodeId, reason: &str) {
        say!(info, "SNAPSHOT-X", "from {from}: {reason}");
        let sentence = format!("a snapshot could not be fetched from {from} so far: {reason}");
        self.shared.alarm(PULL_ALARM, Some(sentence));
        self.state.pull_failed.store(true, Ordering::Release);
    }

    /// The log goes on: what could not be fetched is not needed any more.
    pub fn forget_failed_pull(&self) {
        if self.state.pull_failed.swap(false, Ordering::AcqRel) {
            self.shared.alarm(PULL_ALARM, None);
        }
    }

    async fn pull_all(
        &self,
        from: NodeId,
        position: Position,
        at_least: Index,
    ) -> Result<SnapshotInfo, String> {
        // What was completed before may not have reached the core: its Ask is lost with a crash only.
        if let Some(newest) = self
            .newest()
            .filter(|newest| newest.meta.position == position)
        {
            return Ok(newest);
        }
        let cluster = self
            .shared
            .cluster_id()
            .or_else(|| self.streams.cluster_heard())
            .ok_or("this node has heard no cluster")?;
        // What was begun is gone on with, if it is still to be had: a node whose connection is cut more often
        // than a snapshot is taken would never arrive otherwise.
        let store = self.store.clone();
        let begun = joined(spawn_blocking(move || store.begun())).await?;
        let committed = self.shared.progress.commit();
        // It gives way to any other.
        let partial_bytes = begun.map_or(0, |(_, bytes)| bytes);
        let begun = begun.map(|(offer, _)| offer.position);
        let begun = begun.filter(|begun| begun.index > committed && begun.index >= at_least);
        let position = begun.unwrap_or(position);
        let mut client = connect(&self.shared, from, CONNECT_DEADLINE).await?;
        let mut request = pb::SnapshotRequest {
            cluster_id: wire::id_bytes(cluster.0),
            node_id: wire::id_bytes(from.0),
            position: convert::position(position),
            checksum: 0,
            offset: 0,
            at_least,
        };
        let asked = client.offer_snapshot(request.clone());
        let offer = tokio::time::timeout(DISCOVER_DEADLINE, asked)
            .await
            .map_err(|_| "no answer".to_owned())?
            .map_err(|status| status_line(&status))?
            .into_inner();
        let at = offer.position.ok_or("an offer without a position")?;
        let offered = SnapshotOffer {
            position: convert::from_position(at),
            file_bytes: offer.file_bytes,
            checksum: offer.checksum,
        };
        // The core would ignore it, and be offered it again.
        let too_old = at_least == 0 && at.index <= committed;
        if too_old || at.index < at_least {
            return Err(format!(
                "its newest ends with entry {}, and this node needs one up to {}",
                at.index,
                at_least.max(committed + 1)
            ));
        }
        // Refused before it is fetched, and once more when it is whole: a term that this node has not seen
        // would be taken for its own at its next start.
        self.check_position(offered.position)?;
        self.room
            .check_disk(offered.file_bytes.saturating_sub(partial_bytes))?;
        let store = self.store.clone();
        let receive = move || store.receive(offered, cluster, MAX_SNAPSHOT_BYTES);
        let mut receiver = joined(spawn_blocking(receive)).await?;
        request.position = offer.position;
        request.checksum = offer.checksum;
        request.offset = receiver.offset();
        say!(
            info,
            "SNAPSHOT",
            "fetching {} bytes from {from}, as of {}, from byte {}",
            offered.file_bytes,
            at.index,
            request.offset
        );
        let (sender, mut parts) = mpsc::channel::<Bytes>(SNAPSHOT_PARTS);
        let room = self.room.clone();
        let writing = spawn_blocking(move || {
            while let Some(part) = parts.blocking_recv() {
                let written = room
                    .admit_to_disk(part.len() as u64)
                    .and_then(|()| receiver.append(&part).map_err(|error| error.to_string()));
                if let Err(reason) = written {
                    // Half of a snapshot is of no use while the log has no room.
                    let _ = receiver.discard();
                    return Err(reason);
                }
            }
            Ok(receiver)
        });
        let told = self.receive_parts(&mut client, request, sender).await;
        let receiver = joined(writing).await?;
        // What has arrived is kept, and gone on with the next time.
        told?;
        let snapshots = self.clone();
        let finish = move || {
            receiver.finish(|meta, sessions| {
                snapshots.check_position(meta.position)?;
                sessions_of(meta, sessions).map(drop)
            })
        };
        let finished = joined(spawn_blocking(finish)).await;
        if finished.is_err() {
            // All of it was for nothing, and the next offer comes at once.
            tokio::time::sleep(SNAPSHOT_REFUSED_PAUSE).await;
        }
        finished
    }

    fn check_position(&self, position: Position) -> Result<(), String> {
        let term = self.shared.standing().term;
        if position.index > MAX_INDEX {
            return Err(format!("no log reaches entry {}", position.index));
        }
        if position.term <= term {
            return Ok(());
        }
        Err(format!(
            "it ends in term {}, and this node has seen none above {term}",
            position.term
        ))
    }

    async fn receive_parts(
        &self,
        client: &mut pb::peer_client::PeerClient<tonic::transport::Channel>,
        request: pb::SnapshotRequest,
        sender: mpsc::Sender<Bytes>,
    ) -> Result<(), String> {
        let mut offset = request.offset;
        let call = tokio::time::timeout(SNAPSHOT_PART_DEADLINE, client.pull_snapshot(request));
        let mut stream = call
            .await
            .map_err(|_| "no answer".to_owned())?
            .map_err(|status| status_line(&status))?
            .into_inner();
        loop {
            let part = tokio::time::timeout(SNAPSHOT_PART_DEADLINE, stream.message());
            match part.await {
                Ok(Ok(Some(part))) if part.offset == offset && !part.data.is_empty() => {
                    offset += part.data.len() as u64;
                    if sender.send(part.data).await.is_err() {
                        return Ok(()); // The disk has refused, and says why.
                    }
                }
                Ok(Ok(Some(_))) => return Err("an empty part, or one of another place".to_owned()),
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(status)) => return Err(status_line(&status)),
                Err(_) => return Err("the next part took too long".to_owned()),
            }
        }
    }
}
