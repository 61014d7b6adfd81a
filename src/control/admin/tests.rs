//! The admin port over real sockets.

use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use super::http::{HEAD_BYTES_MAX, HEADERS_MAX};
use super::*;

/// Cores that answer at once, or not at all.
struct Cores {
    silent: Vec<usize>,
    ready: AtomicBool,
    asked: AtomicUsize,
}

impl CoreDirectory for Cores {
    fn snapshots(&self, timeout: Duration) -> Vec<Option<CoreSnapshot>> {
        assert!(timeout <= Duration::from_secs(1));
        self.asked.fetch_add(1, Ordering::Relaxed);
        let snapshot = |core| CoreSnapshot { core, keys: 42, ..CoreSnapshot::default() };
        (0..4).map(|core| (!self.silent.contains(&core)).then(|| snapshot(core))).collect()
    }

    fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

fn start(silent: &[usize]) -> (Admin, Arc<Cores>) {
    let cores = Arc::new(Cores { silent: silent.to_vec(), ready: AtomicBool::new(true), asked: AtomicUsize::new(0) });
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    (Admin::start(address, Arc::clone(&cores) as Arc<dyn CoreDirectory>).unwrap(), cores)
}

fn connect(admin: &Admin) -> TcpStream {
    let stream = TcpStream::connect(admin.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// Sends `request` and returns the response's head and body.
fn exchange(admin: &Admin, request: &[u8]) -> (String, String) {
    let mut stream = connect(admin);
    stream.write_all(request).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").expect("a head ends");
    (head.to_string(), body.to_string())
}

fn get(admin: &Admin, path: &str) -> (String, String) {
    exchange(admin, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
}

#[test]
fn metrics_are_served_whole() {
    let (admin, _) = start(&[]);
    let (head, body) = get(&admin, "/metrics?x=1");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("Content-Type: text/plain; version=0.0.4"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())) && head.contains("Connection: close"), "{head}");
    assert!(body.contains("ringfence_keys{core=\"3\"} 42\n"));
}

#[test]
fn head_answers_like_get_without_a_body() {
    let (admin, _) = start(&[]);
    let (get_head, get_body) = get(&admin, "/metrics");
    let (head, body) = exchange(&admin, b"HEAD /metrics HTTP/1.1\r\n\r\n");
    assert_eq!((head, body.as_str()), (get_head, ""));
    assert!(!get_body.is_empty());
    assert_eq!(exchange(&admin, b"HEAD /nowhere HTTP/1.1\r\n\r\n").1, "");
}

#[test]
fn health_names_the_core_that_is_silent() {
    let (admin, _) = start(&[]);
    assert_eq!(get(&admin, "/healthz").1, "ok\n");
    let (admin, _) = start(&[1, 3]);
    let (head, body) = get(&admin, "/healthz");
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!(body, "no answer within 1 s from core 1, 3\n");
    assert!(get(&admin, "/metrics").1.contains("ringfence_core_up{core=\"3\"} 0\n"));
}

#[test]
fn readiness_follows_the_flag() {
    let (admin, cores) = start(&[]);
    assert!(get(&admin, "/readyz").0.starts_with("HTTP/1.1 200 "));
    cores.ready.store(false, Ordering::Relaxed);
    assert!(get(&admin, "/readyz").0.starts_with("HTTP/1.1 503 "));
    assert_eq!(cores.asked.load(Ordering::Relaxed), 0, "readiness does not disturb the cores");
}

#[test]
fn what_is_not_served_is_refused() {
    let (admin, _) = start(&[]);
    assert!(get(&admin, "/").1.contains("/metrics"));
    assert!(get(&admin, "/nowhere").0.starts_with("HTTP/1.1 404 "));
    let (head, _) = exchange(&admin, b"POST /metrics HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi");
    assert!(head.starts_with("HTTP/1.1 405 ") && head.contains("Allow: GET, HEAD"), "{head}");
    assert!(exchange(&admin, b"*1\r\n$4\r\nPING\r\n").0.starts_with("HTTP/1.1 400 "));
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(HEAD_BYTES_MAX));
    assert!(exchange(&admin, long.as_bytes()).0.starts_with("HTTP/1.1 431 "));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX + 1));
    assert!(exchange(&admin, many.as_bytes()).0.starts_with("HTTP/1.1 431 "));
}

#[test]
fn a_request_may_arrive_in_pieces() {
    let (admin, _) = start(&[]);
    let mut stream = connect(&admin);
    for piece in ["GET /hea", "lthz HT", "TP/1.1\r\nHost: x\r", "\n\r\n"] {
        stream.write_all(piece.as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    assert!(response.ends_with("\r\n\r\nok\n"), "{response}");
}

/// A byte now and then does not extend the deadline.
#[test]
fn a_slow_request_runs_out_of_time() {
    let (admin, _) = start(&[]);
    let mut stream = connect(&admin);
    let mut drip = stream.try_clone().unwrap();
    let started = Instant::now();
    let dripping = thread::spawn(move || {
        while drip.write_all(b"G").is_ok() && started.elapsed() < Duration::from_secs(5) {
            thread::sleep(Duration::from_millis(300));
        }
    });
    let mut response = [0u8; 12];
    stream.read_exact(&mut response).unwrap();
    assert_eq!(&response, b"HTTP/1.1 408");
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    drop(stream);
    dripping.join().unwrap();
}

#[test]
fn silent_connections_do_not_keep_others_out() {
    let (admin, _) = start(&[]);
    let held: Vec<TcpStream> = (0..3 * CONNECTIONS_MAX).map(|_| connect(&admin)).collect();
    let started = Instant::now();
    assert_eq!(get(&admin, "/healthz").1, "ok\n");
    assert!(started.elapsed() < READ_TIME_MAX, "waited {:?}", started.elapsed());
    assert!(admin.shared.open().connections.len() <= CONNECTIONS_MAX);
    drop(held);
}

#[test]
fn stopping_closes_the_port_and_what_is_open() {
    let (admin, cores) = start(&[]);
    let address = admin.address();
    let mut idle = connect(&admin);
    get(&admin, "/readyz");
    let started = Instant::now();
    admin.stop();
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(idle.read(&mut [0u8; 16]).unwrap_or(0), 0);
    assert!(TcpStream::connect(address).is_err());
    assert_eq!(Arc::strong_count(&cores), 1, "no thread holds the directory");
}

#[test]
fn a_taken_port_is_an_error() {
    let (admin, cores) = start(&[]);
    assert_eq!(Admin::start(admin.address(), cores).err().map(|e| e.kind()), Some(ErrorKind::AddrInUse));
}
