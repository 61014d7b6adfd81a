//! Who keeps copies of this core's keys, and is told when they change.
//!
//! ```text
//! engine: changes ─> tellings: a key and its readers ─> notices, some in each slice ─> the readers' cores
//! ```
//!
//! A key is forgotten with the first change, and all its readers are told. Telling goes in slices: a reader may hear of a
//! change a little later, but never before the replies to what it has asked before. Where much memory would be needed to
//! name a long key to many, they are told that all keys have changed.

use std::collections::VecDeque;

use hashbrown::{HashTable, hash_table};

use super::mailbox::{ConnId, Form, Notice, NoticeKind, Token, Work};
use super::tracking::Broadcast;
use super::{Node, Waiting};
use crate::command::OpError;
use crate::engine::At;
use crate::engine::changes::Changes;
use crate::protocol::resp::Version;

/// Keys of which readers are remembered at one core, as many as redis-server remembers by default.
const KEYS_MAX: usize = 1_000_000;
/// What that may take: one part in so many of the core's memory.
const BUDGET_PART: u64 = 16;
/// What prefixes may take: one part in so many.
const PREFIXES_PART: u64 = 64;
/// The keys are in so many tables, so that none takes long to grow.
const TABLES: usize = 256;
/// Notices, changes that are compared with prefixes, and the like, in one slice.
const SLICE_WORK: usize = 512;
/// Bytes of notices of one change, above which its readers drop all their copies.
const NOTICE_BYTES_MAX: usize = 256 << 10;
/// Keys that are forgotten to make room for one.
const FORGOTTEN_EACH: usize = 8;
/// Entries of a flushed table that are dropped in one step.
const DROPPED_EACH: usize = 64;

/// A connection that keeps copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Its core.
    pub core: usize,
    /// Its place there.
    pub conn: ConnId,
    /// Whether it is not told of its own changes.
    pub no_loop: bool,
}

impl Reader {
    /// The number by which the engine knows who changes a key. Never 0.
    pub fn actor(core: usize, conn: ConnId) -> u64 {
        (core as u64 + 1) << 56 | u64::from(conn.generation & 0xff_ffff) << 32 | u64::from(conn.index)
    }

    fn order(&self) -> (usize, ConnId) {
        (self.core, self.conn)
    }

    fn skips(&self, actor: u64) -> bool {
        self.no_loop && actor == Self::actor(self.core, self.conn)
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

/// A change that is being told: of a key, or of all.
#[derive(Debug)]
struct Telling {
    key: Option<Box<[u8]>>,
    readers: Vec<Reader>,
    /// How many of them have been told.
    told: usize,
    actor: u64,
}

/// What a core remembers of readers.
#[derive(Debug)]
pub(super) struct Readers {
    tables: Vec<HashTable<Tracked>>,
    keys: usize,
    bytes: usize,
    /// The table in which the next key is forgotten to make room.
    hand: usize,
    broadcasts: Vec<Broadcast>,
    changes: VecDeque<(Changes, usize)>,
    tellings: VecDeque<Telling>,
    /// Whether a slice is to come.
    queued: bool,
    /// Flushed tables, which are dropped in steps.
    flushed: Vec<hash_table::IntoIter<Tracked>>,
}

impl Default for Readers {
    fn default() -> Self {
        Self {
            tables: (0..TABLES).map(|_| HashTable::new()).collect(),
            keys: 0,
            bytes: 0,
            hand: 0,
            broadcasts: Vec::new(),
            changes: VecDeque::new(),
            tellings: VecDeque::new(),
            queued: false,
            flushed: Vec::new(),
        }
    }
}

impl Readers {
    /// How many keys have readers.
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// Memory held.
    pub fn held_bytes(&self) -> usize {
        let telling = |t: &Telling| size_of_val(t) + t.readers.capacity() * size_of::<Reader>();
        self.bytes + self.prefix_bytes() + self.tellings.iter().map(telling).sum::<usize>()
    }

    fn prefix_bytes(&self) -> usize {
        self.broadcasts.iter().map(Broadcast::held_bytes).sum()
    }

    fn is_empty(&self) -> bool {
        self.keys == 0 && self.broadcasts.is_empty()
    }

    fn table(&mut self, at: At) -> &mut HashTable<Tracked> {
        // Bits that the tables themselves hardly look at.
        &mut self.tables[(at.hash.0 >> 40) as usize % TABLES]
    }

    fn add(&mut self, at: At, key: &[u8], reader: Reader) {
        let is_it = |tracked: &Tracked| tracked.at == at && *tracked.key == *key;
        if let Some(tracked) = self.table(at).find_mut(at.hash.0, is_it) {
            let before = tracked.bytes();
            match tracked.readers.binary_search_by_key(&reader.order(), Reader::order) {
                Ok(place) => tracked.readers[place] = reader,
                Err(place) => tracked.readers.insert(place, reader),
            }
            let more = tracked.bytes() - before;
            self.bytes += more;
            return;
        }
        let tracked = Tracked { at, key: key.into(), readers: vec![reader] };
        (self.keys, self.bytes) = (self.keys + 1, self.bytes + tracked.bytes());
        self.table(at).insert_unique(at.hash.0, tracked, |tracked| tracked.at.hash.0);
    }

    fn remove(&mut self, at: At, key: &[u8]) -> Option<Tracked> {
        let is_it = |tracked: &Tracked| tracked.at == at && *tracked.key == *key;
        let (tracked, _) = self.table(at).find_entry(at.hash.0, is_it).ok()?.remove();
        (self.keys, self.bytes) = (self.keys - 1, self.bytes - tracked.bytes());
        Some(tracked)
    }

    /// Forgets a key to make room: its readers are to be told as if it had changed.
    fn forget_one(&mut self) {
        for _ in 0..TABLES {
            self.hand = (self.hand + 1) % TABLES;
            if let Some(first) = self.tables[self.hand].iter().next() {
                let (at, key) = (first.at, first.key.clone());
                if let Some(tracked) = self.remove(at, &key) {
                    self.tell(tracked, 0);
                }
                return;
            }
        }
    }

    fn tell(&mut self, tracked: Tracked, actor: u64) {
        self.tellings.push_back(Telling { key: Some(tracked.key), readers: tracked.readers, told: 0, actor });
    }

    /// Finds out who is to be told of some of the changes; answers about how much work that was.
    fn take_up_changes(&mut self) -> usize {
        let Some((changes, from)) = self.changes.pop_front() else { return 0 };
        let mut work = 0;
        let mut next = from;
        while let Some(change) = changes.list.get(next)
            && work < SLICE_WORK
        {
            let key = change.key.of(&changes.bytes);
            if let Some(tracked) = self.remove(change.at, key) {
                self.tell(tracked, change.actor);
            }
            let about = self.broadcasts.iter().filter(|broadcast| broadcast.is_about(key));
            let readers: Vec<Reader> = about.map(|broadcast| broadcast.reader).collect();
            if !readers.is_empty() {
                self.tellings.push_back(Telling { key: Some(key.into()), readers, told: 0, actor: change.actor });
            }
            work += 1 + self.broadcasts.iter().map(Broadcast::prefixes).sum::<usize>() / 8;
            next += 1;
        }
        if next < changes.list.len() {
            self.changes.push_front((changes, next));
        }
        work
    }

    /// Drops some of what was flushed; answers whether more is left.
    pub fn step(&mut self) -> bool {
        let Some(last) = self.flushed.last_mut() else { return false };
        if last.by_ref().take(DROPPED_EACH).count() < DROPPED_EACH {
            self.flushed.pop();
        }
        true
    }
}

impl Node {
    /// A connection has read a key of this core, and keeps a copy.
    #[cold]
    pub(super) fn track(&mut self, at: At, key: &[u8], reader: Reader) {
        self.readers.add(at, key, reader);
        self.shard.watch_changes(true);
        let bytes_max = (self.shard.budget_bytes() / BUDGET_PART) as usize;
        for _ in 0..FORGOTTEN_EACH {
            if self.readers.keys <= KEYS_MAX && self.readers.bytes <= bytes_max {
                return;
            }
            self.readers.forget_one();
        }
    }

    /// Whether there are changes that somebody is to be told of.
    #[inline]
    pub fn has_notices(&self) -> bool {
        self.shard.has_changes() || !self.readers.tellings.is_empty() || !self.readers.changes.is_empty()
    }

    /// Tells the readers of keys that have changed. Called in every turn.
    #[inline]
    pub fn tell_readers(&mut self) {
        if self.has_notices() && !self.readers.queued {
            self.tell_some();
        }
    }

    /// The slice that was queued.
    pub(super) fn tell_on_in_turn(&mut self) {
        self.readers.queued = false;
        self.tell_some();
    }

    /// A slice of telling.
    #[cold]
    pub fn tell_some(&mut self) {
        if self.shard.has_changes() {
            self.readers.changes.push_back((self.shard.take_changes(), 0));
        }
        let mut work = self.readers.take_up_changes();
        while work < SLICE_WORK
            && let Some(mut telling) = self.readers.tellings.pop_front()
        {
            work += self.tell_of(&mut telling, SLICE_WORK - work);
            if telling.told < telling.readers.len() {
                self.readers.tellings.push_front(telling);
            }
        }
        self.watch_if_needed();
        if self.has_notices() && !std::mem::replace(&mut self.readers.queued, true) {
            self.waiting.push_back(Waiting::Notices);
        }
    }

    /// Tells up to `most` readers; answers how many.
    fn tell_of(&mut self, telling: &mut Telling, most: usize) -> usize {
        let length = telling.key.as_ref().map_or(0, |key| key.len());
        let key = telling.key.as_deref().filter(|_| length * telling.readers.len() <= NOTICE_BYTES_MAX);
        // Readers are in the order of their cores: each core gets the key once.
        let mut placed = None;
        let from = telling.told;
        for reader in telling.readers.iter().skip(from).take(most) {
            telling.told += 1;
            if reader.skips(telling.actor) {
                continue;
            }
            self.counters.tracking_notices += 1;
            if reader.core == self.core {
                self.accept_notice(reader.conn, key);
                continue;
            }
            let parcel = &mut self.outbox[reader.core];
            let span = match placed {
                Some((core, span)) if core == reader.core => span,
                _ => key.map(|key| parcel.put(key)),
            };
            placed = Some((reader.core, span));
            parcel.notices.push(Notice { conn: reader.conn, key: span, kind: NoticeKind::Changed });
        }
        telling.told - from
    }

    fn watch_if_needed(&mut self) {
        if self.readers.is_empty() && self.readers.changes.is_empty() {
            self.shard.watch_changes(false);
        }
    }

    /// All keys of this core are gone: all connections that track, on whatever core, drop their copies.
    pub(super) fn tell_of_flush(&mut self) {
        if self.readers.is_empty() && !self.has_notices() {
            return;
        }
        let tables = self.readers.tables.iter_mut().filter(|table| !table.is_empty()).map(std::mem::take);
        self.readers.flushed.extend(tables.map(|table| table.into_iter()));
        (self.readers.keys, self.readers.bytes) = (0, 0);
        for core in 0..self.outbox.len() {
            if core == self.core {
                self.tell_all_here();
            } else {
                self.outbox[core].notices.push(Notice { conn: ConnId::ALL, key: None, kind: NoticeKind::Changed });
            }
        }
    }

    /// Tells all connections of this core that track to drop all copies.
    fn tell_all_here(&mut self) {
        let core = self.core;
        let sessions = self.places.iter().enumerate();
        let readers: Vec<Reader> = sessions
            .filter(|(_, place)| place.session.as_ref().is_none_or(|session| session.tracking.is_some()))
            .map(|(index, place)| ConnId { index: index as u32, generation: place.generation })
            .map(|conn| Reader { core, conn, no_loop: false })
            .collect();
        self.readers.tellings.push_back(Telling { key: None, readers, told: 0, actor: 0 });
    }

    /// A key that a session of this core has read has changed, or all have. It is not told while that session is served.
    pub(super) fn accept_notice(&mut self, id: ConnId, key: Option<&[u8]>) {
        if id == ConnId::ALL {
            return self.tell_all_here();
        }
        let Some(mut session) = self.take(id) else { return };
        if self.redirect_notice(id, &mut session, key) {
            // Another connection hears of it.
        } else if session.version == Version::Resp3 && session.tracking.is_some() {
            self.spare.lend(&mut session);
            session.write_notice(key);
        }
        self.put_back(id, session);
    }

    /// From now on a connection is told of all changes of keys with its prefixes.
    ///
    /// # Errors
    /// The prefixes of all connections take too much memory.
    pub(super) fn broadcast(&mut self, broadcast: &Broadcast) -> Result<(), OpError> {
        self.forget_broadcast(broadcast.reader.core, broadcast.reader.conn);
        let bytes_max = (self.shard.budget_bytes() / PREFIXES_PART) as usize;
        if self.readers.prefix_bytes() + broadcast.held_bytes() > bytes_max {
            return Err(OpError::OutOfMemory);
        }
        self.readers.broadcasts.push(broadcast.clone());
        self.shard.watch_changes(true);
        Ok(())
    }

    /// A connection wants no more notices of prefixes.
    pub(super) fn forget_broadcast(&mut self, core: usize, conn: ConnId) {
        self.readers.broadcasts.retain(|b| (b.reader.core, b.reader.conn) != (core, conn));
        self.watch_if_needed();
    }

    /// A connection of another core is gone, or takes no more part in leases and notices.
    pub(super) fn depart(&mut self, core: usize, conn: ConnId) {
        self.forget_broadcast(core, conn);
        self.waiters.depart(core, conn);
    }

    /// Has all other cores do something for a connection, in the order of its requests, without a reply.
    pub(super) fn tell_others(&mut self, id: ConnId, work: Work) {
        for core in (0..self.outbox.len()).filter(|&core| core != self.core) {
            let token = Token { conn: id, sequence: 0, part: 0 };
            let form = Form::Resp { version: Version::default(), command: "", tracked: None };
            self.outbox[core].ask(token, &form, work.clone());
        }
    }
}
