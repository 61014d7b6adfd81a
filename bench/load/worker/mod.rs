//! A worker: one thread, one ring, and the clients whose load it makes.
//!
//! A turn takes what has completed, sends what is due, and waits for the sooner
//! of a completion and the next moment on the schedule. While that is close, it
//! looks for completions without sleeping: a timer would come too late.

mod ask;
mod desk;
mod lane;
mod life;
mod load;
mod template;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use ringfence::io::ring::{Completion, Key, Received, Ring};
use socket2::{Domain, Protocol as Transport, Socket, Type};

pub use self::desk::Desk;
use self::lane::State;
pub use self::load::{Load, Pacing, Source};
use crate::outcome::{Latencies, Sample};
use crate::tls::Tls;
use crate::verify::{Ledger, Stamper};
use crate::wire::{Credentials, Protocol};
use crate::workload::{KeyNames, Mix, Picker, Sizes, Ttls};

/// How far ahead of a moment on the schedule a worker stops sleeping.
const SPIN_NS: u64 = 60_000;
/// How long it sleeps at most.
const SLEEP_MAX: Duration = Duration::from_millis(1);
/// How often lanes are looked at for requests that are not answered.
const WATCH_NS: u64 = 50_000_000;
/// Lanes that are closed, and opened, in one turn at most.
const LANES_PER_TURN: usize = 4;
/// How long an interrupted load waits for replies.
const INTERRUPTED_NS: u64 = 1_000_000_000;

/// What all workers are told, once.
#[derive(Debug)]
pub struct Setup {
    /// What the server speaks.
    pub protocol: Protocol,
    /// Who to be.
    pub credentials: Option<Credentials>,
    /// `host:port` as it was given.
    pub authority: String,
    /// TLS to the server.
    pub tls: Option<Tls>,
    /// The nodes of the cluster; without one, the target alone.
    pub nodes: Vec<SocketAddr>,
    /// The node of each slot.
    pub slots: Option<Box<[u16]>>,
    /// Workers.
    pub workers: usize,
    /// Clients of all workers.
    pub clients: usize,
    /// Requests that a client may have under way.
    pub pipeline: u32,
    /// Keys there are.
    pub keys: u64,
    /// Their names.
    pub names: KeyNames,
    /// Which of them is asked for.
    pub picker: Picker,
    /// Sizes of values.
    pub value_sizes: Sizes,
    /// Times to live.
    pub ttls: Ttls,
    /// What the protocol counts times to live in, in milliseconds.
    pub ttl_unit_ms: u64,
    /// Kinds of request.
    pub mix: Mix,
    /// Keys of one read of several.
    pub mget_keys: u32,
    /// Keys that share a slot, if reads of several need it.
    pub group: Option<u64>,
    /// Whether a miss is followed by a write.
    pub fill_on_miss: bool,
    /// Makes and reads values.
    pub stamper: Arc<Stamper>,
    /// What reads may see.
    pub ledger: Arc<Ledger>,
    /// Whether values are judged.
    pub verify: bool,
    /// How late a value may still be answered after its deadline, in milliseconds.
    pub late_ms: u64,
    /// Connections opened a second; `None`: all at once.
    pub connect_rate: Option<f64>,
    /// Requests after which a client's connections are replaced.
    pub reconnect: Option<u64>,
    /// How often all connections are replaced at once.
    pub storm: Option<Duration>,
    /// How long a reply or a connection may take.
    pub timeout: Duration,
    /// Decides every draw.
    pub seed: u64,
    /// The origin of the workers' clocks.
    pub epoch: Instant,
    /// The same in seconds since the Unix epoch.
    pub epoch_unix: u64,
}

impl Setup {
    /// How many clients worker `index` has.
    pub fn clients_of(&self, index: usize) -> usize {
        self.clients / self.workers + usize::from(index < self.clients % self.workers)
    }

    /// The time on the workers' clocks.
    #[inline]
    pub fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }
}

/// Why a worker cannot go on: one line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

/// What a worker is asked to do.
pub enum Order {
    /// A load, in stretches of so many nanoseconds.
    Load(Box<Load>, u64),
    /// The end.
    Leave,
}

/// What a worker reports.
pub enum News {
    /// Every connection is ready; how many there are, and how long each took.
    Ready(u64, Box<Latencies>),
    /// How many connections are, and how many requests of the load are over.
    Progress(usize, u64),
    /// A stretch of the load is over: when it began, and what was measured in it.
    Stretch(u64, Box<Sample>),
    /// The load is over: its last stretch, and examples of what was wrong.
    Done(u64, Box<Sample>, Vec<String>),
    /// The worker has ended.
    Failed(Failure),
}

/// One worker.
pub struct Worker {
    ring: Ring,
    desk: Desk,
    completions: Vec<Completion>,
    /// Lanes whose receive has to be armed again, the longest without one first.
    deaf: VecDeque<Key>,
    opening: VecDeque<u32>,
    next_connect: u64,
    next_watch: u64,
    next_storm: u64,
    /// The stretch under way: when it began, when it ends, how long the next ones are.
    stretch: (u64, u64, u64),
    interrupted: Arc<AtomicBool>,
    index: usize,
    news: Sender<(usize, News)>,
}

impl Worker {
    /// Makes load as it is ordered, until it is told to leave or cannot go on.
    pub fn run(
        index: usize,
        setup: Arc<Setup>,
        interrupted: Arc<AtomicBool>,
        orders: &Receiver<Order>,
        news: Sender<(usize, News)>,
    ) {
        let done =
            Ring::new().map_err(|error| Failure(ringfence::io::StartError::Ring(error).to_string())).and_then(|ring| {
                let mut worker = Worker {
                    ring,
                    desk: Desk::new(setup, index),
                    completions: Vec::new(),
                    deaf: VecDeque::new(),
                    opening: VecDeque::new(),
                    next_connect: 0,
                    next_watch: 0,
                    next_storm: u64::MAX,
                    stretch: (0, u64::MAX, u64::MAX),
                    interrupted,
                    index,
                    news: news.clone(),
                };
                worker.serve(orders)
            });
        if let Err(failure) = done {
            // Nobody listens any more when the whole run has failed already.
            let _ = news.send((index, News::Failed(failure)));
        }
    }

    fn serve(&mut self, orders: &Receiver<Order>) -> Result<(), Failure> {
        while !self.desk.is_ready() {
            self.turn()?;
            if self.interrupted.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
        let connects = std::mem::replace(&mut self.desk.sample, Sample::empty());
        self.tell(News::Ready(connects.counts.connects, Box::new(connects.connect)));
        while let Ok(Order::Load(load, stretch)) = orders.recv() {
            self.load(*load, stretch)?;
        }
        Ok(())
    }

    fn tell(&self, news: News) {
        // Without a listener the run is over, and the next order says so.
        let _ = self.news.send((self.index, news));
    }

    fn load(&mut self, load: Load, stretch: u64) -> Result<(), Failure> {
        let first = if load.measure == u64::MAX {
            u64::MAX
        } else {
            // Stretches of warming up end where measuring begins.
            let before = load.measure - load.begin;
            load.begin + if before == 0 { stretch } else { (before - 1) % stretch + 1 }
        };
        self.stretch = (load.begin, first.min(load.end), stretch);
        self.next_storm = self.desk.setup.storm.map_or(u64::MAX, |every| load.begin + every.as_nanos() as u64);
        self.desk.begin(load);
        while !self.is_over()? {
            self.turn()?;
        }
        self.finish();
        Ok(())
    }

    /// Whether all is sent that was to be sent, and all answered that will be.
    fn is_over(&mut self) -> Result<bool, Failure> {
        let interrupted = self.interrupted.load(Ordering::Relaxed);
        let Some(load) = &mut self.desk.load else { return Ok(true) };
        if load.issuing && !interrupted {
            return Ok(false);
        }
        let now = self.desk.setup.now();
        // Behind the last request there may be time left, which belongs to what is measured.
        if load.end != u64::MAX && now < load.end && !load.exhausted && !interrupted {
            return Ok(false);
        }
        if interrupted && load.end > now {
            load.end = now;
            load.issuing = false;
            self.desk.backlog.clear();
        }
        if self.desk.outstanding == 0 && self.desk.backlog.is_empty() {
            return Ok(true);
        }
        if interrupted {
            return Ok(load.end.saturating_add(INTERRUPTED_NS) <= now);
        }
        if load.end.saturating_add(self.desk.setup.timeout.as_nanos() as u64) <= now {
            // What is under way is waited for as long as anything is.
            self.desk.drop_backlog(now);
        }
        Ok(false)
    }

    fn finish(&mut self) {
        let now = self.desk.setup.now();
        let Some(load) = self.desk.load.take() else { return };
        let (begin, ..) = self.stretch;
        let end = if load.end == u64::MAX { now } else { load.end.min(now) };
        let mut sample = std::mem::replace(&mut self.desk.sample, Sample::empty());
        sample.time = Duration::from_nanos(end.saturating_sub(begin));
        let examples = std::mem::take(&mut self.desk.examples);
        self.tell(News::Done(begin, Box::new(sample), examples));
    }

    fn turn(&mut self) -> Result<(), Failure> {
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.reap(&mut completions);
        for completion in completions.drain(..) {
            self.handle(completion)?;
        }
        self.completions = completions;
        let now = self.desk.setup.now();
        self.keep_time(now)?;
        self.desk.issue(now);
        self.open_lanes(now)?;
        self.listen();
        self.flush(now);
        self.wait().map_err(|error| Failure(format!("io_uring: {error}")))
    }

    #[inline]
    fn handle(&mut self, completion: Completion) -> Result<(), Failure> {
        match completion {
            Completion::Received { key, outcome, armed } => {
                let Some(lane) =
                    self.desk.lanes.get_mut(key.index as usize).filter(|l| key.is_generation(l.generation))
                else {
                    if let Received::Data(lent) = outcome {
                        self.ring.recycle(lent);
                    }
                    return Ok(());
                };
                if !armed {
                    self.deaf.push_back(key);
                }
                match outcome {
                    Received::Data(lent) => {
                        let now = self.desk.setup.now();
                        let bytes = self.ring.bytes(&lent);
                        let result = if lane.session.is_some() {
                            self.desk.unseal(key.index, bytes, now)
                        } else {
                            self.desk.received(key.index, bytes, now)
                        };
                        self.ring.recycle(lent);
                        result
                    }
                    Received::Starved | Received::Cancelled => Ok(()),
                    Received::End | Received::Failed(_) if matches!(lane.state, State::Closed | State::Waiting) => {
                        Ok(())
                    }
                    Received::End => self.desk.ended(key.index, "closed the connection"),
                    Received::Failed(error) => self.desk.ended(key.index, &format!("broke the connection ({error})")),
                }
            }
            Completion::Sent { key, mut buffer, result } => {
                let Some(lane) =
                    self.desk.lanes.get_mut(key.index as usize).filter(|l| key.is_generation(l.generation))
                else {
                    return Ok(());
                };
                lane.sending = false;
                buffer.clear();
                lane.spare = buffer;
                match result {
                    Ok(()) => self.desk.mark(key.index),
                    Err(error) => self.desk.ended(key.index, &format!("broke the connection ({error})"))?,
                }
                Ok(())
            }
            Completion::Connected { key, result } => {
                let current = self.desk.lanes.get(key.index as usize).is_some_and(|l| key.is_generation(l.generation));
                match result {
                    Ok(()) if current => {
                        let now = self.desk.setup.now();
                        self.deaf.push_back(key);
                        self.desk.connected(key.index, now);
                        Ok(())
                    }
                    Err(error) if current => Err(self.desk.unreachable(key.index, &error)),
                    _ => Ok(()),
                }
            }
            Completion::Accepted { .. } | Completion::Woken | Completion::Readable { .. } => Ok(()),
        }
    }

    /// What is due by the clock: the end of a stretch, replies that do not come, storms.
    #[inline]
    fn keep_time(&mut self, now: u64) -> Result<(), Failure> {
        if now >= self.stretch.1 {
            self.end_stretch();
        }
        if now >= self.next_storm {
            self.next_storm += self.desk.setup.storm.map_or(u64::MAX / 2, |every| every.as_nanos() as u64);
            (0..self.desk.clients.len()).for_each(|client| self.desk.retire(client as u32));
        }
        if now >= self.next_watch {
            self.next_watch = now + WATCH_NS;
            self.desk.watch(now)?;
            self.desk.give_up(now);
            let finished = self.desk.load.as_ref().map_or(0, |load| load.finished);
            self.tell(News::Progress(self.desk.lanes.iter().filter(|l| l.state == State::Ready).count(), finished));
        }
        Ok(())
    }

    fn end_stretch(&mut self) {
        let (begin, end, length) = self.stretch;
        let Some(load) = &mut self.desk.load else { return };
        if end >= load.measure {
            load.counted = load.measure;
        }
        let load_end = load.end;
        if end >= load_end {
            // The last one goes on until all is answered.
            self.stretch.1 = u64::MAX;
            self.desk.sample.counts.waiting = self.desk.backlog.len() as u64;
            return;
        }
        let mut sample = std::mem::replace(&mut self.desk.sample, Sample::empty());
        self.desk.sample.counts.sent = std::mem::take(&mut self.desk.ahead);
        sample.time = Duration::from_nanos(end - begin);
        self.tell(News::Stretch(begin, Box::new(sample)));
        self.stretch = (end, (end + length).min(load_end), length);
    }

    /// Closes and opens lanes that are to be opened anew, as fast as is allowed. A few at a time: each takes
    /// some system calls, and meanwhile requests become due.
    #[inline]
    fn open_lanes(&mut self, now: u64) -> Result<(), Failure> {
        for _ in 0..LANES_PER_TURN {
            let Some(index) = self.desk.reopen.pop_front() else { break };
            self.desk.lanes[index as usize].state = State::Waiting;
            if let Some(socket) = self.desk.close(index) {
                close(&socket);
            }
            self.opening.push_back(index);
        }
        for _ in 0..LANES_PER_TURN {
            if self.opening.is_empty() || now < self.next_connect {
                break;
            }
            if let Some(rate) = self.desk.setup.connect_rate {
                let gap = (1e9 / rate * self.desk.setup.workers as f64) as u64;
                // Time in which none was wanted earns nothing.
                self.next_connect = now.max(self.next_connect) + gap;
            }
            let index = self.opening.pop_front().expect("it is not empty");
            self.open(index, now)?;
        }
        Ok(())
    }

    fn open(&mut self, index: u32, now: u64) -> Result<(), Failure> {
        let address = self.desk.nodes[usize::from(self.desk.lanes[index as usize].node)];
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Transport::TCP))
            .and_then(|socket| socket.set_tcp_nodelay(true).map(|()| socket))
            .map_err(|error| {
                Failure(format!("no socket for another connection: {error}: raise `ulimit -n`, or lower --connections"))
            })?;
        self.desk.prepare(index, now)?;
        let lane = &mut self.desk.lanes[index as usize];
        self.ring.connect(lane.key(index), socket.as_raw_fd(), address.into());
        lane.socket = Some(socket.into());
        Ok(())
    }

    /// Arms receives that are not: as many as there are buffers, since more would find none. Oldest first: in any
    /// other order a few lanes could use the buffers again and again, and the rest never get one.
    #[inline]
    fn listen(&mut self) {
        for _ in 0..self.ring.receive_buffers() {
            let Some(key) = self.deaf.pop_front() else { break };
            let lane = &self.desk.lanes[key.index as usize];
            if let Some(descriptor) = lane.descriptor()
                && key.is_generation(lane.generation)
                && matches!(lane.state, State::Greeting | State::Ready)
            {
                self.ring.receive(key, descriptor);
            }
        }
    }

    /// Hands over what lanes have to send.
    #[inline]
    fn flush(&mut self, now: u64) {
        let is_in_time = self.desk.is_in_time(now);
        let mut dirty = std::mem::take(&mut self.desk.dirty);
        for index in dirty.drain(..) {
            let lane = &mut self.desk.lanes[index as usize];
            lane.dirty = false;
            let is_open = matches!(lane.state, State::Greeting | State::Ready);
            if lane.sending || !is_open {
                continue;
            }
            let Some(descriptor) = lane.descriptor() else { continue };
            let bytes = lane.take_output();
            if bytes.is_empty() {
                lane.spare = bytes;
                continue;
            }
            lane.sending = true;
            if is_in_time {
                self.desk.sample.counts.bytes_sent += bytes.len() as u64;
            }
            self.ring.send(lane.key(index), descriptor, bytes);
        }
        self.desk.dirty = dirty;
    }

    #[inline]
    fn wait(&mut self) -> std::io::Result<()> {
        let now = self.desk.setup.now();
        let due = if self.deaf.is_empty() { self.desk.next_due().min(self.next_connect_due()) } else { 0 };
        if due > now + SPIN_NS {
            let sleep = Duration::from_nanos(due - now - SPIN_NS).min(SLEEP_MAX);
            return self.ring.submit_and_wait(sleep, None);
        }
        self.ring.submit()?;
        while !self.ring.has_news() && self.desk.setup.now() < due {
            std::hint::spin_loop();
        }
        // Completions that the kernel has put off are made by another entry.
        self.ring.submit()
    }

    fn next_connect_due(&self) -> u64 {
        match (self.desk.reopen.is_empty(), self.opening.is_empty()) {
            (false, _) => 0,
            (true, false) => self.next_connect,
            (true, true) => u64::MAX,
        }
    }
}

/// Ends a connection at once. Replaced by the thousand, connections that wait for their last
/// packets would use up the local ports; nothing is under way, so nothing is lost by a reset.
fn close(socket: &OwnedFd) {
    let socket = socket2::SockRef::from(socket);
    // Both fail only on a connection that is gone already.
    let _ = socket.set_linger(Some(Duration::ZERO));
    let _ = socket.shutdown(std::net::Shutdown::Both);
}
