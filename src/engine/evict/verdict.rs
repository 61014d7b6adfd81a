//! What each policy says of a record under the hand, and of a new one.

use super::{Hand, Policy};
use crate::base::KeyHash;
use crate::engine::arena::Log;
use crate::engine::item::REFS_MAX;
use crate::engine::shard::{Found, Shard};

/// The small log's share of the segments: one part in so many.
const SMALL_FRACTION: usize = 10;
/// Segments that are tried for a sealed one before the oldest is taken instead.
const RANDOM_TRIES: usize = 8;

/// What happens to a live record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is written again, with this reference count.
    Keep {
        /// Where.
        log: Log,
        /// Its count then.
        refs: u64,
    },
    /// It goes.
    Evict {
        /// Whether its return shall be noticed.
        remember: bool,
    },
}

impl Hand {
    /// Where a key that is not stored goes, and the reference count it starts with.
    #[inline]
    pub fn welcome(&self, policy: Policy, hash: KeyHash) -> (Log, u64) {
        match policy {
            Policy::S3Fifo if !self.ghost.remembers(hash) => (Log::Small, 0),
            _ => (Log::Main, 0),
        }
    }
}

impl Shard {
    /// What happens to the live record `found` of `size` bytes.
    pub(super) fn verdict(&self, found: Found, _size: usize) -> Verdict {
        let refs = found.head.refs();
        match self.policy {
            Policy::NoEviction | Policy::VolatileTtl => Verdict::Keep { log: Log::Main, refs },
            Policy::Random => Verdict::Evict { remember: false },
            Policy::S3Fifo if self.arena.log_of(found.loc) == Log::Small => {
                if refs > 0 {
                    Verdict::Keep { log: Log::Main, refs: 0 }
                } else {
                    Verdict::Evict { remember: true }
                }
            }
            Policy::Clock | Policy::Lfu | Policy::S3Fifo => {
                if refs > 0 {
                    Verdict::Keep { log: Log::Main, refs: refs - 1 }
                } else {
                    Verdict::Evict { remember: false }
                }
            }
        }
    }

    /// The segment that is walked next, unless another has more dead bytes to win.
    pub(super) fn next_segment(&mut self) -> Option<u32> {
        if self.policy == Policy::Random {
            for _ in 0..RANDOM_TRIES {
                let id = self.hand.rng.below(self.arena.segment_count() as u64) as u32;
                if self.arena.is_sealed(id) {
                    return Some(id);
                }
            }
        }
        let small = self.arena.oldest(Log::Small);
        let main = self.arena.oldest(Log::Main);
        let is_over = self.arena.segments_of(Log::Small) * SMALL_FRACTION > self.segments_allowed();
        let small_first = self.policy != Policy::S3Fifo || is_over;
        if small_first { small.or(main) } else { main.or(small) }
    }

    /// The count of a record that is read once more.
    #[inline]
    pub(in crate::engine) fn counted(&mut self, refs: u64) -> u64 {
        match self.policy {
            // As in Redis, counts grow by chance, the less likely the higher they are (Morris 1978).
            Policy::Lfu if self.hand.rng.next_u64() & ((1 << refs) - 1) != 0 => refs,
            _ => (refs + 1).min(REFS_MAX),
        }
    }
}
