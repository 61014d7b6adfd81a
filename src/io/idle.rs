//! When a core spins and when it sleeps.
//!
//! Sleeping has two depths. While there is traffic a core waits inside its ring's
//! own enter call, which hands over what is queued and sleeps in one system call.
//! After a while without any it parks in glommio, on an eventfd that the ring
//! signals, and the executor sleeps as long as its own timers allow.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use glommio::io::PollableFd;
use glommio::timer::{Timer, try_timeout};

use super::core::Core;
use super::ring::{Gather, drain};
use crate::control::config::values::Idle;

/// How long the data path runs before it lets the background tasks have a turn.
const YIELD_AFTER: Duration = Duration::from_millis(1);
/// How long a core without traffic waits in its ring before it parks.
const PARK_AFTER: Duration = Duration::from_millis(3);
/// How long a slice of background work takes, to some tens of microseconds.
const BACKGROUND_TIME: Duration = Duration::from_micros(150);
/// How long the slices take that a core without requests does between two looks for some.
const IDLE_BACKGROUND_TIME: Duration = Duration::from_micros(50);
/// How often the background task looks whether there is something to do.
const BACKGROUND_PAUSE_MIN: Duration = Duration::from_millis(1);
const BACKGROUND_PAUSE_MAX: Duration = Duration::from_millis(100);
/// How often buffers and sessions are counted.
const ACCOUNT_EVERY: Duration = Duration::from_millis(200);

/// What to do with a turn that found nothing.
#[derive(Clone, Copy, Debug)]
pub struct IdlePolicy {
    /// The mode.
    pub mode: Idle,
    /// How long an adaptive core spins after its last work.
    pub spin: Duration,
    /// How long a busy core waits to serve several connections together.
    pub gather: Duration,
}

/// Receives of one turn above which connections are busy at the same time.
const TOGETHER_MIN: f32 = 1.5;
/// Receives for which a gathering wait waits at most.
const GATHER_EVENTS_MAX: f32 = 16.0;
/// A core gathers when it is on its CPU for this part of the time without, spinning included, or finds so many receives in a
/// turn.
const GATHER_LOAD_MIN: f32 = 0.75;
const CROWD: f32 = 4.0;
/// For so long; then it works without for a while, to see whether it would still be as busy.
const GATHER_TERM: Duration = Duration::from_millis(50);
const LOOK_TERM: Duration = Duration::from_millis(5);
/// If fewer receives come while it gathers than this part of those without, its clients have nothing to send until it
/// answers: then it does not for longer.
const GATHERED_MIN: f32 = 0.86;
const FORBEAR_TERM: Duration = Duration::from_millis(500);
/// Weight of the newest term in the average of those without.
const NEWEST_TERM: f32 = 0.25;
/// Weight of the newest observation in an average.
const NEWEST: f32 = 0.125;

/// What the last turns were like: moving averages that decide how to wait.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// Receives that one turn with any finds.
    events: f32,
    /// Seconds from a turn that finds nothing to the next one with receives.
    gap: f32,
    idle_since: Option<Duration>,
    last_work: Duration,
    last_yield: Duration,
    /// Whether it gathers, since when, and until when that stays so at least.
    gathers: bool,
    decided_at: Duration,
    decided_until: Duration,
    /// Receives since then, and how many come in a second when it works without gathering.
    received: usize,
    rate_without: f32,
}

impl Pace {
    fn note(&mut self, busy: bool, events: usize, now: Duration) {
        if busy {
            self.last_work = now;
        }
        if events == 0 {
            self.idle_since.get_or_insert(now);
            return;
        }
        self.received += events;
        // What piled up while the machine was away says little.
        self.events += ((events as f32).min(GATHER_EVENTS_MAX) - self.events) * NEWEST;
        if let Some(since) = self.idle_since.take() {
            self.gap += ((now - since).as_secs_f32() - self.gap) * NEWEST;
        }
    }

    /// Whether spinning is likely to be paid with an event before `spin` is over.
    /// Where several connections are busy, gathering serves more for each wake-up.
    fn spinning_pays(&self, spin: Duration) -> bool {
        self.events < TOGETHER_MIN && self.gap < spin.as_secs_f32()
    }

    /// How to wait. Where a core has time to spare, nearly every request wakes it, gathered or not: its clients would wait
    /// for nothing.
    fn gather(&mut self, time: Duration, load: f32, connections: usize) -> Option<Gather> {
        if self.last_work >= self.decided_until {
            self.decide(load);
        }
        // Twice what came last time: the wait grows with the load, and ends by its time. Half of the connections may have
        // nothing to send because they have just been answered.
        let events = ((self.events * 2.0).min(GATHER_EVENTS_MAX) as usize).min(connections / 2);
        let gathers = self.gathers && self.events >= TOGETHER_MIN && events > 1 && !time.is_zero();
        gathers.then_some(Gather { events, time })
    }

    /// Decides anew whether to gather, at the end of a term.
    fn decide(&mut self, load: f32) {
        let lasted = self.last_work.saturating_sub(self.decided_at).as_secs_f32();
        let rate = if lasted > 0.0 { self.received as f32 / lasted } else { 0.0 };
        let term = if self.gathers {
            self.gathers = false;
            // What gathering finds together is no crowd.
            self.events = 1.0;
            if rate < self.rate_without * GATHERED_MIN { FORBEAR_TERM } else { LOOK_TERM }
        } else {
            let first = self.rate_without == 0.0;
            self.rate_without += (rate - self.rate_without) * if first { 1.0 } else { NEWEST_TERM };
            self.gathers = load >= GATHER_LOAD_MIN || self.events >= CROWD;
            if self.gathers { GATHER_TERM } else { LOOK_TERM }
        };
        (self.decided_at, self.decided_until, self.received) = (self.last_work, self.last_work + term, 0);
    }
}

/// What follows a turn.
enum Step {
    Again,
    Yield,
    Park(Option<Duration>),
    Leave,
}

/// One core's two tasks share it; neither holds it across an await.
pub struct Loop {
    core: RefCell<Core>,
    policy: IdlePolicy,
    /// Whether background work waits, so that the core must not sleep.
    backlog: std::cell::Cell<bool>,
}

impl Loop {
    /// The loop of `core`.
    pub fn new(core: Core, policy: IdlePolicy) -> Rc<Self> {
        Rc::new(Self { core: RefCell::new(core), policy, backlog: std::cell::Cell::new(false) })
    }

    /// The data path: turns until the core is told to leave.
    ///
    /// # Errors
    /// The ring failed.
    pub async fn run(self: Rc<Self>, eventfd: File) -> io::Result<()> {
        let eventfd = PollableFd::new(eventfd).map_err(|error| io::Error::other(error.to_string()))?;
        let mut pace = Pace::default();
        loop {
            match self.step(&mut pace)? {
                Step::Again => {}
                Step::Yield => glommio::executor().yield_task_queue_now().await,
                Step::Park(limit) => self.park(&eventfd, limit).await?,
                Step::Leave => return Ok(()),
            }
        }
    }

    fn step(&self, pace: &mut Pace) -> io::Result<Step> {
        let mut core = self.core.borrow_mut();
        let busy = core.turn();
        let now = core.now();
        if core.is_leaving() {
            core.ring().submit()?;
            return Ok(Step::Leave);
        }
        pace.note(busy, core.events(), now);
        if self.backlog.get() && !busy {
            // Time that nobody else wants. By its shares the background task would get a fifth of it.
            self.backlog.set(core.background(IDLE_BACKGROUND_TIME));
        }
        if now.saturating_sub(pace.last_yield) >= YIELD_AFTER || core.has_unsent_mail() {
            core.ring().submit()?;
            pace.last_yield = now;
            return Ok(Step::Yield);
        }
        if core.has_more() || self.backlog.get() {
            core.ring().submit()?;
            return Ok(Step::Again);
        }
        let quiet = now.saturating_sub(pace.last_work);
        match self.policy.mode {
            Idle::Busy => core.ring().submit()?,
            Idle::Adaptive if quiet < self.policy.spin && pace.spinning_pays(self.policy.spin) => {
                core.ring().submit()?;
                spin(&mut core, (pace.last_work + self.policy.spin).min(now + YIELD_AFTER));
            }
            Idle::Adaptive | Idle::Park if quiet < PARK_AFTER => {
                let gather = pace.gather(self.policy.gather, core.load(), core.connections());
                wait(&mut core, gather)?;
            }
            Idle::Adaptive | Idle::Park => {
                core.ring().submit()?;
                pace.last_yield = now;
                let limit = core.next_due().map(|due| due.saturating_sub(now));
                return Ok(Step::Park(limit));
            }
        }
        Ok(Step::Again)
    }

    /// Sleeps in the executor until the ring has news, mail comes in or `limit` has passed.
    async fn park(&self, eventfd: &PollableFd<File>, limit: Option<Duration>) -> io::Result<()> {
        {
            let mut core = self.core.borrow_mut();
            core.ring().notify(true);
            // What came before the eventfd was on is seen here, what comes after signals it.
            if core.ring().has_queued() || core.ring().has_news() || !core.mesh().begin_wait() {
                core.ring().notify(false);
                return Ok(());
            }
            core.count_park();
        }
        // Either ending means the same: look again.
        let _ = match limit {
            Some(limit) => try_timeout(limit, eventfd.readable()).await,
            None => eventfd.readable().await,
        };
        let mut core = self.core.borrow_mut();
        core.ring().notify(false);
        core.mesh().end_wait();
        drain(eventfd.get_ref());
        core.ring().submit()
    }

    /// Everything that is not the data path, a slice at a time.
    pub async fn background(self: Rc<Self>) {
        let mut accounted = Duration::ZERO;
        loop {
            let pause = {
                let mut core = self.core.borrow_mut();
                if core.is_leaving() {
                    return;
                }
                self.backlog.set(core.background(BACKGROUND_TIME));
                if core.ring().has_queued() && core.ring().submit().is_err() {
                    // The data path meets it too, and ends.
                    return;
                }
                let now = core.read_time();
                if now.saturating_sub(accounted) >= ACCOUNT_EVERY {
                    accounted = now;
                    core.account();
                }
                core.next_expiry_in().unwrap_or(BACKGROUND_PAUSE_MAX)
            };
            if self.backlog.get() {
                glommio::executor().yield_task_queue_now().await;
            } else {
                Timer::new(pause.clamp(BACKGROUND_PAUSE_MIN, BACKGROUND_PAUSE_MAX)).await;
            }
        }
    }
}

/// Looks for news without a system call until `until`.
fn spin(core: &mut Core, until: Duration) {
    while !core.ring().has_news() && !core.mesh().has_mail() && core.read_time() < until {
        std::hint::spin_loop();
    }
}

/// Hands over what is queued and sleeps in the ring, until the background is due at the latest.
fn wait(core: &mut Core, gather: Option<Gather>) -> io::Result<()> {
    if !core.mesh().begin_wait() {
        return core.ring().submit();
    }
    core.count_park();
    let result = core.ring().submit_and_wait(YIELD_AFTER, gather);
    core.mesh().end_wait();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_micros(75);

    /// A core with fifty connections, in turns a tenth of a millisecond apart.
    #[derive(Default)]
    struct Trial {
        pace: Pace,
        now: Duration,
    }

    impl Trial {
        /// Lets turns pass in which `events` receives came, or of those that gathered `gathered`; answers in how many the
        /// core gathered.
        fn pass(&mut self, turns: usize, (events, gathered): (usize, usize), load: f32) -> usize {
            let mut count = 0;
            for _ in 0..turns {
                self.now += Duration::from_micros(100);
                self.pace.note(true, if self.pace.gathers { gathered } else { events }, self.now);
                count += usize::from(self.pace.gather(MOST, load, 50).is_some());
            }
            count
        }
    }

    #[test]
    fn a_core_with_time_to_spare_does_not_gather() {
        let mut trial = Trial::default();
        assert_eq!(trial.pass(5000, (2, 2), 0.7), 0);
        assert_eq!(trial.pass(1000, (3, 3), 0.1), 0);
    }

    #[test]
    fn a_busy_core_gathers_most_of_the_time_and_looks_now_and_then() {
        let gathered = Trial::default().pass(10_000, (2, 2), 0.8);
        assert!((8000..9500).contains(&gathered), "{gathered} of 10,000");
    }

    #[test]
    fn gathering_does_not_end_by_what_it_saves() {
        let mut trial = Trial::default();
        assert!(trial.pass(70, (2, 6), 0.9) > 0);
        assert_eq!(trial.pass(400, (2, 6), 0.6), 400);
        // Then it looks: the six that it found together are no crowd by themselves.
        let later = trial.pass(2000, (2, 6), 0.6);
        assert!(later < 100, "{later} of 2,000");
    }

    #[test]
    fn a_core_whose_clients_wait_for_it_forbears() {
        let gathered = Trial::default().pass(10_000, (4, 3), 0.9);
        assert!((500..1500).contains(&gathered), "{gathered} of 10,000");
    }

    #[test]
    fn a_crowd_is_gathered_whatever_the_load_and_a_pile_after_a_pause_is_none() {
        assert!(Trial::default().pass(1000, (6, 6), 0.5) > 800);
        let mut trial = Trial::default();
        for _ in 0..50 {
            assert_eq!(trial.pass(1, (300, 300), 0.5), 0);
            assert_eq!(trial.pass(60, (2, 2), 0.5), 0);
        }
    }

    #[test]
    fn the_wait_is_for_what_may_come_and_not_without_end() {
        let mut trial = Trial::default();
        trial.pass(200, (5, 5), 0.9);
        let gather = |pace: &mut Pace, connections| pace.gather(MOST, 0.9, connections).map(|gather| gather.events);
        assert!((9..=10).contains(&gather(&mut trial.pace, 50).expect("a busy core gathers")));
        assert_eq!(gather(&mut trial.pace, 8), Some(4), "the other four wait for their replies");
        assert_eq!(gather(&mut trial.pace, 3), None);
        assert!(trial.pace.gather(Duration::ZERO, 0.9, 50).is_none(), "it is turned off");
        trial.pass(200, (100, 100), 0.9);
        assert_eq!(gather(&mut trial.pace, 50), Some(16));
    }
}
