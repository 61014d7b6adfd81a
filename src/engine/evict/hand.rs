//! The hand: frees segments by walking them record by record.
//!
//! Dead records are skipped by reading the segment alone, expired ones dropped.
//! What happens to a live record is the policy's word ([`verdict`](super::verdict)): it is
//! evicted, or written again at the end of a log. Policies that evict no record for
//! its age ask for compaction: all live ones are written again, and only segments
//! with dead bytes to win are walked.
//!
//! **Pace.** Every byte appended while few segments are free is owed, and every
//! write pays by walking until as many bytes are dropped. So a walk ends about
//! when its segment is needed, and no single write waits for a whole one. What a write
//! may write again for others is limited by its [`Grace`]. Beyond that it leaves its
//! debt to the next; once the reserve is touched, records are evicted whatever their count.
//!
//! Called at the end of every write, before a write that finds no room, and by
//! the background slice.

use super::verdict::{Reads, Verdict};
use super::{Ghost, Policy};
use crate::base::rng::Rng;
use crate::base::{KeyHash, Slot, UnixMillis};
use crate::command::OpError;
use crate::engine::arena::Log;
use crate::engine::item::{Head, Loc};
use crate::engine::shard::{Found, Shard, is_past};
use crate::engine::store::Reserve;

/// Free segments that only the hand and changes of deadlines may use: so many,
const RESERVE_SEGMENTS: isize = 2;
/// and so many bytes where nothing can be evicted for the wheel and the slot tables to grow.
const RESERVE_BYTES: isize = 64 << 10;
/// Records that one write may write again for others, of at most so many bytes,
/// unless the bytes it needs itself earn it more.
const GRACE_RECORDS: usize = 32;
const GRACE_BYTES: usize = 64 << 10;
const GRACE_BYTES_PER_BYTE: usize = 4;
/// Bytes of segments that one write walks at most: so many, and so many for each
/// byte it appends. Large debts are paid by several writes.
const WALK_BYTES: usize = 16 << 10;
const WALK_BYTES_PER_BYTE: usize = 8;
/// Entries of the wheel that a write looks at before it evicts.
const EXPIRE_FIRST_ENTRIES: usize = 32;
/// Small pieces of work, at a time, to give back what nothing living needs before anything living goes.
const GIVEN_BACK_FIRST: usize = 64;
/// A segment with one part in so many dead is taken before the oldest,
const MOST_DEAD_FRACTION: usize = 2;
/// if less than one part in so many of the oldest is dead.
const OLDEST_DEAD_FRACTION: usize = 10;
/// Without eviction a segment is worth walking if one part in so many is dead.
const COMPACT_FRACTION: usize = 32;
/// Where records can be evicted one by one, so much must be dead: the rest of the segment is copied.
const COMPACT_AFTER_EVICTING_FRACTION: usize = 8;

/// Where the hand stands, and what it remembers.
pub struct Hand {
    /// The segment under the hand, and the offset in it of the next record.
    at: Option<(u32, usize)>,
    /// Bytes appended and not yet made up for.
    debt: i64,
    /// Bytes that the current write appended.
    appended: usize,
    /// Keys that were evicted lately.
    pub(super) ghost: Ghost,
    pub(super) reads: Reads,
    /// Bytes of segments that the hand has walked.
    walked_bytes: u64,
    pub(super) rng: Rng,
}

impl Hand {
    /// A hand that rests; `seed` decides what it does by chance.
    pub fn new(seed: u64) -> Self {
        Self {
            at: None,
            debt: 0,
            appended: 0,
            ghost: Ghost::default(),
            reads: Reads::default(),
            walked_bytes: 0,
            rng: Rng::new(seed),
        }
    }

    /// Lifts the hand from an arena that has been emptied, and forgets what was evicted.
    pub fn reset(&mut self) {
        self.at = None;
        self.forgive();
        self.forget();
    }

    /// The segment under the hand, and how many bytes of it are walked.
    pub fn position(&self) -> Option<(u32, usize)> {
        self.at
    }

    /// Bytes of segments that the hand has walked.
    pub fn walked_bytes(&self) -> u64 {
        self.walked_bytes
    }

    /// Forgets what was evicted.
    pub fn forget(&mut self) {
        self.ghost = Ghost::default();
        self.reads = Reads::default();
    }

    /// Bytes that it takes to remember what was evicted.
    pub fn bytes(&self) -> u64 {
        self.ghost.bytes()
    }

    /// Counts bytes that the current write appended.
    #[inline]
    pub fn owe(&mut self, bytes: usize) {
        self.appended += bytes;
    }

    fn offset(&self) -> usize {
        self.at.map_or(0, |(_, offset)| offset)
    }

    /// Nothing is owed while enough segments are free.
    #[inline]
    pub fn forgive(&mut self) {
        (self.debt, self.appended) = (0, 0);
    }
}

/// How much may be written again for the sake of records that were read.
pub struct Grace {
    records: usize,
    bytes: usize,
    earned: usize,
    /// Whether the open segment may be sealed early if there is no other to walk.
    may_seal: bool,
    /// Whether records that should stay are evicted when the grace is used up.
    forced: bool,
}

/// How a step of the hand ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Something was done.
    Done,
    /// What is under the hand should stay, and may not be written again at this expense.
    Spent,
    /// There is nothing that could be done.
    Stuck,
}

impl Grace {
    /// What a write of `bytes` allows.
    fn of_write(bytes: usize, may_seal: bool, forced: bool) -> Self {
        let earned = bytes.saturating_mul(GRACE_BYTES_PER_BYTE);
        Self { records: GRACE_RECORDS, bytes: GRACE_BYTES, earned, may_seal, forced }
    }

    /// What a background slice allows.
    pub fn background(records: usize, bytes: usize) -> Self {
        Self { records, bytes, earned: 0, may_seal: false, forced: false }
    }

    fn take(&mut self, bytes: usize) -> bool {
        if self.earned >= bytes {
            self.earned -= bytes;
            return true;
        }
        if self.records == 0 || self.bytes < bytes {
            return false;
        }
        self.records -= 1;
        self.bytes -= bytes;
        true
    }
}

impl Shard {
    /// Whether few enough segments are free that the hand should work.
    #[inline]
    pub(in crate::engine) fn wants_free_segments(&self) -> bool {
        self.segments_free() <= self.reserve() + 1
    }

    /// Free segments that only the hand and changes of deadlines may use.
    #[inline]
    fn reserve(&self) -> isize {
        let bytes = if self.policy.compacts() { RESERVE_BYTES } else { 0 };
        RESERVE_SEGMENTS.max(bytes >> self.arena.segment_shift())
    }

    /// Makes sure that a record of `size` bytes in `slot` and so many extents
    /// fit. Answers whether records may have moved or gone on the way.
    #[inline]
    pub(in crate::engine) fn make_room(
        &mut self,
        slot: Slot,
        log: Log,
        size: usize,
        extents: usize,
        reserve: Reserve,
        now: UnixMillis,
    ) -> Result<bool, OpError> {
        if extents == 0 && self.arena.fits(log, size) && self.index.growth_bytes(slot) == 0 {
            return Ok(false);
        }
        self.make_room_slowly(slot, log, size, extents, reserve, now)
    }

    #[cold]
    fn make_room_slowly(
        &mut self,
        slot: Slot,
        log: Log,
        size: usize,
        extents: usize,
        reserve: Reserve,
        now: UnixMillis,
    ) -> Result<bool, OpError> {
        let shift = self.arena.segment_shift();
        let mut grace = Grace::of_write(size + (extents << shift), true, true);
        let mut moved = false;
        loop {
            let opens = !self.arena.fits(log, size);
            let needed = extents + usize::from(opens);
            let growth = self.index.growth_bytes(slot).div_ceil(1 << shift) as isize;
            let kept = self.segments_kept(needed, reserve);
            if self.segments_free() >= needed as isize + growth + kept {
                if opens {
                    self.hand.debt += self.arena.open_next(log, now).ok_or(OpError::OutOfMemory)? as i64;
                    let segments = self.segments_allowed();
                    self.hand.reads.fade(segments);
                }
                return Ok(moved);
            }
            if self.give_back(GIVEN_BACK_FIRST) > 0 || !moved && self.index.release_kept() {
                continue;
            }
            if needed + 1 > self.segments_allowed() {
                return Err(OpError::OutOfMemory);
            }
            if !moved {
                self.expire_due(now, EXPIRE_FIRST_ENTRIES);
            }
            moved = true;
            if self.hand_step(&mut grace, now) != Step::Done {
                return Err(OpError::OutOfMemory);
            }
        }
    }

    /// Free segments that a write must leave. Evicting needs none to go on, but
    /// compacting needs one to write to.
    fn segments_kept(&self, needed: usize, reserve: Reserve) -> isize {
        match reserve {
            _ if !self.policy.compacts() => 0,
            Reserve::Keep if needed > 0 => self.reserve(),
            Reserve::Keep | Reserve::Use => 1,
        }
    }

    /// A write's share of the hand's work.
    #[cold]
    pub(in crate::engine) fn pace(&mut self, now: UnixMillis) {
        let appended = std::mem::take(&mut self.hand.appended);
        // The account may also shrink by what the index takes: what is missing of
        // the reserve is made up for by paying more than was appended.
        let missing = (self.reserve() - self.segments_free()).clamp(0, RESERVE_SEGMENTS);
        self.hand.debt += appended as i64 * (1 + missing as i64);
        let overdrawn = self.segments_free() < 0;
        if self.hand.debt <= 0 && !overdrawn {
            return;
        }
        self.expire_due(now, EXPIRE_FIRST_ENTRIES);
        let mut grace = Grace::of_write(appended, overdrawn, missing > 0);
        let walk_max = WALK_BYTES + appended.saturating_mul(WALK_BYTES_PER_BYTE);
        let mut walked = 0;
        while walked < walk_max && (self.hand.debt > 0 || self.segments_free() < 0) {
            let before = self.hand.offset();
            match self.hand_step(&mut grace, now) {
                Step::Done => {}
                Step::Spent => return,
                Step::Stuck => {
                    self.hand.debt = 0;
                    return;
                }
            }
            walked += self.hand.offset().abs_diff(before);
        }
    }

    /// One step of the hand: one record, or from one segment to the next.
    pub(in crate::engine) fn hand_step(&mut self, grace: &mut Grace, now: UnixMillis) -> Step {
        let Some((segment, offset)) = self.hand.at else { return self.hand_arrive(grace, now) };
        if offset >= self.arena.used_in(segment) || self.arena.live_in(segment) == 0 {
            self.hand.debt -= (self.arena.segment_bytes() - offset) as i64;
            self.hand.at = None;
            self.hand.walked_bytes += (self.arena.segment_bytes() - offset) as u64;
            self.arena.free(segment);
            return Step::Done;
        }
        let loc = Loc::at(self.arena.range(segment).start + offset);
        let found = Found { loc, head: Head::read(self.arena.bytes(), loc) };
        let size = found.head.record_bytes(self.arena.segment_shift());
        let step = self.hand_meets(found, size, grace, now);
        if step == Step::Done {
            self.hand.at = Some((segment, offset + size));
            self.hand.walked_bytes += size as u64;
        }
        step
    }

    /// Deals with one record.
    fn hand_meets(&mut self, found: Found, size: usize, grace: &mut Grace, now: UnixMillis) -> Step {
        let Found { loc, head } = found;
        if head.is_dead() {
            self.hand.debt -= size as i64;
            return Step::Done;
        }
        let bytes = self.arena.bytes();
        let (slot, hash) = self.index.address(loc, bytes);
        let freed = (size + (head.extents(self.arena.segment_shift()) << self.arena.segment_shift())) as i64;
        if is_past(self.arena.expiry_word(loc, head).deadline, now) {
            self.drop_expired(slot, hash, loc);
            self.hand.debt -= freed;
            return Step::Done;
        }
        let verdict = self.verdict(found);
        if let Verdict::Keep { log, refs } = verdict {
            let affordable = self.policy.compacts() || grace.take(size);
            if !affordable && !grace.forced {
                return Step::Spent;
            }
            if affordable && self.reinsert(slot, hash, found, log, refs, now) {
                return Step::Done;
            }
        }
        if self.policy.compacts() {
            return Step::Stuck;
        }
        if verdict == (Verdict::Evict { remember: true }) {
            self.hand.ghost.insert(hash, self.index.key_count());
        }
        self.stats.evicted += 1;
        self.stats.evicted_bytes += self.drop_record(slot, hash, loc) as u64;
        self.hand.debt -= freed;
        Step::Done
    }

    /// Writes a record again at the end of `log`, with another count.
    fn reinsert(&mut self, slot: Slot, hash: KeyHash, found: Found, log: Log, refs: u64, now: UnixMillis) -> bool {
        let deadline = self.deadline_of(found);
        let head = found.head.with_refs(refs).with_form(self.form_again(found.head, log, deadline, now));
        if !self.arena.fits(log, head.record_bytes(self.arena.segment_shift())) {
            // A policy that compacts wins by it even where the budget is overdrawn, as it is when that has shrunk: one more
            // segment is in use until the next is free.
            if self.segments_free() < 1 && !self.policy.compacts() {
                return false;
            }
            let Some(tail) = self.arena.open_next(log, now) else { return false };
            self.hand.debt += tail as i64;
        }
        let done = self.relocate(slot, hash, found, log, head, deadline, now).is_some();
        self.stats.reinserted += u64::from(done);
        done
    }

    /// Puts the hand on the next segment.
    fn hand_arrive(&mut self, grace: &Grace, now: UnixMillis) -> Step {
        let next = self.choose_segment();
        if next.is_none() && self.policy == Policy::VolatileTtl && self.evict_soonest(now) {
            return Step::Done;
        }
        if let Some(next) = next.or_else(|| self.most_dead(COMPACT_FRACTION)) {
            self.arena.drain(next);
            self.hand.at = Some((next, 0));
            return Step::Done;
        }
        let worth_sealing = self.arena.open_segments().find(|&open| self.is_worth_sealing(open));
        if let Some(open) = worth_sealing.filter(|_| grace.may_seal) {
            self.arena.seal(open);
            return Step::Done;
        }
        Step::Stuck
    }

    /// Whether walking the open segment would win anything.
    fn is_worth_sealing(&self, open: u32) -> bool {
        if self.policy.compacts() {
            self.arena.dead_in(open) >= self.arena.segment_bytes() / COMPACT_FRACTION
        } else {
            self.arena.used_in(open) > 0
        }
    }

    fn choose_segment(&mut self) -> Option<u32> {
        match self.policy {
            Policy::NoEviction => return self.most_dead(COMPACT_FRACTION),
            Policy::VolatileTtl => return self.most_dead(COMPACT_AFTER_EVICTING_FRACTION),
            _ => {}
        }
        let oldest = self.next_segment()?;
        if self.arena.dead_in(oldest) >= self.arena.segment_bytes() / OLDEST_DEAD_FRACTION {
            return Some(oldest);
        }
        self.most_dead(MOST_DEAD_FRACTION).or(Some(oldest))
    }

    /// The sealed segment with most dead bytes, if one part in `fraction` of it is dead.
    fn most_dead(&self, fraction: usize) -> Option<u32> {
        self.arena.most_dead().filter(|&id| self.arena.dead_in(id) >= self.arena.segment_bytes() / fraction)
    }
}
