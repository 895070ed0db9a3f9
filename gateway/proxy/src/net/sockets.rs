//! The sockets of a proxy, reconciled with each Snapshot: what stays is kept, what is new is bound, what is gone drains.

use super::accept::{Arrival, serve};
use super::closing::Closing;
use super::keepalive;
use super::worker::{Hand, Shared};
use crate::observe::labels::Accepted;
use pingora_proxy::ProxyHttp;
use selvage_config::resource::listener::Bind;
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

/// Connections the kernel holds for us while we are busy.
const BACKLOG: i32 = 1024;
/// A socket that could not be bound is tried again this often.
const RETRY: Duration = Duration::from_secs(1);
/// Out of file descriptors or memory: accepting rests so long instead of spinning.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Which sockets are open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The Snapshot they were last reconciled with.
    pub generation: u64,
    /// Open, with their addresses.
    pub bound: BTreeMap<Bind, Vec<SocketAddr>>,
    /// Not open, and why; tried again all the time.
    pub failures: BTreeMap<Bind, String>,
}

struct Socket {
    addresses: Vec<SocketAddr>,
    closing: Closing,
}

/// Hands connections to workers.
pub struct Workers<D> {
    /// Common to all.
    pub shared: Arc<Shared>,
    /// They.
    pub hands: Vec<Hand<D>>,
    /// Connections accepted and not yet ended.
    pub open: Arc<AtomicUsize>,
}

/// Counts a connection until dropped.
struct Counted(Vec<Arc<AtomicUsize>>);

impl Counted {
    fn new(counters: Vec<Arc<AtomicUsize>>) -> Self {
        for counter in &counters {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        Self(counters)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        for counter in &self.0 {
            counter.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl<D> Workers<D>
where
    D: ProxyHttp + Send + Sync + 'static,
    D::CTX: Send + Sync,
{
    /// Keeps the sockets as the Snapshots say, until the proxy drains.
    pub async fn reconcile(self: Arc<Self>, mut changes: watch::Receiver<u64>, status: watch::Sender<Status>, linger: Duration) {
        let mut sockets: BTreeMap<Bind, Socket> = BTreeMap::new();
        let closing = self.shared.closing.clone();
        while !closing.is_draining() {
            changes.mark_unchanged();
            let snapshot = self.shared.snapshot.load_full();
            let gone: Vec<Bind> = sockets.keys().filter(|bind| !snapshot.sockets.contains_key(bind)).copied().collect();
            for bind in gone {
                if let Some(socket) = sockets.remove(&bind) {
                    tracing::info!(?bind, "socket closed");
                    end(socket.closing, linger);
                }
            }
            self.shared.outlived(&snapshot).into_iter().for_each(|closing| end(closing, linger));
            self.shared.review(&snapshot).await;
            let mut failures = BTreeMap::new();
            for bind in snapshot.sockets.keys() {
                if sockets.contains_key(bind) {
                    continue;
                }
                match self.open(*bind) {
                    Ok(socket) => {
                        tracing::info!(?bind, addresses = ?socket.addresses, "socket opened");
                        sockets.insert(*bind, socket);
                    }
                    Err(error) => {
                        if !status.borrow().failures.contains_key(bind) {
                            tracing::warn!(?bind, %error, "socket cannot be opened; trying again");
                        }
                        failures.insert(*bind, format!("cannot listen on {}: {error}", shown(*bind)));
                    }
                }
            }
            let is_failing = !failures.is_empty();
            let bound = sockets.iter().map(|(bind, socket)| (*bind, socket.addresses.clone())).collect();
            status.send_replace(Status { generation: snapshot.generation, bound, failures });
            tokio::select! {
                () = closing.drained() => break,
                changed = changes.changed() => if changed.is_err() {
                    // No more changes can come; what failed is still tried.
                    tokio::select! { () = closing.drained() => break, () = sleep(RETRY), if is_failing => {} }
                },
                () = sleep(RETRY), if is_failing => {}
            }
        }
        status.send_modify(|status| status.bound.clear());
    }

    fn open(self: &Arc<Self>, bind: Bind) -> io::Result<Socket> {
        let listeners = listen(bind)?;
        let addresses = listeners.iter().map(|listener| listener.local_addr()).collect::<io::Result<_>>()?;
        let closing = self.shared.closing.child();
        let open = Arc::new(AtomicUsize::new(0));
        for listener in listeners {
            let listener = TcpListener::from_std(listener)?;
            tokio::spawn(self.clone().accept(listener, bind, closing.clone(), open.clone()));
        }
        Ok(Socket { addresses, closing })
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, bind: Bind, closing: Closing, open: Arc<AtomicUsize>) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = closing.drained() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.hand(stream, peer, bind, &closing, &open),
                // The client left while it waited; nothing is wrong here.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
                Err(error) => {
                    tracing::warn!(?bind, %error, "cannot accept; resting");
                    sleep(EXHAUSTED).await;
                }
            }
        }
    }

    fn hand(&self, stream: TcpStream, peer: SocketAddr, bind: Bind, closing: &Closing, open: &Arc<AtomicUsize>) {
        let is_full =
            self.open.load(Ordering::Relaxed) >= self.shared.max_connections || open.load(Ordering::Relaxed) >= self.shared.max_per_socket;
        if is_full {
            self.shared.metrics.connections.accepted(Accepted::Limited);
            return;
        }
        let Some((place, hand)) = self.hands.iter().enumerate().min_by_key(|(_, hand)| hand.load.load(Ordering::Relaxed)) else { return };
        let counted = Counted::new(vec![self.open.clone(), open.clone(), hand.load.clone()]);
        let (worker, closing) = (hand.worker.clone(), closing.child());
        // Sockets are accepted on the first worker's runtime; only those of others move to another reactor.
        let moved = if place == 0 { Moved::Here(stream) } else { stream.into_std().map_or(Moved::Lost, Moved::There) };
        hand.handle.spawn(async move {
            let _counted = counted;
            let stream = match moved {
                Moved::Here(stream) => stream,
                Moved::There(stream) => match TcpStream::from_std(stream) {
                    Ok(stream) => stream,
                    Err(_) => return,
                },
                Moved::Lost => return,
            };
            serve(worker, Arrival { stream, peer, bind, closing }).await;
        });
    }
}

/// A connection on its way to a worker.
enum Moved {
    Here(TcpStream),
    There(std::net::TcpStream),
    Lost,
}

/// Asks for the end, and enforces it after a while.
fn end(closing: Closing, linger: Duration) {
    closing.drain();
    tokio::spawn(async move {
        sleep(linger).await;
        closing.abort();
    });
}

fn shown(bind: Bind) -> String {
    match bind {
        Bind::Bound(address) => address.to_string(),
        Bind::Captured(port) => format!("port {port} of all addresses"),
    }
}

fn listen(bind: Bind) -> io::Result<Vec<std::net::TcpListener>> {
    match bind {
        Bind::Bound(address) => Ok(vec![listen_on(address)?]),
        Bind::Captured(port) => {
            let mut listeners = vec![listen_on((Ipv4Addr::UNSPECIFIED, port).into())?];
            match listen_on((Ipv6Addr::UNSPECIFIED, port).into()) {
                Ok(listener) => listeners.push(listener),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
                // A pod without IPv6 is complete without it.
                Err(error) => tracing::debug!(port, %error, "no IPv6 socket"),
            }
            Ok(listeners)
        }
    }
}

fn listen_on(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // One socket a family: the original destination of a v4-mapped connection cannot be asked for.
        socket.set_only_v6(true)?;
    }
    // Connections inherit it: a client that is gone without a word is found out.
    socket.set_tcp_keepalive(&keepalive::probes())?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
