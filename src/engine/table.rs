//! The table of one slot: 4-byte places of records in buckets of one cache line each.
//!
//! A lookup touches one line, in which tags and places stand together, where a table with its tags apart from its
//! entries touches two; and the line is known from the hash alone, so it can be loaded ahead. Buckets of a cache line
//! are those of MICA (Lim and others, NSDI 2014); that each counts the entries that had to pass it, so that a search knows when to
//! stop and nothing is left behind by a removal, is from F14 (Bronson and Shi, 2019).
//!
//! ```text
//! unit     0                                               1 to 3
//! bucket   | 12 tags, a byte each; 0 is free | passed: 4 | 12 entries of 4 bytes |
//! ```
//!
//! A table is some units of 16 bytes. Up to 12 entries have one bucket, with as many units as they need; then there are 2, 3,
//! 4, 6, 8, 12, 16, … buckets, each in a cache line. It grows when seven eighths of its places are taken.
//!
//! Invariant: an entry is in the first bucket from its home on that had a free place when it came, and each bucket between
//! counts it.
//!
//! Called by `index`, which knows the slots, and hands in what reads a record.

use super::memory::{equal_bytes, prefetch_ref};
use crate::base::KeyHash;

/// Places of a bucket, and of a unit; units of a bucket.
const WIDTH: usize = 12;
const PER_UNIT: usize = 4;
const BUCKET_UNITS: usize = 1 + WIDTH / PER_UNIT;
/// Units beyond the buckets, among which they find a cache line to begin with.
const SPARE_UNITS: usize = BUCKET_UNITS - 1;
/// The word of a bucket's first unit that counts who has passed.
const PASSED: usize = 3;
/// From so many buckets on a table doubles: each time takes long, so there are to be few. Only many keys of one hash tag make one
/// so large.
const DOUBLED_FROM: usize = 512;
/// How many entries are loaded ahead of the one that is put into a new table.
const AHEAD: usize = 16;
/// What the allocator adds to a table.
const ALLOCATION_BYTES: usize = 16;

/// Tags, or entries.
#[derive(Clone, Copy, Default)]
#[repr(C, align(16))]
struct Unit([u32; PER_UNIT]);

const _: () = assert!(size_of::<Unit>() * BUCKET_UNITS == 64);

/// Some places of a bucket, a bit for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Places(u32);

impl Iterator for Places {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        let first = self.0.trailing_zeros() as usize;
        self.0 &= self.0.wrapping_sub(1);
        (first < WIDTH).then_some(first)
    }
}

/// The entries of one slot, found by the hashes of their keys.
#[derive(Default)]
pub struct Table {
    units: Box<[Unit]>,
    /// How many buckets there are, and in the lowest bits the unit with which the first begins.
    shape: u32,
    len: u32,
}

const FIRST_BITS: u32 = BUCKET_UNITS.ilog2();

/// How large a table is: in buckets, or for less than one in units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    buckets: usize,
    units: usize,
}

impl Size {
    const NONE: Self = Self { buckets: 0, units: 0 };

    const fn of(buckets: usize) -> Self {
        Self { buckets, units: buckets * BUCKET_UNITS + SPARE_UNITS }
    }

    /// The next larger one.
    const fn larger(self) -> Self {
        match self.buckets {
            0 => Self { buckets: 1, units: 2 },
            1 if self.units < BUCKET_UNITS => Self { buckets: 1, units: self.units + 1 },
            n if n < 3 => Self::of(n + 1),
            n if n >= DOUBLED_FROM => Self::of(n * 2),
            n if n.is_power_of_two() => Self::of(n / 2 * 3),
            n => Self::of(n / 3 * 4),
        }
    }

    /// How many entries it may have. A lone bucket can be full: nothing passes it.
    #[inline]
    const fn capacity(self) -> usize {
        match self.buckets {
            0 => 0,
            1 => (self.units - 1) * PER_UNIT,
            n => n * WIDTH * 7 / 8,
        }
    }

    #[inline]
    const fn bytes(self) -> usize {
        if self.units == 0 { 0 } else { self.units * size_of::<Unit>() + ALLOCATION_BYTES }
    }
}

impl Table {
    fn with_size(size: Size) -> Self {
        let units: Box<[Unit]> = vec![Unit::default(); size.units].into();
        // A lone bucket need not begin a cache line.
        let unit = units.as_ptr().addr() / size_of::<Unit>();
        let first = if size.buckets > 1 { unit.wrapping_neg() % BUCKET_UNITS } else { 0 };
        Self { units, shape: (size.buckets << FIRST_BITS | first) as u32, len: 0 }
    }

    #[inline]
    fn buckets(&self) -> usize {
        (self.shape >> FIRST_BITS) as usize
    }

    #[inline]
    fn size(&self) -> Size {
        Size { buckets: self.buckets(), units: self.units.len() }
    }

    #[inline]
    fn tag(hash: KeyHash) -> u8 {
        // The bucket is chosen by other bits.
        ((hash.0 >> 56) as u8).max(1)
    }

    /// The bucket in which an entry is if that has room.
    #[inline]
    fn home(&self, hash: KeyHash) -> usize {
        // A multiple of a fraction instead of a remainder (Lemire, 2016).
        ((u64::from(hash.0 as u32) * self.buckets() as u64) >> 32) as usize
    }

    #[inline]
    fn after(&self, bucket: usize) -> usize {
        if bucket + 1 == self.buckets() { 0 } else { bucket + 1 }
    }

    /// The first unit of a bucket.
    #[inline]
    fn unit(&self, bucket: usize) -> usize {
        self.shape as usize % BUCKET_UNITS + bucket * BUCKET_UNITS
    }

    /// The places of a bucket with this tag.
    #[inline]
    fn matching(&self, unit: usize, tag: u8) -> Places {
        Places(u32::from(equal_bytes(&self.units[unit].0, tag)) & ((1 << WIDTH) - 1))
    }

    #[inline]
    fn entry(&self, unit: usize, place: usize) -> u32 {
        self.units[unit + 1 + place / PER_UNIT].0[place % PER_UNIT]
    }

    fn set(&mut self, unit: usize, place: usize, tag: u8, entry: u32) {
        let shift = place % PER_UNIT * 8;
        let tags = &mut self.units[unit].0[place / PER_UNIT];
        *tags = *tags & !(0xff << shift) | u32::from(tag) << shift;
        self.units[unit + 1 + place / PER_UNIT].0[place % PER_UNIT] = entry;
    }

    /// The bucket of an entry, its first unit, and the entry's place.
    #[inline]
    fn position(&self, hash: KeyHash, mut is_it: impl FnMut(u32) -> bool) -> Option<(usize, usize, usize)> {
        let (tag, mut bucket) = (Self::tag(hash), self.home(hash));
        for _ in 0..self.buckets() {
            let unit = self.unit(bucket);
            for place in self.matching(unit, tag) {
                if is_it(self.entry(unit, place)) {
                    return Some((bucket, unit, place));
                }
            }
            if self.units[unit].0[PASSED] == 0 {
                return None;
            }
            bucket = self.after(bucket);
        }
        None
    }

    /// The first entry of this hash for which `is_it` holds. It is asked about few others.
    #[inline]
    pub fn find(&self, hash: KeyHash, is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.position(hash, is_it).map(|(_, unit, place)| self.entry(unit, place))
    }

    /// Starts loading the bucket of a hash.
    #[inline]
    pub fn prefetch(&self, hash: KeyHash) {
        if let Some(unit) = self.units.get(self.unit(self.home(hash))) {
            prefetch_ref(unit);
        }
    }

    /// Puts `new` where `old` stands; answers whether it was there.
    #[inline]
    pub fn replace(&mut self, hash: KeyHash, old: u32, new: u32) -> bool {
        let found = self.position(hash, |entry| entry == old);
        if let Some((_, unit, place)) = found {
            self.set(unit, place, Self::tag(hash), new);
        }
        found.is_some()
    }

    /// Adds an entry, for which there is room.
    pub fn insert(&mut self, hash: KeyHash, entry: u32) {
        debug_assert!(self.len() < self.capacity());
        let width = (self.units.len() - 1).min(WIDTH / PER_UNIT) * PER_UNIT;
        let mut bucket = self.home(hash);
        loop {
            let unit = self.unit(bucket);
            if let Some(place) = self.matching(unit, 0).next().filter(|&place| place < width) {
                self.set(unit, place, Self::tag(hash), entry);
                self.len += 1;
                return;
            }
            self.units[unit].0[PASSED] += 1;
            bucket = self.after(bucket);
        }
    }

    /// Takes an entry out; answers whether it was there.
    pub fn remove(&mut self, hash: KeyHash, entry: u32) -> bool {
        let Some((found, unit, place)) = self.position(hash, |other| other == entry) else { return false };
        let mut bucket = self.home(hash);
        while bucket != found {
            let passed = self.unit(bucket);
            self.units[passed].0[PASSED] -= 1;
            bucket = self.after(bucket);
        }
        self.set(unit, place, 0, 0);
        self.len -= 1;
        true
    }

    /// How many entries there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many entries there may be.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.size().capacity()
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        (0..self.buckets()).flat_map(move |bucket| {
            let unit = self.unit(bucket);
            let taken = Places(!self.matching(unit, 0).0 & ((1 << WIDTH) - 1));
            taken.map(move |place| self.entry(unit, place))
        })
    }

    /// Bytes allocated.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.size().bytes()
    }

    /// What it takes when one entry more than [`Table::capacity`] comes.
    pub fn grown_bytes(&self) -> usize {
        self.size().larger().bytes()
    }

    /// Where in memory it is.
    pub fn address(&self) -> usize {
        self.units.as_ptr().addr()
    }

    /// Makes room for one entry at least. `hash` tells an entry's hash, and `load` is told of entries that it will be
    /// asked about soon.
    pub fn grow(&mut self, hash: impl Fn(u32) -> KeyHash, load: impl Fn(u32)) {
        self.resize(self.size().larger(), hash, load);
    }

    /// Takes as much memory as twice the entries need, if that is less; none for no entries.
    pub fn shrink(&mut self, hash: impl Fn(u32) -> KeyHash, load: impl Fn(u32)) {
        let mut size = Size::NONE;
        while size.capacity() < self.len() * 2 {
            size = size.larger();
        }
        if size.units < self.units.len() {
            self.resize(size, hash, load);
        }
    }

    fn resize(&mut self, size: Size, hash: impl Fn(u32) -> KeyHash, load: impl Fn(u32)) {
        let before = std::mem::replace(self, Self::with_size(size));
        let mut ahead = before.iter();
        ahead.by_ref().take(AHEAD).for_each(&load);
        for entry in before.iter() {
            if let Some(next) = ahead.next() {
                load(next);
            }
            self.insert(hash(entry), entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Entries are numbers, and their hashes those of the numbers; few tags and homes, so that much collides.
    fn hash(entry: u32) -> KeyHash {
        let mixed = u64::from(entry).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        KeyHash((mixed >> 61) << 56 | (mixed >> 40 & 0xffff_ffff))
    }

    fn check(table: &Table) {
        let mut passed = vec![0; table.buckets()];
        for entry in table.iter() {
            let (found, ..) = table.position(hash(entry), |other| other == entry).expect("it is there");
            let mut at = table.home(hash(entry));
            while at != found {
                passed[at] += 1;
                at = table.after(at);
            }
        }
        assert_eq!(table.iter().count(), table.len());
        let counted = (0..table.buckets()).map(|bucket| table.units[table.unit(bucket)].0[PASSED]);
        assert_eq!(counted.collect::<Vec<_>>(), passed);
        if table.buckets() > 1 {
            let first = std::ptr::from_ref(&table.units[table.unit(0)]);
            assert!(first.addr().is_multiple_of(64) && table.units.len() >= table.unit(table.buckets()));
        }
    }

    fn put(table: &mut Table, entry: u32) {
        if table.len() == table.capacity() {
            table.grow(hash, |_| {});
        }
        table.insert(hash(entry), entry);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u32),
        Remove(u32),
        Replace(u32),
        Shrink,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..300u32).prop_map(Step::Insert),
            4 => (0..300u32).prop_map(Step::Remove),
            1 => (0..300u32).prop_map(Step::Replace),
            1 => Just(Step::Shrink),
        ]
    }

    proptest! {
        /// Against a map of what was put in; an entry that was replaced keeps its hash.
        #[test]
        fn a_table_is_a_map_from_hashes(steps in proptest::collection::vec(step(), 1..600)) {
            let (mut table, mut model) = (Table::default(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Insert(entry) => {
                        if model.insert(entry, entry).is_none() {
                            put(&mut table, entry);
                        }
                    }
                    Step::Remove(entry) => {
                        prop_assert_eq!(table.remove(hash(entry), entry), model.remove(&entry).is_some());
                    }
                    Step::Replace(entry) => {
                        prop_assert_eq!(table.replace(hash(entry), entry, entry), model.contains_key(&entry));
                        prop_assert!(!table.replace(hash(entry), entry + 1000, entry));
                    }
                    Step::Shrink => table.shrink(hash, |_| {}),
                }
                check(&table);
                let found = (0..300).filter(|&entry| table.find(hash(entry), |other| other == entry).is_some());
                prop_assert!(found.eq(model.keys().copied()));
                let mut all: Vec<_> = table.iter().collect();
                all.sort_unstable();
                prop_assert!(all.iter().eq(model.keys()));
            }
        }
    }

    #[test]
    fn a_table_grows_in_small_steps_and_gives_all_back() {
        let sizes = std::iter::successors(Some(Size::NONE), |size| Some(size.larger())).take(12);
        let shown: Vec<_> = sizes.map(|size| (size.buckets, size.capacity(), size.bytes())).collect();
        let expected = [(0, 0, 0), (1, 4, 48), (1, 8, 64), (1, 12, 80), (2, 21, 192), (3, 31, 256), (4, 42, 320)];
        assert_eq!(shown[..7], expected);
        assert_eq!(shown[7..].iter().map(|size| size.0).collect::<Vec<_>>(), [6, 8, 12, 16, 24]);
        let mut table = Table::default();
        assert_eq!((table.bytes(), table.capacity(), table.grown_bytes()), (0, 0, 48));
        assert_eq!(table.find(KeyHash(5), |_| true), None);
        let mut chance = Rng::new(1);
        let entries: Vec<u32> = (0..5000).map(|_| chance.next_u64() as u32).collect();
        for &entry in &entries {
            let before = table.bytes().max(table.grown_bytes());
            put(&mut table, entry);
            assert!(table.bytes() <= before);
        }
        check(&table);
        assert!(
            table.bytes() < 5000 * 10 && entries.iter().all(|&e| table.find(hash(e), |other| other == e).is_some())
        );
        for &entry in &entries {
            assert!(table.remove(hash(entry), entry));
        }
        table.shrink(hash, |_| {});
        assert_eq!((table.bytes(), table.capacity(), table.len()), (0, 0, 0));
    }
}
