//! Choosing among weighted parts by one 64-bit number, and the ranges that parts
//! are made of.
//!
//! The numbers below 2^64 are shared out among the parts in order, so that equal
//! numbers choose equal parts and a uniform number chooses each part by its weight.

/// The largest weight, so that sums of weights stay finite.
const WEIGHT_MAX: f64 = 1e15;

/// The number in `[0, 1)` that is `point` of 2^64.
#[inline]
pub fn unit(point: u64) -> f64 {
    (point >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// Parses a weight.
///
/// # Errors
/// A sentence that says what a weight looks like.
pub fn parse_weight(text: &str) -> Result<f64, String> {
    let weight = text.trim().parse().ok().filter(|w| (0.0..=WEIGHT_MAX).contains(w));
    weight.ok_or_else(|| format!("`{text}` is not a weight: write a number that is not negative, such as 10 or 0.5"))
}

/// Parses `item`, or `item:weight,item:weight,…`.
///
/// # Errors
/// The sentence of `item`, or one about a weight that is missing or wrong, with `example` as the remedy.
pub fn parse_parts<T>(
    text: &str,
    example: &str,
    item: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<(T, f64)>, String> {
    let alone = !text.contains(',');
    let parts = text.split(',').map(str::trim).map(|piece| match piece.rsplit_once(':') {
        Some((name, weight)) => Ok((item(name.trim())?, parse_weight(weight)?)),
        None if alone => Ok((item(piece)?, 1.0)),
        None => Err(format!("`{piece}` in `{text}` has no weight: write for example {example}")),
    });
    parts.collect()
}

#[derive(Clone, Debug, PartialEq)]
struct Part<T> {
    item: T,
    weight: f64,
    /// The numbers that choose this part.
    first: u64,
    last: u64,
    /// 1 / how many numbers those are.
    scale: f64,
}

/// Items with weights. There is at least one item, and every weight is above 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighted<T> {
    parts: Vec<Part<T>>,
}

impl<T> Weighted<T> {
    /// The items whose weight is above 0, in their order.
    ///
    /// # Errors
    /// A sentence if there is none.
    pub fn new(items: Vec<(T, f64)>) -> Result<Self, String> {
        let items: Vec<_> = items.into_iter().filter(|(_, weight)| *weight > 0.0).collect();
        let total: f64 = items.iter().map(|(_, weight)| weight).sum();
        let Some(end) = items.len().checked_sub(1) else {
            return Err("all weights are 0: give at least one part a weight above 0".to_owned());
        };
        let (mut first, mut sum) = (0u64, 0.0);
        let part = |(i, (item, weight))| {
            sum += weight;
            // Whatever rounding leaves over belongs to the last part.
            let bound = if i == end { u64::MAX } else { (sum / total * u64::MAX as f64) as u64 };
            let part =
                Part { item, weight, first, last: bound, scale: 1.0 / ((bound.max(first) - first) as f64 + 1.0) };
            first = bound.saturating_add(1);
            part
        };
        Ok(Self { parts: items.into_iter().enumerate().map(part).collect() })
    }

    /// The item that `point` chooses, and how far into the item's numbers it lies: from 0 to 1.
    #[inline]
    pub fn at(&self, point: u64) -> (&T, f64) {
        let mut i = 0;
        while self.parts[i].last < point {
            i += 1;
        }
        let part = &self.parts[i];
        (&part.item, (point - part.first) as f64 * part.scale)
    }

    /// The items with their weights.
    pub fn weights(&self) -> impl Iterator<Item = (&T, f64)> {
        self.parts.iter().map(|part| (&part.item, part.weight))
    }

    /// The items, each with its part of the whole.
    pub fn shares(&self) -> impl Iterator<Item = (&T, f64)> {
        let total: f64 = self.weights().map(|(_, weight)| weight).sum();
        self.weights().map(move |(item, weight)| (item, weight / total))
    }

    /// The text that [`parse_parts`] reads, with `item` for the text of an item.
    pub fn text(&self, item: impl Fn(&T) -> String) -> String {
        if let [only] = &self.parts[..] {
            return item(&only.item);
        }
        let parts: Vec<_> = self.weights().map(|(name, weight)| format!("{}:{weight}", item(name))).collect();
        parts.join(",")
    }
}

/// The whole numbers from `low` to `high`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The least.
    pub low: u64,
    /// The greatest.
    pub high: u64,
}

impl Span {
    /// Parses `low-high`, or one number for both.
    ///
    /// # Errors
    /// The sentence of `number`, or one about bounds in the wrong order.
    pub fn parse(text: &str, number: impl Fn(&str) -> Result<u64, String>) -> Result<Self, String> {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let span = Self { low: number(low.trim())?, high: number(high.trim())? };
        if span.low > span.high {
            return Err(format!("`{text}` is an empty range: write the smaller bound first, as in {high}-{low}"));
        }
        Ok(span)
    }

    /// The number at `within` of the span, from 0 to 1.
    #[inline]
    pub fn at(self, within: f64) -> u64 {
        let width = self.high - self.low;
        if width == 0 {
            return self.low;
        }
        // The product may round up to the width and one.
        self.low + ((within * (width as f64 + 1.0)) as u64).min(width)
    }

    /// The text that [`Span::parse`] reads, with `number` for the text of a number.
    pub fn text(self, number: impl Fn(u64) -> String) -> String {
        if self.low == self.high { number(self.low) } else { format!("{}-{}", number(self.low), number(self.high)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shared_out_by_weight_and_in_order() {
        let weighted = Weighted::new(vec![('a', 1.0), ('b', 0.0), ('c', 2.0), ('d', 1.0)]).unwrap();
        let quarter = 1u64 << 62;
        let chosen = |point| *weighted.at(point).0;
        assert_eq!([chosen(0), chosen(quarter - 1000), chosen(quarter + 1000)], ['a', 'a', 'c']);
        assert_eq!([chosen(3 * quarter - 1000), chosen(3 * quarter + 1000), chosen(u64::MAX)], ['c', 'd', 'd']);
        assert_eq!(weighted.shares().collect::<Vec<_>>(), [(&'a', 0.25), (&'c', 0.5), (&'d', 0.25)]);
        let (_, middle) = weighted.at(2 * quarter);
        assert!((middle - 0.5).abs() < 1e-9, "{middle}");
    }

    #[test]
    fn a_weight_too_small_for_64_bits_does_no_harm() {
        let weighted = Weighted::new(vec![('a', 1e-9), ('b', 1e15), ('c', 1e-9)]).unwrap();
        for point in [0, 1, 2, 1 << 40, u64::MAX - 1, u64::MAX] {
            let (_, within) = weighted.at(point);
            assert!((0.0..=1.0).contains(&within), "{within}");
        }
        assert_eq!(*weighted.at(1 << 40).0, 'b');
    }

    #[test]
    fn spans_reach_both_bounds_and_stay_within_them() {
        let span = Span { low: 3, high: 5 };
        assert_eq!([0.0, 0.34, 0.99, 1.0].map(|within| span.at(within)), [3, 4, 5, 5]);
        let number = |text: &str| text.parse().map_err(|_| format!("`{text}` is not a number"));
        assert_eq!(Span::parse("3-5", number), Ok(span));
        assert_eq!(span.text(|n| n.to_string()), "3-5");
        let error = Span::parse("5-3", number).unwrap_err();
        assert!(error.contains("3-5"), "{error}");
    }

    #[test]
    fn wrong_lists_are_refused_with_the_remedy() {
        let parse = |text: &str| parse_parts(text, "a:1,b:2", |item| Ok(item.to_owned())).and_then(Weighted::new);
        assert_eq!(parse(" a : 1 , b:2").unwrap().text(String::clone), "a:1,b:2");
        assert!(parse("a,b:2").unwrap_err().contains("write for example a:1,b:2"));
        assert!(parse("a:x,b:2").unwrap_err().contains("`x` is not a weight"));
        for weight in ["-1", "NaN", "inf", "1e300", ""] {
            assert!(parse(&format!("a:{weight},b:1")).is_err(), "{weight} was taken for a weight");
        }
        assert!(parse("a:0,b:0").unwrap_err().contains("above 0"));
    }
}
