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
//! Since entries come down as ticks pass, the place of a deadline's entry, its *home*,
//! follows from the deadline and the current tick alone, and no record need name it.
//!
//! Entries are bare locations and never searched for. One is believed only if the
//! shard finds a live record there which the entry may watch: it comes out of the home of the
//! record's deadline, or the record is marked *late*. The others are dropped when
//! their bucket falls due, or by a sweep when they become many.
//!
//! **Late.** A deadline that is moved to later files nothing: the entry stays where it
//! stands, earlier than the new home, and the record is marked. The next entry that
//! comes out for it is filed at home, and the mark goes.
//!
//! **Sides.** Each bucket has two chains, and a record keeps the side of the entry that
//! watches it. A sweep turns the side, so that all that is filed from then on goes to the
//! new one, and works the old side off: of several entries for one record only the first
//! still finds the record on its side.
//!
//! Invariants: the current tick never passes a bucket that holds entries. Every
//! watched record has an entry on its side which is believed when it comes out, and
//! which comes out no later than one at home would.
//!
//! Called by the shard, which looks at what [`Wheel::next_due`] and
//! [`Wheel::next_swept`] hand out and files it again where it is not due.

use super::item::Loc;

/// Milliseconds of a tick.
pub const TICK_MS: u64 = 10;
/// The latest deadline that is watched, in the year 144,680; whoever meets a later one may forget it.
pub const DEADLINE_MS_MAX: u64 = (1 << 52) - 1;
const LEVELS: u32 = 4;
const POSITION_BITS: u32 = 8;
const POSITIONS: usize = 1 << POSITION_BITS;
const TOP_SHIFT: u32 = (LEVELS - 1) * POSITION_BITS;
const BUCKETS: usize = LEVELS as usize * POSITIONS;
const SIDES: usize = 2;
const BLOCK_ENTRIES: usize = 253;
/// Blocks kept for reuse; more are given back.
const SPARE_BLOCKS_MAX: usize = 64;

// Every bucket and side has a number of its own.
const _: () = assert!(BUCKETS == 1 << Bucket::SIDE_SHIFT && SIDES == 2);
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
    const SIDE_SHIFT: u32 = 10;

    fn new(side: usize, level: u32, position: usize) -> Self {
        Self((side << Self::SIDE_SHIFT | (level as usize) << POSITION_BITS | position) as u16)
    }

    fn index(self) -> usize {
        usize::from(self.0)
    }

    fn level(self) -> u32 {
        u32::from(self.0 >> POSITION_BITS & 3)
    }

    /// Bits of a tick below those that the bucket's level goes by.
    fn shift(self) -> u32 {
        self.level() * POSITION_BITS
    }

    /// Whether its entries are due when it is, and come down no more.
    pub fn is_lowest(self) -> bool {
        self.level() == 0
    }

    fn position(self) -> usize {
        usize::from(self.0) & (POSITIONS - 1)
    }

    fn side(self) -> usize {
        usize::from(self.0 >> Self::SIDE_SHIFT)
    }

    fn on_side(self, side: usize) -> Self {
        Self::new(side, self.level(), self.position())
    }
}

/// How the wheel watches a record; the record keeps it beside its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Whether its entry stands on the second side.
    pub side: bool,
    /// Whether its entry may stand elsewhere than at home, earlier.
    pub late: bool,
}

impl Watch {
    /// That of a record that is not watched.
    pub const NEVER: Self = Self { side: false, late: false };
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

    /// The first tick that is wholly after a deadline.
    fn tick_of(deadline_ms: u64) -> u64 {
        deadline_ms / TICK_MS + 1
    }

    /// The bucket for `tick`, or for the next tick if that one is past.
    fn home(&self, tick: u64) -> Bucket {
        let tick = tick.max(self.current + 1);
        let (top, top_now) = (tick >> TOP_SHIFT, self.current >> TOP_SHIFT);
        if top > top_now {
            let ahead = (top - top_now).min(POSITIONS as u64 - 1);
            return Bucket::new(self.side, LEVELS - 1, (top_now + ahead) as usize % POSITIONS);
        }
        let level = (tick ^ self.current).ilog2() / POSITION_BITS;
        Bucket::new(self.side, level, (tick >> (level * POSITION_BITS)) as usize % POSITIONS)
    }

    /// Files an entry for the record at `loc`, which is to be looked at when its deadline is past.
    pub fn file(&mut self, loc: Loc, deadline_ms: u64, now_ms: u64) -> Watch {
        if self.entries == 0 && self.due.is_none() {
            self.current = self.current.max(now_ms / TICK_MS);
        }
        self.push(self.home(Self::tick_of(deadline_ms)), loc);
        Watch { side: self.side == 1, late: false }
    }

    /// Whether [`Wheel::file`] would leave a record's watch as it is.
    #[inline]
    pub fn files_as(&self, watch: Watch) -> bool {
        watch == Watch { side: self.side == 1, late: false }
    }

    /// Watches the record at `loc`, which was watched until the deadline `before_ms`,
    /// until another one. Files an entry only if the one that there is may be too late.
    #[inline]
    pub fn change(&mut self, loc: Loc, (before_ms, watch): (u64, Watch), deadline_ms: u64, now_ms: u64) -> Watch {
        let (before, after) = (Self::tick_of(before_ms), Self::tick_of(deadline_ms));
        // The entry for a tick that is past may be one just coming out: only such a tick is at home there.
        let stays = self.home(before) == self.home(after) && (before > self.current || after <= self.current);
        match (watch.late, stays) {
            (false, true) => watch,
            _ if after >= before => Watch { late: true, ..watch },
            _ => self.file(loc, deadline_ms, now_ms),
        }
    }

    /// Whether an entry that came out of `bucket` may be the one that watches a record.
    ///
    /// It is in the home of every deadline that the bucket spans. Past ticks are at home
    /// in the next one, which may be the current one by now, and those beyond the top
    /// level in a bucket that was its last once.
    #[inline]
    pub fn may_watch(&self, bucket: Bucket, deadline_ms: u64, watch: Watch) -> bool {
        let tick = Self::tick_of(deadline_ms);
        let (span, spanned) = (tick >> bucket.shift(), self.due_tick(bucket) >> bucket.shift());
        let is_home = span == spanned || tick <= self.current || bucket.level() == LEVELS - 1 && span > spanned;
        usize::from(watch.side) == bucket.side() && (watch.late || is_home)
    }

    /// The tick at which a bucket that holds entries falls due, or fell due if it is being emptied.
    fn due_tick(&self, bucket: Bucket) -> u64 {
        let now = self.current >> bucket.shift();
        let here = now as usize % POSITIONS;
        // Below the top level a window ends where the positions do.
        let ahead = match bucket.level() == LEVELS - 1 {
            true => (bucket.position() + POSITIONS - here) % POSITIONS,
            false => bucket.position().saturating_sub(here),
        };
        (now + ahead as u64) << bucket.shift()
    }

    fn push(&mut self, bucket: Bucket, loc: Loc) {
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

    /// Takes an entry out of the bucket that falls due soonest, although it has not yet.
    pub fn next_soonest(&mut self) -> Option<(Bucket, Loc)> {
        let next = self.next_event().map(|(_, bucket)| bucket);
        let buckets =
            self.due.into_iter().chain(next).flat_map(|bucket| (0..SIDES).map(move |side| bucket.on_side(side)));
        for bucket in buckets {
            if let Some(loc) = self.pop(bucket) {
                return Some((bucket, loc));
            }
        }
        None
    }

    /// Takes another entry out of `bucket`, which [`Wheel::next_due`] has handed out: none of its other side.
    #[inline]
    pub fn another_of(&mut self, bucket: Bucket) -> Option<Loc> {
        self.pop(bucket)
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
        self.flushed.append(&mut self.spare);
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

#[cfg(any(test, fuzzing))]
impl Wheel {
    /// Every entry with its bucket.
    pub fn all(&self) -> Vec<(Bucket, Loc)> {
        let mut all = Vec::new();
        for (id, chain) in self.chains.iter().enumerate() {
            let mut block = chain.as_ref();
            while let Some(b) = block {
                all.extend(b.entries[..b.len as usize].iter().map(|&loc| (Bucket(id as u16), Loc(loc))));
                block = b.next.as_ref();
            }
        }
        assert_eq!(all.len() as u64, self.entries);
        all
    }

    /// What must hold for a record whose entries stand in `buckets`: one of them is on its
    /// side, will be believed, and comes out no later than one at home would. Unless
    /// the record is late it is at home, or was when it was filed: the bucket is being
    /// emptied, or stands on the top level where the deadline was out of reach.
    pub fn check(&self, deadline_ms: u64, watch: Watch, buckets: impl IntoIterator<Item = Bucket>) {
        let home = self.home(Self::tick_of(deadline_ms)).on_side(watch.side.into());
        let stands_well = |bucket: Bucket| {
            let at_home = bucket == home
                || self.due.is_some_and(|due| due == bucket.on_side(0))
                || bucket.level() == LEVELS - 1 && home.level() == LEVELS - 1;
            bucket.side() == home.side()
                && self.may_watch(bucket, deadline_ms, watch)
                && self.due_tick(bucket) <= self.due_tick(home)
                && (watch.late || at_home)
        };
        let buckets: Vec<Bucket> = buckets.into_iter().collect();
        let now = self.current;
        assert!(
            buckets.iter().copied().any(stands_well),
            "nothing watches {deadline_ms} ms, {watch:?}, at tick {now}: home is {home:?}, entries are in {buckets:?}"
        );
        let next = self.next_deadline().expect("an entry waits");
        assert!(next <= self.due_tick(home) * TICK_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Locations with their records' deadlines. An entry is told from another's only
    /// by location, so a record that is filed anew is also one that took a dead one's place.
    struct Toy {
        wheel: Wheel,
        records: Vec<Option<(u64, Watch)>>,
        now: u64,
    }

    impl Toy {
        fn new(records: usize, now: u64) -> Self {
            Self { wheel: Wheel::new(), records: vec![None; records], now }
        }

        fn insert(&mut self, n: usize, deadline: u64) {
            self.records[n] = Some((deadline, self.wheel.file(Loc(n as u32), deadline, self.now)));
        }

        fn set(&mut self, n: usize, deadline: u64) {
            match self.records[n] {
                None => self.insert(n, deadline),
                Some(before) => {
                    let watch = self.wheel.change(Loc(n as u32), before, deadline, self.now);
                    self.records[n] = Some((deadline, watch));
                }
            }
        }

        /// As the shard does it; answers whether the entry was believed.
        fn settle(&mut self, bucket: Bucket, loc: Loc) -> bool {
            let n = loc.0 as usize;
            let Some((deadline, watch)) = self.records[n] else { return false };
            if deadline < self.now {
                self.records[n] = None;
                return true;
            }
            let believed = self.wheel.may_watch(bucket, deadline, watch);
            if believed {
                self.insert(n, deadline);
            }
            believed
        }

        /// Answers how many entries came out, and how many of them were not believed.
        fn advance(&mut self, entries_max: usize) -> (usize, usize) {
            let (mut steps, mut dropped) = (0, 0);
            while steps < entries_max
                && let Some((bucket, loc)) = self.wheel.next_due(self.now)
            {
                steps += 1;
                dropped += usize::from(!self.settle(bucket, loc));
            }
            (steps, dropped)
        }

        fn sweep(&mut self, entries_max: usize) {
            for _ in 0..entries_max {
                let Some((bucket, loc)) = self.wheel.next_swept() else { return };
                self.settle(bucket, loc);
            }
        }

        fn check(&self) {
            let mut buckets = vec![Vec::new(); self.records.len()];
            self.wheel.all().iter().for_each(|&(bucket, loc)| buckets[loc.0 as usize].push(bucket));
            for (record, buckets) in self.records.iter().zip(buckets) {
                if let Some((deadline, watch)) = *record {
                    self.wheel.check(deadline, watch, buckets);
                }
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set(usize, u64),
        Insert(usize, u64),
        Clear(usize),
        Forward(u64),
        Back(u64),
        Advance(usize),
        Sweep(usize),
    }

    /// Some milliseconds of any magnitude up to `1 << bits`; often a few ticks, or next to where a bucket
    /// of some level ends.
    fn span(bits: u32) -> impl Strategy<Value = u64> {
        prop_oneof![
            (0..bits, any::<u64>()).prop_map(|(bits, n)| n % (1 << bits)),
            0..4 * TICK_MS,
            (0..LEVELS, 0u64..300, 0u64..4)
                .prop_map(|(level, n, ms)| ((n * TICK_MS) << (level * POSITION_BITS)) + ms * 7),
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        let n = 0usize..5;
        prop_oneof![
            6 => (n.clone(), span(43)).prop_map(|(n, span)| Step::Set(n, span)),
            2 => (n.clone(), span(43)).prop_map(|(n, span)| Step::Insert(n, span)),
            1 => n.prop_map(Step::Clear),
            4 => span(38).prop_map(Step::Forward),
            1 => span(43).prop_map(Step::Back),
            4 => prop_oneof![0usize..6, Just(usize::MAX)].prop_map(Step::Advance),
            2 => (0usize..6).prop_map(Step::Sweep),
        ]
    }

    proptest! {
        #![proptest_config(crate::engine::tests::cases(1500, 5000))]
        /// Whatever happens to deadlines and clock, no record is without an entry that will settle it in time.
        #[test]
        fn every_record_stays_watched(
            start in prop_oneof![0u64..1 << 42, (0u64..1 << 20).prop_map(|n| (n << 24) * TICK_MS)],
            steps in proptest::collection::vec(step(), 1..80),
        ) {
            let mut toy = Toy::new(5, start);
            for step in steps {
                match step {
                    Step::Set(n, span) => toy.set(n, toy.now + span),
                    Step::Insert(n, span) => toy.insert(n, toy.now + span),
                    Step::Clear(n) => toy.records[n] = None,
                    Step::Forward(span) => toy.now += span,
                    Step::Back(span) => toy.now = toy.now.saturating_sub(span),
                    Step::Advance(entries_max) => {
                        // A clock that was set back is waited for.
                        let moves = toy.now / TICK_MS > toy.wheel.current;
                        let (steps, _) = toy.advance(entries_max);
                        let overdue = |&(deadline, _): &(u64, Watch)| deadline + TICK_MS < toy.now;
                        prop_assert!(!moves || steps == entries_max || !toy.records.iter().flatten().any(overdue));
                    }
                    Step::Sweep(entries_max) => {
                        toy.wheel.start_sweep();
                        toy.sweep(entries_max);
                    }
                }
                toy.check();
            }
            toy.now = toy.now.max(toy.wheel.current * TICK_MS) + (1 << 44);
            toy.advance(usize::MAX);
            prop_assert!(toy.records.iter().all(Option::is_none));
            prop_assert_eq!(toy.wheel.entries(), 0);
        }

        /// The twin is a sorted list: what is past fires, within a tick, and nothing early.
        /// Where no deadline changes every record has one entry, and it is always believed.
        #[test]
        fn the_wheel_fires_what_a_sorted_list_would(
            start in 0u64..1 << 42,
            spans in proptest::collection::vec((0u32..44, any::<u64>()), 1..200),
            jumps in proptest::collection::vec((0u32..42, any::<u64>()), 1..60),
            sweeps in any::<u64>(),
        ) {
            let mut toy = Toy::new(spans.len(), start);
            let deadlines: Vec<u64> = spans.iter().map(|&(bits, n)| start + n % (1 << bits)).collect();
            deadlines.iter().enumerate().for_each(|(n, &deadline)| toy.insert(n, deadline));
            for (step, &(bits, n)) in jumps.iter().enumerate() {
                toy.now += n % (1 << bits);
                if sweeps >> (step % 64) & 1 == 1 {
                    toy.wheel.start_sweep();
                    toy.sweep(step);
                }
                let before = toy.wheel.entries();
                let (steps, dropped) = toy.advance(usize::MAX);
                prop_assert_eq!(dropped, 0);
                // Once down the levels, and once more for each turn of the top level.
                let turns = n % (1 << bits) / (TICK_MS << (TOP_SHIFT + POSITION_BITS)) * 2;
                prop_assert!(steps as u64 <= (5 + turns) * before, "{steps} steps");
                for (record, &deadline) in toy.records.iter().zip(&deadlines) {
                    prop_assert!(record.is_some() || deadline < toy.now, "fired early");
                    prop_assert!(record.is_none() || deadline + TICK_MS >= toy.now, "{deadline} still waits");
                }
                prop_assert_eq!(toy.wheel.entries(), toy.records.iter().flatten().count() as u64);
                let earliest = toy.records.iter().flatten().map(|&(deadline, _)| deadline).min();
                prop_assert_eq!(toy.wheel.next_deadline().is_some(), earliest.is_some());
                if let (Some(next), Some(earliest)) = (toy.wheel.next_deadline(), earliest) {
                    prop_assert!(next <= earliest.max(toy.now) + TICK_MS);
                }
            }
        }
    }

    /// After a clock that was set back twice: entries for past ticks all stand in the next
    /// one. While they come out of it, the home of a past tick is already the one after.
    #[test]
    fn an_entry_for_a_past_tick_that_is_just_coming_out_is_not_at_home_in_the_next() {
        let mut toy = Toy::new(2, 10_000);
        (0..2).for_each(|n| toy.insert(n, 9_500));
        toy.now = 10_010;
        toy.advance(1);
        assert!(toy.records[0].is_some() && toy.records[1].is_none());
        toy.now = 9_000;
        toy.set(0, 10_015);
        toy.check();
        toy.advance(usize::MAX);
        toy.check();
        toy.now = 10_020;
        toy.advance(usize::MAX);
        assert_eq!((toy.records[0], toy.wheel.entries()), (None, 0));
    }

    /// What a deadline that is moved to later costs: nothing until its first entry comes out.
    #[test]
    fn moving_a_deadline_to_later_files_nothing() {
        let mut toy = Toy::new(1, 0);
        toy.set(0, 1000);
        for step in 1..5000 {
            toy.set(0, 1000 + step * step);
            toy.check();
        }
        assert_eq!((toy.wheel.entries(), toy.records[0].expect("set").1.late), (1, true));
        toy.now = 20_000;
        toy.advance(usize::MAX);
        toy.check();
        assert_eq!((toy.wheel.entries(), toy.records[0].expect("not due").1.late), (1, false));
        toy.set(0, 20_001);
        assert_eq!(toy.wheel.entries(), 2, "to earlier needs an entry");
        toy.check();
    }

    #[test]
    fn a_sweep_visits_each_entry_once_and_blocks_are_given_back() {
        let mut wheel = Wheel::new();
        for n in 0..100_000 {
            wheel.file(Loc(n), 1_000_000 + u64::from(n), 0);
        }
        assert!(wheel.bytes() > 400_000);
        wheel.start_sweep();
        let mut seen = 0;
        while let Some((_, loc)) = wheel.next_swept() {
            seen += 1;
            if loc.0 % 10 == 0 {
                wheel.file(loc, 1_000_000 + u64::from(loc.0), 0);
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
        for n in 0..40_000_000 / 8 {
            wheel.file(Loc(n), 1 << 40, 0);
        }
        drop(wheel);
    }
}
