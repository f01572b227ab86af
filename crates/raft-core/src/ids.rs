//! Names of things: nodes, clusters, positions in the log, points in time.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// Number of a term (§5.1). Terms act as a logical clock: at most one leader each.
pub type Term = u64;

/// Index of an entry in the log, from 1; 0 stands before the first entry.
pub type Index = u64;

/// No log ever reaches this index: behind a snapshot that claims to, nothing could be appended.
pub const MAX_INDEX: Index = 1 << 62;

/// How often the `raft` daemon has started on one data directory, from 1.
pub type Boot = u64;

/// A node, for as long as its data directory lives: 128 random bits, never configured by hand (M3).
/// Addresses change; this does not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u128);

/// A cluster: 128 random bits, the content of the first entry of its log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

macro_rules! hexadecimal {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:x})", stringify!($name), self.0)
            }
        }
    };
}
hexadecimal!(NodeId);
hexadecimal!(ClusterId);

/// An entry's place in the log: two logs that hold the same index and term agree on everything up
/// to there (§5.3, Log Matching).
///
/// Ordered by term first: that is the order of "at least as up-to-date" (§5.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    /// The entry's index.
    pub index: Index,
    /// The term of the leader that created it.
    pub term: Term,
}

impl Position {
    /// The place before the first entry.
    pub const ZERO: Position = Position { index: 0, term: 0 };

    /// Whether a log that ends here is at least as up-to-date as one that ends at `other` (§5.4.1).
    pub fn is_up_to_date(self, other: Position) -> bool {
        if mutant!(UpToDateByIndex) {
            return self.index >= other.index;
        }
        if mutant!(UpToDateByTerm) {
            return self.term >= other.term;
        }
        (self.term, self.index) >= (other.term, other.index)
    }
}

/// A point on the node's monotonic clock, in microseconds since a start of the caller's choice.
/// Always handed in from outside; never compared between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// Far enough away never to come.
    pub const NEVER: Time = Time(u64::MAX);

    /// What passed since `earlier`; zero when that lies ahead.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, duration: Duration) -> Time {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Time(self.0.saturating_add(micros))
    }
}

impl Sub for Time {
    type Output = Duration;
    fn sub(self, earlier: Time) -> Duration {
        self.since(earlier)
    }
}
