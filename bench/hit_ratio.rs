//! What the policies miss: a trace replayed into one shard, without a network.
//!
//! ```text
//! cargo bench --bench hit_ratio -- TRACE[,TRACE…] [BUDGET,BUDGET…] [POLICY,POLICY…]
//! ```
//!
//! Each request is a GET, and a SET on a miss, of a value as long as the trace says (224 bytes where it does not
//! say). Budgets are sizes, or parts of the trace's footprint such as `5%`: all its keys and values and 24 bytes for each.
//! Without a trace it makes one: Zipf-distributed keys with sizes of many magnitudes.

use std::path::Path;

use ringfence::base::rng::Rng;
use ringfence::base::units::{format_size, parse_size};
use ringfence::base::{KeyHasher, Slot, UnixMillis};
use ringfence::command::{Condition, Expiry, Op, OpError, ReplySink, SetReply, Value};
use ringfence::engine::{At, Policy, Shard, ShardConfig};

mod sizes {
    /// The longest value that a trace may ask for.
    pub const SIZE_MAX: u64 = 512 << 20;
}
#[allow(dead_code, reason = "the harness has more uses for it")]
#[path = "load/workload/trace.rs"]
mod trace;

use trace::{Request, Trace};

/// Bytes of a value where the trace has no sizes: the median over Twitter's clusters.
const UNSIZED_BYTES: u32 = 224;
/// Bytes of a key.
const KEY_BYTES: u64 = 16;
/// Bytes beside key and value that the footprint counts.
const OVERHEAD_BYTES: u64 = 24;
const SEED: u64 = 1;
const PARTS: &str = "1%,2%,5%,10%,20%,30%";
const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let argument = |n: usize, default: &str| arguments.get(n).map_or(default, String::as_str).to_owned();
    let policies: Vec<Policy> = match argument(2, "").as_str() {
        "" => vec![Policy::Clock, Policy::S3Fifo, Policy::Lfu, Policy::Random],
        names => names.split(',').map(|name| name.parse().expect("a policy")).collect(),
    };
    for name in argument(0, "").split(',') {
        let trace = if name.is_empty() { zipf() } else { Trace::read(Path::new(name), None).expect("a trace") };
        let footprint = footprint(&trace);
        println!(
            "{}: {} requests, {} keys, footprint {}",
            if name.is_empty() { "zipf" } else { name.rsplit('/').next().unwrap_or(name) },
            trace.requests.len(),
            trace.keys,
            format_size(footprint)
        );
        println!("{:>18} {}", "budget", policies.iter().map(|p| format!("{:>16}", p.name())).collect::<String>());
        for part in argument(1, PARTS).split(',') {
            let budget = match part.strip_suffix('%') {
                Some(percent) => footprint * percent.parse::<u64>().expect("a percentage") / 100,
                None => parse_size(part).expect("a size"),
            };
            if budget < Shard::BUDGET_BYTES_MIN {
                println!("{part:>6} {:>11} below the smallest budget", format_size(budget));
                continue;
            }
            let misses = policies.iter().map(|&policy| replay(&trace, budget, policy));
            let columns: String = misses.map(|(objects, bytes)| format!("  {objects:.4} {bytes:.4}")).collect();
            println!("{part:>6} {:>11} {columns}", format_size(budget));
        }
    }
    println!("pairs: the part of requests that missed, and the part of the bytes asked for");
}

fn value_bytes(request: &Request) -> u32 {
    if request.bytes == 0 { UNSIZED_BYTES } else { request.bytes }
}

fn footprint(trace: &Trace) -> u64 {
    let mut longest = vec![0; trace.keys];
    for request in &trace.requests {
        let bytes = &mut longest[request.key as usize];
        *bytes = value_bytes(request).max(*bytes);
    }
    longest.iter().map(|&bytes| u64::from(bytes) + KEY_BYTES + OVERHEAD_BYTES).sum()
}

/// The parts of requests and of bytes that missed.
fn replay(trace: &Trace, budget_bytes: u64, policy: Policy) -> (f64, f64) {
    let hasher = KeyHasher::new(SEED);
    let value_bytes_max = 64 << 20;
    let config =
        ShardConfig { budget_bytes, reach_bytes: 0, policy, huge_pages: false, value_bytes_max, seed: SEED, hasher };
    let hasher = KeyHasher::new(SEED);
    let mut shard = Shard::new(config).expect("a workable budget");
    let value = vec![b'x'; 64 << 20];
    let (mut missed, mut missed_bytes, mut bytes) = (0u64, 0u64, 0u64);
    for request in &trace.requests {
        let key = format!("k{:015}", request.key);
        let at = At { slot: Slot::of(key.as_bytes()), hash: hasher.hash(key.as_bytes()) };
        let length = value_bytes(request);
        bytes += u64::from(length);
        let mut found = Found(false);
        shard.execute(at, key.as_bytes(), &Op::Get, NOW, &mut found);
        if found.0 {
            continue;
        }
        missed += 1;
        missed_bytes += u64::from(length);
        let value = &value[..(length as usize).min(value.len())];
        let (condition, reply) = (Condition::Always, SetReply::Status);
        shard.execute(at, key.as_bytes(), &Op::Set { value, expiry: Expiry::Never, condition, reply }, NOW, &mut found);
        // As a core does between its turns.
        shard.advance(NOW, 4);
    }
    (missed as f64 / trace.requests.len() as f64, missed_bytes as f64 / bytes as f64)
}

/// A trace of Zipf's law, with sizes from 16 bytes to 256 KiB that have nothing to do with the ranks.
fn zipf() -> Trace {
    const KEYS: usize = 100_000;
    const REQUESTS: usize = 1_000_000;
    let mut weights: Vec<f64> = (1..=KEYS).map(|rank| (rank as f64).powf(-0.9)).collect();
    for n in 1..KEYS {
        weights[n] += weights[n - 1];
    }
    let mut rng = Rng::new(SEED);
    let mut part = || (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let sizes: Vec<u32> = (0..KEYS).map(|_| (16.0 * 2f64.powf(14.0 * part() * part())) as u32).collect();
    let requests = (0..REQUESTS).map(|_| {
        let key = weights.partition_point(|&sum| sum < part() * weights[KEYS - 1]).min(KEYS - 1) as u32;
        Request { key, bytes: sizes[key as usize] }
    });
    Trace { requests: requests.collect(), keys: KEYS, sized: true }
}

/// Notes whether a value came.
struct Found(bool);

impl ReplySink for Found {
    fn value(&mut self, _: &Value<'_>) {
        self.0 = true;
    }
    fn status(&mut self, _: &str) {}
    fn integer(&mut self, _: i64) {}
    fn bulk(&mut self, _: &[u8]) {}
    fn null(&mut self) {}
    fn array(&mut self, _: usize) {}
    fn map(&mut self, _: usize) {}
    fn error(&mut self, _: impl AsRef<[u8]>) {}
    fn refused(&mut self, _: OpError) {}
}
