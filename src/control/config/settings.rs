//! Every setting: name, kind, default and meaning, declared once. The comment on
//! a field is what `--print-config` and docs/configuration.md say about its key.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde::Deserialize;

use super::source::Sources;
use super::values::{CpuList, Eviction, HugePages, Idle, LogFormat, Memory, Part, Size, SlotList, Span, TomlText};

/// One key, with its documentation.
#[derive(Debug)]
pub(super) struct KeyDoc {
    pub name: &'static str,
    pub doc: &'static [&'static str],
}

/// A section's documentation and keys. The root has no name.
#[derive(Debug)]
pub(super) struct SectionDoc {
    pub name: &'static str,
    pub about: &'static [&'static str],
    pub keys: &'static [KeyDoc],
    /// Of a section that may be repeated, an example of each key.
    pub examples: &'static [&'static str],
}

impl SectionDoc {
    pub fn is_list(&self) -> bool {
        !self.examples.is_empty()
    }
}

/// The values of a section's keys in the order of its [`SectionDoc`], as TOML.
pub(super) trait Section {
    fn values(&self) -> Vec<Option<String>>;
}

/// Declares a section. Keys with a default may be left out of the file; a section
/// without defaults is an element of a list.
macro_rules! section {
    ($(#[doc = $about:literal])+ $name:ident {
        $($(#[doc = $doc:literal])+ $key:ident: $type:ty = $default:expr,)+
        $(; $($(#[doc = $subdoc:literal])+ $(#[serde($attribute:ident)])? $sub:ident: $subtype:ty,)+)?
    }) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $key: $type,)+
            $($($(#[doc = $subdoc])+ $(#[serde($attribute)])? pub $sub: $subtype,)+)?
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)+ $($($sub: Default::default(),)+)? }
            }
        }

        section!(@docs $name [$($about),+] $($key [$($doc),+])+);
    };
    ($(#[doc = $about:literal])+ $name:ident { $($(#[doc = $doc:literal])+ $key:ident: $type:ty,)+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $($(#[doc = $doc])+ pub $key: $type,)+ }

        section!(@docs $name [$($about),+] $($key [$($doc),+])+);
    };
    (@docs $name:ident [$($about:literal),+] $($key:ident [$($doc:literal),+])+) => {
        impl $name {
            pub(super) const ABOUT: &'static [&'static str] = &[$($about),+];
            pub(super) const KEYS: &'static [KeyDoc] = &[$(KeyDoc { name: stringify!($key), doc: &[$($doc),+] }),+];
        }

        impl Section for $name {
            fn values(&self) -> Vec<Option<String>> {
                vec![$(self.$key.toml_text()),+]
            }
        }
    };
}

section! {
    /// What the whole process may use, and what it does when that is full.
    Config {
        /// Memory for everything the cores hold: records, index, expiry, buffers. A part such
        /// as "80%" is of the cgroup's limit where there is one, of the machine's memory
        /// otherwise; a size such as "12GB" is taken as it is. Split evenly over the cores,
        /// except for those that say otherwise in `[[core]]`.
        memory: Memory = Memory::Percent(80),
        /// What a full core does when a write needs room. "s3fifo" evicts newcomers that nobody reads
        /// before records that have been read, and long ones before short ones: it missed least on
        /// the traces of docs/eviction.md. "clock" evicts records that were not read lately; "lfu" what
        /// is read least often; "random" whatever chance picks; "volatile-ttl" only records with a TTL, the soonest first; "noeviction" refuses the write with an
        /// OOM error and keeps serving reads. The names that Redis has, such as "allkeys-lru", mean the
        /// nearest of these.
        eviction: Eviction = Eviction::default(),
        /// Whether to keep when each key was last read, for `l` of memcached's `mg` and `la` of its `me`. It takes 4 bytes
        /// of memory for each key.
        access_times: bool = false,
        /// Whether a core's memory asks the kernel for huge pages, which spare it page-table misses: "auto"
        /// does from 1 GiB of memory for a core, where a segment is as large as a huge page; "off" never does.
        /// `INFO memory` says how much came of it. /sys/kernel/mm/transparent_hugepage/enabled must not be "never".
        huge_pages: HugePages = HugePages::Auto,
        /// Whether each core touches all of its memory before it takes connections. Otherwise a page costs time when
        /// it is first written to: a huge one some 0.1 ms, on a virtual machine up to 5 ms. With it a start takes longer, the
        /// process has its full size from then on, and memory that the host does not have is missed at once.
        prefault: bool = false,
        ;
        /// Which CPUs serve data.
        cores: Cores,
        /// Exceptions for single cores.
        core: Vec<CoreOverride>,
        /// Addresses and ports.
        listen: Listen,
        /// What clients may ask for.
        limits: Limits,
        /// What clients must know.
        auth: Auth,
        /// How long keys live.
        expiry: Expiry,
        /// The same for keys that begin with something.
        prefix: Vec<PrefixRule>,
        /// Log lines.
        log: Log,
        /// Where each value came from.
        #[serde(skip)]
        sources: Sources,
    }
}

section! {
    /// Which CPUs serve data, and what they do when there is nothing to do.
    Cores {
        /// One core of Ringfence is pinned to each of these CPUs: "2-15", "0,2,4" or [2, 4, 6]; the
        /// first is core 0. "auto" takes every CPU that the process may run on; when there are more
        /// than two, the first of them (mostly CPU 0, where Linux handles most interrupts) is left
        /// to the control thread. At most 256.
        cpus: CpuList = CpuList::Auto,
        /// What a core does when it has nothing to do. "park" sleeps until the kernel wakes it:
        /// for machines shared with other work. "adaptive" polls for `spin`, then sleeps. "busy"
        /// polls forever: the shortest latency, and 100 % of each CPU at all times.
        idle: Idle = Idle::Adaptive,
        /// How long "adaptive" polls before it sleeps. At most 1s.
        spin: Span = Span(Duration::from_micros(20)),
        /// How long a core that sleeps between requests waits to serve some of them together: fewer wake-ups, and so much
        /// more latency at the most. It waits for 75us of it at most while it is on its CPU for three quarters of the time without,
        /// or finds requests of several connections whenever it looks. Less busy, it waits for all of it where clients with
        /// pipelines send more because of that, which it tries now and then. "0s" for never; "busy" never does. Needs Linux 6.12.
        /// At most 1ms.
        gather: Span = Span(Duration::from_micros(200)),
        /// A key with at least this part of its core's load, of which clients of other cores ask too, is answered by those cores
        /// as well, from copies that a write revokes before it is acknowledged. It spares the core that owns the key: a
        /// hot key takes the load of one core otherwise, whatever the number of cores. "0%" is off.
        copy_share: Part = Part(50_000),
    }
}

section! {
    /// An exception for one core, named by its CPU. Repeat the section for more cores.
    CoreOverride {
        /// The CPU of the core that this section is about. Needed.
        cpu: usize,
        /// This core's memory: a size, or a part of what the host has. It comes out of the whole
        /// `memory`; what is left is split evenly over the cores that say nothing.
        memory: Option<Memory>,
        /// The hash slots that this core owns: "6144-8191" or "0-99,200-299", of 0 to 16383. Slots that
        /// no core names are split evenly over the cores that say nothing.
        slots: Option<SlotList>,
    }
}

section! {
    /// Addresses and ports. A port of 0 is off.
    Listen {
        /// The IP address to listen on, v4 or v6. "0.0.0.0" and "::" listen on every interface: give such a
        /// host a password (`[auth]`), and keep it behind a firewall, because nothing is encrypted.
        bind: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST),
        /// The host name or address that cluster clients are told to connect to. Empty means the
        /// bind address or, where that is unspecified, the address that the client connected to.
        announce: String = String::new(),
        /// What `HELLO` answers: the server's name and its version. Some clients go by it before they keep copies of
        /// values: the cache of redis-py wants "redis 7.4.0" or newer.
        hello: String = "ringfence 7.0.15".to_owned(),
        /// The shared port, for every Redis client: connections are moved to the core that owns
        /// their keys.
        port: u16 = 6379,
        /// Core ports, for cluster clients: core i listens on this plus i, so that each request
        /// goes straight to the core that owns its key.
        core_port_base: u16 = 16_400,
        /// HTTP for values, such as `GET /v1/cache/{key}`.
        http_port: u16 = 8080,
        /// The text and meta protocols of memcached.
        memcached_port: u16 = 11_211,
        /// HTTP for operators: /metrics, /healthz and /readyz.
        admin_port: u16 = 9600,
        /// Connections that the kernel holds for each listener until they are accepted. The kernel
        /// cuts it down to net.core.somaxconn.
        backlog: u32 = 4096,
    }
}

section! {
    /// What clients may ask for. A limit stands between one client's mistake and everyone's memory.
    Limits {
        /// Connections in the whole process. At most 1000000. When this is left out and the process
        /// may not open so many files, it is lowered to fit, and the log says so.
        connections: u32 = 10_000,
        /// Bytes in one key. At most 65535.
        key_bytes: Size = Size(65_535),
        /// Bytes in one value. At most 512MB. A value of 1MB or more is sent in pieces, and taken in as it
        /// arrives by the core that owns its key: neither takes memory for the whole a second time. While a
        /// key is overwritten, memory is needed for the old value and the new one.
        value_bytes: Size = Size::mb(8),
        /// Arguments in one command. At most 1048576, as in Redis.
        args: u32 = 1_048_576,
        /// Bytes that one connection may have sent and Ringfence not yet executed. The bytes of a large
        /// value that is taken in as it arrives do not count. At most 1GB; at
        /// least 128KB more than `value_bytes`, so that the largest write fits.
        request_bytes: Size = Size::mb(64),
        /// Replies waiting for one client at which Ringfence stops reading from it. A large value among
        /// them counts once, in however many replies it is.
        output_soft_bytes: Size = Size::mb(1),
        /// Replies waiting for one client at which Ringfence closes the connection. At most 4GB; at
        /// least `output_soft_bytes` and `value_bytes`.
        output_hard_bytes: Size = Size::mb(256),
    }
}

section! {
    /// What clients must know before they are served, by whichever protocol: docs/authentication.md.
    Auth {
        /// A file with a password in each line, of which clients give one: several, so that one can be exchanged for
        /// another while clients still use both. At most 16 of at most 512 bytes. It is read once, at start; nobody but the
        /// server's user should be able to read it. Empty means that no password is asked for. The admin port never asks.
        password_file: String = String::new(),
    }
}

section! {
    /// How long keys live, beside what their writers say. A length of "0s" is off.
    Expiry {
        /// By how much a time to live may be shortened, by chance: values that were stored together do not
        /// all expire together. "0%" is off. It is for times from now, such as those of `SETEX` and `EXPIRE`, not for
        /// points in time. At most 50%.
        jitter: Part = Part(0),
        /// For how long a value lives that is stored without a time to live.
        default_ttl: Span = Span(Duration::ZERO),
        /// For how long any value lives at most, whatever its writer says.
        max_ttl: Span = Span(Duration::ZERO),
    }
}

section! {
    /// Keys that begin with the same bytes: they are counted by themselves (`INFO keyspace`, /metrics), and may have their own
    /// times to live, instead of those under `[expiry]`, and a limit of their own. Repeat the section for more prefixes, at
    /// most 64. If a key begins with several, the longest counts.
    PrefixRule {
        /// What the keys begin with. Needed.
        name: String,
        /// As under `[expiry]`.
        default_ttl: Option<Span>,
        /// As under `[expiry]`.
        max_ttl: Option<Span>,
        /// What records and values of such keys may take at most, on all cores together: a part of `memory`, in which each core
        /// has its share of this too. Beyond it keys of the prefix are evicted, whatever else is stored; with an eviction
        /// that spares them, their writes are refused.
        memory: Option<Size>,
    }
}

section! {
    /// Log lines, on standard error.
    Log {
        /// Which lines to write: off, error, warn, info, debug or trace; or filters by module, such
        /// as "info,ringfence::io=debug".
        level: String = "info".to_string(),
        /// "human" writes lines for people, coloured on a terminal; "json" writes an object per line.
        format: LogFormat = LogFormat::Human,
    }
}

/// All sections, in the order in which they are printed.
pub(super) const SECTIONS: [SectionDoc; 9] = [
    SectionDoc { name: "", about: Config::ABOUT, keys: Config::KEYS, examples: &[] },
    SectionDoc { name: "cores", about: Cores::ABOUT, keys: Cores::KEYS, examples: &[] },
    SectionDoc { name: "core", about: CoreOverride::ABOUT, keys: CoreOverride::KEYS, examples: &CORE_EXAMPLES },
    SectionDoc { name: "listen", about: Listen::ABOUT, keys: Listen::KEYS, examples: &[] },
    SectionDoc { name: "limits", about: Limits::ABOUT, keys: Limits::KEYS, examples: &[] },
    SectionDoc { name: "auth", about: Auth::ABOUT, keys: Auth::KEYS, examples: &[] },
    SectionDoc { name: "expiry", about: Expiry::ABOUT, keys: Expiry::KEYS, examples: &[] },
    SectionDoc { name: "prefix", about: PrefixRule::ABOUT, keys: PrefixRule::KEYS, examples: &PREFIX_EXAMPLES },
    SectionDoc { name: "log", about: Log::ABOUT, keys: Log::KEYS, examples: &[] },
];

/// An example of each key of `[[core]]`, and of each of `[[prefix]]`.
const CORE_EXAMPLES: [&str; 3] = ["3", "\"12GB\"", "\"6144-8191\""];
const PREFIX_EXAMPLES: [&str; 4] = ["\"session:\"", "\"30m\"", "\"24h\"", "\"2GB\""];

const _: () = assert!(CORE_EXAMPLES.len() == CoreOverride::KEYS.len());
const _: () = assert!(PREFIX_EXAMPLES.len() == PrefixRule::KEYS.len());

/// Whether `section` is one that may be repeated.
pub(super) fn is_list(section: &str) -> bool {
    SECTIONS.iter().any(|s| s.name == section && s.is_list())
}

impl Config {
    /// The elements of the list called `name`.
    pub(super) fn elements(&self, name: &str) -> Vec<&dyn Section> {
        match name {
            "core" => self.core.iter().map(|core| core as &dyn Section).collect(),
            "prefix" => self.prefix.iter().map(|prefix| prefix as &dyn Section).collect(),
            _ => Vec::new(),
        }
    }

    /// The section called `name`; `None` for lists, which may have many elements.
    pub(super) fn section(&self, name: &str) -> Option<&dyn Section> {
        match name {
            "" => Some(self),
            "cores" => Some(&self.cores),
            "listen" => Some(&self.listen),
            "limits" => Some(&self.limits),
            "auth" => Some(&self.auth),
            "expiry" => Some(&self.expiry),
            "log" => Some(&self.log),
            _ => None,
        }
    }
}
