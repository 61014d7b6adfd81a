//! The plots over time: the rate of replies and the percentiles of each interval, on the same axis.

use std::time::Duration;

use crate::outcome::{Interval, Latencies, Objective, Run, Sample};

use super::super::{figures, format, words};
use super::axis::{Axis, LOG_FROM, Scale};
use super::plot::{Marker, Plot, ROW, Series, Size};
use super::{bound, figure};

/// Points of a time series at most; more intervals are put together.
const POINTS: usize = 300;
/// Bands that can be pointed at, at most.
const BANDS: usize = 150;
/// The percentiles drawn, each with its class.
const OVER_TIME: [(f64, &str); 3] = [(50.0, "q50"), (99.0, "q99"), (99.9, "q999")];

/// The rate of replies and the latency over time, one above the other on the same axis.
pub fn figures_of(run: &Run, objectives: &[Objective]) -> String {
    let intervals = coarse(&run.intervals);
    let Some(last) = intervals.last() else { return String::new() };
    let end = (last.at + last.sample.time).as_secs_f64();
    if end <= 0.0 {
        return String::new();
    }
    let time = Axis::exact(Scale::Linear, 0.0, end);
    let shaded = if intervals.iter().any(|i| !i.measured) { "Shaded: not measured." } else { "" };
    let rate = figure("Throughput over time", &format!("Requests answered per second. {shaded}"), "", |size| {
        rate_plot(run, &intervals, time, size)
    });
    let latency = figure("Latency over time", &format!("Percentiles of each interval. {shaded}"), "", |size| {
        latency_plot(&intervals, time, objectives, size)
    });
    rate + &latency
}

/// The intervals, those next to each other put together so that few enough are left.
fn coarse(intervals: &[Interval]) -> Vec<Interval> {
    let at_once = intervals.len().div_ceil(POINTS).max(1);
    let alike = intervals.chunk_by(|a, b| a.measured == b.measured);
    alike.flat_map(|alike| alike.chunks(at_once).map(together)).collect()
}

fn together(intervals: &[Interval]) -> Interval {
    let mut all = Interval { at: intervals[0].at, measured: intervals[0].measured, sample: Sample::empty() };
    for interval in intervals {
        all.sample.merge(&interval.sample);
        all.sample.time += interval.sample.time;
    }
    all
}

/// The middle of an interval, in seconds.
fn middle(interval: &Interval) -> f64 {
    (interval.at + interval.sample.time / 2).as_secs_f64()
}

fn rate_plot(run: &Run, intervals: &[Interval], time: Axis, size: Size) -> String {
    let height = if size.roomy { 220.0 } else { 200.0 };
    let rates = intervals.iter().map(|interval| interval.sample.rate());
    let offered = figures::open_rate(run.pace);
    let highest = rates.clone().chain(offered).fold(0.0, f64::max);
    let y = Axis::from_zero(highest * 1.05, Plot::inner_height(height), ROW);
    let mut plot = Plot::new(size, height, time, y, &["answered"]);
    unmeasured(&mut plot, intervals);
    plot.horizontal_grid(format::short);
    time_axis(&mut plot, time);
    if let Some(rate) = offered {
        let points = vec![Some((0.0, rate)), Some((time.max(), rate))];
        plot.line(&Series { name: "offered".into(), class: "reference".into(), points });
    }
    let points = intervals.iter().zip(rates).map(|(interval, rate)| Some((middle(interval), rate))).collect();
    plot.line(&Series { name: "answered".into(), class: "c0".into(), points });
    failures(&mut plot, intervals);
    bands(&mut plot, intervals, size);
    let reached = format::rate(run.total.rate());
    plot.finish(&format!("Requests answered per second over time; {reached} in all of the measured time."))
}

fn latency_plot(intervals: &[Interval], time: Axis, objectives: &[Objective], size: Size) -> String {
    let height = if size.roomy { 260.0 } else { 230.0 };
    let latencies: Vec<Latencies> = intervals.iter().map(|interval| interval.sample.latency()).collect();
    let lines = OVER_TIME.map(|(percentile, class)| {
        let points = intervals.iter().zip(&latencies);
        let points = points.map(|(interval, l)| figures::at(l, percentile).map(|ns| (middle(interval), ns)));
        Series { name: format::percentile(percentile), class: class.into(), points: points.collect() }
    });
    let values: Vec<f64> = lines.iter().flat_map(|l| l.points.iter().flatten().map(|&(_, y)| y)).collect();
    let highest = values.iter().copied().fold(0.0, f64::max);
    let drawn = |o: &&Objective| OVER_TIME.iter().any(|(p, _)| (p - o.percentile).abs() < 1e-9);
    let limits = objectives.iter().filter(drawn).filter(|o| figures::limit_ns(o) <= highest * 30.0);
    let all = values.iter().copied().chain(limits.clone().map(|o| figures::limit_ns(o) * 1.2));
    let y = Axis::fitting(all, LOG_FROM, Plot::inner_height(height), ROW);
    let mut plot = Plot::new(size, height, time, y, &["answered"]);
    unmeasured(&mut plot, intervals);
    plot.horizontal_grid(format::duration_short);
    time_axis(&mut plot, time);
    lines.iter().for_each(|line| plot.line(line));
    limits.for_each(|objective| plot.limit(figures::limit_ns(objective), &bound(objective)));
    bands(&mut plot, intervals, size);
    plot.finish("The median, 99th and 99.9th percentile of latency over time.")
}

fn time_axis(plot: &mut Plot, time: Axis) {
    let ticks =
        time.ticks(plot.width(), 70.0).into_iter().map(|s| (s, format!("{} s", format::short(s)))).collect::<Vec<_>>();
    plot.horizontal_axis(&ticks, false, "since the load began");
}

/// Shades the intervals that do not count.
fn unmeasured(plot: &mut Plot, intervals: &[Interval]) {
    for alike in intervals.chunk_by(|a, b| a.measured == b.measured).filter(|alike| !alike[0].measured) {
        let last = &alike[alike.len() - 1];
        let end = (last.at + last.sample.time).as_secs_f64();
        plot.area((Some(alike[0].at.as_secs_f64()), Some(end)), (None, None), "unmeasured", "");
    }
}

/// Marks the intervals with errors, lost requests or wrong replies at the foot of the plot.
fn failures(plot: &mut Plot, intervals: &[Interval]) {
    for interval in intervals {
        let counts = &interval.sample.counts;
        let failed = counts.errors + counts.lost + counts.violations;
        if failed > 0 {
            let title = format!("{}: {}", seconds(interval.at), format::counted(failed, "failure"));
            plot.point(Marker::Cross, middle(interval), 0.0, "bad", &title);
        }
    }
}

/// Lets each interval be pointed at for its figures.
fn bands(plot: &mut Plot, intervals: &[Interval], size: Size) {
    if !size.hover || intervals.len() > BANDS {
        return;
    }
    for interval in intervals {
        let latency = interval.sample.latency();
        let percentiles = words::percentiles(&latency, &OVER_TIME.map(|(percentile, _)| percentile));
        let rate = format::rate(interval.sample.rate());
        let title = format!("{}: {rate} requests/s, {percentiles}", seconds(interval.at));
        let end = (interval.at + interval.sample.time).as_secs_f64();
        plot.area((Some(interval.at.as_secs_f64()), Some(end)), (None, None), "band", &title);
    }
}

fn seconds(time: Duration) -> String {
    format!("{} s", format::short(time.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn many_intervals_become_few_and_lose_nothing() {
        let run = fixture::run(5, 10_000.0);
        let many: Vec<Interval> = run.intervals.iter().cycle().take(40).cloned().collect();
        let few = coarse(&many);
        assert_eq!(few.len(), 40);
        let joined = together(&many[3..12]);
        assert_eq!(joined.at, Duration::from_secs(3));
        assert_eq!(joined.sample.time, Duration::from_secs(9));
        assert_eq!(joined.sample.counts.answered, run.total.counts.answered);
    }
}
