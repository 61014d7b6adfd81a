//! Copies of values that other cores hold, and how they are revoked.
//!
//! A copy is good while its key's epoch is the one that it was made in. The core that owns the key moves the epoch
//! on in the very operation that changes the record, before any reply to that operation exists, so whoever has seen the
//! reply finds all copies revoked. This is one store to a line that the holders only read: no message, no acknowledgement
//! and no wait. After the revocable leases of Gray and Cheriton (SOSP 1989), with shared memory for the callback.
//!
//! Called by the operations of the shard and by what gives memory back, through `changes`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::At;
use super::shard::Shard;
use crate::base::{KeyHash, UnixMillis};
use crate::command::{Lease, Value};

/// What the owner of a key and the holders of its copies share.
#[derive(Debug, Default)]
pub struct Epoch {
    /// Moves on when the value changes.
    number: AtomicU64,
    /// Reads that copies have answered and that the owner has not heard of.
    reads: AtomicU64,
}

impl Epoch {
    /// The epoch now.
    #[inline]
    pub fn number(&self) -> u64 {
        // Pairs with `revoke`: who sees the reply to a change sees what came before it.
        self.number.load(Ordering::SeqCst)
    }

    /// Whether a copy made in the epoch `number` is still good.
    #[inline]
    pub fn is(&self, number: u64) -> bool {
        self.number() == number
    }

    /// All copies made so far are no good any more.
    pub fn revoke(&self) {
        self.number.fetch_add(1, Ordering::SeqCst);
    }

    /// A holder tells of reads.
    pub fn add_reads(&self, reads: u64) {
        self.reads.fetch_add(reads, Ordering::Relaxed);
    }

    /// The reads since this was last asked.
    pub fn take_reads(&self) -> u64 {
        self.reads.swap(0, Ordering::Relaxed)
    }
}

/// The keys of which there may be copies.
#[derive(Debug, Default)]
pub(super) struct Copied {
    keys: Vec<(KeyHash, Arc<Epoch>)>,
}

impl Copied {
    /// Revokes the copies of a key, and of any other with its hash.
    pub fn revoke(&self, hash: KeyHash) {
        self.keys.iter().filter(|(key, _)| *key == hash).for_each(|(_, epoch)| epoch.revoke());
    }

    pub fn revoke_all(&self) {
        self.keys.iter().for_each(|(_, epoch)| epoch.revoke());
    }

    /// A set that has every key in it: [`KeyHash::bit`].
    pub fn bits(&self) -> u64 {
        self.keys.iter().fold(0, |bits, &(hash, _)| bits | hash.bit())
    }
}

impl Shard {
    /// From now on every change of a key moves its epoch on.
    pub fn begin_copies(&mut self, hash: KeyHash, epoch: Arc<Epoch>) {
        self.watch.copied.keys.push((hash, epoch));
        self.watch.choose();
    }

    /// Revokes the copies of a key, of which no more are made.
    pub fn end_copies(&mut self, epoch: &Arc<Epoch>) {
        epoch.revoke();
        self.watch.copied.keys.retain(|(_, other)| !Arc::ptr_eq(other, epoch));
        self.watch.choose();
    }

    /// Shows a value of which a copy may be made: one of so many bytes at most, that will not be stale before it expires, and
    /// that nobody has the lease of. Answers whether there is one. It counts as no read.
    pub fn show_copyable(
        &mut self,
        at: At,
        key: &[u8],
        bytes_max: usize,
        now: UnixMillis,
        show: impl FnOnce(&Value<'_>),
    ) -> bool {
        let Some((found, expires_at)) = self.lookup_dated(at, key, now) else { return false };
        let is_plain = !found.head.is_large() && self.soft_of(found).is_none() && self.lease_of(at, now) == Lease::None;
        if !is_plain || found.head.value_len() > bytes_max {
            return false;
        }
        self.described(at.slot, found, expires_at, show);
        true
    }

    /// A copy at this core has answered a read of a key that another core owns.
    #[inline]
    pub fn count_copy_read(&mut self, key: &[u8]) {
        self.stats.hits += 1;
        self.count_read(key, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_good_until_its_key_changes() {
        let (key, other) = (Arc::new(Epoch::default()), Arc::new(Epoch::default()));
        let copied = Copied { keys: vec![(KeyHash(7), key.clone()), (KeyHash(8), other.clone())] };
        let (made, others) = (key.number(), other.number());
        copied.revoke(KeyHash(9));
        assert!(key.is(made));
        copied.revoke(KeyHash(7));
        assert!(!key.is(made) && other.is(others));
        copied.revoke_all();
        assert!(!other.is(others));
        assert_eq!(copied.bits(), KeyHash(7).bit() | KeyHash(8).bit());
    }
}
