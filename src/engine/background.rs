//! What goes on between requests, in slices: expiry, sweeping the wheel,
//! dropping what was flushed, keeping segments free ahead of writes.
//!
//! Invariant: no slice does more than the work it was given, and leaving off
//! anywhere is safe.

use super::evict::{Grace, Step};
use super::expiry::Bucket;
use super::item::{ExpiryWord, Head, Loc};
use super::shard::{Shard, is_past};
use crate::base::{KeyHash, Slot, UnixMillis};

/// Stale entries of the wheel that are tolerated however few keys have a deadline.
const STALE_ENTRIES_MAX: u64 = 64 << 10;
/// In small shards, one stale entry for so many bytes of a segment.
const SEGMENT_BYTES_PER_STALE_ENTRY: u64 = 8;
/// Entries swept per write while a sweep runs: more than a write can add.
const SWEEP_PER_WRITE: usize = 4;
/// Entries of one bucket that are taken out of the wheel at a time.
const DUE_TOGETHER: usize = 16;
/// Giving a segment, or a piece of a slab, back to the system takes as long as so many small pieces of work.
const RELEASE_WORK: usize = 32;
/// Steps of the hand for a session that opens: records of about three times its size, if they are small.
const LITTLE_WORK: usize = 32;
/// What finding a key of a prefix that takes too much counts for.
const SHRINK_WORK: usize = 16;

/// Records of which `volatile-ttl` evicts the soonest.
const SOONEST_SAMPLE: usize = 8;

/// A live record that an entry of the wheel led to.
#[derive(Clone, Copy)]
struct Watched {
    loc: Loc,
    head: Head,
    word: ExpiryWord,
    slot: Slot,
    hash: KeyHash,
}

impl Shard {
    /// Does up to `work_max` small pieces of background work. Answers whether it
    /// stopped for having done so much, and more may wait.
    pub fn advance(&mut self, now: UnixMillis, work_max: usize) -> bool {
        let mut left = work_max - self.expire_due(now, work_max);
        left -= self.leases.expire(now, left);
        left -= self.give_back(left);
        self.note_wheel();
        self.arena.note_lengths(self.index.key_count());
        if self.wheel_is_littered() {
            self.wheel.start_sweep();
        }
        left -= self.sweep(now, left);
        while left >= SHRINK_WORK && self.is_prefix_over() && self.shrink_prefixes() {
            left -= SHRINK_WORK;
        }
        let mut grace = Grace::background(left, self.arena.segment_bytes());
        let mut step = Step::Done;
        while left > 0 && self.wants_free_segments() && step == Step::Done {
            step = self.hand_step(&mut grace, now);
            left -= 1;
        }
        while left > 0 && self.arena.resident() > self.segments_allowed() && self.arena.release_one() {
            left = left.saturating_sub(RELEASE_WORK);
        }
        let shrinks = self.is_prefix_over() && left < SHRINK_WORK;
        shrinks || left == 0 || step == Step::Spent
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
        self.leases.flush();
        self.prefixes.flush();
        self.arena.clear();
        self.hand.reset();
        self.watch.copied.revoke_all();
        self.keys_with_expiry = 0;
    }

    /// What every write does at its end: its share of making room and of sweeping.
    #[inline]
    pub(super) fn after_write(&mut self, now: UnixMillis) {
        self.note_wheel();
        if self.is_prefix_over() {
            self.shrink_prefixes_a_little();
        }
        if self.wheel.is_sweeping() || self.wheel_is_littered() {
            self.wheel.start_sweep();
            self.sweep(now, SWEEP_PER_WRITE);
        }
        self.lacks_room = self.wants_free_segments();
        if self.lacks_room {
            self.pace(now);
        } else {
            self.hand.forgive();
        }
        if self.arena.resident() > self.segments_allowed() {
            self.arena.release_one();
            self.lacks_room = true;
        }
    }

    /// Up to [`LITTLE_WORK`] steps of the hand, and one segment given back, if there is too little room.
    pub(super) fn make_room_a_little(&mut self, now: UnixMillis) {
        let mut grace = Grace::background(LITTLE_WORK, self.arena.segment_bytes());
        let mut left = LITTLE_WORK;
        while left > 0 && self.wants_free_segments() && self.hand_step(&mut grace, now) == Step::Done {
            left -= 1;
        }
        if self.arena.resident() > self.segments_allowed() {
            self.arena.release_one();
        }
    }

    /// Removes what the wheel says is due, up to `entries_max` entries; answers how many it looked at.
    ///
    /// Entries are taken some at a time, so that their memory misses overlap: first all records, then their slots' tables.
    pub(super) fn expire_due(&mut self, now: UnixMillis, entries_max: usize) -> usize {
        let mut due = [Loc(0); DUE_TOGETHER];
        let mut done = 0;
        while done < entries_max
            && let Some((bucket, first)) = self.wheel.next_due(now.0)
        {
            due[0] = first;
            let mut count = 1;
            while count < DUE_TOGETHER.min(entries_max - done)
                && let Some(loc) = self.wheel.another_of(bucket)
            {
                self.arena.prefetch(loc);
                due[count] = loc;
                count += 1;
            }
            if bucket.is_lowest() {
                self.prefetch_tables(&due[..count]);
            }
            due[..count].iter().for_each(|&loc| self.settle(bucket, loc, now));
            done += count;
        }
        done
    }

    /// Starts loading what removing the records at `due` touches, as far as there are any.
    fn prefetch_tables(&self, due: &[Loc]) {
        let bytes = self.arena.bytes();
        let mut places = [None; DUE_TOGETHER];
        for (place, &loc) in places.iter_mut().zip(due).filter(|(_, loc)| self.arena.may_hold(**loc)) {
            let (slot, hash) = self.index.address(loc, bytes);
            self.index.prefetch_slot(slot);
            *place = Some((slot, hash));
        }
        for (slot, hash) in places.into_iter().flatten() {
            std::hint::black_box(self.index.candidate(slot, hash));
        }
    }

    /// Evicts the record whose deadline comes soonest of some that are due soon: as in
    /// Redis, a sample decides. Answers `false` if no record has a deadline.
    pub(super) fn evict_soonest(&mut self, now: UnixMillis) -> bool {
        let mut soonest: Option<(Watched, u64)> = None;
        let mut others = [None; SOONEST_SAMPLE];
        let mut seen = 0;
        while seen < SOONEST_SAMPLE
            && let Some((bucket, loc)) = self.wheel.next_soonest()
        {
            let Some((found, deadline)) = self.watched(bucket, loc, now) else { continue };
            let later = match soonest {
                Some((_, best)) if best <= deadline => Some((found, deadline)),
                _ => soonest.replace((found, deadline)),
            };
            others[seen] = later;
            seen += 1;
        }
        for (other, deadline) in others.into_iter().flatten() {
            self.file_again(other, deadline, now);
        }
        let Some((found, _)) = soonest else { return false };
        if is_past(found.word.deadline, now) {
            self.drop_expired(found.slot, found.hash, found.loc);
        } else {
            self.stats.evicted += 1;
            self.stats.evicted_bytes += self.drop_record(found.slot, found.hash, found.loc) as u64;
        }
        true
    }

    /// Gives memory back that slot tables no longer need, and blocks of a flushed wheel, up to `work_max` small pieces of
    /// work; answers how many.
    pub(super) fn give_back(&mut self, work_max: usize) -> usize {
        let pieces = self.index.release(work_max.div_ceil(RELEASE_WORK));
        let work = (pieces * RELEASE_WORK).min(work_max);
        work + self.wheel.drop_flushed(work_max - work)
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
        if self.comes_down(bucket, loc, now) {
            return;
        }
        let Some((found, deadline)) = self.watched(bucket, loc, now) else { return };
        if is_past(found.word.deadline, now) {
            self.drop_expired(found.slot, found.hash, found.loc);
        } else {
            self.file_again(found, deadline, now);
        }
    }

    /// Files an entry again that only comes down a level. Nothing is written to the record, so whether it is one
    /// need not be known: an entry that leads into the middle of a record is found out when its bytes' time has come.
    fn comes_down(&mut self, bucket: Bucket, loc: Loc, now: UnixMillis) -> bool {
        if !self.arena.may_hold(loc) {
            return true;
        }
        let word = self.arena.expiry_word(loc, Head::read(self.arena.bytes(), loc));
        let Some(deadline) = word.watched().filter(|&deadline| !is_past(Some(deadline), now)) else { return false };
        let stays = self.wheel.may_watch(bucket, deadline, word.watch) && self.wheel.files_as(word.watch);
        if stays {
            self.wheel.file(loc, deadline, now.0);
        }
        stays
    }

    /// The live record that an entry out of `bucket` watches, with its deadline, unless the entry is stale.
    fn watched(&self, bucket: Bucket, loc: Loc, now: UnixMillis) -> Option<(Watched, u64)> {
        if !self.arena.may_hold(loc) {
            return None;
        }
        let bytes = self.arena.bytes();
        let head = Head::read(bytes, loc);
        let word = self.arena.expiry_word(loc, head);
        let deadline = word.watched()?;
        if !is_past(word.deadline, now) && !self.wheel.may_watch(bucket, deadline, word.watch) {
            return None;
        }
        // The bytes look like a record that this entry is for; only the slot
        // table knows whether one really starts here.
        let (slot, hash) = self.index.address(loc, bytes);
        self.index.holds(slot, hash, loc).then_some((Watched { loc, head, word, slot, hash }, deadline))
    }

    fn file_again(&mut self, found: Watched, deadline: u64, now: UnixMillis) {
        let watch = self.wheel.file(found.loc, deadline, now.0);
        self.arena.write_expiry_word(found.loc, found.head, ExpiryWord { watch, ..found.word });
    }

    fn wheel_is_littered(&self) -> bool {
        let floor = STALE_ENTRIES_MAX.min(self.arena.segment_bytes() as u64 / SEGMENT_BYTES_PER_STALE_ENTRY);
        self.wheel.entries() > 2 * self.keys_with_expiry + floor
    }
}
