//! The wheel: which records fall due when.
//!
//! Four levels of 256 buckets. A level-0 bucket spans one tick of 10 ms, a
//! bucket of each further level 256 times that: 2.56 s, 11 min, 46 h. What lies
//! beyond the 497 days of the top level waits in its last bucket and is filed again.
//!
//! ```text
//! tick due  31          24 23          16 15           8 7            0
//!           │   level 3   │   level 2    │   level 1    │   level 0    │
//! ```
//!
//! An entry stands in the level of the highest byte in which its tick differs from
//! the current one, so it comes down a level each time the current tick enters its bucket.
//!
//! Entries are bare locations and never searched for. A record names the bucket
//! that watches it (`armed`); an entry is believed only if the shard finds a live
//! record there that names the bucket the entry came out of. The others are
//! dropped when their bucket falls due, or by a sweep when they become many.
//!
//! **Sides.** Each bucket has two chains. A sweep turns the side, so that all that
//! is filed from then on goes to the new one, and works the old side off: of several
//! entries for one record only the first still finds its bucket and side named.
//!
//! Invariant: the current tick never passes a bucket that holds entries.
//!
//! Called by the shard, which validates what [`Wheel::next_due`] and
//! [`Wheel::next_swept`] hand out and files it again where it is not due.

use super::item::Loc;

/// Milliseconds of a tick.
pub const TICK_MS: u64 = 10;
const LEVELS: u32 = 4;
const POSITION_BITS: u32 = 8;
const POSITIONS: usize = 1 << POSITION_BITS;
const TOP_SHIFT: u32 = (LEVELS - 1) * POSITION_BITS;
const BUCKETS: usize = LEVELS as usize * POSITIONS;
const SIDES: usize = 2;
const BLOCK_ENTRIES: usize = 253;
/// Blocks kept for reuse; more are given back.
const SPARE_BLOCKS_MAX: usize = 64;

// Every bucket and side has a number of `Bucket::BITS` bits.
const _: () = assert!(BUCKETS * SIDES == 1 << Bucket::BITS);
// A block is 1 KiB, a size that every allocator has a class for.
const _: () = assert!(size_of::<Block>() == 1024);

/// One side of one bucket.
///
/// ```text
/// 10     9     8 7        0
/// │ side │ level │ position │
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket(u16);

impl Bucket {
    /// Bits of a bucket's number.
    pub const BITS: u32 = 11;
    const SIDE_SHIFT: u32 = 10;

    fn new(side: usize, level: u32, position: usize) -> Self {
        Self((side << Self::SIDE_SHIFT | (level as usize) << POSITION_BITS | position) as u16)
    }

    /// The bucket numbered `id`; bits above [`Bucket::BITS`] are ignored.
    #[inline]
    pub fn from_id(id: u16) -> Self {
        Self(id & ((1 << Self::BITS) - 1))
    }

    /// The bucket's number.
    #[inline]
    pub fn id(self) -> u16 {
        self.0
    }

    fn index(self) -> usize {
        usize::from(self.0)
    }

    fn level(self) -> u32 {
        u32::from(self.0 >> POSITION_BITS & 3)
    }

    fn position(self) -> usize {
        usize::from(self.0) & (POSITIONS - 1)
    }

    fn on_side(self, side: usize) -> Self {
        Self::new(side, self.level(), self.position())
    }
}

struct Block {
    next: Option<Box<Block>>,
    len: u32,
    entries: [u32; BLOCK_ENTRIES],
}

type Chain = Option<Box<Block>>;

/// The wheel of one core.
pub struct Wheel {
    /// The tick reached: all buckets before and at it are empty or being emptied.
    current: u64,
    chains: Vec<Chain>,
    /// Which positions of each level hold entries, on either side.
    occupied: [[u64; POSITIONS / 64]; LEVELS as usize],
    /// The bucket that fell due last, while it is emptied.
    due: Option<Bucket>,
    /// The side that new entries go to.
    side: usize,
    /// The next bucket of the other side to sweep, while a sweep runs.
    sweep: Option<usize>,
    entries: u64,
    blocks: u64,
    #[expect(clippy::vec_box, reason = "the boxes are links of chains: moving one must not move its kibibyte")]
    spare: Vec<Box<Block>>,
    /// Chains of a keyspace that was flushed, waiting to be dropped.
    #[expect(clippy::vec_box, reason = "as above")]
    flushed: Vec<Box<Block>>,
}

impl Wheel {
    /// Bytes that the wheel takes before anything is filed.
    pub const FIXED_BYTES: u64 =
        (BUCKETS * SIDES * size_of::<Chain>() + SPARE_BLOCKS_MAX * size_of::<Box<Block>>()) as u64;

    /// An empty wheel.
    pub fn new() -> Self {
        let mut chains = Vec::new();
        chains.resize_with(BUCKETS * SIDES, || None);
        Self {
            current: 0,
            chains,
            occupied: Default::default(),
            due: None,
            side: 0,
            sweep: None,
            entries: 0,
            blocks: 0,
            spare: Vec::with_capacity(SPARE_BLOCKS_MAX),
            flushed: Vec::new(),
        }
    }

    /// The bucket for a deadline, which falls due in the first tick that is wholly after it.
    pub fn place(&mut self, deadline_ms: u64, now_ms: u64) -> Bucket {
        if self.entries == 0 && self.due.is_none() {
            self.current = self.current.max(now_ms / TICK_MS);
        }
        let tick = (deadline_ms / TICK_MS + 1).max(self.current + 1);
        let (top, top_now) = (tick >> TOP_SHIFT, self.current >> TOP_SHIFT);
        if top > top_now {
            let ahead = (top - top_now).min(POSITIONS as u64 - 1);
            return Bucket::new(self.side, LEVELS - 1, (top_now + ahead) as usize % POSITIONS);
        }
        let level = (tick ^ self.current).ilog2() / POSITION_BITS;
        Bucket::new(self.side, level, (tick >> (level * POSITION_BITS)) as usize % POSITIONS)
    }

    /// Files `loc` in `bucket`, which [`Wheel::place`] has just answered.
    pub fn push(&mut self, bucket: Bucket, loc: Loc) {
        let full = self.chains[bucket.index()].as_ref().is_none_or(|block| block.len as usize == BLOCK_ENTRIES);
        if full {
            let mut block = self.spare.pop().unwrap_or_else(|| {
                self.blocks += 1;
                Box::new(Block { next: None, len: 0, entries: [0; BLOCK_ENTRIES] })
            });
            block.next = self.chains[bucket.index()].take();
            self.chains[bucket.index()] = Some(block);
            self.occupied[bucket.level() as usize][bucket.position() / 64] |= 1 << (bucket.position() % 64);
        }
        if let Some(block) = &mut self.chains[bucket.index()] {
            block.entries[block.len as usize] = loc.0;
            block.len += 1;
            self.entries += 1;
        }
    }

    /// Takes one entry out of `bucket`.
    fn pop(&mut self, bucket: Bucket) -> Option<Loc> {
        let chain = &mut self.chains[bucket.index()];
        let block = chain.as_mut()?;
        block.len -= 1;
        let loc = Loc(block.entries[block.len as usize]);
        self.entries -= 1;
        if block.len == 0
            && let Some(mut empty) = chain.take()
        {
            *chain = empty.next.take();
            let drained = chain.is_none();
            self.recycle(empty);
            if drained
                && self.chains[bucket.on_side(0).index()].is_none()
                && self.chains[bucket.on_side(1).index()].is_none()
            {
                self.occupied[bucket.level() as usize][bucket.position() / 64] &= !(1 << (bucket.position() % 64));
            }
        }
        Some(loc)
    }

    fn recycle(&mut self, block: Box<Block>) {
        if self.spare.len() < SPARE_BLOCKS_MAX {
            self.spare.push(block);
        } else {
            self.blocks -= 1;
        }
    }

    /// Takes the next entry whose bucket is due at `now_ms`, with that bucket.
    pub fn next_due(&mut self, now_ms: u64) -> Option<(Bucket, Loc)> {
        loop {
            if let Some(bucket) = self.due {
                for side in 0..SIDES {
                    let bucket = bucket.on_side(side);
                    if let Some(loc) = self.pop(bucket) {
                        return Some((bucket, loc));
                    }
                }
                self.due = None;
            }
            let target = now_ms / TICK_MS;
            match self.next_event() {
                Some((tick, bucket)) if tick <= target => {
                    self.current = tick;
                    self.due = Some(bucket);
                }
                _ => {
                    self.current = self.current.max(target);
                    return None;
                }
            }
        }
    }

    /// The entry that comes after `ahead` others in the bucket being emptied, as a hint for prefetching.
    pub fn upcoming(&self, ahead: usize) -> Option<Loc> {
        let bucket = self.due?;
        let block = (0..SIDES).find_map(|side| self.chains[bucket.on_side(side).index()].as_ref())?;
        let at = (block.len as usize).checked_sub(ahead + 1)?;
        block.entries.get(at).map(|&loc| Loc(loc))
    }

    /// The first occupied bucket after the current tick, and the tick at which it falls due.
    fn next_event(&self) -> Option<(u64, Bucket)> {
        for level in 0..LEVELS - 1 {
            let shift = level * POSITION_BITS;
            let here = (self.current >> shift) as usize % POSITIONS;
            if let Some(position) = self.first_occupied(level, here + 1, POSITIONS) {
                let window = self.current >> (shift + POSITION_BITS) << (shift + POSITION_BITS);
                return Some((window | (position as u64) << shift, Bucket::new(0, level, position)));
            }
        }
        let top_now = self.current >> TOP_SHIFT;
        let here = top_now as usize % POSITIONS;
        let position = self
            .first_occupied(LEVELS - 1, here + 1, POSITIONS)
            .or_else(|| self.first_occupied(LEVELS - 1, 0, here))?;
        let ahead = (position + POSITIONS - here) % POSITIONS;
        Some(((top_now + ahead as u64) << TOP_SHIFT, Bucket::new(0, LEVELS - 1, position)))
    }

    /// The first occupied position of `level` in `from..to`.
    fn first_occupied(&self, level: u32, from: usize, to: usize) -> Option<usize> {
        let words = &self.occupied[level as usize];
        let mut at = from;
        while at < to {
            let rest = words[at / 64] >> (at % 64);
            if rest != 0 {
                return Some(at + rest.trailing_zeros() as usize).filter(|&found| found < to);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }

    /// Whether `a` falls due before `b`. A bucket that is being emptied, or that
    /// a sweep has still to empty, counts as due now.
    pub fn is_before(&self, a: Bucket, b: Bucket) -> bool {
        self.ticks_ahead(a) < self.ticks_ahead(b)
    }

    fn ticks_ahead(&self, bucket: Bucket) -> u64 {
        let shift = bucket.level() * POSITION_BITS;
        let here = (self.current >> shift) as usize % POSITIONS;
        let ahead = if bucket.level() == LEVELS - 1 {
            (bucket.position() + POSITIONS - here) % POSITIONS
        } else {
            bucket.position().saturating_sub(here)
        };
        if ahead == 0 {
            return 0;
        }
        ((self.current >> shift) + ahead as u64) << shift
    }

    /// Starts a sweep unless one runs.
    pub fn start_sweep(&mut self) {
        if self.sweep.is_none() {
            self.side = 1 - self.side;
            self.sweep = Some(0);
        }
    }

    /// Whether a sweep runs.
    pub fn is_sweeping(&self) -> bool {
        self.sweep.is_some()
    }

    /// Takes the next entry of the side being swept, with its bucket.
    pub fn next_swept(&mut self) -> Option<(Bucket, Loc)> {
        while let Some(at) = self.sweep {
            let bucket = Bucket::new(1 - self.side, 0, 0);
            let bucket = Bucket(bucket.0 | at as u16);
            if let Some(loc) = self.pop(bucket) {
                return Some((bucket, loc));
            }
            self.sweep = if at + 1 < BUCKETS { Some(at + 1) } else { None };
        }
        None
    }

    /// The Unix millisecond at which the next bucket falls due.
    pub fn next_deadline(&self) -> Option<u64> {
        match self.due {
            Some(_) => Some(self.current * TICK_MS),
            None => self.next_event().map(|(tick, _)| tick * TICK_MS),
        }
    }

    /// How many entries are filed, the stale ones included.
    #[inline]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Bytes that the wheel takes.
    #[inline]
    pub fn bytes(&self) -> u64 {
        Self::FIXED_BYTES + self.blocks * size_of::<Block>() as u64
    }

    /// Empties the wheel; the memory waits for [`Wheel::drop_flushed`].
    pub fn flush(&mut self) {
        self.flushed.extend(self.chains.iter_mut().filter_map(Option::take));
        self.occupied = Default::default();
        (self.due, self.sweep, self.entries) = (None, None, 0);
    }

    /// Drops up to `blocks_max` blocks of a flushed keyspace; answers how many.
    pub fn drop_flushed(&mut self, blocks_max: usize) -> usize {
        let mut dropped = 0;
        while dropped < blocks_max
            && let Some(mut block) = self.flushed.pop()
        {
            // One block at a time: dropping a chain as a whole would recurse.
            self.flushed.extend(block.next.take());
            self.blocks -= 1;
            dropped += 1;
        }
        dropped
    }
}

impl Drop for Wheel {
    fn drop(&mut self) {
        self.flush();
        self.drop_flushed(usize::MAX);
    }
}

#[cfg(test)]
impl Wheel {
    /// Every entry with its bucket.
    pub fn all(&self) -> Vec<(Bucket, Loc)> {
        let mut all = Vec::new();
        for (id, chain) in self.chains.iter().enumerate() {
            let mut block = chain.as_ref();
            while let Some(b) = block {
                all.extend(b.entries[..b.len as usize].iter().map(|&loc| (Bucket::from_id(id as u16), Loc(loc))));
                block = b.next.as_ref();
            }
        }
        assert_eq!(all.len() as u64, self.entries);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Takes what is due at `now` and files again what is not, as the shard does.
    fn advance(wheel: &mut Wheel, deadlines: &[u64], now: u64, fired: &mut Vec<u32>) -> usize {
        let mut steps = 0;
        while let Some((_, loc)) = wheel.next_due(now) {
            steps += 1;
            let deadline = deadlines[loc.0 as usize];
            if deadline < now {
                fired.push(loc.0);
            } else {
                let bucket = wheel.place(deadline, now);
                wheel.push(bucket, loc);
            }
        }
        steps
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        /// The twin is a sorted list: what is past fires, within a tick, and nothing early.
        #[test]
        fn the_wheel_fires_what_a_sorted_list_would(
            start in 0u64..1 << 42,
            spans in proptest::collection::vec((0u32..44, any::<u64>()), 1..200),
            jumps in proptest::collection::vec((0u32..42, any::<u64>()), 1..60),
            sweeps in any::<u64>(),
        ) {
            let mut wheel = Wheel::new();
            let deadlines: Vec<u64> = spans.iter().map(|&(bits, n)| start + n % (1 << bits)).collect();
            let mut now = start;
            let mut waiting: Vec<u32> = Vec::new();
            for (n, &deadline) in deadlines.iter().enumerate() {
                let bucket = wheel.place(deadline, now);
                wheel.push(bucket, Loc(n as u32));
                waiting.push(n as u32);
            }
            for (step, &(bits, n)) in jumps.iter().enumerate() {
                now += n % (1 << bits);
                if sweeps >> (step % 64) & 1 == 1 {
                    wheel.start_sweep();
                    for _ in 0..step {
                        let Some((_, loc)) = wheel.next_swept() else { break };
                        let deadline = deadlines[loc.0 as usize];
                        if deadline < now {
                            waiting.retain(|&n| n != loc.0);
                        } else {
                            let bucket = wheel.place(deadline, now);
                            wheel.push(bucket, loc);
                        }
                    }
                }
                let mut fired = Vec::new();
                let steps = advance(&mut wheel, &deadlines, now, &mut fired);
                // Once down the levels, and once more for each turn of the top level.
                let turns = (n % (1 << bits) / (TICK_MS << (TOP_SHIFT + POSITION_BITS))) as usize * 2;
                prop_assert!(steps <= (5 + turns) * waiting.len(), "{steps} steps");
                prop_assert!(fired.iter().all(|&n| deadlines[n as usize] < now));
                waiting.retain(|n| !fired.contains(n));
                for &n in &waiting {
                    prop_assert!(deadlines[n as usize] + TICK_MS >= now, "{} still waits at {now}", deadlines[n as usize]);
                }
                prop_assert_eq!(wheel.entries(), waiting.len() as u64);
                if let Some(next) = wheel.next_deadline() {
                    let earliest = waiting.iter().map(|&n| deadlines[n as usize]).min().unwrap_or(0);
                    prop_assert!(next <= earliest.max(now) + TICK_MS);
                } else {
                    prop_assert!(waiting.is_empty());
                }
            }
        }
    }

    #[test]
    fn a_sweep_visits_each_entry_once_and_blocks_are_given_back() {
        let mut wheel = Wheel::new();
        for n in 0..100_000 {
            let bucket = wheel.place(1_000_000 + u64::from(n), 0);
            wheel.push(bucket, Loc(n));
        }
        assert!(wheel.bytes() > 400_000);
        wheel.start_sweep();
        let mut seen = 0;
        while let Some((_, loc)) = wheel.next_swept() {
            seen += 1;
            if loc.0 % 10 == 0 {
                let bucket = wheel.place(1_000_000 + u64::from(loc.0), 0);
                wheel.push(bucket, loc);
            }
        }
        assert_eq!((seen, wheel.entries(), wheel.is_sweeping()), (100_000, 10_000, false));
        assert!(wheel.bytes() < Wheel::FIXED_BYTES + 200_000);
        wheel.flush();
        assert_eq!((wheel.entries(), wheel.next_deadline()), (0, None));
        while wheel.drop_flushed(3) > 0 {}
        assert!(wheel.bytes() <= Wheel::FIXED_BYTES + 64 * 1024);
    }

    #[test]
    fn a_long_chain_is_dropped_without_recursion() {
        let mut wheel = Wheel::new();
        let bucket = wheel.place(1 << 40, 0);
        for n in 0..40_000_000 / 8 {
            wheel.push(bucket, Loc(n));
        }
        drop(wheel);
    }
}
