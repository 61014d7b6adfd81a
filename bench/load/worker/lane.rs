//! A lane: one connection and what is under way on it. A client of the load has
//! one lane, or in a cluster one to each node.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use ringfence::io::ring::Key;

use crate::outcome::Kind;
use crate::tls::Session;
use crate::verify::{Known, Ticket};
use crate::wire::Expected;

/// What a request under way asked for, and all that is needed to judge its reply or to send it again.
#[derive(Clone, Copy, Debug)]
pub enum What {
    /// A part of the handshake, or the word before a request that a node was asked for out of turn.
    Greeting,
    /// Read key `id`; `bytes`: what to write on a miss, if the workload says.
    Get { id: u64, known: Known, bytes: u32 },
    /// Write key `id`.
    Set { id: u64, ticket: Ticket, bytes: u32, ttl_ms: u64 },
    /// Remove key `id`.
    Delete { id: u64, ticket: Ticket },
    /// Read so many keys; they stand in [`Lane::read`].
    Mget { keys: u32 },
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    /// What it asked for.
    pub what: What,
    /// When it was to be sent, in nanoseconds of the worker's clock.
    pub intended: u64,
    /// When it was.
    pub sent: u64,
    /// Whether its reply lets its client ask again: not a handshake, nor a write that followed a miss.
    pub is_turn: bool,
    /// How often a node of the cluster has sent it on.
    pub hops: u8,
}

impl Flight {
    /// The kind of request; `None` for what is not part of the workload.
    pub fn kind(&self) -> Option<Kind> {
        match self.what {
            What::Greeting => None,
            What::Get { .. } => Some(Kind::Get),
            What::Set { .. } => Some(Kind::Set),
            What::Delete { .. } => Some(Kind::Delete),
            What::Mget { .. } => Some(Kind::Mget),
        }
    }

    /// The kind of reply that is due.
    pub fn expected(&self) -> Expected {
        match self.what {
            What::Greeting => Expected::Greeting,
            What::Get { .. } => Expected::Get,
            What::Set { .. } => Expected::Set,
            What::Delete { .. } => Expected::Delete,
            What::Mget { keys } => Expected::Mget(keys as usize),
        }
    }
}

/// Where a lane is in its life.
///
/// ```text
/// Closed ──> Waiting ──> Connecting ──> Greeting ──> Ready ──> Closed
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No connection.
    Closed,
    /// To be opened when its turn comes.
    Waiting,
    /// The kernel connects.
    Connecting,
    /// Connected, and the handshake is not over.
    Greeting,
    /// In use.
    Ready,
}

/// One connection.
#[derive(Debug)]
pub struct Lane {
    /// The client it belongs to.
    pub client: u32,
    /// The node it leads to.
    pub node: u16,
    /// Tells it from earlier connections of the same place.
    pub generation: u32,
    /// The connection.
    pub socket: Option<OwnedFd>,
    /// Where it is in its life.
    pub state: State,
    /// When connecting began.
    pub opened: u64,
    /// TLS on the connection.
    pub session: Option<Box<Session>>,
    /// Bytes to send; with TLS they are sealed first.
    pub out: Vec<u8>,
    /// The other buffer: empty, while `out` is filled and none is under way.
    pub spare: Vec<u8>,
    /// Whether a buffer is under way.
    pub sending: bool,
    /// Whether it stands in the list of lanes with bytes to send.
    pub dirty: bool,
    /// The beginning of a reply that is not whole.
    pub carry: Vec<u8>,
    /// How long `carry` must be before another look makes sense.
    pub need: usize,
    /// Requests under way, oldest first.
    pub flights: VecDeque<Flight>,
    /// The keys of reads of several keys under way.
    pub read: VecDeque<(u64, Known)>,
    /// Greetings still to come.
    pub greetings: usize,
}

impl Lane {
    /// A lane without a connection.
    pub fn new(client: u32, node: u16) -> Self {
        Self {
            client,
            node,
            generation: 0,
            socket: None,
            state: State::Closed,
            opened: 0,
            session: None,
            out: Vec::new(),
            spare: Vec::new(),
            sending: false,
            dirty: false,
            carry: Vec::new(),
            need: 0,
            flights: VecDeque::new(),
            read: VecDeque::new(),
            greetings: 0,
        }
    }

    /// Gives its connection up, so that another is opened when its turn comes.
    pub fn wait(&mut self) {
        self.state = State::Waiting;
        // Until then replies may still come, and nobody waits for them any more.
        self.generation = self.generation.wrapping_add(1);
    }

    /// Whether there is something to send.
    #[inline]
    pub fn has_output(&self) -> bool {
        !self.out.is_empty() || self.session.as_ref().is_some_and(|session| session.has_to_say())
    }

    /// Takes what is to be sent, and leaves the other buffer for what comes next.
    #[inline]
    pub fn take_output(&mut self) -> Vec<u8> {
        let mut other = std::mem::take(&mut self.spare);
        let Some(session) = &mut self.session else { return std::mem::replace(&mut self.out, other) };
        // The library seals into memory, which cannot fail.
        let sealed = session.seal(&self.out, &mut other);
        debug_assert!(sealed.is_ok(), "{sealed:?}");
        self.out.clear();
        other
    }

    /// The ring's name for it, as lane `index`.
    pub fn key(&self, index: u32) -> Key {
        Key { index, generation: self.generation }
    }

    /// The descriptor, while there is a connection.
    pub fn descriptor(&self) -> Option<RawFd> {
        self.socket.as_ref().map(AsRawFd::as_raw_fd)
    }
}

/// One client of the load: it has so many turns, and asks on its lanes.
#[derive(Debug, Default)]
pub struct Client {
    /// Its lanes, by node.
    pub lanes: Vec<u32>,
    /// Requests under way.
    pub outstanding: u32,
    /// Requests answered since it connected.
    pub served: u64,
    /// Lanes that are not ready.
    pub unready: u32,
    /// Turns that wait until all of its lanes are ready.
    pub parked: u32,
    /// Whether its connections are to be replaced once nothing is under way.
    pub retiring: bool,
}
