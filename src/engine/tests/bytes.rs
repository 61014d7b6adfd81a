//! Arbitrary bytes as operations: what the fuzzer does, in small, with every run of the tests.

use super::*;
use crate::engine::proof::fuzz::drive;

proptest! {
    #![proptest_config(cases(200, 2000))]

    #[test]
    fn arbitrary_bytes_find_nothing_wrong(bytes in proptest::collection::vec(any::<u8>(), 0..2500)) {
        drive(&bytes);
    }
}
