//! One core's loop: what the ring completes goes to the node, what the node wants
//! goes to the ring. All of it runs on the core's own thread.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use tracing::{info, warn};

use super::clock::Clock;
use super::connection::{Connection, Connections, Phase, Receiving};
use super::mesh::{Mail, Mesh};
use super::pace::CameIn;
use super::ring::{Completion, Key, RECEIVE_BYTES_MIN, Received, Ring};
use super::stopwatch::Stopwatch;
use crate::node::Node;
use crate::node::mailbox::ConnId;
use crate::node::session::{Protocol, Scope, State};
use crate::node::stats::CoreSnapshot;

/// How long an ended connection's late input is thrown away before it is closed.
const LINGER: Duration = Duration::from_millis(500);
/// How long accepting pauses when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What a connection over the limit is told: to a Redis client as redis-server words it.
fn refusal(protocol: Protocol) -> &'static [u8] {
    match protocol {
        Protocol::Resp => b"-ERR max number of clients reached (limits.connections)\r\n",
        Protocol::Memcache => b"SERVER_ERROR max number of clients reached (limits.connections)\r\n",
        Protocol::Http => {
            b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
        }
    }
}

/// The part of a core's budget that its connections may hold: one half.
const SESSIONS_PART: u64 = 2;
/// A turn takes up nothing more once it has lasted this long. What has happened meanwhile waits for the next turn, in
/// order, and what was executed is sent first.
const TURN_TIME: Duration = Duration::from_micros(250);
/// The part of it in which what earlier turns left over comes before what is new.
const LEFT_OVER_TIME: Duration = Duration::from_micros(125);
/// Receives that one turn handles at most: about as many sends follow, which take the kernel some microseconds each.
const RECEIVES_MAX: usize = 256;
/// Requests, or pieces of work as long, after which a turn looks at the clock: 25 ns for 32 requests.
const CLOCK_EVERY: u64 = 32;
/// Bytes that take about as long to take in and to parse as a request does: a long request comes in many of them.
const BYTES_AS_WORK: usize = 512;
/// Pieces of background work between two looks at the clock, some hundred nanoseconds each.
const BACKGROUND_WORK: usize = 64;
/// Memory set aside for what comes and goes between two counts: one part in so many of the budget,
/// and no more than so many bytes.
const PASSING_PART: u64 = 40;
const PASSING_BYTES_MAX: u64 = 3 << 19;
/// A stopping core counts as quiet after this long without input.
const QUIET: Duration = Duration::from_millis(30);

/// What the control thread asks of a core.
pub enum Order {
    /// Copy the counters.
    Snapshot(std::sync::mpsc::Sender<CoreSnapshot>),
    /// Accept no more, answer what has arrived, close; say when it is done, after
    /// this long at the latest.
    Stop(Duration, std::sync::mpsc::Sender<usize>),
    /// Every core is done: leave.
    Leave,
}

/// A listening socket of a core.
pub struct Listener {
    /// The socket.
    pub socket: OwnedFd,
    /// What its connections cover.
    pub scope: Scope,
    /// What they speak.
    pub protocol: Protocol,
    /// Whether an accept is armed.
    armed: bool,
}

impl Listener {
    /// A listener whose accept is not armed yet.
    pub fn new(socket: OwnedFd, (scope, protocol): (Scope, Protocol)) -> Self {
        Self { socket, scope, protocol, armed: false }
    }
}

/// Connections of the whole process. Counted when one opens or closes, never for a request.
pub struct ConnectionLimit {
    /// How many there are.
    pub open: AtomicUsize,
    /// How many there may be.
    pub max: usize,
}

/// All that a core is made of.
pub struct Parts {
    /// The ring, made on this thread.
    pub ring: Ring,
    /// The keys and sessions.
    pub node: Node,
    /// The mailboxes.
    pub mesh: Mesh,
    /// Where clients come in.
    pub listeners: Vec<Listener>,
    /// The address of the listeners.
    pub bind: IpAddr,
    /// Where the control thread's orders come in.
    pub orders: Receiver<Order>,
    /// Written by the control thread after each order. A stream, not an eventfd:
    /// with one, a parked core was seen to miss every order after the first.
    pub order_signal: UnixStream,
    /// The process's connections.
    pub limit: Arc<ConnectionLimit>,
}

/// How far stopping has come.
enum Stopping {
    No,
    Draining { deadline: Duration, done: std::sync::mpsc::Sender<usize> },
    Drained,
    Leaving,
}

/// One core.
pub struct Core {
    ring: Ring,
    node: Node,
    mesh: Mesh,
    listeners: Vec<Listener>,
    bind: IpAddr,
    orders: Receiver<Order>,
    order_signal: UnixStream,
    limit: Arc<ConnectionLimit>,
    connections: Connections,
    clock: Clock,
    stopwatch: Stopwatch,
    now: Duration,
    last_input: Duration,
    events: usize,
    /// Receives of the last turn that had one request at most, and requests that were executed for clients in it.
    lone: usize,
    executed: u64,
    /// Whether the last turn left something for the next, beside what the node has queued.
    left_over: bool,
    /// Ended connections and when to close them, soonest first.
    lingering: std::collections::VecDeque<(Duration, ConnId)>,
    /// When to arm the accepts again that failed.
    accept_again: Option<Duration>,
    stopping: Stopping,
}

impl Core {
    /// A core that accepts connections from its first turn.
    pub fn new(parts: Parts) -> Self {
        let Parts { ring, node, mesh, listeners, bind, orders, order_signal, limit } = parts;
        let mut core = Self {
            ring,
            node,
            mesh,
            listeners,
            bind,
            orders,
            order_signal,
            limit,
            connections: Connections::default(),
            clock: Clock::start(),
            stopwatch: Stopwatch::new(Duration::ZERO),
            now: Duration::ZERO,
            last_input: Duration::ZERO,
            events: 0,
            lone: 0,
            executed: 0,
            left_over: false,
            lingering: std::collections::VecDeque::new(),
            accept_again: None,
            stopping: Stopping::No,
        };
        core.ring.watch(core.order_signal.as_raw_fd());
        core.ring.notify(false);
        core.arm_accepts();
        core
    }

    /// The ring, to wait on.
    pub fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    /// The mailboxes, to look into before waiting.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// The time at the start of the last turn.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// The time, read anew.
    pub fn read_time(&self) -> Duration {
        self.clock.monotonic()
    }

    /// The part of the last milliseconds that the core was on its CPU.
    pub fn load(&self) -> f32 {
        self.stopwatch.load()
    }

    /// How many connections are open.
    pub fn connections(&mut self) -> usize {
        self.node.counters().connections_current as usize
    }

    /// What the last turn brought from clients.
    pub fn came_in(&self) -> CameIn {
        CameIn { receives: self.events, lone: self.lone, requests: self.executed }
    }

    /// Whether there is something to do already, so that the core must not wait.
    pub fn has_more(&self) -> bool {
        self.left_over || self.node.has_waiting()
    }

    /// Whether something is to be done within a few milliseconds, so that the core must not park.
    pub fn is_expecting(&self) -> bool {
        self.node.has_held()
    }

    /// Whether the core has been told to leave.
    pub fn is_leaving(&self) -> bool {
        matches!(self.stopping, Stopping::Leaving)
    }

    /// Whether the core must not sleep long, because it is stopping.
    pub fn is_stopping(&self) -> bool {
        !matches!(self.stopping, Stopping::No)
    }

    /// Counts a wait.
    pub fn count_park(&mut self) {
        self.node.counters().parks += 1;
    }

    /// One turn: what has happened is executed, as far as [`TURN_TIME`] allows, and what follows from it
    /// is queued on the ring. Answers whether there was anything.
    pub fn turn(&mut self) -> bool {
        let reading = self.clock.read();
        self.now = reading.monotonic;
        self.stopwatch.start(self.now);
        self.node.set_time(reading.unix_us);
        self.left_over = false;
        // Each of the three gets on by a piece at least, whatever the others have.
        let executed_before = self.node.executed();
        let mut busy = self.handle_left_over();
        busy |= self.handle_news();
        self.executed = self.node.executed() - executed_before;
        busy |= self.handle_mail();
        self.node.tend_waiters();
        self.node.tend_held();
        self.node.tell_readers();
        self.settle();
        self.post_mail();
        self.keep_time();
        if busy {
            let end = self.clock.monotonic();
            self.node.counters().turns += 1;
            self.stopwatch.stop(end, "turn", self.node.counters());
        }
        busy
    }

    /// Whether the turn has lasted as long as it may.
    fn is_over(&self, time: Duration) -> bool {
        self.clock.monotonic().saturating_sub(self.now) >= time
    }

    /// A slice of each session and each parcel that waits for one.
    fn handle_left_over(&mut self) -> bool {
        let waiting = self.node.waiting_count();
        for _ in 0..waiting {
            self.node.go_on();
            if self.is_over(LEFT_OVER_TIME) {
                break;
            }
        }
        waiting > 0
    }

    fn handle_news(&mut self) -> bool {
        (self.events, self.lone) = (0, 0);
        let (mut any, mut handled, mut look_at) = (false, 0, self.node.work_done() + CLOCK_EVERY);
        while let Some(completion) = self.next_news() {
            any = true;
            handled += 1;
            match completion {
                Completion::Received { key, outcome, armed } => {
                    self.events += 1;
                    if let Received::Data(lent) = &outcome {
                        handled += (self.ring.bytes(lent).len() / BYTES_AS_WORK) as u64;
                    }
                    self.received(key, outcome, armed);
                }
                Completion::Sent { key, buffer, result } => self.sent(key, buffer, result),
                Completion::Accepted { key, result, armed } => self.accepted(key, result, armed),
                Completion::Readable { armed } => {
                    self.take_orders();
                    if !armed {
                        self.ring.watch(self.order_signal.as_raw_fd());
                    }
                }
                // A core opens no connections.
                Completion::Woken | Completion::Connected { .. } => {}
            }
            // A completion is work too, whatever comes of it.
            if self.node.work_done() + handled >= look_at {
                look_at = self.node.work_done() + handled + CLOCK_EVERY;
                if self.is_over(TURN_TIME) || self.events >= RECEIVES_MAX {
                    self.left_over = true;
                    break;
                }
            }
        }
        any
    }

    /// The next completion. Of those that are taken off the ring with it, the node sees the bytes first.
    #[inline]
    fn next_news(&mut self) -> Option<Completion> {
        if self.ring.take() && self.ring.upcoming().nth(1).is_some() {
            self.node.foresee(self.ring.upcoming());
        }
        self.ring.next_news()
    }

    #[inline]
    fn received(&mut self, key: Key, outcome: Received, armed: bool) {
        let connection = self.connections.by_key(key);
        let (id, phase) = match connection {
            Some(connection) => {
                if !armed {
                    connection.receiving = Receiving::Off;
                }
                (connection.id, connection.phase)
            }
            None => {
                if let Received::Data(lent) = outcome {
                    self.ring.recycle(lent);
                }
                return;
            }
        };
        match outcome {
            Received::Data(lent) => {
                if phase == Phase::Open {
                    let executed = self.node.executed();
                    self.node.receive(id, self.ring.bytes(&lent));
                    self.lone += usize::from(self.node.executed() - executed <= 1);
                    self.last_input = self.now;
                }
                self.ring.recycle(lent);
            }
            Received::End if phase == Phase::Open => self.node.end_of_input(id),
            Received::Starved => self.node.counters().recv_starved += 1,
            Received::Cancelled => {}
            Received::End | Received::Failed(_) => self.abandon(id),
        }
        if !armed {
            self.node.list(id);
        }
    }

    #[inline]
    fn sent(&mut self, key: Key, buffer: Vec<u8>, result: std::io::Result<()>) {
        let Some(connection) = self.connections.by_key(key) else { return };
        connection.sending = false;
        let id = connection.id;
        match result {
            Ok(()) => self.node.sent(id, buffer),
            Err(_) => self.abandon(id),
        }
        self.node.list(id);
    }

    fn accepted(&mut self, key: Key, result: std::io::Result<OwnedFd>, armed: bool) {
        let Some(listener) = self.listeners.get_mut(key.index as usize) else { return };
        listener.armed = armed;
        let (scope, protocol) = (listener.scope, listener.protocol);
        match result {
            Ok(socket) => self.admit(socket, scope, protocol),
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {}
            Err(error) => {
                warn!(%error, "accepting failed; it goes on in 100 ms. Raise the descriptor limit (ulimit -n) if it says so");
                self.accept_again = Some(self.now + ACCEPT_PAUSE);
            }
        }
        if !armed && self.accept_again.is_none() {
            self.arm_accepts();
        }
    }

    fn admit(&mut self, socket: OwnedFd, scope: Scope, protocol: Protocol) {
        if self.limit.open.fetch_add(1, Ordering::Relaxed) >= self.limit.max {
            self.limit.open.fetch_sub(1, Ordering::Relaxed);
            self.node.counters().connections_refused += 1;
            // A new socket's buffer is empty, so this does not block.
            let _ = TcpStream::from(socket).write_all(refusal(protocol));
            return;
        }
        let (socket, host) = if self.bind.is_unspecified() {
            let stream = TcpStream::from(socket);
            let host = stream.local_addr().map_or(self.bind, |address| address.ip().to_canonical());
            (OwnedFd::from(stream), host)
        } else {
            (socket, self.bind)
        };
        let id = self.node.open(scope, protocol, host.to_string());
        self.connections.insert(Connection::new(socket, id));
        self.node.list(id);
    }

    fn arm_accepts(&mut self) {
        if self.is_stopping() {
            return;
        }
        for (index, listener) in self.listeners.iter_mut().enumerate().filter(|(_, l)| !l.armed) {
            listener.armed = true;
            self.ring.accept(Key { index: index as u32, generation: 0 }, listener.socket.as_raw_fd());
        }
    }

    fn handle_mail(&mut self) -> bool {
        let mut any = false;
        for from in 0..self.mesh.cores() {
            while let Some(mail) = self.mesh.receive(from) {
                any = true;
                // One piece of mail is taken from each core, however late it is.
                let stop = self.is_over(TURN_TIME);
                match mail {
                    Mail::Parcel(parcel) => self.node.deliver(from, parcel),
                    Mail::Connection(session, socket) => {
                        let id = self.node.adopt(session);
                        self.connections.insert(Connection::new(socket, id));
                        self.last_input = self.now;
                    }
                }
                if stop {
                    self.left_over = true;
                    break;
                }
            }
        }
        any
    }

    /// Does for each listed session what it waits for.
    fn settle(&mut self) {
        while let Some(id) = self.node.next_listed() {
            self.settle_one(id);
        }
    }

    #[inline]
    fn settle_one(&mut self, id: ConnId) {
        let Some(connection) = self.connections.by_id(id) else { return };
        match connection.phase {
            Phase::Open => {}
            Phase::Lingering => {
                if connection.receiving == Receiving::Off {
                    connection.receiving = Receiving::On;
                    self.ring.receive(connection.key(), connection.fd());
                }
                return;
            }
            Phase::Closing => {
                if connection.is_idle() {
                    self.remove(id);
                }
                return;
            }
        }
        if !connection.sending
            && let Some(bytes) = self.node.take_output(id)
        {
            connection.sending = true;
            self.ring.send(connection.key(), connection.fd(), bytes);
        }
        let sending = connection.sending;
        let Some((state, wants, move_to)) = self.node.wishes(id) else { return };
        match state {
            State::Open => {}
            State::Broken => return self.abandon(id),
            State::Draining if sending || !self.node.is_quiet(id) => return,
            State::Draining => return self.linger(id),
        }
        self.steer_input(id, wants, move_to);
    }

    /// Arms or stops the receive as the session wants, and moves it once it is quiet.
    #[inline]
    fn steer_input(&mut self, id: ConnId, wants: bool, move_to: Option<usize>) {
        let Some(connection) = self.connections.by_id(id) else { return };
        match connection.receiving {
            Receiving::Off if wants => {
                connection.receiving = Receiving::On;
                self.ring.receive(connection.key(), connection.fd());
            }
            Receiving::On if !wants => {
                connection.receiving = Receiving::Stopping;
                self.ring.cancel_receive(connection.key());
                if move_to.is_none() && !self.node.is_catching_up(id) {
                    self.node.counters().output_paused += 1;
                }
            }
            Receiving::Off => {
                if let Some(core) = move_to {
                    self.hand_over(id, core);
                }
            }
            Receiving::On | Receiving::Stopping => {}
        }
    }

    /// Moves a connection, on which nothing is under way, to the core that owns its keys.
    fn hand_over(&mut self, id: ConnId, core: usize) {
        let quiet = self.connections.by_id(id).is_some_and(|c| c.is_idle()) && self.node.is_quiet(id);
        if !quiet {
            return;
        }
        if !self.mesh.has_room(core) {
            // Rare: the mailbox is full. The session stays and is forwarded.
            return self.node.stay(id);
        }
        let (Some(session), Some(connection)) = (self.node.close(id), self.connections.remove(id)) else { return };
        self.mesh.send(core, Mail::Connection(session, connection.socket));
        self.wake(core);
    }

    fn wake(&mut self, core: usize) {
        if let Some(ring) = self.mesh.ring_to_wake(core) {
            self.ring.wake(ring);
        }
    }

    /// Sends what the node has for other cores.
    fn post_mail(&mut self) {
        for core in 0..self.mesh.cores() {
            if self.mesh.has_room(core)
                && let Some(parcel) = self.node.take_parcel(core)
            {
                self.mesh.send(core, Mail::Parcel(parcel));
                self.wake(core);
            }
        }
    }

    /// All replies are sent: ends our side and waits a little for the peer's.
    fn linger(&mut self, id: ConnId) {
        let Some(connection) = self.connections.by_id(id) else { return };
        if connection.receiving == Receiving::Off && self.node.has_ended(id) {
            return self.abandon(id);
        }
        connection.phase = Phase::Lingering;
        connection.shutdown(Shutdown::Write);
        if connection.receiving == Receiving::Off {
            connection.receiving = Receiving::On;
            self.ring.receive(connection.key(), connection.fd());
        }
        self.lingering.push_back((self.now + LINGER, id));
    }

    /// The connection is at its end: closes it as soon as the ring lets go of it.
    fn abandon(&mut self, id: ConnId) {
        let Some(connection) = self.connections.by_id(id) else { return };
        connection.phase = Phase::Closing;
        if connection.is_idle() {
            return self.remove(id);
        }
        // Ends a send that waits for the peer, and a receive.
        connection.shutdown(Shutdown::Both);
        if connection.receiving == Receiving::On {
            connection.receiving = Receiving::Stopping;
            self.ring.cancel_receive(connection.key());
        }
    }

    fn remove(&mut self, id: ConnId) {
        self.connections.remove(id);
        self.node.end(id);
        self.limit.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whatever is due by the clock.
    fn keep_time(&mut self) {
        while self.lingering.front().is_some_and(|(due, _)| *due <= self.now) {
            if let Some((_, id)) = self.lingering.pop_front() {
                self.abandon(id);
            }
        }
        if self.accept_again.is_some_and(|due| due <= self.now) {
            self.accept_again = None;
            self.arm_accepts();
        }
        if let Stopping::Draining { deadline, .. } = &self.stopping
            && (*deadline <= self.now || self.now - self.last_input >= QUIET && self.node.all_quiet())
        {
            self.finish_draining();
        }
    }

    /// Whether there is mail for a core whose mailbox is full.
    pub fn has_unsent_mail(&self) -> bool {
        self.node.has_parcels()
    }

    /// When the next thing is due by the clock.
    pub fn next_due(&self) -> Option<Duration> {
        let lingering = self.lingering.front().map(|(due, _)| *due);
        let stopping = self.is_stopping().then(|| self.now + Duration::from_millis(5));
        let wait = self.node.next_wait_end().map(|millis| self.now + Duration::from_millis(millis));
        [lingering, self.accept_again, stopping, wait].into_iter().flatten().min()
    }

    fn take_orders(&mut self) {
        // The bytes mean nothing; the stream does not block.
        while self.order_signal.read(&mut [0u8; 64]).is_ok_and(|n| n > 0) {}
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Snapshot(answer) => {
                    let _ = answer.send(self.node.snapshot());
                }
                Order::Stop(time, done) => self.stop(time, done),
                Order::Leave => self.stopping = Stopping::Leaving,
            }
        }
    }

    fn stop(&mut self, time: Duration, done: std::sync::mpsc::Sender<usize>) {
        for index in (0..self.listeners.len()).filter(|&i| self.listeners[i].armed) {
            self.ring.cancel_accept(Key { index: index as u32, generation: 0 });
        }
        self.last_input = self.now;
        self.node.end_waits();
        self.stopping = Stopping::Draining { deadline: self.now + time, done };
    }

    fn finish_draining(&mut self) {
        let state = std::mem::replace(&mut self.stopping, Stopping::Drained);
        let ids = self.connections.ids();
        let open = ids.len();
        for id in ids {
            if self.connections.by_id(id).is_some_and(|c| c.phase == Phase::Open) {
                self.linger(id);
            }
        }
        if let Stopping::Draining { done, .. } = state {
            info!(connections = open, "drained");
            let _ = done.send(open);
        }
    }

    /// A slice of background work, about as long as `time`. Answers whether more waits.
    pub fn background(&mut self, time: Duration) -> bool {
        let reading = self.clock.read();
        self.stopwatch.start(reading.monotonic);
        self.node.set_time(reading.unix_us);
        loop {
            let more = self.node.advance(BACKGROUND_WORK);
            let end = self.clock.monotonic();
            if !more || end.saturating_sub(reading.monotonic) >= time {
                self.stopwatch.stop(end, "background", self.node.counters());
                if self.node.has_notices() {
                    // What has expired or gone may be known to clients that nothing else wakes a core for.
                    self.node.tell_some();
                    self.settle();
                    self.post_mail();
                }
                return more || self.node.has_notices();
            }
        }
    }

    /// Counts what buffers and sessions hold into the budget. The smallest set of receive
    /// buffers belongs to what a process takes at any budget.
    pub fn account(&mut self) {
        self.stopwatch.start(self.clock.monotonic());
        let connections = self.connections.capacity() * size_of::<Connection>();
        let receiving = self.ring.receive_bytes() - RECEIVE_BYTES_MIN;
        let io = receiving + (connections + self.ring.sending_bytes()) as u64;
        let budget = self.node.shard().memory().budget_bytes;
        let closed = self.node.shed(budget / SESSIONS_PART);
        if closed > 0 {
            warn!(closed, "connections held half of a core's memory: those that held most are closed");
        }
        let stalled = self.node.shed_stalled();
        if stalled > 0 {
            warn!(stalled, "connections kept large values that no key has and took nothing: they are closed");
        }
        let passing = (budget / PASSING_PART).min(PASSING_BYTES_MAX);
        let reserved = io + self.node.session_bytes() + passing;
        self.node.shard().set_reserved_bytes(reserved);
        let end = self.clock.monotonic();
        self.stopwatch.stop(end, "account", self.node.counters());
    }

    /// How long the shard has nothing to expire.
    pub fn next_expiry_in(&mut self) -> Option<Duration> {
        let now_ms = self.clock.read().unix_us / 1000;
        let due = self.node.shard().next_deadline()?;
        Some(Duration::from_millis(due.0.saturating_sub(now_ms)))
    }
}
