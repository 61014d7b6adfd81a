//! What a core's last turns were like, and what follows from that for its next wait: whether spinning pays, and whether
//! to gather.
//!
//! **Gathering.** A core that is woken for each receive pays a wake-up for each. While it gathers, it waits until
//! several receives have come together, or a time is over. What that saves and costs depends on the clients: to one whose
//! next request waits for this reply it is nothing but delay, and a core that has time to spare would be woken
//! as often. So the core tries it, and compares.
//!
//! ```text
//! without (look) ──busy, or a crowd──> gathering (trial, later whole terms)
//!   ^   ^     │ neither                    │
//!   │   │     v                            │ as many receives came as without: look for one term
//!   │   └─ pipelines? ([`gain`])           │
//!   └──────────────────────────────────────┘ fewer came: for longer, twice as long each time in a row
//! ```
//!
//! A core that is less busy than that has clients with pipelines wait, if they send more because of it.

mod gain;

use std::time::Duration;

use gain::Gain;

use super::ring::Gather;

/// Receives of one turn above which connections are busy at the same time.
const TOGETHER_MIN: f32 = 1.5;
/// The fewest and the most receives that a gathering wait waits for.
const GATHER_EVENTS_MIN: usize = 2;
const GATHER_EVENTS_MAX: f32 = 16.0;
/// A core begins to gather when it is on its CPU for this part of the time without, spinning included, or finds so many
/// receives in a turn.
const GATHER_LOAD_MIN: f32 = 0.75;
const CROWD: f32 = 4.0;
/// It goes on to while it is for this part of the time in the looks between: the load of one look says little.
const GATHER_LOAD_KEPT: f32 = 0.7;
/// A core that is on its CPU for this part of the time, and whose receives bring so many requests (or keys of one), tries
/// whether its clients send more. Who sends requests one by one waits for each, and is not to wait longer to find that out:
/// not if more than one receive in so many has a single request.
const GAIN_LOAD_MIN: f32 = 0.2;
const GAIN_DEPTH_MIN: u64 = 4;
const LONE_PART: usize = 10;
/// Fewer receives in a term say nothing.
const RECEIVES_MIN: usize = 20;
/// If there were few connections for so long, those that come are others.
const FEW_MIN: Duration = Duration::from_millis(100);
/// The most that clients wait for a core that is busy, but do not send more because of it.
const BUSY_WAIT_MAX: Duration = Duration::from_micros(75);
/// How long it gathers the first time, and after that has cost nothing.
const TRIAL_TERM: Duration = Duration::from_millis(10);
const GATHER_TERM: Duration = Duration::from_millis(100);
/// How long it then works without, to see whether it would still be as busy.
const LOOK_TERM: Duration = Duration::from_millis(5);
/// If fewer receives come while it gathers than this part of those without, its clients have nothing to send until it
/// answers.
const GATHERED_MIN: f32 = 0.86;
/// Between two receives no more time than this counts as such in which some came: what is longer is idleness.
const IDLE_MIN: Duration = Duration::from_millis(1);
/// So often in a row does the time without double for that reason: to 640 ms.
const SETBACKS_MAX: u32 = 7;
/// Weight of the newest term in the average of those without.
const NEWEST_TERM: f32 = 0.25;
/// Weight of the newest observation in an average.
const NEWEST: f32 = 0.125;

/// What the last turns were like: moving averages that decide how to wait.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// When a turn last found something to do.
    pub last_work: Duration,
    /// When the data path last let the background tasks have a turn.
    pub last_yield: Duration,
    /// Receives that one turn with any finds.
    events: f32,
    /// Seconds from a turn that finds nothing to the next one with receives.
    gap: f32,
    idle_since: Option<Duration>,
    /// Whether and why it gathers, and until when that stays so at least.
    gathers: Option<Reason>,
    decided_until: Duration,
    /// Receives since then, the time in which they came, idleness left out, and how many come in a second when it works
    /// without gathering.
    received: usize,
    received_lone: usize,
    executed: u64,
    received_in: Duration,
    received_at: Duration,
    rate_without: f32,
    /// Whether the last term of gathering cost no receives, or how many in a row did.
    proven: bool,
    setbacks: u32,
    gain: Gain,
    /// Since when there have been too few connections to gather.
    few_since: Option<Duration>,
}

/// What a turn brought.
#[derive(Clone, Copy, Debug, Default)]
pub struct CameIn {
    /// Receives.
    pub receives: usize,
    /// Those of them that had one request, or not all of one.
    pub lone: usize,
    /// Requests of this core's clients that were executed.
    pub requests: u64,
}

/// Why a core gathers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// It has not much time to spare.
    Busy,
    /// Its clients send more, or that is to be found out.
    Gain,
}

impl Pace {
    /// Takes note of a turn that began at `now`: whether it was `busy`, and what came in.
    pub fn note(&mut self, busy: bool, CameIn { receives: events, lone, requests }: CameIn, now: Duration) {
        if busy {
            self.last_work = now;
        }
        self.executed += requests;
        if events == 0 {
            self.idle_since.get_or_insert(now);
            return;
        }
        self.received += events;
        self.received_lone += lone;
        self.received_in += now.saturating_sub(self.received_at).min(IDLE_MIN);
        self.received_at = now;
        // What piled up while the machine was away says little.
        self.events += ((events as f32).min(GATHER_EVENTS_MAX) - self.events) * NEWEST;
        if let Some(since) = self.idle_since.take() {
            self.gap += ((now - since).as_secs_f32() - self.gap) * NEWEST;
        }
    }

    /// Whether spinning is likely to be paid with an event before `spin` is over.
    /// Where several connections are busy, gathering serves more for each wake-up.
    pub fn spinning_pays(&self, spin: Duration) -> bool {
        self.events < TOGETHER_MIN && self.gap < spin.as_secs_f32()
    }

    /// How to wait, at most `time` for more events after the first, on a core that was on its CPU for the part `load`
    /// of the last milliseconds. Where a core has time to spare, nearly every request wakes it, gathered or not: its
    /// clients would wait for nothing, unless they are busy themselves.
    pub fn gather(&mut self, time: Duration, load: f32, connections: usize) -> Option<Gather> {
        // Half of the connections may have nothing to send because they have just been answered.
        let most = (GATHER_EVENTS_MAX as usize).min(connections / 2);
        if most < GATHER_EVENTS_MIN || time.is_zero() {
            self.few_since.get_or_insert(self.last_work);
            self.begin_term(None, LOOK_TERM);
            return None;
        }
        if self.few_since.take().is_some_and(|since| self.last_work.saturating_sub(since) >= FEW_MIN) {
            self.gain.forget();
        }
        if self.last_work >= self.decided_until {
            self.decide(load);
        }
        let reason = self.gathers?;
        let time = if reason == Reason::Busy { time.min(BUSY_WAIT_MAX) } else { time };
        // Twice what came last time: the wait grows with the load, and ends by its time.
        Some(Gather { events: ((self.events * 2.0) as usize).clamp(GATHER_EVENTS_MIN, most), time })
    }

    /// Decides anew whether to gather, at the end of a term.
    fn decide(&mut self, load: f32) {
        let time = self.received_in;
        let rate = if time.is_zero() { 0.0 } else { self.received as f32 / time.as_secs_f32() };
        if self.gathers.is_some() {
            // What gathering finds together is no crowd.
            self.events = 1.0;
        }
        let (gathers, term) = match self.gathers {
            Some(Reason::Busy) => {
                self.proven = rate >= self.rate_without * GATHERED_MIN;
                self.setbacks = if self.proven { 0 } else { (self.setbacks + 1).min(SETBACKS_MAX) };
                (None, LOOK_TERM * (1 << self.setbacks))
            }
            Some(Reason::Gain) => (None, self.gain.after_with(self.executed, time, self.last_work)),
            None => self.decide_after_look(rate, load),
        };
        self.begin_term(gathers, term);
    }

    /// The same at the end of one without.
    fn decide_after_look(&mut self, rate: f32, load: f32) -> (Option<Reason>, Duration) {
        let first = self.rate_without == 0.0;
        self.rate_without += (rate - self.rate_without) * if first { 1.0 } else { NEWEST_TERM };
        let enough = if self.proven { GATHER_LOAD_KEPT } else { GATHER_LOAD_MIN };
        // A core may be busy with what other cores ask it: there is nothing to gather then.
        let is_busy = self.received > 0 && (load >= enough || self.events >= CROWD);
        self.proven &= is_busy;
        if is_busy {
            return (Some(Reason::Busy), if self.proven { GATHER_TERM } else { TRIAL_TERM });
        }
        let have_pipelines = self.received >= RECEIVES_MIN
            && self.executed >= self.received as u64 * GAIN_DEPTH_MIN
            && self.received_lone * LONE_PART <= self.received;
        let gained = if load >= GAIN_LOAD_MIN && have_pipelines {
            self.gain.after_without(self.executed, self.received_in, self.last_work)
        } else {
            None
        };
        gained.map_or((None, LOOK_TERM), |term| (Some(Reason::Gain), term))
    }

    fn begin_term(&mut self, gathers: Option<Reason>, term: Duration) {
        self.gathers = gathers;
        self.decided_until = self.last_work + term;
        (self.received, self.received_lone, self.executed, self.received_in) = (0, 0, 0, Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_micros(75);

    /// A core with fifty connections, in turns a tenth of a millisecond apart.
    struct Trial {
        pace: Pace,
        now: Duration,
        /// Requests of one receive.
        depth: u64,
    }

    impl Default for Trial {
        fn default() -> Self {
            Self { pace: Pace::default(), now: Duration::ZERO, depth: 1 }
        }
    }

    impl Trial {
        /// Lets turns pass in which `events` receives came, or of those that gathered `gathered`; answers in how many the
        /// core gathered.
        fn pass(&mut self, turns: usize, (events, gathered): (usize, usize), load: f32) -> usize {
            let mut count = 0;
            for _ in 0..turns {
                self.now += Duration::from_micros(100);
                let events = if self.pace.gathers.is_some() { gathered } else { events };
                let lone = if self.depth == 1 { events } else { 0 };
                let came_in = CameIn { receives: events, lone, requests: events as u64 * self.depth };
                self.pace.note(true, came_in, self.now);
                count += usize::from(self.pace.gather(MOST, load, 50).is_some());
            }
            count
        }
    }

    #[test]
    fn clients_with_pipelines_are_gathered_at_any_load_if_they_send_more() {
        for (gathered, least, most) in [(3, 0.7, 0.9), (2, 0.0, 0.05)] {
            let mut trial = Trial { depth: 16, ..Trial::default() };
            trial.pass(20_000, (2, gathered), 0.4);
            let part = trial.pass(100_000, (2, gathered), 0.4) as f64 / 100_000.0;
            assert!((least..most).contains(&part), "{gathered}: {part}");
        }
        // Those who send requests one by one are never asked.
        assert_eq!(Trial::default().pass(20_000, (2, 3), 0.4), 0);
    }

    #[test]
    fn clients_beside_pipelines_are_not_made_to_wait() {
        let mut trial = Trial { depth: 32, ..Trial::default() };
        let mut gathered = 0;
        for _ in 0..20_000 {
            // One in nine sends a single request.
            gathered += trial.pass(4, (2, 3), 0.4);
            trial.depth = 1;
            gathered += trial.pass(1, (1, 1), 0.4);
            trial.depth = 32;
        }
        assert_eq!(gathered, 0);
    }

    #[test]
    fn a_core_that_works_for_others_has_nothing_to_gather() {
        for load in [0.5, 0.9] {
            let mut trial = Trial { depth: 16, ..Trial::default() };
            assert_eq!(trial.pass(100_000, (0, 0), load), 0);
            // And is not confused by it.
            trial.pass(20_000, (2, 3), 0.4);
            assert!(trial.pass(10_000, (2, 3), 0.4) > 7000);
        }
    }

    #[test]
    fn other_clients_are_asked_anew_and_a_reconnect_is_no_other_client() {
        let few_for = |time: Duration| {
            let mut trial = Trial { depth: 16, ..Trial::default() };
            // They do not send more.
            trial.pass(100_000, (2, 2), 0.4);
            assert_eq!(trial.pass(1000, (2, 2), 0.4), 0, "it rests");
            assert!(trial.pace.gather(MOST, 0.4, 3).is_none());
            trial.now += time;
            trial.pass(2000, (2, 2), 0.4)
        };
        assert_eq!(few_for(Duration::from_millis(5)), 0);
        assert!(few_for(Duration::from_secs(1)) > 500);
    }

    #[test]
    fn a_core_that_must_not_gather_finds_nothing_out() {
        for (time, connections) in [(Duration::ZERO, 50), (MOST, 3)] {
            let mut trial = Trial { depth: 16, ..Trial::default() };
            for _ in 0..50_000 {
                trial.now += Duration::from_micros(100);
                trial.pace.note(true, CameIn { receives: 2, lone: 0, requests: 32 }, trial.now);
                assert!(trial.pace.gather(time, 0.4, connections).is_none());
            }
            assert_eq!(format!("{:?}", trial.pace.gain), format!("{:?}", Gain::default()));
            assert_eq!(trial.pass(49, (2, 2), 0.4), 0, "a look comes first");
        }
    }

    #[test]
    fn clients_wait_longer_only_where_they_send_more() {
        let wait = |load, gathered| {
            let mut trial = Trial { depth: 16, ..Trial::default() };
            while trial.pass(1, (2, gathered), load) == 0 {}
            trial.pace.gather(Duration::from_micros(200), load, 50).map(|gather| gather.time.as_micros())
        };
        assert_eq!((wait(0.4, 3), wait(0.9, 3)), (Some(200), Some(75)));
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
        assert!((9000..9700).contains(&gathered), "{gathered} of 10,000");
        // Where requests come one by one nothing is found together until the core waits for it.
        let gathered = Trial::default().pass(10_000, (1, 1), 0.8);
        assert!((9000..9700).contains(&gathered), "{gathered} of 10,000");
    }

    #[test]
    fn what_a_look_finds_by_chance_ends_it_for_that_look() {
        let mut trial = Trial::default();
        trial.pass(2000, (1, 1), 0.8);
        assert!(trial.pass(10_000, (1, 1), 0.72) > 9000, "it was worth while at a load hardly higher");
        let later = trial.pass(3000, (1, 1), 0.6);
        assert!(later <= 1000, "{later}: to the end of the term at most");
        assert_eq!(trial.pass(5000, (1, 1), 0.7), 0, "and now it has to be shown again");
    }

    #[test]
    fn gathering_does_not_end_by_what_it_saves() {
        let mut trial = Trial::default();
        assert!(trial.pass(70, (2, 6), 0.9) > 0);
        assert_eq!(trial.pass(30, (2, 6), 0.6), 30);
        // Then it looks: the six that it found together are no crowd by themselves.
        let later = trial.pass(2000, (2, 6), 0.6);
        assert!(later < 100, "{later} of 2,000");
    }

    #[test]
    fn a_core_whose_clients_wait_for_it_tries_ever_more_rarely() {
        let mut trial = Trial::default();
        let gathered = trial.pass(10_000, (4, 3), 0.9);
        assert!((400..1000).contains(&gathered), "{gathered} of 10,000");
        let gathered = trial.pass(65_000, (4, 3), 0.9);
        assert!((800..1200).contains(&gathered), "{gathered} of 65,000: 10 ms in 650");
    }

    #[test]
    fn one_bad_term_is_soon_forgotten() {
        let mut trial = Trial::default();
        trial.pass(5000, (1, 1), 0.9);
        // The machine was away for a while: few requests came in this term.
        trial.now += Duration::from_millis(60);
        let gathered = trial.pass(5000, (1, 1), 0.9);
        assert!(gathered > 4300, "{gathered} of 5,000");
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
