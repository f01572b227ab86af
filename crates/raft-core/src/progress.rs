//! How far one peer is, and what may be sent to it (§5.3).

use std::collections::VecDeque;

use crate::ids::{Index, Time};
use crate::io::PeerView;
use crate::message::Health;
use crate::options::Options;

/// The leader's view of one peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Progress {
    /// The next entry to send.
    pub(crate) next_index: Index,
    /// Durable there, by its own word in this term.
    pub(crate) match_index: Index,
    pub(crate) mode: Mode,
    /// The end of the first snapshot that it was offered since it acknowledged anything: it may be
    /// pulling that one still, and will go on behind it.
    pub(crate) pulling: Option<Index>,
    /// Entries from here on are being read from the disk for it.
    pub(crate) fetching: Option<Index>,
    /// When it last answered; until it has, when this leader began to count.
    pub(crate) last_contact: Time,
    /// It has answered this leader in this term.
    pub(crate) answered: bool,
    /// Last AppendEntriesReply, or the start of the present mode.
    pub(crate) last_progress: Time,
    pub(crate) health: Health,
    /// Highest round of read confirmation that it answered.
    pub(crate) round: u64,
    /// The commit index that it was last told.
    pub(crate) commit_told: Index,
    /// Without a gap, close behind the leader since then.
    pub(crate) caught_up_since: Option<Time>,
}

/// Whether the leader knows where the peer's log joins its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    /// It does not: one AppendEntries at a time, and the answer tells where to look next.
    Probe {
        /// When the one that is under way was sent.
        awaiting: Option<Time>,
    },
    /// It does: entries leave as they come, without waiting for answers.
    Replicate {
        /// Last index and bytes of every AppendEntries under way.
        inflight: VecDeque<(Index, usize)>,
        /// Sum of their bytes.
        bytes: usize,
    },
    /// What it lacks is in the log no more: it pulls a snapshot (§7).
    Snapshot,
}

impl Progress {
    pub(crate) fn new(next_index: Index, now: Time) -> Progress {
        Progress {
            next_index,
            match_index: if mutant!(MatchAssumed) {
                next_index - 1
            } else {
                0
            },
            mode: Mode::Probe { awaiting: None },
            pulling: None,
            fetching: None,
            last_contact: now,
            answered: false,
            last_progress: now,
            health: Health::default(),
            round: 0,
            commit_told: 0,
            caught_up_since: None,
        }
    }

    /// It has answered, whatever it said.
    pub(crate) fn answers(&mut self, now: Time) {
        self.last_contact = now;
        self.answered = true;
    }

    pub(crate) fn view(&self) -> PeerView {
        PeerView {
            match_index: self.match_index,
            last_contact: self.last_contact,
            answered: self.answered,
            health: self.health,
        }
    }

    pub(crate) fn for_each_time(&mut self, change: &mut dyn FnMut(&mut Time)) {
        change(&mut self.last_contact);
        change(&mut self.last_progress);
        if let Some(since) = &mut self.caught_up_since {
            change(since);
        }
        if let Mode::Probe {
            awaiting: Some(since),
        } = &mut self.mode
        {
            change(since);
        }
    }

    /// What was under way may be lost: ask again where the logs join.
    pub(crate) fn probe(&mut self, now: Time) {
        // Only a pipeline runs ahead of what is known; a probe looks where it looked.
        if matches!(self.mode, Mode::Replicate { .. }) {
            self.next_index = self.match_index + 1;
        }
        self.mode = Mode::Probe { awaiting: None };
        self.last_progress = now;
        self.fetching = None;
    }

    /// Whether another AppendEntries may leave now.
    pub(crate) fn may_send(&self, options: &Options) -> bool {
        self.fetching.is_none()
            && match &self.mode {
                Mode::Probe { awaiting } => awaiting.is_none(),
                Mode::Snapshot => false,
                Mode::Replicate { inflight, bytes } => {
                    inflight.len() < options.max_inflight_batches
                        && *bytes < options.max_inflight_bytes
                }
            }
    }

    pub(crate) fn sent(&mut self, last: Index, bytes: usize, now: Time) {
        match &mut self.mode {
            Mode::Probe { awaiting } => *awaiting = Some(now),
            Mode::Snapshot => {}
            Mode::Replicate {
                inflight,
                bytes: total,
            } => {
                if inflight.is_empty() {
                    self.last_progress = now;
                }
                self.next_index = last + 1;
                inflight.push_back((last, bytes));
                *total += bytes;
            }
        }
    }

    /// Everything up to `index` is durable there.
    pub(crate) fn acknowledged(&mut self, index: Index, now: Time) {
        self.match_index = self.match_index.max(index);
        self.next_index = self.next_index.max(self.match_index + 1);
        self.last_progress = now;
        self.pulling = None;
        match &mut self.mode {
            Mode::Probe { .. } | Mode::Snapshot => {
                self.mode = Mode::Replicate {
                    inflight: VecDeque::new(),
                    bytes: 0,
                };
                // Nothing is under way behind what it has: go on right there.
                self.next_index = self.match_index + 1;
            }
            Mode::Replicate { inflight, bytes } => {
                while inflight.front().is_some_and(|(last, _)| *last <= index) {
                    if let Some((_, size)) = inflight.pop_front() {
                        *bytes -= size;
                    }
                }
            }
        }
    }

    /// Something was sent and has gone unanswered for so long that it must be taken for lost.
    pub(crate) fn is_stuck(&self, options: &Options, now: Time) -> bool {
        let patience = options.heartbeat_interval * 2;
        match &self.mode {
            Mode::Probe { awaiting } => awaiting.is_some_and(|at| now.since(at) >= patience),
            // The offer may be lost, and a newer snapshot may have taken its place.
            Mode::Snapshot => now.since(self.last_progress) >= patience,
            Mode::Replicate { inflight, .. } => {
                !inflight.is_empty() && now.since(self.last_progress) >= patience
            }
        }
    }
}
