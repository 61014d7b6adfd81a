//! What goes on between requests, in slices: expiry, sweeping the wheel,
//! dropping what was flushed, keeping segments free ahead of writes.
//!
//! Invariant: no slice does more than the work it was given, and leaving off
//! anywhere is safe.

use super::evict::{Grace, Step};
use super::expiry::Bucket;
use super::item::{ExpiryWord, Head, Loc};
use super::shard::{Shard, is_past};
use crate::base::UnixMillis;

/// Stale entries of the wheel that are tolerated however few keys have a deadline.
const STALE_ENTRIES_MAX: u64 = 64 << 10;
/// In small shards, one stale entry for so many bytes of a segment.
const SEGMENT_BYTES_PER_STALE_ENTRY: u64 = 8;
/// Entries swept per write while a sweep runs: more than a write can add.
const SWEEP_PER_WRITE: usize = 4;
/// How far ahead in the wheel records are prefetched.
const PREFETCH_AHEAD: usize = 8;
/// Giving a segment back to the system takes as long as so many small pieces of work.
const RELEASE_WORK: usize = 32;

impl Shard {
    /// Does up to `work_max` small pieces of background work. Answers whether it
    /// stopped for having done so much, and more may wait.
    pub fn advance(&mut self, now: UnixMillis, work_max: usize) -> bool {
        let mut left = work_max - self.expire_due(now, work_max);
        left -= self.drop_flushed(left);
        if self.wheel_is_littered() {
            self.wheel.start_sweep();
        }
        left -= self.sweep(now, left);
        let mut grace = Grace::background(left, self.arena.segment_bytes());
        while left > 0 && self.wants_free_segments() && self.hand_step(&mut grace, now) == Step::Done {
            left -= 1;
        }
        while left > 0 && self.arena.resident() > self.segments_allowed() && self.arena.release_one() {
            left = left.saturating_sub(RELEASE_WORK);
        }
        left == 0
    }

    /// Counts what takes time beside the requests themselves: records that were evicted, expired or written again, and
    /// entries that were moved because a table grew. So whoever executes requests can stop after so much work.
    #[inline]
    pub fn work_done(&self) -> u64 {
        self.stats.evicted + self.stats.expired + self.stats.reinserted + self.index.moved()
    }

    /// When [`Shard::advance`] next has an expiry to do, or earlier.
    pub fn next_deadline(&self) -> Option<UnixMillis> {
        self.wheel.next_deadline().map(UnixMillis)
    }

    /// Empties the keyspace at once; the memory of its tables is given back by
    /// [`Shard::advance`]. Versions go on.
    pub fn flush(&mut self) {
        self.index.flush();
        self.wheel.flush();
        self.arena.clear();
        self.hand.reset();
        self.keys_with_expiry = 0;
    }

    /// What every write does at its end: its share of making room and of sweeping.
    #[inline]
    pub(super) fn after_write(&mut self, now: UnixMillis) {
        if self.wheel.is_sweeping() || self.wheel_is_littered() {
            self.wheel.start_sweep();
            self.sweep(now, SWEEP_PER_WRITE);
        }
        if self.wants_free_segments() {
            self.pace(now);
        } else {
            self.hand.forgive();
        }
        if self.arena.resident() > self.segments_allowed() {
            self.arena.release_one();
        }
    }

    /// Removes what the wheel says is due, up to `entries_max` entries; answers how many it looked at.
    pub(super) fn expire_due(&mut self, now: UnixMillis, entries_max: usize) -> usize {
        let mut done = 0;
        while done < entries_max
            && let Some((bucket, loc)) = self.wheel.next_due(now.0)
        {
            if let Some(ahead) = self.wheel.upcoming(PREFETCH_AHEAD) {
                self.arena.prefetch(ahead);
            }
            self.settle(bucket, loc, now);
            done += 1;
        }
        done
    }

    /// Evicts one of the records whose deadlines come soonest. Answers `false` if none has a deadline.
    pub(super) fn evict_soonest(&mut self, _now: UnixMillis) -> bool {
        false
    }

    /// Gives back up to `pieces_max` tables and blocks of a flushed keyspace; answers how many.
    pub(super) fn drop_flushed(&mut self, pieces_max: usize) -> usize {
        let tables = self.index.drop_flushed(pieces_max);
        tables + self.wheel.drop_flushed(pieces_max - tables)
    }

    fn sweep(&mut self, now: UnixMillis, entries_max: usize) -> usize {
        let mut done = 0;
        while done < entries_max
            && let Some((bucket, loc)) = self.wheel.next_swept()
        {
            self.settle(bucket, loc, now);
            done += 1;
        }
        done
    }

    /// Acts on an entry that came out of `bucket`: drops it if it is stale,
    /// removes the record if it has expired, files it again otherwise.
    fn settle(&mut self, bucket: Bucket, loc: Loc, now: UnixMillis) {
        if !self.arena.may_hold(loc) {
            return;
        }
        let bytes = self.arena.bytes();
        let head = Head::read(bytes, loc);
        let word = ExpiryWord::read(bytes, loc, head);
        if head.is_dead() || word.armed() != Some(bucket) {
            return;
        }
        // The bytes look like a record that this bucket watches; only the slot
        // table knows whether one really starts here.
        let (slot, hash) = self.index.address(loc, bytes);
        if !self.index.holds(slot, hash, loc) {
            return;
        }
        if is_past(word.deadline(), now) {
            self.drop_expired(slot, hash, loc);
        } else {
            let word = self.arm(loc, word.deadline(), None, now);
            word.write(self.arena.bytes_mut(), loc);
        }
    }

    fn wheel_is_littered(&self) -> bool {
        let floor = STALE_ENTRIES_MAX.min(self.arena.segment_bytes() as u64 / SEGMENT_BYTES_PER_STALE_ENTRY);
        self.wheel.entries() > 2 * self.keys_with_expiry + floor
    }
}
