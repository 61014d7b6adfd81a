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
use super::pace::Pace;
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
    /// How long a core waits at most to serve several connections together.
    pub gather: Duration,
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
        pace.note(busy, core.came_in(), now);
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
            Idle::Adaptive | Idle::Park if quiet < PARK_AFTER || core.is_expecting() => {
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
