//! Keys that were evicted lately, as fingerprints of two bytes.
//!
//! ```text
//! 15          12 11                0
//! │ generation  │   fingerprint    │   0 is an empty place
//! ```
//!
//! A key's hash names a set of sixteen places, one cache line's half. The generation counts in
//! eighths of the capacity; an entry of eight generations ago is as good as
//! gone, so what is remembered is about as many evictions as there are places.
//! Two keys are taken for the same once in 4096 / 16: then a newcomer is welcomed
//! like a returning key, which is the worst that a wrong answer does.
//!
//! Called by the hand.

use crate::base::KeyHash;

/// Places of a set.
const WAYS: usize = 16;
const FINGERPRINT_BITS: u32 = 12;
const GENERATIONS: u16 = 1 << (16 - FINGERPRINT_BITS);
/// An entry is remembered for so many generations.
const GENERATIONS_KEPT: u16 = GENERATIONS / 2;
/// The smallest table, in sets.
const SETS_MIN: usize = 16;

/// The ghosts of evicted keys. Empty, it takes no memory.
#[derive(Default)]
pub struct Ghost {
    sets: Vec<[u16; WAYS]>,
    generation: u16,
    /// Insertions since the generation began.
    inserted: usize,
}

impl Ghost {
    /// Remembers a key that was evicted from among `keys`. The table is made anew,
    /// and empty, when the number of keys has changed by far.
    pub fn insert(&mut self, hash: KeyHash, keys: u64) {
        let places = self.sets.len() as u64 * WAYS as u64;
        if self.sets.is_empty() || keys > places * 2 || keys < places / 4 {
            let sets = (keys as usize / WAYS).next_power_of_two().max(SETS_MIN);
            if sets != self.sets.len() {
                *self = Self { sets: vec![[0; WAYS]; sets], generation: 0, inserted: 0 };
            }
        }
        self.inserted += 1;
        if self.inserted >= self.sets.len() * WAYS / usize::from(GENERATIONS_KEPT) {
            self.inserted = 0;
            self.generation = (self.generation + 1) % GENERATIONS;
        }
        let generation = self.generation;
        let (set, fingerprint) = self.address(hash);
        let Some(set) = self.sets.get_mut(set) else { return };
        let age = |entry: u16| {
            if entry == 0 {
                GENERATIONS
            } else {
                (generation + GENERATIONS - (entry >> FINGERPRINT_BITS)) % GENERATIONS
            }
        };
        let known = set.iter_mut().find(|entry| same(**entry, fingerprint));
        let place = match known {
            Some(known) => Some(known),
            None => set.iter_mut().max_by_key(|entry| age(**entry)),
        };
        if let Some(place) = place {
            *place = generation << FINGERPRINT_BITS | fingerprint;
        }
    }

    /// Whether a key was probably evicted lately.
    #[inline]
    pub fn remembers(&self, hash: KeyHash) -> bool {
        let (set, fingerprint) = self.address(hash);
        self.sets.get(set).is_some_and(|set| {
            set.iter().any(|&entry| {
                let age = (self.generation + GENERATIONS - (entry >> FINGERPRINT_BITS)) % GENERATIONS;
                same(entry, fingerprint) && age < GENERATIONS_KEPT
            })
        })
    }

    /// Bytes that the table takes.
    #[inline]
    pub fn bytes(&self) -> u64 {
        (self.sets.len() * size_of::<[u16; WAYS]>()) as u64
    }

    /// The set and the fingerprint of a key: parts of its hash that the slot tables use least.
    #[inline]
    fn address(&self, hash: KeyHash) -> (usize, u16) {
        let fingerprint = (hash.0 >> 44) as u16 & ((1 << FINGERPRINT_BITS) - 1);
        let set = (hash.0 >> 8) as usize & self.sets.len().wrapping_sub(1);
        (set, fingerprint.max(1))
    }
}

#[inline]
fn same(entry: u16, fingerprint: u16) -> bool {
    entry & ((1 << FINGERPRINT_BITS) - 1) == fingerprint
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::KeyHasher;

    fn hash(n: u64) -> KeyHash {
        KeyHasher::new(1).hash(&n.to_le_bytes())
    }

    #[test]
    fn what_was_evicted_lately_is_remembered_and_what_was_not_is_not() {
        let mut ghost = Ghost::default();
        assert!(!ghost.remembers(hash(1)) && ghost.bytes() == 0);
        for n in 0..100_000 {
            ghost.insert(hash(n), 10_000);
        }
        let remembered = |range: std::ops::Range<u64>| range.filter(|&n| ghost.remembers(hash(n))).count();
        assert!(remembered(96_000..100_000) > 3_900, "{}", remembered(96_000..100_000));
        let older = remembered(0..50_000);
        assert!(older < 300, "{older} of 50,000 long gone are taken for returning");
        let strangers = remembered(200_000..250_000);
        assert!(strangers < 300, "{strangers} of 50,000 strangers are taken for returning");
        assert_eq!(ghost.bytes(), 1024 * 32);
    }

    #[test]
    fn the_table_follows_the_number_of_keys() {
        let mut ghost = Ghost::default();
        for (keys, sets) in [(0, 16), (400, 16), (600, 64), (1_000_000, 65_536), (300_000, 65_536), (1000, 64)] {
            ghost.insert(hash(7), keys);
            assert_eq!(ghost.sets.len(), sets, "{keys} keys");
            assert!(ghost.remembers(hash(7)));
        }
    }
}
