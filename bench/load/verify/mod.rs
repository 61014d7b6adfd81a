//! Whether what the server answers can be true: values say which key and which
//! write they are, and a ledger knows which writes a read may still see.
//!
//! May miss, never wrong: a miss is always allowed, a value only if some order of
//! the requests that respects real time explains it. The checks are one-sided:
//! where requests overlapped and the order is open, every order is accepted.

pub mod ledger;
pub mod stamp;

pub use ledger::{Known, Ledger, Ticket};
pub use stamp::{Found, Stamper};

/// How late a server may still answer a value whose deadline has passed, in
/// milliseconds: clocks are read once a turn, and run a little apart.
pub const TOLERANCE_MS: u64 = 20;
/// The same for servers whose clock ticks once a second.
pub const TOLERANCE_SECONDS_MS: u64 = 2_000;

/// What a read found, against what was known when it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// A value that may be.
    Right,
    /// An intact value that this run did not write, of a key that it has not written.
    Leftover,
    /// A value that cannot be. Why.
    Wrong(String),
}

/// Judges `value`, read from key `id` by a request that was sent at `sent_ms`, when
/// `known` was known of the key. `issued` is a number that no write has yet.
pub fn judge(
    stamper: &Stamper,
    id: u64,
    value: &[u8],
    known: Known,
    sent_ms: u64,
    late_ms: u64,
    issued: u64,
) -> Judgement {
    let sequence = match stamper.read(id, value) {
        Found::Ours(sequence) => sequence,
        Found::Low(low) => match latest(low, issued) {
            Some(sequence) => sequence,
            None => return Judgement::Wrong(format!("carries write {low}, and only {issued} were made")),
        },
        Found::Short => return Judgement::Right,
        Found::Foreign if known.floor == 0 => return Judgement::Leftover,
        Found::Foreign => {
            return Judgement::Wrong(
                "is of an earlier run, though this run has written the key since: \
                 if another generator writes the same keys now, give each its own --key-prefix"
                    .into(),
            );
        }
        Found::Wrong(_) if known.floor == 0 && value.len() < stamp::HEAD_BYTES => return Judgement::Leftover,
        Found::Wrong(why) => return Judgement::Wrong(why),
    };
    if sequence >= issued {
        return Judgement::Wrong(format!("carries write {sequence}, and only {issued} were made"));
    }
    if sequence < known.floor {
        return Judgement::Wrong(format!(
            "is stale: it carries write {sequence}, and a later one ({} or after) was acknowledged before the read was sent",
            known.floor
        ));
    }
    match known.deadline_ms() {
        Some(deadline) if sequence == known.floor && sent_ms > deadline + late_ms => Judgement::Wrong(format!(
            "has expired: its deadline was {} ms before the read was sent",
            sent_ms - deadline
        )),
        _ => Judgement::Right,
    }
}

/// The last write so far whose number ends in `low`: a short value carries no more of it.
fn latest(low: u32, issued: u64) -> Option<u64> {
    let last = issued.checked_sub(1)?;
    last.checked_sub((last as u32).wrapping_sub(low).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(stamper: &Stamper, id: u64, sequence: u64, len: usize) -> Vec<u8> {
        let mut head = [0; stamp::HEAD_BYTES];
        let value = stamper.value(id, sequence, len, &mut head);
        [value.0, value.1].concat()
    }

    fn word(judgement: &Judgement) -> &str {
        match judgement {
            Judgement::Right => "right",
            Judgement::Leftover => "leftover",
            Judgement::Wrong(why) => why,
        }
    }

    /// Behind four thousand million writes a short value carries a number that has been there before.
    #[test]
    fn numbers_of_short_values_wrap() {
        let (stamper, wrapped) = (Stamper::new(7, 100), 1u64 << 32);
        let known = |floor| Known { floor, until: ledger::FOREVER, mixed: false };
        for (sequence, floor, issued, expected) in [
            (wrapped + 5, wrapped + 5, wrapped + 9, "right"),
            (wrapped + 5, wrapped + 6, wrapped + 9, "stale"),
            (wrapped - 1, wrapped - 1, wrapped + 9, "right"),
            (wrapped - 1, wrapped + 1, wrapped + 9, "stale"),
            (9, 5, 9, "only 9 were made"),
            (8, 5, 9, "right"),
            (wrapped + 9, 5, wrapped + 9, "right"),
        ] {
            for len in [8, 12, 23] {
                let value = value(&stamper, 3, sequence, len);
                let judgement = judge(&stamper, 3, &value, known(floor), 0, TOLERANCE_MS, issued);
                assert!(word(&judgement).contains(expected), "{sequence} {floor} {issued}: {judgement:?}");
            }
        }
    }

    /// Each way in which a reply can be wrong is named; what may be is accepted.
    #[test]
    fn what_cannot_be_is_named() {
        let (ours, before, wide) = (Stamper::new(7, 1000), Stamper::new(6, 1000), Stamper::new(6, 5000));
        let never = Known { floor: 0, until: ledger::ABSENT, mixed: false };
        let written = Known { floor: 5, until: ledger::FOREVER, mixed: false };
        let expiring = Known { floor: 5, until: 100, mixed: false };
        let deadline = expiring.deadline_ms().expect("it has one");
        let torn = {
            let (mut old, new) = (value(&ours, 3, 5, 200), value(&ours, 3, 6, 200));
            old[120..].copy_from_slice(&new[120..]);
            old
        };
        let cut = value(&ours, 3, 5, 200)[..150].to_vec();
        for (bytes, known, sent, expected) in [
            (value(&ours, 3, 5, 100), written, 0, "right"),
            (value(&ours, 3, 6, 100), written, 0, "right"),
            (value(&ours, 3, 4, 100), written, 0, "stale"),
            (value(&ours, 3, 9, 100), written, 0, "only 9 were made"),
            (value(&ours, 4, 5, 100), written, 0, "another key"),
            (value(&before, 3, 5, 100), never, 0, "leftover"),
            (value(&before, 3, 5, 100), written, 0, "earlier run"),
            (torn, written, 0, "torn"),
            (cut, written, 0, "length"),
            (value(&wide, 3, 5, 5000), never, 0, "leftover"),
            (value(&wide, 3, 5, 5000), written, 0, "earlier run"),
            (b"surprise".repeat(3), written, 0, "not a value of this tool"),
            (b"surprise".repeat(10), never, 0, "not a value of this tool"),
            (b"surprise".repeat(10), written, 0, "not a value of this tool"),
            (value(&ours, 3, 5, 12), written, 0, "right"),
            (value(&ours, 3, 4, 12), written, 0, "stale"),
            (value(&before, 3, 5, 12), never, 0, "leftover"),
            (value(&before, 3, 5, 12), written, 0, "another key"),
            (value(&ours, 3, 5, 5), written, 0, "right"),
            (value(&ours, 4, 5, 5), written, 0, "another key"),
            (value(&ours, 3, 5, 100), expiring, deadline + TOLERANCE_MS, "right"),
            (value(&ours, 3, 5, 100), expiring, deadline + TOLERANCE_MS + 1, "expired"),
            (value(&ours, 3, 6, 100), expiring, deadline + 5000, "right"),
        ] {
            let judgement = judge(&ours, 3, &bytes, known, sent, TOLERANCE_MS, 9);
            assert!(word(&judgement).contains(expected), "{judgement:?} is not {expected}");
        }
    }
}
