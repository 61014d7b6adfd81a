//! What one core counts, as plain numbers. A core owns its counters and adds to
//! them without atomics; when asked it copies them into a [`CoreSnapshot`],
//! which is all that other threads ever see.

use super::hotkeys::Keys;
use crate::engine::lease::LeaseReport;
use crate::engine::prefixes::PrefixStats;

/// What a command is for, as far as counting goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Family {
    /// Returns a value: `GET`, `MGET`.
    Read,
    /// Stores a value: `SET`, `INCR`, `APPEND`.
    Write,
    /// Removes keys: `DEL`, `GETDEL`, `FLUSHALL`.
    Delete,
    /// Reads or changes an expiry: `EXPIRE`, `TTL`.
    Expiry,
    /// Walks over keys: `SCAN`, `KEYS`.
    Scan,
    /// Concerns the connection: `HELLO`, `PING`, `CLIENT`.
    Connection,
    /// Concerns the cluster map: `CLUSTER SLOTS`.
    Cluster,
    /// Concerns the server: `INFO`, `CONFIG`, `COMMAND`.
    Server,
    /// Everything else, unknown commands too.
    Other,
}

impl Family {
    /// How many families there are: the length of an array indexed by family.
    pub const COUNT: usize = Self::Other as usize + 1;

    const NAMES: [&'static str; Self::COUNT] =
        ["read", "write", "delete", "expiry", "scan", "connection", "cluster", "server", "other"];

    /// The names of all families, in the order of their indexes.
    pub const fn names() -> &'static [&'static str; Self::COUNT] {
        &Self::NAMES
    }

    /// The name of this family in metrics.
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// Where the bytes of one core's budget are: `live` to `reserved` are its parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// What the configuration allows this core.
    pub budget: u64,
    /// Records that a read can return.
    pub live: u64,
    /// Records overwritten, deleted or expired whose segment is not yet reused.
    pub dead: u64,
    /// Arena space that nothing has been written to.
    pub free: u64,
    /// Slot tables.
    pub index: u64,
    /// The expiry wheel.
    pub wheel: u64,
    /// Set aside for buffers and sessions.
    pub reserved: u64,
    /// What an empty core takes, beside the budget.
    pub fixed: u64,
    /// What the kernel holds in memory for this core's mappings.
    pub resident: u64,
    /// How many segments the budget allows.
    pub segments: u64,
    /// How many of them are free.
    pub segments_free: u64,
    /// The size of a segment.
    pub segment: u64,
    /// How many segments the log for newcomers has.
    pub small_log_segments: u64,
    /// The segment under the eviction hand, while it is under way.
    pub hand_segment: Option<u32>,
    /// Bytes of segments that the hand has walked.
    pub hand_walked: u64,
    /// Bytes that it walked in a second lately.
    pub hand_speed: u64,
    /// Records that it has written again instead of evicting them.
    pub hand_reinserted: u64,
    /// Of a sample of the records, how many were read 0, 1, … 7 times since the hand passed.
    pub refs_sampled: [u64; 8],
}

/// Times, counted in buckets of which eight cover each doubling. A millisecond and its doubles and halves are bounds, because
/// they are what times are promised in.
///
/// ```text
/// bucket      0          1      ...     7       ...     63     ...    71    ...   143      144
/// holds  <= 0.98 µs  <= 1.95 µs ... <= 7.81 µs ... <= 1 ms ... <= 2 ms ... <= 1.024 s  longer
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnHistogram {
    /// Times in each bucket; not cumulative.
    pub buckets: [u64; Self::BUCKETS],
    /// All times together, in nanoseconds.
    pub sum_ns: u64,
    /// How many times were recorded.
    pub count: u64,
    /// The longest of them.
    pub max_ns: u64,
}

impl Default for TurnHistogram {
    fn default() -> Self {
        Self { buckets: [0; Self::BUCKETS], sum_ns: 0, count: 0, max_ns: 0 }
    }
}

impl TurnHistogram {
    /// How many buckets there are, the unbounded last one included.
    pub const BUCKETS: usize = (Self::DOUBLINGS + 1) << Self::STEP_BITS | 1;
    /// The steps of a doubling are numbered by so many bits.
    const STEP_BITS: usize = 3;
    /// How often the bound of the first doubling, eight units, doubles.
    const DOUBLINGS: usize = 17;
    /// A millisecond has so many units.
    const UNITS_PER_MS: u64 = 1024;

    /// The longest time that bucket `i` holds, or `None` for the last bucket.
    pub const fn bound_ns(i: usize) -> Option<u64> {
        match Self::bound_units(i) {
            Some(units) => Some(units * 1_000_000 / Self::UNITS_PER_MS),
            None => None,
        }
    }

    const fn bound_units(i: usize) -> Option<u64> {
        if i + 1 >= Self::BUCKETS {
            return None;
        }
        let (octave, step) = (i >> Self::STEP_BITS, i as u64 & 7);
        Some(if octave == 0 { step + 1 } else { (9 + step) << (octave - 1) })
    }

    /// Whether the bound of bucket `i` is a doubling of the first, or none.
    pub const fn ends_doubling(i: usize) -> bool {
        match Self::bound_units(i) {
            Some(units) => units.is_power_of_two(),
            None => true,
        }
    }

    /// A time that at most the part `1 - part` of all times exceeds: exact to an eighth, and never too short.
    pub fn quantile_ns(&self, part: f64) -> u64 {
        let wanted = (self.count as f64 * part).ceil() as u64;
        let mut below = 0;
        for (i, count) in self.buckets.iter().enumerate() {
            below += count;
            if below >= wanted {
                return Self::bound_ns(i).unwrap_or(u64::MAX).min(self.max_ns);
            }
        }
        self.max_ns
    }

    /// The mean, 0 without any times.
    pub fn mean_ns(&self) -> u64 {
        self.sum_ns.checked_div(self.count).unwrap_or(0)
    }

    /// Counts one time.
    #[inline]
    pub fn record(&mut self, ns: u64) {
        // Units begun, less one: bounds belong to the lower bucket.
        let units = ns.saturating_mul(Self::UNITS_PER_MS).saturating_sub(1) / 1_000_000;
        let octave = (u64::BITS as usize - Self::STEP_BITS).saturating_sub(units.leading_zeros() as usize);
        let step = (units >> octave.saturating_sub(1)) as usize & 7;
        self.buckets[(octave << Self::STEP_BITS | step).min(Self::BUCKETS - 1)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
        self.count += 1;
        self.max_ns = self.max_ns.max(ns);
    }
}

/// One core's counters at one moment. Counts start at zero with the process and
/// only grow, unless the comment says "now".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreSnapshot {
    /// The core's index in the plan, from 0.
    pub core: usize,
    /// The CPU that the core is pinned to.
    pub cpu: usize,
    /// Commands executed, by [`Family`].
    pub ops: [u64; Family::COUNT],
    /// Keys looked up by read commands and found.
    pub hits: u64,
    /// Keys looked up by read commands and not found.
    pub misses: u64,
    /// Records removed because their time had passed.
    pub expired: u64,
    /// Bytes of the records that expired.
    pub expired_bytes: u64,
    /// Records removed to make room.
    pub evicted: u64,
    /// Bytes of the records that were evicted.
    pub evicted_bytes: u64,
    /// Keys stored now.
    pub keys: u64,
    /// Keys stored now that have an expiry.
    pub keys_with_expiry: u64,
    /// Where the memory is now.
    pub memory: MemoryStats,
    /// Connections open now.
    pub connections_current: u64,
    /// Connections accepted.
    pub connections_total: u64,
    /// Connections closed at once because of `limits.connections`.
    pub connections_refused: u64,
    /// Commands sent to another core because it owns the key.
    pub forwards: u64,
    /// Connections moved to the core that owns their keys.
    pub steered: u64,
    /// Requests that did not follow the protocol.
    pub parse_errors: u64,
    /// Passwords given that were not right.
    pub auth_failures: u64,
    /// Requests or connections refused because of a limit.
    pub limit_errors: u64,
    /// Bytes received from clients.
    pub bytes_in: u64,
    /// Bytes sent to clients.
    pub bytes_out: u64,
    /// Turns of the core's loop.
    pub turns: u64,
    /// How long turns and slices of background work took, waiting not included.
    pub turn_time: TurnHistogram,
    /// The same less the time in which the core's thread was not on a CPU, as far as that is known.
    pub turn_own_time: TurnHistogram,
    /// Nanoseconds in long turns and slices in which the thread was not on a CPU.
    pub turn_off_cpu_ns: u64,
    /// Times the core parked until the kernel woke it.
    pub parks: u64,
    /// Times a connection's reads paused because its replies were not taken.
    pub output_paused: u64,
    /// Receives that found no free buffer (`ENOBUFS`).
    pub recv_starved: u64,
    /// Keys by prefix.
    pub prefixes: Vec<PrefixStats>,
    /// Refresh leases.
    pub leases: LeaseReport,
    /// Requests that waited for a fill.
    pub waits: u64,
    /// Connections that track what they read.
    pub tracking_clients: u64,
    /// Keys whose readers are remembered.
    pub tracked_keys: u64,
    /// Notices sent to connections that track.
    pub tracking_notices: u64,
    /// Copies of other cores' hottest keys that are held.
    pub copies: u64,
    /// Reads that such copies have answered.
    pub copy_reads: u64,
    /// Requests that wait for one now.
    pub waiting: u64,
    /// The hottest keys and the largest values now.
    pub hot: Keys,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_the_bucket_it_closes() {
        for i in 0..TurnHistogram::BUCKETS - 1 {
            let bound = TurnHistogram::bound_ns(i).unwrap();
            assert!(i == 0 || bound > TurnHistogram::bound_ns(i - 1).unwrap());
            let mut times = TurnHistogram::default();
            times.record(bound);
            times.record(bound + 1);
            assert_eq!(times.buckets[i], 1, "{bound} ns is in bucket {i}");
            assert_eq!(times.buckets[i + 1], 1, "{} ns is in the next", bound + 1);
        }
    }

    #[test]
    fn a_millisecond_and_its_doubles_are_bounds() {
        let bounds: Vec<u64> = (0..TurnHistogram::BUCKETS)
            .filter(|&i| TurnHistogram::ends_doubling(i))
            .filter_map(TurnHistogram::bound_ns)
            .collect();
        assert_eq!(bounds.len(), 21);
        for ns in [500_000, 1_000_000, 2_000_000, 1_024_000_000] {
            assert!(bounds.contains(&ns), "{ns} in {bounds:?}");
        }
    }

    #[test]
    fn a_quantile_is_never_too_short_and_at_most_an_eighth_too_long() {
        let mut times = TurnHistogram::default();
        (1..=10_000).for_each(|n| times.record(n * 100));
        for (part, ns) in [(0.5, 500_000), (0.99, 990_000), (0.9999, 999_900), (1.0, 1_000_000)] {
            let found = times.quantile_ns(part);
            assert!((ns..=ns + ns / 8).contains(&found), "{part}: {found}");
        }
        assert_eq!((times.max_ns, times.mean_ns()), (1_000_000, 500_050));
        assert_eq!(TurnHistogram::default().quantile_ns(0.9999), 0);
    }

    #[test]
    fn no_time_is_lost_at_the_ends() {
        let mut times = TurnHistogram::default();
        times.record(0);
        times.record(u64::MAX);
        assert_eq!((times.buckets[0], times.buckets[TurnHistogram::BUCKETS - 1]), (1, 1));
        assert_eq!((times.count, times.sum_ns), (2, u64::MAX));
    }

    #[test]
    fn families_are_named_by_index() {
        assert_eq!(Family::Read.name(), "read");
        assert_eq!(Family::Other.name(), "other");
        assert_eq!(Family::names()[Family::Scan as usize], "scan");
    }
}
