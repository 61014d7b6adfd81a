//! The arena: one mapping cut into segments, written as a log.
//!
//! ```text
//!            open()            full           hand arrives         walked
//!   ┌──────┐ ────────► ┌──────┐ ───► ┌────────┐ ────────► ┌──────────┐
//!   │ Free │           │ Open │      │ Sealed │           │ Draining │
//!   └──────┘ ◄─────────┴──────┘ ◄─── └────────┘           └──────────┘
//!    ▲  │ ▲   flush               all dead                      │
//!    │  │ └─────────────────────────────────────────────────────┘
//!    │  └─────► Extent: one piece of a large value, until its record dies
//!    └─────────────┘
//! ```
//!
//! Records are appended to the open segment. Sealed segments stand in a list,
//! oldest first, from which the hand takes them. A sealed segment whose records
//! are all dead is free at once.
//!
//! Invariant: in an open, sealed or draining segment the first `used` bytes are
//! records without gaps, and `live` of them belong to records not marked dead.
//!
//! Called by the shard's store and by the hand.

use super::item::{self, ExpiryWord, Head, Loc};
use super::memory::{HUGE_PAGE_BYTES, Memory};
use crate::base::UnixMillis;
use std::ops::Range;

/// Segments of a budget: enough of them that one is a small part of the whole.
const SEGMENTS_WANTED: u64 = 256;
/// The smallest segment.
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// The largest segment: one huge page.
pub const SEGMENT_BYTES_MAX: u64 = HUGE_PAGE_BYTES as u64;
/// A record longer than one part in so many of a segment keeps its value in extents.
pub const LARGE_FRACTION: usize = 4;
/// No segment.
const NONE: u32 = u32::MAX;

/// Where a segment is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Holds nothing.
    Free,
    /// Takes appended records.
    Open,
    /// Full, waiting in the list.
    Sealed,
    /// Under the hand.
    Draining,
    /// Holds a piece of a large value.
    Extent,
}

/// What is known of one segment without reading it.
struct Segment {
    state: State,
    /// Bytes written, of records or of a value.
    used: u32,
    /// Bytes of them that are live.
    live: u32,
    /// Neighbours in the list of sealed segments.
    older: u32,
    newer: u32,
    /// When it was opened, in Unix milliseconds: what narrow expiry words count from.
    base: u64,
}

/// The segments and the mapping they lie in.
pub struct Arena {
    memory: Memory,
    segments: Vec<Segment>,
    shift: u32,
    open: u32,
    oldest: u32,
    newest: u32,
    /// Free segments whose pages occupy memory, and those that never did or no longer do.
    free_resident: Vec<u32>,
    free_released: Vec<u32>,
    live_bytes: u64,
    used_bytes: u64,
}

impl Arena {
    /// Maps the segments that fit in `budget_bytes`.
    ///
    /// # Errors
    /// The system's error number.
    pub fn new(budget_bytes: u64) -> Result<Self, i32> {
        let wanted = (budget_bytes / SEGMENTS_WANTED).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        let shift = wanted.ilog2();
        let count = (budget_bytes >> shift) as u32;
        let mut memory = Memory::map((count as usize) << shift)?;
        memory.advise_huge(1 << shift == HUGE_PAGE_BYTES);
        let empty = || Segment { state: State::Free, used: 0, live: 0, older: NONE, newer: NONE, base: 0 };
        Ok(Self {
            memory,
            segments: (0..count).map(|_| empty()).collect(),
            shift,
            open: NONE,
            oldest: NONE,
            newest: NONE,
            free_resident: Vec::with_capacity(count as usize),
            free_released: (0..count).rev().collect(),
            live_bytes: 0,
            used_bytes: 0,
        })
    }

    /// Every byte of the arena.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.memory.bytes()
    }

    /// Every byte of the arena, for writing inside records.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.bytes_mut()
    }

    /// Starts loading the first two cache lines of the record at `loc`.
    #[inline]
    pub fn prefetch(&self, loc: Loc) {
        self.memory.prefetch(loc.offset());
        self.memory.prefetch(loc.offset() + 64);
    }

    /// A segment has `1 << segment_shift()` bytes.
    #[inline]
    pub fn segment_shift(&self) -> u32 {
        self.shift
    }

    /// Bytes of a segment.
    #[inline]
    pub fn segment_bytes(&self) -> usize {
        1 << self.shift
    }

    /// Bytes that the table of segments takes.
    pub fn table_bytes(&self) -> u64 {
        (self.segments.len() * (size_of::<Segment>() + 2 * size_of::<u32>())) as u64
    }

    /// How many segments the mapping has.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// How many segments hold something.
    #[inline]
    pub fn in_use(&self) -> usize {
        self.segments.len() - self.free_resident.len() - self.free_released.len()
    }

    /// How many segments may occupy memory.
    pub fn resident(&self) -> usize {
        self.segments.len() - self.free_released.len()
    }

    /// Bytes of live records and of the values in extents.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Bytes of dead records.
    pub fn dead_bytes(&self) -> u64 {
        self.used_bytes - self.live_bytes
    }

    /// Whether the open segment has room for `size` bytes.
    #[inline]
    pub fn fits(&self, size: usize) -> bool {
        self.segments.get(self.open as usize).is_some_and(|open| open.used as usize + size <= 1 << self.shift)
    }

    /// Takes `size` bytes of the open segment, a multiple of the alignment, for a live record.
    #[inline]
    pub fn append(&mut self, size: usize) -> Option<Loc> {
        if !self.fits(size) {
            return None;
        }
        let open = self.segments.get_mut(self.open as usize)?;
        let loc = Loc::at(((self.open as usize) << self.shift) + open.used as usize);
        open.used += size as u32;
        open.live += size as u32;
        self.live_bytes += size as u64;
        self.used_bytes += size as u64;
        Some(loc)
    }

    /// Seals the open segment and opens a free one. Answers how many bytes at
    /// the end of the sealed one stay unused, or `None` if no segment is free.
    pub fn open_next(&mut self, now: UnixMillis) -> Option<usize> {
        let tail = self.segments.get(self.open as usize).map_or(0, |open| self.segment_bytes() - open.used as usize);
        let next = self.take_free(State::Open)?;
        self.segments[next as usize].base = now.0;
        self.seal();
        self.open = next;
        Some(tail)
    }

    /// Seals the open segment, so that the hand may reach it.
    pub fn seal(&mut self) {
        let id = std::mem::replace(&mut self.open, NONE);
        let newest = self.newest;
        let Some(segment) = self.segments.get_mut(id as usize) else { return };
        if segment.live == 0 {
            self.free(id);
            return;
        }
        segment.state = State::Sealed;
        segment.older = newest;
        segment.newer = NONE;
        match self.segments.get_mut(newest as usize) {
            Some(before) => before.newer = id,
            None => self.oldest = id,
        }
        self.newest = id;
    }

    fn unlink(&mut self, id: u32) {
        let Segment { older, newer, .. } = self.segments[id as usize];
        match self.segments.get_mut(older as usize) {
            Some(before) => before.newer = newer,
            None => self.oldest = newer,
        }
        match self.segments.get_mut(newer as usize) {
            Some(after) => after.older = older,
            None => self.newest = older,
        }
    }

    fn take_free(&mut self, state: State) -> Option<u32> {
        let id = self.free_resident.pop().or_else(|| self.free_released.pop())?;
        let segment = &mut self.segments[id as usize];
        debug_assert!(segment.state == State::Free && segment.used == 0 && segment.live == 0);
        segment.state = state;
        Some(id)
    }

    /// Takes a free segment for `used` bytes of a large value.
    pub fn take_extent(&mut self, used: usize) -> Option<u32> {
        let id = self.take_free(State::Extent)?;
        self.resize_extent(id, used);
        Some(id)
    }

    /// Sets how many bytes of an extent are used.
    pub fn resize_extent(&mut self, id: u32, used: usize) {
        let Some(segment) = self.segments.get_mut(id as usize) else { return };
        debug_assert!(segment.state == State::Extent && used <= 1 << self.shift);
        self.live_bytes = self.live_bytes - u64::from(segment.live) + used as u64;
        self.used_bytes = self.used_bytes - u64::from(segment.used) + used as u64;
        (segment.live, segment.used) = (used as u32, used as u32);
    }

    /// What narrow expiry words count from in the segment of `loc`.
    #[inline]
    pub fn base(&self, loc: Loc) -> u64 {
        self.segments.get(loc.offset() >> self.shift).map_or(0, |segment| segment.base)
    }

    /// The base of the segment that takes appended records.
    #[inline]
    pub fn open_base(&self) -> Option<u64> {
        self.segments.get(self.open as usize).map(|open| open.base)
    }

    /// The expiry word of the record at `loc`, whose head is `head`.
    #[inline]
    pub fn expiry_word(&self, loc: Loc, head: Head) -> ExpiryWord {
        if head.has_expiry() { ExpiryWord::read(self.bytes(), loc, head, self.base(loc)) } else { ExpiryWord::NONE }
    }

    /// Writes the expiry word of the record at `loc`, whose head has a form that holds it.
    #[inline]
    pub fn write_expiry_word(&mut self, loc: Loc, head: Head, word: ExpiryWord) {
        let base = self.base(loc);
        word.write(self.memory.bytes_mut(), loc, head, base);
    }

    /// Where segment `id` lies.
    pub fn range(&self, id: u32) -> Range<usize> {
        let start = (id as usize) << self.shift;
        start..start + self.segment_bytes()
    }

    /// Makes a segment free, whatever it holds.
    pub fn free(&mut self, id: u32) {
        let Some(segment) = self.segments.get_mut(id as usize) else { return };
        if segment.state == State::Free {
            return;
        }
        segment.state = State::Free;
        self.live_bytes -= u64::from(segment.live);
        self.used_bytes -= u64::from(segment.used);
        (segment.live, segment.used) = (0, 0);
        self.free_resident.push(id);
    }

    /// Makes every segment free.
    pub fn clear(&mut self) {
        for id in 0..self.segments.len() as u32 {
            self.free(id);
        }
        (self.open, self.oldest, self.newest) = (NONE, NONE, NONE);
    }

    /// Marks the record at `loc` dead. Its extents are the caller's to free.
    pub fn kill(&mut self, loc: Loc) {
        let head = Head::read(self.bytes(), loc);
        let size = head.record_bytes(self.shift);
        head.into_dead().write(self.memory.bytes_mut(), loc);
        let id = (loc.offset() >> self.shift) as u32;
        let Some(segment) = self.segments.get_mut(id as usize) else { return };
        segment.live -= size as u32;
        self.live_bytes -= size as u64;
        if segment.live == 0 && segment.state == State::Sealed {
            self.unlink(id);
            self.free(id);
        }
    }

    /// Frees the extents of the large record at `loc`.
    pub fn free_extents(&mut self, loc: Loc, head: Head) {
        for index in 0..head.extents(self.shift) {
            if let Some(id) = item::extent_of(self.bytes(), loc, head, index) {
                self.free(id);
            }
        }
    }

    /// Gives the pages of one free segment back to the system; answers whether there was one.
    pub fn release_one(&mut self) -> bool {
        let Some(id) = self.free_resident.pop() else { return false };
        self.memory.release(self.range(id));
        self.free_released.push(id);
        true
    }

    /// The sealed segment that has stood longest.
    pub fn oldest(&self) -> Option<u32> {
        self.segments.get(self.oldest as usize).map(|_| self.oldest)
    }

    /// Bytes of dead records in segment `id`.
    pub fn dead_in(&self, id: u32) -> usize {
        self.segments.get(id as usize).map_or(0, |s| (s.used - s.live) as usize)
    }

    /// The sealed segment with most bytes of dead records.
    pub fn most_dead(&self) -> Option<u32> {
        let sealed = (0..self.segments.len() as u32).filter(|&id| self.segments[id as usize].state == State::Sealed);
        sealed.max_by_key(|&id| self.dead_in(id))
    }

    /// Hands the sealed segment `id` to the hand.
    pub fn drain(&mut self, id: u32) {
        self.unlink(id);
        self.segments[id as usize].state = State::Draining;
    }

    /// The segment that takes appended records.
    pub fn open_segment(&self) -> Option<u32> {
        self.segments.get(self.open as usize).map(|_| self.open)
    }

    /// Bytes written to segment `id`.
    pub fn used_in(&self, id: u32) -> usize {
        self.segments.get(id as usize).map_or(0, |s| s.used as usize)
    }

    /// Bytes of live records in segment `id`.
    pub fn live_in(&self, id: u32) -> usize {
        self.segments.get(id as usize).map_or(0, |s| s.live as usize)
    }

    /// Whether a live record may lie at `loc`: a cheap sieve for stale locations, which
    /// spares most of them the hash of what stands where a key would.
    #[inline]
    pub fn may_hold(&self, loc: Loc) -> bool {
        let within = loc.offset() & (self.segment_bytes() - 1);
        let Some(segment) = self.segments.get(loc.offset() >> self.shift) else { return false };
        if matches!(segment.state, State::Free | State::Extent) || within >= segment.used as usize {
            return false;
        }
        let head = Head::read(self.bytes(), loc);
        head.may_be_live() && within + head.record_bytes(self.shift) <= segment.used as usize
    }

    /// Copies `from` to `to` inside the arena; both ranges must lie in it.
    #[inline]
    pub fn copy_within(&mut self, from: Range<usize>, to: usize) {
        let len = from.len();
        let bytes = self.memory.bytes_mut();
        if from.end <= bytes.len() && to + len <= bytes.len() {
            bytes.copy_within(from, to);
        }
    }
}

#[cfg(test)]
impl Arena {
    /// Calls `f` with every record that is not dead, and checks the counts of every segment on the way.
    pub fn walk(&self, mut f: impl FnMut(Loc, Head)) {
        let (mut live_total, mut used_total, mut free) = (0, 0, 0);
        for (id, segment) in self.segments.iter().enumerate() {
            live_total += u64::from(segment.live);
            used_total += u64::from(segment.used);
            match segment.state {
                State::Free => free += 1,
                State::Extent => {}
                State::Open | State::Sealed | State::Draining => {
                    let (mut at, mut live) = (0, 0);
                    while at < segment.used as usize {
                        let loc = Loc::at((id << self.shift) + at);
                        let head = Head::read(self.bytes(), loc);
                        let size = head.record_bytes(self.shift);
                        if !head.is_dead() {
                            live += size;
                            f(loc, head);
                        }
                        at += size;
                    }
                    assert_eq!(at, segment.used as usize, "records end where the segment's used bytes do");
                    assert_eq!(live, segment.live as usize, "live bytes of segment {id}");
                }
            }
        }
        assert_eq!((live_total, used_total), (self.live_bytes, self.used_bytes));
        assert_eq!(free, self.free_resident.len() + self.free_released.len());
    }

    /// How many segments are extents.
    pub fn extent_count(&self) -> usize {
        self.segments.iter().filter(|s| s.state == State::Extent).count()
    }
}

#[cfg(test)]
mod tests {
    use super::item::Form;
    use super::*;

    fn append(arena: &mut Arena, value_len: usize) -> Loc {
        let head = Head::new(0, value_len, Form::Absent, false);
        let size = head.record_bytes(arena.segment_shift());
        if !arena.fits(size) {
            arena.open_next(UnixMillis(0)).expect("a segment is free");
        }
        let loc = arena.append(size).expect("it fits");
        head.write(arena.bytes_mut(), loc);
        loc
    }

    #[test]
    fn segments_are_sealed_in_order_and_freed_when_all_is_dead() {
        let mut arena = Arena::new(4 << 20).expect("mapped");
        let records: Vec<Loc> = (0..200).map(|_| append(&mut arena, 1000)).collect();
        assert_eq!(arena.in_use(), 4);
        let oldest = arena.oldest().expect("sealed");
        assert_eq!(records[0].offset() >> arena.segment_shift(), oldest as usize);
        let in_second = records.iter().filter(|l| l.offset() >> 16 == 1).copied().collect::<Vec<_>>();
        for loc in in_second {
            arena.kill(loc);
        }
        assert_eq!(arena.in_use(), 3, "the middle of the list is free at once");
        arena.walk(|_, _| {});
        arena.kill(records[0]);
        assert_eq!(arena.most_dead(), Some(oldest));
        arena.drain(oldest);
        assert_eq!(arena.oldest(), Some(2));
        arena.clear();
        assert_eq!((arena.in_use(), arena.live_bytes(), arena.dead_bytes()), (0, 0, 0));
    }

    #[test]
    fn released_segments_are_not_resident() {
        let mut arena = Arena::new(4 << 20).expect("mapped");
        for _ in 0..200 {
            append(&mut arena, 1000);
        }
        assert_eq!(arena.resident(), 4);
        assert!(!arena.release_one(), "nothing is free and resident");
        arena.clear();
        assert!(arena.release_one());
        assert_eq!(arena.resident(), 3);
    }
}
