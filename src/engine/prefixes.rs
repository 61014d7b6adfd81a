//! Keys that begin with the same bytes: how many there are, what they take, how often they are read, and what they may
//! take at most.
//!
//! A key counts for the longest prefix that it begins with. Nothing is looked at until prefixes are named.
//! A prefix that takes more than it may gives way by itself: keys of it are looked for in slots drawn at random, and
//! the one that was read least of those found goes, or loses one of its reads; a few with each write, and in the background
//! until it fits. Where the policy evicts nothing, its writes are refused instead.
//!
//! Called where records come and go, and by what gives memory back.

use super::evict::Policy;
use super::item::{self, Head, Loc};
use super::shard::Shard;
use crate::base::rng::Rng;
use crate::base::{SLOT_COUNT, Slot};

/// Slots that are drawn for one eviction, and records that are looked at in each.
const SLOTS_DRAWN: usize = 16;
const RECORDS_EACH: usize = 8;
/// Records of the prefix among which the one to go is chosen.
const CANDIDATES: usize = 5;
/// Draws without a find after which keys of a prefix are taken to be too few to be found like that.
const IN_VAIN_MAX: u32 = 256;
/// Evictions that one write pays for.
const EVICTIONS_PER_WRITE: usize = 4;

/// What there is of a prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixStats {
    /// What the keys begin with.
    pub name: Vec<u8>,
    /// Keys, expired ones that nobody met yet included.
    pub keys: u64,
    /// Bytes of their records and values.
    pub bytes: u64,
    /// What those may be; 0 if anything.
    pub bytes_max: u64,
    /// Reads that found a key.
    pub hits: u64,
    /// Reads that found none.
    pub misses: u64,
    /// Keys that had to go because the prefix took too much.
    pub evicted: u64,
}

/// All prefixes.
#[derive(Debug)]
pub(super) struct Prefixes {
    /// The longest first.
    list: Vec<PrefixStats>,
    /// Whether one may take more than it may, and it is worth to look for keys to evict.
    over: bool,
    /// How often none was found since one was.
    in_vain: u32,
    chance: Rng,
}

impl Prefixes {
    pub fn new(seed: u64) -> Self {
        Self { list: Vec::new(), over: false, in_vain: 0, chance: Rng::new(seed) }
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn position(&self, key: &[u8]) -> Option<usize> {
        self.list.iter().position(|prefix| key.starts_with(&prefix.name))
    }

    fn of(&mut self, key: &[u8]) -> Option<&mut PrefixStats> {
        self.list.iter_mut().find(|prefix| key.starts_with(&prefix.name))
    }

    pub fn flush(&mut self) {
        self.list.iter_mut().for_each(|prefix| (prefix.keys, prefix.bytes) = (0, 0));
    }
}

impl PrefixStats {
    fn is_over(&self) -> bool {
        self.bytes_max > 0 && self.bytes > self.bytes_max
    }
}

impl Shard {
    /// Names the prefixes that are counted, and how many bytes each may take, 0 for any. For an empty shard.
    pub fn count_prefixes(&mut self, prefixes: impl IntoIterator<Item = (Vec<u8>, u64)>) {
        let named = |(name, bytes_max)| PrefixStats { name, bytes_max, ..PrefixStats::default() };
        self.prefixes.list = prefixes.into_iter().map(named).collect();
        self.prefixes.list.sort_by_key(|prefix| std::cmp::Reverse(prefix.name.len()));
    }

    /// What there is of each prefix.
    pub fn prefixes(&self) -> &[PrefixStats] {
        &self.prefixes.list
    }

    /// A record has become a key's.
    #[inline]
    pub(super) fn count_record(&mut self, loc: Loc, head: Head) {
        if !self.prefixes.is_empty() {
            self.count_by_prefix(loc, head, true);
        }
    }

    /// A record is no key's any more.
    #[inline]
    pub(super) fn discount_record(&mut self, loc: Loc, head: Head) {
        if !self.prefixes.is_empty() {
            self.count_by_prefix(loc, head, false);
        }
    }

    #[cold]
    fn count_by_prefix(&mut self, loc: Loc, head: Head, comes: bool) {
        let size = self.bytes_of(head) as u64;
        let key = item::key_of(self.arena.bytes(), loc, head);
        let Some(prefix) = self.prefixes.of(key) else { return };
        if comes {
            (prefix.keys, prefix.bytes) = (prefix.keys + 1, prefix.bytes + size);
            let over = prefix.is_over();
            self.prefixes.over |= over;
        } else {
            (prefix.keys, prefix.bytes) = (prefix.keys - 1, prefix.bytes - size);
        }
    }

    /// A key was read, and found or not.
    #[inline]
    pub(super) fn count_read(&mut self, key: &[u8], found: bool) {
        if !self.prefixes.is_empty()
            && let Some(prefix) = self.prefixes.of(key)
        {
            *(if found { &mut prefix.hits } else { &mut prefix.misses }) += 1;
        }
    }

    /// Whether a write of `key` is to be refused, because its prefix takes too much and nothing may be evicted for it.
    #[inline]
    pub(super) fn is_prefix_full(&mut self, key: &[u8]) -> bool {
        !self.prefixes.is_empty()
            && matches!(self.policy, Policy::NoEviction | Policy::VolatileTtl)
            && self.prefixes.of(key).is_some_and(|prefix| prefix.is_over())
    }

    /// Whether a prefix takes more than it may, as far as is known.
    #[inline]
    pub(super) fn is_prefix_over(&self) -> bool {
        self.prefixes.over
    }

    /// A write's share of making prefixes fit.
    #[cold]
    pub(super) fn shrink_prefixes_a_little(&mut self) {
        for _ in 0..EVICTIONS_PER_WRITE {
            if !self.shrink_prefixes() {
                return;
            }
        }
    }

    /// Evicts one key of a prefix that takes too much, if one is found. Answers whether it is worth to go on.
    pub(super) fn shrink_prefixes(&mut self) -> bool {
        let Some(index) = self.prefixes.list.iter().position(PrefixStats::is_over) else {
            self.prefixes.over = false;
            return false;
        };
        if self.policy == Policy::NoEviction || self.prefixes.in_vain >= IN_VAIN_MAX {
            // Until the next write of such a key.
            (self.prefixes.over, self.prefixes.in_vain) = (false, 0);
            return false;
        }
        self.prefixes.in_vain += 1;
        if let Some((refs, loc)) = self.least_read_of(index) {
            if refs > 0 {
                // It was read since: it gets another chance, as under the hand.
                let head = Head::read(self.arena.bytes(), loc).with_refs(refs - 1);
                head.write(self.arena.bytes_mut(), loc);
                return true;
            }
            let (slot, hash) = self.index.address(loc, self.arena.bytes());
            self.stats.evicted += 1;
            self.stats.evicted_bytes += self.drop_record(slot, hash, loc) as u64;
            self.prefixes.list[index].evicted += 1;
            self.prefixes.in_vain = 0;
        }
        true
    }

    /// Of some keys of a prefix, found by chance, the one that was read least.
    fn least_read_of(&mut self, index: usize) -> Option<(u64, Loc)> {
        let mut least: Option<(u64, Loc)> = None;
        let mut seen = 0;
        for _ in 0..SLOTS_DRAWN {
            let Some(slot) = Slot::new(self.prefixes.chance.below(SLOT_COUNT as u64) as u16) else { continue };
            for loc in self.index.locations(slot).take(RECORDS_EACH) {
                let head = Head::read(self.arena.bytes(), loc);
                let may_go = self.policy != Policy::VolatileTtl || self.arena.expiry_word(loc, head).deadline.is_some();
                if may_go && self.prefixes.position(item::key_of(self.arena.bytes(), loc, head)) == Some(index) {
                    seen += 1;
                    if least.is_none_or(|(refs, _)| head.refs() < refs) {
                        least = Some((head.refs(), loc));
                    }
                }
            }
            if seen >= CANDIDATES {
                break;
            }
        }
        least
    }
}
