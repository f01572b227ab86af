//! Randomness as a value: the seed comes from outside, so that a run can be repeated.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood 2014): eight bytes of state, good enough to spread timeouts.
/// Nothing that must be unguessable is drawn from it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A duration from `min` up to and including `max`.
    pub(crate) fn between(&mut self, min: Duration, max: Duration) -> Duration {
        let span = max.saturating_sub(min).as_micros();
        let span = u64::try_from(span).unwrap_or(u64::MAX - 1);
        min + Duration::from_micros(self.next() % (span + 1))
    }
}
