//! Notices on another connection: `CLIENT TRACKING ON REDIRECT id`, for clients that speak RESP2.
//!
//! A connection over RESP2 cannot be told anything between its replies. It names another one, which has
//! subscribed to the channel of notices and is sent its notices as messages. That one may be at another core: it is
//! looked for at all of them once, and from then on stays where it is.
//!
//! ```text
//! owner ─ notice ─> core of the reader ─ relay ─> core of the subscriber ─> message, or "lost" back to the reader
//! ```

use std::collections::BTreeMap;

use super::Node;
use super::batch::reply;
use super::mailbox::{ConnId, Notice, NoticeKind, Token};
use super::session::Session;
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

/// What a connection that has subscribed keeps.
#[derive(Debug, Default)]
pub struct Subscription {
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
    /// Where that one is, once it was found.
    to: Option<(usize, ConnId)>,
    /// The request that looks for it, and the cores that have not answered.
    sequence: u32,
    awaited: usize,
    /// Whether there was a notice before it was found.
    missed: bool,
    /// Whether it is gone.
    pub is_broken: bool,
}

/// The connections of one core that have subscribed, by the numbers that `CLIENT ID` answers.
pub(super) type Subscribers = BTreeMap<u64, ConnId>;

impl Session {
    /// Whether the connection stays at its core, because others know where it is.
    #[inline]
    pub(super) fn is_settled_here(&self) -> bool {
        self.tracking.is_some() || self.subscription.is_some()
    }

    /// Whether the connection is in the state in which RESP2 allows few commands.
    #[inline]
    pub(super) fn only_listens(&self) -> bool {
        self.subscription.is_some() && self.version == Version::Resp2
    }

    /// Writes a notice as a message of the channel, or as a push to who speaks RESP3. Answers whether it is subscribed to.
    fn write_message(&mut self, key: Option<&[u8]>) -> bool {
        let (waits, version) = (self.gathering.is_some(), self.version);
        let Some(subscription) = &mut self.subscription else { return false };
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
        if session.subscription.is_none() {
            session.subscription = Some(Box::default());
            self.subscribers.insert(session.id, id);
        }
        args.from(1).for_each(|channel| write_change(session, "subscribe", Some(channel), 1));
        Ok(())
    }

    /// `UNSUBSCRIBE [channel…]`
    pub(super) fn unsubscribe(&mut self, session: &mut Session, args: Args<'_>) -> Result<(), SyntaxError> {
        if args.len() > CHANNELS_MAX {
            return Err(NO_CHANNEL);
        }
        let had = session.subscription.is_some();
        if args.len() == 1 {
            self.end_subscription(session);
            write_change(session, "unsubscribe", had.then_some(CHANNEL), 0);
            return Ok(());
        }
        for channel in args.from(1) {
            if channel == CHANNEL {
                self.end_subscription(session);
            }
            let count = i64::from(session.subscription.is_some());
            write_change(session, "unsubscribe", Some(channel), count);
        }
        Ok(())
    }

    /// Lets a connection hear of no more notices.
    pub(super) fn end_subscription(&mut self, session: &mut Session) {
        if session.subscription.take().is_some() {
            self.subscribers.remove(&session.id);
        }
    }

    /// The connection with this number, if it is at this core and has subscribed.
    pub(super) fn find_subscriber(&self, id: u64) -> Option<ConnId> {
        self.subscribers.get(&id).copied()
    }

    /// Begins to look for the connection to which the notices of a session are to go.
    pub(super) fn begin_redirect(session: &mut Session, id: u64, sequence: u32, cores: usize) {
        if let Some(tracking) = &mut session.tracking {
            let redirect = Redirect { id, to: None, sequence, awaited: cores, missed: false, is_broken: false };
            tracking.redirect = Some(redirect);
        }
    }

    /// A core says whether the connection is there. If none has it, the session tracks nothing.
    pub(super) fn accept_subscriber(&mut self, session: &mut Session, token: Token, found: Option<ConnId>) {
        let core = token.part as usize % self.outbox.len();
        let mut is_nowhere = false;
        let mut missed = None;
        let redirect = session.tracking.as_mut().and_then(|tracking| tracking.redirect.as_mut());
        if let Some(redirect) = redirect.filter(|redirect| redirect.sequence == token.sequence) {
            redirect.awaited -= 1;
            if let Some(conn) = found {
                redirect.to = Some((core, conn));
                missed = redirect.to.filter(|_| redirect.missed);
            }
            is_nowhere = redirect.awaited == 0 && redirect.to.is_none();
        }
        if is_nowhere {
            self.end_tracking(token.conn, session);
        }
        if let Some(to) = missed {
            // What it was is not known any more.
            if !self.relay(to, token.conn, None) {
                session.break_redirect();
            }
        }
        session.output.fill(token.sequence, token.part, if is_nowhere { NOBODY } else { b"+OK\r\n" });
    }

    /// Passes a notice of a session on to where it wants it. Answers whether it wants it elsewhere.
    pub(super) fn redirect_notice(&mut self, id: ConnId, session: &mut Session, key: Option<&[u8]>) -> bool {
        let Some(redirect) = session.tracking.as_mut().and_then(|tracking| tracking.redirect.as_mut()) else {
            return false;
        };
        match redirect.to {
            None => redirect.missed = true,
            Some(_) if redirect.is_broken => {}
            Some(to) => {
                if !self.relay(to, id, key) {
                    session.break_redirect();
                }
            }
        }
        true
    }

    /// Sends a notice to the connection that is to hear it; answers whether that is not known to be gone.
    fn relay(&mut self, (core, to): (usize, ConnId), from: ConnId, key: Option<&[u8]>) -> bool {
        if core == self.core {
            return self.deliver_message(to, key);
        }
        let parcel = &mut self.outbox[core];
        let key: Option<Span> = key.map(|key| parcel.put(key));
        parcel.notices.push(Notice { conn: to, key, kind: NoticeKind::Relayed { from } });
        true
    }

    fn deliver_message(&mut self, to: ConnId, key: Option<&[u8]>) -> bool {
        let Some(mut session) = self.take(to) else { return false };
        self.lend_buffer(&mut session);
        let told = session.write_message(key);
        self.put_back(to, session);
        told
    }

    /// A notice for a connection of this core, on behalf of one of another core.
    pub(super) fn accept_relay(&mut self, core: usize, to: ConnId, from: ConnId, key: Option<&[u8]>) {
        if !self.deliver_message(to, key) {
            self.outbox[core].notices.push(Notice { conn: from, key: None, kind: NoticeKind::Lost });
        }
    }

    /// The connection to which the notices of another went is gone.
    pub(super) fn lose_redirect(&mut self, id: ConnId) {
        let Some(mut session) = self.take(id) else { return };
        self.lend_buffer(&mut session);
        session.break_redirect();
        self.put_back(id, session);
    }
}
