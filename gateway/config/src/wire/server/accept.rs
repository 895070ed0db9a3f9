//! From a listening socket to TLS connections that carry the service.

use super::connection::{Connection, Places};
use super::{Configuration, Limits};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Connections whose handshake is done, on their way to the server.
const READY: usize = 64;
/// For one handshake: whoever takes longer is cut off, so that idle strangers hold no place.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How often, and how patiently, a silent connection is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Wait after an error of accept itself (file descriptors used up), so that it is not a busy loop.
const AFTER_ERROR: Duration = Duration::from_millis(100);
/// Streams of one connection: a client has one, and one more while it reconnects.
const STREAMS_PER_CONNECTION: u32 = 4;
/// At the end, for streams to finish.
const GRACE: Duration = Duration::from_secs(5);

/// The server ended otherwise than by being told to.
#[derive(Debug, thiserror::Error)]
#[error("the configuration server failed: {0}")]
pub struct ServeError(#[from] tonic::transport::Error);

pub(super) async fn serve(
    service: Configuration,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let mut tls = (*tls).clone();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let (ready, connections) = mpsc::channel(READY);
    let limits = service.0.limits.clone();
    let accepting = tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(tls)), limits, ready, stop.clone()));
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .serve_with_incoming_shutdown(service, ReceiverStream::new(connections), stop.clone().cancelled_owned());
    let cut_off = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    let outcome = tokio::select! {
        outcome = server => outcome,
        () = cut_off => Ok(()),
    };
    accepting.abort();
    outcome.map_err(ServeError)
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    limits: Limits,
    ready: mpsc::Sender<io::Result<Connection>>,
    stop: CancellationToken,
) {
    let places = Places::new(limits.connections, limits.connections_of_one_address);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection to the configuration server could not be accepted");
                tokio::time::sleep(AFTER_ERROR).await;
                continue;
            }
        };
        // Whoever finds none is closed at once: waiting in the listen queue it would be in the way of others.
        let Some(place) = places.take(peer.ip().to_canonical()) else {
            tracing::debug!(%peer, "there are too many connections to the configuration server: this one is closed");
            continue;
        };
        let (acceptor, ready, stop, patience) = (acceptor.clone(), ready.clone(), stop.clone(), limits.hello);
        // Ends by itself: with the connection, in time, or when the server stops.
        tokio::spawn(async move {
            let serving = async {
                match handshake(acceptor, socket).await {
                    Ok(stream) => {
                        let (connection, watched) = Connection::new(stream, peer, place, patience);
                        if ready.send(Ok(connection)).await.is_ok() {
                            watched.await;
                        }
                    }
                    Err(error) => log_failed_handshake(peer, &error),
                }
            };
            tokio::select! {
                () = serving => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

async fn handshake(acceptor: TlsAcceptor, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    socket.set_nodelay(true)?;
    tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn log_failed_handshake(peer: SocketAddr, error: &io::Error) {
    tracing::debug!(%peer, %error, "a TLS handshake with the configuration server failed");
}
