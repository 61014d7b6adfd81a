//! One connection as the node sees it: bytes in, ordered replies out.

use bytes::{Buf, BytesMut};

use super::gather::Gathering;
use super::http::Batch;
use super::inflow::Inflow;
use super::output::Output;
use super::redirect::{Finding, Subscription};
use super::steering::Steering;
use super::tracking::Tracking;
use crate::base::UnixMillis;
use crate::command::Span;
use crate::engine::OWN_MAPPING_BYTES;
use crate::protocol::resp::{Parser, Skipper, Version};
use crate::protocol::{http, memcache};

/// What a connection's requests cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The whole host: a plain client on the shared port.
    Host,
    /// One core, as a node of the cluster: a client on that core's port.
    Core,
}

/// What a connection speaks: the port at which it came in decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Redis.
    Resp,
    /// The text and meta protocols of memcached.
    Memcache,
    /// HTTP/1.1.
    Http,
}

/// Input that was received and not yet executed.
#[derive(Debug, Default)]
pub struct Input(BytesMut);

impl Input {
    /// What is there.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether there is nothing.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what arrived.
    pub fn extend(&mut self, bytes: &[u8]) {
        let (capacity, wanted) = (self.0.capacity(), self.0.len() + bytes.len());
        if wanted > capacity && capacity <= OWN_MAPPING_BYTES && wanted > OWN_MAPPING_BYTES / 2 {
            let before =
                std::mem::replace(&mut self.0, BytesMut::with_capacity(2 * OWN_MAPPING_BYTES.max(bytes.len())));
            self.0.extend_from_slice(&before);
        }
        self.0.extend_from_slice(bytes);
    }

    /// Forgets the first `n` bytes, and answers the memory if none are left.
    #[must_use]
    pub fn consume(&mut self, n: usize) -> Option<Vec<u8>> {
        self.0.advance(n);
        self.0.is_empty().then(|| std::mem::take(self).into_buffer())
    }

    /// The memory, without what was in it.
    pub fn into_buffer(mut self) -> Vec<u8> {
        self.0.clear();
        Vec::from(self.0)
    }

    /// Memory held.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

/// Whether a session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Requests are executed.
    Open,
    /// No more requests; the connection closes once its replies are sent.
    Draining,
    /// The connection closes at once: its replies cannot be sent or kept.
    Broken,
}

/// One connection's state. Moves between cores whole.
#[derive(Debug)]
pub struct Session {
    /// The number that `CLIENT ID` answers.
    pub id: u64,
    /// What its requests cover.
    pub scope: Scope,
    /// What it speaks.
    pub protocol: Protocol,
    /// The address at which the client reached the host, to announce where none is configured.
    pub local_host: String,
    /// The protocol version chosen by `HELLO`.
    pub version: Version,
    /// The name given by `CLIENT SETNAME`.
    pub name: Vec<u8>,
    /// Whether the client has given a password, or none is asked for. Requests of HTTP are checked one by one: there it
    /// is whether any was right.
    pub authenticated: bool,
    /// Whether it goes on.
    pub state: State,
    /// Where it belongs.
    pub steering: Steering,
    /// The core it waits to move to.
    pub move_to: Option<usize>,
    /// Received and not executed.
    pub input: Input,
    /// To be sent.
    pub output: Output,
    /// Bytes taken to be sent and not yet confirmed.
    pub in_flight_bytes: usize,
    /// Whether the client has closed its side.
    pub input_ended: bool,
    /// The unfinished request at the start of `input`.
    pub(super) parser: Parser,
    /// The same for a memcached client, and where in a `get` of several keys it is.
    pub(super) memcache: memcache::Parser,
    /// Its arguments so far.
    pub(super) spans: Vec<Span>,
    /// The unfinished request at the start of `input`, if it is one of HTTP.
    pub(super) http: http::Parser,
    /// The request of several keys that is being executed, if it is one of HTTP.
    pub(super) http_batch: Option<Box<Batch>>,
    /// Bytes of `input` without which parsing again is in vain.
    pub(super) need: usize,
    /// Passing over the rest of a request with an argument too long.
    pub(super) skipper: Option<Skipper>,
    /// A request whose large value is arriving.
    pub(super) inflow: Option<Box<Inflow>>,
    /// When the client last took a piece of a large value, or gave one.
    pub(super) progress_at: UnixMillis,
    /// Whether it is listed as having something for the io room.
    pub(super) listed: bool,
    /// Whether it waits for its next slice: until then none of its input is executed.
    pub(super) queued: bool,
    /// The request at the start of `input`, if it is one of so many keys that it is executed in slices.
    pub(super) gathering: Option<Box<Gathering>>,
    /// What it is to be told when it changes, because the client keeps copies.
    pub(super) tracking: Option<Box<Tracking>>,
    /// The `CLIENT TRACKING` that is being executed, while the connection that is to hear the notices is looked for.
    pub(super) finding: Option<Box<Finding>>,
    /// What it needs because it has subscribed to the notices of other connections.
    pub(super) subscription: Option<Box<Subscription>>,
    /// Whether any of its requests may have waited for a fill.
    pub(super) has_waited: bool,
    /// How many keys had come to be held as copies when `copies_after` was last set for all of them.
    pub(super) copies_seen: u64,
    /// The last request that may be about a key of which there is a copy.
    pub(super) copies_after: u32,
}

impl Session {
    /// A fresh connection.
    pub fn new(id: u64, (scope, protocol): (Scope, Protocol), local_host: String) -> Self {
        Self {
            id,
            scope,
            protocol,
            local_host,
            version: Version::default(),
            name: Vec::new(),
            authenticated: false,
            state: State::Open,
            steering: Steering::default(),
            move_to: None,
            input: Input::default(),
            output: Output::default(),
            in_flight_bytes: 0,
            input_ended: false,
            parser: Parser::default(),
            http: http::Parser::default(),
            http_batch: None,
            memcache: memcache::Parser::default(),
            spans: Vec::new(),
            need: 0,
            skipper: None,
            inflow: None,
            progress_at: UnixMillis(0),
            listed: false,
            queued: false,
            gathering: None,
            tracking: None,
            finding: None,
            subscription: None,
            has_waited: false,
            copies_seen: 0,
            copies_after: u32::MAX,
        }
    }

    /// Bytes of notices that wait for the end of a reply.
    pub fn notice_bytes(&self) -> usize {
        let own = self.tracking.as_ref().map_or(0, |tracking| tracking.waiting_bytes());
        own + self.subscription.as_ref().map_or(0, |subscription| subscription.held.len())
    }

    /// Memory this session holds beyond its own struct.
    pub fn held_bytes(&self) -> usize {
        let spans = self.spans.capacity() * size_of::<Span>();
        let gathering = self.gathering.as_ref().map_or(0, |gathering| gathering.held_bytes());
        let large = self.output.marks().held_bytes() + self.inflow.as_ref().map_or(0, |inflow| inflow.held_bytes());
        let batch = self.http_batch.as_ref().map_or(0, |batch| batch.held_bytes());
        let tracking = self.tracking.as_ref().map_or(0, |tracking| tracking.held_bytes());
        let tracking = tracking + self.finding.as_ref().map_or(0, |finding| finding.tracking.held_bytes());
        let tracking = tracking + self.subscription.as_ref().map_or(0, |subscription| subscription.held_bytes());
        let output = self.output.copied_bytes() + self.output.unused_bytes();
        self.input.capacity() + output + self.name.capacity() + spans + gathering + batch + tracking + large
    }

    /// Gives up the session and what it holds, but for what the shard must be given back.
    pub fn discard(&mut self) {
        self.state = State::Broken;
        self.output = Output::default();
        self.http_batch = None;
    }

    /// Whether it can be handed to another core now: every request answered,
    /// every reply taken, no value on its way in.
    pub fn is_quiet(&self) -> bool {
        let answered = self.output.is_settled() && self.output.ready_bytes() == 0 && self.in_flight_bytes == 0;
        answered && self.gathering.is_none() && self.inflow.is_none()
    }
}
