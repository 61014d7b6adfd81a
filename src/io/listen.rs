//! Listening sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

/// After this long without traffic the kernel asks whether the peer still lives, as redis-server does.
const KEEPALIVE: Duration = Duration::from_secs(300);

/// Opens a listening socket. Accepted connections inherit no-delay and keep-alive from it.
/// `shared` sockets of several cores take turns at one port.
///
/// # Errors
/// As the system says; mostly that the port is in use.
pub fn listen(ip: IpAddr, port: u16, backlog: i32, shared: bool) -> io::Result<OwnedFd> {
    let address = SocketAddr::new(ip, port);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Whether `port` can be listened on: sockets that share a port would otherwise
/// quietly share it with another process too.
///
/// # Errors
/// As the system says.
pub fn check_free(ip: IpAddr, port: u16) -> io::Result<()> {
    listen(ip, port, 1, false).map(drop)
}
