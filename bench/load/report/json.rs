//! The report as one JSON object, for programs.
//!
//! Fields keep their names and meaning within a schema; new ones may join them. A
//! name ends in its unit, or the object around it does: `_us` microseconds, `_s`
//! seconds, `_bytes`, `_per_s`. What was not measured is `null`, and a number is
//! always finite.
//!
//! | Field | Content |
//! |-------|---------|
//! | `schema` | 1 |
//! | `outcome` | `run`, `search` or `comparison`: the field that holds it |
//! | `command`, `began_unix_s`, `began_utc` | what was called, and when the load began |
//! | `setup`, `host` | the named lines of the report |
//! | `objectives` | `percentile`, `limit_us` each |
//! | `verdict` | `result` (`passed`, `missed`, `invalid`), `text`, `faults` (`run`, `kind`, `text`) |
//! | `run` | see below |
//! | `search` | `best_per_s`, `best_step` (an index), `remark`, `steps`: `offered_per_s`, `met`, `run` |
//! | `comparison` | `contenders`: `name`, `command`, `figures`, `rounds` (runs) |
//!
//! A figure has `median`, `min`, `max` over the rounds, and `ratio_to_first`.
//!
//! A run has `loop` (`open`, `closed`), `arrivals`, `offered_per_s`, `reached_per_s`,
//! `measured_s`, `counts`, `hit_ratio`, `hit_ratio_expected`, `latency_us`, the same of
//! each kind in `by_kind_us`, `service_us`, `slip_us`, `connect_us`, `server` and
//! `generator`, `valid`, `faults`, `examples` and `intervals`.

use serde_json::{Map, Value, json};

use crate::outcome::{
    Comparison, Contender, Counts, Fault, Interval, Kind, Latencies, Objective, Outcome, Pace, ProcessCost, Report,
    Run, Search, Step,
};

use super::compare::{self, METRICS};
use super::figures::{self, Summary};
use super::verdict::{self, Judgement, Verdict};
use super::{PERCENTILES, format};

/// The report as indented JSON, ended by a line feed.
pub fn render(report: &Report) -> String {
    let (outcome, content) = match &report.outcome {
        Outcome::Run(measured) => ("run", run(measured)),
        Outcome::Search(searched) => ("search", search(searched)),
        Outcome::Comparison(compared) => ("comparison", comparison(compared)),
    };
    let mut value = json!({
        "schema": 1,
        "outcome": outcome,
        "command": report.command,
        "began_unix_s": report.began,
        "began_utc": format!("{}Z", format::utc(report.began).replace(' ', "T")),
        "setup": named(&report.setup),
        "host": named(&report.host),
        "objectives": objectives(&report.objectives),
        "verdict": verdict(&verdict::judge(report)),
    });
    value[outcome] = content;
    format!("{value:#}\n")
}

/// A number with at most three decimals, so that no more digits are shown than were measured.
fn number(value: f64) -> Value {
    if value.is_finite() { json!((value * 1e3).round() / 1e3) } else { Value::Null }
}

/// A part of one with six decimals.
fn part(value: Option<f64>) -> Value {
    value.filter(|value| value.is_finite()).map_or(Value::Null, |value| json!((value * 1e6).round() / 1e6))
}

/// Nanoseconds as microseconds.
fn us(ns: f64) -> Value {
    number(ns / 1e3)
}

fn named(lines: &[(String, String)]) -> Value {
    lines.iter().map(|(name, value)| (name.clone(), json!(value))).collect::<Map<_, _>>().into()
}

fn objectives(objectives: &[Objective]) -> Value {
    let one = |o: &Objective| json!({ "percentile": o.percentile, "limit_us": us(figures::limit_ns(o)) });
    objectives.iter().map(one).collect()
}

fn verdict(judgement: &Judgement) -> Value {
    let result = match judgement.verdict {
        Verdict::Passed => "passed",
        Verdict::Missed => "missed",
        Verdict::Invalid => "invalid",
    };
    let note = |note: &verdict::Note| json!({ "run": note.place, "kind": note.kind, "text": note.text });
    json!({
        "result": result,
        "text": judgement.headline,
        "faults": judgement.notes.iter().map(note).collect::<Vec<_>>(),
    })
}

fn run(run: &Run) -> Value {
    let total = &run.total;
    let arrivals = match run.pace {
        Pace::Open { poisson, .. } => json!(if poisson { "poisson" } else { "even" }),
        Pace::Closed => Value::Null,
    };
    let by_kind = Kind::ALL.iter().zip(&total.by_kind).filter(|(_, l)| !l.is_empty());
    let fault = |fault: &Fault| json!({ "kind": verdict::fault_word(fault), "text": fault.text() });
    json!({
        "loop": if run.pace == Pace::Closed { "closed" } else { "open" },
        "arrivals": arrivals,
        "offered_per_s": figures::open_rate(run.pace).map_or(Value::Null, number),
        "reached_per_s": number(total.rate()),
        "measured_s": number(total.time.as_secs_f64()),
        "counts": counts(&total.counts),
        "sent_bytes_per_s": number(figures::per_second(total.counts.bytes_sent, total)),
        "received_bytes_per_s": number(figures::per_second(total.counts.bytes_received, total)),
        "hit_ratio": part(total.counts.hit_ratio()),
        "hit_ratio_expected": part(total.counts.hit_ratio_expected()),
        "latency_us": latencies(&total.latency()),
        "by_kind_us": by_kind.map(|(kind, l)| (kind.word().to_string(), latencies(l))).collect::<Map<_, _>>(),
        "service_us": latencies(&total.service),
        "slip_us": latencies(&total.slip),
        "connect_us": latencies(&total.connect),
        "server": run.server.map_or(Value::Null, |server| cost(&server, run)),
        "generator": cost(&run.generator, run),
        "valid": verdict::is_valid(run),
        "faults": run.faults.iter().map(fault).collect::<Vec<_>>(),
        "examples": run.examples,
        "intervals": run.intervals.iter().map(interval).collect::<Vec<_>>(),
    })
}

fn counts(counts: &Counts) -> Value {
    figures::counts(counts)
        .into_iter()
        .map(|(name, number)| (name.to_string(), json!(number)))
        .collect::<Map<_, _>>()
        .into()
}

/// Count, mean, shortest, percentiles and longest; `null` if nothing was recorded.
fn latencies(latencies: &Latencies) -> Value {
    let Some(summary) = Summary::of(latencies) else { return Value::Null };
    let mut value = json!({
        "count": summary.count,
        "mean": us(summary.mean),
        "min": us(summary.min),
        "max": us(summary.max),
    });
    for (percentile, found) in PERCENTILES.into_iter().zip(summary.percentiles) {
        value[format::percentile(percentile)] = us(found);
    }
    value
}

fn cost(cost: &ProcessCost, run: &Run) -> Value {
    json!({
        "pid": cost.pid,
        "cpu_s": number(cost.cpu.as_secs_f64()),
        "cpu_us_per_request": figures::cpu_per_request(cost, run).map_or(Value::Null, us),
        "cores": figures::cores(cost, run).map_or(Value::Null, number),
        "rss_bytes": cost.rss,
        "rss_peak_bytes": cost.rss_peak,
    })
}

fn interval(interval: &Interval) -> Value {
    let sample = &interval.sample;
    json!({
        "at_s": number(interval.at.as_secs_f64()),
        "time_s": number(sample.time.as_secs_f64()),
        "measured": interval.measured,
        "rate_per_s": number(sample.rate()),
        "counts": counts(&sample.counts),
        "latency_us": latencies(&sample.latency()),
        "service_us": latencies(&sample.service),
        "slip_us": latencies(&sample.slip),
    })
}

fn search(search: &Search) -> Value {
    let step = |step: &Step| json!({ "offered_per_s": number(step.rate), "met": step.met, "run": run(&step.run) });
    json!({
        "best_per_s": search.best.map_or(Value::Null, number),
        "best_step": figures::best_step(search),
        "remark": search.remark,
        "steps": search.steps.iter().map(step).collect::<Vec<_>>(),
    })
}

fn comparison(comparison: &Comparison) -> Value {
    let contender = |(index, contender): (usize, &Contender)| {
        json!({
            "name": contender.name,
            "command": contender.command,
            "figures": figures_of(comparison, index),
            "rounds": contender.rounds.iter().map(run).collect::<Vec<_>>(),
        })
    };
    json!({ "contenders": comparison.contenders.iter().enumerate().map(contender).collect::<Vec<_>>() })
}

/// Every figure of one contender under its field.
fn figures_of(comparison: &Comparison, contender: usize) -> Value {
    let figure = |metric: &compare::Metric| {
        let value = match &compare::spreads(metric, comparison)[contender] {
            None => Value::Null,
            Some(spread) => {
                let scaled = |value: f64| part(Some(value * metric.field_scale));
                json!({
                    "median": scaled(spread.median),
                    "min": scaled(spread.min),
                    "max": scaled(spread.max),
                    "ratio_to_first": part(spread.ratio),
                })
            }
        };
        (metric.field.to_string(), value)
    };
    METRICS.iter().map(figure).collect::<Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    fn parsed(report: &Report) -> Value {
        serde_json::from_str(&render(report)).expect("it is JSON")
    }

    #[test]
    fn a_run_reads_back_with_its_numbers() {
        let report = fixture::run_report();
        let Outcome::Run(run) = &report.outcome else { panic!("the fixture is a run") };
        let value = parsed(&report);
        assert_eq!(value["schema"], 1);
        assert_eq!(value["outcome"], "run");
        assert_eq!(value["began_utc"], "2026-04-14T12:00:05Z");
        assert_eq!(value["setup"]["protocol"], "RESP2");
        assert_eq!(value["objectives"][0]["limit_us"], 1000.0);
        assert_eq!(value["verdict"]["result"], "passed");
        let found = &value["run"];
        assert_eq!(found["loop"], "open");
        assert_eq!(found["counts"]["answered"], run.total.counts.answered);
        let latency = run.total.latency();
        assert_eq!(found["latency_us"]["count"], latency.len());
        assert_eq!(found["latency_us"]["p99.9"], latency.value_at_percentile(99.9) as f64 / 1e3);
        assert_eq!(found["by_kind_us"]["set"]["count"], run.total.by_kind[1].len());
        assert!(found["by_kind_us"].get("mget").is_none());
        assert_eq!(found["intervals"].as_array().map(Vec::len), Some(12));
        assert_eq!(found["intervals"][0]["measured"], false);
        assert!(found["server"]["cpu_us_per_request"].as_f64().is_some_and(|us| (4.0..6.0).contains(&us)));
    }

    #[test]
    fn a_closed_loop_offers_nothing_and_slips_by_nothing() {
        let run = &parsed(&fixture::closed_report())["run"];
        assert_eq!(run["loop"], "closed");
        assert!(run["offered_per_s"].is_null() && run["slip_us"].is_null() && run["arrivals"].is_null());
    }

    #[test]
    fn faults_and_examples_are_told_apart() {
        let value = parsed(&fixture::faulty_report());
        assert_eq!(value["verdict"]["result"], "invalid");
        assert_eq!(value["run"]["faults"][1]["kind"], "wrong replies");
        assert!(value["run"]["examples"][0].as_str().is_some_and(|text| text.contains("<script>")));
        assert_eq!(value["run"]["valid"], false);
    }

    #[test]
    fn a_search_names_its_best_step() {
        let search = &parsed(&fixture::search_report())["search"];
        assert_eq!(search["best_per_s"], 240_000.0);
        let best = search["best_step"].as_u64().expect("it has one") as usize;
        assert_eq!(search["steps"][best]["offered_per_s"], 240_000.0);
        assert_eq!(search["steps"][best]["met"], true);
        assert!(search["steps"][4]["run"]["latency_us"]["p99"].is_number());
    }

    #[test]
    fn a_comparison_has_ratios_of_rounds() {
        let report = fixture::comparison_report();
        let Outcome::Comparison(comparison) = &report.outcome else { panic!("the fixture is a comparison") };
        let value = parsed(&report);
        let redis = &value["comparison"]["contenders"][1];
        assert_eq!(redis["name"], "redis");
        let mut ratios: Vec<f64> = comparison.contenders[1]
            .rounds
            .iter()
            .zip(&comparison.contenders[0].rounds)
            .map(|(redis, first)| redis.total.rate() / first.total.rate())
            .collect();
        ratios.sort_by(f64::total_cmp);
        let found = redis["figures"]["requests_per_s"]["ratio_to_first"].as_f64().expect("it is a number");
        assert!((found - ratios[2]).abs() < 1e-6, "{found} is not the median of {ratios:?}");
        assert_eq!(redis["rounds"].as_array().map(Vec::len), Some(5));
    }

    #[test]
    fn every_outcome_reads_back_and_what_was_not_measured_is_null() {
        for report in fixture::all() {
            let value = parsed(&report);
            let outcome = value["outcome"].as_str().expect("it is a word");
            assert!(value[outcome].is_object(), "{outcome}");
        }
        let empty = fixture::nothing(Pace::Open { rate: 1.0, poisson: false });
        let value = parsed(&fixture::report(Outcome::Run(Box::new(empty))));
        assert!(value["run"]["latency_us"].is_null() && value["run"]["server"].is_null());
        assert_eq!(value["run"]["reached_per_s"], 0.0);
    }
}
