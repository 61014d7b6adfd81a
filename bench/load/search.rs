//! The search for the highest rate that meets the objectives: doubling until one
//! fails, then bisecting between the highest that met them and the lowest that
//! did not. A state machine without I/O: it names a rate, and is told the outcome.

/// The first rate that is tried.
pub const RATE_FIRST: f64 = 1000.0;
/// The lowest rate that is tried.
const RATE_MIN: f64 = 1.0;
/// The highest.
const RATE_MAX: f64 = 1e8;
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
    first: f64,
}

impl Climb {
    /// A search that begins at `first` requests per second.
    pub fn new(first: f64) -> Self {
        Self { met: None, failed: None, first }
    }

    /// The rate to try next; `None` when the search is over.
    pub fn next(&self) -> Option<f64> {
        match (self.met, self.failed) {
            (None, None) => Some(self.first),
            (Some(met), None) => (met < RATE_MAX).then(|| (met * 2.0).min(RATE_MAX)),
            (None, Some(failed)) => (failed > RATE_MIN).then(|| (failed / 4.0).max(RATE_MIN)),
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
            let mut climb = Climb::new(RATE_FIRST);
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
        let mut climb = Climb::new(RATE_FIRST);
        while let Some(rate) = climb.next() {
            climb.note(rate, false);
        }
        assert_eq!(climb.best(), None);
    }

    #[test]
    fn a_server_without_limits_ends_the_climb() {
        let mut climb = Climb::new(RATE_FIRST);
        while let Some(rate) = climb.next() {
            climb.note(rate, true);
        }
        assert_eq!(climb.best(), Some(RATE_MAX));
    }
}
