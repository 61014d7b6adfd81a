//! Command sequences out of a seed: valid and invalid forms of every command
//! that is served, as bytes on the wire.
//!
//! Nothing generated depends on when it runs: deadlines are long past or far
//! away, and any two of them lie a minute or more apart, so that `GT` and `LT`
//! mean the same to both servers.

use ringfence::base::rng::Rng;

use crate::resp::{encode, show};

/// How the reply of a command is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// Byte for byte.
    Exact,
    /// A number of seconds, which may differ by the time between two servers.
    Seconds,
    /// A number of milliseconds, likewise.
    Millis,
    /// Only the type: who asks and when decides the rest.
    Marker,
    /// The same protocol number in a map of the same wire type.
    Hello,
    /// No reply at all: an empty line, an empty command.
    Nothing,
    /// The connection ends; all bytes until then are compared.
    End,
}

/// One command as it goes on the wire.
#[derive(Clone, Debug)]
pub struct Step {
    pub bytes: Vec<u8>,
    pub compare: Compare,
}

impl Step {
    pub fn show(&self) -> String {
        show(&self.bytes)
    }
}

type Args = Vec<Vec<u8>>;

fn words(text: &str) -> Args {
    text.split(' ').map(|w| w.as_bytes().to_vec()).collect()
}

fn pick<'a, T: ?Sized>(rng: &mut Rng, from: &[&'a T]) -> &'a T {
    from[rng.below(from.len() as u64) as usize]
}

fn chance(rng: &mut Rng, percent: u64) -> bool {
    rng.below(100) < percent
}

const NOT_INTEGERS: &[&str] = &[
    "abc",
    "",
    " 1",
    "1 ",
    "01",
    "+1",
    "-0",
    "--1",
    "1.0",
    "1e3",
    "0x10",
    "9223372036854775808",
    "-9223372036854775809",
    "99999999999999999999999",
    "1\r\n",
    "1\0",
    "-",
];

const NO_TIMES: &[&str] = &["0", "-1", "-1000", "-9223372036854775808", "9223372036854775807"];

/// Generates the commands of one connection after the other.
pub struct Generator {
    rng: Rng,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed) }
    }

    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// A key out of few, so that commands meet; some of them odd.
    fn key(&mut self) -> Vec<u8> {
        if chance(&mut self.rng, 12) {
            let odd: [&[u8]; 7] =
                [b"", b"\0", b"\r\n", b"\xff\xfe\x00\x80", b"{tag}a", b"{}b", b"a key with spaces 'and' \"quotes\""];
            return odd[self.rng.below(7) as usize].to_vec();
        }
        if chance(&mut self.rng, 2) {
            return vec![b'k'; 1 + self.rng.below(2000) as usize];
        }
        format!("k{}", self.rng.below(24)).into_bytes()
    }

    fn value(&mut self) -> Vec<u8> {
        match self.rng.below(10) {
            0 => Vec::new(),
            1 | 2 => (self.rng.below(2000) as i64 - 1000).to_string().into_bytes(),
            3 => i64::MAX.to_string().into_bytes(),
            4 => i64::MIN.to_string().into_bytes(),
            5 => pick(&mut self.rng, NOT_INTEGERS).as_bytes().to_vec(),
            6 => {
                let len = self.rng.below(5000);
                (0..len).map(|_| self.rng.next_u64() as u8).collect()
            }
            _ => format!("v{}", self.rng.below(1000)).into_bytes(),
        }
    }

    fn integer(&mut self) -> Vec<u8> {
        match self.rng.below(8) {
            0 => pick(&mut self.rng, NOT_INTEGERS).as_bytes().to_vec(),
            1 => pick(&mut self.rng, &["9223372036854775807", "-9223372036854775808", "0"]).as_bytes().to_vec(),
            _ => (self.rng.below(200) as i64 - 100).to_string().into_bytes(),
        }
    }

    /// A far deadline that no other deadline comes close to.
    fn far_seconds(&mut self) -> u64 {
        10_000 + 60 * self.rng.below(10_000_000)
    }

    /// The argument of `EX`, `PX`, `EXAT` or `PXAT`.
    fn deadline(&mut self, unit: &str) -> Vec<u8> {
        if chance(&mut self.rng, 12) {
            return pick(&mut self.rng, NOT_INTEGERS).as_bytes().to_vec();
        }
        if chance(&mut self.rng, 12) {
            return pick(&mut self.rng, NO_TIMES).as_bytes().to_vec();
        }
        let far = self.far_seconds();
        let text = match unit {
            "EX" => far.to_string(),
            "PX" => (far * 1000).to_string(),
            "EXAT" if chance(&mut self.rng, 20) => "1000".to_owned(),
            "EXAT" => (4_102_444_800 + far).to_string(),
            _ if chance(&mut self.rng, 20) => "1000".to_owned(),
            _ => ((4_102_444_800 + far) * 1000).to_string(),
        };
        text.into_bytes()
    }

    /// A word as people write it: now and then in another case.
    fn cased(&mut self, word: &str) -> Vec<u8> {
        match self.rng.below(6) {
            0 => word.to_lowercase().into_bytes(),
            1 => word.bytes().map(|b| if chance(&mut self.rng, 50) { b.to_ascii_lowercase() } else { b }).collect(),
            _ => word.as_bytes().to_vec(),
        }
    }

    fn set_options(&mut self, args: &mut Args) {
        let count = [0, 0, 1, 1, 1, 2, 2, 3, 4][self.rng.below(9) as usize];
        for _ in 0..count {
            let option = pick(
                &mut self.rng,
                &["EX", "PX", "EXAT", "PXAT", "NX", "XX", "KEEPTTL", "GET", "GET", "PERSIST", "FOO"],
            );
            args.push(self.cased(option));
            let timed = matches!(option, "EX" | "PX" | "EXAT" | "PXAT");
            if timed && !chance(&mut self.rng, 4) {
                args.push(self.deadline(option));
            }
        }
    }

    /// The words of a command and how its reply compares.
    fn command(&mut self) -> (Args, Compare) {
        let key = self.key();
        let name = pick(
            &mut self.rng,
            &[
                "GET", "GET", "GET", "SET", "SET", "SET", "SET", "SETEX", "PSETEX", "SETNX", "MGET", "MSET", "GETDEL",
                "GETEX", "GETEX", "APPEND", "STRLEN", "INCR", "INCRBY", "DECR", "DECRBY", "DEL", "UNLINK", "EXISTS",
                "EXPIRE", "EXPIRE", "PEXPIRE", "PEXPIRE", "TTL", "PTTL", "PERSIST", "TYPE", "DBSIZE", "FLUSHALL",
                "PING", "ECHO", "SELECT", "SCAN", "HELLO", "AUTH", "CLIENT", "CONFIG", "COMMAND", "CLUSTER", "TIME",
                "INFO", "unknown",
            ],
        );
        let mut args = vec![self.cased(name)];
        let mut compare = Compare::Exact;
        match name {
            "GET" | "GETDEL" | "STRLEN" | "INCR" | "DECR" | "PERSIST" | "TYPE" => args.push(key),
            "TTL" | "PTTL" => {
                args.push(key);
                compare = if name == "TTL" { Compare::Seconds } else { Compare::Millis };
            }
            "SET" => {
                args.extend([key, self.value()]);
                self.set_options(&mut args);
            }
            "SETEX" | "PSETEX" => {
                let deadline = self.deadline(if name == "SETEX" { "EX" } else { "PX" });
                args.extend([key, deadline, self.value()]);
            }
            "SETNX" | "APPEND" => args.extend([key, self.value()]),
            "MSET" => {
                for _ in 0..1 + self.rng.below(6) {
                    args.extend([self.key(), self.value()]);
                }
            }
            "MGET" | "DEL" | "UNLINK" | "EXISTS" => {
                args.push(key);
                for _ in 0..self.rng.below(6) {
                    args.push(self.key());
                }
            }
            "GETEX" => {
                args.push(key);
                let count = [0, 1, 1, 1, 1, 2, 3][self.rng.below(7) as usize];
                for _ in 0..count {
                    let option = pick(&mut self.rng, &["EX", "PX", "EXAT", "PXAT", "PERSIST", "KEEPTTL", "NX", "FOO"]);
                    args.push(self.cased(option));
                    if matches!(option, "EX" | "PX" | "EXAT" | "PXAT") && !chance(&mut self.rng, 4) {
                        args.push(self.deadline(option));
                    }
                }
            }
            "INCRBY" | "DECRBY" => args.extend([key, self.integer()]),
            "EXPIRE" | "PEXPIRE" => {
                let deadline = self.deadline(if name == "EXPIRE" { "EX" } else { "PX" });
                args.extend([key, deadline]);
                for _ in 0..[0, 0, 1, 1, 1, 2, 3][self.rng.below(7) as usize] {
                    let option = pick(&mut self.rng, &["NX", "XX", "GT", "LT", "NX", "XX", "GT", "LT", "FOO"]);
                    args.push(self.cased(option));
                }
            }
            "FLUSHALL" => {
                if chance(&mut self.rng, 70) {
                    let mode = pick(&mut self.rng, &["SYNC", "ASYNC", "NOW"]);
                    args.push(self.cased(mode));
                }
                if chance(&mut self.rng, 20) {
                    args.push(b"ASYNC".to_vec());
                }
            }
            "PING" => {
                for _ in 0..[0, 0, 1, 1, 2][self.rng.below(5) as usize] {
                    args.push(self.value());
                }
            }
            "ECHO" => args.push(self.value()),
            "SELECT" => {
                args.push(
                    pick(&mut self.rng, &["0", "0", "-1", "16", "abc", "", "00", "4294967296", "9223372036854775808"])
                        .into(),
                );
            }
            // What a scan finds has tests of its own; here are its mistakes.
            "SCAN" => {
                let wrong = pick(
                    &mut self.rng,
                    &[
                        "abc",
                        "0x0",
                        "18446744073709551616",
                        "0 COUNT",
                        "0 COUNT 0",
                        "0 COUNT -1",
                        "0 COUNT abc",
                        "0 MATCH",
                        "0 TYPE",
                        "0 FOO bar",
                        "0 COUNT 10 FOO",
                        "0 MATCH * COUNT",
                        "0 COUNT 9223372036854775808",
                    ],
                );
                args.extend(words(wrong));
            }
            "HELLO" => {
                let form = pick(
                    &mut self.rng,
                    &[
                        "2",
                        "3",
                        "3 SETNAME tester",
                        "1",
                        "4",
                        "abc",
                        "3.0",
                        "99999999999999999999",
                        "3 SETNAME",
                        "3 FOO",
                        "2 AUTH",
                        "2 AUTH default",
                        "3 x y",
                    ],
                );
                if matches!(form, "2" | "3" | "3 SETNAME tester") {
                    compare = Compare::Hello;
                }
                args.extend(words(form));
            }
            "AUTH" => {
                let form = pick(&mut self.rng, &["x", "default x", "default", "nobody x", "DEFAULT x", "default x y"]);
                args.extend(words(form));
            }
            "CLIENT" => {
                let form = pick(
                    &mut self.rng,
                    &[
                        "ID",
                        "ID x",
                        "GETNAME",
                        "GETNAME x",
                        "SETNAME",
                        "SETNAME a",
                        "SETNAME a b",
                        "FOO",
                        "FOO a b",
                        "F\r\nO",
                    ],
                );
                if form == "ID" {
                    compare = Compare::Marker;
                }
                args.extend(words(form));
                if chance(&mut self.rng, 20) {
                    args = words("CLIENT SETNAME");
                    let name = pick(&mut self.rng, &["", "a b", "new\nline", "caf\u{e9}", "a!~", "\x7f"]);
                    args.push(name.as_bytes().to_vec());
                    compare = Compare::Exact;
                }
            }
            "CONFIG" => {
                args.extend(words(pick(
                    &mut self.rng,
                    &["GET", "FOO", "FOO bar", "GET no-such-setting", "GET no-such-* nor-such-*"],
                )));
            }
            "COMMAND" => {
                let form = pick(
                    &mut self.rng,
                    &[
                        "COUNT x",
                        "FOO",
                        "FOO a",
                        "INFO nosuch",
                        "INFO nosuch neither",
                        "DOCS nosuch",
                        "GETKEYS",
                        "GETKEYS get",
                        "GETKEYS get a",
                        "GETKEYS nosuch a",
                        "GETKEYS mset a 1 b 2",
                        "GETKEYS ping x",
                        "GETKEYS get a b",
                        "GETKEYS MGET a b c",
                        "GETKEYS del a b",
                        "GETKEYS set k v EX 10",
                    ],
                );
                args.extend(words(form));
            }
            "CLUSTER" => {
                args.extend(words(pick(
                    &mut self.rng,
                    &["FOO", "FOO a", "MYID x", "SLOTS x", "INFO x", "KEYSLOT", "KEYSLOT a b"],
                )));
            }
            "TIME" => compare = Compare::Marker,
            "INFO" => {
                args.extend(words(pick(&mut self.rng, &["server", "no-such-section", "SERVER", "clients"])));
                compare = Compare::Marker;
            }
            "unknown" => {
                args.clear();
                let name: &[u8] = [&b"foo"[..], b"GETX", b"", b"ge\r\nt", b"\xff\xfe", b"quo'te", b"GET "]
                    [self.rng.below(7) as usize];
                args.push(if chance(&mut self.rng, 5) { vec![b'x'; 300] } else { name.to_vec() });
                for _ in 0..self.rng.below(5) {
                    args.push(if chance(&mut self.rng, 10) { vec![b'y'; 200] } else { self.value() });
                }
            }
            _ => {}
        }
        if chance(&mut self.rng, 4) {
            compare = self.wrong_arity(name, &mut args).unwrap_or(compare);
        }
        (args, compare)
    }

    /// One argument too few or too many. `None` where that is another valid form.
    fn wrong_arity(&mut self, name: &str, args: &mut Args) -> Option<Compare> {
        if matches!(name, "unknown" | "CLIENT" | "CONFIG" | "COMMAND" | "CLUSTER" | "HELLO" | "INFO" | "SCAN" | "PING")
        {
            return None;
        }
        if args.len() > 1 && chance(&mut self.rng, 50) {
            args.truncate(1);
        } else {
            args.push(b"more".to_vec());
        }
        // FLUSHALL alone or with `more`, DBSIZE and the rest: all are decided by arguments alone.
        Some(if name == "TIME" && args.len() == 1 { Compare::Marker } else { Compare::Exact })
    }

    /// The same words on one line, quoted where they must be and sometimes where not.
    fn inline(&mut self, args: &Args) -> Vec<u8> {
        let mut line = Vec::new();
        for (i, arg) in args.iter().enumerate() {
            if i > 0 {
                line.extend_from_slice(pick(&mut self.rng, &[" ", " ", "  ", "\t"]).as_bytes());
            }
            let bare = !arg.is_empty() && arg.iter().all(|b| b.is_ascii_graphic() && !b"\"'".contains(b));
            let single = arg.iter().all(|b| (b' '..=b'~').contains(b) && *b != b'\\');
            if bare && chance(&mut self.rng, 80) {
                line.extend_from_slice(arg);
            } else if single && chance(&mut self.rng, 50) {
                line.push(b'\'');
                line.extend_from_slice(&arg.escape_ascii().to_string().replace("\\\"", "\"").into_bytes());
                line.push(b'\'');
            } else {
                line.push(b'"');
                for &b in arg {
                    match b {
                        b'"' | b'\\' => line.extend_from_slice(&[b'\\', b]),
                        b'\n' => line.extend_from_slice(b"\\n"),
                        b'\r' => line.extend_from_slice(b"\\r"),
                        b' '..=b'~' => line.push(b),
                        _ => line.extend_from_slice(format!("\\x{b:02x}").as_bytes()),
                    }
                }
                line.push(b'"');
            }
        }
        line.extend_from_slice(if chance(&mut self.rng, 30) { b"\n" } else { b"\r\n" });
        line
    }

    /// The next command that leaves the connection open, with what must follow it at once.
    pub fn next(&mut self) -> Vec<Step> {
        if chance(&mut self.rng, 3) {
            let nothing = pick(&mut self.rng, &["\r\n", "\n", "   \r\n", "*0\r\n", "*-1\r\n", "*-2\r\n"]);
            return vec![Step { bytes: nothing.as_bytes().to_vec(), compare: Compare::Nothing }];
        }
        let (args, compare) = self.command();
        let inline = chance(&mut self.rng, 10) && args.iter().map(Vec::len).sum::<usize>() < 8000;
        let bytes = if inline { self.inline(&args) } else { encode(&args) };
        let mut steps = vec![Step { bytes, compare }];
        // redis keeps a record written with a deadline in the past until somebody
        // looks, and counts it in DBSIZE: look at once.
        if args.len() > 2 && args[0].eq_ignore_ascii_case(b"SET") {
            steps.push(Step { bytes: encode(&[b"EXISTS", args[1].as_slice()]), compare: Compare::Exact });
        }
        steps
    }

    /// A last step, after which the server closes the connection.
    pub fn last(&mut self) -> Step {
        let long_line = [vec![b'a'; 65_537], [b"*".to_vec(), vec![b'1'; 65_536]].concat()];
        let ends: [&[u8]; 29] = [
            b"*1\r\n$4\r\nQUIT\r\n",
            b"quit\r\n",
            b"*3\r\n$4\r\nQUIT\r\n$1\r\na\r\n$1\r\nb\r\n",
            b"*abc\r\n",
            b"*\r\n",
            b"*1 \r\n",
            b"* 1\r\n",
            b"*+1\r\n",
            b"*01\r\n",
            b"*2147483648\r\n",
            b"*9223372036854775808\r\n",
            b"*1\r\n$-5\r\n",
            b"*1\r\n$-1\r\n",
            b"*1\r\n$abc\r\n",
            b"*1\r\n$\r\n",
            b"*1\r\n$04\r\n",
            b"*1\r\n$+4\r\n",
            b"*1\r\n$536870913\r\n",
            b"*1\r\n$99999999999999999999\r\n",
            b"*1\r\nPING\r\n",
            b"*1\r\n:4\r\n",
            b"*1\r\n\r\n",
            b"*2\r\n$3\r\nGET\r\n*1\r\n",
            b"SET a \"unbalanced\r\n",
            b"SET a 'unbalanced\r\n",
            b"SET a \"x\"y\r\n",
            b"POST / HTTP/1.1\r\n",
            &long_line[0],
            &long_line[1],
        ];
        Step { bytes: ends[self.rng.below(ends.len() as u64) as usize].to_vec(), compare: Compare::End }
    }
}
