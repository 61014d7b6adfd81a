//! Values that say what they are.
//!
//! ```text
//!  0         4         8                  16                 24
//!  [ run     ][ length  ][ key             ][ sequence        ][ fill …
//! ```
//!
//! The fill is a piece of one block of random bytes, at a place that run, key and
//! sequence decide together: a value of which some bytes belong to another write
//! differs from it, and making and comparing one costs no more than a copy.
//! Values of 8 to 23 bytes carry 4 bytes of run and key, and 4 of the sequence;
//! shorter ones only as much of run and key as they hold.

use ringfence::base::is_same;
use ringfence::base::rng::Rng;

use crate::wire::Value;

/// Bytes before the fill.
pub const HEAD_BYTES: usize = 24;
/// Values shorter than this carry no sequence number.
const SHORT_BYTES: usize = 8;
/// Places at which a fill may begin. A power of two.
const PLACES: usize = 1 << 15;
/// The seed of the block: the same in every run, so that the values of earlier runs can be checked too.
const BLOCK_SEED: u64 = 0x5249_4e47;

const _: () = assert!(PLACES.is_power_of_two(), "a place is taken from a hash by its low bits");

/// What a value turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Intact, of this run: its sequence number.
    Ours(u64),
    /// Intact, of this run, too short for all of its sequence number: the low half.
    Low(u32),
    /// Intact, of this run, too short for a sequence number.
    Short,
    /// Intact, of another run.
    Foreign,
    /// Not intact, or of another key. Why.
    Wrong(String),
}

/// Makes and reads values.
#[derive(Debug)]
pub struct Stamper {
    run: u32,
    block: Box<[u8]>,
}

impl Stamper {
    /// For the run numbered `run`, and values of at most `value_bytes_max`.
    pub fn new(run: u32, value_bytes_max: usize) -> Self {
        let mut rng = Rng::new(BLOCK_SEED);
        let words = (PLACES + value_bytes_max).div_ceil(8);
        Self { run, block: (0..words).flat_map(|_| rng.next_u64().to_le_bytes()).collect() }
    }

    fn mix(run: u32, id: u64, sequence: u64) -> u64 {
        Rng::new((u64::from(run) << 32) ^ id.rotate_left(17) ^ sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15)).next_u64()
    }

    fn fill(&self, run: u32, id: u64, sequence: u64, len: usize) -> &[u8] {
        let place = Self::mix(run, id, sequence) as usize & (PLACES - 1);
        &self.block[place..place + len]
    }

    /// The value of `len` bytes of write `sequence` to key `id`. `head` is scratch for its first bytes.
    #[inline]
    pub fn value<'a>(&'a self, id: u64, sequence: u64, len: usize, head: &'a mut [u8; HEAD_BYTES]) -> Value<'a> {
        if len >= HEAD_BYTES {
            head[..4].copy_from_slice(&self.run.to_le_bytes());
            head[4..8].copy_from_slice(&(len as u32).to_le_bytes());
            head[8..16].copy_from_slice(&id.to_le_bytes());
            head[16..].copy_from_slice(&sequence.to_le_bytes());
            return Value(head, self.fill(self.run, id, sequence, len - HEAD_BYTES));
        }
        let tag = Self::mix(self.run, id, 0).to_le_bytes();
        head[..8].copy_from_slice(&tag);
        if len < SHORT_BYTES {
            return Value(&head[..len], &[]);
        }
        head[4..8].copy_from_slice(&(sequence as u32).to_le_bytes());
        Value(&head[..8], self.fill(self.run, id, sequence & u64::from(u32::MAX), len - 8))
    }

    /// What `value`, read from key `id`, is.
    #[inline]
    pub fn read(&self, id: u64, value: &[u8]) -> Found {
        if value.len() < HEAD_BYTES {
            return self.read_short(id, value);
        }
        let word = |at: usize| u64::from_le_bytes(value[at..at + 8].try_into().expect("eight bytes"));
        let (run, len) = (word(0) as u32, (word(0) >> 32) as usize);
        let (of, sequence) = (word(8), word(16));
        let fill = &value[HEAD_BYTES..];
        if len == value.len() && of == id {
            let is_longer = fill.len() + PLACES > self.block.len();
            if is_longer && run != self.run {
                // An earlier run had longer values than this one; so much of its fill is not kept.
                return Found::Foreign;
            }
            if !is_longer && is_same(fill, self.fill(run, of, sequence, fill.len())) {
                return if run == self.run { Found::Ours(sequence) } else { Found::Foreign };
            }
        }
        Found::Wrong(self.what_is_wrong(id, value))
    }

    #[cold]
    fn what_is_wrong(&self, id: u64, value: &[u8]) -> String {
        let word = |at: usize| u64::from_le_bytes(value[at..at + 8].try_into().expect("eight bytes"));
        let (run, len) = (word(0) as u32, (word(0) >> 32) as usize);
        let (of, sequence) = (word(8), word(16));
        let fill = &value[HEAD_BYTES..];
        if len != value.len() && run == self.run {
            return format!("is {} bytes long, and write {sequence} to key {of} had the length {len}", value.len());
        }
        if fill.len() + PLACES > self.block.len() {
            return format!("is {} bytes long, longer than any value of this run", value.len());
        }
        let expected = self.fill(run, of, sequence, fill.len());
        match fill.iter().zip(expected).position(|(a, b)| a != b) {
            // Without a fill there is nothing that only a value of this tool would have.
            None if run == self.run || !fill.is_empty() => {
                format!("belongs to another key: it is write {sequence} to key {of}, not to key {id}")
            }
            Some(at) if run == self.run => {
                format!(
                    "is torn: it begins as write {sequence} to key {of}, and differs from it at byte {}",
                    at + HEAD_BYTES
                )
            }
            _ => "is not a value of this tool: was the key written by something else? \
                        Choose another --key-prefix, empty the server, or give --no-verify"
                .into(),
        }
    }

    fn read_short(&self, id: u64, value: &[u8]) -> Found {
        let tag = Self::mix(self.run, id, 0).to_le_bytes();
        let compared = if value.len() < SHORT_BYTES { value.len() } else { 4 };
        if value[..compared] != tag[..compared] {
            return Found::Wrong(
                "belongs to another key or run, or is not a value of this tool: \
                 does another generator write the same keys? Give each its own --key-prefix"
                    .into(),
            );
        }
        if value.len() < SHORT_BYTES {
            return Found::Short;
        }
        let sequence = u32::from_le_bytes(value[4..8].try_into().expect("four bytes"));
        let fill = &value[8..];
        if fill != self.fill(self.run, id, sequence.into(), fill.len()) {
            return Found::Wrong(format!("is torn: it begins as write {sequence}, and does not end like it"));
        }
        Found::Low(sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the key, write and length, a value reads back as itself, and as nothing else once a byte differs.
        #[test]
        fn values_read_back(id in 0u64..1 << 40, sequence in 0u64..1 << 40, len in 0usize..600, at in any::<prop::sample::Index>()) {
            let stamper = Stamper::new(9, 600);
            let mut head = [0; HEAD_BYTES];
            let value = stamper.value(id, sequence, len, &mut head);
            prop_assert_eq!(value.len(), len);
            let mut bytes = [value.0, value.1].concat();
            let expected = match len {
                0..SHORT_BYTES => Found::Short,
                SHORT_BYTES..HEAD_BYTES => Found::Low(sequence as u32),
                HEAD_BYTES.. => Found::Ours(sequence),
            };
            prop_assert_eq!(stamper.read(id, &bytes), expected.clone());
            if len > 0 {
                let at = at.index(len);
                bytes[at] ^= 0x40;
                prop_assert_ne!(stamper.read(id, &bytes), expected);
            }
        }
    }
}
