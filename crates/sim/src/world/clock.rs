//! A node's own clock.

use super::{Micros, NEVER};

/// The rate of a clock that is right.
const RIGHT: u64 = 1_000_000;

/// Shows a time of its own, and goes at a rate of its own.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    /// When it was touched last, in the world's time and in its own.
    since: Micros,
    shown: Micros,
    rate: u64,
}

impl Clock {
    pub fn new(world: Micros, shown: Micros) -> Clock {
        Clock {
            since: world,
            shown,
            rate: RIGHT,
        }
    }

    /// What it shows.
    pub fn local(&self, world: Micros) -> Micros {
        let passed = world.saturating_sub(self.since);
        if self.rate == RIGHT {
            return self.shown + passed;
        }
        self.shown + passed * self.rate / RIGHT
    }

    /// When it will show that.
    pub fn world(&self, local: Micros) -> Micros {
        let wait = local.saturating_sub(self.shown);
        if local == NEVER || (self.rate == 0 && wait > 0) {
            return NEVER;
        }
        if self.rate == RIGHT || wait == 0 {
            return self.since + wait;
        }
        match wait.checked_mul(RIGHT) {
            Some(product) => self.since + product.div_ceil(self.rate),
            None => NEVER,
        }
    }

    /// Whether it does not go at all.
    pub fn stands(&self) -> bool {
        self.rate == 0
    }

    pub fn jump(&mut self, world: Micros, by: Micros) {
        self.shown = self.local(world) + by;
        self.since = world;
    }

    pub fn drift(&mut self, world: Micros, rate: u64) {
        self.shown = self.local(world);
        self.since = world;
        self.rate = rate;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_comes_when_the_clock_shows_it_and_not_before() {
        for rate in [1, 900_000, 999_999, RIGHT, 1_000_001, 1_300_000] {
            let mut clock = Clock::new(1_000, 77);
            clock.drift(5_000, rate);
            clock.jump(9_000, 250);
            let now = clock.local(9_000);
            for wait in [0, 1, 2, 3, 10, 999, 123_456] {
                let then = clock.world(now + wait);
                assert!(clock.local(then) >= now + wait, "rate {rate}, wait {wait}");
                assert!(then == 9_000 || clock.local(then - 1) < now + wait);
            }
        }
        let mut clock = Clock::new(0, 0);
        clock.drift(10, 0);
        assert_eq!((clock.local(99), clock.world(11)), (10, NEVER));
    }
}
