//! Walking the keys, whole slots at a time: a cursor is a slot number, so keys
//! that stay through a walk are met exactly once however tables grow meanwhile.

use super::item::{self, Head};
use super::shard::{Shard, is_past};
use crate::base::{Slot, UnixMillis};

impl Shard {
    /// Hands `f` the keys of the slots from `from`, until at least `count` were
    /// handed out or `to` is reached. Answers the next slot to scan.
    pub fn scan(&self, from: u16, to: u16, count: usize, now: UnixMillis, mut f: impl FnMut(&[u8])) -> u16 {
        let bytes = self.arena.bytes();
        let mut given = 0;
        let mut at = from;
        while at < to
            && given < count
            && let Some(slot) = Slot::new(at)
        {
            for loc in self.index.locations(slot) {
                let head = Head::read(bytes, loc);
                if !is_past(self.arena.expiry_word(loc, head).deadline, now) {
                    f(item::key_of(bytes, loc, head));
                    given += 1;
                }
            }
            at += 1;
        }
        if Slot::new(at).is_none() { to } else { at }
    }
}
