//! The memory of slot tables: for each size a slab, in which tables of that size stand side by side.
//!
//! A table that goes leaves a hole, and the last of its slab moves into it. So a slab has no holes, whatever the order in
//! which tables came and went; an allocator that cannot move what it handed out keeps pages for the few tables left in
//! them. The move costs less than what made the other table go: its entries were put into a new one. Slabs are those of
//! Bonwick (USENIX Summer 1994), on spans of one mapping that go from one slab to another without a system call: while a
//! keyspace grows, the tables of one size become fewer as those of the next become more.
//!
//! ```text
//! mapping   | span 0       | span 1       | span 2       | span 3       |       192 KiB each
//! slabs       64 bytes 0     192 bytes 0    64 bytes 1     free                 3 × 2^n divides them, so 2^n does
//! ```
//!
//! Invariant: a slab's tables fill its spans in order, all but the last; `owners` says of which slot each is. What a span
//! has never been used for, or was given back, occupies no page.
//!
//! Called by `index`.

use super::memory::{Memory, Unit, page_bytes};
use super::table::{SIZES, units_of};
use crate::base::Slot;
use std::alloc::{Layout, handle_alloc_error};

/// Bytes of a span: every table of up to a third of it divides it.
const SPAN_BYTES: usize = 192 << 10;
const SPAN_UNITS: usize = SPAN_BYTES / size_of::<Unit>();
/// The mapping is made usable in steps of so much.
const GROWTH_BYTES: usize = 1 << 20;
/// So much that no table needs is kept for tables to come, and one part in so many of what they have.
const SPARE_BYTES: usize = 64 << 10;
const SPARE_FRACTION: usize = 8;
/// Owners are made room for in steps of so many.
const OWNERS_STEP: usize = 256;
/// Addresses to bytes that are ever used: tables of more than a span need spans in a row.
const ADDRESSES: u64 = 4;
/// As far as a table's position reaches.
const REACH_BYTES_MAX: u64 = ((1 << 32) - SPAN_UNITS as u64) * size_of::<Unit>() as u64;
/// The ordinal of a span that is free.
const FREE: u32 = u32::MAX;

/// A piece of the mapping.
#[derive(Clone, Copy)]
struct Span {
    /// Which of its slab's it is: of a table in several spans, the first counts.
    ordinal: u32,
    /// Bytes from its beginning that may occupy memory.
    resident: u32,
}

/// Tables of one size.
struct Slab {
    /// Units of a table; none for tables without memory.
    units: usize,
    /// Tables that share a span, or spans in a row that a table needs: one of the two is 1.
    tables_each: usize,
    spans_each: usize,
    owners: Vec<Slot>,
    /// The spans, or the first of each row.
    spans: Vec<u32>,
}

impl Slab {
    fn new(units: usize) -> Self {
        let tables_each = SPAN_UNITS.checked_div(units).map_or(1, |tables| tables.max(1));
        Self { units, tables_each, spans_each: units.div_ceil(SPAN_UNITS), owners: Vec::new(), spans: Vec::new() }
    }

    /// Bytes of the last span that tables fill.
    fn filled_bytes(&self) -> usize {
        (self.owners.len() - (self.spans.len() - 1) * self.tables_each) * self.units * size_of::<Unit>()
    }

    /// The first unit of a table, by its number.
    fn start(&self, table: usize) -> usize {
        self.spans[table / self.tables_each] as usize * SPAN_UNITS + table % self.tables_each * self.units
    }
}

/// The tables of all sizes.
pub struct Slabs {
    memory: Memory,
    page_bytes: usize,
    slabs: Vec<Slab>,
    spans: Vec<Span>,
    /// Spans of no slab: some that may occupy memory, and some that do not.
    free_resident: Vec<u32>,
    free_released: Vec<u32>,
    /// Bytes that may occupy memory, and those of them that are tables.
    resident: usize,
    taken: usize,
    owners_bytes: usize,
}

impl Slabs {
    /// Empty ones, which set addresses aside for `reach_bytes` of tables.
    ///
    /// # Errors
    /// The system's error number.
    pub fn new(reach_bytes: u64) -> Result<Self, i32> {
        let reach = reach_bytes.saturating_mul(ADDRESSES).clamp(64 << 20, REACH_BYTES_MAX) as usize;
        Ok(Self {
            memory: Memory::reserve(reach / SPAN_BYTES * SPAN_BYTES)?,
            page_bytes: page_bytes(),
            slabs: (0..SIZES).map(|size| Slab::new(units_of(size))).collect(),
            spans: Vec::new(),
            free_resident: Vec::new(),
            free_released: Vec::new(),
            resident: 0,
            taken: 0,
            owners_bytes: 0,
        })
    }

    /// All units, in which [`Slabs::push`] answers positions.
    #[inline]
    pub fn units(&self) -> &[Unit] {
        self.memory.units()
    }

    /// All units, for writing.
    #[inline]
    pub fn units_mut(&mut self) -> &mut [Unit] {
        self.memory.units_mut()
    }

    /// Bytes occupied. (A dozen more for each span are not worth counting.)
    #[inline]
    pub fn bytes(&self) -> usize {
        self.resident + self.owners_bytes
    }

    /// How many bytes more they occupy at most with one table more of a size.
    pub fn growth_bytes(&self, size: usize) -> usize {
        let slab = &self.slabs[size];
        let owners = if slab.owners.len() == slab.owners.capacity() { OWNERS_STEP * size_of::<Slot>() } else { 0 };
        let table_bytes = slab.units * size_of::<Unit>();
        let (end, resident) = if slab.owners.len() < slab.spans.len() * slab.tables_each {
            let last = slab.spans.last().map_or(0, |&span| self.spans[span as usize].resident);
            (slab.filled_bytes() + table_bytes, last)
        } else if slab.spans_each == 1 {
            (table_bytes, self.free_resident.last().map_or(0, |&span| self.spans[span as usize].resident))
        } else {
            (table_bytes, 0)
        };
        owners + end.next_multiple_of(self.page_bytes).saturating_sub(resident as usize)
    }

    /// Adds a table of zeros for `owner`; answers its first unit. The process ends, as for any allocation, if the system
    /// has no memory for it.
    pub fn push(&mut self, size: usize, owner: Slot) -> usize {
        let slab = &mut self.slabs[size];
        let (units, table) = (slab.units, slab.owners.len());
        if units == 0 {
            return 0;
        }
        if table == slab.owners.capacity() {
            slab.owners.reserve_exact(OWNERS_STEP);
            self.owners_bytes += OWNERS_STEP * size_of::<Slot>();
        }
        slab.owners.push(owner);
        if table == slab.spans.len() * slab.tables_each {
            let (ordinal, count) = (slab.spans.len(), slab.spans_each);
            let first = self.take_spans(count);
            self.slabs[size].spans.push(first as u32);
            self.spans[first].ordinal = ordinal as u32;
        }
        let start = self.slabs[size].start(table);
        let end = self.occupy(start * size_of::<Unit>(), units * size_of::<Unit>());
        if units > SPAN_UNITS {
            // Nothing else is going to use the rest of its last span.
            self.release_from(((end - 1) / SPAN_BYTES) as u32, (end - 1) % SPAN_BYTES + 1);
        }
        self.taken += units * size_of::<Unit>();
        self.units_mut()[start..][..units].fill(Unit::default());
        start
    }

    /// Takes out the table that begins at `start`. Another may move there: then answers whose.
    pub fn remove(&mut self, size: usize, start: usize) -> Option<Slot> {
        let slab = &mut self.slabs[size];
        let units = slab.units;
        if units == 0 {
            return None;
        }
        let ordinal = self.spans[start / SPAN_UNITS].ordinal as usize;
        let table = ordinal * slab.tables_each + start % SPAN_UNITS / units;
        slab.owners.swap_remove(table);
        let last = slab.owners.len();
        let (last_start, moved) = (slab.start(last), slab.owners.get(table).copied());
        self.taken -= units * size_of::<Unit>();
        if last.is_multiple_of(slab.tables_each) {
            let count = slab.spans_each;
            let first = slab.spans.pop();
            first.into_iter().for_each(|first| self.free_spans(first, count));
        }
        if moved.is_some() {
            self.units_mut().copy_within(last_start..last_start + units, start);
        }
        moved
    }

    /// Forgets all tables.
    pub fn clear(&mut self) {
        for size in 0..SIZES {
            let slab = &mut self.slabs[size];
            let count = slab.spans_each;
            slab.owners = Vec::new();
            std::mem::take(&mut slab.spans).into_iter().for_each(|first| self.free_spans(first, count));
        }
        (self.taken, self.owners_bytes) = (0, 0);
    }

    /// Whether more is occupied than is kept for tables to come.
    #[inline]
    pub fn has_spare(&self) -> bool {
        self.resident - self.taken > SPARE_BYTES + self.taken / SPARE_FRACTION
    }

    /// Gives what a span occupies for no table back to the system; answers whether there was one, and the system took it.
    pub fn release(&mut self) -> bool {
        if let Some(&span) = self.free_resident.last() {
            let done = self.release_from(span, 0);
            if done {
                self.free_resident.pop();
                self.free_released.push(span);
            }
            return done;
        }
        for size in 1..SIZES {
            let slab = &self.slabs[size];
            if let Some(&last) = slab.spans.last()
                && slab.spans_each == 1
                && self.release_from(last, slab.filled_bytes().next_multiple_of(self.page_bytes))
            {
                return true;
            }
        }
        false
    }

    /// Gives back what a span occupies from some byte on.
    fn release_from(&mut self, span: u32, from: usize) -> bool {
        let base = span as usize * SPAN_BYTES;
        let resident = self.spans[span as usize].resident as usize;
        if from >= resident || !self.memory.release(base + from..base + resident) {
            return false;
        }
        self.spans[span as usize].resident = from as u32;
        self.resident -= resident - from;
        true
    }

    /// Counts some bytes of the mapping as occupied; answers where their last page ends.
    fn occupy(&mut self, mut at: usize, mut bytes: usize) -> usize {
        while bytes > 0 {
            let here = bytes.min(SPAN_BYTES - at % SPAN_BYTES);
            let end = (at % SPAN_BYTES + here).next_multiple_of(self.page_bytes) as u32;
            let span = &mut self.spans[at / SPAN_BYTES];
            self.resident += end.saturating_sub(span.resident) as usize;
            span.resident = span.resident.max(end);
            (at, bytes) = (at + here, bytes - here);
        }
        at.next_multiple_of(self.page_bytes)
    }

    /// So many free spans in a row: the first.
    fn take_spans(&mut self, count: usize) -> usize {
        if count == 1
            && let Some(span) = self.free_resident.pop().or_else(|| self.free_released.pop())
        {
            return span as usize;
        }
        // A row of them; one alone would have been in a list.
        let searched = if count > 1 { self.spans.len() } else { 0 };
        let mut first = 0;
        for span in 0..searched {
            if self.spans[span].ordinal != FREE {
                first = span + 1;
            } else if span + 1 - first == count {
                let taken = first..first + count;
                self.spans[taken.clone()].iter_mut().for_each(|span| span.ordinal = 0);
                self.free_resident.retain(|&span| !taken.contains(&(span as usize)));
                self.free_released.retain(|&span| !taken.contains(&(span as usize)));
                return first;
            }
        }
        let first = self.spans.len();
        self.spans.resize(first + count, Span { ordinal: 0, resident: 0 });
        if self.make_usable(self.spans.len() * SPAN_BYTES).is_err() {
            let layout = Layout::new::<[Unit; SPAN_UNITS]>();
            handle_alloc_error(layout.repeat(count).map_or(layout, |all| all.0));
        }
        first
    }

    fn make_usable(&mut self, bytes: usize) -> Result<(), i32> {
        if bytes <= self.memory.bytes().len() {
            return Ok(());
        }
        self.memory.grow(bytes.next_multiple_of(GROWTH_BYTES).min(self.memory.reach()).max(bytes))?;
        // Beyond the last table of a span nothing is to be occupied; what is there gains little from them.
        self.memory.advise_huge(false);
        Ok(())
    }

    fn free_spans(&mut self, first: u32, count: usize) {
        for span in first..first + count as u32 {
            self.spans[span as usize].ordinal = FREE;
            let occupied = self.spans[span as usize].resident > 0;
            if occupied { &mut self.free_resident } else { &mut self.free_released }.push(span);
        }
    }
}

#[cfg(any(test, fuzzing))]
impl Slabs {
    /// The bytes occupied, counted afresh.
    pub fn bytes_counted(&self) -> usize {
        let owners: usize = self.slabs.iter().map(|slab| slab.owners.capacity() * size_of::<Slot>()).sum();
        self.spans.iter().map(|span| span.resident as usize).sum::<usize>() + owners
    }
}

#[cfg(test)]
impl Slabs {
    fn check(&self) {
        assert_eq!(self.bytes(), self.bytes_counted());
        let mut spans = vec![0; self.spans.len()];
        let mut taken = 0;
        for slab in &self.slabs {
            taken += slab.owners.len() * slab.units * size_of::<Unit>();
            assert_eq!(slab.spans.len(), slab.owners.len().div_ceil(slab.tables_each));
            for (n, &first) in slab.spans.iter().enumerate() {
                assert_eq!(self.spans[first as usize].ordinal, n as u32);
                spans[first as usize..][..slab.spans_each].iter_mut().for_each(|uses| *uses += 1);
            }
        }
        for &span in self.free_resident.iter().chain(&self.free_released) {
            assert_eq!(self.spans[span as usize].ordinal, FREE);
            spans[span as usize] += 1;
        }
        assert!(spans.iter().all(|&uses| uses == 1), "each span is in one slab, or free");
        assert!(self.free_released.iter().all(|&span| self.spans[span as usize].resident == 0));
        assert_eq!(self.taken, taken);
        assert!(self.resident >= taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slot(n: usize) -> Slot {
        Slot::new(n as u16).expect("small")
    }

    fn new() -> Slabs {
        Slabs::new(1 << 28).expect("addresses")
    }

    /// The size of tables of so many units.
    fn size(units: usize) -> usize {
        (0..SIZES).find(|&size| units_of(size) == units).expect("a size")
    }

    proptest! {
        /// Against a list of tables, each of which has units of its owner's number; the largest have several spans each.
        #[test]
        fn tables_keep_what_they_hold_when_others_go(
            steps in proptest::collection::vec((0..8usize, 0..24usize, 0..1000usize), 1..300),
        ) {
            let mut slabs = new();
            let mut tables: Vec<(Slot, usize, usize)> = Vec::new();
            for (n, (what, size, which)) in steps.into_iter().enumerate() {
                if what < 4 || what < 7 && tables.is_empty() {
                    let owner = slot(n);
                    let (bytes, growth) = (slabs.bytes(), slabs.growth_bytes(size));
                    let start = slabs.push(size, owner);
                    prop_assert!(slabs.bytes() <= bytes + growth);
                    let place = &mut slabs.units_mut()[start..][..units_of(size)];
                    prop_assert!(place.iter().all(|unit| unit.0 == [0; 4]));
                    place.fill(Unit([n as u32 + 1; 4]));
                    tables.push((owner, size, start));
                } else if what < 7 {
                    let (_, size, start) = tables.swap_remove(which % tables.len());
                    if let Some(moved) = slabs.remove(size, start) {
                        tables.iter_mut().find(|table| table.0 == moved).expect("a table that is there").2 = start;
                    }
                } else if which < 100 {
                    slabs.clear();
                    tables.clear();
                } else {
                    while slabs.release() {}
                    prop_assert!(slabs.resident - slabs.taken < SIZES * slabs.page_bytes && slabs.free_resident.is_empty());
                }
                slabs.check();
                for &(owner, size, start) in &tables {
                    let place = &slabs.units()[start..][..units_of(size)];
                    prop_assert!(place.iter().all(|unit| unit.0 == [owner.index() as u32 + 1; 4]));
                }
            }
        }
    }

    #[test]
    fn tables_that_grow_take_over_the_memory_of_those_before() {
        let mut slabs = new();
        let (small, large) = (size(64), size(96));
        let tables = 3000;
        (0..tables).for_each(|n| assert!(slabs.push(small, slot(n)) > 0 || n == 0));
        let mut starts: Vec<usize> = (0..tables).map(|n| slabs.slabs[small].start(n)).collect();
        let mut most = 0;
        for n in 0..tables {
            slabs.push(large, slot(n));
            if let Some(moved) = slabs.remove(small, starts[n]) {
                starts[moved.index()] = starts[n];
            }
            most = most.max(slabs.spans.len());
        }
        slabs.check();
        assert!(most <= (tables * 1536).div_ceil(SPAN_BYTES) + 2, "{most} spans");
        assert!(!slabs.has_spare(), "{} of {}", slabs.taken, slabs.resident);
    }

    #[test]
    fn what_is_cleared_is_given_back_in_pieces() {
        let mut slabs = new();
        assert!(!slabs.release() && !slabs.has_spare() && slabs.bytes() == 0);
        (0..1000).for_each(|n| assert_eq!(slabs.push(size(64), slot(n)), n * 64));
        assert_eq!(slabs.bytes(), 1000 * 1024 + 1024 * 2);
        let used = 1000 * 64;
        slabs.units_mut()[..used].fill(Unit([7; 4]));
        slabs.clear();
        assert!(slabs.has_spare());
        let mut pieces = 0;
        while slabs.release() {
            pieces += 1;
        }
        assert_eq!((pieces, slabs.bytes()), (6, 0));
        assert!(slabs.units()[..used].iter().all(|unit| unit.0 == [0; 4]), "given back pages read as zeros");
        slabs.push(size(64), slot(5));
        assert_eq!(slabs.spans.len(), 6, "spans are used again");
        slabs.check();
    }

    /// What it may not give back it goes on counting.
    #[test]
    fn memory_that_the_system_keeps_counts() {
        let mut slabs = new();
        (0..64).for_each(|n| assert_eq!(slabs.push(size(64), slot(n)), n * 64));
        for n in (1..64).rev() {
            slabs.remove(size(64), n * 64);
        }
        let held = slabs.bytes();
        // Not where a page begins: refused, as all is for a process that locks its memory.
        slabs.page_bytes = 1000;
        assert!(!slabs.release());
        assert_eq!(slabs.bytes(), held);
        slabs.page_bytes = page_bytes();
        assert!(slabs.release() && slabs.bytes() < held);
        slabs.check();
    }

    #[test]
    fn tables_without_memory_take_none() {
        let mut slabs = new();
        assert_eq!((slabs.push(0, slot(1)), slabs.remove(0, 0)), (0, None));
        assert_eq!((slabs.bytes(), slabs.growth_bytes(0) % (OWNERS_STEP * 2)), (0, 0));
    }
}
