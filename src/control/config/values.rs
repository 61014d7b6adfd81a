//! The kinds of value that settings have. Each is written as people write it and
//! prints back the way it was meant, so that a printed configuration parses again.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::ranges::{format_list, format_ranges, parse_ranges};
use crate::base::{SLOT_COUNT, units};
use crate::engine::Policy;

/// A value's text on the right of `=`, or `None` for one that is not set.
pub(super) trait TomlText {
    fn toml_text(&self) -> Option<String>;
}

impl TomlText for bool {
    fn toml_text(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// A number of bytes: `"64MB"`, or a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// So many bytes times 1024².
    pub(super) const fn mb(n: u64) -> Self {
        Self(n << 20)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        units::parse_size(text).map(Self)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TB"), (30, "GB"), (20, "MB"), (10, "KB")];
        match units.into_iter().find(|(shift, _)| self.0 != 0 && self.0.is_multiple_of(1 << shift)) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Memory: a part of what the host has, `"80%"`, or a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// A part of what the host has.
    Percent(u8),
    /// So many bytes.
    Bytes(u64),
}

impl Memory {
    /// The bytes that this means on a host that has `total`.
    pub fn of(self, total: u64) -> u64 {
        match self {
            // Divided first by u128, or 80 % of a very large total would wrap.
            Self::Percent(percent) => (u128::from(total) * u128::from(percent) / 100) as u64,
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(number) = text.trim().strip_suffix('%') else {
            return units::parse_size(text).map(Self::Bytes).map_err(|e| format!("{e}, or a part such as 80%"));
        };
        match number.trim().parse() {
            Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
            _ => Err(format!("`{text}` is not a part of the memory: write a whole number from 1% to 100%")),
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(bytes) => Size(*bytes).fmt(f),
        }
    }
}

/// A part of something: `"5%"`, `"0.5%"`. In parts of a million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part(pub u32);

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
        match number {
            Some(percent) if (0.0..=100.0).contains(&percent) => Ok(Self((percent * 10_000.0).round() as u32)),
            _ => Err(format!("`{text}` is not a part: write a number from 0% to 100%, such as 5%")),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 10_000.0)
    }
}

/// A length of time: `"30s"`, `"250us"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Units of time in nanoseconds, longest first. `µs` is read too.
const TIME_UNITS: [(&str, u64); 6] =
    [("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1000), ("ns", 1)];

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is not a length of time: write a whole number and a unit, such as 20us or 30s");
        let trimmed = text.trim();
        let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = trimmed.split_at(digits);
        let unit = unit.trim().replace('µ', "u");
        let (_, ns) = TIME_UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(ns).map(|ns| Self(Duration::from_nanos(ns))).ok_or_else(wrong)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.as_nanos();
        match TIME_UNITS.into_iter().find(|(_, unit)| ns != 0 && ns.is_multiple_of(u128::from(*unit))) {
            Some((name, unit)) => write!(f, "{}{name}", ns / u128::from(unit)),
            None => f.write_str("0s"),
        }
    }
}

/// Which CPUs: `"auto"`, `"2-15"`, `"0,2,4"` or `[2, 4, 6]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CpuList {
    /// Every CPU that the process may run on, but for the control thread's.
    Auto,
    /// These, in this order: the first is core 0.
    These(Vec<usize>),
}

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "auto" {
            return Ok(Self::Auto);
        }
        let ranges = parse_ranges(text).filter(|ranges| !ranges.is_empty()).ok_or_else(|| {
            format!("`{text}` is not a list of CPUs: write \"auto\", \"2-15\", \"0,2,4\" or [2, 4, 6]")
        })?;
        let cpus: Vec<usize> = ranges.into_iter().flat_map(|(first, last)| first..=last).collect();
        match cpus.iter().enumerate().find(|(i, cpu)| cpus[..*i].contains(cpu)) {
            Some((_, cpu)) => Err(format!("CPU {cpu} is listed twice")),
            None => Ok(Self::These(cpus)),
        }
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::These(cpus) => f.write_str(&format_list(cpus)),
        }
    }
}

/// Hash slots, as sorted ranges that do not touch: `"6144-8191"`, `"0-99,200-299"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotList(pub Vec<(u16, u16)>);

impl FromStr for SlotList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut ranges = parse_ranges(text)
            .filter(|ranges| !ranges.is_empty())
            .ok_or_else(|| format!("`{text}` is not a list of slots: write ranges such as \"0-99,200-299\""))?;
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::new();
        for (first, last) in ranges {
            if last >= SLOT_COUNT {
                return Err(format!("there is no slot {last}: slots are 0 to {}", SLOT_COUNT - 1));
            }
            let (first, last) = (first as u16, last as u16);
            match merged.last_mut() {
                Some(before) if first <= before.1 => return Err(format!("slot {first} is listed twice")),
                Some(before) if first == before.1 + 1 => before.1 = last,
                _ => merged.push((first, last)),
            }
        }
        Ok(Self(merged))
    }
}

impl fmt::Display for SlotList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_ranges(&self.0))
    }
}

/// Declares a setting that is one of a few words.
macro_rules! choices {
    ($($(#[doc = $about:literal])+ $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $word:literal,)+ })+) => { $(
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $doc])+ $variant,)+ }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text { $($word => Ok(Self::$variant),)+ _ => Err(format!("`{text}` is none of: {}", [$($word),+].join(", "))) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word,)+ })
            }
        }
    )+ };
}

choices! {
    /// What a core does when it has nothing to do.
    Idle {
        /// Parks at once until the kernel wakes it.
        Park = "park",
        /// Polls for a bounded time, then parks.
        Adaptive = "adaptive",
        /// Polls forever.
        Busy = "busy",
    }
    /// Whether a core's memory asks for huge pages.
    HugePages {
        /// Where a segment is as large as one: from 1 GiB of memory for a core.
        Auto = "auto",
        /// Never.
        Off = "off",
    }
    /// How log lines look.
    LogFormat {
        /// One line of text for people.
        Human = "human",
        /// One JSON object for collectors.
        Json = "json",
    }
}

/// What a full core does when a write needs room: a policy, under its own name or the one that Redis has for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Eviction {
    /// The policy.
    pub policy: Policy,
    /// What is different from the policy of Redis that was named.
    pub difference: Option<&'static str>,
}

impl FromStr for Eviction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let difference = Policy::nearest(text).map(|nearest| nearest.difference);
        Ok(Self { policy: text.parse()?, difference })
    }
}

impl fmt::Display for Eviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.policy.name())
    }
}

/// Reads a value that is written as text, a number or (where `$list`) an array of
/// them. Anything else is handed on as its TOML text, so that one parser words
/// every refusal.
macro_rules! read_as_text {
    ($($name:ident $(($list:ident))?),+) => { $(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = match toml::Value::deserialize(deserializer)? {
                    toml::Value::String(text) => text,
                    $(toml::Value::Array($list) => $list.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_string)).collect::<Vec<_>>().join(","),)?
                    other => other.to_string(),
                };
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl TomlText for $name {
            fn toml_text(&self) -> Option<String> {
                let text = self.to_string();
                Some(if text.parse::<u64>().is_ok() { text } else { format!("\"{text}\"") })
            }
        }
    )+ };
}

read_as_text!(Size, Memory, Part, Span, CpuList(list), SlotList(list), Eviction, HugePages, Idle, LogFormat);

/// Values that TOML itself writes the way we want them.
macro_rules! plain_text {
    ($($name:ty),+) => { $(
        impl TomlText for $name {
            fn toml_text(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )+ };
}

plain_text!(u16, u32, u64, usize);

impl TomlText for String {
    fn toml_text(&self) -> Option<String> {
        Some(toml::Value::String(self.clone()).to_string())
    }
}

impl TomlText for std::net::IpAddr {
    fn toml_text(&self) -> Option<String> {
        Some(format!("\"{self}\""))
    }
}

impl<T: TomlText> TomlText for Option<T> {
    fn toml_text(&self) -> Option<String> {
        self.as_ref().and_then(T::toml_text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_print_the_way_they_were_meant() {
        for text in ["64MB", "65535", "1GB", "1536MB", "0"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        for text in ["80%", "12GB", "100%"] {
            assert_eq!(text.parse::<Memory>().unwrap().to_string(), text);
        }
        for (text, printed) in [("20us", "20us"), ("1000ms", "1s"), ("250 µs", "250us"), ("0s", "0s"), ("90m", "90m")]
        {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), printed);
        }
        for (text, printed) in [("auto", "auto"), ("2-15", "2-15"), ("0, 2,4", "0,2,4"), ("4,2,3", "4,2-3")] {
            assert_eq!(text.parse::<CpuList>().unwrap().to_string(), printed);
        }
        assert_eq!("200-299,0-99,100".parse::<SlotList>().unwrap().to_string(), "0-100,200-299");
    }

    #[test]
    fn what_is_not_a_value_is_refused_with_the_remedy() {
        let refusal = |text: &str| text.parse::<Memory>().unwrap_err();
        assert!(refusal("0%").contains("1% to 100%"));
        assert!(refusal("101%").contains("1% to 100%"));
        assert!(refusal("lots").contains("such as 80%"));
        assert!("20".parse::<Span>().unwrap_err().contains("20us or 30s"));
        assert!("1.5s".parse::<Span>().is_err());
        assert!("3-1".parse::<CpuList>().unwrap_err().contains("not a list of CPUs"));
        assert!("0-99999999999".parse::<CpuList>().is_err());
        assert_eq!("1,0-2".parse::<CpuList>().unwrap_err(), "CPU 1 is listed twice");
        assert_eq!("0-5,5-9".parse::<SlotList>().unwrap_err(), "slot 5 is listed twice");
        assert_eq!("16384".parse::<SlotList>().unwrap_err(), "there is no slot 16384: slots are 0 to 16383");
        let unknown = "lru".parse::<Eviction>().unwrap_err();
        assert!(unknown.contains("`lru`") && unknown.contains("s3fifo"), "{unknown}");
        let redis = "volatile-lru".parse::<Eviction>().unwrap();
        assert_eq!((redis.policy, redis.difference.is_some()), (Policy::Clock, true));
    }

    #[test]
    fn a_part_of_a_very_large_memory_does_not_wrap() {
        assert_eq!(Memory::Percent(80).of(1 << 60), (1u64 << 60) / 5 * 4);
        assert_eq!(Memory::Percent(100).of(u64::MAX), u64::MAX);
    }
}
