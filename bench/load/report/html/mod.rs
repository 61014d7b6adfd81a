//! The report as one page: no script, no network, nothing beside it.
//!
//! Everything that a page says is text in the order of reading; colours, light and
//! dark, come from `style.css`. Every text from elsewhere goes through `escape`.

mod axis;
mod by_percentile;
mod curve;
mod over_time;
mod parts;
mod plot;

use crate::outcome::{Comparison, Contender, Latencies, Objective, Outcome, Pace, Report, Run, Search, latencies};

use super::words::{self, COORDINATED_OMISSION};
use super::{figures, format, verdict};

use by_percentile::Distribution;
use plot::{SIZES, Size};

const STYLE: &str = include_str!("style.css");

/// The whole page.
pub fn render(report: &Report) -> String {
    let judgement = verdict::judge(report);
    let title = title(report);
    let content = match &report.outcome {
        Outcome::Run(run) => parts::tiles(&parts::run_tiles(report, run)) + &setup(report) + &measured(report, run),
        Outcome::Search(search) => searched(report, search),
        Outcome::Comparison(comparison) => compared(report, comparison),
    };
    let description = figures::shown(&report.outcome).map_or_else(String::new, |(_, run)| parts::summary(run));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"description\" content=\"{}\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         {}<main>\n{content}{}{}</main>\n<footer><h2>Command</h2><pre>{}</pre></footer>\n</body>\n</html>\n",
        escape(&description),
        escape(&format!("{title} – ringfence-bench")),
        parts::banner(report, &title, &judgement),
        parts::examples(report),
        parts::lines("Generator host", &report.host),
        escape(&report.command),
    )
}

/// Text that a browser shows as it is, without control characters.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in format::plain(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}

/// An objective as a page has it: `p99.9 ≤ 1 ms`.
fn bound(objective: &Objective) -> String {
    figures::objectives_text(&[*objective]).replace("<=", "≤")
}

/// A plot in all sizes, with its title, a note and a legend of markup.
fn figure(title: &str, note: &str, legend: &str, draw: impl Fn(Size) -> String) -> String {
    let plots = SIZES.map(draw).join("\n");
    format!(
        "<figure><figcaption><h2>{}</h2><p>{}</p>{legend}</figcaption>\n{plots}\n</figure>\n",
        escape(title),
        escape(note.trim())
    )
}

fn title(report: &Report) -> String {
    let target = report.setup.iter().find(|(name, _)| name == "target").map(|(_, target)| target.as_str());
    match (&report.outcome, target) {
        (Outcome::Run(_), Some(target)) => format!("Load on {target}"),
        (Outcome::Run(_), None) => "Load".into(),
        (Outcome::Search(_), Some(target)) => format!("Highest load for {target}"),
        (Outcome::Search(_), None) => "Highest load".into(),
        (Outcome::Comparison(comparison), _) => {
            let names: Vec<&str> = comparison.contenders.iter().map(|c| c.name.as_str()).collect();
            match names.split_last() {
                Some((last, [])) => (*last).into(),
                Some((last, others)) => format!("{} and {last}", others.join(", ")),
                None => "Comparison".into(),
            }
        }
    }
}

fn setup(report: &Report) -> String {
    parts::lines("Setup", &report.setup)
}

/// The plots and tables of one run.
fn measured(report: &Report, run: &Run) -> String {
    let mut distributions = vec![Distribution { name: "latency", class: "c0", latencies: run.total.latency() }];
    // In a closed loop both are the same.
    if run.pace != Pace::Closed {
        let latencies = run.total.service.clone();
        distributions.push(Distribution { name: "service", class: "c1 dashed", latencies });
    }
    let table = parts::table(&words::latencies(run), "Latencies");
    format!(
        "{}{}<section><h2>Latencies</h2>{table}{}</section>\n{}",
        by_percentile::figure_of(&distributions, &report.objectives, &format!("{}.", sentence(&words::load(run)))),
        over_time::figures_of(run, &report.objectives),
        parts::latency_note(run),
        parts::lines("Counts and cost", &words::facts(run)),
    )
}

/// Words of the terminal as a page has them: with a capital and the proper sign.
fn sentence(words: &str) -> String {
    let text = words.replace("<=", "≤");
    let mut rest = text.chars();
    rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
}

fn searched(report: &Report, search: &Search) -> String {
    let shown = figures::shown(&report.outcome);
    let tiles = parts::tiles(&parts::search_tiles(report, search));
    let remark = search.remark.iter().map(|remark| format!("<p class=\"note\">{}</p>\n", escape(remark)));
    let table = parts::table(&words::curve(search), "Loads tried");
    let details = shown.map_or_else(String::new, |(place, run)| {
        format!("<h2 class=\"part\">The run {}</h2>\n{}", escape(&place), measured(report, run))
    });
    format!(
        "{tiles}{}{}<section><h2>Loads tried</h2>{table}{}</section>\n{details}",
        setup(report),
        curve::figure_of(search),
        remark.collect::<String>(),
    )
}

fn compared(report: &Report, comparison: &Comparison) -> String {
    let contenders = &comparison.contenders;
    let pooled: Vec<Latencies> = contenders.iter().map(pooled).collect();
    let classes: Vec<String> = (0..contenders.len()).map(|index| format!("c{}", index % 6)).collect();
    let distributions: Vec<_> = (0..contenders.len())
        .map(|i| Distribution { name: &contenders[i].name, class: &classes[i], latencies: pooled[i].clone() })
        .collect();
    let closed = contenders.iter().flat_map(|c| &c.rounds).any(|run| run.pace == Pace::Closed);
    let note =
        if closed { format!("<p class=\"note\">Closed loop. {COORDINATED_OMISSION}</p>") } else { String::new() };
    let commands: Vec<_> = contenders.iter().map(|c| (c.name.as_str(), c.command.clone())).collect();
    format!(
        "{}{}{}{}<section><h2>Figures</h2><p>{}.</p>{}{note}</section>\n{}",
        parts::tiles(&parts::contender_tiles(comparison)),
        setup(report),
        parts::bars(comparison),
        by_percentile::figure_of(&distributions, &report.objectives, "All rounds of each contender together."),
        escape(&words::compared(comparison)),
        parts::table(&words::comparison(comparison), "Figures"),
        parts::lines("Contenders", &commands),
    )
}

/// The latencies of all rounds.
fn pooled(contender: &Contender) -> Latencies {
    let mut all = latencies();
    contender.rounds.iter().for_each(|run| all.add(run.total.latency()).expect("all have the same bounds"));
    all
}

#[cfg(test)]
mod tests;
