//! What each policy says of a record under the hand, and of a new one.
//!
//! **`s3fifo`** is S3-FIFO (Yang et al., SOSP 2023) with four changes, each of which
//! lowers the misses on some traces and costs next to nothing on the others:
//!
//! - Size: to leave the small log for the main one a record must have been read the
//!   more often the longer it is than the mean; one of less than an eighth of it need not have been read at all.
//! - Evictions from the main log are remembered too.
//! - Counts are halved when the hand passes, not lowered by one.
//! - The small log grows beyond its share while the main one earns nothing: while
//!   its bytes are read less than a tenth as often as those of the small one. So the
//!   memory of a yesterday that nobody asks for any more goes to today's keys.
//!
//! docs/eviction.md has the figures.

use super::{Hand, Policy};
use crate::base::KeyHash;
use crate::engine::arena::Log;
use crate::engine::item::REFS_MAX;
use crate::engine::shard::{Found, Shard};

/// The small log's share of the segments: one part in so many.
const SMALL_FRACTION: usize = 10;
/// What the main log always keeps while it earns nothing: one part in so many.
const MAIN_FRACTION: usize = 10;
/// The main log earns nothing if a byte of it is read less than one part in so many as often as one of the small log.
const EARNS_FRACTION: u64 = 10;
/// Reads count less the longer ago they were: they lose three tenths each time that a twentieth of the segments was filled.
const FADE_FRACTION: usize = 20;
/// The highest reference count under `s3fifo`.
const S3_REFS_MAX: u64 = 3;
/// A record of less than one part in so many of the mean joins the main log unread.
const TINY_FRACTION: usize = 8;
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

/// How often the records of each log were read lately.
#[derive(Default)]
pub(super) struct Reads {
    of_log: [u64; Log::ALL.len()],
    segments_filled: usize,
}

impl Reads {
    /// Counts that a segment was filled, of `segments` that there are.
    pub fn fade(&mut self, segments: usize) {
        self.segments_filled += 1;
        if self.segments_filled * FADE_FRACTION >= segments {
            self.segments_filled = 0;
            self.of_log.iter_mut().for_each(|reads| *reads -= *reads * 3 / 10);
        }
    }
}

impl Hand {
    /// Where a key that is not stored goes.
    #[inline]
    pub fn welcome(&self, policy: Policy, hash: KeyHash) -> Log {
        if policy == Policy::S3Fifo && !self.ghost.remembers(hash) { Log::Small } else { Log::Main }
    }
}

impl Shard {
    /// What happens to the live record `found`.
    pub(super) fn verdict(&self, found: Found) -> Verdict {
        let refs = found.head.refs();
        match self.policy {
            Policy::NoEviction | Policy::VolatileTtl => Verdict::Keep { log: Log::Main, refs },
            Policy::Random => Verdict::Evict { remember: false },
            Policy::Clock | Policy::Lfu if refs > 0 => Verdict::Keep { log: Log::Main, refs: refs - 1 },
            Policy::Clock | Policy::Lfu => Verdict::Evict { remember: false },
            Policy::S3Fifo if self.arena.log_of(found.loc) == Log::Small => {
                if refs >= self.reads_wanted(found) {
                    Verdict::Keep { log: Log::Main, refs: 0 }
                } else {
                    Verdict::Evict { remember: true }
                }
            }
            Policy::S3Fifo if refs > 0 => Verdict::Keep { log: Log::Main, refs: refs / 2 },
            Policy::S3Fifo => Verdict::Evict { remember: true },
        }
    }

    /// How often a record of this size must have been read to leave the small log for the main one.
    fn reads_wanted(&self, found: Found) -> u64 {
        let size = self.bytes_of(found.head);
        let mean = (self.arena.live_bytes() / self.index.key_count().max(1)) as usize;
        match size {
            _ if size < mean / TINY_FRACTION => 0,
            _ if size <= mean * 2 => 1,
            _ if size <= mean * 8 => 2,
            _ => 3,
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
        let small_first = self.policy != Policy::S3Fifo || self.small_gives_way();
        if small_first { small.or(main) } else { main.or(small) }
    }

    /// Whether the small log has more than its share, and the main one earns what it has.
    fn small_gives_way(&self) -> bool {
        let (main, small) = (self.arena.segments_of(Log::Main), self.arena.segments_of(Log::Small));
        if small * SMALL_FRACTION <= self.segments_allowed() {
            return false;
        }
        let [main_reads, small_reads] = self.hand.reads.of_log;
        let earns = main_reads * EARNS_FRACTION * small as u64 > small_reads * main as u64;
        earns || main * MAIN_FRACTION < self.segments_allowed()
    }

    /// The count of the record `found` that is read once more.
    #[inline]
    pub(in crate::engine) fn counted(&mut self, found: Found) -> u64 {
        let refs = found.head.refs();
        match self.policy {
            Policy::S3Fifo => {
                self.hand.reads.of_log[self.arena.log_of(found.loc) as usize] += 1;
                (refs + 1).min(S3_REFS_MAX)
            }
            // As in Redis, counts grow by chance, the less likely the higher they are (Morris 1978).
            Policy::Lfu if self.hand.rng.next_u64() & ((1 << refs) - 1) != 0 => refs,
            _ => (refs + 1).min(REFS_MAX),
        }
    }
}
