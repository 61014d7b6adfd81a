//! Production cache clusters of Twitter in March 2020, as presets.
//!
//! The table holds the published statistics of <https://github.com/twitter/cache-trace>
//! (J. Yang, Y. Yue and K. V. Rashmi, "A large scale analysis of hundreds of in-memory
//! cache clusters at Twitter", OSDI 2020), licensed CC BY 4.0, with these changes:
//!
//! * Only the columns that a load needs are kept. Cluster 5 is left out: it has no sizes.
//! * Of sizes only the means are published, so every key and every value has the mean
//!   size; keys shorter than a name of ours are raised to its 16 bytes.
//! * Operations are folded into those that are sent: gets is a get; add, cas, incr and
//!   prepend are sets. Shares below 1 % are not published and missing here too.
//! * Times to live are the most common ones, weighted by their published shares,
//!   whatever part of all writes those make up together.
//! * Where no Zipf exponent is published, it is 1.
//! * The number of keys is not published: it is a million.

use super::presets::Preset;

/// What a category of the table caches.
macro_rules! category {
    (storage) => {
        "what is stored elsewhere"
    };
    (computation) => {
        "computed results"
    };
    (transient) => {
        "transient data"
    };
}

/// One row: cluster, category, key and value size in bytes, times to live in percent, mix
/// in percent, Zipf exponent, and what was changed in this row.
macro_rules! cluster {
    (
        $number:literal, $category:ident, $key:literal, $value:literal, $ttl:literal, $mix:literal, $alpha:literal
        $(, $note:literal)?
    ) => {
        Preset {
            name: concat!("twitter-cluster-", $number),
            about: concat!(
                "Cluster ",
                $number,
                " at Twitter, March 2020, caching ",
                category!($category),
                ": published means and shares",
                $($note,)?
                "."
            ),
            keys: "1000000",
            key_size: $key,
            value_size: $value,
            ttl: $ttl,
            mix: $mix,
            distribution: concat!("zipf:", $alpha),
            mget_keys: "10",
        }
    };
}

/// One preset for each cluster with published sizes.
pub const CLUSTERS: [Preset; 53] = [
    cluster!(1, computation, "80", "267", "240s", "get=99", "2.6774"),
    cluster!(2, computation, "21", "68", "4d:59,2d:41", "get=100", "1.4908"),
    cluster!(3, storage, "19", "120", "7d", "get=99", "1.6414"),
    cluster!(4, computation, "67", "2439", "60s:39,300s:24,1h:13,600s:12,4h:9,1d:3", "get=93,set=7", "1.1004"),
    cluster!(
        6,
        computation,
        "44",
        "252",
        "520s:3,510s:3,490s:3,590s:3,540s:3,550s:3,570s:2,500s:2,580s:2,596s:2",
        "get=98,set=2",
        "1.882"
    ),
    cluster!(7, computation, "17", "1936", "1.8h:28,1.7h:24,1.9h:23,1.6h:13,2h:12", "get=82,set=18", "1.0666"),
    cluster!(8, computation, "23", "9497", "1380s:95,1379s:5", "get=50,set=50", "1.7366"),
    cluster!(
        9,
        storage,
        "32",
        "39",
        "2h:79,1.4h:2,1.1h:2,1.9h:2,1.6h:2,1.2h:2,1.8h:2,1.5h:2,1.7h:2,1.3h:2",
        "get=99",
        "1.6796"
    ),
    cluster!(10, computation, "22", "2333", "2h", "get=50,set=50", "0"),
    cluster!(11, storage, "24", "170", "5d:97,20s:3", "get=97,set=3", "1.4891"),
    cluster!(12, computation, "44", "1030", "300s:98,299s:2", "get=20,set=80", "0.3048"),
    cluster!(13, computation, "44", "4266", "300s:97,299s:3", "get=38,set=62", "0.4565"),
    cluster!(14, storage, "96", "414", "1d", "get=65,set=13,delete=22", "1.2959"),
    cluster!(15, transient, "18", "102", "30s", "set=100", "0.0242"),
    cluster!(16, transient, "18", "115", "1h", "get=93,set=5", "1.7862"),
    cluster!(17, storage, "19", "212", "5d", "get=99", "2.1106"),
    cluster!(18, storage, "18", "37", "12h", "get=97,set=2", "2.0994"),
    cluster!(
        19,
        computation,
        "42",
        "101",
        "7.5h:8,7.4h:7,6.6h:7,7.2h:7,6.7h:7,7h:7,7.1h:7,6.8h:7,6.9h:7,7.3h:6",
        "get=75,set=25",
        "0.735"
    ),
    cluster!(20, transient, "26", "55", "5d", "get=96,set=3", "1.3699"),
    cluster!(21, transient, "25", "1", "2.2h:62,10s:23,900s:14", "set=100", "0.0521"),
    cluster!(22, transient, "54", "4", "1d:85,1h:11,1800s:3", "get=72,set=28", "0.7624"),
    cluster!(23, transient, "35", "224", "120s:93,2700s:5,5s:3", "get=36,set=61,delete=2", "0.274"),
    cluster!(24, storage, "32", "699", "14d:71,60s:19,30d:3,1d:2,1h:2", "get=99", "1.3726"),
    cluster!(25, storage, "49", "28", "30d", "get=97,set=4", "0.9929"),
    cluster!(26, transient, "122", "1745", "60s:67,120s:10,360s:9,600s:6,660s:3,180s:2", "get=71,set=29", "0.6299"),
    cluster!(27, storage, "66", "8", "92.6d:28,1d:25,1h:20,4h:18,6h:6,12h:2", "get=85,set=15", "1.065"),
    cluster!(28, storage, "45", "85", "3h:56,1.2d:43", "get=91,set=6", "1.503"),
    cluster!(29, storage, "36", "799", "1h:67,2h:33", "get=86,set=13", "1.2323"),
    cluster!(
        30,
        transient,
        "22",
        "689",
        "12h:36,10.2h:4,11.8h:4,9.7h:3,10.6h:3,11.5h:3,11h:3,11.3h:3,11.7h:3,11.9h:3",
        "get=99",
        "1.4259"
    ),
    cluster!(31, computation, "41", "15", "60s", "get=6,set=94", "0"),
    cluster!(32, computation, "41", "138", "60s", "get=2,set=98", "0"),
    cluster!(
        33,
        computation,
        "24",
        "1118",
        "10.7h:5,11.2h:5,11.7h:4,11.6h:4,11.5h:4,10.9h:4,11.3h:4,10.6h:4,9.8h:4,11.1h:4",
        "get=99,set=1",
        "1.354"
    ),
    cluster!(
        34,
        computation,
        "33",
        "322",
        "10.6h:4,10.5h:4,11.1h:4,9.8h:4,11.2h:4,10.7h:4,9.7h:4,10h:4,10.1h:3,10.4h:3",
        "get=94,set=6",
        "1.1401"
    ),
    cluster!(35, computation, "19", "1796", "60s", "get=96,set=4", "0"),
    cluster!(36, storage, "23", "78", "30d", "get=94,set=5", "1.2169"),
    cluster!(37, computation, "72", "20134", "20s:91,300s:6,2h:2,600s:1", "get=63,set=37", "0.4251"),
    cluster!(38, computation, "41", "185", "60s", "get=6,set=94", "0"),
    cluster!(39, computation, "41", "80", "60s", "get=6,set=94", "0"),
    cluster!(40, computation, "44", "155", "8h:95,1d:5", "get=50,set=50", "0.8551"),
    cluster!(41, computation, "44", "171", "8h:95,1d:5", "get=50,set=50", "0.8542"),
    cluster!(42, computation, "40", "4703", "600s:82,300s:16,6h:2", "get=96,set=4", "1.5974"),
    cluster!(43, computation, "44", "304", "8h", "get=50,set=50", "1", "; skew unpublished, taken as 1"),
    cluster!(44, transient, "25", "22", "30d", "get=98,set=1", "1.4084"),
    cluster!(45, storage, "16", "120", "15d", "get=85,set=15", "0.6372", "; keys of 10 bytes raised to 16"),
    cluster!(46, computation, "44", "928", "12h:58,1h:41", "get=68,set=32", "1", "; skew unpublished, taken as 1"),
    cluster!(47, computation, "44", "267", "2d", "get=100", "2.0637"),
    cluster!(48, computation, "44", "70", "1d", "get=65,set=35", "0.8191"),
    cluster!(49, storage, "44", "10658", "1d:99,24h:1", "get=57,set=43", "1.5095"),
    cluster!(50, computation, "18", "67485", "900s:73,1200s:24,1199s:3", "get=52,set=48", "1.2816"),
    cluster!(51, computation, "44", "221", "2d", "get=90,set=10", "1.9745"),
    cluster!(52, storage, "20", "273", "1d:65,14d:27,12h:7", "get=93,set=6", "1.2117"),
    cluster!(53, storage, "36", "9213", "30d:66,21d:34", "get=89,set=12", "1.2061"),
    cluster!(
        54,
        computation,
        "19",
        "246",
        "3.8h:13,3.3h:13,3.4h:13,3.9h:12,3.5h:12,3.6h:12,3.7h:11,4h:7,3.2h:6",
        "get=97,set=3",
        "1.611"
    ),
];

#[cfg(test)]
mod tests {
    use super::super::presets::preset;
    use super::super::{Mix, Sizes, Ttls};
    use super::*;
    use crate::outcome::Kind;

    fn cluster(number: u32) -> &'static Preset {
        preset(&format!("twitter-cluster-{number}")).unwrap_or_else(|| panic!("no cluster {number}"))
    }

    #[test]
    fn rows_have_the_published_values() {
        let first = cluster(1);
        assert_eq!((first.key_size, first.value_size, first.ttl), ("80", "267", "240s"));
        assert_eq!((first.mix, first.distribution), ("get=99", "zipf:2.6774"));
        let mixed = cluster(23);
        assert_eq!((mixed.key_size, mixed.value_size), ("35", "224"));
        assert_eq!((mixed.ttl, mixed.distribution), ("120s:93,2700s:5,5s:3", "zipf:0.274"));
        let last = cluster(54);
        assert_eq!((last.key_size, last.value_size, last.mix), ("19", "246", "get=97,set=3"));
        assert_eq!(last.distribution, "zipf:1.611");
    }

    #[test]
    fn operations_are_folded_into_those_that_are_sent() {
        let shares = |number| Kind::ALL.map(|kind| cluster(number).mix.parse::<Mix>().expect("a mix").share(kind));
        let close = |seen: [f64; 4], expected: [f64; 4]| {
            seen.iter().zip(expected).all(|(seen, expected)| (seen - expected).abs() < 1e-9)
        };
        // set:0.31 get:0.36 incr:0.30 delete:0.02
        assert!(close(shares(23), [36.0 / 99.0, 61.0 / 99.0, 2.0 / 99.0, 0.0]));
        // get:0.91 add:0.04 gets:0.02 cas:0.02
        assert!(close(shares(52), [93.0 / 99.0, 6.0 / 99.0, 0.0, 0.0]));
        // get:0.89 set:0.03 prepend:0.09
        assert!(close(shares(53), [89.0 / 101.0, 12.0 / 101.0, 0.0, 0.0]));
        assert_eq!(shares(15), [0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn what_could_not_be_taken_over_is_said() {
        assert_eq!(preset("twitter-cluster-5"), None);
        assert_eq!(cluster(45).key_size, "16");
        assert!(cluster(45).about.contains("keys of 10 bytes raised to 16"), "{}", cluster(45).about);
        for number in [43, 46] {
            assert_eq!(cluster(number).distribution, "zipf:1");
            assert!(cluster(number).about.contains("taken as 1"), "{}", cluster(number).about);
        }
        let changed = CLUSTERS.iter().filter(|preset| preset.about.contains(';')).count();
        assert_eq!(changed, 3);
    }

    #[test]
    fn all_clusters_but_the_fifth_are_there_with_plausible_means() {
        let numbers: Vec<_> = (1..=54).filter(|number| *number != 5).map(cluster).collect();
        assert_eq!(numbers, CLUSTERS.iter().collect::<Vec<_>>());
        let mean = |text: &str| text.parse::<Sizes>().expect("sizes").mean();
        let keys: f64 = CLUSTERS.iter().map(|preset| mean(preset.key_size)).sum();
        let values: f64 = CLUSTERS.iter().map(|preset| mean(preset.value_size)).sum();
        assert_eq!((keys, values), (2021.0, 146437.0));
        assert!(CLUSTERS.iter().all(|preset| !preset.ttl.contains("none") && preset.ttl.parse::<Ttls>().is_ok()));
    }
}
