//! The distribution of latencies in milliseconds, as the plotters of HdrHistogram read it.
//!
//! Of several runs it is the one that `figures::shown` chooses; a comment in the first
//! line says which. Plotters pass over lines that start with `#`, and over the last row,
//! which has no fourth number because that would be infinite.

use crate::outcome::{Latencies, Report, latencies};

use super::{figures, format};

/// Rows for each halving of the distance to 100 %, as in other tools.
const TICKS_PER_HALF_DISTANCE: u32 = 5;
/// Nanoseconds in a millisecond.
const NS: f64 = 1e6;

/// The distribution; of a report without a run that of no values.
pub fn render(report: &Report) -> String {
    let shown = figures::shown(&report.outcome);
    let comment = match &shown {
        Some((place, _)) if !place.is_empty() => format!("# The run {}\n", format::plain(place)),
        _ => String::new(),
    };
    comment + &distribution(&shown.map_or_else(latencies, |(_, run)| run.total.latency()))
}

fn distribution(latencies: &Latencies) -> String {
    let mut out = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut total = 0;
    for row in latencies.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        total += row.count_since_last_iteration();
        let quantile = row.quantile_iterated_to();
        let value = latencies.highest_equivalent(row.value_iterated_to()) as f64 / NS;
        out += &format!("{value:12.6} {quantile:14.12} {total:10}");
        out += &if quantile < 1.0 { format!(" {:14.2}\n", 1.0 / (1.0 - quantile)) } else { "\n".into() };
    }
    out + &footer(latencies)
}

fn footer(latencies: &Latencies) -> String {
    let [mean, deviation] = [latencies.mean(), latencies.stdev()].map(|ns| ns / NS);
    let max = if latencies.is_empty() { 0.0 } else { latencies.max() as f64 / NS };
    // Twice the values that so many significant digits tell apart, to the next power of two.
    let sub_buckets = (2 * 10u64.pow(u32::from(latencies.sigfig()))).next_power_of_two();
    format!(
        "#[Mean    = {mean:12.6}, StdDeviation   = {deviation:12.6}]\n\
         #[Max     = {max:12.6}, Total count    = {:12}]\n\
         #[Buckets = {:12}, SubBuckets     = {sub_buckets:12}]\n",
        latencies.len(),
        latencies.buckets(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    /// The numbers of the rows.
    fn rows(text: &str) -> Vec<Vec<f64>> {
        let rows = text.lines().skip_while(|line| !line.trim_start().starts_with("Value")).skip(1);
        rows.filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|cell| cell.parse().expect("it is a number")).collect())
            .collect()
    }

    #[test]
    fn values_percentiles_and_counts_only_rise() {
        let report = fixture::run_report();
        let Some((_, run)) = figures::shown(&report.outcome) else { panic!("the fixture is a run") };
        let latency = run.total.latency();
        let text = render(&report);
        let rows = rows(&text);
        assert!(rows.len() > 30, "{text}");
        for pair in rows.windows(2) {
            assert!((0..3).all(|column| pair[0][column] <= pair[1][column]), "{pair:?}");
        }
        for row in rows.iter().filter(|row| row.len() == 4) {
            assert!((row[3] * (1.0 - row[1]) - 1.0).abs() < 0.01, "{row:?}");
        }
        let last = rows.last().expect("there are rows");
        assert_eq!(last[..], [latency.max() as f64 / 1e6, 1.0, latency.len() as f64]);
        let median = rows.iter().find(|row| row[1] == 0.5).expect("half is a tick");
        assert_eq!(median[0], latency.value_at_quantile(0.5) as f64 / 1e6);
    }

    #[test]
    fn the_footer_sums_up() {
        let text = render(&fixture::run_report());
        for field in [
            "#[Mean    =",
            ", StdDeviation   =",
            "#[Max     =",
            ", Total count    =        36000]",
            "SubBuckets     =         2048]",
        ] {
            assert!(text.contains(field), "no {field} in {text}");
        }
    }

    #[test]
    fn of_several_runs_a_comment_says_which() {
        assert!(render(&fixture::search_report()).starts_with("# The run at 240,000 requests/s\n"));
        assert!(render(&fixture::comparison_report()).starts_with("# The run ringfence, round 5\n"));
        assert!(render(&fixture::run_report()).trim_start().starts_with("Value"));
    }

    #[test]
    fn no_values_make_no_rows_and_nothing_infinite() {
        for report in fixture::all() {
            let text = render(&report);
            assert!(!text.contains("NaN") && !text.contains("inf") && text.ends_with("]\n"), "{text}");
        }
        let empty = distribution(&latencies());
        assert!(rows(&empty).is_empty() && empty.contains("Total count    =            0]"), "{empty}");
    }
}
