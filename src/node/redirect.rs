//! Notices on another connection: `CLIENT TRACKING ON REDIRECT id`, for clients that speak RESP2.
//!
//! A connection over RESP2 cannot be told anything between its replies. It names another one, which has
//! subscribed to the channel of notices and is sent its notices as messages. That one may be at another core: it is
//! looked for at all of them once, and from then on stays where it is.
//!
//! ```text
//! owner ─ notice ─> core of the reader ─ relay ─> core of the subscriber ─> message, or word back that it was not heard
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Node;
use super::batch::reply;
use super::mailbox::{ConnId, Notice, NoticeKind, Token, Work};
use super::output::Join;
use super::session::{Scope, Session};
use super::tracking::{Broadcast, Tracking};
use crate::command::{Args, ReplySink, Span, SyntaxError};
use crate::protocol::resp::Version;

/// The one channel that there is.
const CHANNEL: &[u8] = b"__redis__:invalidate";
const NO_CHANNEL: SyntaxError =
    SyntaxError::Other("ERR there is no channel but __redis__:invalidate, for the notices of CLIENT TRACKING");
/// Channels of one request. More are named by mistake, for there is one.
const CHANNELS_MAX: usize = 64;
const NOBODY: &[u8] =
    b"-ERR The client ID you want redirect to does not exist, or has not subscribed to __redis__:invalidate\r\n";

/// What a connection keeps that has subscribed once. It stays at its core, for others may have named it.
#[derive(Debug, Default)]
pub struct Subscription {
    /// Whether it hears messages now.
    active: bool,
    /// Messages that wait for the end of a reply that is handed out in pieces.
    pub(super) held: Vec<u8>,
}

impl Subscription {
    /// Memory held.
    pub fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.held.capacity()
    }
}

/// Where the notices of a connection go.
#[derive(Clone, Debug)]
pub(super) struct Redirect {
    /// The connection that it named.
    pub id: u64,
    to: (usize, ConnId),
    /// Whether a notice came while that one was not subscribed: the next one is of all keys.
    unheard: bool,
    /// Whether it is gone.
    pub is_broken: bool,
}

/// A `CLIENT TRACKING` whose connection for the notices is being looked for. What it asks for begins once that is found;
/// until then the session executes nothing else.
#[derive(Debug)]
pub(super) struct Finding {
    /// The connection that is looked for.
    pub id: u64,
    /// What the session tracks then.
    pub tracking: Box<Tracking>,
    /// What every core is to know then.
    pub broadcast: Option<Arc<Broadcast>>,
    sequence: u32,
    awaited: usize,
    to: Option<(usize, ConnId)>,
}

impl Finding {
    pub fn new(id: u64, tracking: Box<Tracking>, broadcast: Option<Arc<Broadcast>>) -> Self {
        Self { id, tracking, broadcast, sequence: 0, awaited: 0, to: None }
    }
}

/// What became of a notice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// It was told, or is under way.
    Yes,
    /// The connection is there and has not subscribed.
    No,
    /// It is gone.
    Gone,
}

/// The connections of one core that have subscribed, by the numbers that `CLIENT ID` answers.
pub(super) type Subscribers = BTreeMap<u64, ConnId>;

impl Session {
    /// Whether the connection stays at its core, because others know where it is.
    #[inline]
    pub(super) fn is_settled_here(&self) -> bool {
        self.tracking.is_some() || self.subscription.is_some()
    }

    /// Whether the connection stays at its core whatever key it asks for first.
    #[inline]
    pub(super) fn is_placed(&self) -> bool {
        self.scope == Scope::Core || !self.steering.is_unplaced() || self.is_settled_here()
    }

    /// Whether the connection is in the state in which RESP2 allows few commands.
    #[inline]
    pub(super) fn only_listens(&self) -> bool {
        self.version == Version::Resp2 && self.subscription.as_ref().is_some_and(|subscription| subscription.active)
    }

    /// Writes a notice as a message of the channel, or as a push to who speaks RESP3. Answers whether it is subscribed to.
    fn write_message(&mut self, key: Option<&[u8]>) -> bool {
        let (waits, version) = (self.gathering.is_some(), self.version);
        let Some(subscription) = self.subscription.as_mut().filter(|subscription| subscription.active) else {
            return false;
        };
        let buffer = if waits { &mut subscription.held } else { self.output.buffer() };
        buffer.extend_from_slice(match version {
            Version::Resp2 => b"*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n".as_slice(),
            Version::Resp3 => b">2\r\n$10\r\ninvalidate\r\n",
        });
        match (key, version) {
            (None, Version::Resp2) => buffer.extend_from_slice(b"*-1\r\n"),
            (None, Version::Resp3) => buffer.extend_from_slice(b"_\r\n"),
            (Some(key), _) => {
                buffer.extend_from_slice(format!("*1\r\n${}\r\n", key.len()).as_bytes());
                buffer.extend_from_slice(key);
                buffer.extend_from_slice(b"\r\n");
            }
        }
        true
    }

    /// The connection to which the notices of this one went is gone.
    fn break_redirect(&mut self) {
        let redirect = self.tracking.as_mut().and_then(|tracking| tracking.redirect.as_mut());
        let Some(redirect) = redirect.filter(|redirect| !redirect.is_broken) else { return };
        redirect.is_broken = true;
        if self.version == Version::Resp3 {
            let text = format!(">2\r\n$21\r\ntracking-redir-broken\r\n:{}\r\n", redirect.id);
            self.notice_buffer().extend_from_slice(text.as_bytes());
        }
    }
}

/// Writes what a change of the subscriptions answers, for one channel.
fn write_change(session: &mut Session, kind: &str, channel: Option<&[u8]>, count: i64) {
    let is_push = session.version == Version::Resp3;
    session.output.buffer().extend_from_slice(if is_push { b">3\r\n" } else { b"*3\r\n" });
    let mut out = reply(session, "");
    out.bulk(kind.as_bytes());
    match channel {
        Some(channel) => out.bulk(channel),
        None => out.null(),
    }
    out.integer(count);
}

impl Node {
    /// `SUBSCRIBE channel…`
    pub(super) fn subscribe(&mut self, id: ConnId, session: &mut Session, args: Args<'_>) -> Result<(), SyntaxError> {
        if args.len() > CHANNELS_MAX || args.from(1).any(|channel| channel != CHANNEL) {
            return Err(NO_CHANNEL);
        }
        // It stays here, so that notices find it.
        session.move_to = None;
        session.subscription.get_or_insert_default().active = true;
        self.subscribers.insert(session.id, id);
        args.from(1).for_each(|channel| write_change(session, "subscribe", Some(channel), 1));
        Ok(())
    }

    /// `UNSUBSCRIBE [channel…]`
    pub(super) fn unsubscribe(&self, session: &mut Session, args: Args<'_>) -> Result<(), SyntaxError> {
        if args.len() > CHANNELS_MAX {
            return Err(NO_CHANNEL);
        }
        let mut was_active = false;
        if args.len() == 1 {
            if let Some(subscription) = &mut session.subscription {
                was_active = std::mem::take(&mut subscription.active);
            }
            write_change(session, "unsubscribe", was_active.then_some(CHANNEL), 0);
            return Ok(());
        }
        for channel in args.from(1) {
            if let Some(subscription) = &mut session.subscription {
                subscription.active &= channel != CHANNEL;
                was_active = subscription.active;
            }
            write_change(session, "unsubscribe", Some(channel), i64::from(was_active));
        }
        Ok(())
    }

    /// The connection is gone: nothing is told to it any more.
    pub(super) fn end_subscription(&mut self, session: &mut Session) {
        if session.subscription.take().is_some() {
            self.subscribers.remove(&session.id);
        }
    }

    /// The connection with this number, if it is at this core and has ever subscribed.
    pub(super) fn find_subscriber(&self, id: u64) -> Option<ConnId> {
        self.subscribers.get(&id).copied()
    }

    /// Looks for the connection to which the notices of a session are to go, at all cores.
    pub(super) fn find_listener(&mut self, id: ConnId, session: &mut Session, finding: Finding, name: &'static str) {
        let cores = self.outbox.len();
        let parts = if finding.broadcast.is_some() { 2 * cores } else { cores };
        let sequence = session.output.expect(Join::Status, parts as u32);
        let number = finding.id;
        session.finding = Some(Box::new(Finding { sequence, awaited: cores, ..finding }));
        let here = self.core;
        for core in (0..cores).filter(|&core| core != here) {
            let token = Token { conn: id, sequence, part: core as u32 };
            self.on_core(session, token, name, core, Work::FindSubscriber(number), b"");
        }
        let found = self.find_subscriber(number);
        self.accept_subscriber(session, Token { conn: id, sequence, part: here as u32 }, found);
    }

    /// A core says whether the connection is there. The last one decides.
    pub(super) fn accept_subscriber(&mut self, session: &mut Session, token: Token, found: Option<ConnId>) {
        let Some(mut finding) = session.finding.take_if(|finding| finding.sequence == token.sequence) else { return };
        finding.awaited -= 1;
        finding.to = found.map(|conn| (token.part as usize, conn)).or(finding.to);
        if finding.awaited > 0 {
            session.output.fill(token.sequence, token.part, b"+OK\r\n");
            session.finding = Some(finding);
            return;
        }
        let cores = self.outbox.len();
        let Finding { id, mut tracking, broadcast, to, .. } = *finding;
        let Some(to) = to else {
            if broadcast.is_some() {
                session.output.skip(token.sequence, cores as u32);
            }
            return session.output.fill(token.sequence, token.part, NOBODY);
        };
        tracking.redirect = Some(Redirect { id, to, unheard: false, is_broken: false });
        self.begin_tracking(session, tracking);
        for core in (0..cores).filter(|_| broadcast.is_some()) {
            let token = Token { part: (cores + core) as u32, ..token };
            let work = broadcast.clone().map_or(Work::Departed, Work::Broadcast);
            self.on_core(session, token, "client|tracking", core, work, b"");
        }
        session.output.fill(token.sequence, token.part, b"+OK\r\n");
    }

    /// Passes a notice of a session on to where it wants it. Answers whether it wants it elsewhere.
    pub(super) fn redirect_notice(&mut self, id: ConnId, session: &mut Session, key: Option<&[u8]>) -> bool {
        let Some(redirect) = session.tracking.as_mut().and_then(|tracking| tracking.redirect.as_mut()) else {
            return false;
        };
        if redirect.is_broken {
            return true;
        }
        let key = if std::mem::take(&mut redirect.unheard) { None } else { key };
        match self.relay(redirect.to, id, key) {
            Heard::Yes => {}
            Heard::No => redirect.unheard = true,
            Heard::Gone => session.break_redirect(),
        }
        true
    }

    /// Sends a notice to the connection that is to hear it.
    fn relay(&mut self, (core, to): (usize, ConnId), from: ConnId, key: Option<&[u8]>) -> Heard {
        if core == self.core {
            return self.deliver_message(to, key);
        }
        let parcel = &mut self.outbox[core];
        let key: Option<Span> = key.map(|key| parcel.put(key));
        parcel.notices.push(Notice { conn: to, key, kind: NoticeKind::Relayed { from } });
        Heard::Yes
    }

    fn deliver_message(&mut self, to: ConnId, key: Option<&[u8]>) -> Heard {
        let Some(mut session) = self.take(to) else { return Heard::Gone };
        self.spare.lend(&mut session);
        let told = session.write_message(key);
        self.put_back(to, session);
        if told { Heard::Yes } else { Heard::No }
    }

    /// A notice for a connection of this core, on behalf of one of another core.
    pub(super) fn accept_relay(&mut self, core: usize, to: ConnId, from: ConnId, key: Option<&[u8]>) {
        let heard = self.deliver_message(to, key);
        if heard != Heard::Yes {
            let kind = NoticeKind::Unheard { is_gone: heard == Heard::Gone };
            self.outbox[core].notices.push(Notice { conn: from, key: None, kind });
        }
    }

    /// The connection to which the notices of another went is gone, or has not subscribed.
    pub(super) fn accept_unheard(&mut self, id: ConnId, is_gone: bool) {
        let Some(mut session) = self.take(id) else { return };
        if is_gone {
            self.spare.lend(&mut session);
            session.break_redirect();
        } else if let Some(redirect) = session.tracking.as_mut().and_then(|tracking| tracking.redirect.as_mut()) {
            redirect.unheard = true;
        }
        self.put_back(id, session);
    }
}
