//! The page of every proxy: a controller serves it, `selvage status` reads it.

use crate::publish::{Listing, Publisher};
use crate::world::PLATFORM_NAMESPACE;
use axum::body::Body;
use axum::routing::get;
use axum::{Json, Router};
use http::{Request, Uri};
use hyper_util::rt::TokioIo;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Where it is.
pub const PATH: &str = "/status";
/// The controller's Service in a cluster, and the name of the port that serves the page.
const SERVICE: &str = "selvage-controller:metrics";
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a Service is asked until a replica answers that does not stand by: it chooses one at random each time.
const ATTEMPTS: usize = 20;
/// Bytes of the largest answer: tens of thousands of proxies.
const LARGEST: usize = 64 << 20;

/// `GET /status`: every proxy and how far it is, as JSON. It tells names, releases and how far each is, and no configuration.
pub fn page(publisher: Arc<Publisher>) -> Router {
    Router::new().route(PATH, get(move || std::future::ready(Json(publisher.listing()))))
}

/// Serves the page, alone, until `stop` is cancelled.
pub async fn serve(listener: TcpListener, publisher: Arc<Publisher>, stop: CancellationToken) -> io::Result<()> {
    axum::serve(listener, page(publisher)).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// Why the proxies cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// What was given is no place to read from.
    #[error("`{0}` is not the address of a controller: write http://HOST:PORT")]
    Url(String),
    /// Nobody answers as a controller does.
    #[error("{place} cannot be read: {problem}")]
    Place {
        /// Where.
        place: String,
        /// Why.
        problem: String,
    },
    /// The cluster that kubectl would speak to does not answer.
    #[error(
        "the controller in the cluster cannot be read: {0}; is Selvage installed in namespace {PLATFORM_NAMESPACE}, and may you read its Service?"
    )]
    Cluster(String),
}

/// Reads it from `http://HOST:PORT`.
pub async fn read(url: &str) -> Result<Listing, ReadError> {
    let uri: Uri = url.parse().map_err(|_| ReadError::Url(url.into()))?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(|| ReadError::Url(url.into()))?;
    let failed = |problem: String| ReadError::Place { place: url.into(), problem };
    let fetched = tokio::time::timeout(PATIENCE, fetch(authority, uri.path())).await;
    let bytes = fetched.map_err(|_| failed(format!("no answer within {} s", PATIENCE.as_secs())))?.map_err(failed)?;
    serde_json::from_slice(&bytes).map_err(|error| failed(format!("it is no list of proxies: {error}")))
}

async fn fetch(authority: &http::uri::Authority, path: &str) -> Result<Vec<u8>, String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let address = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(address).await.map_err(|error| text(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| text(&error))?;
    let path = if path.is_empty() || path == "/" { PATH } else { path };
    let request = Request::get(path).header(http::header::HOST, authority.as_str()).body(Body::empty()).map_err(|error| text(&error))?;
    let ask = async {
        let response = sender.send_request(request).await.map_err(|error| text(&error))?;
        if !response.status().is_success() {
            return Err(format!("it answers {}", response.status()));
        }
        axum::body::to_bytes(Body::new(response.into_body()), LARGEST).await.map_err(|error| text(&error))
    };
    // The connection is driven for as long as the answer takes, and ends with it.
    tokio::select! {
        answer = ask => answer.map(|bytes| bytes.to_vec()),
        ended = connection => Err(ended.map_or_else(|error| text(&error), |()| "the connection was closed before an answer".into())),
    }
}

/// Reads it from the cluster that kubectl would speak to, through the API server.
pub async fn read_cluster() -> Result<Listing, ReadError> {
    let failed = |error: kube::Error| ReadError::Cluster(error.to_string());
    let client = kube::Client::try_default().await.map_err(failed)?;
    let path = format!("/api/v1/namespaces/{PLATFORM_NAMESPACE}/services/{SERVICE}/proxy{PATH}");
    for _ in 0..ATTEMPTS {
        let request = Request::get(&path).body(Vec::new()).map_err(|error| ReadError::Cluster(error.to_string()))?;
        let answer = tokio::time::timeout(PATIENCE, client.request_text(request)).await;
        let text = answer.map_err(|_| ReadError::Cluster(format!("no answer within {} s", PATIENCE.as_secs())))?.map_err(failed)?;
        let listing: Listing = serde_json::from_str(&text)
            .map_err(|error| ReadError::Cluster(format!("it does not answer with a list of proxies: {error}")))?;
        if !listing.stands_by {
            return Ok(listing);
        }
    }
    Err(ReadError::Cluster("every replica that answers stands by for another; try again in a moment".into()))
}
