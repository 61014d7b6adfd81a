//! The keyed hash of a key. Each process draws its own seed, so nobody outside
//! can prepare keys that collide in the slot tables.

use foldhash::quality::SeedableRandomState;
use std::hash::{BuildHasher, Hasher};

/// A key's 64-bit keyed hash: computed once when a request is parsed, then
/// carried along so that no room hashes the same key twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHash(pub u64);

impl KeyHash {
    /// One of 64 bits, chosen by the key: in a set made of those of some keys it is missing for most others.
    #[inline]
    pub fn bit(self) -> u64 {
        1 << (self.0 >> 48 & 63)
    }
}

/// Hashes keys under one seed. All cores of a process share the seed, so a hash
/// computed on one core is valid on another.
#[derive(Clone, Debug)]
pub struct KeyHasher {
    state: SeedableRandomState,
}

impl KeyHasher {
    /// A hasher for `seed`; equal seeds give equal hashes.
    pub fn new(seed: u64) -> Self {
        Self { state: SeedableRandomState::with_seed(seed, foldhash::SharedSeed::global_fixed()) }
    }

    /// The hash of `key`.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        let mut hasher = self.state.build_hasher();
        hasher.write(key);
        KeyHash(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_decides_the_hash() {
        let (a, b, c) = (KeyHasher::new(1), KeyHasher::new(1), KeyHasher::new(2));
        assert_eq!(a.hash(b"key"), b.hash(b"key"));
        assert_ne!(a.hash(b"key"), c.hash(b"key"));
        assert_ne!(a.hash(b"key"), a.hash(b"kez"));
    }
}
