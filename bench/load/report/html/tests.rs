//! Pages as a whole: what they say, and that they are well formed and alone.

use super::*;
use crate::report::fixture;

/// Elements that have no end tag.
const VOID: [&str; 2] = ["meta", "!DOCTYPE"];

/// Fails unless every start tag has its end tag, in order.
fn assert_balanced(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let without_style = page.split("<style>").flat_map(|part| part.rsplit("</style>").next());
    let tags: Vec<&str> = without_style
        .flat_map(|part| part.split('<').skip(1))
        .map(|part| part.split_once('>').expect("every tag ends").0)
        .collect();
    for tag in tags {
        let name = tag.trim_start_matches('/').split(|c: char| c.is_whitespace() || c == '/').next().unwrap_or("");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "an end tag without its start");
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
}

#[test]
fn every_page_is_well_formed_and_needs_nothing_else() {
    for report in fixture::all() {
        let page = render(&report);
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
        assert_balanced(&page);
        for reference in ["http://", "https://", "src=", "href=", "url(", "@import", "<script", "<link"] {
            assert!(!page.contains(reference), "a page has {reference}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf "), "a number is not finite");
    }
}

#[test]
fn coordinates_are_numbers_within_the_plot() {
    for report in fixture::all() {
        let page = render(&report);
        for attribute in [" x=\"", " y=\"", " cx=\"", " cy=\"", " width=\"", " height=\""] {
            for value in page.split(attribute).skip(1).filter_map(|rest| rest.split('"').next()) {
                let number: f64 = value.trim_end_matches('%').parse().unwrap_or_else(|_| panic!("{attribute}{value}"));
                assert!((-1.0..=1000.0).contains(&number), "{attribute}{number}");
            }
        }
    }
}

#[test]
fn a_run_shows_its_verdict_figures_and_plots() {
    let page = render(&fixture::run_report());
    for text in [
        "<h1>Load on 127.0.0.1:6379</h1>",
        "Valid, objective met: p99.9 ≤ 1 ms",
        "2026-04-14 12:00:05 UTC",
        "Latency by percentile",
        "Throughput over time",
        "Latency over time",
        "class=\"unmeasured\"",
        "class=\"forbidden\"",
        "Zipf 0.99",
        "<th scope=\"row\" class=\"word\">slip</th>",
    ] {
        assert!(page.contains(text), "no {text}");
    }
}

#[test]
fn what_others_wrote_is_escaped() {
    let page = render(&fixture::faulty_report());
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(page.contains("&amp; &quot;refused&quot;"));
    assert!(page.contains("verdict bad") && page.contains("Not valid"));
    let mut report = fixture::comparison_report();
    let Outcome::Comparison(comparison) = &mut report.outcome else { panic!("the fixture is a comparison") };
    comparison.contenders[0].name = "<b>\"'&".into();
    let page = render(&report);
    assert_balanced(&page);
    assert!(!page.contains("<b>\"'&") && page.contains("&lt;b&gt;&quot;&#39;&amp;"));
}

#[test]
fn words_become_a_sentence() {
    assert_eq!(sentence("valid, objective met: p99 <= 1 ms"), "Valid, objective met: p99 ≤ 1 ms");
    assert_eq!(sentence(""), "");
}

#[test]
fn a_search_shows_its_curve_and_the_run_that_confirmed_it() {
    let page = render(&fixture::search_report());
    for text in [
        "240,000 requests/s meet p99.9 ≤ 1 ms",
        "Latency by load",
        "Loads tried",
        "The run at 240,000 requests/s",
        ">best<",
    ] {
        assert!(page.contains(text), "no {text}");
    }
}

#[test]
fn a_comparison_shows_bars_ratios_and_commands() {
    let page = render(&fixture::comparison_report());
    for text in [
        "<h1>ringfence, redis and memcached</h1>",
        "less is better",
        "ratios to ringfence",
        "redis-server --port 6402",
        "coordinated omission",
    ] {
        assert!(page.contains(text), "no {text}");
    }
    assert_eq!(page.matches("class=\"bars\"").count(), 1);
}
