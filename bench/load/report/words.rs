//! Sentences and table cells that the reports for people share, so that a figure is
//! written alike on the terminal and on the page.

use crate::outcome::{Comparison, Counts, LATENCY_MAX_NS, Latencies, Pace, ProcessCost, Run, Search, Step};

use super::compare::{self, METRICS, Spread};
use super::figures::{self, Summary};
use super::{PERCENTILES, format, verdict};

/// A table as text: every row has as many cells as the header.
pub struct Table {
    /// The names of the columns.
    pub header: Vec<String>,
    /// The cells.
    pub rows: Vec<Vec<String>>,
    /// The numbers of the columns that hold words; the others hold numbers.
    pub words: Vec<usize>,
    /// The number of the row that stands out.
    pub marked: Option<usize>,
}

/// The sentence that goes with the latencies of a closed loop.
pub const COORDINATED_OMISSION: &str = "Each connection waited for its reply before it asked again, so these \
     latencies leave out the requests that were not sent in the meantime (coordinated omission).";

/// How the load was offered, and how much of it came about.
pub fn load(run: &Run) -> String {
    let time = format::seconds(run.total.time);
    let reached = format::rate(run.total.rate());
    match run.pace {
        Pace::Open { rate, poisson } => {
            let gaps = if poisson { "Poisson arrivals" } else { "even gaps" };
            format!("open loop, {gaps}: {} requests/s offered, {reached} reached in {time}", format::rate(rate))
        }
        Pace::Closed => format!("closed loop: {reached} requests/s reached in {time}"),
    }
}

/// Keys found against keys that should have been; `None` if none were read.
fn hits(counts: &Counts) -> Option<String> {
    let (found, expected) = counts.hit_ratio().zip(counts.hit_ratio_expected())?;
    let leftovers = if counts.leftovers > 0 {
        format!("; {} left by an earlier run", format::counted(counts.leftovers, "value"))
    } else {
        String::new()
    };
    Some(format!("{} of keys read, {} expected{leftovers}", format::part(found), format::part(expected)))
}

/// What a process cost the machine.
fn cost(cost: &ProcessCost, run: &Run) -> String {
    let per_request = format::maybe(figures::cpu_per_request(cost, run), format::duration);
    let cores = format::maybe(figures::cores(cost, run), format::significant);
    let [rss, peak] = [cost.rss, cost.rss_peak].map(|bytes| format::size(bytes as f64));
    format!("{per_request} CPU per request, {cores} cores, {rss} resident, {peak} at its peak")
}

/// Errors, lost requests and wrong replies, in words; requests that were not sent, if any.
fn failures(counts: &Counts) -> String {
    let wrong = if counts.violations == 1 {
        "1 wrong reply".into()
    } else {
        format!("{} wrong replies", format::count(counts.violations))
    };
    let unsent =
        if counts.unsent > 0 { format!(", {} never sent", format::count(counts.unsent)) } else { String::new() };
    let errors = format::counted(counts.errors, "error");
    format!("{errors}, {}, {wrong}{unsent}", format::counted(counts.lost, "lost request"))
}

/// Percentiles in one line: `p50 122 µs, p99 456 µs`.
pub fn percentiles(latencies: &Latencies, percentiles: &[f64]) -> String {
    let value = |percentile| format::maybe(figures::at(latencies, percentile), format::duration);
    let one = |&percentile: &f64| format!("{} {}", format::percentile(percentile), value(percentile));
    percentiles.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The counts and costs of a run as named lines.
pub fn facts(run: &Run) -> Vec<(&'static str, String)> {
    let counts = &run.total.counts;
    let speed = |bytes| format!("{}/s", format::size(figures::per_second(bytes, &run.total)));
    let mut lines = vec![
        ("requests", format!("{} answered of {} sent", format::count(counts.answered), format::count(counts.sent))),
        ("failures", failures(counts)),
        ("network", format!("{} sent, {} received", speed(counts.bytes_sent), speed(counts.bytes_received))),
    ];
    lines.extend(hits(counts).map(|hits| ("hits", hits)));
    if counts.redirected > 0 {
        lines.push(("redirected", format::counted(counts.redirected, "request")));
    }
    lines.extend(run.server.map(|server| ("server", cost(&server, run))));
    lines.push(("generator", cost(&run.generator, run)));
    if run.total.latency().max() >= LATENCY_MAX_NS {
        let most = format::duration_short(LATENCY_MAX_NS as f64);
        lines.push(("longest", format!("more than {most}: no longer ones are told apart")));
    }
    lines
}

/// The latencies of a run: a row for each kind of request that occurred and for each part of the way.
pub fn latencies(run: &Run) -> Table {
    let percentiles = PERCENTILES.map(format::percentile);
    let header: Vec<String> =
        ["latency", "count", "mean"].into_iter().map(String::from).chain(percentiles).chain(["max".into()]).collect();
    let row = |(name, summary): (&str, Option<Summary>)| {
        let mut row = vec![name.to_string(), format::count(summary.as_ref().map_or(0, |summary| summary.count))];
        match &summary {
            Some(summary) => row.extend(summary.columns().map(|value| format::maybe(value, format::duration))),
            None => row.resize(header.len(), format::NONE.into()),
        }
        row
    };
    let rows: Vec<Vec<String>> = figures::rows(run).into_iter().map(row).collect();
    let marked = rows.iter().position(|row| row[0] == "all");
    Table { header, rows, words: vec![0], marked }
}

/// A row for each load that a search tried, by rate.
pub fn curve(search: &Search) -> Table {
    let best = figures::best_step(search);
    let row = |(index, step): (usize, &Step)| {
        let latency = step.run.total.latency();
        let at = |percentile| format::maybe(figures::at(&latency, percentile), format::duration);
        let cores = step.run.server.and_then(|server| figures::cores(&server, &step.run));
        vec![
            format::rate(step.rate),
            format::rate(step.run.total.rate()),
            at(50.0),
            at(99.0),
            at(99.9),
            at(100.0),
            format::maybe(cores, format::cpu_percent),
            if best == Some(index) { "best".into() } else { step_verdict(step) },
        ]
    };
    let header = ["offered", "reached", "p50", "p99", "p99.9", "max", "server CPU", "verdict"];
    let steps = figures::steps_by_rate(search);
    Table {
        header: header.map(String::from).into(),
        marked: steps.iter().position(|(index, _)| best == Some(*index)),
        rows: steps.into_iter().map(row).collect(),
        words: vec![7],
    }
}

/// For each figure a row for each contender.
pub fn comparison(comparison: &Comparison) -> Table {
    let rows = METRICS.iter().flat_map(|metric| {
        let spreads = compare::spreads(metric, comparison).into_iter();
        spreads.zip(&comparison.contenders).enumerate().map(|(index, (spread, contender))| {
            let name = if index == 0 { metric.name } else { "" };
            let words = [name.into(), format::plain(&contender.name)];
            words.into_iter().chain(spread_cells(spread.as_ref(), metric.show)).collect()
        })
    });
    let header = ["figure", "of", "median", "min", "max", "ratio"];
    Table { header: header.map(String::from).into(), rows: rows.collect(), words: vec![0, 1], marked: None }
}

/// `met`, or the kinds of fault that it was not for.
fn step_verdict(step: &Step) -> String {
    let faults: Vec<_> = step.run.faults.iter().map(verdict::fault_word).collect();
    match (step.met, faults.is_empty()) {
        (true, _) => "met".into(),
        (false, true) => "not met".into(),
        (false, false) => faults.join(", "),
    }
}

/// How many contenders and rounds there were, and what the ratios are of.
pub fn compared(comparison: &Comparison) -> String {
    let rounds = comparison.contenders.iter().map(|c| c.rounds.len()).max().unwrap_or(0) as u64;
    let first = comparison.contenders.first().map_or(format::NONE, |first| first.name.as_str());
    let contenders = format::counted(comparison.contenders.len() as u64, "contender");
    let rounds = format::counted(rounds, "round");
    format!("{contenders}, {rounds} each; ratios to {} within a round, their median", format::plain(first))
}

/// Median, lowest, highest and ratio.
pub fn spread_cells(spread: Option<&Spread>, show: fn(f64) -> String) -> [String; 4] {
    let number = |value: fn(&Spread) -> f64| format::maybe(spread.map(value), show);
    let ratio = format::maybe(spread.and_then(|spread| spread.ratio), format::significant);
    [number(|s| s.median), number(|s| s.min), number(|s| s.max), ratio]
}
