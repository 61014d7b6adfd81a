//! Commands on keys: executed here when this core owns the key, otherwise sent to
//! its owner. Commands on several keys are split and their answers gathered.

use super::batch::{reply, wrong_arity};
use super::gather::{GATHER_ARGS_MIN, Gathering};
use super::mailbox::{ConnId, Form, Token};
use super::output::Join;
use super::readers::Reader;
use super::session::{Scope, Session};
use super::{Node, REQUESTS_BYTES_MAX};
use crate::command::table::{Gather, Spec};
use crate::command::{Args, Op, OpError, ReplySink, SyntaxError, Value, syntax};
use crate::engine::At;
use crate::protocol::resp::Encoder;

type Parse = for<'a> fn(&Args<'a>) -> Result<Op<'a>, SyntaxError>;

impl Node {
    /// A command on one key.
    #[inline]
    pub(super) fn on_key(
        &mut self,
        id: ConnId,
        session: &mut Session,
        args: &Args<'_>,
        spec: &'static Spec,
        parse: Parse,
        (at, owner): (At, usize),
    ) {
        let key = args.get(1);
        if key.len() > self.limits.key_bytes_max {
            return self.refuse_key(session, key.len());
        }
        // Neither the arguments nor the operation are copied: that would wait for the stores that have just written them.
        let parsed = parse(args);
        let op = match &parsed {
            Ok(op) => op,
            Err(error) => return reply(session, "").error(error.describe(spec.name, *args)),
        };
        if owner == self.core && op.waits() == 0 {
            let version = session.version;
            let mut out = session.output.encoder(version, spec.name);
            self.execute_op(at, key, op, &mut out);
            if let Some(no_loop) = session.tracks() {
                self.track(at, key, Reader { core: self.core, conn: id, no_loop });
            }
        } else {
            self.execute_single(id, session, form(session, spec.name), (at, owner), key, *op);
        }
        if !self.is_read_everywhere(at, op) {
            self.steer(session, owner);
        }
    }

    /// Executes a request on one key that is not answered here at once, or is so by a copy.
    pub(super) fn execute_single(
        &mut self,
        id: ConnId,
        session: &mut Session,
        form: Form,
        (at, owner): (At, usize),
        key: &[u8],
        op: Op<'_>,
    ) {
        if owner != self.core
            && let Some(copy) = self.find_copy(session, &form, at, key, &op)
        {
            return self.answer_copy(copy, &form, &op, session.output.buffer());
        }
        self.spare.lend_behind(session);
        let sequence = session.output.expect(Join::Single, 1);
        self.execute_late(session, Token { conn: id, sequence, part: 0 }, form, (at, owner), key, op);
    }

    /// Notes where a plain connection's key belongs, and asks for a move if it has settled elsewhere.
    #[inline]
    pub(super) fn steer(&mut self, session: &mut Session, owner: usize) {
        if session.scope == Scope::Host
            && !session.is_settled_here()
            && let Some(core) = session.steering.note(self.core, owner)
        {
            session.move_to = Some(core);
        }
    }

    /// Executes a request of which the reply has its place already: here, now or after a wait, or at the key's owner.
    pub(super) fn execute_late(
        &mut self,
        session: &mut Session,
        token: Token,
        form: Form,
        (at, owner): (At, usize),
        key: &[u8],
        op: Op<'_>,
    ) {
        if op.waits() > 0 {
            session.has_waited = true;
            session.output.wait_patiently();
        }
        if owner != self.core {
            if let Some(copy) = self.find_copy(session, &form, at, key, &op) {
                let mut scratch = std::mem::take(&mut self.scratch);
                scratch.clear();
                self.answer_copy(copy, &form, &op, &mut scratch);
                session.output.fill(token.sequence, token.part, &scratch);
                return self.keep_scratch(scratch);
            }
            self.hold_copies(session, token.sequence, at);
            return self.forward(token, &form, (at, owner), key, &op);
        }
        if op.waits() > 0 && self.await_fill(self.core, token, form, at, key, op) {
            return;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        self.execute_tracked((self.core, token.conn), &form, at, key, op, &mut scratch);
        session.output.fill(token.sequence, token.part, &scratch);
        self.keep_scratch(scratch);
    }

    pub(super) fn forward(&mut self, token: Token, form: &Form, (at, owner): (At, usize), key: &[u8], op: &Op<'_>) {
        self.counters.forwards += 1;
        debug_assert_ne!(owner, self.core);
        let parcel = &mut self.outbox[owner];
        parcel.ask_key(token, form, at, key, op);
        self.congested |= parcel.bytes.len() > REQUESTS_BYTES_MAX;
    }

    pub(super) fn refuse_key(&mut self, session: &mut Session, length: usize) {
        self.counters.limit_errors += 1;
        let max = self.limits.key_bytes_max;
        reply(session, "").error(format!("ERR a key of {length} bytes exceeds limits.key_bytes ({max})"));
    }

    /// A command on several keys.
    pub(super) fn on_keys(
        &mut self,
        id: ConnId,
        session: &mut Session,
        args: Args<'_>,
        spec: &'static Spec,
        gather: Gather,
    ) {
        let step = if gather == Gather::Pairs { 2 } else { 1 };
        if !(args.len() - 1).is_multiple_of(step) {
            return wrong_arity(session, spec.name);
        }
        if args.len() > GATHER_ARGS_MIN {
            session.gathering = Some(Box::new(Gathering::new(spec, gather)));
            return;
        }
        let keys = (1..args.len()).step_by(step);
        if let Some(i) = keys.clone().find(|&i| args.get(i).len() > self.limits.key_bytes_max) {
            return self.refuse_key(session, args.get(i).len());
        }
        let mut places = std::mem::take(&mut self.places_scratch);
        places.extend(keys.map(|i| self.locate(args.get(i))));
        self.prefetch(places.iter().copied());
        let calls = places.iter().enumerate().map(|(n, &place)| {
            let i = 1 + n * step;
            (place, args.get(i), gather.op(args, i))
        });
        if places.iter().all(|&(_, owner)| owner == self.core) {
            let (version, tracked) = (session.version, session.tracks());
            let passed = session.output.passed_bytes();
            let mut out = session.output.encoder(version, spec.name);
            if gather == Gather::List {
                out.array(places.len());
                let max = self.limits.output_hard_bytes_max;
                for ((at, _), key, op) in calls {
                    self.execute_op(at, key, &op, &mut out);
                    if let Some(no_loop) = tracked {
                        self.track(at, key, Reader { core: self.core, conn: id, no_loop });
                    }
                    if out.len() - passed > max {
                        self.counters.limit_errors += 1;
                        out.restart().into_iter().for_each(|pin| self.shard.unpin(pin));
                        out.error(format!("ERR a reply exceeds limits.output_hard_bytes ({max})"));
                        break;
                    }
                }
            } else {
                let mut tally = Tally::default();
                for ((at, _), key, op) in calls {
                    self.execute_op(at, key, &op, &mut tally);
                    if let Some(no_loop) = tracked {
                        self.track(at, key, Reader { core: self.core, conn: id, no_loop });
                    }
                }
                tally.write(gather, &mut out);
            }
        } else {
            let sequence = session.output.expect(gather.join(), places.len() as u32);
            for (part, (place, key, op)) in calls.enumerate() {
                let token = Token { conn: id, sequence, part: part as u32 };
                let form = form(session, spec.name);
                self.execute_late(session, token, form, place, key, op);
            }
        }
        self.steer(session, places[0].1);
        places.clear();
        places.shrink_to(GATHER_ARGS_MIN);
        self.places_scratch = places;
    }
}

/// How a reply to a Redis client is to be written, and whether it keeps a copy.
pub(super) fn form(session: &Session, command: &'static str) -> Form {
    Form::Resp { version: session.version, command, tracked: session.tracks() }
}

impl Gather {
    /// What is done with the key at argument `i`.
    pub(super) fn op(self, args: Args<'_>, i: usize) -> Op<'_> {
        match self {
            Gather::List => Op::Get,
            Gather::Pairs => syntax::plain_set(args.get(i + 1)),
            Gather::Deleted => Op::Del,
            Gather::Existing => Op::Exists,
        }
    }

    fn join(self) -> Join {
        match self {
            Gather::List => Join::List,
            Gather::Pairs => Join::Status,
            Gather::Deleted | Gather::Existing => Join::Sum,
        }
    }
}

/// Adds up integer answers and keeps the first refusal.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) sum: i64,
    pub(super) error: Option<OpError>,
}

impl Tally {
    fn write(self, gather: Gather, out: &mut Encoder<'_>) {
        match (self.error, gather) {
            (Some(error), _) => out.refused(error),
            (None, Gather::Pairs) => out.status("OK"),
            (None, _) => out.integer(self.sum),
        }
    }
}

impl ReplySink for Tally {
    fn integer(&mut self, n: i64) {
        self.sum += n;
    }
    fn refused(&mut self, error: OpError) {
        self.error.get_or_insert(error);
    }
    fn value(&mut self, _: &Value<'_>) {}
    fn status(&mut self, _: &str) {}
    fn bulk(&mut self, _: &[u8]) {}
    fn null(&mut self) {}
    fn array(&mut self, _: usize) {}
    fn map(&mut self, _: usize) {}
    fn error(&mut self, _: impl AsRef<[u8]>) {}
}
