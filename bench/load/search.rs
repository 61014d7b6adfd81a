//! The search for the highest rate that meets the objectives: doubling until one
//! fails, then bisecting between the highest that met them and the lowest that
//! did not. A state machine without I/O: it names a rate, and is told the outcome.

use std::time::Duration;

use crate::outcome::Objective;

/// The first rate that is tried, if the lowest is not above it.
const RATE_FIRST: f64 = 1000.0;
/// The lowest rate that is ever tried.
pub const RATE_MIN: f64 = 1.0;
/// The highest.
pub const RATE_MAX: f64 = 1e8;
/// How close the two bounds come: the result is exact to this.
const PRECISION: f64 = 1.05;

/// A search under way.
///
/// ```text
/// Climbing ──(one fails)──> Bisecting ──(bounds are close)──> over
/// ```
#[derive(Clone, Debug)]
pub struct Climb {
    met: Option<f64>,
    failed: Option<f64>,
    lowest: f64,
}

/// The lowest rate at which a step so long has enough requests to tell all objectives, as good as always.
pub fn rate_min(objectives: &[Objective], step: Duration) -> f64 {
    let needed = objectives.iter().map(Objective::requests_min).max().unwrap_or(1) as f64;
    // Arrivals are by chance: their number has its square root as standard deviation.
    ((needed + 5.0 * needed.sqrt()) / step.as_secs_f64()).max(RATE_MIN)
}

impl Climb {
    /// A search that tries no rate below `lowest`.
    pub fn new(lowest: f64) -> Self {
        Self { met: None, failed: None, lowest }
    }

    /// The rate to try next; `None` when the search is over.
    pub fn next(&self) -> Option<f64> {
        match (self.met, self.failed) {
            (None, None) => Some(RATE_FIRST.max(self.lowest)),
            (Some(met), None) => (met < RATE_MAX).then(|| (met * 2.0).min(RATE_MAX)),
            (None, Some(failed)) => (failed > self.lowest).then(|| (failed / 4.0).max(self.lowest)),
            // Rates are compared by their ratio, so the middle is the geometric one.
            (Some(met), Some(failed)) => (failed / met > PRECISION).then(|| (met * failed).sqrt()),
        }
    }

    /// Takes the outcome of a rate.
    pub fn note(&mut self, rate: f64, met: bool) {
        if met {
            self.met = Some(self.met.map_or(rate, |before| before.max(rate)));
        } else {
            self.failed = Some(self.failed.map_or(rate, |before| before.min(rate)));
        }
    }

    /// A rate below one that did not hold when it was confirmed.
    pub fn below(rate: f64) -> f64 {
        rate / PRECISION
    }

    /// The highest rate that met them.
    pub fn best(&self) -> Option<f64> {
        self.met
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every capacity is found from below, within the precision, in a number of steps that grows with its logarithm.
    #[test]
    fn the_capacity_is_found() {
        for capacity in [1.5, 90.0, 1000.0, 12_345.0, 3.2e6, 9.9e7] {
            let mut climb = Climb::new(RATE_MIN);
            let mut steps = 0;
            while let Some(rate) = climb.next() {
                climb.note(rate, rate <= capacity);
                steps += 1;
                assert!(steps < 40, "{capacity}: no end");
            }
            let best = climb.best().expect("the lowest rate is below it");
            assert!(best <= capacity && best * PRECISION >= capacity, "{capacity}: found {best} in {steps} steps");
        }
    }

    #[test]
    fn what_meets_nothing_has_no_best_rate() {
        let mut climb = Climb::new(RATE_MIN);
        while let Some(rate) = climb.next() {
            climb.note(rate, false);
        }
        assert_eq!(climb.best(), None);
    }

    #[test]
    fn no_rate_is_tried_at_which_a_step_is_too_short() {
        let objective = |percentile| Objective { percentile, limit: Duration::from_millis(1) };
        let lowest = rate_min(&[objective(50.0), objective(99.9)], Duration::from_secs(3));
        assert!((3333.0..3600.0).contains(&lowest), "{lowest}");
        assert_eq!(rate_min(&[objective(100.0)], Duration::from_secs(60)), RATE_MIN);
        let mut climb = Climb::new(lowest);
        assert_eq!(climb.next(), Some(lowest));
        climb.note(lowest, false);
        assert_eq!(climb.next(), None);
        let mut climb = Climb::new(100.0);
        for rate in [1000.0, 250.0, 100.0] {
            assert_eq!(climb.next(), Some(rate));
            climb.note(rate, false);
        }
        assert_eq!(climb.next(), None);
    }

    #[test]
    fn a_server_without_limits_ends_the_climb() {
        let mut climb = Climb::new(RATE_MIN);
        while let Some(rate) = climb.next() {
            climb.note(rate, true);
        }
        assert_eq!(climb.best(), Some(RATE_MAX));
    }
}
