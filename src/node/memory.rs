//! `MEMORY STATS`, and how fast the eviction hand goes.

use super::stats::CoreSnapshot;
use crate::base::UnixMillis;
use crate::command::ReplySink;

/// Milliseconds over which a speed is measured.
const WINDOW_MS: u64 = 1000;

/// Measures the hand's speed over about a second.
pub(super) struct Pace {
    since: UnixMillis,
    walked: u64,
    /// Bytes in a second, over the last whole window.
    last: u64,
}

impl Pace {
    pub fn new(now: UnixMillis) -> Self {
        Self { since: now, walked: 0, last: 0 }
    }

    /// Begins a new window if this one is over.
    #[inline]
    pub fn note(&mut self, now: UnixMillis, walked: u64) {
        if now.since(self.since) >= WINDOW_MS {
            *self = Self { since: now, walked, last: self.over(now, walked) };
        }
    }

    /// Bytes walked in a second lately.
    pub fn speed(&self, now: UnixMillis, walked: u64) -> u64 {
        if now.since(self.since) >= WINDOW_MS { self.over(now, walked) } else { self.last }
    }

    fn over(&self, now: UnixMillis, walked: u64) -> u64 {
        (walked - self.walked) * 1000 / now.since(self.since).max(1)
    }
}

/// Writes the reply: what Redis calls the same under its names, then a map for each core.
pub(super) fn write(cores: &[CoreSnapshot], out: &mut impl ReplySink) {
    let sum = |of: fn(&CoreSnapshot) -> u64| cores.iter().map(of).sum::<u64>();
    let overhead = sum(|c| c.memory.index + c.memory.wheel + c.memory.reserved + c.memory.fixed);
    let dataset = sum(|c| c.memory.live + c.memory.dead);
    let keys = sum(|c| c.keys);
    let all: [(&str, u64); 9] = [
        ("total.allocated", overhead + dataset),
        ("startup.allocated", sum(|c| c.memory.fixed)),
        ("overhead.total", overhead),
        ("keys.count", keys),
        ("keys.bytes-per-key", (overhead + dataset).checked_div(keys).unwrap_or(0)),
        ("dataset.bytes", dataset),
        ("dataset.percentage", (dataset * 100).checked_div(overhead + dataset).unwrap_or(0)),
        ("maxmemory", sum(|c| c.memory.budget)),
        ("resident.bytes", sum(|c| c.memory.resident)),
    ];
    out.map(all.len() + cores.len());
    for (name, number) in all {
        out.bulk(name.as_bytes());
        out.integer(number as i64);
    }
    for core in cores {
        out.bulk(format!("core.{}", core.core).as_bytes());
        write_core(core, out);
    }
}

fn write_core(core: &CoreSnapshot, out: &mut impl ReplySink) {
    let m = &core.memory;
    let numbers: [(&str, u64); 19] = [
        ("budget", m.budget),
        ("live", m.live),
        ("dead", m.dead),
        ("free", m.free),
        ("index", m.index),
        ("wheel", m.wheel),
        ("reserved", m.reserved),
        ("fixed", m.fixed),
        ("resident", m.resident),
        ("segment.bytes", m.segment),
        ("segments", m.segments),
        ("segments.free", m.segments_free),
        ("segments.small-log", m.small_log_segments),
        ("hand.walked-bytes", m.hand_walked),
        ("hand.bytes-per-second", m.hand_speed),
        ("hand.reinserted", m.hand_reinserted),
        ("expired.bytes", core.expired_bytes),
        ("evicted.bytes", core.evicted_bytes),
        ("keys", core.keys),
    ];
    out.map(numbers.len() + 2);
    for (name, number) in numbers {
        out.bulk(name.as_bytes());
        out.integer(number as i64);
    }
    out.bulk(b"hand.segment");
    match m.hand_segment {
        Some(segment) => out.integer(i64::from(segment)),
        None => out.null(),
    }
    out.bulk(b"reads.sampled");
    out.array(m.refs_sampled.len());
    m.refs_sampled.iter().for_each(|&count| out.integer(count as i64));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speed_is_that_of_the_last_second_and_fades() {
        let mut pace = Pace::new(UnixMillis(1000));
        pace.note(UnixMillis(1500), 100);
        assert_eq!(pace.speed(UnixMillis(1500), 100), 0, "no second is over");
        pace.note(UnixMillis(2000), 5000);
        assert_eq!(pace.speed(UnixMillis(2100), 9000), 5000);
        assert_eq!(pace.speed(UnixMillis(12_000), 5000), 0, "nothing was walked since");
    }
}
