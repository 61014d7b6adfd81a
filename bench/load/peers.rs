//! Servers that the harness starts itself, to put them under the same load in turn.
//!
//! The invariant: a server lives no longer than its [`Peer`], even if it is stopped when that is
//! dropped. Each is in a process group of its own, so that Ctrl-C reaches only the harness: which
//! must catch it and drop its peers, because a process that is killed or that exits drops nothing.
//! A server is not waited for before its group has been ended, so that its id cannot have become
//! another's when it is signalled.

use std::{
    io::Read,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    process::{Child, ChildStderr, Command, Stdio},
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, getpgid, kill_process, kill_process_group, waitid},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

use crate::{process, wire::Protocol};

/// What stands for the port in a command.
const PORT: &str = "{port}";
/// How long a server may take until it accepts connections.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take to end when it is asked to.
const END_LIMIT: Duration = Duration::from_secs(5);
/// How long until it has stopped, or until the rest of its stderr has been read.
const SIGNAL_LIMIT: Duration = Duration::from_secs(1);
/// Between two looks at what is waited for.
const POLL: Duration = Duration::from_millis(5);
/// How many ports are tried, if other processes take them first.
const PORTS_TRIED: usize = 5;
/// So many bytes of stderr are kept.
const STDERR_KEPT: usize = 8 << 10;

/// A server to compare with: `NAME[@PROTOCOL]=COMMAND`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// What reports call it.
    pub name: String,
    /// What it speaks, if that was said.
    pub protocol: Option<Protocol>,
    /// How to start it: words quoted as in a shell, with `{port}` where its port belongs.
    pub command: String,
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "write NAME=COMMAND or NAME@PROTOCOL=COMMAND, such as `redis=redis-server --port {port}`";
        let unnamed = || format!("`{text}` does not name the server: {example}");
        let (head, command) = text.split_once('=').ok_or_else(unnamed)?;
        let (name, protocol) = match head.split_once('@') {
            Some((name, protocol)) => (name, Some(protocol.parse()?)),
            None => (head, None),
        };
        // With a space in it, it is the beginning of a command that has a `=` of its own.
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(unnamed());
        }
        words(command)?;
        Ok(Self { name: name.to_owned(), protocol, command: command.to_owned() })
    }
}

/// The words of a command, of which one has the port in it.
fn words(command: &str) -> Result<Vec<String>, String> {
    let words = shlex::split(command)
        .ok_or_else(|| format!("`{command}` ends within a quotation or after a backslash: close it"))?;
    if words.is_empty() {
        return Err("the command of a server to compare with is empty: write its program and arguments".to_owned());
    }
    if !words.iter().any(|word| word.contains(PORT)) {
        return Err(format!("`{command}` does not say its port: write {PORT} where the port belongs"));
    }
    Ok(words)
}

/// A server that runs until this is dropped.
#[derive(Debug)]
pub struct Peer {
    name: String,
    address: SocketAddr,
    child: Child,
    stderr: Tail,
    /// How it ended, once it was waited for.
    end: Option<String>,
}

impl Peer {
    /// Starts a server on a free port of 127.0.0.1, on these CPUs only if there are any, and waits until it
    /// accepts connections. The error says what it said last if it did not. It has the settings of the calling
    /// thread, apart from its CPUs: a thread with a timer slack or a priority of its own should not call this.
    pub fn start(spec: &Spec, cpus: &[usize], interrupted: &AtomicBool) -> Result<Self, String> {
        for _ in 0..PORTS_TRIED {
            let address = free_address().map_err(|error| format!("there is no free port on 127.0.0.1: {error}"))?;
            if let Some(peer) = Self::start_at(address, spec, cpus, START_LIMIT, interrupted)? {
                return Ok(peer);
            }
        }
        Err(format!(
            "`{}` was not started: {PORTS_TRIED} times another process took its port before it did; \
             end what opens so many ports",
            spec.name
        ))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it accepts connections.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it, and returns when it has stopped. Processes that it started go on. Fails if it has ended.
    pub fn pause(&self) -> Result<(), String> {
        self.signal(Signal::STOP)?;
        let mut change = None;
        until(SIGNAL_LIMIT, || {
            change = self.change(WaitIdOptions::STOPPED);
            change.is_some()
        });
        match change {
            Some(Change::Stopped) => Ok(()),
            Some(Change::Ended) => Err(self.gone()),
            None => Err(format!("`{}` did not stop: see what process {} waits for", self.name, self.pid())),
        }
    }

    /// Lets it go on. Fails if it has ended.
    pub fn resume(&self) -> Result<(), String> {
        self.signal(Signal::CONT)?;
        if self.has_ended() { Err(self.gone()) } else { Ok(()) }
    }

    /// `None` while it runs or is paused; else a sentence about how it ended and what it said last.
    pub fn ended(&mut self) -> Option<String> {
        if !self.has_ended() {
            return None;
        }
        let end = self.reap();
        Some(match self.stderr.last_line() {
            Some(line) => format!("`{}` ended ({end}): {line}", self.name),
            None => format!("`{}` ended ({end}) and said nothing on stderr: run it by hand to see why", self.name),
        })
    }

    /// One attempt with this address. `None`: another process has the port.
    fn start_at(
        address: SocketAddr,
        spec: &Spec,
        cpus: &[usize],
        limit: Duration,
        interrupted: &AtomicBool,
    ) -> Result<Option<Self>, String> {
        let mut peer = Self::spawn(address, spec, cpus)?;
        let settled = until(limit, || peer.has_ended() || accepts(address) || interrupted.load(Ordering::Relaxed));
        if interrupted.load(Ordering::Relaxed) {
            return Err(format!("interrupted while `{}` started", spec.name));
        }
        if let Some(end) = peer.ended() {
            return peer.why_it_ended(end);
        }
        if !settled {
            let last = peer.stderr.last_line().map_or_else(String::new, |line| format!("; it said: {line}"));
            return Err(format!(
                "`{}` did not accept connections at {address} within {limit:?}: see that `{}` makes it listen \
                 there{last}",
                spec.name, spec.command
            ));
        }
        let listeners = process::listeners(address);
        if listeners.iter().any(|&pid| !peer.started(pid)) {
            return Ok(None);
        }
        match listeners.first() {
            Some(pid) if !listeners.contains(&peer.pid()) => Err(format!(
                "`{}` listens in process {pid}, which its command started, so that it could be neither paused nor \
                 measured: start the server itself, in a script by `exec`",
                spec.name
            )),
            // None are seen if the server gave up the user under which it was started: then it is believed.
            _ => Ok(Some(peer)),
        }
    }

    /// What it means that it ended before it accepted connections.
    fn why_it_ended(&mut self, end: String) -> Result<Option<Self>, String> {
        // It was waited for already: this only looks up how it ended.
        if self.child.try_wait().is_ok_and(|status| status.is_some_and(|status| status.success())) {
            return Err(format!(
                "{end}. A server that goes to the background can be neither paused nor measured: start it in the \
                 foreground, and end what may now run at {}",
                self.address
            ));
        }
        if TcpListener::bind(self.address).is_err() { Ok(None) } else { Err(end) }
    }

    /// Starts the process, without waiting for anything.
    fn spawn(address: SocketAddr, spec: &Spec, cpus: &[usize]) -> Result<Self, String> {
        let name = spec.name.clone();
        let mut words = words(&spec.command)?.into_iter().map(|word| word.replace(PORT, &address.port().to_string()));
        let program = words.next().expect("a command has a first word");
        let mut command = Command::new(&program);
        command.args(words).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child =
            pinned(cpus, || command.spawn()).map_err(|error| format!("`{name}`: {error}"))?.map_err(|error| {
                format!("`{name}`: `{program}` cannot be run ({error}): install it, or write its path in full")
            })?;
        let stderr = Tail::of(child.stderr.take().expect("stderr is piped"));
        Ok(Self { name, address, child, stderr, end: None })
    }

    /// Whether this process is in the group of the one that was started.
    fn started(&self, pid: u32) -> bool {
        Pid::from_raw(pid as i32).is_some_and(|pid| getpgid(Some(pid)) == Ok(self.id()))
    }

    fn id(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn signal(&self, signal: Signal) -> Result<(), String> {
        if self.end.is_some() {
            return Err(self.gone());
        }
        kill_process(self.id(), signal).map_err(|error| format!("`{}` cannot be signalled: {error}", self.name))
    }

    fn gone(&self) -> String {
        format!("`{}` has ended", self.name)
    }

    /// Whether it has ended, or something of `also` has become of it. It stays to be waited for.
    fn change(&self, also: WaitIdOptions) -> Option<Change> {
        let options = also | WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(self.id()), options) {
            Ok(status) => status.map(|status| Change::from(&status)),
            // There is no such child any more.
            Err(_) => Some(Change::Ended),
        }
    }

    fn has_ended(&self) -> bool {
        self.end.is_some() || self.change(WaitIdOptions::empty()).is_some()
    }

    /// Ends what is left of its group, waits for it, and tells its exit status.
    fn reap(&mut self) -> String {
        if let Some(end) = &self.end {
            return end.clone();
        }
        self.signal_group(Signal::KILL);
        let end = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        self.end.insert(end).clone()
    }

    /// Signals all of its group. To be called only before it is waited for.
    fn signal_group(&self, signal: Signal) {
        // This fails only if nobody is left in the group, and then nothing is to be done.
        let _nobody_left = kill_process_group(self.id(), signal);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if self.end.is_some() {
            return;
        }
        // What is stopped does not see the other signal until it goes on.
        self.signal_group(Signal::CONT);
        self.signal_group(Signal::TERM);
        until(END_LIMIT, || self.has_ended());
        self.reap();
    }
}

/// What has become of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Stopped,
    Ended,
}

impl From<&WaitIdStatus> for Change {
    fn from(status: &WaitIdStatus) -> Self {
        if status.stopped() { Change::Stopped } else { Change::Ended }
    }
}

/// The end of what a process writes to its stderr, read by a thread so that it never has to wait.
#[derive(Debug)]
struct Tail {
    kept: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Tail {
    fn of(mut stderr: ChildStderr) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let filled = kept.clone();
        let reader = thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(length @ 1..) = stderr.read(&mut chunk) {
                keep(&mut filled.lock().expect("no holder panics"), &chunk[..length]);
            }
        });
        Self { kept, reader }
    }

    /// The last line with anything in it. Waits for the end of the stream, but not long: another process may
    /// have it open.
    fn last_line(&self) -> Option<String> {
        until(SIGNAL_LIMIT, || self.reader.is_finished());
        let kept = self.kept.lock().expect("no holder panics");
        let text = String::from_utf8_lossy(&kept);
        text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
    }
}

/// Appends to what is kept, and forgets what has become too old.
fn keep(kept: &mut Vec<u8>, chunk: &[u8]) {
    kept.extend_from_slice(chunk);
    kept.drain(..kept.len().saturating_sub(STDERR_KEPT));
}

/// Does it with this thread on these CPUs, which a process started by it inherits. Without any CPUs, anywhere.
fn pinned<T>(cpus: &[usize], action: impl FnOnce() -> T) -> Result<T, String> {
    if cpus.is_empty() {
        return Ok(action());
    }
    let listed = cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let refused = |why: &dyn std::fmt::Display| format!("it cannot run on CPUs {listed} ({why}): name CPUs that exist");
    let mut wanted = CpuSet::new();
    for &cpu in cpus {
        if cpu >= CpuSet::MAX_CPU {
            return Err(refused(&format_args!("there is no CPU {cpu}")));
        }
        wanted.set(cpu);
    }
    let before = sched_getaffinity(None).map_err(|error| refused(&error))?;
    sched_setaffinity(None, &wanted).map_err(|error| refused(&error))?;
    // CPUs that cannot be used are dropped in silence, as long as one can.
    let result = match sched_getaffinity(None) {
        Ok(got) if got == wanted => Ok(action()),
        Ok(_) => Err(refused(&"not all of them may be used")),
        Err(error) => Err(refused(&error)),
    };
    sched_setaffinity(None, &before).map_err(|error| refused(&error))?;
    result
}

/// An address of 127.0.0.1 that nobody has at the moment.
fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// Whether somebody accepts connections there.
fn accepts(address: SocketAddr) -> bool {
    // With nobody there, the kernel may choose the same port for this end and connect the socket to itself.
    TcpStream::connect_timeout(&address, SIGNAL_LIMIT)
        .is_ok_and(|stream| stream.local_addr().is_ok_and(|own| own != address))
}

/// Waits until it is done, at most so long; tells whether it is.
fn until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;

    /// Nobody interrupts.
    static NEVER: AtomicBool = AtomicBool::new(false);

    const REDIS: &str = "redis=redis-server --port {port} --bind 127.0.0.1 --save '' --appendonly no --daemonize no";

    fn spec(text: &str) -> Spec {
        text.parse().unwrap()
    }

    fn refusal(text: &str) -> String {
        text.parse::<Spec>().unwrap_err()
    }

    /// Asks a redis for a sign of life, and tells whether one came in time.
    fn pings(address: SocketAddr, limit: Duration) -> bool {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(limit)).unwrap();
        stream.write_all(b"PING\r\n").unwrap();
        let mut reply = [0; 7];
        stream.read_exact(&mut reply).is_ok() && reply == *b"+PONG\r\n"
    }

    /// The letter of the process's state; `None` if there is no such process.
    fn state(pid: u32) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    #[test]
    fn a_spec_has_a_name_a_protocol_and_a_command() {
        let command = "redis-server --port {port} --maxmemory=1gb";
        let plain = spec(&format!("redis={command}"));
        assert_eq!(plain, Spec { name: "redis".to_owned(), protocol: None, command: command.to_owned() });
        let meta = spec("memcached-1.6@memcache-meta=x {port}");
        assert_eq!((meta.name.as_str(), meta.protocol), ("memcached-1.6", Some(Protocol::MemcacheMeta)));
    }

    #[test]
    fn a_spec_that_is_not_one_is_refused_with_the_remedy() {
        for text in ["redis-server --port {port}", "=x {port}", "@resp2=x {port}", "redis-server --port={port}", ""] {
            assert!(refusal(text).contains("write NAME=COMMAND"), "{text}");
        }
        assert!(refusal("a@morse=x {port}").contains("`morse` is not a protocol"));
        assert!(refusal("a=redis-server --port 6379").contains("write {port} where the port belongs"));
        assert!(refusal("a=").contains("empty"));
        assert!(refusal("a=x '{port}").contains("close it"));
        assert!(refusal("a=x {port} \\").contains("close it"));
    }

    #[test]
    fn commands_are_split_as_a_shell_would() {
        let expected = ["/opt/my server", "--save", "", "--name", "it's", "a\"b", "--port={port}", "c d"];
        let command = r#"'/opt/my server' --save "" --name it\'s "a\"b" --port={port} c\ d"#;
        assert_eq!(words(command).unwrap(), expected);
    }

    #[test]
    fn a_redis_is_started_paused_resumed_and_ended() {
        let mut peer = Peer::start(&spec(REDIS), &[], &NEVER).unwrap();
        let (pid, address) = (peer.pid(), peer.address());
        assert_eq!(process::listeners(address), [pid]);
        assert!(pings(address, Duration::from_secs(5)));

        peer.pause().unwrap();
        peer.pause().unwrap();
        assert_eq!(state(pid), Some('T'));
        assert!(!pings(address, Duration::from_millis(100)));
        assert_eq!(peer.ended(), None);

        peer.resume().unwrap();
        assert!(pings(address, Duration::from_secs(5)));
        // It is dropped while it is stopped.
        peer.pause().unwrap();
        let began = Instant::now();
        drop(peer);
        assert!(began.elapsed() < END_LIMIT, "it did not end by itself");
        assert_eq!(state(pid), None);
        assert!(!accepts(address));
    }

    #[test]
    fn a_memcached_is_started_on_the_cpus_asked_for() {
        let before = sched_getaffinity(None).unwrap();
        let cpu = (0..CpuSet::MAX_CPU).find(|&cpu| before.is_set(cpu)).unwrap();
        let memcached = spec("memcached=memcached -u root -l 127.0.0.1 -U 0 -t 2 -p {port}");
        let peer = Peer::start(&memcached, &[cpu], &NEVER).unwrap();
        for task in fs::read_dir(format!("/proc/{}/task", peer.pid())).unwrap() {
            let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
            assert_eq!(allowed.trim(), cpu.to_string());
        }
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }

    #[test]
    fn cpus_that_do_not_exist_are_refused() {
        let before = sched_getaffinity(None).unwrap();
        let cpu = (0..CpuSet::MAX_CPU).find(|&cpu| before.is_set(cpu)).unwrap();
        for cpus in [&[CpuSet::MAX_CPU - 1][..], &[cpu, CpuSet::MAX_CPU - 1], &[usize::MAX]] {
            let error = Peer::start(&spec(REDIS), cpus, &NEVER).unwrap_err();
            assert!(error.contains("name CPUs that exist"), "{error}");
            assert_eq!(sched_getaffinity(None).unwrap(), before);
        }
    }

    #[test]
    fn a_server_that_dies_at_once_leaves_its_last_words() {
        let dying = spec(r#"x=sh -c 'echo first >&2; echo "no port {port}" >&2; echo >&2; exit 3'"#);
        let error = Peer::start(&dying, &[], &NEVER).unwrap_err();
        assert!(error.starts_with("`x` ended (exit status: 3): no port "), "{error}");
        assert!(error[error.len() - 4..].bytes().all(|byte| byte.is_ascii_digit()), "{error}");
        let silent = Peer::start(&spec("x=sh -c 'kill -9 $$' {port}"), &[], &NEVER).unwrap_err();
        assert!(silent.contains("SIGKILL") && silent.contains("said nothing on stderr"), "{silent}");
    }

    #[test]
    fn a_server_that_goes_to_the_background_is_refused() {
        let error = Peer::start(&spec("x=sh -c 'exit 0' {port}"), &[], &NEVER).unwrap_err();
        assert!(error.contains("start it in the foreground"), "{error}");
    }

    #[test]
    fn a_server_that_dies_later_is_noticed() {
        let mut peer = Peer::start(&spec(REDIS), &[], &NEVER).unwrap();
        assert_eq!(peer.ended(), None);
        kill_process(peer.id(), Signal::KILL).unwrap();
        assert!(until(Duration::from_secs(5), || peer.has_ended()));
        assert!(peer.pause().is_err() && peer.resume().is_err());
        let end = peer.ended().unwrap();
        assert!(end.contains("SIGKILL"), "{end}");
        assert_eq!(peer.ended(), Some(end));
        assert!(peer.pause().is_err() && peer.resume().is_err());
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Peer::start(&spec("x=/nonexistent/server {port}"), &[], &NEVER).unwrap_err();
        assert!(error.contains("`/nonexistent/server` cannot be run") && error.contains("install it"), "{error}");
    }

    #[test]
    fn a_server_that_never_listens_is_given_up_and_ended() {
        let idle = spec("x=sh -c 'echo waiting for {port} >&2; exec sleep 60'");
        let error =
            Peer::start_at(free_address().unwrap(), &idle, &[], Duration::from_millis(200), &NEVER).unwrap_err();
        assert!(error.contains("did not accept connections") && error.contains("it said: waiting for"), "{error}");
    }

    #[test]
    fn a_port_that_another_process_took_is_told_apart_from_a_failure() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        // One ends because of that, the other does not.
        for text in [REDIS, "x=sleep 60{port}"] {
            assert!(Peer::start_at(address, &spec(text), &[], START_LIMIT, &NEVER).unwrap().is_none(), "{text}");
        }
    }

    #[test]
    fn a_server_behind_a_script_is_refused_and_not_left_behind() {
        let command = REDIS.split_once('=').unwrap().1.replace("''", "\"\"");
        let script = spec(&format!("redis=sh -c '{command} & wait'"));
        let error = Peer::start(&script, &[], &NEVER).unwrap_err();
        assert!(error.contains("by `exec`"), "{error}");
        let (_, pid) = error.split_once("in process ").unwrap();
        let pid = pid.split(',').next().unwrap().parse().unwrap();
        // Whether the one that inherits an orphan waits for it is up to that one.
        assert!(until(Duration::from_secs(5), || matches!(state(pid), None | Some('Z'))), "it is still there");
    }

    #[test]
    fn only_the_end_of_stderr_is_kept() {
        let mut kept = Vec::new();
        for at in 0..100_u8 {
            keep(&mut kept, &[at; 1000]);
        }
        assert_eq!(kept.len(), STDERR_KEPT);
        assert_eq!(kept.first(), Some(&91));
        assert!(kept.ends_with(&[99; 1000]));
    }
}
