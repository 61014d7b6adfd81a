//! Ranks by Zipf's law, without tables: rank k of n comes with a probability
//! proportional to 1 / k^alpha.
//!
//! The method is rejection-inversion: W. Hörmann and G. Derflinger, "Rejection-Inversion
//! to Generate Variates from Monotone Discrete Distributions", ACM Transactions on
//! Modeling and Computer Simulation 6 (3), 1996. The area under x^-alpha is inverted,
//! the result rounded to a rank, and refused in the few cases in which the curve's
//! area around the rank is larger than the rank's own share.

use ringfence::base::rng::Rng;

use super::weights::unit;

/// Zipf's law with a fixed exponent over a fixed number of ranks.
#[derive(Clone, Copy, Debug)]
pub struct Zipf {
    ranks: u64,
    alpha: f64,
    /// The area up to half a rank past the last.
    area_last: f64,
    /// The area up to where the first rank's share begins, less `area_last`.
    area_span: f64,
    /// A rank this close above the inverted area needs no closer look.
    squeeze: f64,
}

impl Zipf {
    /// The law over `ranks`, at least one, with an exponent from 0 (all alike) upwards, finite.
    pub fn new(ranks: u64, alpha: f64) -> Self {
        assert!(ranks > 0, "there are no ranks to draw");
        assert!(alpha.is_finite() && alpha >= 0.0, "{alpha} is no exponent of Zipf's law");
        let area_last = area(alpha, ranks as f64 + 0.5);
        let area_span = area(alpha, 1.5) - 1.0 - area_last;
        let squeeze = 2.0 - area_inverse(alpha, area(alpha, 2.5) - share(alpha, 2.0));
        Self { ranks, alpha, area_last, area_span, squeeze }
    }

    /// A rank from 0, the most frequent, to one below the number of ranks.
    #[inline]
    pub fn draw(&self, rng: &mut Rng) -> u64 {
        loop {
            let u = self.area_last + unit(rng.next_u64()) * self.area_span;
            let x = area_inverse(self.alpha, u);
            // Rounded to the nearest; where areas are no longer told apart, `x` may be infinite.
            let rank = ((x + 0.5) as u64).clamp(1, self.ranks);
            let k = rank as f64;
            if k - x <= self.squeeze || u >= area(self.alpha, k + 0.5) - share(self.alpha, k) {
                return rank - 1;
            }
        }
    }
}

/// x^-alpha.
#[inline]
fn share(alpha: f64, x: f64) -> f64 {
    x.powf(-alpha)
}

/// The area under x^-alpha from 1 to `x`: (x^(1-alpha) - 1) / (1-alpha), or ln x for alpha = 1.
/// Written with `exp_m1`, which stays exact for an alpha near 1.
#[inline]
fn area(alpha: f64, x: f64) -> f64 {
    let power = 1.0 - alpha;
    if power == 0.0 { x.ln() } else { (power * x.ln()).exp_m1() / power }
}

/// The `x` up to which the area is `area`. Near an alpha of 1 it needs `ln_1p`, which takes
/// several times as long as `ln`; elsewhere that loses three digits of sixteen.
#[inline]
fn area_inverse(alpha: f64, area: f64) -> f64 {
    let power = 1.0 - alpha;
    if power.abs() > 1e-3 {
        ((1.0 + power * area).ln() / power).exp()
    } else if power == 0.0 {
        area.exp()
    } else {
        ((power * area).ln_1p() / power).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The probabilities by the definition.
    fn exact(ranks: u64, alpha: f64) -> impl Fn(u64) -> f64 {
        let sum: f64 = (1..=ranks).rev().map(|k| share(alpha, k as f64)).sum();
        move |rank| share(alpha, (rank + 1) as f64) / sum
    }

    /// How many standard deviations chi-square lies above what the right distribution gives on average.
    /// Ranks that are expected less than ten times are taken together.
    fn chi_square_excess(counts: &[u64], expected: impl Fn(u64) -> f64) -> f64 {
        let (mut cells, mut square, mut rare) = (0.0, 0.0, (0.0, 0.0));
        for (rank, count) in counts.iter().enumerate() {
            let expected = expected(rank as u64);
            rare = (rare.0 + *count as f64, rare.1 + expected);
            if rare.1 >= 10.0 {
                square += (rare.0 - rare.1).powi(2) / rare.1;
                cells += 1.0;
                rare = (0.0, 0.0);
            }
        }
        let freedom: f64 = cells - 1.0;
        (square - freedom) / (2.0 * freedom).sqrt()
    }

    #[test]
    fn draws_follow_the_law() {
        const RANKS: u64 = 1000;
        const DRAWS: u64 = 1_000_000;
        for alpha in [0.0, 0.5, 0.99, 1.0, 1.2, 2.5, 3.0] {
            let (zipf, mut rng) = (Zipf::new(RANKS, alpha), Rng::new(1));
            let mut counts = [0u64; RANKS as usize];
            (0..DRAWS).for_each(|_| counts[zipf.draw(&mut rng) as usize] += 1);
            let probability = exact(RANKS, alpha);
            let excess = chi_square_excess(&counts, |rank| probability(rank) * DRAWS as f64);
            assert!(excess.abs() < 4.0, "alpha {alpha}: {excess} standard deviations");
        }
    }

    #[test]
    fn the_test_of_the_law_sees_a_wrong_exponent() {
        const DRAWS: u64 = 1_000_000;
        let (zipf, mut rng) = (Zipf::new(1000, 0.99), Rng::new(1));
        let mut counts = [0u64; 1000];
        (0..DRAWS).for_each(|_| counts[zipf.draw(&mut rng) as usize] += 1);
        let probability = exact(1000, 1.01);
        let excess = chi_square_excess(&counts, |rank| probability(rank) * DRAWS as f64);
        assert!(excess > 10.0, "{excess}");
    }

    #[test]
    fn the_head_of_ten_million_ranks_has_its_probabilities() {
        const RANKS: u64 = 10_000_000;
        const DRAWS: u64 = 1_000_000;
        for alpha in [0.99, 1.2] {
            let (zipf, mut rng) = (Zipf::new(RANKS, alpha), Rng::new(2));
            let mut counts = [0u64; 10];
            for _ in 0..DRAWS {
                let rank = zipf.draw(&mut rng);
                assert!(rank < RANKS);
                counts.get_mut(rank as usize).into_iter().for_each(|count| *count += 1);
            }
            let probability = exact(RANKS, alpha);
            for (rank, count) in counts.iter().enumerate() {
                let p = probability(rank as u64);
                let deviation = (*count as f64 - p * DRAWS as f64) / (p * (1.0 - p) * DRAWS as f64).sqrt();
                assert!(deviation.abs() < 4.5, "alpha {alpha}, rank {rank}: {deviation} standard deviations");
            }
        }
    }

    #[test]
    fn an_exponent_next_to_one_is_as_good_as_one() {
        let mut draws = [1.0 - 1e-14, 1.0, 1.0 + 1e-14].map(|alpha| {
            let (zipf, mut rng) = (Zipf::new(1_000_000_000, alpha), Rng::new(3));
            (0..10_000).map(move |_| zipf.draw(&mut rng) as f64)
        });
        let [below, one, above] = &mut draws;
        for one in one {
            let (below, above) = (below.next().unwrap(), above.next().unwrap());
            assert!((below - one).abs() <= 1.0 + one * 1e-9 && (above - one).abs() <= 1.0 + one * 1e-9);
        }
    }

    #[test]
    fn ranks_stay_in_bounds_at_the_extremes() {
        for ranks in [1, 2, 3, 1_000_000_000] {
            for alpha in [0.0, 1e-12, 1.0, 2.0, 3.0] {
                let (zipf, mut rng) = (Zipf::new(ranks, alpha), Rng::new(4));
                let most = (0..10_000).map(|_| zipf.draw(&mut rng)).max().unwrap();
                assert!(most < ranks, "{ranks} ranks, alpha {alpha}: {most}");
                assert!(ranks > 3 || most == ranks - 1, "{ranks} ranks, alpha {alpha}: never above {most}");
            }
        }
    }
}
