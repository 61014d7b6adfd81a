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
//!    ├─────────────┤ ▲
//!    │     pinned  ▼ │ the value is whole
//!    └─────────── Held: a piece of a value that is being sent or received
//! ```
//!
//! Segments belong to logs: one, or a small and a main one where the policy asks
//! for both. Records are appended to the open segment of their log. Sealed
//! segments stand in their log's list, oldest first, from which the hand takes
//! them. A sealed segment whose records are all dead is free at once.
//!
//! **Parking.** An open segment that is left for the next while a good part of
//! it is still empty, because a long record did not fit, stays open beside its
//! successor and takes the shorter records that follow.
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
const SEGMENTS_WANTED: u64 = 512;
/// The smallest segment.
pub const SEGMENT_BYTES_MIN: u64 = 8 << 10;
/// From this budget on a segment has at least so many bytes, of which half hold the longest key there is.
const LONG_KEYS_FROM: u64 = 32 << 20;
const LONG_KEY_SEGMENT_BYTES: u64 = 128 << 10;
/// The largest segment: one huge page.
pub const SEGMENT_BYTES_MAX: u64 = HUGE_PAGE_BYTES as u64;
/// A record is longer than one part in so many of a segment only if its key makes it so.
pub const LARGE_FRACTION: usize = 2;
/// A segment is parked if one part in so many is empty.
const PARK_FRACTION: usize = 32;
/// Parked segments of one log.
const PARKED_MAX: usize = 2;
/// A cache line, and as much of a record as is loaded ahead at most.
const LINE_BYTES: usize = 64;
const PREFETCH_BYTES_MAX: usize = 256;
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
    /// Holds a piece of a value that no record has: one that a reply still needs,
    /// or one that is being written.
    Held,
}

/// Which log a record is written to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Log {
    /// The only one, or the one for records that have proved their worth.
    #[default]
    Main,
    /// The one for newcomers, where the policy tells them apart.
    Small,
}

impl Log {
    /// Both logs.
    pub const ALL: [Log; 2] = [Log::Main, Log::Small];
}

/// What is known of one segment without reading it.
struct Segment {
    state: State,
    /// The log that it belongs to while it is not free.
    log: Log,
    /// How many pins need the piece of a value in it.
    pins: u16,
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

/// The segments of one log.
struct Chain {
    open: u32,
    parked: [u32; PARKED_MAX],
    oldest: u32,
    newest: u32,
    /// How many segments it has: open, parked, sealed, draining, and the extents of its records.
    segments: usize,
}

impl Chain {
    const EMPTY: Self = Self { open: NONE, parked: [NONE; PARKED_MAX], oldest: NONE, newest: NONE, segments: 0 };
}

/// The segments and the mapping they lie in.
pub struct Arena {
    memory: Memory,
    huge_pages: bool,
    /// Whether records may say when they were last read.
    access_times: bool,
    segments: Vec<Segment>,
    shift: u32,
    chains: [Chain; Log::ALL.len()],
    /// Free segments whose pages occupy memory, and those that never did or no longer do.
    free_resident: Vec<u32>,
    free_released: Vec<u32>,
    live_bytes: u64,
    /// How far most records reach beyond their first byte.
    most_bytes: usize,
    used_bytes: u64,
}

impl Arena {
    /// Maps the segments that fit in `budget_bytes`, and sets addresses aside for
    /// as many as `reach_bytes` would hold. Segments of a huge page's size ask for
    /// one if `huge_pages`.
    ///
    /// # Errors
    /// The system's error number.
    pub fn new(budget_bytes: u64, reach_bytes: u64, huge_pages: bool) -> Result<Self, i32> {
        let shift = Self::shift_for(budget_bytes);
        let reach = (budget_bytes.max(reach_bytes) >> shift) as usize;
        let memory = Memory::reserve(reach << shift)?;
        let mut arena = Self {
            memory,
            huge_pages: huge_pages && 1 << shift == HUGE_PAGE_BYTES,
            access_times: false,
            segments: Vec::new(),
            shift,
            chains: [Chain::EMPTY; Log::ALL.len()],
            free_resident: Vec::new(),
            free_released: Vec::new(),
            live_bytes: 0,
            most_bytes: PREFETCH_BYTES_MAX / 2 - 1,
            used_bytes: 0,
        };
        arena.grow(budget_bytes)?;
        Ok(arena)
    }

    /// Segments of an arena for `budget_bytes` have `1 << shift` bytes.
    pub fn shift_for(budget_bytes: u64) -> u32 {
        let least = if budget_bytes < LONG_KEYS_FROM { SEGMENT_BYTES_MIN } else { LONG_KEY_SEGMENT_BYTES };
        (budget_bytes / SEGMENTS_WANTED).clamp(least, SEGMENT_BYTES_MAX).ilog2()
    }

    /// Maps more segments, as many as fit in `budget_bytes` and in what was set aside.
    ///
    /// # Errors
    /// The system's error number; the arena is as before.
    pub fn grow(&mut self, budget_bytes: u64) -> Result<(), i32> {
        let before = self.segments.len();
        let count = ((budget_bytes >> self.shift) as usize).min(self.memory.reach() >> self.shift);
        if count <= before {
            return Ok(());
        }
        self.memory.grow(count << self.shift)?;
        self.memory.advise_huge(self.huge_pages);
        let free = || Segment {
            state: State::Free,
            log: Log::Main,
            used: 0,
            live: 0,
            older: NONE,
            newer: NONE,
            base: 0,
            pins: 0,
        };
        self.segments.resize_with(count, free);
        self.free_resident.reserve_exact(count - self.free_resident.len());
        self.free_released.reserve_exact(count - self.free_released.len());
        // Those taken first come last.
        self.free_released.splice(0..0, (before as u32..count as u32).rev());
        Ok(())
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

    /// Starts loading the record at `loc`, as far as most records go.
    #[inline]
    pub fn prefetch(&self, loc: Loc) {
        let last = loc.offset() + self.most_bytes;
        (loc.offset()..last).step_by(LINE_BYTES).for_each(|offset| self.memory.prefetch(offset));
        self.memory.prefetch(last);
    }

    /// Looks at how long the records are, of which there are `count`.
    #[inline]
    pub fn note_lengths(&mut self, count: u64) {
        let mean = self.live_bytes.checked_div(count).unwrap_or(0);
        self.most_bytes = (mean as usize).clamp(LINE_BYTES, PREFETCH_BYTES_MAX) - 1;
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

    /// Whether an open segment of `log` has room for `size` bytes.
    #[inline]
    pub fn fits(&self, log: Log, size: usize) -> bool {
        self.place(log, size).is_some()
    }

    /// The open or parked segment of `log` that takes a record of `size` bytes.
    #[inline]
    fn place(&self, log: Log, size: usize) -> Option<u32> {
        let chain = &self.chains[log as usize];
        let has_room = |id: u32| {
            self.segments.get(id as usize).is_some_and(|segment| segment.used as usize + size <= 1 << self.shift)
        };
        if chain.parked[0] != NONE
            && let Some(&parked) = chain.parked.iter().find(|&&id| has_room(id))
        {
            return Some(parked);
        }
        Some(chain.open).filter(|&open| has_room(open))
    }

    /// Takes `size` bytes at the end of `log`, a multiple of the alignment, for a live record.
    #[inline]
    pub fn append(&mut self, log: Log, size: usize) -> Option<Loc> {
        let id = self.place(log, size)?;
        let segment = self.segments.get_mut(id as usize)?;
        let loc = Loc::at(((id as usize) << self.shift) + segment.used as usize);
        segment.used += size as u32;
        segment.live += size as u32;
        self.live_bytes += size as u64;
        self.used_bytes += size as u64;
        Some(loc)
    }

    /// Opens a free segment for `log`, whose deadlines count from `now`. Answers how many
    /// bytes of those open before will stay unused, or `None` if no segment is free.
    pub fn open_next(&mut self, log: Log, now: UnixMillis) -> Option<usize> {
        let next = self.take_free(State::Open, log)?;
        self.segments[next as usize].base = now.0;
        let left = std::mem::replace(&mut self.chains[log as usize].open, next);
        Some(self.park(log, left))
    }

    /// Parks a segment that is open no more, or seals whichever has least room.
    fn park(&mut self, log: Log, id: u32) -> usize {
        if id == NONE {
            return 0;
        }
        let room = |arena: &Self, id: u32| arena.segment_bytes() - arena.used_in(id);
        let mut fullest = id;
        if room(self, id) >= self.segment_bytes() / PARK_FRACTION {
            for place in 0..PARKED_MAX {
                let parked = &mut self.chains[log as usize].parked[place];
                if *parked == NONE {
                    *parked = fullest;
                    return 0;
                }
                let parked = *parked;
                if room(self, parked) < room(self, fullest) {
                    self.chains[log as usize].parked[place] = std::mem::replace(&mut fullest, parked);
                }
            }
        }
        let unused = room(self, fullest);
        self.enlist(fullest);
        unused
    }

    /// Seals an open or parked segment, so that the hand may reach it.
    pub fn seal(&mut self, id: u32) {
        let Some(segment) = self.segments.get(id as usize).filter(|segment| segment.state == State::Open) else {
            return;
        };
        let chain = &mut self.chains[segment.log as usize];
        if chain.open == id {
            chain.open = NONE;
        }
        if let Some(at) = chain.parked.iter().position(|&parked| parked == id) {
            chain.parked[at..].rotate_left(1);
            chain.parked[PARKED_MAX - 1] = NONE;
        }
        self.enlist(id);
    }

    /// Puts a segment that takes no more records at the young end of its log's list, or frees it.
    fn enlist(&mut self, id: u32) {
        let Some(segment) = self.segments.get_mut(id as usize) else { return };
        if segment.live == 0 {
            self.free(id);
            return;
        }
        let chain = &mut self.chains[segment.log as usize];
        let newest = std::mem::replace(&mut chain.newest, id);
        segment.state = State::Sealed;
        segment.older = newest;
        segment.newer = NONE;
        match self.segments.get_mut(newest as usize) {
            Some(before) => before.newer = id,
            None => chain.oldest = id,
        }
    }

    fn unlink(&mut self, id: u32) {
        let Segment { older, newer, log, .. } = self.segments[id as usize];
        match self.segments.get_mut(older as usize) {
            Some(before) => before.newer = newer,
            None => self.chains[log as usize].oldest = newer,
        }
        match self.segments.get_mut(newer as usize) {
            Some(after) => after.older = older,
            None => self.chains[log as usize].newest = older,
        }
    }

    fn take_free(&mut self, state: State, log: Log) -> Option<u32> {
        let id = self.free_resident.pop().or_else(|| self.free_released.pop())?;
        let segment = &mut self.segments[id as usize];
        debug_assert!(segment.state == State::Free && segment.used == 0 && segment.live == 0);
        (segment.state, segment.log) = (state, log);
        self.chains[log as usize].segments += 1;
        Some(id)
    }

    /// Takes a free segment for `used` bytes of a large value, whose record is in `log`.
    pub fn take_extent(&mut self, log: Log, used: usize) -> Option<u32> {
        let id = self.take_free(State::Extent, log)?;
        self.resize_extent(id, used);
        Some(id)
    }

    /// Takes a free segment for a value that is being written, of which nothing is there yet.
    pub fn take_held(&mut self) -> Option<u32> {
        let id = self.take_free(State::Extent, Log::Main)?;
        self.hold(id);
        Some(id)
    }

    /// Takes an extent from its log: no record has it.
    fn hold(&mut self, id: u32) {
        let Some(segment) = self.segments.get_mut(id as usize).filter(|s| s.state == State::Extent) else { return };
        segment.state = State::Held;
        self.chains[segment.log as usize].segments -= 1;
    }

    /// Makes a held segment an extent of a record in `log`.
    pub fn adopt(&mut self, id: u32, log: Log) {
        let Some(segment) = self.segments.get_mut(id as usize).filter(|s| s.state == State::Held) else { return };
        (segment.state, segment.log) = (State::Extent, log);
        self.chains[log as usize].segments += 1;
    }

    /// Keeps what an extent holds until [`Arena::unpin`], whatever becomes of its record.
    pub fn pin(&mut self, id: u32) {
        if let Some(segment) = self.segments.get_mut(id as usize) {
            debug_assert!(segment.state == State::Extent);
            segment.pins += 1;
        }
    }

    /// Lets go of what [`Arena::pin`] kept.
    pub fn unpin(&mut self, id: u32) {
        let Some(segment) = self.segments.get_mut(id as usize) else { return };
        debug_assert!(segment.pins > 0);
        segment.pins -= 1;
        if segment.pins == 0 && segment.state == State::Held {
            self.free(id);
        }
    }

    /// Whether an extent can be pinned once more.
    pub fn can_pin(&self, id: u32) -> bool {
        self.segments.get(id as usize).is_some_and(|segment| segment.pins < u16::MAX)
    }

    /// Whether somebody needs what an extent holds beside its record.
    pub fn is_pinned(&self, id: u32) -> bool {
        self.segments.get(id as usize).is_some_and(|segment| segment.pins > 0)
    }

    /// Whether segment `id` belongs to no record and is in use all the same.
    pub fn is_held(&self, id: u32) -> bool {
        self.segments.get(id as usize).is_some_and(|segment| segment.state == State::Held)
    }

    /// Counts an extent to the log to which its record has moved.
    pub fn move_extent(&mut self, id: u32, log: Log) {
        let Some(segment) = self.segments.get_mut(id as usize) else { return };
        debug_assert!(segment.state == State::Extent);
        let before = std::mem::replace(&mut segment.log, log);
        self.chains[before as usize].segments -= 1;
        self.chains[log as usize].segments += 1;
    }

    /// Sets how many bytes of an extent are used.
    pub fn resize_extent(&mut self, id: u32, used: usize) {
        let Some(segment) = self.segments.get_mut(id as usize) else { return };
        debug_assert!(matches!(segment.state, State::Extent | State::Held) && used <= 1 << self.shift);
        self.live_bytes = self.live_bytes - u64::from(segment.live) + used as u64;
        self.used_bytes = self.used_bytes - u64::from(segment.used) + used as u64;
        (segment.live, segment.used) = (used as u32, used as u32);
    }

    /// What narrow expiry words count from in the segment of `loc`.
    #[inline]
    pub fn base(&self, loc: Loc) -> u64 {
        self.segments.get(loc.offset() >> self.shift).map_or(0, |segment| segment.base)
    }

    /// The bases of the segments of `log` that take appended records.
    #[inline]
    pub fn open_bases(&self, log: Log) -> impl Iterator<Item = u64> {
        let chain = &self.chains[log as usize];
        let open = chain.parked.iter().chain([&chain.open]);
        open.filter_map(|&id| self.segments.get(id as usize)).map(|segment| segment.base)
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
        match segment.state {
            State::Free => return,
            State::Held => {}
            _ => self.chains[segment.log as usize].segments -= 1,
        }
        debug_assert!(segment.pins == 0);
        segment.state = State::Free;
        self.live_bytes -= u64::from(segment.live);
        self.used_bytes -= u64::from(segment.used);
        (segment.live, segment.used) = (0, 0);
        self.free_resident.push(id);
    }

    /// Makes every segment free but those that are held or become so because they are pinned.
    pub fn clear(&mut self) {
        for id in 0..self.segments.len() as u32 {
            match self.segments[id as usize].state {
                State::Held => {}
                State::Extent => self.free_extent(id),
                _ => self.free(id),
            }
        }
        self.chains = [Chain::EMPTY; Log::ALL.len()];
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
        if segment.live > 0 {
            return;
        }
        match segment.state {
            State::Sealed => {
                self.unlink(id);
                self.free(id);
            }
            // A parked one: sealing what is empty frees it.
            State::Open if self.chains[segment.log as usize].open != id => self.seal(id),
            _ => {}
        }
    }

    /// Frees the extents of the large record at `loc`, those that are pinned as soon as they are not.
    pub fn free_extents(&mut self, loc: Loc, head: Head) {
        for index in 0..head.extents(self.shift) {
            if let Some(id) = item::extent_of(self.bytes(), loc, head, index) {
                self.free_extent(id);
            }
        }
    }

    fn free_extent(&mut self, id: u32) {
        if self.is_pinned(id) { self.hold(id) } else { self.free(id) }
    }

    /// Gives the pages of one free segment back to the system; answers whether there was one.
    pub fn release_one(&mut self) -> bool {
        let Some(id) = self.free_resident.pop() else { return false };
        self.memory.release(self.range(id));
        self.free_released.push(id);
        true
    }

    /// Whether records say when they were last read.
    #[inline]
    pub fn has_access_times(&self) -> bool {
        self.access_times
    }

    /// Lets records say when they were last read.
    pub fn keep_access_times(&mut self) {
        self.access_times = true;
    }

    /// Lets up to `count` more free segments occupy memory.
    pub fn touch(&mut self, count: usize) {
        let from = self.free_released.len().saturating_sub(count);
        // The order in which they are taken stays: the last comes first.
        for &id in &self.free_released[from..] {
            let start = (id as usize) << self.shift;
            self.memory.touch(start..start + (1 << self.shift));
        }
        self.free_resident.splice(0..0, self.free_released.drain(from..));
    }

    /// The sealed segment of `log` that has stood longest.
    pub fn oldest(&self, log: Log) -> Option<u32> {
        Some(self.chains[log as usize].oldest).filter(|&id| id != NONE)
    }

    /// How many segments `log` has, the extents of its records included.
    #[inline]
    pub fn segments_of(&self, log: Log) -> usize {
        self.chains[log as usize].segments
    }

    /// The log that the record at `loc` lies in.
    #[inline]
    pub fn log_of(&self, loc: Loc) -> Log {
        self.segments.get(loc.offset() >> self.shift).map_or(Log::Main, |segment| segment.log)
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

    /// The segments that take appended records, the parked ones first.
    pub fn open_segments(&self) -> impl Iterator<Item = u32> {
        let all = self.chains.iter().flat_map(|chain| chain.parked.iter().chain([&chain.open]));
        all.copied().filter(|&id| id != NONE)
    }

    /// Whether segment `id` is sealed.
    pub fn is_sealed(&self, id: u32) -> bool {
        self.segments.get(id as usize).is_some_and(|segment| segment.state == State::Sealed)
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
        let holds_none = matches!(segment.state, State::Free | State::Extent | State::Held);
        if holds_none || within >= segment.used as usize {
            return false;
        }
        let head = Head::read(self.bytes(), loc);
        head.may_be_live(self.access_times) && within + head.record_bytes(self.shift) <= segment.used as usize
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

#[cfg(any(test, fuzzing))]
impl Arena {
    /// Calls `f` with every record that is not dead, and checks the counts of every segment on the way.
    pub fn walk(&self, mut f: impl FnMut(Loc, Head)) {
        let (mut live_total, mut used_total, mut free) = (0, 0, 0);
        for (id, segment) in self.segments.iter().enumerate() {
            live_total += u64::from(segment.live);
            used_total += u64::from(segment.used);
            match segment.state {
                State::Free => free += 1,
                State::Extent | State::Held => {}
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

    /// The segments that are held, and how many pins each segment has.
    pub fn held_and_pins(&self) -> (Vec<u32>, Vec<u16>) {
        let held = (0..self.segments.len() as u32).filter(|&id| self.is_held(id)).collect();
        (held, self.segments.iter().map(|s| s.pins).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::item::Form;
    use super::*;

    fn append(arena: &mut Arena, value_len: usize) -> Loc {
        let head = Head::new(0, value_len, Form::Absent, false);
        let size = head.record_bytes(arena.segment_shift());
        if !arena.fits(Log::Main, size) {
            arena.open_next(Log::Main, UnixMillis(0)).expect("a segment is free");
        }
        let loc = arena.append(Log::Main, size).expect("it fits");
        head.write(arena.bytes_mut(), loc);
        loc
    }

    #[test]
    fn segments_are_sealed_in_order_and_freed_when_all_is_dead() {
        let mut arena = Arena::new(32 << 20, 0, false).expect("mapped");
        let records: Vec<Loc> = (0..400).map(|_| append(&mut arena, 1000)).collect();
        assert_eq!(arena.in_use(), 4);
        let oldest = arena.oldest(Log::Main).expect("sealed");
        assert_eq!(records[0].offset() >> arena.segment_shift(), oldest as usize);
        let in_second =
            records.iter().filter(|l| l.offset() >> arena.segment_shift() == 1).copied().collect::<Vec<_>>();
        for loc in in_second {
            arena.kill(loc);
        }
        assert_eq!(arena.in_use(), 3, "the middle of the list is free at once");
        arena.walk(|_, _| {});
        arena.kill(records[0]);
        assert_eq!(arena.most_dead(), Some(oldest));
        arena.drain(oldest);
        assert_eq!(arena.oldest(Log::Main), Some(2));
        arena.clear();
        assert_eq!((arena.in_use(), arena.live_bytes(), arena.dead_bytes()), (0, 0, 0));
    }

    #[test]
    fn released_segments_are_not_resident() {
        let mut arena = Arena::new(32 << 20, 0, false).expect("mapped");
        for _ in 0..400 {
            append(&mut arena, 1000);
        }
        assert_eq!(arena.resident(), 4);
        assert!(!arena.release_one(), "nothing is free and resident");
        arena.clear();
        assert!(arena.release_one());
        assert_eq!(arena.resident(), 3);
        arena.touch(2);
        assert_eq!(arena.resident(), 5);
        arena.touch(usize::MAX);
        assert_eq!(arena.resident(), arena.segment_count());
        for _ in 0..400 {
            append(&mut arena, 1000);
        }
        arena.walk(|_, _| ());
    }
}
