//! What one core counts, as plain numbers. A core owns its counters and adds to
//! them without atomics; when asked it copies them into a [`CoreSnapshot`],
//! which is all that other threads ever see.

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

/// Times, counted in buckets whose bounds double.
///
/// ```text
/// bucket   0       1       2       3     ...   20           21
/// holds  <= 1 µs <= 2 µs <= 4 µs <= 8 µs ... <= 1.049 s   longer
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TurnHistogram {
    /// Times in each bucket; not cumulative.
    pub buckets: [u64; Self::BUCKETS],
    /// All times together, in nanoseconds.
    pub sum_ns: u64,
    /// How many times were recorded.
    pub count: u64,
}

impl TurnHistogram {
    /// How many buckets there are, the unbounded last one included.
    pub const BUCKETS: usize = 22;

    /// The longest time that bucket `i` holds, or `None` for the last bucket.
    pub const fn bound_ns(i: usize) -> Option<u64> {
        if i + 1 < Self::BUCKETS { Some(1000 << i) } else { None }
    }

    /// Counts one time.
    #[inline]
    pub fn record(&mut self, ns: u64) {
        // The number of bits in the count of whole microseconds, with one
        // nanosecond taken off first because bounds belong to the lower bucket.
        let microseconds = ns.saturating_sub(1) / 1000;
        let bucket = (u64::BITS - microseconds.leading_zeros()) as usize;
        self.buckets[bucket.min(Self::BUCKETS - 1)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
        self.count += 1;
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
    /// Requests or connections refused because of a limit.
    pub limit_errors: u64,
    /// Bytes received from clients.
    pub bytes_in: u64,
    /// Bytes sent to clients.
    pub bytes_out: u64,
    /// Turns of the core's loop.
    pub turns: u64,
    /// How long turns took, waiting not included.
    pub turn_time: TurnHistogram,
    /// Times the core parked until the kernel woke it.
    pub parks: u64,
    /// Times a connection's reads paused because its replies were not taken.
    pub output_paused: u64,
    /// Receives that found no free buffer (`ENOBUFS`).
    pub recv_starved: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_the_bucket_it_closes() {
        for i in 0..TurnHistogram::BUCKETS - 1 {
            let bound = TurnHistogram::bound_ns(i).unwrap();
            let mut times = TurnHistogram::default();
            times.record(bound);
            times.record(bound + 1);
            assert_eq!(times.buckets[i], 1, "{bound} ns is in bucket {i}");
            assert_eq!(times.buckets[i + 1], 1, "{} ns is in the next", bound + 1);
        }
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
