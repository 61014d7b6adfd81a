//! The 16,384 hash slots of the Redis Cluster specification:
//! `slot = CRC16(hash tag, or the whole key) mod 16384`.

/// How many hash slots there are.
pub const SLOT_COUNT: usize = 16_384;

/// One hash slot, below [`SLOT_COUNT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// Slot 0.
    pub const FIRST: Slot = Slot(0);

    /// The slot numbered `n`, or `None` if there is no such slot.
    pub const fn new(n: u16) -> Option<Self> {
        if (n as usize) < SLOT_COUNT { Some(Self(n)) } else { None }
    }

    /// The slot that `key` belongs to.
    #[inline]
    pub fn of(key: &[u8]) -> Self {
        // Nearly no key has a brace: the whole of it is folded on the way to the end, eight bytes at a time.
        let (words, rest) = key.as_chunks::<8>();
        let (mut crc, mut braces) = (0, 0);
        for word in words {
            braces |= braces_in(u64::from_le_bytes(*word));
            crc = fold(crc, word);
        }
        for &byte in rest {
            braces |= u64::from(byte == b'{');
            crc = fold_byte(crc, byte);
        }
        if braces != 0 {
            crc = crc16(hash_tag(key));
        }
        Self(crc & (SLOT_COUNT as u16 - 1))
    }

    /// The slot's number, for indexing.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The slot's number as it goes on the wire.
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// The part of the key that decides the slot: what stands between the first
/// `{` and the next `}`, unless that is empty or missing.
#[cold]
fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&b| b == b'{') else { return key };
    match key[open + 1..].iter().position(|&b| b == b'}') {
        None | Some(0) => key,
        Some(len) => &key[open + 1..open + 1 + len],
    }
}

/// Not zero where one of the eight bytes is `{`: those that are become zero, and the lowest zero byte of a word is the
/// lowest that borrows when one is taken from each.
#[inline]
fn braces_in(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let word = word ^ (u64::from(b'{') * EACH);
    word.wrapping_sub(EACH) & !word & (0x80 * EACH)
}

const POLYNOMIAL: u16 = 0x1021;

/// `TABLES[k][b]`: the effect of byte `b` followed by `k` zero bytes, so that
/// eight bytes fold in one step (slicing by eight, Kounavis and Berry 2005).
/// 4 KiB, which stays in the first-level cache.
static TABLES: [[u16; 256]; 8] = tables();

const fn tables() -> [[u16; 256]; 8] {
    let mut tables = [[0u16; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ POLYNOMIAL } else { crc << 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[k - 1][byte];
            tables[k][byte] = (before << 8) ^ tables[0][(before >> 8) as usize];
            byte += 1;
        }
        k += 1;
    }
    tables
}

/// Eight bytes more.
#[inline]
fn fold(crc: u16, c: &[u8; 8]) -> u16 {
    TABLES[7][usize::from(c[0] ^ (crc >> 8) as u8)]
        ^ TABLES[6][usize::from(c[1] ^ crc as u8)]
        ^ TABLES[5][usize::from(c[2])]
        ^ TABLES[4][usize::from(c[3])]
        ^ TABLES[3][usize::from(c[4])]
        ^ TABLES[2][usize::from(c[5])]
        ^ TABLES[1][usize::from(c[6])]
        ^ TABLES[0][usize::from(c[7])]
}

#[inline]
fn fold_byte(crc: u16, byte: u8) -> u16 {
    (crc << 8) ^ TABLES[0][usize::from((crc >> 8) as u8 ^ byte)]
}

/// CRC-16/XMODEM: polynomial 0x1021, initial value 0, no reflection.
#[inline]
pub fn crc16(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<8>();
    let crc = words.iter().fold(0, fold);
    rest.iter().fold(crc, |crc, &byte| fold_byte(crc, byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, a bit at a time: the plain twin of [`crc16`].
    fn crc16_plain(bytes: &[u8]) -> u16 {
        let mut crc = 0u16;
        for &b in bytes {
            crc ^= u16::from(b) << 8;
            for _ in 0..8 {
                crc = if crc & 0x8000 != 0 { (crc << 1) ^ POLYNOMIAL } else { crc << 1 };
            }
        }
        crc
    }

    #[test]
    fn the_check_value_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
    }

    #[test]
    fn hash_tags_follow_the_cluster_specification() {
        assert_eq!(Slot::of(b"{user1000}.following"), Slot::of(b"{user1000}.followers"));
        assert_eq!(Slot::of(b"foo{}{bar}").number(), crc16(b"foo{}{bar}") & 16383);
        assert_eq!(Slot::of(b"foo{{bar}}zap").number(), crc16(b"{bar") & 16383);
        assert_eq!(Slot::of(b"foo{bar}{zap}").number(), crc16(b"bar") & 16383);
        assert_eq!(Slot::of(b"foo{bar").number(), crc16(b"foo{bar") & 16383);
        assert_eq!(Slot::of(b"foo").number(), 12182);
        assert_eq!(Slot::of(b"").number(), 0);
        assert_eq!(Slot::new(16384), None);
    }

    proptest! {
        #[test]
        fn slicing_equals_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(crc16(&bytes), crc16_plain(&bytes));
        }

        /// Few values, among them those that differ from a brace by a bit.
        #[test]
        fn a_brace_is_found_wherever_it_stands(bytes in proptest::collection::vec(
            prop_oneof![Just(b'{'), Just(b'}'), Just(b'z'), Just(b'|'), Just(0xfb), Just(0), any::<u8>()], 0..40)) {
            let after_first = bytes.iter().position(|&b| b == b'{').map(|open| &bytes[open + 1..]);
            let tag = after_first.and_then(|rest| Some(&rest[..rest.iter().position(|&b| b == b'}')?]));
            let tag = tag.filter(|tag| !tag.is_empty()).unwrap_or(&bytes);
            prop_assert_eq!(Slot::of(&bytes).number(), crc16_plain(tag) & 16383);
        }
    }
}
