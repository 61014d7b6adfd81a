//! One load: what is asked, when, and for how long.

use std::sync::Arc;

use ringfence::base::rng::Rng;

use super::desk::Desk;
use crate::outcome::{Kind, record};
use crate::schedule::Schedule;
use crate::workload::trace::Trace;

/// Where requests come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Every key is written once: those of this worker, from the next one on.
    Fill {
        /// The next key.
        next: u64,
        /// The distance to the one behind it: the number of workers.
        step: u64,
    },
    /// The mix of the workload.
    Mix,
    /// A trace, from its next request on: those whose keys are this worker's.
    Replay {
        /// The trace.
        trace: Arc<Trace>,
        /// The next request.
        next: usize,
        /// Which worker's.
        worker: u32,
        /// Of how many.
        workers: u32,
    },
}

/// How requests are paced.
#[derive(Clone, Debug)]
pub enum Pacing {
    /// By a schedule; each client may have so many requests under way.
    Open(Box<Schedule>, u32),
    /// Each client sends so many at once, and again when all are answered.
    Closed(u32),
}

/// One load on one worker. All times are nanoseconds of the worker's clock.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where requests come from.
    pub source: Source,
    /// How they are paced.
    pub pacing: Pacing,
    /// When it begins.
    pub begin: u64,
    /// When what is measured begins; `u64::MAX`: never.
    pub measure: u64,
    /// Requests that were to be sent before this are not counted: first the beginning, then that of what is measured.
    pub counted: u64,
    /// When it ends; `u64::MAX`: when the source does.
    pub end: u64,
    /// Requests that may still be sent.
    pub left: u64,
    /// Whether requests are still sent.
    pub issuing: bool,
    /// Whether there are no more to send, though there may be time.
    pub exhausted: bool,
    /// Requests that are over.
    pub finished: u64,
}

impl Load {
    /// Whether a request that was to be sent at `intended` is counted. One from before the measured
    /// time that is answered within it is not.
    #[inline]
    pub fn counts(&self, intended: u64) -> bool {
        intended >= self.counted
    }

    /// Whether a request belongs to the measured time, though what was before it has not been reported yet:
    /// a write that follows a miss may.
    #[inline]
    pub fn is_ahead(&self, intended: u64) -> bool {
        self.counted < self.measure && intended >= self.measure
    }

    /// Whether requests follow a schedule.
    #[inline]
    pub fn is_open(&self) -> bool {
        matches!(self.pacing, Pacing::Open(..))
    }

    /// How often each client may ask before it is answered: in lockstep once, and then for a whole batch.
    pub fn turns(&self) -> u32 {
        match self.pacing {
            Pacing::Open(_, depth) => depth,
            Pacing::Closed(_) => 1,
        }
    }
}

/// A request to make.
#[derive(Clone, Copy, Debug)]
pub enum Task {
    /// Read a key; a miss is filled with so many bytes.
    Get { id: u64, bytes: u32 },
    /// Write a key.
    Set { id: u64, bytes: u32 },
    /// Remove a key.
    Delete { id: u64 },
    /// Read several keys.
    Mget,
}

/// Requests that become due in one turn at most: a turn is not to take so long that as many more are due.
const DUE_MAX: usize = 4096;
/// Requests that may wait because no client is free: 128 MiB of them. With more there is nothing to be found out.
pub const BACKLOG_MAX: usize = 1 << 24;
/// Requests that are drawn together at most.
const DRAWN_MAX: u32 = 64;

impl Desk {
    /// Sends what is due.
    #[inline]
    pub fn issue(&mut self, now: u64) {
        let Some(load) = &self.load else { return };
        if now < load.begin {
            return;
        }
        if load.is_open() { self.issue_due(now) } else { self.issue_batches(now) }
    }

    fn issue_due(&mut self, now: u64) {
        while let Some(&intended) = self.backlog.front() {
            let Some(client) = self.take_turn() else { break };
            self.backlog.pop_front();
            self.ask_next(client, intended, now);
        }
        for _ in 0..DUE_MAX {
            let Some(load) = &mut self.load else { return };
            let Pacing::Open(schedule, _) = &mut load.pacing else { return };
            let intended = load.begin + schedule.next_ns();
            load.exhausted |= load.left == 0;
            load.issuing &= intended < load.end && !load.exhausted;
            if !load.issuing || intended > now {
                return;
            }
            load.left -= 1;
            schedule.advance(&mut self.rng);
            if load.counts(intended) {
                record(&mut self.sample.slip, now - intended);
            }
            if self.backlog.len() >= BACKLOG_MAX {
                (load.issuing, load.exhausted, load.end) = (false, true, now);
            }
            match self.take_turn() {
                Some(client) => self.ask_next(client, intended, now),
                None => self.backlog.push_back(intended),
            }
        }
    }

    fn issue_batches(&mut self, now: u64) {
        while let Some(client) = self.take_turn() {
            let mut asked = 0;
            loop {
                let Some(load) = &mut self.load else { return };
                let Pacing::Closed(batch) = load.pacing else { return };
                load.exhausted |= load.left == 0;
                load.issuing &= now < load.end && !load.exhausted;
                if asked == batch || !load.issuing {
                    break;
                }
                let wanted = load.left.min((batch - asked).min(DRAWN_MAX).into());
                load.left -= wanted;
                self.draw(wanted as usize);
                while let Some(task) = self.drawn.pop_front() {
                    self.ask(client, task, now, now);
                }
                asked += wanted as u32;
            }
            if self.clients[client as usize].outstanding == 0 {
                return;
            }
        }
    }

    /// Draws the next requests of the source, and looks up all their keys in the ledger before any is
    /// made: the misses of the processor's caches then overlap instead of following each other.
    fn draw(&mut self, count: usize) {
        while self.drawn.len() < count {
            match self.next_task() {
                Some(task) => self.drawn.push_back(task),
                None => {
                    if let Some(load) = &mut self.load {
                        load.issuing = false;
                        load.exhausted = true;
                    }
                    break;
                }
            }
        }
        for task in &self.drawn {
            if let Task::Get { id, .. } | Task::Set { id, .. } | Task::Delete { id } = task {
                std::hint::black_box(self.setup.ledger.known(*id));
            }
        }
    }

    /// Makes the next request of the source.
    #[inline]
    fn ask_next(&mut self, client: u32, intended: u64, now: u64) {
        self.draw(1);
        if let Some(task) = self.drawn.pop_front() {
            self.ask(client, task, intended, now);
        }
    }

    /// Makes a request, for a client whose turn it is. Inlined, so that the task is not copied to be handed over.
    #[inline(always)]
    fn ask(&mut self, client: u32, task: Task, intended: u64, now: u64) {
        match task {
            Task::Get { id, bytes } => self.ask_get(client, id, bytes, intended, now),
            Task::Set { id, bytes } => self.ask_set(client, id, bytes, intended, now, true),
            Task::Delete { id } => self.ask_delete(client, id, intended, now),
            Task::Mget => self.ask_mget(client, intended, now),
        }
    }

    #[inline]
    fn next_task(&mut self) -> Option<Task> {
        let setup = &self.setup;
        let rng: &mut Rng = &mut self.rng;
        match &mut self.load.as_mut()?.source {
            Source::Mix => Some(match setup.mix.draw(rng) {
                Kind::Get => Task::Get { id: setup.picker.pick(rng), bytes: 0 },
                Kind::Set => Task::Set { id: setup.picker.pick(rng), bytes: setup.value_sizes.draw(rng) as u32 },
                Kind::Delete => Task::Delete { id: setup.picker.pick(rng) },
                Kind::Mget => Task::Mget,
            }),
            Source::Fill { next, step } => {
                let id = *next;
                *next += *step;
                (id < setup.keys).then(|| Task::Set { id, bytes: setup.value_sizes.draw(rng) as u32 })
            }
            Source::Replay { trace, next, worker, workers } => {
                let rest = &trace.requests[*next..];
                let Some(skipped) = rest.iter().position(|request| request.key % *workers == *worker) else {
                    *next = trace.requests.len();
                    return None;
                };
                *next += skipped + 1;
                let request = rest[skipped];
                let bytes = if trace.sized { request.bytes } else { setup.value_sizes.draw(rng) as u32 };
                Some(Task::Get { id: u64::from(request.key), bytes: bytes.max(1) })
            }
        }
    }
}
