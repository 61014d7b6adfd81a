//! Sizes of keys and values: fixed, uniform, weighted or lognormal.
//!
//! A size is a function of one 64-bit number, growing with it, so that whoever
//! knows a key's number knows the size of its value without keeping it.

use std::fmt;
use std::str::FromStr;

use ringfence::base::rng::Rng;
use ringfence::base::units::parse_size;

use super::normal;
use super::weights::{Span, Weighted, parse_parts};

/// The largest size in bytes: what Redis takes as a value.
pub const SIZE_MAX: u64 = 512 << 20;
/// The largest sigma of a lognormal distribution. With 5, the middle 95 % of sizes already span eight decades.
const SIGMA_MAX: f64 = 5.0;

/// A distribution of sizes in bytes. As text: `64`, `64-1024` (uniform), `64:70,1KiB-4KiB:25,100KiB:5`
/// (weights) or `lognormal:4KiB:1.2` (median; standard deviation of the logarithm).
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes(Shape);

#[derive(Clone, Debug, PartialEq)]
enum Shape {
    /// In ascending order, so that [`Sizes::at`] ascends.
    Parts(Weighted<Span>),
    LogNormal(LogNormal),
}

/// Rounded to whole bytes, at least 1 and at most [`SIZE_MAX`].
#[derive(Clone, Copy, Debug, PartialEq)]
struct LogNormal {
    median: u64,
    sigma: f64,
}

impl LogNormal {
    /// The size at so many standard deviations from the median.
    #[inline]
    fn at_deviation(self, deviation: f64) -> f64 {
        (self.median as f64 * (self.sigma * deviation).exp()).round().clamp(1.0, SIZE_MAX as f64)
    }

    #[inline]
    fn at(self, point: u64) -> usize {
        // The middle of one of 2^52 steps: never 0 and never 1.
        let p = ((point >> 12) as f64 + 0.5) / (1u64 << 52) as f64;
        self.at_deviation(normal::quantile(p)) as usize
    }

    /// Integrates over the deviations that 2^52 steps can give.
    fn mean(self) -> f64 {
        const REACH: f64 = 8.2;
        const STEPS: i32 = 4096;
        let width = 2.0 * REACH / f64::from(STEPS);
        let steps = (0..=STEPS).map(|step| f64::from(step) * width - REACH);
        let (sum, weight) = steps.fold((0.0, 0.0), |(sum, weight), deviation| {
            let density = (-deviation * deviation / 2.0).exp();
            (sum + density * self.at_deviation(deviation), weight + density)
        });
        sum / weight
    }
}

impl Sizes {
    /// The size that `point` of 2^64 sizes do not exceed. A uniform `point` gives sizes of this distribution.
    #[inline]
    pub fn at(&self, point: u64) -> usize {
        match &self.0 {
            Shape::Parts(parts) => {
                let (span, within) = parts.at(point);
                span.at(within) as usize
            }
            Shape::LogNormal(shape) => shape.at(point),
        }
    }

    /// A size by chance.
    #[inline]
    pub fn draw(&self, rng: &mut Rng) -> usize {
        self.at(rng.next_u64())
    }

    /// The least size that can come up.
    pub fn min(&self) -> usize {
        match &self.0 {
            Shape::Parts(parts) => parts.shares().map(|(span, _)| span.low).min().expect("there is a part") as usize,
            Shape::LogNormal(shape) => shape.at(0),
        }
    }

    /// The greatest size that can come up.
    pub fn max(&self) -> usize {
        match &self.0 {
            Shape::Parts(parts) => parts.shares().map(|(span, _)| span.high).max().expect("there is a part") as usize,
            Shape::LogNormal(shape) => shape.at(u64::MAX),
        }
    }

    /// The mean size.
    pub fn mean(&self) -> f64 {
        match &self.0 {
            Shape::Parts(parts) => {
                parts.shares().map(|(span, share)| share * (span.low as f64 + span.high as f64) / 2.0).sum()
            }
            Shape::LogNormal(shape) => shape.mean(),
        }
    }
}

/// A size that is not above [`SIZE_MAX`].
fn size(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "`{text}` is not a size: write 64, 64-1024, 64:70,1KiB:30 or lognormal:MEDIAN:SIGMA such as \
             lognormal:4KiB:1.2"
        )
    };
    let bytes = parse_size(text).map_err(|_| wrong())?;
    if bytes > SIZE_MAX {
        return Err(format!("`{text}` is too large: write a size of at most {}", size_text(SIZE_MAX)));
    }
    Ok(bytes)
}

/// The exact size in the largest unit that divides it.
fn size_text(bytes: u64) -> String {
    let unit = [(30, "GiB"), (20, "MiB"), (10, "KiB")]
        .into_iter()
        .find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

fn log_normal(text: &str) -> Result<LogNormal, String> {
    let wrong = || {
        format!(
            "`lognormal:{text}` is not a distribution of sizes: write lognormal:MEDIAN:SIGMA such as \
             lognormal:4KiB:1.2, with a MEDIAN of at least 1 and a SIGMA from 0 to {SIGMA_MAX}"
        )
    };
    let (median, sigma) = text.split_once(':').ok_or_else(wrong)?;
    let sigma = sigma.trim().parse().ok().filter(|sigma| (0.0..=SIGMA_MAX).contains(sigma)).ok_or_else(wrong)?;
    let median = size(median).ok().filter(|median| *median > 0).ok_or_else(wrong)?;
    Ok(LogNormal { median, sigma })
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.trim().strip_prefix("lognormal:") {
            return log_normal(rest).map(|shape| Self(Shape::LogNormal(shape)));
        }
        let mut parts = parse_parts(text, "64:70,1KiB:30", |part| Span::parse(part, size))?;
        parts.sort_by_key(|(span, _)| *span);
        Weighted::new(parts).map(|parts| Self(Shape::Parts(parts)))
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Shape::Parts(parts) => f.write_str(&parts.text(|span| span.text(size_text))),
            Shape::LogNormal(shape) => write!(f, "lognormal:{}:{}", size_text(shape.median), shape.sigma),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: usize = 400_000;

    fn sizes(text: &str) -> Sizes {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn drawn(sizes: &Sizes) -> Vec<usize> {
        let mut rng = Rng::new(1);
        (0..DRAWS).map(|_| sizes.draw(&mut rng)).collect()
    }

    #[test]
    fn texts_read_back() {
        for (text, printed) in [
            ("64", "64"),
            ("1k", "1KiB"),
            ("0", "0"),
            ("1000", "1000"),
            ("64-1024", "64-1KiB"),
            ("512MiB", "512MiB"),
            ("64:70, 1KiB:25, 100KiB:5", "64:70,1KiB:25,100KiB:5"),
            ("1KiB:0.5,64-128:2", "64-128:2,1KiB:0.5"),
            ("64:1,1KiB:0", "64"),
            ("lognormal:4096:1.25", "lognormal:4KiB:1.25"),
        ] {
            assert_eq!(sizes(text).to_string(), printed);
            assert_eq!(sizes(printed).to_string(), printed);
        }
    }

    #[test]
    fn wrong_texts_are_refused_with_the_remedy() {
        for (text, part) in [
            ("", "write 64, 64-1024"),
            ("big", "write 64, 64-1024"),
            ("1GiB", "at most 512MiB"),
            ("64,128", "write for example 64:70,1KiB:30"),
            ("128-64", "smaller bound first"),
            ("64:0", "above 0"),
            ("lognormal:4KiB", "lognormal:MEDIAN:SIGMA"),
            ("lognormal:4KiB:9", "from 0 to 5"),
            ("lognormal:x:1", "lognormal:MEDIAN:SIGMA"),
            ("lognormal:0:1", "at least 1"),
            ("lognormal:4KiB:NaN", "from 0 to 5"),
            ("lognormal", "lognormal:MEDIAN:SIGMA"),
        ] {
            let error = text.parse::<Sizes>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_fixed_size_is_always_itself() {
        assert!(drawn(&sizes("64")).iter().all(|size| *size == 64));
    }

    #[test]
    fn a_uniform_size_gives_every_size_its_share() {
        let sizes = sizes("10-19");
        let mut counts = [0; 10];
        drawn(&sizes).iter().for_each(|size| counts[size - 10] += 1);
        for count in counts {
            let share = f64::from(count) / DRAWS as f64;
            assert!((share - 0.1).abs() < 0.003, "{share}");
        }
    }

    #[test]
    fn weighted_sizes_come_by_weight() {
        let sizes = sizes("64:70,1KiB:25,100KiB:5");
        let drawn = drawn(&sizes);
        for (size, share) in [(64, 0.7), (1024, 0.25), (102_400, 0.05)] {
            let seen = drawn.iter().filter(|drawn| **drawn == size).count() as f64 / DRAWS as f64;
            assert!((seen - share).abs() < 0.003, "{size}: {seen}");
        }
    }

    #[test]
    fn lognormal_sizes_have_their_median_and_spread() {
        let mut drawn = drawn(&sizes("lognormal:4KiB:1.2"));
        drawn.sort_unstable();
        let at = |part: f64| drawn[(part * DRAWS as f64) as usize] as f64;
        assert!((at(0.5) / 4096.0 - 1.0).abs() < 0.02, "{}", at(0.5));
        // One standard deviation above and below the median.
        assert!((at(0.841_345) / (4096.0 * 1.2f64.exp()) - 1.0).abs() < 0.02, "{}", at(0.841_345));
        assert!((at(0.158_655) / (4096.0 * (-1.2f64).exp()) - 1.0).abs() < 0.02, "{}", at(0.158_655));
    }

    #[test]
    fn means_are_those_of_the_draws_and_bounds_hold() {
        for text in
            ["64", "64-1024", "64:70,1KiB-4KiB:25,100KiB:5", "lognormal:200:0.8", "lognormal:2:1", "lognormal:100:0"]
        {
            let sizes = sizes(text);
            let drawn = drawn(&sizes);
            let mean = drawn.iter().sum::<usize>() as f64 / DRAWS as f64;
            assert!((sizes.mean() / mean - 1.0).abs() < 0.01, "{text}: {} and {mean}", sizes.mean());
            assert!(drawn.iter().all(|size| (sizes.min()..=sizes.max()).contains(size)), "{text}");
            assert_eq!((sizes.at(0), sizes.at(u64::MAX)), (sizes.min(), sizes.max()), "{text}");
        }
        // Far from the cut the mean has a closed form.
        let (mean, exact) = (sizes("lognormal:4KiB:1").mean(), 4096.0 * 0.5f64.exp());
        assert!((mean / exact - 1.0).abs() < 1e-4, "{mean} and {exact}");
    }

    #[test]
    fn sizes_grow_with_the_point() {
        for text in ["7-9", "1KiB:1,64-128:2,5:1", "lognormal:1KiB:2"] {
            let sizes = sizes(text);
            let at: Vec<_> = (0..=1000).map(|i| sizes.at(i * (u64::MAX / 1000))).collect();
            assert!(at.is_sorted(), "{text}");
        }
    }

    #[test]
    fn lognormal_sizes_are_cut_to_what_can_be_stored() {
        let sizes = sizes("lognormal:1MiB:5");
        assert_eq!((sizes.min(), sizes.max()), (1, SIZE_MAX as usize));
    }
}
