//! The plot of latency by percentile: to the right each step leaves a tenth of the
//! requests beyond it, so that the tail has as much room as the rest.

use crate::outcome::{Latencies, Objective};

use super::super::{PERCENTILES, figures, format, words};
use super::axis::{Axis, LOG_FROM, Scale};
use super::plot::{Marker, Plot, ROW, Series, Size, text_width};
use super::{bound, escape, figure};

/// A distribution to be drawn by percentile.
pub struct Distribution<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its classes.
    pub class: &'a str,
    /// Its values.
    pub latencies: Latencies,
}

/// Latency by percentile, with the objectives as regions that the lines must not enter.
pub fn figure_of(distributions: &[Distribution], objectives: &[Objective], note: &str) -> String {
    let recorded: Vec<_> = distributions.iter().filter(|d| !d.latencies.is_empty()).collect();
    if recorded.is_empty() {
        return String::new();
    }
    let most = recorded.iter().map(|d| d.latencies.len()).max().unwrap_or(0);
    let end = (most as f64).clamp(1e3, 1e7);
    let lines: Vec<_> = recorded.iter().map(|d| percentile_line(d, end)).collect();
    let values: Vec<f64> = lines.iter().flat_map(|l| l.points.iter().flatten().map(|&(_, y)| y)).collect();
    let highest = values.iter().copied().fold(0.0, f64::max);
    // A limit far above everything would leave no room for the lines.
    let limits = objectives.iter().filter(|o| figures::limit_ns(o) <= highest * 30.0);
    let limits: Vec<_> = limits.collect();
    let description = percentile_description(&recorded);
    let draw = |size: Size| {
        let height = if size.roomy { 400.0 } else { 300.0 };
        let inner = Plot::inner_height(height);
        let all = values.iter().copied().chain(limits.iter().map(|o| figures::limit_ns(o) * 1.2));
        let y = Axis::fitting(all, LOG_FROM, inner, ROW);
        let names: Vec<&str> = recorded.iter().map(|d| d.name).collect();
        let mut plot = Plot::new(size, height, Axis::exact(Scale::Log, 1.0, end), y, &names);
        limits.iter().for_each(|objective| region(&mut plot, objective));
        plot.horizontal_grid(format::duration_short);
        plot.horizontal_axis(&percentile_ticks(end, size.roomy), true, "percentile");
        lines.iter().rev().for_each(|line| plot.line(line));
        limits.iter().for_each(|objective| gate(&mut plot, objective, &recorded));
        // Of more lines than two the values would cover one another.
        if recorded.len() <= 2 {
            values_on(&mut plot, &recorded, &limits, end, size.roomy);
        }
        plot.finish(&description)
    };
    figure("Latency by percentile", note, "", draw)
}

/// The ticks of a percentile axis: 0, 50 and all nines below its end.
fn percentile_ticks(end: f64, roomy: bool) -> Vec<(f64, String)> {
    let nines = (1..=7).map(|nines| 10f64.powi(nines)).take_while(|&x| x <= end * 1.001);
    let percent = |x: f64| 100.0 - 100.0 / x;
    let unit = if roomy { " %" } else { "" };
    // Rounded to the seven nines at most that there are.
    let label = |x: f64| format!("{}{unit}", (percent(x) * 1e7).round() / 1e7);
    [1.0, 2.0].into_iter().chain(nines).map(|x| (x, label(x))).collect()
}

fn percentile_line(distribution: &Distribution, end: f64) -> Series {
    let latencies = &distribution.latencies;
    let last = (latencies.len() as f64).clamp(1.0, end);
    let points = (last.log10() * 40.0).ceil().max(1.0);
    let at = |n: f64| {
        let x = last.powf(n / points);
        (x, latencies.value_at_quantile(1.0 - 1.0 / x).max(1) as f64)
    };
    // As far to the right as one in all of them stands the longest.
    let longest = (latencies.len() as f64 <= end).then(|| (last, latencies.max() as f64));
    let sampled = (0..points as u32 + u32::from(longest.is_none())).map(|n| Some(at(f64::from(n))));
    Series {
        name: distribution.name.into(),
        class: distribution.class.into(),
        points: sampled.chain(longest.map(Some)).collect(),
    }
}

fn percentile_description(distributions: &[&Distribution]) -> String {
    let one = |d: &&Distribution| format!("{}: {}", d.name, words::percentiles(&d.latencies, &PERCENTILES));
    format!("Latency by percentile. {}", distributions.iter().map(one).collect::<Vec<_>>().join("; "))
}

/// Where a percentile stands on its axis: 1 in so many.
fn one_in(percentile: f64) -> f64 {
    if percentile >= 100.0 { f64::MAX } else { 100.0 / (100.0 - percentile) }
}

/// The latencies that an objective forbids.
fn region(plot: &mut Plot, objective: &Objective) {
    let limit = figures::limit_ns(objective);
    plot.area((None, Some(one_in(objective.percentile))), (Some(limit), None), "forbidden", "");
}

/// The edge of that region, and the point that decides.
fn gate(plot: &mut Plot, objective: &Objective, lines: &[&Distribution]) {
    let (x, y) = (one_in(objective.percentile), figures::limit_ns(objective));
    let words = bound(objective);
    let (left, right, py) = (plot.px(1.0), plot.px(x), plot.py(y));
    plot.raw(&format!("<path class=\"limit\" d=\"M{left:.1},{py:.1}H{right:.1}\"/>"));
    plot.point(Marker::Diamond, x, y, "limit-mark", &words);
    // The words stand on the left, unless a line rises through them there and leaves room on the right.
    let width = text_width(&words);
    let reached = |px: f64| {
        let quantile = 1.0 - 1.0 / plot.value_at(px);
        lines.iter().map(|line| plot.py(line.latencies.value_at_quantile(quantile) as f64)).fold(f64::MAX, f64::min)
    };
    let (crossed, free) = (reached(left + 8.0 + width) < py + 4.0, reached(right - 12.0 - width) < py - 24.0);
    let (px, anchor) = if crossed && free { (right - 12.0, "end") } else { (left + 8.0, "start") };
    plot.text(px, py - 7.0, anchor, "limit-text", &words);
}

/// Dots on the first line at the percentiles of the tables, with their values if there is room.
fn values_on(plot: &mut Plot, lines: &[&Distribution], limits: &[&Objective], end: f64, labels: bool) {
    let first = lines[0];
    let enough = end.min(first.latencies.len() as f64) * 1.001;
    for percentile in PERCENTILES.into_iter().filter(|&percentile| one_in(percentile) <= enough) {
        let Some(value) = figures::at(&first.latencies, percentile) else { continue };
        let x = one_in(percentile);
        let text = format::duration(value);
        let title = format!("{} {}: {text}", first.name, format::percentile(percentile));
        let (px, py) = (plot.px(x), plot.py(value));
        let dot = Marker::Circle.shape(px, py, 3.5);
        plot.raw(&format!("<g class=\"mark full {}\"><title>{}</title>{dot}</g>", first.class, escape(&title)));
        if !labels {
            continue;
        }
        // Above the line on the left, unless the label would lie across a limit or the axis: then below all lines.
        let left = px - 7.0 - text_width(&text);
        let crossed = |o: &&Objective| {
            let below = py - plot.py(figures::limit_ns(o));
            (-6.0..26.0).contains(&below) && left < plot.px(one_in(o.percentile)) + 6.0
        };
        if limits.iter().any(crossed) || left < plot.px(1.0) {
            let values = lines.iter().filter_map(|line| figures::at(&line.latencies, percentile));
            let lowest = values.map(|value| plot.py(value)).fold(py, f64::max);
            plot.text(px + 4.0, lowest + 18.0, "start", "value", &text);
        } else {
            plot.text(px - 7.0, py - 8.0, "end", "value", &text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn percentile_labels_are_exact() {
        let labels: Vec<String> = percentile_ticks(1e7, true).into_iter().map(|(_, label)| label).collect();
        assert_eq!(labels[..5], ["0 %", "50 %", "90 %", "99 %", "99.9 %"]);
        assert_eq!(labels[8], "99.99999 %");
    }

    #[test]
    fn a_line_by_percentile_rises_to_the_longest() {
        let latencies = fixture::run(5, 200_000.0).total.latency();
        let longest = latencies.max() as f64;
        let line = percentile_line(&Distribution { name: "latency", class: "c0", latencies }, 36_000.0);
        let points: Vec<(f64, f64)> = line.points.into_iter().flatten().collect();
        assert!(points.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1));
        assert_eq!(points.last().copied(), Some((36_000.0, longest)));
    }

    #[test]
    fn nothing_recorded_makes_no_plot() {
        let run = fixture::nothing(crate::outcome::Pace::Closed);
        let nothing = Distribution { name: "latency", class: "c0", latencies: run.total.latency() };
        assert_eq!(figure_of(&[nothing], &[fixture::objective()], ""), "");
    }
}
