//! Short strings of bytes.

/// The longest that are compared by words.
const SHORT: usize = 64;

/// Whether two are the same. Most keys and many values are too short for a call of the C library to be worth while: those
/// are compared by words, of which the last reaches back over what was compared already.
#[inline]
pub fn is_same(a: &[u8], b: &[u8]) -> bool {
    match (a.last_chunk::<8>(), b.last_chunk::<8>()) {
        (Some(last_a), Some(last_b)) if a.len() == b.len() && a.len() <= SHORT => {
            last_a == last_b && a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0).all(|(a, b)| a == b)
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_the_same_only_if_every_byte_is() {
        for len in 0..2 * SHORT {
            let bytes: Vec<u8> = (0..len as u8).collect();
            assert!(is_same(&bytes, &bytes.clone()), "{len}");
            assert!(!is_same(&bytes, &[&bytes[..], b"x"].concat()));
            for at in 0..len {
                let mut other = bytes.clone();
                other[at] ^= 1;
                assert!(!is_same(&bytes, &other), "{len}, {at}");
            }
        }
    }
}
