//! The server: one port, HTTP/1.1 and HTTP/2, until SIGTERM or SIGINT.

use crate::client::Peers;
use crate::counters::Counters;
use crate::reply::Body;
use crate::{Role, catalogue, grpc, orders, storefront, trial};
use anyhow::Context;
use http::{Request, Response, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// How long requests in flight may take after SIGTERM.
const DRAIN: Duration = Duration::from_secs(5);

/// What the requests of one process share.
#[derive(Debug)]
struct Shop {
    role: Role,
    peers: Peers,
    counters: Counters,
}

/// Serves `role` on `listen` until it is told to end; requests in flight are finished.
pub async fn serve(role: Role, listen: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    eprintln!("{} listens on {listen}", role.name());
    let shop = Arc::new(Shop { role, peers: Peers::new(), counters: Counters::default() });
    let graceful = GracefulShutdown::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // The client gave up, or file descriptors ran out for the moment; the next one may do better.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        };
        // Small answers must not wait for more (RFC 896); where the option is not to be had, they do.
        let _ = stream.set_nodelay(true);
        let shop = shop.clone();
        let service = service_fn(move |request| {
            let shop = shop.clone();
            async move { Ok::<_, Infallible>(shop.answer(request).await) }
        });
        let server = auto::Builder::new(TokioExecutor::new());
        let connection = graceful.watch(server.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned());
        // Owned by `graceful`, which waits for it below; an error concerns that client alone.
        tokio::spawn(async move { drop(connection.await) });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        eprintln!("{} ends with requests in flight", role.name());
    }
    Ok(())
}

impl Shop {
    async fn answer(&self, mut request: Request<Incoming>) -> Response<Body> {
        self.counters.count(request.uri().path());
        let upgrade = request.headers().contains_key(header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
        let is_grpc = request.headers().get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        if is_grpc && matches!(self.role, Role::Catalogue) {
            return grpc::answer(request.map(Body::new)).await;
        }
        let (request, _body) = request.into_parts();
        if let Some(answer) = trial::answer(self.role, &request, &self.counters, upgrade).await {
            return answer;
        }
        match self.role {
            Role::Storefront => storefront::answer(&self.peers, &request).await,
            Role::Catalogue => catalogue::answer(&request),
            Role::Orders => orders::answer(&request),
        }
    }
}
