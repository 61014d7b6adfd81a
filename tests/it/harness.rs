//! Real processes for tests: ports that are free, a start that waits until the
//! server serves, raw clients, and an end by the process's own id, also when
//! the test fails.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::resp::{Reply, encode, parse, show};

/// How long anything that should happen at once may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How often a start is tried again with other ports when somebody took one.
const START_ATTEMPTS: usize = 5;

/// The first of `count` ports in a row that nobody listens on, handed out once
/// in this process.
pub fn free_ports(count: u16) -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    for _ in 0..1000 {
        let first = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port");
        let base = first.local_addr().expect("a bound address").port();
        let Some(end) = base.checked_add(count) else { continue };
        let rest: io::Result<Vec<_>> = (base + 1..end).map(|p| TcpListener::bind(("127.0.0.1", p))).collect();
        if rest.is_err() {
            continue;
        }
        let mut given = GIVEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let given = given.get_or_insert_default();
        if (base..end).any(|p| given.contains(&p)) {
            continue;
        }
        given.extend(base..end);
        return base;
    }
    panic!("no {count} free ports in a row on 127.0.0.1");
}

/// The CPUs that this process may run on.
pub fn allowed_cpus() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let list = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).expect("Cpus_allowed_list").trim();
    list.split(',')
        .flat_map(|range| {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            from.parse::<usize>().expect("a CPU number")..=to.parse().expect("a CPU number")
        })
        .collect()
}

/// Sends SIGTERM.
pub fn terminate(pid: u32) {
    signal(pid, "TERM");
}

/// Sends a signal, named without SIG. std has no call for it, so the `kill` program does.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status();
    assert!(status.is_ok(), "the kill program could not be run: {status:?}");
}

/// Descriptors that a process has open.
pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is alive").count()
}

/// Time that a process has used on all CPUs.
pub fn cpu_time(pid: u32) -> Duration {
    // Linux counts in hundredths of a second, whatever its own clock does.
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is alive");
    // The name before it may contain anything, also spaces.
    let fields = stat.rsplit_once(')').expect("a name in parentheses").1;
    let ticks = fields.split_whitespace().skip(11).take(2).map(|n| n.parse::<u32>().expect("ticks")).sum::<u32>();
    TICK * ticks
}

/// Resident memory of a process in bytes.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is alive");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") * 1024
}

/// Asks until the answer is yes; says whether it was within `limit`.
pub fn eventually(limit: Duration, mut yes: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !yes() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

/// A child process whose standard error is kept, ended when dropped.
pub struct Process {
    child: Child,
    stderr: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    fn spawn(command: &mut Command) -> io::Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let (mut pipe, kept) = (child.stderr.take().expect("a pipe"), Arc::clone(&stderr));
        let reader = thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(n @ 1..) = pipe.read(&mut chunk) {
                kept.lock().expect("the log").extend_from_slice(&chunk[..n]);
            }
        });
        Ok(Self { child, stderr, reader: Some(reader) })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the process wrote to standard error until now.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().expect("the log")).into_owned()
    }

    /// The status of a process that ends by itself within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let mut status = None;
        eventually(limit, || {
            status = self.child.try_wait().expect("our own child");
            status.is_some()
        });
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- standard error of process {}\n{}---", self.pid(), self.stderr());
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            terminate(self.pid());
            if self.wait(Duration::from_secs(3)).is_none() {
                let _ = self.child.kill();
            }
        }
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// The program under test: what cargo built, or `RINGFENCE_BIN`.
pub fn ringfence_command() -> Command {
    let path = std::env::var_os("RINGFENCE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_ringfence").into());
    Command::new(path)
}

/// Runs the program to its end with `args` and captures what it writes. A
/// program that does not end within [`PATIENCE`] is ended, and the test fails.
pub fn run_to_end(args: &[String]) -> Output {
    let mut child = ringfence_command()
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the ringfence program starts");
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().expect("our own child").is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            let output = child.wait_with_output().expect("its output");
            panic!("ringfence {args:?} did not end; it wrote {:?}", String::from_utf8_lossy(&output.stderr));
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().expect("its output")
}

/// The defaults that `extra` does not say otherwise, then `extra`: no setting
/// is given twice.
pub fn arguments(defaults: &[[&str; 2]], extra: &[&str]) -> Vec<String> {
    let setting = |value: &str| value.split('=').next().unwrap_or_default().to_owned();
    let said = |[flag, value]: &[&str; 2]| match *flag {
        "--set" => extra.windows(2).any(|pair| pair[0] == "--set" && setting(pair[1]) == setting(value)),
        flag => extra.contains(&flag),
    };
    let kept = defaults.iter().filter(|default| !said(default)).flatten();
    kept.chain(extra).map(|argument| (*argument).to_owned()).collect()
}

/// A running server with two cores.
pub struct Server {
    pub process: Process,
    pub port: u16,
    pub core_port_base: u16,
    pub admin_port: u16,
}

impl Server {
    /// A server with the defaults of these tests.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A server with more arguments; they win over the defaults.
    pub fn start_with(extra: &[&str]) -> Self {
        let cpus = allowed_cpus();
        assert!(cpus.len() >= 2, "these tests need two CPUs, this process may use {cpus:?}");
        let mut problem = String::new();
        for _ in 0..START_ATTEMPTS {
            let (port, core_port_base, admin_port) = (free_ports(1), free_ports(2), free_ports(1));
            let defaults = [
                ["--port", &port.to_string()],
                ["--set", &format!("listen.core_port_base={core_port_base}")],
                ["--set", &format!("listen.admin_port={admin_port}")],
                ["--set", "listen.memcached_port=0"],
                ["--set", "listen.http_port=0"],
                ["--set", "cores.idle=park"],
                ["--cpus", &format!("{},{}", cpus[0], cpus[1])],
                ["--memory", "64MB"],
            ];
            let mut command = ringfence_command();
            command.args(arguments(&defaults, extra));
            let process = Process::spawn(&mut command).expect("the ringfence program starts");
            let mut server = Self { process, port, core_port_base, admin_port };
            match server.wait_until_ready() {
                Ok(()) => return server,
                Err(why) => problem = why,
            }
            // Only a port that somebody took in between is worth another try.
            if !problem.contains("port") {
                break;
            }
        }
        panic!("the server did not start: {problem}");
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let mut ended = None;
        let ready = eventually(PATIENCE, || {
            ended = self.process.child.try_wait().expect("our own child");
            ended.is_some() || matches!(http_get(self.admin_port, "/readyz"), Ok((200, _)))
        });
        match ended {
            Some(status) => {
                // The last words may still be in the pipe.
                thread::sleep(Duration::from_millis(50));
                Err(format!("it ended with {status}: {}", self.process.stderr()))
            }
            None if ready => Ok(()),
            None => Err(format!("/readyz never answered 200: {}", self.process.stderr())),
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A client on the shared port.
    pub fn client(&self) -> Client {
        Client::connect(self.port)
    }

    /// A client on the port of one core.
    pub fn core_client(&self, core: u16) -> Client {
        Client::connect(self.core_port_base + core)
    }

    /// The sum over all cores of a counter on `/metrics`.
    pub fn metric_sum(&self, name: &str) -> u64 {
        let (status, body) = http_get(self.admin_port, "/metrics").expect("/metrics answers");
        assert_eq!(status, 200, "/metrics: {body}");
        let values: Vec<f64> = body
            .lines()
            .filter_map(|line| {
                let rest = line.strip_prefix(name)?;
                let rest = if rest.starts_with('{') { rest.split_once('}')?.1 } else { rest };
                rest.strip_prefix(' ')?.split(' ').next()?.parse().ok()
            })
            .collect();
        assert!(!values.is_empty(), "no metric {name} on /metrics");
        values.iter().sum::<f64>() as u64
    }

    /// The same once it stands still: counters are published with a delay.
    pub fn metric_settled(&self, name: &str) -> u64 {
        let mut last = self.metric_sum(name);
        let still = eventually(PATIENCE, || {
            thread::sleep(Duration::from_millis(300));
            let now = self.metric_sum(name);
            std::mem::replace(&mut last, now) == now
        });
        assert!(still, "{name} never stood still, last {last}");
        last
    }
}

/// A reference redis-server without persistence.
pub struct Redis {
    _process: Process,
    port: u16,
}

impl Redis {
    pub fn start() -> Self {
        for _ in 0..START_ATTEMPTS {
            let port = free_ports(1);
            let mut command = Command::new("redis-server");
            command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
            command.args(["--save", "", "--appendonly", "no", "--dir", "/tmp"]);
            let mut process = match Process::spawn(&mut command) {
                Ok(process) => process,
                Err(why) => panic!("redis-server, the reference, does not start ({why}); tests/run installs it"),
            };
            let up = eventually(PATIENCE, || {
                process.wait(Duration::ZERO).is_some() || TcpStream::connect(("127.0.0.1", port)).is_ok()
            });
            if up && process.wait(Duration::ZERO).is_none() {
                return Self { _process: process, port };
            }
        }
        panic!("redis-server found no port to listen on");
    }

    pub fn client(&self) -> Client {
        Client::connect(self.port)
    }
}

/// What came instead of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The server closed or reset the connection.
    Closed,
    /// Nothing within the patience of the client.
    Silent,
}

/// A raw connection that knows where replies end.
pub struct Client {
    stream: TcpStream,
    /// Arrived and not yet taken; `taken` bytes of it are done.
    arrived: Vec<u8>,
    taken: usize,
}

impl Client {
    pub fn connect(port: u16) -> Self {
        Self::try_connect(port).unwrap_or_else(|why| panic!("no connection to port {port}: {why}"))
    }

    pub fn try_connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, arrived: Vec::new(), taken: 0 })
    }

    /// Closes so that the server sees a reset.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("a linger time");
    }

    pub fn set_patience(&self, limit: Duration) {
        self.stream.set_read_timeout(Some(limit)).expect("a read timeout");
    }

    /// Says that nothing more will be sent; replies can still be read.
    pub fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).expect("a half-close");
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap_or_else(|why| panic!("{} bytes could not be sent: {why}", bytes.len()));
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    fn receive(&mut self) -> Result<(), Missing> {
        if self.taken > 0 {
            self.arrived.drain(..self.taken);
            self.taken = 0;
        }
        let mut chunk = [0; 1 << 16];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Missing::Closed),
                Ok(n) => {
                    self.arrived.extend_from_slice(&chunk[..n]);
                    return Ok(());
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(Missing::Silent);
                }
                Err(_) => return Err(Missing::Closed),
            }
        }
    }

    /// The next reply, parsed and as bytes.
    pub fn next_reply(&mut self) -> Result<(Reply, Vec<u8>), Missing> {
        loop {
            if let Some((reply, used)) = parse(&self.arrived[self.taken..]) {
                let raw = self.arrived[self.taken..self.taken + used].to_vec();
                self.taken += used;
                return Ok((reply, raw));
            }
            self.receive()?;
        }
    }

    /// The next reply, which must come.
    pub fn reply(&mut self) -> Reply {
        match self.next_reply() {
            Ok((reply, _)) => reply,
            Err(why) => panic!("no reply ({why:?}); arrived: {}", show(&self.arrived[self.taken..])),
        }
    }

    /// One command and its reply.
    pub fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Reply {
        self.send(&encode(args));
        self.reply()
    }

    /// A command written as words, and its reply.
    pub fn ask(&mut self, words: &str) -> Reply {
        self.call(&words.split(' ').collect::<Vec<_>>())
    }

    /// Everything until the server closes, or until it is silent.
    pub fn rest(&mut self) -> (Vec<u8>, Missing) {
        loop {
            if let Err(end) = self.receive() {
                return (std::mem::take(&mut self.arrived), end);
            }
        }
    }

    /// Asserts that the server closed and had nothing more to say.
    pub fn expect_closed(&mut self) {
        let (rest, end) = self.rest();
        assert_eq!((show(&rest).as_str(), end), ("", Missing::Closed), "the connection should be closed");
    }
}

/// One GET over HTTP/1.1: status and body.
pub fn http_get(port: u16, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("not an HTTP response: {text}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(wrong)?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(wrong)?;
    Ok((status, body.to_owned()))
}
