//! [`Shard`]: the parts of the engine together. Takes operations, writes answers.
//!
//! Invariant between two calls: the slot tables hold exactly the records that
//! are not dead, and segments in use, index, wheel and reserved bytes stay
//! within the budget.
//!
//! Called by the core's turn, which hashes and prefetches a batch of requests
//! and then executes them one by one.

use super::ahead::Ahead;
use super::arena::{Arena, Log, SEGMENT_BYTES_MIN};
use super::changes::Watch;
use super::draft::Drafts;
use super::evict::{Hand, Policy};
use super::expiry::Wheel;
use super::index::Index;
use super::item::{self, Head, KEY_BYTES_MAX, Loc, REFS_MAX};
use super::lease::Leases;
use super::pins::Pins;
use super::prefixes::Prefixes;
use super::stats::HandReport;
use super::{At, EngineError, MemoryReport, ShardConfig, ShardStats, VALUE_BYTES_MAX};
use crate::base::rng::Rng;
use crate::base::{KeyHash, SLOT_COUNT, Slot, UnixMillis};
use crate::command::{Expiry, Op, OpError, ReplySink};

/// Bytes that the allocator is taken to keep of a wheel that was larger once: one part in so many of the budget at most.
const KEPT_FRACTION: u64 = 16;
/// Versions that a slot may give away in a millisecond, as a power of two.
const VERSIONS_PER_MS_SHIFT: u32 = 11;
/// Segments that a budget must hold.
const SEGMENTS_MIN: u64 = 64;
/// Keeps what prefixes draw apart from what the hand draws.
const PREFIX_SEED: u64 = 0x7072_6566;
/// Records of one slot that a sample takes, and slots looked at for each record wanted.
const SAMPLE_PER_SLOT: usize = 4;
const SAMPLE_TRIES: usize = 4;

/// What one core stores.
pub struct Shard {
    pub(super) index: Index,
    ahead: Ahead,
    pub(super) arena: Arena,
    pub(super) wheel: Wheel,
    pub(super) hand: Hand,
    pub(super) policy: Policy,
    pub(super) stats: ShardStats,
    pub(super) keys_with_expiry: u64,
    pub(super) pins: Pins,
    pub(super) drafts: Drafts,
    pub(super) leases: Leases,
    pub(super) watch: Watch,
    pub(super) prefixes: Prefixes,
    pub(super) value_bytes_max: usize,
    budget_bytes: u64,
    /// What the budget can be set to: [`Shard::range_of`].
    range: (u64, u64),
    reserved_bytes: u64,
    /// Whether less room may be left than there should be: then also those writes make some that take none.
    pub(super) lacks_room: bool,
    /// The most that the wheel has taken since it was last empty. Its small pieces lie between others', so the allocator can
    /// rarely give pages of them back.
    wheel_peak_bytes: u64,
}

/// A live record that was looked up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub loc: Loc,
    pub head: Head,
}

// The smallest budget leaves room for some dozens of segments.
const _: () = assert!(Shard::BUDGET_BYTES_MIN >= 128 * SEGMENT_BYTES_MIN);

impl Shard {
    /// The smallest workable budget.
    pub const BUDGET_BYTES_MIN: u64 = 1 << 20;
    /// What an empty shard takes whatever its budget: empty slot tables and an empty wheel.
    pub const FIXED_BYTES: u64 = Index::FIXED_BYTES + Wheel::FIXED_BYTES;
    /// The largest budget: as far as 32-bit locations reach.
    pub const BUDGET_BYTES_MAX: u64 = 16 << 30;

    /// An empty shard. Maps its budget, which occupies memory only as it is used.
    ///
    /// # Errors
    /// A budget out of range, or a mapping that the system refused.
    pub fn new(config: ShardConfig) -> Result<Self, EngineError> {
        if config.budget_bytes < Self::BUDGET_BYTES_MIN {
            return Err(EngineError::BudgetTooSmall { minimum: Self::BUDGET_BYTES_MIN });
        }
        if config.budget_bytes > Self::BUDGET_BYTES_MAX {
            return Err(EngineError::BudgetTooLarge { maximum: Self::BUDGET_BYTES_MAX });
        }
        Ok(Self {
            index: Index::new(config.hasher, Self::range_of(config.budget_bytes, config.reach_bytes).1)
                .map_err(EngineError::Mapping)?,
            ahead: Ahead::default(),
            arena: Arena::new(config.budget_bytes, config.reach_bytes.min(Self::BUDGET_BYTES_MAX), config.huge_pages)
                .map_err(EngineError::Mapping)?,
            wheel: Wheel::new(),
            hand: Hand::new(config.seed),
            policy: config.policy,
            stats: ShardStats::default(),
            keys_with_expiry: 0,
            pins: Pins::default(),
            drafts: Drafts::default(),
            leases: Leases::default(),
            watch: Watch::default(),
            prefixes: Prefixes::new(config.seed ^ PREFIX_SEED),
            value_bytes_max: config.value_bytes_max.min(VALUE_BYTES_MAX),
            budget_bytes: config.budget_bytes,
            range: Self::range_of(config.budget_bytes, config.reach_bytes),
            reserved_bytes: 0,
            lacks_room: false,
            wheel_peak_bytes: 0,
        })
    }

    /// Lets all memory of an empty shard occupy pages now, on the NUMA node of the calling thread.
    /// Takes the kernel some 0.1 s for a GiB; where a hypervisor has to find the memory first, 3 s.
    pub fn prefault(&mut self) {
        self.arena.touch(self.segments_allowed());
    }

    /// Lets every record say when it was last read or written, which takes 4 bytes of it. Of an empty shard.
    pub fn keep_access_times(&mut self) {
        debug_assert!(self.key_count() == 0, "records with a time and without lie beside each other");
        self.arena.keep_access_times();
    }

    /// Whether records say when they were last read.
    #[inline]
    pub fn has_access_times(&self) -> bool {
        self.arena.has_access_times()
    }

    /// Lets versions begin behind those that an earlier process may have told its clients: `started_at` is when this one
    /// began. They stay ahead as long as a slot takes fewer than 2,048 writes a millisecond over all its time, and below
    /// 2^53, which JSON numbers hold exactly, until the year 2109.
    pub fn begin_versions(&mut self, started_at: UnixMillis) {
        self.index.begin_versions(started_at.0 << VERSIONS_PER_MS_SHIFT);
    }

    /// Executes one operation on `key`, which lives `at`, and writes its answer to `out`.
    #[inline]
    pub fn execute(&mut self, at: At, key: &[u8], op: &Op<'_>, now: UnixMillis, out: &mut impl ReplySink) {
        match *op {
            Op::Get => return self.get(at, key, now, out),
            Op::Strlen => return self.strlen(at, key, now, out),
            Op::Exists => return self.exists(at, key, now, out),
            Op::Ttl(unit) => return self.ttl(at, key, unit, now, out),
            Op::Type => return self.type_of(at, key, now, out),
            Op::Fetch { expiry: Expiry::Keep, bump, ask } => {
                let granted = self.leases.granted();
                self.fetch(at, key, (Expiry::Keep, bump, ask), now, out);
                if self.leases.granted() == granted {
                    return;
                }
            }
            Op::Set { value, expiry, condition, reply } => {
                if !self.set(at, key, value, (expiry, condition, reply), now, out) {
                    return;
                }
            }
            Op::GetDel => self.get_del(at, key, now, out),
            Op::GetEx { expiry } => self.get_ex(at, key, expiry, now, out),
            Op::Append { tail } => self.append(at, key, tail, now, out),
            Op::IncrBy { delta } => self.incr_by(at, key, delta, now, out),
            Op::Del => self.del(at, key, now, out),
            Op::Expire { expiry, condition } => self.expire(at, key, expiry, condition, now, out),
            Op::Persist => self.persist(at, key, now, out),
            Op::Fetch { expiry, bump, ask } => self.fetch(at, key, (expiry, bump, ask), now, out),
            Op::Store(store) => self.store(at, key, store, now, out),
            Op::Remove(remove) => self.remove(at, key, remove, now, out),
            Op::Count(count) => self.count(at, key, count, now, out),
        }
        self.after_write(now);
    }

    /// The record of `key`. One whose deadline has passed is removed here.
    pub(super) fn lookup(&mut self, at: At, key: &[u8], now: UnixMillis) -> Option<Found> {
        self.lookup_dated(at, key, now).map(|(found, _)| found)
    }

    /// The record of `key` with its deadline, which had to be read anyway. A call would hand all of that on through memory.
    #[inline(always)]
    pub(super) fn lookup_dated(&mut self, at: At, key: &[u8], now: UnixMillis) -> Option<(Found, Option<u64>)> {
        let bytes = self.arena.bytes();
        let loc = match self.ahead.take(at.hash, self.index.changes()) {
            Some(loc) if item::has_key(bytes, loc, key) => loc,
            _ => self.index.find(at.slot, at.hash, key, bytes)?,
        };
        let head = Head::read(bytes, loc);
        let deadline = self.arena.expiry_word(loc, head).deadline;
        if is_past(deadline, now) {
            self.drop_expired(at.slot, at.hash, loc);
            return None;
        }
        Some((Found { loc, head }, deadline))
    }

    /// The longest key accepted: what a header describes, and half a segment holds.
    pub fn key_bytes_max(&self) -> usize {
        KEY_BYTES_MAX.min(self.arena.segment_bytes() / 2)
    }

    /// Answers a refusal, and counts it.
    #[cold]
    pub(super) fn refuse(&mut self, error: OpError, out: &mut impl ReplySink) {
        if error == OpError::OutOfMemory {
            self.stats.refused_oom += 1;
        }
        out.refused(error);
    }

    /// How many segments the budget has room for beside everything else in it.
    #[inline]
    pub(super) fn segments_allowed(&self) -> usize {
        let others = self.index_bytes() + self.wheel_bytes() + self.reserved_bytes + self.kept_bytes();
        let room = self.budget_bytes.saturating_sub(others) >> self.arena.segment_shift();
        (room as usize).min(self.arena.segment_count())
    }

    /// Bytes of slot tables beside the empty ones, of the table of segments, of leases and of what the hand remembers.
    #[inline]
    fn index_bytes(&self) -> u64 {
        self.index.bytes() - Index::FIXED_BYTES + self.arena.table_bytes() + self.hand.bytes() + self.leases.bytes()
    }

    /// Bytes of the wheel beside the empty one.
    #[inline]
    fn wheel_bytes(&self) -> u64 {
        self.wheel.bytes() - Wheel::FIXED_BYTES
    }

    /// What the allocator may keep of a wheel that was larger once.
    #[inline]
    fn kept_bytes(&self) -> u64 {
        self.wheel_peak_bytes.saturating_sub(self.wheel_bytes()).min(self.budget_bytes / KEPT_FRACTION)
    }

    /// Remembers how much the wheel takes, or that an empty one has given all of it back.
    #[inline]
    pub(super) fn note_wheel(&mut self) {
        let bytes = self.wheel_bytes();
        if bytes > self.wheel_peak_bytes || bytes == 0 {
            self.wheel_peak_bytes = bytes;
        }
    }

    /// How many segments are free within the budget; negative if it is overdrawn.
    #[inline]
    pub(super) fn segments_free(&self) -> isize {
        self.segments_allowed() as isize - self.arena.in_use() as isize
    }

    /// Starts loading what [`Shard::execute`] will read of some keys, all at a time so that their misses overlap: the headers
    /// of their slots, then the entries in the tables, then the records that are probably theirs. Each step reads what the one
    /// before has loaded.
    #[inline]
    pub fn prefetch(&mut self, places: impl Iterator<Item = At> + Clone) {
        places.clone().for_each(|at| self.prefetch_slot(at));
        self.prefetch_records(places);
    }

    /// The first of the three steps for one key: taken as soon as each is known, it has ended when all are.
    #[inline]
    pub fn prefetch_slot(&self, at: At) {
        self.index.prefetch_slot(at.slot);
    }

    /// The other two steps, for keys of which the first was taken.
    #[inline]
    pub fn prefetch_records(&mut self, places: impl Iterator<Item = At> + Clone) {
        places.clone().for_each(|at| self.index.prefetch_entry(at.slot, at.hash));
        self.ahead.begin(self.index.changes());
        for at in places {
            if let Some(loc) = self.index.candidate(at.slot, at.hash) {
                self.arena.prefetch(loc);
                self.ahead.push(at.hash, loc);
            }
        }
    }

    /// The length of a key's value, whether it has expired or not. Asking changes and counts nothing.
    pub fn value_len(&self, at: At, key: &[u8]) -> Option<usize> {
        let bytes = self.arena.bytes();
        let loc = self.index.find(at.slot, at.hash, key, bytes)?;
        Some(Head::read(bytes, loc).value_len())
    }

    /// How many keys are stored, expired ones that nobody met yet included.
    pub fn key_count(&self) -> u64 {
        self.index.key_count()
    }

    /// How many of the keys have a deadline.
    pub fn keys_with_expiry(&self) -> u64 {
        self.keys_with_expiry
    }

    /// How many keys `slot` holds.
    pub fn slot_key_count(&self, slot: Slot) -> u64 {
        self.index.slot_key_count(slot)
    }

    /// Says what buffers and sessions use of the core's budget. The next writes
    /// and slices of [`Shard::advance`] make room for it.
    pub fn set_reserved_bytes(&mut self, bytes: u64) {
        self.lacks_room |= bytes > self.reserved_bytes;
        self.reserved_bytes = bytes;
    }

    /// Adds to it what has come since it was last said, and does a little to make room: thousands of sessions may open
    /// before anything is written, and before the next slice.
    pub fn add_reserved_bytes(&mut self, bytes: u64, now: UnixMillis) {
        self.lacks_room = true;
        self.reserved_bytes = self.reserved_bytes.saturating_add(bytes);
        self.make_room_a_little(now);
    }

    /// Takes from it what has gone.
    pub fn sub_reserved_bytes(&mut self, bytes: u64) {
        self.reserved_bytes = self.reserved_bytes.saturating_sub(bytes);
    }

    /// The counters.
    pub fn stats(&self) -> &ShardStats {
        &self.stats
    }

    /// The budget.
    #[inline]
    pub fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// Where the bytes of the budget are.
    pub fn memory(&self) -> MemoryReport {
        let shift = self.arena.segment_shift();
        let (index_bytes, wheel_bytes) = (self.index_bytes(), self.wheel_bytes());
        let free = self.segments_free().max(0) as u64;
        MemoryReport {
            budget_bytes: self.budget_bytes,
            live_bytes: self.arena.live_bytes(),
            dead_bytes: self.arena.dead_bytes(),
            free_bytes: free << shift,
            index_bytes,
            wheel_bytes,
            reserved_bytes: self.reserved_bytes + self.kept_bytes(),
            segments_total: self.segments_allowed() as u64,
            segments_free: free,
            resident_bytes: ((self.arena.resident() as u64) << shift)
                + index_bytes
                + wheel_bytes
                + self.reserved_bytes
                + self.kept_bytes()
                + Self::FIXED_BYTES,
            fixed_bytes: Self::FIXED_BYTES,
            segment_bytes: self.arena.segment_bytes() as u64,
            small_log_segments: self.arena.segments_of(Log::Small) as u64,
            hand: HandReport {
                position: self.hand.position().map(|(segment, walked)| (segment, walked as u64)),
                walked_bytes: self.hand.walked_bytes(),
                reinserted: self.stats.reinserted,
            },
        }
    }

    /// Changes the budget. What is too much then is evicted and given back by the next
    /// writes and slices of [`Shard::advance`].
    ///
    /// # Errors
    /// A budget out of range, or more memory than the system maps; nothing has changed then.
    pub fn set_budget(&mut self, budget_bytes: u64) -> Result<(), EngineError> {
        let (minimum, maximum) = self.range;
        if budget_bytes < minimum {
            return Err(EngineError::BudgetTooSmall { minimum });
        }
        if budget_bytes > maximum {
            return Err(EngineError::BudgetTooLarge { maximum });
        }
        self.arena.grow(budget_bytes).map_err(EngineError::Mapping)?;
        self.budget_bytes = budget_bytes;
        self.lacks_room = true;
        Ok(())
    }

    /// Changes what gives way when the budget is reached.
    pub fn set_policy(&mut self, policy: Policy) {
        if self.policy != policy {
            self.policy = policy;
            self.hand.forget();
        }
    }

    /// What gives way when the budget is reached.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Bytes of segments that the hand has walked.
    pub fn hand_walked_bytes(&self) -> u64 {
        self.hand.walked_bytes()
    }

    /// The smallest and the largest budget to which a shard made with `budget_bytes` can be
    /// set. Its segments keep their size, so it cannot shrink to a few of them.
    pub fn range_of(budget_bytes: u64, reach_bytes: u64) -> (u64, u64) {
        let few = SEGMENTS_MIN << Arena::shift_for(budget_bytes);
        let most = reach_bytes.max(budget_bytes).min(Self::BUDGET_BYTES_MAX);
        (few.max(Self::BUDGET_BYTES_MIN), most)
    }

    /// How many of about `wanted` records have been read how often since the hand last
    /// passed. `random` decides which slots are looked at; nothing is changed.
    pub fn sample_refs(&self, wanted: usize, random: u64) -> [u64; REFS_MAX as usize + 1] {
        let mut counts = [0; REFS_MAX as usize + 1];
        let mut seen = 0;
        let mut rng = Rng::new(random);
        for _ in 0..wanted * SAMPLE_TRIES {
            let Some(slot) = Slot::new(rng.below(SLOT_COUNT as u64) as u16) else { continue };
            for loc in self.index.locations(slot).take(SAMPLE_PER_SLOT) {
                counts[Head::read(self.arena.bytes(), loc).refs() as usize] += 1;
                seen += 1;
            }
            if seen >= wanted {
                break;
            }
        }
        counts
    }

    /// Removes a record whose deadline has passed.
    #[cold]
    pub(super) fn drop_expired(&mut self, slot: Slot, hash: KeyHash, loc: Loc) {
        self.stats.expired += 1;
        self.stats.expired_bytes += self.drop_record(slot, hash, loc) as u64;
    }
}

/// Whether a deadline has passed: as in Redis, a key still exists in the millisecond it names.
#[inline]
pub(super) fn is_past(deadline: Option<u64>, now: UnixMillis) -> bool {
    deadline.is_some_and(|deadline| deadline < now.0)
}
