//! What only a leader has, its timers, and the entries that clients bring (§5.3, `digest_entries`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use crate::entry::{Entry, Payload};
use crate::ids::{Index, NodeId, Time};
use crate::io::{Effect, Event, PeerView, Proposal, Refusal};
use crate::message::{Heartbeat, Message};
use crate::progress::Progress;
use crate::raft::{Raft, Role};
use crate::reads::LeaderReads;
use crate::reconfiguration::Reconfiguring;
use crate::transfer::Transfer;

/// After an attempt to hand over from a silent state machine, the next one comes after so many times
/// `elect_timeout_max`.
const HAND_OVER_PAUSE: u32 = 8;

/// State on leaders, reinitialised after election (figure 2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Leading {
    elected_at: Time,
    /// Log time when it was elected (S3).
    log_time_base_ms: u64,
    /// Index of the no-op of its own term: once that is committed, so is all before it (§5.4.2).
    pub(crate) noop_index: Index,
    pub(crate) progress: BTreeMap<NodeId, Progress>,
    next_heartbeat: Time,
    pub(crate) reads: LeaderReads,
    pub(crate) transfer: Option<Transfer>,
    /// A silent state machine is no reason to hand over before this.
    no_hand_over_before: Time,
    pub(crate) reconfiguring: Reconfiguring,
    /// Index and bytes of every entry that is not committed.
    uncommitted: VecDeque<(Index, usize)>,
    uncommitted_bytes: usize,
}

impl Leading {
    pub(crate) fn peer_views(&self) -> BTreeMap<NodeId, PeerView> {
        self.progress
            .iter()
            .map(|(node, progress)| (*node, progress.view()))
            .collect()
    }

    /// Log time by this leader's clock: the last one it found, and what passed since its election (S3).
    pub(crate) fn log_time_ms(&self, now: Time) -> u64 {
        let elapsed = u64::try_from(now.since(self.elected_at).as_millis());
        self.log_time_base_ms
            .saturating_add(elapsed.unwrap_or(u64::MAX))
    }

    pub(crate) fn match_index(&self, peer: NodeId) -> Index {
        self.progress
            .get(&peer)
            .map_or(0, |progress| progress.match_index)
    }

    pub(crate) fn for_each_time(&mut self, change: &mut dyn FnMut(&mut Time)) {
        change(&mut self.elected_at);
        change(&mut self.next_heartbeat);
        change(&mut self.no_hand_over_before);
        for progress in self.progress.values_mut() {
            progress.for_each_time(change);
        }
        self.reads.for_each_time(change);
        if let Some(transfer) = &mut self.transfer {
            transfer.for_each_time(change);
        }
        self.reconfiguring.for_each_time(change);
    }

    pub(crate) fn transfer_token(&self) -> Option<u64> {
        self.transfer.as_ref().and_then(Transfer::token)
    }

    pub(crate) fn committed_up_to(&mut self, index: Index) {
        while self.uncommitted.front().is_some_and(|(at, _)| *at <= index) {
            if let Some((_, bytes)) = self.uncommitted.pop_front() {
                self.uncommitted_bytes -= bytes;
            }
        }
    }
}

impl Raft {
    pub(crate) fn leading(&mut self) -> Option<&mut Leading> {
        match &mut self.role {
            Role::Leader(leading) => Some(leading),
            _ => None,
        }
    }

    /// Everyone whom this leader feeds: the others in the configuration, and those who leave with it,
    /// until it is committed.
    pub(crate) fn receivers(&self) -> Vec<NodeId> {
        match &self.role {
            Role::Leader(leading) => leading.progress.keys().copied().collect(),
            _ => Vec::new(),
        }
    }

    /// As if this leader had been elected just now (S3).
    pub(crate) fn restart_log_time(&mut self) {
        let now = self.now;
        if let Some(leading) = self.leading() {
            leading.elected_at = now;
        }
    }

    pub(crate) fn start_leading(&mut self) {
        let last = self.log.last();
        // Who leaves by a configuration that is not committed yet is still to be fed (M5).
        let mut peers = self.others();
        peers.extend(self.committed_configuration().1.members());
        peers.extend(
            self.configuration_in_doubt()
                .iter()
                .flat_map(|before| before.members()),
        );
        peers.remove(&self.id);
        let progress = peers
            .into_iter()
            .map(|peer| (peer, Progress::new(last.index + 1, self.now)));
        let mut uncommitted = VecDeque::new();
        let inherited = self.log.cost_from(self.commit_index + 1);
        if inherited > 0 {
            uncommitted.push_back((last.index, inherited));
        }
        self.role = Role::Leader(Box::new(Leading {
            elected_at: self.now,
            log_time_base_ms: if mutant!(S3LogTimeBeginsAnew) {
                0
            } else {
                self.log.last_log_time_ms()
            },
            noop_index: last.index + 1,
            progress: progress.collect(),
            next_heartbeat: self.now,
            reads: LeaderReads::default(),
            transfer: None,
            // Until then nobody has said how it is.
            no_hand_over_before: self.now + self.options.elect_timeout_max,
            reconfiguring: Reconfiguring::default(),
            uncommitted,
            uncommitted_bytes: inherited,
        }));
        // R1, §8: nothing of an earlier term counts as committed before this entry is.
        if !mutant!(NoopLeftOut) {
            self.append_as_leader(Payload::Noop);
        }
        self.heartbeat();
        self.replicate_to_all();
        self.take_over_reads();
    }

    /// Appends an entry of the present term to the leader's own log (§5.3).
    pub(crate) fn append_as_leader(&mut self, payload: Payload) -> Index {
        let index = self.log.last().index + 1;
        let (term, now) = (self.term(), self.now);
        let mut log_time_ms = self.log.last_log_time_ms();
        let mut entry = Entry {
            index,
            term,
            log_time_ms,
            payload,
        };
        if let Some(leading) = self.leading() {
            let leaders = leading.log_time_ms(now);
            log_time_ms = if mutant!(S3LogTimeBeginsAnew) {
                leaders
            } else {
                log_time_ms.max(leaders)
            };
            let cost = entry.cost_bytes();
            leading.uncommitted.push_back((index, cost));
            leading.uncommitted_bytes += cost;
        }
        entry.log_time_ms = log_time_ms;
        self.append_to_log(entry);
        index
    }

    /// `digest_entries`: everything that waited goes into the log in one batch, and to every peer at
    /// once, while the leader's own disk write is under way.
    pub(crate) fn put_entries(&mut self, proposals: Vec<Proposal>) {
        let mut appended = false;
        for Proposal { request, payload } in proposals {
            match self.refusal_of(&payload) {
                Some(reason) => self.effect(Effect::Refused { request, reason }),
                None => {
                    let index = self.append_as_leader(payload);
                    let position = crate::Position {
                        index,
                        term: self.term(),
                    };
                    self.effect(Effect::Accepted { request, position });
                    appended = true;
                }
            }
        }
        if appended {
            self.replicate_to_all();
        }
    }

    fn refusal_of(&self, payload: &Payload) -> Option<Refusal> {
        let Role::Leader(leading) = &self.role else {
            return Some(Refusal::NotLeader {
                leader: self.leader(),
            });
        };
        if self.log.dissolved_at.is_some() && !mutant!(F2AcceptsAfterDissolve) {
            return Some(Refusal::Dissolved);
        }
        let for_clients = matches!(
            payload,
            Payload::Command(_)
                | Payload::RegisterSession
                | Payload::KeepAlive { .. }
                | Payload::ExpireSession { .. }
                | Payload::Skip { .. }
        );
        if !for_clients {
            return Some(Refusal::NotForClients);
        }
        if leading.transfer.is_some() && !mutant!(TransferTakesEntries) {
            return Some(Refusal::Transferring);
        }
        if !self.configuration().1.grown && !mutant!(F1AloneTakesEntries) {
            return Some(Refusal::Founding);
        }
        let limit = self.options.max_entry_bytes;
        if let Payload::Command(command) = payload
            && command.bytes.len() > limit
        {
            return Some(Refusal::TooLarge {
                bytes: command.bytes.len(),
                limit,
            });
        }
        if matches!(payload, Payload::Skip { .. }) {
            // It is the way out when nothing is applied any more (P5): no limit on what waits for
            // that stands against it.
            return None;
        }
        let uncommitted = self.log.last().index - self.commit_index;
        let unapplied = self.commit_index.saturating_sub(self.applied_index);
        let overloaded = uncommitted >= self.options.max_uncommitted_entries as u64
            || leading.uncommitted_bytes >= self.options.max_uncommitted_bytes
            || unapplied >= self.options.max_unapplied_entries
            || self.disk.sick;
        overloaded.then_some(Refusal::Overloaded)
    }

    // ---- timers ----

    pub(crate) fn leader_deadline(&self, leading: &Leading) -> Time {
        let transfer = leading
            .transfer
            .as_ref()
            .map_or(Time::NEVER, Transfer::deadline);
        leading
            .next_heartbeat
            .min(transfer)
            .min(leading.reads.next_deadline())
    }

    pub(crate) fn run_leader_timers(&mut self) {
        self.expire_leader_reads();
        self.run_transfer();
        let due = self.leading().map(|leading| leading.next_heartbeat);
        if due.is_some_and(|due| self.now >= due) {
            if !self.hears_quorum() && !mutant!(E3NoCheckQuorum) {
                return self.yield_role("a majority has not answered for too long");
            }
            self.hand_over_from_silence();
            self.let_go();
            self.heartbeat();
        }
        self.reconfigure();
    }

    /// Nobody hears what comes of an entry while the leader's own state machine is silent. Some other's
    /// answers, if any does; asked once for each failed attempt's time and more, since entries wait
    /// meanwhile.
    fn hand_over_from_silence(&mut self) {
        let patience = self.options.elect_timeout_max;
        let now = self.now;
        let silent = self.state_machine_silent.map(|since| now.since(since));
        if silent.is_none_or(|silent| silent < patience) {
            return;
        }
        let heir = self.heirs().into_iter().find(|(sick, _)| !sick);
        let Some(leading) = self.leading() else {
            return;
        };
        if let Some((_, heir)) = heir
            && leading.transfer.is_none()
            && now >= leading.no_hand_over_before
        {
            leading.no_hand_over_before = now + patience * HAND_OVER_PAUSE;
            self.transfer(Some(heir));
        }
    }

    /// Check-quorum: a leader that a majority cannot answer stops being one, so that nobody takes it
    /// for the leader for longer than that.
    fn hears_quorum(&self) -> bool {
        let Role::Leader(leading) = &self.role else {
            return false;
        };
        let patience = self.options.elect_timeout_max;
        self.majority_of(|node| {
            node == self.id
                || leading
                    .progress
                    .get(&node)
                    .is_some_and(|peer| self.now.since(peer.last_contact) < patience)
        })
    }

    /// Steps down within the term.
    pub(crate) fn yield_role(&mut self, reason: &'static str) {
        let term = self.term();
        self.event(Event::SteppedDown { term, reason });
        self.become_follower(term, None);
    }

    /// Tells everyone who leads, who succeeds, and what is committed.
    pub(crate) fn heartbeat(&mut self) {
        let interval = self.options.heartbeat_interval;
        let now = self.now;
        if let Some(leading) = self.leading() {
            leading.next_heartbeat = now + interval;
            leading.reconfiguring.look_again();
        }
        let succession = self.order_of_succession();
        for peer in self.receivers() {
            self.send_heartbeat(peer, succession.clone());
        }
    }

    pub(crate) fn send_heartbeat(&mut self, peer: NodeId, succession: Vec<NodeId>) {
        let (term, boot, commit_index) = (self.term(), self.boot, self.commit_index);
        let Some(leading) = self.leading() else {
            return;
        };
        let round = leading.reads.round_in_flight();
        let Some(progress) = leading.progress.get_mut(&peer) else {
            return;
        };
        // Never more than it has acknowledged: what lies beyond may not be the same there.
        let commit_index = commit_index.min(progress.match_index);
        progress.commit_told = progress.commit_told.max(commit_index);
        let heartbeat = Heartbeat {
            term,
            boot,
            commit_index,
            round,
            succession,
        };
        self.send(peer, Message::Heartbeat(heartbeat));
    }

    /// Freshest log and healthy disk and state machine first (E1).
    pub(crate) fn order_of_succession(&self) -> Vec<NodeId> {
        self.heirs().into_iter().map(|(_, voter)| voter).collect()
    }

    /// Whether the node is leaving or stopping, as far as this leader knows (M1).
    pub(crate) fn goes(&self, node: NodeId) -> bool {
        let Role::Leader(leading) = &self.role else {
            return false;
        };
        let progress = leading.progress.get(&node);
        let stops = progress.is_some_and(|progress| progress.health.stopping);
        (stops || leading.reconfiguring.is_leaving(node)) && !mutant!(M1LeaverInherits)
    }

    /// In that order, and whether each is sick, or was not heard of late.
    fn heirs(&self) -> Vec<(bool, NodeId)> {
        let Role::Leader(leading) = &self.role else {
            return Vec::new();
        };
        let configuration = self.configuration().1;
        let mut heirs: Vec<_> = configuration
            .voters
            .iter()
            .filter_map(|voter| {
                leading
                    .progress
                    .get(voter)
                    .map(|progress| (*voter, progress))
            })
            .filter(|(voter, _)| {
                // M1: never to a node that is about to go. D5: nor to one whose log may be shorter than it
                // once said.
                !self.is_suspect(*voter) && !self.goes(*voter)
            })
            .map(|(voter, progress)| {
                let health = progress.health;
                let silent = self.now.since(progress.last_contact);
                // A new leader has not heard yet who is dead.
                let away = !progress.answered || silent >= self.options.elect_timeout_min;
                let sick = away || health.disk_sick || health.state_machine_sick;
                (sick, Reverse(progress.match_index), voter)
            })
            .collect();
        heirs.sort_unstable();
        let heirs = heirs.into_iter();
        heirs.map(|(sick, _, voter)| (sick, voter)).collect()
    }
}
