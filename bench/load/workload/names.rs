//! Names of keys: from an id to its name and back.
//!
//! A name is a prefix, the id in twelve decimal digits, and `-` up to its size, so
//! that every id has one name and no name belongs to two.

use ringfence::base::rng::Rng;

use super::sizes::Sizes;

/// The longest name: what memcached takes.
const NAME_MAX: usize = 250;
/// The decimal digits of an id.
pub const DIGITS: usize = 12;
/// How many ids twelve digits can tell apart.
const KEYS_MAX: u64 = 1_000_000_000_000;
/// Makes the sizes of names independent of other numbers that are drawn from ids.
const SIZE_SEED: u64 = 0x6b65_795f_6e61_6d65;

/// The names of the ids below a number of keys: `key:000000000123`, or with groups of 64
/// `key:{000000000001}000000000064`. In a cluster the part in braces alone decides the
/// slot, so that keys of a group can be read by one request.
#[derive(Clone, Debug)]
pub struct KeyNames {
    prefix: Vec<u8>,
    sizes: Sizes,
    /// The size of all names, if they have the same.
    fixed: Option<usize>,
    keys: u64,
    group: Option<u64>,
}

impl KeyNames {
    /// Names for the ids below `keys`, of `sizes`, with hash tags for groups of `group` neighbours.
    ///
    /// # Errors
    /// A sentence about a size, prefix, number of keys or group that cannot be.
    pub fn new(prefix: &str, sizes: &Sizes, keys: u64, group: Option<u64>) -> Result<Self, String> {
        let least = Self::size_min(prefix, group.is_some());
        if sizes.min() < least {
            return Err(format!(
                "a name with the prefix `{prefix}`{} needs {least} bytes, not {}: write a key size of at least {least}, \
                 or a shorter prefix",
                if group.is_some() { " and a hash tag" } else { "" },
                sizes.min()
            ));
        }
        if sizes.max() > NAME_MAX {
            return Err(format!("a name has at most {NAME_MAX} bytes, not {}: write smaller key sizes", sizes.max()));
        }
        if prefix.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return Err(format!(
                "the prefix `{}` has blanks or control characters in it: leave them out",
                prefix.escape_debug()
            ));
        }
        if group.is_some() && prefix.contains(['{', '}']) {
            return Err(format!("the prefix `{prefix}` has braces, which hash tags need: leave them out"));
        }
        if keys == 0 || keys > KEYS_MAX {
            return Err(format!("there are no names for {keys} keys: write a number from 1 to {KEYS_MAX}"));
        }
        if group == Some(0) {
            return Err("a group of 0 keys has no names: write a number from 1".to_owned());
        }
        let fixed = (sizes.min() == sizes.max()).then(|| sizes.max());
        Ok(Self { prefix: prefix.as_bytes().to_vec(), sizes: sizes.clone(), fixed, keys, group })
    }

    /// The bytes that the shortest name needs, with or without a hash tag.
    pub fn size_min(prefix: &str, tagged: bool) -> usize {
        prefix.len() + DIGITS + if tagged { DIGITS + 2 } else { 0 }
    }

    /// Appends the name of `id`, which is below the number of keys.
    #[inline]
    pub fn write(&self, id: u64, out: &mut Vec<u8>) {
        debug_assert!(id < self.keys, "{id} is no id of {} keys", self.keys);
        let end = out.len() + self.size(id);
        out.extend_from_slice(&self.prefix);
        if let Some(group) = self.group {
            out.push(b'{');
            out.extend_from_slice(&digits(id / group));
            out.push(b'}');
        }
        out.extend_from_slice(&digits(id));
        out.resize(end, b'-');
    }

    /// The id that has this name; `None` if none has.
    pub fn id_of(&self, name: &[u8]) -> Option<u64> {
        let mut rest = name.strip_prefix(&self.prefix[..])?;
        if let Some(group) = self.group {
            let (tag, after) = number(rest.strip_prefix(b"{")?)?;
            rest = after.strip_prefix(b"}")?;
            number(rest).filter(|(id, _)| id / group == tag)?;
        }
        let (id, filler) = number(rest)?;
        let whole = id < self.keys && name.len() == self.size(id) && filler.iter().all(|b| *b == b'-');
        whole.then_some(id)
    }

    /// The highest id.
    pub fn last(&self) -> u64 {
        self.keys - 1
    }

    /// Where the digits are in a name, if names differ in nothing else.
    pub fn digits_at(&self) -> Option<usize> {
        (self.fixed.is_some() && self.group.is_none()).then_some(self.prefix.len())
    }

    /// The bytes of the name of `id`.
    #[inline]
    fn size(&self, id: u64) -> usize {
        // Mostly all names have one size, and then there is nothing to draw.
        self.fixed.unwrap_or_else(|| self.sizes.at(Rng::new(id ^ SIZE_SEED).next_u64()))
    }
}

/// The digits of all numbers below a hundred.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + number as u8 / 10, b'0' + number as u8 % 10];
        number += 1;
    }
    pairs
};

/// A number in twelve decimal digits.
#[inline]
pub fn digits(number: u64) -> [u8; DIGITS] {
    // Four at a time, so that no division waits for more than one other.
    let groups = [number / 100_000_000, number / 10_000 % 10_000, number % 10_000];
    let mut digits = [0; DIGITS];
    for (four, group) in digits.as_chunks_mut::<4>().0.iter_mut().zip(groups) {
        let [high, low] = [PAIRS[group as usize / 100], PAIRS[group as usize % 100]];
        *four = [high[0], high[1], low[0], low[1]];
    }
    digits
}

/// The number in the first twelve bytes, and what follows them.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let (digits, rest) = text.split_first_chunk::<DIGITS>()?;
    let number = digits
        .iter()
        .try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0')));
    Some((number?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn names(prefix: &str, sizes: &str, keys: u64, group: Option<u64>) -> Result<KeyNames, String> {
        KeyNames::new(prefix, &sizes.parse().expect("sizes"), keys, group)
    }

    fn name(names: &KeyNames, id: u64) -> String {
        let mut out = b"before ".to_vec();
        names.write(id, &mut out);
        String::from_utf8(out).expect("text").strip_prefix("before ").expect("appended").to_owned()
    }

    #[test]
    fn names_look_as_documented() {
        assert_eq!(name(&names("key:", "16", 1000, None).unwrap(), 123), "key:000000000123");
        assert_eq!(name(&names("k", "20", KEYS_MAX, None).unwrap(), KEYS_MAX - 1), "k999999999999-------");
        let tagged = names("key:", "30", 1000, Some(64)).unwrap();
        assert_eq!(name(&tagged, 64), "key:{000000000001}000000000064");
        assert_eq!(name(&tagged, 127), "key:{000000000001}000000000127");
        assert_eq!(name(&tagged, 128), "key:{000000000002}000000000128");
    }

    #[test]
    fn every_id_has_one_name_of_a_size_asked_for_and_leads_back() {
        for (sizes, group) in [("16", None), ("16-40", None), ("16:50,100:50", None), ("30-250", Some(64))] {
            let names = names("key:", sizes, 5000, group).unwrap();
            let allowed = sizes.parse::<Sizes>().unwrap();
            let (mut seen, mut bytes) = (HashSet::new(), 0);
            for id in 0..5000 {
                let name = name(&names, id);
                assert!((allowed.min()..=allowed.max()).contains(&name.len()), "{name}");
                assert_eq!(names.id_of(name.as_bytes()), Some(id), "{name}");
                bytes += name.len();
                assert!(seen.insert(name), "{id} has the name of another");
            }
            let mean = bytes as f64 / 5000.0;
            assert!((mean / allowed.mean() - 1.0).abs() < 0.03, "{sizes}: {mean} on average");
        }
    }

    #[test]
    fn names_of_others_have_no_id() {
        let plain = names("key:", "20", 1000, None).unwrap();
        assert_eq!(plain.id_of(b"key:000000000123----"), Some(123));
        for other in [
            "",
            "key:",
            "key:123",
            "kez:000000000123----",
            "key:000000000123",
            "key:000000000123-----",
            "key:000000000123---x",
            "key:00000000012x----",
            "key:000000001000----",
        ] {
            assert_eq!(plain.id_of(other.as_bytes()), None, "{other}");
        }
        let tagged = names("key:", "30", 1000, Some(64)).unwrap();
        for other in ["key:{000000000000}000000000064", "key:000000000064", "key:{000000000001000000000064}"] {
            assert_eq!(tagged.id_of(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn what_cannot_be_named_is_refused_with_the_remedy() {
        for (prefix, sizes, keys, group, part) in [
            ("key:", "15", 10, None, "a key size of at least 16"),
            ("key:", "16", 10, Some(64), "a key size of at least 30"),
            ("key:", "8-64", 10, None, "needs 16 bytes, not 8"),
            ("key:", "16-251", 10, None, "at most 250 bytes"),
            ("a b", "16", 10, None, "has blanks or control characters"),
            ("a\n", "16", 10, None, "has blanks or control characters"),
            ("{a}", "64", 10, Some(64), "has braces"),
            ("key:", "16", 0, None, "from 1 to"),
            ("key:", "16", KEYS_MAX + 1, None, "from 1 to"),
            ("key:", "30", 10, Some(0), "write a number from 1"),
        ] {
            let error = names(prefix, sizes, keys, group).expect_err(prefix);
            assert!(error.contains(part), "{error}");
        }
        assert!(names("{a}", "64", 10, None).is_ok(), "braces without groups are the user's own hash tag");
    }
}
