//! The report on a terminal. Without colour it is plain text in columns; colour
//! only adds to it, so that nothing is said by colour alone.

use crate::outcome::{Comparison, Contender, Objective, Outcome, Pace, Report, Run, Search};

use super::verdict::{self, Judgement, Verdict};
use super::words::{self, COORDINATED_OMISSION, Table};
use super::{figures, format};

/// The whole report, each line ended. `colour` adds escape sequences for a terminal.
pub fn render(report: &Report, colour: bool) -> String {
    let paint = Paint { colour };
    let mut out = setup(report, paint);
    match &report.outcome {
        Outcome::Run(run) => out += &measured(run, paint),
        Outcome::Search(search) => out += &searched(report, search, paint),
        Outcome::Comparison(comparison) => out += &compared(comparison, paint),
    }
    out += &examples(report);
    out += &verdict(report, &verdict::judge(report), paint);
    out
}

/// Writes escape sequences, or does not.
#[derive(Clone, Copy)]
struct Paint {
    colour: bool,
}

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }

    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn faint(self, text: &str) -> String {
        self.with("2", text)
    }

    fn verdict(self, verdict: Verdict, text: &str) -> String {
        match verdict {
            Verdict::Passed => self.with("1;32", text),
            Verdict::Missed => self.with("1;33", text),
            Verdict::Invalid => self.with("1;31", text),
        }
    }
}

/// `name  value` with the names in a column.
fn named(lines: &[(impl AsRef<str>, String)], paint: Paint) -> String {
    let names: Vec<String> = lines.iter().map(|(name, _)| format::plain(name.as_ref())).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(12);
    let line =
        |(name, (_, value)): (&String, &(_, String))| format!("{}  {value}\n", paint.faint(&format!("{name:<width$}")));
    names.iter().zip(lines).map(line).collect()
}

/// The cells in columns: words to the left, numbers to the right.
fn table(table: &Table, paint: Paint) -> String {
    let lines = std::iter::once(&table.header).chain(&table.rows);
    let width = |column: usize| lines.clone().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..table.header.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cell = |(column, (cell, &width)): (usize, (&String, &usize))| {
            if table.words.contains(&column) { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        };
        let cells: Vec<_> = row.iter().zip(&widths).enumerate().map(cell).collect();
        cells.join("  ").trim_end().to_string()
    };
    let row = |(index, row): (usize, &Vec<String>)| {
        let text = line(row);
        let text = if table.marked == Some(index) { paint.bold(&text) } else { text };
        text + "\n"
    };
    let rows: String = table.rows.iter().enumerate().map(row).collect();
    format!("{}\n{rows}", paint.faint(&line(&table.header)))
}

fn setup(report: &Report, paint: Paint) -> String {
    let began = format!("{} UTC", format::utc(report.began));
    let lines: Vec<_> = [("command", format::plain(&report.command)), ("began", began)]
        .into_iter()
        .chain(report.host.iter().chain(&report.setup).map(|(name, value)| (name.as_str(), format::plain(value))))
        .collect();
    named(&lines, paint)
}

/// A paragraph of lines that are not too long, behind an empty line.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("there is a line from the start");
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + word.chars().count() < 96 {
            *last += &format!(" {word}");
        } else {
            lines.push(word.into());
        }
    }
    format!("\n{}\n", lines.join("\n"))
}

/// One run: the load, the counts, the latencies and the cost.
fn measured(run: &Run, paint: Paint) -> String {
    let note = if run.pace == Pace::Closed { wrapped(COORDINATED_OMISSION) } else { String::new() };
    let facts = named(&words::facts(run), paint);
    format!("\n{}\n{facts}\n{}{note}", paint.bold(&words::load(run)), table(&words::latencies(run), paint))
}

/// The curve of a search, and the details of the run that confirmed it.
fn searched(report: &Report, search: &Search, paint: Paint) -> String {
    let mut out = format!("\n{}", table(&words::curve(search), paint));
    out += &search.remark.iter().map(|remark| format!("\n{}\n", format::plain(remark))).collect::<String>();
    if let Some((place, run)) = figures::shown(&report.outcome) {
        out += &format!("\n{}", paint.bold(&format!("The run {place}:")));
        out += &measured(run, paint);
    }
    out
}

/// The contenders, and for each figure a row for each of them.
fn compared(comparison: &Comparison, paint: Paint) -> String {
    let command = |c: &Contender| (c.name.clone(), format::plain(&c.command));
    let contenders: Vec<_> = comparison.contenders.iter().map(command).collect();
    let closed = comparison.contenders.iter().flat_map(|c| &c.rounds).any(|run| run.pace == Pace::Closed);
    let note = if closed { wrapped(&format!("Closed loop. {COORDINATED_OMISSION}")) } else { String::new() };
    let heading = paint.bold(&words::compared(comparison));
    let figures = table(&words::comparison(comparison), paint);
    format!("\n{heading}\n{}\n{figures}{note}", named(&contenders, paint))
}

fn examples(report: &Report) -> String {
    let lines: Vec<String> = figures::runs(&report.outcome)
        .iter()
        .flat_map(|(place, run)| run.examples.iter().map(move |example| with_place(place, example)))
        .map(|line| format!("  {line}\n"))
        .collect();
    if lines.is_empty() {
        String::new()
    } else {
        format!("\nreplies that were wrong, lost or errors:\n{}", lines.concat())
    }
}

fn with_place(place: &str, text: &str) -> String {
    let text = format::plain(text);
    if place.is_empty() { text } else { format!("{}: {text}", format::plain(place)) }
}

fn verdict(report: &Report, judgement: &Judgement, paint: Paint) -> String {
    let mut out = format!("\n{}\n", paint.verdict(judgement.verdict, &judgement.headline));
    for note in &judgement.notes {
        out += &format!("  {}: {}\n", note.kind, with_place(&note.place, &note.text));
    }
    if let Outcome::Run(run) = &report.outcome {
        out += &checks(&report.objectives, run);
    }
    out
}

/// What was found of each objective.
fn checks(objectives: &[Objective], run: &Run) -> String {
    let line = |check: figures::Check| {
        let found = format::maybe(check.found, format::duration);
        format!("  {}: {found}, {}\n", figures::objectives_text(&[check.objective]), check.word())
    };
    figures::checks(objectives, run).into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Fault, record};
    use crate::report::compare::{self, METRICS};
    use crate::report::fixture;

    /// The cells of the first line that starts with `name`.
    fn line<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
        let found = text.lines().find(|line| line.trim_start().starts_with(name));
        found
            .unwrap_or_else(|| panic!("no line starts with {name}"))
            .split("  ")
            .map(str::trim)
            .filter(|c| !c.is_empty())
            .collect()
    }

    #[test]
    fn a_run_shows_its_load_its_latencies_and_its_cost() {
        let report = fixture::run_report();
        let Outcome::Run(run) = &report.outcome else { panic!("the fixture is a run") };
        let text = render(&report, false);
        assert!(text.contains("open loop, Poisson arrivals: 200,000 requests/s offered, "), "{text}");
        assert!(text.contains("reached in 9.00 s"), "{text}");
        assert_eq!(line(&text, "target"), ["target", "127.0.0.1:6379"]);
        assert_eq!(line(&text, "failures"), ["failures", "0 errors, 0 lost requests, 0 wrong replies"]);
        let all = run.total.latency();
        let row = line(&text, "all ");
        assert_eq!(row[1], format::count(all.len()));
        assert_eq!(row[2], format::duration(all.mean()));
        assert_eq!(row[6], format::duration(all.value_at_percentile(99.9) as f64));
        assert_eq!(row[8], format::duration(all.max() as f64));
        assert!(line(&text, "server")[1].contains("µs CPU per request"), "{text}");
        assert!(line(&text, "slip").len() == 9, "{text}");
        assert!(text.contains("\nvalid, objective met: p99.9 <= 1 ms\n"), "{text}");
        assert!(!text.contains("closed loop") && !text.contains("delete"), "{text}");
    }

    #[test]
    fn a_latency_that_is_cut_short_says_so() {
        let mut report = fixture::run_report();
        assert!(!render(&report, false).contains("\nlongest "));
        let Outcome::Run(run) = &mut report.outcome else { panic!("the fixture is a run") };
        record(&mut run.total.by_kind[0], 90_000_000_000);
        assert_eq!(line(&render(&report, false), "longest")[1], "more than 60 s: no longer ones are told apart");
    }

    #[test]
    fn a_closed_loop_says_what_its_latencies_leave_out() {
        let text = render(&fixture::closed_report(), false);
        assert!(text.contains("closed loop: "), "{text}");
        assert!(text.contains("coordinated omission"), "{text}");
        assert!(!text.contains("slip"), "{text}");
        assert!(text.ends_with("\nvalid\n"), "{text}");
    }

    #[test]
    fn a_search_is_a_curve_by_rate_with_the_best_marked() {
        let text = render(&fixture::search_report(), false);
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("no {what} in {text}"));
        assert!(at("\n 20,000") < at("\n160,000") && at("\n160,000") < at("\n320,000"), "{text}");
        let rows: Vec<_> = text.lines().filter(|line| line.starts_with("240,000  ")).collect();
        assert!(rows.len() == 2 && rows[0].ends_with("met") && rows[1].ends_with("best"), "{rows:?}");
        assert!(text.contains("\n240,000 requests/s meet p99.9 <= 1 ms\n"), "{text}");
        assert!(text.contains("generator late: at 320,000 requests/s: The generator"), "{text}");
        assert!(text.contains("The run at 240,000 requests/s:"), "{text}");
    }

    #[test]
    fn a_comparison_has_a_row_for_each_figure_and_contender() {
        let report = fixture::comparison_report();
        let text = render(&report, false);
        let Outcome::Comparison(comparison) = &report.outcome else { panic!("the fixture is a comparison") };
        let spread = compare::spreads(&compare::RATE, comparison)[1].clone().expect("redis has a rate");
        let rows: Vec<_> = text.lines().filter(|line| line.trim_start().starts_with("redis  ")).collect();
        assert_eq!(rows.len(), 1 + METRICS.len(), "{text}");
        for cell in words::spread_cells(Some(&spread), format::rate) {
            assert!(rows[1].contains(&cell), "{} has no {cell}", rows[1]);
        }
        assert!(line(&text, "requests/s").ends_with(&["1.00"]), "{text}");
    }

    #[test]
    fn faults_and_examples_are_listed_without_control_characters() {
        let text = render(&fixture::faulty_report(), false);
        assert!(text.contains("\nnot valid\n  generator late: The generator was late by 1.8 ms"), "{text}");
        assert!(text.contains("17 errors, 3 lost requests, 2 wrong replies"), "{text}");
        assert!(text.contains("  set k:000302: -OOM"), "{text}");
        assert!(!text.contains('\x1b'), "{text:?}");
    }

    #[test]
    fn colour_adds_escape_sequences_and_changes_nothing_else() {
        for report in fixture::all() {
            let (plain, mut coloured) = (render(&report, false), render(&report, true));
            assert!(coloured.contains("\x1b["));
            for code in ["0", "1", "2", "1;32", "1;33", "1;31"] {
                coloured = coloured.replace(&format!("\x1b[{code}m"), "");
            }
            assert_eq!(coloured, plain);
        }
    }

    #[test]
    fn nothing_measured_is_shown_without_nan() {
        for report in fixture::all() {
            let text = render(&report, false);
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        }
    }

    #[test]
    fn a_missed_objective_is_shown_with_what_was_found() {
        let mut report = fixture::run_report();
        report.objectives[0].limit = std::time::Duration::from_micros(10);
        let Outcome::Run(run) = &mut report.outcome else { panic!("the fixture is a run") };
        run.faults.push(Fault::Objective("p99.9 was above its limit.".into()));
        let text = render(&report, false);
        assert!(text.contains("\nvalid, objective missed\n  objective missed: p99.9 was above its limit.\n"), "{text}");
        assert!(text.trim_end().ends_with("µs, missed"), "{text}");
    }
}
