//! A bounded HTTP/1.1 server: one request a connection, a few connections at once, little time for each.

use super::answer::{Over, answer, probed};
use super::{Address, Serves, Watched};
use crate::probe;
use bytes::Bytes;
use http::header::USER_AGENT;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Socket, Type};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// Connections at once: probes, a scraper, a person. One more takes the place of the oldest that has not asked for anything.
const CONNECTIONS: usize = 32;
/// A request's head: whoever asks here has nothing to think about first.
const HEAD: Duration = Duration::from_secs(2);
/// A whole connection.
const TIME: Duration = Duration::from_secs(10);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// After an accept that failed (no file descriptors).
const PAUSE: Duration = Duration::from_millis(100);
/// A request's head.
const MAX_HEAD: usize = 16 * 1024;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address cannot be had.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// Which.
        address: Address,
        /// Why.
        error: io::Error,
    },
    /// Not everybody may look into a proxy.
    #[error("the admin address {0} is not on loopback; use 127.0.0.1:PORT or unix:PATH")]
    Exposed(Address),
}

/// A running server; dropping it ends it and its connections.
#[derive(Debug)]
pub struct Server {
    address: Address,
    task: JoinHandle<()>,
}

enum Listener {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Removed with it.
        _file: Place,
    },
}

/// A socket file of ours.
struct Place {
    path: PathBuf,
    /// Device and inode: another process may have put its own in its place.
    inode: (u64, u64),
}

/// A connection under way.
struct Open {
    task: AbortHandle,
    /// Its request has come.
    asked: Arc<AtomicBool>,
}

/// What connections are made of.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Server {
    /// Starts it on the current runtime.
    pub async fn start(address: &Address, serves: Serves, watched: Arc<dyn Watched>) -> Result<Self, AdminError> {
        if let (Address::Tcp(socket), Serves::Admin) = (address, serves)
            && !socket.ip().is_loopback()
        {
            return Err(AdminError::Exposed(address.clone()));
        }
        let bound = async {
            Ok(match address {
                Address::Tcp(socket) => {
                    let listener = tcp(*socket)?;
                    (Address::Tcp(listener.local_addr()?), Listener::Tcp(listener))
                }
                Address::Unix(path) => (address.clone(), unix(path)?),
            })
        };
        let (address, listener) = bound.await.map_err(|error| AdminError::Bind { address: address.clone(), error })?;
        Ok(Self { address, task: tokio::spawn(run(listener, serves, watched)) })
    }

    /// Where it listens; with the port it got where 0 was asked for.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|found| found == self.inode) {
            // Somebody may have removed it already.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    /// The next connection, how it came, and over TCP the address that was called.
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, Over, Option<IpAddr>)> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                let own = stream.local_addr().ok().map(|own| own.ip().to_canonical());
                (Box::new(stream), Over::Tcp, own)
            }
            Self::Unix { listener, .. } => (Box::new(listener.accept().await?.0), Over::Unix, None),
        })
    }
}

/// Of both families, where it is every address of IPv6.
fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// A socket file that an earlier process left is replaced; anything else is not.
fn unix(path: &Path) -> io::Result<Listener> {
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(Listener::Unix { listener, _file: Place { path: path.into(), inode: inode(path)? } })
}

async fn run(listener: Listener, serves: Serves, watched: Arc<dyn Watched>) {
    let mut connections = JoinSet::new();
    let mut open: VecDeque<Open> = VecDeque::new();
    loop {
        let Ok((stream, over, own)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        open.retain(|one| !one.task.is_finished());
        if open.len() >= CONNECTIONS {
            match open.iter().position(|one| !one.asked.load(Ordering::Relaxed)) {
                Some(silent) => drop(open.remove(silent).map(|one| one.task.abort())),
                // All of them are being answered, which takes a bounded time.
                None => drop(connections.join_next().await),
            }
        }
        let asked = Arc::new(AtomicBool::new(false));
        let task = connections.spawn(serve(stream, serves, over, own, watched.clone(), asked.clone()));
        open.push_back(Open { task, asked });
    }
}

/// `own`: the address that was called, which is where the pod's application is too.
async fn serve(
    stream: Box<dyn Stream>,
    serves: Serves,
    over: Over,
    own: Option<IpAddr>,
    watched: Arc<dyn Watched>,
    has_asked: Arc<AtomicBool>,
) {
    let probes = watched.probes();
    let service = service_fn(|request: Request<Incoming>| {
        let (watched, probes) = (&watched, &probes);
        has_asked.store(true, Ordering::Relaxed);
        async move {
            let (method, path, headers) = (request.method(), request.uri().path(), request.headers());
            let is_probe = serves == Serves::Health && path.starts_with(probe::PREFIX) && [Method::GET, Method::HEAD].contains(method);
            let asked = match own.filter(|_| is_probe) {
                Some(pod) => probes.ask(path, pod, headers.get(USER_AGENT)).await,
                None => None,
            };
            let response = asked.map_or_else(|| answer(serves, over, &**watched, method, path, headers), probed);
            Ok::<Response<Full<Bytes>>, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    // A client that went away or sent no HTTP is nobody's concern.
    let _ = timeout(TIME + probes.longest(), connection).await;
}
