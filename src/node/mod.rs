//! Floor 3: what one core does, without sockets or clocks. The io room hands in
//! bytes, parcels and the time; the node answers with bytes to send, parcels to
//! deliver and connections to close or move. Tests and simulations do the same.
//!
//! ```text
//! receive ─> session ─> batch: parse, hash, prefetch ─┬─> shard (this core's keys) ─> output
//!                                                      └─> outbox (another core's)  ─> parcel
//! deliver <─ parcel <─ inbox: requests to execute, replies to put in their places
//! ```
//!
//! Large values pass in pieces: in by `inflow`, out by `stream`.

mod auth;
mod batch;
pub mod bounds;
mod cluster;
mod commands;
mod copies;
mod foresight;
mod gather;
pub mod hotkeys;
mod http;
mod inflow;
mod info;
mod keys;
pub mod mailbox;
mod memcache;
mod memory;
mod output;
mod readers;
mod redirect;
mod retired;
mod serve;
pub mod session;
pub mod settings;
mod spare;
pub mod stats;
mod steering;
mod stream;
mod sweep;
pub mod topology;
pub mod tracking;
mod waiters;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use batch::Batch;
use bounds::Bounds;
use copies::Copies;
use foresight::Foresight;
use hotkeys::HotKeys;
use mailbox::{ConnId, Parcel};
use memory::Pace;
use readers::Readers;
use redirect::Subscribers;
use retired::Retired;
use session::{Protocol, Scope, Session, State};
use settings::Budget;
use spare::Spare;
use stats::{CoreSnapshot, MemoryStats};
use topology::Topology;
use waiters::Waiters;

use crate::base::{KeyHasher, Passwords, UnixMillis};
use crate::engine::{At, Policy, Shard};
use crate::protocol;
use crate::protocol::resp;

/// What clients may demand, in bytes and counts.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a key.
    pub key_bytes_max: usize,
    /// Bytes of a value, and of any argument.
    pub value_bytes_max: usize,
    /// Arguments of a request.
    pub args_max: usize,
    /// Bytes received and not executed, for each connection.
    pub request_bytes_max: usize,
    /// Bytes of replies not taken above which a connection's requests wait.
    pub output_soft_bytes_max: usize,
    /// Bytes of replies not taken above which a connection is closed.
    pub output_hard_bytes_max: usize,
    /// Bytes of a value from which on it is sent and received in pieces.
    pub stream_bytes_min: usize,
}

/// What the server says about itself.
#[derive(Clone, Debug)]
pub struct ServerInfo {
    /// 40 hexadecimal digits, new at each start.
    pub run_id: String,
    /// The process.
    pub pid: u32,
    /// The shared port, 0 if there is none.
    pub port: u16,
    /// When the process started.
    pub started_at: UnixMillis,
    /// The CPU this core is pinned to.
    pub cpu: usize,
    /// What `CONFIG GET` answers beside memory and policy: names and values.
    pub settings: Vec<(String, String)>,
    /// What `HELLO` answers: name and version.
    pub hello: String,
    /// The memory of every core.
    pub budgets: Vec<Budget>,
    /// What gives way when it is full.
    pub policy: Policy,
    /// How much of the process's memory is in huge pages, kept up to date by the control thread.
    pub huge_page_bytes: Arc<AtomicU64>,
}

/// All that a node is made of.
pub struct NodeConfig {
    /// This core's index.
    pub core: usize,
    /// Who owns which slots.
    pub topology: Topology,
    /// What clients may demand.
    pub limits: Limits,
    /// How long keys live.
    pub bounds: Bounds,
    /// From which part of a core's load on other cores have copies of a key, in millionths; 0 for never.
    pub copy_share_ppm: u32,
    /// What clients must know, if anything.
    pub passwords: Option<Arc<Passwords>>,
    /// What to say about the server.
    pub server: ServerInfo,
    /// The seed that all cores share.
    pub hasher: KeyHasher,
}

/// What [`Limits::stream_bytes_min`] is in a server. The copy of a shorter value costs less than what a
/// stream of its own does, and values of this length have extents whatever the budget.
pub const STREAM_BYTES_MIN: usize = 1 << 20;
/// Bytes of one parcel above which no session adds another request.
const REQUESTS_BYTES_MAX: usize = 64 << 20;
/// Values of the largest size that connections may always hold together.
const VALUES_HELD_MIN: u64 = 4;
/// How long replies wait for those of other cores before they go without: a core that is off its CPU may take longer.
const HELD_MS_MAX: u64 = 2;
/// Bytes of input of a session that waits for its next slice, above which it wants no more.
const BEHIND_BYTES_MAX: usize = 64 << 10;
/// What a session counts for from its first moment on, until all that sessions hold is counted again: itself, its place,
/// its connection in the io room, and small buffers.
const SESSION_BYTES: u64 = (size_of::<Session>() + size_of::<Place>() + 128) as u64;

/// Records of which the counters tell how often they were read.
const REFS_SAMPLE: usize = 256;

/// Requests of another core that are not all executed yet.
struct Deferred {
    parcel: Parcel,
    /// The first of them.
    next: usize,
}

/// What waits for its next slice.
#[derive(Clone, Copy, Debug)]
enum Waiting {
    /// A session with more input than one slice executes, or in the middle of a request.
    Session(ConnId),
    /// Requests of another core.
    Requests(usize),
    /// Requests that waited for a fill.
    Waiters,
    /// Readers of keys that have changed.
    Notices,
}

/// A place in the table of sessions.
#[derive(Default)]
struct Place {
    generation: u32,
    session: Option<Box<Session>>,
}

/// One core: its keys, its sessions and what it has for other cores.
pub struct Node {
    core: usize,
    topology: Topology,
    limits: Limits,
    resp_limits: resp::Limits,
    /// The same before a client has given a password.
    unauthenticated_limits: resp::Limits,
    http_limits: protocol::http::Limits,
    passwords: Option<Arc<Passwords>>,
    server: ServerInfo,
    hasher: KeyHasher,
    bounds: Bounds,
    shard: Shard,
    places: Vec<Place>,
    free: Vec<u32>,
    sessions_opened: u64,
    /// Sessions with something for the io room, each once, in the order in which they came to have it.
    listed: VecDeque<ConnId>,
    outbox: Vec<Parcel>,
    /// For each core, its requests that wait until the replies before them are taken.
    deferred: Vec<VecDeque<Deferred>>,
    /// Whether a parcel is so full of requests that sessions must wait.
    congested: bool,
    /// The sessions that do.
    stalled: Vec<ConnId>,
    /// What goes on with a slice when [`Node::go_on`] is called, in this order.
    waiting: VecDeque<Waiting>,
    /// For each core, whether its requests are among them.
    serving: Vec<bool>,
    /// Requests executed.
    executed: u64,
    batch: Batch,
    foresight: Foresight,
    /// Sessions whose replies wait for those of other cores, and since when.
    held: VecDeque<(UnixMillis, ConnId)>,
    memcache_batch: memcache::Batch,
    scratch: Vec<u8>,
    places_scratch: Vec<(At, usize)>,
    spare: Spare,
    retired: Retired,
    /// Writes refused for want of memory when that was last looked at.
    refused_before: u64,
    counters: CoreSnapshot,
    hand_pace: Pace,
    hot: HotKeys,
    /// When all keys are to be deleted.
    flush_at: UnixMillis,
    waiters: Waiters,
    readers: Readers,
    subscribers: Subscribers,
    copies: Copies,
    now: UnixMillis,
    now_us: u64,
}

impl Node {
    /// A core with no connections.
    pub fn new(config: NodeConfig, shard: Shard) -> Self {
        let NodeConfig { core, topology, mut limits, bounds, copy_share_ppm, passwords, server, hasher } = config;
        limits.key_bytes_max = limits.key_bytes_max.min(shard.key_bytes_max());
        let cores = topology.cores().len();
        let resp_limits = resp::Limits { args_max: limits.args_max, bulk_bytes_max: limits.value_bytes_max };
        Self {
            core,
            limits,
            http_limits: http::limits(&limits, shard.budget_bytes()),
            resp_limits,
            unauthenticated_limits: resp_limits.unauthenticated(),
            passwords,
            hasher,
            bounds,
            shard,
            places: Vec::new(),
            free: Vec::new(),
            sessions_opened: 0,
            listed: VecDeque::new(),
            outbox: (0..cores).map(|_| Parcel::default()).collect(),
            deferred: (0..cores).map(|_| VecDeque::new()).collect(),
            congested: false,
            stalled: Vec::new(),
            waiting: VecDeque::new(),
            serving: vec![false; cores],
            executed: 0,
            batch: Batch::default(),
            foresight: Foresight::default(),
            held: VecDeque::new(),
            memcache_batch: memcache::Batch::default(),
            scratch: Vec::new(),
            places_scratch: Vec::new(),
            spare: Spare::default(),
            retired: Retired::default(),
            refused_before: 0,
            counters: CoreSnapshot { core, cpu: server.cpu, ..CoreSnapshot::default() },
            hand_pace: Pace::new(server.started_at),
            hot: HotKeys::new(core as u64 + 1, server.started_at),
            flush_at: serve::NEVER,
            waiters: Waiters::default(),
            readers: Readers::default(),
            subscribers: Subscribers::default(),
            // Alone there is nobody to give copies to.
            copies: Copies::new(if cores > 1 { copy_share_ppm } else { 0 }),
            now: server.started_at,
            now_us: server.started_at.0 * 1000,
            topology,
            server,
        }
    }

    /// Sets the time until the next call: wall-clock microseconds that never step back.
    #[inline]
    pub fn set_time(&mut self, unix_us: u64) {
        debug_assert!(unix_us >= self.now_us);
        self.now_us = unix_us;
        self.now = UnixMillis(unix_us / 1000);
        if self.now >= self.flush_at {
            self.flush_if_due();
        }
    }

    /// The keys of this core.
    pub fn shard(&mut self) -> &mut Shard {
        &mut self.shard
    }

    /// The counters that the io room moves.
    #[inline]
    pub fn counters(&mut self) -> &mut CoreSnapshot {
        &mut self.counters
    }

    /// A connection was accepted.
    pub fn open(&mut self, scope: Scope, protocol: Protocol, local_host: String) -> ConnId {
        let cores = self.topology.cores().len() as u64;
        let id = self.sessions_opened * cores + self.core as u64 + 1;
        self.sessions_opened += 1;
        self.counters.connections_total += 1;
        let mut session = Session::new(id, (scope, protocol), local_host);
        session.authenticated = self.passwords.is_none();
        self.insert(Box::new(session))
    }

    /// A session arrives from another core. What it had received is executed.
    pub fn adopt(&mut self, mut session: Box<Session>) -> ConnId {
        session.listed = false;
        session.queued = false;
        session.copies_seen = 0;
        session.move_to = None;
        self.counters.steered += 1;
        let id = self.insert(session);
        self.resume(id);
        id
    }

    fn insert(&mut self, mut session: Box<Session>) -> ConnId {
        session.output.pin_from(self.limits.stream_bytes_min);
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            (self.places.len() - 1) as u32
        });
        self.shard.add_reserved_bytes(SESSION_BYTES, self.now);
        let place = &mut self.places[index as usize];
        place.session = Some(session);
        self.counters.connections_current += 1;
        ConnId { index, generation: place.generation }
    }

    /// The connection is gone, or its session moves to another core.
    pub fn close(&mut self, id: ConnId) -> Option<Box<Session>> {
        let mut session = self.take(id)?;
        self.let_go(&mut session);
        self.end_tracking(id, &mut session);
        self.end_subscription(&mut session);
        self.end_waiting(id, &mut session);
        self.places[id.index as usize].generation = id.generation.wrapping_add(1);
        self.free.push(id.index);
        self.counters.connections_current -= 1;
        // Its places stay.
        self.shard.sub_reserved_bytes(size_of::<Session>() as u64);
        Some(session)
    }

    /// The connection is closed: lets go of its session.
    pub fn end(&mut self, id: ConnId) {
        if let Some(mut session) = self.close(id) {
            self.retire_input(&mut session);
        }
    }

    /// The session, if it is still there.
    #[inline]
    pub fn session(&mut self, id: ConnId) -> Option<&mut Session> {
        let place = self.places.get_mut(id.index as usize)?;
        if place.generation == id.generation { place.session.as_deref_mut() } else { None }
    }

    /// Takes the session out of its place, so that it and the rest of the node can be changed together.
    #[inline]
    fn take(&mut self, id: ConnId) -> Option<Box<Session>> {
        let place = self.places.get_mut(id.index as usize)?;
        if place.generation == id.generation { place.session.take() } else { None }
    }

    /// Puts the session back, and lists it if the io room has something to do for it.
    #[inline]
    fn put_back(&mut self, id: ConnId, mut session: Box<Session>) {
        let mut held = session.output.total_bytes();
        if session.is_settled_here() {
            held += session.notice_bytes();
            session.release_notices();
        }
        if held > self.limits.output_hard_bytes_max {
            session.state = State::Broken;
            self.counters.limit_errors += 1;
        }
        if !session.listed {
            session.listed = true;
            self.listed.push_back(id);
        }
        self.places[id.index as usize].session = Some(session);
    }

    /// Bytes arrived.
    #[inline]
    pub fn receive(&mut self, id: ConnId, bytes: &[u8]) {
        let Some(mut session) = self.take(id) else { return };
        self.counters.bytes_in += bytes.len() as u64;
        if session.input.is_empty() && !session.queued && self.may_run(&session) {
            let consumed = self.run(id, &mut session, bytes);
            if session.state == State::Open {
                session.input.extend(&bytes[consumed..]);
            }
        } else if session.state == State::Open {
            session.input.extend(bytes);
            self.run_input(id, &mut session);
        }
        self.put_back(id, session);
    }

    /// The client sends no more. What it sent is still answered.
    pub fn end_of_input(&mut self, id: ConnId) {
        let Some(mut session) = self.take(id) else { return };
        session.input_ended = true;
        self.end_waiting(id, &mut session);
        self.run_input(id, &mut session);
        self.put_back(id, session);
    }

    /// Goes on with what was received while the session had to wait.
    fn resume(&mut self, id: ConnId) {
        let Some(mut session) = self.take(id) else { return };
        self.run_input(id, &mut session);
        self.put_back(id, session);
    }

    /// The reply bytes taken before are sent.
    #[inline]
    pub fn sent(&mut self, id: ConnId, buffer: Vec<u8>) {
        self.counters.bytes_out += buffer.len() as u64;
        self.spare.keep(buffer);
        let Some(session) = self.session(id) else { return };
        session.in_flight_bytes = 0;
        if session.input.is_empty() && !session.input_ended {
            self.list(id);
        } else {
            self.resume(id);
        }
    }

    /// Lists the session, so that the io room looks at it again.
    #[inline]
    pub fn list(&mut self, id: ConnId) {
        if let Some(session) = self.session(id)
            && !session.listed
        {
            session.listed = true;
            self.listed.push_back(id);
        }
    }

    /// Takes the bytes to send for a session, if there are any that need not wait for others.
    #[inline]
    pub fn take_output(&mut self, id: ConnId) -> Option<Vec<u8>> {
        let session = self.session(id).filter(|s| s.output.ready_bytes() > 0)?;
        // Whoever hears of changes over another connection is not to hear of them long before the value.
        if session.output.is_held_back() && session.tracking.is_none() {
            if session.output.hold() {
                self.held.push_back((self.now, id));
            }
            return None;
        }
        if session.output.is_in_pieces() {
            return self.take_piece(id);
        }
        let bytes = session.output.take_ready();
        session.in_flight_bytes = bytes.len();
        Some(bytes)
    }

    /// Lets replies go that have waited long enough for those of other cores. Called in every turn.
    #[inline]
    pub fn tend_held(&mut self) {
        while let Some(&(since, id)) = self.held.front()
            && self.now.since(since) >= HELD_MS_MAX
        {
            self.held.pop_front();
            if let Some(session) = self.session(id).filter(|session| !session.output.is_settled()) {
                session.output.wait_patiently();
                self.list(id);
            }
        }
    }

    /// Whether replies wait for those of other cores, so that the next turn must be soon.
    pub fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes the next session that has something for the io room: bytes to send, an
    /// end, a move, or input that it wants or does not want any more.
    #[inline]
    pub fn next_listed(&mut self) -> Option<ConnId> {
        while let Some(id) = self.listed.pop_front() {
            if let Some(session) = self.session(id) {
                session.listed = false;
                return Some(id);
            }
        }
        None
    }

    /// What the io room is to do for a session: whether it goes on, whether it can
    /// use more input now, and the core it waits to move to.
    #[inline]
    pub fn wishes(&mut self, id: ConnId) -> Option<(State, bool, Option<usize>)> {
        let soft_max = self.limits.output_soft_bytes_max;
        let session = self.session(id)?;
        let is_behind = session.queued && session.input.bytes().len() > BEHIND_BYTES_MAX;
        let wants = may_run(session, soft_max) && !session.input_ended && !is_behind;
        Some((session.state, wants, session.move_to))
    }

    /// Whether every request of the session was answered and every reply taken and sent.
    pub fn is_quiet(&mut self, id: ConnId) -> bool {
        self.session(id).is_none_or(|s| s.is_quiet())
    }

    /// Whether the session wants no input because it has enough to execute.
    pub fn is_catching_up(&mut self, id: ConnId) -> bool {
        self.session(id).is_some_and(|s| s.queued || s.gathering.is_some())
    }

    /// Whether that holds for all sessions.
    pub fn all_quiet(&self) -> bool {
        self.places.iter().filter_map(|p| p.session.as_deref()).all(|s| s.is_quiet() && !s.queued)
    }

    /// Whether the client has closed its side.
    pub fn has_ended(&mut self, id: ConnId) -> bool {
        self.session(id).is_none_or(|s| s.input_ended)
    }

    /// Gives up a move that cannot be made now.
    pub fn stay(&mut self, id: ConnId) {
        if let Some(session) = self.session(id) {
            session.move_to = None;
            self.resume(id);
        }
    }

    /// Whether another request may be executed for this session.
    #[inline]
    fn may_run(&self, session: &Session) -> bool {
        !self.congested && may_run(session, self.limits.output_soft_bytes_max)
    }

    /// What is for `core`, if anything.
    #[inline]
    pub fn take_parcel(&mut self, core: usize) -> Option<Parcel> {
        if self.outbox[core].is_empty() {
            return None;
        }
        let parcel = std::mem::replace(&mut self.outbox[core], self.spare.parcel());
        self.congested = false;
        for id in std::mem::take(&mut self.stalled) {
            if let Some(mut session) = self.take(id) {
                self.queue(id, &mut session);
                self.put_back(id, session);
            }
        }
        // They may have waited for room for their replies.
        self.queue_requests(core);
        Some(parcel)
    }

    /// Lets a session wait for its next slice.
    fn queue(&mut self, id: ConnId, session: &mut Session) {
        if !session.queued {
            session.queued = true;
            self.waiting.push_back(Waiting::Session(id));
        }
    }

    /// Lets the requests of another core wait for their next slice.
    fn queue_requests(&mut self, core: usize) {
        if !self.deferred[core].is_empty() && !std::mem::replace(&mut self.serving[core], true) {
            self.waiting.push_back(Waiting::Requests(core));
        }
    }

    /// Whether anything waits for its next slice.
    #[inline]
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// How many sessions and cores wait for their next slices.
    #[inline]
    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// Executes the next slice of what has waited longest. Answers whether there was one.
    pub fn go_on(&mut self) -> bool {
        match self.waiting.pop_front() {
            None => return false,
            Some(Waiting::Session(id)) => {
                let Some(mut session) = self.take(id) else { return true };
                session.queued = false;
                self.run_input(id, &mut session);
                self.put_back(id, session);
            }
            Some(Waiting::Requests(core)) => {
                self.serving[core] = false;
                self.serve_deferred(core);
            }
            Some(Waiting::Waiters) => self.answer_waiters(),
            Some(Waiting::Notices) => self.tell_on_in_turn(),
        }
        true
    }

    /// Requests executed, for clients of this core and for other cores, and what takes as long as one.
    #[inline]
    pub fn executed(&self) -> u64 {
        self.executed
    }

    /// Requests executed, and what takes as long: grows by about one for each 100 to 300 ns.
    #[inline]
    pub fn work_done(&self) -> u64 {
        self.executed + self.shard.work_done()
    }

    /// Whether any parcel waits to be taken.
    pub fn has_parcels(&self) -> bool {
        self.outbox.iter().any(|parcel| !parcel.is_empty())
    }

    /// Keeps the scratch buffer, unless one large reply has made it so.
    fn keep_scratch(&mut self, scratch: Vec<u8>) {
        if scratch.capacity() <= spare::REPLY_BYTES_MAX {
            self.scratch = scratch;
        }
    }

    /// A slice of background work. Answers whether more waits.
    pub fn advance(&mut self, work_max: usize) -> bool {
        self.hand_pace.note(self.now, self.shard.hand_walked_bytes());
        self.shard.set_actor(0);
        let retiring = self.retired.step() | self.readers.step();
        self.tidy_copies();
        self.shard.advance(self.now, work_max) || retiring
    }

    /// Copies the counters.
    pub fn snapshot(&self) -> CoreSnapshot {
        let (engine, memory) = (self.shard.stats(), self.shard.memory());
        CoreSnapshot {
            hits: engine.hits,
            misses: engine.misses,
            expired: engine.expired,
            expired_bytes: engine.expired_bytes,
            evicted: engine.evicted,
            evicted_bytes: engine.evicted_bytes,
            keys: self.shard.key_count(),
            keys_with_expiry: self.shard.keys_with_expiry(),
            memory: MemoryStats {
                budget: memory.budget_bytes,
                live: memory.live_bytes,
                dead: memory.dead_bytes,
                free: memory.free_bytes,
                index: memory.index_bytes,
                wheel: memory.wheel_bytes,
                reserved: memory.reserved_bytes,
                fixed: memory.fixed_bytes,
                resident: memory.resident_bytes,
                segments: memory.segments_total,
                segments_free: memory.segments_free,
                segment: memory.segment_bytes,
                small_log_segments: memory.small_log_segments,
                hand_segment: memory.hand.position.map(|(segment, _)| segment),
                hand_walked: memory.hand.walked_bytes,
                hand_speed: self.hand_pace.speed(self.now, memory.hand.walked_bytes),
                hand_reinserted: memory.hand.reinserted,
                refs_sampled: self.shard.sample_refs(REFS_SAMPLE, self.now_us),
            },
            prefixes: self.shard.prefixes().to_vec(),
            leases: self.shard.lease_report(),
            waiting: self.waiters.len() as u64,
            tracked_keys: self.readers.keys() as u64,
            copies: self.copies.held() as u64,
            hot: self.hot.report(self.now, |key| self.shard.value_len(self.locate(key).0, key)),
            ..self.counters.clone()
        }
    }

    /// Bytes held by sessions and spare buffers, which count in the core's budget.
    pub fn session_bytes(&self) -> u64 {
        let sessions = self.places.iter().filter_map(|p| p.session.as_deref());
        let held: usize = sessions.map(|s| size_of::<Session>() + s.held_bytes() + s.in_flight_bytes).sum();
        let places = self.places.capacity() * size_of::<Place>();
        self.shard.pins_bytes() + (held + self.spare.held_bytes() + self.bytes_of_nobody() + places) as u64
    }

    /// Bytes of requests that wait, of readers and of copies, which are bounded by themselves, of what is for other cores, and
    /// of buffers on their way back to the allocator: they go with no connection.
    fn bytes_of_nobody(&self) -> usize {
        let parcels: usize = self.outbox.iter().map(Parcel::held_bytes).sum();
        parcels
            + self.waiters.held_bytes()
            + self.readers.held_bytes()
            + self.copies.held_bytes()
            + self.retired.held_bytes()
    }

    /// Closes the connections that hold most until all together hold at most
    /// `bytes_max`, or what a few of the largest values take if that is more. Answers
    /// how many were closed.
    pub fn shed(&mut self, bytes_max: u64) -> usize {
        let bytes_max = bytes_max.max(VALUES_HELD_MIN * self.limits.value_bytes_max as u64);
        let mut total = self.session_bytes().saturating_sub(self.bytes_of_nobody() as u64);
        let mut closed = 0;
        while total > bytes_max {
            let sessions = self.places.iter().enumerate().filter_map(|(i, p)| Some((i, p.session.as_deref()?)));
            let open = sessions.filter(|(_, s)| s.state != State::Broken);
            // Who has given no password goes before those who have.
            let Some((index, session)) = open.max_by_key(|(_, s)| (!s.authenticated, s.held_bytes())) else { break };
            total = total.saturating_sub(session.held_bytes() as u64);
            closed += 1;
            self.discard(index);
        }
        closed
    }

    /// Where a key lives: its slot and hash, and the core that owns the slot. If that is this one, the first step of the key's
    /// memory reads is taken.
    #[inline]
    fn locate(&self, key: &[u8]) -> (At, usize) {
        let slot = crate::base::Slot::of(key);
        let (at, owner) = (At { slot, hash: self.hasher.hash(key) }, self.topology.owner(slot));
        if owner == self.core {
            self.shard.prefetch_slot(at);
        }
        (at, owner)
    }

    /// Takes the other steps for keys that were located, those of this core. One alone gains nothing.
    #[inline]
    fn prefetch(&mut self, places: impl ExactSizeIterator<Item = (At, usize)> + Clone) {
        if places.len() > 1 {
            let core = self.core;
            self.shard.prefetch_records(places.filter(|&(_, owner)| owner == core).map(|(at, _)| at));
        }
    }
}

#[inline]
fn may_run(session: &Session, output_soft_bytes_max: usize) -> bool {
    let output_soft_bytes_max = auth::output_bytes_max(session, output_soft_bytes_max);
    session.state == State::Open
        && (session.move_to.is_none() || session.inflow.is_some())
        && session.gathering.is_none()
        && session.http_batch.is_none()
        && session.finding.is_none()
        && session.output.total_bytes() + session.in_flight_bytes < output_soft_bytes_max
        && session.output.pending_count() < session.output.window(output_soft_bytes_max)
}
