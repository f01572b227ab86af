//! One value for all nodes that behave alike.
//!
//! Who explores every schedule of a cluster must know an old state when it comes back. Two nodes may
//! differ only in how long ago something was, in how often their dice were thrown, or in how many
//! writes their disks have seen: differences that no rule of safety may rest on. Here they are taken
//! out.

use crate::dice::Dice;
use crate::ids::Time;
use crate::raft::Raft;

/// What [`Raft::canonicalise`] did to the names of writes, so that those that are still under way can be
/// renamed alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// Every [`crate::Write::sequence`] is lower by this now.
    pub sequences: u64,
    /// The [`crate::Write::generation`] that is 1 now. Those before it count for nothing, whichever
    /// they were (D2): they are 0.
    pub generation: u64,
}

impl Raft {
    /// Turns this node into the one that stands for all that differ from it in nothing but time, dice
    /// and the names of writes. Its clock stands at `now` afterwards.
    ///
    /// Of what lies behind is left whether it is fresh, or [`elect_timeout_max`] ago and more; of what
    /// is to come, whether it comes within a heartbeat's interval. All else comes just before
    /// [`elect_timeout_max`] is over, so that a disk that has not answered is not sick by then. Log time
    /// stands still, and a cold start has no attempts of its own left: they differ in their timers alone.
    ///
    /// [`elect_timeout_max`]: crate::Options::elect_timeout_max
    pub fn canonicalise(&mut self, now: Time) -> Renamed {
        let (was, patience) = (self.now, self.options.elect_timeout_max);
        let soon = self.options.heartbeat_interval;
        let late = patience.saturating_sub(std::time::Duration::from_micros(1));
        self.for_each_time(&mut |time| {
            *time = match *time {
                Time::NEVER => Time::NEVER,
                ahead if ahead > was && ahead - was <= soon => now + soon,
                ahead if ahead > was => now + late,
                behind if was - behind < patience => now,
                _ => Time(0),
            }
        });
        self.now = now;
        // Not the same for all: two that lead must not give out the same token.
        #[allow(clippy::cast_possible_truncation)]
        let seed = self.id.0 as u64;
        self.dice = Dice::new(seed);
        self.succession.forget_cold_start();
        self.restart_log_time();
        self.rename_writes()
    }
}
