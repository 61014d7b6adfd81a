//! When requests are due, without a look at replies.
//!
//! Arrivals are spaced in *mass*: one for each with even spacing, a draw from the
//! unit exponential distribution for a Poisson process. The moment at which the
//! integral of the rate reaches that mass is the arrival's. So a ramp needs no
//! case of its own: while it lasts, the rate grows linearly from zero.

use ringfence::base::rng::Rng;

/// Arrivals of one thread.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Requests per nanosecond behind the ramp.
    rate: f64,
    ramp_ns: f64,
    poisson: bool,
    mass: f64,
    next_ns: u64,
}

impl Schedule {
    /// `rate` requests per second, reached after `ramp_ns`. `phase`, 0 to 1, shifts even spacing, so that
    /// several threads together are even too.
    pub fn new(rate: f64, poisson: bool, ramp_ns: u64, phase: f64, rng: &mut Rng) -> Self {
        let mut schedule = Self { rate: rate / 1e9, ramp_ns: ramp_ns as f64, poisson, mass: phase, next_ns: 0 };
        if poisson {
            schedule.mass = exponential(rng);
        }
        schedule.next_ns = schedule.moment();
        schedule
    }

    /// When the next request is due, in nanoseconds from the start.
    #[inline]
    pub fn next_ns(&self) -> u64 {
        self.next_ns
    }

    /// Goes on to the one behind it.
    #[inline]
    pub fn advance(&mut self, rng: &mut Rng) {
        self.mass += if self.poisson { exponential(rng) } else { 1.0 };
        self.next_ns = self.moment();
    }

    /// The moment at which the integral of the rate reaches the mass.
    #[inline]
    fn moment(&self) -> u64 {
        let ramp_mass = self.rate * self.ramp_ns / 2.0;
        let ns = if self.mass < ramp_mass {
            (2.0 * self.mass * self.ramp_ns / self.rate).sqrt()
        } else {
            self.ramp_ns + (self.mass - ramp_mass) / self.rate
        };
        ns as u64
    }
}

/// A draw from the exponential distribution with mean 1.
#[inline]
fn exponential(rng: &mut Rng) -> f64 {
    // 53 random bits as a number in (0, 1].
    let unit = ((rng.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
    -unit.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn arrivals(mut schedule: Schedule, rng: &mut Rng, until: u64) -> Vec<u64> {
        let mut arrivals = Vec::new();
        while schedule.next_ns() < until {
            arrivals.push(schedule.next_ns());
            schedule.advance(rng);
        }
        arrivals
    }

    #[test]
    fn even_spacing_is_even_and_threads_interleave() {
        let mut rng = Rng::new(1);
        let mut all: Vec<u64> = [0.0, 0.5]
            .into_iter()
            .flat_map(|phase| {
                let schedule = Schedule::new(500.0, false, 0, phase, &mut rng);
                arrivals(schedule, &mut rng, SECOND)
            })
            .collect();
        all.sort_unstable();
        assert_eq!(all.len(), 1000);
        assert!(all.windows(2).all(|w| (w[1] - w[0]).abs_diff(1_000_000) <= 1), "a gap is not 1 ms");
    }

    /// Gaps of a Poisson process are exponential: their mean and standard deviation are the same, and
    /// 1 - 1/e of them are shorter than it. With 100,000 gaps each is within 1 %.
    #[test]
    fn poisson_gaps_are_exponential() {
        let mut rng = Rng::new(2);
        let schedule = Schedule::new(1000.0, true, 0, 0.0, &mut rng);
        let times = arrivals(schedule, &mut rng, 100 * SECOND);
        let gaps: Vec<f64> = times.windows(2).map(|w| (w[1] - w[0]) as f64 / 1e6).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        let shorter = gaps.iter().filter(|&&g| g < 1.0).count() as f64 / gaps.len() as f64;
        assert!((mean - 1.0).abs() < 0.01, "mean {mean}");
        assert!((deviation - 1.0).abs() < 0.02, "deviation {deviation}");
        assert!((shorter - (1.0 - (-1.0f64).exp())).abs() < 0.01, "shorter than the mean: {shorter}");
    }

    #[test]
    fn a_ramp_grows_linearly_and_then_keeps_the_rate() {
        let mut rng = Rng::new(3);
        let schedule = Schedule::new(1000.0, false, 10 * SECOND, 0.0, &mut rng);
        let times = arrivals(schedule, &mut rng, 20 * SECOND);
        let within = |from: u64, to: u64| times.iter().filter(|&&t| t >= from * SECOND && t < to * SECOND).count();
        // The integral of a linear ramp: half of the rate on average, and squares in between.
        assert!(within(0, 10).abs_diff(5000) <= 1, "{}", within(0, 10));
        assert!(within(0, 5).abs_diff(1250) <= 1, "{}", within(0, 5));
        assert!(within(10, 20).abs_diff(10_000) <= 1, "{}", within(10, 20));
    }
}
