//! The memory of slot tables: for each size a slab, in which tables of that size stand side by side.
//!
//! A table that goes leaves a hole, and the last of its slab moves into it. So a slab has no holes, whatever the order in
//! which tables came and went, and its end can be given back to the system piece by piece; an allocator that cannot move
//! what it handed out keeps pages for the few tables left in them. Slabs of one size each are those of Bonwick
//! (USENIX Summer 1994). The move costs less than what made the other table go: its entries were put into a new one.
//!
//! Invariant: the first `owners.len()` places hold a table each, `owners` says of which slot, and no page behind
//! `resident` is occupied.
//!
//! Called by `index`.

use super::memory::{Memory, Unit};
use crate::base::{SLOT_COUNT, Slot};
use std::alloc::{Layout, handle_alloc_error};

/// A slab is made usable in steps of so much.
const GROWTH_BYTES: usize = 1 << 20;
/// What is given back at a time.
const PIECE_BYTES: usize = 64 << 10;
/// Less than this behind the last table is left there, so that a table that comes and goes costs no page faults.
const SPARE_BYTES: usize = 16 << 10;
/// Owners are made room for in steps of so many.
const OWNERS_STEP: usize = 256;

/// Tables of one size.
pub struct Slab {
    /// Set aside when the first table comes.
    memory: Option<Memory>,
    /// Units of a table; none for tables without memory.
    units: usize,
    /// Addresses that are set aside.
    reach: usize,
    page_bytes: usize,
    owners: Vec<Slot>,
    /// Bytes from the beginning that may occupy memory.
    resident: usize,
}

impl Slab {
    /// An empty one, for tables of some units that take no more than `reach_bytes` together. It counts whole pages.
    pub fn new(units: usize, reach_bytes: usize, page_bytes: usize) -> Self {
        let table_bytes = units * size_of::<Unit>();
        // A table that shrinks is there twice for a moment.
        let reach = reach_bytes.saturating_add(table_bytes).min(table_bytes * SLOT_COUNT).next_multiple_of(PIECE_BYTES);
        Self { memory: None, units, reach, page_bytes, owners: Vec::new(), resident: 0 }
    }

    /// All units, to which [`Slab::push`] answers positions.
    #[inline]
    pub fn units(&self) -> &[Unit] {
        self.memory.as_ref().map_or(&[], Memory::units)
    }

    /// All units, for writing.
    #[inline]
    pub fn units_mut(&mut self) -> &mut [Unit] {
        self.memory.as_mut().map_or(&mut [], Memory::units_mut)
    }

    /// Bytes occupied.
    pub fn bytes(&self) -> usize {
        self.resident + self.owners.capacity() * size_of::<Slot>()
    }

    /// How many bytes more it would occupy with one table more.
    pub fn growth_bytes(&self) -> usize {
        if self.units == 0 {
            return 0;
        }
        let owners = if self.owners.len() == self.owners.capacity() { OWNERS_STEP * size_of::<Slot>() } else { 0 };
        self.end(self.owners.len() + 1).saturating_sub(self.resident) + owners
    }

    /// Adds a table of zeros for `owner`; answers its first unit. The process ends, as for any allocation, if the system
    /// has no memory for it.
    pub fn push(&mut self, owner: Slot) -> usize {
        if self.units == 0 {
            return 0;
        }
        let start = self.owners.len() * self.units;
        let usable = self.end(self.owners.len() + 1);
        self.resident = self.resident.max(usable);
        if self.owners.len() == self.owners.capacity() {
            self.owners.reserve_exact(OWNERS_STEP);
        }
        self.owners.push(owner);
        if self.units().len() < start + self.units && self.make_usable(usable).is_err() {
            handle_alloc_error(Layout::new::<Unit>().repeat(self.units).map_or(Layout::new::<Unit>(), |all| all.0));
        }
        let units = self.units;
        self.units_mut()[start..][..units].fill(Unit::default());
        start
    }

    fn make_usable(&mut self, bytes: usize) -> Result<(), i32> {
        let memory = match &mut self.memory {
            Some(memory) => memory,
            None => self.memory.insert(Memory::reserve(self.reach)?),
        };
        memory.grow(bytes.next_multiple_of(GROWTH_BYTES).min(memory.reach()))?;
        // Beyond the last table nothing is to be occupied; what is there gains little from them.
        memory.advise_huge(false);
        Ok(())
    }

    /// Takes out the table that begins at `start`. Another may move there: then answers whose.
    pub fn remove(&mut self, start: usize) -> Option<Slot> {
        let (index, units) = (start.checked_div(self.units)?, self.units);
        self.owners.swap_remove(index);
        let last = self.owners.len() * units;
        let moved = self.owners.get(index).copied();
        if moved.is_some() {
            self.units_mut().copy_within(last..last + units, start);
        }
        moved
    }

    /// Forgets all tables.
    pub fn clear(&mut self) {
        self.owners.clear();
    }

    /// Whether much is occupied behind the last table.
    #[inline]
    pub fn has_spare(&self) -> bool {
        self.resident - self.end(self.owners.len()) >= SPARE_BYTES
    }

    /// Gives one piece of what is occupied behind the last table back to the system; answers whether there was any.
    pub fn release(&mut self) -> bool {
        let end = self.end(self.owners.len());
        let from = self.resident.saturating_sub(PIECE_BYTES).max(end);
        if from == self.resident {
            return false;
        }
        if !self.memory.as_mut().is_some_and(|memory| memory.release(from..self.resident)) {
            return false;
        }
        self.resident = from;
        self.owners.shrink_to(self.owners.len().next_multiple_of(OWNERS_STEP));
        true
    }

    /// Where the pages of so many tables end.
    #[inline]
    fn end(&self, tables: usize) -> usize {
        (tables * self.units * size_of::<Unit>()).next_multiple_of(self.page_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE_BYTES: usize = 4 << 10;

    fn slot(n: u16) -> Slot {
        Slot::new(n).expect("small")
    }

    proptest! {
        /// Against a list of tables, each of which has units of its owner's number.
        #[test]
        fn tables_keep_what_they_hold_when_others_go(
            units in 1..700usize, steps in proptest::collection::vec((any::<bool>(), 0..100usize), 1..400),
        ) {
            let mut slab = Slab::new(units, 1 << 30, PAGE_BYTES);
            let mut starts: Vec<(Slot, usize)> = Vec::new();
            for (n, (adds, which)) in steps.into_iter().enumerate() {
                if adds || starts.is_empty() {
                    let owner = slot(n as u16);
                    let (bytes, growth) = (slab.bytes(), slab.growth_bytes());
                    let start = slab.push(owner);
                    prop_assert_eq!(slab.bytes(), bytes + growth);
                    let place = &mut slab.units_mut()[start..][..units];
                    prop_assert!(place.iter().all(|unit| unit.0 == [0; 4]));
                    place.fill(Unit([n as u32 + 1; 4]));
                    starts.push((owner, start));
                } else {
                    let (_, start) = starts.swap_remove(which % starts.len());
                    if let Some(moved) = slab.remove(start) {
                        let owner = starts.iter_mut().find(|(owner, _)| *owner == moved).expect("a table that is there");
                        owner.1 = start;
                    }
                }
                for &(owner, start) in &starts {
                    let place = &slab.units()[start..][..units];
                    prop_assert!(place.iter().all(|unit| unit.0 == [owner.index() as u32 + 1; 4]));
                }
                let taken = starts.len() * units * size_of::<Unit>();
                if which == 0 {
                    while slab.release() {}
                    prop_assert!(slab.resident - taken < PAGE_BYTES && !slab.has_spare());
                }
                prop_assert!(slab.resident >= taken);
            }
        }
    }

    #[test]
    fn what_is_cleared_is_given_back_in_pieces() {
        let mut slab = Slab::new(64, 1 << 30, PAGE_BYTES);
        assert!(!slab.release() && !slab.has_spare() && slab.bytes() == 0);
        (0..1000).for_each(|n| assert_eq!(slab.push(slot(n)), usize::from(n) * 64));
        assert_eq!(slab.bytes(), 1000 * 1024 + 1024 * 2);
        slab.units_mut().fill(Unit([7; 4]));
        slab.clear();
        assert!(slab.has_spare());
        let mut pieces = 0;
        while slab.release() {
            pieces += 1;
            assert_eq!(slab.resident, (1000 * 1024usize).saturating_sub(pieces * PIECE_BYTES));
        }
        assert_eq!((pieces, slab.bytes()), (16, 0));
        let resident = &slab.units()[..1000 * 64];
        assert!(resident.iter().all(|unit| unit.0 == [0; 4]), "given back pages read as zeros");
        assert_eq!((slab.push(slot(5)), slab.remove(0)), (0, None));
    }

    /// What it may not give back it goes on counting.
    #[test]
    fn memory_that_the_system_keeps_counts() {
        let mut slab = Slab::new(64, 1 << 20, PAGE_BYTES);
        for n in 0..64 {
            slab.push(slot(n));
        }
        let held = slab.bytes();
        slab.clear();
        slab.push(slot(1));
        // Not where a page begins: refused, as all is for a process that locks its memory.
        slab.page_bytes = 1000;
        assert!(slab.has_spare() && !slab.release());
        assert_eq!(slab.bytes(), held);
        slab.page_bytes = PAGE_BYTES;
        assert!(slab.release() && slab.bytes() < held);
    }

    #[test]
    fn tables_without_memory_take_none() {
        let mut slab = Slab::new(0, 1 << 30, PAGE_BYTES);
        assert_eq!((slab.push(slot(1)), slab.remove(0), slab.bytes(), slab.growth_bytes()), (0, None, 0, 0));
    }
}
