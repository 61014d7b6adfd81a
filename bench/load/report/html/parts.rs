//! The parts of the page that are not plots: banner, tiles, tables, bars and lists.

use crate::outcome::{Comparison, Contender, Pace, Report, Run, Search};

use super::super::compare::{self, CPU, Metric, P50, P99, P99_9, RATE, RSS, Spread};
use super::super::verdict::{self, Judgement, Verdict};
use super::super::words::{self, Table};
use super::super::{PERCENTILES, figures, format};
use super::{escape, sentence};

/// The head of the page: what it is about, and what came of it.
pub fn banner(report: &Report, title: &str, judgement: &Judgement) -> String {
    let (class, sign) = match judgement.verdict {
        Verdict::Passed => ("good", "<path d=\"M5 10.5l3.5 3.5L15 7\"/>"),
        Verdict::Missed => ("warn", "<path d=\"M10 5v6.5M10 14.9v.1\"/>"),
        Verdict::Invalid => ("bad", "<path d=\"M6 6l8 8M14 6l-8 8\"/>"),
    };
    let note = |note: &verdict::Note| {
        let place = if note.place.is_empty() { String::new() } else { format!("{}: ", escape(&note.place)) };
        format!("<li><b>{}</b> {place}{}</li>", note.kind, escape(&note.text))
    };
    let notes: String = judgement.notes.iter().map(note).collect();
    let notes = if notes.is_empty() { notes } else { format!("<ul>{notes}</ul>") };
    format!(
        "<header><p class=\"kicker\">ringfence-bench <span>{} UTC</span></p><h1>{}</h1>\
         <div class=\"verdict {class}\"><p><svg viewBox=\"0 0 20 20\" aria-hidden=\"true\">{sign}</svg>\
         <strong>{}</strong></p>{notes}</div></header>\n",
        format::utc(report.began),
        escape(title),
        escape(&sentence(&judgement.headline)),
    )
}

/// A figure that stands out: its name, its value and what goes with it.
pub struct Tile {
    name: String,
    value: String,
    more: String,
    bad: bool,
}

impl Tile {
    /// A tile; `more` may be empty.
    pub fn new(name: impl Into<String>, value: impl Into<String>, more: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into(), more: more.into(), bad: false }
    }

    /// The same, standing out if it is `bad`.
    fn bad_if(self, bad: bool) -> Self {
        Self { bad, ..self }
    }

    /// The number of the value, and its unit in smaller letters.
    fn render(&self) -> String {
        let value = match self.value.split_once(' ') {
            Some((number, unit)) => format!("{} <small>{}</small>", escape(number), escape(unit)),
            None => escape(&self.value),
        };
        let class = if self.bad { " class=\"bad\"" } else { "" };
        format!("<div{class}><dt>{}</dt><dd>{value}</dd><dd>{}</dd></div>", escape(&self.name), escape(&self.more))
    }
}

/// All tiles in a grid.
pub fn tiles(tiles: &[Tile]) -> String {
    format!("<dl class=\"tiles\">{}</dl>\n", tiles.iter().map(Tile::render).collect::<String>())
}

/// The key figures of a run.
pub fn run_tiles(report: &Report, run: &Run) -> Vec<Tile> {
    let offered = match run.pace {
        Pace::Open { rate, .. } => format!("of {} offered, open loop", format::rate(rate)),
        Pace::Closed => "closed loop".into(),
    };
    let mut tiles = vec![Tile::new("Requests/s", format::rate(run.total.rate()), offered)];
    tiles.extend(percentile_tiles(report, run));
    let counts = &run.total.counts;
    if let Some((found, expected)) = counts.hit_ratio().zip(counts.hit_ratio_expected()) {
        tiles.push(Tile::new("Hit ratio", format::part(found), format!("{} expected", format::part(expected))));
    }
    if let Some(server) = run.server {
        let cpu = format::maybe(figures::cpu_per_request(&server, run), format::duration);
        let cores = format::maybe(figures::cores(&server, run), format::significant);
        tiles.push(Tile::new("Server CPU per request", cpu, format!("{cores} cores in use")));
        let peak = format!("{} at its peak", format::size(server.rss_peak as f64));
        tiles.push(Tile::new("Server memory", format::size(server.rss as f64), peak));
    }
    let failed = counts.errors + counts.lost + counts.violations;
    tiles.push(Tile::new("Failures", format::count(failed), "errors, lost, wrong replies").bad_if(failed > 0));
    tiles
}

/// The result of a search and the key figures of the run that stands for it.
pub fn search_tiles(report: &Report, search: &Search) -> Vec<Tile> {
    let best = format::maybe(search.best, format::rate);
    let Some((place, run)) = figures::shown(&report.outcome) else {
        return vec![Tile::new("Highest load", best, "no load was tried")];
    };
    let more = match search.best {
        Some(_) => format!("{} reached in the run that confirmed it", format::rate(run.total.rate())),
        None => format!("figures of the last run, {place}"),
    };
    let mut tiles = run_tiles(report, run);
    tiles[0] = Tile::new("Highest load", format!("{best} requests/s"), more).bad_if(search.best.is_none());
    tiles
}

/// The median, p99, p99.9 and what the objectives bound.
fn percentile_tiles(report: &Report, run: &Run) -> Vec<Tile> {
    let latency = run.total.latency();
    let checks = figures::checks(&report.objectives, run);
    let mut percentiles: Vec<f64> =
        [50.0, 99.0, 99.9].into_iter().chain(checks.iter().map(|c| c.objective.percentile)).collect();
    percentiles.sort_by(f64::total_cmp);
    percentiles.dedup();
    let tile = |percentile: f64| {
        let value = format::maybe(figures::at(&latency, percentile), format::duration);
        let name = format::percentile(percentile);
        let Some(check) = checks.iter().find(|check| check.objective.percentile == percentile) else {
            return Tile::new(name, value, "latency");
        };
        let more = format!("limit {}: {}", format::limit(check.objective.limit), check.word());
        Tile::new(name, value, more).bad_if(check.met != Some(true))
    };
    percentiles.into_iter().map(tile).collect()
}

/// The contenders of a comparison at a glance.
pub fn contender_tiles(comparison: &Comparison) -> Vec<Tile> {
    let [rates, cpus, p99s] = [RATE, CPU, P99].map(|metric| compare::spreads(&metric, comparison));
    let median = |spread: &Option<Spread>, show| format::maybe(spread.as_ref().map(|s| s.median), show);
    let tile = |(index, contender): (usize, &Contender)| {
        let rate = median(&rates[index], format::rate);
        let cpu = median(&cpus[index], format::duration);
        let p99 = median(&p99s[index], format::duration);
        Tile::new(contender.name.clone(), format!("{rate} requests/s"), format!("p99 {p99}, {cpu} CPU per request"))
    };
    comparison.contenders.iter().enumerate().map(tile).collect()
}

/// A table that scrolls sideways where it does not fit.
pub fn table(table: &Table, caption: &str) -> String {
    let class = |column: usize| if table.words.contains(&column) { " class=\"word\"" } else { "" };
    let header: String = table
        .header
        .iter()
        .enumerate()
        .map(|(column, name)| format!("<th scope=\"col\"{}>{}</th>", class(column), escape(name)))
        .collect();
    let row = |(index, row): (usize, &Vec<String>)| {
        let group = match (table.marked == Some(index), row[0].is_empty()) {
            (true, _) => " class=\"group marked\"",
            (false, false) => " class=\"group\"",
            (false, true) => "",
        };
        let cell = |(column, cell): (usize, &String)| match column {
            0 => format!("<th scope=\"row\"{}>{}</th>", class(column), escape(cell)),
            _ => format!("<td{}>{}</td>", class(column), escape(cell)),
        };
        format!("<tr{group}>{}</tr>\n", row.iter().enumerate().map(cell).collect::<String>())
    };
    let rows: String = table.rows.iter().enumerate().map(row).collect();
    format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\"><table>\
         <thead><tr>{header}</tr></thead>\n<tbody>{rows}</tbody></table></div>\n",
        caption = escape(caption),
    )
}

/// Named lines in columns; nothing if there are none.
pub fn lines(title: &str, lines: &[(impl AsRef<str>, String)]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let line = |(name, value): &(_, String)| {
        let name: &str = AsRef::as_ref(name);
        format!("<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(value))
    };
    let lines: String = lines.iter().map(line).collect();
    format!("<section><h2>{}</h2><dl class=\"lines\">{lines}</dl></section>\n", escape(title))
}

/// What the rows of the table of latencies mean.
pub fn latency_note(run: &Run) -> String {
    let text = match run.pace {
        Pace::Open { .. } => {
            "Latency counts from the moment that the schedule intended for a request, service from the moment of \
             sending; slip is how late the generator was. A dash stands where too few requests tell."
        }
        Pace::Closed => words::COORDINATED_OMISSION,
    };
    format!("<p class=\"note\">{text}</p>\n")
}

/// Bars of the medians with the spread of the rounds, a panel for each figure.
pub fn bars(comparison: &Comparison) -> String {
    let panels: String = [RATE, CPU, P50, P99, P99_9, RSS].iter().map(|metric| panel(metric, comparison)).collect();
    if panels.is_empty() {
        return panels;
    }
    let heading = "<h2>Medians of the rounds</h2><p>Each dot is a round, the line spans them.</p>";
    format!("<section>{heading}<div class=\"bars\">{panels}</div></section>\n")
}

fn panel(metric: &Metric, comparison: &Comparison) -> String {
    let spreads = compare::spreads(metric, comparison);
    let most = spreads.iter().flatten().map(|spread| spread.max).fold(0.0, f64::max) * 1.03;
    if most <= 0.0 {
        return String::new();
    }
    let bar = |(index, (spread, contender)): (usize, (&Option<Spread>, &Contender))| {
        let [median, min, max, ratio] = words::spread_cells(spread.as_ref(), metric.show);
        let description = format!("{}: {median}, from {min} to {max}", contender.name);
        let drawing = spread.as_ref().map_or_else(String::new, |spread| bar_drawing(spread, most));
        let ratio = if ratio == format::NONE { String::new() } else { format!("{ratio}×") };
        format!(
            "<li class=\"c{}\"><span>{}</span><span>{} <small>{ratio}</small></span>\
             <svg role=\"img\" aria-label=\"{}\"><title>{}</title>{drawing}</svg></li>",
            index % 6,
            escape(&contender.name),
            escape(&median),
            escape(&description),
            escape(&description),
        )
    };
    let list: String = spreads.iter().zip(&comparison.contenders).enumerate().map(bar).collect();
    let better = if metric.more_is_better { "more is better" } else { "less is better" };
    format!("<section><h3>{} <small>{better}</small></h3><ul>{list}</ul></section>", escape(metric.name))
}

/// A bar to the median, a line from the lowest to the highest and a dot for each round; places in percent of `most`.
fn bar_drawing(spread: &Spread, most: f64) -> String {
    let [median, min, max] = [spread.median, spread.min, spread.max].map(|value| value / most * 100.0);
    let dot = |value: &f64| format!("<circle cx=\"{:.2}%\" cy=\"11\" r=\"2.5\"/>", value / most * 100.0);
    let dots: String = spread.values.iter().map(dot).collect();
    format!(
        "<rect width=\"{median:.2}%\" height=\"22\" rx=\"2\"/>\
         <line x1=\"{min:.2}%\" x2=\"{max:.2}%\" y1=\"11\" y2=\"11\"/>{dots}"
    )
}

/// The first replies that were wrong, of every run.
pub fn examples(report: &Report) -> String {
    let runs = figures::runs(&report.outcome);
    let of_run = |(place, run): &(String, &Run)| {
        let place = if place.is_empty() { String::new() } else { format!("{place}: ") };
        run.examples.iter().map(|text| format!("<li>{}</li>\n", escape(&format!("{place}{text}")))).collect::<String>()
    };
    let list: String = runs.iter().map(of_run).collect();
    if list.is_empty() {
        return list;
    }
    format!("<section><h2>Replies that were wrong, lost or errors</h2><ul class=\"examples\">{list}</ul></section>\n")
}

/// A run in one line, for the description of a page.
pub fn summary(run: &Run) -> String {
    let percentiles = words::percentiles(&run.total.latency(), &PERCENTILES);
    format!("{} requests/s, {percentiles}", format::rate(run.total.rate()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Outcome;
    use crate::report::fixture;

    #[test]
    fn a_limit_stands_beside_what_it_bounds() {
        let report = fixture::run_report();
        let Outcome::Run(run) = &report.outcome else { panic!("the fixture is a run") };
        let page = tiles(&run_tiles(&report, run));
        assert!(page.contains("limit 1 ms: met"), "{page}");
        assert!(page.contains("of 200,000 offered, open loop"), "{page}");
    }

    #[test]
    fn bars_are_as_long_as_their_medians() {
        let spread = Spread { values: vec![40.0, 50.0, 60.0], median: 50.0, min: 40.0, max: 60.0, ratio: None };
        let drawing = bar_drawing(&spread, 200.0);
        assert!(drawing.contains("rect width=\"25.00%\""), "{drawing}");
        assert!(drawing.contains("x1=\"20.00%\" x2=\"30.00%\""), "{drawing}");
        assert_eq!(drawing.matches("<circle").count(), 3);
    }

    #[test]
    fn a_panel_has_a_bar_for_each_contender_and_its_ratio() {
        let report = fixture::comparison_report();
        let Outcome::Comparison(comparison) = &report.outcome else { panic!("the fixture is a comparison") };
        let panel = panel(&RATE, comparison);
        let ratio = compare::spreads(&RATE, comparison)[1].as_ref().and_then(|s| s.ratio).expect("redis has one");
        assert_eq!(panel.matches("</li>").count(), 3);
        assert!(panel.contains(&format!("<small>{}×</small>", format::significant(ratio))), "{panel}");
        assert!(panel.contains("more is better"), "{panel}");
    }
}
