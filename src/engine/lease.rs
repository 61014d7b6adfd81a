//! Refresh leases: of all that find a value missing or stale, one is to fetch it from where it comes from. After
//! the leases of Nishtala and others, "Scaling Memcache at Facebook" (NSDI 2013), with a deadline: a holder that
//! dies does not leave the value unfilled.
//!
//! A lease is known by its token, a number of the slot's writes, so no version of a value and no other lease of the
//! slot has it, unless clients choose it or versions by themselves. What compares versions therefore compares tokens too: a fill that names its token is stored
//! only while the lease is out. Every write and every deletion of the key ends the lease, so a late fill of
//! what was read before the change loses.
//!
//! Leases are kept by the hash of their keys. Two keys of one hash would share one, which delays a fill and
//! never makes an answer wrong. If there are too many, the one that would run out first ends early: its fill is refused.
//!
//! Called by the operations of the shard; whoever lets others wait for a fill is told when a lease has ended.

use std::collections::BTreeSet;

use hashbrown::HashTable;

use super::At;
use super::shard::Shard;
use crate::base::{KeyHash, UnixMillis};
use crate::command::Lease;

/// How long a lease lasts if the asker does not say, in milliseconds: longer than most origins take.
pub const TERM_MS: u64 = 10_000;
/// The longest a lease lasts.
pub const TERM_MS_MAX: u64 = 3_600_000;
/// About what one takes: its place in a table that is three quarters empty at worst, and in the order of deadlines.
const LEASE_BYTES: u64 = 192;
/// All may take one part in so many of the budget,
const BUDGET_PART: u64 = 64;
/// and there are no more than so many.
const LEASES_MAX: u64 = 1 << 16;
/// How many may run out at a time.
const EXPIRED_MAX: usize = 256;

/// How many leases there are and were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseReport {
    /// Those that are out, with those whose time is over and that nobody has met since.
    pub out: u64,
    /// Those given, since the shard was made.
    pub granted: u64,
    /// Those that ended because their time was over.
    pub ran_out: u64,
}

/// A lease that is out.
#[derive(Clone, Copy, Debug)]
struct Out {
    at: At,
    token: u64,
    /// The last millisecond in which it is valid.
    until: u64,
    /// Whether somebody waits for its end.
    awaited: bool,
}

/// All leases that are out.
#[derive(Debug, Default)]
pub(super) struct Leases {
    table: HashTable<Out>,
    /// Deadlines and hashes, soonest first.
    due: BTreeSet<(u64, u64)>,
    awaited: usize,
    /// Those that were awaited and have ended.
    ended: Vec<At>,
    granted: u64,
    ran_out: u64,
}

impl Leases {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// How many were given.
    #[inline]
    pub fn granted(&self) -> u64 {
        self.granted
    }

    /// About the memory they take.
    #[inline]
    pub fn bytes(&self) -> u64 {
        self.table.len() as u64 * LEASE_BYTES
    }

    fn get(&self, at: At, now: UnixMillis) -> Option<&Out> {
        self.table.find(at.hash.0, |out| out.at == at).filter(|out| out.until >= now.0)
    }

    /// Takes out the lease of a key, and notes its end if that is awaited.
    fn end(&mut self, at: At) -> Option<Out> {
        let (out, _) = self.table.find_entry(at.hash.0, |out| out.at == at).ok()?.remove();
        self.due.remove(&(out.until, at.hash.0));
        if out.awaited {
            self.awaited -= 1;
            self.ended.push(at);
        }
        if self.table.is_empty() {
            // It may have been large once.
            self.table = HashTable::new();
        }
        Some(out)
    }

    fn insert(&mut self, out: Out) {
        self.due.insert((out.until, out.at.hash.0));
        self.awaited += usize::from(out.awaited);
        self.table.insert_unique(out.at.hash.0, out, |out| out.at.hash.0);
    }

    /// Ends the one that runs out first.
    fn end_first(&mut self) {
        let Some((until, hash)) = self.due.pop_first() else { return };
        let at = self.table.find(hash, |out| out.at.hash == KeyHash(hash) && out.until == until).map(|out| out.at);
        if let Some(at) = at {
            self.end(at);
        }
    }

    /// Ends up to `max` of those whose time is over; answers how many.
    pub fn expire(&mut self, now: UnixMillis, max: usize) -> usize {
        let mut ended = 0;
        while ended < max && self.due.first().is_some_and(|&(until, _)| until < now.0) {
            self.end_first();
            ended += 1;
        }
        self.ran_out += ended as u64;
        ended
    }

    pub fn flush(&mut self) {
        let awaited = self.table.iter().filter(|out| out.awaited).map(|out| out.at);
        self.ended.extend(awaited);
        self.table = HashTable::new();
        self.due = BTreeSet::new();
        self.awaited = 0;
    }
}

impl Shard {
    /// Gives the lease of a key to who asks, unless it is out: for so many milliseconds, under a token of the client's
    /// own choice or, if that is 0, a new version.
    pub(super) fn grant(&mut self, at: At, (term_ms, token): (u64, u64), now: UnixMillis) -> Lease {
        if let Some(out) = self.leases.get(at, now) {
            return Lease::Held { until: out.until };
        }
        self.leases.ran_out += u64::from(self.leases.end(at).is_some());
        let max = (self.budget_bytes() / BUDGET_PART / LEASE_BYTES).clamp(1, LEASES_MAX);
        while self.leases.table.len() as u64 >= max && !self.leases.due.is_empty() {
            self.leases.end_first();
        }
        let term = if term_ms == 0 { TERM_MS } else { term_ms.min(TERM_MS_MAX) };
        let token = if token == 0 { self.index.next_version(at.slot) } else { token };
        let until = now.0.saturating_add(term);
        self.leases.insert(Out { at, token, until, awaited: false });
        self.leases.granted += 1;
        // Copies are answered as of keys that nobody is to fill.
        self.watch.copied.revoke(at.hash);
        Lease::Granted { token, until }
    }

    /// The lease of a key as others see it.
    pub(super) fn lease_of(&self, at: At, now: UnixMillis) -> Lease {
        match self.leases.get(at, now) {
            _ if self.leases.is_empty() => Lease::None,
            Some(out) => Lease::Held { until: out.until },
            None => Lease::None,
        }
    }

    /// Whether the key's lease is out and has this token.
    #[inline]
    pub(super) fn is_leased_by(&self, at: At, token: u64, now: UnixMillis) -> bool {
        !self.leases.is_empty() && self.leases.get(at, now).is_some_and(|out| out.token == token)
    }

    /// The key is written or deleted: whoever fetched its value before is late.
    #[inline]
    pub(super) fn end_lease(&mut self, at: At) {
        if !self.leases.is_empty() {
            self.leases.end(at);
        }
    }

    /// Does `change` to the key, and lets its lease stand.
    pub(super) fn keeping_lease<R>(&mut self, at: At, change: impl FnOnce(&mut Self) -> R) -> R {
        let kept = self.leases.table.find(at.hash.0, |out| out.at == at).copied();
        if let Some(out) = kept {
            self.leases.end(at);
            self.leases.ended.pop_if(|ended| out.awaited && *ended == at);
        }
        let done = change(self);
        if let Some(out) = kept {
            self.leases.end(at);
            self.leases.insert(out);
        }
        done
    }

    /// Whether the key has no value and somebody is to fill it: whoever asks may wait for that, and is then named by
    /// [`Shard::take_ended_leases`].
    pub fn await_fill(&mut self, at: At, key: &[u8], now: UnixMillis) -> bool {
        if self.leases.get(at, now).is_none() || self.lookup(at, key, now).is_some() {
            return false;
        }
        let Some(out) = self.leases.table.find_mut(at.hash.0, |out| out.at == at) else { return false };
        if !std::mem::replace(&mut out.awaited, true) {
            self.leases.awaited += 1;
        }
        true
    }

    /// When the first lease runs out whose end is awaited, or one before it.
    pub fn next_awaited_end(&self) -> Option<UnixMillis> {
        let first = self.leases.due.first().filter(|_| self.leases.awaited > 0);
        first.map(|&(until, _)| UnixMillis(until + 1))
    }

    /// The keys whose leases were awaited and have ended: by a fill, another change of the key, or their deadline.
    pub fn take_ended_leases(&mut self, now: UnixMillis) -> Vec<At> {
        if self.leases.awaited > 0 {
            self.leases.expire(now, EXPIRED_MAX);
        }
        std::mem::take(&mut self.leases.ended)
    }

    /// How many leases there are and were.
    pub fn lease_report(&self) -> LeaseReport {
        let Leases { granted, ran_out, .. } = self.leases;
        LeaseReport { out: self.leases.table.len() as u64, granted, ran_out }
    }
}
