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
//! 4, 6, 8, 12, 16, … buckets, each in a cache line. It grows when seven eighths of its places are taken. The units are in
//! a slab with those of other tables: every method is handed all of them.
//!
//! Invariant: an entry is in the first bucket from its home on that had a free place when it came, and each bucket between
//! counts it.
//!
//! Called by `index`, which knows the slots, and hands in what reads a record.

use super::memory::{Unit, equal_bytes, prefetch_ref};
use crate::base::KeyHash;

/// Places of a bucket, and of a unit; units of a bucket.
const WIDTH: usize = 12;
const PER_UNIT: usize = 4;
const BUCKET_UNITS: usize = 1 + WIDTH / PER_UNIT;
/// The word of a bucket's first unit that counts who has passed.
const PASSED: usize = 3;
/// From so many buckets on a table doubles: each time takes long, so there are to be few. Only many keys of one hash tag make one
/// so large.
const DOUBLED_FROM: usize = 512;
/// How many buckets are loaded ahead of the one whose entries are put into a new table.
const AHEAD: usize = 2;
/// How many sizes there are, none at all among them. The largest has room for a record in each 13 bytes of the largest budget.
pub const SIZES: usize = 39;

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

/// How large a table is: in buckets, and for less than one in units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    buckets: usize,
    units: usize,
    /// How many entries it may have. A lone bucket can be full: nothing passes it.
    capacity: usize,
}

impl Size {
    const NONE: Self = Self { buckets: 0, units: 0, capacity: 0 };

    const fn less_than_one(units: usize) -> Self {
        Self { buckets: 1, units, capacity: (units - 1) * PER_UNIT }
    }

    const fn of(buckets: usize) -> Self {
        Self { buckets, units: buckets * BUCKET_UNITS, capacity: buckets * WIDTH * 7 / 8 }
    }

    /// The next larger one.
    const fn larger(self) -> Self {
        match self.buckets {
            0 => Self::less_than_one(2),
            1 if self.units < BUCKET_UNITS => Self::less_than_one(self.units + 1),
            n if n < 3 => Self::of(n + 1),
            n if n >= DOUBLED_FROM => Self::of(n * 2),
            n if n.is_power_of_two() => Self::of(n / 2 * 3),
            n => Self::of(n / 3 * 4),
        }
    }
}

/// All sizes, the smallest first.
static ALL: [Size; SIZES] = {
    let mut all = [Size::NONE; SIZES];
    let mut n = 1;
    while n < SIZES {
        all[n] = all[n - 1].larger();
        n += 1;
    }
    all
};

/// How many units a table of a size takes.
#[inline]
pub fn units_of(size: usize) -> usize {
    ALL[size].units
}

/// The entries of one slot, found by the hashes of their keys.
#[derive(Clone, Copy, Default)]
pub struct Table {
    /// The unit with which it begins.
    start: u32,
    buckets: u32,
    len: u32,
    size: u8,
}

impl Table {
    /// An empty one of some size, from the unit `start` on; all its units are zeros.
    pub fn new(size: usize, start: usize) -> Self {
        Self { start: start as u32, buckets: ALL[size].buckets as u32, len: 0, size: size as u8 }
    }

    /// Says that its units are elsewhere now.
    pub fn moved_to(&mut self, start: usize) {
        self.start = start as u32;
    }

    /// The unit with which it begins.
    pub fn start(&self) -> usize {
        self.start as usize
    }

    /// Which of the [`SIZES`] it has.
    #[inline]
    pub fn size(&self) -> usize {
        usize::from(self.size)
    }

    /// The smallest size with room for twice the entries there are.
    pub fn size_wanted(&self) -> usize {
        ALL.partition_point(|size| size.capacity < self.len() * 2)
    }

    /// Whether there is no more than one bucket.
    pub fn is_small(&self) -> bool {
        self.buckets <= 1
    }

    #[inline]
    fn buckets(&self) -> usize {
        self.buckets as usize
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
        self.start as usize + bucket * BUCKET_UNITS
    }

    /// The bucket of an entry, its first unit, and the entry's place.
    #[inline]
    fn position(
        &self,
        units: &[Unit],
        hash: KeyHash,
        mut is_it: impl FnMut(u32) -> bool,
    ) -> Option<(usize, usize, usize)> {
        let (tag, mut bucket) = (Self::tag(hash), self.home(hash));
        for _ in 0..self.buckets() {
            let unit = self.unit(bucket);
            for place in matching(units, unit, tag) {
                if is_it(entry_at(units, unit, place)) {
                    return Some((bucket, unit, place));
                }
            }
            if units[unit].0[PASSED] == 0 {
                return None;
            }
            bucket = self.after(bucket);
        }
        None
    }

    /// The first entry of this hash for which `is_it` holds. It is asked about few others.
    #[inline]
    pub fn find(&self, units: &[Unit], hash: KeyHash, is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.position(units, hash, is_it).map(|(_, unit, place)| entry_at(units, unit, place))
    }

    /// Starts loading the bucket of a hash.
    #[inline]
    pub fn prefetch(&self, units: &[Unit], hash: KeyHash) {
        if let Some(unit) = units.get(self.unit(self.home(hash))) {
            prefetch_ref(unit);
        }
    }

    /// Puts `new` where `old` stands; answers whether it was there.
    #[inline]
    pub fn replace(&self, units: &mut [Unit], hash: KeyHash, old: u32, new: u32) -> bool {
        let found = self.position(units, hash, |entry| entry == old);
        if let Some((_, unit, place)) = found {
            set(units, unit, place, Self::tag(hash), new);
        }
        found.is_some()
    }

    /// Adds an entry, for which there is room.
    pub fn insert(&mut self, units: &mut [Unit], hash: KeyHash, entry: u32) {
        debug_assert!(self.len() < self.capacity());
        let width = (units_of(self.size()) - 1).min(WIDTH / PER_UNIT) * PER_UNIT;
        let mut bucket = self.home(hash);
        loop {
            let unit = self.unit(bucket);
            if let Some(place) = matching(units, unit, 0).next().filter(|&place| place < width) {
                set(units, unit, place, Self::tag(hash), entry);
                self.len += 1;
                return;
            }
            units[unit].0[PASSED] += 1;
            bucket = self.after(bucket);
        }
    }

    /// Takes an entry out; answers whether it was there.
    pub fn remove(&mut self, units: &mut [Unit], hash: KeyHash, entry: u32) -> bool {
        let Some((found, unit, place)) = self.position(units, hash, |other| other == entry) else { return false };
        let mut bucket = self.home(hash);
        while bucket != found {
            units[self.unit(bucket)].0[PASSED] -= 1;
            bucket = self.after(bucket);
        }
        set(units, unit, place, 0, 0);
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
        ALL[self.size()].capacity
    }

    /// All entries, in no order.
    pub fn iter<'u>(&self, units: &'u [Unit]) -> impl Iterator<Item = u32> + use<'u> {
        let table = *self;
        (0..self.buckets()).flat_map(move |bucket| table.entries_of(units, bucket))
    }

    /// The entries of a bucket; of none that there is not.
    fn entries_of<'u>(&self, units: &'u [Unit], bucket: usize) -> impl Iterator<Item = u32> + use<'u> {
        let unit = self.unit(bucket);
        let taken = if bucket < self.buckets() { !matching(units, unit, 0).0 & ((1 << WIDTH) - 1) } else { 0 };
        Places(taken).map(move |place| entry_at(units, unit, place))
    }

    /// Puts all entries of `before` into this one, which has room for them. `hash` tells an entry's hash, and `load` is told
    /// of entries that it will be asked about soon.
    pub fn take_all(&mut self, units: &mut [Unit], before: &Self, hash: impl Fn(u32) -> KeyHash, load: impl Fn(u32)) {
        for bucket in 0..AHEAD {
            before.entries_of(units, bucket).for_each(&load);
        }
        for bucket in 0..before.buckets() {
            before.entries_of(units, bucket + AHEAD).for_each(&load);
            let mut entries = [0; WIDTH];
            let count = entries.iter_mut().zip(before.entries_of(units, bucket)).map(|(to, entry)| *to = entry).count();
            entries[..count].iter().for_each(|&entry| self.insert(units, hash(entry), entry));
        }
    }
}

/// The places of a bucket with this tag.
#[inline]
fn matching(units: &[Unit], unit: usize, tag: u8) -> Places {
    Places(u32::from(equal_bytes(&units[unit].0, tag)) & ((1 << WIDTH) - 1))
}

#[inline]
fn entry_at(units: &[Unit], unit: usize, place: usize) -> u32 {
    units[unit + 1 + place / PER_UNIT].0[place % PER_UNIT]
}

fn set(units: &mut [Unit], unit: usize, place: usize, tag: u8, entry: u32) {
    let shift = place % PER_UNIT * 8;
    let tags = &mut units[unit].0[place / PER_UNIT];
    *tags = *tags & !(0xff << shift) | u32::from(tag) << shift;
    units[unit + 1 + place / PER_UNIT].0[place % PER_UNIT] = entry;
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

    /// A table with memory of its own.
    #[derive(Default)]
    struct Alone {
        table: Table,
        units: Vec<Unit>,
    }

    impl Alone {
        fn resize(&mut self, size: usize) {
            // Behind the old one, and then to its place.
            let (start, taken) = (self.units.len(), units_of(size));
            self.units.resize(start + taken, Unit::default());
            let mut table = Table::new(size, start);
            table.take_all(&mut self.units, &self.table, hash, |_| {});
            table.moved_to(0);
            self.units.drain(..start);
            self.table = table;
        }

        fn put(&mut self, entry: u32) {
            if self.table.len() == self.table.capacity() {
                self.resize(self.table.size() + 1);
            }
            self.table.insert(&mut self.units, hash(entry), entry);
        }

        fn remove(&mut self, entry: u32) -> bool {
            self.table.remove(&mut self.units, hash(entry), entry)
        }

        fn shrink(&mut self) {
            if self.table.size_wanted() < self.table.size() {
                self.resize(self.table.size_wanted());
            }
        }

        fn has(&self, entry: u32) -> bool {
            self.table.find(&self.units, hash(entry), |other| other == entry).is_some()
        }

        fn check(&self) {
            let Self { table, units } = self;
            let mut passed = vec![0; table.buckets()];
            for entry in table.iter(units) {
                let (found, ..) = table.position(units, hash(entry), |other| other == entry).expect("it is there");
                let mut at = table.home(hash(entry));
                while at != found {
                    passed[at] += 1;
                    at = table.after(at);
                }
            }
            assert_eq!(table.iter(units).count(), table.len());
            let counted = (0..table.buckets()).map(|bucket| units[table.unit(bucket)].0[PASSED]);
            assert_eq!(counted.collect::<Vec<_>>(), passed);
        }
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
            let (mut alone, mut model) = (Alone::default(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Insert(entry) => {
                        if model.insert(entry, entry).is_none() {
                            alone.put(entry);
                        }
                    }
                    Step::Remove(entry) => prop_assert_eq!(alone.remove(entry), model.remove(&entry).is_some()),
                    Step::Replace(entry) => {
                        let Alone { table, units } = &mut alone;
                        prop_assert_eq!(table.replace(units, hash(entry), entry, entry), model.contains_key(&entry));
                        prop_assert!(!table.replace(units, hash(entry), entry + 1000, entry));
                    }
                    Step::Shrink => alone.shrink(),
                }
                alone.check();
                prop_assert!((0..300).filter(|&entry| alone.has(entry)).eq(model.keys().copied()));
                let mut all: Vec<_> = alone.table.iter(&alone.units).collect();
                all.sort_unstable();
                prop_assert!(all.iter().eq(model.keys()));
            }
        }
    }

    #[test]
    fn a_table_grows_in_small_steps_and_gives_all_back() {
        let shown: Vec<_> = ALL.iter().map(|size| (size.buckets, size.capacity, size.units)).collect();
        let expected = [(0, 0, 0), (1, 4, 2), (1, 8, 3), (1, 12, 4), (2, 21, 8), (3, 31, 12), (4, 42, 16)];
        assert_eq!(shown[..7], expected);
        assert_eq!(shown[7..12].iter().map(|size| size.0).collect::<Vec<_>>(), [6, 8, 12, 16, 24]);
        assert!(shown[SIZES - 1].1 > 1 << 30, "as many entries as there can be records");
        let mut alone = Alone::default();
        assert_eq!((alone.table.capacity(), alone.table.size_wanted()), (0, 0));
        assert!(!alone.has(5));
        let mut chance = Rng::new(1);
        let entries: Vec<u32> = (0..5000).map(|_| chance.next_u64() as u32).collect();
        entries.iter().for_each(|&entry| alone.put(entry));
        alone.check();
        assert!(size_of_val(&*alone.units) < 5000 * 10 && entries.iter().all(|&entry| alone.has(entry)));
        assert!(entries.iter().all(|&entry| alone.remove(entry)));
        alone.shrink();
        assert_eq!((alone.units.len(), alone.table.capacity(), alone.table.len()), (0, 0, 0));
    }
}
