//! Commands that the session answers itself: about the connection, the server and
//! the command table.

use super::auth::NO_HELLO;
use super::batch::reply;
use super::session::{Scope, Session, State};
use super::{Node, tracking};
use crate::command::table::{self, SPECS, SessionCommand, Spec};
use crate::command::{Args, ReplySink, SyntaxError};
use crate::protocol::resp::{Encoder, Version};

/// The redis version whose commands and replies these are: what clients that ask
/// for a version get to see.
pub(super) const REDIS_VERSION: &str = "7.0.15";

/// The longest name of a connection, which is kept as long as it lives.
const NAME_BYTES_MAX: usize = 1024;

impl Node {
    pub(super) fn on_session(
        &mut self,
        session: &mut Session,
        args: Args<'_>,
        spec: &'static Spec,
        command: SessionCommand,
    ) {
        use SessionCommand as S;
        let done = match command {
            S::Ping => ping(session, args),
            S::Hello => self.hello(session, args),
            S::Auth => self.auth(session, args),
            S::Select => select(session, args),
            S::ClientSetName => set_name(session, args.get(2)),
            S::ClientSetInfo => client_set_info(session, args),
            S::Echo => {
                reply(session, "").bulk(args.get(1));
                Ok(())
            }
            S::Quit => {
                reply(session, "").status("OK");
                session.state = State::Draining;
                Ok(())
            }
            S::ReadOnly | S::ReadWrite => {
                // Every core owns its slots, so there are no replicas to read from and nothing changes.
                reply(session, "").status("OK");
                Ok(())
            }
            S::Time => {
                let mut out = reply(session, "");
                out.array(2);
                out.bulk((self.now_us / 1_000_000).to_string().as_bytes());
                out.bulk((self.now_us % 1_000_000).to_string().as_bytes());
                Ok(())
            }
            S::ClientId => {
                let id = session.id as i64;
                reply(session, "").integer(id);
                Ok(())
            }
            S::ClientGetName => {
                let name = session.name.clone();
                if name.is_empty() {
                    reply(session, "").null()
                } else {
                    reply(session, "").bulk(&name)
                }
                Ok(())
            }
            S::ClientCaching => tracking::client_caching(session, args),
            S::ClientTrackingInfo => {
                tracking::client_tracking_info(session);
                Ok(())
            }
            S::ClientGetRedir => {
                let redirect = session.redirects_to();
                reply(session, "").integer(redirect);
                Ok(())
            }
            S::ConfigGet => {
                self.config_get(session, args);
                Ok(())
            }
            S::Help => {
                help(&mut reply(session, ""), spec);
                Ok(())
            }
            S::CommandAll | S::CommandCount | S::CommandInfo | S::CommandDocs | S::CommandList | S::CommandGetKeys => {
                about_commands(session, args, command)
            }
            S::ClusterSlots
            | S::ClusterShards
            | S::ClusterNodes
            | S::ClusterInfo
            | S::ClusterMyId
            | S::ClusterKeySlot => {
                self.on_cluster(session, args, command);
                Ok(())
            }
        };
        if let Err(error) = done {
            reply(session, "").error(error.describe(spec.name, args));
        }
    }

    /// `HELLO [protover [AUTH user password] [SETNAME name]]`
    fn hello(&mut self, session: &mut Session, args: Args<'_>) -> Result<(), SyntaxError> {
        let mut version = session.version;
        if args.len() > 1 {
            const NOT_A_NUMBER: SyntaxError =
                SyntaxError::Other("ERR Protocol version is not an integer or out of range");
            version = match args.integer(1).map_err(|_| NOT_A_NUMBER)? {
                2 => Version::Resp2,
                3 => Version::Resp3,
                _ => return Err(SyntaxError::Other("NOPROTO unsupported protocol version")),
            };
        }
        let mut i = 2;
        let mut name = None;
        while i < args.len() {
            if args.is(i, "auth") && i + 2 < args.len() {
                self.authenticate(session, args.get(i + 1), args.get(i + 2))?;
                i += 3;
            } else if args.is(i, "setname") && i + 1 < args.len() {
                check_name(args.get(i + 1))?;
                name = Some(args.get(i + 1).to_vec());
                i += 2;
            } else {
                let option = String::from_utf8_lossy(args.get(i)).into_owned();
                reply(session, "").error(format!("ERR Syntax error in HELLO option '{option}'"));
                return Ok(());
            }
        }
        if !session.authenticated {
            return Err(NO_HELLO);
        }
        // Over RESP2 it was told of nothing.
        let was_deaf = session.version == Version::Resp2 && version == Version::Resp3 && session.redirects_to() == 0;
        session.version = version;
        if let Some(name) = name {
            session.name = name;
        }
        let (id, mode) = (session.id as i64, if session.scope == Scope::Core { "cluster" } else { "standalone" });
        let mut out = reply(session, "");
        out.map(7);
        let (server, answered) = self.server.hello.split_once(' ').unwrap_or(("ringfence", REDIS_VERSION));
        for (field, value) in [("server", server), ("version", answered)] {
            out.bulk(field.as_bytes());
            out.bulk(value.as_bytes());
        }
        out.bulk(b"proto");
        out.integer(if version == Version::Resp3 { 3 } else { 2 });
        out.bulk(b"id");
        out.integer(id);
        for (field, value) in [("mode", mode), ("role", "master")] {
            out.bulk(field.as_bytes());
            out.bulk(value.as_bytes());
        }
        out.bulk(b"modules");
        out.array(0);
        if was_deaf {
            session.write_notice(None);
        }
        Ok(())
    }
}

fn ping(session: &mut Session, args: Args<'_>) -> Result<(), SyntaxError> {
    let text = match args.len() {
        1 => b"".as_slice(),
        2 => args.get(1),
        _ => return Err(SyntaxError::WrongArity),
    };
    if session.only_listens() {
        let mut out = reply(session, "");
        out.array(2);
        out.bulk(b"pong");
        out.bulk(text);
        return Ok(());
    }
    match args.len() {
        1 => reply(session, "").status("PONG"),
        _ => reply(session, "").bulk(text),
    }
    Ok(())
}

fn select(session: &mut Session, args: Args<'_>) -> Result<(), SyntaxError> {
    const OUT_OF_INT: SyntaxError =
        SyntaxError::Other("ERR value is out of range, value must between -2147483648 and 2147483647");
    let index = i32::try_from(args.integer(1)?).map_err(|_| OUT_OF_INT)?;
    if index != 0 {
        return Err(SyntaxError::Other("ERR DB index is out of range"));
    }
    reply(session, "").status("OK");
    Ok(())
}

/// Names stand in lines of `CLIENT LIST`, so they hold printable characters only.
fn check_name(name: &[u8]) -> Result<(), SyntaxError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(SyntaxError::Other("ERR a client name has 1024 bytes at most"));
    }
    if name.iter().all(|b| (b'!'..=b'~').contains(b)) {
        Ok(())
    } else {
        Err(SyntaxError::Other("ERR Client names cannot contain spaces, newlines or special characters."))
    }
}

fn set_name(session: &mut Session, name: &[u8]) -> Result<(), SyntaxError> {
    check_name(name)?;
    session.name = name.to_vec();
    reply(session, "").status("OK");
    Ok(())
}

fn client_set_info(session: &mut Session, args: Args<'_>) -> Result<(), SyntaxError> {
    let attribute = args.get(2).to_ascii_lowercase();
    if attribute != b"lib-name" && attribute != b"lib-ver" {
        let shown = String::from_utf8_lossy(args.get(2)).into_owned();
        reply(session, "").error(format!("ERR Unrecognized option '{shown}'"));
        return Ok(());
    }
    if check_name(args.get(3)).is_err() {
        let shown = String::from_utf8_lossy(&attribute).into_owned();
        reply(session, "").error(format!("ERR {shown} cannot contain spaces, newlines or special characters."));
        return Ok(());
    }
    reply(session, "").status("OK");
    Ok(())
}

/// `CONTAINER HELP`
fn help(out: &mut Encoder<'_>, spec: &'static Spec) {
    let (container, _) = spec.subcommand().expect("HELP is a subcommand");
    let rows: Vec<_> = table::subcommands(container).collect();
    out.array(1 + 2 * rows.len());
    out.status(&format!("{} <subcommand> [<arg> ...]. Subcommands are:", container.to_uppercase()));
    for row in rows {
        let (_, name) = row.subcommand().expect("rows of a container are subcommands");
        out.status(&name.to_uppercase());
        out.status(&format!("    {}", row.summary));
    }
}

fn about_commands(session: &mut Session, args: Args<'_>, command: SessionCommand) -> Result<(), SyntaxError> {
    let mut out = reply(session, "");
    let top_level = || SPECS.iter().filter(|s| s.subcommand().is_none());
    match command {
        SessionCommand::CommandCount => out.integer(top_level().count() as i64),
        SessionCommand::CommandList => {
            if args.len() > 2 {
                return Err(SyntaxError::Syntax);
            }
            out.array(top_level().count());
            top_level().for_each(|s| out.bulk(s.name.as_bytes()));
        }
        SessionCommand::CommandDocs => {
            let named = |s: &&Spec| args.len() == 2 || args.from(2).any(|n| n.eq_ignore_ascii_case(s.name.as_bytes()));
            let rows: Vec<_> =
                SPECS.iter().filter(|s| s.subcommand().is_none() || args.len() > 2).filter(named).collect();
            out.map(rows.len());
            rows.iter().for_each(|s| write_docs(&mut out, s));
        }
        SessionCommand::CommandInfo if args.len() > 2 => {
            out.array(args.len() - 2);
            for name in args.from(2) {
                match SPECS.iter().find(|s| name.eq_ignore_ascii_case(s.name.as_bytes())) {
                    Some(spec) => write_info(&mut out, spec),
                    None => out.null(),
                }
            }
        }
        SessionCommand::CommandGetKeys => return get_keys(&mut out, args),
        _ => {
            out.array(top_level().count());
            top_level().for_each(|s| write_info(&mut out, s));
        }
    }
    Ok(())
}

/// `COMMAND GETKEYS command arg…`
fn get_keys(out: &mut Encoder<'_>, args: Args<'_>) -> Result<(), SyntaxError> {
    let count = args.len() - 2;
    let spec = table::find(args.get(2)).ok_or(SyntaxError::Other("ERR Invalid command specified"))?;
    if spec.keys().first == 0 {
        return Err(SyntaxError::Other("ERR The command has no key arguments"));
    }
    if !spec.accepts(count) {
        return Err(SyntaxError::Other("ERR Invalid number of arguments specified for command"));
    }
    let range = spec.keys();
    let last = if range.last < 0 { count as i32 + range.last } else { range.last };
    let keys: Vec<_> = (range.first..=last).step_by(range.step as usize).map(|i| args.get(2 + i as usize)).collect();
    out.array(keys.len());
    keys.iter().for_each(|key| out.bulk(key));
    Ok(())
}

/// The ten fields of one command in `COMMAND`.
fn write_info(out: &mut Encoder<'_>, spec: &Spec) {
    out.array(10);
    out.bulk(spec.name.as_bytes());
    out.integer(i64::from(spec.arity));
    let flags: Vec<_> = spec.flags.names().collect();
    out.set(flags.len());
    flags.iter().for_each(|flag| out.status(flag));
    let keys = spec.keys();
    [keys.first, keys.last, keys.step].iter().for_each(|&n| out.integer(i64::from(n)));
    let categories = spec.categories();
    out.set(categories.len());
    categories.iter().for_each(|category| out.status(category));
    out.set(0);
    write_key_specs(out, spec);
    let has_subcommands = spec.is_container() || spec.name == "command";
    let subcommands: Vec<_> = table::subcommands(spec.name).filter(|_| has_subcommands).collect();
    out.array(subcommands.len());
    subcommands.iter().for_each(|s| write_info(out, s));
}

/// Where the keys are, in the form that redis 7 introduced.
fn write_key_specs(out: &mut Encoder<'_>, spec: &Spec) {
    let keys = spec.keys();
    if keys.first == 0 {
        return out.set(0);
    }
    out.set(1);
    out.map(3);
    out.bulk(b"flags");
    let flags: &[&str] = if spec.flags.writes() { &["RW", "UPDATE"] } else { &["RO", "ACCESS"] };
    out.set(flags.len());
    flags.iter().for_each(|flag| out.status(flag));
    out.bulk(b"begin_search");
    out.map(2);
    out.bulk(b"type");
    out.bulk(b"index");
    out.bulk(b"spec");
    out.map(1);
    out.bulk(b"index");
    out.integer(i64::from(keys.first));
    out.bulk(b"find_keys");
    out.map(2);
    out.bulk(b"type");
    out.bulk(b"range");
    out.bulk(b"spec");
    out.map(3);
    let last = if keys.last < 0 { keys.last } else { keys.last - keys.first };
    for (field, n) in [("lastkey", last), ("keystep", keys.step), ("limit", 0)] {
        out.bulk(field.as_bytes());
        out.integer(i64::from(n));
    }
}

fn write_docs(out: &mut Encoder<'_>, spec: &Spec) {
    out.bulk(spec.name.as_bytes());
    let subcommands: Vec<_> = table::subcommands(spec.name).collect();
    out.map(if subcommands.is_empty() { 4 } else { 5 });
    let group = spec.group.name();
    for (field, value) in
        [("summary", spec.summary), ("since", spec.since), ("group", group), ("complexity", spec.complexity)]
    {
        out.bulk(field.as_bytes());
        out.bulk(value.as_bytes());
    }
    if !subcommands.is_empty() {
        out.bulk(b"subcommands");
        out.map(subcommands.len());
        subcommands.iter().for_each(|s| write_docs(out, s));
    }
}
