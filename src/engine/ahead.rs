//! Where the keys of the next operations probably lie: what loading their records ahead has found out anyway.
//!
//! To load a record ahead its place has to be read from the slot's table. An operation that asks for the key next
//! need not read that again, if no table has changed since: it looks at the record, and if that has the key, it is the one.
//!
//! Invariant: a place is told only for a hash that its table was searched for, and only while the tables are as they were.
//!
//! Called by the shard, which knows when they change.

use super::item::Loc;
use crate::base::KeyHash;

/// The places of some keys, in the order in which they will be asked for.
#[derive(Default)]
pub struct Ahead {
    places: Vec<(KeyHash, Loc)>,
    next: usize,
    /// How often the tables had changed when they were found.
    changes: u64,
}

impl Ahead {
    /// Forgets all places; those that follow are of tables that have changed `changes` times.
    #[inline]
    pub fn begin(&mut self, changes: u64) {
        self.places.clear();
        (self.next, self.changes) = (0, changes);
    }

    /// The next key has this hash, and is probably at this place.
    #[inline]
    pub fn push(&mut self, hash: KeyHash, loc: Loc) {
        self.places.push((hash, loc));
    }

    /// The place of the key with this hash if it is the next, in tables that have changed `changes` times.
    #[inline]
    pub fn take(&mut self, hash: KeyHash, changes: u64) -> Option<Loc> {
        let &(next, loc) = self.places.get(self.next)?;
        if next != hash || changes != self.changes {
            return None;
        }
        self.next += 1;
        Some(loc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_once_in_order_and_of_the_same_tables() {
        let mut ahead = Ahead::default();
        assert_eq!(ahead.take(KeyHash(0), 0), None);
        ahead.begin(7);
        ahead.push(KeyHash(1), Loc(10));
        ahead.push(KeyHash(2), Loc(20));
        assert_eq!(ahead.take(KeyHash(2), 7), None, "it is not the next");
        assert_eq!(ahead.take(KeyHash(1), 8), None, "the record may have moved");
        assert_eq!(ahead.take(KeyHash(1), 7), Some(Loc(10)));
        assert_eq!(ahead.take(KeyHash(1), 7), None);
        assert_eq!(ahead.take(KeyHash(2), 7), Some(Loc(20)));
        assert_eq!(ahead.take(KeyHash(2), 7), None);
        ahead.begin(7);
        assert_eq!(ahead.take(KeyHash(2), 7), None, "it is forgotten");
    }
}
