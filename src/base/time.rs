//! Time as values. Nothing here reads a clock: whoever does hands the readings
//! in, and gets back a wall clock that never runs backwards.

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// Milliseconds from `earlier` to `self`, 0 if `earlier` is later.
    pub const fn since(self, earlier: UnixMillis) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This moment plus `millis`.
    pub const fn plus(self, millis: u64) -> UnixMillis {
        UnixMillis(self.0.saturating_add(millis))
    }
}

/// A wall clock that follows the system's but never steps back, so that a key
/// once expired stays expired.
///
/// A step forward is adopted at once. After a step back the clock runs at half
/// speed until the system's has caught up, so deadlines set meanwhile still pass.
#[derive(Clone, Debug)]
pub struct WallClock {
    /// Microseconds since the Unix epoch, as last answered.
    now_us: u64,
    /// Monotonic microseconds at that answer.
    mono_us: u64,
}

impl WallClock {
    /// A clock that starts at these readings: microseconds, monotonic and real.
    pub fn new(mono_us: u64, real_us: u64) -> Self {
        Self { now_us: real_us, mono_us }
    }

    /// Takes a pair of readings and answers the time.
    pub fn observe(&mut self, mono_us: u64, real_us: u64) -> UnixMillis {
        let elapsed = mono_us.saturating_sub(self.mono_us);
        self.mono_us = self.mono_us.max(mono_us);
        self.now_us = real_us.max(self.now_us + elapsed / 2);
        self.now()
    }

    /// The time as last answered, in microseconds.
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// The time as last answered.
    pub fn now(&self) -> UnixMillis {
        UnixMillis(self.now_us / 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_back_slows_the_clock_and_never_reverses_it() {
        let mut clock = WallClock::new(0, 10_000_000);
        assert_eq!(clock.observe(1_000_000, 11_000_000), UnixMillis(11_000));
        // The system's clock steps back by 8 s: ours goes on at half speed.
        assert_eq!(clock.observe(2_000_000, 4_000_000), UnixMillis(11_500));
        assert_eq!(clock.observe(3_000_000, 5_000_000), UnixMillis(12_000));
        // It has caught up after 16 s, and follows again.
        assert_eq!(clock.observe(19_000_000, 21_000_000), UnixMillis(21_000));
    }

    #[test]
    fn a_step_forward_is_adopted_at_once() {
        let mut clock = WallClock::new(0, 1_000_000);
        assert_eq!(clock.observe(1_000, 90_000_000), UnixMillis(90_000));
    }
}
