//! How numbers are written for people: few digits, a unit at each, and never `NaN` or `inf`.

use std::time::Duration;

use ringfence::base::units::format_size;

/// What stands in place of a number that there is not.
pub const NONE: &str = "–";

/// `value` rounded to three significant digits. Not finite becomes 0.
fn rounded(value: f64) -> f64 {
    if value.is_finite() { format!("{value:.2e}").parse().unwrap_or(0.0) } else { 0.0 }
}

/// The power of ten of the first digit of a number that has been rounded; 0 for 0.
fn magnitude(rounded: f64) -> i32 {
    if rounded == 0.0 { 0 } else { rounded.abs().log10().floor() as i32 }
}

/// Three significant digits without an exponent: `0.0123`, `1.23`, `12.3`, `123`, `1230`.
pub fn significant(value: f64) -> String {
    let rounded = rounded(value);
    let decimals = (2 - magnitude(rounded)).clamp(0, 9) as usize;
    if rounded == 0.0 { "0".into() } else { format!("{rounded:.decimals$}") }
}

/// The same without zeros at the end: `1.5`, `12`, `0.02`.
fn trimmed(value: f64) -> String {
    let text = significant(value);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

/// The unit in which so many nanoseconds are written, and how many nanoseconds it has.
fn time_unit(ns: f64) -> (&'static str, f64) {
    match rounded(ns).abs() {
        ns if ns < 1e6 => ("µs", 1e3),
        ns if ns < 1e9 => ("ms", 1e6),
        _ => ("s", 1e9),
    }
}

/// Nanoseconds in µs, ms or s with three significant digits: `812 µs`, `1.23 ms`.
pub fn duration(ns: f64) -> String {
    let (unit, size) = time_unit(ns);
    format!("{} {unit}", significant(ns / size))
}

/// The same as short as it goes, for limits and ticks: `1 ms`, `2.5 s`, `0`.
pub fn duration_short(ns: f64) -> String {
    let (unit, size) = time_unit(ns);
    if rounded(ns) == 0.0 { "0".into() } else { format!("{} {unit}", trimmed(ns / size)) }
}

/// A bound as it was set: `1 ms`.
pub fn limit(limit: Duration) -> String {
    duration_short(limit.as_secs_f64() * 1e9)
}

/// Seconds with three significant digits: `30.0 s`.
pub fn seconds(time: Duration) -> String {
    format!("{} s", significant(time.as_secs_f64()))
}

/// A whole number in groups of three digits: `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number per second, whole from 100 on: `201,600`, `12.5`.
pub fn rate(per_second: f64) -> String {
    if per_second >= 99.95 && per_second.is_finite() { count(per_second.round() as u64) } else { trimmed(per_second) }
}

/// A number with a prefix for thousands, for ticks: `200k`, `1.5M`.
pub fn short(number: f64) -> String {
    match number.abs() {
        n if n >= 1e9 => format!("{}G", trimmed(number / 1e9)),
        n if n >= 1e6 => format!("{}M", trimmed(number / 1e6)),
        n if n >= 1e3 => format!("{}k", trimmed(number / 1e3)),
        _ => trimmed(number),
    }
}

/// A size in bytes: `1.50 GiB`.
pub fn size(bytes: f64) -> String {
    format_size(if bytes.is_finite() { bytes.round() as u64 } else { 0 })
}

/// A part of one with two decimals: `95.12 %`.
pub fn part(part: f64) -> String {
    format!("{:.2} %", if part.is_finite() { part * 100.0 } else { 0.0 })
}

/// Cores in use as a percentage of one: `194 %`.
pub fn cpu_percent(cores: f64) -> String {
    format!("{:.0} %", if cores.is_finite() { cores * 100.0 } else { 0.0 })
}

/// A percentile's name: `p50`, `p99.9`.
pub fn percentile(percentile: f64) -> String {
    if percentile == 100.0 { "max".into() } else { format!("p{percentile}") }
}

/// What a formatter makes of a number, or the dash that says there is none.
pub fn maybe(number: Option<f64>, show: fn(f64) -> String) -> String {
    number.map_or_else(|| NONE.into(), show)
}

/// A noun with its number: `1 error`, `2 errors`.
pub fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Text from elsewhere without control characters, so that it cannot steer a terminal.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Seconds since the Unix epoch as a date and time: `2026-04-14 12:00:05`.
pub fn utc(seconds: u64) -> String {
    let (year, month, day) = civil(seconds / 86_400);
    let time = seconds % 86_400;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", time / 3600, time / 60 % 60, time % 60)
}

/// The Gregorian date of a day, counted from 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    // Years begin in March here, so that the leap day is the last of its year.
    let days = days + 719_468;
    let era = days / 146_097;
    let day = days % 146_097;
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let in_month = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + carry, month, in_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits_and_the_unit_that_suits_them() {
        for (ns, text) in [
            (0.0, "0 µs"),
            (388.0, "0.388 µs"),
            (4_860.0, "4.86 µs"),
            (112_400.0, "112 µs"),
            (999_400.0, "999 µs"),
            (999_600.0, "1.00 ms"),
            (9_996_000.0, "10.0 ms"),
            (1_234_000_000.0, "1.23 s"),
            (60e9, "60.0 s"),
            (f64::NAN, "0 µs"),
            (f64::INFINITY, "0 µs"),
        ] {
            assert_eq!(duration(ns), text);
        }
    }

    #[test]
    fn ticks_and_limits_have_no_digit_too_many() {
        assert_eq!(duration_short(1e6), "1 ms");
        assert_eq!(duration_short(2.5e9), "2.5 s");
        assert_eq!(duration_short(0.0), "0");
        assert_eq!(limit(Duration::from_micros(500)), "500 µs");
        assert_eq!(short(200_000.0), "200k");
        assert_eq!(short(1.5e6), "1.5M");
        assert_eq!(short(50.0), "50");
    }

    #[test]
    fn counts_and_rates_are_grouped() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(rate(199_999.6), "200,000");
        assert_eq!(rate(12.5), "12.5");
        assert_eq!(rate(f64::INFINITY), "0");
        assert_eq!(counted(1, "error"), "1 error");
        assert_eq!(counted(2_000, "error"), "2,000 errors");
    }

    #[test]
    fn moments_are_dates() {
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(utc(1_776_168_005), "2026-04-14 12:00:05");
        assert_eq!(utc(4_107_542_399), "2100-02-28 23:59:59");
    }

    #[test]
    fn control_characters_do_not_get_through() {
        assert_eq!(plain("a\x1b[31mb\r\n"), "a\u{fffd}[31mb\u{fffd}\u{fffd}");
    }
}
