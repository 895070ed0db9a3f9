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
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// Connections at once: probes, a scraper, a person.
const CONNECTIONS: usize = 32;
/// A whole connection.
const TIME: Duration = Duration::from_secs(10);
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
    Unix(UnixListener, PathBuf),
}

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
                    let listener = TcpListener::bind(socket).await?;
                    (Address::Tcp(listener.local_addr()?), Listener::Tcp(listener))
                }
                Address::Unix(path) => (address.clone(), Listener::Unix(unix(path)?, path.clone())),
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

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // Somebody may have removed it already.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket file that an earlier process left is replaced; anything else is not.
fn unix(path: &Path) -> io::Result<UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn run(listener: Listener, serves: Serves, watched: Arc<dyn Watched>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let watched = watched.clone();
        match &listener {
            Listener::Tcp(listener) => match listener.accept().await {
                Ok((stream, _)) => connections.spawn(async move {
                    let own = stream.local_addr().ok().map(|own| own.ip().to_canonical());
                    serve(stream, serves, Over::Tcp, own, watched).await;
                    drop(place);
                }),
                Err(_) => {
                    sleep(PAUSE).await;
                    continue;
                }
            },
            Listener::Unix(listener, _) => match listener.accept().await {
                Ok((stream, _)) => connections.spawn(async move {
                    serve(stream, serves, Over::Unix, None, watched).await;
                    drop(place);
                }),
                Err(_) => {
                    sleep(PAUSE).await;
                    continue;
                }
            },
        };
    }
}

/// `own`: the address that was called, which is where the pod's application is too.
async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, serves: Serves, over: Over, own: Option<IpAddr>, watched: Arc<dyn Watched>) {
    let probes = watched.probes();
    let service = service_fn(|request: Request<Incoming>| {
        let (watched, probes) = (&watched, &probes);
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
        .header_read_timeout(TIME)
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    // A client that went away or sent no HTTP is nobody's concern.
    let _ = timeout(TIME + probes.longest(), connection).await;
}
