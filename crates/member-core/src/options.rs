//! What the caller decides, and what follows from it.

use std::time::Duration;

/// Dead and departed members are remembered this long; the dead keep their address and are
/// contacted from time to time, which is how a partition heals by itself.
pub const FORGET_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Most records that are held, the dead included. The next unknown member is refused.
pub const MAX_MEMBERS: usize = 5_000;

/// Most members whose last incarnation is remembered after they are forgotten.
pub const MAX_EPITAPHS: usize = 20_000;

/// Most addresses of introducers, and of members known from an earlier run, that are tried.
pub const MAX_JOIN_ADDRESSES: usize = 256;

/// Most addresses that one round of JOIN goes to.
pub const JOIN_FANOUT: usize = 24;

/// Pause after the first round of JOIN without an answer; doubles up to [`JOIN_PAUSE_MAX`].
pub const JOIN_PAUSE_MIN: Duration = Duration::from_millis(200);

/// Longest pause between two rounds of JOIN, before jitter.
pub const JOIN_PAUSE_MAX: Duration = Duration::from_secs(5);

/// A leaving member waits this long for others to acknowledge its LEAVE.
pub const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Acknowledgements of its LEAVE that a member waits for, when there are that many others.
pub const LEAVE_ACKS: usize = 2;

/// Watchers on each side of a member on the ring.
pub const WATCHERS_PER_SIDE: usize = 2;

/// Members that are asked to probe a silent one on the asker's behalf.
pub const INDIRECT_PROBES: usize = 3;

/// Packets with which one digest is answered at most.
pub const MAX_DELTA_PACKETS: usize = 8;

/// Timers of the failure detector.
///
/// The bound: with loss-free links a crashed member is Dead in every connected view within
/// `fail_timeout` of its crash. It is spent so: 5/12 until a watcher misses heartbeats, 2/12 for
/// direct and indirect probes, 3/12 of suspicion, in which the accused may refute; the last 2/12
/// are left for the news to spread and for timers that fire late. A suspicion that no second
/// watcher confirms, though there is one that could, waits three times as long before it becomes a
/// death: one watcher with a bad link then does not kill a healthy member. After a pause of the
/// observer itself (see `Member`) verdicts wait another 3 gossip intervals.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Options {
    /// Between two heartbeats to a neighbour. Never used above a sixth of `fail_timeout`.
    pub gossip_interval: Duration,
    /// Bound of the time from a crash to Dead in every connected view.
    pub fail_timeout: Duration,
    /// Dead and departed members are shown this long, then hidden.
    pub cleanup_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            gossip_interval: Duration::from_secs(1),
            fail_timeout: Duration::from_secs(6),
            cleanup_timeout: Duration::from_secs(12),
        }
    }
}

impl Options {
    /// Between two heartbeats.
    pub(crate) fn interval(&self) -> Duration {
        self.gossip_interval
            .min(self.fail_timeout / 6)
            .max(Duration::from_millis(1))
    }
    /// Between two rounds of gossip while there is something to tell.
    pub(crate) fn gossip_pause(&self) -> Duration {
        self.interval() / 5
    }
    /// Silence after which a watcher probes.
    pub(crate) fn silence(&self) -> Duration {
        self.fail_timeout * 5 / 12
    }
    /// A neighbour that is heard, but proves for this long that it does not hear us, is probed too.
    pub(crate) fn deafness(&self) -> Duration {
        self.fail_timeout * 10 / 12
    }
    /// How long a probe waits for an answer, over all its steps.
    pub(crate) fn probe_timeout(&self) -> Duration {
        self.fail_timeout / 6
    }
    /// From a suspicion that is confirmed to death.
    pub(crate) fn suspicion_timeout(&self) -> Duration {
        self.fail_timeout / 4
    }
    /// From a suspicion that nobody confirms, though somebody could, to death.
    pub(crate) fn lone_suspicion_timeout(&self) -> Duration {
        self.fail_timeout * 3 / 4
    }
    /// A timer that fires this late means that the whole process was paused.
    pub(crate) fn pause_threshold(&self) -> Duration {
        self.interval()
    }
    /// After a pause nobody is accused for this long.
    pub(crate) fn amnesty(&self) -> Duration {
        self.interval() * 3
    }
    /// Least time between two digests that differing views cause.
    pub(crate) fn digest_pause(&self) -> Duration {
        self.interval() / 4
    }
    /// A member that has heard from nobody for this long is an orphan and joins again.
    pub(crate) fn orphan_timeout(&self) -> Duration {
        self.cleanup_timeout
    }
    /// How long a process with our own identity has to answer before it counts as gone.
    pub(crate) fn twin_timeout(&self) -> Duration {
        self.interval() * 3
    }
}
