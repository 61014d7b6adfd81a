//! Workloads by name. A preset stands for option texts and nothing else: whoever
//! writes those options out gets the same run, and an option given beside a preset
//! takes the place of the preset's.

use super::twitter;

/// A named workload: the texts of the options that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// What it is asked for by.
    pub name: &'static str,
    /// What it models and how closely, in one sentence.
    pub about: &'static str,
    /// The number of keys.
    pub keys: &'static str,
    /// [`Sizes`](super::Sizes) of key names, enough for the prefix `key:` without hash tags.
    pub key_size: &'static str,
    /// [`Sizes`](super::Sizes) of values.
    pub value_size: &'static str,
    /// [`Ttls`](super::Ttls).
    pub ttl: &'static str,
    /// The [`Mix`](super::Mix).
    pub mix: &'static str,
    /// The [`Distribution`](super::Distribution).
    pub distribution: &'static str,
    /// The number of keys in a read of several. Without effect where the mix has none.
    pub mget_keys: &'static str,
}

/// Models of common uses. Their numbers are round ones of the usual magnitude, not measurements.
const GENERAL: [Preset; 9] = [
    Preset {
        name: "object-cache",
        about: "Small objects in front of a database, read far more often than written; a model, not a measurement.",
        keys: "1000000",
        key_size: "16-48",
        value_size: "lognormal:300:1.2",
        ttl: "10m:20,1h:50,1d:30",
        mix: "get=95,set=4,delete=1",
        distribution: "zipf:0.99",
        mget_keys: "10",
    },
    Preset {
        name: "session-store",
        about: "One session for each user at work, written anew about every fifth request; a model, not a measurement.",
        keys: "1000000",
        key_size: "40",
        value_size: "lognormal:1KiB:0.6",
        ttl: "30m",
        mix: "get=80,set=18,delete=2",
        distribution: "zipf:0.6",
        mget_keys: "10",
    },
    Preset {
        name: "page-fragments",
        about: "Rendered parts of pages, large values that expire soon; a model, not a measurement.",
        keys: "100000",
        key_size: "32-96",
        value_size: "lognormal:16KiB:1",
        ttl: "30s:30,5m:50,1h:20",
        mix: "get=97,set=3",
        distribution: "zipf:0.9",
        mget_keys: "10",
    },
    Preset {
        name: "counters",
        about: "Rate limits: tiny values of a minute, written as often as read; increments are modelled as writes.",
        keys: "1000000",
        key_size: "32",
        value_size: "8",
        ttl: "1m",
        mix: "get=50,set=50",
        distribution: "zipf:0.8",
        mget_keys: "10",
    },
    Preset {
        name: "feed",
        about: "Feeds put together from many small items by reads of 50 keys; a model, not a measurement.",
        keys: "1000000",
        key_size: "16",
        value_size: "lognormal:200:0.7",
        ttl: "1d",
        mix: "mget=70,get=20,set=10",
        distribution: "zipf:0.99",
        mget_keys: "50",
    },
    Preset {
        name: "flash-sale",
        about: "A thousandth of the keys gets 99 % of the requests, writes among them; a model, not a measurement.",
        keys: "1000000",
        key_size: "24",
        value_size: "512",
        ttl: "5m",
        mix: "get=90,set=10",
        distribution: "hotspot:0.1%:99%",
        mget_keys: "10",
    },
    Preset {
        name: "ycsb-a",
        about: "Workload A of the Yahoo! Cloud Serving Benchmark, half updates; a record is one value of 1,000 bytes.",
        keys: "1000000",
        key_size: "23",
        value_size: "1000",
        ttl: "none",
        mix: "get=50,set=50",
        distribution: "zipf:0.99",
        mget_keys: "10",
    },
    Preset {
        name: "ycsb-b",
        about: "Workload B of the Yahoo! Cloud Serving Benchmark, 5 % updates; a record is one value of 1,000 bytes.",
        keys: "1000000",
        key_size: "23",
        value_size: "1000",
        ttl: "none",
        mix: "get=95,set=5",
        distribution: "zipf:0.99",
        mget_keys: "10",
    },
    Preset {
        name: "ycsb-c",
        about: "Workload C of the Yahoo! Cloud Serving Benchmark, reads alone; a record is one value of 1,000 bytes.",
        keys: "1000000",
        key_size: "23",
        value_size: "1000",
        ttl: "none",
        mix: "get=100",
        distribution: "zipf:0.99",
        mget_keys: "10",
    },
];

/// Every preset, in the order in which they are to be listed.
pub fn all() -> impl Iterator<Item = &'static Preset> {
    GENERAL.iter().chain(&twitter::CLUSTERS)
}

/// The preset of this name.
pub fn preset(name: &str) -> Option<&'static Preset> {
    all().find(|preset| preset.name == name)
}

#[cfg(test)]
mod tests {
    use super::super::{Distribution, KeyNames, Mix, Sizes, Ttls};
    use super::*;
    use crate::outcome::Kind;
    use std::collections::HashSet;

    #[test]
    fn every_preset_parses_and_its_keys_have_names() {
        for preset in all() {
            let check = || -> Result<(), String> {
                let keys: u64 = preset.keys.parse().map_err(|_| "keys is not a number".to_owned())?;
                let key_sizes: Sizes = preset.key_size.parse()?;
                KeyNames::new("key:", &key_sizes, keys, None)?;
                preset.value_size.parse::<Sizes>()?;
                preset.ttl.parse::<Ttls>()?;
                preset.mix.parse::<Mix>()?;
                preset.distribution.parse::<Distribution>()?;
                preset.mget_keys.parse::<usize>().map_err(|_| "mget_keys is not a number".to_owned())?;
                Ok(())
            };
            assert_eq!(check(), Ok(()), "{}", preset.name);
        }
    }

    #[test]
    fn names_are_unique_and_abouts_are_one_sentence() {
        let names: HashSet<_> = all().map(|preset| preset.name).collect();
        assert_eq!(names.len(), all().count());
        for Preset { name, about, .. } in all() {
            assert!(about.ends_with('.') && about.len() < 140 && !about.contains(". "), "{name}: {about}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{name}");
        }
    }

    #[test]
    fn a_preset_is_found_by_its_name_alone() {
        assert_eq!(preset("feed").map(|preset| preset.mget_keys), Some("50"));
        let mix: Mix = preset("feed").unwrap().mix.parse().unwrap();
        assert!((mix.share(Kind::Mget) - 0.7).abs() < 1e-12);
        assert_eq!(preset("Feed"), None);
        assert_eq!(preset(""), None);
    }
}
