//! Requests: whose turn it is, which lane they take, and what a cluster sends elsewhere.

use std::net::SocketAddr;
use std::time::Duration;

use ringfence::base::{SLOT_COUNT, Slot};

use super::Failure;
use super::desk::Desk;
use super::lane::{Flight, What};
use crate::verify::stamp::HEAD_BYTES;
use crate::wire::Wire;

impl Desk {
    /// Lists a lane that has bytes to send.
    #[inline]
    pub fn mark(&mut self, index: u32) {
        let lane = &mut self.lanes[index as usize];
        if !lane.dirty && lane.has_output() {
            lane.dirty = true;
            self.dirty.push(index);
        }
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

    /// Follows a slot to its new node.
    #[cold]
    pub(super) fn moved(&mut self, index: u32, flight: Flight, slot: u16, node: &str, now: u64) -> Result<(), Failure> {
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
    pub(super) fn asked(&mut self, index: u32, flight: Flight, node: &str, now: u64) -> Result<(), Failure> {
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
            lane.flights.push_back(Flight { what: What::Greeting, intended: now, sent: now, is_turn: false, hops: 0 });
        }
        flight.sent = now;
        flight.hops += 1;
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
    pub(super) fn write_key(&mut self, lane: u32, id: u64, write: impl Fn(&Wire, &[u8], &mut Vec<u8>)) {
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
    pub(super) fn lane_of(&mut self, client: u32, id: u64) -> u32 {
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

    /// Takes a request to be under way. Inlined, so that it is written where it stays instead of being copied there.
    #[inline(always)]
    pub(super) fn launch(&mut self, lane: u32, flight: Flight) {
        let client = self.lanes[lane as usize].client;
        self.lanes[lane as usize].flights.push_back(flight);
        self.mark(lane);
        self.outstanding += 1;
        self.clients[client as usize].outstanding += 1;
        let Some(load) = self.load.as_ref().filter(|load| load.counts(flight.intended)) else { return };
        let sent = if load.is_ahead(flight.intended) { &mut self.ahead } else { &mut self.sample.counts.sent };
        *sent += 1;
    }

    /// Asks for key `id`.
    #[inline]
    pub(super) fn ask_get(&mut self, client: u32, id: u64, bytes: u32, intended: u64, now: u64) {
        let lane = self.lane_of(client, id);
        match &self.template {
            Some(template) => template.write(id, &mut self.lanes[lane as usize].out),
            None => self.write_key(lane, id, Wire::get),
        }
        let what = What::Get { id, known: self.setup.ledger.known(id), bytes };
        self.launch(lane, Flight { what, intended, sent: now, is_turn: true, hops: 0 });
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
        self.launch(lane, Flight { what, intended, sent: now, is_turn, hops: 0 });
    }

    /// Removes key `id`.
    pub(super) fn ask_delete(&mut self, client: u32, id: u64, intended: u64, now: u64) {
        let lane = self.lane_of(client, id);
        self.write_key(lane, id, Wire::delete);
        let what = What::Delete { id, ticket: self.setup.ledger.begin(id) };
        self.launch(lane, Flight { what, intended, sent: now, is_turn: true, hops: 0 });
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
        self.launch(lane, Flight { what: What::Mget { keys }, intended, sent: now, is_turn: true, hops: 0 });
    }
}
