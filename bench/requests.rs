//! What a whole request costs a core beside the kernel: from the bytes that a client sent to the bytes of the replies.
//!
//! Goal: the node's part of the way as one number, before and after a change; `engine.rs` has its pieces one by one.
//! Method: pipelines of GET and SET, each for another of some connections, through a node that has no sockets. A core
//! that serves clients spends more time in the kernel than here, and finds little in its first-level cache
//! afterwards; so there are rows in which other memory is read between two pipelines, in time that is not counted. The
//! best of some rounds, because all noise makes a round slower.
//!
//! ```text
//! cargo bench --bench requests               all sizes: needs 1 GiB
//! cargo bench --bench requests -- --quick    tiny: whether it runs at all
//! ```
//!
//! Instructions are steadier than time: of the second row, 128,000 requests and 10,000 that fill, by the path of the
//! program that `cargo bench --no-run` prints:
//!
//! ```text
//! valgrind --tool=callgrind --toggle-collect='requests::Core::serve' PROGRAM --row 2
//! ```

use ringfence::base::rng::Rng;
use ringfence::base::{KeyHasher, UnixMillis};
use ringfence::engine::{Policy, Shard, ShardConfig};
use ringfence::node::bounds::Bounds;
use ringfence::node::mailbox::ConnId;
use ringfence::node::session::{Protocol, Scope};
use ringfence::node::settings::Budget;
use ringfence::node::topology::Topology;
use ringfence::node::{Limits, Node, NodeConfig, ServerInfo};
use std::hint::black_box;
use std::time::{Duration, Instant};

const SEED: u64 = 20_260_411;
const START: UnixMillis = UnixMillis(1_700_000_000_000);
const VALUE_BYTES: usize = 64;
const CONNECTIONS: usize = 50;
/// Keys that are stored at a time.
const FILL: usize = 64;
/// About what a record takes with its place in the index.
const RECORD_BYTES: u64 = 102;
/// What is read between two pipelines: all of a first-level cache and a part of the second.
const OTHER_BYTES: usize = 256 << 10;
const LINE_BYTES: usize = 64;
const LIMITS: Limits = Limits {
    key_bytes_max: 1 << 10,
    value_bytes_max: 1 << 20,
    args_max: 1 << 10,
    request_bytes_max: 16 << 20,
    output_soft_bytes_max: 1 << 20,
    output_hard_bytes_max: 2 << 20,
    stream_bytes_min: usize::MAX,
};

/// The requests of a pipeline.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    depth: usize,
    set: bool,
    cold: bool,
}

const LOADS: [Load; 6] = [
    Load { name: "GET, one at a time, cold", depth: 1, set: false, cold: true },
    Load { name: "GET, pipelines of 16", depth: 16, set: false, cold: false },
    Load { name: "GET, pipelines of 16, cold", depth: 16, set: false, cold: true },
    Load { name: "GET, pipelines of 64, cold", depth: 64, set: false, cold: true },
    Load { name: "SET, pipelines of 16", depth: 16, set: true, cold: false },
    Load { name: "SET, pipelines of 16, cold", depth: 16, set: true, cold: true },
];

fn main() {
    // Run by `cargo test`, there is no `--bench`: then only whether it works is asked.
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let quick = asked.iter().any(|a| a == "--quick" || a == "--test") || !asked.iter().any(|a| a == "--bench");
    let row: Option<usize> = asked.iter().position(|a| a == "--row").and_then(|at| asked.get(at + 1)?.parse().ok());
    let (sizes, rounds) = match (row, quick) {
        (Some(_), _) => (vec![10_000], 20),
        (None, true) => (vec![2_000], 1),
        (None, false) => (vec![10_000, 1_000_000, 10_000_000], 300),
    };
    let loads = row.map_or(&LOADS[..], |row| LOADS.get(row.wrapping_sub(1)..row).expect("there is such a row"));
    println!("ns a request; keys of 16 bytes, values of {VALUE_BYTES}, {CONNECTIONS} connections");
    let columns: Vec<Vec<f64>> = sizes.iter().map(|&keys| measure(loads, keys, rounds)).collect();
    print!("{:<32}", "");
    sizes.iter().for_each(|keys| print!("{:>16}", format!("{keys} keys")));
    println!();
    for (row, load) in loads.iter().enumerate() {
        print!("{:<32}", load.name);
        columns.iter().for_each(|column| print!("{:>16.1}", column[row]));
        println!();
    }
}

fn measure(loads: &[Load], keys: usize, rounds: usize) -> Vec<f64> {
    let mut core = Core::new(keys);
    let mut fill = Vec::new();
    for first in (0..keys).step_by(FILL) {
        fill.clear();
        (first..keys.min(first + FILL)).for_each(|key| request(&mut fill, key, true));
        core.serve(0, &fill);
    }
    loads.iter().map(|load| core.time(load, keys, rounds)).collect()
}

fn request(out: &mut Vec<u8>, key: usize, set: bool) {
    let (count, name) = if set { (3, "SET") } else { (2, "GET") };
    out.extend_from_slice(format!("*{count}\r\n$3\r\n{name}\r\n$16\r\nkey:{key:012}\r\n").as_bytes());
    if set {
        out.extend_from_slice(format!("${VALUE_BYTES}\r\n{:x<VALUE_BYTES$}\r\n", "").as_bytes());
    }
}

/// A node with clients, and what else is in the caches.
struct Core {
    node: Node,
    clients: Vec<ConnId>,
    other: Vec<u8>,
    rng: Rng,
}

impl Core {
    fn new(keys: usize) -> Self {
        let hasher = KeyHasher::new(SEED);
        let budget_bytes = Shard::BUDGET_BYTES_MIN + 2 * RECORD_BYTES * keys as u64;
        let config = ShardConfig {
            budget_bytes,
            reach_bytes: 0,
            policy: Policy::Clock,
            huge_pages: true,
            value_bytes_max: LIMITS.value_bytes_max,
            seed: 1,
            hasher: hasher.clone(),
        };
        let shard = Shard::new(config).expect("a workable budget");
        let server = ServerInfo {
            run_id: "0".repeat(40),
            pid: 1,
            port: 0,
            started_at: START,
            cpu: 0,
            settings: Vec::new(),
            hello: "ringfence".into(),
            budgets: vec![Budget { bytes: budget_bytes, least: budget_bytes, most: budget_bytes }],
            policy: Policy::Clock,
            huge_page_bytes: Default::default(),
        };
        let topology = Topology::new(1, None, vec![(0, vec![(0, 16_383)])]).expect("one core owns all slots");
        let (bounds, limits) = (Bounds::default(), LIMITS);
        let config =
            NodeConfig { core: 0, topology, limits, bounds, copy_share_ppm: 0, passwords: None, server, hasher };
        let mut node = Node::new(config, shard);
        node.set_time(START.0 * 1000);
        let clients = (0..CONNECTIONS).map(|_| node.open(Scope::Core, Protocol::Resp, String::new())).collect();
        Self { node, clients, other: vec![1; OTHER_BYTES], rng: Rng::new(SEED) }
    }

    /// A turn in which one client's bytes came; answers how many bytes of replies there were.
    fn serve(&mut self, turn: usize, bytes: &[u8]) -> usize {
        self.node.receive(self.clients[turn % CONNECTIONS], bytes);
        let mut sent = 0;
        loop {
            while let Some(id) = self.node.next_listed() {
                while let Some(replies) = self.node.take_output(id) {
                    sent += replies.len();
                    self.node.sent(id, black_box(replies));
                }
            }
            if !self.node.has_waiting() {
                return sent;
            }
            self.node.go_on();
        }
    }

    /// Nanoseconds for each request of a load.
    fn time(&mut self, load: &Load, keys: usize, rounds: usize) -> f64 {
        const PIPELINES: usize = 400;
        let reply_bytes =
            if load.set { "+OK\r\n".len() } else { format!("${VALUE_BYTES}\r\n").len() + VALUE_BYTES + 2 };
        let mut best = Duration::MAX;
        for _ in 0..rounds {
            let pipelines: Vec<Vec<u8>> = (0..PIPELINES)
                .map(|_| {
                    let mut bytes = Vec::new();
                    (0..load.depth).for_each(|_| request(&mut bytes, self.rng.below(keys as u64) as usize, load.set));
                    bytes
                })
                .collect();
            let mut spent = Duration::ZERO;
            for (turn, pipeline) in pipelines.iter().enumerate() {
                if load.cold {
                    black_box(self.other.iter().step_by(LINE_BYTES).map(|&byte| u64::from(byte)).sum::<u64>());
                }
                // The kernel has just written what was received.
                black_box(pipeline.iter().map(|&byte| u64::from(byte)).sum::<u64>());
                let begin = Instant::now();
                let sent = self.serve(turn, pipeline);
                spent += begin.elapsed();
                assert_eq!(sent, load.depth * reply_bytes, "every request has its answer");
            }
            best = best.min(spent);
        }
        best.as_nanos() as f64 / (PIPELINES * load.depth) as f64
    }
}
