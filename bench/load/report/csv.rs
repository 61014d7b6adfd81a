//! The time series as comma-separated values: a header, then a row for each interval.
//!
//! A search puts the columns `step`, `offered_per_s` and `met` before the others, a
//! comparison `contender` and `round`; both count from 1. A cell is empty where
//! nothing was recorded. Times end in `_s` or `_us`, the rate is per second.

use crate::outcome::{Counts, Interval, Outcome, Report};

use super::{PERCENTILES, figures, format};

/// The percentiles of the service time and of the slip.
const TAIL: f64 = 99.0;

/// The whole table; its lines end in a line feed.
pub fn render(report: &Report) -> String {
    let leading = match &report.outcome {
        Outcome::Run(_) => "",
        Outcome::Search(_) => "step,offered_per_s,met,",
        Outcome::Comparison(_) => "contender,round,",
    };
    let mut out = format!("{leading}{}\n", header());
    for (leading, intervals) in series(&report.outcome) {
        for interval in intervals {
            out += &format!("{leading}{}\n", cells(interval).join(","));
        }
    }
    out
}

/// Every series with the cells that lead its rows.
fn series(outcome: &Outcome) -> Vec<(String, &[Interval])> {
    match outcome {
        Outcome::Run(run) => vec![(String::new(), &run.intervals)],
        Outcome::Search(search) => {
            let steps = search.steps.iter().enumerate();
            steps
                .map(|(index, step)| (format!("{},{},{},", index + 1, step.rate, step.met), &step.run.intervals[..]))
                .collect()
        }
        Outcome::Comparison(comparison) => {
            let rounds = comparison.contenders.iter().flat_map(|c| c.rounds.iter().enumerate().map(|r| (&c.name, r)));
            rounds
                .map(|(name, (index, run))| (format!("{},{},", quoted(name), index + 1), &run.intervals[..]))
                .collect()
        }
    }
}

/// A cell as RFC 4180 has it: in quotes if it needs them.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.into() }
}

fn header() -> String {
    let percentiles = PERCENTILES.map(|p| format!("{}_us", format::percentile(p)));
    let tail = format::percentile(TAIL);
    let counts = figures::counts(&Counts::default()).map(|(name, _)| name);
    let columns = ["at_s", "time_s", "measured"].into_iter().chain(counts).chain(["rate"]).map(String::from);
    let times = std::iter::once("mean_us".into()).chain(percentiles).chain([
        "max_us".into(),
        format!("service_{tail}_us"),
        format!("slip_{tail}_us"),
    ]);
    columns.chain(times).collect::<Vec<_>>().join(",")
}

fn cells(interval: &Interval) -> Vec<String> {
    let sample = &interval.sample;
    let mut cells = vec![seconds(interval.at), seconds(sample.time), interval.measured.to_string()];
    cells.extend(figures::counts(&sample.counts).map(|(_, number)| number.to_string()));
    cells.push(format!("{:.1}", sample.rate()));
    let latency = sample.latency();
    let us = |ns: Option<f64>| ns.map_or_else(String::new, |ns| format!("{:.3}", ns / 1e3));
    cells.push(us((!latency.is_empty()).then(|| latency.mean())));
    cells.extend(PERCENTILES.map(|percentile| us(figures::at(&latency, percentile))));
    cells.push(us(figures::at(&latency, 100.0)));
    cells.extend([&sample.service, &sample.slip].map(|latencies| us(figures::at(latencies, TAIL))));
    cells
}

fn seconds(time: std::time::Duration) -> String {
    format!("{:.3}", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    /// The rows, each as its cells; no cell of the fixtures has a comma in it.
    fn table(report: &Report) -> Vec<Vec<String>> {
        render(report).lines().map(|line| line.split(',').map(String::from).collect()).collect()
    }

    fn column<'a>(table: &'a [Vec<String>], name: &str) -> Vec<&'a str> {
        let column = table[0].iter().position(|cell| cell == name).unwrap_or_else(|| panic!("no column {name}"));
        table[1..].iter().map(|row| row[column].as_str()).collect()
    }

    #[test]
    fn a_run_has_a_row_for_each_interval() {
        let report = fixture::run_report();
        let Outcome::Run(run) = &report.outcome else { panic!("the fixture is a run") };
        let table = table(&report);
        assert_eq!(table.len(), 1 + run.intervals.len());
        assert_eq!(column(&table, "at_s")[4], "4.000");
        assert_eq!(column(&table, "measured")[2..4], ["false", "true"]);
        let sample = &run.intervals[5].sample;
        assert_eq!(column(&table, "answered")[5], sample.counts.answered.to_string());
        assert_eq!(column(&table, "received_bytes")[5], sample.counts.bytes_received.to_string());
        assert_eq!(
            column(&table, "p99.9_us")[5],
            format!("{:.3}", sample.latency().value_at_percentile(99.9) as f64 / 1e3)
        );
        assert_eq!(column(&table, "max_us")[5], format!("{:.3}", sample.latency().max() as f64 / 1e3));
    }

    #[test]
    fn steps_and_rounds_lead_their_rows() {
        let search = table(&fixture::search_report());
        assert_eq!(search[1][..3], ["1", "20000", "true"]);
        let comparison = table(&fixture::comparison_report());
        assert_eq!(comparison.len(), 1 + 3 * 5 * 5);
        assert_eq!(comparison[6][..2], ["ringfence", "2"]);
    }

    #[test]
    fn every_row_has_as_many_cells_as_the_header() {
        for report in fixture::all() {
            let table = table(&report);
            assert!(table.iter().all(|row| row.len() == table[0].len()));
            assert!(!table.iter().flatten().any(|cell| cell == "NaN" || cell == "inf"));
        }
    }

    #[test]
    fn what_was_not_recorded_is_empty() {
        let closed = table(&fixture::closed_report());
        assert!(column(&closed, "slip_p99_us").iter().all(|cell| cell.is_empty()));
        assert!(column(&closed, "service_p99_us").iter().all(|cell| !cell.is_empty()));
    }

    #[test]
    fn names_with_commas_and_quotes_are_quoted() {
        assert_eq!(quoted("redis"), "redis");
        assert_eq!(quoted("redis, \"new\""), "\"redis, \"\"new\"\"\"");
    }
}
