//! Requests of the meta protocol: `<name> <key> [<bytes>] <flags>*`, each flag a letter with its token behind it.

use super::parser::{KEY_BYTES_MAX, KeyRequest, Line, Parser, Progress, Request};
use super::text::{BAD_FORMAT, DATA_BYTES_MAX, ERROR};
use super::words::{Words, expiry, is_key, unsigned};
use super::{Form, OPAQUE_BYTES_MAX, Style, base64};
use crate::command::{Ask, Claim, Count, Expiry, Op, Remove, Span, Store, StoreMode};

const BAD_TOKEN: &str = "CLIENT_ERROR bad token in command line format\r\n";
const TOO_MANY: &str = "CLIENT_ERROR options flags are too long\r\n";
const DUPLICATE: &str = "CLIENT_ERROR duplicate flag\r\n";
const INVALID: &str = "CLIENT_ERROR invalid flag\r\n";
/// What `md` and `ma` call all of these.
const INVALID_OR_DUPLICATE: &str = "CLIENT_ERROR invalid or duplicate flag\r\n";
const BAD_KEY: &str = "CLIENT_ERROR error decoding key\r\n";
const LONG_OPAQUE: &str = "CLIENT_ERROR opaque token too long\r\n";
const BAD_MODE_LENGTH: &str = "CLIENT_ERROR incorrect length for M token\r\n";
const BAD_SET_MODE: &str = "CLIENT_ERROR invalid mode for ms M token\r\n";
const BAD_COUNT_MODE: &str = "CLIENT_ERROR invalid mode for ma M token\r\n";

/// Says what to do, for it costs every key some bytes.
const NO_ACCESS_TIMES: &str = "CLIENT_ERROR flag l takes access_times = true in the server's settings\r\n";

/// Why flags are refused.
enum Refusal {
    /// As memcached does it.
    Usual(&'static str),
    /// Because the server is not set up for them.
    NotServed(&'static str),
}

/// What a request's flags say.
struct Flags {
    form: Form,
    /// `T`
    expiry: Option<Expiry>,
    /// `C`
    compare: Option<u64>,
    /// `E`, or 0.
    version: u64,
    /// `F`
    client_flags: u32,
    /// `M`, or 0.
    mode: u8,
    /// `N`
    created_expiry: Option<Expiry>,
    /// `J`
    initial: u64,
    /// `D`
    delta: u64,
    /// Not `u`.
    bump: bool,
    /// `R`
    renew_below: Option<Expiry>,
    /// `I`
    invalidate: bool,
    /// `x`
    empty: bool,
}

/// The request of a line whose first word is two letters, of which `m` is the first.
pub(super) fn request(parser: &mut Parser, line: &Line<'_, '_>, words: &Words<'_>, decoded: &mut Vec<u8>) -> Progress {
    let request = match (words.get(0)[1], words.len()) {
        (b'n', _) => Request::Answer("MN\r\n"),
        (b's', 2..) => return store(parser, line, words, decoded),
        (b'e', 1) => Request::Refused(BAD_FORMAT),
        (name @ (b'g' | b'd' | b'a' | b'e'), 2..) => keyed(name, line, words, decoded).unwrap_or_else(Request::Refused),
        _ => Request::Refused(ERROR),
    };
    Progress::Done(request, line.after)
}

/// A request without data.
fn keyed(name: u8, line: &Line<'_, '_>, words: &Words<'_>, decoded: &mut Vec<u8>) -> Result<Request, &'static str> {
    let flags = flags(name, line, words, 2).map_err(|refusal| match refusal {
        Refusal::Usual(text) if name == b'g' || text == BAD_FORMAT => text,
        Refusal::Usual(_) => INVALID_OR_DUPLICATE,
        Refusal::NotServed(text) => text,
    })?;
    let op = match name {
        b'g' => {
            let expiry = flags.expiry.unwrap_or(Expiry::Keep);
            Op::Fetch { expiry, bump: flags.bump, ask: Some(flags.ask()) }
        }
        b'e' => Op::Fetch { expiry: Expiry::Keep, bump: false, ask: None },
        b'd' => {
            let stale = flags.invalidate.then_some(flags.expiry.unwrap_or(Expiry::Keep));
            Op::Remove(Remove { compare: flags.compare, stale, empty: flags.empty, version: flags.version })
        }
        _ => Op::Count(Count {
            delta: flags.delta,
            down: match flags.mode {
                0 | b'I' | b'+' => false,
                b'D' | b'-' => true,
                _ => return Err(BAD_COUNT_MODE),
            },
            initial: flags.created_expiry.map(|expiry| (flags.initial, expiry)),
            expiry: flags.expiry.unwrap_or(Expiry::Keep),
            compare: flags.compare,
            version: flags.version,
        }),
    };
    let bad_key = if matches!(name, b'd' | b'a') { INVALID_OR_DUPLICATE } else { BAD_KEY };
    on_key(line, words, flags.form, op, decoded).map(Request::Key).ok_or(bad_key)
}

/// `ms <key> <bytes> <flags>*`
fn store(parser: &mut Parser, line: &Line<'_, '_>, words: &Words<'_>, decoded: &mut Vec<u8>) -> Progress {
    let Some(length) = unsigned(words.get(2)).filter(|&n| n <= DATA_BYTES_MAX) else {
        return Progress::Done(Request::Refused(BAD_FORMAT), line.after);
    };
    let length = length as usize;
    let before = decoded.len();
    let request = flags(b's', line, words, 3).map_err(|refusal| match refusal {
        Refusal::Usual(text) | Refusal::NotServed(text) => text,
    });
    let request = request.and_then(|flags| on_key(line, words, flags.form, store_op(&flags)?, decoded).ok_or(BAD_KEY));
    match request {
        Ok(request) => {
            let progress = parser.with_data(line, length, request);
            if matches!(progress, Progress::Incomplete(_)) {
                decoded.truncate(before);
            }
            progress
        }
        Err(text) => parser.refuse_data(line, text, length),
    }
}

fn store_op(flags: &Flags) -> Result<Op<'static>, &'static str> {
    let mode = match flags.mode {
        0 | b'S' => StoreMode::Set,
        b'E' => StoreMode::Add,
        b'R' => StoreMode::Replace,
        b'A' => StoreMode::Append,
        b'P' => StoreMode::Prepend,
        _ => return Err(BAD_SET_MODE),
    };
    let extends = matches!(mode, StoreMode::Append | StoreMode::Prepend);
    let created_expiry = flags.created_expiry.filter(|_| extends);
    let expiry = created_expiry.or(flags.expiry).unwrap_or(Expiry::Never);
    Ok(Op::Store(Store {
        flags: flags.client_flags,
        compare: flags.compare,
        invalidate: flags.invalidate,
        create: created_expiry.is_some(),
        version: flags.version,
        ..Store::new(mode, expiry)
    }))
}

/// An operation on the key that the second word is or encodes; `None` if it encodes no key.
fn on_key(
    line: &Line<'_, '_>,
    words: &Words<'_>,
    form: Form,
    op: Op<'static>,
    decoded: &mut Vec<u8>,
) -> Option<KeyRequest> {
    let mut key = words.span(1);
    if form.base64 {
        let start = decoded.len();
        if !base64::decode(words.get(1), decoded) || decoded.len() - start > line.limits.key_bytes() {
            return None;
        }
        key = Span::new(start, decoded.len());
    }
    Some(KeyRequest { key, is_decoded: form.base64, op, bytes: Span::default(), form, is_first: true })
}

/// Checks the key and reads the flags, which begin at word `from`.
fn flags(name: u8, line: &Line<'_, '_>, words: &Words<'_>, from: usize) -> Result<Flags, Refusal> {
    let style = match name {
        b'g' => Style::MetaGet,
        b's' => Style::MetaSet,
        b'd' => Style::MetaDelete,
        b'a' => Style::MetaCount,
        _ => Style::MetaDebug,
    };
    let mut flags = Flags {
        form: Form::of(style),
        expiry: None,
        compare: None,
        version: 0,
        client_flags: 0,
        mode: 0,
        created_expiry: None,
        initial: 0,
        delta: 1,
        bump: true,
        renew_below: None,
        invalidate: false,
        empty: false,
    };
    if words.overflow() {
        return Err(Refusal::Usual(TOO_MANY));
    }
    let mut seen = 0u128;
    for word in words.from(from) {
        let (flag, token) = (word[0], &word[1..]);
        let bit = if flag.is_ascii() { 1 << flag } else { 0 };
        if seen & bit != 0 {
            return Err(Refusal::Usual(DUPLICATE));
        }
        seen |= bit;
        if name == b'e' {
            flags.form.base64 |= flag == b'b';
        } else {
            flags.take(name, flag, token, line.limits.access_times)?;
        }
    }
    if name == b'g' {
        flags.form.known = flags.compare;
    }
    let max = line.limits.key_bytes();
    let is_key = if flags.form.base64 { words.get(1).len() <= KEY_BYTES_MAX } else { is_key(words.get(1), max) };
    if is_key { Ok(flags) } else { Err(Refusal::Usual(BAD_FORMAT)) }
}

impl Flags {
    /// What a `mg` asks for: always a lease on a stale value. `N` is how long one on a missing value lasts.
    fn ask(&self) -> Ask {
        let (claim, term) = self.created_expiry.map_or((Claim::Stale, 0), |term| (Claim::Missing, millis(term).max(1)));
        let renew_below_ms = match self.renew_below {
            None | Some(Expiry::Never) => 0,
            Some(time) => millis(time),
        };
        let term_ms = u32::try_from(term).unwrap_or(u32::MAX);
        Ask { claim, renew_below_ms, term_ms, wait_ms: 0, version: self.version }
    }

    fn take(&mut self, name: u8, flag: u8, token: &[u8], access_times: bool) -> Result<(), Refusal> {
        let bad_token = Refusal::Usual(BAD_TOKEN);
        if (name, flag) == (b'g', b'l') && !access_times {
            return Err(Refusal::NotServed(NO_ACCESS_TIMES));
        }
        if returned_by(name).contains(&flag) {
            // No command returns more of them than there is room for, and none comes twice.
            let at = self.form.returned.iter().position(|&f| f == 0).unwrap_or(0);
            self.form.returned[at] = flag;
        }
        match flag {
            b'b' => self.form.base64 = true,
            b'q' => self.form.quiet = true,
            b'v' => self.form.with_value = true,
            b'u' => self.bump = false,
            b'O' => {
                if token.len() > OPAQUE_BYTES_MAX {
                    return Err(Refusal::Usual(LONG_OPAQUE));
                }
                self.form.opaque[..token.len()].copy_from_slice(token);
                self.form.opaque_len = token.len() as u8;
            }
            b'R' => self.renew_below = Some(expiry(token).ok_or(bad_token)?),
            b'I' => self.invalidate = true,
            b'x' => self.empty = true,
            b'T' => self.expiry = Some(expiry(token).ok_or(bad_token)?),
            b'N' => self.created_expiry = Some(expiry(token).ok_or(bad_token)?),
            b'C' => self.compare = Some(unsigned(token).ok_or(bad_token)?),
            b'E' => self.version = unsigned(token).ok_or(bad_token)?,
            b'J' => self.initial = unsigned(token).ok_or(bad_token)?,
            b'D' => self.delta = unsigned(token).ok_or(bad_token)?,
            b'F' => {
                let number = unsigned(token).and_then(|n| u32::try_from(n).ok());
                self.client_flags = number.ok_or(Refusal::Usual(BAD_FORMAT))?;
            }
            b'M' => match token {
                [mode] => self.mode = *mode,
                _ => return Err(Refusal::Usual(BAD_MODE_LENGTH)),
            },
            // For proxies, and those of other commands.
            b'P' | b'L' | b'c' | b'f' | b'h' | b'k' | b'l' | b's' | b't' => {}
            _ => return Err(Refusal::Usual(INVALID)),
        }
        Ok(())
    }
}

/// A time from now, in milliseconds. One that is a date, or for ever, is as long as can be.
fn millis(time: Expiry) -> u64 {
    match time {
        Expiry::In(millis) => u64::try_from(millis).unwrap_or(0),
        Expiry::At(_) | Expiry::Never | Expiry::Keep => u64::MAX,
    }
}

/// The flags that replies to `m<name>` repeat or answer.
fn returned_by(name: u8) -> &'static [u8] {
    match name {
        b'g' => b"Okcfhlst",
        b's' => b"Okcs",
        b'a' => b"Okct",
        _ => b"Ok",
    }
}
