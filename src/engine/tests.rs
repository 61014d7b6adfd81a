//! The engine against a model.
//!
//! Goal: a read answers the latest value or a miss, never anything else, under
//! any sequence of operations, clock jumps, background slices and flushes, in a
//! budget so small that eviction never rests. Method: a map of what each key
//! should hold beside the shard. Where the shard has fewer keys than the model,
//! it must be because it counted an eviction; in a shard that evicts nothing the two
//! are equal to the letter. After each sequence the log, the tables, the wheel and
//! the account are walked and compared.

use super::proof::{Answer, Kept};
use super::*;
use crate::base::UnixMillis;
use crate::command::{Condition, ExpireCondition, Expiry, Op, OpError, SetReply, TtlUnit};
use proptest::prelude::*;
use std::collections::BTreeMap;

mod allocations;

mod bytes;
mod deadlines;
mod model;
mod places;
mod policies;
mod prefixes;
mod semantics;
mod space;
mod stale;
mod streams;
mod versioned;

/// So many cases of a property, or as few as `RINGFENCE_CASES` says: under a tool that makes everything slow.
pub(super) fn cases(count: u32, max_shrink_iters: u32) -> ProptestConfig {
    let fewer = std::env::var("RINGFENCE_CASES").ok().and_then(|fewer| fewer.parse().ok());
    ProptestConfig { cases: fewer.unwrap_or(count).min(count), max_shrink_iters, ..ProptestConfig::default() }
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
    // Some operations look their key up themselves, some are told its place.
    if at(key).hash.0.is_multiple_of(2) {
        shard.prefetch(std::iter::once(at(key)));
    }
    shard.execute(at(key), key, &op, UnixMillis(now), &mut kept);
    kept.take()
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
