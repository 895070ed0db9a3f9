//! Proof that capture works: a connection to an address that answers nobody must arrive at a listener of ours on the capture port.
//!
//! Nothing leaves the pod where it works. Inbound rules cannot be proved from inside a namespace; they are in the same transaction.

use super::rules::Exclusions;
use selvage_config::ports::OUTBOUND;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// For a connection inside one kernel.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks for it.
const LOOK: Duration = Duration::from_millis(5);
/// Addresses for documentation (RFC 5737, RFC 3849): nobody has them.
const NOBODY: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1)),
];
/// The first port to try it with; more than can be excluded follow.
const FIRST: u16 = 8080;

/// Why the rules do not do what they say.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The port is taken.
    #[error(
        "cannot listen on the capture port {OUTBOUND} to prove that capture works: {0}; nothing else in the pod may use ports 15301 to 15390"
    )]
    Listen(io::Error),
    /// It went elsewhere.
    #[error(
        "the capture rules are loaded but a connection to {target} was not captured ({how}); is another tool changing NAT in this pod, \
         or does the node's kernel lack nft_redir or connection tracking?"
    )]
    Escaped {
        /// Where it was meant to go.
        target: SocketAddr,
        /// What became of it.
        how: String,
    },
    /// There is no network to prove it with.
    #[error("the pod has no route to anywhere ({0}): capture cannot be proved; add a default route, or exclude 0.0.0.0/0 and ::/0")]
    NoRoute(String),
}

/// A family for which it was proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Proves each family that has a route.
pub(super) fn prove(exclusions: &Exclusions) -> Result<Vec<Family>, ProofError> {
    let mut proved = Vec::new();
    let mut unreachable = Vec::new();
    for family in [Family::V4, Family::V6] {
        // Where everything is excluded there is nothing to prove.
        let Some(target) = target(family, exclusions) else { continue };
        if let Err(error) = route(target) {
            unreachable.push(format!("{target}: {error}"));
            continue;
        }
        let listener = listen(family).map_err(ProofError::Listen)?;
        let stream = TcpStream::connect_timeout(&target, PATIENCE);
        let stream = stream.map_err(|error| ProofError::Escaped { target, how: error.to_string() })?;
        arrived(&listener, &stream, target)?;
        proved.push(family);
    }
    if proved.is_empty() && !unreachable.is_empty() { Err(ProofError::NoRoute(unreachable.join("; "))) } else { Ok(proved) }
}

fn target(family: Family, exclusions: &Exclusions) -> Option<SocketAddr> {
    let of_family = |address: &&IpAddr| address.is_ipv4() == (family == Family::V4);
    let address = NOBODY.iter().filter(of_family).find(|address| !exclusions.outbound_cidrs.contain(**address))?;
    let port = (FIRST..).take(1024).find(|port| !exclusions.outbound_ports.contains(*port))?;
    Some(SocketAddr::new(*address, port))
}

/// Whether the kernel would send anything there; a datagram socket asks without sending.
fn route(target: SocketAddr) -> io::Result<()> {
    let any: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    UdpSocket::bind((any, 0))?.connect(target)
}

fn listen(family: Family) -> io::Result<TcpListener> {
    let (domain, any) = match family {
        Family::V4 => (Domain::IPV4, SocketAddr::from((Ipv4Addr::UNSPECIFIED, OUTBOUND))),
        Family::V6 => (Domain::IPV6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, OUTBOUND))),
    };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if family == Family::V6 {
        socket.set_only_v6(true)?;
    }
    socket.bind(&any.into())?;
    socket.listen(4)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Our own connection, with the destination that it had.
fn arrived(listener: &TcpListener, stream: &TcpStream, target: SocketAddr) -> Result<(), ProofError> {
    let escaped = |how: String| ProofError::Escaped { target, how };
    let own = stream.local_addr().map_err(|error| escaped(error.to_string()))?;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        match listener.accept() {
            Ok((accepted, peer)) if peer.port() == own.port() => {
                let socket = SockRef::from(&accepted);
                let original = if target.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
                let original = original.map_err(|error| escaped(format!("its original destination cannot be asked for: {error}")))?;
                return match original.as_socket() {
                    Some(address) if address.ip() == target.ip() && address.port() == target.port() => Ok(()),
                    other => Err(escaped(format!("it arrived with the destination {other:?}"))),
                };
            }
            // Somebody else in the pod is early.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(LOOK),
            Err(error) => return Err(escaped(error.to_string())),
        }
    }
    Err(escaped("somebody else answered it".into()))
}
