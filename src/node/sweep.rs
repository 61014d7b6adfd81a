//! Commands over whole shards: every core's, or one chosen by an argument. On a
//! core's own port they cover that core only, as a cluster's clients expect of a node.

use std::sync::Arc;

use super::Node;
use super::batch::reply;
use super::hotkeys;
use super::mailbox::{ConnId, Form, Scan, Token, Work};
use super::output::{Join, Report};
use super::session::{Scope, Session};
use super::settings::Change;
use super::stats::CoreSnapshot;
use super::tracking::Left;
use super::{http, memory};
use crate::base::{SLOT_COUNT, Slot, glob};
use crate::command::args::parse_integer;
use crate::command::table::{Spec, Sweep};
use crate::command::{Args, ReplySink, Span, SyntaxError};
use crate::protocol::resp::Encoder;

/// Keys that one `SCAN` step collects at most, whatever it was asked for: a step
/// must stay short for the core's other clients.
const SCAN_COUNT_MAX: i64 = 1024;
/// The longest pattern: matching takes time in proportion to it, for each key.
const PATTERN_BYTES_MAX: usize = 1024;
/// Keys that one `SCAN` step collects if nothing is said.
const SCAN_COUNT_DEFAULT: i64 = 10;

impl Node {
    pub(super) fn on_sweep(
        &mut self,
        id: ConnId,
        session: &mut Session,
        args: Args<'_>,
        spec: &'static Spec,
        sweep: Sweep,
    ) {
        let form = super::keys::form(session, spec.name);
        let done = match sweep {
            Sweep::DbSize => {
                self.on_all(id, session, spec.name, Join::Sum, Work::DbSize);
                Ok(())
            }
            Sweep::Flush => flush_mode(args).map(|()| self.on_all(id, session, spec.name, Join::Status, Work::Flush)),
            Sweep::Scan => self.on_scan(id, session, args, spec),
            Sweep::CountKeysInSlot => self.on_count(id, session, args, spec),
            Sweep::Info => {
                let sections = args.from(1).map(|s| String::from_utf8_lossy(s).to_ascii_lowercase()).collect();
                self.on_report(id, session, form, Report::Info(sections));
                Ok(())
            }
            Sweep::MemoryStats => {
                self.on_report(id, session, form, Report::Memory);
                Ok(())
            }
            Sweep::Tracking => {
                self.client_tracking(id, session, args).map(|left| self.finish_tracking(id, session, spec, left))
            }
            Sweep::Subscribe => self.subscribe(id, session, args),
            Sweep::Unsubscribe => self.unsubscribe(session, args),
            Sweep::HotKeys => hotkeys::hot_options(args)
                .map(|(count, by)| self.on_report(id, session, form, Report::HotKeys(count, by))),
            Sweep::BigKeys => {
                hotkeys::big_options(args).map(|count| self.on_report(id, session, form, Report::BigKeys(count)))
            }
            Sweep::ConfigSet => match self.change_asked(session, args) {
                Ok(change) => {
                    self.on_change(id, session, spec, change);
                    Ok(())
                }
                Err(text) => {
                    reply(session, "").error(text);
                    Ok(())
                }
            },
        };
        if let Err(error) = done {
            reply(session, "").error(error.describe(spec.name, args));
        }
    }

    /// The cores that a sweep of this session covers.
    fn covered(&self, session: &Session) -> std::ops::Range<usize> {
        match session.scope {
            Scope::Host => 0..self.topology.cores().len(),
            Scope::Core => self.core..self.core + 1,
        }
    }

    /// Does what is left of a `CLIENT TRACKING`, and answers once all cores have.
    fn finish_tracking(&mut self, id: ConnId, session: &mut Session, spec: &'static Spec, left: Left) {
        match left {
            Left::Nothing => reply(session, "").status("OK"),
            Left::Find(finding) => self.find_listener(id, session, finding, spec.name),
            Left::Broadcast(broadcast) => {
                let cores = self.topology.cores().len();
                let sequence = session.output.expect(Join::Status, cores as u32);
                for core in 0..cores {
                    let token = Token { conn: id, sequence, part: core as u32 };
                    self.on_core(session, token, spec.name, core, Work::Broadcast(broadcast.clone()), b"");
                }
            }
        }
    }

    /// Changes settings on every core, whatever the session covers: each of them answers `CONFIG GET`.
    fn on_change(&mut self, id: ConnId, session: &mut Session, spec: &'static Spec, change: Change) {
        let cores = self.topology.cores().len();
        let sequence = session.output.expect(Join::Status, cores as u32);
        let change = Arc::new(change);
        for core in 0..cores {
            let token = Token { conn: id, sequence, part: core as u32 };
            self.on_core(session, token, spec.name, core, Work::Change(change.clone()), b"");
        }
    }

    pub(super) fn on_all(&mut self, id: ConnId, session: &mut Session, command: &'static str, join: Join, work: Work) {
        let cores = self.covered(session);
        let sequence = session.output.expect(join, cores.len() as u32);
        // It may change keys of which there are copies here.
        session.copies_after = sequence;
        for (part, core) in cores.enumerate() {
            let token = Token { conn: id, sequence, part: part as u32 };
            self.on_core(session, token, command, core, work.clone(), b"");
        }
    }

    /// Does `work` on `core`, which may be this one. `bytes` are what the work's spans mean.
    pub(super) fn on_core(
        &mut self,
        session: &mut Session,
        token: Token,
        command: &'static str,
        core: usize,
        mut work: Work,
        bytes: &[u8],
    ) {
        if core != self.core {
            if let Work::Scan(scan) = &mut work {
                scan.pattern = self.outbox[core].put(bytes);
            }
            let form = super::keys::form(session, command);
            return self.outbox[core].ask(token, &form, work);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        self.execute_work(&work, bytes, &mut Encoder::new(&mut scratch, session.version, command));
        session.output.fill(token.sequence, token.part, &scratch);
        self.keep_scratch(scratch);
    }

    fn on_count(
        &mut self,
        id: ConnId,
        session: &mut Session,
        args: Args<'_>,
        spec: &'static Spec,
    ) -> Result<(), SyntaxError> {
        const INVALID: SyntaxError = SyntaxError::Other("ERR Invalid slot");
        let number = args.integer(2)?;
        let slot = u16::try_from(number).ok().and_then(Slot::new).ok_or(INVALID)?;
        let sequence = session.output.expect(Join::Single, 1);
        let token = Token { conn: id, sequence, part: 0 };
        self.on_core(session, token, spec.name, self.topology.owner(slot), Work::CountKeysInSlot(slot), b"");
        Ok(())
    }

    fn on_scan(
        &mut self,
        id: ConnId,
        session: &mut Session,
        args: Args<'_>,
        spec: &'static Spec,
    ) -> Result<(), SyntaxError> {
        let cursor = scan_cursor(args.get(1))?;
        let (pattern, count, any_type) = scan_options(args)?;
        let Some((core, from, last, then)) = self.scan_range(session, cursor) else {
            let mut out = reply(session, spec.name);
            out.array(2);
            out.bulk(b"0");
            out.array(0);
            return Ok(());
        };
        let span = Span::new(0, pattern.len());
        let scan = Scan { from, last, then, count: count as usize, pattern: span, any_type };
        let sequence = session.output.expect(Join::Single, 1);
        self.on_core(session, Token { conn: id, sequence, part: 0 }, spec.name, core, Work::Scan(scan), pattern);
        Ok(())
    }

    /// Which core walks which slots for a cursor, and the cursor behind them.
    fn scan_range(&self, session: &Session, cursor: u64) -> Option<(usize, u16, u16, u16)> {
        let slot = u16::try_from(cursor).ok().and_then(Slot::new)?;
        let core = match session.scope {
            Scope::Host => self.topology.owner(slot),
            Scope::Core => self.core,
        };
        let (from, last) = self.topology.range_from(core, slot.number())?;
        let next = match session.scope {
            Scope::Host => Some(last + 1).filter(|&n| usize::from(n) < SLOT_COUNT),
            Scope::Core => self.topology.range_from(core, last + 1).map(|(first, _)| first),
        };
        Some((core, from, last, next.unwrap_or(0)))
    }

    /// One step of a scan over this core's slots.
    pub(super) fn scan_slots(&self, scan: &Scan, pattern: &[u8], out: &mut Encoder<'_>) {
        let (mut keys, mut spans) = (Vec::new(), Vec::new());
        let next = self.shard.scan(scan.from, scan.last + 1, scan.count, self.now, |key| {
            if scan.any_type && (pattern.is_empty() || glob::matches(pattern, key)) {
                spans.push(Span::new(keys.len(), keys.len() + key.len()));
                keys.extend_from_slice(key);
            }
        });
        let cursor = if next > scan.last { scan.then } else { next };
        out.array(2);
        out.bulk(cursor.to_string().as_bytes());
        out.array(spans.len());
        spans.iter().for_each(|s| out.bulk(s.of(&keys)));
    }

    /// A reply that is made of the counters of every core.
    pub(super) fn on_report(&mut self, id: ConnId, session: &mut Session, form: Form, report: Report) {
        let cores = self.topology.cores().len();
        let sequence = session.output.expect_counters(cores as u32, session.version, report);
        let here = self.core;
        for core in (0..cores).filter(|&core| core != here) {
            let token = Token { conn: id, sequence, part: core as u32 };
            self.outbox[core].ask(token, &form, Work::Snapshot);
        }
        self.accept_counters(session, sequence, self.snapshot());
    }

    /// Takes one core's counters; with the last of them the text is written.
    pub(super) fn accept_counters(&mut self, session: &mut Session, sequence: u32, snapshot: CoreSnapshot) {
        if let Some(ready) = session.output.fill_counters(sequence, snapshot) {
            let mut encoded = Vec::new();
            let mut out = Encoder::new(&mut encoded, ready.version, "");
            match ready.report {
                Report::Info(sections) => out.text(&self.info(session, &sections, &ready.snapshots)),
                Report::Memory => memory::write(&ready.snapshots, &mut out),
                Report::HotKeys(count, by) => hotkeys::write_hot(&ready.snapshots, count, by, &mut out),
                Report::BigKeys(count) => hotkeys::write_big(&ready.snapshots, count, &mut out),
                Report::Http(response) => http::write_stats(&ready.snapshots, response, &mut encoded),
                Report::HttpHotKeys(response) => http::write_hot_keys(&ready.snapshots, response, &mut encoded),
                Report::Memcache(of) => encoded = self.memcache_stats(of, &ready.snapshots),
            }
            session.output.finish_counters(sequence, encoded);
        }
    }
}

fn flush_mode(args: Args<'_>) -> Result<(), SyntaxError> {
    match args.len() {
        1 => Ok(()),
        2 if args.is(1, "async") || args.is(1, "sync") => Ok(()),
        _ => Err(SyntaxError::Syntax),
    }
}

fn scan_cursor(text: &[u8]) -> Result<u64, SyntaxError> {
    const INVALID: SyntaxError = SyntaxError::Other("ERR invalid cursor");
    std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()).ok_or(INVALID)
}

/// The pattern (empty for all), the count, and whether keys of the type asked for can exist.
fn scan_options<'a>(args: Args<'a>) -> Result<(&'a [u8], i64, bool), SyntaxError> {
    let (mut pattern, mut count, mut any_type): (&[u8], _, _) = (b"", SCAN_COUNT_DEFAULT, true);
    let mut i = 2;
    while i < args.len() {
        if i + 1 == args.len() {
            return Err(SyntaxError::Syntax);
        }
        let value = args.get(i + 1);
        if args.is(i, "match") {
            if value.len() > PATTERN_BYTES_MAX {
                return Err(SyntaxError::Other("ERR a MATCH pattern has 1024 bytes at most"));
            }
            pattern = if value == b"*" { b"" } else { value };
        } else if args.is(i, "count") {
            count = parse_integer(value).ok_or(SyntaxError::NotAnInteger)?;
            if count < 1 {
                return Err(SyntaxError::Syntax);
            }
        } else if args.is(i, "type") {
            any_type = value.eq_ignore_ascii_case(b"string");
        } else {
            return Err(SyntaxError::Syntax);
        }
        i += 2;
    }
    Ok((pattern, count.min(SCAN_COUNT_MAX), any_type))
}
