//! The curve of a search: each load that was tried, and what latency it had.

use crate::outcome::{Search, Step};

use super::super::{figures, format, verdict};
use super::axis::{Axis, LOG_FROM, Scale};
use super::plot::{Marker, Plot, ROW, Series, Size, text_width};
use super::{bound, figure};

/// The curve of a search: latency over the rate offered, with the bounds.
pub fn figure_of(search: &Search) -> String {
    let steps: Vec<&Step> = figures::steps_by_rate(search).into_iter().map(|(_, step)| step).collect();
    let lines: Vec<Series> = curve_percentiles(search).into_iter().map(|p| curve_line(&steps, p)).collect();
    let values: Vec<f64> = lines.iter().flat_map(|l| l.points.iter().flatten().map(|&(_, y)| y)).collect();
    if values.is_empty() {
        return String::new();
    }
    let highest = steps.iter().map(|step| step.rate).fold(0.0, f64::max);
    let draw = |size: Size| {
        let height = if size.roomy { 400.0 } else { 310.0 };
        let inner = Plot::inner_height(height);
        let limits = search.objectives.iter().map(|o| figures::limit_ns(o) * 1.2);
        let y = Axis::fitting(values.iter().copied().chain(limits), LOG_FROM, inner, ROW);
        let names: Vec<&str> = lines.iter().map(|line| line.name.as_str()).collect();
        let x = Axis::exact(Scale::Linear, 0.0, highest * 1.04);
        let mut plot = Plot::new(size, height, x, y, &names);
        plot.horizontal_grid(format::duration_short);
        let ticks: Vec<_> = x.ticks(plot.width(), 70.0).into_iter().map(|rate| (rate, format::short(rate))).collect();
        plot.horizontal_axis(&ticks, false, "requests/s offered");
        search.objectives.iter().for_each(|objective| plot.limit(figures::limit_ns(objective), &bound(objective)));
        best_line(&mut plot, search, highest);
        lines.iter().for_each(|line| plot.line(line));
        steps.iter().for_each(|step| step_points(&mut plot, search, step));
        plot.finish(&curve_description(search, &steps))
    };
    let note = "Each point is a run at one load; the lines join percentiles of latency.";
    figure("Latency by load", note, &curve_legend(), draw)
}

/// The percentiles of the objectives, and the median beside them.
fn curve_percentiles(search: &Search) -> Vec<f64> {
    let mut all: Vec<f64> = search.objectives.iter().map(|o| o.percentile).chain([50.0]).collect();
    if search.objectives.is_empty() {
        all.push(99.9);
    }
    all.sort_by(f64::total_cmp);
    all.dedup();
    all
}

fn curve_line(steps: &[&Step], percentile: f64) -> Series {
    let at = |step: &&Step| figures::at(&step.run.total.latency(), percentile).map(|ns| (step.rate, ns));
    let class = match percentile {
        p if p <= 50.0 => "q50",
        p if p <= 99.0 => "q99",
        _ => "q999",
    };
    Series {
        name: format::percentile(percentile),
        class: format!("{class} thin"),
        points: steps.iter().map(at).collect(),
    }
}

/// How a step is marked, by shape and colour, and what that means.
const STEP_MARKS: [(Marker, &str, &str); 3] =
    [(Marker::Circle, "good", "met"), (Marker::Cross, "bad", "missed"), (Marker::Triangle, "warn", "not valid")];

fn step_mark(step: &Step) -> (Marker, &'static str, &'static str) {
    match (step.met, verdict::is_valid(&step.run)) {
        (true, _) => STEP_MARKS[0],
        (false, true) => STEP_MARKS[1],
        (false, false) => STEP_MARKS[2],
    }
}

fn step_points(plot: &mut Plot, search: &Search, step: &Step) {
    let (marker, class, word) = step_mark(step);
    let latency = step.run.total.latency();
    for percentile in curve_percentiles(search) {
        let decides = search.objectives.is_empty() || search.objectives.iter().any(|o| o.percentile == percentile);
        let Some(value) = figures::at(&latency, percentile).filter(|_| decides) else { continue };
        let place = format!("{} requests/s", format::rate(step.rate));
        let title = format!("{place}: {} {}, {word}", format::percentile(percentile), format::duration(value));
        plot.point(marker, step.rate, value, class, &title);
    }
}

/// A line at the result, with its number on the side that has room.
fn best_line(plot: &mut Plot, search: &Search, highest: f64) {
    let Some(best) = search.best else { return };
    let text = format!("{} requests/s", format::rate(best));
    let (x, top, bottom) = (plot.px(best), plot.py(f64::MAX), plot.py(0.0));
    plot.raw(&format!("<path class=\"best\" d=\"M{x:.1},{top:.1}V{bottom:.1}\"/>"));
    let room = plot.px(highest) - x > text_width(&text) + 16.0;
    let (x, anchor) = if room { (x + 7.0, "start") } else { (x - 7.0, "end") };
    plot.text(x, bottom - 9.0, anchor, "best-text", &text);
}

fn curve_legend() -> String {
    let entry = |(marker, class, word): (Marker, &str, &str)| {
        let shape = marker.shape(8.0, 8.0, 5.0);
        let glyph = format!(
            "<svg viewBox=\"0 0 16 16\" aria-hidden=\"true\"><g class=\"mark {} {class}\">{shape}</g></svg>",
            marker.class()
        );
        format!("<li>{glyph}{word}</li>")
    };
    format!("<ul class=\"legend\">{}</ul>", STEP_MARKS.map(entry).concat())
}

fn curve_description(search: &Search, steps: &[&Step]) -> String {
    let one = |step: &&Step| format!("{} {}", format::rate(step.rate), step_mark(step).2);
    let steps = steps.iter().map(one).collect::<Vec<_>>().join(", ");
    format!("Latency by requests/s offered, against {}: {steps}.", figures::objectives_text(&search.objectives))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Outcome;
    use crate::report::fixture;

    #[test]
    fn steps_are_told_apart_by_shape_and_by_colour() {
        let report = fixture::search_report();
        let Outcome::Search(search) = &report.outcome else { panic!("the fixture is a search") };
        let marks: Vec<_> = search.steps.iter().map(|step| step_mark(step).2).collect();
        for word in ["met", "missed", "not valid"] {
            assert!(marks.contains(&word), "no step is {word}");
        }
        let page = figure_of(search);
        for (_, class, _) in STEP_MARKS {
            assert!(page.contains(&format!(" {class}\"><title>")), "no mark is {class}");
        }
        assert!(page.contains("240,000 requests/s: p99.9 ") && page.contains("p99.9 ≤ 1 ms"));
    }
}
