//! Which keys have changed, for those who keep copies of values and are told when they are no good any more.
//!
//! Nothing is noted until somebody wants to know. Then every change is, whatever made it: a write, a deletion, a
//! new deadline, expiry or eviction. A record that is only moved has not changed. Copies at other cores are revoked
//! here and now; clients are told later.
//!
//! Called by the operations of the shard and by what gives memory back.

use super::At;
use super::copies::Copied;
use super::item::{self, Head, Loc};
use super::shard::Shard;
use crate::base::{KeyHash, Slot};
use crate::command::Span;

/// A key that has changed.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Where it lives.
    pub at: At,
    /// Its bytes among those of all changes.
    pub key: Span,
    /// On whose behalf, as [`Shard::set_actor`] said; 0 for nobody's.
    pub actor: u64,
}

/// The changes since they were last taken.
#[derive(Debug, Default)]
pub struct Changes {
    /// In the order in which they happened.
    pub list: Vec<Change>,
    /// The bytes of the keys.
    pub bytes: Vec<u8>,
}

/// Whether changes are noted, and what there is of them.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The keys whose changes matter to anybody, and others: those whose [`KeyHash::bit`] is set.
    bits: u64,
    /// Whether changes of all keys are noted.
    on: bool,
    actor: u64,
    changes: Changes,
    pub copied: Copied,
}

impl Watch {
    /// Decides anew which changes matter.
    pub fn choose(&mut self) {
        self.bits = if self.on { u64::MAX } else { self.copied.bits() };
    }

    #[inline]
    fn concerns(&self, hash: KeyHash) -> bool {
        self.bits & hash.bit() != 0
    }

    #[cold]
    fn note(&mut self, at: At, key: &[u8], actor: u64) {
        self.copied.revoke(at.hash);
        if !self.on {
            return;
        }
        let start = self.changes.bytes.len();
        self.changes.bytes.extend_from_slice(key);
        let key = Span::new(start, self.changes.bytes.len());
        self.changes.list.push(Change { at, key, actor });
    }
}

impl Shard {
    /// Whether changes are to be noted.
    pub fn watch_changes(&mut self, on: bool) {
        self.watch.on = on;
        self.watch.choose();
    }

    /// On whose behalf the next operations are executed.
    #[inline]
    pub fn set_actor(&mut self, actor: u64) {
        self.watch.actor = actor;
    }

    /// Whether any change was noted.
    #[inline]
    pub fn has_changes(&self) -> bool {
        !self.watch.changes.list.is_empty()
    }

    /// The changes since this was last asked.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.watch.changes)
    }

    /// A key has changed.
    #[inline]
    pub(super) fn note_change(&mut self, at: At, key: &[u8]) {
        if self.watch.concerns(at.hash) {
            self.watch.note(at, key, self.watch.actor);
        }
    }

    /// The key of a record has changed.
    #[inline]
    pub(super) fn note_change_of(&mut self, at: At, loc: Loc) {
        if self.watch.concerns(at.hash) {
            let bytes = self.arena.bytes();
            self.watch.note(at, item::key_of(bytes, loc, Head::read(bytes, loc)), self.watch.actor);
        }
    }

    /// The key of a record is gone, on nobody's behalf.
    #[inline]
    pub(super) fn note_loss(&mut self, slot: Slot, hash: KeyHash, loc: Loc) {
        if self.watch.concerns(hash) {
            let bytes = self.arena.bytes();
            self.watch.note(At { slot, hash }, item::key_of(bytes, loc, Head::read(bytes, loc)), 0);
        }
    }
}
