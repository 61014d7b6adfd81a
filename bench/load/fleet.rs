//! The workers of one server, as one: started, told what to do, waited for, and
//! their measurements put together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use ringfence::base::rng::Rng;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::faults;
use crate::gathering::Gathering;
use crate::live::Live;
use crate::outcome::{Fault, Latencies, Pace, Run, latencies};
use crate::schedule::Schedule;
use crate::worker::{Failure, Load, News, Order, Pacing, Setup, Source, Worker};
use crate::workload::trace::Trace;

/// Requests of one client that are under way while the keys are written.
const FILL_BATCH: u32 = 16;
/// Time between an order and its beginning, so that all workers begin together.
const LEAD_NS: u64 = 5_000_000;
/// How often the control thread looks around.
const LOOK: Duration = Duration::from_millis(50);
/// Loads shorter than this have short intervals.
const SHORT: Duration = Duration::from_secs(10);

/// One load on all workers.
#[derive(Clone, Debug)]
pub struct Offer {
    /// How requests are offered.
    pub pace: Pace,
    /// What is replayed, if anything is.
    pub trace: Option<Arc<Trace>>,
    /// How long the rate grows.
    pub ramp: Duration,
    /// How long it is held before it is measured.
    pub warmup: Duration,
    /// How long it is measured; `None`: until the requests are used up.
    pub duration: Option<Duration>,
    /// How many requests.
    pub requests: Option<u64>,
    /// Ids of the server's processes, if they are known.
    pub server: Vec<u32>,
}

/// The workers of one server.
pub struct Fleet {
    setup: Arc<Setup>,
    orders: Vec<Sender<Order>>,
    news: Receiver<(usize, News)>,
    threads: Vec<JoinHandle<()>>,
    /// Connections opened before any load, and how long each took.
    connects: u64,
    connect: Latencies,
    /// Tells the workers to end what they are doing.
    stop: Arc<AtomicBool>,
    /// Set by Ctrl-C.
    interrupted: Arc<AtomicBool>,
}

impl Fleet {
    /// Starts a worker on each of `cpus` and opens all connections.
    ///
    /// # Errors
    /// One line: a connection does not come about, or a thread.
    pub fn start(
        setup: Arc<Setup>,
        cpus: &[usize],
        interrupted: Arc<AtomicBool>,
        live: &mut Live,
    ) -> Result<Self, Failure> {
        let (news, inbox) = channel();
        let mut fleet = Self {
            setup,
            orders: Vec::new(),
            news: inbox,
            threads: Vec::new(),
            connects: 0,
            connect: latencies(),
            stop: Arc::default(),
            interrupted,
        };
        for (index, &cpu) in cpus.iter().enumerate() {
            let (orders, inbox) = channel();
            let (setup, stop, news) = (fleet.setup.clone(), fleet.stop.clone(), news.clone());
            let thread = std::thread::Builder::new().name(format!("load-{index}")).spawn(move || match pin(cpu) {
                Ok(()) => Worker::run(index, setup, stop, &inbox, news),
                // The run is over when nobody listens.
                Err(failure) => drop(news.send((index, News::Failed(failure)))),
            });
            fleet.threads.push(thread.map_err(|error| Failure(format!("no thread for CPU {cpu}: {error}")))?);
            fleet.orders.push(orders);
        }
        drop(news);
        fleet.wait_until_connected(live)?;
        Ok(fleet)
    }

    fn wait_until_connected(&mut self, live: &mut Live) -> Result<(), Failure> {
        let mut open = vec![0; self.orders.len()];
        let mut ready = 0;
        while ready < self.orders.len() {
            match self.listen(LOOK)? {
                Some((_, News::Ready(connects, times))) => {
                    ready += 1;
                    self.connects += connects;
                    self.connect.add(&*times).expect("they grow as far as the bound");
                }
                Some((index, News::Progress(connections, _))) => open[index] = connections,
                _ => {}
            }
            live.connecting(open.iter().sum(), self.setup.clients * self.setup.nodes.len());
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(Failure("interrupted while connecting".into()));
            }
        }
        Ok(())
    }

    /// What a worker reports within `time`.
    fn listen(&self, time: Duration) -> Result<Option<(usize, News)>, Failure> {
        if self.interrupted.load(Ordering::Relaxed) {
            self.stop.store(true, Ordering::Relaxed);
        }
        match self.news.recv_timeout(time) {
            Ok((_, News::Failed(failure))) => Err(failure),
            Ok(news) => Ok(Some(news)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Failure("a thread of the generator ended".into())),
        }
    }

    fn order(&self, stretch: u64, mut load: impl FnMut(usize) -> Load) -> Result<(), Failure> {
        for (index, orders) in self.orders.iter().enumerate() {
            let order = Order::Load(Box::new(load(index)), stretch);
            orders.send(order).map_err(|_| Failure("a thread of the generator ended".into()))?;
        }
        Ok(())
    }

    /// Writes every key once.
    ///
    /// # Errors
    /// One line: the server refused a write, or the connection broke.
    pub fn fill(&mut self, live: &mut Live) -> Result<(), Failure> {
        let workers = self.orders.len() as u64;
        let begin = self.setup.now() + LEAD_NS;
        self.order(u64::MAX, |index| Load {
            source: Source::Fill { next: index as u64, step: workers },
            pacing: Pacing::Closed(FILL_BATCH),
            begin,
            measure: u64::MAX,
            counted: u64::MAX,
            end: u64::MAX,
            left: u64::MAX,
            issuing: true,
            exhausted: false,
            finished: 0,
        })?;
        let mut written = vec![0; self.orders.len()];
        let mut done = 0;
        while done < self.orders.len() {
            match self.listen(LOOK)? {
                Some((index, News::Progress(_, finished))) => written[index] = finished,
                Some((_, News::Done(_, sample, examples))) => {
                    done += 1;
                    if sample.counts.errors + sample.counts.lost > 0 {
                        let why = examples.first().cloned().unwrap_or_default();
                        return Err(Failure(format!("writing the keys before the load failed: {why}")));
                    }
                }
                _ => {}
            }
            live.filling(written.iter().sum(), self.setup.keys);
        }
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(Failure("interrupted while the keys were written, before the load".into()));
        }
        Ok(())
    }

    /// Makes a load and measures it.
    ///
    /// # Errors
    /// One line: the connection broke, or the server answers what no server of its protocol does.
    pub fn load(&mut self, offer: &Offer, live: &mut Live) -> Result<Run, Failure> {
        let begin = self.setup.now() + LEAD_NS;
        let measure = begin + (offer.ramp + offer.warmup).as_nanos() as u64;
        let end = offer.duration.map_or(u64::MAX, |duration| measure + duration.as_nanos() as u64);
        let stretch = match offer.duration {
            Some(duration) if duration < SHORT => Duration::from_millis(250),
            _ => Duration::from_secs(1),
        };
        let stretch = stretch.as_nanos() as u64;
        self.order(stretch, |index| self.load_of(index, offer, begin, measure, end))?;
        let mut gathering = Gathering::new((begin, measure, end), stretch, self.orders.len(), offer.server.clone());
        while gathering.done < self.orders.len() {
            let time = gathering.next_look(self.setup.now()).min(LOOK);
            let news = self.listen(time)?;
            gathering.look(self.setup.now());
            match news {
                Some((_, News::Stretch(begin, sample))) => gathering.add(begin, &sample),
                Some((_, News::Done(begin, sample, examples))) => {
                    gathering.add(begin, &sample);
                    gathering.done += 1;
                    gathering.examples.extend(examples);
                }
                Some((index, News::Progress(_, finished))) => gathering.finished[index] = finished,
                _ => {}
            }
            live.loading(&gathering, offer, self.setup.now());
        }
        let mut run = gathering.into_run(offer, self.setup.now());
        if run.total.connect.is_empty() {
            // None was opened while it was measured: what is known is how long they took at the start.
            run.total.connect = self.connect.clone();
            run.total.counts.connects = self.connects;
        }
        run.faults = faults::of(&run);
        if self.interrupted.load(Ordering::Relaxed) {
            // What is missing is missing for that reason.
            run.faults.retain(|fault| !matches!(fault, Fault::Late(_) | Fault::Few(_)));
            run.faults.insert(0, faults::interrupted(&run, offer));
        }
        Ok(run)
    }

    fn load_of(&self, index: usize, offer: &Offer, begin: u64, measure: u64, end: u64) -> Load {
        let workers = self.orders.len();
        let source = match &offer.trace {
            None => Source::Mix,
            Some(trace) => {
                Source::Replay { trace: trace.clone(), next: 0, worker: index as u32, workers: workers as u32 }
            }
        };
        let pacing = match offer.pace {
            Pace::Closed => Pacing::Closed(self.setup.pipeline),
            Pace::Open { rate, poisson } => {
                // A stream of its own, so that the moments do not depend on what else is drawn.
                let mut rng = Rng::new(self.setup.seed ^ begin ^ (index as u64) << 32);
                let phase = index as f64 / workers as f64;
                let rate = rate / workers as f64;
                let ramp = offer.ramp.as_nanos() as u64;
                Pacing::Open(Box::new(Schedule::new(rate, poisson, ramp, phase, &mut rng)), self.setup.pipeline)
            }
        };
        let left = offer.requests.map_or(u64::MAX, |requests| {
            let (share, rest) = (requests / workers as u64, requests % workers as u64);
            share + u64::from((index as u64) < rest)
        });
        Load { source, pacing, begin, measure, counted: begin, end, left, issuing: true, exhausted: false, finished: 0 }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for orders in self.orders.drain(..) {
            // A worker that has ended needs no order to.
            let _ = orders.send(Order::Leave);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Pins the calling thread, and lets its short sleeps end on time.
fn pin(cpu: usize) -> Result<(), Failure> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|error| {
        Failure(format!("--cpus: CPU {cpu} cannot be used: {error}: choose among those of `taskset -pc $$`"))
    })?;
    // The default slack of 50 µs would add to every sleep. Without leave to change it, sleeps are a little late.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZero::new(1));
    Ok(())
}
