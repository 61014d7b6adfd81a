//! A desk without sockets, and Ringfence's own node as its server, joined by plain calls.
//!
//! Goal: what a correct server answers is never called wrong, however its bytes are
//! cut; what an incorrect one answers is; and no request costs an allocation.
//! Method: [`Pair`] carries bytes both ways, and a test may change them on the way.

use clap::Parser;
use ringfence::base::{KeyHasher, UnixMillis};
use ringfence::engine::{Policy, Shard, ShardConfig};
use ringfence::node::mailbox::ConnId;
use ringfence::node::session::{Protocol, Scope};
use ringfence::node::settings::Budget;
use ringfence::node::topology::Topology;
use ringfence::node::{Limits, Node, NodeConfig, STREAM_BYTES_MIN, ServerInfo};

use super::*;
use crate::cli::Cli;
use crate::outcome::Counts;
use crate::plan::Plan;
use crate::schedule::Schedule;
use ringfence::base::rng::Rng;

/// Time that passes from one exchange to the next.
const TICK_NS: u64 = 50_000;
/// When the node's clock begins.
const UNIX_MS: u64 = 1_700_000_000_000;

/// A desk and its server.
struct Pair {
    desk: Desk,
    node: Node,
    connections: Vec<ConnId>,
    now: u64,
    /// The other list of lanes with something to say.
    dirty: Vec<u32>,
    /// What the desk has allocated.
    allocations: u64,
}

impl Pair {
    /// A desk with the options of a command line, connected.
    fn new(options: &str) -> Self {
        let words = ["ringfence-bench", "--target", "127.0.0.1:1"].into_iter().chain(options.split_whitespace());
        let plan = Plan::new(Cli::parse_from(words)).expect("the options are right");
        let target = plan.target.as_ref().expect("it was given");
        let setup = plan.setup(target, plan.protocol, None);
        let mut pair = Self {
            desk: Desk::new(Arc::new(setup.expect("the options are right")), 0),
            node: node(),
            connections: Vec::new(),
            now: 1_000_000,
            dirty: Vec::new(),
            allocations: 0,
        };
        for lane in std::mem::take(&mut pair.desk.reopen) {
            pair.connections.push(pair.node.open(Scope::Host, Protocol::Resp, "127.0.0.1".into()));
            pair.desk.prepare(lane, pair.now).expect("there is no TLS");
            pair.desk.connected(lane, pair.now);
        }
        pair.exchange(&mut |bytes| vec![bytes]);
        assert!(pair.desk.is_ready());
        pair
    }

    /// Begins a closed loop of so many requests.
    fn begin(&mut self, requests: u64) {
        self.desk.begin(Load {
            source: Source::Mix,
            pacing: Pacing::Closed(self.desk.setup.pipeline),
            begin: self.now,
            measure: self.now,
            counted: self.now,
            end: u64::MAX,
            left: requests,
            issuing: true,
            exhausted: false,
            finished: 0,
        });
    }

    /// Carries what the desk has to say to the node, and each of the node's answers back in the pieces
    /// that `cut` makes of it.
    fn exchange(&mut self, cut: &mut impl FnMut(Vec<u8>) -> Vec<Vec<u8>>) {
        self.now += TICK_NS;
        self.node.set_time(UNIX_MS * 1000 + self.now / 1000);
        // The two lists take turns, so that neither is made anew.
        let mut dirty = std::mem::replace(&mut self.desk.dirty, std::mem::take(&mut self.dirty));
        for lane in dirty.drain(..) {
            self.desk.lanes[lane as usize].dirty = false;
            let mut bytes = std::mem::take(&mut self.desk.lanes[lane as usize].out);
            let connection = self.connections[lane as usize];
            self.node.receive(connection, &bytes);
            bytes.clear();
            self.desk.lanes[lane as usize].out = bytes;
            while let Some(output) = self.node.take_output(connection) {
                for piece in cut(output.clone()) {
                    let now = self.now;
                    self.count(|desk| desk.received(lane, &piece, now).expect("they are replies"));
                }
                self.node.sent(connection, output);
            }
        }
        self.dirty = dirty;
    }

    /// Lets the desk do something, and counts what it allocates.
    fn count(&mut self, act: impl FnOnce(&mut Desk)) {
        self.allocations += allocation_counter::measure(|| act(&mut self.desk)).count_total;
    }

    /// Makes a load to its end, and answers what was counted.
    fn run(&mut self, requests: u64, mut cut: impl FnMut(Vec<u8>) -> Vec<Vec<u8>>) -> Counts {
        self.begin(requests);
        loop {
            let now = self.now;
            self.count(|desk| desk.issue(now));
            if self.desk.outstanding == 0 {
                break;
            }
            self.exchange(&mut cut);
        }
        std::mem::take(&mut self.desk.sample.counts)
    }
}

/// A node of one core that owns everything.
fn node() -> Node {
    let hasher = KeyHasher::new(7);
    let topology = Topology::new(3, None, vec![(7000, vec![(0, 16383)])]).expect("all slots are owned");
    let shard = Shard::new(ShardConfig {
        budget_bytes: Shard::BUDGET_BYTES_MIN.max(64 << 20),
        reach_bytes: 0,
        policy: Policy::Clock,
        huge_pages: false,
        seed: 1,
        value_bytes_max: 1 << 20,
        hasher: hasher.clone(),
    });
    let limits = Limits {
        key_bytes_max: 256,
        value_bytes_max: 1 << 20,
        args_max: 1024,
        request_bytes_max: 16 << 20,
        output_soft_bytes_max: 16 << 20,
        output_hard_bytes_max: 32 << 20,
        stream_bytes_min: STREAM_BYTES_MIN,
    };
    let server = ServerInfo {
        run_id: "0".repeat(40),
        pid: 1,
        port: 6379,
        started_at: UnixMillis(UNIX_MS),
        cpu: 0,
        settings: Vec::new(),
        budgets: vec![Budget { bytes: 0, least: 0, most: 0 }],
        policy: Policy::Clock,
        huge_page_bytes: Default::default(),
        hello: "ringfence 7.0.15".into(),
    };
    Node::new(
        NodeConfig {
            core: 0,
            topology,
            limits,
            bounds: Default::default(),
            copy_share_ppm: 0,
            passwords: None,
            server,
            hasher,
        },
        shard.expect("there is memory"),
    )
}

/// The options of a load in which everything happens: overwrites, removals, times to live that pass
/// while it lasts, values of every kind of size, reads of several keys.
const EVERYTHING: &str = "--closed --pipeline 7 --connections 5 --keys 300 --distribution zipf:1.1 --seed 5 \
     --mix get=10,set=4,delete=1,mget=2 --value-size 0:1,1-30:3,64-2000:5 --ttl none:1,1ms-40ms:3";

#[test]
fn a_correct_server_is_not_accused_however_its_replies_are_cut() {
    let mut rng = Rng::new(11);
    let mut pair = Pair::new(EVERYTHING);
    let counts = pair.run(60_000, |bytes| {
        let mut pieces = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(1 + rng.below(rest.len().min(300) as u64) as usize);
            pieces.push(piece.to_vec());
            rest = behind;
        }
        pieces
    });
    assert_eq!((counts.answered, counts.sent, counts.violations, counts.errors), (60_000, 60_000, 0, 0));
    assert!(counts.hits > 10_000 && counts.misses > 10_000, "{counts:?}");
    // The deadline that the ledger keeps is rounded up, and the node's clock is the desk's.
    assert!(counts.hits_expected.abs_diff(counts.hits) < counts.hits / 5, "{counts:?}");
}

#[test]
fn what_a_server_changes_is_noticed() {
    let mut rng = Rng::new(12);
    let mut pair = Pair::new("--closed --pipeline 4 --connections 3 --keys 50 --value-size 40 --mix get=1,set=1");
    let mut changed = 0;
    let counts = pair.run(20_000, |mut bytes| {
        // A byte in the middle of a value: behind `$40` and before the next reply.
        let value = bytes.windows(5).position(|w| w == b"$40\r\n").filter(|_| rng.below(50) == 0);
        if let Some(at) = value {
            bytes[at + 5 + rng.below(40) as usize] ^= 1 << rng.below(8);
            changed += 1;
        }
        vec![bytes]
    });
    assert!(changed > 10);
    assert_eq!(counts.violations, changed, "{:?}", pair.desk.examples);
    assert!(!pair.desk.examples.is_empty());
}

/// A request that is sent on to a lane which waits for its connection goes out once, behind the greeting.
#[test]
fn what_a_waiting_lane_was_asked_is_sent_once() {
    let mut pair = Pair::new("--protocol resp3 --closed --connections 1 --keys 10 --mix get=1");
    pair.begin(1);
    pair.desk.issue(pair.now);
    let flight = *pair.desk.lanes[0].flights.front().expect("it was asked");
    pair.desk.lanes[0].flights.clear();
    pair.desk.close(0);
    pair.desk.transfer(0, 0, flight);
    pair.desk.prepare(0, pair.now).expect("there is no TLS");
    let out = &pair.desk.lanes[0].out;
    assert!(out.starts_with(b"*2\r\n$5\r\nHELLO"), "{}", out.escape_ascii());
    assert_eq!(out.windows(3).filter(|w| w == b"GET").count(), 1, "{}", out.escape_ascii());
    assert_eq!(pair.desk.lanes[0].flights.len(), 2);
}

/// A lane that was given up may wait a while until it is closed, and the replies come after all.
#[test]
fn what_arrives_for_a_lane_that_waits_is_meant_for_none() {
    let mut pair = Pair::new("--closed --connections 2 --keys 10 --mix get=1");
    pair.begin(2);
    pair.desk.issue(pair.now);
    let key = |pair: &Pair, lane: u32| pair.desk.lanes[lane as usize].key(lane);
    let is_heard =
        |pair: &Pair, key: ringfence::io::ring::Key| key.is_generation(pair.desk.lanes[key.index as usize].generation);
    let (lost, renewed) = (key(&pair, 0), key(&pair, 1));
    assert!(is_heard(&pair, lost) && is_heard(&pair, renewed));
    pair.desk.lose(0, pair.now);
    pair.desk.renew(1);
    assert!(!is_heard(&pair, lost) && !is_heard(&pair, renewed));
    let mut pair = Pair::new("--closed --connections 1 --keys 10 --mix get=1");
    let retired = key(&pair, 0);
    pair.desk.retire(0);
    assert!(!is_heard(&pair, retired));
}

/// The server may have done it nevertheless, or a proxy may do it later.
#[test]
fn a_write_that_was_answered_with_an_error_may_come_to_pass_at_any_time() {
    let mut pair = Pair::new("--closed --connections 1 --keys 1 --mix set=1");
    let mut replies = 0;
    let counts = pair.run(5, |bytes| {
        replies += 1;
        vec![if replies == 1 { b"-ERR the node is gone\r\n".to_vec() } else { bytes }]
    });
    assert_eq!((counts.errors, counts.answered), (1, 5));
    assert!(pair.desk.setup.ledger.known(0).floor <= 1, "{:?}", pair.desk.setup.ledger.known(0));
}

/// The reply that it follows comes in the measured time, before what was sent ahead of it has been reported.
#[test]
fn a_write_that_follows_a_miss_is_counted_in_its_own_time() {
    let mut pair = Pair::new("--closed --connections 1 --keys 10 --mix get=1 --fill-on-miss");
    pair.begin(1);
    pair.desk.load.as_mut().expect("it has begun").measure = pair.now + 1;
    pair.desk.issue(pair.now);
    pair.exchange(&mut |bytes| vec![bytes]);
    assert_eq!((pair.desk.sample.counts.sent, pair.desk.ahead), (1, 1));
}

/// A load whose requests nobody answers, at a rate that no memory would hold for long.
#[test]
fn a_rate_beyond_all_bounds_ends_the_load() {
    let mut pair = Pair::new("--connections 1 --keys 10");
    let (begin, end) = (pair.now, pair.now + 10_000_000_000);
    let schedule = Schedule::new(1e8, true, 0, 0.0, &mut Rng::new(3));
    pair.desk.begin(Load {
        source: Source::Mix,
        pacing: Pacing::Open(Box::new(schedule), 1),
        begin,
        measure: begin,
        counted: begin,
        end,
        left: u64::MAX,
        issuing: true,
        exhausted: false,
        finished: 0,
    });
    while pair.desk.load.as_ref().is_some_and(|load| load.issuing) {
        pair.now += 1_000_000;
        let before = pair.desk.backlog.len();
        pair.desk.issue(pair.now);
        assert!(pair.desk.backlog.len() <= load::BACKLOG_MAX + 1 && pair.desk.backlog.len() - before < 10_000);
    }
    assert!(pair.desk.load.as_ref().is_some_and(|load| load.end < end), "it goes on");
}

#[test]
fn replies_in_the_wrong_order_are_noticed() {
    let mut pair = Pair::new("--closed --pipeline 2 --connections 1 --keys 1000 --value-size 40 --mix get=1,set=3");
    let mut swapped = 0;
    let counts = pair.run(20_000, |bytes| {
        const HIT: usize = 5 + 40 + 2;
        if bytes.len() == 2 * HIT && bytes[..HIT] != bytes[HIT..] {
            swapped += 1;
            return vec![bytes[HIT..].to_vec(), bytes[..HIT].to_vec()];
        }
        vec![bytes]
    });
    assert!(swapped > 10);
    assert_eq!(counts.violations, 2 * swapped, "{:?}", pair.desk.examples);
}

/// In steady state: buffers, histograms and the tables of writes under way have grown as far as they grow.
#[test]
fn a_request_costs_no_allocation() {
    for options in ["--closed --pipeline 16", "--closed --mix get=1,set=1,delete=1 --ttl 1s --distribution zipf:1"] {
        let mut pair = Pair::new(&format!("{options} --connections 50 --keys 10000 --seed 3"));
        pair.run(400_000, |bytes| vec![bytes]);
        let before = pair.allocations;
        let counts = pair.run(400_000, |bytes| vec![bytes]);
        let grown = pair.allocations - before;
        assert_eq!(counts.answered, 400_000);
        assert_eq!(grown, 0, "in 400,000 requests with {options}");
    }
}
