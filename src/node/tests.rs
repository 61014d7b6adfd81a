//! The node without sockets or clocks: hosts of one to three cores, joined by
//! plain calls.
//!
//! Goal: a client cannot tell how many cores serve it, how its bytes were cut, or
//! when parcels and confirmations arrive; and no client can make the node hold
//! more than the limits say. Method: [`Host`] plays the io room's part, in an
//! order that a test or a seed decides, and [`replies`] cuts what a client got
//! into replies to compare with those of one core that was given everything at once.

mod auth;
mod bounds;
mod copies;
mod http;
mod limits;
mod memcache;
mod moves;
mod pipelines;
mod requests;
mod settings;
mod slices;
mod spare;
mod streams;
mod sweeps;
mod tracking;
mod waits;

use super::*;
use crate::base::SLOT_COUNT;
use crate::base::rng::Rng;
use crate::engine::ShardConfig;
use std::collections::VecDeque;

/// Generous enough that no test meets a limit by accident.
const LIMITS: Limits = Limits {
    key_bytes_max: 64,
    value_bytes_max: 4096,
    args_max: 64,
    request_bytes_max: 16 << 20,
    output_soft_bytes_max: 16 << 20,
    output_hard_bytes_max: 32 << 20,
    stream_bytes_min: usize::MAX,
};

/// Slots in a row on one core: small, so that every core has several ranges.
const RANGE_SLOTS: u16 = 1024;

/// Cores, and the parcels between them: a queue for each ordered pair, as in the mesh.
struct Host {
    nodes: Vec<Node>,
    mail: Vec<Vec<VecDeque<Parcel>>>,
}

/// A connection, and the io room's side of it.
struct Client {
    core: usize,
    id: ConnId,
    /// Bytes taken and not yet confirmed.
    sending: Option<Vec<u8>>,
    /// All that was sent to the client.
    got: Vec<u8>,
    moves: u32,
}

impl Host {
    fn new(cores: usize, limits: Limits) -> Self {
        Self::with_policy(cores, limits, Policy::Clock)
    }

    fn with_memory(cores: usize, limits: Limits, budget_bytes: u64) -> Self {
        Self::with(cores, limits, budget_bytes, Policy::Clock)
    }

    fn with_policy(cores: usize, limits: Limits, policy: Policy) -> Self {
        Self::with(cores, limits, (4 << 20).max(64 * limits.value_bytes_max as u64), policy)
    }

    fn with(cores: usize, limits: Limits, budget_bytes: u64, policy: Policy) -> Self {
        Self::with_copies(cores, limits, budget_bytes, policy, 0)
    }

    fn with_copies(cores: usize, limits: Limits, budget_bytes: u64, policy: Policy, copy_share_ppm: u32) -> Self {
        let hasher = KeyHasher::new(7);
        let mut slots = vec![Vec::new(); cores];
        for (i, first) in (0..SLOT_COUNT as u16).step_by(usize::from(RANGE_SLOTS)).enumerate() {
            slots[i % cores].push((first, first + RANGE_SLOTS - 1));
        }
        let topology = Topology::new(3, None, slots.into_iter().map(|ranges| (7000, ranges)).collect()).unwrap();
        let node = |core| {
            let config = ShardConfig {
                budget_bytes,
                reach_bytes: 0,
                policy,
                huge_pages: false,
                seed: 1,
                value_bytes_max: limits.value_bytes_max,
                hasher: hasher.clone(),
            };
            let server = ServerInfo {
                run_id: "0".repeat(40),
                pid: 1,
                port: 6379,
                started_at: UnixMillis(1_700_000_000_000),
                cpu: core,
                settings: vec![("save".into(), String::new())],
                budgets: vec![Budget { bytes: (2520 << 10) / cores as u64, least: 1 << 20, most: 1 << 20 }; cores],
                policy: Policy::Clock,
                huge_page_bytes: Default::default(),
                hello: "ringfence 7.0.15".into(),
            };
            let topology = topology.clone();
            Node::new(
                NodeConfig {
                    core,
                    topology,
                    limits,
                    bounds: Bounds::default(),
                    copy_share_ppm,
                    passwords: None,
                    server,
                    hasher: hasher.clone(),
                },
                Shard::new(config).unwrap(),
            )
        };
        let mail = || (0..cores).map(|_| VecDeque::new()).collect();
        Self { nodes: (0..cores).map(node).collect(), mail: (0..cores).map(|_| mail()).collect() }
    }

    fn connect(&mut self, core: usize, scope: Scope) -> Client {
        self.connect_as(Protocol::Resp, core, scope)
    }

    fn connect_as(&mut self, protocol: Protocol, core: usize, scope: Scope) -> Client {
        let id = self.nodes[core].open(scope, protocol, "127.0.0.1".into());
        Client { core, id, sending: None, got: Vec::new(), moves: 0 }
    }

    fn connect_http(&mut self, core: usize) -> Client {
        self.connect_as(Protocol::Http, core, Scope::Host)
    }

    fn feed(&mut self, client: &Client, bytes: &[u8]) {
        self.nodes[client.core].receive(client.id, bytes);
    }

    /// Puts what `from` has for the other cores into their queues.
    fn post(&mut self, from: usize) {
        for to in 0..self.nodes.len() {
            if let Some(parcel) = self.nodes[from].take_parcel(to) {
                assert_ne!(from, to, "a core sends itself nothing");
                self.mail[from][to].push_back(parcel);
            }
        }
    }

    /// Delivers the oldest parcel from one core to another and lets that finish what it can: whether there was one.
    fn arrive(&mut self, from: usize, to: usize) -> bool {
        let any = self.drop_off(from, to);
        while self.nodes[to].go_on() {}
        any
    }

    /// Delivers the oldest parcel, of which a slice is executed.
    fn drop_off(&mut self, from: usize, to: usize) -> bool {
        let parcel = self.mail[from][to].pop_front();
        parcel.map(|parcel| self.nodes[to].deliver(from, parcel)).is_some()
    }

    /// Posts and delivers until nothing is under way.
    fn carry(&mut self) {
        loop {
            let mut any = false;
            for from in 0..self.nodes.len() {
                self.nodes[from].tend_waiters();
                self.nodes[from].tell_readers();
                while self.nodes[from].go_on() {
                    any = true;
                }
                self.nodes[from].tell_readers();
                self.post(from);
                for to in 0..self.nodes.len() {
                    any |= self.arrive(from, to);
                }
                any |= self.nodes[from].has_parcels() || self.nodes[from].has_waiting();
            }
            if !any {
                return;
            }
        }
    }

    /// Takes what there is to send, if nothing is being sent: whether there was something.
    fn take(&mut self, client: &mut Client) -> bool {
        if client.sending.is_some() {
            return false;
        }
        client.sending = self.nodes[client.core].take_output(client.id);
        client.sending.is_some()
    }

    /// Confirms what was taken: whether there was something.
    fn confirm(&mut self, client: &mut Client) -> bool {
        let Some(bytes) = client.sending.take() else { return false };
        client.got.extend_from_slice(&bytes);
        self.nodes[client.core].sent(client.id, bytes);
        true
    }

    /// Moves the connection if it waits for that and nothing is under way: whether it did.
    fn hand_over(&mut self, client: &mut Client) -> bool {
        let node = &mut self.nodes[client.core];
        let Some((State::Open, _, Some(core))) = node.wishes(client.id) else { return false };
        if client.sending.is_some() || !node.is_quiet(client.id) {
            return false;
        }
        let session = node.close(client.id).expect("it was there");
        (client.id, client.core) = (self.nodes[core].adopt(session), core);
        client.moves += 1;
        true
    }

    /// Goes on until the client has all that it can get.
    fn settle(&mut self, client: &mut Client) {
        loop {
            self.carry();
            if !(self.take(client) | self.confirm(client) | self.hand_over(client)) {
                return;
            }
        }
    }

    /// Everything at once, then all replies.
    fn ask(&mut self, client: &mut Client, bytes: impl AsRef<[u8]>) -> String {
        self.feed(client, bytes.as_ref());
        self.settle(client);
        String::from_utf8_lossy(&std::mem::take(&mut client.got)).into_owned()
    }

    fn wishes(&mut self, client: &Client) -> (State, bool, Option<usize>) {
        self.nodes[client.core].wishes(client.id).expect("the session is there")
    }
}

/// A request as clients send it.
fn request(args: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        out.extend_from_slice(format!("${}\r\n", arg.as_ref().len()).as_bytes());
        out.extend_from_slice(arg.as_ref());
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// The words of `line` as a request.
fn words(line: &str) -> Vec<u8> {
    request(&line.split(' ').collect::<Vec<_>>())
}

/// Cuts a stream into whole replies.
fn replies(mut stream: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while !stream.is_empty() {
        let (reply, rest) = stream.split_at(reply_length(stream));
        all.push(reply);
        stream = rest;
    }
    all
}

fn reply_length(bytes: &[u8]) -> usize {
    let line = bytes.windows(2).position(|w| w == b"\r\n").expect("a reply begins with a line");
    let number = || std::str::from_utf8(&bytes[1..line]).unwrap().parse::<i64>().expect("a length");
    let nested = |count: i64| (0..count).fold(line + 2, |at, _| at + reply_length(&bytes[at..]));
    match bytes[0] {
        b'+' | b'-' | b':' | b'_' => line + 2,
        b'$' | b'=' if number() < 0 => line + 2,
        b'$' | b'=' => {
            let end = line + 2 + number() as usize;
            assert_eq!(&bytes[end..end + 2], b"\r\n");
            end + 2
        }
        b'*' | b'~' => nested(number()),
        b'%' => nested(2 * number()),
        other => panic!("a reply cannot begin with {:?}", char::from(other)),
    }
}

/// A key whose slot belongs to `core`.
fn key_on(host: &Host, core: usize, salt: usize) -> String {
    let own = |key: &String| host.nodes[0].locate(key.as_bytes()).1 == core;
    (0..).map(|i| format!("key{salt}:{i}")).find(own).expect("every core has slots")
}
