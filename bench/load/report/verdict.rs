//! The verdict on a measurement: whether it is valid, and whether the server met what was asked of it.
//!
//! That a load was too high for the server is a finding; that the generator was late
//! or replies were wrong makes a run worthless.

use crate::outcome::{Comparison, Fault, Outcome, Report, Run, Search};

use super::figures::{self, objectives_text};
use super::format;

/// What to make of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is valid, and what was asked of it was met.
    Passed,
    /// It is valid, and the server missed an objective or did not keep up.
    Missed,
    /// It proves nothing.
    Invalid,
}

/// Something that speaks against a run.
#[derive(Clone, Debug)]
pub struct Note {
    /// Which run, if there are several: `redis, round 2`.
    pub place: String,
    /// What kind of fault it is.
    pub kind: &'static str,
    /// The sentence about it.
    pub text: String,
}

/// The verdict, in words and with what led to it.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// In a word.
    pub verdict: Verdict,
    /// In a sentence without its full stop.
    pub headline: String,
    /// Every fault; of a search none that only says that a load was too high.
    pub notes: Vec<Note>,
}

/// The word for a kind of fault.
pub fn fault_word(fault: &Fault) -> &'static str {
    match fault {
        Fault::Late(_) => "generator late",
        Fault::Few(_) => "too few requests",
        Fault::Wrong(_) => "wrong replies",
        Fault::Lost(_) => "lost replies",
        Fault::Errors(_) => "errors",
        Fault::Overloaded(_) => "server overloaded",
        Fault::Objective(_) => "objective missed",
        Fault::Interrupted(_) => "interrupted",
    }
}

/// Whether it says that the load was too high for the server, which is a finding like any other.
fn is_finding(fault: &Fault) -> bool {
    matches!(fault, Fault::Objective(_) | Fault::Overloaded(_))
}

/// Whether it says that the measurement itself went wrong, so that another one may go right.
fn is_flaw(fault: &Fault) -> bool {
    matches!(fault, Fault::Late(_) | Fault::Few(_))
}

/// Whether a run says nothing about the server, though another one at the same load might.
pub fn is_flawed(run: &Run) -> bool {
    run.faults.iter().any(is_flaw)
}

/// Whether it was ended from outside.
pub fn is_interrupted(report: &Report) -> bool {
    let interrupted = |fault: &Fault| matches!(fault, Fault::Interrupted(_));
    figures::runs(&report.outcome).iter().any(|(_, run)| run.faults.iter().any(interrupted))
}

/// Whether a run can prove something: requests were answered, rightly, and it was measured as it should be.
pub fn is_valid(run: &Run) -> bool {
    run.total.counts.answered > 0 && run.faults.iter().all(is_finding)
}

/// Whether the load was too high for the server, going by the faults and by what was measured.
fn is_missed(report: &Report, run: &Run) -> bool {
    run.faults.iter().any(is_finding)
        || figures::checks(&report.objectives, run).iter().any(|check| check.met == Some(false))
}

/// What to make of the report.
pub fn judge(report: &Report) -> Judgement {
    let (verdict, headline) = match &report.outcome {
        Outcome::Run(run) => judge_run(report, run),
        Outcome::Search(search) => judge_search(search),
        Outcome::Comparison(comparison) => judge_comparison(report, comparison),
    };
    let is_search = matches!(report.outcome, Outcome::Search(_));
    let notes = figures::runs(&report.outcome)
        .into_iter()
        .flat_map(|(place, run)| run.faults.iter().map(move |fault| (place.clone(), fault)))
        .filter(|(_, fault)| !(is_search && is_finding(fault)))
        .map(|(place, fault)| Note { place, kind: fault_word(fault), text: fault.text().into() })
        .collect();
    Judgement { verdict, headline, notes }
}

/// `objective` or `objectives`, whichever there are.
fn objectives_noun(report: &Report) -> &'static str {
    if report.objectives.len() == 1 { "objective" } else { "objectives" }
}

/// The headline of what is valid and missed nothing.
fn passed(report: &Report) -> (Verdict, String) {
    let met = if report.objectives.is_empty() {
        String::new()
    } else {
        format!(", {} met: {}", objectives_noun(report), objectives_text(&report.objectives))
    };
    (Verdict::Passed, format!("valid{met}"))
}

fn judge_run(report: &Report, run: &Run) -> (Verdict, String) {
    let overloaded = run.faults.iter().any(|fault| matches!(fault, Fault::Overloaded(_)));
    let finding = if overloaded { "server overloaded" } else { "objective missed" };
    match (is_valid(run), is_missed(report, run)) {
        (true, false) => passed(report),
        (true, true) => (Verdict::Missed, format!("valid, {finding}")),
        (false, _) if run.total.counts.answered == 0 => (Verdict::Invalid, "not valid: nothing was answered".into()),
        (false, _) => (Verdict::Invalid, "not valid".into()),
    }
}

/// Errors and replies that do not come above the rate that was found are what it stands against; replies that
/// are wrong are so at any rate.
fn judge_search(search: &Search) -> (Verdict, String) {
    let has = |fault: fn(&Fault) -> bool| search.steps.iter().flat_map(|step| &step.run.faults).any(fault);
    if has(|fault| matches!(fault, Fault::Interrupted(_))) {
        return (Verdict::Invalid, "interrupted before the search had ended".into());
    }
    if has(|fault| matches!(fault, Fault::Wrong(_))) {
        return (Verdict::Invalid, "not valid: replies were wrong".into());
    }
    let wanted = match objectives_text(&search.objectives) {
        text if text.is_empty() => "what was asked".into(),
        text => text,
    };
    let is_open = figures::bound(search).is_some_and(|step| is_flawed(&step.run));
    let lowest = search.steps.iter().map(|step| step.rate).min_by(f64::total_cmp);
    match (search.best, lowest) {
        (Some(best), _) if is_open => {
            let best = format::rate(best);
            (
                Verdict::Invalid,
                format!("not valid: at least {best} requests/s meet {wanted}, and more were not measured"),
            )
        }
        (Some(best), _) => (Verdict::Passed, format!("{} requests/s meet {wanted}", format::rate(best))),
        (None, Some(low)) if is_open => (
            Verdict::Invalid,
            format!("not valid: whether {} requests/s meet {wanted} was not measured", format::rate(low)),
        ),
        (None, Some(low)) => (Verdict::Missed, format!("not even {} requests/s meet {wanted}", format::rate(low))),
        (None, None) => (Verdict::Invalid, "no load was tried".into()),
    }
}

fn judge_comparison(report: &Report, comparison: &Comparison) -> (Verdict, String) {
    let rounds: Vec<&Run> = comparison.contenders.iter().flat_map(|contender| &contender.rounds).collect();
    let invalid = rounds.iter().filter(|run| !is_valid(run)).count();
    let missed = rounds.iter().filter(|run| is_missed(report, run)).count();
    match (invalid, missed, rounds.len()) {
        (_, _, 0) => (Verdict::Invalid, "no round was run".into()),
        (0, 0, _) => passed(report),
        (0, missed, all) => (Verdict::Missed, format!("valid, the load was too high in {missed} of {all} rounds")),
        (invalid, _, all) => (Verdict::Invalid, format!("{invalid} of {all} rounds are not valid")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Pace;
    use crate::report::fixture;

    #[test]
    fn a_run_is_judged_by_its_worst_fault() {
        let mut report = fixture::run_report();
        assert_eq!(judge(&report).verdict, Verdict::Passed);
        assert_eq!(judge(&report).headline, "valid, objective met: p99.9 <= 1 ms");
        let Outcome::Run(run) = &mut report.outcome else { panic!("the fixture is a run") };
        run.faults = vec![Fault::Objective("p99.9 was 2 ms".into())];
        assert_eq!(judge(&report).verdict, Verdict::Missed);
        let Outcome::Run(run) = &mut report.outcome else { panic!("the fixture is a run") };
        run.faults.push(Fault::Late("The generator was late.".into()));
        let judgement = judge(&report);
        assert_eq!(judgement.verdict, Verdict::Invalid);
        assert_eq!(judgement.notes.len(), 2);
    }

    #[test]
    fn what_was_measured_counts_even_if_no_fault_tells_of_it() {
        let mut report = fixture::run_report();
        report.objectives[0].limit = std::time::Duration::from_micros(10);
        assert_eq!(judge(&report).headline, "valid, objective missed");
        let nothing = fixture::nothing(Pace::Closed);
        let judgement = judge(&fixture::report(Outcome::Run(Box::new(nothing))));
        assert_eq!(judgement.verdict, Verdict::Invalid);
        assert_eq!(judgement.headline, "not valid: nothing was answered");
    }

    #[test]
    fn a_server_that_did_not_keep_up_is_a_finding() {
        let mut report = fixture::run_report();
        let Outcome::Run(run) = &mut report.outcome else { panic!("the fixture is a run") };
        run.faults = vec![Fault::Overloaded("4,711 requests were still waiting.".into())];
        assert!(is_valid(run));
        assert_eq!(judge(&report).headline, "valid, server overloaded");
    }

    #[test]
    fn a_search_says_what_load_meets_the_objective_and_whether_none_does() {
        let mut report = fixture::search_report();
        let judgement = judge(&report);
        assert_eq!(judgement.verdict, Verdict::Passed);
        assert_eq!(judgement.headline, "240,000 requests/s meet p99.9 <= 1 ms");
        let Outcome::Search(search) = &mut report.outcome else { panic!("the fixture is a search") };
        search.best = None;
        assert!(figures::best_step(search).is_none());
        assert_eq!(judge(&report).headline, "not even 20,000 requests/s meet p99.9 <= 1 ms");
    }

    #[test]
    fn a_search_stands_against_a_rate_that_was_measured() {
        let judged = |rate: f64, fault: Fault| {
            let mut report = fixture::search_report();
            let Outcome::Search(search) = &mut report.outcome else { panic!("the fixture is a search") };
            let step = search.steps.iter_mut().find(|step| step.rate == rate).expect("it was tried");
            step.run.faults.push(fault);
            let judgement = judge(&report);
            (judgement.verdict, judgement.headline)
        };
        let late = || Fault::Late("The generator was late.".into());
        // 250,000 is the lowest that failed, and 280,000 lies above it.
        assert_eq!(judged(280e3, late()).0, Verdict::Passed);
        let (verdict, headline) = judged(250e3, late());
        assert_eq!(verdict, Verdict::Invalid);
        assert_eq!(headline, "not valid: at least 240,000 requests/s meet p99.9 <= 1 ms, and more were not measured");
        assert_eq!(judged(250e3, Fault::Few("Too few.".into())).0, Verdict::Invalid);
        // What a load that is too high does to a server is a bound like any other; lies are not.
        assert_eq!(judged(250e3, Fault::Errors("5 replies were errors.".into())).0, Verdict::Passed);
        assert_eq!(judged(250e3, Fault::Lost("5 were never answered.".into())).0, Verdict::Passed);
        assert_eq!(judged(320e3, Fault::Wrong("1 reply was wrong.".into())).0, Verdict::Invalid);
    }

    #[test]
    fn the_last_try_of_a_rate_is_what_counts() {
        let mut report = fixture::search_report();
        let Outcome::Search(search) = &mut report.outcome else { panic!("the fixture is a search") };
        let mut late = search.steps.iter().find(|step| step.rate == 250e3).expect("it was tried").clone();
        late.run.faults.push(Fault::Late("The generator was late.".into()));
        search.steps.insert(0, late.clone());
        assert_eq!(judge(&report).verdict, Verdict::Passed);
        let Outcome::Search(search) = &mut report.outcome else { panic!("the fixture is a search") };
        search.steps.push(late);
        assert_eq!(judge(&report).verdict, Verdict::Invalid);
    }

    #[test]
    fn a_comparison_counts_its_bad_rounds() {
        let mut report = fixture::comparison_report();
        assert_eq!(judge(&report).verdict, Verdict::Passed);
        let Outcome::Comparison(comparison) = &mut report.outcome else { panic!("the fixture is a comparison") };
        comparison.contenders[1].rounds[0].faults.push(Fault::Wrong("1 reply was wrong.".into()));
        let judgement = judge(&report);
        assert_eq!(judgement.headline, "1 of 15 rounds are not valid");
        assert_eq!(judgement.notes[0].place, "redis, round 1");
    }
}
