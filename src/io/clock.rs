//! The only place that reads a clock.

use std::time::{Duration, Instant, SystemTime};

use crate::base::time::WallClock;

/// One core's clock: read once a turn, its wall time never steps back.
pub struct Clock {
    start: Instant,
    wall: WallClock,
}

/// One reading.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Since the core started; never steps.
    pub monotonic: Duration,
    /// Unix time in microseconds; never steps back.
    pub unix_us: u64,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self { start: Instant::now(), wall: WallClock::new(0, unix_us()) }
    }

    /// Reads the time.
    #[inline]
    pub fn read(&mut self) -> Reading {
        let monotonic = self.start.elapsed();
        self.wall.observe(monotonic.as_micros() as u64, unix_us());
        Reading { monotonic, unix_us: self.wall.now_us() }
    }

    /// The time since the core started.
    #[inline]
    pub fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// The time that the calling thread has been on a CPU. A system call, some hundreds of nanoseconds.
pub fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// The system's wall clock.
pub fn unix_us() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

/// A seed that nobody outside can guess, from the system's random device by way of the standard library.
pub fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(unix_us())
}

/// A moment until which something may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// The moment `time` from now.
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// What is left, zero when it has passed.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}
