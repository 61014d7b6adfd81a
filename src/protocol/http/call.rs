//! What a request asks for: paths, methods and conditions.

use std::borrow::Cow;

use super::encoder::{Check, Form, Shape};
use super::head::Head;
use super::json::{self, Entry};
use super::request::{Limits, Request};
use super::response::{JSON, OCTETS};
use super::status::{Refusal, Status};
use crate::command::{Expiry, Op, Store, StoreMode};

/// Where the values are.
const VALUES: &[u8] = b"/v1/cache/";

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
            b"/openapi.json" => document(head, Call::Description),
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
            _ => Self::get(&request.head, key, limits),
        }
    }

    fn get(head: &Head<'a>, key: Cow<'a, [u8]>, limits: &Limits) -> Result<Self, Refusal> {
        let (wanted, unwanted) = (head.if_match, head.if_none_match);
        let (check, tag) = match () {
            () if wanted.any => (Check::Present, 0),
            // Among several the newest is the one that may still be there.
            () if wanted.count > 0 => (Check::Match, wanted.strong.ok_or_else(no_version)?),
            () if unwanted.any => (Check::Absent, 0),
            () => unwanted.newest.map_or((Check::None, 0), |version| (Check::NoneMatch, version)),
        };
        let shape = if head.wants_raw { Shape::Raw } else { Shape::Json };
        let op = Op::Fetch { expiry: Expiry::Keep, bump: !head.is_head() };
        Ok(Self { key, op, value: Cow::Borrowed(b""), form: form(head, shape, check, tag, limits) })
    }

    fn delete(head: &Head<'a>, key: Cow<'a, [u8]>, limits: &Limits) -> Result<Self, Refusal> {
        if head.if_none_match.count > 0 {
            return Err(Refusal::bad("DELETE takes If-Match, not If-None-Match"));
        }
        let (check, compare) = compared(head)?;
        let form = form(head, Shape::Outcome, check, compare.unwrap_or(0), limits);
        Ok(Self { key, op: Op::Remove { compare }, value: Cow::Borrowed(b""), form })
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
        let ttl = query_ttl(query)?;
        let (value, expiry) = if head.is_raw() && !head.is_encoded {
            (request.body, ttl.unwrap_or(Expiry::Never))
        } else {
            let entry = json::read_entry(json_body(&request)?)?;
            if ttl.is_some() {
                return Err(Refusal::bad("with JSON, ttlSeconds belongs into the body and not into the query"));
            }
            (Cow::Owned(entry.value), entry.expiry)
        };
        let op = Op::Store(Store { value: b"", flags: 0, expiry, mode, compare, create: false });
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

/// The time to live in a query such as `ttlSeconds=1.5`.
fn query_ttl(query: Option<&str>) -> Result<Option<Expiry>, Refusal> {
    let mut ttl = None;
    for field in query.unwrap_or_default().split('&').filter(|field| !field.is_empty()) {
        let Some(text) = field.strip_prefix("ttlSeconds=") else {
            return Err(Refusal::bad("the query of a PUT has only ttlSeconds=…"));
        };
        let seconds = text.parse().map_err(|_| Refusal::bad("ttlSeconds is not a number"))?;
        if ttl.replace(json::expiry(seconds, "")?).is_some() {
            return Err(Refusal::bad("ttlSeconds is there twice"));
        }
    }
    Ok(ttl)
}

/// Path and query. Scheme and host, which a request to a proxy has, are left out.
fn split_target(target: &str) -> (&str, Option<&str>) {
    let scheme = ["http://", "https://"].into_iter().find_map(|scheme| target.strip_prefix(scheme));
    let local = scheme.map_or(target, |rest| rest.find(['/', '?']).map_or("/", |at| &rest[at..]));
    local.split_once('?').map_or((local, None), |(path, query)| (path, Some(query)))
}

fn percent_decoded(path: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
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
