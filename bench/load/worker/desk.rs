//! One worker's clients and lanes, and what is under way on them: everything but
//! the ring. Bytes that arrived are handed in, bytes to send are left in the lanes.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use ringfence::base::rng::Rng;

use super::lane::{Client, Flight, Lane, What};
use super::load::{Load, Pacing, Task};
use super::template::Template;
use super::{Failure, Setup};
use crate::outcome::{Kind, Sample, record};
use crate::target::remedy;
use crate::verify::ledger::Left;
use crate::verify::{Judgement, Known, judge};
use crate::wire::{Item, Progress, Reply, Wire};

/// How often a request may be sent on by nodes of a cluster: as often as clients commonly follow.
const HOPS_MAX: u8 = 16;
/// Wrong replies and errors that are described; all are counted.
const EXAMPLES_MAX: usize = 10;

/// The clients of one worker.
pub struct Desk {
    pub(super) setup: Arc<Setup>,
    pub(super) wire: Wire,
    pub(super) rng: Rng,
    /// The nodes of the cluster; without one, the target alone.
    pub(super) nodes: Vec<SocketAddr>,
    /// The node of each slot.
    pub(super) slots: Option<Box<[u16]>>,
    pub(super) lanes: Vec<Lane>,
    pub(super) clients: Vec<Client>,
    /// Lanes with bytes to send.
    pub(super) dirty: Vec<u32>,
    /// Lanes to close, if open, and to open anew.
    pub(super) reopen: VecDeque<u32>,
    /// Clients that may ask, in the order in which they were answered.
    pub(super) turns: VecDeque<u32>,
    /// Moments at which a request was due while no client was free.
    pub(super) backlog: VecDeque<u64>,
    pub(super) load: Option<Load>,
    /// Requests that are drawn and not made yet.
    pub(super) drawn: VecDeque<Task>,
    /// Requests under way.
    pub(super) outstanding: u64,
    /// When the server last said anything.
    pub(super) heard: u64,
    pub(super) sample: Sample,
    /// Requests sent that belong to the next sample.
    pub(super) ahead: u64,
    pub(super) examples: Vec<String>,
    items: Vec<Item>,
    pub(super) name: Vec<u8>,
    /// How reads are written, if they differ in the key's number alone.
    pub(super) template: Option<Template>,
}

impl Desk {
    /// The desk of worker `index`. Its lanes are closed; [`Desk::reopen`] lists them all.
    pub fn new(setup: Arc<Setup>, index: usize) -> Self {
        let wire = Wire::new(setup.protocol, &setup.authority, setup.credentials.as_ref());
        let clients = setup.clients_of(index);
        let mut desk = Self {
            template: Template::of(&wire, &setup.names),
            wire,
            rng: Rng::new(setup.seed ^ (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            nodes: setup.nodes.clone(),
            slots: setup.slots.clone(),
            lanes: Vec::new(),
            clients: (0..clients).map(|_| Client::default()).collect(),
            dirty: Vec::new(),
            reopen: VecDeque::new(),
            turns: VecDeque::with_capacity(clients * setup.pipeline as usize),
            backlog: VecDeque::new(),
            load: None,
            drawn: VecDeque::new(),
            outstanding: 0,
            heard: 0,
            sample: Sample::empty(),
            ahead: 0,
            examples: Vec::new(),
            items: Vec::with_capacity(setup.mget_keys as usize),
            name: Vec::with_capacity(256),
            setup,
        };
        (0..desk.nodes.len()).for_each(|node| desk.add_lanes(node as u16));
        desk
    }

    /// Begins a load. Nothing is under way, and every lane is ready.
    pub fn begin(&mut self, load: Load) {
        self.turns.clear();
        self.backlog.clear();
        self.drawn.clear();
        self.clients.iter_mut().for_each(|client| client.parked = 0);
        let turns = load.turns();
        for _ in 0..turns {
            self.turns.extend(0..self.clients.len() as u32);
        }
        self.load = Some(load);
    }

    /// Takes bytes that arrived on a lane.
    ///
    /// # Errors
    /// They are not what a server of this protocol answers.
    #[inline]
    pub fn received(&mut self, index: u32, bytes: &[u8], now: u64) -> Result<(), Failure> {
        self.heard = now;
        if self.is_in_time(now) {
            self.sample.counts.bytes_received += bytes.len() as u64;
        }
        let lane = &mut self.lanes[index as usize];
        if lane.carry.is_empty() {
            let used = self.read(index, bytes, now)?;
            self.lanes[index as usize].carry.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        lane.carry.extend_from_slice(bytes);
        if lane.carry.len() < lane.need {
            return Ok(());
        }
        let mut carry = std::mem::take(&mut lane.carry);
        let used = self.read(index, &carry, now)?;
        carry.drain(..used);
        self.lanes[index as usize].carry = carry;
        Ok(())
    }

    /// Reads all whole replies; answers how many bytes they were.
    fn read(&mut self, index: u32, input: &[u8], now: u64) -> Result<usize, Failure> {
        let mut at = 0;
        while at < input.len() {
            let lane = &mut self.lanes[index as usize];
            let Some(flight) = lane.flights.front() else {
                return Err(self.garbage(index, "bytes that no request asked for", &input[at..]));
            };
            if let What::Get { id, known, .. } = flight.what
                && let Some((value, used)) = self.wire.short_value(&input[at..])
            {
                let flight = lane.flights.pop_front().expect("it was looked at");
                self.hit(id, known, value, &flight);
                self.count_reply(index, &flight, now);
                at += used;
                continue;
            }
            match self.wire.decode(flight.expected(), &input[at..], &mut self.items) {
                Progress::Whole(reply, used) => {
                    let flight = lane.flights.pop_front().expect("it was looked at");
                    self.answered(index, flight, reply, &input[at..at + used], now)?;
                    at += used;
                }
                Progress::Last(reply, used) => {
                    let flight = lane.flights.pop_front().expect("it was looked at");
                    self.answered(index, flight, reply, &input[at..at + used], now)?;
                    self.renew(index);
                    return Ok(input.len());
                }
                Progress::Partial(need) => {
                    lane.need = need;
                    break;
                }
                Progress::Garbage(why) => return Err(self.garbage(index, why, &input[at..])),
            }
        }
        Ok(at)
    }

    pub(super) fn node_of(&self, index: u32) -> SocketAddr {
        self.nodes[usize::from(self.lanes[index as usize].node)]
    }

    #[cold]
    pub(super) fn garbage(&self, index: u32, why: &str, bytes: &[u8]) -> Failure {
        let shown = bytes[..bytes.len().min(60)].escape_ascii();
        let (node, protocol) = (self.node_of(index), self.setup.protocol);
        Failure(format!("{node} does not answer as a {protocol} server does: {why}: \"{shown}\": is --protocol right?"))
    }

    /// A reply to `flight`. `raw` is all of it.
    fn answered(&mut self, index: u32, flight: Flight, reply: Reply<'_>, raw: &[u8], now: u64) -> Result<(), Failure> {
        let reply = match reply {
            Reply::Moved { .. } | Reply::Ask { .. } if flight.hops == HOPS_MAX => Reply::Error(
                b"sent on by node after node, and by this one too: do they agree on the owner of its slot?",
            ),
            reply => reply,
        };
        let counts = &mut self.sample.counts;
        match (flight.what, reply) {
            (_, Reply::Moved { slot, node }) => return self.moved(index, flight, slot, node, now),
            (_, Reply::Ask { node }) => return self.asked(index, flight, node, now),
            (What::Greeting, Reply::Error(text)) => {
                let text = text.escape_ascii().to_string();
                let (node, remedy) = (self.node_of(index), remedy(&text));
                return Err(Failure(format!("{node} refuses the connection: {text}{remedy}")));
            }
            (What::Greeting, _) => {
                let lane = &mut self.lanes[index as usize];
                lane.greetings = lane.greetings.saturating_sub(1);
                self.look_whether_greeted(index, now);
                return Ok(());
            }
            (what, Reply::Error(text)) => {
                counts.errors += 1;
                // A write may have been done all the same, or be done later by what stands in between: as one
                // that is never answered it stays under way.
                if let What::Mget { keys } = what {
                    self.lanes[index as usize].read.drain(..keys as usize);
                }
                let kind = flight.kind().map_or("", Kind::word);
                let node = self.node_of(index);
                self.example(|_| format!("{kind}: {node} answered: {}", text.escape_ascii()));
            }
            (What::Get { id, known, .. }, Reply::Hit(value)) => self.hit(id, known, value, &flight),
            (What::Get { id, known, bytes }, Reply::Miss) => {
                self.missed(known, &flight);
                if self.setup.fill_on_miss {
                    let client = self.lanes[index as usize].client;
                    let bytes = if bytes == 0 { self.setup.value_sizes.draw(&mut self.rng) as u32 } else { bytes };
                    self.ask_set(client, id, bytes, now, now, false);
                }
            }
            (What::Set { id, ticket, ttl_ms, .. }, _) => {
                let deadline = (ttl_ms > 0).then(|| now / 1_000_000 + ttl_ms);
                self.setup.ledger.end(id, ticket, Left::Value(deadline));
            }
            (What::Delete { id, ticket }, _) => self.setup.ledger.end(id, ticket, Left::Nothing),
            (What::Mget { keys }, _) => self.read_many(index, keys as usize, raw, &flight),
            (What::Get { .. }, _) => return Err(self.garbage(index, "no reply to a read", raw)),
        }
        self.count_reply(index, &flight, now);
        Ok(())
    }

    /// Counts a request that was answered.
    #[inline]
    fn count_reply(&mut self, index: u32, flight: &Flight, now: u64) {
        if self.is_counted(flight) {
            self.sample.counts.answered += 1;
        }
        if self.is_in_time(now) {
            self.sample.counts.replies += 1;
        }
        self.finish(index, flight, now);
    }

    /// Whether the time of the load is not over.
    #[inline]
    pub(super) fn is_in_time(&self, now: u64) -> bool {
        self.load.as_ref().is_some_and(|load| now < load.end)
    }

    /// Whether a request belongs to the time that is measured.
    #[inline]
    fn is_counted(&self, flight: &Flight) -> bool {
        self.load.as_ref().is_some_and(|load| load.counts(flight.intended))
    }

    /// Times a request that is over, and lets its client go on.
    #[inline]
    pub(super) fn finish(&mut self, index: u32, flight: &Flight, now: u64) {
        let load = self.load.as_mut().expect("requests are under way only during a load");
        load.finished += 1;
        if let Some(kind) = flight.kind()
            && load.counts(flight.intended)
        {
            record(&mut self.sample.by_kind[kind as usize], now - flight.intended);
            if load.is_open() {
                record(&mut self.sample.service, now - flight.sent);
            }
        }
        let is_lockstep = !load.is_open();
        let id = self.lanes[index as usize].client;
        self.outstanding -= 1;
        let client = &mut self.clients[id as usize];
        client.outstanding -= 1;
        client.served += 1;
        if self.setup.reconnect.is_some_and(|requests| client.served >= requests) && client.unready == 0 {
            client.retiring = true;
        }
        let (is_done, is_retiring) = (client.outstanding == 0, client.retiring);
        if if is_lockstep { is_done } else { flight.is_turn } {
            self.give_turn(id);
        }
        if is_done && is_retiring && self.clients[id as usize].unready == 0 {
            self.reopen_client(id);
        }
    }

    fn hit(&mut self, id: u64, known: Known, value: &[u8], flight: &Flight) {
        let sent_ms = flight.sent / 1_000_000;
        if self.is_counted(flight) {
            self.sample.counts.hits += 1;
            self.sample.counts.hits_expected += u64::from(known.is_present(sent_ms));
        }
        if !self.setup.verify {
            return;
        }
        let issued = self.setup.ledger.issued();
        match judge(&self.setup.stamper, id, value, known, sent_ms, self.setup.late_ms, issued) {
            Judgement::Right => {}
            Judgement::Leftover => self.sample.counts.leftovers += 1,
            Judgement::Wrong(why) => {
                self.sample.counts.violations += 1;
                self.example(|desk| {
                    let begin = value[..value.len().min(40)].escape_ascii();
                    format!("the value of {} {why} (it begins with \"{begin}\")", desk.name_of(id))
                });
            }
        }
    }

    fn missed(&mut self, known: Known, flight: &Flight) {
        if self.is_counted(flight) {
            self.sample.counts.misses += 1;
            self.sample.counts.hits_expected += u64::from(known.is_present(flight.sent / 1_000_000));
        }
    }

    /// Judges the items of a reply to a read of several keys.
    fn read_many(&mut self, index: u32, keys: usize, raw: &[u8], flight: &Flight) {
        let items = std::mem::take(&mut self.items);
        let mut next = items.iter().peekable();
        for _ in 0..keys {
            let (id, known) = self.lanes[index as usize].read.pop_front().expect("a key for each one asked for");
            let value = match next.peek() {
                Some(Item { key: Some(name), value }) if self.setup.names.id_of(&raw[name.clone()]) == Some(id) => {
                    next.next();
                    value.clone()
                }
                Some(Item { key: None, value }) => {
                    next.next();
                    value.clone()
                }
                _ => None,
            };
            match value {
                Some(value) => self.hit(id, known, &raw[value], flight),
                None => self.missed(known, flight),
            }
        }
        if next.peek().is_some() {
            self.sample.counts.violations += 1;
            self.example(|_| "a read of several keys was answered with keys that it did not ask for".into());
        }
        self.items = items;
    }

    /// Describes something that went wrong, if few have been described so far.
    #[cold]
    pub(super) fn example(&mut self, text: impl FnOnce(&Self) -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            let text = text(self);
            self.examples.push(text);
        }
    }

    fn name_of(&self, id: u64) -> String {
        let mut name = Vec::new();
        self.setup.names.write(id, &mut name);
        String::from_utf8_lossy(&name).into_owned()
    }

    /// When the next request is due.
    #[inline]
    pub fn next_due(&self) -> u64 {
        match &self.load {
            Some(Load { pacing: Pacing::Open(schedule, _), begin, issuing: true, .. }) => begin + schedule.next_ns(),
            Some(load) if self.outstanding == 0 && load.issuing => load.begin,
            _ => u64::MAX,
        }
    }
}
