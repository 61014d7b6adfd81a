//! Client-side caching: who keeps copies of values is told when they are no good any more (`CLIENT TRACKING`).
//!
//! The core that owns a key remembers which connections have read it, on whatever core these are, and forgets them
//! with the first change, of which it tells them. Connections that ask for prefixes instead (`BCAST`) are told of every
//! change of such keys, and no read is remembered. The memory for this is bounded: if there are too many keys, some
//! count as changed. So a client may be told too much, and never too little. Here is the side of the connection; `readers` is
//! that of the owner.
//!
//! ```text
//! owner: read ─> readers of the key           change ─> notice to each reader's core ─> push, behind all replies so far
//! ```
//!
//! A connection that tracks stays on its core, so that notices find it. A notice is written behind the replies to all
//! requests that the connection has sent before: a reply that was read before the change cannot come after it.

use std::sync::Arc;

use super::Node;
use super::batch::reply;
use super::mailbox::{ConnId, Work};
use super::readers::Reader;
use super::redirect::{Finding, Redirect};
use super::session::Session;
use crate::command::table::Spec;
use crate::command::{Args, ReplySink, SyntaxError};

/// Prefixes of one connection, and bytes of one.
const PREFIXES_MAX: usize = 256;
const PREFIX_BYTES_MAX: usize = 1024;

/// A connection that is told of all changes of keys with some prefixes.
#[derive(Clone, Debug)]
pub struct Broadcast {
    /// The connection.
    pub(super) reader: Reader,
    /// The empty one is of all keys.
    prefixes: Vec<Vec<u8>>,
}

impl Broadcast {
    /// Whether a change of `key` is told.
    pub(super) fn is_about(&self, key: &[u8]) -> bool {
        self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    /// How many prefixes there are.
    pub(super) fn prefixes(&self) -> usize {
        self.prefixes.len()
    }

    /// Memory held.
    pub(super) fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.prefixes.iter().map(|prefix| size_of_val(prefix) + prefix.capacity()).sum::<usize>()
    }
}

/// Which reads a connection tracks unless it says otherwise for the next command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    All,
    /// Only after `CLIENT CACHING YES`.
    OptIn,
    /// Not after `CLIENT CACHING NO`.
    OptOut,
    /// None: it is told of all changes of keys with its prefixes.
    Broadcast,
}

/// What a session tracks.
#[derive(Debug)]
pub struct Tracking {
    mode: Mode,
    no_loop: bool,
    prefixes: Vec<Vec<u8>>,
    /// What `CLIENT CACHING` said of the next command.
    caching: Option<bool>,
    /// Whether the command that is being executed is tracked.
    now: bool,
    /// Notices that wait for the end of a reply that is handed out in pieces.
    held: Vec<u8>,
    /// Which other connection hears them.
    pub(super) redirect: Option<Redirect>,
}

/// What is left to do of a `CLIENT TRACKING`.
pub(super) enum Left {
    Nothing,
    /// Every core is to remember prefixes.
    Broadcast(Arc<Broadcast>),
    /// The connection that is to hear the notices has to be found.
    Find(Finding),
}

impl Tracking {
    /// Bytes of notices that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.held.len()
    }

    /// Memory held.
    pub fn held_bytes(&self) -> usize {
        let prefixes: usize = self.prefixes.iter().map(|prefix| size_of_val(prefix) + prefix.capacity()).sum();
        size_of::<Self>() + prefixes + self.held.capacity()
    }
}

impl Session {
    /// Whether reads of the command that is being executed are tracked, and if so, whether the client is told of its own changes.
    #[inline]
    pub(super) fn tracks(&self) -> Option<bool> {
        self.tracking.as_ref().filter(|tracking| tracking.now).map(|tracking| tracking.no_loop)
    }

    /// Decides whether the next command is tracked; `None` is one that is not known.
    #[cold]
    pub(super) fn begin_tracked(&mut self, spec: Option<&Spec>) {
        let Some(tracking) = &mut self.tracking else { return };
        let wants = match tracking.mode {
            Mode::All => true,
            Mode::OptIn => tracking.caching == Some(true),
            Mode::OptOut => tracking.caching != Some(false),
            Mode::Broadcast => false,
        };
        tracking.now = wants && spec.is_some_and(|spec| spec.flags.reads() || spec.name == "getlease");
        // `CLIENT CACHING` itself is not the next command.
        if spec.is_none_or(|spec| spec.name != "client") {
            tracking.caching = None;
        }
    }

    /// Writes a notice behind all replies so far. A list that is handed out in pieces is not parted by one.
    pub(super) fn write_notice(&mut self, key: Option<&[u8]>) {
        let buffer = self.notice_buffer();
        buffer.extend_from_slice(b">2\r\n$10\r\ninvalidate\r\n");
        match key {
            None => buffer.extend_from_slice(b"_\r\n"),
            Some(key) => {
                buffer.extend_from_slice(format!("*1\r\n${}\r\n", key.len()).as_bytes());
                buffer.extend_from_slice(key);
                buffer.extend_from_slice(b"\r\n");
            }
        }
    }

    /// The number of the connection that hears this one's notices; 0 is itself, and -1 none, for it does not track.
    pub(super) fn redirects_to(&self) -> i64 {
        match &self.tracking {
            None => -1,
            Some(tracking) => tracking.redirect.as_ref().map_or(0, |redirect| redirect.id as i64),
        }
    }

    /// Where a notice belongs now.
    pub(super) fn notice_buffer(&mut self) -> &mut Vec<u8> {
        let waits = self.gathering.is_some();
        match &mut self.tracking {
            Some(tracking) if waits => &mut tracking.held,
            _ => self.output.buffer(),
        }
    }

    /// Hands out the notices that had to wait.
    #[cold]
    pub(super) fn release_notices(&mut self) {
        if self.gathering.is_some() {
            return;
        }
        let own = self.tracking.as_mut().map(|tracking| std::mem::take(&mut tracking.held));
        let others = self.subscription.as_mut().map(|subscription| std::mem::take(&mut subscription.held));
        for held in own.into_iter().chain(others).filter(|held| !held.is_empty()) {
            self.output.buffer().extend_from_slice(&held);
        }
    }
}

impl Node {
    /// Lets a session track no more.
    pub(super) fn end_tracking(&mut self, id: ConnId, session: &mut Session) {
        let Some(tracking) = session.tracking.take() else { return };
        self.counters.tracking_clients -= 1;
        if tracking.mode == Mode::Broadcast {
            self.forget_broadcast(self.core, id);
            self.tell_others(id, Work::Departed);
        }
    }

    /// `CLIENT TRACKING ON|OFF [REDIRECT id] [PREFIX prefix]… [BCAST] [OPTIN] [OPTOUT] [NOLOOP]`. What every core is to do.
    pub(super) fn client_tracking(
        &mut self,
        id: ConnId,
        session: &mut Session,
        args: Args<'_>,
    ) -> Result<Left, SyntaxError> {
        use SyntaxError::Other;
        let (mut mode, mut no_loop, mut prefixes, mut redirect) = (Mode::All, false, Vec::new(), None);
        let mut i = 3;
        while i < args.len() {
            let wanted = match args.get(i).to_ascii_lowercase().as_slice() {
                b"bcast" => Some(Mode::Broadcast),
                b"optin" => Some(Mode::OptIn),
                b"optout" => Some(Mode::OptOut),
                b"noloop" => {
                    no_loop = true;
                    None
                }
                b"prefix" if i + 1 < args.len() => {
                    i += 1;
                    if args.get(i).len() > PREFIX_BYTES_MAX {
                        return Err(Other("ERR a prefix has 1024 bytes at most"));
                    }
                    prefixes.push(args.get(i).to_vec());
                    None
                }
                b"redirect" if i + 1 < args.len() => {
                    i += 1;
                    if redirect.replace(args.integer(i)?).is_some() {
                        return Err(Other("ERR A client can only redirect to a single other client"));
                    }
                    None
                }
                _ => return Err(SyntaxError::Syntax),
            };
            if let Some(wanted) = wanted {
                if mode != Mode::All && mode != wanted {
                    return Err(Other(match (mode, wanted) {
                        (Mode::Broadcast, _) | (_, Mode::Broadcast) => {
                            "ERR OPTIN and OPTOUT are not compatible with BCAST"
                        }
                        _ => "ERR You can't specify both OPTIN mode and OPTOUT mode",
                    }));
                }
                mode = wanted;
            }
            i += 1;
        }
        let on = match args.get(2).to_ascii_lowercase().as_slice() {
            b"on" => true,
            b"off" => false,
            _ => return Err(SyntaxError::Syntax),
        };
        if !on {
            self.end_tracking(id, session);
            return Ok(Left::Nothing);
        }
        if !prefixes.is_empty() && mode != Mode::Broadcast {
            return Err(Other("ERR PREFIX option requires BCAST mode to be enabled"));
        }
        let before = session.tracking.as_deref();
        if before.is_some_and(|before| (before.mode == Mode::Broadcast) != (mode == Mode::Broadcast)) {
            return Err(Other(
                "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a different mode.",
            ));
        }
        if before.is_some_and(|before| mode != Mode::Broadcast && before.mode != mode) {
            return Err(Other(
                "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a different mode.",
            ));
        }
        if mode == Mode::Broadcast && prefixes.is_empty() {
            // All keys.
            prefixes.push(Vec::new());
        }
        // More prefixes are added to those there are.
        let mut all: Vec<Vec<u8>> = before.map(|before| before.prefixes.clone()).unwrap_or_default();
        for prefix in prefixes {
            if all.iter().any(|other| *other != prefix && (other.starts_with(&prefix) || prefix.starts_with(other))) {
                return Err(Other("ERR prefixes of one client must not overlap: a key would be named twice"));
            }
            if !all.contains(&prefix) {
                all.push(prefix);
            }
        }
        if all.len() > PREFIXES_MAX {
            return Err(Other("ERR a client has 256 prefixes at most"));
        }
        let prefixes = all.clone();
        let tracking =
            Tracking { mode, no_loop, prefixes, caching: None, now: false, held: Vec::new(), redirect: None };
        let tracking = Box::new(tracking);
        let reader = Reader { core: self.core, conn: id, no_loop };
        let broadcast = (mode == Mode::Broadcast).then(|| Arc::new(Broadcast { reader, prefixes: all }));
        // A negative number is nobody's, and 0 is none. Its own notices a connection hears without that.
        if let Some(to) = redirect.filter(|&to| to != 0 && to as u64 != session.id) {
            return Ok(Left::Find(Finding::new(to as u64, tracking, broadcast)));
        }
        self.begin_tracking(session, tracking);
        Ok(broadcast.map_or(Left::Nothing, Left::Broadcast))
    }

    /// From now on a session tracks like this, whatever it has tracked before.
    pub(super) fn begin_tracking(&mut self, session: &mut Session, mut tracking: Box<Tracking>) {
        match session.tracking.take() {
            Some(before) => tracking.held = before.held,
            None => self.counters.tracking_clients += 1,
        }
        // It stays here, so that notices find it.
        session.move_to = None;
        session.tracking = Some(tracking);
    }
}

/// `CLIENT CACHING YES|NO`
pub(super) fn client_caching(session: &mut Session, args: Args<'_>) -> Result<(), SyntaxError> {
    use SyntaxError::Other;
    let Some(tracking) = &mut session.tracking else {
        return Err(Other(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
        ));
    };
    let yes = args.is(2, "yes");
    tracking.caching = match (yes, args.is(2, "no"), tracking.mode) {
        (true, _, Mode::OptIn) => Some(true),
        (true, ..) => {
            return Err(Other("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode."));
        }
        (_, true, Mode::OptOut) => Some(false),
        (_, true, _) => {
            return Err(Other("ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode."));
        }
        _ => return Err(SyntaxError::Syntax),
    };
    reply(session, "").status("OK");
    Ok(())
}

/// `CLIENT TRACKINGINFO`
pub(super) fn client_tracking_info(session: &mut Session) {
    let (mut flags, mut prefixes) = (vec!["off"], Vec::new());
    if let Some(tracking) = &session.tracking {
        flags = vec!["on"];
        match tracking.mode {
            Mode::All => {}
            Mode::Broadcast => flags.push("bcast"),
            Mode::OptIn => flags.push("optin"),
            Mode::OptOut => flags.push("optout"),
        }
        flags.extend(tracking.caching.map(|yes| if yes { "caching-yes" } else { "caching-no" }));
        flags.extend(tracking.no_loop.then_some("noloop"));
        let is_broken = tracking.redirect.as_ref().is_some_and(|redirect| redirect.is_broken);
        flags.extend(is_broken.then_some("broken_redirect"));
        prefixes = tracking.prefixes.clone();
    }
    let redirect = session.redirects_to();
    let mut out = reply(session, "");
    out.map(3);
    out.bulk(b"flags");
    out.set(flags.len());
    flags.iter().for_each(|flag| out.bulk(flag.as_bytes()));
    out.bulk(b"redirect");
    out.integer(redirect);
    out.bulk(b"prefixes");
    out.array(prefixes.len());
    prefixes.iter().for_each(|prefix| out.bulk(prefix));
}
