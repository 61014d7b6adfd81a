//! What a comparison comes to: for each figure and contender the median over the rounds
//! with its spread, and the ratio to the first contender.
//!
//! The ratio is taken within each round and then the median of those: what slowed the
//! machine down for a while did so to both sides of a round.

use crate::outcome::{Comparison, Run};

use super::{figures, format};

/// A figure of a run that contenders are compared by.
pub struct Metric {
    /// Its name in tables.
    pub name: &'static str,
    /// Its field in JSON, with the unit.
    pub field: &'static str,
    /// What its value is multiplied by for that unit.
    pub field_scale: f64,
    /// Whether more of it is better.
    pub more_is_better: bool,
    /// Writes its value.
    pub show: fn(f64) -> String,
    /// Its value, times in nanoseconds; `None` if the run does not have it.
    pub value: fn(&Run) -> Option<f64>,
}

const fn time(name: &'static str, field: &'static str, value: fn(&Run) -> Option<f64>) -> Metric {
    Metric { name, field, field_scale: 1e-3, more_is_better: false, show: format::duration, value }
}

const fn memory(name: &'static str, field: &'static str, value: fn(&Run) -> Option<f64>) -> Metric {
    Metric { name, field, field_scale: 1.0, more_is_better: false, show: format::size, value }
}

/// Requests answered per second.
pub const RATE: Metric = Metric {
    name: "requests/s",
    field: "requests_per_s",
    field_scale: 1.0,
    more_is_better: true,
    show: format::rate,
    value: |run| (!run.total.time.is_zero()).then(|| run.total.rate()),
};
/// Server CPU time per request.
pub const CPU: Metric = time("CPU per request", "cpu_us_per_request", |run| {
    run.server.and_then(|server| figures::cpu_per_request(&server, run))
});
/// Median latency.
pub const P50: Metric = time("p50", "p50_us", |run| figures::at(&run.total.latency(), 50.0));
/// The latency that one request in a hundred exceeds.
pub const P99: Metric = time("p99", "p99_us", |run| figures::at(&run.total.latency(), 99.0));
/// The latency that one request in a thousand exceeds.
pub const P99_9: Metric = time("p99.9", "p99.9_us", |run| figures::at(&run.total.latency(), 99.9));
/// Resident memory at the end.
pub const RSS: Metric = memory("RSS", "rss_bytes", |run| run.server.map(|server| server.rss as f64));
/// The most that ever was resident.
pub const RSS_PEAK: Metric =
    memory("peak RSS", "rss_peak_bytes", |run| run.server.map(|server| server.rss_peak as f64));
/// Keys found, of those read.
pub const HITS: Metric = Metric {
    name: "hit ratio",
    field: "hit_ratio",
    field_scale: 1.0,
    more_is_better: true,
    show: format::part,
    value: |run| run.total.counts.hit_ratio(),
};

/// All figures, in the order of the tables.
pub const METRICS: [Metric; 8] = [RATE, CPU, P50, P99, P99_9, RSS, RSS_PEAK, HITS];

/// One figure of one contender over its rounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    /// The values of the rounds that have it.
    pub values: Vec<f64>,
    /// Their median.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
    /// The median of the ratios to the first contender in the same round; `None` if no
    /// round has both.
    pub ratio: Option<f64>,
}

/// One figure of every contender; `None` for one that has it in no round.
pub fn spreads(metric: &Metric, comparison: &Comparison) -> Vec<Option<Spread>> {
    let of = |rounds: &[Run]| rounds.iter().map(metric.value).collect::<Vec<_>>();
    let all: Vec<_> = comparison.contenders.iter().map(|contender| of(&contender.rounds)).collect();
    let Some(first) = all.first() else { return Vec::new() };
    all.iter().map(|rounds| spread(rounds, first)).collect()
}

fn spread(rounds: &[Option<f64>], first: &[Option<f64>]) -> Option<Spread> {
    let values: Vec<f64> = rounds.iter().flatten().copied().collect();
    let ratios = rounds.iter().zip(first).filter_map(|(mine, base)| {
        let base = base.filter(|&base| base > 0.0)?;
        mine.map(|mine| mine / base)
    });
    Some(Spread {
        median: median(values.clone())?,
        min: values.iter().copied().reduce(f64::min)?,
        max: values.iter().copied().reduce(f64::max)?,
        ratio: median(ratios.collect()),
        values,
    })
}

/// The middle value, or the mean of the middle two; `None` if there is none.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_between_the_middle_two() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![9.0, 1.0, 3.0]), Some(3.0));
        assert_eq!(median(vec![9.0, 1.0, 3.0, 5.0]), Some(4.0));
    }

    #[test]
    fn ratios_are_taken_within_a_round_before_their_median() {
        let (base, other) = ([100.0, 200.0, 400.0].map(Some), [150.0, 240.0, 1200.0].map(Some));
        let spread = spread(&other, &base).expect("it has values");
        assert_eq!(spread.ratio, Some(1.5), "of 1.5, 1.2 and 3");
        assert_eq!((spread.median, spread.min, spread.max), (240.0, 150.0, 1200.0));
    }

    #[test]
    fn rounds_without_a_value_or_with_nothing_to_divide_by_are_left_out() {
        let found = spread(&[Some(3.0), None, Some(8.0)], &[Some(2.0), Some(1.0), Some(0.0)]).expect("it has values");
        assert_eq!(found.ratio, Some(1.5));
        assert_eq!(found.values, [3.0, 8.0]);
        assert_eq!(spread(&[None], &[Some(1.0)]), None);
    }
}
