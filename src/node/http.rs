//! Requests of HTTP clients: the protocol room says what each asks for, and here it is done, on this core or at the
//! owner of the key.

mod batch;

use serde_json::{Value, json};

pub use self::batch::Batch;
use self::batch::Items;

use super::batch::SLICE_INPUT_MAX;
use super::copies::is_plain_read;
use super::hotkeys::{self, BigKey, By, HotKey};
use super::mailbox::{ConnId, Form};
use super::output::Report;
use super::session::{Session, State};
use super::stats::{CoreSnapshot, Family};
use super::{Limits, Node};
use crate::base::SLOT_COUNT;
use crate::command::Op;
use crate::engine::At;
use crate::protocol::http::{
    self, CONTINUE, Call, Encoder, KeyCall, Progress, Refusal, Request, Response, Shape, Status,
};

/// Bytes of JSON beside the values in it: room for many small entries.
const JSON_ROOM_BYTES: usize = 64 << 10;
/// Bytes of `limits.request_bytes` that are left for the head and the frames of chunks.
const FRAME_ROOM_BYTES: usize = 64 << 10;

/// A response may have one part in so many of a core's memory, or a few of the longest values if that is more: with
/// longer ones a connection would be among those that are closed because they hold too much.
const REPLY_PART: u64 = 8;
const REPLY_VALUES: usize = 2;

/// What HTTP clients may demand of a core with so much memory. A value takes a third more in base64 and at worst
/// sixfold with all characters escaped; who sends such values has raw bodies. A response within its limit fits behind
/// what may wait before it.
pub(super) fn limits(limits: &Limits, budget_bytes: u64) -> http::Limits {
    let json = (2 * limits.value_bytes_max).saturating_add(JSON_ROOM_BYTES);
    let memory = usize::try_from(budget_bytes / REPLY_PART).unwrap_or(usize::MAX);
    let room = limits.output_hard_bytes_max.saturating_sub(limits.output_soft_bytes_max);
    let room = room.min(memory.max(REPLY_VALUES * limits.value_bytes_max));
    http::Limits {
        key_bytes_max: limits.key_bytes_max,
        value_bytes_max: limits.value_bytes_max,
        json_bytes_max: json.min(limits.request_bytes_max.saturating_sub(FRAME_ROOM_BYTES)),
        reply_bytes_max: u32::try_from(room.saturating_sub(http::HEAD_BYTES_MAX)).unwrap_or(u32::MAX),
    }
}

impl Node {
    /// Executes a slice of the requests at the start of `input`; answers how many bytes they were.
    pub(super) fn run_http(&mut self, id: ConnId, session: &mut Session, input: &[u8]) -> usize {
        self.spare.lend(session);
        let slice = self.slice(session);
        let mut consumed = 0;
        session.need = 0;
        while self.may_run(session) {
            let rest = &input[consumed..];
            if consumed >= SLICE_INPUT_MAX || self.is_over(slice, session) {
                self.queue_rest(id, session, rest);
                break;
            }
            if rest.is_empty() {
                break;
            }
            match session.http.advance(rest, &self.http_limits, self.passwords.as_deref()) {
                Progress::Skipped(used) => consumed += used,
                Progress::Incomplete { need, invite } => {
                    session.need = need;
                    if invite {
                        session.output.buffer().extend_from_slice(CONTINUE);
                    }
                    break;
                }
                Progress::Refused(refusal, used) => {
                    consumed += used;
                    if refusal.status == Status::Unauthorized {
                        self.count_denied(&refusal);
                    } else if refusal.status == Status::TooLarge || refusal.status == Status::HeadTooLarge {
                        self.counters.limit_errors += 1;
                    } else {
                        self.counters.parse_errors += 1;
                    }
                    answer(session, &refusal);
                }
                Progress::Done(request, length) => {
                    if !self.on_http_request(id, session, request) {
                        break;
                    }
                    consumed += length;
                }
            }
        }
        self.end_slice(id, session);
        consumed
    }

    /// Executes one request, unless the connection moves to where it belongs: whether it was executed.
    fn on_http_request(&mut self, id: ConnId, session: &mut Session, request: Request<'_>) -> bool {
        let (close, bodiless) = (request.head.close, request.head.is_head());
        let response = Response::ok(close, bodiless);
        let call = Call::of(request, &self.http_limits);
        if !session.authenticated && !matches!(call, Ok(Call::Description) | Err(_)) {
            session.authenticated = true;
        }
        match call {
            Ok(Call::Key(call)) => {
                let place = self.locate(&call.key);
                if !self.belongs_here(session, || is_plain_read(&call.op).then_some(place.0), place.1) {
                    return false;
                }
                self.on_http_key(id, session, &call, place);
            }
            Ok(Call::BatchGet(keys)) => {
                self.count_request(Family::Read);
                self.on_http_batch(id, session, Items::Get(keys), close);
            }
            Ok(Call::BatchSet(entries)) => {
                self.count_request(Family::Write);
                self.on_http_batch(id, session, Items::Set(entries), close);
            }
            Ok(Call::Stats) => self.on_http_report(id, session, close, Report::Http(response)),
            Ok(Call::HotKeys) => self.on_http_report(id, session, close, Report::HttpHotKeys(response)),
            Ok(Call::Cluster) => {
                self.count_request(Family::Cluster);
                let text = self.http_cluster(session).to_string();
                response.whole(text.as_bytes(), session.output.buffer());
            }
            Ok(Call::Description) => {
                self.count_request(Family::Server);
                response.whole(http::DESCRIPTION.as_bytes(), session.output.buffer());
            }
            Err(refusal) => {
                self.count_request(Family::Other);
                match refusal.status {
                    Status::BadRequest => self.counters.parse_errors += 1,
                    Status::UriTooLong | Status::TooLarge => self.counters.limit_errors += 1,
                    _ => {}
                }
                answer(session, &refusal);
            }
        }
        if close {
            session.state = State::Draining;
        }
        true
    }

    /// Counts a request without a password that is right. It is work, as much as a request that is carried out.
    #[cold]
    fn count_denied(&mut self, refusal: &Refusal) {
        self.count_request(Family::Other);
        self.counters.auth_failures += u64::from(refusal.wrong_password);
    }

    fn on_http_report(&mut self, id: ConnId, session: &mut Session, close: bool, report: Report) {
        self.count_request(Family::Server);
        let form = Form::Http(http::Form::of(Shape::Json, close, &self.http_limits));
        self.on_report(id, session, form, report);
    }

    fn on_http_key(&mut self, id: ConnId, session: &mut Session, call: &KeyCall<'_>, (at, owner): (At, usize)) {
        self.count_request(match call.op {
            Op::Store(_) => Family::Write,
            Op::Remove { .. } => Family::Delete,
            _ => Family::Read,
        });
        let op = call.op.with_bytes(&call.value);
        if owner == self.core && op.waits() == 0 {
            let mut out = Encoder::new(session.output.buffer(), &call.form, &call.key, self.now);
            self.execute_op(at, &call.key, &op, &mut out);
        } else {
            self.execute_single(id, session, Form::Http(call.form), (at, owner), &call.key, op);
        }
        if !self.is_read_everywhere(at, &op) {
            self.steer(session, owner);
        }
    }

    /// Which core owns which slots, and where it listens.
    fn http_cluster(&self, session: &Session) -> Value {
        let range = |&(first, last): &(u16, u16)| json!({ "first": first, "last": last });
        let core = |(i, core): (usize, &super::topology::CoreInfo)| {
            let slots: Vec<Value> = core.slots.iter().map(range).collect();
            json!({ "core": i, "id": core.id, "port": core.port, "slots": slots })
        };
        let host = self.topology.announce.as_ref().unwrap_or(&session.local_host);
        let cores: Vec<Value> = self.topology.cores().iter().enumerate().map(core).collect();
        json!({ "slotCount": SLOT_COUNT, "host": host, "cores": cores })
    }
}

fn answer(session: &mut Session, refusal: &Refusal) {
    refusal.write(session.output.buffer());
    if refusal.close {
        session.state = State::Draining;
    }
}

/// The body of `GET /v1/stats`.
pub(super) fn write_stats(cores: &[CoreSnapshot], response: Response, out: &mut Vec<u8>) {
    let each: Vec<Value> = cores
        .iter()
        .map(|core| {
            let mut fields = counters(std::slice::from_ref(core));
            fields["core"] = json!(core.core);
            fields["cpu"] = json!(core.cpu);
            fields
        })
        .collect();
    let body = json!({ "total": counters(cores), "cores": each }).to_string();
    response.whole(body.as_bytes(), out);
}

/// The body of `GET /v1/hotkeys`: all that the cores know of, hottest and largest first.
pub(super) fn write_hot_keys(cores: &[CoreSnapshot], response: Response, out: &mut Vec<u8>) {
    let hot = |by: By| {
        let describe = |(core, hot): (usize, &HotKey)| {
            let mut fields = http::key_fields(&hot.key);
            fields["core"] = json!(core);
            fields["amount"] = json!(hot.amount);
            fields["share"] = json!(hot.share_ppm as f64 / 1e6);
            fields["error"] = json!(hot.error_ppm as f64 / 1e6);
            fields
        };
        hotkeys::hottest(cores, by).into_iter().map(describe).collect::<Vec<_>>()
    };
    let describe = |(core, big): (usize, &BigKey)| {
        let mut fields = http::key_fields(&big.key);
        fields["core"] = json!(core);
        fields["bytes"] = json!(big.bytes);
        fields
    };
    let big: Vec<_> = hotkeys::largest(cores).into_iter().map(describe).collect();
    let body = json!({ "byOps": hot(By::Ops), "byBytes": hot(By::Bytes), "largest": big });
    response.whole(body.to_string().as_bytes(), out);
}

fn counters(cores: &[CoreSnapshot]) -> Value {
    let sum = |of: fn(&CoreSnapshot) -> u64| cores.iter().map(of).sum::<u64>();
    json!({
        "keys": sum(|c| c.keys),
        "keysWithTtl": sum(|c| c.keys_with_expiry),
        "hits": sum(|c| c.hits),
        "misses": sum(|c| c.misses),
        "evicted": sum(|c| c.evicted),
        "expired": sum(|c| c.expired),
        "connections": sum(|c| c.connections_current),
        "memory": {
            "budgetBytes": sum(|c| c.memory.budget),
            "liveBytes": sum(|c| c.memory.live),
            "deadBytes": sum(|c| c.memory.dead),
            "freeBytes": sum(|c| c.memory.free),
            "indexBytes": sum(|c| c.memory.index),
            "residentBytes": sum(|c| c.memory.resident),
        },
    })
}
