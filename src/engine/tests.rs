//! The engine against a model.
//!
//! Goal: a read answers the latest value or a miss, never anything else, under
//! any sequence of operations, clock jumps, background slices and flushes, in a
//! budget so small that eviction never rests. Method: a map of what each key
//! should hold beside the shard. Where the shard has fewer keys than the model,
//! it must be because it counted an eviction; in a shard that evicts nothing the two
//! are equal to the letter. After each sequence the log, the tables, the wheel and
//! the account are walked and compared.

use super::expiry::Bucket;
use super::item;
use super::*;
use crate::base::UnixMillis;
use crate::command::{Condition, ExpireCondition, Expiry, Op, OpError, ReplySink, SetReply, TtlUnit, Value};
use proptest::prelude::*;
use std::collections::BTreeMap;

mod deadlines;
mod model;
mod semantics;
mod space;
mod stale;
mod streams;

/// An answer, kept.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Value { bytes: Vec<u8>, version: u64, expires_at: Option<u64> },
    Status(String),
    Integer(i64),
    Null,
    Refused(OpError),
}

/// Keeps the one answer of an operation.
#[derive(Default)]
struct Kept(Option<Answer>);

impl Kept {
    fn put(&mut self, answer: Answer) {
        assert!(self.0.replace(answer).is_none(), "one operation, one answer");
    }
}

impl ReplySink for Kept {
    fn value(&mut self, value: &Value<'_>) {
        let mut bytes = Vec::new();
        value.payload.append_to(&mut bytes);
        self.put(Answer::Value { bytes, version: value.version, expires_at: value.expires_at });
    }
    fn status(&mut self, text: &str) {
        self.put(Answer::Status(text.into()));
    }
    fn integer(&mut self, n: i64) {
        self.put(Answer::Integer(n));
    }
    fn bulk(&mut self, _: &[u8]) {
        unreachable!("the engine answers stored values");
    }
    fn null(&mut self) {
        self.put(Answer::Null);
    }
    fn array(&mut self, _: usize) {
        unreachable!("one key, one answer");
    }
    fn map(&mut self, _: usize) {
        unreachable!("one key, one answer");
    }
    fn error(&mut self, message: impl AsRef<[u8]>) {
        unreachable!("an error without a kind: {}", String::from_utf8_lossy(message.as_ref()));
    }
    fn refused(&mut self, error: OpError) {
        self.put(Answer::Refused(error));
    }
}

const SEED: u64 = 42;

fn shard(budget_bytes: u64, policy: Policy) -> Shard {
    let hasher = KeyHasher::new(SEED);
    let reach_bytes = budget_bytes * 4;
    Shard::new(ShardConfig {
        budget_bytes,
        reach_bytes,
        policy,
        huge_pages: false,
        value_bytes_max: 64 << 20,
        seed: SEED,
        hasher,
    })
    .expect("the budget is workable")
}

fn at(key: &[u8]) -> At {
    At { slot: Slot::of(key), hash: KeyHasher::new(SEED).hash(key) }
}

fn run(shard: &mut Shard, key: &[u8], op: Op<'_>, now: u64) -> Answer {
    let mut kept = Kept::default();
    shard.prefetch_slot(at(key).slot);
    shard.prefetch_record(at(key));
    shard.execute(at(key), key, op, UnixMillis(now), &mut kept);
    kept.0.expect("every operation answers")
}

fn set_op(value: &[u8], expiry: Expiry) -> Op<'_> {
    Op::Set { value, expiry, condition: Condition::Always, reply: SetReply::Status }
}

fn set(shard: &mut Shard, key: &[u8], value: &[u8], expiry: Expiry, now: u64) -> Answer {
    run(shard, key, set_op(value, expiry), now)
}

fn get(shard: &mut Shard, key: &[u8], now: u64) -> Option<Vec<u8>> {
    match run(shard, key, Op::Get, now) {
        Answer::Value { bytes, .. } => Some(bytes),
        Answer::Null => None,
        other => panic!("GET answered {other:?}"),
    }
}

/// Advances until nothing waits.
fn settle(shard: &mut Shard, now: u64) {
    for _ in 0..1_000_000 {
        if !shard.advance(UnixMillis(now), 100) {
            return;
        }
    }
    panic!("background work never ends");
}

/// A value whose every byte is decided by `seed`, so that mixing two up shows.
fn value_of(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = crate::base::rng::Rng::new(seed);
    let mut bytes: Vec<u8> = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&rng.next_u64().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

impl Shard {
    /// Counts the pins of every segment afresh, and who needs those that no record has.
    fn check_streams(&self) {
        let (held, pins) = self.arena.held_and_pins();
        let mut counted = vec![0; pins.len()];
        self.pins.all().flatten().for_each(|&id| counted[id as usize] += 1);
        assert_eq!(counted, pins);
        let drafted: std::collections::BTreeSet<u32> = self.drafts.all().flatten().copied().collect();
        for &id in &held {
            assert!(counted[id as usize] > 0 || drafted.contains(&id), "nobody needs segment {id}");
        }
        assert!(drafted.iter().all(|id| held.contains(id)), "a draft's segment is somebody else's");
    }

    /// Walks everything and compares the counts.
    fn check(&self) {
        let (mut live, mut extents, mut with_expiry) = (0, 0, 0);
        let mut filed = BTreeMap::<u32, Vec<Bucket>>::new();
        self.wheel.all().iter().for_each(|&(bucket, loc)| filed.entry(loc.0).or_default().push(bucket));
        self.arena.walk(|loc, head| {
            live += 1;
            extents += head.extents(self.arena.segment_shift());
            let (slot, hash) = self.index.address(loc, self.arena.bytes());
            assert!(self.index.holds(slot, hash, loc), "a live record at {loc:?} is not in its table");
            let word = self.arena.expiry_word(loc, head);
            with_expiry += u64::from(word.deadline.is_some());
            if let Some(deadline) = word.watched() {
                self.wheel.check(deadline, word.watch, filed.get(&loc.0).into_iter().flatten().copied());
            }
            let version = item::read_version(self.arena.bytes(), loc, head, self.index.version(slot));
            assert!(version <= self.index.version(slot) && version > 0);
        });
        assert_eq!(live, self.key_count());
        assert_eq!(extents, self.arena.extent_count());
        self.check_streams();
        assert_eq!(with_expiry, self.keys_with_expiry());
        assert_eq!(self.index.bytes(), self.index.bytes_counted());
        let memory = self.memory();
        let in_use = (self.arena.in_use() as u64) << self.arena.segment_shift();
        let accounted = in_use + memory.index_bytes + memory.wheel_bytes + memory.reserved_bytes;
        assert!(accounted <= memory.budget_bytes, "{accounted} bytes accounted of {}", memory.budget_bytes);
        assert!(memory.live_bytes + memory.dead_bytes <= in_use);
    }
}
