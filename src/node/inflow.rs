//! Large values on their way in: from the receive buffer to where they will stay.
//!
//! When a request turns out to store a long value under a key of this core, its
//! first arguments are kept and the value's bytes go to a draft as they arrive.
//! What follows the value are options; with them the request is whole, and the
//! draft becomes the key's value, or not.
//!
//! ```text
//! *5 $3 SET $1 k $3000000 ─> … bytes … ─> CR LF ─> $2 EX $2 60 ─> executed
//!     kept, in `head`         draft       passed   read as ever
//! ```
//!
//! If there is no room, the rest of the value is passed over, and the refusal
//! comes where the reply belongs.

use super::Node;
use super::batch::family;
use super::session::Session;
use crate::command::table::{self, Action, Spec};
use crate::command::{Args, Expiry, Op, OpError, ReplySink, Span};
use crate::engine::{At, DraftId};
use crate::protocol::resp::{Parser, Progress};

/// A request whose value is arriving.
#[derive(Debug)]
pub struct Inflow {
    spec: &'static Spec,
    at: At,
    /// The core that owns the key.
    pub(super) owner: usize,
    /// The arguments before the value.
    head: Vec<u8>,
    spans: Vec<Span>,
    /// Where in the input the value begins.
    pub(super) begins_at: usize,
    /// Bytes of the value still to come, and of the line end behind it.
    left: usize,
    line_end: usize,
    /// What has come; `None` if there was no room for it.
    draft: Option<DraftId>,
    /// The arguments behind the value.
    parser: Parser,
    options: Vec<Span>,
}

impl Inflow {
    /// The draft, if there is one.
    pub fn draft(&self) -> Option<&DraftId> {
        self.draft.as_ref()
    }

    /// The draft, to be given back.
    pub fn into_draft(self) -> Option<DraftId> {
        self.draft
    }

    /// Memory held, beside the draft's.
    pub fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.head.capacity() + (self.spans.capacity() + self.options.capacity()) * size_of::<Span>()
    }
}

/// Which argument of a command is the value that may come as a draft.
fn value_index(spec: &Spec) -> Option<usize> {
    match spec.name {
        "set" | "setnx" | "getset" => Some(2),
        "setex" | "psetex" => Some(3),
        _ => None,
    }
}

impl Node {
    /// Whether the unfinished request at the start of `input`, of which `spans` are
    /// there and `parser` waits for the next, stores a long value that need not be waited for.
    #[cold]
    pub(super) fn find_inflow(&self, parser: &Parser, input: &[u8], spans: &[Span]) -> Option<Box<Inflow>> {
        let (length, begins_at, args_left) = parser.awaited(input)?;
        let args = Args::new(input, spans);
        if length < self.limits.stream_bytes_min || args.len() < 2 {
            return None;
        }
        let spec = table::find(args.get(0))?;
        let fits = value_index(spec) == Some(args.len()) && spec.accepts(args.len() + args_left);
        if !fits || !matches!(spec.action, Action::Key(_)) || args.get(1).len() > self.limits.key_bytes_max {
            return None;
        }
        let (at, owner) = self.locate(args.get(1));
        let mut head = Vec::new();
        let mut kept = Vec::new();
        for span in spans {
            let start = head.len();
            head.extend_from_slice(span.of(input));
            kept.push(Span::new(start, head.len()));
        }
        let parser = Parser::behind(args_left - 1);
        let (draft, options, line_end) = (None, Vec::new(), 2);
        Some(Box::new(Inflow {
            spec,
            at,
            owner,
            head,
            spans: kept,
            begins_at,
            left: length,
            line_end,
            draft,
            parser,
            options,
        }))
    }

    /// Begins to take a value in.
    pub(super) fn begin_inflow(&mut self, session: &mut Session, mut inflow: Box<Inflow>) {
        inflow.draft = Some(self.shard.draft());
        session.inflow = Some(inflow);
    }

    /// Takes in what of `input` belongs to the request whose value is arriving, and
    /// executes it once it is whole. Answers how many bytes it took.
    pub(super) fn take_in(&mut self, session: &mut Session, mut inflow: Box<Inflow>, input: &[u8]) -> usize {
        session.progress_at = self.now;
        let (value, rest) = input.split_at(input.len().min(inflow.left));
        inflow.left -= value.len();
        if let Some(draft) = &inflow.draft
            && self.shard.write_draft(draft, inflow.at, value, self.now).is_err()
            && let Some(draft) = inflow.draft.take()
        {
            self.shard.drop_draft(draft);
        }
        let mut used = value.len();
        if inflow.left > 0 {
            session.inflow = Some(inflow);
            return used;
        }
        let passed = rest.len().min(inflow.line_end);
        inflow.line_end -= passed;
        used += passed;
        let rest = &rest[passed..];
        if inflow.line_end > 0 {
            session.inflow = Some(inflow);
            return used;
        }
        match inflow.parser.advance(rest, &self.resp_limits, &mut inflow.options) {
            Progress::Done(_, length) => {
                self.finish_inflow(session, *inflow, &rest[..length]);
                used += length;
            }
            Progress::Incomplete(need) => {
                session.need = need;
                session.inflow = Some(inflow);
            }
            Progress::Oversize(skipper, length) => {
                used += length;
                session.skipper = Some(skipper);
                self.abandon_inflow(*inflow);
            }
            Progress::Malformed(error) => {
                self.abandon_inflow(*inflow);
                self.refuse_protocol(session, error);
            }
        }
        used
    }

    fn abandon_inflow(&mut self, inflow: Inflow) {
        if let Some(draft) = inflow.draft {
            self.shard.drop_draft(draft);
        }
    }

    /// Executes a request whose arguments behind the value are `options`.
    fn finish_inflow(&mut self, session: &mut Session, inflow: Inflow, options: &[u8]) {
        let Inflow { spec, at, owner, mut head, mut spans, draft, options: option_spans, .. } = inflow;
        let key = spans[1];
        spans.push(Span::new(0, 0));
        let shift = head.len();
        spans.extend(option_spans.iter().map(|span| Span::new(shift + span.start as usize, shift + span.end as usize)));
        head.extend_from_slice(options);
        let args = Args::new(&head, &spans);
        self.counters.ops[family(spec) as usize] += 1;
        let parsed = match spec.action {
            Action::Key(parse) => parse(&args),
            _ => unreachable!("only commands on one key are taken in so"),
        };
        let mut out = session.output.encoder(session.version, spec.name);
        match parsed {
            Ok(Op::Set { expiry, condition, reply, .. }) => {
                self.hot.written(
                    at.hash,
                    key.of(&head),
                    draft.as_ref().map_or(0, |d| self.shard.draft_bytes(d) as usize),
                );
                let expiry = self.bounded_expiry(key.of(&head), expiry);
                self.shard.set_draft(at, key.of(&head), draft, (expiry, condition, reply), self.now, &mut out);
                if expiry == Expiry::Keep {
                    self.keep_bounded(at, key.of(&head));
                }
            }
            // Such a write is rare: its value is copied once more.
            Ok(op @ Op::Store(_)) => match draft {
                Some(draft) => {
                    let value = self.shard.take_draft(draft);
                    self.execute_op(at, key.of(&head), &op.with_bytes(&value), &mut out);
                }
                None => out.refused(OpError::OutOfMemory),
            },
            Ok(_) => unreachable!("only writes of a value are taken in so"),
            Err(error) => {
                out.error(error.describe(spec.name, args));
                draft.into_iter().for_each(|draft| self.shard.drop_draft(draft));
            }
        }
        self.steer(session, owner);
    }
}
