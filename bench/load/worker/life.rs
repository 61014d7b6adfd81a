//! The life of connections: opened, greeted, replaced, lost.

use std::os::fd::OwnedFd;

use super::Failure;
use super::desk::Desk;
use super::lane::{Flight, Lane, State, What};
use super::load::Source;
use crate::outcome::{Kind, record};
use crate::tls::Session;

/// Times --timeout without a word from the server after which a load that has no other end is ended.
const SILENCES_MAX: u64 = 3;

impl Desk {
    pub(super) fn add_lanes(&mut self, node: u16) {
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
    ///
    /// # Errors
    /// There is no session for TLS to be had.
    pub fn prepare(&mut self, index: u32, now: u64) -> Result<(), Failure> {
        let session = self.setup.tls.as_ref().map(Session::new).transpose().map_err(Failure)?.map(Box::new);
        let lane = &mut self.lanes[index as usize];
        lane.generation = lane.generation.wrapping_add(1);
        lane.state = State::Connecting;
        lane.session = session;
        lane.opened = now;
        // What was written while the lane waited stands in its flights too, and is written again behind the greeting.
        lane.out.clear();
        lane.greetings = self.wire.greet(&mut lane.out);
        let again = std::mem::take(&mut lane.flights);
        let greeting = Flight { what: What::Greeting, intended: now, sent: now, is_turn: false, hops: 0 };
        lane.flights.extend(std::iter::repeat_n(greeting, lane.greetings));
        again.into_iter().for_each(|flight| self.transfer(index, index, flight));
        Ok(())
    }

    /// The server closes a lane's connection in order: it is opened anew.
    #[cold]
    pub(super) fn renew(&mut self, index: u32) {
        let lane = &mut self.lanes[index as usize];
        if lane.state == State::Ready {
            lane.wait();
            self.clients[lane.client as usize].unready += 1;
            self.reopen.push_back(index);
        }
    }

    /// The connection of a lane is there.
    pub fn connected(&mut self, index: u32, now: u64) {
        self.lanes[index as usize].state = State::Greeting;
        self.mark(index);
        self.look_whether_greeted(index, now);
    }

    /// A lane is ready when its keys are agreed on and its greetings answered.
    pub(super) fn look_whether_greeted(&mut self, index: u32, now: u64) {
        let lane = &self.lanes[index as usize];
        let has_keys = lane.session.as_ref().is_none_or(|session| session.is_established());
        if lane.state == State::Greeting && lane.greetings == 0 && has_keys {
            self.greeted(index, now);
        }
    }

    /// Takes bytes that arrived on a lane with TLS.
    ///
    /// # Errors
    /// They are no TLS, or unsealed not what a server of this protocol answers.
    pub fn unseal(&mut self, index: u32, mut sealed: &[u8], now: u64) -> Result<(), Failure> {
        while !sealed.is_empty() {
            let mut plain = Vec::new();
            let lane = &mut self.lanes[index as usize];
            let Some(session) = &mut lane.session else { return Ok(()) };
            let unsealed = session.unseal(&mut sealed, &mut plain);
            unsealed.map_err(|error| Failure(format!("{}: TLS: {error}", self.node_of(index))))?;
            self.look_whether_greeted(index, now);
            if !plain.is_empty() {
                self.received(index, &plain, now)?;
            }
        }
        self.mark(index);
        Ok(())
    }

    pub(super) fn greeted(&mut self, index: u32, now: u64) {
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

    pub(super) fn reopen_client(&mut self, id: u32) {
        let client = &mut self.clients[id as usize];
        client.unready = client.lanes.len() as u32;
        for &lane in &client.lanes {
            self.lanes[lane as usize].wait();
            self.reopen.push_back(lane);
        }
    }

    /// Takes the connection of a lane away, so that it can be opened anew.
    pub fn close(&mut self, index: u32) -> Option<OwnedFd> {
        let lane = &mut self.lanes[index as usize];
        // Completions of the old connection no longer find the lane.
        lane.generation = lane.generation.wrapping_add(1);
        lane.sending = false;
        lane.out.clear();
        lane.carry.clear();
        lane.session = None;
        lane.socket.take()
    }

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
                    if self.load.is_some() {
                        // The server answered before; it is not the wrong one, but slow.
                        self.lose(index, now);
                        continue;
                    }
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

    /// Gives up what is under way on a lane: no reply came in time.
    pub fn lose(&mut self, index: u32, now: u64) {
        let node = self.node_of(index);
        let lane = &mut self.lanes[index as usize];
        lane.read.clear();
        let flights = std::mem::take(&mut lane.flights);
        if lane.state == State::Ready {
            self.clients[lane.client as usize].unready += 1;
        }
        lane.wait();
        self.reopen.push_back(index);
        for flight in flights.iter().filter(|flight| flight.kind().is_some()) {
            self.sample.counts.lost += 1;
            let kind = flight.kind().map_or("", Kind::word);
            let waited = (now - flight.sent) / 1_000_000;
            self.example(|_| format!("lost: no reply to a {kind} from {node} within {waited} ms"));
            self.finish(index, flight, now);
        }
    }

    /// Ends a load with which it leads nowhere to go on. By the clock a load ends anyhow; one that ends by a
    /// count would go on for ever with a server that has gone silent. Writing the keys has failed with the first
    /// of them.
    pub fn give_up(&mut self, now: u64) {
        if self.outstanding == 0 && self.backlog.is_empty() && !self.turns.is_empty() {
            // Nothing is asked, so that there is nothing to be heard.
            self.heard = now;
        }
        let Some(load) = &mut self.load else { return };
        let silence = now.saturating_sub(self.heard.max(load.begin));
        let is_silent = silence >= SILENCES_MAX * self.setup.timeout.as_nanos() as u64;
        let failed = matches!(load.source, Source::Fill { .. }) && self.sample.counts.lost > 0;
        if load.issuing && load.end == u64::MAX && (is_silent || failed) {
            (load.issuing, load.exhausted, load.end) = (false, true, now);
        }
    }

    /// Gives up what has still not been sent after the end.
    pub fn drop_backlog(&mut self, now: u64) {
        for intended in std::mem::take(&mut self.backlog) {
            if self.load.as_ref().is_some_and(|load| load.counts(intended)) {
                self.sample.counts.unsent += 1;
                // It would have waited at least so long.
                let kind = self.setup.mix.draw(&mut self.rng);
                record(&mut self.sample.by_kind[kind as usize], now - intended);
            }
        }
    }
}
