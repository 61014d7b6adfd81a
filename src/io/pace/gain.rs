//! Whether clients send more while a core gathers.
//!
//! A client that has all it can do takes replies that come together with less work than one by one, and so sends more.
//! A client that has time to spare sends what it sent before, and waits longer for each reply. What comes in a few
//! milliseconds differs by more than that from one time to the next; so terms with and without alternate, and their sums
//! are compared.
//!
//! ```text
//! Resting ──time is over──> Comparing ──more came──> Kept
//!    ^                          │ as many              │ as many
//!    └──────────────────────────┴──────────────────────┘ each time in a row for twice as long
//! ```

use std::time::Duration;

/// How long terms are, without gathering and with it.
const TERM: Duration = Duration::from_millis(10);
const TERM_KEPT: Duration = Duration::from_millis(40);
/// After so many pairs of terms they are compared. Above the one factor clients send more, below the other they do not, and
/// in between nothing is known yet.
const GAINS: [(u32, f32, f32); 3] = [(25, 1.06, 1.0), (50, 1.04, 1.01), (100, 1.02, 1.02)];
/// A core that gathers is asked again after so many, and goes on above this factor.
const PAIRS_KEPT: u32 = 50;
const GAIN_KEPT: f32 = 1.01;
/// How long it does not try after that was not so, and how often in a row that doubles: to 16 minutes.
const REST: Duration = Duration::from_secs(30);
const RESTS_MAX: u32 = 5;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    Resting {
        until: Duration,
    },
    #[default]
    Comparing,
    Kept,
}

/// What came in some terms.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    requests: f32,
    seconds: f32,
    terms: u32,
}

impl Tally {
    fn add(&mut self, requests: u64, time: Duration) {
        self.requests += requests as f32;
        self.seconds += time.as_secs_f32();
        self.terms += 1;
    }

    fn rate(&self) -> f32 {
        self.requests / self.seconds.max(f32::MIN_POSITIVE)
    }
}

/// The comparison.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gain {
    state: State,
    with: Tally,
    without: Tally,
    rests: u32,
}

impl Gain {
    /// Takes note of a term without gathering in which so many requests were executed, `time` long. Answers how long to gather
    /// now, if the core is to.
    pub fn after_without(&mut self, requests: u64, time: Duration, now: Duration) -> Option<Duration> {
        match self.state {
            State::Resting { until } if now < until => return None,
            State::Resting { .. } => self.begin(State::Comparing),
            State::Comparing | State::Kept => self.without.add(requests, time),
        }
        Some(if self.state == State::Kept { TERM_KEPT } else { TERM })
    }

    /// The same of a term with gathering. Answers how long to work without now.
    pub fn after_with(&mut self, requests: u64, time: Duration, now: Duration) -> Duration {
        self.with.add(requests, time);
        let pairs = self.without.terms;
        let gain = self.with.rate() / self.without.rate();
        match self.state {
            State::Kept if pairs >= PAIRS_KEPT && gain >= GAIN_KEPT => self.begin(State::Kept),
            State::Kept if pairs >= PAIRS_KEPT => self.rest(now),
            State::Comparing => match GAINS.iter().find(|&&(enough, ..)| pairs == enough) {
                Some(&(_, more, _)) if gain >= more => {
                    self.rests = 0;
                    self.begin(State::Kept);
                }
                Some(&(_, _, as_many)) if gain < as_many => self.rest(now),
                _ => {}
            },
            State::Kept | State::Resting { .. } => {}
        }
        TERM
    }

    /// The clients are gone: those that come may be others.
    pub fn forget(&mut self) {
        if matches!(self.state, State::Resting { .. }) {
            self.rests = 0;
            self.begin(State::Comparing);
        }
    }

    fn begin(&mut self, state: State) {
        (self.state, self.with, self.without) = (state, Tally::default(), Tally::default());
    }

    fn rest(&mut self, now: Duration) {
        self.begin(State::Resting { until: now + REST * (1 << self.rests) });
        self.rests = (self.rests + 1).min(RESTS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    /// Lets `time` pass, in which a core executes 1,000 requests a millisecond without gathering and `factor` times as many with,
    /// each term by chance up to a tenth more or less. Answers the part of the time in which it gathered.
    fn pass(gain: &mut Gain, now: &mut Duration, time: Duration, factor: f64, rng: &mut Rng) -> f64 {
        let (begin, mut gathered) = (*now, Duration::ZERO);
        let mut executed = |term: Duration, factor: f64| {
            let noise = 0.9 + rng.below(2001) as f64 / 10_000.0;
            (term.as_micros() as f64 * factor * noise) as u64
        };
        while *now - begin < time {
            *now += TERM;
            if let Some(term) = gain.after_without(executed(TERM, 1.0), TERM, *now) {
                gathered += term;
                *now += term;
                gain.after_with(executed(term, factor), term, *now);
            }
        }
        gathered.as_secs_f64() / (*now - begin).as_secs_f64()
    }

    #[test]
    fn a_core_whose_clients_send_more_gathers_most_of_the_time() {
        for seed in 0..20 {
            let (mut gain, mut now, mut rng) = (Gain::default(), Duration::ZERO, Rng::new(seed));
            pass(&mut gain, &mut now, Duration::from_secs(2), 1.06, &mut rng);
            let part = pass(&mut gain, &mut now, Duration::from_secs(30), 1.06, &mut rng);
            assert!(part > 0.7, "seed {seed}: {part}");
        }
    }

    #[test]
    fn a_core_whose_clients_only_wait_longer_hardly_ever_gathers() {
        let mut parts = 0.0;
        for seed in 0..20 {
            let (mut gain, mut now, mut rng) = (Gain::default(), Duration::ZERO, Rng::new(seed));
            let part = pass(&mut gain, &mut now, Duration::from_secs(600), 1.0, &mut rng);
            assert!(part < 0.05, "seed {seed}: {part}");
            parts += part;
        }
        assert!(parts / 20.0 < 0.02, "{parts} of 20");
    }

    #[test]
    fn clients_that_change_are_noticed_in_either_direction() {
        let (mut gain, mut now, mut rng) = (Gain::default(), Duration::ZERO, Rng::new(7));
        pass(&mut gain, &mut now, Duration::from_secs(30), 1.08, &mut rng);
        pass(&mut gain, &mut now, Duration::from_secs(10), 1.0, &mut rng);
        let part = pass(&mut gain, &mut now, Duration::from_secs(100), 0.97, &mut rng);
        assert!(part < 0.1, "{part}");
        // Others come, and need not wait until the rest is over.
        gain.forget();
        pass(&mut gain, &mut now, Duration::from_secs(2), 1.08, &mut rng);
        let part = pass(&mut gain, &mut now, Duration::from_secs(10), 1.08, &mut rng);
        assert!(part > 0.7, "{part}");
    }
}
