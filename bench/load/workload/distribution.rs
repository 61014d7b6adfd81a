//! Which key is asked for: uniform, by Zipf's law, or a hot spot.
//!
//! A key is first drawn as a rank, 0 being the most frequent. Ranks are then
//! scattered over the ids by a bijection, so that hot keys neither stand side by
//! side nor have the ids that were written first.

use std::fmt;
use std::str::FromStr;

use ringfence::base::rng::Rng;

use super::weights::unit;
use super::zipf::Zipf;

/// The largest exponent of Zipf's law: with 3 already five of six requests are for one key.
const ALPHA_MAX: f64 = 3.0;

/// How requests are spread over the keys. As text: `uniform`, `zipf:0.99` or `hotspot:1%:90%`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// All keys alike.
    Uniform,
    /// Rank k in proportion to 1 / k to the power of this, from 0 to 3.
    Zipf(f64),
    /// Some keys get most of the requests; all keys within the spot are alike, and all without.
    Hotspot {
        /// How many of the keys are in the spot, in percent.
        keys: f64,
        /// How many of the requests go there, in percent.
        requests: f64,
    },
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not a distribution: write uniform, zipf:ALPHA such as zipf:0.99 with an ALPHA from 0 to \
                 {ALPHA_MAX}, or hotspot:KEYS%:REQUESTS% such as hotspot:1%:90%"
            )
        };
        let number = |text: &str, most: f64| text.trim().parse().ok().filter(|n| (0.0..=most).contains(n));
        let percent = |text: &str| text.trim().strip_suffix('%').and_then(|text| number(text, 100.0));
        let parsed = match text.trim().split_once(':') {
            None => (text.trim() == "uniform").then_some(Self::Uniform),
            Some(("zipf", alpha)) => number(alpha, ALPHA_MAX).map(Self::Zipf),
            Some(("hotspot", rest)) => rest.split_once(':').and_then(|(keys, requests)| {
                Some(Self::Hotspot { keys: percent(keys)?, requests: percent(requests)? })
            }),
            Some(_) => None,
        };
        parsed.ok_or_else(wrong)
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Zipf(alpha) => write!(f, "zipf:{alpha}"),
            Self::Hotspot { keys, requests } => write!(f, "hotspot:{keys}%:{requests}%"),
        }
    }
}

/// Draws ids below a number of keys.
#[derive(Clone, Copy, Debug)]
pub struct Picker {
    ranks: Ranks,
    scatter: Scatter,
}

#[derive(Clone, Copy, Debug)]
enum Ranks {
    Uniform,
    Zipf(Zipf),
    /// So many first ranks get this part of the requests.
    Hotspot {
        hot: u64,
        requests: f64,
    },
}

impl Picker {
    /// Spreads requests over `keys` ids, at least one. A hot spot has at least one key.
    pub fn new(distribution: &Distribution, keys: u64) -> Self {
        assert!(keys > 0, "there are no keys to pick");
        let ranks = match *distribution {
            Distribution::Zipf(alpha) if alpha > 0.0 => Ranks::Zipf(Zipf::new(keys, alpha)),
            Distribution::Hotspot { keys: part, requests } if part < 100.0 && keys > 1 => {
                let hot = (part / 100.0 * keys as f64).round() as u64;
                Ranks::Hotspot { hot: hot.clamp(1, keys - 1), requests: requests / 100.0 }
            }
            _ => Ranks::Uniform,
        };
        Self { ranks, scatter: Scatter::new(keys) }
    }

    /// The id of a key by chance.
    #[inline]
    pub fn pick(&self, rng: &mut Rng) -> u64 {
        let keys = self.scatter.count;
        match &self.ranks {
            // Scattered, all alike would still be all alike.
            Ranks::Uniform => rng.below(keys),
            Ranks::Zipf(zipf) => self.id_of_rank(zipf.draw(rng)),
            Ranks::Hotspot { hot, requests } if unit(rng.next_u64()) < *requests => self.id_of_rank(rng.below(*hot)),
            Ranks::Hotspot { hot, .. } => self.id_of_rank(hot + rng.below(keys - hot)),
        }
    }

    /// The id of the key at `rank`, which is below the number of keys; 0 is the most frequent.
    #[inline]
    pub fn id_of_rank(&self, rank: u64) -> u64 {
        self.scatter.at(rank)
    }
}

/// A bijection of the numbers below `count`: times a number that shares no divisor
/// with `count`, plus an offset. The factor is near `count` divided by the golden
/// ratio, which keeps the images of neighbours far apart.
#[derive(Clone, Copy, Debug)]
struct Scatter {
    count: u64,
    factor: u64,
    offset: u64,
}

impl Scatter {
    fn new(count: u64) -> Self {
        const GOLDEN: f64 = 1.618_033_988_749_895;
        let start = (count as f64 / GOLDEN) as u64;
        let factor = (start.max(1)..).find(|factor| common_divisor(*factor, count) == 1);
        let factor = factor.expect("one below the count at the latest, or 1") % count;
        Self { count, factor, offset: Rng::new(count).below(count) }
    }

    #[inline]
    fn at(&self, number: u64) -> u64 {
        let image = u128::from(number) * u128::from(self.factor) + u128::from(self.offset);
        (image % u128::from(self.count)) as u64
    }
}

/// Euclid's algorithm.
fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn distribution(text: &str) -> Distribution {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// The counts of `draws` picks, by rank.
    fn counts(text: &str, keys: u64, draws: u64) -> Vec<u64> {
        let (picker, mut rng) = (Picker::new(&distribution(text), keys), Rng::new(1));
        let mut by_id = vec![0; keys as usize];
        (0..draws).for_each(|_| by_id[picker.pick(&mut rng) as usize] += 1);
        (0..keys).map(|rank| by_id[picker.id_of_rank(rank) as usize]).collect()
    }

    #[test]
    fn texts_read_back() {
        for text in ["uniform", "zipf:0.99", "zipf:0", "zipf:1", "zipf:2.6774", "hotspot:1%:90%", "hotspot:0.1%:99.5%"]
        {
            assert_eq!(distribution(text).to_string(), text);
        }
        assert_eq!(distribution(" hotspot: 1% : 90% "), Distribution::Hotspot { keys: 1.0, requests: 90.0 });
    }

    #[test]
    fn wrong_texts_are_refused_with_the_remedy() {
        for text in [
            "",
            "normal",
            "zipf",
            "zipf:",
            "zipf:-1",
            "zipf:3.5",
            "zipf:NaN",
            "hotspot:1%",
            "hotspot:1:90",
            "hotspot:1%:101%",
        ] {
            let error = text.parse::<Distribution>().expect_err(text);
            assert!(error.contains("zipf:0.99") && error.contains("hotspot:1%:90%"), "{error}");
        }
    }

    #[test]
    fn scattering_is_a_bijection() {
        for count in (1..=200).chain([1 << 16, 99_991, 100_000]) {
            let scatter = Scatter::new(count);
            let mut seen = vec![false; count as usize];
            (0..count).for_each(|number| seen[scatter.at(number) as usize] = true);
            assert!(seen.iter().all(|seen| *seen), "{count} numbers are not all reached");
        }
    }

    #[test]
    fn scattering_reaches_large_counts_without_overflow() {
        for count in [(1u64 << 32) + 1, 1_000_000_000_000, u64::MAX] {
            let scatter = Scatter::new(count);
            assert_eq!(common_divisor(scatter.factor, count), 1);
            let images: HashSet<_> = (0..1000).chain(count - 1000..count).map(|number| scatter.at(number)).collect();
            assert_eq!(images.len(), 2000);
            assert!(images.iter().all(|image| *image < count));
        }
    }

    #[test]
    fn hot_keys_do_not_stand_side_by_side() {
        let keys = 1_000_000;
        let picker = Picker::new(&distribution("zipf:0.99"), keys);
        let mut ids: Vec<_> = (0..1000).map(|rank| picker.id_of_rank(rank)).collect();
        ids.sort_unstable();
        let gaps = ids.windows(2).map(|pair| pair[1] - pair[0]);
        let (least, most) = gaps.fold((keys, 0), |(least, most), gap| (least.min(gap), most.max(gap)));
        assert!(least > 100 && most < 3000, "gaps from {least} to {most}, on average 1000");
    }

    #[test]
    fn uniform_requests_reach_every_key_alike() {
        for text in ["uniform", "zipf:0", "hotspot:100%:90%"] {
            for count in counts(text, 100, 1_000_000) {
                assert!(count.abs_diff(10_000) < 450, "{text}: {count}");
            }
        }
    }

    #[test]
    fn zipf_requests_favour_the_first_ranks() {
        let counts = counts("zipf:1", 100, 1_000_000);
        let sum: f64 = (1..=100).map(|k| 1.0 / f64::from(k)).sum();
        for rank in [0, 1, 9, 99] {
            let expected = 1e6 / (rank as f64 + 1.0) / sum;
            assert!((counts[rank] as f64 / expected - 1.0).abs() < 0.08, "{rank}: {} and {expected}", counts[rank]);
        }
    }

    #[test]
    fn a_hot_spot_gets_its_requests_and_is_even_within() {
        let counts = counts("hotspot:10%:90%", 100, 1_000_000);
        for (rank, count) in counts.iter().enumerate() {
            let expected = if rank < 10 { 90_000.0 } else { 1_111.0 };
            assert!((*count as f64 / expected - 1.0).abs() < 0.15, "{rank}: {count}");
        }
    }

    #[test]
    fn a_hot_spot_has_a_key_and_one_key_is_enough() {
        let first = counts("hotspot:0.001%:50%", 100, 10_000)[0];
        assert!(first.abs_diff(5_000) < 300, "{first}");
        for text in ["uniform", "zipf:1.5", "hotspot:1%:90%"] {
            assert_eq!(counts(text, 1, 100), [100]);
        }
    }

    #[test]
    fn a_seed_repeats_its_picks() {
        let picks = |seed| {
            let (picker, mut rng) = (Picker::new(&distribution("zipf:0.99"), 1_000_000_000), Rng::new(seed));
            (0..100).map(|_| picker.pick(&mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(picks(7), picks(7));
        let distinct: HashSet<_> = picks(7).into_iter().collect();
        assert!(distinct.len() > 50, "{} distinct keys of 100", distinct.len());
    }
}
