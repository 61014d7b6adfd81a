//! Scales and their ticks. Whatever comes in, a place on an axis is a number from 0 to 1.

/// From this ratio of the highest latency to the lowest on, an axis is logarithmic.
pub const LOG_FROM: f64 = 6.0;

/// How values are spread over an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// By their logarithm.
    Log,
}

/// The values that an axis spans, and how.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    scale: Scale,
    min: f64,
    max: f64,
    /// The distance of the ticks that `max` was chosen for, of a linear axis.
    step: Option<f64>,
}

impl Axis {
    /// An axis over exactly these values. What cannot be spanned, such as nothing at all, becomes a unit.
    pub fn exact(scale: Scale, min: f64, max: f64) -> Self {
        let min = if scale == Scale::Log { min.max(1e-9) } else { min };
        let fits = min.is_finite() && max.is_finite() && max > min;
        let (min, max) = match (fits, scale) {
            (true, _) => (min, max),
            (false, Scale::Linear) => (0.0, 1.0),
            (false, Scale::Log) => (1.0, 10.0),
        };
        Self { scale, min, max, step: None }
    }

    /// A linear axis from 0 to a round number above `max`, with a tick about every `gap` of its `length` pixels.
    pub fn from_zero(max: f64, length: f64, gap: f64) -> Self {
        let step = round_up(max / (length / gap).max(1.0));
        let steps = (max / step - 1e-9).ceil();
        Self { step: Some(step), ..Self::exact(Scale::Linear, 0.0, steps * step) }
    }

    /// An axis for values that are all above 0: logarithmic between round numbers if they differ
    /// by a factor of `threshold` or more, else linear from 0.
    pub fn fitting(values: impl Iterator<Item = f64>, threshold: f64, length: f64, gap: f64) -> Self {
        let positive = values.filter(|value| value.is_finite() && *value > 0.0);
        let span = positive.fold(None, |span: Option<(f64, f64)>, value| {
            let (min, max) = span.unwrap_or((value, value));
            Some((min.min(value), max.max(value)))
        });
        match span {
            Some((min, max)) if max >= min * threshold => Self::exact(Scale::Log, round_down(min), round_up(max)),
            Some((_, max)) => Self::from_zero(max * 1.05, length, gap),
            None => Self::exact(Scale::Linear, 0.0, 0.0),
        }
    }

    /// The place of `value`: 0 at the low end, 1 at the high one; beyond them, at the end.
    pub fn place(&self, value: f64) -> f64 {
        let place = match self.scale {
            Scale::Linear => (value - self.min) / (self.max - self.min),
            Scale::Log => (value.max(1e-9) / self.min).ln() / (self.max / self.min).ln(),
        };
        if place.is_finite() { place.clamp(0.0, 1.0) } else { 0.0 }
    }

    /// The highest value.
    pub fn max(&self) -> f64 {
        self.max
    }

    /// The value at a place from 0 to 1.
    pub fn value(&self, place: f64) -> f64 {
        match self.scale {
            Scale::Linear => self.min + place * (self.max - self.min),
            Scale::Log => self.min * (self.max / self.min).powf(place),
        }
    }

    /// Round values with at least `gap` of the `length` pixels between two of them, as far as there are such.
    pub fn ticks(&self, length: f64, gap: f64) -> Vec<f64> {
        let most = (length / gap).max(1.0);
        match self.scale {
            Scale::Linear => self.even_ticks(most),
            Scale::Log => self.log_ticks(most),
        }
    }

    fn even_ticks(&self, most: f64) -> Vec<f64> {
        let step = self.step.unwrap_or_else(|| round_up((self.max - self.min) / most));
        let first = (self.min / step - 1e-9).ceil() as i64;
        let last = (self.max / step + 1e-9).floor() as i64;
        (first..=last).map(|n| n as f64 * step).collect()
    }

    /// 1, 2 and 5 of each decade; or only 1; or 1 of every second, third, … decade.
    fn log_ticks(&self, most: f64) -> Vec<f64> {
        let decades = (self.min.log10() - 1e-9).floor() as i32..=self.max.log10().ceil() as i32;
        let of = |digits: &[f64], every: i32| -> Vec<f64> {
            let decades = decades.clone().filter(|decade| decade.rem_euclid(every) == 0);
            let all = decades.flat_map(|decade| digits.iter().map(move |digit| digit * 10f64.powi(decade)));
            all.filter(|tick| (self.min * (1.0 - 1e-9)..=self.max * (1.0 + 1e-9)).contains(tick)).collect()
        };
        let fine = of(&[1.0, 2.0, 5.0], 1);
        if fine.len() as f64 <= most {
            return fine;
        }
        (1..).map(|every| of(&[1.0], every)).find(|ticks| ticks.len() as f64 <= most).unwrap_or_default()
    }
}

/// The least of 1, 2, 5 times a power of ten that is not below `value`; 1 for what is not above 0.
fn round_up(value: f64) -> f64 {
    if !(value.is_finite() && value > 0.0) {
        return 1.0;
    }
    let decade = 10f64.powf(value.log10().floor());
    let digit = [1.0, 2.0, 5.0].into_iter().find(|digit| digit * decade >= value * (1.0 - 1e-9));
    digit.unwrap_or(10.0) * decade
}

/// The greatest of 1, 2, 5 times a power of ten that is not above `value`, which is above 0.
fn round_down(value: f64) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    let digit = [5.0, 2.0, 1.0].into_iter().find(|digit| digit * decade <= value * (1.0 + 1e-9));
    digit.unwrap_or(1.0) * decade
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_numbers_are_1_2_5() {
        for (value, up, down) in [(1.0, 1.0, 1.0), (3.0, 5.0, 2.0), (7.0, 10.0, 5.0), (120.0, 200.0, 100.0)] {
            assert_eq!((round_up(value), round_down(value)), (up, down));
        }
        assert_eq!(round_up(f64::NAN), 1.0);
        assert_eq!(round_up(0.0), 1.0);
    }

    #[test]
    fn a_linear_axis_ends_at_a_round_number_above_the_highest() {
        let axis = Axis::from_zero(213_000.0, 200.0, 40.0);
        assert_eq!(axis.max(), 250_000.0);
        assert_eq!(axis.ticks(200.0, 40.0), [0.0, 50_000.0, 100_000.0, 150_000.0, 200_000.0, 250_000.0]);
        assert_eq!(axis.place(125_000.0), 0.5);
    }

    #[test]
    fn a_wide_range_is_logarithmic_between_round_numbers() {
        let axis = Axis::fitting([80e3, 2.3e6].into_iter(), 8.0, 300.0, 30.0);
        assert_eq!(axis.ticks(300.0, 30.0), [50e3, 100e3, 200e3, 500e3, 1e6, 2e6, 5e6]);
        assert_eq!(axis.ticks(80.0, 30.0), [100e3, 1e6], "too narrow for more");
        assert!((axis.value(axis.place(1e6)) / 1e6 - 1.0).abs() < 1e-9);
        assert_eq!(axis.place(10e6), 1.0);
    }

    #[test]
    fn a_narrow_range_starts_at_zero() {
        let axis = Axis::fitting([80e3, 120e3].into_iter(), 8.0, 300.0, 50.0);
        assert_eq!(axis.place(0.0), 0.0);
        assert_eq!(axis.value(0.0), 0.0);
    }

    #[test]
    fn nothing_to_span_still_has_places_and_ticks() {
        let nothing = [
            Axis::fitting(std::iter::empty(), 8.0, 300.0, 50.0),
            Axis::exact(Scale::Log, 0.0, 0.0),
            Axis::exact(Scale::Linear, f64::NAN, f64::INFINITY),
            Axis::from_zero(0.0, 100.0, 40.0),
        ];
        for axis in nothing {
            for value in [0.0, 1.0, f64::NAN, f64::INFINITY, -1.0] {
                assert!((0.0..=1.0).contains(&axis.place(value)), "{axis:?} places {value}");
            }
            assert!(axis.ticks(100.0, 40.0).iter().all(|tick| tick.is_finite()), "{axis:?}");
        }
    }
}
