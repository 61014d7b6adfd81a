//! Passwords. What a client may do before it has given one: little, and with little memory.
//!
//! ```text
//! RESP       one request at a time, of few and short arguments; only commands that need no password
//! memcached  one `set` after the other, whose data is a user and a password, until one is right
//! HTTP       each request by its own `Authorization`, looked at before its body: see protocol::http
//! ```
//!
//! Once a password was right, or if none is asked for, all that is left of this is a look at a flag for each batch.

use super::Node;
use super::batch::reply;
use super::session::{Session, State};
use super::stats::Family;
use crate::command::{Args, ReplySink, SyntaxError};
use crate::protocol::memcache::Handshake;

/// What answers a command that needs a password.
pub(super) const NO_AUTH: &str = "NOAUTH Authentication required.";
/// What answers a `HELLO` that brings none.
pub(super) const NO_HELLO: SyntaxError = SyntaxError::Other(
    "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> option \
     can be used to authenticate the client and select the RESP protocol version at the same time",
);
const WRONG: SyntaxError = SyntaxError::Other("WRONGPASS invalid username-password pair or user is disabled.");
const NOT_ASKED: SyntaxError = SyntaxError::Other(
    "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration \
     is correct?",
);
/// The only user that there is.
const USER: &[u8] = b"default";

/// Bytes of replies that a client without a password may leave untaken before its requests wait.
const OUTPUT_BYTES_MAX: usize = 16 << 10;

/// Bytes of replies at which a session's requests wait, where `bytes_max` is what others have.
#[inline]
pub(super) fn output_bytes_max(session: &Session, bytes_max: usize) -> usize {
    if session.authenticated { bytes_max } else { bytes_max.min(OUTPUT_BYTES_MAX) }
}

impl Node {
    /// `AUTH [user] password`
    pub(super) fn auth(&mut self, session: &mut Session, args: Args<'_>) -> Result<(), SyntaxError> {
        match args.len() {
            2 if self.passwords.is_none() => return Err(NOT_ASKED),
            2 => self.authenticate(session, USER, args.get(1))?,
            3 => self.authenticate(session, args.get(1), args.get(2))?,
            _ => return Err(SyntaxError::Syntax),
        }
        reply(session, "").status("OK");
        Ok(())
    }

    /// Looks at what a client gave. A wrong password takes nothing away from one that has given a right one before.
    pub(super) fn authenticate(
        &mut self,
        session: &mut Session,
        user: &[u8],
        password: &[u8],
    ) -> Result<(), SyntaxError> {
        // Without a password the default user may say anything, as in redis-server.
        if user == USER && self.accepts(password) {
            session.authenticated = true;
            return Ok(());
        }
        self.counters.auth_failures += 1;
        Err(WRONG)
    }

    /// Whether a password is right. It is work: a client may send many.
    fn accepts(&mut self, password: &[u8]) -> bool {
        let Some(passwords) = &self.passwords else { return true };
        self.executed += passwords.len() as u64;
        passwords.accept(password)
    }

    /// What a memcached client sends before it has given a password. Answers how many bytes it was; `None` if it
    /// is not whole.
    #[cold]
    pub(super) fn on_handshake(&mut self, session: &mut Session, input: &[u8]) -> Option<usize> {
        let (text, used) = match session.memcache.handshake(input) {
            Handshake::Incomplete(need) => {
                session.need = need;
                return None;
            }
            Handshake::Passed(used) => return Some(used),
            Handshake::Given(password, used) => {
                self.count_request(Family::Connection);
                session.authenticated = self.accepts(password);
                let text = if session.authenticated {
                    "STORED\r\n"
                } else {
                    self.counters.auth_failures += 1;
                    "CLIENT_ERROR authentication failure\r\n"
                };
                (text, used)
            }
            Handshake::Refused(text, used) => {
                self.count_request(Family::Other);
                (text, used)
            }
            Handshake::Malformed(text) => {
                self.counters.parse_errors += 1;
                self.refuse(session, text);
                debug_assert!(session.state == State::Draining);
                return Some(0);
            }
        };
        session.output.buffer().extend_from_slice(text.as_bytes());
        Some(used)
    }
}
