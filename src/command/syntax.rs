//! From arguments to an [`Op`]: one function for each shape of command. The
//! texts of refusals are redis-server's, which clients match on.

use super::{Args, Ask, Claim, Condition, ExpireCondition, Expiry, Op, OpError, SetReply, Store, StoreMode, TtlUnit};

/// Why a request was refused before it reached the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyntaxError {
    /// ERR syntax error
    Syntax,
    /// ERR value is not an integer or out of range
    NotAnInteger,
    /// ERR invalid expire time in 'NAME' command
    InvalidExpire,
    /// ERR wrong number of arguments for 'NAME' command
    WrongArity,
    /// ERR Unsupported option ARGUMENT: the argument of this number.
    UnsupportedOption(usize),
    /// A fixed text of one command.
    Other(&'static str),
}

impl SyntaxError {
    /// Code and text; `command` is the name as it appears in the text. Arguments are
    /// repeated as they came, whatever bytes they are.
    pub fn describe(self, command: &str, args: Args<'_>) -> Vec<u8> {
        match self {
            SyntaxError::Syntax => "ERR syntax error".into(),
            SyntaxError::NotAnInteger => "ERR value is not an integer or out of range".into(),
            SyntaxError::InvalidExpire => format!("ERR invalid expire time in '{command}' command").into(),
            SyntaxError::WrongArity => format!("ERR wrong number of arguments for '{command}' command").into(),
            SyntaxError::UnsupportedOption(i) => [b"ERR Unsupported option ", args.get(i)].concat(),
            SyntaxError::Other(text) => text.into(),
        }
    }
}

/// The longest that `GETLEASE` waits, and the longest that a lease lasts, in milliseconds.
const WAIT_MS_MAX: i64 = 60_000;
const LEASE_MS_MAX: i64 = 3_600_000;

type Parsed<'a> = Result<Op<'a>, SyntaxError>;

/// `EX 5`, `PX 5`, `EXAT t`, `PXAT t`: a unit word and a positive number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Ex,
    Px,
    ExAt,
    PxAt,
}

impl Unit {
    fn from_word(word: &[u8]) -> Option<Unit> {
        const WORDS: [(&str, Unit); 4] =
            [("ex", Unit::Ex), ("px", Unit::Px), ("exat", Unit::ExAt), ("pxat", Unit::PxAt)];
        WORDS.iter().find(|(w, _)| word.eq_ignore_ascii_case(w.as_bytes())).map(|&(_, unit)| unit)
    }

    /// The deadline that `amount` of this unit means. Zero and negative are refused.
    fn positive(self, amount: i64) -> Result<Expiry, SyntaxError> {
        if amount <= 0 {
            return Err(SyntaxError::InvalidExpire);
        }
        self.any(amount)
    }

    fn any(self, amount: i64) -> Result<Expiry, SyntaxError> {
        let seconds = matches!(self, Unit::Ex | Unit::ExAt);
        let millis = if seconds { amount.checked_mul(1000) } else { Some(amount) }.ok_or(SyntaxError::InvalidExpire)?;
        Ok(if matches!(self, Unit::Ex | Unit::Px) { Expiry::In(millis) } else { Expiry::At(millis) })
    }
}

/// A deadline's unit at argument `i`, and where its amount is. The same unit may be
/// said again, and the last one counts; another unit may not.
fn deadline_option(args: &Args<'_>, i: usize, before: Option<(Unit, usize)>) -> Option<(Unit, usize)> {
    let unit = Unit::from_word(args.get(i)).filter(|_| i + 1 < args.len())?;
    before.is_none_or(|(other, _)| other == unit).then_some((unit, i + 1))
}

/// `GET key`
pub fn get<'a>(_: &Args<'a>) -> Parsed<'a> {
    Ok(Op::Get)
}

/// `SET key value [NX | XX] [GET] [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL] [SOFTEX s | SOFTPX ms] [LEASE token]`
pub fn set<'a>(args: &Args<'a>) -> Parsed<'a> {
    let (mut condition, mut reply) = (Condition::Always, SetReply::Status);
    let mut keep = false;
    let mut deadline: Option<(Unit, usize)> = None;
    let (mut soft_ms, mut lease) = (0, None);
    let mut i = 3;
    while i < args.len() {
        let word = args.get(i);
        if word.eq_ignore_ascii_case(b"nx") && condition != Condition::Present {
            condition = Condition::Absent;
        } else if word.eq_ignore_ascii_case(b"xx") && condition != Condition::Absent {
            condition = Condition::Present;
        } else if word.eq_ignore_ascii_case(b"get") {
            reply = SetReply::Old;
        } else if word.eq_ignore_ascii_case(b"keepttl") && deadline.is_none() {
            keep = true;
        } else if let Some(option) = deadline_option(args, i, deadline)
            && !keep
        {
            deadline = Some(option);
            i += 1;
        } else if i + 1 < args.len() && soft_ms == 0 && is_soft(word) {
            let unit = if word.eq_ignore_ascii_case(b"softpx") { Unit::Px } else { Unit::Ex };
            let Expiry::In(millis) = unit.positive(args.integer(i + 1)?)? else { return Err(SyntaxError::Syntax) };
            soft_ms = millis as u64;
            i += 1;
        } else if i + 1 < args.len() && lease.is_none() && word.eq_ignore_ascii_case(b"lease") {
            const POSITIVE: SyntaxError = SyntaxError::Other("ERR a lease is a positive number");
            lease = Some(u64::try_from(args.integer(i + 1)?).map_err(|_| POSITIVE)?);
            i += 1;
        } else {
            return Err(SyntaxError::Syntax);
        }
        i += 1;
    }
    let expiry = match deadline {
        Some((unit, at)) => unit.positive(args.integer(at)?)?,
        None if keep => Expiry::Keep,
        None => Expiry::Never,
    };
    if soft_ms > 0 || lease.is_some() {
        if reply == SetReply::Old {
            return Err(SyntaxError::Other("ERR SET with GET takes neither SOFTEX, SOFTPX nor LEASE"));
        }
        let mode = match condition {
            Condition::Always => StoreMode::Set,
            Condition::Absent => StoreMode::Add,
            Condition::Present => StoreMode::Replace,
        };
        let store = Store { compare: lease, soft_ms, ..Store::new(mode, expiry) };
        return Ok(Op::Store(store).with_bytes(args.get(2)));
    }
    Ok(Op::Set { value: args.get(2), expiry, condition, reply })
}

fn is_soft(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"softex") || word.eq_ignore_ascii_case(b"softpx")
}

/// `GETLEASE key [WAIT ms] [TTL ms]`
pub fn getlease<'a>(args: &Args<'a>) -> Parsed<'a> {
    let (mut wait, mut term) = (None, None);
    let mut i = 2;
    while i < args.len() {
        let (place, range, refusal) = if args.is(i, "wait") && wait.is_none() {
            (&mut wait, 0..=WAIT_MS_MAX, "ERR WAIT is a number of milliseconds from 0 to 60000")
        } else if args.is(i, "ttl") && term.is_none() {
            (&mut term, 1..=LEASE_MS_MAX, "ERR TTL is a number of milliseconds from 1 to 3600000")
        } else {
            return Err(SyntaxError::Syntax);
        };
        if i + 1 == args.len() {
            return Err(SyntaxError::Syntax);
        }
        let millis = args.integer(i + 1).ok().filter(|millis| range.contains(millis));
        *place = Some(millis.ok_or(SyntaxError::Other(refusal))? as u32);
        i += 2;
    }
    let (term_ms, wait_ms) = (term.unwrap_or(0), wait.unwrap_or(0));
    let ask = Some(Ask { claim: Claim::Missing, term_ms, wait_ms, ..Ask::NOTHING });
    Ok(Op::Fetch { expiry: Expiry::Keep, bump: true, ask })
}

fn set_with_expiry<'a>(args: &Args<'a>, unit: Unit) -> Parsed<'a> {
    let expiry = unit.positive(args.integer(2)?)?;
    Ok(Op::Set { value: args.get(3), expiry, condition: Condition::Always, reply: SetReply::Status })
}

/// `SETEX key seconds value`
pub fn setex<'a>(args: &Args<'a>) -> Parsed<'a> {
    set_with_expiry(args, Unit::Ex)
}

/// `PSETEX key milliseconds value`
pub fn psetex<'a>(args: &Args<'a>) -> Parsed<'a> {
    set_with_expiry(args, Unit::Px)
}

/// `SETNX key value`
pub fn setnx<'a>(args: &Args<'a>) -> Parsed<'a> {
    let (expiry, condition) = (Expiry::Never, Condition::Absent);
    Ok(Op::Set { value: args.get(2), expiry, condition, reply: SetReply::Integer })
}

/// `GETSET key value`
pub fn getset<'a>(args: &Args<'a>) -> Parsed<'a> {
    let (expiry, condition) = (Expiry::Never, Condition::Always);
    Ok(Op::Set { value: args.get(2), expiry, condition, reply: SetReply::Old })
}

/// One pair of `MSET`: a plain write of `value`.
pub fn plain_set(value: &[u8]) -> Op<'_> {
    Op::Set { value, expiry: Expiry::Never, condition: Condition::Always, reply: SetReply::Status }
}

/// `GETDEL key`
pub fn getdel<'a>(_: &Args<'a>) -> Parsed<'a> {
    Ok(Op::GetDel)
}

/// `GETEX key [EX s | PX ms | EXAT s | PXAT ms | PERSIST]`
pub fn getex<'a>(args: &Args<'a>) -> Parsed<'a> {
    let mut persist = false;
    let mut deadline: Option<(Unit, usize)> = None;
    let mut i = 2;
    while i < args.len() {
        if args.is(i, "persist") && deadline.is_none() {
            persist = true;
        } else if let Some(option) = deadline_option(args, i, deadline)
            && !persist
        {
            deadline = Some(option);
            i += 1;
        } else {
            return Err(SyntaxError::Syntax);
        }
        i += 1;
    }
    let expiry = match deadline {
        Some((unit, at)) => match args.integer(at).map(|amount| unit.positive(amount)) {
            Ok(Ok(expiry)) => Ok(expiry),
            Ok(Err(_)) => Err(OpError::InvalidExpire),
            Err(_) => Err(OpError::NotAnInteger),
        },
        None if persist => Ok(Expiry::Never),
        None => Ok(Expiry::Keep),
    };
    Ok(Op::GetEx { expiry })
}

/// `APPEND key value`
pub fn append<'a>(args: &Args<'a>) -> Parsed<'a> {
    Ok(Op::Append { tail: args.get(2) })
}

/// `STRLEN key`
pub fn strlen<'a>(_: &Args<'a>) -> Parsed<'a> {
    Ok(Op::Strlen)
}

/// `INCR key`
pub fn incr<'a>(_: &Args<'a>) -> Parsed<'a> {
    Ok(Op::IncrBy { delta: 1 })
}

/// `DECR key`
pub fn decr<'a>(_: &Args<'a>) -> Parsed<'a> {
    Ok(Op::IncrBy { delta: -1 })
}

/// `INCRBY key increment`
pub fn incrby<'a>(args: &Args<'a>) -> Parsed<'a> {
    Ok(Op::IncrBy { delta: args.integer(2)? })
}

/// `DECRBY key decrement`
pub fn decrby<'a>(args: &Args<'a>) -> Parsed<'a> {
    let delta = args.integer(2)?.checked_neg().ok_or(SyntaxError::Other("ERR decrement would overflow"))?;
    Ok(Op::IncrBy { delta })
}

fn expire_with_unit<'a>(args: &Args<'a>, unit: Unit) -> Parsed<'a> {
    let amount = args.integer(2);
    let mut condition = ExpireCondition::default();
    for (i, word) in args.from(3).enumerate() {
        match word.to_ascii_lowercase().as_slice() {
            b"nx" => condition.nx = true,
            b"xx" => condition.xx = true,
            b"gt" => condition.gt = true,
            b"lt" => condition.lt = true,
            _ => return Err(SyntaxError::UnsupportedOption(3 + i)),
        }
    }
    if condition.nx && (condition.xx || condition.gt || condition.lt) {
        return Err(SyntaxError::Other("ERR NX and XX, GT or LT options at the same time are not compatible"));
    }
    if condition.gt && condition.lt {
        return Err(SyntaxError::Other("ERR GT and LT options at the same time are not compatible"));
    }
    Ok(Op::Expire { expiry: unit.any(amount?)?, condition })
}

/// `EXPIRE key seconds [NX | XX | GT | LT]`
pub fn expire<'a>(args: &Args<'a>) -> Parsed<'a> {
    expire_with_unit(args, Unit::Ex)
}

/// `PEXPIRE key milliseconds [NX | XX | GT | LT]`
pub fn pexpire<'a>(args: &Args<'a>) -> Parsed<'a> {
    expire_with_unit(args, Unit::Px)
}

/// `EXPIREAT key unix-seconds [NX | XX | GT | LT]`
pub fn expireat<'a>(args: &Args<'a>) -> Parsed<'a> {
    expire_with_unit(args, Unit::ExAt)
}

/// `PEXPIREAT key unix-milliseconds [NX | XX | GT | LT]`
pub fn pexpireat<'a>(args: &Args<'a>) -> Parsed<'a> {
    expire_with_unit(args, Unit::PxAt)
}

/// `TTL key`
pub fn ttl<'a>(_: &Args<'a>) -> Parsed<'a> {
    Ok(Op::Ttl(TtlUnit::Seconds))
}

/// `PTTL key`
pub fn pttl<'a>(_: &Args<'a>) -> Parsed<'a> {
    Ok(Op::Ttl(TtlUnit::Millis))
}

/// `EXPIRETIME key`
pub fn expiretime<'a>(_: &Args<'a>) -> Parsed<'a> {
    Ok(Op::Ttl(TtlUnit::UnixSeconds))
}

/// `PEXPIRETIME key`
pub fn pexpiretime<'a>(_: &Args<'a>) -> Parsed<'a> {
    Ok(Op::Ttl(TtlUnit::UnixMillis))
}

/// `PERSIST key`
pub fn persist<'a>(_: &Args<'a>) -> Parsed<'a> {
    Ok(Op::Persist)
}

/// `TYPE key`
pub fn type_of<'a>(_: &Args<'a>) -> Parsed<'a> {
    Ok(Op::Type)
}

#[cfg(test)]
mod tests {
    use super::super::args::Span;
    use super::*;

    fn parse(f: for<'a> fn(&Args<'a>) -> Parsed<'a>, line: &str) -> Result<String, SyntaxError> {
        let mut spans = Vec::new();
        let mut at = 0;
        for word in line.split(' ') {
            spans.push(Span::new(at, at + word.len()));
            at += word.len() + 1;
        }
        f(&Args::new(line.as_bytes(), &spans)).map(|op| format!("{op:?}"))
    }

    #[test]
    fn set_options_conflict_as_in_redis() {
        for bad in [
            "set k v nx xx",
            "set k v ex 1 px 1",
            "set k v ex 1 keepttl",
            "set k v keepttl ex 1",
            "set k v ex",
            "set k v what",
        ] {
            assert_eq!(parse(set, bad), Err(SyntaxError::Syntax), "{bad}");
        }
        assert_eq!(parse(set, "set k v EX 0"), Err(SyntaxError::InvalidExpire));
        assert_eq!(parse(set, "set k v EX 9223372036854775807"), Err(SyntaxError::InvalidExpire));
        assert_eq!(parse(set, "set k v PX one"), Err(SyntaxError::NotAnInteger));
        assert!(parse(set, "set k v xx get EXAT 5").unwrap().contains("At(5000)"));
    }

    #[test]
    fn expire_conditions_conflict_as_in_redis() {
        assert!(matches!(parse(expire, "expire k 1 nx gt"), Err(SyntaxError::Other(_))));
        assert!(matches!(parse(expire, "expire k 1 gt lt"), Err(SyntaxError::Other(_))));
        assert!(parse(expire, "expire k -5 xx gt").unwrap().contains("In(-5000)"));
    }
}
