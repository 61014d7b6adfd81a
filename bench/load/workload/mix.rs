//! The mix of operations: which kind of request comes how often.

use std::fmt;
use std::str::FromStr;

use ringfence::base::rng::Rng;

use super::weights::{Weighted, parse_weight};
use crate::outcome::Kind;

/// Kinds of requests with weights. As text: `get=10,set=1,delete=1,mget=1`; what is not named does not come.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix(Weighted<Kind>);

impl Mix {
    /// A kind by chance.
    #[inline]
    pub fn draw(&self, rng: &mut Rng) -> Kind {
        *self.0.at(rng.next_u64()).0
    }

    /// The part of all requests that are of this kind, from 0 to 1.
    pub fn share(&self, kind: Kind) -> f64 {
        self.0.shares().find(|(named, _)| **named == kind).map_or(0.0, |(_, share)| share)
    }

    /// Whether anything is read.
    pub fn reads(&self) -> bool {
        self.share(Kind::Get) + self.share(Kind::Mget) > 0.0
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut weights: [Option<f64>; Kind::ALL.len()] = [None; Kind::ALL.len()];
        for piece in text.split(',').map(str::trim) {
            let wrong = || format!("`{piece}` is not part of a mix: write weights as in get=10,set=1,delete=1,mget=1");
            let (word, weight) = piece.split_once('=').ok_or_else(wrong)?;
            let kind = Kind::ALL.iter().position(|kind| kind.word() == word.trim()).ok_or_else(wrong)?;
            if weights[kind].replace(parse_weight(weight)?).is_some() {
                return Err(format!("`{text}` names {} twice: add its weights up", word.trim()));
            }
        }
        let named = Kind::ALL.into_iter().zip(weights).filter_map(|(kind, weight)| Some((kind, weight?)));
        Weighted::new(named.collect()).map(Self)
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.0.weights().map(|(kind, weight)| format!("{}={weight}", kind.word())).collect();
        f.write_str(&parts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix(text: &str) -> Mix {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn texts_read_back() {
        for (text, printed) in [
            ("get=10,set=1,delete=1,mget=1", "get=10,set=1,delete=1,mget=1"),
            ("set = 0.5, get=9.5", "get=9.5,set=0.5"),
            ("get=1", "get=1"),
            ("get=1,delete=0", "get=1"),
        ] {
            assert_eq!(mix(text).to_string(), printed);
            assert_eq!(mix(printed), mix(text));
        }
    }

    #[test]
    fn wrong_texts_are_refused_with_the_remedy() {
        for (text, part) in [
            ("", "write weights as in get=10"),
            ("get", "write weights as in get=10"),
            ("read=1", "write weights as in get=10"),
            ("get=many", "`many` is not a weight"),
            ("get=-1", "`-1` is not a weight"),
            ("get=1,get=2", "names get twice"),
            ("get=0", "above 0"),
        ] {
            let error = text.parse::<Mix>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn kinds_come_by_their_shares() {
        const DRAWS: usize = 200_000;
        let (mix, mut rng) = (mix("get=80,set=10,delete=5,mget=5"), Rng::new(1));
        let mut counts = [0; Kind::ALL.len()];
        (0..DRAWS).for_each(|_| counts[mix.draw(&mut rng) as usize] += 1);
        for (kind, count) in Kind::ALL.into_iter().zip(counts) {
            let seen = f64::from(count) / DRAWS as f64;
            assert!((seen - mix.share(kind)).abs() < 0.005, "{kind:?}: {seen}");
        }
        assert!((mix.share(Kind::Get) - 0.8).abs() < 1e-12);
    }

    #[test]
    fn a_mix_without_reads_says_so() {
        assert!(mix("get=1,set=1").reads() && mix("mget=1").reads());
        assert!(!mix("set=3,delete=1").reads() && !mix("set=1,get=0").reads());
        assert_eq!(mix("set=1").share(Kind::Get), 0.0);
    }
}
