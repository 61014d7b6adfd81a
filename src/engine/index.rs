//! The slot tables: which record holds a key.
//!
//! Every slot has a table of its own ([`Table`]), whose entries are bare 4-byte locations;
//! the key to compare with lies in the record. A table of some hundreds of
//! entries grows in microseconds, so growth never stalls the core. Their memory is that of [`Slabs`].
//!
//! Invariant: a table holds exactly the locations of the slot's live records,
//! each once, and [`Index::bytes`] is exactly what the slabs occupy.
//!
//! Called by the shard, which hands in the hash of the key.

use super::item::{self, Head, Loc};
use super::memory::{Unit, prefetch_ref};
use super::slab::Slabs;
use super::table::{Table, units_of};
use crate::base::{KeyHash, KeyHasher, SLOT_COUNT, Slot};

/// A table gives memory back when it is filled to less than one part in so many.
const SHRINK_FACTOR: usize = 8;

/// Units that are copied in the time in which an entry is put into another table.
const UNITS_MOVED: usize = 32;

/// One slot: its table, and the number of its latest write. Within one cache line.
#[derive(Default)]
#[repr(align(32))]
struct SlotTable {
    table: Table,
    version: u64,
}

const _: () = assert!(size_of::<SlotTable>() == 32);

/// All slot tables of a core.
pub struct Index {
    slots: Vec<SlotTable>,
    slabs: Slabs,
    hasher: KeyHasher,
    key_count: u64,
    /// Entries put into another table because theirs grew or was rebuilt.
    moved: u64,
    /// How often an entry has come, gone or been changed.
    changes: u64,
}

impl Index {
    /// Bytes that the slots take before any key is stored.
    pub const FIXED_BYTES: u64 = (SLOT_COUNT * size_of::<SlotTable>()) as u64;

    /// Empty tables; `hasher` must be the one that callers hash keys with. They never take more than `reach_bytes`.
    ///
    /// # Errors
    /// The system's error number, if it has no addresses for them.
    pub fn new(hasher: KeyHasher, reach_bytes: u64) -> Result<Self, i32> {
        let mut slots = Vec::new();
        slots.resize_with(SLOT_COUNT, SlotTable::default);
        Ok(Self { slots, slabs: Slabs::new(reach_bytes)?, hasher, key_count: 0, moved: 0, changes: 0 })
    }

    /// The table of `slot`, and the units among which it has its own.
    #[inline]
    fn table(&self, slot: Slot) -> (&Table, &[Unit]) {
        (&self.slots[slot.index()].table, self.slabs.units())
    }

    /// The same for writing.
    #[inline]
    fn table_mut(&mut self, slot: Slot) -> (&mut Table, &mut [Unit]) {
        self.changes += 1;
        (&mut self.slots[slot.index()].table, self.slabs.units_mut())
    }

    /// Where `key` lies.
    #[inline]
    pub fn find(&self, slot: Slot, hash: KeyHash, key: &[u8], memory: &[u8]) -> Option<Loc> {
        let (table, units) = self.table(slot);
        table.find(units, hash, |loc| item::has_key(memory, Loc(loc), key)).map(Loc)
    }

    /// Whether the table of `slot` holds `loc`. Reads no record.
    pub fn holds(&self, slot: Slot, hash: KeyHash, loc: Loc) -> bool {
        let (table, units) = self.table(slot);
        table.find(units, hash, |entry| entry == loc.0).is_some()
    }

    /// The slot and hash of the key of the record at `loc`.
    pub fn address(&self, loc: Loc, memory: &[u8]) -> (Slot, KeyHash) {
        let key = item::key_of(memory, loc, Head::read(memory, loc));
        (Slot::of(key), self.hasher.hash(key))
    }

    /// Adds the location of a key that the table does not hold.
    pub fn insert(&mut self, slot: Slot, hash: KeyHash, loc: Loc, memory: &[u8]) {
        let table = &self.slots[slot.index()].table;
        if is_full(table) {
            self.resize(slot, table.size() + 1, memory);
        }
        let (table, units) = self.table_mut(slot);
        table.insert(units, hash, loc.0);
        self.key_count += 1;
    }

    /// Puts `new` where `old` stands.
    #[inline]
    pub fn replace(&mut self, slot: Slot, hash: KeyHash, old: Loc, new: Loc) {
        let (table, units) = self.table_mut(slot);
        let was_there = table.replace(units, hash, old.0, new.0);
        debug_assert!(was_there, "the record at {old:?} is not in its table");
    }

    /// Takes `loc` out, and lets a table that has become very empty shrink.
    pub fn remove(&mut self, slot: Slot, hash: KeyHash, loc: Loc, memory: &[u8]) {
        let (table, units) = self.table_mut(slot);
        if !table.remove(units, hash, loc.0) {
            debug_assert!(false, "the record at {loc:?} is not in its table");
            return;
        }
        // A small table is not worth shrinking, only dropping.
        let shrinks = table.is_empty() || !table.is_small() && table.len() * SHRINK_FACTOR < table.capacity();
        let wanted = shrinks.then(|| table.size_wanted());
        self.key_count -= 1;
        if let Some(size) = wanted {
            self.resize(slot, size, memory);
        }
    }

    /// Gives the table of `slot` another size.
    #[cold]
    fn resize(&mut self, slot: Slot, size: usize, memory: &[u8]) {
        let before = self.slots[slot.index()].table;
        let mut table = Table::new(size, self.slabs.push(size, slot));
        let hasher = &self.hasher;
        table.take_all(
            self.slabs.units_mut(),
            &before,
            |entry| hash_at(hasher, memory, Loc(entry)),
            |entry| load(memory, Loc(entry)),
        );
        self.slots[slot.index()].table = table;
        self.moved += before.len() as u64;
        if let Some(owner) = self.slabs.remove(before.size(), before.start()) {
            self.slots[owner.index()].table.moved_to(before.start());
            self.moved += (units_of(before.size()) / UNITS_MOVED) as u64;
        }
    }

    /// How many bytes more the tables may take if one key is added to `slot`.
    #[inline]
    pub fn growth_bytes(&self, slot: Slot) -> u64 {
        let table = &self.slots[slot.index()].table;
        if is_full(table) { self.slabs.growth_bytes(table.size() + 1) as u64 } else { 0 }
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

    /// Empties all tables and keeps the versions; the memory waits for [`Index::release`].
    pub fn flush(&mut self) {
        self.changes += 1;
        self.slots.iter_mut().for_each(|slot| slot.table = Table::default());
        self.slabs.clear();
        self.key_count = 0;
    }

    /// Gives up to `pieces_max` pieces of memory back if more of it than is kept for tables to come is not needed; answers how
    /// many.
    #[inline]
    pub fn release(&mut self, pieces_max: usize) -> usize {
        let mut pieces = 0;
        while pieces < pieces_max && self.slabs.has_spare() && self.slabs.release() {
            pieces += 1;
        }
        pieces
    }

    /// Gives one piece of memory back that no table needs now, also of what is kept; answers whether there was one.
    pub fn release_kept(&mut self) -> bool {
        self.slabs.release()
    }

    /// The locations in `slot`, in no order.
    pub fn locations(&self, slot: Slot) -> impl Iterator<Item = Loc> {
        let (table, units) = self.table(slot);
        table.iter(units).map(Loc)
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

    /// How often a table has changed what it says. While this stays the same, every key is where it was.
    #[inline]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Bytes that the tables take.
    #[inline]
    pub fn bytes(&self) -> u64 {
        Self::FIXED_BYTES + self.slabs.bytes() as u64
    }

    /// Starts loading the header of `slot`: the first of three steps before a record is read.
    #[inline]
    pub fn prefetch_slot(&self, slot: Slot) {
        prefetch_ref(&self.slots[slot.index()]);
    }

    /// Starts loading where the table of `slot` has `hash`: the second step, for which the header is read.
    #[inline]
    pub fn prefetch_entry(&self, slot: Slot, hash: KeyHash) {
        let (table, units) = self.table(slot);
        table.prefetch(units, hash);
    }

    /// The location of the first entry whose tag matches `hash`: nearly always the key's own.
    #[inline]
    pub fn candidate(&self, slot: Slot, hash: KeyHash) -> Option<Loc> {
        let (table, units) = self.table(slot);
        table.find(units, hash, |_| true).map(Loc)
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

    /// What the slabs occupy, counted afresh.
    pub fn bytes_counted(&self) -> u64 {
        Self::FIXED_BYTES + self.slabs.bytes_counted() as u64
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
        let mut index = Index::new(KeyHasher::new(1), 1 << 30).expect("addresses");
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
        while index.release_kept() {}
        assert!(index.bytes() - Index::FIXED_BYTES < 64 << 10, "{}", index.bytes() - Index::FIXED_BYTES);
        assert_eq!(index.find(slot, hash(3999), &3999u32.to_le_bytes(), &memory), Some(Loc(3999 * 4)));
        assert_eq!(index.find(slot, hash(10), &10u32.to_le_bytes(), &memory), None);
        for n in 3800..4000 {
            index.remove(slot, hash(n), Loc(n * 4), &memory);
        }
        assert!(index.key_count() == 0 && index.bytes() - Index::FIXED_BYTES < 64 << 10);
        index.flush();
        while index.release_kept() {}
        assert_eq!(index.bytes(), Index::FIXED_BYTES);
    }

    #[test]
    fn a_flush_empties_at_once_and_keeps_versions() {
        let memory = records(100);
        let mut index = Index::new(KeyHasher::new(1), 1 << 30).expect("addresses");
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
        while index.release_kept() {
            assert_eq!(index.bytes(), index.bytes_counted());
        }
        assert_eq!(index.bytes(), Index::FIXED_BYTES);
    }
}
