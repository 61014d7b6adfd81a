//! What a shard counts, and the account of its memory.
//!
//! Plain numbers, moved where the thing they count happens; whoever publishes
//! them takes a copy.

/// Counters since the shard was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// Reads that found their key.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Values written.
    pub sets: u64,
    /// Keys deleted by command.
    pub deletes: u64,
    /// Keys removed because their deadline had passed.
    pub expired: u64,
    /// Bytes of their records and values.
    pub expired_bytes: u64,
    /// Live keys removed to make room.
    pub evicted: u64,
    /// Bytes of their records and values.
    pub evicted_bytes: u64,
    /// Operations refused because there was no room.
    pub refused_oom: u64,
    /// Records that the hand wrote again instead of evicting.
    pub reinserted: u64,
}

/// Where the bytes of a core's budget are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// The budget.
    pub budget_bytes: u64,
    /// Live records and the values of large ones.
    pub live_bytes: u64,
    /// Dead records that wait for the hand.
    pub dead_bytes: u64,
    /// Segments that are free within the budget.
    pub free_bytes: u64,
    /// Slot tables and the table of segments.
    pub index_bytes: u64,
    /// The expiry wheel.
    pub wheel_bytes: u64,
    /// What sessions and buffers were said to use, and what the allocator may keep of tables that were larger once.
    pub reserved_bytes: u64,
    /// Segments that the budget allows now.
    pub segments_total: u64,
    /// Those of them that hold nothing.
    pub segments_free: u64,
    /// What is or may be resident: touched segments, index, wheel and reserved bytes,
    /// and what an empty shard takes.
    pub resident_bytes: u64,
    /// What an empty shard takes, beside the budget.
    pub fixed_bytes: u64,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Segments of the log for newcomers, where the policy has one.
    pub small_log_segments: u64,
    /// The hand.
    pub hand: HandReport,
}

/// Where the hand is, and what it has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandReport {
    /// The segment under the hand and the bytes of it that are walked, while it is under way.
    pub position: Option<(u32, u64)>,
    /// Bytes of segments that it has walked.
    pub walked_bytes: u64,
    /// Records that it has written again instead of evicting them.
    pub reinserted: u64,
}
