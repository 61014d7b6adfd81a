//! One worker's clients and lanes, and what is under way on them: everything but
//! the ring. Bytes that arrived are handed in, bytes to send are left in the lanes.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringfence::base::rng::Rng;
use ringfence::base::{SLOT_COUNT, Slot};

use super::lane::{Client, Flight, Lane, State, What};
use super::load::{Load, Pacing, Task};
use super::{Failure, Setup};
use crate::outcome::{Kind, Sample, record};
use crate::target::remedy;
use crate::verify::ledger::Left;
use crate::verify::stamp::HEAD_BYTES;
use crate::verify::{Judgement, Known, judge};
use crate::wire::{Item, Progress, Reply, Wire};

/// Wrong replies and errors that are described; all are counted.
const EXAMPLES_MAX: usize = 10;

/// The clients of one worker.
pub struct Desk {
    pub(super) setup: Arc<Setup>,
    wire: Wire,
    pub(super) rng: Rng,
    /// The nodes of the cluster; without one, the target alone.
    pub(super) nodes: Vec<SocketAddr>,
    /// The node of each slot.
    slots: Option<Box<[u16]>>,
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
    pub(super) sample: Sample,
    pub(super) examples: Vec<String>,
    items: Vec<Item>,
    name: Vec<u8>,
}

impl Desk {
    /// The desk of worker `index`. Its lanes are closed; [`Desk::reopen`] lists them all.
    pub fn new(setup: Arc<Setup>, index: usize) -> Self {
        let wire = Wire::new(setup.protocol, &setup.authority, setup.credentials.as_ref());
        let clients = setup.clients_of(index);
        let mut desk = Self {
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
            sample: Sample::empty(),
            examples: Vec::new(),
            items: Vec::with_capacity(setup.mget_keys as usize),
            name: Vec::with_capacity(256),
            setup,
        };
        (0..desk.nodes.len()).for_each(|node| desk.add_lanes(node as u16));
        desk
    }

    fn add_lanes(&mut self, node: u16) {
        for client in 0..self.clients.len() {
            let lane = self.lanes.len() as u32;
            self.lanes.push(Lane::new(client as u32, node));
            self.clients[client].lanes.push(lane);
            self.clients[client].unready += 1;
            self.reopen.push_back(lane);
        }
    }

    /// Whether every lane is ready.
    pub fn is_ready(&self) -> bool {
        self.lanes.iter().all(|lane| lane.state == State::Ready)
    }

    /// Makes a closed lane ready for a connection that begins at `now`: what it says first waits in its
    /// buffer, and behind it what the connection before was asked and left unanswered.
    pub fn prepare(&mut self, index: u32, now: u64) {
        let lane = &mut self.lanes[index as usize];
        lane.generation = lane.generation.wrapping_add(1);
        lane.state = State::Connecting;
        lane.opened = now;
        lane.greetings = self.wire.greet(&mut lane.out);
        let again = std::mem::take(&mut lane.flights);
        let greeting = Flight { what: What::Greeting, intended: now, sent: now, is_turn: false };
        lane.flights.extend(std::iter::repeat_n(greeting, lane.greetings));
        again.into_iter().for_each(|flight| self.transfer(index, index, flight));
    }

    /// The server closes a lane's connection in order: it is opened anew.
    #[cold]
    fn renew(&mut self, index: u32) {
        let lane = &mut self.lanes[index as usize];
        if lane.state == State::Ready {
            lane.state = State::Waiting;
            self.clients[lane.client as usize].unready += 1;
            self.reopen.push_back(index);
        }
    }

    /// The connection of a lane is there.
    pub fn connected(&mut self, index: u32, now: u64) {
        self.lanes[index as usize].state = State::Greeting;
        self.mark(index);
        if self.lanes[index as usize].greetings == 0 {
            self.greeted(index, now);
        }
    }

    fn greeted(&mut self, index: u32, now: u64) {
        let lane = &mut self.lanes[index as usize];
        lane.state = State::Ready;
        self.sample.counts.connects += 1;
        record(&mut self.sample.connect, now - lane.opened);
        let id = lane.client;
        let client = &mut self.clients[id as usize];
        client.unready -= 1;
        if client.unready == 0 {
            client.served = 0;
            client.retiring = false;
            (0..std::mem::take(&mut client.parked)).for_each(|_| self.turns.push_back(id));
        }
    }

    /// Lists a lane that has bytes to send.
    #[inline]
    pub fn mark(&mut self, index: u32) {
        let lane = &mut self.lanes[index as usize];
        if !lane.dirty && !lane.out.is_empty() {
            lane.dirty = true;
            self.dirty.push(index);
        }
    }

    /// Begins a load. Nothing is under way, and every lane is ready.
    pub fn begin(&mut self, load: Load) {
        self.turns.clear();
        self.backlog.clear();
        let turns = load.turns();
        for _ in 0..turns {
            self.turns.extend(0..self.clients.len() as u32);
        }
        self.load = Some(load);
    }

    /// Takes a turn of a client that can use it.
    #[inline]
    pub(super) fn take_turn(&mut self) -> Option<u32> {
        loop {
            let id = self.turns.pop_front()?;
            let client = &mut self.clients[id as usize];
            if client.unready == 0 && !client.retiring {
                return Some(id);
            }
            client.parked += 1;
        }
    }

    /// Lets a client ask again.
    #[inline]
    pub(super) fn give_turn(&mut self, id: u32) {
        let client = &mut self.clients[id as usize];
        if client.unready > 0 || client.retiring {
            client.parked += 1;
        } else {
            self.turns.push_back(id);
        }
    }

    /// Replaces the connections of a client once nothing is under way on them.
    pub fn retire(&mut self, id: u32) {
        let client = &mut self.clients[id as usize];
        if !client.retiring && client.unready == 0 {
            client.retiring = true;
            if client.outstanding == 0 {
                self.reopen_client(id);
            }
        }
    }

    fn reopen_client(&mut self, id: u32) {
        let client = &mut self.clients[id as usize];
        client.unready = client.lanes.len() as u32;
        for &lane in &client.lanes {
            self.lanes[lane as usize].state = State::Waiting;
            self.reopen.push_back(lane);
        }
    }

    /// Takes bytes that arrived on a lane.
    ///
    /// # Errors
    /// They are not what a server of this protocol answers.
    #[inline]
    pub fn received(&mut self, index: u32, bytes: &[u8], now: u64) -> Result<(), Failure> {
        self.sample.counts.bytes_received += bytes.len() as u64;
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

    fn node_of(&self, index: u32) -> SocketAddr {
        self.nodes[usize::from(self.lanes[index as usize].node)]
    }

    #[cold]
    fn garbage(&self, index: u32, why: &str, bytes: &[u8]) -> Failure {
        let shown = bytes[..bytes.len().min(60)].escape_ascii();
        let (node, protocol) = (self.node_of(index), self.setup.protocol);
        Failure(format!("{node} does not answer as a {protocol} server does: {why}: \"{shown}\": is --protocol right?"))
    }

    /// A reply to `flight`. `raw` is all of it.
    #[inline]
    fn answered(&mut self, index: u32, flight: Flight, reply: Reply<'_>, raw: &[u8], now: u64) -> Result<(), Failure> {
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
                if lane.greetings == 0 && lane.state == State::Greeting {
                    self.greeted(index, now);
                }
                return Ok(());
            }
            (what, Reply::Error(text)) => {
                counts.errors += 1;
                let ticket = match what {
                    What::Set { id, ticket, .. } | What::Delete { id, ticket } => Some((id, ticket)),
                    _ => None,
                };
                if let Some((id, ticket)) = ticket {
                    self.setup.ledger.end(id, ticket, Left::Unknown);
                }
                if let What::Mget { keys } = what {
                    self.lanes[index as usize].read.drain(..keys as usize);
                }
                let kind = flight.kind().map_or("", Kind::word);
                self.example(|_| format!("{kind}: the server answered: {}", text.escape_ascii()));
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
        if self.is_counted(&flight) {
            self.sample.counts.answered += 1;
        }
        self.finish(index, &flight, now);
        Ok(())
    }

    /// Whether a request belongs to the time that is measured.
    #[inline]
    fn is_counted(&self, flight: &Flight) -> bool {
        self.load.as_ref().is_some_and(|load| load.counts(flight.intended))
    }

    /// Times a request that is over, and lets its client go on.
    #[inline]
    fn finish(&mut self, index: u32, flight: &Flight, now: u64) {
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
    fn example(&mut self, text: impl FnOnce(&Self) -> String) {
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

    /// Follows a slot to its new node.
    #[cold]
    fn moved(&mut self, index: u32, flight: Flight, slot: u16, node: &str, now: u64) -> Result<(), Failure> {
        if self.slots.is_none() {
            let from = self.node_of(index);
            return Err(Failure(format!(
                "{from} is a node of a cluster and sends requests on: give --routing cluster"
            )));
        }
        let node = self.find_node(index, node)?;
        if let Some(place) = self.slots.as_mut().and_then(|slots| slots.get_mut(usize::from(slot))) {
            *place = node;
        }
        self.send_again(index, flight, node, false, now);
        Ok(())
    }

    /// Asks another node this once.
    #[cold]
    fn asked(&mut self, index: u32, flight: Flight, node: &str, now: u64) -> Result<(), Failure> {
        let node = self.find_node(index, node)?;
        self.send_again(index, flight, node, true, now);
        Ok(())
    }

    /// The number of the node at `host:port`, a new one if need be. Without a host it is that of the lane.
    fn find_node(&mut self, index: u32, text: &str) -> Result<u16, Failure> {
        let from = self.node_of(index);
        let wrong = || Failure(format!("{from} sends a request on to `{text}`, which is no address"));
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let ip = if host.is_empty() { from.ip() } else { host.parse().map_err(|_| wrong())? };
        let address = SocketAddr::new(ip, port);
        if let Some(node) = self.nodes.iter().position(|known| *known == address) {
            return Ok(node as u16);
        }
        self.nodes.push(address);
        let node = (self.nodes.len() - 1) as u16;
        self.add_lanes(node);
        Ok(node)
    }

    /// Sends a request again, on the lane of the same client to another node.
    fn send_again(&mut self, index: u32, mut flight: Flight, node: u16, out_of_turn: bool, now: u64) {
        self.sample.counts.redirected += 1;
        let client = self.lanes[index as usize].client;
        let to = self.clients[client as usize].lanes[usize::from(node)];
        if out_of_turn {
            let lane = &mut self.lanes[to as usize];
            self.wire.asking(&mut lane.out);
            lane.flights.push_back(Flight { what: What::Greeting, intended: now, sent: now, is_turn: false });
        }
        flight.sent = now;
        self.transfer(index, to, flight);
    }

    /// Writes a request, whose keys stand in lane `from` if it has several, to lane `to`.
    pub(super) fn transfer(&mut self, from: u32, to: u32, flight: Flight) {
        match flight.what {
            What::Greeting => return,
            What::Get { id, .. } => self.write_key(to, id, Wire::get),
            What::Delete { id, .. } => self.write_key(to, id, Wire::delete),
            What::Set { id, ticket, bytes, ttl_ms } => {
                self.write_value(to, id, ticket.sequence, bytes, ttl_ms, flight.sent)
            }
            What::Mget { keys } => {
                self.wire.mget_begin(keys as usize, &mut self.lanes[to as usize].out);
                for _ in 0..keys {
                    let key = self.lanes[from as usize].read.pop_front().expect("a key for each one asked for");
                    self.write_key(to, key.0, Wire::mget_key);
                    self.lanes[to as usize].read.push_back(key);
                }
                self.wire.mget_end(&mut self.lanes[to as usize].out);
            }
        }
        self.lanes[to as usize].flights.push_back(flight);
        self.mark(to);
    }

    #[inline]
    fn write_key(&mut self, lane: u32, id: u64, write: impl Fn(&Wire, &[u8], &mut Vec<u8>)) {
        self.name.clear();
        self.setup.names.write(id, &mut self.name);
        write(&self.wire, &self.name, &mut self.lanes[lane as usize].out);
    }

    #[inline]
    fn write_value(&mut self, lane: u32, id: u64, sequence: u64, bytes: u32, ttl_ms: u64, now: u64) {
        self.name.clear();
        self.setup.names.write(id, &mut self.name);
        let mut head = [0; HEAD_BYTES];
        let value = self.setup.stamper.value(id, sequence, bytes as usize, &mut head);
        let ttl = (ttl_ms > 0).then(|| Duration::from_millis(ttl_ms));
        let unix = self.setup.epoch_unix + now / 1_000_000_000;
        self.wire.set(&self.name, value, ttl, unix, &mut self.lanes[lane as usize].out);
    }

    /// The lane of a client to the node of a key.
    #[inline]
    fn lane_of(&mut self, client: u32, id: u64) -> u32 {
        let node = match &self.slots {
            None => 0,
            Some(slots) => {
                self.name.clear();
                self.setup.names.write(id, &mut self.name);
                debug_assert_eq!(slots.len(), SLOT_COUNT);
                usize::from(slots[Slot::of(&self.name).index()])
            }
        };
        self.clients[client as usize].lanes[node]
    }

    #[inline]
    fn launch(&mut self, lane: u32, flight: Flight) {
        let client = self.lanes[lane as usize].client;
        self.lanes[lane as usize].flights.push_back(flight);
        self.mark(lane);
        self.outstanding += 1;
        self.clients[client as usize].outstanding += 1;
        if self.load.as_ref().is_some_and(|load| load.counts(flight.intended)) {
            self.sample.counts.sent += 1;
        }
    }

    /// Asks for key `id`.
    #[inline]
    pub(super) fn ask_get(&mut self, client: u32, id: u64, bytes: u32, intended: u64, now: u64) {
        let lane = self.lane_of(client, id);
        self.write_key(lane, id, Wire::get);
        let what = What::Get { id, known: self.setup.ledger.known(id), bytes };
        self.launch(lane, Flight { what, intended, sent: now, is_turn: true });
    }

    /// Writes key `id`.
    #[inline]
    pub(super) fn ask_set(&mut self, client: u32, id: u64, bytes: u32, intended: u64, now: u64, is_turn: bool) {
        let lane = self.lane_of(client, id);
        let unit = self.setup.ttl_unit_ms;
        let ttl_ms =
            self.setup.ttls.draw(&mut self.rng).map_or(0, |ttl| (ttl.as_millis() as u64).max(1).next_multiple_of(unit));
        let ticket = self.setup.ledger.begin(id);
        self.write_value(lane, id, ticket.sequence, bytes, ttl_ms, now);
        let what = What::Set { id, ticket, bytes, ttl_ms };
        self.launch(lane, Flight { what, intended, sent: now, is_turn });
    }

    /// Removes key `id`.
    pub(super) fn ask_delete(&mut self, client: u32, id: u64, intended: u64, now: u64) {
        let lane = self.lane_of(client, id);
        self.write_key(lane, id, Wire::delete);
        let what = What::Delete { id, ticket: self.setup.ledger.begin(id) };
        self.launch(lane, Flight { what, intended, sent: now, is_turn: true });
    }

    /// Reads several keys; in a cluster those of one group, which share a slot.
    pub(super) fn ask_mget(&mut self, client: u32, intended: u64, now: u64) {
        let keys = self.setup.mget_keys;
        let first = self.setup.picker.pick(&mut self.rng);
        let lane = self.lane_of(client, first);
        self.wire.mget_begin(keys as usize, &mut self.lanes[lane as usize].out);
        for _ in 0..keys {
            let id = match self.setup.group {
                Some(group) => {
                    let base = first / group * group;
                    base + self.rng.below(group.min(self.setup.keys - base))
                }
                None => self.setup.picker.pick(&mut self.rng),
            };
            self.write_key(lane, id, Wire::mget_key);
            let known = self.setup.ledger.known(id);
            self.lanes[lane as usize].read.push_back((id, known));
        }
        self.wire.mget_end(&mut self.lanes[lane as usize].out);
        self.launch(lane, Flight { what: What::Mget { keys }, intended, sent: now, is_turn: true });
    }

    /// Gives up what is under way on a lane: no reply came in time.
    pub fn lose(&mut self, index: u32, now: u64) {
        let node = self.node_of(index);
        let lane = &mut self.lanes[index as usize];
        let client = lane.client;
        lane.read.clear();
        let flights = std::mem::take(&mut lane.flights);
        for flight in flights.iter().filter(|flight| flight.kind().is_some()) {
            self.sample.counts.lost += 1;
            let kind = flight.kind().map_or("", Kind::word);
            let waited = (now - flight.sent) / 1_000_000;
            self.example(|_| format!("lost: no reply to a {kind} from {node} within {waited} ms"));
            self.finish(index, flight, now);
        }
        let client = &mut self.clients[client as usize];
        if self.lanes[index as usize].state == State::Ready {
            client.unready += 1;
        }
        self.lanes[index as usize].state = State::Waiting;
        self.reopen.push_back(index);
    }
}

impl Desk {
    /// A lane's connection ended though it was in use.
    #[cold]
    pub fn ended(&mut self, index: u32, how: &str) -> Result<(), Failure> {
        let lane = &self.lanes[index as usize];
        if lane.state == State::Closed || self.load.is_none() && lane.state == State::Ready {
            return Ok(());
        }
        let (unanswered, node) = (lane.flights.len(), self.node_of(index));
        Err(Failure(format!("{node} {how} with {unanswered} requests unanswered")))
    }

    /// A lane could not be connected.
    #[cold]
    pub fn unreachable(&self, index: u32, error: &std::io::Error) -> Failure {
        let open = self.lanes.iter().filter(|lane| lane.state == State::Ready).count();
        let node = self.node_of(index);
        Failure(format!(
            "{node} cannot be reached: {error} ({open} connections of this thread are open): is the server running?"
        ))
    }

    /// Takes the connection of a lane away, so that it can be opened anew.
    pub fn close(&mut self, index: u32) -> Option<std::os::fd::OwnedFd> {
        let lane = &mut self.lanes[index as usize];
        // Completions of the old connection no longer find the lane.
        lane.generation = lane.generation.wrapping_add(1);
        lane.sending = false;
        lane.out.clear();
        lane.carry.clear();
        lane.socket.take()
    }

    /// Looks for requests and connections that take too long.
    ///
    /// # Errors
    /// A connection does not come about.
    pub fn watch(&mut self, now: u64) -> Result<(), Failure> {
        let timeout = self.setup.timeout.as_nanos() as u64;
        for index in 0..self.lanes.len() as u32 {
            let lane = &self.lanes[index as usize];
            match lane.state {
                State::Connecting | State::Greeting if now.saturating_sub(lane.opened) > timeout => {
                    let node = self.node_of(index);
                    let what =
                        if lane.state == State::Connecting { "accepts no connection" } else { "does not answer" };
                    return Err(Failure(format!(
                        "{node} {what} within {:?}: is it the right port?",
                        self.setup.timeout
                    )));
                }
                State::Ready
                    if lane.flights.front().is_some_and(|flight| now.saturating_sub(flight.sent) > timeout) =>
                {
                    self.lose(index, now);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Gives up all that is not answered, or not even sent, after the end.
    pub fn give_up(&mut self, now: u64) {
        for index in 0..self.lanes.len() as u32 {
            if !self.lanes[index as usize].flights.is_empty() {
                self.lose(index, now);
            }
        }
        for intended in std::mem::take(&mut self.backlog) {
            if self.load.as_ref().is_some_and(|load| load.counts(intended)) {
                self.sample.counts.unsent += 1;
                // It would have waited at least so long.
                let kind = self.setup.mix.draw(&mut self.rng);
                record(&mut self.sample.by_kind[kind as usize], now - intended);
            }
        }
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
