//! The server of the webhooks: TLS, bounded in connections, bytes and time.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Connections at once: API servers have a few; the rest waits in the listener's queue.
const MOST_CONNECTIONS: usize = 128;
/// A handshake, or the head of a request, takes no longer.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// A whole request takes no longer: the API server gives up after ten seconds.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Streams of one HTTP/2 connection.
const MOST_STREAMS: u32 = 128;

/// Serves until `end`; requests under way may finish.
pub async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, router: Router, end: CancellationToken) {
    let (acceptor, places) = (TlsAcceptor::from(tls), Arc::new(Semaphore::new(MOST_CONNECTIONS)));
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
            Ok((socket, _)) => {
                let connection = connection(acceptor.clone(), socket, router.clone(), end.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the webhooks was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    let finish = async { while connections.join_next().await.is_some() {} };
    if timeout(REQUEST_DEADLINE, finish).await.is_err() {
        connections.shutdown().await;
    }
}

async fn connection(acceptor: TlsAcceptor, socket: TcpStream, router: Router, end: CancellationToken) {
    let Ok(Ok(stream)) = timeout(HEAD_DEADLINE, acceptor.accept(socket)).await else { return };
    let service = service_fn(move |request: Request<Incoming>| {
        let router = TowerToHyperService::new(router.clone());
        async move {
            let response = timeout(REQUEST_DEADLINE, router.call(request)).await;
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
        () = end.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(error, "a connection to the webhooks broke");
    }
}

fn too_slow() -> Response<Body> {
    let mut response = Response::new(Body::from("the request took too long"));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}
