//! What a request asks for: paths, methods and conditions.

use std::borrow::Cow;

use super::encoder::{Check, Form, Shape};
use super::head::Head;
use super::json::{self, Entry};
use super::request::{Limits, Request};
use super::response::{JSON, OCTETS};
use super::status::{Refusal, Status};
use crate::command::{Ask, Claim, Expiry, Op, Remove, Store, StoreMode};

/// The longest that a client may wait for a fill, in milliseconds.
const WAIT_MS_MAX: u32 = 60_000;
/// Where the values are.
const VALUES: &[u8] = b"/v1/cache/";
/// Where all this is described.
pub(super) const DESCRIPTION_PATH: &[u8] = b"/openapi.json";

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call<'a> {
    /// One operation on one key.
    Key(KeyCall<'a>),
    /// The values of several keys.
    BatchGet(Vec<Vec<u8>>),
    /// Several values to store.
    BatchSet(Vec<Entry>),
    /// The counters.
    Stats,
    /// The keys that cores work for most, and the largest.
    HotKeys,
    /// The cores and their slots.
    Cluster,
    /// The description of all this.
    Description,
}

/// One operation on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyCall<'a> {
    /// The key.
    pub key: Cow<'a, [u8]>,
    /// The operation, without its bytes.
    pub op: Op<'static>,
    /// What it stores.
    pub value: Cow<'a, [u8]>,
    /// How to answer.
    pub form: Form,
}

impl<'a> Call<'a> {
    /// What `request` asks for.
    ///
    /// # Errors
    /// What is wrong with it, to be answered; the connection goes on.
    pub fn of(request: Request<'a>, limits: &Limits) -> Result<Self, Refusal> {
        let (close, bodiless) = (request.head.close, request.head.is_head());
        Self::route(request, limits).map_err(|refusal| Refusal { close, bodiless, ..refusal })
    }

    fn route(request: Request<'a>, limits: &Limits) -> Result<Self, Refusal> {
        let (path, query) = split_target(request.head.target);
        let path = percent_decoded(path.as_bytes())?;
        let head = &request.head;
        match &*path {
            b"/v1/cache:batchGet" => {
                only(head, &["POST"], "POST")?;
                json::read_keys(json_body(&request)?).and_then(|keys| Self::batch_get(keys, limits))
            }
            b"/v1/cache:batchSet" => {
                only(head, &["POST"], "POST")?;
                json::read_entries(json_body(&request)?).and_then(|entries| Self::batch_set(entries, limits))
            }
            b"/v1/stats" => document(head, Call::Stats),
            b"/v1/hotkeys" => document(head, Call::HotKeys),
            b"/v1/cluster" => document(head, Call::Cluster),
            DESCRIPTION_PATH => document(head, Call::Description),
            path_bytes if path_bytes.starts_with(VALUES) => {
                let key = match path {
                    Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[VALUES.len()..]),
                    Cow::Owned(bytes) => Cow::Owned(bytes[VALUES.len()..].to_vec()),
                };
                Ok(Call::Key(KeyCall::of(request, key, query, limits)?))
            }
            _ => Err(Refusal::new(Status::NotFound, "there is no such path: /openapi.json describes those there are")),
        }
    }

    fn batch_get(keys: Vec<Vec<u8>>, limits: &Limits) -> Result<Self, Refusal> {
        keys.iter().try_for_each(|key| check_key(key, limits, Status::BadRequest))?;
        Ok(Call::BatchGet(keys))
    }

    fn batch_set(entries: Vec<Entry>, limits: &Limits) -> Result<Self, Refusal> {
        entries.iter().try_for_each(|entry| check_key(&entry.key, limits, Status::BadRequest))?;
        Ok(Call::BatchSet(entries))
    }
}

impl<'a> KeyCall<'a> {
    fn of(request: Request<'a>, key: Cow<'a, [u8]>, query: Option<&'a str>, limits: &Limits) -> Result<Self, Refusal> {
        const ALLOWED: &str = "GET, HEAD, PUT, DELETE";
        only(&request.head, &["GET", "HEAD", "PUT", "DELETE"], ALLOWED)?;
        check_key(&key, limits, Status::UriTooLong)?;
        for (name, tags) in [("If-Match", request.head.if_match), ("If-None-Match", request.head.if_none_match)] {
            if tags.malformed {
                let message = format!("{name} is neither * nor a version in quotes, as ETag has it");
                return Err(Refusal::bad(message));
            }
        }
        match request.head.method {
            "PUT" => Self::put(request, key, query, limits),
            "DELETE" => Self::delete(&request.head, key, limits),
            _ => Self::get(&request.head, key, query, limits),
        }
    }

    fn get(head: &Head<'a>, key: Cow<'a, [u8]>, query: Option<&'a str>, limits: &Limits) -> Result<Self, Refusal> {
        let (wanted, unwanted) = (head.if_match, head.if_none_match);
        let (check, tag) = match () {
            () if wanted.any => (Check::Present, 0),
            // Among several the newest is the one that may still be there.
            () if wanted.count > 0 => (Check::Match, wanted.strong.ok_or_else(no_version)?),
            () if unwanted.any => (Check::Absent, 0),
            () => unwanted.newest.map_or((Check::None, 0), |version| (Check::NoneMatch, version)),
        };
        let shape = if head.wants_raw { Shape::Raw } else { Shape::Json };
        let ask = query_ask(query)?;
        if ask.claim != Claim::Nothing && (head.is_head() || check != Check::None) {
            return Err(Refusal::bad("waitMs is for a GET without conditions: its answer may be a lease"));
        }
        let op = Op::Fetch { expiry: Expiry::Keep, bump: !head.is_head(), ask: Some(ask) };
        Ok(Self { key, op, value: Cow::Borrowed(b""), form: form(head, shape, check, tag, limits) })
    }

    fn delete(head: &Head<'a>, key: Cow<'a, [u8]>, limits: &Limits) -> Result<Self, Refusal> {
        if head.if_none_match.count > 0 {
            return Err(Refusal::bad("DELETE takes If-Match, not If-None-Match"));
        }
        let (check, compare) = compared(head)?;
        let form = form(head, Shape::Outcome, check, compare.unwrap_or(0), limits);
        Ok(Self { key, op: Op::Remove(Remove { compare, ..Remove::default() }), value: Cow::Borrowed(b""), form })
    }

    fn put(request: Request<'a>, key: Cow<'a, [u8]>, query: Option<&'a str>, limits: &Limits) -> Result<Self, Refusal> {
        let head = &request.head;
        let unwanted = head.if_none_match;
        let (check, compare) = compared(head)?;
        let (check, mode) = match check {
            _ if unwanted.count == 0 => {
                (check, if check == Check::Present { StoreMode::Replace } else { StoreMode::Set })
            }
            Check::None if unwanted.any && unwanted.count == 1 => (Check::Absent, StoreMode::Add),
            _ => return Err(Refusal::bad("PUT takes either If-Match or If-None-Match: *")),
        };
        let form = form(head, Shape::Outcome, check, compare.unwrap_or(0), limits);
        let times = query_times(query)?;
        let (value, (expiry, soft_ms)) = if head.is_raw() && !head.is_encoded {
            (request.body, times.unwrap_or((Expiry::Never, 0)))
        } else {
            let entry = json::read_entry(json_body(&request)?)?;
            if times.is_some() {
                return Err(Refusal::bad("with JSON, times belong into the body and not into the query"));
            }
            (Cow::Owned(entry.value), (entry.expiry, entry.soft_ms))
        };
        let op = Op::Store(Store { compare, soft_ms, ..Store::new(mode, expiry) });
        Ok(Self { key, op, value, form })
    }
}

fn form(head: &Head<'_>, shape: Shape, check: Check, tag: u64, limits: &Limits) -> Form {
    let (bodiless, close) = (head.is_head(), head.close);
    Form { tag, bytes_max: limits.reply_bytes_max, shape, check, bodiless, close }
}

/// The condition of a change, and the version to compare.
fn compared(head: &Head<'_>) -> Result<(Check, Option<u64>), Refusal> {
    let wanted = head.if_match;
    match wanted.count {
        0 => Ok((Check::None, None)),
        1 if wanted.any => Ok((Check::Present, None)),
        1 => Ok((Check::Match, Some(wanted.strong.ok_or_else(no_version)?))),
        _ => Err(Refusal::bad("If-Match takes one version: a value that is to change has only one")),
    }
}

fn no_version() -> Refusal {
    Refusal::new(
        Status::PreconditionFailed,
        "no value has this version: versions are numbers in quotes, as ETag has them",
    )
}

/// What is only read, and no key decides.
fn document<'a>(head: &Head<'_>, call: Call<'a>) -> Result<Call<'a>, Refusal> {
    only(head, &["GET", "HEAD"], "GET, HEAD").map(|()| call)
}

fn only(head: &Head<'_>, methods: &[&str], allow: &'static str) -> Result<(), Refusal> {
    if methods.contains(&head.method) {
        return Ok(());
    }
    let refusal = Refusal::new(Status::MethodNotAllowed, format!("this path has {allow}"));
    Err(Refusal { allow, ..refusal })
}

fn json_body<'r>(request: &'r Request<'_>) -> Result<&'r [u8], Refusal> {
    if request.head.is_encoded {
        let message = "a body cannot have a Content-Encoding: send it as it is";
        return Err(Refusal::new(Status::UnsupportedMediaType, message));
    }
    if request.head.is_json() {
        return Ok(&request.body);
    }
    let also = if request.head.method == "PUT" { " or, for raw bytes, " } else { "" };
    let octets = if request.head.method == "PUT" { OCTETS } else { "" };
    Err(Refusal::new(Status::UnsupportedMediaType, format!("Content-Type can only be {JSON}{also}{octets}")))
}

fn check_key(key: &[u8], limits: &Limits, status: Status) -> Result<(), Refusal> {
    if key.len() <= limits.key_bytes_max {
        return Ok(());
    }
    let message = format!("a key of {} bytes exceeds limits.key_bytes ({})", key.len(), limits.key_bytes_max);
    Err(Refusal::new(status, message))
}

/// The fields of a query such as `ttlSeconds=1.5&staleSeconds=10`, each of which may be there once.
fn query_fields<const N: usize>(query: Option<&str>, names: [&str; N]) -> Result<[Option<f64>; N], Refusal> {
    let mut numbers = [None; N];
    for field in query.unwrap_or_default().split('&').filter(|field| !field.is_empty()) {
        let (name, text) = field.split_once('=').unwrap_or((field, ""));
        let Some(at) = names.iter().position(|&n| n == name) else {
            return Err(Refusal::bad(format!("the query of this request has only {}", names.join(" and "))));
        };
        let number = text.parse().map_err(|_| Refusal::bad(format!("{name} is not a number")))?;
        if numbers[at].replace(number).is_some() {
            return Err(Refusal::bad(format!("{name} is there twice")));
        }
    }
    Ok(numbers)
}

/// How long a raw body lives, and after how many milliseconds it is stale.
fn query_times(query: Option<&str>) -> Result<Option<(Expiry, u64)>, Refusal> {
    match query_fields(query, ["ttlSeconds", "staleSeconds"])? {
        [None, None] => Ok(None),
        [ttl, stale] => json::times(ttl, stale, "").map(Some),
    }
}

/// What a `GET` asks for beside the value.
fn query_ask(query: Option<&str>) -> Result<Ask, Refusal> {
    let [wait, term] = query_fields(query, ["waitMs", "leaseSeconds"])?;
    let Some(wait) = wait else {
        if term.is_some() {
            return Err(Refusal::bad("leaseSeconds goes with waitMs: waitMs=0 asks for a lease without waiting"));
        }
        return Ok(Ask::NOTHING);
    };
    if !(0.0..=f64::from(WAIT_MS_MAX)).contains(&wait) {
        return Err(Refusal::bad(format!("waitMs is not from 0 to {WAIT_MS_MAX}")));
    }
    let term_ms = match term {
        None => 0,
        Some(seconds) if (0.001..=3600.0).contains(&seconds) => (seconds * 1000.0).ceil() as u32,
        Some(_) => return Err(Refusal::bad("leaseSeconds is not from 0.001 to 3600")),
    };
    Ok(Ask { claim: Claim::Missing, term_ms, wait_ms: wait as u32, ..Ask::NOTHING })
}

/// Path and query. Scheme and host, which a request to a proxy has, are left out.
pub(super) fn split_target(target: &str) -> (&str, Option<&str>) {
    let scheme = ["http://", "https://"].into_iter().find_map(|scheme| target.strip_prefix(scheme));
    let local = scheme.map_or(target, |rest| rest.find(['/', '?']).map_or("/", |at| &rest[at..]));
    local.split_once('?').map_or((local, None), |(path, query)| (path, Some(query)))
}

pub(super) fn percent_decoded(path: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
    if !path.contains(&b'%') {
        return Ok(Cow::Borrowed(path));
    }
    let digit = |byte: Option<&u8>| byte.and_then(|&b| char::from(b).to_digit(16));
    let mut decoded = Vec::with_capacity(path.len());
    let mut at = 0;
    while at < path.len() {
        if path[at] != b'%' {
            decoded.push(path[at]);
            at += 1;
            continue;
        }
        let (Some(high), Some(low)) = (digit(path.get(at + 1)), digit(path.get(at + 2))) else {
            return Err(Refusal::bad("a % in the path is not followed by two hexadecimal digits: write % as %25"));
        };
        decoded.push((high << 4 | low) as u8);
        at += 3;
    }
    Ok(Cow::Owned(decoded))
}
