//! What a request allocates.
//!
//! Goal: in steady state, nothing: neither a read nor a write asks the allocator for anything.
//! Method: a shard is brought to where its tables have their size, and then every
//! allocation of the thread is counted over many operations. What may still allocate
//! is named where it is counted: it is a table or a block that grows, once for many operations.

use super::*;
use crate::base::rng::Rng;
use crate::command::ReplySink;

const NOW: u64 = 1_700_000_000_000;

/// Takes answers and keeps nothing, not even an allocation.
#[derive(Default)]
struct Counting {
    values: u64,
    nulls: u64,
    others: u64,
    refused: u64,
}

impl ReplySink for Counting {
    fn value(&mut self, _: &crate::command::Value<'_>) {
        self.values += 1;
    }
    fn status(&mut self, _: &str) {
        self.others += 1;
    }
    fn integer(&mut self, _: i64) {
        self.others += 1;
    }
    fn bulk(&mut self, _: &[u8]) {}
    fn null(&mut self) {
        self.nulls += 1;
    }
    fn array(&mut self, _: usize) {}
    fn map(&mut self, _: usize) {}
    fn error(&mut self, _: impl AsRef<[u8]>) {}
    fn refused(&mut self, _: OpError) {
        self.refused += 1;
    }
}

struct Bench {
    shard: Shard,
    hasher: KeyHasher,
    out: Counting,
    now: u64,
    /// How many slots the keys are of; all, unless it is said.
    slots: Option<u64>,
}

impl Bench {
    fn new(budget_bytes: u64, policy: Policy) -> Self {
        Self {
            shard: shard(budget_bytes, policy),
            hasher: KeyHasher::new(SEED),
            out: Counting::default(),
            now: NOW,
            slots: None,
        }
    }

    fn key(&self, n: u64) -> [u8; 26] {
        let mut key = *b"key:0000000000000000{0000}";
        let mut write = |places: std::ops::Range<usize>, n: u64| {
            for (at, place) in key[places].iter_mut().rev().enumerate() {
                *place = b"0123456789abcdef"[(n >> (4 * at) & 15) as usize];
            }
        };
        write(4..20, n);
        match self.slots {
            Some(slots) => write(21..25, n % slots),
            // Not a tag.
            None => key[20] = b':',
        }
        key
    }

    fn slot_of(&self, n: u64) -> Slot {
        Slot::of(&self.key(n))
    }

    fn run(&mut self, n: u64, op: Op<'_>) {
        let key = self.key(n);
        let at = At { slot: Slot::of(&key), hash: self.hasher.hash(&key) };
        self.shard.execute(at, &key, &op, UnixMillis(self.now), &mut self.out);
    }

    fn set(&mut self, n: u64, len: usize, expiry: Expiry) {
        self.run(n, set_op(&[7; 9000][..len], expiry));
    }
}

/// The allocations of `act`, in number.
fn allocations(act: impl FnOnce()) -> u64 {
    allocation_counter::measure(act).count_total
}

#[test]
fn reads_and_writes_in_place_allocate_nothing() {
    for policy in Policy::ALL {
        let mut b = Bench::new(8 << 20, policy);
        for n in 0..20_000 {
            b.set(n, 64 + n as usize % 40, if n % 2 == 0 { Expiry::Never } else { Expiry::In(100_000) });
        }
        let value = vec![1; 50_000];
        b.run(1 << 40, set_op(&value, Expiry::Never));
        let count = allocations(|| {
            for n in 0..20_000 {
                b.run(n, Op::Get);
                b.run(n + (1 << 50), Op::Get);
                b.run(n, Op::Exists);
                b.run(n, Op::Ttl(TtlUnit::Millis));
                b.set(n, 64 + n as usize % 40, if n % 2 == 0 { Expiry::Never } else { Expiry::Keep });
            }
            // In four extents of 16 KiB.
            b.run(1 << 40, Op::Get);
            b.run(1 << 40, set_op(&value, Expiry::Never));
        });
        assert_eq!(count, 0, "{policy:?}");
        assert_eq!((b.out.values, b.out.nulls, b.out.refused), (20_001, 20_000, 0));
    }
}

/// Values of another length each time, under keys that all fit: every write appends, segments are freed and filled
/// again, and no table changes its size. Where nothing may be evicted the writes are in no order, so that the hand has to copy.
#[test]
fn writes_that_append_allocate_nothing() {
    for policy in Policy::ALL {
        let mut b = Bench::new(8 << 20, policy);
        let mut rng = Rng::new(5);
        let mut load = |b: &mut Bench, rounds: std::ops::Range<usize>| {
            for round in rounds {
                for n in 0..25_000 {
                    let n = if policy.compacts() && round > 0 { rng.below(25_000) } else { n };
                    b.set(n, 40 + (round + n as usize) % 9 * 12, Expiry::Never);
                    b.run(n * 7 % 25_000, Op::Get);
                }
                b.shard.advance(UnixMillis(b.now), 1000);
            }
        };
        load(&mut b, 0..8);
        let walked = b.shard.hand_walked_bytes();
        let count = allocations(|| load(&mut b, 8..12));
        assert!(b.shard.hand_walked_bytes() > walked || !policy.compacts(), "{policy:?}: the hand was at work");
        assert_eq!((count, b.out.refused, b.shard.stats().evicted), (0, 0, 0), "{policy:?}");
    }
}

/// Writes of new keys into a full shard, under each policy that makes room for them. The only allocations are
/// those of slot tables that are full, or have become so empty that they shrink: fewer, the more keys a slot has.
#[test]
fn writes_that_evict_allocate_for_slot_tables_alone() {
    // Keys of some three a slot in all slots, and of some two hundred in 256 of them.
    for (slots, per_thousand) in [(None, 80), (Some(256), 1)] {
        for policy in [Policy::Clock, Policy::S3Fifo, Policy::Lfu, Policy::Random] {
            let mut b = Bench::new(8 << 20, policy);
            b.slots = slots;
            let mut rng = Rng::new(3);
            for n in 0..150_000 {
                b.set(n, 64 + n as usize % 40, Expiry::Never);
                b.run(n - rng.below(n.min(10_000) + 1), Op::Get);
            }
            let evicted = b.shard.stats().evicted;
            let mut allocated = 0;
            for n in 150_000..200_000 {
                let slot = b.slot_of(n);
                let (full, bytes) = (b.shard.index.is_full(slot), b.shard.index.bytes());
                let count = allocations(|| b.set(n, 64 + n as usize % 40, Expiry::Never));
                let shrunk = b.shard.index.bytes() < bytes || b.shard.slot_key_count(slot) == 1;
                assert!(count == 0 || full || shrunk, "{policy:?}: {count} allocations and no table changed");
                allocated += count;
                let read = n - rng.below(10_000);
                assert_eq!(allocations(|| b.run(read, Op::Get)), 0);
            }
            assert!(b.shard.stats().evicted - evicted > 40_000, "the shard was full");
            assert!(allocated <= 50 * per_thousand, "{policy:?}, {slots:?}: {allocated} in 50,000 writes");
            assert_eq!(b.out.refused, 0);
        }
    }
}

/// Deadlines. A later one in place files nothing. A record that moves files an entry in the wheel, whose blocks
/// hold 253 and come back when they are empty: one allocation for so many entries at most, and none once there are spare ones.
#[test]
fn deadlines_allocate_for_blocks_of_the_wheel_alone() {
    let mut b = Bench::new(8 << 20, Policy::Clock);
    (0..20_000).for_each(|n| b.set(n, 64, Expiry::In(100_000 + n as i64)));
    let later = allocations(|| {
        for n in 0..20_000 {
            b.set(n, 64, Expiry::In(200_000 + n as i64));
            b.run(n, Op::Expire { expiry: Expiry::In(300_000), condition: ExpireCondition::default() });
        }
    });
    assert_eq!((later, b.shard.wheel.entries()), (0, 20_000));

    // Every write moves its record and lives for some seconds, while the clock goes on.
    let load = |b: &mut Bench, rounds: std::ops::Range<usize>| {
        for round in rounds {
            for n in 0..10_000 {
                b.now += n % 2;
                b.set(n, 40 + (round + n as usize) % 9 * 12, Expiry::In(1 + n as i64 * 7 % 30_000));
            }
            while b.shard.advance(UnixMillis(b.now), 1000) {}
        }
    };
    load(&mut b, 0..10);
    let (writes, count) = (10 * 10_000, allocations(|| load(&mut b, 10..20)));
    assert!(count <= writes / 40, "{count} allocations in {writes} writes with deadlines");
}
