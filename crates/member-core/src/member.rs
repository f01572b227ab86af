//! One member as a value: packets and time in, packets and events out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use crate::event::{Counters, Event, Output};
use crate::gossip::UpdateQueue;
use crate::identity::{ClusterId, Incarnation, NodeId, Random};
use crate::join::{Joining, Leaving};
use crate::map::{MemberMap, Merged, Retired};
use crate::options::Options;
use crate::packet::{DecodeError, Packet};
use crate::record::{MAX_ACCUSERS, Metadata, Record, State, Update, usable_name};
use crate::twin::Twin;
use crate::watch::{Probe, Suspicion};

/// What a member is when it starts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// 128 random bits, made once.
    pub node_id: NodeId,
    /// Starts on this data directory, from 1, durable before the first packet.
    pub boot_epoch: u32,
    /// Random, drawn at each start.
    pub boot_nonce: u64,
    /// Where others reach the gossip of this member.
    pub address: SocketAddr,
    /// The node's name; control characters are replaced, and it is cut at 64 bytes.
    pub name: String,
}

/// A member of the ring.
///
/// The caller's duties:
/// 1. Times are durations since any fixed instant on one monotonic clock, and never go back.
/// 2. Hand in every datagram ([`Member::handle`]), and call [`Member::tick`] at
///    [`Member::next_deadline`]. Being more than a gossip interval late counts as a pause of the
///    whole process: what was missed meanwhile accuses nobody.
/// 3. After each call take all outputs ([`Member::poll_output`]), in order.
///
/// No bytes from the network can make it panic, and what one call puts out is bounded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Member {
    pub(crate) options: Options,
    pub(crate) random: Random,
    pub(crate) me: Record,
    /// All members, this one included.
    pub(crate) map: MemberMap,
    /// The neighbours with which heartbeats are exchanged, and since when.
    pub(crate) watched: BTreeMap<NodeId, Duration>,
    pub(crate) probes: BTreeMap<NodeId, Probe>,
    pub(crate) suspicions: BTreeMap<NodeId, Suspicion>,
    /// When the next deadline was, as of the last call: being called much later is a pause.
    pub(crate) promised: Duration,
    /// No verdict before this: the time after a pause.
    pub(crate) verdicts_from: Duration,
    pub(crate) queue: UpdateQueue,
    pub(crate) beat_at: Duration,
    pub(crate) beats: u64,
    pub(crate) gossip_at: Option<Duration>,
    pub(crate) gossiped_at: Option<Duration>,
    pub(crate) digest_from: Duration,
    pub(crate) joining: Option<Joining>,
    pub(crate) leaving: Option<Leaving>,
    pub(crate) introducers: Vec<SocketAddr>,
    pub(crate) last_known: Vec<SocketAddr>,
    pub(crate) heard_anyone_at: Duration,
    pub(crate) joined: bool,
    pub(crate) rejoin: bool,
    pub(crate) twin: Option<Twin>,
    pub(crate) version: u64,
    pub(crate) counters: Counters,
    pub(crate) output: VecDeque<Output>,
}

impl Member {
    /// A member that knows nobody yet. `seed` feeds its dice; `last_known` are addresses of members
    /// from an earlier run, tried beside the introducers (see [`Member::set_introducers`]).
    pub fn new(
        identity: Identity,
        options: Options,
        last_known: Vec<SocketAddr>,
        now: Duration,
        seed: u64,
    ) -> Self {
        let mut random = Random::new(seed);
        let me = Record {
            node_id: identity.node_id,
            incarnation: Incarnation::first_of(identity.boot_epoch),
            state: State::Alive,
            metadata: Metadata {
                boot_nonce: identity.boot_nonce,
                address: identity.address,
                raft_port: 0,
                raft_announced: false,
                name: usable_name(&identity.name),
                cluster_id: None,
            },
        };
        let mut map = MemberMap::default();
        map.merge(&me, now, options.cleanup_timeout);
        let interval = options.interval();
        let stagger = Duration::from_micros(random.below(interval.as_micros() as u64));
        let mut last_known = last_known;
        last_known.truncate(crate::options::MAX_JOIN_ADDRESSES);
        Self {
            options,
            random,
            me,
            map,
            watched: BTreeMap::new(),
            probes: BTreeMap::new(),
            suspicions: BTreeMap::new(),
            promised: now,
            verdicts_from: now,
            queue: UpdateQueue::default(),
            beat_at: now + stagger,
            beats: 0,
            gossip_at: None,
            gossiped_at: None,
            digest_from: now,
            joining: Some(Joining::begin(now)),
            leaving: None,
            introducers: Vec::new(),
            last_known,
            heard_anyone_at: now,
            joined: false,
            rejoin: false,
            twin: None,
            version: 1,
            counters: Counters::default(),
            output: VecDeque::new(),
        }
    }

    /// Takes in one datagram.
    pub fn handle(&mut self, now: Duration, from: SocketAddr, bytes: &[u8]) {
        if self.notice_pause(now) {
            self.run_timers(now);
        }
        self.counters.packets_received += 1;
        self.counters.bytes_received += bytes.len() as u64;
        match Packet::decode(bytes) {
            Ok(packet) => self.on_packet(now, from, packet),
            Err(error) => {
                match error {
                    DecodeError::UnknownType(_) => self.counters.refused_unknown_type += 1,
                    _ => self.counters.refused_malformed += 1,
                }
                self.event(Event::Malformed { from, error });
            }
        }
        self.promise(now);
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Duration) {
        self.notice_pause(now);
        self.run_timers(now);
        self.promise(now);
    }

    /// A deadline may have moved into the past, as when a suspicion is confirmed late: it is due
    /// now, and nobody is late for it.
    pub(crate) fn promise(&mut self, now: Duration) {
        self.promised = self.next_deadline().max(now);
    }

    fn run_timers(&mut self, now: Duration) {
        self.tick_twin(now);
        if self.is_silent() {
            self.tick_leave(now);
            // Timers of a silent member rest, or they would be overdue for ever.
            self.rest_timers(now);
            return;
        }
        self.tick_join(now);
        self.tick_retirements(now);
        self.tick_watch(now);
        self.tick_beat(now);
        self.tick_gossip(now);
    }

    /// When [`Member::tick`] has something to do next.
    pub fn next_deadline(&self) -> Duration {
        let mut deadline = self.beat_at;
        let mut consider = |at: Option<Duration>| deadline = deadline.min(at.unwrap_or(deadline));
        consider(self.twin.as_ref().map(Twin::deadline));
        consider(self.leaving.as_ref().and_then(Leaving::deadline));
        if !self.is_silent() {
            consider(self.joining.as_ref().map(Joining::deadline));
            consider(self.map.next_retirement());
            consider(self.next_watch_deadline());
            consider(self.gossip_at);
        }
        deadline
    }

    /// The next output, oldest first.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// Sets what gossip carries of the node's `raft`. A change is a new incarnation; members bound
    /// to another cluster than `cluster_id` leave this view.
    pub fn announce(&mut self, now: Duration, raft_port: u16, cluster_id: Option<ClusterId>) {
        self.notice_pause(now);
        self.set_announcement(now, raft_port, cluster_id);
        self.promise(now);
    }

    fn set_announcement(&mut self, now: Duration, raft_port: u16, cluster_id: Option<ClusterId>) {
        let metadata = &self.me.metadata;
        let said = (
            metadata.raft_announced,
            metadata.raft_port,
            metadata.cluster_id,
        );
        if self.leaving.is_some() || said == (true, raft_port, cluster_id) {
            return;
        }
        self.me.metadata.raft_announced = true;
        self.me.metadata.raft_port = raft_port;
        self.me.metadata.cluster_id = cluster_id;
        self.publish_myself(now, self.me.incarnation.next());
        if let Some(cluster_id) = cluster_id {
            for node_id in self.map.remove_foreign(cluster_id, now) {
                self.counters.refused_foreign_records += 1;
                self.suspicions.remove(&node_id);
                self.probes.remove(&node_id);
                self.queue.remove(node_id);
            }
            self.refresh_watched(now);
        }
    }

    /// A process that stood still must not accuse those that it could not hear meanwhile.
    /// Whoever calls this promises anew afterwards ([`Self::promise`]), or it is noticed twice.
    pub(crate) fn notice_pause(&mut self, now: Duration) -> bool {
        let late = now.saturating_sub(self.promised);
        if late <= self.options.pause_threshold() {
            return false;
        }
        self.counters.pauses += 1;
        self.event(Event::Paused {
            late_ms: late.as_millis() as u64,
        });
        self.drop_pending_verdicts(now);
        self.ask_twin_anew(now);
        self.heard_anyone_at = now;
        // What is overdue is due once, not once for every interval that was missed.
        self.rest_timers(now);
        true
    }

    fn rest_timers(&mut self, now: Duration) {
        if self.beat_at <= now {
            let silent = self.is_silent();
            self.beat_at = if silent {
                now + self.options.interval()
            } else {
                now
            };
        }
    }

    /// Merges updates; gives back the records that correct them.
    pub(crate) fn learn_all(
        &mut self,
        now: Duration,
        via: NodeId,
        updates: Vec<Update>,
    ) -> Vec<Record> {
        updates
            .into_iter()
            .filter_map(|update| self.learn(now, via, update))
            .collect()
    }

    /// Merges one update. Whoever tells of a member as living that is known to be gone gets the
    /// better record back: that is how the member itself learns what it has to refute.
    pub(crate) fn learn(&mut self, now: Duration, via: NodeId, update: Update) -> Option<Record> {
        let Update { record, accusers } = update;
        let node_id = record.node_id;
        // What is said of us is answered, also that we are of another cluster.
        if node_id == self.me.node_id {
            self.on_record_of_me(now, &record);
            return None;
        }
        if !record.belongs_with(self.me.metadata.cluster_id) {
            self.counters.refused_foreign_records += 1;
            return None;
        }
        match self.map.merge(&record, now, self.options.cleanup_timeout) {
            Merged::New { instead_of } => {
                if let Some(gone) = instead_of {
                    self.on_forgotten(gone);
                }
                self.on_new_record(now, via, record, None, accusers);
            }
            Merged::Changed { before } => {
                self.on_new_record(now, via, record, Some(before), accusers);
            }
            Merged::Same => self.add_accusers(now, node_id, &accusers),
            Merged::Older => {
                let held = self.map.get(node_id).map(|entry| &entry.record);
                return held
                    .filter(|held| !held.state.is_live() && record.state.is_live())
                    .cloned();
            }
            Merged::Buried(buried) => {
                let of_itself = node_id == via && record.state.is_live();
                return of_itself.then_some(Record {
                    incarnation: buried,
                    state: State::Dead,
                    ..record
                });
            }
            Merged::Leap => self.refuse_leap(node_id, record.incarnation),
            Merged::Full => {
                self.counters.refused_full += 1;
                self.event(Event::Full(node_id));
            }
        }
        None
    }

    /// The map has changed: follow it.
    fn on_new_record(
        &mut self,
        now: Duration,
        via: NodeId,
        record: Record,
        before: Option<State>,
        mut accusers: BTreeSet<NodeId>,
    ) {
        let node_id = record.node_id;
        if record.state != State::Suspect {
            self.probes.remove(&node_id);
        }
        self.suspicions.remove(&node_id);
        match (record.state, before) {
            (State::Alive, None) => self.event(Event::Learned(record)),
            (State::Alive, Some(State::Alive)) => self.event(Event::Changed(record)),
            (State::Alive, Some(_)) => self.event(Event::Revived(record)),
            (State::Suspect, _) => {
                if accusers.is_empty() {
                    accusers.insert(via);
                }
                let accuser = accusers.first().copied().unwrap_or(via);
                self.suspicions.insert(
                    node_id,
                    Suspicion {
                        since: now,
                        accusers,
                    },
                );
                self.event(Event::Suspected { record, accuser });
            }
            (State::Dead, None) | (State::Left, None) => {}
            (State::Dead, Some(_)) => {
                self.counters.failures += 1;
                self.event(Event::Failure(record));
            }
            (State::Left, Some(_)) => self.event(Event::Leave(record)),
        }
        self.spread(now, node_id);
        self.refresh_watched(now);
        self.follow_accusation(now, via, node_id);
    }

    fn add_accusers(&mut self, now: Duration, node_id: NodeId, accusers: &BTreeSet<NodeId>) {
        let Some(suspicion) = self.suspicions.get_mut(&node_id) else {
            return;
        };
        let count_before = suspicion.accusers.len();
        for accuser in accusers {
            if suspicion.accusers.len() < MAX_ACCUSERS {
                suspicion.accusers.insert(*accuser);
            }
        }
        if suspicion.accusers.len() > count_before {
            self.spread(now, node_id);
        }
    }

    /// Our own record is now this incarnation of what `self.me` says.
    pub(crate) fn publish_myself(&mut self, now: Duration, incarnation: Incarnation) {
        let is_raised = incarnation.epochs_above(self.me.incarnation) > 0;
        self.me.incarnation = incarnation;
        self.map.merge(&self.me, now, self.options.cleanup_timeout);
        self.spread(now, self.me.node_id);
        if is_raised {
            self.event(Event::BootEpochRaised(incarnation.boot_epoch()));
        }
    }

    pub(crate) fn refuse_leap(&mut self, node_id: NodeId, claimed: Incarnation) {
        self.counters.refused_leaps += 1;
        self.event(Event::EpochLeap { node_id, claimed });
    }

    /// Queues a record for gossip; the view has changed.
    pub(crate) fn spread(&mut self, now: Duration, node_id: NodeId) {
        self.version += 1;
        self.queue.push(node_id);
        let pause = self.options.gossip_pause();
        let soonest = self.gossiped_at.map_or(now, |at| (at + pause).max(now));
        self.gossip_at = Some(self.gossip_at.map_or(soonest, |at| at.min(soonest)));
    }

    fn tick_retirements(&mut self, now: Duration) {
        for retired in self.map.retire(now) {
            self.version += 1;
            match retired {
                Retired::Hidden(record) => self.event(Event::FailureClean(record)),
                Retired::Forgotten(node_id) => self.on_forgotten(node_id),
            }
        }
    }

    /// The map holds nothing of this member any more.
    fn on_forgotten(&mut self, node_id: NodeId) {
        self.queue.remove(node_id);
        self.event(Event::Forgotten(node_id));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::MAX_EPOCH_LEAP;
    use crate::packet::testing::{mend_checksum, packet, record};
    use crate::packet::{Body, Header};

    /// Most outputs of one call: answers to a full digest, gossip, probes and a line for each record.
    const MAX_OUTPUTS: usize = 100;

    fn member(cluster_id: Option<ClusterId>) -> Member {
        let identity = Identity {
            node_id: NodeId(77),
            boot_epoch: 3,
            boot_nonce: 5,
            address: SocketAddr::from(([127, 0, 0, 1], 6000)),
            name: "me".to_owned(),
        };
        let now = Duration::from_secs(1);
        let mut member = Member::new(identity, Options::default(), Vec::new(), now, 1);
        member.announce(now, 6004, cluster_id);
        member
    }

    /// The view, but for its version and for when members were heard.
    fn what_is_shown(member: &Member) -> crate::View {
        let mut view = member.view(Duration::ZERO);
        for shown in &mut view.members {
            shown.heard_at = Duration::ZERO;
        }
        view
    }

    fn check_version(member: &Member, before: &crate::View) {
        let now = what_is_shown(member);
        assert!(now.version >= before.version);
        if now.version == before.version {
            assert!(now == *before, "a change of the view, not of its version");
        }
    }

    fn check_outputs(member: &mut Member) {
        let outputs: Vec<Output> = std::iter::from_fn(|| member.poll_output()).collect();
        assert!(
            outputs.len() <= MAX_OUTPUTS,
            "{} outputs of one call",
            outputs.len()
        );
        for output in outputs {
            if let Output::Send { bytes, .. } = output {
                assert!(bytes.len() <= crate::MAX_PACKET_BYTES);
                assert!(Packet::decode(&bytes).is_ok(), "what is sent can be read");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Packets of any content, from anyone, also in our own name, at any time.
        #[test]
        fn no_packets_break_a_member(
            bound in any::<bool>(),
            packets in prop::collection::vec((packet(), any::<[u8; 4]>(), 0..4000_u64), 1..40),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
        ) {
            let mut member = member(bound.then_some(ClusterId(1)));
            let mut now = Duration::from_secs(1);
            let mut damage = damage.into_iter();
            for (mut packet, choices, wait_ms) in packets {
                // Few ids, so that the packets meet.
                let few = |byte: u8| NodeId(75 + u128::from(byte % 6));
                packet.header.sender = few(choices[0]);
                packet.header.target = (choices[1] % 4 > 0).then_some(NodeId(77));
                for (i, update) in packet.updates.iter_mut().enumerate() {
                    update.record.node_id = few(choices[2].wrapping_add(i as u8));
                    if choices[3] % 2 == 0 {
                        update.record.incarnation = packet.header.incarnation;
                    }
                }
                let Some(mut bytes) = packet.encode() else { continue };
                if let Some((place, byte)) = damage.next() {
                    let place = place.index(bytes.len());
                    bytes[place] = byte;
                    mend_checksum(&mut bytes);
                }
                let before = member.me.incarnation;
                let shown = what_is_shown(&member);
                member.handle(now, SocketAddr::from(([127, 0, 0, 2], 6000)), &bytes);
                check_version(&member, &shown);
                check_outputs(&mut member);
                prop_assert!(member.me.incarnation >= before, "our incarnation never falls");
                let leap = member.me.incarnation.epochs_above(before);
                prop_assert!(leap <= MAX_EPOCH_LEAP, "we are led {} epochs up", leap);
                prop_assert_eq!(member.me.state, State::Alive, "only we let ourselves leave");
                now += Duration::from_millis(wait_ms);
                for _ in 0..20 {
                    if member.next_deadline() > now {
                        break;
                    }
                    let shown = what_is_shown(&member);
                    member.tick(now);
                    check_version(&member, &shown);
                    check_outputs(&mut member);
                }
                let ours = member.me.metadata.cluster_id;
                prop_assert!(member.map.iter().all(|entry| entry.record.belongs_with(ours)));
                prop_assert!(member.next_deadline() > now, "ticks come to an end");
            }
        }

        #[test]
        fn any_bytes_leave_a_member_as_it_was(bytes in prop::collection::vec(any::<u8>(), 0..1300)) {
            let mut member = member(None);
            let view = member.view(Duration::from_secs(1));
            member.handle(Duration::from_secs(1), SocketAddr::from(([127, 0, 0, 2], 9)), &bytes);
            prop_assert_eq!(member.view(Duration::from_secs(1)), view);
        }

        /// A large cluster of members with the longest names: nothing that is sent is too large.
        #[test]
        fn a_large_view_is_sent_in_small_packets(records in prop::collection::vec(record(), 50..300), theirs in any::<[u64; 4]>()) {
            let mut member = member(None);
            let now = Duration::from_secs(1);
            for mut record in records {
                record.state = State::Alive;
                record.metadata.name = "x".repeat(crate::MAX_NAME_BYTES);
                member.learn(now, NodeId(1), Update { record, accusers: BTreeSet::new() });
            }
            while member.poll_output().is_some() {}
            let mut buckets = Box::new([0; crate::BUCKETS]);
            buckets[..4].copy_from_slice(&theirs);
            for body in [Body::Digest { reply: false, buckets }, Body::Join { stamp: 1 }] {
                let header = Header {
                    sender: NodeId(1),
                    incarnation: Incarnation::first_of(1),
                    boot_nonce: 1,
                    cluster_id: None,
                    target: None,
                    view_hash: 0,
                };
                let packet = Packet { header, body, updates: Vec::new() };
                let bytes = packet.encode();
                prop_assert!(bytes.is_some());
                let from = SocketAddr::from(([127, 0, 0, 2], 6000));
                member.handle(now, from, &bytes.unwrap_or_default());
                check_outputs(&mut member);
            }
        }
    }

    #[test]
    fn who_is_forgotten_for_want_of_room_is_told_of_no_more() {
        let mut member = member(None);
        let now = Duration::from_secs(1);
        let learn = |member: &mut Member, id: usize, state: State| {
            let mut record = member.me.clone();
            record.node_id = NodeId(1000 + id as u128);
            record.state = state;
            let accusers = BTreeSet::new();
            member.learn(now, NodeId(1), Update { record, accusers });
        };
        for id in 0..crate::MAX_MEMBERS - 1 {
            learn(&mut member, id, State::Alive);
        }
        let gone = NodeId(1000);
        learn(&mut member, 0, State::Dead);
        assert!(member.queue.iter().any(|queued| queued == gone));
        let version = member.view_version();
        learn(&mut member, crate::MAX_MEMBERS, State::Alive);
        assert!(member.view_version() > version);
        assert!(member.map.get(gone).is_none());
        assert!(member.queue.iter().all(|queued| queued != gone));
        let mut outputs = std::iter::from_fn(|| member.poll_output());
        assert!(outputs.any(|output| output == Output::Event(Event::Forgotten(gone))));
    }
}
