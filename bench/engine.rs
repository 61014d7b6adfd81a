//! What one core's work costs, room by room, without sockets: reading a request,
//! finding and storing a record, writing a reply.
//!
//! Goal: numbers to compare before and after a change, on one machine. Method:
//! keys of 16 bytes and values of 64 in an order of fixed chance, hashed and
//! placed beforehand, so that each line is one part of the way alone; the best of
//! some rounds, because all noise makes a round slower.
//!
//! ```text
//! cargo bench --bench engine               both sizes
//! cargo bench --bench engine -- --quick    tiny: whether it runs at all
//! ```

use ringfence::base::rng::Rng;
use ringfence::base::{KeyHasher, Slot, UnixMillis};
use ringfence::command::{Condition, Expiry, Op, OpError, Payload, ReplySink, SetReply, Span, Value};
use ringfence::engine::{At, Policy, Shard, ShardConfig};
use ringfence::protocol::resp::{Encoder, Frame, Limits, Parser, Progress, Version};
use std::hint::black_box;
use std::time::Instant;

const SEED: u64 = 20_240_607;
const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const VALUE: [u8; 64] = [b'v'; 64];
const LIMITS: Limits = Limits { args_max: 1024, bulk_bytes_max: 1 << 20 };
/// As many as a batch of the node has at most.
const BATCH: usize = 64;
/// Requests that stay in the first caches.
const WARM: usize = 256;
const HOUR_MS: i64 = 3_600_000;
/// About what a record takes with its place in the index.
const RECORD_BYTES: u64 = 102;

/// How much is measured.
struct Size {
    keys: usize,
    rounds: usize,
}

/// A key and where it lives.
#[derive(Clone, Copy)]
struct Key {
    bytes: [u8; 16],
    at: At,
}

fn main() {
    // Run by `cargo test`, there is no `--bench`: then only whether it works is asked.
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let quick = asked.iter().any(|a| a == "--quick" || a == "--test") || !asked.iter().any(|a| a == "--bench");
    let sizes = if quick {
        vec![Size { keys: 2_000, rounds: 1 }]
    } else {
        vec![Size { keys: 100_000, rounds: 15 }, Size { keys: 1_000_000, rounds: 5 }]
    };
    let columns: Vec<_> = sizes.iter().map(measure).collect();
    println!("ns an operation; keys of 16 bytes, values of {}", VALUE.len());
    print!("{:<32}", "");
    sizes.iter().for_each(|size| print!("{:>14}", format!("{} keys", size.keys)));
    println!();
    for (row, (name, _)) in columns[0].iter().enumerate() {
        print!("{name:<32}");
        columns.iter().for_each(|column| print!("{:>14.1}", column[row].1));
        println!();
    }
}

fn measure(size: &Size) -> Vec<(&'static str, f64)> {
    let hasher = KeyHasher::new(SEED);
    let keys = shuffled(keys(&hasher, 0, size.keys));
    let absent = shuffled(self::keys(&hasher, size.keys, size.keys));
    let mut rows = vec![("parse GET", parse(size, &keys, false)), ("parse SET", parse(size, &keys, true))];
    let mut shard = shard(&hasher, Shard::BUDGET_BYTES_MIN + 2 * RECORD_BYTES * size.keys as u64);
    keys.iter().for_each(|key| set(&mut shard, key));
    assert_eq!(shard.key_count(), size.keys as u64, "the budget holds every key");
    let found = |shard: &mut Shard, key: &Key| assert_eq!(get(shard, key), VALUE.len());
    rows.push(("GET, hit", best(size, &keys, |key| found(&mut shard, key))));
    rows.push(("GET, hit, prefetched in batches", batched(size, &keys, &mut shard)));
    rows.push(("GET, miss", best(size, &absent, |key| assert_eq!(get(&mut shard, key), 0))));
    rows.push(("SET, in place", best(size, &keys, |key| set(&mut shard, key))));
    assert_eq!(shard.key_count(), size.keys as u64, "nothing was added");
    rows.push(("SET, new, evicting", evicting(size, &hasher)));
    rows.extend(with_deadlines(size, &hasher, &keys));
    rows.push(("encode a value", encode(size)));
    rows
}

fn keys(hasher: &KeyHasher, first: usize, count: usize) -> Vec<Key> {
    let key = |n: usize| {
        let bytes: [u8; 16] = format!("key:{n:012}").into_bytes().try_into().expect("four and twelve bytes");
        Key { bytes, at: At { slot: Slot::of(&bytes), hash: hasher.hash(&bytes) } }
    };
    (first..first + count).map(key).collect()
}

/// Fisher and Yates, with the seed.
fn shuffled(mut keys: Vec<Key>) -> Vec<Key> {
    let mut rng = Rng::new(SEED);
    for i in (1..keys.len()).rev() {
        keys.swap(i, rng.below(i as u64 + 1) as usize);
    }
    keys
}

fn shard(hasher: &KeyHasher, budget_bytes: u64) -> Shard {
    let config = ShardConfig {
        budget_bytes,
        reach_bytes: 0,
        policy: Policy::Clock,
        huge_pages: true,
        value_bytes_max: 1 << 20,
        seed: 1,
        hasher: hasher.clone(),
    };
    Shard::new(config).expect("a workable budget")
}

/// The fastest round, in nanoseconds for each of `count` operations.
fn fastest(rounds: usize, count: usize, mut round: impl FnMut()) -> f64 {
    let times = (0..rounds).map(|_| {
        let begin = Instant::now();
        round();
        begin.elapsed().as_nanos() as f64 / count as f64
    });
    times.fold(f64::INFINITY, f64::min)
}

/// `f` for every key, one after the other.
fn best(size: &Size, keys: &[Key], mut f: impl FnMut(&Key)) -> f64 {
    fastest(size.rounds, keys.len(), || keys.iter().for_each(&mut f))
}

fn requests(keys: &[Key], set: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for key in keys {
        out.extend_from_slice(if set { b"*3\r\n$3\r\nSET\r\n$16\r\n" } else { b"*2\r\n$3\r\nGET\r\n$16\r\n" });
        out.extend_from_slice(&key.bytes);
        if set {
            out.extend_from_slice(b"\r\n$64\r\n");
            out.extend_from_slice(&VALUE);
        }
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Over and over the same few requests: a receive buffer is warm when it is read.
fn parse(size: &Size, keys: &[Key], set: bool) -> f64 {
    let keys = &keys[..WARM];
    let stream = requests(keys, set);
    let (mut parser, mut spans) = (Parser::default(), Vec::<Span>::new());
    fastest(size.rounds * 100, keys.len(), || {
        let (mut rest, mut count) = (&stream[..], 0);
        while !rest.is_empty() {
            spans.clear();
            match parser.advance(rest, &LIMITS, &mut spans) {
                Progress::Done(Frame::Array, length) => rest = &rest[length..],
                other => panic!("a whole request is {other:?}"),
            }
            black_box(&spans);
            count += 1;
        }
        assert_eq!(count, keys.len());
    })
}

/// As the node does it: what a batch will read is asked for, then it is executed.
fn batched(size: &Size, keys: &[Key], shard: &mut Shard) -> f64 {
    fastest(size.rounds, keys.len(), || {
        for batch in keys.chunks(BATCH) {
            shard.prefetch(batch.iter().map(|key| key.at));
            batch.iter().for_each(|key| assert_eq!(get(shard, key), VALUE.len()));
        }
    })
}

/// New keys only, in a shard that holds less than half of them: each round's keys push out the last one's.
fn evicting(size: &Size, hasher: &KeyHasher) -> f64 {
    let count = size.keys.max(100_000);
    let mut shard = shard(hasher, (RECORD_BYTES * count as u64 / 3).max(Shard::BUDGET_BYTES_MIN));
    let halves = [0, count].map(|first| shuffled(keys(hasher, first, count)));
    halves.iter().flatten().for_each(|key| set(&mut shard, key));
    let mut turn = 0;
    let time = fastest(size.rounds, count, || {
        halves[turn % 2].iter().for_each(|key| set(&mut shard, key));
        turn += 1;
    });
    assert!(shard.stats().evicted > (turn * count) as u64, "each new key takes another's place");
    time
}

/// Every key with a deadline; each `SET` names the same one, then a later one each
/// round, then one that is up to a tenth later or earlier.
fn with_deadlines(size: &Size, hasher: &KeyHasher, keys: &[Key]) -> [(&'static str, f64); 5] {
    let mut shard = shard(hasher, Shard::BUDGET_BYTES_MIN + 3 * RECORD_BYTES * size.keys as u64);
    let beside = |shard: &Shard| {
        let memory = shard.memory();
        memory.live_bytes + memory.index_bytes + memory.wheel_bytes
    };
    let before = beside(&shard);
    keys.iter().for_each(|key| set_until(&mut shard, key, Expiry::In(HOUR_MS)));
    assert_eq!(shard.keys_with_expiry(), size.keys as u64, "the budget holds every key");
    let bytes = (beside(&shard) - before) as f64 / size.keys as f64 - (keys[0].bytes.len() + VALUE.len()) as f64;
    let get = best(size, keys, |key| assert_eq!(get(&mut shard, key), VALUE.len()));
    let same = best(size, keys, |key| set_until(&mut shard, key, Expiry::In(HOUR_MS)));
    let mut turn = 0;
    let later = fastest(size.rounds, keys.len(), || {
        turn += 1;
        keys.iter().for_each(|key| set_until(&mut shard, key, Expiry::In(HOUR_MS + turn * HOUR_MS / 60)));
    });
    let mut rng = Rng::new(SEED);
    let mut jittered = || HOUR_MS * 9 / 10 + rng.below(HOUR_MS as u64 / 5) as i64;
    let other = best(size, keys, |key| set_until(&mut shard, key, Expiry::In(jittered())));
    [
        ("GET, hit, with a deadline", get),
        ("SET, in place, same deadline", same),
        ("SET, in place, later deadline", later),
        ("SET, in place, deadline +- 10 %", other),
        ("bytes beside key and value", bytes),
    ]
}

fn encode(size: &Size) -> f64 {
    let mut out = Vec::with_capacity(BATCH * 2 * VALUE.len());
    let value = Value { payload: Payload::Whole(&VALUE), ..Value::EMPTY };
    fastest(size.rounds, size.keys, || {
        for n in 0..size.keys {
            if n % BATCH == 0 {
                out.clear();
            }
            Encoder::new(&mut out, Version::Resp2, "get").value(black_box(&value));
        }
        black_box(&out);
    })
}

/// Answers the length of the value, 0 for none.
#[inline]
fn get(shard: &mut Shard, key: &Key) -> usize {
    let mut read = Read(0);
    shard.execute(key.at, &key.bytes, &Op::Get, NOW, &mut read);
    read.0
}

#[inline]
fn set(shard: &mut Shard, key: &Key) {
    set_until(shard, key, Expiry::Never);
}

#[inline]
fn set_until(shard: &mut Shard, key: &Key, expiry: Expiry) {
    let (condition, reply) = (Condition::Always, SetReply::Status);
    let op = Op::Set { value: &VALUE, expiry, condition, reply };
    shard.execute(key.at, &key.bytes, &op, NOW, &mut Read(0));
}

/// Looks at a value as an encoder must, and keeps its length.
struct Read(usize);

impl ReplySink for Read {
    #[inline]
    fn value(&mut self, value: &Value<'_>) {
        if let Payload::Whole(bytes) = value.payload {
            black_box(bytes.first().zip(bytes.last()));
        }
        self.0 = value.payload.len();
    }
    fn status(&mut self, _: &str) {}
    fn integer(&mut self, _: i64) {}
    fn bulk(&mut self, _: &[u8]) {}
    fn null(&mut self) {}
    fn array(&mut self, _: usize) {}
    fn map(&mut self, _: usize) {}
    fn error(&mut self, message: impl AsRef<[u8]>) {
        panic!("refused: {}", String::from_utf8_lossy(message.as_ref()));
    }
    fn refused(&mut self, error: OpError) {
        self.error(error.message());
    }
}
