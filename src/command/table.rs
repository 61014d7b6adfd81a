//! A row for each command: everything that dispatch, routing, `COMMAND`, metrics
//! and the reference page know about it. To add a command, add a row here and,
//! if its shape is new, a function in `syntax` and an arm in the engine.

use super::{Args, Op, SyntaxError, syntax};

/// What a command is, where its keys are and who runs it.
#[derive(Debug)]
pub struct Spec {
    /// Lower-case name; a subcommand's is `container|name`.
    pub name: &'static str,
    /// Arguments with the name, or at least so many if negative.
    pub arity: i32,
    /// What the command does and needs.
    pub flags: Flags,
    /// The family it is documented and counted in.
    pub group: Group,
    /// The redis version that introduced it.
    pub since: &'static str,
    /// Cost in big-O terms.
    pub complexity: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// Who runs it, and how.
    pub action: Action,
}

/// Who runs a command.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// The core that owns the key at argument 1.
    Key(for<'a> fn(&Args<'a>) -> Result<Op<'a>, SyntaxError>),
    /// The owners of several keys, whose answers are gathered.
    Keys(Gather),
    /// Every core of the host, or one core chosen by an argument.
    Sweep(Sweep),
    /// The session itself.
    Session(SessionCommand),
    /// Nobody: the subcommands that follow in the table do.
    Container,
}

/// How the answers of several keys become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gather {
    /// A list in the order of the keys (`MGET`).
    List,
    /// One status for pairs of key and value (`MSET`).
    Pairs,
    /// The sum of deletions (`DEL`, `UNLINK`).
    Deleted,
    /// The number of existing keys, repetitions counted (`EXISTS`).
    Existing,
}

/// Commands over whole shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// `DBSIZE`
    DbSize,
    /// `FLUSHALL`, `FLUSHDB`
    Flush,
    /// `SCAN`
    Scan,
    /// `CLUSTER COUNTKEYSINSLOT`
    CountKeysInSlot,
    /// `INFO`
    Info,
    /// `MEMORY STATS`
    MemoryStats,
    /// `CLIENT TRACKING`
    Tracking,
    /// `SUBSCRIBE`
    Subscribe,
    /// `UNSUBSCRIBE`
    Unsubscribe,
    /// `HOTKEYS`
    HotKeys,
    /// `BIGKEYS`
    BigKeys,
    /// `CONFIG SET`
    ConfigSet,
}

/// Commands about the connection, the server or the cluster map.
#[allow(missing_docs, reason = "each is the command of its name")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionCommand {
    Ping,
    Echo,
    Hello,
    Auth,
    Select,
    Quit,
    Time,
    ReadOnly,
    ReadWrite,
    ClientId,
    ClientSetName,
    ClientGetName,
    ClientSetInfo,
    ClientCaching,
    ClientTrackingInfo,
    ClientGetRedir,
    ConfigGet,
    CommandAll,
    CommandCount,
    CommandInfo,
    CommandDocs,
    CommandList,
    CommandGetKeys,
    ClusterSlots,
    ClusterShards,
    ClusterNodes,
    ClusterInfo,
    ClusterMyId,
    ClusterKeySlot,
    Help,
}

/// The family of a command.
#[allow(missing_docs, reason = "each is the redis group of its name")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    String,
    Generic,
    Connection,
    Server,
    Cluster,
    Pubsub,
}

impl Group {
    /// As `COMMAND DOCS` writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Group::String => "string",
            Group::Generic => "generic",
            Group::Connection => "connection",
            Group::Server => "server",
            Group::Cluster => "cluster",
            Group::Pubsub => "pubsub",
        }
    }

    const fn category(self) -> Option<&'static str> {
        match self {
            Group::String => Some("@string"),
            Group::Generic => Some("@keyspace"),
            Group::Connection => Some("@connection"),
            Group::Pubsub => Some("@pubsub"),
            Group::Server | Group::Cluster => None,
        }
    }
}

/// A set of command flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(u16);

const READ: Flags = Flags(1);
const WRITE: Flags = Flags(1 << 1);
const DENYOOM: Flags = Flags(1 << 2);
const FAST: Flags = Flags(1 << 3);
const NOSCRIPT: Flags = Flags(1 << 4);
const LOADING: Flags = Flags(1 << 5);
const STALE: Flags = Flags(1 << 6);
const NO_AUTH: Flags = Flags(1 << 7);
const DANGEROUS: Flags = Flags(1 << 8);
const PUBSUB: Flags = Flags(1 << 9);
const NONE: Flags = Flags(0);

impl Flags {
    const fn and(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether every flag of `other` is set.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the command changes data.
    pub const fn writes(self) -> bool {
        self.has(WRITE)
    }

    /// Whether it belongs to messages between clients.
    pub const fn is_pubsub(self) -> bool {
        self.has(PUBSUB)
    }

    /// Whether the command reads keys and changes nothing.
    pub const fn reads(self) -> bool {
        self.has(READ)
    }

    /// Whether the command is executed before the client has given a password.
    pub const fn needs_no_password(self) -> bool {
        self.has(NO_AUTH)
    }

    /// The names that `COMMAND` answers.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        const NAMES: [(Flags, &str); 9] = [
            (PUBSUB, "pubsub"),
            (WRITE, "write"),
            (READ, "readonly"),
            (DENYOOM, "denyoom"),
            (NOSCRIPT, "noscript"),
            (LOADING, "loading"),
            (STALE, "stale"),
            (FAST, "fast"),
            (NO_AUTH, "no_auth"),
        ];
        NAMES.into_iter().filter(move |(flag, _)| self.has(*flag)).map(|(_, name)| name)
    }
}

/// Where the keys are among the arguments: first, last (negative counts from the
/// end) and the distance between two; all 0 for a command without keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// First key.
    pub first: i32,
    /// Last key.
    pub last: i32,
    /// Distance.
    pub step: i32,
}

impl Spec {
    /// Whether `count` arguments, the name included, are acceptable.
    #[inline]
    pub const fn accepts(&self, count: usize) -> bool {
        let least = self.arity.unsigned_abs() as usize;
        count == least || self.arity < 0 && count > least
    }

    /// Where the keys are.
    pub const fn keys(&self) -> KeyRange {
        match self.action {
            Action::Key(_) => KeyRange { first: 1, last: 1, step: 1 },
            Action::Keys(Gather::Pairs) => KeyRange { first: 1, last: -1, step: 2 },
            Action::Keys(_) => KeyRange { first: 1, last: -1, step: 1 },
            _ => KeyRange { first: 0, last: 0, step: 0 },
        }
    }

    /// The ACL categories.
    pub fn categories(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        names.extend(self.group.category());
        for (flag, name) in [(READ, "@read"), (WRITE, "@write"), (DANGEROUS, "@dangerous")] {
            if self.flags.has(flag) {
                names.push(name);
            }
        }
        names.push(if self.flags.has(FAST) { "@fast" } else { "@slow" });
        names
    }

    /// The container's name and the subcommand's, if this is a subcommand.
    pub fn subcommand(&self) -> Option<(&'static str, &'static str)> {
        self.name.split_once('|')
    }

    /// Whether a connection that has subscribed over RESP2 may use it.
    pub fn is_for_listeners(&self) -> bool {
        self.flags.is_pubsub() || matches!(self.name, "ping" | "quit")
    }

    /// Whether this row is a container of subcommands.
    pub const fn is_container(&self) -> bool {
        matches!(self.action, Action::Container)
    }
}

/// The subcommands of the container `name`, in table order.
pub fn subcommands(name: &str) -> impl Iterator<Item = &'static Spec> {
    SPECS.iter().filter(move |s| s.subcommand().is_some_and(|(container, _)| container == name))
}

/// Finds the subcommand `sub` of the container `name`, whatever the case of `sub`.
pub fn find_subcommand(name: &str, sub: &[u8]) -> Option<&'static Spec> {
    subcommands(name).find(|s| s.subcommand().is_some_and(|(_, own)| sub.eq_ignore_ascii_case(own.as_bytes())))
}

/// Finds a command, not a subcommand, by its name, whatever the case: one multiplication, one probe
/// of a 256-byte index, one comparison of eight folded bytes.
#[inline]
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return None;
    }
    let folded = fold(word_of(name));
    let mut at = bucket(folded, name.len());
    loop {
        match INDEX[at] {
            EMPTY => return None,
            row => {
                let spec = &SPECS[row as usize];
                if FOLDED[row as usize] == folded
                    && spec.name.len() == name.len()
                    && (name.len() <= 8 || name.eq_ignore_ascii_case(spec.name.as_bytes()))
                {
                    return Some(spec);
                }
            }
        }
        at = (at + 1) % INDEX_LEN;
    }
}

/// The command that was last found: most that follow are the same, written in the same way.
#[derive(Default)]
pub struct LastFound {
    /// A name of at most eight bytes.
    word: u64,
    len: usize,
    spec: Option<&'static Spec>,
}

impl LastFound {
    /// As [`find`].
    #[inline]
    pub fn find(&mut self, name: &[u8]) -> Option<&'static Spec> {
        let (word, len) = (word_of(name), name.len());
        if word != self.word || len != self.len || len > 8 {
            *self = Self { word, len, spec: find(name) };
        }
        self.spec
    }
}

/// A command's row number, for counters beside the table.
pub fn row_of(spec: &'static Spec) -> usize {
    SPECS.iter().position(|s| std::ptr::eq(s, spec)).expect("a spec is always a row of the table")
}

const NAME_BYTES_MAX: usize = 32;
const INDEX_LEN: usize = 256;
const EMPTY: u8 = u8::MAX;

const _: () = assert!(SPECS.len() < EMPTY as usize / 2, "the index must stay half empty and its entries bytes");

static INDEX: [u8; INDEX_LEN] = index();
static FOLDED: [u64; SPECS.len()] = folded_names();

/// The first eight bytes of a name as a number. Shorter names are read in two halves that overlap.
#[inline]
const fn word_of(name: &[u8]) -> u64 {
    const fn four(n: &[u8], i: usize) -> u64 {
        u32::from_le_bytes([n[i], n[i + 1], n[i + 2], n[i + 3]]) as u64
    }
    match *name {
        [] => 0,
        [a] => a as u64,
        [a, b] => (a as u64) | ((b as u64) << 8),
        [a, b, c] => (a as u64) | ((b as u64) << 8) | ((c as u64) << 16),
        _ => {
            let behind = if name.len() < 8 { name.len() - 4 } else { 4 };
            four(name, 0) | (four(name, behind) << (8 * behind))
        }
    }
}

/// The bytes of a word with ASCII letters made lower-case: all are found at once.
#[inline]
const fn fold(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let low = word & (0x7f * EACH);
    let upper = (low + (0x80 - b'A' as u64) * EACH) & !(low + (0x7f - b'Z' as u64) * EACH) & !word & (0x80 * EACH);
    word | (upper >> 2)
}

#[inline]
const fn bucket(folded: u64, len: usize) -> usize {
    ((folded ^ len as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize
}

const fn folded_names() -> [u64; SPECS.len()] {
    let mut names = [0; SPECS.len()];
    let mut row = 0;
    while row < SPECS.len() {
        names[row] = fold(word_of(SPECS[row].name.as_bytes()));
        row += 1;
    }
    names
}

/// Whether a row's name is `container|name`, which is no command of its own.
const fn is_subcommand(name: &[u8]) -> bool {
    let mut i = 0;
    while i < name.len() {
        if name[i] == b'|' {
            return true;
        }
        i += 1;
    }
    false
}

const fn index() -> [u8; INDEX_LEN] {
    let mut index = [EMPTY; INDEX_LEN];
    let mut row = 0;
    while row < SPECS.len() {
        let name = SPECS[row].name.as_bytes();
        if !is_subcommand(name) {
            let mut at = bucket(fold(word_of(name)), name.len());
            while index[at] != EMPTY {
                at = (at + 1) % INDEX_LEN;
            }
            index[at] = row as u8;
        }
        row += 1;
    }
    index
}

const READ_FAST: Flags = READ.and(FAST);
const WRITE_FAST: Flags = WRITE.and(FAST);
const STORE: Flags = WRITE.and(DENYOOM);
const STORE_FAST: Flags = STORE.and(FAST);
const ALWAYS: Flags = LOADING.and(STALE);
const ALWAYS_FAST: Flags = ALWAYS.and(FAST);
const HANDSHAKE: Flags = ALWAYS_FAST.and(NOSCRIPT).and(NO_AUTH);
const LISTEN: Flags = PUBSUB.and(NOSCRIPT).and(LOADING).and(STALE);
const CONNECTION: Flags = ALWAYS.and(NOSCRIPT);

#[allow(clippy::too_many_arguments, reason = "a row of the table, in the order of its columns")]
const fn row(
    name: &'static str,
    arity: i32,
    flags: Flags,
    group: Group,
    since: &'static str,
    complexity: &'static str,
    action: Action,
    summary: &'static str,
) -> Spec {
    Spec { name, arity, flags, group, since, complexity, summary, action }
}

use Action::{Container, Key, Keys, Session};
use Group::{Cluster, Connection, Generic, Pubsub, Server, String as Str};
use SessionCommand as S;

/// The table. A container stands before its subcommands.
#[rustfmt::skip]
pub static SPECS: &[Spec] = &ROWS;

#[rustfmt::skip]
const ROWS: [Spec; 81] = [
    row("get", 2, READ_FAST, Str, "1.0.0", "O(1)", Key(syntax::get), "Answers the value of a key."),
    row("set", -3, STORE, Str, "1.0.0", "O(1)", Key(syntax::set), "Stores a value, with a deadline or a condition if asked."),
    row("setex", 4, STORE, Str, "2.0.0", "O(1)", Key(syntax::setex), "Stores a value that expires after some seconds."),
    row("psetex", 4, STORE, Str, "2.6.0", "O(1)", Key(syntax::psetex), "Stores a value that expires after some milliseconds."),
    row("setnx", 3, STORE_FAST, Str, "1.0.0", "O(1)", Key(syntax::setnx), "Stores a value if the key does not exist."),
    row("mget", -2, READ_FAST, Str, "1.0.0", "O(N) with N keys", Keys(Gather::List), "Answers the values of several keys."),
    row("mset", -3, STORE, Str, "1.0.1", "O(N) with N keys", Keys(Gather::Pairs), "Stores several values; atomic for each core, not across cores."),
    row("getdel", 2, WRITE_FAST, Str, "6.2.0", "O(1)", Key(syntax::getdel), "Answers the value of a key and deletes the key."),
    row("getex", -2, WRITE_FAST, Str, "6.2.0", "O(1)", Key(syntax::getex), "Answers the value of a key and changes its deadline."),
    row("getlease", -2, WRITE_FAST, Str, "8.6.0", "O(1)", Key(syntax::getlease), "Answers the value of a key, how fresh it is, and a lease to fill it if it is missing or stale."),
    row("append", 3, STORE_FAST, Str, "2.0.0", "O(N) with N bytes", Key(syntax::append), "Appends to a value and answers its length."),
    row("strlen", 2, READ_FAST, Str, "2.2.0", "O(1)", Key(syntax::strlen), "Answers the length of a value."),
    row("incr", 2, STORE_FAST, Str, "1.0.0", "O(1)", Key(syntax::incr), "Adds one to an integer."),
    row("incrby", 3, STORE_FAST, Str, "1.0.0", "O(1)", Key(syntax::incrby), "Adds a number to an integer."),
    row("decr", 2, STORE_FAST, Str, "1.0.0", "O(1)", Key(syntax::decr), "Subtracts one from an integer."),
    row("decrby", 3, STORE_FAST, Str, "1.0.0", "O(1)", Key(syntax::decrby), "Subtracts a number from an integer."),
    row("del", -2, WRITE, Generic, "1.0.0", "O(N) with N keys", Keys(Gather::Deleted), "Deletes keys and answers how many existed."),
    row("unlink", -2, WRITE_FAST, Generic, "4.0.0", "O(N) with N keys", Keys(Gather::Deleted), "Deletes keys and answers how many existed; the same as DEL here."),
    row("exists", -2, READ_FAST, Generic, "1.0.0", "O(N) with N keys", Keys(Gather::Existing), "Answers how many of the keys exist."),
    row("expire", -3, WRITE_FAST, Generic, "1.0.0", "O(1)", Key(syntax::expire), "Sets the deadline of a key, in seconds from now."),
    row("pexpire", -3, WRITE_FAST, Generic, "2.6.0", "O(1)", Key(syntax::pexpire), "Sets the deadline of a key, in milliseconds from now."),
    row("expireat", -3, WRITE_FAST, Generic, "1.2.0", "O(1)", Key(syntax::expireat), "Sets the deadline of a key, in Unix seconds."),
    row("pexpireat", -3, WRITE_FAST, Generic, "2.6.0", "O(1)", Key(syntax::pexpireat), "Sets the deadline of a key, in Unix milliseconds."),
    row("ttl", 2, READ_FAST, Generic, "1.0.0", "O(1)", Key(syntax::ttl), "Answers the seconds a key has left."),
    row("pttl", 2, READ_FAST, Generic, "2.6.0", "O(1)", Key(syntax::pttl), "Answers the milliseconds a key has left."),
    row("expiretime", 2, READ_FAST, Generic, "7.0.0", "O(1)", Key(syntax::expiretime), "Answers the deadline of a key in Unix seconds."),
    row("pexpiretime", 2, READ_FAST, Generic, "7.0.0", "O(1)", Key(syntax::pexpiretime), "Answers the deadline of a key in Unix milliseconds."),
    row("persist", 2, WRITE_FAST, Generic, "2.2.0", "O(1)", Key(syntax::persist), "Removes the deadline of a key."),
    row("type", 2, READ_FAST, Generic, "1.0.0", "O(1)", Key(syntax::type_of), "Answers the type of a key: string or none."),
    row("scan", -2, READ, Generic, "2.8.0", "O(1) a call, O(N) for all keys", Action::Sweep(Sweep::Scan), "Walks the keys, slot by slot."),
    row("dbsize", 1, READ_FAST, Server, "1.0.0", "O(1)", Action::Sweep(Sweep::DbSize), "Answers the number of keys."),
    row("flushall", -1, WRITE.and(DANGEROUS), Server, "1.0.0", "O(1), memory given back in slices", Action::Sweep(Sweep::Flush), "Deletes all keys."),
    row("flushdb", -1, WRITE.and(DANGEROUS), Server, "1.0.0", "O(1), memory given back in slices", Action::Sweep(Sweep::Flush), "Deletes all keys; there is one database."),
    row("ping", -1, FAST, Connection, "1.0.0", "O(1)", Session(S::Ping), "Answers PONG, or the argument."),
    row("echo", 2, ALWAYS_FAST, Connection, "1.0.0", "O(1)", Session(S::Echo), "Answers the argument."),
    row("hello", -1, HANDSHAKE, Connection, "6.0.0", "O(1)", Session(S::Hello), "Chooses RESP2 or RESP3 and tells about the server."),
    row("auth", -2, HANDSHAKE, Connection, "1.0.0", "O(N) with N passwords", Session(S::Auth), "Gives the password that the server asks for."),
    row("subscribe", -2, LISTEN, Pubsub, "2.0.0", "O(1)", Action::Sweep(Sweep::Subscribe), "Lets the connection hear the notices of CLIENT TRACKING … REDIRECT, on the channel __redis__:invalidate."),
    row("unsubscribe", -1, LISTEN, Pubsub, "2.0.0", "O(1)", Action::Sweep(Sweep::Unsubscribe), "Lets the connection hear no more."),
    row("select", 2, ALWAYS_FAST, Connection, "1.0.0", "O(1)", Session(S::Select), "Accepts database 0, the only one."),
    row("quit", -1, HANDSHAKE, Connection, "1.0.0", "O(1)", Session(S::Quit), "Closes the connection."),
    row("readonly", 1, ALWAYS_FAST, Connection, "3.0.0", "O(1)", Session(S::ReadOnly), "Allows reads from replicas on this connection."),
    row("readwrite", 1, ALWAYS_FAST, Connection, "3.0.0", "O(1)", Session(S::ReadWrite), "Takes READONLY back."),
    row("client", -2, NONE, Connection, "2.4.0", "Depends on the subcommand", Container, "About this connection."),
    row("client|id", 2, CONNECTION, Connection, "5.0.0", "O(1)", Session(S::ClientId), "Answers the connection's number."),
    row("client|setname", 3, CONNECTION, Connection, "2.6.9", "O(1)", Session(S::ClientSetName), "Names the connection."),
    row("client|getname", 2, CONNECTION, Connection, "2.6.9", "O(1)", Session(S::ClientGetName), "Answers the connection's name."),
    row("client|setinfo", 4, CONNECTION, Connection, "7.2.0", "O(1)", Session(S::ClientSetInfo), "Notes the client library's name or version."),
    row("client|tracking", -3, CONNECTION, Connection, "6.0.0", "O(1)", Action::Sweep(Sweep::Tracking), "Has the server tell the connection when keys that it has read change."),
    row("client|caching", 3, CONNECTION, Connection, "6.0.0", "O(1)", Session(S::ClientCaching), "Says whether the next command is tracked."),
    row("client|trackinginfo", 2, CONNECTION, Connection, "6.2.0", "O(1)", Session(S::ClientTrackingInfo), "Answers what the connection tracks."),
    row("client|getredir", 2, CONNECTION, Connection, "6.0.0", "O(1)", Session(S::ClientGetRedir), "Answers the number of the connection that hears the notices: 0 is this one, -1 that it does not track."),
    row("client|help", 2, CONNECTION, Connection, "5.0.0", "O(1)", Session(S::Help), "Lists the subcommands."),
    row("info", -1, ALWAYS.and(DANGEROUS), Server, "1.0.0", "O(1)", Action::Sweep(Sweep::Info), "Tells about the server, its memory and its counters."),
    row("time", 1, ALWAYS_FAST, Server, "2.6.0", "O(1)", Session(S::Time), "Answers the server's time: Unix seconds and microseconds."),
    row("config", -2, NONE, Server, "2.0.0", "Depends on the subcommand", Container, "About the configuration."),
    row("config|get", -3, CONNECTION.and(DANGEROUS), Server, "2.0.0", "O(N) with N parameters", Session(S::ConfigGet), "Answers the parameters whose names match."),
    row("config|set", -4, CONNECTION.and(DANGEROUS), Server, "2.0.0", "O(N) with N parameters", Action::Sweep(Sweep::ConfigSet), "Changes memory or eviction while the server runs."),
    row("config|help", 2, ALWAYS, Server, "5.0.0", "O(1)", Session(S::Help), "Lists the subcommands."),
    row("memory", -2, NONE, Server, "4.0.0", "Depends on the subcommand", Container, "About the use of memory."),
    row("memory|stats", 2, ALWAYS, Server, "4.0.0", "O(N) with N cores", Action::Sweep(Sweep::MemoryStats), "Answers where the memory is, of all cores and of each."),
    row("memory|help", 2, ALWAYS, Server, "4.0.0", "O(1)", Session(S::Help), "Lists the subcommands."),
    row("hotkeys", -1, ALWAYS.and(DANGEROUS), Server, "8.6.0", "O(N) with N cores", Action::Sweep(Sweep::HotKeys), "Answers the keys that cores work for most, by operations or by bytes."),
    row("bigkeys", -1, ALWAYS.and(DANGEROUS), Server, "8.6.0", "O(N) with N cores", Action::Sweep(Sweep::BigKeys), "Answers the keys with the largest values."),
    row("command", -1, ALWAYS, Server, "2.8.13", "O(N) with N commands", Session(S::CommandAll), "Tells about all commands, or see its subcommands."),
    row("command|count", 2, ALWAYS, Server, "2.8.13", "O(1)", Session(S::CommandCount), "Answers the number of commands."),
    row("command|info", -2, ALWAYS, Server, "2.8.13", "O(N) with N commands", Session(S::CommandInfo), "Tells about the named commands."),
    row("command|docs", -2, ALWAYS, Server, "7.0.0", "O(N) with N commands", Session(S::CommandDocs), "Documents the named commands."),
    row("command|list", -2, ALWAYS, Server, "7.0.0", "O(N) with N commands", Session(S::CommandList), "Lists the names of the commands."),
    row("command|getkeys", -4, ALWAYS, Server, "2.8.13", "O(N) with N arguments", Session(S::CommandGetKeys), "Answers the keys of a whole command."),
    row("command|help", 2, ALWAYS, Server, "5.0.0", "O(1)", Session(S::Help), "Lists the subcommands."),
    row("cluster", -2, NONE, Cluster, "3.0.0", "Depends on the subcommand", Container, "About the cluster: each core is a node of it."),
    row("cluster|slots", 2, ALWAYS, Cluster, "3.0.0", "O(N) with N cores", Session(S::ClusterSlots), "Answers which core serves which slots."),
    row("cluster|shards", 2, ALWAYS, Cluster, "7.0.0", "O(N) with N cores", Session(S::ClusterShards), "Answers the shards and their nodes."),
    row("cluster|nodes", 2, ALWAYS, Cluster, "3.0.0", "O(N) with N cores", Session(S::ClusterNodes), "Answers the nodes, a line each."),
    row("cluster|info", 2, ALWAYS, Cluster, "3.0.0", "O(1)", Session(S::ClusterInfo), "Answers the state of the cluster."),
    row("cluster|myid", 2, ALWAYS, Cluster, "3.0.0", "O(1)", Session(S::ClusterMyId), "Answers the id of the core that answers."),
    row("cluster|keyslot", 3, ALWAYS, Cluster, "3.0.0", "O(N) with N bytes", Session(S::ClusterKeySlot), "Answers the slot of a key."),
    row("cluster|countkeysinslot", 3, ALWAYS, Cluster, "3.0.0", "O(1)", Action::Sweep(Sweep::CountKeysInSlot), "Answers the number of keys in a slot."),
    row("cluster|help", 2, ALWAYS, Cluster, "5.0.0", "O(1)", Session(S::Help), "Lists the subcommands."),
    row("getset", 3, STORE_FAST, Str, "1.0.0", "O(1)", Key(syntax::getset), "Stores a value and answers the one before; SET with GET is newer."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_its_name_in_any_case() {
        for spec in SPECS {
            let upper = spec.name.to_uppercase();
            for name in [spec.name, &upper] {
                let found = match name.split_once('|') {
                    Some((_, sub)) => {
                        assert!(find(name.as_bytes()).is_none(), "{name} is not a command");
                        find_subcommand(spec.subcommand().unwrap().0, sub.as_bytes())
                    }
                    None => find(name.as_bytes()),
                };
                assert!(std::ptr::eq(found.unwrap(), spec), "{name}");
            }
        }
        for unknown in [&b""[..], b"ge", b"gets", b"GET ", b"\x07et", b"@CHO", b"countkeysinslot", &[b'x'; 99]] {
            assert!(find(unknown).is_none(), "{:?}", String::from_utf8_lossy(unknown));
        }
    }

    #[test]
    fn the_last_command_is_not_taken_for_another() {
        let mut last = LastFound::default();
        let names: [&[u8]; 12] = [
            b"",
            b"get",
            b"get",
            b"GET",
            b"gets",
            b"ge",
            b"\0get",
            b"getrange",
            b"getrangex",
            b"getdel",
            b"client",
            b"",
        ];
        for first in names {
            for second in names {
                for name in [first, second, second] {
                    assert_eq!(last.find(name).map(row_of), find(name).map(row_of), "{first:?} {second:?}");
                }
            }
        }
    }

    #[test]
    fn every_byte_of_a_name_is_folded_as_ascii_is() {
        for byte in 0..=u8::MAX {
            for len in 1..=8 {
                for at in 0..len {
                    let mut name = vec![b'q'; len];
                    name[at] = byte;
                    let mut expected = [0; 8];
                    expected[..len].copy_from_slice(&name.to_ascii_lowercase());
                    assert_eq!(fold(word_of(&name)), u64::from_le_bytes(expected), "{byte} at {at} of {len}");
                }
            }
        }
    }

    #[test]
    fn names_are_lower_case_and_unique_and_subcommands_follow_their_container() {
        let mut last_container = "";
        for (i, spec) in SPECS.iter().enumerate() {
            assert_eq!(spec.name, spec.name.to_lowercase());
            assert!(SPECS[..i].iter().all(|s| s.name != spec.name), "{} twice", spec.name);
            assert!(spec.arity != 0 && spec.summary.ends_with('.'), "{}", spec.name);
            match spec.subcommand() {
                Some((container, _)) => assert_eq!(container, last_container),
                None => last_container = spec.name,
            }
        }
    }
}
