//! Client-side caching: who keeps copies of values is told when they are no good any more (`CLIENT TRACKING`).
//!
//! The core that owns a key remembers which connections have read it, on whatever core these are, and forgets them
//! with the first change, of which it tells them. Connections that ask for prefixes instead (`BCAST`) are told of every
//! change of such keys, and no read is remembered. The memory for this is bounded: if there are too many keys, those
//! that were read longest ago count as changed. So a client may be told too much, and never too little.
//!
//! ```text
//! owner: read ─> readers of the key           change ─> notice to each reader's core ─> push, behind all replies so far
//! ```
//!
//! A connection that tracks stays on its core, so that notices find it. A notice is written behind the replies to all
//! requests that the connection has sent before: a reply that was read before the change cannot come after it.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashTable;

use super::Node;
use super::batch::reply;
use super::mailbox::ConnId;
use super::session::Session;
use crate::command::table::Spec;
use crate::command::{Args, ReplySink, Span, SyntaxError};
use crate::engine::At;
use crate::protocol::resp::Version;

/// Keys of which readers are remembered at one core, as many as redis-server remembers by default.
const KEYS_MAX: usize = 1_000_000;
/// What that may take: one part in so many of the core's memory.
const BUDGET_PART: u64 = 16;
/// Prefixes of one connection.
const PREFIXES_MAX: usize = 256;

/// A connection that keeps copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Its core.
    core: usize,
    /// Its place there.
    conn: ConnId,
    /// Whether it is not told of its own changes.
    no_loop: bool,
}

impl Reader {
    /// The number by which the engine knows who changes a key. Never 0.
    pub fn actor(core: usize, conn: ConnId) -> u64 {
        (core as u64 + 1) << 56 | u64::from(conn.generation & 0xff_ffff) << 32 | u64::from(conn.index)
    }

    fn order(&self) -> (usize, u32, u32) {
        (self.core, self.conn.index, self.conn.generation)
    }

    fn skips(&self, actor: u64) -> bool {
        self.no_loop && actor == Self::actor(self.core, self.conn)
    }
}

/// A connection that is told of all changes of keys with some prefixes; of all keys, if there are none.
#[derive(Clone, Debug)]
pub struct Broadcast {
    reader: Reader,
    prefixes: Vec<Vec<u8>>,
}

impl Broadcast {
    fn is_about(&self, key: &[u8]) -> bool {
        self.prefixes.is_empty() || self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }
}

/// Which reads a connection tracks unless it says otherwise for the next command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    All,
    /// Only after `CLIENT CACHING YES`.
    OptIn,
    /// Not after `CLIENT CACHING NO`.
    OptOut,
    /// None: it is told of all changes of keys with its prefixes.
    Broadcast,
}

/// What a session tracks.
#[derive(Debug)]
pub struct Tracking {
    mode: Mode,
    no_loop: bool,
    prefixes: Vec<Vec<u8>>,
    /// What `CLIENT CACHING` said of the next command.
    caching: Option<bool>,
    /// Whether the command that is being executed is tracked.
    now: bool,
    /// Notices that wait for the end of a reply that is handed out in pieces.
    held: Vec<u8>,
}

impl Tracking {
    /// Memory held.
    pub fn held_bytes(&self) -> usize {
        let prefixes: usize = self.prefixes.iter().map(|prefix| size_of_val(prefix) + prefix.capacity()).sum();
        size_of::<Self>() + prefixes + self.held.capacity()
    }
}

/// A key and who has read it.
#[derive(Debug)]
struct Tracked {
    at: At,
    key: Box<[u8]>,
    /// In the order of [`Reader::order`].
    readers: Vec<Reader>,
}

impl Tracked {
    fn bytes(&self) -> usize {
        2 * size_of::<Self>() + self.key.len() + self.readers.capacity() * size_of::<Reader>()
    }
}

/// What a core remembers of readers.
#[derive(Debug, Default)]
pub(super) struct Readers {
    keys: HashTable<Tracked>,
    /// Keys in the order in which they were first read, and some that are forgotten.
    order: VecDeque<At>,
    bytes: usize,
    broadcasts: Vec<Broadcast>,
    /// Notices for connections of this core, until the turn ends, and the bytes of their keys.
    notices: Vec<(ConnId, Option<Span>)>,
    notice_bytes: Vec<u8>,
}

impl Readers {
    /// How many keys have readers.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// Memory held.
    pub fn held_bytes(&self) -> usize {
        let prefixes =
            |b: &Broadcast| b.prefixes.iter().map(|prefix| size_of_val(prefix) + prefix.capacity()).sum::<usize>();
        let broadcasts: usize = self.broadcasts.iter().map(|b| size_of::<Broadcast>() + prefixes(b)).sum();
        self.bytes + self.order.capacity() * size_of::<At>() + broadcasts
    }

    fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.broadcasts.is_empty()
    }

    fn add(&mut self, at: At, key: &[u8], reader: Reader) {
        let is_it = |tracked: &Tracked| tracked.at == at && *tracked.key == *key;
        if let Some(tracked) = self.keys.find_mut(at.hash.0, is_it) {
            let before = tracked.bytes();
            match tracked.readers.binary_search_by_key(&reader.order(), Reader::order) {
                Ok(place) => tracked.readers[place] = reader,
                Err(place) => tracked.readers.insert(place, reader),
            }
            self.bytes += tracked.bytes() - before;
            return;
        }
        let tracked = Tracked { at, key: key.into(), readers: vec![reader] };
        self.bytes += tracked.bytes();
        self.keys.insert_unique(at.hash.0, tracked, |tracked| tracked.at.hash.0);
        self.order.push_back(at);
        if self.order.len() > 2 * self.keys.len() + 1024 {
            let keys = &self.keys;
            self.order.retain(|at| keys.find(at.hash.0, |tracked| tracked.at == *at).is_some());
        }
    }

    fn remove(&mut self, at: At) -> Option<Tracked> {
        let (tracked, _) = self.keys.find_entry(at.hash.0, |tracked| tracked.at == at).ok()?.remove();
        self.bytes -= tracked.bytes();
        Some(tracked)
    }
}

impl Session {
    /// Whether reads of the command that is being executed are tracked, and if so, whether the client is told of its own changes.
    #[inline]
    pub(super) fn tracks(&self) -> Option<bool> {
        self.tracking.as_ref().filter(|tracking| tracking.now).map(|tracking| tracking.no_loop)
    }

    /// Whether reads of the command that is being executed are tracked.
    #[inline]
    pub(super) fn is_tracked(&self) -> bool {
        self.tracking.as_ref().is_some_and(|tracking| tracking.now)
    }

    /// Decides whether the next command is tracked.
    #[cold]
    pub(super) fn begin_tracked(&mut self, spec: &Spec) {
        let Some(tracking) = &mut self.tracking else { return };
        let wants = match tracking.mode {
            Mode::All => true,
            Mode::OptIn => tracking.caching == Some(true),
            Mode::OptOut => tracking.caching != Some(false),
            Mode::Broadcast => false,
        };
        tracking.now = wants && (spec.flags.reads() || spec.name == "getlease");
        if !spec.is_container() {
            tracking.caching = None;
        }
    }
}

impl Node {
    /// A connection has read a key of this core, and keeps a copy.
    #[cold]
    pub(super) fn track(&mut self, at: At, key: &[u8], core: usize, conn: ConnId, no_loop: bool) {
        self.readers.add(at, key, Reader { core, conn, no_loop });
        self.shard.watch_changes(true);
        let bytes_max = (self.shard.budget_bytes() / BUDGET_PART) as usize;
        while self.readers.keys.len() > KEYS_MAX || self.readers.bytes > bytes_max {
            let Some(oldest) = self.readers.order.pop_front() else { break };
            if let Some(tracked) = self.readers.remove(oldest) {
                self.notify(&tracked, 0);
            }
        }
    }

    /// The same for a session of this core.
    pub(super) fn track_own(&mut self, session: &Session, id: ConnId, at: At, key: &[u8]) {
        let no_loop = session.tracking.as_ref().is_some_and(|tracking| tracking.no_loop);
        self.track(at, key, self.core, id, no_loop);
    }

    /// Whether there are changes that somebody is to be told of.
    #[inline]
    pub fn has_notices(&self) -> bool {
        self.shard.has_changes() || !self.readers.notices.is_empty()
    }

    /// Tells the readers of keys that have changed. Called in every turn, and after background work.
    #[inline]
    pub fn tell_readers(&mut self) {
        if self.has_notices() {
            self.tell_of_changes();
        }
    }

    #[cold]
    fn tell_of_changes(&mut self) {
        let changes = self.shard.take_changes();
        for change in &changes.list {
            if let Some(tracked) = self.readers.remove(change.at) {
                self.notify(&tracked, change.actor);
            }
            let key = change.key.of(&changes.bytes);
            for i in 0..self.readers.broadcasts.len() {
                let broadcast = &self.readers.broadcasts[i];
                if broadcast.is_about(key) && !broadcast.reader.skips(change.actor) {
                    self.send_notice(broadcast.reader, Some(key));
                }
            }
        }
        self.watch_if_needed();
        let (notices, bytes) =
            (std::mem::take(&mut self.readers.notices), std::mem::take(&mut self.readers.notice_bytes));
        for (conn, key) in notices {
            self.accept_notice(conn, key.map(|key| key.of(&bytes)));
        }
    }

    fn watch_if_needed(&mut self) {
        if self.readers.is_empty() {
            self.readers.order = VecDeque::new();
            self.shard.watch_changes(false);
        }
    }

    fn notify(&mut self, tracked: &Tracked, actor: u64) {
        for reader in tracked.readers.iter().filter(|reader| !reader.skips(actor)) {
            self.send_notice(*reader, Some(&tracked.key));
        }
    }

    /// All keys of this core are gone.
    pub(super) fn tell_of_flush(&mut self) {
        let mut readers: Vec<Reader> = self.readers.broadcasts.iter().map(|broadcast| broadcast.reader).collect();
        for tracked in std::mem::take(&mut self.readers.keys) {
            readers.extend(tracked.readers);
        }
        self.readers.bytes = 0;
        readers.sort_unstable_by_key(Reader::order);
        readers.dedup_by_key(|reader| reader.order());
        readers.into_iter().for_each(|reader| self.send_notice(reader, None));
        self.watch_if_needed();
    }

    fn send_notice(&mut self, reader: Reader, key: Option<&[u8]>) {
        self.counters.tracking_notices += 1;
        if reader.core == self.core {
            // The connection may be the one that is being served.
            let bytes = &mut self.readers.notice_bytes;
            let start = bytes.len();
            bytes.extend_from_slice(key.unwrap_or_default());
            let key = key.map(|_| Span::new(start, bytes.len()));
            return self.readers.notices.push((reader.conn, key));
        }
        let parcel = &mut self.outbox[reader.core];
        let key = key.map(|key| parcel.put(key));
        parcel.notices.push((reader.conn, key));
    }

    /// A key that a session of this core has read has changed, or all have.
    pub(super) fn accept_notice(&mut self, id: ConnId, key: Option<&[u8]>) {
        let Some(mut session) = self.take(id) else { return };
        if session.version == Version::Resp3 && session.tracking.is_some() {
            self.lend_buffer(&mut session);
            // A list that is handed out in pieces is not to be parted.
            let waits = session.gathering.is_some();
            let buffer = match &mut session.tracking {
                Some(tracking) if waits => &mut tracking.held,
                _ => session.output.buffer(),
            };
            buffer.extend_from_slice(b">2\r\n$10\r\ninvalidate\r\n");
            match key {
                None => buffer.extend_from_slice(b"_\r\n"),
                Some(key) => {
                    buffer.extend_from_slice(format!("*1\r\n${}\r\n", key.len()).as_bytes());
                    buffer.extend_from_slice(key);
                    buffer.extend_from_slice(b"\r\n");
                }
            }
        }
        self.put_back(id, session);
    }

    /// Hands out the notices that had to wait.
    #[cold]
    pub(super) fn release_notices(&mut self, session: &mut Session) {
        if session.gathering.is_none()
            && let Some(tracking) = &mut session.tracking
            && !tracking.held.is_empty()
        {
            let held = std::mem::take(&mut tracking.held);
            session.output.buffer().extend_from_slice(&held);
        }
    }

    /// From now on a connection is told of all changes of keys with its prefixes.
    pub(super) fn broadcast(&mut self, broadcast: &Broadcast) {
        self.forget_broadcast(broadcast.reader.core, broadcast.reader.conn);
        self.readers.broadcasts.push(broadcast.clone());
        self.shard.watch_changes(true);
    }

    /// A connection wants no more notices.
    pub(super) fn forget_broadcast(&mut self, core: usize, conn: ConnId) {
        self.readers.broadcasts.retain(|b| (b.reader.core, b.reader.conn) != (core, conn));
        self.watch_if_needed();
    }

    /// Lets a session track no more.
    pub(super) fn end_tracking(&mut self, id: ConnId, session: &mut Session) {
        let Some(tracking) = session.tracking.take() else { return };
        self.counters.tracking_clients -= 1;
        if tracking.mode != Mode::Broadcast {
            return;
        }
        for core in 0..self.outbox.len() {
            if core == self.core {
                self.forget_broadcast(core, id);
            } else {
                self.outbox[core].departed.push(id);
            }
        }
    }

    /// `CLIENT TRACKING ON|OFF [PREFIX prefix]… [BCAST] [OPTIN] [OPTOUT] [NOLOOP]`. What every core is to know, if anything.
    pub(super) fn client_tracking(
        &mut self,
        id: ConnId,
        session: &mut Session,
        args: Args<'_>,
    ) -> Result<Option<Arc<Broadcast>>, SyntaxError> {
        use SyntaxError::Other;
        let (mut mode, mut no_loop, mut prefixes) = (Mode::All, false, Vec::new());
        let mut i = 3;
        while i < args.len() {
            let wanted = match args.get(i).to_ascii_lowercase().as_slice() {
                b"bcast" => Some(Mode::Broadcast),
                b"optin" => Some(Mode::OptIn),
                b"optout" => Some(Mode::OptOut),
                b"noloop" => {
                    no_loop = true;
                    None
                }
                b"prefix" if i + 1 < args.len() => {
                    i += 1;
                    prefixes.push(args.get(i).to_vec());
                    None
                }
                b"redirect" => {
                    return Err(Other("ERR REDIRECT is not supported; HELLO 3 gets notices on the connection itself"));
                }
                _ => return Err(SyntaxError::Syntax),
            };
            if let Some(wanted) = wanted {
                if mode != Mode::All && mode != wanted {
                    return Err(Other(match (mode, wanted) {
                        (Mode::Broadcast, _) | (_, Mode::Broadcast) => {
                            "ERR OPTIN and OPTOUT are not compatible with BCAST"
                        }
                        _ => "ERR You can't specify both OPTIN mode and OPTOUT mode",
                    }));
                }
                mode = wanted;
            }
            i += 1;
        }
        let on = match args.get(2).to_ascii_lowercase().as_slice() {
            b"on" => true,
            b"off" => false,
            _ => return Err(SyntaxError::Syntax),
        };
        if !on {
            self.end_tracking(id, session);
            return Ok(None);
        }
        if !prefixes.is_empty() && mode != Mode::Broadcast {
            return Err(Other("ERR PREFIX option requires BCAST mode to be enabled"));
        }
        let before = session.tracking.as_deref();
        if before.is_some_and(|before| (before.mode == Mode::Broadcast) != (mode == Mode::Broadcast)) {
            return Err(Other(
                "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a different mode.",
            ));
        }
        if before.is_some_and(|before| mode != Mode::Broadcast && before.mode != mode) {
            return Err(Other(
                "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a different mode.",
            ));
        }
        // More prefixes are added to those there are.
        let mut all: Vec<Vec<u8>> = before.map(|before| before.prefixes.clone()).unwrap_or_default();
        for prefix in prefixes {
            if all.iter().any(|other| *other != prefix && (other.starts_with(&prefix) || prefix.starts_with(other))) {
                return Err(Other("ERR prefixes of one client must not overlap: a key would be named twice"));
            }
            if !all.contains(&prefix) {
                all.push(prefix);
            }
        }
        if all.len() > PREFIXES_MAX {
            return Err(Other("ERR a client has 256 prefixes at most"));
        }
        if before.is_none() {
            self.counters.tracking_clients += 1;
        }
        // It stays here, so that notices find it.
        session.move_to = None;
        let tracking = Tracking { mode, no_loop, prefixes: all.clone(), caching: None, now: false, held: Vec::new() };
        session.tracking = Some(Box::new(tracking));
        let reader = Reader { core: self.core, conn: id, no_loop };
        Ok((mode == Mode::Broadcast).then(|| Arc::new(Broadcast { reader, prefixes: all })))
    }
}

/// `CLIENT CACHING YES|NO`
pub(super) fn client_caching(session: &mut Session, args: Args<'_>) -> Result<(), SyntaxError> {
    use SyntaxError::Other;
    let Some(tracking) = &mut session.tracking else {
        return Err(Other(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
        ));
    };
    let yes = args.is(2, "yes");
    tracking.caching = match (yes, args.is(2, "no"), tracking.mode) {
        (true, _, Mode::OptIn) => Some(true),
        (true, ..) => {
            return Err(Other("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode."));
        }
        (_, true, Mode::OptOut) => Some(false),
        (_, true, _) => {
            return Err(Other("ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode."));
        }
        _ => return Err(SyntaxError::Syntax),
    };
    reply(session, "").status("OK");
    Ok(())
}

/// `CLIENT TRACKINGINFO`
pub(super) fn client_tracking_info(session: &mut Session) {
    let (mut flags, mut prefixes) = (vec!["off"], Vec::new());
    if let Some(tracking) = &session.tracking {
        flags = vec!["on"];
        match tracking.mode {
            Mode::All => {}
            Mode::Broadcast => flags.push("bcast"),
            Mode::OptIn => flags.push("optin"),
            Mode::OptOut => flags.push("optout"),
        }
        flags.extend(tracking.caching.map(|yes| if yes { "caching-yes" } else { "caching-no" }));
        flags.extend(tracking.no_loop.then_some("noloop"));
        prefixes = tracking.prefixes.clone();
    }
    let redirect = if session.tracking.is_some() { 0 } else { -1 };
    let mut out = reply(session, "");
    out.map(3);
    out.bulk(b"flags");
    out.set(flags.len());
    flags.iter().for_each(|flag| out.bulk(flag.as_bytes()));
    out.bulk(b"redirect");
    out.integer(redirect);
    out.bulk(b"prefixes");
    out.array(prefixes.len());
    prefixes.iter().for_each(|prefix| out.bulk(prefix));
}
