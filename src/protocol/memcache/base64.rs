//! Base64 with padding, for keys of any bytes, appended to buffers that are there: no key costs an allocation.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

/// As memcached reads it: bits behind the last byte are not looked at.
const ENGINE: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// Appends `bytes` in base64.
pub(super) fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = ENGINE.encode_slice(bytes, &mut out[start..]);
    debug_assert!(written == Ok(out.len() - start), "{written:?}: the room is what the text takes");
}

/// Appends what `text` encodes. Answers whether it is base64; if not, nothing is appended.
pub(super) fn decode(text: &[u8], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    out.resize(start + text.len().div_ceil(4) * 3, 0);
    let decoded = ENGINE.decode_slice(text, &mut out[start..]);
    out.truncate(start + decoded.as_ref().copied().unwrap_or(0));
    decoded.is_ok()
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
