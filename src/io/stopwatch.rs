//! How long turns take, and how much of that the machine took away.
//!
//! Reading the thread's CPU clock is a system call, so it is read at most once in
//! [`REFERENCE_AGE_MAX`] at the start of a turn, as a reference, and at the end of turns that
//! took longer than [`LONG`].
//!
//! ```text
//! reference              start of the turn             its end
//! wall, CPU  ── gap ──>  wall           ── took ──>    wall, CPU
//! ```
//!
//! **What is said of a turn.** Between reference and end the thread was off its CPU for `wall - CPU`. How
//! much of it lay in the gap is not known; all that may have is taken to. So a turn's own time is
//! never said to be shorter than it was (but for the microsecond that two readings are apart), and too long by at most the
//! gap, whose longest is [`REFERENCE_AGE_MAX`]. The own time of a turn that is not long is its whole time.
//!
//! What the kernel does for the thread (page faults, system calls) is the turn's own. What a hypervisor takes
//! away is off-CPU time where the guest's kernel is told of it, and own time where it is not.

use std::time::Duration;

use tracing::debug;

use super::clock::thread_cpu;
use crate::node::stats::CoreSnapshot;

/// A reference older than this is taken anew: at 200 ns a reading, a five-hundredth of the time at most.
const REFERENCE_AGE_MAX: Duration = Duration::from_micros(100);
/// Turns longer than this are looked into.
const LONG: Duration = Duration::from_micros(250);
/// Turns of which this much is their own are worth a line in the log.
const TOO_LONG: Duration = Duration::from_millis(1);

/// The time over which [`Stopwatch::load`] forgets most of what was before.
const LOAD_TIME: Duration = Duration::from_millis(2);

/// The clock that turns are timed by.
pub struct Stopwatch {
    /// Wall and CPU time at the reference.
    reference: (Duration, Duration),
    start: Duration,
    load: f32,
}

impl Stopwatch {
    /// A stopwatch of the calling thread.
    pub fn new(now: Duration) -> Self {
        Self { reference: (now, thread_cpu()), start: now, load: 0.0 }
    }

    /// A turn begins.
    #[inline]
    pub fn start(&mut self, now: Duration) {
        self.start = now;
        if now.saturating_sub(self.reference.0) > REFERENCE_AGE_MAX {
            let next = (now, thread_cpu());
            self.load = load(self.load, self.reference, next);
            self.reference = next;
        }
    }

    /// The part of the last milliseconds that the thread was on a CPU, from 0 to 1.
    #[inline]
    pub fn load(&self) -> f32 {
        self.load
    }

    /// It has ended: counts its time. `kind` says in the log what took longer than [`TOO_LONG`].
    #[inline]
    pub fn stop(&self, now: Duration, kind: &'static str, counters: &mut CoreSnapshot) {
        let took = now.saturating_sub(self.start);
        let off = if took > LONG { off_cpu(self.reference, self.start, (now, thread_cpu())) } else { Duration::ZERO };
        counters.turn_time.record(took.as_nanos() as u64);
        counters.turn_own_time.record((took - off).as_nanos() as u64);
        counters.turn_off_cpu_ns += off.as_nanos() as u64;
        if took - off > TOO_LONG {
            debug!(kind, took_us = took.as_micros(), off_cpu_us = off.as_micros(), "took too long");
        }
    }
}

/// The part of its time that the thread is on a CPU, which was `before` at one pair of wall and CPU time, at a later one.
fn load(before: f32, reference: (Duration, Duration), now: (Duration, Duration)) -> f32 {
    let (wall, cpu) =
        (now.0.saturating_sub(reference.0).as_secs_f32(), now.1.saturating_sub(reference.1).as_secs_f32());
    if wall <= 0.0 {
        return before;
    }
    let part = (cpu / wall).min(1.0);
    before + (part - before) * (wall / LOAD_TIME.as_secs_f32()).min(1.0)
}

/// The time between `start` and `end` in which the thread was certainly not on a CPU, from pairs of wall and CPU time.
fn off_cpu(reference: (Duration, Duration), start: Duration, end: (Duration, Duration)) -> Duration {
    let (wall, cpu) = (end.0.saturating_sub(reference.0), end.1.saturating_sub(reference.1));
    let gap = start.saturating_sub(reference.0);
    wall.saturating_sub(cpu).saturating_sub(gap).min(end.0.saturating_sub(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    #[test]
    fn time_off_the_cpu_is_taken_off_exactly_where_the_reference_is_the_start() {
        assert_eq!(off_cpu((us(100), us(40)), us(100), (us(4100), us(840))), us(3200));
        assert_eq!(off_cpu((us(100), us(40)), us(100), (us(1100), us(1040))), us(0));
    }

    /// Whatever part of it lay before the turn, a turn is never said to have been shorter than it was.
    #[test]
    fn what_may_have_been_before_the_turn_is_not_taken_off() {
        for before in 0..=80 {
            let gap = 80;
            for within in (0..2000).step_by(50) {
                let own = 700;
                let end = 100 + gap + within + own;
                let on_cpu = gap - before + own;
                let off = off_cpu((us(100), us(5)), us(100 + gap), (us(end), us(5 + on_cpu)));
                assert!(off <= us(within), "{off:?} of {within} µs");
                assert!(us(within) - off <= us(gap));
            }
        }
    }

    #[test]
    fn the_load_is_that_of_the_last_milliseconds() {
        let (mut seen, mut wall, mut cpu) = (0.0, us(0), us(0));
        let mut pass = |part_percent: u64, times| {
            for _ in 0..times {
                let before = (wall, cpu);
                wall += us(200);
                cpu += us(2 * part_percent);
                seen = load(seen, before, (wall, cpu));
            }
            (seen * 100.0).round() as u64
        };
        assert_eq!(pass(80, 200), 80);
        let soon = pass(20, 10);
        assert!((25..50).contains(&soon), "{soon} % after 2 ms");
        assert_eq!(pass(20, 200), 20);
        let slept = load(0.9, (us(0), us(0)), (us(20_000), us(2000)));
        assert!((slept - 0.1).abs() < 1e-3, "a long sleep is all that counts: {slept}");
        assert_eq!(load(0.5, (us(7), us(1)), (us(7), us(1))), 0.5);
        assert_eq!(load(0.5, (us(0), us(0)), (us(20_000), us(30_000))), 1.0, "the clocks may disagree");
    }

    #[test]
    fn a_thread_that_sleeps_is_not_on_a_cpu() {
        let before = thread_cpu();
        std::thread::sleep(us(20_000));
        assert!(thread_cpu() - before < us(15_000));
    }
}
