//! The slot tables: which record holds a key.
//!
//! Every slot has a table of its own ([`Table`]), whose entries are bare 4-byte locations;
//! the key to compare with lies in the record. A table of some hundreds of
//! entries grows in microseconds, so growth never stalls the core.
//!
//! Invariant: a table holds exactly the locations of the slot's live records,
//! each once, and `bytes` is exactly what the tables have allocated.
//!
//! Called by the shard, which hands in the hash of the key.

use super::item::{self, Head, Loc};
use super::memory::prefetch_ref;
use super::table::Table;
use crate::base::{KeyHash, KeyHasher, SLOT_COUNT, Slot};
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A table gives memory back when it is filled to less than one part in so many.
const SHRINK_FACTOR: usize = 8;
/// Tables of so few bytes are not worth shrinking, only dropping.
const SHRINK_BYTES_MIN: usize = 150;

/// One slot: its table, and the number of its latest write. Within one cache line.
#[derive(Default)]
#[repr(align(32))]
struct SlotTable {
    table: Table,
    version: u64,
}

const _: () = assert!(size_of::<SlotTable>() == 32);

/// A table of a flushed keyspace, ordered by its place in memory.
///
/// The allocator gives memory back to the system from the upper end of its newest heap. Dropped in any other order,
/// tables of many megabytes wait below one that is still there, and are given back all at once with it: 7 ms for 64 MiB.
/// From the end backwards each gives back its own.
struct Flushed {
    place: (usize, usize),
    table: Table,
}

/// The heaps of glibc's malloc on other threads than the first are of this size and aligned to it.
const HEAP_BYTES: usize = 64 << 20;

impl Flushed {
    fn new(table: Table) -> Self {
        let address = table.address();
        // The system places new mappings below the older ones: the lowest heap is the newest.
        Self { place: (usize::MAX - address / HEAP_BYTES, address), table }
    }
}

impl PartialEq for Flushed {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place
    }
}

impl Eq for Flushed {}

impl PartialOrd for Flushed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Flushed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place.cmp(&other.place)
    }
}

/// All slot tables of a core.
pub struct Index {
    slots: Vec<SlotTable>,
    /// Tables of a keyspace that was flushed, waiting to be put in order.
    flushed: Vec<Table>,
    /// Those in order, waiting to be dropped.
    ordered: BinaryHeap<Flushed>,
    hasher: KeyHasher,
    key_count: u64,
    bytes: u64,
    /// Entries put into another table because theirs grew or was rebuilt.
    moved: u64,
}

impl Index {
    /// Bytes that the slots take before any key is stored.
    pub const FIXED_BYTES: u64 = (SLOT_COUNT * size_of::<SlotTable>()) as u64;

    /// Empty tables; `hasher` must be the one that callers hash keys with.
    pub fn new(hasher: KeyHasher) -> Self {
        let mut slots = Vec::new();
        slots.resize_with(SLOT_COUNT, SlotTable::default);
        Self {
            slots,
            flushed: Vec::new(),
            ordered: BinaryHeap::new(),
            hasher,
            key_count: 0,
            bytes: Self::FIXED_BYTES,
            moved: 0,
        }
    }

    /// Where `key` lies.
    #[inline]
    pub fn find(&self, slot: Slot, hash: KeyHash, key: &[u8], memory: &[u8]) -> Option<Loc> {
        self.slots[slot.index()].table.find(hash, |loc| item::has_key(memory, Loc(loc), key)).map(Loc)
    }

    /// Whether the table of `slot` holds `loc`. Reads no record.
    pub fn holds(&self, slot: Slot, hash: KeyHash, loc: Loc) -> bool {
        self.slots[slot.index()].table.find(hash, |entry| entry == loc.0).is_some()
    }

    /// The slot and hash of the key of the record at `loc`.
    pub fn address(&self, loc: Loc, memory: &[u8]) -> (Slot, KeyHash) {
        let key = item::key_of(memory, loc, Head::read(memory, loc));
        (Slot::of(key), self.hasher.hash(key))
    }

    /// Adds the location of a key that the table does not hold.
    pub fn insert(&mut self, slot: Slot, hash: KeyHash, loc: Loc, memory: &[u8]) {
        let table = &mut self.slots[slot.index()].table;
        if is_full(table) {
            let before = table.bytes();
            self.moved += table.len() as u64;
            let hasher = &self.hasher;
            table.grow(|entry| hash_at(hasher, memory, Loc(entry)), |entry| load(memory, Loc(entry)));
            self.bytes = self.bytes - before as u64 + table.bytes() as u64;
        }
        table.insert(hash, loc.0);
        self.key_count += 1;
    }

    /// Puts `new` where `old` stands.
    #[inline]
    pub fn replace(&mut self, slot: Slot, hash: KeyHash, old: Loc, new: Loc) {
        let was_there = self.slots[slot.index()].table.replace(hash, old.0, new.0);
        debug_assert!(was_there, "the record at {old:?} is not in its table");
    }

    /// Takes `loc` out, and lets a table that has become very empty shrink.
    pub fn remove(&mut self, slot: Slot, hash: KeyHash, loc: Loc, memory: &[u8]) {
        let table = &mut self.slots[slot.index()].table;
        if !table.remove(hash, loc.0) {
            debug_assert!(false, "the record at {loc:?} is not in its table");
            return;
        }
        self.key_count -= 1;
        if table.len() * SHRINK_FACTOR < table.capacity() {
            self.shrink(slot, memory);
        }
    }

    #[cold]
    fn shrink(&mut self, slot: Slot, memory: &[u8]) {
        let table = &mut self.slots[slot.index()].table;
        let before = table.bytes();
        if table.is_empty() || before >= SHRINK_BYTES_MIN {
            self.moved += table.len() as u64;
            let hasher = &self.hasher;
            table.shrink(|entry| hash_at(hasher, memory, Loc(entry)), |entry| load(memory, Loc(entry)));
        }
        self.bytes = self.bytes - before as u64 + table.bytes() as u64;
    }

    /// How many bytes more the tables may take if one key is added to `slot`.
    #[inline]
    pub fn growth_bytes(&self, slot: Slot) -> u64 {
        let table = &self.slots[slot.index()].table;
        if is_full(table) { table.grown_bytes() as u64 } else { 0 }
    }

    /// The number of the latest write to `slot`.
    #[inline]
    pub fn version(&self, slot: Slot) -> u64 {
        self.slots[slot.index()].version
    }

    /// Takes the number of the next write to `slot`.
    #[inline]
    pub fn next_version(&mut self, slot: Slot) -> u64 {
        let version = &mut self.slots[slot.index()].version;
        *version += 1;
        *version
    }

    /// Lets the versions of all slots, which have none yet, begin behind `version`.
    pub fn begin_versions(&mut self, version: u64) {
        self.slots.iter_mut().for_each(|slot| slot.version = slot.version.max(version));
    }

    /// Empties all tables and keeps the versions; the memory waits for [`Index::drop_flushed`].
    pub fn flush(&mut self) {
        let held = self.flushed_bytes();
        let allocated = |slot: &SlotTable| slot.table.capacity() > 0;
        self.flushed.reserve_exact(self.slots.iter().filter(|slot| allocated(slot)).count());
        for slot in &mut self.slots {
            if allocated(slot) {
                self.flushed.push(std::mem::take(&mut slot.table));
            }
        }
        self.bytes = self.bytes - held + self.flushed_bytes();
        self.key_count = 0;
    }

    /// Puts up to `tables_max` tables of a flushed keyspace in order, or drops as many; answers how many.
    pub fn drop_flushed(&mut self, tables_max: usize) -> usize {
        let held = self.flushed_bytes();
        let mut done = 0;
        while done < tables_max
            && let Some(table) = self.flushed.pop()
        {
            self.ordered.reserve_exact(self.flushed.len() + 1);
            self.ordered.push(Flushed::new(table));
            done += 1;
        }
        while done < tables_max
            && let Some(Flushed { table, .. }) = self.ordered.pop()
        {
            self.bytes -= table.bytes() as u64;
            done += 1;
        }
        if self.flushed.is_empty() {
            self.flushed = Vec::new();
        }
        if self.ordered.is_empty() {
            self.ordered = BinaryHeap::new();
        }
        self.bytes = self.bytes - held + self.flushed_bytes();
        done
    }

    fn flushed_bytes(&self) -> u64 {
        (self.flushed.capacity() * size_of::<Table>() + self.ordered.capacity() * size_of::<Flushed>()) as u64
    }

    /// The locations in `slot`, in no order.
    pub fn locations(&self, slot: Slot) -> impl Iterator<Item = Loc> {
        self.slots[slot.index()].table.iter().map(Loc)
    }

    /// How many keys `slot` holds.
    pub fn slot_key_count(&self, slot: Slot) -> u64 {
        self.slots[slot.index()].table.len() as u64
    }

    /// How many keys there are.
    pub fn key_count(&self) -> u64 {
        self.key_count
    }

    /// How many entries were moved because tables grew: each reads a record.
    #[inline]
    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// Bytes that the tables take.
    #[inline]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Starts loading the header of `slot`: the first of three steps before a record is read.
    #[inline]
    pub fn prefetch_slot(&self, slot: Slot) {
        prefetch_ref(&self.slots[slot.index()]);
    }

    /// Starts loading where the table of `slot` has `hash`: the second step, for which the header is read.
    #[inline]
    pub fn prefetch_entry(&self, slot: Slot, hash: KeyHash) {
        self.slots[slot.index()].table.prefetch(hash);
    }

    /// The location of the first entry whose tag matches `hash`: nearly always the key's own.
    #[inline]
    pub fn candidate(&self, slot: Slot, hash: KeyHash) -> Option<Loc> {
        self.slots[slot.index()].table.find(hash, |_| true).map(Loc)
    }
}

fn hash_at(hasher: &KeyHasher, memory: &[u8], loc: Loc) -> KeyHash {
    hasher.hash(item::key_of(memory, loc, Head::read(memory, loc)))
}

/// Starts loading a record, of which the key will be asked for.
fn load(memory: &[u8], loc: Loc) {
    if let Some(byte) = memory.get(loc.offset()) {
        prefetch_ref(byte);
    }
}

/// Whether the next insertion makes the table grow.
#[inline]
fn is_full(table: &Table) -> bool {
    table.len() == table.capacity()
}

#[cfg(any(test, fuzzing))]
impl Index {
    /// Whether the next key of `slot` may make its table allocate.
    pub fn is_full(&self, slot: Slot) -> bool {
        is_full(&self.slots[slot.index()].table)
    }

    /// What the tables have allocated, counted afresh.
    pub fn bytes_counted(&self) -> u64 {
        let live = self.slots.iter().map(|slot| slot.table.bytes() as u64).sum::<u64>();
        let flushed = self.flushed.iter().chain(self.ordered.iter().map(|flushed| &flushed.table));
        let flushed = flushed.map(|table| table.bytes() as u64).sum::<u64>();
        Self::FIXED_BYTES + live + flushed + self.flushed_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of 12 + 4 bytes, numbered by their key.
    fn records(count: u32) -> Vec<u8> {
        let mut memory = vec![0; count as usize * 16];
        for n in 0..count {
            let loc = Loc::at(n as usize * 16);
            Head::new(4, 0, item::Form::Absent, false).write(&mut memory, loc);
            memory[loc.offset() + 12..][..4].copy_from_slice(&n.to_le_bytes());
        }
        memory
    }

    #[test]
    fn churn_keeps_the_count_of_bytes_exact_and_the_tables_small() {
        let memory = records(4000);
        let mut index = Index::new(KeyHasher::new(1));
        let slot = Slot::of(b"one");
        let hash = |n: u32| KeyHasher::new(1).hash(&n.to_le_bytes());
        for n in 0..200 {
            index.insert(slot, hash(n), Loc(n * 4), &memory);
        }
        for n in 200..4000 {
            index.insert(slot, hash(n), Loc(n * 4), &memory);
            index.remove(slot, hash(n - 200), Loc((n - 200) * 4), &memory);
            assert_eq!(index.bytes(), index.bytes_counted());
        }
        assert_eq!(index.slot_key_count(slot), 200);
        assert!(index.bytes() - Index::FIXED_BYTES < 4096, "{}", index.bytes() - Index::FIXED_BYTES);
        assert_eq!(index.find(slot, hash(3999), &3999u32.to_le_bytes(), &memory), Some(Loc(3999 * 4)));
        assert_eq!(index.find(slot, hash(10), &10u32.to_le_bytes(), &memory), None);
        for n in 3800..4000 {
            index.remove(slot, hash(n), Loc(n * 4), &memory);
        }
        assert_eq!((index.bytes(), index.key_count()), (Index::FIXED_BYTES, 0));
    }

    #[test]
    fn a_flush_empties_at_once_and_keeps_versions() {
        let memory = records(100);
        let mut index = Index::new(KeyHasher::new(1));
        for n in 0..100u32 {
            let (slot, hash) = index.address(Loc(n * 4), &memory);
            index.insert(slot, hash, Loc(n * 4), &memory);
            index.next_version(slot);
        }
        let (slot, _) = index.address(Loc(0), &memory);
        let version = index.version(slot);
        index.flush();
        let flushed_once = index.bytes();
        index.flush();
        assert_eq!(index.bytes(), flushed_once, "empty tables are not kept to be dropped");
        assert_eq!((index.key_count(), index.slot_key_count(slot)), (0, 0));
        assert_eq!(index.version(slot), version);
        assert_eq!(index.bytes(), index.bytes_counted());
        while index.drop_flushed(7) > 0 {
            assert_eq!(index.bytes(), index.bytes_counted());
        }
        assert_eq!(index.bytes(), Index::FIXED_BYTES);
    }
}
