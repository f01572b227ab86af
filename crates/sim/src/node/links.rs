//! Streams to the other nodes, two to each, as the daemon has them: opened when there is something to
//! send, greeted by a Hello, opened again after a while when they end; a leader keeps its bulk streams
//! open, so that their end tells of its death (E2).

use std::collections::{BTreeMap, BTreeSet};

use raft_core::{Input, Message, NodeId};

use super::message::{Claim, Wire};
use super::process::Process;
use super::{Ending, Note, Parts, Task, address_of, id_at};
use crate::party::Party;
use crate::world::{Address, Host, Lane, Micros};

/// First and longest wait before a stream is opened again.
const BACKOFF: (Micros, Micros) = (20_000, 1_000_000);

/// A stream that lived for so long was a success.
const SETTLED: Micros = 1_000_000;

/// Small messages that wait for their stream.
const MAX_WAITING: usize = 64;

#[derive(Default)]
pub(super) struct Links {
    by_peer: BTreeMap<(NodeId, Lane), Link>,
    /// Whose bulk streams are kept open.
    kept: BTreeSet<NodeId>,
    /// Who speaks on the streams from there.
    speakers: BTreeMap<Address, NodeId>,
    /// Whose bulk stream said goodbye.
    parted: BTreeSet<Address>,
}

#[derive(Default)]
struct Link {
    state: State,
    failures: u32,
    waiting: Vec<Wire>,
}

#[derive(Default, PartialEq)]
enum State {
    #[default]
    Idle,
    /// To be opened when the time has come.
    Waiting,
    Opening,
    Open(Micros),
}

impl Links {
    pub fn goodbye(&mut self, host: &mut Host<'_, Party>) {
        self.kept.clear();
        for ((peer, lane), link) in &mut self.by_peer {
            if matches!(link.state, State::Open(_)) {
                host.send(address_of(*peer), *lane, Wire::Goodbye);
            }
        }
    }

    fn link(&mut self, host: &mut Host<'_, Party>, peer: NodeId, lane: Lane) -> &mut Link {
        let is_gone = self.newest_at(address_of(peer)) > Some(peer);
        if !self.by_peer.contains_key(&(peer, lane)) && !is_gone {
            // Whoever was there before answers no more.
            let (first, last) = (id_at(address_of(peer), 0), peer);
            for (_, link) in self
                .by_peer
                .range_mut((first, Lane::Bulk)..(last, Lane::Bulk))
            {
                link.state = State::Idle;
            }
        }
        let link = self.by_peer.entry((peer, lane)).or_default();
        if link.state == State::Idle && !is_gone {
            let (first, longest) = BACKOFF;
            if link.failures == 0 {
                link.state = State::Opening;
                host.open(address_of(peer), lane);
            } else {
                link.state = State::Waiting;
                let wait = (first << link.failures.min(10)).min(longest);
                host.after(wait, Task::Reopen(peer, lane));
            }
        }
        link
    }

    /// The newest id that is known of that place. An older one has been given up, and its streams would be
    /// refused: the address belongs to another node now.
    fn newest_at(&self, address: Address) -> Option<NodeId> {
        let (first, last) = (id_at(address, 0), id_at(address, u64::from(u32::MAX)));
        let mut known = self
            .by_peer
            .range((first, Lane::Bulk)..=(last, Lane::Small));
        known.next_back().map(|((peer, _), _)| *peer)
    }
}

impl Process {
    pub fn send(
        &mut self,
        parts: &mut Parts,
        host: &mut Host<'_, Party>,
        to: NodeId,
        message: Message,
    ) {
        let lane = Process::lane_of(&message);
        if lane == Lane::Bulk && matches!(message, Message::Heartbeat(_)) {
            parts.note(Note::Wrong(
                "a heartbeat goes with the bulk (W3)".to_owned(),
            ));
        }
        let wire = Wire::Raft {
            from: parts.id,
            to,
            message,
        };
        let link = self.links.link(host, to, lane);
        match link.state {
            State::Open(_) => host.send(address_of(to), lane, wire),
            _ if lane == Lane::Small => {
                if link.waiting.len() >= MAX_WAITING {
                    link.waiting.remove(0);
                }
                link.waiting.push(wire);
            }
            // Bulk is sent anew when the stream stands.
            _ => {}
        }
    }

    /// Opens the small stream: its Hello asks whether this node still belongs here.
    pub fn knock(&mut self, host: &mut Host<'_, Party>, peer: NodeId) {
        self.links.link(host, peer, Lane::Small);
    }

    pub fn keep(&mut self, host: &mut Host<'_, Party>, mut members: BTreeSet<NodeId>) {
        members.remove(&self.raft.id());
        for peer in &members {
            self.links.link(host, *peer, Lane::Bulk);
        }
        self.links.kept = members;
    }

    pub fn reopen(
        &mut self,
        _parts: &mut Parts,
        host: &mut Host<'_, Party>,
        peer: NodeId,
        lane: Lane,
    ) {
        if let Some(link) = self.links.by_peer.get_mut(&(peer, lane))
            && link.state == State::Waiting
        {
            link.state = State::Opening;
            host.open(address_of(peer), lane);
        }
    }

    pub fn opened(
        &mut self,
        parts: &mut Parts,
        host: &mut Host<'_, Party>,
        address: Address,
        lane: Lane,
    ) {
        let Some(peer) = self.links.newest_at(address) else {
            return host.close(address, lane);
        };
        let hello = Wire::Hello {
            from: parts.id,
            to: peer,
            claim: self.claim(),
        };
        host.send(address, lane, hello);
        let now = host.now();
        let link = self.links.by_peer.entry((peer, lane)).or_default();
        link.state = State::Open(now);
        for message in link.waiting.drain(..) {
            host.send(address, lane, message);
        }
        if lane == Lane::Bulk {
            self.step(parts, host, Input::Connected { peer });
        }
    }

    pub fn closed(
        &mut self,
        _parts: &mut Parts,
        host: &mut Host<'_, Party>,
        address: Address,
        lane: Lane,
    ) {
        let Some(peer) = self.links.newest_at(address) else {
            return;
        };
        let now = host.now();
        let link = self.links.by_peer.entry((peer, lane)).or_default();
        let settled = matches!(link.state, State::Open(since) if now >= since + SETTLED);
        link.failures = if settled { 0 } else { link.failures + 1 };
        link.state = State::Idle;
        link.waiting.clear();
        if lane == Lane::Bulk && self.links.kept.contains(&peer) {
            self.links.link(host, peer, lane);
        }
    }

    pub fn ended(
        &mut self,
        parts: &mut Parts,
        host: &mut Host<'_, Party>,
        address: Address,
        lane: Lane,
    ) {
        if lane == Lane::Bulk
            && !self.links.parted.remove(&address)
            && let Some(peer) = self.links.speakers.get(&address).copied()
        {
            self.step(parts, host, Input::StreamEnded { peer });
        }
    }

    pub fn received(
        &mut self,
        parts: &mut Parts,
        host: &mut Host<'_, Party>,
        address: Address,
        lane: Lane,
        message: Wire,
    ) {
        match message {
            Wire::Hello { from, to, .. } | Wire::Raft { from, to, .. }
                if to == parts.id && self.has_no_standing(from) =>
            {
                self.turn_away(host, address, from);
            }
            Wire::Hello { from, to, claim } if to == parts.id => {
                self.links.speakers.insert(address, from);
                if lane == Lane::Bulk {
                    self.links.parted.remove(&address);
                }
                self.hello(parts, host, from, claim, None);
            }
            Wire::Raft { from, to, message } if to == parts.id => {
                let input = Input::Message { from, message };
                self.step(parts, host, input);
            }
            Wire::Goodbye if lane == Lane::Bulk => {
                self.links.parted.insert(address);
            }
            _ => {}
        }
    }

    pub fn hello(
        &mut self,
        parts: &mut Parts,
        host: &mut Host<'_, Party>,
        peer: NodeId,
        claim: Claim,
        challenged: Option<u64>,
    ) {
        let input = Input::Hello {
            peer,
            boot: claim.boot,
            term: claim.term,
            durable_index: claim.durable_index,
            challenged,
        };
        let before = parts.notes.len();
        self.step(parts, host, input);
        let doubts = |note: &Note| match note {
            Note::Challenged(doubted) | Note::RolledBack(doubted) => *doubted == peer,
            _ => false,
        };
        if challenged.is_some() && !parts.notes.iter().skip(before).any(doubts) {
            parts.note(Note::Trusted(peer));
        }
    }

    /// Removed for good (M3), or its disk has lost promises (D5).
    fn has_no_standing(&self, peer: NodeId) -> bool {
        let (_, committed) = self.raft.committed_configuration();
        committed.has_left(peer) || self.rolled_back.contains(&peer)
    }

    fn turn_away(&mut self, host: &mut Host<'_, Party>, address: Address, id: NodeId) {
        host.call(address, Wire::TakeNewId { id });
        for lane in [Lane::Bulk, Lane::Small] {
            host.refuse(address, lane);
        }
        self.links.speakers.remove(&address);
    }

    /// Whoever may no longer be who it is hears of it at once, on the streams that it has open.
    pub fn look_at_standings(&mut self, host: &mut Host<'_, Party>) {
        let speakers = self.links.speakers.clone();
        for (address, id) in speakers {
            if self.has_no_standing(id) {
                self.turn_away(host, address, id);
            }
        }
    }

    /// Somebody says that this node's id is not to be used any more.
    pub fn told_to_take_new_id(&mut self, parts: &mut Parts, id: NodeId) {
        if id == parts.id {
            parts.end(Ending::Retired);
        }
    }
}
