//! Times to live: none, fixed, uniform or weighted. Whole milliseconds, never 0.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use ringfence::base::rng::Rng;

use super::weights::{Span, Weighted, parse_parts};

/// The units of a time, the largest first, in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
/// The longest time to live: a hundred years.
const DAYS_MAX: u64 = 36_500;

/// A distribution of times to live. As text: `none`, `60s`, `1s-60s` (uniform) or `60s:80,1h:15,none:5` (weights).
#[derive(Clone, Debug, PartialEq)]
pub struct Ttls(Weighted<Option<Span>>);

impl Ttls {
    /// A time to live by chance; `None` is to live until evicted.
    #[inline]
    pub fn draw(&self, rng: &mut Rng) -> Option<Duration> {
        let (span, within) = self.0.at(rng.next_u64());
        span.map(|span| Duration::from_millis(span.at(within)))
    }
}

fn millis(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "`{text}` is not a time to live: write none, 60s, 1s-60s or 60s:80,1h:15,none:5, in ms, s, m, h or d, \
             from 1ms to {DAYS_MAX}d"
        )
    };
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, unit) = text.split_at(digits);
    let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(wrong)?;
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let millis = (number * *unit as f64).round();
    if (1.0..=(DAYS_MAX * UNITS[0].1) as f64).contains(&millis) { Ok(millis as u64) } else { Err(wrong()) }
}

/// The exact time in the largest unit that divides it.
fn millis_text(millis: u64) -> String {
    let (name, unit) =
        UNITS.into_iter().find(|(_, unit)| millis.is_multiple_of(*unit)).expect("1 ms divides every time");
    format!("{}{name}", millis / unit)
}

impl FromStr for Ttls {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let part = |part: &str| match part {
            "none" => Ok(None),
            span => Span::parse(span, millis).map(Some),
        };
        parse_parts(text, "60s:80,1h:15,none:5", part).and_then(Weighted::new).map(Self)
    }
}

impl fmt::Display for Ttls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text(|span| span.map_or_else(|| "none".to_owned(), |span| span.text(millis_text))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ttls(text: &str) -> Ttls {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn texts_read_back() {
        for (text, printed) in [
            ("none", "none"),
            ("60s", "1m"),
            ("90s", "90s"),
            ("250ms", "250ms"),
            ("1.8h", "108m"),
            ("1s-60s", "1s-1m"),
            ("60s:80, 1h:15, none:5", "1m:80,1h:15,none:5"),
            ("1d:1,500ms-2s:0.5", "1d:1,500ms-2s:0.5"),
        ] {
            assert_eq!(ttls(text).to_string(), printed);
            assert_eq!(ttls(printed).to_string(), printed);
        }
    }

    #[test]
    fn wrong_texts_are_refused_with_the_remedy() {
        for (text, part) in [
            ("", "write none, 60s"),
            ("60", "in ms, s, m, h or d"),
            ("60w", "in ms, s, m, h or d"),
            ("0s", "from 1ms"),
            ("99999d", "to 36500d"),
            ("60s,none", "write for example 60s:80"),
            ("60s-1s", "smaller bound first"),
            ("none:0", "above 0"),
        ] {
            let error = text.parse::<Ttls>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn times_come_by_weight_and_within_their_ranges() {
        let (ttls, mut rng) = (ttls("1s-3s:80,1h:15,none:5"), Rng::new(1));
        const DRAWS: usize = 200_000;
        let (mut short, mut long, mut none, mut sum) = (0, 0, 0, 0.0);
        for _ in 0..DRAWS {
            match ttls.draw(&mut rng) {
                None => none += 1,
                Some(ttl) if ttl == Duration::from_secs(3600) => long += 1,
                Some(ttl) => {
                    assert!((Duration::from_secs(1)..=Duration::from_secs(3)).contains(&ttl), "{ttl:?}");
                    short += 1;
                    sum += ttl.as_secs_f64();
                }
            }
        }
        for (count, share) in [(short, 0.8), (long, 0.15), (none, 0.05)] {
            let seen = f64::from(count) / DRAWS as f64;
            assert!((seen - share).abs() < 0.005, "{share}: {seen}");
        }
        let mean = sum / f64::from(short);
        assert!((mean - 2.0).abs() < 0.01, "{mean}");
    }

    #[test]
    fn none_is_no_time() {
        assert_eq!(ttls("none").draw(&mut Rng::new(1)), None);
    }
}
