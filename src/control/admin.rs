//! The admin port: metrics and health over HTTP/1.1, for operators and probes.
//!
//! Blocking sockets and a short-lived thread for each connection, away from the
//! data cores. A client can neither hold a thread (every connection has a
//! deadline) nor keep others out (a connection that is still sending its request
//! gives way when all places are taken).

mod http;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use self::http::{READ_TIME_MAX, Request, Response, linger, read_request};
use super::metrics;
use crate::node::stats::CoreSnapshot;

/// Connections at one time.
const CONNECTIONS_MAX: usize = 16;
/// Time for every core to answer.
const CORE_TIME_MAX: Duration = Duration::from_secs(1);

/// Where the admin port asks about the cores.
pub trait CoreDirectory: Send + Sync {
    /// A snapshot of each core, by index; `None` for a core that did not answer
    /// within `timeout`. Returns soon after `timeout` at the latest.
    fn snapshots(&self, timeout: Duration) -> Vec<Option<CoreSnapshot>>;

    /// Whether clients are served: false while starting and while stopping.
    fn ready(&self) -> bool;
}

/// A running admin port. Stops when dropped.
pub struct Admin {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// What the acceptor and the connections' threads share.
struct Shared {
    directory: Arc<dyn CoreDirectory>,
    stopping: AtomicBool,
    open: Mutex<Open>,
    closed: Condvar,
}

/// The connections that have a thread, by age.
#[derive(Default)]
struct Open {
    next: u64,
    connections: BTreeMap<u64, Connection>,
}

struct Connection {
    stream: TcpStream,
    /// Whether the request has not yet arrived whole.
    reading: bool,
}

impl Admin {
    /// Listens on `address` and answers until stopped. Port 0 takes any free port.
    ///
    /// # Errors
    /// If the address cannot be bound, or no thread can be started.
    pub fn start(address: SocketAddr, directory: Arc<dyn CoreDirectory>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            directory,
            stopping: AtomicBool::new(false),
            open: Mutex::default(),
            closed: Condvar::new(),
        });
        let for_thread = Arc::clone(&shared);
        let acceptor = thread::Builder::new().name("admin".into()).spawn(move || for_thread.accept(&listener))?;
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the port and every connection, and waits for their threads.
    pub fn stop(mut self) {
        self.halt();
    }

    fn halt(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.stopping.store(true, Ordering::Release);
        // Accepting blocks, so a connection of our own wakes it. If even that
        // cannot be made, waiting for the thread might never end.
        if TcpStream::connect_timeout(&reachable(self.address), Duration::from_secs(1)).is_ok() {
            let _ = acceptor.join();
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.halt();
    }
}

/// Where a listener on `address` can be reached from this host.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Open> {
        // A thread that panicked left the map as it was; its entry goes with it.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Gives each connection a thread. The scope ends when all of them have.
    fn accept(&self, listener: &TcpListener) {
        thread::scope(|scope| {
            while !self.stopping() {
                match listener.accept() {
                    Ok(_) if self.stopping() => break,
                    Ok((stream, _)) => {
                        let Ok(second) = stream.try_clone() else { continue };
                        let id = self.enter(second);
                        let spawned = thread::Builder::new().name("admin-http".into()).spawn_scoped(scope, move || {
                            let _leaves = Leaves { shared: self, id };
                            self.serve(stream, id);
                        });
                        if spawned.is_err() {
                            self.leave(id);
                        }
                    }
                    // Out of descriptors or the like: wait for some to come back.
                    Err(_) => thread::sleep(Duration::from_millis(50)),
                }
            }
            for connection in self.open().connections.values() {
                let _ = connection.stream.shutdown(Shutdown::Both);
            }
        });
    }

    /// Takes a place, waiting for one if need be. The oldest connection whose
    /// request has not arrived is closed to make room; the others have deadlines.
    fn enter(&self, stream: TcpStream) -> u64 {
        let mut open = self.open();
        while open.connections.len() >= CONNECTIONS_MAX {
            if let Some(slow) = open.connections.values_mut().find(|connection| connection.reading) {
                slow.reading = false;
                let _ = slow.stream.shutdown(Shutdown::Both);
            }
            open = self.closed.wait_timeout(open, READ_TIME_MAX).unwrap_or_else(PoisonError::into_inner).0;
        }
        let id = open.next;
        open.next += 1;
        open.connections.insert(id, Connection { stream, reading: true });
        id
    }

    fn leave(&self, id: u64) {
        self.open().connections.remove(&id);
        self.closed.notify_all();
    }

    fn serve(&self, mut stream: TcpStream, id: u64) {
        let request = read_request(&mut stream);
        if let Some(connection) = self.open().connections.get_mut(&id) {
            connection.reading = false;
        }
        let response = match request {
            Ok(Some(request)) => self.answer(&request),
            Ok(None) => return,
            Err(refusal) => refusal,
        };
        if response.send(&mut stream).is_ok() {
            linger(&mut stream);
        }
    }

    fn answer(&self, request: &Request) -> Response {
        let path = request.target.split('?').next().unwrap_or_default();
        let page: fn(&Self) -> Response = match path {
            "/" => |_| Response::text(200, INDEX.to_string()),
            "/metrics" => Self::metrics,
            "/healthz" => Self::health,
            "/readyz" => Self::readiness,
            _ => return Response { head_only: request.method == "HEAD", ..Response::text(404, NOT_FOUND.to_string()) },
        };
        match request.method.as_str() {
            "GET" => page(self),
            "HEAD" => Response { head_only: true, ..page(self) },
            _ => Response { allow: true, ..Response::text(405, "only GET and HEAD\n".to_string()) },
        }
    }

    fn metrics(&self) -> Response {
        let body = metrics::render(&self.directory.snapshots(CORE_TIME_MAX));
        Response { content_type: metrics::CONTENT_TYPE, ..Response::text(200, body) }
    }

    fn health(&self) -> Response {
        let snapshots = self.directory.snapshots(CORE_TIME_MAX);
        let silent: Vec<String> = (snapshots.iter().enumerate())
            .filter(|(_, snapshot)| snapshot.is_none())
            .map(|(core, _)| core.to_string())
            .collect();
        match silent.as_slice() {
            [] => Response::text(200, "ok\n".to_string()),
            cores => Response::text(503, format!("no answer within 1 s from core {}\n", cores.join(", "))),
        }
    }

    fn readiness(&self) -> Response {
        match self.directory.ready() {
            true => Response::text(200, "ready\n".to_string()),
            false => Response::text(503, "starting or stopping\n".to_string()),
        }
    }
}

/// Gives a connection's place back, even if its thread panics.
struct Leaves<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.shared.leave(self.id);
    }
}

const INDEX: &str = "Ringfence\n\n/metrics   counters, for Prometheus\n/healthz   whether every core answers\n\
                     /readyz    whether clients are served\n";

const NOT_FOUND: &str = "no such page: / lists them\n";

#[cfg(test)]
mod tests;
