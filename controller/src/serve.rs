//! The servers of webhooks, health and figures: over TLS or plain, bounded in connections, bytes and time.
//!
//! ```text
//! accept ──place, of all and of this peer──► TLS ──within FIRST──► request ──within IDLE──► request ──► …
//! ```
//!
//! Everybody in the cluster reaches these ports. Whoever connects and says nothing holds a place of its own peer for a moment, and no
//! place of the API server or the kubelet.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use rustls::ServerConfig;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Connections at once; the rest waits in the listener's queue.
const MOST_CONNECTIONS: usize = 512;
/// Connections of one address at once; the rest is closed. An API server has a few for each webhook.
const MOST_OF_A_PEER: usize = 32;
/// The head of a request takes no longer.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// A whole request takes no longer: the API server gives up after ten seconds.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Streams of one HTTP/2 connection.
const MOST_STREAMS: u32 = 128;
/// For a client to take note that its connection ends.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long a connection may stay without a request.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From the moment it was accepted, handshake included, to the first request.
    pub first: Duration,
    /// From one request to the next.
    pub idle: Duration,
}

/// As it is in a cluster. The API server closes idle connections itself, after 90 seconds.
pub const PATIENCE: Patience = Patience { first: Duration::from_secs(10), idle: Duration::from_secs(120) };

/// Serves until `end`; requests under way may finish. Without `tls` plain.
pub async fn serve(listener: TcpListener, tls: Option<Arc<ServerConfig>>, router: Router, patience: Patience, end: CancellationToken) {
    let acceptor = tls.map(|tls| {
        let mut tls = (*tls).clone();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(tls))
    });
    let (places, peers) = (Arc::new(Semaphore::new(MOST_CONNECTIONS)), Arc::new(Peers::default()));
    let mut connections = JoinSet::new();
    loop {
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place,
            () = end.cancelled() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = end.cancelled() => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((socket, peer)) => {
                let Some(share) = peers.clone().admit(peer.ip().to_canonical()) else { continue };
                let connection = connection(acceptor.clone(), socket, router.clone(), patience, end.clone());
                connections.spawn(async move {
                    connection.await;
                    drop((place, share));
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    let finish = async { while connections.join_next().await.is_some() {} };
    if timeout(REQUEST_DEADLINE, finish).await.is_err() {
        connections.shutdown().await;
    }
}

async fn connection(acceptor: Option<TlsAcceptor>, socket: TcpStream, router: Router, patience: Patience, end: CancellationToken) {
    let first = Instant::now() + patience.first;
    let Some(acceptor) = acceptor else { return requests(socket, router, first, patience.idle, end).await };
    if let Ok(Ok(stream)) = tokio::time::timeout_at(first, acceptor.accept(socket)).await {
        requests(stream, router, first, patience.idle, end).await;
    }
}

async fn requests<S>(stream: S, router: Router, first: Instant, idle: Duration, end: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity(Mutex::new((0, first))));
    let counted = activity.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, under_way) = (TowerToHyperService::new(router.clone()), UnderWay::begin(counted.clone(), idle));
        async move {
            let response = timeout(REQUEST_DEADLINE, router.call(request)).await;
            drop(under_way);
            Ok::<_, Infallible>(response.unwrap_or_else(|_| Ok(too_slow())).unwrap_or_else(|never| match never {}))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(MOST_STREAMS).keep_alive_interval(Some(Duration::from_secs(30)));
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = activity.too_long() => {
            connection.as_mut().graceful_shutdown();
            timeout(GOODBYE, connection).await.unwrap_or(Ok(()))
        }
        () = end.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(error, "a connection broke");
    }
}

/// Requests under way on one connection, and until when the next must come where there are none.
struct Activity(Mutex<(usize, Instant)>);

impl Activity {
    /// Ends once there was no request for too long.
    async fn too_long(&self) {
        loop {
            let (under_way, until) = *self.0.lock();
            let now = Instant::now();
            if under_way == 0 && until <= now {
                return;
            }
            // While one is under way, its own deadline says when to look again.
            tokio::time::sleep_until(if under_way == 0 { until } else { now + REQUEST_DEADLINE }).await;
        }
    }
}

struct UnderWay(Arc<Activity>, Duration);

impl UnderWay {
    fn begin(activity: Arc<Activity>, idle: Duration) -> Self {
        activity.0.lock().0 += 1;
        Self(activity, idle)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut activity = self.0.0.lock();
        activity.0 -= 1;
        activity.1 = Instant::now() + self.1;
    }
}

/// How many connections each address has.
#[derive(Default)]
struct Peers(Mutex<HashMap<IpAddr, usize>>);

impl Peers {
    /// A place for one more of `peer`, until it is dropped; none, if it has as many as it may.
    fn admit(self: Arc<Self>, peer: IpAddr) -> Option<Share> {
        let mut counts = self.0.lock();
        let count = counts.entry(peer).or_default();
        if *count >= MOST_OF_A_PEER {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Share { peers: self, peer })
    }
}

struct Share {
    peers: Arc<Peers>,
    peer: IpAddr,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self.peers.0.lock();
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

fn too_slow() -> Response<Body> {
    let mut response = Response::new(Body::from("the request took too long"));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpSocket;

    const SOON: Patience = Patience { first: Duration::from_millis(300), idle: Duration::from_millis(300) };

    async fn served(patience: Patience) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = Router::new().route("/", get(|| async { "here" }));
        // Ends with the test.
        tokio::spawn(serve(listener, None, router, patience, CancellationToken::new()));
        address
    }

    /// A connection from this address of loopback.
    async fn from(own: [u8; 4], to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from((own, 0))).expect("an address of loopback");
        socket.connect(to).await.expect("a connection")
    }

    async fn ask(stream: &mut TcpStream) -> std::io::Result<String> {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"here") {
            let mut chunk = [0; 1024];
            let count = stream.read(&mut chunk).await?;
            if count == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            answer.extend_from_slice(&chunk[..count]);
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    async fn is_closed(stream: &mut TcpStream) -> bool {
        let read = timeout(Duration::from_secs(30), stream.read(&mut [0; 16])).await;
        matches!(read, Ok(Ok(0) | Err(_)))
    }

    #[tokio::test]
    async fn silent_connections_are_closed_before_the_first_request_and_between_two() {
        let address = served(SOON).await;
        let mut silent = from([127, 0, 0, 1], address).await;
        assert!(is_closed(&mut silent).await, "it may stay without ever asking");
        let address = served(Patience { first: Duration::from_secs(60), ..SOON }).await;
        let mut asked = from([127, 0, 0, 1], address).await;
        assert!(ask(&mut asked).await.expect("an answer").starts_with("HTTP/1.1 200"));
        assert!(is_closed(&mut asked).await, "it may stay without asking again");
    }

    #[tokio::test]
    async fn whoever_holds_many_connections_takes_no_place_from_others() {
        let address = served(PATIENCE).await;
        let mut greedy = Vec::new();
        for _ in 0..2 * MOST_OF_A_PEER {
            greedy.push(from([127, 0, 0, 2], address).await);
        }
        // What is more than its share is closed at once.
        let last = greedy.last_mut().expect("a connection");
        assert!(is_closed(last).await);
        let mut other = from([127, 0, 0, 3], address).await;
        assert!(timeout(Duration::from_secs(30), ask(&mut other)).await.expect("in time").expect("an answer").contains("200 OK"));
        // And a place that is given back can be had again.
        drop(greedy);
        for attempt in 0.. {
            let mut again = from([127, 0, 0, 2], address).await;
            if ask(&mut again).await.is_ok() {
                return;
            }
            assert!(attempt < 300, "its places do not come back");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
