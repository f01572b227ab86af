//! Fetching the leader's snapshot, part by part, on a connection of its own; and sending it.

use raft_core::{Index, Input, NodeId, Position, SessionTable, SnapshotMeta};
use raft_disk::{SnapshotOffer, SnapshotReceiver};

use super::message::Wire;
use super::process::Process;
use super::{Note, Parts, Task, address_of};
use crate::party::Party;
use crate::world::{Address, Host, Micros};

/// The next part comes within this, or the transfer is cut.
const PART_DEADLINE: Micros = 2_000_000;

/// The largest snapshot that is taken from a peer.
const MAX_BYTES: u64 = 1 << 24;

/// The one snapshot that is being fetched.
#[derive(Default)]
pub(super) struct Pulling {
    /// From whom.
    from: Option<NodeId>,
    /// Counts attempts and parts: an answer to an earlier one is late.
    serial: u64,
    receiver: Option<SnapshotReceiver>,
    /// As of this or later, whoever has one: this node's own is damaged.
    at_least: Index,
    /// Whom to ask next for that one.
    turn: usize,
}

impl Pulling {
    pub fn wants_any(&mut self, at_least: Index) {
        self.at_least = self.at_least.max(at_least);
    }
}

impl Process {
    pub fn pull(
        &mut self,
        parts: &mut Parts,
        host: &mut Host<'_, Party>,
        from: NodeId,
        position: Position,
    ) {
        if self.pulling.from.is_some() {
            return; // What is under way goes on.
        }
        // What was completed before may not have reached the core.
        if let Some(newest) = self.snapshots.newest()
            && newest.meta.position == position
        {
            let snapshot = newest.meta;
            return self.step(parts, host, Input::SnapshotReceived { snapshot });
        }
        self.begin_pull(host, from, position);
    }

    /// A snapshot as of the wanted index or later, from one voter after the other.
    pub fn pull_another(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>) {
        if self.pulling.at_least == 0 || self.pulling.from.is_some() {
            return;
        }
        let mut voters = self.raft.configuration().1.all_voters();
        voters.remove(&parts.id);
        self.pulling.turn += 1;
        let turn = self.pulling.turn % voters.len().max(1);
        if let Some(from) = voters.into_iter().nth(turn) {
            self.begin_pull(host, from, Position::ZERO);
        }
    }

    fn begin_pull(&mut self, host: &mut Host<'_, Party>, from: NodeId, position: Position) {
        self.pulling.from = Some(from);
        self.wait_for_peer(host);
        // What was begun is gone on with, if it is still to be had.
        let begun = self.snapshots.begun().ok().flatten();
        let begun = begun.map(|(offer, _)| offer.position);
        let wanted = self.pulling.at_least;
        let begun =
            begun.filter(|begun| begun.index > self.raft.commit_index() && begun.index >= wanted);
        let position = begun.unwrap_or(position);
        let ask = Wire::AskOffer {
            to: from,
            position,
            at_least: wanted,
        };
        host.call(address_of(from), ask);
    }

    fn wait_for_peer(&mut self, host: &mut Host<'_, Party>) {
        self.pulling.serial += 1;
        host.after(PART_DEADLINE, Task::PullLate(self.pulling.serial));
    }

    pub fn pull_late(&mut self, parts: &mut Parts, serial: u64) {
        if self.pulling.serial == serial && self.pulling.from.is_some() {
            self.give_up_pull(parts, "no answer in time");
        }
    }

    pub fn give_up_pull(&mut self, parts: &mut Parts, reason: &str) {
        parts.say(|| format!("a snapshot cannot be fetched for now: {reason}"));
        self.pulling.from = None;
        self.pulling.receiver = None;
    }

    /// What a peer offers.
    pub fn offered(
        &mut self,
        parts: &mut Parts,
        host: &mut Host<'_, Party>,
        address: Address,
        offer: Option<SnapshotOffer>,
    ) {
        let Some(from) = self
            .pulling
            .from
            .filter(|from| address_of(*from) == address)
        else {
            return;
        };
        if self.pulling.receiver.is_some() {
            return;
        }
        let Some(offer) = offer else {
            return self.give_up_pull(parts, "there is none");
        };
        let (index, wanted) = (offer.position.index, self.pulling.at_least);
        let too_old = wanted == 0 && index <= self.raft.commit_index();
        if too_old || index < wanted || offer.position.term > self.raft.term() {
            return self.give_up_pull(parts, "it is of no use here");
        }
        let Some(cluster) = self.raft.cluster_id().or(Some(crate::run::CLUSTER)) else {
            return;
        };
        match self.snapshots.receive(offer, cluster, MAX_BYTES) {
            Ok(receiver) => {
                let offset = receiver.offset();
                self.pulling.receiver = Some(receiver);
                self.wait_for_peer(host);
                let ask = Wire::AskPart {
                    to: from,
                    offer,
                    offset,
                };
                host.call(address, ask);
            }
            Err(error) => self.give_up_pull(parts, &error.to_string()),
        }
    }

    /// A part of it.
    pub fn part(
        &mut self,
        parts: &mut Parts,
        host: &mut Host<'_, Party>,
        address: Address,
        (offer, offset): (SnapshotOffer, u64),
        bytes: &[u8],
    ) {
        let Some(from) = self
            .pulling
            .from
            .filter(|from| address_of(*from) == address)
        else {
            return;
        };
        let Some(receiver) = &mut self.pulling.receiver else {
            return;
        };
        if *receiver.offer() != offer || receiver.offset() != offset {
            return;
        }
        if bytes.is_empty() && offset < offer.file_bytes {
            return self.give_up_pull(parts, "it is gone");
        }
        if let Err(error) = receiver.append(bytes) {
            return self.give_up_pull(parts, &error.to_string());
        }
        let offset = receiver.offset();
        if offset < offer.file_bytes {
            self.wait_for_peer(host);
            let ask = Wire::AskPart {
                to: from,
                offer,
                offset,
            };
            return host.call(address, ask);
        }
        let Some(receiver) = self.pulling.receiver.take() else {
            return;
        };
        self.pulling.from = None;
        let term = self.raft.term();
        let finished = receiver.finish(|meta: &SnapshotMeta, sessions| {
            if meta.position.term > term {
                return Err("it ends in a term that this node has not seen".to_owned());
            }
            let table = SessionTable::decode(sessions.clone()).map_err(|e| e.to_string())?;
            if table.applied_index() != meta.position.index {
                return Err("its session table is of another index".to_owned());
            }
            Ok(())
        });
        match finished {
            Ok(info) => {
                self.pulling.at_least = 0;
                self.look_at_received(parts, info.meta.position);
                let _ = self.snapshots.retain(&[]);
                let snapshot = info.meta;
                self.step(parts, host, Input::SnapshotReceived { snapshot });
            }
            Err(error) => parts.say(|| format!("a snapshot was refused: {error}")),
        }
    }

    /// What this node offers.
    pub fn offer(&self, position: Position) -> Option<SnapshotOffer> {
        let newest = self.snapshots.newest()?;
        if position != newest.meta.position
            && let Ok(reader) = self.snapshots.reader(position)
        {
            return Some(reader.info().offer());
        }
        Some(newest.offer())
    }

    /// A part of what it offered; nothing when that is gone.
    pub fn read_part(&self, parts: &mut Parts, offer: SnapshotOffer, offset: u64) -> bytes::Bytes {
        let Ok(reader) = self.snapshots.reader(offer.position) else {
            return bytes::Bytes::new();
        };
        if reader.info().offer() != offer {
            return bytes::Bytes::new();
        }
        let read = reader.read_raw(offset, parts.tuning.part_bytes);
        let read: bytes::Bytes = read.unwrap_or_default();
        if parts.garbles && !read.is_empty() {
            parts.garbles = false;
            let mut garbled = read.to_vec();
            let at = parts.draw((0, garbled.len() as u64 - 1));
            garbled[usize::try_from(at).unwrap_or(0)] ^= 1;
            return garbled.into();
        }
        read
    }

    /// What counts as received can be read again, to the end (S4).
    fn look_at_received(&self, parts: &mut Parts, position: Position) {
        let reader = self.snapshots.reader(position);
        let read = reader.and_then(|reader| reader.chunks().try_for_each(|chunk| chunk.map(drop)));
        if let Err(error) = read {
            parts.note(Note::Wrong(format!(
                "a snapshot that was received: {error}"
            )));
        }
    }
}
