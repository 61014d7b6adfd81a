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
/// When terms are compared, and what follows. The last verdict leaves nothing open.
const VERDICTS: [Verdict; 3] = [
    Verdict { pairs: 25, more: 1.06, as_many: 1.0 },
    Verdict { pairs: 50, more: 1.04, as_many: 1.01 },
    Verdict { pairs: 100, more: 1.02, as_many: 1.02 },
];
/// A core that gathers is asked again after so many pairs, and goes on from this factor on.
const PAIRS_KEPT: u32 = 50;
const GAIN_KEPT: f32 = 1.01;
/// What was found out so long ago, without a term since, is about other clients.
const STALE: Duration = Duration::from_secs(10);
/// How long it does not try after that was not so, and how often in a row that doubles: to 16 minutes.
const REST: Duration = Duration::from_secs(30);
const RESTS_MAX: u32 = 5;

/// After so many pairs of terms: from the factor `more` on clients send more, below `as_many` they do not, and in between
/// that is not known yet.
struct Verdict {
    pairs: u32,
    more: f32,
    as_many: f32,
}

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
        if self.seconds > 0.0 { self.requests / self.seconds } else { 0.0 }
    }
}

/// The comparison.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gain {
    state: State,
    with: Tally,
    without: Tally,
    rests: u32,
    /// When it was last told of a term.
    told: Duration,
}

impl Gain {
    /// Takes note of a term without gathering in which so many requests were executed, `time` long. Answers how long to gather
    /// now, if the core is to.
    pub fn after_without(&mut self, requests: u64, time: Duration, now: Duration) -> Option<Duration> {
        let is_stale = now.saturating_sub(std::mem::replace(&mut self.told, now)) >= STALE;
        match self.state {
            State::Resting { until } if now < until => return None,
            State::Comparing | State::Kept if !is_stale => self.without.add(requests, time),
            _ => self.begin(State::Comparing),
        }
        Some(if self.state == State::Kept { TERM_KEPT } else { TERM })
    }

    /// The same of a term with gathering. Answers how long to work without now.
    pub fn after_with(&mut self, requests: u64, time: Duration, now: Duration) -> Duration {
        self.with.add(requests, time);
        let (pairs, without) = (self.without.terms, self.without.rate());
        // Nothing came without: whatever that is, it is not clients who send more.
        let gain = if without > 0.0 { self.with.rate() / without } else { 0.0 };
        match self.state {
            State::Kept if pairs >= PAIRS_KEPT => self.conclude(gain >= GAIN_KEPT, now),
            State::Comparing => match VERDICTS.iter().find(|verdict| verdict.pairs == pairs) {
                Some(verdict) if gain >= verdict.more => self.conclude(true, now),
                Some(verdict) if gain < verdict.as_many => self.conclude(false, now),
                _ => {}
            },
            State::Kept | State::Resting { .. } => {}
        }
        TERM
    }

    /// Other clients may have come: what was found out about those before need not hold for them.
    pub fn forget(&mut self) {
        self.rests = 0;
        self.begin(State::Comparing);
    }

    fn conclude(&mut self, gains: bool, now: Duration) {
        if gains {
            self.rests = 0;
            return self.begin(State::Kept);
        }
        self.begin(State::Resting { until: now + REST * (1 << self.rests) });
        self.rests = (self.rests + 1).min(RESTS_MAX);
    }

    fn begin(&mut self, state: State) {
        (self.state, self.with, self.without) = (state, Tally::default(), Tally::default());
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

    #[test]
    fn a_rest_ends_and_the_next_is_twice_as_long() {
        let (mut gain, mut now, mut rng) = (Gain::default(), Duration::ZERO, Rng::new(3));
        let mut tried = Vec::new();
        while now < Duration::from_secs(3700) {
            let begin = now;
            if pass(&mut gain, &mut now, TERM, 0.9, &mut rng) > 0.0 {
                tried.push(begin);
            }
        }
        let pauses = tried.windows(2).map(|two| (two[1] - two[0]).as_secs()).filter(|&pause| pause > 1);
        assert_eq!(pauses.collect::<Vec<_>>(), [30, 60, 120, 240, 480, 960, 960]);
        // Those who send more from then on wait for the end of one, and no longer.
        pass(&mut gain, &mut now, Duration::from_secs(970), 1.08, &mut rng);
        let part = pass(&mut gain, &mut now, Duration::from_secs(10), 1.08, &mut rng);
        assert!(part > 0.7, "{part}");
    }

    #[test]
    fn what_was_found_out_long_ago_is_found_out_anew() {
        let (mut gain, mut now, mut rng) = (Gain::default(), Duration::ZERO, Rng::new(4));
        pass(&mut gain, &mut now, Duration::from_secs(30), 1.08, &mut rng);
        assert_eq!(gain.state, State::Kept);
        now += STALE;
        assert_eq!(gain.after_without(1, TERM, now), Some(TERM));
        assert_eq!((gain.state, gain.with.terms, gain.without.terms), (State::Comparing, 0, 0));
    }

    #[test]
    fn where_nothing_comes_nothing_is_gained() {
        for with in [0, 1] {
            let (mut gain, mut now) = (Gain::default(), Duration::ZERO);
            let mut tried = 0;
            for _ in 0..1000 {
                now += TERM;
                if gain.after_without(0, Duration::ZERO, now).is_some() {
                    tried += 1;
                    gain.after_with(with, TERM, now);
                }
            }
            assert_eq!(tried, 25, "{with}");
        }
    }
}
