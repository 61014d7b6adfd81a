//! What a process costs, and which process serves an address: read from `/proc`, without its help.
//!
//! The invariant: no stretch of time costs less than nothing, nor loses the threads that ended in
//! it. The nanoseconds of the threads that live are exact but forget those that ended; the ticks
//! of the process forget nobody but are coarse. Neither is more than was used, so the larger of
//! the two is the better one: short by less than two ticks (20 ms), and by nothing but what the
//! kernel has still to count of a running thread as long as no thread has ended.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use crate::outcome::ProcessCost;

/// Milliseconds in a tick of `/proc/PID/stat`: Linux fixes `USER_HZ` at 100 on every architecture
/// that this crate is built for.
const TICK_MS: u64 = 10;
/// The state `LISTEN` in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// What a process has used since it began, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Its id.
    pub pid: u32,
    /// Time on a CPU, of all its threads.
    pub cpu: Duration,
    /// Resident bytes.
    pub rss: u64,
    /// The most that ever were resident, in bytes.
    pub rss_peak: u64,
}

/// What the process `pid` has used until now. Fails if there is no such process or if it has ended.
pub fn usage(pid: u32) -> io::Result<Usage> {
    let read = |file: &str| {
        let path = format!("/proc/{pid}/{file}");
        fs::read_to_string(&path).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
    };
    let whole = ticks(&read("stat")?).ok_or_else(|| malformed(pid, "stat"))?;
    let status = read("status")?;
    // A process that ended but was not waited for still has a status, without memory.
    let (Some(rss), Some(peak)) = (resident(&status, "VmRSS:"), resident(&status, "VmHWM:")) else {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("process {pid} has ended: it has no memory")));
    };
    // The kernel updates the peak only now and then.
    Ok(Usage { pid, cpu: whole.max(living_threads(pid)?), rss, rss_peak: peak.max(rss) })
}

/// What was used from `before` to `after`, both of the same process.
pub fn since(before: &Usage, after: &Usage) -> ProcessCost {
    let Usage { pid, cpu, rss, rss_peak } = *after;
    ProcessCost { pid, cpu: cpu.saturating_sub(before.cpu), rss, rss_peak }
}

/// Processes that are watched together: all that serve one address.
#[derive(Clone, Debug)]
pub struct Watch {
    before: Vec<Usage>,
}

impl Watch {
    /// Notes what these processes have used so far. Fails if there are none, or one of them has ended.
    pub fn start(pids: &[u32]) -> io::Result<Self> {
        if pids.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no process to watch"));
        }
        Ok(Self { before: pids.iter().map(|&pid| usage(pid)).collect::<io::Result<_>>()? })
    }

    /// What they used together since then, under the id of the first. Memory that they share counts for each.
    /// Fails if one of them has ended: what it used is gone, and a sum without it would be too low.
    pub fn cost(&self) -> io::Result<ProcessCost> {
        let mut sum = ProcessCost { pid: self.before[0].pid, cpu: Duration::ZERO, rss: 0, rss_peak: 0 };
        for before in &self.before {
            let ProcessCost { pid: _, cpu, rss, rss_peak } = since(before, &usage(before.pid)?);
            sum.cpu += cpu;
            sum.rss += rss;
            sum.rss_peak += rss_peak;
        }
        Ok(sum)
    }
}

/// The ids of the processes of this machine that hold the listening TCP socket which a connection to
/// `address` reaches, in ascending order: several, if they forked or share the port. Empty if the address is
/// not of this machine, nobody listens, or the kernel does not show this user whose socket it is.
pub fn listeners(address: SocketAddr) -> Vec<u32> {
    let mut address = address;
    address.set_ip(address.ip().to_canonical());
    if !is_local(address) {
        return Vec::new();
    }
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let rows = tables.iter().flat_map(|table| table.lines()).filter_map(listening);
    let matching: Vec<(Closeness, &str)> = rows
        .filter(|row| row.port == address.port())
        .filter_map(|row| Some((closeness(row.ip, address.ip())?, row.inode)))
        .collect();
    let Some(closest) = matching.iter().map(|&(closeness, _)| closeness).min() else { return Vec::new() };
    let reached = matching.iter().filter(|&&(closeness, _)| closeness == closest);
    holders(&reached.map(|(_, inode)| format!("socket:[{inode}]")).collect::<Vec<_>>())
}

/// CPU time of a process as a whole, from its `stat`: that of threads which ended is in it.
fn ticks(stat: &str) -> Option<Duration> {
    // The name in parentheses may hold anything, spaces and parentheses among it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (times.next()?.parse().ok()?, times.next()?.parse().ok()?);
    Some(Duration::from_millis(TICK_MS * (user + system)))
}

/// CPU time of the threads that live. Zero if this kernel does not keep it.
fn living_threads(pid: u32) -> io::Result<Duration> {
    let mut sum = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between its listing and its reading.
        let Ok(schedstat) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        let on_cpu = schedstat.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
        sum += Duration::from_nanos(on_cpu.ok_or_else(|| malformed(pid, "schedstat"))?);
    }
    Ok(sum)
}

/// The bytes in the line of a `status` that begins with `name`.
fn resident(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kib * 1024)
}

fn malformed(pid: u32, file: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the `{file}` of process {pid} does not look as Linux writes it"),
    )
}

/// A socket that listens.
#[derive(Debug, PartialEq)]
struct Listening<'a> {
    ip: IpAddr,
    port: u16,
    inode: &'a str,
}

/// A row of `/proc/net/tcp` or `tcp6`, if it is of a socket that listens.
fn listening(row: &str) -> Option<Listening<'_>> {
    let fields: Vec<&str> = row.split_whitespace().collect();
    let (&local, &state, &inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    let (ip, port) = local.split_once(':')?;
    let row = Listening { ip: parse_ip(ip)?, port: u16::from_str_radix(port, 16).ok()?, inode };
    (state == LISTEN).then_some(row)
}

/// An address as the kernel prints it there: words of 32 bits, each in the machine's own order of bytes. An
/// IPv4 address that was mapped to IPv6 comes back as IPv4.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut octets = [0; 16];
            for (at, part) in octets.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?);
            }
            Some(IpAddr::from(Ipv6Addr::from(octets)).to_canonical())
        }
        _ => None,
    }
}

/// How well a listening socket suits an address. The kernel hands a connection to the closest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Closeness {
    /// It is bound to this very address.
    Exact,
    /// It is bound to every address of this family.
    Family,
    /// It is bound to every address of IPv6, and takes IPv4 as well.
    Any,
}

/// How well a socket bound to `bound` suits `target`; `None` if it does not. Neither is a mapped address.
fn closeness(bound: IpAddr, target: IpAddr) -> Option<Closeness> {
    if bound == target {
        return Some(Closeness::Exact);
    }
    match (bound.is_unspecified(), bound, target) {
        (true, IpAddr::V4(_), IpAddr::V4(_)) | (true, IpAddr::V6(_), IpAddr::V6(_)) => Some(Closeness::Family),
        (true, IpAddr::V6(_), IpAddr::V4(_)) => Some(Closeness::Any),
        _ => None,
    }
}

/// Whether this is an address of this machine: only those can be bound. Without this, a local server on all
/// addresses would be taken for a remote one on the same port.
pub fn is_local(mut address: SocketAddr) -> bool {
    address.set_port(0);
    UdpSocket::bind(address).is_ok()
}

/// The ids of the processes that have one of these open, among those that may be looked into.
fn holders(links: &[String]) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut holding: Vec<u32> = pids.filter(|&pid| holds(pid, links)).collect();
    holding.sort_unstable();
    holding
}

/// Whether the process has one of these open. False if it may not be looked into.
fn holds(pid: u32, links: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors
        .flatten()
        .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
        .any(|open| links.iter().any(|link| open.as_os_str() == link.as_str()))
}

#[cfg(test)]
mod tests {
    use std::{
        hint::black_box,
        net::TcpListener,
        process::{self, Child, Command},
        thread,
        time::Instant,
    };

    use super::*;

    /// A process that is ended with the test, come what may.
    struct Running(Child);

    impl Drop for Running {
        fn drop(&mut self) {
            self.0.kill().and_then(|()| self.0.wait()).expect("it was not waited for before");
        }
    }

    fn sleeping() -> Running {
        Running(Command::new("sleep").arg("60").spawn().expect("sleep is there"))
    }

    /// Computes for so long.
    fn spin(time: Duration) {
        let began = Instant::now();
        let mut sum = 0_u64;
        while began.elapsed() < time {
            sum = black_box(sum.wrapping_mul(31) + 7);
        }
    }

    #[test]
    fn a_busy_process_is_charged_and_a_sleeping_one_is_not() {
        let sleeper = sleeping();
        let busy =
            Running(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("every system has a shell"));
        // Both start first: their beginning is not what is measured.
        thread::sleep(Duration::from_millis(100));
        let busy = (usage(busy.0.id()).unwrap(), busy);
        let sleeper = (usage(sleeper.0.id()).unwrap(), sleeper);
        thread::sleep(Duration::from_millis(500));

        let cost = since(&busy.0, &usage(busy.0.pid).unwrap());
        assert_eq!(cost.pid, busy.1.0.id());
        assert!(cost.cpu > Duration::from_millis(50), "{cost:?}");
        assert!(cost.cpu < Duration::from_secs(30), "{cost:?}");
        assert!(cost.rss > 100 << 10 && cost.rss < 100 << 20 && cost.rss_peak >= cost.rss, "{cost:?}");
        let cost = since(&sleeper.0, &usage(sleeper.0.pid).unwrap());
        assert!(cost.cpu < Duration::from_millis(20), "{cost:?}");
    }

    #[test]
    fn cpu_time_of_threads_that_ended_stays() {
        let watch = Watch::start(&[process::id()]).unwrap();
        let before = usage(process::id()).unwrap();
        let used = thread::spawn(|| {
            spin(Duration::from_millis(300));
            let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
            Duration::from_nanos(schedstat.split(' ').next().unwrap().parse().unwrap())
        });
        let used = used.join().unwrap();
        let after = usage(process::id()).unwrap();
        assert!(after.cpu >= before.cpu, "{before:?} {after:?}");
        // Both readings may be short by two ticks, and the kernel counts a running thread up now and then.
        let least = used.saturating_sub(Duration::from_millis(50));
        assert!(since(&before, &after).cpu >= least, "{before:?} {after:?} {used:?}");
        assert!(watch.cost().unwrap().cpu >= least, "{used:?}");
    }

    #[test]
    fn several_processes_are_added_up() {
        let (one, two) = (sleeping(), sleeping());
        // Until then one of them may still be a copy of this process, with its memory.
        thread::sleep(Duration::from_millis(100));
        let pids = [one.0.id(), two.0.id()];
        let cost = Watch::start(&pids).unwrap().cost().unwrap();
        let each = pids.map(|pid| usage(pid).unwrap());
        assert_eq!(cost.pid, pids[0]);
        assert_eq!(cost.rss, each[0].rss + each[1].rss);
        assert_eq!(cost.rss_peak, each[0].rss_peak + each[1].rss_peak);
    }

    #[test]
    fn a_process_that_has_ended_is_an_error() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let watch = Watch::start(&[child.id()]).unwrap();
        child.kill().unwrap();
        // It is a zombie for a while, if not at once.
        let zombie = (0..200).find_map(|_| {
            thread::sleep(Duration::from_millis(10));
            usage(child.id()).err()
        });
        assert!(zombie.unwrap().to_string().contains("has ended"));
        assert!(watch.cost().is_err());
        child.wait().unwrap();
        assert_eq!(usage(child.id()).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(Watch::start(&[]).unwrap_err().to_string().contains("no process"));
    }

    #[test]
    fn names_with_spaces_and_parentheses_do_not_shift_the_fields() {
        let stat = "7 (a) R (b c) S 1 7 7 0 -1 4194304 100 0 0 0 12 34 9 9 20 0 1 0 1 1 1";
        assert_eq!(ticks(stat), Some(Duration::from_millis(460)));
        assert_eq!(ticks("7 (short) S 1 7"), None);
        assert_eq!(ticks(""), None);
    }

    #[test]
    fn resident_memory_is_read_in_bytes() {
        let status = "VmPeak:\t  9000 kB\nVmHWM:\t    1660 kB\nVmRSS:\t    1600 kB\n";
        assert_eq!(resident(status, "VmRSS:"), Some(1600 * 1024));
        assert_eq!(resident(status, "VmHWM:"), Some(1660 * 1024));
        assert_eq!(resident("Name:\tzombie\n", "VmRSS:"), None);
    }

    #[test]
    fn own_listeners_are_found_on_every_kind_of_address() {
        for (bound, reached) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("127.0.0.1:0", "::ffff:127.0.0.1"),
            ("0.0.0.0:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            ("[::]:0", "::1"),
            ("[::]:0", "127.0.0.1"),
            ("[::ffff:127.0.0.1]:0", "127.0.0.1"),
        ] {
            let listener = TcpListener::bind(bound).unwrap();
            let address = SocketAddr::new(reached.parse().unwrap(), listener.local_addr().unwrap().port());
            // A child of another test has it too, as long as it has not begun its own program.
            assert!(listeners(address).contains(&process::id()), "{bound} for {address}");
        }
    }

    #[test]
    fn nobody_is_found_where_nobody_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(listeners(SocketAddr::new("127.0.0.2".parse().unwrap(), port)), Vec::<u32>::new());
        assert_eq!(listeners(SocketAddr::new("::1".parse().unwrap(), port)), Vec::<u32>::new());
        drop(listener);
        let nobody = (0..100).any(|_| {
            // A child of another test has it too, as long as it has not begun its own program.
            thread::sleep(Duration::from_millis(10));
            listeners(SocketAddr::new("127.0.0.1".parse().unwrap(), port)).is_empty()
        });
        assert!(nobody);
    }

    #[test]
    fn a_local_server_is_not_taken_for_a_remote_one_on_the_same_port() {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        // An address that is reserved for documentation: no machine's.
        let remote = SocketAddr::new("192.0.2.1".parse().unwrap(), listener.local_addr().unwrap().port());
        assert_eq!(listeners(remote), Vec::<u32>::new());
    }

    #[test]
    fn the_socket_bound_closest_is_the_one_that_is_reached() {
        let [v4, v6, any4, any6] = ["127.0.0.1", "::1", "0.0.0.0", "::"].map(|ip| ip.parse::<IpAddr>().unwrap());
        assert!(closeness(v4, v4) < closeness(any4, v4) && closeness(any4, v4) < closeness(any6, v4));
        assert!(closeness(v6, v6) < closeness(any6, v6) && closeness(any6, v6).is_some());
        for (bound, target) in [(any4, v6), (v4, v6), (v6, v4)] {
            assert_eq!(closeness(bound, target), None, "{bound} {target}");
        }
    }

    #[test]
    fn only_rows_of_listening_sockets_count() {
        let row = |state: &str| {
            let ip = format!("{:08X}", u32::from_ne_bytes([127, 0, 0, 1]));
            format!("   0: {ip}:1F90 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  0  0 1137 1 0 100 0")
        };
        let expected = Listening { ip: "127.0.0.1".parse().unwrap(), port: 8080, inode: "1137" };
        assert_eq!(listening(&row("0A")), Some(expected));
        assert_eq!(listening(&row("01")), None);
        assert_eq!(
            listening("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid"),
            None
        );
        assert_eq!(listening(""), None);
        assert_eq!(parse_ip("0100007"), None);
        assert_eq!(parse_ip("0100007Ä"), None);
    }
}
