//! Floor 2: what one core stores. Pure and synchronous: no I/O, no clock, one thread.
//!
//! | file | owns |
//! |---|---|
//! | `shard` | [`Shard`]: the parts together, an operation in, an answer out |
//! | `read`, `write`, `deadline` | the operations of Redis clients |
//! | `versioned` | those that compare versions and keep client flags |
//! | `changes` | which keys have changed, for those who keep copies |
//! | `prefixes` | what keys with the same beginning take, and may take |
//! | `lease` | who is to fill a value that is missing or stale |
//! | `store` | how a record gets its place and loses it |
//! | `pins` | large values kept as they are while they are sent |
//! | `draft` | large values that are still being received |
//! | `background` | slices of expiry, sweeping and flushing between requests |
//! | `scan` | walking the keys |
//! | `index`, `table`, `slab` | slot tables: from key to record; their memory |
//! | `ahead` | where the keys of the next operations probably lie |
//! | `copies` | copies of values that other cores hold, and how they are revoked |
//! | `item` | the record, drawn |
//! | `arena` | segments: append, seal, free |
//! | `memory` | the mappings, two instructions, and what the allocator is told; the only `unsafe` here |
//! | `expiry` | the timer wheel |
//! | `evict` | the hand and its policies |
//! | `stats` | counters and the account of memory |
//! | `proof` | what tests and the fuzzer share: the walk over everything, arbitrary bytes as operations |
//!
//! The rule above all: a read may miss, and is never wrong. No path answers a
//! value that was deleted, overwritten or has expired, whatever was evicted on the way.
//!
//! Measured on one core of a shared server, 2 M items of 16 + 64 bytes; the times with mimalloc as the allocator:
//!
//! | what | cost |
//! |---|---|
//! | `GET`, random key | 139 ns; 47 ns in batches of 32, loaded ahead |
//! | `SET` of a new key, in order | 216 ns; 259 ns with a deadline |
//! | memory beside key and value | 19.7 bytes: 12 record, 7.7 index; 27.9 with a deadline: 4 record, 4 wheel more |
//! | a million keys due at once | removed in 108 ms, 108 ns each |
//! | `SET` that evicts, budget 64 MiB | p50 199 ns, p99 781 ns, p99.9 4.9 µs |

mod ahead;
mod arena;
mod background;
pub mod changes;
pub mod copies;
mod deadline;
mod draft;
pub mod evict;
mod expiry;
mod index;
mod item;
pub mod lease;
mod memory;
mod pins;
pub mod prefixes;
#[cfg(any(test, fuzzing))]
pub mod proof;
mod read;
mod scan;
mod shard;
mod slab;
pub mod stats;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod versioned;
mod write;

pub use draft::DraftId;
pub use evict::Policy;
pub use memory::{OWN_MAPPING_BYTES, map_large_allocations};
pub use shard::Shard;
pub use stats::{HandReport, MemoryReport, ShardStats};

use crate::base::{KeyHash, KeyHasher, Slot};
use std::fmt;

/// The largest value that [`ShardConfig::value_bytes_max`] may allow: that of Redis.
pub const VALUE_BYTES_MAX: usize = 512 << 20;

/// What a shard is made from.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// All memory of the core: records, index, wheel, and what is reserved for its sessions.
    pub budget_bytes: u64,
    /// How far the budget can be raised later: addresses are set aside for so much.
    pub reach_bytes: u64,
    /// What gives way when the budget is reached.
    pub policy: Policy,
    /// Whether segments that are as large as a huge page ask for one.
    pub huge_pages: bool,
    /// The longest value accepted; at most [`VALUE_BYTES_MAX`].
    pub value_bytes_max: usize,
    /// Decides what happens by chance.
    pub seed: u64,
    /// The hasher that made the hashes of every [`At`].
    pub hasher: KeyHasher,
}

/// Where a key lives, computed once when its request is parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The key's slot.
    pub slot: Slot,
    /// The key's hash.
    pub hash: KeyHash,
}

/// Why a shard cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineError {
    /// The budget does not hold the slot tables and a useful number of segments.
    BudgetTooSmall {
        /// The smallest budget in bytes.
        minimum: u64,
    },
    /// Locations of 32 bits do not reach as far as the budget.
    BudgetTooLarge {
        /// The largest budget in bytes.
        maximum: u64,
    },
    /// The system did not map the memory; the number is its error.
    Mapping(i32),
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use crate::base::units::format_size;
        match *self {
            Self::BudgetTooSmall { minimum } => {
                write!(f, "a core needs at least {}: raise its memory or use fewer cores", format_size(minimum))
            }
            Self::BudgetTooLarge { maximum } => {
                write!(f, "a core can use at most {}: lower its memory or use more cores", format_size(maximum))
            }
            Self::Mapping(code) => write!(
                f,
                "the system refused to map the core's memory ({}): lower it, or raise `ulimit -v`",
                std::io::Error::from_raw_os_error(code)
            ),
        }
    }
}

impl std::error::Error for EngineError {}
