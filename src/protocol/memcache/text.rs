//! Requests of the text protocol.

use super::parser::{KeyRequest, Keys, Line, Parser, Progress, Request, StatsOf};
use super::words::{Words, expiry, is_key, unsigned};
use super::{Form, Style};
use crate::command::{Count, Expiry, Op, Remove, Span, Store, StoreMode};

pub(super) const ERROR: &str = "ERROR\r\n";
pub(super) const BAD_FORMAT: &str = "CLIENT_ERROR bad command line format\r\n";
const BAD_EXPIRY: &str = "CLIENT_ERROR invalid exptime argument\r\n";
/// The longest data block that is one at all.
pub(super) const DATA_BYTES_MAX: u64 = i32::MAX as u64 - 2;

/// The request of a line that is no meta request.
pub(super) fn request(parser: &mut Parser, line: &Line<'_, '_>, words: &Words<'_>) -> Progress {
    let store = |parser, mode| store(parser, line, words, mode, false);
    match (words.get(0), words.len()) {
        (b"get", 2..) => keys(parser, line, words, Style::Value),
        (b"gets", 2..) => keys(parser, line, words, Style::ValueVersion),
        (b"gat", 2..) => touched_keys(parser, line, words, Style::Value),
        (b"gats", 2..) => touched_keys(parser, line, words, Style::ValueVersion),
        (b"set", 5 | 6) => store(parser, StoreMode::Set),
        (b"add", 5 | 6) => store(parser, StoreMode::Add),
        (b"replace", 5 | 6) => store(parser, StoreMode::Replace),
        (b"append", 5 | 6) => store(parser, StoreMode::Append),
        (b"prepend", 5 | 6) => store(parser, StoreMode::Prepend),
        (b"cas", 6 | 7) => self::store(parser, line, words, StoreMode::Set, true),
        (b"GET" | b"POST", 2..) => Progress::Done(Request::Quit, line.after),
        _ => Progress::Done(short(line, words), line.after),
    }
}

/// A request that is a line and nothing more.
fn short(line: &Line<'_, '_>, words: &Words<'_>) -> Request {
    match (words.get(0), words.len()) {
        (b"incr", 3 | 4) => count(line, words, false),
        (b"decr", 3 | 4) => count(line, words, true),
        (b"delete", 2..=4) => delete(line, words),
        (b"touch", 3 | 4) => touch(line, words),
        (b"flush_all", 1..=3) => flush(words),
        (b"verbosity", 2..) => verbosity(words),
        (b"version", _) => Request::Version,
        (b"quit", _) => Request::Quit,
        (b"stats", 1) => Request::Stats(StatsOf::General),
        (b"stats", _) => stats_of(words.get(1)),
        _ => Request::Refused(ERROR),
    }
}

/// A refusal, of which a client that reads no reply hears nothing.
fn refused(words: &Words<'_>, text: &'static str) -> Request {
    Request::Refused(if words.ends_silent() { "" } else { text })
}

/// An operation on the key that the line's second word is.
fn on_key(line: &Line<'_, '_>, words: &Words<'_>, style: Style, op: Op<'static>) -> Request {
    if !is_key(words.get(1), line.limits.key_bytes()) {
        return refused(words, BAD_FORMAT);
    }
    let form = Form { silent: words.ends_silent(), ..Form::of(style) };
    let key = words.span(1);
    Request::Key(KeyRequest { key, is_decoded: false, op, bytes: Span::default(), form, is_first: true })
}

fn keys(parser: &mut Parser, line: &Line<'_, '_>, words: &Words<'_>, style: Style) -> Progress {
    let from = words.span(0).end as usize;
    parser.keys(line, from, Keys { style, expiry: None, is_first: true })
}

fn touched_keys(parser: &mut Parser, line: &Line<'_, '_>, words: &Words<'_>, style: Style) -> Progress {
    let Some(expiry) = expiry(words.get(1)) else {
        return Progress::Done(Request::Refused(BAD_EXPIRY), line.after);
    };
    let from = words.span(1).end as usize;
    parser.keys(line, from, Keys { style, expiry: Some(expiry), is_first: true })
}

/// `<name> <key> <flags> <exptime> <bytes> [<version>] [noreply]`
fn store(parser: &mut Parser, line: &Line<'_, '_>, words: &Words<'_>, mode: StoreMode, compares: bool) -> Progress {
    let refusal = if words.ends_silent() { "" } else { BAD_FORMAT };
    let Some(length) = unsigned(words.get(4)).filter(|&n| n <= DATA_BYTES_MAX) else {
        return Progress::Done(Request::Refused(refusal), line.after);
    };
    let flags = unsigned(words.get(2)).and_then(|n| u32::try_from(n).ok());
    let version = if compares { unsigned(words.get(5)).map(Some) } else { Some(None) };
    let request = match (flags, expiry(words.get(3)), version) {
        (Some(flags), Some(expiry), Some(compare)) => {
            let op = Op::Store(Store { flags, compare, ..Store::new(mode, expiry) });
            on_key(line, words, Style::Stored, op)
        }
        _ => Request::Refused(refusal),
    };
    match request {
        Request::Key(request) => parser.with_data(line, length as usize, request),
        _ => parser.refuse_data(line, refusal, length as usize),
    }
}

/// `<name> <key> <delta> [noreply]`
fn count(line: &Line<'_, '_>, words: &Words<'_>, down: bool) -> Request {
    let Some(delta) = unsigned(words.get(2)) else {
        let text = if is_key(words.get(1), line.limits.key_bytes()) {
            "CLIENT_ERROR invalid numeric delta argument\r\n"
        } else {
            BAD_FORMAT
        };
        return refused(words, text);
    };
    let count = Count { delta, down, initial: None, expiry: Expiry::Keep, compare: None, version: 0 };
    on_key(line, words, Style::Number, Op::Count(count))
}

/// `delete <key> [0] [noreply]`
fn delete(line: &Line<'_, '_>, words: &Words<'_>) -> Request {
    let last = words.len() - usize::from(words.ends_silent() && words.len() > 2);
    if last > 3 || (last == 3 && words.get(2) != b"0") {
        return refused(words, "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n");
    }
    on_key(line, words, Style::Deleted, Op::Remove(Remove::default()))
}

/// `touch <key> <exptime> [noreply]`
fn touch(line: &Line<'_, '_>, words: &Words<'_>) -> Request {
    match expiry(words.get(2)) {
        Some(expiry) => on_key(line, words, Style::Touched, Op::Fetch { expiry, bump: true, ask: None }),
        None if is_key(words.get(1), line.limits.key_bytes()) => refused(words, BAD_EXPIRY),
        None => refused(words, BAD_FORMAT),
    }
}

/// `flush_all [delay] [noreply]`
fn flush(words: &Words<'_>) -> Request {
    let silent = words.ends_silent();
    let has_delay = words.len() - usize::from(silent) > 1;
    let when = if has_delay { expiry(words.get(1)) } else { Some(Expiry::Never) };
    when.map_or(refused(words, BAD_EXPIRY), |when| {
        // No delay is none, and not for ever.
        let when = if when == Expiry::Never { Expiry::In(0) } else { when };
        Request::Flush(when, if silent { "" } else { "OK\r\n" })
    })
}

/// `stats <what>`; what more there is behind that means nothing to memcached either.
fn stats_of(what: &[u8]) -> Request {
    Request::Stats(match what {
        b"settings" => StatsOf::Settings,
        b"items" => StatsOf::Items,
        b"slabs" => StatsOf::Slabs,
        b"sizes" => StatsOf::Sizes,
        // Counters of /metrics do not go back.
        b"reset" => return Request::Refused("CLIENT_ERROR stats reset is not served; counters go on\r\n"),
        _ => return Request::Refused(ERROR),
    })
}

/// `verbosity <level> [noreply]`: there is no level, but clients expect an answer.
fn verbosity(words: &Words<'_>) -> Request {
    let is_level = words.ends_silent() || unsigned(words.get(1)).is_some();
    match (is_level, words.ends_silent()) {
        (_, true) => Request::Answer(""),
        (true, false) => Request::Answer("OK\r\n"),
        (false, false) => Request::Refused(BAD_FORMAT),
    }
}
