//! An application that answers everything and remembers what reached it.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its method.
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// The authority: of the URI, else the Host field.
    pub host: String,
    /// Its version.
    pub version: Version,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// The running application. It ends when it is dropped.
#[derive(Debug)]
pub struct Recorder {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Recorder {
    /// Starts it on `address`: HTTP/1.1, and HTTP/2 by prior knowledge.
    ///
    /// It answers 200 with `method target host` as its body; a gRPC call with an empty message stream and status 0. A path that begins
    /// with `/status/<code>` is answered with that code, `/slow/<milliseconds>` after that time.
    pub async fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        let address = listener.local_addr().expect("a bound socket has an address");
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let all = seen.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                        connections.spawn(serve(stream, all.clone()));
                    },
                    Some(_) = connections.join_next(), if !connections.is_empty() => {}
                }
            }
        });
        Self { address, seen, task }
    }

    /// What arrived since the last time this was asked.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().expect("nobody panicked"))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, seen: Arc<Mutex<Vec<Seen>>>) {
    let mut first = [0; 4];
    // Every request has four bytes; a peer that sends fewer is gone soon.
    let speaks = loop {
        match stream.peek(&mut first).await {
            Ok(4) => break &first == b"PRI ",
            Ok(0) | Err(_) => return,
            Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(stream);
    let service = service_fn(move |request| answer(request, seen.clone()));
    // A connection that breaks off is a matter for the test, which sees what arrived.
    if speaks {
        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(io, service).await;
    }
}

type Body = BoxBody<Bytes, Infallible>;

async fn answer(request: Request<Incoming>, seen: Arc<Mutex<Vec<Seen>>>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let field = head.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    let host = head.uri.authority().map(|authority| authority.as_str()).or(field).unwrap_or_default().to_string();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str()).to_string();
    let text = format!("{} {target} {host}", head.method);
    let grpc = head.headers.get(http::header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let arrived =
        Seen { method: head.method.to_string(), target: target.clone(), host, version: head.version, headers: head.headers, body };
    seen.lock().expect("nobody panicked").push(arrived);
    let number = |prefix: &str| target.strip_prefix(prefix).and_then(|rest| rest.split(['/', '?']).next()?.parse::<u16>().ok());
    if let Some(pause) = number("/slow/") {
        tokio::time::sleep(Duration::from_millis(pause.into())).await;
    }
    let mut frames = vec![Ok(Frame::data(Bytes::from(text)))];
    let mut response = Response::builder().status(number("/status/").unwrap_or(200)).header("x-application", "recorder");
    if grpc {
        frames.clear();
        frames.push(Ok(Frame::trailers(HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("0"),
        )]))));
        response = response.header(http::header::CONTENT_TYPE, "application/grpc");
    }
    Ok(response.body(BodyExt::boxed(StreamBody::new(futures::stream::iter(frames)))).expect("a response of plain parts"))
}
