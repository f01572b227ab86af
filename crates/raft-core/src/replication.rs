//! Log replication (§5.3): batched, pipelined, and resumed where the logs part.

use crate::entry::Entry;
use crate::ids::{Index, NodeId, Position};
use crate::io::{Effect, Event};
use crate::message::{
    AppendEntries, AppendEntriesReply, AppendOutcome, Heartbeat, HeartbeatReply, Message,
};
use crate::progress::Mode;
use crate::raft::{Raft, Role};

impl Raft {
    // ---- leader ----

    pub(crate) fn replicate_to_all(&mut self) {
        for peer in self.receivers() {
            self.append_entries_until_caught_up(peer);
        }
    }

    /// Sends to one peer whatever it lacks, as far as its limits allow. Each of its answers calls
    /// this again: the seed's `appendEntriesUntilSuccess`, one turn per answer.
    pub(crate) fn append_entries_until_caught_up(&mut self, peer: NodeId) {
        loop {
            let last = self.log.last().index;
            let (max_bytes, max_entries) =
                (self.options.max_batch_bytes, self.options.max_batch_entries);
            let Role::Leader(leading) = &mut self.role else {
                return;
            };
            let Some(progress) = leading.progress.get_mut(&peer) else {
                return;
            };
            let probing = matches!(progress.mode, Mode::Probe { .. });
            // A probe may be empty: its answer alone tells where the logs join.
            if !progress.may_send(&self.options) || (progress.next_index > last && !probing) {
                return;
            }
            let from = progress.next_index;
            if from <= self.log.base().index {
                return self.offer_snapshot(peer);
            }
            match self.log.slice(from, last, max_bytes, max_entries) {
                Some(entries) => self.send_entries(peer, from, entries),
                None => {
                    progress.fetching = Some(from);
                    self.effect(Effect::Fetch {
                        peer,
                        from,
                        to: last,
                        max_bytes,
                    });
                }
            }
        }
    }

    /// What the peer lacks is in the log no more (§7): it is told which snapshot to pull, again and
    /// again while it is stuck.
    fn offer_snapshot(&mut self, peer: NodeId) {
        let (term, now) = (self.term(), self.now);
        let Some(position) = self.log.snapshot().map(|snapshot| snapshot.position) else {
            return;
        };
        let Some(progress) = self.leading().and_then(|l| l.progress.get_mut(&peer)) else {
            return;
        };
        // It may still be pulling an earlier one, and will go on behind that.
        progress.pulling.get_or_insert(position.index);
        progress.mode = Mode::Snapshot;
        progress.last_progress = now;
        let index = position.index;
        self.event(Event::SnapshotOffered { peer, index });
        self.send(peer, Message::InstallSnapshot { term, position });
    }

    fn send_entries(&mut self, peer: NodeId, from: Index, entries: Vec<Entry>) {
        let (term, commit_index, now) = (self.term(), self.commit_index, self.now);
        let Some(previous_term) = self.log.term_at(from - 1) else {
            return;
        };
        let previous = Position {
            index: from - 1,
            term: previous_term,
        };
        let bytes = entries.iter().map(Entry::cost_bytes).sum();
        let last = from + entries.len() as Index - 1;
        let Some(progress) = self.leading().and_then(|l| l.progress.get_mut(&peer)) else {
            return;
        };
        progress.sent(last, bytes, now);
        progress.commit_told = progress.commit_told.max(commit_index.min(last));
        let append = AppendEntries {
            term,
            previous,
            entries,
            commit_index,
        };
        self.send(peer, Message::AppendEntries(append));
    }

    /// Older entries were read from the disk for a peer. They are sent only if they are still what
    /// this leader's log says.
    pub(crate) fn on_fetched(&mut self, peer: NodeId, from: Index, entries: Vec<Entry>) {
        let now = self.now;
        let Some(progress) = self.leading().and_then(|l| l.progress.get_mut(&peer)) else {
            return;
        };
        if progress.fetching != Some(from) {
            return;
        }
        progress.fetching = None;
        if progress.next_index != from {
            // A late acknowledgement moved on meanwhile: these are not wanted, what follows is.
            return self.append_entries_until_caught_up(peer);
        }
        let genuine = !entries.is_empty()
            && entries
                .iter()
                .zip(from..)
                .all(|(entry, index)| entry.index == index && self.log.matches(entry.position()));
        let Some(progress) = self.leading().and_then(|l| l.progress.get_mut(&peer)) else {
            return;
        };
        if genuine {
            self.send_entries(peer, from, entries);
            self.append_entries_until_caught_up(peer);
        } else {
            // Not readable now: the next heartbeat's answer finds it stuck, and tries again.
            progress.mode = Mode::Probe {
                awaiting: Some(now),
            };
        }
    }

    /// A stream to the peer is new: what was under way on the old one may be lost.
    pub(crate) fn on_connected(&mut self, peer: NodeId) {
        let now = self.now;
        let Some(leading) = self.leading() else {
            return;
        };
        if let Some(progress) = leading.progress.get_mut(&peer) {
            progress.probe(now);
            let succession = self.order_of_succession();
            self.send_heartbeat(peer, succession);
            self.append_entries_until_caught_up(peer);
        }
    }

    pub(crate) fn on_append_entries_reply(&mut self, from: NodeId, reply: &AppendEntriesReply) {
        let (now, last) = (self.now, self.log.last().index);
        let Some(leading) = self.leading() else {
            return;
        };
        let Some(progress) = leading.progress.get_mut(&from) else {
            return;
        };
        progress.answers(now);
        match reply.outcome {
            AppendOutcome::Durable { index } if index > last => {
                return self.event(Event::Nonsense {
                    peer: from,
                    what: "an acknowledgement beyond the end of the log",
                });
            }
            AppendOutcome::Durable { index } => {
                progress.acknowledged(index, now);
                self.advance_commit_index();
                self.tell_commit_index();
            }
            AppendOutcome::Conflict { refused, .. } if mutant!(ConflictAcknowledges) => {
                progress.acknowledged(refused.min(last), now);
                self.advance_commit_index();
            }
            AppendOutcome::Conflict { refused, hint } => {
                self.look_further_back(from, refused, hint)
            }
        }
        self.append_entries_until_caught_up(from);
        self.run_transfer();
    }

    fn look_further_back(&mut self, peer: NodeId, refused: Index, hint: Position) {
        let place = self.log.last_possible_match(hint);
        let now = self.now;
        let Some(progress) = self.leading().and_then(|l| l.progress.get_mut(&peer)) else {
            return;
        };
        let late = match &progress.mode {
            Mode::Probe { .. } => refused != progress.next_index - 1,
            Mode::Replicate { .. } => false,
            Mode::Snapshot => true,
        };
        if refused < progress.match_index || late {
            return; // A late answer to something that was settled since.
        }
        if refused == progress.match_index && refused > 0 {
            // It denies what it acknowledged. Most often its acknowledgement has overtaken the denial. If its
            // disk went back, that is found out where its streams open, and never by a late word (D5). What is
            // under way goes on; a probe is made again when it is stuck, which is no hot loop.
            if let Mode::Probe { awaiting } = &mut progress.mode {
                *awaiting = Some(now);
            }
            return;
        }
        progress.mode = Mode::Probe { awaiting: None };
        progress.fetching = None;
        progress.last_progress = now;
        progress.next_index = (place.index + 1).min(refused).max(progress.match_index + 1);
        let next_index = progress.next_index;
        self.event(Event::RetryAppendEntries { peer, next_index });
    }

    pub(crate) fn on_heartbeat_reply(&mut self, from: NodeId, reply: &HeartbeatReply) {
        let now = self.now;
        let Role::Leader(leading) = &mut self.role else {
            return;
        };
        let Some(progress) = leading.progress.get_mut(&from) else {
            return;
        };
        progress.answers(now);
        progress.health = reply.health;
        if reply.round <= leading.reads.rounds() {
            progress.round = progress.round.max(reply.round);
        }
        if progress.is_stuck(&self.options, now) && !mutant!(LostAppendNotRepeated) {
            progress.probe(now);
        }
        self.note_catching_up(from);
        self.confirm_reads();
        self.append_entries_until_caught_up(from);
    }

    // ---- follower ----

    pub(crate) fn on_heartbeat(&mut self, from: NodeId, heartbeat: &Heartbeat) {
        if self.is_rival(from) {
            return;
        }
        self.hear_leader(from, Some(heartbeat.boot));
        self.set_succession(&heartbeat.succession);
        self.follow_commit_index(heartbeat.commit_index);
        let reply = HeartbeatReply {
            term: self.term(),
            round: heartbeat.round,
            health: self.health(),
        };
        self.send(from, Message::HeartbeatReply(reply));
        self.ask_for_reads();
    }

    /// Rule 5 of figure 2 without entries. Nothing rests on an answer: whether this node lives, how it is,
    /// and who confirms a read is asked by heartbeats, how far it is by AppendEntries.
    pub(crate) fn on_commit_notice(&mut self, from: NodeId, commit_index: Index) {
        if self.is_rival(from) {
            return;
        }
        self.hear_leader(from, None);
        self.follow_commit_index(commit_index);
        self.ask_for_reads();
    }

    /// Two leaders in one term cannot be (§5.2): whoever claims it is not obeyed.
    pub(crate) fn is_rival(&mut self, from: NodeId) -> bool {
        let rival = match self.role {
            Role::Leader(_) => true,
            _ => self.leader().is_some_and(|leader| leader != from),
        };
        if rival {
            let what = "a second leader in one term";
            self.event(Event::Nonsense { peer: from, what });
        }
        rival
    }

    /// The five rules of figure 2, "AppendEntries RPC, receiver implementation". Rule 1, the term,
    /// was checked before.
    pub(crate) fn on_append_entries(&mut self, from: NodeId, append: AppendEntries) {
        if self.is_rival(from) {
            return;
        }
        // W3: every word of the leader refreshes the timer, a refused one too.
        if !mutant!(W3RefusedIsNoWord) || self.log.matches(append.previous) {
            self.hear_leader(from, None);
        }
        let AppendEntries {
            previous,
            entries,
            commit_index,
            ..
        } = append;
        if !is_well_formed(previous, &entries, self.term()) {
            let what = "an AppendEntries with gaps or impossible terms";
            return self.event(Event::Nonsense { peer: from, what });
        }
        let Some((previous, entries)) = self.behind_base(previous, entries) else {
            let what = "an AppendEntries that contradicts what is settled";
            return self.event(Event::Nonsense { peer: from, what });
        };
        // Rule 2: refuse if the entry before the first one is not here with that term.
        let joins = mutant!(LogMatchingByIndex) && previous.index <= self.log.last().index;
        if !self.log.matches(previous) && !joins {
            let outcome = AppendOutcome::Conflict {
                refused: previous.index,
                hint: self.log.last_possible_match(previous),
            };
            let reply = AppendEntriesReply {
                term: self.term(),
                outcome,
            };
            return self.send(from, Message::AppendEntriesReply(reply));
        }
        let last_sent = previous.index + entries.len() as Index;
        for entry in entries {
            let known = self.log.matches(entry.position()) && !mutant!(TruncateWithoutConflict);
            let kept = mutant!(ConflictKept) && entry.index <= self.log.last().index;
            if known || kept {
                continue; // Known already: a repeated or overtaken message.
            }
            // Rule 3: an entry of another term at the same index goes, with all that follow it.
            if entry.index <= self.log.last().index {
                // The founding entry binds from the moment that it is in the log (F4).
                let founded =
                    Index::from(self.cluster_id().is_some() && !mutant!(F4FoundingReplaced));
                let settled = self
                    .commit_index
                    .max(self.following.verified_index)
                    .max(founded);
                if entry.index <= settled && !mutant!(TruncateWithoutConflict) {
                    let what = "an AppendEntries that contradicts what is settled";
                    return self.event(Event::Nonsense { peer: from, what });
                }
                let to = self.log.last().index;
                self.event(Event::EntryConflict {
                    from: entry.index,
                    to,
                });
                self.truncate_log(entry.index);
            }
            // Rule 4: append what is new.
            self.append_to_log(entry);
        }
        self.following.verified_index = self.following.verified_index.max(last_sent);
        self.following.owes_acknowledgement = true;
        // Rule 5: commit what the leader has committed, as far as it was verified here.
        self.follow_commit_index(commit_index);
        self.acknowledge_durable();
        self.ask_for_reads();
    }

    /// An AppendEntries without what a snapshot of this node covers: that is committed, and so the
    /// same in the leader's log (§5.4.3). None: it is not the same there.
    fn behind_base(
        &self,
        previous: Position,
        mut entries: Vec<Entry>,
    ) -> Option<(Position, Vec<Entry>)> {
        let base = self.log.base();
        if previous.index >= base.index {
            return Some((previous, entries));
        }
        let covered = entries.partition_point(|entry| entry.index <= base.index);
        let last_covered = entries.drain(..covered).next_back();
        let contradicts = |entry: Entry| entry.index == base.index && entry.term != base.term;
        // One that ends before the base proves as much as an empty one that begins there.
        (!last_covered.is_some_and(contradicts)).then_some((base, entries))
    }

    /// Tells the leader what is durable here and matches its log. Said when it grows, and once for
    /// every AppendEntries that brought nothing new.
    pub(crate) fn acknowledge_durable(&mut self) {
        let following = &mut self.following;
        let Some(leader) = following.leader() else {
            return;
        };
        let index = if mutant!(AckBeforeDurable) {
            following.verified_index
        } else if mutant!(AckUnverified) {
            self.disk.durable_index
        } else {
            following.verified_index.min(self.disk.durable_index)
        };
        let complete = index >= following.verified_index;
        let grown = index > following.acknowledged;
        if leader == self.id || !(grown || (complete && following.owes_acknowledgement)) {
            return;
        }
        following.acknowledged = following.acknowledged.max(index);
        following.owes_acknowledgement = !complete;
        let outcome = AppendOutcome::Durable { index };
        let reply = AppendEntriesReply {
            term: self.term(),
            outcome,
        };
        self.send(leader, Message::AppendEntriesReply(reply));
    }
}

/// Contiguous, terms never falling and never beyond the leader's own.
fn is_well_formed(previous: Position, entries: &[Entry], term: u64) -> bool {
    let mut last = previous;
    previous.term <= term
        && entries.iter().all(|entry| {
            let follows = entry.index.checked_sub(1) == Some(last.index);
            let fits = follows && entry.term >= last.term;
            last = entry.position();
            fits && entry.term <= term
        })
}
