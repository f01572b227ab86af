//! Putting packets together: what must be in one, then as much news as fits.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use crate::event::{Event, Output};
use crate::gossip::UpdateQueue;
use crate::identity::{ClusterId, NodeId};
use crate::member::Member;
use crate::packet::{Body, Header, PacketWriter};
use crate::record::{Record, State};

impl Member {
    pub(crate) fn event(&mut self, event: Event) {
        self.output.push_back(Output::Event(event));
    }

    /// Our clock as it travels; never 0, which means "none".
    pub(crate) fn stamp(now: Duration) -> u64 {
        now.as_micros() as u64 + 1
    }

    pub(crate) fn accusers_of(&self, node_id: NodeId) -> BTreeSet<NodeId> {
        self.suspicions
            .get(&node_id)
            .map(|suspicion| suspicion.accusers.clone())
            .unwrap_or_default()
    }

    pub(crate) fn writer(
        &self,
        target: Option<NodeId>,
        cluster: Option<ClusterId>,
        body: &Body,
    ) -> PacketWriter {
        let header = Header {
            sender: self.me.node_id,
            incarnation: self.me.incarnation,
            boot_nonce: self.me.metadata.boot_nonce,
            cluster_id: self.me.metadata.cluster_id,
            target,
            view_hash: self.map.view_hash(cluster),
        };
        PacketWriter::new(&header, body)
    }

    pub(crate) fn put_out(&mut self, to: SocketAddr, writer: PacketWriter) {
        let bytes = writer.finish();
        self.counters.packets_sent += 1;
        self.counters.bytes_sent += bytes.len() as u64;
        self.output.push_back(Output::Send { to, bytes });
    }

    /// Sends a packet: the records of `first`, then as much queued news as fits, all of it only as
    /// far as members of `cluster` may hold it.
    pub(crate) fn send(
        &mut self,
        to: SocketAddr,
        target: Option<NodeId>,
        cluster: Option<ClusterId>,
        body: &Body,
        first: &[NodeId],
    ) {
        let mut writer = self.writer(target, cluster, body);
        let mut written = BTreeSet::new();
        for node_id in first {
            if let Some(entry) = self.map.get(*node_id)
                && entry.record.belongs_with(cluster)
                && written.insert(*node_id)
                && !writer.push(&entry.record, &self.accusers_of(*node_id))
            {
                return self.put_out(to, writer);
            }
        }
        let mut told = Vec::new();
        for node_id in self.queue.iter() {
            let Some(entry) = self.map.get(node_id) else {
                continue;
            };
            let needless = Some(node_id) == target && entry.record.state == State::Alive;
            if needless || written.contains(&node_id) || !entry.record.belongs_with(cluster) {
                continue;
            }
            if !writer.push(&entry.record, &self.accusers_of(node_id)) {
                break;
            }
            told.push(node_id);
        }
        let budget = UpdateQueue::budget(self.map.ring().len());
        for node_id in told {
            self.queue.told(node_id, budget);
        }
        self.put_out(to, writer);
    }

    /// Sends to a member at the address of its record, its accusation first if it is accused.
    pub(crate) fn send_to_member(&mut self, node_id: NodeId, body: &Body) {
        let Some(entry) = self.map.get(node_id) else {
            return;
        };
        let address = entry.record.metadata.address;
        let cluster = self.shared_cluster(entry.record.metadata.cluster_id);
        let accused = entry.record.state != State::Alive;
        let first: &[NodeId] = if accused { &[node_id] } else { &[] };
        self.send(address, Some(node_id), cluster, body, first);
    }

    /// Whether this member may be told now what it has to refute. It is told once in a while and not
    /// with every packet: two members that both have to refute would answer each other's answers.
    pub(crate) fn may_correct(&mut self, now: Duration, node_id: NodeId) -> bool {
        let pause = self.options.gossip_pause();
        let Some(entry) = self.map.get_mut(node_id) else {
            return false;
        };
        let is_due = entry.corrected_at.is_none_or(|at| now >= at + pause);
        if is_due {
            entry.corrected_at = Some(now);
        }
        is_due
    }

    /// Whoever told old news of the dead gets the better record; a sender that is itself accused
    /// learns of it, and can refute.
    pub(crate) fn answer_old_news(
        &mut self,
        now: Duration,
        from: SocketAddr,
        header: &Header,
        answers: Vec<Record>,
    ) {
        let sender = header.sender;
        let held = self.map.get(sender).map(|entry| &entry.record);
        // Of another cluster than it says: nobody who has it right could tell it so.
        let accused = held.filter(|held| {
            let is_wrong =
                held.state != State::Alive || held.metadata.cluster_id != header.cluster_id;
            is_wrong && held.incarnation >= header.incarnation
        });
        let mut answers = answers;
        if let Some(accused) = accused.cloned()
            && !answers.contains(&accused)
            && self.may_correct(now, sender)
        {
            answers.insert(0, accused);
        }
        if answers.is_empty() {
            return;
        }
        let cluster = self.shared_cluster(header.cluster_id);
        let mut writer = self.writer(Some(sender), cluster, &Body::Delta);
        for record in &answers {
            let accusers = self.accusers_of(record.node_id);
            let may_hold = record.node_id == sender || record.belongs_with(cluster);
            if may_hold && !writer.push(record, &accusers) {
                break;
            }
        }
        self.put_out(from, writer);
    }
}
