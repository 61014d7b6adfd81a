//! A read, as bytes with a gap for the number of its key.
//!
//! Where all names have one size, the reads of a protocol differ in twelve digits. To copy one and write those costs
//! a fraction of what putting it together costs.

use crate::wire::Wire;
use crate::workload::names::{DIGITS, KeyNames, digits};

/// The read of any key.
pub struct Template {
    bytes: Vec<u8>,
    /// Where the digits are.
    at: usize,
}

impl Template {
    /// `None` if reads differ in more than one place.
    pub fn of(wire: &Wire, names: &KeyNames) -> Option<Self> {
        let read = |id| {
            let (mut name, mut bytes) = (Vec::new(), Vec::new());
            names.write(id, &mut name);
            wire.get(&name, &mut bytes);
            (name, bytes)
        };
        let (name, bytes) = read(0);
        // What is before them may be written otherwise.
        let number = &name[names.digits_at()?..];
        let at = bytes.windows(number.len()).position(|piece| piece == number)?;
        let template = Self { bytes, at };
        // They may be elsewhere too.
        let (last, mut written) = (names.last(), Vec::new());
        template.write(last, &mut written);
        (written == read(last).1).then_some(template)
    }

    /// Appends the read of key `id`.
    #[inline]
    pub fn write(&self, id: u64, out: &mut Vec<u8>) {
        let at = out.len() + self.at;
        out.extend_from_slice(&self.bytes);
        out[at..at + DIGITS].copy_from_slice(&digits(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Protocol;

    #[test]
    fn a_read_from_a_template_is_the_read() {
        for protocol in [Protocol::Resp2, Protocol::MemcacheText, Protocol::MemcacheMeta, Protocol::Http] {
            let wire = Wire::new(protocol, "host:1", None);
            for (prefix, sizes, group, is_one) in [
                ("key:", "16", None, true),
                ("k", "40", None, true),
                ("key:", "16-20", None, false),
                ("", "30", Some(4), false),
            ] {
                let names = KeyNames::new(prefix, &sizes.parse().expect("sizes"), 1 << 39, group).expect("names");
                let template = Template::of(&wire, &names);
                assert_eq!(template.is_some(), is_one, "{protocol} {prefix} {sizes}");
                for id in [0, 7, 1_234_567_890, (1 << 39) - 1].into_iter().filter(|_| is_one) {
                    let (mut name, mut written, mut copied) = (Vec::new(), b"before".to_vec(), b"before".to_vec());
                    names.write(id, &mut name);
                    wire.get(&name, &mut written);
                    template.as_ref().expect("there is one").write(id, &mut copied);
                    assert_eq!(copied.escape_ascii().to_string(), written.escape_ascii().to_string());
                }
            }
        }
    }
}
