//! The one loop that owns [`Raft`].
//!
//! It waits for an input, the disk or the next deadline; takes everything that waits; hands each to
//! [`Raft::step`] and carries out what comes back. It never waits for a peer, the disk or the state
//! machine: what it gives out goes into bounded queues, and what comes back is an input.
//!
//! All client entries that wait become one batch, **digest_entries**: one step, one write to disk,
//! one message to each peer. No timer gathers them: a round begins when every other task that could bring
//! one has had its turn, and what comes while the disk writes is the batch behind that write. So a lone
//! entry waits for nobody, and a thousand share what one costs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use raft_core::{
    Effect, Entry, Index, Input, Message, NodeId, Payload, Persisted, Position, Proposal, Raft,
    Refusal, RequestId, RoleName, Time,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::ask::{Ask, Inspection};
use crate::committed::Committed;
use crate::convert::{self, EncodedEntries};
use crate::disk::Disk;
use crate::events;
use crate::limits::{
    COMMITTED_BYTES, INBOX_BATCH, KNOCK_INTERVAL, MAX_WAITING_READS, NOTICE_PAUSE,
};
use crate::peers::{Lane, LinkReport, Links};
use crate::probes;
use crate::room::Room;
use crate::say;
use crate::shared::{Configurations, Ending, Shared, Standing};
use crate::snapshots::Snapshots;
use crate::waiters::{Answer, Waiters};

/// What the driver needs to begin.
pub struct Parts {
    /// The core, as the disk remembers it.
    pub raft: Raft,
    /// When its clock read zero.
    pub started: Instant,
    /// The daemon's shared state.
    pub shared: Arc<Shared>,
    /// Where inputs come from.
    pub inbox: mpsc::Receiver<Ask>,
    /// The other end of it.
    pub sender: mpsc::Sender<Ask>,
    /// The disk.
    pub disk: Disk,
    /// The disk's reports: the last one covers all before it.
    pub durable: watch::Receiver<Persisted>,
    /// Requests that wait for their entry to be applied.
    pub waiters: Arc<Waiters>,
    /// Feeds digest_commits.
    pub committed: Arc<Committed>,
    /// Whether the log may grow.
    pub room: Arc<Room>,
    /// Pulls the leader's snapshot.
    pub snapshots: Snapshots,
}

/// See the module.
pub struct Driver {
    parts: Parts,
    links: Links,
    next_request: RequestId,
    /// What waits to become the next batch: at most [`INBOX_BATCH`], and not for longer than the disk
    /// writes.
    puts: Vec<(Payload, oneshot::Sender<Answer>)>,
    /// Only while a batch is in the core's hands.
    proposals: HashMap<RequestId, (bool, oneshot::Sender<Answer>)>,
    reads: HashMap<RequestId, oneshot::Sender<Result<Index, Refusal>>>,
    leaves: HashMap<RequestId, oneshot::Sender<(bool, String)>>,
    encoded: EncodedEntries,
    /// The last write that the disk was given, and whether it is of usual size.
    submitted: u64,
    submitted_is_usual: bool,
    /// The last write that the disk reported and the core heard of.
    reported: u64,
    /// digest_commits was handed everything up to here.
    handed_out: Index,
    /// The core was told that everything up to here is applied.
    applied_told: Index,
    /// Leads, latest configuration, committed configuration: as published.
    published: (bool, Index, Index),
    bound: bool,
    /// A node that is left alone asks no sooner than this.
    next_knock: Instant,
    /// Operators' orders in the log, as published.
    skips: BTreeMap<Index, Index>,
    /// What tells the others how far the log is committed, if nothing else does until `notices_due`.
    notices: BTreeMap<NodeId, Message>,
    notices_due: Instant,
}

impl Driver {
    /// Ready to [`Driver::run`]; publishes the state as the disk remembers it.
    pub fn new(parts: Parts) -> Driver {
        let links = Links::new(parts.shared.clone(), parts.sender.clone());
        let mut driver = Driver {
            bound: parts.shared.cluster_id().is_some(),
            parts,
            links,
            next_request: 0,
            puts: Vec::new(),
            proposals: HashMap::new(),
            reads: HashMap::new(),
            leaves: HashMap::new(),
            encoded: EncodedEntries::default(),
            submitted: 0,
            submitted_is_usual: true,
            reported: 0,
            handed_out: 0,
            applied_told: 0,
            published: (false, Index::MAX, Index::MAX),
            next_knock: Instant::now() + KNOCK_INTERVAL,
            skips: BTreeMap::new(),
            notices: BTreeMap::new(),
            notices_due: Instant::now(),
        };
        driver.publish_skips();
        driver.publish_durable();
        driver.publish();
        driver
    }

    /// Runs until it is told to stop, or the daemon ends.
    pub async fn run(mut self) {
        let mut ending = self.parts.shared.ending.subscribe();
        let mut waiting = Vec::with_capacity(INBOX_BATCH);
        let timer = tokio::time::sleep_until(self.instant(self.parts.raft.next_deadline()));
        tokio::pin!(timer);
        loop {
            let deadline = self.instant(self.parts.raft.next_deadline());
            if timer.deadline() != deadline {
                timer.as_mut().reset(deadline);
            }
            tokio::select! {
                biased;
                _ = ending.wait_for(Option::is_some) => return,
                changed = self.parts.durable.changed() => {
                    if changed.is_err() {
                        return; // The disk has ended; it said why.
                    }
                }
                count = self.parts.inbox.recv_many(&mut waiting, INBOX_BATCH) => {
                    if count == 0 {
                        return;
                    }
                }
                () = &mut timer => self.step(Input::Tick),
                () = tokio::time::sleep_until(self.next_knock), if self.parts.raft.is_left_alone() => {}
                () = tokio::time::sleep_until(self.notices_due), if !self.notices.is_empty() => {}
            }
            // Whoever else has something to say says it now: without this, the first entry of many that have
            // arrived would be a batch of its own.
            tokio::task::yield_now().await;
            if let Some(done) = self.round(&mut waiting) {
                self.links.goodbye().await;
                let _ = done.send(());
                return;
            }
        }
    }

    /// One round: the disk's report, everything that waits, one batch of client entries.
    fn round(&mut self, waiting: &mut Vec<Ask>) -> Option<oneshot::Sender<()>> {
        while waiting.len() < INBOX_BATCH
            && let Ok(ask) = self.parts.inbox.try_recv()
        {
            waiting.push(ask);
        }
        let report = *self.parts.durable.borrow_and_update();
        if report.sequence > self.reported {
            self.reported = report.sequence;
            self.step(Input::Persisted(report));
        }
        let mut stop = None;
        for ask in waiting.drain(..) {
            match ask {
                Ask::Put { payload, reply } => self.puts.push((payload, reply)),
                Ask::Stop { done } => stop = Some(done),
                other => self.take(other),
            }
        }
        if !self.puts.is_empty() {
            if self.waits_for_disk() {
                // Who has given up has given its place back too.
                self.puts.retain(|(_, reply)| !reply.is_closed());
            } else {
                let puts = std::mem::take(&mut self.puts);
                self.digest_entries(puts);
            }
        }
        self.knock();
        self.give_notice();
        self.publish();
        self.encoded.clear();
        stop
    }

    /// Nobody waits for a notice: a client's answer does not, and a read on a follower brings its own. So it
    /// lets the next AppendEntries say the same for nothing, if one follows soon, and does not take the
    /// followers' time while an answer is still on its way. Only what tells of a new configuration leaves at
    /// once: who leaves with it may be gone the moment after (M5).
    fn put_off(&mut self, to: NodeId, notice: Message) {
        if self.parts.raft.committed_configuration().0 != self.published.2 {
            return self.send(to, notice);
        }
        if self.notices.is_empty() {
            self.notices_due = Instant::now() + NOTICE_PAUSE;
        }
        self.notices.insert(to, notice);
    }

    fn give_notice(&mut self) {
        if self.parts.raft.role() != RoleName::Leader {
            self.notices.clear(); // It is for the next leader to tell.
        }
        if !self.notices.is_empty() && Instant::now() >= self.notices_due {
            for (to, notice) in std::mem::take(&mut self.notices) {
                self.send(to, notice);
            }
        }
    }

    /// Asks the members from time to time whether this node still belongs to them, if nobody tells it; however
    /// often clients, or people who look at it, keep the loop busy meanwhile.
    fn knock(&mut self) {
        let now = Instant::now();
        if now >= self.next_knock && self.parts.raft.is_left_alone() {
            self.next_knock = now + KNOCK_INTERVAL;
            self.links
                .knock(&self.parts.raft.configuration().1.members());
        }
    }

    /// Hands one input to the core, and carries out what comes back.
    fn step(&mut self, input: Input) {
        let now = self.now();
        let effects = self.parts.raft.step(now, input);
        self.publish_skips();
        // Before any acknowledgement leaves: a Hello that is composed later must not claim less (D5).
        self.publish_durable();
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn take(&mut self, ask: Ask) {
        match ask {
            Ask::Message {
                from,
                message,
                permit,
            } => {
                events::log_received(&self.parts.shared, from, &message);
                self.step(Input::Message { from, message });
                drop(permit);
            }
            Ask::Hello {
                peer,
                boot,
                term,
                durable_index,
                challenged,
            } => {
                self.step(Input::Hello {
                    peer,
                    boot,
                    term,
                    durable_index,
                    challenged,
                });
            }
            Ask::StreamEnded { peer } => self.step(Input::StreamEnded { peer }),
            Ask::Link(report) => self.take_link_report(report),
            Ask::ReadIndex { deadline, reply } => self.take_read(deadline, reply),
            Ask::Probed {
                peer,
                boot,
                term,
                leads,
            } => {
                self.step(Input::Probed {
                    peer,
                    boot,
                    term,
                    leads,
                });
            }
            Ask::Fetched {
                peer,
                from,
                entries,
            } => {
                self.step(Input::Fetched {
                    peer,
                    from,
                    entries,
                });
            }
            Ask::Members(members) => self.step(Input::Members(members)),
            Ask::SnapshotMeta {
                index,
                log_time_ms,
                reply,
            } => {
                let _ = reply.send(self.parts.raft.snapshot_meta(index, log_time_ms));
            }
            Ask::SnapshotTaken {
                snapshot,
                keep_from,
            } => {
                self.step(Input::SnapshotTaken {
                    snapshot,
                    keep_from,
                });
            }
            Ask::SnapshotReceived { snapshot, taken } => {
                self.step(Input::SnapshotReceived { snapshot });
                drop(taken);
            }
            Ask::Stopping => self.step(Input::Stopping),
            Ask::StateMachineHealth { sick } => self.step(Input::StateMachineHealth { sick }),
            Ask::Found { cluster_id, alone } => self.step(Input::Found { cluster_id, alone }),
            Ask::GiveWay => self.step(Input::GiveWay),
            Ask::Leave { node, reply } => {
                let request = self.request();
                self.leaves.retain(|_, reply| !reply.is_closed());
                self.leaves.insert(request, reply);
                self.step(Input::Leave { request, node });
            }
            Ask::Transfer { to } => self.step(Input::Transfer { to }),
            Ask::ReadLog {
                question,
                entries,
                reply,
            } => {
                let _ = reply.send(self.parts.raft.answer(&question, entries));
            }
            Ask::Inspect { reply } => {
                let now = self.now();
                let inspection = Inspection {
                    peers: self.parts.raft.peers(),
                    now,
                    log_time_ms: self.parts.raft.log_time_ms(now),
                };
                let _ = reply.send(inspection);
            }
            // Taken out by the round.
            Ask::Put { .. } | Ask::Stop { .. } => {}
        }
    }

    fn take_link_report(&mut self, report: LinkReport) {
        if let Some(peer) = self.links.report(report) {
            self.step(Input::Connected { peer });
        }
    }

    fn take_read(&mut self, deadline: Instant, reply: oneshot::Sender<Result<Index, Refusal>>) {
        if self.reads.len() >= MAX_WAITING_READS {
            self.reads.retain(|_, reply| !reply.is_closed());
        }
        if self.reads.len() >= MAX_WAITING_READS {
            let _ = reply.send(Err(Refusal::Overloaded));
            return;
        }
        let request = self.request();
        self.reads.insert(request, reply);
        let deadline = self.time(deadline);
        self.step(Input::ReadIndex { request, deadline });
    }

    /// Whether entries would only wait behind a write that is under way. Not behind a large one: that a disk
    /// is sick shows by a write of usual size (D4), and none would follow. A sick disk is no reason to wait
    /// either: the core refuses.
    fn waits_for_disk(&self) -> bool {
        self.submitted > self.reported
            && self.submitted_is_usual
            && self.puts.len() < INBOX_BATCH
            && self.parts.raft.role() == RoleName::Leader
            && !self.parts.raft.health().disk_sick
    }

    /// Appends everything that waited, in order of arrival, as one batch.
    fn digest_entries(&mut self, puts: Vec<(Payload, oneshot::Sender<Answer>)>) {
        let applied = self.parts.shared.progress.recorded();
        if applied > self.applied_told {
            self.applied_told = applied;
            self.step(Input::Applied { index: applied });
        }
        let mut batch = Vec::with_capacity(puts.len());
        for (payload, reply) in puts {
            if reply.is_closed() {
                continue; // Whoever asked has given up: it was not appended, and never will be.
            }
            // An order to skip is the way out when nothing is applied, and so no log shrinks.
            let way_out = matches!(payload, Payload::Skip { .. });
            if !way_out && let Err(sentence) = self.parts.room.admit(payload.encoded_len() as u64) {
                let _ = reply.send(Answer::LogFull(sentence));
                continue;
            }
            let request = self.request();
            let in_session = match &payload {
                Payload::Command(command) => command.session != 0,
                _ => true,
            };
            self.proposals.insert(request, (in_session, reply));
            batch.push(Proposal { request, payload });
        }
        if batch.is_empty() {
            return;
        }
        let entries = batch.len();
        self.parts
            .shared
            .metrics
            .digest_entries_batch
            .observe(entries as f64);
        self.step(Input::PutEntries(batch));
        say!(
            debug,
            "DIGESTENTRIES",
            "{entries} entries, up to {:?}",
            self.parts.raft.last()
        );
        // The core answers every proposal at once. Dropping a reply tells "unknown".
        self.proposals.clear();
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Persist(write) => {
                let bytes: usize = write.entries.iter().map(Entry::cost_bytes).sum();
                self.submitted = write.sequence;
                self.submitted_is_usual = bytes <= self.parts.shared.config.max_batch_bytes;
                self.parts.disk.submit(write);
            }
            Effect::Send { to, message } if matches!(message, Message::CommitNotice { .. }) => {
                self.put_off(to, message);
            }
            Effect::Send { to, message } => self.send(to, message),
            Effect::Fetch {
                peer,
                from,
                to,
                max_bytes,
            } => {
                let sender = self.parts.sender.clone();
                let read = self.parts.disk.read(from, to, max_bytes);
                tokio::spawn(async move {
                    // Nothing was readable: the core asks again.
                    let entries = read.await.unwrap_or_default();
                    let _ = sender
                        .send(Ask::Fetched {
                            peer,
                            from,
                            entries,
                        })
                        .await;
                });
            }
            Effect::PullSnapshot { from, position } => self.parts.snapshots.pull(from, position),
            // digest_commits finds it when it comes to what the log has no more.
            Effect::SnapshotInstalled { snapshot } => say!(
                info,
                "SNAPSHOT",
                "the log goes on behind the snapshot as of {}",
                snapshot.position.index
            ),
            Effect::Committed { index } => self.hand_out(index),
            Effect::Accepted { request, position } => self.accepted(request, position),
            Effect::Refused { request, reason } => {
                self.parts.shared.metrics.entries_refused.inc();
                if let Some((_, reply)) = self.proposals.remove(&request) {
                    say!(debug, "PUTENTRY-X", "refused: {reason}");
                    let _ = reply.send(Answer::Refused(reason));
                }
                // Who asked to leave asks again, or elsewhere, when nobody answers any more.
                self.leaves.remove(&request);
            }
            Effect::SteppedDown => self
                .parts
                .waiters
                .stepped_down(self.parts.raft.commit_index()),
            Effect::ReadReady { request, index } => {
                if let Some(reply) = self.reads.remove(&request) {
                    let _ = reply.send(Ok(index));
                }
            }
            Effect::ReadFailed { request, reason } => {
                if let Some(reply) = self.reads.remove(&request) {
                    let _ = reply.send(Err(reason));
                }
            }
            Effect::Probe { peer, boot, term } => {
                probes::probe(&self.parts.shared, &self.parts.sender, peer, boot, term)
            }
            Effect::LeaveDecided {
                request,
                removed,
                sentence,
            } => {
                say!(info, "SELF", "leave: {sentence}");
                if let Some(reply) = self.leaves.remove(&request) {
                    let _ = reply.send((removed, sentence));
                }
            }
            Effect::Challenge { peer, number } => {
                probes::challenge(&self.parts.shared, &self.parts.sender, peer, number)
            }
            Effect::RolledBack { peer } => self.parts.shared.roll_back(peer),
            Effect::Retired => self.parts.shared.end(Ending::Retired(format!(
                "this node's id {} has left the cluster for good",
                self.parts.shared.id
            ))),
            Effect::Event(event) => events::log(&self.parts.shared, &event),
        }
    }

    fn send(&mut self, to: NodeId, message: Message) {
        let says_it_too = matches!(
            message,
            Message::AppendEntries(_) | Message::CommitNotice { .. }
        );
        if says_it_too {
            self.notices.remove(&to);
        }
        events::log_sent(&self.parts.shared, to, &message);
        let lane = if message.is_bulk() {
            Lane::Bulk
        } else {
            Lane::Small
        };
        self.links
            .send(to, lane, convert::to_wire(message, &mut self.encoded));
    }

    /// Gives digest_commits what is committed and durable here, from memory where it still is.
    fn hand_out(&mut self, index: Index) {
        let entries = self
            .parts
            .raft
            .entries(self.handed_out + 1, index, COMMITTED_BYTES);
        self.parts
            .committed
            .hand_out(entries.unwrap_or_default(), index);
        self.handed_out = index;
        self.parts.snapshots.forget_failed_pull();
    }

    fn accepted(&mut self, request: RequestId, position: Position) {
        self.parts.shared.metrics.entries_accepted.inc();
        if let Some((in_session, reply)) = self.proposals.remove(&request) {
            self.parts.waiters.wait(position, in_session, reply);
        }
    }

    /// Before anything that is committed is handed out: digest_commits must not run an entry that an
    /// order behind it names.
    fn publish_skips(&mut self) {
        let skips = self.parts.raft.skips();
        if *skips == self.skips {
            return;
        }
        self.skips.clone_from(skips);
        // The first order counts.
        let by_entry = skips.iter().rev().map(|(at, skipped)| (*skipped, *at));
        self.parts.shared.set_skips(by_entry.collect());
    }

    fn publish_durable(&self) {
        let (raft, progress) = (&self.parts.raft, &self.parts.shared.progress);
        progress.set_durable(raft.durable_index());
        // While a term is being written the last claim stands: it is as true as it was.
        if let Some(claim) = raft.durable_claim() {
            progress.set_claim(claim);
        }
    }

    /// Shows the others where the core stands.
    fn publish(&mut self) {
        let (raft, shared) = (&self.parts.raft, &self.parts.shared);
        let standing = Standing {
            role: raft.role(),
            term: raft.term(),
            leader: raft.leader(),
        };
        let progress = &shared.progress;
        progress.set_commit(raft.commit_index());
        progress.set_last(raft.last().index);
        progress.set_first(raft.base().index + 1);
        progress.set_snapshot(
            raft.snapshot()
                .map_or(0, |snapshot| snapshot.position.index),
        );
        progress.set_has_entries(raft.has_entries());
        shared.standing.send_if_modified(|published| {
            let changed = *published != standing;
            *published = standing;
            changed
        });
        self.publish_configuration(standing.role == RoleName::Leader);
        if self.published.0 {
            for peer in self.links.recovered() {
                self.step(Input::Connected { peer });
            }
        }
        if !self.bound {
            self.parts
                .shared
                .set_log_cluster(self.parts.raft.cluster_id());
            if self.parts.raft.durable_index() >= 1 {
                self.bind();
            }
        }
    }

    fn publish_configuration(&mut self, leads: bool) {
        let (index, latest) = self.parts.raft.configuration();
        let (committed_index, committed) = self.parts.raft.committed_configuration();
        let now = (leads, index, committed_index);
        if now == self.published {
            return;
        }
        self.published = now;
        let members = if leads {
            latest.members()
        } else {
            BTreeSet::new()
        };
        self.parts.shared.set_configurations(Configurations {
            index,
            latest,
            committed,
        });
        self.links.keep(members);
    }

    /// The founding entry is durable here: from now on this node belongs to its cluster (F4).
    fn bind(&mut self) {
        let Some(cluster_id) = self.parts.raft.cluster_id() else {
            return;
        };
        self.bound = true;
        let shared = self.parts.shared.clone();
        let written = self.parts.disk.bind(cluster_id);
        tokio::spawn(async move {
            match written.await {
                Ok(()) => {
                    say!(info, "SELF", "this node belongs to cluster {cluster_id}");
                    shared.cluster.send_replace(Some(cluster_id));
                }
                Err(sentence) => shared.end(Ending::Failed(sentence)),
            }
        });
    }

    fn request(&mut self) -> RequestId {
        self.next_request += 1;
        self.next_request
    }

    fn now(&self) -> Time {
        self.time(Instant::now())
    }

    fn time(&self, instant: Instant) -> Time {
        let micros = instant
            .saturating_duration_since(self.parts.started)
            .as_micros();
        Time(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    fn instant(&self, time: Time) -> Instant {
        // No later than tokio's timers reach; waking up for nothing once an hour does no harm.
        let farthest = self.now() + Duration::from_secs(3600);
        self.parts.started + Duration::from_micros(time.min(farthest).0)
    }
}
