//! Base64 with padding, for keys of any bytes.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// For each byte its six bits, or `NONE`.
const BITS: [u8; 256] = {
    let mut bits = [NONE; 256];
    let mut i = 0;
    while i < ALPHABET.len() {
        bits[ALPHABET[i] as usize] = i as u8;
        i += 1;
    }
    bits
};
const NONE: u8 = u8::MAX;

/// Appends `bytes` in base64.
pub(super) fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0u32, |word, &b| word << 8 | u32::from(b)) << (8 * (3 - three.len()));
        for i in 0..4 {
            let six = (word >> (18 - 6 * i)) as usize & 63;
            out.push(if i <= three.len() { ALPHABET[six] } else { b'=' });
        }
    }
}

/// Appends what `text` encodes. Answers whether it is base64; if not, nothing is appended.
pub(super) fn decode(text: &[u8], out: &mut Vec<u8>) -> bool {
    let before = out.len();
    let padding = text.iter().rev().take_while(|&&b| b == b'=').count();
    let is_base64 = text.len().is_multiple_of(4)
        && padding <= 2
        && text[..text.len() - padding].iter().all(|&b| BITS[usize::from(b)] != NONE);
    if !is_base64 {
        return false;
    }
    for four in text.chunks(4) {
        let word = four.iter().fold(0u32, |word, &b| word << 6 | u32::from(BITS[usize::from(b)] & 63));
        // A pad is no digit: its bits are cut off below.
        out.extend_from_slice(&word.to_be_bytes()[1..]);
    }
    out.truncate(before + text.len() / 4 * 3 - padding);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(text: &[u8]) -> Option<Vec<u8>> {
        let mut out = b"before".to_vec();
        let is_base64 = decode(text, &mut out);
        assert!(is_base64 || out == b"before");
        is_base64.then(|| out.split_off(6))
    }

    #[test]
    fn the_examples_of_the_standard_hold() {
        for (bytes, text) in [
            (&b""[..], &b""[..]),
            (b"f", b"Zg=="),
            (b"fo", b"Zm8="),
            (b"foo", b"Zm9v"),
            (b"foob", b"Zm9vYg=="),
            (b"\xff\xfe\xfd", b"//79"),
        ] {
            let mut out = Vec::new();
            encode(bytes, &mut out);
            assert_eq!(out, text);
            assert_eq!(decoded(text).as_deref(), Some(bytes));
        }
        for bad in [&b"Z"[..], b"Zg", b"Zg=", b"Z===", b"Zg==Zg==", b"!!!!", b"Zg=g"] {
            assert_eq!(decoded(bad), None, "{}", bad.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut text = Vec::new();
            encode(&bytes, &mut text);
            prop_assert_eq!(decoded(&text), Some(bytes));
        }
    }
}
