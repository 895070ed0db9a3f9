//! Calls from one service to another, as an ordinary application makes them: plain HTTP, trace headers passed on.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// Headers that an application passes on so that its calls belong to the caller's trace.
const PASSED_ON: [&str; 3] = ["traceparent", "tracestate", "x-request-id"];

/// Larger answers are refused.
const MOST_BYTES: usize = 1 << 20;

/// A client for the other services.
#[derive(Clone, Debug)]
pub struct Peers {
    http: Client<HttpConnector, Full<Bytes>>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body: JSON, or the text as it was.
    pub body: Value,
}

impl Peers {
    /// A client with a pool of its own.
    pub fn new() -> Self {
        Self { http: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// Calls `service` on behalf of `request`.
    pub async fn call(&self, service: &str, method: Method, path: &str, request: &Parts, more: &HeaderMap) -> anyhow::Result<Answer> {
        let uri: Uri = format!("http://{}{path}", address(service)?).parse()?;
        let mut outgoing = Request::builder().method(method).uri(uri).body(Full::default())?;
        for name in PASSED_ON {
            if let Some(value) = request.headers.get(name) {
                outgoing.headers_mut().insert(HeaderName::from_static(name), value.clone());
            }
        }
        outgoing.headers_mut().extend(more.clone());
        let (head, body) = self.http.request(outgoing).await?.into_parts();
        let bytes = Limited::new(body, MOST_BYTES).collect().await.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

/// The address of a Service as Kubernetes tells it: `ORDERS_SERVICE_HOST` and `ORDERS_SERVICE_PORT`.
fn address(service: &str) -> anyhow::Result<String> {
    let prefix = service.to_uppercase().replace('-', "_");
    let variable = |name: String| {
        std::env::var(&name)
            .map_err(|_| anyhow::anyhow!("{name} is not set: run the bookshop with `selvage up`, or set it to the address of {service}"))
    };
    Ok(format!("{}:{}", variable(format!("{prefix}_SERVICE_HOST"))?, variable(format!("{prefix}_SERVICE_PORT"))?))
}

/// Headers somebody asks us to send, from request headers `x-send: name: value`: to try what an application can forge.
pub fn asked_for(request: &Parts) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in request.headers.get_all("x-send") {
        let Some((name, value)) = line.to_str().ok().and_then(|line| line.split_once(':')) else { continue };
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name.trim()), HeaderValue::try_from(value.trim())) {
            headers.append(name, value);
        }
    }
    headers
}
