//! The table of connections: descriptors, and what each still waits for. A
//! descriptor is closed, and its place used again, only when the ring has no
//! request left for it.
//!
//! ```text
//! Open ──(replies sent, node says end)──> Lingering ──(peer ends, or time is up)──> Closing ──> gone
//!   └────────────(broken)───────────────────────────────────────────────────────────^
//! ```

use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use socket2::SockRef;

use super::ring::Key;
use crate::node::mailbox::ConnId;

/// What a connection's receive is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiving {
    /// Not armed.
    Off,
    /// Armed: data will come by itself.
    On,
    /// Being cancelled; the last completion is still to come.
    Stopping,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// In use.
    Open,
    /// All replies are sent and our side is shut; what still arrives is thrown away,
    /// because closing over unread input would reset the replies before they are read.
    Lingering,
    /// Waits for the ring to let go of it.
    Closing,
}

/// One connection.
pub struct Connection {
    /// The socket.
    pub socket: OwnedFd,
    /// The node's session.
    pub id: ConnId,
    /// The receive.
    pub receiving: Receiving,
    /// Whether a send is under way.
    pub sending: bool,
    /// Where it is in its life.
    pub phase: Phase,
}

impl Connection {
    /// A connection on which nothing is under way.
    pub fn new(socket: OwnedFd, id: ConnId) -> Self {
        Self { socket, id, receiving: Receiving::Off, sending: false, phase: Phase::Open }
    }

    /// The ring's key for it.
    #[inline]
    pub fn key(&self) -> Key {
        Key { index: self.id.index, generation: self.id.generation }
    }

    /// The socket's number.
    #[inline]
    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Ends the connection in the given direction. At once, not by the ring: a request that
    /// nobody waits for would name a descriptor that may be another connection's by then.
    pub fn shutdown(&self, how: Shutdown) {
        // It may be broken already: its requests then end by themselves.
        let _ = SockRef::from(&self.socket).shutdown(how);
    }

    /// Whether the ring has no request for it.
    pub fn is_idle(&self) -> bool {
        self.receiving == Receiving::Off && !self.sending
    }
}

/// All connections of a core, by the node's index.
#[derive(Default)]
pub struct Connections {
    places: Vec<Option<Connection>>,
}

impl Connections {
    /// Adds a connection at its session's index.
    pub fn insert(&mut self, connection: Connection) {
        let index = connection.id.index as usize;
        if index >= self.places.len() {
            self.places.resize_with(index + 1, || None);
        }
        debug_assert!(self.places[index].is_none());
        self.places[index] = Some(connection);
    }

    /// The connection of a completion, unless it is gone.
    #[inline]
    pub fn by_key(&mut self, key: Key) -> Option<&mut Connection> {
        let connection = self.places.get_mut(key.index as usize)?.as_mut()?;
        if key.is_generation(connection.id.generation) { Some(connection) } else { None }
    }

    /// The connection of a session, unless it is gone.
    #[inline]
    pub fn by_id(&mut self, id: ConnId) -> Option<&mut Connection> {
        let connection = self.places.get_mut(id.index as usize)?.as_mut()?;
        if connection.id == id { Some(connection) } else { None }
    }

    /// Removes a connection, whose ring requests are all done.
    pub fn remove(&mut self, id: ConnId) -> Option<Connection> {
        let connection = self.places.get_mut(id.index as usize)?.take()?;
        debug_assert!(connection.is_idle() && connection.id == id);
        Some(connection)
    }

    /// The sessions of all connections.
    pub fn ids(&self) -> Vec<ConnId> {
        self.places.iter().flatten().map(|c| c.id).collect()
    }

    /// How many places there are, used or not.
    pub fn capacity(&self) -> usize {
        self.places.capacity()
    }
}
